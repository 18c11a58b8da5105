"""The discriminative loss: embeddings of one instance lie close together, those of different instances far apart.

The loss has three terms. The variance term pulls a pixel towards the mean of its instance if it is more than delta_var
away. The distance term pushes two means apart if they are less than 2 * delta_dist apart. The regularisation term keeps
the means near the origin. When the first two terms are zero, every pixel lies within delta_var of its own mean.

Axes: B batch, D embedding dimensions, (h, w) size of the embeddings, (H, W) size of the labels, N labelled pixels in
the batch, K number of instances in the image that has the most.
"""

import torch
from torch import Tensor, nn

from roadtopo_lib.labels import NO_INSTANCE


class DiscriminativeLoss(nn.Module):
    """Pulls the embeddings of one instance together and pushes the means of different instances apart.

    With C instances in an image, N_c pixels x_i in instance c and μ_c their mean::

        variance        1/C        Σ_c   1/N_c Σ_i  max(0, ‖μ_c − x_i‖ − δ_var)²
        distance        1/(C(C−1)) Σ_{A≠B}          max(0, 2 δ_dist − ‖μ_A − μ_B‖)²
        regularization  1/C        Σ_c              ‖μ_c‖

    Each is a mean over the images that have an instance; a batch without any, an empty batch too, gives zero, and zero
    gradients. Every instance has the same weight, however few pixels it has. Two equal means get no gradient from the
    distance term, because no direction is defined between them.

    Args:
        delta_var: pull margin, in units of the embedding space, >= 0.
        delta_dist: push margin, >= 0: the distance term is zero for means at least ``2 * delta_dist`` apart.
        alpha, beta, gamma: weights of the three terms, >= 0.

    Raises:
        ValueError: a negative margin or weight.

    Reference:
        B. De Brabandere, D. Neven, L. Van Gool, "Semantic Instance Segmentation with a Discriminative Loss Function",
        2017, https://arxiv.org/abs/1708.02551, equations 1 to 4.
    """

    def __init__(
        self, delta_var: float = 0.5, delta_dist: float = 1.5, alpha: float = 1.0, beta: float = 1.0,
        gamma: float = 0.001,
    ) -> None:  # fmt: skip
        super().__init__()
        settings = {"delta_var": delta_var, "delta_dist": delta_dist, "alpha": alpha, "beta": beta, "gamma": gamma}
        for name, value in settings.items():
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected at least 0")
            setattr(self, name, value)

    def forward(self, embeddings: Tensor, instance_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares the embeddings with the instances.

        Args:
            embeddings: (B, D, h, w), any float type. If (h, w) is not (H, W), they are interpolated bilinearly, at the
                labelled pixels only.
            instance_mask: (B, H, W) integers; 0 = no instance, any positive number an id.

        Returns:
            The weighted sum of the three terms, a scalar in float32 (float64 for float64 embeddings), and the terms
            themselves, detached and unweighted: ``variance``, ``distance``, ``regularization``.

        Raises:
            ValueError: wrong shapes, batches of different sizes, or a mask that does not hold ids.
        """
        _check_inputs(embeddings, instance_mask)
        image, row, column = (instance_mask != NO_INSTANCE).nonzero(as_tuple=True)  # (N,) each
        ids = instance_mask[image, row, column].long()  # (N,), torch cannot sort uint16
        slot, instances, most = _number_instances(ids, image, len(instance_mask))
        pixels = gather_embeddings(embeddings, image, row, column, instance_mask.shape[1:])  # (N, D)

        shape = (len(instances), most)  # (B, K); rows of images with fewer instances end in empty slots
        size = torch.bincount(slot, minlength=shape[0] * shape[1]).clamp(min=1)[:, None]  # (B·K, 1)
        means = pixels.new_zeros(len(size), pixels.shape[1]).index_add(0, slot, pixels) / size  # (B·K, D)

        deviation = torch.linalg.vector_norm(pixels - means.index_select(0, slot), dim=1, keepdim=True)  # (N, 1)
        pull = (deviation - self.delta_var).relu().square()
        pull = pixels.new_zeros(len(size), 1).index_add(0, slot, pull) / size  # (N, 1) → (B·K, 1)
        pull = pull.view(shape).sum(dim=1)  # (B·K, 1) → (B,)

        means = means.view(*shape, pixels.shape[1])  # (B·K, D) → (B, K, D)
        push = self._push(means, instances)  # (B,)
        norms = torch.linalg.vector_norm(means, dim=2).sum(dim=1)  # (B,), an empty slot's mean is zero

        # Without an instance, a pair or an image the sum is zero: 0 / 1 avoids 0 / 0.
        count = instances.clamp(min=1)
        pairs = (instances * (instances - 1)).clamp(min=1)
        images = (instances > 0).sum().clamp(min=1)
        variance = (pull / count).sum() / images
        distance = (push / pairs).sum() / images
        regularization = (norms / count).sum() / images

        loss = self.alpha * variance + self.beta * distance + self.gamma * regularization
        parts = {"variance": variance, "distance": distance, "regularization": regularization}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _push(self, means: Tensor, instances: Tensor) -> Tensor:
        """Sum of the squared hinges over all ordered pairs of different instances, per image: (B, K, D) → (B,)."""
        # The matrix-product form of cdist would round small distances away.
        apart = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")  # (B, K, K)
        filled = torch.arange(means.shape[1], device=means.device) < instances[:, None]  # (B, K)
        itself = torch.eye(means.shape[1], dtype=torch.bool, device=means.device)
        pair = filled[:, :, None] & filled[:, None, :] & ~itself  # (B, K, K)
        return ((2 * self.delta_dist - apart).relu().square() * pair).sum(dim=(1, 2))


def gather_embeddings(
    embeddings: Tensor, batch_index: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]
) -> Tensor:
    """Reads embeddings at some pixels of a larger image, as if they had been upsampled to its size first.

    Equals ``F.interpolate(embeddings, size, mode="bilinear", align_corners=False)[batch_index, :, rows, columns]``,
    but the (B, D, H, W) tensor never exists: at 3 % labelled pixels that is 30 times less memory.

    Args:
        embeddings: (B, D, h, w).
        batch_index: (N,) int64, the image of each pixel, 0..B-1, in any order.
        rows: (N,) int64, the row of each pixel, 0..H-1.
        columns: (N,) int64, the column of each pixel, 0..W-1.
        size: (H, W) of the image that rows and columns refer to.

    Returns:
        (N, D) float32, or float64 for float64 embeddings. Differentiable in the embeddings.
    """
    if embeddings.dtype != torch.float64:
        embeddings = embeddings.float()  # sums over thousands of pixels do not fit half precision
    _, dim, height, width = embeddings.shape
    if (height, width) == tuple(size):
        return embeddings[batch_index, :, rows, columns]  # nothing to interpolate; saves a copy of all embeddings

    top, bottom, down = _neighbours(rows, height, size[0], embeddings.dtype)
    left, right, across = _neighbours(columns, width, size[1], embeddings.dtype)
    table = embeddings.permute(0, 2, 3, 1).reshape(-1, dim)  # (B, D, h, w) → (B·h·w, D)

    def cells(row: Tensor, column: Tensor) -> Tensor:
        # index_select: its backward pass on a CPU is faster than that of table[...] and of F.grid_sample.
        return table.index_select(0, (batch_index * height + row) * width + column)  # (N, D)

    above = torch.lerp(cells(top, left), cells(top, right), across)  # (N, D)
    below = torch.lerp(cells(bottom, left), cells(bottom, right), across)  # (N, D)
    return torch.lerp(above, below, down)


def _neighbours(position: Tensor, length: int, full_length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells around each pixel along one axis, and how far the pixel is on the way to the second.

    Args:
        position: (N,) int64, 0..full_length-1.
        length: number of cells.
        full_length: number of pixels along the same axis.
        dtype: of the third result.

    Returns:
        First cell (N,), second cell (N,), and the fraction (N, 1) in 0..1.
    """
    # Pixels are squares with a centre at +0.5 in both grids; beyond the outermost centres the edge value continues.
    place = ((position.to(dtype) + 0.5) * (length / full_length) - 0.5).clamp(0, length - 1)
    first = place.floor().long()
    return first, (first + 1).clamp(max=length - 1), (place - first)[:, None]


def _number_instances(ids: Tensor, image: Tensor, batch_size: int) -> tuple[Tensor, Tensor, int]:
    """Numbers the instances of each image 0, 1, 2, ..., so that they index a table with K rows per image.

    Args:
        ids: (N,) instance id of each labelled pixel.
        image: (N,) the image it is in.
        batch_size: B.

    Returns:
        Row of each pixel in the table, (N,) in 0..B·K-1, the number of instances per image, (B,), and K, the largest.
    """
    values, index = torch.unique(ids, return_inverse=True)  # ids may be large and have gaps: (U,) and (N,)
    if len(values) and values[0] < 0:
        raise ValueError(f"instance_mask holds the id {values[0]}, expected 0 or more")
    entry = image * len(values) + index
    present = torch.bincount(entry, minlength=batch_size * len(values)).view(batch_size, len(values)) > 0  # (B, U)
    instances = present.sum(dim=1)
    number = present.cumsum(dim=1) - 1  # an id's place among those of its own image
    most = int(instances.max()) if batch_size else 0
    return image * most + number.flatten()[entry], instances, most


def _check_inputs(embeddings: Tensor, instance_mask: Tensor) -> None:
    if embeddings.ndim != 4 or not embeddings.is_floating_point():
        raise ValueError(f"embeddings are {_describe(embeddings)}, expected (B, D, h, w) of a float type")
    if instance_mask.ndim != 3 or instance_mask.is_floating_point() or instance_mask.is_complex():
        raise ValueError(f"instance_mask is {_describe(instance_mask)}, expected (B, H, W) of an integer type")
    if len(embeddings) != len(instance_mask):
        raise ValueError(f"embeddings hold {len(embeddings)} images, instance_mask {len(instance_mask)}")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
