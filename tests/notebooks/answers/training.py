"""Answers to the exercises of notebook 5."""

import math
from itertools import accumulate

import numpy as np
import torch

from answers._register import right, wrong

# --- clip_by_norm


def _norm(gradients):
    return torch.cat([g.flatten() for g in gradients]).norm()


def _scaled(norm):
    """An answer that takes this for the norm."""
    return lambda gradients, max_norm: [g * min(1.0, max_norm / max(float(norm(gradients)), 1e-12)) for g in gradients]


right("clip_by_norm")(_scaled(_norm))


@right("clip_by_norm")
def _(gradients, max_norm):
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [g.clone() if norm <= max_norm else g / norm * max_norm for g in gradients]


@right("clip_by_norm", "unusual")
def _(gradients, max_norm):
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return tuple(parameter.grad for parameter in parameters)


wrong("clip_by_norm", "one norm for all")(lambda gs, m: [_scaled(_norm)([g], m)[0] for g in gs])
wrong("clip_by_norm", "each number was cut for itself")(lambda gs, m: [g.clamp(-m, m) for g in gs])
wrong("clip_by_norm", "norms are not added")(_scaled(lambda gs: sum(g.norm() for g in gs)))
wrong("clip_by_norm", "the sum of all numbers")(_scaled(lambda gs: sum(g.abs().sum() for g in gs)))
wrong("clip_by_norm", "the root is missing")(_scaled(lambda gs: _norm(gs) ** 2))
wrong("clip_by_norm", "the largest is not the norm")(_scaled(lambda gs: max(g.norm() for g in gs)))
wrong("clip_by_norm", "nothing was clipped", "cheating")(lambda gs, m: list(gs))
wrong("clip_by_norm", "nothing was clipped", "cheating")(lambda gs, m: [g.clone() for g in gs])
wrong("clip_by_norm", "should stay as they are")(lambda gs, m: [g * (m / _norm(gs)) for g in gs])
wrong("clip_by_norm", "give NaN")(lambda gs, m: [g / _norm(gs) * min(_norm(gs), torch.tensor(m)) for g in gs])
wrong("clip_by_norm", "shares memory")(lambda gs, m: gs if _norm(gs) <= m else [g * (m / _norm(gs)) for g in gs])
wrong("clip_by_norm", "shares memory")(lambda gs, m: [g if _norm(gs) <= m else g * (m / _norm(gs)) for g in gs])
wrong("clip_by_norm", "list of two tensors")(lambda gs, m: torch.cat([g.flatten() for g in _scaled(_norm)(gs, m)]))
wrong("clip_by_norm", "should have shape (1, 2)")(lambda gs, m: [g.flatten() for g in _scaled(_norm)(gs, m)])


@wrong("clip_by_norm", "`gradients` was changed in place", "mutating")
def _(gradients, max_norm):
    norm = _norm(gradients)
    for g in gradients:
        g *= min(1.0, max_norm / float(norm))
    return [g.clone() for g in gradients]


@wrong("clip_by_norm", "`gradients` was changed in place", "mutating")
def _(gradients, max_norm):
    norm = _norm(gradients)
    for i, g in enumerate(gradients):
        gradients[i] = g * min(1.0, max_norm / float(norm))
    return list(gradients)


@wrong("clip_by_norm", "not for tensors of shapes", "cheating")
def _(gradients, max_norm):
    norm = 13.0 if float(gradients[0].sum()) == 7 else 0.5
    return [g * min(1.0, max_norm / norm) for g in gradients]


wrong("clip_by_norm", "flatten each first")(_scaled(lambda gs: torch.cat(gs).norm()))
wrong("clip_by_norm", "flatten each first")(_scaled(lambda gs: torch.stack(gs).norm()))
wrong("clip_by_norm", "norms 5 and 12 are 13")(_scaled(lambda gs: _norm(gs) + 1))
wrong("clip_by_norm", "an infinite max_norm")(lambda gs, m: _scaled(_norm)(gs, min(m, 10.0)))


# --- shares_of_step


def _counts(masks):
    return [int((mask != 255).sum()) for mask in masks]


right("shares_of_step")(lambda masks: [n / max(sum(_counts(masks)), 1) for n in _counts(masks)])
right("shares_of_step")(lambda masks: (np.array(_counts(masks)) / (sum(_counts(masks)) or 1)).tolist())


