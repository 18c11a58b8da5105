"""From the network's two outputs to ordered lanes and crosswalks.

* ``clustering``: embeddings → clusters.
* ``curves``: pixels of one lane → curve; curves → order left to right.
* ``road``: all lanes' curves together, for they share a road.
* here: ``LanePostProcessor``, which puts both together.

Nothing here needs torch: an exported model runs without it (``examples/onnx_lanes.py``). Tensors are taken, too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from roadtopo_lib.labels import CROSSWALK_CLASS_IDS, LANE_CLASS_IDS, NO_INSTANCE
from roadtopo_lib.postprocess.clustering import METHODS, as_float_array, cluster_embeddings, radius_from_margins
from roadtopo_lib.postprocess.curves import (
    center_on_curve,
    fit_lane_curve,
    order_left_to_right,
    x_at_row,
)
from roadtopo_lib.postprocess.road import curves_of_given_lanes, curves_of_road, fit_road
from roadtopo_lib.strips import values_at

if TYPE_CHECKING:
    import torch

__all__ = [
    "LanePostProcessor",
    "LaneResult",
    "as_class_mask",
    "center_on_curve",
    "cluster_embeddings",
    "collect_instances",
    "curves_of_road",
    "fit_lane_curve",
    "fit_road",
    "order_left_to_right",
    "radius_from_margins",
    "x_at_row",
]

MIN_PIXELS_SHARE = 1e-3
"""Default smallest instance as a share of the image's pixels: 131 pixels at 256×512, 922 at 720×1280."""

MIN_CONFIDENCE = 0.7
"""Probability from which a lane pixel decides about its lane's curve."""


class LaneResult(TypedDict):
    """What every method that finds lanes returns for one image, in the pixels of that image.

    N lanes and C crosswalks; points are (x, y).
    """

    semantic_mask: np.ndarray
    """(H, W) integer class ids."""
    lane_instances: np.ndarray
    """(H, W) int32: 0 = none, lanes 1..N left to right by where their curves meet the reference row."""
    lane_count: int
    """N."""
    lane_centers: np.ndarray
    """(N, 2) float: the point of each lane's curve at the mean row of its pixels."""
    lane_polylines: list[np.ndarray]
    """N float arrays (M, 2), each top to bottom."""
    crosswalk_instances: np.ndarray
    """(H, W) int32: 0 = none, crosswalks 1..C from near to far, by the row of their centres."""
    crosswalk_count: int
    """C."""
    crosswalk_centers: np.ndarray
    """(C, 2) float: mean of each crosswalk's pixels."""


