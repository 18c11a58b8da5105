"""Drawings that stand before the formulas of the course.

Each function returns a matplotlib ``Figure`` that pyplot does not know, and ``ALT`` holds a sentence for each that
describes it to those who do not see it::

    show(schematics.patch_embedding(), alt=schematics.ALT["patch_embedding"])
"""

from roadtopo_lib.course.schematics._canvas import ALT
from roadtopo_lib.course.schematics.amodal import amodal_fusion, masked_softmax, query_answer
from roadtopo_lib.course.schematics.config import boxes, schedule
from roadtopo_lib.course.schematics.dataset import flip_together, nearest_and_bilinear, sample_files
from roadtopo_lib.course.schematics.end_to_end import iou_drawing, lane_matching, metres_from_pixels
from roadtopo_lib.course.schematics.imbalance import class_weight_formulas, dice_image_and_batch, paired_runs
from roadtopo_lib.course.schematics.large_images import draws_by_share, tiles_of_a_row, unet
from roadtopo_lib.course.schematics.losses import cross_entropy_pixel, dice_overlap, loss_terms
from roadtopo_lib.course.schematics.model import (
    attention_mix,
    attention_qkv,
    attention_reduction,
    attention_weights,
    fusion,
    mix_ffn,
    patch_embedding,
    two_heads,
)
from roadtopo_lib.course.schematics.night_ride import boundary_bands, grad_cam_steps, paste_on_road
from roadtopo_lib.course.schematics.postprocessing import (
    clustering,
    crosswalk_groups,
    curves_of_one_road,
    numbering,
    seed_and_gather,
)
from roadtopo_lib.course.schematics.training import (
    accumulation,
    loss_scaling,
    mixed_precision,
    muon_step,
    plain_step,
    training_step,
)

__all__ = [
    "ALT",
    "accumulation",
    "amodal_fusion",
    "attention_mix",
    "attention_qkv",
    "attention_reduction",
    "attention_weights",
    "boundary_bands",
    "boxes",
    "class_weight_formulas",
    "clustering",
    "cross_entropy_pixel",
    "crosswalk_groups",
    "curves_of_one_road",
    "dice_image_and_batch",
    "dice_overlap",
    "draws_by_share",
    "flip_together",
    "fusion",
    "grad_cam_steps",
    "iou_drawing",
    "lane_matching",
    "loss_scaling",
    "loss_terms",
    "masked_softmax",
    "metres_from_pixels",
    "mix_ffn",
    "mixed_precision",
    "muon_step",
    "nearest_and_bilinear",
    "numbering",
    "paired_runs",
    "paste_on_road",
    "patch_embedding",
    "plain_step",
    "query_answer",
    "sample_files",
    "schedule",
    "seed_and_gather",
    "tiles_of_a_row",
    "training_step",
    "two_heads",
    "unet",
]
