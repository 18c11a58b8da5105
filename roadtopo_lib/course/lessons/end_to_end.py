"""Machinery of notebook 7: commands, scenes examined one by one, one road in several versions, bootstrap intervals."""

import csv
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from roadtopo_lib.course.data import samples
from roadtopo_lib.course.lessons.lane_audit import f1_of
from roadtopo_lib.inference.evaluation import BASELINES
from roadtopo_lib.labels import CLASSES, LANE_MARKING
from roadtopo_lib.metrics import LaneF1, match_by_iou
from roadtopo_lib.postprocess import LaneResult
from roadtopo_lib.scenes import Scene, render, render_scene
from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.scenes.weather import Light, sample_light

Segment = Callable[[np.ndarray], LaneResult]

LIGHTS: dict[str, Callable[[Light], bool]] = {
    "dry day": lambda light: light.kind == "day" and light.rain == 0,
    "rain": lambda light: light.kind == "day" and light.rain > 0,
    "night": lambda light: light.kind == "night" and light.rain == 0,
}
LONGEST = 24
"""Lines of a command's output that are printed whole."""

CLEAR = 150.0
"""Visibility in metres from which a light counts as free of fog."""

STEPS_WITH_OWN_DRAWS = (
    "sample_road",
    "sample_vehicles",
    "plant",
    "build",
    "cast_shadows",
    "paint_sky",
    "rain_on",
    "sensor",
)
"""Steps of the renderer that draw more or fewer random numbers depending on light and vehicles."""

DRAWS = 1000
"""Of a bootstrap."""

KINDS: dict[str, Callable[[dict], bool]] = {
    "dry day": lambda scene: scene["light"] == "day" and scene["rain"] == 0,
    "rain by day": lambda scene: scene["light"] == "day" and scene["rain"] > 0,
    "dry night": lambda scene: scene["light"] == "night" and scene["rain"] == 0,
    "straight": lambda scene: abs(scene["curvature"]) < 1e-4,
    "curves": lambda scene: abs(scene["curvature"]) > 2e-3,  # a radius below 500 m
    "empty road": lambda scene: scene["vehicles"] == 0,
    "traffic": lambda scene: scene["vehicles"] >= 4,
}
"""Kinds of scenes, by what ``examine`` returns."""


