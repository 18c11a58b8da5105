"""What a run leaves behind while it goes on: files, printed lines, or anything that a reader plots.

A recorder is told of every optimiser step and every epoch. Recorders decide which weights are written to files.
"""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.files import write_atomic


class Recorder:
    """Does nothing; override what you need. ``trainer`` is the ``LaneSegmentationTrainer`` that calls."""

    scores: tuple[str, ...] = ()  # what validation measures for this recorder, see ``meter.MaskScores``

    def on_step(self, trainer, values: dict[str, float]) -> None:
        """After an optimiser step; ``values``: ``loss``, the mean per image, and ``grad_norm`` before clipping."""

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """After an epoch and its validation; ``row`` is the newest of ``trainer.history``."""

    def between_steps(self, trainer, stopping: bool) -> None:
        """After a step is counted, where a run's state is whole; ``stopping``: ``fit`` ends here for a signal."""

    def on_end(self, trainer) -> None:
        """When ``fit`` returns, the best weights loaded if the run is over, or when it is interrupted."""


class FileRecorder(Recorder):
    """A recorder that writes one file, ``path``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)


class HistoryFile(FileRecorder):
    """The history as a CSV file, written anew after every epoch."""

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Writes all rows so far."""
        write_atomic(self.path, history_csv(trainer.history))


class ConfigFile(FileRecorder):
    """The run's settings as YAML, written after every epoch."""

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Writes the settings."""
        trainer.config.to_yaml(self.path)


class LastModel(FileRecorder):
    """The model after every epoch."""

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Writes the model with the epoch, its scores and the settings of the training."""
        save_model(trainer.model, self.path, trainer.config, row)


class BestModel(LastModel):
    """The model after every epoch with the best score so far.

    Args:
        path: the file.
        score: a column of the history, such as ``val_miou``, or ``val_mbou``, which costs time.
        highest: the highest value is the best, not the lowest.
    """

    def __init__(self, path: str | Path, score: str = "val_loss", highest: bool = False) -> None:
        super().__init__(path)
        self.score, self.scores = score, (score.removeprefix("val_"),)
        self.sign = -1 if highest else 1

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Writes the model if it is the best; an equal score is no better one, and NaN is the worst."""
        *earlier, latest = (self.sign * epoch.get(self.score, math.nan) for epoch in trainer.history)
        if not earlier or latest < min((score for score in earlier if score == score), default=math.inf):
            super().on_epoch(trainer, row)


class LatestModels(Recorder):
    """The models of the latest epochs, ``epoch_0001.safetensors`` and so on; older ones of this run are deleted.

    Args:
        folder: where they go.
        keep: how many stay, >= 1.
    """

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        self.folder = Path(folder)
        self.keep = keep

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Writes the newest and deletes the one that is too old."""
        save_model(trainer.model, self._file(row["epoch"]), trainer.config, row)
        self._file(row["epoch"] - self.keep).unlink(missing_ok=True)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:04d}.safetensors"


class PrintEpochs(Recorder):
    """One printed line an epoch."""

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """Prints losses, mIoU and seconds."""
        say(
            f"epoch {row['epoch']:3d}/{trainer.config.epochs}  train loss {row['train_loss']:.4f}  "
            f"val loss {row['val_loss']:.4f}  val mIoU {row['val_miou']:.3f}  {row['seconds']:.1f} s"
        )


def save_model(model, path: str | Path, config: LaneSegmentationConfig, row: dict[str, float]) -> None:
    """Writes a model file that tells with which settings it was trained, and how well it did."""
    scores = {"epoch": row["epoch"], "val_loss": row["val_loss"], "val_miou": row["val_miou"]}
    model.save(path, training=config.to_dict(), **scores)


def history_csv(history: Iterable[dict]) -> str:
    """A history as CSV text, one row an epoch, numbers at six significant digits."""
    rows = list(history)
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))  # a later row may have more than the first
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
    return text.getvalue()
