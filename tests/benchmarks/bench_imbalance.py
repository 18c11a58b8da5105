"""Which loss helps a rare class, and how much: seven losses, one budget, a class made rarer in three steps.

Two more losses, ``TABLE_LOSSES``, are measured where the class is rarest.

Run from the repository: ``python tests/benchmarks/bench_imbalance.py FOLDER --output data_samples/imbalance.json``. A
finished run is appended to FOLDER/runs.jsonl; started again, the benchmark goes on with what is missing.

``--one-class`` measures all of them on binary masks of the class, where it is rarest (``runs_one_class.jsonl``).

The street of every training scene has a crossing. Rarity k leaves it unpainted in all but one scene of k, and all else
in the scenes stays. Each seed draws its own scenes and its own first weights; all losses of a seed begin alike and see
the same scenes in the same order. All models are scored on the same test scenes, of which every other one shows its
crossing. Learning rates are those of the preset ``tiny``; steps and sizes were chosen on scenes of other seeds.

The interval of a difference to CE is a paired bootstrap over seeds and test scenes: every draw takes the same seeds and
scenes for both. The p-value is that of a paired t-test over seeds, corrected after Holm over all losses and rarities.
"""

import argparse
import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import stats

from roadtopo_lib.course.lessons import imbalance
from roadtopo_lib.course.lessons.imbalance import (
    FIRST_SEED,
    LOSSES,
    RARITIES,
    TABLE_LOSSES,
    TABLE_RARITY,
    TEST_SCENES,
    TEST_SEED,
    TRAIN_SCENES,
)
from roadtopo_lib.files import write_json
from roadtopo_lib.labels import CLASS_NAMES

DRAWS = 2000
BASELINE, RESULT = "CE", "data_samples/imbalance.json"
PARTS = ("hits", "predicted", "truth")


@dataclass(frozen=True)
class Contest:
    """What is measured: all classes at each rarity, or crosswalks against the rest where they are rarest."""

    one_class: bool

    @property
    def rarities(self) -> dict[str, int]:
        """Name → how many training scenes come to one that shows its crossing."""
        return {TABLE_RARITY: RARITIES[TABLE_RARITY]} if self.one_class else RARITIES

    @property
    def names(self) -> list[str]:
        """Of the scores: the classes, and their mean."""
        return [*(("rest", "crosswalk") if self.one_class else CLASS_NAMES), "mean"]

    @property
    def command(self) -> str:
        """What repeats it."""
        rest = "--one-class --output data_samples/one_class.json" if self.one_class else f"--output {RESULT}"
        return f"python tests/benchmarks/bench_imbalance.py FOLDER {rest}"


def losses_at(rarity: str) -> list[str]:
    """Names of the losses that are measured at a rarity."""
    return [*LOSSES, *(TABLE_LOSSES if rarity == TABLE_RARITY else ())]


def with_mean(iou: np.ndarray) -> np.ndarray:
    """Class IoU (..., C) and its mean behind: (..., C + 1)."""
    return np.concatenate([iou, np.nanmean(iou, axis=-1, keepdims=True)], axis=-1)


