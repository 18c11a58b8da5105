"""Notebook 1: values of one setting, with the boxes that they change; all settings in a table."""

import textwrap
from collections.abc import Sequence
from dataclasses import fields

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import frame
from roadtopo_lib.course.pictures import show
from roadtopo_lib.course.strip import boxes_of, number_lanes, shipped_segmenter
from roadtopo_lib.dataset import build_transform, image_to_tensor
from roadtopo_lib.losses import LaneCriterion
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.training.optimizer import build_optimizer
from roadtopo_lib.viz import color_instances, overlay

PANEL_WIDTH = 2.1
"""Inches."""
PANEL_PIXELS = 352
FRAME_LANES = 4
"""Crosswalks have the colours after those of the frame's lanes, however many lanes a setting leaves."""
PAPER = 238
"""Grey behind the lanes: without the photograph a figure needs a fifth of the bytes."""

SETTINGS = {
    "2 dataset": {
        "image_size": "height and width that the network sees, in pixels",
        "crop_top": "share of the height that is cut off above",
        "crop_scale": "smallest share of the area that a random crop keeps; 1 keeps all",
        "flip_probability": "how often a training image is mirrored",
        "color_jitter": "how far brightness, contrast and colours vary in training",
        "repeat_threshold": "images with a class rarer than this share are drawn more often; 0: all alike",
        "num_workers": "processes that load images beside the training",
        "seed": "number from which every random draw of a run follows",
    },
    "3 model": {
        "model": "kind of network: SegFormer, or one that you add",
        "backbone": "size of the encoder",
        "pretrained": "start of the encoder: published weights, a folder's, or random ones (False)",
        "num_classes": "logits of a pixel, one for each class",
        "classes": "class table of your own: names, colours, roles; None: the six classes of the course",
        "embedding_dim": "numbers in a pixel's embedding",
        "normalize_embeddings": "divide each embedding by its length; the margins must then fit on the sphere",
        "activation": "function between the encoder's layers: GELU as published, ReLU is cheaper",
    },
    "4 losses": {
        "semantic_weight": "weight of the classes' loss in the total",
        "instance_weight": "weight of the embeddings' loss in the total",
        "ce_weight": "weight of cross-entropy in the classes' loss",
        "dice_weight": "weight of Dice in the classes' loss; Dice favours small classes",
        "class_weights": "formula for rare classes, or weights by class name; None: all alike",
        "ignore_index": "class id of pixels that nobody labelled",
        "delta_var": "pull margin: a pixel farther from its lane's mean is pulled towards it",
        "delta_dist": "push margin: two means repel each other until they are twice this apart",
        "alpha": "weight of the pull term",
        "beta": "weight of the push term",
        "gamma": "weight of the term that keeps the means near the origin",
        "max_instances": "most lanes and crosswalks expected in an image; decides which margins fit on the sphere",
    },
    "5 training": {
        "lr": "AdamW's learning rate of the heads",
        "encoder_lr_scale": "share of both learning rates that the encoder gets",
        "muon_lr": "Muon's learning rate, for matrices inside the network; 0: AdamW moves all",
        "betas": "how long AdamW remembers past gradients and their squares, 0 to 1",
        "weight_decay": "share, times the rate, by which a step shrinks every weight",
        "warmup_fraction": "share of all steps in which the learning rate rises",
        "epochs": "passes over the training images",
        "steps_per_epoch": "optimiser steps in an epoch, however many images there are; 0: each image once",
        "batch_size": "images in one batch",
        "accumulation_steps": "batches whose gradients are added up before one step",
        "max_grad_norm": "longest gradient; longer ones are scaled down to it",
        "patience": "epochs without a better validation loss before the run stops",
        "amp": "mixed precision: 16-bit floats where they are exact enough",
    },
    "6 postprocessing": {
        "clustering": "how embeddings are grouped",
        "reference_row": "image row, as share of the height, where lanes are ordered from left to right",
    },
}
"""The notebook that teaches a setting → setting → what it is."""


