"""Lanes that a model found → other people's label files: TuSimple, CULane, LabelMe.

A record (``inference.records.find``) has ``width``, ``height``, ``lanes`` with ``class``, ``id``, ``confidence`` and
``points``, ``crosswalks`` with ``class``, ``id`` and ``polygons``, and ``areas`` with ``class`` and ``polygons``.
Coordinates are (x, y) in pixels of the original image, pixel centres at whole numbers.
"""

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from roadtopo_lib import __version__
from roadtopo_lib.files import check_file, find_file, lies_in, list_files, naming, write_atomic

ENDINGS = {"json": ".json", "tusimple": "tusimple.json", "culane": ".lines.txt", "labelme": ".json"}
"""Of a format's file for each image; TuSimple has one file for all."""

VERSION = f"roadtopo_lib {__version__}"
"""Stands where LabelMe puts its own version: a file that LabelMe has saved since is not written over."""

OWN_TEXTS = ".culane_results"
"""File that knows which of CULane's texts beside photographs are results of this library: others are labels."""

TUSIMPLE_SIZE, TUSIMPLE_ROWS = (720, 1280), range(160, 720, 10)
CULANE_STEP = 10.0
"""Distance of CULane's points in rows of the image."""

LINE_TOLERANCE = 0.5
"""Pixels by which a lane in LabelMe may differ from what was found, to have fewer points."""


def to_tusimple(record: dict, raw_file: str, run_time: float, rows: Sequence[float] | None = None) -> dict:
    """A line of TuSimple's predictions; without ``rows`` those of ``tusimple_rows``."""
    rows = tusimple_rows(record["height"]) if rows is None else list(rows)
    lanes = tusimple_lanes([lane["points"] for lane in record["lanes"]], rows, record["width"])
    return {"raw_file": raw_file, "lanes": lanes, "h_samples": rows, "run_time": round(run_time, 1)}


def check_no_other_images(path: Path, names: Collection[str]) -> None:
    """Refuses to write over a file of predictions in which no image is one of ours: two jobs would not mix.

    Args:
        path: of the file, which need not be there.
        names: ``raw_file`` of our images, or the name that the frames of our video begin with.

    Raises:
        ValueError: all its images are others.
    """
    if not path.is_file():
        return
    try:
        found = [str(json.loads(line)["raw_file"]) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError):
        return  # torn
    if found and not any({name, name.rpartition("_frame_")[0]} & set(names) for name in found):
        raise ValueError(f"{path}: holds results of other images, such as {found[0]}; choose another output")


def tusimple_rows(height: int) -> list[int]:
    """TuSimple's 56 rows, 160 to 710 in steps of 10 of an image of 720 rows, in an image of ``height`` rows."""
    return [round(row * height / TUSIMPLE_SIZE[0]) for row in TUSIMPLE_ROWS]


def tusimple_lanes(polylines: Sequence, rows: Sequence[float], width: int) -> list[list[int]]:
    """x of each lane at the rows, in whole pixels; −2 where it ends or leaves the image; none that is nowhere seen.

    Args:
        polylines: (M, 2) of (x, y) each.
        rows: y.
        width: of the image.
    """
    lanes = [np.rint(_x_at_rows(points, np.asarray(rows, float))) for points in polylines]
    lanes = [np.where((x >= 0) & (x < width), x, -2).astype(int) for x in lanes]  # NaN is neither
    return [x.tolist() for x in lanes if (x >= 0).any()]


def to_culane(record: dict) -> str:
    """CULane's text: a lane a line, ``x y x y …``."""
    lanes = culane_lanes([lane["points"] for lane in record["lanes"]])
    return "".join(" ".join(f"{x:.3f} {y:.0f}" for x, y in lane) + "\n" for lane in lanes)


def write_culane(path: Path, record: dict, photo: Path) -> None:
    """Writes CULane's text. One beside its photograph is first noted as ours: the text has no place for a mark."""
    text = to_culane(record)
    if path.parent.resolve() == photo.parent.resolve():
        with naming(path), open(path.with_name(OWN_TEXTS), "a", encoding="ascii") as file:
            file.write(f"{_mark(path, text.encode())}\n")
    write_atomic(path, text, durable=False)


