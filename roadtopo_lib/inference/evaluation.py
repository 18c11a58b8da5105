"""Scores of a method that separates lanes, over a data set."""

from collections.abc import Callable

import numpy as np

from roadtopo_lib.console import progress_bar
from roadtopo_lib.data.checks import refuse_binary
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.baselines import classical_lanes, connected_components
from roadtopo_lib.labels import BACKGROUND, IGNORE_INDEX, ClassTable
from roadtopo_lib.metrics import BoundaryIoU, ConfusionMatrix, InstanceF1, LaneF1, polylines_from_instances
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


def evaluate(
    segment: Callable[[np.ndarray], LaneResult],
    dataset: LaneInstanceDataset,
    baselines: bool = False,
    progress: bool = False,
) -> dict:
    """Scores a method on the files of a split, at their own resolution.

    Lane F1 compares curves; the true curve of a lane is the centre line of its pixels in the instance mask.

    Args:
        segment: image (H, W, 3) uint8 RGB → result; a ``LaneSegmenter``, or anything else that gives a result.
        dataset: without transform; its class table says which classes are lanes.
        baselines: score ``BASELINES`` on the same images too.
        progress: show a progress bar (on a terminal only).

    Returns:
        ``images``, ``miou``, ``pixel_accuracy`` (both ``None`` where no pixel is labelled), ``class_iou`` (by class
        name; ``None`` where a class occurs neither in masks nor in predictions), ``boundary_iou`` with its
        ``boundary_ratio`` and ``boundary_band_px``, ``lane_f1`` with ``lane_precision`` and ``lane_recall``,
        ``instance_f1``; with baselines, their lane and instance scores under ``baselines``.

    Raises:
        FileNotFoundError, ValueError: see ``data.checks.check_every_file``.
    """
    classes = dataset.classes
    confusion = ConfusionMatrix(len(classes), IGNORE_INDEX)
    boundary = BoundaryIoU(len(classes), IGNORE_INDEX)
    methods: dict[str, Method] = {"model": lambda image, result, classes: result, **(BASELINES if baselines else {})}
    scores = {name: (LaneF1(), InstanceF1()) for name in methods}
    pixels = np.zeros(256, np.int64)
    for index in progress_bar(
        range(len(dataset)), desc="evaluate", unit="image", leave=False, disable=None if progress else True
    ):
        image, semantic, instance = dataset.read(index)
        pixels += np.bincount(semantic.ravel(), minlength=256)
        result = segment(image)
        confusion.update(result["semantic_mask"], semantic)
        boundary.update(result["semantic_mask"], semantic)
        true_ids = instances_by_role(semantic, instance, "lane", classes)
        true_lanes = polylines_from_instances(instance, true_ids)
        for name, method in methods.items():
            output = method(image, result, classes)
            lane_f1, instance_f1 = scores[name]
            lane_f1.update(output["lane_polylines"], true_lanes, image.shape[:2])
            instance_f1.update(all_instances(output), instance)
    refuse_binary(pixels, dataset)
    report = {
        "images": len(dataset),
        "miou": _number(confusion.miou()),
        "pixel_accuracy": _number(confusion.pixel_accuracy()),
        "class_iou": _by_class(confusion.class_iou(), classes),
        "boundary_iou": _by_class(boundary.class_iou(), classes),
        "boundary_ratio": boundary.dilation_ratio,
        "boundary_band_px": boundary.band,
        **_lane_scores(*scores["model"]),
    }
    if baselines:
        report["baselines"] = {name: _lane_scores(*scores[name]) for name in BASELINES}
    return report


def _lane_scores(lane_f1: LaneF1, instance_f1: InstanceF1) -> dict:
    return {
        "lane_f1": lane_f1.f1(),
        "lane_precision": lane_f1.precision(),
        "lane_recall": lane_f1.recall(),
        "instance_f1": instance_f1.f1(),
    }


def _by_class(values: np.ndarray, classes: ClassTable) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(classes.names, values, strict=True)}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)
