"""LabelMe: one JSON file beside each image.

``shapes[]`` with ``label``, ``points``, ``shape_type`` (line and linestrip are lanes, the others areas), and
``group_id``, which joins shapes into one instance. ``imagePath`` may hold backslashes, ``imageData`` the image. LabelMe
shows an image as its EXIF orientation turns it; points and size are those of what it shows.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from roadtopo_lib.data.convert import reading
from roadtopo_lib.data.convert.drawing import Shape
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.reading import DAMAGED, Labelled
from roadtopo_lib.decoding import decoded

CIRCLE_POINTS = 64
LARGEST = 1e9  # pixels that a circle or a mask may lie away


def read_labelme(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` a file; JSON files of results that this library has written are none.

    Raises:
        FileNotFoundError: no label file.
    """
    files, root = reading.label_files([src], ".json", "LabelMe's JSON", deep=True), src if src.is_dir() else src.parent
    one_folder = len({path.parent for path in files}) == 1
    for path in files:
        relative = path.relative_to(root).as_posix()
        name, dropped, shapes = reading.sample_name(relative), Counter(), []
        try:
            values = json.loads(path.read_bytes())
            if "shapes" not in values and ("lane_count" in values or "lanes" in values):
                continue  # a result of ``infer``
            labels, file = list(values["shapes"]), str(values.get("imagePath") or f"{path.stem}.jpg")
            size = tuple(int(values.get(side) or 0) for side in ("imageHeight", "imageWidth"))
        except (OSError, *DAMAGED):
            yield Labelled.unreadable(name, reading.UNREADABLE)
            continue
        places, within = [images or path.parent, path.parent], [images or root]
        image = reading.locate(places, file, within)
        if image is None or not image.is_file():  # moved, perhaps: what is it called?
            bare = file.replace("\\", "/").rpartition("/")[2]
            moved = reading.locate(places, bare, within)
            image = moved if moved and moved.is_file() else image
        if values.get("imageData") and not (image and image.is_file()):
            with suppress(*DAMAGED):
                image = base64.b64decode(values["imageData"])
        for label in labels:
            try:
                shapes += _shape(label, names)
            except (OSError, *DAMAGED) as error:
                dropped[str(error) if isinstance(error, _Dropped) else "a damaged shape"] += 1
        recording = reading.recording_of(relative, one_folder)
        yield Labelled(name, image, recording, shapes, None, dropped, size if all(size) else None, upright=True)


class _Dropped(ValueError):
    """The reason why a shape is left out."""


def _shape(label: dict, names: ClassNames) -> list[Shape]:
    """The shape of a label, none for a name that is left out; raises what is wrong with it."""
    name, kind, group = str(label["label"]), label.get("shape_type") or "polygon", label.get("group_id")
    if name not in names:
        raise _Dropped(reading.unknown("label", name))
    class_id, instance = names.get(name), None if group is None else str(group)
    if class_id is None:
        return []
    points, is_line = reading.points_of(label["points"]), kind in ("line", "linestrip")
    if is_line and names.classes[class_id].instances != "lane":
        raise _Dropped(f"a {kind} of a class without lanes")
    if is_line and reading.place_count(points) < 2:
        raise _Dropped(reading.ONE_POINT if len(points) else reading.NO_POINT)
    if kind == "mask":
        return [Shape([], class_id, instance, True, *_placed_mask(label, points))]
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle" and len(points) == 2:
        angles = np.linspace(0, 2 * np.pi, CIRCLE_POINTS, endpoint=False)
        radius = np.linalg.norm(np.clip(points[1] - points[0], -LARGEST, LARGEST))
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif not is_line and kind not in ("polygon", "rectangle"):
        raise _Dropped(f"a shape of type {kind}")
    if not is_line and len(points) < 3:
        raise _Dropped("a polygon of fewer than three points")
    return [Shape([points], class_id, instance, filled=not is_line)]


def _placed_mask(label: dict, points: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask of a shape of type mask, and its upper left corner (x, y)."""
    try:
        mask = np.asarray(decoded(base64.b64decode(label["mask"])).convert("L")) > 0
    except Image.DecompressionBombError:
        raise _Dropped("a mask that is too large") from None
    if not mask.any():
        raise _Dropped("a mask without a pixel")
    x, y = np.floor(np.clip(points.min(axis=0), -LARGEST, LARGEST)).astype(int).tolist()
    return mask, (x, y)
