"""Exercises of notebook 4: the pull over a batch, limits of Tversky, Dice with unlabelled pixels, the push's floor."""

import math

import torch
from torch import Tensor

from roadtopo_lib.course.exercises._base import Hint, exercise, expect, expect_close, expect_written
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.losses import DiceLoss, DiscriminativeLoss


def _row(*xs: float) -> Tensor:
    """Pixels of one image row with one-dimensional embeddings: (D=1, H=1, W)."""
    return torch.tensor(xs).view(1, 1, -1)


def _ids(*ids: int) -> Tensor:
    return torch.tensor(ids).view(1, -1)  # (H=1, W)


@exercise("pull_of_batch")
def pull_of_batch(answer) -> None:
    def pull(*images: tuple[Tensor, Tensor]) -> Tensor:
        return answer(torch.stack([pixels for pixels, _ in images]), torch.stack([mask for _, mask in images]), 0.5)

    lane = _ids(1, 1, 1, 1)
    value = pull((_row(1.5, -1.5, 1.5, -1.5), lane))  # all 1.0 outside the margin: square and hinge agree
    expect_written(value)
    expect(isinstance(value, Tensor) and value.ndim == 0, "the result should be a tensor with a single number")
    expect_close(value, 1.0, "four pixels 1.5 from their mean, margin 0.5: (1.5 - 0.5)² each, averaged")
    wide, tight = (_row(2.5, -2.5, 2.5, -2.5), lane), (_row(0.1, -0.1, 0.1, -0.1), lane)
    expect_close(pull(wide), 4.0, "the hinge should be squared: 2.0 outside the margin costs 4")
    expect_close(pull(tight), 0, "pixels within delta_var of their mean cost nothing")
    surrounded = (_row(2.5, -2.5, 50.0, 90.0), _ids(7, 7, 0, 0))
    expect_close(pull(surrounded), 4.0, "id 0 is no lane: its pixels are pulled by nobody")
    elsewhere = (_row(9.9, 10.1, 9.9, 10.1), lane)
    expect_close(pull(tight, elsewhere), 0, "id 1 stands in two images: these are two lanes, each with its own mean")
    empty = pull(wide, (_row(0.0, 0.0, 0.0, 0.0), _ids(0, 0, 0, 0)))
    expect(not math.isnan(float(empty)), "an image without a lane makes the result NaN")
    expect_close(empty, 4.0, "an image without a lane takes no part in the mean over images")
    unequal = (torch.cat([wide[0], tight[0], tight[0]], dim=2), _ids(*[1] * 4, *[2] * 8))
    expect_close(pull(unequal), 2.0, "a lane counts once, however many pixels it has: average within each lane first")
    several = (torch.cat([tight[0], tight[0]], dim=2), _ids(*[1] * 4, *[2] * 4))
    single = (torch.cat([wide[0], wide[0]], dim=2), _ids(*[5] * 4, *[0] * 4))
    expect_close(pull(single, several), 2.0, "an image counts once, however many lanes it has: average within it first")
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 8, 6, 6, generator=generator)
    mask = torch.randint(0, 4, (3, 6, 6), generator=generator)
    truth = DiscriminativeLoss(delta_var=0.5)(embeddings, mask)[1]["variance"]
    expect_close(answer(embeddings, mask, 0.5), truth, "it differs from the library's on random embeddings")
    leaf = torch.zeros(2, 8, 6, 6, requires_grad=True)
    nothing = answer(leaf, torch.zeros(2, 6, 6, dtype=torch.int64), 0.5)
    expect_close(nothing, 0, "a batch without any lane should cost nothing")
    expect(isinstance(nothing, Tensor) and nothing.requires_grad, "a batch without any lane: backward() fails")
    answer(leaf, mask[:2], 0.5).backward()
    expect(bool(leaf.grad.isfinite().all()), "pixels exactly at their mean get a NaN gradient")


@exercise("tversky_prices")
def tversky_prices(answer) -> None:
    value = answer("IoU")
    expect_written(value)
    expect(isinstance(value, tuple) and len(value) == 2, "return a pair: Tversky α, then Tversky β")

    def index(name: str, hits: float = 6.0, false: float = 3.0, missed: float = 1.0) -> float:
        alpha, beta = answer(name)
        return hits / (hits + alpha * false + beta * missed)

    expect(
        not math.isclose(index("IoU"), 12 / 16), "these are the prices of Dice: IoU counts every wrong pixel in full"
    )
    expect_close(index("IoU"), 0.6, "6 hits, 3 false and 1 missed pixel: the IoU is 6 of 10")
    expect(not math.isclose(index("precision"), 6 / 7), "this is recall: precision looks at the predicted pixels")
    expect_close(index("precision"), 6 / 9, "6 hits, 3 false and 1 missed pixel: the precision is 6 of 9")
    expect_close(index("recall"), 6 / 7, "6 hits, 3 false and 1 missed pixel: the recall is 6 of 7")
    for name, truth in {"IoU": 1 / 6, "precision": 1 / 3, "recall": 1 / 4}.items():
        expect_close(index(name, 1.0, 2.0, 3.0), truth, f"{name}: right for one count of errors, not for another")
    try:
        answer("accuracy")
    except ValueError:
        return
    except Exception as error:
        raise Hint(f"an unknown name should raise a ValueError, it raised {type(error).__name__}") from None
    raise Hint("an unknown name should raise a ValueError, it was answered")


@exercise("dice_ignoring")
def dice_ignoring(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(2, 3, 6, 6, generator=generator).softmax(dim=1)
    target = torch.randint(0, 3, (2, 6, 6), generator=generator)
    value = answer(probabilities, target)
    expect_written(value)
    dice = DiceLoss(smooth=1.0)
    truth = dice(probabilities.log(), target)
    expect(not math.isclose(float(value), 1 - float(truth), rel_tol=1e-4), "this is Dice itself: the loss is 1 − Dice")
    expect_close(value, truth, "without ignored pixels it should equal the soft Dice loss over the whole batch")
    target[:, 3:] = IGNORE_INDEX
    value, truth = answer(probabilities, target), dice(probabilities.log(), target)
    as_background = dice(probabilities.log(), target.where(target != IGNORE_INDEX, 0))
    expect(
        not math.isclose(float(value), float(as_background), rel_tol=1e-4),
        "ignored pixels are counted as class 0: leave them out of the truth as well",
    )
    expect_close(value, truth, "ignored pixels still count: mask the probabilities as well as the truth")


@exercise("push_floor")
def push_floor(answer) -> None:
    expect_written(answer(2, 1.5))
    expect(not math.isclose(answer(5, 1.5), 3 - math.sqrt(2.5), rel_tol=1e-5), "this is the hinge; the term squares it")
    expect_close(answer(2, 1.5), 1.0, "two lanes can be 2 apart; 3 is asked for: (3 − 2)² is left")
    expect_close(answer(5, 1.5), (3 - math.sqrt(2.5)) ** 2, "five unit vectors can be √(2·5/4) apart")
    expect_close(answer(3, 0.5), 0, "a margin that fits leaves nothing: the hinge is never negative")
