"""Surfaces: asphalt, concrete and roadside as textures that live on the ground.

Noise is looked up at each pixel's place on the road, so it shrinks with distance as real texture does. A pixel that
spans more road than a grain is wide shows the grains' mean: every noise fades by 1 / (1 + (footprint / grain)²).
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from roadtopo_lib.scenes.layout import Layout, Line
from roadtopo_lib.scenes.road import RoadPixels, band_coverage, dash_coverage

TILE = 256
LUT_STEP = 0.02  # metres of u per entry of the cross-section table
LUT_HALF = 80.0  # metres to either side that the table covers

# material: (RGB dark, RGB light, grain, blotches, streaks): amplitudes of the three noises, relative to brightness
MATERIALS = {
    "asphalt": ((0.24, 0.24, 0.27), (0.45, 0.45, 0.475), 0.06, 0.015, 0.025),
    "concrete": ((0.50, 0.47, 0.43), (0.72, 0.67, 0.61), 0.05, 0.04, 0.05),
    "shoulder": ((0.28, 0.28, 0.29), (0.62, 0.59, 0.55), 0.08, 0.04, 0.025),
    "opposing": ((0.27, 0.27, 0.30), (0.48, 0.48, 0.50), 0.06, 0.02, 0.025),
    "gutter": ((0.35, 0.35, 0.35), (0.62, 0.60, 0.57), 0.05, 0.06, 0.04),
    "kerb": ((0.48, 0.48, 0.46), (0.72, 0.70, 0.67), 0.05, 0.08, 0.06),
    "sidewalk": ((0.40, 0.39, 0.38), (0.70, 0.66, 0.62), 0.05, 0.06, 0.0),
    "sidewalk2": ((0.38, 0.36, 0.34), (0.62, 0.57, 0.53), 0.06, 0.09, 0.0),
    "gravel": ((0.42, 0.38, 0.33), (0.66, 0.61, 0.54), 0.22, 0.12, 0.0),
    "sand": ((0.55, 0.47, 0.36), (0.78, 0.70, 0.57), 0.12, 0.1, 0.0),
    "dry": ((0.50, 0.41, 0.24), (0.78, 0.67, 0.45), 0.25, 0.16, 0.0),
    "grass": ((0.17, 0.24, 0.10), (0.42, 0.48, 0.22), 0.28, 0.17, 0.0),
}
ROAD_MATERIALS = ("asphalt", "concrete", "shoulder", "opposing", "gutter")
SIDEWALK_MATERIALS = ("sidewalk",)


@lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """Seamless noise with four grain sizes (about 1, 3, 9 and 27 texels), (256, 256, 4) float32, std 1, within ±2.5."""
    rng = np.random.default_rng(20260801)
    channels = []
    for sigma in (0.6, 1.6, 4.5, 13.0):
        wrapped = np.tile(rng.standard_normal((TILE, TILE)).astype(np.float32), (3, 3))
        smooth = cv2.GaussianBlur(wrapped, (0, 0), sigma)[TILE : 2 * TILE, TILE : 2 * TILE]
        channels.append(np.clip((smooth - smooth.mean()) / smooth.std(), -2.5, 2.5))
    return np.ascontiguousarray(np.stack(channels, axis=-1))


@lru_cache(maxsize=1)
def leaf_noise() -> np.ndarray:
    """Seamless noise for leaves and grass seen upright, (256, 256) float32."""
    return noise_tile()[..., :3] @ np.array([0.5, 0.6, 0.5], np.float32)


def noise_at(a: np.ndarray, b: np.ndarray, texel_a: float, texel_b: float, shift: np.ndarray) -> np.ndarray:
    """Noise at places (a, b): texel sizes in metres, shift (2,) in texels; (..., 4) float32."""
    wrapped = []
    for place, texel, offset in ((a, texel_a, shift[0]), (b, texel_b, shift[1])):
        t = place * np.float32(1 / texel) + np.float32(offset)
        wrapped.append(t - TILE * np.floor(t / TILE))
    return cv2.remap(noise_tile(), wrapped[0], wrapped[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def sample_color(rng: np.random.Generator, material: str) -> np.ndarray:
    """Base colour of one scene's grass, asphalt, ...: between the material's dark and light ends, slightly tinted."""
    dark, light = (np.array(c) for c in MATERIALS[material][:2])
    return (dark + (light - dark) * rng.random()) * rng.normal(1, 0.018, 3)


@dataclass(frozen=True)
class Texture:
    """The noises of one scene at every ground pixel, already faded by distance, each (Hg, W)."""

    grain: np.ndarray
    blotches: np.ndarray
    streaks: np.ndarray


def sample_texture(rng: np.random.Generator, px: RoadPixels) -> Texture:
    """Three noises on the road plane: centimetre grain, decimetre blotches, streaks drawn out along the road."""
    foot = np.sqrt(px.ds * px.du)
    fine = noise_at(px.s, px.u, 0.018, 0.012, rng.uniform(0, TILE, 2))
    wide = noise_at(px.s, px.u, 0.17, 0.11, rng.uniform(0, TILE, 2))
    along = noise_at(px.s, px.u, 0.9, 0.035, rng.uniform(0, TILE, 2))

    def fade(size: float) -> np.ndarray:
        return 1 / (1 + (foot / size) ** 2)

    grain = fine[..., 0] * (0.7 * fade(0.02)) + fine[..., 2] * (0.6 * fade(0.12)) + wide[..., 0] * (0.5 * fade(0.2))
    blotches = wide[..., 1] * (0.5 * fade(0.5)) + wide[..., 2] * (0.6 * fade(1.2)) + wide[..., 3] * (0.6 * fade(4))
    streaks = (along[..., 1] * 0.5 + along[..., 2] * 0.6 + along[..., 3] * 0.4) * fade(2.5)
    return Texture(grain, blotches, streaks)


def strip_index(layout: Layout, u: np.ndarray) -> np.ndarray:
    """Which strip of the cross-section lies under each pixel, u's shape, int."""
    starts = np.array([strip.u for strip in layout.strips[1:]])
    table = np.searchsorted(starts, np.arange(-LUT_HALF, LUT_HALF, LUT_STEP), side="right").astype(np.uint8)
    place = (u + np.float32(LUT_HALF)) * np.float32(1 / LUT_STEP)
    return np.take(table, np.clip(place, 0, len(table) - 1).astype(np.int32))