class LanePostProcessor:
    """Semantic prediction and embeddings in, numbered lanes and crosswalks out.

    Args:
        delta_var: pull margin of the loss that trained the embeddings.
        delta_dist: push margin of that loss.
        method: "fast", "meanshift" or "dbscan", see ``cluster_embeddings``.
        radius: clustering radius; None derives it from the margins.
        min_pixels: smaller instances are dropped; None means 0.1 % of the image's pixels.
        reference_row: fraction of the image height where lanes are ordered left to right, 0 = top, 1 = bottom.
        road_model: fit the lanes' curves together where they share a road; off, each lane has the curve of its pixels.
        lane_class_ids: semantic classes whose pixels are separated into lanes.
        crosswalk_class_ids: semantic classes whose pixels are separated into crosswalks.

    Raises:
        ValueError: unknown method, negative min_pixels, non-positive radius, or margins that leave no room.
    """

    def __init__(
        self,
        delta_var: float = 0.5,
        delta_dist: float = 1.5,
        method: str = "fast",
        radius: float | None = None,
        min_pixels: int | None = None,
        reference_row: float = 0.9,
        road_model: bool = True,
        lane_class_ids: Sequence[int] = LANE_CLASS_IDS,
        crosswalk_class_ids: Sequence[int] = CROSSWALK_CLASS_IDS,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        if min_pixels is not None and min_pixels < 0:
            raise ValueError(f"min_pixels must be at least 0 or None, got {min_pixels}")
        if radius is not None and not radius > 0:
            raise ValueError(f"radius must be positive or None, got {radius}")
        self.method = method
        self.radius = radius_from_margins(delta_var, delta_dist) if radius is None else radius
        self.min_pixels = min_pixels
        self.reference_row = reference_row
        self.road_model = road_model
        self.lane_class_ids = lane_class_ids
        self.crosswalk_class_ids = crosswalk_class_ids

    def process(
        self,
        semantic_pred: "np.ndarray | torch.Tensor",
        embeddings: "np.ndarray | torch.Tensor",
        first_row: int = 0,
        confidence: np.ndarray | None = None,
    ) -> LaneResult:
        """Separate one image's lanes and crosswalks.

        Args:
            semantic_pred: (H, W) integer class ids.
            embeddings: (D, H, W) float, or (D, h, w) at a lower resolution: then read at the pixels of the lane and
                crosswalk classes only, bilinearly, as ``F.interpolate(align_corners=False)`` to (H, W) would give them.
            first_row: the image row where the embeddings begin, if they cover its lower part only; lane and crosswalk
                pixels above it take the embedding at the edge.
            confidence: (H, W) probability that a pixel is of a lane class. Only pixels with at least 0.7 then decide
                where a lane's curve runs, and a lane without enough of them is dropped; its mask keeps them all. Dice
                makes predicted lines too wide rather than too narrow, and their rims are what lies off the curve.
                Lanes that span less than a fifth of their road's curve are dropped, too, and lanes on one curve become
                one. Without it mask and embeddings are taken at their word: no lane of ``min_pixels`` is dropped or
                joined with another.

        Returns:
            A ``LaneResult``.

        Raises:
            ValueError: wrong shapes or types, or embeddings that are not finite.
        """
        semantic_mask = as_class_mask(semantic_pred)
        embeddings = as_float_array(embeddings, "embeddings")
        height, width = semantic_mask.shape
        if not 0 <= first_row < height:
            raise ValueError(f"first_row must be a row of the image, 0..{height - 1}, got {first_row}")
        size = (height - first_row, width)  # what the embeddings cover
        shape = embeddings.shape
        if len(shape) != 3 or 0 in shape or shape[1] > size[0] or shape[2] > size[1]:
            raise ValueError(f"embeddings must have shape (D, h, w) with h ≤ {size[0]} and w ≤ {size[1]}, got {shape}")

        groups = []
        for class_ids in (self.lane_class_ids, self.crosswalk_class_ids):
            pixels = np.flatnonzero(class_mask(semantic_mask, class_ids))
            rows, columns = np.maximum(pixels // width - first_row, 0), pixels % width  # of what the embeddings cover
            vectors = values_at(embeddings, rows, columns, size)  # (n, D)
            groups.append((pixels, cluster_embeddings(vectors, self.radius, self.method)))
        if confidence is not None and confidence.shape != semantic_mask.shape:
            raise ValueError(f"confidence must have shape {semantic_mask.shape}, got {confidence.shape}")
        return collect_instances(
            semantic_mask, *groups, self.min_pixels, self.reference_row, self.road_model, confidence
        )


def collect_instances(
    semantic_mask: np.ndarray,
    lanes: tuple[np.ndarray, np.ndarray],
    crosswalks: tuple[np.ndarray, np.ndarray],
    min_pixels: int | None = None,
    reference_row: float = 0.9,
    road_model: bool = True,
    confidence: np.ndarray | None = None,
) -> LaneResult:
    """Drop small instances, fit the lanes' curves, each and then together, put everything in order and number it.

    Args:
        semantic_mask: (H, W) class ids.
        lanes: (n,) flat indices of lane pixels into the mask, ascending, and (n,) labels, −1 = none.
        crosswalks: the same for crosswalk pixels.
        min_pixels: smaller instances are dropped; None means 0.1 % of the image's pixels.
        reference_row: fraction of the image height where lanes are ordered left to right.
        road_model: fit the lanes' curves together where they share a road, see ``road``.
        confidence: (H, W) in [0, 1], see ``LanePostProcessor.process``.

    Returns:
        A ``LaneResult`` whose ``semantic_mask`` is the one given.
    """
    height, width = semantic_mask.shape
    if min_pixels is None:
        min_pixels = max(1, round(MIN_PIXELS_SHARE * height * width))

    lane_pixels = _split(*lanes, min_pixels)
    if confidence is None:
        sure_pixels = lane_pixels
    else:
        sure = [pixels[confidence.ravel()[pixels] >= MIN_CONFIDENCE] for pixels in lane_pixels]
        lane_pixels = [p for p, core in zip(lane_pixels, sure, strict=True) if len(core) >= min_pixels]
        sure_pixels = [core for core in sure if len(core) >= min_pixels]
    polylines = [fit_lane_curve(pixels % width, pixels // width) for pixels in sure_pixels]
    if road_model:
        share_road = curves_of_given_lanes if confidence is None else curves_of_road
        members, polylines = share_road(sure_pixels, polylines, (height, width))
        lane_pixels = [np.unique(np.concatenate([lane_pixels[k] for k in lane])) for lane in members]
    order = order_left_to_right(polylines, reference_row * (height - 1))
    centers = [center_on_curve(polylines[i], lane_pixels[i] % width, lane_pixels[i] // width) for i in order]

    crossings = _split(*crosswalks, min_pixels)
    crossing_centers = np.array([((p % width).mean(), (p // width).mean()) for p in crossings]).reshape(-1, 2)
    near_to_far = np.argsort(-crossing_centers[:, 1], kind="stable")

    return {
        "semantic_mask": semantic_mask,
        "lane_instances": _paint((height, width), [lane_pixels[i] for i in order]),
        "lane_count": len(order),
        "lane_centers": np.array(centers).reshape(-1, 2),
        "lane_polylines": [polylines[i] for i in order],
        "crosswalk_instances": _paint((height, width), [crossings[i] for i in near_to_far]),
        "crosswalk_count": len(crossings),
        "crosswalk_centers": crossing_centers[near_to_far],
    }


def as_class_mask(semantic_pred: "np.ndarray | torch.Tensor") -> np.ndarray:
    """(H, W) array of class ids from an array or tensor.

    Raises:
        ValueError: not two-dimensional, empty, or not of an integer type.
    """
    mask = semantic_pred.detach().cpu().numpy() if hasattr(semantic_pred, "detach") else np.asarray(semantic_pred)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "iu":
        raise ValueError(
            f"semantic_pred must be an (H, W) integer mask of class ids, got shape {mask.shape} of {mask.dtype}"
        )
    return mask


def class_mask(semantic_mask: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """(H, W) bool: where the mask holds one of the classes (five times faster than ``np.isin`` for a few classes)."""
    found = np.zeros(semantic_mask.shape, dtype=bool)
    for class_id in class_ids:
        found |= semantic_mask == class_id
    return found


def _split(pixels: np.ndarray, labels: np.ndarray, min_pixels: int) -> list[np.ndarray]:
    """Pixels of each label with at least ``min_pixels`` of them, in their original order."""
    pixels, labels = pixels[labels >= 0], labels[labels >= 0]
    groups = np.split(pixels[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels)))[:-1]
    return [group for group in groups if len(group) >= max(min_pixels, 1)]


def _paint(size: tuple[int, int], groups: list[np.ndarray]) -> np.ndarray:
    """(H, W) int32 mask with the id 1, 2, … on the pixels of each group."""
    mask = np.full(size[0] * size[1], NO_INSTANCE, dtype=np.int32)
    for instance, pixels in enumerate(groups, start=1):
        mask[pixels] = instance
    return mask.reshape(size)


def all_instances(result: LaneResult) -> np.ndarray:
    """Lanes 1..N and crosswalks N+1.. in one (H, W) int32 mask, as instance masks on disk have them."""
    ids, crosswalks = result["lane_instances"].astype(np.int32), result["crosswalk_instances"]
    return np.add(crosswalks, result["lane_count"], out=ids, where=(ids == 0) & (crosswalks > 0))
