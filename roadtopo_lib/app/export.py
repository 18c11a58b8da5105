"""``road-topology export``: a model leaves as an ONNX file, compared with PyTorch before it is written, or as a folder.

Reference:
    Open Neural Network Exchange, https://onnx.ai; PyTorch's exporter, ``torch.onnx.export`` with ``dynamo=True``;
    B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018 (int8 weights and activations, whose ranges come from calibration images).
"""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.data.images import list_images, read_images
from roadtopo_lib.files import HEADER_KEY, check_writable, write_atomic
from roadtopo_lib.hub import weights_of
from roadtopo_lib.models import LaneModel, class_logits, load_with_info, upsample_to
from roadtopo_lib.pipeline import LaneSegmenter, View

SIZES = ((1, 96, 256), (2, 64, 96), (1, 64, 64), (3, 32, 160), (1, 45, 77), (1, 192, 320))
"""Batch, height and width at which an exported model is compared with PyTorch's."""

TOLERANCE = 1e-3
"""Largest difference of an output at any of ``SIZES``: rounding makes about 1e-5."""

CALIBRATION_IMAGES = 32
"""At most: the ranges of the activations hardly change with more."""

QUANTISED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
"""Operators whose weights and inputs become integers; they hold nearly all weights and work."""


class Outputs(nn.Module):
    """A model whose outputs are a tuple, as an exporter wants them: (B, 3, H, W) → two tensors.

    Args:
        model: in evaluation mode.
        probabilities: (B, C, H, W) class probabilities come first, else the logits (B, C, h, w) at the heads' size.
            Behind them come the embeddings (B, D, h, w).
    """

    def __init__(self, model: LaneModel, probabilities: bool = False) -> None:
        super().__init__()
        self.model, self.probabilities = model, probabilities

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) float in [0, 1], RGB, not normalised."""
        outputs = self.model(images, upsample=False)
        classes = class_logits(outputs["logits"])
        if self.probabilities:
            classes = upsample_to(classes, images.shape[2:]).softmax(dim=1)
        return classes, outputs["embeddings"]


def to_onnx(model: LaneModel, probabilities: bool = False, info: dict | None = None) -> bytes:
    """The content of an ONNX file: input ``images``; outputs ``logits`` or ``probabilities``, and ``embeddings``.

    Args:
        model: in evaluation mode, on the CPU.
        probabilities: see ``Outputs``.
        info: JSON-serialisable values for the file's metadata, such as ``training``, its settings.

    Raises:
        ValueError: onnx or onnxscript is missing.
    """
    require_onnx("onnx", "onnxscript")
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here needs
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.onnx.export(
            Outputs(model, probabilities).eval(), (torch.rand(2, 3, 96, 160),), dynamo=True, verbose=False,
            input_names=["images"], output_names=["probabilities" if probabilities else "logits", "embeddings"],
            dynamic_shapes={"images": free},
        )  # fmt: skip
    program.model.metadata_props[HEADER_KEY] = json.dumps(info or {})
    return program.model_proto.SerializeToString()


def largest_deviation(content: bytes, model: LaneModel, probabilities: bool = False) -> float:
    """Largest absolute difference of any output between an ONNX file and its model, at all ``SIZES``."""
    require_onnx("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random, largest = np.random.default_rng(0), 0.0
    for batch, height, width in SIZES:
        images = random.random((batch, 3, height, width), dtype=np.float32)
        with torch.inference_mode():
            expected = Outputs(model, probabilities)(torch.from_numpy(images))
        for ours, theirs in zip(session.run(None, {"images": images}), expected, strict=True):
            largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
    return largest


def require_onnx(*packages: str) -> None:
    """ValueError that says how to install what is missing."""
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise ValueError(f"{package} is not installed: pip install 'roadtopo-lib[export]'") from None


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
        probabilities: see ``Outputs``.
        calibration: images for an int8 model: a folder, a split or a data set (its training images).

    Raises:
        ValueError: a missing package, another ending, a model without embeddings or without the settings of its
            training, or an exported model that answers otherwise; nothing is written then.
    """
    require_onnx("onnx", "onnxscript", "onnxruntime")
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"{output}: expected a name ending in .onnx")
    network, info = load_with_info(model)
    if getattr(network, "embedding_dim", None) == 0:
        raise ValueError(f"{model}: has no embeddings (embedding_dim 0), expected some: they are an output of the file")
    check_writable(output)
    files = [] if calibration is None else calibration_images(calibration)
    if files and not isinstance(info.get("training"), dict):
        raise ValueError(f"{model}: holds no settings of its training, expected them: they say how an image is fed")
    content = to_onnx(network, probabilities, info)
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
    """Writes a folder with weights, config and model card.

    Raises:
        ValueError: a folder that holds files of these names, but of something else.
    """
    network, info = load_with_info(model)
    taken = [name for name in ("model.safetensors", "config.json", "README.md") if (output / name).exists()]
    if taken:
        try:
            weights_of(output, network.kind)
        except (FileNotFoundError, ValueError):
            raise ValueError(
                f"{output}: {', '.join(taken)} would be written over, which no such model wrote; choose another folder"
            ) from None
    network.save_pretrained(output, **info)
    say(f"{output}: model.safetensors, config.json, README.md")
