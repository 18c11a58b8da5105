"""Notebook 6: embeddings made to measure, scenes looked at, and where in the chain a lane is lost."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import pdist
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from roadtopo_lib.course.data import samples
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import CROSSWALK, LANE_CLASS_IDS
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.metrics import LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import (
    MIN_PIXELS_SHARE,
    LanePostProcessor,
    LaneResult,
    fit_lane_curve,
    fit_road,
    order_by_mean_x,
    order_left_to_right,
)
from roadtopo_lib.postprocess.clustering import MIN_POINTS, SAMPLE_SIZE, spread, squared_distances
from roadtopo_lib.postprocess.curves import row_medians
from roadtopo_lib.scenes import Scene, render_scene

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


@dataclass(frozen=True)
class Inspected:
    """One labelled scene, what the network says of it, and the true lanes' embeddings.

    Args:
        image: (H, W, 3) uint8 RGB.
        true: (H, W) ids of the true lanes, 0 elsewhere; crossings are left out.
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


def lanes_at_the_margin(
    n: int, lanes: int = 5, dim: int = 32, delta_var: float = 0.5, delta_dist: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings that just satisfy the loss: (n, dim) even in balls of δ_var, means 2 · δ_dist apart; (n,) lanes."""
    rng = np.random.default_rng(0)
    truth = np.arange(n) % lanes
    direction = rng.normal(size=(n, dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    distance = delta_var * rng.random((n, 1)) ** (1 / dim)  # even in volume
    means = np.eye(lanes, dim) * 2 * delta_dist / np.sqrt(2)
    return (means[truth] + distance * direction).astype(np.float32), truth


def lane_pixels(mask: np.ndarray, lanes: int, min_pixels: int = 1) -> list[np.ndarray]:
    """Flat indices of the pixels of lanes 1..``lanes`` in an instance mask, without lanes below ``min_pixels``."""
    groups = [np.flatnonzero(mask == k) for k in range(1, lanes + 1)]
    return [pixels for pixels in groups if len(pixels) >= min_pixels]


def dbscan_on_a_sample(x: np.ndarray, radius: float) -> np.ndarray:
    """DBSCAN on as many pixels as "fast" looks at; then each pixel goes to the nearest mean within the radius: (N,)."""
    sample = x[spread(len(x), SAMPLE_SIZE)]
    found = DBSCAN(eps=radius, min_samples=MIN_POINTS).fit_predict(sample)
    means = np.array([sample[found == k].mean(axis=0) for k in range(found.max() + 1)]).reshape(-1, x.shape[1])
    if len(means) == 0:
        return np.full(len(x), -1)
    distance = squared_distances(x, means)  # (N, lanes)
    return np.where(distance.min(axis=1) <= radius**2, distance.argmin(axis=1), -1)


def time_at_the_margin(method: Callable[[np.ndarray], np.ndarray], pixels: int, enough: float = 0.3) -> float:
    """Seconds in which a method finds the lanes of ``lanes_at_the_margin``: the best of three calls, or one slow one.

    Args:
        method: (N, D) embeddings → (N,) labels.
        pixels: N.
        enough: seconds from which one call is enough.

    Raises:
        AssertionError: it does not find the five lanes.
    """
    x, truth = lanes_at_the_margin(pixels)
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < enough:
        started = time.perf_counter()
        labels = method(x)
        seconds.append(time.perf_counter() - started)
    if adjusted_rand_score(truth, labels) != 1:
        raise AssertionError(f"the method finds {len(set(labels))} labels, expected those of the five lanes")
    return min(seconds)


def wrong_orders(seeds: Iterable[int]) -> dict[str, Counter]:
    """In how many rendered scenes each of three rules orders the lanes wrongly.

    The rules: "mean x" of the pixels; "row, own curves", where each lane's own curve meets the reference row; "row,
    one road", where the curves of the road they share meet it.

    Args:
        seeds: of the scenes, 256×512.

    Returns:
        A ``Counter`` by rule for "visible" and for "whole" (amodal) labels.
    """
    wrong = {"visible": Counter(), "whole": Counter()}
    for scene in map(render_scene, seeds):
        size = scene.instance_visible.shape
        for kind, mask in (("visible", scene.instance_visible), ("whole", scene.instance_amodal)):
            lanes = lane_pixels(mask, len(scene.lanes), round(MIN_PIXELS_SHARE * mask.size))
            if len(lanes) > 1:  # in true order
                for rule, order in _orders(lanes, size).items():
                    wrong[kind][rule] += order.tolist() != sorted(order)
    return wrong


def _orders(lanes: list[np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    height, width = size
    row = LanePostProcessor().reference_row * (height - 1)
    xy = [(pixels % width, pixels // width) for pixels in lanes]
    road = fit_road([row_medians(y, x) for x, y in xy], size)
    return {
        "mean x": order_by_mean_x([np.stack(points, axis=1) for points in xy]),
        "row, own curves": order_left_to_right([fit_lane_curve(*points) for points in xy], row),
        "row, one road": np.argsort(road.x(np.arange(len(lanes)), row)),
    }


def embeddings_at(prediction: dict, pixels: np.ndarray) -> np.ndarray:
    """Embeddings of image pixels, read as ``LanePostProcessor`` reads them.

    Args:
        prediction: of ``LaneSegmenter.predict``.
        pixels: (N,) flat indices into the image, below the rows cut off.

    Returns:
        (N, D) float32.
    """
    height, width = prediction["semantic_pred"].shape
    first = prediction["first_row"]
    rows, columns = torch.from_numpy(pixels // width - first), torch.from_numpy(pixels % width)
    embeddings = torch.as_tensor(prediction["embeddings"])[None]
    return gather_embeddings(embeddings, torch.zeros_like(rows), rows, columns, (height - first, width)).numpy()


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


def lane_counts(scenes: Sequence[Inspected], results: Sequence[LaneResult]) -> np.ndarray:
    """Found pairs, false lanes and missed lanes of each scene: (scenes, 3)."""
    counts = []
    for scene, result in zip(scenes, results, strict=True):
        score = LaneF1()
        score.update(result["lane_polylines"], scene.curves, scene.true.shape)
        counts.append((score.tp, score.fp, score.fn))
    return np.array(counts)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """Lane F1 of counts (…, 3) as ``lane_counts`` gives them: (…,)."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
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


def tally(audits: list[list[tuple[str, int]]]) -> Counter:
    """How often each thing happened in all scenes."""
    return Counter(what for rows in audits for what, _ in rows)


def crossing_gap(scene: Scene, prediction: dict) -> float:
    """Distance between the mean embeddings of a scene's first two crossings, on pixels that the network calls so."""
    first = len(scene.lanes) + 1
    called = prediction["semantic_pred"] == CROSSWALK
    called[: prediction["first_row"]] = False
    pixels = [np.flatnonzero(called & (scene.instance_amodal == k)) for k in (first, first + 1)]
    near, far = (embeddings_at(prediction, p).mean(axis=0) for p in pixels)
    return float(np.linalg.norm(near - far))


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


def first_case(
    scenes: Sequence[Inspected], found: Sequence[dict[str, LaneResult]], audits: dict[str, list], way: str, what: str
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray], int]:
    """The first scene in which it happened: title, image, true ids, ids found, polylines found, the true lane's id."""
    k = next(k for k, happened in enumerate(audits[way]) if what in dict(happened))
    result = found[k][way]
    ids, polylines = result["lane_instances"], result["lane_polylines"]
    return f"{way}: {what}", scenes[k].image, scenes[k].true, ids, polylines, dict(audits[way][k])[what]


def two_crossings(segmenter: LaneSegmenter, seeds: Iterable[int]) -> tuple[np.ndarray, list[LaneResult]]:
    """Rendered scenes with two crossings each: distances of their mean embeddings (scenes,), and the results."""
    gaps, results = [], []
    for seed in seeds:
        scene = render_scene(seed, preset="day")
        prediction = segmenter.predict(scene.image)
        gaps.append(crossing_gap(scene, prediction))
        results.append(segmenter.postprocessor.process(**prediction))
    return np.array(gaps), results


def samples_with_two_crossings() -> int:
    """How many of the sample data's training samples show two crossings or more."""
    dataset = LaneInstanceDataset(samples(), "train")
    pairs = (np.unique(ids[classes == CROSSWALK]) for _, classes, ids in map(dataset.read, range(len(dataset))))
    return sum(np.count_nonzero(ids) > 1 for ids in pairs)
