"""Time and memory of ``road-topology convert`` for many label lines: does memory stay flat?

Run from the repository: ``python tests/benchmarks/bench_convert.py``. For each format and number of frames it writes
label files in the format's true form, four lanes a frame, with one JPEG of 160×90 pixels linked under every name, and
converts them by the command line. Each line shows seconds by the clock and of CPUs, the latter also for a frame, and
the peak of the resident memory: of the largest process and of all processes together (added up every 0.1 s; pages that
they share count several times). Linux only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 90, 160
ROWS = list(range(20, HEIGHT, 2))
LANES = [
    [round(x + slope * (row - 20), 1) for row in ROWS] for x, slope in ((70, -0.8), (78, -0.2), (84, 0.3), (95, 0.9))
]


def write_labels(root: Path, name: str, frames: int) -> None:
    """Label files and images of a format, 20 frames in a folder; of LabelMe and CULane a label file each."""
    folders = [root / f"clips/{number:05d}" for number in range(-(-frames // 20))]
    for folder in folders:
        folder.mkdir(parents=True)
    image = root / "image.jpg"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8))
    files = [folders[k // 20] / f"{k % 20}.jpg" for k in range(frames)]
    for file in files:
        os.link(image, file)
    names = [file.relative_to(root).as_posix() for file in files]
    points = [[[x, y] for x, y in zip(xs, ROWS, strict=True)] for xs in LANES]
    if name == "tusimple":
        lines = (json.dumps({"raw_file": file, "lanes": LANES, "h_samples": ROWS}) for file in names)
        (root / "label_data_0313.json").write_text("\n".join(lines))
    elif name == "culane":
        text = "".join(" ".join(f"{x} {y}" for x, y in reversed(lane)) + " \n" for lane in points)
        for file in files:
            file.with_suffix(".lines.txt").write_text(text)
        (root / "list").mkdir()
        (root / "list" / "train.txt").write_text("".join(f"/{file}\n" for file in names))
    elif name == "labelme":
        shapes = [{"label": "lane", "shape_type": "linestrip", "group_id": None, "points": lane} for lane in points]
        for file in files:
            values = {"shapes": shapes, "imagePath": file.name, "imageData": None}
            file.with_suffix(".json").write_text(json.dumps(values | {"imageHeight": HEIGHT, "imageWidth": WIDTH}))
    elif name == "bdd100k":
        labels = [
            {"category": "lane/single white", "poly2d": [{"vertices": lane, "types": "L" * len(lane), "closed": False}]}
            for lane in points
        ]
        (root / "lane_train.json").write_text(json.dumps([{"name": file, "labels": labels} for file in names]))
    else:
        rings = [[*lane[0], *lane[-1], lane[-1][0] + 4, lane[-1][1]] for lane in points]
        values = {
            "images": [{"id": k, "file_name": file, "height": HEIGHT, "width": WIDTH} for k, file in enumerate(names)],
            "categories": [{"id": 1, "name": "lane"}],
            "annotations": [
                {"id": 4 * k + n, "image_id": k, "category_id": 1, "segmentation": [ring]}
                for k in range(frames)
                for n, ring in enumerate(rings)
            ],
        }
        (root / "coco.json").write_text(json.dumps(values))


def resident(group: int) -> list[int]:
    """Resident bytes of each process of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) == group:
                found.append(int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, IndexError):  # it has ended
            continue
    return found


def cpu_seconds() -> float:
    """Of all child processes that have ended, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["tusimple", "culane", "labelme", "bdd100k", "coco"])
    parser.add_argument("--frames", nargs="+", type=int, default=[2000, 20000])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print("format     frames  seconds    CPU s  CPU ms a frame  largest process MB  all processes MB")
    for name in arguments.formats:
        for frames in arguments.frames:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                write_labels(root / "in", name, frames)
                command = [sys.executable, "-m", "roadtopo_lib.app.cli", "convert", name, root / "in", root / "out"]
                command += ["--workers", str(arguments.workers)]
                largest = together = 0
                start, before = time.perf_counter(), cpu_seconds()
                process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
                while process.poll() is None:
                    sizes = resident(process.pid) or [0]
                    largest, together = max(largest, *sizes), max(together, sum(sizes))
                    time.sleep(0.1)
                seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
                report = json.loads((root / "out" / "convert_report.json").read_text())
                assert (process.returncode, report["written"], report["dropped"]) == (0, frames, {})
            sizes = f"{largest / 1e6:19.0f} {together / 1e6:17.0f}"
            print(f"{name:9s} {frames:7d} {seconds:8.1f} {cpu:8.1f} {1000 * cpu / frames:15.1f} {sizes}", flush=True)


if __name__ == "__main__":
    main()
