"""The training loop of the lane model: one file, readable top to bottom.

One optimiser step, in this order (each line matters, notebook 5 breaks them one by one):

    forward under autocast → scale → backward → unscale → clip → step → update the scale → zero the gradients

Embeddings are read at labelled pixels only: the discriminative loss samples the heads' quarter-resolution output, so
the (B, D, H, W) tensor never exists during training.
"""

import copy
import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.checks import check_every_file
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.files import check_writable, write_atomic
from roadtopo_lib.labels import NO_INSTANCE
from roadtopo_lib.losses import CombinedLoss, class_weights
from roadtopo_lib.metrics import ConfusionMatrix
from roadtopo_lib.segformer import SegFormerModel, upsample_to
from roadtopo_lib.training.amp import choose_amp
from roadtopo_lib.training.optimizer import (
    build_instance_criterion,
    build_optimizer,
    build_scheduler,
    build_semantic_criterion,
)

Callback = Callable[["LaneSegmentationTrainer", dict], None]
"""Called after every epoch with the trainer and that epoch's row of the history."""

WEIGHT_SAMPLES = 200
"""Images, evenly spread over the training set, whose pixels are counted for class weights."""


RUN_FILES = ("config.yaml", "history.csv", "best.safetensors", "last.safetensors")
"""What a finished run leaves in its folder."""


