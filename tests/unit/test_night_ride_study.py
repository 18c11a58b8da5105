"""Elective 3: choices differ in one thing, training repeats itself, scores against scikit-learn's, stored results."""

import copy
import dataclasses
import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import STYLE
from roadtopo_lib.course.data import samples
from roadtopo_lib.electives import night_ride_pictures as picture
from roadtopo_lib.electives import night_ride_study as lesson
from roadtopo_lib.electives.night_ride import CLASSES, MOVEABLE, MY_BIKE, NIGHT_ROAD, RIDER, class_mask
from roadtopo_lib.electives.safety import FalseRoad, metres_ahead
from roadtopo_lib.metrics import BoundaryIoU

SHIPPED = samples() / "tiny.safetensors"
HALF = "half precision"


@pytest.fixture(scope="module")
def ride():
    return lesson.read_ride(5, 4)


def test_each_choice_differs_from_the_preset_in_one_thing():
    base = dataclasses.asdict(lesson.CHOICES[lesson.BASE])
    for name, choice in lesson.CHOICES.items():
        changed = [key for key, value in dataclasses.asdict(choice).items() if value != base[key]]
        assert len(changed) == (name != lesson.BASE), name
    preset = LaneSegmentationConfig.preset("night-ride-tiny")
    assert (base["weights"], base["lr"], base["shares"]) == (preset.class_weights, preset.lr, (0.6, 0.4))


def test_a_ride_is_read_back_as_it_was_rendered(ride):
    assert len(ride) == 4
    image, semantic, _ = ride.read(0)
    assert image.shape == (*lesson.SIZE, 3)
    assert set(np.unique(semantic)) <= set(range(6))
    assert {cut.class_id for cut in lesson.bank_of(ride)} <= {lesson.LANE_MARK, MOVEABLE}


