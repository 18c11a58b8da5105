"""A moving camera: one road, seen from farther on in each frame."""

import numpy as np
import pytest

from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.drive import moments, render_drive
from roadtopo_lib.scenes.road import Road

SIZE = (90, 160)
SPEED, FPS = 20.0, 10.0


@pytest.fixture(scope="module")
def drive():
    return list(render_drive(8, 12, SIZE, "day", SPEED, FPS))


def test_the_first_frame_is_the_scene_and_a_drive_repeats_itself(drive):
    assert np.array_equal(drive[0].image, render_scene(8, SIZE, "day").image)
    again = list(render_drive(8, 3, SIZE, "day", SPEED, FPS))
    assert np.array_equal(again[2].image, drive[2].image)


def test_what_lies_on_the_road_comes_nearer_by_the_way_driven():
    road = Road(0.3, 0.0, 0.0, 0.0)
    later = road.after(12.0, 0.5)
    np.testing.assert_allclose(later.place(50.0, 1.0) - road.place(50.0, 1.0), [-0.5, -12.0])
    s, u = later.to_road(np.array([0.8]), np.array([38.0]))
    np.testing.assert_allclose([s[0], u[0]], [50.0, 1.0])


def test_a_bend_goes_on_bending():
    road = Road(0.0, 0.0, 1e-3, 1e-5)
    assert road.after(100.0, 0.0).curvature == pytest.approx(2e-3)


def test_each_line_keeps_its_number_and_its_place_on_the_road(drive):
    assert all(len(scene.lines) == len(scene.lanes) for scene in drive)
    assert len(set.union(*(set(scene.lines) for scene in drive))) <= 6
    first = dict(zip(drive[0].lines, _offsets(drive[0]), strict=True))
    for scene in drive[1:]:
        for line, offset in zip(scene.lines, _offsets(scene), strict=True):
            assert offset == pytest.approx(
                first.get(line, offset), abs=0.3
            )  # metres: about a pixel; lines lie 3 m apart


def _offsets(scene):
    """Metres to the right of the ego lane's centre at each lane's lowest point."""
    ground, found = scene.camera.ground(), []
    for lane in scene.lanes:
        x, y = np.clip(lane[-1].round().astype(int), 0, [SIZE[1] - 1, SIZE[0] - 1])
        place = y - ground.top, x
        found.append(float(scene.road.to_road(ground.x[place], ground.z[place])[1]))
    return found


def test_the_world_stays_the_same_from_frame_to_frame(drive):
    """Were a random draw missed in one frame, colours and things would jump."""
    assert len({scene.attributes["vehicles"] for scene in drive}) == 1
    assert all(scene.attributes["surface"] == drive[0].attributes["surface"] for scene in drive)
    means = np.array([scene.image.mean(axis=(0, 1)) for scene in drive])
    assert np.abs(np.diff(means, axis=0)).max() < 6


def test_a_lane_change_moves_the_car_aside_and_the_middle_of_the_drive():
    way = moments(0, 100, SPEED, FPS, lane_change=3.5)
    drift = moments(0, 100, SPEED, FPS)
    moved = np.array([a.aside - b.aside for a, b in zip(way, drift, strict=True)])
    np.testing.assert_allclose(moved[[0, 50, 99]], [0, 1.75, 3.5])
    assert way[10].along == pytest.approx(SPEED)
    assert max(abs(moment.pitch) for moment in drift) < 1


@pytest.mark.parametrize("wrong", [{"speed": -1.0, "fps": 25.0}, {"speed": 1.0, "fps": 0.0}])
def test_speeds_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected at least 0"):
        moments(0, 2, **wrong)
