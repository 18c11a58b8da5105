"""How a training run moves the weights: optimiser and learning-rate schedule from one config."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from roadtopo_lib.config import LaneSegmentationConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of one step X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X: they were chosen to converge fast, and leave the
singular values between about 0.7 and 1.2."""

NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of hidden layers, AdamW for all other parameters.

    A gradient matrix is strong in a few directions and weak in all others. Muon takes its momentum M = U S Vᵀ and moves
    the weights by about U Vᵀ, in all directions alike; matrix products find U Vᵀ without a decomposition.
    ``torch.optim.Muon`` orthogonalises one matrix after the other in bfloat16, which is slow on a CPU. This class
    orthogonalises all matrices of one shape together, in float32.

    A group with ``"matrices": True`` is moved by Muon; a convolution (out, in, h, w) counts as a matrix (out, in·h·w).
    All other groups are moved by AdamW.

    Args:
        params: parameters or groups, as of any optimiser of torch. Each of the following can be set per group, too.
        lr: learning rate, >= 0.
        betas: decay of AdamW's averages of the gradient and of its square, each 0..1.
        eps: added to AdamW's denominator.
        weight_decay: decoupled weight decay of both rules, >= 0.
        momentum: decay of Muon's momentum, 0..1; it looks ahead by Nesterov's rule.

    Raises:
        ValueError: a group of matrices holds a parameter with fewer than two axes.

    Reference:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; I. Loshchilov, F. Hutter,
        "Decoupled Weight Decay Regularization", ICLR 2019 (AdamW), algorithm 2.
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.01, momentum: float = 0.95,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**defaults, "matrices": False})

    def add_param_group(self, param_group: dict) -> None:
        """Adds a group, see the class; ValueError for matrices without two axes."""
        super().add_param_group(param_group)
        for p in param_group["params"]:
            if param_group["matrices"] and p.ndim < 2:
                raise ValueError(f"a group of matrices holds a parameter {tuple(p.shape)}, expected two axes")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Moves every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients anew, if given.

        Returns:
            The closure's loss, or ``None`` without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["matrices"]:
                self._muon(parameters, group)
            else:
                self._adamw(parameters, group)
        return loss

    def _adamw(self, parameters: list[nn.Parameter], group: dict) -> None:
        for p in parameters:
            if not self.state[p]:
                step = torch.tensor(0.0)  # on the CPU: reading it waits for no other device
                self.state[p].update(step=step, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters],
            exp_avgs=[state["exp_avg"] for state in states],
            exp_avg_sqs=[state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[], state_steps=[state["step"] for state in states], amsgrad=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
            eps=group["eps"], maximize=False,
        )  # fmt: skip

    def _muon(self, parameters: list[nn.Parameter], group: dict) -> None:
        lr, momentum = group["lr"], group["momentum"]
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
            wide = _wide(p.grad.lerp(average, momentum))  # (r, c), r ≤ c
            by_shape.setdefault(tuple(wide.shape), []).append((p, wide))
        for members in by_shape.values():
            updates = orthogonalized(torch.stack([wide for _, wide in members]))  # (K, r, c)
            for (p, _), update in zip(members, updates, strict=True):
                rows, columns = p.flatten(1).shape
                update = (update if rows <= columns else update.T).reshape(p.shape)
                p.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr * max(1.0, rows / columns) ** 0.5)


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


def build_optimizer(model: nn.Module, config: LaneSegmentationConfig) -> torch.optim.Optimizer:
    """The optimiser of a training run: Muon with AdamW, or AdamW alone if ``muon_lr`` is 0.

    The rate of a group is ``muon_lr`` for matrices of hidden layers and ``lr`` for all else, times the group's scale.
    AdamW alone moves the matrices of each part in one group with the part's other parameters.

    Args:
        model: has ``parameter_groups(encoder_lr_scale)``, as ``SegFormerModel.parameter_groups``.
        config: ``lr``, ``muon_lr``, ``encoder_lr_scale``, ``betas`` and ``weight_decay`` are used.

    Returns:
        ``Muon``, or ``torch.optim.AdamW`` if ``muon_lr`` is 0. Its groups have the keys ``name`` and ``lr``.
    """
    parts = model.parameter_groups(config.encoder_lr_scale)
    shared = {"betas": config.betas, "weight_decay": config.weight_decay}
    if config.muon_lr:
        groups = []
        for part in parts:
            lr = config.muon_lr if part["matrices"] else config.lr
            groups.append({**part, "lr": lr * part["lr_scale"]})
        return Muon(groups, **shared)

    merged: dict[str, dict] = {}
    for part in parts:
        name = part["name"].removesuffix(" matrices")
        group = merged.setdefault(name, {"name": name, "params": [], "lr": config.lr * part["lr_scale"]})
        group["params"].extend(part["params"])
    # fused: one kernel for all parameters; the default takes a tenth of a step of the tiny model on a CPU.
    return torch.optim.AdamW(list(merged.values()), **shared, fused=True)


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
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # a schedule that begins at a later step asks for it

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=step - 1)
