"""Answers to the exercises of elective 4."""

import math

import numpy as np
import torch

from answers._register import right, wrong

# --- E4_positions


def _positions(channels, height, width, rate=None, swap=False, alternate=False, first=0, count=4):
    quarter = channels // count
    rates = 10000 ** -(torch.arange(quarter) / quarter) if rate is None else rate(quarter)

    def half(length):
        angles = rates[:, None] * (torch.arange(length) + first)
        if alternate:
            return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)
        return torch.cat([angles.sin(), angles.cos()])

    rows = half(height)[:, :, None].expand(-1, -1, width)
    columns = half(width)[:, None].expand(-1, height, -1)
    return torch.cat([columns, rows] if swap else [rows, columns])


@right("E4_positions")
def _(channels, height, width):
    rates = 10000 ** -(torch.arange(channels // 4) / (channels // 4))
    rows = torch.arange(height)[:, None] * rates
    columns = torch.arange(width)[:, None] * rates
    rows = torch.cat([rows.sin(), rows.cos()], dim=1).T
    columns = torch.cat([columns.sin(), columns.cos()], dim=1).T
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)])


right("E4_positions")(_positions)


@right("E4_positions", "unusual")
def _(channels, height, width):
    quarter = channels // 4
    found = np.zeros((channels, height, width))
    for k in range(quarter):
        rate = math.pow(10000, -k / quarter)
        for row in range(height):
            found[k, row], found[k + quarter, row] = math.sin(row * rate), math.cos(row * rate)
        for column in range(width):
            found[k + 2 * quarter, :, column] = math.sin(column * rate)
            found[k + 3 * quarter, :, column] = math.cos(column * rate)
    return found


