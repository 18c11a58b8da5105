"""Notebook 6: embeddings made to measure, times of methods, and scenes with two crosswalks."""

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.cluster import DBSCAN, MeanShift
from sklearn.metrics import adjusted_rand_score

from roadtopo_lib.labels import CROSSWALK, LANE_MARKING, ROAD
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.postprocess import cluster_embeddings
from roadtopo_lib.postprocess.clustering import MIN_POINTS, SAMPLE_SIZE, spread, squared_distances
from roadtopo_lib.scenes import Scene, render_scene
from roadtopo_lib.scenes.streets import sample_layout
from roadtopo_lib.scenes.synth import image_seed

TWO_CROSSWALKS = (6351, 1182, 1691, 2697, 2725, 2937, 3346, 3518, 3985, 4119, 4309)
"""Seeds of rendered scenes with two crosswalks that the shipped network sees: one with vehicles before both, and the
first ten from 1000."""

LEARNT_SCENES, LEARNT_SIZE, LEARNT_SEED = 1500, (128, 256), 1
"""The scenes that the shipped network learnt from: those of ``make run``."""


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


def time_methods(radius: float = 1.5) -> dict[str, dict[int, float]]:
    """``time_at_the_margin`` of four methods, by method and number of pixels."""
    dbscan, meanshift = DBSCAN(eps=radius, min_samples=MIN_POINTS), MeanShift(bandwidth=radius)
    methods = {
        "fast": (lambda x: cluster_embeddings(x, radius), (500, 2000, 5000, 20_000)),
        "DBSCAN on a sample": (lambda x: dbscan_on_a_sample(x, radius), (500, 2000, 5000, 20_000)),
        "DBSCAN": (dbscan.fit_predict, (500, 2000, 5000)),
        "MeanShift": (meanshift.fit_predict, (250, 500, 1000)),
    }
    return {name: {n: time_at_the_margin(method, n) for n in sizes} for name, (method, sizes) in methods.items()}


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


def toy_street(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three lanes and two crosswalks, the near one in two pieces beside a car: (8, 11) classes, (D, 8, 11) embeddings.

    Args:
        means: (3, D) of the lanes from left to right. The far crosswalk has that of lane 2, the near one of lane 1.
    """
    street = np.full((8, 11), ROAD)
    street[[[2], [3], [4], [5], [7]], [2, 5, 8]] = LANE_MARKING
    street[1, 3:8] = street[6, [0, 1, 9, 10]] = CROSSWALK
    embeddings = np.zeros((means.shape[1], 8, 11))
    embeddings[:, :, [2, 5, 8]] = means.T[:, None]
    embeddings[:, 1, 3:8], embeddings[:, 6] = means[1][:, None], means[0][:, None]
    return street, embeddings


def crosswalk_gap(scene: Scene, prediction: dict) -> float:
    """Distance between the mean embeddings of a scene's first two crosswalks, on pixels that the network calls so."""
    first = len(scene.lanes) + 1
    called = prediction["semantic_pred"] == CROSSWALK
    called[: prediction["first_row"]] = False
    pixels = [np.flatnonzero(called & (scene.instance_amodal == k)) for k in (first, first + 1)]
    near, far = (embeddings_at(prediction, p).mean(axis=0) for p in pixels)
    return float(np.linalg.norm(near - far))


def trained_with_two_crosswalks() -> int:
    """How many of the scenes that the shipped network learnt from show two crosswalks or more in their labels."""
    seeds = (image_seed(LEARNT_SEED, "train", k) for k in range(LEARNT_SCENES))
    # Only a road with two can show two, and a road without its picture is drawn in half a millisecond.
    possible = [seed for seed in seeds if len(sample_layout(np.random.default_rng(seed)).crosswalks) > 1]
    scenes = (render_scene(seed, LEARNT_SIZE, "day") for seed in possible)
    ids = (np.unique(scene.instance_amodal[scene.instance_amodal > len(scene.lanes)]) for scene in scenes)
    return sum(len(of_scene) > 1 for of_scene in ids)