def outcome(line: str, folder: Path) -> tuple[int, list[str]]:
    """Runs ``road-topology LINE`` as a terminal would, in a process of its own.

    Args:
        line: what follows the program's name.
        folder: where it runs.

    Returns:
        Its exit code, 0 if all went well, and the lines that it says.
    """
    program = [sys.executable, "-m", "roadtopo_lib.app.cli"]  # what `road-topology` starts
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(
        [*program, *shlex.split(line)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, f"{done.stdout}{done.stderr if done.returncode else ''}".rstrip().splitlines()


def run_command(line: str, folder: Path) -> int:
    """Prints a command line and what it says, see ``outcome``; returns its exit code.

    Of more than ``LONGEST`` lines the first and the last three are printed.
    """
    code, lines = outcome(line, folder)
    if len(lines) > LONGEST:
        lines[3:-3] = [f"… {len(lines) - 6} more lines"]
    said = "\n".join([f"$ road-topology {line}", *lines])
    print(said.replace(str(folder), "…").replace(str(samples()), "data_samples"))
    return code


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a run's ``history.csv``."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def lane_counts(polylines: list[np.ndarray], scene: Scene) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of lane F1 on one scene."""
    score = LaneF1()
    score.update(polylines, scene.lanes, scene.image.shape[:2])
    return score.tp, score.fp, score.fn


def examine(segment: Segment, scene: Scene) -> dict:
    """What a model and the baselines make of one scene.

    Args:
        segment: image (H, W, 3) uint8 RGB → result.
        scene: a rendered scene.

    Returns:
        The scene's attributes; ``scene``; for ``model`` and each baseline the counts (tp, fp, fn); ``lanes``, for each
        true lane (share of its amodal label that shows paint, was it found, is it a marking: 1, or a boundary: 0).
    """
    result = segment(scene.image)
    outputs = {"model": result} | {name: method(scene.image, result, CLASSES) for name, method in BASELINES.items()}
    counts = {name: lane_counts(output["lane_polylines"], scene) for name, output in outputs.items()}
    shown, whole = (np.bincount(ids.ravel(), minlength=99) for ids in (scene.instance_visible, scene.instance_amodal))
    markings = np.unique(scene.instance_amodal[scene.semantic_amodal == LANE_MARKING])
    score = LaneF1()
    iou = score.iou_matrix(result["lane_polylines"], scene.lanes, scene.image.shape[:2])
    found = match_by_iou(iou, score.iou_threshold)[1]
    lanes = [(shown[k] / max(whole[k], 1), k - 1 in found, k in markings) for k in range(1, len(scene.lanes) + 1)]
    return {**scene.attributes, **counts, "scene": scene, "lanes": np.array(lanes, dtype=float).reshape(-1, 3)}


def render_version(seed: int, light: str = "dry day", vehicles: bool = True) -> Scene:
    """One road in another light, or without its vehicles; all else stays as it is.

    Each step of the renderer that draws more or fewer random numbers than before gets a generator of its own, so that
    the draws of later steps do not shift. Fog, worn paint and bad cameras are kept out.

    Args:
        seed: of the road.
        light: a key of ``LIGHTS``.
        vehicles: whether there are any.
    """
    draws = np.random.default_rng(seed)
    chosen = next(
        candidate
        for candidate in (sample_light(draws, "all") for _ in itertools.count())
        if LIGHTS[light](candidate) and candidate.visibility > CLEAR
    )
    steps = {name: partial(_with_own_draws, getattr(render, name), seed) for name in STEPS_WITH_OWN_DRAWS}
    if not vehicles:
        steps["sample_vehicles"] = lambda *_: []
    with mock.patch.multiple(render, sample_light=lambda *_: chosen, **steps):
        return render_scene(seed, preset="day")


def _with_own_draws(step: Callable, seed: int, _: np.random.Generator, *rest: object, **options: object) -> object:
    return step(np.random.default_rng(seed), *rest, **options)


def interval(counts: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """95 % bootstrap interval (2,) of F1, from counts (N, 3) of N scenes."""
    return np.quantile(_drawn_f1(np.asarray(counts), draws, seed), [0.025, 0.975])


def paired_interval(one: np.ndarray, other: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """95 % interval (2,) of F1(one) − F1(other), both (N, 3) on the same N scenes: each draw has the same for both."""
    return np.quantile(_drawn_f1(one, draws, seed) - _drawn_f1(other, draws, seed), [0.025, 0.975])


def unpaired_interval(one: np.ndarray, other: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """The same for scenes (N, 3) and (M, 3) that have nothing to do with each other."""
    return np.quantile(_drawn_f1(one, draws, seed) - _drawn_f1(other, draws, seed + 1), [0.025, 0.975])


def _drawn_f1(counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    return f1_of(counts[chosen].sum(axis=1))  # (draws, N, 3) → (draws, 3) → (draws,)


def recall_by_paint(lanes: Sequence[np.ndarray], edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall of the markings, by the share of their label that shows paint.

    Args:
        lanes: for each scene an array (L, 3), see ``examine``.
        edges: (K + 1,) ascending, limits of the bins.

    Returns:
        Markings (K,), missed markings (K,), and the 95 % interval (2, K) of the recall. Lanes of one scene fail
        together, so whole scenes are drawn.
    """
    total, missed = np.zeros((2, len(lanes), len(edges) - 1), dtype=int)
    for row, (shown, found, marking) in enumerate(scene.T for scene in lanes):
        bins = np.digitize(shown[marking == 1], edges) - 1
        np.add.at(total[row], bins, 1)
        np.add.at(missed[row], bins, found[marking == 1] == 0)
    drawn = np.random.default_rng(0).integers(len(lanes), size=(DRAWS, len(lanes)))
    recall = 1 - missed[drawn].sum(axis=1) / total[drawn].sum(axis=1)  # (draws, K)
    return total.sum(axis=0), missed.sum(axis=0), np.quantile(recall, [0.025, 0.975], axis=0)


def on_ground(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Where pixels look at flat ground.

    Args:
        camera: with its height above the ground.
        pixels: (N, 2), x and y in the camera's image, below the horizon.

    Returns:
        (N, 2) metres: to the right and forward.
    """
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    rays = homogeneous @ (camera.rotation().T @ np.linalg.inv(camera.intrinsics())).T  # (N, 3): right, down, forward
    return camera.height * rays[:, [0, 2]] / rays[:, [1]]
