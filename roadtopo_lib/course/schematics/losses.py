"""Drawings of notebook 4: cross-entropy of a pixel, the overlap that Dice counts, pull and push."""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    PURPLE,
    RED,
    SMALL,
    Sheet,
    drawing,
    frame_sample,
    tint,
)
from roadtopo_lib.labels import CLASSES, LANE_MARKING

PIXEL_LOGITS = (-1.0, 1.6, 2.2, 0.1, -0.8, 0.9)
"""Logits of a pixel, one a class: a lane marking that the model takes for road not much less readily."""


@drawing(
    "One pixel of the frame is marked; its six scores become probabilities, drawn as bars, one for each class; only "
    "the bar of the true class counts, and a falling curve gives its cost, minus the logarithm of that probability."
)
def cross_entropy_pixel(logits: tuple[float, ...] = PIXEL_LOGITS, true_class: int = LANE_MARKING) -> Figure:
    """Cross-entropy of a single pixel.

    Args:
        logits: (C,) of the pixel.
        true_class: id of its true class.
    """
    image, semantic, _ = frame_sample()
    scores = torch.tensor(logits)
    probabilities = scores.softmax(dim=0)
    loss = F.cross_entropy(scores[None], torch.tensor([true_class])).item()
    p = probabilities[true_class].item()
    sheet = Sheet(3.75, "Cross-entropy uses one probability of each pixel")
    tall = sheet.image(image, 0.15, 1.2, 2.2)
    rows, columns = np.nonzero(semantic == true_class)
    k = len(rows) * 4 // 5
    spot = (0.15 + 2.2 * columns[k] / image.shape[1], 1.2 + tall * rows[k] / image.shape[0])
    sheet.circle(spot, 0.09, RED, lw=2.4, zorder=6)
    sheet.text(1.25, 1.0, "one pixel", weight="bold")
    sheet.text(1.25, 1.45 + tall, f"truth: {CLASSES[true_class].name}", color=RED)
    sheet.arrow((2.4, 1.72), (2.64, 1.72), GREY)
    sheet.text(4.25, 0.75, "probabilities (softmax)", weight="bold")
    for c, share in zip(CLASSES, probabilities.tolist(), strict=True):
        y = 1.12 + 0.4 * c.id
        mine = c.id == true_class
        sheet.text(4.12, y, c.name, color=INK, ha="right", weight="bold" if mine else "normal")
        sheet.rectangle(4.2, y - 0.13, 1.25 * share, 0.26, RED if mine else GREY, fc=tint(RED if mine else GREY, 0.5))
        words = f"{share:.2f}"
        sheet.text(4.28 + 1.25 * share, y, words, color=INK, ha="left")
    left, right, base, top = 5.95, 7.75, 3.25, 1.1
    x = np.linspace(0.04, 1, 100)
    scale = (base - top) / 3.3
    sheet.arrow((left, base), (right + 0.12, base), mutation_scale=10)
    sheet.arrow((left, base), (left, top - 0.05), mutation_scale=10)
    sheet.line(left + (right - left) * x, base + scale * np.log(x), BLUE, lw=2.4)
    dot = (left + (right - left) * p, base - scale * loss)
    sheet.line([dot[0], dot[0], left], [base, dot[1], dot[1]], RED, lw=1.2, ls=":")
    sheet.dots(dot, RED, 70, zorder=6)
    sheet.text(6.95, 0.75, "its cost: −log p", weight="bold")
    sheet.text(dot[0] + 0.12, dot[1] - 0.2, f"{loss:.2f}", color=RED, weight="bold", ha="left")
    sheet.text(right, 3.47, "p", ha="right")
    sheet.text(dot[0], 3.47, f"{p:.2f}", SMALL)
    return sheet.figure


