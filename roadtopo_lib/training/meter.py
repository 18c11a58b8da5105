"""Means of what is measured during an epoch."""

import math

from torch import Tensor


class Meter:
    """Weighted running means of named scalars, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

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
