"""Pictures of notebook 5."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.lessons.training import dataset
from roadtopo_lib.viz import color_semantic

STYLES = ("C0-", "C1--", "C2:", "C5-.")

Steps = Sequence[tuple[int, float]]


def gradients_and_paths(gradients: np.ndarray, paths: np.ndarray) -> Figure:
    """Gradients (steps, 3) of three weights, and how far an optimiser took each (steps + 1, 3), in learning rates."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    for weight, (style, width) in enumerate(zip(("C0-", "C1-", "C2-"), (8, 4.5, 1.5), strict=True)):
        left.semilogy(np.arange(1, len(gradients) + 1), gradients[:, weight], style, linewidth=width)
        right.plot(np.abs(paths[:, weight]), style, linewidth=width)
    left.set(title="Gradients of very different sizes …", xlabel="step", ylabel="gradient", ylim=(1e-3, 1e3))
    right.set(title="… move their weights equally far", xlabel="step", ylabel="way so far\n(learning rates)")
    return figure


def schedule(rate: Callable[[int, int, int], float], total: int, warmup: int) -> Figure:
    """The rate of each step, as a share of the full one."""
    figure, ax = plt.subplots(figsize=(7, 2.2))
    ax.plot(range(total), [rate(step, total, warmup) for step in range(total)], "C0.-")
    ax.axvspan(0, warmup, color="C1", alpha=0.25, linewidth=0, label="warm-up")
    ax.set(title="The rate rises in the warm-up, then falls along half a cosine")
    ax.set(xlabel="optimiser step", ylabel="share of the rate", ylim=(0, 1.1))
    ax.legend()
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
    """Rates of the steps that really happen, counted rightly and in batches."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    ax.plot([rate(step, 40, 4) for step in range(40)], "C0-", label="counted in optimiser steps")
    ax.plot([rate(4 * step, 40, 4) for step in range(40)], "C1--", label="counted in batches, four to a step")
    ax.set(title="A schedule that counts batches ends early")
    ax.set(xlabel="optimiser step that really happens", ylabel="share of the rate")
    ax.legend()
    return figure


def one_curve(whole: Steps, before: Steps, after: Steps) -> tuple[Figure, str]:
    """Loss by step of a run in one go, and of one that was stopped and resumed; the alt text."""
    figure, ax = plt.subplots(figsize=(7, 2.6))
    whole, before, after = (np.reshape(steps, (-1, 2)).T for steps in (whole, before, after))  # one may be empty
    ax.plot(*whole, color="0.8", linewidth=6, label="in one go")
    ax.plot(*before, "C0.-", linewidth=1, label="until the stop")
    ax.plot(*after, "C1.-", linewidth=1, label="after it, in a new trainer")
    ax.set(title="The interrupted run has one curve, that of a run in one go", xlabel="optimiser step", ylabel="loss")
    ax.legend()
    return figure, "Loss at each step: the curve of the interrupted run lies on that of the run in one go."


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
    """A point for each fine-tuning: loss on the old and on the new images.

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
    ax.set(xlabel="loss on normal images (old): further right = more forgotten", ylabel="loss on negatives (new)")
    ax.legend()
    return figure
