"""What is tried against the checks of the exercises, chapter by chapter."""

from answers import (
    amodal,
    config,
    dataset,
    end_to_end,
    imbalance,
    large_images,
    losses,
    model,
    night_ride,
    parts,
    postprocessing,
    training,
)
from answers._register import ANSWERS, RIGHT, WRONG

__all__ = [
    "ANSWERS",
    "RIGHT",
    "WRONG",
    "amodal",
    "config",
    "dataset",
    "end_to_end",
    "imbalance",
    "large_images",
    "losses",
    "model",
    "night_ride",
    "parts",
    "postprocessing",
    "training",
]
