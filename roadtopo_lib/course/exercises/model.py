"""Exercises of notebook 3: attention, two maps fused, parameters counted and grouped."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from roadtopo_lib.course.exercises._base import (
    Hint,
    exercise,
    expect,
    expect_close,
    expect_tensor,
    expect_written,
    explained,
    forbidden_torch,
    is_close,
    number,
)

READY_MADE = ("scaled_dot_product", "multi_head_attention")
PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum")
"""What multiplies queries and keys."""


@exercise("attention_by_hand", keeps=("q", "k", "v"))
def attention_by_hand(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 5, 4, generator=generator)
    k, v = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    product = "a product does not fit: for the scores swap the last two axes of k, `q @ k.mT`; `.T` reverses all three"
    with forbidden_torch(*READY_MADE), explained(PRODUCTS, product):
        found = answer(q, k, v)
    expect_tensor(found, (2, 5, 4))
    exchanged = (q @ v.mT / 2).softmax(dim=-1) @ k
    expect(not is_close(found, exchanged), "keys and values are exchanged: queries meet k, the weights average v")
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
        (5**0.5, "the scores are scaled by the number of queries; the width of a query (its last axis) is meant"),
    ):
        other = (scores / scale).softmax(dim=-1) @ v
        expect(not is_close(found, other), hint)
    expect_close(found, F.scaled_dot_product_attention(q, k, v), "values differ from softmax(Q·Kᵀ/√d)·V")
    _compare_attention(answer, generator, batch=1, queries=7, keys=7, width=6)
    large = answer(100 * q, 100 * k, v)
    expect(
        bool(large.isfinite().all()), "large scores overflow: use torch's softmax, or subtract the maximum before exp"
    )
    truth = F.scaled_dot_product_attention(100 * q, 100 * k, v)
    expect_close(large, truth, "large scores give other weights than softmax does: were they cut off?", atol=1e-4)
    leaves = {"queries": q.requires_grad_(), "keys": k.requires_grad_(), "values": v.requires_grad_()}
    try:
        found = answer(q, k, v)
    except RuntimeError as error:
        raise Hint(f"with inputs that require a gradient your code raised RuntimeError: {str(error)[:80]}") from None
    if found.requires_grad:
        found.square().sum().backward()
    for name, leaf in leaves.items():
        expect(leaf.grad is not None, f"no gradient reaches the {name}")


def _compare_attention(answer, generator: torch.Generator, batch: int, queries: int, keys: int, width: int) -> None:
    q = torch.randn(batch, queries, width, generator=generator)
    k, v = (torch.randn(batch, keys, width, generator=generator) for _ in range(2))
    with forbidden_torch(*READY_MADE):
        found = answer(q, k, v)
    hint = f"right for 5 queries and 3 keys of width 4; not for {queries} and {keys} of width {width}"
    expect_close(found, F.scaled_dot_product_attention(q, k, v), hint)


@exercise("fuse_maps", keeps=("maps", "weights"))
def fuse_maps(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 4, 8, generator=generator), torch.randn(2, 5, 2, 4, generator=generator)]
    weights = [torch.randn(6, 3, generator=generator), torch.randn(6, 5, generator=generator)]
    found = answer(maps, weights)
    expect_tensor(found, (2, 6, 4, 8))

    def fused(maps: list[torch.Tensor], weights: list[torch.Tensor], **how) -> torch.Tensor:
        size = maps[0].shape[2:]
        projected = [torch.einsum("ec,bchw->behw", w, m) for w, m in zip(weights, maps, strict=True)]
        return projected[0] + sum(F.interpolate(p, size=size, **how) for p in projected[1:])

    expect(
        not is_close(found, fused(maps, weights, mode="nearest"), atol=1e-4),
        "the small map is upsampled in steps (nearest); bilinear is asked for",
    )
    expect(
        not is_close(found, fused(maps, weights, mode="bicubic"), atol=1e-4),
        "the small map is upsampled with cubic weights (bicubic); bilinear is asked for",
    )
    expect(
        not is_close(found, fused(maps, weights, mode="bilinear", align_corners=True), atol=1e-4),
        "align_corners=True shifts the pixels towards the edges; leave it False",
    )
    smooth = {"mode": "bilinear", "align_corners": False}
    truth = fused(maps, weights, **smooth)
    expect(not is_close(found, truth / 2, atol=1e-4), "the maps are averaged; their sum is asked for")
    expect(
        not is_close(found, fused(maps[:1], weights[:1]), atol=1e-4), "only the first map counts: add the others, too"
    )
    expect_close(found, truth, "values differ: project each map with its (E, c) matrix, upsample, add", atol=1e-4)
    odd = [torch.randn(1, 3, 5, 7, generator=generator), torch.randn(1, 5, 3, 4, generator=generator)]
    hint = "maps of 5 × 7 and 3 × 4 do not fit each other: upsample to the first map's size, not by a factor of 2"
    _compare_fused(answer, odd, weights, fused(odd, weights, **smooth), hint)
    four = [torch.randn(1, c, 12 // c, 24 // c, generator=generator) for c in (1, 2, 3, 4)]
    matrices = [torch.randn(2, c, generator=generator) for c in (1, 2, 3, 4)]
    hint = "right for two maps, not for four: `maps` may hold any number of them"
    _compare_fused(answer, four, matrices, fused(four, matrices, **smooth), hint)


def _compare_fused(answer, maps: list, weights: list, truth: torch.Tensor, hint: str) -> None:
    try:
        found = answer(maps, weights)
    except (RuntimeError, ValueError, IndexError) as error:
        raise Hint(f"{hint} (your code raised {type(error).__name__})") from None
    expect_close(found, truth, hint, atol=1e-4)


@exercise("mix_ffn_parameters")
def mix_ffn_parameters(answer) -> None:
    width, ratio = 64, 4
    found = number(answer(width, ratio))
    hidden = ratio * width
    truth = (width * hidden + hidden) + (9 * hidden + hidden) + (hidden * width + width)
    for wrong, hint in (
        (9 * hidden * (hidden - 1), "that is a full 3×3 convolution; a depthwise one has 9 weights for each channel"),
        (-2 * hidden - width, "the weights are right, the biases are missing"),
        (-hidden, "one of the three biases over the hidden channels is missing: the convolution has one, too"),
        (-width, "the second linear layer has a bias, too"),
        (-10 * hidden, "the depthwise convolution between the two linear layers is missing"),
        (-6 * hidden, "a 3 × 3 filter has 9 weights, not 3"),
        (10 * (width - hidden), "the depthwise convolution works on the hidden channels, ratio · width of them"),
        (-9 * (hidden - 1), "the depthwise convolution has a filter of its own for each channel"),
    ):
        expect(found != truth + wrong, hint)
    expect(found == truth, f"for width {width} and ratio {ratio} it should be {truth}, the answer was {found:g}")
    for width, ratio in ((32, 2), (48, 3)):
        truth = 2 * ratio * width**2 + 11 * ratio * width + width
        expect(
            number(answer(width, ratio)) == truth,
            f"right for width 64 and ratio 4; it should hold for width {width} and ratio {ratio} as well",
        )


class _Net(nn.Module):
    """Names hold no "encoder" inside the encoder, and two outside are like its own: only the module tells."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.stages_norm = nn.LayerNorm(4)
        self.encoder_adapter = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        for layer in (*self.stages, self.encoder_adapter):
            nn.init.zeros_(layer.bias)  # equal numbers inside and outside the encoder


