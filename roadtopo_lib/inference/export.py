"""A lane model as an ONNX file, which runtimes without PyTorch load: batch, height and width stay free.

Reference:
    Open Neural Network Exchange, https://onnx.ai; PyTorch's exporter, ``torch.onnx.export`` with ``dynamo=True``.
"""

import json
import logging
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from roadtopo_lib.files import HEADER_KEY
from roadtopo_lib.models import LaneModel, class_logits, upsample_to

SIZES = ((1, 96, 256), (2, 64, 96), (1, 64, 64), (3, 32, 160), (1, 45, 77), (1, 192, 320))
"""Batch, height and width at which an exported model is compared with PyTorch's."""

TOLERANCE = 1e-3
"""Largest difference of an output at any of ``SIZES``: rounding makes about 1e-5."""


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


def to_onnx(model: LaneModel, probabilities: bool = False, **info: object) -> bytes:
    """The content of an ONNX file: input ``images``; outputs ``logits`` or ``probabilities``, and ``embeddings``.

    Args:
        model: in evaluation mode, on the CPU.
        probabilities: see ``Outputs``.
        info: JSON-serialisable values that the file's metadata hold, such as the settings of the training.

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
    program.model.metadata_props[HEADER_KEY] = json.dumps(info)
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
