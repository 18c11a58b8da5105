"""Pictures of notebook 5."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.lessons.training import dataset
from roadtopo_lib.viz import color_semantic

STYLES = ("C0-", "C1--", "C2:", "C5-.")


def gradient_and_step() -> Figure:
    """One weight whose gradients grow tenfold: Adam's two running means, and the steps that they make."""
    gradients = np.random.default_rng(0).normal(1, 0.2, 100) * np.where(np.arange(100) < 50, 1, 10)
    betas, means = np.array([0.9, 0.8]), np.zeros((101, 2))
    for t, gradient in enumerate(gradients):
        means[t + 1] = betas * means[t] + (1 - betas) * [gradient, gradient**2]
    means = means[1:] / (1 - betas ** np.arange(1, 101)[:, None])  # (100, 2): of the gradient, of its square
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6))
    left.plot(gradients, ".", color="0.6", label="gradient")
    left.plot(means[:, 0], "C0-", label="its running mean")
    left.plot(np.sqrt(means[:, 1]), "C1--", label="root of the mean square")
    right.plot(means[:, 0] / np.sqrt(means[:, 1]), "C0-")
    left.set(title="Gradients ten times as large …", xlabel="step", ylabel="gradient")
    right.set(title="… soon make steps of the same length", xlabel="step", ylabel="length of the step")
    right.set(ylim=(0, 1.6), yticks=[])  # its length in learning rates is a question to the learner
    left.legend(loc="lower right")
    return figure


def memory_curves(curves: Mapping[str, np.ndarray]) -> Figure:
    """Megabytes kept alive through a step, a curve for each float type."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    for (name, curve), style in zip(curves.items(), STYLES, strict=False):
        ax.plot(np.linspace(0, 1, len(curve)), curve, style, label=name)
    ax.set(title="The forward pass fills memory, the backward pass empties it", ylabel="MB kept alive")
    ax.set(xlabel="progress of one step (0: first layer, 0.5: loss, 1: done)", ylim=(0, None))
    ax.legend()
    return figure


def outlier_steps(steps: Mapping[str, np.ndarray]) -> Figure:
    """Sizes of Adam's steps around an outlier."""
    figure, ax = plt.subplots(figsize=(7, 2.6))
    for (name, values), style in zip(steps.items(), STYLES, strict=False):
        ax.semilogy(values, style, label=name)
    ax.set(title="After the outlier Adam's steps are short for a long time", xlabel="step")
    ax.set_ylabel("size of the step\n(learning rates)")
    ax.legend(loc="lower left")
    return figure


def miscounted_schedules(rate: Callable[[int, int, int], float]) -> Figure:
    """Rates of the steps that really happen, counted rightly and in two wrong ways."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    ax.plot([rate(step, 40, 4) for step in range(40)], "C0-", label="counted in optimiser steps")
    ax.plot([rate(4 * step, 40, 4) for step in range(40)], "C1--", label="counted in batches, four to a step")
    ax.plot([rate(3 + step, 40, 4) for step in range(37)], "C5:", label="three skipped steps counted, too")
    ax.set(title="A schedule that counts wrongly ends early, or loses its warm-up")
    ax.set(xlabel="optimiser step that really happens", ylabel="share of the rate")
    ax.legend()
    return figure


def losses_and_norms(runs: Mapping[float, np.ndarray], max_norm: float) -> Figure:
    """Loss and gradient norm, step by step, of runs at several learning rates; each (steps, 2)."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3))
    for column, title in enumerate(("By the loss alone, 0.2 looks fine", "By the gradient norm, it does not")):
        for (lr, rows), style in zip(runs.items(), ("C5:", "C0-", "C1--", "C3x-"), strict=True):
            axes[column].semilogy(np.arange(1, len(rows) + 1), rows[:, column], style, label=f"lr {lr:g}")
        axes[column].set(title=title, xlabel="step", ylim=(0.05, 50))
        axes[column].set_ylabel(("training loss", "gradient norm")[column])
    axes[1].axhline(max_norm, color="0.4", linestyle=":")
    axes[0].legend(ncols=2)
    return figure


def picture_grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], height: float = 2.8) -> Figure:
    """Pictures in rows, a title over each column."""
    figure, axes = plt.subplots(len(rows), len(titles), figsize=(10, height), squeeze=False)
    for row, pictures in enumerate(rows):
        for ax, picture, title in zip(axes[row], pictures, titles, strict=True):
            ax.imshow(picture)
            ax.set(title=title if row == 0 else "", xticks=[], yticks=[])
    return figure


def two_answers(config: LaneSegmentationConfig, sound: np.ndarray, fast: np.ndarray) -> Figure:
    """The two brightest validation images with the classes (N, H, W) that two runs found."""
    images = [sample["image"].permute(1, 2, 0).numpy() for sample in dataset(config, "val")]
    brightest = np.argsort([image.mean() for image in images])[-2:]
    rows = [[images[k], color_semantic(sound[k]), color_semantic(fast[k])] for k in brightest]
    return picture_grid(rows, ["two images", "lr 0.002: two answers", "lr 0.2: nearly one answer"])


def forgotten_and_gained(
    before: Sequence[float], outcome: Mapping[tuple[float, float, int], Sequence[float]]
) -> Figure:
    """A point for each fine-tuning: loss on the old and on the new pictures.

    Args:
        before: both losses of the checkpoint.
        outcome: both losses after fine-tuning, by (rate, scale of the encoder, seed).
    """
    figure, ax = plt.subplots(figsize=(7, 3.6))
    ax.plot(*before, "k*", markersize=12, label="before fine-tuning")
    settings = dict.fromkeys((lr, scale) for lr, scale, _ in outcome)
    for (lr, scale), style in zip(settings, ("C0o", "C1o", "C0s", "C1s"), strict=True):
        points = np.array([losses for key, losses in outcome.items() if key[:2] == (lr, scale)]).T
        ax.plot(*points, style, fillstyle="full" if scale == 1 else "none", label=f"encoder {scale:g} ×, lr {lr:g}")
    ax.set(title="0.1 × forgets less at either rate; at the low rate it gains less")
    ax.set(xlabel="loss on normal pictures (old): further right = more forgotten", ylabel="loss on negatives (new)")
    ax.legend()
    return figure
