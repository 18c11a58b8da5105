"""Notebook 2: pictures in their own pixels, what the library says to a folder, what one sample costs."""

import base64
import io
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import samples
from roadtopo_lib.data.images import read_image, read_instance_mask, read_semantic_mask
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.dataset import LaneInstanceDataset, build_transform
from roadtopo_lib.labels import CLASSES, IGNORE_INDEX, palette
from roadtopo_lib.viz import contact_sheet

FLAT_COLORS = 256
"""A picture of more colours is a photograph."""
JPEG_QUALITY = 76
"""Lower than that of figures, which are enlarged: here one pixel of the file is one of the screen."""
FONT_PIXELS = 15
"""Height of the letters above pictures."""
GAP = 4
"""White pixels between pictures, those of ``contact_sheet``."""
REPEATS = 5
"""The quietest of these is the time that counts: other programs only add to it."""


def show_pixels(
    pictures: Sequence[np.ndarray], title: str, alt: str, captions: Sequence[str] = (), zoom: int = 1
) -> None:
    """Displays pictures side by side, pixel by pixel: PNG with exact colours if they have few of them, else JPEG.

    Args:
        pictures: (H, W, 3) uint8 RGB each, all of one size.
        title: what they show, printed above them.
        alt: the same for those who do not see them, in a sentence.
        captions: of the pictures, printed above each; by default none.
        zoom: each pixel becomes a block of zoom × zoom.
    """
    row = contact_sheet([picture.repeat(zoom, axis=0).repeat(zoom, axis=1) for picture in pictures], len(pictures))
    left = [k * (row.shape[1] + GAP) // len(pictures) for k in range(len(pictures))]
    above = [_line(dict(zip(left, captions, strict=True)), row.shape[1])] if captions else []
    lines = [_line({0: title}, row.shape[1], "bold"), *above, row]
    width = max(line.shape[1] for line in lines)
    lines = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    picture = Image.fromarray(np.vstack(lines))
    buffer = io.BytesIO()
    if picture.getcolors(FLAT_COLORS):
        kind = "image/png"
        picture.quantize(FLAT_COLORS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    else:
        kind = "image/jpeg"
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, progressive=True, optimize=True)
    bundle = {kind: base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}
    display(bundle, raw=True, metadata={kind: {"alt": alt, "width": picture.width}})


def show_resized(classes: np.ndarray) -> None:
    """Displays a piece of a class mask after a bilinear resize, in the classes' colours: (H, W, 3) uint8."""
    show_pixels([classes], "Two classes that the piece does not have", "The piece after bilinear resizing.", zoom=6)


def _line(words: dict[int, str], width: int, weight: str = "normal") -> np.ndarray:
    """(h, w, 3) uint8: a line of text on white, at least ``width`` wide; the keys say where each piece begins."""
    font = ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight=weight)), FONT_PIXELS)
    width = max(width, *(round(x + font.getlength(text)) + 1 for x, text in words.items()))
    line = Image.new("L", (width, FONT_PIXELS + 8), 255)
    draw = ImageDraw.Draw(line)
    for x, text in words.items():
        draw.text((x, 2), text, 0, font)
    greys = np.asarray(line) // 17 * 17  # few greys: the colours of classes and ids stay exact in the palette
    return np.repeat(greys[..., None], 3, axis=2)


def class_table() -> Figure:
    """The values of a semantic mask with colour, name and what is separated into instances."""
    rows = [(c.id, c.name, f"instances: {c.instances}" if c.instances else "") for c in CLASSES]
    rows.append((IGNORE_INDEX, "unlabelled", "skipped by semantic loss and scores"))
    figure, ax = plt.subplots(figsize=(5.2, 2.3))
    for y, (value, name, note) in enumerate(rows):
        ax.add_patch(plt.Rectangle((0, y - 0.4), 0.6, 0.8, facecolor=palette()[value] / 255, edgecolor="black"))
        for x, text in ((0.8, value), (1.4, name), (3.5, note)):
            ax.text(x, y, text, va="center")
    ax.set(title="A semantic mask may hold seven values", xlim=(0, 6.6), ylim=(6.6, -0.6))
    ax.axis("off")
    return figure


