"""Vehicles: boxes with the few details that make a car a car, and the marks they leave on the labels."""

from dataclasses import dataclass, replace

import numpy as np

from roadtopo_lib.scenes.canvas import Canvas
from roadtopo_lib.scenes.layout import TOWN, Layout
from roadtopo_lib.scenes.road import Road

# kind: width, length, height in metres; belt line as a part of the height; cabin along the length, from the rear:
# foot and roof of the rear window, roof and foot of the windscreen
SHAPES = {
    "sedan": (1.8, 4.6, 1.45, 0.62, (0.10, 0.26, 0.58, 0.76)),
    "hatchback": (1.75, 4.1, 1.5, 0.6, (0.01, 0.12, 0.58, 0.76)),
    "suv": (1.9, 4.7, 1.75, 0.58, (0.01, 0.08, 0.60, 0.74)),
    "pickup": (1.95, 5.3, 1.8, 0.56, (0.38, 0.42, 0.64, 0.76)),
    "van": (2.0, 5.2, 2.2, 0.52, (0.0, 0.02, 0.80, 0.92)),
    "truck": (2.5, 9.0, 3.6, 1.0, (0.0, 0.0, 1.0, 1.0)),
}
ODDS = (0.38, 0.14, 0.2, 0.07, 0.09, 0.12)
PAINTS = ((0.85, 0.85, 0.85), (0.08, 0.08, 0.09), (0.35, 0.36, 0.38), (0.6, 0.62, 0.64), (0.45, 0.07, 0.07),
          (0.1, 0.16, 0.35), (0.75, 0.73, 0.68), (0.2, 0.3, 0.25), (0.7, 0.5, 0.15))  # fmt: skip


@dataclass(frozen=True)
class Vehicle:
    """One vehicle.

    Args:
        kind: of SHAPES.
        s: metres to its near end.
        u: offset of its middle, metres.
        front: True if it shows its front (oncoming).
        color: RGB 0..1.
        corners: (4, 2) ground points: near left, near right, far right, far left.
        height: metres.
        lights: True if its brake lights or headlights shine by day too.
        mirror: how much sky its windows reflect, 0..1.
    """

    kind: str
    s: float
    u: float
    front: bool
    color: np.ndarray
    corners: np.ndarray
    height: float
    lights: bool
    mirror: float


def sample_vehicles(rng: np.random.Generator, road: Road, layout: Layout) -> list[Vehicle]:
    """Traffic in the lanes, on the opposing carriageway and at the kerb, without collisions."""
    lanes = len(layout.borders) - 1
    middles = (layout.borders[:-1] + layout.borders[1:]) / 2
    count = int(rng.choice([0, 1, 2, 3, 4, 6], p=[0.17, 0.22, 0.22, 0.17, 0.13, 0.09]))
    made: list[Vehicle] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(count):
        lane = int(rng.integers(lanes))
        low = 9.0 if lane == layout.ego else 2.5
        s = float(np.exp(rng.uniform(np.log(low), np.log(110))))
        u = float(middles[lane] + rng.normal(0, 0.2))
        _add(rng, made, taken, road, s, u, lane in layout.oncoming)
    opposing = [line.u for line in layout.lines if line.label is None]
    for _ in range(rng.integers(0, 5) if opposing else 0):
        u = rng.uniform(min(opposing) + 1.5, max(opposing) - 1.5)
        _add(rng, made, taken, road, float(np.exp(rng.uniform(np.log(10), np.log(120)))), u, True)
    if layout.kind == TOWN and rng.random() < 0.35:  # parked
        side = rng.choice([0, 1])
        u = layout.road[side] + (1.0 if side == 0 else -1.0)
        if abs(u) > abs(layout.borders[-side]) - 0.6:
            for s in np.arange(rng.uniform(2, 15), rng.uniform(20, 80), rng.uniform(5.8, 9)):
                if rng.random() < 0.7:
                    _add(rng, made, taken, road, float(s), float(u), bool(rng.random() < 0.3))
    return made


def drive_on(cars: list[Vehicle], layout: Layout, before: Road, after: Road, seed: int) -> list[Vehicle]:
    """The vehicles after the camera has driven on: each has gone about as far, oncoming ones the other way.

    Args:
        cars: as they stood at the start.
        layout: which lanes are oncoming; what stands beside a town's lanes is parked.
        before, after: the road as seen from the camera at the start and now.
        seed: decides how fast each vehicle is.
    """
    left, right = layout.borders[0], layout.borders[-1]
    ego, paces = layout.borders[layout.ego : layout.ego + 2], np.random.default_rng(seed).normal(1, 0.06, len(cars))
    moved = []
    for car, pace in zip(cars, paces, strict=True):
        if layout.kind == TOWN and not left < car.u < right:
            pace = 0.0
        elif car.front:
            pace = -pace
        elif ego[0] < car.u < ego[1]:
            pace = max(1.0, pace)  # nobody is run into
        s, u = before.to_road(*car.corners.T)
        ahead = pace * (after.along - before.along)
        moved.append(replace(car, s=car.s + ahead, corners=after.place(s + ahead, u)))
    return moved


def _add(rng: np.random.Generator, made: list, taken: list, road: Road, s: float, u: float, front: bool) -> None:
    """Add a vehicle unless another one is in its place."""
    kind = str(rng.choice(list(SHAPES), p=ODDS))
    width, length, height = SHAPES[kind][:3]
    width, length, height = (v * rng.uniform(0.92, 1.08) for v in (width, length, height))
    if any(abs(u - b) < 2.6 and s < stop + 2 and s + length + 2 > start for start, stop, b in taken):
        return
    taken.append((s, s + length, u))
    corners = road.place(np.array([s, s, s + length, s + length]), u + width / 2 * np.array([-1, 1, 1, -1]))
    color = np.clip(np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.8, 1.2) + rng.uniform(0, 0.06), 0, 1)
    made.append(Vehicle(kind, s, u, front, color, corners, height, bool(rng.random() < 0.25), float(rng.random() ** 3)))