@right("shares_of_step", "unusual")
def _(masks):
    sizes = torch.tensor([mask.numel() - torch.bincount(mask.flatten(), minlength=256)[255] for mask in masks])
    return list(torch.nan_to_num(sizes / sizes.sum()))


@right("shares_of_step", "unusual")
def _(masks):
    pixels = torch.cat([torch.full((mask.numel(),), i) for i, mask in enumerate(masks)])
    labelled = pixels[torch.cat([mask.flatten() for mask in masks]) < 255]
    return tuple(float((labelled == i).float().mean()) if len(labelled) else 0.0 for i in range(len(masks)))


def _shares(count):
    """An answer with another count of a batch."""
    return lambda masks: [count(mask) / max(sum(map(count, masks)), 1) for mask in masks]


wrong("shares_of_step", "labelled pixels of each")(lambda masks: [1 / len(masks) for _ in masks])
wrong("shares_of_step", "labelled pixels of each")(_shares(lambda mask: float((mask != 255).float().mean())))
wrong("shares_of_step", "unlabelled pixels")(_shares(lambda mask: mask.numel()))
wrong("shares_of_step", "unlabelled pixels")(_shares(len))
wrong("shares_of_step", "not an error")(lambda masks: [n / sum(_counts(masks)) for n in _counts(masks)])
wrong("shares_of_step", "all factors should be 0")(lambda m: list(torch.tensor(_counts(m)) / sum(_counts(m))))
wrong("shares_of_step", "should sum to 1")(
    lambda masks: [n / m.numel() for n, m in zip(_counts(masks), masks, strict=True)]
)
wrong("shares_of_step", "these are counts")(_counts)
wrong("shares_of_step", "the other way")(
    lambda masks: (
        [1 / n / sum(1 / max(k, 1) for k in _counts(masks)) for n in _counts(masks)]
        if len({len(mask) for mask in masks}) == 1
        else [n / sum(_counts(masks)) for n in _counts(masks)]
    )
)
wrong("shares_of_step", "class 0 too")(_shares(lambda mask: int(((mask > 0) & (mask < 255)).sum())))
wrong("shares_of_step", "not for four", "cheating")(
    lambda masks: [n / max(sum(_counts(masks[:2])), 1) for n in _counts(masks)]
)
wrong("shares_of_step", "list with a number per batch")(lambda masks: sum(_counts(masks)))


@wrong("shares_of_step", "`masks` was changed in place", "mutating")
def _(masks):
    for mask in masks:
        mask[mask != 255] = 1
        mask[mask == 255] = 0
    return [float(mask.sum()) / max(sum(float(m.sum()) for m in masks), 1) for mask in masks]


wrong("shares_of_step", "count half each", "cheating")(lambda masks: [1.0, *[0.0] * (len(masks) - 1)])
wrong("shares_of_step", "should count 2 : 1")(_shares(lambda mask: int((mask != 255).sum()) ** 2))
wrong("shares_of_step", "should have factor 0")(_shares(lambda mask: max(int((mask != 255).sum()), 1)))


# --- EarlyStopping


class _Stopping:
    """Right; the wrong ones below differ from it by one method each."""

    def __init__(self, patience):
        self.patience, self.best, self.waited = patience, math.inf, 0

    def better(self, loss):
        return loss < self.best

    def done(self):
        return self.waited >= self.patience

    def stop(self, loss):
        if self.better(loss):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.done()


right("EarlyStopping")(_Stopping)


@right("EarlyStopping")
class _:
    def __init__(self, patience):
        self.left = self.patience = patience
        self.best = None

    def stop(self, loss):
        improved = not math.isnan(loss) and (self.best is None or loss < self.best)
        self.best = loss if improved else self.best
        self.left = self.patience if improved else self.left - 1
        return self.left == 0


@right("EarlyStopping", "unusual")
class _:
    def __init__(self, patience):
        self.patience, self.history = patience, [np.inf]

    def stop(self, loss):
        self.history.append(np.inf if np.isnan(loss) else loss)
        return np.bool_(len(self.history) - 1 - np.argmin(self.history) >= self.patience)


@right("EarlyStopping", "unusual")
class _(_Stopping):
    def stop(self, loss):
        return torch.tensor(_Stopping.stop(self, loss))


def _stopping(**methods):
    return type("EarlyStopping", (_Stopping,), methods)


def _never_reset(self, loss):
    self.waited += not loss < self.best
    self.best = min(self.best, loss)
    return self.done()


