"""Exercises of elective 1: weights by median frequency, each class's share of the loss, weighted Dice, paired runs."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from roadtopo_lib.course.exercises._base import (
    Hint,
    exercise,
    expect,
    expect_close,
    expect_tensor,
    expect_written,
    is_close,
)
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.losses import weights_from_counts


def _masks() -> list[Tensor]:
    """Class 2 shows in one mask of three, where it is large; a fifth of the last mask is unlabelled."""
    masks = [torch.zeros(4, 5, dtype=torch.int64) for _ in range(3)]
    masks[0][2:], masks[1][3:], masks[2][1:3] = 1, 1, 1
    masks[1][0] = 2
    masks[2][3] = IGNORE_INDEX
    return masks


def _counts(masks: Sequence[Tensor], classes: int, unlabelled: bool = False) -> tuple[Tensor, Tensor]:
    """Pixels of each class, and pixels of the images that show it: (C,) twice."""
    pixels = torch.stack([mask[mask < IGNORE_INDEX].bincount(minlength=classes) for mask in masks])  # (N, C)
    size = torch.tensor([mask.numel() if unlabelled else int((mask < IGNORE_INDEX).sum()) for mask in masks])
    return pixels.sum(dim=0), (size[:, None] * (pixels > 0)).sum(dim=0)


@exercise("E1_median_frequency", keeps=("masks",))
def median_frequency(answer: Callable) -> None:
    masks = _masks()
    value = _tried_on(answer, masks, 3, "a mask that holds 255")
    expect_tensor(value, (3,))
    pixels, around = _counts(masks, 3)
    truth = weights_from_counts(pixels, "median_frequency", image_pixels=around)
    frequency = pixels / around
    raw = frequency.median() / frequency
    expect(not is_close(value, raw), "right before the last step: scale the weights to a mean of 1")
    expect(not is_close(value, raw / raw.sum()), "their sum is 1, their mean should be")
    inverse = weights_from_counts(pixels, "inverse")
    expect(
        not is_close(value, inverse),
        "these are the weights of `inverse`: divide by the images that show the class only",
    )
    with_unlabelled = weights_from_counts(pixels, "median_frequency", image_pixels=_counts(masks, 3, True)[1])
    expect(not is_close(value, with_unlabelled), "unlabelled pixels are counted in the size of an image")
    shares = torch.stack([_counts([mask], 3)[0] / (mask < IGNORE_INDEX).sum() for mask in masks])  # (N, C)
    by_image = 1 / (shares.sum(dim=0) / (shares > 0).sum(dim=0))
    expect(
        not is_close(value, by_image / by_image.mean()),
        "each image's share was averaged: add the pixels of all images first, then divide",
    )
    expect(not is_close(value, frequency / frequency.mean()), "a frequent class weighs most: it is the other way round")
    expect_close(value, truth, "wrong for three masks of 20 pixels, of which one shows class 2 and one holds 255")
    _absent(answer, masks, truth)
    rng = torch.Generator().manual_seed(0)
    many = [torch.randint(0, 2 + k % 4, (6, 7), generator=rng) for k in range(8)]
    found = _tried_on(answer, many, 5, "eight masks with five classes")
    pixels, around = _counts(many, 5)
    truth = weights_from_counts(pixels, "median_frequency", image_pixels=around)
    expect_close(found, truth, "right for three classes, wrong for eight masks with five")


def _absent(answer: Callable, masks: list[Tensor], of_three: Tensor) -> None:
    """Class 3 occurs in no mask."""
    value = _tried_on(answer, masks, 4, "a class that occurs nowhere")
    expect_tensor(value, (4,), "with a class that occurs nowhere, the result")
    expect(bool(value.isfinite().all()), "a class that occurs nowhere gets a weight that is not finite")
    expect_close(value[3], 1.0, "a class that occurs nowhere should get weight 1")
    expect_close(value[:3], of_three, "a class that occurs nowhere changes the weights of the others")


def _tried_on(answer: Callable, masks: list[Tensor], classes: int, what: str) -> object:
    try:
        return answer(masks, classes)
    except (RuntimeError, IndexError, ZeroDivisionError) as error:
        raise Hint(f"{what} makes your code raise {type(error).__name__}: {str(error)[:80]}") from None


@exercise("E1_loss_shares", keeps=("costs", "target", "weights"))
def loss_shares(answer: Callable) -> None:
    costs = torch.tensor([[[0.1, 0.1, 0.4, 0.1], [0.3, 0.1, 2.0, 9.0]]])  # (1, 2, 4)
    target = torch.tensor([[[0, 0, 1, 0], [1, 0, 2, IGNORE_INDEX]]])
    weights = torch.tensor([0.5, 1.0, 4.0])
    try:
        value = answer(costs, target, weights)
    except (RuntimeError, IndexError) as error:
        raise Hint(f"a target with 255 makes your code raise {type(error).__name__}: {str(error)[:80]}") from None
    expect_tensor(value, (3,))
    sums = torch.tensor([0.4, 0.7, 2.0])
    counts = torch.tensor([4.0, 2.0, 1.0])
    weighted = weights * sums
    expect(not is_close(value, weighted), "these are the sums of the classes: divide by their total")
    expect(not is_close(value, sums / sums.sum()), "the weights are missing")
    means = weights * sums / counts
    expect(not is_close(value, means / means.sum()), "each class's cost was averaged: a share adds up its pixels")
    of_weights = weights * counts
    expect(
        not is_close(value, of_weights / of_weights.sum()),
        "this is each class's share of the weights, without the costs",
    )
    expect(not is_close(value, weighted / 7), "divided by the number of pixels: the shares should add up to 1")
    expect(
        not is_close(value, weighted / of_weights.sum()),
        "divided by the sum of the weights, as in the loss: the shares should add up to 1",
    )
    for c in range(3):
        with_ignored = weighted + 9.0 * weights * torch.eye(3)[c]
        hint = f"the unlabelled pixel is counted as class {c}"
        expect(not is_close(value, with_ignored / with_ignored.sum()), hint)
    counted = weighted / (weighted.sum() + 9.0)
    expect(not is_close(value, counted), "the cost of the unlabelled pixel is in the total")
    expect_close(value, weighted / weighted.sum(), "three classes of 4, 2 and 1 pixels with weights ½, 1 and 4")
    rng = torch.Generator().manual_seed(0)
    costs, target = torch.rand(2, 5, 5, generator=rng), torch.randint(0, 4, (2, 5, 5), generator=rng)
    weights = torch.rand(6, generator=rng) + 0.5  # classes 4 and 5 occur nowhere
    value = answer(costs, target, weights)
    expect_tensor(value, (6,), "for six classes, of which two occur nowhere, the result")
    truth = torch.stack([(costs * (target == c)).sum() for c in range(6)]) * weights
    expect_close(value, truth / truth.sum(), "right for one image, wrong for two with six classes")


@exercise("E1_weighted_dice", keeps=("dice", "present", "weights"))
def weighted_dice(answer: Callable) -> None:
    dice, present = torch.tensor([0.9, 0.8, 0.3, 0.6]), torch.tensor([True, True, True, False])
    weights = torch.tensor([0.2, 0.6, 2.0, 1.5])
    value = answer(dice, present, weights)
    expect_tensor(value, ())
    seen = weights * present
    truth = (seen * (1 - dice)).sum() / seen.sum()
    expect(
        not any(is_close(value, 1 - (w * dice).sum()) for w in (weights, seen)),
        "this is 1 − Σ w·Dice, which leaves [0, 1]: a weighted mean of the losses is asked for",
    )
    expect(not is_close(value, (seen * dice).sum() / seen.sum()), "this is the mean of Dice: the loss is 1 − Dice")
    expect(not is_close(value, (weights * (1 - dice)).sum() / weights.sum()), "the absent class takes part in the mean")
    expect(
        not is_close(value, (seen * (1 - dice)).sum() / weights.sum()),
        "the weight of the absent class is in the denominator still",
    )
    for count in (4, 3):
        expect(not is_close(value, (seen * (1 - dice)).sum() / count), "divided by the number of classes, not by Σ w")
    expect(not is_close(value, (1 - dice)[present].mean()), "the weights are missing")
    expect(not is_close(value, (seen * (1 - dice)).sum()), "the sum is not divided by Σ w")
    expect_close(value, truth, "Dice 0.9, 0.8 and 0.3 with weights 0.2, 0.6 and 2; the fourth class is absent")
    hint = "all weights times 58: only their proportions should count"
    expect_close(answer(dice, present, 58 * weights), truth, hint)
    rng = torch.Generator().manual_seed(0)
    dice, weights = torch.rand(9, generator=rng), torch.rand(9, generator=rng)
    present = torch.arange(9) % 2 == 0
    seen = weights * present
    truth = (seen * (1 - dice)).sum() / seen.sum()
    expect_close(answer(dice, present, weights), truth, "right for four classes, wrong for nine")
    nothing = answer(dice, torch.zeros(9, dtype=torch.bool), weights)
    expect(not bool(torch.as_tensor(nothing).isnan()), "where no class is present the result is NaN: it should be 0")
    expect_close(nothing, 0.0, "where no class is present the loss should be 0")
    learning = dice.clone().requires_grad_()
    value = answer(learning, present, weights)
    expect(value.requires_grad, "no gradient reaches `dice`: the result was cut off from it")


@exercise("E1_paired_interval", keeps=("first", "second"))
def paired_interval(answer: Callable) -> None:
    first, second = np.array([0.52, 0.44, 0.61, 0.38, 0.50]), np.array([0.47, 0.43, 0.53, 0.35, 0.44])
    value = _pair(answer(first, second))
    difference = first - second
    low, high = _interval(difference)
    expect(not is_close(value, (-high, -low)), "this is `second` minus `first`")
    expect(not is_close(value, (high, low)), "the lower end comes first")
    mean, spread, count = difference.mean(), difference.std(ddof=1), len(difference)
    t = stats.t.ppf(0.975, count - 1)

    def is_it(half: float) -> bool:
        return is_close(value, (mean - half, mean + half))

    expect(not is_it(t * spread), "the spread of a single run: that of the mean is smaller by the root of the runs")
    expect(not is_it(t * spread / count), "divided by the number of runs, not by its root")
    expect(not is_it(t * difference.std() / count**0.5), "the spread of few runs divides by n − 1: `ddof=1`")
    normal = stats.norm.ppf(0.975)
    expect(
        not any(is_it(z * difference.std() / count**0.5) for z in (normal, 1.96, 2.0)),
        "two faults: the spread of few runs divides by n − 1 (`ddof=1`), and five runs need Student's t with four "
        "degrees of freedom in place of the normal distribution's factor",
    )
    expect(
        not any(is_it(z * spread / count**0.5) for z in (normal, 1.96, 2.0)),
        "that factor is the normal distribution's: five runs need Student's t with four degrees of freedom",
    )
    expect(not is_it(stats.t.ppf(0.95, count - 1) * spread / count**0.5), "95 % leave 2.5 % on each side")
    expect(not is_it(stats.t.ppf(0.975, count) * spread / count**0.5), "degrees of freedom: one less than runs")
    apart = (first.var(ddof=1) / count + second.var(ddof=1) / count) ** 0.5
    expect(
        not any(is_it(factor * apart) for factor in (t, normal, 1.96, stats.t.ppf(0.975, 2 * count - 2))),
        "the runs were taken for unrelated: take each seed's difference first",
    )
    expect_close(value, (low, high), "wrong for five pairs of runs")
    rng = np.random.default_rng(0)
    first, second = rng.random(12), rng.random(12)
    expect_close(_pair(answer(first, second)), _interval(first - second), "right for five runs, wrong for twelve")


def _interval(difference: np.ndarray) -> tuple[float, float]:
    return stats.ttest_1samp(difference, 0).confidence_interval(0.95)


def _pair(value: object) -> tuple[float, float]:
    """Two numbers."""
    expect_written(value)
    hint = "return two numbers: the lower and the upper end of the interval"
    expect(isinstance(value, (tuple, list, np.ndarray, Tensor)) and len(value) == 2, hint)
    return tuple(float(end) for end in value)
