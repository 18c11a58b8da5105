"""CULane: ``X.jpg`` with ``X.lines.txt``, a lane a line: ``x y x y …``; x may leave the image.

``list/{train,val,test}.txt``, or ``train_gt.txt`` and the like, name the images of each split; without lists every
``*.lines.txt`` is taken.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.convert.lanes import lines_of
from roadtopo_lib.data.convert.writing import Labelled, Options, Report, inside, lane_class, sample_name, write_labelled
from roadtopo_lib.data.images import IMAGE_SUFFIXES
from roadtopo_lib.files import list_files


def convert_culane(src: str | Path, dst: str | Path, **options: object) -> Report:
    """Converts CULane's labels.

    Args:
        src: CULane's root folder, or any folder with ``*.lines.txt`` beside the images.
        dst: the data set's folder.
        options: fields of ``Options``.

    Raises:
        FileNotFoundError: neither lists nor label files.
        ValueError: wrong options.
    """
    options = Options(**options)
    return write_labelled(read_culane(Path(src), options), dst, options)


def read_culane(src: Path, options: Options) -> Iterator[Labelled]:
    """One ``Labelled`` for each image of the lists, or for each label file."""
    class_id, found = lane_class(options.classes), False
    for image, split in _images(src):
        found = True
        path = inside(src, image)
        if path is None:
            yield Labelled.unreadable(sample_name(image), "an image outside of the data set")
            continue
        dropped: Counter = Counter()
        lanes = _read_lanes(path.with_suffix(".lines.txt"), dropped)
        yield Labelled(
            sample_name(image), path, str(path.parent), lines_of(lanes, class_id, dropped), split=split,
            dropped=dropped,
        )  # fmt: skip
    if not found:
        raise FileNotFoundError(f"{src}: neither list/train.txt and the like nor *.lines.txt files found")


def _images(src: Path) -> Iterator[tuple[str, str | None]]:
    """Image path relative to the root, and split."""
    lists = [(src / "list" / name, split) for split in SPLITS for name in (f"{split}_gt.txt", f"{split}.txt")]
    listed = {}
    for path, split in lists:
        if path.is_file():
            listed.setdefault(split, path)
    for split, path in listed.items():
        with open(path, encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield line.split()[0].lstrip("/"), split
    if not listed:
        for path in list_files(src, ".lines.txt", deep=True):
            base = path.with_name(path.name.removesuffix(".lines.txt"))
            image = next((p for s in IMAGE_SUFFIXES if (p := base.with_name(base.name + s)).is_file()), None)
            yield str((image or base.with_name(base.name + ".jpg")).relative_to(src)), None


def _read_lanes(path: Path, dropped: Counter) -> list[np.ndarray]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        dropped["a label file that is missing or cannot be read"] += 1
        return []
    lanes = []
    for line in text.splitlines():
        try:
            points = np.array(line.split(), float).reshape(-1, 2)
            if not np.isfinite(points).all():
                raise ValueError("not finite")
        except ValueError:
            dropped["a line that is no CULane lane"] += 1
            continue
        if len(points):
            lanes.append(points)
    return lanes