def shade_ground(
    rng: np.random.Generator, layout: Layout, px: RoadPixels, texture: Texture, strips: np.ndarray, concrete: bool
) -> np.ndarray:
    """Colour of the bare ground before paint, shadows and weather.

    Args:
        rng: source of randomness.
        layout: cross-section.
        px: road coordinates per pixel.
        texture: noises per pixel.
        strips: `strip_index` of every pixel.
        concrete: whether the carriageway is concrete rather than asphalt.

    Returns:
        (Hg, W, 3) float32 RGB, around 0..1.
    """
    main = "concrete" if concrete else "asphalt"
    colors = {name: sample_color(rng, name) for name in MATERIALS}
    rough = min(np.exp(rng.normal(-0.15, 0.45)), 1.6)
    rows = [main if strip.material == "asphalt" else strip.material for strip in layout.strips]
    base = np.array([colors[m] * s.tone for m, s in zip(rows, layout.strips, strict=True)], dtype=np.float32)
    amp = np.array([MATERIALS[m][2:] for m in rows], dtype=np.float32) * np.float32(rough)
    light = np.ones_like(px.u)
    for k, noise in enumerate((texture.grain, texture.blotches, texture.streaks)):
        light += np.take(amp[:, k], strips) * noise
    paved = np.take(np.array([m in ("asphalt", "concrete", "opposing") for m in rows]), strips)
    worn = _tracks(rng, layout, px.u) * _seams(rng, layout, px, concrete)
    np.multiply(light, worn, out=light, where=paved)
    ground = np.take(base, strips, axis=0)  # (Hg, W, 3)
    _soften_steps(ground, layout, px, base)
    _surface_changes(rng, layout, px, ground, light, colors["asphalt" if concrete else "concrete"], paved)
    ground *= light[..., None]
    return ground


def _soften_steps(ground: np.ndarray, layout: Layout, px: RoadPixels, base: np.ndarray) -> None:
    """Anti-alias the borders between strips, in place: only pixels that a border crosses are mixed."""
    half, flat = px.du / 2, ground.reshape(-1, 3)
    for k, strip in enumerate(layout.strips[1:], start=1):
        if np.array_equal(base[k - 1], base[k]):
            continue
        near = np.flatnonzero(np.abs(px.u - strip.u) < half)
        part = ((px.u.ravel()[near] - strip.u) / px.du.ravel()[near] + 0.5)[:, None]
        flat[near] = base[k - 1] + (base[k] - base[k - 1]) * part


def _tracks(rng: np.random.Generator, layout: Layout, u: np.ndarray) -> np.ndarray:
    """Brightness of wheel tracks and of the oil line between them, periodic over the lanes."""
    width = layout.borders[1] - layout.borders[0]
    place = np.arange(64) / 64 * width - width / 2
    wheel = rng.normal(0, 0.045) * np.exp(-(((np.abs(place) - 0.8) / 0.3) ** 2))
    oil = -abs(rng.normal(0, 0.05)) * np.exp(-((place / 0.35) ** 2))
    table = (1 + wheel + oil).astype(np.float32)
    phase = (u - np.float32(layout.borders[0])) * np.float32(1 / width)
    phase -= np.floor(phase)
    return np.take(table, (phase * 64).astype(np.int32), mode="clip")


