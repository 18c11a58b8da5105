"""Automatic mixed precision: which float type autocast uses on which device, and whether gradients need scaling.

float16 keeps 10 bits of mantissa but ends at 6e-8: small gradients would become zero, so the loss is multiplied by a
large factor before the backward pass and the gradients are divided by it again. bfloat16 has the range of float32 and
needs no such factor, but only GPUs since Ampere (2020) calculate with it at full speed.

Reference:
    P. Micikevicius et al., "Mixed Precision Training", ICLR 2018 (loss scaling); D. Kalamkar et al., "A Study of
    BFLOAT16 for Deep Learning Training", 2019.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch

from roadtopo_lib.config import AMP_MODES


class AmpChoice(NamedTuple):
    """What the trainer hands to ``torch.autocast`` and ``torch.amp.GradScaler``."""

    enabled: bool
    dtype: torch.dtype
    use_scaler: bool

    def __str__(self) -> str:
        if not self.enabled:
            return "off (float32)"
        name = str(self.dtype).removeprefix("torch.")
        return f"{name} with loss scaling" if self.use_scaler else f"{name} without loss scaling"


OFF = AmpChoice(enabled=False, dtype=torch.float32, use_scaler=False)
FP16 = AmpChoice(enabled=True, dtype=torch.float16, use_scaler=True)
BF16 = AmpChoice(enabled=True, dtype=torch.bfloat16, use_scaler=False)


def choose_amp(device: torch.device | str, mode: str = "auto") -> AmpChoice:
    """The mixed precision to train with on a device.

    Args:
        device: where the model runs.
        mode: ``"auto"`` takes bfloat16 on GPUs that calculate with it natively, float16 on other GPUs and plain
            float32 everywhere else; ``"off"``, ``"fp16"`` and ``"bf16"`` are taken at their word.

    Returns:
        Whether autocast is on, its float type, and whether the gradients need a scaler.

    Raises:
        ValueError: ``mode`` is none of the four.
    """
    if mode == "auto":
        return _choose_by_device(torch.device(device))
    choices = {"off": OFF, "fp16": FP16, "bf16": BF16}
    if mode not in choices:
        raise ValueError(f"amp must be one of {AMP_MODES}, got {mode!r}")
    return choices[mode]


def _choose_by_device(device: torch.device) -> AmpChoice:
    if device.type != "cuda":
        return OFF
    # Without an index the question is about the current GPU, as in torch itself.
    with torch.cuda.device(device) if device.index is not None else nullcontext():
        # Plain is_bf16_supported() says yes on a T4 too, which only emulates bfloat16 and would be slower than float32.
        native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return BF16 if native_bf16 else FP16