def draws(seeds: int, scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """Which seeds (draws, S) and test scenes (draws, N) each draw of the bootstrap takes."""
    rng = np.random.default_rng(0)
    return rng.integers(seeds, size=(DRAWS, seeds)), rng.integers(scenes, size=(DRAWS, scenes))


def bootstrap(runs: np.ndarray) -> np.ndarray:
    """Class IoU and mIoU (draws, C + 1), averaged over the seeds of a draw, of counts (S, 3, N, C)."""
    seeds, scenes = draws(len(runs), runs.shape[2])
    scores = np.empty((DRAWS, runs.shape[-1] + 1))
    for draw in range(DRAWS):
        drawn, counts = np.unique(scenes[draw], return_counts=True)
        pooled = np.einsum("spnc,n->spc", runs[:, :, drawn], counts)  # (S, 3, C)
        iou = imbalance.iou(pooled.swapaxes(0, 1)[:, :, None])  # (S, C)
        scores[draw] = with_mean(iou)[seeds[draw]].mean(axis=0)
    return scores


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction of p-values (K,)."""
    order = np.argsort(p_values)
    raised = np.maximum.accumulate((len(p_values) - np.arange(len(p_values))) * p_values[order])
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(raised, 1)
    return corrected


def summary(done: dict, seeds: list[int], contest: Contest) -> dict:
    """What is worth keeping of all runs; see ``data_samples/README.md``."""
    names, rows = contest.names, []
    for rarity in contest.rarities:
        # (S, 3, N, C) of each loss
        runs = {loss: np.array([done[loss, rarity, seed] for seed in seeds]) for loss in losses_at(rarity)}
        scores = {loss: with_mean(imbalance.iou(counts.swapaxes(0, 1))) for loss, counts in runs.items()}  # (S, C + 1)
        sampled = {loss: bootstrap(counts) for loss, counts in runs.items()}
        for loss in runs:
            row = {
                "loss": loss,
                "rarity": rarity,
                "iou": dict(zip(names, scores[loss].T.round(4).tolist(), strict=True)),
            }
            row["interval"] = dict(zip(names, _interval(sampled[loss]), strict=True))
            hits, predicted, truth = runs[loss][..., names.index("crosswalk")].sum(axis=-1).T  # (S,) each
            row["crosswalk_recall"] = (hits / truth).round(4).tolist()
            row["crosswalk_false"] = ((predicted - hits) / truth).round(4).tolist()
            of_slice = with_mean(imbalance.iou(runs[loss][:, :, : imbalance.SLICE_SCENES].swapaxes(0, 1)))
            row["slice_iou"] = {
                name: of_slice[:, names.index(name)].round(4).tolist() for name in imbalance.SLICE_NAMES
            }
            if loss != BASELINE:
                row["minus_ce"] = dict(zip(names, _interval(sampled[loss] - sampled[BASELINE]), strict=True))
                p = stats.ttest_rel(scores[loss], scores[BASELINE], axis=0).pvalue
                row["p"] = dict(zip(names, np.nan_to_num(p, nan=1.0).tolist(), strict=True))
            rows.append(row)
    compared = [row for row in rows if "p" in row]
    for name in names:
        corrected = holm(np.array([row["p"][name] for row in compared]))
        for row, p in zip(compared, corrected.tolist(), strict=True):
            row["p"][name] = float(f"{p:.2g}")
    return {
        "command": contest.command,
        "train_scenes": TRAIN_SCENES,
        "test_scenes": TEST_SCENES,
        "steps": imbalance.STEPS,
        "batch": imbalance.BATCH,
        "rarities": contest.rarities,
        "seeds": seeds,
        "rows": rows,
    }


def _interval(scores: np.ndarray) -> list[list[float]]:
    """95 % intervals (C + 1) × (low, high) of scores (draws, C + 1)."""
    return np.quantile(scores, [0.025, 0.975], axis=0).T.round(4).tolist()


def print_table(result: dict) -> None:
    """A line for each loss and rarity: crosswalk IoU and mIoU, their means over seeds and differences to CE."""
    for row in result["rows"]:
        cells = []
        for name in ("crosswalk", "mean"):
            values = row["iou"][name]
            cell = f"{name} {np.mean(values):.3f} ({min(values):.3f} … {max(values):.3f})"
            if "minus_ce" in row:
                low, high = row["minus_ce"][name]
                cell += f", minus CE {low:+.3f} … {high:+.3f} (p {row['p'][name]:.2g})"
            cells.append(cell)
        print(f"{row['rarity']:10s} {row['loss']:20s} {'; '.join(cells)}")


def main(folder: Path, output: Path | None, seeds: list[int], one_class: bool) -> None:
    """Renders, trains and scores what is missing, then prints the table."""
    contest = Contest(one_class)
    log = folder / ("runs_one_class.jsonl" if one_class else "runs.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {tuple(line["run"]): np.array(line["counts"]) for line in lines}
    wanted = ((loss, rarity, seed) for rarity in contest.rarities for loss in losses_at(rarity) for seed in seeds)
    missing = [run for run in wanted if run not in done]
    test = imbalance.Scenes(TEST_SEED, "test", TEST_SCENES, every=2, one_class=one_class) if missing else None
    for seed, (rarity, every) in itertools.product(seeds, contest.rarities.items()):
        losses = [loss for loss in losses_at(rarity) if (loss, rarity, seed) in missing]
        drawn = FIRST_SEED + seed, "train", TRAIN_SCENES, every, one_class
        scenes = imbalance.Scenes(*drawn) if losses else None
        for loss in losses:
            began = time.process_time()
            counts = imbalance.score(imbalance.train(loss, scenes, seed), test)
            seconds = round(time.process_time() - began, 1)
            done[loss, rarity, seed] = counts
            with log.open("a") as file:
                line = {"run": (loss, rarity, seed), "cpu_seconds": seconds, "counts": counts.tolist()}
                file.write(json.dumps(line) + "\n")
            print(f"{rarity}, {loss}, seed {seed}: IoU {imbalance.iou(counts).round(3)}, {seconds} s", flush=True)
    result = summary(done, seeds, contest)
    if output is not None:
        write_json(output, result)
    print_table(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the summary to this JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--one-class", action="store_true", help="binary masks of the crosswalk")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.exit(main(**vars(parser.parse_args())))
