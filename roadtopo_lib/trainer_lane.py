"""The training loop of a lane model.

One optimiser step, in this order (each line matters, notebook 5 breaks them one by one):

    forward under autocast → scale → backward → unscale → clip → step → update the scale → zero the gradients

The loop calls ``LaneModel``, ``Criterion``, ``RunState`` and recorders through their interfaces only. Embeddings are
read at labelled pixels only: the (B, D, H, W) tensor never exists during training.
"""

import copy
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from roadtopo_lib import distributed
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import progress_bar
from roadtopo_lib.data.sampling import batches_of_epoch, group_batches
from roadtopo_lib.losses import Criterion, LaneCriterion, shares_of_step
from roadtopo_lib.models import LaneModel, check_classes, choose_device, class_logits, upsample_to
from roadtopo_lib.processes import Stopped, StopSignals
from roadtopo_lib.seeding import own_generators, seed_generators
from roadtopo_lib.training.amp import choose_amp
from roadtopo_lib.training.meter import MaskScores, Meter
from roadtopo_lib.training.optimizer import build_optimizer, build_scheduler
from roadtopo_lib.training.recorders import Recorder
from roadtopo_lib.training.run_state import RunState


class LaneSegmentationTrainer:
    """Trains a lane model on batches of ``LaneInstanceDataset``.

    Args:
        model: any ``LaneModel``; moved to ``device``.
        config: every number used here; default the guide's.
        criterion: default ``LaneCriterion.from_config(config)``.
        optimizer: default ``build_optimizer(model, config)``: AdamW, or Muon where ``config.muon_lr`` is above 0.
        device: default CUDA if there is one, else CPU.
        recorders: told of every step and every epoch.
        progress: show progress bars (on a terminal only).

    Attributes:
        state: epochs and steps done, the history, the best loss and weights.
        train_metrics, val_metrics: the latest epoch's means.
    """

    def __init__(
        self, model: LaneModel, config: LaneSegmentationConfig | None = None, criterion: Criterion | None = None,
        optimizer: torch.optim.Optimizer | None = None, device: str | torch.device | None = None,
        recorders: Sequence[Recorder] = (), progress: bool = True,
    ) -> None:  # fmt: skip
        self.config = config or LaneSegmentationConfig()
        self.device = choose_device(device)
        check_classes(model, self.config)
        self.model = model.to(self.device)
        self.network = distributed.parallel(self.model)  # of a single process the model itself
        self.criterion = criterion or LaneCriterion.from_config(self.config)
        self.optimizer = optimizer or build_optimizer(model, self.config)
        self.recorders = tuple(recorders)
        self.progress = progress and distributed.is_writer()
        self.amp = choose_amp(self.device, self.config.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp.use_scaler)
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None  # ``fit`` makes it
        self.state, self.meter = RunState(), Meter()
        self.signals = StopSignals()  # heard while ``fit`` runs
        self.train_metrics, self.val_metrics = {}, {}

    @property
    def history(self) -> list[dict]:
        """One dict an epoch: losses and their parts, validation mIoU, learning rates, gradient norm, seconds."""
        return self.state.history

    def fit(
        self, train_loader: DataLoader, val_loader: DataLoader, epochs: int | None = None,
        resume: RunState | None = None,
    ) -> list[dict]:  # fmt: skip
        """Trains for ``config.epochs`` epochs, or until ``config.patience`` have brought no better validation loss.

        Then the model holds the best epoch's weights. A run that ends earlier keeps its latest: another call goes on
        from there, and the sum of both equals one call. SIGINT and SIGTERM end it between two steps.

        Args:
            train_loader, val_loader: from ``dataset.build_loader``, with and without ``shuffle``.
            epochs: how many epochs to train now, at most; default all that are left.
            resume: where to go on, from ``snapshot`` or ``RunFolder.newest``; default this trainer's own state.

        Returns ``history``.

        Raises:
            FloatingPointError: see ``train_epoch`` and ``validate``; what earlier epochs have recorded stays.
            Stopped: a ``KeyboardInterrupt``, after a signal.
            ValueError: ``resume`` belongs to a run with other settings or data.
        """
        if resume is not None:
            self.state = resume.restore(self)
        self.state.check_batches(len(train_loader))
        total_steps = self.config.epochs * math.ceil(len(train_loader) / self.config.accumulation_steps)
        self.scheduler = build_scheduler(self.optimizer, total_steps, self.config.warmup_fraction, self.state.step)
        pause = math.inf if epochs is None else self.state.epoch + epochs
        try:
            with self.signals:
                while not self.finished and self.state.epoch < pause:
                    started = time.perf_counter()
                    self.train_epoch(train_loader)
                    with self.state.counts_if_judged():
                        self.validate(val_loader)
                    self._finish_epoch(time.perf_counter() - started)
            if self.finished and self.state.best_model is not None and self.state.model is None:
                self.state.model = copy.deepcopy(self.model.state_dict())  # a longer run would go on from the last
                self.model.load_state_dict(self.state.best_model)
        except Stopped:
            self._tell("between_steps", True)
            raise
        finally:
            self._tell("on_end")
        return self.history

    def train_epoch(self, loader: DataLoader) -> float:
        """One pass over the training set, or the rest of one that was interrupted.

        Returns the mean of the batches' losses, weighted by their images; the parts are in ``train_metrics``.

        Raises:
            FloatingPointError: a loss, or without loss scaling a step's gradient, is NaN or infinite; names the files
                of the batch. The step is not taken.
        """
        self.model.train()
        self.state.model = None
        seed, epoch, size = self.config.seed, self.state.epoch, self.config.accumulation_steps
        if self.state.batch == 0:
            self.meter = Meter()
        with own_generators(self.device, seed, epoch):
            groups = group_batches(batches_of_epoch(loader, epoch, self.state.batch), size)
            steps = math.ceil((len(loader) - self.state.batch) / size)
            for batches in self._bar(groups, f"epoch {epoch + 1}", "step", steps):
                seed_generators(seed, epoch, self.state.batch, distributed.rank())  # all that dropout draws from
                self.train_step(batches, self.meter)
                self.state.batch += len(batches)
                self._tell("between_steps", False)
                self.signals.check(distributed.highest)
        self.state.epoch, self.state.batch = epoch + 1, 0
        self.train_metrics = {**self.meter.means(), "grad_norm": self.meter.mean("grad_norm")}
        return self.train_metrics["loss"]

    def train_step(self, batches: Sequence[dict], meter: Meter) -> None:
        """One optimiser step from one or several batches, each with its shares of the step, see ``Criterion``."""
        self.optimizer.zero_grad(set_to_none=True)  # of a step that was stopped or interrupted, if there was one
        losses, images = [], distributed.count_images(batches)
        for batch, shares, count in zip(batches, shares_of_step(self.criterion, batches), images, strict=True):
            with distributed.exchanging(self.network, now=batch is batches[-1]):
                objective, values, _ = self._forward(batch, shares)
                self.scaler.scale(objective).backward()
            losses.append(values["loss"])
            meter.add(values, weight=count)
        self.scaler.unscale_(self.optimizer)  # clipping must see true gradients, not scaled ones
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        # All checks at once: reading a number makes the processor wait for the GPU, here once a step.
        *losses, norm_found = torch.stack([*losses, norm]).tolist()
        scale_before = self.scaler.get_scale()
        if not np.isfinite(losses).all():
            self.scaler.update()  # forgets the gradients of this step, so that another one may follow
        for batch, loss in zip(batches, losses, strict=True):
            _stop_if_not_finite("loss", loss, [batch])
        if not self.scaler.is_enabled():  # a scaler meets infinite gradients now and then, and skips the step itself
            _stop_if_not_finite("gradient norm", norm_found, batches)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < scale_before:
            return  # the step was skipped (fp16 overflow): the schedule waits, and an infinite norm tells nothing
        meter.add({"grad_norm": norm}, weight=1)
        self.state.step += 1
        if self.scheduler is not None:
            self.scheduler.step()
        loss = float(np.average(losses, weights=images))
        self._tell("on_step", {"loss": loss, "grad_norm": norm_found})

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> float:
        """One pass over the validation set, in evaluation mode.

        Returns the mean of the batches' losses, weighted by images; the parts and scores are in ``val_metrics``.

        Raises:
            FloatingPointError: the loss is NaN or infinite; names the files of the batch.
        """
        self.model.eval()
        meter = Meter()
        boundary = any("mbou" in getattr(recorder, "scores", ()) for recorder in self.recorders)
        scores = MaskScores(self.model.num_classes, self.config.ignore_index, boundary)
        for batch in self._bar(loader, "validation", "batch"):
            _, values, outputs = self._forward(batch)
            _stop_if_not_finite("validation loss", values["loss"].item(), [batch])
            meter.add(values, weight=distributed.count_images([batch])[0])
            logits = class_logits(upsample_to(outputs["logits"], batch["semantic_mask"].shape[1:]))
            scores.update(logits.argmax(dim=1).cpu().numpy(), batch["semantic_mask"].numpy())
            self.signals.check(distributed.highest)
        self.val_metrics = {**meter.means(), **scores.to_dict()}
        return self.val_metrics["loss"]

    def snapshot(self) -> RunState:
        """The run between two steps, in copies: ``fit`` goes on from it, in this trainer or a new one."""
        return copy.deepcopy(RunState.of(self))

    def _forward(self, batch: dict, shares: torch.Tensor | None = None) -> tuple:
        """One batch through model and criterion: what to call ``backward`` on, scalars to record, the outputs."""
        on_device = {k: v.to(self.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}
        with torch.autocast(self.device.type, dtype=self.amp.dtype, enabled=self.amp.enabled):
            outputs = self.network(on_device["image"], upsample=False)
            objective, values = self.criterion(outputs, on_device, shares)
        return objective, values, outputs

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``config.patience`` has run out."""
        return self.state.epoch >= self.config.epochs or self.state.stale_epochs >= self.config.patience

    def _finish_epoch(self, seconds: float) -> None:
        parts = {"train": self.train_metrics, "val": self.val_metrics}
        row = {"epoch": self.state.epoch}
        row |= {f"{part}_{name}": value for part, metrics in parts.items() for name, value in metrics.items()}
        row |= {f"lr_{group.get('name', i)}": group["lr"] for i, group in enumerate(self.optimizer.param_groups)}
        row["seconds"] = seconds
        self.history.append(row)
        self.state.stale_epochs += 1
        if self.val_metrics["loss"] < self.state.best_val_loss:
            self.state.best_val_loss, self.state.stale_epochs = self.val_metrics["loss"], 0
            self.state.best_model = copy.deepcopy(self.model.state_dict())
        self._tell("on_epoch", row)

    def _tell(self, event: str, *values: object) -> None:
        for recorder in self.recorders if distributed.is_writer() else ():
            if hasattr(recorder, event):
                getattr(recorder, event)(self, *values)

    def _bar(self, batches: Iterable, text: str, unit: str, total: int | None = None) -> Iterable:
        return progress_bar(batches, text, total, leave=False, unit=unit, disable=None if self.progress else True)


def _stop_if_not_finite(name: str, value: float, batches: Sequence[dict]) -> None:
    if not math.isfinite(value):
        files = ", ".join(path for batch in batches for path in batch["image_path"] if path)
        raise FloatingPointError(f"the {name} is {value} on the batch of {files}")
