"""A sweep: what a space means, which runs are made, that it goes on, and what it tells."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.app.cli import main
from roadtopo_lib.app.sweep import grid, parallel_coordinates, random_draws, read_space, run_sweep
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.models import KINDS
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer

CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    model="pixel", embedding_dim=8, image_size=(32, 64), crop_top=0.0, batch_size=2, epochs=2, muon_lr=0.0,
    repeat_threshold=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def pixel_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "pixel", ("small_model", "PixelModel"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            semantic = np.ones((32, 64), np.uint8)
            semantic[10:, 20:24] = 2
            image = np.where(semantic == 2, 220, 60 + number).astype(np.uint8)[..., None].repeat(3, axis=2)
            write_sample(root / split, str(number), image, semantic, (semantic == 2).astype(np.uint16), suffix=".png")
    return root


def space_of(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination():
    assert grid({"lr": [1, 2], "epochs": [3, 4]}) == [
        {"lr": 1, "epochs": 3}, {"lr": 1, "epochs": 4}, {"lr": 2, "epochs": 3}, {"lr": 2, "epochs": 4},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="lr is a range, and a grid needs values; take --runs N"):
        grid({"lr": {"low": 1, "high": 2}})


def test_random_draws_are_even_in_the_value_or_its_exponent_and_do_not_depend_on_their_number():
    space = {
        "lr": {"low": 1e-4, "high": 1e-1, "log": True}, "instance_weight": {"low": 0.0, "high": 2.0},
        "model": ["segformer", "unet"],
    }  # fmt: skip
    drawn = random_draws(space, 300, seed=1)
    assert drawn[:5] == random_draws(space, 5, seed=1)
    assert drawn[:5] != random_draws(space, 5, seed=2)
    rates, weights = (np.array([row[name] for row in drawn]) for name in ("lr", "instance_weight"))
    assert 1e-4 <= rates.min() < 1.5e-4 < 0.07 < rates.max() <= 1e-1
    assert np.mean(np.log10(rates)) == pytest.approx(-2.5, abs=0.2)
    assert 0 <= weights.min() < 0.05 < 1.95 < weights.max() <= 2
    assert weights.mean() == pytest.approx(1, abs=0.15)
    assert np.mean([row["model"] == "unet" for row in drawn]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no setting varies"),
        ("lr: 3", "lr is 3, expected a list of values, or low, high"),
        ("lr: []", r"lr is \[\], expected a list"),
        ("lr: {low: 1}", "expected a list of values, or low, high"),
        ("lr: {low: 1, high: 2, step: 3}", "expected a list of values, or low, high"),
        ("lr: {low: 2, high: 1}", "lr goes from 2 to 1, expected two numbers, the lower one first"),
        ("lr: {low: a, high: b}", "lr goes from 'a' to 'b', expected two numbers"),
        ("lr: {low: -1, high: 1, log: true}", "lr goes from -1 to 1"),
        ("lr: {low: 0, high: 1, log: true}", "lr begins at 0, which has no logarithm"),
        ("lrr: [1, 2]", "unknown config key lrr; known keys: backbone, "),
        ("1: [1, 2]", "unknown config key 1; known keys: "),
    ],
)
def test_a_space_that_means_nothing_is_refused_by_file_name(text, message, tmp_path):
    with pytest.raises(ValueError, match=rf"space\.yaml: .*{message}|space\.yaml: {message}"):
        read_space(space_of(tmp_path, text))


def test_runs_are_ranked_and_a_sweep_goes_on_with_what_is_missing(data, tmp_path, monkeypatch):
    steps = []
    step = LaneSegmentationTrainer.train_step
    monkeypatch.setattr(LaneSegmentationTrainer, "train_step", lambda self, *a: (steps.append(1), step(self, *a))[1])
    settings = [{"lr": 1e-5}, {"lr": 3e-2}, {"lr": 1e-3}]
    run_sweep(CONFIG, settings[:2], data, tmp_path, "val_loss", "cpu")
    assert len(steps) == 2 * 4
    rows = run_sweep(CONFIG, settings, data, tmp_path, "val_loss", "cpu")
    assert len(steps) == 3 * 4  # the first two were complete
    losses = [row["val_loss"] for row in rows]
    assert losses == sorted(losses)
    assert rows[0]["lr"] == 3e-2
    for row in rows:
        with (tmp_path / f"run_{row['run']:03d}" / "history.csv").open() as file:
            written = [float(line["val_loss"]) for line in csv.DictReader(file)]
        assert row["val_loss"] == pytest.approx(min(written), rel=1e-5)
        assert row["epoch"] == 1 + int(np.argmin(written))
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"score": "val_loss", "rows": rows}
    with (tmp_path / "sweep.csv").open() as file:
        assert [int(line["run"]) for line in csv.DictReader(file)] == [row["run"] for row in rows]
    assert Image.open(tmp_path / "sweep.png").width > 500
    with pytest.raises(ValueError, match="began with"):
        run_sweep(CONFIG, [{"lr": 5e-4}], data, tmp_path, "val_loss", "cpu")
    rows = run_sweep(CONFIG, settings, data, tmp_path, "val_miou", "cpu")
    assert rows[0]["val_miou"] == max(row["val_miou"] for row in rows)
    with pytest.raises(ValueError, match="score is 'f1', expected one of epoch, "):
        run_sweep(CONFIG, settings, data, tmp_path, "f1", "cpu")


def test_the_table_holds_words_and_pairs_too(data, tmp_path):
    sizes = [{"image_size": [32, 64], "activation": "relu"}, {"image_size": [32, 32], "activation": "gelu"}]
    rows = run_sweep(CONFIG.replace(epochs=1), sizes, data, tmp_path, "val_loss", "cpu")
    with (tmp_path / "sweep.csv").open() as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["run", "image_size", "activation", "epoch", "val_loss"]
    for line, row in zip(written, rows, strict=True):
        assert (line["image_size"], line["activation"]) == (str(row["image_size"]), row["activation"])
        assert float(line["val_loss"]) == pytest.approx(row["val_loss"], rel=1e-5)


def test_a_wrong_setting_is_refused_before_any_run_begins(data, tmp_path):
    with pytest.raises(ValueError, match="lr"):
        run_sweep(CONFIG, [{"lr": 1e-3}, {"lr": -1.0}], data, tmp_path / "sweep", device="cpu")
    assert not (tmp_path / "sweep").exists()


def test_the_command_prints_the_best_runs(data, tmp_path, capsys):
    CONFIG.replace(epochs=1).to_yaml(tmp_path / "config.yaml")
    space = space_of(tmp_path, "lr: {low: 1e-4, high: 1e-2, log: true}\nflip_probability: [0.0, 0.5]\n")
    command = ["sweep", str(space), "--config", str(tmp_path / "config.yaml"), "--data", str(data), "--device", "cpu"]
    assert main([*command, "--runs", "3", "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "run_002 of 3: lr" in told
    assert "sweep.png" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "run_000", "run_001", "run_002", "sweep.csv", "sweep.json", "sweep.png",
    ]  # fmt: skip
    assert main([*command, "--output", str(tmp_path / "other")]) == 2
    assert "a grid needs values" in capsys.readouterr().err
    assert main([*command, "--runs", "0"]) == 2
    assert "--runs is 0" in capsys.readouterr().err


def test_the_picture_has_an_axis_for_each_setting_and_the_score():
    rows = [{"run": k, "lr": 10.0**-k, "model": ("unet", "segformer")[k % 2], "val_miou": 0.1 * k} for k in range(4)]
    figure = parallel_coordinates(rows, ["lr", "model"], "val_miou")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["lr", "model", "val_miou"]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 4
    assert lines[-1].get_ydata()[-1] == 1  # the best run is drawn last
    assert {"unet", "segformer"} <= {text.get_text() for text in axes.texts}
    assert all(text.get_bbox_patch().get_facecolor()[:3] == (1, 1, 1) for text in axes.texts), "lines cross numbers"
