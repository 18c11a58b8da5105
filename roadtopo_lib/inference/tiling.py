"""Large images in overlapping tiles: class probabilities without seams.

A tile lacks context at its border and counts less there. Tiles begin at multiples of the networks' stride, where
pooling groups the pixels as in the whole image: a convolutional network differs from the whole image only within its
receptive field of a tile's border. Normalisation over the image (group, instance) and attention differ everywhere.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from roadtopo_lib.config import STRIDE
from roadtopo_lib.models import LaneModel, class_logits


def tiled_predict(model: LaneModel, image: Tensor, tile: int = 512, overlap: int = 64) -> Tensor:
    """Class probabilities of an image of any size, also smaller than a tile.

    Args:
        model: in evaluation mode.
        image: (3, H, W) float in [0, 1], on the model's device.
        tile: side of a tile in pixels, a multiple of ``config.STRIDE``.
        overlap: pixels that neighbouring tiles share at least, 0..tile − ``config.STRIDE``.

    Returns:
        (C, H, W) float32 probabilities, C at least 2: the tiles' softmax, averaged.

    Raises:
        ValueError: an argument out of range, or a model in training mode.
    """
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode, expected evaluation mode: call model.eval()")
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(f"image must be float (3, H, W), got {image.dtype} {tuple(image.shape)}")

    def run(top: int, left: int) -> Tensor:
        return tile_outputs(model, image[:, top : top + tile, left : left + tile])["probabilities"]

    probabilities = image.new_empty((model.num_classes, *image.shape[1:]), dtype=torch.float32)
    with torch.inference_mode():
        for top, left, block in blend(run, tuple(image.shape[1:]), tile, overlap):
            probabilities[:, top : top + block.shape[1], left : left + block.shape[2]] = block
    return probabilities


def blend(
    run: Callable[[int, int], Tensor], size: tuple[int, int], tile: int, overlap: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Averages what ``run`` (top, left) gives for each tile, (C, h, w), and yields blocks: top, left, (C, n, m).

    A block comes as soon as no tile adds to it. Held are one tile, and of the image's width the rows that tiles share.
    """
    rows, columns = (tile_starts(length, tile, overlap) for length in size)
    ramp = torch.arange(1, tile + 1).minimum(torch.arange(tile, 0, -1)) / (overlap + 1)
    ramp = torch.sin(math.pi / 2 * ramp.clamp(max=1)) ** 2  # (tile,), positive
    above = None  # (C + 1, n, W), what the tiles above add to the rows below them
    for top, below in zip(rows, [*rows[1:], size[0]], strict=True):
        beside, done, rest = None, below - top, []
        for left, behind in zip(columns, [*columns[1:], size[1]], strict=True):
            values = run(top, left)  # (C, h, w), smaller than a tile at the image's end
            weight = (ramp[: values.shape[1], None] * ramp[: values.shape[2]]).to(values)
            sums = torch.cat([values * weight, weight[None]])  # (C + 1, h, w): the last channel sums the weights
            if beside is not None:
                sums[:, :, : beside.shape[2]] += beside
            sums, beside = sums.tensor_split([behind - left], dim=2)
            if above is not None:
                sums[:, : above.shape[1]] += above[:, :, left:behind]
            yield top, left, sums[:-1, :done] / sums[-1, :done]
            rest.append(sums[:, done:].clone())  # without the tile that it is cut from
        above = torch.cat(rest, dim=2)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along a side: evenly spread multiples of ``config.STRIDE``; the last may reach over.

    Raises:
        ValueError: tile or overlap out of range.
    """
    if tile < STRIDE or tile % STRIDE or not 0 <= overlap <= tile - STRIDE:
        expected = f"a multiple of {STRIDE}, and an overlap from 0 to {STRIDE} less"
        raise ValueError(f"tile is {tile} and overlap {overlap}, expected {expected}")
    last, step = max(0, -(-(length - tile) // STRIDE)), (tile - overlap) // STRIDE  # in strides
    count = -(-last // step)
    return [STRIDE * (last * k // count) for k in range(count + 1)] if count else [0]


def tile_outputs(model: LaneModel, pixels: Tensor) -> dict[str, Tensor]:
    """``probabilities`` (C, h, w) and ``embeddings`` (1, D, h, w) of a tile (3, h, w).

    The network sees it padded to multiples of its ``side_multiple``, 32 for a model that names none.
    """
    (height, width), step = pixels.shape[1:], getattr(model, "side_multiple", STRIDE)
    padded = F.pad(pixels[None], (0, -width % step, 0, -height % step), mode="replicate")
    outputs = {name: values[:, :, :height, :width].float() for name, values in model(padded, upsample=True).items()}
    return {"probabilities": class_logits(outputs["logits"])[0].softmax(dim=0), "embeddings": outputs["embeddings"]}
