"""Machinery of notebook 1: the table of settings is whole, and what it shows of the training differs from the frame."""

from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.lessons import config as lesson
from roadtopo_lib.labels import CLASSES
from roadtopo_lib.viz import instance_color


def test_the_table_has_a_line_for_every_setting():
    table = lesson.settings_table(LaneSegmentationConfig())
    for field in fields(LaneSegmentationConfig):
        assert sum(line.split()[:1] == [field.name] for line in table.splitlines() if line[2:3].strip()) == 1
    assert max(map(len, table.splitlines())) <= 100
    assert all(" ".join(table.split()).count(words) for group in lesson.SETTINGS.values() for words in group.values())


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


@pytest.fixture
def figures(monkeypatch):
    """What the lesson shows."""
    shown = []
    monkeypatch.setattr(lesson, "show", lambda figure, alt: shown.append(figure))
    yield shown
    for figure in shown:
        plt.close(figure)


def plates(ax):
    """Number → colour of its plate."""
    return {text.get_text(): to_hex(text.get_bbox_patch().get_facecolor()) for text in ax.texts}


def test_a_crosswalk_keeps_its_colour_where_a_setting_leaves_fewer_lanes(figures):
    classes = [c | {"instances": None} if c["name"] == "lane_boundary" else c for c in CLASSES.to_list()]
    for value in (None, classes):
        (result,) = lesson.try_values("classes", [value], ("lanes",))
        (ax,) = figures[-1].axes
        numbers = [str(k + 1) for k in range(result["lane_count"])]
        assert list(plates(ax)) == [*numbers, "C1"]
        assert plates(ax)["C1"] == to_hex(np.array(instance_color(5)) / 255)
        painted = {tuple(color) for color in ax.images[0].get_array().reshape(-1, 3).tolist()}
        assert instance_color(5) in painted
    assert result["lane_count"] == 2


def test_a_lane_more_than_the_frame_has_does_not_take_the_crosswalks_colour():
    assert [lesson._first_crosswalk({"lane_count": count}) for count in (0, 4, 6)] == [5, 5, 7]


def test_a_radius_far_above_the_range_leaves_one_lane(figures):
    assert lesson.try_wide_radius(6.0)["lane_count"] == 1
    assert len(figures) == 1
