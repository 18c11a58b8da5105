"""What fine-tuning does with few scenes of a style that the shipped model never saw, beside training from scratch.

Run from the repository: ``python tests/benchmarks/bench_finetune.py FOLDER --output data_samples/finetune.json``. A
finished run is appended to FOLDER/runs.jsonl; started again, the benchmark goes on with what is missing.

The style: dusk, night and rain, 256×512 pixels; the shipped model has learnt dry daylight. Each seed draws its own 200
scenes and its own weights; 48 and 12 are the first of these. A quarter as many more scenes choose the epoch. All models
are scored on the same 400 other scenes. The settings were chosen on scenes of other seeds. Each run is the command
``road-topology train lane``. The interval of a difference to the untouched weights is a paired bootstrap over seeds and
test scenes: every draw takes the same test scenes for both models.
"""

import argparse
import itertools
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from roadtopo_lib.app.cli import main as road_topology
from roadtopo_lib.config import PRESETS
from roadtopo_lib.data.samples import FOLDERS, instances_by_role, list_samples, write_sample
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import write_json
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.metrics import ConfusionMatrix, LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.synth import image_seed

SHIPPED = Path(__file__).parents[2] / "data_samples" / "tiny.safetensors"
RECIPES = {
    "from scratch": ["--config", "own-data"],
    "fine-tuned": ["--config", "finetune", "--init", str(SHIPPED)],
}
SIZES = (12, 48, 200)
TEST_SCENES, TEST_SEED, FIRST_SEED = 400, 500, 501
"""Training seed k draws its scenes from ``FIRST_SEED + k``. The settings were chosen with seeds above 9000."""

DRAWS = 2000


