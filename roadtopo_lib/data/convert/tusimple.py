"""TuSimple lanes: one JSON object a line.

``{"raw_file": "clips/…/20.jpg", "lanes": [[x, …], …], "h_samples": [y, …]}``; x = −2 where a lane is absent. Files
``label_data_*.json`` are for training, ``test_label.json`` for testing. The lanes of a frame come in any order.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from roadtopo_lib.data.convert.lanes import lines_of
from roadtopo_lib.data.convert.writing import Labelled, Options, Report, inside, lane_class, sample_name, write_labelled
from roadtopo_lib.files import list_files


def convert_tusimple(src: str | Path, dst: str | Path, **options: object) -> Report:
    """Converts TuSimple's labels.

    Args:
        src: folder that holds the JSON files and ``clips/``, or one JSON file in it.
        dst: the data set's folder.
        options: fields of ``Options``.

    Raises:
        FileNotFoundError: no label file.
        ValueError: wrong options.
    """
    options = Options(**options)
    return write_labelled(read_tusimple(Path(src), options), dst, options)


def read_tusimple(src: Path, options: Options) -> Iterator[Labelled]:
    """One ``Labelled`` a line; a line that is none of TuSimple's is an image that is dropped."""
    files = [src] if src.is_file() else list_files(src, ".json")
    if not files:
        raise FileNotFoundError(f"{src}: no label file, expected label_data_*.json or test_label.json")
    class_id = lane_class(options.classes)
    for path in files:
        split = "test" if path.name.startswith("test") else "train"
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _read_line(line, f"{path.stem}_{number}", path.parent, split, class_id)


def _read_line(line: str, fallback: str, root: Path, split: str, class_id: int) -> Labelled:
    dropped: Counter = Counter()
    try:
        values = json.loads(line)
        raw_file, rows = str(values["raw_file"]), np.array(values["h_samples"], float)
        lanes = [np.stack([np.array(lane, float), rows], axis=1) for lane in values["lanes"]]
        if not all(np.isfinite(lane).all() for lane in lanes):
            raise ValueError("not finite")
    except (ValueError, KeyError, TypeError):
        return Labelled.unreadable(fallback, "a line that is no TuSimple label")
    image = inside(root, raw_file)
    if image is None:
        return Labelled.unreadable(fallback, "an image outside of the data set")
    present = [lane[lane[:, 0] >= 0] for lane in lanes]
    return Labelled(
        sample_name(raw_file), image, str(image.parent), lines_of(present, class_id, dropped), split=split,
        dropped=dropped,
    )  # fmt: skip