def own_texts(folder: Path) -> set[Path]:
    """CULane's texts in a folder of photographs that are written here and that nobody has changed since."""
    note = folder / OWN_TEXTS
    if not note.is_file():
        return set()
    marks = set(note.read_text(encoding="ascii", errors="replace").split())
    return {path for path in list_files(folder, ENDINGS["culane"]) if _mark(path, path.read_bytes()) in marks}


def _mark(path: Path, content: bytes) -> str:
    return hashlib.sha256(os.fsencode(path.name) + b"\0" + content).hexdigest()[:32]


def culane_lanes(polylines: Sequence) -> list[np.ndarray]:
    """Points of each lane at rows 0, 10, 20 …, from the bottom up, x to 0.001 px; none of fewer than two points.

    Args:
        polylines: (M, 2) of (x, y) each.
    """
    lanes = []
    for points in polylines:
        y = np.round(points, 2)[:, 1]
        rows = np.arange(np.ceil(y.min() / CULANE_STEP), y.max() // CULANE_STEP + 1)[::-1] * CULANE_STEP
        if len(rows) >= 2:
            lanes.append(np.stack([_x_at_rows(points, rows).round(3), rows], axis=1))
    return lanes


def to_labelme(record: dict, photo: str) -> dict:
    """LabelMe's file: a linestrip a lane, a polygon a part of a crosswalk; ``group_id`` is the instance id.

    Areas come first and have no instance: lines alone would label all else, the road too, as background.

    Args:
        record: its lanes of a single point are left out.
        photo: path of the photograph from the file's folder.
    """
    shapes = [_shape(area, "polygon", outline) for area in record["areas"] for outline in area["polygons"]]
    for lane in record["lanes"]:
        fewer = cv2.approxPolyDP(np.array(lane["points"], np.float32), LINE_TOLERANCE, False)[:, 0]
        if len(fewer) >= 2:
            shapes.append(_shape(lane, "linestrip", fewer.astype(float).round(2).tolist()))
    for crosswalk in record["crosswalks"]:
        shapes += [_shape(crosswalk, "polygon", outline) for outline in crosswalk["polygons"]]
    return {
        "version": VERSION, "flags": {}, "shapes": shapes, "imagePath": photo, "imageData": None,
        "imageHeight": record["height"], "imageWidth": record["width"],
    }  # fmt: skip


def read_h_samples(path: Path, root: Path) -> dict[Path, tuple[str, list[float]]]:
    """Image, ``raw_file`` and rows of each line of a label file of TuSimple.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no label, or that names an image outside of ``root``; no line at all.
    """
    check_file(path, expected="TuSimple's labels")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            try:
                values = json.loads(line)
                raw_file, rows = str(values["raw_file"]), [row + 0 for row in values["h_samples"]]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}: line {number} is no label of TuSimple") from None
            name = raw_file.replace("\\", "/").lstrip("/")
            if not rows or not lies_in(root / name, [root]):
                raise ValueError(f"{path}: line {number} names no row, or {raw_file}, which is not in {root}")
            found[find_file(root / name)] = (raw_file, rows)
    if not found:
        raise ValueError(f"{path}: holds no label, expected TuSimple's")
    return found


def _x_at_rows(points: Sequence, rows: np.ndarray) -> np.ndarray:
    """x of a polyline, its points rounded as in a record, at rows (R,); NaN beyond its ends."""
    points = np.round(points, 2)
    x, y = points[np.argsort(points[:, 1], kind="stable")].T
    return np.interp(rows, y, x, left=np.nan, right=np.nan)


def _shape(member: dict, kind: str, points: list) -> dict:
    confidence = f"confidence {member['confidence']:.2f}" if "confidence" in member else ""
    return {
        "label": member["class"], "points": points, "group_id": member.get("id"), "description": confidence,
        "shape_type": kind, "flags": {},
    }  # fmt: skip
