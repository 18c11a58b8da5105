"""CULane: ``X.jpg`` with ``X.lines.txt``, a lane a line: ``x y x y …``; x may leave the image.

``list/{train,val,test}.txt``, or ``train_gt.txt`` and the like, name the images of each split; without lists every
``*.lines.txt`` is taken.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.convert import reading
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.reading import Labelled
from roadtopo_lib.data.images import IMAGE_SUFFIXES
from roadtopo_lib.files import check_file

ENDING = ".lines.txt"
LISTED = re.compile(r"\s*/*(.+?\.(jpe?g|png))(\s|$)", re.IGNORECASE)
"""A line of a list: an image, whose name may hold blanks, then its mask and which lanes there are, or nothing."""


def read_culane(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` for each image of the lists, or for each label file.

    Raises:
        FileNotFoundError: neither lists nor label files.
        ValueError: a class table without lanes.
    """
    class_id, root = names.lane_class, src.parent if src.is_file() else src
    for file, split in _images(src, root, images or root):
        name, dropped = reading.sample_name(file), Counter()
        image = reading.locate([images or root], file)
        label = reading.locate([root], re.sub(r"\.\w+$", ENDING, file))
        try:
            check_file(label or root)  # without one, it would lie outside
            text = label.read_text(encoding="utf-8-sig", errors="replace")
        except (OSError, ValueError):  # no lane at all would be a label, too
            reason = "a label file that is missing or cannot be read" if image else reading.OUTSIDE
            yield Labelled.unreadable(name, reason)
            continue
        shapes = reading.lines_of(_lanes_of(text, dropped), class_id, dropped)
        yield Labelled(name, image, reading.recording_of(file), shapes, split, dropped)


def _images(src: Path, root: Path, images: Path) -> Iterator[tuple[str, str | None]]:
    """Images with their splits: those of the lists or, without lists, those of the label files."""
    lists: dict[str, Path] = {}
    for split in SPLITS:
        for path in (src / "list" / f"{split}{ending}.txt" for ending in ("_gt", "")):
            if path.is_file():
                lists.setdefault(split, path)
    for split, path in lists.items():
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                listed = LISTED.match(line)
                if listed or line.strip():
                    yield listed[1] if listed else line.strip().lstrip("/"), split
    if lists:
        return
    for path in reading.label_files([src], ENDING, "list/train.txt and the like, or *.lines.txt", deep=True):
        base = path.relative_to(root).as_posix()[: -len(ENDING)]
        files = [base + ending for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper())]
        yield next((file for file in files if (images / file).is_file()), files[0]), None


def _lanes_of(text: str, dropped: Counter) -> Iterator[np.ndarray]:
    """(M, 2) points of each line; a line that is no lane is counted in ``dropped``."""
    for line in text.splitlines():
        if line.strip():
            try:
                yield reading.points_of(np.array(line.split(), float).reshape(-1, 2))
            except ValueError:
                dropped["a line that is no CULane lane"] += 1
