"""A video becomes a film with the lanes drawn in, and a line of JSON for each frame."""

import json
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from roadtopo_lib.app.cli import main
from roadtopo_lib.course.data import samples
from roadtopo_lib.files import UNFINISHED
from roadtopo_lib.inference.files import read_video
from roadtopo_lib.inference.records import find
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes.drive import render_drive
from roadtopo_lib.tracking import follow_video

FRAMES, SIZE = 8, (120, 200)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "drive.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 12.5, SIZE[::-1])
    for scene in render_drive(8, FRAMES, SIZE, "day", fps=12.5):
        writer.write(scene.image[..., ::-1])
    writer.release()
    return path


@pytest.fixture(scope="module")
def segmenter():
    return LaneSegmenter.from_checkpoint(samples() / "tiny.safetensors", "cpu")


def test_the_command_writes_a_film_and_a_line_for_each_frame(clip, tmp_path, capsys):
    film = tmp_path / "new" / "film.mp4"
    command = ["infer", "lane", "--model", str(samples() / "tiny.safetensors"), "--input", str(clip)]
    assert main([*command, "--output", str(film), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{film}  {FRAMES} frames, ")
    assert out.endswith(" frames/s\n")
    capture = cv2.VideoCapture(str(film))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    shown = list(read_video(film))
    assert [frame.shape for frame in shown] == [(*SIZE, 3)] * FRAMES
    rows = [json.loads(line) for line in film.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    assert {path.name for path in film.parent.iterdir()} == {"film.mp4", "film.jsonl"}
    assert main([*command, "--output", str(film), "--device", "cpu", "--format", "json"]) == 2
    assert "does not go with --format" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["film.mp4", "images"])
def test_fast_means_one_view_of_each_image(clip, tmp_path, monkeypatch, output):
    views, make = [], LaneSegmenter.make_views
    monkeypatch.setattr(LaneSegmenter, "make_views", lambda *given: views.append(make(*given)) or views[-1])
    command = ["infer", "lane", "--model", str(samples() / "tiny.safetensors"), "--input", str(clip), "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / output)]) == 0
    assert main([*command, "--output", str(tmp_path / output), "--fast"]) == 0
    assert [len(pair) for pair in views] == [2] * FRAMES + [1] * FRAMES


def test_records_are_those_of_single_frames_with_tracks_besides(clip, segmenter, tmp_path):
    followed = list(follow_video(segmenter, clip, tmp_path / "film.mp4"))
    tracks = set()
    for frame, image in zip(followed, read_video(clip), strict=True):
        single, _, _ = find(segmenter, image, clip.name, frame.number)
        own = [row for row in frame.record["lanes"] if row["id"] is not None]
        for row, expected in zip(own, single["lanes"], strict=True):
            assert {name: row[name] for name in ("class", "id", "confidence")} == {
                name: expected[name] for name in ("class", "id", "confidence")
            }
        assert {**frame.record, "lanes": []} == {**single, "lanes": []}
        tracks |= {row["track"] for row in frame.record["lanes"]} - {None}
    assert tracks
    assert {lane.track for lane in followed[-1].lanes} <= tracks


def test_lanes_are_drawn_and_the_rest_of_the_picture_stays(clip, segmenter, tmp_path):
    list(follow_video(segmenter, clip, tmp_path / "film.mp4"))
    before, after = list(read_video(clip))[-1].astype(int), list(read_video(tmp_path / "film.mp4"))[-1].astype(int)
    changed = np.abs(before - after).max(axis=2) > 60
    assert 0.002 < changed.mean() < 0.3
    assert np.abs(before - after)[:30].mean() < 12  # the sky, but for the codec


def test_a_film_that_is_broken_off_leaves_no_file_and_no_thread(clip, segmenter, tmp_path):
    before = threading.active_count()
    frames = follow_video(segmenter, clip, tmp_path / "film.mp4")
    next(frames)
    assert [path.name for path in tmp_path.iterdir() if UNFINISHED not in path.name] == []
    frames.close()
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_the_writer_is_released_once_no_thread_writes_into_it(clip, segmenter, tmp_path, monkeypatch):
    """OpenCV frees the encoder at once, and a thread that is still in it ends the process."""
    events = []

    class Writer:
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *_):
            pass

        def isOpened(self):
            return True

        def write(self, _):
            events.append("begin")
            time.sleep(0.2)
            events.append("end")

        def release(self):
            events.append("release")

    monkeypatch.setattr("roadtopo_lib.tracking.video.cv2.VideoWriter", Writer)
    frames = follow_video(segmenter, clip, tmp_path / "film.mp4")
    next(frames)
    frames.close()
    assert events[-1] == "release"
    assert events.count("release") == 1
    assert events.count("begin") == events.count("end") > 1


def test_a_writer_that_does_not_open_is_told_before_the_work(clip, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr("roadtopo_lib.tracking.video.CODEC", "none")
    monkeypatch.setattr(segmenter, "predict", lambda _: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match=r"no film can have 200×120 pixels and 12\.5 frames a second"):
        next(follow_video(segmenter, clip, tmp_path / "film.mp4"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("told", "expected"), [(240.0123, 240.0), (29.97, 29.97), (0.0, 25.0)])
def test_odd_sizes_single_frames_and_any_frame_rate_make_a_film(segmenter, tmp_path, monkeypatch, told, expected):
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), told or 10, (66, 34))
    writer.write(np.full((34, 66, 3), 90, np.uint8))
    writer.release()
    first = next(read_video(clip))[1:, 1:]
    monkeypatch.setattr("roadtopo_lib.tracking.video.numbered_frames", lambda *_: iter([(0, first)]))
    capture = SimpleNamespace(get=lambda name: {cv2.CAP_PROP_FPS: told, cv2.CAP_PROP_FRAME_COUNT: 1}[name])
    monkeypatch.setattr("roadtopo_lib.tracking.video.opened_video", lambda _: capture)
    assert len(list(follow_video(segmenter, clip, tmp_path / "film.mp4"))) == 1
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(expected)
    assert next(read_video(tmp_path / "film.mp4")).shape == (32, 64, 3)  # the codec leaves out the odd row and column


@pytest.mark.parametrize("name", ["film.mp4", "film.jsonl"])
def test_a_folder_in_the_place_of_an_output_is_told_before_the_work(clip, segmenter, tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(segmenter, "predict", lambda _: pytest.fail("it has begun"))
    with pytest.raises(IsADirectoryError, match=name):
        next(follow_video(segmenter, clip, tmp_path / "film.mp4"))


def test_an_output_that_opencv_cannot_name_is_one_line(clip, segmenter, tmp_path):
    with pytest.raises(ValueError, match="not UTF-8"):
        next(follow_video(segmenter, clip, tmp_path / "f\udcff" / "film.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_several_processes_make_no_film_at_once(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("roadtopo_lib.distributed.world_size", lambda: 2)
    film = tmp_path / "film.mp4"
    command = ["infer", "lane", "--model", str(samples() / "tiny.safetensors"), "--input", str(clip)]
    assert main([*command, "--output", str(film), "--device", "cpu"]) == 2
    assert "use one process" in capsys.readouterr().err
    assert not film.exists()


def test_a_fault_half_way_keeps_the_film_that_was_there(clip, segmenter, tmp_path, monkeypatch):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"before")
    monkeypatch.setattr("roadtopo_lib.tracking.video.describe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(follow_video(segmenter, clip, film))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    assert film.read_bytes() == b"before"


def test_a_writer_that_loses_frames_is_noticed(clip, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr("roadtopo_lib.tracking.video.draw_tracks", lambda *_: np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(OSError, match="could not be written to its end") as error:
        list(follow_video(segmenter, clip, tmp_path / "film.mp4"))  # frames of another size are left out silently
    assert str(error.value).count("cannot be written") == 1
    assert list(tmp_path.iterdir()) == []


def test_only_a_video_becomes_a_film(segmenter, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="made of a video"):
        next(follow_video(segmenter, tmp_path / "a.png", tmp_path / "film.mp4"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        next(follow_video(segmenter, tmp_path / "b.mp4", tmp_path / "film.mp4"))


@pytest.mark.parametrize(("output", "message"), [("film.avi", "ending in .mp4"), (None, "written over the input")])
def test_outputs_that_are_no_film_are_refused(clip, segmenter, tmp_path, output, message):
    with pytest.raises(ValueError, match=message):
        next(follow_video(segmenter, clip, clip if output is None else tmp_path / output))
