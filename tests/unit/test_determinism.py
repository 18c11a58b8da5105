"""``road-topology doctor --determinism``: what torch warns of is named, and so is what differs."""

import torch

from roadtopo_lib.app import determinism
from roadtopo_lib.app.cli import main


def test_an_operation_of_which_torch_warns_is_named_and_the_setting_comes_back():
    def step():
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        torch.ones(3).sum()

    assert determinism.unstable_operations(step) == ["put_"]
    assert determinism.unstable_operations(lambda: torch.ones(3).sum()) == []
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_training_step_on_the_cpu_repeats_bit_for_bit(capsys):
    assert main(["doctor", "--determinism"]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("[OK]") or torch.cuda.is_available()
    assert "bit for bit" in line or "differ" in line


def test_gradients_that_differ_are_counted(monkeypatch):
    monkeypatch.setattr(determinism, "training_step", lambda device: lambda: {"w": torch.rand(3), "b": torch.ones(1)})
    (line,) = determinism.check_determinism("cpu")
    assert line.status == "--"
    assert "1 of 2 gradients differ, w first" in line.text
