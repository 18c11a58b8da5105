"""Draw a road: how many lanes, which line types, what lies at both edges, where people cross.

Line types follow the marking rules of several countries: 3 m/9 m dashes (United States), 6/12 and 3/6 (Europe),
8/12 and 6/9 (Asia), short marks in town; yellow separates directions or marks the inner edge in about half of them.
The two sides of a road are drawn by the same function and mirrored.
"""

import numpy as np

from roadtopo_lib.labels import LANE_BOUNDARY, LANE_MARKING
from roadtopo_lib.scenes.layout import (
    FREEWAY,
    RURAL,
    TOWN,
    WHITE,
    YELLOW,
    Crosswalk,
    Layout,
    Line,
    Strip,
    Stroke,
    Wall,
    mirrored,
)  # fmt: skip

DASHES = {
    FREEWAY: ((3.05, 9.15), (3.05, 9.15), (6, 12), (8, 12), (4.5, 7.5), (10, 10), (6, 9)),
    RURAL: ((3.05, 9.15), (3, 6), (3, 3), (6, 12), (2, 4), (3, 9)),
    TOWN: ((3, 6), (3, 3), (2, 4), (1, 1), (3.05, 9.15), (6, 3), (2, 2)),
}


def sample_layout(rng: np.random.Generator) -> Layout:
    """Draw a road: its kind first, then lanes, lines, both sides, and crossings."""
    kind = str(rng.choice([FREEWAY, RURAL, TOWN], p=[0.5, 0.21, 0.29]))
    lanes, width = _lanes(rng, kind)
    two_way = lanes > 1 and rng.random() < {FREEWAY: 0, RURAL: 0.85, TOWN: 0.6}[kind]
    ego = int(rng.integers(1 if two_way else 0, lanes))
    borders = (np.arange(lanes + 1) - ego - 0.5) * width
    layout = Layout(kind, borders, ego)
    if two_way:  # whoever drives on the right meets the others on the left
        layout.oncoming = tuple(range(int(rng.integers(1, ego + 1))))
    _inner_lines(rng, layout)
    right = _side(rng, kind, float(borders[-1]), inner=False)
    left = _side(rng, kind, float(-borders[0]), inner=kind == FREEWAY or (not two_way and rng.random() < 0.3))
    _join(layout, left, right, rng)
    if rng.random() < {FREEWAY: 0.01, RURAL: 0.1, TOWN: 0.58}[kind]:
        _crossing(rng, layout)
    return mirrored(layout) if rng.random() < 0.35 else layout


def _lanes(rng: np.random.Generator, kind: str) -> tuple[int, float]:
    """Number of lanes and their width in metres."""
    if kind == FREEWAY:
        return int(rng.choice([2, 3, 4, 5], p=[0.3, 0.35, 0.25, 0.1])), rng.uniform(3.3, 3.85)
    if kind == RURAL:
        return int(rng.choice([1, 2, 3, 4], p=[0.12, 0.68, 0.14, 0.06])), rng.uniform(2.75, 3.8)
    return int(rng.choice([1, 2, 3, 4], p=[0.14, 0.44, 0.24, 0.18])), rng.uniform(2.7, 3.6)


def _wear(rng: np.random.Generator) -> dict:
    """Opacity, unevenness and lost stretches of a line's paint: most lines are good, some are nearly gone."""
    faded = rng.random() < 0.22
    gone = []
    if rng.random() < 0.15:
        at = rng.uniform(-10, 20)
        for _ in range(rng.integers(1, 5)):
            length = rng.uniform(1, 12)
            gone.append((at, at + length))
            at += length + rng.uniform(4, 25)
    return {
        "opacity": float(rng.uniform(0.35, 0.65) if faded else rng.uniform(0.7, 1.0)),
        "wear": float(rng.uniform(0.5, 1.0) if rng.random() < 0.3 else rng.uniform(0, 0.5)),
        "gone": tuple(gone),
    }


def _paint(rng: np.random.Generator, color: tuple[float, float, float]) -> tuple[float, float, float]:
    """The shade of one road's paint: white is more or less grey, yellow runs from lemon to orange."""
    shade = np.array(color) * rng.uniform(0.85, 1.05)
    if color == YELLOW:
        shade = shade * [1, rng.uniform(0.88, 1.1), rng.uniform(0.4, 2.0)]
    return tuple(np.clip(shade, 0, 1).tolist())


