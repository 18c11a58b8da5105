"""Large images: how long a scene from above takes, and what tiles from disk to disk take in time and memory.

Run from the repository: ``python tests/benchmarks/bench_large_images.py FOLDER --sides 5000 10000``; ``--output FILE``
writes the figures as JSON. FOLDER takes 8 bytes for a pixel. Time is the processor's, of one thread.

Memory is the largest that the process held of its own (RssAnon of Linux). Pages of the mapped files are not counted:
the system drops them when it needs the room.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.electives.tiled_segmenter import TiledSegmenter, segment_file
from roadtopo_lib.files import write_json
from roadtopo_lib.models import load_with_info
from roadtopo_lib.scenes.aerial import render_aerial

MODEL = Path(__file__).parents[2] / "data_samples" / "aerial.safetensors"


def own_mib() -> float:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def tiled(side: int, folder: Path) -> dict:
    """An image of side × side pixels, a scene of 1,000 × 1,000 repeated, from a file to files."""
    scene, source = render_aerial(4, (1000, 1000)).image, folder / f"image_{side}.npy"
    image = np.lib.format.open_memmap(source, "w+", np.uint8, (side, side, 3))
    for top in range(0, side, 1000):
        image[top : top + 1000] = np.tile(scene, (1, -(-side // 1000), 1))[: side - top, :side]
    del image
    model, info = load_with_info(MODEL)
    segmenter = TiledSegmenter(model, LaneSegmentationConfig.from_dict(info["training"]), "cpu", 512, 64)
    peak, done = [own_mib()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], own_mib())

    watcher, began, before = threading.Thread(target=watch), time.process_time(), peak[0]
    watcher.start()
    ((_, count),) = segment_file(segmenter, source, folder)
    done.set()
    watcher.join()
    seconds = time.process_time() - began
    for path in folder.glob(f"image_{side}*"):
        path.unlink()
    return {"side": side, "cpu_s": round(seconds, 1), "before_mib": round(before), "peak_mib": round(peak[0]),
            "roads": count}  # fmt: skip


def render(side: int) -> dict:
    """A scene from above of side × side pixels from one integer."""
    began = time.process_time()
    scene = render_aerial(1, (side, side))
    return {"rendered": side, "cpu_s": round(time.process_time() - began, 1), "roads": len(scene.roads)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--one", choices=("render", "tiled"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        side = arguments.sides[0]
        print(json.dumps(render(side) if arguments.one == "render" else tiled(side, arguments.folder)))
        sys.exit()
    rows = []
    for kind, side in [("render", 5000), *(("tiled", side) for side in arguments.sides)]:
        call = [sys.executable, __file__, str(arguments.folder), "--one", kind, "--sides", str(side)]
        rows.append(json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(rows[-1], flush=True)
    if arguments.output is not None:
        sides = " ".join(map(str, arguments.sides))
        command = f"python tests/benchmarks/bench_large_images.py FOLDER --sides {sides} --output {arguments.output}"
        write_json(arguments.output, {"command": command, "rows": rows})
