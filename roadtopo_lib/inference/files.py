"""Lanes found in image files, folders and videos, written to files."""

import hashlib
import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roadtopo_lib.console import progress_bar, say
from roadtopo_lib.data.convert import export
from roadtopo_lib.data.images import IMAGE_SUFFIXES, is_picture, list_images, read_image, read_images, write_image
from roadtopo_lib.decoding import numbered_frames, opened_video
from roadtopo_lib.distributed import rank, world_size
from roadtopo_lib.files import clear_unfinished, utf8_name, write_atomic, write_json
from roadtopo_lib.inference.records import find
from roadtopo_lib.metrics.lanes import TUSIMPLE_MAX_RUN_TIME_MS
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import all_instances
from roadtopo_lib.viz import overlay

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
"""Always videos; a file of another ending is one if it is no picture and the reader can open it."""

UNWRITTEN_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".webp", *VIDEO_SUFFIXES)
"""Who names an output so wants a file of a kind that is not written here, and no folder of that name."""

OURS = (b'"lane_count"', f'"version": "{export.VERSION.split()[0]}'.encode(), b'"run_time"')
"""What a JSON file of results holds, one of these; others are not written over."""


class Frame(NamedTuple):
    """An image that was read."""

    name: str  # of its results: the path in the folder without ending, or CLIP_frame_000000
    file: Path  # the image, or the video
    number: int | None  # place in the video
    image: np.ndarray  # (H, W, 3) uint8 RGB


def infer_to_files(
    segmenter: LaneSegmenter,
    source: str | Path,
    output: str | Path,
    visualize: bool = False,
    on_fault: Callable[[str], object] = warnings.warn,
    form: str | None = None,
    h_samples: str | Path | None = None,
    newer_than: float | None = None,
) -> Iterator[tuple[Path, int]]:
    """Separates lanes in an image, a folder or a video, and writes what was found.

    For each image NAME or frame: ``NAME_instances.png`` (16-bit ids: lanes 1..N left to right, then crosswalks),
    ``NAME.json`` (counts, centres, polylines in pixels) and with ``visualize`` ``NAME_overlay.png``. No image that is
    read is ever written over. Of several processes, see ``distributed.connected``, each makes its part of the images.

    Args:
        segmenter: the model.
        source: an image, a folder of images, or a video (``NAME`` is then ``CLIP_frame_000000`` and so on).
        output: a folder; for one image it may be a picture file, which then holds the overlay (with ``visualize``) or
            the instance ids (without), with the JSON beside it.
        visualize: write overlays.
        on_fault: told in a line of each image of a folder that cannot be read, and of frames that are missing; the job
            goes on.
        form: a key of ``export.ENDINGS``: write that in place of ids and JSON, for the images of subfolders, too. The
            frames of a video are written as pictures beside LabelMe's files.
        h_samples: for ``"tusimple"`` a label file: its images only, each at its rows, as the benchmark demands.
        newer_than: images of a folder and frames of a video are left out whose results are complete, and newer than
            this time (seconds, as ``st_mtime`` of the model's file) and than the image; default: all are made. Not
            with ``"tusimple"``, whose one file is made anew.

    Yields:
        (main file written, number of lanes) for each image; for ``"tusimple"`` once, at the end.

    Raises:
        FileNotFoundError, ValueError: nothing to read, or not readable.
        ValueError: an output of a kind that is not written, one that is an input file, or a folder with frames of
            another clip of the same name; nothing is written then.
        OSError: the output folder cannot be written to.
    """
    source, output = Path(source), Path(output)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    for folder in (output, output.parent):  # of a picture
        clear_unfinished(folder, older_than=3600)
    if form is not None:
        yield from _infer_to_format(segmenter, source, output, visualize, on_fault, form, h_samples, newer_than)
        return
    if output.suffix.lower() in IMAGE_SUFFIXES:
        if source.is_dir() or is_video(source):
            raise ValueError(f"{output}: {source} holds many images, so the output must be a folder")
        if not visualize and output.suffix.lower() != ".png":
            raise ValueError(f"{output}: instance ids would not survive JPEG, expected a name ending in .png")
        _spare_inputs([source], [output, output.with_suffix(".json")])
        if rank() > 0:
            return
        image = read_image(source)
        result = segmenter(image)
        picture = overlay(image, result) if visualize else all_instances(result).astype(np.uint16)
        write_image(output, picture, is_result=True)
        write_json(output.with_suffix(".json"), summary(result))
        yield output, result["lane_count"]
        return
    if output.suffix.lower() in UNWRITTEN_SUFFIXES and not output.is_dir():
        raise ValueError(f"{output}: expected a folder, or for one image a name ending in {', '.join(IMAGE_SUFFIXES)}")
    endings = ["_instances.png", ".json", "_overlay.png"][: 3 if visualize else 2]
    files = _named_files(source)
    _spare_inputs([file for _, file in files], [output / (name + ending) for name, _ in files for ending in endings])
    if is_video(source):
        _claim(output, source)
    for name, file, _, image in _read_frames(source, files, on_fault):
        if newer_than is not None and _is_made([output / (name + end) for end in endings], newer_than, file):
            continue
        result = segmenter(image)
        main = output / f"{name}_instances.png"
        write_image(main, all_instances(result).astype(np.uint16), is_result=True)
        write_json(output / f"{name}.json", summary(result), durable=False)
        if visualize:
            main = output / f"{name}_overlay.png"
            write_image(main, overlay(image, result), is_result=True)
        yield main, result["lane_count"]


