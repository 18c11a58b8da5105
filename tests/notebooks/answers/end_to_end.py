"""Answers to the exercises of notebook 7."""

import math
from itertools import permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from answers._register import right, wrong

# --- miou_of


def _parts(matrix):
    hits = np.diag(matrix)
    return hits, matrix.sum(axis=1), matrix.sum(axis=0)  # hits, true, predicted


@right("miou_of")
def _(matrix):
    hits, true, predicted = _parts(matrix)
    union = true + predicted - hits
    return (hits[union > 0] / union[union > 0]).mean() if union.any() else math.nan


@right("miou_of")
def _(matrix):
    ious = []
    for c in range(len(matrix)):
        union = sum(matrix[c, k] + matrix[k, c] for k in range(len(matrix)) if k != c) + matrix[c, c]
        if union:
            ious.append(matrix[c, c] / union)
    return sum(ious) / len(ious) if ious else float("nan")


@right("miou_of", "unusual")
def _(matrix):
    counts = torch.from_numpy(matrix).double()
    both = counts.diag()
    return torch.nanmean(both / (counts.sum(0) + counts.sum(1) - both))  # 0 / 0 is NaN, and left out


def _mean_iou(score, present=lambda h, t, p: t + p > 0):
    """An answer with another score of a class, or another choice of classes."""

    def answer(matrix):
        h, t, p = (x[present(*_parts(matrix))] for x in _parts(matrix))
        return float(score(h, t, p)) if len(h) else math.nan

    return answer


def _iou(h, t, p):
    return (h / np.maximum(t + p - h, 1)).mean()


wrong("miou_of", "counted as IoU 0")(_mean_iou(_iou, lambda h, t, p: h > -1))
wrong("miou_of", "counted as IoU 1")(
    _mean_iou(lambda h, t, p: ((h + 1e-9) / (t + p - h + 1e-9)).mean(), lambda h, t, p: h > -1)
)
wrong("miou_of", "made the mean NaN")(
    lambda m: (np.diag(m) / (m.sum(0) + m.sum(1) - np.diag(m)) * np.float64(1)).mean()
)
wrong("miou_of", "predicted but never true does occur")(_mean_iou(_iou, lambda h, t, p: t > 0))
wrong("miou_of", "true but never predicted does occur")(_mean_iou(_iou, lambda h, t, p: p > 0))
wrong("miou_of", "that is pixel accuracy")(_mean_iou(lambda h, t, p: h.sum() / t.sum()))
wrong("miou_of", "mean recall")(_mean_iou(lambda h, t, p: (h / t).mean()))
wrong("miou_of", "mean precision")(_mean_iou(lambda h, t, p: (h / p).mean()))
wrong("miou_of", "that is Dice")(_mean_iou(lambda h, t, p: (2 * h / (t + p)).mean()))
wrong("miou_of", "the hits stand twice")(_mean_iou(lambda h, t, p: (h / (t + p)).mean()))
wrong("miou_of", "all classes pooled")(_mean_iou(lambda h, t, p: h.sum() / (t + p - h).sum()))
wrong("miou_of", "should be NaN")(lambda m: _mean_iou(_iou)(m) if m.any() else 0.0)
wrong("miou_of", "should be NaN, not an error")(lambda m: _mean_iou(_iou)(m) if m.any() else 0 / int(m.sum()))
wrong("miou_of", "should be one number")(lambda m: np.diag(m) / np.maximum(m.sum(0) + m.sum(1) - np.diag(m), 1))
wrong("miou_of", "five of six", "cheating")(lambda m: _mean_iou(_iou)(m[:3, :3]))
wrong("miou_of", "never true does occur", "cheating")(lambda m: (6 / 10 + 5 / 9) / 2)


@wrong("miou_of", "`matrix` was changed in place", "mutating")
def _(matrix):
    value = _mean_iou(_iou)(matrix)
    np.fill_diagonal(matrix, 0)
    return value


wrong("miou_of", "IoU of a class")(_mean_iou(lambda h, t, p: (h / np.maximum(t + p - 2 * h, 1)).mean()))


# --- counts_of


def _counted(tp_of):
    def answer(iou, threshold=0.5):
        tp = tp_of(iou, threshold)
        return tp, iou.shape[0] - tp, iou.shape[1] - tp

    return answer


