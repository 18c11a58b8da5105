"""Fits how sure a model may be, on scenes that its training did not see, and writes it into the model's file."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from roadtopo_lib.confidence import (
    Calibration,
    ConfidentSegmenter,
    crossing_features,
    lane_features,
    reliability,
    stored,
)
from roadtopo_lib.console import progress_bar
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import load_weights, save_weights, temporary_beside
from roadtopo_lib.labels import NO_INSTANCE
from roadtopo_lib.metrics import LaneF1
from roadtopo_lib.metrics.instances import mask_iou, match_by_iou
from roadtopo_lib.metrics.lanes import polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.strips import enlarged, shrunk

FOLDS = 4
"""The error is measured on scenes that a fit did not see, each fold in turn: neighbouring scenes share a fold."""
FEWEST = 100
"""Instances of a kind, right and wrong together, for a calibration of its own."""


def calibrate(model: Path, dataset: LaneInstanceDataset, device: str | None = None) -> dict:
    """Looks at the lanes and crossings that a model finds, fits a calibration, and writes it into the model's file.

    A lane is right if its curve matches a true lane's as ``LaneF1`` has it, a crossing if the IoU of the pixels with a
    true one is above one half.

    Args:
        model: a model's file; it is replaced.
        dataset: scenes that no training saw.
        device: see ``LaneSegmenter``.

    Returns:
        For ``lanes`` and ``crossings`` (``None`` with fewer than ``FEWEST``, or if all outside a fold are alike):
        ``count``, ``right``, ``error``, the expected calibration error on scenes that a fit did not see,
        ``error_before``, that of the mean probability, and ``diagram``, see ``reliability``; and ``thresholds``, for
        each the confidence with the best F1.

    Raises:
        FileNotFoundError, ValueError: no such file, no such data, or nothing to tell apart.
    """
    plain = LaneSegmenter.from_checkpoint(model, device)
    segmenter = ConfidentSegmenter(plain.model, plain.config, plain.device)  # as yet without a calibration: keeps all
    kinds: dict[str, list[tuple]] = {"lanes": [], "crossings": []}
    true = dict.fromkeys(kinds, 0)
    for index in progress_bar(range(len(dataset)), desc="calibrate", unit="image", leave=False, disable=None):
        image, semantic, instance = dataset.read(index)
        outputs = segmenter.predict(shrunk(image, segmenter.most_pixels))
        small = segmenter.postprocessor.process(**outputs)  # the features are of the size at which ``infer`` sees it
        result = enlarged(small, image.shape[:2])
        targets = polylines_from_instances(instance, instances_by_role(semantic, instance, "lane", dataset.classes))
        true["lanes"] += len(targets)
        iou = LaneF1().iou_matrix(result["lane_polylines"], targets, image.shape[:2])
        kinds["lanes"] += _rows(index, lane_features(small, outputs["confidence"]), iou)
        ids = instances_by_role(semantic, instance, "crosswalk", dataset.classes)
        true["crossings"] += len(ids)
        iou = mask_iou(result["crosswalk_instances"], np.where(np.isin(instance, ids), instance, NO_INSTANCE))
        seen = (outputs["crossing"], outputs["first_row"], outputs["image"])
        features = crossing_features(small, *seen, dataset.classes)
        kinds["crossings"] += _rows(index, features, iou)
    report, fitted = {}, {}
    for kind, rows in kinds.items():
        fitted[kind], report[kind] = _fitted(rows)
    if fitted["lanes"] is None and fitted["crossings"] is None:
        raise ValueError(f"{dataset.root}: too few lanes and crossings, right and wrong ones, for a calibration")
    thresholds = {kind: _best_threshold(fitted[kind], rows, true[kind]) for kind, rows in kinds.items()}
    file = load_weights(model)
    kept = stored(fitted["lanes"], fitted["crossings"], thresholds, scenes=len(dataset), report=report)
    save_weights(model, file.kind, file.tensors, file.config, **{**file.info, "confidence": kept})
    return {**report, "thresholds": thresholds}


def _rows(index: int, features: np.ndarray, iou: np.ndarray) -> list[tuple]:
    """(scene, features, whether it is right) of each instance found."""
    matched, _ = match_by_iou(iou, 0.5)
    return [(index, row, k in matched) for k, row in enumerate(features)]


def _fitted(rows: list[tuple]) -> tuple[Calibration | None, dict | None]:
    """A calibration of all instances, and what it is worth on scenes that a fit did not see."""
    scene, right = np.array([row[0] for row in rows]), np.array([row[2] for row in rows], dtype=bool)
    if len(rows) < FEWEST or len(np.unique(right)) < 2:
        return None, None
    features, confidence = np.stack([row[1] for row in rows]), np.zeros(len(rows))
    fold = scene * FOLDS // (scene.max() + 1)  # scenes that follow each other, as frames of a recording do, in one
    for k in range(FOLDS):
        if len(np.unique(right[fold != k])) < 2:
            return None, None  # its worth could not be measured
        confidence[fold == k] = Calibration.fit(features[fold != k], right[fold != k])(features[fold == k])
    diagram, error = reliability(confidence, right)
    _, before = reliability(1 / (1 + np.exp(-features[:, 0])), right)
    about = {"count": len(rows), "right": int(right.sum()), "error": round(error, 4), "error_before": round(before, 4)}
    return Calibration.fit(features, right), {**about, "diagram": diagram}


def _best_threshold(calibration: Calibration | None, rows: list[tuple], true: int) -> float:
    """The confidence from which instances are kept for the best F1, with so many true ones; 0 without a calibration."""
    if calibration is None:
        return 0.0
    confidence, right = calibration(np.stack([row[1] for row in rows])), np.array([row[2] for row in rows])
    choices = np.linspace(0, 0.9, 91)
    f1 = [2 * right[confidence >= t].sum() / ((confidence >= t).sum() + true) for t in choices]
    return round(float(choices[int(np.argmax(f1))]), 2)


def draw_reliability(report: dict, path: Path) -> None:
    """The reliability diagrams of both kinds as a PNG."""
    kinds = [kind for kind in ("lanes", "crossings") if report[kind]]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 4), squeeze=False, layout="constrained")
    for ax, kind in zip(axes[0], kinds, strict=True):
        rows = report[kind]["diagram"]
        ax.plot([0, 1], [0, 1], color="0.6")
        sizes = [10 + 200 * row["count"] / report[kind]["count"] for row in rows]
        ax.scatter(*np.array([[row["confidence"], row["right"]] for row in rows]).T, sizes)
        ax.set(xlabel="confidence", ylabel=f"share of {kind} that is right", xlim=(0, 1), ylim=(0, 1))
        after, before = report[kind]["error"], report[kind]["error_before"]
        ax.set_title(f"{report[kind]['count']} {kind}: error {after:.3f}, before {before:.3f}", fontsize="medium")
    with temporary_beside(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
        temporary.replace(path)
    plt.close(figure)
