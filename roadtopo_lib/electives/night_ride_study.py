"""Elective 3: what each choice of the preset ``night-ride`` brings, measured with the tiny model on rendered rides.

Axes: N scenes, C classes, K bins of distance, R ratios of Boundary IoU, H and W image pixels.
"""

import copy
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from roadtopo_lib import models
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.convert import convert_coco
from roadtopo_lib.dataset import LaneInstanceDataset, Transform, build_transform, image_to_tensor
from roadtopo_lib.electives.copy_paste import CopyPaste, CutOut, cut_outs
from roadtopo_lib.electives.night_ride import (
    CLASSES,
    LANE_MARK,
    MOVEABLE,
    MY_BIKE,
    NIGHT_ROAD,
    RIDER,
    class_mask,
    write_night_ride,
)
from roadtopo_lib.electives.safety import FalseRoad, metres_ahead
from roadtopo_lib.losses import CombinedLoss
from roadtopo_lib.metrics import BoundaryIoU
from roadtopo_lib.models import upsample_to
from roadtopo_lib.scenes import Scene, render_scene
from roadtopo_lib.scenes.synth import image_seed
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.amp import choose_amp
from roadtopo_lib.training.optimizer import build_optimizer, build_scheduler

SIZE = (180, 320)
"""(H, W) of the scenes, in which all scores are taken."""

TRAIN_SCENES, VAL_SCENES, TEST_SCENES, TEST_SEED, FIRST_SEED = 48, 16, 40, 800, 801
"""Training seed k renders its ride from ``FIRST_SEED + k``. Validation scenes choose among the epochs of a training."""

EPOCHS, BATCH = 8, 4

RATIOS = (0.02, 0.005)
"""Of Boundary IoU's band."""

KEYS_BY_CLASS = ("IoU {}", *(f"boundary {ratio} {{}}" for ratio in RATIOS))
"""Names of a class's scores, see ``scores_of``."""

EDGES, CORRIDOR = (3.0, 8.0, 15.0, 30.0, 60.0), 8.0
"""Of the safety figure: bins in metres ahead, and how far to each side."""

VANISHING = (0.5, 0.52)
"""Where rendered roads vanish on average, as shares of width and height."""

SLICE_SCENES = 16
"""Test scenes of the run that the notebook repeats: the preset with seed 0."""


@dataclass(frozen=True)
class Choice:
    """One way to train. The defaults are the preset's choices, in the sizes of a CPU.

    Args:
        weights: class weights by name, or ``None``.
        lr: of AdamW.
        shares: of cross-entropy and Dice.
        pretrained: begin with the shipped model, which knows roads by day; its last layer is new.
        paste: copy-paste ``"on the road"``, ``"anywhere"``, or ``None``.
        augment: random crops, mirroring and colours.
        size: (H, W) of the network's input.
        batch: scenes a step.
        epochs: passes over the ride.
        amp: see ``choose_amp``; on a CPU, float16 is emulated and takes ten times as long.
        keep: ``"last"``, or the score by which validation scenes choose the epoch whose model is kept.
    """

    weights: dict | None = field(default_factory=lambda: LaneSegmentationConfig.preset("night-ride").class_weights)
    lr: float = 3e-3
    shares: tuple[float, float] = (0.6, 0.4)
    pretrained: bool = True
    paste: str | None = "on the road"
    augment: bool = True
    size: tuple[int, int] = (96, 96)
    batch: int = BATCH
    epochs: int = EPOCHS
    amp: str = "off"
    keep: str = "last"


BASE = "the preset"

CHOICES: dict[str, Choice] = {
    BASE: Choice(),
    "no copy-paste": Choice(paste=None),
    "pasted anywhere": Choice(paste="anywhere"),
    "no class weights": Choice(weights=None),
    "cross-entropy alone": Choice(shares=(1.0, 0.0)),
    "random start": Choice(pretrained=False),
    "a tenth of the rate": Choice(lr=3e-4),
    "no augmentation": Choice(augment=False),
    "wide input": Choice(size=(64, 128)),
    "batches of 8": Choice(batch=8),
    "half the epochs": Choice(epochs=4),
    "best_miou kept": Choice(keep="mIoU"),
    "best_mbou kept": Choice(keep=f"mBoundary {RATIOS[0]}"),
    "half precision": Choice(amp="fp16"),
}
"""Name → what is trained; all but the first differ from the preset in one choice."""


def read_ride(seed: int, count: int = TRAIN_SCENES) -> LaneInstanceDataset:
    """A rendered ride, written in the public layout, converted and read: a data set whose files are in memory."""
    with tempfile.TemporaryDirectory() as folder:
        write_night_ride(Path(folder) / "ride", count, seed, SIZE, progress=False)
        convert_coco(Path(folder) / "ride", Path(folder) / "data", classes=CLASSES, workers=1, progress=False)
        ride = LaneInstanceDataset(Path(folder) / "data", "train", classes=CLASSES)
        kept = [ride.read(index) for index in range(len(ride))]
    ride.read = kept.__getitem__
    return ride


