"""Workers end with their parent, and Ctrl-C ends a command in one line that says what is done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadtopo_lib.app.cli import main
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.files import UNFINISHED
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.segformer import SegFormerModel

CONFIG = LaneSegmentationConfig.preset("tiny").replace(image_size=(64, 128))
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
SCENES = 400
"""More than a test waits for."""


def children(process):
    """Numbers of a process's children, from /proc."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if fields[0] != "Z" and int(fields[1]) == process:
                found.append(int(folder.name))
    return found


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def synth(tmp_path):
    """A data set that is being rendered by two workers, in a process group of its own."""
    command = ["-m", "roadtopo_lib.app.cli", "synth", "--out", str(tmp_path / "data"), "--train", str(SCENES)]
    process = subprocess.Popen(
        [sys.executable, *command, "--size", "64x96", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    journal = tmp_path / "data" / "meta.partial.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text()):
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(synth, number):
    workers = children(synth.pid)
    assert len(workers) == 2
    synth.send_signal(number)
    assert synth.wait(5) == -number
    until = time.monotonic() + 3
    while any(map(is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_alive, workers))
    assert synth.stdout.read() == "", "nobody holds the pipe open"


@LINUX
def test_ctrl_c_ends_synth_with_130_and_one_line_and_the_same_command_goes_on(synth, tmp_path):
    os.killpg(synth.pid, signal.SIGINT)  # as a terminal does: to parent and workers
    output, error = synth.communicate(timeout=20)
    assert (synth.returncode, output) == (130, "")
    held = len((tmp_path / "data" / "meta.partial.jsonl").read_text().splitlines())
    expected = f"{tmp_path / 'data'} holds {held} of {SCENES} scenes; the same call makes the others"
    assert error == f"road-topology: interrupted; {expected}\n"
    assert 0 < held < SCENES
    assert not list((tmp_path / "data").rglob(f"*{UNFINISHED}"))
    assert not (tmp_path / "data" / ".lock").exists()


IDLE_WORKERS = """
import time
from concurrent.futures import ProcessPoolExecutor
from roadtopo_lib.processes import start_worker

if __name__ == "__main__":
    with ProcessPoolExecutor(2, initializer=start_worker) as pool:
        list(pool.map(time.sleep, [0.2, 0.2]))
        try:
            print("idle", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@LINUX
def test_workers_that_wait_for_work_leave_ctrl_c_to_their_parent():
    process = subprocess.Popen(
        [sys.executable, "-c", IDLE_WORKERS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout.readline() == "idle\n"
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=20)
    assert (process.returncode, output, error) == (0, "interrupted\n", "")


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_that_is_stopped_leaves_no_worker_and_no_half_file_and_goes_on(tmp_path, number):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in range(40):
        Image.fromarray(rng.integers(0, 255, (240, 320, 3), np.uint8)).save(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.lines.txt").write_text(f"{20 + name} 230 60 40\n")
    command = [sys.executable, "-m", "roadtopo_lib.app.cli", "convert", "culane", tmp_path / "in", tmp_path / "out"]
    process = subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    images = tmp_path / "out" / "train" / "images"
    while process.poll() is None and not list(images.glob("*.jpg")):
        time.sleep(0.005)
    workers = children(process.pid)
    assert len(workers) >= 2
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    error = process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert (process.returncode, error) == (130, "road-topology: interrupted\n")
    until = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_alive, workers))
    made = {path: path.stat().st_mtime_ns for path in images.glob("*.jpg")}
    assert 0 < len(made) < 40
    for path in (tmp_path / "out").rglob("*.[jp][pn]g"):
        if not path.name.endswith(UNFINISHED):
            Image.open(path).load()
    assert main([*map(str, command[3:]), "--workers", "1"]) == 0
    assert len(list(images.glob("*.jpg"))) == 40
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what is complete is not made again"
    assert not list((tmp_path / "out").rglob(f"*{UNFINISHED}"))


def test_two_renderings_into_one_folder_are_refused_in_one_line(tmp_path, capsys):
    from roadtopo_lib.processes import locked

    command = ["synth", "--out", str(tmp_path), "--train", "1", "--size", "64x96", "--workers", "1"]
    with locked(tmp_path, "synth"):
        assert main(command) == 2
        assert f"{tmp_path}: synth is running there already" in capsys.readouterr().err
    assert main(command) == 0


def test_an_image_that_a_power_cut_left_empty_is_rendered_again(tmp_path):
    command = ["synth", "--out", str(tmp_path), "--train", "2", "--size", "64x96", "--workers", "1"]
    assert main(command) == 0
    image = tmp_path / "train" / "images" / "train_00001.jpg"
    content = image.read_bytes()
    image.write_bytes(b"")
    assert main(command) == 0
    assert image.read_bytes() == content


@pytest.fixture
def photos(tmp_path):
    """Four photographs, a model, and the command that separates their lanes."""
    torch.manual_seed(0)
    SegFormerModel("tiny", pretrained=False).save(tmp_path / "m.safetensors", training=CONFIG.to_dict())
    (tmp_path / "in").mkdir()
    for name in "abcd":
        Image.fromarray(np.full((64, 128, 3), 90, np.uint8)).save(tmp_path / "in" / f"{name}.png")
    for path in (tmp_path / "m.safetensors", *(tmp_path / "in").iterdir()):
        os.utime(path, (1e9, 1e9))
    names = {"--model": "m.safetensors", "--input": "in", "--output": "out"}
    return ["infer", "lane", "--device", "cpu", *(x for k, v in names.items() for x in (k, str(tmp_path / v)))]


def segmented(monkeypatch, stop_at=None):
    """Counts the images that the network sees; the ``stop_at``-th is interrupted."""
    seen, original = [], LaneSegmenter._segment

    def segment(self, image):
        seen.append(1)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(LaneSegmenter, "_segment", segment)
    return seen


@pytest.mark.parametrize("option", [(), ("--visualize",)])
def test_infer_stopped_by_ctrl_c_says_what_is_done_and_goes_on_where_it_stopped(
    photos, tmp_path, capsys, monkeypatch, option
):
    with monkeypatch.context() as patch:
        segmented(patch, stop_at=3)
        assert main([*photos, *option]) == 130
    expected = f"interrupted; results of 2 images are complete in {tmp_path / 'out'}; --resume makes the others"
    assert capsys.readouterr().err == f"road-topology: {expected}\n"
    last = "_overlay.png" if option else ".json"
    (tmp_path / "out" / f"b{last}").unlink()  # killed before it was written
    with monkeypatch.context() as patch:
        seen = segmented(patch)
        assert main([*photos, *option, "--resume"]) == 0
        assert len(seen) == 3, "b, c and d"
        assert main([*photos, *option, "--resume"]) == 0
        assert len(seen) == 3
        assert main([*photos, *option]) == 0
        assert len(seen) == 7, "without the option all are made again"
    assert {path.name for path in (tmp_path / "out").glob(f"*{last}")} == {f"{name}{last}" for name in "abcd"}


def test_infer_makes_again_what_is_older_than_its_model_or_its_image(photos, tmp_path, monkeypatch):
    seen = segmented(monkeypatch)
    assert main(photos) == 0
    later = time.time() + 60
    os.utime(tmp_path / "in" / "c.png", (later, later))
    assert main([*photos, "--resume"]) == 0
    assert len(seen) == 5
    os.utime(tmp_path / "m.safetensors", (later, later))
    assert main([*photos, "--resume"]) == 0
    assert len(seen) == 9


@pytest.mark.parametrize("name", ["b_instances.png", "b.json"])
def test_infer_makes_again_what_a_power_cut_left_empty(photos, tmp_path, monkeypatch, name):
    assert main(photos) == 0
    path = tmp_path / "out" / name
    content = path.read_bytes()
    path.write_bytes(b"")
    seen = segmented(monkeypatch)
    assert main([*photos, "--resume"]) == 0
    assert len(seen) == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("more", [(), ("--format", "json"), ("--input", "in/a.png", "--output", "out/a.png")])
def test_infer_clears_what_a_killed_run_left_an_hour_ago_and_leaves_what_is_being_written(
    photos, tmp_path, monkeypatch, more
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    old, new = (tmp_path / "out" / f".{name}{UNFINISHED}" for name in ("old", "new"))
    for path, age in ((old, 4000), (new, 0)):
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    assert main([*photos, *more]) == 0
    assert (old.exists(), new.exists()) == (False, True)
