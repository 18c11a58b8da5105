"""Class weights: how much more a rare class should count than a frequent one.

Lane markings cover a few percent of a road scene. Without weights, a model that never predicts them loses little.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from roadtopo_lib.config import CLASS_WEIGHT_METHODS
from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.labels import NUM_CLASSES

WEIGHT_METHODS = CLASS_WEIGHT_METHODS


def class_weights(
    dataset: Iterable, method: str = "sqrt_inverse", num_classes: int | None = None, beta: float = 0.9999,
    max_samples: int | None = None, cache: str | Path | None = None,
) -> Tensor:  # fmt: skip
    """Weights of the classes of a dataset, for ``CombinedLoss`` and its relatives.

    Args:
        dataset: samples that are dicts with ``semantic_mask`` (H, W).
        method: one of ``WEIGHT_METHODS``, see ``weights_from_counts``.
        num_classes: C; default the dataset's own ``num_classes``, or else that of the class table.
        beta: of ``"effective_number"``.
        max_samples, cache: see ``count_class_pixels``.

    Returns:
        (C,) float32 with mean 1.

    Raises:
        ValueError: see ``count_class_pixels`` and ``weights_from_counts``.
    """
    _check_method(method, beta)  # before an hour of counting
    if num_classes is None:
        num_classes = getattr(dataset, "num_classes", NUM_CLASSES)
    counts = count_class_pixels(dataset, num_classes, max_samples, cache)
    return weights_from_counts(counts.pixels, method, beta, counts.image_pixels)


def weights_from_counts(
    pixels: Tensor | Sequence[int], method: str, beta: float = 0.9999,
    image_pixels: Tensor | Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Turns pixel counts n_c into weights with mean 1.

    ========================  =======================================================================================
    ``"inverse"``             w = 1 / f, with the frequency f = n_c / Σ n
    ``"sqrt_inverse"``        w = 1 / √f
    ``"effective_number"``    w = (1 − β) / (1 − β^n_c)
    ``"median_frequency"``    w = median(f) / f, with f = n_c / (pixels of the images in which the class appears)
    ========================  =======================================================================================

    Beyond n = 1/(1 − β) pixels (10,000 at β = 0.9999) the effective number flattens, and all classes come to weigh
    alike: whole datasets need a β closer to 1.

    A class without a pixel gets weight 1, the mean, and does not change the weights of the others.

    Args:
        pixels: (C,) pixels of each class.
        method: one of ``WEIGHT_METHODS``.
        beta: of ``"effective_number"``, 0 <= beta < 1.
        image_pixels: (C,) of ``"median_frequency"``: pixels of the images in which the class appears. Without it every
            class counts as present in every image, and the method gives the weights of ``"inverse"``.

    Returns:
        (C,) float32 with mean 1.

    Raises:
        ValueError: unknown method, beta out of range, negative counts, or no pixel at all.

    Reference:
        Effective number: Y. Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
        https://arxiv.org/abs/1901.05555, equation 2. Median frequency: D. Eigen, R. Fergus, "Predicting Depth, Surface
        Normals and Semantic Labels", ICCV 2015, https://arxiv.org/abs/1411.4734, section 6.3.
    """
    _check_method(method, beta)
    pixels = torch.as_tensor(pixels, dtype=torch.float64)  # (C,)
    if pixels.ndim != 1 or (pixels < 0).any() or not pixels.sum() > 0:
        raise ValueError(f"pixels is {pixels.tolist()}, expected one count per class, at least one of them above 0")
    seen = pixels > 0
    n = pixels[seen]  # (classes seen,)
    if method == "inverse":
        raw = n.sum() / n
    elif method == "sqrt_inverse":
        raw = (n.sum() / n).sqrt()
    elif method == "effective_number":
        # 1 − β^n by way of the logarithm, exact for β close to 1. β = 0 (log −∞) leaves 1 − 0 = 1.
        raw = (1 - beta) / -torch.expm1(n * (math.log(beta) if beta > 0 else -math.inf))
    else:
        around = n.sum() if image_pixels is None else torch.as_tensor(image_pixels, dtype=torch.float64)[seen]
        frequency = n / around
        raw = frequency.median() / frequency
    weights = torch.ones_like(pixels)
    weights[seen] = raw / raw.mean()
    return weights.float()


def _check_method(method: str, beta: float) -> None:
    if method not in WEIGHT_METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(WEIGHT_METHODS)}")
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}, expected at least 0 and below 1")
