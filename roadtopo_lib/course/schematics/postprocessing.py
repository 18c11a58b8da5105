"""Drawings of notebook 6: clustering, curves of one road, numbering, lanes and crosswalks as two groups."""

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.schematics._canvas import (
    COLORS,
    FAINT,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SMALL,
    Sheet,
    backdrop,
    drawing,
    frame_sample,
)
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.labels import BACKGROUND, CLASSES, CROSSWALK, LANE_BOUNDARY, LANE_MARKING, ROAD
from roadtopo_lib.postprocess import fit_lane_curve, fit_road, radius_from_margins, x_at_row
from roadtopo_lib.postprocess.clustering import (
    MIN_POINTS,
    NEIGHBOURS,
    SAMPLE_SIZE,
    VALLEY,
    WINDOW,
    spread,
    squared_distances,
)
from roadtopo_lib.postprocess.curves import row_medians

LABEL = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1.5}
"""Behind words on a photograph."""


def toy_points() -> np.ndarray:
    """(863, 2): the toy of notebook 6, with two lanes and a bridge of strays, a thin lane, and three lone pixels."""
    rng = np.random.default_rng(0)
    thick = [rng.normal((0, 0), 0.15, (300, 2)), rng.normal((2.7, 0), 0.15, (200, 2))]
    thin = np.column_stack([rng.uniform(-2, 4, 300), rng.normal(4, 0.15, 300)])
    bridge = np.column_stack([rng.uniform(0.3, 2.4, 60), rng.normal(0, 0.05, 60)])
    return np.concatenate([*thick, thin, bridge, [[7, 0], [7.2, 0.3], [6.9, -0.2]]])


def clustering_steps(points: np.ndarray, radius: float) -> dict:
    """The four steps of the method "fast" on a toy, kept apart so that each can be drawn.

    Args:
        points: (N, D).
        radius: clustering radius.

    Returns:
        ``sample`` (M, D) of the first round; ``modes`` (K, D); ``rounds``, for each round the number of modes so far
        and (N,) labels, −1 = left over; ``lanes`` (N,) labels after joining.
    """
    modes, rounds, left, first = np.empty((0, points.shape[1])), [], np.arange(len(points)), None
    while len(left) >= MIN_POINTS:
        sample = points[left[spread(len(left), SAMPLE_SIZE)]]
        first = sample if first is None else first
        far = squared_distances(sample, sample)
        density = np.sort(far, axis=1)[:, min(NEIGHBOURS, len(sample) - 1)]
        denser = (density < density[:, None]) & (far <= 2 * radius**2)
        new = np.array([sample[far[p] <= radius**2].mean(axis=0) for p in np.flatnonzero(~denser.any(axis=1))])
        near = squared_distances(points[left], new)
        gets = np.bincount(near.argmin(axis=1)[near.min(axis=1) <= radius**2], minlength=len(new))
        if not (gets >= MIN_POINTS).any():
            break
        modes = np.vstack([modes, new[gets >= MIN_POINTS]])
        distance = squared_distances(points, modes)
        rounds.append((len(modes), np.where(distance.min(axis=1) <= radius**2, distance.argmin(axis=1), -1)))
        left = np.flatnonzero(rounds[-1][1] < 0)
    lane = np.arange(len(modes))
    for a, b in combinations(range(len(modes)), 2):
        gap = np.linalg.norm(modes[b] - modes[a])
        if gap < 2 * radius:
            along = (points[np.isin(rounds[-1][1], [a, b])] - modes[a]) @ (modes[b] - modes[a]) / gap
            peak, halfway, other = (np.sum(np.abs(along - t) <= WINDOW * radius) for t in (0, gap / 2, gap))
            if halfway >= VALLEY * min(peak, other):
                lane[lane == lane[b]] = lane[a]
    lanes = np.where(distance.min(axis=1) <= 2 * radius**2, lane[distance.argmin(axis=1)], -1)
    return {"sample": first, "modes": modes, "rounds": rounds, "lanes": lanes}


