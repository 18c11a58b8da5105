"""Pictures: predictions painted over the image, training curves.

Instance colours follow the order of the ids, so the leftmost lane is blue in every picture. The first six are Paul
Tol's "bright" scheme, made to be told apart with any common colour vision deficiency. The scheme's seventh is grey, the
colour of a road; an orange that is not in the scheme takes its place. Numbers say the same without colour.

Reference:
    P. Tol, "Colour Schemes", SRON/EPS/TN/09-002, 2021.
"""

from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from roadtopo_lib.labels import BACKGROUND, CLASSES, ClassTable

INSTANCE_COLORS = np.array(
    [(68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119), (255, 140, 40)],
    dtype=np.uint8,
)
"""RGB of instances 1, 2, 3, …; after the seventh it starts again."""
STRIP_PIXELS = 1 << 20  # painted at a time


def instance_color(instance_id: int) -> tuple[int, int, int]:
    """RGB of an instance id >= 1."""
    return tuple(int(v) for v in INSTANCE_COLORS[(instance_id - 1) % len(INSTANCE_COLORS)])


def color_semantic(mask: np.ndarray, table: ClassTable = CLASSES) -> np.ndarray:
    """Class ids as colours of the class table: (H, W) → (H, W, 3) uint8 RGB."""
    return table.palette()[mask]


def color_instances(mask: np.ndarray) -> np.ndarray:
    """Instance ids as colours, 0 black: (H, W) → (H, W, 3) uint8 RGB."""
    colors = np.concatenate([np.zeros((1, 3), np.uint8), INSTANCE_COLORS])
    return colors[np.where(mask > 0, (mask.astype(np.int64) - 1) % len(INSTANCE_COLORS) + 1, 0)]


def overlay(image: np.ndarray, result: dict, alpha: float = 0.55) -> np.ndarray:
    """Paints separated lanes and crosswalks over the image, each in its own colour, lanes numbered left to right.

    Args:
        image: (H, W, 3) uint8 RGB.
        result: what ``LanePostProcessor.process`` or ``LaneSegmenter`` returns, in the image's coordinates.
        alpha: opacity of the painted pixels, 0..1.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ValueError: image and masks differ in size.
    """
    lanes, crosswalks = result["lane_instances"], result["crosswalk_instances"]
    if lanes.shape != image.shape[:2] or crosswalks.shape != image.shape[:2]:
        raise ValueError(f"image is {image.shape[:2]}, lane mask {lanes.shape}, crosswalk mask {crosswalks.shape}")
    canvas = image.copy()
    last_lane = max(len(result["lane_polylines"]), int(lanes.max(initial=0)))
    strips = [np.array_split(whole, lanes.size // STRIP_PIXELS + 1) for whole in (canvas, crosswalks, lanes)]
    for strip, *masks in zip(*strips, strict=True):
        for mask, before in zip(masks, (last_lane, 0), strict=True):  # colours go on as ids do in an instance mask
            painted = mask > 0
            colors = color_instances(before + mask[painted].astype(np.int64)).astype(np.float32)
            strip[painted] = (alpha * colors + (1 - alpha) * strip[painted]).astype(np.uint8)
    unit = image.shape[1] / 640  # line widths and letters grow with the picture
    for number, polyline in enumerate(result["lane_polylines"], start=1):
        points = np.round(polyline).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(canvas, [points], False, instance_color(number), max(1, round(2 * unit)), cv2.LINE_AA)
    for number, polyline in enumerate(result["lane_polylines"], start=1):
        _label(canvas, str(number), _lowest_visible(polyline, image.shape[:2]), instance_color(number), unit)
    for number in range(1, int(crosswalks.max(initial=0)) + 1):
        sums = cv2.moments((crosswalks == number).view(np.uint8), binaryImage=True)
        center = sums["m10"] / sums["m00"], sums["m01"] / sums["m00"]
        _label(canvas, f"C{number}", center, instance_color(last_lane + number), unit)
    return canvas


def overlay_labels(
    image: np.ndarray, semantic_mask: np.ndarray, alpha: float = 0.5, table: ClassTable = CLASSES
) -> np.ndarray:
    """Paints class colours over the image where a class is not background: (H, W, 3) uint8 RGB."""
    painted = semantic_mask != BACKGROUND
    canvas = image.copy()
    colors = color_semantic(semantic_mask, table)[painted].astype(np.float32)
    canvas[painted] = (alpha * colors + (1 - alpha) * canvas[painted]).astype(np.uint8)
    return canvas


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Pictures of one size side by side on white, row by row.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
        columns: pictures in a row.
        gap: white pixels between them.

    Returns:
        (rows·(H + gap) − gap, columns·(W + gap) − gap, 3) uint8 RGB.
    """
    framed = [np.pad(picture, ((0, gap), (0, gap), (0, 0)), constant_values=255) for picture in pictures]
    framed += [np.full_like(framed[0], 255)] * (-len(framed) % columns)
    rows = [np.hstack(framed[start : start + columns]) for start in range(0, len(framed), columns)]
    return np.vstack(rows)[: -gap or None, : -gap or None]


def training_curve(history: Sequence[dict]) -> Figure:
    """Loss and mIoU over the epochs of a ``LaneSegmentationTrainer.history``; not registered with pyplot's display."""
    epochs = [row["epoch"] for row in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(epochs, [row["train_loss"] for row in history], color="#4477AA", marker="o", label="training")
    left.plot(epochs, [row["val_loss"] for row in history], color="#EE6677", marker="s", label="validation")
    left.set(xlabel="epoch", ylabel="total loss", title=f"Validation loss ends at {history[-1]['val_loss']:.3f}")
    left.legend(frameon=False)
    right.plot(epochs, [row["val_miou"] for row in history], color="#228833", marker="o")
    right.set(xlabel="epoch", ylabel="mIoU", title=f"Validation mIoU ends at {history[-1]['val_miou']:.3f}")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no epoch 1.5
    plt.close(figure)
    return figure


def _lowest_visible(polyline: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
    inside = ((polyline >= 0) & (polyline < size[::-1])).all(axis=1)
    return tuple((polyline[inside] if inside.any() else polyline)[-1])


def _label(
    canvas: np.ndarray, text: str, position: tuple[float, float], color: tuple[int, int, int], unit: float
) -> None:
    """White text on a coloured plate, moved inside the picture."""
    scale, thickness = 0.55 * unit, max(1, round(1.4 * unit))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    pad = round(3 * unit) + 1
    x = int(np.clip(position[0] - width / 2, pad, max(pad, canvas.shape[1] - width - pad)))
    y = int(np.clip(position[1] - pad, height + pad, max(height + pad, canvas.shape[0] - pad)))
    cv2.rectangle(canvas, (x - pad, y - height - pad), (x + width + pad, y + pad), color, -1)
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)
