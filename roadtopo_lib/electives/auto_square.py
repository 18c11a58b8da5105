"""Dice that takes the squared denominator by itself, once training is unstable.

Source: the guide on the combined loss (elective 1), which proposes it. What "unstable" means is ours.
"""

from collections import deque

import numpy as np
from torch import Tensor, nn

from roadtopo_lib.losses import DiceLoss


class AutoSquareDice(nn.Module):
    """Plain Dice until its own losses jump; from then on Dice with the squared denominator.

    Jumpy means: over the last ``window`` training steps the mean size of a change from step to step exceeds ``limit``
    times the mean loss. It never changes back: two losses in turn would make the training unstable themselves.

    Args:
        window: training steps that are looked at, >= 2.
        limit: share of the mean loss, > 0.
        others: arguments of ``DiceLoss``.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, window: int = 20, limit: float = 0.1, **others) -> None:
        super().__init__()
        if window < 2 or not limit > 0:
            raise ValueError(f"window is {window} and limit {limit}, expected at least 2 and more than 0")
        self.limit = limit
        self.dice = DiceLoss(**others)
        self.recent: deque[float] = deque(maxlen=window)

    @property
    def squared(self) -> bool:
        """Whether the squared denominator is in use."""
        return self.dice.square_denominator

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See ``DiceLoss``. A call without a gradient, as in validation, is no training step and is not counted."""
        loss = self.dice(logits, target)
        if loss.requires_grad and not self.squared:
            self.recent.append(loss.item())
            if len(self.recent) == self.recent.maxlen:
                jump = np.abs(np.diff(self.recent)).mean()
                self.dice.square_denominator = not jump <= self.limit * np.mean(self.recent)  # NaN is unstable, too
        return loss
