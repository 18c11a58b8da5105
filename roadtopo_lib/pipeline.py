"""From a checkpoint and an image to separated lanes, and the scores of that over a data set."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from roadtopo_lib.baselines import classical_lanes, connected_components
from roadtopo_lib.checkpoint import load_weights, write_atomic, write_text_atomic
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import IMAGE_SUFFIXES, LaneInstanceDataset, image_to_tensor, read_image, rows_cut
from roadtopo_lib.labels import (
    BACKGROUND,
    CLASS_NAMES,
    CROSSWALK_CLASS_IDS,
    IGNORE_INDEX,
    LANE_CLASS_IDS,
    NO_INSTANCE,
)
from roadtopo_lib.metrics import BoundaryIoU, ConfusionMatrix, InstanceF1, LaneF1, polylines_from_instances
from roadtopo_lib.postprocess import LanePostProcessor
from roadtopo_lib.segformer import SegFormerModel, upsample_to
from roadtopo_lib.viz import overlay

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
UNWRITTEN_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".webp", *VIDEO_SUFFIXES)
"""Who names an output so wants a file of a kind that is not written here, and no folder of that name."""
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
        _, _, info = load_weights(path)
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


def list_images(folder: str | Path) -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: no image found, expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return files


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """Frames of a video file, each (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video that OpenCV can decode.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    capture = cv2.VideoCapture(str(path))
    try:
        found, frame = capture.read()
        if not found:
            raise ValueError(f"{path}: not a video that can be decoded")
        while found:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            found, frame = capture.read()
    finally:
        capture.release()


def infer_to_files(
    segmenter: LaneSegmenter, source: str | Path, output: str | Path, visualize: bool = False
) -> Iterator[tuple[Path, int]]:
    """Separates lanes in an image, a folder or a video, and writes what was found.

    For each image NAME or frame: ``NAME_instances.png`` (16-bit ids: lanes 1..N left to right, then crosswalks),
    ``NAME.json`` (counts, centres, polylines in pixels) and with ``visualize`` ``NAME_overlay.png``. No image that is
    read is ever written over.

    Args:
        segmenter: the model.
        source: an image, a folder of images, or a video (``NAME`` is then ``frame_000000`` and so on).
        output: a folder; for one image it may be a picture file, which then holds the overlay (with ``visualize``) or
            the instance ids (without), with the JSON beside it.
        visualize: write overlays.

    Yields:
        (main file written, number of lanes) for each image.

    Raises:
        FileNotFoundError, ValueError: nothing to read, or not readable.
        ValueError: an output of a kind that is not written, or one that is an input file; nothing is written then.
        PermissionError: the output folder cannot be written to.
    """
    source, output = Path(source), Path(output)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if output.suffix.lower() in IMAGE_SUFFIXES:
        if source.is_dir() or source.suffix.lower() in VIDEO_SUFFIXES:
            raise ValueError(f"{output}: {source} holds many images, so the output must be a folder")
        if not visualize and output.suffix.lower() != ".png":
            raise ValueError(f"{output}: instance ids would not survive JPEG, expected a name ending in .png")
        _spare_inputs([source], [output, output.with_suffix(".json")])
        image = read_image(source)
        result = segmenter(image)
        picture = _rgb_png(overlay(image, result)) if visualize else all_instances(result).astype(np.uint16)
        write_atomic(output, lambda path: _write_image(path, picture))
        write_json(output.with_suffix(".json"), summary(result))
        yield output, result["lane_count"]
        return
    if output.suffix.lower() in UNWRITTEN_SUFFIXES and not output.is_dir():
        expected = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{output}: expected a folder, or for one image a name ending in {expected}")
    endings = ["_instances.png", ".json", "_overlay.png"][: 3 if visualize else 2]
    files = _named_files(source)
    _spare_inputs([file for _, file in files], [output / (name + ending) for name, _ in files for ending in endings])
    for name, image in _named_images(source):
        result = segmenter(image)
        main = output / f"{name}_instances.png"
        ids = all_instances(result).astype(np.uint16)
        write_atomic(main, lambda path, ids=ids: _write_image(path, ids))
        write_json(output / f"{name}.json", summary(result))
        if visualize:
            main = output / f"{name}_overlay.png"
            picture = _rgb_png(overlay(image, result))
            write_atomic(main, lambda path, picture=picture: _write_image(path, picture))
        yield main, result["lane_count"]


def summary(result: dict) -> dict:
    """The part of a result that is not pixels, as plain values for JSON; coordinates are (x, y) in pixels."""
    return {
        "lane_count": result["lane_count"],
        "lane_centers": np.asarray(result["lane_centers"], dtype=float).round(2).tolist(),
        "lane_polylines": [np.asarray(line, dtype=float).round(2).tolist() for line in result["lane_polylines"]],
        "crosswalk_count": int(result["crosswalk_instances"].max(initial=0)),
    }


def write_json(path: str | Path, values: dict) -> None:
    """Writes JSON that appears complete or not at all."""
    write_text_atomic(path, json.dumps(values, indent=2) + "\n")


def locate_split(data: str | Path, split: str | None = None) -> tuple[Path, str]:
    """Understands both ``DATA`` and ``DATA/val``.

    Args:
        data: a data folder, or one of its splits.
        split: which split of a data folder; default ``test``.

    Returns:
        (data folder, split).

    Raises:
        FileNotFoundError: no such folder.
        ValueError: ``data`` is a split already, and another one is asked for.
    """
    data = Path(data)
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such data folder")
    if not (data / "images").is_dir():
        return data, split or "test"
    if split is not None and split != data.resolve().name:
        raise ValueError(f"{data} is a split itself, but split {split!r} is asked for")
    return data.resolve().parent, data.resolve().name


Method = Callable[[np.ndarray, dict], dict]
"""A way to separate lanes: (image, the model's result on it) → a dict like ``LanePostProcessor.process``'s."""

BASELINES: dict[str, Method] = {
    "components": lambda image, result: connected_components(result["semantic_mask"]),
    "opencv": lambda image, result: classical_lanes(image),
}
"""Without embeddings: connected components of the model's own semantic mask; without learning: classical OpenCV. Each
lane of a baseline has the curve of its own pixels: fitting all together needs lanes that are whole."""


def evaluate(
    segmenter: LaneSegmenter, dataset: LaneInstanceDataset, baselines: bool = False, progress: bool = False
) -> dict:
    """Scores a model on the files of a split, at their own resolution.

    Lane F1 compares curves; the true curve of a lane is the centre line of its pixels in the instance mask.

    Args:
        segmenter: the model.
        dataset: without transform.
        baselines: score ``BASELINES`` on the same images too.
        progress: show a progress bar (on a terminal only).

    Returns:
        ``images``, ``miou``, ``pixel_accuracy`` (both ``None`` where no pixel is labelled), ``class_iou`` (by class
        name; ``None`` where a class occurs neither in masks nor in predictions), ``boundary_iou`` and its
        ``boundary_band_px``, ``lane_f1`` with ``lane_precision`` and ``lane_recall``, ``instance_f1``; with baselines,
        their lane and instance scores under ``baselines``.
    """
    confusion = ConfusionMatrix(segmenter.model.num_classes, IGNORE_INDEX)
    boundary = BoundaryIoU(segmenter.model.num_classes, IGNORE_INDEX)
    methods: dict[str, Method] = {"model": lambda image, result: result, **(BASELINES if baselines else {})}
    scores = {name: (LaneF1(), InstanceF1()) for name in methods}
    for index in tqdm(
        range(len(dataset)), desc="evaluate", unit="image", leave=False, disable=None if progress else True
    ):
        image, semantic, instance = dataset.read(index)
        result = segmenter(image)
        confusion.update(result["semantic_mask"], semantic)
        boundary.update(result["semantic_mask"], semantic)
        true_lanes = polylines_from_instances(instance, lane_ids(semantic, instance))
        for name, method in methods.items():
            output = method(image, result)
            lane_f1, instance_f1 = scores[name]
            lane_f1.update(output["lane_polylines"], true_lanes, image.shape[:2])
            instance_f1.update(all_instances(output), instance)
    report = {
        "images": len(dataset),
        "miou": _number(confusion.miou()),
        "pixel_accuracy": _number(confusion.pixel_accuracy()),
        "class_iou": _by_class(confusion.class_iou()),
        "boundary_iou": _by_class(boundary.class_iou()),
        "boundary_band_px": boundary.band,
        **_lane_scores(*scores["model"]),
    }
    if baselines:
        report["baselines"] = {name: _lane_scores(*scores[name]) for name in BASELINES}
    return report


def lane_ids(semantic: np.ndarray, instance: np.ndarray) -> list[int]:
    """Ids of the instances that are lanes: those with fewer crosswalk than lane pixels.

    Args:
        semantic: (H, W) class ids.
        instance: (H, W) instance ids.
    """
    size = int(instance.max(initial=0)) + 1
    lane = np.bincount(instance[np.isin(semantic, LANE_CLASS_IDS)], minlength=size)
    crosswalk = np.bincount(instance[np.isin(semantic, CROSSWALK_CLASS_IDS)], minlength=size)
    return [int(i) for i in np.flatnonzero(lane > crosswalk) if i != NO_INSTANCE]


def all_instances(result: dict) -> np.ndarray:
    """Lanes 1..N and crosswalks N+1.. in one (H, W) int32 mask, as instance masks on disk have them."""
    lanes, crosswalks = result["lane_instances"], result["crosswalk_instances"]
    return np.where(lanes > 0, lanes, np.where(crosswalks > 0, crosswalks + result["lane_count"], 0)).astype(np.int32)


def _named_files(source: Path) -> list[tuple[str, Path]]:
    files = list_images(source) if source.is_dir() else [source]
    twice = len({file.stem for file in files}) < len(files)
    return [(file.name.replace(".", "_") if twice else file.stem, file) for file in files]


def _named_images(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        for number, frame in enumerate(read_video(source)):
            yield f"frame_{number:06d}", frame
        return
    for name, file in _named_files(source):
        yield name, read_image(file)


def _spare_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Refuses to write over what is read, by whatever path it is named."""
    read = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in read:
            raise ValueError(f"{path}: would be written over an input image; choose another output")


def _rgb_png(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # OpenCV writes blue first


def _write_image(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path}: the picture could not be written")


def _lane_scores(lane_f1: LaneF1, instance_f1: InstanceF1) -> dict:
    return {
        "lane_f1": lane_f1.f1(),
        "lane_precision": lane_f1.precision(),
        "lane_recall": lane_f1.recall(),
        "instance_f1": instance_f1.f1(),
    }


def _by_class(values: np.ndarray) -> dict[str, float | None]:
    names = CLASS_NAMES if len(values) == len(CLASS_NAMES) else [f"class {i}" for i in range(len(values))]
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)
