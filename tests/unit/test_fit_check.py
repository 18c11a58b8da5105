"""``doctor --model M --data D``: what network, loss and data make of each other."""

import numpy as np
import pytest
import torch

from roadtopo_lib.app import doctor, fit_check
from roadtopo_lib.app.cli import main
from roadtopo_lib.app.fit_check import check_fit
from roadtopo_lib.course import samples
from roadtopo_lib.data.samples import write_sample

SHIPPED = samples() / "tiny.safetensors"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", ())


def lines(data=None):
    return {check.name: check for check in check_fit(SHIPPED, data or samples())}


def test_the_shipped_model_fits_the_shipped_data(capsys):
    assert main(["doctor", "--model", str(SHIPPED), "--data", str(samples())]) == 0
    report = capsys.readouterr().out
    names = "weights", "types", "sizes", "channels and loss", "output sizes", "loss of empty masks", "overfit"
    assert all(f"[OK]   {name} " in report for name in names)
    assert "6 through softmax" in report


def test_a_network_that_learns_nothing_fails(monkeypatch):
    monkeypatch.setattr(fit_check, "OVERFIT_STEPS", 3)
    monkeypatch.setattr(fit_check, "build_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), 0.0))
    assert lines()["overfit"].status == "FAIL"


def test_a_loss_that_is_not_finite_fails(monkeypatch):
    class Nan(fit_check.LaneCriterion):
        def __call__(self, outputs, batch, shares=None):
            loss, parts = super().__call__(outputs, batch, shares)
            return loss * (np.nan if not batch["semantic_mask"].any() else 1), parts

    monkeypatch.setattr(fit_check, "OVERFIT_STEPS", 2)
    monkeypatch.setattr(fit_check, "LaneCriterion", Nan)
    found = lines()
    assert (found["loss"].status, found["loss of empty masks"].status) == ("OK", "FAIL")


def test_large_and_empty_images_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_check, "OVERFIT_STEPS", 2)
    blank = np.zeros((800, 1200), np.uint8)
    write_sample(tmp_path / "train", "a", np.full((800, 1200, 3), 90, np.uint8), blank, blank)
    found = lines(tmp_path)
    assert (found["sizes"].status, found["classes in a batch"].status) == ("--", "--")
    assert "800×1200" in found["sizes"].text
    assert "1 images show background only" in found["classes in a batch"].text


def test_one_without_the_other_is_refused(capsys):
    assert main(["doctor", "--model", str(SHIPPED)]) == 2
    assert "belong together" in capsys.readouterr().err
