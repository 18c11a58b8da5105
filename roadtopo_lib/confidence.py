"""How sure is it? Each lane and each crossing gets the probability that it is right, and doubtful ones are left out.

The mean probability over a lane's pixels is no such number: networks are too sure, and it tells nothing of how much of
the lane they saw. So its logit is joined with plain facts about the lane in a logistic regression, which is fitted on
scenes that no training saw (``app.calibrate``) and kept in the model's file.

Reference:
    J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999 (a logistic regression on top of scores);
    C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (reliability diagrams, expected calibration
    error).
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from roadtopo_lib.files import load_weights
from roadtopo_lib.labels import ClassTable
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import LanePostProcessor, LaneResult

LANE_FEATURES = ("logit of the mean probability", "log of the rows spanned", "log of the pixels")
CROSSING_FEATURES = (
    "logit of the mean probability", "log of the area", "share of the surroundings that is road", "log of the stripes",
)  # fmt: skip
BINS = 10
"""Of a reliability diagram."""


@dataclass(frozen=True)
class Calibration:
    """A logistic regression: features (n, F) → probabilities (n,).

    Args:
        weights: (F,), for features as they are.
        bias: what is added.
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The probability that each of n instances is right."""
        return 1 / (1 + np.exp(-(np.asarray(features).reshape(-1, len(self.weights)) @ self.weights + self.bias)))

    @classmethod
    def fit(cls, features: np.ndarray, right: np.ndarray) -> "Calibration":
        """Fits features (n, F) of instances of which some are right, (n,) bool; ValueError if all are, or none."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(np.unique(right)) < 2:
            raise ValueError(
                f"of {len(right)} instances all are {'right' if np.all(right) else 'wrong'}: none to tell apart"
            )
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, right)
        scaler, regression = model[0], model[1]
        weights = regression.coef_[0] / scaler.scale_
        return cls(tuple(weights.tolist()), float(regression.intercept_[0] - weights @ scaler.mean_))


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[list[dict], float]:
    """The rows of a reliability diagram, and the expected calibration error.

    Args:
        confidence: (n,) probabilities.
        right: (n,) bool.

    Returns:
        For each bin with instances ``count``, their mean ``confidence`` and the share that is ``right``; and the mean
        over the instances of the distance between both, ``sum(count * |confidence - right|) / n``.
    """
    place, rows = np.minimum((confidence * BINS).astype(int), BINS - 1), []
    for k in range(BINS):
        own = place == k
        if own.any():
            row = {"count": int(own.sum()), "confidence": confidence[own].mean(), "right": right[own].mean()}
            rows.append({name: round(float(value), 4) if name != "count" else value for name, value in row.items()})
    error = sum(row["count"] * abs(row["confidence"] - row["right"]) for row in rows) / max(len(confidence), 1)
    return rows, float(error)


def lane_features(result: LaneResult, probability: np.ndarray) -> np.ndarray:
    """(N, 3), see ``LANE_FEATURES``; ``probability`` (H, W) as ``predict`` gives it."""
    rows = []
    for number, line in enumerate(result["lane_polylines"], start=1):
        pixels = result["lane_instances"] == number
        span = np.ptp(np.asarray(line)[:, 1]) / pixels.shape[0]
        rows.append([_logit(probability[pixels].mean()), np.log(span + 1e-3), np.log(pixels.mean())])
    return np.array(rows).reshape(-1, len(LANE_FEATURES))


