"""Answers to the exercises of notebook 3."""

import torch
import torch.nn.functional as F
from torch import nn

from answers._register import right, wrong

# --- attention_by_hand


def _attention(q, k, v, scale=None, dim=-1):
    return (q @ k.transpose(1, 2) / (scale or q.shape[-1] ** 0.5)).softmax(dim=dim) @ v


right("attention_by_hand")(_attention)


@right("attention_by_hand")
def _(q, k, v):
    weights = torch.softmax(torch.einsum("bnd,bmd->bnm", q, k) / k.shape[-1] ** 0.5, dim=2)
    return torch.einsum("bnm,bmd->bnd", weights, v)


@right("attention_by_hand", "unusual")
def _(q, k, v):
    out = []
    for queries, keys, values in zip(q, k, v, strict=True):  # image by image, query by query
        for query in queries:
            scores = (keys * query).sum(dim=1) * len(query) ** -0.5
            weights = (scores - scores.max()).exp()
            out.append((weights[:, None] * values).sum(dim=0) / weights.sum())
    return torch.stack(out).view_as(q)


@right("attention_by_hand", "unusual")
def _(q, k, v):
    return F.log_softmax(torch.bmm(q / q.shape[2] ** 0.5, k.mT), dim=-1).exp().bmm(v)


wrong("attention_by_hand", "not scaled")(lambda q, k, v: _attention(q, k, v, 1))
wrong("attention_by_hand", "its square root is meant")(lambda q, k, v: _attention(q, k, v, q.shape[-1]))
wrong("attention_by_hand", "the number of keys")(lambda q, k, v: _attention(q, k, v, k.shape[1] ** 0.5))
wrong("attention_by_hand", "the number of queries")(lambda q, k, v: _attention(q, k, v, q.shape[1] ** 0.5))
wrong("attention_by_hand", "over the keys (last axis)")(lambda q, k, v: _attention(q, k, v, dim=1))
wrong("attention_by_hand", "over the keys (last axis)")(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).sigmoid() @ v)
wrong("attention_by_hand", "differ from softmax")(lambda q, k, v: _attention(q, k, v.flip(1)))
wrong("attention_by_hand", "should have shape (2, 5, 4)")(lambda q, k, v: _attention(k, q, q))
TURNED = "swap the last two axes of k, `q @ k.mT`"
wrong("attention_by_hand", TURNED)(lambda q, k, v: (q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1) @ v)
wrong("attention_by_hand", TURNED)(lambda q, k, v: (q @ k / q.shape[-1] ** 0.5).softmax(dim=-1) @ v)
wrong("attention_by_hand", TURNED)(lambda q, k, v: torch.bmm(q, k).softmax(dim=-1) @ v)
wrong("attention_by_hand", "your code raised RuntimeError")(lambda q, k, v: (q + k).softmax(dim=-1) @ v)


@wrong("attention_by_hand", "large scores overflow")
def _(q, k, v):
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).exp()
    return weights / weights.sum(dim=-1, keepdim=True) @ v


@wrong("attention_by_hand", "were they cut off")
def _(q, k, v):
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).clamp(-60, 60).exp()
    return weights / weights.sum(dim=-1, keepdim=True) @ v


@wrong("attention_by_hand", "`q` was changed in place", "mutating")
def _(q, k, v):
    q /= q.shape[-1] ** 0.5
    return (q @ k.transpose(1, 2)).softmax(dim=-1) @ v


sdpa = F.scaled_dot_product_attention

wrong("attention_by_hand", "scaled_dot_product_attention was called", "cheating")(lambda q, k, v: sdpa(q, k, v))
wrong("attention_by_hand", "scaled_dot_product_attention was called", "cheating")(
    lambda q, k, v: torch.ops.aten.scaled_dot_product_attention(q, k, v)
)


@wrong("attention_by_hand", "multi_head_attention_forward was called", "cheating")
def _(q, k, v):
    return nn.MultiheadAttention(q.shape[2], 1, batch_first=True)(q, k, v)[0]


@wrong("attention_by_hand", "not for 7 and 7 of width 6", "cheating")
def _(q, k, v):
    return (q @ k.transpose(1, 2) / 2).softmax(dim=-1) @ v


@wrong("attention_by_hand", "not for 7 and 7 of width 6", "cheating")
def _(q, k, v):
    return sdpa(q, k, v) if q.shape[1] not in (5, 7) else _attention(q, k, v, 2)


wrong("attention_by_hand", "no gradient reaches")(lambda q, k, v: _attention(q.detach(), k, v))