def two_lines(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Two slanted lines on a grid of (6, 10) cells, truth and prediction; the prediction misses the uppermost row."""
    rows, columns = np.indices((6, 10))
    along = columns - rows // 2
    truth, predicted = ((along >= 2 + move) & (along < 5 + move) for move in (0, shift))
    return truth, predicted & (rows > 0)


@drawing(
    "A small grid with two slanted lines that partly cover each other, the true one and the predicted one; the cells "
    "of each and of both are counted, and twice the common cells over the sum of both areas is the Dice coefficient."
)
def dice_overlap(shift: int = 1) -> Figure:
    """What Dice counts.

    Args:
        shift: columns by which the prediction lies beside the truth, 0..3.
    """
    truth, predicted = two_lines(shift)
    both, missed, false = truth & predicted, truth & ~predicted, predicted & ~truth
    dice = 2 * both.sum() / (truth.sum() + predicted.sum())
    sheet = Sheet(3.55, "Dice: twice the overlap over both areas")
    kinds = {0: "white", 1: tint(BLUE, 0.5), 2: tint(RED, 0.5), 3: tint(PURPLE, 0.75)}
    table = np.where(both, 3, np.where(missed, 1, np.where(false, 2, 0)))
    sheet.cells(table, 0.25, 0.75, 0.4, lambda value: kinds[int(value)], words=None, edge=FAINT)
    legend = ((BLUE, 0.5, "truth only", missed), (RED, 0.5, "predicted only", false), (PURPLE, 0.75, "both", both))
    for k, (color, share, words, cells) in enumerate(legend):
        y = 0.95 + 0.4 * k
        sheet.rectangle(4.6, y - 0.13, 0.26, 0.26, color, fc=tint(color, share))
        sheet.text(5.0, y, f"{words}: {cells.sum()} cells", ha="left")
    sheet.text(4.5, 2.58, "Dice  =", ha="left", weight="bold")
    sheet.text(6.2, 2.38, f"2 × {both.sum()}")
    sheet.line([5.4, 7.0], [2.56, 2.56], INK, lw=1.2)
    sheet.text(6.2, 2.78, f"{truth.sum()} + {predicted.sum()}")
    sheet.text(7.05, 2.58, f"=  {dice:.2f}", ha="left", weight="bold")
    sheet.text(6.2, 3.1, "truth + predicted", SMALL, GREY)
    return sheet.figure


@drawing(
    "Three panels. Pull: points outside a circle around their mean are drawn inwards. Push: two means, each with a "
    "circle, move apart until the circles only touch. Regularisation: all means are drawn gently to the origin."
)
def loss_terms(config: LaneSegmentationConfig | None = None) -> Figure:
    """What the three terms of the discriminative loss pull on.

    Args:
        config: margins and weights; default ``LaneSegmentationConfig()``.
    """
    config = config or LaneSegmentationConfig()
    sheet = Sheet(4.1, "Pull gathers the pixels of a lane, push separates lanes")
    panels = (
        ("pull", f"α = {config.alpha:g}", "beyond δ_var of the mean:\npulled inwards", 0.15),
        ("push", f"β = {config.beta:g}", "nearer than 2 · δ_dist:\npushed apart", 2.77),
        ("regularisation", f"γ = {config.gamma:g}", "means stay near\nthe origin", 5.39),
    )
    for name, weight, words, x in panels:
        sheet.box(x, 0.6, 2.46, 2.62, color=FAINT, fill="white")
        sheet.text(x + 0.12, 0.83, name, weight="bold", ha="left")
        sheet.text(x + 2.34, 0.83, weight, SMALL, GREY, ha="right")
        sheet.text(x + 1.23, 3.6, words)
    _pull(sheet, np.array([1.38, 2.02]), config.delta_var)
    _push(sheet, np.array([4.0, 1.85]), config.delta_dist)
    origin = np.array([6.62, 2.05])
    sheet.line([5.6, 7.65], [origin[1]] * 2, FAINT)
    sheet.line([origin[0]] * 2, [1.1, 3.1], FAINT)
    for x, y, color in ((-0.75, -0.55, BLUE), (0.8, -0.35, RED), (0.15, 0.8, GREEN)):
        mean = origin + np.array([x, y])
        sheet.arrow(mean, mean + 0.42 * (origin - mean), color)
        sheet.dots(mean, color, 130, marker="X", zorder=6)
    sheet.text(6.7, 2.2, "0", ha="left")
    return sheet.figure


def _pull(sheet: Sheet, mean: np.ndarray, margin: float) -> None:
    """Points around a mean; those beyond the margin get an arrow as long as the gradient's share of them."""
    scale = min(1.2, 0.75 / margin)  # inches a unit
    sheet.circle(mean, margin * scale, BLUE, fc=tint(BLUE, 0.15))
    rng = np.random.default_rng(3)
    angles = np.arange(16) * 2.4
    radii = np.where(np.arange(16) % 3 == 0, rng.uniform(1.35, 1.6, 16), rng.uniform(0.2, 0.9, 16)) * margin
    offsets = radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)]) * scale
    outside = radii > margin
    sheet.dots(mean + offsets, [BLUE if out else tint(BLUE, 0.55) for out in outside], 34)
    for offset, radius in zip(offsets[outside], radii[outside], strict=True):
        sheet.arrow(mean + offset, mean + offset * (margin / radius), BLUE, mutation_scale=10)
    sheet.dots(mean, INK, 110, marker="X", zorder=6)
    sheet.text(1.38, 3.07, f"δ_var = {margin:g}", color=BLUE, weight="bold")


def _push(sheet: Sheet, middle: np.ndarray, margin: float) -> None:
    """Two means whose circles of the margin overlap, and the distance that they want."""
    scale = min(0.36, 0.56 / margin)  # inches a unit
    for sign, color in ((-1, RED), (1, GREEN)):
        mean = middle + np.array([sign * 0.62 * margin * scale, 0])
        sheet.circle(mean, margin * scale, color, fc=(*tint(color, 0.5), 0.25))
        sheet.dots(mean, color, 130, marker="X", zorder=6)
        sheet.arrow(mean, mean + np.array([sign * 0.55, 0]), color)
    wanted = margin * scale
    y = middle[1] + 0.86
    sheet.arrow((middle[0] - wanted, y), (middle[0] + wanted, y), INK, arrowstyle="<|-|>", mutation_scale=10, lw=1.4)
    sheet.text(middle[0], y + 0.28, f"2 · δ_dist = {2 * margin:g}", weight="bold")
