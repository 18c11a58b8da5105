"""Checks of whole data sets."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from roadtopo_lib.console import progress_bar
from roadtopo_lib.data.samples import BINARY, has_binary_ids
from roadtopo_lib.labels import CLASSES, NO_INSTANCE, ClassTable

MAX_READERS = 4
"""Threads, at most, that read all files before training. They decode side by side, but share one Python interpreter."""


def check_every_file(dataset) -> None:
    """Reads all files of a data set, so that a damaged one is found now and not hours later.

    Raises:
        FileNotFoundError, ValueError: see ``data.samples.read_sample``; all its masks together hold nothing but 0 and
            255 although the class table has lanes.
    """

    def check(index: int) -> np.ndarray:
        semantic = dataset.read(index)[1]  # no more is returned: finished results would pile up in memory
        return np.bincount(semantic.ravel(), minlength=256)

    pixels = np.zeros(256, np.int64)
    with ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1)) as pool:
        indices = range(len(dataset))
        checked = pool.map(check, indices)
        for found in progress_bar(checked, f"checking {dataset.split}", total=len(indices), leave=False, disable=None):
            pixels += found
    refuse_binary(pixels, dataset)


def refuse_binary(pixels: np.ndarray, dataset) -> None:
    """Raises ValueError if a split that should have lanes holds 0 and 255 only: (256,) ``pixels`` by class id."""
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
    bearing = np.isin(semantic, classes.lane_ids + classes.crosswalk_ids)
    size = int(instance.max(initial=0)) + 1
    total, inside = (np.bincount(ids, minlength=size) for ids in (instance.ravel(), instance[bearing]))
    return [int(i) for i in np.flatnonzero(2 * inside < total) if i != NO_INSTANCE]
