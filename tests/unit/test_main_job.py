"""The main job, at a hundredth of its size: everything that it promises lands in the folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roadtopo_lib.app import main_job
from roadtopo_lib.app.main_job import run
from roadtopo_lib.course.data import LANE_SMALL, samples
from roadtopo_lib.data.images import read_image
from roadtopo_lib.files import load_weights
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import write_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_main_job_leaves_everything_it_promises(tmp_path, capsys):
    scores = run(tmp_path, scale=0.001)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "metrics.json", "training_curve.png", "overview.png", "pictures", "run"} <= names
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(scores))
    assert {"miou", "class_iou", "lane_f1", "instance_f1", "baselines", "seconds", "all", "shipped"} <= set(stored)
    card = load_weights(samples() / LANE_SMALL).info["card"]
    assert stored["shipped"]["lane_f1"] == card["scores"]["day, lane_f1"]
    assert read_image(tmp_path / "overview.png").shape[1] == 3 * main_job.TEST_SIZE[1] + 2 * 4  # both, and the truth
    for name in ("components", "opencv"):
        assert 0 <= stored["baselines"][name]["lane_f1"] <= 1
    assert list(stored["seconds_by_step"]) == ["render", "train", "evaluate", "infer"]
    assert stored["seconds"] == pytest.approx(sum(stored["seconds_by_step"].values()))
    printed = capsys.readouterr().out
    assert f"lane F1 {stored['shipped']['lane_f1']:.3f}\n" in printed
    assert "make lab" in printed
    assert str(tmp_path / "overview.png") in printed
    picture = next((tmp_path / "data_test_day" / "test" / "images").iterdir())
    assert LaneSegmenter.from_checkpoint(tmp_path / "model.safetensors")(picture)["semantic_mask"].shape == (256, 512)


def test_without_the_unix_module_the_job_says_nothing_about_memory(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main_job, "resource", None)
    assert main_job.peak_memory_mb() is None
    main_job.print_ending(tmp_path, {"seconds": 1.0, "seconds_by_step": {"render": 1.0}, "peak_memory_mb": None})
    assert "GB" not in capsys.readouterr().out


def test_make_run_lets_the_c_library_keep_freed_memory(tmp_path):
    (tmp_path / ".installed").touch()
    command = ["make", "--dry-run", "run", f"VENV={tmp_path}"]
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    made = subprocess.run(command, cwd=ROOT, env=clean, check=True, capture_output=True, text=True).stdout
    line = made.replace("\\\n", " ").split()
    program = line.index(f"{tmp_path}/bin/python")
    assert {"MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_MMAP_THRESHOLD_=1073741824"} == set(line[:program])
    assert line[program + 1 : program + 3] == ["-m", "roadtopo_lib.app.main_job"]


def test_training_and_test_scenes_have_different_seeds():
    assert len({main_job.TRAIN_SEED, main_job.DAY_TEST_SEED, main_job.ALL_TEST_SEED}) == 3


def test_scenes_of_a_larger_job_are_refused_in_one_line_that_says_what_to_delete(tmp_path, capsys, monkeypatch):
    write_dataset(tmp_path / "data", {"train": 9}, main_job.TRAIN_SIZE, main_job.TRAIN_SEED, "day", amodal=True)
    monkeypatch.setattr(sys, "argv", ["main_job", "--out", str(tmp_path), "--scale", "0.001"])
    assert main_job.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("main_job: ")
    assert error.count("\n") == 1
    assert "already holds 9 train images, more than the 8 asked for" in error
    assert f"delete {tmp_path / 'data'}, then run this again" in error
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--debug"])
    with pytest.raises(ValueError, match="already holds 9 train images"):
        main_job.main()


def test_a_line_that_cannot_be_parsed_is_refused_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main_job", "--scale", "much"])
    with pytest.raises(SystemExit) as refusal:
        main_job.main()
    assert refusal.value.code == 2
    assert capsys.readouterr().err == "main_job: error: argument --scale: invalid float value: 'much'\n"
