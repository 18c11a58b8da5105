"""Exact labels of a scene: semantic and instance masks, and the lanes as curves.

Two kinds of truth. *Visible*: a lane pixel is labelled where paint shows. *Amodal*: a lane is one unbroken line,
through dash gaps, worn paint and vehicles, as lane benchmarks (TuSimple, CULane) label it. A label line is at least
1.8 % of the image width thick: outer lines run nearly level, and drawn as thin as their paint they would fall to
pieces. Where two lines come too near each other to keep two labels apart, the outer one ends.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from roadtopo_lib.labels import BACKGROUND, CROSSWALK, LINE_SPACING, LINE_WIDTH, NO_INSTANCE, ROAD, SIDEWALK
from roadtopo_lib.scenes.camera import Camera, Ground
from roadtopo_lib.scenes.layout import Crosswalk, Layout, Line
from roadtopo_lib.scenes.road import Road, RoadPixels, band_coverage, dash_coverage
from roadtopo_lib.scenes.surface import ROAD_MATERIALS, SIDEWALK_MATERIALS

LABEL_Z = (80.0, 100.0)  # metres: no label lies farther away than a distance drawn from this range
SAMPLES = 160


@dataclass(frozen=True)
class Labels:
    """Masks of one scene, (H, W) each: semantic uint8, instance uint16; lanes, a list of (M, 2) float32, and the place
    of each among the lines of the road."""

    semantic_visible: np.ndarray
    instance_visible: np.ndarray
    semantic_amodal: np.ndarray
    instance_amodal: np.ndarray
    lanes: list[np.ndarray]
    lines: tuple[int, ...]


def annotate(
    camera: Camera, ground: Ground, road: Road, layout: Layout, px: RoadPixels, strips: np.ndarray, fixed: np.ndarray,
    moving: np.ndarray, z_max: float,
) -> Labels:  # fmt: skip
    """Label everything.

    Args:
        camera, ground, road, layout, px: the scene.
        strips: (Hg, W) strip of the cross-section under each ground pixel.
        fixed: (H, W) bool, hidden for good.
        moving: (H, W) bool, hidden by vehicles and the like.
        z_max: metres beyond which no lane is labelled.
    """
    h, w = camera.size
    width = label_width(w)
    base = np.full((h, w), BACKGROUND, dtype=np.uint8)
    base[ground.top :] = np.where(ground.seen, _surface_classes(layout)[strips], BACKGROUND)
    base[fixed | moving] = BACKGROUND

    lines = [line for line in layout.lines if line.label is not None]
    apart = LINE_SPACING * width + 1  # one pixel more, so that rounding does not let two labels touch
    curves = _separate(lines, [_curve(camera, road, line.u, fixed, z_max) for line in lines], apart)
    amodal = np.zeros((h, w), dtype=np.uint8)  # 1 + index of the line
    for k, (line, curve) in enumerate(zip(lines, curves, strict=True), start=1):
        if curve is not None:
            _draw(amodal, camera, road, line, curve, width, k)
    amodal[fixed] = 0
    visible = _visible_lines(amodal, lines, layout.crosswalks, px, ground.top, moving)

    hulls, stripes = _crosswalks(layout.crosswalks, px, ground, (h, w))
    hulls[fixed] = 0
    stripes[fixed | moving] = 0
    visible[hulls > 0] = 0  # lines are not painted over a crossing
    keep_lines = [k for k in range(1, len(lines) + 1) if np.count_nonzero(visible == k) >= 1.5 * width**2]
    keep_cross = [k for k in range(1, len(layout.crosswalks) + 1) if np.count_nonzero(stripes == k) >= 1.5 * width**2]
    masks = []
    for line_mask, cross_mask in ((visible, stripes), (amodal, hulls)):
        masks += _compose(base, line_mask, cross_mask, lines, keep_lines, keep_cross)
    return Labels(*masks, [curves[k - 1].pixels.astype(np.float32) for k in keep_lines], tuple(keep_lines))


def label_width(image_width: int) -> int:
    """Thickness of a label line in pixels: 9 at 512, always odd, so that it is centred on its line."""
    return max(1, round((LINE_WIDTH * image_width - 1) / 2)) * 2 + 1


def _surface_classes(layout: Layout) -> np.ndarray:
    """Class of every strip of the cross-section, (strips,) uint8."""
    names = [strip.material for strip in layout.strips]
    classes = [ROAD if n in ROAD_MATERIALS else SIDEWALK if n in SIDEWALK_MATERIALS else BACKGROUND for n in names]
    return np.array(classes, dtype=np.uint8)


@dataclass(frozen=True)
class Curve:
    """A line as seen: pixels (M, 2) top to bottom, and the distance z (M,) in metres of each point."""

    pixels: np.ndarray
    z: np.ndarray


def _curve(camera: Camera, road: Road, u: float, fixed: np.ndarray, z_max: float) -> Curve | None:
    """The longest unhidden piece of a line inside the image; None if there is none."""
    z = 1 / np.linspace(1 / z_max, 1 / 0.9, SAMPLES * 2)  # equal steps of 1/z are equal steps of image rows
    x, zs = road.line(u, z).T
    seen, depth = camera.project(np.stack([x, np.zeros_like(x), zs], axis=-1))
    return _pieces(seen, z, depth > 0.1, fixed)


def _pieces(seen: np.ndarray, z: np.ndarray, front: np.ndarray, fixed: np.ndarray) -> Curve | None:
    """Cut a sampled line at the image border and at the fixed world; keep the longest piece."""
    h, w = fixed.shape
    inside = front & (seen >= -0.5).all(axis=1) & (seen[:, 0] < w - 0.5) & (seen[:, 1] < h - 0.5)
    at = np.clip(np.round(seen), 0, [w - 1, h - 1]).astype(int)
    inside &= ~fixed[at[:, 1], at[:, 0]]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    if len(edges) == 0:
        return None
    starts, stops = edges[::2], edges[1::2]
    best = np.argmax([np.linalg.norm(seen[b - 1] - seen[a]) for a, b in zip(starts, stops, strict=True)])
    a, b = int(starts[best]), int(stops[best])
    points, zs = seen[a:b], z[a:b]
    if b < len(seen) and front[b]:  # the last stretch up to the image border
        t = _exit(seen[b - 1], seen[b], w, h)
        points = np.vstack([points, seen[b - 1] + t * (seen[b] - seen[b - 1])])
        zs = np.append(zs, 1 / ((1 - t) / z[b - 1] + t / z[b]))
    return Curve(points, zs) if len(points) >= 2 else None


def _exit(a: np.ndarray, b: np.ndarray, w: int, h: int) -> float:
    """Part of the way from a (inside) to b at which the image ends; 0 if b is inside too."""
    t = 1.0
    for p, q, low, high in ((a[0], b[0], -0.5, w - 0.5), (a[1], b[1], -0.5, h - 0.5)):
        if q > high:
            t = min(t, (high - p) / (q - p))
        elif q < low:
            t = min(t, (low - p) / (q - p))
    return t if t < 1 else 0.0


def _separate(lines: list[Line], curves: list[Curve | None], apart: float) -> list[Curve | None]:
    """End lines where they come too near another one, looking outwards from the ego lane.

    Args:
        lines: the lines, left to right.
        curves: as seen.
        apart: pixels between two centres.

    Returns:
        Shortened curves; None where nothing is left.
    """
    kept: list[Curve | None] = [None] * len(curves)
    order = sorted((k for k, c in enumerate(curves) if c is not None), key=lambda k: abs(lines[k].u))
    for k in order:
        curve = curves[k]
        for other in (c for c in kept if c is not None):
            far = _first_near(curve, other, apart)
            if far is not None:
                curve = _trim(curve, far)
            if curve is None:
                break
        kept[k] = curve
    if len(order) > 1 and kept[order[0]] is not None and kept[order[1]] is not None:
        # the two ego lines end together
        kept[order[0]] = _trim_to(kept[order[0]], kept[order[1]], lines[order[0]].u * lines[order[1]].u < 0)
    return kept


def _first_near(curve: Curve, other: Curve, apart: float) -> int | None:
    """Index of the farthest point up to which curve may stay, seen from its near end; None if it may stay whole."""
    gap = curve.pixels[:, None] - other.pixels[None, :: max(1, len(other.pixels) // 120)]  # (M, K, 2)
    near = (gap**2).sum(axis=-1).min(axis=1) < apart**2
    return int(np.flatnonzero(near)[-1]) + 1 if near.any() else None


def _trim(curve: Curve, first: int) -> Curve | None:
    """Drop the points before ``first`` (they lie farther away)."""
    return Curve(curve.pixels[first:], curve.z[first:]) if len(curve.z) - first >= 2 else None


def _trim_to(curve: Curve, partner: Curve, pair: bool) -> Curve:
    """End an ego line where its partner on the other side of the lane ends."""
    if not pair:
        return curve
    return _trim(curve, int(np.searchsorted(-curve.z, -partner.z[0]))) or curve


def _draw(mask: np.ndarray, camera: Camera, road: Road, line: Line, curve: Curve, width: int, value: int) -> None:
    """Draw one label: a band of constant pixel width, or the paint itself where that is wider."""
    points = np.round(curve.pixels * 16).astype(np.int32)
    cv2.polylines(mask, [points], False, value, width, cv2.LINE_8, shift=4)
    half = line.half_width() if line.strokes else 0.12
    near = curve.z[curve.z < 2.2 * half * camera.focal / width]  # elsewhere the band is wider than the paint
    if len(near) < 2:
        return
    sides = []
    for side in (-half, half):
        x, z = road.line(line.u + side, near).T
        sides.append(camera.project(np.stack([x, np.zeros_like(x), z], axis=-1))[0])
    outline = np.concatenate([sides[0], sides[1][::-1]])
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], value, cv2.LINE_8, shift=4)


def _presence(s: np.ndarray, ds: np.ndarray, dash: float, gap: float, phase: float) -> np.ndarray:
    """Whether a dash shows at s. Far away, where a pixel spans a whole period, dashes merge into one line."""
    most = np.minimum(1, dash / np.maximum(ds, dash))  # no pixel is covered more than this
    return dash_coverage(s, ds, dash, gap, phase) >= 0.5 * most


def _visible_lines(
    amodal: np.ndarray, lines: list[Line], crosswalks: list[Crosswalk], px: RoadPixels, top: int, moving: np.ndarray
) -> np.ndarray:
    """The parts of the amodal lines where paint shows."""
    visible = np.where(moving, 0, amodal).astype(np.uint8)
    for k, line in enumerate(lines, start=1):
        rows, cols = np.nonzero(visible[top:] == k)
        s, ds = px.s[rows, cols], px.ds[rows, cols]
        shows = np.full(len(s), not line.strokes)  # a kerb has no paint and no gaps
        for k_stroke in line.strokes:
            shows |= _presence(s, ds, k_stroke.dash, k_stroke.gap, k_stroke.phase)
        for start, stop in line.gone:
            shows &= band_coverage(s, ds, start, stop) < 0.5
        visible[top:][rows[~shows], cols[~shows]] = 0
    return visible


def _crosswalks(
    crosswalks: list[Crosswalk], px: RoadPixels, ground: Ground, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Hull and stripes of every crossing, (H, W) uint8 each, 1 + index of the crossing."""
    hulls, stripes = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    for k, c in enumerate(crosswalks, start=1):
        rows, cols = np.nonzero((px.s > c.start) & (px.s < c.stop) & (px.u > c.left) & (px.u < c.right) & ground.seen)
        hulls[rows + ground.top, cols] = k
        shows = _presence(px.u[rows, cols], px.du[rows, cols], c.stripe, c.period - c.stripe, -c.left)
        stripes[rows[shows] + ground.top, cols[shows]] = k
    return hulls, stripes


def _compose(
    base: np.ndarray, line_mask: np.ndarray, cross_mask: np.ndarray, lines: list[Line], keep_lines: list[int],
    keep_cross: list[int],
) -> list[np.ndarray]:  # fmt: skip
    """Semantic and instance mask of one kind of truth: lanes first, left to right, then crosswalks."""
    ids, classes = np.full(256, NO_INSTANCE, dtype=np.uint8), np.zeros(256, dtype=np.uint8)
    for new, k in enumerate(keep_lines, start=1):
        ids[k], classes[k] = new, lines[k - 1].label
    instance = cv2.LUT(line_mask, ids).astype(np.uint16)
    semantic = np.where(instance > 0, cv2.LUT(line_mask, classes), base)
    for new, k in enumerate(keep_cross, start=len(keep_lines) + 1):
        instance[cross_mask == k] = new
        semantic[cross_mask == k] = CROSSWALK
    return [semantic, instance]
