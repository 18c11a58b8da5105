"""Notebook 5: counts what graphs keep alive, acts like a GPU, interrupts a save, makes the runs that are compared."""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import samples
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.losses import LaneCriterion
from roadtopo_lib.models import upsample_to
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.optimizer import build_scheduler


def dataset(config: LaneSegmentationConfig, split: str, train: bool = False) -> LaneInstanceDataset:
    """A split of the sample data, or the ``"frame"``, as ``config`` sizes it; ``train`` draws crops and flips."""
    return LaneInstanceDataset(samples(), split, build_transform(config, train=train))


def path_of(
    optimizer_class: Callable, start: Tensor, gradients: Iterable[Tensor], matrices: bool = False, **settings: float
) -> Tensor:
    """Where an optimiser takes a tensor that gets these gradients, one a step.

    Args:
        optimizer_class: AdamW, Muon and the like.
        start: where it begins.
        gradients: as many as steps, each shaped as ``start``.
        matrices: ask ``Muon`` for its own rule; other optimisers ignore it.
        settings: of the optimiser.

    Returns:
        (steps + 1, *start.shape), the start first.
    """
    weight = nn.Parameter(start.clone())
    optimizer = optimizer_class([{"params": [weight], "matrices": matrices}], **settings)
    places = [start.clone()]
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        places.append(weight.detach().clone())
    return torch.stack(places)


def after_outlier(optimizer_class: Callable, max_norm: float, after: int = 20) -> tuple[float, float]:
    """A step of an 8 × 8 matrix, ``after`` steps after one gradient that is 1000 times as long and points elsewhere.

    Returns:
        Its length in lengths of a step before the outlier, and its cosine to that step.
    """
    usual, outlier = (m / m.norm() for m in torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)))
    gradients = [1000 * outlier if step == 50 else usual for step in range(51 + after)]
    clipped = [g * min(1.0, max_norm / float(g.norm())) for g in gradients]
    places = path_of(optimizer_class, torch.zeros(8, 8), clipped, matrices=True, lr=0.01, weight_decay=0.0)
    steps = -places.diff(dim=0).flatten(1)
    length = steps[-1].norm() / steps[49].norm()
    return float(length), float(torch.cosine_similarity(steps[-1], steps[49], dim=0))


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


def semantic_loss_of(model: nn.Module, batch: dict, criterion: LaneCriterion) -> Tensor:
    """The semantic loss alone, of logits at the masks' size."""
    logits = upsample_to(model(batch["image"], upsample=False)["logits"], batch["semantic_mask"].shape[1:])
    return criterion.semantic(logits, batch["semantic_mask"])


def memory_of_step(model: nn.Module, batch: dict, criterion: LaneCriterion, bfloat16: bool) -> tuple[np.ndarray, float]:
    """The megabytes that the graph keeps alive, call by call through forward and backward, and the loss."""
    with SavedBytes(model, follow=True) as saved, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = semantic_loss_of(model, batch, criterion)
    loss.backward()
    return np.array(saved.curve), loss.item()


def float_types(model: nn.Module, batch: dict, criterion: LaneCriterion) -> dict[str, torch.dtype]:
    """The float types met in a step under bfloat16 autocast."""
    found: dict[str, torch.dtype] = {}

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found["activation"] = output.dtype
        output.register_hook(lambda gradient: found.update({"gradient on the way": gradient.dtype}))

    handle = model.encoder.stages[0].patch_embeddings.proj.register_forward_hook(note)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = semantic_loss_of(model, batch, criterion)
    loss.backward()
    handle.remove()
    first = next(model.parameters())
    return found | {"loss": loss.dtype, "weight": first.dtype, "gradient in .grad": first.grad.dtype}


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


class _PowerCut(BaseException):
    """What ends a block of ``power_cut``."""


