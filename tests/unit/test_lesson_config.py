"""Machinery of notebook 1: the table of settings is whole, and what it shows of the training differs from the frame."""

from dataclasses import fields

import numpy as np
import pytest

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.lessons import config as lesson


def test_the_table_has_a_line_for_every_setting():
    table = lesson.settings_table(LaneSegmentationConfig())
    for field in fields(LaneSegmentationConfig):
        assert sum(line.split()[:1] == [field.name] for line in table.splitlines() if line.startswith("  ")) == 1


def test_a_setting_that_is_left_out_is_named(monkeypatch):
    monkeypatch.setitem(lesson.SETTINGS, "6 postprocessing", {"clustering": "how embeddings are grouped"})
    with pytest.raises(ValueError, match="reference_row"):
        lesson.settings_table(LaneSegmentationConfig())


def test_each_setting_of_the_augmentation_changes_what_is_seen():
    settings = {"seed": 0, "flip_probability": 1, "crop_scale": 0.3, "color_jitter": 0.8}  # the seed changes nothing
    figure = lesson.seen_in_training(settings)
    plain, *others = (ax.images[0].get_array().astype(float) for ax in figure.axes)
    assert all(np.abs(other - plain).mean() > 5 for other in others)


@pytest.mark.parametrize(("delta_var", "delta_dist"), [(0.5, 1.5), (0.2, 2.0)])
def test_each_dashed_circle_of_the_drawing_holds_its_lane_and_touches_no_other(delta_var, delta_dist):
    figure = lesson.two_lanes(delta_var, delta_dist)
    lanes, balls = (
        sorted(p.center[0] for p in figure.axes[0].patches if p.radius == r) for r in (delta_var, delta_dist)
    )
    assert len(lanes) == len(balls) == 2
    for ball in balls:
        near, far = sorted(abs(ball - lane) for lane in lanes)
        assert near + delta_var <= delta_dist < far - delta_var
