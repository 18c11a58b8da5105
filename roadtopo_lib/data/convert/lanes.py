"""What the label files of lane benchmarks share: points become a ``Line`` or are dropped for a reason."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from roadtopo_lib.data.convert.drawing import Line

NO_POINT, ONE_POINT = "a lane without a point", "a lane of a single point"


def lines_of(lanes: Iterable[np.ndarray], class_id: int, dropped: Counter) -> list[Line]:
    """Lanes with at least two points.

    Args:
        lanes: (M, 2) float (x, y) each.
        class_id: of the lines.
        dropped: counts the others.
    """
    lines = []
    for points in lanes:
        if len(points) < 2:
            dropped[ONE_POINT if len(points) else NO_POINT] += 1
        else:
            lines.append(Line(points, class_id))
    return lines
