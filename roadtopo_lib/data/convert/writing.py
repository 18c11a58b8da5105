"""From labelled images of any format to samples on disk.

A module for each format yields a ``Labelled`` for each image that its labels name. ``write_labelled`` draws the masks,
numbers the instances by where they lie, and writes each sample through ``write_sample``: in several processes, in
constant memory, and going on where an earlier run stopped.
"""

import hashlib
import itertools
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.convert.drawing import Area, Line, draw_masks
from roadtopo_lib.data.images import read_image, write_image
from roadtopo_lib.data.samples import sample_files, write_sample
from roadtopo_lib.files import write_atomic, write_json
from roadtopo_lib.labels import CLASSES, LINE_WIDTH, ClassTable
from roadtopo_lib.processes import check_main_guard, start_worker
from roadtopo_lib.viz import contact_sheet, overlay_labels

SHEET_SAMPLES, SHEET_COLUMNS, SHEET_WIDTH = 16, 4, 400
REPORT, SHEET = "convert_report", "contact_sheet.png"
WAITING_PER_WORKER = 4  # images read ahead: memory does not grow with the number of labels


@dataclass(frozen=True)
class Labelled:
    """What a label file says of one image.

    Args:
        name: of the sample, unique in the data set; folders in it are joined by underscores.
        image: its file, or the pixels (H, W, 3) uint8 RGB where the label file holds them.
        recording: images of one recording come into one split.
        lines, areas: later areas cover earlier ones; lines cover areas without instances; crossings cover lines.
        split: where the format itself says it.
        dropped: what of the image's labels is left out, and why.
        size: (H, W) that the labels are written for; ``None``: that of the image.
        unusable: no sample is written.
    """

    name: str
    image: Path | np.ndarray
    recording: str
    lines: list[Line] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)
    split: str | None = None
    dropped: Counter = field(default_factory=Counter)
    size: tuple[int, int] | None = None
    unusable: bool = False

    @classmethod
    def unreadable(cls, name: str, reason: str) -> "Labelled":
        """An image that is dropped, since its label says nothing of use."""
        return cls(name, Path(), "", dropped=Counter([reason]), unusable=True)


