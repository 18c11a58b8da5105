"""A small detector made of the learner's parts: reads samples, trains two heads, separates and scores lanes."""

from collections.abc import Callable, Mapping

import numpy as np

SPLITS = ("train", "val", "test")


def assemble(parts: Mapping[str, Callable] | None = None) -> "Detector":
    """A detector from six parts; prints which of them are the learner's.

    Args:
        parts: name → function, see ``parts.PARTS``; default the kept ones. The library's stand in for missing ones.
    """


class Detector:
    """Lanes in an image, by six parts that anyone can exchange."""

    def train(self, steps: int = 100, seconds: float = 60.0, seed: int = 0) -> list[float]:
        """Trains the heads on ``data_samples/train`` until one of the limits is reached; returns a loss per step."""

    def detect(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (H, W) int32, lanes numbered 1, 2 … from left to right, 0 elsewhere."""

    def score(self, split: str = "val") -> float:
        """Lane F1 over the samples of a split."""
