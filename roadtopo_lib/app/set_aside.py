"""``road-topology check-data --fix``: takes out of a data set what cannot be used; ``--undo`` puts it back.

Nothing is deleted. What is replaced or taken out lies in ``ROOT/_set_aside/N`` under its own path, one number a run,
beside ``log.json``, which says what was done.
"""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np

from roadtopo_lib.app.survey import Survey
from roadtopo_lib.data.images import picture_format, stored_semantic_mask, write_image
from roadtopo_lib.data.samples import FOLDERS, locate_split
from roadtopo_lib.files import lies_in, list_files, plain_name, write_json
from roadtopo_lib.labels import IGNORE_INDEX, ClassTable

FOLDER, LOG = "_set_aside", "log.json"

UNUSABLE = (
    "missing_mask", "missing_image", "unreadable", "truncated", "lossy_mask", "pixel_format", "class_ids",
    "binary_mask", "orientation", "size", "shared_id",
)  # fmt: skip
"""Checks of single samples that training refuses."""

MOST = 0.5
"""Where a larger share of a split's images is unusable, the whole set was made wrongly, and is left as it is."""


def fix(root: Path, survey: Survey, classes: ClassTable) -> list[str]:
    """Does what is safe and can be undone, and says what it did.

    * A mask of 0 and 255 is rewritten with the lane's id instead of 255, if the class table has one lane class only.
    * A JPEG or PNG image with the other one's ending is renamed.
    * A sample that training would refuse, or a mask without image, is set aside, unless that were more than half of
      the split's images.

    Labels are never guessed: sizes, ids and orientations stay as they are.

    Returns:
        A line for each file, and for each split that was left as it is.
    """
    number = next(n for n in itertools.count(1) if not (root / FOLDER / str(n)).exists())
    aside = f"{FOLDER}/{number}"
    log: list[dict] = []
    done: list[str] = []
    for split in survey.splits:
        unusable: dict[str, str] = {}  # stem → why
        rewritable = []
        for check in UNUSABLE:
            for name, _ in survey.faults.get((check, split), ()):
                if check == "binary_mask" and len(classes.lane_ids) == 1 and stored_semantic_mask(root / name)[1] == 1:
                    rewritable.append(name)
                else:
                    unusable.setdefault(plain_name(Path(name).stem), check)
        for name in rewritable:
            if plain_name(Path(name).stem) not in unusable:  # else it is set aside as it is
                log.append({"file": name, "kept": f"{aside}/{name}", "why": "binary_mask", "rewritten": True})
        files = _files(root, split, unusable)
        taken = [path for path in files if path.parent.name == FOLDERS[0]]
        if len(taken) > MOST * survey.splits[split].files[FOLDERS[0]]:
            done.append(f"left {split} as it is: {len(taken)} of its images are unusable, more than half")
            files = []
        for path in files:
            name = path.relative_to(root).as_posix()
            log.append({"file": name, "kept": f"{aside}/{name}", "why": unusable[plain_name(path.stem)]})
        for name, _ in survey.faults.get(("renamed", split), ()):
            ending = {"PNG": ".png", "JPEG": ".jpg"}.get(picture_format(root / name))
            kept = Path(name).with_suffix(ending or "")
            is_image = kept.parent.name == FOLDERS[0] and plain_name(kept.stem) not in unusable
            if is_image and ending and not (root / kept).exists():
                log.append({"file": name, "kept": kept.as_posix(), "why": "renamed"})
    if log:
        write_json(root / aside / LOG, {"done": log})  # before the first file moves, so that all can be undone
    for entry in log:
        _move(root / entry["file"], root / entry["kept"])
        if "rewritten" in entry:
            mask, _ = stored_semantic_mask(root / entry["kept"])
            mask = np.where(mask == IGNORE_INDEX, classes.lane_ids[0], mask)
            write_image(root / entry["file"], mask.astype(np.uint8))
        verb = "rewrote" if "rewritten" in entry else "renamed" if entry["why"] == "renamed" else "set aside"
        done.append(f"{verb} {entry['file']} ({entry['why']}): {entry['kept']}")
    return done


def undo(root: Path) -> list[str]:
    """Undoes the last ``fix`` of a data set, or of the one that a split belongs to.

    Returns:
        A line for each file.

    Raises:
        FileNotFoundError: there is nothing to undo.
    """
    root = locate_split(root)[0]
    runs = _runs(root)
    if not runs:
        raise FileNotFoundError(f"{root / FOLDER}: nothing was set aside, expected a numbered folder with {LOG}")
    last = max(runs, key=lambda run: int(run.name))
    done, left = [], []
    try:
        entries = json.loads((last / LOG).read_text(encoding="utf-8"))["done"]
        moves = [(entry, _inside(root, entry["file"]), _inside(root, entry["kept"])) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{last / LOG}: damaged ({error}), expected files of {root}") from None
    for entry, file, kept in moves:
        if not kept.exists():
            continue  # the run was interrupted before
        if file.exists() and "rewritten" not in entry:
            done.append(f"left {entry['kept']}: there is another {entry['file']} now")
            left.append(entry)
            continue
        _move(kept, file)
        done.append(f"put back {entry['file']}")
    if left:
        write_json(last / LOG, {"done": left})
    else:
        (last / LOG).unlink()
        inner = sorted((path for path in last.rglob("*") if path.is_dir()), reverse=True)  # deepest first
        for folder in (*inner, last, root / FOLDER):
            if not any(folder.iterdir()):
                folder.rmdir()
    return done


def _inside(root: Path, name: str) -> Path:
    """A file of the data set; ValueError for a name that leads out."""
    if ".." in Path(name).parts or not lies_in((root / name).parent, [root]):
        raise ValueError(f"{name} leads out of the data set")
    return root / name


def _runs(root: Path) -> list[Path]:
    folder = root / FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    return [run for run in found if run.name.isdecimal() and (run / LOG).is_file()]


def _files(root: Path, split: str, stems: dict[str, str]) -> list[Path]:
    """All files of a split's three folders with one of these names."""
    folders = [root / split / kind for kind in FOLDERS if stems and (root / split / kind).is_dir()]
    return [path for folder in folders for path in list_files(folder, "") if plain_name(path.stem) in stems]


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