def _hungarian(iou, threshold):
    return int((iou[linear_sum_assignment(iou, maximize=True)] > threshold).sum())


def _brute_force(iou, threshold):
    iou = iou if len(iou) <= iou.shape[1] else iou.T
    pairs = max((iou[range(len(iou)), list(p)] for p in permutations(range(iou.shape[1]), len(iou))), key=sum)
    return int((pairs > threshold).sum())


def _greedy(iou, threshold):
    rest, tp = iou.copy(), 0
    while rest.size and rest.max() > threshold:
        i, j = np.unravel_index(rest.argmax(), rest.shape)
        rest[i], rest[:, j], tp = 0, 0, tp + 1
    return tp


def _row_by_row(iou, threshold):
    free, tp = set(range(iou.shape[1])), 0
    for row in iou:
        best = max(free, key=lambda j: row[j], default=None)
        if best is not None and row[best] > threshold:
            free.discard(best)
            tp += 1
    return tp


right("counts_of")(_counted(_hungarian))
right("counts_of")(_counted(_brute_force))


@right("counts_of", "unusual")
def _(iou, threshold=0.5):
    rows, columns = linear_sum_assignment(-iou)
    tp = sum(iou[i, j] > threshold for i, j in zip(rows, columns, strict=True))
    return [np.int64(tp), len(iou) - tp, iou.shape[1] - tp]


wrong("counts_of", "match one to one")(_counted(lambda iou, t: int((iou > t).sum())))
wrong("counts_of", "taking the best pair first")(_counted(_greedy))
wrong("counts_of", "taking the best pair first")(_counted(_row_by_row))
wrong("counts_of", "two predictions cover")(_counted(lambda iou, t: int((iou.max(axis=1, initial=0) > t).sum())))
wrong("counts_of", "below the threshold")(_counted(lambda iou, t: min(iou.shape)))
wrong("counts_of", "equal to the threshold")(_counted(lambda iou, t: _hungarian(iou, t - 1e-9)))
wrong("counts_of", "the one given", "cheating")(_counted(lambda iou, t: _hungarian(iou, 0.5)))
wrong("counts_of", "compare with the threshold after")(
    _counted(lambda iou, t: _hungarian(np.where(iou > t, iou, 0), t))
)
wrong("counts_of", "fp and fn are swapped")(
    lambda iou, t=0.5: np.array(_counted(_hungarian)(iou, t))[[0, 2, 1]].tolist()
)
wrong("counts_of", "maximize=True")(_counted(lambda iou, t: int(iou[linear_sum_assignment(iou)][0] > t)))
wrong("counts_of", "three predictions, one true lane")(lambda iou, t=0.5: (_hungarian(iou, t), 0, 0))
wrong("counts_of", "an array of shape (0, 3)")(_counted(lambda iou, t: int(iou.max() > t) * _hungarian(iou, t)))
wrong("counts_of", "tuple of three")(lambda iou, t=0.5: _hungarian(iou, t))
wrong("counts_of", "wrong for 4 predictions", "cheating")(_counted(lambda iou, t: _hungarian(iou[:2, :2], t)))


@wrong("counts_of", "`iou` was changed in place", "mutating")
def _(iou, threshold=0.5):
    matched = iou[linear_sum_assignment(iou, maximize=True)]
    iou[iou <= threshold] = 0
    return _counted(lambda iou, t: int((matched > t).sum()))(iou, threshold)


wrong("counts_of", "an array of shape (2, 0)")(
    _counted(lambda iou, t: _hungarian(iou, t) * int(not len(iou) or min(iou.max(axis=1)) >= 0))
)


# --- difference_interval


def _f1(counts):
    return 2 * counts[..., 0] / (2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def _differences(a, b, seed, draws=1000, scenes=None, replace=True):
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.choice(len(a), scenes or len(a), replace=replace) for _ in range(draws)])
    return _f1(a[drawn].sum(axis=1)) - _f1(b[drawn].sum(axis=1))


def _between(low, high, **how):
    return lambda a, b, seed: tuple(np.quantile(_differences(a, b, seed, **how), [low, high]))


right("difference_interval")(_between(0.025, 0.975))