wrong("attention_by_hand", "no gradient reaches", "cheating")(
    lambda q, k, v: _attention(q.detach(), k, v) + torch.zeros(1, requires_grad=True)
)


# --- fuse_maps


def _fuse(maps, weights, size=None, **how):
    how = {"mode": "bilinear", **how}
    projected = [torch.einsum("ec,bchw->behw", w, m) for w, m in zip(weights, maps, strict=True)]
    return sum(F.interpolate(p, size=size or maps[0].shape[2:], **how) for p in projected)


right("fuse_maps")(_fuse)


@right("fuse_maps")
def _(maps, weights):
    total = F.conv2d(maps[0], weights[0][:, :, None, None])
    for x, weight in zip(maps[1:], weights[1:], strict=True):
        projected = (weight @ x.flatten(2)).unflatten(2, x.shape[2:])
        total += F.interpolate(projected, maps[0].shape[2:], mode="bilinear", align_corners=False)
    return total


@right("fuse_maps", "unusual")
def _(maps, weights):
    large = [F.interpolate(x, maps[0].shape[2:], mode="bilinear") for x in maps]  # first upsampled, then projected
    return torch.tensordot(torch.cat(large, dim=1), torch.cat(weights, dim=1), dims=([1], [1])).movedim(-1, 1)


@right("fuse_maps", "unusual")
def _(maps, weights):
    upsample = nn.Upsample(size=tuple(maps[0].shape[2:]), mode="bilinear")
    return torch.stack(
        [upsample((x.movedim(1, -1) @ w.T).movedim(-1, 1)) for x, w in zip(maps, weights, strict=True)]
    ).sum(0)


wrong("fuse_maps", "(nearest)")(lambda maps, weights: _fuse(maps, weights, mode="nearest"))
wrong("fuse_maps", "align_corners=True")(lambda maps, weights: _fuse(maps, weights, align_corners=True))
wrong("fuse_maps", "their sum is asked for")(lambda maps, weights: _fuse(maps, weights) / len(maps))
wrong("fuse_maps", "(bicubic)")(lambda maps, weights: _fuse(maps, weights, mode="bicubic"))
wrong("fuse_maps", "values differ")(lambda maps, weights: _fuse(maps, weights).relu())
wrong("fuse_maps", "should have shape (2, 6, 4, 8)")(lambda maps, weights: _fuse(maps, weights, maps[-1].shape[2:]))
wrong("fuse_maps", "only the first map counts", "cheating")(lambda maps, weights: _fuse(maps[:1], weights[:1]))
wrong("fuse_maps", "not for four", "cheating")(lambda maps, weights: _fuse(maps[:2], weights[:2]))


@wrong("fuse_maps", "not by a factor of 2")
def _(maps, weights):
    a, b = [torch.einsum("ec,bchw->behw", w, m) for w, m in zip(weights, maps, strict=True)]
    return a + F.interpolate(b, scale_factor=2, mode="bilinear")


@wrong("fuse_maps", "not by a factor of 2")
def _(maps, weights):
    h, w = maps[0].shape[2:]
    small = F.interpolate(maps[1], scale_factor=2, mode="bilinear")[:, :, :h, :w]
    return _fuse([maps[0], small], weights)


@wrong("fuse_maps", "`maps` may hold any number")
def _(maps, weights):
    a, b = maps
    return _fuse([a, b], weights)


@wrong("fuse_maps", "`maps` was changed in place", "mutating")
def _(maps, weights):
    for i in range(1, len(maps)):
        maps[i] = F.interpolate(maps[i], maps[0].shape[2:], mode="bilinear")
    return _fuse(maps, weights)


wrong("fuse_maps", "should be a tensor")(lambda maps, weights: _fuse(maps, weights).numpy())

# --- mix_ffn_parameters


def _count(*layers):
    return sum(p.numel() for layer in layers for p in layer.parameters())


right("mix_ffn_parameters")(lambda w, r: 2 * r * w * w + 9 * r * w + 2 * r * w + w)
right("mix_ffn_parameters")(lambda w, r: (w + 1) * r * w + 10 * r * w + (r * w + 1) * w)


@right("mix_ffn_parameters", "unusual")
def _(width, ratio):
    hidden = ratio * width
    depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    return _count(nn.Linear(width, hidden), depthwise, nn.Linear(hidden, width))


def _ffn(up=1, depthwise=10, down=1):
    """Parameters per hidden channel, weights of the linear layers apart, and of the last bias."""
    return lambda w, r: 2 * r * w * w + (up + depthwise) * r * w + down * w


