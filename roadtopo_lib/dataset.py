"""Images with their two masks, read from disk, checked, and transformed together.

Layout on disk (each sample is one NAME in three folders)::

    root/{train,val,test}/images/NAME.jpg|.jpeg|.png
    root/{train,val,test}/semantic_masks/NAME.png     class id per pixel, single channel, 255 = unlabelled
    root/{train,val,test}/instance_masks/NAME.png     0 = no instance, 1..N; 8 or 16 bit grey, or RGB (a colour an id)

Endings may be written in capitals.

Files are decoded by Pillow, which names a file's pixel format and refuses a truncated file. OpenCV's ``imread`` with
``IMREAD_GRAYSCALE`` does neither: it turns RGB ids into luminances and divides 16-bit ids by 256, without a word.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)
SPLITS = ("train", "val", "test")

GREY_16_BIT = ("I;16", "I;16B", "I")
"""Pillow's names for 16-bit grey; older versions open it as 32-bit "I"."""

Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""(image (H,W,3) uint8, semantic (H,W) uint8, instance (H,W) uint16, seed) → the same three, transformed alike."""


def read_image(path: str | Path) -> np.ndarray:
    """Reads a photograph as it is meant to be seen.

    Args:
        path: a JPEG or PNG file; grey, palette and alpha images become RGB, 16 bits become 8, EXIF rotation is applied.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or truncated.
    """
    picture = ImageOps.exif_transpose(_open(path))
    if picture.mode in GREY_16_BIT:
        # Pillow scales 16-bit colours to 8 bits, but of 16-bit grey it would make white wherever it exceeds 255.
        grey = np.rint(np.asarray(picture) / (65535 / 255)).clip(0, 255).astype(np.uint8)
        return np.stack([grey] * 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def read_semantic_mask(path: str | Path, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Reads a mask of class ids.

    Args:
        path: single-channel PNG of 8 bits, or of 2 or 4 as tools that shrink files make of it.
        num_classes: ids 0..num_classes-1 and 255 are valid.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another pixel format, or ids outside the range; names the file and what was found.
    """
    picture = _open(path)
    if picture.mode != "L":
        raise ValueError(f"{path}: semantic masks are single-channel 8-bit, found {_describe(picture)}")
    mask = _unscaled(picture, path)
    ids = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    wrong = [int(i) for i in ids if i >= num_classes and i != IGNORE_INDEX]
    if wrong:
        raise ValueError(f"{path}: semantic ids {wrong} found, expected 0..{num_classes - 1} or {IGNORE_INDEX}")
    return mask


def read_instance_mask(path: str | Path) -> np.ndarray:
    """Reads a mask of instance ids.

    Args:
        path: PNG, grey (2 to 16 bit: the value is the id) or RGB of 8 bits (black is 0; every other colour gets an id,
            1..N in the order of its (red, green, blue) value).

    Returns:
        (H, W) uint16.

    Raises:
        FileNotFoundError: no such file.
        ValueError: palette, alpha or float pixels, or RGB without any black pixel: then nothing says which colour is
            the background, and an instance would silently vanish.
    """
    picture = _open(path)
    if picture.mode in ("L", *GREY_16_BIT):
        mask = _unscaled(picture, path)
        if mask.min(initial=0) < 0 or mask.max(initial=0) > np.iinfo(np.uint16).max:
            raise ValueError(f"{path}: instance ids {mask.min()}..{mask.max()} found, expected 0..65535")
        return mask.astype(np.uint16)
    if picture.mode == "RGB":
        if _bit_depth(path) == 16:  # Pillow would cut colours to 8 bits: several would become one
            raise ValueError(f"{path}: instance masks are grey (8 or 16 bit) or RGB of 8 bits, found RGB of 16 bits")
        return rgb_to_instance_ids(np.asarray(picture), path)
    raise ValueError(f"{path}: instance masks are grey (8 or 16 bit) or RGB, found {_describe(picture)}")


