"""The training loss of both heads in one call.

Several batches may share one optimiser step (gradient accumulation). The mean over all their pixels is not the mean of
their means: a batch with twice the labelled pixels counts twice. So a criterion counts what its means divide by, and
receives each batch's share of the step as ``shares``. In a model without batch normalisation, cross-entropy and the
discriminative loss then have the gradient of the large batch. Dice, a ratio of sums, is averaged by the same shares,
which approximates Dice of the large batch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.distributed import images_in, mean_over_processes, sum_over_processes
from roadtopo_lib.labels import IGNORE_INDEX, NO_INSTANCE
from roadtopo_lib.losses.discriminative import DiscriminativeLoss
from roadtopo_lib.losses.region import CombinedLoss


class Criterion(Protocol):
    """The contract that the trainer relies on."""

    def __call__(self, outputs: dict, batch: dict, shares: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares the outputs of a model with a batch.

        Args:
            outputs: ``logits`` (B, C, h, w) and ``embeddings`` (B, D, h, w), as the heads give them.
            batch: a batch of ``LaneInstanceDataset`` on the same device, masks (B, H, W).
            shares: (K,) the batch's shares of an optimiser step, each 0..1, in the order of ``counts``; ``None`` if the
                batch is the whole step.

        Returns:
            The scalar to call ``backward`` on, and named scalars to record, detached. One of them is ``loss``, the loss
            of this batch alone; without ``shares`` both are equal.
        """

    def counts(self, batch: dict) -> Tensor:
        """(K,) float: what each mean in the loss divides by, counted in a batch on the CPU."""


class LaneCriterion:
    """A semantic loss on the logits plus an instance loss on the embeddings.

    Args:
        semantic: (logits (B, C, H, W), mask (B, H, W)) → scalar, a mean over labelled pixels.
        instance: (embeddings (B, D, h, w), instance mask (B, H, W)) → (scalar, named parts), a mean over images with
            instances.
        semantic_weight, instance_weight: weights of both in the sum, >= 0.
        ignore_index: semantic id of unlabelled pixels, as in ``semantic``.
        class_weights: (C,) by which ``semantic`` averages over pixels, as in ``semantic``; ``None`` for equal ones.
    """

    def __init__(
        self, semantic: nn.Module, instance: nn.Module, semantic_weight: float = 1.0, instance_weight: float = 0.5,
        ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.semantic = semantic
        self.instance = instance
        self.semantic_weight = semantic_weight
        self.instance_weight = instance_weight
        self.ignore_index = ignore_index
        self.class_weights = class_weights

    @classmethod
    def from_config(cls, config: LaneSegmentationConfig, class_weights: Tensor | None = None) -> "LaneCriterion":
        """Cross-entropy plus Dice, and the discriminative loss, with the config's margins and weights.

        Args:
            class_weights: (C,) from ``losses.class_weights``, or ``None`` for equal ones.
        """
        common = {"ignore_index": config.ignore_index, "class_weights": class_weights}
        semantic = CombinedLoss(ce_weight=config.ce_weight, dice_weight=config.dice_weight, **common)
        instance = DiscriminativeLoss(config.delta_var, config.delta_dist, config.alpha, config.beta, config.gamma)
        return cls(semantic, instance, config.semantic_weight, config.instance_weight, **common)

    def __call__(self, outputs: dict, batch: dict, shares: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Criterion``. Records ``loss``, ``semantic``, ``instance`` and the parts of the instance loss."""
        # The embeddings stay small: their loss reads them at labelled pixels only.
        size = batch["semantic_mask"].shape[1:]
        logits = F.interpolate(outputs["logits"], size, mode="bilinear", align_corners=False)  # (B, C, H, W)
        semantic = self.semantic(logits, batch["semantic_mask"])
        instance, parts = self.instance(outputs["embeddings"], batch["instance_mask"])
        loss = self.semantic_weight * semantic + self.instance_weight * instance
        recorded = {"loss": loss.detach(), "semantic": semantic.detach(), "instance": instance.detach(), **parts}
        if shares is None:
            return loss, recorded
        of_pixels, of_images = shares.tolist()
        return of_pixels * self.semantic_weight * semantic + of_images * self.instance_weight * instance, recorded

    def counts(self, batch: dict) -> Tensor:
        """(2,): labelled pixels (by class weight if there are any), and images with instances."""
        mask = batch["semantic_mask"]
        labelled = mask != self.ignore_index  # (B, H, W)
        if self.class_weights is None:
            pixels = labelled.sum()
        else:
            pixels = self.class_weights.cpu()[mask[labelled]].sum()
        images = (batch["instance_mask"] != NO_INSTANCE).flatten(1).any(dim=1).sum()
        return torch.stack([pixels.float(), images.float()])


class MeanOverImages:
    """A criterion made of a plain function whose loss is a mean over the images of a batch.

    Args:
        function: (outputs, batch) → (loss, named scalars).
    """

    def __init__(self, function: Callable[[dict, dict], tuple[Tensor, dict[str, Tensor]]]) -> None:
        self.function = function

    def __call__(self, outputs: dict, batch: dict, shares: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Criterion``."""
        loss, parts = self.function(outputs, batch)
        images = torch.tensor(images_in(batch), device=loss.device)
        loss, parts = mean_over_processes(loss, images), {k: mean_over_processes(v, images) for k, v in parts.items()}
        return loss if shares is None else loss * shares.item(), {**parts, "loss": loss.detach()}

    def counts(self, batch: dict) -> Tensor:
        """(1,): the images."""
        return torch.tensor([float(images_in(batch))])


def shares_of_step(criterion: Criterion, batches: Sequence[dict]) -> list[Tensor | None]:
    """Each batch's shares (K,) of an optimiser step; ``None`` for a batch that is alone in its step."""
    if len(batches) == 1:
        return [None]
    counts = sum_over_processes(torch.stack([criterion.counts(batch) for batch in batches]))  # (batches, K)
    return list(counts / counts.sum(dim=0).clamp(min=torch.finfo(counts.dtype).tiny))
