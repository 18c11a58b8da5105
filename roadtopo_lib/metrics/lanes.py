"""Scores of lanes as curves, the way the two public lane benchmarks compute them, and curves out of instance masks.

CULane draws every lane as a wide line and compares the drawings (:class:`LaneF1`). TuSimple compares the x of both
lanes on fixed rows (:class:`TuSimpleScore`). Both need curves; masks on disk carry none, so
:func:`polylines_from_instances` finds the centre lines of the labelled lines.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree

from roadtopo_lib.labels import LINE_WIDTH
from roadtopo_lib.metrics.instances import MatchCounts, match_by_iou

CULANE_IMAGE_WIDTH = 1640
"""CULane's image width in pixels; lanes are drawn at this scale, whatever the size of the image."""

SPLINE_STEP = 8.0
"""Distance of successive points of a drawn curve, in pixels of the canvas. The chord of an arc of radius 100 px then
stays within 0.1 px of it."""

CULANE_POINTS_PER_PIECE = 50
"""CULane's benchmark draws 50 points per spline piece; never more here, however far away the points lie."""

MAX_COORDINATE = 1e5
"""Largest coordinate accepted, in pixels of the image: OpenCV draws with 32-bit integers."""


def interpolate_lane(polyline: np.ndarray, step: float = SPLINE_STEP) -> np.ndarray:
    """Points along the natural cubic spline through a lane's points.

    The spline runs over the distance along the polyline, for x and y separately, so that a lane may bend back or lie
    level. Two points give a straight line.

    Args:
        polyline: (M, 2) of (x, y), M ≥ 2, successive points distinct.
        step: distance of the result's points in pixels, about.

    Returns:
        (K, 2) float64 of (x, y), from the first point to the last.
    """
    distance = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(polyline, axis=0), axis=1))))  # (M,)
    pieces = min(int(np.ceil(distance[-1] / step)), CULANE_POINTS_PER_PIECE * (len(polyline) - 1))
    return make_interp_spline(distance, polyline, k=3, bc_type="natural")(np.linspace(0.0, distance[-1], pieces + 1))


