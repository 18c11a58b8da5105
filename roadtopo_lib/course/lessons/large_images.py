"""Pictures of elective 2: roads from above, what was found of them, tiles against the whole image, thresholds."""

from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

HIT, MISSED, FALSE = (215, 215, 215), (68, 119, 170), (238, 102, 119)
"""Colours of road found, road missed, and what was found beside the roads."""


def quiet(image: np.ndarray) -> np.ndarray:
    """An image without its grain, so that its file stays small: (H, W, 3) uint8."""
    return cv2.medianBlur(cv2.medianBlur(image, 3), 3) // 16 * 17


def compared(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Road found (light), missed (blue) and false (red), on black: (H, W, 3) uint8 from (H, W) bool masks."""
    picture = np.zeros((*true.shape, 3), np.uint8)
    for color, place in ((HIT, found & true), (MISSED, true & ~found), (FALSE, found & ~true)):
        picture[place] = color
    return picture


# What answers a question to the learner has its title and its words here, not in the cell that shows it.


def draw_reach(reach: np.ndarray) -> tuple[Figure, str]:
    """How often each pixel around one changes that pixel's logit, (H, W) 0..1: figure, and what it shows."""
    figure, ax = plt.subplots(figsize=(3.2, 2.9))
    half = reach.shape[0] // 2
    ax.imshow(reach, cmap="Greys", extent=(-half, half, half, -half))
    ax.set(title="A pixel sees a window of 44 pixels", xlabel="columns away", ylabel="rows away")
    return figure, "The square window of pixels on which one pixel's logit depends."


def draw_difference(difference: np.ndarray, borders: Sequence[int]) -> tuple[Figure, str]:
    """(H, W) absolute differences between tiles and the whole image, with the tiles' borders: figure, what it shows."""
    figure, ax = plt.subplots(figsize=(4.6, 3.6))
    shown = np.log10(np.maximum(difference, 1e-6))
    drawn = ax.imshow(np.round(shown * 2) / 2, cmap="Greys", vmin=-6, vmax=-2)
    for border in borders:
        ax.axvline(border - 0.5, color="C0", lw=0.6, ls=":")
        ax.axhline(border - 0.5, color="C0", lw=0.6, ls=":")
    ax.set(title="They differ near the tiles' borders only", xticks=[], yticks=[])
    figure.colorbar(drawn, label="log₁₀ of the difference in probability")
    return figure, "Differences lie along the borders of tiles and are below a hundredth; elsewhere there are none."


def draw_precision_recall(curves: dict[str, tuple], marks: dict[str, tuple[float, float]]) -> tuple[Figure, str]:
    """Precision over recall.

    Args:
        curves: name → (precision, recall), arrays of equal length.
        marks: name → (precision, recall) of single thresholds.
    """
    figure, ax = plt.subplots(figsize=(5.4, 3))
    for name, (precision, recall) in curves.items():
        ax.plot(recall[::50], precision[::50], label=name)
    for marker, (name, (precision, recall)) in zip("os^", marks.items(), strict=False):
        ax.plot(recall, precision, marker, color="black", markerfacecolor="white", label=name)
    ax.set(title="The threshold moves a model along its curve", xlabel="recall", ylabel="precision")
    ax.set(xlim=(0.5, 1), ylim=(0.5, 1))
    ax.legend(fontsize="small", loc="lower left")
    return figure, "Precision falls as recall rises; single thresholds are marked on the curve of the test scenes."


def draw_roc(curves: dict[str, tuple], marks: dict[str, tuple[float, float]]) -> tuple[Figure, str]:
    """The share of the road that is found, over the share of the ground that is called road.

    Args:
        curves: name → (false alarms, recall), arrays of equal length.
        marks: name → (false alarms, recall) of single thresholds.
    """
    figure, ax = plt.subplots(figsize=(5.4, 2.6))
    for name, (false_alarms, recall) in curves.items():
        ax.plot(false_alarms, recall, label=name)
    for marker, (name, (false_alarms, recall)) in zip("os^", marks.items(), strict=False):
        ax.plot(false_alarms, recall, marker, color="black", markerfacecolor="white", label=name)
    ax.set(title="Where road is rare, the ROC curve looks nearly perfect", ylabel="recall", ylim=(0, 1.05))
    ax.set(xlabel="false alarms: share of the ground called road", xlim=(-0.02, 1))
    ax.legend(fontsize="small", loc="lower right")
    return figure, "The curves rise at the left edge at once to a recall near 1; the thresholds lie at that edge."
