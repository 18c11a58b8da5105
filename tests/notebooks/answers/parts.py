"""Answers to the six exercises that make the learner's own detector."""

import itertools
import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN, MeanShift
from torch import nn

from answers._register import right, wrong

# --- read_labelled


def _read(image_path, semantic_path, instance_path, instance_flag=cv2.IMREAD_UNCHANGED):
    image = cv2.imread(image_path)
    semantic = cv2.imread(semantic_path, cv2.IMREAD_GRAYSCALE)
    instance = cv2.imread(instance_path, instance_flag)
    if image is None or semantic is None or instance is None:
        raise FileNotFoundError(image_path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), semantic, instance


right("read_labelled")(_read)


@right("read_labelled")
def _(image_path, semantic_path, instance_path):
    return tuple(np.array(Image.open(path)) for path in (image_path, semantic_path, instance_path))


@right("read_labelled", "unusual")
def _(*paths):
    image, semantic, instance = _read(*paths)
    return [image[:, :].astype(np.uint8), semantic.astype(np.int64), instance.astype(np.int32)]


@wrong("read_labelled", "red and blue are swapped")
def _(*paths):
    image, *masks = _read(*paths)
    return image[..., ::-1], *masks


@wrong("read_labelled", "16 bits")
def _(*paths):
    return _read(*paths, instance_flag=cv2.IMREAD_GRAYSCALE)


@wrong("read_labelled", "cut to 8 bits")
def _(*paths):
    image, semantic, instance = _read(*paths)
    return image, semantic, instance.astype(np.uint8)


@wrong("read_labelled", "instance should have shape (6, 9)")
def _(*paths):
    return _read(*paths, instance_flag=cv2.IMREAD_COLOR)


@wrong("read_labelled", "image should have shape (6, 9, 3)")
def _(*paths):
    image, *masks = _read(*paths)
    return image.transpose(2, 0, 1), *masks


@wrong("read_labelled", "image should be a NumPy array, it is a Tensor")
def _(*paths):
    return tuple(torch.from_numpy(array.astype(np.int64)) for array in _read(*paths))


@wrong("read_labelled", "the image should be uint8")
def _(*paths):
    image, *masks = _read(*paths)
    return image / 255, *masks


@wrong("read_labelled", "255 included")
def _(*paths):
    image, semantic, instance = _read(*paths)
    return image, np.where(semantic == 255, 0, semantic), instance


@wrong("read_labelled", "the instance mask's ids are not those of the file")
def _(*paths):
    image, semantic, instance = _read(*paths)
    return image, semantic, np.unique(instance, return_inverse=True)[1].reshape(instance.shape)


@wrong("read_labelled", "should hold whole numbers")
def _(*paths):
    image, semantic, instance = _read(*paths)
    return image, semantic, instance.astype(np.float32)


@wrong("read_labelled", "a missing image should raise FileNotFoundError, it raised error")
def _(image_path, semantic_path, instance_path):
    image = cv2.cvtColor(cv2.imread(image_path), cv2.COLOR_BGR2RGB)
    return image, cv2.imread(semantic_path, cv2.IMREAD_UNCHANGED), cv2.imread(instance_path, cv2.IMREAD_UNCHANGED)


@wrong("read_labelled", "a missing semantic mask should raise FileNotFoundError, nothing was raised")
def _(image_path, semantic_path, instance_path):
    image = cv2.imread(image_path)
    if image is None:
        raise FileNotFoundError(image_path)
    semantic, instance = (cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in (semantic_path, instance_path))
    return image[..., ::-1], semantic, instance


_cache = {}


@wrong("read_labelled", "the image's values are not those of the file", "cheating")
def _(*paths):  # the answer of the first call
    if not _cache:
        _cache["first"] = _read(*paths)
    return _cache["first"]


# --- fuse


def _fuse(maps, projections, mix, order=-1, **how):
    how = {"mode": "bilinear", "align_corners": False, **how}
    large = [F.interpolate(p(x), size=maps[0].shape[2:], **how) for x, p in zip(maps, projections, strict=True)]
    return mix(torch.cat(large[::order], dim=1))


right("fuse")(_fuse)


