"""Thin things: cleaning, skeleton, widths, bridges, scores and thresholds, against MONAI, scipy and scikit-learn."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from scipy.ndimage import binary_closing, binary_opening, label
from sklearn.metrics import f1_score

from roadtopo_lib.electives.thin import best_threshold, bridge, clean, compare_masks, skeleton, widths_along

EIGHT = np.ones((3, 3))


def blobs(seed, size=(60, 80), share=0.6):
    noise = np.random.default_rng(seed).random((size[0] // 5, size[1] // 5)).repeat(5, 0).repeat(5, 1)
    return noise < share


def road(points, width, size=(80, 120)):
    """Pixels within half a width of straight pieces, by the distance formula."""
    grid = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), axis=-1).astype(float)
    found = np.zeros(size, bool)
    for a, b in zip(np.array(points[:-1], float), np.array(points[1:], float), strict=True):
        t = np.clip((grid - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        found |= np.linalg.norm(grid - a - t[..., None] * (b - a), axis=-1) <= width / 2
    return found


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_opening_is_scipys(side):
    mask = np.random.default_rng(side).random((50, 70)) < 0.85
    inner = (slice(5, -5),) * 2  # scipy takes what is beyond the edge for empty
    assert (clean(mask, side, 1)[inner] == binary_opening(mask, np.ones((side, side)))[inner]).all()


def test_small_components_go_as_scipy_counts_them():
    mask = np.random.default_rng(0).random((60, 80)) < 0.3
    labels, _ = label(mask, EIGHT)
    sizes = np.bincount(labels.ravel())
    assert (clean(mask, 1, 12) == (mask & (sizes[labels] >= 12))).all()
    assert not clean(np.zeros((5, 5), bool)).any()


@pytest.mark.parametrize("seed", range(5))
def test_a_skeleton_is_as_connected_as_its_mask_and_lies_in_it(seed):
    mask = blobs(seed)
    thin = skeleton(mask)
    assert (mask | ~thin).all()
    assert label(thin, EIGHT)[1] == label(mask, EIGHT)[1]
    assert label(~np.pad(thin, 1))[1] == label(~np.pad(mask, 1))[1]  # holes
    assert thin.sum() < 0.5 * mask.sum()


def test_a_bar_is_thinned_to_its_middle_row():
    mask = np.zeros((21, 60), bool)
    mask[8:13, 5:55] = True
    rows, columns = np.nonzero(skeleton(mask))
    assert set(rows[(columns > 10) & (columns < 50)]) == {10}


@pytest.mark.parametrize("width", [3, 5, 9])
def test_the_width_along_a_road_is_the_one_it_was_drawn_with(width):
    _, widths = widths_along(road([(10, 15), (60, 40), (110, 60)], width))
    assert np.median(widths) == pytest.approx(width, abs=1.1)  # a slanted edge lies between pixels
    straight = np.zeros((40, 60), bool)
    straight[20 - width // 2 : 21 + width // 2, 5:55] = True
    points, widths = widths_along(straight)
    assert set(widths[(points[:, 0] > 15) & (points[:, 0] < 45)]) == {width}


def test_a_broken_road_is_one_again_and_neighbours_stay_apart():
    whole = road([(5, 20), (115, 30)], 5) | road([(5, 60), (115, 60)], 5)
    broken = whole.copy()
    broken[:45, 50:60] = False
    joined = bridge(broken, gap=20)
    assert (label(broken, EIGHT)[1], label(joined, EIGHT)[1]) == (3, 2)
    assert compare_masks(joined, whole).iou > 0.97 > compare_masks(broken, whole).iou
    assert (bridge(broken, gap=6) == broken).all()


def test_ends_that_do_not_face_each_other_are_left():
    mask = road([(10, 10), (60, 10)], 5) | road([(10, 25), (60, 25)], 5)  # side by side
    assert (bridge(mask, gap=30) == mask).all()


def test_a_bridge_costs_where_two_roads_end_in_truth():
    apart = road([(5, 20), (50, 20)], 5) | road([(64, 20), (115, 20)], 5)
    assert compare_masks(bridge(apart, gap=20), apart).iou < 0.96


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_monais(seed):
    predicted, true = blobs(seed, share=0.4), blobs(seed + 10, share=0.4)
    scores = compare_masks(predicted, true)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    assert scores.iou == pytest.approx(compute_iou(*tensors).item(), abs=1e-6)
    assert scores.dice == pytest.approx(compute_dice(*tensors).item(), abs=1e-6)
    assert scores.hausdorff == pytest.approx(compute_hausdorff_distance(*tensors).item(), abs=1e-4)
    assert scores.hausdorff95 == pytest.approx(compute_hausdorff_distance(*tensors, percentile=95).item(), abs=1e-4)


def test_empty_masks_have_scores():
    none, some = np.zeros((9, 9), bool), np.eye(9, dtype=bool)
    assert compare_masks(none, none) == (1, 1, 0, 0)
    assert compare_masks(none, some) == compare_masks(some, none) == (0, 0, np.inf, np.inf)
    with pytest.raises(ValueError, match="shapes"):
        compare_masks(none, none[1:])


def test_the_threshold_is_the_one_with_the_best_f1():
    rng = np.random.default_rng(0)
    true = rng.random((30, 40)) < 0.2
    values = np.round(np.clip(0.35 * true + rng.normal(0.3, 0.15, true.shape), 0, 1), 2)
    threshold, dice = best_threshold(values, true)
    every = {t: f1_score(true.ravel(), values.ravel() >= t) for t in np.unique(values)}
    assert dice == pytest.approx(max(every.values()))
    assert every[threshold] == pytest.approx(dice)
    assert f1_score(true.ravel(), values.ravel() >= 0.5) < dice
    with pytest.raises(ValueError, match="no pixel"):
        best_threshold(values, np.zeros_like(true))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_closing_is_scipys_and_comes_after_the_opening(side):
    mask = np.random.default_rng(side).random((50, 70)) < 0.2
    inner = (slice(5, -5),) * 2  # scipy takes what is beyond the edge for empty
    square = np.ones((side, side))
    assert (clean(mask, 1, 1, closing=side)[inner] == binary_closing(mask, square)[inner]).all()
    assert (mask <= clean(mask, 1, 1, closing=side)).all()  # at the edge, too
    dense = np.random.default_rng(side).random((50, 70)) < 0.85
    both = binary_closing(binary_opening(dense, np.ones((2, 2))), square)
    inner = (slice(10, -10),) * 2
    assert (clean(dense, 2, 1, closing=side)[inner] == both[inner]).all()
