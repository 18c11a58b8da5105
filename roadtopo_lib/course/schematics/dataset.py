"""Drawings of notebook 2: files of a sample, transforms in step, interpolation of ids."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.course.schematics._canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    Sheet,
    drawing,
    frame_sample,
    tint,
)
from roadtopo_lib.data.samples import FOLDERS
from roadtopo_lib.data.samples import sample_files as files_of_sample
from roadtopo_lib.viz import color_instances, color_semantic, instance_color

SKY_ROWS = 152
"""Rows of the frame that its small pictures leave out: no label lies there."""


def _small_pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and masks of the frame without the sky; the image without its finest texture, which costs bytes."""
    image, semantic, instance = (array[SKY_ROWS:] for array in frame_sample())
    return cv2.bilateralFilter(np.ascontiguousarray(image), 9, 30, 9), semantic, instance


@drawing(
    "Left, a folder tree: the split holds three folders with one file of the same name each; right, the three files "
    "side by side with their types: the image, the classes and the instances."
)
def sample_files(name: str = "train_00000", split: str = "train") -> Figure:
    """Where one sample lies on disk.

    Args:
        name: of the sample.
        split: of the data set.
    """
    image, semantic, instance = _small_pictures()
    tall = 2.0 * image.shape[0] / image.shape[1]
    files = files_of_sample(Path(split), name)
    sheet = Sheet(3.6, "One name in three folders is one sample")
    rows = [
        (image, BLUE, "colours: 3 × 8 bit"),
        (color_semantic(semantic), GREEN, "class id: 8 bit"),
        (color_instances(instance), RED, "instance id: 16 bit"),
    ]
    sheet.box(0.15, 1.77, 0.85, 0.5, f"{split}/", INK, fill="white", weight="bold")
    for k, (picture, color, kind) in enumerate(rows):
        middle = 1.06 + 0.96 * k
        sheet.line([1.0, 1.25, 1.25, 1.45], [2.02, 2.02, middle, middle], GREY, lw=1.4)
        sheet.text(1.55, middle - 0.17, f"{FOLDERS[k]}/", weight="bold", color=INK, ha="left")
        stem, ending = files[k].stem, files[k].suffix
        sheet.text(1.75, middle + 0.17, stem + ending, ha="left")
        sheet.arrow((3.75, middle), (4.05, middle), GREY)
        sheet.image(picture, 4.15, middle - tall / 2, 2.0, tall)
        value, bits = kind.split(": ")
        sheet.text(6.3, middle - 0.17, value, color=color, weight="bold", ha="left")
        sheet.text(6.3, middle + 0.17, f"{bits} a pixel", ha="left")
    return sheet.figure


@drawing(
    "The image, its classes and its instances, above as read and below mirrored; one arrow from a single draw leads to "
    "all three, and a dashed upright line marks the same place in them."
)
def flip_together() -> Figure:
    """Image and both masks under one transform."""
    image, semantic, instance = _small_pictures()
    pictures = (image, color_semantic(semantic), color_instances(instance))
    wide, gap, first = 2.4, 0.2, 0.98
    tall = wide * image.shape[0] / image.shape[1]
    second = first + tall + 0.92
    sheet = Sheet(second + tall + 0.25, "One draw moves the image and both masks alike")
    row = int(0.85 * instance.shape[0])
    spot = float(np.flatnonzero(instance[row] == 2).mean()) / instance.shape[1]
    for k, (picture, name) in enumerate(zip(pictures, ("image", "classes", "instances"), strict=True)):
        x = 0.2 + k * (wide + gap)
        sheet.text(x + wide / 2, 0.78, name, weight="bold")
        sheet.image(picture, x, first, wide, tall)
        sheet.image(picture[:, ::-1], x, second, wide, tall)
        sheet.arrow((x + wide / 2, first + tall), (x + wide / 2, second))
        for y, share in ((first, spot), (second, 1 - spot)):
            sheet.line([x + share * wide] * 2, [y, y + tall], ORANGE, lw=2, ls=(0, (3, 2)), zorder=6)
    sheet.box(0.2, second - 0.64, 7.6, 0.38, "one random draw: mirror", BLUE, zorder=7)
    return sheet.figure


@drawing(
    "A row of the ids 1, 1, 3, 3 is doubled in two ways: the nearest neighbour copies ids, so only 1 and 3 are left; "
    "bilinear interpolation takes means, rounds them, and so makes a 2 that no pixel had."
)
def nearest_and_bilinear(left: int = 1, right: int = 3) -> Figure:
    """What interpolation does to two ids side by side, by OpenCV itself.

    Args:
        left, right: the ids, 1..7 for a colour of their own.
    """
    ids = np.array([[left, left, right, right]], np.uint8)
    size = (2 * ids.shape[1], 1)
    nearest = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
    bilinear = cv2.resize(ids, size, interpolation=cv2.INTER_LINEAR)
    means = cv2.resize(np.float32(ids), size, interpolation=cv2.INTER_LINEAR)
    rounded = sorted({(mean, value) for mean, value in zip(means[0], bilinear[0], strict=True) if mean != value})
    invented = sorted(set(bilinear.ravel().tolist()) - {left, right})
    sheet = Sheet(4.0, "A mean of two ids is an id that nobody gave")
    side = 0.5

    def fill(value: int) -> tuple[float, ...]:
        return tint("#{:02x}{:02x}{:02x}".format(*instance_color(int(value))), 0.55)

    sheet.text(0.2, 2.05, "two lanes", weight="bold", ha="left")
    sheet.cells(ids, 1.35, 1.8, side, fill)
    start = 1.35 + ids.shape[1] * side
    for y, row, name in ((0.95, nearest, "nearest: copies an id"), (2.65, bilinear, "bilinear: mean of neighbours")):
        sheet.arrow((start + 0.05, 2.05), (3.88, y + side / 2), GREY)
        sheet.text(3.95, y - 0.2, name, weight="bold", ha="left")
        sheet.cells(row, 3.95, y, side - 0.02, fill)
    for column in np.flatnonzero(np.isin(bilinear, invented)):
        sheet.rectangle(3.95 + column * (side - 0.02), 2.65, side - 0.02, side - 0.02, INK, lw=3, zorder=7)
    which = " and ".join(map(str, invented))
    if rounded:
        sheet.text(3.95, 3.4, "rounded: " + ", ".join(f"{mean:g} → {value}" for mean, value in rounded), ha="left")
    sheet.text(3.95, 3.7, f"{which}: a lane that is not there" if invented else "nothing new", color=RED, ha="left")
    return sheet.figure
