"""The two baselines: what they find, where they fail as they must, and that their results look like the model's."""

from typing import get_origin, get_type_hints

import cv2
import numpy as np
import pytest
import torch

from roadtopo_lib.inference.baselines import _vanishing_point, classical_lanes, connected_components
from roadtopo_lib.labels import BACKGROUND, CROSSWALK, LANE_BOUNDARY, LANE_MARKING, ROAD
from roadtopo_lib.postprocess import LanePostProcessor, LaneResult

HEIGHT, WIDTH = 240, 400
LINES = [[(190, 110), (30, 239)], [(200, 110), (200, 239)], [(210, 110), (390, 239)]]


def painted_mask(lines=LINES, width=5):
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for number, (start, stop) in enumerate(lines, start=1):
        cv2.line(ids, start, stop, number, width)
    return ids


def painted_road(lines=LINES, paint=(230, 230, 230), dashed=()):
    """A grey road under a blue sky with anti-aliased lines that widen towards the camera, (H, W, 3) uint8 RGB."""
    image = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    image[:105] = (120, 160, 220)
    for number, ((x0, y0), (x1, y1)) in enumerate(lines):
        for y in range(y0, y1 + 1):
            if number in dashed and (y - y0) ** 2 // 900 % 2:
                continue
            x = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
            half = 0.5 + 0.02 * (y - 105)
            image[y, max(0, round(x - half)) : max(0, round(x + half) + 1)] = paint
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def x_at(polyline, row):
    return np.interp(row, polyline[:, 1], polyline[:, 0])


def assert_is_a_lane_result(result, size):
    """Checks a dict against ``LaneResult``: keys, types, shapes, and that the parts agree."""
    kinds = get_type_hints(LaneResult)
    assert result.keys() == kinds.keys()
    for key, kind in kinds.items():
        assert isinstance(result[key], get_origin(kind) or kind), key
    for thing in ("lane", "crosswalk"):
        instances, count = result[f"{thing}_instances"], result[f"{thing}_count"]
        assert instances.shape == size
        assert instances.dtype == np.int32
        assert np.unique(instances[instances > 0]).tolist() == list(range(1, count + 1))
        assert result[f"{thing}_centers"].shape == (count, 2)
    assert result["semantic_mask"].shape == size
    assert result["semantic_mask"].dtype.kind in "iu"
    assert len(result["lane_polylines"]) == result["lane_count"]
    for polyline in result["lane_polylines"]:
        assert polyline.shape == (len(polyline), 2)
        assert np.all(np.diff(polyline[:, 1]) >= 0)  # top to bottom


def test_the_models_result_keeps_the_same_contract():
    ids = painted_mask()
    semantic = np.where(ids > 0, LANE_MARKING, ROAD)
    semantic[150:160, 20:100] = CROSSWALK
    embeddings = 4 * (np.where(semantic == CROSSWALK, 0, ids) == np.arange(4)[:, None, None]).astype(np.float32)
    result = LanePostProcessor().process(semantic, embeddings)
    assert (result["lane_count"], result["crosswalk_count"]) == (3, 1)
    assert_is_a_lane_result(result, ids.shape)


# Connected components


def test_separate_patches_are_separate_lanes_left_to_right():
    ids = painted_mask()
    result = connected_components(np.where(ids > 0, LANE_MARKING, ROAD))
    np.testing.assert_array_equal(result["lane_instances"], ids)
    assert_is_a_lane_result(result, ids.shape)


def test_touching_lanes_become_one_where_embeddings_keep_them_apart():
    ids = painted_mask([[(200, 110), (30, 239)], [(200, 110), (390, 239)]])
    semantic = np.where(ids > 0, LANE_MARKING, ROAD)
    embeddings = 4 * (ids == np.arange(3)[:, None, None]).astype(np.float32)
    assert connected_components(semantic)["lane_count"] == 1
    assert LanePostProcessor().process(semantic, embeddings)["lane_count"] == 2


def test_a_dashed_lane_falls_into_its_dashes():
    semantic = np.full((HEIGHT, WIDTH), ROAD)
    semantic[100:230, 200:204] = LANE_MARKING
    semantic[130:140] = ROAD
    semantic[170:180] = ROAD
    assert connected_components(semantic)["lane_count"] == 3


def test_pixels_that_touch_at_a_corner_belong_together():
    semantic = np.where(np.eye(100, dtype=bool), LANE_BOUNDARY, BACKGROUND)
    assert connected_components(semantic, min_pixels=1)["lane_count"] == 1


def test_small_patches_are_dropped():
    semantic = np.full((100, 100), ROAD)
    semantic[20:90, 30:33] = LANE_MARKING
    semantic[50, 70:74] = LANE_MARKING
    assert connected_components(semantic, min_pixels=5)["lane_count"] == 1
    assert connected_components(semantic, min_pixels=4)["lane_count"] == 2


