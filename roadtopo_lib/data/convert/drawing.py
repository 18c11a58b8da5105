"""Lines and areas of labels → masks, drawn without anti-aliasing and numbered by where they lie."""

from dataclasses import dataclass

import cv2
import numpy as np

from roadtopo_lib.labels import BACKGROUND, CLASSES, NO_INSTANCE, ClassTable

REFERENCE_ROW = 0.9
"""Share of the height at which lanes are numbered from left to right, as ``config.reference_row`` has it by default."""
SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV draws with


@dataclass(frozen=True)
class Line:
    """A lane line.

    Args:
        points: (M, 2) float (x, y) in pixels of the image, in order along the line.
        class_id: of a class whose instances are lanes.
        instance: lines of one image with equal values are one lane; ``None``: a lane of its own.
    """

    points: np.ndarray
    class_id: int
    instance: object = None


@dataclass(frozen=True)
class Area:
    """A region: its outlines, or a mask.

    Args:
        rings: (M, 2) float (x, y) each; a pixel inside an even number of rings is a hole.
        class_id: of any class.
        instance: as in ``Line``, for classes with instances.
        mask: (h, w) bool in place of the rings.
        corner: (x, y) of the mask's upper left pixel in the image.
    """

    rings: list[np.ndarray]
    class_id: int
    instance: object = None
    mask: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)


def draw_masks(
    size: tuple[int, int], lines: list[Line], areas: list[Area], line_width: float, classes: ClassTable = CLASSES
) -> tuple[np.ndarray, np.ndarray]:
    """Semantic and instance mask of an image, drawn without anti-aliasing.

    Lanes are numbered from left to right by where they meet the reference row, then crossings from near to far. The
    order of the labels in their file does not matter.

    Args:
        size: (H, W).
        lines, areas: see ``Labelled``.
        line_width: in pixels from 1 on, below 1 a share of W.
        classes: the class table.

    Returns:
        (H, W) uint8 class ids, (H, W) uint16 instance ids.
    """
    semantic, instance = np.full(size, BACKGROUND, np.uint8), np.full(size, NO_INSTANCE, np.uint16)
    # OpenCV draws a thick line one pixel wider than asked.
    thickness = max(1, round(line_width * size[1] if line_width < 1 else line_width) - 1)
    for area in areas:
        if classes[area.class_id].instances is None:
            semantic[_region(area, size)] = area.class_id
    lane_areas = [area for area in areas if classes[area.class_id].instances == "lane"]
    lanes = _grouped([*lines, *lane_areas])
    lanes.sort(key=lambda lane: _x_at_reference(_points_of(lane, size), size[0]))
    crossings = _grouped([area for area in areas if classes[area.class_id].instances == "crosswalk"])
    crossings.sort(key=lambda crossing: -_points_of(crossing, size)[:, 1].mean())
    for number, members in enumerate([*lanes, *crossings], start=1):
        for member in members:
            region = _region(member, size) if isinstance(member, Area) else _stroke(member.points, size, thickness)
            semantic[region], instance[region] = member.class_id, number
    return semantic, instance


def _grouped(members: list) -> list[list]:
    """Lines and areas by instance; those without one stay alone."""
    groups: dict[object, list] = {}
    for place, member in enumerate(members):
        key = ("alone", place) if member.instance is None else ("joined", member.class_id, member.instance)
        groups.setdefault(key, []).append(member)
    return list(groups.values())


def _points_of(members: list, size: tuple[int, int]) -> np.ndarray:
    """(M, 2) points of all members of an instance."""
    points = []
    for member in members:
        if isinstance(member, Area) and member.mask is not None:
            rows, columns = np.nonzero(_region(member, size))
            points.append(np.stack([columns, rows], axis=1) if len(rows) else np.zeros((1, 2)))
        else:
            points += member.rings if isinstance(member, Area) else [member.points]
    return np.concatenate(points).astype(np.float64)


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


def _fixed_point(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(M, 1, 2) int32 for OpenCV; far outside of the image the exact place does not matter."""
    reach = 4 * max(size)
    clipped = np.clip(np.asarray(points, np.float64), -reach, reach)
    return np.round(clipped * 2**SUBPIXEL_BITS).astype(np.int32).reshape(-1, 1, 2)


def _stroke(points: np.ndarray, size: tuple[int, int], thickness: int) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    cv2.polylines(canvas, [_fixed_point(points, size)], False, 1, thickness, cv2.LINE_8, SUBPIXEL_BITS)
    return canvas > 0


def _region(area: Area, size: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    if area.mask is not None:
        x, y = area.corner
        top, left = max(y, 0), max(x, 0)
        part = area.mask[top - y : max(size[0] - y, 0), left - x : max(size[1] - x, 0)]
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        return canvas > 0
    rings = [_fixed_point(ring, size) for ring in area.rings]
    cv2.fillPoly(canvas, rings, 1, cv2.LINE_8, SUBPIXEL_BITS)  # even-odd: rings inside rings are holes
    return canvas > 0
