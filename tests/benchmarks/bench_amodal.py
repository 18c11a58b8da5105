"""The fusion of elective 4: what its parts bring, beside fusions that learn nothing, and whether more lanes are found.

Run from the repository: ``python tests/benchmarks/bench_amodal.py FOLDER --output data_samples/amodal.json``. A
finished part is appended to FOLDER/runs.jsonl; started again, the benchmark goes on with what is missing. One thread.
FOLDER/full_0.safetensors is the model that ``data_samples/amodal.safetensors`` holds.

All models have 32 channels and see the same crops of rendered scenes of 96×192 pixels in the same order. Those of a
seed begin with the same weights, but for ``no attention``, which has fewer. ``dropped``: the query's answer is dropped,
as in the document. ``no attention``: convolutions alone. ``all tokens``: attention without reduction. ``perceptual``:
L1 and a share of ``EncoderDistance`` on the shipped lane model. Scores are means over test images, inside the mask.
Intervals are a bootstrap over seeds and images, those of differences a paired one.

Lanes are found by the shipped model, which was trained with amodal labels, at the size of the test images. The truth
is every lane, behind vehicles, too.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.electives.amodal import AmodalFusionTransformer, EncoderDistance, fuse
from roadtopo_lib.electives.occlusions import (
    KINDS,
    N_MAX,
    Occluded,
    Occlusions,
    complete,
    occluded_scenes,
    write_occlusions,
)
from roadtopo_lib.electives.restored import Restored, compare, interval, unlearned
from roadtopo_lib.electives.train_amodal import KIND, train
from roadtopo_lib.files import save_weights, write_json
from roadtopo_lib.metrics import LaneF1
from roadtopo_lib.metrics.instances import match_by_iou
from roadtopo_lib.models import load
from roadtopo_lib.pipeline import LaneSegmenter

COMMAND = "python tests/benchmarks/bench_amodal.py FOLDER --output data_samples/amodal.json"
SHIPPED = Path(__file__).parents[2] / "data_samples" / "tiny.safetensors"
COUNTS = {"train": 160, "test": 60}
SIZE, SEED = (96, 192), 4
CROP, STEPS, BATCH, RATE, CHANNELS, SHARE = (64, 96), 250, 8, 3e-3, 32, 0.1
NUMBERS = (1, 3, 5)
"""Of guesses, for the curve over their number."""
HIDDEN_SHARE = 0.2
"""Share of a lane's points inside the mask from which it counts as hidden."""
DRAWS = 2000


class DroppedQuery(AmodalFusionTransformer):
    """What the query finds is dropped: zeros are added in its place."""

    def __init__(self, *args, **settings) -> None:
        super().__init__(*args, **settings)
        self.reading.register_forward_hook(lambda module, inputs, found: (torch.zeros_like(found[0]), None))


VARIANTS = {
    "full": {},
    "dropped": {"kind": DroppedQuery},
    "no attention": {"layers": 0, "query": False},
    "all tokens": {"reduction": 1},
    "perceptual": {"share": SHARE},
}


