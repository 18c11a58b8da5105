"""Answers to the exercises of notebook 4."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from answers._register import right, wrong
from roadtopo_lib.losses import DiceLoss, DiscriminativeLoss, LaneCriterion

# --- pull_of_batch


def _lanes(pixels, mask, margin):
    """The pull of each lane of an image, as a list."""
    lanes = []
    for lane in mask[mask > 0].unique():
        mine = pixels[:, mask == lane]
        distance = torch.linalg.vector_norm(mine - mine.mean(dim=1, keepdim=True), dim=0)
        lanes.append((distance - margin).clamp(min=0).square().mean())
    return lanes


def _mean(values, embeddings):
    return torch.stack(values).mean() if values else embeddings.sum() * 0


@right("pull_of_batch")
def _(embeddings, instance_mask, delta_var):
    images = [_lanes(x, mask, delta_var) for x, mask in zip(embeddings, instance_mask, strict=True)]
    return _mean([torch.stack(lanes).mean() for lanes in images if lanes], embeddings)


@right("pull_of_batch")
def _(embeddings, instance_mask, delta_var):
    total, images = embeddings.sum() * 0, 0
    for pixels, mask in zip(embeddings.flatten(2), instance_mask.flatten(1), strict=True):
        member = F.one_hot(mask)[:, 1:].to(pixels)  # (N, lanes)
        size = member.sum(dim=0)
        means = pixels @ member / size.clamp(min=1)  # (D, lanes)
        distance = (pixels - means @ member.T).norm(dim=0)
        lanes = F.relu(distance - delta_var) ** 2 @ member / size.clamp(min=1)
        if size.any():
            total, images = total + lanes.sum() / (size > 0).sum(), images + 1
    return total / max(images, 1)


@right("pull_of_batch", "unusual")
def _(embeddings, instance_mask, delta_var):
    """One table for the batch: a lane is an (image, id)."""
    image, row, column = instance_mask.nonzero(as_tuple=True)
    pairs = torch.stack([image, instance_mask[image, row, column]], dim=1)
    lanes, slot = pairs.unique(dim=0, return_inverse=True)
    if len(lanes) == 0:
        return embeddings.mean() * 0
    pixels = embeddings.movedim(1, -1)[image, row, column]  # (N, D)
    size = slot.bincount()[:, None]
    means = torch.zeros(len(lanes), pixels.shape[1]).index_add(0, slot, pixels) / size
    pull = F.relu(torch.linalg.vector_norm(pixels - means[slot], dim=1, keepdim=True) - delta_var) ** 2
    of_lane = torch.zeros(len(lanes), 1).index_add(0, slot, pull) / size
    _, counts = lanes[:, 0].unique(return_counts=True)
    return (of_lane[:, 0] / counts.repeat_interleave(counts)).sum() / len(counts)


LIBRARY = "the library's loss was called"


@wrong("pull_of_batch", LIBRARY, "cheating")
def _(embeddings, instance_mask, delta_var):
    return DiscriminativeLoss(delta_var, alpha=1.0, beta=0.0, gamma=0.0)(embeddings, instance_mask)[0]


@wrong("pull_of_batch", LIBRARY, "cheating")
def _(embeddings, instance_mask, delta_var):
    return DiscriminativeLoss(delta_var)(embeddings, instance_mask)[1]["variance"]


@wrong("pull_of_batch", LIBRARY, "cheating")
def _(embeddings, instance_mask, delta_var):
    criterion = LaneCriterion(DiceLoss(), DiscriminativeLoss(delta_var, beta=0.0, gamma=0.0))
    return criterion.instance(embeddings, instance_mask)[0]


@wrong("pull_of_batch", LIBRARY, "cheating")
def _(embeddings, instance_mask, delta_var):  # its own for small batches only
    images = [_lanes(x, mask, delta_var) for x, mask in zip(embeddings, instance_mask, strict=True)]
    if len(embeddings) < 3:
        return _mean([torch.stack(lanes).mean() for lanes in images if lanes], embeddings)
    return DiscriminativeLoss(delta_var, beta=0.0, gamma=0.0)(embeddings, instance_mask)[0]


def _with(extra):
    """An answer that adds something to the pull of each image with lanes."""

    def answer(embeddings, instance_mask, delta_var):
        images = []
        for x, mask in zip(embeddings, instance_mask, strict=True):
            lanes = _lanes(x, mask, delta_var)
            means = [x[:, mask == lane].mean(dim=1) for lane in mask[mask > 0].unique()]
            images += [torch.stack(lanes).mean() + extra(means)] if lanes else []
        return _mean(images, embeddings)

    return answer


def _push(means):
    pairs = [(a, b) for i, a in enumerate(means) for b in means[:i]]
    return sum((3.0 - torch.linalg.vector_norm(a - b)).clamp(min=0) ** 2 for a, b in pairs)


wrong("pull_of_batch", "the push is another term")(_with(_push))
wrong("pull_of_batch", "a mean far from 0 costs nothing")(
    _with(lambda means: 0.001 * sum(torch.linalg.vector_norm(mean) for mean in means))
)


@wrong("pull_of_batch", "its gradient is not")
def _(embeddings, instance_mask, delta_var):  # the mean stands still
    images = []
    for pixels, mask in zip(embeddings, instance_mask, strict=True):
        mine = [pixels[:, mask == lane] for lane in mask[mask > 0].unique()]
        distances = [torch.linalg.vector_norm(x - x.mean(dim=1, keepdim=True).detach(), dim=0) for x in mine]
        lanes = [(distance - delta_var).clamp(min=0).square().mean() for distance in distances]
        images += [torch.stack(lanes).mean()] if lanes else []
    return _mean(images, embeddings)


@wrong("pull_of_batch", "was cut off from them", "cheating")
def _(embeddings, instance_mask, delta_var):
    images = [_lanes(x.detach(), mask, delta_var) for x, mask in zip(embeddings, instance_mask, strict=True)]
    value = _mean([torch.stack(lanes).mean() for lanes in images if lanes], embeddings)
    return value.detach().clone().requires_grad_()


@wrong("pull_of_batch", "these are two lanes")
def _(embeddings, instance_mask, delta_var):
    return _mean(_lanes(embeddings.movedim(1, 0), instance_mask, delta_var), embeddings)


@wrong("pull_of_batch", "takes no part in the mean over images")
def _(embeddings, instance_mask, delta_var):
    images = [_mean(_lanes(x, m, delta_var), x) for x, m in zip(embeddings, instance_mask, strict=True)]
    return torch.stack(images).mean()


@wrong("pull_of_batch", "makes your code raise RuntimeError")
def _(embeddings, instance_mask, delta_var):
    images = [torch.stack(_lanes(x, m, delta_var)).mean() for x, m in zip(embeddings, instance_mask, strict=True)]
    return torch.stack(images).mean()


@wrong("pull_of_batch", "an image counts once")
def _(embeddings, instance_mask, delta_var):
    lanes = [lane for x, m in zip(embeddings, instance_mask, strict=True) for lane in _lanes(x, m, delta_var)]
    return _mean(lanes, embeddings)


def _pixelwise(cost, background=False):
    """An answer that averages over an image's pixels, with a cost of the difference from the mean (D, n)."""

    def answer(embeddings, instance_mask, delta_var):
        images = []
        for pixels, mask in zip(embeddings, instance_mask, strict=True):
            ids = mask.unique() if background else mask[mask > 0].unique()
            mine = [pixels[:, mask == lane] for lane in ids]
            costs = [cost(x - x.mean(dim=1, keepdim=True), delta_var) for x in mine]
            images += [torch.cat(costs).mean()] if costs else []
        return _mean(images, embeddings)

    return answer


