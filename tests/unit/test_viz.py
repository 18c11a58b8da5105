"""Pictures show what the masks say."""

import numpy as np
import pytest

from roadtopo_lib.labels import (
    BINARY_CLASSES,
    CLASSES,
    CROSSWALK,
    IGNORE_INDEX,
    LANE_CLASS_IDS,
    NUM_CLASSES,
    ROAD,
    palette,
)
from roadtopo_lib.viz import (
    INSTANCE_COLORS,
    color_instances,
    color_semantic,
    contact_sheet,
    instance_color,
    overlay,
    overlay_labels,
    training_curve,
)

GREY = np.full((80, 120, 3), 100, np.uint8)


def result(lanes, crosswalks=None):
    return {
        "lane_instances": lanes,
        "crosswalk_instances": np.zeros_like(lanes) if crosswalks is None else crosswalks,
        "lane_polylines": [],
    }


def test_the_class_table_is_numbered_from_zero_and_its_colours_differ():
    assert [c.id for c in CLASSES] == list(range(NUM_CLASSES))
    assert len({c.color for c in CLASSES}) == NUM_CLASSES
    assert CROSSWALK not in LANE_CLASS_IDS
    assert palette()[IGNORE_INDEX].tolist() == [255, 255, 255]


def test_masks_become_their_colours():
    assert color_semantic(np.array([[CROSSWALK]])).tolist() == [[list(CLASSES[CROSSWALK].color)]]
    colors = color_instances(np.array([[0, 1, len(INSTANCE_COLORS), len(INSTANCE_COLORS) + 1]]))[0]
    assert colors[0].tolist() == [0, 0, 0]
    assert colors[1].tolist() == list(instance_color(1)) == colors[3].tolist()
    assert colors[2].tolist() == INSTANCE_COLORS[-1].tolist()


def test_a_mask_of_another_class_table_takes_its_colours():
    mask = np.zeros(GREY.shape[:2], np.uint8)
    mask[:, 5:9] = 1
    line = list(BINARY_CLASSES[1].color)
    assert color_semantic(mask, BINARY_CLASSES)[0, 5].tolist() == line != list(CLASSES[ROAD].color)
    picture = overlay_labels(GREY, mask, alpha=1.0, table=BINARY_CLASSES)
    assert picture[0, 5].tolist() == line
    assert picture[0, 4].tolist() == [100, 100, 100], "background keeps the image"


def test_only_instances_are_painted_and_the_image_is_left_alone():
    lanes = np.zeros(GREY.shape[:2], int)
    lanes[:, 20:24] = 1
    before = GREY.copy()
    picture = overlay(GREY, result(lanes), alpha=1.0)
    assert (picture[lanes == 1] == instance_color(1)).all()
    assert (picture[lanes == 0] == GREY[lanes == 0]).all()
    assert (before == GREY).all()


def test_crosswalks_are_painted_too_and_opacity_mixes_colour_and_image():
    crosswalks = np.zeros(GREY.shape[:2], int)
    crosswalks[40:80, :] = 1
    picture = overlay(GREY, result(np.zeros_like(crosswalks), crosswalks), alpha=0.25)
    mixed = 0.25 * np.array(instance_color(1)) + 0.75 * 100
    assert np.abs(picture[79, 0] - mixed).max() < 1
    assert (picture[:40] == 100).all()


def test_no_crosswalk_takes_the_colour_of_a_lane():
    lanes, crosswalks = np.zeros(GREY.shape[:2], int), np.zeros(GREY.shape[:2], int)
    for number in (1, 2):
        lanes[40:44, 20 * number] = number
        crosswalks[60:64, 20 * number] = number
    picture = overlay(GREY, result(lanes, crosswalks), alpha=1.0)
    found = [tuple(picture[row, column].tolist()) for row in (42, 62) for column in (20, 40)]
    assert found == [instance_color(number) for number in (1, 2, 3, 4)]


def test_each_lane_and_crosswalk_gets_its_label():
    lanes = np.zeros(GREY.shape[:2], int)
    crosswalks = np.zeros_like(lanes)
    crosswalks[40:60, 60:100] = 1
    plain = overlay(GREY, result(lanes))
    labelled = overlay(GREY, {**result(lanes, crosswalks), "lane_polylines": [np.array([[30.0, 10], [30, 70]])]})
    changed = (plain != labelled).any(axis=2)
    assert changed[60:75, 22:38].any(), "the lane's number stands at its lower end"
    plate = (labelled[40:60, 60:100] == instance_color(2)).all(axis=2)
    assert plate.any(), "the crosswalk's number stands on it, on a plate of its colour"


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match="lane mask"):
        overlay(GREY, result(np.zeros((8, 8), int)))


def test_a_contact_sheet_has_room_for_every_picture():
    sheet = contact_sheet([np.full((10, 20, 3), v, np.uint8) for v in (1, 2, 3)], columns=2, gap=2)
    assert sheet.shape == (22, 42, 3)
    assert (sheet[0, 0, 0], sheet[0, 22, 0], sheet[12, 0, 0]) == (1, 2, 3)
    assert sheet[-1, -1, 0] == 255


def test_the_training_curve_states_where_training_ended():
    history = [
        {"epoch": 1, "train_loss": 2.0, "val_loss": 1.5, "val_miou": 0.3},
        {"epoch": 2, "train_loss": 1.0, "val_loss": 1.25, "val_miou": 0.5},
    ]
    left, right = training_curve(history).axes
    assert "1.250" in left.get_title()
    assert "0.500" in right.get_title()
    assert left.lines[1].get_ydata().tolist() == [1.5, 1.25]
