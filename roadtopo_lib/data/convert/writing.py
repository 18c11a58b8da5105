"""From labelled images of any format to samples on disk.

A module for each format yields a ``Labelled`` for each image that its labels name. ``write_labelled`` draws the masks,
numbers the instances by where they lie, and writes each sample through ``write_sample``: in several processes, in
constant memory, and going on where an earlier run stopped.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from roadtopo_lib.console import progress_bar
from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.checks import in_order
from roadtopo_lib.data.convert.drawing import Shape, draw_masks
from roadtopo_lib.data.convert.reading import OUTSIDE, REPORT, UNREADABLE, Labelled
from roadtopo_lib.data.images import note_of, pixels_of, read_image, read_semantic_mask, write_image
from roadtopo_lib.data.samples import sample_files, write_sample
from roadtopo_lib.decoding import decoded, turned
from roadtopo_lib.files import check_file, clear_unfinished, write_atomic, write_json
from roadtopo_lib.labels import CLASSES, LINE_WIDTH, ClassTable
from roadtopo_lib.processes import locked, start_worker, worker_count
from roadtopo_lib.viz import contact_sheet, overlay_labels

SHEET_SAMPLES, SHEET_COLUMNS, SHEET_SIZE = 16, 4, (225, 400)
SHEET = "contact_sheet.png"
EXAMPLES = 3
"""Names that a report gives for each reason."""
WAITING_PER_WORKER = 4  # images read ahead: memory does not grow with the number of labels
OTHER_SIZE = "the image has another size than its labels"
BELOW = 1.05
"""Times the height of an image to which lanes may reach down. In a copy with smaller images they reach further."""
DAMAGED_IMAGE, MISSING_IMAGE = "the image cannot be read", "the image is missing"
HIDDEN = "a lane or crossing that others hide, or outside of the image"


@dataclass(frozen=True)
class Options:
    """How to write.

    Args:
        split: the split of all images; ``None``: what the format says, else ``train``.
        val_share: share of the images of ``train`` that goes to ``val``, 0..1; a recording is never divided.
        line_width: width of a lane line: from 1 on in pixels of the image, below 1 as a share of its width.
        limit: stop after that many images.
        workers: processes; ``None``: one per CPU, or none where the main script has no main guard; 1: this process.
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
        examples: names of the first images that a reason applies to.
    """

    read: int = 0
    written: int = 0
    dropped: Counter = field(default_factory=Counter)
    splits: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def damaged(self) -> int:
        """Images and label files that cannot be read."""
        return self.dropped[DAMAGED_IMAGE] + self.dropped[UNREADABLE]

    def drop(self, name: str, reasons: Counter) -> None:
        """Counts what is left out of an image, or with it."""
        for reason, count in reasons.items():
            self.dropped[reason] += count
            names = self.examples.setdefault(reason, [])
            names += [name] if len(names) < EXAMPLES else []

    def to_dict(self) -> dict:
        """Plain values, as in the JSON report."""
        reasons = sorted(self.dropped, key=lambda reason: (-self.dropped[reason], reason))
        return {
            "read": self.read, "written": self.written, "splits": dict(sorted(self.splits.items())),
            "dropped": {reason: self.dropped[reason] for reason in reasons},
            "examples": {reason: self.examples[reason] for reason in reasons},
        }  # fmt: skip

    def __str__(self) -> str:
        values = self.to_dict()
        splits = ", ".join(f"{count} {split}" for split, count in values["splits"].items())
        lines = [f"{self.read} images read, {self.written} written" + (f" ({splits})" if splits else "")]
        for reason, count in values["dropped"].items():
            lines.append(f"  dropped {count}: {reason}, as in {', '.join(self.examples[reason])}")
        return "\n".join(lines)


def write_labelled(records: Iterable[Labelled], dst: str | Path, options: Options) -> Report:
    """Writes the samples, a report (``convert_report.json`` and ``.txt``) and a contact sheet of the first 16.

    A sample that was made of the same image, labels and options is not made again; one of other labels or options is.
    An image that is missing or damaged is counted under ``dropped``; the others are written.

    Args:
        records: what a format yields; read lazily.
        dst: the data set's folder; made if missing.
        options: see ``Options``.

    Raises:
        FileExistsError: another conversion writes to ``dst``.
        OSError: ``dst`` cannot be written to.
        RuntimeError: several workers, and a main script without main guard.
        ValueError: what ``records`` raises where nothing can be read.
    """
    with locked(dst, "a conversion"):
        return _written(records, Path(dst), options)


def _written(records: Iterable[Labelled], dst: Path, options: Options) -> Report:
    for folder in (dst, *dst.glob("*/*")):
        clear_unfinished(folder)
    report, first = Report(), []
    with progress_bar(
        desc=f"samples → {dst}", unit="image", total=options.limit, disable=None if options.progress else True
    ) as bar:
        tasks = _tasks(itertools.islice(records, options.limit), options, report)
        for (split, name), reasons, is_written in _results(tasks, dst, options):
            report.drop(name, reasons)
            bar.update()
            if is_written:
                report.written += 1
                report.splits[split] += 1
                if len(first) < SHEET_SAMPLES:
                    first.append((split, name))
    write_json(dst / f"{REPORT}.json", report.to_dict())
    write_atomic(dst / f"{REPORT}.txt", f"{report}\n".encode(errors="backslashreplace"))
    if first:
        write_image(dst / SHEET, sheet_of(dst, first, options.classes), is_result=True)
    return report


def sheet_of(dst: Path, samples: list[tuple[str, str]], classes: ClassTable = CLASSES) -> np.ndarray:
    """Samples with their classes painted over the image, side by side: (h, w, 3) uint8 RGB."""
    pictures = []
    for split, name in samples:
        files = sample_files(dst / split, name)
        painted = overlay_labels(read_image(files[0]), read_semantic_mask(files[1], len(classes)), table=classes)
        scale = min(np.divide(SHEET_SIZE, painted.shape[:2]))
        width, height = (max(1, round(scale * side)) for side in painted.shape[1::-1])
        picture = np.full((*SHEET_SIZE, 3), 255, np.uint8)
        picture[:height, :width] = cv2.resize(painted, (width, height), interpolation=cv2.INTER_AREA)
        pictures.append(picture)
    return contact_sheet(pictures, SHEET_COLUMNS)


def _tasks(records: Iterable[Labelled], options: Options, report: Report) -> Iterator[tuple[Labelled, str]]:
    """Images with their splits. An image that came before is left out; another one of its name gets a number."""
    images: dict[str, int] = {}  # names, in small letters as some file systems see them, and hashes of image files
    splits: dict[str, str] = {}  # of recordings
    drawn = in_val = 0
    for record in records:
        report.read += 1
        if record.image is None:
            report.drop(record.name, record.dropped or Counter([OUTSIDE]))
            continue
        name, number, image = record.name, 1, hash(record.image)
        while images.get(name.casefold(), image) != image:
            number += 1
            name = f"{record.name}_{number}"
        if name.casefold() in images:
            report.drop(name, Counter(["the image is named more than once"]))
            continue
        images[name.casefold()] = image
        split = options.split or record.split or "train"
        if split == "train":  # a new recording goes to val as soon as its share has room for an image
            drawn += 1
            has_room = in_val + 1 <= options.val_share * drawn + 1e-9
            split = splits.setdefault(record.recording, "val" if has_room else "train")
            in_val += split == "val"
        yield replace(record, name=name), split


def _results(
    tasks: Iterator[tuple[Labelled, str]], dst: Path, options: Options
) -> Iterator[tuple[tuple[str, str], Counter, bool]]:
    """What ``_convert_one`` returns, in order, with a few tasks waiting for each process."""
    workers, convert = worker_count(options.workers), partial(_convert_one, dst=dst, options=options)
    if workers == 1:
        yield from map(convert, tasks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker) as pool:
        yield from in_order(pool, convert, tasks, workers * WAITING_PER_WORKER)


def _convert_one(task: tuple[Labelled, str], dst: Path, options: Options) -> tuple[tuple[str, str], Counter, bool]:
    """Writes one sample; returns its place, what was dropped, and whether it is there now."""
    record, split = task
    place, files, dropped = (split, record.name), sample_files(dst / split, record.name), Counter(record.dropped)
    try:
        content = _content(record.image)
        source, labels = hashlib.sha256(content).hexdigest()[:16], _label_mark(record, options)
        found = note_of(files[0])
        is_whole = all(path.is_file() and path.stat().st_size > 0 for path in files)  # empty: after a power cut
        if found.startswith(f"{source} {labels} ") and is_whole:
            dropped[HIDDEN] += int(found.rpartition(" ")[2])
            _clear_other_splits(place, source, dst)  # the run that moved it may have been killed before
            return place, +dropped, True
        if files[0].exists() and not found.startswith(source):
            raise ValueError("another image of that name is in the data set")
        stored, orientation = _pixels(content)
        shapes = _upright(record, stored.shape[:2], orientation)
        image = turned(stored, orientation)
        semantic, instance, hidden = draw_masks(image.shape[:2], shapes, options.line_width, options.classes)
    except ValueError as error:
        return place, dropped + Counter([str(error)]), False
    note = f"{source} {labels} {hidden}"
    files[0].unlink(missing_ok=True)  # with its note: a run that ends here leaves no image that vouches for other masks
    write_sample(dst / split, record.name, image, semantic, instance, options.classes, note=note)
    dropped[HIDDEN] += hidden
    _clear_other_splits(place, source, dst)
    return place, +dropped, True


def _clear_other_splits(place: tuple[str, str], source: str, dst: Path) -> None:
    """Removes a sample from the splits that it lies in by other options: an image is in one split only."""
    split, name = place
    for other in SPLITS:
        moved = sample_files(dst / other, name)
        if other != split and note_of(moved[0]).startswith(source):
            for path in moved:
                path.unlink(missing_ok=True)


def _content(image: Path | bytes) -> bytes:
    """What the image file holds; ValueError with the reason for the report."""
    try:
        if isinstance(image, bytes):
            return image
        check_file(image)
        return image.read_bytes()
    except (OSError, ValueError) as error:
        raise ValueError(DAMAGED_IMAGE if isinstance(error, PermissionError) else MISSING_IMAGE) from None


def _pixels(content: bytes) -> tuple[np.ndarray, int]:
    """As ``stored_image``, from memory; ValueError with the reason for the report."""
    try:
        return pixels_of(decoded(content))
    except Exception:  # Pillow's parsers raise almost anything
        raise ValueError(DAMAGED_IMAGE) from None


def _label_mark(record: Labelled, options: Options) -> str:
    """A short hash of the labels and of the options that decide what is drawn."""
    labels = hashlib.sha256(ascii((options.line_width, options.classes, record.size, record.upright)).encode())
    for shape in record.shapes:
        arrays = [*shape.parts, *([] if shape.mask is None else [shape.mask])]
        head = (shape.class_id, shape.instance, shape.filled, shape.corner, [array.shape for array in arrays])
        labels.update(ascii(head).encode() + b"".join(array.tobytes() for array in arrays))
    return labels.hexdigest()[:16]


def _upright(record: Labelled, size: tuple[int, int], orientation: int) -> list[Shape]:
    """The labels of an image stored with ``size`` (H, W), in coordinates of the image as its EXIF orientation turns it.

    Raises:
        ValueError: labels of another size, or nothing says whether they are those of the stored or the turned image.
    """
    shown = size[::-1] if orientation > 4 else size
    if record.size not in (None, size, shown):
        raise ValueError(OTHER_SIZE)
    lanes = [shape for shape in record.shapes if not shape.filled and record.size is None]
    if 2 * sum(lane.points()[:, 1].max() > BELOW * shown[0] for lane in lanes) > len(lanes):
        raise ValueError(OTHER_SIZE)
    if orientation == 1 or (record.upright and record.size in (None, shown)):
        return record.shapes
    if record.size is None or size == shown:
        raise ValueError(f"EXIF orientation {orientation} turns the image, and nothing says whether its labels, too")
    if record.size == shown:
        return record.shapes
    return [shape.turned(orientation, size) for shape in record.shapes]