@right("fuse")
def _(maps, projections, mix):  # upsampled first: a 1 × 1 convolution and interpolation may trade places
    wide = None
    for x, project in zip(maps, projections, strict=True):
        large = project(F.interpolate(x, size=maps[0].shape[-2:], mode="bilinear"))
        wide = large if wide is None else torch.cat([large, wide], dim=1)
    return mix(wide)


@right("fuse", "unusual")
def _(maps, projections, mix):
    up = nn.Upsample(size=tuple(maps[0].shape[2:]), mode="bilinear")
    return mix(torch.hstack([up(projections[i](maps[i])) for i in range(len(maps) - 1, -1, -1)]))


wrong("fuse", "concatenated first to last")(lambda m, p, mix: _fuse(m, p, mix, order=1))
wrong("fuse", "in steps (nearest)")(lambda m, p, mix: _fuse(m, p, mix, mode="nearest", align_corners=None))
wrong("fuse", "align_corners=True")(lambda m, p, mix: _fuse(m, p, mix, align_corners=True))
wrong("fuse", "mix should be called on it")(lambda m, p, mix: _fuse(m, p, lambda x: x))
wrong("fuse", "values differ")(lambda m, p, mix: _fuse(m, p, mix, mode="bicubic"))
wrong("fuse", "no gradient flows back", "tempting")(torch.no_grad()(_fuse))
wrong("fuse", "reaches the largest map")(lambda m, p, mix: _fuse([x.detach() for x in m], p, mix))
wrong("fuse", "reaches the projection of the second map")(  # the first one learns, the others do not
    lambda m, p, mix: _fuse(m, [p[0], *(lambda x, q=q: q(x).detach() + 0 * x.mean() for q in p[1:])], mix)
)


@wrong("fuse", "should have shape (2, 3, 5, 7)")
def _(maps, projections, mix):  # to the size of the smallest map
    small = [F.adaptive_avg_pool2d(p(x), maps[-1].shape[2:]) for x, p in zip(maps, projections, strict=True)]
    return mix(torch.cat(small[::-1], dim=1))


@wrong("fuse", "not by a factor")
def _(maps, projections, mix):  # sizes that are multiples of each other
    large = [
        F.interpolate(p(x), scale_factor=2**i, mode="bilinear")
        for i, (x, p) in enumerate(zip(maps, projections, strict=True))
    ]
    return mix(torch.cat(large[::-1], dim=1))


@wrong("fuse", "it got 2: concatenate the maps")
def _(maps, projections, mix):  # the sum of notebook 3's second exercise
    size = maps[0].shape[2:]
    large = [F.interpolate(p(x), size=size, mode="bilinear") for x, p in zip(maps, projections, strict=True)]
    return mix(sum(large))


@wrong("fuse", "changed in place", "mutating")
def _(maps, projections, mix):
    result = _fuse(maps, projections, mix)
    maps.reverse()
    return result


@wrong("fuse", "changed in place", "mutating")
def _(maps, projections, mix):
    for i, project in enumerate(projections):
        maps[i] = project(maps[i])
    return _fuse(maps, [lambda x: x] * len(maps), mix)


@wrong("fuse", "your code raised IndexError", "cheating")
def _(maps, projections, mix):  # exactly four maps
    return _fuse([maps[i] for i in range(4)], projections, mix)


# --- discriminative


def _terms(embeddings, instance_mask, delta_var, delta_dist, hinge=torch.square, norm=torch.linalg.vector_norm):
    for pixels, mask in zip(embeddings, instance_mask, strict=True):
        lanes = [pixels[:, mask == i] for i in mask.unique() if i != 0]
        means = [lane.mean(dim=1) for lane in lanes]
        pulls = [
            hinge((norm(lane - m[:, None], dim=0) - delta_var).clamp(min=0)).mean()
            for lane, m in zip(lanes, means, strict=True)
        ]
        pushes = [
            hinge((2 * delta_dist - norm(a - b, dim=0)).clamp(min=0)) for a, b in itertools.combinations(means, 2)
        ]
        yield pulls, pushes


