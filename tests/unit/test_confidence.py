"""How sure a model may be: calibrated on scenes apart, kept in its file, and doubtful instances left out."""

import json
import shutil

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from roadtopo_lib.app.calibrate import _fitted, calibrate
from roadtopo_lib.app.cli import main
from roadtopo_lib.confidence import (
    Calibration,
    ConfidentSegmenter,
    crossing_features,
    lane_features,
    load_segmenter,
    reliability,
    stored,
    stripes,
)
from roadtopo_lib.course.data import samples
from roadtopo_lib.data.images import read_image
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.files import load_weights, save_weights
from roadtopo_lib.labels import CLASSES
from roadtopo_lib.models import load_with_info
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import write_dataset

MODEL = samples() / "tiny.safetensors"
AS_IT_IS = Calibration((1.0, 0.0, 0.0), 0.0)
"""The mean probability itself."""


@pytest.fixture(scope="module")
def image():
    return read_image(sorted((samples() / "test" / "images").iterdir())[0])


def with_calibration(path, lanes=AS_IT_IS, crossings=None, thresholds=None):
    file = load_weights(MODEL)
    kept = stored(lanes, crossings, thresholds or {"lanes": 0.0, "crossings": 0.0})
    save_weights(path, file.kind, file.tensors, file.config, **{**file.info, "confidence": kept})
    return path


def test_a_fit_gives_back_the_probabilities_that_made_the_labels():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (20_000, 3)) * [1, 10, 0.1]
    truth = Calibration((0.8, 0.05, -3.0), -2.0)
    fitted = Calibration.fit(features, rng.random(len(features)) < truth(features))
    np.testing.assert_allclose(fitted(features), truth(features), atol=0.03)


@pytest.mark.parametrize("right", [np.ones(5, bool), np.zeros(5, bool)])
def test_instances_that_are_all_alike_teach_nothing(right):
    with pytest.raises(ValueError, match="none to tell apart"):
        Calibration.fit(np.ones((5, 3)), right)


def test_reliability_is_that_of_scikit_learn_and_its_error_the_weighted_gap():
    rng = np.random.default_rng(1)
    confidence = rng.random(500)
    right = rng.random(500) < confidence**2
    rows, error = reliability(confidence, right)
    share, mean = calibration_curve(right, confidence, n_bins=10)
    np.testing.assert_allclose([row["right"] for row in rows], share, atol=1e-4)
    np.testing.assert_allclose([row["confidence"] for row in rows], mean, atol=1e-4)
    assert error == pytest.approx(np.average(np.abs(share - mean), weights=[row["count"] for row in rows]), abs=1e-4)
    assert reliability(np.array([1.0, 0.0]), np.array([True, False]))[1] == 0


def test_stripes_are_counted_whatever_their_number_and_bare_road_has_none():
    for number in (1, 3, 6):
        image = np.full((40, 130, 3), 80, np.uint8)
        for k in range(number):
            image[:, 10 + 20 * k : 20 + 20 * k] = 200
        pixels = np.zeros((40, 130), bool)
        pixels[5:35, 4 : 26 + 20 * (number - 1)] = True
        assert stripes(image, pixels) == number
    assert stripes(np.full((40, 130, 3), 80, np.uint8), pixels) == 0


@pytest.mark.parametrize("rows", [[3, 30], [3, 4, 30, 31]])
def test_a_crossing_in_two_parts_has_stripes_too(rows):
    image, pixels = np.full((40, 60, 3), 80, np.uint8), np.zeros((40, 60), bool)
    pixels[rows, 5:50] = True
    image[:, 10:20] = 200
    assert stripes(image, pixels) == 1


def test_a_striped_crossing_on_the_road_is_told_from_a_patch_beside_it():
    image, semantic = np.full((60, 120, 3), 80, np.uint8), np.zeros((60, 120), np.int64)
    semantic[20:, :70] = 1
    crossings = np.zeros((60, 120), np.int32)
    crossings[30:40, 5:65], crossings[30:40, 85:110] = 1, 2
    semantic[crossings > 0] = CLASSES.crosswalk_ids[0]
    image[30:40, 5:65][:, np.arange(60) % 12 < 6] = 220
    image[30:40, 85:110] = 220
    probability = np.where(crossings > 0, 0.9, 0.05)[30:]
    result = {"semantic_mask": semantic, "crosswalk_instances": crossings, "crosswalk_count": 2}
    real, patch = crossing_features(result, probability, 30, image, CLASSES)
    assert real[0] == pytest.approx(patch[0]) == pytest.approx(np.log(0.9 / 0.1), abs=0.05)
    assert real[1] - patch[1] == pytest.approx(np.log(600 / 250))
    assert (real[2], patch[2]) == (1.0, 0.0)
    assert np.expm1(real[3]) == pytest.approx(5)
    assert np.expm1(patch[3]) == pytest.approx(0)