@drawing(
    "Three panels with the same three clumps of points: a ball around a point that nobody has claimed gathers its "
    "neighbours; the ball moves to their mean and gathers again; then the next unclaimed point begins."
)
def seed_and_gather(config: LaneSegmentationConfig | None = None) -> Figure:
    """The simplest clustering: a seed, a radius, a mean, and again.

    Args:
        config: whose margins give the radius; default ``LaneSegmentationConfig()``.
    """
    config = config or LaneSegmentationConfig()
    radius = radius_from_margins(config.delta_var, config.delta_dist)
    apart = 2 * config.delta_dist
    rng = np.random.default_rng(1)
    offsets = rng.normal(0, 0.42 * config.delta_var, (3, 40, 2))
    offsets[0, 0] = (-config.delta_var, 0.2 * config.delta_var)
    centers = apart * np.array([[-0.5, 0.2], [0.5, 0.2], [0.0, -0.45]])
    lanes = centers[:, None] + offsets  # (3, 30, 2)
    sheet = Sheet(3.45, "Take a pixel, gather what is near, move to the mean")
    wide, tall = 2.46, 2.1
    scale = wide / (apart + 2 * radius + 2.6 * config.delta_var)
    names = ("1  seed and radius", "2  mean, gather again", "3  the next seed")
    for k, name in enumerate(names):
        x, y = 0.15 + 2.62 * k, 0.95
        middle = np.array([x + wide / 2, y + tall / 2])
        sheet.text(x, y - 0.18, name, weight="bold", ha="left")
        sheet.rectangle(x, y, wide, tall, FAINT, fc="white", lw=1.2, zorder=1)
        for number, lane in enumerate(lanes):
            sheet.dots(middle + lane * scale, COLORS[number] if number < (k > 0) else "#AAAAAA", 12)
        centre = (lanes[0, 0], lanes[0].mean(axis=0), lanes[1, 0])[k]
        color = COLORS[1] if k == 2 else COLORS[0]
        sheet.circle(middle + centre * scale, radius * scale, color, lw=2)
        marker = {"marker": "X"} if k == 1 else {}
        sheet.dots(middle + centre * scale, INK, 60, zorder=6, **marker)
        if k == 0:
            tip = middle + (centre + radius * np.array([-0.6, 0.8])) * scale
            sheet.line(*np.transpose([middle + centre * scale, tip]), INK, lw=1.4)
            sheet.text(x + wide / 2, y + tall + 0.18, f"radius δ_dist = {radius:g}")
    return sheet.figure


@drawing(
    "Four panels with the same points: a few sampled points give peaks; balls around the peaks claim all points within "
    "the radius; points left over give new peaks and balls; neighbouring balls with no valley between are joined."
)
def clustering(config: LaneSegmentationConfig | None = None) -> Figure:
    """The method "fast": sample, claim, again, join.

    Args:
        config: whose margins give the radius; default ``LaneSegmentationConfig()``.
    """
    config = config or LaneSegmentationConfig()
    radius = radius_from_margins(config.delta_var, config.delta_dist)
    points = toy_points()
    steps = clustering_steps(points, radius)
    sheet = Sheet(5.55, "Clustering: sample, claim, again for the rest, join")
    wide, tall, scale = 3.78, 2.05, 0.34
    names = (
        f"1  sample {len(steps['sample'])} of {len(points)}", f"2  claim within {radius:g}",
        "3  again for the rest", "4  join where no valley lies",
    )  # fmt: skip
    (first, claimed), (_, again) = steps["rounds"][0], steps["rounds"][-1]
    views = ((None, first), (claimed, first), (again, len(steps["modes"])), (steps["lanes"], 0))
    for k, (name, (labels, shown)) in enumerate(zip(names, views, strict=True)):
        row, column = divmod(k, 2)
        x, y = 0.15 + column * (wide + 0.14), 0.95 + row * (tall + 0.36)
        sheet.text(x, y - 0.17, name, weight="bold", ha="left")
        sheet.rectangle(x, y, wide, tall, FAINT, fc="white", lw=1.2, zorder=1)
        middle = np.array([x + wide / 2, y + tall / 2])

        def place(p: np.ndarray, middle: np.ndarray = middle) -> np.ndarray:
            return middle + (np.asarray(p) - (2.5, 2.0)) * scale

        colors = [FAINT] * len(points) if labels is None else [COLORS[v] if v >= 0 else "#AAAAAA" for v in labels]
        sheet.dots(place(points), colors, 5)
        if labels is None:
            sheet.dots(place(steps["sample"]), INK, 5, zorder=5)
        for number, mode in enumerate(steps["modes"][:shown]):
            sheet.dots(place(mode), "white", 120, marker="*", zorder=7, edgecolors=INK, linewidths=1.2)
            if labels is not None:
                sheet.circle(place(mode), radius * scale, COLORS[number], (x, y, wide, tall), lw=1.2)
        if k == 3:
            sheet.text(*place((1.35, 1.0)), "a valley: two lanes")
            sheet.text(*place((1.35, 3.15)), "no valley: one lane")
    return sheet.figure


