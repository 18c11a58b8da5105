"""From a checkpoint and an image to separated lanes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.config import STRIDE, LaneSegmentationConfig
from roadtopo_lib.data.images import list_images, read_image, read_images
from roadtopo_lib.dataset import image_to_tensor, rows_cut
from roadtopo_lib.labels import BACKGROUND
from roadtopo_lib.models import LaneModel, check_classes, choose_device, class_logits, load_with_info, upsample_to
from roadtopo_lib.postprocess import LanePostProcessor, LaneResult
from roadtopo_lib.strips import MOST_PIXELS, enlarged, shrunk, upsampled_strips

SECOND_VIEW_SCALE = 1.35  # chosen by lane F1 on scenes that no score here uses; see ``LaneSegmenter``


class View(NamedTuple):
    """What the network sees of an image."""

    pixels: Tensor  # (1, 3, h, w) float32 in [0, 1]
    mirrored: bool = False  # left and right are exchanged


class LaneSegmenter:
    """A trained model with its post-processing: image in, instances out.

    Args:
        model: in evaluation mode.
        config: image_size, crop_top, margins, clustering, reference_row.
        device: default CUDA if there is one, else CPU.
        tta: test-time augmentation: average the class probabilities with those of a second view, the image mirrored
            and ``SECOND_VIEW_SCALE`` times as large: distant lines need more pixels than the network was trained at
            (lane F1 +0.03 on 120 scenes). A frame takes 1.7 times as long. Embeddings are those of the first view: the
            two need not choose the same ones.
    """

    def __init__(
        self, model: LaneModel, config: LaneSegmentationConfig, device: str | torch.device | None = None,
        tta: bool = True,
    ) -> None:  # fmt: skip
        check_classes(model, config)
        if getattr(model, "embedding_dim", None) == 0:
            raise ValueError("the model has no embeddings (embedding_dim 0), expected some: they separate the lanes")
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.config = config
        self.classes = config.class_table
        self.tta = tta
        self.most_pixels = max(MOST_PIXELS, 2 * np.prod(config.image_size))  # a larger image is shrunk to so many
        self.postprocessor = LanePostProcessor(
            delta_var=config.delta_var, delta_dist=config.delta_dist, method=config.clustering,
            reference_row=config.reference_row, lane_class_ids=self.classes.lane_ids,
            crosswalk_class_ids=self.classes.crosswalk_ids,
        )  # fmt: skip

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device | None = None) -> "LaneSegmenter":
        """Loads a file written during training; the settings it was trained with travel inside.

        Args:
            path: ``best.safetensors`` or ``last.safetensors`` of a run, or ``results/model.safetensors``.
            device: default CUDA if there is one, else CPU.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a model of this library, damaged, without the settings of its training, or with another
                number of classes than they say.
        """
        model, info = load_with_info(path)
        if not isinstance(info.get("training"), dict):
            raise ValueError(
                f"{path}: holds no settings of its training (image size, margins), expected a file of a run; with "
                "settings of your own: LaneSegmenter(models.load(path), config)"
            )
        try:
            config = LaneSegmentationConfig.from_dict(info["training"])
        except ValueError as error:
            raise ValueError(f"{path}: settings of the training: {error}") from None
        try:
            return cls(model, config, device)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def __call__(self, image: np.ndarray | str | Path) -> LaneResult | Iterator[LaneResult]:
        """Separates the lanes and crosswalks of one image, or of every image in a folder.

        Args:
            image: (H, W, 3) uint8 RGB of any size, the path of an image file, or the path of a folder.

        Returns:
            The dict of ``LanePostProcessor.process`` in the coordinates of the image given; for a folder an
            iterator of such dicts, each with its ``image_path``, sorted by file name; damaged files are warned of.

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: an array of another shape or type, an unreadable file, or a folder without images.
        """
        if isinstance(image, np.ndarray):
            return self._segment(image)
        path = Path(image)
        if path.is_dir():
            return ({**self._segment(image), "image_path": str(file)} for file, image in read_images(list_images(path)))
        return self._segment(read_image(path))

    def _segment(self, image: np.ndarray) -> LaneResult:
        return enlarged(self.postprocessor.process(**self.predict(shrunk(image, self.most_pixels))), image.shape[:2])

    @torch.inference_mode()
    def predict(self, image: np.ndarray) -> dict:
        """The network's outputs of one image, named as ``LanePostProcessor.process`` takes them.

        Four steps, each a method: the image's views, the network on each, merging of what it says, classes read off.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            ``semantic_pred`` (H, W) int64 class ids, ``embeddings`` (D, h, w) float32, ``first_row``, the image row
            where they begin, and ``confidence`` (H, W) float32, the probability of a lane class.

        Raises:
            ValueError: an array of another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8 RGB, got {image.dtype} {image.shape}")
        if image.size == 0:
            raise ValueError(f"image must be at least one pixel, got {image.shape[:2]}")
        size = image.shape[:2]
        first_row = max(0, min(rows_cut(size[0], self.config.crop_top), size[0] - STRIDE))
        views = self.make_views(image[first_row:])
        outputs = self.merge_views([self.run_network(view) for view in views])
        return self.read_classes(outputs, size, first_row)

    def make_views(self, image: np.ndarray) -> list[View]:
        """The image at the area of the training images; with ``tta`` a second one, larger and mirrored."""
        views = [View(self._resized(image))]
        return [*views, View(self._resized(image, SECOND_VIEW_SCALE).flip(3), mirrored=True)] if self.tta else views

    def run_network(self, view: View) -> dict[str, Tensor]:
        """``logits`` (1, C, h, w) and ``embeddings`` (1, D, h, w) in float32, no longer mirrored."""
        outputs = self.model(view.pixels, upsample=False)
        named = {"logits": class_logits(outputs["logits"].float()), "embeddings": outputs["embeddings"].float()}
        return {name: x.flip(3) for name, x in named.items()} if view.mirrored else named

    def merge_views(self, outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Logits of the mean class probabilities, at the size of the last view; embeddings of the first."""
        if len(outputs) == 1:
            return outputs[0]
        size = outputs[-1]["logits"].shape[2:]
        # The logarithm of a mean of probabilities, without the probabilities: small ones would underflow to zero.
        logs = torch.stack([upsample_to(o["logits"], size).log_softmax(dim=1) for o in outputs])  # (V, 1, C, h, w)
        return {"logits": logs.logsumexp(dim=0) - np.log(len(outputs)), "embeddings": outputs[0]["embeddings"]}

    def read_classes(self, outputs: dict[str, Tensor], size: tuple[int, int], first_row: int) -> dict:
        """What ``predict`` returns, for an image of ``size`` (H, W) of which the outputs cover rows from ``first_row``.

        Args:
            outputs: ``logits`` (1, C, h, w) and ``embeddings`` (1, D, h, w).
        """
        height, width = size[0] - first_row, size[1]
        # Interpolated as logits, like in training: a thin line between two cells would lose to both sides otherwise.
        if not outputs["logits"].isfinite().all():
            raise ValueError("the network's logits are not finite: its weights or its input are damaged")
        semantic, confidence = np.full(size, BACKGROUND, dtype=np.int64), np.zeros(size, dtype=np.float32)
        for top, logits in upsampled_strips(outputs["logits"], (height, width)):  # (C, rows, W)
            rows = slice(first_row + top, first_row + top + logits.shape[1])
            semantic[rows] = logits.max(dim=0).indices.cpu().numpy()  # argmax takes seven times as long on a CPU
            confidence[rows] = logits.softmax(dim=0)[list(self.classes.lane_ids)].sum(dim=0).cpu().numpy()
        embeddings = outputs["embeddings"]  # (1, D, h, w), read at lane pixels only
        # A small image is enlarged for the network; a quarter of that may still be larger than the image.
        covered = (min(embeddings.shape[2], height), min(embeddings.shape[3], width))
        if embeddings.shape[2:] != covered:
            embeddings = upsample_to(embeddings, covered)  # downwards, at the centres of the image's pixels
        maps = {"semantic_pred": semantic, "confidence": confidence}
        return maps | {"embeddings": embeddings[0].cpu().numpy(), "first_row": first_row}

    def _resized(self, image: np.ndarray, scale: float = 1.0) -> Tensor:
        """(H, W, 3) → (1, 3, h, w): the area of the training images times scale², the aspect given, multiples of 32."""
        height, width = image.shape[:2]
        area = scale**2 * np.prod(self.config.image_size)
        sides = (min(np.sqrt(area / (height * width)) * side, area / STRIDE) for side in (width, height))
        size = tuple(STRIDE * max(1, round(side / STRIDE)) for side in sides)
        return image_to_tensor(cv2.resize(image, size, interpolation=cv2.INTER_AREA))[None].to(self.device)
