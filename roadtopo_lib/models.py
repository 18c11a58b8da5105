"""The contract of a lane model, and the table of its kinds: builds or loads any model by the kind its file names."""

import importlib
from pathlib import Path
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.files import WeightsFile, load_weights, save_weights
from roadtopo_lib.hub import weights_of, write_folder

KINDS: dict[str, tuple[str, str]] = {
    "segformer": ("roadtopo_lib.segformer", "SegFormerModel"),
    "unet": ("roadtopo_lib.electives.unet", "UNet"),
    "resunet": ("roadtopo_lib.electives.unet", "ResUNet"),
}
"""Kind of model → module and class (a ``StoredModel``), imported when a file or a config asks for it."""


class LaneModel(Protocol):
    """What trainer and segmenter rely on.

    An implementation is an ``nn.Module`` that normalises its images itself. One that files shall name by its kind
    builds on ``StoredModel``.

    Attributes:
        num_classes: semantic classes C.
        embedding_dim: embedding dimensions D.
    """

    num_classes: int
    embedding_dim: int

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        """Logits and embeddings.

        Args:
            images: (B, 3, H, W) float in [0, 1], RGB.
            upsample: ``True`` gives outputs at (H, W), ``False`` at the heads' own (h, w), at most (H, W).

        Returns:
            ``logits`` (B, C, H, W) and ``embeddings`` (B, D, H, W), or both at (h, w).
        """

    def parameter_groups(self, encoder_lr_scale: float) -> list[dict]:
        """Every trainable parameter once: ``[{"name", "params", "lr_scale", "matrices"}]``.

        ``lr_scale`` is the group's share of the base rate; ``matrices`` marks weights of hidden layers that
        ``training.optimizer.Muon`` may move.
        """

    def save(self, path: str | Path, **info: object) -> None:
        """Writes one file, see ``StoredModel.save``."""

    @classmethod
    def load(cls, path: str | Path) -> "LaneModel":
        """Rebuilds a saved model, see ``StoredModel.load``."""

    @classmethod
    def from_config(cls, config: LaneSegmentationConfig) -> "LaneModel":
        """A new model as the config describes it."""


class StoredModel(nn.Module):
    """A base class that gives a model ``save`` and ``load``; the model says its ``kind`` and ``settings``."""

    kind: ClassVar[str]

    def settings(self) -> dict:
        """Arguments that rebuild the architecture, as plain values; written into every saved file."""
        raise NotImplementedError

    @classmethod
    def from_settings(cls, settings: dict) -> "StoredModel":
        """A model with random weights from what ``settings`` gave."""
        return cls(**settings)

    def save(self, path: str | Path, **info: object) -> None:
        """Writes weights, architecture and any JSON-serialisable ``info`` into one ``.safetensors`` file."""
        save_weights(path, self.kind, self.state_dict(), self.settings(), **info)

    @classmethod
    def load(cls, path: str | Path) -> "StoredModel":
        """Rebuilds a saved model, in evaluation mode, on the CPU. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: truncated, of another kind, or a pickle; names the file.
        """
        return cls.from_file(load_weights(path), path)

    def save_pretrained(self, folder: str | Path, /, **info: object) -> None:
        """Writes a folder: weights as ``save`` writes them, ``config.json`` and a model card of ``info``."""
        self.save(Path(folder) / "model.safetensors", **info)
        write_folder(folder, self.kind, self.settings(), info)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "StoredModel":
        """Rebuilds a model from what ``save_pretrained`` wrote; errors as for ``load``, also of a missing config."""
        return cls.load(weights_of(folder, cls.kind))

    @classmethod
    def from_file(cls, file: WeightsFile, path: str | Path) -> "StoredModel":
        """The same, from a file that is read already; ``path`` is what errors call it."""
        if file.kind != cls.kind:
            raise ValueError(f"{path}: expected a model of kind {cls.kind!r}, found {file.kind!r}")
        try:
            with torch.device("meta"):  # takes no memory, whatever sizes the settings ask for
                cls.from_settings(file.config).load_state_dict(file.tensors, assign=True)
            model = cls.from_settings(file.config)
            model.load_state_dict(file.tensors)
        except Exception as error:  # settings of any kind may come from a stranger
            found = " ".join(str(error).split())[:300]
            raise ValueError(f"{path}: weights do not fit the settings in the file: {found}") from None
        return model.eval()


def class_of(kind: str) -> type:
    """The class of a kind of model.

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"model is {kind!r}, expected one of {tuple(KINDS)}")
    module, name = KINDS[kind]
    return getattr(importlib.import_module(module), name)


def build(config: LaneSegmentationConfig) -> LaneModel:
    """A new model as the config describes it; ValueError where it names a model file."""
    if str(config.pretrained).endswith(".safetensors"):
        raise ValueError(f"{config.pretrained}: a model file; app.initial.initial_model(config) begins with it")
    return class_of(config.model).from_config(config)


def load(path: str | Path) -> LaneModel:
    """Rebuilds a saved model of any kind, in evaluation mode, on the CPU; errors as for ``StoredModel.load``."""
    return load_with_info(path)[0]


def load_with_info(path: str | Path) -> tuple[LaneModel, dict]:
    """A saved model and what was kept beside its weights; the file is read once."""
    file = load_weights(path)
    try:
        model_class = class_of(file.kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return model_class.from_file(file, path), file.info


def check_classes(model: LaneModel, config: LaneSegmentationConfig) -> None:
    """Refuses a model with another number of classes than its config says."""
    if model.num_classes != config.num_classes:
        raise ValueError(f"the model has num_classes {model.num_classes}, the config says {config.num_classes}")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; by default CUDA if there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def class_logits(logits: Tensor) -> Tensor:
    """(B, C, H, W) as it is; one channel (B, 1, H, W) gets a zero before it: its sigmoid is the softmax of the two."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def upsample_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to (H, W); pixel centres stay where they are (``align_corners=False``)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
