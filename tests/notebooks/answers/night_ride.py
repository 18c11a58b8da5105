"""Answers to the exercises of elective 3."""

import itertools
import math

import numpy as np
import torch

from answers._register import right, wrong

# --- E3_all_boundary


@right("E3_all_boundary")
def _(height, width, ratio):
    return 2 * max(1, round(ratio * math.hypot(height, width)))


@right("E3_all_boundary")
def _(height, width, ratio):
    band = round(ratio * (height**2 + width**2) ** 0.5)
    return 2 * band if band > 1 else 2


@right("E3_all_boundary", "unusual")
def _(height, width, ratio):
    return torch.tensor(2.0) * max(1.0, np.rint(np.linalg.norm([height, width]) * ratio))


@right("E3_all_boundary", "unusual")
def _(height, width, ratio):
    return np.maximum(2, 2 * int(ratio * abs(complex(height, width)) + 0.5))


wrong("E3_all_boundary", "a marking has two edges")(lambda h, w, ratio: max(1, round(ratio * math.hypot(h, w))))
wrong("E3_all_boundary", "grows from both")(lambda h, w, ratio: 1 + max(1, round(ratio * math.hypot(h, w))))
wrong("E3_all_boundary", "not of the width")(lambda h, w, ratio: 2 * max(1, round(ratio * w)))
wrong("E3_all_boundary", "not of the height")(lambda h, w, ratio: 2 * max(1, round(ratio * h)))
wrong("E3_all_boundary", "root of the area")(lambda h, w, ratio: 2 * max(1, round(ratio * math.sqrt(h * w))))
wrong("E3_all_boundary", "round it before doubling")(lambda h, w, ratio: 2 * ratio * math.hypot(h, w))
wrong("E3_all_boundary", "round it before doubling")(lambda h, w, ratio: max(2, round(2 * ratio * math.hypot(h, w))))
wrong("E3_all_boundary", "at least 1 px")(lambda h, w, ratio: 2 * round(ratio * math.hypot(h, w)))
wrong("E3_all_boundary", "one number")(lambda h, w, ratio: (2, round(ratio * math.hypot(h, w))))
wrong("E3_all_boundary", "the band is 29 px wide")(lambda h, w, ratio: 2 * math.ceil(ratio * math.hypot(h, w)))
wrong("E3_all_boundary", "right for some sizes")(lambda h, w, ratio: 2 * max(1, int(ratio * math.hypot(h, w))))
wrong("E3_all_boundary", "right for some sizes", "cheating")(
    lambda h, w, ratio: {(720, 0.02): 58, (720, 0.005): 14, (480, 0.005): 6, (48, 0.005): 2}.get((h, ratio), 12)
)

# --- E3_move_paint


@right("E3_move_paint")
def _(points, vanishing, foot, place):
    vx, vy = vanishing
    s = (place[1] - vy) / (foot[1] - vy)
    a = (place[0] - vx - s * (foot[0] - vx)) / (foot[1] - vy)
    x, y = points[:, 0] - vx, points[:, 1] - vy
    return np.stack([vx + s * x + a * y, vy + s * y], axis=1)


@right("E3_move_paint")
def _(points, vanishing, foot, place):
    v, f, p = (np.array(point) for point in (vanishing, foot, place))
    s = (p - v)[1] / (f - v)[1]
    a = ((p - v)[0] - s * (f - v)[0]) / (f - v)[1]
    return (points - v) @ np.array([[s, 0], [a, s]]) + v


@right("E3_move_paint", "unusual")
def _(points, vanishing, foot, place):
    """Three pairs of points decide the affine map: the vanishing point, the foot, and one level with the foot."""
    s = (place[1] - vanishing[1]) / (foot[1] - vanishing[1])
    before = np.array([[*vanishing, 1], [*foot, 1], [foot[0] + 1, foot[1], 1]])
    after = np.array([vanishing, place, (place[0] + s, place[1])])
    return np.column_stack([points, np.ones(len(points))]) @ np.linalg.solve(before, after)


