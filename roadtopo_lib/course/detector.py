"""A detector made of the learner's six parts, trained in less than a minute on one CPU core.

The encoder is the shipped model's and stays as it is: from random weights a minute of training learns little. What
comes after the encoder begins with random weights and is trained.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import library_parts
from roadtopo_lib.course.data import samples
from roadtopo_lib.course.parts import PARTS, kept, load
from roadtopo_lib.data.samples import instances_by_role, list_samples
from roadtopo_lib.data.sampling import rows_cut
from roadtopo_lib.losses import CombinedLoss, LaneCriterion
from roadtopo_lib.metrics import LaneF1, polylines_from_instances
from roadtopo_lib.models import load_with_info, upsample_to
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import MIN_PIXELS_SHARE, fit_lane_curve, radius_from_margins

WIDTH, EMBEDDING_DIM = 64, 8
"""Channels of the fused map, and of an embedding."""

BATCH_SIZE, LEARNING_RATE, WARMUP = 4, 1e-2, 0.05
STEPS = 200

COUNTS = ("none", "one", "two", "three", "four", "five", "all six")


def assemble(parts: Mapping[str, Callable] | None = None, seed: int = 0) -> "Detector":
    """A detector from the learner's parts; prints which these are. The library's stand in for missing ones.

    Args:
        parts: name → function, see ``parts.PARTS``; default all that were kept.
        seed: of the new weights and of every draw in training.

    Raises:
        ValueError: a name that is no part, or a kept part whose file cannot be run.
    """
    own = {name: load(name) for name in kept()} if parts is None else dict(parts)
    unknown = sorted(own.keys() - {*PARTS})
    if unknown:
        raise ValueError(f"no parts are called {', '.join(unknown)}; expected names of {', '.join(PARTS)}")
    mine = [name for name in PARTS if name in own]
    rest = [name for name in PARTS if name not in own]
    line = f"of these six parts, {COUNTS[len(mine)]} {'is' if len(mine) < 2 else 'are'} yours"
    line += f": {', '.join(mine)}" if mine else " yet"
    print(line + (f"; the library's: {', '.join(rest)}" if rest else ""))
    return Detector({name: own.get(name) or getattr(library_parts, name) for name in PARTS}, seed)


class Detector:
    """Finds lanes with six parts that can be exchanged.

    Args:
        parts: name → function for each of ``parts.PARTS``.
        seed: of the new weights and of every draw in training.

    Attributes:
        model: ``SmallModel``.
        config: the settings that the encoder was trained with, and that the detector keeps.
    """

    def __init__(self, parts: Mapping[str, Callable], seed: int = 0) -> None:
        self.parts = dict(parts)
        with torch.random.fork_rng(devices=[]):
            shipped, info = load_with_info(samples() / "tiny.safetensors")
            self.config = LaneSegmentationConfig.from_dict(info["training"])
            torch.manual_seed(seed)
            self.model = SmallModel(shipped, self.parts["fuse"])
        self.generator = torch.Generator().manual_seed(seed)
        self._segmenter = LaneSegmenter(self.model, self.config, device="cpu", tta=False)

    def train(self, steps: int = STEPS, seconds: float = math.inf) -> list[float]:
        """Trains on ``data_samples/train`` until one of both limits is reached.

        Args:
            steps: optimiser steps.
            seconds: time; with a limit, the result depends on how fast the machine is.

        Returns:
            The loss of each step.
        """
        images, semantic, instance = (torch.stack(group) for group in zip(*self._read_split("train"), strict=True))
        criterion = self._criterion()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        losses: list[float] = []
        order: list[int] = []
        self.model.train()
        started = time.perf_counter()
        while (done := max(len(losses) / steps, (time.perf_counter() - started) / seconds)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (done + 1 / steps) / WARMUP) * (1 - done)
            if len(order) < BATCH_SIZE:
                order = torch.randperm(len(images), generator=self.generator).tolist()
            chosen, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
            batch = {
                "image": images[chosen],
                "semantic_mask": semantic[chosen],
                "instance_mask": instance[chosen],
            }
            if torch.rand((), generator=self.generator) < self.config.flip_probability:
                batch = {name: value.flip(-1) for name, value in batch.items()}
            step = self.parts["training_step"]
            losses.append(step(self.model, optimizer, criterion, batch, self.config.max_grad_norm))
        self.model.eval()
        return losses

    @torch.inference_mode()
    def detect(self, image: np.ndarray) -> np.ndarray:
        """Finds the lanes of an image.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (H, W) int32: lanes 1, 2 … from left to right, 0 elsewhere.
        """
        self.model.eval()
        height, width = image.shape[:2]
        top = rows_cut(height, self.config.crop_top)
        outputs = self.model(self._view(image))  # lanes are separated at the network's size, which is fast
        size = outputs["logits"].shape[2:]
        lane = outputs["logits"][0].softmax(dim=0)[list(self.config.class_table.lane_ids)].sum(dim=0)  # (h, w)
        row = (self.config.reference_row * (height - 1) - top) * size[0] / (height - top)
        ids = self.parts["separate_and_number"](
            (lane > 0.5).numpy(),
            outputs["embeddings"][0].numpy(),
            radius_from_margins(self.config.delta_var, self.config.delta_dist),
            row,
            max(1, round(MIN_PIXELS_SHARE * size[0] * size[1])),
        )
        found = np.zeros((height, width), dtype=np.int32)
        found[top:] = _resized(np.asarray(ids), (height - top, width))
        return found

    def score(self, split: str = "val") -> float:
        """Lane F1 over the samples of a split of ``data_samples``, by the part ``lane_f1``."""
        ious = []
        for files in zip(*list_samples(samples(), split), strict=True):
            image, semantic, instance = self.parts["read_labelled"](*map(str, files))
            truth = polylines_from_instances(instance, instances_by_role(semantic, instance))
            found = self.detect(image)
            pixels = [np.nonzero(found == i) for i in range(1, found.max() + 1)]
            curves = [fit_lane_curve(columns, rows) for rows, columns in pixels if len(rows)]
            ious.append(LaneF1().iou_matrix(curves, truth, image.shape[:2]))
        return float(self.parts["lane_f1"](ious))

    def exchanged(self, name: str) -> "Detector":
        """The same weights with the library's function as one part: what does the own part cost?

        Args:
            name: of a part that acts after training, too. ``discriminative`` and ``training_step`` do not.
        """
        other = copy.copy(self)
        other.parts = {**self.parts, name: getattr(library_parts, name)}
        other.model = copy.copy(self.model)  # shares the weights
        other.model.fuse = other.parts["fuse"]
        return other

    def _read_split(self, split: str) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What the network sees of each sample: image (3, h, w), semantic and instance mask (h, w) int64."""
        group = []
        for files in zip(*list_samples(samples(), split), strict=True):
            image, *masks = self.parts["read_labelled"](*map(str, files))
            view = self._view(image)[0]
            top = rows_cut(len(image), self.config.crop_top)
            small = (torch.from_numpy(_resized(mask[top:], view.shape[1:]).astype(np.int64)) for mask in masks)
            group.append((view, *small))
        return group

    def _view(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) → (1, 3, h, w): the image below the cut, at the area that the encoder was trained with."""
        below = np.ascontiguousarray(image[rows_cut(len(image), self.config.crop_top) :])
        return self._segmenter.make_views(below)[0].pixels

    def _criterion(self) -> LaneCriterion:
        """Cross-entropy and Dice for the classes, the part ``discriminative`` for the embeddings."""
        config = self.config

        def instance(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, dict]:
            large = upsample_to(embeddings, mask.shape[1:])  # (B, D, h/4, w/4) → (B, D, h, w)
            return self.parts["discriminative"](large, mask, config.delta_var, config.delta_dist), {}

        semantic = CombinedLoss(ce_weight=config.ce_weight, dice_weight=config.dice_weight)
        return LaneCriterion(semantic, instance, config.semantic_weight, config.instance_weight)


class SmallModel(nn.Module):
    """A lane model: a frozen encoder, whose maps ``fuse`` makes one map, and two small heads on it.

    Args:
        encoder: has ``encode``, images (B, 3, H, W) → four maps, and ``num_classes``; it learns nothing here.
        fuse: (maps, projections, mix) → one map (B, WIDTH, H/4, W/4).
    """

    def __init__(self, encoder: nn.Module, fuse: Callable) -> None:
        super().__init__()
        self.fuse = fuse
        self.num_classes, self.embedding_dim = encoder.num_classes, EMBEDDING_DIM
        self.encode = encoder.encode  # a method, not a module: its weights are none of this model's parameters
        with torch.no_grad():
            widths = [maps.shape[1] for maps in self.encode(torch.zeros(1, 3, 64, 64))]
        self.projections = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths)
        self.mix = nn.Sequential(nn.Conv2d(len(widths) * WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.classifier = nn.Conv2d(WIDTH, self.num_classes, 1)
        self.embedder = nn.Conv2d(WIDTH, EMBEDDING_DIM, 1)

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        """See ``LaneModel.forward``."""
        with torch.no_grad():
            maps = self.encode(images)
        fused = self.fuse(maps, list(self.projections), self.mix)  # (B, WIDTH, H/4, W/4)
        outputs = {"logits": self.classifier(fused), "embeddings": self.embedder(fused)}
        if not upsample:
            return outputs
        return {name: upsample_to(small, images.shape[2:]) for name, small in outputs.items()}


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at (h, w), by the nearest pixel; for any integer type, unlike OpenCV."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, mask.shape, strict=True))
    return mask[rows][:, columns]