@drawing(
    "The frame twice. Left each lane alone: the curve of a lane of which only a far piece shows, continued downwards, "
    "leaves its lane. Right one road: all curves share horizon, heading and bend, and the short lane runs true. White: "
    "the four lanes as they are labelled; the right one turns sharply at the horizon."
)
def curves_of_one_road(lane: int | None = None, seen: float = 0.2) -> Figure:
    """Curves of single lanes, and the curves of the road that the lanes share.

    Args:
        lane: which of the frame's lanes shows a far piece only, by its place from the left; default the one that gains
            most from its neighbours.
        seen: share of its rows that shows.
    """
    image, semantic, instance = frame_sample()
    size = instance.shape
    lines = [np.nonzero(instance == number) for number in instances_by_role(semantic, instance)]
    choices = range(len(lines)) if lane is None else [range(len(lines))[lane]]
    views = [_with_short_line(lines, k, seen, size) for k in choices]
    _, own, of_road, horizon = max(
        views, key=lambda view: _error(view[1], lines, view[0]) - _error(view[2], lines, view[0])
    )
    sheet = Sheet(3.75, "Fitting all lanes together corrects the short lane")
    wide = 3.78
    scale = wide / size[1]
    pale = backdrop(image)
    for k, (name, curves) in enumerate((("each lane alone", own), ("one road", of_road))):
        x0, y0 = 0.15 + k * (wide + 0.14), 0.95
        sheet.text(x0, y0 - 0.18, name, weight="bold", ha="left")
        sheet.image(pale, x0, y0, wide, smooth=False)
        for line in lines:
            rows, columns, _ = row_medians(*line)
            for color, thick, above in ((INK, 8.5, 4), ("white", 6.5, 4.5)):
                sheet.line(x0 + columns * scale, y0 + rows * scale, color, lw=thick, zorder=above)
        for number, (x, y, known) in enumerate(curves):
            inside = (x >= 0) & (x <= size[1] - 1)
            for part, style in ((known, {"lw": 3.6}), (~known, {"lw": 2.4, "ls": (0, (2, 1.2))})):
                part = part & inside
                sheet.line(x0 + x[part] * scale, y0 + y[part] * scale, COLORS[number], zorder=6, **style)
    level = 0.95 + horizon * scale
    sheet.line([0.29 + wide, 0.29 + 2 * wide], [level, level], INK, lw=1.4, ls="--", zorder=5)
    sheet.text(0.2 + 2 * wide, level - 0.15, "horizon", SMALL, ha="right", zorder=7, bbox=LABEL)
    y = 0.95 + size[0] * scale + 0.25
    sheet.text(0.15, y, "solid: seen, dashed: continued,", ha="left")
    sheet.text(0.15, y + 0.3, "white: the lanes as labelled", ha="left")
    sheet.text(0.29 + wide, y, "shared: horizon, heading, bend", ha="left")
    sheet.text(0.29 + wide, y + 0.3, "its own: one slope for each lane", ha="left")
    return sheet.figure


def _with_short_line(lines: list, short: int, seen: float, size: tuple[int, int]) -> tuple[int, list, list, float]:
    """Cuts one lane to its far piece and fits all: its place, own curves, the road's curves, and the horizon's row.

    A curve is (columns, rows, whether the lane was seen there), down to the last row that it reaches.
    """
    pieces = []
    for k, (rows, columns) in enumerate(lines):
        far = rows <= rows.min() + (seen if k == short else 1) * np.ptp(rows)
        pieces.append((rows[far], columns[far]))
    road = fit_road([row_medians(*piece) for piece in pieces], size)
    own, of_road = [], []
    for k, (rows, columns) in enumerate(pieces):
        y = np.arange(rows.min(), lines[k][0].max() + 1)
        curve = fit_lane_curve(columns, rows)
        own.append((np.array([x_at_row(curve, row) for row in y]), y, y <= rows.max()))
        of_road.append((road.x(k, y), y, y <= rows.max()))
    return short, own, of_road, road.horizon


def _error(curves: list, lines: list, k: int) -> float:
    """Mean distance along the row of a lane's curve from the lane itself, in pixels."""
    rows, columns, _ = row_medians(*lines[k])
    return float(np.abs(np.interp(rows, curves[k][1], curves[k][0]) - columns).mean())