def _loss(embeddings, instance_mask, delta_var, delta_dist, **how):
    images = [
        torch.stack(pulls).mean() + (torch.stack(pushes).mean() if pushes else 0)
        for pulls, pushes in _terms(embeddings, instance_mask, delta_var, delta_dist, **how)
        if pulls
    ]
    return torch.stack(images).mean() if images else 0 * embeddings.sum()


right("discriminative")(_loss)


@right("discriminative")
def _(embeddings, instance_mask, delta_var, delta_dist):  # tables instead of loops over pixels
    total, images = embeddings.sum() * 0, 0
    for pixels, mask in zip(embeddings.flatten(2), instance_mask.flatten(1), strict=True):  # (D, N), (N,)
        ids = mask[mask != 0].unique()
        if len(ids) == 0:
            continue
        member = (mask == ids[:, None]).float()  # (K, N)
        share = member / member.sum(dim=1, keepdim=True)
        means = share @ pixels.T  # (K, D)
        distance = torch.linalg.vector_norm(pixels.T[None] - means[:, None], dim=2)  # (K, N)
        total = total + (share * (distance - delta_var).relu() ** 2).sum(dim=1).mean()
        apart = torch.linalg.vector_norm(means[:, None] - means[None], dim=2)  # (K, K)
        other = 1 - torch.eye(len(ids))
        total = total + ((2 * delta_dist - apart).relu() ** 2 * other).sum() / max(len(ids) * (len(ids) - 1), 1)
        images += 1
    return total / max(images, 1)


@right("discriminative", "unusual")
def _(embeddings, instance_mask, delta_var, delta_dist):
    values = []
    for i in range(len(embeddings)):
        pulls, pushes = next(_terms(embeddings[i : i + 1], instance_mask[i : i + 1], delta_var, delta_dist))
        if pulls:
            values.append((sum(pulls) / len(pulls) + sum(pushes) / max(len(pushes), 1)).reshape(()))
    return torch.stack(values).mean() if values else embeddings.mul(0).mean()


wrong("discriminative", "squared")(lambda *a: _loss(*a, hinge=lambda x: x))
wrong("discriminative", "means 2.0 apart, 3.0 wanted")(lambda e, m, v, d: _loss(e, m, v, d - 0.2))
wrong("discriminative", "should be pushed")(lambda e, m, v, d: _loss(e, m, v, d / 2))
wrong("discriminative", "use delta_var and delta_dist as given", "cheating")(lambda e, m, v, d: _loss(e, m, 0.5, 1.5))
wrong("discriminative", "random embeddings")(lambda e, m, v, d: _loss(e, m * (m != 255), v, d))
wrong("discriminative", "cut off from the embeddings")(lambda e, m, v, d: _loss(e.detach(), m, v, d))
wrong("discriminative", "NaN gradient")(lambda *a: _loss(*a, norm=lambda x, dim: x.square().sum(dim=dim).sqrt()))
wrong("discriminative", "changed in place", "mutating")(lambda e, m, v, d: _loss(e, m.clamp_(max=100), v, d))


def _with_diagonal(embeddings, instance_mask, delta_var, delta_dist, pairs, alone):
    values = []
    for pixels, mask in zip(embeddings, instance_mask, strict=True):
        means = torch.stack([pixels[:, mask == i].mean(dim=1) for i in mask.unique() if i != 0])
        pulls, _ = next(_terms(pixels[None], mask[None], delta_var, delta_dist))
        push = (2 * delta_dist - torch.cdist(means, means)).clamp(min=0).square().sum() / pairs(len(means))
        values.append(torch.stack(pulls).mean() + (push if alone or len(means) > 1 else 0))
    return torch.stack(values).mean()


for _pairs in (lambda k: k * k, lambda k: max(k * (k - 1), 1)):
    for _alone in (True, False):
        wrong("discriminative", "a mean does not push itself")(
            lambda *a, pairs=_pairs, alone=_alone: _with_diagonal(*a, pairs, alone)
        )


def _summed(embeddings, instance_mask, delta_var, delta_dist, pull_of, push_of, image_of):
    values = [
        pull_of(pulls) + push_of(pushes)
        for pulls, pushes in _terms(embeddings, instance_mask, delta_var, delta_dist)
        if pulls or image_of == "all"
    ]
    return torch.stack(values).mean() if values else embeddings.sum() * 0


