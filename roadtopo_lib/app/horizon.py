"""``road-topology horizon``: the row of the horizon in a camera's images, and the ``crop_top`` that follows from it.

On flat ground the gap between two lanes of one road is proportional to y − h, the rows below the horizon, in bends too:
``postprocess.road`` has the formula. So h is where the least-squares line through the gaps is zero.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib.config import MAX_CROP_TOP
from roadtopo_lib.console import say
from roadtopo_lib.data.images import list_images, read_images
from roadtopo_lib.pipeline import LaneSegmenter

MIN_SPAN = 0.04
"""Rows, as a share of the height, that two lanes must have in common."""

CROP_MARGIN = 0.03
"""Share of the height that is kept above the horizon: with the shipped model's lanes, nine in ten of 60 rendered scenes
have a smaller error."""


def horizon_row(lanes: Sequence[np.ndarray], height: int) -> float:
    """The median of the rows where pairs of lanes meet, each pair weighted by one over the variance of its row.

    Args:
        lanes: (M, 2) of (x, y) in pixels each. Where no two have rows in common, they are continued as straight lines.
        height: of the image in pixels.

    Returns:
        y in pixels, within one height above the image and its bottom.

    Raises:
        ValueError: fewer than two lanes, or none that meet.
    """
    lanes = [np.asarray(lane, float)[np.argsort(np.asarray(lane)[:, 1], kind="stable")] for lane in lanes]
    lanes = [lane for lane in lanes if np.ptp(lane[:, 1]) >= MIN_SPAN * height]
    if len(lanes) < 2:
        raise ValueError(f"{len(lanes)} lane{'s' * (len(lanes) != 1)} found, expected at least two")
    pairs = [pair for pair in combinations(lanes, 2) if np.ptp(_common(*pair)) >= MIN_SPAN * height]
    meetings = [_meeting(pair, [_common(*pair)] * 2) for pair in pairs] or [
        _meeting(pair, [lane[[0, -1], 1] for lane in pair]) for pair in combinations(lanes, 2)
    ]
    rows, weights = np.array([m for m in meetings if m and -height <= m[0] < height]).reshape(-1, 2).T
    if len(rows) == 0:
        raise ValueError(f"the {len(lanes)} lanes do not meet, neither in the image nor within its height above it")
    order = np.argsort(rows)
    return float(rows[order][np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)])


def crop_top_for(shares: Sequence[float]) -> float:
    """``crop_top`` that keeps the horizon in 19 of 20 images, to two decimals: ``CROP_MARGIN`` above its row.

    Args:
        shares: row of the horizon in each image as a share of its height.

    Returns:
        0 .. ``MAX_CROP_TOP``.
    """
    return float(np.clip(np.floor(100 * (np.quantile(shares, 0.05) - CROP_MARGIN)) / 100, 0, MAX_CROP_TOP))


def report_horizon(
    images: Sequence[Path],
    model: Path | None = None,
    lines: Sequence[np.ndarray] | None = None,
    device: torch.device | None = None,
) -> int:
    """Prints the row of the horizon for each image, their median and spread, and ``crop_top``.

    Args:
        images: files and folders.
        model: finds the lanes.
        lines: (M, 2) of (x, y) in pixels, in place of a model's lanes; the same in every image.
        device: of the model.

    Returns:
        Exit code: 1 if an image could not be read, else 0.

    Raises:
        ValueError: neither model nor lines, or no image shows a horizon.
        FileNotFoundError: no such file or folder.
    """
    if (model is None) == (lines is None):
        raise ValueError("give either --model, which finds the lanes, or --lines")
    missing = [path for path in images if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder")
    segmenter = model and LaneSegmenter.from_checkpoint(model, device)
    files = [file for path in images for file in (list_images(path) if path.is_dir() else [path])]
    shares, faults, reason = [], [], ""

    def on_fault(text: str) -> None:
        faults.append(text)
        say(f"road-topology: {text}", error=True)

    for file, image in read_images(files, on_fault):
        lanes, height = lines if segmenter is None else segmenter(image)["lane_polylines"], len(image)
        try:
            row = horizon_row(lanes, height)
        except ValueError as error:
            reason = f"; {file}: {error}"
            say(f"{file}  no horizon: {error}")
            continue
        shares.append(row / height)
        say(f"{file}  row {row:.1f} of {height} ({row / height:.3f}), from {len(lanes)} lanes")
    if not shares:
        raise ValueError(f"no horizon in {len(files)} image{'s' * (len(files) != 1)}{reason}")
    low, median, high = np.quantile(shares, (0.1, 0.5, 0.9))
    spread = f"; eight in ten within {low:.3f} .. {high:.3f}" if len(shares) > 1 else ""
    say(f"horizon: {median:.3f} of the height, median of {len(shares)} of {len(files)} images{spread}")
    say(f"crop_top: {crop_top_for(shares):.2f}")
    return 1 if faults else 0


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """First and last row that two lanes have in common; equal where there are none."""
    top = max(a[0, 1], b[0, 1])
    return np.array([top, max(top, min(a[-1, 1], b[-1, 1]))])


def _meeting(pair: Sequence[np.ndarray], spans: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Row where the gap between two lanes is zero, and its weight, one over its variance; ``None`` if there is none.

    Args:
        pair: (M, 2) of (x, y), sorted by y.
        spans: of each lane the first and the last row to look at.
    """
    rows = [np.linspace(*span, 64) for span in spans]
    lines = [np.polyfit(y, np.interp(y, *lane.T[::-1]), 1) for lane, y in zip(pair, rows, strict=True)]
    slope, gap = lines[0] - lines[1]  # of the gap
    middle, length = np.mean(rows), min(np.ptp(y) for y in rows)
    if slope == 0 or -gap / slope >= middle:
        return None
    return -gap / slope, slope**2 * length / (1 + 12 * (middle + gap / slope) ** 2 / length**2)
