"""A run that begins with a trained model, and epochs that count steps."""

import json
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import safetensors.torch
import torch
from small_model import PixelModel

from roadtopo_lib import models
from roadtopo_lib.app.cli import main
from roadtopo_lib.app.initial import initial_model, load_run_config
from roadtopo_lib.config import LaneSegmentationConfig, load_config
from roadtopo_lib.course import samples
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.data.sampling import EpochSampler
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.files import save_nested
from roadtopo_lib.labels import CLASSES, LANE_MARKING, ROAD, ClassTable
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.processes import Stopped
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.recorders import Recorder


class StopAt(Recorder):
    """Sends this process SIGINT at a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, values):
        if trainer.state.step == self.step:
            signal.raise_signal(signal.SIGINT)


CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    image_size=(32, 64), crop_top=0.0, epochs=1, repeat_threshold=0.0, delta_var=0.4, embedding_dim=12
)
SEMANTIC = ["semantic_head.classifier.weight", "semantic_head.classifier.bias"]
EMBEDDING = ["embedding_head.classifier.weight", "embedding_head.classifier.bias"]


def table(*names):
    rows = [{"id": k, "name": name, "color": [9 * k, 0, 0], "instances": None} for k, name in enumerate(names)]
    return [*rows[:-1], {**rows[-1], "instances": "lane"}]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three scenes in train and two in val, and nothing else: an upright line on a road."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            instance = np.zeros((32, 64), np.uint16)
            instance[8:, 10 + 9 * number : 14 + 9 * number] = 1
            semantic = np.where(instance > 0, LANE_MARKING, ROAD)
            image = np.repeat((instance * 120 + 80).astype(np.uint8)[..., None], 3, axis=2)
            write_sample(root / split, str(number), image, semantic, instance)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained model's file; nothing in it is at its initial value."""
    torch.manual_seed(7)
    network = SegFormerModel("tiny", embedding_dim=12, pretrained=False, activation="relu")
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(1 + torch.rand(()).to(tensor.dtype))
    path = tmp_path_factory.mktemp("run") / "last.safetensors"
    network.save(path, training=CONFIG.to_dict())
    return path


def train(data, output, *options):
    return main(["train", "lane", "--data", str(data), "--output", str(output), "--device", "cpu", *map(str, options)])


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("changes", "new", "reason"),
    [
        ({}, [], ""),
        ({"num_classes": 2}, SEMANTIC, "the classes differ"),
        ({"classes": table("rest", "line")}, SEMANTIC, "the classes differ"),
        ({"classes": table(*"abcdef")}, SEMANTIC, "the classes differ"),
        ({"embedding_dim": 5}, EMBEDDING, "embedding_dim differs"),
        ({"embedding_dim": 5, "num_classes": 2}, SEMANTIC + EMBEDDING, "the classes differ and embedding_dim differs"),
    ],
)
def test_every_weight_is_kept_but_for_layers_of_other_classes_or_embeddings(model, changes, new, reason):
    config = CONFIG.replace(pretrained=str(model), **changes)
    started, told = initial_model(config)
    trained, own = models.load(model).state_dict(), started.state_dict()
    assert set(own) == set(trained)
    for name, tensor in own.items():
        assert torch.equal(tensor, trained[name]) != (name in new), name
    assert (started.num_classes, started.embedding_dim) == (config.num_classes, config.embedding_dim)
    said = f"; new, as {reason}: {', '.join(new)}" if new else ""
    assert told == f"{model}: {len(own) - len(new)} of {len(own)} tensors kept{said}"


def test_classes_of_the_same_names_keep_their_weights_whatever_their_colours(model):
    rows = [{**row, "color": [1, 2, 3]} for row in CLASSES.to_list()]
    told = initial_model(CONFIG.replace(pretrained=str(model), classes=rows))[1]
    assert told.endswith("tensors kept")
    assert "new" not in told


def test_a_model_of_any_kind_may_begin_a_run(monkeypatch, data, tmp_path, capsys):
    monkeypatch.setitem(models.KINDS, "pixel", ("small_model", "PixelModel"))
    pixel = PixelModel()
    torch.nn.init.constant_(pixel.encoder.weight, 0.25)
    pixel.save(tmp_path / "pixel.safetensors", training=CONFIG.replace(embedding_dim=8, model="pixel").to_dict())
    (tmp_path / "c.yaml").write_text("epochs: 1\nlr: 1e-30\nembedding_dim: 3\n")
    assert train(data, tmp_path / "run", "--config", tmp_path / "c.yaml", "--init", tmp_path / "pixel.safetensors") == 0
    assert "2 of 4 tensors kept; new, as embedding_dim differs: heads.weight, heads.bias" in capsys.readouterr().out
    trained = models.load(tmp_path / "run" / "best.safetensors")
    assert isinstance(trained, PixelModel)
    assert torch.allclose(trained.encoder.weight, torch.tensor(0.25))
    assert trained.embedding_dim == 3


