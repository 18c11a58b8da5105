"""Lines and areas of labels → masks, drawn without anti-aliasing and numbered by where they lie."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from roadtopo_lib.data.samples import MOST_INSTANCES
from roadtopo_lib.decoding import turned, turned_points
from roadtopo_lib.labels import BACKGROUND, CLASSES, IGNORE_INDEX, NO_INSTANCE, ClassTable

REFERENCE_ROW = 0.9
"""Share of the height at which lanes are numbered from left to right, as ``config.reference_row`` has it by default."""
SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV draws with
MOST_POINTS = 1 << 21  # of a mask, by which its instance is put in order
FARTHEST = 1e9  # pixels: sums and squares of much larger numbers overflow
REACH = 1e6  # pixels: OpenCV is exact up to there, and slow beyond
MAX_THICKNESS = 32767  # of OpenCV's lines


@dataclass(frozen=True)
class Shape:
    """A line, or an area: its outlines or a mask.

    Args:
        parts: (M, 2) float (x, y) in pixels of the image each: a line's points in order along it, or an area's
            outlines, of which one inside another is a hole.
        class_id: of any class, of an area also 255 for unlabelled; of a line a class whose instances are lanes.
        instance: shapes of one image and class with equal values are one instance; ``None``: an instance of its own.
        filled: an area.
        mask: (h, w) bool in place of the outlines.
        corner: (x, y) of the mask's upper left pixel in the image.
    """

    parts: list[np.ndarray]
    class_id: int
    instance: str | None = None
    filled: bool = True
    mask: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)

    def turned(self, orientation: int, size: tuple[int, int]) -> "Shape":
        """A shape of stored pixels (H, W) = ``size``, as the image's EXIF orientation turns it."""
        parts = [turned_points(part, orientation, size) for part in self.parts]
        if self.mask is None:
            return replace(self, parts=parts)
        ends = np.array([self.corner, np.add(self.corner, self.mask.shape[::-1]) - 1])
        corner = turned_points(ends, orientation, size).min(axis=0).tolist()
        return replace(self, mask=turned(self.mask, orientation), corner=tuple(corner))

    def points(self) -> np.ndarray:
        """(M, 2) points of the line or outlines, or the pixels of the mask, of a large one an even part."""
        if self.mask is None:
            return np.concatenate(self.parts)
        step = 1 + math.isqrt(np.count_nonzero(self.mask) // MOST_POINTS)
        found = np.argwhere(self.mask[::step, ::step]) * step
        return (found if len(found) else np.argwhere(self.mask))[:, ::-1] + np.array(self.corner)

    def draw(self, canvas: np.ndarray, value: int, thickness: int) -> None:
        """Sets the shape's pixels of an (H, W) mask to a value."""
        if self.mask is not None:
            left, top = (max(place, 0) for place in self.corner)
            part = self.mask[top - self.corner[1] :, left - self.corner[0] :]
            window = canvas[top : top + part.shape[0], left : left + part.shape[1]]
            window[part[: window.shape[0], : window.shape[1]]] = value
        elif self.filled and len(self.parts) > 1:
            canvas[_joined(self.parts, canvas.shape)] = value
        elif self.filled:
            cv2.fillPoly(canvas, [_fixed_point(self.parts[0])], value, cv2.LINE_8, SUBPIXEL_BITS)
        else:
            cv2.polylines(canvas, [_fixed_point(self.parts[0])], False, value, thickness, cv2.LINE_8, SUBPIXEL_BITS)


def draw_masks(
    size: tuple[int, int], shapes: list[Shape], line_width: float, classes: ClassTable = CLASSES
) -> tuple[np.ndarray, np.ndarray, int]:
    """Semantic and instance mask of an image, drawn without anti-aliasing.

    Areas without instances come first, lanes over them, crossings over lanes. Lanes are numbered from left to right by
    where they meet the reference row, then crossings from near to far. The order of the labels does not matter.

    Args:
        size: (H, W).
        shapes: what to draw.
        line_width: of lines, in pixels from 1 on, below 1 a share of W.
        classes: the class table.

    Returns:
        (H, W) uint8 class ids, (H, W) uint16 instance ids 1..N, and how many instances have no pixel, since they lie
        outside of the image or under others.

    Raises:
        ValueError: more instances than ``MOST_INSTANCES``.
    """
    semantic, instance = np.full(size, BACKGROUND, np.uint8), np.full(size, NO_INSTANCE, np.uint16)
    # OpenCV draws a thick line one pixel wider than asked.
    thickness = min(max(1, round(line_width * size[1] if line_width < 1 else line_width) - 1), MAX_THICKNESS)
    by_role: dict[str, dict[object, list[Shape]]] = {"lane": {}, "crosswalk": {}}
    for place, shape in enumerate(shapes):
        role = None if shape.class_id == IGNORE_INDEX else classes[shape.class_id].instances
        key = (shape.class_id, shape.instance)
        if role is None:
            shape.draw(semantic, shape.class_id, thickness)
        else:
            by_role[role].setdefault(place if shape.instance is None else key, []).append(shape)
    lanes = sorted(by_role["lane"].values(), key=lambda lane: _x_at_reference(_points_of(lane), size[0]))
    crossings = sorted(by_role["crosswalk"].values(), key=lambda crossing: -_points_of(crossing)[:, 1].mean())
    instances = [*lanes, *crossings]
    if len(instances) > MOST_INSTANCES:
        raise ValueError(f"{len(instances)} lanes and crossings, expected at most {MOST_INSTANCES}")
    for number, members in enumerate(instances, start=1):
        for shape in members:
            shape.draw(semantic, shape.class_id, thickness)
            shape.draw(instance, number, thickness)
    visible = np.bincount(instance.ravel(), minlength=len(instances) + 1) > 0
    visible[NO_INSTANCE] = False
    return semantic, (np.cumsum(visible) * visible).astype(np.uint16)[instance], len(instances) - int(visible.sum())


def _points_of(shapes: list[Shape]) -> np.ndarray:
    return np.concatenate([shape.points() for shape in shapes]).clip(-FARTHEST, FARTHEST)


def _x_at_reference(points: np.ndarray, height: int) -> float:
    """Where a lane meets the reference row; beyond its ends it goes on as its lowest fifth does."""
    row = REFERENCE_ROW * (height - 1)
    x, y = points[np.argsort(points[:, 1], kind="stable")].T
    if y[0] <= row <= y[-1]:
        return float(np.interp(row, y, x))
    near = y >= y[-1] - max((y[-1] - y[0]) / 5, 1) if row > y[-1] else y <= y[0] + max((y[-1] - y[0]) / 5, 1)
    if np.ptp(y[near]) == 0:
        near[:] = True
    if np.ptp(y[near]) == 0:
        return float(x.mean())
    slope, offset = np.polyfit(y[near], x[near], 1)
    return float(slope * row + offset)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """(M, 1, 2) int32 for OpenCV."""
    return np.round(np.clip(points, -REACH, REACH) * 2**SUBPIXEL_BITS).astype(np.int32).reshape(-1, 1, 2)


def _joined(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of several outlines: those that overlap are joined, one that lies in what is filled is a hole."""
    filled = np.zeros(size, bool)
    apart = {ring.tobytes(): ring for ring in rings}.values()
    for ring in sorted(apart, key=lambda ring: cv2.contourArea(ring.astype(np.float32)), reverse=True):
        one = np.zeros(size, np.uint8)
        cv2.fillPoly(one, [_fixed_point(ring)], 1, cv2.LINE_8, SUBPIXEL_BITS)
        filled[one > 0] = not filled[one > 0].all()
    return filled