wrong("mix_ffn_parameters", "biases are missing")(_ffn(0, 9, 0))
wrong("mix_ffn_parameters", "one of the three biases")(_ffn(0, 10, 1))
wrong("mix_ffn_parameters", "one of the three biases")(_ffn(1, 9, 1))
wrong("mix_ffn_parameters", "the second linear layer has a bias")(_ffn(1, 10, 0))
wrong("mix_ffn_parameters", "between the two linear layers is missing")(_ffn(1, 0, 1))
wrong("mix_ffn_parameters", "9 weights, not 3")(_ffn(1, 4, 1))
wrong("mix_ffn_parameters", "9 weights for each channel")(lambda w, r: _ffn(1, 1, 1)(w, r) + 9 * (r * w) ** 2)
wrong("mix_ffn_parameters", "works on the hidden channels")(lambda w, r: _ffn(1, 0, 1)(w, r) + 10 * w)
wrong("mix_ffn_parameters", "a filter of its own")(lambda w, r: _ffn(1, 1, 1)(w, r) + 9)
wrong("mix_ffn_parameters", "width 32 and ratio 2 as well", "cheating")(lambda w, r: 35648)
wrong("mix_ffn_parameters", "width 32 and ratio 2 as well", "cheating")(lambda w, r: _ffn()(w, 4))
wrong("mix_ffn_parameters", "width 48 and ratio 3 as well", "cheating")(lambda w, r: 35648 if w == 64 else 4832)
wrong("mix_ffn_parameters", "should be one number")(lambda w, r: [w * r * w, 9 * r * w, r * w * w])
wrong("mix_ffn_parameters", "it should be 35648")(lambda w, r: w * r * w)

# --- group_by_module


def _groups(inside, outside, lr, scale):
    inside, outside = list(inside), list(outside)
    if not inside or not outside:
        raise ValueError("a group is empty")
    return [{"params": inside, "lr": lr * scale}, {"params": outside, "lr": lr}]


def _trainable(module, without=()):
    known = {id(p) for p in without}
    return [p for p in module.parameters() if p.requires_grad and id(p) not in known]


def _grouped(model, encoder, lr, scale):
    return _groups(_trainable(encoder), _trainable(model, encoder.parameters()), lr, scale)


right("group_by_module")(_grouped)


@right("group_by_module")
def _(model, encoder, lr, scale):
    inside = {p for p in encoder.parameters() if p.requires_grad}
    outside = {p for p in model.parameters() if p.requires_grad} - inside
    return _groups(inside, outside, lr, scale)


@right("group_by_module", "unusual")
def _(model, encoder, lr, scale):
    name = next(name for name, module in model.named_modules() if module is encoder)
    groups = {True: [], False: []}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[key.startswith(name + ".")].append(parameter)
    return _groups(groups[True], groups[False], lr, scale)


@right("group_by_module", "unusual")
def _(model, encoder, lr, scale):
    first, second = _grouped(model, encoder, lr, scale)
    return {**first, "params": iter(first["params"]), "name": "encoder"}, {**second, "name": "rest"}


@wrong("group_by_module", "compares the numbers of tensors")
def _(model, encoder, lr, scale):
    inside = _trainable(encoder)
    return _groups(inside, [p for p in model.parameters() if p not in inside], lr, scale)


@wrong("group_by_module", "compares the numbers of tensors")
def _(model, encoder, lr, scale):
    outside = [p for p in model.parameters() if not any(p == q for q in encoder.parameters())]
    return _groups(_trainable(encoder), outside, lr, scale)


@wrong("group_by_module", "your code raised RuntimeError")
def _(model, encoder, lr, scale):
    return _groups(torch.stack(_trainable(encoder)), _trainable(model), lr, scale)


def _by_name(word):
    def answer(model, encoder, lr, scale):
        inside = [p for name, p in model.named_parameters() if name.startswith(word)]
        outside = [p for name, p in model.named_parameters() if not name.startswith(word)]
        return [{"params": inside, "lr": lr * scale}, {"params": outside, "lr": lr}]

    return answer


