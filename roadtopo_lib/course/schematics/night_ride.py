"""Drawings of elective 3: paint that is moved along a road, bands of Boundary IoU, the steps of Grad-CAM."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SMALL,
    Sheet,
    drawing,
    tint,
)
from roadtopo_lib.metrics import boundary_band


@drawing(
    "A road that runs to its vanishing point, with one dash on it and two places to which it is moved: farther ahead "
    "it becomes smaller, in another lane it leans the other way; its sides always point to the vanishing point."
)
def paste_on_road() -> Figure:
    """A dash moved ahead and aside on a flat road."""
    sheet = Sheet(3.5, "Paint keeps pointing to the vanishing point")
    vanishing = np.array([4.0, 0.95])
    near, far = 3.2, 1.6  # rows of the foot
    sheet.polygon([(0.6, 3.3), (7.4, 3.3), vanishing], GREY, fc=tint(GREY, 0.35), lw=0)
    sheet.line([0.3, 7.7], [vanishing[1]] * 2, GREY, lw=0.9, ls="--")
    sheet.dots(vanishing, INK, 50)
    sheet.text(4.15, 0.72, "vanishing point (vx, vy)", SMALL, ha="left")

    def dash(x: float, y: float, color: str, words: str, place: tuple[float, float]) -> None:
        """A dash whose foot stands at (x, y): as long as a third of its way to the vanishing point."""
        half = 0.13 * (y - vanishing[1]) / (near - vanishing[1])
        foot = np.array([[x - half, y], [x + half, y]])
        head = vanishing + 0.68 * (foot - vanishing)
        sheet.polygon([*foot, *head[::-1]], color, fc=tint(color, 0.6), zorder=4)
        for start in foot:
            sheet.line(*np.array([start, vanishing]).T, color, lw=0.6, ls=":", zorder=3)
        sheet.text(*place, words, SMALL, color, ha="left", weight="bold")

    dash(2.2, near, BLUE, "cut out here", (0.35, 2.45))
    ahead = vanishing + (far - vanishing[1]) / (near - vanishing[1]) * (np.array([2.2, near]) - vanishing)
    dash(*ahead, ORANGE, "ahead: s < 1", (1.75, 1.35))
    dash(5.6, near, GREEN, "aside: s = 1, a > 0", (6.1, 1.9))
    return sheet.figure


@drawing(
    "A wide and a thin marking from above, each with the bands along its edges at both ratios: the thin one is covered "
    "by the band of ratio 0.02 as a whole, by that of ratio 0.005 only along its edges."
)
def boundary_bands(size: tuple[int, int] = (720, 1280), widths: Sequence[int] = (90, 30)) -> Figure:
    """Markings and the bands along their edges.

    Args:
        size: (H, W) of the image in pixels.
        widths: of the markings in pixels.
    """
    sheet = Sheet(3.3, "A marking narrower than two bands is all boundary")
    sheet.text(0.3, 0.75, f"image {size[1]} × {size[0]} px", SMALL, GREY, ha="left")
    scale = 2.1 / max(widths)
    for column, ratio in enumerate((0.02, 0.005)):
        band = boundary_band(*size, ratio)
        left = 1.15 + 3.4 * column
        sheet.text(left + 1.3, 1.05, f"ratio {ratio}: band {band} px", SMALL, weight="bold")
        for row, width in enumerate(widths):
            y, wide = 1.4 + 0.95 * row, width * scale
            edge = min(band, width / 2) * scale
            sheet.rectangle(left, y, wide, 0.5, INK, fc="white", zorder=2)
            for x in (left, left + wide - edge):
                sheet.rectangle(x, y, edge, 0.5, ORANGE, fc=tint(ORANGE, 0.6), lw=0.6, zorder=3)
            inner = max(0, width - 2 * band)
            words = f"{inner} px inside" if inner else "nothing inside"
            sheet.text(left + wide / 2, y + 0.68, words, SMALL)
    for row, width in enumerate(widths):
        sheet.text(0.95, 1.65 + 0.95 * row, f"{width} px", SMALL, ha="right")
    return sheet.figure


@drawing(
    "Four steps of Grad-CAM: the maps of a layer, a weight for each from the mean of its gradient, their weighted sum, "
    "and the sum without its negative part, divided by its largest value."
)
def grad_cam_steps() -> Figure:
    """Three small maps on their way to one."""
    sheet = Sheet(3.2, "Grad-CAM: maps that raise the class, added up")
    rng = np.random.default_rng(4)
    maps = np.round(rng.normal(0.6, 1.0, (3, 3, 3)), 1)
    weights = np.array([1.0, 0.5, -1.0])
    side = 0.19

    def fill(value: float) -> tuple[float, float, float]:
        return tint(ORANGE if value > 0 else BLUE, min(1.0, abs(value) / 2))

    for k, (values, weight) in enumerate(zip(maps, weights, strict=True)):
        y = 0.75 + 0.72 * k
        sheet.cells(values, 0.45, y, side, fill, None)
        sheet.text(1.32, y + 0.28, f"× {weight:g}".replace("-", "−"), SMALL, PURPLE if weight < 0 else GREEN, ha="left")
    sheet.text(0.2, 2.98, "maps (orange positive, blue negative), and the mean gradient of each", SMALL, ha="left")
    total = (weights[:, None, None] * maps).sum(axis=0)
    sheet.arrow((2.1, 1.55), (2.75, 1.55))
    sheet.cells(total, 2.95, 1.1, 0.3, fill, None)
    sheet.text(3.4, 2.25, "added up", SMALL)
    sheet.arrow((4.1, 1.55), (4.75, 1.55))
    kept = np.maximum(total, 0)
    sheet.cells(kept, 4.9, 1.1, 0.3, fill, None)
    sheet.text(5.35, 2.25, "negative sums: 0", SMALL)
    sheet.arrow((5.95, 1.55), (6.5, 1.55))
    sheet.cells(kept / kept.max(), 6.65, 1.1, 0.3, lambda value: tint(RED, 0.8 * value + 0.05), None)
    sheet.text(7.05, 2.25, "in [0, 1]", SMALL)
    return sheet.figure
