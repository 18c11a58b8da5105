"""Answers to the exercises of elective 2."""

import math

import numpy as np
import torch

from answers._register import right, wrong

# --- E2_tile_starts


@right("E2_tile_starts")
def _(length, tile, overlap):
    last = max(0, length - tile)
    return [*range(0, last, tile - overlap), last]


@right("E2_tile_starts")
def _(length, tile, overlap):
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(min(starts[-1] + tile - overlap, length - tile))
    return starts


@right("E2_tile_starts", "unusual")
def _(length, tile, overlap):
    count = 1 + math.ceil(max(0, length - tile) / (tile - overlap))
    return np.minimum(np.arange(count) * (tile - overlap), max(0, length - tile))


@right("E2_tile_starts", "unusual")
def _(length, tile, overlap):
    ends = (min(y + tile, length) for y in range(0, length, tile - overlap))
    return sorted({max(0, end - tile) for end in ends})


wrong("E2_tile_starts", "is not seen")(
    lambda length, tile, overlap: list(range(0, max(1, length - tile), tile - overlap))
)
wrong("E2_tile_starts", "a tile is there twice")(
    lambda length, tile, overlap: [min(y + tile, length) - tile for y in range(0, length, tile - overlap)]
)
wrong("E2_tile_starts", "counts from the far end")(
    lambda length, tile, overlap: sorted({min(y + tile, length) - tile for y in range(0, length, tile - overlap)})
)
wrong("E2_tile_starts", "reaches over the end")(
    lambda length, tile, overlap: [y for y in range(0, length, tile - overlap) if y == 0 or y + overlap < length]
)
wrong("E2_tile_starts", "and it alone, is moved back")(
    lambda length, tile, overlap: [
        round(k * max(0, length - tile) / max(1, math.ceil(max(0, length - tile) / (tile - overlap))))
        for k in range(1 + math.ceil(max(0, length - tile) / (tile - overlap)))
    ]
)
wrong("E2_tile_starts", "got [0, 64")(
    lambda length, tile, overlap: sorted({min(y, max(0, length - tile)) for y in range(0, length, overlap or tile)})
)
wrong("E2_tile_starts", "whole pixels")(
    lambda length, tile, overlap: [k * length / 4 + 0.5 for k in range(length // tile)]
)
wrong("E2_tile_starts", "no tile at all")(
    lambda length, tile, overlap: list(range(0, length - tile, tile - overlap))[:0]
)
wrong("E2_tile_starts", "list of starts")(lambda length, tile, overlap: max(0, length - tile))
wrong("E2_tile_starts", "wrong for 13 of them", "cheating")(
    lambda length, tile, overlap: (
        [0, 25, 50, 75]
        if tile == 25
        else [0]
        if length <= tile
        else sorted({0, min(448, length - tile), length - tile})
    )
)
wrong("E2_tile_starts", "is not seen", "cheating")(lambda length, tile, overlap: [0])

# --- E2_blend


@right("E2_blend")
def _(pieces, starts, window, length):
    total, weights = np.zeros(length), np.zeros(length)
    for piece, start in zip(pieces, starts, strict=True):
        total[start : start + len(window)] += window * piece
        weights[start : start + len(window)] += window
    return total / weights


@right("E2_blend")
def _(pieces, starts, window, length):
    total, weights = [0.0] * length, [0.0] * length
    for piece, start in zip(pieces, starts, strict=True):
        for k, weight in enumerate(window):
            total[start + k] += weight * piece[k]
            weights[start + k] += weight
    return np.array([a / b for a, b in zip(total, weights, strict=True)])


@right("E2_blend", "unusual")
def _(pieces, starts, window, length):
    index = np.add.outer(starts, np.arange(len(window))).ravel()
    many = np.tile(window, len(pieces))
    return np.bincount(index, many * np.concatenate(pieces), length) / np.bincount(index, many, length)


@right("E2_blend", "unusual")
def _(pieces, starts, window, length):
    place = torch.zeros(len(pieces), length, dtype=torch.float64)
    value = place.clone()
    for row, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        place[row, start : start + len(piece)] = torch.from_numpy(np.array(window, float))
        value[row, start : start + len(piece)] = torch.from_numpy(np.array(piece, float))
    return ((place / place.sum(dim=0)) * value).sum(dim=0)


def _blend(weigh=True, divide="weights", put="add"):
    def answer(pieces, starts, window, length):
        total, weights = np.zeros(length), np.zeros(length)
        for piece, start in zip(pieces, starts, strict=True):
            place, weight = slice(start, start + len(window)), window if weigh else np.ones(len(window))
            if put == "add":
                total[place] += weight * piece
            else:
                total[place] = weight * piece
            weights[place] += weight if divide == "weights" else 1
        return total if divide is None else total / weights

    return answer


wrong("E2_blend", "divide by the sum of the weights")(_blend(divide=None))
wrong("E2_blend", "whatever its weight")(_blend(divide="count"))
wrong("E2_blend", "has no effect")(_blend(weigh=False))
wrong("E2_blend", "overwrote")(_blend(weigh=False, divide=None, put="last"))
wrong("E2_blend", "two tiles of ones")(_blend(put="last"))
wrong("E2_blend", "should have shape (4,)")(lambda pieces, starts, window, length: np.concatenate(pieces)[: length - 1])
wrong("E2_blend", "divided by zero")(
    lambda pieces, starts, window, length: np.full(length, np.nan) if len(pieces) else None
)


@wrong("E2_blend", "add up in float")
def _(pieces, starts, window, length):
    total = np.zeros(length, pieces[0].dtype)
    weights = np.zeros(length, pieces[0].dtype)
    for piece, start in zip(pieces, starts, strict=True):
        total[start : start + len(window)] += (window * piece).astype(total.dtype)
        weights[start : start + len(window)] += window.astype(total.dtype)
    return total // weights if total.dtype.kind == "i" else total / weights


@wrong("E2_blend", "was changed in place", "mutating")
def _(pieces, starts, window, length):
    total, weights = np.zeros(length), np.zeros(length)
    for piece, start in zip(pieces, starts, strict=True):
        piece *= window.astype(piece.dtype)
        total[start : start + len(window)] += piece
        weights[start : start + len(window)] += window
    return total / weights


@wrong("E2_blend", "wrong for four", "cheating")
def _(pieces, starts, window, length):
    return _blend()(pieces[:2], starts[:2], window, length) if len(pieces) < 3 else np.zeros(length)


@wrong("E2_blend", "in any order")
def _(pieces, starts, window, length):
    return _blend()(pieces, sorted(starts), window, length)


# --- E2_draw_weights


@right("E2_draw_weights")
def _(positive, share):
    return np.where(positive, share / positive.sum(), (1 - share) / (~positive).sum())


@right("E2_draw_weights")
def _(positive, share):
    weights = np.zeros(len(positive))
    weights[positive] = share / np.count_nonzero(positive)
    weights[~positive] = (1 - share) / np.count_nonzero(~positive)
    return weights


@right("E2_draw_weights", "unusual")
def _(positive, share):
    counts = np.bincount(positive.astype(int), minlength=2)
    return (np.array([1 - share, share]) / counts)[positive.astype(int)]


@right("E2_draw_weights", "unusual")
def _(positive, share):
    kind = torch.from_numpy(positive)
    weights = torch.where(kind, share * (~kind).sum() / kind.sum(), torch.tensor(1.0 - share).double())
    return weights.double() / weights.double().sum() if share < 1 else kind.double() / kind.sum()


wrong("E2_draw_weights", "how many patches share")(lambda positive, share: np.where(positive, share, 1 - share))
wrong("E2_draw_weights", "should add up to 1")(
    lambda positive, share: np.where(positive, share / (1 - share), positive.sum() / (~positive).sum())
)
wrong("E2_draw_weights", "how many patches share")(
    lambda positive, share: np.where(positive, share / len(positive), (1 - share) / len(positive))
)
wrong("E2_draw_weights", "wanted share 0.5")(
    lambda positive, share: np.where(positive, share / (~positive).sum(), (1 - share) / positive.sum())
)
wrong("E2_draw_weights", "share of 0.2")(
    lambda positive, share: np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
)
wrong("E2_draw_weights", "10 patches have 10 weights")(
    lambda positive, share: np.array([share / positive.sum(), (1 - share) / (~positive).sum()])
)
wrong("E2_draw_weights", "equally often")(
    lambda positive, share: np.where(np.arange(10) == 0, share, np.where(positive, 0, (1 - share) / (~positive).sum()))
)
wrong("E2_draw_weights", "is negative")(
    lambda positive, share: np.where(positive, share / positive.sum(), (share - 1) / (~positive).sum())
)


@wrong("E2_draw_weights", "was changed in place", "mutating")
def _(positive, share):
    one, other = share / positive.sum(), (1 - share) / (~positive).sum()
    first = positive.copy()
    positive[:] = False
    return np.where(first, one, other)


@wrong("E2_draw_weights", "of 500", "cheating")
def _(positive, share):
    return np.where(positive, share / 2, (1 - share) / 8)


# --- E2_mean_iou


def _iou(p, t, empty=1.0):
    union = (p | t).sum()
    return (p & t).sum() / union if union else empty


@right("E2_mean_iou")
def _(batches):
    return np.mean([_iou(p, t) for predicted, true in batches for p, t in zip(predicted, true, strict=True)])


@right("E2_mean_iou")
def _(batches):
    values = []
    for predicted, true in batches:
        union = (predicted | true).sum(axis=(1, 2))
        both = (predicted & true).sum(axis=(1, 2))
        values.append(np.where(union > 0, both / np.maximum(union, 1), 1.0))
    return float(np.concatenate(values).mean())


@right("E2_mean_iou", "unusual")
def _(batches):
    predicted, true = (torch.from_numpy(np.concatenate(part)).flatten(1) for part in zip(*batches, strict=True))
    both, union = (predicted & true).sum(dim=1), (predicted | true).sum(dim=1)
    return ((both + 1e-7) / (union + 1e-7)).mean()


@right("E2_mean_iou", "unusual")
def _(batches):
    total = count = 0
    for predicted, true in batches:
        total += len(true) * np.mean([_iou(p, t) for p, t in zip(predicted, true, strict=True)])
        count += len(true)
    return total / count


wrong("E2_mean_iou", "not over batches")(
    lambda batches: np.mean([np.mean([_iou(p, t) for p, t in zip(a, b, strict=True)]) for a, b in batches])
)
wrong("E2_mean_iou", "went into one fraction")(
    lambda batches: sum((a & b).sum() for a, b in batches) / max(1, sum((a | b).sum() for a, b in batches))
)
wrong("E2_mean_iou", "two empty masks agree")(
    lambda batches: np.mean([_iou(p, t, 0.0) for a, b in batches for p, t in zip(a, b, strict=True)])
)
wrong("E2_mean_iou", "two empty masks agree")(
    lambda batches: np.mean(
        [(p & t).sum() / ((p | t).sum() + 1e-6) for a, b in batches for p, t in zip(a, b, strict=True)]
    )
)
wrong("E2_mean_iou", "NaN")(
    lambda batches: np.mean([(p & t).sum() / (p | t).sum() for a, b in batches for p, t in zip(a, b, strict=True)])
)
wrong("E2_mean_iou", "division by zero")(
    lambda batches: np.mean(
        [int((p & t).sum()) / int((p | t).sum()) for a, b in batches for p, t in zip(a, b, strict=True)]
    )
)
wrong("E2_mean_iou", "where there is none")(
    lambda batches: np.mean([_iou(p, t) if t.any() else 1.0 for a, b in batches for p, t in zip(a, b, strict=True)])
)
wrong("E2_mean_iou", "is the Dice")(
    lambda batches: np.mean(
        [2 * (p & t).sum() / max(1, p.sum() + t.sum()) for a, b in batches for p, t in zip(a, b, strict=True)]
    )
)
wrong("E2_mean_iou", "one number")(lambda batches: [_iou(p, t) for a, b in batches for p, t in zip(a, b, strict=True)])


@wrong("E2_mean_iou", "was changed in place", "mutating")
def _(batches):
    values = []
    for predicted, true in batches:
        union = (predicted | true).sum(axis=(1, 2))
        predicted &= true
        values += np.where(union > 0, predicted.sum(axis=(1, 2)) / np.maximum(union, 1), 1.0).tolist()
    return np.mean(values)


@wrong("E2_mean_iou", "wrong for 17 images", "cheating")
def _(batches):
    rows = [(p[:1], t[:1]) for a, b in batches for p, t in zip(a, b, strict=True)]
    return np.mean([_iou(p, t) for p, t in rows])
