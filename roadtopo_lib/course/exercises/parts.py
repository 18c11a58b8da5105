"""The parts of the learner's detector that are the last exercise of notebooks 2, 3, 6 and 7."""

import math
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadtopo_lib.course.exercises._base import (
    exercise,
    expect,
    expect_close,
    expect_tensor,
    expect_written,
    explained,
)
from roadtopo_lib.labels import IGNORE_INDEX, LANE_MARKING


@exercise("read_labelled")
def read_labelled(answer) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    instance = rng.integers(0, 4, (6, 9)).astype(np.uint16)
    instance[5, 5:] = 255, 256, 300, 65535
    instance[0, :3] = 0
    semantic = np.where(instance > 0, LANE_MARKING, rng.integers(0, 2, (6, 9))).astype(np.uint8)
    semantic[0, :3] = IGNORE_INDEX
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.png") for name in ("image", "semantic", "instance")]
        cv2.imwrite(paths[0], image[..., ::-1])  # OpenCV writes blue first
        cv2.imwrite(paths[1], semantic)
        cv2.imwrite(paths[2], instance)
        found = answer(*paths)
        expect_written(found)
        expect(isinstance(found, (tuple, list)) and len(found) == 3, "the result should be (image, semantic, instance)")
        shapes = ((6, 9, 3), (6, 9), (6, 9))
        for name, value, shape in zip(("image", "semantic", "instance"), found, shapes, strict=True):
            expect(isinstance(value, np.ndarray), f"{name} should be a NumPy array, it is a {type(value).__name__}")
            expect(value.shape == shape, f"{name} should have shape {shape}, it has {value.shape}")
        _expect_sample(found, (image, semantic, instance))
        small = instance % 4  # the same file name, other content: eight bits
        cv2.imwrite(paths[2], small.astype(np.uint8))
        cv2.imwrite(paths[0], 255 - image[..., ::-1])
        _expect_sample(answer(*paths), (255 - image, semantic, small))
        _expect_missing_files_named(answer, paths)


def _expect_missing_files_named(answer, paths: list[str]) -> None:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # OpenCV writes a warning for each missing file
    try:
        for missing, kind in enumerate(("image", "semantic mask", "instance mask")):
            broken = [f"{path}.nowhere" if place == missing else path for place, path in enumerate(paths)]
            hint = f"a missing {kind} should raise FileNotFoundError, %s: cv2.imread gives None for it"
            try:
                answer(*broken)
            except FileNotFoundError:
                continue
            except Exception as error:
                expect(False, hint % f"it raised {type(error).__name__}")
            expect(False, hint % "nothing was raised")
    finally:
        cv2.utils.logging.setLogLevel(level)


