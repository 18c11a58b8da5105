"""TuSimple lanes: one JSON object a line.

``{"raw_file": "clips/…/20.jpg", "lanes": [[x, …], …], "h_samples": [y, …]}``; x = −2 where a lane is absent. Files
``label_data_*.json`` are for training, ``test_label.json`` for testing. The lanes of a frame come in any order. In the
copy on Kaggle ``clips/`` lie in ``train_set/`` and ``test_set/``, and ``test_label.json`` beside these folders.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from roadtopo_lib.data.convert import reading
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.reading import Labelled

RAW_FILE = re.compile(r'"raw_file"\s*:\s*"([^"]+)"')
BLOCKS, LONGEST_BLOCK = 10, 60
"""Clips of a drive follow each other at a second or more: so many blocks of neighbours, of at most so many clips."""
TEMPLATE = "test_tasks"
"""Beginning of the file that names the test frames without their lanes."""


def read_tusimple(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` a line; a line that is none of TuSimple's is an image that is dropped.

    Raises:
        FileNotFoundError: no label file.
        ValueError: a class table without lanes.
    """
    class_id = names.lane_class
    for path in reading.label_files(_with_subfolders(src), ".json", "label_data_*.json or test_label.json"):
        if path.name.startswith(TEMPLATE):
            continue
        split = "test" if path.name.startswith("test") else "train"
        beside = [path.parent, *(f for f in _with_subfolders(path.parent) if (f / "clips").is_dir())]
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            recordings = _recordings(match[1] for line in file for match in RAW_FILE.finditer(line))
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = _read_line(line, f"{path.stem}_{number}", [images] if images else beside, split, class_id)
                    yield replace(record, recording=recordings.get(record.recording, record.recording))


def _recordings(raw_files: Iterable[str]) -> dict[str, str]:
    """Clip → block of its drive. A clip's name is a number that grows with time; label files name them in any order."""
    drives: dict[str, set[str]] = {}
    for clip in map(reading.recording_of, raw_files):
        drives.setdefault(clip.rpartition("/")[0], set()).add(clip)
    blocks = {}
    for drive, clips in drives.items():
        size = min(LONGEST_BLOCK, -(-len(clips) // BLOCKS))
        in_time = sorted(clips, key=lambda clip: (len(clip), clip))
        blocks |= {clip: f"{drive}/{place // size}" for place, clip in enumerate(in_time)}
    return blocks


def _read_line(line: str, fallback: str, roots: list[Path], split: str, class_id: int) -> Labelled:
    try:
        values = json.loads(line)
        raw_file, rows = values["raw_file"], np.array(values["h_samples"], float)
        lanes = [reading.points_of(np.stack([np.array(lane, float), rows], axis=1)) for lane in values["lanes"]]
        name, image = reading.sample_name(raw_file), reading.locate(roots, raw_file)
    except reading.DAMAGED:
        return Labelled.unreadable(fallback, "a line that is no TuSimple label")
    dropped: Counter = Counter()
    shapes = reading.lines_of((lane[lane[:, 0] >= 0] for lane in lanes), class_id, dropped)
    return Labelled(name, image, reading.recording_of(raw_file), shapes, split, dropped)


def _with_subfolders(place: Path) -> list[Path]:
    subfolders = (path for path in place.iterdir() if path.is_dir() and path.name[0] != ".") if place.is_dir() else ()
    return [place, *sorted(subfolders)]
