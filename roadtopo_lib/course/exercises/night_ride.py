"""Exercises of elective 3: the band of Boundary IoU, a place on the road, false road by distance, Grad-CAM."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.course.exercises._base import (
    Hint,
    exercise,
    expect,
    expect_close,
    expect_tensor,
    expect_written,
    is_close,
    number,
)
from roadtopo_lib.metrics import boundary_band


@exercise("E3_all_boundary")
def all_boundary(answer: Callable) -> None:
    def width(height: int, columns: int, ratio: float) -> float:
        return number(answer(height, columns, ratio))

    value = width(720, 1280, 0.02)
    band = boundary_band(720, 1280, 0.02)
    expect(value != band, f"{band} px is the band: a marking has two edges")
    expect(value != band + 1, "a marking has two edges, and the band grows from both")
    doubled = 2 * 0.02 * math.hypot(720, 1280)
    expect(value not in (doubled, round(doubled)), "the band is a whole number of pixels: round it before doubling")
    expect(value != 2 * round(0.02 * 1280), "the ratio is of the diagonal, not of the width")
    expect(value != 2 * round(0.02 * 720), "the ratio is of the diagonal, not of the height")
    expect(
        value != 2 * round(0.02 * math.sqrt(720 * 1280)), "the ratio is of the diagonal, not of the root of the area"
    )
    expect_close(value, 2 * band, "720 × 1280 at 0.02: the band is 29 px wide")
    expect_close(width(720, 1280, 0.005), 14, "720 × 1280 at 0.005: the band is 7 px wide")
    expect_close(width(480, 480, 0.005), 6, "480 × 480 at 0.005: 3.39 px are rounded to 3")
    expect_close(width(48, 64, 0.005), 2, "in a small image the band is at least 1 px wide")
    for size in ((256, 512), (1080, 1920), (375, 1242), (101, 57)):
        for ratio in (0.02, 0.005, 0.01):
            truth = 2 * boundary_band(*size, ratio)
            hint = f"right for some sizes; wrong for {size[0]} × {size[1]} at {ratio}"
            expect_close(width(*size, ratio), truth, hint)


@exercise("E3_move_paint", keeps=("points",))
def move_paint(answer: Callable) -> None:
    def moved(points: list, vanishing: tuple, foot: tuple, place: tuple) -> np.ndarray:
        found = answer(np.array(points, float), vanishing, foot, place)
        expect_written(found)
        found = found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)
        expect(found.shape == np.shape(points), f"the result should have shape {np.shape(points)}, has {found.shape}")
        return found.astype(float)

    vanishing, foot = (100.0, 30.0), (60.0, 110.0)
    dash = [foot, (80.0, 70.0), (70.0, 90.0)]  # on a line through the vanishing point
    near = moved(dash, vanishing, foot, (60.0, 110.0))
    expect(not is_close(near[:, ::-1], dash), "each point of the result should be (x, y), in this order")
    expect(not is_close(near, np.subtract(dash, vanishing)), "the result is relative to the vanishing point: add it")
    expect_close(near, dash, "here the place is the foot itself, so every point should stay where it is")
    ahead = moved(dash, vanishing, foot, (80.0, 70.0))  # half as far below the vanishing point, on the same line
    truth = [(80, 70), (90, 50), (85, 60)]
    shifted = np.add(dash, (20.0, -40.0))
    expect(not is_close(ahead, shifted), "the points were only shifted: what lies farther away is smaller, too")
    expect_close(ahead[0], (80, 70), "the foot should arrive at the place")
    expect_close(ahead, truth, "half as far below the vanishing point everything is half as large")
    aside = moved(dash, vanishing, foot, (140.0, 110.0))  # the same row, 80 px to the right
    expect(
        not is_close(aside, np.add(dash, (80.0, 0.0))),
        "aside, the points were only shifted: on the road all lines along it meet in the vanishing point",
    )
    expect_close(aside, [(140, 110), (120, 70), (130, 90)], "80 px aside at the foot, half of that half way up")
    both = moved(dash, vanishing, foot, (130.0, 70.0))
    expect_close(both[0], (130, 70), "ahead and aside at once: the foot should arrive at the place")
    expect_close(both, [(130, 70), (115, 50), (122.5, 60)], "ahead and aside at once")
    rng = np.random.default_rng(0)
    points, vanishing, foot, place = rng.uniform(50, 90, (9, 2)), (71.0, 22.0), (55.0, 80.0), (90.0, 64.0)
    s = (64 - 22) / (80 - 22)
    a = (90 - 71 - s * (55 - 71)) / (80 - 22)
    x, y = (points - vanishing).T
    truth = np.stack([71 + s * x + a * y, 22 + s * y], axis=1)
    hint = "right for three points, wrong for nine with another vanishing point"
    expect_close(moved(points.tolist(), vanishing, foot, place), truth, hint)


@exercise("E3_false_road", keeps=("prediction", "target", "ahead", "edges"))
def false_road(answer: Callable) -> None:
    def shares(prediction: object, target: object, ahead: object, edges: list[float]) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):
                found = answer(np.array(prediction), np.array(target), np.array(ahead, float), np.array(edges, float))
        except ZeroDivisionError:
            raise Hint("a bin without undrivable pixels divides by zero: its share is NaN") from None
        expect_written(found)
        expect(np.shape(found) == (len(edges) - 1,), f"{len(edges)} edges make {len(edges) - 1} bins, see the shape")
        return np.asarray(found, float)

    # 0 undrivable, 1 road, 2 lane mark, 3 moveable, 255 unlabelled; each wrong way gives shares of its own
    target = [[0, 1, 1, 0, 0], [0, 255, 1, 0, 3], [1, 1, 255, 3, 0]]
    prediction = [[2, 0, 0, 1, 0], [2, 3, 2, 3, 3], [1, 1, 1, 0, 1]]
    ahead = [[25.0] * 5, [12.0] * 5, [5.0, 5.0, 5.0, 5.0, np.inf]]
    found = shares(prediction, target, ahead, [10, 20, 30])
    expect(not is_close(found, [1, 2]), "these are numbers of pixels: divide by the undrivable ones of the bin")
    expect(not is_close(found, [50, 200 / 3]), "a share lies between 0 and 1")
    expect(not is_close(found, [1 / 6, 2 / 6]), "each bin is divided by its own undrivable pixels, not by all of them")
    expect(not is_close(found, [1 / 5, 2 / 5]), "divided by all pixels of the bin: divide by the undrivable ones")
    expect(not is_close(found, [0, 1 / 3]), "a pixel called lane mark is taken for road, too")
    expect(not is_close(found, [1, 2 / 3]), "a pixel called moveable is not taken for road")
    expect(not is_close(found, [1 / 3, 2 / 3]), "a pixel of 255 has no label: it is not undrivable")
    expect(not is_close(found, [2 / 4, 2 / 5]), "only undrivable pixels are counted: not those of vehicles or road")
    expect(not is_close(found, [2 / 5, 2 / 5]), "only undrivable pixels are counted, not all pixels")
    expect(not is_close(found, [1 / 2, 1]), "divided by the pixels called road: divide by the undrivable ones")
    expect(not is_close(found, [1 / 2, 3 / 5]), "a bin begins at its lower edge, not at zero")
    expect(not is_close(found, [np.nan, 2 / 3]), "prediction and target are exchanged")
    expect(not is_close(found, [2 / 3, 1 / 2]), "the order of the bins is that of the edges")
    expect_close(found, [1 / 2, 2 / 3], "two bins, 10 to 20 m and 20 to 30 m, with two and three undrivable pixels")
    found = shares(prediction, target, ahead, [0, 10, 20])
    expect(np.isnan(found[0]), "a bin without undrivable pixels has no share: NaN")
    found = shares(prediction, target, ahead, [12, 25, 40])
    expect_close(found, [1 / 2, 2 / 3], "a pixel on the edge between two bins belongs to the farther one")
    found = shares(prediction, target, ahead, [13, 20, 25])
    expect(bool(np.isnan(found).all()), "a pixel outside of all bins is not counted, nor is one at the last edge")
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 6, (2, 40, 50))
    ahead, edges = rng.uniform(0, 70, (40, 50)), [3, 8, 15, 30, 60]
    bins = [(target == 0) & (ahead >= near) & (ahead < far) for near, far in itertools.pairwise(edges)]
    truth = [np.isin(prediction[inside], (1, 2)).mean() for inside in bins]
    expect_close(shares(prediction, target, ahead, edges), truth, "right for two bins, wrong for four")


@exercise("E3_grad_cam", keeps=("features", "gradients"))
def grad_cam(answer: Callable) -> None:
    def cam(features: Tensor, gradients: Tensor) -> Tensor:
        found = answer(features.clone(), gradients.clone())
        expect_tensor(found, tuple(features.shape[1:]))
        expect(not bool(found.isnan().any()), "there is a NaN: where no channel raises the class the map is zero")
        return found

    features = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 1.0], [4.0, 0.0]]])  # (2, 2, 2)
    gradients = torch.tensor([[[3.0, -1.0], [0.0, 2.0]], [[-2.0, 0.0], [-1.0, 1.0]]])  # means 1 and -0.5
    value = cam(features, gradients)
    raw = torch.tensor([[1.0, 1.5], [-2.0, 0.0]])
    expect(not is_close(value, raw), "negative sums become 0, then the map is divided by its largest value")
    expect(not is_close(value, raw.relu()), "the last step is missing: divide by the largest value")
    expect(not is_close(value, raw / 1.5), "negative sums should become 0")
    local = (features * gradients).sum(dim=0).relu()
    expect(
        not is_close(value, local / local.max()),
        "each place was weighed by its own gradient: a channel has one weight, the mean of its gradients",
    )
    plain = features.sum(dim=0)
    expect(not is_close(value, plain / plain.max()), "the gradients take no part")
    for sizes in (gradients.abs().mean(dim=(1, 2)), gradients.mean(dim=(1, 2)).abs()):
        unsigned = (sizes[:, None, None] * features).sum(dim=0)
        expect(not is_close(value, unsigned / unsigned.max()), "a negative mean gradient counts against the class")
    positive = (features * gradients.mean(dim=(1, 2), keepdim=True)).relu().sum(dim=0)
    expect(not is_close(value, positive / positive.max()), "negative values become 0 after the channels are added")
    expect(not is_close(value, raw.abs() / 2), "negative sums become 0: they lower the class")
    expect_close(value, raw.relu() / 1.5, "two channels with the mean gradients 1 and −0.5")
    zero = cam(features, -gradients.abs() - 1)
    expect_close(zero, torch.zeros(2, 2), "where no channel raises the class the map is zero everywhere")
    warm = cam(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.ones(1, 2, 2))
    expect_close(warm, [[0.25, 0.5], [0.75, 1.0]], "divide by the largest value; the smallest is not subtracted")
    rng = torch.Generator().manual_seed(0)
    features, gradients = torch.randn(7, 5, 6, generator=rng), torch.randn(7, 5, 6, generator=rng)
    truth = (gradients.mean(dim=(1, 2))[:, None, None] * features).sum(dim=0).relu()
    expect_close(cam(features, gradients), truth / truth.max(), "right for two channels, wrong for seven")
