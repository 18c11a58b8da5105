"""Scores of semantic masks and of instance masks."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from roadtopo_lib.labels import CROSSWALK, IGNORE_INDEX, LANE_MARKING, NUM_CLASSES, ROAD
from roadtopo_lib.metrics import (
    BoundaryIoU,
    ConfusionMatrix,
    InstanceF1,
    boundary_band,
    mask_boundary,
    mask_iou,
    match_by_iou,
)


def random_masks(seed, shape=(3, 24, 31), classes=range(NUM_CLASSES), ignored=0.1):
    rng = np.random.default_rng(seed)
    prediction, target = rng.choice(list(classes), shape), rng.choice(list(classes), shape)
    target[rng.random(shape) < ignored] = IGNORE_INDEX
    return prediction, target


def blob_masks(seed, shape=(40, 60)):
    """Smooth patches of all classes, with some unlabelled pixels: masks with an inside and an outline."""
    rng = np.random.default_rng(seed)
    pair = [ndimage.gaussian_filter(rng.normal(size=(NUM_CLASSES, *shape)), (0, 5, 5)).argmax(0) for _ in range(2)]
    prediction = np.where(rng.random(shape) < 0.5, *pair) if seed % 2 else pair[0]
    target = pair[1].copy()
    target[5:9, 10:20] = IGNORE_INDEX
    return prediction, target


# --- Semantic masks ---


def test_confusion_matrix_and_scores_equal_scikit_learn_on_random_masks():
    scores = ConfusionMatrix(NUM_CLASSES)
    predictions, targets = [], []
    for seed in range(3):
        prediction, target = random_masks(seed)
        scores.update(prediction, target)
        predictions.append(prediction[target != IGNORE_INDEX])
        targets.append(target[target != IGNORE_INDEX])
    predicted, true = np.concatenate(predictions), np.concatenate(targets)
    labels = range(NUM_CLASSES)
    np.testing.assert_array_equal(scores.matrix, sklearn_metrics.confusion_matrix(true, predicted, labels=labels))
    expected = sklearn_metrics.jaccard_score(true, predicted, labels=labels, average=None)
    np.testing.assert_allclose(scores.class_iou(), expected)
    assert scores.miou() == pytest.approx(expected.mean())
    assert scores.pixel_accuracy() == pytest.approx(sklearn_metrics.accuracy_score(true, predicted))


def test_scores_of_a_four_pixel_image_are_those_computed_by_hand():
    scores = ConfusionMatrix(3)
    scores.update(np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 1]]))
    np.testing.assert_array_equal(scores.matrix, [[1, 0, 0], [1, 2, 0], [0, 0, 0]])  # row = target, column = prediction
    np.testing.assert_allclose(scores.class_iou(), [1 / 2, 2 / 3, np.nan])
    assert scores.miou() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.pixel_accuracy() == 0.75


def test_a_class_only_in_the_prediction_counts_as_zero_and_a_class_in_neither_not_at_all():
    scores = ConfusionMatrix(NUM_CLASSES)
    scores.update(np.array([[ROAD, CROSSWALK]]), np.array([[ROAD, ROAD]]))
    iou = scores.class_iou()
    assert (iou[ROAD], iou[CROSSWALK]) == (0.5, 0.0)
    assert np.isnan(iou[LANE_MARKING])
    assert scores.miou() == 0.25


def test_updates_image_by_image_equal_one_update_with_the_batch():
    prediction, target = random_masks(5)
    batch, single = ConfusionMatrix(NUM_CLASSES), ConfusionMatrix(NUM_CLASSES)
    batch.update(prediction, target)
    for image in zip(prediction, target, strict=True):
        single.update(*image)
    np.testing.assert_array_equal(batch.matrix, single.matrix)


def test_tensors_and_small_integer_types_give_the_same_counts_as_int64_arrays():
    prediction, target = random_masks(6)
    expected, tensors, small = (ConfusionMatrix(NUM_CLASSES) for _ in range(3))
    expected.update(prediction, target)
    tensors.update(torch.from_numpy(prediction), torch.from_numpy(target))
    small.update(prediction.astype(np.uint8), target.astype(np.uint8))
    np.testing.assert_array_equal(tensors.matrix, expected.matrix)
    np.testing.assert_array_equal(small.matrix, expected.matrix)


def test_what_is_predicted_at_unlabelled_pixels_does_not_matter():
    scores = ConfusionMatrix(NUM_CLASSES)
    scores.update(np.array([[ROAD, 77]]), np.array([[ROAD, IGNORE_INDEX]]))
    assert scores.matrix.sum() == 1
    assert scores.miou() == 1.0


def test_without_a_counted_pixel_every_score_is_undefined():
    for scores in (ConfusionMatrix(2), BoundaryIoU(2)):
        assert math.isnan(scores.miou())
        scores.update(np.zeros((4, 4), int), np.full((4, 4), IGNORE_INDEX))
        assert math.isnan(scores.miou())
        assert np.isnan(scores.class_iou()).all()
    assert math.isnan(ConfusionMatrix(2).pixel_accuracy())


@pytest.mark.parametrize("accumulator", [ConfusionMatrix, BoundaryIoU])
@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[0, 6]], [[0, 0]], "prediction holds class id 6, expected 0..5"),
        ([[0, -1]], [[0, 0]], "prediction holds class id -1"),
        ([[0, 0]], [[0, 6]], "target holds class id 6"),
        ([[0, 0]], [[-2, 0]], "target holds class id -2"),
        ([[0, 0]], [[0], [0]], r"shape \(1, 2\) and target \(2, 1\)"),
        ([0, 0], [0, 0], r"expected the same \(H, W\)"),
        ([[0.0, 1.0]], [[0, 1]], "prediction has dtype float64"),
    ],
)
def test_wrong_masks_are_refused_and_nothing_is_counted(accumulator, prediction, target, message):
    scores = accumulator(NUM_CLASSES)
    with pytest.raises(ValueError, match=message):
        scores.update(np.array(prediction), np.array(target))
    assert math.isnan(scores.miou())


# --- Boundary IoU ---


def test_band_is_a_share_of_the_diagonal_and_at_least_one():
    assert boundary_band(720, 1280) == 29
    assert boundary_band(256, 512) == 11
    assert boundary_band(8, 8) == 1
    assert [boundary_band(*size, 0.005) for size in ((720, 1280), (256, 512), (8, 8))] == [7, 3, 1]
    scores = BoundaryIoU(2)
    for size in ((256, 512), (8, 8), (256, 512)):
        scores.update(np.zeros(size, int), np.zeros(size, int))
    assert scores.band == [1, 11]
    assert scores.dilation_ratio == 0.02


def test_with_the_ratio_for_large_images_a_thin_marking_is_no_longer_all_boundary():
    true, found = np.zeros((720, 1280), int), np.zeros((720, 1280), int)
    true[100:700, 600:620] = 1  # 20 px wide: less than two bands of 29 px, more than two of 7 px
    found[100:700, 604:624] = 1
    coarse, fine = BoundaryIoU(2), BoundaryIoU(2, dilation_ratio=0.005)
    for scores in (coarse, fine):
        scores.update(found, true)
    assert (coarse.dilation_ratio, coarse.band, fine.dilation_ratio, fine.band) == (0.02, [29], 0.005, [7])
    assert coarse.class_iou()[1] == 16 / 24  # the IoU
    assert fine.class_iou()[1] < 0.5


def test_the_ratio_cannot_change_while_images_are_counted():
    with pytest.raises(AttributeError):
        BoundaryIoU(2).dilation_ratio = 0.005


@pytest.mark.parametrize("ratio", [0.0, -0.02, 2.0, float("nan")])
def test_a_ratio_that_is_no_share_of_the_diagonal_is_refused(ratio):
    with pytest.raises(ValueError, match=r"dilation_ratio is .*, expected above 0 and at most 1"):
        BoundaryIoU(2, dilation_ratio=ratio)


@pytest.mark.parametrize("band", [1, 3])
def test_mask_boundary_equals_erosion_by_scipy_with_the_image_edge_as_outside(band):
    mask = blob_masks(3)[1] == ROAD
    mask[:, :12] = True
    eroded = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=band, border_value=0)
    np.testing.assert_array_equal(mask_boundary(mask, band), mask & ~eroded)


def test_boundary_iou_equals_plain_loops_over_images_and_classes():
    ratio = 0.03  # a band of 2 px at 40×60
    scores = BoundaryIoU(NUM_CLASSES, dilation_ratio=ratio)
    intersection, union = np.zeros(NUM_CLASSES), np.zeros(NUM_CLASSES)
    pairs = [blob_masks(seed) for seed in range(4)]
    scores.update(np.stack([pairs[0][0], pairs[1][0]]), np.stack([pairs[0][1], pairs[1][1]]))
    for prediction, target in pairs[2:]:
        scores.update(prediction, target)
    for prediction, target in pairs:
        for class_id in range(NUM_CLASSES):
            bands = []
            for mask in (prediction, target):
                mask = (mask == class_id) & (target != IGNORE_INDEX)
                bands.append(mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=2))
            intersection[class_id] += (bands[0] & bands[1]).sum()
            union[class_id] += (bands[0] | bands[1]).sum()
    np.testing.assert_allclose(scores.class_iou(), intersection / union)
    assert scores.miou() == pytest.approx((intersection / union).mean())


def test_boundary_iou_of_a_shifted_square_is_the_one_computed_by_hand():
    # Two 5×5 squares, one shifted by one column, band 1: each boundary is a ring of 16 pixels. The rings share two rows
    # of 4 pixels (columns 3..6); the vertical sides lie on columns 2, 6 and 3, 7. So 8 / (16 + 16 − 8) = 1/3.
    prediction, target = np.zeros((12, 12), int), np.zeros((12, 12), int)
    prediction[3:8, 3:8] = 1
    target[3:8, 2:7] = 1
    scores = BoundaryIoU(2)
    scores.update(prediction, target)
    assert scores.band == [1]
    assert scores.class_iou()[1] == pytest.approx(8 / 24)


def test_a_marking_narrower_than_two_bands_has_its_iou_as_boundary_iou():
    prediction, target = np.zeros((256, 512), int), np.zeros((256, 512), int)
    target[50:200, 100:110] = LANE_MARKING
    prediction[60:200, 103:113] = LANE_MARKING
    boundary, plain = BoundaryIoU(NUM_CLASSES), ConfusionMatrix(NUM_CLASSES)
    boundary.update(prediction, target)
    plain.update(prediction, target)
    assert boundary.class_iou()[LANE_MARKING] == plain.class_iou()[LANE_MARKING]


def test_a_prediction_right_wherever_there_is_a_label_scores_one():
    prediction, target = np.full((60, 80), ROAD), np.full((60, 80), ROAD)
    prediction[10:40, 20:50] = CROSSWALK
    target[10:40, 20:50] = CROSSWALK
    target[25:30, :60] = IGNORE_INDEX
    scores = BoundaryIoU(NUM_CLASSES)
    scores.update(prediction, target)
    assert scores.miou() == 1.0


def test_a_class_chosen_as_ignore_index_is_scored_nowhere_it_is_true():
    prediction, target = blob_masks(1)
    plain, zero = BoundaryIoU(NUM_CLASSES), BoundaryIoU(NUM_CLASSES, ignore_index=0)
    plain.update(prediction, np.where(target == 0, IGNORE_INDEX, target))
    zero.update(prediction, np.where(target == IGNORE_INDEX, 0, target))
    np.testing.assert_allclose(zero.class_iou(), plain.class_iou())


# --- Instances ---


def instance_masks(seed, shape=(20, 30)):
    """Random rectangles with ids in no order; the second mask moves, drops and adds some."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, *shape), int)
    for i in rng.permutation([3, 1, 7, 40]):
        y, x = rng.integers(0, shape[0] - 6), rng.integers(0, shape[1] - 8)
        masks[0, y : y + 6, x : x + 8] = i
        if rng.random() < 0.8:
            dy, dx = rng.integers(0, 3, 2)
            masks[1, y + dy : y + 6, x + dx : x + 8] = 50 - i
    if rng.random() < 0.3:
        masks[1, 0:3, 0:3] = 99
    return masks


