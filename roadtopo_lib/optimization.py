"""What a training run minimises, and how fast: losses, optimiser and learning-rate schedule from one config."""

import math

import torch
from torch import Tensor

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.losses import CombinedLoss, DiscriminativeLoss
from roadtopo_lib.segformer import SegFormerModel


def build_optimizer(model: SegFormerModel, config: LaneSegmentationConfig) -> torch.optim.AdamW:
    """AdamW with the encoder at ``lr * encoder_lr_scale`` and the heads at ``lr``."""
    groups = [
        {"name": group["name"], "params": group["params"], "lr": config.lr * group["lr_scale"]}
        for group in model.get_trainable_params(config.encoder_lr_scale)
    ]
    # fused: one kernel for all parameters; the default takes a tenth of a step of the tiny model on a CPU.
    return torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def build_scheduler(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_fraction: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then half a cosine down to zero, counted in optimiser steps.

    Reference:
        I. Loshchilov, F. Hutter, "SGDR", ICLR 2017 (cosine).
    """
    warmup = round(warmup_fraction * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def build_semantic_criterion(config: LaneSegmentationConfig, class_weights: Tensor | None = None) -> CombinedLoss:
    """Cross-entropy plus Dice as the config weighs them.

    Args:
        class_weights: (C,) or ``None``.
    """
    return CombinedLoss(
        ce_weight=config.ce_weight,
        dice_weight=config.dice_weight,
        ignore_index=config.ignore_index,
        class_weights=class_weights,
    )


def build_instance_criterion(config: LaneSegmentationConfig) -> DiscriminativeLoss:
    """The discriminative loss with the config's margins and weights."""
    return DiscriminativeLoss(config.delta_var, config.delta_dist, config.alpha, config.beta, config.gamma)