def val_scenes(size: int) -> int:
    """How many scenes choose the epoch beside ``size`` for training."""
    return max(4, size // 4)


def is_new_style(attributes: dict) -> bool:
    """Dusk, night or rain: nothing of it is in the preset ``day``."""
    return attributes["light"] != "day" or attributes["rain"] > 0


def render(folder: Path, count: int, seed: int) -> None:
    """Writes ``count`` scenes of the new style as the split ``folder``, unless they are there."""
    if (folder / FOLDERS[0]).is_dir() and len(list((folder / FOLDERS[0]).iterdir())) == count:
        return
    scenes = (render_scene(image_seed(seed, folder.name, k), (256, 512), "all") for k in itertools.count())
    chosen = itertools.islice((scene for scene in scenes if is_new_style(scene.attributes)), count)
    for number, scene in enumerate(chosen):
        write_sample(folder, f"{number:04d}", scene.image, scene.semantic_amodal, scene.instance_amodal)


def first_scenes(source: Path, target: Path, counts: dict[str, int]) -> Path:
    """A data set of the first scenes of another."""
    for split, count in counts.items():
        for kind, files in zip(FOLDERS, list_samples(source, split), strict=True):
            (target / split / kind).mkdir(parents=True, exist_ok=True)
            for file in files[:count]:
                shutil.copyfile(file, target / split / kind / file.name)
    return target


def score(model: Path, test: Path) -> dict:
    """Of each test scene: pixels in the intersection and the union of each class (N, C), and lanes as tp, fp, fn."""
    segmenter, dataset = LaneSegmenter.from_checkpoint(model), LaneInstanceDataset(test, "test")
    counts: dict[str, list] = {"intersection": [], "union": [], "lanes": []}
    for image, semantic, instance in map(dataset.read, range(len(dataset))):
        result, confusion, lanes = segmenter(image), ConfusionMatrix(dataset.num_classes, IGNORE_INDEX), LaneF1()
        confusion.update(result["semantic_mask"], semantic)
        hit = confusion.matrix.diagonal()
        counts["intersection"].append(hit.tolist())
        counts["union"].append((confusion.matrix.sum(axis=0) + confusion.matrix.sum(axis=1) - hit).tolist())
        true_lanes = polylines_from_instances(instance, instances_by_role(semantic, instance))
        lanes.update(result["lane_polylines"], true_lanes, image.shape[:2])
        counts["lanes"].append([lanes.tp, lanes.fp, lanes.fn])
    return counts


def pooled(counts: dict, scenes: np.ndarray | slice = slice(None)) -> np.ndarray:
    """mIoU and lane F1 (..., 2) of the counts of the chosen scenes (..., N), added up before they are divided."""
    hit, union, lanes = (np.array(counts[name])[scenes].sum(axis=-2) for name in ("intersection", "union", "lanes"))
    iou = np.divide(hit, union, out=np.full(union.shape, np.nan), where=union > 0)
    tp, fp, fn = np.moveaxis(lanes, -1, 0)
    return np.stack([np.nanmean(iou, axis=-1), 2 * tp / (2 * tp + fp + fn)], axis=-1)


def difference(runs: list[dict], untouched: dict) -> np.ndarray:
    """95 % interval (2, 2) of the mean over runs minus the untouched weights: mIoU and lane F1, low and high."""
    rng, count = np.random.default_rng(0), len(untouched["lanes"])
    scenes, seeds = rng.integers(count, size=(DRAWS, count)), rng.integers(len(runs), size=(DRAWS, len(runs)))
    scores = np.stack([pooled(run, scenes) for run in runs], axis=1)  # (draws, runs, 2)
    mean = np.take_along_axis(scores, seeds[..., None], axis=1).mean(axis=1)
    return np.quantile(mean - pooled(untouched, scenes), [0.025, 0.975], axis=0).T


def train(recipe: str, size: int, seed: int, folder: Path) -> Path:
    """The best model of one run of the command line."""
    data = folder / f"draw{seed}"
    counts = {"train": size, "val": val_scenes(size)}
    for split in counts:
        render(data / split, {"train": max(SIZES), "val": val_scenes(max(SIZES))}[split], FIRST_SEED + seed)
    own = first_scenes(data, folder / f"draw{seed}_{size}", counts)
    run = folder / "run"
    options = ["--data", str(own), "--output", str(run), "--overwrite", "--seed", str(seed), "--device", "cpu"]
    assert road_topology(["train", "lane", *RECIPES[recipe], *options]) == 0
    return run / "best.safetensors"


def summary(done: dict, seeds: list[int], sizes: list[int]) -> dict:
    """What is worth keeping of all runs; see ``data_samples/README.md``."""
    untouched = done["untouched", 0, 0]
    rows = []
    for size, recipe in itertools.product(sizes, RECIPES):
        runs = [done[recipe, size, seed] for seed in seeds]
        scores, interval = np.array([pooled(run) for run in runs]), difference(runs, untouched)
        row = {"scenes": size, "recipe": recipe}
        for place, name in enumerate(("miou", "lane_f1")):
            row[name] = scores[:, place].round(4).tolist()
            row[f"{name}_minus_untouched"] = interval[place].round(4).tolist()
        rows.append(row)
    miou, f1 = pooled(untouched).round(4).tolist()
    return {
        "command": "python tests/benchmarks/bench_finetune.py FOLDER --output data_samples/finetune.json",
        "style": "dusk, night and rain",
        "test_scenes": TEST_SCENES,
        "val_scenes": {size: val_scenes(size) for size in sizes},
        "seeds": seeds,
        "settings": {name: PRESETS[name] for name in ("own-data", "finetune")},
        "untouched": {"miou": miou, "lane_f1": f1},
        "rows": rows,
    }


def print_table(result: dict) -> None:
    """A line for each recipe and size: mean over seeds, spread as lowest … highest, and the interval."""
    print(f"{'untouched':24s} mIoU {result['untouched']['miou']:.3f}, lane F1 {result['untouched']['lane_f1']:.3f}")
    for row in result["rows"]:
        cells = []
        for name, title in (("miou", "mIoU"), ("lane_f1", "lane F1")):
            low, high = row[f"{name}_minus_untouched"]
            spread = f"{min(row[name]):.3f} … {max(row[name]):.3f}"
            cells.append(f"{title} {np.mean(row[name]):.3f} ({spread}), difference {low:+.3f} … {high:+.3f}")
        print(f"{row['scenes']:4d} scenes, {row['recipe']:12s} {'; '.join(cells)}")


def main(folder: Path, output: Path | None, sizes: list[int], seeds: list[int]) -> None:
    """Renders, trains, scores what is missing, and prints the table."""
    log = folder / "runs.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    render(folder / "test", TEST_SCENES, TEST_SEED)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {tuple(line["run"]): line["counts"] for line in lines}
    wanted = [("untouched", 0, 0), *((r, size, seed) for seed in seeds for size in sizes for r in RECIPES)]
    for run in wanted:
        if run not in done:
            recipe, size, seed = run
            model = SHIPPED if recipe == "untouched" else train(recipe, size, seed, folder)
            done[run] = score(model, folder)
            with log.open("a") as file:
                file.write(json.dumps({"run": run, "counts": done[run]}) + "\n")
            print(run, pooled(done[run]).round(3), flush=True)
    result = summary(done, seeds, sizes)
    if output is not None:
        write_json(output, result)
    print_table(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the summary to this JSON file")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.exit(main(**vars(parser.parse_args())))
