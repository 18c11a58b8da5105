"""Drawings of elective 1: four formulas for class weights, Dice of images and of a batch, runs compared in pairs."""

import numpy as np
from matplotlib.figure import Figure

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
    tint,
)
from roadtopo_lib.losses import WEIGHT_METHODS, weights_from_counts

TOY_PIXELS = {"road": 500_000, "sidewalk": 50_000, "marking": 5_000, "crosswalk": 1_000}
"""Pixels of each class in ten images of equal size."""
TOY_IMAGES = {"road": 10, "sidewalk": 10, "marking": 10, "crosswalk": 1}
"""How many of the ten images show each class."""


@drawing(
    "A table of four classes, from half a million pixels down to a thousand, with a column of bars for each of the "
    "four formulas; the bars are the weights, and each column has the mean 1."
)
def class_weight_formulas(pixels: tuple[int, ...] = tuple(TOY_PIXELS.values())) -> Figure:
    """Four formulas for the same counts.

    Args:
        pixels: of the four classes of ``TOY_PIXELS`` in all ten images.
    """
    around = [sum(pixels) * shown // 10 for shown in TOY_IMAGES.values()]
    sheet = Sheet(3.3, "Four formulas turn the same counts into weights")
    sheet.text(1.12, 0.98, "pixels", SMALL, GREY, ha="left")
    for row, (name, count) in enumerate(zip(TOY_PIXELS, pixels, strict=True)):
        y = 1.42 + 0.44 * row
        sheet.text(0.15, y, name, ha="left", weight="bold")
        sheet.text(1.95, y, f"{count:,}", SMALL, ha="right")
    for column, (method, color) in enumerate(zip(WEIGHT_METHODS, (BLUE, GREEN, PURPLE, RED), strict=True)):
        x = 2.2 + 1.46 * column
        sheet.text(x, 0.8, method.replace("_", "\n"), SMALL, color, ha="left", weight="bold")
        weights = weights_from_counts(pixels, method, image_pixels=around).tolist()
        for row, weight in enumerate(weights):
            y = 1.42 + 0.44 * row
            length = 0.82 * weight / len(weights)
            sheet.rectangle(x, y - 0.13, length, 0.26, color, fc=tint(color, 0.5))
            sheet.text(x + length + 0.06, y, f"{weight:.2f}", SMALL, ha="left")
        sheet.line([x, x], [1.2, 2.96], GREY, lw=0.8)
    sheet.text(0.15, 3.08, "ten images; one of them shows the crosswalk", SMALL, GREY, ha="left")
    return sheet.figure


SMALL_PAIR = ((12, 10, 0), (2, 0, 2))
"""Of a class in two images: true cells, hits, false cells."""


@drawing(
    "Two small grids with a class each: a large area that is mostly hit, and a small one that is missed; per image "
    "their two Dice values are averaged, per batch all cells are added up first and give one larger Dice value."
)
def dice_image_and_batch(pair: tuple[tuple[int, int, int], ...] = SMALL_PAIR) -> Figure:
    """One class in a batch of two images.

    Args:
        pair: true cells, hits and false cells in each of two grids of 24 cells.
    """
    sheet = Sheet(3.75, "Dice per image averages ratios, Dice per batch adds cells first")
    kinds = {0: "white", 1: tint(BLUE, 0.5), 2: tint(RED, 0.5), 3: tint(PURPLE, 0.75)}
    ratios = []
    for k, (truth, hits, false) in enumerate(pair):
        x = 0.25 + 2.75 * k
        table = np.zeros(24, int)
        table[:hits], table[hits:truth], table[24 - false :] = 3, 1, 2
        sheet.cells(table.reshape(4, 6), x, 0.85, 0.36, lambda value: kinds[int(value)], words=None, edge=FAINT)
        ratios.append(2 * hits / (truth + hits + false))
        words = f"2 × {hits} / ({truth} + {hits + false}) = {ratios[-1]:.2f}"
        sheet.text(x + 1.08, 2.5, words)
        sheet.text(x + 1.08, 0.66, f"image {k + 1}", weight="bold")
    for k, (color, share, words) in enumerate(((PURPLE, 0.75, "hit"), (BLUE, 0.5, "missed"), (RED, 0.5, "false"))):
        sheet.rectangle(5.95, 0.97 + 0.4 * k, 0.26, 0.26, color, fc=tint(color, share))
        sheet.text(6.35, 1.1 + 0.4 * k, words, ha="left")
    truth, hits, false = np.sum(pair, axis=0)
    whole = 2 * hits / (truth + hits + false)
    sheet.text(0.25, 3.0, "per image:", ha="left", weight="bold")
    sheet.text(1.75, 3.0, f"({' + '.join(f'{r:.2f}' for r in ratios)}) / 2 = {np.mean(ratios):.2f}", ha="left")
    sheet.text(0.25, 3.42, "per batch:", ha="left", weight="bold")
    sheet.text(1.75, 3.42, f"2 × {hits} / ({truth} + {hits + false}) = {whole:.2f}", ha="left")
    return sheet.figure


@drawing(
    "Three columns, one a seed: its scenes and first weights go into two trainings that differ in the loss alone, and "
    "the difference of their two scores is taken within the column; the differences of all seeds are averaged."
)
def paired_runs(seeds: int = 5) -> Figure:
    """How two losses are compared.

    Args:
        seeds: how many pairs there are; the first two and the last are drawn.
    """
    sheet = Sheet(3.9, "Pairs: the two runs of a seed differ in the loss alone")
    for column, (k, x) in enumerate(zip((0, 1, seeds - 1), (0.2, 2.25, 4.5), strict=True)):
        sheet.box(x, 0.65, 1.85, 0.72, f"seed {k}: scenes,\nfirst weights", GREY, size=SMALL)
        for shift, loss, color in ((0.0, "CE", BLUE), (0.97, "Dice", RED)):
            sheet.arrow((x + 0.44 + shift, 1.4), (x + 0.44 + shift, 1.78), GREY)
            sheet.box(x + shift, 1.8, 0.88, 0.46, loss, color)
            sheet.text(x + 0.44 + shift, 2.5, f"IoU ${'ab'[loss == 'Dice']}_{k}$", SMALL)
        sheet.text(x + 0.92, 2.98, f"$d_{k} = b_{k} - a_{k}$", weight="bold")
        sheet.line([x, x + 1.85], [2.74, 2.74], INK, lw=1.2)
        if column == 1:
            sheet.text(4.3, 2.0, "…", weight="bold")
    sheet.arrow((6.4, 2.98), (6.68, 2.98), GREY)
    sheet.box(6.72, 2.62, 1.15, 0.72, "mean of d,\nits interval", GREEN, size=SMALL)
    sheet.text(
        0.2, 3.6, "both runs of a seed begin with the same weights and see the same scenes", SMALL, GREY, ha="left"
    )
    return sheet.figure
