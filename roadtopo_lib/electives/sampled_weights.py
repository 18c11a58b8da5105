"""Class weights from a sample of the masks, with an error bar."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.data.counting import count_class_pixels
from roadtopo_lib.labels import NUM_CLASSES
from roadtopo_lib.losses import weights_from_counts

DRAWS = 200


class SampledWeights(NamedTuple):
    """Weights of a sample of masks.

    Attributes:
        weights: (C,) with mean 1.
        standard_error: (C,) standard deviation of the weights over bootstrap draws of the sampled masks. It is 0 for a
            class of which the sample holds no pixel: that class is unknown, not certain. It is too large where the
            sample is most of the data set.
    """

    weights: Tensor
    standard_error: Tensor


def sampled_class_weights(
    dataset: Sequence, samples: int, method: str = "sqrt_inverse", num_classes: int | None = None, seed: int = 0
) -> SampledWeights:
    """Estimates ``losses.class_weights`` from masks drawn at random without replacement.

    Pixels of one mask are alike, so masks are drawn, not pixels: the error goes down with the number of masks.

    Args:
        dataset: samples that are dicts with ``semantic_mask`` (H, W); only those drawn are read, one at a time.
        samples: how many masks to read, 2 to ``len(dataset)``.
        method: one of ``losses.WEIGHT_METHODS``. ``"effective_number"`` of a sample is that of fewer pixels.
        num_classes: C; default the dataset's own ``num_classes``, or else that of the class table.
        seed: decides which masks are drawn.

    Raises:
        ValueError: ``samples`` out of range; see also ``losses.class_weights``.

    Reference:
        B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6.
    """
    if not 2 <= samples <= len(dataset):
        raise ValueError(f"samples is {samples}, expected 2 to {len(dataset)}, the number of masks")
    classes = num_classes or getattr(dataset, "num_classes", NUM_CLASSES)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(dataset), size=samples, replace=False)
    counts = [count_class_pixels([dataset[int(i)]], classes) for i in drawn]
    pixels, around = (torch.stack(part).double() for part in zip(*counts, strict=True))  # (samples, C) each

    def weights(times: Tensor) -> Tensor:  # how often each mask counts, (samples,)
        return weights_from_counts(times @ pixels, method, image_pixels=times @ around)

    times = torch.from_numpy(rng.multinomial(samples, np.full(samples, 1 / samples), size=DRAWS)).double()
    return SampledWeights(
        weights(torch.ones(samples, dtype=torch.float64)), torch.stack([weights(row) for row in times]).std(dim=0)
    )
