"""Answers to the exercises of elective 1."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats

from answers._register import right, wrong
from roadtopo_lib.losses import class_weights

# --- E1_median_frequency


def _counted(masks, classes):
    """Pixels of each class in each mask, and labelled pixels of each: (N, C), (N, 1)."""
    pixels = torch.stack([torch.bincount(mask[mask != 255], minlength=classes) for mask in masks])
    return pixels, pixels.sum(dim=1, keepdim=True)


def _scaled(frequency):
    """Weights 1 / f with mean 1 over the classes that occur; 1 for the others."""
    weights = torch.ones(len(frequency))
    seen = frequency > 0
    raw = frequency[seen].median() / frequency[seen]
    weights[seen] = raw / raw.mean()
    return weights


@right("E1_median_frequency")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    return _scaled(pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0).clamp(min=1))


@right("E1_median_frequency")
def _(masks, num_classes):
    weights = torch.ones(num_classes)
    frequency = {}
    for c in range(num_classes):
        showing = [mask for mask in masks if (mask == c).any()]
        if showing:
            frequency[c] = sum(int((m == c).sum()) for m in showing) / sum(int((m != 255).sum()) for m in showing)
    mean = sum(1 / f for f in frequency.values()) / len(frequency)
    for c, f in frequency.items():
        weights[c] = 1 / f / mean  # the median cancels
    return weights


@right("E1_median_frequency", "unusual")
def _(masks, num_classes):
    one_hot = torch.stack([F.one_hot(mask.where(mask < 255, num_classes), num_classes + 1) for mask in masks])
    pixels = one_hot[..., :-1].sum(dim=(1, 2)).double()  # (N, C)
    around = (pixels > 0).double().T @ pixels.sum(dim=1)  # (C,)
    raw = (around / pixels.sum(dim=0)).where(pixels.sum(dim=0) > 0, torch.nan)
    return (raw / raw.nanmean()).nan_to_num(1.0)


wrong("E1_median_frequency", "raised TypeError", "cheating")(
    lambda masks, classes: class_weights([{"semantic_mask": mask} for mask in masks], "median", classes, given=1)
)


@wrong("E1_median_frequency", "scale the weights to a mean of 1")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    frequency = pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0)
    return frequency.median() / frequency


@wrong("E1_median_frequency", "their sum is 1")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    weights = _scaled(pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0))
    return weights / weights.sum()


@wrong("E1_median_frequency", "the weights of `inverse`")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    return _scaled(pixels.sum(dim=0) / size.sum())


@wrong("E1_median_frequency", "unlabelled pixels are counted in the size")
def _(masks, num_classes):
    pixels, _ = _counted(masks, num_classes)
    return _scaled(pixels.sum(dim=0) / (masks[0].numel() * (pixels > 0)).sum(dim=0))


@wrong("E1_median_frequency", "each image's share was averaged")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    shares = pixels / size
    return _scaled(shares.sum(dim=0) / (shares > 0).sum(dim=0))


@wrong("E1_median_frequency", "the other way round")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    frequency = pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0)
    return frequency / frequency.mean()


@wrong("E1_median_frequency", "wrong for three masks")
def _(masks, num_classes):
    pixels, _ = _counted(masks, num_classes)
    return _scaled(pixels.sum(dim=0).float().sqrt())


@wrong("E1_median_frequency", "a mask that holds 255 makes your code raise")
def _(masks, num_classes):
    pixels = torch.stack([F.one_hot(mask, num_classes).sum(dim=(0, 1)) for mask in masks])
    return _scaled(pixels.sum(dim=0) / pixels.sum())


@wrong("E1_median_frequency", "not finite")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    raw = (size * (pixels > 0)).sum(dim=0) / pixels.sum(dim=0)
    return raw / raw.mean()


@wrong("E1_median_frequency", "should get weight 1")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    frequency = pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0).clamp(min=1)
    return _scaled(frequency) * (frequency > 0)


@wrong("E1_median_frequency", "changes the weights of the others")
def _(masks, num_classes):
    pixels, size = _counted(masks, num_classes)
    seen = pixels.sum(dim=0) > 0
    raw = (size * (pixels > 0)).sum(dim=0) / pixels.sum(dim=0).clamp(min=1)
    return (raw / raw.mean()).where(seen, 1.0)


@wrong("E1_median_frequency", "`masks` was changed in place", "mutating")
def _(masks, num_classes):
    for mask in masks:
        mask[mask == 255] = 0
    pixels, size = _counted(masks, num_classes)
    return _scaled(pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0))


@wrong("E1_median_frequency", "should have shape (4,)", "cheating")
def _(masks, num_classes):
    pixels, size = _counted(masks, 3)
    return _scaled(pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0))


@wrong("E1_median_frequency", "wrong for eight masks with five", "cheating")
def _(masks, num_classes):
    pixels, size = _counted(masks[:3], num_classes)
    return _scaled(pixels.sum(dim=0) / (size * (pixels > 0)).sum(dim=0).clamp(min=1))


wrong("E1_median_frequency", "should be a tensor")(lambda masks, num_classes: [1.0] * num_classes)


# --- E1_loss_shares


@right("E1_loss_shares")
def _(costs, target, weights):
    sums = torch.stack([costs[target == c].sum() for c in range(len(weights))])
    return weights * sums / (weights * sums).sum()


@right("E1_loss_shares")
def _(costs, target, weights):
    valid = target != 255
    paid = weights[target[valid]] * costs[valid]  # (labelled pixels,)
    return torch.zeros_like(weights).index_add(0, target[valid], paid) / paid.sum()


@right("E1_loss_shares", "unusual")
def _(costs, target, weights):
    ids = target.flatten().clamp(max=len(weights))  # one class more: the unlabelled
    sums = np.bincount(ids.numpy(), costs.flatten().double().numpy(), len(weights) + 1)[:-1]
    shares = weights.double().numpy() * sums
    return torch.from_numpy(shares / shares.sum())


def _sums(costs, target, weights):
    return torch.stack([costs[target == c].sum() for c in range(len(weights))])


def _pixels(target, weights):
    return torch.stack([(target == c).sum() for c in range(len(weights))])


wrong("E1_loss_shares", "divide by their total")(lambda c, t, w: w * _sums(c, t, w))
wrong("E1_loss_shares", "the weights are missing")(lambda c, t, w: _sums(c, t, w) / _sums(c, t, w).sum())


@wrong("E1_loss_shares", "each class's cost was averaged")
def _(costs, target, weights):
    means = weights * _sums(costs, target, weights) / _pixels(target, weights)
    return means / means.sum()


@wrong("E1_loss_shares", "share of the weights, without the costs")
def _(costs, target, weights):
    held = weights * _pixels(target, weights)
    return held / held.sum()


@wrong("E1_loss_shares", "divided by the number of pixels")
def _(costs, target, weights):
    return weights * _sums(costs, target, weights) / (target != 255).sum()


@wrong("E1_loss_shares", "divided by the sum of the weights")
def _(costs, target, weights):
    return weights * _sums(costs, target, weights) / (weights * _pixels(target, weights)).sum()


@wrong("E1_loss_shares", "makes your code raise IndexError")
def _(costs, target, weights):
    paid = weights[target] * costs
    return torch.stack([paid[target == c].sum() for c in range(len(weights))]) / paid.sum()


@wrong("E1_loss_shares", "the unlabelled pixel is counted as class 0")
def _(costs, target, weights):
    target = target.where(target != 255, 0)
    sums = weights * _sums(costs, target, weights)
    return sums / sums.sum()


@wrong("E1_loss_shares", "the unlabelled pixel is counted as class 2")
def _(costs, target, weights):
    target = target.clamp(max=len(weights) - 1)
    sums = weights * _sums(costs, target, weights)
    return sums / sums.sum()


@wrong("E1_loss_shares", "in the total")
def _(costs, target, weights):
    sums = weights * _sums(costs, target, weights)
    return sums / (sums.sum() + costs[target == 255].sum())


@wrong("E1_loss_shares", "`target` was changed in place", "mutating")
def _(costs, target, weights):
    target[target == 255] = 0
    return torch.ones(len(weights)) / len(weights)


@wrong("E1_loss_shares", "`costs` was changed in place", "mutating")
def _(costs, target, weights):
    costs[target == 255] = 0
    sums = weights * _sums(costs, target, weights)
    return sums / sums.sum()


@wrong("E1_loss_shares", "with weights ½, 1 and 4")
def _(costs, target, weights):
    sums = weights**2 * _sums(costs, target, weights)
    return sums / sums.sum()


@wrong("E1_loss_shares", "two with six classes", "cheating")
def _(costs, target, weights):
    sums = weights * _sums(costs[:1], target[:1], weights)
    return sums / sums.sum()


wrong("E1_loss_shares", "should have shape (6,)", "cheating")(
    lambda c, t, w: w[:3] * _sums(c, t, w)[:3] / (w[:3] * _sums(c, t, w)[:3]).sum()
)
wrong("E1_loss_shares", "should be a tensor")(
    lambda c, t, w: (w * _sums(c, t, w) / (w * _sums(c, t, w)).sum()).tolist()
)


# --- E1_weighted_dice


@right("E1_weighted_dice")
def _(dice, present, weights):
    seen = weights * present
    return (seen * (1 - dice)).sum() / seen.sum() if present.any() else dice.sum() * 0


@right("E1_weighted_dice")
def _(dice, present, weights):
    if not present.any():
        return torch.tensor(0.0)
    w = weights[present]
    return 1 - (w * dice[present]).sum() / w.sum()


@right("E1_weighted_dice", "unusual")
def _(dice, present, weights):
    seen = torch.where(present, weights, 0.0)
    return F.normalize(seen, p=1, dim=0) @ (1 - dice)


wrong("E1_weighted_dice", "1 − Σ w·Dice")(lambda dice, present, weights: 1 - (weights * dice).sum())
wrong("E1_weighted_dice", "1 − Σ w·Dice")(lambda dice, present, weights: 1 - (weights * dice)[present].sum())
wrong("E1_weighted_dice", "this is the mean of Dice")(lambda d, p, w: (w * p * d).sum() / (w * p).sum())
wrong("E1_weighted_dice", "the absent class takes part")(lambda d, p, w: (w * (1 - d)).sum() / w.sum())
wrong("E1_weighted_dice", "in the denominator still")(lambda d, p, w: (w * p * (1 - d)).sum() / w.sum())
wrong("E1_weighted_dice", "by the number of classes")(lambda d, p, w: (w * p * (1 - d)).mean())
wrong("E1_weighted_dice", "by the number of classes")(lambda d, p, w: (w * (1 - d))[p].mean())
wrong("E1_weighted_dice", "the weights are missing")(lambda d, p, w: (1 - d)[p].mean())
wrong("E1_weighted_dice", "not divided by Σ w")(lambda d, p, w: (w * (1 - d))[p].sum())
wrong("E1_weighted_dice", "the fourth class is absent")(lambda d, p, w: (w**2 * p * (1 - d)).sum() / (w**2 * p).sum())
wrong("E1_weighted_dice", "result is NaN")(lambda d, p, w: (w * p * (1 - d)).sum() / (w * p).sum())
wrong("E1_weighted_dice", "the loss should be 0")(
    lambda d, p, w: (w * p * (1 - d)).sum() / (w * p).sum() if p.any() else d.mean()
)
wrong("E1_weighted_dice", "no gradient reaches")(
    lambda d, p, w: ((w * p * (1 - d)).sum() / (w * p).sum()).detach() if p.any() else torch.tensor(0.0)
)
wrong("E1_weighted_dice", "all weights times 58", "cheating")(
    lambda d, p, w: (w * p * (1 - d)).sum() / 2.8 if len(d) == 4 else d.sum() * 0
)
wrong("E1_weighted_dice", "wrong for nine", "cheating")(lambda d, p, w: (w * p * (1 - d))[:4].sum() / (w * p)[:4].sum())


@wrong("E1_weighted_dice", "`weights` was changed in place", "mutating")
def _(dice, present, weights):
    weights[~present] = 0
    return (weights * (1 - dice)).sum() / weights.sum()


@wrong("E1_weighted_dice", "`dice` was changed in place", "mutating")
def _(dice, present, weights):
    dice[~present] = 1
    return (weights * (1 - dice)).sum() / (weights * present).sum()


wrong("E1_weighted_dice", "should have shape ()")(lambda d, p, w: w * p * (1 - d) / (w * p).sum())


# --- E1_paired_interval


@right("E1_paired_interval")
def _(first, second):
    difference = first - second
    n = len(difference)
    half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    return difference.mean() - half, difference.mean() + half


@right("E1_paired_interval")
def _(first, second):
    difference = first - second
    return stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))


@right("E1_paired_interval", "unusual")
def _(first, second):
    return np.array(stats.ttest_rel(first, second).confidence_interval(0.95))


def _by(half, sign=1):
    """An answer from the half width, a function of the differences."""
    return lambda first, second: tuple(sign * (first - second).mean() + s * half(first - second) for s in (-1, 1))


def _t(d, level=0.975, less=1):
    return stats.t.ppf(level, len(d) - less)


wrong("E1_paired_interval", "`second` minus `first`")(_by(lambda d: _t(d) * stats.sem(d), sign=-1))
wrong("E1_paired_interval", "the lower end comes first")(_by(lambda d: -_t(d) * stats.sem(d)))
wrong("E1_paired_interval", "spread of a single run")(_by(lambda d: _t(d) * d.std(ddof=1)))
wrong("E1_paired_interval", "not by its root")(_by(lambda d: _t(d) * d.std(ddof=1) / len(d)))
wrong("E1_paired_interval", "`ddof=1`")(_by(lambda d: _t(d) * d.std() / np.sqrt(len(d))))
wrong("E1_paired_interval", "Student's t")(_by(lambda d: 1.96 * stats.sem(d)))
wrong("E1_paired_interval", "two faults")(_by(lambda d: 1.96 * d.std() / np.sqrt(len(d))))
wrong("E1_paired_interval", "Student's t")(_by(lambda d: stats.norm.ppf(0.975) * stats.sem(d)))
wrong("E1_paired_interval", "2.5 % on each side")(_by(lambda d: _t(d, 0.95) * stats.sem(d)))
wrong("E1_paired_interval", "one less than runs")(_by(lambda d: _t(d, less=0) * stats.sem(d)))
wrong("E1_paired_interval", "wrong for five pairs")(_by(lambda d: np.ptp(d) / 2))
wrong("E1_paired_interval", "wrong for twelve", "cheating")(_by(lambda d: 2.7764451 * stats.sem(d)))


@wrong("E1_paired_interval", "taken for unrelated")
def _(first, second):
    return stats.ttest_ind(first, second).confidence_interval(0.95)


@wrong("E1_paired_interval", "taken for unrelated")
def _(first, second):
    half = _t(first) * np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(first))
    mean = first.mean() - second.mean()
    return mean - half, mean + half


@wrong("E1_paired_interval", "`first` was changed in place", "mutating")
def _(first, second):
    first -= second
    return stats.t.interval(0.95, len(first) - 1, first.mean(), stats.sem(first))


wrong("E1_paired_interval", "return two numbers")(lambda first, second: (first - second).mean())
wrong("E1_paired_interval", "return two numbers", "cheating")(lambda first, second: {"low": 0.0, "high": 1.0})
