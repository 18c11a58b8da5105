"""How often each class occurs in a data set."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.files import write_atomic
from roadtopo_lib.labels import IGNORE_INDEX


class ClassCounts(NamedTuple):
    """How often each class was seen.

    Attributes:
        pixels: (C,) int64, pixels of the class.
        image_pixels: (C,) int64, all labelled pixels of the images in which the class appears.
    """

    pixels: Tensor
    image_pixels: Tensor


def count_class_pixels(
    dataset: Iterable, num_classes: int, max_samples: int | None = None, cache: str | Path | None = None
) -> ClassCounts:
    """Counts the pixels of each class; unlabelled pixels (255) count nowhere.

    Args:
        dataset: samples that are dicts with ``semantic_mask`` (H, W), integers.
        num_classes: C.
        max_samples: count only so many samples, evenly spaced over the data set; ``None`` counts all.
        cache: JSON file to keep the counts in. They are counted afresh when these arguments or the data change, to be
            seen from name, size and modification time of the files if the data set lists them in ``semantic_paths``
            (plus the first mask's content, which another transform changes), else from the content of all masks.

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
        write_atomic(cache, json.dumps(entry))
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
