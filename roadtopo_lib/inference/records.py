"""What a model finds in an image, as plain values: the format JSON, of which ``data.convert.export`` makes the rest."""

import time
from collections.abc import Sequence

import cv2
import numpy as np

from roadtopo_lib.data.convert.export import VERSION
from roadtopo_lib.labels import BACKGROUND, LINE_WIDTH, ClassTable
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import LaneResult
from roadtopo_lib.strips import enlarged, shrunk

OUTLINE_TOLERANCE = 1.0  # pixels by which an outline may differ from what was found, to have fewer points


def find(segmenter: LaneSegmenter, image: np.ndarray, name: str, frame: int | None) -> tuple[dict, LaneResult, float]:
    """What the model finds in an image, as plain values.

    Args:
        segmenter: the model.
        image: (H, W, 3) uint8 RGB.
        name: of the image or video, as the record has it.
        frame: place in the video.

    Returns:
        The record: lanes with ``class``, ``id`` (1..N, left to right), ``confidence`` (calibrated, else the mean
        probability over the pixels) and ``points``, top to bottom; crosswalks with ``class``, ``id`` (N+1…), calibrated
        ``confidence`` and ``polygons``, an outline for each visible part; classes without instances as areas with
        ``class`` and ``polygons``, which run on under the lines. The result it is made of. The milliseconds it took.
    """
    began = time.perf_counter()
    outputs = segmenter.predict(shrunk(image, segmenter.most_pixels))
    small = segmenter.postprocessor.process(**outputs)
    result = enlarged(small, image.shape[:2])
    run_time = 1000 * (time.perf_counter() - began)
    return describe(outputs, small, result, segmenter.classes, name, frame), result, run_time


def describe(outputs: dict, small: dict, result: dict, table: ClassTable, name: str, frame: int | None) -> dict:
    """The record of ``find``, of a network's outputs, of their result, and of that at the image's size."""
    semantic, lanes, crosswalks = result["semantic_mask"], [], []
    means = (outputs["confidence"][small["lane_instances"] == k].mean() for k in range(1, small["lane_count"] + 1))
    sure = zip(result["lane_polylines"], result.get("lane_confidence", means), strict=True)
    for number, (points, confidence) in enumerate(sure, start=1):
        pixels = result["lane_instances"] == number
        about = {"class": _class_name(semantic[pixels], table.lane_ids, table), "id": number}
        lanes.append({**about, "confidence": round(float(confidence), 4), "points": points.round(2).tolist()})
    for number in range(1, result["crosswalk_count"] + 1):
        pixels = result["crosswalk_instances"] == number
        about = {"class": _class_name(semantic[pixels], table.crosswalk_ids, table), "id": len(lanes) + number}
        if "crosswalk_confidence" in result:
            about["confidence"] = round(float(result["crosswalk_confidence"][number - 1]), 4)
        crosswalks.append({**about, "polygons": outlines(pixels)})
    height, width = semantic.shape
    across = np.ones((round(LINE_WIDTH * width) + 2,) * 2, np.uint8)  # closes the gap that a line leaves in an area
    areas = []
    for row in table:
        if row.instances is None and row.id != BACKGROUND and (semantic == row.id).any():
            closed = cv2.morphologyEx((semantic == row.id).astype(np.uint8), cv2.MORPH_CLOSE, across)
            areas.append({"class": row.name, "polygons": outlines(closed)})
    about = {"version": VERSION, "image": name, "frame": frame, "width": width, "height": height}
    return {**about, "lanes": lanes, "crosswalks": crosswalks, "areas": areas}


def _class_name(ids: np.ndarray, candidates: Sequence[int], classes: ClassTable) -> str:
    """The candidate that most of an instance's pixels have."""
    return classes[candidates[int(np.bincount(ids, minlength=len(classes))[list(candidates)].argmax())]].name


def outlines(pixels: np.ndarray) -> list[list[list[int]]]:
    """Points (x, y) of the outline of each connected part of (H, W) bool pixels; holes are filled."""
    contours, _ = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [cv2.approxPolyDP(contour, OUTLINE_TOLERANCE, True)[:, 0].tolist() for contour in contours]
    return [outline for outline in outlines if len(outline) >= 3]
