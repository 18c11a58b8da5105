"""Notebook 7: photographs in a style that the shipped model never saw, and what a person makes of its drafts."""

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from roadtopo_lib.data.images import write_image
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.inference.records import outlines
from roadtopo_lib.labels import CLASSES, LANE_MARKING
from roadtopo_lib.metrics import LaneF1, match_by_iou
from roadtopo_lib.scenes import Scene, render_scene

AREAS = [c.name for c in CLASSES if c.instances is None]
"""Classes without instances."""

EXACT = 0.8
"""IoU of two lines at which nobody would move one: at a width of 512 pixels they are 1 pixel apart."""


def dark_and_wet_roads(first_seed: int, count: int) -> dict[str, Scene]:
    """Rendered scenes (256 × 512) at dusk, at night or in rain, by name; the shipped model has learnt dry daylight."""
    scenes = (render_scene(seed) for seed in itertools.count(first_seed))
    of_style = (s for s in scenes if s.attributes["light"] != "day" or s.attributes["rain"] > 0)
    return {f"road_{number:02d}": scene for number, scene in enumerate(itertools.islice(of_style, count))}


def photograph(folder: Path, scenes: Mapping[str, Scene]) -> None:
    """Writes the images alone, as a camera would: ``folder/NAME.jpg``."""
    for name, scene in scenes.items():
        write_image(folder / f"{name}.jpg", scene.image)


def store(folder: Path, scenes: Mapping[str, Scene]) -> None:
    """Writes images and true masks, as a split of a data set."""
    for name, scene in scenes.items():
        write_sample(folder, name, scene.image, scene.semantic_amodal, scene.instance_amodal)


def correct(folder: Path, scenes: Mapping[str, Scene]) -> Counter:
    """Does to LabelMe's files ``folder/NAME.json`` what a person with patience would do in LabelMe.

    A line that lies on a true lane (IoU above ``EXACT``) stays as it is. One that belongs to a lane (IoU above 0.5, as
    for lane F1) is moved onto it. Any other is deleted, and lanes without a line are drawn. Crosswalks are drawn anew.
    Road and sidewalk stay as they are.

    Returns:
        How many lines were kept, moved, deleted and drawn.
    """
    done = Counter()
    for name, scene in scenes.items():
        path = folder / f"{name}.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        drafts = [shape for shape in values["shapes"] if shape["shape_type"] == "linestrip"]
        iou = LaneF1().iou_matrix([np.array(d["points"]) for d in drafts], scene.lanes, scene.image.shape[:2])
        pairs = list(zip(*match_by_iou(iou, 0.5), strict=True))  # (draft, lane)
        kept = {lane: drafts[draft] for draft, lane in pairs if iou[draft, lane] > EXACT}
        lanes, found = len(scene.lanes), len(pairs)
        done += Counter(kept=len(kept), moved=found - len(kept), deleted=len(drafts) - found, drawn=lanes - found)
        shapes = [shape for shape in values["shapes"] if shape["label"] in AREAS]
        shapes += [kept.get(lane) or _lane(scene, lane) for lane in range(lanes)]
        for number in range(len(scene.lanes) + 1, int(scene.instance_amodal.max()) + 1):
            shapes += _crosswalk(scene, number)
        values["shapes"] = [{**shape, "group_id": None} for shape in shapes]
        path.write_text(json.dumps(values), encoding="utf-8")
    return done


def _lane(scene: Scene, number: int) -> dict:
    return _shape(scene, number + 1, "linestrip", scene.lanes[number])


def _crosswalk(scene: Scene, instance: int) -> list[dict]:
    return [_shape(scene, instance, "polygon", points) for points in outlines(scene.instance_amodal == instance)]


def _shape(scene: Scene, instance: int, kind: str, points: np.ndarray) -> dict:
    pixels = scene.semantic_amodal[scene.instance_amodal == instance]
    label = CLASSES[int(np.bincount(pixels).argmax())].name if len(pixels) else CLASSES[LANE_MARKING].name
    return {"label": label, "points": np.round(points, 2).tolist(), "group_id": None, "shape_type": kind, "flags": {}}
