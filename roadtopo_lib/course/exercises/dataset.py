"""Exercises of notebook 2: colours to classes, transforms in step, masks that keep their ids, shares of pixels."""

from itertools import product

import numpy as np

from roadtopo_lib.course.exercises._base import Hint, exercise, expect, expect_close, expect_written
from roadtopo_lib.labels import IGNORE_INDEX


def _array(value: object, shape: tuple[int, ...], what: str) -> np.ndarray:
    expect_written(value)
    expect(isinstance(value, np.ndarray), f"{what} should be a NumPy array, it is a {type(value).__name__}")
    expect(value.shape == shape, f"{what} should have shape {shape}, it has {value.shape}")
    return value


@exercise("classes_from_colors", keeps=("rgb", "table"))
def classes_from_colors(answer) -> None:
    # Red and blue share a sum, red and dark green a luminance; the void colour is in the table, not in the first mask.
    table = {(0, 0, 0): 0, (255, 0, 0): 2, (0, 0, 255): 3, (0, 130, 0): 5, (10, 10, 10): IGNORE_INDEX}
    for index in (np.array([[0, 1, 2, 3], [3, 1, 0, 2]]), np.array([[4, 0, 0]])):
        _compare_classes(answer, table, index)
    for color in ([254, 7, 3], [255, 0, 77]):
        try:
            answer(np.array([[[0, 0, 0], color]], dtype=np.uint8), dict(table))
        except ValueError as error:
            expect(
                all(str(number) in str(error) for number in color),
                "the message should name the unknown colour, all three numbers of it",
            )
        except Hint:
            raise
        except Exception as error:
            expect(False, f"an unknown colour should raise ValueError, it raised {type(error).__name__}")
        else:
            expect(False, f"the colour {color} is not in the table, and was accepted")
    rng = np.random.default_rng(0)
    colors = np.unique(rng.integers(0, 256, size=(60, 3)), axis=0)
    many = {tuple(color): class_id for class_id, color in enumerate(colors.tolist())}
    _compare_classes(answer, many, rng.integers(0, len(many), size=(20, 30)))
    # A weighted sum of channels that is not unique for each colour is the same for two of these.
    numbers = (0, 1, 3, 10, 100, 255)
    alike = {(r, g, b): 40 + i for i, (r, g, b) in enumerate(product(numbers, repeat=3))}  # ids up to 255
    _compare_classes(answer, alike, np.arange(len(alike)).reshape(12, 18))


def _compare_classes(answer, table: dict[tuple, int], index: np.ndarray) -> None:
    colors = np.array(list(table), dtype=np.uint8)
    ids = np.array(list(table.values()), dtype=np.uint8)
    try:
        found = answer(colors[index], dict(table))
    except ValueError as error:
        expect(False, f"a colour that is in the table was refused ({str(error)[:80]})")
    found = _array(found, index.shape, "the result")
    for color, class_id, pixel in zip(colors[index].reshape(-1, 3), ids[index].ravel(), found.ravel(), strict=True):
        expect(
            pixel == class_id,
            f"the colour {color.tolist()} should be class {class_id}, it became {pixel}: all three channels count",
        )
    expect(found.dtype == np.uint8, f"the mask should be uint8, it is {found.dtype}")