def brute_force_instance_counts(predicted, target, threshold):
    """IoU by loops over ids, the best one-to-one assignment by trying all."""
    p_ids, t_ids = [sorted(set(mask.ravel().tolist()) - {0}) for mask in (predicted, target)]
    iou = np.array(
        [
            [((predicted == p) & (target == t)).sum() / ((predicted == p) | (target == t)).sum() for t in t_ids]
            for p in p_ids
        ]
    ).reshape(len(p_ids), len(t_ids))
    short, table = (len(p_ids), iou) if len(p_ids) <= len(t_ids) else (len(t_ids), iou.T)
    best = max(
        ([table[i, j] for i, j in enumerate(order)] for order in permutations(range(table.shape[1]), short)), key=sum
    )
    good = [value for value in best if value > threshold]
    return iou, len(good), len(p_ids), len(t_ids), sum(good)


def test_instance_f1_equals_loops_over_ids_and_all_assignments():
    scores = InstanceF1(0.4)
    tp = fp = fn = 0
    iou_sum = 0.0
    for seed in range(25):
        predicted, target = instance_masks(seed)
        scores.update(predicted.astype(np.uint16), torch.from_numpy(target))
        iou, matches, predictions, targets, matched_iou = brute_force_instance_counts(predicted, target, 0.4)
        np.testing.assert_allclose(mask_iou(predicted, target), iou)
        tp, fp, fn = tp + matches, fp + predictions - matches, fn + targets - matches
        iou_sum += matched_iou
    assert min(tp, fp, fn) > 5  # the random cases hold some of each
    assert (scores.tp, scores.fp, scores.fn) == (tp, fp, fn)
    assert scores.precision() == pytest.approx(tp / (tp + fp))
    assert scores.recall() == pytest.approx(tp / (tp + fn))
    assert scores.f1() == pytest.approx(
        2 * scores.precision() * scores.recall() / (scores.precision() + scores.recall())
    )
    assert scores.mean_iou_of_matches() == pytest.approx(iou_sum / tp)


