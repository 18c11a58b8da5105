"""The strip: image → classes → embeddings → clusters → numbered lanes, in one picture.

It opens and closes each notebook. Everything in it is computed when it is drawn: for the frame by the model that
``make run`` makes, for a photograph by the one that was trained for photographs, unless another one is given.
"""

from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from roadtopo_lib.confidence import load_segmenter
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import LANE_SMALL, frame, samples
from roadtopo_lib.course.photo import my_photo
from roadtopo_lib.course.pictures import show
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.models import load_with_info
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import cluster_embeddings, radius_from_margins
from roadtopo_lib.viz import color_semantic, instance_color, overlay

BOXES = ("image", "classes", "embeddings", "clusters", "lanes")
CHAPTER_BOXES = {
    1: BOXES,
    2: ("image",),
    3: ("classes",),
    4: ("embeddings",),
    5: ("classes", "embeddings"),
    6: ("clusters", "lanes"),
    7: BOXES,
    "E1": ("classes",),
    "E2": ("image", "classes"),
    "E3": ("image", "classes"),
    "E4": ("image", "lanes"),
}
"""Which boxes a notebook opens: 3 builds the model, 4 says what embeddings are for, 5 trains both heads. An elective
goes back to the boxes that it works on; all are open by then."""
WIDTH = 512
"""Of a box, in pixels; larger images are reduced to it."""
FIGURE_WIDTH, TITLE_HEIGHT, MARGIN = 8.0, 0.42, 0.04
"""In inches, without the margins."""
TITLE_SIZE, NUMBER_SIZE = 12, 11
"""In points: still read where the strip is 420 px wide."""
GAP = 0.08
"""Between boxes, as a share of a box's width."""
CURRENT = "#EE6677"
DROPPED = (150, 150, 150)
"""Colour of a cluster that became no lane."""


def strip(
    chapter: int | str = 1,
    closing: bool = False,
    photo: str | Path | None = None,
    image: np.ndarray | None = None,
    segmenter: LaneSegmenter | None = None,
    **settings: object,
) -> None:
    """Shows the strip of the frame and, below it, that of a photograph.

    Args:
        chapter: number of the notebook, or ``"E1"``: its boxes are framed, those of later notebooks are grey. Notebook
            1 shows all, and so does 7: what they work on is all of it, so they frame it at their end only.
        closing: the notebook ends: its boxes are filled, too. Where they were in colour from the beginning (1, 7,
            electives) their titles are.
        photo: path of a photograph of the learner's own; later notebooks remember it, see ``my_photo``.
        image: (H, W, 3) uint8 RGB in place of frame and photograph.
        segmenter: a model in place of the shipped ones.
        settings: settings of the frame's model to change, such as ``clustering="dbscan"``.
    """
    of_frame = shipped_segmenter(**settings) if segmenter is None else segmenter
    rows = [boxes_of(frame()[0] if image is None else image, of_frame)]
    photograph = my_photo(photo)
    if photograph is not None and image is None:
        rows.append(boxes_of(photograph, photo_segmenter() if segmenter is None else segmenter))
    # 255: no dithering, so a tenth fewer bytes in each of fourteen pictures; the sky has no bands at this size.
    show(draw_strip(rows, chapter, closing), alt_text(rows[0], chapter, closing), colors=255)


def photo_segmenter() -> LaneSegmenter:
    """The small model for photographs, with its calibration."""
    return load_segmenter(samples() / LANE_SMALL)


def shipped_segmenter(**settings: object) -> LaneSegmenter:
    """The model of ``make run`` with its settings, some of them changed."""
    model, info = load_with_info(samples() / "tiny.safetensors")
    return LaneSegmenter(model, LaneSegmentationConfig.from_dict(info["training"]).replace(**settings))


