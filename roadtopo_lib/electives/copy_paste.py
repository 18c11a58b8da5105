"""Copy-paste of rare classes: cut-outs of other samples, put on the road as they would look there.

Sources: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", pastes
anywhere and needs no perspective; here a cut-out follows a flat road. With the vanishing point (vx, vy) of the road a
place (x, y) on the ground moves by

    x' = vx + s·(x − vx) + a·(y − vy),    y' = vy + s·(y − vy)

s along the road and a across it. Paint moves so; an upright thing is only scaled by s, about the point where it stands.

Axes: H and W image pixels, h and w pixels of a cut-out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from roadtopo_lib.dataset import Transform
from roadtopo_lib.labels import NO_INSTANCE

MARGIN = 8
"""Pixels of surroundings that a cut-out keeps: what its light and blur are compared by."""

SCALES = (0.5, 2.0)
"""A cut-out is not shrunk or enlarged further: it would look coarse."""

BLURS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Gaussian blurs that are tried, σ in pixels."""

TRIES = 12


@dataclass(frozen=True)
class CutOut:
    """One thing of an image with a margin around it.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) bool, the thing.
        class_id: its class.
        is_instance: whether it has an id in the instance mask.
        corner: (x, y) of its upper left pixel in the image, from the vanishing point.
    """

    image: np.ndarray
    mask: np.ndarray
    class_id: int
    is_instance: bool
    corner: tuple[float, float]


