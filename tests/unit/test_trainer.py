"""The training loop: order of operations, accumulation, early stopping, reproducibility, failures that are named."""

import csv
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.losses import CombinedLoss, DiscriminativeLoss
from roadtopo_lib.segformer import SegFormerModel, upsample_to
from roadtopo_lib.trainer_lane import (
    LaneSegmentationTrainer,
    Meter,
    history_csv,
    train_lane_model,
)
from roadtopo_lib.training.amp import AmpChoice
from roadtopo_lib.training.optimizer import (
    build_instance_criterion,
    build_optimizer,
    build_scheduler,
    build_semantic_criterion,
)

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
            for folder, array in (("images", image), ("semantic_masks", semantic), ("instance_masks", instance)):
                path = root / split / folder / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
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


class PixelModel(nn.Module):
    """A 1×1 convolution with the interface of the real model and without BatchNorm, so that batches are independent."""

    num_classes = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Conv2d(3, 8, 1)
        self.heads = nn.Conv2d(8, 38, 1)

    def forward(self, images, upsample=False):
        out = self.heads(self.encoder(images).tanh())
        return {"logits": out[:, :6], "embeddings": out[:, 6:]}


class NotFiniteGradient(torch.autograd.Function):
    """Changes nothing on the way forward; backward, all gradients are lost."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def gradients_before_clipping(
    data, batch_size, accumulation_steps, unlabelled=False, class_weights=None, dice_weight=0.0, per_image=False
):
    """The gradient of the first optimiser step, as the optimiser would see it without clipping."""
    config = CONFIG.replace(
        batch_size=batch_size, accumulation_steps=accumulation_steps, max_grad_norm=1e9, dice_weight=dice_weight
    )
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    criterion = build_semantic_criterion(config, class_weights)
    criterion.dice.per_image = per_image
    trainer = LaneSegmentationTrainer(model, optimizer, criterion, device="cpu", config=config, progress=False)
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
    trainer._training_step(batches, Meter())
    return captured


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.2, 0.2, 5.0, 1.0, 1.0, 1.0])])
@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_accumulated_batches_give_the_gradient_of_the_large_batch(data, batch_size, unlabelled, class_weights):
    large = gradients_before_clipping(data, 6, 1, unlabelled, class_weights)
    small = gradients_before_clipping(data, batch_size, math.ceil(6 / batch_size), unlabelled, class_weights)
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.2, 0.2, 5.0, 1.0, 1.0, 1.0])])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_accumulated_dice_is_that_of_the_large_batch(data, batch_size, per_image, class_weights):
    settings = {"unlabelled": True, "class_weights": class_weights, "dice_weight": 0.4, "per_image": per_image}
    large = gradients_before_clipping(data, 6, 1, **settings)
    small = gradients_before_clipping(data, batch_size, math.ceil(6 / batch_size), **settings)
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-7)


def draw_a_number(*_) -> None:
    """Stands for dropout, of which the tiny model has none."""
    torch.rand(1)


def test_the_pass_that_only_counts_for_dice_leaves_no_trace(data):
    """Running means move once a batch, and as many random numbers are drawn as without Dice."""
    batches = [torch.utils.data.default_collate([LaneInstanceDataset(data, "train")[k]]) for k in range(3)]
    left = []
    for dice_weight in (0.0, 0.4):
        torch.manual_seed(0)
        config = CONFIG.replace(accumulation_steps=3, dice_weight=dice_weight)
        model = SegFormerModel("tiny", pretrained=False)
        model.register_forward_pre_hook(draw_a_number)
        trainer = LaneSegmentationTrainer(
            model, torch.optim.SGD(model.parameters(), lr=0.0), device="cpu", config=config, progress=False
        )
        trainer._training_step(batches, Meter())
        norm = model.semantic_head.batch_norm
        assert norm.track_running_stats
        left.append((norm.running_mean.clone(), norm.num_batches_tracked.item(), torch.get_rng_state()))
    torch.testing.assert_close(left[0][0], left[1][0])
    assert left[0][1] == left[1][1] == 3
    assert torch.equal(left[0][2], left[1][2])


def test_the_last_incomplete_window_is_not_lost(data):
    config = CONFIG.replace(batch_size=2, accumulation_steps=3)  # 8 images: windows of 3 and 1 batches
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    trainer = LaneSegmentationTrainer(model, optimizer, device="cpu", config=config, progress=False)
    trainer.train_epoch(loaders(data, config)[0])
    assert len(steps) == 2
    assert all(p.grad is None for p in model.parameters()), "no gradient may leak into the next epoch"


def test_gradients_are_clipped_to_the_norm_after_unscaling(data):
    config = CONFIG.replace(max_grad_norm=1e-3)
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = LaneSegmentationTrainer(model, optimizer, device="cpu", config=config, progress=False)
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0)
    norms = []

    def capture(*_):
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())

    optimizer.register_step_pre_hook(capture)
    trainer.train_epoch(loaders(data, config)[0])
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)
    assert trainer.train_metrics["grad_norm"] < 100, "the logged norm is the true one, not 1024 times it"


def test_training_learns_and_writes_its_history(data, tmp_path):
    config = CONFIG.replace(epochs=6, lr=3e-3)
    trainer = LaneSegmentationTrainer(
        tiny_model(), device="cpu", config=config, output_dir=tmp_path / "run", progress=False
    )
    seen = []
    trainer.callbacks = (lambda t, row: seen.append((t.epoch, row["val_loss"])),)
    history = trainer.fit(*loaders(data, config))
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"history.csv", "best.safetensors", "last.safetensors"}
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for name in ("train_loss", "train_variance", "train_distance", "train_grad_norm", "val_loss", "val_miou"):
        assert float(rows[-1][name]) == pytest.approx(history[-1][name], rel=1e-4)
    assert history[-1]["train_loss"] == pytest.approx(
        history[-1]["train_semantic"] + config.instance_weight * history[-1]["train_instance"], rel=1e-5
    )


def test_two_runs_of_one_seed_are_equal_bit_for_bit(data):
    runs = []
    for workers in (0, 1):
        config = CONFIG.replace(color_jitter=0.3, crop_scale=0.5, num_workers=workers)
        trainer = LaneSegmentationTrainer(tiny_model(), device="cpu", config=config, progress=False)
        trainer.fit(*loaders(data, config))
        runs.append(trainer.model.state_dict())
        torch.rand(7)  # the caller's random state must not matter
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_every_epoch_has_its_own_order_and_its_own_crops(data):
    config = CONFIG.replace(color_jitter=0.3)
    model = PixelModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = LaneSegmentationTrainer(model, optimizer, device="cpu", config=config, progress=False)
    seen = []
    trainer._training_step = lambda batches, meter: (
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
        trainer = LaneSegmentationTrainer(
            model, torch.optim.SGD(model.parameters(), lr=0.1), device="cpu", config=CONFIG, progress=False
        )
        torch.manual_seed(callers_seed)
        before = torch.get_rng_state()
        trainer.train_epoch(loaders(data, CONFIG)[0])
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(model.heads.weight.detach())
    assert torch.equal(*weights)


def test_the_rate_reaches_zero_with_the_last_step(data):
    trainer = LaneSegmentationTrainer(tiny_model(), device="cpu", config=CONFIG, progress=False)
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
    trainer = LaneSegmentationTrainer(model, optimizer, device="cpu", config=CONFIG, progress=False)
    trainer.scaler, trainer.scheduler = Overflowing(), build_scheduler(optimizer, 4, 0.0)
    trainer.train_epoch(loaders(data, CONFIG)[0])  # four steps, two of them skipped
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5), "half of the schedule is left"
    assert 0 < trainer.train_metrics["grad_norm"] < math.inf, "a skipped step's norm is no part of the mean"


def test_an_epoch_of_skipped_steps_has_no_gradient_norm():
    meter = Meter()
    meter.add({"loss": torch.tensor(2.0)}, weight=3)
    assert meter.mean("loss") == 2.0
    assert math.isnan(meter.mean("grad_norm"))


def test_criteria_follow_the_config():
    config = CONFIG.replace(ce_weight=0.9, dice_weight=0.2, ignore_index=7, delta_var=0.3, delta_dist=1.1, gamma=0.5)
    semantic, instance = build_semantic_criterion(config), build_instance_criterion(config)
    logits, target = torch.randn(1, 6, 4, 4), torch.randint(0, 6, (1, 4, 4))
    target[0, 0] = 7
    expected = CombinedLoss(ce_weight=0.9, dice_weight=0.2, ignore_index=7)(logits, target)
    torch.testing.assert_close(semantic(logits, target), expected)
    assert (instance.delta_var, instance.delta_dist, instance.gamma) == (0.3, 1.1, 0.5)


def test_early_stopping_keeps_the_best_model(data, tmp_path):
    config = CONFIG.replace(epochs=20, patience=2)
    trainer = LaneSegmentationTrainer(tiny_model(), device="cpu", config=config, output_dir=tmp_path, progress=False)
    losses = iter([3.0, 4.0, 1.0, 2.0, 2.0, 0.5])
    states = []

    def scripted(_):
        trainer.val_metrics = {"loss": next(losses), "miou": 0.0}
        states.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    trainer.validate = scripted
    trainer.fit(*loaders(data, config))
    assert trainer.epoch == 5, "the one bad epoch before the best does not count towards the two after it"
    best = SegFormerModel.load(tmp_path / "best.safetensors").state_dict()
    last = SegFormerModel.load(tmp_path / "last.safetensors").state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, states[2][name])
        assert torch.equal(best[name], states[2][name])
        assert torch.equal(last[name], states[4][name])


def test_a_loss_that_is_not_finite_stops_and_names_the_files(data):
    class Broken(nn.Module):
        def forward(self, logits, mask):
            return logits.sum() * float("nan")

    trainer = LaneSegmentationTrainer(
        tiny_model(), semantic_criterion=Broken(), device="cpu", config=CONFIG, progress=False
    )
    with pytest.raises(FloatingPointError, match=r"loss is nan on the batch of .*train.images.\d\.png, .*\.png"):
        trainer.train_epoch(loaders(data, CONFIG)[0])


def test_a_validation_loss_that_is_not_finite_stops_and_names_the_files(data, tmp_path):
    class BrokenInEvaluation(nn.Module):
        def forward(self, logits, mask):
            return logits.sum() * (0.0 if trainer.model.training else math.nan)

    trainer = LaneSegmentationTrainer(
        tiny_model(), None, BrokenInEvaluation(), device="cpu", config=CONFIG, output_dir=tmp_path, progress=False
    )
    with pytest.raises(
        FloatingPointError, match=r"validation loss is nan on the batch of .*val.images.0\.png, .*1\.png"
    ):
        trainer.fit(*loaders(data, CONFIG))
    assert list(tmp_path.iterdir()) == [], "an epoch that was never judged leaves nothing"


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(data):
    class LostOnTheWayBack(nn.Module):
        calls = 0

        def forward(self, logits, mask):
            self.calls += 1
            return (NotFiniteGradient.apply(logits) if self.calls == 3 else logits).square().mean()

    config = CONFIG.replace(accumulation_steps=2)  # the third batch is in the second window
    trainer = LaneSegmentationTrainer(
        tiny_model(), None, LostOnTheWayBack(), device="cpu", config=config, progress=False
    )
    seen = []
    original = trainer._losses
    trainer._losses = lambda batch, *parts: (seen.append(batch["image_path"]), original(batch, *parts))[1]
    with pytest.raises(FloatingPointError, match="gradient norm is nan on the batch of") as caught:
        trainer.train_epoch(loaders(data, config)[0])
    assert str(caught.value).endswith(", ".join([*seen[2], *seen[3]]))
    trainer.train_epoch(loaders(data, config)[0])  # the lost gradients do not leak into the next step
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_encoder_and_heads_learn_at_their_own_rates():
    config = CONFIG.replace(lr=1e-3, encoder_lr_scale=0.1)
    groups = {group["name"]: group for group in build_optimizer(tiny_model(), config).param_groups}
    assert groups["encoder"]["lr"] == pytest.approx(1e-4)
    assert groups["heads"]["lr"] == pytest.approx(1e-3)
    assert groups["heads"]["betas"] == (0.9, 0.999)
    assert groups["heads"]["weight_decay"] == 0.01


def test_the_rate_rises_linearly_then_falls_as_a_cosine_to_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, total_steps=100, warmup_fraction=0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_validation_trains_nothing_and_uses_evaluation_mode(data):
    trainer = LaneSegmentationTrainer(tiny_model(), device="cpu", config=CONFIG, progress=False)
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

    trainer = LaneSegmentationTrainer(
        tiny_model(), instance_criterion=Spy(), device="cpu", config=CONFIG, progress=False
    )
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
    trainer = LaneSegmentationTrainer(tiny_model(), device="cpu", config=CONFIG, progress=False)
    assert math.isfinite(trainer.train_epoch(loaders(data, CONFIG)[0]))


def test_a_run_trains_the_model_that_the_config_describes(data, tmp_path):
    described = {"embedding_dim": 8, "normalize_embeddings": True, "delta_dist": 0.6, "delta_var": 0.2}
    for activation in ("gelu", "relu"):
        config = CONFIG.replace(epochs=1, activation=activation, **described)
        model = train_lane_model(config, data, tmp_path / activation, device="cpu").model
        assert (model.activation, model.embedding_dim, model.normalize_embeddings) == (activation, 8, True)
        assert SegFormerModel.load(tmp_path / activation / "best.safetensors").config_dict() == model.config_dict()


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


@pytest.mark.parametrize("file", ["train/images/7.png", "val/instance_masks/3.png"])
def test_a_damaged_file_is_found_before_anything_is_written(data, tmp_path, finished_run, file):
    run, held = finished_run
    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    (damaged / file).write_bytes((data / file).read_bytes()[:60])
    before, epochs = held(), []
    for output, overwrite in ((tmp_path / "new", False), (run, True)):
        with pytest.raises(ValueError, match=file.replace(".", r"\.")):
            train_lane_model(CONFIG, damaged, output, "cpu", overwrite, [lambda *_: epochs.append(1)])
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
    def interrupt(trainer, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    run, held = finished_run
    before = held()
    config = CONFIG.replace(epochs=3, seed=1)
    with pytest.raises(KeyboardInterrupt):
        train_lane_model(config, data, run, "cpu", overwrite=True, callbacks=[interrupt])
    assert held().keys() == before.keys()
    assert all(content != before[name] for name, content in held().items()), "nothing is left of the earlier run"
    assert LaneSegmentationConfig.from_yaml(run / "config.yaml") == config
    assert len(list(csv.DictReader((run / "history.csv").open()))) == 2


def test_a_place_that_cannot_be_written_to_is_found_before_training(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(LaneSegmentationTrainer, "fit", lambda *_: pytest.fail("trained all the same"))
    with pytest.raises(NotADirectoryError, match=r"file.config.yaml: cannot be written"):
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
