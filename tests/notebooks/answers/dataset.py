"""Answers to the exercises of notebook 2."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from answers._register import right, wrong

# --- classes_from_colors


@right("classes_from_colors")
def _(rgb, table):
    classes, known = np.zeros(rgb.shape[:2], np.uint8), np.zeros(rgb.shape[:2], bool)
    for color, class_id in table.items():
        here = (rgb == color).all(axis=2)
        classes[here], known[here] = class_id, True
    if not known.all():
        raise ValueError(f"unknown: {rgb[~known][0].tolist()}")
    return classes


@right("classes_from_colors")
def _(rgb, table):
    result = np.empty(rgb.shape[:2], np.uint8)
    for i, row in enumerate(rgb.tolist()):
        for j, (r, g, b) in enumerate(row):
            if (r, g, b) not in table:
                raise ValueError(f"unknown colour {r}, {g}, {b}")
            result[i, j] = table[r, g, b]
    return result


@right("classes_from_colors", "unusual")
def _(rgb, table):
    colors, inverse = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    unknown = [color for color in colors.tolist() if tuple(color) not in table]
    if unknown:
        raise ValueError(str(unknown))
    return np.array([table[tuple(color)] for color in colors.tolist()], np.uint8)[inverse].reshape(rgb.shape[:2])


@right("classes_from_colors", "unusual")
def _(rgb, table):
    lookup = np.full(1 << 24, -1, np.int16)
    for (r, g, b), class_id in table.items():
        lookup[r << 16 | g << 8 | b] = class_id
    found = lookup[rgb.astype(np.int64) @ [1 << 16, 1 << 8, 1]]
    if (found < 0).any():
        raise ValueError(f"{rgb[found < 0][0]} is unknown")
    return found.astype(np.uint8)


@wrong("classes_from_colors", "all three channels count")
def _(rgb, table):
    classes = np.zeros(rgb.shape[:2], np.uint8)
    for color, class_id in table.items():
        classes[(rgb == color).any(axis=2)] = class_id
    return classes


@wrong("classes_from_colors", "all three channels count")
def _(rgb, table):
    by_sum = {sum(color): class_id for color, class_id in table.items()}
    return np.array([[by_sum[s] for s in row] for row in rgb.sum(axis=2).tolist()], np.uint8)


@wrong("classes_from_colors", "[254, 7, 3] is not in the table, and was accepted")
def _(rgb, table):
    classes = np.zeros(rgb.shape[:2], np.uint8)
    for color, class_id in table.items():
        classes[(rgb == color).all(axis=2)] = class_id
    return classes


@wrong("classes_from_colors", "[255, 0, 77] is not in the table")
def _(rgb, table):
    classes, seen = np.zeros(rgb.shape[:2], np.uint8), np.zeros(rgb.shape[:2], bool)
    for color, class_id in table.items():
        classes[(rgb == color).all(axis=2)] = class_id
        seen |= (rgb[..., :2] == color[:2]).all(axis=2)
    if not seen.all():
        raise ValueError(str(rgb[~seen]))
    return classes


@wrong("classes_from_colors", "in the table was refused")
def _(rgb, table):
    classes = np.full(rgb.shape[:2], 255, np.uint8)
    for color, class_id in table.items():
        classes[(rgb == color).all(axis=2)] = class_id
    if (classes == 255).any():
        raise ValueError(str(rgb[classes == 255][0]))
    return classes


wrong("classes_from_colors", "should be uint8")(
    lambda rgb, t: np.array([[t[tuple(p)] for p in row] for row in rgb.tolist()])
)
wrong("classes_from_colors", "it raised KeyError")(
    lambda rgb, table: np.array([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()], np.uint8)
)


@wrong("classes_from_colors", "name the unknown colour")
def _(rgb, table):
    if set(map(tuple, rgb.reshape(-1, 3).tolist())) - set(table):
        raise ValueError("unknown colour")
    return np.array([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()], np.uint8)


@wrong("classes_from_colors", "`table` was changed in place", "mutating")
def _(rgb, table):
    table.setdefault((0, 0, 0), 255)
    known = {color: table.pop(color) for color in list(table)}
    return np.array([[known[tuple(pixel)] for pixel in row] for row in rgb.tolist()], np.uint8)


wrong("classes_from_colors", "should be class", "cheating")(lambda rgb, table: np.zeros(rgb.shape[:2], np.uint8))

wrong("classes_from_colors", "should be a NumPy array")(
    lambda rgb, table: torch.tensor([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()])
)


# --- flip_together


@right("flip_together")
def _(image, semantic, instance, rng, p=0.5):
    if rng.random() < p:
        return image[:, ::-1].copy(), semantic[:, ::-1].copy(), instance[:, ::-1].copy()
    return image, semantic, instance


@right("flip_together")
def _(image, semantic, instance, rng, p=0.5):
    order = np.arange(image.shape[1])
    if rng.random() < p:
        order = order[::-1]
    return [array[:, order] for array in (image, semantic, instance)]


@right("flip_together", "unusual")
def _(image, semantic, instance, rng, p=0.5):
    flip = p > 0 and rng.random() < p
    return tuple(
        np.ascontiguousarray(np.fliplr(array)) if flip else array.copy() for array in (image, semantic, instance)
    )


@wrong("flip_together", "draw once, for all three")
def _(image, semantic, instance, rng, p=0.5):
    return tuple(a[:, ::-1].copy() if rng.random() < p else a for a in (image, semantic, instance))


@wrong("flip_together", "draw once: rng.random() gives a single number")
def _(image, semantic, instance, rng, p=0.5):
    flips = rng.random(3) < p
    return tuple(a[:, ::-1].copy() if f else a for a, f in zip((image, semantic, instance), flips, strict=True))


def _flipped(change, flip=lambda rng, p: rng.random() < p):
    """An answer that changes all three arrays in this way."""
    return lambda image, semantic, instance, rng, p=0.5: (
        tuple(change(a) for a in (image, semantic, instance)) if flip(rng, p) else (image, semantic, instance)
    )


def _mirror(array):
    return array[:, ::-1].copy()


def _mirror_in_place(array):
    array[:] = array[:, ::-1].copy()
    return array


wrong("flip_together", "return copies")(_flipped(lambda a: a[:, ::-1]))
wrong("flip_together", "upside down")(_flipped(lambda a: a[::-1].copy()))
wrong("flip_together", "red becomes blue")(_flipped(lambda a: a[..., ::-1].copy()))
wrong("flip_together", "keep its type")(_flipped(lambda a: _mirror(a).astype(np.int64)))
wrong("flip_together", "changed in place", "mutating")(_flipped(_mirror_in_place))
wrong("flip_together", "nothing was drawn", "cheating")(_flipped(_mirror, lambda rng, p: True))
wrong("flip_together", "nothing was drawn")(_flipped(_mirror, lambda rng, p: np.random.rand() < p))  # noqa: NPY002
wrong("flip_together", "with p = 0.1 should not flip", "cheating")(_flipped(_mirror, lambda rng, p: rng.random() < 0.5))
wrong("flip_together", "nothing should ever flip")(_flipped(_mirror, lambda rng, p: rng.random() <= p))
wrong("flip_together", "0.1 with p = 0.5 should flip")(_flipped(_mirror, lambda rng, p: rng.random() > p))
wrong("flip_together", "not with rng.uniform")(_flipped(_mirror, lambda rng, p: rng.uniform() < p))
wrong("flip_together", "one of 5 × 7", "cheating")(_flipped(lambda a: a[:, [3, 2, 1, 0]]))

wrong("flip_together", "image, semantic mask, instance mask")(lambda image, semantic, instance, rng, p=0.5: image)
wrong("flip_together", "mirrored from left to right")(_flipped(lambda a: np.roll(a, 1, axis=1)))
wrong("flip_together", "0.9 with p = 0.5 should not")(_flipped(_mirror, lambda rng, p: rng.random() < 2))
wrong("flip_together", "0.8 with p = 0.9 should flip")(_flipped(_mirror, lambda rng, p: rng.random() < min(p, 0.5)))


# --- resize_mask


def _indexed(rows, columns=None):
    """An answer that takes a source row and column for each new one."""
    return lambda mask, height, width: mask[np.clip(rows(height, mask.shape[0]), 0, mask.shape[0] - 1)][
        :, np.clip((columns or rows)(width, mask.shape[1]), 0, mask.shape[1] - 1)
    ]


right("resize_mask")(_indexed(lambda new, old: np.arange(new) * old // new))
right("resize_mask")(_indexed(lambda new, old: ((np.arange(new) + 0.5) * old / new).astype(int)))
right("resize_mask")(lambda mask, height, width: cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST))
right("resize_mask")(lambda m, h, w: np.array(Image.fromarray(m).resize((w, h), Image.Resampling.NEAREST)))
right("resize_mask", "unusual")(
    lambda mask, height, width: np.array(
        [[mask[i * len(mask) // height, j * mask.shape[1] // width] for j in range(width)] for i in range(height)]
    )
)


@right("resize_mask", "unusual")
def _(mask, height, width):
    exact = torch.from_numpy(mask.astype(np.float64))[None, None]
    return F.interpolate(exact, (height, width), mode="nearest-exact")[0, 0].numpy().astype(mask.dtype)


@wrong("resize_mask", "interpolation mixed ids")
def _(mask, height, width):
    wide = torch.from_numpy(mask.astype(np.float32))[None, None]
    return F.interpolate(wide, (height, width), mode="bilinear")[0, 0].round().numpy().astype(mask.dtype)


wrong("resize_mask", "interpolation mixed ids")(lambda m, h, w: cv2.resize(m, (w, h), interpolation=cv2.INTER_AREA))
wrong("resize_mask", "interpolation mixed ids")(lambda m, h, w: cv2.resize(m, (w, h)))


@wrong("resize_mask", "8 bits do not hold them")
def _(mask, height, width):
    small = torch.from_numpy(mask.astype(np.uint8))[None, None]
    return F.interpolate(small, (height, width), mode="nearest")[0, 0].numpy()


wrong("resize_mask", "cut to 8 bits on the way")(
    lambda m, h, w: cv2.resize(m.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST).astype(m.dtype)
)


@wrong("resize_mask", "a mask of 12 × 30 at 12 × 45 should have shape", "cheating")
def _(mask, height, width):
    if height > len(mask):
        return mask.repeat(2, axis=0).repeat(2, axis=1)
    return mask if height == len(mask) and width == mask.shape[1] else mask[::2, ::2][:height, :width]


wrong("resize_mask", "height and width are swapped")(
    lambda mask, height, width: cv2.resize(mask, (height, width), interpolation=cv2.INTER_NEAREST)
)
wrong("resize_mask", "the type should stay uint16")(
    lambda mask, height, width: _indexed(lambda new, old: np.arange(new) * old // new)(mask, height, width).astype(int)
)
wrong("resize_mask", "not for 12 × 30 at 12 × 45")(
    _indexed(lambda new, old: np.arange(new) // (new // old) if new >= old else np.arange(new) * (old // new))
)
wrong("resize_mask", "not for 12 × 30")(
    lambda m, h, w: m[np.arange(h) * len(m) // h][:, np.minimum(np.arange(w) * len(m) // h, m.shape[1] - 1)]
)
wrong("resize_mask", "a block of 2 × 2")(lambda mask, height, width: np.resize(mask, (height, width)))
wrong("resize_mask", "a block of 2 × 2")(_indexed(lambda new, old: np.linspace(0, old - 1, new).astype(int)))
wrong("resize_mask", "a NumPy array")(lambda mask, height, width: torch.zeros(height, width))


@wrong("resize_mask", "changed in place", "mutating")
def _(mask, height, width):
    mask[mask > 255] = 255
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


wrong("resize_mask", "it is a list")(lambda mask, height, width: np.resize(mask, (height, width)).tolist())
wrong("resize_mask", "the type should stay uint8")(
    lambda mask, height, width: cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint16)
)
wrong("resize_mask", "from its own block of 2 × 2")(
    _indexed(lambda new, old: np.arange(new) if new < old else np.arange(new) * old // new)  # cut off, not shrunk
)
wrong("resize_mask", "should stay as it is")(_indexed(lambda new, old: np.arange(new) * old // new + (new == old)))
wrong("resize_mask", "not for 9 × 40 at 6 × 29")(
    _indexed(lambda new, old: np.arange(new) * (old // new) if new < old else np.arange(new) * old // new)
)
wrong("resize_mask", "your code raised ValueError")(
    lambda mask, height, width: (
        mask.reshape(height, len(mask) // height, width, -1)[:, 0, :, 0]
        if height < len(mask)
        else _indexed(lambda new, old: np.arange(new) * old // new)(mask, height, width)
    )
)


# --- class_shares


def _counts(masks, num_classes):
    return sum(np.bincount(mask[mask != 255], minlength=num_classes) for mask in masks)


def _shares(masks, num_classes):
    return _counts(masks, num_classes) / max(_counts(masks, num_classes).sum(), 1)


@right("class_shares")
def _(masks, num_classes=6):
    counts = sum(np.bincount(mask[mask != 255], minlength=num_classes) for mask in masks)
    return counts / max(counts.sum(), 1)


@right("class_shares")
def _(masks, num_classes=6):
    pixels = np.concatenate([mask.ravel() for mask in masks])
    pixels = pixels[pixels != 255]
    return np.array([(pixels == c).mean() if len(pixels) else 0.0 for c in range(num_classes)])


@right("class_shares", "unusual")
def _(masks, num_classes=6):
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for mask in masks:
        valid = torch.from_numpy(mask[mask < 255]).long()
        counts.index_add_(0, valid, torch.ones(len(valid), dtype=torch.float64))
    return (counts / counts.sum().clamp(min=1)).numpy()


@wrong("class_shares", "still in the denominator")
def _(masks, num_classes=6):
    total = sum(mask.size for mask in masks)
    return np.array([sum((mask == c).sum() for mask in masks) / total for c in range(num_classes)])


@wrong("class_shares", "add pixels, not shares")
def _(masks, num_classes=6):
    shares = [np.bincount(mask[mask != 255], minlength=num_classes) for mask in masks]
    return np.mean([share / share.sum() for share in shares], axis=0)


@wrong("class_shares", "0 / 0")
def _(masks, num_classes=6):
    counts = sum(np.bincount(mask[mask != 255], minlength=num_classes) for mask in masks)
    return counts / counts.sum()


@wrong("class_shares", "your code divides 0 / 0")
def _(masks, num_classes=6):
    counts = [sum(int((mask == c).sum()) for mask in masks) for c in range(num_classes)]
    return np.array([count / sum(counts) for count in counts])


@wrong("class_shares", "one share for each class")
def _(masks, num_classes=6):
    counts = np.unique(np.concatenate([mask[mask != 255] for mask in masks]), return_counts=True)[1]
    return counts / max(counts.sum(), 1)


@wrong("class_shares", "was changed in place", "mutating")
def _(masks, num_classes=6):
    for mask in masks:
        mask[mask == 255] = num_classes
    counts = sum(np.bincount(mask.ravel(), minlength=num_classes)[:num_classes] for mask in masks)
    return counts / max(counts.sum(), 1)


@wrong("class_shares", "right for small masks", "cheating")
def _(masks, num_classes=6):
    counts = np.zeros(num_classes, np.uint8)  # overflows at 256 pixels
    for mask in masks:
        np.add.at(counts, mask[mask < 255], 1)
    return counts / max(counts.sum(), 1)


wrong("class_shares", "these are counts")(
    lambda masks, n=6: sum(np.bincount(mask[mask < 255], minlength=n) for mask in masks)
)
wrong("class_shares", "without a labelled pixel", "cheating")(lambda masks, n=6: np.array([2 / 9, 7 / 9, 0]))


wrong("class_shares", "yours sum to 1.29")(lambda masks, n=6: _counts(masks, n) / max(_counts(masks, n).max(), 1))
wrong("class_shares", "2 of 9 labelled pixels")(lambda masks, n=6: _shares(masks, n)[::-1])
right("class_shares", "unusual")(lambda masks, n=6: _shares([n - 1 - mask[mask < 255] for mask in masks], n)[::-1])
wrong("class_shares", "still be one share")(lambda masks, n=6: _shares(masks, n) if _counts(masks, n).any() else 0.0)


def _by_code(*weights):
    """An answer that tells colours apart by a weighted sum of their channels."""

    def answer(rgb, table):
        known = {int(np.dot(color, weights)): class_id for color, class_id in table.items()}
        codes = rgb.astype(int) @ np.array(weights)
        for place in np.ndindex(codes.shape):
            if codes[place] not in known:
                raise ValueError(rgb[place].tolist())
        return np.vectorize(known.get)(codes).astype(np.uint8)

    return answer


right("classes_from_colors", "unusual")(_by_code(1 << 16, 1 << 8, 1))
for _weights in ((1, 10, 100), (1, 100, 10_000), (255**2, 255, 1), (1, 3, 9)):
    wrong("classes_from_colors", "all three channels count")(_by_code(*_weights))
wrong("resize_mask", "copy them, do not compute with them")(
    lambda m, h, w: (255 * cv2.resize(m / 255, (w, h), interpolation=cv2.INTER_NEAREST)).astype(m.dtype)
)
right("class_shares", "unusual")(lambda masks, n=6: torch.from_numpy(_shares(masks, n)))
right("flip_together", "unusual")(_flipped(lambda a: cv2.flip(a, 1)))