def _with_the_last(self, loss):
    self.waited = 0 if loss < self.best else self.waited + 1
    self.best = loss
    return self.done()


def _with_the_first(self, loss):
    self.waited = 0 if loss < self.best or self.best == math.inf else self.waited + 1
    self.best = loss if self.best == math.inf else self.best
    return self.done()


def _min_keeps_nan(self, loss):
    self.waited = 0 if loss < self.best else self.waited + 1
    self.best = min(loss, self.best)  # min(nan, x) is nan
    return self.done()


def _only_true(self, loss):
    if _Stopping.stop(self, loss):
        return True


wrong("EarlyStopping", "one epoch late")(_stopping(done=lambda self: self.waited > self.patience))
wrong("EarlyStopping", "it ends early")(
    _stopping(done=lambda self: self.waited >= self.patience - 1 and self.waited > 0)
)
wrong("EarlyStopping", "reset the counter")(_stopping(stop=_never_reset))
wrong("EarlyStopping", "not with the one before")(_stopping(stop=_with_the_last))
wrong("EarlyStopping", "not with the first")(_stopping(stop=_with_the_first))
wrong("EarlyStopping", "an equal loss")(_stopping(better=lambda self, loss: loss <= self.best))
wrong("EarlyStopping", "a small improvement")(_stopping(better=lambda self, loss: loss < self.best - 1e-3))
wrong("EarlyStopping", "NaN is never an improvement")(_stopping(better=lambda self, loss: not loss >= self.best))
wrong("EarlyStopping", "should not become the best")(_stopping(stop=_min_keeps_nan))
wrong("EarlyStopping", "returns None")(_stopping(stop=_only_true))
wrong("EarlyStopping", "stops after the first epoch", "cheating")(_stopping(stop=lambda self, loss: True))
wrong("EarlyStopping", "one epoch late", "cheating")(_stopping(done=lambda self: self.waited > 3))
wrong("EarlyStopping", "with patience 1", "cheating")(_stopping(done=lambda self: self.waited >= max(self.patience, 2)))
wrong("EarlyStopping", "not a int")(_stopping(done=lambda self: self.waited))


@wrong("EarlyStopping", "share what they remember", "mutating")
class _:
    losses: list = []  # noqa: RUF012  the fault on trial: one list for all

    def __init__(self, patience):
        self.patience = patience
        self.losses.clear()

    def stop(self, loss):
        self.losses.append(math.inf if math.isnan(loss) else loss)
        lowest = list(accumulate([math.inf, *self.losses], min))
        return len(lowest) - 1 - lowest.index(lowest[-1]) >= self.patience


@wrong("EarlyStopping", "large losses improve")
class _(_Stopping):
    def __init__(self, patience):
        self.patience, self.best, self.waited = patience, 1e6, 0


def _counts_epochs(self, loss):
    self.waited += 1
    return self.waited > self.patience


def _first_is_best(self, loss):
    if self.best == math.inf or loss < self.best:
        self.best, self.waited = loss, 0
    else:
        self.waited += 1
    return self.done()


def _silent_while_waiting(self, loss):
    stop = _Stopping.stop(self, loss)
    return stop if stop or not self.waited else None


wrong("EarlyStopping", "although every loss is better")(_stopping(stop=_counts_epochs))
wrong("EarlyStopping", "should end the run", "cheating")(_stopping(done=lambda self: False))
wrong("EarlyStopping", "losses below 0")(_stopping(better=lambda self, loss: abs(loss) < abs(self.best)))
wrong("EarlyStopping", "not even in the first epoch")(_stopping(stop=_first_is_best))
wrong("EarlyStopping", "in some epochs, returns None")(_stopping(stop=_silent_while_waiting))


# --- first_bad_step


@right("first_bad_step")
def _(losses, factor=3.0):
    for i, loss in enumerate(losses):
        if not math.isfinite(loss) or (i and loss > factor * min(losses[:i])):
            return i
    return -1


@right("first_bad_step")
def _(losses, factor=3.0):
    losses = np.array(losses)
    with np.errstate(invalid="ignore"):
        lowest = np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
        bad = ~np.isfinite(losses) | (losses > factor * lowest)
    return int(bad.argmax()) if bad.any() else -1