def _seams(rng: np.random.Generator, layout: Layout, px: RoadPixels, concrete: bool) -> np.ndarray:
    """Brightness of joints, tar seams and cracks: lines that must not be taken for markings."""
    light = np.ones_like(px.u)
    if concrete:
        pitch, depth = rng.uniform(4, 7), rng.uniform(0.15, 0.45)
        light -= depth * dash_coverage(px.s, px.ds, 0.03, pitch, rng.uniform(0, pitch))
    seams = [(float(u), 0.03) for u in layout.borders[1:-1] if concrete or rng.random() < 0.3]
    for _ in range(rng.choice([0, 1, 2, 4], p=[0.5, 0.25, 0.15, 0.1])):
        seams.append((rng.uniform(layout.road[0], layout.road[1]), rng.uniform(0.02, 0.09)))
    for u, width in seams:
        near = np.flatnonzero(np.abs(px.u - u) < 0.3 + px.du)
        along, across, span = (a.ravel()[near] for a in (px.s, px.u, px.du))
        meander = rng.uniform(0, 0.15) * np.sin(along * rng.uniform(0.1, 0.9) + rng.uniform(0, 6))
        cover = band_coverage(across - meander, span, u - width / 2, u + width / 2)
        light.ravel()[near] *= 1 - cover * rng.choice([rng.uniform(0.1, 0.5), -rng.uniform(0.05, 0.2)], p=[0.8, 0.2])
    for _ in range(rng.choice([0, 1, 3], p=[0.55, 0.3, 0.15])):  # seams across the road
        s, length = rng.uniform(2, 35), rng.uniform(0.03, 0.25)
        light *= 1 - rng.uniform(0.1, 0.45) * band_coverage(px.s, px.ds, s, s + length)
    return light


def _surface_changes(
    rng: np.random.Generator, layout: Layout, px: RoadPixels, ground: np.ndarray, light: np.ndarray, other: np.ndarray,
    paved: np.ndarray,
) -> None:  # fmt: skip
    """A bridge deck or a newer stretch of another colour across the road, in place."""
    if rng.random() < 0.22:
        start = rng.uniform(-20, 35)
        stop = start + float(np.exp(rng.uniform(np.log(4), np.log(120))))
        cover = band_coverage(px.s, px.ds, start, stop) * paved  # (Hg, W)
        if rng.random() < 0.5:
            other = ground[paved].mean(axis=0) * rng.uniform(0.65, 1.4) if paved.any() else other
        ground += (np.asarray(other, dtype=np.float32) - ground) * cover[..., None]
    for _ in range(rng.choice([0, 1, 3], p=[0.6, 0.25, 0.15])):  # repairs
        left = rng.uniform(layout.road[0], layout.road[1] - 0.5)
        s, width, length = rng.uniform(2, 40), rng.uniform(0.4, 3.0), rng.uniform(0.6, 14)
        cover = band_coverage(px.u, px.du, left, left + width) * band_coverage(px.s, px.ds, s, s + length)
        light *= 1 + cover * paved * rng.choice([-1, -1, 1]) * rng.uniform(0.06, 0.3)


def paint_line(ground: np.ndarray, line: Line, px: RoadPixels, texture: Texture, wet: float, breaks: list) -> None:
    """Paint one line onto the ground, in place.

    Args:
        ground: (Hg, W, 3) colours.
        line: what to paint.
        px: road coordinates per pixel.
        texture: the surface's noises; worn paint shows the surface where the noise is high.
        wet: 0 dry .. 1 wet; a film of water takes contrast away.
        breaks: (start, stop) distances without paint (crossings).
    """
    if not line.strokes:
        return
    near = np.flatnonzero(np.abs(px.u - line.u) < line.half_width() + px.du / 2)
    s, u, ds, du = (a.ravel()[near] for a in (px.s, px.u, px.ds, px.du))
    grain, blotches, streaks = (a.ravel()[near] for a in (texture.grain, texture.blotches, texture.streaks))
    cover = np.zeros_like(s)
    for k in line.strokes:
        centre = line.u + k.offset
        stroke = band_coverage(u, du, centre - k.width / 2, centre + k.width / 2)
        cover = np.maximum(cover, stroke * dash_coverage(s, ds, k.dash, k.gap, k.phase))
    for start, stop in (*breaks, *line.gone):
        cover *= 1 - 0.97 * band_coverage(s, ds, start, stop)
    bare = 0.6 * grain + 0.9 * blotches + 0.5 * streaks
    alpha = cover * line.opacity * np.clip(1.0 - line.wear * (0.25 + 0.6 * bare), 0.05, 1) * (1 - 0.45 * wet)
    color = np.array(line.color, dtype=np.float32) * (1 + 0.03 * grain[:, None])
    flat = ground.reshape(-1, 3)
    flat[near] += (color - flat[near]) * alpha[:, None]
