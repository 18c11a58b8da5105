"""What the choices behind ``checkpoints/lane-small.safetensors`` bring, each trained for the same time of one core.

Run from the repository: ``python tests/benchmarks/bench_lane_models.py FOLDER --output data_samples/lane_choices.json``
(one thread, a core of its own). What a scene and a training image take is measured first, and a time becomes a number
of images. A finished run is kept in FOLDER; started again, the benchmark goes on with what is missing.

Each variant differs from the first in one choice. Time includes the rendering: 8000 scenes leave less of it to train
than 500, and each is seen about once, as if every step had fresh scenes. The last epoch's model is scored on scenes of
the preset "painted", a style that no variant has seen, and of "all".
"""

import argparse
import json
import time
from pathlib import Path

import torch

from roadtopo_lib import models
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.files import write_json
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import render_scene, write_dataset
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer

SIZE, SEED, TEST_SEED, TEST_SCENES, EPOCHS, BATCH = (360, 640), 19, 21, 200, 4, 8
BASE = {"preset": "wild", "scenes": 2000, "image_size": (128, 320)}
VARIANTS = {
    "the choice": {},
    "500 scenes": {"scenes": 500},
    "8000 scenes, each seen about once": {"scenes": 8000},
    "scenes of preset all": {"preset": "all"},
    "scenes of preset day": {"preset": "day"},
    "images of 96×256": {"image_size": (96, 256)},
    "images of 192×512": {"image_size": (192, 512)},
}


def settings(size: tuple[int, int], **changes: object) -> LaneSegmentationConfig:
    """Of every variant's training."""
    common = {"batch_size": BATCH, "crop_scale": 0.5, "color_jitter": 0.3, "patience": 100, "image_size": size}
    return LaneSegmentationConfig.preset("tiny").replace(**common, **changes)


def seconds_a_scene(preset: str) -> float:
    """Of rendering, without writing."""
    began = time.perf_counter()
    for seed in range(40):
        render_scene(seed, SIZE, preset)
    return (time.perf_counter() - began) / 40


def seconds_an_image(data: Path, size: tuple[int, int]) -> float:
    """Of training, the loading of the image included."""
    config = settings(size, epochs=1, steps_per_epoch=12)
    train = build_loader(LaneInstanceDataset(data, "train", build_transform(config, True)), config, shuffle=True)
    val = build_loader(LaneInstanceDataset(data, "val", build_transform(config, False)), config, shuffle=False)
    trainer = LaneSegmentationTrainer(models.build(config), config, device="cpu", progress=False)
    began = time.perf_counter()
    trainer.fit(train, val)
    return (time.perf_counter() - began) / (12 * BATCH)


def main() -> None:
    """Prints a line for each variant, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=1500.0, help="of each variant (default %(default)s)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, rows = arguments.folder, {}
    for preset in ("painted", "all"):
        write_dataset(folder / f"test_{preset}", {"test": TEST_SCENES}, SIZE, TEST_SEED, preset, amodal=True)
    for name, changes in VARIANTS.items():
        choice = BASE | changes
        kept = folder / f"{name.replace(' ', '_').replace(',', '')}.json"
        if not kept.exists():
            data = folder / f"{choice['preset']}_{choice['scenes']}"
            counts = {"train": choice["scenes"], "val": 24}
            write_dataset(data, counts, SIZE, SEED, choice["preset"], amodal=True)
            scene, image = seconds_a_scene(choice["preset"]), seconds_an_image(data, choice["image_size"])
            images = (arguments.seconds - scene * choice["scenes"]) / image
            config = settings(choice["image_size"], epochs=EPOCHS, steps_per_epoch=round(images / BATCH / EPOCHS))
            train_lane_model(config, data, folder / kept.stem, resume=True)
            row = {**choice, "seconds_a_scene": round(scene, 4), "seconds_an_image": round(image, 4)}
            row["images_seen"] = config.steps_per_epoch * EPOCHS * BATCH
            segmenter = LaneSegmenter.from_checkpoint(folder / kept.stem / "last.safetensors")
            for preset in ("painted", "all"):
                test = LaneInstanceDataset(folder / f"test_{preset}", "test")
                scores = evaluate(segmenter, test, metrics=("semantic", "instance", "tusimple"))
                row[preset] = {key: round(scores[key], 4) for key in ("miou", "lane_f1")}
                row[preset] |= {key: round(scores["tusimple"][key], 4) for key in ("accuracy", "fp", "fn")}
            write_json(kept, row)
        rows[name] = json.loads(kept.read_text(encoding="utf-8"))
        print(name, rows[name], flush=True)
    if arguments.output:
        command = "python tests/benchmarks/bench_lane_models.py FOLDER --output data_samples/lane_choices.json"
        write_json(arguments.output, {"command": command, "seconds": arguments.seconds, "variants": rows})


if __name__ == "__main__":
    main()
