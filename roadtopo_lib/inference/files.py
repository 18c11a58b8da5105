"""Lanes found in image files, folders and videos, written to files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from roadtopo_lib.data.images import IMAGE_SUFFIXES, list_images, read_image, write_image
from roadtopo_lib.files import write_json
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import all_instances
from roadtopo_lib.viz import overlay

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")

UNWRITTEN_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".webp", *VIDEO_SUFFIXES)
"""Who names an output so wants a file of a kind that is not written here, and no folder of that name."""


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
        OSError: the output folder cannot be written to.
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
        picture = overlay(image, result) if visualize else all_instances(result).astype(np.uint16)
        write_image(output, picture)
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
        write_image(main, all_instances(result).astype(np.uint16))
        write_json(output / f"{name}.json", summary(result))
        if visualize:
            main = output / f"{name}_overlay.png"
            write_image(main, overlay(image, result))
        yield main, result["lane_count"]


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


def summary(result: dict) -> dict:
    """The part of a result that is not pixels, as plain values for JSON; coordinates are (x, y) in pixels."""
    return {
        "lane_count": result["lane_count"],
        "lane_centers": np.asarray(result["lane_centers"], dtype=float).round(2).tolist(),
        "lane_polylines": [np.asarray(line, dtype=float).round(2).tolist() for line in result["lane_polylines"]],
        "crosswalk_count": int(result["crosswalk_instances"].max(initial=0)),
    }


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