def test_lane_classes_form_one_patch_and_crosswalks_their_own():
    semantic = np.full((100, 100), ROAD)
    semantic[20:60, 30:33] = LANE_MARKING
    semantic[60:90, 30:33] = LANE_BOUNDARY
    semantic[40:50, 33:60] = CROSSWALK
    result = connected_components(semantic)
    np.testing.assert_array_equal(result["lane_instances"], np.isin(semantic, (LANE_MARKING, LANE_BOUNDARY)))
    np.testing.assert_array_equal(result["crosswalk_instances"], semantic == CROSSWALK)


def test_tensors_are_accepted_and_an_empty_mask_is_no_error():
    result = connected_components(torch.zeros(50, 60, dtype=torch.int64))
    assert result["lane_count"] == 0
    assert_is_a_lane_result(result, (50, 60))


def test_a_mask_of_another_type_is_refused():
    with pytest.raises(ValueError, match="semantic_pred must be"):
        connected_components(np.zeros((5, 5)))


# Classical


@pytest.mark.parametrize("paint", [(230, 230, 230), (220, 180, 40)], ids=["white", "yellow"])
def test_painted_lines_are_found_where_they_are(paint):
    result = classical_lanes(painted_road(paint=paint))
    assert_is_a_lane_result(result, (HEIGHT, WIDTH))
    assert result["lane_count"] == 3
    for polyline, ((x0, y0), (x1, y1)) in zip(result["lane_polylines"], LINES, strict=True):
        for row in (150, 190, 230):
            assert abs(x_at(polyline, row) - (x0 + (x1 - x0) * (row - y0) / (y1 - y0))) < 3


def test_a_dashed_line_is_drawn_through_its_gaps_down_to_the_bottom():
    result = classical_lanes(painted_road(dashed=(1,)))
    assert result["lane_count"] == 3
    middle = result["lane_polylines"][1]
    assert middle[0, 1] < 135
    assert middle[-1, 1] > HEIGHT - 5
    assert np.abs(middle[:, 0] - 200).max() < 3


@pytest.mark.parametrize("scale", [0.8, 2.0])
def test_coordinates_are_those_of_the_image_given(scale):
    image = painted_road()
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    one, other = classical_lanes(image), classical_lanes(large)
    assert one["lane_count"] == other["lane_count"] == 3
    for a, b in zip(one["lane_polylines"], other["lane_polylines"], strict=True):
        assert abs(x_at(a, 200) - x_at(b, 200 * scale) / scale) < 3


def test_a_single_dab_of_paint_is_no_lane():
    dab = [(204, 170), (206, 187)]  # steep and bright, on an eighth of the rows below the vanishing point
    assert classical_lanes(painted_road([LINES[0], LINES[2], dab]))["lane_count"] == 2


def test_the_vanishing_point_is_where_most_segments_point():
    ends = np.array([(20.0, 230), (110, 230), (200, 230), (290, 230), (380, 230)])
    towards = 0.4 * ends + 0.6 * np.array([200.0, 110])  # five segments that point to (200, 110)
    strays = np.array([[80.0, 150, 60, 190], [130, 170, 150, 210]])  # two that come first and meet at (100, 110)
    segments = np.vstack([strays, np.hstack([towards, ends])])
    np.testing.assert_allclose(_vanishing_point(segments, (HEIGHT, WIDTH)), (200, 110), atol=1e-6)


def test_semantic_mask_marks_the_drawn_lanes_only():
    result = classical_lanes(painted_road())
    np.testing.assert_array_equal(result["semantic_mask"] == LANE_MARKING, result["lane_instances"] > 0)
    np.testing.assert_array_equal(result["semantic_mask"] == BACKGROUND, result["lane_instances"] == 0)
    assert not result["crosswalk_instances"].any()


def test_stop_lines_and_bright_ground_beside_the_road_are_no_lanes():
    image = painted_road([])
    image[200:206, 100:300] = 230
    image[105:, 320:] = 200
    assert classical_lanes(image)["lane_count"] == 0


@pytest.mark.parametrize("size", [(32, 32), (240, 400), (400, 32)])
@pytest.mark.parametrize("content", ["black", "white", "noise"])
def test_images_without_a_road_give_a_valid_result(size, content):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3))
    image = {"black": np.zeros((*size, 3)), "white": np.full((*size, 3), 255), "noise": noise}[content]
    result = classical_lanes(image.astype(np.uint8))
    assert_is_a_lane_result(result, size)
    if content != "noise":
        assert result["lane_count"] == 0


@pytest.mark.parametrize(
    "image", [np.zeros((20, 20), np.uint8), np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20, 3), np.float32)]
)
def test_another_shape_or_type_is_refused(image):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB"):
        classical_lanes(image)
