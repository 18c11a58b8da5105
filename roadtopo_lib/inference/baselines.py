"""Two ways to find lanes that the model has to beat.

* ``connected_components``: the model's semantic mask without its embeddings, its confidence and the road model. Shows
  what all that comes after the semantic head adds together; notebook 6 takes it apart.
* ``classical_lanes``: OpenCV without any learning. Shows what the network adds.

Both return a ``LaneResult``, as ``LanePostProcessor.process`` does.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from roadtopo_lib.labels import BACKGROUND, CROSSWALK_CLASS_IDS, LANE_CLASS_IDS, LANE_MARKING
from roadtopo_lib.postprocess import LaneResult, as_class_mask, class_mask, collect_instances, fit_lane_curve, x_at_row

WORKING_WIDTH = 640  # pixels to which the classical finder scales every image; the lengths below are in these
SKY_SHARE = 0.45  # the upper part of the image, where no road is expected
CONTRAST = 12.0  # grey levels by which paint is brighter than the asphalt on both of its sides
WIDTH_PER_ROW = 0.06  # of a marking, in columns per row below the horizon: 0.12 m, seen from 2 m above the road
MIN_SLOPE = 0.2  # rows per column: flatter segments are stop lines and shadows
MAX_SEGMENTS = 150  # segments that vote; the cost of voting grows with the third power of this
VANISHING_TOLERANCE = 10.0  # distance from the vanishing point at which a segment still points to it
LANE_GAP = 0.25  # lines whose directions differ by less, in columns per row below the vanishing point, are one lane
MIN_COVER = 0.15  # share of its rows on which a lane must show paint
FAR_END = 0.1  # lanes are drawn up to this share of the way from the vanishing point to the bottom of the image
DRAWN_WIDTH = 0.01  # of a drawn lane, as a share of the image width


def connected_components(
    semantic_pred: np.ndarray | torch.Tensor,
    min_pixels: int | None = None,
    reference_row: float = 0.9,
    lane_class_ids: Sequence[int] = LANE_CLASS_IDS,
    crosswalk_class_ids: Sequence[int] = CROSSWALK_CLASS_IDS,
) -> LaneResult:
    """Instances without embeddings: each 8-connected patch of a class is one.

    Fails where lines touch (near the horizon, at junctions) and where one line is in pieces (dashes, vehicles).

    Args:
        semantic_pred: (H, W) integer class ids.
        min_pixels: smaller patches are dropped; None means 0.1 % of the image's pixels.
        reference_row: fraction of the image height where lanes are ordered left to right.
        lane_class_ids: semantic classes that form lanes.
        crosswalk_class_ids: semantic classes that form crosswalks.

    Returns:
        A ``LaneResult``.

    Raises:
        ValueError: semantic_pred is not an (H, W) integer mask.
    """
    semantic_mask = as_class_mask(semantic_pred)
    groups = []
    for class_ids in (lane_class_ids, crosswalk_class_ids):
        found = class_mask(semantic_mask, class_ids)
        _, patches = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)  # 0 = elsewhere, patches from 1
        pixels = np.flatnonzero(found)
        groups.append((pixels, patches.ravel()[pixels] - 1))
    return collect_instances(semantic_mask, *groups, min_pixels, reference_row, road_model=False)


def classical_lanes(image: np.ndarray, reference_row: float = 0.9, lane_class_id: int = LANE_MARKING) -> LaneResult:
    """Lanes by classical image processing, without learning.

    Paint is a narrow strip brighter than the road on both sides. Hough segments on such pixels vote for a vanishing
    point; those that point to it are grouped by direction, and a robust curve is fitted to the paint along each
    group, then drawn from near the vanishing point to the bottom of the image. Finds no crosswalks and no kerbs.

    Args:
        image: (H, W, 3) uint8 RGB.
        reference_row: fraction of the image height where lanes are ordered left to right.
        lane_class_id: class of the drawn lanes in the semantic mask; the rest is background.

    Returns:
        A ``LaneResult``.

    Raises:
        ValueError: image is not (H, W, 3) uint8.

    Reference:
        Paint: T. Veit et al., "Evaluation of road marking feature extraction", ITSC 2008 (symmetrical local threshold).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}")
    height, width = image.shape[:2]
    scale = WORKING_WIDTH / width
    small = cv2.resize(image, (WORKING_WIDTH, max(2, round(height * scale))), interpolation=cv2.INTER_AREA)
    paint = _paint(small)
    segments = _segments(paint)
    vanishing = _vanishing_point(segments, paint.shape)

    instances = np.zeros((height, width), dtype=np.uint8)
    for number, curve in enumerate(_lane_curves(paint, segments, vanishing), start=1):
        corners = np.round(curve / scale * 16).astype(np.int32)  # OpenCV's fixed point: 1/16 pixel
        cv2.polylines(instances, [corners], False, number, max(2, round(DRAWN_WIDTH * width)), shift=4)
    pixels = np.flatnonzero(instances)
    semantic_mask = np.where(instances > 0, lane_class_id, BACKGROUND).astype(np.uint8)
    none = np.empty(0, dtype=np.int64)
    labels = instances.ravel()[pixels].astype(np.int64) - 1
    return collect_instances(
        semantic_mask, (pixels, labels), (none, none), reference_row=reference_row, road_model=False
    )


