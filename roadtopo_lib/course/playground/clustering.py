"""Clustering at the speed of a hand: as ``LanePostProcessor`` does it, with fewer pixels for the slowest method.

Axes: D embedding dimensions, (H, W) size of the image, N pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import pairwise_distances_argmin_min
from threadpoolctl import threadpool_limits

from roadtopo_lib.labels import CROSSWALK_CLASS_IDS, LANE_CLASS_IDS
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.postprocess import class_mask, cluster_embeddings
from roadtopo_lib.postprocess.clustering import MIN_POINTS, QUADRATIC_POINTS, spread, squared_distances

SLOW_METHODS = {"meanshift": 200, "dbscan": QUADRATIC_POINTS}
"""Methods of ``cluster_embeddings`` that take longer than a hand waits, and the most pixels that each gets here: mean
shift takes seconds for the thousands of a frame, a fraction of one for these. For DBSCAN it is the library's limit."""

ROWS = 1000
"""Rows of the matrix of distances that are computed at once."""


@dataclass(frozen=True)
class Separated:
    """The lane and crosswalk pixels of one frame with their clusters.

    Attributes:
        lanes: (N,) flat indices of the lane pixels, ascending, and (N,) cluster of each, -1 = none.
        crosswalks: the same of the crosswalk pixels.
        used: lane pixels that were clustered themselves; the others go with the nearest of them.
    """

    lanes: tuple[np.ndarray, np.ndarray]
    crosswalks: tuple[np.ndarray, np.ndarray]
    used: int


def cluster_quickly(x: np.ndarray, radius: float, method: str) -> tuple[np.ndarray, int]:
    """``cluster_embeddings``; a slow method gets some of the embeddings, and the others go with the nearest of these.

    So does the library with more than ``QUADRATIC_POINTS``. With "dbscan" the labels are the library's, too.

    Args:
        x: (N, D) float.
        radius: in embedding units.
        method: of ``cluster_embeddings``.

    Returns:
        (N,) labels, -1 = none, and how many of the embeddings were clustered themselves.
    """
    if method not in SLOW_METHODS:
        return cluster_embeddings(x, radius, method), len(x)
    # On a busy machine scikit-learn's threads wait for each other, up to ten times as long as one needs alone.
    with threadpool_limits(1):
        some = x[spread(len(x), SLOW_METHODS[method])]
        labels = dbscan(some, radius) if method == "dbscan" else cluster_embeddings(some, radius, method)
        if len(some) == len(x):
            return labels, len(x)
        nearest, distance = pairwise_distances_argmin_min(x, some)  # (N, D), (S, D) → (N,), (N,)
        labels = labels[nearest]
        return np.where(distance <= radius, labels, -1) if method == "dbscan" else labels, len(some)


def dbscan(x: np.ndarray, radius: float) -> np.ndarray:
    """The labels of scikit-learn's ``DBSCAN(radius, min_samples=MIN_POINTS)``, from one matrix of who is near whom.

    scikit-learn lists the neighbours of every point: up to five times as slow where everything is near everything.

    Args:
        x: (N, D) float.
        radius: in embedding units.

    Returns:
        (N,) labels, -1 = none.
    """
    x = x.astype(np.float64)
    near = np.empty((len(x), len(x)), bool)  # (N, N)
    for start in range(0, len(x), ROWS):
        near[start : start + ROWS] = squared_distances(x[start : start + ROWS], x) <= radius**2
    waiting = near.sum(axis=1) >= MIN_POINTS  # core points, until a cluster has them
    labels = np.full(len(x), -1)
    while waiting.any():
        front = np.flatnonzero(waiting)[:1]
        cluster = labels.max() + 1
        while len(front):
            waiting[front] = False
            reached = near[front].any(axis=0)
            labels[reached & (labels < 0)] = cluster
            front = np.flatnonzero(reached & waiting)
    return labels


def separate(
    semantic_mask: np.ndarray, embeddings: np.ndarray | torch.Tensor, first_row: int, radius: float, method: str
) -> Separated:
    """Clusters the lane pixels of a frame, and its crosswalk pixels.

    Args:
        semantic_mask: (H, W) class ids.
        embeddings: (D, h, w) float, h and w at most the image's.
        first_row: image row where the embeddings begin.
        radius: clustering radius, in embedding units.
        method: of ``cluster_embeddings``.
    """
    height, width = semantic_mask.shape
    embeddings = torch.as_tensor(embeddings)
    groups, used = [], []
    for class_ids in (LANE_CLASS_IDS, CROSSWALK_CLASS_IDS):
        pixels = np.flatnonzero(class_mask(semantic_mask, class_ids))
        rows, columns = np.maximum(pixels // width - first_row, 0), pixels % width
        place = (torch.from_numpy(index) for index in (np.zeros_like(rows), rows, columns))
        vectors = gather_embeddings(embeddings[None], *place, (height - first_row, width)).numpy()  # (N, D)
        labels, count = cluster_quickly(vectors, radius, method)
        groups.append((pixels, labels))
        used.append(count)
    return Separated(*groups, used[0])


def adjusted_rand_index(true: np.ndarray, labels: np.ndarray) -> float:
    """How well clusters agree with the truth: 1 for the same partition, about 0 for chance.

    Args:
        true: (N,) ids.
        labels: (N,) clusters, -1 = none. That is not one more cluster: each such point stands alone.

    Reference:
        L. Hubert, P. Arabie, "Comparing partitions", Journal of Classification 1985.
    """
    alone = np.where(labels < 0, labels.max(initial=0) + 1 + np.arange(len(labels)), labels)

    def pairs(ids: np.ndarray) -> float:
        """Pairs of points with the same id."""
        counts = np.unique(ids, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1)).sum()) / 2

    # scikit-learn's adjusted_rand_score checks its input for longer than it counts.
    in_true, in_alone = pairs(true), pairs(alone)
    in_both = pairs(true.astype(np.int64) * (int(alone.max(initial=0)) + 1) + alone)
    by_chance = in_true * in_alone / max(1, len(true) * (len(true) - 1) / 2)
    most = (in_true + in_alone) / 2
    return 1.0 if most == by_chance else (in_both - by_chance) / (most - by_chance)
