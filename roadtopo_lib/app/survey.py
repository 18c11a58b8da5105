"""What is wrong with a data set: files that do not pair, faults of all samples, missing labels, shared pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from roadtopo_lib.app.faults import SampleReport, View, check_sample
from roadtopo_lib.data.checks import in_threads, lacking_labels
from roadtopo_lib.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, is_picture, shows_results
from roadtopo_lib.data.samples import BINARY, FOLDERS, has_binary_ids
from roadtopo_lib.files import list_files, plain_name
from roadtopo_lib.labels import ClassTable

NEAR_BITS = 48
"""Perceptual hashes that differ in at most so many of 256 bits are those of neighbours in one recording.

Frames 0.04 s apart in a dash-cam clip differ in at most 32 bits, 0.2 s apart in 48 or fewer nine times of ten; rendered
frames 1 m apart in 34 (median); among 2.2 million pairs of different rendered scenes no pair in fewer than 70."""

RARE = 0.01
"""A class in a smaller share of the training masks is hardly met."""

WHOLE = ("nothing_labelled", "no_lanes")
"""Checks that say of all masks of a split that they lack classes."""

PAIRS_AT_ONCE = 2**18
"""How many pairs of hashes are compared at a time: 12 MB."""


@dataclass
class SplitSurvey:
    """What one split holds.

    Attributes:
        files: number of files by folder.
        read: samples of which all three files can be used.
        masks: semantic masks that can be used.
        compared: instance masks that can be compared with theirs.
        with_ids: those with an id.
        pixels: (256,) pixels by semantic id.
        images: (256,) masks that hold the id.
        binary: masks of 0 and 255 only, in samples without an instance.
        names, exact, perceptual: of the images that can be read, with their hashes.
    """

    files: dict[str, int]
    read: int = 0
    masks: int = 0
    compared: int = 0
    with_ids: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    binary: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    exact: list[bytes] = field(default_factory=list)
    perceptual: list[bytes] = field(default_factory=list)


class Survey:
    """Everything that is wrong with the splits of a data set. Memory does not grow with the number of pixels.

    Args:
        root: folder that holds the splits.
        splits: folders to look at, that of training first.
        classes: the class table.
        view: how training will look at an image.

    Attributes:
        faults: (file relative to ``root``, what was found) pairs, by (check, split).
        splits: a ``SplitSurvey`` by split.
    """

    def __init__(self, root: Path, splits: Sequence[str], classes: ClassTable, view: View) -> None:
        self.root, self.classes, self.view = root, classes, view
        self.faults: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self.splits: dict[str, SplitSurvey] = {}
        for split in splits:
            samples = self._pair(split)
            self._check_samples(split, samples)
            self._check_labels(split)
            self._compare_pictures(split)
            self.splits[split].binary.clear()
        self._check_balance()

    def note(self, check: str, split: str, path: Path | str, found: str) -> None:
        """Adds a fault."""
        self.faults.setdefault((check, split), []).append((self._name(path), found))

    def _name(self, path: Path | str) -> str:
        return path if isinstance(path, str) else path.relative_to(self.root).as_posix()

    def _pair(self, split: str) -> list[list[str | None]]:
        """File names of image, semantic mask and instance mask of each sample, ``None`` where one is missing.

        Names, not paths: a path takes ten times the memory.
        """
        samples: dict[str, list[str | None]] = {}
        count = dict.fromkeys(FOLDERS, 0)
        absent = [kind for kind in FOLDERS if not (self.root / split / kind).is_dir()]
        for place, kind in enumerate(FOLDERS):
            if kind in absent:
                self.note("missing_folder", split, f"{split}/{kind}", "no such folder")
                continue
            for path in list_files(self.root / split / kind, ""):
                sample = samples.setdefault(plain_name(path.stem), [None] * 3)
                if not path.name.lower().endswith(MASK_SUFFIXES if place else IMAGE_SUFFIXES):
                    if is_picture(path):
                        self.note("ignored_file", split, path, f"a picture that ends in {path.suffix or 'nothing'}")
                elif place == 0 and shows_results(path):
                    continue
                elif sample[place] is not None:
                    self.note("same_name", split, path, f"{sample[place]} has the same name")
                else:
                    sample[place] = path.name
                    count[kind] += 1
        self.splits[split] = SplitSurvey(count)
        samples = {name: sample for name, sample in samples.items() if any(sample)}
        if FOLDERS[0] not in absent and not count[FOLDERS[0]]:
            self.note("no_images", split, f"{split}/{FOLDERS[0]}", "no image in this folder")
        for sample in samples.values():
            present = [path for path in self._paths(split, sample) if path is not None]
            missing = [kind for kind, path in zip(FOLDERS, sample, strict=True) if path is None and kind not in absent]
            if sample[0] is not None and missing:
                self.note("missing_mask", split, present[0], f"no file of this name in {' and '.join(missing)}")
            elif missing and count[FOLDERS[0]]:
                self.note("missing_image", split, present[0], "no image of this name")
        return list(samples.values())

    def _paths(self, split: str, names: list[str | None]) -> list[Path | None]:
        return [name and self.root / split / kind / name for kind, name in zip(FOLDERS, names, strict=True)]

    def _check_samples(self, split: str, samples: list[list[str | None]]) -> None:
        """Reads all files of a split."""
        into = self.splits[split]

        def check_one(names: list[str | None]) -> SampleReport:
            return check_sample(self._paths(split, names), self.classes, self.view)

        for names, report in zip(samples, in_threads(check_one, samples, f"checking {split}"), strict=True):
            for check, path, found in report.faults:
                self.note(check, split, path, found)
            if report.hashes is not None:
                into.names.append(f"{split}/{FOLDERS[0]}/{names[0]}")
                into.exact.append(report.hashes[0])
                into.perceptual.append(report.hashes[1].tobytes())
            if report.pixels is not None:
                into.masks += 1
                into.compared += report.has_ids is not None
                into.with_ids += bool(report.has_ids)
                into.read += report.has_ids is not None and report.hashes is not None
                into.pixels += report.pixels
                into.images += report.pixels > 0
                if self.classes.lane_ids and not report.has_ids and has_binary_ids(report.pixels):
                    into.binary.append(f"{split}/{FOLDERS[1]}/{names[1]}")

    def _check_labels(self, split: str) -> None:
        """What all labels of a split together lack."""
        into, folders = self.splits[split], {kind: f"{split}/{kind}" for kind in FOLDERS}
        lacking, masks = lacking_labels(into.pixels, self.classes), f"{into.masks} masks"
        if not into.masks:
            return
        if lacking == "nothing_labelled":
            return self.note(lacking, split, folders["semantic_masks"], f"all pixels of {masks} unlabelled")
        if ("binary_mask", split) in self.faults or (into.binary and has_binary_ids(into.pixels)):
            # Where others are surely meant as lanes, so are these; nothing can be said of lanes then.
            known = self.faults.setdefault(("binary_mask", split), [])
            known.extend((name, BINARY) for name in into.binary)
            return known.sort()
        for name in into.binary:
            self.note("maybe_binary_mask", split, name, "holds 0 and 255 only")
        if lacking:
            self.note(lacking, split, folders["semantic_masks"], f"no lane or crosswalk in {masks}")
        elif self.classes.instance_ids and into.compared and not into.with_ids:
            self.faults.pop(("empty_instances", split), None)
            self.note("no_instances", split, folders["instance_masks"], f"no id in {into.compared} masks")

    def _check_balance(self) -> None:
        """Classes that training hardly meets."""
        train = self.splits.get("train")
        if train is None or any((check, "train") in self.faults for check in ("binary_mask", *WHOLE)):
            return
        for row in self.classes[1:] if train.masks else ():
            shown = {split: int(seen.images[row.id]) for split, seen in self.splits.items() if seen.images[row.id]}
            count = shown.pop("train", 0)
            if (shown and not count) or 0 < count < RARE * train.masks:
                elsewhere = ", ".join(f"{others} of {split}" for split, others in shown.items()) or "no other"
                found = f"{row.name} is in {count} of {train.masks} masks, and in {elsewhere}"
                self.note("class_balance", "train", "train/semantic_masks", found)

    def _compare_pictures(self, split: str) -> None:
        """Pictures that a split surveyed before holds, too, the same or a neighbour in the recording."""
        new = self.splits[split]
        before = [seen for name, seen in self.splits.items() if name != split]
        names = [name for seen in before for name in seen.names]
        if not names or not new.names:
            return
        known = dict(zip([digest for seen in before for digest in seen.exact], names, strict=True))
        old = _bits([bits for seen in before for bits in seen.perceptual])
        bits = _bits(new.perceptual)
        rows = max(1, PAIRS_AT_ONCE // len(old))

        def nearest(start: int) -> tuple[np.ndarray, np.ndarray]:
            distances = np.bitwise_count(bits[start : start + rows, None] ^ old).sum(axis=2, dtype=np.uint16)
            return distances.argmin(axis=1), distances.min(axis=1)

        found = in_threads(nearest, range(0, len(bits), rows), f"comparing {split}")
        pairs = ((int(place), int(bits)) for places, least in found for place, bits in zip(places, least, strict=True))
        for name, digest, (place, distance) in zip(new.names, new.exact, pairs, strict=True):
            if digest in known:
                self.note("duplicates", split, name, f"the same picture as {known[digest]}")
            elif distance <= NEAR_BITS:
                self.note("near_duplicates", split, name, f"{distance} of 256 bits from {names[place]}")


def _bits(hashes: list[bytes]) -> np.ndarray:
    """(N, 4) uint64."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 4)
