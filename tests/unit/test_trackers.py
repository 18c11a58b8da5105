"""TensorBoard and Weights & Biases, offline: what a run of a few steps leaves in their files."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from small_model import PixelModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.electives.trackers import TensorBoardRecorder, Tracker, WandbRecorder, data_version
from roadtopo_lib.models import KINDS

CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    model="pixel", embedding_dim=8, image_size=(32, 64), crop_top=0.0, batch_size=2, epochs=2, muon_lr=0.0,
    repeat_threshold=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def pixel_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "pixel", ("small_model", "PixelModel"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            semantic = np.ones((32, 64), np.uint8)
            semantic[10:, 20:24] = 2
            image = np.where(semantic == 2, 220, 60 + number).astype(np.uint8)[..., None].repeat(3, axis=2)
            write_sample(root / split, str(number), image, semantic, (semantic == 2).astype(np.uint16), suffix=".png")
    return root


class Kept(Tracker):
    """A tracker that keeps all in memory."""

    def __init__(self, **options):
        super().__init__(**options)
        self.numbers, self.pictures = [], []

    def write_numbers(self, values, step):
        self.numbers.append((step, values))

    def write_pictures(self, pictures, step):
        self.pictures.append((step, pictures))


def file_version(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))


def test_steps_epochs_and_pictures_are_told(data, images, tmp_path):
    kept = Kept(images=images)
    trainer = train_lane_model(CONFIG, data, tmp_path / "run", device="cpu", recorders=[kept])
    steps = [(step, values) for step, values in kept.numbers if "step/loss" in values]
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert all(set(values) == {"step/loss", "step/grad_norm", "step/lr"} for _, values in steps)
    epochs = [(step, values) for step, values in kept.numbers if "epoch/val_miou" in values]
    assert [step for step, _ in epochs] == [2, 4]
    assert epochs[1][1] == {f"epoch/{name}": value for name, value in trainer.history[1].items()}
    assert [(step, len(pictures)) for step, pictures in kept.pictures] == [(2, 2), (4, 2)]
    picture = kept.pictures[0][1][0]
    assert picture.shape == (32, 64, 3)
    assert picture.dtype == np.uint8
    assert kept.facts == {}


def test_tensorboard_reads_what_is_written(data, images, tmp_path):
    recorder = TensorBoardRecorder(
        tmp_path / "board", CONFIG.to_dict(), images=images, data=data, checkpoint=tmp_path / "run/best.safetensors"
    )
    trainer = train_lane_model(CONFIG, data, tmp_path / "run", device="cpu", recorders=[recorder])
    found = EventAccumulator(str(tmp_path / "board"), {"images": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    written = [(event.step, event.value) for event in found.Scalars("epoch/val_miou")]
    measured = [row["val_miou"] for row in trainer.history]
    assert written == [(2, pytest.approx(measured[0])), (4, pytest.approx(measured[1]))]
    assert [event.step for event in found.Scalars("step/loss")] == [1, 2, 3, 4]
    assert [event.step for event in found.Images("image 1")] == [2, 4]
    text = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "epochs: 2" in text
    assert f"data_version: {data_version(data)}" in text
    assert "best.safetensors" in text
    text = found.Tensors("end/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"checkpoint_version: {file_version(tmp_path / 'run' / 'best.safetensors')}" in text


def test_wandb_writes_offline(data, images, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="it needs pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    best = tmp_path / "run" / "best.safetensors"
    recorder = WandbRecorder(tmp_path / "wandb_files", CONFIG.to_dict(), images=images, data=data, checkpoint=best)
    assert recorder.run.config["data_version"] == data_version(data)
    assert recorder.run.config["epochs"] == 2
    train_lane_model(CONFIG, data, tmp_path / "run", device="cpu", recorders=[recorder])
    (run,) = (tmp_path / "wandb_files" / "wandb").glob("offline-run-*")
    (written,) = run.glob("*.wandb")
    content = written.read_bytes()
    assert all(name in content for name in (b"step/grad_norm", b"epoch/val_miou", b"data_version"))
    assert file_version(best).encode() in content
    assert len(list(run.rglob("*.png"))) == 4


def test_the_data_version_changes_with_any_byte_and_any_name(data, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    assert data_version(copy) == data_version(data)
    (copy / "notes.txt").write_text("no data")
    assert data_version(copy) == data_version(data)
    mask = next((copy / "val" / "semantic_masks").iterdir())
    mask.write_bytes(mask.read_bytes() + b" ")
    changed = data_version(copy)
    assert changed != data_version(data)
    mask.rename(mask.with_name("9.png"))
    assert data_version(copy) not in (changed, data_version(data))


@pytest.mark.parametrize(("recorder", "package"), [(TensorBoardRecorder, "tensorboard"), (WandbRecorder, "wandb")])
def test_a_missing_package_is_one_sentence(recorder, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"^{package} is not installed: pip install {package}$"):
        recorder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_keeps_its_mode(images):
    class Trainer:
        model = PixelModel().train()
        state = type("State", (), {"step": 3})

    Kept(images=images).on_epoch(Trainer, {"epoch": 1})
    assert Trainer.model.training
