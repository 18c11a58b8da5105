"""Exercises of notebook 5: clipping, accumulation, early stopping, a run that goes wrong."""

import math

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_tensor, expect_written, is_close
from roadtopo_lib.labels import IGNORE_INDEX


@exercise("clip_by_norm", keeps=("gradients",))
def clip_by_norm(answer) -> None:
    gradients = [torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])]  # norms 5 and 12, together 13
    try:
        clipped = answer(gradients, 1.0)
    except RuntimeError as error:  # of torch.cat, torch.stack and sums
        of_shapes = any(words in str(error) for words in ("same number of dimensions", "equal size", "must match"))
        expect(not of_shapes, "tensors of different shapes cannot be joined as they are: flatten each first")
        raise
    expect_written(clipped)
    expect(isinstance(clipped, (list, tuple)) and len(clipped) == 2, "the result should be a list of two tensors")
    for value, given in zip(clipped, gradients, strict=True):
        expect_tensor(value, tuple(given.shape), "each clipped gradient")
    both = torch.cat([value.flatten() for value in clipped])
    given = torch.cat([value.flatten() for value in gradients])
    expect(
        not is_close(both, [0.6, 0.8, 1.0], atol=1e-4),
        "each tensor was cut for itself, which turns the direction: one norm for all, one factor for all",
    )
    expect(
        not is_close(both, [1.0, 1.0, 1.0], atol=1e-4),
        "each number was cut for itself, which turns the direction: one factor for all",
    )
    for norm, hint in (
        (1, "nothing was clipped: the norm of all together, 13, is above max_norm, 1"),
        (17, "norms are not added: the norm of all numbers together is the root of the sum of their squares"),
        (19, "that is the sum of all numbers; the norm is the root of the sum of their squares"),
        (169, "that is the square of the norm: the root is missing"),
        (12, "the largest is not the norm of all: that is the root of the sum of squares"),
    ):
        expect(not is_close(both, given / norm, atol=1e-4), hint)
    expect_close(both, given / 13, "norms 5 and 12 are 13 together: all times max_norm / 13", 1e-4)
    _short_gradients(answer)
    free = answer(gradients, math.inf)
    expect_close(free[0], gradients[0], "an infinite max_norm should clip nothing")
    _new_tensors(free, gradients)
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4, 2), (5,), (), (1, 1, 2, 2))
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    norm = torch.cat([value.flatten() for value in gradients]).norm()
    for value, given in zip(answer(gradients, 2.5), gradients, strict=True):
        hint = f"right for a matrix and a vector, not for tensors of shapes {shapes} and a max_norm of 2.5"
        expect_close(value, given * (2.5 / float(norm)), hint, atol=1e-4)


def _short_gradients(answer) -> None:
    short = [torch.tensor([0.3]), torch.tensor([0.4])]
    kept = answer(short, 1.0)
    expect_close(torch.cat(list(kept)), [0.3, 0.4], "gradients shorter than max_norm should stay as they are")
    _new_tensors(kept, short)
    zero = answer([torch.zeros(2)], 1.0)[0]
    expect(bool(zero.isfinite().all()), "gradients of norm 0 give NaN: nothing divides by zero if nothing is clipped")


def _new_tensors(values: list[Tensor], gradients: list[Tensor]) -> None:
    places = {given.data_ptr() for given in gradients}
    expect(
        not any(value.data_ptr() in places for value in values),
        "where nothing is clipped, the result shares memory with the input: return new tensors",
    )


@exercise("shares_of_step", keeps=("masks",))
def shares_of_step(answer) -> None:
    full = torch.full((2, 4, 4), 3)
    half = full.clone()
    half[:, :2] = IGNORE_INDEX
    equal = answer([full, full])
    expect_written(equal)
    expect(isinstance(equal, (list, tuple)) and len(equal) == 2, "the result should be a list with a number per batch")
    expect(not is_close(equal, [32.0, 32.0]), "these are counts of pixels: divide by that of all batches")
    expect_close(sum(equal), 1.0, "the factors should sum to 1: they are shares")
    expect_close(equal, [0.5, 0.5], "two equal batches should count half each")
    smaller = answer([full, full[:1]])
    expect(
        not is_close(smaller, [0.5, 0.5]),
        "a batch of one image counts as much as one of two: count the labelled pixels of each, and of all together",
    )
    expect_close(smaller, [2 / 3, 1 / 3], "batches of two images and one image should count 2 : 1")
    uneven = answer([full, half])
    expect(
        not is_close(uneven, [1 / 3, 2 / 3]), "the batch with fewer labelled pixels counts more: it is the other way"
    )
    expect_close(uneven, [2 / 3, 1 / 3], "unlabelled pixels (255) take part in no mean: do not count them")
    background = torch.zeros_like(full)
    expect_close(
        answer([full, background]), [0.5, 0.5], "every class counts alike, class 0 too: only 255 is unlabelled"
    )
    empty = torch.full((1, 4, 4), IGNORE_INDEX)
    expect_close(answer([empty, full]), [0.0, 1.0], "a batch without a labelled pixel should have factor 0")
    try:
        nothing = answer([empty, empty])
    except ZeroDivisionError:
        expect(False, "if no pixel is labelled in any batch, all factors should be 0, not an error")
    expect_close(nothing, [0.0, 0.0], "if no pixel is labelled in any batch, all factors should be 0")
    rng = np.random.default_rng(0)
    masks = [torch.from_numpy(rng.choice([0, 1, 5, IGNORE_INDEX], size=(b, 5, 7))) for b in (3, 1, 2, 4)]
    counts = [int((mask != IGNORE_INDEX).sum()) for mask in masks]
    expect_close(
        answer(masks), [n / sum(counts) for n in counts], "right for two batches, not for four of 5 × 7 pixels"
    )


