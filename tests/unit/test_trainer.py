"""The training loop: order of operations, accumulation, early stopping, going on, failures that are named."""

import copy
import csv
import math
import shutil

import numpy as np
import pytest
import torch
from small_model import PixelModel
from torch import nn

from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.electives.unet import UNet
from roadtopo_lib.losses import CombinedLoss, DiscriminativeLoss, LaneCriterion
from roadtopo_lib.models import upsample_to
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.amp import AmpChoice
from roadtopo_lib.training.meter import Meter
from roadtopo_lib.training.optimizer import build_optimizer, build_scheduler
from roadtopo_lib.training.recorders import BestModel, HistoryFile, LastModel, LatestModels, Recorder, history_csv
from roadtopo_lib.training.run_state import RunState

CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    image_size=(32, 64), batch_size=2, epochs=2, crop_scale=1.0, color_jitter=0.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight training and four validation images: grey road, two bright vertical lines."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for number in range(count):
            instance = np.zeros((32, 64), np.uint8)
            left, right = rng.integers(5, 25), rng.integers(35, 60)
            instance[8:, left : left + 3] = 1
            instance[8:, right : right + 3] = 2
            semantic = np.where(instance > 0, 2, 1).astype(np.uint8)
            image = (60 + 150 * (instance > 0)[..., None] + rng.integers(0, 30, (32, 64, 3))).astype(np.uint8)
            write_sample(root / split, str(number), image, semantic, instance)
    return root


def loaders(data, config):
    return [
        build_loader(
            LaneInstanceDataset(data, split, build_transform(config, split == "train"), config.seed),
            config,
            shuffle=split == "train",
        )
        for split in ("train", "val")
    ]


def tiny_model(seed=0):
    torch.manual_seed(seed)
    return SegFormerModel("tiny", pretrained=False)


def trainer_of(model, config, optimizer=None, criterion=None, **kwargs):
    return LaneSegmentationTrainer(model, config, criterion, optimizer, device="cpu", progress=False, **kwargs)


def semantic_replaced(loss):
    """The criterion of ``CONFIG`` with another semantic loss."""
    criterion = LaneCriterion.from_config(CONFIG)
    criterion.semantic = loss
    return criterion