@right("first_bad_step", "unusual")
def _(losses, factor=3.0):
    values = torch.tensor(losses, dtype=torch.float64)
    bad = ~values.isfinite()
    bad[1:] |= values[1:] > factor * values.cummin(dim=0).values[:-1]
    return next(iter(bad.nonzero().flatten().tolist()), -1)


def _first(bad):
    """An answer that returns the first index for which this holds."""
    return lambda losses, factor=3.0: next((i for i in range(len(losses)) if bad(losses, i, factor)), -1)


def _lowest(losses, i):
    return min(losses[:i], default=math.inf)


def _broken(loss):
    return not math.isfinite(loss)


wrong("first_bad_step", "NaN was missed")(_first(lambda x, i, f: math.isinf(x[i]) or x[i] > f * _lowest(x, i)))
wrong("first_bad_step", "NaN was missed")(_first(lambda x, i, f: x[i] == math.nan or x[i] > f * _lowest(x, i)))
wrong("first_bad_step", "with either sign")(
    _first(lambda x, i, f: math.isnan(x[i]) or x[i] > f * min(x[:i], default=1e9))
)
wrong("first_bad_step", "not with the first")(_first(lambda x, i, f: _broken(x[i]) or x[i] > f * x[0]))
wrong("first_bad_step", "not the one before")(_first(lambda x, i, f: _broken(x[i]) or (i and x[i] > f * x[i - 1])))
wrong("first_bad_step", "not one that comes later")(_first(lambda x, i, f: _broken(x[i]) or x[i] > f * min(x)))
wrong("first_bad_step", "exactly factor times")(_first(lambda x, i, f: _broken(x[i]) or x[i] >= f * _lowest(x, i)))
wrong("first_bad_step", "the one given", "cheating")(_first(lambda x, i, f: _broken(x[i]) or x[i] > 3 * _lowest(x, i)))
wrong("first_bad_step", "the first loss can be NaN")(
    _first(lambda x, i, f: i and (_broken(x[i]) or x[i] > f * _lowest(x, i)))
)
wrong("first_bad_step", "not a bool")(lambda x, factor=3.0: any(map(_broken, x)))
wrong("first_bad_step", "NaN was missed", "cheating")(lambda losses, factor=3.0: -1)


@wrong("first_bad_step", "of several bad steps the first")
def _(losses, factor=3.0):
    bad = [i for i, x in enumerate(losses) if _broken(x) or (i and x > factor * _lowest(losses, i))]
    return bad[-1] if len(bad) > 1 and losses[0] == 1.0 else (bad or [-1])[0]


@wrong("first_bad_step", "`losses` was changed in place", "mutating")
def _(losses, factor=3.0):
    lowest, step = math.inf, 0
    while losses:
        loss = losses.pop(0)
        if _broken(loss) or loss > factor * lowest:
            return step
        lowest, step = min(lowest, loss), step + 1
    return -1


wrong("first_bad_step", "return -1")(lambda x, factor=3.0: len(x) if min(x) == x[-1] else 0)
wrong("first_bad_step", "can be infinite")(
    _first(lambda x, i, f: math.isnan(x[i]) or x[i] == -math.inf or x[i] > f * _lowest(x, i))
)


@wrong("first_bad_step", "an empty list makes your code raise IndexError")
def _(losses, factor=3.0):
    if _broken(losses[0]):
        return 0
    return _first(lambda x, i, f: _broken(x[i]) or x[i] > f * _lowest(x, i))(losses, factor)


wrong("first_bad_step", "an empty list holds no bad step")(
    lambda x, factor=3.0: _first(lambda x, i, f: _broken(x[i]) or x[i] > f * _lowest(x, i))(x, factor) if x else 0
)
wrong("first_bad_step", "a run of 40 steps")(
    _first(lambda x, i, f: _broken(x[i]) or x[i] > f * min(x[max(0, i - 3) : i], default=math.inf))
)


wrong("EarlyStopping", "an epoch of NaN is one without")(
    _stopping(stop=lambda self, loss: not math.isnan(loss) and _Stopping.stop(self, loss))
)


@wrong("first_bad_step", "indices begin at 0")
def _(losses, factor=3.0):
    return next((i + 1 for i, x in enumerate(losses) if _broken(x) or x > factor * _lowest(losses, i)), -1)


@wrong("first_bad_step", "not the loss itself")
def _(losses, factor=3.0):
    bad = (x for i, x in enumerate(losses) if _broken(x) or x > factor * _lowest(losses, i))
    return next(bad, -1)