@right("E4_positions", "unusual")
def _(channels, height, width):
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    rates = torch.logspace(0, -4 + 16 / channels, channels // 4)
    angles = grid[:, None] * rates[None, :, None, None]
    return torch.cat([angles.sin(), angles.cos()], dim=1).flatten(0, 1)


wrong("E4_positions", "equal along a row")(lambda c, h, w: _positions(c, h, w, swap=True))
wrong("E4_positions", "alternate")(lambda c, h, w: _positions(c, h, w, alternate=True))
wrong("E4_positions", "the first row is 0")(lambda c, h, w: _positions(c, h, w, first=1))
wrong("E4_positions", "10000^(−1/2)")(lambda c, h, w: _positions(c, h, w, lambda q: 1.0 / (torch.arange(q) + 1)))
wrong("E4_positions", "10000^(−1/2)")(
    lambda c, h, w: _positions(c, h, w, lambda q: 10000 ** -(torch.arange(q) / (2 * q)))
)
wrong("E4_positions", "should have shape (8, 5, 3)")(lambda c, h, w: _positions(c, w, h))
wrong("E4_positions", "should have shape (8, 5, 3)")(lambda c, h, w: _positions(c, h, w, count=8))
wrong("E4_positions", "between −1 and 1")(lambda c, h, w: 3 * _positions(c, h, w))


@wrong("E4_positions", "wrong for 64 channels", "cheating")
def _(channels, height, width):
    return _positions(channels, height, width) if channels < 64 else torch.zeros(channels, height, width)


# --- E4_weights


@right("E4_weights")
def _(scores, present):
    return scores.masked_fill(~present[:, :, None, None], -math.inf).softmax(dim=1)


@right("E4_weights")
def _(scores, present):
    there = present[:, :, None, None].to(scores)
    high = torch.where(there > 0, scores, -torch.inf).amax(dim=1, keepdim=True)
    raised = torch.where(there > 0, (scores - high).exp(), 0)
    return raised / raised.sum(dim=1, keepdim=True)


@right("E4_weights", "unusual")
def _(scores, present):
    out = torch.zeros_like(scores)
    for k in range(len(scores)):
        out[k, present[k]] = scores[k, present[k]].softmax(dim=0)
    return out


@right("E4_weights", "unusual")
def _(scores, present):
    return (scores + torch.where(present, 0.0, -torch.inf)[..., None, None]).softmax(1)


wrong("E4_weights", "should be exactly 0")(lambda scores, present: scores.softmax(dim=1))
wrong("E4_weights", "should be exactly 0")(
    lambda scores, present: scores.masked_fill(~present[:, :, None, None], 0).softmax(dim=1)
)
wrong("E4_weights", "add up to 1 again")(lambda scores, present: scores.softmax(dim=1) * present[:, :, None, None])
wrong("E4_weights", "add up to 1 over the guesses")(
    lambda scores, present: scores.masked_fill(~present[:, :, None, None], -math.inf).sigmoid()
)
wrong("E4_weights", "should be exactly 0")(
    lambda scores, present: scores.masked_fill(~present[:, :, None, None], -10).softmax(dim=1)
)
wrong("E4_weights", "count for nothing")(
    lambda scores, present: (scores - 150.0 * ~present[:, :, None, None]).softmax(dim=1)
)
wrong("E4_weights", "add up to 1 over the guesses")(
    lambda scores, present: scores.masked_fill(~present[:, :, None, None], -math.inf).softmax(dim=2)
)
wrong("E4_weights", "there is a NaN")(
    lambda scores, present: (scores / present[:, :, None, None] * present[:, :, None, None] * 0 / 0).softmax(dim=1)
)
wrong("E4_weights", "count for nothing")(
    lambda scores, present: scores.masked_fill(~present[:, :, None, None], -1e4).softmax(dim=1)
)
wrong("E4_weights", "True means present")(
    lambda scores, present: scores.masked_fill(present[:, :, None, None], -math.inf).softmax(dim=1)
)


@wrong("E4_weights", "was changed in place", "mutating")
def _(scores, present):
    scores[~present] = -torch.inf
    return scores.softmax(dim=1)


@wrong("E4_weights", "whose guesses differ", "cheating")
def _(scores, present):
    return scores.masked_fill(~present[:1, :, None, None], -math.inf).softmax(dim=1)


# --- E4_paste


@right("E4_paste")
def _(partial, mask, completions, weights):
    merged = (weights[:, :, None] * completions).sum(dim=1)
    return torch.where(mask.bool(), merged, partial)


@right("E4_paste")
def _(partial, mask, completions, weights):
    merged = torch.einsum("bnhw,bnchw->bchw", weights, completions)
    return torch.where(mask > 0.5, merged, partial)


@right("E4_paste", "unusual")
def _(partial, mask, completions, weights):
    out, inside = partial.clone(), mask.bool().expand_as(partial)
    out[inside] = (weights.unsqueeze(2) * completions).sum(1)[inside]
    return out


@right("E4_paste", "unusual")
def _(partial, mask, completions, weights):
    merged = sum(weights[:, n, None] * completions[:, n] for n in range(weights.shape[1]))
    return np.where(mask.numpy() > 0, merged.numpy(), partial.numpy())


wrong("E4_paste", "0 · ∞ is NaN")(
    lambda partial, mask, completions, weights: (
        partial * (1 - mask) + (weights[:, :, None] * completions).sum(dim=1) * mask
    )
)
wrong("E4_paste", "mask is 1 where something is hidden")(
    lambda partial, mask, completions, weights: torch.where(
        mask.bool() & ~mask.bool().all(), partial, (weights[:, :, None] * completions).sum(dim=1)
    )
)
wrong("E4_paste", "weighted sum of the guesses")(
    lambda partial, mask, completions, weights: torch.where(mask.bool(), partial, completions.mean(dim=1))
)
wrong("E4_paste", "weighted sum of the guesses")(
    lambda partial, mask, completions, weights: torch.where(mask.bool(), completions.mean(dim=1), partial)
)
wrong("E4_paste", "bit for bit")(
    lambda partial, mask, completions, weights: (weights[:, :, None] * completions).sum(dim=1)
)
wrong("E4_paste", "bit for bit")(
    lambda partial, mask, completions, weights: torch.where(
        mask.bool(), (weights[:, :, None] * completions).sum(dim=1), partial * 255 / 254.9
    )
)
wrong("E4_paste", "a mask of its own")(
    lambda partial, mask, completions, weights: torch.where(
        mask[:1].bool(), (weights[:, :, None] * completions).sum(dim=1), partial
    )
)
wrong("E4_paste", "should have shape (2, 3, 4, 5)")(
    lambda partial, mask, completions, weights: weights[:, :, None] * completions
)
wrong("E4_paste", "weighted sum of the guesses", "cheating")(
    lambda partial, mask, completions, weights: torch.where(mask.bool(), completions[:, 0], partial)
)


@wrong("E4_paste", "was changed in place", "mutating")
def _(partial, mask, completions, weights):
    inside = mask.bool().expand_as(partial)
    partial[inside] = (weights[:, :, None] * completions).sum(dim=1)[inside]
    return partial


# --- E4_mean_error


@right("E4_mean_error")
def _(processes):
    total = count = 0.0
    for batches in processes:
        for error, mask in batches:
            total += (error * mask).sum()
            count += mask.sum()
    return total / count


@right("E4_mean_error")
def _(processes):
    pairs = [pair for batches in processes for pair in batches]
    return sum((e * m).sum() for e, m in pairs) / sum(m.sum() for _, m in pairs)


@right("E4_mean_error", "unusual")
def _(processes):
    return np.concatenate([error[mask > 0] for batches in processes for error, mask in batches]).mean()


@right("E4_mean_error", "unusual")
def _(processes):
    rows = []
    for batches in processes:
        sums = [torch.tensor([(e * m).sum(), m.sum()], dtype=torch.float64) for e, m in batches]
        rows.append(torch.stack(sums).sum(dim=0))
    error, count = torch.stack(rows).sum(dim=0)
    return error / count


def _of_batch(error, mask):
    return (error * mask).sum() / max(1, mask.sum())


wrong("E4_mean_error", "divide by the hidden ones")(
    lambda processes: np.mean(np.concatenate([(e * m).ravel() for batches in processes for e, m in batches]))
)
wrong("E4_mean_error", "as much as a batch of two")(
    lambda processes: np.mean([_of_batch(e, m) for batches in processes for e, m in batches])
)
wrong("E4_mean_error", "as much as a batch of two")(
    lambda processes: (
        sum(_of_batch(e, m) for batches in processes for e, m in batches) / (len(processes) * len(processes[0]))
    )
)
wrong("E4_mean_error", "as much as one with four")(
    lambda processes: np.mean(
        [sum((e * m).sum() for e, m in batches) / max(1, sum(m.sum() for _, m in batches)) for batches in processes]
    )
)
wrong("E4_mean_error", "outside the mask should not count")(
    lambda processes: (
        sum(e.sum() for batches in processes for e, _ in batches)
        / sum(m.sum() for batches in processes for _, m in batches)
    )
)
wrong("E4_mean_error", "different numbers of batches")(
    lambda processes: (
        sum(sum((e * m).sum() for e, m in pair) for pair in zip(*processes, strict=False))
        / sum(sum(m.sum() for _, m in pair) for pair in zip(*processes, strict=False))
    )
)
wrong("E4_mean_error", "one number")(lambda processes: [_of_batch(e, m) for batches in processes for e, m in batches])
wrong("E4_mean_error", "wrong for 15 images", "cheating")(
    lambda processes: (
        sum((e * m)[:2].sum() for batches in processes for e, m in batches)
        / sum(m[:2].sum() for batches in processes for _, m in batches)
    )
)


@wrong("E4_mean_error", "was changed in place", "mutating")
def _(processes):
    total = count = 0.0
    for batches in processes:
        for error, mask in batches:
            error *= 2 * mask
            total += error.sum() / 2
            count += mask.sum()
    return total / count
