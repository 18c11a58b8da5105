"""Each contract with a second implementation: whatever satisfies it goes through the same doors as our own."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_model import PixelModel

from roadtopo_lib import models
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course import samples
from roadtopo_lib.data.samples import instances_by_role, write_sample
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.files import save_weights
from roadtopo_lib.inference.baselines import classical_lanes
from roadtopo_lib.inference.evaluation import evaluate
from roadtopo_lib.labels import LANE_MARKING, ROAD
from roadtopo_lib.losses import LaneCriterion, MeanOverImages
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import collect_instances
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.meter import Meter
from roadtopo_lib.training.recorders import Recorder

CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    model="pixel", embedding_dim=8, image_size=(64, 96), crop_top=0.0, epochs=30, lr=0.05, muon_lr=0.0
)


@pytest.fixture
def pixel_kind(monkeypatch):
    """The line that adds a kind of model."""
    monkeypatch.setitem(models.KINDS, "pixel", ("small_model", "PixelModel"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight scenes in train and val: two upright lines, one reddish and one bluish, on grey."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(8):
            instance = np.zeros((64, 96), np.uint16)
            for place, left in enumerate(rng.integers((5, 60), (35, 85)), start=1):
                instance[8:, left : left + 5] = place
            colors = np.array([(80, 80, 80), (230, 60, 60), (60, 60, 230)], np.uint8)
            semantic = np.where(instance > 0, LANE_MARKING, ROAD)
            write_sample(root / split, f"{number}", colors[instance], semantic, instance)
    return root


def test_a_model_that_is_no_segformer_goes_through_trainer_file_and_segmenter(pixel_kind, data, tmp_path):
    trainer = train_lane_model(CONFIG, data, tmp_path / "run", device="cpu")
    assert isinstance(trainer.model, PixelModel)
    segmenter = LaneSegmenter.from_checkpoint(tmp_path / "run" / "best.safetensors", device="cpu")
    assert isinstance(segmenter.model, PixelModel)
    scores = evaluate(segmenter, LaneInstanceDataset(data, "val"))
    assert scores["lane_f1"] > 0.9
    assert scores["instance_f1"] > 0.9


def test_load_finds_the_class_of_any_model_file(pixel_kind, tmp_path):
    for model in (PixelModel(num_classes=3), SegFormerModel("tiny", pretrained=False)):
        model.save(tmp_path / "model.safetensors", note="kept")
        loaded, info = models.load_with_info(tmp_path / "model.safetensors")
        assert type(loaded) is type(models.load(tmp_path / "model.safetensors")) is type(model)
        assert info == {"note": "kept"}
        assert not loaded.training
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_model_file_is_read_once(tmp_path, monkeypatch):
    config = CONFIG.replace(model="segformer", embedding_dim=32)
    SegFormerModel("tiny", pretrained=False).save(tmp_path / "m.safetensors", training=config.to_dict())
    read, original = [], models.load_weights
    monkeypatch.setattr(models, "load_weights", lambda path: (read.append(path), original(path))[1])
    LaneSegmenter.from_checkpoint(tmp_path / "m.safetensors", device="cpu")
    assert len(read) == 1
    SegFormerModel.load(tmp_path / "m.safetensors")
    assert len(read) == 2


def test_a_kind_that_nobody_knows_is_refused_by_file_name(tmp_path):
    PixelModel().save(tmp_path / "model.safetensors")
    kinds = r"\('segformer', 'unet', 'resunet'\)"
    with pytest.raises(ValueError, match=rf"model\.safetensors: model is 'pixel', expected one of {kinds}"):
        models.load(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: expected a model of kind 'segformer', found 'pixel'"):
        SegFormerModel.load(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model is 'pixel'"):
        models.build(CONFIG)


def red_left(outputs, batch):
    """A loss that knows neither classes nor instances: the first embedding is the pixel's red."""
    first = models.upsample_to(outputs["embeddings"], batch["image"].shape[2:])[:, 0]
    error = (first - batch["image"][:, 0]).square().mean()
    return error, {"error": error.detach(), "loss": torch.tensor(7.0)}  # the name of the loss is taken


def test_a_criterion_of_another_kind_trains_the_same_model(data):
    config = CONFIG.replace(epochs=6, accumulation_steps=2)
    sets = [LaneInstanceDataset(data, split, build_transform(config, split == "train")) for split in ("train", "val")]
    trainer = LaneSegmentationTrainer(PixelModel(), config, MeanOverImages(red_left), device="cpu", progress=False)
    history = trainer.fit(*(build_loader(s, config, shuffle=s.split == "train") for s in sets))
    assert history[-1]["val_loss"] < 0.5 * history[0]["val_loss"]
    assert history[-1]["val_error"] == pytest.approx(history[-1]["val_loss"])


WITHOUT_DICE = CONFIG.replace(dice_weight=0.0, max_grad_norm=1e9)


@pytest.mark.parametrize("criterion", [MeanOverImages(red_left), LaneCriterion.from_config(WITHOUT_DICE)])
def test_shares_of_unequal_batches_add_up_to_the_large_batch(data, criterion):
    dataset = LaneInstanceDataset(data, "train")
    moved = []
    for groups in ([range(4)], [range(3), range(3, 4)]):
        model = PixelModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        trainer = LaneSegmentationTrainer(model, WITHOUT_DICE, criterion, optimizer, device="cpu", progress=False)
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        batches = [torch.utils.data.default_collate([dataset[i] for i in group]) for group in groups]
        trainer.train_step(batches, Meter())
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - before)
    torch.testing.assert_close(*moved, rtol=1e-4, atol=1e-6)
    assert moved[0].abs().max() > 1e-3