TABLE_WIDTH = 100
"""Characters of a line of the table."""


def settings_table(config: LaneSegmentationConfig) -> str:
    """All settings of a config, each on lines of its own, under the notebook that teaches them.

    Raises:
        ValueError: ``SETTINGS`` leaves a field of the config out, or names one that it does not have.
    """
    listed = sorted(name for group in SETTINGS.values() for name in group)
    known = sorted(field.name for field in fields(config))
    if listed != known:
        raise ValueError(f"SETTINGS and the config differ in {sorted(set(listed) ^ set(known))}")
    lines = []
    for notebook, group in SETTINGS.items():
        lines += ["", f"{notebook}"] if lines else [f"{notebook}"]
        for name, words in group.items():
            begins = f"  {name:20s} {getattr(config, name)!s:12s} "
            lines += textwrap.wrap(words, TABLE_WIDTH, initial_indent=begins, subsequent_indent=" " * len(begins))
    return "\n".join(lines)


def try_values(
    setting: str,
    values: Sequence,
    boxes: Sequence[str] = ("classes", "lanes"),
    captions: Sequence[str] | None = None,
    **options: object,
) -> list[dict]:
    """Runs the shipped model with each value of a setting and shows the boxes that change.

    Args:
        setting: a field of the config that acts without a new training.
        values: what to set it to.
        boxes: of ``strip.BOXES``.
        captions: one for each value; default "setting = value".
        options: ``title`` and ``image`` of ``compare``.

    Returns:
        The ``LaneResult`` of each value.
    """
    captions = captions or [f"{setting} = {value}" for value in values]
    segmenters = [shipped_segmenter(**{setting: value}) for value in values]
    return compare(dict(zip(captions, segmenters, strict=True)), boxes, **options)


def try_wide_radius(delta_dist: float) -> dict:
    """Clusters and lanes of the frame where the radius, ``delta_dist``, lies far above the range of the rule."""
    title = "One ball holds all lanes"
    return try_values("delta_dist", [delta_dist], ("clusters", "lanes"), title=title)[0]


def compare(
    segmenters: dict[str, LaneSegmenter],
    boxes: Sequence[str] = ("classes", "lanes"),
    title: str | None = None,
    image: np.ndarray | None = None,
) -> list[dict]:
    """Shows the same boxes of several segmenters, one column each.

    Args:
        segmenters: caption → segmenter.
        boxes: of ``strip.BOXES``, from top to bottom.
        title: what the figure shows.
        image: (H, W, 3) uint8 RGB in place of the frame.

    Returns:
        The ``LaneResult`` of each.
    """
    image = frame()[0] if image is None else image
    rows = [boxes_of(image, segmenter) for segmenter in segmenters.values()]
    names = ", ".join(segmenters)
    show(_columns(rows, list(segmenters), boxes, title), f"Of the frame: {', '.join(boxes)}. Columns: {names}.")
    return [row["result"] for row in rows]


