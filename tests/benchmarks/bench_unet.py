"""U-Net and ResUNet beside SegFormer ``tiny``: at equal parameters and steps, and at equal time; three seeds.

Run from the repository: ``python tests/benchmarks/bench_unet.py FOLDER --output data_samples/unet.json``. A finished
run is appended to FOLDER/runs.jsonl; started again, the benchmark goes on with what is missing. Each run is a process
of its own with one thread, so that its memory is its own; time is the processor's, so that other work hardly counts.

All have about 1.2 million parameters. ``steps``: each network takes as many steps as the others. ``time``: each takes
as many as fit into the processor time of SegFormer's. The task with the far cue is notebook 3's: strips of 384 pixels
whose lane shows its colour in the first 16 only; each network learns it for equally many steps.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from bench_finetune import pooled, score
from torch.nn.functional import cross_entropy

from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.files import write_json
from roadtopo_lib.models import build
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.training.optimizer import build_optimizer

PRESETS = {"segformer": "tiny", "unet": "unet", "resunet": "resunet"}
COUNTS = {"train": 120, "val": 8, "test": 40}
SIZE = (64, 160)
STEPS, EPOCHS, FAR_STEPS = 100, 2, 40
"""Small: all runs together take about a quarter of an hour of one core."""


def config_of(kind: str, steps: int, seed: int) -> LaneSegmentationConfig:
    """The kind's preset, with so many steps in all."""
    config = LaneSegmentationConfig.preset(PRESETS[kind])
    return config.replace(image_size=SIZE, epochs=EPOCHS, steps_per_epoch=max(1, round(steps / EPOCHS)), seed=seed)


def seconds_of_step(kind: str) -> float:
    """Median processor seconds of a training step, of 5 after 2 that warm up."""
    config = config_of(kind, STEPS, 0)
    model = build(config).train()
    optimizer, taken = build_optimizer(model, config), []
    images = torch.rand(config.batch_size, 3, *config.image_size)
    for _ in range(7):
        began = time.process_time()
        outputs = model(images, upsample=False)
        optimizer.zero_grad()
        (outputs["logits"].logsumexp(dim=1).mean() + outputs["embeddings"].square().mean()).backward()
        optimizer.step()
        taken.append(time.process_time() - began)
    return float(np.median(taken[2:]))


def milliseconds(model: torch.nn.Module, size: tuple[int, int]) -> float:
    """Median processor time of one image, of 10 after 2 that warm up."""
    taken = []
    with torch.inference_mode():
        for _ in range(12):
            began = time.process_time()
            model(torch.rand(1, 3, *size), upsample=False)
            taken.append(1000 * (time.process_time() - began))
    return float(np.median(taken[2:]))


def train_and_score(kind: str, steps: int, seed: int, folder: Path) -> dict:
    """One run: its scores, processor seconds and memory."""
    config, run, began = config_of(kind, steps, seed), folder / f"run_{kind}_{seed}", time.process_time()
    trainer = train_lane_model(config, folder / "data", run, device="cpu", overwrite=True)
    seconds, memory = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    miou, f1 = pooled(score(run / "best.safetensors", folder / "data")).tolist()
    about = {"parameters": sum(p.numel() for p in trainer.model.parameters()), "steps": trainer.state.step}
    spent = {"train_cpu_s": round(seconds, 1), "train_peak_mib": round(memory)}
    return about | spent | {"ms": milliseconds(trainer.model.eval(), config.image_size), "miou": miou, "lane_f1": f1}


def line_strips(pairs: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2·pairs, 3, 32, 384) and the lane's colour, 0 white or 1 yellow: (2·pairs,), as in notebook 3."""
    asphalt = 0.35 + 0.05 * torch.randn(pairs, 1, 32, 384, generator=generator)
    images = asphalt.repeat(1, 3, 1, 1).repeat_interleave(2, dim=0)
    images[:, :, 12:20] += 0.25
    yellow = torch.arange(2 * pairs) % 2
    paint = torch.tensor([[0.95, 0.95, 0.95], [0.95, 0.75, 0.2]])[yellow]
    images[:, :, 12:20, :16] = paint[:, :, None, None]
    return images.clamp(0, 1), yellow


