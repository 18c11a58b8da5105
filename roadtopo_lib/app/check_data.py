"""What ``road-topology check-data`` says of a data set: everything that is wrong with it, as a table and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadtopo_lib.app.faults import View
from roadtopo_lib.app.set_aside import fix
from roadtopo_lib.app.survey import Survey
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.samples import FOLDERS, locate_split
from roadtopo_lib.dataset import build_transform
from roadtopo_lib.files import check_writable, write_json
from roadtopo_lib.labels import IGNORE_INDEX

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
"""Training stops or learns what is wrong; scores or details suffer; good to know."""

CHECKS = {
    "missing_folder": (ERROR, f"{', '.join(FOLDERS)} in each split"),
    "no_images": (ERROR, "files ending in .jpg, .jpeg or .png"),
    "same_name": (ERROR, "one file of a name in each folder, whatever its ending and the spelling of its umlauts"),
    "missing_mask": (ERROR, "a PNG of the image's name in both folders of masks"),
    "missing_image": (ERROR, "an image for every mask"),
    "unreadable": (ERROR, "a JPEG or PNG"),
    "truncated": (ERROR, "a whole JPEG or PNG: copy or save it again"),
    "lossy_mask": (ERROR, "a PNG, saved anew from the source: the ids of this file are lost"),
    "pixel_format": (ERROR, "semantic masks of one 8-bit channel; instance masks grey, or RGB on black"),
    "class_ids": (ERROR, "ids of the class table, or 255; --config or --model brings another table"),
    "binary_mask": (ERROR, "the id of a class where a lane is"),
    "orientation": (ERROR, "equal EXIF orientations of an image and its masks, or none"),
    "size": (ERROR, "masks of the height and width of their image"),
    "shared_id": (ERROR, "ids that are unique in an image, not numbered anew in each class"),
    "instances_on_unlabelled": (
        ERROR,
        "instances on lane and crosswalk classes, not on unlabelled pixels (255)",
    ),
    "instances_off_lanes": (
        ERROR,
        "instances on lane and crosswalk classes, not on others: both masks of one image",
    ),
    "nothing_labelled": (ERROR, "ids of the class table: 255 takes part in no loss"),
    "no_lanes": (ERROR, "pixels of lane or crosswalk classes"),
    "no_instances": (ERROR, "an id for every lane and crosswalk"),
    "duplicates": (ERROR, "each picture in one split only: a model knows these by heart"),
    "missing_split": (WARNING, "train and val: `train lane` needs both"),
    "ignored_file": (WARNING, "images ending in .jpg, .jpeg or .png, masks in .png: no other file is read"),
    "renamed": (WARNING, "an ending that says what the file holds"),
    "orientation_tag": (WARNING, "no EXIF orientation: this library turns the file by it, other tools may not"),
    "maybe_binary_mask": (
        WARNING,
        "the id of a class where a lane is; right where no lane shows",
    ),
    "empty_instances": (WARNING, "an id for every lane and crosswalk"),
    "binary_instances": (WARNING, "an id for each lane and crosswalk, 1..N: those that share 255 count as one"),
    "near_duplicates": (WARNING, "each recording in one split only: scores on neighbours of known frames are too high"),
    "class_balance": (WARNING, "each class in train, in 1 of 100 masks at least; see class_weights, repeat_threshold"),
    "thin_lines": (WARNING, "lines as wide as a cell at least: draw them wider, or raise image_size"),
    "aspect": (WARNING, "frames that a crop can hold: each epoch cuts off another part, or change image_size"),
    "id_gaps": (NOTE, "ids 1..N: an id without pixels may be an instance that was drawn over"),
}
"""Severity and what is expected, by check, in the order of the report."""

CELL = 4
"""Pixels of the network's input, in each direction, for a cell of SegFormer's heads: h = H/4, w = W/4."""

EXAMPLES = 3
"""Files that the table names of each finding."""


@dataclass(frozen=True)
class Finding:
    """All files of one split in which one check found something.

    Args:
        check, severity: see ``CHECKS``.
        split: its folder.
        files: relative to the data set's folder.
        found: what was found, in step with ``files``.
    """

    check: str
    severity: str
    split: str
    files: list[str]
    found: list[str]

    @property
    def message(self) -> str:
        """What was found in the first file, and what is expected."""
        return f"{self.found[0]}; expected {CHECKS[self.check][1]}"

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "check": self.check, "severity": self.severity, "split": self.split, "count": len(self.files),
            "message": self.message, "files": self.files, "found": self.found,
        }  # fmt: skip

    def __str__(self) -> str:
        count = len(self.files)
        more = f" and {count - EXAMPLES} more" if count > EXAMPLES else ""
        head = f"{self.severity:8s}{self.split:6s} {self.check} × {count}"
        return f"{head}\n{'':8s}{self.message}\n{'':8s}{', '.join(self.files[:EXAMPLES])}{more}"


class Report:
    """What a data set holds and what is wrong with it.

    Args:
        root: folder that holds the splits.
        splits: those to look at; ``None``: all that are there.
        config: class table, image_size, crop_top, instance_weight.

    Attributes:
        survey: counts of each split.
        findings: the worst first, then in the order of ``CHECKS``.
        done: what ``--fix`` did.

    Raises:
        FileNotFoundError: no such folder or split, or no split in it.
    """

    def __init__(self, root: Path, splits: Sequence[str] | None, config: LaneSegmentationConfig) -> None:
        self.root, self.config, self.classes = root, config, config.class_table
        self.done: list[str] = []
        present = list(splits or (split for split in SPLITS if (root / split).is_dir()))
        if not present or not all((root / split).is_dir() for split in present):
            found = sorted(child.name for child in root.iterdir() if child.is_dir() and child.name[0] != ".")
            expected = ", ".join(splits or SPLITS)
            raise FileNotFoundError(f"{root}: holds {', '.join(found) or 'no folder'}, expected {expected}")
        ratios = build_transform(config, train=True).ratios
        self.survey = Survey(root, present, self.classes, View(config.image_size, config.crop_top, ratios, CELL))
        for split in () if splits else SPLITS[:2]:
            if split not in present:
                self.survey.note("missing_split", split, split, "no such folder")
        order = list(CHECKS)
        keys = sorted(self.survey.faults, key=lambda key: (order.index(key[0]), [*SPLITS, key[1]].index(key[1])))
        self.findings = [self._finding(*key) for key in keys]

    def _finding(self, check: str, split: str) -> Finding:
        files, found = (list(column) for column in zip(*self.survey.faults[check, split], strict=True))
        severity = CHECKS[check][0]
        if check in ("no_lanes", "no_instances") and split != "train":
            severity = WARNING  # training goes on, and scores say little
        if check in ("no_images", "missing_folder") and split == "test":
            severity = WARNING  # the validation images are scored instead
        if check == "no_instances" and self.config.instance_weight == 0:
            severity = WARNING
        return Finding(check, severity, split, files, found)

    def count(self, severity: str) -> int:
        """How many findings are so severe."""
        return sum(finding.severity == severity for finding in self.findings)

    def class_balance(self) -> dict:
        """By split: how many pixels are unlabelled, and the share and masks of each class among the labelled ones."""
        balance = {}
        for split, seen in self.survey.splits.items():
            labelled = int(seen.pixels[:IGNORE_INDEX].sum())
            rows = {
                c.name: {"share": seen.pixels[c.id] / max(1, labelled), "masks": int(seen.images[c.id])}
                for c in self.classes
            }
            balance[split] = {
                "unlabelled": int(seen.pixels[IGNORE_INDEX]) / max(1, int(seen.pixels.sum())), "classes": rows,
            }  # fmt: skip
        return balance

    def to_dict(self) -> dict:
        """Plain values, as in the JSON file."""
        splits = {split: {**seen.files, "read": seen.read} for split, seen in self.survey.splits.items()}
        return {
            "root": str(self.root),
            "image_size": list(self.config.image_size),
            "crop_top": self.config.crop_top,
            "read": sum(split["read"] for split in splits.values()),
            "splits": splits,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [finding.to_dict() for finding in self.findings],
            "class_balance": self.class_balance(),
            "fixed": self.done,
        }

    def lines(self) -> Iterator[str]:
        """The table: what is there, how classes are distributed, what is wrong."""
        height, width = self.config.image_size
        held = ", ".join(f"{seen.read} samples in {split}" for split, seen in self.survey.splits.items())
        yield f"{self.root}: {held}; seen by a network of {height}×{width}, crop_top {self.config.crop_top}"
        balance = self.class_balance()
        yield f"{'share of labelled pixels (masks)':34s}" + "".join(f"{split:>16s}" for split in balance)
        for name in self.classes.names:
            cells = (seen["classes"][name].values() for seen in balance.values())
            yield f"  {name:32s}" + "".join(f"{share:9.2%}{f'({masks})':>7s}" for share, masks in cells)
        yield f"  {'unlabelled':32s}" + "".join(f"{seen['unlabelled']:9.2%}{'':7s}" for seen in balance.values())
        yield from map(str, self.findings)
        counts = {severity: self.count(severity) for severity in SEVERITIES}
        text = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items())
        yield f"{text}: training would suffer" if counts[ERROR] else text


def check_data(
    root: Path, config: LaneSegmentationConfig, split: str | None = None, json: Path | None = None, repair: bool = False
) -> int:
    """Checks a data set, prints the table and writes the JSON.

    Args:
        root: data folder, or one of its splits.
        config: class table, image_size and crop_top to check against.
        split: the only one to look at.
        json: file to write the report to.
        repair: set aside what cannot be used, see ``set_aside.fix``; the report is that of what is left.

    Returns:
        Exit code: 1 if training would suffer, else 0.

    Raises:
        FileNotFoundError: no such folder, or no split in it.
        OSError: ``json`` or the data set's folder cannot be written to.
    """
    if split is not None or (Path(root) / "images").is_dir():
        root, split = locate_split(root, split)
    elif not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such data folder")
    splits = None if split is None else [split]
    if json is not None:
        check_writable(json)
    report = Report(Path(root), splits, config)
    done = fix(report.root, report.survey, report.classes) if repair else []
    if done:
        report = Report(report.root, splits, config)
        report.done = done
    if json is not None:
        write_json(json, report.to_dict())
    for line in (*report.lines(), *done):
        say(line)
    return 1 if report.count(ERROR) else 0
