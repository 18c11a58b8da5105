"""Clustering at the speed of a hand: as ``LanePostProcessor`` does it, with fewer pixels for the slowest method.

Axes: D embedding dimensions, (H, W) size of the image, N pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from roadtopo_lib.labels import CROSSWALK_CLASS_IDS, LANE_CLASS_IDS
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.postprocess import class_mask, cluster_embeddings
from roadtopo_lib.postprocess.clustering import spread, squared_distances

SLOW_METHODS = ("meanshift", "dbscan")
"""Methods of ``cluster_embeddings`` that take longer than a hand waits, on all pixels of a frame."""

MEANSHIFT_PIXELS = 200
"""Pixels that mean shift gets: it takes seconds for the thousands of a frame, a fraction of one for these."""


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
    """``cluster_embeddings``; with "meanshift" of some of the embeddings, and the others go with the nearest of these.

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
        if method != "meanshift" or len(x) <= MEANSHIFT_PIXELS:
            return cluster_embeddings(x, radius, method), len(x)
        some = x[spread(len(x), MEANSHIFT_PIXELS)]
        nearest = squared_distances(x, some).argmin(axis=1)  # (N, D), (S, D) → (N,)
        return cluster_embeddings(some, radius, method)[nearest], len(some)


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
