"""Tracking by detection: lanes of each frame are assigned to the lanes followed so far, whose curves are smoothed.

Axes: K rows of the image, M points of a polyline. Columns are in image widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from roadtopo_lib.labels import LINE_WIDTH

ROWS = 48
"""K: a curve's parameters are its columns at so many rows, equally far apart from the image's top to its bottom."""

NEAR = 2 * LINE_WIDTH
"""A lane farther than this from where a track is expected is another lane."""

CONFIRMED, LOST, SHOWN = 3, 15, 4
"""Frames with a lane before it gets a number; without it, before its track ends, and before it is no longer given."""

MEASURED, PUSHED, STARTED = 3e-3, 3e-4, 1e-2
"""Standard deviations: of a measured column, of the change of its speed from frame to frame, of a new track's speed."""

EXTENT = 0.3
"""Share by which a track's first and last row follow those of its lane."""


@dataclass(frozen=True)
class TrackedLane:
    """A lane in a frame.

    Args:
        track: its number, 1, 2, ... in the order of appearance; never given again.
        polyline: (M, 2) of (x, y) in pixels, top to bottom, smoothed over the frames.
        found: its place among the lanes given for this frame; ``None`` if the frame lacks it.
    """

    track: int
    polyline: np.ndarray
    found: int | None


class LaneTracker:
    """Follows lanes through the frames of a video.

    A lane's curve is measured at K rows of the image, and each row has a Kalman filter with constant speed. The lanes
    of a frame are assigned to the tracks so that the sum of the mean distances is least. Of two pieces of a lane the
    longer one keeps its number. A lane that is far from every track begins one of its own.

    Args:
        size: (H, W) of the frames in pixels.

    Reference:
        A. Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016 (Kalman filter, Hungarian assignment, tracks
        that are confirmed and lost).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.heights = np.linspace(0, size[0] - 1, ROWS)
        self.tracks: list[_Track] = []
        self.numbers = 0

    def update(self, polylines: Sequence[np.ndarray]) -> list[TrackedLane]:
        """Takes the lanes of the next frame; returns the lanes that are followed, by number.

        Args:
            polylines: of each lane (M, 2) of (x, y) in pixels, top to bottom, as ``lane_polylines`` of a result.
        """
        measured = [self._columns(np.asarray(line, dtype=float)) for line in polylines]  # (K,), NaN beside the lane
        for track in self.tracks:
            track.predict()
        pairs = self._assign(measured)
        for k, track in enumerate(self.tracks):
            track.correct(pairs.get(k), measured)
        self.tracks = [track for track in self.tracks if track.missed <= (LOST if track.number else 0)]
        begun = set(range(len(measured))) - set(pairs.values())
        self.tracks += [_Track(measured[place], place) for place in sorted(begun) if np.isfinite(measured[place]).any()]
        for track in self.tracks:
            if track.number is None and track.seen >= CONFIRMED:
                self.numbers = track.number = self.numbers + 1
        shown = [track for track in self.tracks if track.number and track.missed <= SHOWN]
        return [TrackedLane(track.number, self._polyline(track), track.found) for track in shown]

    def _columns(self, line: np.ndarray) -> np.ndarray:
        """(M, 2) → (K,). Points that are not finite are left out; without any the lane is NaN everywhere."""
        line = line.reshape(-1, 2)
        line = line[np.isfinite(line).all(axis=1)]
        if len(line) == 0:
            return np.full(ROWS, np.nan)
        order = np.argsort(line[:, 1], kind="stable")
        return np.interp(self.heights, line[order, 1], line[order, 0] / self.size[1], left=np.nan, right=np.nan)

    def _assign(self, measured: list[np.ndarray]) -> dict[int, int]:
        """Place of the track → place of its lane."""
        far = 2 * NEAR  # whatever is too far is equally far
        cost = np.full((len(self.tracks), len(measured)), far)
        for k, track in enumerate(self.tracks):
            for place, columns in enumerate(measured):
                apart = np.abs(track.column - columns)
                common = np.isfinite(apart).sum()
                if common and np.nanmean(apart) < NEAR:
                    cost[k, place] = np.nanmean(apart) + NEAR * (1 - common / np.isfinite(track.column).sum())
        rows, columns = linear_sum_assignment(cost)
        return {int(k): int(place) for k, place in zip(rows, columns, strict=True) if cost[k, place] < far}

    def _polyline(self, track: "_Track") -> np.ndarray:
        first, last = track.extent
        rows = np.flatnonzero(
            np.isfinite(track.column) & (np.arange(ROWS) > first - 0.5) & (np.arange(ROWS) < last + 0.5)
        )
        return np.stack([track.column[rows] * self.size[1], self.heights[rows]], axis=1)


class _Track:
    """Columns of a lane, their speeds, and the covariance of both, each (K,); NaN where the lane was never seen."""

    def __init__(self, columns: np.ndarray, place: int) -> None:
        self.number: int | None = None
        self.found: int | None = place
        self.seen, self.missed = 1, 0
        self.column, self.speed = np.full(ROWS, np.nan), np.zeros(ROWS)
        self.var_column, self.covariance, self.var_speed = np.zeros(ROWS), np.zeros(ROWS), np.zeros(ROWS)
        self.extent = np.flatnonzero(np.isfinite(columns))[[0, -1]].astype(float)
        self._begin(columns)

    def predict(self) -> None:
        """One frame later, at constant speed."""
        self.column = self.column + self.speed
        self.var_column += 2 * self.covariance + self.var_speed + PUSHED**2 / 4
        self.covariance += self.var_speed + PUSHED**2 / 2
        self.var_speed += PUSHED**2

    def correct(self, place: int | None, measured: list[np.ndarray]) -> None:
        """Takes the lane that was assigned, or none."""
        self.found, self.missed = place, 0 if place is not None else self.missed + 1
        if place is None:
            return
        self.seen += 1
        columns = measured[place]
        both = np.isfinite(columns) & np.isfinite(self.column)
        gain = np.where(both, self.var_column / (self.var_column + MEASURED**2), 0)
        speed_gain = np.where(both, self.covariance / (self.var_column + MEASURED**2), 0)
        error = np.where(both, columns - self.column, 0)
        self.column, self.speed = self.column + gain * error, self.speed + speed_gain * error
        self.var_speed = self.var_speed - speed_gain * self.covariance
        self.var_column, self.covariance = (1 - gain) * self.var_column, (1 - gain) * self.covariance
        self._begin(np.where(both, np.nan, columns))
        self.extent += EXTENT * (np.flatnonzero(np.isfinite(columns))[[0, -1]] - self.extent)

    def _begin(self, columns: np.ndarray) -> None:
        """Starts the filters of rows where the lane is seen for the first time."""
        new = np.isfinite(columns)
        near = np.isfinite(self.column)
        self.column = np.where(new, columns, self.column)
        self.speed = np.where(new, self.speed[near].mean() if near.any() else 0.0, self.speed)
        self.var_column = np.where(new, MEASURED**2, self.var_column)
        self.covariance = np.where(new, 0.0, self.covariance)
        self.var_speed = np.where(new, STARTED**2, self.var_speed)
