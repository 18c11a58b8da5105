"""All losses and class weights.

* ``region``: the semantic losses, on pixels (focal, cross-entropy) and on regions (Dice, Tversky).
* ``discriminative``: the instance loss, which pulls the embeddings of one instance together and pushes instances apart.
* ``criterion``: both heads' losses in one call, which is all that the trainer knows.
* ``weighting``: how much a rare class should count.
"""

from roadtopo_lib.losses.criterion import Criterion, LaneCriterion, MeanOverImages, shares_of_step
from roadtopo_lib.losses.discriminative import DiscriminativeLoss, gather_embeddings
from roadtopo_lib.losses.region import CombinedLoss, DiceLoss, FocalDiceLoss, FocalLoss, FocalTverskyLoss, TverskyLoss
from roadtopo_lib.losses.weighting import WEIGHT_METHODS, class_weights, weights_from_counts

__all__ = [
    "WEIGHT_METHODS",
    "CombinedLoss",
    "Criterion",
    "DiceLoss",
    "DiscriminativeLoss",
    "FocalDiceLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "LaneCriterion",
    "MeanOverImages",
    "TverskyLoss",
    "class_weights",
    "gather_embeddings",
    "shares_of_step",
    "weights_from_counts",
]
