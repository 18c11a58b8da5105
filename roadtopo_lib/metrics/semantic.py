"""Scores of a semantic mask: class IoU and its mean, pixel accuracy, Boundary IoU.

Both accumulators pool pixel counts over all images and divide once at the end. A mean of per-image IoUs would let a
class that covers three pixels of one image count as much as one that fills it, and has no value for images without it.
"""

import math

import cv2
import numpy as np
from torch import Tensor

from roadtopo_lib.labels import IGNORE_INDEX


def as_label_array(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    """An array or tensor (on any device) of class or instance ids as a numpy array.

    Args:
        values: integer ids of any shape.
        name: what to call it in the error.

    Raises:
        ValueError: the ids are not integers.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} has dtype {array.dtype}, expected integer ids")
    return array


class ConfusionMatrix:
    """Counts pixels by (true class, predicted class); class IoU, mean IoU and pixel accuracy follow from the counts.

    Args:
        num_classes: number of classes C; ids run 0..C−1.
        ignore_index: target id of unlabelled pixels; they are not counted, whatever is predicted there.

    Attributes:
        matrix: (C, C) int64, rows = target, columns = prediction.

    Reference:
        M. Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.4 (IoU).
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: np.ndarray | Tensor, target: np.ndarray | Tensor) -> None:
        """Counts the pixels of one image or one batch.

        Args:
            prediction: (H, W) or (B, H, W) class ids.
            target: the same shape; class ids or ``ignore_index``.

        Raises:
            ValueError: shapes differ, or an id of a counted pixel is outside 0..C−1. Nothing is counted then.
        """
        prediction, target = _checked_pair(prediction, target, self.num_classes, self.ignore_index)
        counted = target != self.ignore_index
        pairs = target[counted].astype(np.int64) * self.num_classes + prediction[counted].astype(np.int64)
        self.matrix += np.bincount(pairs, minlength=self.num_classes**2).reshape(self.matrix.shape)

    def class_iou(self) -> np.ndarray:
        """IoU of each class, (C,) float64 in [0, 1]; NaN for a class that occurs neither in predictions nor targets."""
        intersection = self.matrix.diagonal()
        union = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - intersection
        return _ratio(intersection, union)

    def miou(self) -> float:
        """Mean IoU over the classes that occur in predictions or targets; NaN before any pixel was counted."""
        return mean_of_present(self.class_iou())

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels whose class is right; NaN before any pixel was counted."""
        return float(_ratio(self.matrix.trace(), self.matrix.sum()))


BOUNDARY_RATIO = 0.02
"""Default width of the boundary band as a share of the image diagonal, see :class:`BoundaryIoU`."""


def boundary_band(height: int, width: int, dilation_ratio: float = BOUNDARY_RATIO) -> int:
    """Width d of the boundary band in pixels: ``dilation_ratio`` of the image diagonal, rounded, at least 1."""
    return max(1, round(dilation_ratio * math.hypot(height, width)))


def mask_boundary(mask: np.ndarray, band: int) -> np.ndarray:
    """Pixels of a mask that lie within ``band`` pixels of its outline; the image's edge is outline too.

    Args:
        mask: (H, W) bool.
        band: d in pixels, at least 1.

    Returns:
        (H, W) bool: the mask minus what is left of it after d erosions by 3×3.

    Reference:
        B. Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, eq. 2.
    """
    padded = np.pad(mask.astype(np.uint8), 1)  # (H, W) → (H + 2, W + 2): a ring of outside
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=band)
    return mask & (eroded[1:-1, 1:-1] == 0)


class BoundaryIoU:
    """IoU of the boundary bands of prediction and target, class by class, pooled over images.

    The band grows with the image; its ratio to the image diagonal is a choice. The metric's authors use two: 0.02 for
    COCO and LVIS (11 px at 256×512, 29 px at 720×1280) and 0.005 for Cityscapes, whose images are larger (3 px and
    7 px). A marking narrower than two bands is all boundary, and its Boundary IoU is its IoU: for thin lines take
    0.005. A score is comparable only with its ratio and band, so report :attr:`dilation_ratio` and :attr:`band` too.

    Unlabelled pixels belong to no class on either side: they are cut out of the prediction too before its outline is
    taken, so that a perfect prediction scores 1.

    Args:
        num_classes: number of classes C; ids run 0..C−1.
        ignore_index: target id of unlabelled pixels.
        dilation_ratio: band width as a share of the image diagonal, above 0 and at most 1.

    Attributes:
        intersection, union: (C,) int64, boundary pixels counted so far.

    Raises:
        ValueError: dilation_ratio is outside its range.

    Reference:
        B. Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, eq. 2. The
        paper scores single masks; pooling over images is the usual step from IoU to the IoU of a data set. Ratios: the
        authors' code, https://github.com/bowenc0221/boundary-iou-api, ``mask_to_boundary`` and tools/.
    """

    def __init__(
        self, num_classes: int, ignore_index: int = IGNORE_INDEX, dilation_ratio: float = BOUNDARY_RATIO
    ) -> None:
        if not 0 < dilation_ratio <= 1:
            raise ValueError(f"dilation_ratio is {dilation_ratio}, expected above 0 and at most 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._dilation_ratio = dilation_ratio
        self.intersection = np.zeros(num_classes, dtype=np.int64)
        self.union = np.zeros(num_classes, dtype=np.int64)
        self._bands: set[int] = set()

    @property
    def dilation_ratio(self) -> float:
        """Band width as a share of the image diagonal. Read-only: all images of a score are counted alike."""
        return self._dilation_ratio

    @property
    def band(self) -> list[int]:
        """The bands used so far in pixels, ascending: one value if all images had one size."""
        return sorted(self._bands)

    def update(self, prediction: np.ndarray | Tensor, target: np.ndarray | Tensor) -> None:
        """Counts the boundary pixels of one image or one batch.

        Args:
            prediction: (H, W) or (B, H, W) class ids.
            target: the same shape; class ids or ``ignore_index``.

        Raises:
            ValueError: shapes differ, or an id of a counted pixel is outside 0..C−1. Nothing is counted then.
        """
        prediction, target = _checked_pair(prediction, target, self.num_classes, self.ignore_index)
        height, width = target.shape[-2:]
        band = boundary_band(height, width, self.dilation_ratio)
        self._bands.add(band)
        prediction, target = (ids.reshape(-1, height, width) for ids in (prediction, target))  # → (B, H, W)
        for predicted, true in zip(prediction, target, strict=True):
            labelled = true != self.ignore_index
            for class_id in range(self.num_classes):
                a = mask_boundary((predicted == class_id) & labelled, band)
                b = mask_boundary((true == class_id) & labelled, band)
                self.intersection[class_id] += np.count_nonzero(a & b)
                self.union[class_id] += np.count_nonzero(a | b)

    def class_iou(self) -> np.ndarray:
        """Boundary IoU of each class, (C,) in [0, 1]; NaN for one that occurs neither in predictions nor targets."""
        return _ratio(self.intersection, self.union)

    def miou(self) -> float:
        """Mean over the classes that occur in predictions or targets; NaN before any pixel was counted."""
        return mean_of_present(self.class_iou())


def _checked_pair(
    prediction: np.ndarray | Tensor, target: np.ndarray | Tensor, num_classes: int, ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    prediction, target = as_label_array(prediction, "prediction"), as_label_array(target, "target")
    if prediction.shape != target.shape or target.ndim not in (2, 3):
        raise ValueError(
            f"prediction has shape {prediction.shape} and target {target.shape}, expected the same (H, W) or (B, H, W)"
        )
    counted = target != ignore_index
    for name, ids in (("prediction", prediction[counted]), ("target", target[counted])):
        low, high = ids.min(initial=0), ids.max(initial=0)
        if low < 0 or high >= num_classes:
            found = low if low < 0 else high
            raise ValueError(f"{name} holds class id {found}, expected 0..{num_classes - 1} (ignored: {ignore_index})")
    return prediction, target


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: no such pixel anywhere
        return np.divide(part, whole)


def mean_of_present(values: np.ndarray) -> float:
    """The mean of those that are not NaN; NaN if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan
