"""Thin things in masks: cleaned, thinned to their centre line, measured, bridged; and scores of two masks.

Morphology and components are OpenCV's; the skeleton is Zhang and Suen's, whose two passes are looked up in a table.

Reference:
    T. Y. Zhang, C. Y. Suen, "A Fast Parallel Algorithm for Thinning Digital Patterns", CACM 1984.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import binary_erosion, convolve, distance_transform_edt
from scipy.spatial import cKDTree
from sklearn.metrics import precision_recall_curve

RING = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]])
"""Bit of each neighbour, clockwise from north."""


def clean(mask: np.ndarray, opening: int = 1, min_pixels: int = 50, closing: int = 1) -> np.ndarray:
    """Opens a mask, closes it and drops small components: (H, W) bool → (H, W) bool.

    Args:
        mask: (H, W) bool.
        opening: side of the square in pixels; 1 opens nothing. What is thinner than the square vanishes whole.
        min_pixels: 8-connected components with fewer are dropped.
        closing: side of the square in pixels; 1 closes nothing. Gaps and holes that are thinner are filled. It comes
            after the opening, so that what the opening removes is joined to nothing.
    """
    result = mask.astype(np.uint8)
    for side, first, second in ((opening, cv2.erode, cv2.dilate), (closing, cv2.dilate, cv2.erode)):
        square, back = np.ones((side, side), np.uint8), (side - 1) // 2
        # An even square has no middle pixel: OpenCV's own opening takes one anchor twice and moves the mask by a pixel.
        result = second(first(result, square), square, anchor=(back, back))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(result, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= min_pixels
    kept[0] = False  # the background
    return kept[labels]


def _removable() -> np.ndarray:
    """(2, 256) bool: whether each pass of Zhang and Suen removes a pixel whose neighbours are these bits."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # P2 .. P9: north, north-east, ...
    count, rises = bits.sum(axis=1), ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(axis=1)
    north, east, south, west = bits[:, ::2].T
    border = (count >= 2) & (count <= 6) & (rises == 1)
    first = border & (north * east * south == 0) & (east * south * west == 0)
    return np.stack([first, border & (north * east * west == 0) & (north * south * west == 0)])


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Centre lines, one or two pixels wide, as connected as the mask: (H, W) bool → (H, W) bool."""
    thin, table = np.pad(mask.astype(np.uint8), 1), _removable()
    while True:
        before = np.count_nonzero(thin)
        for removable in table:
            thin[(thin > 0) & removable[convolve(thin.astype(np.int16), RING[::-1, ::-1], mode="constant")]] = 0
        if np.count_nonzero(thin) == before:
            return thin[1:-1, 1:-1] > 0


def widths_along(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) of the skeleton as (x, y), and the mask's width (n,) there in pixels.

    The width is twice the distance to the nearest pixel outside, less one: three for a line of three pixels.
    """
    rows, columns = np.nonzero(skeleton(mask))
    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return np.stack([columns, rows], axis=1), 2 * distance[rows, columns] - 1


def bridge(mask: np.ndarray, gap: float, angle: float = 30.0) -> np.ndarray:
    """Joins ends of roads that face each other: (H, W) bool → (H, W) bool.

    A straight stroke as wide as the narrower road is drawn between two ends of the skeleton whose roads both point
    along it. It also joins roads that end there in truth: what that costs is for the scores to say.

    Args:
        mask: (H, W) bool.
        gap: longest stroke in pixels.
        angle: degrees by which a road's direction may differ from the stroke's.
    """
    thin = skeleton(mask)
    neighbours = convolve(thin.astype(np.int16), np.ones((3, 3), np.int16), mode="constant") - 1
    ends = np.argwhere(thin & (neighbours == 1))[:, ::-1].astype(float)  # (n, 2) of (x, y)
    if len(ends) < 2:
        return mask.copy()
    points, widths = widths_along(mask)
    tree = cKDTree(points)
    _, labels = cv2.connectedComponents(thin.astype(np.uint8), connectivity=8)
    own = labels[ends[:, 1].astype(int), ends[:, 0].astype(int)]
    pointing = []
    for end, component in zip(ends, own, strict=True):
        near = points[tree.query_ball_point(end, 10)]
        direction = end - near[labels[near[:, 1], near[:, 0]] == component].mean(axis=0)
        pointing.append(direction / (np.linalg.norm(direction) + 1e-9))
    joined, least = mask.astype(np.uint8), np.cos(np.deg2rad(angle))
    for a, b in cKDTree(ends).query_pairs(gap):
        stroke = (ends[b] - ends[a]) / np.linalg.norm(ends[b] - ends[a])
        if stroke @ pointing[a] >= least and -stroke @ pointing[b] >= least:
            near = [np.median(widths[tree.query_ball_point(ends[end], 10)]) for end in (a, b)]
            corners = ends[[a, b]].round().astype(int).tolist()
            cv2.line(joined, *map(tuple, corners), 1, max(1, round(min(near))))
    return joined > 0


class MaskScores(NamedTuple):
    """Scores of two masks. Two empty masks agree: 1, 1, 0, 0. One empty mask: 0, 0, infinite, infinite."""

    iou: float
    dice: float
    hausdorff: float
    """Pixels: the greatest distance of an outline's pixel to the other outline."""
    hausdorff95: float
    """Pixels: the greater of the two directions' 95th percentiles."""


def compare_masks(predicted: np.ndarray, true: np.ndarray) -> MaskScores:
    """IoU, Dice and Hausdorff distances of two (H, W) bool masks.

    Raises:
        ValueError: different shapes.
    """
    if predicted.shape != true.shape or true.ndim != 2:
        raise ValueError(f"masks have shapes {predicted.shape} and {true.shape}, expected the same (H, W)")
    masks = predicted.astype(bool), true.astype(bool)
    sizes = [int(mask.sum()) for mask in masks]
    if not all(sizes):
        return MaskScores(0.0, 0.0, np.inf, np.inf) if any(sizes) else MaskScores(1.0, 1.0, 0.0, 0.0)
    both = int((masks[0] & masks[1]).sum())
    edges = [mask & ~binary_erosion(mask) for mask in masks]  # the image's edge is outline too
    distances = [distance_transform_edt(~edges[1 - side])[edges[side]] for side in (0, 1)]
    return MaskScores(
        both / (sum(sizes) - both),
        2 * both / sum(sizes),
        float(max(d.max() for d in distances)),
        float(max(np.percentile(d, 95) for d in distances)),
    )


def best_threshold(probabilities: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """The threshold with the greatest Dice (F1) on these pixels, and that Dice.

    Choose it on validation images and judge it on test images: on its own images it is flattered.

    Args:
        probabilities: of the class, any shape; a pixel is found if it is at least the threshold.
        true: bool, the same shape.

    Raises:
        ValueError: no pixel is true: then no threshold is better than another.
    """
    if not true.any():
        raise ValueError("no pixel has the class: nothing tells one threshold from another")
    precision, recall, thresholds = precision_recall_curve(true.ravel(), probabilities.ravel())
    dice = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(dice[:-1].argmax())  # the last point has no threshold
    return float(thresholds[best]), float(dice[best])
