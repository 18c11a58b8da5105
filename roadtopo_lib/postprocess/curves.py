"""From a lane's pixels to its curve, and from curves to the order left to right.

A curve is a polyline, an (M, 2) array of (x, y) in pixels from top to bottom. In a road image a lane line runs from the
horizon down, so x is a function of y; only a line that is nearly level is fitted the other way round.
"""

from collections.abc import Sequence

import numpy as np

STEP = 8.0
"""Largest distance of two points of a fitted polyline, in rows: the chord of a 100 px arc stays within 0.1 px."""

STRAIGHT_ENOUGH = 0.7
"""Pixels. The degree is raised only while the typical residual is above this: less is rounding to whole pixels."""

LEVEL_RATIO = 3.0
"""A lane this many times wider than high is fitted as y over x."""

TUKEY_CUTOFF = 4.685
"""Residuals beyond this many standard deviations count for nothing (95 % efficiency on Gaussian noise)."""

ITERATIONS = 4
"""Reweighting steps per degree; the weights settle in three."""

END_SHARE = 0.2
"""Share of a polyline's points that gives the direction in which it is continued."""


def fit_lane_curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fit a smooth curve through a lane's pixels; stray pixels do not bend it.

    Each row's pixels become one point, their median. A polynomial through these points is fitted by iteratively
    reweighted least squares: first straight, then, while the residuals ask for it, quadratic and cubic.

    Args:
        x: (n,) columns of the pixels, n ≥ 1.
        y: (n,) rows of the pixels.

    Returns:
        (M, 2) float64 polyline of (x, y), top to bottom, from the first to the last row that follows the curve.

    Reference:
        Tukey's biweight: P. Huber, E. Ronchetti, "Robust Statistics", 2nd ed., 2009, sections 4.8 and 7.8.
    """
    low, high = np.quantile([x, y], (0.05, 0.95), axis=1)
    width, height = high - low
    if width <= LEVEL_RATIO * height:
        t, v = _fit(y, x, max_degree=3)
        return np.stack([v, t], axis=1)

    t, v = _fit(x, y, max_degree=2)
    if np.any(np.diff(v) > 0) and np.any(np.diff(v) < 0):  # a hump has no top and bottom: straighten it
        t, v = _fit(x, y, max_degree=1)
    polyline = np.stack([t, v], axis=1)
    return polyline[::-1] if v[-1] < v[0] else polyline


def center_on_curve(polyline: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The point of a lane's curve in the middle of its pixels: at their mean row, or column if it is nearly level.

    Args:
        polyline: (M, 2) of (x, y), top to bottom.
        x: (n,) columns of the pixels.
        y: (n,) rows of the pixels.

    Returns:
        (2,) as (x, y).
    """
    columns, rows = polyline.T
    if np.ptp(columns) <= LEVEL_RATIO * np.ptp(rows):
        return np.array([np.interp(y.mean(), rows, columns), np.clip(y.mean(), rows[0], rows[-1])])
    order = np.argsort(columns)
    columns, rows = columns[order], rows[order]
    return np.array([np.clip(x.mean(), columns[0], columns[-1]), np.interp(x.mean(), columns, rows)])


def x_at_row(polyline: np.ndarray, row: float) -> float:
    """Where a lane meets a row of the image.

    Above and below its ends the polyline is continued straight, in the direction of its last fifth: a fitted cubic
    would leave the image within a few rows.

    Args:
        polyline: (M, 2) of (x, y), top to bottom, M ≥ 1.
        row: y in pixels, inside the image or not.

    Returns:
        x in pixels.
    """
    x, y = polyline[:, 0], polyline[:, 1]
    if y[0] <= row <= y[-1]:
        return float(np.interp(row, y, x))
    count = max(2, int(np.ceil(END_SHARE * len(polyline))))
    end, edge = (polyline[:count], polyline[0]) if row < y[0] else (polyline[-count:], polyline[-1])
    run, rise = end[-1] - end[0]
    if rise <= 0:  # a single point or a level line meets no other row
        return float(edge[0])
    return float(edge[0] + (row - edge[1]) * run / rise)


