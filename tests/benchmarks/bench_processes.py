"""How fast two processes train on two processors, beside one process with two threads and one with one.

Run from the repository: ``python tests/benchmarks/bench_processes.py``. Each trains the tiny model on the same scenes
for two epochs; the second one counts, as the first includes what is done once. Other programs slow all of them down.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.scenes import write_dataset

SCENES = 48
RUNS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def seconds(folder: Path, name: str, processes: int, threads: int) -> float:
    """Of the second epoch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["roadtopo_lib.app.cli", "train", "lane", "--config", folder / "lane.yaml", "--data", folder / "data"]
    command += ["--device", "cpu", "--output", folder / name]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True, stdout=subprocess.DEVNULL)
    return float(list(csv.DictReader((folder / name / "history.csv").open()))[1]["seconds"])


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", {"train": SCENES, "val": 4}, (128, 256), seed=1, preset="day")
        config = LaneSegmentationConfig.preset("tiny").replace(epochs=2, batch_size=8)
        config.to_yaml(folder / "lane.yaml")
        print(f"{'':28s} seconds an epoch of {SCENES} images")
        for run, (processes, threads) in RUNS.items():
            print(f"{run:28s} {seconds(folder, run, processes, threads):.2f}", flush=True)


if __name__ == "__main__":
    main()
