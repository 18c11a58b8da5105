"""Grad-CAM for segmentation, and two tests of whether such a map says anything about the model.

Sources: Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2; Vinogradova et al. 2020, "Towards interpretable semantic
segmentation via gradient-weighted class activation mapping", for the sum over pixels; Adebayo et al. 2018, "Sanity
checks for saliency maps"; Petsiuk et al. 2018, "RISE", for the deletion curve.

Axes: B images, C classes, K channels of a layer, H and W image pixels, h and w pixels of the layer.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from roadtopo_lib.models import upsample_to


def grad_cam(
    model: nn.Module, images: Tensor, class_id: int, layer: str | None = None, pixels: Tensor | None = None
) -> Tensor:
    """Where a layer's channels that raise the logits of a class are active.

    Each channel weighs as much as the mean gradient that the summed logits have in it; the weighted channels are
    added, negative sums become 0, and each map is divided by its largest value.

    Args:
        model: a ``LaneModel``; it works in evaluation mode here, and its gradients and mode stay as they were.
        images: (B, 3, H, W) float in [0, 1].
        class_id: 0..C−1.
        layer: name of a module as in ``model.named_modules()`` that gives (B, K, h, w). ``None`` takes the last one
            of those with the fewest pixels: the end of SegFormer's last stage, the lowest block of a U-Net.
        pixels: (B, H, W) bool, whose logits are summed; ``None`` takes all.

    Returns:
        (B, H, W) in [0, 1], enlarged bilinearly; zeros where no channel raises the logits.

    Raises:
        ValueError: no such class, no such layer, or a layer that gives no map or has no part in the logits.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer is not None and layer not in names:
        raise ValueError(f"the model has no layer {layer!r}; its layers are {', '.join(names)}")
    maps = {}

    def keep(name: str) -> nn.Module:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                maps.pop(name, None)  # the dict lists maps in the order in which they were last made
                maps[name] = output

        return hook

    hooks = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if n and layer in (None, n)]
    modes = [(module, module.training) for module in model.modules()]  # a part may be frozen while others train
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = model(images.detach().clone().requires_grad_(True))["logits"]  # frozen weights need it, too
            if not 0 <= class_id < logits.shape[1]:
                raise ValueError(f"class_id is {class_id}, expected 0 to {logits.shape[1] - 1}")
            if not maps:
                raise ValueError(f"{layer or 'the model'} gives no map (B, K, h, w)")
            features = maps[min(reversed(maps), key=lambda name: maps[name].shape[2:].numel())]
            chosen = logits[:, class_id] if pixels is None else logits[:, class_id] * pixels
            (gradients,) = torch.autograd.grad(chosen.sum(), features, allow_unused=True)
    finally:
        for module, mode in modes:
            module.training = mode
        for hook in hooks:
            hook.remove()
    if gradients is None:
        raise ValueError(f"{layer or 'the layer'} has no part in the logits")
    weights = gradients.mean(dim=(2, 3), keepdim=True)  # (B, K, 1, 1)
    cam = (weights * features).sum(dim=1, keepdim=True).relu()  # (B, 1, h, w)
    cam = upsample_to(cam.detach(), images.shape[2:])[:, 0]
    return cam / cam.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(cam.dtype).tiny)


def randomized_from_the_top(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the model in which more and more layers are random, from the outputs down to the image.

    A layer is a module with weights of its own; its weights are shuffled among themselves, so that their spread stays.
    A map that remains the same does not come from what the model has learnt.

    Yields:
        The layer that was shuffled last, and the copy: a new one each time.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = [(name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    for name, module in reversed(layers):
        with torch.no_grad():
            for weight in module.parameters(recurse=False):
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
        yield name, copy.deepcopy(model)


def deletion_curve(
    model: nn.Module, images: Tensor, class_id: int, cam: Tensor, pixels: Tensor, steps: int = 10
) -> np.ndarray:
    """Mean probability of a class while the image is greyed out, from where ``cam`` is largest to where it is least.

    A map that shows what the model looks at makes the curve fall faster than a random order does.

    Args:
        model: a ``LaneModel`` in evaluation mode.
        images: (B, 3, H, W) float in [0, 1].
        class_id: 0..C−1.
        cam: (B, H, W), any scale.
        pixels: (B, H, W) bool, where the probability is read; at least one pixel.
        steps: how many equal shares of the pixels are deleted, one after another.

    Returns:
        (steps + 1,): entry k with a share k / steps deleted; each pixel deleted takes its image's mean colour.

    Raises:
        ValueError: ``pixels`` is empty.
    """
    if not pixels.any():
        raise ValueError("pixels is empty, expected at least one pixel whose probability is read")
    grey = images.mean(dim=(2, 3), keepdim=True)
    ranks = (
        cam.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(cam)
    )  # 0 is deleted first
    curve = []
    with torch.inference_mode():
        for step in range(steps + 1):
            deleted = (ranks < step / steps * cam[0].numel())[:, None]
            probabilities = model(torch.where(deleted, grey, images))["logits"].softmax(dim=1)[:, class_id]
            curve.append(float(probabilities[pixels].mean()))
    return np.array(curve)