def unseen_scenes(count: int = TEST_SCENES, split: str = "test") -> list[Scene]:
    """Scenes that no training sees; each knows its camera."""
    return [render_scene(image_seed(TEST_SEED, split, number), SIZE, "night-ride") for number in range(count)]


def bank_of(ride: LaneInstanceDataset) -> list[CutOut]:
    """The lane marks and vehicles of a ride that are whole."""
    everything = (ride.read(index) for index in range(len(ride)))
    return cut_outs(everything, (LANE_MARK, MOVEABLE), VANISHING, hidden_by=(MY_BIKE, RIDER), min_pixels=24)


def pasting(bank: list[CutOut], realistic: bool = True, **options: object) -> CopyPaste:
    """Copy-paste on the road of a ride, or anywhere outside of motorcycle and rider."""
    ground = (NIGHT_ROAD,) if realistic else tuple(row.id for row in CLASSES)
    return CopyPaste(bank, ground, (LANE_MARK,), (MY_BIKE, RIDER), VANISHING, realistic=realistic, **options)


def transform_of(choice: Choice, config: LaneSegmentationConfig, ride: LaneInstanceDataset) -> Transform:
    """What a training of this choice does to a sample."""
    transform = build_transform(config, train=choice.augment)
    return pasting(bank_of(ride), choice.paste == "on the road", then=transform) if choice.paste else transform


def train(name: str, ride: LaneInstanceDataset, seed: int, shipped: Path, epochs: int | None = None) -> SegFormerModel:
    """A tiny SegFormer trained with one of ``CHOICES``, in evaluation mode; the instance head takes no part.

    First weights, order of the scenes and the draws of augmentation depend on ``seed`` alone. ``shipped`` is the file
    of the model that a choice begins with, if it does; ``epochs`` replaces those of the choice.
    """
    choice = CHOICES[name]
    epochs = epochs or choice.epochs
    config = LaneSegmentationConfig.preset("night-ride-tiny").replace(
        image_size=choice.size, lr=choice.lr, muon_lr=0.0, crop_scale=0.5, color_jitter=0.3, embedding_dim=1, seed=seed
    )
    weights = choice.weights and [choice.weights.get(name, 1.0) for name in CLASSES.names]
    criterion = CombinedLoss(*choice.shares, class_weights=weights)
    transform = transform_of(choice, config, ride)
    batches = len(ride) // choice.batch
    amp = choose_amp("cpu", choice.amp)
    scaler = torch.amp.GradScaler("cpu", enabled=amp.use_scaler)
    seen = unseen_scenes(VAL_SCENES, "val") if choice.keep != "last" else []
    best, kept = -np.inf, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = begin(config, shipped if choice.pretrained else None)
        optimizer = build_optimizer(model, config)
        schedule = build_scheduler(optimizer, epochs * batches, config.warmup_fraction)
        for epoch in range(epochs):
            order = np.random.default_rng((seed, epoch)).permutation(len(ride))[: batches * choice.batch]
            for indices in order.reshape(batches, choice.batch).tolist():
                images, masks = batch_of(ride, indices, transform, (seed, epoch))
                with torch.autocast("cpu", amp.dtype, enabled=amp.enabled):
                    objective = criterion(logits_of(model, images), masks)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(objective).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
            if seen:
                value = scores_of(pooled(score(model.eval(), seen, choice.size)))[choice.keep]
                if value > best:
                    best, kept = value, copy.deepcopy(model.state_dict())
                model.train()
    if kept is not None:
        model.load_state_dict(kept)
    return model.eval()


def begin(config: LaneSegmentationConfig, shipped: Path | None) -> SegFormerModel:
    """A tiny SegFormer in training mode, with random weights, or with those of a model file but its last layer."""
    model = SegFormerModel.from_config(config).train()
    if shipped is not None:
        trained = models.load(shipped).state_dict()
        new = ("semantic_head.classifier.", "embedding_head.")
        model.load_state_dict({k: v for k, v in trained.items() if not k.startswith(new)}, strict=False)
    return model


