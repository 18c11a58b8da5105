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


# What answers a question to the learner has its title and its words here, not in the cell that shows it.


def two_clouds(points: np.ndarray, by_dbscan: np.ndarray, by_fast: np.ndarray) -> tuple[Figure, str]:
    """The same points (N, 2) in the colours of two methods' clusters (N,), −1 grey: figure, and what it shows."""
    labels = {"DBSCAN joins across the bridge": by_dbscan, '"fast" keeps the two lanes': by_fast}
    figure, axes = plt.subplots(1, len(labels), figsize=(4 * len(labels), 2.9), sharey=True)
    for ax, (title, found) in zip(axes, labels.items(), strict=True):
        ax.scatter(*points.T, s=4, color=[COLORS[k % len(COLORS)] if k >= 0 else "0.6" for k in found])
        ax.set(title=title, xlabel="dimension 1", ylabel="dimension 2", aspect="equal")
    return figure, "The same points, coloured by the lanes of DBSCAN and of the library's method."


def against_radius(radii: np.ndarray, ari: np.ndarray, radius: float, safe: tuple[float, float]) -> tuple[Figure, str]:
    """ARI over the clustering radius, with the radius in use and the safe band: figure, and what it shows."""
    figure, ax = plt.subplots(figsize=(7, 2.6))
    ax.axvspan(*safe, color="0.9", label="safe radii")
    ax.plot(radii, ari, marker="o", markersize=4, label="cluster_embeddings")
    ax.axvline(radius, color="black", linestyle=":", label="δ_dist")
    ax.set_title("All five lanes are found far beyond the safe radii")
    ax.set(xlabel="radius (embedding units)", ylabel="ARI to the truth")
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure, "ARI over the radius; the safe radii are a grey band."


def times(seconds: dict[str, dict[int, float]], limit: float) -> tuple[Figure, str]:
    """Seconds over the number of pixels for several methods, both axes logarithmic: figure, and what it shows."""
    figure, ax = plt.subplots(figsize=(7, 3))
    for (method, of_sizes), marker, color in zip(seconds.items(), MARKERS, COLORS, strict=False):
        ax.loglog(list(of_sizes), list(of_sizes.values()), marker=marker, color=color, label=method)
    ax.axhline(limit, color="black", linestyle=":", label="one frame of a camera")
    ax.set(title="Methods that look at a sample are fast", xlabel="lane pixels N", ylabel="time (s)")
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure, "Time over the number of pixels for four methods, both axes logarithmic."


def six_scores(value: dict[str, float], pairs: list[tuple[str, str]]) -> tuple[Figure, str]:
    """Level bars of lane F1 for each pair of embeddings and components: figure, and what it shows."""
    ways = [way for better, other in pairs for way in (other, better)]
    figure, ax = plt.subplots(figsize=(8, 2.6))
    ax.bar_label(ax.barh(ways, [value[way] for way in ways]), fmt="%.2f", padding=3)
    ax.invert_yaxis()
    ax.set_title("The more the rest of the chain knows, the less embeddings add")
    ax.set(xlabel="lane F1 over 120 scenes", xlim=(0, 1))
    return figure, "Lane F1 of six ways as bars, components above embeddings in each pair."


def numbered_at_row(
    image: np.ndarray,
    lanes: list[np.ndarray],
    curves: list[np.ndarray],
    row: float,
    orders: dict[str, np.ndarray],
    true: list[np.ndarray],
) -> Figure:
    """The lanes' pixels, their curves continued to a row or the image's edge, and there the numbers of each order.

    Args:
        image: (H, W, 3) uint8 RGB.
        lanes: flat pixel indices of each lane.
        curves: (M, 2) of each lane.
        row: the reference row in pixels.
        orders: indices of the lanes from left to right, by title.
        true: (M, 2) of each true lane.
    """
    height, width = image.shape[:2]
    figure, axes = roads([[(shades(image), title) for title in orders]], (7.0, 2.0))
    for ax, order in zip(axes[0], orders.values(), strict=True):
        ax.axhline(row, color="white", linestyle=":", linewidth=1)
        for lane in true:
            ax.plot(*lane.T, color="white", linewidth=0.8)
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