class NotFiniteGradient(torch.autograd.Function):
    """Changes nothing on the way forward; backward, all gradients are lost."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def gradients_before_clipping(data, batch_size, unlabelled=False, class_weights=None, dice_weight=0.0):
    """The gradient of one optimiser step over six images, as the optimiser would see it without clipping."""
    config = CONFIG.replace(batch_size=batch_size, max_grad_norm=1e9, dice_weight=dice_weight)
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = trainer_of(model, config, optimizer, LaneCriterion.from_config(config, class_weights))
    captured = {}

    def capture(*_):
        captured.update({name: p.grad.clone() for name, p in model.named_parameters()})

    optimizer.register_step_pre_hook(capture)
    dataset = LaneInstanceDataset(data, "train")
    samples = [dataset[index] for index in range(6)]
    if unlabelled:
        samples[0]["semantic_mask"][8:] = 255  # no lane is left: with class weights it counts much less
        samples[1]["instance_mask"].zero_()
    batches = [
        torch.utils.data.default_collate(samples[start : start + batch_size])
        for start in range(0, len(samples), batch_size)
    ]
    trainer.train_step(batches, Meter())
    return captured


WEIGHTS = torch.tensor([0.2, 0.2, 5.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_accumulated_batches_give_the_gradient_of_the_large_batch(data, batch_size, unlabelled, class_weights):
    large = gradients_before_clipping(data, 6, unlabelled, class_weights)
    small = gradients_before_clipping(data, batch_size, unlabelled, class_weights)
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-7)


def test_accumulated_dice_comes_near_that_of_the_large_batch(data):
    large, small = (
        torch.cat([g.flatten() for g in gradients_before_clipping(data, size, dice_weight=0.4).values()])
        for size in (6, 2)
    )
    assert 0 < (large - small).norm() < 0.1 * large.norm()


def test_the_loss_recorded_is_that_of_each_batch_alone(data):
    """Shares change what is minimised, not what is reported."""
    dataset = LaneInstanceDataset(data, "train")
    batches = [torch.utils.data.default_collate([dataset[i] for i in pair]) for pair in ((0, 1), (2, 3))]
    model = PixelModel()
    criterion = LaneCriterion.from_config(CONFIG)
    expected = [criterion(model(b["image"], upsample=False), b)[0].item() for b in batches]
    meter = Meter()
    trainer_of(model, CONFIG, torch.optim.SGD(model.parameters(), lr=0.0)).train_step(batches, meter)
    assert meter.mean("loss") == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_last_incomplete_window_is_not_lost(data):
    config = CONFIG.replace(batch_size=2, accumulation_steps=3)  # 8 images: windows of 3 and 1 batches
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    trainer = trainer_of(model, config, optimizer)
    trainer.train_epoch(loaders(data, config)[0])
    assert len(steps) == 2
    assert all(p.grad is None for p in model.parameters()), "no gradient may leak into the next epoch"


def test_gradients_are_clipped_to_the_norm_after_unscaling(data):
    config = CONFIG.replace(max_grad_norm=1e-3)
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = trainer_of(model, config, optimizer)
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0)
    norms = []

    def capture(*_):
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())

    optimizer.register_step_pre_hook(capture)
    trainer.train_epoch(loaders(data, config)[0])
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)
    assert trainer.train_metrics["grad_norm"] < 100, "the logged norm is the true one, not 1024 times it"


class Seen(Recorder):
    """Notes what it is told."""

    def __init__(self):
        self.steps, self.epochs, self.ends = [], [], 0

    def on_step(self, trainer, values):
        self.steps.append((trainer.state.step, values["loss"], values["grad_norm"]))

    def on_epoch(self, trainer, row):
        self.epochs.append((trainer.state.epoch, row["val_loss"]))

    def on_end(self, trainer):
        self.ends += 1


def test_training_learns_and_its_recorders_are_told(data, tmp_path):
    config = CONFIG.replace(epochs=6, lr=3e-3)
    seen = Seen()
    files = (HistoryFile(tmp_path / "history.csv"), BestModel(tmp_path / "best.safetensors"))
    trainer = trainer_of(tiny_model(), config, recorders=(*files, LastModel(tmp_path / "last.safetensors"), seen))
    history = trainer.fit(*loaders(data, config))
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]
    assert seen.epochs == [(row["epoch"], row["val_loss"]) for row in history]
    assert [step for step, *_ in seen.steps] == list(range(1, 25)), "eight images, two a step, six epochs"
    first_epoch = seen.steps[:4]
    assert np.mean([loss for _, loss, _ in first_epoch]) == pytest.approx(history[0]["train_loss"], rel=1e-5)
    assert np.mean([norm for *_, norm in first_epoch]) == pytest.approx(history[0]["train_grad_norm"], rel=1e-5)
    assert seen.ends == 1
    assert {p.name for p in tmp_path.iterdir()} == {"history.csv", "best.safetensors", "last.safetensors"}
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for name in ("train_loss", "train_variance", "train_distance", "train_grad_norm", "val_loss", "val_miou"):
        assert float(rows[-1][name]) == pytest.approx(history[-1][name], rel=1e-4)
    assert history[-1]["train_loss"] == pytest.approx(
        history[-1]["train_semantic"] + config.instance_weight * history[-1]["train_instance"], rel=1e-5
    )


def equal_models(first, second):
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_run_that_pauses_and_goes_on_equals_one_in_one_go(data, tmp_path, muon_lr, through_a_file):
    config = CONFIG.replace(epochs=4, warmup_fraction=0.3, muon_lr=muon_lr, color_jitter=0.3, accumulation_steps=3)
    whole = trainer_of(tiny_model(), config)
    whole.fit(*loaders(data, config))

    paused = trainer_of(tiny_model(), config)
    assert len(paused.fit(*loaders(data, config), epochs=2)) == 2
    if through_a_file:
        paused.snapshot().save(tmp_path / "run.state")
        paused = trainer_of(tiny_model(seed=5), config)
        paused.fit(*loaders(data, config), resume=RunState.load(tmp_path / "run.state"))
    else:
        paused.fit(*loaders(data, config))
    assert without_seconds(paused.history) == without_seconds(whole.history)
    assert equal_models(paused.model, whole.model)
    assert paused.state.best_val_loss == whole.state.best_val_loss
    assert paused.fit(*loaders(data, config)) == paused.history, "a finished run stays as it is"


@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_run_that_stopped_early_goes_on_from_its_last_weights_when_patience_grows(
    data, tmp_path, monkeypatch, through_a_file
):
    def worse_after_the_first_epoch(trainer, loader):
        trainer.val_metrics = {"loss": (1.0, 2.0, 3.0, 0.5)[trainer.state.epoch - 1]}

    monkeypatch.setattr(LaneSegmentationTrainer, "validate", worse_after_the_first_epoch)
    config = CONFIG.replace(epochs=4, patience=9)
    whole = trainer_of(tiny_model(), config)
    whole.fit(*loaders(data, config))
    early = trainer_of(tiny_model(), config.replace(patience=1))
    early.fit(*loaders(data, config))
    assert len(early.history) == 2
    state = early.snapshot()
    if through_a_file:
        state.save(tmp_path / "run.state")
        state = RunState.load(tmp_path / "run.state")
    longer = trainer_of(tiny_model(seed=5), config)
    longer.fit(*loaders(data, config), resume=state)
    assert without_seconds(longer.history) == without_seconds(whole.history)
    assert equal_models(longer.model, whole.model)


def test_weights_of_another_memory_order_go_on_from_a_file(data, tmp_path):
    def new():
        torch.manual_seed(0)
        model = UNet(embedding_dim=8, widths=(8, 16)).to(memory_format=torch.channels_last)
        return trainer_of(model, CONFIG.replace(epochs=3, muon_lr=0.0, lr=1e-3))

    whole = new()
    whole.fit(*loaders(data, CONFIG))
    paused = new()
    paused.fit(*loaders(data, CONFIG), epochs=1)
    paused.snapshot().save(tmp_path / "run.state")
    paused = new()
    paused.fit(*loaders(data, CONFIG), resume=RunState.load(tmp_path / "run.state"))
    assert without_seconds(paused.history) == without_seconds(whole.history)
    assert equal_models(paused.model, whole.model)


def test_a_pause_does_not_make_a_run_more_patient(data):
    """The epochs since the best one count on."""
    config = CONFIG.replace(epochs=20, patience=2)
    trainer = trainer_of(PixelModel(), config, torch.optim.SGD(PixelModel().parameters(), lr=0.0))
    trainer.fit(*loaders(data, config), epochs=2)
    trainer.fit(*loaders(data, config))
    assert trainer.state.epoch == 3, "a model that never changes is best in its first epoch"


def test_two_runs_may_go_on_from_one_snapshot(data):
    start = trainer_of(tiny_model(), CONFIG.replace(epochs=3))
    start.fit(*loaders(data, CONFIG), epochs=1)
    state, runs = start.snapshot(), []
    for _ in range(2):
        runs.append(trainer_of(tiny_model(seed=3), start.config))
        runs[-1].fit(*loaders(data, CONFIG), resume=state)
    assert equal_models(runs[0].model, runs[1].model)


@pytest.mark.parametrize(("part", "steps", "batch"), [("train_step", 6, 2), ("validate", 8, 4)])
def test_an_epoch_that_was_stopped_goes_on_and_counts_when_it_is_judged(data, monkeypatch, part, steps, batch):
    config = CONFIG.replace(epochs=3)
    trainer = trainer_of(PixelModel(), config)
    trainer.fit(*loaders(data, config), epochs=1)
    original, calls = getattr(trainer, part), []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == {"train_step": 3, "validate": 1}[part]:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(trainer, part, stopped)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*loaders(data, config))
    state = trainer.state
    assert (state.epoch, state.step, state.batch, len(trainer.history)) == (1, steps, batch, 1)
    history = trainer.fit(*loaders(data, config))
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert trainer.state.step == 12
    assert history[-1]["lr_heads"] == pytest.approx(0.0, abs=1e-9)


def test_a_run_goes_on_with_its_own_settings_only(data):
    start = trainer_of(PixelModel(), CONFIG)
    start.fit(*loaders(data, CONFIG), epochs=1)
    state = start.snapshot()
    other = CONFIG.replace(accumulation_steps=4, lr=0.5)
    trainer = trainer_of(PixelModel(), other)
    with pytest.raises(
        ValueError, match=r"settings it began with: lr was 0\.003, is 0\.5; accumulation_steps was 1, is 4"
    ):
        trainer.fit(*loaders(data, other), resume=state)
    assert trainer.state.epoch == 0
    trainer_of(PixelModel(), CONFIG.replace(num_workers=1, patience=1)).fit(*loaders(data, CONFIG), 1, state)


def test_epochs_by_hand_may_come_before_fit(data):
    trainer = trainer_of(PixelModel(), CONFIG)
    trainer.train_epoch(loaders(data, CONFIG)[0])
    trainer.validate(loaders(data, CONFIG)[1])
    assert [row["epoch"] for row in trainer.fit(*loaders(data, CONFIG))] == [2]


def test_model_and_config_agree_on_the_classes():
    with pytest.raises(ValueError, match="the model has num_classes 9, the config says 6"):
        trainer_of(PixelModel(num_classes=9), CONFIG)


def test_a_snapshot_does_not_change_with_the_run(data):
    trainer = trainer_of(tiny_model(), CONFIG)
    trainer.fit(*loaders(data, CONFIG), epochs=1)
    state = trainer.snapshot()
    kept = copy.deepcopy(state)
    trainer.fit(*loaders(data, CONFIG))
    assert state.history == kept.history
    assert all(torch.equal(state.model[name], kept.model[name]) for name in kept.model)
    assert state.optimizer["state"].keys() == kept.optimizer["state"].keys() != {}
    for place, values in state.optimizer["state"].items():
        assert all(torch.equal(value, kept.optimizer["state"][place][name]) for name, value in values.items())


@pytest.mark.parametrize("content", [b"", b"no state", "model"])
def test_a_file_that_holds_no_run_is_refused_by_name(tmp_path, content):
    path = tmp_path / "run.state"
    if content == "model":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.state: (truncated|this is a pickled)"):
        RunState.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        RunState.load(tmp_path / "nowhere")


def test_two_runs_of_one_seed_are_equal_bit_for_bit(data):
    runs = []
    for workers in (0, 1):
        config = CONFIG.replace(color_jitter=0.3, crop_scale=0.5, num_workers=workers)
        trainer = trainer_of(tiny_model(), config)
        trainer.fit(*loaders(data, config))
        runs.append(trainer.model.state_dict())
        torch.rand(7)  # the caller's random state must not matter
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_every_epoch_has_its_own_order_and_its_own_crops(data):
    config = CONFIG.replace(color_jitter=0.3)
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = trainer_of(model, config, optimizer)
    seen = []
    trainer.train_step = lambda batches, meter: (
        seen.append({p: i for b in batches for p, i in zip(b["image_path"], b["image"], strict=True)}),
        meter.add({"loss": torch.zeros(1)}, 1),
    )
    loader = loaders(data, config)[0]
    trainer.train_epoch(loader)
    trainer.train_epoch(loader)
    first, second = ([pair for step in steps for pair in step.items()] for steps in (seen[:4], seen[4:]))
    assert [path for path, _ in first] != [path for path, _ in second]
    assert sorted(path for path, _ in first) == sorted(path for path, _ in second)
    images = dict(second)
    assert not all(torch.equal(image, images[path]) for path, image in first)


def test_dropout_draws_from_seed_and_epoch_and_leaves_the_callers_generator_alone(data):
    weights = []
    for callers_seed in (1, 2):
        model = PixelModel()
        model.encoder = nn.Sequential(model.encoder, nn.Dropout(0.5))
        trainer = trainer_of(model, CONFIG, torch.optim.SGD(model.parameters(), lr=0.1))
        torch.manual_seed(callers_seed)
        before = torch.get_rng_state()
        trainer.train_epoch(loaders(data, CONFIG)[0])
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(model.heads.weight.detach())
    assert torch.equal(*weights)


def test_the_rate_reaches_zero_with_the_last_step(data):
    trainer = trainer_of(tiny_model(), CONFIG)
    history = trainer.fit(*loaders(data, CONFIG))
    assert 0 < history[0]["lr_heads"] < CONFIG.lr
    assert history[-1]["lr_heads"] == pytest.approx(0.0, abs=1e-9)


def test_the_schedule_waits_when_the_scaler_skips_a_step(data):
    class Overflowing:
        """A scaler that met an overflow at every second step, as fp16 does at the start."""

        def __init__(self):
            self.factor, self.steps = 1024.0, 0

        def scale(self, loss):
            return loss

        def unscale_(self, optimizer):
            if self.steps % 2:  # every other step overflows
                optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)

        def step(self, optimizer):
            self.steps += 1
            if self.steps % 2:
                optimizer.step()

        def update(self):
            if self.steps % 2 == 0:
                self.factor /= 2

        def get_scale(self):
            return self.factor

        def is_enabled(self):
            return True

    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = trainer_of(model, CONFIG, optimizer)
    trainer.scaler, trainer.scheduler = Overflowing(), build_scheduler(optimizer, 4, 0.0)
    trainer.train_epoch(loaders(data, CONFIG)[0])  # four steps, two of them skipped
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5), "half of the schedule is left"
    assert 0 < trainer.train_metrics["grad_norm"] < math.inf, "a skipped step's norm is no part of the mean"


def test_an_epoch_of_skipped_steps_has_no_gradient_norm():
    meter = Meter()
    meter.add({"loss": torch.tensor(2.0)}, weight=3)
    assert meter.mean("loss") == 2.0
    assert math.isnan(meter.mean("grad_norm"))


def test_the_criterion_follows_the_config():
    settings = {"ce_weight": 0.9, "dice_weight": 0.2, "ignore_index": 7, "semantic_weight": 2.0, "instance_weight": 3.0}
    config = CONFIG.replace(**settings, delta_var=0.3, delta_dist=1.1, gamma=0.5, alpha=0.7, beta=0.8)
    criterion = LaneCriterion.from_config(config)
    logits, target = torch.randn(1, 6, 4, 4), torch.randint(0, 6, (1, 4, 4))
    target[0, 0] = 7
    expected = CombinedLoss(ce_weight=0.9, dice_weight=0.2, ignore_index=7)(logits, target)
    torch.testing.assert_close(criterion.semantic(logits, target), expected)
    instance = criterion.instance
    assert (instance.delta_var, instance.delta_dist) == (0.3, 1.1)
    assert (instance.alpha, instance.beta, instance.gamma) == (0.7, 0.8, 0.5)
    batch = {"semantic_mask": target, "instance_mask": torch.tensor([[[1, 1, 2, 2]] * 4])}
    embeddings = torch.randn(1, 8, 4, 4)
    loss, _ = criterion({"logits": logits, "embeddings": embeddings}, batch)
    torch.testing.assert_close(loss, 2.0 * expected + 3.0 * instance(embeddings, batch["instance_mask"])[0])
    assert criterion.counts(batch).tolist() == [12.0, 1.0], "four of sixteen pixels are unlabelled"


def test_early_stopping_keeps_the_best_model(data, tmp_path):
    config = CONFIG.replace(epochs=20, patience=2)
    recorders = (BestModel(tmp_path / "best.safetensors"), LastModel(tmp_path / "last.safetensors"))
    trainer = trainer_of(tiny_model(), config, recorders=recorders)
    losses = iter([3.0, 4.0, 1.0, 2.0, 2.0, 0.5])
    states = []

    def scripted(_):
        trainer.val_metrics = {"loss": next(losses), "miou": 0.0}
        states.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    trainer.validate = scripted
    trainer.fit(*loaders(data, config))
    assert trainer.state.epoch == 5, "the one bad epoch before the best does not count towards the two after it"
    best = SegFormerModel.load(tmp_path / "best.safetensors").state_dict()
    last = SegFormerModel.load(tmp_path / "last.safetensors").state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, states[2][name])
        assert torch.equal(best[name], states[2][name])
        assert torch.equal(last[name], states[4][name])


class Told:
    """A trainer of which a recorder sees the history only; each epoch's number is its one weight."""

    def __init__(self):
        self.history, self.config, self.model = [], CONFIG, PixelModel()

    def epoch(self, recorder, **scores):
        self.history.append({"epoch": len(self.history) + 1, "val_loss": 0.0, "val_miou": 0.0, **scores})
        self.model.heads.bias.data.fill_(len(self.history))
        recorder.on_epoch(self, self.history[-1])


