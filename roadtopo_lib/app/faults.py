"""What can be wrong with the files of one sample: each fault is found, whatever else is wrong.

A fault has the name of a check; ``app.check_data`` says how severe it is and what is expected.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from roadtopo_lib.data.checks import misplaced_instances
from roadtopo_lib.data.images import (
    LOSSY,
    DamagedFileError,
    check_class_ids,
    picture_format,
    stored_image,
    stored_instance_mask,
    stored_semantic_mask,
)
from roadtopo_lib.data.samples import BINARY, aligned, check_instances, check_sizes, has_binary_ids
from roadtopo_lib.data.sampling import random_window, rows_cut
from roadtopo_lib.decoding import turned
from roadtopo_lib.labels import IGNORE_INDEX, NO_INSTANCE, ClassTable

READERS = (stored_image, partial(stored_semantic_mask, num_classes=256), stored_instance_mask)
"""Of image, semantic and instance mask: the pixels as stored and the orientation tag. Class ids are checked later."""

WIDTH_ERROR = 1.2
"""Pixels that ``line_width`` is off by, at most, where lines are longer than wide."""

SHORTEST = 4
"""Cells that the lines of an image pass, one behind the other, where their width is judged: a short piece seems thinner
than it is."""

LONGEST = 200
"""Characters of what is said of one file: a mask with thousands of wrong ids would fill the screen."""


class Fault(NamedTuple):
    """One thing that is wrong with one file: name of the check, the file, what was found."""

    check: str
    path: Path
    found: str


class Faults(list[Fault]):
    """All that is wrong with a sample."""

    def note(self, check: str, path: Path, found: str) -> None:
        """Adds a fault."""
        self.append(Fault(check, path, found))

    def catch(self, check: str, path: Path, function: Callable, *arguments: object) -> object:
        """What the function returns (``True`` for ``None``); if it raises ValueError, adds a fault and returns None."""
        try:
            result = function(*arguments)
        except ValueError as error:
            self.note(check, path, what(error))
            return None
        return True if result is None else result


@dataclass(frozen=True)
class View:
    """How training looks at an image.

    Args:
        image_size: (height, width) of the network's input in pixels.
        crop_top: share of the height that is cut off above.
        ratios: least and greatest width / height of a training crop.
        cell: side of a cell of the network's output in pixels of its input.
    """

    image_size: tuple[int, int]
    crop_top: float
    ratios: tuple[float, float]
    cell: int

    def below(self, height: int) -> int:
        """Rows of an image below ``crop_top``, at least one."""
        return max(1, height - rows_cut(height, self.crop_top))

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image that one training crop can hold at most."""
        rows, columns = random_window((self.below(height), width), self.ratios, seed=0)
        return rows.stop - rows.start, columns.stop - columns.start

    def cell_in(self, height: int, width: int) -> float:
        """Side of a cell in pixels of an image; the geometric mean where rows and columns are scaled differently."""
        return self.cell * float(np.sqrt(np.prod(self.window(height, width)) / np.prod(self.image_size)))


@dataclass
class SampleReport:
    """What ``check_sample`` found.

    Attributes:
        faults: all that is wrong.
        pixels: (256,) pixels by semantic id, ``None`` if the mask cannot be used.
        has_ids: whether an instance has an id, ``None`` if the two masks cannot be compared.
        hashes: of the image, see ``picture_hashes``; ``None`` if it cannot be read.
    """

    faults: Faults = field(default_factory=Faults)
    pixels: np.ndarray | None = None
    has_ids: bool | None = None
    hashes: tuple[bytes, np.ndarray] | None = None


def check_sample(files: Sequence[Path | None], classes: ClassTable, view: View) -> SampleReport:
    """Reads the files of one sample and names all that is wrong with them; raises nothing for what a file holds.

    Args:
        files: image, semantic mask, instance mask; ``None`` where one is missing.
        classes: the class table.
        view: how training will look at it.
    """
    report = SampleReport()
    faults = report.faults
    image_path, semantic_path, instance_path = files
    image, semantic, instance = (_read(path, place, faults) for place, path in enumerate(files))
    tags = [read[1] for read in (image, semantic, instance) if read is not None]
    if semantic:
        counts = np.bincount(semantic[0].ravel(), minlength=256)
        ids = np.flatnonzero(counts).astype(np.uint8)
        if not faults.catch("class_ids", semantic_path, check_class_ids, ids, "", len(classes)):
            semantic = None
    if image is None:
        semantic, instance = (mask and turned(*mask) for mask in (semantic, instance))
    else:
        pixels, tag = turned(*image), image[1]
        report.hashes = picture_hashes(pixels)
        semantic, instance = (
            mask and _fitted(*mask, path, pixels, tag, image_path, faults)
            for mask, path in ((semantic, semantic_path), (instance, instance_path))
        )
        _check_aspect(pixels, image_path, view, faults)
    if max(tags, default=1) > 1 and all(fault.check != "orientation" for fault in faults):
        faults.note("orientation_tag", next(filter(None, files)), f"EXIF orientations {tags} of image and masks")
    if semantic is not None:
        report.pixels = counts
        cell = view.cell_in(*semantic.shape)
        lanes = np.isin(semantic, classes.lane_ids)
        width = line_width(lanes) if lanes.any() else cell
        if width < cell - WIDTH_ERROR and lanes.sum() > SHORTEST * cell * width:
            faults.note("thin_lines", semantic_path, f"lines {width:.1f} px wide, a cell covers {cell:.1f} px")
        if instance is not None and instance.shape == semantic.shape:
            report.has_ids = bool(instance.any())
            if classes.lane_ids and report.has_ids and has_binary_ids(counts):
                faults.note("binary_mask", semantic_path, BINARY)
            else:
                _check_instances(semantic, instance, instance_path, classes, cell, faults)
    return report


