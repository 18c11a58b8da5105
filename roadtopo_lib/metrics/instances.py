"""Scores of separated instances: who is matched with whom, and F1 of the matches.

Instance ids are names, not classes: id 3 of a prediction may be id 1 of the ground truth. So predicted and true
instances are first matched one to one, such that the sum of their IoUs is largest, and then counted.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from roadtopo_lib.labels import NO_INSTANCE
from roadtopo_lib.metrics.semantic import as_label_array


def match_by_iou(iou: np.ndarray, iou_threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Matches predictions with targets one to one (Hungarian), keeping only good matches.

    Args:
        iou: (P, T) IoU of every prediction with every target.
        iou_threshold: a match must have a larger IoU than this.

    Returns:
        Indices of the matched predictions and of their targets, each (number of matches,).

    Reference:
        H. W. Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly, 1955.
    """
    predictions, targets = linear_sum_assignment(iou, maximize=True)
    good = iou[predictions, targets] > iou_threshold
    return predictions[good], targets[good]


def mask_iou(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """IoU of every predicted with every true instance of one image.

    Args:
        predicted: (H, W) instance ids, 0 = none.
        target: (H, W) instance ids, 0 = none.

    Returns:
        (P, T) float64; rows and columns in ascending order of the ids, 0 left out.
    """
    somewhere = (predicted != NO_INSTANCE) | (target != NO_INSTANCE)  # a few percent of a road image
    predicted_ids, row = np.unique(predicted[somewhere], return_inverse=True)
    target_ids, column = np.unique(target[somewhere], return_inverse=True)
    shape = (len(predicted_ids), len(target_ids))
    joint = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)  # pixels per id pair
    union = joint.sum(axis=1, keepdims=True) + joint.sum(axis=0, keepdims=True) - joint
    iou = joint / np.maximum(union, 1)
    return iou[np.ix_(predicted_ids != NO_INSTANCE, target_ids != NO_INSTANCE)]


class MatchCounts:
    """True positives, false positives and false negatives, pooled over images, and what follows from them.

    A ratio whose denominator is 0 (nothing predicted, nothing to find) is 0.0.

    Attributes:
        tp: matches.
        fp: predictions without a match.
        fn: targets without a match.
    """

    def __init__(self) -> None:
        self.tp = self.fp = self.fn = 0

    def count(self, matches: int, predictions: int, targets: int) -> None:
        """Adds one image: the numbers of its matches, predictions and targets."""
        self.tp += matches
        self.fp += predictions - matches
        self.fn += targets - matches

    def precision(self) -> float:
        """TP / (TP + FP)."""
        return self.tp / max(self.tp + self.fp, 1)

    def recall(self) -> float:
        """TP / (TP + FN)."""
        return self.tp / max(self.tp + self.fn, 1)

    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)


class InstanceF1(MatchCounts):
    """F1 of instance masks: a true positive is a matched pair whose masks have an IoU above the threshold.

    Args:
        iou_threshold: IoU that a match must exceed.

    Reference:
        A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, eq. 2: this F1 is its recognition quality, and
        :meth:`mean_iou_of_matches` its segmentation quality; their product is the panoptic quality.
    """

    def __init__(self, iou_threshold: float = 0.5) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
        self._iou_sum = 0.0

    def update(self, predicted_instances: np.ndarray | Tensor, target_instances: np.ndarray | Tensor) -> None:
        """Matches and counts the instances of one image.

        Args:
            predicted_instances: (H, W) instance ids, 0 = none.
            target_instances: (H, W) instance ids, 0 = none.

        Raises:
            ValueError: shapes differ or are not (H, W), or ids are not integers or negative.
        """
        predicted = as_label_array(predicted_instances, "predicted_instances")
        target = as_label_array(target_instances, "target_instances")
        if predicted.shape != target.shape or target.ndim != 2:
            raise ValueError(
                f"predicted_instances has shape {predicted.shape} and target_instances {target.shape}, "
                "expected the same (H, W)"
            )
        lowest = min(predicted.min(initial=0), target.min(initial=0))
        if lowest < 0:
            raise ValueError(f"an instance mask holds id {lowest}, expected 0 (none) or 1..N")
        iou = mask_iou(predicted, target)
        matched = match_by_iou(iou, self.iou_threshold)
        self.count(len(matched[0]), *iou.shape)
        self._iou_sum += float(iou[matched].sum())

    def mean_iou_of_matches(self) -> float:
        """Mean IoU of the true positives: how well found instances are outlined; 0.0 without any."""
        return self._iou_sum / max(self.tp, 1)