@right("E3_move_paint", "unusual")
def _(points, vanishing, foot, place):
    s = (place[1] - vanishing[1]) / (foot[1] - vanishing[1])
    found = []
    for x, y in torch.from_numpy(np.array(points)):
        depth = (y - vanishing[1]) / (foot[1] - vanishing[1])
        middle_before, middle_after = (vanishing[0] + depth * (end[0] - vanishing[0]) for end in (foot, place))
        # Scaled about the vanishing point, then moved aside as far as the foot is, by depth.
        aside = (place[0] - vanishing[0]) - s * (foot[0] - vanishing[0])
        assert middle_before is not middle_after
        found.append(
            torch.stack([vanishing[0] + s * (x - vanishing[0]) + depth * aside, vanishing[1] + s * (y - vanishing[1])])
        )
    return torch.stack(found)


def _scaled(points, about, foot, place, vanishing):
    s = (place[1] - vanishing[1]) / (foot[1] - vanishing[1])
    return np.array(about) + s * (points - np.array(about))


wrong("E3_move_paint", "only shifted: what lies farther")(
    lambda points, v, foot, place: points + np.subtract(place, foot)
)
wrong("E3_move_paint", "aside, the points were only shifted")(
    lambda points, v, foot, place: _scaled(points, foot, foot, place, v) + np.subtract(place, foot)
)
wrong("E3_move_paint", "80 px aside at the foot")(lambda points, v, foot, place: _scaled(points, v, foot, place, v))
wrong("E3_move_paint", "the foot should arrive")(lambda points, v, foot, place: points + 0.5 * np.subtract(place, foot))
wrong("E3_move_paint", "shape (3, 2)")(lambda points, v, foot, place: _scaled(points, v, foot, place, v).T)
wrong("E3_move_paint", "shape (3, 2)")(lambda points, v, foot, place: np.array(place))
wrong("E3_move_paint", "relative to the vanishing point")(
    lambda points, v, foot, place: _scaled(points, v, foot, place, v) - np.array(v)
)
wrong("E3_move_paint", "in this order")(lambda points, v, foot, place: _scaled(points, v, foot, place, v)[:, ::-1])
wrong("E3_move_paint", "stay where it is")(
    lambda points, v, foot, place: np.array(v) + (foot[1] - v[1]) / v[1] * (points - np.array(v))
)
wrong("E3_move_paint", "the foot should arrive")(
    lambda points, v, foot, place: np.array(v) + (foot[1] - v[1]) / (place[1] - v[1]) * (points - np.array(v))
)


@wrong("E3_move_paint", "was changed in place", "mutating")
def _(points, vanishing, foot, place):
    points -= vanishing
    s = (place[1] - vanishing[1]) / (foot[1] - vanishing[1])
    a = (place[0] - vanishing[0] - s * (foot[0] - vanishing[0])) / (foot[1] - vanishing[1])
    return points @ np.array([[s, 0], [a, s]]) + vanishing


@wrong("E3_move_paint", "wrong for nine", "cheating")
def _(points, vanishing, foot, place):
    s = (place[1] - 30) / (foot[1] - 30)
    a = (place[0] - 100 - s * (foot[0] - 100)) / (foot[1] - 30)
    return (points - (100, 30)) @ np.array([[s, 0], [a, s]]) + (100, 30)


# --- E3_false_road


@right("E3_false_road")
def _(prediction, target, ahead, edges):
    shares = []
    for near, far in itertools.pairwise(edges):
        here = (target == 0) & (ahead >= near) & (ahead < far)
        shares.append(np.isin(prediction[here], (1, 2)).mean() if here.any() else np.nan)
    return shares


@right("E3_false_road")
def _(prediction, target, ahead, edges):
    here = target == 0
    total = np.histogram(ahead[here & (ahead < edges[-1])], edges)[0]
    taken = here & ((prediction == 1) | (prediction == 2)) & (ahead < edges[-1])
    return np.histogram(ahead[taken], edges)[0] / total


