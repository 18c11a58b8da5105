"""What is tried against the checks of the exercises, chapter by chapter."""

from answers import config, dataset, losses, model, parts
from answers._register import ANSWERS, RIGHT, WRONG

__all__ = ["ANSWERS", "RIGHT", "WRONG", "config", "dataset", "losses", "model", "parts"]
