"""Scores. Each is an accumulator: ``update`` once per image or batch, read the score at the end.

========================  =================  ==================================================================
score                     compares           a match
========================  =================  ==================================================================
:class:`ConfusionMatrix`  class per pixel    the same class
:class:`BoundaryIoU`      class per pixel    the same class, in a band along the outlines only
:class:`InstanceF1`       instance masks     IoU of the masks above 0.5, one to one
:class:`LaneF1`           lane curves        IoU of the curves drawn as wide lines above 0.5, one to one (CULane)
:class:`TuSimpleScore`    x on fixed rows    85 % of the rows within 20 px / cos θ (TuSimple)
========================  =================  ==================================================================
"""

from roadtopo_lib.metrics.instances import InstanceF1, MatchCounts, mask_iou, match_by_iou
from roadtopo_lib.metrics.lanes import LaneF1, TuSimpleScore, interpolate_lane, polylines_from_instances
from roadtopo_lib.metrics.semantic import BoundaryIoU, ConfusionMatrix, boundary_band, mask_boundary

__all__ = [
    "BoundaryIoU",
    "ConfusionMatrix",
    "InstanceF1",
    "LaneF1",
    "MatchCounts",
    "TuSimpleScore",
    "boundary_band",
    "interpolate_lane",
    "mask_boundary",
    "mask_iou",
    "match_by_iou",
    "polylines_from_instances",
]