@right("E3_false_road", "unusual")
def _(prediction, target, ahead, edges):
    bins = np.where(np.isnan(ahead), 0, np.searchsorted(edges, ahead, side="right"))
    weights = np.isin(prediction, [1, 2])[target == 0]
    counted = bins[target == 0]
    count = len(edges) + 1
    return (np.bincount(counted, weights, count) / np.bincount(counted, minlength=count))[1 : len(edges)]


@right("E3_false_road", "unusual")
def _(prediction, target, ahead, edges):
    ground, road = torch.from_numpy(target) == 0, torch.from_numpy((prediction > 0) & (prediction < 3))
    place = torch.from_numpy(ahead)
    inside = [(place >= a) & (place < b) & ground for a, b in itertools.pairwise(edges)]
    return torch.stack([(road & part).sum() / part.sum() for part in inside])


def _false_road(called=(1, 2), true=(0,), whole="bin", last=False, side="left"):
    def answer(prediction, target, ahead, edges):
        shares = []
        for near, far in itertools.pairwise(edges):
            inside = (ahead > near) & (ahead <= far) if side == "right" else (ahead >= near) & (ahead < far)
            if last and far == edges[-1]:
                inside |= ahead == far
            here = inside & np.isin(target, true)
            taken = (here & np.isin(prediction, called)).sum()
            whole_of = {
                "bin": here.sum(),
                "all": (target == 0).sum(),
                "pixels": inside.sum(),
                "one": 1,
                "road": (inside & np.isin(prediction, called)).sum(),
            }
            shares.append(taken / whole_of[whole] if whole_of[whole] else np.nan)
        return np.array(shares)

    return answer


wrong("E3_false_road", "not by all of them")(_false_road(whole="all"))
wrong("E3_false_road", "all pixels of the bin")(_false_road(whole="pixels"))
wrong("E3_false_road", "numbers of pixels")(_false_road(whole="one"))
wrong("E3_false_road", "between 0 and 1")(lambda *given: 100 * _false_road()(*given))
wrong("E3_false_road", "255 has no label")(_false_road(true=(0, 255)))
wrong("E3_false_road", "not all pixels")(_false_road(true=range(256)))
wrong("E3_false_road", "exchanged")(
    lambda prediction, target, ahead, edges: _false_road()(target, prediction, ahead, edges)
)
wrong("E3_false_road", "order of the bins")(lambda *given: _false_road()(*given)[::-1])
wrong("E3_false_road", "at its lower edge")(
    lambda prediction, target, ahead, edges: [
        np.isin(prediction[(target == 0) & (ahead < far)], (1, 2)).mean() for far in edges[1:]
    ]
)
wrong("E3_false_road", "lane mark is taken for road")(_false_road(called=(1,)))
wrong("E3_false_road", "called moveable is not")(_false_road(called=(1, 2, 3)))
wrong("E3_false_road", "not those of vehicles")(_false_road(true=(0, 1, 3)))
wrong("E3_false_road", "divide by the undrivable ones")(_false_road(whole="road"))
wrong("E3_false_road", "belongs to the farther one")(_false_road(side="right"))
wrong("E3_false_road", "nor is one at the last edge")(_false_road(last=True))
wrong("E3_false_road", "has no share: NaN")(lambda *given: np.nan_to_num(_false_road()(*given)))
wrong("E3_false_road", "see the shape")(
    lambda prediction, target, ahead, edges: np.isin(prediction[target == 0], (1, 2)).mean()
)
wrong("E3_false_road", "divides by zero")(
    lambda prediction, target, ahead, edges: [
        int((np.isin(prediction, (1, 2)) & here).sum()) / int(here.sum())
        for here in ((target == 0) & (ahead >= a) & (ahead < b) for a, b in itertools.pairwise(edges))
    ]
)


@wrong("E3_false_road", "was changed in place", "mutating")
def _(prediction, target, ahead, edges):
    ahead[target != 0] = np.nan
    return _false_road()(prediction, target, ahead, edges)


