"""Runs that are interrupted, killed or cut off go on, and end as if nothing had happened."""

import csv
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from scipy import ndimage
from small_model import PixelModel
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from roadtopo_lib import models
from roadtopo_lib.app.cli import main
from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.files import UNFINISHED, clear_unfinished, load_weights
from roadtopo_lib.processes import LOCK, Stopped, locked
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.meter import MaskScores
from roadtopo_lib.training.recorders import BestModel, Recorder
from roadtopo_lib.training.run_folder import RUN_FILES, STATES, RunFolder
from roadtopo_lib.training.run_state import RunState

CONFIG = LaneSegmentationConfig.preset("tiny").replace(
    model="pixel", embedding_dim=8, image_size=(32, 64), crop_top=0.0, crop_scale=0.6, color_jitter=0.3, batch_size=2,
    accumulation_steps=3, epochs=3, muon_lr=0.0, lr=0.02, warmup_fraction=0.3,
)  # fmt: skip
"""Seven training images: windows of three batches and of one, so two steps an epoch."""

STEPS = 6


class Dropped(PixelModel):
    """Draws from every generator that there is while it trains."""

    kind = "dropped"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.dropout = nn.Dropout(0.3)

    def forward(self, images, upsample=True):
        if self.training:
            images = images * (1 + random.random() / 10 + np.random.rand() / 10)  # noqa: NPY002
        return super().forward(self.dropout(images), upsample)


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    monkeypatch.setitem(models.KINDS, "pixel", ("small_model", "PixelModel"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven training and three validation images: grey road, two bright vertical lines."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for number in range(count):
            instance = np.zeros((32, 64), np.uint16)
            for place, left in enumerate(rng.integers((5, 35), (25, 60)), start=1):
                instance[8:, left : left + 3] = place
            image = 60 + 150 * (instance > 0)[..., None] + rng.integers(0, 30, (32, 64, 3))
            semantic = np.where(instance > 0, 2, 1)
            write_sample(root / split, str(number), image.astype(np.uint8), semantic, instance)
    return root


def loaders(data, config=CONFIG, seen=None):
    """Loaders that note in ``seen`` which files are read for training."""

    class Noted(LaneInstanceDataset):
        def read(self, index):
            if seen is not None and self.split == "train":
                seen.append(index)
            return super().read(index)

    return [
        build_loader(Noted(data, s, build_transform(config, s == "train"), config.seed), config, shuffle=s == "train")
        if config.num_workers == 0
        else build_loader(
            LaneInstanceDataset(data, s, build_transform(config, s == "train"), config.seed), config, s == "train"
        )
        for s in ("train", "val")
    ]


def trainer_of(config=CONFIG, model=None, recorders=()):
    return LaneSegmentationTrainer(model or Dropped(), config, device="cpu", recorders=recorders, progress=False)


class StopAt(Recorder):
    """Sends this process a signal while a step is under way."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number, self.told = step, number, []

    def on_step(self, trainer, values):
        if trainer.state.step == self.step:
            signal.raise_signal(self.number)
            self.told.append("the step goes on")

    def between_steps(self, trainer, stopping):
        if stopping:
            self.told.append((trainer.state.epoch, trainer.state.step, trainer.state.batch))


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def assert_same_run(first, second):
    assert without_seconds(first.history) == without_seconds(second.history)
    assert first.state.step == second.state.step
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    steps = [trainer.optimizer.state_dict()["state"] for trainer in (first, second)]
    for place, values in steps[0].items():
        assert all(torch.equal(value, steps[1][place][name]) for name, value in values.items())


@pytest.fixture(scope="module")
def whole(data):
    """The run that nothing interrupts, and the order in which it read the files."""
    seen = []
    trainer = trainer_of()
    trainer.fit(*loaders(data, seen=seen))
    assert trainer.state.step == STEPS
    return trainer, seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_stopped_at_any_step_goes_on_in_a_new_trainer_and_equals_one_in_one_go(
    data, whole, tmp_path, step, number
):
    seen, stop = [], StopAt(step, number)
    before = signal.getsignal(number)
    first = trainer_of(recorders=[stop, RunFolder(tmp_path)])
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
        first.fit(*loaders(data, seen=seen))
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    epoch, batch = (step - 1) // 2, 3 if step % 2 else 4
    assert stop.told == ["the step goes on", (epoch, step, batch)]
    random.seed(step), np.random.seed(step), torch.manual_seed(step)  # noqa: NPY002  other states than before
    second = trainer_of()
    second.fit(*loaders(data, seen=seen), resume=RunFolder(tmp_path).newest())
    assert_same_run(second, whole[0])
    assert seen == whole[1], "each file is read once, in the order of a run in one go"


def test_a_run_in_the_same_trainer_goes_on_too(data, whole):
    trainer = trainer_of(recorders=[StopAt(3)])
    with pytest.raises(Stopped):
        trainer.fit(*loaders(data))
    trainer.fit(*loaders(data))
    assert_same_run(trainer, whole[0])


def test_a_run_goes_on_with_another_number_of_workers(data, whole, tmp_path):
    first = trainer_of(recorders=[StopAt(1), RunFolder(tmp_path)])
    with pytest.raises(Stopped):
        first.fit(*loaders(data))
    second = trainer_of(CONFIG.replace(num_workers=1), recorders=[StopAt(3)])
    train_loader, val_loader = loaders(data, second.config)
    with pytest.raises(Stopped):
        second.fit(train_loader, val_loader, resume=RunFolder(tmp_path).newest())
    second.fit(train_loader, val_loader)
    assert_same_run(second, whole[0])


def test_a_run_whose_epochs_are_counted_in_steps_goes_on_too(data, tmp_path):
    config = CONFIG.replace(steps_per_epoch=4, epochs=2)  # 24 draws of 7 images: an epoch ends within a pass
    orders, runs = [], []
    for steps in ((), (2, 7)):
        seen, trainer = [], trainer_of(config, recorders=[*map(StopAt, steps), RunFolder(tmp_path / str(steps))])
        for _ in (*steps, "to the end"):
            try:
                trainer.fit(*loaders(data, config, seen), resume=RunFolder(tmp_path / str(steps)).newest())
            except Stopped:
                trainer = trainer_of(config, recorders=trainer.recorders)
        orders.append(seen)
        runs.append(trainer)
    assert len(orders[0]) == 48
    assert orders[1] == orders[0]
    assert_same_run(runs[1], runs[0])


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_the_tiny_model_goes_on_with_either_optimiser(data, tmp_path, muon_lr):
    config = CONFIG.replace(model="segformer", embedding_dim=32, epochs=2, muon_lr=muon_lr, repeat_threshold=0.5)
    runs = []
    for seed, recorders in enumerate([[], [StopAt(3), RunFolder(tmp_path)], []]):
        torch.manual_seed(seed // 2)  # the last one begins with other weights, which it is to forget
        runs.append(trainer_of(config, SegFormerModel("tiny", pretrained=False), recorders))
    runs[0].fit(*loaders(data, config))
    with pytest.raises(Stopped):
        runs[1].fit(*loaders(data, config))
    runs[2].fit(*loaders(data, config), resume=RunState.load(tmp_path / STATES[0]))
    assert_same_run(runs[2], runs[0])


def test_training_leaves_the_callers_generators_alone(data):
    trainer = trainer_of()

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    def seed():
        random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002

    seed()
    expected = draw()
    seed()
    trainer.train_epoch(loaders(data)[0])
    assert draw() == expected


def test_each_step_has_a_seed_of_its_own(data):
    drawn = []

    class Draw(Recorder):
        def on_step(self, trainer, values):
            drawn.append(torch.initial_seed())

    trainer_of(recorders=[Draw()]).fit(*loaders(data))
    assert len(drawn) == len(set(drawn)) == STEPS


class StopInValidation(nn.Module):
    """A criterion's part that sends a signal in the second batch that it judges."""

    def __init__(self, loss, model):
        super().__init__()
        self.loss, self.model, self.calls = loss, [model], 0

    def forward(self, logits, mask):
        self.calls += not self.model[0].training
        if self.calls == 2:
            self.calls = 99
            signal.raise_signal(signal.SIGTERM)
        return self.loss(logits, mask)


def test_a_run_stopped_in_its_validation_repeats_only_the_validation(data, whole, tmp_path):
    first = trainer_of(recorders=[RunFolder(tmp_path)])
    first.criterion.semantic = StopInValidation(first.criterion.semantic, first.model)
    with pytest.raises(Stopped):
        first.fit(*loaders(data))
    state = RunState.load(tmp_path / STATES[0])
    assert (state.epoch, state.batch, state.batches, len(state.history)) == (0, 4, 4, 0)
    seen, second = [], trainer_of()
    second.fit(*loaders(data, seen=seen), resume=state)
    assert seen == whole[1][7:], "nothing of the first epoch is read again"
    assert_same_run(second, whole[0])


def test_a_signal_after_the_last_step_is_not_lost(data):
    class Late(Recorder):
        def on_epoch(self, trainer, row):
            if trainer.finished:
                signal.raise_signal(signal.SIGINT)

    trainer = trainer_of(recorders=[Late()])
    with pytest.raises(Stopped):
        trainer.fit(*loaders(data))
    assert len(trainer.history) == 3
    assert trainer.validate(loaders(data)[1]) > 0, "the signal is served once"


def test_a_second_signal_stops_at_once(data):
    class Twice(Recorder):
        def on_step(self, trainer, values):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt) as stopped:
        trainer_of(recorders=[Twice()]).fit(*loaders(data))
    assert not isinstance(stopped.value, Stopped)


def test_a_signal_that_the_process_ignores_stays_ignored(data):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = trainer_of(recorders=[StopAt(2)])
        assert len(trainer.fit(*loaders(data))) == 3
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_outside_the_main_thread_trains_without_signals(data, whole):
    trainer = trainer_of()
    thread = threading.Thread(target=lambda: trainer.fit(*loaders(data)))
    thread.start()
    thread.join()
    assert_same_run(trainer, whole[0])


def test_a_loader_of_another_kind_goes_on_by_reading_what_it_leaves_out(data):
    dataset = LaneInstanceDataset(data, "train")
    runs = []
    for recorders in ((), [StopAt(3)]):
        trainer = trainer_of(recorders=recorders)
        loader = DataLoader(dataset, batch_size=2, sampler=SequentialSampler(dataset))
        try:
            trainer.fit(loader, loader)
        except Stopped:
            trainer.fit(loader, loader)
        runs.append(trainer)
    assert_same_run(*runs)


# The file of a state


def state_of(data, step=3):
    trainer = trainer_of(recorders=[StopAt(step)])
    with pytest.raises(Stopped):
        trainer.fit(*loaders(data))
    return trainer.snapshot()


def same(first, second):
    """Equality of nested values with tensors in them; lists and tuples are the same, NaN equals NaN."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (first != first and second != second)


def test_a_state_comes_back_as_it_was_and_equal_states_make_equal_files(data, tmp_path):
    state = state_of(data)
    state.history[0]["val_miou"] = math.nan
    for name in ("one", "two"):
        state.save(tmp_path / name)
    loaded = RunState.load(tmp_path / "one")
    assert all(same(vars(state)[name], vars(loaded)[name]) for name in vars(state))
    assert set(loaded.optimizer["state"]) == {0, 1, 2, 3}, "numbers stay numbers"
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    RunState().save(tmp_path / "new")
    assert RunState.load(tmp_path / "new") == RunState()


def test_a_states_file_holds_raw_numbers_and_no_pickle(data, tmp_path):
    state_of(data).save(tmp_path / "state")
    with safetensors.safe_open(tmp_path / "state", framework="pt") as file:
        assert json.loads(file.metadata()["roadtopo_lib"])["kind"] == "state of a run"
        assert "state of a run/model/heads.weight" in list(file.keys())


def test_a_state_that_is_cut_off_or_changed_anywhere_is_refused_by_name(data, tmp_path):
    path = tmp_path / "state"
    state_of(data).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    length = int.from_bytes(content[:8], "little")
    places = [*rng.integers(0, len(content), 60), 8 + length, 8 + length + 1, len(content) - 1]
    for place in map(int, places):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=re.escape(str(path))):
                RunState.load(path)


def test_a_model_is_no_state_and_a_state_no_model(data, tmp_path):
    PixelModel().save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: found a file of kind 'pixel', expected 'state of a"):
        RunState.load(tmp_path / "model.safetensors")
    RunState().save(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"state\.safetensors: model is 'state of a run', expected one of"):
        models.load(tmp_path / "state.safetensors")


def test_a_run_does_not_go_on_with_other_data(data):
    state, trainer = state_of(data), trainer_of()
    small = [build_loader(LaneInstanceDataset(data, "val"), CONFIG, shuffle=False)] * 2
    with pytest.raises(ValueError, match="the data it began with: 4 batches, now 2"):
        trainer.fit(*small, resume=state)


# The folder of a run


def train(data, run, config=CONFIG, **options):
    return train_lane_model(config, data, run, device="cpu", **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_run_keeps_its_newest_state_and_going_on_with_it_changes_nothing(data, tmp_path):
    first = train(data, tmp_path / "run")
    assert set(contents(tmp_path / "run")) == {*RUN_FILES, STATES[0]}
    before = contents(tmp_path / "run")
    again = train(data, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before
    assert again.history == first.history
    assert all(torch.equal(*pair) for pair in zip(again.model.parameters(), first.model.parameters(), strict=True))


def test_a_first_call_that_asks_to_go_on_simply_starts(data, tmp_path):
    train(data, tmp_path / "one")
    train(data, tmp_path / "two", resume=True)
    for name in ("best.safetensors", "last.safetensors", "config.yaml"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("torn", ["cut off", "changed"])
def test_a_torn_newest_state_is_told_and_the_one_before_is_used(data, whole, tmp_path, capsys, torn):
    trainer = trainer_of(recorders=[StopAt(5), RunFolder(tmp_path, every_steps=1)])
    with pytest.raises(Stopped):
        trainer.fit(*loaders(data))
    newest, before = (tmp_path / name for name in STATES)
    assert [RunState.load(path).step for path in (newest, before)] == [5, 4]
    content = newest.read_bytes()
    changed = content[:-500] + bytes([content[-500] ^ 1]) + content[-499:]
    newest.write_bytes(content[:-500] if torn == "cut off" else changed)
    capsys.readouterr()
    folder = RunFolder(tmp_path, every_steps=1)
    state = folder.newest()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(newest) in said
    assert f"going on from {before}" in said
    assert state.step == 4
    second = trainer_of(recorders=[folder])
    second.fit(*loaders(data), resume=state)
    assert_same_run(second, whole[0])


def change_model(state):
    state.model.popitem()


def change_moments(shape):
    def change(state):
        moments = state.optimizer["state"][0]
        name = next(name for name, value in moments.items() if value.ndim)
        moments[name] = torch.zeros(shape)

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_model,
        change_moments((2,)),
        change_moments(()),
        lambda state: state.optimizer.pop("state"),
        lambda state: state.meter.pop("sums"),
    ],
)
def test_a_whole_state_of_a_stranger_that_does_not_fit_its_settings_is_one_line(data, tmp_path, capsys, change):
    CONFIG.to_yaml(tmp_path / "lane.yaml")
    run = tmp_path / "run"
    command = ["train", "lane", "--config", str(tmp_path / "lane.yaml"), "--data", str(data), "--output", str(run)]
    assert main([*command]) == 0
    state = RunState.load(run / STATES[0])
    state.epoch = 1
    change(state)
    state.save(run / STATES[0])
    capsys.readouterr()
    assert main([*command, "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"{run / STATES[0]}: does not fit its own settings" in error
    assert error.count("\n") == 1


def test_a_run_whose_states_are_all_torn_is_refused_and_stays_as_it_is(data, tmp_path):
    with pytest.raises(Stopped):
        train(data, tmp_path, recorders=[StopAt(3)])
    for name in STATES:
        (tmp_path / name).write_bytes(b"torn")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"{STATES[0]}: truncated.*nothing to go on from"):
        train(data, tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_a_run_of_models_alone_cannot_go_on(data, tmp_path):
    train(data, tmp_path)
    (tmp_path / STATES[0]).unlink()
    with pytest.raises(ValueError, match=rf"holds a run without {STATES[0]}; nothing to go on from"):
        train(data, tmp_path, resume=True)


def test_a_run_goes_on_with_its_own_settings_only(data, tmp_path):
    with pytest.raises(Stopped):
        train(data, tmp_path, recorders=[StopAt(3)])
    with pytest.raises(ValueError, match=r"settings it began with: lr was 0\.02, is 0\.5"):
        train(data, tmp_path, CONFIG.replace(lr=0.5), resume=True)
    with pytest.raises(ValueError, match="choose one"):
        train(data, tmp_path, resume=True, overwrite=True)
    with pytest.raises(FileExistsError, match=r"already holds a run .*--resume or --overwrite"):
        train(data, tmp_path)


class Saves(Recorder):
    """Notes after each step which state lies in the folder."""

    def __init__(self, folder):
        self.folder, self.steps = folder, []

    def between_steps(self, trainer, stopping):
        path = self.folder / STATES[0]
        self.steps.append(RunState.load(path).step if path.exists() else None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [None, None, None, None, 4, 4, 4, 4]),
        ({"every_steps": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"every_steps": 3}, [None, None, 3, 3, 4, 4, 7, 7]),
        ({"every_minutes": 0.0}, [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_states_are_written_at_each_epochs_end_and_as_often_as_asked(data, tmp_path, options, expected):
    saves, config = Saves(tmp_path), CONFIG.replace(accumulation_steps=1, epochs=2)
    trainer_of(config, recorders=[RunFolder(tmp_path, **options), saves]).fit(*loaders(data))
    assert saves.steps == expected


def test_how_often_is_a_number_of_steps_from_one_on(tmp_path):
    with pytest.raises(ValueError, match="every_steps is 0, expected at least 1"):
        RunFolder(tmp_path, every_steps=0)


def test_writing_states_changes_no_step(data, whole, tmp_path):
    trainer = trainer_of(recorders=[RunFolder(tmp_path, every_steps=1)])
    trainer.fit(*loaders(data))
    assert_same_run(trainer, whole[0])


def test_a_signal_before_the_first_write_leaves_an_earlier_run_as_it_is(data, tmp_path):
    train(data, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(Stopped, match="stopped by SIGINT; nothing of this run was saved"):
        train(data, tmp_path, CONFIG.replace(seed=1), overwrite=True, recorders=[StopAt(1)])
    assert contents(tmp_path) == before
    with pytest.raises(Stopped, match=rf"{STATES[0]} holds 1 epochs and 3 batches of the next \(step 3\)"):
        train(data, tmp_path, CONFIG.replace(seed=1), overwrite=True, recorders=[StopAt(3)])
    assert LaneSegmentationConfig.from_yaml(tmp_path / "config.yaml").seed == 1


class PowerCut(BaseException):
    """The machine is gone: nothing is cleaned up."""


def cut_power(monkeypatch, at):
    """The ``at``-th change of the disk does not happen, nor any after it; a write is half done. Returns the count."""
    calls = []

    def cut(name):
        original = getattr(Path, name)

        def maybe(path, *arguments, **options):
            if path.name == LOCK:
                return original(path, *arguments, **options)
            calls.append(name)
            if len(calls) == at and name == "write_bytes":
                original(path, arguments[0][: len(arguments[0]) // 2])
            if len(calls) >= at:
                raise PowerCut
            return original(path, *arguments, **options)

        monkeypatch.setattr(Path, name, maybe)

    for name in ("write_bytes", "replace", "unlink", "touch"):
        cut(name)
    return calls


def test_a_run_cut_off_at_any_change_of_the_disk_goes_on_and_never_mixes_with_an_earlier_one(
    data, tmp_path, monkeypatch
):
    """An earlier run is replaced; each file operation of a short run is once the last one."""
    config, other = CONFIG.replace(epochs=1), CONFIG.replace(epochs=1, seed=9)
    batches = loaders(data, config)

    def fit(run, config, resume=None):
        folder = RunFolder(run, every_steps=1)
        trainer_of(config, recorders=[folder]).fit(*batches, resume=folder.newest() if resume else None)

    fit(tmp_path / "whole", config)
    fit(tmp_path / "earlier", other)
    expected = {name: (tmp_path / "whole" / name).read_bytes() for name in RUN_FILES if name != "history.csv"}
    at, seen, is_cut = 0, set(), True
    while is_cut:
        at += 1
        run = tmp_path / f"run_{at}"
        shutil.copytree(tmp_path / "earlier", run)
        with monkeypatch.context() as patch:
            calls = cut_power(patch, at)
            try:
                fit(run, config)
                is_cut = False
            except PowerCut:
                seen.add(calls[at - 1])
        newest = RunFolder(run).newest()  # removes what is left of the earlier run, if this one has begun
        models_left = [path for path in (run / "best.safetensors", run / "last.safetensors") if path.exists()]
        seeds = {load_weights(path).info["training"]["seed"] for path in models_left}
        assert seeds <= {newest.config["seed"]}, f"cut off at {at}"
        if newest.config["seed"] == other.seed:
            clear_unfinished(run)
            assert contents(run) == contents(tmp_path / "earlier"), "an earlier run stays whole or goes"
        fit(run, config, resume=newest.config["seed"] == config.seed)
        assert {name: (run / name).read_bytes() for name in expected} == expected, f"cut off at {at}"
        clear_unfinished(run)
        assert set(contents(run)) == {*RUN_FILES, STATES[0]}
    assert seen == {"write_bytes", "replace", "unlink", "touch"}
    assert at > 30


def test_a_full_disk_ends_in_one_line_and_leaves_the_state_before(data, whole, tmp_path, monkeypatch):
    trainer = trainer_of(recorders=[RunFolder(tmp_path, every_steps=1)])
    write = Path.write_bytes

    def full(path, content):
        if trainer.state.step == 4:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=rf"{STATES[0]}: cannot be written \(No space left on device\)"):
        trainer.fit(*loaders(data))
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(UNFINISHED)]
    assert RunState.load(tmp_path / STATES[1]).step == 3
    second = trainer_of()
    second.fit(*loaders(data), resume=RunFolder(tmp_path).newest())
    assert_same_run(second, whole[0])


def test_what_killed_processes_left_half_written_is_cleared_at_the_next_start(data, tmp_path):
    (tmp_path / f".abc{UNFINISHED}").write_text("half")
    train(data, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(UNFINISHED)]


def test_the_best_of_scores_that_may_be_nan_is_a_number(tmp_path):
    trainer = trainer_of(model=PixelModel())
    recorder = BestModel(tmp_path / "best.safetensors", "val_miou", highest=True)
    kept = []
    for epoch, miou in enumerate((math.nan, 0.2, math.nan, 0.1, 0.3), start=1):
        row = {"epoch": epoch, "val_loss": 0.0, "val_miou": miou}
        trainer.history.append(row)
        recorder.on_epoch(trainer, row)
        kept.append(load_weights(tmp_path / "best.safetensors").info["epoch"])
    assert kept == [1, 2, 2, 2, 5]


# More models to keep


EXTRA = {"best_miou.safetensors", "best_mbou.safetensors", "epoch_0004.safetensors", "epoch_0005.safetensors"}


def boundary_iou(data, model):
    """Mean Boundary IoU over the validation images, by erosion with a square; the band is 1 px at 32×64."""
    counts = np.zeros((2, model.num_classes))
    for batch in loaders(data)[1]:
        logits = models.upsample_to(model(batch["image"], upsample=False)["logits"], (32, 64))
        for predicted, true in zip(logits.argmax(dim=1).numpy(), batch["semantic_mask"].numpy(), strict=True):
            for k in range(model.num_classes):
                inner, outer = (m & ~ndimage.binary_erosion(m, np.ones((3, 3))) for m in (predicted == k, true == k))
                counts[:, k] += (inner & outer).sum(), (inner | outer).sum()
    return np.mean([a / b for a, b in counts.T if b])


def test_the_best_models_by_named_scores_and_those_of_the_latest_epochs_are_kept(data, tmp_path):
    config = CONFIG.replace(epochs=5)
    trainer = train(data, tmp_path / "all", config, keep="best_mbou,last5")
    scores = [boundary_iou(data, models.load(path)) for path in sorted((tmp_path / "all").glob("epoch_*"))]
    assert [row["val_mbou"] for row in trainer.history] == pytest.approx(scores)
    assert len(set(scores)) > 1
    train(data, tmp_path / "run", config, keep="best_miou, best_mbou,last2")
    assert set(contents(tmp_path / "run")) == {*RUN_FILES, STATES[0], *EXTRA}
    for name in ("miou", "mbou"):
        values = [row[f"val_{name}"] for row in trainer.history]
        assert load_weights(tmp_path / "run" / f"best_{name}.safetensors").info["epoch"] == 1 + np.argmax(values)
    assert (tmp_path / "run" / "epoch_0005.safetensors").read_bytes() == contents(tmp_path / "all")["last.safetensors"]
    train(data, tmp_path / "run", CONFIG, overwrite=True)
    assert set(contents(tmp_path / "run")) == {*RUN_FILES, STATES[0]}, "models of the earlier run are gone"


def test_kept_models_of_a_run_that_was_interrupted_are_those_of_one_that_was_not(data, tmp_path):
    options = {"config": CONFIG.replace(epochs=5), "keep": "best_miou,best_mbou,last2"}
    train(data, tmp_path / "whole", **options)
    with pytest.raises(Stopped):
        train(data, tmp_path / "run", recorders=[StopAt(9)], **options)
    train(data, tmp_path / "run", resume=True, **options)
    whole, run = contents(tmp_path / "whole"), contents(tmp_path / "run")
    assert run.keys() == whole.keys() >= EXTRA
    assert all(run[name] == whole[name] for name in EXTRA)


@pytest.mark.parametrize("keep", ["best_lane", "last0", "last", "best_miou;last3"])
def test_a_model_of_another_name_is_refused_before_anything_is_done(data, tmp_path, keep):
    with pytest.raises(ValueError, match=f"keep names '{keep}', expected best_miou, best_mbou, or last and a number"):
        train(data, tmp_path / "run", keep=keep)
    assert not (tmp_path / "run").exists()


def test_boundaries_are_measured_only_where_asked_for_and_over_all_processes(monkeypatch):
    rng = np.random.default_rng(0)
    whole, *parts = (MaskScores(3, 255, boundary=True) for _ in range(3))
    for part in parts:
        pair = rng.integers(0, 3, (2, 2, 20, 30))
        for scores in (whole, part):
            scores.update(*pair)
    expected = whole.to_dict()
    assert expected.keys() == {"miou", "mbou"}
    assert MaskScores(3, 255).to_dict().keys() == {"miou"}
    arrays = [v for s in parts[1].scores.values() for v in vars(s).values() if isinstance(v, np.ndarray)]
    others = map(torch.from_numpy, arrays)
    monkeypatch.setattr("roadtopo_lib.training.meter.sum_over_processes", lambda counts: counts + next(others))
    assert parts[0].to_dict() == expected


# Two processes, and the command line


def test_two_trainings_in_one_folder_are_refused_in_one_line(data, tmp_path, capsys):
    CONFIG.to_yaml(tmp_path / "lane.yaml")
    run = tmp_path / "run"
    command = ["train", "lane", "--config", str(tmp_path / "lane.yaml"), "--data", str(data), "--output", str(run)]
    with locked(run, "a training"):
        for options in ((), ("--overwrite",), ("--resume",)):
            assert main([*command, *options]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert f"{run}: a training is running there already (process {os.getpid()})" in error
    assert not run.exists(), "a lock leaves nothing behind"
    assert main(command) == 0
    assert not (run / LOCK).exists()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    imports = "import sys, time; from roadtopo_lib.processes import locked\n"
    code = imports + "with locked(sys.argv[1], 'x'): print('in', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(FileExistsError, match=f"process {holder.pid}"), locked(tmp_path, "x"):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path, "x"):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_is_used_without_one(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path, "x"), locked(tmp_path, "x"):
        pass


def test_ctrl_c_ends_a_training_with_130_and_one_line_that_says_what_was_saved(data, tmp_path, capsys, monkeypatch):
    CONFIG.to_yaml(tmp_path / "lane.yaml")
    run = tmp_path / "run"
    command = ["train", "lane", "--config", str(tmp_path / "lane.yaml"), "--data", str(data), "--output", str(run)]
    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", lambda: StopAt(3, signal.SIGTERM))
        assert main([*command, "--checkpoint-every", "2"]) == 143
    assert capsys.readouterr().err == (
        f"road-topology: stopped by SIGTERM; {run / STATES[0]} holds 1 epochs and 3 batches of the next (step 3)\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr("roadtopo_lib.training.recorders.PrintEpochs", lambda: StopAt(4))
        assert main([*command, "--resume"]) == 130
    assert "stopped by SIGINT" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    captured = capsys.readouterr()
    assert f"going on: {run / STATES[0]} holds 1 epochs and 4 batches" in captured.out
    assert captured.err == ""
    assert len(list(csv.DictReader((run / "history.csv").open()))) == 3


def test_ctrl_c_while_the_data_are_checked_is_one_line(data, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("roadtopo_lib.app.train.check_every_file", interrupt)
    CONFIG.to_yaml(tmp_path / "lane.yaml")
    command = ["train", "lane", "--config", str(tmp_path / "lane.yaml"), "--data", str(data)]
    assert main([*command, "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "road-topology: interrupted; nothing of this run was saved\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyboardInterrupt):
        main([*command, "--output", str(tmp_path / "run"), "--debug"])
