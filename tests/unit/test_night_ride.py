"""The rendered night ride in its public layout: outlines that give the masks back, and the converter reads it."""

import json

import cv2
import numpy as np
import pytest
import yaml

from roadtopo_lib.app.cli import main
from roadtopo_lib.data.samples import list_samples, read_sample
from roadtopo_lib.electives import night_ride
from roadtopo_lib.electives.night_ride import CLASSES, class_mask, outlines, write_night_ride
from roadtopo_lib.losses import LaneCriterion
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import render_scene
from roadtopo_lib.scenes.synth import image_seed

SIZE = (135, 240)


@pytest.fixture(scope="module")
def ride(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ride")
    assert write_night_ride(folder, 4, seed=3, size=SIZE) == folder / "COCO_motorcycle (pixel).json"
    return folder


def truth(number):
    return class_mask(render_scene(image_seed(3, "train", number), SIZE, "night-ride"))


def test_the_six_categories_all_show(ride):
    assert CLASSES.names == ("Undrivable", "Road", "Lane Mark", "Moveable", "My bike", "Rider")
    assert set(np.unique([truth(number) for number in range(1, 5)])) == set(range(6))
    content = json.loads((ride / night_ride.JSON_NAME).read_text())
    assert {row["name"] for row in content["categories"]} == set(CLASSES.names)
    assert [row["file_name"] for row in content["images"]] == [f"night ride ({number}).png" for number in range(1, 5)]
    assert {path.name for path in ride.iterdir()} == {night_ride.JSON_NAME, "images"}  # as in the public set
    names = {path.name for path in (ride / "images").iterdir()}
    assert names >= {"night ride (4).png", "night ride (4).png___fuse.png", "night ride (4).png___save.png"}
    assert len(names) == 12


def test_outlines_from_the_largest_on_give_the_mask_back():
    mask = np.zeros((20, 30), np.uint8)
    mask[4:16, 4:24] = 1
    mask[6:14, 8:20] = 0  # a hole
    mask[9:11, 12:15] = 4  # and something in it
    drawn = np.full_like(mask, 9)
    for class_id, ring in outlines(mask):
        cv2.fillPoly(drawn, [ring], class_id)
    assert np.array_equal(drawn, mask)


def test_the_converter_reads_it_with_the_data_sets_own_classes(ride, tmp_path):
    table = tmp_path / "classes.yaml"
    table.write_text(yaml.safe_dump(CLASSES.to_list()))
    assert main(["convert", "coco", str(ride), str(tmp_path / "data"), "--classes", str(table), "--workers", "1"]) == 0
    report = json.loads((tmp_path / "data" / "convert_report.json").read_text())
    assert (report["read"], report["written"], report["dropped"]) == (4, 4, {})
    for number, paths in enumerate(zip(*list_samples(tmp_path / "data", "train"), strict=True), start=1):
        _, semantic, instance = read_sample(*paths, CLASSES)
        assert (semantic != truth(number)).mean() < 0.005
        assert set(np.unique(semantic[instance > 0])) <= {night_ride.LANE_MARK}


def test_the_presets_table_trains_with_its_weights_and_keeps_three_models(ride, tmp_path, monkeypatch):
    data, seen = tmp_path / "data", []
    write_night_ride(tmp_path / "other ride", 4, seed=4, size=SIZE)
    for source, split in ((ride, "train"), (tmp_path / "other ride", "val")):
        command = ["convert", "coco", str(source), str(data), "--classes", "night-ride", "--workers", "1"]
        assert main([*command, "--split", split]) == 0
    from_config = LaneCriterion.from_config
    spy = lambda config, weights: seen.append(weights) or from_config(config, weights)  # noqa: E731
    monkeypatch.setattr(LaneCriterion, "from_config", spy)
    options = ["--config", "night-ride-tiny", "--epochs", "1", "--device", "cpu", "--data", str(data)]
    assert main(["train", "lane", *options, "--output", str(tmp_path / "run")]) == 0
    assert seen[0].tolist() == [1, 1, 12, 6, 1, 1]
    kept = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert kept >= {"best_miou.safetensors", "best_mbou.safetensors", "last.safetensors"}
    assert LaneSegmenter.from_checkpoint(tmp_path / "run" / "last.safetensors", "cpu").classes == CLASSES
    assert main(["train", "lane", *options, "--output", str(tmp_path / "plain"), "--keep", ""]) == 0
    assert not list((tmp_path / "plain").glob("best_m*"))
