"""The parts of the learner's detector that are the last exercise of notebooks 4 and 5: loss and training step."""

import math

import torch
from torch import Tensor, nn

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_written
from roadtopo_lib.course.exercises.losses import FIRST, HELD
from roadtopo_lib.losses import DiscriminativeLoss

_VAR, _DIST = 0.5, 1.5


def _points(*values: float) -> Tensor:
    """Embeddings of one image: two dimensions, one row of pixels; the second dimension is zero."""
    return torch.tensor([[[*values]], [[0.0] * len(values)]])  # (2, 1, N)


@exercise("discriminative")
def discriminative(answer) -> None:
    def loss(*images: tuple[Tensor, list[int]]) -> Tensor:
        embeddings = torch.stack([points for points, _ in images])
        return answer(embeddings, torch.stack([torch.tensor([ids]) for _, ids in images]), _VAR, _DIST)

    wide, tight = (_points(2.5, -2.5, 2.5, -2.5), [1] * 4), (_points(0.1, -0.1, 0.1, -0.1), [1] * 4)
    value = loss(wide)
    expect_written(value)
    expect(isinstance(value, Tensor) and value.ndim == 0, "the result should be a tensor with a single number")
    expect(not math.isnan(value), "an image with a single lane gives NaN: there is no pair to push, so the push is 0")
    expect(bool(value), FIRST)
    itself = "a mean does not push itself: leave the diagonal of the distances out"
    expect(not math.isclose(value, 4.0 + (2 * _DIST) ** 2, rel_tol=1e-4), itself)
    expect_close(value, 4.0, "one lane, pixels 2.5 from their mean, margin 0.5: the hinge 2.0, squared, and no push")
    expect_close(loss(tight), 0, "a lane whose pixels lie within delta_var of their mean costs nothing")
    seven = loss((_points(2.5, -2.5, 50.0, 90.0), [7, 7, 0, 0]))
    expect(not math.isnan(seven) and bool(seven), HELD)
    expect_close(seven, 4.0, "id 0 is no lane: leave its pixels out")
    two = (_points(0.0, 0.0, 2.0, 2.0), [1, 1, 4, 4])
    expect(
        not math.isclose(loss(two), 0.0, abs_tol=1e-6),
        "two lanes 2.0 apart should be pushed: their means want to be 2 · delta_dist apart",
    )
    expect(not any(math.isclose(loss(two), wrong, rel_tol=1e-4) for wrong in (5, 10, 19 / 3)), itself)
    expect_close(loss(two), 1.0, "means 2.0 apart, 3.0 wanted: (3.0 - 2.0)², averaged over the pairs")
    three = (_points(0.0, 2.0, 50.0), [1, 2, 3])
    expect_close(loss(three), 1 / 3, "of three pairs one is too close, by 1.0: the push is a mean over the pairs, 1/3")
    expect_close(loss((_points(0.0, 9.0), [1, 2])), 0, "means farther apart than 2 · delta_dist cost nothing")
    unequal = (torch.cat([_points(12.5, 7.5), _points(*[50.0] * 6)], dim=2), [1] * 2 + [2] * 6)
    expect_close(loss(unequal), 2.0, "a lane counts once, however many pixels it has: average within each lane first")
    expect_close(loss(tight, tight), 0, "two images of one lane each cost nothing: lanes of two images make no pair")
    elsewhere = (_points(9.9, 10.1, 9.9, 10.1), [1] * 4)
    expect_close(loss(tight, elsewhere), 0, "id 1 stands in two images: these are two lanes, each with its own mean")
    empty = loss(wide, (_points(0.0, 0.0, 0.0, 0.0), [0] * 4))
    expect(not math.isnan(empty), "an image without a lane makes the result NaN")
    expect_close(empty, 4.0, "an image without a lane takes no part in the mean over images")
    hint = "an image of a single lane counts in the mean over images, with a push of 0"
    expect_close(loss(tight, two), 0.5, hint)
    _expect_right_gradients(answer)


