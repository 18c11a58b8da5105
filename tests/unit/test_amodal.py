"""Amodal fusion: positions, weights, masking, order of the completions, pasting and losses."""

import math

import pytest
import torch

from roadtopo_lib.electives.amodal import (
    AmodalFusionTransformer,
    EncoderDistance,
    EncoderLayer,
    fuse,
    masked_l1,
    positions_2d,
)
from roadtopo_lib.segformer import SegFormerModel


def inputs(batch=2, count=3, height=34, width=50):
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(batch, 1, height, width)
    mask[:, :, 8:24, 10:40] = 1
    partial = torch.rand(batch, 3, height, width, generator=generator)
    completions = torch.rand(batch, count, 3, height, width, generator=generator)
    present = torch.ones(batch, count, dtype=torch.bool)
    present[1, 1] = False
    return partial, mask, completions, present


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AmodalFusionTransformer(d_model=16, heads=2, layers=1, reduction=2).eval()


@pytest.mark.parametrize("channels", [4, 64, 256])
def test_positions_are_sines_and_cosines_of_row_and_column(channels):
    found = positions_2d(channels, 5, 9)
    assert found.shape == (channels, 5, 9)
    quarter = channels // 4
    for k in {0, quarter - 1}:
        rate = 10000 ** (-k / quarter)
        for row, column in ((0, 0), (4, 8), (3, 1)):
            values = found[[k, k + quarter, k + 2 * quarter, k + 3 * quarter], row, column].tolist()
            angles = row * rate, column * rate
            expected = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1])]
            assert values == pytest.approx(expected, abs=1e-5)
    assert len(found.flatten(1).T.unique(dim=0)) == 45


@pytest.mark.parametrize("channels", [-4, 0, 6, 30])
def test_positions_need_a_multiple_of_four(channels):
    with pytest.raises(ValueError, match=f"channels is {channels}, expected a multiple of 4"):
        positions_2d(channels, 2, 2)
    with pytest.raises(ValueError, match="expected a multiple of 4"):
        AmodalFusionTransformer(d_model=channels, heads=1)


@pytest.mark.parametrize("size", [(34, 50), (32, 64), (9, 7)])
def test_weights_sum_to_one_and_are_exactly_zero_where_nothing_is(model, size):
    partial, mask, completions, present = inputs(height=size[0], width=size[1])
    weights = model(partial, mask, completions, present)
    assert weights.shape == (2, 3, *size)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, *size))
    assert not weights[1, 1].any()
    assert weights[0].min() > 0


def test_what_a_padded_completion_holds_changes_nothing(model):
    partial, mask, completions, present = inputs()
    other = completions.clone()
    other[1, 1] = 1 - other[1, 1]
    assert torch.equal(model(partial, mask, completions, present), model(partial, mask, other, present))
    alone = [0, 2]
    torch.testing.assert_close(
        model(partial[1:], mask[1:], completions[1:, alone], present[1:, alone]),
        model(partial, mask, completions, present)[1:, alone],
    )


def test_a_shade_over_the_whole_image_changes_little(model):
    """Each channel loses its own mean: what is left is the structure by which guesses differ."""
    partial, mask, completions, _ = inputs()
    features = [
        model.encoder[:2](torch.cat([partial, mask, x], dim=1)) for x in (completions[:, 0], completions[:, 0] / 2)
    ]
    inner = [f[:, :, 3:-3, 3:-3] for f in features]
    shaded = model.encoder[:2](torch.cat([partial, mask, completions[:, 0] + 0.3], dim=1))[:, :, 3:-3, 3:-3]
    assert (inner[0] - shaded).abs().mean() < 0.3 * (inner[0] - inner[1]).abs().mean()


def test_what_the_mask_hides_is_not_read(model):
    partial, mask, completions, present = inputs()
    expected = model(partial, mask, completions, present)
    for value in (0.0, math.nan):
        assert torch.equal(model(partial.masked_fill(mask.bool(), value), mask, completions, present), expected)


def test_a_slot_of_no_completion_may_hold_anything(model):
    partial, mask, completions, present = inputs()
    expected = model(partial, mask, completions, present)
    fused = fuse(partial, mask, completions, expected)
    for value in (math.nan, math.inf):
        other = completions.masked_fill(~present[:, :, None, None, None], value)
        weights = model(partial, mask, other, present)
        assert torch.equal(weights, expected)
        assert torch.equal(fuse(partial, mask, other, weights), fused)


