"""Everything that a training run needs to go on where it stopped, to and from one file.

Random states are not part of it: each draw follows from the seed, the epoch and the sample's index. Neither is the
learning-rate schedule, which is a function of the optimiser step.
"""

import io
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.files import write_atomic

FREE_SETTINGS = ("num_workers", "patience")
"""Settings that may differ when a run goes on: they change no step."""


@dataclass
class RunState:
    """A run between two epochs; as made by its defaults, a run that has not begun.

    Attributes:
        epoch: finished epochs.
        step: optimiser steps taken.
        best_val_loss: lowest validation loss so far.
        stale_epochs: epochs since then.
        history: one dict an epoch.
        best_model: ``state_dict`` of the best epoch, ``None`` before the first.
        config: the settings of the run, as plain values.
        model, optimizer, scaler: their ``state_dict`` after the last epoch, as the trainer's ``snapshot`` fills them
            in; ``None`` in the trainer's own state.
    """

    epoch: int = 0
    step: int = 0
    best_val_loss: float = math.inf
    stale_epochs: int = 0
    history: list[dict] = field(default_factory=list)
    best_model: dict | None = None
    config: dict | None = None
    model: dict | None = None
    optimizer: dict | None = None
    scaler: dict | None = None

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

    def save(self, path: str | Path) -> None:
        """Writes the state; the file appears whole or not at all."""
        content = io.BytesIO()
        torch.save({f.name: getattr(self, f.name) for f in fields(self)}, content)
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "RunState":
        """Reads a state, onto the CPU. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, or not the state of a run; names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected the state of a run")
        try:
            with path.open("rb") as file:  # given a name, torch would guess a format by its ending
                values = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises errors of many kinds for a damaged or foreign file
            raise ValueError(f"{path}: cannot be read as the state of a run ({type(error).__name__})") from None
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError(f"{path}: expected the state of a run with {', '.join(sorted(names))}")
        return cls(**values)
