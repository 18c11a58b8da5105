"""The weights that a run begins with: random ones, the hub's, or those of a model file of this library.

A model file brings what belongs to its network (kind, backbone, activation, ...) and what it was trained for (size and
crop of the image, classes, margins). A run's own settings decide all else, and may give other classes, another image
size or another embedding size; the layers whose size depends on what differs are new.
"""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import torch

from roadtopo_lib.config import PRESETS, LaneSegmentationConfig, read_settings
from roadtopo_lib.files import load_weights
from roadtopo_lib.labels import ClassTable, table_for
from roadtopo_lib.models import KINDS, LaneModel, build, class_of, load_with_info
from roadtopo_lib.training.run_folder import RunFolder

REPLACEABLE = ("num_classes", "embedding_dim")
"""Arguments of a model that a run may change: the layers that depend on them are new then."""

BROUGHT = (
    "image_size", "crop_top", "classes", "num_classes", "delta_var", "delta_dist", "max_instances", "ignore_index",
    "clustering", "reference_row",
)  # fmt: skip
"""Settings that a model file brings from its own training where a run does not give them."""


def is_model_file(source: bool | str) -> bool:
    """Whether ``pretrained`` names a model file, and not a hub id or a folder of the hub's format.

    Raises:
        ValueError: the folder of a run; names the file in it.
    """
    if not isinstance(source, str):
        return False
    if (Path(source) / "best.safetensors").is_file():
        raise ValueError(f"{source}: the folder of a run, expected a model file: {Path(source) / 'best.safetensors'}")
    return source.endswith(".safetensors") or Path(source).is_file()


def load_run_config(
    source: str | Path, init: str | Path | None = None, run: str | Path | None = None
) -> LaneSegmentationConfig:
    """The settings of a run.

    Args:
        source: YAML file, or the name of a preset.
        init: model file to begin with, in place of the setting ``pretrained``. What the source does not give comes from
            this file, see the module.
        run: folder of a run to go on with: it knows what the model file brought, which may have been moved since.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see ``LaneSegmentationConfig.from_yaml``; no whole state in ``run``; preset ``finetune`` without a
            model file.
    """
    values = dict(PRESETS[str(source)]) if str(source) in PRESETS else read_settings(source)
    if init is not None:
        if run is None and not is_model_file(str(init)):  # it would be taken for the name of weights on the hub
            raise FileNotFoundError(f"{init}: no such model file, expected a .safetensors file of a run")
        values["pretrained"] = str(init)
    if is_model_file(values.get("pretrained", False)):
        path, state = Path(values["pretrained"]), None
        if run is not None and not path.exists():
            state = RunFolder(run).newest().config
        brought = settings_of(path) if state is None else state
        if {"classes", "num_classes"} & values.keys():
            brought = {name: value for name, value in brought.items() if name not in ("classes", "num_classes")}
        values = brought | values
    elif str(source) == "finetune":
        raise ValueError("preset finetune begins with a trained model: give --init MODEL, a .safetensors file of a run")
    try:
        return LaneSegmentationConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def settings_of(path: str | Path) -> dict:
    """The settings that a model file brings.

    Raises:
        FileNotFoundError, ValueError: see ``files.load_weights``.
        ValueError: another file of this library, such as the state of a run.
    """
    file = load_weights(path)
    if file.kind not in KINDS:
        raise ValueError(f"{path}: holds {file.kind!r}, expected a model, such as best.safetensors of a run")
    known = {field.name for field in fields(LaneSegmentationConfig)}
    own = {name: value for name, value in file.config.items() if name in known}
    trained = {name: value for name, value in _training(file.info).items() if name in BROUGHT}
    return trained | own | {"model": file.kind}


def initial_model(config: LaneSegmentationConfig, run: str | Path | None = None) -> tuple[LaneModel, str]:
    """A model to begin training with, and one line that says what it has kept of a model file; else an empty one.

    Args:
        config: ``pretrained`` may name a model file.
        run: folder of a run that goes on. Its state brings all weights: those of a model file are not read, and the
            file may be gone.

    Raises:
        FileNotFoundError: no such model file.
        ValueError: the file is damaged, or the config asks for another kind of network; names the file.
    """
    path = config.pretrained
    if not is_model_file(path):
        return build(config), ""
    if run is not None:
        files = [file for file in (Path(path), Path(run) / "last.safetensors") if file.is_file()]
        if not files:
            return build(config.replace(pretrained=False)), ""
        file = load_weights(files[0])  # for the settings that no config has, such as the widths of a U-Net
        asked = file.config | {name: getattr(config, name) for name in REPLACEABLE}
        return class_of(file.kind).from_settings(asked), ""
    source, info = load_with_info(path)
    settings = source.settings()
    for name, found in {"model": source.kind, **settings}.items():
        asked = getattr(config, name, found)
        if asked != found and name not in REPLACEABLE:
            raise ValueError(f"{path}: {name} is {found!r}, the config says {asked!r}; expected it to be left out")
    changed = [name for name in REPLACEABLE if settings[name] != getattr(config, name)]
    rows, own_rows = (values.get("classes") for values in (_training(info), config.to_dict()))
    if "num_classes" not in changed and _names(rows, source.num_classes) != _names(own_rows, config.num_classes):
        changed.insert(0, "num_classes")
    asked = settings | {name: getattr(config, name) for name in REPLACEABLE}
    model = type(source).from_settings(asked)
    with torch.device("meta"):  # shapes, but no memory
        other = type(source).from_settings(asked | {name: asked[name] + 1 for name in changed}).state_dict()
    new = [name for name, tensor in model.state_dict().items() if tensor.shape != other[name].shape]
    kept = {name: tensor for name, tensor in source.state_dict().items() if name not in new}
    model.load_state_dict(kept, strict=False)  # strictly, it would ask for what is new
    why = {"num_classes": "the classes differ", "embedding_dim": "embedding_dim differs"}
    told = f"; new, as {' and '.join(why[name] for name in changed)}: {', '.join(new)}" if new else ""
    return model, f"{path}: {len(kept)} of {len(kept) + len(new)} tensors kept{told}"


def _training(info: dict) -> dict:
    training = info.get("training")
    return training if isinstance(training, dict) else {}


def _names(rows: list[dict] | None, num_classes: int) -> tuple[str, ...]:
    """Names of the classes by id, from the rows of a table or from their number; empty where neither tells."""
    with suppress(ValueError):
        return (ClassTable.from_list(rows) if rows else table_for(num_classes)).names
    return ()