class _FixedDraws:
    """A generator whose ``random`` gives these numbers, one after the other."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)
        self.drawn = 0

    def random(self, *size: object, **options: object) -> float:
        expect(not size and not options, "draw once: rng.random() gives a single number, which decides for all three")
        self.drawn += 1
        return self.draws.pop(0) if self.draws else 0.5

    def __getattr__(self, name: str) -> None:
        raise Hint(f"draw with rng.random(), not with rng.{name}")


@exercise("flip_together", keeps=("image", "semantic", "instance"))
def flip_together(answer) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    semantic = np.array([[0, 1, 2, 2], [0, 1, 1, 2]], np.uint8)
    instance = np.array([[0, 0, 300, 7], [0, 0, 0, 7]], np.uint16)
    before = [array.copy() for array in (image, semantic, instance)]

    def unchanged(draws: _FixedDraws, **options: float) -> bool:
        out = answer(image, semantic, instance, draws, **options)
        return all(np.array_equal(a, b) for a, b in zip(out, before, strict=True))

    draws = _FixedDraws(0.1, 0.9, 0.1, 0.9)
    out = answer(image, semantic, instance, draws)
    expect_written(out)
    expect(isinstance(out, (tuple, list)) and len(out) == 3, "the result should be image, semantic mask, instance mask")
    expect(draws.drawn > 0, "nothing was drawn from `rng`: draw with rng.random()")
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
    expect(
        all(stride >= 0 for result in out for stride in result.strides),
        "torch.from_numpy refuses a mirrored view (negative strides): return copies",
    )
    expect(unchanged(_FixedDraws(0.9, 0.1, 0.1, 0.1)), "a draw of 0.9 with p = 0.5 should not flip")
    expect(unchanged(_FixedDraws(0.2), p=0.1), "a draw of 0.2 with p = 0.1 should not flip: compare with `p`")
    expect(not unchanged(_FixedDraws(0.8), p=0.9), "a draw of 0.8 with p = 0.9 should flip: compare with `p`")
    expect(unchanged(_FixedDraws(0.0), p=0.0), "with p = 0 nothing should ever flip")
    wide = [np.arange(70).reshape(5, 7, 2), np.arange(35).reshape(5, 7), np.arange(35).reshape(5, 7) % 4]
    out = answer(*wide, _FixedDraws(0.1))
    expect(
        all(np.array_equal(result, old[:, ::-1]) for result, old in zip(out, wide, strict=True)),
        "right for a picture of 2 × 4 pixels; one of 5 × 7 should be mirrored as well",
    )


@exercise("resize_mask", keeps=("mask",))
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
        cut = set(invented) <= {old % 256 for old in np.unique(mask).tolist()}
        expect(not cut, f"id {invented[0]} is new: 16-bit ids were cut to 8 bits on the way")
        expect(False, f"id {invented[0]} is new: interpolation mixed ids")
    expect(double.dtype == mask.dtype, f"the type should stay {mask.dtype}, it is {double.dtype}")
    expect(
        np.array_equal(double, mask.repeat(2, axis=0).repeat(2, axis=1)),
        "at twice the size, every pixel should become a block of 2 × 2",
    )
    tall = 8 * np.arange(32, dtype=np.uint8).reshape(8, 4)  # means of neighbouring ids are no ids of the mask
    half = _array(answer(tall, 4, 2), (4, 2), "an 8 × 4 mask at 4 × 2")
    invented = sorted(set(np.unique(half).tolist()) - set(np.unique(tall).tolist()))
    if invented:
        expect(False, f"at half the size, id {invented[0]} is new: interpolation mixed ids")
    steps = (half // 8 // 4 // 2 == np.arange(4)[:, None]) & (half // 8 % 4 // 2 == np.arange(2))
    expect(bool(steps.all()), "at half the size, every pixel should come from its own block of 2 × 2")
    expect(half.dtype == tall.dtype, f"the type should stay {tall.dtype}, it is {half.dtype}")
    expect(np.array_equal(answer(tall, 8, 4), tall), "at its own size, the mask should stay as it is")
    every = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    expect(np.array_equal(answer(every, 256, 256), every), "some ids changed: copy them, do not compute with them")
    for size, new in (((12, 30), (12, 45)), ((9, 40), (6, 29))):
        _compare_sizes(answer, size, new)


def _compare_sizes(answer, size: tuple[int, int], new: tuple[int, int]) -> None:
    """Every pixel must come from where it lies in the mask; conventions differ by less than a pixel."""
    called = f"{size[0]} × {size[1]} at {new[0]} × {new[1]}"
    ids = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size)  # each id tells its row and column
    hint = f"right at twice, half and the same size, but not for {called}: the sizes may be any"
    try:
        found = answer(ids, *new)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        expect(False, f"{hint} (your code raised {type(error).__name__})")
    found = _array(found, new, f"a mask of {called}")
    places = (found // size[1], found % size[1])
    for axis, place in enumerate(places):
        ratio = size[axis] / new[axis]
        center = (np.arange(new[axis]) + 0.5) * ratio - 0.5  # in pixels of the mask
        center = center[:, None] if axis == 0 else center[None]
        expect(bool((np.abs(place - center) <= 1 + ratio / 2).all()), hint)


@exercise("class_shares", keeps=("masks",))
def class_shares(answer) -> None:
    first = np.array([[0, 0, 1, IGNORE_INDEX]], dtype=np.uint8)
    second = np.array([[1] * 6], dtype=np.uint8)
    shares = answer([first, second], 3)
    expect_written(shares)
    expect(np.shape(shares) == (3,), "there should be one share for each class, also for one that never appears")
    shares = np.asarray(shares)
    total = float(np.sum(shares))
    expect(abs(total - 0.9) > 1e-6, "the shares sum to 0.9: unlabelled pixels are still in the denominator")
    expect(abs(total - 9) > 1e-6, "these are counts of pixels: divide by the number of all labelled ones")
    expect(abs(total - 1) < 1e-6, f"the shares should sum to 1, yours sum to {total:.3g}")
    expect(
        not np.allclose(shares, [1 / 3, 2 / 3, 0]),
        "a small mask should not count like a large one: add pixels, not shares",
    )
    expect_close(np.asarray(shares), [2 / 9, 7 / 9, 0], "2 of 9 labelled pixels are class 0, 7 are class 1")
    with np.errstate(invalid="ignore", divide="ignore"):
        try:
            empty = answer([np.full((2, 2), IGNORE_INDEX, np.uint8)], 3)
        except ZeroDivisionError:
            expect(False, "without a labelled pixel every share should be 0; your code divides 0 / 0")
    expect(np.shape(empty) == (3,), "without a labelled pixel there should still be one share for each class")
    expect(bool(np.isfinite(np.asarray(empty)).all()), "without a labelled pixel the shares are NaN: 0 / 0")
    expect_close(np.asarray(empty), [0, 0, 0], "without a labelled pixel every share should be 0")
    rng = np.random.default_rng(0)
    masks = [rng.choice([0, 1, 2, 3, 4, 5, IGNORE_INDEX], size=size).astype(np.uint8) for size in ((40, 50), (9, 7))]
    labelled = np.concatenate([mask[mask != IGNORE_INDEX] for mask in masks])
    truth = np.array([(labelled == class_id).mean() for class_id in range(6)])
    expect_close(np.asarray(answer(masks)), truth, "right for small masks, not for one of 40 × 50 beside one of 9 × 7")
