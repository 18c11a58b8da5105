"""A pinhole camera over a flat road: from a pixel to the ground and back.

Axes: x to the right, y down, z forward, all in metres, with the camera at the origin. The road is the plane
y = height. A world point P is seen at K · R · P; a pixel looks along Rᵀ · K⁻¹ · (u, v, 1), and where that ray meets
the plane is the ground point under the pixel. Every marking is drawn by asking each pixel where it looks, which
makes the perspective exact without a single loop over pixels.

Reference:
    R. Hartley, A. Zisserman, "Multiple View Geometry in Computer Vision", 2nd ed., chapter 6 (camera models).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

HORIZON_Z = 3000.0
"""Ground farther away than this (metres) counts as horizon."""


@dataclass(frozen=True)
class Camera:
    """Pinhole camera above the ground plane.

    Args:
        height: above the ground, metres.
        pitch: degrees, positive looks down.
        roll: degrees, positive turns the picture clockwise.
        yaw: degrees between the car's axis and the camera's, positive looks to the right.
        fov: horizontal field of view, degrees.
        lateral: metres from the centre of the ego lane, positive to the right.
        size: (H, W) of the image in pixels.
        pixel_aspect: vertical over horizontal focal length; 1 for square pixels, below 1 for a picture squeezed flat.
    """

    height: float
    pitch: float
    roll: float
    yaw: float
    fov: float
    lateral: float
    size: tuple[int, int]
    pixel_aspect: float = 1.0

    @cached_property
    def focal(self) -> float:
        """Horizontal focal length in pixels."""
        return self.size[1] / 2 / np.tan(np.radians(self.fov) / 2)

    def intrinsics(self) -> np.ndarray:
        """K, the (3, 3) matrix from camera axes to pixels; pixel centres lie at whole numbers."""
        h, w = self.size
        f = self.focal
        return np.array([[f, 0, (w - 1) / 2], [0, f * self.pixel_aspect, (h - 1) / 2], [0, 0, 1]])

    def rotation(self) -> np.ndarray:
        """R, the (3, 3) rotation from world axes to camera axes: yaw first, then pitch, then roll."""
        (cp, cr, cy), (sp, sr, sy) = (f(np.radians([self.pitch, self.roll, self.yaw])) for f in (np.cos, np.sin))
        yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where world points are seen.

        Args:
            points: (..., 3) metres as (x right, up from the ground, z forward); the middle value is a height.

        Returns:
            (..., 2) pixels (x, y), and (...) depth in metres; points behind the camera have depth ≤ 0.
        """
        matrix, offset = self._projection
        seen = np.asarray(points, dtype=np.float64) @ matrix + offset  # (..., 3)
        depth = seen[..., 2]
        return seen[..., :2] / np.maximum(np.abs(depth), 1e-6)[..., None], depth

    @cached_property
    def _projection(self) -> tuple[np.ndarray, np.ndarray]:
        """K R for row vectors (x, up, z), and what the camera's height adds."""
        matrix = (self.intrinsics() @ self.rotation()).T  # (3, 3)
        return matrix * np.array([[1.0], [-1.0], [1.0]]), self.height * matrix[1]

    def horizon(self) -> np.ndarray:
        """Row of the horizon at every column, (W,)."""
        m = self._ray_matrix()[1]  # the ray's downward part is linear in the pixel; the horizon is where it is 0
        return -(m[0] * np.arange(self.size[1]) + m[2]) / m[1]

    def ground(self) -> "Ground":
        """The ground point under every pixel from the horizon down."""
        h, w = self.size
        top = int(np.clip(np.floor(self.horizon().min()), 0, h - 1))
        cols = np.arange(w, dtype=np.float32)
        rows = np.arange(top, h, dtype=np.float32)[:, None]
        dx, dy, dz = (np.float32(m[0]) * cols + np.float32(m[1]) * rows + np.float32(m[2]) for m in self._ray_matrix())
        seen = dy > self.height / HORIZON_Z
        scale = self.height / np.where(seen, dy, self.height / HORIZON_Z)
        return Ground(top, dx * scale, dz * scale, seen)

    def _ray_matrix(self) -> np.ndarray:
        """Rᵀ K⁻¹, (3, 3): from (u, v, 1) to the direction looked along."""
        return self.rotation().T @ np.linalg.inv(self.intrinsics())


@dataclass(frozen=True)
class Ground:
    """The part of the image that looks at the ground.

    Args:
        top: first image row of the arrays below.
        x: (H − top, W) metres to the right.
        z: (H − top, W) metres forward.
        seen: (H − top, W) bool, False above the horizon.
    """

    top: int
    x: np.ndarray
    z: np.ndarray
    seen: np.ndarray


LEAN = 6
"""How much more a motorcycle leans than a car rolls."""


def sample_camera(rng: np.random.Generator, size: tuple[int, int], rider: bool = False) -> Camera:
    """Draw a camera as cars carry them: the field of view decides how far a pixel of pitch turns.

    Args:
        rng: source of randomness.
        size: (H, W) pixels.
        rider: ``True`` for one on a motorcycle, which leans with it.
    """
    fov = float(np.clip(rng.normal(60, 10), 40, 90))
    aspect = float(rng.uniform(0.84, 1.04))  # 16:9 photographs squeezed to 2:1 have 0.89
    focal_y = size[1] / 2 / np.tan(np.radians(fov) / 2) * aspect
    horizon = size[0] * float(np.clip(rng.normal(0.52, 0.075), 0.35, 0.62))
    lateral = rng.normal(0, 0.3) if rng.random() < 0.9 else rng.uniform(-1.6, 1.6)
    return Camera(
        height=float(rng.triangular(1.1, 1.35, 2.2)),
        pitch=float(np.degrees(np.arctan2((size[0] - 1) / 2 - horizon, focal_y))),
        roll=float(np.clip(rng.normal(0, 0.7), -2, 2)) * (LEAN if rider else 1),
        yaw=float(np.clip(rng.normal(0, 1.8), -6, 6)),
        fov=fov,
        lateral=float(lateral),
        size=size,
        pixel_aspect=aspect,
    )
