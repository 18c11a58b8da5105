"""Exercises of notebook 2: colours to classes, transforms in step, masks that keep their ids, shares of pixels."""

import numpy as np

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_written
from roadtopo_lib.labels import IGNORE_INDEX


def _array(value: object, shape: tuple[int, ...], what: str) -> np.ndarray:
    expect(isinstance(value, np.ndarray), f"{what} should be a NumPy array, it is a {type(value).__name__}")
    expect(value.shape == shape, f"{what} should have shape {shape}, it has {value.shape}")
    return value


@exercise("classes_from_colors")
def classes_from_colors(answer) -> None:
    # Red and blue share a sum, red and dark green a luminance; the void colour is in the table, not in the first mask.
    table = {(0, 0, 0): 0, (255, 0, 0): 2, (0, 0, 255): 3, (0, 130, 0): 5, (10, 10, 10): IGNORE_INDEX}
    colors = np.array(list(table), dtype=np.uint8)
    ids = np.array(list(table.values()), dtype=np.uint8)
    for index in (np.array([[0, 1, 2, 3], [3, 1, 0, 2]]), np.array([[4, 0, 0]])):
        found = answer(colors[index], dict(table))
        expect_written(found)
        found = _array(found, index.shape, "the result")
        for color, class_id, pixel in zip(colors[index].reshape(-1, 3), ids[index].ravel(), found.ravel(), strict=True):
            expect(
                pixel == class_id,
                f"the colour {color.tolist()} should be class {class_id}, it became {pixel}: all three channels count",
            )
        expect(found.dtype == np.uint8, f"the mask should be uint8, it is {found.dtype}")
    try:
        answer(np.array([[[0, 0, 0], [254, 7, 3]]], dtype=np.uint8), dict(table))
    except ValueError as error:
        expect(all(number in str(error) for number in ("254", "7", "3")), "the message should name the unknown colour")
        return
    except Exception as error:
        expect(False, f"an unknown colour should raise ValueError, it raised {type(error).__name__}")
    expect(False, "the colour [254, 7, 3] is not in the table, and was accepted")


class _FixedDraws:
    """A generator whose ``random`` gives these numbers, one after the other."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0) if self.draws else 0.5


@exercise("flip_together")
def flip_together(answer) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    semantic = np.array([[0, 1, 2, 2], [0, 1, 1, 2]], np.uint8)
    instance = np.array([[0, 0, 300, 7], [0, 0, 0, 7]], np.uint16)
    before = [array.copy() for array in (image, semantic, instance)]
    out = answer(image, semantic, instance, _FixedDraws(0.1, 0.9, 0.1, 0.9))
    expect_written(out)
    expect(isinstance(out, (tuple, list)) and len(out) == 3, "the result should be image, semantic mask, instance mask")
    names = ("the image", "the semantic mask", "the instance mask")
    for result, old, name in zip(out, before, names, strict=True):
        _array(result, old.shape, name)
    flipped = [
        not np.array_equal(result, old) for result, old in zip(out, before, strict=True)
    ]  # none of the three is symmetric
    expect(len(set(flipped)) == 1, "some of the three were flipped and some were not: draw once, for all three")
    expect(all(flipped), "a draw of 0.1 with p = 0.5 should flip")
    expect(not np.array_equal(out[0], before[0][::-1]), "this turns the picture upside down: columns are axis 1")
    channels = (before[0][..., ::-1], before[0][:, ::-1, ::-1])
    expect(
        not any(np.array_equal(out[0], wrong) for wrong in channels),
        "the image's last axis is its channels: reversed, red becomes blue",
    )
    for result, old, name in zip(out, before, names, strict=True):
        expect(np.array_equal(result, old[:, ::-1]), f"{name} should be mirrored from left to right")
        expect(result.dtype == old.dtype, f"{name} should keep its type, {old.dtype}; it became {result.dtype}")
    stays = answer(image, semantic, instance, _FixedDraws(0.9, 0.1, 0.1, 0.1))
    expect(
        all(np.array_equal(a, b) for a, b in zip(stays, before, strict=True)),
        "a draw of 0.9 with p = 0.5 should not flip",
    )
    stays = answer(image, semantic, instance, _FixedDraws(0.0), p=0.0)
    expect(all(np.array_equal(a, b) for a, b in zip(stays, before, strict=True)), "with p = 0 nothing should ever flip")
    expect(
        all(np.array_equal(a, b) for a, b in zip((image, semantic, instance), before, strict=True)),
        "the arguments were changed in place",
    )
    expect(
        all(stride >= 0 for result in out for stride in result.strides),
        "torch.from_numpy refuses a mirrored view (negative strides): return copies",
    )


@exercise("resize_mask")
def resize_mask(answer) -> None:
    mask = np.array([[0, 0, 300, 300], [0, 7, 300, 65535]], dtype=np.uint16)
    double = answer(mask, 4, 8)
    expect_written(double)
    expect(isinstance(double, np.ndarray), f"the result should be a NumPy array, it is a {type(double).__name__}")
    expect(double.shape != (8, 4), "height and width are swapped")
    _array(double, (4, 8), "the mask at 4 × 8")
    invented = sorted(set(np.unique(double).tolist()) - set(np.unique(mask).tolist()))
    if invented:
        expect(double.dtype != np.uint8, "ids above 255 are lost: 8 bits do not hold them")
        expect(False, f"id {invented[0]} is new: interpolation mixed ids")
    expect(double.dtype == mask.dtype, f"the type should stay {mask.dtype}, it is {double.dtype}")
    expect(
        np.array_equal(double, mask.repeat(2, axis=0).repeat(2, axis=1)),
        "at twice the size, every pixel should become a block of 2 × 2",
    )
    tall = np.arange(32, dtype=np.uint8).reshape(8, 4)
    half = _array(answer(tall, 4, 2), (4, 2), "an 8 × 4 mask at 4 × 2")
    steps = (half // 4 // 2 == np.arange(4)[:, None]) & (half % 4 // 2 == np.arange(2))
    expect(bool(steps.all()), "at half the size, every pixel should come from its own block of 2 × 2")
    expect(np.array_equal(answer(tall, 8, 4), tall), "at its own size, the mask should stay as it is")


@exercise("class_shares")
def class_shares(answer) -> None:
    first = np.array([[0, 0, 1, IGNORE_INDEX]], dtype=np.uint8)
    second = np.array([[1] * 6], dtype=np.uint8)
    shares = answer([first, second], 3)
    expect_written(shares)
    expect(len(shares) == 3, "there should be one share for each class, also for one that never appears")
    total = float(np.sum(shares))
    expect(abs(total - 0.9) > 1e-6, "the shares sum to 0.9: unlabelled pixels are still in the denominator")
    expect(abs(total - 1) < 1e-6, f"the shares should sum to 1, yours sum to {total:.3g}")
    expect(
        not np.allclose(shares, [1 / 3, 2 / 3, 0]),
        "a small mask should not count like a large one: add pixels, not shares",
    )
    expect_close(np.asarray(shares), [2 / 9, 7 / 9, 0], "2 of 9 labelled pixels are class 0, 7 are class 1")
    with np.errstate(invalid="ignore", divide="ignore"):
        empty = answer([np.full((2, 2), IGNORE_INDEX, np.uint8)], 3)
    expect(bool(np.isfinite(empty).all()), "without a labelled pixel the shares are NaN: 0 / 0")
    expect_close(np.asarray(empty), [0, 0, 0], "without a labelled pixel every share should be 0")
