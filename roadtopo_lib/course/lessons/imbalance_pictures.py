"""Tables and pictures of elective 1."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.course.lessons.imbalance import LOSSES, row_of
from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.losses import WEIGHT_METHODS, weights_from_counts

MARKERS = "osD^vP*"


def weight_table(dataset: LaneInstanceDataset) -> str:
    """A line for each class: its share of the pixels, and its weight by each method."""
    pixels, around = count_class_pixels(dataset, dataset.num_classes)
    columns = [weights_from_counts(pixels, method, image_pixels=around).tolist() for method in WEIGHT_METHODS]
    lines = [f"{'class':14s} {'pixels':>8s}" + "".join(f"{method:>18s}" for method in WEIGHT_METHODS)]
    for name, share, *weights in zip(dataset.classes.names, (pixels / pixels.sum()).tolist(), *columns, strict=True):
        lines.append(f"{name:14s} {share:8.2%}" + "".join(f"{weight:18.2f}" for weight in weights))
    return "\n".join(lines)


def contest_table(measured: dict, rarity: str, name: str = "crosswalk") -> str:
    """A line for each loss: IoU of a class, or ``mean``; its interval; the difference to CE and its p-value."""
    lines = [f"{'loss':20s} {'IoU':>6s}  {'95 % interval':15s}  {'minus CE':17s}  p"]
    for row in (row for row in measured["rows"] if row["rarity"] == rarity):
        low, high = row["interval"][name]
        line = f"{row['loss']:20s} {np.mean(row['iou'][name]):6.3f}  {low:.3f} … {high:.3f}"
        if "minus_ce" in row:
            low, high = row["minus_ce"][name]
            line += f"  {low:+.3f} … {high:+.3f}  {row['p'][name]:.2g}"
        lines.append(line)
    return "\n".join(lines)


def draw_contest(measured: dict, name: str = "crosswalk") -> tuple[Figure, str]:
    """Each loss's IoU of a class with its interval, as the class becomes rarer: figure, and what it shows."""
    rarities = measured["rarities"]
    figure, ax = plt.subplots(figsize=(8, 3.2))
    for place, (loss, marker) in enumerate(zip(LOSSES, MARKERS, strict=True)):
        rows = [row_of(measured, loss, rarity) for rarity in rarities]
        means = np.array([np.mean(row["iou"][name]) for row in rows])
        ends = np.array([row["interval"][name] for row in rows]).T  # (2, rarities)
        x = np.arange(len(rows)) + 0.11 * (place - (len(LOSSES) - 1) / 2)
        # The mean may lie outside of a bootstrap's interval by rounding.
        ax.errorbar(x, means, np.maximum(0, [means - ends[0], ends[1] - means]), fmt=marker, label=loss)
    ax.set(ylabel=f"IoU, {name}", ylim=(0, None), xlabel="training scenes that show their crossing")
    shown = ["all" if every == 1 else f"one in {every}" for every in rarities.values()]
    ax.set_xticks(range(len(rarities)), [f"{rarity}: {words}" for rarity, words in zip(rarities, shown, strict=True)])
    ax.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    title = "Rare crossings gain by class weights, common ones do not"
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    return figure, f"IoU of the {name} by rarity and loss, with 95 % intervals."


def draw_gradients(gradients: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Bars of ``pixel_gradients``, a group for each loss."""
    figure, ax = plt.subplots(figsize=(9, 3))
    kinds = list(next(iter(gradients.values())))
    for place, (kind, hatch) in enumerate(zip(kinds, ("", "//", "..", "xx"), strict=True)):
        x = np.arange(len(gradients)) + 0.2 * (place - 1.5)
        ax.bar(x, [values[kind] for values in gradients.values()], 0.2, hatch=hatch, edgecolor="white", label=kind)
    ax.set(ylabel="gradient × pixels", yscale="log")
    ax.set_xticks(range(len(gradients)), list(gradients), rotation=20, ha="right")
    ax.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    return figure
