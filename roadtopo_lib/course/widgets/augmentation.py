"""Augmentation in step: an image and both its masks under one crop, one flip, one change of colour."""

import numpy as np

from roadtopo_lib.course import samples
from roadtopo_lib.course.playground import Augmentation, in_step
from roadtopo_lib.course.widgets._base import PANEL_SIZE, Board, PicturePanel
from roadtopo_lib.course.widgets._controls import button, on_change, slider, switch
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.viz import color_instances, color_semantic


class AugmentationInStep(Board):
    """Sliders move an image and both its masks together; a switch moves them apart, as two separate draws would.

    Args:
        dataset: samples to choose from; default the training samples of the course.
        index: which one to begin with.
    """

    title = "Augmentation in step"

    def __init__(self, dataset: LaneInstanceDataset | None = None, index: int = 0) -> None:
        super().__init__()
        self.dataset = dataset or LaneInstanceDataset(samples(), "train")
        self._read(index)
        size = self._files[0].shape[:2]
        self.panels = [
            PicturePanel("The image after crop, mirroring and change of colour", size, PANEL_SIZE[0], whole=True),
            PicturePanel("The class mask after the same crop and mirroring", size, flat=True),
            PicturePanel("The instances, painted over the image", size),
        ]
        self._index = slider("sample (number)", index, 0, len(self.dataset) - 1, 1)
        self._size = slider("crop side (%)", 80, 30, 100, 1)
        self._left = slider("from left (%)", 50, 0, 100, 1)
        self._top = slider("from top (%)", 50, 0, 100, 1)
        self._flip = switch("mirror left and right")
        self._colors = [slider(f"{name} (×)", 1.0, 0.0, 2.0, 0.05) for name in ("brightness", "contrast", "saturation")]
        self._separately = switch("trap: draw for the masks separately")
        self._draws = 0
        on_change(self._other_sample, self._index)
        on_change(self.update, self._size, self._left, self._top, self._flip, *self._colors, self._separately)
        self.arrange(
            [
                *([control] for control in (self._index, self._size, self._left, self._top, *self._colors)),
                [self._flip],
                [self._separately],
                [button("Draw again", self._draw_again, "another random draw for the masks")],
            ]
        )

    def draw(self) -> None:
        """Sets the pictures and the words."""
        chosen = Augmentation(
            self._left.value / 100, self._top.value / 100, self._size.value / 100, self._flip.value,
            *(control.value for control in self._colors),
        )  # fmt: skip
        image, semantic, instance = self._files
        of_masks = self._another_draw() if self._separately.value else chosen
        moved = of_masks.move(instance)
        agreement = in_step(moved, chosen.move(instance))
        shown = chosen.recolor(chosen.move(image))
        over = np.where(moved[..., None] > 0, color_instances(moved), shown)
        self.panels[0].draw(shown, "The image")
        self.panels[1].draw(color_semantic(of_masks.move(semantic)), "A colour is a class")
        self.panels[2].draw(over.astype(np.uint8), "A colour is an id")
        self.words = f"{agreement:.0%} of the instance pixels bear the id that belongs to what the image shows there."
        if self._separately.value:
            mirrored = " and are mirrored differently" if of_masks.flip != chosen.flip else ""
            self.words += f" Out of step: two calls are two draws, and the masks took another crop{mirrored}."

    def _another_draw(self) -> Augmentation:
        random = np.random.default_rng((self._index.value, self._draws))
        left, top, size = random.random(), random.random(), random.uniform(0.5, 0.9)
        return Augmentation(left, top, size, flip=bool(random.random() < 0.5))

    def _draw_again(self) -> None:
        self._draws += 1
        self.update()

    def _other_sample(self) -> None:
        self._read(self._index.value)
        self.update()

    def _read(self, index: int) -> None:
        self._files = self.dataset.read(index)
