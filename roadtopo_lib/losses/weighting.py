"""Class weights: how much more a rare class should count than a frequent one.

Lane markings cover a few percent of a road scene. Without weights, a model that never predicts them loses little.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.files import write_text_atomic
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES

WEIGHT_METHODS = ("inverse", "sqrt_inverse", "effective_number", "median_frequency")


class ClassCounts(NamedTuple):
    """How often each class was seen.

    Attributes:
        pixels: (C,) int64, pixels of the class.
        image_pixels: (C,) int64, all labelled pixels of the images in which the class appears.
    """

    pixels: Tensor
    image_pixels: Tensor


def class_weights(
    dataset: Iterable,
    method: str = "sqrt_inverse",
    num_classes: int | None = None,
    beta: float = 0.9999,
    max_samples: int | None = None,
    cache: str | Path | None = None,
) -> Tensor:
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
    pixels: Tensor | Sequence[int],
    method: str,
    beta: float = 0.9999,
    image_pixels: Tensor | Sequence[int] | None = None,
) -> Tensor:
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


def count_class_pixels(
    dataset: Iterable, num_classes: int, max_samples: int | None = None, cache: str | Path | None = None
) -> ClassCounts:
    """Counts the pixels of each class; unlabelled pixels (255) count nowhere.

    Args:
        dataset: samples that are dicts with ``semantic_mask`` (H, W), integers.
        num_classes: C.
        max_samples: count only so many samples, evenly spaced over the dataset; ``None`` counts all.
        cache: JSON file to keep the counts in. The pixels are counted again if these arguments or the data change. If
            the dataset lists its files in ``semantic_paths``, a change shows in their names, sizes and modification
            times and in the content of the first mask (another transform changes it); otherwise in the content of all
            masks.

    Returns:
        Counts of the C classes.

    Raises:
        ValueError: no sample, ``max_samples`` below 1, or a mask with a class outside 0..C-1.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}, expected at least 1, or None for all")
    samples = dataset if hasattr(dataset, "__getitem__") else list(dataset)
    if len(samples) == 0:
        raise ValueError("dataset holds no sample: there is nothing to count")
    count = min(max_samples or len(samples), len(samples))
    indices = [i * len(samples) // count for i in range(count)]
    if cache is None:
        return _count(samples, indices, num_classes)

    cache = Path(cache)
    fingerprint = _fingerprint(samples, indices, num_classes)
    counts = _read_cache(cache, fingerprint)
    if counts is None:
        counts = _count(samples, indices, num_classes)
        entry = {"fingerprint": fingerprint, **{name: value.tolist() for name, value in counts._asdict().items()}}
        write_text_atomic(cache, json.dumps(entry))
    return counts


def _count(samples: Sequence, indices: Sequence[int], num_classes: int) -> ClassCounts:
    pixels = np.zeros(num_classes, dtype=np.int64)
    image_pixels = np.zeros(num_classes, dtype=np.int64)
    for i in indices:
        mask = _mask(samples, i)
        mask = mask[mask != IGNORE_INDEX]  # (labelled pixels,)
        if mask.size and not 0 <= mask.min() <= mask.max() < num_classes:
            raise ValueError(
                f"sample {i}: semantic ids {mask.min()}..{mask.max()} found, "
                f"expected 0..{num_classes - 1} or {IGNORE_INDEX}"
            )
        in_image = np.bincount(mask, minlength=num_classes)  # (C,)
        pixels += in_image
        image_pixels += mask.size * (in_image > 0)
    return ClassCounts(torch.from_numpy(pixels), torch.from_numpy(image_pixels))


def _fingerprint(samples: Sequence, indices: Sequence[int], num_classes: int) -> str:
    """A hash that changes with whatever the counts depend on."""
    digest = hashlib.sha256(repr((num_classes, list(indices))).encode())
    paths = getattr(samples, "semantic_paths", None)
    for path in paths or ():
        status = Path(path).stat()
        digest.update(repr((Path(path).name, status.st_size, status.st_mtime_ns)).encode())
    for i in indices if paths is None else indices[:1]:
        mask = _mask(samples, i)
        digest.update(repr(mask.shape).encode() + mask.astype(np.int64).tobytes())
    return digest.hexdigest()


def _read_cache(path: Path, fingerprint: str) -> ClassCounts | None:
    """The counts in the file, or ``None`` if there is none, it is damaged, or it belongs to other data."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["fingerprint"] == fingerprint:
            return ClassCounts(*(torch.tensor(entry[name], dtype=torch.int64) for name in ClassCounts._fields))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None


def _mask(samples: Sequence, index: int) -> np.ndarray:
    return np.asarray(samples[index]["semantic_mask"])


def _check_method(method: str, beta: float) -> None:
    if method not in WEIGHT_METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(WEIGHT_METHODS)}")
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}, expected at least 0 and below 1")
