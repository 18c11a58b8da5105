"""LabelMe: one JSON file beside each image.

``shapes[]`` with ``label``, ``points``, ``shape_type`` (line and linestrip are lanes, the others areas), and
``group_id``, which joins shapes into one instance. ``imagePath`` may hold backslashes, ``imageData`` the image.
"""

import base64
import binascii
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from roadtopo_lib.data.convert.drawing import Area, Line
from roadtopo_lib.data.convert.lanes import NO_POINT, ONE_POINT
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.writing import Labelled, Options, Report, inside, sample_name, write_labelled
from roadtopo_lib.files import list_files

CIRCLE_POINTS = 64


def convert_labelme(src: str | Path, dst: str | Path, names: dict | None = None, **options: object) -> Report:
    """Converts LabelMe's files.

    Args:
        src: folder, searched with its subfolders for JSON files.
        dst: the data set's folder.
        names: label → class name; see ``ClassNames``.
        options: fields of ``Options``.

    Raises:
        FileNotFoundError: no JSON file.
        ValueError: wrong options or names.
    """
    options = Options(**options)
    return write_labelled(read_labelme(Path(src), options, ClassNames(options.classes, names)), dst, options)


def read_labelme(src: Path, options: Options, names: ClassNames) -> Iterator[Labelled]:
    """One ``Labelled`` a file."""
    files = list_files(src, ".json", deep=True)
    if not files:
        raise FileNotFoundError(f"{src}: no JSON file of LabelMe found")
    for path in files:
        yield _read_file(path, src, options, names)


def _read_file(path: Path, src: Path, options: Options, names: ClassNames) -> Labelled:
    name, dropped = sample_name(path.relative_to(src)), Counter()
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        shapes, file = list(values["shapes"]), str(values.get("imagePath") or path.with_suffix(".jpg").name)
        size = (int(values["imageHeight"]), int(values["imageWidth"])) if values.get("imageHeight") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Labelled.unreadable(name, "a file that is no LabelMe label")
    image = inside(src, str(path.parent.relative_to(src) / file.replace("\\", "/")))
    if image is None:
        return Labelled.unreadable(name, "an image outside of the data set")
    if not image.is_file() and values.get("imageData"):
        try:
            with Image.open(io.BytesIO(base64.b64decode(values["imageData"]))) as held:
                image = np.asarray(held.convert("RGB"))
        except (OSError, ValueError, binascii.Error):
            dropped["image data that cannot be read"] += 1
    lines, areas = [], []
    for shape in shapes:
        try:
            member = _member(shape, names, options)
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            dropped[str(error.args[0]) if isinstance(error, _Dropped) else "a damaged shape"] += 1
            continue
        if isinstance(member, Line):
            lines.append(member)
        elif member is not None:
            areas.append(member)
    return Labelled(name, image, str(path.parent), lines, areas, dropped=dropped, size=size)


class _Dropped(ValueError):
    """The reason why a shape is left out."""


def _member(shape: dict, names: ClassNames, options: Options) -> Line | Area | None:
    label, kind = str(shape["label"]), shape.get("shape_type") or "polygon"
    if label not in names:
        raise _Dropped(f"label {label!r} is not in the class table")
    class_id = names[label]
    if class_id is None:
        return None
    points = np.array(shape["points"], float).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise _Dropped("a damaged shape")
    role = options.classes[class_id].instances
    if kind in ("line", "linestrip"):
        if role != "lane":
            raise _Dropped(f"a {kind} of a class without lanes")
        if len(points) < 2:
            raise _Dropped(ONE_POINT if len(points) else NO_POINT)
        return Line(points, class_id, shape.get("group_id"))
    if kind == "mask":
        return Area([], class_id, shape.get("group_id"), *_placed_mask(shape, points))
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle" and len(points) == 2:
        angles = np.linspace(0, 2 * np.pi, CIRCLE_POINTS, endpoint=False)
        radius = np.linalg.norm(points[1] - points[0])
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind not in ("polygon", "rectangle"):
        raise _Dropped(f"a shape of type {kind}")
    if len(points) < 3:
        raise _Dropped("a polygon of fewer than three points")
    return Area([points], class_id, shape.get("group_id"))


def _placed_mask(shape: dict, points: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask of a shape of type mask, and its upper left corner (x, y)."""
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as held:
        mask = np.asarray(held.convert("L")) > 0
    x, y = np.floor(points.min(axis=0)).astype(int).tolist()
    return mask, (x, y)