def test_training_repeats_itself_and_begins_with_the_shipped_weights_but_the_last_layer(ride):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again = (lesson.train(lesson.BASE, ride, 0, SHIPPED, epochs=1).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    config = LaneSegmentationConfig.preset("night-ride-tiny").replace(embedding_dim=1)
    shipped = lesson.models.load(SHIPPED).state_dict()
    begun, fresh = (lesson.begin(config, file).state_dict() for file in (SHIPPED, None))
    same = {name for name, value in begun.items() if torch.equal(value, shipped.get(name, torch.empty(0)))}
    encoder = {name for name in begun if name.startswith("encoder.")}
    assert encoder <= same
    assert "semantic_head.classifier.weight" not in same
    assert not all(torch.equal(fresh[name], shipped[name]) for name in encoder)


def test_batches_and_epochs_are_those_of_the_choice(ride, monkeypatch):
    sizes, batch_of = [], lesson.batch_of
    monkeypatch.setattr(lesson, "batch_of", lambda *args: sizes.append(len(args[1])) or batch_of(*args))
    monkeypatch.setitem(lesson.CHOICES, "small", lesson.Choice(batch=2, epochs=3))
    lesson.train("small", ride, 0, SHIPPED)
    assert sizes == [2] * 6


def test_the_model_of_the_epoch_with_the_best_validation_is_kept(ride, monkeypatch):
    """Validation changes nothing in the training itself: the last epoch's model is that of the preset."""
    last = lesson.train(lesson.BASE, ride, 0, SHIPPED, epochs=3).state_dict()
    seen, values = [], iter([0.1, 0.5, 0.3])
    monkeypatch.setattr(lesson, "VAL_SCENES", 1)
    monkeypatch.setattr(
        lesson, "score", lambda model, scenes, size: seen.append(copy.deepcopy(model.state_dict())) or {}
    )
    monkeypatch.setattr(lesson, "scores_of", lambda counts: {"mIoU": next(values)})
    kept = lesson.train("best_miou kept", ride, 0, SHIPPED, epochs=3).state_dict()
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert all(torch.equal(last[name], seen[2][name]) for name in last)
    assert not torch.equal(seen[1]["semantic_head.classifier.weight"], last["semantic_head.classifier.weight"])


def test_half_precision_changes_a_training_by_rounding_only(ride):
    name = "semantic_head.classifier.weight"
    plain, half = (lesson.train(c, ride, 0, SHIPPED, epochs=1).state_dict()[name] for c in (lesson.BASE, HALF))
    torch.manual_seed(0)
    config = LaneSegmentationConfig.preset("night-ride-tiny").replace(muon_lr=0.0, embedding_dim=1)
    begun = lesson.begin(config, SHIPPED).state_dict()[name]
    assert 0 < (plain - half).norm() < 0.5 * (plain - begun).norm()


def test_scores_follow_from_counts_as_the_metrics_give_them(monkeypatch):
    scenes = lesson.unseen_scenes(2)
    rng = np.random.default_rng(0)
    found = [np.where(rng.random(lesson.SIZE) < 0.3, NIGHT_ROAD, class_mask(scene)) for scene in scenes]
    answers = iter(found)
    monkeypatch.setattr(lesson, "predict", lambda model, image, size: next(answers))
    counts = lesson.score(None, scenes, (96, 96))
    scores = lesson.scores_of(lesson.pooled(counts))
    true = np.stack([class_mask(scene) for scene in scenes])
    pair = true.ravel(), np.stack(found).ravel()
    expected = jaccard_score(*pair, average=None, labels=range(6))
    assert [scores[f"IoU {name}"] for name in CLASSES.names] == pytest.approx(expected)
    assert (scores["mIoU"], scores["accuracy"]) == pytest.approx((expected.mean(), accuracy_score(*pair)))
    for ratio in lesson.RATIOS:
        boundary = BoundaryIoU(6, dilation_ratio=ratio)
        boundary.update(np.stack(found), true)
        assert scores[f"mBoundary {ratio}"] == pytest.approx(boundary.miou())
    road = FalseRoad(lesson.EDGES)
    for scene, classes in zip(scenes, found, strict=True):
        road.update(classes, class_mask(scene), metres_ahead(scene.camera, lesson.CORRIDOR))
    shares = [scores[f"false road {lesson.bin_name(k)}"] for k in range(len(lesson.EDGES) - 1)]
    np.testing.assert_allclose(shares, road.shares())
    assert 0.2 < scores["false road"] < 0.4
    one = {name: values[1] for name, values in counts.items()}
    assert lesson.scores_of(one)["mIoU"] != scores["mIoU"]


def test_pasting_leaves_motorcycle_and_rider_as_they_are(ride):
    for realistic in (True, False):
        paste = lesson.pasting(lesson.bank_of(ride), realistic, probability=1.0)
        for index in range(len(ride)):
            before = ride.read(index)
            after = paste(*before, seed=index)
            own = np.isin(before[1], (MY_BIKE, RIDER))
            assert np.array_equal(own, np.isin(after[1], (MY_BIKE, RIDER)))
            assert np.array_equal(before[0][own], after[0][own])


@pytest.fixture(scope="module")
def measured():
    return lesson.results(samples() / "night_ride.json")


def test_the_stored_results_are_of_these_choices_and_sizes(measured):
    assert [row["choice"] for row in measured["rows"]] == list(lesson.CHOICES)
    assert (measured["train_scenes"], measured["test_scenes"]) == (lesson.TRAIN_SCENES, lesson.TEST_SCENES)
    assert (measured["epochs"], measured["batch"]) == (lesson.EPOCHS, lesson.BATCH)
    assert json.loads(json.dumps([lesson.SIZE, lesson.RATIOS, lesson.EDGES])) == [
        measured[key] for key in ("scored_at", "ratios", "edges")
    ]
    low, high = lesson.slice_interval(measured)
    assert 0 < low < np.mean(measured["slice_miou"]) < high < 1
    for row in measured["rows"]:
        assert all(len(values) == len(measured["seeds"]) for values in row["scores"].values())


def test_tables_and_pictures_show_every_choice(measured):
    table = picture.choice_table(measured, "mIoU").splitlines()
    assert [line[:22].strip() for line in table[1:]] == list(lesson.CHOICES)
    with plt.rc_context(STYLE):
        figure, words = picture.draw_choices(measured, ("mIoU", "IoU Lane Mark", "false road"))
        figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == list(lesson.CHOICES)[1:]
    assert "IoU Lane Mark" in words
    assert ["less" in ax.get_xlabel() for ax in figure.axes] == [False, False, True]
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert all(left.x1 + 5 < right.x0 for left, right in itertools.pairwise(boxes)), "numbers touch"
    plt.close(figure)


def test_bins_of_distance_and_classes_have_their_colours_named():
    ahead = np.full((20, 30), np.nan, np.float32)
    ahead[10:15], ahead[15:], ahead[:, -1] = 10.0, 4.0, 99.0
    figure = picture.draw_metres(np.zeros((20, 30, 3), np.uint8), ahead)
    drawn = np.ma.filled(figure.axes[1].images[0].get_array(), -1)
    assert [drawn[row, 0] for row in (0, 12, 18)] == [-1, 1, 0]
    assert (drawn[:, -1] == -1).all()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*map(lesson.bin_name, range(len(lesson.EDGES) - 1)), "not counted"]
    figure = picture.with_classes(plt.figure(layout="constrained"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASSES.names)
    plt.close("all")


def test_night_scenes_are_brightened_and_outlines_are_orange():
    image = np.full((20, 30, 3), 16, np.uint8)
    assert 60 < picture.brightened(image).mean() < 90
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:10] = True
    outlined = picture.outlined(image, mask)
    assert (outlined[5, 5] == (255, 140, 40)).all()
    assert (outlined[0, 0] == picture.brightened(image)[0, 0]).all()
    heated = picture.heated(image, mask.astype(float))
    assert heated[7, 7, 0] > heated[7, 7, 2]
