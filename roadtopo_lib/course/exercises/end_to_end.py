"""Exercises of notebook 7: mean IoU, matching, and an interval for a difference."""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

from roadtopo_lib.course.exercises._base import (
    Hint,
    exercise,
    expect,
    expect_close,
    expect_written,
    is_close,
)


@exercise("miou_of", keeps=("matrix",))
def miou_of(answer) -> None:
    matrix = np.array([[6, 3, 0], [1, 5, 0], [0, 0, 0]])  # the third class occurs nowhere
    value = answer(matrix)
    expect_written(value)
    expect(np.ndim(value) == 0, "the result should be one number: the mean over the classes")
    expect(not math.isnan(value), "the class that occurs nowhere made the mean NaN: leave it out")
    present = (6 / 10 + 5 / 9) / 2
    expect(not is_close(value, present * 2 / 3), "a class that occurs nowhere was counted as IoU 0: leave it out")
    expect(not is_close(value, (2 * present + 1) / 3), "a class that occurs nowhere was counted as IoU 1: leave it out")
    for wrong, hint in (
        (11 / 15, "that is pixel accuracy; IoU divides by true plus predicted minus both"),
        ((6 / 9 + 5 / 6) / 2, "that is the mean recall: predicted pixels are missing in the denominator"),
        ((6 / 7 + 5 / 8) / 2, "that is the mean precision: true pixels are missing in the denominator"),
        ((12 / 16 + 10 / 14) / 2, "that is Dice, or F1; IoU counts the hits once"),
        (
            (6 / 16 + 5 / 14) / 2,
            "the hits stand twice in the denominator, as true and as predicted: subtract them once",
        ),
        (11 / 19, "that is the IoU of all classes pooled: the mean of the classes' IoUs is asked for"),
    ):
        expect(not is_close(value, wrong), hint)
    expect_close(value, present, "IoU of a class: its diagonal / (its row + its column - its diagonal)")
    value = answer(np.array([[3, 1], [0, 0]]))
    expect_close(value, 0.375, "a class that is predicted but never true does occur: its IoU is 0 and counts")
    value = answer(np.array([[3, 0], [1, 0]]))
    expect_close(value, 0.375, "a class that is true but never predicted does occur: its IoU is 0 and counts")
    with np.errstate(all="ignore"):
        try:
            nothing = answer(np.zeros((3, 3), dtype=int))
        except ZeroDivisionError:
            raise Hint("before any pixel was counted the score should be NaN, not an error") from None
    expect(nothing is not None and math.isnan(nothing), "before any pixel was counted the score should be NaN")
    matrix = np.random.default_rng(0).integers(0, 50, size=(6, 6))
    matrix[4], matrix[:, 4] = 0, 0
    hits, union = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    truth = (hits[union > 0] / union[union > 0]).mean()
    expect_close(answer(matrix), truth, "right for two classes that occur, wrong for five of six")


@exercise("counts_of", keeps=("iou",))
def counts_of(answer) -> None:
    def counts(iou: list | np.ndarray, threshold: float = 0.5) -> tuple:
        iou = np.array(iou, dtype=float)
        try:
            found = answer(iou, threshold)
        except (ValueError, IndexError) as error:
            raise Hint(f"an array of shape {iou.shape} makes your code raise {type(error).__name__}") from None
        expect_written(found)
        expect(
            isinstance(found, (tuple, list)) and len(found) == 3, "the result should be a tuple of three: tp, fp, fn"
        )
        return tuple(found)

    found = counts([[0.9], [0.1], [0.2]])  # three predictions, one true lane
    expect(found != (1, 0, 2), "fp and fn are swapped: rows are predictions, columns are true lanes")
    expect(found != (0, 3, 1), "the pair with the smallest IoU was matched: is `maximize=True` missing?")
    expect_close(found, (1, 2, 0), "three predictions, one true lane, one match: fp = rows - tp, fn = columns - tp")
    expect_close(counts([[0.3]]), (0, 1, 1), "a pair below the threshold is no match, even if it is the best")
    found = counts([[0.8, 0.7], [0.7, 0.1]])
    expect(found[0] <= 2, "two lanes cannot have three matches: match one to one")
    expect(found[0] == 2, "taking the best pair first costs the second match: make the sum of the IoUs largest")
    expect_close(counts([[0.9, 0.1], [0.8, 0.1]]), (1, 1, 1), "a lane that two predictions cover has one match only")
    expect_close(counts([[0.5]]), (0, 1, 1), "an IoU equal to the threshold is no match yet")
    expect_close(counts([[0.4]], 0.3), (1, 0, 0), "the threshold should be the one given")
    expect_close(
        counts([[0.6, 0.45], [0.45, 0.0]]),
        (0, 2, 2),
        "the best sum pairs 0.45 with 0.45, both too low: match first, compare with the threshold after",
    )
    uneven = "the sum of 0.99 and 0.2 is larger than that of 0.55 and 0.55: the sum decides, not the number of matches"
    expect_close(counts([[0.99, 0.55], [0.55, 0.2]]), (1, 1, 1), uneven)
    expect_close(counts([[0.53]]), (1, 0, 0), "0.53 is above the threshold of 0.5: do not round")
    expect_close(counts(np.zeros((0, 3))), (0, 0, 3), "without predictions all true lanes are missed")
    expect_close(counts(np.zeros((2, 0))), (0, 2, 0), "without true lanes all predictions are false")
    rng = np.random.default_rng(0)
    iou = rng.random((4, 6))
    tp = int((iou[linear_sum_assignment(iou, maximize=True)] > 0.7).sum())
    expect_close(
        counts(iou, 0.7), (tp, 4 - tp, 6 - tp), "right for small arrays, wrong for 4 predictions, 6 true lanes"
    )