def test_instance_scores_of_three_rectangles_are_those_computed_by_hand():
    target, predicted = np.zeros((10, 40), int), np.zeros((10, 40), int)
    target[:, 0:10] = 1
    predicted[:, 2:12] = 5  # IoU 80 / 120 = 2/3: found
    target[:, 20:30] = 2
    predicted[:, 25:35] = 6  # IoU 50 / 150 = 1/3: not found
    scores = InstanceF1()
    scores.update(predicted, target)
    assert (scores.tp, scores.fp, scores.fn) == (1, 1, 1)
    assert (scores.precision(), scores.recall(), scores.f1()) == (0.5, 0.5, 0.5)
    assert scores.mean_iou_of_matches() == pytest.approx(2 / 3)


def test_an_iou_of_exactly_the_threshold_is_no_match():
    target, predicted = np.zeros((1, 4), int), np.zeros((1, 4), int)
    target[0, :2] = 1
    predicted[0, :1] = 1
    scores = InstanceF1()
    scores.update(predicted, target)
    assert (scores.tp, scores.fp, scores.fn) == (0, 1, 1)


def test_matching_maximises_the_total_and_not_each_row_greedily():
    iou = np.array([[0.9, 0.8], [0.85, 0.1]])  # greedy: 0.9 + 0.1; best: 0.8 + 0.85
    predictions, targets = match_by_iou(iou, 0.5)
    assert dict(zip(predictions.tolist(), targets.tolist(), strict=True)) == {0: 1, 1: 0}


def test_images_without_instances_add_nothing_but_their_counterparts():
    empty, one = np.zeros((4, 4), int), np.ones((4, 4), int)
    scores = InstanceF1()
    scores.update(empty, empty)
    assert (scores.tp, scores.fp, scores.fn, scores.f1()) == (0, 0, 0, 0.0)
    scores.update(one, empty)
    scores.update(empty, one)
    scores.update(one, one)
    assert (scores.tp, scores.fp, scores.fn) == (1, 1, 1)


def test_wrong_instance_masks_are_refused():
    scores = InstanceF1()
    with pytest.raises(ValueError, match=r"shape \(4, 4\) and target_instances \(4, 5\)"):
        scores.update(np.zeros((4, 4), int), np.zeros((4, 5), int))
    with pytest.raises(ValueError, match="holds id -1"):
        scores.update(np.full((2, 2), -1), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="target_instances has dtype float64"):
        scores.update(np.zeros((2, 2), int), np.zeros((2, 2)))
