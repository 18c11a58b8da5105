"""Elective 1: the contest of the losses on scenes in which one class, the crosswalk, becomes rarer and rarer.

Axes: N scenes, C classes, H and W image pixels.
"""

import itertools
import json
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import samples
from roadtopo_lib.labels import CROSSWALK, NUM_CLASSES, ROAD
from roadtopo_lib.losses import (
    CombinedLoss,
    DiceLoss,
    FocalDiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    TverskyLoss,
    class_weights,
)
from roadtopo_lib.models import upsample_to
from roadtopo_lib.scenes import Scene, render_scene
from roadtopo_lib.scenes.streets import sample_layout
from roadtopo_lib.scenes.synth import image_seed
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.optimizer import build_optimizer, build_scheduler

SIZE, TOP = (64, 128), 16
"""Scenes are rendered at this (H, W); the upper rows, which hold no road, are cut off."""

TRAIN_SCENES, TEST_SCENES, TEST_SEED, FIRST_SEED = 192, 160, 700, 701
"""Training seed k draws its scenes from ``FIRST_SEED + k``."""

STEPS, BATCH = 160, 8
MIN_CROSSING = 40
"""Pixels of a crossing at ``SIZE``, at least: fewer are a sliver far away or at the edge."""

RARITIES = {"common": 1, "rare": 3, "very rare": 10}
"""Name → how many training scenes come to one that shows its crossing."""

SLICE, SLICE_SCENES, SLICE_NAMES = ("combined + weights", "common", 0), 40, ("crosswalk", "mean")
"""The run that the notebook repeats, as loss, rarity and seed; how many test scenes it is scored on, and by what."""

GRADIENT_PIXELS, RARE_PIXELS, EASY, HARD = 64 * 64, 40, 0.95, 0.3
"""Of ``pixel_gradients``: pixels in all and of the rare class; the true class's probability."""

LOSSES: dict[str, Callable[[Tensor], nn.Module]] = {
    "CE": lambda weights: CombinedLoss(1.0, 0.0),
    "weighted CE": lambda weights: CombinedLoss(1.0, 0.0, class_weights=weights),
    "Dice": lambda weights: DiceLoss(),
    "CE + Dice": lambda weights: CombinedLoss(0.5, 0.5),
    "focal": lambda weights: FocalLoss(),
    "Tversky": lambda weights: TverskyLoss(),
    "combined + weights": lambda weights: CombinedLoss(0.6, 0.4, class_weights=weights),
}
"""Name → the loss for given class weights (C,), of which most take no notice."""

TABLE_LOSSES: dict[str, Callable[[Tensor], nn.Module]] = {
    "focal + Dice": lambda weights: FocalDiceLoss(),
    "focal Tversky": lambda weights: FocalTverskyLoss(),
}
"""Two more, which a decision table recommends for few positives and for costly misses; measured at ``TABLE_RARITY``."""

TABLE_RARITY = "very rare"


class Scenes(torch.utils.data.Dataset):
    """Images (N, 3, H, W) uint8 and class masks (N, H, W) uint8 in memory; every scene's street has a crossing.

    Args:
        seed: decides the scenes, with ``split``.
        split: ``"train"`` or ``"test"``.
        count: N.
        every: scenes 0, ``every``, 2 × ``every``, ... show their crossing; in the others it is not painted.
        one_class: binary masks, 1 on crosswalks.
    """

    def __init__(self, seed: int, split: str, count: int, every: int, one_class: bool = False) -> None:
        scenes = list(itertools.islice(crossing_scenes(seed, split, every), count))
        self.images = torch.from_numpy(np.stack([scene.image[TOP:] for scene in scenes])).movedim(-1, 1).contiguous()
        self.masks = torch.from_numpy(np.stack([scene.semantic_amodal[TOP:] for scene in scenes]))
        self.num_classes = NUM_CLASSES
        if one_class:
            self.masks, self.num_classes = (self.masks == CROSSWALK).to(torch.uint8), 2

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index].float() / 255, "semantic_mask": self.masks[index]}


