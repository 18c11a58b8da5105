"""Lanes of an image from an exported model, without PyTorch: ``python examples/onnx_lanes.py MODEL.onnx IMAGE``.

Needs numpy, OpenCV, onnxruntime and this library's post-processing. It prints what ``road-topology infer lane`` writes
for one view of the image (``LaneSegmenter(..., tta=False)``), as JSON; ``--overlay FILE`` also paints the lanes.
All lanes are kept: what ``road-topology calibrate`` fitted does not count here.
"""

import argparse
import json

import cv2
import numpy as np
import onnxruntime

from roadtopo_lib.config import STRIDE, LaneSegmentationConfig
from roadtopo_lib.data.images import read_image, write_image
from roadtopo_lib.postprocess import LanePostProcessor
from roadtopo_lib.strips import MOST_PIXELS, enlarged, shrunk
from roadtopo_lib.viz import overlay


def segment(session: onnxruntime.InferenceSession, image: np.ndarray) -> dict:
    """The lanes and crosswalks of an image (H, W, 3) uint8 RGB, as ``LanePostProcessor.process`` returns them."""
    info = json.loads(session.get_modelmeta().custom_metadata_map["roadtopo_lib"])
    config = LaneSegmentationConfig.from_dict(info["training"])
    area = int(np.prod(config.image_size))
    small = shrunk(image, max(MOST_PIXELS, 2 * area))  # lanes of a huge image are found in a smaller one
    first_row = max(0, min(round(config.crop_top * len(small)), len(small) - STRIDE))
    road = small[first_row:]  # the rows above hold none
    height, width = road.shape[:2]

    # The network sees the area of its training images, in the image's own aspect, with sides that 32 divides.
    sides = (min(np.sqrt(area / (height * width)) * side, area / STRIDE) for side in (width, height))
    size = [STRIDE * max(1, round(side / STRIDE)) for side in sides]
    pixels = cv2.resize(road, size, interpolation=cv2.INTER_AREA).transpose(2, 0, 1)[None]  # (1, 3, h, w)
    classes, embeddings = session.run(None, {"images": np.ascontiguousarray(pixels, dtype=np.float32) / 255})

    # Enlarged as logits, as in training: a thin line between two cells would lose to both sides otherwise.
    if session.get_outputs()[0].name == "probabilities":
        classes = np.log(np.maximum(classes, 1e-12))  # logits, but for a number that all classes share
    maps = cv2.resize(classes[0].transpose(1, 2, 0), (width, height), interpolation=cv2.INTER_LINEAR)  # (H, W, C)
    maps = np.exp(maps - maps.max(axis=2, keepdims=True))
    maps /= maps.sum(axis=2, keepdims=True)
    embeddings = embeddings[0]  # (D, h, w); of a small image they may be larger than the image
    covered = (min(embeddings.shape[1], height), min(embeddings.shape[2], width))
    if embeddings.shape[1:] != covered:
        embeddings = cv2.resize(embeddings.transpose(1, 2, 0), covered[::-1]).transpose(2, 0, 1)
    above = ((first_row, 0), (0, 0))
    table = config.class_table
    post = LanePostProcessor(
        config.delta_var, config.delta_dist, config.clustering, reference_row=config.reference_row,
        lane_class_ids=table.lane_ids, crosswalk_class_ids=table.crosswalk_ids,
    )  # fmt: skip
    confidence = maps[:, :, list(table.lane_ids)].sum(axis=2)
    result = post.process(np.pad(maps.argmax(axis=2), above), embeddings, first_row, np.pad(confidence, above))
    return enlarged(result, image.shape[:2])


def main() -> None:
    """Reads the arguments, prints the lanes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="what `road-topology export onnx` wrote")
    parser.add_argument("image")
    parser.add_argument("--overlay", help="a picture to write")
    arguments = parser.parse_args()
    image = read_image(arguments.image)
    result = segment(onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"]), image)
    print(json.dumps({
        "lane_count": result["lane_count"],
        "lane_centers": result["lane_centers"].round(2).tolist(),
        "lane_polylines": [line.round(2).tolist() for line in result["lane_polylines"]],
        "crosswalk_count": result["crosswalk_count"],
    }))  # fmt: skip
    if arguments.overlay:
        write_image(arguments.overlay, overlay(image, result))


if __name__ == "__main__":
    main()
