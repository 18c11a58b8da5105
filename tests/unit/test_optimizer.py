"""Which parameter is moved how: AdamW, Muon and their groups."""

import copy
import json
import math

import pytest
import safetensors.torch
import torch
from torch import nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.optimizer import Muon, build_optimizer, build_scheduler, orthogonalized

CONFIG = LaneSegmentationConfig.preset("tiny").replace(lr=1e-3, muon_lr=2e-2, encoder_lr_scale=0.1)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return SegFormerModel("tiny", pretrained=False)


def parameter(*shape, seed=0):
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def with_gradient(p, seed):
    p.grad = torch.randn(*p.shape, generator=torch.Generator().manual_seed(seed))
    return p


def moved(parameters, steps=3, **settings):
    """Copies of parameters after some steps of Muon with random gradients."""
    parameters = [copy.deepcopy(p) for p in parameters]
    optimizer = Muon([{"params": parameters, "matrices": True}], lr=0.02, **{"weight_decay": 0.1, **settings})
    for step in range(steps):
        for k, p in enumerate(parameters):
            with_gradient(p, seed=10 * k + step)
        optimizer.step()
    return [p.detach() for p in parameters]


def test_orthogonalized_keeps_singular_vectors_and_brings_all_singular_values_near_one():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonalized(matrices) @ vt.mT  # diagonal, if the singular vectors are the same
    values = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert 0.65 < values.min() <= values.max() < 1.25


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_a_matrix_moves_as_torchs_own_muon_moves_it(shape, weight_decay):
    reference = parameter(*shape)
    optimizer = torch.optim.Muon([reference], lr=0.02, weight_decay=weight_decay)
    for step in range(3):
        with_gradient(reference, seed=step)
        optimizer.step()
    (ours,) = moved([parameter(*shape)], weight_decay=weight_decay)
    assert (ours - parameter(*shape)).abs().mean() > 0.01
    torch.testing.assert_close(ours, reference.detach(), atol=2e-3, rtol=0)  # torch's works in bfloat16


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_a_matrix_moves_by_the_rule_written_out(shape):
    """Each step in float64: momentum 0.95, Nesterov's look-ahead, weight decay, and the factor for high matrices."""
    expected, average = parameter(*shape).detach().double(), torch.zeros(*shape, dtype=torch.float64)
    for step in range(5):
        gradient = with_gradient(parameter(*shape), seed=step).grad.double()
        average = 0.95 * average + 0.05 * gradient
        x = 0.05 * gradient + 0.95 * average
        x = x / x.norm()
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
        factor = (shape[0] / shape[1]) ** 0.5 if shape[0] > shape[1] else 1.0
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * factor * x
    torch.testing.assert_close(moved([parameter(*shape)], steps=5)[0], expected.float(), atol=1e-5, rtol=0)


def test_matrices_of_one_shape_do_not_mix_and_convolutions_move_as_matrices():
    shapes = [(6, 4), (4, 6), (6, 2, 1, 2), (6, 4)]
    parameters = [parameter(*shape, seed=k) for k, shape in enumerate(shapes)]
    together = moved(parameters)
    for k, p in enumerate(parameters):
        alone = [parameter(2, 3)] * k + [nn.Parameter(p.detach().flatten(1))]  # in the same place
        torch.testing.assert_close(together[k].flatten(1), moved(alone)[k], atol=1e-6, rtol=1e-5)


def test_groups_without_matrices_move_as_under_adamw_and_gradients_stay():
    vector, matrix, unused = parameter(5), parameter(3, 4), parameter(3, 4, seed=1)
    reference, untouched = copy.deepcopy(vector), unused.detach().clone()
    groups = [{"params": [vector], "lr": 0.1}, {"params": [matrix, unused], "lr": 0.3, "matrices": True}]
    settings = {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}
    both, adamw = Muon(groups, **settings), torch.optim.AdamW([reference], lr=0.1, **settings)
    for step in range(3):
        for p, optimizer in ((vector, both), (reference, adamw)):
            with_gradient(p, step)
            with_gradient(matrix, step)
            optimizer.step()
    assert torch.equal(vector, reference)
    assert matrix.grad is not None
    assert torch.equal(unused, untouched)