def test_permuted_completions_permute_the_weights(model):
    partial, mask, completions, present = inputs()
    order = [2, 0, 1]
    weights = model(partial, mask, completions, present)
    assert (weights[0, 0] - weights[0, 1]).abs().max() > 1e-3
    torch.testing.assert_close(model(partial, mask, completions[:, order], present[:, order]), weights[:, order])


@pytest.mark.parametrize("reduction", [1, 2])
def test_every_place_reads_from_the_whole_map(reduction):
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, reduction)
    x = torch.rand(1, 8, 6, 7, requires_grad=True)
    layer(x)[0, :, 0, 0].sum().backward()
    assert x.grad.abs().sum(dim=1).min() > 0


def test_one_layer_without_reduction_is_torchs():
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2)
    twin = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    twin.self_attn.load_state_dict(layer.attention.state_dict())
    for ours, theirs in ((layer.mlp[0], twin.linear1), (layer.mlp[2], twin.linear2)):
        theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 8, 3, 5)
    torch.testing.assert_close(layer(x).flatten(2).transpose(1, 2), twin(x.flatten(2).transpose(1, 2)))


def test_the_query_learns_and_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    partial, mask, completions, present = inputs()
    for query in (True, False):
        model = AmodalFusionTransformer(d_model=16, heads=2, layers=1, query=query)
        weights = model(partial, mask, completions, present)
        masked_l1(fuse(partial, mask, completions, weights), torch.rand(2, 3, 34, 50), mask).backward()
        without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert without <= {"judge.4.bias"}  # softmax takes no notice of what all scores have in common
        assert any("reading" in name for name, _ in model.named_parameters()) == query


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, m, c, e: (p[:1], m, c, e), "do not fit each other"),
        (lambda p, m, c, e: (p, m[..., 1:], c, e), "do not fit each other"),
        (lambda p, m, c, e: (p, m, c, e[:, :2]), r"present is \(2, 2\) for 3 completions"),
        (lambda p, m, c, e: (p, m, c.repeat(1, 2, 1, 1, 1), e.repeat(1, 2)), r"6 completions, expected .* N ≤ 5"),
        (lambda p, m, c, e: (p, m, c, e & False), "an image has no completion"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(*change(*inputs()))


def test_pasting_keeps_all_outside_bit_for_bit_and_mixes_inside():
    partial, mask, completions, _ = inputs()
    weights = torch.tensor([0.25, 0.75, 0.0]).view(1, 3, 1, 1).expand(2, -1, 34, 50)
    fused = fuse(partial, mask, completions, weights)
    inside = mask.bool().expand_as(fused)
    assert torch.equal(fused[~inside], partial[~inside])
    expected = 0.25 * completions[:, 0] + 0.75 * completions[:, 1]
    torch.testing.assert_close(fused[inside], expected[inside])


def test_the_loss_is_a_mean_over_hidden_pixels_only():
    partial, mask, _, _ = inputs()
    target = partial + 0.25 * mask + 0.5 * (1 - mask)
    assert masked_l1(partial, target, mask).item() == pytest.approx(0.25)
    assert masked_l1(partial, target, mask * 0).item() == 0


def test_the_encoders_distance_is_zero_for_the_same_and_reaches_the_image():
    torch.manual_seed(0)
    distance = EncoderDistance(SegFormerModel("tiny", pretrained=False)).train()
    assert not distance.model.training
    image = torch.rand(1, 3, 64, 64)
    other = (image + 0.2 * torch.rand(1, 3, 64, 64)).requires_grad_(True)
    assert distance(image, image).item() == 0
    loss = distance(other, image)
    assert loss.item() > 0
    loss.backward()
    assert other.grad.any()
    assert all(weight.grad is None for weight in distance.parameters())
    steps = []
    for a, b in zip(*(distance.model.encode(x.detach()) for x in (image, other)), strict=True):
        cosines = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
        steps.append((2 - 2 * cosines).mean().item())  # |a/|a| − b/|b||² = 2 − 2·cos
    assert loss.item() == pytest.approx(sum(steps) / 4, rel=1e-3)
