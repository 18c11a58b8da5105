"""Scores of a method that separates lanes, over a data set."""

from collections.abc import Callable, Sequence

import numpy as np

from roadtopo_lib.console import progress_bar
from roadtopo_lib.data.checks import refuse_binary
from roadtopo_lib.data.convert.export import TUSIMPLE_SIZE, culane_lanes, tusimple_lanes, tusimple_rows
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.baselines import classical_lanes, connected_components
from roadtopo_lib.labels import BACKGROUND, IGNORE_INDEX, ClassTable
from roadtopo_lib.metrics import BoundaryIoU, ConfusionMatrix, InstanceF1, LaneF1, TuSimpleScore
from roadtopo_lib.metrics.lanes import polylines_from_instances
from roadtopo_lib.postprocess import LaneResult, all_instances

Method = Callable[[np.ndarray, LaneResult, ClassTable], LaneResult]
"""A way to separate lanes: (image (H, W, 3) uint8 RGB, the model's result on it, class table) → a result of its own."""

BASELINES: dict[str, Method] = {
    "components": lambda image, result, classes: connected_components(
        result["semantic_mask"], lane_class_ids=classes.lane_ids, crosswalk_class_ids=classes.crosswalk_ids
    ),
    "opencv": lambda image, result, classes: classical_lanes(
        image, lane_class_id=next(iter(classes.lane_ids), BACKGROUND)
    ),
}
"""Without embeddings: connected components of the model's own semantic mask; without learning: classical OpenCV. Each
lane of a baseline has the curve of its own pixels: fitting all together needs lanes that are whole."""

METRICS = ("semantic", "instance", "culane", "tusimple")
"""Scores that ``evaluate`` knows: of pixels, of lanes and instances, and those of two benchmarks."""


def evaluate(
    segment: Callable[[np.ndarray], LaneResult],
    dataset: LaneInstanceDataset,
    baselines: bool = False,
    progress: bool = False,
    metrics: Sequence[str] = METRICS[:2],
) -> dict:
    """Scores a method on the files of a split, at their own resolution.

    Lane scores compare curves; the true curve of a lane is the centre line of its pixels in the instance mask.

    Args:
        segment: image (H, W, 3) uint8 RGB → result; a ``LaneSegmenter``, or anything else that gives a result.
        dataset: without transform; its class table says which classes are lanes.
        baselines: score ``BASELINES`` on the same images too.
        progress: show a progress bar (on a terminal only).
        metrics: some of ``METRICS``. ``"culane"`` and ``"tusimple"`` score both sides as files of these formats hold
            them (``export.culane_lanes``, ``export.tusimple_lanes``), TuSimple at 1280×720 and whatever the run time.

    Returns:
        ``images``; of ``"semantic"`` ``miou``, ``pixel_accuracy`` (both ``None`` where no pixel is labelled),
        ``class_iou`` (by class name; ``None`` where a class occurs neither in masks nor in predictions),
        ``boundary_iou`` with its ``boundary_ratio`` and ``boundary_band_px``; of ``"instance"`` ``lane_f1`` with
        ``lane_precision`` and ``lane_recall``, ``instance_f1``; ``culane`` with ``f1``, ``precision``, ``recall``,
        ``tp``, ``fp``, ``fn``; ``tusimple`` with ``accuracy``, ``fp``, ``fn``; with baselines, their lane and instance
        scores under ``baselines``.

    Raises:
        FileNotFoundError, ValueError: see ``data.checks.check_every_file``.
        ValueError: an unknown metric, none, or one of lanes for a class table without lanes.
    """
    classes = dataset.classes
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"metrics are {', '.join(unknown) or 'none'}, expected some of {', '.join(METRICS)}")
    if not classes.lane_ids and not {"culane", "tusimple"}.isdisjoint(metrics):
        raise ValueError("metrics are of lanes (culane, tusimple), but the class table has no class of lanes")
    confusion = ConfusionMatrix(len(classes), IGNORE_INDEX)
    boundary = BoundaryIoU(len(classes), IGNORE_INDEX)
    methods: dict[str, Method] = {"model": lambda image, result, classes: result, **(BASELINES if baselines else {})}
    if set(metrics) == {"semantic"}:
        methods = {}  # the class mask is the model's in all of them
    scores = {name: LaneScores(metrics) for name in methods}
    pixels = np.zeros(256, np.int64)
    for index in progress_bar(
        range(len(dataset)), desc="evaluate", unit="image", leave=False, disable=None if progress else True
    ):
        image, semantic, instance = dataset.read(index)
        pixels += np.bincount(semantic.ravel(), minlength=256)
        result = segment(image)
        if "semantic" in metrics:
            confusion.update(result["semantic_mask"], semantic)
            boundary.update(result["semantic_mask"], semantic)
        true_ids = instances_by_role(semantic, instance, "lane", classes)
        true_lanes = polylines_from_instances(instance, true_ids) if set(metrics) - {"semantic"} else []
        for name, method in methods.items():
            scores[name].update(method(image, result, classes), true_lanes, instance)
    refuse_binary(pixels, dataset)
    report = {"images": len(dataset)}
    if "semantic" in metrics:
        report |= {
            "miou": _number(confusion.miou()),
            "pixel_accuracy": _number(confusion.pixel_accuracy()),
            "class_iou": _by_class(confusion.class_iou(), classes),
            "boundary_iou": _by_class(boundary.class_iou(), classes),
            "boundary_ratio": boundary.dilation_ratio,
            "boundary_band_px": boundary.band,
        }
    lanes = {name: score.to_dict() for name, score in scores.items()}
    report |= lanes.pop("model", {})
    if baselines:
        report["baselines"] = lanes
    return report


