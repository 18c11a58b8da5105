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
from dataclasses import dataclass

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
"""A line taken as given keeps its own curve where its points lie farther from the road's, on average, by so many line
widths. (Where a network drew the points the road knows better: lane F1 falls if such lines keep theirs.)"""

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
        residual: mean distance of the points from their curves, in pixels; a distance counts as one line width at most.
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
    # From a distance along the row to one across the line: a level line is far off in x when it is hardly off at all.
    across = np.concatenate([np.full(len(line[0]), _cosine(line[0], line[1])) for line in lines])
    points = (rows, columns, weights / weights.sum(), of_line, across)
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
    across: np.ndarray,
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
        residual = across * np.abs(columns - (basis @ coefficients)[:, :, 0])  # (G, P)
        weight = prior * np.clip(1 - (residual / (cutoff * unit)) ** 2, 0, None) ** 2
    lost = np.where(seen, np.minimum(residual, unit), unit)  # a horizon below the points explains none of them
    return coefficients[:, :, 0], (lost * weights).sum(axis=1)


def curves_of_road(
    lane_pixels: Sequence[np.ndarray],
    polylines: Sequence[np.ndarray],
    image_size: tuple[int, int],
    as_given: bool = False,
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Replaces the lanes' own curves by those of the road they share, where there is such a road.

    Every line of the road is drawn through all rows that any of them reaches, except where it would come too near
    another. Lanes whose pixels do not lie on the road's curve keep their own; mere blobs are dropped; two pieces of a
    line become one. The last two are not done with lanes taken as given.

    Args:
        lane_pixels: K arrays of flat pixel indices.
        polylines: the lanes' own curves, K arrays (M, 2) of (x, y).
        image_size: (H, W) in pixels.
        as_given: the lanes are right, not found by a network: each remains, and the road must fit its pixels as well
            as its own curve does.

    Returns:
        For each lane that remains, which of the given ones it consists of, longest first, and its polyline. All lanes
        with their own curves if they do not share a road.
    """
    height, width = image_size
    unit = line_width(width)
    points = [row_medians(pixels // width, pixels % width) for pixels in lane_pixels]
    road = fit_road([_thinned(*p) for p in points], image_size)
    if road is None or road.residual > TOLERANCE * unit:
        return [[k] for k in range(len(lane_pixels))], list(polylines)

    top = max(min(rows[0] for rows, _, _ in points), road.horizon + NEAREST_TO_HORIZON * height)
    rows = np.arange(np.ceil(top), max(rows[-1] for rows, _, _ in points) + 1)
    kept: list[tuple[list[int], np.ndarray, np.ndarray]] = []  # members, polyline, columns at all rows
    for k in np.argsort([-len(p[0]) for p in points], kind="stable"):
        line_rows, line_columns, _ = points[k]
        x = road.x(k, rows)
        across = 1 / np.hypot(np.gradient(x) if len(x) > 1 else 0.0, 1)  # from a distance along the row to one across
        on_curve = np.abs(np.interp(line_rows, rows, x) - line_columns) * np.interp(line_rows, rows, across)
        near = line_rows[on_curve < TOLERANCE * unit]
        shown = (x >= 0) & (x <= width - 1)
        own_x = np.interp(line_rows, polylines[k][:, 1], polylines[k][:, 0])
        off_own = np.abs(own_x - line_columns) * np.interp(line_rows, rows, across)
        worse = np.minimum(on_curve, unit).mean() - np.minimum(off_own, unit).mean() > WORSE * unit
        if len(near) < OWN_SHARE * len(line_rows) or shown.sum() < 2 or (as_given and worse):
            kept.append(([int(k)], polylines[k], np.full(len(rows), np.nan)))
            continue
        gaps = np.array([np.abs(columns - x) * across for _, _, columns in kept]).reshape(len(kept), len(rows))
        own = np.isin(rows, near)
        twins = np.flatnonzero(np.median(gaps[:, own], axis=1) < SAME_LINE * unit)  # never true of NaN
        if len(twins) and not as_given:
            kept[twins[0]][0].append(int(k))
            continue
        # Beyond its own pixels a line is continued only while it keeps its distance from the others.
        crowded = (gaps < LINE_SPACING * unit).any(axis=0) & ((rows < near[0]) | (rows > near[-1]))
        shown &= ~crowded
        length = 1 / across[shown]  # of the curve in each row
        spanned = (rows >= near[0]) & (rows <= near[-1])  # gaps between dashes and vehicles on the way belong to it
        if not as_given and length[spanned[shown]].sum() <= SUPPORT * length.sum():
            continue
        if shown.sum() < 2:
            kept.append(([int(k)], polylines[k], np.full(len(rows), np.nan)))
            continue
        chosen = np.unique(np.append(np.arange(0, shown.sum(), int(STEP) // 2), shown.sum() - 1))
        polyline = np.stack([x[shown][chosen], rows[shown][chosen]], axis=1)
        kept.append(([int(k)], polyline, x))
    return [members for members, _, _ in kept], [polyline for _, polyline, _ in kept]


def _cosine(rows: np.ndarray, columns: np.ndarray) -> float:
    """Cosine of the angle between the vertical and the diagonal of the box around a line's (M,) points."""
    return float(1 / np.hypot(1, np.ptp(columns) / max(np.ptp(rows), 1)))


def _thinned(rows: np.ndarray, columns: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most ``POINTS_PER_LINE`` points of a line, each with a weight that a usual row has in full."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), POINTS_PER_LINE)).astype(int)
    share = len(rows) / len(chosen)  # so that a long line weighs as much as it is long
    return rows[chosen], columns[chosen], share * np.minimum(count, np.median(count))[chosen] / count.max()
