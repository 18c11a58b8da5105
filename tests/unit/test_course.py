"""The cells and helpers that all notebooks share."""

import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from roadtopo_lib.course import colab_cell, reveal, samples, setup_cell
from roadtopo_lib.course.pictures import as_png

ADDRESS = "OWNER/NAME"


def test_an_address_becomes_a_badge_that_opens_this_notebook():
    cell = colab_cell("01_config", ADDRESS)
    assert f"/github/{ADDRESS}/blob/main/notebooks/01_config.ipynb)" in cell
    assert "REPOSITORY" not in cell


def test_without_an_address_the_cell_says_how_to_open_a_fork():
    cell = colab_cell("04_losses", "")
    assert "your fork" in cell
    assert "notebooks/04_losses.ipynb" in cell
    assert "http" not in cell


def run_setup_cell(monkeypatch, folder, repository):
    """The set-up cell, as on a machine without the library; returns what it would have run."""
    commands = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(folder)
    exec(setup_cell(repository), {})
    return commands


def test_away_from_a_clone_the_set_up_cell_clones_and_installs_nothing_else(monkeypatch, tmp_path, capsys):
    clone, install = run_setup_cell(monkeypatch, tmp_path, ADDRESS)
    assert clone[:2] == ["git", "clone"]
    assert ADDRESS in clone
    assert "--no-deps" in install, "torch, numpy and OpenCV stay as they are"
    assert "[OK]" in capsys.readouterr().out


def test_inside_a_clone_the_set_up_cell_runs_no_command(monkeypatch, capsys):
    for folder in (samples().parent, samples().parent / "notebooks"):
        assert run_setup_cell(monkeypatch, folder, "") == []


def test_without_clone_and_address_the_set_up_cell_says_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="write your fork's address"):
        run_setup_cell(monkeypatch, tmp_path, "")


@pytest.mark.parametrize(
    ("guess", "shown", "verdict"),
    [
        (None, "none", ""),
        (100, "100 MB", " — right"),
        (104, "104 MB", " — close"),
        (112, "112 MB", " — look again"),
        ("105 MB", "105 MB", " — close"),
        ("about 1e2", "100 MB", " — right"),
        ("many", "many", " — look again"),
    ],
)
def test_a_guess_is_compared_with_the_answer(capsys, guess, shown, verdict):
    reveal(guess, 100.0, "MB")
    assert capsys.readouterr().out == f"your guess: {shown}\nanswer: 100 MB{verdict}\n"


@pytest.mark.parametrize("guess", [5, 5.2, 0.05, "5 %", "5%", "0.05", "5,1 %", ".05"])
def test_a_share_may_be_given_in_percent_or_as_a_fraction(capsys, guess):
    reveal(guess, 5.0, "% of the pixels")
    assert capsys.readouterr().out.endswith("— close\n" if guess in (5.2, "5,1 %") else "— right\n")


def test_a_small_percentage_is_not_taken_for_a_fraction(capsys):
    for guess in (0.5, "0.5 %"):
        reveal(guess, 0.5, "%")
        assert capsys.readouterr().out.endswith("answer: 0.5 % — right\n")
    reveal("0.05 %", 5.0, "%")
    assert capsys.readouterr().out.endswith("— look again\n")


@pytest.mark.parametrize("guess", [0.25, "25 %", "25%", "0,25"])
def test_an_answer_from_0_to_1_may_be_given_in_percent(capsys, guess):
    reveal(guess, 0.25, "lane IoU")
    assert capsys.readouterr().out == "your guess: 0.25 lane IoU\nanswer: 0.25 lane IoU — right\n"


@pytest.mark.parametrize(
    ("guess", "verdict"),
    [(None, ""), ("yes", "right"), ("Yes", "right"), (" YES. ", "right"), (True, "right"), ("no", "look again"),
     (False, "look again"), (1, "look again")],
)  # fmt: skip
def test_a_choice_is_compared_with_the_answer(capsys, guess, verdict):
    reveal(guess, "yes")
    assert capsys.readouterr().out.endswith("answer: yes" + (f" — {verdict}" if verdict else "") + "\n")


def test_a_picture_of_few_colours_keeps_flat_areas_and_takes_fewer_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    noise[:30] = (255, 176, 0)
    picture = Image.fromarray(noise)
    small, large = (as_png(picture, colors) for colors in (32, 256))
    stored = np.asarray(Image.open(io.BytesIO(small)).convert("RGB"))
    assert (stored[:30] == (255, 176, 0)).all()
    assert len(np.unique(stored.reshape(-1, 3), axis=0)) <= 32
    assert len(small) < 0.8 * len(large)
