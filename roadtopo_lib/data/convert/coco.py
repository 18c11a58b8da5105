"""COCO polygons: one JSON file with ``images``, ``annotations`` and ``categories``.

Categories are mapped by name, never by position. Polygons of one annotation are one instance; run-length masks are read
by pycocotools. Only images that the file names are read, so ``….png___fuse.png`` and the like beside them stay out.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from roadtopo_lib.data.convert import reading
from roadtopo_lib.data.convert.drawing import Shape
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.reading import DAMAGED, Labelled

MOST_PIXELS = 100_000_000
"""Of a run-length mask, at most: a file of a hundred bytes may stand for as many as it likes."""


def read_coco(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` an image. A database on disk sorts the annotations by image, in constant memory.

    Images lie beside the file or in a folder ``images`` there, if ``images`` names no other.

    Raises:
        FileNotFoundError: no label file.
        ValueError: several JSON files, one that is no whole COCO file, or run-length masks without pycocotools.
    """
    files = reading.label_files([src], ".json", "COCO's JSON")
    if len(files) > 1:
        raise ValueError(f"{src}: holds {len(files)} JSON files, expected one; name the file itself")
    path, dropped = files[0], Counter()
    database = sqlite3.connect("")  # a temporary file that nobody else sees
    database.executescript("CREATE TABLE image (id, label); CREATE TABLE annotation (id, label)")
    categories: dict[str, str] = {}
    folders: set[str] = set()
    for key, item in reading.json_items(path):
        try:
            if key == "categories":
                categories[repr(item["id"])] = str(item["name"])
            elif key == "images":
                _size(item)
                folders.add(item["file_name"].replace("\\", "/").rpartition("/")[0])
                database.execute("INSERT INTO image VALUES (?, ?)", (repr(item["id"]), json.dumps(item)))
            elif key == "annotations":
                database.execute("INSERT INTO annotation VALUES (?, ?)", (repr(item["image_id"]), json.dumps(item)))
        except DAMAGED:
            dropped[f"a damaged entry of {key}"] += 1
    if not folders:
        raise ValueError(f"{path}: no COCO file, it names no image")
    database.execute("CREATE INDEX by_image ON annotation (id)")
    orphans = database.execute("SELECT count(*) FROM annotation WHERE id NOT IN (SELECT id FROM image)").fetchone()
    dropped["an annotation of no image"] += orphans[0]
    for image_id, text in database.execute("SELECT id, label FROM image ORDER BY rowid"):
        rows = database.execute("SELECT label FROM annotation WHERE id = ? ORDER BY rowid", (image_id,))
        image, annotations = json.loads(text), (json.loads(row[0]) for row in rows)
        file = image["file_name"]
        shapes, size = _shapes(annotations, _size(image), categories, names, dropped)
        beside = [path.parent / "images"] if (path.parent / "images").is_dir() else []
        roots = [images, path.parent] if images else [path.parent, *beside]
        place = reading.locate(roots, file)
        recording = reading.recording_of(file, len(folders) == 1)
        yield Labelled(reading.sample_name(file), place, recording, shapes, None, +dropped, size)
        dropped.clear()


def _size(image: dict) -> tuple[int, int] | None:
    """(H, W) of an image, if its entry says it."""
    return (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None


def _shapes(
    annotations: Iterable[dict], size: tuple[int, int] | None, categories: dict[str, str], names: ClassNames,
    dropped: Counter,
) -> tuple[list[Shape], tuple[int, int] | None]:  # fmt: skip
    """The areas of an image, and its size (H, W), which a run-length mask knows, too."""
    shapes = []
    for number, annotation in enumerate(annotations):
        category, segmentation = categories.get(repr(annotation.get("category_id"))), annotation.get("segmentation")
        if category is None or category not in names:
            dropped["an annotation of no category" if category is None else reading.unknown("category", category)] += 1
            continue
        if (class_id := names.get(category)) is None:
            continue
        try:
            if isinstance(segmentation, dict):
                size = size or tuple(segmentation["size"])
                parts, placed_mask = [], _placed_mask(segmentation, size)
            else:
                rings = [reading.points_of(np.array(ring, float).reshape(-1, 2)) for ring in segmentation]
                parts, placed_mask = [ring for ring in rings if len(ring) >= 3], ()
                if not parts:
                    raise ValueError("no outline")
            shapes.append(Shape(parts, class_id, str(number), True, *placed_mask))
        except ImportError:
            raise ValueError("run-length masks need the package pycocotools, which is not installed") from None
        except DAMAGED:
            dropped["an annotation without a region"] += 1
    return shapes, size


def _placed_mask(segmentation: dict, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """A run-length mask and its upper left corner (x, y); raises one of ``DAMAGED`` if it is none of that size."""
    from pycocotools import mask as masks  # an extra: only run-length masks need it

    height, width = size
    if tuple(segmentation["size"]) != size or height * width > MOST_PIXELS:
        raise ValueError("of another size, or of none that an image has")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        runs = np.array(counts)
        if runs.dtype.kind != "i" or runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
            raise ValueError("too few or too many pixels")
        segmentation = masks.frPyObjects(segmentation, height, width)
    mask = masks.decode(segmentation)
    # Packed lengths that end too early leave the last pixels as they were in memory.
    if not isinstance(counts, list) and masks.encode(mask)["counts"] != counts.encode():
        raise ValueError("too few pixels")
    mask = mask.astype(bool)
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    return mask[top : bottom + 1, left : right + 1], (left, top)