def _expect_right_gradients(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 8, 6, 6, generator=generator)
    mask = torch.randint(0, 5, (3, 6, 6), generator=generator) * 85  # 255 is an id here
    mask[1, mask[1] > 85] = 0  # one image with a single lane
    given, ids = embeddings.clone().requires_grad_(), mask.clone()
    found = answer(given, ids, _VAR, _DIST)
    expect(torch.equal(given, embeddings) and torch.equal(ids, mask), "the arguments were changed in place")
    leaf = embeddings.clone().requires_grad_()
    truth = DiscriminativeLoss(_VAR, _DIST, gamma=0.0)(leaf, mask)[0]
    expect_close(found.detach(), truth.detach(), "it differs from the library's pull + push on random embeddings")
    other = answer(embeddings, mask, 0.1, 1.0)
    expect_close(
        other,
        DiscriminativeLoss(0.1, 1.0, gamma=0.0)(embeddings, mask)[0],
        "with other margins it differs from the library's: use delta_var and delta_dist as given",
    )
    expect(found.requires_grad, "the loss is cut off from the embeddings: leave out detach() and no_grad()")
    found.backward()
    truth.backward()
    expect_close(given.grad, leaf.grad, "the loss is right, its gradient is not: part of it is cut off", atol=1e-5)
    same = torch.zeros(2, 8, 6, 6, requires_grad=True)
    answer(same, mask[:2], _VAR, _DIST).backward()
    expect(
        bool(same.grad.isfinite().all()),
        "equal embeddings get a NaN gradient: a square root has none at 0, torch.linalg.vector_norm has",
    )
    leaf = torch.zeros(2, 8, 6, 6, requires_grad=True)
    nothing = answer(leaf, torch.zeros(2, 6, 6, dtype=torch.int64), _VAR, _DIST)
    expect(isinstance(nothing, Tensor), "a batch without any lane should give a tensor: 0, on which backward() works")
    expect_close(nothing.detach(), 0, "a batch without any lane should cost nothing")
    expect(nothing.requires_grad, "a batch without any lane: backward() fails, since the 0 is not made of embeddings")


class _Model(nn.Module):
    """Notes how it was called."""

    num_classes, embedding_dim = 6, 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
        self.offset = nn.Parameter(torch.tensor([2.0, -1.0]))
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        self.calls.append((upsample, self.training))
        return {"logits": images @ self.weight + self.offset, "embeddings": images}

    def values(self) -> Tensor:
        """A copy of all parameters, in one vector."""
        return nn.utils.parameters_to_vector(self.parameters()).detach().clone()


