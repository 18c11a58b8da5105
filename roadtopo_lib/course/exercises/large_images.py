"""Exercises of elective 2: tiles along a side, their blend, draws by share, a mean over images."""

import numpy as np
import torch

from roadtopo_lib.course.exercises._base import Hint, exercise, expect, expect_close, expect_written, number


@exercise("E2_tile_starts")
def tile_starts(answer) -> None:
    def starts(length: int, tile: int, overlap: int) -> list[int]:
        found = answer(length, tile, overlap)
        expect_written(found)
        expect(np.ndim(found) == 1, f"the result should be a list of starts, it is a {type(found).__name__}")
        values = [float(start) for start in found]
        expect(all(value == round(value) for value in values), "starts are whole pixels")
        return [round(value) for value in values]

    def wanted(length: int, tile: int, overlap: int, truth: list[int], hint: str) -> None:
        found = starts(length, tile, overlap)
        case = f"length {length}, tile {tile}, overlap {overlap}"
        expect(len(found) > 0, f"{case}: no tile at all")
        expect(found[0] >= 0, f"{case}: the first start is {found[0]}; a negative index counts from the far end")
        expect(len(set(found)) == len(found), f"{case}: a tile is there twice: {found}")
        expect(
            max(found) + tile >= length,
            f"{case}: the last tile ends at {max(found) + tile}, so the end of the image is not seen",
        )
        expect(max(found) + tile <= max(length, tile), f"{case}: a tile reaches over the end of the image: {found}")
        expect(found == truth, f"{case}: {hint}, got {found}")

    wanted(100, 25, 0, [0, 25, 50, 75], "without overlap the tiles stand side by side")
    wanted(960, 512, 64, [0, 448], "two tiles that share 64 pixels cover it exactly")
    wanted(1000, 512, 64, [0, 448, 488], "the last tile, and it alone, is moved back so that it ends with the image")
    wanted(300, 512, 64, [0], "an image smaller than a tile has one tile")
    wanted(512, 512, 64, [0], "an image of one tile has one tile")
    wanted(513, 512, 64, [0, 1], "one pixel more than a tile needs a second tile")
    wanted(5000, 448, 64, [*range(0, 4552, 384), 4552], "right for a few tiles; wrong for 13 of them")


@exercise("E2_blend", keeps=("pieces", "starts", "window"))
def blend(answer) -> None:
    def blended(pieces: list, starts: list[int], window: list[float], length: int) -> np.ndarray:
        found = answer([np.array(piece) for piece in pieces], list(starts), np.array(window), length)
        expect_written(found)
        expect(np.shape(found) == (length,), f"the result should have shape ({length},), it has {np.shape(found)}")
        found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        expect(not np.isnan(found.astype(float)).any(), "there is a NaN: some pixel was divided by zero")
        return found.astype(float)

    flat = [1.0, 1.0, 1.0, 1.0]
    one = blended([[5.0, 6.0, 7.0, 8.0]], [0], flat, 4)
    expect_close(one, [5, 6, 7, 8], "one tile alone gives its own values")
    ones = blended([[1.0] * 4] * 2, [0, 2], flat, 6)
    expect(ones[2] != 2, "where two tiles overlap their values were added: divide by the sum of the weights")
    expect_close(ones, [1] * 6, "two tiles of ones, overlapping by two pixels, give ones everywhere")
    steps = blended([[0.0] * 4, [1.0] * 4], [0, 2], flat, 6)
    expect(steps[2] not in (0, 1), "one tile overwrote the other where they overlap: both count there")
    expect_close(steps, [0, 0, 0.5, 0.5, 1, 1], "with equal weights, two tiles are averaged where they overlap")
    ramp = [1.0, 3.0, 3.0, 1.0]
    alone = blended([[2.0] * 4], [0], ramp, 4)
    hint = "where one tile is alone its value stands, whatever its weight: divide by the sum of the weights"
    expect_close(alone, [2, 2, 2, 2], hint)
    weighted = blended([[0.0] * 4, [1.0] * 4], [0, 2], ramp, 6)
    expect(not np.allclose(weighted[2:4], 0.5), "the window has no effect: a tile counts less near its border")
    hint = "tiles of 0 and 1 overlap, weights (3, 1) and (1, 3): a quarter, then three quarters"
    expect_close(weighted, [0, 0, 0.25, 0.75, 1, 1], hint)
    whole = blended([[0, 0, 0, 0], [1, 1, 1, 1]], [0, 2], [1, 3, 3, 1], 6)
    expect_close(whole, [0, 0, 0.25, 0.75, 1, 1], "whole numbers come in, fractions go out: add up in float")
    rng = np.random.default_rng(0)
    starts, window = [0, 20, 40, 57], np.sin(np.pi * (np.arange(40) + 0.5) / 40) ** 2
    pieces = rng.normal(size=(4, 40))
    total, weights = np.zeros(97), np.zeros(97)
    for piece, start in zip(pieces, starts, strict=True):
        total[start : start + 40] += window * piece
        weights[start : start + 40] += window
    found = blended(list(pieces), starts, list(window), 97)
    expect_close(found, total / weights, "right for two tiles; wrong for four, of which three meet in a pixel", 1e-6)
    order = [2, 0, 3, 1]
    found = blended([pieces[k] for k in order], [starts[k] for k in order], list(window), 97)
    expect_close(found, total / weights, "the tiles may come in any order", 1e-6)