def order_left_to_right(polylines: Sequence[np.ndarray], reference_row: float) -> np.ndarray:
    """Order of lanes by where they meet a row near the car.

    Args:
        polylines: (M, 2) arrays of (x, y), top to bottom.
        reference_row: y in pixels.

    Returns:
        (N,) int64 indices, leftmost lane first.
    """
    return np.argsort([x_at_row(polyline, reference_row) for polyline in polylines], kind="stable")


def _fit(t: np.ndarray, v: np.ndarray, max_degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Robust polynomial v(t), as points.

    Args:
        t: (n,) integers, one coordinate of the pixels.
        v: (n,) the other.
        max_degree: 1..3.

    Returns:
        t: (M,) ascending in steps of at most ``STEP``.
        v: (M,) the polynomial there.
    """
    t, v, count = row_medians(t, v)
    middle, half = (t[0] + t[-1]) / 2, max((t[-1] - t[0]) / 2, 1.0)
    basis = np.vander((t - middle) / half, max_degree + 1, increasing=True)  # (R, 4), of t scaled to [−1, 1]
    # A row with few pixels is more likely a stray one; a thick one is no better than a usual one.
    prior = np.minimum(count, np.median(count)) / count.max()

    residual = v - _line_through_medians(t, v)
    max_degree = min(max_degree, len(t) - 1)
    for degree in range(min(1, max_degree), max_degree + 1):
        coefficients, residual = _reweighted_fit(basis[:, : degree + 1], v, prior, residual)
        if _scale(residual) <= STRAIGHT_ENOUGH:
            break

    # In a thick row the median may lie off the curve while the row's pixels lie on it.
    on_curve = t[np.abs(residual) <= np.maximum(TUKEY_CUTOFF * _scale(residual), count / 2)]
    points = np.linspace(on_curve[0], on_curve[-1], int(np.ceil((on_curve[-1] - on_curve[0]) / STEP)) + 1)
    return points, np.polynomial.polynomial.polyval((points - middle) / half, coefficients)


def row_medians(t: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median of v for each distinct t, without a loop: distinct t (R,), medians (R,), number of pixels (R,)."""
    order = np.lexsort((v, t))  # by t, then by v
    v = v[order]
    rows, first, count = np.unique(t[order], return_index=True, return_counts=True)
    return rows.astype(float), (v[first + (count - 1) // 2] + v[first + count // 2]) / 2, count


def _line_through_medians(t: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A first straight line that a quarter of stray rows cannot move: (R,) its values at t.

    Its slope is the median of the slopes between rows half the lane apart.
    """
    apart = (len(t) + 1) // 2
    slopes = (v[apart:] - v[:-apart]) / (t[apart:] - t[:-apart])
    slope = np.median(slopes) if len(slopes) else 0.0
    return slope * t + np.median(v - slope * t)


def _reweighted_fit(
    basis: np.ndarray, v: np.ndarray, prior: np.ndarray, residual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Iteratively reweighted least squares with Tukey's biweight.

    Args:
        basis: (R, P) powers of t.
        v: (R,) values to fit.
        prior: (R,) weight of each row apart from its residual.
        residual: (R,) of an earlier, simpler fit, for the first weights.

    Returns:
        coefficients: (P,) lowest power first.
        residual: (R,).
    """
    for _ in range(ITERATIONS):
        weight = prior * np.clip(1 - (residual / (TUKEY_CUTOFF * _scale(residual))) ** 2, 0, None) ** 2
        weighted = basis * weight[:, None]  # (R, P)
        normal = weighted.T @ basis  # (P, P)
        normal += 1e-9 * prior.sum() * np.eye(len(normal))  # solvable even if few rows keep their weight
        coefficients = np.linalg.solve(normal, weighted.T @ v)
        residual = v - basis @ coefficients
    return coefficients, residual


def _scale(residual: np.ndarray) -> float:
    """Standard deviation of the residuals by their median, at least half a pixel: what rounding alone makes."""
    middle = len(residual) // 2
    return max(1.4826 * float(np.partition(np.abs(residual), middle)[middle]), 0.5)  # np.median takes six times as long
