"""The class table: the only place where a class id is written as a number.

Every other room imports the names below. The six classes are those of the Road Topology guide; the colours are
taken from the Okabe-Ito palette, which readers with any common colour vision deficiency can tell apart.

Two kinds of thing are separated into instances:

* ``"lane"``: painted lane lines (``LANE_MARKING``) and the line where the road ends, an edge line or a kerb
  (``LANE_BOUNDARY``). Lane benchmarks (TuSimple, CULane, BDD100K) label both as lanes, and a driver needs both.
* ``"crosswalk"``: each zebra crossing is one instance.

In an instance mask the ids run 1..N over the whole image, lanes first (left to right), then crosswalks.

Reference:
    M. Okabe, K. Ito, "Color Universal Design", 2008 (palette).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelClass:
    """One row of the class table.

    Args:
        id: value in the semantic mask, 0..5.
        name: the name used in tables, metrics and files.
        color: RGB, each 0..255.
        instances: ``"lane"`` or ``"crosswalk"`` if the class bears instances, else ``None``.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    instances: str | None = None


CLASSES: tuple[LabelClass, ...] = (
    LabelClass(0, "background", (0, 0, 0)),
    LabelClass(1, "road", (128, 128, 128)),
    LabelClass(2, "lane_marking", (230, 159, 0), instances="lane"),
    LabelClass(3, "crosswalk", (86, 180, 233), instances="crosswalk"),
    LabelClass(4, "sidewalk", (204, 121, 167)),
    LabelClass(5, "lane_boundary", (0, 158, 115), instances="lane"),
)

BACKGROUND, ROAD, LANE_MARKING, CROSSWALK, SIDEWALK, LANE_BOUNDARY = (c.id for c in CLASSES)

NUM_CLASSES = len(CLASSES)
CLASS_NAMES = tuple(c.name for c in CLASSES)

IGNORE_INDEX = 255
"""Semantic id of an unlabelled pixel: it takes part in no loss and no score."""

NO_INSTANCE = 0
"""Instance id of a pixel that belongs to no instance."""

LANE_CLASS_IDS = tuple(c.id for c in CLASSES if c.instances == "lane")
CROSSWALK_CLASS_IDS = tuple(c.id for c in CLASSES if c.instances == "crosswalk")


def palette() -> np.ndarray:
    """Colours of all 256 possible mask values; unlabelled pixels are white.

    Returns:
        (256, 3) uint8 RGB, so that ``palette()[semantic_mask]`` is an (H, W, 3) picture.
    """
    colors = np.zeros((256, 3), dtype=np.uint8)
    for c in CLASSES:
        colors[c.id] = c.color
    colors[IGNORE_INDEX] = 255
    return colors


LINE_WIDTH = 30 / 1640
"""Width of a drawn lane line as a share of the image width: CULane's benchmark draws lanes 30 px wide in 1640.

``scenes`` draws its label lines so wide, ``metrics.LaneF1`` draws the lanes that it compares, and ``postprocess.road``
measures its tolerances in this width.
"""

LINE_SPACING = 2.0
"""Distance in line widths, centre to centre, from which the labels of two lines can be told apart.

``scenes`` ends a label line where it comes nearer to another one; ``postprocess.road`` ends a continued curve there.
"""
