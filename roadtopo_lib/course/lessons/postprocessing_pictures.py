"""Pictures of notebook 6: roads side by side, points in embedding space, curves and bars."""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.postprocess import x_at_row
from roadtopo_lib.viz import overlay

COLORS = ("C0", "C1", "C3", "C5", "C4", "C6")
"""Of clusters; all from the course's colour-blind safe cycle."""
MARKERS = "os^vDP"


def roads(rows: list[list[tuple[np.ndarray, str]]], size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Pictures with titles, row by row: figure and (rows, columns) axes for what is drawn on top."""
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=size, squeeze=False)
    for ax, (picture, title) in zip(axes.flat, [pair for row in rows for pair in row], strict=True):
        ax.imshow(picture)
        ax.set(title=title, xticks=[], yticks=[], xlim=(0, picture.shape[1] - 1), ylim=(picture.shape[0] - 1, 0))
    return figure, axes


def dark(image: np.ndarray) -> np.ndarray:
    """An image in 16 dark shades of grey, so that colours stand out: (H, W, 3) uint8."""
    grey = cv2.cvtColor(cv2.medianBlur(image, 3), cv2.COLOR_RGB2GRAY)[..., None] // 16 * 6
    return np.repeat(grey, 3, axis=2)


def shades(image: np.ndarray) -> np.ndarray:
    """An image in eight shades of grey, so that its file stays small: (H, W, 3) uint8."""
    grey = cv2.cvtColor(cv2.medianBlur(image, 3), cv2.COLOR_RGB2GRAY)[..., None] // 32 * 36
    return np.repeat(grey, 3, axis=2)


def two_clouds(points: np.ndarray, labels: dict[str, np.ndarray]) -> Figure:
    """The same points (N, 2) once for each title, in the colours of its labels, −1 grey."""
    figure, axes = plt.subplots(1, len(labels), figsize=(4 * len(labels), 2.9), sharey=True)
    for ax, (title, found) in zip(axes, labels.items(), strict=True):
        ax.scatter(*points.T, s=4, color=[COLORS[k % len(COLORS)] if k >= 0 else "0.6" for k in found])
        ax.set(title=title, xlabel="dimension 1", ylabel="dimension 2", aspect="equal")
    return figure


def against_radius(radii: np.ndarray, ari: np.ndarray, radius: float, safe: tuple[float, float], title: str) -> Figure:
    """ARI over the clustering radius, with the radius in use and the safe band."""
    figure, ax = plt.subplots(figsize=(7, 2.6))
    ax.axvspan(*safe, color="0.9", label="safe radii")
    ax.plot(radii, ari, marker="o", markersize=4, label="cluster_embeddings")
    ax.axvline(radius, color="black", linestyle=":", label="δ_dist")
    ax.set(title=title, xlabel="radius (embedding units)", ylabel="ARI to the truth")
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def times(seconds: dict[str, dict[int, float]], limit: float, title: str) -> Figure:
    """Seconds over the number of pixels for several methods, both axes logarithmic."""
    figure, ax = plt.subplots(figsize=(7, 3))
    for (method, of_sizes), marker, color in zip(seconds.items(), MARKERS, COLORS, strict=False):
        ax.loglog(list(of_sizes), list(of_sizes.values()), marker=marker, color=color, label=method)
    ax.axhline(limit, color="black", linestyle=":", label="one frame of a camera")
    ax.set(title=title, xlabel="lane pixels N", ylabel="time (s)")
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def bars(values: dict[str, float], title: str, xlabel: str) -> Figure:
    """Level bars between 0 and 1, each with its value."""
    figure, ax = plt.subplots(figsize=(8, 2.6))
    ax.bar_label(ax.barh(list(values), list(values.values())), fmt="%.2f", padding=3)
    ax.invert_yaxis()
    ax.set(title=title, xlabel=xlabel, xlim=(0, 1))
    return figure


def numbered_at_row(
    image: np.ndarray, lanes: list[np.ndarray], curves: list[np.ndarray], row: float, orders: dict[str, np.ndarray]
) -> Figure:
    """The lanes' pixels, their curves continued to a row or the image's edge, and there the numbers of each order.

    Args:
        image: (H, W, 3) uint8 RGB.
        lanes: flat pixel indices of each lane.
        curves: (M, 2) of each lane.
        row: the reference row in pixels.
        orders: indices of the lanes from left to right, by title.
    """
    height, width = image.shape[:2]
    figure, axes = roads([[(shades(image), title) for title in orders]], (7.0, 2.0))
    for ax, order in zip(axes[0], orders.values(), strict=True):
        for number, k in enumerate(order, start=1):
            start, stop = curves[k][-1], np.array([x_at_row(curves[k], row), row])
            edge = np.clip(stop[0], 0, width - 1)
            if edge != stop[0]:  # the lane leaves the image before it meets the row
                stop = start + (edge - start[0]) / (stop[0] - start[0]) * (stop - start)
            ax.scatter(lanes[k] % width, lanes[k] // width, s=0.3, color=COLORS[k])
            ax.plot(*np.transpose([start, stop]), "--", color=COLORS[k])
            beside = {0: f"← {number}", width - 1: f"{number} →"}.get(edge, str(number))
            place = np.clip(stop, (15, 15), (width - 24, 0.9 * height))
            plate = {"facecolor": COLORS[k], "edgecolor": "none", "pad": 2.5}
            ax.text(*place, beside, bbox=plate, ha="left" if edge == 0 else "center", va="center", color="white")
    return figure


def lanes_on(image: np.ndarray, mask: np.ndarray, polylines: list[np.ndarray]) -> np.ndarray:
    """Lanes painted and numbered over the dark image: (H, W, 3) uint8."""
    found = {"lane_instances": mask, "crosswalk_instances": np.zeros_like(mask), "lane_polylines": polylines}
    return overlay(dark(image), found, alpha=1.0)


def truth_and_found(image: np.ndarray, true: np.ndarray, mask: np.ndarray, polylines: list[np.ndarray]) -> list:
    """The true lanes with their numbers, and the lanes found with numbers and curves, as two pictures."""
    numbers = [np.argwhere(true == k)[:, ::-1] if k in true else np.zeros((1, 2)) for k in range(1, true.max() + 1)]
    return [lanes_on(0 * image, true, numbers), lanes_on(image, mask, polylines)]


def failures(cases: list[tuple[str, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], int]]) -> Figure:
    """Truth beside result, one scene a row; a white outline is the lane that the title speaks of.

    Args:
        cases: title, image, true ids (H, W), ids found (H, W), polylines found, id of the true lane.
    """
    rows = [list(zip(truth_and_found(*case[1:5]), ["truth", case[0]], strict=True)) for case in cases]
    figure, axes = roads(rows, (7.6, 1.6 * len(rows)))
    for pair, (_, image, true, *_, lane) in zip(axes, cases, strict=True):
        for ax in pair:
            ax.set_ylim(len(image) - 1, 0.27 * len(image))
            ax.contour(true == lane, [0.5], colors="white", linewidths=1)
    return figure
