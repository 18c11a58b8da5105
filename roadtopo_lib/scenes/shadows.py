"""Cast shadows, drawn on the ground plane: trees, vehicles, poles, walls and bridges."""

import cv2
import numpy as np

from roadtopo_lib.scenes.camera import Camera, Ground
from roadtopo_lib.scenes.canvas import LIMIT, NEAR, SHIFT, cut_near
from roadtopo_lib.scenes.layout import Layout
from roadtopo_lib.scenes.road import Road
from roadtopo_lib.scenes.surroundings import SPRITE, foliage
from roadtopo_lib.scenes.vehicles import Vehicle
from roadtopo_lib.scenes.weather import Light


def cast_shadows(
    rng: np.random.Generator, camera: Camera, ground: Ground, road: Road, layout: Layout, light: Light,
    vehicles: list[Vehicle],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Everything between the sun and the ground.

    Returns:
        (Hg, W) float32 part in cast shadow and (Hg, W) float32 contact shadow under vehicles, each 0..1.
    """
    h, w = camera.size
    contact = np.zeros((h, w), np.uint8)
    cast = np.zeros((h, w), np.uint8)
    for car in vehicles:
        middle = car.corners.mean(axis=0)
        _fill(contact, camera, middle + (car.corners - middle) * [1.04, 1.03], 255)
        if light.shadow:
            moved = np.concatenate([car.corners, car.corners + light.sun * car.height * 0.85])
            _fill(cast, camera, cv2.convexHull(moved.astype(np.float32))[:, 0].astype(np.float64), 255)
    contact = cv2.GaussianBlur(contact[ground.top :], (0, 0), 1.2 * w / 512 + 0.1)
    if not light.shadow:
        return np.zeros(contact.shape, np.float32), contact.astype(np.float32) / 255
    for wall in layout.walls:
        if wall.kind in ("rail", "slope"):
            continue
        s = np.linspace(max(wall.start, road.along), min(wall.stop, road.along + 120), 40)
        foot = road.place(s, wall.u)
        for k in range(len(s) - 1):
            quad = np.concatenate([foot[k : k + 2], foot[k : k + 2][::-1] + light.sun * wall.height])
            _fill(cast, camera, quad, 255)
    shade = cast[ground.top :].astype(np.float32) / 255
    if rng.random() < 0.45:
        for _ in range(rng.integers(1, 7)):
            _tree_shadow(rng, camera, ground, road, layout, shade)
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 5)):  # poles
            start = road.place(rng.uniform(2, 50), rng.choice(layout.road) * rng.uniform(1, 1.4))
            side = np.array([-light.sun[1], light.sun[0]]) / np.linalg.norm(light.sun) * rng.uniform(0.06, 0.2)
            end = start + light.sun * rng.uniform(5, 10)
            pole = np.zeros((h, w), np.uint8)
            _fill(pole, camera, np.array([start - side, start + side, end + side, end - side]), 255)
            shade = np.maximum(shade, pole[ground.top :].astype(np.float32) / 255)
    return shade, contact.astype(np.float32) / 255


def _fill(mask: np.ndarray, camera: Camera, places: np.ndarray, value: int) -> None:
    """Fill a convex polygon on the ground, cut at the near plane."""
    points = np.stack([places[:, 0], np.zeros(len(places)), places[:, 1]], axis=-1)
    seen, depth = camera.project(points)
    if depth.min() < NEAR:
        points = cut_near(points, depth)
        if points is None:
            return
        seen, _ = camera.project(points)
    corners = np.clip(seen * (1 << SHIFT), -LIMIT, LIMIT).astype(np.int32)
    cv2.fillConvexPoly(mask, corners, value, cv2.LINE_AA, SHIFT)


def _tree_shadow(
    rng: np.random.Generator, camera: Camera, ground: Ground, road: Road, layout: Layout, shade: np.ndarray
) -> None:
    """Lay a crown's cut-out on the ground, in place: leaves let spots of light through."""
    _, alpha = foliage()[rng.integers(len(foliage()))]
    x, z = road.place(np.exp(rng.uniform(np.log(3), np.log(70))), rng.choice(layout.road) * rng.uniform(0.1, 1.3))
    size, angle, stretch = rng.uniform(4, 13), rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 2.5)
    c, s = np.cos(angle) * SPRITE / size, np.sin(angle) * SPRITE / size
    to_sprite = np.array(
        [[c, -s, SPRITE / 2 - c * x + s * z], [s / stretch, c / stretch, SPRITE / 2 - (s * x + c * z) / stretch]]
    )
    px = (to_sprite[0, 0] * ground.x + to_sprite[0, 1] * ground.z + to_sprite[0, 2]).astype(np.float32)
    py = (to_sprite[1, 0] * ground.x + to_sprite[1, 1] * ground.z + to_sprite[1, 2]).astype(np.float32)
    rows = np.flatnonzero(((px > 0) & (px < SPRITE) & (py > 0) & (py < SPRITE)).any(axis=1))
    if len(rows) == 0:
        return
    part = slice(rows[0], rows[-1] + 1)
    limit = np.float32(3e4)  # OpenCV's fixed-point coordinates end there
    soft = cv2.remap(
        alpha, np.clip(px[part], -limit, limit), np.clip(py[part], -limit, limit), cv2.INTER_LINEAR, borderValue=0
    )
    np.maximum(shade[part], soft.astype(np.float32) / 255, out=shade[part])
