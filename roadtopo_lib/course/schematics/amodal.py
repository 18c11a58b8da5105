"""Drawings of elective 4: the fusion as a whole, a query whose answer is dropped or added, weights of what is there."""

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


@drawing(
    "The image with its hole, the mask and each completion go through one encoder; the mean over the completions goes "
    "through a transformer; each completion is judged beside it; a softmax gives a weight map for each completion."
)
def amodal_fusion(completions: int = 3) -> Figure:
    """The way from guesses to weights.

    Args:
        completions: N, at most 3 fit.
    """
    sheet = Sheet(3.95, "Each guess is judged beside what the whole image shows")
    y0, step = 0.9, 0.85
    middle = y0 + step * (completions - 1) / 2 + 0.25
    for k in range(completions):
        y = y0 + step * k
        sheet.box(0.2, y, 1.35, 0.5, f"image, mask,\nguess {k + 1}", GREY, size=SMALL)
        sheet.arrow((1.6, y + 0.25), (1.95, y + 0.25))
        sheet.box(2.0, y, 0.85, 0.5, "encoder", BLUE, size=SMALL)
        sheet.arrow((2.9, y + 0.25), (3.25, middle), GREY)
        sheet.arrow((5.4, middle), (5.72, y + 0.25), GREY)
        sheet.box(5.77, y, 0.75, 0.5, "judge", GREEN, size=SMALL)
        sheet.arrow((6.57, y + 0.25), (6.9, y + 0.25))
        sheet.box(6.95, y, 0.88, 0.5, f"weight {k + 1}", ORANGE, size=SMALL)
    sheet.box(3.3, middle - 0.55, 0.65, 1.1, "mean", GREY, size=SMALL)
    sheet.arrow((4.0, middle), (4.25, middle))
    sheet.box(4.3, middle - 0.55, 1.05, 1.1, "attention\nand query", PURPLE, size=SMALL)
    foot = y0 + step * completions
    sheet.line([2.42, 2.42, 6.14], [foot - 0.3, foot, foot], BLUE, ls=":")
    sheet.arrow((6.14, foot), (6.14, foot - 0.3), BLUE)
    sheet.text(4.2, foot + 0.2, "each guess's own features go past", SMALL, BLUE)
    sheet.text(7.39, foot + 0.2, "softmax over\nthe guesses", SMALL, ORANGE)
    return sheet.figure


@drawing(
    "Two ways with a query: on the left its answer stands before the tokens and is cut off again, on the right it is "
    "added to every token."
)
def query_answer(tokens: int = 4) -> Figure:
    """What becomes of a query's answer.

    Args:
        tokens: of the image, as many as are drawn.
    """
    sheet = Sheet(3.2, "A query has an effect only if its answer is used")
    side = 0.5
    for x, words, color in ((0.45, "concatenate, then cut off", RED), (4.55, "add to every token", GREEN)):
        sheet.text(x, 0.75, words, ha="left", color=color)
        added = color == GREEN
        left = x + side + 0.15
        for k in range(tokens):
            sheet.box(left + k * (side + 0.06), 1.15, side, side, f"{k + 1}", BLUE, size=SMALL)
            name = f"{k + 1} + q" if added else f"{k + 1}"
            sheet.arrow((left + k * (side + 0.06) + side / 2, 1.7), (left + k * (side + 0.06) + side / 2, 2.15), GREY)
            sheet.box(left + k * (side + 0.06), 2.2, side, side, name, PURPLE if added else BLUE, size=SMALL)
        sheet.box(x, 1.15, side, side, "q", ORANGE, size=SMALL)
        if added:
            sheet.arrow((x + side / 2, 1.7), (left - 0.04, 2.42), ORANGE, bend=0.2)
        else:
            sheet.line([x, x + side], [2.2, 2.2 + side], RED)
            sheet.line([x, x + side], [2.2 + side, 2.2], RED)
            sheet.arrow((x + side / 2, 1.7), (x + side / 2, 2.15), GREY)
        sheet.text(
            x + 1.5, 2.95, "no gradient reaches q" if not added else "the gradient of every token reaches q", SMALL
        )
    return sheet.figure


@drawing(
    "Scores of five completions, of which two are padding: their scores are minus infinity, so the softmax gives them "
    "exactly zero and the others add up to one."
)
def masked_softmax(scores: Sequence[float] = (0.4, 1.6, -0.5), padded: int = 2) -> Figure:
    """Softmax over completions of which some are padding.

    Args:
        scores: of the completions that are there.
        padded: how many slots are empty.
    """
    sheet = Sheet(2.7, "Padding gets −∞ before the softmax and 0 after it")
    raised = np.exp(scores)
    weights = [*(raised / raised.sum()), *[0.0] * padded]
    written = [*(f"{score:g}".replace("-", "−") for score in scores), *["−∞"] * padded]
    sheet.text(1.3, 1.0, "score", ha="right")
    sheet.text(1.3, 2.41, "weight", ha="right")
    for k, (score, weight) in enumerate(zip(written, weights, strict=True)):
        x, there = 1.7 + 1.2 * k, score != "−∞"
        color = BLUE if there else GREY
        sheet.box(x, 0.75, 0.9, 0.5, score, color)
        sheet.arrow((x + 0.45, 1.3), (x + 0.45, 1.68), color)
        tall = 0.6 * weight
        sheet.rectangle(x, 2.55 - tall, 0.9, tall, color, fc=tint(color, 0.4), lw=1.2)
        sheet.text(x + 0.45, 2.41 - tall, f"{weight:.2f}" if there else "0", zorder=6)
    sheet.text(0.75, 1.5, "softmax", SMALL, INK)
    return sheet.figure
