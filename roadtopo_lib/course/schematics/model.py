"""Drawings of notebook 3: patch embedding, attention in three steps and its reduction, Mix-FFN, fusion, two heads."""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from transformers import SegformerConfig

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    CYAN,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SMALL,
    Sheet,
    averaged,
    clumps,
    drawing,
    network_sample,
    tint,
)
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.segformer import ARCHITECTURES
from roadtopo_lib.viz import color_semantic

TOKENS = np.array([[3.0, 0.0], [0.0, 3.0], [2.0, 2.0], [0.0, 0.0]])
"""Queries of the four tokens that notebook 3 computes by hand."""

KEYS = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
VALUES = np.array([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0], [0.0, 0.0]])
TOKEN_COLORS = (BLUE, RED, GREEN, ORANGE)

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}

PUBLISHED = SegformerConfig()
"""Windows, strides and reductions are the same in all sizes."""


def strides() -> list[int]:
    """Pixels between two tokens, for each stage: 4, 8, 16, 32."""
    return np.cumprod(PUBLISHED.strides).tolist()


def maps(config: LaneSegmentationConfig) -> list[tuple[int, int, int]]:
    """(channels, height, width) of each stage's map."""
    height, width = config.image_size
    channels = ARCHITECTURES[config.backbone]["hidden_sizes"]
    return [(c, height // s, width // s) for c, s in zip(channels, strides(), strict=True)]


@drawing(
    "A strip of the frame is enlarged to pixels; two square windows lie on it and overlap; an arrow leads from each to "
    "its own token, a row of numbers, and the tokens form a coarser grid."
)
def patch_embedding(backbone: str = "tiny") -> Figure:
    """The first stage's windows on the frame, and the tokens that come of them.

    Args:
        backbone: whose channels are printed.
    """
    config = LaneSegmentationConfig.preset(backbone).replace(image_size=(96, 256))
    channels, rows, columns = maps(config)[0]
    size, stride = PUBLISHED.patch_sizes[0], PUBLISHED.strides[0]
    image, _, instance = network_sample()
    sheet = Sheet(4.1, f"Each window of {size} × {size} pixels becomes one token")
    high, wide, side = size + 4, size + stride + 4, 0.172
    spots = np.argwhere(instance == 2)  # (row, column)
    place = np.clip(spots[len(spots) // 2] // stride, 2, (rows - 3, columns - 4))  # of the first token on the map
    top, left = place * stride - size // 2 - 2
    sheet.image(image, 0.2, 0.75, 2.6)
    unit = 2.6 / image.shape[1]
    sheet.rectangle(0.2 + left * unit, 0.75 + top * unit, wide * unit, high * unit, ORANGE, lw=2, zorder=6)
    x, y = 0.2, 1.98
    sheet.image(image[top : top + high, left : left + wide], x, y, wide * side, high * side)
    for share, corner in ((left, x), (left + wide, x + wide * side)):
        sheet.line([0.2 + share * unit, corner], [0.75 + (top + high) * unit, y], ORANGE, lw=1.2, zorder=6)
    grid_x, grid_y, cell = 5.05, 0.95, 2.75 / columns
    sheet.image(averaged(image, rows, columns), grid_x, grid_y, columns * cell, rows * cell, False)
    sheet.mesh(grid_x, grid_y, rows, columns, cell)
    for k, color in enumerate((BLUE, RED)):
        corner = x + (2 + k * stride) * side
        sheet.rectangle(corner, y + 2 * side, size * side, size * side, color, lw=3, zorder=7)
        level = y + 0.33 + 0.92 * k
        start = (corner + 0.3, y + 2 * side) if k == 0 else (corner + size * side, level)
        sheet.arrow(start, (3.15, level), color, -0.22 if k == 0 else 0.0, zorder=8)
        sheet.cells(np.zeros((1, 7)), 3.2, level - 0.12, 0.24, lambda _, c=color: tint(c, 0.4), words=None)
        spot = (grid_x + (place[1] + k + 0.5) * cell, grid_y + (place[0] + 0.5) * cell)
        sheet.arrow((4.92, level), (spot[0] + 0.02, spot[1] + 0.05), color, 0.25 + 0.1 * k, zorder=7, lw=1.5)
        sheet.dots(spot, color, 40, zorder=8, edgecolors="white", linewidths=0.8)
    sheet.text(4.04, y + 0.79, f"{channels} numbers each", weight="bold")
    sheet.text(grid_x + 1.4, 0.75, f"{rows} × {columns} tokens", weight="bold")
    sheet.text(3.2, 3.55, f"a window every {stride} pixels,", ha="left")
    sheet.text(3.2, 3.83, f"so neighbours share {size - stride} columns", ha="left")
    return sheet.figure


def _vector(sheet: Sheet, values: np.ndarray, x: float, y: float, color: str, share: float = 0.35) -> None:
    """A vector of few numbers as a row of cells around y."""
    sheet.cells(values[None], x, y - 0.2, 0.42, lambda _: tint(color, share), "{:.3g}", SMALL)


@drawing(
    "Four tokens in a column; linear layers turn each into three vectors of its own, side by side: a query, what it "
    "looks for, a key, what it offers, and a value, what it hands over."
)
def attention_qkv() -> Figure:
    """First step of attention: tokens become queries, keys and values."""
    sheet = Sheet(3.75, "Every token makes a query, a key and a value")
    columns = (
        ("query", "what I look for", TOKENS),
        ("key", "what I offer", KEYS),
        ("value", "what I hand over", VALUES),
    )
    sheet.box(2.84, 0.65, 5.0, 2.92, color=GREY, fill="white")
    for k, (name, meaning, vectors) in enumerate(columns):
        x = 3.05 + 1.66 * k
        sheet.text(x + 0.6, 0.87, name, weight="bold")
        sheet.text(x + 0.6, 1.14, meaning, SMALL, GREY)
        for row, color in enumerate(TOKEN_COLORS):
            _vector(sheet, vectors[row], x + 0.18, 1.6 + 0.55 * row, color)
    sheet.box(1.55, 1.3, 0.95, 2.2, "three\nlinear\nlayers", GREY)
    for row, color in enumerate(TOKEN_COLORS):
        y = 1.6 + 0.55 * row
        sheet.box(0.2, y - 0.2, 0.98, 0.4, f"token {row + 1}", color)
        sheet.arrow((1.18, y), (1.53, y), GREY)
        sheet.arrow((2.5, y), (2.82, y), GREY)
    return sheet.figure


def attend(query: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (4,), weights (4,) and answer (2,) of one token of the toy."""
    scores = KEYS @ TOKENS[query] / np.sqrt(KEYS.shape[1])
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return scores, weights, weights @ VALUES


@drawing(
    "One query meets the keys of all four tokens: each dot product, divided by the root of the length, is a score, and "
    "softmax turns the four scores into four weights, drawn as bars, which add up to 1."
)
def attention_weights(query: int = 0) -> Figure:
    """Second step of attention: one query, all keys, weights.

    Args:
        query: which of the four tokens asks, 0..3.
    """
    scores, weights, _ = attend(query)
    sheet = Sheet(4.15, "One query meets all keys: scores, then weights")
    asks = TOKEN_COLORS[query]
    sheet.text(0.2, 0.85, f"query of token {query + 1}", ha="left", weight="bold")
    _vector(sheet, TOKENS[query], 0.3, 1.2, asks)
    for y, words in ((1.2, ""), (2.05, "score"), (3.2, "weight")):
        sheet.text(0.2, y, words, ha="left", weight="bold")
    sheet.text(1.0, 2.05, r"$q\cdot k\,/\,\sqrt{d}$", ha="left")
    sheet.text(1.0, 3.2, "softmax", ha="left")
    base, tall = 3.62, 1.7
    sheet.line([2.3, 7.7], [base, base], GREY, lw=1)
    for k, color in enumerate(TOKEN_COLORS):
        x = 2.95 + 1.4 * k
        sheet.text(x, 0.85, f"key {k + 1}")
        _vector(sheet, KEYS[k], x - 0.42, 1.2, color)
        sheet.arrow((x, 1.45), (x, 1.85), color)
        sheet.text(x, 2.05, f"{scores[k]:.2f}")
        sheet.arrow((x, 2.25), (x, base - tall * weights[k] - 0.3), FAINT)
        sheet.rectangle(x - 0.3, base - tall * weights[k], 0.6, tall * weights[k], color, fc=tint(color, 0.6))
        sheet.text(x, base - tall * weights[k] - 0.14, f"{weights[k]:.2f}", weight="bold")
    sheet.text(5.0, 3.88, f"together {weights.sum():.0f}", color=GREY)
    return sheet.figure


@drawing(
    "The value of each token, shaded as strongly as its weight, is multiplied by the weight; the four products are "
    "added and give the answer, one new vector for the token that asked."
)
def attention_mix(query: int = 0) -> Figure:
    """Third step of attention: the weighted mean of the values.

    Args:
        query: which of the four tokens asks, 0..3.
    """
    _, weights, answer = attend(query)
    sheet = Sheet(2.95, "The answer is the mean of the values, by these weights")
    for k, color in enumerate(TOKEN_COLORS):
        x = 0.75 + 1.6 * k
        sheet.text(x, 0.85, f"value {k + 1}")
        _vector(sheet, VALUES[k], x - 0.42, 1.2, color, 0.08 + 0.8 * weights[k])
        sheet.text(x, 1.68, f"× {weights[k]:.2f}", weight="bold")
        sheet.arrow((x, 1.85), (x, 2.12), color, lw=1 + 5 * weights[k])
        if k:
            sheet.text(x - 0.8, 1.2, "+", 15)
    sheet.line([0.3, 6.0, 6.0], [2.16, 2.16, 2.16], GREY)
    sheet.arrow((6.0, 2.16), (6.55, 2.16), GREY)
    sheet.text(7.15, 1.7, f"answer for\ntoken {query + 1}", weight="bold")
    sheet.cells(answer[None], 6.6, 1.95, 0.55, lambda _: tint(TOKEN_COLORS[query], 0.35), "{:.2f}", SMALL)
    sheet.text(3.15, 2.5, "the largest weights contribute most", color=GREY)
    return sheet.figure


@drawing(
    "Left the frame with its fine grid of tokens, one of which is marked as a query; right a coarse grid of few large "
    "cells with keys and values, each computed from a square window of tokens; lines join the query with every key."
)
def attention_reduction(backbone: str = "tiny", stage: int = 0) -> Figure:
    """Spatial reduction: queries from all tokens, keys and values from a coarser grid.

    Args:
        backbone: whose maps are drawn.
        stage: of the encoder, 0..3.
    """
    config = LaneSegmentationConfig.preset(backbone).replace(image_size=(96, 256))
    _, rows, columns = maps(config)[stage]
    ratio = PUBLISHED.sr_ratios[stage]
    image = network_sample()[0]
    few = (rows // ratio, columns // ratio)
    blocks = averaged(image, *few)
    sheet = Sheet(3.1, "Queries from all tokens, keys and values from fewer")
    left, top, wide = 0.2, 1.05, 3.6
    cell = wide / columns
    sheet.image(averaged(image, rows, columns), left, top, wide, smooth=False)
    sheet.mesh(left, top, rows, columns, cell)
    right, side = 4.6, 3.2 / few[1]
    for row, column in np.ndindex(few):
        color = tuple(blocks[row, column] / 255)
        sheet.rectangle(right + column * side, top + row * side, side, side, "white", fc=color, lw=1.2)
    asks = (left + (0.42 * columns // 1 + 0.5) * cell, top + (0.6 * rows // 1 + 0.5) * cell)
    for row, column in np.ndindex(few):
        spot = (right + (column + 0.5) * side, top + (row + 0.5) * side)
        sheet.line([asks[0], spot[0]], [asks[1], spot[1]], ORANGE, lw=0.6, zorder=6, alpha=0.8)
        sheet.dots(spot, ORANGE, 14, zorder=7)
    sheet.dots(asks, ORANGE, 110, marker="*", zorder=8, edgecolors=INK, linewidths=0.7)
    column, row, large = few[1] // 4, few[0] - 1, ratio * cell
    sheet.rectangle(left + column * large, top + row * large, large, large, BLUE, lw=2.4, zorder=7)
    sheet.rectangle(right + column * side, top + row * side, side, side, BLUE, lw=2.4, zorder=7)
    sheet.text(left + wide / 2, 0.8, f"{rows * columns} queries", weight="bold")
    sheet.text(right + 1.6, 0.8, f"{few[0] * few[1]} keys and values", weight="bold")
    sheet.text(left, 2.75, f"a window of {ratio} × {ratio} tokens", color=BLUE, weight="bold", ha="left")
    sheet.arrow((left + 2.75, 2.75), (right - 0.05, 2.75), BLUE)
    sheet.text(right + 0.05, 2.75, "becomes one", color=BLUE, weight="bold", ha="left")
    return sheet.figure


@drawing(
    "A token passes from left to right: a linear layer widens it, a three by three filter mixes each channel with its "
    "neighbours on the map, an activation function follows, a second linear layer narrows it; the token itself "
    "is added to the result."
)
def mix_ffn(backbone: str = "tiny", stage: int = 0, activation: str = "gelu") -> Figure:
    """The second half of a block.

    Args:
        backbone: whose channels are printed.
        stage: of the encoder, 0..3.
        activation: "gelu", the published models', or "relu".
    """
    shape = ARCHITECTURES[backbone]
    narrow = shape["hidden_sizes"][stage]
    wide = narrow * shape.get("mlp_ratios", PUBLISHED.mlp_ratios)[stage]
    sheet = Sheet(3.8, "Mix-FFN: widen, look at the neighbours, activate, narrow")
    middle = 1.95
    for x, tall, count, color in ((0.45, 0.45, narrow, BLUE), (2.05, 1.5, wide, GREEN), (7.2, 0.45, narrow, BLUE)):
        sheet.rectangle(x, middle - tall / 2, 0.3, tall, color, fc=tint(color, 0.4))
        sheet.text(x + 0.15, middle + tall / 2 + 0.2, str(count), weight="bold")
    side = 0.21
    left, top = 2.95, middle - 3.5 * side
    outside = np.pad(np.ones((5, 5)), 1)
    sheet.cells(outside, left, top, side, lambda v: tint(GREEN, 0.4) if v else "white", "{:.0f}", 8, FAINT)
    sheet.rectangle(left + 2 * side, top + 2 * side, 3 * side, 3 * side, RED, lw=2.6, zorder=7)
    sheet.rectangle(left, top, 3 * side, 3 * side, ORANGE, lw=2.6, zorder=7)
    x = np.linspace(-2.5, 2.5, 61)
    activated = ACTIVATIONS[activation](torch.from_numpy(x)).numpy()
    sheet.rectangle(5.15, middle - 0.5, 1.0, 1.0, PURPLE, fc="white")
    sheet.line([5.2, 6.1], [middle + 0.2] * 2, FAINT, lw=1)
    sheet.line(5.65 + 0.17 * x, middle + 0.2 - 0.24 * activated, PURPLE, lw=2.4, zorder=6)
    for start, end in ((0.8, 2.0), (2.4, 2.9), (4.47, 5.1), (6.2, 7.15)):
        sheet.arrow((start, middle), (end, middle), GREY)
    for x, words, sizes in ((1.4, "linear", f"{narrow} to {wide}"), (6.68, "linear", f"{wide} to {narrow}")):
        sheet.text(x, middle - 0.22, words, weight="bold")
        sheet.text(x, middle + 0.22, sizes, SMALL, GREY)
    for x, words in ((0.6, "token"), (3.68, "3 × 3 filter, each channel by itself"), (7.35, "token")):
        sheet.text(x, 3.22, words, weight="bold")
    sheet.text(5.65, middle + 0.7, {"gelu": "GELU", "relu": "ReLU"}[activation], weight="bold")
    sheet.text(3.68, 3.52, "zeros around the map tell where the edge is", color=ORANGE)
    sheet.line([0.6, 0.6, 7.35], [middle - 0.27, 0.78, 0.78], BLUE)
    sheet.arrow((7.35, 0.78), (7.35, middle - 0.27), BLUE)
    sheet.text(0.75, 0.97, "added unchanged", color=BLUE, ha="left")
    return sheet.figure


def _map_slab(sheet: Sheet, x: float, middle: float, shape: tuple[int, int, int], color: str, unit: float) -> float:
    """A map as a block around ``middle``, to scale in height and width; returns its right edge."""
    channels, height, width = shape
    depth = 0.08 + 0.0035 * channels
    tall = max(height * unit, 0.07)
    sheet.slab(x, middle - tall / 2 + 0.3 * depth, width * unit, tall, depth, color)
    return x + width * unit + depth


@drawing(
    "Four feature maps, each half as high and wide as the one above, pass through a linear layer to the same number of "
    "channels and are upsampled to the size of the first; their channels are concatenated to one deep map, last map "
    "first, and one more linear layer, a 1 × 1 convolution, fuses these into the channels of one map."
)
def fusion(backbone: str = "tiny") -> Figure:
    """Four maps into one head.

    Args:
        backbone: whose maps are drawn.
    """
    config = LaneSegmentationConfig.preset(backbone).replace(image_size=(96, 256))
    shapes, inner = maps(config), ARCHITECTURES[backbone]["decoder_hidden_size"]
    fine, colors = shapes[0][1:], (BLUE, CYAN, GREEN, ORANGE)
    sheet = Sheet(4.75, "A head brings four maps to one size and fuses them")
    unit = 0.92 / fine[1]
    deep, wide, tall = 0.08 + 0.0035 * inner, fine[1] * unit, fine[0] * unit
    for x, words in ((0.88, "encoder’s maps"), (2.32, "linear"), (3.7, "upsampled"), (5.9, "concatenated")):
        sheet.text(x, 0.72, words, weight="bold")
    for k, (shape, color) in enumerate(zip(shapes, colors, strict=True)):
        y = 1.2 + 0.9 * k
        right = _map_slab(sheet, 0.2, y, shape, color, unit)
        sheet.text(0.2, y + 0.5 * max(shape[1] * unit, 0.1) + 0.27, " × ".join(map(str, shape)), SMALL, ha="left")
        sheet.arrow((right + 0.06, y), (1.83, y), GREY)
        sheet.box(1.86, y - 0.19, 0.96, 0.38, f"{shape[0]} to {inner}", color, size=SMALL)
        sheet.arrow((2.82, y), (3.08, y), GREY)
        right = _map_slab(sheet, 3.12, y, (inner, *fine), color, unit)
        back = len(shapes) - 1 - k  # the last map is concatenated first and lies in front
        spot = (4.9 + back * deep, 1.72 - 0.6 * back * deep)
        sheet.slab(*spot, wide, tall, deep, color)
        sheet.arrow((right + 0.05, y), (4.84, 1.33 + 0.22 * k), color, mutation_scale=10)
    sheet.text(3.75, 4.48, f"all {fine[0]} × {fine[1]}, {inner} channels", SMALL)
    channels = len(shapes) * inner
    sheet.text(6.22, 2.12, f"{len(shapes)} · {inner} = {channels} channels", SMALL, ha="left")
    sheet.arrow((5.75, 2.2), (5.75, 2.62), GREY)
    sheet.box(5.0, 2.66, 1.5, 0.42, f"{channels} to {inner}", PURPLE, size=SMALL)
    sheet.text(6.6, 2.87, "1 × 1\nconvolution", SMALL, ha="left")
    sheet.arrow((5.75, 3.08), (5.75, 3.46), GREY)
    sheet.slab(5.18, 3.72, wide, tall, deep, PURPLE)
    sheet.text(5.75, 4.34, "fused", weight="bold")
    sheet.text(6.6, 3.82, f"{inner} × {fine[0]} × {fine[1]}", SMALL, ha="left")
    return sheet.figure


@drawing(
    "The frame enters one encoder, whose four maps go to two heads: the semantic head gives scores of the classes, "
    "painted as a mask, and the embedding head gives points, which gather in clumps, one for each lane."
)
def two_heads(config: LaneSegmentationConfig | None = None) -> Figure:
    """One encoder, two heads.

    Args:
        config: sizes and classes; default preset ``tiny``.
    """
    config = config or LaneSegmentationConfig.preset("tiny")
    image, semantic, instance = network_sample()
    shapes = maps(config)
    fine = shapes[0][1:]
    sheet = Sheet(3.9, "Both heads read the same four maps")
    sheet.image(image, 0.15, 1.75, 1.75)
    sheet.text(1.02, 1.52, "image", weight="bold")
    sheet.text(1.02, 2.62, f"3 × {config.image_size[0]} × {config.image_size[1]}", SMALL)
    sheet.arrow((1.9, 2.08), (2.12, 2.08))
    sheet.polygon([(2.15, 1.45), (3.1, 1.75), (3.1, 2.4), (2.15, 2.7)], BLUE)
    sheet.text(2.64, 2.08, "encoder", SMALL, weight="bold", zorder=5)
    unit = 0.85 / fine[1]
    y = 1.02
    for shape, color in zip(shapes, (BLUE, CYAN, GREEN, ORANGE), strict=True):
        y += 0.43
        _map_slab(sheet, 3.4, y, shape, color, unit)
    sheet.text(3.82, 1.02, "four maps", weight="bold")
    sheet.arrow((3.1, 2.08), (3.36, 2.08))
    outputs = (
        (1.25, RED, "semantic\nhead", f"{config.num_classes} × {fine[0]} × {fine[1]}", "scores of the classes"),
        (2.95, PURPLE, "embedding\nhead", f"{config.embedding_dim} × {fine[0]} × {fine[1]}", "a point for each pixel"),
    )
    for middle, color, name, shape, meaning in outputs:
        sheet.arrow((4.6, 2.08), (4.79, middle + (0.15 if middle < 2 else -0.15)), GREY)
        sheet.box(4.8, middle - 0.32, 1.15, 0.64, name, color)
        sheet.arrow((5.95, middle), (6.15, middle), GREY)
        sheet.text(7.0, middle + 0.55, shape, weight="bold")
        sheet.text(7.0, middle + 0.8, meaning, SMALL)
    sheet.image(color_semantic(semantic), 6.2, 0.92, 1.65)
    clumps(sheet, 6.2, 2.62, 1.65, 0.62, len(instances_by_role(semantic, instance)), known=True, ball=0.0)
    return sheet.figure
