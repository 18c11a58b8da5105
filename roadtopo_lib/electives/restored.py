"""How near a restored image comes to the truth where something was hidden, and what needs no learning.

Axes: B images, N completions, H and W image pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roadtopo_lib.electives.amodal import fuse

WINDOW, SIGMA = 11, 1.5
"""Pixels of the Gaussian window of SSIM, and its standard deviation, as in the paper."""

STABLE_MEANS, STABLE_SPREADS = 0.01**2, 0.03**2
"""C1 and C2 of the paper for values in [0, 1]."""


class Restored(NamedTuple):
    """Scores of B images inside their masks, each (B,)."""

    psnr: Tensor
    """Peak signal-to-noise ratio in decibels; higher is better."""
    ssim: Tensor
    """Structural similarity, at most 1; higher is better."""
    l1: Tensor
    """Mean absolute difference of values in [0, 1]; lower is better."""


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of every pixel's window, mean of the channels: (B, H, W) of images (B, 3, H, W) in [0, 1].

    Reference:
        Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE Transactions on
        Image Processing, 2004, equation 13.
    """
    steps = torch.arange(WINDOW, dtype=image.dtype) - WINDOW // 2
    window = torch.exp(-(steps**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def blurred(x: Tensor) -> Tensor:
        x = F.pad(x.flatten(0, 1)[:, None], (WINDOW // 2,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1)).view_as(image)

    mean, true = blurred(image), blurred(target)
    spread, true_spread = blurred(image**2) - mean**2, blurred(target**2) - true**2
    together = blurred(image * target) - mean * true
    means = (2 * mean * true + STABLE_MEANS) / (mean**2 + true**2 + STABLE_MEANS)
    return (means * (2 * together + STABLE_SPREADS) / (spread + true_spread + STABLE_SPREADS)).mean(dim=1)


def compare(image: Tensor, target: Tensor, mask: Tensor) -> Restored:
    """Scores of images (B, 3, H, W) in [0, 1] where the mask (B, 1, H, W) is set, in at least a pixel each.

    Outside the mask the windows of SSIM see the image as it is.
    """
    hidden = mask.bool()
    share = hidden / hidden.sum(dim=(1, 2, 3), keepdim=True)  # (B, 1, H, W), sums to 1

    def inside(x: Tensor) -> Tensor:
        return (x * share).sum(dim=(1, 2, 3))

    error = (image - target).abs()
    psnr = -10 * inside(error.square().mean(dim=1, keepdim=True)).log10()
    return Restored(psnr, inside(ssim_map(image, target)[:, None]), inside(error.mean(dim=1, keepdim=True)))


def unlearned(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fusions that nothing has learnt, each (B, 3, H, W).

    Args:
        batch: of ``Occlusions``.

    Returns:
        ``mean`` of the completions; ``best``, the one nearest to the truth in each image; ``oracle``, the one nearest
        in each pixel. The last two look at the truth.
    """
    completions, present = batch["completions"], batch["present"]
    far = (completions - batch["target"][:, None]).abs().mean(dim=2)  # (B, N, H, W)
    far = far.masked_fill(~present[:, :, None, None], torch.inf)
    of_image = (far * batch["mask"]).nan_to_num(nan=torch.inf).sum(dim=(2, 3))  # (B, N); 0 · inf is NaN
    chosen = {
        "mean": (present / present.sum(dim=1, keepdim=True))[:, :, None, None].expand_as(far),
        "best": F.one_hot(of_image.argmin(dim=1), far.shape[1])[:, :, None, None].expand_as(far),
        "oracle": F.one_hot(far.argmin(dim=1), far.shape[1]).movedim(3, 1),
    }
    parts = [batch[name] for name in ("partial", "mask", "completions")]
    return {name: fuse(*parts, weights.to(far.dtype)) for name, weights in chosen.items()}


def interval(values: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over images, by bootstrap; of a difference, if ``values`` are differences per image.

    Args:
        values: (n,) one an image, or (S, n) of S trainings: seeds and images are drawn alike.
        draws: resamplings.
        seed: of the draws.
    """
    values = np.atleast_2d(values)
    rng = np.random.default_rng(seed)
    seeds = rng.integers(len(values), size=(draws, len(values)))
    images = rng.integers(values.shape[1], size=(draws, values.shape[1]))
    means = values[seeds[:, :, None], images[:, None]].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