def cut_outs(
    samples: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], class_ids: Sequence[int],
    vanishing: tuple[float, float] = (0.5, 0.5), hidden_by: Sequence[int] = (), min_pixels: int = 64,
) -> list[CutOut]:  # fmt: skip
    """The whole things of some classes below the vanishing point.

    A part that touches the image's edge or a class of ``hidden_by`` is not whole.

    Args:
        samples: (image (H, W, 3) uint8, semantic (H, W) uint8, instance (H, W) uint16), for example
            ``dataset.read(index)`` of every index.
        class_ids: what to cut out.
        vanishing: of the road, as shares of width and height.
        hidden_by: classes that stand before all others, such as the own vehicle.
        min_pixels: smaller things are left out.
    """
    found = []
    for image, semantic, instance in samples:
        height, width = semantic.shape
        near = cv2.dilate(np.isin(semantic, hidden_by).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        for class_id in class_ids:
            count, parts, boxes, _ = cv2.connectedComponentsWithStats((semantic == class_id).astype(np.uint8))
            for part in range(1, count):
                x, y, w, h, pixels = boxes[part].tolist()
                is_cut = x == 0 or y == 0 or x + w == width or y + h == height
                if pixels < min_pixels or is_cut or y + h <= vanishing[1] * height or (near & (parts == part)).any():
                    continue
                top, left = max(y - MARGIN, 0), max(x - MARGIN, 0)
                window = slice(top, y + h + MARGIN), slice(left, x + w + MARGIN)
                mask = parts[window] == part
                is_instance = bool((instance[window][mask] != NO_INSTANCE).any())
                corner = left - vanishing[0] * width, top - vanishing[1] * height
                found.append(CutOut(image[window].copy(), mask, class_id, is_instance, corner))
    return found


class CopyPaste:
    """A transform that pastes cut-outs into a sample before another one is applied.

    Args:
        bank: what may be pasted; each class in it comes up equally often.
        ground: classes on which a thing may stand or lie.
        flat: classes that are painted on the ground; all others stand upright.
        keep: classes that nothing may cover, such as the rider.
        vanishing: of the road, as shares of width and height.
        probability: of pasting into a sample.
        most: up to so many cut-outs are pasted.
        realistic: ``False`` pastes as it is and anywhere outside of ``keep``: for comparison.
        then: the transform that follows.

    Raises:
        ValueError: an empty bank.
    """

    def __init__(
        self, bank: Sequence[CutOut], ground: Sequence[int], flat: Sequence[int] = (), keep: Sequence[int] = (),
        vanishing: tuple[float, float] = (0.5, 0.5), probability: float = 0.5, most: int = 3, realistic: bool = True,
        then: Transform | None = None,
    ) -> None:  # fmt: skip
        if not bank:
            raise ValueError("the bank is empty, expected at least one cut-out")
        self.by_class = {c.class_id: [o for o in bank if o.class_id == c.class_id] for c in bank}
        self.ground, self.flat, self.keep, self.vanishing = ground, flat, keep, vanishing
        self.probability, self.most, self.realistic, self.then = probability, most, realistic, then

    def __call__(
        self, image: np.ndarray, semantic: np.ndarray, instance: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8, (H, W) uint8, (H, W) uint16 and the seed of every random draw → the same three, new."""
        rng = np.random.default_rng(seed)
        image, semantic, instance = image.copy(), semantic.copy(), instance.copy()
        if rng.random() < self.probability:
            for _ in range(rng.integers(1, self.most + 1)):
                self._paste_one(rng, image, semantic, instance)
        return (image, semantic, instance) if self.then is None else self.then(image, semantic, instance, seed)

    def _paste_one(
        self, rng: np.random.Generator, image: np.ndarray, semantic: np.ndarray, instance: np.ndarray
    ) -> None:
        """Pastes one cut-out in place, if a place for it is found in a few tries."""
        bank = self.by_class[int(rng.choice(sorted(self.by_class)))]
        cut = bank[int(rng.integers(len(bank)))]
        ground = np.isin(semantic, self.ground)
        places = np.argwhere(ground)
        kept = np.isin(semantic, self.keep)
        size = (semantic.shape[1], semantic.shape[0])
        for _ in range(TRIES if len(places) else 0):
            y, x = places[rng.integers(len(places))]
            move = self._move(cut, float(x), float(y), size)
            if move is None:
                continue
            mask = cv2.warpAffine(cut.mask.astype(np.float32), move, size, flags=cv2.INTER_LINEAR)
            solid = mask > 0.5
            covered = solid & (kept | (semantic == cut.class_id))
            whole = cut.mask.sum() * abs(np.linalg.det(move[:, :2]))
            if solid.sum() < 0.7 * whole or covered.sum() > 0.3 * whole:
                continue  # most of it would lie outside, behind the rider, or on its like
            pixels = cv2.warpAffine(cut.image, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            if self.realistic:
                beside = cv2.warpAffine((~cut.mask).astype(np.uint8), move, size) > 0
                beside &= cv2.dilate(solid.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0  # not its own edge
                pixels = _adapted(pixels, image, beside & ground)
                mask = cv2.GaussianBlur(mask, (0, 0), 0.7)
            part = (mask * ~kept)[..., None]
            image[:] = np.round(part * pixels + (1 - part) * image).astype(np.uint8)
            solid &= ~kept
            semantic[solid] = cut.class_id
            instance[solid] = instance.max() + 1 if cut.is_instance else NO_INSTANCE
            return

    def _move(self, cut: CutOut, x: float, y: float, size: tuple[int, int]) -> np.ndarray | None:
        """(2, 3) from pixels of the cut-out to pixels of the image, so that it stands at (x, y); ``None``: too far off.

        What stands there is the middle of its lowest row.
        """
        rows, columns = np.nonzero(cut.mask)
        foot = np.array([columns[rows == rows.max()].mean(), rows.max()])
        if not self.realistic:
            return np.array([[1, 0, round(x - foot[0])], [0, 1, round(y - foot[1])]], float)
        vanishing = np.array(self.vanishing) * size
        source = foot + cut.corner  # from the vanishing point
        target = np.array([x, y]) - vanishing
        scale = target[1] / source[1]
        if not SCALES[0] <= scale <= SCALES[1]:
            return None
        if cut.class_id not in self.flat:
            return np.array([[scale, 0, x - scale * foot[0]], [0, scale, y - scale * foot[1]]])
        across = (target[0] - scale * source[0]) / source[1]
        turn = np.array([[scale, across], [0, scale]])
        return np.column_stack([turn, vanishing + turn @ cut.corner])


def _adapted(pixels: np.ndarray, image: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The moved cut-out (H, W, 3) as bright and as blurred as the image, judged by the ground around (H, W) it."""
    if not around.any():
        return pixels
    gain = np.median(image[around], axis=0).mean() / max(np.median(pixels[around], axis=0).mean(), 1.0)
    pixels = np.clip(pixels * np.clip(gain, 0.25, 4.0), 0, 255).astype(np.uint8)
    wanted = _sharpness(image, around)
    blurred = [cv2.GaussianBlur(pixels, (0, 0), sigma) if sigma else pixels for sigma in BLURS]
    return min(blurred, key=lambda candidate: abs(_sharpness(candidate, around) - wanted))


def _sharpness(image: np.ndarray, where: np.ndarray) -> float:
    """Mean size of the second derivative of the brightness there."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[where].mean())
