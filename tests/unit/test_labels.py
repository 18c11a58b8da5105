"""Class tables: what they check, which roles they name, how they travel."""

import json
import re

import pytest
import yaml

from roadtopo_lib.labels import (
    BINARY_CLASSES,
    CLASS_NAMES,
    CLASSES,
    CROSSWALK,
    CROSSWALK_CLASS_IDS,
    IGNORE_INDEX,
    LANE_BOUNDARY,
    LANE_CLASS_IDS,
    LANE_MARKING,
    NUM_CLASSES,
    ClassTable,
    LabelClass,
    palette,
    table_for,
)


def rows(**changes_of_the_second):
    second = {"id": 1, "name": "line", "color": [9, 8, 7], "instances": "lane"}
    return [{"id": 0, "name": "rest", "color": [0, 0, 0]}, {**second, **changes_of_the_second}]


def test_the_default_table_and_the_names_beside_it_agree():
    assert (len(CLASSES), CLASSES.names) == (NUM_CLASSES, CLASS_NAMES)
    assert [c.id for c in CLASSES] == list(range(NUM_CLASSES)) == list(range(6))
    assert CLASSES.lane_ids == LANE_CLASS_IDS == (LANE_MARKING, LANE_BOUNDARY)
    assert CLASSES.crosswalk_ids == CROSSWALK_CLASS_IDS == (CROSSWALK,)
    assert (palette() == CLASSES.palette()).all()


def test_a_table_is_a_sequence_of_classes_that_compares_by_value():
    table = ClassTable.from_list(rows())
    line = LabelClass(1, "line", (9, 8, 7), "lane")
    assert (table[1], table[-1], list(table)[1], len(table)) == (line, line, line, 2)
    assert line in table
    assert table == ClassTable([LabelClass(0, "rest", (0, 0, 0)), line])
    assert len({table, ClassTable.from_list(rows()), CLASSES}) == 2
    assert table != ClassTable.from_list(rows(instances="crosswalk"))


def test_roles_are_read_from_the_table():
    table = ClassTable.from_list([*rows(instances="crosswalk"), {"id": 2, "name": "x", "color": [1, 1, 1]}])
    assert (table.lane_ids, table.crosswalk_ids) == ((), (1,))
    assert (BINARY_CLASSES.lane_ids, BINARY_CLASSES.crosswalk_ids) == ((1,), ())


def test_a_palette_shows_the_classes_unlabelled_pixels_white_and_all_other_ids_black():
    colors = ClassTable.from_list(rows(color=[255, 0, 1])).palette()
    assert (colors.shape, colors.dtype) == ((256, 3), "uint8")
    assert colors[[0, 1, 2, 254, IGNORE_INDEX]].tolist() == [[0] * 3, [255, 0, 1], [0] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("table", [CLASSES, BINARY_CLASSES])
def test_a_table_survives_yaml_and_json(table):
    assert ClassTable.from_list(yaml.safe_load(yaml.safe_dump(table.to_list()))) == table
    assert ClassTable.from_list(json.loads(json.dumps(table.to_list()))) == table


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": 2}, "class 2 ('line'): id is 2, expected 1, its place in the table"),
        ({"id": True}, "class True ('line'): id is True, expected 1, its place in the table"),
        ({"name": "rest"}, "class 1 ('rest'): name is 'rest', expected a name that no earlier class has"),
        ({"name": " "}, "class 1 (' '): name is ' ', expected some text"),
        ({"name": 5}, "class 1 (5): name is 5, expected some text"),
        ({"color": [0, 0]}, "class 1 ('line'): color is (0, 0), expected three whole numbers from 0 to 255"),
        ({"color": [0, 0, 256]}, "class 1 ('line'): color is (0, 0, 256), expected three whole numbers from 0 to 255"),
        ({"color": [0, -1, 0]}, "class 1 ('line'): color is (0, -1, 0), expected three whole numbers from 0 to 255"),
        ({"color": [0, 0.5, 0]}, "class 1 ('line'): color is (0, 0.5, 0), expected three whole numbers from 0 to 255"),
        ({"color": "red"}, "class 1 ('line'): color is 'red', expected three whole numbers from 0 to 255"),
        ({"instances": "car"}, "class 1 ('line'): instances is 'car', expected none or one of ('lane', 'crosswalk')"),
        ({"role": 1}, "class 1 has keys ['id', 'name', 'color', 'instances', 'role'], expected id, name, color and "),
    ],
)
def test_a_wrong_row_is_refused_with_class_value_and_what_is_expected(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as refusal:
        ClassTable.from_list(rows(**wrong))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("wrong", ["lane", {"id": 1, "name": "line"}])
def test_a_row_that_is_no_complete_mapping_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^class 1 .*expected .*id, name"):
        ClassTable.from_list([*rows()[:1], wrong])


@pytest.mark.parametrize("count", [0, 1, 256])
def test_a_table_has_2_to_255_classes(count):
    with pytest.raises(ValueError, match=f"has {count} classes, expected 2 to 255"):
        ClassTable([LabelClass(k, f"class {k}", (0, 0, 0)) for k in range(count)])
    assert len(ClassTable([LabelClass(k, f"class {k}", (0, 0, 0)) for k in range(255)])) == 255


def test_a_number_of_classes_names_a_table_only_where_it_says_which_classes_are_lanes():
    assert table_for(6) is CLASSES
    assert table_for(2) is BINARY_CLASSES
    with pytest.raises(ValueError, match=r"num_classes is 4.*give the setting `classes`"):
        table_for(4)


@pytest.mark.parametrize("role", ["lane", "crosswalk"])
def test_the_background_bears_no_instances(role):
    rows = (LabelClass(0, "background", (0, 0, 0), role), LabelClass(1, "line", (1, 1, 1), "lane"))
    with pytest.raises(ValueError, match=r"class 0 .*instances is .*none: id 0 is the background"):
        ClassTable(rows)
