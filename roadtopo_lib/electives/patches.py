"""Patches of large images: cut out, drawn more often where the searched class is; and seams that tiles may leave."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from roadtopo_lib.dataset import image_to_tensor


def seam_ratio(values: np.ndarray, seams: tuple[Sequence[int], Sequence[int]]) -> float:
    """Mean step from pixel to pixel across the tiles' borders, divided by the mean step elsewhere; 1: no seam.

    Args:
        values: (C, H, W) probabilities.
        seams: rows and columns that are the first behind a border.

    Raises:
        ValueError: no border inside the image, or a constant image.
    """
    across, elsewhere = [], []
    for axis, places in zip((1, 2), seams, strict=True):
        steps = np.abs(np.diff(values, axis=axis)).mean(axis=(0, 3 - axis))  # (H − 1,) or (W − 1,)
        at = np.isin(np.arange(1, len(steps) + 1), places)
        across.append(steps[at])
        elsewhere.append(steps[~at])
    inside, outside = (np.concatenate(steps) for steps in (across, elsewhere))
    if not len(inside) or not outside.any():
        raise ValueError(
            f"{len(inside)} borders inside an image of {values.shape[1:]}, expected some, and steps elsewhere"
        )
    return float(inside.mean() / outside.mean())


class PositivePatchSampler(Sampler[int]):
    """Draws patches with replacement, so that a wanted share of them holds the class that is sought.

    Args:
        positive: (N,) bool, which patches hold it; at least one does and one does not.
        share: of positive patches among the draws, 0..1.
        draws: patches in an epoch.
        seed: with the epoch it decides every draw.

    Attributes:
        epoch: which epoch to draw; the trainer sets it.
        first: how many draws the next iteration leaves out, see ``data.sampling.EpochSampler``.

    Raises:
        ValueError: a share out of range, or one that the patches cannot give.
    """

    def __init__(self, positive: Sequence[bool], share: float, draws: int, seed: int = 0) -> None:
        self.positive = np.asarray(positive, bool)
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}, expected 0..1")
        count = int(self.positive.sum())
        if (share > 0 and count == 0) or (share < 1 and count == len(self.positive)):
            raise ValueError(
                f"{count} of {len(self.positive)} patches are positive: a share of {share} cannot be drawn"
            )
        self.share = share
        self.draws = draws
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        first, self.first = self.first, 0
        return iter(self.drawn()[first:].tolist())

    def drawn(self) -> np.ndarray:
        """(draws,) indices of this epoch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        is_positive = rng.random(self.draws) < self.share
        with_it, without = np.flatnonzero(self.positive), np.flatnonzero(~self.positive)
        chosen = np.empty(self.draws, np.int64)
        for which, pool in ((is_positive, with_it), (~is_positive, without)):
            if which.any():
                chosen[which] = rng.choice(pool, which.sum())
        return chosen

    def share_reached(self) -> float:
        """Share of positive patches among the draws of this epoch."""
        return float(self.positive[self.drawn()].mean())


class Patches(Dataset):
    """Patches of one large labelled image, as the trainer takes them from ``dataset.LaneInstanceDataset``.

    Args:
        image: (H, W, 3) uint8.
        semantic: (H, W) class ids.
        instance: (H, W) instance ids, 0 none.
        patch: side of a patch in pixels; see ``patch_starts``.
        turned: turn and mirror each patch, as (``seed``, epoch, index) decide: from above, no direction is special.
        seed: of the turns.
    """

    def __init__(
        self, image: np.ndarray, semantic: np.ndarray, instance: np.ndarray, patch: int, turned: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.layers = image, semantic, instance
        self.patch = patch
        self.starts = patch_starts(semantic.shape, patch)
        self.turned = turned
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.starts)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the turns of an epoch; the trainer calls it."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        """``image`` (3, P, P) float32 in [0, 1], ``semantic_mask`` and ``instance_mask`` (P, P) int64, a path."""
        top, left = self.starts[index]
        parts = [layer[top : top + self.patch, left : left + self.patch] for layer in self.layers]
        if self.turned:
            quarter, mirrored = np.random.default_rng((self.seed, self.epoch, index)).integers((4, 2))
            parts = [np.rot90(part, quarter)[:, :: 1 - 2 * mirrored] for part in parts]
        image, semantic, instance = parts
        masks = {"semantic_mask": semantic, "instance_mask": instance}
        tensors = {name: torch.from_numpy(mask.astype(np.int64)) for name, mask in masks.items()}
        return {"image": image_to_tensor(image), **tensors, "image_path": f"row {top}, column {left}"}


def patch_starts(size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """(top, left) of patches side by side that cover an image of ``size`` (H, W); the last ones reach to its end."""
    rows, columns = (sorted({*range(0, side - patch, patch), max(0, side - patch)}) for side in size)
    return [(top, left) for top in rows for left in columns]


def positive_patches(mask: np.ndarray, class_id: int, patch: int, min_pixels: int = 1) -> np.ndarray:
    """(N,) bool for ``patch_starts``: whether so many pixels of (H, W) ``mask`` in the patch have the class."""
    return np.array(
        [
            np.count_nonzero(mask[top : top + patch, left : left + patch] == class_id) >= min_pixels
            for top, left in patch_starts(mask.shape, patch)
        ]
    )
