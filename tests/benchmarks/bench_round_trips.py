"""Ours → another format → ours: how far the lanes of rendered scenes move, in pixels.

Run from the repository: ``python tests/benchmarks/bench_round_trips.py``. The exact curves of 1280×720 scenes are
written as ``infer lane --format`` writes a model's, read back by ``convert``, and compared with what they began as:

* sideways, points: distance of the points that the file holds, and of the straight lines between them, from the curve;
* sideways, masks: distance of the centre lines of the converted instance masks from it, 25 rows and more from the
  lane's ends, in scenes without a crosswalk that cuts lanes;
* ends: distance of the curve's ends from the line in the file, in pixels and in rows. TuSimple and CULane have a point
  every ten rows, and lose what is beyond the last: on a nearly level lane, that is long;
* crosswalk: distance of the converted crosswalks' outlines from those in the mask.

The library writes no labels of BDD100K and COCO: this script does, curves as poly2d and outlines of masks as polygons.
COCO has no curves: there, masks is the distance of the lanes' outlines from those in the mask.
"""

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from roadtopo_lib.data.convert import FORMATS
from roadtopo_lib.data.images import write_image
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.files import infer_to_files
from roadtopo_lib.inference.records import outlines
from roadtopo_lib.labels import CLASSES, CROSSWALK
from roadtopo_lib.metrics import polylines_from_instances
from roadtopo_lib.scenes import render_scene


def read_lines(form: str, folder: Path) -> list[list[np.ndarray]]:
    """Points of the lanes in the files of a format, image by image: read here, and not by the library."""
    if form == "tusimple":
        labels = [json.loads(line) for line in (folder / "tusimple.json").read_text().splitlines()]
        lanes = [[np.stack([x, label["h_samples"]], axis=1) for x in label["lanes"]] for label in labels]
        return [[lane[lane[:, 0] >= 0].astype(float) for lane in image] for image in lanes]
    if form == "culane":
        texts = [path.read_text().splitlines() for path in sorted(folder.glob("*.lines.txt"))]
        return [[np.array(line.split(), float).reshape(-1, 2) for line in text] for text in texts]
    if form == "bdd100k":
        frames = json.loads((folder / "labels.json").read_text())
        parts = [[part for label in frame["labels"] for part in label["poly2d"]] for frame in frames]
        return [[np.array(part["vertices"]) for part in image if not part["closed"]] for image in parts]
    if form == "coco":
        return [[] for _ in json.loads((folder / "labels.json").read_text())["images"]]
    labels = [json.loads(path.read_text())["shapes"] for path in sorted(folder.glob("*.json"))]
    return [[np.array(s["points"], float) for s in shapes if s["shape_type"] == "linestrip"] for shapes in labels]


class Truth:
    """A segmenter that knows the scenes: finds exactly what was rendered."""

    classes, most_pixels = CLASSES, 1 << 30

    def __init__(self, scenes):
        self.scenes = iter(scenes)
        self.postprocessor = SimpleNamespace(process=lambda confidence, result: result)

    def predict(self, image):
        scene = next(self.scenes)
        instance, lanes = scene.instance_amodal, len(scene.lanes)
        crosswalks = np.where(instance > lanes, instance - lanes, 0).astype(np.int32)
        result = {
            "semantic_mask": scene.semantic_amodal,
            "lane_instances": np.where(instance <= lanes, instance, 0).astype(np.int32),
            "lane_count": lanes,
            "lane_polylines": [np.asarray(lane, float) for lane in scene.lanes],
            "crosswalk_instances": crosswalks,
            "crosswalk_count": int(crosswalks.max(initial=0)),
        }
        return {"confidence": np.ones(image.shape[:2], np.float32), "result": result}


