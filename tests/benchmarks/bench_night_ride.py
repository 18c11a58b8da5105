"""What each choice of the preset ``night-ride`` brings, one at a time: fourteen ways to train, five seeds.

Run from the repository: ``python tests/benchmarks/bench_night_ride.py FOLDER --output data_samples/night_ride.json``. A
finished run is appended to FOLDER/runs.jsonl; started again, the benchmark goes on with what is missing. All choices of
a seed are trained before the next seed begins, so that fewer seeds are a whole result, too.

The network is the tiny SegFormer in place of SegFormer-B2. The shipped model, which knows roads by day, takes the place
of the Cityscapes weights. Each seed renders a ride of its own, writes it in the public layout, converts it, and draws
its own first weights; all choices of a seed begin alike and see the same scenes in the same order. All models are
scored on the same scenes of another ride; further scenes of that ride choose the epoch where a choice keeps the best.
The learning rate and the sizes were chosen on a ride of another seed. A CPU emulates half precision: each of its runs
takes two minutes, each of the others a quarter of a minute.

The interval of a difference to the preset is a paired bootstrap over seeds and test scenes: every draw takes the same
seeds and scenes for both. The p-value is that of a paired t-test over seeds, corrected after Holm over all choices.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import stats

from roadtopo_lib.electives import night_ride_study as lesson
from roadtopo_lib.electives.night_ride_study import BASE, CHOICES
from roadtopo_lib.files import write_json

DRAWS = 2000
SHIPPED = Path(__file__).parents[2] / "data_samples" / "tiny.safetensors"


def bootstrap(runs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores (draws,), averaged over the seeds of a draw, of counts (S, N, ...): the same draws at every call."""
    seeds, scenes = runs["pixels"].shape[:2]
    rng = np.random.default_rng(0)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds  # (draws, S)
    of_scenes = rng.multinomial(scenes, np.full(scenes, 1 / scenes), DRAWS)  # (draws, N)
    pooled = {name: np.einsum("dn,sn...->ds...", of_scenes, counts) for name, counts in runs.items()}
    return {name: (values * of_seeds).sum(axis=1) for name, values in lesson.scores_of(pooled).items()}


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction of p-values."""
    order = np.argsort(p_values)
    raised = np.maximum.accumulate((len(order) - np.arange(len(order))) * np.asarray(p_values)[order])
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(raised, 1)
    return corrected.tolist()


def summary(done: dict, seeds: list[int]) -> dict:
    """What is worth keeping of all runs; see ``data_samples/README.md``."""
    runs = {
        name: {kind: np.array([done[name, seed][kind] for seed in seeds]) for kind in done[name, seeds[0]]}
        for name in CHOICES
    }  # (S, N, ...) of each
    scores = {
        name: lesson.scores_of({kind: values.sum(axis=1) for kind, values in counts.items()})
        for name, counts in runs.items()
    }  # (S,) of each
    drawn = {name: bootstrap(counts) for name, counts in runs.items()}
    rows = []
    for name in CHOICES:
        row = {"choice": name, "scores": {key: np.round(v, 4).tolist() for key, v in scores[name].items()}}
        row["interval"] = {key: _interval(values) for key, values in drawn[name].items()}
        if name != BASE:
            row["minus_preset"] = {key: _interval(values - drawn[BASE][key]) for key, values in drawn[name].items()}
            p = {key: stats.ttest_rel(values, scores[BASE][key]).pvalue for key, values in scores[name].items()}
            row["p"] = {key: 1.0 if np.isnan(value) else float(value) for key, value in p.items()}
        rows.append(row)
    for key in scores[BASE]:
        for row, p in zip(rows[1:], holm([row["p"][key] for row in rows[1:]]), strict=True):
            row["p"][key] = float(f"{p:.2g}")
    of_slice = [{k: v[: lesson.SLICE_SCENES].sum(axis=0) for k, v in done[BASE, seed].items()} for seed in seeds]
    return {
        "command": "python tests/benchmarks/bench_night_ride.py FOLDER --output data_samples/night_ride.json",
        "train_scenes": lesson.TRAIN_SCENES, "test_scenes": lesson.TEST_SCENES, "epochs": lesson.EPOCHS,
        "batch": lesson.BATCH, "scored_at": lesson.SIZE, "ratios": lesson.RATIOS, "edges": lesson.EDGES,
        "seeds": seeds,
        "slice_miou": [round(float(lesson.scores_of(counts)["mIoU"]), 4) for counts in of_slice],
        "rows": rows,
    }  # fmt: skip


def _interval(values: np.ndarray) -> list[float]:
    """95 % interval of scores (draws,)."""
    return np.quantile(values, [0.025, 0.975]).round(4).tolist()


def print_table(result: dict) -> None:
    """A line for each choice: mean over the seeds of five scores, and mIoU's difference to the preset."""
    keys = ("mIoU", "IoU Lane Mark", "IoU Moveable", "mBoundary 0.005", "false road")
    for row in result["rows"]:
        line = f"{row['choice']:22s} " + "; ".join(f"{key} {np.mean(row['scores'][key]):.3f}" for key in keys)
        if "minus_preset" in row:
            low, high = row["minus_preset"]["mIoU"]
            line += f"; mIoU minus the preset {low:+.3f} … {high:+.3f} (p {row['p']['mIoU']:.2g})"
        print(line)


def main(folder: Path, output: Path | None, seeds: list[int]) -> None:
    """Renders, trains and scores what is missing, then prints the table."""
    log = folder / "runs.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {tuple(line["run"]): {k: np.array(v) for k, v in line["counts"].items()} for line in lines}
    test = None
    for seed in seeds:
        missing = [name for name in CHOICES if (name, seed) not in done]
        if missing and test is None:
            test = lesson.unseen_scenes()
        ride = lesson.read_ride(lesson.FIRST_SEED + seed) if missing else None
        for name in missing:
            began = time.process_time()
            counts = lesson.score(lesson.train(name, ride, seed, SHIPPED), test, CHOICES[name].size)
            seconds = round(time.process_time() - began, 1)
            done[name, seed] = counts
            kept = {kind: values.tolist() for kind, values in counts.items()}
            with log.open("a") as file:
                file.write(json.dumps({"run": (name, seed), "cpu_seconds": seconds, "counts": kept}) + "\n")
            miou = float(lesson.scores_of(lesson.pooled(counts))["mIoU"])
            print(f"seed {seed}, {name}: mIoU {miou:.3f}, {seconds} s", flush=True)
    result = summary(done, seeds)
    if output is not None:
        write_json(output, result)
    print_table(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the summary to this JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.exit(main(**vars(parser.parse_args())))