def far_cue(kind: str, seed: int) -> dict:
    """Pixels from the lane's beginning up to which the trained network depends on the cue, and is right."""
    torch.manual_seed(seed)
    config = LaneSegmentationConfig.preset(PRESETS[kind]).replace(num_classes=2, embedding_dim=1)
    model = build(config)
    optimizer, generator = build_optimizer(model, config), torch.Generator().manual_seed(seed)
    for _ in range(FAR_STEPS):
        images, yellow = line_strips(1, generator)
        logits = model.train()(images)["logits"][:, :, 12:20].mean(dim=2)  # (2, 2, 384)
        optimizer.zero_grad()
        cross_entropy(logits, yellow[:, None].expand(-1, 384)).backward()
        for group in optimizer.param_groups:  # the head for embeddings is not asked
            group["params"] = [p for p in group["params"] if p.grad is not None]
        optimizer.step()
    images, yellow = line_strips(16, torch.Generator().manual_seed(1000))
    with torch.inference_mode():
        logits = model.eval()(images)["logits"][:, :, 12:20].mean(dim=2)  # (32, 2, 384)
    differs = (logits[0::2] != logits[1::2]).flatten(0, 1).any(dim=0)
    right = (logits.argmax(dim=1) == yellow[:, None]).float().mean(dim=0)  # (384,)
    wrong = (right <= 0.9).nonzero()
    return {"reach": int(differs.nonzero().max()) + 1, "right_to": int(wrong.min()) if len(wrong) else 384,
            "right_in_last_quarter": right[-96:].mean().item()}  # fmt: skip


def one(folder: Path, kind: str, budget: str, seed: int, steps: int) -> dict:
    """A run in this process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if budget == "far":
        return far_cue(kind, seed)
    return {"seconds": seconds_of_step(kind)} if budget == "step" else train_and_score(kind, steps, seed, folder)


def main(folder: Path, output: Path | None, seeds: list[int]) -> None:
    """Renders, trains and scores what is missing, and prints the rows."""
    write_dataset(folder / "data", COUNTS, (256, 512), seed=31, preset="day", workers=1, progress=False)
    log = folder / "runs.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {tuple(line["run"]): line["found"] for line in lines}
    wanted = [(kind, "step", 0) for kind in PRESETS] + [(kind, "far", s) for s in seeds for kind in PRESETS]
    wanted += [(kind, budget, s) for budget in ("time", "steps") for s in seeds for kind in PRESETS]
    for kind, budget, seed in wanted:
        if (kind, budget, seed) in done:
            continue
        steps = STEPS
        if budget == "time":
            steps = round(STEPS * done["segformer", "step", 0]["seconds"] / done[kind, "step", 0]["seconds"])
        if (kind, budget) == ("segformer", "steps"):  # the same run as at equal time
            found = done[kind, "time", seed]
        else:
            call = [sys.executable, __file__, str(folder), "--one", kind, budget, str(seed), str(steps)]
            text = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(text.splitlines()[-1])
        done[kind, budget, seed] = found
        with log.open("a") as file:
            file.write(json.dumps({"run": [kind, budget, seed], "found": found}) + "\n")
        print(kind, budget, seed, found, flush=True)
        if output is not None:
            write_json(output, summary(done, seeds))
    for row in summary(done, seeds)["rows"]:
        cells = (
            f"{name} {np.mean(v):.4g} ({min(v):.4g} … {max(v):.4g})" for name, v in row.items() if isinstance(v, list)
        )
        print(f"{row['budget']:6s} {row['model']:10s} {'; '.join(cells)}")


def summary(done: dict[tuple, dict], seeds: list[int]) -> dict:
    """What was found: a row for each model of the budgets whose runs are all done."""
    rows = []
    for budget, of_budget in (("step", [0]), ("far", seeds), ("time", seeds), ("steps", seeds)):
        if not all((kind, budget, seed) in done for kind in PRESETS for seed in of_budget):
            continue
        for kind in PRESETS:
            runs = [done[kind, budget, seed] for seed in of_budget]
            rows.append({"model": kind, "budget": budget} | {name: [run[name] for run in runs] for name in runs[0]})
    return {
        "command": "python tests/benchmarks/bench_unet.py FOLDER --output data_samples/unet.json",
        "scenes": COUNTS, "image_size": SIZE, "steps": STEPS, "far_steps": FAR_STEPS, "seeds": seeds, "rows": rows,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the summary to this JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "BUDGET", "SEED", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, budget, seed, steps = arguments.one
        print(json.dumps(one(arguments.folder, kind, budget, int(seed), int(steps))))
    else:
        main(arguments.folder, arguments.output, arguments.seeds)
