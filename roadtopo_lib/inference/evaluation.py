"""Scores of a method that separates lanes, over a data set."""

from collections.abc import Callable

import numpy as np
from tqdm.auto import tqdm

from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.baselines import classical_lanes, connected_components
from roadtopo_lib.labels import CLASS_NAMES, CROSSWALK_CLASS_IDS, IGNORE_INDEX, LANE_CLASS_IDS, NO_INSTANCE
from roadtopo_lib.metrics import BoundaryIoU, ConfusionMatrix, InstanceF1, LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import all_instances

Method = Callable[[np.ndarray, dict], dict]
"""A way to separate lanes: (image, the model's result on it) → a dict like ``LanePostProcessor.process``'s."""

BASELINES: dict[str, Method] = {
    "components": lambda image, result: connected_components(result["semantic_mask"]),
    "opencv": lambda image, result: classical_lanes(image),
}
"""Without embeddings: connected components of the model's own semantic mask; without learning: classical OpenCV. Each
lane of a baseline has the curve of its own pixels: fitting all together needs lanes that are whole."""


def evaluate(
    segmenter: LaneSegmenter, dataset: LaneInstanceDataset, baselines: bool = False, progress: bool = False
) -> dict:
    """Scores a model on the files of a split, at their own resolution.

    Lane F1 compares curves; the true curve of a lane is the centre line of its pixels in the instance mask.

    Args:
        segmenter: the model.
        dataset: without transform.
        baselines: score ``BASELINES`` on the same images too.
        progress: show a progress bar (on a terminal only).

    Returns:
        ``images``, ``miou``, ``pixel_accuracy`` (both ``None`` where no pixel is labelled), ``class_iou`` (by class
        name; ``None`` where a class occurs neither in masks nor in predictions), ``boundary_iou`` with its
        ``boundary_ratio`` and ``boundary_band_px``, ``lane_f1`` with ``lane_precision`` and ``lane_recall``,
        ``instance_f1``; with baselines, their lane and instance scores under ``baselines``.
    """
    confusion = ConfusionMatrix(segmenter.model.num_classes, IGNORE_INDEX)
    boundary = BoundaryIoU(segmenter.model.num_classes, IGNORE_INDEX)
    methods: dict[str, Method] = {"model": lambda image, result: result, **(BASELINES if baselines else {})}
    scores = {name: (LaneF1(), InstanceF1()) for name in methods}
    for index in tqdm(
        range(len(dataset)), desc="evaluate", unit="image", leave=False, disable=None if progress else True
    ):
        image, semantic, instance = dataset.read(index)
        result = segmenter(image)
        confusion.update(result["semantic_mask"], semantic)
        boundary.update(result["semantic_mask"], semantic)
        true_lanes = polylines_from_instances(instance, lane_ids(semantic, instance))
        for name, method in methods.items():
            output = method(image, result)
            lane_f1, instance_f1 = scores[name]
            lane_f1.update(output["lane_polylines"], true_lanes, image.shape[:2])
            instance_f1.update(all_instances(output), instance)
    report = {
        "images": len(dataset),
        "miou": _number(confusion.miou()),
        "pixel_accuracy": _number(confusion.pixel_accuracy()),
        "class_iou": _by_class(confusion.class_iou()),
        "boundary_iou": _by_class(boundary.class_iou()),
        "boundary_ratio": boundary.dilation_ratio,
        "boundary_band_px": boundary.band,
        **_lane_scores(*scores["model"]),
    }
    if baselines:
        report["baselines"] = {name: _lane_scores(*scores[name]) for name in BASELINES}
    return report


def lane_ids(semantic: np.ndarray, instance: np.ndarray) -> list[int]:
    """Ids of the instances that are lanes: those with fewer crosswalk than lane pixels.

    Args:
        semantic: (H, W) class ids.
        instance: (H, W) instance ids.
    """
    size = int(instance.max(initial=0)) + 1
    lane = np.bincount(instance[np.isin(semantic, LANE_CLASS_IDS)], minlength=size)
    crosswalk = np.bincount(instance[np.isin(semantic, CROSSWALK_CLASS_IDS)], minlength=size)
    return [int(i) for i in np.flatnonzero(lane > crosswalk) if i != NO_INSTANCE]


def _lane_scores(lane_f1: LaneF1, instance_f1: InstanceF1) -> dict:
    return {
        "lane_f1": lane_f1.f1(),
        "lane_precision": lane_f1.precision(),
        "lane_recall": lane_f1.recall(),
        "instance_f1": instance_f1.f1(),
    }


def _by_class(values: np.ndarray) -> dict[str, float | None]:
    names = CLASS_NAMES if len(values) == len(CLASS_NAMES) else [f"class {i}" for i in range(len(values))]
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)
