"""What few scenes of one's own do to the shipped model: its scores before and after it was trained on them.

Run from the repository: ``python tests/benchmarks/bench_own_scenes.py``. A recipe trains on 48 rendered scenes, 12 more
choose the epoch, and 60 others give the scores. Each line shows mIoU and lane F1, and the 95 % bootstrap interval of
the difference to the untouched weights, with the same draws of test scenes for both. ``--preset day`` (default) is the
kind of scene that the shipped model has learnt from; ``--preset all`` is not.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import instances_by_role
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.labels import IGNORE_INDEX
from roadtopo_lib.metrics import ConfusionMatrix, LaneF1, polylines_from_instances
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import write_dataset
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer

SHIPPED = Path(__file__).parents[2] / "data_samples" / "tiny.safetensors"
DRAWS = 1000
RECIPES: dict[str, tuple[bool, dict]] = {
    "preset, 4 epochs": (True, {}),
    "lr 3e-4, muon_lr 2e-3, 4 epochs": (True, {"lr": 3e-4, "muon_lr": 2e-3}),
    "lr 3e-4, muon_lr 2e-3, 8 epochs": (True, {"lr": 3e-4, "muon_lr": 2e-3, "epochs": 8}),
    "lr 1e-4, muon_lr 7e-4, 4 epochs": (True, {"lr": 1e-4, "muon_lr": 7e-4}),
    "lr 3e-4, AdamW only, 4 epochs": (True, {"lr": 3e-4, "muon_lr": 0.0}),
    "random weights, 4 epochs": (False, {}),
    "random weights, 30 epochs": (False, {"epochs": 30}),
}
"""Name → does training start from the shipped weights, and what differs from the preset ``tiny``."""


def train(from_shipped: bool, changes: dict, data: Path, seed: int) -> tuple[SegFormerModel, LaneSegmentationConfig]:
    """The model of a recipe, with the weights of its best epoch."""
    config = LaneSegmentationConfig.preset("tiny").replace(seed=seed, **changes)
    torch.manual_seed(seed)
    random = {"pretrained": False, "activation": config.activation}
    model = SegFormerModel.load(SHIPPED) if from_shipped else SegFormerModel(config.backbone, **random)
    loaders = [
        build_loader(LaneInstanceDataset(data, split, build_transform(config, on), seed), config, shuffle=on)
        for split, on in (("train", True), ("val", False))
    ]
    LaneSegmentationTrainer(model, config).fit(*loaders)
    return model, config


def score(model: SegFormerModel, config: LaneSegmentationConfig, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each test scene: confusion matrix (N, C, C), and lanes (N, 3) as true and false positives, false negatives."""
    segmenter, dataset = LaneSegmenter(model, config), LaneInstanceDataset(data, "test")
    matrices, counts = [], []
    for image, semantic, instance in map(dataset.read, range(len(dataset))):
        result, confusion, lanes = segmenter(image), ConfusionMatrix(config.num_classes, IGNORE_INDEX), LaneF1()
        confusion.update(result["semantic_mask"], semantic)
        true_lanes = polylines_from_instances(instance, instances_by_role(semantic, instance))
        lanes.update(result["lane_polylines"], true_lanes, image.shape[:2])
        matrices, counts = [*matrices, confusion.matrix], [*counts, (lanes.tp, lanes.fp, lanes.fn)]
    return np.array(matrices), np.array(counts)


def pooled(matrices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """mIoU and lane F1 of counts (..., N, C, C) and (..., N, 3) that are added up over the scenes: (2, ...)."""
    matrix, (tp, fp, fn) = matrices.sum(axis=-3), np.moveaxis(counts.sum(axis=-2), -1, 0)
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(axis=-1) + matrix.sum(axis=-2) - hit
    iou = np.divide(hit, union, out=np.full(union.shape, np.nan), where=union > 0)
    return np.stack([np.nanmean(iou, axis=-1), 2 * tp / (2 * tp + fp + fn)])


def main(preset: str, recipes: list[str], seed: int) -> None:
    """Renders, trains, scores; prints a line a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        data, test = Path(folder) / "data", Path(folder) / "test"
        write_dataset(data, {"train": 48, "val": 12}, (128, 256), seed=41, preset=preset, amodal=True, progress=False)
        write_dataset(test, {"test": 60}, (256, 512), seed=42, preset=preset, amodal=True, progress=False)
        untouched = score(SegFormerModel.load(SHIPPED), LaneSegmentationConfig.preset("tiny"), test)
        print(f"{'untouched':32s} mIoU {pooled(*untouched)[0]:.3f}, lane F1 {pooled(*untouched)[1]:.3f}", flush=True)
        drawn = np.random.default_rng(0).integers(60, size=(DRAWS, 60))
        for name in recipes:
            scored = score(*train(*RECIPES[name], data, seed), test)
            draws = pooled(*(part[drawn] for part in scored)) - pooled(*(part[drawn] for part in untouched))
            (miou, f1), ((a, b), (c, d)) = pooled(*scored), np.quantile(draws, [0.025, 0.975], axis=1).T
            print(
                f"{name:32s} mIoU {miou:.3f} ({a:+.3f} … {b:+.3f}), lane F1 {f1:.3f} ({c:+.3f} … {d:+.3f})", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("day", "all"), default="day")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    main(**vars(parser.parse_args()))
