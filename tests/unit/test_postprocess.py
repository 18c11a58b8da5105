"""Post-processing: synthetic frames whose lanes are known, curves with outliers, and the order left to right."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roadtopo_lib.labels import (
    BACKGROUND,
    CROSSWALK,
    CROSSWALK_CLASS_IDS,
    LANE_BOUNDARY,
    LANE_CLASS_IDS,
    LANE_MARKING,
    ROAD,
)
from roadtopo_lib.postprocess import (
    LanePostProcessor,
    center_on_curve,
    fit_lane_curve,
    order_left_to_right,
    x_at_row,
)
from roadtopo_lib.strips import values_at

HEIGHT, WIDTH, DIM = 120, 200, 8
MEANS = 4.0 * np.eye(DIM)  # all pairs 5.7 apart


def frame(lines, crosswalks=(), noise=0.05, width=3, size=(HEIGHT, WIDTH)):
    """A road with lanes drawn along polylines and rectangles (x0, y0, x1, y1) as crosswalks.

    Returns the semantic mask, the embeddings (D, H, W) and the true ids (lanes first, in the order given).
    """
    ids = np.zeros(size, dtype=np.uint8)
    semantic = np.full(size, ROAD, dtype=np.int64)
    for number, line in enumerate(lines, start=1):
        corners = np.round(np.asarray(line, dtype=float) * 16).astype(np.int32)
        cv2.polylines(ids, [corners], False, number, width, cv2.LINE_8, 4)
    semantic[ids > 0] = LANE_MARKING
    for number, (x0, y0, x1, y1) in enumerate(crosswalks, start=len(lines) + 1):
        ids[y0:y1, x0:x1] = number
        semantic[y0:y1, x0:x1] = CROSSWALK
    table = np.concatenate([np.zeros((1, DIM)), MEANS])
    embeddings = table[ids] + np.random.default_rng(0).normal(0, noise, (*size, DIM))
    return semantic, embeddings.transpose(2, 0, 1).astype(np.float32), ids


STRAIGHT = [[(60, 20), (20, 119)], [(90, 20), (80, 119)], [(110, 20), (180, 119)]]


def distance_to_line(polyline, line) -> float:
    """Largest horizontal distance of the polyline's points, within the line's rows, to the true line."""
    line = np.asarray(line, dtype=float)
    inside = (polyline[:, 1] >= line[0, 1]) & (polyline[:, 1] <= line[-1, 1])
    return np.abs(polyline[:, 0] - np.interp(polyline[:, 1], line[:, 1], line[:, 0]))[inside].max()


def test_straight_lanes_are_found_numbered_left_to_right_and_located():
    semantic, embeddings, ids = frame([STRAIGHT[2], STRAIGHT[0], STRAIGHT[1]])  # drawn in another order
    result = LanePostProcessor().process(semantic, embeddings)

    assert result["lane_count"] == 3
    assert result["lane_instances"].dtype == np.int32
    np.testing.assert_array_equal(result["lane_instances"], np.array([0, 3, 1, 2])[ids])
    assert result["lane_centers"].shape == (3, 2)
    for polyline, center, line in zip(result["lane_polylines"], result["lane_centers"], STRAIGHT, strict=True):
        assert distance_to_line(polyline, line) < 0.6
        np.testing.assert_allclose(center, np.mean(line, axis=0), atol=1.0)
        assert abs(polyline[0, 1] - 20) <= 2
        assert polyline[-1, 1] == 119
        assert np.all(np.diff(polyline[:, 1]) > 0)


def test_semantic_mask_comes_back_as_given():
    semantic, embeddings, _ = frame(STRAIGHT)
    np.testing.assert_array_equal(LanePostProcessor().process(semantic, embeddings)["semantic_mask"], semantic)


def test_both_lane_classes_take_part_and_a_lane_may_have_pixels_of_both():
    semantic, embeddings, ids = frame(STRAIGHT)
    semantic[ids == 1] = LANE_BOUNDARY
    semantic[:60][ids[:60] == 2] = LANE_BOUNDARY
    np.testing.assert_array_equal(LanePostProcessor().process(semantic, embeddings)["lane_instances"], ids)


def test_slanted_lanes_are_ordered_where_they_meet_the_car_not_by_mean_x():
    # The left lane leans right and shows its far half only: its mean x is the larger one.
    left, right = [(120, 20), (90, 60)], [(125, 20), (80, 119)]
    semantic, embeddings, ids = frame([left, right])
    result = LanePostProcessor().process(semantic, embeddings)
    np.testing.assert_array_equal(result["lane_instances"], ids)

    pixels = [np.argwhere(ids == i)[:, ::-1] for i in (1, 2)]
    assert pixels[0][:, 0].mean() > pixels[1][:, 0].mean()
    assert order_left_to_right(result["lane_polylines"], 0.9 * HEIGHT).tolist() == [0, 1]


def test_the_reference_row_decides_the_order():
    crossing = [[(60, 20), (120, 119)], [(90, 20), (70, 119)]]
    semantic, embeddings, ids = frame(crossing, width=2)
    bottom = LanePostProcessor(reference_row=1.0).process(semantic, embeddings)["lane_instances"]
    top = LanePostProcessor(reference_row=0.2).process(semantic, embeddings)["lane_instances"]
    assert (bottom[ids == 1] == 2).all()
    assert (top[ids == 1] == 1).all()


def test_curved_lanes_are_followed():
    y = np.linspace(20, 119, 60)
    t = (y - 20) / 99
    lines = [np.stack([60 + offset * t + 50 * (1 - t) ** 2, y], axis=1) for offset in (-40, 0, 60)]
    semantic, embeddings, ids = frame(lines)
    result = LanePostProcessor(road_model=False).process(semantic, embeddings)  # three parabolas are no road
    np.testing.assert_array_equal(result["lane_instances"], ids)
    for polyline, line in zip(result["lane_polylines"], lines, strict=True):
        assert distance_to_line(polyline, line) < 1.5  # the round ends of slanted strokes are off centre


def test_a_lane_in_two_pieces_is_one_lane_with_one_curve():
    semantic, embeddings, ids = frame(STRAIGHT)
    semantic[50:90, 70:100] = BACKGROUND  # a vehicle over the middle lane
    result = LanePostProcessor().process(semantic, embeddings)
    assert result["lane_count"] == 3
    assert distance_to_line(result["lane_polylines"][1], STRAIGHT[1]) < 0.6
    np.testing.assert_array_equal(result["lane_instances"], np.where(semantic == LANE_MARKING, ids, 0))


@pytest.mark.parametrize("small", [(30, 50), (60, 100), (40, 67), (1, 1)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_small_embeddings_give_what_upsampled_ones_give(small, kind):
    semantic, embeddings, _ = frame(STRAIGHT, crosswalks=[(20, 100, 180, 115)], noise=0)
    low = F.interpolate(torch.from_numpy(embeddings)[None], size=small, mode="area")
    high = F.interpolate(low, size=semantic.shape, mode="bilinear", align_corners=False)[0]
    low = low[0].numpy() if kind == "numpy" else low[0]
    # Small lanes are smeared out at this resolution: not the lanes found are compared, but the two ways to them.
    processor = LanePostProcessor(radius=1.0, min_pixels=5)
    a, b = processor.process(semantic, low), processor.process(semantic, high)
    assert a["lane_count"] == b["lane_count"] > 0
    for key in ("lane_instances", "crosswalk_instances"):
        assert (a[key] != b[key]).mean() < 1e-4  # rounding may move a pixel over the bound


def test_quarter_resolution_embeddings_separate_the_lanes():
    y, x = np.mgrid[:32, :50]
    smooth = np.stack([x / 5.0, y / 50.0], axis=0).astype(np.float32)  # embedding = position: lanes 20 columns apart
    semantic = np.full((128, 200), ROAD)
    for left in (40, 100, 160):
        semantic[:, left : left + 3] = LANE_MARKING
    result = LanePostProcessor().process(semantic, smooth)
    expected = np.zeros((128, 200), dtype=np.int32)
    for number, left in enumerate((40, 100, 160), start=1):
        expected[:, left : left + 3] = number
    np.testing.assert_array_equal(result["lane_instances"], expected)


@pytest.mark.parametrize("method", ["fast", "meanshift", "dbscan"])
def test_every_method_separates_the_lanes(method):
    semantic, embeddings, ids = frame(STRAIGHT, crosswalks=[(20, 60, 40, 75)])
    result = LanePostProcessor(method=method).process(semantic, embeddings)
    np.testing.assert_array_equal(result["lane_instances"], np.where(ids < 4, ids, 0))
    np.testing.assert_array_equal(result["crosswalk_instances"], ids == 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_arrays_and_tensors_give_the_same_result(dtype):
    semantic, embeddings, _ = frame(STRAIGHT, crosswalks=[(20, 100, 60, 115)])
    semantic = semantic.astype(dtype)
    a = LanePostProcessor().process(semantic, embeddings)
    b = LanePostProcessor().process(torch.from_numpy(semantic), torch.from_numpy(embeddings).requires_grad_())
    assert a.keys() == b.keys()
    for key in ("semantic_mask", "lane_instances", "lane_centers", "crosswalk_instances", "crosswalk_centers"):
        assert isinstance(b[key], np.ndarray)
        np.testing.assert_array_equal(a[key], b[key])
    for one, other in zip(a["lane_polylines"], b["lane_polylines"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("step", [1, 2])
def test_every_floating_type_of_embeddings_works(kind, step):
    semantic, embeddings, ids = frame(STRAIGHT, width=9)
    result = LanePostProcessor().process(semantic, torch.from_numpy(embeddings).to(kind)[:, ::step, ::step])
    assert result["lane_count"] == 3
    assert (result["lane_instances"] == ids).mean() > 0.97


@pytest.mark.parametrize("class_id", [BACKGROUND, ROAD])
def test_empty_frame_gives_empty_arrays(class_id):
    semantic = np.full((HEIGHT, WIDTH), class_id, dtype=np.uint8)
    result = LanePostProcessor().process(semantic, np.zeros((DIM, 30, 50), dtype=np.float32))
    assert result["lane_count"] == 0
    assert result["lane_polylines"] == []
    assert result["lane_centers"].shape == (0, 2)
    assert result["crosswalk_count"] == 0
    assert result["crosswalk_centers"].shape == (0, 2)
    for key in ("lane_instances", "crosswalk_instances"):
        assert result[key].shape == (HEIGHT, WIDTH)
        assert result[key].dtype == np.int32
        assert not result[key].any()


def test_a_frame_whose_lanes_are_all_too_small_is_empty_as_well():
    semantic, embeddings, _ = frame(STRAIGHT)
    result = LanePostProcessor(min_pixels=10_000).process(semantic, embeddings)
    assert result["lane_count"] == 0
    assert result["lane_centers"].shape == (0, 2)


def test_small_clusters_are_dropped_and_the_others_numbered_without_gaps():
    semantic, embeddings, ids = frame([STRAIGHT[0], [(88, 30), (88, 35)], STRAIGHT[2]])
    size = np.bincount(ids.ravel())
    result = LanePostProcessor(min_pixels=int(size[2]) + 1, road_model=False).process(semantic, embeddings)
    np.testing.assert_array_equal(result["lane_instances"], np.array([0, 1, 0, 2])[ids])
    result = LanePostProcessor(min_pixels=int(size[2]), road_model=False).process(semantic, embeddings)
    assert result["lane_count"] == 3


@pytest.mark.parametrize("road_model", [False, True])
def test_only_confident_pixels_decide_where_a_curve_runs_but_the_mask_keeps_all(road_model):
    semantic, embeddings, ids = frame(STRAIGHT)
    confidence = np.where(semantic == LANE_MARKING, 0.95, 0.1)
    rim = np.zeros_like(ids)
    for shift in range(3, 9):  # each line grows a rim on its right
        rim = np.where((rim == 0) & (ids == 0), np.roll(ids, shift, axis=1), rim)
    semantic[rim > 0] = LANE_MARKING
    embeddings[:, rim > 0] = MEANS[rim[rim > 0] - 1].T
    confidence[rim > 0] = 0.6
    processor = LanePostProcessor(road_model=road_model)
    found = processor.process(semantic, embeddings, confidence=confidence)
    for polyline, line in zip(found["lane_polylines"], STRAIGHT, strict=True):
        assert distance_to_line(polyline, line) < 1.5
    np.testing.assert_array_equal(found["lane_instances"], np.maximum(ids, rim))
    without = processor.process(semantic, embeddings)
    assert max(distance_to_line(p, line) for p, line in zip(without["lane_polylines"], STRAIGHT, strict=True)) > 2


def test_a_lane_without_confident_pixels_is_dropped():
    semantic, embeddings, ids = frame(STRAIGHT)
    confidence = np.where(ids == 2, 0.6, 0.9)
    found = LanePostProcessor(road_model=False).process(semantic, embeddings, confidence=confidence)
    np.testing.assert_array_equal(found["lane_instances"], np.array([0, 1, 0, 2])[ids])
    with pytest.raises(ValueError, match="confidence"):
        LanePostProcessor().process(semantic, embeddings, confidence=confidence[1:])


@pytest.mark.parametrize("small", [(100, 200), (25, 50)])
def test_embeddings_may_cover_the_lower_part_only(small):
    semantic, embeddings, _ = frame(STRAIGHT)
    own_curves = LanePostProcessor(road_model=False)  # whose tolerances do not grow with the image
    first_row = 20
    lower = embeddings[:, first_row:]
    lower = F.interpolate(torch.from_numpy(lower.copy())[None], small, mode="bilinear")[0] if small[0] < 100 else lower
    semantic[:first_row] = BACKGROUND
    below = own_curves.process(semantic[first_row:], lower)
    whole = own_curves.process(semantic, lower, first_row=first_row)
    np.testing.assert_array_equal(whole["lane_instances"][first_row:], below["lane_instances"])
    assert whole["lane_count"] == 3
    for a, b in zip(whole["lane_polylines"], below["lane_polylines"], strict=True):
        np.testing.assert_allclose(a - b, np.full_like(a, first_row) * [0, 1], atol=1e-6)
    semantic[5, 100] = LANE_MARKING  # a stray pixel above is no error
    assert own_curves.process(semantic, lower, first_row=first_row)["lane_count"] == 3
    with pytest.raises(ValueError, match="first_row"):
        own_curves.process(semantic, lower, first_row=HEIGHT)


@pytest.mark.parametrize("scale", [1, 4])
def test_default_min_pixels_grows_with_the_image(scale):
    size = (250 * scale, 400 * scale)  # 0.1 % are 100 · scale² pixels
    long_line = [(100 * scale, 20 * scale), (100 * scale, 200 * scale)]
    for pixels, lanes in [(100 * scale**2 - 1, 1), (100 * scale**2, 2)]:
        semantic, embeddings, _ = frame([long_line], width=3 * scale, size=size)
        rows = np.arange(pixels) // (5 * scale) + 10
        columns = np.arange(pixels) % (5 * scale) + 200 * scale
        semantic[rows, columns] = LANE_MARKING
        embeddings[:, rows, columns] = MEANS[5][:, None]
        assert LanePostProcessor(road_model=False).process(semantic, embeddings)["lane_count"] == lanes


def test_crosswalks_are_separated_and_numbered_from_near_to_far():
    boxes = [(20, 40, 90, 50), (30, 90, 170, 110), (110, 40, 190, 52)]
    semantic, embeddings, ids = frame([], crosswalks=boxes)
    result = LanePostProcessor().process(semantic, embeddings)
    assert result["lane_count"] == 0
    assert result["crosswalk_count"] == 3
    np.testing.assert_array_equal(result["crosswalk_instances"], np.array([0, 3, 1, 2])[ids])
    np.testing.assert_allclose(result["crosswalk_centers"], [(99.5, 99.5), (149.5, 45.5), (54.5, 44.5)])


def test_the_stripes_of_one_crosswalk_are_one_instance():
    semantic, embeddings, _ = frame([], crosswalks=[(20, 80, 180, 100)])
    semantic[:, ::10] = ROAD
    semantic[:, 1::10] = ROAD
    result = LanePostProcessor().process(semantic, embeddings)
    np.testing.assert_array_equal(result["crosswalk_instances"], (semantic == CROSSWALK).astype(np.int32))


def test_small_crosswalks_are_dropped():
    semantic, embeddings, _ = frame([], crosswalks=[(20, 40, 90, 60), (150, 40, 153, 42)])
    result = LanePostProcessor(min_pixels=7).process(semantic, embeddings)
    assert result["crosswalk_count"] == 1


def test_lanes_and_crosswalks_of_equal_embeddings_do_not_mix():
    semantic, embeddings, ids = frame([[(100, 20), (100, 119)]], crosswalks=[(20, 90, 80, 110)])
    embeddings[:] = 0
    result = LanePostProcessor().process(semantic, embeddings)
    np.testing.assert_array_equal(result["lane_instances"], ids == 1)
    np.testing.assert_array_equal(result["crosswalk_instances"], ids == 2)


def test_classes_are_those_asked_for():
    semantic, embeddings, ids = frame(STRAIGHT, crosswalks=[(20, 100, 60, 115)])
    swapped = LanePostProcessor(lane_class_ids=CROSSWALK_CLASS_IDS, crosswalk_class_ids=LANE_CLASS_IDS)
    result = swapped.process(semantic, embeddings)
    np.testing.assert_array_equal(result["lane_instances"] > 0, ids == 4)
    assert result["crosswalk_count"] == 3


def test_margins_set_the_radius_unless_one_is_given():
    assert LanePostProcessor(delta_var=0.2, delta_dist=0.7).radius == 0.7
    assert LanePostProcessor(radius=0.9).radius == 0.9


def test_the_radius_decides_what_is_one_lane():
    semantic, embeddings, _ = frame(STRAIGHT, noise=0.01)
    assert LanePostProcessor(radius=1.0).process(semantic, embeddings)["lane_count"] == 3
    assert LanePostProcessor(radius=10.0).process(semantic, embeddings)["lane_count"] == 1


# Curves


def pixels_along(x_of_y, rows, width=5):
    """Columns and rows of the pixels of a line ``width`` wide."""
    rows = np.repeat(np.asarray(rows), width)
    offsets = np.tile(np.arange(width) - width // 2, len(rows) // width)
    return np.round(x_of_y(rows)).astype(np.int64) + offsets, rows


CURVES = {
    "straight": lambda y: 300 - 0.8 * y,
    "quadratic": lambda y: 100 + 0.002 * (y - 350.0) ** 2,
    "cubic": lambda y: 200 + 8e-6 * (y - 200.0) ** 3 - 0.3 * y,
}


@pytest.mark.parametrize("shape", CURVES)
@pytest.mark.parametrize("outliers", ["none", "scattered", "a patch", "a patch at the end"])
def test_stray_pixels_do_not_bend_the_curve(shape, outliers):
    curve = CURVES[shape]
    x, y = pixels_along(curve, np.arange(100, 351))
    rng = np.random.default_rng(0)
    if outliers == "scattered":
        stray_y = rng.integers(100, 351, 60)
        stray_x = rng.integers(0, 500, 60)
    elif outliers == "a patch":
        stray_y, stray_x = (a.ravel() for a in np.mgrid[200:215, 0:8])
        stray_x += int(curve(207)) + 40
    elif outliers == "a patch at the end":
        stray_y, stray_x = (a.ravel() for a in np.mgrid[80:92, 0:3])
        stray_x += int(curve(86)) + 60
    else:
        stray_x = stray_y = np.empty(0, dtype=np.int64)
    polyline = fit_lane_curve(np.concatenate([x, stray_x]), np.concatenate([y, stray_y]))
    assert np.abs(polyline[:, 0] - curve(polyline[:, 1])).max() < 1.0
    assert abs(polyline[0, 1] - 100) <= 1
    assert abs(polyline[-1, 1] - 350) <= 1
    center = center_on_curve(polyline, x, y)
    assert abs(center[0] - curve(center[1])) < 1.0


def test_curve_agrees_with_numpys_least_squares_where_there_are_no_outliers():
    y = np.arange(50, 450)
    x = CURVES["cubic"](y) + np.random.default_rng(0).normal(0, 1.0, len(y))
    polyline = fit_lane_curve(x, y)
    reference = np.polynomial.Polynomial.fit(y, x, 3)(polyline[:, 1])
    assert np.abs(polyline[:, 0] - reference).max() < 0.25


def test_a_straight_line_stays_straight_whatever_its_length():
    for rows in (2, 5, 30, 100, 400):
        x, y = pixels_along(CURVES["straight"], np.arange(10, 10 + rows))
        polyline = fit_lane_curve(x, y)
        slope = np.diff(polyline[:, 0]) / np.diff(polyline[:, 1])
        assert np.ptp(slope) < 1e-6


def test_center_lies_on_the_curve_at_the_mean_row():
    x, y = pixels_along(CURVES["quadratic"], np.arange(100, 351))
    polyline = fit_lane_curve(x, y)
    center = center_on_curve(polyline, x, y)
    np.testing.assert_allclose(center, (CURVES["quadratic"](225.0), 225.0), atol=1.0)


@pytest.mark.parametrize("slope", [0.1, -0.1, 0.0])
def test_a_nearly_level_lane_is_followed_from_its_upper_end(slope):
    column = np.repeat(np.arange(50, 350), 4)
    row = np.round(100 + slope * (column - 200)).astype(np.int64) + np.tile(np.arange(4), 300)
    polyline = fit_lane_curve(column, row)
    assert np.ptp(polyline[:, 0]) == 299
    assert np.abs(polyline[:, 1] - (101.5 + slope * (polyline[:, 0] - 200))).max() < 0.7
    assert np.all(np.diff(polyline[:, 1]) >= -1e-9)
    np.testing.assert_allclose(center_on_curve(polyline, column, row), (199.5, 101.5), atol=0.7)


def test_a_level_hump_still_runs_top_to_bottom():
    column = np.repeat(np.arange(0, 400), 3)
    row = np.round(50 + 0.0008 * (column - 150.0) ** 2).astype(np.int64) + np.tile(np.arange(3), 400)
    polyline = fit_lane_curve(column, row)
    assert np.all(np.diff(polyline[:, 1]) >= 0)


@pytest.mark.parametrize(("x", "y"), [([7], [3]), ([7, 7], [3, 4]), ([6, 7, 8], [3, 3, 3]), ([7, 7, 7], [3, 3, 3])])
def test_a_lane_of_few_pixels_has_a_curve_through_them(x, y):
    polyline = fit_lane_curve(np.array(x), np.array(y))
    center = center_on_curve(polyline, np.array(x), np.array(y))
    np.testing.assert_allclose(center, (np.mean(x), np.mean(y)), atol=1e-6)
    assert np.isfinite(polyline).all()
    assert np.abs(polyline - (np.mean(x), np.mean(y))).max() <= 1


# Order


def test_x_at_row_interpolates_inside_and_continues_straight_outside():
    polyline = np.array([(10.0, 20.0), (20.0, 30.0), (20.0, 50.0)])
    assert x_at_row(polyline, 25) == 15
    assert x_at_row(polyline, 40) == 20
    assert x_at_row(polyline, 10) == 0
    assert x_at_row(polyline, 90) == 20


def test_a_cubic_is_continued_by_its_direction_not_by_its_formula():
    def cubic(y):
        return 100 + 4e-5 * (y - 50.0) ** 3

    x, y = pixels_along(cubic, np.arange(20, 121))
    polyline = fit_lane_curve(x, y)
    direction = (cubic(120) - cubic(100)) / 20
    assert abs(x_at_row(polyline, 300) - (cubic(120) + 180 * direction)) < 15
    assert abs(x_at_row(polyline, 300) - cubic(300)) > 300


def test_one_point_and_level_lines_have_a_place_in_the_order_too():
    point = np.array([(50.0, 10.0)])
    level = np.array([(80.0, 30.0), (120.0, 30.0)])
    steep = np.array([(100.0, 0.0), (60.0, 100.0)])
    assert order_left_to_right([level, steep, point], 90).tolist() == [2, 1, 0]


def test_no_lanes_have_an_empty_order():
    assert order_left_to_right([], 90).shape == (0,)


# Errors


@pytest.mark.parametrize(
    "semantic",
    [np.zeros((1, 8, 8), dtype=np.int64), np.zeros((8, 8)), np.zeros((8, 8), dtype=bool), np.zeros((0, 8), dtype=int)],
)
def test_a_semantic_prediction_that_is_not_a_mask_is_refused(semantic):
    with pytest.raises(ValueError, match="semantic_pred must be"):
        LanePostProcessor().process(semantic, np.zeros((4, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("shape", [(8, 8), (1, 4, 8, 8), (4, 9, 8), (4, 8, 9), (0, 8, 8), (4, 0, 8)])
def test_embeddings_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"embeddings must have shape \(D, h, w\)"):
        LanePostProcessor().process(np.full((8, 8), LANE_MARKING), np.zeros(shape, dtype=np.float32))


def test_integer_embeddings_are_refused():
    with pytest.raises(ValueError, match="embeddings must be of a floating type"):
        LanePostProcessor().process(np.full((8, 8), LANE_MARKING), np.zeros((4, 8, 8), dtype=np.int64))


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        LanePostProcessor().process(np.full((8, 8), LANE_MARKING), np.full((4, 8, 8), np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"method": "kmeans"}, "method"),
        ({"radius": 0.0}, "radius"),
        ({"min_pixels": -1}, "min_pixels"),
        ({"delta_var": 2.0}, "delta_dist"),
    ],
)
def test_impossible_settings_are_refused_by_name(setting, named):
    with pytest.raises(ValueError, match=named):
        LanePostProcessor(**setting)


def as_given(instances: np.ndarray) -> dict:
    """What becomes of lanes with perfect embeddings, (H, W) ids, 0 = none."""
    embeddings = (5 * np.eye(8, dtype=np.float32))[instances].transpose(2, 0, 1)
    return LanePostProcessor().process(np.where(instances > 0, LANE_MARKING, 0), embeddings)


def test_lanes_with_perfect_embeddings_are_never_joined():
    bars = np.zeros((64, 96), int)
    bars[10:14, 5:90], bars[50:54, 5:90] = 1, 2
    assert as_given(bars)["lane_count"] == 2
    dashes = np.zeros((64, 96), int)
    dashes[5:25, 10:14], dashes[35:60, 10:14] = 1, 2  # one above the other
    assert as_given(dashes)["lane_count"] == 2


@pytest.mark.parametrize("columns", [(128, 148, 168), (58, 412, 424), (448, 460), (10, 120, 260, 390, 500)])
def test_upright_lanes_that_no_road_explains_keep_their_own_curves(columns):
    lanes = np.zeros((256, 512), int)
    for number, x in enumerate(columns, start=1):
        lanes[32:224, x - 1 : x + 2] = number
    result = as_given(lanes)
    assert result["lane_count"] == len(columns)
    for x, polyline in zip(columns, result["lane_polylines"], strict=True):
        assert np.abs(polyline[:, 0] - x).max() < 1
        assert polyline[0, 1] <= 33
        assert polyline[-1, 1] >= 222


class TestWithoutTorch:
    def test_it_imports_nothing_of_torch(self):
        code = (
            "import sys; import roadtopo_lib.postprocess, roadtopo_lib.strips, roadtopo_lib.viz\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.parametrize("size", [(6, 10), (24, 40), (25, 33), (6, 40)])
    def test_maps_are_read_at_pixels_as_torch_enlarges_them(self, size):
        rng = np.random.default_rng(0)
        maps = rng.normal(size=(5, 6, 10)).astype(np.float32)
        whole = F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0].numpy()
        rows, columns = (index.ravel() for index in np.indices(size))
        found = values_at(maps, rows, columns, size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, whole.reshape(5, -1).T, atol=1e-5)
