"""Roads seen from above: a landscape of any size with exact masks, from one integer.

A pixel is about 0.5 m wide. Order: ground, fields, roads, shadows of buildings and trees, buildings, trees, noise.
Nothing stands on a road; shadows fall over it and change the picture, but not the masks.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from roadtopo_lib.scenes.render import check_size

HIGHWAY, STREET, TRACK = "highway", "street", "track"
WIDTHS = {HIGHWAY: (9, 12), STREET: (5, 8), TRACK: (3, 4)}
"""Pixels, least and greatest."""

COLORS = {HIGHWAY: (112, 112, 114), STREET: (136, 133, 130), TRACK: (176, 160, 130)}
GREENS = np.array([(60, 76, 44), (86, 100, 58), (112, 118, 74), (150, 142, 100)], np.float32)
FIELDS = np.array([(120, 136, 70), (158, 146, 96), (176, 160, 116), (98, 120, 62), (132, 112, 84)])
ROOFS = np.array([(150, 82, 62), (128, 70, 58), (104, 100, 98), (164, 158, 150), (92, 84, 80)])
TREES = np.array([(46, 66, 34), (58, 80, 40), (70, 88, 48)])
AREA = 512 * 512
"""Pixels to which the densities below refer."""
FIELD_COUNT, SIDE_ROAD_COUNT, TREE_COUNT, FOREST_TREES = 5, 16, 60, 1500
START_SPACING = 96
"""Pixels, side of a cell in which one road leaves others."""
SHADE = 0.5
"""Share of the light that reaches a shadow."""


@dataclass(frozen=True)
class AerialScene:
    """A picture from above with its exact labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        semantic: (H, W) uint8: 1 road, 0 else, as ``labels.BINARY_CLASSES``.
        instance: (H, W) uint16: roads 1..N; where two cross, the wider one's id.
        roads: N centre lines (M, 2) float32 of (x, y), in the order of the ids.
        widths: their N widths in pixels, 3 to 12.
        attributes: how many buildings and trees there are, plain Python values.
    """

    image: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    roads: list[np.ndarray]
    widths: list[int]
    attributes: dict


def render_aerial(seed: int, size: tuple[int, int] = (512, 512)) -> AerialScene:
    """Draws a landscape from above.

    Args:
        seed: non-negative integer that decides everything.
        size: (H, W) in pixels; 5,000 × 5,000 takes about ten seconds and 0.6 GiB.

    Raises:
        ValueError: a size below 32.
    """
    size = check_size(size)
    rng = np.random.default_rng((seed, 7))
    forest = _clouds(rng, size, 220)
    image = _ground(rng, size)
    kinds, roads, widths = sample_roads(rng, size)
    _fields(rng, image)
    instance = np.zeros(size, np.uint16)
    for number in np.argsort(widths, kind="stable"):  # the wider road on top
        _pave(rng, image, instance, roads[number], widths[number], kinds[number], number + 1)
    room = cv2.distanceTransform((instance == 0).astype(np.uint8), cv2.DIST_L2, 3)  # pixels to the next road
    angle = rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.5, 1.1)  # pixels of shadow per pixel of height
    houses = _houses(rng, room, roads, kinds)
    for corners, _, _ in houses:  # trees stand beside roofs
        x, y = np.round(corners.mean(axis=0)).astype(int)
        cv2.circle(room, (int(x), int(y)), int(np.ptp(corners, axis=0).max() / 2), 0, -1)
    trees = _trees(rng, room, forest)
    _shadows(image, houses, trees, sun)
    for corners, roof, _ in houses:
        _roof(image, corners, roof, sun)
    for x, y, radius, color in trees:
        cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
        lit = (round(x - 0.35 * radius * np.sign(sun[0])), round(y - 0.35 * radius * np.sign(sun[1])))
        cv2.circle(image, lit, max(1, radius // 2), tuple(int(1.25 * c) for c in color), -1, cv2.LINE_AA)
    _grain(rng, image)
    attributes = {"buildings": len(houses), "trees": len(trees), "roads": len(roads)}
    return AerialScene(image, (instance > 0).astype(np.uint8), instance, roads, widths, attributes)


def sample_roads(rng: np.random.Generator, size: tuple[int, int]) -> tuple[list[str], list[np.ndarray], list[int]]:
    """Kinds, centre lines (M, 2) float32 and widths: highways through the image, side roads that leave them."""
    h, w = size
    kinds, roads = [], []
    for _ in range(max(1, round((h * w / AREA) ** 0.5 / 2))):
        angle = rng.uniform(0, 2 * np.pi)
        start = np.array([w, h]) / 2 + np.array([np.cos(angle), np.sin(angle)]) * np.hypot(h, w) / 1.9
        aim = rng.uniform(0.25, 0.75, 2) * (w, h) - start
        roads.append(_walk(rng, start, np.arctan2(aim[1], aim[0]), 2.4 * np.hypot(h, w), 0.004))
        kinds.append(HIGHWAY)
    left = set()  # where a road was left already, in cells: side roads do not begin in bundles
    for _ in range(max(2, round(SIDE_ROAD_COUNT * h * w / AREA))):
        lengths = [len(road) for road in roads]
        mother = roads[rng.choice(len(roads), p=np.array(lengths) / sum(lengths))]
        place = int(rng.integers(1, len(mother) - 1))
        cell = (*(mother[place] // START_SPACING),)
        if cell in left or not ((mother[place] > 0) & (mother[place] < (w, h))).all():
            continue
        left.add(cell)
        along = mother[place + 1] - mother[place - 1]
        turn = rng.choice([-1, 1]) * rng.normal(np.pi / 2, 0.15)
        kinds.append(STREET if rng.random() < 0.65 else TRACK)
        bend = 0.006 if kinds[-1] == STREET else 0.02
        roads.append(_walk(rng, mother[place], np.arctan2(along[1], along[0]) + turn, rng.uniform(150, 900), bend))
    return kinds, roads, [int(rng.integers(WIDTHS[kind][0], WIDTHS[kind][1] + 1)) for kind in kinds]


def _walk(rng: np.random.Generator, start: np.ndarray, heading: float, length: float, bend: float) -> np.ndarray:
    """A smooth line of 8-pixel steps whose curvature wanders: (M, 2) float32."""
    steps = max(3, int(length / 8))
    curvature = cv2.GaussianBlur(rng.normal(0, bend, (1, steps)), (0, 0), min(20, steps / 3))[0] * 6
    headings = heading + 0.9 * np.tanh(np.cumsum(8 * curvature) / 0.9)  # roads lead somewhere: no circles
    points = start + np.cumsum(8 * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)
    return np.concatenate([[start], points]).astype(np.float32)


def _clouds(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Smooth noise of mean 0.5: (H, W) float32 in [0, 1], details about ``scale`` pixels wide."""
    h, w = size
    coarse = rng.random((int(h / scale) + 4, int(w / scale) + 4)).astype(np.float32)
    fine = rng.random((int(4 * h / scale) + 4, int(4 * w / scale) + 4)).astype(np.float32)
    noise = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    noise += 0.5 * (cv2.resize(fine, (w, h), interpolation=cv2.INTER_CUBIC) - 0.5)
    return np.clip(noise, 0, 1, out=noise)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Grass from dark and moist to dry: (H, W, 3) uint8."""
    places = np.linspace(0, 255, len(GREENS))
    table = np.stack([np.interp(np.arange(256), places, GREENS[:, c]) for c in range(3)], axis=1).astype(np.uint8)
    index = (255 * _clouds(rng, size, 150)).astype(np.uint8)
    return cv2.LUT(cv2.merge([index] * 3), table[None])


def _fields(rng: np.random.Generator, image: np.ndarray) -> None:
    """Fields with furrows."""
    h, w = image.shape[:2]
    for _ in range(round(FIELD_COUNT * h * w / AREA)):
        middle, sides, angle = rng.uniform(0, (w, h)), rng.uniform(60, 190, 2), rng.normal(0.4, 0.25)
        color = FIELDS[rng.integers(len(FIELDS))] * rng.normal(1, 0.08)
        corners = _rectangle(middle, 2 * sides, angle)
        cv2.fillConvexPoly(image, np.round(corners * 16).astype(np.int32), color.clip(0, 255), cv2.LINE_AA, 4)
        across = np.arange(-sides[1] + 3, sides[1] - 3, rng.uniform(5, 9))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        dark = (color * rng.uniform(0.88, 0.95)).clip(0, 255)
        for v in across:
            ends = middle + np.array([[4 - sides[0], v], [sides[0] - 4, v]]) @ turn
            cv2.polylines(image, [np.round(ends * 16).astype(np.int32)], False, dark, 2, cv2.LINE_AA, 4)


def _pave(rng, image, instance, points, width: int, kind: str, number: int) -> None:
    """Paints a road; its mask holds the pixels whose centre lies within half a width of the centre line."""
    h, w = instance.shape
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - width, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + width, (w, h))
    if (high <= low).any():
        return
    box = slice(low[1], high[1]), slice(low[0], high[0])
    far = np.ones((high - low)[::-1], np.uint8)
    scaled = np.round((points - low) * 256).astype(np.int32)
    cv2.polylines(far, [scaled], False, 0, 1, cv2.LINE_8, 8)
    near = cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= (width - 0.5) / 2
    color = np.array(COLORS[kind]) * rng.normal(1, 0.06)
    verge = cv2.dilate(near.astype(np.uint8), np.ones((5, 5), np.uint8)) > near
    part = image[box]
    part[verge & (instance[box] == 0)] = (part[verge & (instance[box] == 0)] * 0.6 + color * 0.4 * 0.9).astype(np.uint8)
    part[near] = color.clip(0, 255)
    instance[box][near] = number
    if kind == HIGHWAY:  # the middle line, in dashes of 24 pixels
        for k in range(0, len(points) - 2, 5):
            cv2.polylines(image, [np.round(points[k : k + 3] * 16).astype(np.int32)], False, (205, 205, 200), 1, 8, 4)


def _houses(rng, room: np.ndarray, roads: list[np.ndarray], kinds: list[str]) -> list[tuple]:
    """Corners (4, 2), roof colour and height of buildings along streets, none of them on a road or another building."""
    h, w = room.shape
    taken, houses = np.zeros((h // 4 + 1, w // 4 + 1), np.uint8), []
    for points, kind in zip(roads, kinds, strict=True):
        if kind != STREET:
            continue
        density = rng.uniform(0.15, 0.8)
        for k in range(2, len(points) - 1, 4):
            for side in (-1, 1):
                if rng.random() > density:
                    continue
                along = points[k + 1] - points[k - 1]
                angle = float(np.arctan2(along[1], along[0]))
                length, depth = rng.uniform(14, 30), rng.uniform(11, 18)
                away = side * (rng.uniform(9, 16) + depth / 2 + 4)
                middle = points[k] + away * np.array([-np.sin(angle), np.cos(angle)])
                x, y = np.round(middle).astype(int)
                reach = np.hypot(length, depth) / 2
                spot = (
                    slice(max(0, int(y - reach)) // 4, int(y + reach) // 4 + 1),
                    slice(max(0, int(x - reach)) // 4, int(x + reach) // 4 + 1),
                )
                if not (0 <= x < w and 0 <= y < h) or room[y, x] < reach + 2 or taken[spot].any():
                    continue
                taken[spot] = 1
                roof = ROOFS[rng.integers(len(ROOFS))] * rng.normal(1, 0.08)
                houses.append((_rectangle(middle, (length, depth), angle), roof, rng.uniform(8, 20)))
    return houses


def _trees(rng, room: np.ndarray, forest: np.ndarray) -> list[tuple]:
    """(x, y, radius, colour) of single trees and of forests, none of them over a road."""
    h, w = room.shape
    count = round((TREE_COUNT + FOREST_TREES) * h * w / AREA)
    places = (rng.random((count, 2)) * (w, h)).astype(int)
    radii = rng.integers(3, 8, count)
    colors = np.clip(TREES[rng.integers(len(TREES), size=count)] * rng.normal(1, 0.1, (count, 1)), 0, 255)
    x, y = places.T
    stands = (np.arange(count) < count * TREE_COUNT / (TREE_COUNT + FOREST_TREES)) | (forest[y, x] > 0.68)
    stands &= room[y, x] > radii + 2
    rows = zip(x[stands].tolist(), y[stands].tolist(), radii[stands].tolist(), colors[stands].tolist(), strict=True)
    return [(x, y, radius, tuple(color)) for x, y, radius, color in rows]


def _shadows(image: np.ndarray, houses: list[tuple], trees: list[tuple], sun: np.ndarray) -> None:
    """Darkens what buildings and trees shade."""
    shade = np.zeros(image.shape[:2], np.uint8)
    for corners, _, height in houses:
        hull = cv2.convexHull(np.concatenate([corners, corners + height * sun]).astype(np.float32))
        cv2.fillConvexPoly(shade, np.round(hull * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    for x, y, radius, _ in trees:
        offset = np.round(1.6 * radius * sun).astype(int)
        cv2.circle(shade, (x + int(offset[0]), y + int(offset[1])), radius, 255, -1, cv2.LINE_AA)
    shade = cv2.GaussianBlur(shade, (3, 3), 0)
    for top in range(0, len(image), 512):  # in strips: floats take four times the memory
        light = 1 - (1 - SHADE) * shade[top : top + 512, :, None].astype(np.float32) / 255
        image[top : top + 512] = (image[top : top + 512] * light * (0.97, 1.0, 1.06)).clip(0, 255).astype(np.uint8)


def _roof(image: np.ndarray, corners: np.ndarray, roof: np.ndarray, sun: np.ndarray) -> None:
    """A gable roof: the half that faces the sun is brighter."""
    first, second = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2  # the ridge
    for half in (np.array([corners[0], corners[1], second, first]), np.array([first, second, corners[2], corners[3]])):
        outward = half.mean(axis=0) - corners.mean(axis=0)
        bright = 1.0 - 0.22 * float(outward @ sun / (np.linalg.norm(outward) * np.linalg.norm(sun)))
        cv2.fillConvexPoly(image, np.round(half * 16).astype(np.int32), (roof * bright).clip(0, 255), cv2.LINE_AA, 4)


def _rectangle(middle: np.ndarray, sides, angle: float) -> np.ndarray:
    """Corners (4, 2); ``sides`` are its extents along ``angle`` and across."""
    cosine, sine = np.cos(angle) / 2, np.sin(angle) / 2
    u, v = np.array([cosine, sine]) * sides[0], np.array([-sine, cosine]) * sides[1]
    return np.array([middle - u - v, middle + u - v, middle + u + v, middle - u + v])


def _grain(rng: np.random.Generator, image: np.ndarray) -> None:
    """Texture and the sensor's noise: one patch of noise, shifted from strip to strip."""
    patch = rng.normal(0, 1, (512, 512)).astype(np.float32)
    patch = 5 * cv2.GaussianBlur(patch, (0, 0), 1.5) / 0.19 * 0.5 + 3 * rng.normal(0, 1, (512, 512)).astype(np.float32)
    columns = -(-image.shape[1] // 512)
    for top in range(0, len(image), 512):
        noise = np.tile(np.roll(patch, int(rng.integers(512)), axis=1), (1, columns))
        strip = image[top : top + 512]
        strip[:] = (strip + noise[: len(strip), : image.shape[1], None]).clip(0, 255).astype(np.uint8)
