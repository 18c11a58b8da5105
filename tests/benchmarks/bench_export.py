"""What an exported model is worth: speed, size on disk, deviation and scores of PyTorch, ONNX and ONNX in int8.

Run from the repository: ``python tests/benchmarks/bench_export.py [MODEL]``. The scores are of the 24 scenes of
``data_samples`` that trained nothing, one view of each; int8 is calibrated on 32 of the 48 that lie in ``train``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib.app.export import (
    OnnxSegmenter,
    Outputs,
    Recorded,
    calibration_images,
    quantised,
    require_onnx,
    to_onnx,
)
from roadtopo_lib.data.images import read_images
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.pipeline import LaneSegmenter, View

SAMPLES = Path("data_samples")
SIZES = ((96, 256), (192, 512), (384, 640))
SECONDS = 3.0


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, default=SAMPLES / "tiny.safetensors")
    arguments = parser.parse_args()
    try:
        require_onnx("onnx", "onnxscript", "onnxruntime")
    except ValueError as error:
        print(f"left out: {error}")
        return 0
    plain = LaneSegmenter.from_checkpoint(arguments.model, "cpu")
    plain.tta = False
    model, config = plain.model, plain.config
    recorded = Recorded(model, config, "cpu", tta=False)
    for _, image in read_images(calibration_images(SAMPLES)):
        recorded.predict(image)
    content = to_onnx(model)
    small = quantised(content, recorded.seen)
    rows = {
        "PyTorch": (plain, arguments.model.stat().st_size),
        "ONNX": (OnnxSegmenter(content, model, config, tta=False), len(content)),
        "ONNX int8": (OnnxSegmenter(small, model, config, tta=False), len(small)),
    }
    speed = {name: [frames_per_second(row[0], size) for size in SIZES] for name, row in rows.items()}
    titles = " ".join(f"{height}×{width:<5d}" for height, width in SIZES)
    print(f"{torch.get_num_threads()} threads; frames/s of the network at {titles}")
    print(f"{'':10s} {titles}  MB on disk  largest deviation  mIoU   lane F1")
    for name, (segmenter, size) in rows.items():
        deviation = max(difference(model, segmenter, pixels) for pixels in recorded.seen[:8])
        scores = [evaluate(segmenter, LaneInstanceDataset(SAMPLES, split)) for split in ("val", "test")]
        miou, f1 = (np.mean([score[key] for score in scores]) for key in ("miou", "lane_f1"))
        rates = " ".join(f"{rate:8.1f} " for rate in speed[name])
        print(f"{name:10s} {rates} {size / 1e6:10.2f}  {deviation:17.2g}  {miou:.3f}  {f1:.3f}", flush=True)
    return 0


def frames_per_second(segmenter: LaneSegmenter, size: tuple[int, int]) -> float:
    """Of the network alone, one image at a time: the median over ``SECONDS``."""
    view, times = View(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))), []
    with torch.inference_mode():
        segmenter.run_network(view)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            segmenter.run_network(view)
            times.append(time.perf_counter() - start)
    return 1 / float(np.median(times))


def difference(model: torch.nn.Module, segmenter: LaneSegmenter, pixels: np.ndarray) -> float:
    """Largest difference of a logit or an embedding from the model's."""
    images = torch.from_numpy(pixels)
    with torch.inference_mode():
        expected, found = Outputs(model)(images), segmenter.run_network(View(images)).values()
    return max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
