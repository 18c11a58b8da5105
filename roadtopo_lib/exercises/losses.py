"""Exercises of notebook 4: the terms of the discriminative loss, and Dice with unlabelled pixels."""

import math

import torch
from torch import Tensor

from roadtopo_lib.exercises._base import exercise, expect, expect_close, expect_written
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.losses import DiceLoss, DiscriminativeLoss


def _terms(points: Tensor, lane_of: Tensor, delta_var: float = 0.5, delta_dist: float = 1.5) -> dict[str, Tensor]:
    loss = DiscriminativeLoss(delta_var, delta_dist)
    return loss(points.T[None, :, None, :], (lane_of + 1)[None, None, :])[1]


@exercise("variance_term")
def variance_term(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    points, lane_of = torch.randn(20, 2, generator=generator), torch.arange(2).repeat_interleave(10)
    value = answer(points, lane_of, 0.5)
    expect_written(value)
    expect(isinstance(value, Tensor) and value.ndim == 0, "the result should be a tensor with a single number")
    inside = torch.tensor([[0.1, 0.0], [-0.1, 0.0]])
    expect_close(answer(inside, torch.tensor([0, 0]), 0.5), 0, "points within delta_var of their mean cost nothing")
    outside = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])  # both 1.0 outside the margin: square and hinge agree
    value = answer(outside, torch.tensor([0, 0]), 0.5)
    expect(not math.isclose(float(value), 2.0, rel_tol=1e-5), "two points cost twice one: average, do not add")
    expect_close(value, 1.0, "two points 1.5 from their mean, margin 0.5: (1.5 - 0.5)² each, averaged")
    further = torch.tensor([[2.5, 0.0], [-2.5, 0.0]])
    expect_close(answer(further, torch.tensor([0, 0]), 0.5), 4.0, "the hinge should be squared: 2.0 outside costs 4")
    expect_close(
        answer(torch.cat([further, inside]), torch.tensor([0, 0, 1, 1]), 0.5), 2.0, "average over the two lanes, too"
    )
    unequal, lanes = torch.cat([further, inside, inside]), torch.tensor([0, 0, 1, 1, 1, 1])
    expect_close(
        answer(unequal, lanes, 0.5), 2.0, "a lane counts once, however many pixels it has: average within each lane"
    )
    truth = _terms(points, lane_of)["variance"]
    expect_close(answer(points, lane_of, 0.5), truth, "it differs from the library's on random points")
    leaf = torch.zeros(4, 2, requires_grad=True)
    answer(leaf, torch.tensor([0, 0, 1, 1]), 0.5).backward()
    expect(bool(leaf.grad.isfinite().all()), "points exactly at their mean get a NaN gradient")


@exercise("distance_term")
def distance_term(answer) -> None:
    two = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    value = answer(two, 1.5)
    expect_written(value)
    expect(not math.isclose(float(value), 2.0, rel_tol=1e-5), "both orders of the pair count: divide by C(C−1), here 2")
    expect(
        not math.isclose(float(value), 5.0, rel_tol=1e-5) and not math.isclose(float(value), 10.0, rel_tol=1e-5),
        "a lane is compared with itself: its distance 0 costs (2 · delta_dist)²",
    )
    expect_close(value, 1.0, "means 2 apart, delta_dist 1.5: the hinge is 3 − 2, squared")
    expect_close(answer(two * 5, 1.5), 0, "means further apart than 2 · delta_dist should cost nothing")
    expect_close(answer(two / 2, 1.5), 4.0, "the hinge should be squared: means 1 apart miss 2, and cost 4")
    alone = answer(torch.tensor([[1.0, 2.0]]), 1.5)
    expect(not math.isnan(float(alone)), "a single lane gives NaN: there is no pair to average over")
    expect_close(alone, 0, "a single lane should cost nothing")
    means = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    truth = _terms(means, torch.arange(5), delta_dist=2.5)["distance"]
    expect_close(answer(means, 2.5), truth, "five lanes: it differs from the library's; divide by the number of pairs")


@exercise("dice_ignoring")
def dice_ignoring(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(2, 3, 6, 6, generator=generator).softmax(dim=1)
    target = torch.randint(0, 3, (2, 6, 6), generator=generator)
    value = answer(probabilities, target)
    expect_written(value)
    dice = DiceLoss(smooth=1.0)
    truth = dice(probabilities.log(), target)
    expect(not math.isclose(float(value), 1 - float(truth), rel_tol=1e-4), "this is Dice itself: the loss is 1 − Dice")
    expect_close(value, truth, "without ignored pixels it should equal the soft Dice loss over the whole batch")
    target[:, 3:] = IGNORE_INDEX
    value, truth = answer(probabilities, target), dice(probabilities.log(), target)
    as_background = dice(probabilities.log(), target.where(target != IGNORE_INDEX, 0))
    expect(
        not math.isclose(float(value), float(as_background), rel_tol=1e-4),
        "ignored pixels are counted as class 0: leave them out of the truth as well",
    )
    expect_close(value, truth, "ignored pixels still count: mask the probabilities as well as the truth")


@exercise("push_floor")
def push_floor(answer) -> None:
    expect_written(answer(2, 1.5))
    expect(not math.isclose(answer(5, 1.5), 3 - math.sqrt(2.5), rel_tol=1e-5), "this is the hinge; the term squares it")
    expect_close(answer(2, 1.5), 1.0, "two lanes can be 2 apart; 3 is asked for: (3 − 2)² is left")
    expect_close(answer(5, 1.5), (3 - math.sqrt(2.5)) ** 2, "five unit vectors can be √(2·5/4) apart")
    expect_close(answer(3, 0.5), 0, "a margin that fits leaves nothing: the hinge is never negative")