@exercise("difference_interval", keeps=("a", "b"))
def difference_interval(answer) -> None:
    rng = np.random.default_rng(0)
    lanes = rng.integers(2, 7, size=60)
    hits = rng.binomial(lanes, 0.6)
    a = np.stack([hits, lanes - hits, lanes - hits], axis=1)
    interval = answer(a, a, 0)
    expect_written(interval)
    expect(np.shape(interval) == (2,), "the result should be two numbers: low, high")
    expect_close(interval, (0, 0), "a method differs from itself by exactly 0: draw the same scenes for both")
    sure = np.array([[9, 0, 0]] * 20 + [[0, 1, 1]] * 20)
    never = np.array([[0, 0, 9]] * 20 + [[0, 1, 1]] * 20)
    low, high = answer(sure, never, 0)
    hint = "NaN: without a pair precision and recall are 0, and their F1 is 0 / 0; 2 TP / (2 TP + FP + FN) is 0 there"
    expect(not math.isnan(low + high), hint)
    expect(low <= high, "low should come before high")
    expect(high > 0, "the difference is F1 of a minus F1 of b: a is the better one here")
    expect(low > 0.7, "pool the counts of the drawn scenes before dividing: a mean of per-scene F1 is another score")
    worse = rng.binomial(hits, 0.8)
    b = np.stack([worse, lanes - worse, 2 * (lanes - worse)], axis=1)
    expect(high - low > 0, "the interval has no width: draw scenes at random, with replacement")
    for name, place in {"first": 0, "last": -1}.items():
        other = a.copy()
        other[place] = 0, 9, 9
        low, high = answer(a, other, 0)
        expect(high > low, f"the {name} scene is never drawn: draw from all N, as `rng.integers(N, size=…)` does")
    first = answer(a, b, 0)
    expect_close(answer(a, b, 0), first, "the same seed gave two intervals: draw with np.random.default_rng(seed)")
    expect(
        not is_close(answer(a, b, 1), first, atol=1e-12, rtol=0), "another seed gave the same draws: use the seed given"
    )
    _compare_intervals(answer, a, b)


def _compare_intervals(answer, a: np.ndarray, b: np.ndarray) -> None:
    """Means over seven seeds: the width varies by 3 % from seed to seed, the mean of seven widths by 1.2 %.

    From seed to seed the ends of right answers move by 1 to 2 % of the width; with 200 draws by 5 to 6 %.
    """
    found = np.array([answer(a, b, seed) for seed in range(7)])
    low, high = found.mean(axis=0)
    truth = _interval(a, b)
    width = (high - low) / (truth[1] - truth[0])
    expect(width < 1.1, "too wide: 95 % lie between the quantiles 0.025 and 0.975, of as many scenes as there are")
    expect(
        not 0.8 < width < 0.88,
        "too narrow, as wide as a 90 % interval: 95 % leave 2.5 % below and 2.5 % above, not 5 %",
    )
    expect(width > 0.92, "too narrow: draw as many scenes as there are, with replacement, and keep 95 % of the draws")
    margin = 0.06 * (truth[1] - truth[0])  # as far as right answers come: 0.03
    expect_close((low, high), truth, "the width is right, but not the place: as much lies below as above", atol=margin)
    jumps = np.sqrt(found.var(axis=0, ddof=1).mean()) / (truth[1] - truth[0])
    expect(jumps < 0.04, "another seed moves the interval too much: 1000 draws are asked for")


def _interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(1).integers(len(a), size=(10_000, len(a)))
    f1 = [2 * c[:, 0] / (2 * c[:, 0] + c[:, 1] + c[:, 2]) for c in (a[drawn].sum(axis=1), b[drawn].sum(axis=1))]
    low, high = np.quantile(f1[0] - f1[1], [0.025, 0.975])
    return float(low), float(high)