class StepCounter(Recorder):
    """Counts optimiser steps."""

    count = 0

    def on_step(self, trainer, values):
        self.count += 1


def test_a_recorder_of_another_kind_counts_the_steps(pixel_kind, data, tmp_path):
    counter = StepCounter()
    config = CONFIG.replace(epochs=3, accumulation_steps=2, batch_size=2)
    trainer = train_lane_model(config, data, tmp_path / "run", device="cpu", recorders=[counter])
    assert counter.count == trainer.state.step == 3 * 8 // (2 * 2)


class BareRecorder:
    """The three events of the contract, and no base class."""

    def __init__(self):
        self.told = []

    def on_step(self, trainer, values):
        self.told.append("step")

    def on_epoch(self, trainer, row):
        self.told.append("epoch")

    def on_end(self, trainer):
        self.told.append("end")


def test_a_recorder_needs_the_three_events_only(pixel_kind, data, tmp_path):
    recorder = BareRecorder()
    config = CONFIG.replace(epochs=2, batch_size=4)
    train_lane_model(config, data, tmp_path / "run", device="cpu", recorders=[recorder])
    assert recorder.told == [*["step", "step", "epoch"] * 2, "end"]


def labels_as_result(dataset):
    """A finder that returns the labels themselves, image by image."""
    truth = iter([dataset.read(i) for i in range(len(dataset))])

    def find(image):
        _, semantic, instance = next(truth)
        groups = []
        for role in ("lane", "crosswalk"):
            pixels = np.flatnonzero(np.isin(instance, instances_by_role(semantic, instance, role)))
            groups.append((pixels, instance.ravel()[pixels].astype(np.int64)))
        return collect_instances(semantic, *groups, min_pixels=0)

    return find


def test_a_result_made_without_a_network_is_scored():
    dataset = LaneInstanceDataset(samples(), "val")
    scores = evaluate(labels_as_result(dataset), dataset, baselines=True)
    assert scores["miou"] == scores["instance_f1"] == 1.0
    assert scores["lane_f1"] > 0.9
    classical = evaluate(classical_lanes, dataset)
    assert 0.1 < classical["lane_f1"] == scores["baselines"]["opencv"]["lane_f1"] < 0.9


def test_classical_lanes_speak_the_class_table_of_the_data(data):
    classes = LaneSegmentationConfig(num_classes=2).class_table
    find = partial(classical_lanes, lane_class_id=classes.lane_ids[0])
    two = LaneInstanceDataset(data, "val", classes=classes)
    two.read = lambda index: (np.full((64, 96, 3), 80, np.uint8), *np.zeros((2, 64, 96), np.uint8))
    assert evaluate(find, two, baselines=True)["miou"] == 1.0


def test_a_sample_comes_back_as_it_was_written(tmp_path):
    instance = np.zeros((40, 60), np.int64)
    instance[:, 10:14], instance[:, 40:44] = 1, 300
    semantic = np.where(instance > 0, LANE_MARKING, ROAD)
    image = np.stack([*np.mgrid[0:40, 0:60] * 4, np.full((40, 60), 90)], axis=2).astype(np.uint8)
    write_sample(tmp_path / "train", "a", image, semantic, instance)
    read = LaneInstanceDataset(tmp_path, "train").read(0)
    np.testing.assert_array_equal(read[1], semantic)
    np.testing.assert_array_equal(read[2], instance)
    assert np.abs(read[0].astype(int) - image).mean() < 4, "JPEG"


def test_the_class_table_of_the_readme_becomes_a_config(tmp_path, monkeypatch):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (snippet,) = (s for s in re.findall(r"```python\n(.*?)```", readme, re.S) if "own.yaml" in s)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    config = LaneSegmentationConfig.from_yaml(tmp_path / "own.yaml")
    assert config.class_table.names == ("background", "line")
    assert (config.backbone, config.num_classes, config.class_table.lane_ids) == ("tiny", 2, (1,))


def test_a_run_reads_its_labels_by_the_class_table_of_its_config(data, tmp_path):
    config = CONFIG.replace(model="segformer", embedding_dim=32, num_classes=2)
    with pytest.raises(ValueError, match=rf"semantic ids \[{LANE_MARKING}\] found, expected 0\.\.1 or 255"):
        train_lane_model(config, data, tmp_path / "run", device="cpu")


def test_a_model_file_that_lacks_a_tensor_says_which(tmp_path):
    model = SegFormerModel("tiny", pretrained=False)
    tensors = model.state_dict()
    del tensors["semantic_head.classifier.bias"]
    save_weights(tmp_path / "m.safetensors", "segformer", tensors, model.settings())
    with pytest.raises(ValueError, match=r"m\.safetensors: weights do not fit .*semantic_head\.classifier\.bias"):
        models.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header", ['{"kind": ["a"], "config": {}, "info": {}}', '{"kind": "a", "config": 5, "info": {}}']
)
def test_a_header_of_the_wrong_types_is_refused_by_file_name(tmp_path, header):
    content = safetensors.torch.save({"w": torch.zeros(1)}, metadata={"roadtopo_lib": header})
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"m\.safetensors: the model's settings in the file header are missing or damaged"
    ):
        models.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["a/b", "../b"])
def test_a_sample_stays_in_its_folder(tmp_path, name):
    mask = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"name of a file without folders"):
        write_sample(tmp_path / "train", name, np.zeros((8, 8, 3), np.uint8), mask, mask)
    assert not (tmp_path / "train").exists()