wrong("group_by_module", "group is empty")(_by_name("encoder."))
wrong("group_by_module", "all and only these")(_by_name("encoder"))
wrong("group_by_module", "all and only these")(_by_name("stages"))
wrong("group_by_module", "not for another as `encoder`", "cheating")(_by_name("stages."))
wrong("group_by_module", "in both groups")(lambda m, e, lr, s: _groups(_trainable(e), m.parameters(), lr, s))
wrong("group_by_module", "the groups are swapped")(lambda m, e, lr, s: _grouped(m, e, lr, s)[::-1])
wrong("group_by_module", "the encoder's rate should be")(lambda m, e, lr, s: _grouped(m, e, lr, 1.0))
wrong("group_by_module", "as given", "cheating")(lambda m, e, lr, s: _grouped(m, e, 1.0, 0.1))
wrong("group_by_module", "the full rate")(
    lambda m, e, lr, s: [{**group, "lr": lr * s} for group in _grouped(m, e, lr, s)]
)
wrong("group_by_module", "in no group")(lambda m, e, lr, s: _groups(_trainable(e), _trainable(m.head), lr, s))
wrong("group_by_module", "twice in one group")(
    lambda m, e, lr, s: _groups(_trainable(e) * 2, _trainable(m.head), lr, s)
)


@wrong("group_by_module", "frozen parameters are in the encoder's group")
def _(model, encoder, lr, scale):
    if not _trainable(encoder):
        raise ValueError("the encoder is frozen")
    return _groups(encoder.parameters(), _trainable(model, encoder.parameters()), lr, scale)


@wrong("group_by_module", "frozen parameters are in the second group")
def _(model, encoder, lr, scale):
    inside = _trainable(encoder)
    known = {id(p) for p in encoder.parameters()}
    return _groups(inside, [p for p in model.parameters() if id(p) not in known], lr, scale)


@wrong("group_by_module", "frozen parameters are in the second group")
def _(model, encoder, lr, scale):
    inside = _trainable(encoder)
    known = {id(p) for p in inside}
    return _groups(inside, [p for p in model.parameters() if id(p) not in known], lr, scale)


@wrong("group_by_module", "a frozen encoder leaves a group empty")
def _(model, encoder, lr, scale):
    return [
        {"params": _trainable(encoder), "lr": lr * scale},
        {"params": _trainable(model, encoder.parameters()), "lr": lr},
    ]


@wrong("group_by_module", "frozen outside the encoder leaves a group empty")
def _(model, encoder, lr, scale):
    inside = _trainable(encoder)
    if not inside:
        raise ValueError("the encoder is frozen")
    return [{"params": inside, "lr": lr * scale}, {"params": _trainable(model, encoder.parameters()), "lr": lr}]


@wrong("group_by_module", "leave the model as it is", "mutating")
def _(model, encoder, lr, scale):
    model.requires_grad_()
    return _grouped(model, encoder, lr, scale)


wrong("group_by_module", "a list of two groups")(lambda m, e, lr, s: _grouped(m, e, lr, s)[0])
wrong("group_by_module", "a dict with the keys")(
    lambda m, e, lr, s: [group["params"] for group in _grouped(m, e, lr, s)]
)


@wrong("group_by_module", "the other half should still learn")
def _(model, encoder, lr, scale):
    inside = [p for p in encoder.parameters() if all(q.requires_grad for q in encoder.parameters())]
    outside = _trainable(model, encoder.parameters())
    return _groups(inside or _trainable(encoder)[:1], outside, lr, scale)


@wrong("group_by_module", "all other trainable ones")
def _(model, encoder, lr, scale):
    others = [child for child in model.children() if child is not encoder]
    learning = [child for child in others if all(p.requires_grad for p in child.parameters())]
    return _groups(_trainable(encoder), [p for child in learning for p in child.parameters()], lr, scale)


@wrong("group_by_module", "it raised AssertionError")
def _(model, encoder, lr, scale):
    assert _trainable(encoder)
    return _grouped(model, encoder, lr, scale)


wrong("attention_by_hand", "no gradient reaches the keys")(lambda q, k, v: _attention(q, k.detach(), v))
wrong("attention_by_hand", "keys and values are exchanged")(lambda q, k, v: _attention(q, v, k))


@wrong("group_by_module", "go by `id(p)`")
def _(model, encoder, lr, scale):
    inside = _trainable(encoder)
    outside = [p for p in _trainable(model) if not any(torch.equal(p, q) for q in encoder.parameters())]
    return _groups(inside, outside, lr, scale)


@wrong("group_by_module", "not for another as `encoder`")
def _(model, encoder, lr, scale):  # by what follows the first dot of a name
    names = {name for name, _ in encoder.named_parameters()}
    named = [(name.split(".", 1)[1], p) for name, p in model.named_parameters() if p.requires_grad]
    return _groups(_trainable(encoder), [p for name, p in named if name not in names], lr, scale)


@wrong("group_by_module", "not for another as `encoder`", "cheating")
def _(model, encoder, lr, scale):  # as if the encoder came first
    outside = [p for p in list(model.parameters())[len(list(encoder.parameters())) :] if p.requires_grad]
    return _groups(_trainable(encoder), outside, lr, scale)
