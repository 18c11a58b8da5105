"""Notebook 6: labelled scenes seen through the network, and where in the chain a lane is lost."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from roadtopo_lib.course.data import samples
from roadtopo_lib.course.lessons.postprocessing import embeddings_at
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.baselines import connected_components
from roadtopo_lib.labels import LANE_CLASS_IDS
from roadtopo_lib.metrics import LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import (
    MIN_PIXELS_SHARE,
    LanePostProcessor,
    LaneResult,
    cluster_embeddings,
    collect_instances,
)

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

PAIRS = (("embeddings", "components"), ("embeddings", "components + road"), ("all", "embeddings + road"))
"""Which of the ``ways`` notebook 6 compares."""

SHOWN = (
    ("all", "not in the class mask"), ("all", "found, curve off"), ("components", "lane in pieces"),
)  # fmt: skip
"""Failures of which notebook 6 shows a scene: the way that fails, and what happened."""


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


def inspect_scenes(segmenter: LaneSegmenter, split: str, count: int) -> list[Inspected]:
    """The first scenes of a split of the sample data, each with the network's outputs."""
    dataset = LaneInstanceDataset(samples(), split)
    return [_inspect(segmenter, *dataset.read(index)) for index in range(count)]


def _inspect(segmenter: LaneSegmenter, image: np.ndarray, semantic: np.ndarray, instances: np.ndarray) -> Inspected:
    ids = instances_by_role(semantic, instances)
    true = np.where(np.isin(instances, ids), instances, 0).astype(int)
    prediction = segmenter.predict(image)
    both = np.isin(prediction["semantic_pred"], LANE_CLASS_IDS) & (true > 0)
    both[: prediction["first_row"]] = False
    pixels = np.flatnonzero(both)
    curves = polylines_from_instances(true, ids)
    return Inspected(image, true, curves, prediction, embeddings_at(prediction, pixels), true.ravel()[pixels])


def nearest_means(scenes: Iterable[Inspected]) -> list[float]:
    """Distance of the nearest two lane means of each scene that has two lanes of the smallest size or more."""
    nearest = []
    for scene in scenes:
        ids, counts = np.unique(scene.lanes, return_counts=True)
        ids = ids[counts >= round(MIN_PIXELS_SHARE * scene.true.size)]
        means = [scene.vectors[scene.lanes == k].mean(axis=0) for k in ids]
        if len(means) > 1:
            nearest.append(float(pdist(means).min()))
    return nearest


def mean_ari(scenes: Sequence[Inspected], radii: Sequence[float]) -> np.ndarray:
    """Mean over scenes of the ARI between true lanes and clusters, for each radius: (radii,)."""
    scores = [
        [adjusted_rand_score(scene.lanes, cluster_embeddings(scene.vectors, radius)) for radius in radii]
        for scene in scenes
    ]
    return np.mean(scores, axis=0)


def ways(scene: Inspected) -> dict[str, LaneResult]:
    """The lanes of a scene found in five ways: with and without embeddings, the road model, and sure pixels ("all")."""
    semantic, bare = scene.prediction["semantic_pred"], {**scene.prediction, "confidence": None}
    lanes, none = np.isin(semantic, LANE_CLASS_IDS), np.empty(0, dtype=np.int64)
    pieces = np.flatnonzero(lanes), cv2.connectedComponents(lanes.astype(np.uint8))[1][lanes] - 1
    return {
        "components": connected_components(semantic),
        "components + road": collect_instances(semantic, pieces, (none, none)),
        "embeddings": LanePostProcessor(road_model=False).process(**bare),
        "embeddings + road": LanePostProcessor().process(**bare),
        "all": LanePostProcessor().process(**scene.prediction),
    }


def lane_counts(scenes: Sequence[Inspected], results: Sequence[LaneResult]) -> np.ndarray:
    """Found pairs, false lanes and missed lanes of each scene: (scenes, 3)."""
    counts = []
    for scene, result in zip(scenes, results, strict=True):
        score = LaneF1()
        score.update(result["lane_polylines"], scene.curves, scene.true.shape)
        counts.append((score.tp, score.fp, score.fn))
    return np.array(counts)


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
        results: "components", "embeddings" (without road model and confidence) and "all" (with both).

    Returns:
        Masks by stage, in order, for "all" and "components".
    """
    bare = {**scene.prediction, "confidence": None}
    in_mask = {"not in the class mask": np.isin(scene.prediction["semantic_pred"], LANE_CLASS_IDS)}
    every = LanePostProcessor(road_model=False, min_pixels=0).process(**bare)
    sure = LanePostProcessor(road_model=False).process(**scene.prediction)
    library = {
        "in no cluster (−1)": every["lane_instances"],
        "below min_pixels": results["embeddings"]["lane_instances"],
        "too few sure pixels": sure["lane_instances"],
        "20 % rule": results["all"]["lane_instances"],
    }
    components = {"below min_pixels": results["components"]["lane_instances"]}
    return {"all": in_mask | library, "components": in_mask | components}


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
    """``audit`` of every scene, by way: "all" and "components".

    Args:
        scenes: with the truth.
        found: each scene's results, as ``stages`` takes them.
    """
    audits: dict[str, list] = {"all": [], "components": []}
    for scene, results in zip(scenes, found, strict=True):
        for way, masks in stages(scene, results).items():
            audits[way].append(audit(masks, scene, results[way]["lane_polylines"]))
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
        ids, polylines = found[k][way]["lane_instances"], found[k][way]["lane_polylines"]
        lane = dict(audits[way][k])[what]
        cases.append((f"{way}: {what}", scenes[k].image, scenes[k].true, ids, polylines, lane))
    return cases
