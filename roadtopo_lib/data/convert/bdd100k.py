"""BDD100K lanes: a JSON list of frames with ``labels[].category`` and ``poly2d[]``; crosswalks and kerbs included.

``poly2d`` holds ``vertices`` and ``types``, L for a straight part, C for a control point of a cubic Bézier curve. The
labels trace the two edges of a painted line, and the two sides of a crosswalk: edges that run side by side are joined,
of a line into its centre, of a crosswalk into the area between them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from roadtopo_lib.data.convert import reading
from roadtopo_lib.data.convert.drawing import Shape
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.reading import DAMAGED, Labelled

LANE = re.compile(r"lane$|lane/|(single|double) (white|yellow|other)$")
"""Beginning of the categories that are lanes, whatever their kind."""
SPLIT = re.compile(r"(?<![a-z])(val|test)(?=idation|ing|[^a-z]|$)", re.IGNORECASE)
"""What names a split in a label file's name: ``lane_val``, and no part of a word such as ``latest``."""
CURVE_POINTS = 16
"""Points of each Bézier part."""
EDGES_OF = {"lane": 25.0, "crosswalk": 250.0}
"""Pixels at 1280×720 up to which two edges belong to one marking, by role: mean distance of points at equal shares."""
EDGE_POINTS = 20
MOST_PARTNERS = 16  # of an edge that are looked at, the nearest of its image: time and memory grow with the edges


def read_bdd100k(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` a frame; a file that ends too early is one more, dropped.

    Crosswalk and road curb become crosswalk and lane_boundary unless ``names`` says otherwise, all other lanes the
    first class of lanes; what is no lane is left out and counted.

    Raises:
        FileNotFoundError: no label file.
        ValueError: a class table without lanes, or the only label file is damaged before its first frame ends.
    """
    files = reading.label_files([src], ".json", "BDD100K's JSON")
    for path in files:
        found, number = SPLIT.search(path.stem), 0
        split = found[0].lower() if found else "train"
        root = images or path.parent
        roots = [root, *filter(Path.is_dir, [root / split])]
        try:
            frames = (item for key, item in reading.json_items(path) if key in (None, "frames"))
            for number, frame in enumerate(frames, start=1):
                yield _frame(frame, f"{path.stem}_{number}", roots, split, names)
            if number == 0:
                raise ValueError(f"{path}: no label file of BDD100K, it names no frame")
        except ValueError:
            if len(files) == 1 and number == 0:
                raise
            yield Labelled.unreadable(path.stem, reading.UNREADABLE)


def _frame(frame: dict, fallback: str, roots: list[Path], split: str, names: ClassNames) -> Labelled:
    try:
        name, image = reading.sample_name(frame["name"]), reading.locate(roots, frame["name"])
        recording, labels = str(frame.get("videoName") or name), list(frame.get("labels") or [])
    except DAMAGED:
        return Labelled.unreadable(fallback, "a frame that is no BDD100K label")
    shapes, dropped = _shapes(labels, names)
    return Labelled(name, image, recording, shapes, split, dropped)


def _shapes(labels: list, names: ClassNames) -> tuple[list[Shape], Counter]:
    """Lines and areas of a frame, edges joined."""
    edges: dict[tuple, list[np.ndarray]] = {}
    shapes, dropped, lane_class = [], Counter(), names.lane_class
    for label in labels:
        try:
            category, attributes = str(label["category"]), label.get("attributes") or {}
            kind = str(attributes.get("laneTypes") or category).removeprefix("lane/")  # 2018: lane, and its laneTypes
            if kind not in names and not LANE.match(category):
                dropped[reading.unknown("category", category)] += 1
                continue
            class_id = names.get(kind, lane_class)
            parts = [(_points(part), bool(part.get("closed"))) for part in label.get("poly2d") or []]
            style = str(attributes.get("laneStyle"))
        except DAMAGED:
            dropped["a damaged label"] += 1
            continue
        if class_id is None:
            continue
        dropped[reading.NO_POINT] += not parts
        for points, is_closed in parts:
            if reading.place_count(points) < 2:
                dropped[reading.ONE_POINT if len(points) else reading.NO_POINT] += 1
            elif is_closed and names.classes[class_id].instances != "lane":
                shapes.append(Shape([points], class_id))
            else:
                edges.setdefault((class_id, kind, style), []).append(points)
    for (class_id, *_), group in edges.items():
        role = names.classes[class_id].instances
        for first, second in _paired(group, EDGES_OF.get(role, 0.0)):
            if role == "lane":
                shapes.append(Shape([first if second is None else (first + second) / 2], class_id, filled=False))
            elif second is not None:
                shapes.append(Shape([np.concatenate([first, second[::-1]])], class_id))
            else:
                dropped["an area of one edge"] += 1
    return shapes, +dropped


def _points(part: dict) -> np.ndarray:
    """(M, 2) points along a ``poly2d``; Bézier parts, three C each, become short straight ones."""
    vertices = reading.points_of(part["vertices"])
    types = str(part.get("types") or "L" * len(vertices))
    if len(types) != len(vertices):
        raise ValueError("types and vertices differ")
    points, k = [], 0
    while k < len(vertices):
        if points and types[k : k + 3] == "CCC":
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
    resampled = np.array([_resampled(points) for points in edges])  # (N, EDGE_POINTS, 2)
    centres = cKDTree(resampled.mean(axis=1))  # no two edges are nearer to each other than their centres
    near = []
    for i, (first, centre) in enumerate(zip(resampled, centres.data, strict=True)):
        _, found = centres.query(centre, k=MOST_PARTNERS + 1, distance_upper_bound=np.nextafter(reach, np.inf))
        for j in found[found < i].tolist():
            same, turned = (np.linalg.norm(resampled[j] - p, axis=1).mean() for p in (first, first[::-1]))
            near += [(min(same, turned), i, j, turned < same)] if min(same, turned) <= reach else []
    pairs, free = [], set(range(len(edges)))
    for _, i, j, is_turned in sorted(near, key=lambda entry: entry[0]):
        if {i, j} <= free:
            free -= {i, j}
            pairs.append((resampled[i], resampled[j][::-1] if is_turned else resampled[j]))
    return pairs + [(edges[k], None) for k in sorted(free)]


def _resampled(points: np.ndarray) -> np.ndarray:
    """``EDGE_POINTS`` points at equal distances along a line."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], EDGE_POINTS)
    return np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], axis=1)
