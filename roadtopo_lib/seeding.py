"""Random draws of the training process: each follows from the run's seed, the epoch and the batch.

Dropout and drop-path draw from torch's global generator. It is seeded before every step, so that a run that goes on in
the middle of an epoch draws what it would have drawn, and no random state needs to be saved.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_generators(device: torch.device, *numbers: int) -> Iterator[None]:
    """Inside, the generators of Python, NumPy and torch are seeded anew; afterwards the caller's states are back."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002  whoever uses the old one shall repeat, too
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed_generators(*numbers)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002


def seed_generators(*numbers: int) -> None:
    """Seeds Python, NumPy and torch (on all devices) with one number that follows from ``numbers``, each >= 0."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