def test_without_a_threshold_all_that_changes_is_that_confidence_is_there(image, tmp_path):
    plain, sure = (
        LaneSegmenter.from_checkpoint(MODEL)(image),
        load_segmenter(with_calibration(tmp_path / "m.safetensors")),
    )
    result = sure(image)
    assert plain["lane_count"] > 1
    for name, value in plain.items():
        np.testing.assert_equal(result[name], value)
    outputs = sure.predict(image)
    means = [outputs["confidence"][plain["lane_instances"] == k].mean() for k in range(1, plain["lane_count"] + 1)]
    np.testing.assert_allclose(result["lane_confidence"], means, rtol=1e-4)  # weight 1 on the mean's logit
    assert type(load_segmenter(MODEL)) is LaneSegmenter


def test_the_error_is_that_of_scenes_which_the_fit_did_not_see(monkeypatch):
    fits, fit = [], Calibration.fit
    monkeypatch.setattr(Calibration, "fit", lambda features, right: fits.append(features[:, 2]) or fit(features, right))
    rng = np.random.default_rng(0)
    scenes = np.repeat(np.arange(40), 5)
    rows = [(k, np.array([rng.normal(), rng.normal(), float(k)]), bool(rng.random() < 0.7)) for k in scenes]
    calibration, report = _fitted(rows)
    assert calibration is not None
    assert report["count"] == 200
    held = [sorted(set(range(40)) - set(seen.astype(int))) for seen in fits]
    assert held == [*(list(range(first, first + 10)) for first in (0, 10, 20, 30)), []]  # neighbours together; then all


def test_a_kind_that_is_wrong_in_one_fold_only_has_no_calibration():
    """Outside of that fold all are right: nothing could tell what a calibration is worth there."""
    rows = [(k, np.array([float(k % 7), 1.0, 2.0]), k >= 10) for k in np.repeat(np.arange(40), 5)]
    assert _fitted(rows) == (None, None)


def test_doubtful_lanes_go_and_the_others_are_numbered_anew(image, tmp_path):
    whole = load_segmenter(with_calibration(tmp_path / "m.safetensors"))(image)
    worst = int(np.argmin(whole["lane_confidence"]))
    limit = float(np.sort(whole["lane_confidence"])[:2].mean())
    rest = load_segmenter(tmp_path / "m.safetensors", threshold=limit)(image)
    kept = [k for k in range(whole["lane_count"]) if k != worst]
    assert rest["lane_count"] == len(kept) == len(rest["lane_polylines"]) == len(rest["lane_centers"])
    for new, old in enumerate(kept):
        np.testing.assert_array_equal(rest["lane_instances"] == new + 1, whole["lane_instances"] == old + 1)
        np.testing.assert_array_equal(rest["lane_polylines"][new], whole["lane_polylines"][old])
    own = with_calibration(tmp_path / "n.safetensors", thresholds={"lanes": limit, "crossings": 0.0})
    assert load_segmenter(own)(image)["lane_count"] == len(kept)  # the file's own


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"lanes": None}, "cannot be read"),
        (5, "cannot be read"),
        ({"lanes": {"weights": [1.0], "bias": 0.0}, "crossings": None, "thresholds": {}}, "cannot be read"),
        (
            {
                "lanes": {"weights": [1.0], "bias": 0.0}, "crossings": None, "thresholds": {"lanes": 0, "crossings": 0},
            },
            "cannot be read",
        ),
        (
            {"lanes": None, "crossings": None, "thresholds": {"lanes": float("nan"), "crossings": 0}},
            "cannot be read",
        ),
        (
            {
                "lanes": {"weights": ["a", 1, 2], "bias": 0.0}, "crossings": None,
                "thresholds": {"lanes": 0, "crossings": 0},
            },
            "cannot be read",
        ),
    ],
)  # fmt: skip
def test_a_calibration_of_a_stranger_is_one_line(tmp_path, kept, message):
    file, path = load_weights(MODEL), tmp_path / "m.safetensors"
    save_weights(path, file.kind, file.tensors, file.config, **{**file.info, "confidence": kept})
    with pytest.raises(ValueError, match=message) as error:
        load_segmenter(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("threshold", "message"), [(0.5, "road-topology calibrate"), (1.5, "expected 0 to 1"), (np.nan, "expected 0 to 1")]
)
def test_thresholds_that_mean_nothing_are_refused(threshold, message):
    with pytest.raises(ValueError, match=message):
        load_segmenter(MODEL, threshold=threshold)


