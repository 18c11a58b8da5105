"""Paint that is no lane line: crossings, stop lines, and the distractors a network must learn to leave alone.

Arrows, letters, hatching, manholes and repairs look like markings or cut through them, and are never labelled as lane.
"""

import cv2
import numpy as np

from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.scenes.canvas import LIMIT, NEAR, SHIFT
from roadtopo_lib.scenes.layout import FREEWAY, Layout
from roadtopo_lib.scenes.road import Road, RoadPixels, band_coverage, dash_coverage
from roadtopo_lib.scenes.surface import Texture

# Outlines as (u, s), in units of a lane's half width and of the arrow's length
STRAIGHT = np.array([(-0.06, 0), (0.06, 0), (0.06, 0.6), (0.2, 0.6), (0, 1), (-0.2, 0.6), (-0.06, 0.6)])
TURN = np.array(
    [(-0.06, 0), (0.06, 0), (0.06, 0.55), (0.2, 0.68), (0.2, 0.56), (0.42, 0.78), (0.2, 1), (0.2, 0.84), (-0.06, 0.66)]
)
LETTERS = "AEFHKLNSTUWX0123458"


def paint_across(color: np.ndarray, layout: Layout, px: RoadPixels, texture: Texture) -> None:
    """Zebra crossings and stop lines, in place.

    Args:
        color: (Hg, W, 3) ground.
        layout: where they are.
        px: road coordinates per pixel.
        texture: noises per pixel, which wear the paint.
    """
    white = np.array([0.9, 0.9, 0.88], dtype=np.float32)
    bands = [(c.start, c.stop, c.left, c.right, c.opacity, c) for c in layout.crosswalks]
    bands += [(*rect, 0.85, None) for rect in layout.stop_lines]
    for start, stop, left, right, opacity, crossing in bands:
        rows = np.flatnonzero(((px.s > start - px.ds) & (px.s < stop + px.ds)).any(axis=1))
        if len(rows) == 0:
            continue
        part = slice(rows[0], rows[-1] + 1)
        s, u, ds, du = px.s[part], px.u[part], px.ds[part], px.du[part]
        cover = band_coverage(u, du, left, right) * band_coverage(s, ds, start, stop)
        if crossing is not None:
            cover *= dash_coverage(u, du, crossing.stripe, crossing.period - crossing.stripe, -crossing.left)
        worn = np.clip(1 - 0.2 * texture.blotches[part] - 0.15 * texture.grain[part], 0, 1)
        color[part] += (white - color[part]) * (cover * worn * opacity)[..., None]


def paint_distractors(
    rng: np.random.Generator, color: np.ndarray, camera: Camera, road: Road, layout: Layout, texture: Texture, top: int
) -> None:
    """Arrows, letters, hatching and manholes, in place.

    Args:
        rng: source of randomness.
        color: (Hg, W, 3) ground.
        camera, road, layout, texture: the scene.
        top: first image row of ``color``.
    """
    often = 0.35 if layout.kind == FREEWAY else 1.0
    width = float(layout.borders[1] - layout.borders[0])
    white, dark = np.zeros(camera.size, np.uint8), np.zeros(camera.size, np.uint8)
    for lane in range(len(layout.borders) - 1):
        middle = float(layout.borders[lane] + layout.borders[lane + 1]) / 2
        if rng.random() < 0.2 * often:
            shape = (STRAIGHT, TURN, TURN * [-1, 1])[rng.integers(3)]
            size, s = rng.uniform(2.5, 6.5), np.exp(rng.uniform(np.log(4), np.log(45)))
            _fill(white, camera, road, shape * [width * 0.5, size] + [middle, s])
        if rng.random() < 0.08 * often:
            _word(rng, white, camera, road, middle, np.exp(rng.uniform(np.log(5), np.log(30))))
        if rng.random() < 0.12 * often:
            angle = np.arange(16) * np.pi / 8
            at = [middle + rng.normal(0, 0.7), np.exp(rng.uniform(np.log(3), np.log(30)))]
            _fill(dark, camera, road, np.stack([np.cos(angle), np.sin(angle)], axis=-1) * 0.35 + at)
    if rng.random() < 0.06:
        _hatching(rng, white, camera, road, layout)
    worn = np.clip(1 - 0.25 * texture.blotches - 0.2 * texture.grain, 0, 1) * rng.uniform(0.35, 0.95)
    for mask, paint in ((dark, 0.17), (white, 0.9)):
        rows = np.flatnonzero(mask[top:].any(axis=1))
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            alpha = mask[top:][part] * np.float32(1 / 255) * worn[part]
            color[part] += (np.float32(paint) - color[part]) * alpha[..., None]


def _fill(mask: np.ndarray, camera: Camera, road: Road, outline: np.ndarray) -> None:
    """Fill an outline of (u, s) points that lies on the road; nothing if part of it is behind the camera."""
    x, z = road.place(outline[:, 1], outline[:, 0]).T
    seen, depth = camera.project(np.stack([x, np.zeros_like(x), z], axis=-1))
    if depth.min() > NEAR:
        corners = np.clip(seen * (1 << SHIFT), -LIMIT, LIMIT).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, SHIFT)


def _word(rng: np.random.Generator, mask: np.ndarray, camera: Camera, road: Road, u: float, s: float) -> None:
    """Letters on the road, drawn out along it, laid down by the homography between road and image."""
    text = "".join(rng.choice(list(LETTERS), rng.integers(2, 5)))
    page = np.zeros((64, 40 * len(text)), np.uint8)
    cv2.putText(page, text, (3, 58), cv2.FONT_HERSHEY_SIMPLEX, 2.0, 255, int(rng.integers(4, 9)), cv2.LINE_AA)
    wide, long = 0.55 * len(text), rng.uniform(1.6, 3.5)
    x, z = road.place(s + long * np.array([1, 1, 0, 0]), u + wide / 2 * np.array([-1, 1, 1, -1])).T
    seen, depth = camera.project(np.stack([x, np.zeros(4), z], axis=-1))
    if depth.min() < NEAR:
        return
    h, w = page.shape
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    laid = cv2.warpPerspective(page, cv2.getPerspectiveTransform(corners, seen.astype(np.float32)), mask.shape[::-1])
    np.maximum(mask, laid, out=mask)


def _hatching(rng: np.random.Generator, mask: np.ndarray, camera: Camera, road: Road, layout: Layout) -> None:
    """Slanted bars on the shoulder."""
    side = int(rng.integers(2))
    inner, outer = float(layout.borders[-side]), float(layout.road[side])
    if abs(outer - inner) < 0.8:
        return
    step, thick = rng.uniform(2, 6), rng.uniform(0.2, 0.5)
    for s in np.arange(rng.uniform(3, 15), 60, step):
        slant = 1.2 * abs(outer - inner)
        bar = [(inner, s), (outer, s + slant), (outer, s + slant + thick * 2), (inner, s + thick * 2)]
        _fill(mask, camera, road, np.array(bar))