def _inner_lines(rng: np.random.Generator, layout: Layout) -> None:
    """Lines between lanes: dashes that share their lengths, and the line between the two directions."""
    width = rng.uniform(0.1, 0.2)
    dash, gap = DASHES[layout.kind][rng.integers(len(DASHES[layout.kind]))]
    yellow, white = _paint(rng, YELLOW), _paint(rng, WHITE)
    worn = _wear(rng)
    for k, u in enumerate(layout.borders[1:-1], start=1):
        phase = rng.uniform(0, dash + gap)
        centre = bool(layout.oncoming) and k == len(layout.oncoming)
        if rng.random() < (0.05 if centre else 0.03):
            continue  # an unmarked border has no label
        if centre:
            strokes = _centre_strokes(rng, width, (dash, gap, phase))
            color = yellow if rng.random() < 0.55 else white
        else:
            pick = rng.random()
            if pick < 0.84:
                strokes = (Stroke(0, width, dash, gap, phase),)
            elif pick < 0.95:
                strokes = (Stroke(0, width),)
            elif pick < 0.98:
                strokes = (Stroke(0, 0.12, 0.12, rng.uniform(1.0, 1.6), phase),)  # Botts' dots
            else:
                strokes = (Stroke(-width, width * 0.8), Stroke(width, width * 0.8, dash, gap, phase))
            color = white if rng.random() < 0.96 else yellow
        own = worn if rng.random() < 0.7 else _wear(rng)
        layout.lines.append(Line(float(u), LANE_MARKING, strokes, color, **own))


def _centre_strokes(rng: np.random.Generator, width: float, dashes: tuple[float, float, float]) -> tuple[Stroke, ...]:
    """The line between two directions: double solid, solid and dashed, single solid or dashed."""
    apart = rng.uniform(0.8, 1.3) * width
    pick = rng.random()
    if pick < 0.35:
        return (Stroke(-apart, width), Stroke(apart, width))
    if pick < 0.5:
        side = int(rng.choice([-1, 1]))
        return (Stroke(side * apart, width), Stroke(-side * apart, width, *dashes))
    if pick < 0.72:
        return (Stroke(0, width),)
    return (Stroke(0, width, *dashes),)


def _side(rng: np.random.Generator, kind: str, border: float, inner: bool) -> Layout:
    """One road edge and all that lies beyond it, as if on the right.

    Args:
        rng: source of randomness.
        kind: of the road.
        border: u of the outermost lane border.
        inner: True next to an opposing carriageway, which is then part of the ground.
    """
    side = Layout(kind, np.array([border]), 0)
    painted = rng.random() < {FREEWAY: 0.96, RURAL: 0.65, TOWN: 0.4}[kind]
    if painted:
        color = _paint(rng, YELLOW) if rng.random() < (0.55 if inner else 0.08) else _paint(rng, WHITE)
        strokes = (Stroke(0, rng.uniform(0.1, 0.2) if rng.random() < 0.8 else rng.uniform(0.2, 0.32)),)
        side.lines.append(Line(border, LANE_BOUNDARY, strokes, color, **_wear(rng)))
    shoulder = rng.uniform(*{FREEWAY: (0.4, 3.5), RURAL: (0.1, 1.5), TOWN: (0.1, 2.6)}[kind])
    shoulder *= 0.5 if inner else 1.0
    u = border + shoulder
    paved = "shoulder" if rng.random() < 0.45 else "asphalt"
    side.strips.append(Strip(border + 0.25, paved, rng.uniform(0.85, 1.2)))
    kerb = rng.random() < {FREEWAY: 0.06, RURAL: 0.06, TOWN: 0.82}[kind]
    if kerb:
        u = _kerb(rng, side, u, painted)
    side.road = (0.0, side.road[1] if kerb else u)
    if kind == TOWN or (kerb and rng.random() < 0.5):
        _town_side(rng, side, u)
    else:
        _country_side(rng, side, u, inner)
    return side


def _kerb(rng: np.random.Generator, side: Layout, u: float, painted: bool) -> float:
    """Gutter, kerb stone, maybe a sidewalk; returns where it ends."""
    if rng.random() < 0.5:
        side.strips.append(Strip(u, "gutter", rng.uniform(0.75, 1.3)))
        u += rng.uniform(0.2, 0.5)
    side.road = (0.0, u)
    if not painted:  # the kerb is the road edge only where no edge line is
        side.lines.append(Line(u + 0.1, LANE_BOUNDARY))
    face = rng.uniform(0.08, 0.16)
    side.strips += [Strip(u, "kerb", rng.uniform(0.55, 0.85)), Strip(u + face, "kerb", rng.uniform(1.0, 1.25))]
    u += face + rng.uniform(0.12, 0.25)
    if rng.random() < 0.25:
        side.strips.append(Strip(u, "grass"))
        u += rng.uniform(0.5, 2)
    if rng.random() < 0.85:
        side.strips.append(Strip(u, "sidewalk", rng.uniform(0.9, 1.1)))
        u += rng.uniform(1.2, 4.5)
    return u


