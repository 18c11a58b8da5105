"""What the readers of label files share: files found, samples named, points checked, JSON read piece by piece."""

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TextIO

import numpy as np

from roadtopo_lib.data.convert.drawing import Shape
from roadtopo_lib.files import find_file, lies_in, list_files, plain_name

REPORT = "convert_report"
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""What a label raises that is not as its format says."""
NO_POINT, ONE_POINT = "a lane without a point", "a lane of a single point"
OUTSIDE = "the image lies outside of the labels' folder; --images FOLDER names another"
UNREADABLE = "a label file that cannot be read"
NEIGHBOURS = 10
"""Consecutive numbers that count as one recording where names of images are all that is known."""
LONGEST_NAME = 200  # bytes; file systems allow 255
CHUNK = 1 << 20
BLANKS = re.compile(r"[ \t\r\n,:]*")
AFTER_VALUE = tuple(" \t\r\n,:]}")


@dataclass(frozen=True)
class Labelled:
    """What a label file says of one image.

    Args:
        name: of the sample; see ``sample_name``.
        image: its file, or the content of the file where the label file holds it; ``None``: see ``locate``.
        recording: images of one recording come into one split.
        shapes: lines and areas; later ones cover earlier ones of the same role.
        split: where the format itself says it.
        dropped: what of the image's labels is left out, and why.
        size: (H, W) that the labels are written for; ``None``: the format does not say.
        upright: the labels are those of the image as its EXIF orientation turns it.
    """

    name: str
    image: Path | bytes | None
    recording: str
    shapes: list[Shape] = field(default_factory=list)
    split: str | None = None
    dropped: Counter = field(default_factory=Counter)
    size: tuple[int, int] | None = None
    upright: bool = False

    @classmethod
    def unreadable(cls, name: str, reason: str) -> "Labelled":
        """An image that is dropped, since its label says nothing of use."""
        return cls(name, None, "", dropped=Counter([reason]))


def label_files(places: list[Path], ending: str, expected: str, deep: bool = False) -> list[Path]:
    """Files, and those files of folders that end so, without the reports of conversions.

    Raises:
        FileNotFoundError: none; names the first place and what was ``expected``.
    """
    files = []
    for place in places:
        files += [place] if place.is_file() else list_files(place, ending, deep=deep) if place.is_dir() else []
    files = [path for path in files if path.name != f"{REPORT}.json"]
    if not files:
        raise FileNotFoundError(f"{places[0]}: no label file found, expected {expected}")
    return files


def locate(roots: list[Path], name: str, within: list[Path] | None = None) -> Path | None:
    """The file that a label names, with slashes or backslashes and in whatever Unicode form, in one of some folders.

    Args:
        roots: the folders, tried in order.
        name: relative to a folder; a leading slash does not matter.
        within: the file must lie in one of these folders, links followed; default: the first of ``roots``.

    Returns:
        The file, which may be missing; ``None`` if name or link leads out or no file can be called so.
    """
    place, within = None, within or roots[:1]
    for root, spelling in itertools.product(roots, (name.replace("\\", "/"), name)):
        path = Path(os.path.abspath(root / spelling.lstrip("/")))
        inside = any(path.is_relative_to(os.path.abspath(folder)) for folder in within)
        if inside and spelling.strip("/") and "\0" not in spelling:
            with suppress(OSError, UnicodeError):  # no file can be called so
                found = find_file(path)
                inside = lies_in(found, within)
                if inside and found.is_file():
                    return found
                place = place or (found if inside and "\\" not in spelling else None)  # else slashes are meant
    return place


def sample_name(relative: str) -> str:
    """A file's name from a path inside a data set: ``clips/0313/20.jpg`` → ``clips_0313_20``."""
    path = PurePosixPath(plain_name(relative).replace("\\", "/"))
    parts = [part for part in (*path.parts[:-1], path.stem) if part not in ("..", "/")]
    name = "_".join(parts).lstrip(".").encode("utf-8", "ignore")[-LONGEST_NAME:].decode("utf-8", "ignore")
    return name or "unnamed"


def recording_of(relative: str, one_folder: bool = False) -> str:
    """The recording of an image: its folder or, where all lie in one folder, its block of ``NEIGHBOURS`` numbers."""
    path = PurePosixPath(relative.replace("\\", "/"))
    if path.parts[:-1] and not one_folder:
        return str(path.parent)
    number = re.search(r"(\d+)\D*$", path.stem)
    return path.stem if number is None else f"{path.stem[: number.start()]}{int(number[1][-18:]) // NEIGHBOURS}"


def unknown(kind: str, name: str) -> str:
    """Why a label of a name that ``ClassNames`` does not know is dropped."""
    return f"{kind} {name!r} is not in the class table"


def points_of(values: object) -> np.ndarray:
    """(M, 2) float64 from a list of (x, y); ValueError for another shape or a number that is not finite."""
    points = np.array(values, float)
    points = points.reshape(0, 2) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("no list of points")
    return points


def place_count(points: np.ndarray) -> int:
    """How many different places (M, 2) points name, at most two: a line of equal points is a point."""
    return len(points) if len(points) < 2 else 1 + bool((points != points[0]).any())


def lines_of(lanes: Iterable[np.ndarray], class_id: int, dropped: Counter) -> list[Shape]:
    """Lanes (M, 2) as lines; those of fewer than two points are counted in ``dropped``."""
    lines = []
    for points in lanes:
        if place_count(points) < 2:
            dropped[ONE_POINT if len(points) else NO_POINT] += 1
        else:
            lines.append(Shape([points], class_id, filled=False))
    return lines


def json_items(path: Path) -> Iterator[tuple[str | None, object]]:
    """Items of the list in a JSON file, or of every list of an object with its key, one by one.

    A file of gigabytes takes the memory of one item.

    Raises:
        ValueError: neither a list nor an object, or it ends too early.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        text, key = _Text(file), None
        try:
            start = text.peek()
            if start not in ("[", "{"):
                raise ValueError("neither a list nor an object")
            text.at += 1
            while text.peek() not in ("]", "}"):
                if start == "{":
                    key = text.value()
                    if text.peek() != "[":
                        text.value()
                        continue
                    text.at += 1
                while text.peek() != "]":
                    yield key, text.value()
                text.at += start == "{"
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: damaged JSON ({error})") from None


class _Text:
    """A window on JSON text."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at = file, "", 0
        self.decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no blank, comma or colon; ValueError at the end of the file."""
        while (at := BLANKS.match(self.text, self.at).end()) == len(self.text):
            if not self._read():
                raise ValueError("it ends too early")
        self.at = at
        return self.text[at]

    def value(self) -> object:
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
                if self.text[end : end + 1] in AFTER_VALUE or not self._read():  # else a number may go on
                    self.at = end
                    return value
            except ValueError:
                if not self._read():
                    raise

    def _read(self) -> bool:
        """Reads on, each time at least as much as is held, so that a long item takes linear time."""
        more = self.file.read(max(CHUNK, len(self.text) - self.at))
        if more:
            self.text, self.at = self.text[self.at :] + more, 0
        return bool(more)
