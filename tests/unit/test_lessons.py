"""Machinery of the lessons: what notebook 6 measures with."""

import numpy as np
import pytest
import torch

from roadtopo_lib.app import main_job
from roadtopo_lib.course.lessons import lane_audit, postprocessing
from roadtopo_lib.labels import CROSSWALK, LANE_MARKING
from roadtopo_lib.losses import DiscriminativeLoss
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.synth import image_seed


def test_lanes_at_the_margin_just_satisfy_the_loss():
    x, truth = postprocessing.lanes_at_the_margin(200)
    masks = torch.from_numpy(truth + 1).reshape(1, 1, 200)
    embeddings = torch.from_numpy(x.T.copy()).reshape(1, 32, 1, 200)
    true_means = np.eye(5, 32) * 3 / np.sqrt(2)
    assert np.linalg.norm(x - true_means[truth], axis=1).max() <= 0.5 + 1e-6
    assert DiscriminativeLoss(0.6, 1.4, gamma=0.0)(embeddings, masks)[0] < 1e-6
    assert DiscriminativeLoss(0.3, 1.5, gamma=0.0)(embeddings, masks)[0] > 0.01  # no room to spare


def test_dbscan_on_a_sample_finds_even_lanes_and_gives_up_on_noise():
    x, truth = postprocessing.lanes_at_the_margin(500)
    labels = postprocessing.dbscan_on_a_sample(x, 1.5)
    assert len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == 5
    noise = 100 * np.random.default_rng(0).normal(size=(50, 32))
    assert set(postprocessing.dbscan_on_a_sample(noise, 1.5)) == {-1}


def test_a_method_that_misses_a_lane_is_not_timed():
    with pytest.raises(AssertionError, match="five lanes"):
        postprocessing.time_at_the_margin(lambda x: np.zeros(len(x), dtype=int), 100)


def test_the_toy_street_gives_crosswalks_the_embeddings_of_lanes():
    means = np.array([[0.0, 0], [3, 0], [0, 3]])
    street, embeddings = postprocessing.toy_street(means)
    assert np.count_nonzero(street == LANE_MARKING) == 15
    assert np.count_nonzero(street[6] == CROSSWALK) < np.count_nonzero(street[1] == CROSSWALK)
    np.testing.assert_array_equal(embeddings[:, 1, 4], means[1])
    np.testing.assert_array_equal(embeddings[:, 6, 0], means[0])
    np.testing.assert_array_equal(embeddings[:, 7, 8], means[2])


def test_the_seeds_with_two_crosswalks_have_two():
    for seed in postprocessing.TWO_CROSSWALKS[:2]:
        scene = render_scene(seed, preset="day")
        assert scene.instance_amodal.max() == len(scene.lanes) + 2


def test_scenes_with_two_crosswalks_are_counted_by_their_labels(monkeypatch):
    job = (main_job.TRAIN_SCENES, main_job.TRAIN_SIZE, main_job.TRAIN_SEED)
    assert job == (postprocessing.LEARNT_SCENES, postprocessing.LEARNT_SIZE, postprocessing.LEARNT_SEED)
    monkeypatch.setattr(postprocessing, "LEARNT_SCENES", 140)
    shown = 0
    for k in range(140):
        scene = render_scene(image_seed(1, "train", k), (128, 256), "day")
        ids = np.unique(scene.instance_amodal[scene.semantic_amodal == CROSSWALK])
        shown += np.count_nonzero(ids > len(scene.lanes)) > 1
    assert 0 < postprocessing.trained_with_two_crosswalks() == shown


def test_unseen_scenes_are_those_that_the_main_job_tests_on():
    assert (main_job.DAY_TEST_SEED, main_job.TEST_SIZE) == (lane_audit.TEST_SEED, lane_audit.TEST_SIZE)
    (scene,) = lane_audit.unseen_scenes(1)
    np.testing.assert_array_equal(scene.image, render_scene(image_seed(2, "test", 0), (256, 512), "day").image)


def test_fate_names_the_first_stage_that_loses_a_lane():
    true = np.repeat([0, 1, 2, 3], [5, 1, 2, 3])
    masks = {"not in the class mask": true > 0, "below min_pixels": np.where(true > 1, 1, 0)}
    fates = [lane_audit.fate(masks, true, lane) for lane in (1, 2, 3)]
    assert fates == ["below min_pixels", "given to another lane", "found"]


def test_f1_counts_false_and_missed_lanes_alike():
    np.testing.assert_allclose(lane_audit.f1_of(np.array([[1, 1, 0], [1, 0, 1], [2, 0, 0]])), [2 / 3, 2 / 3, 1])


def test_an_audit_names_false_results_and_wrong_orders():
    true = np.zeros((64, 96), dtype=int)
    true[20:, 20:26], true[20:, 60:66] = 1, 2
    found = np.zeros_like(true)
    found[20:, 20:26], found[20:, 60:66], found[20:, 40:46] = 2, 1, 3
    line = [np.array([[x, 20.0], [x, 63.0]]) for x in (22.5, 62.5, 42.5)]
    scene = lane_audit.Inspected(np.zeros((64, 96, 3), np.uint8), true, line[:2], {}, np.empty((0, 2)), np.empty(0))
    rows = lane_audit.audit({"all": found}, scene, [line[1], line[0], line[2]])
    assert sorted(rows) == [("found", 1), ("found", 2), ("result on no lane", 0), ("wrong order", 0)]
    assert lane_audit.tally([rows, rows])["found"] == 4
