"""Exercises of notebook 5: clipping, accumulation, early stopping, a run that goes wrong."""

import math

import torch

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_tensor, expect_written
from roadtopo_lib.labels import IGNORE_INDEX


@exercise("clip_by_norm")
def clip_by_norm(answer) -> None:
    gradients = [torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])]  # norm 5 together
    clipped = answer(gradients, 1.0)
    expect_written(clipped)
    expect(isinstance(clipped, (list, tuple)) and len(clipped) == 2, "the result should be a list of two tensors")
    for value, truth in zip(clipped, gradients, strict=True):
        expect_tensor(value, tuple(truth.shape), "each clipped gradient")
    expect(
        gradients[0].tolist() == [[3.0, 0.0]] and gradients[1].tolist() == [4.0],
        "the input was changed in place: return new tensors",
    )
    both = torch.cat([value.flatten() for value in clipped])
    expect(
        not torch.allclose(both, torch.tensor([1.0, 0.0, 1.0]), atol=1e-4),
        "each tensor was cut for itself, which turns the direction: one norm for all, one factor for all",
    )
    expect_close(both, torch.tensor([0.6, 0.0, 0.8]), "norms 3 and 4 are 5 together: all times max_norm / 5", 1e-4)
    short = answer([torch.tensor([0.3]), torch.tensor([0.4])], 1.0)
    expect_close(
        torch.cat(list(short)), torch.tensor([0.3, 0.4]), "gradients shorter than max_norm should stay as they are"
    )
    zero = answer([torch.zeros(2)], 1.0)[0]
    expect(bool(zero.isfinite().all()), "gradients of norm 0 give NaN: nothing divides by zero if nothing is clipped")
    free = answer(gradients, math.inf)[0]
    expect_close(free, gradients[0], "an infinite max_norm should clip nothing")


@exercise("shares_of_step")
def shares_of_step(answer) -> None:
    full = torch.zeros(2, 4, 4, dtype=torch.int64)
    half = full.clone()
    half[:, :2] = IGNORE_INDEX
    equal = answer([full, full])
    expect_written(equal)
    expect(isinstance(equal, (list, tuple)) and len(equal) == 2, "the result should be a list with a number per batch")
    expect_close(sum(equal), 1.0, "the factors should sum to 1: they are shares")
    expect_close(equal, [0.5, 0.5], "two equal batches should count half each")
    smaller = answer([full, full[:1]])
    expect(
        [round(float(s), 4) for s in smaller] != [0.5, 0.5],
        "a batch of one image counts as much as one of two: do not divide by the number of batches",
    )
    expect_close(smaller, [2 / 3, 1 / 3], "batches of two images and one image should count 2 : 1")
    expect_close(
        answer([full, half]), [2 / 3, 1 / 3], "unlabelled pixels (255) take part in no mean: do not count them"
    )
    empty = torch.full((1, 4, 4), IGNORE_INDEX)
    expect_close(answer([empty, full]), [0.0, 1.0], "a batch without a labelled pixel should have factor 0")
    try:
        nothing = answer([empty, empty])
    except ZeroDivisionError:
        expect(False, "if no pixel is labelled in any batch, all factors should be 0, not an error")
    expect_close(nothing, [0.0, 0.0], "if no pixel is labelled in any batch, all factors should be 0")


@exercise("EarlyStopping")
def early_stopping(answer) -> None:
    first = answer(2).stop(1.0)
    expect_written(first, "your method stop")

    def ends(losses: list[float], patience: int) -> int | None:
        stopper = answer(patience)
        return next((index for index, loss in enumerate(losses) if stopper.stop(loss)), None)

    expect(not first, "it stops after the first epoch: the first loss is always the best so far")
    expect(ends([5.0, 4.0, 3.0, 2.0, 1.0], 2) is None, "it stops although every loss is better than the one before")
    expect(
        ends([1.0, 2.0, 2.5, 0.5, 2.0, 2.5, 3.0], 3) == 6,
        "patience counts epochs in a row: an improvement should reset the counter",
    )
    expect(ends([1.0, 2.0, 1.9, 1.8], 3) == 3, "compare with the best loss so far, not with the one before")
    expect(ends([1.0, 1.0, 1.0], 2) == 2, "an equal loss should be no improvement")
    expect(ends([1.0, 2.0], 1) == 1, "with patience 1, one epoch without improvement should end the run")
    expect(ends([math.nan, math.nan], 2) == 1, "NaN is no improvement, in the first epoch neither")
    expect(ends([math.nan, 1.0, 0.5], 2) is None, "a NaN should not become the best loss: nothing is below NaN")


@exercise("first_bad_step")
def first_bad_step(answer) -> None:
    calm = answer([3.0, 2.0, 1.0], 3.0)
    expect_written(calm)
    expect(calm == -1, "a run that only falls has no bad step: return -1")
    expect(answer([3.0, 2.0, math.nan, 1.0], 3.0) == 2, "NaN was missed: every comparison with NaN is False")
    expect(answer([3.0, -math.inf, 1.0], 3.0) == 1, "an infinite loss is bad with either sign")
    expect(answer([math.nan], 3.0) == 0, "the first loss can be bad, too")
    expect(
        answer([10.0, 1.0, 5.0, 20.0], 3.0) == 2,
        "5 is more than three times the lowest loss before it, 1: compare with the lowest, not with the first",
    )
    expect(answer([1.0, 2.0, 4.0, 2.0], 3.0) == 2, "compare with the lowest loss so far, not with the one before")
    expect(answer([1.0, 3.0], 3.0) == -1, "exactly factor times the lowest is not more than it")
    expect(answer([1.0, 3.0], 2.0) == 1, "the factor should be the one given")
