"""The folder of a run: settings, history, models, and the states from which a run that was interrupted goes on.

A run may be killed at any moment. The newest state belongs to the run at hand from its first write on, and is written
last: what lies beside it is as old as the state or newer, and is written again when the run goes on.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from roadtopo_lib.console import say
from roadtopo_lib.training.recorders import BestModel, ConfigFile, HistoryFile, LastModel, Recorder
from roadtopo_lib.training.run_state import RunState

RUN_FILES = ("config.yaml", "history.csv", "best.safetensors", "last.safetensors")
"""What a finished run leaves in its folder, beside its last state."""

EXTRA_FILES = ("best_*.safetensors", "epoch_*.safetensors")  # of ``BestModel`` by other scores and ``LatestModels``
STATES = ("state.safetensors", "state_before.safetensors")
"""The newest state of a run and the one before."""


class RunFolder(Recorder):
    """Writes everything that a run leaves behind, and finds the state to go on from.

    A state is written after each epoch, every so many minutes or steps, and when a signal ends ``fit``. An earlier run
    in the folder is removed when this one writes for the first time; a signal before that leaves it as it is.

    Args:
        folder: the run; made with the first file.
        every_steps: write a state after that many optimiser steps, too; >= 1.
        every_minutes: write a state after that many minutes.
        keep: ``BestModel`` and ``LatestModels`` that write further files into the folder, see ``EXTRA_FILES``.
    """

    def __init__(
        self, folder: str | Path, every_steps: int | None = None, every_minutes: float = 10.0, keep: Sequence = ()
    ) -> None:
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}, expected at least 1")
        self.folder = Path(folder)
        self.every_steps, self.every_minutes = every_steps, every_minutes
        config, history, best, last = (self.folder / name for name in RUN_FILES)
        self._files = (HistoryFile(history), BestModel(best), LastModel(last), *keep, ConfigFile(config))
        self.scores = tuple(name for file in keep for name in file.scores)
        self._states = [self.folder / name for name in STATES]
        self._saved: tuple[int, int, int] | None = None  # epoch, batch and step of this run's newest state
        self._time = time.monotonic()

    def earlier(self) -> list[Path]:
        """What a run has left in the folder."""
        return [path for name in (*RUN_FILES, *STATES, *EXTRA_FILES) for path in sorted(self.folder.glob(name))]

    def newest(self) -> RunState:
        """The newest state that is whole; one that has not begun where no run lies. A damaged one is told and removed.

        Raises:
            ValueError: a run lies there, but no whole state.
        """
        damaged = []
        for path in filter(Path.exists, self._states):
            try:
                state = RunState.load(path)
            except ValueError as error:
                damaged.append(error)
                continue
            if damaged:
                say(f"{damaged[0]}; going on from {path}", error=True)
                self._states[0].unlink()
            if state.model is None:  # killed while it removed an earlier run
                self._remove_all_but(path)
            self._saved = (state.epoch, state.batch, state.step)
            return state
        if self.earlier():
            reason = damaged[0] if damaged else f"{self.folder}: holds a run without {STATES[0]}"
            raise ValueError(f"{reason}; nothing to go on from")
        return RunState()

    def between_steps(self, trainer, stopping: bool) -> None:
        """Writes a state if it is due."""
        late = time.monotonic() - self._time > 60 * self.every_minutes
        enough = self.every_steps and trainer.state.step - (self._saved or (0, 0, 0))[2] >= self.every_steps
        if late or enough or (stopping and (self._saved or not self.earlier())):
            self._begin(trainer)
            self._write_state(trainer)

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Writes history, models and settings, and after them the state."""
        self._begin(trainer)
        for file in self._files:
            file.on_epoch(trainer, row)
        self._write_state(trainer)

    def on_end(self, trainer) -> None:
        """Of a run that is over, removes the state before the newest."""
        if trainer.finished and self._saved:
            self._states[1].unlink(missing_ok=True)

    def kept(self) -> str:
        """What the folder holds of this run, in words."""
        if self._saved is None:
            return "nothing of this run was saved"
        return "{} holds {} epochs and {} batches of the next (step {})".format(self._states[0], *self._saved)

    def _begin(self, trainer) -> None:
        """Makes the folder this run's: a state that has not begun becomes the newest, then all else is removed."""
        if self._saved is None:
            RunState(config=trainer.config.to_dict()).save(self._states[0])
            self._saved = (0, 0, 0)
            self._remove_all_but(self._states[0])

    def _write_state(self, trainer) -> None:
        now = (trainer.state.epoch, trainer.state.batch, trainer.state.step)
        if now != self._saved:
            if self._states[0].exists():
                self._states[0].replace(self._states[1])
            RunState.of(trainer).save(self._states[0])
            self._saved = now
        self._time = time.monotonic()

    def _remove_all_but(self, kept: Path) -> None:
        for path in self.earlier():
            if path != kept:
                path.unlink()
