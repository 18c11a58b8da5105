"""Maps of large images, strip by strip or at some pixels: memory follows these. Large images in a smaller size."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:  # an exported model's images are shrunk where there is no torch
    from torch import Tensor

MOST_VALUES = 1 << 24
"""Of a strip, 64 MB. Six classes at 1920×1080 are one strip."""


MOST_PIXELS = 1 << 21
"""Of an image whose instances are told apart at its own size, 1920×1080: a lane pixel takes hundreds of bytes then."""


def shrunk(image: np.ndarray, most: int | float) -> np.ndarray:
    """An image (H, W, 3) in the same aspect, (h, w, 3) of at most ``most`` pixels; one that has no more as it is."""
    height, width = image.shape[:2]
    if height * width <= most:
        return image
    share = math.sqrt(most / (height * width))
    sides = (max(1, min(int(share * side), int(most))) for side in (width, height))
    return cv2.resize(image, tuple(sides), interpolation=cv2.INTER_AREA)


def enlarged(result: dict, size: tuple[int, int]) -> dict:
    """A ``LaneResult`` of an image that was shrunk, in the pixels of the image itself.

    Args:
        result: masks (h, w).
        size: (H, W) of the image.

    Returns:
        Masks (H, W), each pixel as the one that it fell on, and points that are moved along.
    """
    small = result["semantic_mask"].shape
    if small == tuple(size):
        return result
    rows, columns = ((2 * np.arange(many) + 1) * few // (2 * many) for many, few in zip(size, small, strict=True))
    scale = np.array(size[::-1]) / small[::-1]
    result = {**result, "semantic_mask": result["semantic_mask"].astype(np.uint8)}
    for name in ("semantic_mask", "lane_instances", "crosswalk_instances"):
        result[name] = result[name].take(rows, axis=0).take(columns, axis=1)
    for name in ("lane_centers", "crosswalk_centers"):
        result[name] = (result[name] + 0.5) * scale - 0.5
    return {**result, "lane_polylines": [(line + 0.5) * scale - 0.5 for line in result["lane_polylines"]]}


def upsampled_strips(x: "Tensor", size: tuple[int, int]) -> "Iterator[tuple[int, Tensor]]":
    """The rows of a map as ``models.upsample_to`` gives it, some at a time.

    Args:
        x: (1, C, h, w).
        size: (H, W).

    Yields:
        The first row of a strip, and the strip (C, rows, W). A map of one strip equals the whole bit for bit.
    """
    import torch
    import torch.nn.functional as F

    (channels, length, _), (height, width) = x.shape[1:], size
    rows = max(1, MOST_VALUES // (channels * width))
    for top in range(0, height, rows):
        strip, count = x, min(rows, height - top)
        if count < height:  # pixel centres stay where they are; beyond the outermost ones the edge goes on
            row = torch.arange(top, top + count, dtype=torch.float64, device=x.device)
            place = ((row + 0.5) * (length / height) - 0.5).clamp(0, length - 1)
            above = place.long()
            share = (place - above).to(x.dtype)[:, None]  # (rows, 1)
            strip = torch.lerp(x[:, :, above], x[:, :, (above + 1).clamp(max=length - 1)], share)  # (1, C, rows, w)
        yield top, F.interpolate(strip, (count, width), mode="bilinear", align_corners=False)[0]


def values_at(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps read at pixels of a larger image, as ``losses.gather_embeddings`` reads them: (D, h, w) → (n, D).

    Args:
        maps: (D, h, w) float, such as embeddings.
        rows, columns: (n,) integers, pixels of the larger image.
        size: (H, W) of that image.
    """
    if maps.shape[1:] == size:
        return maps[:, rows, columns].T
    table = np.ascontiguousarray(np.moveaxis(maps, 0, 2))  # (h, w, D): the vector of a cell lies in one piece
    (top, bottom, down), (left, right, across) = (
        _neighbours(at, few, many, table.dtype)
        for at, few, many in zip((rows, columns), table.shape, size, strict=False)
    )
    above, below = ((1 - across) * table[row, left] + across * table[row, right] for row in (top, bottom))  # (n, D)
    return (1 - down) * above + down * below


def _neighbours(at: np.ndarray, few: int, many: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First cell, second cell and the way to it (n, 1): pixels are squares, the edge goes on beyond the last centre."""
    place = ((at.astype(dtype) + 0.5) * (few / many) - 0.5).clip(0, few - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, few - 1), (place - first).astype(dtype)[:, None]
