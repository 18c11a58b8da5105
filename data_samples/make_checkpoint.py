"""Writes ``tiny.safetensors``, the checkpoint that the notebooks use: ``python data_samples/make_checkpoint.py MODEL``.

MODEL is what ``make run`` leaves as ``results/model.safetensors``. Weights are stored in half precision, which halves
the file; they are loaded into float32 as always.
"""

import sys
from pathlib import Path

from roadtopo_lib.files import load_weights, save_weights

kind, tensors, config, info = load_weights(sys.argv[1])
halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
save_weights(Path(__file__).parent / "tiny.safetensors", kind, halved, config, **info)
