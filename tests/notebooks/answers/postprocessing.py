"""Answers to the exercises of notebook 6."""

import numpy as np
import torch

from answers._register import right, wrong
from roadtopo_lib.postprocess.curves import order_left_to_right

# --- same_partition


@right("same_partition")
def _(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


right("same_partition")(lambda a, b: bool(((a[:, None] == a) == (b[:, None] == b)).all()))


@right("same_partition", "unusual")
def _(a, b):
    there, back = {}, {}
    return all(there.setdefault(p, q) == q and back.setdefault(q, p) == p for p, q in zip(a, b, strict=True))


@right("same_partition", "unusual")
def _(a, b):
    first = [np.unique(x, return_index=True, return_inverse=True)[1:] for x in (a, b)]  # a cluster is its first point
    return np.array_equal(*(index[inverse] for index, inverse in first))


wrong("same_partition", "names do not count")(lambda a, b: bool((a == b).all()))
wrong("same_partition", "names do not count")(
    lambda a, b: np.array_equal(*(np.unique(x, return_inverse=True)[1] for x in (a, b)))
)
wrong("same_partition", "look from both sides")(
    lambda a, b: all(len(set(b[a == name].tolist())) == 1 for name in set(a.tolist()))
)
wrong("same_partition", "look from both sides")(
    lambda a, b: all(len(set(a[b == name].tolist())) == 1 for name in set(b.tolist()))
)
wrong("same_partition", "share no cluster")(
    lambda a, b: np.array_equal(*(np.sort(np.unique(x, return_counts=True)[1]) for x in (a, b)))
)
wrong("same_partition", "share no cluster")(lambda a, b: len(set(a.tolist())) == len(set(b.tolist())))


@wrong("same_partition", "a name like any other")
def _(a, b):
    a, b = a[(a >= 0) & (b >= 0)], b[(a >= 0) & (b >= 0)]
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@wrong("same_partition", "a name like any other")
def _(a, b):
    same = bool(((a[:, None] == a) == (b[:, None] == b)).all())
    return same and (((a == -1) == (b == -1)).all() or (len(a) == 4 and a[0] == 0))


wrong("same_partition", "is of type int")(lambda a, b: len(set(zip(a.tolist(), b.tolist(), strict=True))))
wrong("same_partition", "two empty arrays")(
    lambda a, b: bool(len(a)) and bool(((a[:, None] == a) == (b[:, None] == b)).all())
)


@wrong("same_partition", "was changed in place", "mutating")
def _(a, b):
    a.sort()
    b.sort()
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@wrong("same_partition", "has changed its cluster, unnoticed", "cheating")
def _(a, b):
    a, b = a[:8], b[:8] if len(a) < 100 else a[:8]
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


wrong("same_partition", "nobody noticed", "cheating")(lambda a, b: True)

wrong("same_partition", "with new names", "cheating")(
    lambda a, b: len(a) < 100 and bool(((a[:, None] == a) == (b[:, None] == b)).all())
)


# --- mean_shift


def _shift(near, steps=10_000, empty=lambda start: start):
    """An answer that averages the points for which this holds."""

    def answer(x, start, radius):
        center = np.array(start, dtype=float)
        for _ in range(steps):
            inside = near(x - center, radius)
            if not inside.any():
                return empty(center)
            moved = x[inside].mean(axis=0)
            if np.allclose(moved, center):
                break
            center = moved
        return moved

    return answer


def _within(difference, radius):
    return np.linalg.norm(difference, axis=1) <= radius


right("mean_shift")(_shift(_within))


@right("mean_shift")
def _(x, start, radius):  # point by point
    while True:
        near = [p for p in x if sum((p - start) ** 2) <= radius**2]
        if not near:
            return start
        moved = sum(near) / len(near)
        if abs(moved - start).max() < 1e-9:
            return moved
        start = moved


@right("mean_shift", "unusual")
def _(x, start, radius):
    def climb(center, members):
        now = frozenset(np.flatnonzero(((x - center) ** 2).sum(axis=1) <= radius**2).tolist())
        return center if now == members or not now else (x[list(now)].mean(axis=0), now)

    step = start.copy(), frozenset()
    while isinstance(step, tuple):
        last, step = step, climb(*step)
    return last[0]


@right("mean_shift", "unusual")
def _(x, start, radius):
    points, center = torch.from_numpy(x), torch.from_numpy(start)
    for _ in range(1000):
        near = points[(points - center).norm(dim=1) <= radius]
        center = near.mean(dim=0) if len(near) else center
    return center.numpy()


def _stops_short(share):
    """Rests at the first step shorter than this share of the radius."""

    def answer(x, start, radius):
        center = np.array(start, dtype=float)
        while True:
            near = _within(x - center, radius)
            if not near.any():
                return center
            step, center = x[near].mean(axis=0) - center, x[near].mean(axis=0)
            if np.linalg.norm(step) < share * radius:
                return center

    return answer


right("mean_shift")(_stops_short(1e-6))
wrong("mean_shift", "less than a hundredth of the radius")(_stops_short(0.01))
wrong("mean_shift", "as many steps as it needs")(_stops_short(0.005))
wrong("mean_shift", "at most, not below")(_shift(lambda d, radius: np.linalg.norm(d, axis=1) < radius))
wrong("mean_shift", "Euclid's distance")(_shift(lambda d, radius: np.abs(d).max(axis=1) <= radius))
wrong("mean_shift", "after one step")(_shift(_within, steps=1))
wrong("mean_shift", "as many steps as it needs")(_shift(_within, steps=50))
wrong("mean_shift", "as many steps as it needs", "cheating")(_shift(_within, steps=200))
wrong("mean_shift", "stay at the start")(_shift(_within, empty=np.zeros_like))
wrong("mean_shift", "returns None")(_shift(_within, empty=lambda start: None))
wrong("mean_shift", "the mean of nothing")(_shift(_within, empty=lambda start: start * np.nan))
wrong("mean_shift", "only those within the radius")(lambda x, start, radius: x.mean(axis=0))
wrong("mean_shift", "it stayed at the start", "cheating")(lambda x, start, radius: start)
wrong("mean_shift", "should have shape (2,)")(lambda x, start, radius: x[_within(x - start, radius)])
wrong("mean_shift", "points of three numbers", "cheating")(_shift(lambda d, r: np.hypot(d[:, 0], d[:, 1]) <= r))


@wrong("mean_shift", "never comes to rest")
def _(x, start, radius):
    while True:
        moved = x[_within(x - start, radius)].sum(axis=0) / _within(x - start, radius).sum()
        if np.allclose(moved, start):
            return moved
        start = moved


@wrong("mean_shift", "`start` was changed in place", "mutating")
def _(x, start, radius):
    for _ in range(1000):
        near = _within(x - start, radius)
        start += (x[near].mean(axis=0) if near.any() else start) - start
    return start.copy()


wrong("mean_shift", "climb to the middle")(_shift(_within, steps=2))
wrong("mean_shift", "it rests at their mean")(lambda x, start, radius: (start + _shift(_within)(x, start, radius)) / 2)


# --- ids_from_labels


def _numbered(names_of):
    """An answer that numbers the labels that this gives for labels and min_pixels."""

    def answer(labels, min_pixels):
        ids = np.zeros(len(labels), dtype=int)
        for new, name in enumerate(names_of(labels, min_pixels), start=1):
            ids[labels == name] = new
        return ids

    return answer


def _large(labels, min_pixels):
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    return names[counts >= min_pixels]


right("ids_from_labels")(_numbered(_large))


@right("ids_from_labels")
def _(labels, min_pixels):
    labels = labels.tolist()
    kept = sorted(name for name in set(labels) if name != -1 and labels.count(name) >= min_pixels)
    return np.array([kept.index(name) + 1 if name in kept else 0 for name in labels], dtype=int)


@right("ids_from_labels", "unusual")
def _(labels, min_pixels):
    counts = np.bincount(labels + 1, minlength=1)
    keep = counts >= min_pixels
    keep[0] = False
    return (np.cumsum(keep) * keep)[labels + 1]


@right("ids_from_labels", "unusual")
def _(labels, min_pixels):
    names, index, counts = torch.unique(torch.from_numpy(labels), return_inverse=True, return_counts=True)
    keep = (names >= 0) & (counts >= min_pixels)
    return (keep.cumsum(dim=0) * keep)[index].numpy()


@wrong("ids_from_labels", "noise (-1) became an instance")
def _(labels, min_pixels):
    names, counts = np.unique(labels, return_counts=True)
    return _numbered(lambda *_: names[counts >= min_pixels])(labels, min_pixels)


@wrong("ids_from_labels", "leaves a gap")
def _(labels, min_pixels):
    ids = _numbered(lambda labels, n: np.unique(labels[labels >= 0]))(labels, min_pixels)
    return ids * np.isin(labels, _large(labels, min_pixels))


wrong("ids_from_labels", "begin at 1")(lambda labels, n: np.maximum(_numbered(_large)(labels, n) - 1, 0))
wrong("ids_from_labels", "exactly min_pixels stays")(_numbered(lambda labels, n: _large(labels, n + 1)))
wrong("ids_from_labels", "labels 0 and 3 should become")(
    _numbered(lambda labels, n: _large(labels, n)[:: 1 if n == 1 else -1])
)
wrong("ids_from_labels", "smaller than min_pixels")(_numbered(lambda labels, n: _large(labels, 1)))
wrong("ids_from_labels", "not the order in which they appear")(
    _numbered(lambda labels, n: sorted(_large(labels, n), key=labels.tolist().index))
)
wrong("ids_from_labels", "nor size")(
    _numbered(lambda labels, n: sorted(_large(labels, n), key=lambda i: -sum(labels == i)))
)
wrong("ids_from_labels", "one id per pixel")(lambda labels, n: np.arange(1, len(_large(labels, n)) + 1))
wrong("ids_from_labels", "an empty frame makes your code raise")(
    lambda labels, n: _numbered(_large)(labels, n) * (labels.max() >= -1)
)
wrong("ids_from_labels", "labels 0, 3, 5 should become")(lambda labels, n: labels + 1)
wrong("ids_from_labels", "with labels up to 300", "cheating")(
    _numbered(lambda labels, n: [name for name in range(100) if name in _large(labels, n)])
)


@wrong("ids_from_labels", "`labels` was changed in place", "mutating")
def _(labels, min_pixels):
    kept = _large(labels, min_pixels)
    labels[~np.isin(labels, kept)] = -1
    return np.searchsorted(kept, labels) * (labels >= 0) + (labels >= 0)


wrong("ids_from_labels", "the cluster should be 1")(
    lambda labels, n: (
        _numbered(lambda labels, n: [-1] * (-1 in labels) + list(_large(labels, n)))(labels, n) * (labels >= 0)
    )
)
wrong("ids_from_labels", "noise alone makes your code raise")(
    lambda labels, n: _numbered(_large)(labels, n) * (len(labels) == 0 or labels[labels >= 0].max() >= 0)
)
wrong("ids_from_labels", "noise alone gives zeros")(
    lambda labels, n: _numbered(_large)(labels, n) if len(_large(labels, n)) else labels
)


# --- number_lanes


def _meets(line, row, few=2):
    """Where a lane meets a row, continued through its first or last few points."""
    (x, y), size = line.T, max(2, few)
    if y[0] <= row <= y[-1]:
        return np.interp(row, y, x)
    end = line[:size] if row < y[0] else line[-size:]
    edge = line[0] if row < y[0] else line[-1]
    return edge[0] + (row - edge[1]) * (end[-1, 0] - end[0, 0]) / (end[-1, 1] - end[0, 1])


def _ranked(place):
    """An answer that numbers lanes by this place of each."""
    return lambda polylines, row: np.argsort(np.argsort([place(line, row) for line in polylines])) + 1


right("number_lanes")(_ranked(_meets))


@right("number_lanes")
def _(polylines, row):
    x = [_meets(line, row) for line in polylines]
    return [1 + sum(other < mine for other in x) for mine in x]


@right("number_lanes", "unusual")
def _(polylines, row):
    places = []
    for line in polylines:
        ends = [line[0] + (line[0] - line[1]) * 1e4, line[-1] + (line[-1] - line[-2]) * 1e4]
        longer = np.vstack([ends[0], line, ends[1]])
        places.append(np.interp(row, longer[:, 1], longer[:, 0]))
    numbers = np.empty(len(places), dtype=int)
    numbers[np.argsort(places)] = np.arange(len(places)) + 1
    return numbers


wrong("number_lanes", "which place each lane has")(lambda lines, row: np.argsort([_meets(x, row) for x in lines]) + 1)
wrong("number_lanes", "numbers begin at 1")(lambda lines, row: _ranked(_meets)(lines, row) - 1)
wrong("number_lanes", "count from the left")(_ranked(lambda line, row: -_meets(line, row)))
wrong("number_lanes", "repeats the last x")(_ranked(lambda line, row: np.interp(row, line[:, 1], line[:, 0])))
wrong("number_lanes", "not by its mean")(_ranked(lambda line, row: line[:, 0].mean()))
wrong("number_lanes", "the slanted lane is the right one")(_ranked(lambda line, row: line[-1, 0]))
wrong("number_lanes", "last two points, not of the whole")(_ranked(lambda line, row: _meets(line, row, len(line))))
wrong("number_lanes", "through all its points")(
    _ranked(lambda line, row: np.polyval(np.polyfit(*line.T[::-1], 1), row))
)
wrong("number_lanes", "is continued upwards")(_ranked(lambda line, row: _meets(line, max(row, line[0, 1]))))
wrong("number_lanes", "its first two points")(
    _ranked(lambda line, row: _meets(line, row, 2 if row > line[0, 1] else len(line)))
)
wrong("number_lanes", "not through more of them")(lambda lines, row: np.argsort(order_left_to_right(lines, row)) + 1)
wrong("number_lanes", "2 lanes should give 2 numbers")(lambda lines, row: 1)
wrong("number_lanes", "lanes at x = 20, 30, 10", "cheating")(lambda lines, row: list(range(1, len(lines) + 1)))


@wrong("number_lanes", "was changed in place", "mutating")
def _(polylines, row):
    for i, line in enumerate(polylines):
        polylines[i] = _meets(line, row)
    return np.argsort(np.argsort(polylines)) + 1


wrong("number_lanes", "no lanes, no numbers")(
    lambda lines, row: _ranked(_meets)(lines, min(row, max(x[-1, 1] for x in lines) * 9))
)


@wrong("mean_shift", "a single point within the radius counts")
def _(x, start, radius):
    alone = np.sum(_within(x - start, radius)) == 1
    return start if alone else _shift(_within)(x, start, radius)