def image_of(tensor: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def tensor_of(image: np.ndarray) -> Tensor:
    """The way back."""
    return torch.from_numpy(image).permute(2, 0, 1) / 255


def batch_of(dataset: Occlusions) -> dict[str, Tensor]:
    """All images of a data set in one batch."""
    samples = list(dataset)
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def with_guesses(batch: dict[str, Tensor], kinds: list[list[str]]) -> dict[str, Tensor]:
    """The same images with other guesses: ``kinds`` of each image, at most ``N_MAX``."""
    completions, present = torch.zeros_like(batch["completions"]), torch.zeros_like(batch["present"])
    for k, of_image in enumerate(kinds):
        rng, target, hidden = np.random.default_rng((SEED, k)), image_of(batch["target"][k]), batch["mask"][k, 0] > 0
        for slot, kind in enumerate(of_image):
            completions[k, slot] = tensor_of(complete(rng, kind, target, hidden.numpy()))
            present[k, slot] = True
    return batch | {"completions": completions, "present": present}


@torch.inference_mode()
def fused_by(model: AmodalFusionTransformer, batch: dict[str, Tensor]) -> Tensor:
    """Fused images (B, 3, H, W), a few at a time."""
    parts = [batch[name].split(8) for name in ("partial", "mask", "completions", "present")]
    return torch.cat([fuse(*three, model(*three, there)) for *three, there in zip(*parts, strict=True)])


def rows_of(scores: Restored) -> dict[str, list]:
    """Scores as lists."""
    return {name: value.tolist() for name, value in scores._asdict().items()}


def scores_of(image: Tensor, batch: dict[str, Tensor]) -> dict[str, list]:
    """Scores of each image."""
    return rows_of(compare(image, batch["target"], batch["mask"]))


def random_kinds(count: int) -> list[list[str]]:
    """``N_MAX`` kinds of each of so many images."""
    rng = np.random.default_rng(SEED)
    return [[str(kind) for kind in rng.choice(KINDS, N_MAX)] for _ in range(count)]


def first_guesses(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The same batch with the first guesses alone."""
    present = batch["present"].clone()
    present[:, count:] = False
    return batch | {"present": present}


def without_learning(batch: dict[str, Tensor]) -> dict:
    """Scores of fusions that learn nothing, of every kind of guess alone, and by the number of guesses."""
    found = {name: scores_of(image, batch) for name, image in unlearned(batch).items()}
    images = len(batch["mask"])
    for kind in KINDS:
        found[kind] = scores_of(unlearned(with_guesses(batch, [[kind]] * images))["best"], batch)
    many = with_guesses(batch, random_kinds(images))
    for count in NUMBERS:
        of_count = unlearned(first_guesses(many, count))
        found |= {f"{name}, {count}": scores_of(image, batch) for name, image in of_count.items()}
    return found


def keep(model: AmodalFusionTransformer, path: Path, l1: float) -> None:
    """Writes a model in half precision; that of seed 0 is ``data_samples/amodal.safetensors``."""
    halved = {name: tensor.half() for name, tensor in model.state_dict().items()}
    card = {"command": COMMAND, "scenes": COUNTS["train"], "steps": STEPS, "l1": round(l1, 4)}
    save_weights(path, KIND, halved, {"n_max": model.n_max, "d_model": CHANNELS}, card=card)


def trained(variant: str, seed: int, folder: Path, batch: dict[str, Tensor]) -> dict:
    """Scores and seconds of a model; of ``full`` also with fewer guesses, without its query, and the lanes found."""
    settings = {"d_model": CHANNELS, **VARIANTS[variant]}
    if "share" in settings:
        settings["perceptual"] = EncoderDistance(load(SHIPPED))
    began = time.process_time()
    model, losses = train(Occlusions(folder / "data", crop=CROP), STEPS, BATCH, RATE, seed, **settings)
    seconds = (time.process_time() - began) / STEPS
    found = {"seconds": round(seconds, 4), "loss": [round(np.mean(part), 4) for part in (losses[:10], losses[-10:])],
             "scores": scores_of(fused := fused_by(model, batch), batch)}  # fmt: skip
    if variant == "full":
        keep(model, folder / f"full_{seed}.safetensors", float(np.mean(found["scores"]["l1"])))
        many = with_guesses(batch, random_kinds(len(batch["mask"])))
        for count in NUMBERS:
            found[f"{count}"] = scores_of(fused_by(model, first_guesses(many, count)), batch)
        for parameter in model.reading.out_proj.parameters():
            parameter.data.zero_()
        found["query off"] = scores_of(fused_by(model, batch), batch)
        found["lanes"] = lanes_found([image_of(tensor) for tensor in fused])
    return found


def lanes_of(segmenter: LaneSegmenter, image: np.ndarray, lanes: list[np.ndarray], hidden: np.ndarray) -> list[int]:
    """Lanes of an image as tp, fp, fn; then how many hidden ones there are, and how many of these are found."""
    points = [np.rint(lane).astype(int) for lane in lanes]
    inside = [(p >= 0).all(axis=1) & (p < hidden.shape[::-1]).all(axis=1) for p in points]
    shares = [hidden[p[i, 1], p[i, 0]].mean() if i.any() else 0.0 for p, i in zip(points, inside, strict=True)]
    covered = np.array(shares, float) >= HIDDEN_SHARE
    iou = LaneF1().iou_matrix(segmenter(image)["lane_polylines"], lanes, image.shape[:2])
    _, matched = match_by_iou(iou, 0.5)
    hits = len(matched)
    return [hits, iou.shape[0] - hits, iou.shape[1] - hits, int(covered.sum()), int(covered[matched].sum())]


@cache
def test_scenes() -> list[Occluded]:
    """The scenes of the test images, rendered again: no file holds their lanes."""
    return list(itertools.islice(occluded_scenes("test", SIZE, SEED), COUNTS["test"]))


def lanes_found(images: list[np.ndarray]) -> list[list[int]]:
    """``lanes_of`` each test image."""
    segmenter = LaneSegmenter.from_checkpoint(SHIPPED, "cpu")
    return [
        lanes_of(segmenter, image, scene.empty.lanes, scene.hidden)
        for image, scene in zip(images, test_scenes(), strict=True)
    ]


def lanes_without_learning(name: str, batch: dict[str, Tensor]) -> list[list[int]]:
    """Lanes found on the test scenes: ``seen`` with their vehicles, ``black``, ``true``, or an unlearned fusion."""
    if name == "seen":
        return lanes_found([scene.seen.image for scene in test_scenes()])
    if name == "inpainted":
        tensors = unlearned(with_guesses(batch, [[name]] * len(batch["mask"])))["best"]
    elif name == "true":
        tensors = fuse(batch["partial"], batch["mask"], batch["target"][:, None], torch.ones_like(batch["mask"]))
    else:
        tensors = {"black": batch["partial"], **unlearned(batch)}[name]
    return lanes_found([image_of(tensor) for tensor in tensors])


def megabytes(field: str) -> float:
    """Memory of this process (Linux): ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def price(reduction: int) -> dict:
    """Seconds of a training step on an image of 256×256, 4,096 tokens, and the peak of memory, in this process."""
    torch.manual_seed(0)
    model = AmodalFusionTransformer(2, d_model=CHANNELS, reduction=reduction)
    inputs = torch.rand(1, 3, 256, 256), torch.ones(1, 1, 256, 256), torch.rand(1, 2, 3, 256, 256)
    taken = []
    for _ in range(4):
        began = time.process_time()
        model(*inputs, torch.ones(1, 2, dtype=torch.bool)).square().mean().backward()
        taken.append(time.process_time() - began)
        if not taken[1:]:  # the first step loads what torch needs once
            before = megabytes("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    entries = 4096 * 4096 // reduction**2
    return {"seconds": float(np.median(taken[1:])), "more_mib": round(megabytes("VmHWM") - before), "entries": entries}


def run(part: list, folder: Path) -> dict | list:
    """One part of the benchmark."""
    kind, *rest = part
    if kind == "price":
        call = [sys.executable, __file__, str(folder), "--price", str(rest[0])]
        text = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
        return json.loads(text.splitlines()[-1])
    batch = batch_of(Occlusions(folder / "data", "test"))
    if kind == "unlearned":
        return without_learning(batch)
    return lanes_without_learning(rest[0], batch) if kind == "lanes" else trained(*rest, folder, batch)


def parts_of(seeds: list[int]) -> list[list]:
    """All parts in the order in which they are done."""
    parts = [["train", "full", seeds[0]], ["unlearned"]]
    parts += [["lanes", name] for name in ("seen", "true")]
    parts += [["train", variant, seeds[0]] for variant in ("dropped", "no attention")]
    parts += [["lanes", name] for name in ("inpainted", "mean", "best", "black", "oracle")]
    parts += [["train", variant, s] for s in seeds[1:] for variant in ("full", "dropped", "no attention")]
    parts += [["price", reduction] for reduction in (4, 1)]
    return parts + [["train", variant, s] for s in seeds for variant in ("perceptual", "all tokens")]


def summarised(values: np.ndarray, minus: np.ndarray | None = None) -> dict:
    """Mean and interval of values (S, n), and the interval of their paired difference to others."""
    found = {"mean": round(float(values.mean()), 4), "interval": np.round(interval(values), 4).tolist()}
    if minus is not None:
        found["minus_full"] = np.round(interval(values - minus), 4).tolist()
        found["difference"] = round(float((values - minus).mean()), 4)
    return found


def f1(counts: np.ndarray) -> np.ndarray:
    """Lane F1 and recall of hidden lanes (..., 2) of counts (..., 5)."""
    tp, fp, fn, covered, found = np.moveaxis(counts, -1, 0)
    return np.stack([2 * tp / (2 * tp + fp + fn), found / np.maximum(covered, 1)], axis=-1)


def lane_rows(counts: dict[str, np.ndarray]) -> list[dict]:
    """Of each kind of image, counts (S, n, 5): scores with intervals, and their differences to ``seen``."""
    images = next(iter(counts.values())).shape[1]
    rng = np.random.default_rng(0)
    drawn = rng.integers(images, size=(DRAWS, images))
    sampled = {}
    for name, found in counts.items():
        seeds = rng.integers(len(found), size=(DRAWS, len(found)))
        sampled[name] = np.stack(
            [f1(found[s][:, d].sum(axis=1)).mean(axis=0) for s, d in zip(seeds, drawn, strict=True)]
        )
    rows = []
    for name, found in counts.items():
        row: dict = {"image": name}
        for place, score in enumerate(("lane_f1", "hidden_recall")):
            row[score] = round(float(f1(found.sum(axis=1))[:, place].mean()), 4)
            for key, values in (("interval", sampled[name]), ("minus_seen", sampled[name] - sampled["seen"])):
                row[f"{score}_{key}"] = np.quantile(values[:, place], [0.025, 0.975]).round(4).tolist()
        rows.append(row)
    return rows


def summary(done: dict[tuple, dict], seeds: list[int]) -> dict:
    """What is worth keeping of all parts that are done; see ``data_samples/README.md``."""
    found: dict = {
        "command": COMMAND,
        "counts": COUNTS, "size": SIZE, "crop": CROP,
        "steps": STEPS, "batch": BATCH, "channels": CHANNELS, "share": SHARE,
        "seeds": seeds, "price": {str(r): done["price", r] for r in (4, 1) if ("price", r) in done},
    }  # fmt: skip
    full = [done["train", "full", s] for s in seeds if ("train", "full", s) in done]
    if ("unlearned",) not in done or not full:
        return found
    scores = ("psnr", "ssim", "l1")
    found["fusions"] = {
        name: {score: summarised(np.array([values[score]]), np.array([run["scores"][score] for run in full]))
               for score in scores}
        for name, values in done["unlearned",].items() if "," not in name
    }  # fmt: skip
    for variant in VARIANTS:
        runs = {s: done["train", variant, s] for s in seeds if ("train", variant, s) in done}
        if runs:
            twins = [done["train", "full", s] for s in runs]
            found["fusions"][variant] = {
                score: summarised(*(np.array([run["scores"][score] for run in group])
                                    for group in ([*runs.values()], twins)))
                for score in scores
            } | {"seconds": [run["seconds"] for run in runs.values()], "seeds": len(runs),
                 "l1_of_seeds": [round(float(np.mean(run["scores"]["l1"])), 4) for run in runs.values()]}  # fmt: skip
    off, own = (np.array([values["l1"] for values in group])
                for group in ([run["query off"] for run in full], [run["scores"] for run in full]))  # fmt: skip
    found["fusions"]["query off"] = {"l1": summarised(off, own)}
    found["by_number"] = {
        str(count): {name: round(float(np.mean(done["unlearned",][f"{name}, {count}"]["l1"])), 4)
                     for name in ("mean", "best", "oracle")}
        | {"full": round(float(np.mean([run[str(count)]["l1"] for run in full])), 4)}
        for count in NUMBERS
    }  # fmt: skip
    lanes = {part[1]: np.array([counts]) for part, counts in done.items() if part[0] == "lanes"}
    if "seen" in lanes:
        lanes["fused"] = np.array([run["lanes"] for run in full])
        found["lanes"] = lane_rows(lanes)
        found["hidden_lanes"] = int(lanes["seen"][0, :, 3].sum())
        found["all_lanes"] = int(lanes["seen"][0, :, [0, 2]].sum())
    return found


def main(folder: Path, output: Path | None, seeds: list[int]) -> None:
    """Renders, trains and scores what is missing."""
    if len(list(folder.glob("data/*/*/*_target.png"))) < sum(COUNTS.values()):
        write_occlusions(folder / "data", COUNTS, SIZE, SEED)
    log = folder / "runs.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {tuple(line["part"]): line["found"] for line in lines}
    for part in parts_of(seeds):
        if tuple(part) in done:
            continue
        began = time.process_time()
        done[tuple(part)] = run(part, folder)
        with log.open("a") as file:
            file.write(json.dumps({"part": part, "found": done[tuple(part)]}) + "\n")
        print(*part, f"{time.process_time() - began:.0f} s", flush=True)
        if output is not None:
            write_json(output, summary(done, seeds))
    found = summary(done, seeds)
    if output is not None:
        write_json(output, found)
    for name, row in found["fusions"].items():
        cells = [f"{s} {row[s]['mean']:.4f}, minus full {row[s]['minus_full']}" for s in row if s in Restored._fields]
        print(f"{name:14s} {'; '.join(cells)}")
    for row in found["lanes"]:
        print(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the summary to this JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--price", type=int, help=argparse.SUPPRESS)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    arguments = parser.parse_args()
    if arguments.price:
        print(json.dumps(price(arguments.price)))
    else:
        main(arguments.folder, arguments.output, arguments.seeds)
