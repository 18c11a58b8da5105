"""Drawings of elective 2: a U-Net, overlapping tiles and their window, draws by share."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    CYAN,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SMALL,
    Sheet,
    drawing,
    tint,
)
from roadtopo_lib.inference.tiling import tile_starts


@drawing(
    "Blocks in the shape of a U: on the left the maps become smaller and deeper, on the right they grow again; arrows "
    "carry the left maps over to the right ones of the same size."
)
def unet(widths: Sequence[int] = (8, 16, 32), side: int = 96) -> Figure:
    """The maps of a U-Net.

    Args:
        widths: channels of each resolution, the finest first; three at most.
        side: of the square image in pixels.
    """
    levels = len(widths)
    tall, gap = 1.15, 0.42
    heights = [max(0.3, tall * 0.62**k) for k in range(levels)]
    tops = [0.75 + sum(heights[:k]) + k * gap for k in range(levels)]
    sheet = Sheet(tops[-1] + heights[-1] + 0.62, "A U-Net: down for context, up for detail, skips across")
    left = [1.15 + 0.75 * k for k in range(levels)]
    right = [6.05 - 0.75 * k for k in range(levels)]
    for k, (top, height) in enumerate(zip(tops, heights, strict=True)):
        depth = 0.12 + 0.1 * k
        words = f"{widths[k]} × {side >> k} × {side >> k}"
        last = k == levels - 1
        middle = 4.0 - 0.2
        if last:
            sheet.slab(middle, top, 0.3, height, depth, BLUE)
            sheet.text(middle + 0.15, top + height + 0.18, words, SMALL)
        else:
            y = top + height / 2
            sheet.slab(left[k], top, 0.3, height, depth, BLUE)
            sheet.slab(right[k], top, 0.3, height, depth, GREEN)
            sheet.text(left[k] + 0.5 + depth, y + 0.2, words, SMALL, ha="left")
            sheet.text(right[k] - 0.15, y + 0.2, words, SMALL, ha="right")
            sheet.arrow((left[k] + 0.55 + depth, y), (right[k] - 0.1, y), ORANGE)
            sheet.text((left[k] + right[k]) / 2 + 0.3, y - 0.16, "skip: concatenate", SMALL, ORANGE)
            below = tops[k + 1] + heights[k + 1] / 2
            to_left = middle if k == levels - 2 else left[k + 1]
            from_right = middle + 0.45 + depth if k == levels - 2 else right[k + 1] + 0.48 + depth
            foot = top + height + 0.05
            sheet.arrow((left[k] + 0.1, foot), (to_left - 0.08, below), INK, bend=0.3)
            sheet.arrow((from_right, below), (right[k] + 0.25, foot), INK, bend=0.3)
    sheet.text(0.62, tops[0] + heights[0] / 2, "image", SMALL, GREY)
    sheet.text(7.35, tops[0] + heights[0] / 2, "logits", SMALL, GREY)
    sheet.text(1.05, tops[-1] + heights[-1] / 2, "halve:\nmax pooling", SMALL)
    sheet.text(6.95, tops[-1] + heights[-1] / 2, "double:\ntransposed\nconvolution", SMALL)
    return sheet.figure


@drawing(
    "A row of pixels, the tiles that cover it, overlapping, and below them the weight of each tile: it rises smoothly "
    "from its borders, and where two tiles overlap one rises as the other falls."
)
def tiles_of_a_row(length: int = 1000, tile: int = 512, overlap: int = 64) -> Figure:
    """The tiles along one side of an image, and the weight of each at every pixel.

    Args:
        length: of the side in pixels.
        tile, overlap: as for ``inference.tiling.tiled_predict``.
    """
    sheet = Sheet(3.75, f"Tiles share at least {overlap} pixels and count less at their borders")
    starts = tile_starts(length, tile, overlap)
    scale = 6.6 / max(length, starts[-1] + tile)
    x0 = 1.15
    colors = (BLUE, RED, GREEN, CYAN)
    sheet.text(x0 - 0.15, 0.85, "image", SMALL, ha="right")
    sheet.rectangle(x0, 0.72, length * scale, 0.26, GREY, fc=tint(GREY))
    sheet.text(x0 + length * scale / 2, 0.85, f"{length} pixels", SMALL, zorder=6)
    sheet.text(x0 - 0.15, 1.45, "tiles", SMALL, ha="right")
    for k, start in enumerate(starts):
        color = colors[k % len(colors)]
        sheet.box(x0 + start * scale, 1.15 + 0.32 * (k % 2), tile * scale, 0.28, f"from {start}", color, size=SMALL)
    base, tall = 3.25, 0.95
    sheet.text(x0 - 0.15, base - tall / 2, "weight", SMALL, ha="right")
    sheet.line([x0, x0 + (starts[-1] + tile) * scale], [base, base], GREY, lw=0.8)
    place = np.arange(tile)
    ramp = np.minimum(place + 1, tile - place) / (overlap + 1)
    weight = np.sin(math.pi / 2 * np.minimum(ramp, 1)) ** 2
    for k, start in enumerate(starts):
        sheet.line(x0 + (start + place) * scale, base - tall * weight, colors[k % len(colors)])
    sheet.text(x0 + 3.3, base + 0.25, "in each pixel the weighted values are added and divided by the weights", SMALL)
    return sheet.figure


@drawing(
    "Two bags of patches, a small one with road and a large one without; a coin of the wanted share decides from which "
    "bag the next patch of a batch is drawn."
)
def draws_by_share(share: float = 0.5, positive: int = 5, others: int = 20) -> Figure:
    """How a sampler reaches a wanted share of patches with the class sought.

    Args:
        share: of positive patches among the draws, 0..1.
        positive, others: how many patches of each kind there are.
    """
    sheet = Sheet(2.75, f"The share of draws is {share:g}, whatever the share of patches")
    rows = 5
    for x, count, color, words in (
        (0.35, positive, ORANGE, f"{positive} with road"),
        (2.35, others, GREY, f"{others} without"),
    ):
        for k in range(count):
            column, row = divmod(k, rows)
            sheet.rectangle(x + 0.3 * column, 0.7 + 0.27 * row, 0.24, 0.22, color, fc=tint(color, 0.4), lw=1.2)
        sheet.text(x, 2.35, words, SMALL, ha="left")
    sheet.circle((4.7, 1.35), 0.42, INK, fc="white", lw=2)
    sheet.text(4.7, 1.35, f"{share:g}", weight="bold", zorder=6)
    sheet.text(4.7, 2.0, "a coin decides\nfor each draw", SMALL)
    sheet.arrow((3.65, 1.35), (4.2, 1.35), GREY)
    sheet.arrow((5.2, 1.35), (5.65, 1.35), GREY)
    rng = np.random.default_rng(3)
    kinds = rng.permutation([True] * round(8 * share) + [False] * (8 - round(8 * share)))
    for k, kind in enumerate(kinds):
        color = ORANGE if kind else GREY
        sheet.rectangle(5.8 + 0.5 * (k % 4), 0.95 + 0.5 * (k // 4), 0.38, 0.34, color, fc=tint(color, 0.4), lw=1.2)
    sheet.text(6.75, 2.35, "a batch of 8", SMALL)
    return sheet.figure
