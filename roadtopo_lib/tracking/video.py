"""From a video to a film with the lanes drawn in, and to a line of JSON for each frame."""

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from roadtopo_lib.data.checks import in_order
from roadtopo_lib.decoding import numbered_frames, opened_video
from roadtopo_lib.files import check_writable, clear_unfinished, temporary_beside, utf8_name
from roadtopo_lib.inference.files import is_video
from roadtopo_lib.inference.records import describe
from roadtopo_lib.labels import LINE_WIDTH
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.strips import enlarged, shrunk
from roadtopo_lib.tracking.tracks import LaneTracker, TrackedLane
from roadtopo_lib.viz import instance_color, overlay

FILM = ".mp4"
CODEC = "mp4v"
"""MPEG-4, which every OpenCV can write. Browsers want H.264: ``ffmpeg -i OUT.mp4 -c:v libx264 web.mp4``."""

USUAL_FPS = 25.0
"""Frames per second of a video that does not tell."""

AHEAD = 2
"""Frames that wait between two stages, at most."""


class Followed(NamedTuple):
    """A frame of a video."""

    number: int  # its place in the video
    lanes: list[TrackedLane]
    record: dict  # see ``follow_video``


def follow_video(
    segmenter: LaneSegmenter, source: str | Path, output: str | Path, on_fault: Callable[[str], object] = warnings.warn
) -> Iterator[Followed]:
    """Follows the lanes of a video; writes the film ``OUTPUT.mp4`` and ``OUTPUT.jsonl``.

    A line of the JSON file is a frame: the record of ``inference.records.find``. Each lane has the number of its
    ``track`` besides, the same in all frames (``null`` until three frames have shown it), and the smoothed ``points``
    of its track; a lane that is followed though the frame lacks it has no ``id`` and no ``confidence``.

    Decoding, the network, and what comes behind it work at the same time, each on a frame of its own. Memory does not
    grow with the video. Both files appear complete or not at all.

    Args:
        segmenter: the model.
        source: the video.
        output: the film, a name ending in .mp4; files that lie there are replaced.
        on_fault: told in a line how many frames are missing.

    Raises:
        FileNotFoundError, ValueError: no video, or none that can be decoded, or of a size or rate that films cannot
            have; an output that does not end in .mp4 or is the input.
        OSError: the output cannot be written.
    """
    source, output = Path(source), Path(output)
    if output.suffix.lower() != FILM:
        raise ValueError(f"{output}: expected a name ending in {FILM}")
    if output.resolve() == source.resolve():
        raise ValueError(f"{output}: would be written over the input; choose another output")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file")
    if not is_video(source):
        raise ValueError(f"{output}: a film is made of a video, but {source} is none")
    frames = numbered_frames(utf8_name(source), on_fault)
    first = next(frames)  # nothing is written for a video that cannot be decoded
    size, told = first[1].shape[:2], opened_video(utf8_name(source)).get(cv2.CAP_PROP_FPS)
    fps = round(told, 3 if told < 60 else 1)  # MPEG-4 has fractions whose numerators end at 65,535
    fps = fps if fps > 0 else USUAL_FPS
    tracker, lines, written = LaneTracker(size), output.with_suffix(".jsonl"), 0
    clear_unfinished(output.parent, older_than=3600)
    for path in (output, lines):
        check_writable(utf8_name(path))
    with (
        temporary_beside(lines) as records, temporary_beside(output, FILM) as film,
        records.open("w", encoding="utf-8") as file, ExitStack() as afterwards, ThreadPoolExecutor(1) as decoding,
        ThreadPoolExecutor(1) as behind,
    ):  # fmt: skip
        writer = cv2.VideoWriter(str(film), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*CODEC), fps, size[::-1])
        afterwards.callback(writer.release)  # of a film that is broken off: once no thread writes into it any more
        if not writer.isOpened():
            raise ValueError(f"{output}: no film can have {size[1]}×{size[0]} pixels and {fps:g} frames a second")

        def look(frame: tuple[int, np.ndarray]) -> tuple[int, np.ndarray, dict]:
            return *frame, segmenter.predict(shrunk(frame[1], segmenter.most_pixels))

        def finish(seen: tuple[int, np.ndarray, dict]) -> Followed:
            number, image, outputs = seen
            small = segmenter.postprocessor.process(**outputs)
            result = enlarged(small, size)
            lanes = tracker.update(result["lane_polylines"])
            record = describe(outputs, small, result, segmenter.classes, source.name, number)
            writer.write(cv2.cvtColor(draw_tracks(image, result, lanes), cv2.COLOR_RGB2BGR))
            return Followed(number, lanes, with_tracks(record, lanes))

        decoded = in_order(decoding, lambda _: next(frames, None), itertools.repeat(0), AHEAD)
        images = itertools.chain([first], itertools.takewhile(lambda frame: frame is not None, decoded))
        for followed in in_order(behind, finish, map(look, images), AHEAD):
            file.write(json.dumps(followed.record) + "\n")
            written += 1
            yield followed
        writer.release()
        file.close()
        if int(opened_video(str(film)).get(cv2.CAP_PROP_FRAME_COUNT)) != written:  # the writer keeps its errors
            raise OSError("could not be written to its end; is the disk full?")
        film.replace(output)
        records.replace(lines)


def is_film(output: Path) -> bool:
    """Whether an output is to be a film: by its name, unless there is a folder of that name."""
    return output.suffix.lower() == FILM and not output.is_dir()


def draw_tracks(image: np.ndarray, result: dict, lanes: list[TrackedLane]) -> np.ndarray:
    """Crosswalks of a result, and lanes in the colours and with the numbers of their tracks: (H, W, 3) uint8 RGB."""
    nothing = {"lane_instances": np.zeros_like(result["lane_instances"]), "lane_polylines": []}
    canvas = overlay(image, {**result, **nothing})
    unit, bare = image.shape[1] / 640, canvas.copy()
    for lane in lanes:
        points = np.round(lane.polyline * 16).astype(np.int32).reshape(-1, 1, 2)
        thick = max(2, round(LINE_WIDTH * image.shape[1] * 0.6))
        cv2.polylines(canvas, [points], False, instance_color(lane.track), thick, cv2.LINE_AA, 4)
    canvas = cv2.addWeighted(canvas, 0.7, bare, 0.3, 0)
    for lane in lanes:
        x, y = lane.polyline[-1] - [6 * unit, 8 * unit]
        for color, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            size, width = 0.5 * unit, max(1, round(thick * unit))
            cv2.putText(
                canvas, str(lane.track), (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, size, color, width, cv2.LINE_AA
            )
    return canvas


def with_tracks(record: dict, lanes: list[TrackedLane]) -> dict:
    """A record whose lanes have their tracks; see ``follow_video``."""
    tracks = {lane.found: lane for lane in lanes if lane.found is not None}
    listed = [{**row, "track": None} for row in record["lanes"]]
    for place, lane in tracks.items():
        listed[place].update(track=lane.track, points=lane.polyline.round(2).tolist())
    alone = [lane for lane in lanes if lane.found is None]
    listed += [{"id": None, "track": lane.track, "points": lane.polyline.round(2).tolist()} for lane in alone]
    return {**record, "lanes": listed}