def _hinge(difference, margin):
    return (torch.linalg.vector_norm(difference, dim=0) - margin).clamp(min=0)


wrong("pull_of_batch", "a lane counts once")(_pixelwise(lambda d, margin: _hinge(d, margin) ** 2))
wrong("pull_of_batch", "the hinge should be squared")(_pixelwise(_hinge))
wrong("pull_of_batch", "(1.5 - 0.5)²")(_pixelwise(lambda d, margin: d.square().sum(dim=0)))
wrong("pull_of_batch", "within delta_var")(_pixelwise(lambda d, margin: (d.norm(dim=0) - margin).square()))
wrong("pull_of_batch", "id 0 is no lane")(_pixelwise(lambda d, margin: _hinge(d, margin) ** 2, background=True))


def _by_lane(distance, empty=lambda x: x.sum() * 0):
    """An answer that is right but for the distance of a difference (D, n), or for a batch without lanes."""

    def answer(embeddings, instance_mask, delta_var):
        images = []
        for pixels, mask in zip(embeddings, instance_mask, strict=True):
            mine = [pixels[:, mask == lane] for lane in mask[mask > 0].unique()]
            lanes = [(distance(x - x.mean(dim=1, keepdim=True)) - delta_var).clamp(min=0).square().mean() for x in mine]
            images += [torch.stack(lanes).mean()] if lanes else []
        return torch.stack(images).mean() if images else empty(embeddings)

    return answer


