"""Everything that a training run needs to go on where it stopped, to and from one file.

Random states are not part of it: each draw follows from the seed, the epoch and the sample's index or the batch.
Neither is the learning-rate schedule, which is a function of the optimiser step.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.files import load_nested, save_nested

FREE_SETTINGS = ("num_workers", "patience")
"""Settings that may differ when a run goes on: they change no step."""

PARTS = ("model", "optimizer", "scaler", "meter")
"""What a trainer holds beside its state, each with ``state_dict`` and ``load_state_dict``."""

KIND = "state of a run"
"""Of its file, where a model's file names its kind of model."""


@dataclass
class RunState:
    """A run between two optimiser steps; as made by its defaults, a run that has not begun.

    Attributes:
        epoch: finished epochs.
        step: optimiser steps taken.
        batch: batches seen of the epoch that is not finished; all of them, if only its validation is missing.
        batches: batches of an epoch, 0 before the first.
        best_val_loss: lowest validation loss so far.
        stale_epochs: epochs since then.
        history: one dict an epoch.
        best_model: ``state_dict`` of the best epoch, ``None`` before the first.
        config: the settings of the run, as plain values.
        model, optimizer, scaler, meter: their ``state_dict``; ``None`` in the trainer's own state, but for the last
            weights of a finished run. The meter holds what was measured in the epoch that is not finished.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    batches: int = 0
    best_val_loss: float = math.inf
    stale_epochs: int = 0
    history: list[dict] = field(default_factory=list)
    best_model: dict | None = None
    config: dict | None = None
    model: dict | None = None
    optimizer: dict | None = None
    scaler: dict | None = None
    meter: dict | None = None

    @classmethod
    def of(cls, trainer) -> "RunState":
        """Where a trainer is; the tensors are its own, and change with its next step."""
        parts = {name: getattr(trainer, name).state_dict() for name in PARTS}
        if trainer.state.model is not None:  # a finished run: the model holds the best weights, the run its last
            parts["model"] = trainer.state.model
        return replace(trainer.state, config=trainer.config.to_dict(), **parts)

    def restore(self, trainer) -> "RunState":
        """Gives a trainer's model, optimiser, scaler and meter what they had; returns the rest, the trainer's state.

        Raises:
            ValueError: see ``check_settings``; the trainer is as it was.
            RuntimeError: a part does not fit the trainer's.
        """
        self.check_settings(trainer.config)
        for name in PARTS:
            if getattr(self, name):  # else a run that has not begun, or a scaler that is not enabled
                own = copy.deepcopy(getattr(self, name))  # torch would go on in the caller's tensors
                getattr(trainer, name).load_state_dict(own)
        for p, state in trainer.optimizer.state.items():  # a fused step pairs numbers by their place in memory
            for name, value in state.items():
                expected = () if name == "step" else tuple(p.shape)
                if tuple(getattr(value, "shape", "?")) != expected:  # a fused step would read beyond its end
                    raise RuntimeError(f"the optimiser's {name} is not of shape {expected}")
                if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                    state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)
        return replace(self, history=[*self.history], **dict.fromkeys(PARTS))

    def check_settings(self, config: LaneSegmentationConfig) -> None:
        """Refuses to go on with other settings than the run began with, except for those in ``FREE_SETTINGS``.

        Raises:
            ValueError: names each setting that differs, with both values.
        """
        now = config.to_dict()
        if self.config is not None:
            changed = [name for name in now if name not in FREE_SETTINGS and now[name] != self.config.get(name)]
            if changed:
                told = "; ".join(f"{name} was {self.config.get(name)!r}, is {now[name]!r}" for name in changed)
                raise ValueError(f"a run goes on with the settings it began with: {told}")

    def check_batches(self, batches: int) -> None:
        """Notes how many batches an epoch has; ValueError if the run began with another number."""
        if self.batches not in (0, batches):
            raise ValueError(f"a run goes on with the data it began with: {self.batches} batches, now {batches}")
        self.batches = batches

    @contextmanager
    def counts_if_judged(self) -> Iterator[None]:
        """Around an epoch's validation: if it is interrupted, the epoch stays unfinished, with all its batches seen."""
        try:
            yield
        except BaseException:
            self.epoch, self.batch = self.epoch - 1, self.batches
            raise

    def save(self, path: str | Path) -> None:
        """Writes the state; the file appears whole or not at all. Equal states make equal files.

        Raises:
            OSError: as for ``files.write_atomic``.
        """
        save_nested(path, KIND, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> "RunState":
        """Reads a state, onto the CPU. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, or not the state of a run; names the file.
        """
        values = load_nested(path, KIND)
        if values.keys() != {f.name for f in fields(cls)}:
            raise ValueError(f"{path}: expected the state of a run, found {', '.join(map(str, values))}")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValueError as error:
            raise ValueError(f"{path}: expected the state of a run: {' '.join(str(error).split())[:200]}") from None
