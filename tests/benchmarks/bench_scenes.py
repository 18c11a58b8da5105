"""How many road scenes with their labels one core renders per second.

Run from the repository: ``python tests/benchmarks/bench_scenes.py``. Scenes of 256×512 of both presets in turn, so that
whatever else the machine does falls on both alike; one process, OpenCV and numpy limited to one thread, and processor
time, not the clock on the wall. Writing the files is not counted.
"""

import time

import cv2
from threadpoolctl import threadpool_limits

from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.render import PRESETS

TARGET = 10
SIZE = (256, 512)
SCENES = 40


def scenes_per_second(scenes: int = SCENES) -> dict[str, float]:
    """Renders so many scenes of each preset.

    Returns:
        Scenes per second of processor time, by preset.
    """
    spent = dict.fromkeys(PRESETS, 0.0)
    cv2.setNumThreads(1)
    with threadpool_limits(limits=1):
        render_scene(0, SIZE)  # makes the shared textures
        for seed in range(scenes):
            for preset in PRESETS:
                start = time.process_time()
                render_scene(seed, SIZE, preset)
                spent[preset] += time.process_time() - start
    return {preset: scenes / seconds for preset, seconds in spent.items()}


if __name__ == "__main__":
    for name, rate in scenes_per_second().items():
        print(f"preset {name}: {rate:.1f} scenes per second and core at {SIZE[0]}×{SIZE[1]} (target {TARGET})")
