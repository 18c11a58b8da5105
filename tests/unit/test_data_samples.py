"""The committed samples are what their command makes, and they are small."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from roadtopo_lib.confidence import load_segmenter
from roadtopo_lib.dataset import LaneInstanceDataset, image_to_tensor
from roadtopo_lib.electives.thin import compare_masks
from roadtopo_lib.files import load_weights
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.inference.tiling import tiled_predict
from roadtopo_lib.labels import CROSSWALK
from roadtopo_lib.models import load
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.scenes import render_aerial, render_scene
from roadtopo_lib.scenes.synth import image_seed

SAMPLES = Path(__file__).parents[2] / "data_samples"
META = json.loads((SAMPLES / "meta.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("split", "count"), [("train", 48), ("val", 12), ("test", 12)])
def test_every_sample_can_be_read(split, count):
    dataset = LaneInstanceDataset(SAMPLES, split)
    assert len(dataset) == count
    samples = [dataset[index] for index in range(count)]
    assert {tuple(sample["image"].shape) for sample in samples} == {(3, 256, 512)}
    with_instances = sum(bool(sample["instance_mask"].any()) for sample in samples)
    assert with_instances >= 0.9 * count, "a road without any marking is rare, yet it happens"


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("train", 41), ("val", 5), ("test", 11)])
def test_samples_rendered_again_are_the_same(split, index):
    scene = render_scene(image_seed(META["seed"], split, index), tuple(META["size"]), META["preset"])
    image, semantic, instance = LaneInstanceDataset(SAMPLES, split).read(index)
    assert META["labels"] == "amodal"
    # Another OpenCV or processor may round a pixel at an edge differently; JPEG costs a few grey levels.
    assert (semantic == scene.semantic_amodal).mean() > 0.999
    assert (instance == scene.instance_amodal).mean() > 0.999
    assert np.abs(image.astype(int) - scene.image.astype(int)).mean() < 5
    assert np.corrcoef(image.ravel(), scene.image.ravel())[0, 1] > 0.98


def test_the_samples_hold_crosswalks_and_are_small():
    dataset = LaneInstanceDataset(SAMPLES, "train")
    assert any((dataset.read(index)[1] == CROSSWALK).any() for index in range(len(dataset)))
    apart = SAMPLES / "checkpoints"
    assert sum(f.stat().st_size for f in SAMPLES.rglob("*") if f.is_file() and apart not in f.parents) < 8e6


def test_the_committed_checkpoint_finds_most_lanes_of_the_samples():
    segmenter = LaneSegmenter.from_checkpoint(SAMPLES / "tiny.safetensors", device="cpu")
    assert next(segmenter.model.parameters()).dtype == torch.float32
    assert evaluate(segmenter, LaneInstanceDataset(SAMPLES, "test"))["lane_f1"] > 0.6


def test_the_committed_unet_finds_most_roads_from_above():
    model, scene = load(SAMPLES / "aerial.safetensors"), render_aerial(29, (256, 256))
    assert next(model.parameters()).dtype == torch.float32
    found = tiled_predict(model, image_to_tensor(scene.image), 128, 32)[1].numpy() >= 0.5
    assert compare_masks(found, scene.semantic > 0).dice > 0.85


def test_the_card_of_the_shipped_model_says_what_the_readme_says():
    card = load_weights(SAMPLES / "tiny.safetensors").info["card"]
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert card["command"] == "make run"
    assert f"trained on {card['data']['counts']['train']} scenes" in readme
    for scenes in ("day", "all"):
        line = next(line for line in readme.splitlines() if f"preset `{scenes}`" in line)
        scores = [card["scores"][f"{scenes}, {key}"] for key in ("miou", "lane_f1", "instance_f1")]
        assert [f"{score:.3f}" for score in scores] == [cell.strip() for cell in line.strip("|").split("|")[1:]]
        assert line.startswith(f"| {card['scores'][f'{scenes}, images']},")


@pytest.mark.parametrize(("name", "most"), [("lane-small", 3e6)])
def test_a_model_for_photographs_is_small_calibrated_and_says_how_it_was_made(name, most):
    path = SAMPLES / "checkpoints" / f"{name}.safetensors"
    assert path.stat().st_size <= most
    info = load_weights(path).info
    card, readme = info["card"], (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert card["command"] == f"python data_samples/make_lane_models.py {name} FOLDER"
    assert card["data"]["preset"] == "wild"
    assert info["training"]["pretrained"] is False  # not the path of an earlier stage on somebody's disk
    assert [row["epoch"] for row in card["stages"][-1]["curve"]] == [*range(1, card["stages"][-1]["epochs"] + 1)]
    for kind in ("lanes", "crossings"):
        assert info["confidence"]["report"][kind]["error"] <= 0.05
        assert card["scores"][f"{kind}, calibration error"] == info["confidence"]["report"][kind]["error"]
    reports, pages = info["confidence"]["report"], (SAMPLES.parent / "README.md").read_text(encoding="utf-8")
    after, before = ([f"{reports[k][key]:.3f}" for k in ("lanes", "crossings")] for key in ("error", "error_before"))
    assert f"off by {after[0]} for lanes and {after[1]} for crossings" in pages
    assert f"{before[0]} and {before[1]} for the mean probability" in pages
    assert f"{info['confidence']['scenes']} others of it calibrated the confidence" in readme
    assert f"{card['hours']:.1f} hours" in readme
    for scenes in ("day", "all", "painted"):
        line = next(row for row in readme.splitlines() if row.startswith(f"| `{name}` | {scenes} |"))
        columns = ("miou", "lane_f1", "instance_f1", "TuSimple accuracy", "TuSimple fp", "TuSimple fn")
        scores = [f"{card['scores'][f'{scenes}, {column}']:.3f}" for column in columns]
        assert scores == [cell.strip() for cell in line.strip("|").split("|")[2:]]


def test_the_small_model_for_photographs_finds_more_than_that_of_make_run():
    test = LaneInstanceDataset(SAMPLES, "test")
    found = [
        evaluate(load_segmenter(SAMPLES / name, "cpu"), test)["lane_f1"]
        for name in ("tiny.safetensors", "checkpoints/lane-small.safetensors")
    ]
    assert found[1] > found[0] + 0.03