def _mean(values):
    return torch.stack(values).mean() if values else torch.zeros(())


@wrong("discriminative", "a mean over the pairs")
def _(*arguments):
    return _summed(*arguments, _mean, lambda x: sum(x) + torch.zeros(()), "with lanes")


@wrong("discriminative", "averaged over the pairs")
def _(*arguments):  # every pair twice, divided once
    return _summed(*arguments, _mean, lambda x: 2 * _mean(x), "with lanes")


@wrong("discriminative", "takes no part in the mean over images")
def _(*arguments):
    return _summed(*arguments, _mean, _mean, "all")


@wrong("discriminative", "gives NaN: there is no pair")
def _(embeddings, instance_mask, delta_var, delta_dist):
    return _summed(
        embeddings, instance_mask, delta_var, delta_dist, _mean, lambda x: torch.tensor(x).mean(), "with lanes"
    )


@wrong("discriminative", "id 0 is no lane")
def _(embeddings, instance_mask, *margins):
    return _loss(embeddings, instance_mask + 1, *margins)


@wrong("discriminative", "average within each lane first")
def _(embeddings, instance_mask, delta_var, delta_dist):
    images = []
    for pixels, mask in zip(embeddings, instance_mask, strict=True):
        lanes = [pixels[:, mask == i] for i in mask.unique() if i != 0]
        if lanes:
            offsets = [lane - lane.mean(dim=1, keepdim=True) for lane in lanes]
            distance = torch.linalg.vector_norm(torch.cat(offsets, dim=1), dim=0)
            pushes = next(_terms(pixels[None], mask[None], delta_var, delta_dist))[1]
            images.append((distance - delta_var).clamp(min=0).square().mean() + _mean(pushes))
    return torch.stack(images).mean() if images else embeddings.sum() * 0


@wrong("discriminative", "two images")
def _(embeddings, instance_mask, *margins):  # the batch taken for one wide image
    wide = torch.cat(list(embeddings), dim=2)[None]
    return _loss(wide, torch.cat(list(instance_mask), dim=1)[None], *margins)


@wrong("discriminative", "backward() fails")
def _(embeddings, instance_mask, *margins):
    return _loss(embeddings, instance_mask, *margins) if instance_mask.any() else torch.zeros(())


@wrong("discriminative", "should give a tensor")
def _(embeddings, instance_mask, *margins):
    return _loss(embeddings, instance_mask, *margins) if instance_mask.any() else 0.0


@wrong("discriminative", "its gradient is not")
def _(embeddings, instance_mask, delta_var, delta_dist):  # the push goes nowhere
    def cut(pushes):
        return _mean(pushes).detach()

    return _summed(embeddings, instance_mask, delta_var, delta_dist, _mean, cut, "with lanes")


# --- training_step


def _step(model, optimizer, criterion, batch, max_grad_norm, clip=nn.utils.clip_grad_norm_, upsample=False):
    optimizer.zero_grad()
    loss, _ = criterion(model(batch["image"], upsample=upsample), batch)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(loss.item())
    loss.backward()
    clip(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()


right("training_step")(_step)


@right("training_step")
def _(model, optimizer, criterion, batch, max_grad_norm):  # clipped by hand, zeroed by hand and twice
    for parameter in model.parameters():
        parameter.grad = None
    outputs = model(batch["image"], False)
    loss = criterion(outputs, batch)[0]
    if torch.isnan(loss) or torch.isinf(loss):
        raise FloatingPointError("not finite")
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for gradient in gradients:
        gradient.mul_(min(1.0, max_grad_norm / float(norm + 1e-6)))
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@right("training_step", "unusual")
def _(model, optimizer, criterion, batch, max_grad_norm):  # stops after backward(), before the step
    model.train()
    optimizer.zero_grad(set_to_none=False)
    loss, _parts = criterion(model(batch["image"], upsample=False), batch)
    loss.backward()
    value = loss.detach().item()
    if value != value or abs(value) == math.inf:
        raise FloatingPointError
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], max_grad_norm)
    optimizer.step()
    return value


