"""Memory and handles over long runs: ``python tests/soak/long_run.py --steps 1000 --frames 1000``.

Trains that many steps, with two workers that load data, looks at that many frames of changing sizes, and follows the
lanes of a video of that many frames. Memory may grow at first, while caches fill; from the second half on its slope
must lie within the noise. At the end as many threads, files and child processes are there as after the first tenth.
"""

import argparse
import ctypes
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from kill_test import write_data

from roadtopo_lib import models
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.tracking import follow_video
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.recorders import Recorder

ALLOWED_MB = 10.0
"""Growth over the second half that counts as noise, beside twice the standard error of the slope."""


def resident_mb() -> float:
    """Memory that this process holds, in MB (10⁶ bytes).

    glibc keeps what was freed, the more the more sizes there were: 525 MB that are held after each of 600 frames are
    552 to 647 MB with it. So it is given back first.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles() -> dict[str, int]:
    """What a leak would leave behind."""
    tasks = list(Path("/proc/self/task").iterdir())
    children = sum(len((task / "children").read_text().split()) for task in tasks)
    return {"threads": len(tasks), "files": len(os.listdir("/proc/self/fd")), "children": children}


class Watch(Recorder):
    """Notes memory at each step."""

    def __init__(self) -> None:
        self.memory: list[float] = []
        self.early: dict[str, int] = {}

    def on_step(self, trainer, values: dict[str, float]) -> None:
        """A point of the curve."""
        self.note(trainer.config.steps_per_epoch * trainer.config.epochs)

    def note(self, total: int) -> None:
        """A point of the curve, and after a tenth the handles."""
        self.memory.append(resident_mb())
        if len(self.memory) == max(1, total // 10):
            self.early = handles()

    def verdict(self, name: str, now: dict[str, int]) -> bool:
        """Prints slope and handles; whether both are as they should be."""
        curve = np.array(self.memory[len(self.memory) // 2 :])
        x = np.arange(len(curve)) - (len(curve) - 1) / 2
        slope = (x * (curve - curve.mean())).sum() / (x**2).sum()
        rest = curve - curve.mean() - slope * x
        error = np.sqrt((rest**2).sum() / max(1, len(curve) - 2) / (x**2).sum())
        growth = (slope - 2 * error) * len(curve)
        more = {kind: now[kind] - self.early[kind] for kind in now if now[kind] > self.early[kind]}
        print(
            f"{name}: {len(self.memory)} in all; second half: {1000 * slope:+.1f} ± {1000 * error:.1f} kB each, "
            f"{curve.min():.0f} to {curve.max():.0f} MB; {now}, more than early: {more or 'none'}",
            flush=True,
        )
        return bool(growth <= ALLOWED_MB) and not more


def train(root: Path, steps: int, workers: int) -> bool:
    """A training of that many steps in ten epochs."""
    config = LaneSegmentationConfig.preset("tiny").replace(
        image_size=(32, 64), crop_top=0.0, batch_size=2, epochs=10, patience=11, steps_per_epoch=max(1, steps // 10),
        num_workers=workers,
    )  # fmt: skip
    sets = [LaneInstanceDataset(root, split, build_transform(config, split == "train")) for split in ("train", "val")]
    watch = Watch()
    trainer = LaneSegmentationTrainer(models.build(config), config, device="cpu", recorders=[watch], progress=False)
    trainer.fit(*(build_loader(part, config, part.split == "train") for part in sets))
    return watch.verdict("training steps", handles())


def look(frames: int) -> bool:
    """That many frames of changing sizes."""
    config = LaneSegmentationConfig.preset("tiny")
    segmenter = LaneSegmenter(models.build(config), config, device="cpu")
    rng, watch = np.random.default_rng(0), Watch()
    for _ in range(frames):
        height, width = (int(side) for side in rng.integers((60, 120), (240, 480)))
        segmenter(rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
        watch.note(frames)
    return watch.verdict("frames", handles())


def film(folder: Path, frames: int) -> bool:
    """The lanes of a video of that many frames, which shows eight scenes again and again."""
    config, size = LaneSegmentationConfig.preset("tiny"), (120, 200)
    segmenter = LaneSegmenter(models.build(config), config, device="cpu")
    clip, watch = folder / "drive.mp4", Watch()
    writer = cv2.VideoWriter(str(clip), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size[::-1])
    scenes = [render_scene(seed, size).image[..., ::-1] for seed in range(8)]
    for number in range(frames):
        writer.write(scenes[number % len(scenes)])
    writer.release()
    for _ in follow_video(segmenter, clip, folder / "film.mp4"):
        watch.note(frames)
    return watch.verdict("frames of a film", handles())


def main() -> int:
    """1 if memory or handles grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="long-run-") as folder:
        write_data(Path(folder))
        good = [train(Path(folder), arguments.steps, arguments.workers), look(arguments.frames)]
        good.append(film(Path(folder), arguments.frames))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