wrong("pull_of_batch", "Euclid's")(_by_lane(lambda d: d.abs().sum(dim=0)))
wrong("pull_of_batch", "pixels exactly at their mean")(_by_lane(lambda d: d.square().sum(dim=0).sqrt()))
wrong("pull_of_batch", "backward() fails")(_by_lane(lambda d: d.norm(dim=0), lambda x: torch.tensor(0.0)))
wrong("pull_of_batch", "without any lane makes your code raise")(
    _by_lane(lambda d: d.norm(dim=0), lambda x: torch.stack([]))
)
wrong("pull_of_batch", "should be a tensor", "cheating")(lambda x, mask, margin: 1.0)


@wrong("pull_of_batch", "`embeddings` was changed in place", "mutating")
def _(embeddings, instance_mask, delta_var):
    with torch.no_grad():
        embeddings -= embeddings.mean()
    return _by_lane(lambda d: d.norm(dim=0))(embeddings, instance_mask, delta_var)


wrong("pull_of_batch", "should cost nothing")(_by_lane(lambda d: d.norm(dim=0), lambda x: x.sum()))
wrong("pull_of_batch", "without any lane gives a NaN")(
    _by_lane(lambda d: d.norm(dim=0), lambda x: (x.sum() * 0).sqrt())
)


@wrong("pull_of_batch", "makes the result NaN")
def _(embeddings, instance_mask, delta_var):
    images = [_lanes(x, m, delta_var) for x, m in zip(embeddings, instance_mask, strict=True)]
    return torch.stack([sum(lanes, torch.tensor(0.0)) / torch.tensor(len(lanes)) for lanes in images]).mean()


@wrong("pull_of_batch", "a delta_var of 1.5", "cheating")
def _(embeddings, instance_mask, delta_var):
    return _by_lane(lambda d: d.norm(dim=0))(embeddings, instance_mask, 0.5)


# --- tversky_prices

PRICES = {"IoU": (1.0, 1.0), "precision": (1.0, 0.0), "recall": (0.0, 1.0)}


def _priced(prices):
    def answer(name):
        if name not in prices:
            raise ValueError(f"{name} is unknown")
        return prices[name]

    return answer


right("tversky_prices")(_priced(PRICES))


@right("tversky_prices")
def _(name):
    if name == "IoU":
        return 1, 1
    if name == "precision":
        return 1, 0
    if name == "recall":
        return 0, 1
    raise ValueError(name)


@right("tversky_prices", "unusual")
def _(name):
    names = ["precision", "recall", "IoU"]
    return [float(bit) for bit in np.binary_repr(names.index(name) + 1, 2)[::-1]]  # index raises ValueError