def draw_vehicle(canvas: Canvas, car: Vehicle) -> None:
    """Paint one vehicle: the visible side, what lies level, then the end that faces the camera."""
    side = slice(0, 4, 3) if car.corners.mean(axis=0)[0] > 0 else slice(1, 3, 1)
    a, b = car.corners[side]
    if car.kind == "truck":
        canvas.polygon(_wall(a, b, 0.5, car.height), car.color * 0.72, "car")
        _wheels(canvas, a, b, 0.5)
        canvas.polygon(_wall(car.corners[0], car.corners[1], 0.55, car.height), car.color, "car")
        _tail(canvas, car, 0.9)
        return
    belt = SHAPES[car.kind][3] * car.height
    foot, roof = _cabin(car, belt)  # (4, 3) each
    canvas.polygon(_wall(a, b, 0.22, belt), car.color * 0.75, "car")
    _wheels(canvas, a, b, 0.33)
    if belt < canvas.camera.height:  # bonnet and boot
        canvas.polygon(np.array([_at(p, belt) for p in car.corners]), np.minimum(car.color * 1.08 + 0.02, 1), "car")
    glass = np.array([foot[side][0], foot[side][1], roof[side][1], roof[side][0]])
    canvas.polygon(glass, car.color * 0.62, "car")
    canvas.polygon(_shrunk(glass, 0.84, 0.72), (0.08, 0.09, 0.11))
    canvas.polygon(roof, np.minimum(car.color * 1.12 + 0.02, 1), "car")
    glass = np.array([foot[0], foot[1], roof[1], roof[0]])
    canvas.polygon(glass, car.color * 0.85, "car")
    canvas.polygon(_shrunk(glass, 0.88, 0.78), np.array([0.10, 0.12, 0.14]) + 0.25 * car.mirror)
    canvas.polygon(_wall(car.corners[0], car.corners[1], 0.22, belt), car.color * 0.8, "car")
    canvas.polygon(_wall(car.corners[0], car.corners[1], 0.62 * belt, belt), car.color)
    _tail(canvas, car, belt * 0.88)


def _cabin(car: Vehicle, belt: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the cabin's foot and roof, each (4, 3) in the order of the vehicle's corners."""
    near_foot, near_roof, far_roof, far_foot = SHAPES[car.kind][4]
    if car.front:
        near_foot, near_roof, far_roof, far_foot = 1 - far_foot, 1 - far_roof, 1 - near_roof, 1 - near_foot
    across, along = car.corners[1] - car.corners[0], car.corners[3] - car.corners[0]
    corner = car.corners[0]

    def ring(near: float, far: float, inset: float, up: float) -> np.ndarray:
        places = [(inset, near), (1 - inset, near), (1 - inset, far), (inset, far)]
        return np.array([_at(corner + p * across + q * along, up) for p, q in places])

    return ring(near_foot, far_foot, 0.03, belt), ring(near_roof, far_roof, 0.13, car.height)


def _shrunk(polygon: np.ndarray, across: float, up: float) -> np.ndarray:
    """A window pane inside its frame."""
    middle = polygon.mean(axis=0)
    return middle + (polygon - middle) * [across, up, across]


def _tail(canvas: Canvas, car: Vehicle, up: float) -> None:
    """Tyres, bumper, plate and lights of the near end; ``up`` is the height of the lamps."""
    left, across = car.corners[0], car.corners[1] - car.corners[0]
    for t in (0.03, 0.83):
        canvas.polygon(_wall(left + across * t, left + across * (t + 0.14), 0, 0.36), (0.03, 0.03, 0.03), "car")
    lamp = np.array([0.92, 0.92, 0.86]) if car.front else np.array([0.85 if car.lights else 0.5, 0.05, 0.05])
    parts = [
        (0.02, 0.98, 0.22, 0.22 + 0.16 * up, car.color * 0.42),
        (0.39, 0.61, 0.52 * up, 0.52 * up + 0.11, [0.8] * 3),
    ]
    parts += [(t, t + 0.13, up * 0.8, up, lamp) for t in (0.03, 0.84)]
    walls = [_wall(left + across * t0, left + across * t1, low, high) for t0, t1, low, high, _ in parts]
    canvas.details(np.array(walls), np.array([color for *_, color in parts]))
    for t in (0.1, 0.9):
        x, z = left + across * t
        glow = (1.0, 0.97, 0.85) if car.front else (0.9, 0.08, 0.05)
        canvas.lamp(float(x), up * 0.9, float(z), 0.12 if car.front else 0.09, glow)


def _wheels(canvas: Canvas, a: np.ndarray, b: np.ndarray, radius: float) -> None:
    """Two dark wheels under a side."""
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    length = np.linalg.norm(b - a)
    for t in (0.19, 0.8):
        along = t + radius / length * np.cos(angle)
        ground = a + (b - a) * along[:, None]
        wheel = np.stack([ground[:, 0], radius + radius * np.sin(angle), ground[:, 1]], axis=-1)
        canvas.polygon(wheel, (0.05, 0.05, 0.05), "car")
        canvas.polygon(_shrunk(wheel, 0.5, 0.5), (0.35, 0.35, 0.36))


def _at(place: np.ndarray, up: float) -> list[float]:
    return [float(place[0]), up, float(place[1])]


def _wall(a: np.ndarray, b: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.array([_at(a, low), _at(b, low), _at(b, high), _at(a, high)])