@exercise("E2_draw_weights", keeps=("positive",))
def draw_weights(answer) -> None:
    def weights(positive: list[bool], share: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = answer(np.array(positive), share)
        expect_written(found)
        found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        count = len(positive)
        expect(found.shape == (count,), f"{count} patches have {count} weights, the result has shape {found.shape}")
        expect(not np.isnan(found.astype(float)).any(), "there is a NaN among the weights")
        expect((found >= 0).all(), "a weight is negative")
        return found.astype(float)

    positive = [True, False, False, False, True, False, False, False, False, False]
    found = weights(positive, 0.5)
    reached = found[positive].sum() / found.sum()
    expect(
        abs(reached - 0.5) < 1e-6,
        f"2 of 10 patches are positive, wanted share 0.5: these weights give a share of {reached:.2f}; "
        "how many patches share in each half?",
    )
    expect(np.ptp(found[positive]) < 1e-9, "patches of one kind are drawn equally often")
    expect_close(found.sum(), 1.0, "the share is right; the weights should add up to 1")
    expect_close(weights(positive, 0.2), [0.1] * 10, "a share of 0.2 is what they have: all weights are equal")
    found = weights(positive, 1.0)
    expect(found[1] == 0, "with a share of 1 no other patch is drawn")
    expect_close(found, [0.5 * kind for kind in positive], "with a share of 1 the positive patches share it equally")
    expect_close(weights(positive, 0.0)[0], 0.0, "with a share of 0 no positive patch is drawn")
    many = np.random.default_rng(0).random(500) < 0.04
    found = weights(many.tolist(), 0.3)
    expect_close(found[many].sum(), 0.3, "right for 10 patches; of 500 with 4 % positive the share is wrong")
    expect_close(found.sum(), 1.0, "of 500 patches the weights no longer add up to 1")


@exercise("E2_mean_iou", keeps=("batches",))
def mean_iou(answer) -> None:
    def mean(*batches: tuple) -> float:
        given = [tuple(np.array(mask, bool) for mask in batch) for batch in batches]
        try:
            with np.errstate(all="ignore"):
                value = answer(given)
        except ZeroDivisionError:
            raise Hint("a division by zero: what is the IoU of two empty masks?") from None
        if isinstance(value, (float, np.floating)) and np.isnan(value):
            raise Hint("the result is NaN: what is the IoU of two empty masks?")
        return number(value)

    empty, left, both = [[0, 0, 0, 0]], [[1, 1, 0, 0]], [[1, 1, 1, 1]]
    apart = [[0, 0, 1, 1]]
    expect_close(mean(([both], [both])), 1.0, "a mask and itself have the IoU 1")
    value = mean(([left], [both]))
    expect(abs(value - 2 / 3) > 1e-4, "2/3 is the Dice of these masks; the IoU divides by the union")
    expect_close(value, 0.5, "two of four pixels are found: IoU 0.5", 1e-4)
    expect_close(mean(([left], [apart])), 0.0, "masks that share no pixel have the IoU 0", 1e-4)
    value = mean(([left, left], [left, both]))
    expect(
        abs(value - 4 / 6) > 1e-4,
        "the pixels of both images went into one fraction: asked is the mean of the images' own IoUs",
    )
    expect_close(value, 0.75, "an image of 1 and one of 0.5 give 0.75", 1e-4)
    value = mean(([both, both, both], [both, both, both]), ([left], [apart]))
    expect(
        abs(value - 0.5) > 1e-4,
        "a batch of one image counted as much as a batch of three: average over images, not over batches",
    )
    expect_close(value, 0.75, "three images of 1 and one of 0, in two batches, give 0.75", 1e-4)
    value = mean(([empty, both], [empty, both]))
    expect(abs(value - 0.5) > 1e-4, "an empty mask that was found empty got 0: two empty masks agree")
    expect_close(value, 1.0, "two empty masks agree: 1", 1e-4)
    value = mean(([left, both], [empty, both]))
    expect(abs(value - 1) > 1e-4, "road was found where there is none, and the image was left out or got 1: it gets 0")
    expect_close(value, 0.5, "found where there is none: 0", 1e-4)
    rng = np.random.default_rng(0)
    batches = [tuple(rng.random((2, size, 6, 7)) < share) for size, share in ((5, 0.4), (2, 0.1), (1, 0.02), (7, 0.6))]
    batches.append((np.zeros((2, 6, 7), bool), np.zeros((2, 6, 7), bool)))
    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    truth = np.mean([(p & t).sum() / (p | t).sum() if (p | t).any() else 1.0 for p, t in pairs])
    expect_close(mean(*batches), truth, "right for one row of pixels; wrong for 17 images in five batches", 1e-4)
