"""One crop, flip and change of colour, chosen by hand, on an image and its masks: in step, or torn apart.

``dataset.build_transform`` draws these at random with Albumentations; here each has a value of its own.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """What is done to a picture.

    Args:
        left, top: corner of the crop, as a share of what the crop leaves free, 0..1.
        size: side of the crop as a share of the picture's, above 0 and at most 1; the crop is then enlarged again.
        flip: mirror left and right.
        brightness, contrast, saturation: factors, >= 0; 1 changes nothing. They touch the image only.

    Raises:
        ValueError: a value outside its range.
    """

    left: float = 0.0
    top: float = 0.0
    size: float = 1.0
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.left <= 1 and 0 <= self.top <= 1 and 0 < self.size <= 1):
            raise ValueError(f"expected left and top in 0..1, size above 0 and at most 1, got {self}")
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError(f"expected factors of at least 0, got {self}")

    def move(self, picture: np.ndarray) -> np.ndarray:
        """Crop and flip: (H, W) ids by nearest neighbour, or (H, W, 3) uint8 bilinearly; the same size as before."""
        height, width = picture.shape[:2]
        rows, columns = max(1, round(self.size * height)), max(1, round(self.size * width))
        top, left = round(self.top * (height - rows)), round(self.left * (width - columns))
        part = picture[top : top + rows, left : left + columns]
        if self.flip:
            part = part[:, ::-1]
        # The mean of two ids is a third id.
        how = cv2.INTER_NEAREST if picture.ndim == 2 else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=how)

    def recolor(self, image: np.ndarray) -> np.ndarray:
        """Saturation, contrast and brightness of an (H, W, 3) uint8 image, in this order."""
        values = image.astype(np.float32)
        grey = values @ np.float32([0.299, 0.587, 0.114])  # ITU-R BT.601
        values = grey[..., None] + self.saturation * (values - grey[..., None])
        values = grey.mean() + self.contrast * (values - grey.mean())
        return np.clip(self.brightness * values, 0, 255).astype(np.uint8)


def in_step(mask: np.ndarray, expected: np.ndarray) -> float:
    """Share of the pixels that bear an id in either mask and bear the same one in both, 0..1: 1 if none does."""
    either = (mask > 0) | (expected > 0)
    return float((mask == expected)[either].mean()) if either.any() else 1.0