def picture_hashes(image: np.ndarray) -> tuple[bytes, np.ndarray]:
    """An exact and a perceptual hash of (H, W, 3) uint8 pixels: 16 bytes, and 256 bits as (4,) uint64.

    The perceptual one says which of the 16 × 16 lowest frequencies of the grey picture exceed their median.

    Reference:
        C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2 (DCT hash).
    """
    exact = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:16, :16].ravel()
    return exact, np.packbits(low > np.median(low)).view(np.uint64)


def line_width(lanes: np.ndarray) -> float:
    """Width of the lines of an (H, W) bool mask in pixels, to ``WIDTH_ERROR``.

    Across a line of width w the distances from its edge spread evenly from 0.5 to w/2. The 95th percentile is asked,
    not the greatest: lines that meet are wider there.
    """
    distances = cv2.distanceTransform(lanes.astype(np.uint8), cv2.DIST_L2, 5)
    return (float(np.quantile(distances[lanes], 0.95)) - 0.5) / (0.95 / 2)


def what(error: Exception) -> str:
    """What an error of ``data.images`` or ``data.samples`` says was found, without the file and what is expected."""
    text = " ".join(str(error).split()).partition(", expected")[0]
    text = re.sub(r"^.*?\.(png|jpe?g): ", "", text, flags=re.IGNORECASE).removeprefix(": ")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _read(path: Path | None, place: int, faults: Faults) -> tuple[np.ndarray, int] | None:
    """Pixels as stored and orientation tag of a file, ``None`` if there is none or it cannot be used."""
    if path is None:
        return None
    kind = picture_format(path)
    try:
        read = READERS[place](path)
    except Exception as error:  # whatever one file does, the others are checked
        if isinstance(error, DamagedFileError):
            check = "truncated"
        elif kind is None:
            check = "unreadable"
        else:
            check = "lossy_mask" if place and kind in LOSSY else "pixel_format"
        faults.note(check, path, what(error))
        return None
    if kind not in (("PNG",) if path.suffix.lower() == ".png" else ("JPEG", "MPO")):
        faults.note("renamed", path, f"this is a {kind} file")
    return read


def _fitted(
    mask: np.ndarray, tag: int, path: Path, image: np.ndarray, image_tag: int, image_path: Path, faults: Faults
) -> np.ndarray | None:
    """The mask turned like its image, ``None`` if nothing says how, or the sizes differ."""
    mask = faults.catch("orientation", path, aligned, mask, tag, path, image, image_tag, image_path)
    if mask is None or not faults.catch("size", path, check_sizes, (image, mask), (image_path, path)):
        return None
    return mask


def _check_aspect(image: np.ndarray, path: Path, view: View, faults: Faults) -> None:
    height, width = view.below(len(image)), image.shape[1]
    rows, columns = view.window(*image.shape[:2])
    if (rows, columns) != (height, width):
        low, high = view.ratios
        seen = f"{rows} of {height} rows" if rows < height else f"{columns} of {width} columns"
        found = f"width / height {width / height:.2f}; a crop has {low:.2f} to {high:.2f}, it sees {seen} at most"
        faults.note("aspect", path, found)


def _check_instances(
    semantic: np.ndarray, instance: np.ndarray, path: Path, classes: ClassTable, cell: float, faults: Faults
) -> None:
    """The two masks against each other; ``path``: of the instance mask."""
    faults.catch("shared_id", path, check_instances, semantic, instance, "", classes)
    bearing = np.isin(semantic, classes.instance_ids)
    wrong = misplaced_instances(semantic, instance, classes)
    size = int(instance.max(initial=0)) + 1
    off, hidden = (np.bincount(instance[at], minlength=size) for at in (~bearing, semantic == IGNORE_INDEX))
    on_unlabelled = [i for i in wrong if 2 * hidden[i] > off[i]]
    for check, ids in (
        ("instances_on_unlabelled", on_unlabelled),
        ("instances_off_lanes", sorted(set(wrong) - set(on_unlabelled))),
    ):
        if ids:
            faults.note(check, path, f"instances {', '.join(map(str, ids[:5]))}: more than half of their pixels")
    if (bearing & (instance == NO_INSTANCE)).any():
        count, areas, stats, _ = cv2.connectedComponentsWithStats(bearing.astype(np.uint8))
        bare = stats[:, cv2.CC_STAT_AREA] >= cell**2  # what is smaller the network hardly sees
        bare[np.unique(areas[instance != NO_INSTANCE])] = False
        if bare[1:].any():
            faults.note("empty_instances", path, f"{bare[1:].sum()} of {count - 1} areas have no id")
    ids = np.flatnonzero(np.bincount(instance.ravel())[1:]) + 1
    if ids.tolist() == [255]:
        faults.note("binary_instances", path, "255 is the only id")
    elif ids.size and ids[-1] != len(ids):
        faults.note("id_gaps", path, f"{len(ids)} ids up to {ids[-1]}")