def test_what_belongs_to_the_model_comes_from_its_file_and_all_else_from_the_run(model, tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 0.5\n")
    config = load_run_config(tmp_path / "c.yaml", model)
    assert config == LaneSegmentationConfig(
        backbone="tiny", activation="relu", embedding_dim=12, image_size=(32, 64), crop_top=0.0, delta_var=0.4,
        pretrained=str(model), lr=0.5,
    )  # fmt: skip
    (tmp_path / "c.yaml").write_text("image_size: [64, 64]\ncrop_top: 0.1\nnum_classes: 2\nembedding_dim: 3\n")
    config = load_run_config(tmp_path / "c.yaml", model)
    assert (config.image_size, config.crop_top, config.num_classes, config.embedding_dim) == ((64, 64), 0.1, 2, 3)
    (tmp_path / "c.yaml").write_text(f"classes: {json.dumps(table('rest', 'line', 'post'))}\n")
    assert load_run_config(tmp_path / "c.yaml", model).num_classes == 3


def test_a_model_of_own_classes_brings_its_table(tmp_path):
    rows = table("rest", "road", "line")
    config = CONFIG.replace(classes=rows)
    SegFormerModel("tiny", 3, 12, False, activation="relu").save(tmp_path / "m.safetensors", training=config.to_dict())
    config = load_run_config("finetune", tmp_path / "m.safetensors")
    assert config.class_table == ClassTable.from_list(rows)
    assert "new" not in initial_model(config)[1]


@pytest.mark.parametrize(
    ("setting", "found"), [("backbone: b0", "'tiny'"), ("activation: gelu", "'relu'"), ("model: unet", "'segformer'")]
)
def test_a_config_that_contradicts_the_model_is_refused_in_one_line(model, data, tmp_path, capsys, setting, found):
    (tmp_path / "c.yaml").write_text(f"{setting}\n")
    assert train(data, tmp_path / "run", "--config", tmp_path / "c.yaml", "--init", model) == 2
    name, asked = setting.split(": ")
    assert f"{model}: {name} is {found}, the config says '{asked}'; expected it to be left out" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_init_and_the_setting_pretrained_make_the_same_run(model, data, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("epochs: 1\nlr: 1e-4\n")
    (tmp_path / "b.yaml").write_text(f"epochs: 1\nlr: 1e-4\npretrained: {model}\n")
    assert train(data, tmp_path / "a", "--config", tmp_path / "a.yaml", "--init", model) == 0
    assert train(data, tmp_path / "b", "--config", tmp_path / "b.yaml") == 0
    assert (tmp_path / "a" / "last.safetensors").read_bytes() == (tmp_path / "b" / "last.safetensors").read_bytes()
    assert capsys.readouterr().out.count(f"{model}: ") == 2
    assert load_config(tmp_path / "a" / "config.yaml").pretrained == str(model)
    before, after = (models.load(path) for path in (model, tmp_path / "a" / "last.safetensors"))
    moved = [(p - q).abs().max() for p, q in zip(before.parameters(), after.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01  # one step at a small rate from these weights, and not from random ones
    assert LaneSegmenter.from_checkpoint(tmp_path / "a" / "best.safetensors", device="cpu").config.embedding_dim == 12


def test_a_run_that_goes_on_has_its_own_weights_and_not_those_it_began_with(model, data, tmp_path, capsys, monkeypatch):
    init, other = (shutil.copy(model, tmp_path / f"{name}.safetensors") for name in ("init", "other"))
    (tmp_path / "c.yaml").write_text("epochs: 2\nlr: 1e-4\n")
    options = ["--config", tmp_path / "c.yaml", "--init", init]
    assert train(data, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", lambda: StopAt(1))
        assert train(data, tmp_path / "run", *options) == 130
    capsys.readouterr()
    assert train(data, tmp_path / "run", "--config", tmp_path / "c.yaml", "--init", other, "--resume") == 2
    assert f"pretrained was '{init}', is '{other}'" in one_line(capsys)
    monkeypatch.setattr("roadtopo_lib.app.initial.load_with_info", lambda path: pytest.fail("reads the first weights"))
    assert train(data, tmp_path / "run", *options, "--resume") == 0
    out = capsys.readouterr().out
    assert "going on" in out
    assert "tensors kept" not in out
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_goes_on_when_the_file_it_began_with_is_gone(model, data, tmp_path, capsys, monkeypatch, step):
    init = shutil.copy(model, tmp_path / "init.safetensors")
    (tmp_path / "c.yaml").write_text("epochs: 2\nlr: 1e-4\n")
    options = ["--config", tmp_path / "c.yaml", "--init", init]
    assert train(data, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", lambda: StopAt(step))
        assert train(data, tmp_path / "run", *options) == 130
    assert (tmp_path / "run" / "last.safetensors").exists() == (step == 2)
    init.unlink()
    assert train(data, tmp_path / "run", *options, "--resume") == 0
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    capsys.readouterr()
    assert train(data, tmp_path / "new", *options, "--resume") == 2, "no run lies there that would know the settings"
    assert f"{init}: no such model file" in one_line(capsys)


def test_weights_that_cannot_begin_a_run_are_refused_with_the_true_reason(model, data, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(model.read_bytes())
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.pth")
    save_nested(tmp_path / "state.safetensors", "state of a run", {})
    best = tmp_path / "run" / "best.safetensors"
    for name, reason in (
        ("run", f"the folder of a run, expected a model file: {best}"),
        ("none.safetensors", "no such model file"),
        ("foreign.safetensors", "expected a model file of this library, found a safetensors file with 1 tensors"),
        ("pickle.pth", "this is a pickled checkpoint"),
        ("state.safetensors", "holds 'state of a run', expected a model"),
    ):
        assert train(data, tmp_path / "out", "--config", "finetune", "--init", tmp_path / name) == 2
        assert f"{tmp_path / name}: {reason}" in one_line(capsys)
        (tmp_path / "c.yaml").write_text(f"backbone: tiny\npretrained: {tmp_path / name}\n")
        assert train(data, tmp_path / "out", "--config", tmp_path / "c.yaml") == 2
        assert f"{tmp_path / name}: {reason}" in one_line(capsys)
    assert train(data, tmp_path / "out", "--config", "tiny", "--init", tmp_path / "moved") == 2
    assert f"{tmp_path / 'moved'}: no such model file" in one_line(capsys)
    assert train(data, tmp_path / "out", "--config", "finetune") == 2
    assert "preset finetune begins with a trained model: give --init MODEL" in one_line(capsys)
    with pytest.raises(ValueError, match=r"a model file; app\.initial\.initial_model"):
        models.build(CONFIG.replace(pretrained=str(model)))


@pytest.mark.parametrize("images", [1, 3, 40])
def test_an_epoch_counts_steps_however_many_images_there_are(images, monkeypatch, data):
    config = CONFIG.replace(steps_per_epoch=4, batch_size=2, accumulation_steps=2, epochs=2, lr=1e-5)
    monkeypatch.setattr(LaneInstanceDataset, "__len__", lambda self: images)
    monkeypatch.setattr(LaneInstanceDataset, "read", lambda self, index: read(index))
    dataset = LaneInstanceDataset(data, "train", build_transform(config, True))
    dataset.image_paths = [str(k) for k in range(images)]
    read = lambda index: (np.zeros((32, 64, 3), np.uint8), *np.ones((2, 32, 64), np.uint8))  # noqa: E731
    loader = build_loader(dataset, config, shuffle=True)
    trainer = LaneSegmentationTrainer(SegFormerModel("tiny", 6, 12, False), config, device="cpu", progress=False)
    trainer.train_epoch(loader)
    assert (trainer.state.step, len(loader)) == (4, 8)
    assert len(build_loader(dataset, config, shuffle=False)) == -(-images // 2)  # validation sees each image once


def test_epochs_of_steps_cut_one_sequence_of_whole_passes_into_pieces():
    def epochs(seed):
        sampler = EpochSampler(5, seed, draws=12)
        for sampler.epoch in range(5):
            drawn = list(sampler)
            assert len(drawn) == len(sampler) == 12
            yield from drawn

    drawn = list(epochs(0))  # 60 draws: 12 passes
    assert Counter(index for index, _ in drawn) == dict.fromkeys(range(5), 12)
    assert [number for _, number in drawn] == sorted(list(range(12)) * 5)
    passes = [tuple(index for index, number in drawn if number == k) for k in range(12)]
    assert all(sorted(order) == list(range(5)) for order in passes)
    assert len(set(passes)) > 6
    assert list(epochs(0)) == drawn != list(epochs(1))
    assert passes[3] == tuple(index for index in sampler_of_pass(3))


def sampler_of_pass(number):
    sampler = EpochSampler(5, 0)
    sampler.epoch = number
    return sampler


def test_an_image_that_an_epoch_draws_twice_is_augmented_twice(data):
    config = CONFIG.replace(crop_scale=0.3, color_jitter=0.5)
    dataset = LaneInstanceDataset(data, "train", build_transform(config, True))
    first, again, other = dataset[1, 0]["image"], dataset[1, 0]["image"], dataset[1, 1]["image"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(dataset[1]["image"], first)  # a plain index is that of the epoch's own number
    loader = build_loader(dataset, config.replace(steps_per_epoch=6, batch_size=1), shuffle=True)
    assert len({image.numpy().tobytes() for batch in loader for image in batch["image"]}) == 6


def test_a_run_of_steps_that_pauses_equals_one_that_does_not(data):
    config = CONFIG.replace(steps_per_epoch=2, epochs=3, lr=1e-3, batch_size=2, crop_scale=0.5)

    def new_trainer():
        torch.manual_seed(0)
        return LaneSegmentationTrainer(SegFormerModel("tiny", 6, 12, False), config, device="cpu", progress=False)

    def run(pause):
        trainer = new_trainer()
        loaders = [
            build_loader(LaneInstanceDataset(data, split, build_transform(config, on)), config, shuffle=on)
            for split, on in (("train", True), ("val", False))
        ]
        if pause:
            trainer.fit(*loaders, epochs=1)
            state = trainer.snapshot()
            trainer = new_trainer()
            trainer.fit(*loaders, resume=state)
        else:
            trainer.fit(*loaders)
        assert trainer.state.step == 6
        return trainer.model.state_dict()

    assert all(torch.equal(a, b) for a, b in zip(run(True).values(), run(False).values(), strict=True))


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_of_steps_that_is_stopped_at_any_step_reads_on_where_it_was(data, step):
    config = CONFIG.replace(steps_per_epoch=3, epochs=2, lr=1e-3, batch_size=2, accumulation_steps=2, crop_scale=0.5)
    read = []

    class Noted(LaneInstanceDataset):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    def fit(*recorders, **options):
        network = SegFormerModel("tiny", 6, 12, False)
        trainer = LaneSegmentationTrainer(network, config, device="cpu", recorders=recorders, progress=False)
        loaders = [
            build_loader((Noted if on else LaneInstanceDataset)(data, split, build_transform(config, on)), config, on)
            for split, on in (("train", True), ("val", False))
        ]
        try:
            trainer.fit(*loaders, **options)
        except Stopped:
            return trainer.snapshot()
        return trainer.model.state_dict()

    torch.manual_seed(0)
    whole, order = fit(), read[:]
    read.clear()
    torch.manual_seed(0)
    resumed = fit(resume=fit(StopAt(step)))
    assert read == order, "each sample is read once, with the number of its pass"
    assert len(order) == 24
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), resumed.values(), strict=True))


def test_a_data_set_of_train_and_val_can_be_trained_on_and_scored(data, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("epochs: 1\n")
    shipped = samples() / "tiny.safetensors"
    assert train(data, tmp_path / "run", "--config", tmp_path / "c.yaml", "--init", shipped) == 0
    evaluate = ["evaluate", "lane", "--model", str(tmp_path / "run" / "best.safetensors"), "--device", "cpu"]
    capsys.readouterr()
    for source, warned in ((data, True), (data / "val", False)):
        assert main([*evaluate, "--data", str(source)]) == 0
        printed = capsys.readouterr().out
        assert "2 images   mIoU" in printed
        assert (f"no test split in {data}: scores of val, which has chosen the epoch" in printed) is warned
    assert main([*evaluate, "--data", str(data), "--split", "val"]) == 0
    assert "no test split" not in capsys.readouterr().out


def test_a_run_is_not_replaced_by_one_that_begins_with_its_own_file(model, data, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("epochs: 1\nlr: 1e-4\n")
    options = ["--config", tmp_path / "c.yaml", "--init"]
    assert train(data, tmp_path / "run", *options, model) == 0
    capsys.readouterr()
    best = tmp_path / "run" / "best.safetensors"
    assert train(data, tmp_path / "run", *options, best, "--overwrite") == 2
    assert f"{best}: lies in the run that is to be replaced" in one_line(capsys)
    assert best.is_file()
    assert train(data, tmp_path / "other", *options, best) == 0


def test_a_network_that_no_config_describes_goes_on_too(data, tmp_path, monkeypatch):
    network = UNet(embedding_dim=12, widths=(8, 16), norm="group")
    network.save(tmp_path / "unet.safetensors", training=CONFIG.replace(model="unet").to_dict())
    (tmp_path / "c.yaml").write_text("epochs: 2\nlr: 1e-3\n")
    options = ["--config", tmp_path / "c.yaml", "--init", tmp_path / "unet.safetensors"]
    assert train(data, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", lambda: StopAt(1))
        assert train(data, tmp_path / "run", *options) == 130
    assert train(data, tmp_path / "run", *options, "--resume") == 0
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
