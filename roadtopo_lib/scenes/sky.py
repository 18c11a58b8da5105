"""Above the horizon: sky, clouds and the skyline far away."""

import cv2
import numpy as np

from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.scenes.surface import noise_tile, sample_color
from roadtopo_lib.scenes.weather import DAY, NIGHT, Light


def paint_sky(rng: np.random.Generator, camera: Camera, light: Light, town: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sky and skyline of the whole image.

    Returns:
        (H, W, 3) float32 RGB and (H, W) bool, True where skyline stands.
    """
    h, w = camera.size
    horizon = camera.horizon().astype(np.float32)
    bottom = int(np.clip(horizon.max() + 2, 1, h))
    rows = np.arange(bottom, dtype=np.float32)[:, None]
    up = np.clip((horizon - rows) / (h * 0.45), 0, 1)[..., None]
    top, low = light.sky.astype(np.float32)
    sky = low + (top - low) * np.sqrt(up)
    if light.clouds > 0.25 and light.kind != NIGHT:
        # clouds lie on a plane overhead: they shrink towards the horizon
        depth = 1 / (0.12 + up[..., 0])  # (rows, W)
        scale = rng.uniform(15, 40)
        a = (np.arange(w, dtype=np.float32) / w - 0.5) * depth * (scale * 2) + np.float32(rng.uniform(0, 256))
        b = depth * np.float32(scale) + np.float32(rng.uniform(0, 256))
        n = cv2.remap(noise_tile(), np.mod(a, 256), np.mod(b, 256), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        cover = np.clip(
            (n[..., 3] * 0.5 + n[..., 2] * 0.35 + n[..., 1] * 0.15 + light.clouds * 2 - 1.3) * 0.6, 0, 1
        ) * np.sqrt(up[..., 0])
        white = np.minimum(low * 1.25 + 0.1, 1) * (0.9 if light.kind == DAY else 0.6)
        sky += (white - sky) * cover[..., None] * 0.8
    sky, rough = _skyline(rng, sky, horizon, rows, light, town)
    full = np.zeros((h, w, 3), np.float32)
    full[:bottom] = sky
    standing = np.zeros((h, w), np.uint8)
    standing[:bottom] = rough
    return full, standing


def _skyline(
    rng: np.random.Generator, sky: np.ndarray, horizon: np.ndarray, rows: np.ndarray, light: Light, town: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Far hills, tree lines and houses in front of the sky, the farthest first."""
    h, w = sky.shape[:2]
    cols = np.arange(w) * (512 / w)
    rough = np.zeros((h, w), np.uint8)
    for distance in np.sort(rng.uniform(150, 6000, rng.integers(1, 4)))[::-1]:
        kind = rng.choice(["hills", "trees", "houses"], p=[0.1, 0.3, 0.6] if town else [0.45, 0.48, 0.07])
        height = (
            h
            * {"hills": rng.uniform(0.02, 0.28), "trees": rng.uniform(0.02, 0.16), "houses": rng.uniform(0.04, 0.4)}[
                kind
            ]
        )
        profile = (_profile(rng, cols, kind) * height).astype(np.float32)
        if kind == "hills":
            color = sample_color(rng, rng.choice(["dry", "grass"])) * rng.uniform(0.5, 0.9)
        elif kind == "trees":
            color = sample_color(rng, "grass") * rng.uniform(0.35, 0.85)
        else:
            color = rng.uniform(0.3, 0.75) * rng.normal(1, 0.05, 3)
        shown = light.haze + (color * light.ambient - light.haze) * np.exp(-distance / max(light.visibility * 2, 300))
        top = horizon - profile
        low = slice(int(np.clip(top.min() - 1, 0, h)), h)  # rows that the layer reaches
        cover = np.clip(rows[low] - top + 0.5, 0, 1)
        color = shown.astype(np.float32)
        if kind == "trees":  # light falls from above: the foot of a tree line is darker than its crowns
            color = color * (1 - 0.25 * np.clip((rows[low] - top) / (profile + 4), 0, 1))[..., None]
        sky[low] += (color - sky[low]) * cover[..., None]
        strength = {"hills": 50, "trees": 130, "houses": 25}[kind] * np.exp(-distance / 4000)
        rough[low][cover > 0.5] = int(strength)
    return sky, rough


def _profile(rng: np.random.Generator, cols: np.ndarray, kind: str) -> np.ndarray:
    """Height of the skyline over the columns, about 0..1."""
    row = noise_tile()[rng.integers(256)]  # (256, 4)

    def wave(channel: int, stretch: float) -> np.ndarray:
        return np.interp(np.mod(cols / stretch + rng.uniform(0, 256), 255), np.arange(256), row[:, channel])

    if kind == "hills":
        return np.clip(0.55 + 0.25 * wave(3, 4) + 0.06 * wave(2, 2), 0, 1.3)
    if kind == "trees":
        return np.clip(0.5 + 0.2 * wave(3, 2) + 0.12 * wave(2, 1) + 0.1 * wave(1, 1.2) + 0.04 * wave(0, 1), 0, 1.4)
    starts = np.sort(rng.uniform(0, 512, rng.integers(5, 25)))
    return np.append(rng.uniform(0, 1, len(starts)), 0.3)[np.searchsorted(starts, cols)]
