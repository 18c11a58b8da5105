"""Tables and pictures of elective 3."""

from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from roadtopo_lib.electives.night_ride import CLASSES
from roadtopo_lib.electives.night_ride_study import BASE, EDGES, bin_name, row_of
from roadtopo_lib.viz import contact_sheet

BRIGHTER = 2.2
"""Night scenes are shown so much brighter, or a page shows black."""


def brightened(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, by a gamma that leaves black and white, without most of the noise: it would fill a page."""
    image = cv2.GaussianBlur(cv2.bilateralFilter(image, 9, 60, 5), (0, 0), 0.8)
    return (255 * (image / 255) ** (1 / BRIGHTER)).round().astype(np.uint8)


def sheet_of(images: Sequence[np.ndarray], columns: int, title: str, width: float = 4.6) -> Figure:
    """Night scenes side by side, brightened."""
    sheet = contact_sheet([brightened(image) for image in images], columns)
    figure, ax = plt.subplots(figsize=(width, width * sheet.shape[0] / sheet.shape[1] + 0.4))
    ax.imshow(sheet)
    ax.axis("off")
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    return figure


def with_classes(figure: Figure) -> Figure:
    """The figure with the colours of the six classes and their names below it."""
    colors = np.array([row.color for row in CLASSES]) / 255
    handles = [Patch(facecolor=color, label=row.name) for row, color in zip(CLASSES, colors, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize="x-small", handlelength=1)
    return figure


def draw_metres(image: np.ndarray, ahead: np.ndarray) -> Figure:
    """A night scene, and beside it the bin of ``EDGES`` in which the ground under each pixel lies.

    Args:
        image: (H, W, 3) uint8.
        ahead: (H, W) metres, NaN where a pixel is not counted.
    """
    bins = np.searchsorted(EDGES, np.nan_to_num(ahead, nan=-1), side="right") - 1  # −1: nearer or not counted
    bins[bins == len(EDGES) - 1] = -1
    shades = plt.get_cmap("cividis_r")(np.linspace(0, 1, len(EDGES) - 1))
    figure, axes = plt.subplots(1, 2, figsize=(6, 2.3), layout="constrained")
    axes[0].imshow(brightened(image))
    axes[1].imshow(np.ma.masked_less(bins, 0), cmap=ListedColormap(shades), vmin=-0.5, vmax=len(shades) - 0.5)
    axes[1].set_facecolor("0.85")
    for ax, title in zip(axes, ("scene", "distance of the ground"), strict=True):
        ax.set(title=title, xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    handles = [Patch(facecolor=shade, label=bin_name(k)) for k, shade in enumerate(shades)]
    handles.append(Patch(facecolor="0.85", label="not counted"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize="x-small", handlelength=1)
    return figure


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A brightened image with the outline of a mask (H, W) bool in orange."""
    canvas = brightened(image)
    edges = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    canvas[edges] = (255, 140, 40)
    return canvas


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A grey image with a map (H, W) in [0, 1] over it, from transparent to red."""
    grey = cv2.cvtColor(brightened(image), cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2).astype(float)
    share = 0.8 * heat[..., None]
    return (grey * (1 - share) + share * np.array((238.0, 80.0, 60.0))).astype(np.uint8)


def choice_table(measured: dict, key: str) -> str:
    """A line for each choice: mean and least … greatest over the seeds, the difference to the preset and its p."""
    lines = [f"{key:22s} {'mean':>6s}  {'seeds':15s}  {'minus the preset':17s}  p"]
    for row in measured["rows"]:
        values = row["scores"][key]
        line = f"{row['choice']:22s} {np.mean(values):6.3f}  {min(values):.3f} … {max(values):.3f}"
        if row["choice"] != BASE:
            low, high = row["minus_preset"][key]
            line += f"  {low:+.3f} … {high:+.3f}  {row['p'][key]:.2g}"
        lines.append(line)
    return "\n".join(lines)


# What answers a question to the learner has its title and its words here, not in the cell that shows it.


def draw_choices(measured: dict, keys: Sequence[str]) -> tuple[Figure, str]:
    """Each choice minus the preset with its 95 % interval, a panel a score: figure, and what it shows."""
    rows = [row for row in measured["rows"] if row["choice"] != BASE]
    figure, axes = plt.subplots(1, len(keys), figsize=(9, 0.34 * len(rows) + 1.1), sharey=True, squeeze=False)
    for ax, key in zip(axes[0], keys, strict=True):
        base = np.mean(row_of(measured, BASE)["scores"][key])
        means = np.array([np.mean(row["scores"][key]) for row in rows]) - base
        ends = np.array([row["minus_preset"][key] for row in rows]).T  # (2, choices)
        # The mean may lie outside of a bootstrap's interval by rounding.
        ax.errorbar(means, range(len(rows)), xerr=np.maximum(0, [means - ends[0], ends[1] - means]), fmt="o")
        ax.axvline(0, color="0.5", lw=1)
        better = "less" if key.startswith("false road") else "more"
        ax.set(title=key, xlabel=f"minus the preset ({better} is better)")
        ax.locator_params(axis="x", nbins=3)
    axes[0, 0].set_yticks(range(len(rows)), [row["choice"] for row in rows])
    axes[0, 0].invert_yaxis()
    title = "The rate changes mIoU most; class weights raise the IoU of lane marks and lower mIoU"
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    return figure, f"Each choice minus the preset with 95 % intervals: {', '.join(keys)}."


def draw_false_road(shares: dict[str, Sequence[float]]) -> tuple[Figure, str]:
    """Share of undrivable pixels taken for road in each bin of distance, a line for each name; and what it shows."""
    figure, ax = plt.subplots(figsize=(7, 3))
    for (name, values), marker in zip(shares.items(), "osD^vP", strict=False):
        ax.plot(range(len(values)), 100 * np.asarray(values), marker=marker, label=name)
    ax.set_xticks(range(len(EDGES) - 1), [bin_name(k) for k in range(len(EDGES) - 1)])
    ax.set(xlabel="distance ahead", ylabel="taken for road, %", ylim=(0, None))
    ax.legend(fontsize="small")
    title = "False road is most frequent on near ground, and class weights raise it"
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    return figure, f"False road by distance for {', '.join(shares)}."


def draw_deletion(curves: dict[str, np.ndarray], title: str) -> Figure:
    """Probability of a class while the image is greyed out, a line for each order of deletion."""
    figure, ax = plt.subplots(figsize=(6, 3))
    for (name, curve), style in zip(curves.items(), ("-", "--", ":", "-."), strict=False):
        ax.plot(np.linspace(0, 100, len(curve)), curve, style, marker="o", ms=3, label=name)
    ax.set(xlabel="pixels greyed out, %", ylabel="probability of the class", ylim=(0, 1))
    ax.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    return figure
