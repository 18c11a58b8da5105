"""Checks of whole data sets."""

import os
from concurrent.futures import ThreadPoolExecutor

from tqdm.auto import tqdm

MAX_READERS = 4
"""Threads, at most, that read all files before training. They decode side by side, but share one Python interpreter."""


def check_every_file(dataset) -> None:
    """Reads all files of a data set, so that a damaged one is found now and not hours later."""

    def check(index: int) -> None:
        dataset.read(index)  # what was read is not returned: finished results would pile up in memory

    with ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1)) as pool:
        indices = range(len(dataset))
        checked = pool.map(check, indices)
        for _ in tqdm(checked, f"checking {dataset.split}", total=len(indices), leave=False, disable=None):
            pass