def crossing_scenes(seed: int, split: str, every: int) -> Iterator[Scene]:
    """See ``Scenes``: without end those in which at least ``MIN_CROSSING`` pixels of a crossing show, or would show."""
    seeds = (image_seed(seed, split, index) for index in itertools.count())
    # Looking at the layout first spares rendering most of the scenes.
    with_crossing = (s for s in seeds if sample_layout(np.random.default_rng(s)).crosswalks)
    scenes = ((s, render_scene(s, SIZE, "day")) for s in with_crossing)
    shown = ((s, scene) for s, scene in scenes if (scene.semantic_amodal == CROSSWALK).sum() >= MIN_CROSSING)
    for k, (s, scene) in enumerate(shown):
        yield scene if k % every == 0 else render_scene(s, SIZE, "day", crosswalks=False)


def train(loss: str, scenes: Scenes, seed: int, steps: int = STEPS) -> SegFormerModel:
    """A tiny SegFormer after ``steps`` optimiser steps with one of ``LOSSES`` or ``TABLE_LOSSES``.

    First weights, order of the scenes and mirroring depend on ``seed`` alone: all losses begin alike and see the same.
    """
    criterion = (LOSSES | TABLE_LOSSES)[loss](class_weights(scenes))
    config = LaneSegmentationConfig.preset("tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SegFormerModel("tiny", scenes.num_classes, 1, pretrained=False, activation=config.activation).train()
        optimizer = build_optimizer(model, config)
        schedule = build_scheduler(optimizer, steps, config.warmup_fraction)
        for batch in _batches(len(scenes), steps, seed):
            images, masks = scenes.images[batch].float() / 255, scenes.masks[batch].long()  # (B, 3, H, W), (B, H, W)
            mirrored = torch.rand(len(batch)) < 0.5
            images[mirrored], masks[mirrored] = images[mirrored].flip(-1), masks[mirrored].flip(-1)
            objective = criterion(_logits(model, images), masks)
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def score(model: SegFormerModel, scenes: Scenes) -> np.ndarray:
    """Pixels that are hit, predicted and true, of each scene and class: (3, N, C) int64."""
    counts = []
    for images, masks in zip(scenes.images.split(BATCH), scenes.masks.split(BATCH), strict=True):
        logits = _logits(model, images.float() / 255)
        classes = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
        predicted, truth = (F.one_hot(ids, scenes.num_classes) for ids in (classes, masks.long()))  # (B, H, W, C)
        counts.append(torch.stack([part.sum(dim=(1, 2)) for part in (predicted * truth, predicted, truth)]))
    return torch.cat(counts, dim=1).numpy()


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU (..., C) of counts (3, ..., N, C) added up over the scenes; NaN for a class that is nowhere."""
    hits, predicted, truth = counts.sum(axis=-2)
    union = predicted + truth - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def results() -> dict:
    """The whole contest as ``tests/benchmarks/bench_imbalance.py`` has left it, see ``data_samples/README.md``."""
    return json.loads((samples() / "imbalance.json").read_text(encoding="utf-8"))


def row_of(measured: dict, loss: str, rarity: str) -> dict:
    """The row of ``results`` that belongs to a loss and a rarity."""
    return next(row for row in measured["rows"] if (row["loss"], row["rarity"]) == (loss, rarity))


def gain(measured: dict, loss: str, rarity: str, name: str = "crosswalk") -> float:
    """Points of IoU (0.01 each) by which a loss lies above CE, for a class or the ``mean``, averaged over the seeds."""
    return 100 * float(
        np.mean(row_of(measured, loss, rarity)["iou"][name]) - np.mean(row_of(measured, "CE", rarity)["iou"][name])
    )


def errors_of(measured: dict, loss: str, rarity: str) -> tuple[float, float]:
    """Share of the true crosswalk pixels that is found, and false ones for each true one; means over the seeds."""
    row = row_of(measured, loss, rarity)
    return float(np.mean(row["crosswalk_recall"])), float(np.mean(row["crosswalk_false"]))


def cost_of_errors(measured: dict, loss: str, rarity: str, price: float) -> float:
    """Errors for each true crosswalk pixel, where a missed one counts ``price`` and a false one 1."""
    recall, false = errors_of(measured, loss, rarity)
    return price * (1 - recall) + false


def repeat_slice() -> dict[str, float]:
    """Trains and scores ``SLICE`` again: IoU by name, over ``SLICE_SCENES`` test scenes."""
    loss, rarity, seed = SLICE
    test = Scenes(TEST_SEED, "test", SLICE_SCENES, every=2)
    scenes = Scenes(FIRST_SEED + seed, "train", TRAIN_SCENES, RARITIES[rarity])
    found = iou(score(train(loss, scenes, seed), test))
    return {"crosswalk": float(found[CROSSWALK]), "mean": float(np.nanmean(found))}


def slice_interval(measured: dict, name: str) -> tuple[float, float]:
    """95 % prediction interval of one more run like ``SLICE``, from the spread of the contest's seeds.

    Rounding differs between processors and grows from step to step: elsewhere, the same seed may give another run.
    """
    values = np.array(row_of(measured, *SLICE[:2])["slice_iou"][name])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values))
    return float(values.mean() - half), float(values.mean() + half)


def pixel_gradients(criterion: nn.Module) -> dict[str, float]:
    """Size of the gradient at the true class's logit of one pixel, times the number of pixels, by kind of pixel.

    Road everywhere but on ``RARE_PIXELS`` of a crosswalk; of both, half of the pixels are easy (the true class has
    probability ``EASY``) and half are hard (``HARD``); the other classes share the rest.
    """
    target = torch.full((GRADIENT_PIXELS,), ROAD)
    target[:RARE_PIXELS] = CROSSWALK
    sure = torch.full((GRADIENT_PIXELS,), EASY, dtype=torch.float64)
    sure[::2] = HARD
    probabilities = ((1 - sure) / (NUM_CLASSES - 1))[:, None].repeat(1, NUM_CLASSES)  # (pixels, C)
    probabilities[torch.arange(GRADIENT_PIXELS), target] = sure
    logits = probabilities.log().T[None, :, :, None].clone().requires_grad_()  # (1, C, pixels, 1)
    (gradient,) = torch.autograd.grad(criterion(logits, target[None, :, None]), logits)
    of_truth = gradient[0, :, :, 0].T[torch.arange(GRADIENT_PIXELS), target].abs() * GRADIENT_PIXELS
    kinds = {"easy, common": -1, "hard, common": -2, "easy, rare": 1, "hard, rare": 0}
    return {kind: float(of_truth[place]) for kind, place in kinds.items()}


def jumps(criterion: nn.Module, lr: float = 5.0, same_batch: bool = False, seed: int = 0) -> float:
    """Mean change, from step to step, of the Dice on other images, in the second half of a training of 60 steps.

    The model is linear in three values of each pixel; 3 % of the pixels are of the rare class.

    Args:
        criterion: the loss.
        lr: learning rate of plain gradient descent.
        same_batch: one batch of two images for all steps, else two new images in each.
        seed: decides the images that are trained on.
    """
    images, masks = _dots(40, 10**6)
    weight, dices = torch.zeros(2, 3, requires_grad=True), []
    for step in range(60):
        batch, target = _dots(2, 1000 * seed + (0 if same_batch else step))
        (slope,) = torch.autograd.grad(criterion(torch.einsum("ck,bkhw->bchw", weight, batch), target), weight)
        weight = (weight - lr * slope).detach().requires_grad_()
        found = torch.einsum("ck,bkhw->bchw", weight.detach(), images).argmax(dim=1)
        dices.append(float(2 * (found * masks).sum() / (found + masks).sum()))
    return float(np.abs(np.diff(dices[30:])).mean())


def _dots(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 16, 16): noise, brighter in channel 0 on the rare class; and their masks (count, 16, 16)."""
    rng = torch.Generator().manual_seed(seed)
    masks = (torch.rand(count, 16, 16, generator=rng) < 0.03).long()
    images = torch.randn(count, 3, 16, 16, generator=rng)
    images[:, 0] += 3 * masks
    images[:, 1] = 1
    return images, masks


def _logits(model: SegFormerModel, images: Tensor) -> Tensor:
    """(B, C, H, W), of two classes (B, 1, H, W) of the second; without the instance head, which takes no part."""
    logits = model.semantic_head(model.encode(images))
    return upsample_to(logits[:, 1:] if model.num_classes == 2 else logits, images.shape[2:])


def _batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices (B,) of each step's scenes: every scene once before one comes again."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * BATCH // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
    yield from order[: steps * BATCH].split(BATCH)
