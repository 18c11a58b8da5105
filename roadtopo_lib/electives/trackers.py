"""Recorders for TensorBoard and Weights & Biases: curves, pictures, settings, the version of the data.

Neither package comes with the library: ``pip install tensorboard wandb``, or the extra ``tracking``. Both write to a
local folder; neither needs a network or an account.
"""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.files import list_files
from roadtopo_lib.labels import CLASSES, ClassTable
from roadtopo_lib.training.recorders import Recorder
from roadtopo_lib.viz import overlay_labels


def data_version(root: str | Path) -> str:
    """Twelve hex digits that change with the name or with any byte of an image or mask of a data set."""
    digest = hashlib.sha256()
    for path in list_files(root, ".png", ".jpg", ".jpeg", deep=True):
        digest.update(path.relative_to(root).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


class Tracker(Recorder):
    """What TensorBoard and Weights & Biases have in common; a subclass says how numbers and pictures are written.

    Every step gives its loss, gradient norm and learning rate, every epoch its row of the history, and pictures of what
    the model says about some images. The end gives the version of the model file.

    Args:
        images: (B, 3, H, W) float in [0, 1], the images to be shown; ``None`` for no pictures.
        data: the data set's folder, whose version is written; ``None`` for none.
        checkpoint: the model file that the run writes; its name is recorded, and at the end twelve hex digits that
            change with any byte of it. ``None`` for none.
        table: names and colours of the classes.
    """

    def __init__(
        self, images: Tensor | None = None, data: str | Path | None = None, checkpoint: str | Path | None = None,
        table: ClassTable = CLASSES,
    ) -> None:  # fmt: skip
        self.images, self.checkpoint, self.table = images, checkpoint, table
        self.facts = {} if data is None else {"data": str(data), "data_version": data_version(data)}
        if checkpoint is not None:
            self.facts["checkpoint"] = str(checkpoint)

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Writes numbers, by name, of a step."""
        raise NotImplementedError

    def write_pictures(self, pictures: Sequence[np.ndarray], step: int) -> None:
        """Writes pictures (H, W, 3) uint8 of a step."""
        raise NotImplementedError

    def write_facts(self, facts: dict[str, str]) -> None:
        """Writes what is known at the end only."""
        raise NotImplementedError

    def on_step(self, trainer, values: dict[str, float]) -> None:
        """Loss, gradient norm and learning rate of the last group."""
        rate = trainer.optimizer.param_groups[-1]["lr"]
        self.write_numbers({f"step/{name}": v for name, v in (values | {"lr": rate}).items()}, trainer.state.step)

    def on_epoch(self, trainer, row: dict[str, float]) -> None:
        """The epoch's row, and the model's classes over the images."""
        self.write_numbers({f"epoch/{name}": value for name, value in row.items()}, trainer.state.step)
        if self.images is None:
            return
        was_training = trainer.model.training
        trainer.model.eval()
        with torch.inference_mode():
            device = next(trainer.model.parameters()).device
            classes = trainer.model(self.images.to(device))["logits"].argmax(dim=1).byte().cpu().numpy()
        trainer.model.train(was_training)
        photographs = (255 * self.images).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        pairs = zip(photographs, classes, strict=True)
        self.write_pictures(
            [overlay_labels(image, mask, table=self.table) for image, mask in pairs], trainer.state.step
        )

    def on_end(self, trainer) -> None:
        """The version of the model file, if there is one."""
        if self.checkpoint is not None and Path(self.checkpoint).is_file():
            digest = hashlib.sha256(Path(self.checkpoint).read_bytes()).hexdigest()
            self.write_facts({"checkpoint_version": digest[:12]})


class TensorBoardRecorder(Tracker):
    """Writes event files that ``tensorboard --logdir FOLDER`` shows.

    Args:
        folder: where they go.
        settings: of the run, as ``config.to_dict()`` gives them.
        options: of ``Tracker``.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, folder: str | Path, settings: dict | None = None, **options: object) -> None:
        _package("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(**options)
        self.writer = SummaryWriter(str(folder))
        self.write_facts((settings or {}) | self.facts, "settings")

    def write_facts(self, facts: dict, title: str = "end") -> None:
        """Writes a text with a line for each."""
        self.writer.add_text(title, "\n".join(f"    {name}: {value}" for name, value in facts.items()))

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Writes numbers, by name, of a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def write_pictures(self, pictures: Sequence[np.ndarray], step: int) -> None:
        """Writes pictures (H, W, 3) uint8 of a step."""
        for number, picture in enumerate(pictures):
            self.writer.add_image(f"image {number}", picture, step, dataformats="HWC")

    def on_end(self, trainer) -> None:
        """Writes the model file's version, and what is still in memory."""
        super().on_end(trainer)
        self.writer.flush()


class WandbRecorder(Tracker):
    """Writes a run of Weights & Biases, offline unless asked otherwise; ``wandb sync`` uploads such a run later.

    Args:
        folder: where its files go.
        settings: of the run, as ``config.to_dict()`` gives them.
        project: the name under which runs are gathered.
        mode: ``"offline"``, or ``"online"`` with an account.
        options: of ``Tracker``.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(
        self, folder: str | Path, settings: dict | None = None, project: str = "road-topology", mode: str = "offline",
        **options: object,
    ) -> None:  # fmt: skip
        self.wandb = _package("wandb")
        super().__init__(**options)
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.run = self.wandb.init(
            project=project, mode=mode, dir=str(folder), config=(settings or {}) | self.facts,
            settings=self.wandb.Settings(silent=True),
        )  # fmt: skip

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Writes numbers, by name, of a step."""
        self.run.log(values, step=step)

    def write_pictures(self, pictures: Sequence[np.ndarray], step: int) -> None:
        """Writes pictures (H, W, 3) uint8 of a step."""
        self.run.log({"images": [self.wandb.Image(picture) for picture in pictures]}, step=step)

    def write_facts(self, facts: dict[str, str]) -> None:
        """Adds them to the run's settings."""
        self.run.config.update(facts)

    def on_end(self, trainer) -> None:
        """Writes the model file's version and ends the run."""
        super().on_end(trainer)
        self.run.finish()


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(f"{name} is not installed: pip install {name}") from None
