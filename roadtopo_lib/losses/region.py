"""The semantic losses: what class is each pixel, asked of single pixels (focal, cross-entropy) and of regions (Dice).

Shapes everywhere: logits (B, C, H, W) of any float type, target (B, H, W) integers in 0..C-1 or ``ignore_index``. An
ignored pixel changes neither a loss nor a gradient; where all pixels are ignored the loss is zero, and so are its
gradients. Sums over pixels are taken in float32 at least: in half precision they would overflow or stop growing.

Binary masks: logits z of a single channel, (B, 1, H, W), stand for the foreground against everything else, target 1
and 0. They are read as the two logits (0, z), whose softmax is (1 − σ(z), σ(z)), σ the sigmoid. Class weights are then
two, (background, foreground); the region losses compare the foreground alone unless weights are given.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadtopo_lib.distributed import mean_over_processes, pooled
from roadtopo_lib.labels import IGNORE_INDEX


class _OverlapLoss(nn.Module):
    """What Dice and Tversky share: a loss per class from soft counts, averaged over the classes that are there.

    A class without a labelled pixel has no region to overlap with and is left out of the mean. Painting such a class
    still costs: the pixels painted over are missing in the overlap of their class. Arguments as in ``DiceLoss``.
    """

    def __init__(
        self, ignore_index: int | None = IGNORE_INDEX, smooth: float = 1.0, per_image: bool = False,
        class_weights: Tensor | Sequence[float] | None = None, from_logits: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        _require_at_least_zero(smooth=smooth)
        self.ignore_index = ignore_index
        self.smooth = smooth
        self.per_image = per_image
        self.from_logits = from_logits
        self.register_buffer("class_weights", _weight_tensor(class_weights), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a scalar in [0, 1].

        Args:
            logits: (B, C, H, W), or (B, 1, H, W) of a binary mask; probabilities if ``from_logits`` is off.
            target: (B, H, W) integers.

        Raises:
            ValueError: shapes that do not fit each other, or a weight too many or too few.
        """
        logits, target = _check_inputs(logits, target, self.class_weights)
        if self.from_logits:
            probabilities = _logit_per_class(logits).softmax(dim=1)
        else:
            probabilities = logits if logits.shape[1] > 1 else torch.cat([1 - logits, logits], dim=1)
        return self._from_probabilities(probabilities, target, binary=logits.shape[1] == 1)

    def _from_probabilities(self, probabilities: Tensor, target: Tensor, binary: bool) -> Tensor:
        """The loss of probabilities (B, C, H, W); of a binary mask (C = 2) without weights that of the foreground."""
        valid, target = _split_ignored(target, self.ignore_index)
        valid = valid.to(probabilities).flatten(1)  # (B, H·W), 0 where ignored
        target = target.flatten(1)  # (B, H·W)
        probabilities = probabilities.flatten(2)  # (B, C, H·W)
        if self.ignore_index is not None and not valid.all():
            probabilities = probabilities * valid[:, None]

        # No one-hot truth: its true class's probability is all that a pixel adds to the hits.
        none = probabilities.new_zeros(probabilities.shape[:2])
        of_true_class = probabilities.gather(1, target[:, None])[:, 0]  # (B, H·W)
        hits = none.scatter_add(1, target, of_true_class)  # (B, C), Σ p·g
        predicted = self._predicted_share(probabilities).sum(dim=2)  # (B, C), Σ p or Σ p²
        truth = none.scatter_add(1, target, valid)  # (B, C), Σ g
        counts = torch.stack([hits, predicted, truth])  # (3, B, C)
        if binary and self.class_weights is None:
            counts = counts[:, :, 1:]
        hits, predicted, truth = counts if self.per_image else pooled(counts.sum(dim=1))  # (B, C) or (C,) each
        present = (truth > 0).to(truth)
        weights = present if self.class_weights is None else present * self.class_weights.to(truth)
        return _mean_of_present(self._loss_per_class(hits, predicted, truth), weights)

    def _predicted_share(self, probabilities: Tensor) -> Tensor:
        """What a pixel of each probability counts as predicted."""
        return probabilities

    def _loss_per_class(self, hits: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
        """Compares soft counts of pixels, each (B, C) or (C,): Σ p·g, Σ p and Σ g. The same shape, in [0, 1]."""
        raise NotImplementedError


class DiceLoss(_OverlapLoss):
    """One minus the soft Dice coefficient: Dice = (2 Σ p·g + smooth) / (Σ p + Σ g + smooth) per class.

    A class without a labelled pixel is left out of the mean over classes; so is, with ``per_image``, an image of a
    binary mask without foreground: cross-entropy or focal loss beside it must teach those.

    Args:
        ignore_index: class id that takes part in nothing, or ``None``.
        smooth: added to numerator and denominator, in pixels, >= 0.
        square_denominator: Σ p² + Σ g² in the denominator, as in V-Net; the gradient is then steeper for classes
            that are predicted faintly.
        per_image: Dice of each image, averaged over those with a labelled pixel, instead of one Dice over the batch.
        class_weights: (C,) w >= 0, any scale: the mean over classes is Σ w·loss / Σ w, which stays in [0, 1].
        from_logits: apply a softmax over the classes first; ``False`` takes probabilities.

    Raises:
        ValueError: a negative ``smooth``, or class weights that are negative, infinite or not one-dimensional.

    Reference:
        F. Milletari, N. Navab, S.-A. Ahmadi, "V-Net", 3DV 2016, https://arxiv.org/abs/1606.04797, section 3.
    """

    def __init__(
        self, ignore_index: int | None = IGNORE_INDEX, smooth: float = 1.0, square_denominator: bool = False,
        per_image: bool = False, class_weights: Tensor | Sequence[float] | None = None, from_logits: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(ignore_index, smooth, per_image, class_weights, from_logits)
        self.square_denominator = square_denominator

    def _predicted_share(self, probabilities: Tensor) -> Tensor:
        return probabilities.square() if self.square_denominator else probabilities

    def _loss_per_class(self, hits: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
        return 1 - _ratio(2 * hits + self.smooth, predicted + truth + self.smooth)  # g² = g: a mask of zeros and ones


class TverskyLoss(_OverlapLoss):
    """Dice with a price for each kind of error: TI = (TP + smooth) / (TP + α·FP + β·FN + smooth) per class.

    With α = β = 0.5 it is Dice. With β > α a missed pixel costs more than a false one, which suits thin lines. A class
    without a labelled pixel is left out of the mean over classes.

    Args:
        alpha: price of false positives, >= 0.
        beta: price of false negatives, >= 0.
        smooth, ignore_index, per_image, class_weights, from_logits: as in ``DiceLoss``.

    Raises:
        ValueError: a negative number, or wrong class weights.

    Reference:
        S. S. M. Salehi, D. Erdogmus, A. Gholipour, "Tversky Loss Function for Image Segmentation Using 3D Fully
        Convolutional Deep Networks", MLMI 2017, https://arxiv.org/abs/1706.05721, equation 4.
    """

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0, ignore_index: int | None = IGNORE_INDEX,
        per_image: bool = False, class_weights: Tensor | Sequence[float] | None = None, from_logits: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(ignore_index, smooth, per_image, class_weights, from_logits)
        _require_at_least_zero(alpha=alpha, beta=beta)
        self.alpha = alpha
        self.beta = beta

    def _loss_per_class(self, hits: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
        errors = self.alpha * (predicted - hits) + self.beta * (truth - hits)
        return 1 - _ratio(hits + self.smooth, hits + errors + self.smooth)


class FocalTverskyLoss(TverskyLoss):
    """Tversky loss per class to the power γ: γ > 1 turns towards the classes that are still wrong.

    Args:
        gamma: exponent, > 0; 1 is the Tversky loss. The paper writes the exponent as 1/γ.
        alpha, beta, smooth, ignore_index, per_image, class_weights, from_logits: as in ``TverskyLoss``.

    Raises:
        ValueError: a negative number, ``gamma`` zero, or wrong class weights.

    Reference:
        N. Abraham, N. M. Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
        Segmentation", ISBI 2019, https://arxiv.org/abs/1810.07842, equation 4.
    """

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3, smooth: float = 1.0,
        ignore_index: int | None = IGNORE_INDEX, per_image: bool = False,
        class_weights: Tensor | Sequence[float] | None = None, from_logits: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(alpha, beta, smooth, ignore_index, per_image, class_weights, from_logits)
        if not gamma > 0:
            raise ValueError(f"gamma is {gamma}, expected more than 0")
        self.gamma = gamma

    def _loss_per_class(self, hits: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
        return _power(super()._loss_per_class(hits, predicted, truth), self.gamma)


class FocalLoss(nn.Module):
    """Cross-entropy with easy pixels down-weighted: −w·(1 − p)^γ·log p, p being the true class's probability.

    The mean over all pixels that are not ignored. As in the paper (where w is α) the weights are not divided out; its
    α = 0.25 for a binary mask is ``class_weights=(0.75, 0.25)``.

    Args:
        gamma: exponent that down-weights easy pixels, >= 0; 0 is cross-entropy.
        class_weights: (C,) weights, >= 0, or ``None`` for 1.
        ignore_index: class id that takes part in nothing, or ``None``.

    Raises:
        ValueError: a negative ``gamma``, or wrong class weights.

    Reference:
        T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002,
        equation 5.
    """

    def __init__(
        self, gamma: float = 2.0, class_weights: Tensor | Sequence[float] | None = None,
        ignore_index: int | None = IGNORE_INDEX,
    ) -> None:  # fmt: skip
        super().__init__()
        _require_at_least_zero(gamma=gamma)
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", _weight_tensor(class_weights), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a scalar, >= 0.

        Args:
            logits: (B, C, H, W), or (B, 1, H, W) of a binary mask.
            target: (B, H, W) integers.

        Raises:
            ValueError: shapes that do not fit each other, or a weight too many or too few.
        """
        logits, target = _check_inputs(logits, target, self.class_weights)
        valid, target = _split_ignored(target, self.ignore_index)
        cross_entropy = F.cross_entropy(_logit_per_class(logits), target, reduction="none")  # (B, H, W)
        cross_entropy = cross_entropy * valid  # zero where ignored
        loss = _power(-torch.expm1(-cross_entropy), self.gamma) * cross_entropy  # 1 − p = 1 − exp(−CE)
        if self.class_weights is not None:
            loss = loss * self.class_weights.to(loss)[target]
        return mean_over_processes(loss.sum() / _not_zero(valid.sum()), valid.sum())


class CombinedLoss(nn.Module):
    """Cross-entropy for every pixel plus Dice for every region: ce_weight·CE + dice_weight·Dice.

    Class weights act on both, in both as a weighted mean (Σ w·loss / Σ w): over pixels in cross-entropy, as in torch,
    and over classes in Dice. Only the proportions of the weights matter.

    Args:
        ce_weight: weight of cross-entropy, >= 0.
        dice_weight: weight of Dice, >= 0.
        smooth, square_denominator, per_image: see ``DiceLoss``.
        ignore_index: class id that takes part in nothing, or ``None``.
        class_weights: (C,) weights, >= 0, or ``None`` for equal ones.

    Raises:
        ValueError: a negative number, or wrong class weights.
    """

    def __init__(
        self, ce_weight: float = 0.6, dice_weight: float = 0.4, smooth: float = 1.0,
        ignore_index: int | None = IGNORE_INDEX, class_weights: Tensor | Sequence[float] | None = None,
        square_denominator: bool = False, per_image: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _require_at_least_zero(ce_weight=ce_weight, dice_weight=dice_weight)
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss(ignore_index, smooth, square_denominator, per_image, class_weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a scalar, >= 0; for its parts see ``with_parts``."""
        return self.with_parts(logits, target)[0]

    def with_parts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what it is made of.

        Args:
            logits: (B, C, H, W), or (B, 1, H, W) of a binary mask.
            target: (B, H, W) integers.

        Returns:
            The loss, a scalar, and its terms, detached and unweighted: ``cross_entropy`` and ``dice``.

        Raises:
            ValueError: shapes that do not fit each other, or a weight too many or too few.
        """
        logits, target = _check_inputs(logits, target, self.dice.class_weights)
        # Both terms need the softmax, and it is the slowest step of both.
        log_probabilities = F.log_softmax(_logit_per_class(logits), dim=1)
        cross_entropy = self._cross_entropy(log_probabilities, target)
        dice = self.dice._from_probabilities(log_probabilities.exp(), target, binary=logits.shape[1] == 1)
        loss = self.ce_weight * cross_entropy + self.dice_weight * dice
        return loss, {"cross_entropy": cross_entropy.detach(), "dice": dice.detach()}

    def _cross_entropy(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        """Torch's (weighted) mean, except that a batch of ignored pixels gives zero where torch gives NaN."""
        valid, target = _split_ignored(target, self.dice.ignore_index)
        weights = valid.to(log_probabilities)  # (B, H, W)
        if self.dice.class_weights is not None:
            weights = weights * self.dice.class_weights.to(weights)[target]
        loss = F.nll_loss(log_probabilities, target, reduction="none")  # (B, H, W)
        return mean_over_processes((loss * weights).sum() / _not_zero(weights.sum()), weights.sum())


class FocalDiceLoss(nn.Module):
    """Dice for every region plus focal loss for every pixel: λ·Dice + (1 − λ)·focal.

    A binary mask without foreground teaches through the focal loss alone, see ``DiceLoss``.

    Args:
        lam: λ, 0..1.
        alpha: weight of a pixel of any class but the first, whose pixels weigh 1 − α, 0..1; ``None`` for 1 everywhere.
        gamma: exponent that down-weights easy pixels, >= 0.
        smooth, ignore_index, per_image: as in ``DiceLoss``.

    Raises:
        ValueError: a number out of range.

    Reference:
        W. Zhu et al., "AnatomyNet", Medical Physics 2019, https://arxiv.org/abs/1808.05238, where it is Dice + λ·focal.
    """

    def __init__(
        self, lam: float = 0.5, alpha: float | None = 0.25, gamma: float = 2.0, smooth: float = 1.0,
        ignore_index: int | None = IGNORE_INDEX, per_image: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _require_at_least_zero(gamma=gamma)
        for name, value in {"lam": lam, "alpha": alpha}.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected 0 to 1")
        self.lam, self.alpha, self.gamma = lam, alpha, gamma
        self.dice = DiceLoss(ignore_index, smooth, per_image=per_image)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a scalar, >= 0; arguments and errors as in ``DiceLoss``."""
        dice = self.dice(logits, target)
        others = max(2, logits.shape[1]) - 1
        weights = None if self.alpha is None else [1 - self.alpha] + [self.alpha] * others
        return self.lam * dice + (1 - self.lam) * FocalLoss(self.gamma, weights, self.dice.ignore_index)(logits, target)


def _mean_of_present(loss: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over classes, then over the images where a class has weight: (B, C) or (C,) twice → scalar."""
    total = weights.sum(dim=-1)  # (B,) or scalar
    images = (total > 0).sum()
    mean = ((loss * weights).sum(dim=-1) / _not_zero(total)).sum() / _not_zero(images)
    return mean_over_processes(mean, images) if total.ndim else mean  # (C,) is of all processes already


def _split_ignored(target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Which pixels count, and a target that is a class everywhere (0 where ignored): (B, H, W) twice."""
    if ignore_index is None:
        return torch.ones_like(target, dtype=torch.bool), target
    valid = target != ignore_index
    return valid, target * valid


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    # Without smoothing, a class that is neither there nor predicted would be 0 / 0.
    return numerator / denominator.clamp(min=torch.finfo(denominator.dtype).eps)


def _power(base: Tensor, exponent: float) -> Tensor:
    # Below exponent 1 the slope at zero is infinite, and infinity times zero is not a number.
    return base.clamp(min=torch.finfo(base.dtype).eps) ** exponent


def _not_zero(total: Tensor) -> Tensor:
    return torch.where(total == 0, torch.ones_like(total), total)


def _check_inputs(logits: Tensor, target: Tensor, class_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Checks the shapes; logits in float32 at least, target in int64."""
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(f"logits are {tuple(logits.shape)} {logits.dtype}, expected (B, C, H, W) of a float type")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected or target.is_floating_point():
        raise ValueError(f"target is {tuple(target.shape)} {target.dtype}, expected {expected} of an integer type")
    classes = max(logits.shape[1], 2)  # one channel tells two classes apart
    if class_weights is not None and len(class_weights) != classes:
        raise ValueError(f"class_weights has {len(class_weights)} weights, but logits have {classes} classes")
    return logits if logits.dtype == torch.float64 else logits.float(), target.long()


def _logit_per_class(logits: Tensor) -> Tensor:
    """(B, C, H, W) as they are; a binary mask's (B, 1, H, W) with the background's logit, zero: (B, 2, H, W)."""
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)


def _weight_tensor(class_weights: Tensor | Sequence[float] | None) -> Tensor | None:
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone()
    if weights.ndim != 1 or not torch.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"class_weights is {weights.tolist()}, expected one finite weight of at least 0 per class")
    return weights


def _require_at_least_zero(**settings: float) -> None:
    for name, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}, expected at least 0")