@exercise("group_by_module")
def group_by_module(answer) -> None:
    net = _Net()
    hint = "`p in parameters` compares the numbers of tensors: compare which tensor it is, by `id(p)` or in a set"
    with explained(("__eq__", "eq", "__bool__"), hint):
        groups = answer(net, net.stages, 1.0, 0.1)
    expect_written(groups)
    expect(
        isinstance(groups, (list, tuple)) and len(groups) == 2,
        "the result should be a list of two groups: encoder, the rest",
    )
    expect(
        all(isinstance(group, dict) and {"params", "lr"} <= set(group) for group in groups),
        "each group should be a dict with the keys 'params' and 'lr', as torch's optimisers take it",
    )
    members = [_members(group) for group in groups]
    inside, everything = _ids(net.stages), _ids(net)
    expect(len(members[0]) > 0, "the encoder's group is empty: no parameter's name says that it is the encoder's")
    expect(members[0] != everything - inside, "the groups are swapped: the encoder comes first")
    expect(members[0] == inside, "the first group should hold the parameters of `encoder`, all and only these")
    expect(not members[0] & members[1], "some parameters are in both groups: torch's optimisers refuse that")
    lost = {id(p) for p in net.parameters() if p.ndim == 1 and not p.any()} & (everything - members[0] - members[1])
    expect(not lost, "a parameter outside with the same numbers as one of the encoder is in no group: go by `id(p)`")
    expect(members[0] | members[1] == everything, "some parameters are in no group: they would never learn")
    expect(math.isclose(groups[0]["lr"], 0.1), "the encoder's rate should be lr · scale")
    expect(math.isclose(groups[1]["lr"], 1.0), "the other parameters should have the full rate")
    groups = answer(net, net.head, 0.03, 0.5)
    members, inside_head = [_members(group) for group in groups], _ids(net.head)
    hint = "right for one part of the model, not for another as `encoder`"
    expect(members[0] == inside_head and members[1] == everything - inside_head, hint)
    rates = [group["lr"] for group in groups]
    expect(
        math.isclose(rates[0], 0.015) and math.isclose(rates[1], 0.03), "the rates should be lr · scale and lr as given"
    )
    net.stages[0].requires_grad_(False)
    net.head.bias.requires_grad_(False)
    groups = answer(net, net.stages, 1.0, 0.1)
    frozen = {id(p) for p in net.parameters() if not p.requires_grad}
    expect(len(frozen) == 3, "the answer has switched `requires_grad` of parameters: leave the model as it is")
    members = [_members(group) for group in groups]
    expect(not members[0] & frozen, "frozen parameters are in the encoder's group: trainable ones only")
    expect(not members[1] & frozen, "frozen parameters are in the second group: trainable ones only")
    expect(members[0] == inside - frozen, "of a half frozen encoder, the other half should still learn")
    expect(
        members[1] == everything - inside - frozen,
        "with frozen parameters about, the second group should hold all other trainable ones",
    )
    for encoder_learns, hint in ((False, "a frozen encoder"), (True, "a model that is frozen outside the encoder")):
        net = _Net().requires_grad_(not encoder_learns)
        net.stages.requires_grad_(encoder_learns)
        try:
            answer(net, net.stages, 1.0, 0.1)
        except ValueError:
            continue
        except Exception as error:
            expect(False, f"{hint} should raise ValueError, it raised {type(error).__name__}")
        expect(False, f"{hint} leaves a group empty: raise ValueError, do not pass on in silence")


def _members(group: dict) -> set[int]:
    """Ids of a group's parameters; a group that holds one twice gets a hint."""
    members = [id(parameter) for parameter in group["params"]]
    expect(len(members) == len(set(members)), "a parameter is twice in one group: torch's optimisers refuse that")
    return set(members)


def _ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}
