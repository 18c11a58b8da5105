"""``road-topology horizon``: the horizon of a camera's images, and the ``crop_top`` that follows from it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib.console import say
from roadtopo_lib.data.images import list_images, read_images
from roadtopo_lib.inference.horizon import crop_top_for, horizon_row
from roadtopo_lib.pipeline import LaneSegmenter


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
