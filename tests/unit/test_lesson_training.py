"""Machinery of notebook 5: what it counts, pretends, interrupts and compares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.lessons import training as lesson
from roadtopo_lib.course.lessons import training_pictures as pictures
from roadtopo_lib.training.run_folder import RunFolder

CONFIG = LaneSegmentationConfig.preset("tiny").replace(muon_lr=0.0, image_size=(32, 64), repeat_threshold=0.0)


def test_saved_bytes_are_those_of_living_graphs_without_the_weights():
    layer, images = nn.Linear(100, 10), torch.rand(50, 100)
    with lesson.SavedBytes(layer) as saved:
        loss = layer(images).square().sum()
    assert saved.megabytes() == pytest.approx(4 * (50 * 100 + 50 * 10) / 1e6)
    loss.backward()
    assert saved.megabytes() == 0


def test_a_pretended_gpu_answers_by_its_capability_and_is_gone_afterwards():
    real = torch.cuda.is_available
    for capability, native in (((7, 5), False), ((8, 0), True)):
        with lesson.pretend_gpu(*capability):
            assert torch.cuda.is_bf16_supported(including_emulation=False) == native
            assert torch.cuda.is_bf16_supported()
    assert torch.cuda.is_available is real


def test_a_power_cut_stops_the_write_that_was_asked_for_half_way(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    with lesson.power_cut(at_step=2):
        first.write_bytes(b"whole")
        second.write_bytes(b"half of it")
        raise AssertionError("the block goes on after the cut")
    assert (first.read_bytes(), second.read_bytes()) == (b"whole", b"half ")
    second.write_bytes(b"afterwards")
    assert second.read_bytes() == b"afterwards"


def test_a_power_cut_stops_a_rename_before_it_happens(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    with lesson.power_cut(at_step=2):
        new.write_bytes(b"new")
        new.replace(old)
        raise AssertionError("the block goes on after the cut")
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
    assert new.replace(old).read_bytes() == b"new"


def test_a_power_cut_that_comes_too_late_changes_nothing(tmp_path):
    with lesson.power_cut(at_step=2):
        Path(tmp_path / "file").write_bytes(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_other_errors_leave_a_power_cut():
    with pytest.raises(ZeroDivisionError), lesson.power_cut(at_step=1):
        print(1 / 0)


def test_a_step_from_two_batches_is_that_of_one_unless_batch_norm_looks_across():
    scenes = [lesson.dataset(CONFIG, "train")[k] for k in range(4)]
    start, config = lesson.new_trainer(CONFIG).model, CONFIG.replace(dice_weight=0.0)
    for batch_norm in (False, True):
        in_two, in_one = (lesson.sgd_step(start, config, scenes, size, batch_norm) for size in (3, 4))
        assert torch.allclose(in_two, in_one, atol=1e-5) != batch_norm


def test_new_trainers_begin_with_the_same_weights():
    first, second = (lesson.new_trainer(CONFIG).model.parameters() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_scripted_run_tells_whose_weights_it_keeps():
    model = lesson.new_trainer(CONFIG).model
    trainer = lesson.ScriptedTrainer(model, CONFIG.replace(epochs=3), device="cpu", progress=False)
    trainer.fit([None], [0.5, 0.2, 0.4])
    assert (next(model.parameters()) == 2).all()


def test_a_plotted_schedule_is_the_rate_of_each_step():
    figure = pictures.schedule(lambda step, total, warmup: step / total, 8, 2)
    assert_close(figure.axes[0].lines[0].get_ydata(), np.arange(8) / 8)


def test_ways_are_drawn_as_lengths():
    figure = pictures.gradients_and_paths(np.ones((2, 3)), -np.arange(9.0).reshape(3, 3))
    assert_close(figure.axes[1].lines[0].get_ydata(), np.array([0.0, 3.0, 6.0]))


def test_a_grid_of_pictures_has_its_titles_over_the_first_row():
    figure = pictures.picture_grid([[np.zeros((2, 2))] * 2] * 2, ["left", "right"])
    assert [ax.get_title() for ax in figure.axes] == ["left", "right", "", ""]


def test_the_cells_below_a_stop_that_came_too_late_work_all_the_same(tmp_path):
    short = CONFIG.replace(epochs=1)
    data = lesson.loaders(short)
    before, after, whole = (lesson.StepLosses() for _ in range(3))
    late = [RunFolder(tmp_path / "stopped", every_steps=5), before, lesson.StopButton(None)]
    lesson.new_trainer(short, recorders=late).fit(*data)
    goes_on, in_one_go = (lesson.new_trainer(short, recorders=[steps]) for steps in (after, whole))
    resumed = goes_on.fit(*data, resume=RunFolder(tmp_path / "stopped").newest())
    in_one_go.fit(*data)
    assert [row["val_loss"] for row in resumed] == [row["val_loss"] for row in in_one_go.history]
    assert lesson.largest_difference(in_one_go.model, goes_on.model) == 0
    assert (before.steps, after.steps) == (whole.steps, [])
    figure, words = pictures.one_curve(whole.steps, before.steps, after.steps)
    drawn = [line.get_xydata() for line in figure.axes[0].lines]
    assert [len(points) for points in drawn] == [len(whole.steps), len(before.steps), 0]
    np.testing.assert_allclose(drawn[1], before.steps)
    assert words