def boxes_of(image: np.ndarray, segmenter: LaneSegmenter) -> dict:
    """The five pictures of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        segmenter: a model with its post-processing.

    Returns:
        A picture (h, w, 3) uint8 for each of ``BOXES``, and the ``LaneResult`` as ``result``.
    """
    predicted = segmenter.predict(image)
    result = segmenter.postprocessor.process(**predicted)
    semantic, first_row = predicted["semantic_pred"], predicted["first_row"]
    lanes = np.isin(semantic, segmenter.classes.lane_ids)
    lanes[:first_row] = False
    rows, columns = np.nonzero(lanes)
    place = [torch.from_numpy(index) for index in (np.zeros_like(rows), rows - first_row, columns)]
    size = (image.shape[0] - first_row, image.shape[1])
    vectors = gather_embeddings(torch.as_tensor(predicted["embeddings"])[None], *place, size)  # (n, D)
    embeddings, clusters = np.zeros_like(image), np.zeros_like(image)
    embeddings[lanes] = principal_colors(vectors.numpy())
    radius = radius_from_margins(segmenter.config.delta_var, segmenter.config.delta_dist)
    labels = cluster_embeddings(vectors, radius, segmenter.config.clustering)
    clusters[lanes] = _cluster_colors(labels, result["lane_instances"][lanes])
    pictures = {
        "image": image,
        "classes": color_semantic(semantic, segmenter.classes),
        "embeddings": embeddings,
        "clusters": clusters,
        "lanes": overlay(image, result),
    }
    return {name: _reduced(picture, name) for name, picture in pictures.items()} | {"result": result}


def _cluster_colors(labels: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """Each cluster has the colour of the lane that most of its pixels belong to, or grey if it became no lane.

    Args:
        labels: (n,) cluster of each pixel, −1 for none.
        lanes: (n,) lane of each pixel, 0 for none.

    Returns:
        (n, 3) uint8, black for −1.
    """
    colors = np.zeros((len(labels), 3), np.uint8)
    for label in np.unique(labels[labels >= 0]):
        lane = int(np.bincount(lanes[labels == label]).argmax())
        colors[labels == label] = instance_color(lane) if lane else DROPPED
    return colors


def principal_colors(vectors: np.ndarray) -> np.ndarray:
    """Embeddings as colours: their first three principal components become red, green and blue.

    Args:
        vectors: (n, D) float.

    Returns:
        (n, 3) uint8. All components have one scale, so that distances of colours are those of embeddings: the widest
        one runs from 16 to 255 between its 2nd and 98th percentile.
    """
    if len(vectors) < 3:
        return np.full((len(vectors), 3), 255, np.uint8)
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, : -min(3, axes.shape[1]) - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])  # a fixed sign of each axis
    components = np.zeros((len(vectors), 3))
    components[:, : axes.shape[1]] = centred @ axes
    low, high = np.percentile(components, [2, 98], axis=0)
    scaled = (components - (low + high) / 2) / max((high - low).max(), 1e-9)  # the widest: −0.5 to 0.5
    return np.clip(135.5 + 239 * scaled, 16, 255).astype(np.uint8)


