"""Light and air: day, dusk and night, cloud, rain, haze and fog.

Reference:
    H. Koschmieder, 1924: contrast falls off with distance as exp(−z / visibility); used for haze and fog.
"""

import math
from dataclasses import dataclass

import numpy as np

DAY, DUSK, NIGHT = "day", "dusk", "night"


@dataclass(frozen=True)
class Light:
    """The light of one scene.

    Args:
        kind: day, dusk or night.
        ambient: (3,) RGB factor on daylight colours.
        headlight: strength of the own headlights, 0 by day.
        haze: (3,) RGB of the air far away.
        visibility: metres over which contrast falls to 1/e.
        sky: (2, 3) RGB at the top and at the horizon.
        clouds: 0..1.
        sun: (2,) metres of shadow per metre of height, as (x, z).
        shadow: darkness of cast shadows, 0..1 (0 under cloud).
        rain: 0 dry .. 1 soaked.
        lamps: (n, 2) ground places (x, z) lit by street lamps at night.
    """

    kind: str
    ambient: np.ndarray
    headlight: float
    haze: np.ndarray
    visibility: float
    sky: np.ndarray
    clouds: float
    sun: np.ndarray
    shadow: float
    rain: float
    lamps: tuple[tuple[float, float], ...] = ()

    @property
    def glows(self) -> bool:
        """Whether lamps are lit."""
        return self.kind != DAY

    def strength(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Light from the own headlights and street lamps at ground places, of x's shape."""
        if not self.headlight:
            return np.zeros_like(x)
        beam = np.exp(-((x / (1.6 + 0.28 * z)) ** 2)) * z / (z + 3) / (1 + (z / 26) ** 2)
        total = self.headlight * beam
        for lx, lz in self.lamps:
            total += 0.35 / (1 + ((x - lx) ** 2 + (z - lz) ** 2) / 30)
        return total

    def on_ground(self, color: np.ndarray, x: np.ndarray, z: np.ndarray, shade: np.ndarray) -> np.ndarray:
        """Colour of the ground as seen: light, cast shadow, air.

        Args:
            color: (h, w, 3) in daylight.
            x, z: (h, w) metres.
            shade: (h, w) part in shadow, 0..1.
        """
        seen = color * self.ambient
        if self.shadow:
            bluish = np.array([1.0, 0.96, 0.88], dtype=np.float32)  # a shadow is lit by the blue sky
            seen *= 1 - (self.shadow * shade)[..., None] * bluish
        if self.headlight:
            warm = np.array([1.0, 0.95, 0.82], dtype=np.float32)
            seen += self.strength(x, z)[..., None] * (color * warm)
        air = np.exp(z * np.float32(-1 / self.visibility))[..., None]
        seen -= self.haze
        seen *= air
        seen += self.haze
        return seen

    def on_object(self, color, x: float, z: float) -> np.ndarray:
        """Colour of an upright thing as seen, (3,)."""
        beam = 0.6 * float(self.strength(np.float64(x), np.float64(max(z, 0)))) if self.headlight else 0.0
        air = math.exp(-max(z, 0) / self.visibility)
        return self.haze + (np.asarray(color) * (self.ambient + beam) - self.haze) * air


def sample_light(rng: np.random.Generator, preset: str) -> Light:
    """Draw the light. "day" is dry daylight, "night-ride" a dry night; the others add dusk, night, rain and fog.

    That is about half of the scenes, of "wild" a third: most photographs are taken by day.
    """
    kind, rain = (NIGHT if preset == "night-ride" else DAY), 0.0
    whole = preset not in ("day", "night-ride")
    if whole:
        kind = str(rng.choice([DAY, DUSK, NIGHT], p=[0.78, 0.1, 0.12] if preset == "wild" else [0.62, 0.16, 0.22]))
        rain = float(rng.uniform(0.3, 1)) if rng.random() < 0.18 else 0.0
    overcast = rain > 0 or rng.random() < 0.25
    elevation = np.radians(rng.uniform(18, 75) if kind == DAY else rng.uniform(8, 20))
    azimuth = rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(azimuth), np.sin(azimuth)]) / np.tan(elevation)
    fog = whole and rng.random() < 0.08
    visibility = float(rng.uniform(35, 120) if fog else np.exp(rng.uniform(np.log(350), np.log(3500))))
    sky, ambient = _sky(rng, kind, overcast)
    haze = sky[1] * rng.uniform(0.85, 1.0)
    return Light(
        kind, ambient.astype(np.float32), float(rng.uniform(0.7, 1.7)) if kind == NIGHT else 0.0,
        haze.astype(np.float32), visibility * (0.5 if rain else 1.0), sky, float(rng.uniform(0, 0.8)), sun,
        0.0 if overcast or kind != DAY else float(rng.uniform(0.35, 0.62)), rain, _lamps(rng) if kind == NIGHT else (),
    )  # fmt: skip


def _lamps(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Ground places under a row of street lamps, or none."""
    if rng.random() < 0.4:
        return ()
    x, step = rng.choice([-1, 1]) * rng.uniform(3, 9), rng.uniform(18, 40)
    return tuple((float(x), float(z)) for z in np.arange(rng.uniform(0, step), 110, step))


def _sky(rng: np.random.Generator, kind: str, overcast: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sky colours (2, 3) and ambient light (3,)."""
    if kind == NIGHT:
        town_glow = rng.uniform(0, 0.12) * np.array([1.0, 0.8, 0.6])
        sky = np.stack([np.array([0.01, 0.015, 0.03]), np.array([0.03, 0.03, 0.045]) + town_glow])
        return sky, rng.uniform(0.07, 0.24) * np.array([0.95, 0.95, 1.1])
    if kind == DUSK:
        level = rng.uniform(0.3, 0.75)
        warm = np.array([1.0, rng.uniform(0.6, 0.85), rng.uniform(0.35, 0.8)])
        sky = level * np.stack([np.array([0.35, 0.42, 0.6]), 0.95 * warm])
        return sky, level * rng.uniform(0.7, 1) * np.array([1.0, 0.95, 0.92])
    if overcast:
        level = rng.uniform(0.6, 0.95)
        return level * np.array([[0.82, 0.86, 0.92], [1.0, 1.0, 1.0]]), np.full(3, rng.uniform(0.75, 0.95))
    blue = np.array([0.30, 0.52, 0.74]) * rng.uniform(0.8, 1.15) * rng.normal(1, 0.05, 3)
    return np.array([blue, np.array([0.66, 0.76, 0.83]) * rng.uniform(0.85, 1.12)]), np.ones(3)
