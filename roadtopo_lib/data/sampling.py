"""Which samples an epoch draws, in what order, and which batches share an optimiser step."""

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from roadtopo_lib.data.images import read_semantic_mask
from roadtopo_lib.labels import IGNORE_INDEX


class EpochSampler(Sampler[int | tuple[int, int]]):
    """Indices of one epoch, shuffled by (seed, epoch) alone, so that a resumed run sees the order it would have seen.

    Args:
        length: number of samples.
        seed: the run's seed.
        shuffle: ``False`` keeps the order of the files.
        repeats: (length,) from ``repeat_factors``, how often an epoch draws each sample relative to the others; only
            with ``shuffle``. An epoch stays as long as without.
        draws: samples in an epoch; ``None``: ``length``. Epochs then cut one sequence of passes over the set into
            pieces, and each index comes with the number of its pass, so that a sample drawn twice in an epoch is
            augmented twice.

    Attributes:
        epoch: which epoch to draw.
        first: how many samples the next iteration leaves out, since they were seen before an interruption.
    """

    def __init__(
        self, length: int, seed: int = 0, shuffle: bool = True, repeats: np.ndarray | None = None,
        draws: int | None = None,
    ) -> None:  # fmt: skip
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.repeats = repeats
        self.draws = draws
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.length if self.draws is None else self.draws

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        first, self.first = self.first, 0
        if self.draws is None:
            return iter(self._one_pass(self.epoch)[first:])
        places = range(self.epoch * self.draws + first, (self.epoch + 1) * self.draws)
        one_pass = functools.cache(self._one_pass)
        return ((one_pass(place // self.length)[place % self.length], place // self.length) for place in places)

    def _one_pass(self, number: int) -> list[int]:
        order = np.arange(self.length)
        if not self.shuffle:
            return order.tolist()
        rng = np.random.default_rng((self.seed, number))
        if self.repeats is not None:
            # A factor of 1.7 is one draw, and in seven epochs of ten a second one.
            order = np.repeat(order, (self.repeats + rng.random(self.length)).astype(int))
        rng.shuffle(order)
        return order[: self.length].tolist()


def repeat_factors(dataset, threshold: float) -> np.ndarray:
    """How often to draw each image, so that rare classes are met more often: repeat-factor sampling.

    A class c in a share f(c) of the images has the factor ``max(1, sqrt(threshold / f(c)))``; an image has the largest
    factor of its classes. Unlike a class weight it changes what is seen, not what a pixel costs, and moves no border.

    Args:
        dataset: its semantic masks are read once.
        threshold: classes in fewer images than this share are repeated, more than 0 and at most 1.

    Returns:
        (len(dataset),) float64, each at least 1.

    Raises:
        ValueError: ``threshold`` out of range.

    Reference:
        A. Gupta, P. Dollár, R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, expected more than 0 and at most 1")
    holds = np.zeros((len(dataset), dataset.num_classes), dtype=bool)  # image × class
    for row, path in zip(holds, dataset.semantic_paths, strict=True):
        present = np.unique(read_semantic_mask(path, dataset.num_classes))
        row[present[present != IGNORE_INDEX]] = True
    share = np.maximum(holds.mean(axis=0), 1 / max(1, len(dataset)))  # a class of no image repeats none
    factor = np.maximum(1.0, np.sqrt(threshold / share))
    return np.where(holds, factor, 1.0).max(axis=1)


def rows_cut(height: int, crop_top: float) -> int:
    """How many rows ``crop_top`` cuts off an image of this height."""
    return round(crop_top * height)


def random_window(size: tuple[int, int], ratios: tuple[float, float], seed: int) -> tuple[slice, slice]:
    """Rows and columns of an image that a crop can hold: all, or for portrait and very wide images a random part.

    A random crop takes the middle of an image whose width / height it cannot have: nothing else would ever be seen.

    Args:
        size: (H, W) of the image.
        ratios: least and greatest width / height of the crop.
        seed: decides the place; the window's middle falls anywhere, so its edges are as frequent as what lies between.
    """
    (height, width), (low, high) = size, ratios
    rows = height if width >= low * height else max(1, int(width / low))
    columns = width if width <= high * height else max(1, int(height * high))
    rng = np.random.default_rng(seed)
    top = int(np.clip(rng.integers(height + 1) - rows // 2, 0, height - rows))
    left = int(np.clip(rng.integers(width + 1) - columns // 2, 0, width - columns))
    return slice(top, top + rows), slice(left, left + columns)


def batches_of_epoch(loader: DataLoader, epoch: int, first: int = 0) -> Iterable[dict]:
    """The batches of an epoch from one on; those before are not even read where the sampler can leave them out.

    Args:
        loader: its data set and sampler are told which epoch it is, where they care.
        epoch: decides order and random draws.
        first: how many batches were seen before an interruption.
    """
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
    if hasattr(loader.sampler, "epoch"):
        loader.sampler.epoch = epoch
    if not hasattr(loader.sampler, "first"):
        return itertools.islice(loader, first, None)
    loader.sampler.first = first * loader.batch_size
    return loader


def group_batches(loader: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Groups of ``size`` batches that share one optimiser step; the last group may be shorter, and is not lost."""
    group: list[dict] = []
    for batch in loader:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
