"""A figure for safety: undrivable ground taken for road, by distance ahead.

A mean over all pixels hides where errors lie. Ground that is wrongly called road matters more the nearer it lies, and
the more of it there is: the figure is the share of the undrivable pixels that a model calls road, in bins of distance.

A pixel's distance is that of the flat ground it looks at. A wall or a tree that stands on it is nearer than this says.

Axes: B images, H and W image pixels, K bins.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from roadtopo_lib.electives.night_ride import LANE_MARK, NIGHT_ROAD, UNDRIVABLE
from roadtopo_lib.metrics.semantic import as_label_array
from roadtopo_lib.scenes import Camera


def metres_ahead(camera: Camera, corridor: float = math.inf) -> np.ndarray:
    """Distance ahead of the ground under each pixel.

    Args:
        camera: of the image.
        corridor: metres to each side of the camera; ground farther aside has no distance.

    Returns:
        (H, W) float32 metres; NaN from the horizon upwards and outside of the corridor.
    """
    ground = camera.ground()
    ahead = np.full(camera.size, np.nan, np.float32)
    ahead[ground.top :] = np.where(ground.seen & (np.abs(ground.x) <= corridor), ground.z, np.nan)
    return ahead


def rows_ahead(size: tuple[int, int]) -> np.ndarray:
    """For images of an unknown camera: height of each pixel, (H, W) float32, 0 at the lower edge, 1 at the upper."""
    height, width = size
    return np.repeat((1 - (np.arange(height, dtype=np.float32) + 0.5) / height)[:, None], width, axis=1)


class FalseRoad:
    """Counts undrivable pixels, and how many of them are taken for road, in bins of distance; images are pooled.

    Args:
        edges: (K + 1,) ascending: bin k goes from ``edges[k]`` to below ``edges[k + 1]``; in the unit of ``ahead``.
        undrivable: class ids that must not be driven on.
        road: class ids that are driven on.

    Attributes:
        wrong, total: (K,) int64: undrivable pixels that are called road, and all undrivable ones.

    Raises:
        ValueError: fewer than two edges, or edges that do not ascend.
    """

    def __init__(
        self, edges: Sequence[float], undrivable: Sequence[int] = (UNDRIVABLE,),
        road: Sequence[int] = (NIGHT_ROAD, LANE_MARK),
    ) -> None:  # fmt: skip
        self.edges = np.asarray(edges, float)
        if len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ValueError(f"edges is {list(edges)}, expected at least two numbers that ascend")
        self.undrivable, self.road = tuple(undrivable), tuple(road)
        self.wrong, self.total = np.zeros((2, len(self.edges) - 1), np.int64)

    def update(self, prediction: np.ndarray | Tensor, target: np.ndarray | Tensor, ahead: np.ndarray) -> None:
        """Counts one image or a batch.

        Args:
            prediction: (H, W) or (B, H, W) class ids.
            target: the same shape; other ids than those of ``undrivable`` are not counted, so neither is 255.
            ahead: the same shape, from ``metres_ahead`` or ``rows_ahead``; NaN is not counted.

        Raises:
            ValueError: shapes differ, or ids are no integers.
        """
        prediction, target = as_label_array(prediction, "prediction"), as_label_array(target, "target")
        if not prediction.shape == target.shape == ahead.shape:
            shapes = f"prediction {prediction.shape}, target {target.shape}, ahead {ahead.shape}"
            raise ValueError(f"{shapes}: expected the same shape")
        counted = np.isin(target, self.undrivable) & (ahead >= self.edges[0]) & (ahead < self.edges[-1])
        bins = np.searchsorted(self.edges, ahead[counted], side="right") - 1
        taken = np.isin(prediction[counted], self.road)
        self.total += np.bincount(bins, minlength=len(self.total))
        self.wrong += np.bincount(bins[taken], minlength=len(self.total))

    def shares(self) -> np.ndarray:
        """(K,) share of the undrivable pixels of each bin that is called road; NaN where a bin has none."""
        return np.divide(self.wrong, self.total, out=np.full(len(self.total), np.nan), where=self.total > 0)