def _columns(rows: list[dict], captions: list[str], boxes: Sequence[str], title: str | None) -> Figure:
    aspect = rows[0]["image"].shape[0] / rows[0]["image"].shape[1]
    height = len(boxes) * (PANEL_WIDTH * aspect + 0.06) + 0.5 + 0.25 * (title is not None)
    figure, axes = plt.subplots(len(boxes), len(rows), figsize=(PANEL_WIDTH * len(rows), height), squeeze=False)
    for row, caption, column in zip(rows, captions, axes.T, strict=True):
        for name, ax in zip(boxes, column, strict=True):
            # "nearest" makes no colours between two classes: the palette holds all that there are.
            ax.imshow(_numbered(row["result"]) if name == "lanes" else row[name], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if name == "lanes":
                number_lanes(ax, row["result"], ax.images[0].get_size()[1], _first_crosswalk(row["result"]))
        result = row["result"]
        lanes, crosswalks = result["lane_count"], result["crosswalk_count"]
        column[0].set_title(caption, fontweight="normal", fontsize=10)
        found = f"{lanes} lane{'s' * (lanes != 1)}, {crosswalks} crosswalk{'s' * (crosswalks != 1)}"
        column[-1].set_xlabel(found, fontsize=10)
    if title is not None:
        figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure


def _numbered(result: dict) -> np.ndarray:
    """Lanes and crosswalks on plain grey, without the crosswalks' labels."""
    crosswalks = result["crosswalk_instances"]
    paper = np.full((*crosswalks.shape, 3), PAPER, np.uint8)
    found = crosswalks > 0
    paper[found] = color_instances(crosswalks + _first_crosswalk(result) - 1)[found]
    painted = overlay(paper, result | {"crosswalk_instances": np.zeros_like(crosswalks)}, alpha=0.9)
    scale = min(1, PANEL_PIXELS / painted.shape[1])
    return cv2.resize(painted, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _first_crosswalk(result: dict) -> int:
    """Instance id whose colour the first crosswalk has; no lane has it."""
    return max(FRAME_LANES, result["lane_count"]) + 1


def seen_in_training(settings: dict[str, object]) -> Figure:
    """What the network is shown of the frame in training: one random draw for each setting.

    Args:
        settings: setting → value; all others are those of preset ``tiny``, without mirroring.
    """
    tiny = LaneSegmentationConfig.preset("tiny").replace(flip_probability=0)
    figure, axes = plt.subplots(1, len(settings), figsize=(1.7 * len(settings), 1.12))
    for (name, value), ax in zip(settings.items(), axes, strict=True):
        transform = build_transform(tiny.replace(**{name: value}), train=True)
        ax.imshow(transform(*frame(), 1)[0], interpolation="antialiased")  # the draws of 0 change next to nothing
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{name} = {value}", fontweight="normal", fontsize=8)
    figure.suptitle("Augmentation makes one image look new", fontweight="bold", fontsize=10)
    return figure


def two_lanes(delta_var: float, delta_dist: float) -> Figure:
    """Two lanes for which both terms of the loss are zero, and a ball of radius ``delta_dist`` around a pixel of each.

    Args:
        delta_var: radius of each lane's ball, > 0.
        delta_dist: half of the distance of the means, > 0.
    """
    figure, ax = plt.subplots(figsize=(4.2, 2.4))
    for mean, side, color in ((0, 1, "#4477AA"), (2 * delta_dist, -1, "#EE6677")):
        pixel = mean + side * delta_var
        ax.add_patch(plt.Circle((mean, 0), delta_var, color=color, alpha=0.5))
        ax.add_patch(plt.Circle((pixel, 0), delta_dist, fill=False, linestyle="--", color=color))
        ax.plot(pixel, 0, "o", color=color)
    ax.set(xlim=(-1.2 * delta_dist, 3.2 * delta_dist), ylim=(-1.15 * delta_dist, 1.15 * delta_dist), aspect="equal")
    ax.set(xlabel="embedding dimension 1", ylabel="dimension 2")
    ax.set_title(r"A ball of radius $\delta_\mathrm{dist}$ holds one lane only")
    return figure


def trained_further(steps: int, lr: float) -> LaneSegmenter:
    """The shipped model after a few more steps on the frame alone; AdamW moves all weights.

    Args:
        steps: optimiser steps, at a constant rate.
        lr: that rate.
    """
    segmenter = shipped_segmenter(lr=lr, muon_lr=0)
    model, config = segmenter.model.train(), segmenter.config
    image, semantic, instance = build_transform(config, train=False)(*frame(), 0)
    batch = {
        "image": image_to_tensor(image)[None].to(segmenter.device),
        "semantic_mask": torch.from_numpy(semantic.astype(np.int64))[None].to(segmenter.device),
        "instance_mask": torch.from_numpy(instance.astype(np.int64))[None].to(segmenter.device),
    }
    optimizer, criterion = build_optimizer(model, config), LaneCriterion.from_config(config)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(batch["image"], upsample=False), batch)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
    return LaneSegmenter(model, config)