@dataclass(frozen=True)
class Options:
    """How to write.

    Args:
        split: the split of all images; ``None``: what the format says, else ``train``.
        val_share: share of the recordings of ``train`` that goes to ``val``, 0..1.
        line_width: width of a lane line: from 1 on in pixels of the image, below 1 as a share of its width.
        limit: stop after that many images.
        workers: processes; ``None``: one per CPU; 1 works in this process.
        classes: the class table of the masks.
        progress: show a bar on stderr (on a terminal only).

    Raises:
        ValueError: a value out of range.
    """

    split: str | None = None
    val_share: float = 0.0
    line_width: float = LINE_WIDTH
    limit: int | None = None
    workers: int | None = None
    classes: ClassTable = CLASSES
    progress: bool = True

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}, expected one of {', '.join(SPLITS)}")
        if not 0 <= self.val_share <= 1:
            raise ValueError(f"val_share is {self.val_share}, expected a number between 0 and 1")
        if not 0 < self.line_width < float("inf"):
            raise ValueError(f"line_width is {self.line_width}, expected more than 0")
        for name in ("limit", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        read: images that the labels name.
        written: samples in the data set now, of this run or an earlier one.
        dropped: labels and images left out, by reason.
        splits: samples by split.
    """

    read: int = 0
    written: int = 0
    dropped: Counter = field(default_factory=Counter)
    splits: Counter = field(default_factory=Counter)

    def to_dict(self) -> dict:
        """Plain values, as in the JSON report."""
        return {
            "read": self.read, "written": self.written, "splits": dict(sorted(self.splits.items())),
            "dropped": dict(self.dropped.most_common()),
        }  # fmt: skip

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in sorted(self.splits.items()))
        lines = [f"{self.read} images read, {self.written} written" + (f" ({splits})" if splits else "")]
        return "\n".join([*lines, *(f"  dropped {count}: {reason}" for reason, count in self.dropped.most_common())])


def write_labelled(records: Iterable[Labelled], dst: str | Path, options: Options) -> Report:
    """Writes the samples, a report (``convert_report.json`` and ``.txt``) and a contact sheet of the first 16.

    A sample that is complete already is not made again. An image that is missing or damaged is counted under
    ``dropped``; the others are written.

    Args:
        records: what a format yields; read lazily.
        dst: the data set's folder; made if missing.
        options: see ``Options``.

    Raises:
        OSError: ``dst`` cannot be written to.
    """
    dst = Path(dst)
    report, names, first = Report(), set(), []
    workers = options.workers or os.cpu_count() or 1
    with _pool(workers) as pool, tqdm(
        desc=f"samples → {dst}", unit="image", file=sys.stderr, disable=None if options.progress else True
    ) as bar:  # fmt: skip
        tasks = _tasks(itertools.islice(records, options.limit), dst, options, report, names)
        for (split, name), reasons, is_written in _run(tasks, pool, workers * WAITING_PER_WORKER):
            report.dropped.update(reasons)
            bar.update()
            if is_written:
                report.written += 1
                report.splits[split] += 1
                if len(first) < SHEET_SAMPLES:
                    first.append((split, name))
    write_json(dst / f"{REPORT}.json", report.to_dict())
    write_atomic(dst / f"{REPORT}.txt", f"{report}\n")
    if first:
        write_image(dst / SHEET, sheet_of(dst, first, options.classes), is_result=True)
    return report


def split_of(recording: str, val_share: float) -> str:
    """``val`` for a share of the recordings, chosen by a hash of the name: the same in every run."""
    draw = int.from_bytes(hashlib.sha256(recording.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    return "val" if draw < val_share else "train"


def sample_name(relative: str | Path) -> str:
    """A file's name from a path inside a data set: ``clips/0313/20.jpg`` → ``clips_0313_20``."""
    parts = Path(str(relative).replace("\\", "/").strip("/")).with_suffix("").parts
    return "_".join(part for part in parts if part not in ("..", ".", "/"))


def inside(root: Path, relative: str) -> Path | None:
    """The file that a label names, ``None`` if the name leads out of the data set's folder."""
    path = root / relative.replace("\\", "/").lstrip("/")
    return path if path.resolve().is_relative_to(root.resolve()) else None


def lane_class(classes: ClassTable) -> int:
    """The class of lane lines in formats that know only lanes: the first that bears lanes.

    Raises:
        ValueError: the table has none.
    """
    if not classes.lane_ids:
        raise ValueError("the class table has no class whose instances are lanes")
    return classes.lane_ids[0]


def sheet_of(dst: Path, samples: list[tuple[str, str]], classes: ClassTable = CLASSES) -> np.ndarray:
    """Samples with their classes painted over the image, side by side: (h, w, 3) uint8 RGB."""
    pictures = []
    for split, name in samples:
        image, semantic, _ = (cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sample_files(dst / split, name))
        painted = overlay_labels(image[..., ::-1], semantic, table=classes)
        pictures.append(cv2.resize(painted, (SHEET_WIDTH, SHEET_WIDTH * 9 // 16), interpolation=cv2.INTER_AREA))
    return contact_sheet(pictures, SHEET_COLUMNS)


def _tasks(
    records: Iterator[Labelled], dst: Path, options: Options, report: Report, names: set[str]
) -> Iterator[tuple[Labelled, Path, Options]]:
    """One task an image, with its split; a name that came before is counted and left out."""
    for record in records:
        report.read += 1
        if record.unusable:
            report.dropped.update(record.dropped)
            continue
        if record.name in names:
            report.dropped["the image is named more than once"] += 1
            continue
        names.add(record.name)
        split = options.split or record.split or "train"
        if split == "train" and options.val_share:
            split = split_of(record.recording, options.val_share)
        yield record, dst / split, options


def _convert_one(record: Labelled, folder: Path, options: Options) -> tuple[tuple[str, str], Counter, bool]:
    """Writes one sample; returns its place, what was dropped, and whether it is there now."""
    place, dropped = (folder.name, record.name), Counter(record.dropped)
    if all(path.is_file() for path in sample_files(folder, record.name)):
        return place, dropped, True
    try:
        image = record.image if isinstance(record.image, np.ndarray) else read_image(record.image)
    except FileNotFoundError:
        return place, dropped + Counter(["the image is missing"]), False
    except ValueError:
        return place, dropped + Counter(["the image cannot be read"]), False
    if record.size is not None and record.size != image.shape[:2]:
        return place, dropped + Counter(["the image has another size than its labels"]), False
    semantic, instance = draw_masks(image.shape[:2], record.lines, record.areas, options.line_width, options.classes)
    write_sample(folder, record.name, image, semantic, instance, options.classes)
    return place, dropped, True


def _pool(workers: int) -> Executor:
    check_main_guard(workers if workers > 1 else 0)
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker) if workers > 1 else _Here()


class _Here(Executor):
    """Runs each task at once, in this process."""

    def submit(self, function, /, *arguments) -> Future:
        future = Future()
        future.set_result(function(*arguments))
        return future


def _run(tasks: Iterator[tuple], pool: Executor, ahead: int) -> Iterator[tuple]:
    """Results in order, with at most ``ahead`` tasks waiting."""
    waiting: deque[Future] = deque()
    for task in tasks:
        waiting.append(pool.submit(_convert_one, *task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