wrong("training_step", "were not clipped")(lambda *a: _step(*a, clip=lambda parameters, norm: None))
wrong("training_step", "turns the direction")(lambda *a: _step(*a, clip=nn.utils.clip_grad_value_))
wrong("training_step", "by its own norm")(
    lambda *a: _step(*a, clip=lambda parameters, norm: [nn.utils.clip_grad_norm_([p], norm) for p in parameters])
)
wrong("training_step", "by its own norm")(
    lambda m, o, *a: _step(
        m, o, *a, clip=lambda _, n: [nn.utils.clip_grad_norm_(g["params"], n) for g in o.param_groups]
    )
)
wrong("training_step", "only a part of the parameters")(
    lambda m, o, *a: _step(m, o, *a, clip=lambda _, norm: nn.utils.clip_grad_norm_(o.param_groups[0]["params"], norm))
)
wrong("training_step", "only a part of the parameters")(
    lambda *a: _step(*a, clip=lambda parameters, norm: nn.utils.clip_grad_norm_([*parameters][1:], norm))
)
wrong("training_step", "upsample=False")(lambda *a: _step(*a, upsample=True))
wrong("training_step", "a gradient shorter than max_grad_norm")(
    lambda m, o, c, b, n: _step(m, o, c, b, 1.0)  # ignores the norm given
)


@wrong("training_step", "in evaluation mode after the first step")
def _(model, *others):
    value = _step(model, *others)
    model.eval()
    return value


def _in_order(order):
    """A step whose parts run in this order."""

    def step(model, optimizer, criterion, batch, max_grad_norm):
        for part in order:
            if part == "zero":
                optimizer.zero_grad()
            elif part == "forward":
                loss, _ = criterion(model(batch["image"], upsample=False), batch)
                if not loss.isfinite():
                    raise FloatingPointError
            elif part == "backward":
                loss.backward()
            elif part == "clip":
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            elif part == "step":
                optimizer.step()
        return loss.item()

    return step


wrong("training_step", "have not moved")(_in_order(["forward", "backward", "zero", "clip", "step"]))
wrong("training_step", "have not moved")(_in_order(["zero", "forward", "backward", "clip"]))
wrong("training_step", "were not clipped")(_in_order(["zero", "forward", "backward", "step", "clip"]))
wrong("training_step", "were not clipped")(_in_order(["zero", "clip", "forward", "backward", "step"]))
wrong("training_step", "the second step added")(_in_order(["forward", "backward", "clip", "step"]))
wrong("training_step", "zero them before backward()")(_in_order(["forward", "backward", "clip", "step", "zero"]))
wrong("training_step", "ran 2 times")(_in_order(["zero", "forward", "backward", "clip", "step", "step"]))
wrong("training_step", "before the weights moved")(
    _in_order(["zero", "forward", "backward", "clip", "step", "forward"])
)


@wrong("training_step", "the batch was changed in place", "mutating")
def _(model, optimizer, criterion, batch, max_grad_norm):
    batch["image"].clamp_(0, 1)
    return _step(model, optimizer, criterion, batch, max_grad_norm)


@wrong("training_step", "the batch was changed in place", "mutating")
def _(model, optimizer, criterion, batch, max_grad_norm):
    images = batch.pop("image")
    return _step(model, optimizer, criterion, {"image": images, **batch}, max_grad_norm)


@wrong("training_step", "keeps the graph alive")
def _(model, optimizer, criterion, batch, max_grad_norm):
    _step(model, optimizer, criterion, batch, max_grad_norm)
    return criterion(model(batch["image"], upsample=False), batch)[0]