@wrong("E3_false_road", "wrong for four", "cheating")
def _(prediction, target, ahead, edges):
    return _false_road()(prediction, target, ahead, edges) if len(edges) == 3 else np.zeros(len(edges) - 1)


# --- E3_grad_cam


@right("E3_grad_cam")
def _(features, gradients):
    weights = gradients.mean(dim=(1, 2), keepdim=True)
    cam = (weights * features).sum(dim=0).relu()
    return cam / cam.max().clamp(min=1e-12)


@right("E3_grad_cam")
def _(features, gradients):
    cam = torch.zeros(features.shape[1:])
    for channel, gradient in zip(features, gradients, strict=True):
        cam = cam + gradient.mean() * channel
    cam[cam < 0] = 0
    return cam / cam.max() if cam.max() > 0 else cam


@right("E3_grad_cam", "unusual")
def _(features, gradients):
    cam = torch.einsum("k,khw->hw", gradients.flatten(1).mean(dim=1), features).clamp(min=0)
    return torch.nan_to_num(cam / cam.amax())


@right("E3_grad_cam", "unusual")
def _(features, gradients):
    """The sum in place of the mean: the scale drops out."""
    cam = np.maximum(np.tensordot(gradients.numpy().sum(axis=(1, 2)), features.numpy(), 1), 0)
    return torch.from_numpy(cam / max(cam.max(), 1e-30))


def _cam(weigh=None, last=None):
    def answer(features, gradients):
        weights = gradients.mean(dim=(1, 2), keepdim=True) if weigh is None else weigh(gradients)
        cam = (weights * features).sum(dim=0)
        return cam.relu() / cam.relu().max().clamp(min=1e-12) if last is None else last(cam)

    return answer


wrong("E3_grad_cam", "negative sums become 0, then")(_cam(last=lambda cam: cam))
wrong("E3_grad_cam", "the last step is missing")(_cam(last=lambda cam: cam.relu()))
wrong("E3_grad_cam", "negative sums should become 0")(_cam(last=lambda cam: cam / cam.max()))
wrong("E3_grad_cam", "weighed by its own gradient")(_cam(weigh=lambda gradients: gradients))
wrong("E3_grad_cam", "the gradients take no part")(_cam(weigh=lambda gradients: torch.ones_like(gradients)))
wrong("E3_grad_cam", "against the class")(_cam(weigh=lambda gradients: gradients.abs().mean(dim=(1, 2), keepdim=True)))
wrong("E3_grad_cam", "against the class")(_cam(weigh=lambda gradients: gradients.mean(dim=(1, 2), keepdim=True).abs()))
wrong("E3_grad_cam", "the smallest is not subtracted")(
    _cam(last=lambda cam: (cam.relu() - cam.relu().min()) / (cam.relu().max() - cam.relu().min()).clamp(min=1e-12))
)
wrong("E3_grad_cam", "they lower the class")(_cam(last=lambda cam: cam.abs() / cam.abs().max()))
wrong("E3_grad_cam", "should have shape (2, 2)")(_cam(last=lambda cam: cam.relu()[None]))
wrong("E3_grad_cam", "NaN")(
    lambda features, gradients: (
        (cam := (gradients.mean(dim=(1, 2), keepdim=True) * features).sum(dim=0).relu()) / cam.max()
    )
)
wrong("E3_grad_cam", "after the channels are added")(
    lambda features, gradients: (
        (cam := (gradients.mean(dim=(1, 2), keepdim=True) * features).relu().sum(dim=0)) / cam.max()
    )
)


@wrong("E3_grad_cam", "was changed in place", "mutating")
def _(features, gradients):
    features *= gradients.mean(dim=(1, 2), keepdim=True)
    cam = features.sum(dim=0).relu()
    return cam / cam.max().clamp(min=1e-12)


@wrong("E3_grad_cam", "wrong for seven", "cheating")
def _(features, gradients):
    return _cam()(features[:2], gradients[:2])