def write_labels(form: str, scenes: list, path: Path) -> None:
    """The scenes' labels as BDD100K or COCO has them."""
    frames, annotations = [], []
    for number, scene in enumerate(scenes):
        masks = [scene.instance_amodal == k + 1 for k in range(scene.instance_amodal.max())]
        labels = [poly2d("lane/single white", np.asarray(lane, float).tolist(), False) for lane in scene.lanes]
        for k, mask in enumerate(masks):
            is_lane, rings = k < len(scene.lanes), outlines(mask)
            labels += [poly2d("lane/crosswalk", ring, True) for ring in rings if not is_lane]
            rings = [[x for point in ring for x in point] for ring in rings]
            annotations.append({"image_id": number, "category_id": 1 if is_lane else 2, "segmentation": rings})
        frames.append({"name": f"{number:03d}.png", "labels": labels})
    images = [{"id": number, "file_name": frame["name"]} for number, frame in enumerate(frames)]
    categories = [{"id": 1, "name": "lane"}, {"id": 2, "name": "crosswalk"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(frames if form == "bdd100k" else coco))


def poly2d(category: str, vertices: list, closed: bool) -> dict:
    """A label of BDD100K."""
    return {"category": category, "poly2d": [{"vertices": vertices, "types": "L" * len(vertices), "closed": closed}]}


def from_curve(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Distance of points (N, 2) from a polyline (M, 2), exact: to the nearest point of its nearest segment, (N,)."""
    start, along = curve[:-1], np.diff(curve, axis=0)  # (M − 1, 2)
    offset = points[:, None] - start  # (N, M − 1, 2)
    share = (offset * along).sum(axis=2) / np.maximum((along**2).sum(axis=1), 1e-12)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1)


def along(points: np.ndarray) -> np.ndarray:
    """Points of a polyline and of the straight lines between them, about a pixel apart."""
    parts = [np.linspace(a, b, max(2, int(np.hypot(*(b - a))) + 1)) for a, b in pairwise(points)]
    return np.concatenate(parts)


def outline_deviation(before: np.ndarray, after: np.ndarray) -> float:
    """Largest distance of a pixel that is in one mask only from the other mask."""
    distances = [
        cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, 5)[one & ~other]
        for one, other in ((before, after), (after, before))
    ]
    return float(np.concatenate(distances).max(initial=0))


def measure(form: str, scenes: list, folder: Path) -> dict:
    """Largest deviations in pixels over all scenes; ``lanes`` were compared, ``lost`` did not come back."""
    photos, made = folder / "photos", folder / form
    for number, scene in enumerate(scenes):
        write_image(photos / f"{number:03d}.png", scene.image)
    if form != "labelme":  # the images lie where the labels lie
        for path in photos.iterdir():
            made.mkdir(exist_ok=True)
            (made / path.name).write_bytes(path.read_bytes())
    source = photos if form == "labelme" else made
    if form in ("bdd100k", "coco"):
        write_labels(form, scenes, source / "labels.json")
    else:
        list(infer_to_files(Truth(scenes), source, source, form=form))
    labels = source / "tusimple.json" if form == "tusimple" else source
    FORMATS[form](labels, folder / f"{form}_set", split="train", workers=1, progress=False)
    dataset = LaneInstanceDataset(folder / f"{form}_set", "train")
    worst = {"lanes": 0, "lost": 0, "points": 0.0, "masks": 0.0, "ends": 0.0, "rows": 0.0, "crosswalk": 0.0}

    def note(name, value):
        worst[name] = max(worst[name], float(value))

    for number, (scene, lines) in enumerate(zip(scenes, read_lines(form, source), strict=True)):
        curves = [np.asarray(lane, float) for lane in scene.lanes]
        _, semantic, instance = dataset.read(number)
        drawn = polylines_from_instances(instance, instances_by_role(semantic, instance))
        worst["lost"] += len(curves) - (len(drawn) if form == "coco" else len(lines))
        worst["lanes"] += len(curves)
        for points in lines:
            k = min(range(len(curves)), key=lambda k: from_curve(along(points), curves[k]).max())
            note("points", from_curve(along(points), curves[k]).max())
            note("ends", from_curve(curves[k][[0, -1]], points).max())
            note("rows", np.abs(np.sort(curves[k][[0, -1], 1]) - [points[:, 1].min(), points[:, 1].max()]).max())
        if form == "coco":
            before = (scene.instance_amodal > 0) & (scene.instance_amodal <= len(curves))
            note("masks", outline_deviation(before, np.isin(instance, instances_by_role(semantic, instance))))
        for curve in curves if form != "coco" and not scene.attributes["crosswalks"] else []:
            low, high = curve[0, 1] + 25, curve[-1, 1] - 25  # at an end, a mask's centre line turns to the corner
            inner = [line[(line[:, 1] > low) & (line[:, 1] < high)] for line in drawn]
            note("masks", min((from_curve(line, curve).max() for line in inner if len(line)), default=0.0))
        if form not in ("tusimple", "culane"):
            before, after = (mask == CROSSWALK for mask in (scene.semantic_amodal, semantic))
            note("crosswalk", outline_deviation(before, after))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--formats", nargs="+", default=["tusimple", "culane", "labelme", "bdd100k", "coco"])
    count = parser.parse_args().scenes
    scenes = [render_scene(seed, (720, 1280), "day") for seed in range(count)]
    print(f"{count} scenes of 1280×720, largest deviation in pixels")
    print(
        f"{'format':10s}{'lanes':>7s}{'lost':>6s}{'points':>9s}{'masks':>8s}{'ends':>7s}{'rows':>7s}{'crosswalk':>11s}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for form in parser.parse_args().formats:
            worst = measure(form, scenes, Path(folder))
            print(
                f"{form:10s}{worst['lanes']:7d}{worst['lost']:6d}{worst['points']:9.2f}{worst['masks']:8.2f}"
                f"{worst['ends']:7.2f}{worst['rows']:7.2f}{worst['crosswalk']:11.2f}"
            )


if __name__ == "__main__":
    main()
