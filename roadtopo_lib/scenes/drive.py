"""A drive through one scene: the same road, moment after moment, from a camera that moves as a car's does."""

from collections.abc import Iterator

import numpy as np

from roadtopo_lib.scenes.render import Moment, Scene, render_scene

WAVES = 4
"""Oscillations that add up to the camera's shaking."""


def render_drive(
    seed: int, frames: int, size: tuple[int, int] = (256, 512), preset: str = "all", speed: float = 20.0,
    fps: float = 25.0, lane_change: float = 0.0,
) -> Iterator[Scene]:  # fmt: skip
    """Renders the frames of a drive, one after the other. ``Scene.lines`` tells which lane is which in all of them.

    Things stand where the scene puts them, up to some 150 m ahead, so the world thins out on longer ways. Its shadows
    of trees, rain and the sensor's noise are those of the scene in every frame.

    Args:
        seed: of the scene and of the drive.
        frames: how many.
        size, preset: see ``render_scene``.
        speed: metres per second.
        fps: frames per second.
        lane_change: metres to the right by which the car changes its lane in the middle of the drive, within 4 seconds,
            of which a shorter drive shows a part.

    Raises:
        ValueError: see ``render_scene``; a speed below 0, or no frames per second.
    """
    for moment in moments(seed, frames, speed, fps, lane_change):
        yield render_scene(seed, size, preset, moment=moment)


def moments(seed: int, frames: int, speed: float, fps: float, lane_change: float = 0.0) -> list[Moment]:
    """Where the camera is in each frame; see ``render_drive``.

    The camera nods (1 to 3 Hz, as cars do on their springs) and turns by about 0.2 degrees, and drifts by about 0.2 m
    within its lane.
    """
    if not (speed >= 0 and fps > 0):
        raise ValueError(f"speed is {speed} and fps {fps}, expected at least 0 and more than 0")
    rng = np.random.default_rng((seed, 1))
    seconds = np.arange(frames) / fps
    pitch = _shaking(rng, seconds, (1.0, 3.0), 0.12)
    yaw, aside = _shaking(rng, seconds, (0.1, 0.4), 0.12), _shaking(rng, seconds, (0.05, 0.2), 0.1)
    middle = frames / fps / 2
    share = np.clip((seconds - middle) / 4 + 0.5, 0, 1)
    aside = aside + lane_change * share**2 * (3 - 2 * share)  # begins and ends gently
    return [
        Moment(float(speed * t), float(a), float(p), float(y))
        for t, a, p, y in zip(seconds, aside, pitch, yaw, strict=True)
    ]


def _shaking(rng: np.random.Generator, seconds: np.ndarray, hertz: tuple[float, float], size: float) -> np.ndarray:
    """A sum of oscillations with random phases, zero at the start; ``size`` is its standard deviation."""
    waves = zip(rng.uniform(*hertz, WAVES), rng.uniform(0, 2 * np.pi, WAVES), strict=True)
    total = sum(np.sin(2 * np.pi * f * seconds + phase) - np.sin(phase) for f, phase in waves)
    return total * size * np.sqrt(2 / WAVES)
