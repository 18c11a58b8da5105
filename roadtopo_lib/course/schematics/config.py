"""Drawings of notebook 1: the pipeline, and the learning-rate schedule."""

import numpy as np
import torch
from matplotlib.figure import Figure

from roadtopo_lib.config import LaneSegmentationConfig
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
    clumps,
    drawing,
    network_sample,
    tint,
)
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.training.optimizer import build_scheduler
from roadtopo_lib.viz import color_instances, color_semantic


@drawing(
    "Five boxes in a row, joined by arrows: the image becomes classes, then embeddings, then clusters, then numbered "
    "lanes; below each box stands the shape of what leaves it."
)
def boxes(config: LaneSegmentationConfig | None = None) -> Figure:
    """The five boxes of the pipeline, with what goes in and out.

    Args:
        config: whose sizes are printed; default preset ``tiny``.
    """
    config = config or LaneSegmentationConfig.preset("tiny")
    image, semantic, instance = network_sample()
    height, width = config.image_size
    lanes = instances_by_role(semantic, instance)
    sheet = Sheet(3.55, "Five boxes lead from the image to numbered lanes")
    steps = [
        ("image", GREY, f"3 × {height} × {width}", "colours"),
        ("classes", BLUE, f"{config.num_classes} scores", "per pixel"),
        ("embeddings", PURPLE, f"{config.embedding_dim} numbers", "per pixel"),
        ("clusters", GREEN, "1 label", "per lane pixel"),
        ("lanes", RED, "1, 2, 3 …", "a curve each"),
    ]
    wide, gap = 1.36, 0.24
    lefts = [0.12 + k * (wide + gap) for k in range(5)]
    for k, (left, (name, color, shape, meaning)) in enumerate(zip(lefts, steps, strict=True)):
        sheet.box(left, 0.62, wide, 2.02, color=color, fill="white")
        sheet.text(left + wide / 2, 0.82, name, color=color if color != GREY else INK, weight="bold")
        sheet.text(left + wide / 2, 2.12, shape)
        sheet.text(left + wide / 2, 2.4, meaning)
        if k:
            sheet.arrow((left - gap, 1.45), (left, 1.45))
    inner, top = wide - 0.16, 1.12
    tall = inner * height / width
    sheet.image(image, lefts[0] + 0.08, top + 0.17, inner, tall)
    sheet.image(color_semantic(semantic), lefts[1] + 0.08, top + 0.17, inner, tall)
    clumps(sheet, lefts[2] + 0.08, top, inner, 0.8, len(lanes), known=False)
    clumps(sheet, lefts[3] + 0.08, top, inner, 0.8, len(lanes), known=True)
    shown = np.where(np.isin(instance, lanes), instance, 0)
    picture = color_instances(shown)
    picture[shown == 0] = image[shown == 0] // 2 + 127
    sheet.image(picture, lefts[4] + 0.08, top + 0.17, inner, tall)
    for left, right, words in ((1, 2, "the network: notebooks 3, 4, 5"), (3, 4, "post-processing: notebook 6")):
        start, end = lefts[left], lefts[right] + wide
        sheet.line([start, start, end, end], [2.74, 2.82, 2.82, 2.74], GREY, lw=1.2)
        sheet.text((start + end) / 2, 3.05, words)
    sheet.text(lefts[0] + wide / 2, 3.05, "notebook 2")
    return sheet.figure


@drawing(
    "The learning rate over the steps of a run: it rises linearly in the short warm-up, then falls to zero along "
    "half a cosine; the encoder's rate has the same shape, lower."
)
def schedule(config: LaneSegmentationConfig | None = None) -> Figure:
    """Warm-up and cosine, as ``build_scheduler`` makes them.

    Args:
        config: warm-up, rates and the encoder's share; default ``LaneSegmentationConfig()``.
    """
    config = config or LaneSegmentationConfig()
    steps = 400
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build_scheduler(optimizer, steps, config.warmup_fraction)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    sheet = Sheet(3.2, "The rate rises in the warm-up, then falls along half a cosine")
    left, right, top, bottom = 1.25, 7.6, 0.95, 2.55
    end = left + (right - left) * config.warmup_fraction
    sheet.rectangle(left, 0.75, end - left, bottom - 0.75, ORANGE, fc=tint(ORANGE), lw=0, zorder=1)
    sheet.arrow((left, bottom), (right + 0.25, bottom))
    sheet.arrow((left, bottom), (left, 0.62))
    xs = np.linspace(left, right, steps)
    for color, share in ((RED, 1.0), (BLUE, config.encoder_lr_scale)):
        sheet.line(xs, bottom - (bottom - top) * share * np.array(factors), color, lw=2.6)
    sheet.text(left - 0.1, top, f"{config.lr:g}", ha="right")
    sheet.text(left - 0.1, bottom, "0", ha="right")
    sheet.text(0.45, (top + bottom) / 2, "learning\nrate", ha="center")
    sheet.text((left + right) / 2 + 0.1, 2.95, "step")
    sheet.text(right, 2.95, "last step", SMALL, GREY)
    sheet.text(left, 2.78, f"warm-up: {config.warmup_fraction:.0%} of all steps", SMALL, ha="left")
    sheet.text(left + 0.62 * (right - left), 1.35, "heads", color=RED, weight="bold", ha="left")
    sheet.text(
        left + 0.2,
        2.12,
        f"encoder: {config.encoder_lr_scale:g} × as high",
        color=BLUE,
        weight="bold",
        ha="left",
    )
    return sheet.figure
