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
from roadtopo_lib.data.images import read_image, write_image
from roadtopo_lib.data.samples import sample_files, write_sample
from roadtopo_lib.files import write_atomic, write_json
from roadtopo_lib.labels import BACKGROUND, CLASSES, LINE_WIDTH, NO_INSTANCE, ClassTable
from roadtopo_lib.viz import contact_sheet, overlay_labels

REFERENCE_ROW = 0.9
"""Share of the height at which lanes are numbered from left to right, as ``config.reference_row`` has it by default."""
SHEET_SAMPLES, SHEET_COLUMNS, SHEET_WIDTH = 16, 4, 400
REPORT, SHEET = "convert_report", "contact_sheet.png"
WAITING_PER_WORKER = 4
"""Images that are read ahead: memory does not grow with the number of labels."""
SUBPIXEL_BITS = 4
"""Of the fixed-point coordinates that OpenCV draws with."""


@dataclass(frozen=True)
class Line:
    """A lane line.

    Args:
        points: (M, 2) float (x, y) in pixels of the image, in order along the line.
        class_id: of a class whose instances are lanes.
        instance: lines of one image with equal values are one lane; ``None``: a lane of its own.
    """

    points: np.ndarray
    class_id: int
    instance: object = None


@dataclass(frozen=True)
class Area:
    """A region: its outlines, or a mask.

    Args:
        rings: (M, 2) float (x, y) each; a pixel inside an even number of rings is a hole.
        class_id: of any class.
        instance: as in ``Line``, for classes with instances.
        mask: (h, w) bool in place of the rings.
        corner: (x, y) of the mask's upper left pixel in the image.
    """

    rings: list[np.ndarray]
    class_id: int
    instance: object = None
    mask: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)


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
        write_image(dst / SHEET, sheet_of(dst, first, options.classes))
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


def draw_masks(
    size: tuple[int, int], lines: list[Line], areas: list[Area], line_width: float, classes: ClassTable = CLASSES
) -> tuple[np.ndarray, np.ndarray]:
    """Semantic and instance mask of an image, drawn without anti-aliasing.

    Lanes are numbered from left to right by where they meet the reference row, then crossings from near to far. The
    order of the labels in their file does not matter.

    Args:
        size: (H, W).
        lines, areas: see ``Labelled``.
        line_width: in pixels from 1 on, below 1 a share of W.
        classes: the class table.

    Returns:
        (H, W) uint8 class ids, (H, W) uint16 instance ids.
    """
    semantic, instance = np.full(size, BACKGROUND, np.uint8), np.full(size, NO_INSTANCE, np.uint16)
    # OpenCV draws a thick line one pixel wider than asked.
    thickness = max(1, round(line_width * size[1] if line_width < 1 else line_width) - 1)
    for area in areas:
        if classes[area.class_id].instances is None:
            semantic[_region(area, size)] = area.class_id
    lane_areas = [area for area in areas if classes[area.class_id].instances == "lane"]
    lanes = _grouped([*lines, *lane_areas])
    lanes.sort(key=lambda lane: _x_at_reference(_points_of(lane, size), size[0]))
    crossings = _grouped([area for area in areas if classes[area.class_id].instances == "crosswalk"])
    crossings.sort(key=lambda crossing: -_points_of(crossing, size)[:, 1].mean())
    for number, members in enumerate([*lanes, *crossings], start=1):
        for member in members:
            region = _region(member, size) if isinstance(member, Area) else _stroke(member.points, size, thickness)
            semantic[region], instance[region] = member.class_id, number
    return semantic, instance


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
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else _Here()


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


def _grouped(members: list) -> list[list]:
    """Lines and areas by instance; those without one stay alone."""
    groups: dict[object, list] = {}
    for place, member in enumerate(members):
        key = ("alone", place) if member.instance is None else ("joined", member.class_id, member.instance)
        groups.setdefault(key, []).append(member)
    return list(groups.values())


def _points_of(members: list, size: tuple[int, int]) -> np.ndarray:
    """(M, 2) points of all members of an instance."""
    points = []
    for member in members:
        if isinstance(member, Area) and member.mask is not None:
            rows, columns = np.nonzero(_region(member, size))
            points.append(np.stack([columns, rows], axis=1) if len(rows) else np.zeros((1, 2)))
        else:
            points += member.rings if isinstance(member, Area) else [member.points]
    return np.concatenate(points).astype(np.float64)


def _x_at_reference(points: np.ndarray, height: int) -> float:
    """Where a lane meets the reference row; beyond its ends it goes on as its lowest fifth does."""
    row = REFERENCE_ROW * (height - 1)
    x, y = points[np.argsort(points[:, 1], kind="stable")].T
    if y[0] <= row <= y[-1]:
        return float(np.interp(row, y, x))
    near = y >= y[-1] - max((y[-1] - y[0]) / 5, 1) if row > y[-1] else y <= y[0] + max((y[-1] - y[0]) / 5, 1)
    if np.ptp(y[near]) == 0:
        near[:] = True
    if np.ptp(y[near]) == 0:
        return float(x.mean())
    slope, offset = np.polyfit(y[near], x[near], 1)
    return float(slope * row + offset)


def _fixed_point(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(M, 1, 2) int32 for OpenCV; far outside of the image the exact place does not matter."""
    reach = 4 * max(size)
    clipped = np.clip(np.asarray(points, np.float64), -reach, reach)
    return np.round(clipped * 2**SUBPIXEL_BITS).astype(np.int32).reshape(-1, 1, 2)


def _stroke(points: np.ndarray, size: tuple[int, int], thickness: int) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    cv2.polylines(canvas, [_fixed_point(points, size)], False, 1, thickness, cv2.LINE_8, SUBPIXEL_BITS)
    return canvas > 0


def _region(area: Area, size: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    if area.mask is not None:
        x, y = area.corner
        top, left = max(y, 0), max(x, 0)
        part = area.mask[top - y : max(size[0] - y, 0), left - x : max(size[1] - x, 0)]
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        return canvas > 0
    rings = [_fixed_point(ring, size) for ring in area.rings]
    cv2.fillPoly(canvas, rings, 1, cv2.LINE_8, SUBPIXEL_BITS)  # even-odd: rings inside rings are holes
    return canvas > 0
