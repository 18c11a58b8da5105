"""Pictures of notebook 6: several roads side by side, points in embedding space, a frame's pixels and cells."""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from roadtopo_lib.viz import INSTANCE_COLORS, overlay

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


def scatter(ax: Axes, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    """Points (N, 2) in the colour of their label, −1 grey."""
    ax.scatter(*points.T, s=4, color=[COLORS[k % len(COLORS)] if k >= 0 else "0.6" for k in labels])
    ax.set(title=title, xlabel="dimension 1", ylabel="dimension 2", aspect="equal")


def lanes_on(image: np.ndarray, mask: np.ndarray, polylines: list[np.ndarray]) -> np.ndarray:
    """Lanes painted and numbered over the dark image: (H, W, 3) uint8."""
    found = {"lane_instances": mask, "crosswalk_instances": np.zeros_like(mask), "lane_polylines": polylines}
    return overlay(dark(image), found, alpha=1.0)


def truth_and_found(image: np.ndarray, true: np.ndarray, mask: np.ndarray, polylines: list[np.ndarray]) -> list:
    """The true lanes with their numbers, and the lanes found with numbers and curves, as two pictures."""
    numbers = [np.argwhere(true == k)[:, ::-1] if k in true else np.zeros((1, 2)) for k in range(1, true.max() + 1)]
    return [lanes_on(0 * image, true, numbers), lanes_on(image, mask, polylines)]


def pixels_and_cells(
    pixels: np.ndarray, lane_of_pixel: np.ndarray, cells: np.ndarray, lane_of_cell: np.ndarray
) -> Figure:
    """Embeddings of pixels (N, D) and of map cells (M, D) in the plane in which the pixels spread most."""
    center = pixels.mean(axis=0)
    plane = np.linalg.svd(pixels - center, full_matrices=False)[2][:2]  # (2, D)
    figure, ax = plt.subplots(figsize=(7, 3.6))
    for lane, color, marker in zip(np.unique(lane_of_pixel), INSTANCE_COLORS / 255, MARKERS, strict=False):
        ax.scatter(*((pixels[lane_of_pixel == lane] - center) @ plane.T).T, s=1, color=color, alpha=0.6)
        own = (cells[lane_of_cell == lane] - center) @ plane.T
        ax.scatter(*own.T, s=26, color=color, marker=marker, edgecolor="black", linewidth=0.7, label=f"lane {lane}")
    title = "Large: cells of the map. Small: pixels interpolated between them"
    ax.set(title=title, xlabel="first component", ylabel="second component", aspect="equal")
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
