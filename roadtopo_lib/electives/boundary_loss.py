"""The boundary loss: what a class claims is weighed by its distance to that class's true outline.

Reference:
    H. Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, equation 5.
"""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from roadtopo_lib.labels import IGNORE_INDEX


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the outline, positive outside, zero or negative inside: (H, W) bool → (H, W) float.

    A pixel outside has the distance to the nearest pixel inside; a pixel inside has one minus the distance to the
    nearest outside, so that the outline's own pixels have zero. A mask that is empty or full has no outline: zero.
    """
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return np.where(mask, 1 - distance_transform_edt(mask), distance_transform_edt(~mask))


class BoundaryLoss(nn.Module):
    """Mean of probability times signed distance, over the labelled pixels and all classes.

    It is added to a region loss such as Dice: alone it has nothing to say about a class that is absent. It may be
    negative, and is least where each class fills its true region. Far from the outline a false pixel costs more.

    Args:
        ignore_index: class id that takes part in nothing.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a scalar: logits (B, C, H, W) with at least two classes, target (B, H, W) integers.

        Raises:
            ValueError: shapes that do not fit each other, or a single channel.
        """
        count = logits.shape[1]
        if logits.ndim != 4 or count < 2 or target.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit")
        masks = target.cpu().numpy()
        maps = np.stack([[signed_distance(mask == c) for c in range(count)] for mask in masks])  # (B, C, H, W)
        valid = (target != self.ignore_index)[:, None]  # (B, 1, H, W)
        weighed = logits.float().softmax(dim=1) * torch.from_numpy(maps).to(logits.device, torch.float32)
        return (weighed * valid).sum() / (valid.sum().clamp(min=1) * count)
