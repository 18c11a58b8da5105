"""Notebook 5: data sets and trainers that begin alike; counts what graphs keep alive, acts like a GPU, stops a save."""

import copy
import itertools
import signal
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import samples
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.recorders import Recorder


def dataset(config: LaneSegmentationConfig, split: str, train: bool = False) -> LaneInstanceDataset:
    """A split of the sample data, or the ``"frame"``, as ``config`` sizes it; ``train`` draws crops and flips."""
    return LaneInstanceDataset(samples(), split, build_transform(config, train=train))


class _Box:
    """A saved tensor. The tensor outlives its graph if anybody else holds it; its box does not."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what graphs keep alive, beyond the weights of ``model``; ``curve`` follows it through a step."""

    def __init__(self, model: nn.Module, follow: bool = False) -> None:
        self.weights = {p.untyped_storage()._cdata for p in model.parameters()}
        self.boxes, self.curve, self.follow = [], [], follow
        super().__init__(self._pack, self._unpack)

    def __enter__(self) -> "SavedBytes":
        super().__enter__()
        return self

    def megabytes(self) -> float:
        """What lives now; two views of one block of memory count once."""
        alive = [box().tensor.untyped_storage() for box in self.boxes if box() is not None]
        return sum({s._cdata: s.nbytes() for s in alive if s._cdata not in self.weights}.values()) / 1e6

    def _pack(self, tensor: Tensor) -> _Box:
        box = _Box(tensor.detach())  # the same bytes, without a way back into the graph
        self.boxes.append(weakref.ref(box))
        self._note()
        return box

    def _unpack(self, box: _Box) -> Tensor:
        self._note()
        return box.tensor

    def _note(self) -> None:
        if self.follow:
            self.curve.append(self.megabytes())


def megabytes(tensors: Iterable[Tensor]) -> float:
    """Size of tensors in millions of bytes."""
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


@contextmanager
def pretend_gpu(major: int, minor: int) -> Iterator[None]:
    """Inside, ``torch.cuda`` answers like a GPU of this compute capability on which bfloat16 tensors can be made."""
    answers = {
        "is_available": lambda: True,
        "current_device": lambda: "cpu",  # where torch tries to make a bfloat16 tensor, and can
        "get_device_properties": lambda device=None: SimpleNamespace(major=major, minor=minor),
    }
    with mock.patch.multiple("torch.cuda", **answers):
        yield


class PowerCut(BaseException):
    """Ends what runs, as if the machine were switched off."""


@contextmanager
def power_cut(at_step: int) -> Iterator[None]:
    """Stops the ``at_step``-th write inside half way, or a rename before it; the block ends, and no error leaves it."""
    write, rename, steps = Path.write_bytes, Path.replace, itertools.count(1)

    def write_or_stop(path: Path, content: bytes) -> int:
        if next(steps) == at_step:
            write(path, content[: len(content) // 2])
            raise PowerCut
        return write(path, content)

    def rename_or_stop(path: Path, target: Path) -> Path:
        if next(steps) == at_step:
            raise PowerCut
        return rename(path, target)

    with mock.patch.multiple(Path, write_bytes=write_or_stop, replace=rename_or_stop), suppress(PowerCut):
        yield


def sgd_step(
    start: SegFormerModel, config: LaneSegmentationConfig, scenes: Sequence[dict], batch_size: int, batch_norm: bool
) -> Tensor:
    """All weights after one step of SGD, rate 0.1, on ``scenes`` in batches that share the step."""
    model = copy.deepcopy(start)
    for head in (model.semantic_head, model.embedding_head):
        head.batch_norm = head.batch_norm if batch_norm else nn.Identity()
    loader = DataLoader(scenes, batch_size=batch_size)
    settings = config.replace(accumulation_steps=len(loader))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = LaneSegmentationTrainer(model, settings, optimizer=sgd, device="cpu", progress=False)
    trainer.train_epoch(loader)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class StepLosses(Recorder):
    """Collects (step, loss) of every optimiser step in ``steps``."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []

    def on_step(self, trainer: LaneSegmentationTrainer, values: dict[str, float]) -> None:
        """Adds a step."""
        self.steps.append((trainer.state.step, values["loss"]))


class StopButton(Recorder):
    """Presses the notebook's stop button after a step; ``None`` leaves that to the learner."""

    def __init__(self, at_step: int | None) -> None:
        self.at_step = at_step

    def on_step(self, trainer: LaneSegmentationTrainer, values: dict[str, float]) -> None:
        """Sends the signal that the button sends."""
        if trainer.state.step == self.at_step:
            signal.raise_signal(signal.SIGINT)


class Killed(StopButton):
    """Ends the run after a step, as if the machine were switched off."""

    def on_step(self, trainer: LaneSegmentationTrainer, values: dict[str, float]) -> None:
        """Raises ``PowerCut``."""
        if trainer.state.step == self.at_step:
            raise PowerCut


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    """Of two models' weights and running means, in absolute value."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max((x.double() - y.double()).abs().max().item() for x, y in pairs)


def new_trainer(
    config: LaneSegmentationConfig, device: str | torch.device = "cpu", recorders: Iterable[Recorder] = ()
) -> LaneSegmentationTrainer:
    """A trainer with a tiny model of the random weights that seed 0 gives."""
    torch.manual_seed(0)
    model = SegFormerModel("tiny", pretrained=False)
    return LaneSegmentationTrainer(model, config, device=device, recorders=recorders, progress=False)


def loaders(config: LaneSegmentationConfig) -> tuple[DataLoader, DataLoader]:
    """Batches of the sample data's training and validation sets."""
    train_set, val_set = dataset(config, "train", train=True), dataset(config, "val")
    return build_loader(train_set, config, shuffle=True), build_loader(val_set, config, shuffle=False)


class ScriptedTrainer(LaneSegmentationTrainer):
    """Takes its validation losses from a list, and writes the epoch's number into the model's first weights."""

    def train_epoch(self, loader: object) -> float:
        """Counts an epoch."""
        self.state.epoch += 1
        self.train_metrics = {"loss": 0.0}
        next(self.model.parameters()).data.fill_(self.state.epoch)
        return 0.0

    def validate(self, losses: Sequence[float]) -> float:
        """Takes this epoch's loss."""
        self.val_metrics = {"loss": losses[self.state.epoch - 1], "miou": 0.0}
        return self.val_metrics["loss"]
