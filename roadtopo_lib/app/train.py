"""A whole training run, from a data folder to a run folder: what ``road-topology train lane`` does."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from roadtopo_lib.app.initial import initial_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import be_silent, say
from roadtopo_lib.data.checks import check_every_file
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.distributed import connected, from_writer, is_writer
from roadtopo_lib.electives.unet import DeepSupervision
from roadtopo_lib.files import clear_unfinished
from roadtopo_lib.losses import LaneCriterion, class_weights
from roadtopo_lib.processes import locked
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.recorders import BestModel, LastModel, LatestModels, Recorder
from roadtopo_lib.training.run_folder import STATES, RunFolder
from roadtopo_lib.training.run_state import RunState

WEIGHT_SAMPLES = 200
"""Images, evenly spread over the training set, whose pixels are counted for class weights."""

PRESET_KEEPS = dict.fromkeys(("night-ride", "night-ride-tiny"), "best_miou,best_mbou")
"""Preset → what the command line keeps beside the best and the last model, see ``kept_models``."""

NO_IDS = "no instance mask in train holds an id: the model will not learn to separate lanes; for details"


def train_lane_model(
    config: LaneSegmentationConfig,
    data: str | Path,
    output: str | Path,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    recorders: Sequence[Recorder] = (),
    resume: bool = False,
    checkpoint_every: int | None = None,
    keep: str = "",
) -> LaneSegmentationTrainer:
    """Trains on a data folder and leaves a run folder.

    All files of both splits are read once before training. An earlier run stays whole until this one writes for the
    first time. A run that is interrupted, or killed, goes on with ``resume``, and ends as if nothing had happened.
    Processes that ``torchrun`` has started train one model together, and the first of them writes, see
    docs/several_processes.md.

    Args:
        config: all settings; ``config.seed`` decides the initial weights too, or those of new layers where
            ``pretrained`` names a model file, see ``app.initial``.
        data: folder with ``train`` and ``val``.
        output: the run: ``config.yaml``, ``history.csv``, ``best.safetensors``, ``last.safetensors``, and the newest
            ``state.safetensors``, see ``RunFolder``.
        device: default CUDA if there is one, else CPU.
        overwrite: allow ``output`` to hold an earlier run, which is replaced.
        recorders: told of every step and epoch, after the files are written.
        resume: go on with the run in ``output``, if there is one.
        checkpoint_every: write a state after that many optimiser steps, beside those of each epoch and ten minutes.
        keep: other models to keep, such as ``best_miou,best_mbou,last3``, see ``kept_models``.

    Returns:
        The trainer, its model holding the best epoch's weights.

    Raises:
        FileExistsError: ``output`` holds a run, and neither ``overwrite`` nor ``resume`` is on; or another process
            trains there.
        FileNotFoundError, ValueError: wrong data, in any file of ``train`` or ``val``, or data that would train
            nothing; see ``LaneInstanceDataset`` and ``check_every_file``.
        ValueError: with ``resume``, other settings or data than the run began with, or no whole state.
        OSError: ``output`` cannot be written to; another process of the training has ended.
        FloatingPointError: see ``LaneSegmentationTrainer.fit``.
        KeyboardInterrupt: Ctrl-C, or ``Stopped`` after SIGINT and SIGTERM; says what was saved.
    """
    if overwrite and resume:
        raise ValueError("overwrite replaces a run, resume goes on with it: choose one of them")
    if overwrite and Path(output).resolve() in Path(str(config.pretrained)).resolve().parents:
        raise ValueError(f"{config.pretrained}: lies in the run that is to be replaced; use another folder, or copy it")
    folder = RunFolder(output, checkpoint_every, keep=kept_models(keep, Path(output)))

    def begin() -> RunState:
        clear_unfinished(output)
        if not overwrite and not resume and folder.earlier():
            held = f"already holds a run ({folder.earlier()[0].name})"
            raise FileExistsError(f"{output}: {held}; use another folder, --resume or --overwrite")
        state = folder.newest() if resume else RunState()
        state.check_settings(config)
        if state.step:
            say(f"going on: {folder.kept()}")
        return state

    with connected(), locked(output, "a training") if is_writer() else nullcontext():
        if not is_writer():
            be_silent()
        state = from_writer(begin)
        try:
            return _train(config, Path(data), device, folder, recorders, state)
        except KeyboardInterrupt as stop:
            stop.args = (f"{str(stop) or 'interrupted'}; {folder.kept()}",)
            raise


def kept_models(names: str, folder: Path) -> list[LastModel | LatestModels]:
    """Which models a run keeps beside ``best.safetensors``, that of the lowest loss, and ``last.safetensors``.

    Args:
        names: separated by commas: ``best_miou``, ``best_mbou`` (the best model by mean IoU, or mean Boundary IoU, of
            validation) and ``lastN`` (``epoch_….safetensors`` of the latest N epochs).
        folder: of the run.

    Raises:
        ValueError: another name.
    """
    kept: list[LastModel | LatestModels] = []
    for name in filter(None, (name.strip() for name in names.split(","))):
        if name in ("best_miou", "best_mbou"):
            kept.append(BestModel(folder / f"{name}.safetensors", f"val_{name.removeprefix('best_')}", highest=True))
        elif found := re.fullmatch(r"last([1-9]\d{0,5})", name):
            kept.append(LatestModels(folder, int(found[1])))
        else:
            raise ValueError(f"keep names {name!r}, expected best_miou, best_mbou, or last and a number, as in last3")
    return kept


def _train(
    config: LaneSegmentationConfig,
    data: Path,
    device: str | torch.device | None,
    folder: RunFolder,
    recorders: Sequence[Recorder],
    state: RunState,
) -> LaneSegmentationTrainer:
    with _pointing_to_check_data(data):
        train_set, val_set = (
            LaneInstanceDataset(data, split, build_transform(config, split == "train"), config.seed, config.class_table)
            for split in ("train", "val")
        )
    torch.manual_seed(config.seed)
    model, told = initial_model(config, run=None if state.model is None else folder.folder)
    if told:
        say(told)
    weights = None
    if isinstance(config.class_weights, str):
        weights = class_weights(train_set, config.class_weights, max_samples=WEIGHT_SAMPLES)
    if isinstance(config.class_weights, dict):
        weights = torch.tensor([config.class_weights.get(name, 1.0) for name in config.class_table.names])
    with _pointing_to_check_data(data):
        with_ids = check_every_file(train_set)
        check_every_file(val_set)
    has_roles = bool(train_set.classes.instance_ids)
    if is_writer() and has_roles and not with_ids and config.instance_weight > 0:
        say(f"road-topology: {NO_IDS}: road-topology check-data {data}", error=True)
    criterion = LaneCriterion.from_config(config, weights)
    if len(getattr(model, "auxiliary_heads", ())):
        criterion = DeepSupervision(criterion)
    trainer = LaneSegmentationTrainer(model, config, criterion, device=device, recorders=(folder, *recorders))
    loaders = build_loader(train_set, config, shuffle=True), build_loader(val_set, config, shuffle=False)
    try:
        trainer.state = state.restore(trainer)
    except (RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder.folder / STATES[0]}: does not fit its own settings ({error})") from None
    trainer.fit(*loaders)
    return trainer


@contextmanager
def _pointing_to_check_data(data: str | Path) -> Iterator[None]:
    """Adds to an error of the data how to see everything that is wrong with them."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if not Path(data).is_dir():
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{error}; all faults: road-topology check-data {data}") from error
