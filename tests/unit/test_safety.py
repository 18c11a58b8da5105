"""The safety figure: counted by hand on small masks, and its distances against the camera's own projection."""

import numpy as np
import pytest
import torch

from roadtopo_lib.electives.night_ride import LANE_MARK, MOVEABLE, NIGHT_ROAD, RIDER, UNDRIVABLE
from roadtopo_lib.electives.safety import FalseRoad, metres_ahead, rows_ahead
from roadtopo_lib.scenes import Camera

CAMERA = Camera(height=1.3, pitch=3.0, roll=8.0, yaw=-2.0, fov=60.0, lateral=0.4, size=(90, 160), pixel_aspect=0.9)


def test_a_point_of_the_ground_lies_as_far_ahead_as_the_camera_projects_it():
    ahead = metres_ahead(CAMERA)
    for x, z in ((0.0, 5.0), (-2.0, 9.0), (1.5, 14.0)):
        (u, v), _ = CAMERA.project(np.array([x, 0.0, z]))
        row, column = int(v), int(u)
        corners = ahead[row : row + 2, column : column + 2]
        assert corners.min() - 1e-3 <= z <= corners.max() + 1e-3
    horizon = CAMERA.horizon()
    above = np.arange(90)[:, None] < horizon - 1
    assert np.isnan(ahead[above]).all()
    assert np.isfinite(ahead[np.arange(90)[:, None] > horizon + 1]).all()


def test_ground_outside_of_the_corridor_has_no_distance():
    inside = np.isfinite(metres_ahead(CAMERA, corridor=2.0))
    ground = CAMERA.ground()
    assert np.array_equal(inside[ground.top :], ground.seen & (np.abs(ground.x) <= 2.0))
    assert 0 < inside.sum() < np.isfinite(metres_ahead(CAMERA)).sum()


def test_rows_count_from_the_lower_edge():
    assert rows_ahead((4, 2)).tolist() == [[0.875] * 2, [0.625] * 2, [0.375] * 2, [0.125] * 2]


def test_the_share_of_undrivable_pixels_taken_for_road_by_hand():
    target = np.array([[UNDRIVABLE] * 4, [UNDRIVABLE, NIGHT_ROAD, 255, MOVEABLE]])
    prediction = np.array([[NIGHT_ROAD, LANE_MARK, MOVEABLE, UNDRIVABLE], [NIGHT_ROAD] * 4])
    ahead = np.array([[20.0, 12.0, 12.0, np.nan], [10.0, 5.0, 5.0, 5.0]])
    score = FalseRoad([0, 10, 20, 30, 40])
    score.update(prediction, target, ahead)
    assert (score.wrong.tolist(), score.total.tolist()) == ([0, 2, 1, 0], [0, 3, 1, 0])
    np.testing.assert_array_equal(score.shares(), [np.nan, 2 / 3, 1, np.nan])
    score.update(torch.from_numpy(target)[None], torch.from_numpy(target)[None], ahead[None])  # pooled with a right one
    assert (score.wrong.tolist(), score.total.tolist()) == ([0, 2, 1, 0], [0, 6, 2, 0])
    both = FalseRoad([0, 10], undrivable=(UNDRIVABLE, MOVEABLE, RIDER))
    both.update(prediction, target, ahead)
    assert (both.wrong.tolist(), both.total.tolist()) == ([1], [1])


def test_wrong_edges_and_shapes_are_refused_in_one_line():
    for edges in ([], [1.0], [0, 10, 10], [5, 2], [0, np.nan]):
        with pytest.raises(ValueError, match="at least two numbers that ascend"):
            FalseRoad(edges)
    masks = np.zeros((2, 3), np.uint8)
    score = FalseRoad([0, 1])
    with pytest.raises(ValueError, match=r"prediction \(2, 3\), target \(2, 3\), ahead \(3, 2\): expected the same"):
        score.update(masks, masks, rows_ahead((3, 2)))
    with pytest.raises(ValueError, match="prediction has dtype float64"):
        score.update(masks.astype(float), masks, rows_ahead((2, 3)))
    assert score.total.tolist() == [0]
