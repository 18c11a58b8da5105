"""What each semantic loss, and its gradient, is as one predicted probability moves.

The scene is as small as can be: two classes, ``PIXELS`` pixels, of which a share belongs to the rare class. The
probability that the rare class's pixels get for it runs from 0 to 1 while all else stands still. Losses and gradients
are the library's own, by autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from roadtopo_lib.losses import DiceLoss, FocalLoss, TverskyLoss

PIXELS = 1000
MOVED = ("one pixel", "the whole region")
"""What moves: one pixel of the rare class, or all of them."""

PROBABILITIES = 0.5 - 0.49 * np.cos(np.linspace(0, np.pi, 41))
"""0.01 to 0.99, closer together at the ends, where the losses bend."""
LOSSES = ("cross-entropy", "Dice", "focal", "Tversky")


@dataclass(frozen=True)
class LossCurves:
    """Losses over ``PROBABILITIES``.

    Attributes:
        probability: (P,) what the moved pixels get for the rare class.
        loss: by loss, (P,).
        gradient: by loss, (P,): minus the derivative by one moved pixel's logit, in thousandths. Positive: up, towards
            the rare class.
        rare: pixels of the rare class.
    """

    probability: np.ndarray
    loss: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    rare: int


def loss_curves(
    rare_share: float = 0.03,
    rest: float = 0.9,
    others: float = 0.5,
    moved: str = "the whole region",
    gamma: float = 2.0,
    alpha: float = 0.3,
    beta: float = 0.7,
    probabilities: Sequence[float] | np.ndarray = PROBABILITIES,
) -> LossCurves:
    """Moves the probability of the rare class and reads all four losses.

    Args:
        rare_share: share of the pixels that are of the rare class, 0..0.5; at least one pixel is.
        rest: probability that each other pixel gets for being what it is, above 0 and below 1.
        others: probability that the rare class's pixels which do not move get for it; matters for one pixel only.
        moved: one of ``MOVED``.
        gamma: focusing exponent of the focal loss, >= 0.
        alpha, beta: what Tversky charges for false positives and false negatives, >= 0.
        probabilities: where to read the losses, each above 0 and below 1.

    Raises:
        ValueError: a value outside its range.
    """
    probability = np.asarray(probabilities, dtype=np.float64)
    if moved not in MOVED:
        raise ValueError(f"moved is {moved!r}, expected one of {MOVED}")
    if not 0 <= rare_share <= 0.5:
        raise ValueError(f"rare_share is {rare_share}, expected 0 to 0.5")
    if not all(0 < p < 1 for p in (rest, others, probability.min(), probability.max())):
        raise ValueError("probabilities must lie above 0 and below 1: their logits would be infinite")
    rare = max(1, round(rare_share * PIXELS))
    moving = 1 if moved == "one pixel" else rare
    criteria = {
        "cross-entropy": nn.CrossEntropyLoss(),
        "Dice": DiceLoss(ignore_index=None, per_image=True),
        "focal": FocalLoss(ignore_index=None, gamma=gamma),
        "Tversky": TverskyLoss(ignore_index=None, alpha=alpha, beta=beta, per_image=True),
    }
    # One image for each probability, (P, 2, 1, PIXELS).
    count = len(probability)
    foreground = torch.full((count, PIXELS), 1 - rest, dtype=torch.float64)
    foreground[:, :rare] = others
    foreground[:, :moving] = torch.from_numpy(probability)[:, None]
    logits = torch.stack([torch.zeros_like(foreground), torch.logit(foreground)], dim=1)[:, :, None].requires_grad_()
    target = torch.zeros(count, 1, PIXELS, dtype=torch.int64)
    target[..., :rare] = 1
    loss, gradient = {}, {}
    for name, criterion in criteria.items():
        of_images = torch.vmap(lambda x, y, criterion=criterion: criterion(x[None], y[None]))(logits, target)  # (P,)
        (by_logits,) = torch.autograd.grad(of_images.sum(), logits)
        loss[name], gradient[name] = of_images.detach().numpy(), -1000 * by_logits[:, 1, 0, 0].numpy()
    return LossCurves(probability, loss, gradient, rare)
