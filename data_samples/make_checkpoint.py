"""Writes ``tiny.safetensors``, the model that the notebooks use: ``python data_samples/make_checkpoint.py RESULTS``.

RESULTS is the folder that ``make run`` leaves. Weights are stored in half precision, which halves the file; they are
loaded into float32 as always. The file's ``card`` says what the model was trained on and what it scored.
"""

import json
import sys
from pathlib import Path

from roadtopo_lib.files import load_weights, save_weights

results = Path(sys.argv[1])
kind, tensors, config, info = load_weights(results / "model.safetensors")
halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
meta = json.loads((results / "data" / "meta.json").read_text(encoding="utf-8"))
scores = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
card = {
    "command": "make run",
    "data": {key: meta[key] for key in ("seed", "preset", "size", "labels", "counts")},
    "scores": {f"{name}, {key}": round(values[key], 4)
               for name, values in (("day", scores), ("all", scores["all"]))
               for key in ("images", "miou", "lane_f1", "instance_f1")},
}  # fmt: skip
save_weights(Path(__file__).parent / "tiny.safetensors", kind, halved, config, **info, card=card)