def _town_side(rng: np.random.Generator, side: Layout, u: float) -> None:
    """Beyond a street's edge: lawns, hedges, fences and houses."""
    side.strips.append(Strip(u, str(rng.choice(["grass", "gravel", "sidewalk2"]))))
    pick = rng.random()
    if pick < 0.2:
        height = rng.uniform(0.8, 2.2)
        side.walls.append(
            Wall(u + rng.uniform(0, 1.5), height, str(rng.choice(["fence", "hedge", "concrete"])), -2, 90)
        )
    if pick > 0.15 and rng.random() < 0.75:
        side.walls.append(Wall(u + rng.uniform(0.2, 9), rng.uniform(3.5, 18), "houses", -5, 140))


def _country_side(rng: np.random.Generator, side: Layout, u: float, inner: bool) -> None:
    """Beyond a freeway's or country road's edge: barrier, verge, opposing carriageway, slope."""
    barrier = str(rng.choice(["none", "concrete", "rail"], p=[0.3, 0.42, 0.28] if inner else [0.68, 0.12, 0.2]))
    if barrier == "concrete":
        side.walls.append(Wall(u, rng.uniform(0.7, 1.2), barrier, -5, 250, depth=rng.uniform(0.2, 0.5)))
    elif barrier == "rail":
        side.walls.append(Wall(u + rng.uniform(0.1, 1.5), rng.uniform(0.65, 0.9), barrier, rng.uniform(-5, 15), 220))
    if rng.random() < 0.6:
        side.strips.append(Strip(u, str(rng.choice(["gravel", "sand", "shoulder"])), rng.uniform(0.9, 1.2)))
        u += rng.uniform(0.3, 2.5)
    side.strips.append(Strip(u, str(rng.choice(["grass", "dry", "sand", "dry"]))))
    if inner and rng.random() < 0.8:
        _opposing(rng, side, u + (rng.uniform(0.6, 2) if barrier == "concrete" else rng.uniform(2, 14)))
        return
    if rng.random() < 0.45:
        side.walls.append(
            Wall(u + rng.uniform(1.5, 12), rng.uniform(2, 11), "slope", -5, 320, depth=rng.uniform(8, 30))
        )
    elif rng.random() < 0.3:
        kind = str(rng.choice(["fence", "hedge", "concrete"]))
        side.walls.append(Wall(u + rng.uniform(1, 8), rng.uniform(1, 4), kind, rng.uniform(-5, 40), 260))


def _opposing(rng: np.random.Generator, side: Layout, u: float) -> None:
    """The carriageway of the other direction: its lines are real paint, but no lines of ours."""
    white, lanes, width = _paint(rng, WHITE), int(rng.integers(2, 5)), rng.uniform(3.3, 3.8)
    side.strips.append(Strip(u, "opposing", rng.uniform(0.9, 1.15)))
    for k in range(lanes + 1):
        strokes = (Stroke(0, 0.15),) if k in (0, lanes) else (Stroke(0, 0.13, 3.05, 9.15, rng.uniform(0, 12)),)
        side.lines.append(Line(u + 1 + k * width, None, strokes, white, 0.85))
    side.strips.append(Strip(u + 2 + lanes * width, "dry"))


def _join(layout: Layout, left: Layout, right: Layout, rng: np.random.Generator) -> None:
    """Put the mirrored left side, the lanes and the right side together."""
    tones = (
        rng.uniform(0.93, 1.07, len(layout.borders) - 1) if rng.random() < 0.45 else np.ones(len(layout.borders) - 1)
    )
    lanes = [Strip(float(u), "asphalt", float(t)) for u, t in zip(layout.borders[:-1], tones, strict=True)]
    flipped = mirrored(left)
    outer = left.strips[0].u  # the shoulder reaches in as far as the edge line; lanes begin where it ends
    lanes[0] = Strip(-outer, lanes[0].material, lanes[0].tone)
    layout.strips = flipped.strips + lanes + right.strips
    layout.lines = sorted(flipped.lines + layout.lines + right.lines, key=lambda line: line.u)
    layout.walls = flipped.walls + right.walls
    layout.road = (-left.road[1], right.road[1])


def _crossing(rng: np.random.Generator, layout: Layout) -> None:
    """One zebra crossing over the whole road, rarely two, with or without a stop line before it."""
    start = rng.uniform(3.5, 30)
    for _ in range(1 if rng.random() < 0.85 else 2):
        length, stripe = rng.uniform(2.2, 5), rng.uniform(0.35, 0.7)
        left, right = layout.road
        period = stripe * rng.uniform(1.7, 2.3)
        layout.crosswalks.append(
            Crosswalk(
                start, start + length, left + rng.uniform(0.05, 0.6), right - rng.uniform(0.05, 0.6), stripe, period,
                float(rng.uniform(0.5, 1.0)),
            )
        )  # fmt: skip
        if rng.random() < 0.5:
            first = layout.borders[len(layout.oncoming)]
            at = start - rng.uniform(1, 2.5)
            layout.stop_lines.append(
                (at - rng.uniform(0.3, 0.6), at, float(first) + 0.15, float(layout.borders[-1]) - 0.15)
            )
        start += length + rng.uniform(8, 22)
