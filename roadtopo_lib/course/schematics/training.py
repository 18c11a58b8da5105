"""Drawings of notebook 5: the order of a step, number formats, loss scaling, accumulation, Muon."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    COLORS,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SMALL,
    TITLE,
    Sheet,
    drawing,
    tint,
)
from roadtopo_lib.training.optimizer import orthogonalized

STEP_CALLS = (
    "zero_grad", "forward", "loss", "scale", "backward", "unscale", "clip", "step", "update",
)  # fmt: skip
"""One optimiser step, in the order of ``LaneSegmentationTrainer.train_step``."""

PLAIN_CALLS = tuple(name for name in STEP_CALLS if name not in ("scale", "unscale", "update"))
"""The same without loss scaling."""


def first_scale() -> int:
    """The factor that a ``GradScaler`` begins with."""
    return int(torch.amp.GradScaler("cpu").get_scale())


@drawing(
    "Six boxes in two rows, joined by arrows in reading order: zero_grad, forward, loss, backward, clip, step; their "
    "colours tell whether they touch the loss, the gradients or the weights."
)
def plain_step(config: LaneSegmentationConfig | None = None) -> Figure:
    """The six calls of an optimiser step without loss scaling.

    Args:
        config: whose ``max_grad_norm`` is printed; default ``LaneSegmentationConfig()``.
    """
    return _calls(config or LaneSegmentationConfig(), PLAIN_CALLS, "six", "all gradients at once")


@drawing(
    "Nine boxes in three rows, joined by arrows in reading order: zero_grad, forward, loss, scale, backward, unscale, "
    "clip, step, update; their colours tell whether they touch the loss, the gradients or the weights."
)
def training_step(config: LaneSegmentationConfig | None = None) -> Figure:
    """The nine calls of an optimiser step.

    Args:
        config: whose ``max_grad_norm`` is printed; default ``LaneSegmentationConfig()``.
    """
    words = f"gradients, × {first_scale()} too"
    return _calls(config or LaneSegmentationConfig(), STEP_CALLS, "nine", words)


def _calls(config: LaneSegmentationConfig, names: Sequence[str], count: str, of_backward: str) -> Figure:
    factor = first_scale()
    meanings = {
        "zero_grad": ("empties the gradients", RED),
        "forward": ("images in, outputs out", BLUE),
        "loss": ("one number: how wrong", BLUE),
        "scale": (f"loss × {factor}", BLUE),
        "backward": (of_backward, RED),
        "unscale": (f"gradients ÷ {factor}", RED),
        "clip": (f"norm at most {config.max_grad_norm:g}", RED),
        "step": ("moves the weights", GREEN),
        "update": ("adapts the factor", ORANGE),
    }
    wide, tall, gap_x, gap_y = 2.36, 0.8, 0.28, 0.36
    last_row = (len(names) - 1) // 3
    foot = 0.47 + (last_row + 1) * (tall + gap_y)
    sheet = Sheet(foot + 0.3, f"One optimiser step: {count} calls, in this order")
    for k, name in enumerate(names):
        row, column = divmod(k, 3)
        x, y = 0.18 + column * (wide + gap_x), 0.66 + row * (tall + gap_y)
        words, color = meanings[name]
        sheet.box(x, y, wide, tall, color=color)
        sheet.text(x + 0.14, y + 0.27, f"{k + 1}", TITLE, color, weight="bold", ha="left")
        sheet.text(x + wide / 2 + 0.05, y + 0.27, name, weight="bold")
        sheet.text(x + wide / 2, y + 0.58, words, SMALL)
        if column < 2:
            sheet.arrow((x + wide, y + tall / 2), (x + wide + gap_x, y + tall / 2))
        elif row < last_row:
            below, turn = y + tall + gap_y / 2, 0.18 + wide / 2
            sheet.line([x + wide / 2] * 2 + [turn], [y + tall, below, below])
            sheet.arrow((turn, below), (turn, y + tall + gap_y))
    legend = [(0.3, "loss", BLUE), (1.35, "gradients", RED), (2.9, "weights", GREEN), (4.3, "factor", ORANGE)]
    for x, words, color in legend[: 4 if "update" in names else 3]:
        sheet.rectangle(x, foot, 0.18, 0.18, color, fc=tint(color))
        sheet.text(x + 0.28, foot + 0.09, words, SMALL, ha="left")
    return sheet.figure


@drawing(
    "Two bands, 32 bit above and 16 bit below; the way of a step zigzags between them: weights above, their copies and "
    "the activations below, the loss above, gradients on their way below, gradients stored and AdamW above."
)
def mixed_precision() -> Figure:
    """Which numbers of a step have 32 bits, and which 16."""
    sheet = Sheet(3.4, "Mixed precision: 16 bit on the way, 32 bit where kept")
    for y, words, color in ((0.7, "32 bit", BLUE), (2.1, "16 bit", ORANGE)):
        sheet.rectangle(0.1, y, 7.8, 1.15, color, fc=tint(color, 0.12), lw=0, zorder=1)
        sheet.text(0.2, y + 0.58, words, color=color, weight="bold", ha="left", rotation=0)
    steps = (
        ("weights", 0), ("copies of\nthe weights", 1), ("activations", 1), ("loss", 0),
        ("gradients\non the way", 1), ("stored\ngradients", 0), ("AdamW", 0),
    )  # fmt: skip
    wide, lefts = 1.12, (0.95, 1.28, 2.62, 3.3, 4.3, 5.2, 6.65)
    places = []
    for left, (name, low) in zip(lefts, steps, strict=True):
        y = 2.35 if low else 0.95
        sheet.box(left, y, wide, 0.65, name, ORANGE if low else BLUE, fill="white", size=11.5)
        places.append((left, y))
    for (x0, y0), (x1, y1) in pairwise(places):
        if y0 == y1:
            sheet.arrow((x0 + wide, y0 + 0.32), (x1, y1 + 0.32), GREY)
        else:
            down = y1 > y0
            sheet.arrow(
                (x0 + 0.62 * wide, y0 + (0.65 if down else 0)), (x1 + 0.38 * wide, y1 + (0 if down else 0.65)), GREY
            )
    return sheet.figure


@drawing(
    "A number line of magnitudes with a bar for the range of float16 and longer bars for bfloat16 and float32; a cloud "
    "of small gradients reaches below the range of float16, and an arrow moves all of them up into it."
)
def loss_scaling() -> Figure:
    """What the factor of a ``GradScaler`` does to small gradients."""
    factor = first_scale()
    sheet = Sheet(3.7, "Scaling the loss lifts small gradients into float16’s range")
    low, high, left, right = -12.0, 6.0, 1.5, 7.65

    def at(exponent: float) -> float:
        return left + (right - left) * (np.clip(exponent, low, high) - low) / (high - low)

    for k, (kind, color) in enumerate((("float16", ORANGE), ("bfloat16", GREEN), ("float32", BLUE))):
        info = torch.finfo(getattr(torch, kind))
        smallest = np.log10(info.smallest_normal * info.eps)  # the last step before zero
        y = 2.0 + 0.36 * k
        sheet.rectangle(at(smallest), y - 0.12, at(np.log10(info.max)) - at(smallest), 0.24, color, fc=tint(color, 0.5))
        for limit, end, tip in ((smallest, at(low), -0.16), (np.log10(info.max), at(high), 0.16)):
            if not low <= limit <= high:  # the range goes on beyond the picture
                sheet.polygon([(end, y - 0.12), (end + tip, y), (end, y + 0.12)], color, fc=tint(color, 0.5))
        sheet.text(0.15, y, kind, color=color, weight="bold", ha="left")
    sheet.arrow((left - 0.05, 3.05), (right + 0.15, 3.05), mutation_scale=10)
    for exponent in range(int(low), int(high) + 1, 3):
        sheet.line([at(exponent)] * 2, [3.0, 3.1], lw=1.2)
        sheet.text(at(exponent), 3.3, f"$10^{{{exponent}}}$")
    rng = np.random.default_rng(0)
    sizes = rng.normal(-8.0, 0.8, 70)
    heights = rng.uniform(-0.17, 0.17, 70)
    lifted = sizes + np.log10(factor)
    sheet.dots(np.column_stack([at(sizes), 1.1 + heights]), GREY, 12)
    sheet.dots(np.column_stack([at(lifted), 1.1 + heights]), RED, 12)
    sheet.arrow((at(-6.1), 1.1), (at(-5.35), 1.1), RED)
    sheet.text(at(-8.0), 0.74, "gradients", color=GREY, weight="bold")
    sheet.text(at(-8.0 + np.log10(factor)), 0.74, f"gradients × {factor}", color=RED, weight="bold")
    edge = at(np.log10(torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps))
    sheet.line([edge, edge], [0.9, 1.85], ORANGE, lw=1.4, ls="--")
    sheet.text(edge - 0.1, 1.55, "becomes 0", SMALL, ORANGE, ha="right", weight="bold")
    return sheet.figure


@drawing(
    "Small batches in a row, each with its own forward and backward pass; each adds its part to the same gradient, "
    "drawn as a bar that grows from batch to batch, and one optimiser step follows the last."
)
def accumulation(batches: int = 4) -> Figure:
    """Several batches share one step.

    Args:
        batches: 2..5, of equal size here.
    """
    sheet = Sheet(4.0, "Small batches add up to one step")
    width = 6.3 / batches
    base, tall = 3.45, 1.0
    sheet.text(0.1, base - 0.12, "gradient", weight="bold", ha="left")
    for k in range(batches):
        x = 1.2 + k * width
        middle = x + (width - 0.35) / 2
        sheet.box(x, 0.65, width - 0.35, 0.48, f"batch {k + 1}", COLORS[k], weight="bold")
        sheet.arrow((middle, 1.13), (middle, 1.4), GREY)
        sheet.text(middle, 1.58, "backward", SMALL)
        sheet.text(middle, 1.84, f"share 1/{batches}", SMALL, GREY)
        for part in range(k + 1):
            each = tall / batches
            sheet.rectangle(
                middle - 0.25, base - (part + 1) * each, 0.5, each, COLORS[part], fc=tint(COLORS[part], 0.5)
            )
        sheet.arrow((middle, 2.0), (middle, base - (k + 1) * tall / batches - 0.05), COLORS[k])
        if k:
            sheet.arrow((middle - width + 0.3, base - 0.1), (middle - 0.3, base - 0.1), FAINT)
    last = 1.2 + (batches - 1) * width + (width - 0.35) / 2
    sheet.arrow((last + 0.27, base - 0.5), (7.2, base - 0.5), INK)
    sheet.text(7.25, base - 0.5, "step", weight="bold", ha="left")
    sheet.text(1.2, 3.75, "each backward pass adds to what is there", color=GREY, ha="left")
    return sheet.figure


@drawing(
    "Left the gradient: an ellipse, long in one direction and thin in the other, and bars of very unequal singular "
    "values; right the step of Muon: nearly a circle, and bars of nearly equal height."
)
def muon_step(size: int = 6) -> Figure:
    """What Muon makes of a gradient matrix.

    Args:
        size: rows and columns of the matrix.
    """
    generator = torch.Generator().manual_seed(0)
    sides = [torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(2)]
    gradient = sides[0] @ torch.diag(torch.logspace(0, -1, size)) @ sides[1]
    moved = orthogonalized(gradient[None])[0]
    plane = torch.linalg.qr(torch.randn(2, 2, generator=generator))[0] @ torch.diag(torch.tensor([1.0, 0.22]))
    sheet = Sheet(3.7, "Muon steps about equally far in every direction")
    angles = torch.linspace(0, 2 * torch.pi, 100)
    circle = torch.stack([angles.cos(), angles.sin()])  # (2, 100)
    panels = (
        (0.2, "gradient", GREY, gradient, plane),
        (4.3, "Muon’s step", BLUE, moved, orthogonalized(plane[None])[0]),
    )
    for x, name, color, matrix, small in panels:
        sheet.text(x + 0.1, 0.78, name, color=color if color != GREY else INK, weight="bold", ha="left")
        outline = 0.62 * (small @ circle).numpy()
        sheet.polygon(np.column_stack([x + 0.8 + outline[0], 1.95 + outline[1]]), color)
        for direction in small.T.numpy():
            for sign in (-0.62, 0.62):
                sheet.arrow(
                    (x + 0.8, 1.95),
                    (x + 0.8 + sign * direction[0], 1.95 + sign * direction[1]),
                    color,
                    mutation_scale=9,
                )
        values = torch.linalg.svdvals(matrix).numpy()
        base = 2.75
        for k, value in enumerate(values):
            left = x + 1.75 + 0.28 * k * 6 / size
            sheet.rectangle(left, base - 1.45 * value, 0.2 * 6 / size, 1.45 * value, color, fc=tint(color, 0.5))
        sheet.line([x + 1.68, x + 3.4], [base, base], GREY, lw=1)
        sheet.text(x + 2.55, 3.0, "singular values", SMALL)
        sheet.text(x + 2.55, 3.28, f"{values.max():.1f} … {values.min():.1f}", weight="bold")
    sheet.arrow((3.75, 1.95), (4.25, 1.95), lw=2.6, mutation_scale=20)
    return sheet.figure