def epoch_of(path):
    return int(PixelModel.load(path).heads.bias[0])


def test_the_best_model_may_be_that_of_any_score(tmp_path):
    for score, highest, expected in (("val_loss", False, 3), ("val_miou", True, 2)):
        told, recorder = Told(), BestModel(tmp_path / f"{score}.safetensors", score, highest)
        for loss, miou in ((3.0, 0.2), (2.0, 0.9), (1.0, 0.9), (1.0, 0.3)):
            told.epoch(recorder, val_loss=loss, val_miou=miou)
        assert epoch_of(recorder.path) == expected


def test_the_latest_models_stay(tmp_path):
    told, recorder = Told(), LatestModels(tmp_path, keep=2)
    for _ in range(4):
        told.epoch(recorder)
    assert {path.name: epoch_of(path) for path in tmp_path.iterdir()} == {
        "epoch_0003.safetensors": 3,
        "epoch_0004.safetensors": 4,
    }
    with pytest.raises(ValueError, match="keep is 0, expected at least 1"):
        LatestModels(tmp_path, keep=0)


def test_a_loss_that_is_not_finite_stops_and_names_the_files(data):
    class Broken(nn.Module):
        def forward(self, logits, mask):
            return logits.sum() * float("nan")

    trainer = trainer_of(tiny_model(), CONFIG, criterion=semantic_replaced(Broken()))
    with pytest.raises(FloatingPointError, match=r"loss is nan on the batch of .*train.images.\d\.jpg, .*\.jpg"):
        trainer.train_epoch(loaders(data, CONFIG)[0])


