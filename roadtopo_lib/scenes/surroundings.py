"""The world beside the road: trees, poles, signs, barriers, slopes and houses."""

from functools import lru_cache

import numpy as np

from roadtopo_lib.scenes.canvas import Canvas
from roadtopo_lib.scenes.layout import TOWN, Layout, Wall
from roadtopo_lib.scenes.road import Road
from roadtopo_lib.scenes.surface import noise_tile, sample_color

SPRITE = 96
WALL_COLORS = {
    "concrete": ((0.42, 0.41, 0.39), (0.72, 0.70, 0.66)),
    "rail": ((0.52, 0.54, 0.56), (0.76, 0.78, 0.80)),
    "fence": ((0.30, 0.26, 0.22), (0.62, 0.58, 0.52)),
    "hedge": ((0.12, 0.18, 0.07), (0.28, 0.36, 0.16)),
    "houses": ((0.35, 0.30, 0.26), (0.85, 0.82, 0.76)),
}


@lru_cache(maxsize=1)
def foliage() -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut-outs of crowns and bushes as (brightness, cover) pairs, (96, 96) uint8 each."""
    rng = np.random.default_rng(20260802)
    grid = np.linspace(-1, 1, SPRITE, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    made = []
    for kind in ("round", "round", "round", "tall", "tall", "cone", "cone", "bush", "bush", "loose", "loose", "loose"):
        body = np.full_like(x, -1)
        for _ in range(rng.integers(9, 26)):
            angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
            cx, cy = 0.6 * far * np.cos(angle), -0.25 + 0.5 * far * np.sin(angle)
            radius = rng.uniform(0.14, 0.34)
            if kind == "tall":
                cx *= 0.55
            elif kind == "cone":
                cy = rng.uniform(-0.85, 0.5)
                cx, radius = rng.uniform(-1, 1) * 0.35 * (cy + 1), 0.1 + 0.14 * (cy + 1)
            elif kind == "bush":
                cy = rng.uniform(0.2, 0.8)
            body = np.maximum(body, 1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
        n = np.roll(noise_tile(), rng.integers(0, 256, 2), axis=(0, 1))[:SPRITE, :SPRITE]
        ragged = body + 0.45 * n[..., 1] + 0.25 * n[..., 0] - (0.5 if kind == "loose" else 0.1)
        cover = np.clip(ragged * 3, 0, 1)
        if kind != "bush":
            trunk = (np.abs(x - 0.05 * np.sin(4 * y)) < 0.03 + 0.03 * np.clip(y, 0, 1)) & (y > 0.0)
            cover = np.maximum(cover, trunk)
        bright = 0.45 + 0.2 * n[..., 1] + 0.12 * n[..., 0] + 0.12 * n[..., 2] - 0.28 * y + 0.1 * x
        if kind != "bush":
            bright = np.where(trunk & (ragged < 0.2), 0.15, bright)
        made.append(((np.clip(bright, 0, 1) * 255).astype(np.uint8), (cover * 255).astype(np.uint8)))
    return made


def plant(rng: np.random.Generator, canvas: Canvas, road: Road, layout: Layout) -> list[tuple[float, object]]:
    """Trees, bushes, poles and signs beside the road, as (distance, draw) pairs."""
    things = []
    edge = {-1: -layout.road[0], 1: layout.road[1]}
    opposing = max((abs(line.u) for line in layout.lines if line.label is None), default=0.0)
    dense = rng.choice([0, 6, 16], p=[0.25, 0.4, 0.35])
    crown = sample_color(rng, "grass")
    crown += (crown.mean() - crown) * rng.uniform(0, 0.5)  # olive and grey leaves
    for side in (-1, 1):
        divided = opposing and side * layout.lines[0 if side < 0 else -1].u > edge[side] + 1
        beyond = max(edge[side], opposing + 1) if divided else edge[side]
        for _ in range(rng.integers(0, dense + 1)):
            away = beyond + rng.uniform(2.5, 6) + rng.exponential(9)
            s = np.exp(rng.uniform(np.log(9), np.log(160)))
            things.append(_tree(rng, canvas, road.place(s, side * away), crown))
        if rng.random() < 0.4:
            things += _belt(rng, canvas, road, side, beyond + rng.uniform(3, 12), crown)
        if rng.random() < (0.35 if layout.kind == TOWN else 0.2):
            things += _poles(rng, canvas, road, side * (edge[side] + rng.uniform(0.6, 3)), layout.kind == TOWN)
        for _ in range(rng.choice([0, 1, 2], p=[0.6, 0.25, 0.15])):
            s = np.exp(rng.uniform(np.log(10), np.log(130)))
            things.append(_sign(rng, canvas, road.place(s, side * (edge[side] + rng.uniform(0.8, 3.5)))))
    return things


def _belt(
    rng: np.random.Generator, canvas: Canvas, road: Road, side: int, away: float, crown: np.ndarray
) -> list[tuple[float, object]]:
    """A wood, an alley or a strip of bushes along the road."""
    tall, s, step = np.exp(rng.uniform(np.log(1.5), np.log(15))), rng.uniform(4, 40), rng.uniform(0.35, 0.9)
    stop, made = s + rng.uniform(30, 200), []
    while s < stop and len(made) < 26:
        place = road.place(s, side * (away + rng.exponential(0.25 * tall)))
        made.append(_tree(rng, canvas, place, crown, tall * rng.uniform(0.7, 1.25)))
        s += tall * step * rng.uniform(0.6, 1.6) * (1 + s / 60)
    return made


def _tree(
    rng: np.random.Generator, canvas: Canvas, place: np.ndarray, crown: np.ndarray, tall: float | None = None
) -> tuple[float, object]:
    """A tree or bush: one cut-out standing at a place."""
    sprites = foliage()
    lum, alpha = sprites[rng.integers(len(sprites))]
    if rng.random() < 0.5:
        lum, alpha = lum[:, ::-1], alpha[:, ::-1]
    x, z = (float(v) for v in place)
    if tall is None:
        tall = rng.uniform(1, 3) if rng.random() < 0.35 else rng.uniform(4, 16)
    wide = tall * rng.uniform(0.7, 1.4)
    bright = crown * rng.uniform(0.45, 1.2) * rng.normal(1, 0.06, 3)

    def draw() -> None:
        corners, depth = canvas.camera.project(np.array([[x, 0, z], [x, tall, z]]))
        if depth.min() < 2:
            return
        half = wide * canvas.camera.focal / depth[0] / 2
        box = (corners[0, 0] - half, corners[1, 1], corners[0, 0] + half, corners[0, 1])
        shade = [canvas.light.on_object(c, x, z) for c in (bright * 0.18, bright * 1.25)]
        canvas.sprite(np.ascontiguousarray(lum), np.ascontiguousarray(alpha), box, *shade)

    return z, draw


def _poles(rng: np.random.Generator, canvas: Canvas, road: Road, u: float, lit: bool) -> list[tuple[float, object]]:
    """A row of lamp posts or poles."""
    step, tall, thick = rng.uniform(15, 45), rng.uniform(5, 11), rng.uniform(0.06, 0.16)
    grey = rng.uniform(0.15, 0.6) * np.ones(3)
    arm = rng.uniform(0, 2.2) * -np.sign(u)
    glow = np.array([1, rng.uniform(0.7, 1), rng.uniform(0.4, 0.9)])
    lit = lit or rng.random() < 0.4
    made = []
    for s in np.arange(rng.uniform(5, 5 + step), 140, step):
        x, z = (float(v) for v in road.place(s, u))

        def draw(x: float = x, z: float = z) -> None:
            canvas.polygon(_upright(x, z, thick, 0, tall), grey, "moving")
            if abs(arm) > 0.3:
                top = [[x, tall, z], [x + arm, tall + 0.2, z], [x + arm, tall + 0.05, z], [x, tall - 0.15, z]]
                canvas.polygon(np.array(top), grey)
            if lit:
                canvas.lamp(x + arm, tall, z, 0.18, glow)

        made.append((z, draw))
    return made


def _sign(rng: np.random.Generator, canvas: Canvas, place: np.ndarray) -> tuple[float, object]:
    """A traffic sign on its post."""
    x, z = (float(v) for v in place)
    size, up = rng.uniform(0.3, 1.1), rng.uniform(1.6, 3.2)
    color = ((0.9, 0.9, 0.9), (0.1, 0.3, 0.65), (0.1, 0.42, 0.25), (0.92, 0.7, 0.1), (0.75, 0.12, 0.1))[rng.integers(5)]
    sides = int(rng.choice([3, 4, 4, 8, 16]))
    angle = np.arange(sides) * 2 * np.pi / sides + (np.pi / 4 if sides == 4 and rng.random() < 0.7 else np.pi / 2)

    def draw() -> None:
        canvas.polygon(_upright(x, z, 0.07, 0, up), (0.45, 0.45, 0.45), "moving")
        plate = np.stack([x + size * 0.7 * np.cos(angle), up + size * 0.7 * np.sin(angle), 0 * angle + z], axis=-1)
        canvas.polygon(plate, color, "moving")
        middle = plate.mean(axis=0)
        canvas.polygon(middle + (plate - middle) * 0.55, np.clip(np.array(color) * 0.6 + 0.35, 0, 1))

    return z, draw


def _upright(x: float, z: float, width: float, low: float, high: float) -> np.ndarray:
    """A rectangle facing the camera, (4, 3)."""
    return np.array(
        [[x - width / 2, low, z], [x + width / 2, low, z], [x + width / 2, high, z], [x - width / 2, high, z]]
    )


def build(rng: np.random.Generator, canvas: Canvas, road: Road, wall: Wall) -> list[tuple[float, object]]:
    """One wall as (distance, draw) pieces, so that it hides and is hidden piece by piece."""
    step = {"houses": rng.uniform(8, 20), "slope": 9, "rail": rng.uniform(2, 4)}.get(wall.kind, 6)
    grow = 1.0 if wall.kind in ("houses", "rail") else 1.15
    cuts = [max(wall.start, -3)]
    while cuts[-1] < wall.stop:
        cuts.append(cuts[-1] + step)
        step *= grow if cuts[-1] > 25 else 1
        if wall.kind == "rail" and cuts[-1] > 40:
            step *= 1.25
    out = np.sign(wall.u) or 1.0
    foot, back = road.place(np.array(cuts), wall.u), road.place(np.array(cuts), wall.u + out * wall.depth)
    if wall.kind == "slope":
        color = sample_color(rng, str(rng.choice(["dry", "grass", "sand", "dry"])))
    else:
        dark, light = (np.array(c) for c in WALL_COLORS[wall.kind])
        color = dark + (light - dark) * rng.random()
    heights = np.full(len(cuts), wall.height)
    if wall.kind in ("slope", "hedge"):
        ripple = np.interp(np.array(cuts), np.linspace(-3, 330, 40), rng.normal(1, 0.2, 40))
        fade = np.clip((wall.stop - np.array(cuts)) / 60, 0.05, 1) if wall.kind == "slope" else 1
        heights = heights * np.clip(ripple, 0.4, 1.6) * fade
    tones = rng.normal(1, 0.05 if wall.kind != "hedge" else 0.12, len(cuts))
    style = {"houses": _houses, "rail": _rail, "slope": _slope}.get(wall.kind, _face)
    made = []
    for k in range(len(cuts) - 1):
        seed = int(rng.integers(2**31))
        piece = (foot[k], foot[k + 1], back[k], back[k + 1], float(heights[k]), float(heights[k + 1]))

        def draw(piece=piece, tint=color * tones[k], seed=seed) -> None:
            style(canvas, piece, tint, seed, wall.kind)

        made.append((float(foot[k : k + 2, 1].mean()), draw))
    return made


def _quad(a: np.ndarray, b: np.ndarray, low: float, high_a: float, high_b: float | None = None) -> np.ndarray:
    """The upright quadrilateral over ground points a and b, (4, 3)."""
    high_b = high_a if high_b is None else high_b
    return np.array([[a[0], low, a[1]], [b[0], low, b[1]], [b[0], high_b, b[1]], [a[0], high_a, a[1]]])


def _face(canvas: Canvas, piece: tuple, color: np.ndarray, seed: int, kind: str) -> None:
    """Barrier, fence or hedge: a face, and its top where the camera looks down on it."""
    a, b, c, d, high, high_b = piece
    rough = {"hedge": 150, "fence": 40}.get(kind, 22)
    canvas.polygon(_quad(a, b, 0, high, high_b), color * 0.85, "fixed", rough)
    canvas.polygon(_quad(a, b, 0, 0.12 * high), color * 0.6)
    if high < canvas.camera.height:
        top = np.array([[a[0], high, a[1]], [b[0], high, b[1]], [d[0], high, d[1]], [c[0], high, c[1]]])
        canvas.polygon(top, np.minimum(color * 1.2, 1), "fixed", rough)


def _rail(canvas: Canvas, piece: tuple, color: np.ndarray, seed: int, kind: str) -> None:
    """Guard rail: a post and the beam to the next one; the ground shows below it."""
    a, b, _, _, high, _ = piece
    canvas.polygon(_upright(a[0], a[1], 0.12, 0, high), color * 0.55, "moving")
    canvas.polygon(_quad(a, b, high - 0.32, high), color, "fixed")
    canvas.polygon(_quad(a, b, high - 0.2, high - 0.12), color * 0.65)


def _slope(canvas: Canvas, piece: tuple, color: np.ndarray, seed: int, kind: str) -> None:
    """Embankment: rises from its foot to the back."""
    a, b, c, d, high, high_b = piece
    corners = np.array([[a[0], 0, a[1]], [b[0], 0, b[1]], [d[0], high_b, d[1]], [c[0], high, c[1]]])
    canvas.polygon(corners, color, "fixed", 75)


def _houses(canvas: Canvas, piece: tuple, color: np.ndarray, seed: int, kind: str) -> None:
    """One house front with rows of windows."""
    rng = np.random.default_rng(seed)
    a, b, _, _, high, _ = piece
    if rng.random() < 0.12:
        return  # a gap between houses
    high *= rng.uniform(0.6, 1.3)
    color = np.clip(color * rng.uniform(0.7, 1.2) * rng.normal(1, 0.06, 3), 0, 1)
    canvas.polygon(_quad(a, b, 0, high), color, "fixed", 18)
    canvas.polygon(_quad(a, b, 0, min(0.6, high)), color * 0.6)
    floors, columns = min(max(1, int(high / 3.1)), 5), int(rng.integers(2, 5))
    t = (np.arange(columns)[:, None] + [0.25, 0.75, 0.75, 0.25]) / columns  # (columns, 4)
    low = 1.0 + np.arange(floors) * high / max(1, int(high / 3.1))
    up = low[:, None] + np.minimum(1.4, high - low)[:, None] * [0, 0, 1, 1]  # (floors, 4)
    ground = a + (b - a) * t[..., None]  # (columns, 4, 2)
    panes = np.empty((floors, columns, 4, 3))
    panes[..., [0, 2]], panes[..., 1] = ground[None], up[:, None]
    panes = panes.reshape(-1, 4, 3)
    lit = rng.random(len(panes)) < (0.35 if canvas.light.glows else 0)
    canvas.details(panes, color * 0.35 + rng.uniform(0, 0.15, (len(panes), 1)))
    if lit.any():
        canvas.details(panes[lit], np.array([0.9, 0.75, 0.45]) * rng.uniform(0.3, 0.9, (lit.sum(), 1)), shaded=False)
