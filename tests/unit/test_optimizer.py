"""Which parameter is moved how: AdamW, Muon and their groups."""

import copy

import pytest
import torch
from torch import nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.optimizer import Muon, build_optimizer, orthogonalized

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


def moved(parameters, steps=3):
    """Copies of parameters after some steps of Muon with random gradients."""
    parameters = [copy.deepcopy(p) for p in parameters]
    optimizer = Muon([{"params": parameters, "matrices": True, "lr": 0.02}], weight_decay=0.1)
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
@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_a_matrix_moves_as_torchs_own_muon_moves_it(shape):
    reference = parameter(*shape)
    optimizer = torch.optim.Muon([reference], lr=0.02, weight_decay=0.1)
    for step in range(3):
        with_gradient(reference, seed=step)
        optimizer.step()
    (ours,) = moved([parameter(*shape)])
    assert (ours - parameter(*shape)).abs().mean() > 0.01
    torch.testing.assert_close(ours, reference.detach(), atol=2e-3, rtol=0)  # torch's works in bfloat16


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
    groups = [{"params": [vector], "lr": 0.1}, {"params": [matrix, unused], "lr": 0.1, "matrices": True}]
    both, adamw = Muon(groups, weight_decay=0.1), torch.optim.AdamW([reference], lr=0.1, weight_decay=0.1)
    for step in range(3):
        for p, optimizer in ((vector, both), (reference, adamw)):
            with_gradient(p, step)
            with_gradient(matrix, step)
            optimizer.step()
    torch.testing.assert_close(vector, reference)
    assert matrix.grad is not None
    assert torch.equal(unused, untouched)


def test_a_step_that_the_gradient_scaler_leaves_out_moves_no_matrix():
    vector, matrix = parameter(5), parameter(3, 4)
    before = [vector.detach().clone(), matrix.detach().clone()]
    optimizer = Muon([{"params": [vector], "lr": 0.1}, {"params": [matrix], "lr": 0.1, "matrices": True}], fused=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(vector.sum() + matrix.sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(vector, before[0])
    assert torch.equal(matrix, before[1])


def test_a_stored_optimizer_goes_on_where_it_stopped():
    def run(stop: bool) -> torch.Tensor:
        matrix = parameter(3, 4)
        optimizer = Muon([{"params": [matrix], "lr": 0.1, "matrices": True}])
        for step in range(4):
            if stop and step == 2:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = Muon([{"params": [matrix], "lr": 0.1, "matrices": True}])
                optimizer.load_state_dict(state)
            with_gradient(matrix, step)
            optimizer.step()
        return matrix.detach()

    torch.testing.assert_close(run(stop=True), run(stop=False))


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


def test_without_a_rate_for_muon_adamw_trains_all(tiny):
    optimizer = build_optimizer(tiny, CONFIG.replace(muon_lr=0.0))
    assert type(optimizer) is torch.optim.AdamW
    assert [group["name"] for group in optimizer.param_groups] == ["encoder", "heads"]
