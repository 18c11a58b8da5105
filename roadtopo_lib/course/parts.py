"""The learner's own detector, part by part: keeps the source of each right function and runs it again later.

A kept part stands alone. Its file begins with the imports that the exercises promise, so everything else that it needs
must be imported or defined inside the function.
"""

import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

from roadtopo_lib.course.exercises import hint_for
from roadtopo_lib.course.learner import learner_folder
from roadtopo_lib.files import write_atomic

PARTS = ("read_labelled", "fuse", "discriminative", "training_step", "separate_and_number", "lane_f1")
"""Names of the parts, in the order of notebooks 2 to 7; each is also the name of its exercise."""

IMPORTS = """\
import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


"""
"""What every kept part may use; its file begins with these lines."""

PROMISED = "math, cv2, np, torch, F and nn"


def keep(function: Callable) -> None:
    """Tests a part of the detector; if it is right, stores its source in the learner's folder.

    Prints ``[OK]`` or the first hint. A wrong answer leaves the part that was kept before as it was.

    Args:
        function: what the learner wrote with ``def``, named like the part.
    """


def kept() -> tuple[str, ...]:
    """Names of the parts in the learner's folder, in the order of the notebooks."""


def load(name: str) -> Callable:
    """A kept part, made by running its source again.

    Raises:
        KeyError: no part of that name.
        FileNotFoundError: it was not kept.
        ValueError: its file cannot be run, or does not define it.
    """