def test_a_step_that_the_gradient_scaler_leaves_out_moves_nothing():
    vector, matrix = parameter(5), parameter(3, 4)
    before = [vector.detach().clone(), matrix.detach().clone()]
    optimizer = Muon([{"params": [vector]}, {"params": [matrix], "matrices": True}], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(vector.sum() + matrix.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    step(torch.inf)
    assert torch.equal(vector, before[0])
    assert torch.equal(matrix, before[1])
    assert not optimizer.state
    step(1.0)
    assert not torch.equal(vector, before[0])
    assert not torch.equal(matrix, before[1])


def test_a_closure_computes_the_gradients_of_its_step():
    matrix = parameter(3, 4)
    optimizer = Muon([{"params": [matrix], "matrices": True}], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = matrix.square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]


def test_a_vector_among_the_matrices_is_refused():
    with pytest.raises(ValueError, match=r"parameter \(5,\), expected two axes"):
        Muon([{"params": [parameter(5)], "matrices": True}])


def through_a_file(states, folder):
    torch.save(states, folder / "states.pt")
    return torch.load(folder / "states.pt", weights_only=True)


def through_plain_tensors(states, folder):
    """The optimiser's state as one flat table of tensors in a ``.safetensors`` file, everything else as JSON."""
    optimizer, scheduler = states
    tensors = {f"{i}.{name}": value for i, state in optimizer["state"].items() for name, value in state.items()}
    safetensors.torch.save_file(tensors, folder / "states.safetensors")
    groups, scheduler = json.loads(json.dumps([optimizer["param_groups"], scheduler]))
    state = {}
    for key, value in safetensors.torch.load_file(folder / "states.safetensors").items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}, scheduler


@pytest.mark.parametrize("stored", [through_a_file, through_plain_tensors])
@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_a_stored_run_goes_on_where_it_stopped_bit_for_bit(tiny, tmp_path, muon_lr, stored):
    config = CONFIG.replace(muon_lr=muon_lr)

    def begin(weights: dict) -> tuple:
        model = copy.deepcopy(tiny)
        model.load_state_dict(weights)
        optimizer = build_optimizer(model, config)
        return model, optimizer, build_scheduler(optimizer, total_steps=10, warmup_fraction=0.2)

    def train(run: tuple, steps: range) -> None:
        model, optimizer, scheduler = run
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
            scheduler.step()

    whole = begin(tiny.state_dict())
    train(whole, range(8))

    first = begin(tiny.state_dict())
    train(first, range(4))
    states = stored((first[1].state_dict(), first[2].state_dict()), tmp_path)
    second = begin(copy.deepcopy(first[0].state_dict()))
    for part, state in zip(second[1:], states, strict=True):
        part.load_state_dict(state)
    train(second, range(4, 8))

    for p, expected in zip(second[0].parameters(), whole[0].parameters(), strict=True):
        assert torch.equal(p, expected)
    assert [g["lr"] for g in second[1].param_groups] == [g["lr"] for g in whole[1].param_groups]


def test_the_state_has_clear_names(tiny):
    model = copy.deepcopy(tiny)
    optimizer = build_optimizer(model, CONFIG)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for group in optimizer.param_groups:
        expected = {"momentum_buffer"} if group["matrices"] else {"step", "exp_avg", "exp_avg_sq"}
        assert {name for p in group["params"] for name in optimizer.state[p]} == expected


def test_hidden_matrices_get_muons_rate_and_all_else_adamws(tiny):
    groups = {group["name"]: group for group in build_optimizer(tiny, CONFIG).param_groups}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx(
        {"encoder": 1e-4, "encoder matrices": 2e-3, "heads": 1e-3, "heads matrices": 2e-2}, rel=1e-9
    )
    names = {id(p): name for name, p in tiny.named_parameters()}
    in_groups = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(in_groups) == sorted(names), "every parameter in one group"
    for name, group in groups.items():
        for p in group["params"]:
            vector = p.ndim == 1 or p.shape[1] == 1 or "classifier" in names[id(p)]
            assert vector == (not name.endswith("matrices")), names[id(p)]


def test_without_a_rate_for_muon_adamw_trains_all_in_two_groups(tiny):
    optimizer = build_optimizer(tiny, CONFIG.replace(muon_lr=0.0, weight_decay=0.3, betas=(0.8, 0.9)))
    assert type(optimizer) is torch.optim.AdamW
    encoder, heads = optimizer.param_groups
    assert (encoder["name"], heads["name"]) == ("encoder", "heads")
    assert (encoder["lr"], heads["lr"]) == pytest.approx((1e-4, 1e-3), rel=1e-9)
    assert (heads["weight_decay"], heads["betas"]) == (0.3, (0.8, 0.9))
    assert {id(p) for p in encoder["params"]} == {id(p) for p in tiny.encoder.parameters()}
    assert len(encoder["params"]) + len(heads["params"]) == len(list(tiny.parameters()))


class TwoLayers(nn.Module):
    """Another kind of model: all that an optimiser is built from is ``parameter_groups``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def parameter_groups(self, encoder_lr_scale: float) -> list[dict]:
        return [
            {"name": "body", "params": [self.body.bias], "lr_scale": encoder_lr_scale, "matrices": False},
            {"name": "body matrices", "params": [self.body.weight], "lr_scale": encoder_lr_scale, "matrices": True},
            {"name": "head", "params": list(self.head.parameters()), "lr_scale": 1.0, "matrices": False},
        ]


@pytest.mark.parametrize(
    ("muon_lr", "rates"),
    [(0.02, {"body": 1e-4, "body matrices": 2e-3, "head": 1e-3}), (0.0, {"body": 1e-4, "head": 1e-3})],
)
def test_any_model_that_names_its_parameter_groups_can_be_trained(muon_lr, rates):
    model = TwoLayers()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build_optimizer(model, CONFIG.replace(muon_lr=muon_lr))
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(rates, rel=1e-9)
    model.head(model.body(torch.ones(1, 4))).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine_to_zero():
    optimizer = torch.optim.SGD([parameter(1)], lr=2.0)
    scheduler = build_scheduler(optimizer, total_steps=10, warmup_fraction=0.4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    cosine = [1 + math.cos(math.pi * k / 6) for k in range(6)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, *cosine, 0.0, 0.0], abs=1e-9)
