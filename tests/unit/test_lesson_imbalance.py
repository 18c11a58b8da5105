"""Elective 1: the scenes of the contest, its training, its scores, gradients of the losses at single pixels."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import jaccard_score

from roadtopo_lib.course.data import samples
from roadtopo_lib.course.lessons import imbalance
from roadtopo_lib.course.lessons.imbalance_pictures import contest_table, draw_contest, draw_gradients, weight_table
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import CLASS_NAMES, CROSSWALK
from roadtopo_lib.losses import WEIGHT_METHODS, CombinedLoss, DiceLoss, class_weights


def scenes(every, count=6, split="train"):
    return list(itertools.islice(imbalance.crossing_scenes(5, split, every), count))


def test_a_rarer_crossing_is_the_only_change_to_the_scenes():
    common, rare = scenes(1), scenes(3)
    for k, (shown, other) in enumerate(zip(common, rare, strict=True)):
        crossing = shown.semantic_amodal == CROSSWALK
        assert crossing.sum() >= imbalance.MIN_CROSSING
        assert shown.camera == other.camera
        if k % 3 == 0:
            np.testing.assert_array_equal(shown.image, other.image)
            np.testing.assert_array_equal(shown.semantic_amodal, other.semantic_amodal)
        else:
            assert not (other.semantic_amodal == CROSSWALK).any()
            changed = shown.semantic_amodal != other.semantic_amodal
            assert not (changed & ~crossing).any()


def test_losses_of_a_seed_begin_alike_and_another_seed_differs(monkeypatch):
    data, starts, build = imbalance.Scenes(5, "train", 8, 1), [], imbalance.build_optimizer

    def note_weights(model, config):
        starts.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return build(model, config)

    monkeypatch.setattr(imbalance, "build_optimizer", note_weights)
    for loss, seed in (("CE", 0), ("Dice", 0), ("CE", 1)):
        imbalance.train(loss, data, seed, steps=1)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_binary_masks_hold_the_crossing_alone_and_are_learnt_from_one_logit():
    whole, binary = (imbalance.Scenes(5, "train", 6, 1, one_class) for one_class in (False, True))
    assert binary.num_classes == 2
    assert torch.equal(binary.masks == 1, whole.masks == CROSSWALK)
    counts = imbalance.score(imbalance.train("focal + Dice", binary, 0, steps=2), binary)
    assert counts.shape == (3, 6, 2)
    assert (counts[1:].sum(axis=2) == binary.masks[0].numel()).all()
    np.testing.assert_array_equal(counts[2, :, 1], (binary.masks == 1).sum(dim=(1, 2)))


def test_training_repeats_itself_and_leaves_the_global_generator_alone():
    data = imbalance.Scenes(5, "train", 8, 1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = imbalance.score(imbalance.train("CE", data, 0, steps=2), data)
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(imbalance.score(imbalance.train("CE", data, 0, steps=2), data), first)


def test_scores_equal_those_of_scikit_learn():
    data = imbalance.Scenes(5, "test", 4, 2)
    model = imbalance.train("CE", data, 0, steps=3)
    predicted = model.predict(data.images.float() / 255)["semantic"]
    reference = jaccard_score(data.masks.flatten(), predicted.flatten(), average=None, labels=range(len(CLASS_NAMES)))
    np.testing.assert_allclose(imbalance.iou(imbalance.score(model, data)), reference)


def test_gradients_of_cross_entropy_are_those_of_the_textbook():
    """dL/dz = p − 1 for one pixel, times its weight over the mean weight."""
    found = imbalance.pixel_gradients(CombinedLoss(1.0, 0.0))
    for kind, value in {"easy, common": 0.05, "hard, common": 0.7, "easy, rare": 0.05, "hard, rare": 0.7}.items():
        assert found[kind] == pytest.approx(value)
    weights = torch.ones(len(CLASS_NAMES))
    weights[CROSSWALK] = 9.0
    weighted = imbalance.pixel_gradients(CombinedLoss(1.0, 0.0, class_weights=weights))
    mean = 1 + 8 * imbalance.RARE_PIXELS / imbalance.GRADIENT_PIXELS
    assert weighted["hard, rare"] == pytest.approx(0.7 * 9 / mean)
    assert weighted["hard, common"] == pytest.approx(0.7 / mean)


def measured(value=0.4):
    names = [*CLASS_NAMES, "mean"]
    rows = []
    pairs = list(itertools.product(imbalance.RARITIES, imbalance.LOSSES))
    for rarity, loss in [*pairs, *((imbalance.TABLE_RARITY, loss) for loss in imbalance.TABLE_LOSSES)]:
        row = {"loss": loss, "rarity": rarity, "iou": {key: [value, value + 0.1] for key in names}}
        row |= {"interval": {key: [value, value + 0.1] for key in names}}
        row |= {"crosswalk_recall": [0.2, 0.4], "crosswalk_false": [1.0, 2.0]}
        row |= {"slice_iou": {"crosswalk": [0.3, 0.4, 0.5], "mean": [0.5, 0.5, 0.5]}}
        if loss != "CE":
            row |= {"minus_ce": {key: [-0.01, 0.02] for key in names}, "p": dict.fromkeys(names, 0.5)}
        rows.append(row)
    return {"rarities": imbalance.RARITIES, "rows": rows}


def test_the_interval_of_the_slice_is_that_of_one_more_run():
    low, high = imbalance.slice_interval(measured(), "crosswalk")
    assert (low + high) / 2 == pytest.approx(0.4)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 2) * 0.1 * (4 / 3) ** 0.5)


def test_gains_are_points_and_errors_are_per_true_pixel():
    results = measured()
    imbalance.row_of(results, "Dice", "rare")["iou"]["crosswalk"] = [0.5, 0.7]
    assert imbalance.gain(results, "Dice", "rare") == pytest.approx(15)
    assert imbalance.gain(results, "Dice", "rare", "mean") == pytest.approx(0)
    assert imbalance.errors_of(results, "Dice", "rare") == pytest.approx((0.3, 1.5))
    assert imbalance.cost_of_errors(results, "Dice", "rare", 10) == pytest.approx(10 * 0.7 + 1.5)


def test_the_table_of_weights_holds_those_of_the_library():
    data = LaneInstanceDataset(samples(), "val")
    lines = weight_table(data).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CLASS_NAMES)
    columns = np.array([[float(cell) for cell in line.split()[2:]] for line in lines[1:]])  # (C, methods)
    for method, column in zip(WEIGHT_METHODS, columns.T, strict=True):
        np.testing.assert_allclose(column, class_weights(data, method), atol=0.006)
    assert sum(float(line.split()[1].rstrip("%")) for line in lines[1:]) == pytest.approx(100, abs=0.1)


def test_the_losses_of_the_decision_table_train_too():
    data = imbalance.Scenes(5, "train", 8, 1)
    for loss in imbalance.TABLE_LOSSES:
        imbalance.train(loss, data, 0, steps=1)


def test_the_table_and_the_pictures_hold_every_loss():
    table = contest_table(measured(), "rare").splitlines()
    assert [line[:20].strip() for line in table[1:]] == list(imbalance.LOSSES)
    assert "-0.010 … +0.020" in table[2]
    table = contest_table(measured(), imbalance.TABLE_RARITY).splitlines()
    assert [line[:20].strip() for line in table[1:]] == [*imbalance.LOSSES, *imbalance.TABLE_LOSSES]
    figure, _ = draw_contest(measured())
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(imbalance.LOSSES)
    weights = torch.ones(len(CLASS_NAMES))
    gradients = {name: imbalance.pixel_gradients(loss(weights)) for name, loss in imbalance.LOSSES.items()}
    assert len(draw_gradients(gradients, "title").axes[0].patches) == 4 * len(imbalance.LOSSES)
    plt.close("all")


def test_the_committed_results_are_those_of_the_whole_contest():
    results, names = imbalance.results(), [*CLASS_NAMES, "mean"]
    runs = set(itertools.product(imbalance.LOSSES, imbalance.RARITIES))
    runs |= {(loss, imbalance.TABLE_RARITY) for loss in imbalance.TABLE_LOSSES}
    assert {(row["loss"], row["rarity"]) for row in results["rows"]} == runs
    assert len(results["rows"]) == len(runs)
    assert len(set(results["seeds"])) >= 5
    settings = (imbalance.TRAIN_SCENES, imbalance.TEST_SCENES, imbalance.STEPS, imbalance.BATCH, imbalance.RARITIES)
    assert tuple(results[key] for key in ("train_scenes", "test_scenes", "steps", "batch", "rarities")) == settings
    for row in results["rows"]:
        assert list(row["iou"]) == list(row["interval"]) == names
        scores = np.array([row["iou"][name] for name in names])  # (classes and mean, seeds)
        assert scores.shape[1] == len(results["seeds"])
        np.testing.assert_allclose(scores[-1], scores[:-1].mean(axis=0), atol=2e-4)
        lows, highs = np.array([row["interval"][name] for name in names]).T
        assert ((lows - 1e-3 <= scores.mean(axis=1)) & (scores.mean(axis=1) <= highs + 1e-3)).all()
        assert ("p" in row) == ("minus_ce" in row) == (row["loss"] != "CE")


def test_jumps_are_those_of_the_dice_and_a_small_rate_on_one_batch_has_few():
    shaky, steady = imbalance.jumps(DiceLoss()), imbalance.jumps(DiceLoss(), lr=1.0, same_batch=True)
    assert 0.01 < shaky < 0.05
    assert steady < 0.1 * shaky
    assert imbalance.jumps(DiceLoss()) == shaky
    assert imbalance.jumps(DiceLoss(), lr=0.0) == 0  # nothing is learnt