class LaneF1(MatchCounts):
    """F1 of lanes drawn as wide lines: CULane's score.

    Every lane is drawn as a natural cubic spline on a canvas 1640 px wide; coordinates are scaled to it, so a line has
    the same share of the image's width at every resolution. Lanes are matched one to one by the IoU of the drawings,
    and a pair with an IoU above the threshold is a true positive. Counts are pooled over images. A lane of fewer than
    two distinct points overlaps nothing.

    One detail differs from CULane's program: curves are drawn with 1/16 px precision through a point every 8 px, theirs
    through a point every fraction of a pixel, each rounded to whole pixels. The drawings agree to 1 %.

    Args:
        width: line width as a fraction of the image width.
        iou_threshold: IoU that a match must exceed.

    Reference:
        X. Pan et al., "Spatial As Deep: Spatial CNN for Traffic Scene Understanding", AAAI 2018, section "Evaluation".
    """

    def __init__(self, width: float = LINE_WIDTH, iou_threshold: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.iou_threshold = iou_threshold

    def update(
        self,
        predicted_polylines: Sequence[np.ndarray],
        target_polylines: Sequence[np.ndarray],
        image_size: tuple[int, int],
    ) -> None:
        """Matches and counts the lanes of one image.

        Args:
            predicted_polylines: P arrays (M, 2) of (x, y) in pixels; points may lie outside the image.
            target_polylines: T such arrays.
            image_size: (H, W) in pixels.

        Raises:
            ValueError: a polyline is not (M, 2), or a coordinate is not finite or absurdly large.
        """
        iou = self.iou_matrix(predicted_polylines, target_polylines, image_size)
        matched, _ = match_by_iou(iou, self.iou_threshold)
        self.count(len(matched), *iou.shape)

    def iou_matrix(
        self,
        predicted_polylines: Sequence[np.ndarray],
        target_polylines: Sequence[np.ndarray],
        image_size: tuple[int, int],
    ) -> np.ndarray:
        """IoU of every predicted with every true lane, (P, T); arguments and errors as for :meth:`update`."""
        predicted = [self._draw(polyline, image_size) for polyline in predicted_polylines]
        target = [self._draw(polyline, image_size) for polyline in target_polylines]
        intersection = np.array([[_pixels(a & b) for b in target] for a in predicted], dtype=np.int64)
        intersection = intersection.reshape(len(predicted), len(target))  # also if one of them is 0
        area_p, area_t = (np.array([_pixels(bits) for bits in lanes], dtype=np.int64) for lanes in (predicted, target))
        union = area_p[:, None] + area_t[None] - intersection  # (P, T)
        return intersection / np.maximum(union, 1)

    def _draw(self, polyline: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """The lane drawn on the canvas, eight pixels to a byte: counting common pixels is then fast."""
        height, width = image_size
        scale = CULANE_IMAGE_WIDTH / width
        canvas = np.zeros((round(height * scale), CULANE_IMAGE_WIDTH), dtype=np.uint8)
        points = (_checked_polyline(polyline) + 0.5) * scale - 0.5  # pixel centres lie at integers on both scales
        moved = np.ones(len(points), dtype=bool)
        moved[1:] = np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3  # a spline needs distinct points
        points = points[moved]
        if len(points) >= 2:
            fraction_bits = 4
            curve = np.rint(interpolate_lane(points) * 2**fraction_bits).astype(np.int32)  # (K, 2)
            thickness = round(self.width * CULANE_IMAGE_WIDTH)
            cv2.polylines(canvas, [curve[:, None]], False, 1, thickness, cv2.LINE_8, fraction_bits)
        return np.packbits(canvas)


TUSIMPLE_PIXEL_THRESHOLD = 20.0
"""A point is right within this many pixels across the lane, in TuSimple's images of 1280×720."""

TUSIMPLE_MATCH_THRESHOLD = 0.85
"""Share of right points from which a true lane counts as found."""

TUSIMPLE_MAX_RUN_TIME_MS = 200.0
TUSIMPLE_MAX_EXTRA_LANES = 2
TUSIMPLE_COUNTED_LANES = 4
"""Beyond four true lanes, the worst one is forgiven."""

_ABSENT_X = -100.0


class TuSimpleScore:
    """Accuracy, false positives and false negatives as TuSimple's public benchmark computes them, mean over images.

    A true lane's score is the share of all rows on which its best prediction lies within 20 px / cos θ, θ being the
    lane's angle from the vertical; rows where both are absent are right. It is found if that share reaches 0.85. The
    benchmark does not match one to one: a prediction may find two true lanes, and false positives can then turn
    negative. A prediction slower than 200 ms, or of more than two lanes too many, scores accuracy 0, FP 0, FN 1.

    Attributes:
        images: number of images so far.

    Reference:
        TuSimple lane detection benchmark, 2017: https://github.com/TuSimple/tusimple-benchmark (evaluate/lane.py).
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums = np.zeros(3)  # accuracy, FP, FN

    def update(
        self,
        predicted_lanes: Sequence[Sequence[float]],
        target_lanes: Sequence[Sequence[float]],
        h_samples: Sequence[float],
        run_time_ms: float = 0.0,
    ) -> None:
        """Scores one image.

        Args:
            predicted_lanes: P lists of x in pixels of a 1280×720 image, one per row; negative (−2) = absent.
            target_lanes: T such lists.
            h_samples: y of the rows, in pixels.
            run_time_ms: time the prediction took, in milliseconds.

        Raises:
            ValueError: a lane has not one x per row, or there are no rows.
        """
        rows = np.asarray(h_samples, dtype=np.float64)  # (S,)
        predicted = _lane_table("predicted_lanes", predicted_lanes, rows)  # (P, S)
        target = _lane_table("target_lanes", target_lanes, rows)  # (T, S)
        self._sums += self._image_score(predicted, target, rows, run_time_ms)
        self.images += 1

    @staticmethod
    def _image_score(
        predicted: np.ndarray, target: np.ndarray, rows: np.ndarray, run_time_ms: float
    ) -> tuple[float, float, float]:
        if run_time_ms > TUSIMPLE_MAX_RUN_TIME_MS or len(predicted) > len(target) + TUSIMPLE_MAX_EXTRA_LANES:
            return 0.0, 0.0, 1.0
        thresholds = np.array([TUSIMPLE_PIXEL_THRESHOLD / np.cos(_lane_angle(lane, rows)) for lane in target])
        distance = np.abs(predicted[None] - target[:, None])  # (P, S), (T, S) → (T, P, S)
        right = distance < thresholds.reshape(-1, 1, 1)
        best = right.mean(axis=2).max(axis=1, initial=0.0)  # (T, P, S) → (T,)
        found = int((best >= TUSIMPLE_MATCH_THRESHOLD).sum())
        missed = len(target) - found
        score = best.sum()
        if len(target) > TUSIMPLE_COUNTED_LANES:
            score -= best.min()
            missed = max(missed - 1, 0)
        lanes = max(min(len(target), TUSIMPLE_COUNTED_LANES), 1)
        false_positives = (len(predicted) - found) / max(len(predicted), 1)  # 0 / 1 where nothing is predicted
        return float(score / lanes), false_positives, missed / lanes

    def accuracy(self) -> float:
        """Mean accuracy per image in [0, 1]; 0.0 before the first image."""
        return float(self._sums[0]) / max(self.images, 1)

    def fp(self) -> float:
        """Mean per image of (predicted − found) / predicted; 0.0 before the first image."""
        return float(self._sums[1]) / max(self.images, 1)

    def fn(self) -> float:
        """Mean per image of missed / true lanes; 0.0 before the first image."""
        return float(self._sums[2]) / max(self.images, 1)


CORE_SHARE = 0.7
"""A pixel belongs to a line's core if it is at least this share as deep inside as the deepest pixel near it."""

CORE_NEIGHBOURHOOD = 7
"""Side in pixels of "near it": about the width of a label line."""

SLAB_LENGTH = 4.0
"""Length in pixels of the slabs along a line; each gives one point of the centre line."""

REFINEMENTS = 2
"""Times that the slabs are laid anew along the centre line found so far. On a dashed line that turns from nearly level
to steep, the largest error is 3.3 px without refinement, 2.8 px with one, 0.8 px with two or more."""


def polylines_from_instances(instance_mask: np.ndarray, ids: Sequence[int]) -> list[np.ndarray]:
    """Centre lines of labelled lines: the true curves of a data set that stores masks only.

    The mean x of each row would do for upright lines. It fails on shallow ones, where a row cuts the line lengthwise,
    and at slanted ends, where a row holds only a corner of the line. So, for each instance:

    1. Keep the core of the line: the pixels deepest inside, by the distance transform. Its ends have no corners.
    2. Cut the core into slabs of 4 px across its main direction; the mean of a slab's pixels is a point of the line.
    3. Cut anew into slabs across the line found so far, twice: the slabs follow the bends, even past the level.

    Gaps (dashes, vehicles) simply hold no slab. The result may end up to half a line width before the line does.

    Args:
        instance_mask: (H, W) instance ids.
        ids: ids of the lines wanted.

    Returns:
        One (M, 2) float64 array of (x, y) per id, in the order of ``ids``, ordered along the line with the upper end
        first; (0, 2) for an id without a pixel, (1, 2) for a mere dot.

    Reference:
        T. Hastie, W. Stuetzle, "Principal Curves", Journal of the American Statistical Association, 1989 (steps 2, 3).
    """
    mask = np.asarray(instance_mask)
    return [_center_line(mask == i) for i in ids]


def _center_line(line: np.ndarray) -> np.ndarray:
    pixels = _core_pixels(line)  # (N, 2)
    if len(pixels) == 0:
        return np.zeros((0, 2))
    centered = pixels - pixels.mean(axis=0)
    main_direction = np.linalg.eigh(centered.T @ centered)[1][:, -1]  # eigenvector of the largest variance
    center_line = _slab_means(pixels, centered @ main_direction)  # (M, 2)
    for _ in range(REFINEMENTS):
        if len(center_line) < 2:
            break
        center_line = _slab_means(pixels, _position_along(center_line, pixels))
    return center_line if center_line[0, 1] <= center_line[-1, 1] else center_line[::-1]


def _core_pixels(line: np.ndarray) -> np.ndarray:
    """(N, 2) float64 (x, y) of the pixels about half way between the two sides of a line."""
    x, y, width, height = cv2.boundingRect(line.astype(np.uint8))
    # One pixel more on each side where the image has it; its own edge is no side of the line.
    left, top = max(x - 1, 0), max(y - 1, 0)
    cut = np.ascontiguousarray(line[top : y + height + 1, left : x + width + 1], dtype=np.uint8)
    if not cut.any():
        return np.zeros((0, 2))
    depth = cv2.distanceTransform(cut, cv2.DIST_L2, 5)
    deepest = cv2.dilate(depth, np.ones((CORE_NEIGHBOURHOOD, CORE_NEIGHBOURHOOD), np.uint8))
    rows, columns = np.nonzero((cut > 0) & (depth >= CORE_SHARE * deepest))
    return np.column_stack((columns + left, rows + top)).astype(np.float64)


def _slab_means(pixels: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Mean of the pixels (N, 2) in each slab of the position (N,) along the line; empty slabs are left out."""
    slab = ((position - position.min()) / SLAB_LENGTH).astype(np.int64)
    count = np.bincount(slab)
    sums = np.column_stack([np.bincount(slab, weights=pixels[:, axis]) for axis in (0, 1)])  # (M, 2)
    return sums[count > 0] / count[count > 0, None]


def _position_along(center_line: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Distance along the line at which each pixel lies: that of the nearest point, plus the rest along the tangent."""
    distance = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(center_line, axis=0), axis=1))))  # (M,)
    tangent = np.gradient(center_line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    nearest = cKDTree(center_line).query(pixels)[1]  # (N,)
    return distance[nearest] + ((pixels - center_line[nearest]) * tangent[nearest]).sum(axis=1)


def _pixels(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum())


def _checked_polyline(polyline: np.ndarray) -> np.ndarray:
    points = np.asarray(polyline, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"a polyline has shape {points.shape}, expected (M, 2) of (x, y)")
    wrong = points[~(np.abs(points) < MAX_COORDINATE)]  # also catches NaN
    if wrong.size:
        raise ValueError(f"a polyline holds {wrong[0]}, expected finite coordinates in pixels of the image")
    return points


def _lane_table(name: str, lanes: Sequence[Sequence[float]], rows: np.ndarray) -> np.ndarray:
    """(N, S) float64 of x, absent points at one place far outside the image."""
    if rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"h_samples has shape {rows.shape}, expected at least one row")
    for i, lane in enumerate(lanes):
        if len(lane) != len(rows):
            raise ValueError(f"{name}[{i}] has {len(lane)} points, expected one per row of h_samples: {len(rows)}")
    table = np.asarray(lanes, dtype=np.float64).reshape(-1, len(rows))
    return np.where(table >= 0, table, _ABSENT_X)


def _lane_angle(lane: np.ndarray, rows: np.ndarray) -> float:
    """Angle from the vertical of the least-squares line x on y through a lane's points; 0 with fewer than two."""
    present = lane >= 0
    if present.sum() < 2:
        return 0.0
    x, y = lane[present], rows[present]
    y = y - y.mean()
    return float(np.arctan((y @ x) / (y @ y)))
