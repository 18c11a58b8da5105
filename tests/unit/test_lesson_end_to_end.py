"""Machinery of notebook 7: commands, scenes examined, versions of a road, intervals, pixels on the ground."""

import numpy as np
import pytest

from roadtopo_lib.course.lessons.end_to_end import (
    examine,
    f1_of,
    interval,
    on_ground,
    paired_interval,
    recall_by_paint,
    render_version,
    run_command,
    unpaired_interval,
)
from roadtopo_lib.inference.evaluation import BASELINES
from roadtopo_lib.labels import LANE_MARKING
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.camera import Camera

SEED = 20_000
COUNTS = np.array([[3, 1, 0], [0, 2, 4], [2, 2, 2], [4, 0, 1], [1, 1, 1], [3, 0, 0]])


def test_a_command_runs_in_its_folder_and_its_exit_code_comes_back(tmp_path, capsys):
    assert run_command("infer lane --model none.safetensors --input none.jpg --output out.png", tmp_path) == 2
    said = capsys.readouterr().out
    assert said.startswith("$ road-topology infer lane --model none.safetensors")
    assert "none" in said.splitlines()[1]
    assert str(tmp_path) not in said


def test_lanes_are_examined_against_what_the_renderer_knows():
    scene = render_scene(10_004)
    assert len(scene.lanes) >= 2
    found = scene.lanes[1:]  # all but the first
    result = {"lane_polylines": found, "semantic_mask": scene.semantic_amodal}
    row = examine(lambda image: result, scene)
    assert row["model"] == (len(found), 0, 1)
    assert row.keys() >= {*BASELINES, "light", "scene"}
    shown, was_found, marking = row["lanes"].T
    assert was_found.tolist() == [0.0] + [1.0] * len(found)
    for k in range(len(scene.lanes)):
        label = scene.instance_amodal == k + 1
        assert shown[k] == (scene.instance_visible == k + 1).sum() / label.sum()
        assert marking[k] == (scene.semantic_amodal[label] == LANE_MARKING).any()


def test_versions_of_a_road_differ_in_one_thing_only():
    day, rain, night = (render_version(SEED, light) for light in ("dry day", "rain", "night"))
    for other, light in ((rain, "day"), (night, "night")):
        assert np.array_equal(day.instance_amodal, other.instance_amodal)
        assert (day.camera, day.road) == (other.camera, other.road)
        assert other.attributes["light"] == light
        assert not np.array_equal(day.image, other.image)
    assert rain.attributes["rain"] > 0 == day.attributes["rain"] == night.attributes["rain"]


def test_a_road_without_its_vehicles_is_the_same_road():
    seed = next(seed for seed in range(SEED, SEED + 20) if render_version(seed).attributes["vehicles"] > 1)
    full, empty = render_version(seed), render_version(seed, vehicles=False)
    assert empty.attributes["vehicles"] == 0
    assert (full.camera, full.road) == (empty.camera, empty.road)
    assert (full.image == empty.image).all(axis=2).mean() > 0.5  # but for the vehicles and their shadows


def test_f1_of_counts():
    assert f1_of(np.array([2, 1, 1])) == 4 / 6
    np.testing.assert_allclose(f1_of(COUNTS[:2]), [6 / 7, 0])


def test_an_interval_holds_the_score_and_shrinks_with_more_scenes():
    low, high = interval(COUNTS)
    assert 0 <= low < f1_of(COUNTS.sum(axis=0)) < high <= 1
    assert np.ptp(interval(np.tile(COUNTS, (16, 1)))) < 0.5 * (high - low)
    assert interval(np.tile([[3, 1, 1]], (5, 1))) == pytest.approx([0.75, 0.75])


def test_pairs_cancel_what_both_share():
    assert paired_interval(COUNTS, COUNTS).tolist() == [0, 0]
    low, high = unpaired_interval(COUNTS, COUNTS)
    assert low < -0.1 < 0.1 < high


def test_recall_counts_markings_by_the_paint_that_shows():
    one = np.array([[0.1, 0, 1], [0.9, 1, 1], [0.1, 0, 0]])  # the last is a boundary: it does not count
    other = np.array([[0.2, 1, 1], [0.6, 0, 1]])
    total, missed, spread = recall_by_paint([one, one, other], np.array([0, 0.5, 1.001]))
    assert total.tolist() == [3, 3]
    assert missed.tolist() == [2, 1]
    assert (spread[0] <= 1 - missed / total).all()
    assert (1 - missed / total <= spread[1]).all()


def test_the_ground_under_a_pixel_is_where_the_camera_projects_from():
    camera = Camera(1.5, pitch=2.0, roll=1.5, yaw=-3.0, fov=60, lateral=0.2, size=(256, 512), pixel_aspect=0.9)
    points = np.array([[-3.0, 8.0], [0.0, 20.0], [5.0, 45.0]])  # x and z
    pixels, _ = camera.project(np.insert(points, 1, 0.0, axis=1))
    np.testing.assert_allclose(on_ground(camera, pixels), points, atol=1e-6)
