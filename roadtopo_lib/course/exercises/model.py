"""Exercises of notebook 3: attention, two maps fused, parameters counted and grouped."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_tensor, expect_written


@exercise("attention_by_hand")
def attention_by_hand(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 5, 4, generator=generator)
    k, v = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    expect_written(answer(q, k, v))
    found = answer(q, k, v)
    expect_tensor(found, (2, 5, 4))
    same = torch.ones_like(v)
    expect_close(
        answer(q, k, same),
        torch.ones_like(q),
        "with all values 1 the result should be 1: a query's weights over the keys (last axis) must add up to 1",
    )
    scores = q @ k.transpose(1, 2)
    for scale, hint in (
        (1, "the scores are not scaled: divide by the square root of the width of a query"),
        (4, "the scores are divided by the width of a query; its square root is meant"),
        (3**0.5, "the scores are scaled by the number of keys; the width of a query (its last axis) is meant"),
    ):
        other = (scores / scale).softmax(dim=-1) @ v
        expect(not torch.allclose(found, other, atol=1e-5), hint)
    truth = F.scaled_dot_product_attention(q, k, v)
    expect_close(found, truth, "values differ from softmax(Q·Kᵀ/√d)·V")
    large = answer(100 * q, 100 * k, v)
    expect(
        bool(large.isfinite().all()), "large scores overflow: use torch's softmax, or subtract the maximum before exp"
    )
    q.requires_grad_()
    answer(q, k, v).sum().backward()
    expect(q.grad is not None, "no gradient reaches the queries")


@exercise("fuse_maps")
def fuse_maps(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 4, 8, generator=generator), torch.randn(2, 5, 2, 4, generator=generator)]
    weights = [torch.randn(6, 3, generator=generator), torch.randn(6, 5, generator=generator)]
    expect_written(answer(maps, weights))
    found = answer(maps, weights)
    expect_tensor(found, (2, 6, 4, 8))
    projected = [torch.einsum("ec,bchw->behw", w, m) for w, m in zip(weights, maps, strict=True)]

    def fused(**how) -> torch.Tensor:
        return projected[0] + F.interpolate(projected[1], size=(4, 8), **how)

    expect(
        not torch.allclose(found, fused(mode="nearest"), atol=1e-5),
        "the small map is upsampled in steps (nearest); bilinear is asked for",
    )
    expect(
        not torch.allclose(found, fused(mode="bilinear", align_corners=True), atol=1e-5),
        "align_corners=True shifts the pixels towards the edges; leave it False",
    )
    truth = fused(mode="bilinear", align_corners=False)
    expect(not torch.allclose(found, truth / 2, atol=1e-5), "the maps are averaged; their sum is asked for")
    expect_close(found, truth, "values differ: project each map with its (E, c) matrix, upsample, add", atol=1e-4)
    odd = [torch.ones(1, 3, 5, 7), torch.ones(1, 5, 3, 4)]
    try:
        size = tuple(answer(odd, weights).shape)
    except RuntimeError:
        size = None
    expect(
        size == (1, 6, 5, 7),
        "maps of 5 × 7 and 3 × 4 do not fit each other: upsample to the first map's size, not by a factor of 2",
    )


@exercise("mix_ffn_parameters")
def mix_ffn_parameters(answer) -> None:
    width, ratio = 64, 4
    found = answer(width, ratio)
    expect_written(found)
    hidden = ratio * width
    truth = (width * hidden + hidden) + (9 * hidden + hidden) + (hidden * width + width)
    dense = (width * hidden + hidden) + (9 * hidden * hidden + hidden) + (hidden * width + width)
    expect(found != dense, "that is a full 3×3 convolution; a depthwise one has 9 weights for each channel")
    expect(found != truth - hidden - hidden - width, "the weights are right, the biases are missing")
    expect(found != truth - hidden, "the depthwise convolution has a bias for each channel, too")
    expect(found != truth - 10 * hidden, "the depthwise convolution between the two linear layers is missing")
    expect(found == truth, f"for width {width} and ratio {ratio} it should be {truth}, the answer was {found}")
    expect(answer(32, 2) == 2 * 32 * 64 + 64 + 10 * 64 + 32, "it should hold for width 32 and ratio 2 as well")


class _Net(nn.Module):
    """Names hold no "encoder" inside the encoder, and one outside of it: only grouping by module gets it right."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.encoder_adapter = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


@exercise("group_by_module")
def group_by_module(answer) -> None:
    net = _Net()
    groups = answer(net, net.stages, 1.0, 0.1)
    expect_written(groups)
    expect(
        isinstance(groups, list) and len(groups) == 2, "the result should be a list of two groups: encoder, the rest"
    )
    expect(
        all(isinstance(group, dict) and {"params", "lr"} <= set(group) for group in groups),
        "each group should be a dict with the keys 'params' and 'lr', as torch's optimisers take it",
    )
    members = [{id(p) for p in group["params"]} for group in groups]
    inside = {id(p) for p in net.stages.parameters()}
    everything = {id(p) for p in net.parameters()}
    expect(len(members[0]) > 0, "the encoder's group is empty: no parameter's name says that it is the encoder's")
    expect(members[0] == inside, "the first group should hold the parameters of `encoder`, all and only these")
    expect(not members[0] & members[1], "some parameters are in both groups: torch's optimisers refuse that")
    expect(members[0] | members[1] == everything, "some parameters are in no group: they would never learn")
    expect(math.isclose(groups[0]["lr"], 0.1), "the encoder's rate should be lr · scale")
    expect(math.isclose(groups[1]["lr"], 1.0), "the other parameters should have the full rate")
    net.stages.requires_grad_(False)
    try:
        answer(net, net.stages, 1.0, 0.1)
    except ValueError:
        return
    except Exception as error:
        expect(False, f"a frozen encoder should raise ValueError, it raised {type(error).__name__}")
    expect(
        False,
        "a frozen encoder has nothing to train, so its group is empty: raise ValueError, do not pass on in silence",
    )
