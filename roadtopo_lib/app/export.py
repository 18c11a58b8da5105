"""``road-topology export``: a model leaves as an ONNX file, compared with PyTorch before it is written, or as a folder.

Reference:
    B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018 (int8 weights and activations, whose ranges come from calibration images).
"""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.data.images import list_images, read_images
from roadtopo_lib.files import HEADER_KEY, check_writable, write_atomic
from roadtopo_lib.inference.export import SIZES, TOLERANCE, largest_deviation, require_onnx, to_onnx
from roadtopo_lib.models import LaneModel, load_with_info
from roadtopo_lib.pipeline import LaneSegmenter, View

CALIBRATION_IMAGES = 32
"""At most: the ranges of the activations hardly change with more."""

QUANTISED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
"""Operators whose weights and inputs become integers; they hold nearly all weights and work."""


class OnnxSegmenter(LaneSegmenter):
    """A ``LaneSegmenter`` whose network is the content of an ONNX file.

    Args:
        content: what ``to_onnx`` or ``quantised`` gave.
        model: the model that it was made of.
        config, tta: as for ``LaneSegmenter``.
    """

    def __init__(self, content: bytes, model: LaneModel, config: LaneSegmentationConfig, tta: bool = True) -> None:
        import onnxruntime

        super().__init__(model, config, "cpu", tta)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.is_logits = self.session.get_outputs()[0].name == "logits"

    def run_network(self, view: View) -> dict[str, Tensor]:
        """See ``LaneSegmenter.run_network``."""
        classes, embeddings = map(torch.from_numpy, self.session.run(None, {"images": view.pixels.numpy()}))
        logits = classes if self.is_logits else classes.clamp(min=1e-12).log()
        named = {"logits": logits, "embeddings": embeddings}
        return {name: x.flip(3) for name, x in named.items()} if view.mirrored else named


class Recorded(LaneSegmenter):
    """A ``LaneSegmenter`` that keeps what its network has seen: ``seen``, arrays (1, 3, h, w)."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[np.ndarray] = []

    def run_network(self, view: View) -> dict[str, Tensor]:
        """See ``LaneSegmenter.run_network``."""
        self.seen.append(view.pixels.numpy())
        return super().run_network(view)


def export_onnx(model: Path, output: Path, probabilities: bool = False, calibration: Path | None = None) -> None:
    """Writes an ONNX file, and says how far its outputs are from PyTorch's.

    Args:
        model: a ``.safetensors`` file of a run.
        output: an ``.onnx`` file.
        probabilities: see ``inference.export.Outputs``.
        calibration: images for an int8 model: a folder, a split or a data set (its training images).

    Raises:
        ValueError: a missing package, another ending, a model without the settings of its training, or an exported
            model that answers otherwise; nothing is written then.
    """
    require_onnx("onnx", "onnxscript", "onnxruntime")
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"{output}: expected a name ending in .onnx")
    network, info = load_with_info(model)
    check_writable(output)
    files = [] if calibration is None else calibration_images(calibration)
    if files and not isinstance(info.get("training"), dict):
        raise ValueError(f"{model}: holds no settings of its training, expected them: they say how an image is fed")
    content = to_onnx(network, probabilities, kind=network.kind, **info)
    deviation = largest_deviation(content, network, probabilities)
    if not deviation <= TOLERANCE:
        raise ValueError(f"{model}: the exported model differs by {deviation:.2g}, expected at most {TOLERANCE:g}")
    told = f"largest difference from PyTorch {deviation:.1e} at {len(SIZES)} sizes"
    if files:
        config = LaneSegmentationConfig.from_dict(info["training"])
        reference = Recorded(network, config, "cpu", tta=False)
        images = [image for _, image in read_images(files)]
        classes = [reference.predict(image)["semantic_pred"] for image in images]
        content = quantised(content, reference.seen)
        small = OnnxSegmenter(content, network, config, tta=False)
        same = [small.predict(image)["semantic_pred"] == mask for image, mask in zip(images, classes, strict=True)]
        share = np.mean([part.mean() for part in same])
        told = f"int8, {share:.2%} of the pixels of {len(images)} images keep their class"
    write_atomic(output, content)
    say(f"{output}  {len(content) / 1e6:.1f} MB; {told}")


def calibration_images(folder: Path) -> list[Path]:
    """At most ``CALIBRATION_IMAGES`` image files of a folder, evenly spread; of a data set those of training."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected images for the calibration")
    places = (folder / "train" / "images", folder / "images", folder)
    files = list_images(next(place for place in places if place.is_dir()))
    chosen = np.linspace(0, len(files) - 1, min(len(files), CALIBRATION_IMAGES)).round().astype(int)
    return [files[index] for index in chosen]


def quantised(content: bytes, images: Sequence[np.ndarray]) -> bytes:
    """An ONNX model in int8: weights by channel, activations by the ranges that the images show.

    Weights get 7 of the 8 bits: the sums of others overflow on processors without instructions for them (VNNI).

    Args:
        content: what ``to_onnx`` gave.
        images: arrays (1, 3, h, w), as the network sees them.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    silence = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, silence:
        plain, folded, small = (f"{folder}/{name}.onnx" for name in ("plain", "folded", "small"))
        Path(plain).write_bytes(content)
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(plain, folded, skip_symbolic_shape=True)  # computes what is constant
            quantize_static(
                folded, small, Images(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=QUANTISED,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        made = onnx.load(small)
    onnx.helper.set_model_props(made, properties)
    return made.SerializeToString()


def export_folder(model: Path, output: Path) -> None:
    """Writes a folder with weights, config and model card."""
    network, info = load_with_info(model)
    network.save_pretrained(output, **info)
    say(f"{output}: model.safetensors, config.json, README.md")


def training_of(content: bytes) -> dict | None:
    """The settings of the training that an ONNX file holds."""
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    return json.loads(properties[HEADER_KEY]).get("training")