def share_bar(shares: Sequence[float]) -> Figure:
    """One bar, cut into the classes' shares of the pixels, each with its name.

    Args:
        shares: one for each class, in the order of their ids; they sum to 1.
    """
    figure, ax = plt.subplots(figsize=(6.4, 1.5))
    edges = 100 * np.concatenate([[0], np.cumsum(shares)])
    for c, start, stop in zip(CLASSES, edges, edges[1:], strict=False):
        ax.barh(0, stop - start, left=start, height=0.8, color=palette()[c.id] / 255, edgecolor="black", linewidth=0.5)
    # The names of thin pieces stand in a row above them, each joined to its piece.
    names = np.array(CLASSES.names)
    thin = [k for k, share in enumerate(shares) if share < 0.1]
    for k in set(range(len(names))) - {*thin}:
        light = palette()[k].mean() > 128
        ax.text(edges[k : k + 2].mean(), 0, names[k], ha="center", va="center", color="black" if light else "white")
    for place, k in zip(np.linspace(45, 100, len(thin)), thin, strict=True):
        ax.annotate(
            names[k], (edges[k : k + 2].mean(), 0.4), (place, 0.95), ha="center", fontsize=8, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )  # fmt: skip
    largest = np.sort(np.asarray(shares))[-2:].sum()
    ax.set(xlim=(0, 100), ylim=(-0.45, 1.3), yticks=[], xlabel="share of all pixels, in percent")
    ax.set_title(f"Two of six classes hold {largest:.0%} of the pixels")
    ax.spines[["left", "bottom"]].set_visible(False)
    return figure


def complaint(root: str | Path, split: str = "train") -> str:
    """When and why the library refuses a data set, without the folder's name; or "fine".

    Every sample is read: their content is only checked then.
    """
    moment = "on opening"
    try:
        dataset = LaneInstanceDataset(root, split)
        moment = "on reading"
        for index in range(len(dataset)):
            dataset[index]
    except (ValueError, FileNotFoundError) as error:
        return f"{moment}: {_without_folder(error, root)}"
    return "fine"


def refusal(root: str | Path, image: np.ndarray, semantic: np.ndarray, instance: np.ndarray) -> str:
    """Why ``write_sample`` refuses a sample, without the folder's name; or "fine". The sample's name is ``spoilt``."""
    try:
        write_sample(Path(root) / "train", "spoilt", image, semantic, instance, suffix=".png")
    except ValueError as error:
        return _without_folder(error, root)
    return "fine"


def broken_folders() -> dict[str, str]:
    """What the library says to each data set in ``data_samples/broken``, by the folder's name."""
    folders = sorted(path for path in (samples() / "broken").iterdir() if path.is_dir())
    said = {
        path.name: complaint(path, "val" if path.name == "missing_split" else "train")
        for path in folders
        if path.name not in ("checkpoints", "configs")
    }
    # Pillow's own words differ between versions.
    return {name: re.sub(r" image [(].*?[)](?=,)", " image", words) for name, words in said.items()}


def milliseconds(function: Callable, arguments: Sequence[tuple]) -> float:
    """Mean time of one call."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for these in arguments:
            function(*these)
        times.append(1000 * (time.perf_counter() - started) / len(arguments))
    return min(times)


def loading_times(raw: LaneInstanceDataset, large: LaneSegmentationConfig, count: int = 12) -> dict[str, float]:
    """Milliseconds for each step of loading one training sample.

    Args:
        raw: a data set without transform.
        large: its transform is timed as it is, at a small size, and without colour jitter.
        count: how many samples.
    """

    def read_masks(index: int) -> None:
        read_semantic_mask(raw.semantic_paths[index])
        read_instance_mask(raw.instance_paths[index])

    def transform(**changes: object) -> Callable:
        return build_transform(large.replace(**changes), train=True)

    arrays = [(*raw.read(index), index) for index in range(count)]
    height, width = large.image_size
    return {
        "decode the image": milliseconds(read_image, [(path,) for path in raw.image_paths[:count]]),
        "decode both masks": milliseconds(read_masks, [(index,) for index in range(count)]),
        "transform to 96 × 256": milliseconds(transform(image_size=(96, 256)), arrays),
        f"transform to {height} × {width}": milliseconds(transform(), arrays),
        "the same without colour jitter": milliseconds(transform(color_jitter=0.0), arrays),
    }


def _without_folder(error: Exception, root: str | Path) -> str:
    return str(error).replace(str(root), "…").replace(os.sep, "/")
