"""Checks of whole data sets before training."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import torch

from roadtopo_lib.console import progress_bar
from roadtopo_lib.data.samples import BINARY, has_binary_ids
from roadtopo_lib.distributed import rank, sum_over_processes, world_size
from roadtopo_lib.labels import CLASSES, IGNORE_INDEX, NO_INSTANCE, ClassTable

MAX_READERS = 4
"""Threads, at most, that read all files before training. They decode side by side, but share one Python interpreter."""


def check_every_file(dataset) -> bool:
    """Reads all files of a data set, so that a damaged one is found now and not hours later.

    Of several processes each reads its part, and all know what all have found.

    Returns:
        Whether an instance has an id.

    Raises:
        FileNotFoundError, ValueError: see ``data.samples.read_sample``; all its masks together hold nothing but 0 and
            255 although the class table has lanes; nothing is labelled; a training set without a lane or crosswalk,
            or with most instances elsewhere, see ``misplaced_instances``.
    """

    def check(index: int) -> np.ndarray:
        _, semantic, instance = dataset.read(index)
        ids = np.count_nonzero(np.bincount(instance.ravel())[1:])
        misplaced = len(misplaced_instances(semantic, instance, dataset.classes)) if ids else 0
        return np.append(np.bincount(semantic.ravel(), minlength=256), (ids, misplaced))

    own = range(rank(), len(dataset), world_size())
    counts = sum(in_threads(check, own, f"checking {dataset.split}"), start=np.zeros(258, np.int64))
    *pixels, ids, misplaced = sum_over_processes(torch.from_numpy(counts)).numpy()
    pixels = np.array(pixels)
    folder, lacking = dataset.semantic_paths[0].parent, lacking_labels(pixels, dataset.classes)
    if lacking == "nothing_labelled":
        raise ValueError(f"{folder}: every pixel is {IGNORE_INDEX}, unlabelled: there is nothing to learn or to score")
    refuse_binary(pixels, dataset)
    if lacking and dataset.split == "train":
        expected = f"some of classes {list(dataset.classes.instance_ids)}"
        raise ValueError(f"{folder}: no pixel of a lane or crosswalk, expected {expected}")
    if 2 * misplaced > ids and dataset.classes.instance_ids and dataset.split == "train":
        found = f"{misplaced} of {ids} instances lie mostly on pixels of no lane or crosswalk"
        raise ValueError(f"{dataset.instance_paths[0].parent}: {found}, expected both masks of one image")
    return bool(ids)


def lacking_labels(pixels: np.ndarray, classes: ClassTable) -> str:
    """What all masks of a split lack, given their (256,) ``pixels`` by class id; the name of a check of ``check-data``.

    Returns:
        ``"nothing_labelled"``, ``"no_lanes"`` if the table has such classes and no pixel is of one, else ``""``.
    """
    if not pixels[:IGNORE_INDEX].any():
        return "nothing_labelled"
    return "no_lanes" if classes.instance_ids and not pixels[list(classes.instance_ids)].any() else ""


def in_threads(function: Callable, items: Sequence, description: str) -> Iterator:
    """``function`` of each item, in order, under a progress bar; few results wait at a time."""
    workers = min(MAX_READERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        yield from in_order(pool, function, progress_bar(items, description, leave=False, disable=None), 2 * workers)


def in_order(pool: Executor, function: Callable, tasks: Iterable, most: int) -> Iterator:
    """``function(task)`` of each task, in order. Tasks are drawn lazily: ``most`` wait in the pool at most."""
    waiting: deque[Future] = deque()
    for task in tasks:
        if len(waiting) == most:
            yield waiting.popleft().result()
        waiting.append(pool.submit(function, task))
    while waiting:
        yield waiting.popleft().result()


def refuse_binary(pixels: np.ndarray, dataset) -> None:
    """Refuses a split that should have lanes and holds 0 and 255 only.

    Args:
        pixels: (256,) int64, pixels by class id.
        dataset: it says where the masks lie, and its class table.

    Raises:
        ValueError: names the folder.
    """
    if dataset.classes.lane_ids and has_binary_ids(pixels):
        folder = dataset.semantic_paths[0].parent
        raise ValueError(f"{folder}: every mask {BINARY}, expected {dataset.classes.lane_ids[0]} where a lane is")


def misplaced_instances(semantic: np.ndarray, instance: np.ndarray, classes: ClassTable = CLASSES) -> list[int]:
    """Ids of the instances that lie mostly on pixels of no lane or crosswalk class: the masks do not belong together.

    Args:
        semantic: (H, W) class ids.
        instance: (H, W) instance ids.
        classes: the class table.
    """
    bearing = np.isin(semantic, classes.instance_ids)
    size = int(instance.max(initial=0)) + 1
    total, inside = (np.bincount(ids, minlength=size) for ids in (instance.ravel(), instance[bearing]))
    return [int(i) for i in np.flatnonzero(2 * inside < total) if i != NO_INSTANCE]