def test_the_command_fits_and_keeps_it_and_infer_heeds_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("roadtopo_lib.app.calibrate.FEWEST", 20)
    write_dataset(tmp_path / "data", {"val": 14}, (120, 208), 5, "all", amodal=True, workers=1, progress=False)
    model = tmp_path / "m.safetensors"
    shutil.copy(MODEL, model)
    command = ["calibrate", "lane", "--model", str(model), "--data", str(tmp_path / "data"), "--device", "cpu"]
    assert main([*command, "--picture", str(tmp_path / "r.png")]) == 0
    out = capsys.readouterr().out
    assert "right; calibration error" in out
    assert read_image(tmp_path / "r.png").shape[2] == 3
    info = load_with_info(model)[1]
    kept = info["confidence"]
    assert {name: value for name, value in info.items() if name != "confidence"} == load_with_info(MODEL)[1]
    assert kept["scenes"] == 14
    assert kept["report"]["lanes"]["count"] >= kept["report"]["lanes"]["right"] > 0
    segmenter = load_segmenter(model)
    assert isinstance(segmenter, ConfidentSegmenter)
    photo = tmp_path / "data" / "val" / "images"
    for threshold, expected in (("0", 1), ("1", 0)):
        output = tmp_path / f"out{threshold}"
        infer = ["infer", "lane", "--model", str(model), "--input", str(photo), "--output", str(output)]
        assert main([*infer, "--format", "json", "--confidence", threshold]) == 0
        lanes = [lane for path in output.glob("*.json") for lane in json.loads(path.read_text())["lanes"]]
        assert bool(lanes) == bool(expected)
        assert all(0 < lane["confidence"] < 1 for lane in lanes)


def test_images_are_calibrated_at_the_size_at_which_infer_sees_them(tmp_path, monkeypatch):
    root, model, seen = tmp_path / "data", tmp_path / "m.safetensors", []
    write_dataset(root, {"val": 14}, (192, 400), 5, "all", amodal=True, workers=1, progress=False)
    shutil.copy(MODEL, model)
    monkeypatch.setattr("roadtopo_lib.pipeline.MOST_PIXELS", 1)  # twice the area of the training images then
    original = ConfidentSegmenter.predict
    monkeypatch.setattr(ConfidentSegmenter, "predict", lambda s, image: seen.append(image.shape) or original(s, image))
    data = LaneInstanceDataset(root, "val")
    monkeypatch.setattr("roadtopo_lib.app.calibrate.FEWEST", 20)
    calibrate(model, data, "cpu")
    load_segmenter(model, "cpu")(data.read(0)[0])
    assert len(seen) == 15
    assert len(set(seen)) == 1
    assert seen[0][0] < 192


def test_a_picture_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    write_dataset(tmp_path / "data", {"val": 1}, (64, 96), 5, "all", workers=1, progress=False)
    monkeypatch.setattr("roadtopo_lib.app.calibrate.calibrate", lambda *_: pytest.fail("it has begun"))
    shutil.copy(MODEL, tmp_path / "m.safetensors")
    command = ["calibrate", "lane", "--model", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "data")]
    assert main([*command, "--picture", str(tmp_path / "data")]) == 2
    assert "this is a folder" in capsys.readouterr().err


def test_confidence_is_refused_where_tiles_would_ignore_it(image, tmp_path, capsys):
    model, photo = with_calibration(tmp_path / "m.safetensors"), sorted((samples() / "test" / "images").iterdir())[0]
    command = ["infer", "lane", "--model", str(model), "--input", str(photo), "--output", str(tmp_path / "out")]
    assert main([*command, "--tile", "64", "--confidence", "0.5"]) == 2
    assert "does not go with --tile" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_keeps_the_calibration_and_a_run_that_begins_with_the_model_does_not(tmp_path):
    model = with_calibration(tmp_path / "m.safetensors")
    assert main(["export", "folder", "--model", str(model), "--output", str(tmp_path / "folder")]) == 0
    assert isinstance(load_segmenter(tmp_path / "folder" / "model.safetensors"), ConfidentSegmenter)
    root = tmp_path / "data"
    write_dataset(root, {"train": 2, "val": 1}, (64, 96), 5, "all", workers=1, progress=False)
    (tmp_path / "c.yaml").write_text("image_size: [32, 64]\nbatch_size: 2\nepochs: 1\nnum_workers: 0\n")
    command = ["train", "lane", "--config", str(tmp_path / "c.yaml"), "--init", str(model), "--data", str(root)]
    assert main([*command, "--output", str(tmp_path / "run"), "--device", "cpu"]) == 0
    for name in ("best", "last"):
        assert "confidence" not in load_with_info(tmp_path / "run" / f"{name}.safetensors")[1]


def test_features_of_nothing_are_an_empty_table(image):
    nothing = {"lane_polylines": [], "lane_instances": np.zeros((4, 4), int), "crosswalk_count": 0,
               "semantic_mask": np.zeros((4, 4), int), "crosswalk_instances": np.zeros((4, 4), int)}  # fmt: skip
    assert lane_features(nothing, np.zeros((4, 4))).shape == (0, 3)
    assert crossing_features(nothing, np.zeros((2, 2)), 0, np.zeros((4, 4, 3), np.uint8), CLASSES).shape == (0, 4)
    assert Calibration((1.0, 2.0, 3.0), 0.0)(np.zeros((0, 3))).shape == (0,)