@exercise("EarlyStopping")
def early_stopping(answer) -> None:
    first = answer(2).stop(1.0)
    expect_written(first, "your method stop")
    truth_value = isinstance(first, (bool, np.bool_)) or (isinstance(first, Tensor) and first.dtype == torch.bool)
    expect(truth_value, f"stop should return True or False, not a {type(first).__name__}")

    def ends(losses: list[float], patience: int) -> int | None:
        stopper = answer(patience)
        for index, loss in enumerate(losses):
            verdict = stopper.stop(loss)
            expect_written(verdict, "your method stop, in some epochs,")
            if verdict:
                return index
        return None

    expect(not first, "it stops after the first epoch: the first loss is always the best so far")
    expect(ends([5.0, 4.0, 3.0, 2.0, 1.0], 2) is None, "it stops although every loss is better than the one before")
    flat = ends([1.0, *[2.0] * 9], 3)
    expect(flat != 4, "it ends one epoch late: `patience` epochs without an improvement are enough")
    expect(flat is None or flat >= 3, "it ends early: `patience` epochs without an improvement must have passed")
    expect(flat == 3, "after the best loss, `patience` epochs without an improvement should end the run")
    expect(
        ends([1.0, 2.0, 2.5, 0.5, 2.0, 2.5, 3.0], 3) == 6,
        "patience counts epochs in a row: an improvement should reset the counter",
    )
    expect(ends([1.0, 2.0, 1.9, 1.8], 3) == 3, "compare with the best loss so far, not with the one before")
    expect(ends([3.0, 1.0, 2.0, 2.0], 2) == 3, "compare with the best loss so far, not with the first")
    expect(ends([1.0, 1.0, 1.0], 2) == 2, "an equal loss should be no improvement")
    expect(ends([1.0, 2.0], 1) == 1, "with patience 1, one epoch without improvement should end the run")
    expect(ends([1.0, 0.9999, 0.9998, 0.9997], 2) is None, "a small improvement is one, too: any loss below the best")
    expect(ends([-1.0, -2.0, -3.0], 1) is None, "losses below 0 improve, too: the first best is no number like 0")
    expect(ends([1e9, 1e8, 1e7], 1) is None, "large losses improve, too: the first best should be infinite")
    nan_is_skipped = ends([1.0, math.nan, 1.5, 1.4, 1.3], 3) == 4
    expect(not nan_is_skipped, "an epoch of NaN is one without an improvement: it counts, as one")
    expect(ends([math.nan, math.nan], 2) == 1, "NaN is never an improvement, not even in the first epoch")
    expect(ends([math.nan, 1.0, 0.5], 2) is None, "a NaN should not become the best loss: nothing is below NaN")
    one, other = answer(2), answer(2)
    verdicts = [stopper.stop(loss) for loss in (1.0, 2.0) for stopper in (one, other)]
    expect(not any(verdicts), "two stoppers share what they remember: keep it in `self`, set in __init__")


@exercise("first_bad_step", keeps=("losses",))
def first_bad_step(answer) -> None:
    calm = answer([3.0, 2.0, 1.0], 3.0)
    expect_written(calm)
    expect(not isinstance(calm, (bool, float, str, list, tuple)), f"return an index, not a {type(calm).__name__}")
    expect(calm == -1, "a run that only falls has no bad step: return -1")
    expect(answer([5.0, 4.0, 1.0], 3.0) == -1, "the lowest loss *before* it counts, not one that comes later")
    found = answer([3.0, 2.0, math.nan, 1.0], 3.0)
    expect(not isinstance(found, float), "return the index of the bad loss, not the loss itself")
    expect(found != 3, "index 3 for the third loss: indices begin at 0")
    expect(found == 2, "NaN was missed: every comparison with NaN is False")
    expect(answer([3.0, -math.inf, 1.0], 3.0) == 1, "an infinite loss is bad with either sign")
    expect(answer([math.nan], 3.0) == 0, "the first loss can be NaN, too")
    expect(answer([math.inf, 1.0], 3.0) == 0, "the first loss can be infinite, too")
    expect(
        answer([10.0, 1.0, 5.0, 20.0], 3.0) == 2,
        "5 is more than three times the lowest loss before it, 1: compare with the lowest, not with the first",
    )
    expect(
        answer([1.0, 2.0, 4.0, 2.0], 3.0) == 2,
        "4 is more than 3 · 1: multiply the lowest loss so far, not the one before",
    )
    expect(answer([1.0, 3.0], 3.0) == -1, "exactly factor times the lowest is not more than it")
    expect(answer([1.0, 3.0], 2.0) == 1, "the factor should be the one given")
    expect(answer([1.0, 9.0, 1.0, 20.0], 3.0) == 1, "of several bad steps the first is asked for")
    try:
        nothing = answer([], 3.0)
    except Exception as error:
        expect(False, f"an empty list makes your code raise {type(error).__name__}: no step, no bad one: return -1")
    expect(nothing == -1, "an empty list holds no bad step: return -1")
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.85, 1.15, size=40).tolist()
    losses[5], losses[30] = 0.6, 1.4
    hint = "wrong for a run of 40 steps around 1: loss 5, 0.6, is the lowest, and loss 30, 1.4, more than twice of it"
    expect(answer(losses, 2.0) == 30, hint)
