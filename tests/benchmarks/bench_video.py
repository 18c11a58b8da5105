"""Lanes followed through rendered drives: do numbers stay with their lanes, and does the smoothing calm the curves?

Run from the repository: ``python tests/benchmarks/bench_video.py [--model M] [--video CLIP.mp4]``. Rendered drives of
three seconds, every other one with a change of lanes. A lane that is found belongs to the true line that its curve
matches as ``LaneF1`` has it.

* switches: how often the track of a true line is another than when the line was last found.
* jitter: the root mean square, in pixels, of the change from frame to frame of the distance between the curve and the
  true one, on the row at 80 % of the height; of single frames, and tracked.
* with a video: frames per second from file to file, and how many tracks cover it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from roadtopo_lib.confidence import load_segmenter
from roadtopo_lib.course.data import samples
from roadtopo_lib.metrics import LaneF1
from roadtopo_lib.metrics.instances import match_by_iou
from roadtopo_lib.scenes.drive import render_drive
from roadtopo_lib.tracking import LaneTracker, follow_video

SEEDS, FRAMES, SIZE, FPS, ROW = range(40, 48), 75, (270, 480), 25.0, 0.8


def at_row(line: np.ndarray) -> float:
    """Column of a polyline (M, 2) on the row, NaN beside it."""
    return float(np.interp(ROW * SIZE[0], line[:, 1], line[:, 0], left=np.nan, right=np.nan))


def follow(segmenter, seed: int, lane_change: float) -> dict:
    """Counts of one drive."""
    tracker, last, off = LaneTracker(SIZE), {}, {}
    counts = dict.fromkeys(("true", "found", "tracked", "switches"), 0)
    for number, scene in enumerate(render_drive(seed, FRAMES, SIZE, "day", fps=FPS, lane_change=lane_change)):
        lines = segmenter(scene.image)["lane_polylines"]
        tracks = {lane.found: lane for lane in tracker.update(lines)}
        pairs = match_by_iou(LaneF1().iou_matrix(lines, scene.lanes, SIZE), 0.5)
        counts["true"] += len(scene.lanes)
        counts["found"] += len(pairs[0])
        for place, truth in zip(*pairs, strict=True):
            lane, line = tracks.get(int(place)), scene.lines[truth]
            if lane is None:
                continue
            counts["tracked"] += 1
            counts["switches"] += last.get(line, lane.track) != lane.track
            last[line] = lane.track
            x = at_row(scene.lanes[truth])
            off.setdefault(line, {})[number] = (at_row(lines[place]) - x, at_row(lane.polyline) - x)
    steps = [np.subtract(of[k], of[k - 1]) for of in off.values() for k in of if k - 1 in of]
    return counts | {"steps": [step for step in steps if np.isfinite(step).all()]}


def main() -> None:
    """Prints a line for each drive, the sums, and what a video takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=samples() / "tiny.safetensors")
    parser.add_argument("--video", type=Path)
    arguments = parser.parse_args()
    segmenter, total = load_segmenter(arguments.model), []
    for k, seed in enumerate(SEEDS):
        total.append(follow(segmenter, seed, (0.0, 3.5, 0.0, -3.5)[k % 4]))
        print(seed, {name: value for name, value in total[-1].items() if name != "steps"}, flush=True)
    sums = {name: sum(row[name] for row in total) for name in ("true", "found", "tracked", "switches")}
    steps = [step for row in total for step in row["steps"]]
    single, tracked = np.sqrt(np.mean(np.square(steps), axis=0))
    print(f"{sums}; jitter {single:.2f} px in single frames, {tracked:.2f} px tracked, at {SIZE[1]} px")
    if arguments.video:
        with tempfile.TemporaryDirectory() as folder:
            began, followed = (
                time.perf_counter(),
                list(follow_video(segmenter, arguments.video, Path(folder) / "f.mp4")),
            )
        seconds = time.perf_counter() - began
        tracks = {lane.track for frame in followed for lane in frame.lanes}
        print(f"{len(followed)} frames, {len(followed) / seconds:.1f} frames/s, {len(tracks)} tracks")


if __name__ == "__main__":
    main()
