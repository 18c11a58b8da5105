"""Figures of notebook 7."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.course.lessons.end_to_end import interval, on_ground
from roadtopo_lib.course.lessons.lane_audit import f1_of
from roadtopo_lib.scenes import Scene
from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.viz import overlay


def draw_losses(history: Sequence[Mapping[str, float]]) -> Figure:
    """Training and validation loss over the epochs, from the rows of ``history.csv``."""
    figure, ax = plt.subplots(figsize=(5, 2.4))
    for key, name, marker in (("train_loss", "training", "o"), ("val_loss", "validation", "s")):
        ax.plot([row["epoch"] for row in history], [row[key] for row in history], marker=marker, label=name)
    ax.set(title="Validation loss stays higher", xlabel="epoch", ylabel="total loss", ylim=(0, None))
    ax.legend()
    return figure


def draw_shifts(shifts: np.ndarray, measured: np.ndarray, formula: np.ndarray, limit: float) -> tuple[Figure, str]:
    """IoU of two lines over the pixels between them, drawn and by formula; shaded up to ``limit``; the alt text."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    ax.plot(shifts, measured, "o", label="the library's drawing")
    ax.plot(shifts, formula, label="(w − d) / (w + d)")
    ax.axhline(0.5, color="0.4", linestyle="--")
    ax.axvspan(0, limit, alpha=0.15)
    ax.set(title="A few pixels decide whether a lane is found", xlabel="shift (pixels)", ylabel="IoU")
    ax.legend()
    return figure, "IoU falls from 1 as the lane is moved; it passes 0.5 after a few pixels."


def draw_bands(bands: Sequence[int], curves: Mapping[str, Sequence[float]], marks: Mapping[float, int]) -> Figure:
    """Boundary IoU of some classes over the width of the band; ``marks``: ratio → its band."""
    figure, ax = plt.subplots(figsize=(6, 2.5))
    for (name, values), marker in zip(curves.items(), "os", strict=True):
        ax.plot(bands, values, marker=marker, label=name)
    for (ratio, band), style in zip(marks.items(), ("--", ":"), strict=True):
        ax.axvline(band, color="0.4", linestyle=style, label=f"ratio {ratio}")
    ax.set_title("A wide band hides the edges: the score rises")
    ax.set(xlabel="band (pixels)", ylabel="Boundary IoU", ylim=(0, 1))
    ax.legend(loc="lower right")
    return figure


def draw_kinds(of_kind: Mapping[str, Sequence]) -> Figure:
    """Lane F1 and its interval of groups of scenes; kind → (N, 3) counts."""
    figure, ax = plt.subplots(figsize=(6, 2.7))
    for y, members in enumerate(of_kind.values()):
        ax.plot(interval(np.array(members)), [y, y], color="C0", linewidth=3)
        ax.plot(f1_of(np.sum(members, axis=0)), y, "o", color="C0", markersize=9)
    ax.set(title="Small groups have wide intervals", xlabel="lane F1 and its 95 % interval")
    ax.set_yticks(range(len(of_kind)), [f"{kind} ({len(members)})" for kind, members in of_kind.items()])
    ax.invert_yaxis()
    return figure


def draw_photos(photos: Mapping[str, np.ndarray], columns: int = 2, width: float = 3.7) -> Figure:
    """Photographs (H, W, 3) with their titles, each ``width`` inches wide."""
    rows = -(-len(photos) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, (width / 2 + 0.25) * rows), squeeze=False)
    for ax, (title, photo) in zip(axes.flat, photos.items(), strict=False):
        ax.imshow(photo, interpolation="antialiased")
        ax.set_title(title)
    for ax in axes.flat:
        ax.axis("off")
    return figure


def draw_spans(spans: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Intervals of differences: unpaired and paired."""
    figure, ax = plt.subplots(figsize=(7, 2.6))
    for k, (name, color) in enumerate([("unpaired", "0.6"), ("road by road", "C0")]):
        places = np.arange(len(spans)) + 0.24 * k - 0.12
        ax.hlines(places, *np.transpose([both[k] for both in spans.values()]), color=color, linewidth=5, label=name)
    ax.axvline(0, color="0.4", linestyle="--")
    ax.set(title="Road by road the intervals are narrower", xlabel="difference of lane F1 (95 % interval)")
    ax.set_yticks(range(len(spans)), list(spans))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    ax.invert_yaxis()
    return figure


def draw_recall(total: np.ndarray, missed: np.ndarray, spread: np.ndarray, edges: np.ndarray) -> tuple[Figure, str]:
    """Recall by visible paint, with its intervals, see ``recall_by_paint``; the alt text."""
    recall = 1 - missed / total
    figure, ax = plt.subplots(figsize=(7, 3))
    ax.bar(range(len(total)), recall, yerr=np.abs(spread - recall), capsize=4)
    names = [
        f"{100 * low:.0f}–{100 * high:.0f} %\n{n} lanes" for low, high, n in zip(edges, edges[1:], total, strict=False)
    ]
    ax.set_xticks(range(len(total)), names)
    ax.set(title="Where little paint shows, lanes are missed", ylabel="recall", ylim=(0, 1))
    ax.set_xlabel("share of the label that shows paint")
    return figure, "Recall of markings in five bins of visible paint; the first bins are the lowest."


def found_and_true(scene: Scene, result: dict) -> list[np.ndarray]:
    """Two pictures of a scene, brightened: painted with what was found, and with the truth."""
    ids, last = scene.instance_amodal.astype(int), len(scene.lanes)  # crosswalks follow the lanes
    truth = {"lane_instances": np.where(ids <= last, ids, 0), "lane_polylines": scene.lanes}
    truth["crosswalk_instances"] = np.maximum(ids - last, 0)
    image = (255 * (scene.image / 255) ** 0.6).astype(np.uint8)
    return [overlay(image, result, 0.8), overlay(image, truth, 0.8)]


def draw_from_above(camera: Camera, lines: Mapping[str, list[np.ndarray]], limit: float = 40.0) -> tuple[Figure, str]:
    """Lanes on the ground: name → polylines in pixels, dots, then broad lines, up to ``limit`` metres; the alt text."""
    figure, ax = plt.subplots(figsize=(5, 4.2))
    styles = ({"marker": ".", "linestyle": "", "zorder": 3}, {"linewidth": 7, "alpha": 0.35})
    for (name, group), style in zip(lines.items(), styles, strict=True):
        for k, line in enumerate(group):
            x, z = on_ground(camera, line[line[:, 1] > camera.horizon().max() + 2]).T
            ax.plot(x[z < limit], z[z < limit], color=f"C{k}", label=None if k else name, **style)
    ax.set(title="Found lanes lie on the true ones", xlabel="metres to the right", ylabel="metres ahead")
    ax.legend()
    return figure, "The frame's lanes from above, in metres: found lanes as dots on the true lanes."
