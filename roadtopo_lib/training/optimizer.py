"""What a training run minimises, and how fast: losses, optimiser and learning-rate schedule from one config."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.losses import CombinedLoss, DiscriminativeLoss
from roadtopo_lib.segformer import SegFormerModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of one step X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X: they were chosen to converge fast, and leave the
singular values between about 0.7 and 1.2."""

NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.AdamW):
    """AdamW for most parameters; the matrices of hidden layers move by orthogonalised momentum.

    A gradient matrix is strong in a few directions and weak in all others. Muon takes its momentum M = U S Vᵀ and moves
    by about U Vᵀ, in all directions alike; a matrix product finds it without any decomposition. ``torch.optim.Muon``
    does the same for one matrix after the other in bfloat16, which a CPU is slow at. Here all matrices of one shape are
    orthogonalised together, in float32.

    Args:
        groups: as of AdamW. A group with ``"matrices": True`` is moved by Muon, its convolutions (out, in, h, w) as
            matrices (out, in·h·w); its ``lr`` is Muon's.
        momentum: decay of Muon's momentum, 0..1; it looks ahead by Nesterov's rule.
        **adamw: arguments of AdamW for all other groups; its ``weight_decay`` holds for matrices, too.

    Reference:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, groups: Sequence[dict], momentum: float = 0.95, **adamw: object) -> None:
        super().__init__(groups, **adamw)
        self.momentum = momentum
        self._step_supports_amp_scaling = False  # a gradient scaler leaves out a step by itself, for matrices as well

    def step(self) -> None:
        """One step of all groups that have gradients."""
        groups = [group for group in self.param_groups if group.get("matrices")]
        gradients = {p: p.grad for group in groups for p in group["params"] if p.grad is not None}
        for p in gradients:
            p.grad = None  # AdamW passes over them
        super().step()
        for p, gradient in gradients.items():
            p.grad = gradient
        for group in groups:
            self._move_matrices([p for p in group["params"] if p in gradients], group["lr"], group["weight_decay"])

    @torch.no_grad()
    def _move_matrices(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for p in parameters:
            state = self.state[p]
            if not state:
                state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(p))
            state["step"] += 1  # AdamW wants one wherever there is a state
            average = state["momentum"].lerp_(p.grad, 1 - self.momentum)
            wide = _wide(p.grad.lerp(average, self.momentum))  # (r, c), r ≤ c
            by_shape.setdefault(tuple(wide.shape), []).append((p, wide))
        for members in by_shape.values():
            updates = orthogonalized(torch.stack([wide for _, wide in members]))  # (K, r, c)
            for (p, _), update in zip(members, updates, strict=True):
                rows, columns = p.flatten(1).shape
                update = (update if rows <= columns else update.T).reshape(p.shape)
                p.mul_(1 - lr * weight_decay).add_(update, alpha=-lr * max(1.0, rows / columns) ** 0.5)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices (K, r, c) with r ≤ c, brought near those with the same singular vectors and singular values of 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (torch.linalg.matrix_norm(matrices)[:, None, None] + 1e-7)  # now no singular value exceeds 1
    for _ in range(NEWTON_SCHULZ_STEPS):
        squares = x @ x.mT  # (K, r, r)
        x = a * x + (b * squares + c * squares @ squares) @ x
    return x


def _wide(matrix: Tensor) -> Tensor:
    """(out, in, ...) as a matrix that is not higher than wide."""
    matrix = matrix.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def build_optimizer(model: SegFormerModel, config: LaneSegmentationConfig) -> torch.optim.AdamW:
    """AdamW with the encoder at ``lr * encoder_lr_scale`` and the heads at ``lr``.

    With ``muon_lr`` the matrices of hidden layers have groups of their own, at ``muon_lr`` times the same scale, and
    are moved by ``Muon``. What is a vector stays with AdamW, and so do depthwise convolutions, whose filters are
    vectors, and the classifiers, whose rows are the answers.
    """
    # fused: one kernel for all parameters; the default takes a tenth of a step of the tiny model on a CPU.
    adamw = {"betas": config.betas, "weight_decay": config.weight_decay, "fused": True}
    groups = model.get_trainable_params(config.encoder_lr_scale)
    if not config.muon_lr:
        kept = [{"name": g["name"], "params": g["params"], "lr": config.lr * g["lr_scale"]} for g in groups]
        return torch.optim.AdamW(kept, **adamw)
    split = []
    of_classifiers = {p for name, p in model.named_parameters() if "classifier" in name}
    for group in groups:
        hidden = {p for p in group["params"] if p.ndim > 1 and p.shape[1] > 1} - of_classifiers
        for matrices, lr in ((False, config.lr), (True, config.muon_lr)):
            split.append(
                {
                    "name": f"{group['name']} matrices" if matrices else group["name"],
                    "params": [p for p in group["params"] if (p in hidden) == matrices],
                    "lr": lr * group["lr_scale"],
                    "matrices": matrices,
                }
            )
    return Muon(split, **adamw)


def build_scheduler(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_fraction: float, step: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then half a cosine down to zero, counted in optimiser steps.

    Args:
        total_steps: after these the rate is zero.
        warmup_fraction: share of them with a rising rate, 0..1.
        step: steps already taken; the optimiser then knows its base rates from the schedule it had before.

    Reference:
        I. Loshchilov, F. Hutter, "SGDR", ICLR 2017 (cosine).
    """
    warmup = round(warmup_fraction * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=step - 1)


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