def crossing_features(
    result: LaneResult, probability: np.ndarray, first_row: int, image: np.ndarray, classes: ClassTable
) -> np.ndarray:
    """(C, 4), see ``CROSSING_FEATURES``: is it plausible, a striped area of some size that lies on a road?

    Args:
        result: crosswalks 1..C.
        probability: (h, w) of the crosswalk classes, at the network's resolution.
        first_row: the image row where ``probability`` begins.
        image: (H, W, 3) uint8 RGB.
        classes: the ground of crossings is its class named road, and those of lanes.
    """
    semantic, rows = result["semantic_mask"], []
    ground = [row.id for row in classes if row.instances == "lane" or row.name == "road"]
    reach = np.ones((2 * max(2, semantic.shape[1] // 100) + 1,) * 2, np.uint8)
    on_ground = np.isin(semantic, ground)
    for number in range(1, result["crosswalk_count"] + 1):
        pixels = result["crosswalk_instances"] == number
        ring = (cv2.dilate(pixels.view(np.uint8), reach) > 0) & ~pixels
        around = on_ground[ring].mean() if ring.any() else 0.0
        share = cv2.resize(pixels[first_row:].astype(np.float32), probability.shape[::-1], interpolation=cv2.INTER_AREA)
        mean = _logit((probability * share).sum() / max(share.sum(), 1e-6))
        rows.append([mean, np.log(pixels.mean()), around, np.log1p(stripes(image, pixels))])
    return np.array(rows).reshape(-1, len(CROSSING_FEATURES))


def stripes(image: np.ndarray, pixels: np.ndarray) -> int:
    """How many bright runs an area's middle rows have from left to right: about one for each stripe of a crossing.

    Args:
        image: (H, W, 3) uint8.
        pixels: (H, W) bool, at least one.
    """
    rows = np.flatnonzero(pixels.any(axis=1))
    low, high = np.quantile(rows, [0.4, 0.6], method="nearest")  # rows that hold pixels, even if an area has gaps
    band, inside = image[low : high + 1].astype(np.float32).mean(axis=2), pixels[low : high + 1]
    columns = np.flatnonzero(inside.any(axis=0))
    profile = (band * inside).sum(axis=0)[columns] / inside.sum(axis=0)[columns]
    middle, swing = (profile.min() + profile.max()) / 2, np.ptp(profile)
    if swing < 12:  # grey values: noise, no paint
        return 0
    bright = profile > middle
    return int(bright[0]) + int((bright[1:] & ~bright[:-1]).sum())


class ConfidentSegmenter(LaneSegmenter):
    """A ``LaneSegmenter`` whose results say how sure they are, without what is less sure than a threshold.

    Results have ``lane_confidence`` (N,) and ``crosswalk_confidence`` (C,) besides, float 0..1.

    Args:
        model, config, device, tta: see ``LaneSegmenter``.
        lanes, crossings: the calibrations; ``None`` for what has none, which then keeps all of its instances.
        thresholds: least confidence of a lane and of a crossing.
    """

    def __init__(
        self, model, config, device=None, tta: bool = True, lanes: Calibration | None = None,
        crossings: Calibration | None = None, thresholds: tuple[float, float] = (0.0, 0.0),
    ) -> None:  # fmt: skip
        super().__init__(model, config, device, tta)
        self.postprocessor = _Judge(self.postprocessor, lanes, crossings, thresholds, self.classes)

    def predict(self, image: np.ndarray) -> dict:
        """As of ``LaneSegmenter``, and the ``image`` itself, whose stripes tell crossings."""
        return {**super().predict(image), "image": image}

    def read_classes(self, outputs: dict, size: tuple[int, int], first_row: int) -> dict:
        """As of ``LaneSegmenter``, and ``crossing`` (h, w), the probability of the crosswalk classes."""
        chances = outputs["logits"][0].softmax(dim=0)[list(self.classes.crosswalk_ids)].sum(dim=0)
        return {**super().read_classes(outputs, size, first_row), "crossing": chances.cpu().numpy()}


@dataclass(frozen=True)
class _Judge:
    """A post-processor that looks at what another one has found."""

    inner: LanePostProcessor
    lanes: Calibration | None
    crossings: Calibration | None
    thresholds: tuple[float, float]
    classes: ClassTable

    def process(
        self, image: np.ndarray, crossing: np.ndarray, confidence: np.ndarray, first_row: int, **outputs: object
    ) -> LaneResult:
        """See ``LanePostProcessor.process``, and ``ConfidentSegmenter``."""
        result = self.inner.process(confidence=confidence, first_row=first_row, **outputs)
        if self.lanes is not None:
            result = _kept(result, "lane", self.lanes(lane_features(result, confidence)), self.thresholds[0])
        if self.crossings is not None:
            features = crossing_features(result, crossing, first_row, image, self.classes)
            result = _kept(result, "crosswalk", self.crossings(features), self.thresholds[1])
        return result


def _kept(result: LaneResult, kind: str, confidence: np.ndarray, threshold: float) -> dict:
    """A result with the lanes or crosswalks of at least so much confidence, numbered anew in their order."""
    keep = np.flatnonzero(confidence >= threshold)
    numbers = np.zeros(len(confidence) + 1, np.int32)
    numbers[keep + 1] = np.arange(1, len(keep) + 1)
    changed = {
        f"{kind}_instances": numbers[result[f"{kind}_instances"]],
        f"{kind}_count": len(keep),
        f"{kind}_centers": result[f"{kind}_centers"][keep],
        f"{kind}_confidence": confidence[keep],
    }
    if kind == "lane":
        changed["lane_polylines"] = [result["lane_polylines"][k] for k in keep]
    return {**result, **changed}


def load_segmenter(path: str | Path, device: str | None = None, threshold: float | None = None) -> LaneSegmenter:
    """A model with the calibration that its file holds; without one a plain ``LaneSegmenter``.

    Args:
        path, device: see ``LaneSegmenter.from_checkpoint``.
        threshold: least confidence; ``None`` takes the file's own for lanes and for crossings, which give the best F1
            on the scenes of the calibration. A higher one leaves out more that is wrong, and more that is right.

    Raises:
        FileNotFoundError, ValueError: see ``LaneSegmenter.from_checkpoint``.
        ValueError: a threshold outside of 0..1 or for a model without calibration, or a calibration that is none.
    """
    plain, kept = LaneSegmenter.from_checkpoint(path, device), load_weights(path).info.get("confidence")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"confidence is {threshold}, expected 0 to 1")
    if kept is None and threshold is None:
        return plain
    if kept is None:
        raise ValueError(f"{path}: holds no calibration for confidence {threshold}: road-topology calibrate makes one")
    features = {"lanes": LANE_FEATURES, "crossings": CROSSING_FEATURES}
    try:
        parts = {kind: None if kept[kind] is None else Calibration(**kept[kind]) for kind in features}
        own = {kind: float(kept["thresholds"][kind]) for kind in features}
        for kind, part in parts.items():
            values = [own[kind]] if part is None else [own[kind], part.bias, *part.weights]
            if not np.isfinite(values).all() or len(values) not in (1, 2 + len(features[kind])):
                raise ValueError(f"the numbers of {kind} are none")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its calibration cannot be read: {error}") from None
    thresholds = tuple(own.values()) if threshold is None else (threshold, threshold)
    return ConfidentSegmenter(plain.model, plain.config, plain.device, plain.tta, **parts, thresholds=thresholds)


def stored(lanes: Calibration | None, crossings: Calibration | None, thresholds: dict, **about: object) -> dict:
    """What a model's file keeps of a calibration, plain values."""
    kinds = {"lanes": lanes and asdict(lanes), "crossings": crossings and asdict(crossings)}
    return {**kinds, "thresholds": thresholds, **about}


def _logit(p: float) -> float:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return float(np.log(p / (1 - p)))
