"""Notebook 6: labelled scenes seen through the network, and where in the chain a lane is lost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roadtopo_lib.course.lessons.postprocessing import embeddings_at
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.labels import LANE_CLASS_IDS
from roadtopo_lib.metrics import LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import LanePostProcessor, LaneResult
from roadtopo_lib.scenes import Scene, render_scene
from roadtopo_lib.scenes.synth import image_seed

LOST_BELOW = 0.2
"""A lane is lost at the first stage that keeps less than this share of its pixels."""

ON_LANES = 0.3
"""A result with a smaller share of its pixels on true lanes lies on no lane."""

A_PIECE = 0.25
"""A lane that two results cover by more than this share each is in pieces."""

FATES = (
    "not in the class mask", "in no cluster (−1)", "below min_pixels", "too few sure pixels", "20 % rule",
    "given to another lane", "found, curve off", "found",
)  # fmt: skip
"""What can become of a true lane, in the order of the stages."""

FALSE_RESULTS = ("result on no lane", "lane in pieces", "wrong order")
"""What a result can be besides."""

RESULT_OF = {"library": "embeddings + road + sure", "components": "components"}
"""Name of the result in which each audited way ends."""

SHOWN = (
    ("library", "not in the class mask"), ("library", "found, curve off"), ("components", "lane in pieces"),
)  # fmt: skip
"""Failures of which notebook 6 shows a scene: the way that fails, and what happened."""


TEST_SEED, TEST_SIZE = 2, (256, 512)
"""Of the day scenes on which ``make run`` scores its model."""


@dataclass(frozen=True)
class Inspected:
    """One labelled scene, what the network says of it, and the true lanes' embeddings.

    Args:
        image: (H, W, 3) uint8 RGB.
        true: (H, W) ids of the true lanes, 0 elsewhere; crosswalks are left out.
        curves: the true lanes' polylines, ascending by id.
        prediction: of ``LaneSegmenter.predict``.
        vectors: (N, D) embeddings of the pixels that network and truth both call lane.
        lanes: (N,) true lane of each.
    """

    image: np.ndarray
    true: np.ndarray
    curves: list[np.ndarray]
    prediction: dict
    vectors: np.ndarray
    lanes: np.ndarray


def unseen_scenes(count: int) -> list[Scene]:
    """The first of the day scenes on which ``make run`` scores its model, 256 × 512; it learns from other ones."""
    return [render_scene(image_seed(TEST_SEED, "test", index), TEST_SIZE, "day") for index in range(count)]


def inspect(segmenter: LaneSegmenter, scene: Scene) -> Inspected:
    """A rendered scene with its amodal labels, and what the network says of it."""
    ids = instances_by_role(scene.semantic_amodal, scene.instance_amodal)
    true = np.where(np.isin(scene.instance_amodal, ids), scene.instance_amodal, 0).astype(int)
    prediction = segmenter.predict(scene.image)
    both = np.isin(prediction["semantic_pred"], LANE_CLASS_IDS) & (true > 0)
    both[: prediction["first_row"]] = False
    pixels = np.flatnonzero(both)
    curves = polylines_from_instances(true, ids)
    return Inspected(scene.image, true, curves, prediction, embeddings_at(prediction, pixels), true.ravel()[pixels])


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of counts (…, 3) of true positives, false positives, false negatives: (…,)."""
    tp, fp, fn = np.moveaxis(np.asarray(counts), -1, 0)
    return 2 * tp / (2 * tp + fp + fn)


def fate(masks: dict[str, np.ndarray], true: np.ndarray, lane: int) -> str:
    """What became of a true lane: the first stage that lost it, else whether the result over it is its own.

    Args:
        masks: (H, W) masks after each stage, in order; the last holds the results' ids.
        true: (H, W) true ids.
        lane: the lane asked about.
    """
    for stage, mask in masks.items():
        if np.mean(mask[true == lane] > 0) < LOST_BELOW:
            return stage
    result = np.bincount(mask[true == lane])[1:].argmax() + 1  # of the last stage
    owner = np.bincount(true[mask == result])[1:].argmax() + 1  # the lane that has most of its pixels
    return "found" if owner == lane else "given to another lane"


def stages(scene: Inspected, results: dict[str, LaneResult]) -> dict[str, dict[str, np.ndarray]]:
    """Masks after each stage of the library's chain and of connected components.

    In the chain, each mask is of a call with the later stages switched off.

    Args:
        scene: with the network's outputs.
        results: "components" and "embeddings" (both without road model and confidence), and with both of these
            "embeddings + road + sure".

    Returns:
        Masks by stage, in order, for "library" and "components".
    """
    bare = {**scene.prediction, "confidence": None}
    in_mask = {"not in the class mask": np.isin(scene.prediction["semantic_pred"], LANE_CLASS_IDS)}
    every = LanePostProcessor(road_model=False, min_pixels=0).process(**bare)
    sure = LanePostProcessor(road_model=False).process(**scene.prediction)
    library = {
        "in no cluster (−1)": every["lane_instances"],
        "below min_pixels": results["embeddings"]["lane_instances"],
        "too few sure pixels": sure["lane_instances"],
        "20 % rule": results["embeddings + road + sure"]["lane_instances"],
    }
    components = {"below min_pixels": results["components"]["lane_instances"]}
    return {"library": in_mask | library, "components": in_mask | components}


def audit(masks: dict[str, np.ndarray], scene: Inspected, polylines: list[np.ndarray]) -> list[tuple[str, int]]:
    """What happened in a scene, each with the true lane's id (0 where it is about a result or the scene).

    Args:
        masks: of one way in ``stages``; the last holds the results' ids.
        scene: with the truth.
        polylines: of the results.

    Returns:
        One of ``FATES`` for each true lane, and what of ``FALSE_RESULTS`` there is.
    """
    true, last = scene.true, [*masks.values()][-1]
    lanes = np.unique(true[true > 0])
    columns = int(max(true.max(), 1)) + 1
    counts = np.array([np.bincount(true[last == p], minlength=columns) for p in range(1, last.max() + 1)])
    counts = counts.reshape(-1, columns)  # (results, true ids)
    on_lane = 1 - counts[:, 0] / counts.sum(axis=1)
    owners = counts[on_lane >= ON_LANES, 1:].argmax(axis=1)
    iou = LaneF1().iou_matrix(polylines, scene.curves, true.shape)  # (results, true lanes)
    rows = []
    for k, lane in enumerate(lanes):
        what = fate(masks, true, lane)
        off = what == "found" and iou[counts[:, lane].argmax(), k] <= LaneF1().iou_threshold
        rows.append(("found, curve off" if off else what, int(lane)))
        if np.sum(counts[:, lane] > A_PIECE * (true == lane).sum()) > 1:
            rows.append(("lane in pieces", int(lane)))
    rows += [("result on no lane", 0)] * np.count_nonzero(on_lane < ON_LANES)
    return rows + [("wrong order", 0)] * (list(owners) != sorted(owners))


def audit_scenes(scenes: Sequence[Inspected], found: Sequence[dict[str, LaneResult]]) -> dict[str, list]:
    """``audit`` of every scene, by way: "library" and "components".

    Args:
        scenes: with the truth.
        found: each scene's results, as ``stages`` takes them.
    """
    audits: dict[str, list] = {way: [] for way in RESULT_OF}
    for scene, results in zip(scenes, found, strict=True):
        for way, masks in stages(scene, results).items():
            audits[way].append(audit(masks, scene, results[RESULT_OF[way]]["lane_polylines"]))
    return audits


def tally(audits: list[list[tuple[str, int]]]) -> Counter:
    """How often each thing happened in all scenes."""
    return Counter(what for rows in audits for what, _ in rows)


def failure_cases(
    scenes: Sequence[Inspected], found: Sequence[dict[str, LaneResult]], audits: dict[str, list]
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], int]]:
    """The first scene of each of ``SHOWN``: title, image, true ids, ids found, polylines found, true lane's id."""
    cases = []
    for way, what in SHOWN:
        k = next(k for k, happened in enumerate(audits[way]) if what in dict(happened))
        result = found[k][RESULT_OF[way]]
        lane = dict(audits[way][k])[what]
        title = f"{way}: {what}"
        cases.append((title, scenes[k].image, scenes[k].true, result["lane_instances"], result["lane_polylines"], lane))
    return cases
