"""BDD100K lanes: a JSON list of frames with ``labels[].category`` and ``poly2d[]``; crosswalks and kerbs included.

``poly2d`` holds ``vertices`` and ``types``, L for a straight part, C for a control point of a cubic Bézier curve. The
labels trace the two edges of a painted line, and the two sides of a crosswalk: edges that run side by side are joined,
of a line into its centre, of a crosswalk into the area between them.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from roadtopo_lib.data.convert.drawing import Area, Line
from roadtopo_lib.data.convert.lanes import NO_POINT, ONE_POINT
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.writing import Labelled, Options, Report, inside, sample_name, write_labelled
from roadtopo_lib.files import list_files

CURVE_POINTS = 16
"""Points of each Bézier part."""
EDGES_OF = {"lane": 25.0, "crosswalk": 250.0}
"""Pixels at 1280×720 up to which two edges belong to one marking, by role: mean distance of points at equal shares."""
EDGE_POINTS = 20
CHUNK = 1 << 20


def convert_bdd100k(
    src: str | Path, dst: str | Path, images: str | Path | None = None, names: dict | None = None, **options: object
) -> Report:
    """Converts BDD100K's lane labels.

    Args:
        src: a label file such as ``lane_val.json``, or a folder of such files.
        dst: the data set's folder.
        images: folder of the images; default: beside the label file.
        names: category without ``lane/`` → class name; without them ``crosswalk`` and ``road curb`` become crosswalk
            and lane_boundary, all others lane_marking.
        options: fields of ``Options``.

    Raises:
        FileNotFoundError: no label file.
        ValueError: wrong options or names.
    """
    options = Options(**options)
    class_names = ClassNames(options.classes, names)
    return write_labelled(read_bdd100k(Path(src), options, class_names, images and Path(images)), dst, options)


def read_bdd100k(src: Path, options: Options, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` a frame."""
    files = [src] if src.is_file() else list_files(src, ".json")
    if not files:
        raise FileNotFoundError(f"{src}: no label file of BDD100K, expected JSON")
    for path in files:
        split = next((split for split in ("val", "test") if split in path.stem), "train")
        for number, frame in enumerate(json_items(path), start=1):
            try:
                file, labels = str(frame["name"]), list(frame.get("labels") or [])
            except (KeyError, TypeError, AttributeError):
                yield Labelled.unreadable(f"{path.stem}_{number}", "a frame that is no BDD100K label")
                continue
            image = inside(images or path.parent, file)
            if image is None:
                yield Labelled.unreadable(sample_name(file), "an image outside of the data set")
                continue
            lines, areas, dropped = _members(labels, names, options)
            recording = str(frame.get("videoName") or file)
            yield Labelled(sample_name(file), image, recording, lines, areas, split, dropped)


def json_items(path: Path) -> Iterator[object]:
    """Items of a JSON list, read one by one: a file of gigabytes takes the memory of one item.

    Raises:
        ValueError: the file is no JSON list.
    """
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path}: no JSON list")
        text = text[1:]
        while True:
            text = text.lstrip(" \t\r\n,")
            try:
                item, end = decoder.raw_decode(text)
            except ValueError:
                if text.startswith("]"):
                    return
                more = file.read(
                    max(CHUNK, len(text))
                )  # an item that goes on: twice as much, so that time stays linear
                if not more:
                    raise ValueError(f"{path}: the JSON list ends in the middle of an item") from None
                text += more
                continue
            yield item
            text = text[end:]


def _members(labels: list, names: ClassNames, options: Options) -> tuple[list[Line], list[Area], Counter]:
    """Lines and areas of a frame: edges joined."""
    edges: dict[tuple, list[np.ndarray]] = {}
    areas, dropped = [], Counter()
    for label in labels:
        try:
            category = str(label["category"]).removeprefix("lane/")
            class_id = names[category] if category in names else names["lane marking"]
            style = str((label.get("attributes") or {}).get("laneStyle"))
            parts = [(_points(part), bool(part.get("closed"))) for part in label.get("poly2d") or []]
        except (KeyError, TypeError, ValueError, AttributeError):
            dropped["a damaged label"] += 1
            continue
        if class_id is None:
            continue
        for points, closed in parts:
            if len(points) < 2:
                dropped[ONE_POINT if len(points) else NO_POINT] += 1
            elif closed and options.classes[class_id].instances != "lane":
                areas.append(Area([points], class_id))
            else:
                edges.setdefault((class_id, category, style), []).append(points)
    lines = []
    for (class_id, *_), group in edges.items():
        role = options.classes[class_id].instances
        for first, second in _paired(group, EDGES_OF.get(role, 0.0)):
            if role == "lane":
                lines.append(Line(first if second is None else (first + second) / 2, class_id))
            elif second is not None:
                areas.append(Area([np.concatenate([first, second[::-1]])], class_id))
            else:
                dropped["an area of one edge"] += 1
    return lines, areas, dropped


def _points(part: dict) -> np.ndarray:
    """(M, 2) points along a ``poly2d``; Bézier parts, three C each, become short straight ones."""
    vertices = np.array(part["vertices"], float).reshape(-1, 2)
    types = str(part.get("types") or "L" * len(vertices))
    if len(types) != len(vertices) or not np.isfinite(vertices).all():
        raise ValueError("types and vertices differ")
    points, k = [], 0
    while k < len(vertices):
        if types[k] == "C" and points and types[k : k + 3] == "CCC":
            t = np.linspace(0, 1, CURVE_POINTS + 1)[1:, None]
            p0, (p1, p2, p3) = points[-1], vertices[k : k + 3]
            points += list((1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * p1 + 3 * (1 - t) * t**2 * p2 + t**3 * p3)
            k += 3
        else:
            points.append(vertices[k])
            k += 1
    return np.array(points).reshape(-1, 2)


def _paired(edges: list[np.ndarray], reach: float) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Edges in pairs, nearest first, if they are at most ``reach`` pixels apart; the others alone, as they are."""
    resampled = [_resampled(points) for points in edges]
    distances = []
    for i, first in enumerate(resampled):
        for j in range(i):
            same = np.linalg.norm(first - resampled[j], axis=1).mean()
            turned = np.linalg.norm(first - resampled[j][::-1], axis=1).mean()
            distances.append((min(same, turned), i, j, turned < same))
    pairs, free = [], set(range(len(edges)))
    for distance, i, j, turned in sorted(distances, key=lambda entry: entry[0]):
        if distance <= reach and {i, j} <= free:
            free -= {i, j}
            pairs.append((resampled[i], resampled[j][::-1] if turned else resampled[j]))
    return pairs + [(edges[k], None) for k in sorted(free)]


def _resampled(points: np.ndarray) -> np.ndarray:
    """``EDGE_POINTS`` points at equal distances along a line."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], EDGE_POINTS)
    return np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], axis=1)
