"""Maps of large images, strip by strip: memory follows the strip."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_VALUES = 1 << 24
"""Of a strip, 64 MB. Six classes at 1920×1080 are one strip."""


def upsampled_strips(x: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """The rows of a map as ``models.upsample_to`` gives it, some at a time.

    Args:
        x: (1, C, h, w).
        size: (H, W).

    Yields:
        The first row of a strip, and the strip (C, rows, W). A map of one strip equals the whole bit for bit.
    """
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
