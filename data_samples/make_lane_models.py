"""Writes ``checkpoints/lane-small.safetensors`` or ``lane.safetensors``, the models that have learnt for photographs.

``python data_samples/make_lane_models.py lane-small FOLDER`` renders the scenes into FOLDER, unless they lie there,
trains stage after stage, calibrates and scores. A run that was interrupted goes on. Each stage begins with the weights
of the one before it and sees larger images: a step at half the size costs a quarter of the time.
No photograph takes part. Scenes of the preset "painted", whose style no training scene has, choose the epoch.
"""

import argparse
import csv
import json
from pathlib import Path

from roadtopo_lib.app.calibrate import calibrate
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.confidence import load_segmenter
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import load_weights, save_weights
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.training.recorders import PrintEpochs

SIZE = (360, 640)
TRAIN_SEED, CALIBRATION_SEED = 19, 20
COUNTS, CALIBRATION_COUNTS = {"train": 8000, "val": 240}, {"val": 1000}
TESTS = {"day": (2, 200, (256, 512)), "all": (3, 100, (256, 512)), "painted": (21, 200, SIZE)}
"""Preset → seed, scenes and size; the first two sets are those of ``make run``."""

COMMON = {"crop_scale": 0.5, "color_jitter": 0.3, "patience": 100}
STAGES = {
    "lane-small": [
        {"image_size": (128, 320), "batch_size": 8, "steps_per_epoch": 800, "epochs": 2},
        {"image_size": (192, 512), "batch_size": 8, "steps_per_epoch": 500, "epochs": 5, "lr": 2e-3, "muon_lr": 0.014},
    ],
    "lane": [
        {"image_size": (128, 320), "batch_size": 16, "steps_per_epoch": 300, "epochs": 2},
        {"image_size": (192, 512), "batch_size": 16, "steps_per_epoch": 200, "epochs": 2, "lr": 2e-3, "muon_lr": 0.014},
        {"image_size": (256, 640), "batch_size": 8, "steps_per_epoch": 250, "epochs": 2, "lr": 1e-3, "muon_lr": 0.007},
    ],
}
BACKBONES = {"lane-small": "tiny", "lane": "b0"}
LIMITS = (
    "Trained on rendered scenes only; no score on photographs is known. Finds fewer lanes in the dark, in rain and in "
    "styles that it has not seen, see the scores. Misses outer lines that are far away first. Not for driving."
)
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def train(name: str, folder: Path) -> list[Path]:
    """Trains all stages of a model; returns their run folders."""
    write_dataset(folder / "scenes", COUNTS, SIZE, TRAIN_SEED, "wild", amodal=True)
    runs: list[Path] = []
    for number, settings in enumerate(STAGES[name], 1):
        begin = {"pretrained": str(runs[-1] / "best.safetensors")} if runs else {}
        config = LaneSegmentationConfig.preset("tiny").replace(backbone=BACKBONES[name], **COMMON, **settings, **begin)
        runs.append(folder / f"{name}-{number}")
        train_lane_model(config, folder / "scenes", runs[-1], resume=True, recorders=[PrintEpochs()], keep="best_miou")
    return runs


def ship(name: str, folder: Path, runs: list[Path]) -> Path:
    """Halves the weights of the last stage, calibrates, scores, and writes the model with its card."""
    kind, tensors, config, info = load_weights(runs[-1] / "best.safetensors")
    halved = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    info["training"]["pretrained"] = False  # the stage before is on this disk only
    model = CHECKPOINTS / f"{name}.safetensors"
    save_weights(model, kind, halved, config, **info)
    write_dataset(folder / "calibration", CALIBRATION_COUNTS, SIZE, CALIBRATION_SEED, "painted", amodal=True)
    report = calibrate(model, LaneInstanceDataset(folder / "calibration", "val"))
    scores = {f"{kind}, calibration error": report[kind]["error"] for kind in ("lanes", "crossings") if report[kind]}
    for preset, (seed, count, size) in TESTS.items():
        write_dataset(folder / f"test_{preset}", {"test": count}, size, seed, preset, amodal=True)
        test = LaneInstanceDataset(folder / f"test_{preset}", "test")
        found = evaluate(load_segmenter(model), test, metrics=("semantic", "instance", "tusimple"))
        flat = {key: found[key] for key in ("images", "miou", "lane_f1", "instance_f1")}
        flat |= {f"TuSimple {key}": found["tusimple"][key] for key in ("accuracy", "fp", "fn")}
        scores |= {f"{preset}, {key}": round(value, 4) for key, value in flat.items()}
    meta = json.loads((folder / "scenes" / "meta.json").read_text(encoding="utf-8"))
    curves = [list(csv.DictReader((run / "history.csv").open(encoding="utf-8"))) for run in runs]
    columns = ("epoch", "train_loss", "val_loss", "val_miou", "seconds")
    card = {
        "command": f"python data_samples/make_lane_models.py {name} FOLDER",
        "data": {key: meta[key] for key in ("seed", "preset", "size", "labels", "counts")},
        "stages": [
            {**settings, "curve": [{column: float(row[column]) for column in columns} for row in curve]}
            for settings, curve in zip(STAGES[name], curves, strict=True)
        ],
        "hours": round(sum(float(row["seconds"]) for curve in curves for row in curve) / 3600, 2),
        "scores": scores,
        "limits": LIMITS,
    }
    kind, tensors, config, info = load_weights(model)
    save_weights(model, kind, tensors, config, **{**info, "card": card})
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=STAGES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(ship(arguments.name, arguments.folder, train(arguments.name, arguments.folder)))