def _infer_to_format(
    segmenter: LaneSegmenter, source: Path, output: Path, visualize: bool, on_fault: Callable[[str], object], form: str,
    h_samples: str | Path | None, newer_than: float | None,
) -> Iterator[tuple[Path, int]]:  # fmt: skip
    """``infer_to_files`` with a format."""
    if form not in export.ENDINGS:
        raise ValueError(f"format is {form!r}, expected one of {', '.join(export.ENDINGS)}")
    if form == "tusimple" and world_size() > 1:
        raise ValueError("the format tusimple is one file of all images: use one process")
    if form == "tusimple" and newer_than is not None:
        raise ValueError("the format tusimple is one file, which is made anew: it does not go with --resume")
    if h_samples is not None and (form != "tusimple" or not source.is_dir()):
        raise ValueError(f"{h_samples}: rows are for the format tusimple and a folder of images")
    if output.suffix.lower() in (*IMAGE_SUFFIXES, *UNWRITTEN_SUFFIXES, ".json", ".txt") and not output.is_dir():
        raise ValueError(f"{output}: expected a folder, as results of the format {form} are named by their images")
    root, ending = source if source.is_dir() else source.parent, export.ENDINGS[form]
    wanted = {} if h_samples is None else export.read_h_samples(Path(h_samples), root)
    files = [(file.relative_to(root).with_suffix("").as_posix(), file) for file in wanted] or _named_files(source, True)
    targets = [output / ending] if form == "tusimple" else [output / (name + ending) for name, _ in files]
    overlays = [output / f"{name}_overlay.png" for name, _ in files if visualize]
    _spare_inputs([file for _, file in files], targets + overlays)
    for folder in {path.parent for path in targets}:
        clear_unfinished(folder, older_than=3600)
    if form == "tusimple":
        names = {raw for raw, _ in wanted.values()} or {file.relative_to(root).as_posix() for _, file in files}
        export.check_no_other_images(targets[0], {source.stem} if is_video(source) else names)
    if is_video(source):
        _claim(output, source)
    lines, hidden = [], None if form == "tusimple" else True
    frames = _read_frames(source, files, on_fault)
    for frame in progress_bar(frames, form, unit="image", leave=False, disable=hidden):
        photo, target = frame.file, output / (frame.name + ending)
        pictures = [output / f"{frame.name}_overlay.png"] if visualize else []
        if newer_than is not None and _is_made([target, *pictures], newer_than, photo):
            continue
        relative = photo.relative_to(root).as_posix()
        record, result, run_time = find(segmenter, frame.image, relative, frame.number)
        if form == "tusimple":
            raw_file, rows = wanted.get(photo, (relative if frame.number is None else frame.name, None))
            lines.append(export.to_tusimple(record, raw_file, run_time, rows))
        elif form == "culane":
            export.write_culane(target, record, photo)
        elif form == "json":
            write_json(target, record, durable=False)
        else:
            if frame.number is not None and not (photo := target.with_suffix(".jpg")).exists():
                write_image(photo, frame.image)
            path = os.path.relpath(photo.parent.resolve() / photo.name, target.parent.resolve())
            write_json(target, export.to_labelme(record, path.replace(os.sep, "/")), durable=False)
        for picture in pictures:
            write_image(picture, overlay(frame.image, result), is_result=True)
        if form != "tusimple":
            yield target, len(record["lanes"])
    if lines:
        write_atomic(targets[0], "".join(json.dumps(line) + "\n" for line in lines))
        slow = sum(line["run_time"] > TUSIMPLE_MAX_RUN_TIME_MS for line in lines)
        if slow:
            limit = f"{TUSIMPLE_MAX_RUN_TIME_MS:g} ms, for which the benchmark gives 0"
            say(f"{slow} of {len(lines)} images took more than {limit}", error=True)
        yield targets[0], sum(len(line["lanes"]) for line in lines)