def batch_of(
    ride: LaneInstanceDataset, indices: list[int], transform: Transform, seed: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and class masks (B, H, W), transformed by draws from (seed, index)."""
    found = []
    for index in indices:
        draw = int(np.random.SeedSequence((*seed, index)).generate_state(1)[0])
        image, semantic, _ = transform(*ride.read(index), draw)
        found.append((image_to_tensor(image), torch.from_numpy(semantic.astype(np.int64))))
    images, masks = zip(*found, strict=True)
    return torch.stack(images), torch.stack(masks)


def logits_of(model: SegFormerModel, images: Tensor) -> Tensor:
    """(B, C, H, W), without the instance head."""
    return upsample_to(model.semantic_head(model.encode(images)), images.shape[2:])


@torch.inference_mode()
def predict(model: SegFormerModel, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class ids (H, W) of an image (H, W, 3), which the network sees in another size."""
    config = LaneSegmentationConfig.preset("night-ride-tiny").replace(image_size=size)
    empty = np.zeros(image.shape[:2], np.uint8)
    small = build_transform(config, train=False)(image, empty, empty, 0)[0]
    logits = model.semantic_head(model.encode(image_to_tensor(small)[None]))
    return upsample_to(logits, image.shape[:2])[0].argmax(dim=0).numpy()


def score(model: SegFormerModel, scenes: list[Scene], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Counts of each scene, from which all scores follow.

    Returns:
        ``pixels`` (N, 3, C): hit, predicted, true. ``boundary`` (N, R, 2, C): intersection and union of the bands.
        ``false_road`` (N, 2, K): undrivable pixels called road, and all undrivable ones, by distance.
    """
    counts: dict[str, list] = {"pixels": [], "boundary": [], "false_road": []}
    for scene in scenes:
        truth, predicted = class_mask(scene), predict(model, scene.image, size)
        pairs = [np.bincount(ids.ravel(), minlength=len(CLASSES)) for ids in (predicted, truth)]
        hit = np.bincount(truth[truth == predicted], minlength=len(CLASSES))
        counts["pixels"].append([hit, *pairs])
        bands = [BoundaryIoU(len(CLASSES), dilation_ratio=ratio) for ratio in RATIOS]
        for band in bands:
            band.update(predicted, truth)
        counts["boundary"].append([(band.intersection, band.union) for band in bands])
        road = FalseRoad(EDGES)
        road.update(predicted, truth, metres_ahead(scene.camera, CORRIDOR))
        counts["false_road"].append([road.wrong, road.total])
    return {name: np.array(values, np.int64) for name, values in counts.items()}


def scores_of(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All scores of counts that are pooled over scenes: ``pixels`` (..., 3, C) and so on.

    Returns:
        (...) of each name: ``IoU Road`` and so on, ``mIoU``, ``accuracy``, ``boundary 0.02 Road`` and so on,
        ``mBoundary 0.02``, ``false road 3-8 m`` and so on, ``false road``.
    """
    hit, predicted, truth = np.moveaxis(counts["pixels"], -2, 0)  # (..., C) each
    found = _by_class("IoU {}", "mIoU", _ratio(hit, predicted + truth - hit))
    found["accuracy"] = hit.sum(axis=-1) / truth.sum(axis=-1)
    for ratio, pair in zip(RATIOS, np.moveaxis(counts["boundary"], -3, 0), strict=True):
        common, union = np.moveaxis(pair, -2, 0)
        found |= _by_class(f"boundary {ratio} {{}}", f"mBoundary {ratio}", _ratio(common, union))
    wrong, total = np.moveaxis(counts["false_road"], -2, 0)  # (..., K) each
    shares = _ratio(wrong, total)
    found |= {f"false road {bin_name(k)}": shares[..., k] for k in range(shares.shape[-1])}
    return found | {"false road": wrong.sum(axis=-1) / total.sum(axis=-1)}


def pooled(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Counts of each scene, added up over the scenes."""
    return {name: values.sum(axis=0) for name, values in counts.items()}


def bin_name(k: int) -> str:
    """``"3-8 m"`` of bin k of ``EDGES``."""
    return f"{EDGES[k]:.0f}-{EDGES[k + 1]:.0f} m"


def results(path: Path) -> dict:
    """The measurement as ``tests/benchmarks/bench_night_ride.py`` has left it, see ``data_samples/README.md``."""
    return json.loads(path.read_text(encoding="utf-8"))


def row_of(measured: dict, name: str) -> dict:
    """The row of ``results`` of a choice."""
    return next(row for row in measured["rows"] if row["choice"] == name)


def slice_interval(measured: dict) -> tuple[float, float]:
    """95 % prediction interval of the mIoU of one more run of the preset over ``SLICE_SCENES``, from the seeds' spread.

    Rounding differs between processors and grows from step to step: elsewhere, the same seed may give another run.
    """
    values = np.array(measured["slice_miou"])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _by_class(name: str, mean: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (..., C) by class name, and their mean over the classes that occur."""
    found = {name.format(row.name): values[..., row.id] for row in CLASSES}
    return found | {mean: np.nanmean(values, axis=-1)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