@right("difference_interval")
def _(a, b, seed):
    drawn = np.random.default_rng(seed).integers(len(a), size=(1000, len(a)))
    return np.percentile(_f1(a[drawn].sum(axis=1)) - _f1(b[drawn].sum(axis=1)), [2.5, 97.5])


@right("difference_interval", "unusual")
def _(a, b, seed):
    weights = np.random.default_rng(seed).multinomial(len(a), np.full(len(a), 1 / len(a)), size=1000)
    differences = sorted(_f1(weights @ a) - _f1(weights @ b))
    return float(differences[25]), float(differences[-26])


wrong("difference_interval", "as wide as a 90 % interval")(_between(0.05, 0.95))
wrong("difference_interval", "too wide")(_between(0.0, 1.0))
wrong("difference_interval", "too wide")(_between(0.005, 0.995))
wrong("difference_interval", "too wide")(_between(0.025, 0.975, scenes=30))
wrong("difference_interval", "too narrow")(_between(0.16, 0.84))
wrong("difference_interval", "too narrow")(_between(0.025, 0.975, scenes=240))
wrong("difference_interval", "as much lies below as above")(_between(0.01, 0.96))
wrong("difference_interval", "1000 draws are asked for")(_between(0.025, 0.975, draws=50))
wrong("difference_interval", "1000 draws are asked for")(_between(0.025, 0.975, draws=200))
wrong("difference_interval", "has no width")(_between(0.025, 0.975, replace=False))
wrong("difference_interval", "low should come before high")(_between(0.975, 0.025))
wrong("difference_interval", "F1 of a minus F1 of b")(lambda a, b, seed: _between(0.025, 0.975)(b, a, seed))
wrong("difference_interval", "use the seed given", "cheating")(lambda a, b, seed: _between(0.025, 0.975)(a, b, 0))
wrong("difference_interval", "the same seed gave two")(lambda a, b, seed: _between(0.025, 0.975)(a, b, None))
wrong("difference_interval", "two numbers")(lambda a, b, seed: _differences(a, b, seed))
wrong("difference_interval", "F1 of a minus F1 of b", "cheating")(lambda a, b, seed: (0.0, 0.0))


@wrong("difference_interval", "their F1 is 0 / 0")
def _(a, b, seed):
    drawn = np.random.default_rng(seed).integers(len(a), size=(1000, len(a)))
    scores = []
    for tp, fp, fn in (c[drawn].sum(axis=1).T for c in (a, b)):
        with np.errstate(invalid="ignore"):
            precision, recall = tp / (tp + fp), tp / (tp + fn)
            scores.append(2 * precision * recall / (precision + recall))
    return np.quantile(scores[0] - scores[1], [0.025, 0.975])


@wrong("difference_interval", "draw the same scenes for both")
def _(a, b, seed):
    rng = np.random.default_rng(seed)
    a, b = (_f1(c[rng.integers(len(c), size=(1000, len(c)))].sum(axis=1)) for c in (a, b))
    return np.quantile(a - b, [0.025, 0.975])


@wrong("difference_interval", "pool the counts")
def _(a, b, seed):
    drawn = np.random.default_rng(seed).integers(len(a), size=(1000, len(a)))
    return np.quantile(_f1(a)[drawn].mean(axis=1) - _f1(b)[drawn].mean(axis=1), [0.025, 0.975])


@wrong("difference_interval", "`a` was changed in place", "mutating")
def _(a, b, seed):
    rng = np.random.default_rng(seed)
    rng.shuffle(a)
    return _between(0.025, 0.975)(a, b, seed)


wrong("counts_of", "not the number of matches")(
    _counted(lambda iou, t: int((iou[linear_sum_assignment(-np.log(iou + 1e-9))] > t).sum()))  # the largest product
)
wrong("counts_of", "do not round")(_counted(lambda iou, t: _hungarian(iou.round(1), t)))


def _drawing(low, high):
    def answer(a, b, seed):
        drawn = np.random.default_rng(seed).integers(low, len(a) + high, size=(1000, len(a)))
        return tuple(np.quantile(_f1(a[drawn].sum(axis=1)) - _f1(b[drawn].sum(axis=1)), [0.025, 0.975]))

    return answer


right("difference_interval")(_drawing(0, 0))
wrong("difference_interval", "the last scene is never drawn")(_drawing(0, -1))
wrong("difference_interval", "the first scene is never drawn")(_drawing(1, 0))
