"""Images with their two masks, transformed together, in batches. Where they lie on disk: ``data/samples.py``."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import list_samples, read_sample
from roadtopo_lib.data.sampling import EpochSampler, random_window, repeat_factors, rows_cut
from roadtopo_lib.distributed import OwnSampler, world_size
from roadtopo_lib.labels import CLASSES, IGNORE_INDEX, ClassTable
from roadtopo_lib.processes import check_main_guard, start_worker

Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""(image (H,W,3) uint8, semantic (H,W) uint8, instance (H,W) uint16, seed) → the same three, transformed alike."""


class JointTransform:
    """Transforms an image and its two masks with the same random numbers.

    Args:
        compose: an Albumentations pipeline.
        crop_top: share of the height that is cut off above first, see ``rows_cut``.
        ratios: least and greatest width / height of the pipeline's crop, see ``data.sampling.random_window``.
    """

    def __init__(self, compose, crop_top: float = 0.0, ratios: tuple[float, float] = (0.0, np.inf)) -> None:
        self.compose = compose
        self.crop_top = crop_top
        self.ratios = ratios

    def __call__(
        self, image: np.ndarray, semantic: np.ndarray, instance: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8, (H, W) uint8, (H, W) uint16 and the seed of every random draw → the same three."""
        self.compose.set_random_seed(seed)
        top = rows_cut(len(image), self.crop_top)
        window = random_window((len(image) - top, image.shape[1]), self.ratios, seed)
        image, semantic, instance = (array[top:][window] for array in (image, semantic, instance))
        # One call for both masks: a second call would draw other random numbers and tear them apart.
        out = self.compose(image=image, masks=[semantic, instance])
        return out["image"], out["masks"][0], out["masks"][1]


def build_transform(config: LaneSegmentationConfig, train: bool) -> JointTransform:
    """The transforms of training (crop and resize, flip, colour) or of evaluation (resize), below ``crop_top``.

    This function is the only place that knows Albumentations' transforms. Masks are resampled by nearest neighbour: the
    mean of two ids is a third id.

    Args:
        config: image_size, crop_top, crop_scale, flip_probability, color_jitter.
        train: random transforms, or only the resize.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions on import
    import albumentations as A

    height, width = config.image_size
    if not train:
        steps = [A.Resize(height, width, interpolation=cv2.INTER_AREA, mask_interpolation=cv2.INTER_NEAREST)]
        return JointTransform(A.Compose(steps), config.crop_top)
    ratios, jitter = (0.75 * width / height, 1.33 * width / height), config.color_jitter
    steps = [
        A.RandomResizedCrop(
            size=(height, width),
            scale=(config.crop_scale, 1.0),
            ratio=ratios,
            interpolation=cv2.INTER_AREA,
            mask_interpolation=cv2.INTER_NEAREST,
        ),
        A.HorizontalFlip(p=config.flip_probability),
        A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10, p=0.8),
    ]
    return JointTransform(A.Compose(steps), config.crop_top, ratios)


class LaneInstanceDataset(Dataset):
    """Samples of one split.

    Args:
        root: folder that holds the splits.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transform: from ``build_transform``, or ``None`` for the files as they are.
        seed: with the epoch and the sample's index it decides every random draw of the transform, so results do not
            depend on the number of workers.
        classes: the class table; valid semantic ids are its own and 255.

    Attributes:
        image_paths, semantic_paths, instance_paths: the files, sorted by name, in step.

    Raises:
        FileNotFoundError: missing root, split or folder; an image without a mask, or a mask without an image.
        ValueError: no image at all, or two images or masks of one name.
    """

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, seed: int = 0,
        classes: ClassTable = CLASSES,
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.split = split
        self.transform = transform
        self.seed = seed
        self.classes = classes
        self.num_classes = len(classes)
        # In shared memory, so that worker processes that outlive an epoch see the new number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.image_paths, self.semantic_paths, self.instance_paths = list_samples(self.root, split)

    def __len__(self) -> int:
        return len(self.image_paths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random draws of an epoch; the trainer calls it."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int | tuple[int, int] | None) -> dict:
        """One sample, by its index or by (index, number that takes the epoch's place in the random draws).

        ``None`` gives one without labels and without a path: it changes no loss and no score.

        Returns:
            ``image`` (3, H, W) float32 in [0, 1], ``semantic_mask`` (H, W) int64, ``instance_mask`` (H, W) int64,
            ``image_path`` str.

        Raises:
            ValueError: see ``data.samples.read_sample``.
        """
        if index is None:
            sample = self[0] | {"image_path": ""}
            sample["semantic_mask"].fill_(IGNORE_INDEX)
            sample["instance_mask"].zero_()
            return sample
        index, turn = index if isinstance(index, tuple) else (index, int(self._epoch))
        image, semantic, instance = self.read(index)
        if self.transform is not None:
            draw = np.random.SeedSequence((self.seed, turn, int(index))).generate_state(1)[0]
            image, semantic, instance = self.transform(image, semantic, instance, int(draw))
        return {
            "image": image_to_tensor(image),
            "semantic_mask": torch.from_numpy(semantic.astype(np.int64)),
            "instance_mask": torch.from_numpy(instance.astype(np.int64)),
            "image_path": str(self.image_paths[index]),
        }

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The files of one sample as arrays, checked, not transformed: (image, semantic mask, instance mask)."""
        files = self.image_paths[index], self.semantic_paths[index], self.instance_paths[index]
        return read_sample(*files, self.classes)


def build_loader(dataset: LaneInstanceDataset, config: LaneSegmentationConfig, shuffle: bool) -> DataLoader:
    """Batches of a data set, in an order that depends on (config.seed, epoch) only; of several processes, their parts.

    Args:
        dataset: its transform must give every sample the same size.
        config: batch_size, num_workers, seed, repeat_threshold, steps_per_epoch with accumulation_steps.
        shuffle: for training.

    Raises:
        ValueError: ``batch_size`` is no multiple of the number of processes.
    """
    check_main_guard(config.num_workers)
    draws = config.steps_per_epoch * config.batch_size * config.accumulation_steps or None if shuffle else None
    repeats = repeat_factors(dataset, config.repeat_threshold) if shuffle and config.repeat_threshold > 0 else None
    sampler = EpochSampler(len(dataset), config.seed, shuffle, repeats, draws)
    return DataLoader(
        dataset,
        batch_size=config.batch_size // world_size(),
        sampler=sampler if world_size() == 1 else OwnSampler(sampler, config.batch_size),
        num_workers=config.num_workers,
        pin_memory=torch.cuda.is_available(),  # a copy to the GPU waits otherwise, non_blocking or not
        persistent_workers=config.num_workers > 0,
        # A forked copy of a process whose OpenCV or OpenMP threads are running may hang; a fresh process does not.
        multiprocessing_context="spawn" if config.num_workers > 0 else None,
        worker_init_fn=start_worker,
    )


def image_to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)