def draw_strip(rows: list[dict], chapter: int | str = 1, closing: bool = False) -> Figure:
    """Boxes side by side, one row an image; see ``strip``."""
    width = FIGURE_WIDTH / (len(BOXES) + (len(BOXES) - 1) * GAP)  # of a box, in inches
    heights = [width * row["image"].shape[0] / row["image"].shape[1] for row in rows]
    total = sum(heights) + TITLE_HEIGHT + GAP * width * (len(rows) - 1) + 2 * MARGIN
    figure, axes = plt.subplots(
        len(rows), len(BOXES), figsize=(FIGURE_WIDTH + 2 * MARGIN, total), squeeze=False, layout="none",
        height_ratios=heights,
    )  # fmt: skip
    side = MARGIN / (FIGURE_WIDTH + 2 * MARGIN)
    figure.subplots_adjust(
        side, MARGIN / total, 1 - side, 1 - (TITLE_HEIGHT + MARGIN) / total, GAP, GAP * width / np.mean(heights)
    )
    earlier = range(2, chapter + closing) if chapter in range(2, 7) else range(1, 2)
    opened = set().union(*(CHAPTER_BOXES[k] for k in earlier))
    framed = CHAPTER_BOXES[chapter] if closing or chapter not in (1, 7) else ()
    for row, line in zip(rows, axes, strict=True):
        for name, ax in zip(BOXES, line, strict=True):
            is_open = name in opened
            ax.imshow(row[name] if is_open else _greyed(row[name]), interpolation="antialiased")
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(visible=name in framed, color=CURRENT, linewidth=3)
            if name == "lanes" and is_open:
                number_lanes(ax, row["result"], row[name].shape[1], size=NUMBER_SIZE)
            if not is_open:
                ax.text(0.5, 0.5, _where_opened(name), transform=ax.transAxes, ha="center", va="center", fontsize=10)
            if name != "image":
                ax.annotate(
                    "",
                    (0, 0.5),
                    (-GAP, 0.5),
                    xycoords="axes fraction",
                    arrowprops={"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0},
                )
    for name, ax in zip(BOXES, axes[0], strict=True):
        title = ax.set_title(_title(name, rows[0]["result"], name in opened), fontsize=TITLE_SIZE, fontweight="bold")
        if closing and chapter not in range(2, 7) and name in framed:
            title.set_bbox({"facecolor": CURRENT, "edgecolor": "none", "pad": 2})
    plt.close(figure)
    return figure


def number_lanes(ax: Axes, result: dict, width: int, first_crosswalk: int | None = None, size: float = 9) -> None:
    """Numbers at the near ends of the lanes and on the crosswalks, larger than those of the overlay.

    Args:
        ax: shows the overlay.
        result: a ``LaneResult``.
        width: of the overlay, in pixels.
        first_crosswalk: instance id whose colour C1 has; default the one after the last lane, as in ``overlay``.
        size: of the numbers, in points.
    """
    scale = width / result["semantic_mask"].shape[1]
    height = scale * result["semantic_mask"].shape[0]
    ends = []
    for polyline in result["lane_polylines"]:
        x, y = (scale * polyline).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        ends.append((x[inside][-1], y[inside][-1]) if inside.any() else (x[-1], y[-1]))
    first = len(ends) + 1 if first_crosswalk is None else first_crosswalk
    labels = [(str(k), k, end) for k, end in enumerate(ends, start=1)]
    labels += [(f"C{k + 1}", first + k, scale * center) for k, center in enumerate(result["crosswalk_centers"])]
    for name, k, (x, y) in labels:
        place = (np.clip(x, 0.04 * width, 0.96 * width), np.clip(y, 0.1 * height, 0.92 * height))
        plate = {"boxstyle": "square,pad=0.15", "facecolor": np.array(instance_color(k)) / 255, "edgecolor": "none"}
        ax.text(*place, name, color="white", fontsize=size, fontweight="bold", ha="center", va="center", bbox=plate)


def alt_text(row: dict, chapter: int | str, closing: bool) -> str:
    """What the strip shows, in words that do not depend on rounding."""
    current = f" Framed: {', '.join(CHAPTER_BOXES[chapter])}." if closing or chapter not in (1, 7) else ""
    filled = "boxes" if chapter in range(2, 7) else "titles"
    state = f" Its {filled} are filled now." if closing else ""
    return f"The strip: image, classes, embeddings as colours, clusters, numbered lanes.{current}{state}"


def _title(name: str, result: dict, is_open: bool) -> str:
    if name == "lanes" and is_open:
        lanes, crosswalks = result["lane_count"], result["crosswalk_count"]
        return f"{lanes} lane{'s' * (lanes != 1)}\n{crosswalks} crosswalk{'s' * (crosswalks != 1)}"
    return name


def _where_opened(name: str) -> str:
    return f"notebook {next(k for k, boxes in CHAPTER_BOXES.items() if k != 1 and name in boxes)}"


def _greyed(picture: np.ndarray) -> np.ndarray:
    """A box that is not opened yet: what is in it shows faintly."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) // 8 + 200
    return np.repeat(grey[..., None], 3, axis=2)


def _reduced(picture: np.ndarray, name: str) -> np.ndarray:
    """At most ``WIDTH`` wide. Pictures of ids and classes keep their colours."""
    scale = WIDTH / picture.shape[1]
    if scale >= 1:
        return picture
    method = cv2.INTER_AREA if name in ("image", "lanes") else cv2.INTER_NEAREST
    return cv2.resize(picture, (WIDTH, round(picture.shape[0] * scale)), interpolation=method)
