"""Exercises of notebook 4: the pull over a batch, limits of Tversky, Dice with unlabelled pixels, the push's floor."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from roadtopo_lib.course.exercises._base import (
    Hint,
    exercise,
    expect,
    expect_close,
    expect_written,
    forbidden_method,
    is_close,
    number,
)
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.losses import DiscriminativeLoss

HELD = "ids may have gaps: go through those that the mask holds, here 7 alone"
FIRST = "a mask without a 0 has no lane in your code: drop the id 0, not the first id"


def _row(*xs: float) -> Tensor:
    """Pixels of one image row with one-dimensional embeddings: (D=1, H=1, W)."""
    return torch.tensor(xs).view(1, 1, -1)


def _ids(*ids: int) -> Tensor:
    return torch.tensor(ids).view(1, -1)  # (H=1, W)


@exercise("pull_of_batch", keeps=("embeddings", "instance_mask"))
def pull_of_batch(answer) -> None:
    answer = _without_the_librarys_loss(answer)

    def pull(*images: tuple[Tensor, Tensor]) -> Tensor:
        return answer(torch.stack([pixels for pixels, _ in images]), torch.stack([mask for _, mask in images]), 0.5)

    lane = _ids(1, 1, 1, 1)
    value = pull((_row(1.5, -1.5, 1.5, -1.5), lane))  # all 1.0 outside the margin: square and hinge agree
    expect_written(value)
    expect(isinstance(value, Tensor) and value.ndim == 0, "the result should be a tensor with a single number")
    expect(bool(value), FIRST)
    expect_close(value, 1.0, "four pixels 1.5 from their mean, margin 0.5: (1.5 - 0.5)² each, averaged")
    wide, tight = (_row(2.5, -2.5, 2.5, -2.5), lane), (_row(0.1, -0.1, 0.1, -0.1), lane)
    expect_close(pull(wide), 4.0, "the hinge should be squared: 2.0 outside the margin costs 4")
    expect_close(pull(tight), 0, "pixels within delta_var of their mean cost nothing")
    close = (_row(0.1, -0.1, 0.4, 0.2), _ids(1, 1, 2, 2))
    hint = "two lanes close to each other cost nothing here: the push is another term"
    expect_close(pull(close), 0, hint, atol=1e-2)
    far = (_row(99.9, 100.1, 99.9, 100.1), lane)
    expect_close(pull(far), 0, "a mean far from 0 costs nothing here: only the pull is asked for")
    surrounded = (_row(2.5, -2.5, 50.0, 90.0), _ids(7, 7, 0, 0))
    value = torch.as_tensor(pull(surrounded))
    expect(not bool(value.isnan()) and bool(value), HELD)
    expect_close(value, 4.0, "id 0 is no lane: its pixels are pulled by nobody")
    elsewhere = (_row(9.9, 10.1, 9.9, 10.1), lane)
    expect_close(pull(tight, elsewhere), 0, "id 1 stands in two images: these are two lanes, each with its own mean")
    _batches_with_an_empty_image(pull, wide)
    unequal = (torch.cat([wide[0], tight[0], tight[0]], dim=2), _ids(*[1] * 4, *[2] * 8))
    expect_close(pull(unequal), 2.0, "a lane counts once, however many pixels it has: average within each lane first")
    several = (torch.cat([tight[0], tight[0]], dim=2), _ids(*[1] * 4, *[2] * 4))
    single = (torch.cat([wide[0], wide[0]], dim=2), _ids(*[5] * 4, *[0] * 4))
    expect_close(pull(single, several), 2.0, "an image counts once, however many lanes it has: average within it first")
    plane = torch.tensor([[3.0, -3.0], [4.0, -4.0]]).view(1, 2, 1, 2)
    distance = "embeddings (3, 4) and (−3, −4) are 5 from their mean: the length over all D numbers, Euclid's"
    expect_close(answer(plane, torch.ones(1, 1, 2, dtype=torch.int64), 0.5), 20.25, distance)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 8, 6, 6, generator=generator)
    mask = torch.randint(0, 4, (3, 6, 6), generator=generator)
    truth = DiscriminativeLoss(delta_var=1.5)(embeddings, mask)[1]["variance"]
    hint = "it differs from the library's on random embeddings with a delta_var of 1.5"
    expect_close(answer(embeddings, mask, 1.5), truth, hint)
    _gradients(answer, embeddings, mask)


def _without_the_librarys_loss(answer):
    def guarded(*arguments):
        hint = "the library's loss was called: compute means, distances and hinges yourself"
        with forbidden_method(DiscriminativeLoss, "forward", hint):
            return answer(*arguments)

    return guarded


def _batches_with_an_empty_image(pull, wide: tuple[Tensor, Tensor]) -> None:
    nobody = (_row(0.0, 0.0, 0.0, 0.0), _ids(0, 0, 0, 0))
    try:
        value = pull(wide, nobody)
    except (RuntimeError, ZeroDivisionError, ValueError) as error:
        raise Hint(f"an image without a lane makes your code raise {type(error).__name__}") from None
    expect(not bool(torch.as_tensor(value).isnan()), "an image without a lane makes the result NaN")
    expect_close(value, 4.0, "an image without a lane takes no part in the mean over images")


def _gradients(answer, embeddings: Tensor, mask: Tensor) -> None:
    learning = embeddings.clone().requires_grad_()
    try:
        value = answer(learning, mask, 0.5)
    except RuntimeError as error:
        raise Hint(f"with embeddings that require a gradient your code raised {str(error)[:80]}") from None
    cut = "no gradient reaches the embeddings: the result was cut off from them (detach, item or a new tensor)"
    expect(value.requires_grad, cut)
    value.backward()
    expect(learning.grad is not None, cut)
    leaf = embeddings.clone().requires_grad_()
    DiscriminativeLoss(delta_var=0.5, beta=0.0, gamma=0.0)(leaf, mask)[0].backward()
    hint = "the value is right, its gradient is not: the mean moves with its pixels, so nothing may be detached"
    expect_close(learning.grad, leaf.grad, hint)
    leaf = torch.ones(2, 8, 6, 6, requires_grad=True)
    try:
        nothing = answer(leaf, torch.zeros(2, 6, 6, dtype=torch.int64), 0.5)
    except (RuntimeError, ZeroDivisionError, ValueError) as error:
        raise Hint(f"a batch without any lane makes your code raise {type(error).__name__}") from None
    expect_close(nothing, 0, "a batch without any lane should cost nothing")
    expect(isinstance(nothing, Tensor) and nothing.requires_grad, "a batch without any lane: backward() fails")
    nothing.backward()
    expect(leaf.grad is None or bool(leaf.grad.isfinite().all()), "a batch without any lane gives a NaN gradient")
    answer(leaf, mask[:2], 0.5).backward()
    expect(bool(leaf.grad.isfinite().all()), "pixels exactly at their mean get a NaN gradient")


@exercise("tversky_prices")
def tversky_prices(answer) -> None:
    value = answer("IoU")
    expect_written(value)
    expect(isinstance(value, (tuple, list)) and len(value) == 2, "return a pair: Tversky α, then Tversky β")

    def index(name: str, hits: float = 6.0, false: float = 3.0, missed: float = 1.0) -> float:
        alpha, beta = answer(name)
        return hits / (hits + number(alpha, "α") * false + number(beta, "β") * missed)

    expect(
        not math.isclose(index("IoU"), 12 / 16), "these are the weights of Dice: IoU counts every wrong pixel in full"
    )
    expect_close(index("IoU"), 0.6, "6 hits, 3 false and 1 missed pixel: the IoU is 6 of 10")
    expect(not math.isclose(index("precision"), 6 / 7), "this is recall: precision looks at the predicted pixels")
    expect_close(index("precision"), 6 / 9, "6 hits, 3 false and 1 missed pixel: the precision is 6 of 9")
    expect_close(index("recall"), 6 / 7, "6 hits, 3 false and 1 missed pixel: the recall is 6 of 7")
    for name, truth in {"IoU": 1 / 6, "precision": 1 / 3, "recall": 1 / 4}.items():
        expect_close(index(name, 1.0, 2.0, 3.0), truth, f"{name}: right for one count of errors, not for another")
    for name in ("accuracy", "Dice"):
        try:
            answer(name)
        except ValueError:
            continue
        except Exception as error:
            raise Hint(f"an unknown name should raise a ValueError, it raised {type(error).__name__}") from None
        raise Hint(f"an unknown name should raise a ValueError, {name!r} was answered")


def _dice(
    probabilities: Tensor,
    target: Tensor,
    smooth: float = 1.0,
    filled: int | None = None,
    below: float | None = None,
    power: int = 1,
) -> Tensor:
    """(C,) Dice of each class; unlabelled pixels left out, or taken for class ``filled`` in the truth.

    For wrong answers: ``below`` takes the place of ``smooth`` in the denominator, ``power`` is that of p in the areas.
    """
    valid = (target != IGNORE_INDEX)[:, None]  # (B, 1, H, W)
    classes = torch.arange(probabilities.shape[1])[:, None, None]  # (C, 1, 1)
    truth = target[:, None] == classes  # (B, C, H, W)
    if filled is not None:
        truth = truth | (~valid & (classes == filled))
        valid = torch.ones_like(valid)
    p, truth = (x.double() * valid for x in (probabilities, truth))
    overlap, areas = (p * truth).sum(dim=(0, 2, 3)), (p**power + truth).sum(dim=(0, 2, 3))
    return (2 * overlap + smooth) / (areas + (smooth if below is None else below))


@exercise("dice_ignoring", keeps=("probabilities", "target"))
def dice_ignoring(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(2, 3, 6, 6, generator=generator).softmax(dim=1)
    target = torch.randint(0, 3, (2, 6, 6), generator=generator)
    target[0, :4] = 0  # the two images differ in their shares
    value = answer(probabilities, target)
    number(value, "the loss")
    dice = _dice(probabilities, target)
    expect(not is_close(value, dice.mean()), "this is Dice itself: the loss is 1 − Dice")
    expect(not is_close(value, (1 - dice).sum()), "the losses of the classes are added: their mean is asked for")
    images = [1 - _dice(probabilities[b : b + 1], target[b : b + 1]).mean() for b in range(2)]
    expect(not is_close(value, sum(images) / 2), "each image has a Dice of its own: take the sums over the whole batch")
    hard = torch.zeros_like(probabilities).scatter(1, probabilities.argmax(dim=1, keepdim=True), 1.0)
    expect(
        not is_close(value, 1 - _dice(hard, target).mean()),
        "the most probable class was counted in full: soft Dice adds the probabilities themselves",
    )
    p, truth = probabilities.double(), F.one_hot(target, 3).movedim(-1, 1)
    pooled = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    union = (p + truth - p * truth).sum(dim=(0, 2, 3))
    for wrong, hint in (
        (dice[1:].mean(), "class 0 was left out: it is a class like the others, the mean is over all C"),
        (pooled, "the sums run over the classes, too: a Dice of each class, then their mean"),
        (_dice(probabilities.softmax(dim=1), target).mean(), "the probabilities went through a softmax once more"),
        ((((p * truth).sum(dim=(0, 2, 3)) + 1) / (union + 1)).mean(), "that is IoU: Dice counts the overlap twice"),
    ):
        expect(not is_close(value, 1 - wrong), hint)
    for how, hint in (
        ({"smooth": 0.0}, "`smooth` is missing"),
        ({"smooth": 2.0}, "`smooth` is doubled: it is added once above and once below the fraction"),
        ({"below": 0.0}, "`smooth` is added above the fraction only: below, too"),
        ({"smooth": 0.0, "below": 1.0}, "`smooth` is added below the fraction only: above, too"),
        ({"power": 2}, "the probabilities are squared in the areas: add them as they are"),
    ):
        expect(not is_close(value, 1 - _dice(probabilities, target, **how).mean()), hint)
    expect_close(value, 1 - dice.mean(), "without ignored pixels it should equal the soft Dice loss of the whole batch")
    value, truth = answer(probabilities, target, 20.0), 1 - _dice(probabilities, target, 20.0).mean()
    expect(not is_close(value, 1 - dice.mean()), "`smooth` is taken for 1, whatever is given")
    expect_close(value, truth, "right for smooth = 1, not for 20: add it above and below the fraction, as it is")
    target[:, 3:] = IGNORE_INDEX
    _compare_ignoring(answer, probabilities, target)
    sparse = target.where(target != 1, 0)  # class 1 occurs nowhere
    dice = _dice(probabilities, sparse)
    value = answer(probabilities, sparse)
    expect(
        not is_close(value, 1 - dice[[0, 2]].mean()),
        "a class that occurs nowhere in the target was left out of the mean: all C classes count",
    )
    expect_close(value, 1 - dice.mean(), "wrong where a class occurs nowhere in the target: all C classes count")
    unlabelled = answer(probabilities, torch.full_like(target, IGNORE_INDEX))
    expect_close(unlabelled, 0.0, "where no pixel is labelled, only `smooth` is left above and below: the loss is 0")
    learning = probabilities.clone().requires_grad_()
    value = answer(learning, target)
    expect(isinstance(value, Tensor) and value.requires_grad, "a loss must let gradients through to the probabilities")


def _compare_ignoring(answer, probabilities: Tensor, target: Tensor) -> None:
    try:
        value = answer(probabilities, target)
    except (RuntimeError, IndexError) as error:
        raise Hint(f"a target that holds 255 makes your code raise {type(error).__name__}: {str(error)[:60]}") from None
    for filled in range(probabilities.shape[1]):
        expect(
            not is_close(value, 1 - _dice(probabilities, target, filled=filled).mean()),
            f"ignored pixels are counted as class {filled}: leave them out of the truth as well",
        )
    masked = probabilities * (target != IGNORE_INDEX)[:, None]
    for filled in range(probabilities.shape[1]):
        expect(
            not is_close(value, 1 - _dice(masked, target, filled=filled).mean()),
            f"the truth still counts 255 as class {filled}: mask it as well as the probabilities",
        )
    truth = 1 - _dice(probabilities, target).mean()
    expect_close(value, truth, "ignored pixels still count: mask the probabilities as well as the truth")


@exercise("push_floor")
def push_floor(answer) -> None:
    expect(not is_close(number(answer(5, 1.5)), 3 - math.sqrt(2.5)), "this is the hinge; the term squares it")
    expect_close(number(answer(2, 1.5)), 1.0, "two lanes can be 2 apart; 3 is asked for: (3 − 2)² is left")
    five = number(answer(5, 1.5))
    truth = (3 - math.sqrt(2.5)) ** 2
    expect(
        not any(is_close(five, pairs * truth) for pairs in (10, 20)),
        "the hinges of all pairs are added: the term is their mean",
    )
    circle = (3 - 2 * math.sin(math.pi / 5)) ** 2
    expect(not is_close(five, circle), "that is a circle's: in more dimensions five means can be further apart")
    expect_close(five, truth, "five unit vectors can be √(2·5/4) apart")
    expect_close(number(answer(3, 0.5)), 0, "a margin that fits leaves nothing: the hinge is never negative")
    for k in range(2, 12):
        for margin in (0.8, 2.5):
            truth = max(0.0, 2 * margin - math.sqrt(2 * k / (k - 1))) ** 2
            expect_close(number(answer(k, margin)), truth, f"wrong for {k} lanes and a delta_dist of {margin}")
