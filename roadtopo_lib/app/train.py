"""A whole training run, from a data folder to a run folder: what ``road-topology train lane`` does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from roadtopo_lib.app.initial import initial_model
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.data.checks import check_every_file
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.files import check_writable
from roadtopo_lib.losses import LaneCriterion, class_weights
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer
from roadtopo_lib.training.recorders import BestModel, ConfigFile, HistoryFile, LastModel, Recorder

WEIGHT_SAMPLES = 200
"""Images, evenly spread over the training set, whose pixels are counted for class weights."""

RUN_FILES = ("config.yaml", "history.csv", "best.safetensors", "last.safetensors")
"""What a finished run leaves in its folder."""

NO_IDS = "no instance mask in train holds an id: the model will not learn to separate lanes; for details"


def train_lane_model(
    config: LaneSegmentationConfig,
    data: str | Path,
    output: str | Path,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    recorders: Sequence[Recorder] = (),
) -> LaneSegmentationTrainer:
    """Trains on a data folder and leaves a run folder.

    All files of both splits are read once before training. Nothing is written until the first epoch is done: a run that
    fails before leaves an earlier one whole. What finished epochs have written survives an interruption.

    Args:
        config: all settings; ``config.seed`` decides the initial weights too, or those of new layers where
            ``pretrained`` names a model file, see ``app.initial``.
        data: folder with ``train`` and ``val``.
        output: the run: ``config.yaml``, ``history.csv``, ``best.safetensors``, ``last.safetensors``.
        device: default CUDA if there is one, else CPU.
        overwrite: allow ``output`` to hold an earlier run; the first finished epoch replaces it.
        recorders: told of every step and epoch, after the files are written.

    Returns:
        The trainer, its model holding the best epoch's weights.

    Raises:
        FileExistsError: ``output`` holds a run and ``overwrite`` is off.
        FileNotFoundError, ValueError: wrong data, in any file of ``train`` or ``val``, or data that would train
            nothing; see ``LaneInstanceDataset`` and ``check_every_file``.
        OSError: ``output`` cannot be written to.
        FloatingPointError: see ``LaneSegmentationTrainer.fit``.
    """
    output = Path(output)
    earlier = [output / name for name in RUN_FILES if (output / name).exists()]
    if earlier and not overwrite:
        raise FileExistsError(f"{output}: already holds a run ({earlier[0].name}); use another folder or --overwrite")
    with _pointing_to_check_data(data):
        train_set, val_set = (
            LaneInstanceDataset(data, split, build_transform(config, split == "train"), config.seed, config.class_table)
            for split in ("train", "val")
        )
    torch.manual_seed(config.seed)
    model, told = initial_model(config)
    if told:
        say(told)
    weights = None
    if config.class_weights is not None:
        weights = class_weights(train_set, config.class_weights, max_samples=WEIGHT_SAMPLES)
    with _pointing_to_check_data(data):
        with_ids = check_every_file(train_set)
        check_every_file(val_set)
    has_roles = bool(train_set.classes.lane_ids + train_set.classes.crosswalk_ids)
    if has_roles and not with_ids and config.instance_weight > 0:
        say(f"road-topology: {NO_IDS}: road-topology check-data {data}", error=True)
    config_file, history_file, best_file, last_file = (output / name for name in RUN_FILES)
    check_writable(config_file)
    files = (HistoryFile(history_file), BestModel(best_file), LastModel(last_file), ConfigFile(config_file))
    trainer = LaneSegmentationTrainer(
        model, config, LaneCriterion.from_config(config, weights), device=device, recorders=(*files, *recorders)
    )
    trainer.fit(build_loader(train_set, config, shuffle=True), build_loader(val_set, config, shuffle=False))
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