class LaneSegmentationTrainer:
    """Trains a ``SegFormerModel`` on batches of ``LaneInstanceDataset``.

    Args:
        model: moved to ``device``.
        optimizer: default AdamW over the model's two parameter groups, at the rates of the config.
        semantic_criterion: (logits (B, C, H, W), mask (B, H, W)) → scalar; default CE + Dice as in the config.
        instance_criterion: (embeddings, instance mask) → (scalar, parts); default the discriminative loss.
        device: default CUDA if there is one, else CPU.
        config: every number used here; default the guide's.
        output_dir: where ``history.csv``, ``best.safetensors`` and ``last.safetensors`` go; ``None`` writes nothing.
        callbacks: called after every epoch.
        progress: show progress bars (on a terminal only).

    Attributes:
        epoch: epochs finished so far.
        planned_epochs: where ``fit`` stops if nothing stops it earlier.
        history: one dict an epoch: losses and their parts, validation mIoU, learning rates, gradient norm, seconds.
        best_val_loss: lowest validation loss so far.
        train_metrics, val_metrics: the latest epoch's means.
    """

    def __init__(
        self,
        model: SegFormerModel,
        optimizer: torch.optim.Optimizer | None = None,
        semantic_criterion: nn.Module | None = None,
        instance_criterion: nn.Module | None = None,
        device: str | torch.device | None = None,
        config: LaneSegmentationConfig | None = None,
        output_dir: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        self.config = config or LaneSegmentationConfig()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device)
        self.optimizer = optimizer or build_optimizer(model, self.config)
        self.semantic_criterion = (semantic_criterion or build_semantic_criterion(self.config)).to(self.device)
        self._pixel_weights = _pixel_weights(self.semantic_criterion)
        self.instance_criterion = instance_criterion or build_instance_criterion(self.config)
        self.output_dir = Path(output_dir) if output_dir is not None else None
        self.callbacks = tuple(callbacks)
        self.progress = progress

        self.amp = choose_amp(self.device, self.config.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp.use_scaler)
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.epoch = 0
        self.planned_epochs = self.config.epochs
        self.history: list[dict] = []
        self.best_val_loss = math.inf
        self.train_metrics: dict[str, float] = {}
        self.val_metrics: dict[str, float] = {}
        self._best_state: dict[str, Tensor] | None = None

    def fit(self, train_loader: DataLoader, val_loader: DataLoader, epochs: int | None = None) -> list[dict]:
        """Trains until ``epochs`` or until the validation loss has not improved for ``config.patience`` epochs.

        Afterwards the model holds the weights of the best epoch.

        Args:
            train_loader: from ``dataset.build_loader(..., shuffle=True)``.
            val_loader: from ``dataset.build_loader(..., shuffle=False)``.
            epochs: default ``config.epochs``.

        Returns:
            ``history``.

        Raises:
            FloatingPointError: see ``train_epoch`` and ``validate``; what earlier epochs have written stays.
        """
        epochs = self.config.epochs if epochs is None else epochs
        self.planned_epochs = epochs
        steps_per_epoch = math.ceil(len(train_loader) / self.config.accumulation_steps)
        self.scheduler = build_scheduler(self.optimizer, steps_per_epoch * epochs, self.config.warmup_fraction)
        without_improvement = 0
        while self.epoch < epochs:
            started = time.perf_counter()
            self.train_epoch(train_loader)
            self.validate(val_loader)
            self._finish_epoch(time.perf_counter() - started)
            if self.val_metrics["loss"] < self.best_val_loss:
                self.best_val_loss = self.val_metrics["loss"]
                self._best_state = copy.deepcopy(self.model.state_dict())
                self._save("best")
                without_improvement = 0
            else:
                without_improvement += 1
            self._save("last")
            for callback in self.callbacks:
                callback(self, self.history[-1])
            if without_improvement >= self.config.patience:
                break
        if self._best_state is not None:
            self.model.load_state_dict(self._best_state)
        return self.history

    def train_epoch(self, loader: DataLoader) -> float:
        """One pass over the training set.

        Returns:
            Mean total loss per image; its parts are in ``train_metrics``.

        Raises:
            FloatingPointError: a loss, or without loss scaling the gradient of a step, is NaN or infinite; names the
                files of the batch. The step is not taken.
        """
        self.model.train()
        _set_epoch(loader, self.epoch)
        meter = Meter()
        windows = tqdm(
            _windows(loader, self.config.accumulation_steps),
            total=math.ceil(len(loader) / self.config.accumulation_steps),
            desc=f"epoch {self.epoch + 1}",
            unit="step",
            leave=False,
            disable=None if self.progress else True,
        )
        # Dropout draws from (seed, epoch) as well, without touching the caller's random state.
        with torch.random.fork_rng(devices=_cuda_devices(self.device)):
            torch.manual_seed(int(np.random.SeedSequence((self.config.seed, self.epoch)).generate_state(1)[0]))
            for batches in windows:
                self._training_step(batches, meter)
        self.epoch += 1
        self.train_metrics = {**meter.means(), "grad_norm": meter.mean("grad_norm")}
        return self.train_metrics["loss"]

    def _training_step(self, batches: list[dict], meter: "Meter") -> None:
        """One optimiser step from one or several batches, equal to one step from their union.

        A batch's share of the gradient is its share of what each loss averages over: labelled pixels for the semantic
        loss (by class weight if it has any), images with instances for the discriminative loss. Dividing by the number
        of batches would be wrong for a short last batch. Dice is no mean, see ``_dice_slopes``. BatchNorm in the heads
        still sees one batch at a time.
        """
        self.optimizer.zero_grad(set_to_none=True)  # of a step that was stopped or interrupted, if there was one
        semantic_shares = _shares(
            [_weigh_labelled(b["semantic_mask"], self.config.ignore_index, self._pixel_weights) for b in batches]
        )
        instance_shares = _shares([_count_with_instances(b["instance_mask"]) for b in batches])
        totals = []
        for batch, *of_union in zip(batches, semantic_shares, instance_shares, self._dice_slopes(batches), strict=True):
            losses, objective, _ = self._losses(batch, *of_union)
            totals.append(losses["loss"].detach())
            self.scaler.scale(objective).backward()
            meter.add(losses, weight=len(batch["image"]))
        self.scaler.unscale_(self.optimizer)  # clipping must see true gradients, not scaled ones
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        # All checks at once: reading a number makes the processor wait for the GPU, here once a step.
        *totals, norm_found = torch.stack([*totals, norm]).tolist()
        for batch, total in zip(batches, totals, strict=True):
            _stop_if_not_finite("loss", total, [batch])
        if not self.scaler.is_enabled():  # a scaler meets infinite gradients now and then, and skips the step itself
            _stop_if_not_finite("gradient norm", norm_found, batches)
        scale_before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < scale_before:
            return  # the step was skipped (fp16 overflow): the schedule waits, and an infinite norm tells nothing
        meter.add({"grad_norm": norm}, weight=1)
        if self.scheduler is not None:
            self.scheduler.step()

    def _dice_slopes(self, batches: list[dict]) -> Sequence[Tensor | None]:
        """For each batch the derivative of the union's Dice loss by the batch's soft counts, (3, B, C).

        Dice divides sums over all images of a step, so its gradient in one batch depends on the others. The sums are
        taken first, in a forward pass of its own without gradients, but only where several batches make a step and the
        loss has Dice; else it is ``None`` for each.
        """
        criterion = self.semantic_criterion
        if len(batches) == 1 or not isinstance(criterion, CombinedLoss) or criterion.dice_weight == 0:
            return [None] * len(batches)
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        tracked = [m.track_running_stats for m in norms]
        for m in norms:
            m.track_running_stats = False  # the pass that counts is the second one
        try:
            # The second pass draws the same random numbers.
            with torch.no_grad(), torch.random.fork_rng(devices=_cuda_devices(self.device)):
                counts = [self._dice_counts(batch) for batch in batches]  # (3, B_i, C) each
        finally:
            for m, was in zip(norms, tracked, strict=True):
                m.track_running_stats = was
        union = torch.cat(counts, dim=1).requires_grad_()
        (slopes,) = torch.autograd.grad(criterion.dice.from_counts(union), union)
        return slopes.split([c.shape[1] for c in counts], dim=1)

    def _dice_counts(self, batch: dict) -> Tensor:
        """Soft counts of each image and class of one batch, (3, B, C), see ``CombinedLoss.terms``."""
        with torch.autocast(self.device.type, dtype=self.amp.dtype, enabled=self.amp.enabled):
            logits, _ = self._predict(batch)
            return self.semantic_criterion.terms(logits, batch["semantic_mask"].to(self.device))[1]

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> float:
        """One pass over the validation set, in evaluation mode.

        Returns:
            Mean total loss per image; its parts and the mIoU are in ``val_metrics``.

        Raises:
            FloatingPointError: the loss is NaN or infinite, so no epoch could be called the best; names the files of
                the batch.
        """
        self.model.eval()
        meter = Meter()
        confusion = ConfusionMatrix(self.model.num_classes, self.config.ignore_index)
        for batch in tqdm(loader, "validation", unit="batch", leave=False, disable=None if self.progress else True):
            losses, _, logits = self._losses(batch)
            _stop_if_not_finite("validation loss", losses["loss"].item(), [batch])
            meter.add(losses, weight=len(batch["image"]))
            confusion.update(logits.argmax(dim=1).cpu().numpy(), batch["semantic_mask"].numpy())
        self.val_metrics = {**meter.means(), "miou": confusion.miou()}
        return self.val_metrics["loss"]

    def _predict(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Forward pass: logits (B, C, H, W) at the masks' size, embeddings (B, D, h, w)."""
        outputs = self.model(batch["image"].to(self.device, non_blocking=True), upsample=False)
        return upsample_to(outputs["logits"], batch["semantic_mask"].shape[1:]), outputs["embeddings"]

    def _losses(
        self, batch: dict, semantic_share: float = 1.0, instance_share: float = 1.0, dice_slope: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """All losses of one batch; what to call ``backward`` on, its part in a step of several; logits (B, C, H, W)."""
        semantic_mask = batch["semantic_mask"].to(self.device, non_blocking=True)  # (B, H, W)
        instance_mask = batch["instance_mask"].to(self.device, non_blocking=True)  # (B, H, W)
        with torch.autocast(self.device.type, dtype=self.amp.dtype, enabled=self.amp.enabled):
            logits, embeddings = self._predict(batch)
            instance, parts = self.instance_criterion(embeddings, instance_mask)
            if dice_slope is None:
                semantic = self.semantic_criterion(logits, semantic_mask)
                of_step = semantic_share * semantic
            else:
                criterion = self.semantic_criterion
                cross_entropy, counts = criterion.terms(logits, semantic_mask)
                dice, dice_of_step = criterion.dice.from_counts(counts), (dice_slope * counts).sum()
                semantic = criterion.ce_weight * cross_entropy + criterion.dice_weight * dice
                of_step = criterion.ce_weight * semantic_share * cross_entropy + criterion.dice_weight * dice_of_step
        semantic_weight, instance_weight = self.config.semantic_weight, self.config.instance_weight
        total = semantic_weight * semantic + instance_weight * instance
        objective = semantic_weight * of_step + instance_weight * instance_share * instance
        return {"loss": total, "semantic": semantic, "instance": instance, **parts}, objective, logits.detach()

    def _finish_epoch(self, seconds: float) -> None:
        row = {"epoch": self.epoch}
        row |= {f"train_{name}": value for name, value in self.train_metrics.items()}
        row |= {f"val_{name}": value for name, value in self.val_metrics.items()}
        row |= {f"lr_{group.get('name', i)}": group["lr"] for i, group in enumerate(self.optimizer.param_groups)}
        row["seconds"] = seconds
        self.history.append(row)
        if self.output_dir is not None:
            write_atomic(self.output_dir / "history.csv", history_csv(self.history))

    def _save(self, name: str) -> None:
        if self.output_dir is not None:
            self.model.save(
                self.output_dir / f"{name}.safetensors",
                epoch=self.epoch,
                val_loss=self.val_metrics["loss"],
                val_miou=self.val_metrics["miou"],
                training=self.config.to_dict(),
            )


def train_lane_model(
    config: LaneSegmentationConfig,
    data: str | Path,
    output: str | Path,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> LaneSegmentationTrainer:
    """Trains on a data folder and leaves a run folder: what ``road-topology train lane`` does.

    All files of both splits are read once before training. Nothing is written until the first epoch is done: a run that
    fails before leaves an earlier one whole. What finished epochs have written survives an interruption.

    Args:
        config: all settings; ``config.seed`` decides the initial weights too.
        data: folder with ``train`` and ``val``.
        output: the run: ``config.yaml``, ``history.csv``, ``best.safetensors``, ``last.safetensors``.
        device: default CUDA if there is one, else CPU.
        overwrite: allow ``output`` to hold an earlier run; the first finished epoch replaces it.
        callbacks: called after every epoch.

    Returns:
        The trainer, its model holding the best epoch's weights.

    Raises:
        FileExistsError: ``output`` holds a run and ``overwrite`` is off.
        FileNotFoundError, ValueError: wrong data, in any file of ``train`` or ``val``; see ``LaneInstanceDataset``.
        OSError: ``output`` cannot be written to.
        FloatingPointError: see ``LaneSegmentationTrainer.fit``.
    """
    output = Path(output)
    earlier = [output / name for name in RUN_FILES if (output / name).exists()]
    if earlier and not overwrite:
        raise FileExistsError(f"{output}: already holds a run ({earlier[0].name}); use another folder or --overwrite")
    train_set = LaneInstanceDataset(data, "train", build_transform(config, train=True), config.seed, config.num_classes)
    val_set = LaneInstanceDataset(data, "val", build_transform(config, train=False), config.seed, config.num_classes)
    torch.manual_seed(config.seed)
    model = SegFormerModel(
        config.backbone,
        config.num_classes,
        config.embedding_dim,
        config.pretrained,
        config.normalize_embeddings,
        config.activation,
    )
    weights = None
    if config.class_weights is not None:
        weights = class_weights(train_set, config.class_weights, max_samples=WEIGHT_SAMPLES)

    def write_config(trainer: LaneSegmentationTrainer, row: dict) -> None:
        # The trainer has just written the three other files: with this one nothing of an earlier run is left.
        if row["epoch"] == 1:
            config.to_yaml(output / "config.yaml")

    trainer = LaneSegmentationTrainer(
        model,
        semantic_criterion=build_semantic_criterion(config, weights),
        device=device,
        config=config,
        output_dir=output,
        callbacks=(write_config, *callbacks),
    )
    check_every_file(train_set)
    check_every_file(val_set)
    check_writable(output / RUN_FILES[0])
    trainer.fit(build_loader(train_set, config, shuffle=True), build_loader(val_set, config, shuffle=False))
    return trainer


class Meter:
    """Weighted running means of named scalars, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, values: dict[str, Tensor], weight: float) -> None:
        """Adds one observation of each scalar."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float() * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: self.mean(name) for name in self.sums}

    def mean(self, name: str) -> float:
        """The mean of one scalar so far; NaN if it was never observed."""
        return float(self.sums[name]) / self.weights[name] if name in self.sums else math.nan


def history_csv(history: Iterable[dict]) -> str:
    """A history as CSV text, one row an epoch, numbers at six significant digits."""
    rows = list(history)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
    return text.getvalue()


def _windows(loader: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Groups batches that share one optimiser step; the last group may be shorter, and is not lost."""
    window: list[dict] = []
    for batch in loader:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _shares(counts: list[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _pixel_weights(criterion: nn.Module) -> Tensor | None:
    """The (C,) weights by which a semantic loss averages over pixels, on the CPU, where masks are counted."""
    if not isinstance(criterion, CombinedLoss) or criterion.dice.class_weights is None:
        return None
    return criterion.dice.class_weights.cpu()


def _weigh_labelled(semantic_mask: Tensor, ignore_index: int, weights: Tensor | None) -> float:
    """What a mean over labelled pixels divides by: their number, or the sum of their classes' weights."""
    labelled = semantic_mask != ignore_index  # (B, H, W)
    if weights is None:
        return float(labelled.sum())
    classes = torch.where(labelled, semantic_mask, len(weights)).flatten()  # (B·H·W,)
    # One class more, of weight 0, for what is not labelled: cutting those pixels out takes ten times as long.
    return float(torch.cat([weights, torch.zeros(1)]).index_select(0, classes).sum())


def _count_with_instances(instance_mask: Tensor) -> int:
    return int((instance_mask != NO_INSTANCE).flatten(1).any(dim=1).sum())


def _stop_if_not_finite(name: str, value: float, batches: list[dict]) -> None:
    if not math.isfinite(value):
        files = ", ".join(path for batch in batches for path in batch["image_path"])
        raise FloatingPointError(f"the {name} is {value} on the batch of {files}")


def _set_epoch(loader: DataLoader, epoch: int) -> None:
    """Tells data set and sampler which epoch it is, where they care."""
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
    if hasattr(loader.sampler, "epoch"):
        loader.sampler.epoch = epoch


def _cuda_devices(device: torch.device) -> list[int]:
    return [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else []