class _Sgd(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


class _Run:
    """A model, an optimiser with momentum and two groups of parameters, and a batch; two of them behave alike."""

    def __init__(self, factor: float = 1.0) -> None:
        self.model = _Model().train()
        groups = [{"params": [parameter]} for parameter in self.model.parameters()]
        self.optimizer = _Sgd(groups, lr=0.1, momentum=0.5)
        self.batch = {"image": torch.tensor([[1.0, 2.0], [3.0, -1.0]]), "target": torch.zeros(2, 2)}
        self.factor = factor

    def criterion(self, outputs: dict, batch: dict, shares=None) -> tuple[Tensor, dict]:
        loss = self.factor * (outputs["logits"] - batch["target"]).square().mean()
        return loss, {"loss": loss.detach()}

    def step(self, function, max_grad_norm: float):
        return function(self.model, self.optimizer, self.criterion, self.batch, max_grad_norm)

    def by_hand(self, max_grad_norm: float, clip: str = "norm") -> float:
        loss, _ = self.criterion(self.model(self.batch["image"], upsample=False), self.batch)
        parameters = [*self.model.parameters()]
        gradients = torch.autograd.grad(loss, parameters)
        norms = [float(gradient.norm()) for gradient in gradients]
        whole = math.hypot(*norms)
        norms = {"norm": [whole, whole], "each": norms, "first": [norms[0], 0.0], "second": [0.0, norms[1]]}.get(clip)
        for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if clip == "value":
                gradient = gradient.clamp(-max_grad_norm, max_grad_norm)
            elif norms:
                gradient = gradient * min(1.0, max_grad_norm / (norms[k] + 1e-6))
            parameter.grad = gradient
        self.optimizer.step()
        return float(loss.detach())


@exercise("training_step")
def training_step(answer) -> None:
    start = _Model().values()

    def after(**how) -> Tensor:
        run = _Run()
        run.by_hand(1.0, **how)
        return run.model.values()

    run = _Run()
    try:
        value = run.step(answer, 1.0)
    except (AttributeError, TypeError) as error:
        hint = "the criterion returns a tuple, the loss and its named parts: take the loss out of it"
        expect("tuple" not in str(error), hint)
        raise
    expect_written(value)
    expect(not isinstance(value, Tensor), "the loss should be a number, loss.item(): a tensor keeps the graph alive")
    expect(isinstance(value, float), f"the result should be the loss, a float; it is a {type(value).__name__}")
    untouched = _Run().batch
    same = run.batch.keys() == untouched.keys() and all(
        torch.equal(run.batch[key], untouched[key]) for key in untouched
    )
    expect(same, "the batch was changed in place: leave the arguments as they are")
    expect(bool(run.model.calls), "the model was not called")
    expect(all(training for _, training in run.model.calls), "the model was in evaluation mode: dropout would be off")
    expect(
        not any(upsample for upsample, _ in run.model.calls),
        "call the model with upsample=False: the criterion takes the small outputs, the large ones cost memory",
    )
    weight = run.model.values()
    hint = "the weights have not moved: is step() there, and are the gradients emptied after backward() and before it?"
    expect(not torch.equal(weight, start), hint)
    expect(
        not torch.allclose(weight, after(clip="none")),
        "the gradients were not clipped: between backward() and step()",
    )
    expect(
        not torch.allclose(weight, after(clip="value")),
        "each number was cut for itself, which turns the direction: clip by the norm of all",
    )
    expect(
        not torch.allclose(weight, after(clip="each")),
        "each parameter was clipped by its own norm, which turns the direction: one norm for all parameters",
    )
    expect(
        not any(torch.allclose(weight, after(clip=part)) for part in ("first", "second")),
        "only a part of the parameters was clipped: the norm of all is needed, and all are shortened",
    )
    expect(run.optimizer.steps == 1, f"the optimiser's step() ran {run.optimizer.steps} times: once is asked for")
    expect_close(weight, after(), "the weights moved to another place than forward, backward, clip and step give")
    expect_close(value, _Run().by_hand(1.0), "the result should be the loss of this step, before the weights moved")
    run, twin = _Run(), _Run()
    for hint in (
        "a gradient shorter than max_grad_norm should stay",
        "the second step added the first one's gradients",
    ):
        run.step(answer, 1000.0)
        twin.by_hand(1000.0)
        expect_close(run.model.values(), twin.model.values(), hint)
    hint = "the model was in evaluation mode after the first step: the next steps need training mode"
    expect(run.model.training and all(training for _, training in run.model.calls), hint)
    _expect_stale_and_nan_handled(answer)


def _expect_stale_and_nan_handled(answer) -> None:
    run, twin = _Run(), _Run()
    run.model.weight.grad = torch.full((2, 2), 7.0)  # of a step that was interrupted
    run.model.offset.grad = torch.full((2,), 7.0)
    run.step(answer, 1.0)
    twin.by_hand(1.0)
    expect_close(
        run.model.values(),
        twin.model.values(),
        "gradients that were there before the call were added: zero them before backward()",
    )
    for factor in (math.nan, math.inf):
        run = _Run(factor)
        before = run.model.values()
        try:
            value = run.step(answer, 1.0)
        except FloatingPointError:
            value = None
        except Exception as error:
            expect(False, f"a loss of {factor} should raise FloatingPointError, it raised {type(error).__name__}")
        expect(
            torch.equal(run.model.values(), before) and run.optimizer.steps == 0,
            f"a loss of {factor} moved the weights: look at the loss before the step, and raise FloatingPointError",
        )
        expect(value is None, f"a loss of {factor} should raise FloatingPointError; it was returned")
