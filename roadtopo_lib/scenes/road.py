"""The road: its curve over the ground, and the coordinates in which paint is easy to describe.

A marking is a simple thing in road coordinates: a lane line is "0.15 m wide around offset −1.75 m, 3 m painted,
9 m not". So every pixel's ground point (x, z) is turned into (distance along, lateral offset), and the question
whether there is paint becomes a comparison of numbers. How *much* of the pixel the paint covers follows from the
pixel's footprint on the road, which anti-aliases all edges without drawing anything twice.

Reference:
    E. Dickmanns, B. Mysliwetz, "Recursive 3-D Road and Relative Ego-State Recognition", PAMI 1992 (clothoid model).
"""

from dataclasses import dataclass

import numpy as np

from roadtopo_lib.scenes.camera import Ground

MAX_SLOPE = 0.9
"""Where the curve has turned this far (dx/dz) it goes on straight: the cubic holds for gentle bends only."""


@dataclass(frozen=True)
class Road:
    """Centre line of the ego lane, x(z) = start + heading z + curvature z²/2 + change z³/6.

    Args:
        start: x at z = 0, metres.
        heading: slope at z = 0.
        curvature: 1/m, positive bends to the right.
        change: 1/m², change of curvature per metre.
        along: metres that the camera has driven since distances s were zero below it.
    """

    start: float
    heading: float
    curvature: float
    change: float
    along: float = 0.0

    def after(self, along: float, aside: float) -> "Road":
        """The same road seen ``along`` metres farther on and ``aside`` metres to the right of the way there."""
        return Road(self.start - aside, self.heading, self.curvature + self.change * along, self.change, along)

    def straight_from(self) -> float:
        """Distance from which the road is continued as a straight line, metres."""
        z = np.arange(0, 400.0, 2)
        slope = self.heading + self.curvature * z + self.change * z**2 / 2
        steep = np.abs(slope) > MAX_SLOPE
        return float(z[steep.argmax()]) if steep.any() else float(z[-1])

    def centre(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and slope dx/dz of the centre line at distance z, each of z's shape."""
        near = np.minimum(z, self.straight_from())
        slope = self.heading + near * (self.curvature + near * (self.change / 2))
        x = self.start + near * (self.heading + near * (self.curvature / 2 + near * (self.change / 6)))
        return x + slope * (z - near), slope

    def to_road(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Road coordinates (s, u) of ground points: distance along and offset to the right, metres."""
        centre, slope = self.centre(z)
        cos2 = 1 / (1 + slope**2)
        dx = x - centre
        return z + dx * slope * cos2 + self.along, dx * np.sqrt(cos2)

    def line(self, offset: float, z: np.ndarray) -> np.ndarray:
        """Ground points (x, z) of the line at a constant offset: the exact inverse of `to_road`'s u.

        Args:
            offset: u, metres.
            z: (M,) metres.

        Returns:
            (M, 2) metres.
        """
        centre, slope = self.centre(z)
        return np.stack([centre + offset * np.sqrt(1 + slope**2), z], axis=-1)

    def place(self, s: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Ground points (x, z) at distance s and offset u, for things that stand or lie on the road, (..., 2)."""
        s, u = np.broadcast_arrays(np.asarray(s, dtype=np.float64) - self.along, u)
        centre, slope = self.centre(s)
        cos = 1 / np.sqrt(1 + slope**2)
        return np.stack([centre + u * cos, s - u * slope * cos], axis=-1)


@dataclass(frozen=True)
class RoadPixels:
    """Road coordinates of every ground pixel, and how much road one pixel spans.

    Args:
        s: (Hg, W) metres along the road.
        u: (Hg, W) metres to the right of the ego lane's centre.
        ds: (Hg, W) metres of s that a pixel spans.
        du: (Hg, W) metres of u that a pixel spans.
    """

    s: np.ndarray
    u: np.ndarray
    ds: np.ndarray
    du: np.ndarray


def road_pixels(road: Road, ground: Ground) -> RoadPixels:
    """Look at the road through every pixel: coordinates and footprint."""
    s, u = road.to_road(ground.x, ground.z)
    s, u = s.astype(np.float32), u.astype(np.float32)
    return RoadPixels(s, u, _span(s), _span(u))


def _span(a: np.ndarray) -> np.ndarray:
    """Change of a over one pixel, both ways together."""
    right = np.empty_like(a)
    np.subtract(a[:, 1:], a[:, :-1], out=right[:, :-1])
    right[:, -1] = right[:, -2]
    down = np.empty_like(a)
    np.subtract(a[1:], a[:-1], out=down[:-1])
    down[-1] = down[-2] if len(a) > 1 else 0
    return np.sqrt(right * right + down * down) + np.float32(1e-4)


def band_coverage(u: np.ndarray, du: np.ndarray, left: float, right: float) -> np.ndarray:
    """Part of [u − du/2, u + du/2] that lies in [left, right], 0..1: one painted stroke."""
    inside = np.minimum(u + du / 2, right) - np.maximum(u - du / 2, left)
    return np.clip(inside / du, 0, 1)


def dash_coverage(s: np.ndarray, ds: np.ndarray, dash: float, gap: float, phase: float) -> np.ndarray:
    """Part of [s − ds/2, s + ds/2] that is painted by dashes, 0..1.

    The painted length from 0 to s is a known staircase F(s), so the mean over any footprint is a difference of two F.
    """
    if gap == 0:
        return np.ones_like(s)
    period = dash + gap

    def painted(t: np.ndarray) -> np.ndarray:
        whole = np.floor(t / period)
        return whole * dash + np.minimum(t - whole * period, dash)

    low = s - ds / 2 + phase
    return np.clip((painted(low + ds) - painted(low)) / ds, 0, 1)


def sample_road(rng: np.random.Generator, lateral: float, town: bool) -> Road:
    """Draw a curve: a third nearly straight, most gently bent, some sharply.

    Args:
        rng: source of randomness.
        lateral: metres of the camera from its lane's centre.
        town: streets bend less often, but turn away from the car more.
    """
    radius = rng.choice([1e5, np.exp(rng.uniform(np.log(350), np.log(2500))), rng.uniform(90, 350)], p=[0.3, 0.5, 0.2])
    curvature = rng.choice([-1, 1]) / radius
    change = rng.normal(0, 0.5) * (abs(curvature) + 2e-4) / 80
    return Road(-lateral, float(rng.normal(0, 0.03 if town else 0.015)), float(curvature), float(change))
