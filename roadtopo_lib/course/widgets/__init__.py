"""The course's widgets: each is one line in a notebook, alive where a kernel runs, a still picture elsewhere.

>>> EmbeddingSeparation()  # doctest: +SKIP
"""

from roadtopo_lib.course.widgets.augmentation import AugmentationInStep
from roadtopo_lib.course.widgets.bench import PostProcessingBench
from roadtopo_lib.course.widgets.frame import FrameEmbeddings
from roadtopo_lib.course.widgets.margins import MarginsExplorer
from roadtopo_lib.course.widgets.separation import EmbeddingSeparation
from roadtopo_lib.course.widgets.shaper import LossShaper

__all__ = [
    "AugmentationInStep",
    "EmbeddingSeparation",
    "FrameEmbeddings",
    "LossShaper",
    "MarginsExplorer",
    "PostProcessingBench",
]