class LaneScores:
    """Scores of one method's lanes.

    Args:
        metrics: some of ``METRICS``; others than those of lanes are ignored.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = metrics
        self.lane_f1, self.instance_f1, self.culane, self.tusimple = LaneF1(), InstanceF1(), LaneF1(), TuSimpleScore()

    def update(self, result: LaneResult, true_lanes: Sequence[np.ndarray], instance: np.ndarray) -> None:
        """Scores one image: true centre lines (M, 2) of the lanes, and instance mask (H, W)."""
        size, sides = instance.shape, (result["lane_polylines"], true_lanes)
        if "instance" in self.metrics:
            self.lane_f1.update(*sides, size)
            self.instance_f1.update(all_instances(result), instance)
        if "culane" in self.metrics:
            self.culane.update(*map(culane_lanes, sides), size)
        if "tusimple" in self.metrics:
            scale_y, scale_x = np.array(TUSIMPLE_SIZE) / size
            rows = tusimple_rows(size[0])
            lanes = [scale_x * np.array(tusimple_lanes(side, rows, size[1])) for side in sides]
            self.tusimple.update(*lanes, scale_y * np.array(rows))

    def to_dict(self) -> dict:
        """The scores as plain values, see ``evaluate``."""
        report, culane, tusimple = {}, self.culane, self.tusimple
        if "instance" in self.metrics:
            report |= {"lane_f1": self.lane_f1.f1(), "lane_precision": self.lane_f1.precision()}
            report |= {"lane_recall": self.lane_f1.recall(), "instance_f1": self.instance_f1.f1()}
        if "culane" in self.metrics:
            counts = {"tp": culane.tp, "fp": culane.fp, "fn": culane.fn}
            report["culane"] = {"f1": culane.f1(), "precision": culane.precision(), "recall": culane.recall(), **counts}
        if "tusimple" in self.metrics:
            report["tusimple"] = {"accuracy": tusimple.accuracy(), "fp": tusimple.fp(), "fn": tusimple.fn()}
        return report


def _by_class(values: np.ndarray, classes: ClassTable) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(classes.names, values, strict=True)}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)
