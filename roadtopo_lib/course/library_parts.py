"""The library's answers to the six parts, called as the learner's are: they stand in for parts that were not kept."""

import numpy as np
import torch
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import Sample, read_sample
from roadtopo_lib.losses import DiscriminativeLoss
from roadtopo_lib.metrics import MatchCounts, match_by_iou
from roadtopo_lib.models import upsample_to
from roadtopo_lib.postprocess import cluster_embeddings, fit_lane_curve, order_left_to_right
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.meter import Meter


def read_labelled(image_path: str, semantic_path: str, instance_path: str) -> Sample:
    """Image (H, W, 3) uint8 RGB, semantic mask (H, W), instance mask (H, W)."""
    return read_sample(image_path, semantic_path, instance_path)


def fuse(maps: list[Tensor], projections: list[nn.Module], mix: nn.Module) -> Tensor:
    """(B, c_i, h_i, w_i) maps, the largest first → what ``mix`` makes of (B, K·E, h_1, w_1), last map first."""
    projected = [project(x) for x, project in zip(maps, projections, strict=True)]
    return mix(torch.cat([upsample_to(x, maps[0].shape[2:]) for x in reversed(projected)], dim=1))


def discriminative(embeddings: Tensor, instance_mask: Tensor, delta_var: float, delta_dist: float) -> Tensor:
    """Pull + push of embeddings (B, D, H, W) by an instance mask (B, H, W)."""
    return DiscriminativeLoss(delta_var, delta_dist, gamma=0.0)(embeddings, instance_mask)[0]


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, criterion, batch: dict, max_grad_norm: float
) -> float:
    """One step of the library's trainer; returns the loss."""
    config = LaneSegmentationConfig(max_grad_norm=max_grad_norm, amp="off", num_classes=model.num_classes)
    device = batch["image"].device
    trainer = LaneSegmentationTrainer(model, config, criterion, optimizer, device, progress=False)
    meter = Meter()
    trainer.train_step([{"image_path": ["unknown files"], **batch}], meter)  # the trainer's errors name the files
    return meter.mean("loss")


def separate_and_number(
    lane_mask: np.ndarray, embeddings: np.ndarray, radius: float, reference_row: float, min_pixels: int
) -> np.ndarray:
    """Lanes 1, 2 … from left to right (H, W), from a mask (H, W) and embeddings (D, H, W)."""
    ids = np.zeros(lane_mask.shape, dtype=np.int64)
    rows, columns = np.nonzero(lane_mask)
    labels = cluster_embeddings(embeddings[:, rows, columns].T, radius)
    lanes = [labels == label for label in np.unique(labels[labels >= 0]) if (labels == label).sum() >= min_pixels]
    curves = [fit_lane_curve(columns[lane], rows[lane]) for lane in lanes]
    for number, k in enumerate(order_left_to_right(curves, reference_row), start=1):
        ids[rows[lanes[k]], columns[lanes[k]]] = number
    return ids


def lane_f1(ious: list[np.ndarray], threshold: float = 0.5) -> float:
    """F1 over all images, from one matrix (predictions, true lanes) of IoUs for each."""
    counts = MatchCounts()
    for iou in ious:
        counts.count(len(match_by_iou(iou, threshold)[0]), *iou.shape)
    return counts.f1()
