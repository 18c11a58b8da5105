"""Dice that takes the squared denominator by itself."""

import pytest
import torch
from monai.losses import DiceLoss as MonaiDice
from torch.nn.functional import one_hot

from roadtopo_lib.electives.auto_square import AutoSquareDice

TARGET = torch.arange(64).view(1, 8, 8) % 3


def logits(sure):
    """Right answers, the surer the larger the number; wrong ones below zero."""
    return (sure * one_hot(TARGET, 3).movedim(-1, 1).float()).requires_grad_()


def monai(values, squared):
    loss = MonaiDice(softmax=True, to_onehot_y=True, squared_pred=squared, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    return loss(values, TARGET[:, None]).item()


def test_losses_that_fall_steadily_keep_the_plain_denominator():
    loss = AutoSquareDice(window=5, limit=0.1)
    for sure in torch.linspace(0, 1, 40):
        assert loss(logits(sure), TARGET).item() == pytest.approx(monai(logits(sure), False), abs=1e-6)
    assert not loss.squared


def test_losses_that_jump_switch_for_good_once_the_window_is_full():
    loss = AutoSquareDice(window=5, limit=0.1)
    for step in range(5):
        assert not loss.squared
        loss(logits(3.0 * (step % 2)), TARGET)
    assert loss.squared
    for _ in range(10):
        assert loss(logits(1.0), TARGET).item() == pytest.approx(monai(logits(1.0), True), abs=1e-6)
    assert loss.squared


def test_validation_is_no_training_step_and_nan_is_unstable():
    loss = AutoSquareDice(window=2)
    for step in range(9):
        with torch.no_grad():
            loss(logits(3.0 * (step % 2)), TARGET)
    assert not loss.squared
    for _ in range(2):
        loss(logits(float("nan")), TARGET)
    assert loss.squared


def test_wrong_arguments_are_named():
    for window, limit in ((1, 0.1), (5, 0.0), (5, float("nan"))):
        with pytest.raises(ValueError, match="window"):
            AutoSquareDice(window, limit)
