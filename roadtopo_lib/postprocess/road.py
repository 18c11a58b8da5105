"""The lines of one road, fitted together: what one of them does not show, its neighbours know.

On flat ground and without roll, a pixel row y below the horizon h looks at the distance z = f·H / (y − h), with focal
length f and camera height H. A line u metres to the right on a road of heading φ and curvature κ lies at
X = u + φ·z + κ·z²/2 and is seen at x = x₀ + f·X / z. So all lines of a road have the form

    x_k(y) = a + b / (y − h) + s_k · (y − h)        a: heading, b: curvature, s_k: the line's offset over the height

and share h, a and b. A dashed line of which three dashes are seen cannot tell where it ends; the road can.

Reference:
    K. Kluge, "Extracting Road Curvature and Orientation From Image Edge Points Without Perceptual Grouping Into
    Features", IEEE Intelligent Vehicles Symposium 1994 (the form above);
    A. Blake, A. Zisserman, "Visual Reconstruction", 1987 (robust fitting with a shrinking cutoff).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roadtopo_lib.labels import LINE_SPACING, LINE_WIDTH
from roadtopo_lib.postprocess.curves import STEP, row_medians

POINTS_PER_LINE = 48
"""Rows of each line that take part in the fit."""

HORIZON_RANGE = (-0.16, 0.08)
"""Where the horizon is looked for, in image heights from the uppermost lane pixel: above it, or among strays."""

HORIZON_STEPS = (0.02, 0.005, 0.00125)
"""Distance of the horizons that are tried, in image heights: first coarse, then ever finer around the best."""

NEAREST_TO_HORIZON = 0.03
"""Rows closer to the horizon, in image heights, see too far to tell anything."""

CUTOFFS = (np.inf, 8.0, 4.0, 2.0, 1.0, 0.7, 0.7)
"""Residual beyond which a point counts for nothing, in line widths, one for each reweighting step."""

TOLERANCE = 0.65
"""In line widths: points this near to a curve lie on it, and a road with a larger mean residual is none."""

OWN_SHARE = 0.3
"""A line of which less lies on the road's curve is not of this road and keeps its own."""

WORSE = 0.1
"""A given line keeps its own curve if its points lie farther from the road's, on average, by so many line widths.
(Where a network drew the points the road's curve is the better one: lane F1 falls if such lines keep theirs.)"""

SUPPORT = 0.2
"""A line is dropped if from its first pixel to its last it spans less of its curve: a stray blob, not a line."""

SAME_LINE = 0.7
"""Two curves nearer than this, in line widths, are one line in two pieces."""


@dataclass(frozen=True)
class RoadFit:
    """The shared curve of a road's lines, see the module's text.

    Args:
        horizon: h, row in pixels.
        heading: a, x in pixels.
        curvature: b, in pixels².
        offsets: (K,) s_k, pixels per row.
        residual: mean distance of the points from their curves along the row, in pixels; a distance counts as one line
            width at most.
    """

    horizon: float
    heading: float
    curvature: float
    offsets: np.ndarray
    residual: float

    def x(self, line: int, rows: np.ndarray) -> np.ndarray:
        """Columns of line k at rows (M,) below the horizon."""
        below = rows - self.horizon
        return self.heading + self.curvature / below + self.offsets[line] * below


def line_width(image_width: int) -> float:
    """Width of a lane line in pixels, the unit of all tolerances here; see ``labels.LINE_WIDTH``."""
    return LINE_WIDTH * image_width


def fit_road(lines: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], image_size: tuple[int, int]) -> RoadFit | None:
    """Fits the shared curve by robust least squares, for every horizon of a grid, and keeps the best.

    Args:
        lines: K ≥ 2 tuples (rows, columns, weights) of (M_k,) points.
        image_size: (H, W) in pixels.

    Returns:
        The road; ``None`` if there are fewer than two lines or fewer points than unknowns.
    """
    height = image_size[0]
    if len(lines) < 2:
        return None
    rows, columns, weights = (np.concatenate([line[i] for line in lines]).astype(float) for i in range(3))  # (P,)
    of_line = np.repeat(np.eye(len(lines)), [len(line[0]) for line in lines], axis=0)  # (P, K)
    if len(rows) < 2 * (len(lines) + 2):
        return None
    points = (rows, columns, weights / weights.sum(), of_line)
    first, last = (rows.min() + height * edge for edge in HORIZON_RANGE)
    for step in HORIZON_STEPS:
        horizons = np.arange(first, last + 1e-9, height * step)
        coefficients, residual = _fit_for_horizons(horizons, *points, image_size)
        k = int(residual.argmin())
        first, last = horizons[k] - height * step, horizons[k] + height * step
    a, b, *offsets = coefficients[k] * np.array([1.0, height, *[1 / height] * len(lines)])
    return RoadFit(float(horizons[k]), float(a), float(b), np.array(offsets), float(residual[k]))