def _expect_sample(found, truth) -> None:
    image, semantic, instance = found
    expect(image.dtype == np.uint8, f"the image should be uint8, it is {image.dtype}")
    expect(not np.array_equal(image[..., ::-1], truth[0]), "red and blue are swapped: cv2.imread gives blue first")
    expect(np.array_equal(image, truth[0]), "the image's values are not those of the file")
    for mask, name in ((semantic, "semantic"), (instance, "instance")):
        expect(mask.dtype.kind in "iu", f"the {name} mask should hold whole numbers, it is {mask.dtype}")
    expect(np.array_equal(semantic, truth[1]), "the semantic mask's values are not those of the file, 255 included")
    expect(
        not np.array_equal(instance, truth[2] // 256),
        "every id below 256 became 0: the mask has 16 bits, and was read as 8-bit grey",
    )
    cut = truth[2].max() > 255 and np.array_equal(instance, truth[2] % 256)
    expect(not cut, "ids above 255 were cut to 8 bits: keep the type that was read")
    expect(np.array_equal(instance, truth[2]), "the instance mask's ids are not those of the file")


@exercise("fuse")
def fuse(answer) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths, sizes = (3, 4, 5, 6), ((5, 7), (3, 4), (2, 2), (1, 1))
        maps = [torch.randn(2, c, *size) for c, size in zip(widths, sizes, strict=True)]
        projections = [nn.Conv2d(c, 2, 1) for c in widths]
        mixed = nn.Sequential(nn.Conv2d(8, 3, 1), nn.ReLU())
        large = [nn.Conv2d(c, 3, 1) for c in widths[:2]]  # two maps, other sizes
        pair = [torch.randn(1, 3, 4, 6), torch.randn(1, 4, 2, 3)]
    given, before = list(maps), [x.clone() for x in maps]

    def mix(wide: Tensor) -> Tensor:
        got = f"mix should get the 4 · 2 = 8 channels of all four maps, it got {wide.shape[1]}"
        expect(wide.shape[1] == 8, f"{got}: concatenate the maps, torch.cat(…, dim=1), do not add them")
        return mixed(wide)

    hint = "the maps differ in size: upsample each to the first map's size, not by a factor"
    with explained(("cat", "concat", "concatenate", "hstack", "stack", "add", "__add__"), hint):
        found = answer(given, list(projections), mix)
    expect_written(found)
    wide = [p(x) for p, x in zip(projections, maps, strict=True)]

    def fused(order: int = -1, mode: str = "bilinear", align: bool | None = False) -> Tensor:
        resized = [F.interpolate(x, size=sizes[0], mode=mode, align_corners=align) for x in wide]
        return torch.cat(resized[::order], dim=1)

    expect(isinstance(found, Tensor), f"the result should be a tensor, it is a {type(found).__name__}")
    unmixed = tuple(found.shape) == (2, 8, 5, 7) and torch.allclose(found, fused(), atol=1e-5)
    expect(not unmixed, "the wide tensor comes out as it is: mix should be called on it")
    expect_tensor(found, (2, 3, 5, 7))
    expect(
        len(given) == 4 and all(x is y and torch.equal(x, z) for x, y, z in zip(given, maps, before, strict=True)),
        "the list of maps was changed in place: the next head reads it, too",
    )
    expect(
        not torch.allclose(found, mix(fused(order=1)), atol=1e-5),
        "the maps are concatenated first to last; the mixing weights expect the last (smallest) map first",
    )
    expect(
        not torch.allclose(found, mix(fused(mode="nearest", align=None)), atol=1e-5),
        "the small maps are upsampled in steps (nearest); bilinear is asked for",
    )
    expect(
        not torch.allclose(found, mix(fused(align=True)), atol=1e-5),
        "align_corners=True shifts the pixels towards the edges; leave it False",
    )
    truth = mix(fused())
    expect_close(found.detach(), truth.detach(), "values differ: project each map, upsample, concatenate, mix", 1e-4)
    twice = answer(list(pair), large, lambda x: 2 * x)
    resized = F.interpolate(large[1](pair[1]), size=(4, 6), mode="bilinear", align_corners=False)
    truth = 2 * torch.cat([resized, large[0](pair[0])], dim=1)
    expect_tensor(twice, (1, 6, 4, 6), "with two maps the result")
    expect_close(twice.detach(), truth.detach(), "it should hold for two maps and any callable as mix", atol=1e-4)
    leaves = [x.clone().requires_grad_() for x in maps]
    try:
        answer(list(leaves), projections, mix).sum().backward()
    except RuntimeError:
        expect(False, "no gradient flows back: leave out detach() and no_grad()")
    names = ("largest map", "second map", "third map", "smallest map")
    for name, leaf, project in zip(names, leaves, projections, strict=True):
        for what, tensor in ((f"the {name}", leaf), (f"the projection of the {name}", project.weight)):
            expect(tensor.grad is not None, f"no gradient reaches {what}: leave out detach() and no_grad()")


_LANES = {"A": (30.0, 20, 2, 39), "B": (4.0, 14, 8, 12), "C": (44.0, 44, 6, 39)}
"""x at the top and at the bottom of an image of 40 rows, first and last row with paint."""


def _road(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask (40, 50), embeddings (3, 40, 50) and the true lanes 1, 2, 3 as A, B, C; pixels of no lane look like A."""
    rng = np.random.default_rng(0)
    means = scale * np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    truth = np.zeros((40, 50), dtype=int)
    for lane, (top, bottom, first, last) in enumerate(_LANES.values(), start=1):
        for row in (row for row in range(first, last + 1) if row % 8 < 5):  # dashed
            x = round(top + (bottom - top) * row / 39)
            truth[row, x : x + 2] = lane
    offset = rng.normal(size=(40, 50, 3))
    offset *= 0.4 * scale / np.linalg.norm(offset, axis=2, keepdims=True)
    return truth > 0, (means[truth] + offset).transpose(2, 0, 1).astype(np.float32), truth


@exercise("separate_and_number")
def separate_and_number(answer) -> None:
    mask, embeddings, truth = _road()
    given = mask.copy(), embeddings.copy()
    ids = answer(*given, 1.5, 36, 5)
    expect_written(ids)
    expect(isinstance(ids, np.ndarray), f"the result should be a NumPy array, it is a {type(ids).__name__}")
    expect(ids.shape == mask.shape, f"the result should have shape {mask.shape}, it has {ids.shape}")
    expect(ids.dtype.kind in "iu", f"ids should be whole numbers, they are {ids.dtype}")
    expect(
        np.array_equal(given[0], mask) and np.array_equal(given[1], embeddings), "the arguments were changed in place"
    )
    expect(not ids[~mask].any(), "pixels outside of lane_mask should be 0, whatever their embeddings")
    expect(bool((ids[mask] != 0).all()), "lane pixels are left without a number: numbers begin at 1")
    expect(
        len({*zip(ids[mask], truth[mask], strict=True)}) == len({*ids[mask]}) == 3,
        f"the toy has 3 lanes, {len({*ids[mask]})} were found, or they are mixed: group pixels by their embeddings",
    )
    numbers = tuple(int(ids[truth == lane][0]) for lane in (1, 2, 3))
    expect(sorted(numbers) == [1, 2, 3], f"the three lanes should be 1, 2, 3; they are {sorted(numbers)}")
    # At row 36, A is at 20.8, B at 13.2 and C at 44.
    expect(numbers == (2, 1, 3), f"at row 36 the order is B, A, C; the numbers of A, B, C are {numbers}, not (2, 1, 3)")
    _expect_order_at_the_row(answer)
    _expect_few_pixels_dropped(answer)
    _expect_untidy_lanes_told_apart(answer)


def _expect_order_at_the_row(answer) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    truth = np.zeros((40, 60), dtype=int)
    for lane, (x, slope, rows) in enumerate(((50.0, -1.0, (0, 12)), (30.0, 0.0, (2, 40)), (8.0, 0.0, (20, 40))), 1):
        for row in range(*rows):
            column = round(x + slope * row)
            truth[row, column : column + 2] = lane
    mask = truth > 0
    embeddings = (np.eye(4, dtype=np.float32) * 5)[truth].transpose(2, 0, 1)  # (4, 40, 60)
    near, far = answer(mask.copy(), embeddings.copy(), 1.5, 36, 5), answer(mask.copy(), embeddings.copy(), 1.5, 2, 5)
    numbers = [tuple(int(ids[truth == lane][0]) for lane in (1, 2, 3)) for ids in (near, far)]
    expect(
        numbers[0] != (3, 2, 1),
        "a lane of which only the far part shows was numbered by where its pixels are, their mean x or the nearest: "
        "follow it to the reference row",
    )
    expect(
        numbers[0] != (3, 1, 2) and sorted(numbers[0]) == [1, 2, 3],
        "argsort says which lane comes first; asked is which place each lane has",
    )
    expect(numbers[0] == (2, 3, 1), "at row 36, lanes that meet it at x = 14, 30 and 8 have the numbers 2, 3, 1")
    expect(numbers[1] == (3, 2, 1), "at row 2, lanes that meet it at x = 48, 30 and 8 have the numbers 3, 2, 1")


def _expect_few_pixels_dropped(answer) -> None:
    mask, embeddings, truth = _road()
    stray = np.arange(20, 24), np.ones(4, dtype=int)  # left of all, four pixels
    mask[stray] = True
    embeddings[:, stray[0], stray[1]] = -6.0
    ids = answer(mask.copy(), embeddings.copy(), 1.5, 36, 5)
    expect(not ids[stray].any(), "four pixels became a lane: a cluster of fewer than min_pixels should be 0")
    expect({*np.unique(ids)} == {0, 1, 2, 3}, "a dropped cluster leaves a gap in the numbers: number after dropping")
    ids = answer(mask.copy(), embeddings.copy(), 1.5, 36, 4)
    expect(bool((ids[stray] == 1).all()), "a cluster of exactly min_pixels stays; here it is the leftmost")
    mask, embeddings, truth = _road(scale=10.0)
    ids = answer(mask.copy(), embeddings.copy(), 15.0, 36, 5)
    expect(
        len({*ids[mask]}) == 3 and len({*zip(ids[mask], truth[mask], strict=True)}) == 3,
        "embeddings and radius ten times as large should give the same lanes: use the radius given",
    )
    nothing = answer(np.zeros((4, 6), dtype=bool), np.zeros((3, 4, 6), dtype=np.float32), 1.5, 3, 5)
    expect(np.shape(nothing) == (4, 6) and not np.any(nothing), "without a lane pixel the result is all zeros (H, W)")


def _expect_untidy_lanes_told_apart(answer) -> None:
    """Two dashed lanes whose means lie two radii apart: one of them is long, then stray pixels lie between both."""
    radius, mask = 1.5, np.zeros((80, 40), dtype=bool)
    mask[np.arange(80) % 10 < 7, 8::22] = True  # columns 8 and 30
    right = np.nonzero(mask)[1] == 30  # (N,)
    stray = np.arange(len(right)) % 12 == 3
    along = np.linspace(-0.8, 0.8, len(right)) * radius  # the first pixel is one end of the left lane's clump
    long = np.stack([right * 2 * radius, np.where(right, 0.0, along)])  # (2, N)
    bridge = np.stack([right * 2 * radius, 0.1 * along])
    bridge[:, stray] = np.linspace(0.1, 1.9, stray.sum()) * radius, np.zeros(stray.sum())
    cases = {
        "a lane that reaches 0.8 radii to either side of its mean was split: look around the lane's mean, not around "
        "the pixel that you begin with": (long, np.full(len(right), True)),
        "two lanes became one over a bridge of stray pixels: a chain from pixel to pixel, like DBSCAN's, crosses it; "
        "look around a lane's mean": (bridge, ~stray),
    }
    for hint, (x, sure) in cases.items():
        embeddings = np.zeros((2, *mask.shape), dtype=np.float32)
        embeddings[:, mask] = x
        ids = np.asarray(answer(mask.copy(), embeddings, radius, 70, 12))[mask]
        expect({*ids} <= {0, 1, 2} and np.mean(ids[sure] == 1 + right[sure]) > 0.95, hint)


@exercise("lane_f1")
def lane_f1(answer) -> None:
    one = np.array([[0.9], [0.1], [0.2]])  # three predictions, one lane
    value = answer([one])
    expect_written(value)
    expect(np.ndim(value) == 0, "the result should be one number for all images")
    if math.isclose(value, 1 / 3):
        union = "that is TP / (TP + FP + FN): F1 is 2 TP / (2 TP + FP + FN)"
        expect(not math.isclose(answer([one.T]), 1 / 3), union)
        expect(False, "that is precision; F1 is 2 TP / (2 TP + FP + FN)")
    expect_close(value, 0.5, "three predictions, one lane, one match: 2·1 / (2·1 + 2 + 0)")
    expect_close(answer([one.T]), 0.5, "one prediction, three lanes, one match: 2·1 / (2·1 + 0 + 2)")
    expect_close(answer([np.array([[0.3]])]), 0, "a pair below the threshold is no match, even if it is the best")
    expect_close(answer([np.array([[0.8], [0.7]])]), 2 / 3, "two predictions cannot both find one lane: one to one")
    expect_close(answer([np.array([[0.8, 0.7]])]), 2 / 3, "one prediction cannot find two lanes: one to one")
    greedy = np.array([[0.8, 0.7], [0.7, 0.1]])
    given = greedy.copy()
    hint = "taking the best pair first costs the second match: make the sum of the IoUs largest"
    expect_close(answer([given]), 1.0, hint)
    expect(np.array_equal(given, greedy), "the matrix was changed in place")
    expect_close(answer([np.array([[0.5]])]), 0, "an IoU equal to the threshold is no match yet")
    expect_close(answer([np.array([[0.5]])], 0.4), 1.0, "the threshold should be the one given")
    low = np.array([[0.6, 0.45], [0.45, 0.0]])
    hint = "the best sum pairs 0.45 with 0.45, both too low: match first, compare with the threshold after"
    expect_close(answer([low]), 0, hint)
    images = [np.array([[0.9]]), np.array([[0.1, 0.0], [0.0, 0.2], [0.0, 0.0]])]
    expect(not math.isclose(answer(images), 0.5), "that is the mean of the images' scores: add up the counts first")
    expect_close(answer(images), 2 / 7, "two images: add up TP, FP and FN of both, then divide once")
    expect_close(answer([np.zeros((0, 3)), np.array([[0.9]])]), 0.4, "without a prediction all lanes are missed: FN")
    expect_close(answer([np.zeros((2, 0)), np.array([[0.9]])]), 0.5, "without a lane all predictions are false: FP")
    try:
        nothing = answer([np.zeros((0, 0))])
    except ZeroDivisionError:
        expect(False, "nothing predicted and nothing there should give 0.0, not an error")
    expect_close(nothing, 0, "nothing predicted and nothing there should give 0.0")