def rgb_to_instance_ids(rgb: np.ndarray, name: str | Path = "mask") -> np.ndarray:
    """Gives every colour but black an id.

    Args:
        rgb: (H, W, 3) uint8.
        name: what to call the mask in an error.

    Returns:
        (H, W) uint16: 0 where black, 1..N elsewhere.

    Raises:
        ValueError: no pixel is black, or more than 65535 colours.
    """
    code = (rgb.astype(np.uint32) * np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
    colors, ids = np.unique(code, return_inverse=True)
    if colors[0] != 0:
        raise ValueError(f"{name}: RGB instance mask with {len(colors)} colours, none of them black (the background)")
    if len(colors) > np.iinfo(np.uint16).max:
        raise ValueError(f"{name}: RGB instance mask with {len(colors)} colours: it looks like a photograph, not ids")
    return ids.reshape(code.shape).astype(np.uint16)


class JointTransform:
    """Transforms an image and its two masks with the same random numbers.

    Args:
        compose: an Albumentations pipeline.
        crop_top: share of the height that is cut off above first, see ``rows_cut``.
    """

    def __init__(self, compose, crop_top: float = 0.0) -> None:
        self.compose = compose
        self.crop_top = crop_top

    def __call__(
        self, image: np.ndarray, semantic: np.ndarray, instance: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8, (H, W) uint8, (H, W) uint16 and the seed of every random draw → the same three."""
        self.compose.set_random_seed(seed)
        top = rows_cut(len(image), self.crop_top)
        image, semantic, instance = image[top:], semantic[top:], instance[top:]
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
    ratio, jitter = width / height, config.color_jitter
    steps = [
        A.RandomResizedCrop(
            size=(height, width),
            scale=(config.crop_scale, 1.0),
            ratio=(0.75 * ratio, 1.33 * ratio),
            interpolation=cv2.INTER_AREA,
            mask_interpolation=cv2.INTER_NEAREST,
        ),
        A.HorizontalFlip(p=config.flip_probability),
        A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10, p=0.8),
    ]
    return JointTransform(A.Compose(steps), config.crop_top)


def rows_cut(height: int, crop_top: float) -> int:
    """How many rows ``crop_top`` cuts off an image of this height."""
    return round(crop_top * height)


class LaneInstanceDataset(Dataset):
    """Samples of one split.

    Args:
        root: folder that holds the splits.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transform: from ``build_transform``, or ``None`` for the files as they are.
        seed: with the epoch and the sample's index it decides every random draw of the transform, so results do not
            depend on the number of workers.
        num_classes: valid semantic ids are 0..num_classes-1 and 255.

    Attributes:
        image_paths, semantic_paths, instance_paths: the files, sorted by name, in step.

    Raises:
        FileNotFoundError: missing root, split or folder; an image without a mask, or a mask without an image.
        ValueError: no image at all, or two images or masks of one name.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        seed: int = 0,
        num_classes: int = NUM_CLASSES,
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.transform = transform
        self.seed = seed
        self.num_classes = num_classes
        # In shared memory, so that worker processes that outlive an epoch see the new number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.image_paths, self.semantic_paths, self.instance_paths = _list_samples(self.root, split)

    def __len__(self) -> int:
        return len(self.image_paths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random draws of an epoch; the trainer calls it."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict:
        """One sample.

        Returns:
            ``image`` (3, H, W) float32 in [0, 1], ``semantic_mask`` (H, W) int64, ``instance_mask`` (H, W) int64,
            ``image_path`` str.

        Raises:
            ValueError: unreadable files, wrong ids, or masks of another size than the image.
        """
        image, semantic, instance = self.read(index)
        if self.transform is not None:
            draw = np.random.SeedSequence((self.seed, int(self._epoch), int(index))).generate_state(1)[0]
            image, semantic, instance = self.transform(image, semantic, instance, int(draw))
        return {
            "image": image_to_tensor(image),
            "semantic_mask": torch.from_numpy(semantic.astype(np.int64)),
            "instance_mask": torch.from_numpy(instance.astype(np.int64)),
            "image_path": str(self.image_paths[index]),
        }

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The files of one sample as arrays, checked, not transformed: (image, semantic mask, instance mask)."""
        image = read_image(self.image_paths[index])
        semantic = read_semantic_mask(self.semantic_paths[index], self.num_classes)
        instance = read_instance_mask(self.instance_paths[index])
        for mask, path in ((semantic, self.semantic_paths[index]), (instance, self.instance_paths[index])):
            if mask.shape != image.shape[:2]:
                raise ValueError(
                    f"{path}: mask is {mask.shape[0]}×{mask.shape[1]} (height × width), its image "
                    f"{self.image_paths[index].name} is {image.shape[0]}×{image.shape[1]}"
                )
        return image, semantic, instance


class EpochSampler(Sampler[int]):
    """Indices of one epoch, shuffled by (seed, epoch) alone, so that a resumed run sees the order it would have seen.

    Args:
        length: number of samples.
        seed: the run's seed.
        shuffle: ``False`` keeps the order of the files.
        repeats: (length,) from ``repeat_factors``, how often an epoch draws each sample relative to the others; only
            with ``shuffle``. An epoch stays as long as without.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True, repeats: np.ndarray | None = None) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.repeats = repeats
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if not self.shuffle:
            return iter(order.tolist())
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.repeats is not None:
            # A factor of 1.7 is one draw, and in seven epochs of ten a second one.
            order = np.repeat(order, (self.repeats + rng.random(self.length)).astype(int))
        rng.shuffle(order)
        return iter(order[: self.length].tolist())


def repeat_factors(dataset: LaneInstanceDataset, threshold: float) -> np.ndarray:
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


def build_loader(dataset: LaneInstanceDataset, config: LaneSegmentationConfig, shuffle: bool) -> DataLoader:
    """Batches of a data set, in an order that depends on (config.seed, epoch) only.

    Args:
        dataset: its transform must give every sample the same size.
        config: batch_size, num_workers, seed, repeat_threshold.
        shuffle: for training.
    """
    repeats = repeat_factors(dataset, config.repeat_threshold) if shuffle and config.repeat_threshold > 0 else None
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=EpochSampler(len(dataset), config.seed, shuffle, repeats),
        num_workers=config.num_workers,
        persistent_workers=config.num_workers > 0,
        # A forked copy of a process whose OpenCV or OpenMP threads are running may hang; a fresh process does not.
        multiprocessing_context="spawn" if config.num_workers > 0 else None,
    )


def image_to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)