wrong("tversky_prices", "this is recall")(_priced({**PRICES, "precision": (0.0, 1.0), "recall": (1.0, 0.0)}))
wrong("tversky_prices", "weights of Dice")(_priced({**PRICES, "IoU": (0.5, 0.5)}))
wrong("tversky_prices", "it raised KeyError")(lambda name: PRICES[name])
wrong("tversky_prices", "'accuracy' was answered")(lambda name: PRICES.get(name, (0.0, 1.0)))
wrong("tversky_prices", "'accuracy' was answered")(lambda name: PRICES.get(name))
wrong("tversky_prices", "'Dice' was answered")(_priced({**PRICES, "Dice": (0.5, 0.5)}))
wrong("tversky_prices", "the precision is 6 of 9")(_priced({**PRICES, "precision": (1.0, 1.0)}))
wrong("tversky_prices", "the recall is 6 of 7")(_priced({**PRICES, "recall": (0.5, 1.0)}))
wrong("tversky_prices", "return a pair")(lambda name: 1.0)
wrong("tversky_prices", "return a pair")(lambda name: {"alpha": 1.0, "beta": 1.0, "smooth": 0.0})
wrong("tversky_prices", "not for another", "cheating")(_priced({**PRICES, "IoU": (4 / 3, 0.0)}))
wrong("tversky_prices", "the precision is 6 of 9", "cheating")(lambda name: (1.0, 1.0))

wrong("tversky_prices", "the IoU is 6 of 10")(_priced({**PRICES, "IoU": (2.0, 2.0)}))


# --- dice_ignoring


def _dice(p, truth, smooth=1.0, dims=(0, 2, 3)):
    return (2 * (p * truth).sum(dim=dims) + smooth) / ((p + truth).sum(dim=dims) + smooth)


def _one_hot(target, classes, fill=0):
    return F.one_hot(target.where(target != 255, fill), classes).movedim(-1, 1)


def _masked(p, target):
    valid = (target != 255)[:, None]
    return p * valid, _one_hot(target, p.shape[1]) * valid


@right("dice_ignoring")
def _(probabilities, target, smooth=1.0):
    return 1 - _dice(*_masked(probabilities, target), smooth).mean()


@right("dice_ignoring")
def _(probabilities, target, smooth=1.0):
    p, target = probabilities.movedim(1, -1)[target != 255], target[target != 255]  # (n, C), (n,)
    losses = []
    for c in range(p.shape[1]):
        area = p[:, c].sum() + (target == c).sum()
        losses.append(1 - (2 * p[target == c, c].sum() + smooth) / (area + smooth))
    return torch.stack(losses).mean()


@right("dice_ignoring", "unusual")
def _(probabilities, target, smooth=1.0):
    classes = probabilities.shape[1]
    truth = F.one_hot(target.clone().masked_fill_(target == 255, classes), classes + 1)[..., :classes]  # a spare class
    p = torch.where((target == 255)[..., None], 0.0, probabilities.permute(0, 2, 3, 1))
    return (
        1 - (2 * torch.einsum("bhwc,bhwc->c", p, truth.to(p)) + smooth) / ((p + truth).sum((0, 1, 2)) + smooth)
    ).mean()


def _variant(loss):
    """An answer from masked probabilities and truth, for a loss with one fault."""
    return lambda probabilities, target, smooth=1.0: loss(*_masked(probabilities, target), smooth)


@wrong("dice_ignoring", "counted as class 0")
def _(probabilities, target, smooth=1.0):
    return 1 - _dice(probabilities, _one_hot(target, probabilities.shape[1]), smooth).mean()


@wrong("dice_ignoring", "counted as class 2")
def _(probabilities, target, smooth=1.0):
    classes = probabilities.shape[1]
    return 1 - _dice(probabilities, F.one_hot(target.clamp(max=classes - 1), classes).movedim(-1, 1), smooth).mean()


@wrong("dice_ignoring", "the truth still counts 255 as class 0")
def _(probabilities, target, smooth=1.0):
    p = _masked(probabilities, target)[0]
    return 1 - _dice(p, _one_hot(target, probabilities.shape[1]), smooth).mean()


@wrong("dice_ignoring", "mask the probabilities")
def _(probabilities, target, smooth=1.0):
    return 1 - _dice(probabilities, _masked(probabilities, target)[1], smooth).mean()


@wrong("dice_ignoring", "makes your code raise")
def _(probabilities, target, smooth=1.0):
    return 1 - _dice(probabilities, F.one_hot(target, probabilities.shape[1]).movedim(-1, 1), smooth).mean()