@drawing(
    "The frame with its lanes as curves; a dashed level line near the lower edge, the reference row, cuts them, and "
    "the cuts are numbered from left to right."
)
def numbering(config: LaneSegmentationConfig | None = None) -> Figure:
    """The reference row, where lanes get their numbers.

    Args:
        config: whose ``reference_row`` is drawn; default ``LaneSegmentationConfig()``.
    """
    config = config or LaneSegmentationConfig()
    image, semantic, instance = frame_sample()
    height, width = instance.shape
    reference = config.reference_row * (height - 1)
    curves = []
    for number in instances_by_role(semantic, instance):
        rows, columns = np.nonzero(instance == number)
        curves.append(fit_lane_curve(columns, rows))
    curves.sort(key=lambda curve: x_at_row(curve, reference))
    cuts = [x_at_row(curve, reference) for curve in curves]
    left, right = max(0.0, -min(cuts)), max(0.0, max(cuts) - width + 1)  # a lane may leave the picture above the row
    scale = min(7.2 / (width + left + right), 2.9 / height)
    sheet = Sheet(1.35 + height * scale, "Lanes are numbered where they cross the reference row")
    x0, y0 = 4.0 + (left - right - width) * scale / 2, 0.65
    tall = sheet.image(backdrop(image), x0, y0, width * scale, smooth=False)
    row = y0 + reference * scale
    ends = (x0 - left * scale - 0.3, x0 + (width + right) * scale + 0.3)
    sheet.line(ends, [row, row], INK, lw=2, ls="--", zorder=6)
    for number, (curve, cut) in enumerate(zip(curves, cuts, strict=True), start=1):
        color = COLORS[(number - 1) % len(COLORS)]
        sheet.line(x0 + curve[:, 0] * scale, y0 + curve[:, 1] * scale, color, lw=3.6, zorder=5)
        end = curve[-1]
        if end[1] < reference:
            sheet.line([x0 + end[0] * scale, x0 + cut * scale], [y0 + end[1] * scale, row], color, lw=3, ls=":")
        sheet.badge((x0 + cut * scale, row), str(number), color)
    y = y0 + tall + 0.33
    sheet.text(4.0, y, f"dashed: the reference row, {config.reference_row:g} of the height; dotted: continued")
    return sheet.figure


def _road_view(x: float, y: float, wide: float, tall: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A toy road in perspective: three lanes (2, 2) and two crosswalks (4, 2), near first, in inches."""
    apex = np.array([0.5, -0.15])

    def point(across: float, down: float) -> np.ndarray:
        ground = apex + (np.array([across, 1.0]) - apex) * down
        return np.array([x, y]) + ground * (wide, tall)

    lines = [np.array([point(a, 0.22), point(a, 0.98)]) for a in (0.08, 0.5, 0.92)]
    crosswalks = [
        np.array([point(a, d) for a, d in ((0.13, s), (0.87, s), (0.87, e), (0.13, e))])
        for s, e in ((0.7, 0.83), (0.35, 0.4))
    ]
    return lines, crosswalks


@drawing(
    "Left a mask with lane lines and two crosswalks; its pixels are split by class into two groups; above, the lines "
    "are separated and numbered from left to right; below, the crosswalks are separated and numbered from near to far."
)
def crosswalk_groups() -> Figure:
    """Lanes and crosswalks are clustered apart."""
    sheet = Sheet(4.6, "Lanes and crosswalks are separated in groups of their own")
    palette = {c.id: "#{:02x}{:02x}{:02x}".format(*c.color) for c in CLASSES}
    panels = ((0.15, 1.5, "classes"), (5.3, 0.62, ""), (5.3, 2.62, ""))
    wide, tall = 2.4, 1.6
    for k, (x, y, name) in enumerate(panels):
        sheet.rectangle(x, y, wide, tall, GREY, fc="white", lw=1, zorder=1)
        if name:
            sheet.text(x + wide / 2, y - 0.2, name, weight="bold")
        lines, crosswalks = _road_view(x, y, wide, tall)
        if k == 0:
            sheet.rectangle(x, y, wide, tall, GREY, fc=palette[BACKGROUND], lw=1, zorder=1)
            sheet.polygon([*lines[0], *lines[-1][::-1]], palette[ROAD], fc=palette[ROAD], lw=0, zorder=1.5)
        if k != 2:
            for number, line in enumerate(lines):
                own = palette[LANE_MARKING if number == 1 else LANE_BOUNDARY] if k == 0 else COLORS[number]
                sheet.line(*line.T, own, lw=4.5, zorder=4)
                if k == 1:
                    sheet.badge(line[0] + 0.85 * (line[1] - line[0]), str(number + 1), own)
        if k != 1:
            for number, crosswalk in enumerate(crosswalks):
                own = palette[CROSSWALK] if k == 0 else COLORS[3 + number]
                sheet.polygon(crosswalk, own, fc=own, lw=0)
                if k == 2:
                    sheet.badge(crosswalk.mean(axis=0), f"C{number + 1}", own)
    for y, words, order, color in (
        (1.42, "lane classes", "left to right", ORANGE), (3.42, "crosswalk class", "near to far", PURPLE),
    ):  # fmt: skip
        sheet.box(2.95, y - 0.42, 1.95, 0.84, f"{words}:\ncluster", color)
        sheet.arrow((2.57, 2.3), (2.95, y), GREY)
        sheet.arrow((4.9, y), (5.28, y), GREY)
        sheet.text(5.3 + wide / 2, y + tall / 2 + 0.2, f"numbered {order}")
    return sheet.figure
