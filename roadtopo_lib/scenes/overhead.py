"""What spans the road, and the car itself: bridges, gantries, the bonnet."""

from dataclasses import dataclass

import cv2
import numpy as np

from roadtopo_lib.scenes.canvas import OWN_VEHICLE, Canvas
from roadtopo_lib.scenes.layout import FREEWAY, Layout
from roadtopo_lib.scenes.road import Road


@dataclass(frozen=True)
class Overpass:
    """A bridge or gantry across the road: where it begins, how deep it is, its clearance; metres."""

    bridge: bool
    start: float
    depth: float
    height: float


def sample_overpass(rng: np.random.Generator, layout: Layout) -> Overpass | None:
    """Draw what spans the road, mostly nothing."""
    pick = rng.random()
    start, height = float(np.exp(rng.uniform(np.log(18), np.log(160)))), float(rng.uniform(4.8, 6.8))
    if pick < 0.07:
        return Overpass(True, start, float(rng.uniform(6, 18)), height)
    return Overpass(False, start, 0.5, height) if pick < (0.2 if layout.kind == FREEWAY else 0.11) else None


def span(
    rng: np.random.Generator, canvas: Canvas, road: Road, layout: Layout, over: Overpass
) -> list[tuple[float, object]]:
    """The overpass as (distance, draw) pairs."""
    left, right = layout.road[0] - rng.uniform(0.8, 4), layout.road[1] + rng.uniform(0.8, 4)
    grey = rng.uniform(0.35, 0.75) * rng.normal(1, 0.03, 3)
    thick, post = (rng.uniform(0.9, 1.9), 1.0) if over.bridge else (0.25, 0.25)
    reach = 30.0 if over.bridge else 0.0
    board = np.array([[0.05, 0.33, 0.2], [0.08, 0.25, 0.55], [0.75, 0.75, 0.75]])[rng.integers(3)]
    places = np.sort(rng.uniform(left, right, 4)).reshape(2, 2)

    def beam(u0: float, u1: float, low: float, high: float, s: float = over.start) -> np.ndarray:
        (ax, az), (bx, bz) = road.place(np.array([s, s]), np.array([u0, u1]))
        return np.array([[ax, low, az], [bx, low, bz], [bx, high, bz], [ax, high, az]])

    def draw() -> None:
        for u in (left - post, right):
            canvas.polygon(beam(u, u + post, 0, over.height), grey * 0.7, "fixed")
        if over.bridge:  # its underside, seen from below
            near = beam(left - reach, right + reach, over.height, over.height)[:2]
            far = beam(left - reach, right + reach, over.height, over.height, over.start + over.depth)[1::-1]
            canvas.polygon(np.concatenate([near, far]), grey * 0.3, "fixed")
        canvas.polygon(beam(left - reach, right + reach, over.height, over.height + thick), grey, "fixed", 15)
        if over.bridge:
            rail = beam(left - reach, right + reach, over.height + thick, over.height + thick + 0.9)
            canvas.polygon(rail, grey * 0.85)
            return
        for u0, u1 in places:
            canvas.polygon(beam(u0, u1, over.height - 1.6, over.height + 0.9), board, "fixed")
            middle, height = (u0 + u1) / 2, over.height - 0.3
            text = beam(middle - 0.3 * (u1 - u0), middle + 0.3 * (u1 - u0), height - 0.3, height + 0.3)
            canvas.polygon(text, np.minimum(board + 0.45, 1))

    return [(float(road.place(over.start, 0.0)[1]), draw)]


def draw_bonnet(rng: np.random.Generator, canvas: Canvas) -> None:
    """The own car's bonnet at the lower edge of the picture, with the sky's sheen on it."""
    h, w = canvas.image.shape[:2]
    height, middle, half = h * rng.uniform(0.02, 0.11), w * rng.uniform(0.4, 0.6), w * rng.uniform(0.45, 0.9)
    x = np.arange(w)
    bend = np.clip((x - middle) / half, -1, 1)
    edge = h - height * (1 - rng.uniform(0.3, 1.6) * bend**2)  # (W,)
    rows = np.arange(h)[:, None]
    below = rows > edge
    if not below.any():
        return
    color = np.array([0.35, 0.28, 0.27]) * rng.uniform(0.1, 1.6) * rng.normal(1, 0.12, 3)
    sheen = (
        canvas.light.sky[1] * rng.uniform(0.05, 0.5) * np.clip(1 - (rows - edge) / (height + 1), 0, 1)[below][:, None]
    )
    shown = color * canvas.light.ambient + sheen
    canvas.image[below] = (np.clip(shown, 0, 1) * 255).astype(np.uint8)
    canvas.fixed[below], canvas.rough[below], canvas.glow[below] = 1, 12, 0
    canvas.cars[below], canvas.own[below] = 0, OWN_VEHICLE
    line = np.stack([x, edge], axis=-1).round().astype(np.int32)
    dark = (np.clip(color * 0.4, 0, 1) * canvas.light.ambient * 255).astype(int).tolist()
    cv2.polylines(canvas.image, [line], False, dark, max(1, w // 512), cv2.LINE_AA)