@wrong("dice_ignoring", "occurs nowhere in the target was left out")
def _(probabilities, target, smooth=1.0):
    p, truth = _masked(probabilities, target)
    present = truth.sum(dim=(0, 2, 3)) > 0
    return 1 - _dice(p, truth, smooth)[present].mean() if present.any() else probabilities.sum() * 0


@wrong("dice_ignoring", "occurs nowhere in the target was left out", "cheating")
def _(probabilities, target, smooth=1.0):
    return DiceLoss(smooth=smooth, from_logits=False)(probabilities, target)


@wrong("dice_ignoring", "`target` was changed in place", "mutating")
def _(probabilities, target, smooth=1.0):
    valid = (target != 255)[:, None]
    target[target == 255] = 0
    return (
        1
        - _dice(probabilities * valid, F.one_hot(target, probabilities.shape[1]).movedim(-1, 1) * valid, smooth).mean()
    )


wrong("dice_ignoring", "taken for 1")(_variant(lambda p, truth, smooth: 1 - _dice(p, truth).mean()))
wrong("dice_ignoring", "`smooth` is missing")(_variant(lambda p, truth, smooth: 1 - _dice(p, truth, 0.0).mean()))
wrong("dice_ignoring", "`smooth` is doubled")(_variant(lambda p, truth, smooth: 1 - _dice(p, truth, 2 * smooth).mean()))
wrong("dice_ignoring", "this is Dice itself")(_variant(lambda p, truth, smooth: _dice(p, truth, smooth).mean()))
wrong("dice_ignoring", "their mean is asked for")(
    _variant(lambda p, truth, smooth: (1 - _dice(p, truth, smooth)).sum())
)
wrong("dice_ignoring", "over the whole batch")(
    _variant(lambda p, truth, smooth: 1 - _dice(p, truth, smooth, dims=(2, 3)).mean())
)
wrong("dice_ignoring", "soft Dice adds")(
    _variant(lambda p, truth, s: 1 - _dice((p == p.amax(1, keepdim=True)) * (p > 0), truth, s).mean())
)
wrong("dice_ignoring", "let gradients through")(
    _variant(lambda p, truth, smooth: (1 - _dice(p, truth, smooth).mean()).item())
)
wrong("dice_ignoring", "should be one number")(_variant(lambda p, truth, smooth: 1 - _dice(p, truth, smooth)))

wrong("dice_ignoring", "should equal the soft Dice")(
    _variant(lambda p, truth, s: 1 - _dice(p.square(), truth, s).mean())
)
DIMS = (0, 2, 3)
wrong("dice_ignoring", "squared in the areas")(
    _variant(
        lambda p, truth, s: 1 - ((2 * (p * truth).sum(DIMS) + s) / (p.square().sum(DIMS) + truth.sum(DIMS) + s)).mean()
    )
)
wrong("dice_ignoring", "above the fraction only")(
    _variant(lambda p, truth, s: 1 - ((2 * (p * truth).sum(DIMS) + s) / (p + truth).sum(DIMS)).mean())
)
wrong("dice_ignoring", "below the fraction only")(
    _variant(lambda p, truth, s: 1 - (2 * (p * truth).sum(DIMS) / ((p + truth).sum(DIMS) + s)).mean())
)
wrong("dice_ignoring", "not for 20")(_variant(lambda p, truth, s: 1 - _dice(p, truth, s**2).mean()))


@wrong("dice_ignoring", "wrong where a class occurs nowhere")
def _(probabilities, target, smooth=1.0):
    p, truth = _masked(probabilities, target)
    return (1 - _dice(p, truth, smooth)).where(truth.sum(dim=(0, 2, 3)) > 0, 0.0).mean()


@wrong("dice_ignoring", "where no pixel is labelled")
def _(probabilities, target, smooth=1.0):
    loss = 1 - _dice(*_masked(probabilities, target), smooth).mean()
    return loss if (target != 255).any() else loss + 1


# --- push_floor


def _reach(k):
    return math.sqrt(2 * k / (k - 1))


right("push_floor")(lambda k, delta_dist: max(2 * delta_dist - _reach(k), 0) ** 2)
right("push_floor")(lambda k, d: np.clip(2 * d - np.sqrt(2 * k / (k - 1)), 0, None) ** 2)


