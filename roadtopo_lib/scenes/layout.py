"""The parts a road is made of: lines and their strokes, strips of ground, walls, crossings.

Everything is measured in road coordinates: u metres to the right of the ego lane's centre, s metres ahead.
"""

from dataclasses import dataclass, field, replace

import numpy as np

FREEWAY, RURAL, TOWN = "freeway", "rural", "town"
WHITE, YELLOW = (0.93, 0.93, 0.91), (0.93, 0.70, 0.20)


@dataclass(frozen=True)
class Stroke:
    """One painted band: offset from its line's u, width, dash and gap length (gap 0: solid), phase; all metres."""

    offset: float
    width: float
    dash: float = 1.0
    gap: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Line:
    """One line along the road and its label.

    Args:
        u: offset of its centre, metres.
        label: LANE_MARKING or LANE_BOUNDARY, or ``None`` if it is no line of this carriageway.
        strokes: what is painted; empty for a kerb.
        color: RGB of fresh paint, 0..1.
        opacity: of the paint, 0..1.
        wear: how unevenly it has worn, 0..1.
        gone: (n, 2) metres of s where the paint has disappeared.
    """

    u: float
    label: int | None
    strokes: tuple[Stroke, ...] = ()
    color: tuple[float, float, float] = WHITE
    opacity: float = 0.9
    wear: float = 0.3
    gone: tuple[tuple[float, float], ...] = ()

    def half_width(self) -> float:
        """Metres from the centre to the outermost paint."""
        return max((abs(k.offset) + k.width / 2 for k in self.strokes), default=0.1)

    def in_good_order(self) -> "Line":
        """The same line where the road is looked after: worn a little, but whole."""
        return replace(self, opacity=max(self.opacity, 0.7), wear=min(self.wear, 0.5), gone=())


@dataclass(frozen=True)
class Strip:
    """Ground of one kind from offset u outwards (to the right), with its own brightness."""

    u: float
    material: str
    tone: float = 1.0


@dataclass(frozen=True)
class Wall:
    """Something upright along the road: ``kind`` concrete, rail, fence, hedge, slope or houses."""

    u: float
    height: float
    kind: str
    start: float
    stop: float
    depth: float = 0.3


@dataclass(frozen=True)
class Crosswalk:
    """A zebra crossing: the rectangle of its stripes, the stripes' width and period, metres."""

    start: float
    stop: float
    left: float
    right: float
    stripe: float
    period: float
    opacity: float


@dataclass
class Layout:
    """Cross-section and furniture of one road.

    Args:
        kind: freeway, rural or town.
        borders: (lanes + 1,) u of the lane borders.
        ego: index of the ego lane, from the left.
        lines: everything painted along the road, left to right.
        strips: kinds of ground, left to right; the first one reaches to −∞.
        walls: upright things along the road.
        crosswalks: zebra crossings.
        stop_lines: (start, stop, left, right) rectangles.
        oncoming: lanes that run towards the camera, as their indices.
        road: (left, right) u of the paved surface.
    """

    kind: str
    borders: np.ndarray
    ego: int
    lines: list[Line] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    walls: list[Wall] = field(default_factory=list)
    crosswalks: list[Crosswalk] = field(default_factory=list)
    stop_lines: list[tuple[float, float, float, float]] = field(default_factory=list)
    oncoming: tuple[int, ...] = ()
    road: tuple[float, float] = (0.0, 0.0)


def mirrored(layout: Layout) -> Layout:
    """The same road with left and right exchanged."""
    lines = [
        Line(
            -line.u, line.label, tuple(Stroke(-k.offset, k.width, k.dash, k.gap, k.phase) for k in line.strokes),
            line.color, line.opacity, line.wear, line.gone,
        )
        for line in reversed(layout.lines)
    ]  # fmt: skip
    ends = [strip.u for strip in layout.strips[1:]]
    # a strip's left end becomes the mirrored strip's right end; the outermost strip now reaches to −∞
    starts = [-np.inf] + [-u for u in reversed(ends)]
    strips = [Strip(u, s.material, s.tone) for u, s in zip(starts, reversed(layout.strips), strict=True)]
    lanes = len(layout.borders) - 1
    return Layout(
        layout.kind,
        -layout.borders[::-1],
        lanes - 1 - layout.ego,
        lines,
        strips,
        [Wall(-w.u, w.height, w.kind, w.start, w.stop, w.depth) for w in layout.walls],
        [Crosswalk(c.start, c.stop, -c.right, -c.left, c.stripe, c.period, c.opacity) for c in layout.crosswalks],
        [(a, b, -right, -left) for a, b, left, right in layout.stop_lines],
        tuple(sorted(lanes - 1 - k for k in layout.oncoming)),
        (-layout.road[1], -layout.road[0]),
    )