def _fit_for_horizons(
    horizons: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    of_line: np.ndarray,
    image_size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """One robust fit for each of G horizons: coefficients (G, 2 + K), rows in image heights, and residuals (G,)."""
    height, width = image_size
    unit = line_width(width)
    below = (rows - horizons[:, None]) / height  # (G, P)
    seen = below > NEAREST_TO_HORIZON
    below = np.where(seen, below, 1.0)[:, :, None]  # (G, P, 1)
    basis = np.concatenate([np.ones_like(below), 1 / below, of_line * below], axis=2)  # (G, P, 2 + K)
    prior = np.where(seen, weights, 0.0)  # (G, P)
    weight = prior
    for cutoff in CUTOFFS:
        weighted = basis * weight[:, :, None]
        normal = weighted.transpose(0, 2, 1) @ basis + 1e-9 * np.eye(basis.shape[2])  # (G, 2 + K, 2 + K)
        coefficients = np.linalg.solve(normal, weighted.transpose(0, 2, 1) @ columns[:, None])  # (G, 2 + K, 1)
        residual = np.abs(columns - (basis @ coefficients)[:, :, 0])  # (G, P)
        weight = prior * np.clip(1 - (residual / (cutoff * unit)) ** 2, 0, None) ** 2
    lost = np.where(seen, np.minimum(residual, unit), unit)  # a horizon below the points explains none of them
    return coefficients[:, :, 0], (lost * weights).sum(axis=1)


def curves_of_road(
    lane_pixels: Sequence[np.ndarray], polylines: Sequence[np.ndarray], image_size: tuple[int, int]
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Gives the lanes that a network found the curves of the road they share, where there is such a road.

    Four steps: *fit* the road; *assign* its curve to the lanes whose pixels lie on it, the others keep their own;
    *merge* two pieces of a line; *trim* each curve: it is drawn through all rows that any line reaches, except where it
    comes too near a longer line's, and a line whose pixels span less than a fifth of its curve is dropped.

    Args:
        lane_pixels: K arrays of flat pixel indices.
        polylines: the lanes' own curves, K arrays (M, 2) of (x, y).
        image_size: (H, W) in pixels.

    Returns:
        For each lane that remains, which of the given ones it consists of, longest first, and its polyline. All lanes
        with their own curves if they do not share a road.
    """
    lines = _lines_of_road(lane_pixels, polylines, image_size)
    if lines is None:
        return [[k] for k in range(len(polylines))], list(polylines)
    unit = line_width(image_size[1])
    return _trim(_merge(lines, unit), unit, min_span=SUPPORT)


def curves_of_given_lanes(
    lane_pixels: Sequence[np.ndarray], polylines: Sequence[np.ndarray], image_size: tuple[int, int]
) -> tuple[list[list[int]], list[np.ndarray]]:
    """As ``curves_of_road``, for lanes that are right: each remains, and none is merged with another.

    A lane whose own curve runs closer to its pixels than the road's keeps its own. Arguments and result are those of
    ``curves_of_road``.
    """
    lines = _lines_of_road(lane_pixels, polylines, image_size)
    if lines is None:
        return [[k] for k in range(len(polylines))], list(polylines)
    unit = line_width(image_size[1])
    lines = [line.off_road() if line.worse > WORSE * unit else line for line in lines]
    return _trim(lines, unit, min_span=0.0)


@dataclass(frozen=True)
class _Line:
    """A lane and its road's curve, on the R rows that any lane reaches.

    Args:
        members: the lanes that it consists of, longest first.
        own: (M, 2) polyline of its own curve.
        worse: pixels by which its points lie farther from the road's curve than from its own, on average.
        rows: (R,) the same for all lines.
        x: (R,) columns of the road's curve; NaN if the lane is not of this road.
        near: (R,) bool, rows where its points lie on the road's curve.
        shown: (R,) bool, rows where the road's curve is drawn.
    """

    members: list[int]
    own: np.ndarray
    worse: float
    rows: np.ndarray
    x: np.ndarray
    near: np.ndarray
    shown: np.ndarray

    def off_road(self) -> "_Line":
        """The same lane with its own curve."""
        nowhere = np.zeros(len(self.rows), dtype=bool)
        return replace(self, x=np.full(len(self.rows), np.nan), near=nowhere, shown=nowhere)

    def gap(self, other: "_Line") -> np.ndarray:
        """(R,) distance to another line's curve across this one, in pixels; NaN if one of them is not of the road."""
        return np.abs(other.x - self.x) * _across(self.x)

    def polyline(self) -> np.ndarray:
        """(M, 2) of (x, y)."""
        if not self.shown.any():
            return self.own
        shown = np.flatnonzero(self.shown)
        chosen = shown[np.unique(np.append(np.arange(0, len(shown), int(STEP) // 2), len(shown) - 1))]
        return np.stack([self.x[chosen], self.rows[chosen]], axis=1)


def _lines_of_road(
    lane_pixels: Sequence[np.ndarray], polylines: Sequence[np.ndarray], image_size: tuple[int, int]
) -> list[_Line] | None:
    """Fit and assign: the lanes with the curve of the road that they share; None if there is no such road."""
    width = image_size[1]
    # Of each lane: its rows, the median column and the number of its pixels in each of them.
    points = [row_medians(pixels // width, pixels % width) for pixels in lane_pixels]
    road = fit_road([_thinned(*p) for p in points], image_size)
    if road is None or road.residual > TOLERANCE * line_width(width):
        return None
    return _assign(road, points, polylines, image_size)


def _assign(
    road: RoadFit,
    points: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    polylines: Sequence[np.ndarray],
    image_size: tuple[int, int],
) -> list[_Line]:
    """The lanes with their road's curve, longest first; without it where too few of their points lie on it."""
    height, width = image_size
    unit = line_width(width)
    top = max(min(rows[0] for rows, _, _ in points), road.horizon + NEAREST_TO_HORIZON * height)
    rows = np.arange(np.ceil(top), max(rows[-1] for rows, _, _ in points) + 1)
    lines = []
    for k in np.argsort([-len(p[0]) for p in points], kind="stable"):
        own_rows, own_columns, _ = points[k]
        x = road.x(k, rows)
        across = np.interp(own_rows, rows, _across(x))
        off_road = np.abs(np.interp(own_rows, rows, x) - own_columns) * across
        off_own = np.abs(np.interp(own_rows, polylines[k][:, 1], polylines[k][:, 0]) - own_columns) * across
        worse = np.minimum(off_road, unit).mean() - np.minimum(off_own, unit).mean()
        near = off_road < TOLERANCE * unit
        shown = (x >= 0) & (x <= width - 1)
        near_rows = np.maximum(own_rows[near], rows[0])  # points above the first row count there
        line = _Line([int(k)], polylines[k], float(worse), rows, x, np.isin(rows, near_rows), shown)
        belongs = near.mean() >= OWN_SHARE and shown.sum() >= 2
        lines.append(line if belongs else line.off_road())
    return lines


def _merge(lines: list[_Line], unit: float) -> list[_Line]:
    """Lines on the same curve become one: the longest, with the members of all."""
    kept: list[_Line] = []
    for line in lines:
        same = (k for k, other in enumerate(kept) if np.median(line.gap(other)[line.near]) < SAME_LINE * unit)
        twin = next(same, None) if line.near.any() else None
        if twin is None:
            kept.append(line)
        else:
            kept[twin] = replace(kept[twin], members=kept[twin].members + line.members)
    return kept


def _trim(lines: list[_Line], unit: float, min_span: float) -> tuple[list[list[int]], list[np.ndarray]]:
    """Draws each line where it keeps its distance from those before it.

    Args:
        lines: longest first.
        unit: width of a line in pixels.
        min_span: a line is dropped if from its first point to its last it spans a smaller share of its curve.

    Returns:
        Members and polyline of each line that remains.
    """
    kept: list[_Line] = []
    for line in lines:
        crowded = np.zeros(len(line.rows), dtype=bool)
        for other in kept:
            crowded |= line.gap(other) < LINE_SPACING * unit  # never true of NaN
        # Gaps between dashes and vehicles on the way belong to the line, too.
        spanned = np.maximum.accumulate(line.near) & np.maximum.accumulate(line.near[::-1])[::-1]
        shown = line.shown & (spanned | ~crowded)
        if shown.sum() < 2:
            kept.append(line.off_road())
            continue
        length = np.where(shown, 1 / _across(line.x), 0.0)  # of the curve in each row
        if length[spanned].sum() >= min_span * length.sum():
            kept.append(replace(line, shown=shown))
    return [line.members for line in kept], [line.polyline() for line in kept]


def _across(x: np.ndarray) -> np.ndarray:
    """Factor from a distance along the row to one across the curve: (R,) columns in successive rows → (R,)."""
    return 1 / np.hypot(np.gradient(x) if len(x) > 1 else np.zeros(len(x)), 1)


def _thinned(rows: np.ndarray, columns: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most ``POINTS_PER_LINE`` points of a line, each with a weight that a usual row has in full."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), POINTS_PER_LINE)).astype(int)
    share = len(rows) / len(chosen)  # so that a long line weighs as much as it is long
    return rows[chosen], columns[chosen], share * np.minimum(count, np.median(count))[chosen] / count.max()
