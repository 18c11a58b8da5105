"""Lanes keep their numbers from frame to frame, and their curves are smoothed."""

import numpy as np
import pytest

from roadtopo_lib.tracking import LaneTracker
from roadtopo_lib.tracking.tracks import CONFIRMED, LOST, SHOWN

SIZE = (180, 320)


def line(x, top=60.0, bottom=179.0):
    """A lane that runs from the middle of the horizon to column ``x`` at the lower edge."""
    rows = np.linspace(top, bottom, 30)
    return np.stack([160 + (x - 160) * (rows - 60) / 119, rows], axis=1)


def follow(frames):
    tracker = LaneTracker(SIZE)
    return [tracker.update(frame) for frame in frames]


def test_numbers_stay_when_the_order_of_the_lanes_changes():
    frames = [[line(40), line(150), line(280)]] * 4 + [[line(280), line(40), line(150)]] * 3
    shown = follow(frames)
    assert [lane.track for lane in shown[3]] == [1, 2, 3]
    assert {lane.track: lane.found for lane in shown[-1]} == {1: 1, 2: 2, 3: 0}


def test_a_lane_has_a_number_once_enough_frames_have_shown_it():
    shown = follow([[line(40)]] * CONFIRMED)
    assert [len(frame) for frame in shown] == [0] * (CONFIRMED - 1) + [1]
    assert follow([[line(40)], [], [line(40)], [line(40)]])[-1] == []  # one frame was a fluke: counting starts anew


def test_a_lane_that_is_missing_for_a_while_comes_back_with_its_number():
    seen, hidden = [line(40), line(150)], [line(150)]
    shown = follow([seen] * 5 + [hidden] * LOST + [seen])
    assert [lane.found for lane in shown[5] if lane.track == 1] == [None]
    assert [lane.track for lane in shown[5 + SHOWN]] == [2]
    assert [lane.track for lane in shown[-1]] == [1, 2]
    shown = follow([seen] * 5 + [hidden] * (LOST + 1) + [seen] * CONFIRMED)
    assert [lane.track for lane in shown[-1]] == [2, 3]  # too long: another lane


def test_a_lane_that_enters_gets_the_next_number_and_the_others_keep_theirs():
    shown = follow([[line(150)]] * 5 + [[line(20), line(150)]] * 4)
    assert [lane.track for lane in shown[-1]] == [1, 2]
    assert shown[-1][0].found == 1


def test_a_change_of_lanes_changes_no_number():
    shown = follow([[line(40 - 3 * k), line(150 - 3 * k), line(260 - 3 * k)] for k in range(30)])
    assert [[lane.found for lane in frame] for frame in shown[CONFIRMED:]] == [[0, 1, 2]] * 27
    assert shown[-1][1].polyline[-1, 0] == pytest.approx(150 - 87, abs=1)  # nor does the curve lag behind


def test_the_curve_shakes_less_than_what_was_measured():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.0, 200)
    shown = follow([[line(100) + np.array([shift, 0])] for shift in noise])
    columns = [np.interp(150, *frame[0].polyline.T[::-1]) for frame in shown[20:]]
    assert np.std(np.diff(columns)) < 0.5 * np.std(np.diff(noise[20:]))
    assert np.mean(columns) == pytest.approx(np.interp(150, *line(100).T[::-1]), abs=0.3)


def test_the_curve_ends_where_the_lane_does():
    shown = follow([[line(100, 60, 120)]] * 5 + [[line(100, 90, 179)]] * 40)
    assert shown[4][0].polyline[-1, 1] == pytest.approx(120, abs=4)
    assert shown[-1][0].polyline[[0, -1], 1] == pytest.approx([90, 179], abs=6)


def test_of_two_pieces_the_longer_one_keeps_the_number():
    rows = line(40)[:, 1]
    for far, near in ((rows < 100, rows > 105), (rows < 135, rows > 140)):
        whole, pieces = line(40), [line(40)[far], line(40)[near] + [2, 0]]
        shown = follow([[whole]] * 5 + [pieces])[-1]
        assert [lane.found for lane in shown] == [int(near.sum() > far.sum())]


def test_points_that_are_no_numbers_and_lanes_without_points_leave_the_others_alone():
    holes = line(40)
    holes[[0, 7], [1, 0]] = np.nan
    nothing = [np.zeros((0, 2)), np.full((3, 2), np.nan), np.array([[100.0, 90.0]]), []]
    shown = follow([[*nothing, holes, line(150)]] * 5)[-1]
    assert {lane.track: lane.found for lane in shown} == {1: 4, 2: 5}
    assert all(np.isfinite(lane.polyline).all() for lane in shown)
    np.testing.assert_allclose(shown[0].polyline, follow([[line(40), line(150)]] * 5)[-1][0].polyline[1:], atol=0.6)


def test_a_lane_shorter_than_a_row_and_no_lane_at_all_are_no_tracks():
    assert follow([[line(100, 60.0, 60.5)], []] * 4)[-1] == []