def _claim(output: Path, clip: Path) -> None:
    """Notes in a folder which clip its frames are of; ValueError if they are of another clip of that name."""
    next(numbered_frames(utf8_name(clip), str))  # nothing is written for a clip that cannot be decoded
    with open(clip, "rb") as file:
        mark = f"{clip.stat().st_size} {hashlib.sha256(file.read(1 << 20)).hexdigest()}"
    note = output / f".{clip.stem}.clip"
    if note.is_file() and note.read_text(encoding="utf-8") != mark:
        raise ValueError(f"{output}: holds frames of another clip named {clip.stem}; choose another output")
    write_atomic(note, mark)


def is_video(path: str | Path) -> bool:
    """Whether a file is to be read as a video: by its ending or, if that tells nothing, by what is in it."""
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or is_picture(path):
        return path.is_file() and suffix in VIDEO_SUFFIXES
    return opened_video(utf8_name(path)).isOpened()


def read_video(path: str | Path, on_fault: Callable[[str], object] = warnings.warn) -> Iterator[np.ndarray]:
    """Frames of a video file, each (H, W, 3) uint8 RGB; those behind a damaged one, too.

    Args:
        path: of any container and codec that OpenCV can decode.
        on_fault: told at the end, in a line, how many frames are missing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video that OpenCV can decode, or a name that is not UTF-8.
    """
    for _, frame in numbered_frames(utf8_name(path), on_fault):
        yield frame


def summary(result: dict) -> dict:
    """The part of a result that is not pixels, as plain values for JSON; coordinates are (x, y) in pixels."""
    return {
        "lane_count": result["lane_count"],
        "lane_centers": np.asarray(result["lane_centers"], dtype=float).round(2).tolist(),
        "lane_polylines": [np.asarray(line, dtype=float).round(2).tolist() for line in result["lane_polylines"]],
        "crosswalk_count": int(result["crosswalk_instances"].max(initial=0)),
    }


def _is_made(results: list[Path], newer_than: float, image: Path) -> bool:
    """Whether an image's results are complete (a power cut may leave one empty) and of this model and image."""
    since = max(newer_than, image.stat().st_mtime)
    return all(path.is_file() and path.stat().st_size and path.stat().st_mtime > since for path in results)


def _named_files(source: Path, deep: bool = False) -> list[tuple[str, Path]]:
    """Images with the names of their results; ``deep``: those of subfolders, too."""
    root, files = (source, list_images(source, deep)) if source.is_dir() else (source.parent, [source])
    names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    whole = [file.relative_to(root).with_name(file.name.replace(".", "_")).as_posix() for file in files]
    uses = Counter(names) + Counter(whole)  # a.jpg and a.png get a_jpg and a_png, beside a file a_jpg.png that, too
    return [(name if uses[name] == 1 else long, file) for name, long, file in zip(names, whole, files, strict=True)]


def _read_frames(source: Path, files: list[tuple[str, Path]], on_fault: Callable[[str], object]) -> Iterator[Frame]:
    """Frames of a video, or the images of ``_named_files``; of a folder, one that cannot be read is left out.

    Of several processes each gets every so many-th; all decode a video.
    """
    if is_video(source):
        frames = numbered_frames(utf8_name(source), on_fault if rank() == 0 else str)
        for number, image in itertools.islice(frames, rank(), None, world_size()):
            yield Frame(f"{source.stem}_frame_{number:06d}", source, number, image)
        return
    own = files[rank() :: world_size()]
    if not source.is_dir():
        yield from (Frame(name, file, None, read_image(file)) for name, file in own)
        return
    names = {file: name for name, file in own}
    for file, image in read_images(names, on_fault):
        yield Frame(names[file], file, None, image)


def _spare_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Refuses to write over what is read, by whatever path it is named, or over labels that lie beside photographs."""
    read = {path.resolve() for path in inputs}
    own = {folder: export.own_texts(folder) for folder in {path.parent for path in read}}
    for path in outputs:
        if path.resolve() in read:
            raise ValueError(f"{path}: would be written over an input image; choose another output")
        if path.is_file() and (
            (path.suffix == ".json" and (held := path.read_bytes()) and not any(mark in held for mark in OURS))
            or (path.suffix == ".txt" and path.resolve() not in own.get(path.parent.resolve(), {path.resolve()}))
        ):
            raise ValueError(f"{path}: may hold labels, and would be written over; choose another output")