def test_a_validation_loss_that_is_not_finite_stops_and_names_the_files(data, tmp_path):
    class BrokenInEvaluation(nn.Module):
        def forward(self, logits, mask):
            return logits.sum() * (0.0 if trainer.model.training else math.nan)

    criterion, seen = semantic_replaced(BrokenInEvaluation()), Seen()
    recorders = (seen, HistoryFile(tmp_path / "history.csv"), LastModel(tmp_path / "last.safetensors"))
    trainer = trainer_of(tiny_model(), CONFIG, criterion=criterion, recorders=recorders)
    with pytest.raises(
        FloatingPointError, match=r"validation loss is nan on the batch of .*val.images.0\.jpg, .*1\.jpg"
    ):
        trainer.fit(*loaders(data, CONFIG))
    assert list(tmp_path.iterdir()) == [], "an epoch that was never judged leaves nothing"
    assert (seen.epochs, seen.ends) == ([], 1), "a recorder may close its files all the same"


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(data):
    class LostOnTheWayBack(nn.Module):
        calls = 0

        def forward(self, logits, mask):
            self.calls += 1
            return (NotFiniteGradient.apply(logits) if self.calls == 3 else logits).square().mean()

    config = CONFIG.replace(accumulation_steps=2)  # the third batch is in the second window
    criterion, seen = semantic_replaced(LostOnTheWayBack()), []
    trainer = trainer_of(tiny_model(), config, criterion=criterion)
    trainer.criterion = lambda outputs, batch, shares=None: (
        seen.append(batch["image_path"]),
        criterion(outputs, batch, shares),
    )[1]
    trainer.criterion.counts = criterion.counts
    with pytest.raises(FloatingPointError, match="gradient norm is nan on the batch of") as caught:
        trainer.train_epoch(loaders(data, config)[0])
    assert str(caught.value).endswith(", ".join([*seen[2], *seen[3]]))
    trainer.train_epoch(loaders(data, config)[0])  # the lost gradients do not leak into the next step
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_run_goes_on_after_a_loss_that_was_not_finite_with_loss_scaling_too(data):
    dataset = LaneInstanceDataset(data, "train")
    good = torch.utils.data.default_collate([dataset[0], dataset[1]])
    bad = {**good, "image": good["image"] * math.nan}
    model = PixelModel()
    trainer = trainer_of(model, CONFIG, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        trainer.train_step([bad], Meter())
    trainer.train_step([good], Meter())
    assert trainer.state.step == 1
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_step_is_recorded_with_the_mean_loss_of_its_images(data):
    dataset = LaneInstanceDataset(data, "train")
    batches = [torch.utils.data.default_collate([dataset[i] for i in group]) for group in ((0, 1, 2), (3,))]
    model, seen = PixelModel(), Seen()
    criterion = LaneCriterion.from_config(CONFIG)
    losses = [criterion(model(b["image"], upsample=False), b)[0].item() for b in batches]
    trainer_of(model, CONFIG, torch.optim.SGD(model.parameters(), lr=0.0), recorders=[seen]).train_step(
        batches, Meter()
    )
    assert seen.steps[0][1] == pytest.approx((3 * losses[0] + losses[1]) / 4, rel=1e-6)


class WeightsAtTheEnd(Recorder):
    """Notes the weights that the model holds when it is told of the end."""

    def on_end(self, trainer):
        self.weights = copy.deepcopy(trainer.model.state_dict())


def test_a_recorder_finds_the_best_weights_at_the_end(data):
    recorder = WeightsAtTheEnd()
    trainer = trainer_of(tiny_model(), CONFIG.replace(epochs=3, lr=0.5), recorders=[recorder])
    trainer.fit(*loaders(data, trainer.config))
    best = trainer.state.best_model
    assert all(torch.equal(recorder.weights[name], best[name]) for name in best)


def test_encoder_and_heads_learn_at_their_own_rates():
    config = CONFIG.replace(lr=1e-3, encoder_lr_scale=0.1)
    groups = {group["name"]: group for group in build_optimizer(tiny_model(), config).param_groups}
    assert groups["encoder"]["lr"] == pytest.approx(1e-4)
    assert groups["heads"]["lr"] == pytest.approx(1e-3)
    assert groups["heads"]["betas"] == (0.9, 0.999)
    assert groups["heads"]["weight_decay"] == 0.01


def test_validation_trains_nothing_and_uses_evaluation_mode(data):
    trainer = trainer_of(tiny_model(), CONFIG)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    loader = loaders(data, CONFIG)[1]
    first, second = trainer.validate(loader), trainer.validate(loader)
    assert first == second
    assert not trainer.model.training
    assert all(torch.equal(before[k], v) for k, v in trainer.model.state_dict().items()), "not even running means"


def test_the_trainer_never_sees_embeddings_at_full_size(data):
    shapes = []

    class Spy(DiscriminativeLoss):
        def forward(self, embeddings, mask):
            shapes.append((tuple(embeddings.shape[2:]), tuple(mask.shape[1:])))
            return super().forward(embeddings, mask)

    criterion = LaneCriterion.from_config(CONFIG)
    criterion.instance = Spy()
    trainer = trainer_of(tiny_model(), CONFIG, criterion=criterion)
    trainer.train_epoch(loaders(data, CONFIG)[0])
    assert set(shapes) == {((8, 16), (32, 64))}


def test_reading_at_labelled_pixels_equals_upsampling_first(data):
    model = tiny_model().eval()
    batch = next(iter(loaders(data, CONFIG)[1]))
    quarter = model(batch["image"], upsample=False)["embeddings"]
    loss, _ = DiscriminativeLoss()(quarter, batch["instance_mask"])
    full, _ = DiscriminativeLoss()(upsample_to(quarter, batch["instance_mask"].shape[1:]), batch["instance_mask"])
    torch.testing.assert_close(loss, full, rtol=1e-5, atol=1e-5)


def test_bf16_autocast_trains_to_finite_losses(data, monkeypatch):
    monkeypatch.setattr(
        "roadtopo_lib.trainer_lane.choose_amp", lambda device, mode: AmpChoice(True, torch.bfloat16, False)
    )
    trainer = trainer_of(tiny_model(), CONFIG)
    assert math.isfinite(trainer.train_epoch(loaders(data, CONFIG)[0]))


def test_a_run_trains_the_model_that_the_config_describes(data, tmp_path):
    described = {"embedding_dim": 8, "normalize_embeddings": True, "delta_dist": 0.6, "delta_var": 0.2}
    for activation in ("gelu", "relu"):
        config = CONFIG.replace(epochs=1, activation=activation, **described)
        model = train_lane_model(config, data, tmp_path / activation, device="cpu").model
        assert (model.activation, model.embedding_dim, model.normalize_embeddings) == (activation, 8, True)
        assert SegFormerModel.load(tmp_path / activation / "best.safetensors").settings() == model.settings()


def test_a_run_is_never_overwritten_unless_asked(data, tmp_path):
    config = CONFIG.replace(epochs=1)
    train_lane_model(config, data, tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run"):
        train_lane_model(config.replace(seed=1), data, tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before
    train_lane_model(config.replace(seed=1), data, tmp_path / "run", device="cpu", overwrite=True)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() != before
    assert LaneSegmentationConfig.from_yaml(tmp_path / "run" / "config.yaml").seed == 1


@pytest.fixture
def finished_run(data, tmp_path):
    """A run of one epoch, and a function that says what its folder holds."""
    train_lane_model(CONFIG.replace(epochs=1), data, tmp_path / "run", device="cpu")
    return tmp_path / "run", lambda: {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


class Counting(Recorder):
    """Adds a 1 for each epoch."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch(self, trainer, row):
        self.epochs.append(1)


@pytest.mark.parametrize("file", ["train/images/7.jpg", "val/instance_masks/3.png"])
def test_a_damaged_file_is_found_before_anything_is_written(data, tmp_path, finished_run, file):
    run, held = finished_run
    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    (damaged / file).write_bytes((data / file).read_bytes()[:60])
    before, epochs = held(), []
    for output, overwrite in ((tmp_path / "new", False), (run, True)):
        with pytest.raises(ValueError, match=file.replace(".", r"\.")):
            train_lane_model(CONFIG, damaged, output, "cpu", overwrite, [Counting(epochs)])
    assert not (tmp_path / "new").exists()
    assert held() == before
    assert not epochs


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_a_first_epoch_that_fails_leaves_nothing_new_and_the_earlier_run_whole(
    data, tmp_path, finished_run, monkeypatch, error
):
    def fail(trainer, loader):
        raise error

    run, held = finished_run
    before = held()
    monkeypatch.setattr(LaneSegmentationTrainer, "validate", fail)
    for output, overwrite in ((tmp_path / "new", False), (run, True)):
        with pytest.raises(error):
            train_lane_model(CONFIG.replace(seed=1), data, output, "cpu", overwrite)
    assert held() == before
    monkeypatch.undo()
    train_lane_model(CONFIG.replace(epochs=1), data, tmp_path / "new", "cpu")  # nothing is in the way


def test_a_run_that_is_interrupted_keeps_its_finished_epochs(data, finished_run):
    class Interrupt(Recorder):
        def on_epoch(self, trainer, row):
            if row["epoch"] == 2:
                raise KeyboardInterrupt

    run, held = finished_run
    before = held()
    config = CONFIG.replace(epochs=3, seed=1)
    with pytest.raises(KeyboardInterrupt):
        train_lane_model(config, data, run, "cpu", overwrite=True, recorders=[Interrupt()])
    assert held().keys() == {*before, "state_before.safetensors"}
    assert all(held()[name] != content for name, content in before.items()), "nothing is left of the earlier run"
    assert LaneSegmentationConfig.from_yaml(run / "config.yaml") == config
    assert len(list(csv.DictReader((run / "history.csv").open()))) == 2


def test_a_place_that_cannot_be_written_to_is_found_before_training(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(LaneSegmentationTrainer, "fit", lambda *_, **__: pytest.fail("trained all the same"))
    with pytest.raises(NotADirectoryError, match=r"file: cannot be written \(Not a directory\)"):
        train_lane_model(CONFIG, data, tmp_path / "file", "cpu")


def test_a_runs_seed_decides_its_weights_and_nothing_else_does(data, tmp_path):
    config = CONFIG.replace(epochs=1)
    weights = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(3)  # the caller's random state must not matter
        trainer = train_lane_model(config.replace(seed=seed), data, tmp_path / name, device="cpu")
        weights[name] = trainer.model.state_dict()["semantic_head.classifier.weight"]
    assert torch.equal(weights["first"], weights["again"])
    assert not torch.equal(weights["first"], weights["other"])


def test_history_csv_has_one_row_an_epoch():
    assert history_csv([{"epoch": 1, "loss": 0.123456789}]) == "epoch,loss\n1,0.123457\n"
    assert history_csv([{"epoch": 1}, {"epoch": 2, "new": 3.0}]) == "epoch,new\n1,\n2,3\n"