def _list_samples(root: Path, split: str) -> tuple[list[Path], list[Path], list[Path]]:
    folder = root / split
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such data folder")
    if not folder.is_dir():
        found = sorted(child.name for child in root.iterdir() if child.is_dir())
        raise FileNotFoundError(f"{folder}: no such split; {root} holds {', '.join(found) or 'no folder'}")
    for name in ("images", "semantic_masks", "instance_masks"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder / name}: missing; a split needs images, semantic_masks, instance_masks")

    images = _files_by_stem(folder / "images", IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"{folder / 'images'}: no image found, expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    masks = {}
    for kind in ("semantic_masks", "instance_masks"):
        present = _files_by_stem(folder / kind, MASK_SUFFIXES)
        missing = sorted(images.keys() - present.keys())
        if missing:
            raise FileNotFoundError(
                f"{folder / kind / (missing[0] + '.png')}: missing; {len(missing)} of {len(images)} images lack it"
            )
        orphans = sorted(present.keys() - images.keys())
        if orphans:
            raise FileNotFoundError(f"{present[orphans[0]]}: this mask has no image; {len(orphans)} such masks in all")
        masks[kind] = [present[stem] for stem in images]
    return list(images.values()), masks["semantic_masks"], masks["instance_masks"]


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files with one of the endings, sorted, by their names without it."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if twice:
        kind = folder.name.replace("_", " ")
        raise ValueError(f"{folder}: several {kind} are named {twice[0]!r}; nothing says which one is meant")
    return {path.stem: path for path in files}


def _open(path: str | Path) -> Image.Image:
    """Opens and fully decodes an image file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        picture = Image.open(path)
        picture.load()
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that can be read, expected a JPEG or PNG") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large to be read safely ({error})") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: damaged or truncated image ({error}), expected a whole JPEG or PNG") from None
    return picture


def _bit_depth(path: str | Path) -> int:
    """Bits per channel of a PNG; 8 of any other file."""
    with open(path, "rb") as file:
        start = file.read(25)  # signature, length and name of the header chunk, width, height, bit depth
    return start[24] if start.startswith(b"\x89PNG") else 8


def _unscaled(picture: Image.Image, path: str | Path) -> np.ndarray:
    """The values of a grey picture as stored: those of 2 and 4 bits, Pillow spreads over 0..255."""
    bits = min(8, _bit_depth(path))
    return np.asarray(picture) // (255 // (2**bits - 1))


def _describe(picture: Image.Image) -> str:
    names = {
        "P": "a palette image",
        "RGBA": "RGBA (with alpha)",
        "RGB": "RGB",
        "F": "float pixels",
        "1": "1-bit pixels",
    }
    return names.get(picture.mode, f"pixel format {picture.mode}")
