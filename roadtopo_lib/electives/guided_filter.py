"""The guided filter: probabilities follow the edges of the image.

Reference:
    K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010, equations 5, 6 and 8.
"""

import cv2
import numpy as np


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int = 4, epsilon: float = 1e-3) -> np.ndarray:
    """Values that are, around each pixel, a linear function of the guide: (H, W) float64.

    In each square window the line a · guide + b is fitted to the values; a pixel gets the mean of the lines of all
    windows that hold it. Windows end with the image.

    Args:
        guide: (H, W), for example the grey image in [0, 1].
        values: (H, W), for example the probability of a class.
        radius: pixels from the middle of a window to its side, >= 1.
        epsilon: ridge penalty on a², > 0: where the guide's variance is far below it, the result is the windows' mean.

    Raises:
        ValueError: different shapes, or an argument out of range.
    """
    if guide.shape != values.shape or values.ndim != 2:
        raise ValueError(f"guide {guide.shape} and values {values.shape}, expected the same (H, W)")
    if radius < 1 or not epsilon > 0:
        raise ValueError(f"radius is {radius} and epsilon {epsilon}, expected at least 1 and more than 0")

    def total(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (2 * radius + 1,) * 2, normalize=False, borderType=cv2.BORDER_CONSTANT)

    count = total(np.ones(values.shape))  # pixels of each window

    def mean(x: np.ndarray) -> np.ndarray:
        return total(x) / count

    guide, values = guide.astype(np.float64), values.astype(np.float64)
    variance = mean(guide * guide) - mean(guide) ** 2
    a = (mean(guide * values) - mean(guide) * mean(values)) / (variance + epsilon)
    b = mean(values) - a * mean(guide)
    return mean(a) * guide + mean(b)
