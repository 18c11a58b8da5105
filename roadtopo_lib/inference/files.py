"""Lanes found in image files, folders and videos, written to files."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from roadtopo_lib.data.images import IMAGE_SUFFIXES, is_picture, list_images, read_image, write_image
from roadtopo_lib.files import clear_unfinished, write_json
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import all_instances
from roadtopo_lib.viz import overlay

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
"""Always videos; a file of another ending is one if it is no picture and the reader can open it."""

MAX_GAP = 1000
"""Undecodable frames in a row after which a video has ended: how many it announces may be wrong or not known."""

UNWRITTEN_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".webp", *VIDEO_SUFFIXES)
"""Who names an output so wants a file of a kind that is not written here, and no folder of that name."""


def infer_to_files(
    segmenter: LaneSegmenter,
    source: str | Path,
    output: str | Path,
    visualize: bool = False,
    on_fault: Callable[[str], object] = warnings.warn,
    newer_than: float | None = None,
) -> Iterator[tuple[Path, int]]:
    """Separates lanes in an image, a folder or a video, and writes what was found.

    For each image NAME or frame: ``NAME_instances.png`` (16-bit ids: lanes 1..N left to right, then crosswalks),
    ``NAME.json`` (counts, centres, polylines in pixels) and with ``visualize`` ``NAME_overlay.png``. No image that is
    read is ever written over.

    Args:
        segmenter: the model.
        source: an image, a folder of images, or a video (``NAME`` is then ``CLIP_frame_000000`` and so on).
        output: a folder; for one image it may be a picture file, which then holds the overlay (with ``visualize``) or
            the instance ids (without), with the JSON beside it.
        visualize: write overlays.
        on_fault: told in a line of each image of a folder that cannot be read, and of frames that are missing; the job
            goes on.
        newer_than: images of a folder and frames of a video are left out whose results are complete, and newer than
            this time (seconds, as ``st_mtime`` of the model's file) and than the image; default: all are made.

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
        if source.is_dir() or is_video(source):
            raise ValueError(f"{output}: {source} holds many images, so the output must be a folder")
        if not visualize and output.suffix.lower() != ".png":
            raise ValueError(f"{output}: instance ids would not survive JPEG, expected a name ending in .png")
        _spare_inputs([source], [output, output.with_suffix(".json")])
        image = read_image(source)
        result = segmenter(image)
        picture = overlay(image, result) if visualize else all_instances(result).astype(np.uint16)
        write_image(output, picture, is_result=True)
        write_json(output.with_suffix(".json"), summary(result))
        yield output, result["lane_count"]
        return
    if output.suffix.lower() in UNWRITTEN_SUFFIXES and not output.is_dir():
        expected = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{output}: expected a folder, or for one image a name ending in {expected}")
    endings = ["_instances.png", ".json", "_overlay.png"][: 3 if visualize else 2]
    clip = is_video(source)
    files = _named_files(source)
    _spare_inputs([file for _, file in files], [output / (name + ending) for name, _ in files for ending in endings])
    clear_unfinished(output, older_than=3600)
    sources = dict(files)
    for name, image in _named_frames(source, on_fault) if clip else _named_images(files, source, on_fault):
        if newer_than is not None and _is_made(output / (name + endings[-1]), newer_than, sources.get(name, source)):
            continue
        result = segmenter(image)
        main = output / f"{name}_instances.png"
        write_image(main, all_instances(result).astype(np.uint16), is_result=True)
        write_json(output / f"{name}.json", summary(result), durable=False)
        if visualize:
            main = output / f"{name}_overlay.png"
            write_image(main, overlay(image, result), is_result=True)
        yield main, result["lane_count"]


def is_video(path: str | Path) -> bool:
    """Whether a file is to be read as a video: by its ending or, if that tells nothing, by what is in it."""
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or is_picture(path):
        return path.is_file() and suffix in VIDEO_SUFFIXES
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return capture.isOpened()
    finally:
        capture.release()


def read_video(path: str | Path, on_fault: Callable[[str], object] = warnings.warn) -> Iterator[np.ndarray]:
    """Frames of a video file, each (H, W, 3) uint8 RGB; those behind a damaged one, too.

    Args:
        path: of any container and codec that OpenCV can decode.
        on_fault: told at the end, in a line, how many frames are missing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video that OpenCV can decode.
    """
    for _, frame in _numbered_frames(Path(path), on_fault):
        yield frame


def _numbered_frames(path: Path, on_fault: Callable[[str], object]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames with their places in the video, a damaged one's being left out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    capture = cv2.VideoCapture(str(path))
    try:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number = found = end = 0  # ``end``: one behind the last frame that was read
        while number < end + MAX_GAP:
            is_read, frame = capture.read()
            if is_read:
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                found, end = found + 1, number + 1
            number += 1
        if not found:
            raise ValueError(f"{path}: not a video that can be decoded")
        missing = max(end, announced) - found
        if missing:
            on_fault(f"{path}: {missing} of {found + missing} frames are missing or cannot be decoded")
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


def _is_made(last: Path, newer_than: float, image: Path) -> bool:
    """Whether an image's results are complete (``last`` is written after the others) and of this model and image."""
    return last.is_file() and last.stat().st_mtime > max(newer_than, image.stat().st_mtime)


def _named_files(source: Path) -> list[tuple[str, Path]]:
    files = list_images(source) if source.is_dir() else [source]
    twice = len({file.stem for file in files}) < len(files)
    return [(file.name.replace(".", "_") if twice else file.stem, file) for file in files]


def _named_frames(source: Path, on_fault: Callable[[str], object]) -> Iterator[tuple[str, np.ndarray]]:
    for number, frame in _numbered_frames(source, on_fault):
        yield f"{source.stem}_frame_{number:06d}", frame


def _named_images(
    files: list[tuple[str, Path]], source: Path, on_fault: Callable[[str], object]
) -> Iterator[tuple[str, np.ndarray]]:
    for name, file in files:
        try:
            image = read_image(file)
        except (OSError, ValueError) as error:
            if file == source:
                raise
            on_fault(" ".join(str(error).split()))
        else:
            yield name, image


def _spare_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Refuses to write over what is read, by whatever path it is named, or over labels that lie beside photographs."""
    read = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in read:
            raise ValueError(f"{path}: would be written over an input image; choose another output")
        if path.suffix == ".json" and path.is_file() and b'"lane_count"' not in path.read_bytes():
            raise ValueError(
                f"{path}: holds something else than results, and would be written over; choose another output"
            )
