"""Means and scores of what is measured during an epoch."""

import math

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.distributed import sum_over_processes
from roadtopo_lib.metrics.semantic import BoundaryIoU, ConfusionMatrix, mean_of_present


class Meter:
    """Weighted running means of named scalars, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.weights: dict[str, float] = {}

    def state_dict(self) -> dict:
        """Plain numbers, for ``load_state_dict``."""
        return {"sums": {name: float(value) for name, value in self.sums.items()}, "weights": dict(self.weights)}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where another meter was; its sums fit single precision, in which the next value is added."""
        self.sums, self.weights = dict(state["sums"]), dict(state["weights"])

    def add(self, values: dict[str, Tensor], weight: float) -> None:
        """Adds one observation of each scalar."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float() * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: self.mean(name) for name in self.sums}

    def mean(self, name: str) -> float:
        """The mean of one scalar so far; NaN if it was never observed."""
        return float(self.sums[name]) / self.weights[name] if name in self.sums else math.nan


class MaskScores:
    """Scores of class masks, of all processes together: ``miou`` and, with ``boundary``, ``mbou``, which is slow."""

    def __init__(self, num_classes: int, ignore_index: int, boundary: bool = False) -> None:
        kinds = {"miou": ConfusionMatrix} | ({"mbou": BoundaryIoU} if boundary else {})
        self.scores = {name: kind(num_classes, ignore_index) for name, kind in kinds.items()}

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Counts a batch, (B, H, W) class ids each."""
        for score in self.scores.values():
            score.update(prediction, target)

    def to_dict(self) -> dict[str, float]:
        """Means of IoU and Boundary IoU over the classes that occur; NaN where no pixel is labelled."""
        for score in self.scores.values():
            for name, counts in vars(score).items():
                if isinstance(counts, np.ndarray):
                    setattr(score, name, sum_over_processes(torch.from_numpy(counts)).numpy())
        return {name: mean_of_present(score.class_iou()) for name, score in self.scores.items()}