@contextmanager
def power_cut(at_write: int) -> Iterator[None]:
    """The ``at_write``-th file that is written inside stops half way; the block ends there, and no error leaves it."""
    write, writes = Path.write_bytes, 0

    def write_or_stop(path: Path, content: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == at_write:
            write(path, content[: len(content) // 2])
            raise _PowerCut
        return write(path, content)

    with mock.patch.object(Path, "write_bytes", write_or_stop), suppress(_PowerCut):
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


def blind_losses(config: LaneSegmentationConfig) -> dict[str, float]:
    """Cross-entropy on the validation set of two answers that never look at the image."""
    train_masks, val_masks = (_stacked(dataset(config, split), "semantic_mask") for split in ("train", "val"))
    one_hot = nn.functional.one_hot(train_masks, config.num_classes).float()  # (N, H, W, C)
    class_prior = one_hot.mean(dim=(0, 1, 2))  # (C,)
    mean_picture = (one_hot.sum(dim=0) + class_prior) / (len(train_masks) + 1)  # (H, W, C), no frequency is zero
    losses = {}
    for name, frequencies in (("class prior", class_prior), ("mean picture", mean_picture)):
        of_true_class = frequencies.expand(*val_masks.shape, -1).gather(-1, val_masks[..., None])
        losses[name] = round(float(-of_true_class.log().mean()), 2)
    return losses


def judged(model: SegFormerModel, config: LaneSegmentationConfig) -> tuple[float, float, np.ndarray]:
    """A model on the validation set.

    Returns:
        Cross-entropy, share of the pixels at which all images get the same class, classes (N, H, W).
    """
    val_set = dataset(config, "val")
    answers = model.predict(_stacked(val_set, "image"))
    loss = nn.functional.cross_entropy(answers["logits"].cpu(), _stacked(val_set, "semantic_mask"))
    classes = answers["semantic"].cpu().numpy()
    return float(loss), float((classes == classes[0]).all(axis=0).mean()), classes


def _stacked(images: LaneInstanceDataset, name: str) -> Tensor:
    return torch.stack([sample[name] for sample in images])


def new_trainer(config: LaneSegmentationConfig, device: str | torch.device = "cpu") -> LaneSegmentationTrainer:
    """A trainer with a tiny model of the random weights that seed 0 gives."""
    torch.manual_seed(0)
    model = SegFormerModel("tiny", pretrained=False)
    return LaneSegmentationTrainer(model, config, device=device, progress=False)


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


class Negative(LaneInstanceDataset):
    """The data set of a new camera: bright where the images were dark."""

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        return {**sample, "image": 1 - sample["image"]}


def fine_tunings(
    config: LaneSegmentationConfig, device: torch.device
) -> tuple[np.ndarray, dict[tuple[float, float, int], np.ndarray]]:
    """The shipped model moves to negatives for an epoch, at two rates, two scales of the encoder, with two seeds.

    Returns:
        Its semantic losses on normal images and on negatives before, and the same after, by (rate, scale, seed).
    """
    train_set, val_set = (
        Negative(samples(), split, build_transform(config, split == "train")) for split in ("train", "val")
    )
    old, new = (build_loader(images, config, shuffle=False) for images in (dataset(config, "val"), val_set))

    def trainer_of(settings: LaneSegmentationConfig) -> LaneSegmentationTrainer:
        model = SegFormerModel.load(samples() / "tiny.safetensors")
        return LaneSegmentationTrainer(model, settings, device=device, progress=False)

    def losses(trainer: LaneSegmentationTrainer) -> np.ndarray:
        found = []
        for loader in (old, new):
            trainer.validate(loader)
            found.append(trainer.val_metrics["semantic"])
        return np.array(found)

    outcome = {}
    for lr in (5e-4, 2e-3):
        for scale in (0.1, 1.0):
            for seed in (0, 1):
                settings = config.replace(lr=lr, encoder_lr_scale=scale, seed=seed)
                trainer, loader = trainer_of(settings), build_loader(train_set, settings, shuffle=True)
                trainer.scheduler = build_scheduler(trainer.optimizer, len(loader), settings.warmup_fraction)
                trainer.train_epoch(loader)
                outcome[lr, scale, seed] = losses(trainer)
    return losses(trainer_of(config)), outcome