def _paint(image: np.ndarray) -> np.ndarray:
    """Where a pixel is brighter than the mean one marking's width to its left and to its right: (h, w) bool."""
    bright = image[..., :2].max(axis=2).astype(np.float32)  # red or green: white and yellow paint alike
    bright = cv2.GaussianBlur(bright, (3, 3), 0)
    height, width = bright.shape
    horizon = int(SKY_SHARE * height)
    marking = np.maximum(np.round(WIDTH_PER_ROW * (np.arange(height) - horizon)), 3).astype(np.int64)[:, None]  # (h, 1)
    column = np.arange(width)[None]
    total = np.cumsum(np.pad(bright, ((0, 0), (1, 0))), axis=1, dtype=np.float64)  # (h, w + 1)

    def mean(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        first = np.clip(first, 0, width - 1)
        last = np.clip(last, first + 1, width)
        return (np.take_along_axis(total, last, 1) - np.take_along_axis(total, first, 1)) / (last - first)

    left = mean(column - 2 * marking, column - marking)
    right = mean(column + marking + 1, column + 2 * marking + 1)
    paint = bright - np.maximum(left, right) > CONTRAST
    paint[:horizon] = False
    return paint


def _segments(paint: np.ndarray) -> np.ndarray:
    """The longest straight pieces of paint that are not too flat: (S, 4) of x1, y1, x2, y2."""
    found = cv2.HoughLinesP(paint.astype(np.uint8), 1, np.pi / 180, threshold=20, minLineLength=15, maxLineGap=6)
    segments = np.empty((0, 4)) if found is None else found.reshape(-1, 4).astype(np.float64)
    run, rise = segments[:, 2] - segments[:, 0], segments[:, 3] - segments[:, 1]
    steep = np.flatnonzero(np.abs(rise) >= MIN_SLOPE * np.abs(run))
    longest = np.argsort(-np.hypot(run, rise)[steep], kind="stable")[:MAX_SEGMENTS]
    return segments[steep[longest]]


def _vanishing_point(segments: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The crossing of two segments to which most segments point, weighted by length: (2,) of (x, y), or None."""
    ones = np.ones((len(segments), 1))
    start, stop = np.hstack([segments[:, :2], ones]), np.hstack([segments[:, 2:], ones])
    lines = np.cross(start, stop)  # (S, 3) homogeneous: a x + b y + c = 0
    length = np.hypot(lines[:, 0], lines[:, 1])
    lines /= length[:, None]
    first, second = np.triu_indices(len(lines), 1)
    crossing = np.cross(lines[first], lines[second])  # (P, 3) homogeneous points
    crossing = crossing[np.abs(crossing[:, 2]) > 0.1]  # 0.1 = sine of the angle between them: parallels cross anywhere
    point = crossing[:, :2] / crossing[:, 2:]
    inside = np.abs(point / (size[1], size[0]) - (0.5, 0.525)) < (0.7, 0.225)
    point = point[inside.all(axis=1)]
    if len(point) == 0:
        return None
    distance = np.abs(np.hstack([point, np.ones((len(point), 1))]) @ lines.T)  # (P, S)
    votes = np.maximum(1 - distance / VANISHING_TOLERANCE, 0) @ length
    return point[votes.argmax()]


def _lane_curves(paint: np.ndarray, segments: np.ndarray, vanishing: np.ndarray | None) -> list[np.ndarray]:
    """One curve, an (M, 2) array of (x, y), per group of segments that leave the vanishing point alike."""
    if vanishing is None:
        return []
    height, width = paint.shape
    run, rise = segments[:, 2] - segments[:, 0], segments[:, 3] - segments[:, 1]
    middle = (segments[:, :2] + segments[:, 2:]) / 2 - vanishing  # (S, 2) from the vanishing point
    miss = np.abs(middle[:, 0] * rise - middle[:, 1] * run) / np.hypot(run, rise)
    kept = (miss <= VANISHING_TOLERANCE) & (middle[:, 1] > 0)
    direction = np.sort(middle[kept, 0] / middle[kept, 1])  # columns per row
    groups = np.split(direction, np.flatnonzero(np.diff(direction) > LANE_GAP) + 1)

    y, x = np.nonzero(paint)
    x, y = x[y > vanishing[1] + 3], y[y > vanishing[1] + 3]
    rows = np.arange(int(vanishing[1]) + 1, height) - vanishing[1]
    curves = []
    for group in groups:
        if len(group) == 0:
            continue
        lead = np.median(group)
        depth = y - vanishing[1]
        near = np.abs((x - vanishing[0]) / depth - lead) <= np.minimum(LANE_GAP / 2 + 6 / depth, 0.5)
        visible = np.count_nonzero(np.abs(vanishing[0] + lead * rows - width / 2) < width / 2)
        if len(np.unique(y[near])) < max(MIN_COVER * visible, 2):
            continue
        curve = fit_lane_curve(x[near], y[near])
        curves.append(_complete(curve, vanishing[1] + FAR_END * (height - 1 - vanishing[1]), height - 1))
    return curves


def _complete(curve: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """The curve continued straight up to ``top`` and down to ``bottom``."""
    above = [[x_at_row(curve, top), top]] if top < curve[0, 1] else []
    below = [[x_at_row(curve, bottom), bottom]] if bottom > curve[-1, 1] else []
    return np.array([*above, *curve.tolist(), *below])