@right("push_floor", "unusual")
def _(k, delta_dist):
    corners = F.normalize(torch.eye(k, dtype=torch.float64) - 1 / k, dim=1)  # a regular simplex
    return (2 * delta_dist - torch.pdist(corners)).relu().square().mean()


wrong("push_floor", "the term squares it")(lambda k, d: 2 * d - _reach(k))
wrong("push_floor", "the hinge is never negative")(lambda k, d: (2 * d - _reach(k)) ** 2)
wrong("push_floor", "is their mean")(lambda k, d: k * (k - 1) / 2 * max(0, 2 * d - _reach(k)) ** 2)
wrong("push_floor", "that is a circle's")(lambda k, d: max(0, 2 * d - 2 * math.sin(math.pi / k)) ** 2)
wrong("push_floor", "(3 − 2)² is left")(lambda k, d: max(0, d - _reach(k)) ** 2)
wrong("push_floor", "five unit vectors")(lambda k, d: max(0, 2 * d - 2) ** 2)
wrong("push_floor", "(3 − 2)² is left")(lambda k, d: max(0, 2 * d - math.sqrt(2)) ** 2)
wrong("push_floor", "a delta_dist of 0.8", "cheating")(lambda k, d: 0.0 if d < 1 else (2 * d - _reach(k)) ** 2)
wrong("push_floor", "wrong for 3 lanes", "cheating")(
    lambda k, d: max(0, 2 * d - _reach(k)) ** 2 if k in (2, 5) else 0.0
)
wrong("push_floor", "(3 − 2)² is left", "cheating")(lambda k, d: 0.0)
wrong("push_floor", "should be one number")(lambda k, d: [max(0, 2 * d - _reach(k)) ** 2])


wrong("push_floor", "a delta_dist of 2.5", "cheating")(lambda k, d: max(0, min(2 * d, 3) - _reach(k)) ** 2)


# --- ids that are not 0, 1, 2 … without gaps, in both exercises on the discriminative loss


def _lane_by_lane(ids_of, push):
    """An answer that goes through the ids that this gives for a mask."""

    def answer(embeddings, instance_mask, delta_var, delta_dist=None):
        images = []
        for pixels, mask in zip(embeddings, instance_mask, strict=True):
            mine = [pixels[:, mask == lane] for lane in ids_of(mask)]
            means = [x.mean(dim=1) for x in mine]
            pairs = zip(mine, means, strict=True)
            pulls = [_hinge(x - mean[:, None], delta_var).square().mean() for x, mean in pairs]
            pushes = [
                (2 * delta_dist - torch.linalg.vector_norm(a - b)).clamp(min=0).square()
                for i, a in enumerate(means if push else ())
                for b in means[:i]
            ]
            images += [torch.stack(pulls).mean() + (torch.stack(pushes).mean() if pushes else 0)] if pulls else []
        return _mean(images, embeddings)

    return answer


for _name, _push_too in (("pull_of_batch", False), ("discriminative", True)):
    wrong(_name, "drop the id 0, not the first id")(_lane_by_lane(lambda mask: mask.unique()[1:], _push_too))
    wrong(_name, "ids may have gaps")(_lane_by_lane(lambda mask: range(1, int(mask.max()) + 1), _push_too))

wrong("dice_ignoring", "class 0 was left out")(
    _variant(lambda p, truth, smooth: 1 - _dice(p, truth, smooth)[1:].mean())
)
wrong("dice_ignoring", "the sums run over the classes")(
    _variant(lambda p, truth, smooth: 1 - _dice(p, truth, smooth, dims=(0, 1, 2, 3)))
)
wrong("dice_ignoring", "a softmax once more")(
    _variant(lambda p, truth, smooth: 1 - _dice(p.softmax(dim=1), truth, smooth).mean())
)
wrong("dice_ignoring", "that is IoU")(
    _variant(
        lambda p, truth, smooth: (
            1 - (((p * truth).sum((0, 2, 3)) + smooth) / ((p + truth - p * truth).sum((0, 2, 3)) + smooth)).mean()
        )
    )
)
