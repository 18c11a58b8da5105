"""Exercises of notebook 7: mean IoU, matching, the boundary band, and an interval for a difference."""

import math

import numpy as np
import torch

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_tensor, expect_written
from roadtopo_lib.metrics import mask_boundary


@exercise("miou_of")
def miou_of(answer) -> None:
    matrix = np.array([[6, 2, 0], [1, 5, 0], [0, 0, 0]])  # the third class occurs nowhere
    value = answer(matrix)
    expect_written(value)
    expect(np.ndim(value) == 0, "the result should be one number: the mean over the classes")
    expect(not math.isnan(value), "the class that occurs nowhere made the mean NaN: leave it out")
    present = (6 / 9 + 5 / 8) / 2
    expect(not math.isclose(value, present * 2 / 3), "a class that occurs nowhere was counted as IoU 0: leave it out")
    expect(not math.isclose(value, 11 / 14), "that is pixel accuracy; IoU divides by true plus predicted minus both")
    expect_close(value, present, "IoU of a class: its diagonal / (its row + its column - its diagonal)")
    value = answer(np.array([[3, 1], [0, 0]]))
    expect_close(value, 0.375, "a class that is predicted but never true does occur: its IoU is 0 and counts")
    expect(math.isnan(answer(np.zeros((3, 3), dtype=int))), "before any pixel was counted the score should be NaN")


@exercise("counts_of")
def counts_of(answer) -> None:
    counts = answer(np.array([[0.9], [0.1], [0.2]]), 0.5)  # three predictions, one true lane
    expect_written(counts)
    expect(isinstance(counts, tuple) and len(counts) == 3, "the result should be a tuple of tp, fp, fn")
    expect(tuple(counts) != (1, 0, 2), "fp and fn are swapped: rows are predictions, columns are true lanes")
    expect_close(counts, (1, 2, 0), "three predictions, one true lane, one match: fp = rows - tp, fn = columns - tp")
    expect_close(
        answer(np.array([[0.3]]), 0.5), (0, 1, 1), "a pair below the threshold is no match, even if it is the best"
    )
    counts = answer(np.array([[0.8, 0.7], [0.7, 0.1]]), 0.5)
    expect(counts[0] <= 2, "two lanes cannot have three matches: match one to one")
    expect(counts[0] == 2, "taking the best pair first costs the second match: make the sum of the IoUs largest")
    expect_close(answer(np.array([[0.5]]), 0.5), (0, 1, 1), "an IoU equal to the threshold is no match yet")
    expect_close(answer(np.zeros((0, 3)), 0.5), (0, 0, 3), "without predictions all true lanes are missed")


@exercise("outline")
def outline(answer) -> None:
    mask = torch.zeros(9, 12, dtype=torch.bool)
    mask[2:7, 3:9] = True
    ring = answer(mask, 1)
    expect_tensor(ring, (9, 12))
    expect(ring.dtype == torch.bool, f"the result should be bool, it is {ring.dtype}")
    expect(not bool((ring & ~mask).any()), "the band lies inside the mask: nothing outside belongs to it")
    expect(bool(ring.any()), "the result is empty: a pixel belongs to it if anything outside is within reach")
    expect(torch.equal(ring, _reference(mask, 1)), "band 1: the mask without its 3 × 3 erosion")
    expect(
        torch.equal(answer(mask, 2), _reference(mask, 2)),
        "band 2 reaches 2 pixels to each side: the window is 2 · band + 1 wide",
    )
    edge = torch.zeros(9, 12, dtype=torch.bool)
    edge[4:, 3:9] = True
    expect(
        torch.equal(answer(edge, 1), _reference(edge, 1)),
        "where the mask touches the image's edge, the edge is outline too: pad with outside",
    )


def _reference(mask: torch.Tensor, band: int) -> torch.Tensor:
    return torch.from_numpy(mask_boundary(mask.numpy(), band))


@exercise("difference_interval")
def difference_interval(answer) -> None:
    rng = np.random.default_rng(0)
    lanes = rng.integers(2, 7, size=60)
    hits = rng.binomial(lanes, 0.6)
    a = np.stack([hits, lanes - hits, lanes - hits], axis=1)
    interval = answer(a, a, 0)
    expect_written(interval)
    expect(len(interval) == 2, "the result should be two numbers: low, high")
    expect_close(interval, (0, 0), "a method differs from itself by exactly 0: draw the same scenes for both")
    sure = np.array([[9, 0, 0]] * 20 + [[0, 1, 1]] * 20)
    never = np.array([[0, 0, 9]] * 20 + [[0, 1, 1]] * 20)
    low, high = answer(sure, never, 0)
    expect(low <= high, "low should come before high")
    expect(high > 0, "the difference is F1 of a minus F1 of b: a is the better one here")
    expect(low > 0.7, "pool the counts of the drawn scenes before dividing: a mean of per-scene F1 is another score")
    worse = rng.binomial(hits, 0.8)
    b = np.stack([worse, lanes - worse, lanes - worse], axis=1)
    low, high = answer(a, b, 0)
    truth = _interval(a, b)
    expect(high - low < 1.3 * (truth[1] - truth[0]), "too wide: 95 % lie between the quantiles 0.025 and 0.975")
    expect(high - low > 0.75 * (truth[1] - truth[0]), "too narrow: draw as many scenes as there are, with replacement")
    expect_close((low, high), truth, "it differs from the library's answer by more than chance", atol=0.025)


def _interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(1).integers(len(a), size=(2000, len(a)))
    f1 = [2 * c[:, 0] / (2 * c[:, 0] + c[:, 1] + c[:, 2]) for c in (a[drawn].sum(axis=1), b[drawn].sum(axis=1))]
    low, high = np.quantile(f1[0] - f1[1], [0.025, 0.975])
    return float(low), float(high)
