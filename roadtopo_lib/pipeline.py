"""From a checkpoint and an image to separated lanes."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.images import list_images, read_image
from roadtopo_lib.dataset import image_to_tensor, rows_cut
from roadtopo_lib.files import load_weights
from roadtopo_lib.labels import (
    BACKGROUND,
    LANE_CLASS_IDS,
)
from roadtopo_lib.postprocess import LanePostProcessor
from roadtopo_lib.segformer import SegFormerModel, upsample_to

SECOND_VIEW_SCALE = 1.35
"""Chosen on scenes of development; see ``LaneSegmenter``."""


class LaneSegmenter:
    """A trained model with its post-processing: image in, instances out.

    Args:
        model: in evaluation mode.
        config: image_size, crop_top, margins, clustering, reference_row.
        device: default CUDA if there is one, else CPU.
        tta: test-time augmentation: average the class probabilities with those of a second view, the image mirrored
            and ``SECOND_VIEW_SCALE`` times as large. The errors of two views are not the same, and distant lines want
            more pixels than the network was trained at (120 scenes: lane F1 0.687 with one view or with a mirrored one
            of the same size, 0.718 with the larger one; mIoU 0.646, 0.653, 0.660). A frame takes 1.7 times as long.
            Embeddings cannot be averaged: the two views need not choose the same ones.

    Example:
        >>> segmenter = LaneSegmenter.from_checkpoint("results/model.safetensors")  # doctest: +SKIP
        >>> segmenter("road.jpg")["lane_count"]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: SegFormerModel,
        config: LaneSegmentationConfig,
        device: str | torch.device | None = None,
        tta: bool = True,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.config = config
        self.tta = tta
        self.postprocessor = LanePostProcessor(
            delta_var=config.delta_var,
            delta_dist=config.delta_dist,
            method=config.clustering,
            reference_row=config.reference_row,
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device | None = None) -> "LaneSegmenter":
        """Loads a file written during training; the settings it was trained with travel inside.

        A file that ``SegFormerModel.save`` wrote without them is taken to have been trained with the preset of its
        size; for other settings use ``LaneSegmenter(SegFormerModel.load(path), config)``.

        Args:
            path: ``best.safetensors`` or ``last.safetensors`` of a run, or ``results/model.safetensors``.
            device: default CUDA if there is one, else CPU.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a model of this library, damaged, or with another number of classes than its settings.
        """
        info = load_weights(path).info
        if "training" not in info:
            model = SegFormerModel.load(path)
            return cls(model, _preset_of(model), device)
        try:
            config = LaneSegmentationConfig.from_dict(info["training"])
        except ValueError as error:
            raise ValueError(f"{path}: settings of the training: {error}") from None
        return cls(SegFormerModel.load(path, num_classes=config.num_classes), config, device)

    def __call__(self, image: np.ndarray | str | Path) -> dict | list[dict]:
        """Separates the lanes and crosswalks of one image, or of every image in a folder.

        Args:
            image: (H, W, 3) uint8 RGB of any size, the path of an image file, or the path of a folder.

        Returns:
            The dict of ``LanePostProcessor.process`` in the coordinates of the image given; for a folder a list of
            such dicts, each with its ``image_path``, sorted by file name.

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: an array of another shape or type, an unreadable file, or a folder without images.
        """
        if isinstance(image, np.ndarray):
            return self._segment(image)
        path = Path(image)
        if path.is_dir():
            return [{**self._segment(read_image(file)), "image_path": str(file)} for file in list_images(path)]
        return self._segment(read_image(path))

    def _segment(self, image: np.ndarray) -> dict:
        return self.postprocessor.process(**self.predict(image))

    @torch.inference_mode()
    def predict(self, image: np.ndarray) -> dict:
        """What the network says of one image: all that ``LanePostProcessor.process`` takes, by the names it takes.

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
        height, width = image.shape[:2]
        top = max(0, min(rows_cut(height, self.config.crop_top), height - 32))
        outputs = self.model(self._view(image[top:]), upsample=False)
        # Interpolated as logits, like in training: a thin line between two cells would lose to both sides otherwise.
        logits = outputs["logits"].float()  # (1, C, h, w)
        if self.tta:
            second = self.model(self._view(image[top:], SECOND_VIEW_SCALE).flip(3), upsample=False)["logits"].float()
            second = second.flip(3).softmax(dim=1)
            logits = (upsample_to(logits, second.shape[2:]).softmax(dim=1) / 2 + second / 2).log()
        logits = upsample_to(logits, (height - top, width))  # (1, C, H − top, W)
        semantic = np.full((height, width), BACKGROUND, dtype=np.int64)
        semantic[top:] = logits[0].max(dim=0).indices.cpu().numpy()  # argmax takes seven times as long on a CPU
        confidence = np.zeros((height, width), dtype=np.float32)
        lanes = [i for i in LANE_CLASS_IDS if i < logits.shape[1]]  # a model may know fewer classes than the table
        confidence[top:] = logits[0].softmax(dim=0)[lanes].sum(dim=0).cpu().numpy()
        embeddings = outputs["embeddings"].float()  # (1, D, h, w), read at lane pixels only
        # A small image is enlarged for the network; a quarter of that may still be larger than the image.
        size = (min(embeddings.shape[2], height - top), min(embeddings.shape[3], width))
        if embeddings.shape[2:] != size:
            embeddings = upsample_to(embeddings, size)  # downwards, at the centres of the image's pixels
        embeddings = embeddings[0].cpu().numpy()  # (D, h, w)
        return {"semantic_pred": semantic, "embeddings": embeddings, "first_row": top, "confidence": confidence}

    def _view(self, image: np.ndarray, scale: float = 1.0) -> Tensor:
        """(H, W, 3) → (1, 3, h, w): the area of the training images times scale², the aspect given, multiples of 32."""
        height, width = image.shape[:2]
        scale *= np.sqrt(np.prod(self.config.image_size) / (height * width))
        size = tuple(max(32, 32 * round(scale * side / 32)) for side in (width, height))
        return image_to_tensor(cv2.resize(image, size, interpolation=cv2.INTER_AREA))[None].to(self.device)


def _preset_of(model: SegFormerModel) -> LaneSegmentationConfig:
    """The preset of a model's size, with the model's own architecture."""
    config = LaneSegmentationConfig.preset(model.backbone)
    if model.normalize_embeddings:
        # On the unit sphere the preset's margins have no room, half of them have, with two means in any dimension: for
        # how many they must do is a question of training.
        config = config.replace(delta_var=config.delta_var / 2, delta_dist=config.delta_dist / 2, max_instances=2)
    return config.replace(pretrained=False, **model.config_dict())
