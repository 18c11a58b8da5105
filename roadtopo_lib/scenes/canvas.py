"""Upright things: polygons in the world, painted far to near, that remember what they hide.

The ground is computed per pixel; everything that stands on it is drawn as projected polygons over it. Two masks
record what is hidden: by the fixed world (a label ends there) and by things that move or are thin (a lane continues
behind them, in the amodal labels).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.scenes.weather import Light

NEAR = 0.4  # metres: what comes closer to the camera is cut off
SHIFT = 4  # OpenCV's sub-pixel bits
LIMIT = 1 << 19  # fixed-point pixels: far outside any image, yet no overflow
OWN_VEHICLE, RIDER = 1, 2


@dataclass
class Canvas:
    """The picture being painted.

    Args:
        camera: through which the world is seen.
        light: shades each colour by place and distance.
        image: (H, W, 3) uint8 RGB.
        fixed: (H, W) uint8, 1 where the fixed world hides the ground.
        moving: (H, W) uint8, 1 where vehicles, poles and the like hide it.
        cars: (H, W) uint8, 1 where a vehicle is what shows.
        own: (H, W) uint8, ``OWN_VEHICLE`` or ``RIDER`` where the own vehicle or its rider shows, 0 elsewhere.
        glow: (H, W, 3) uint8, light sources, added after all shading.
        rough: (H, W) uint8, how strongly leaves and grass roughen a pixel.
    """

    camera: Camera
    light: Light
    image: np.ndarray
    fixed: np.ndarray = field(init=False)
    moving: np.ndarray = field(init=False)
    cars: np.ndarray = field(init=False)
    own: np.ndarray = field(init=False)
    glow: np.ndarray = field(init=False)
    rough: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = self.image.shape[:2]
        self.fixed, self.moving, self.cars, self.own, self.rough = (np.zeros(shape, np.uint8) for _ in range(5))
        self.glow = np.zeros_like(self.image)

    def pixels(self, points: np.ndarray) -> np.ndarray | None:
        """Corners of a world polygon as OpenCV fixed-point pixels, cut at the near plane; None if nothing is left."""
        seen, depth = self.camera.project(points)
        if depth.min() < NEAR:
            points = cut_near(points, depth)
            if points is None:
                return None
            seen, _ = self.camera.project(points)
        return np.clip(seen * (1 << SHIFT), -LIMIT, LIMIT).astype(np.int32)

    def polygon(
        self, points: np.ndarray, color: Sequence[float], hides: str | None = None, rough: int = 0, shaded: bool = True
    ) -> None:
        """Fill a world polygon.

        Args:
            points: (N, 3) metres (x, up, z), convex.
            color: RGB 0..1 in daylight.
            hides: "fixed", "moving", "car" for what moves and is a vehicle, or None for a detail on something already
                drawn.
            rough: 0..255, leafiness.
            shaded: False if the colour already is what the camera sees.
        """
        points = np.asarray(points, dtype=np.float64)
        corners = self.pixels(points)
        if corners is not None:
            self._fill(corners, self.shade(color, points[0]) if shaded else color, hides, rough)

    def details(self, polygons: np.ndarray, colors: np.ndarray, shaded: bool = True) -> None:
        """Fill many polygons of one thing at once: (K, N, 3) metres, (K, 3) colours. They hide nothing."""
        seen, depth = self.camera.project(polygons)  # (K, N, 2), (K, N)
        if depth.min() < NEAR:
            for polygon, color in zip(polygons, colors, strict=True):
                self.polygon(polygon, color, shaded=shaded)
            return
        corners = np.clip(seen * (1 << SHIFT), -LIMIT, LIMIT).astype(np.int32)
        colors = self.shade(colors, polygons[0, 0]) if shaded else np.asarray(colors)
        for corner, color in zip(corners, (np.clip(colors, 0, 1) * 255).tolist(), strict=True):
            cv2.fillConvexPoly(self.image, corner, color, cv2.LINE_AA, SHIFT)

    def shade(self, color: Sequence[float], at: np.ndarray) -> np.ndarray:
        """Daylight colours (..., 3) as seen at a place (x, up, z)."""
        return self.light.on_object(color, float(at[0]), float(at[2]))

    def _fill(self, corners: np.ndarray, rgb: Sequence[float], hides: str | None, rough: int) -> None:
        """Fill a polygon of fixed-point pixels in the image and in the masks."""
        cv2.fillConvexPoly(self.image, corners, _bytes(rgb), cv2.LINE_AA, SHIFT)
        if hides:
            cv2.fillConvexPoly(self.fixed if hides == "fixed" else self.moving, corners, 1, cv2.LINE_8, SHIFT)
            cv2.fillConvexPoly(self.cars, corners, int(hides == "car"), cv2.LINE_8, SHIFT)
            cv2.fillConvexPoly(self.rough, corners, rough, cv2.LINE_8, SHIFT)
            if self.light.glows:  # what is behind no longer shines through
                cv2.fillConvexPoly(self.glow, corners, (0, 0, 0), cv2.LINE_8, SHIFT)

    def lamp(self, x: float, up: float, z: float, radius: float, color: Sequence[float]) -> None:
        """A light source of a given radius in metres; shines even when it is smaller than a pixel."""
        seen, depth = self.camera.project(np.array([x, up, z]))
        if depth < NEAR or not self.light.glows:
            return
        size = max(radius * self.camera.focal / float(depth), 0.5)
        centre = np.clip(seen * (1 << SHIFT), -LIMIT, LIMIT).astype(int).tolist()
        cv2.circle(self.glow, centre, int(size * (1 << SHIFT)), _bytes(color), -1, cv2.LINE_AA, SHIFT)

    def sprite(self, lum: np.ndarray, alpha: np.ndarray, box: tuple[float, ...], dark: np.ndarray, bright: np.ndarray,
               hides: bool = True) -> None:  # fmt: skip
        """Paste a grey cut-out, coloured from dark to bright.

        Args:
            lum: (h, w) uint8 brightness.
            alpha: (h, w) uint8 cover.
            box: (left, top, right, bottom) in pixels.
            dark: (3,) RGB 0..1 of lum 0, already shaded.
            bright: (3,) RGB 0..1 of lum 255.
            hides: whether the ground behind is hidden for good.
        """
        h, w = self.image.shape[:2]
        left, top, right, bottom = (round(v) for v in box)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, w), min(bottom, h)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        # only the part inside the picture is resized
        sx, sy = lum.shape[1] / (right - left), lum.shape[0] / (bottom - top)
        move = np.array([[1 / sx, 0, left - x0], [0, 1 / sy, top - y0]])
        size = (x1 - x0, y1 - y0)
        if sx > 1.5:  # shrink in steps of whole areas first, so that small trees do not flicker
            small = (max(1, right - left), max(1, bottom - top))
            lum, alpha = (cv2.resize(a, small, interpolation=cv2.INTER_AREA) for a in (lum, alpha))
            move = np.array([[1, 0, left - x0], [0, 1, top - y0]], dtype=np.float64)
        both = cv2.warpAffine(cv2.merge([lum, alpha]), move, size, flags=cv2.INTER_LINEAR)
        ramp = np.linspace(0, 1, 256)[:, None] * (bright - dark) + dark
        color = cv2.applyColorMap(both[..., 0], (np.clip(ramp, 0, 1) * 255).astype(np.uint8)[:, None])
        part = both[..., 1] * np.float32(1 / 255)
        target = self.image[y0:y1, x0:x1]
        target[:] = cv2.blendLinear(color, np.ascontiguousarray(target), part, 1 - part)
        if hides:
            solid = both[..., 1] > 127
            self.fixed[y0:y1, x0:x1][solid] = 1
            self.cars[y0:y1, x0:x1][solid] = 0
            if self.light.glows:
                self.glow[y0:y1, x0:x1][solid] = 0


def _bytes(rgb: Sequence[float]) -> tuple[int, int, int]:
    r, g, b = (min(max(int(v * 255), 0), 255) for v in rgb)
    return r, g, b


def cut_near(points: np.ndarray, depth: np.ndarray) -> np.ndarray | None:
    """The part of a polygon in front of the near plane (Sutherland–Hodgman against one plane)."""
    kept = []
    for k in range(len(points)):
        a, b, da, db = points[k - 1], points[k], depth[k - 1], depth[k]
        if (da < NEAR) != (db < NEAR):
            kept.append(a + (b - a) * (NEAR - da) / (db - da))
        if db >= NEAR:
            kept.append(b)
    return np.array(kept) if len(kept) >= 3 else None
