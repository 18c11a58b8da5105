"""Simulations behind the widgets: numbers only, no drawing, no controls.

- ``separation``: points of a few lanes in an embedding space, moved by the discriminative loss itself.
- ``shaping``: what each semantic loss, and its gradient, is as one predicted probability moves.
- ``clustering``: clusters of a frame's pixels, fast enough for a slider.
- ``frame``: a network's embeddings of one frame at several moments of its training.
- ``augmentation``: one crop, flip and change of colour, on an image and its masks.
"""

from roadtopo_lib.course.playground.augmentation import Augmentation, in_step
from roadtopo_lib.course.playground.clustering import SLOW_METHODS, Separated, cluster_quickly, separate
from roadtopo_lib.course.playground.frame import Cloud, FrameMoments
from roadtopo_lib.course.playground.separation import (
    FAILURES,
    STARTS,
    Clusters,
    EmbeddingPlayground,
    Margins,
    State,
    floor_on_sphere,
)
from roadtopo_lib.course.playground.shaping import LOSSES, MOVED, LossCurves, loss_curves

__all__ = [
    "FAILURES",
    "LOSSES",
    "MOVED",
    "SLOW_METHODS",
    "STARTS",
    "Augmentation",
    "Cloud",
    "Clusters",
    "EmbeddingPlayground",
    "FrameMoments",
    "LossCurves",
    "Margins",
    "Separated",
    "State",
    "cluster_quickly",
    "floor_on_sphere",
    "in_step",
    "loss_curves",
    "separate",
]
