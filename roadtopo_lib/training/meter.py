"""Means of what is measured during an epoch."""

import math

from torch import Tensor


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