@wrong("training_step", "moved the weights")
def _(model, optimizer, criterion, batch, max_grad_norm):
    optimizer.zero_grad()
    loss, _ = criterion(model(batch["image"], upsample=False), batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()


@wrong("training_step", "it was returned")
def _(model, optimizer, criterion, batch, max_grad_norm):
    try:
        return _step(model, optimizer, criterion, batch, max_grad_norm)
    except FloatingPointError:
        return math.nan


@wrong("training_step", "a loss of inf moved the weights")
def _(model, optimizer, criterion, batch, max_grad_norm):  # NaN only
    optimizer.zero_grad()
    loss, _ = criterion(model(batch["image"], upsample=False), batch)
    if math.isnan(loss.item()):
        raise FloatingPointError
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()


@wrong("training_step", "evaluation mode")
def _(model, *others):
    model.eval()
    return _step(model, *others)


@wrong("training_step", "step() ran 0 times", "cheating")
def _(model, optimizer, criterion, batch, max_grad_norm):  # plain gradient descent without the optimiser
    loss, _ = criterion(model(batch["image"], upsample=False), batch)
    if not loss.isfinite():
        raise FloatingPointError
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    return loss.item()


@wrong("training_step", "the criterion returns a tuple")
def _(model, optimizer, criterion, batch, max_grad_norm):
    loss = criterion(model(batch["image"], upsample=False), batch)
    loss.backward()
    return loss


@wrong("training_step", "the criterion returns a tuple")
def _(model, optimizer, criterion, batch, max_grad_norm):
    loss = criterion(model(batch["image"], upsample=False), batch)
    if not math.isfinite(loss):
        raise FloatingPointError
    loss.backward()
    return loss.item()


@wrong("training_step", "your code raised AttributeError")
def _(model, optimizer, criterion, batch, max_grad_norm):
    loss, _ = criterion(model(batch["image"], upsample=False), batch)
    return loss.backwards()


# --- separate_and_number


def _greedy(x, radius, moves=3):
    labels = np.full(len(x), -1)
    while (labels < 0).any():
        first = (labels < 0).argmax()
        center = x[first]
        for _ in range(moves + 1):
            near = (labels < 0) & (np.linalg.norm(x - center, axis=1) <= radius)
            near[first] = True
            center = x[near].mean(axis=0)
        labels[near] = labels.max() + 1
    return labels


def _at_row(rows, columns, row):
    slope, start = np.polyfit(rows, columns, 1)
    return slope * row + start


def _separate(mask, embeddings, radius, row, min_pixels, cluster=_greedy, place=_at_row, numbers=None, smallest=0):
    rows, columns = np.nonzero(mask)
    ids = np.zeros(mask.shape, dtype=np.int64)
    if len(rows) == 0:
        return ids
    labels = cluster(embeddings[:, rows, columns].T, radius)
    lanes = [labels == i for i in np.unique(labels) if i >= 0]
    lanes = [lane for lane in lanes if lane.sum() >= min_pixels + smallest]
    order = np.argsort([place(rows[lane], columns[lane], row) for lane in lanes])
    found = (np.argsort(order) if numbers is None else numbers(order)) + 1
    for lane, number in zip(lanes, found, strict=True):
        ids[rows[lane], columns[lane]] = number
    return ids


right("separate_and_number")(_separate)
right("separate_and_number")(lambda *a: _separate(*a, cluster=lambda x, r: MeanShift(bandwidth=r).fit_predict(x)))


@right("separate_and_number", "unusual")
def _(*arguments):  # rough means first, then every pixel to the nearest
    def cluster(x, radius):
        labels = _greedy(x, radius)
        names, counts = np.unique(labels, return_counts=True)
        means = np.stack([x[labels == name].mean(axis=0) for name in names[counts > len(x) / 100]])
        return cdist(x, means).argmin(axis=1)

    return _separate(*arguments, cluster=cluster).astype(np.uint16)


for _eps, _neighbours in ((1.0, 1), (1.0, 3), (0.5, 3)):
    wrong("separate_and_number", "over a bridge of stray pixels")(
        lambda *a, eps=_eps, n=_neighbours: _separate(
            *a, cluster=lambda x, r: DBSCAN(eps=eps * r, min_samples=n).fit_predict(x)
        )
    )


@wrong("separate_and_number", "over a bridge of stray pixels")
def _(mask, embeddings, radius, row, min_pixels):  # connected components of the graph of near pixels
    def cluster(x, radius):
        labels = np.arange(len(x))
        near = cdist(x, x) <= radius
        for _ in range(len(x)):
            lowest = np.where(near, labels, len(x)).min(axis=1)
            if (lowest == labels).all():
                break
            labels = lowest
        return labels

    return _separate(mask, embeddings, radius, row, min_pixels, cluster).astype(np.int32)


wrong("separate_and_number", "not around the pixel that you begin with")(
    lambda *a: _separate(*a, cluster=lambda x, r: _greedy(x, r, moves=0))
)
wrong("separate_and_number", "their mean x or the nearest")(lambda *a: _separate(*a, place=lambda y, x, row: x.mean()))
wrong("separate_and_number", "at row 36 the order is B, A, C")(
    lambda *a: _separate(*a, place=lambda y, x, row: -_at_row(y, x, row))  # from right to left
)
wrong("separate_and_number", "at row 36 the order is B, A, C")(
    lambda *a: _separate(*a, numbers=lambda order: np.arange(len(order)))  # in the order found
)
wrong("separate_and_number", "asked is which place")(lambda *a: _separate(*a, numbers=lambda order: order))
wrong("separate_and_number", "numbers begin at 1")(
    lambda *a: _separate(*a, numbers=lambda order: np.argsort(order) - 1)
)
wrong("separate_and_number", "at row 2")(lambda m, e, r, row, n: _separate(m, e, r, 36, n))
wrong("separate_and_number", "use the radius given", "cheating")(lambda m, e, r, row, n: _separate(m, e, 1.5, row, n))
wrong("separate_and_number", "fewer than min_pixels should be 0")(lambda m, e, r, row, n: _separate(m, e, r, row, 1))
wrong("separate_and_number", "exactly min_pixels stays")(lambda *a: _separate(*a, smallest=1))
wrong("separate_and_number", "should be 0, whatever")(lambda m, e, r, row, n: _separate(np.ones_like(m), e, r, row, n))


@wrong("separate_and_number", "group pixels by their embeddings")
def _(mask, embeddings, radius, row, min_pixels):  # neighbours in the image
    labels = cv2.connectedComponents(mask.astype(np.uint8))[1]
    return _separate(mask, labels[None].astype(float), 0.5, row, min_pixels)


@wrong("separate_and_number", "a gap in the numbers")
def _(mask, embeddings, radius, row, min_pixels):
    ids = _separate(mask, embeddings, radius, row, 1)
    for i in np.unique(ids):
        if (ids == i).sum() < min_pixels:
            ids[ids == i] = 0
    return ids


@wrong("separate_and_number", "should have shape (40, 50)")
def _(mask, *others):
    return _separate(mask, *others)[mask]


@wrong("separate_and_number", "whole numbers")
def _(*arguments):
    return _separate(*arguments).astype(float)


@wrong("separate_and_number", "changed in place", "mutating")
def _(mask, embeddings, *others):
    embeddings -= embeddings.mean(axis=(1, 2), keepdims=True)
    return _separate(mask, embeddings, *others)


@wrong("separate_and_number", "changed in place", "mutating")
def _(mask, *others):
    ids = _separate(mask, *others)
    mask[:] = False
    return ids


@wrong("separate_and_number", "your code raised")
def _(mask, embeddings, radius, row, min_pixels):  # an empty frame
    if not mask.any():
        return np.max(np.zeros(0))
    return _separate(mask, embeddings, radius, row, min_pixels)


# --- lane_f1


def _f1(ious, threshold=0.5, match=lambda iou: linear_sum_assignment(iou, maximize=True), above=np.greater):
    tp = fp = fn = 0
    for iou in ious:
        rows, columns = match(iou)
        hits = int(above(iou[rows, columns], threshold).sum())
        tp, fp, fn = tp + hits, fp + iou.shape[0] - hits, fn + iou.shape[1] - hits
    return 2 * tp / max(2 * tp + fp + fn, 1)


right("lane_f1")(_f1)
right("lane_f1")(lambda *a: np.float64(_f1(*a, match=lambda iou: linear_sum_assignment(-iou))))


@right("lane_f1", "unusual")
def _(ious, threshold=0.5):  # all ways to match, without SciPy
    def best(iou):
        iou = iou if iou.shape[0] >= iou.shape[1] else iou.T
        ways = itertools.permutations(range(iou.shape[0]), iou.shape[1])
        rows = list(max(ways, key=lambda way: iou[list(way), range(iou.shape[1])].sum()))
        return int((iou[rows, range(iou.shape[1])] > threshold).sum())

    tp = sum(best(iou) for iou in ious)
    predictions, lanes = (sum(iou.shape[axis] for iou in ious) for axis in (0, 1))
    if tp == 0:
        return 0.0
    precision, recall = tp / predictions, tp / lanes
    return 2 * precision * recall / (precision + recall)


def _greedily(iou):
    left, pairs = iou.copy(), []
    while left.size and left.max() > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        pairs.append((row, column))
        left[row], left[:, column] = -1, -1
    return tuple(np.array(pairs, dtype=int).reshape(-1, 2).T)


wrong("lane_f1", "taking the best pair first")(lambda *a: _f1(*a, match=_greedily))
wrong("lane_f1", "equal to the threshold")(lambda *a: _f1(*a, above=np.greater_equal))
wrong("lane_f1", "the threshold should be the one given", "cheating")(lambda ious, threshold=0.5: _f1(ious))
wrong("lane_f1", "a pair below the threshold is no match")(lambda ious, threshold=0.5: _f1(ious, 0.0))
wrong("lane_f1", "one match")(lambda *a: _f1(*a, match=linear_sum_assignment))  # the smallest sum
wrong("lane_f1", "the mean of the images' scores")(lambda ious, t=0.5: np.mean([_f1([iou], t) for iou in ious]))
wrong("lane_f1", "should be one number")(lambda ious, t=0.5: [_f1([iou], t) for iou in ious])
wrong("lane_f1", "the mean of the images' scores")(
    lambda ious, t=0.5: float(np.mean([_f1([iou], t) for iou in ious if iou.size]) if ious[0].size else 0)
)


@wrong("lane_f1", "that is precision")
def _(ious, threshold=0.5):
    tp = sum(int((iou[linear_sum_assignment(iou, maximize=True)] > threshold).sum()) for iou in ious)
    return tp / max(sum(len(iou) for iou in ious), 1)


@wrong("lane_f1", "cannot both find one lane")
def _(ious, threshold=0.5):  # every prediction takes its best lane
    tp = sum(int((iou.max(axis=1, initial=0) > threshold).sum()) for iou in ious)
    return 2 * tp / max(sum(sum(iou.shape) for iou in ious), 1)


@wrong("lane_f1", "cannot find two lanes")
def _(ious, threshold=0.5):  # every lane takes its best prediction
    tp = sum(int((iou.max(axis=0, initial=0) > threshold).sum()) for iou in ious)
    return 2 * tp / max(sum(sum(iou.shape) for iou in ious), 1)


@wrong("lane_f1", "should give 0.0, not an error")
def _(ious, threshold=0.5):
    tp = sum(int((iou[linear_sum_assignment(iou, maximize=True)] > threshold).sum()) for iou in ious)
    return 2 * tp / sum(sum(iou.shape) for iou in ious)


@wrong("lane_f1", "changed in place", "mutating")
def _(ious, threshold=0.5):
    found = _f1(ious, threshold)
    for iou in ious:
        iou[iou <= threshold] = 0
    return found


wrong("lane_f1", "match first, compare with the threshold after")(
    lambda ious, threshold=0.5: _f1([np.where(iou > threshold, iou, 0) for iou in ious], threshold)
)
wrong("lane_f1", "match first, compare with the threshold after")(
    lambda ious, threshold=0.5: _f1([(iou > threshold).astype(float) for iou in ious])
)


@wrong("lane_f1", "without a prediction all lanes are missed")
def _(ious, threshold=0.5):
    return _f1([iou for iou in ious if len(iou)], threshold)


@wrong("lane_f1", "without a lane all predictions are false")
def _(ious, threshold=0.5):
    return _f1([iou for iou in ious if iou.shape[1]], threshold)


@wrong("lane_f1", "that is TP / (TP + FP + FN)")
def _(ious, threshold=0.5):
    f1 = _f1(ious, threshold)
    return f1 / (2 - f1)
