"""Settings of a training run, with range, default and meaning.

A config is a frozen dataclass that checks itself when it is made, and travels as YAML beside every trained model. Its
annotations state the ranges; pydantic checks them.
"""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, create_model

from roadtopo_lib.files import check_file, write_atomic
from roadtopo_lib.labels import IGNORE_INDEX, NIGHT_RIDE, NUM_CLASSES, ClassTable, table_for
from roadtopo_lib.plain_yaml import MAX_TEXT, parse_yaml

ACTIVATIONS = ("gelu", "relu", "leaky_relu")
BACKBONES = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")
AMP_MODES = ("auto", "off", "fp16", "bf16")
CLUSTERING_METHODS = ("fast", "meanshift", "dbscan")
STRIDE = 32  # of the encoder's last stage, in pixels: the sides of the network's input are multiples of it
MAX_CROP_TOP, MAX_SIDE, MAX_DIM = 0.9, 4096, 1024

CLASS_WEIGHT_METHODS = ("inverse", "sqrt_inverse", "effective_number", "median_frequency")


def _number_of_text(value: object) -> object:
    """A number in quotes is one, too."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# A description replaces pydantic's words in the error message. Lists are accepted for tuples: YAML has no tuples.
Number = Annotated[float, BeforeValidator(_number_of_text)]
Positive = Annotated[Number, Field(gt=0)]
Weight = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1, description="a number between 0 and 1")]
TopShare = Annotated[Number, Field(ge=0, le=MAX_CROP_TOP, description=f"a number between 0 and {MAX_CROP_TOP}")]
AreaShare = Annotated[Number, Field(gt=0, le=1, description="a number more than 0 and at most 1")]
Decay = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
ClassCount = Annotated[int | None, Field(ge=2, le=IGNORE_INDEX, description=f"a whole number from 2 to {IGNORE_INDEX}")]
Betas = Annotated[tuple[Decay, Decay], Field(strict=False, description="two numbers, each at least 0 and below 1")]
Side = Annotated[int, Field(gt=0, le=MAX_SIDE, multiple_of=STRIDE)]
Size = Annotated[
    tuple[Side, Side],
    Field(strict=False, description=f"two multiples of {STRIDE}, the encoder's last stride, up to {MAX_SIDE}"),
]
# YAML's off and no are False, none and ~ are None: a setting that knows one of them takes the other for it.
OR_FALSE, OR_NONE, OR_OFF = (BeforeValidator(lambda value, other=x: value or other) for x in (False, None, "off"))
Source = Annotated[bool | str, OR_FALSE, Field(description="true, false, a hub id or a folder")]
Amp = Annotated[Literal[AMP_MODES], OR_OFF]
BY_NAME = f"none, one of {CLASS_WEIGHT_METHODS}, or a mapping of class names to weights"
Weighting = Annotated[Literal[None, *CLASS_WEIGHT_METHODS] | dict[str, Weight], OR_NONE, Field(description=BY_NAME)]
Kind = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", description="an identifier")]
Table = Annotated[
    InstanceOf[ClassTable] | None,
    BeforeValidator(lambda value: ClassTable.from_list(value) if isinstance(value, list) else value),
    Field(description="a list of mappings with id, name, color and instances"),
]


TINY = {
    "backbone": "tiny",
    "pretrained": False,
    "activation": "relu",  # a step takes a CPU about 5 % less time than with GELU; scores are alike
    "image_size": (96, 256),
    "crop_top": 0.25,  # the road lies below
}
RATES = {
    "instance_weight": 0.1,  # instances are learnt sooner than classes
    "lr": 3e-3,  # a high rate: random weights hold nothing to preserve
    "encoder_lr_scale": 1.0,  # for the same reason
    "muon_lr": 0.02,  # without Muon mIoU is 0.08 lower
    "repeat_threshold": 0.5,  # few images show a crosswalk
}
MANY = {"epochs": 4, "crop_scale": 1.0, "color_jitter": 0.0}  # many images, few epochs: mirrored
NIGHT = {"classes": NIGHT_RIDE, "class_weights": {"Lane Mark": 12.0, "Moveable": 6.0}, "epochs": 20, "patience": 20}
STEPS = {"steps_per_epoch": 50}  # epochs of as many steps, however few the images
PRESETS: dict[str, dict] = {
    "tiny": TINY | RATES | MANY,
    **{kind: TINY | RATES | MANY | {"model": kind} for kind in ("unet", "resunet")},
    "own-data": TINY | RATES | STEPS | {"epochs": 12},  # few images of one's own, from random weights
    "finetune": RATES | STEPS | {"epochs": 6, "lr": 1e-3, "muon_lr": 2e-3},  # the same, from a trained model
    "night-ride": NIGHT
    | {"backbone": "b2", "image_size": (480, 480), "lr": 1e-4, "encoder_lr_scale": 1.0, "amp": "fp16"},
    "night-ride-tiny": TINY | RATES | NIGHT | {"image_size": (160, 160), "crop_top": 0.0},
    **{size: {"backbone": size} for size in BACKBONES[1:]},
}
"""Name → settings that differ from the defaults. ``data_samples/finetune.json`` has scores of the two for few images,
which leave it to a model file to say what it is; as a config of its own, ``finetune`` is for the tiny model."""


@dataclass(frozen=True)
class LaneSegmentationConfig:
    """All settings of the lane model, its training and its post-processing, a line each: range, default, meaning.

    The defaults are the guide's, but for ``normalize_embeddings``: its margins do not fit on a sphere.
    ``LaneSegmentationConfig.preset("tiny")`` is the small model that trains from scratch on a CPU in minutes,
    ``"unet"`` and ``"resunet"`` are of its size; ``"own-data"`` and ``"finetune"`` train it on few images, from random
    and from trained weights; ``"night-ride"`` is elective 3's; ``"b0"`` .. ``"b5"`` fine-tune the weights of the hub.

    Raises:
        ValueError: one line that names every wrong setting, its value and what is expected; also
            ``normalize_embeddings`` with margins that ``max_instances`` means on the unit sphere cannot satisfy.

    Reference:
        B. De Brabandere et al., "Semantic Instance Segmentation with a Discriminative Loss Function", 2017
        (margins, alpha, beta, gamma); E. Xie et al., "SegFormer", NeurIPS 2021 (weight decay, heads × 10).
    """

    # The model
    backbone: Literal[BACKBONES] = "b5"
    pretrained: Source = True  # True: the hub's Cityscapes weights; text: another hub id or a folder; False: random
    num_classes: ClassCount = None  # None: as many as ``classes`` has, and without these the guide's six
    embedding_dim: Annotated[int, Field(ge=1, le=MAX_DIM)] = 32  # length of a pixel's embedding
    normalize_embeddings: bool = False  # project embeddings onto the unit sphere, where the margins must fit
    activation: Literal[ACTIVATIONS] = "gelu"  # of the encoder, in a U-Net everywhere; loaded weights bring theirs
    model: Kind = "segformer"  # kind of model
    classes: Table = None  # a class table, in YAML a list of its rows; None: that of ``labels.table_for(num_classes)``

    # The losses
    semantic_weight: Weight = 1.0
    instance_weight: Weight = 0.5  # of the discriminative loss
    ce_weight: Weight = 0.6  # of cross-entropy within the semantic loss
    dice_weight: Weight = 0.4  # of Dice within the semantic loss
    class_weights: Weighting = field(default=None, hash=False)  # see ``losses.class_weights``; by name, others weigh 1
    ignore_index: int = IGNORE_INDEX  # semantic id that takes part in no loss
    delta_var: Positive = 0.5  # pull margin, in units of the embedding space
    delta_dist: Positive = 1.5  # push margin, more than delta_var: means want to be 2 * delta_dist apart
    alpha: Weight = 1.0  # of the variance term
    beta: Weight = 1.0  # of the distance term
    gamma: Weight = 0.001  # of the regularisation term
    max_instances: Count = 8  # the most instances expected in one image; decides what fits on the unit sphere

    # The training
    lr: Positive = 6e-5  # AdamW's rate for the heads
    encoder_lr_scale: Weight = 0.1  # the encoder's share of lr and muon_lr
    muon_lr: Weight = 0.0  # Muon's rate for the matrices of hidden layers; 0 leaves them to AdamW
    betas: Betas = (0.9, 0.999)  # AdamW's moment decay rates
    weight_decay: Weight = 0.01  # decoupled
    warmup_fraction: Share = 0.05  # share of all steps with a linearly rising rate; half a cosine to zero follows
    epochs: Count = 50
    steps_per_epoch: Whole = 0  # optimiser steps in an epoch, however many images there are; 0: each image once
    batch_size: Count = 4  # images per forward pass
    accumulation_steps: Count = 1  # batches per optimiser step
    max_grad_norm: Positive = 1.0  # gradients are scaled down to this total norm
    patience: Count = 10  # epochs without a better validation loss before training stops early
    amp: Amp = "auto"  # mixed precision; auto chooses by device

    # The data
    image_size: Size = (512, 1024)  # (height, width) in pixels fed to the network
    crop_top: TopShare = 0.0  # share of the height that is cut off above; what is cut off counts as background
    crop_scale: AreaShare = 0.5  # smallest share of the area that a random crop keeps; 1: only the aspect is cut to fit
    flip_probability: Share = 0.5  # of a horizontal flip
    color_jitter: Share = 0.3  # strength of brightness, contrast, saturation (this) and hue (a tenth of it) changes
    repeat_threshold: Share = 0.0  # classes in fewer than this share of the images are drawn more often; 0: all alike
    num_workers: Annotated[int, Field(ge=0, le=256)] = 0  # processes that load data; 0 loads in the main process
    seed: Whole = 0  # the one integer from which every random draw follows

    # The post-processing
    clustering: Literal[CLUSTERING_METHODS] = "fast"
    reference_row: Share = 0.9  # row, as share of the height from the top, where lanes are ordered left to right

    def __post_init__(self) -> None:
        try:
            checked = _Checked(**vars(self))
        except ValidationError as error:
            raise ValueError(_one_line(error, vars(self))) from None
        table = checked.classes
        if checked.num_classes is None:
            checked.num_classes = NUM_CLASSES if table is None else len(table)
        elif table is not None and len(table) != checked.num_classes:
            raise ValueError(f"num_classes is {checked.num_classes}, expected {len(table)}, as `classes` has")
        if checked.delta_dist <= checked.delta_var:
            expected = f"more than delta_var = {checked.delta_var}, or clusters overlap"
            raise ValueError(f"delta_dist is {checked.delta_dist}, expected {expected}")
        if checked.normalize_embeddings:
            check_margins_on_sphere(checked.delta_dist, checked.max_instances, checked.embedding_dim)
        for name, value in checked:
            object.__setattr__(self, name, value)  # frozen; numbers are floats now, pairs tuples
        if isinstance(self.class_weights, dict) and not self.class_weights.keys() <= set(self.class_table.names):
            raise ValueError(f"class_weights is {self.class_weights}, expected names of {self.class_table.names}")

    @property
    def class_table(self) -> ClassTable:
        """Names, colours and roles; ValueError where neither ``classes`` nor ``num_classes`` says which are lanes."""
        return table_for(self.num_classes) if self.classes is None else self.classes

    @classmethod
    def preset(cls, name: str) -> "LaneSegmentationConfig":
        """Settings by the name of a preset, a key of ``PRESETS``; else ValueError."""
        if name not in PRESETS:
            raise ValueError(f"preset is {name!r}, expected one of {tuple(PRESETS)}")
        return cls(**(TINY if name == "finetune" else {}) | PRESETS[name])

    @classmethod
    def from_dict(cls, values: dict) -> "LaneSegmentationConfig":
        """Builds a config from a mapping of field names; absent fields keep their defaults.

        Raises:
            ValueError: an unknown key (the message lists all known ones) or a value outside its range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise ValueError(f"unknown config key {', '.join(unknown)}; known keys: {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict:
        """Plain values for YAML and JSON: tuples and the class table become lists."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return values | {"classes": self.classes and self.classes.to_list()}

    @classmethod
    def from_yaml(cls, path: str | Path) -> "LaneSegmentationConfig":
        """Reads a config file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a YAML mapping, unknown key, value outside its range; the message names the file.
        """
        values = read_settings(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_yaml(self, path: str | Path) -> None:
        """Writes the config; the file appears complete or not at all."""
        write_atomic(path, yaml.safe_dump(self.to_dict(), sort_keys=False))

    def replace(self, **changes) -> "LaneSegmentationConfig":
        """A checked copy with some fields changed; ``num_classes`` follows new ``classes`` if it is not given."""
        return replace(self, **({"num_classes": None} if "classes" in changes else {}) | changes)


# The fields again, as a pydantic model: it checks and converts, the config stays a plain dataclass.
_ANNOTATIONS = {field.name: (field.type, ...) for field in fields(LaneSegmentationConfig)}
_Checked = create_model("_Checked", __config__=ConfigDict(strict=True, allow_inf_nan=False), **_ANNOTATIONS)


def check_margins_on_sphere(delta_dist: float, instances: int, embedding_dim: int = 32) -> None:
    """Refuses a push margin that ``instances`` (K) means on the unit sphere in ``embedding_dim`` (D) cannot satisfy.

    The push term can reach zero only if ``2 * delta_dist`` does not exceed what the nearest two means can be apart::

        K <= D + 1          sqrt(2K / (K - 1)), the regular simplex
        K >  D + 1          at most sqrt(2), attained up to K = 2D
        K >  D + 1, D = 2   2 sin(pi / K), the regular polygon
        K >  D + 1, D = 1   0: the "sphere" has two points

    Raises:
        ValueError: the margin is out of reach; names an upper bound, rounded down to two decimals.

    Reference:
        R. A. Rankin, "The Closest Packing of Spherical Caps in n Dimensions", 1955 (the first two lines).
    """
    if instances < 2:
        return
    if instances <= embedding_dim + 1:
        reach = math.sqrt(2 * instances / (instances - 1))
    elif embedding_dim > 2:
        reach = math.sqrt(2)
    else:
        reach = 2 * math.sin(math.pi / instances) if embedding_dim == 2 else 0.0
    if 2 * delta_dist > reach:
        raise ValueError(
            f"delta_dist {delta_dist} cannot be reached with normalize_embeddings: {instances} means on the unit "
            f"sphere are at most {reach:.2f} apart, but 2 * delta_dist is {2 * delta_dist:.2f}. "
            f"Use delta_dist <= {math.floor(50 * reach) / 100:.2f}, or do not normalise"
        )


def read_settings(path: str | Path) -> dict:
    """The settings that a YAML file gives, not checked yet; errors as for ``LaneSegmentationConfig.from_yaml``."""
    path = Path(path)
    check_file(path, "config file", "a YAML file", MAX_TEXT)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise ValueError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values or {}


def load_config(source: str | Path) -> LaneSegmentationConfig:
    """A config from a YAML file, or from the name of a preset, a key of ``PRESETS``."""
    if str(source) in PRESETS:
        return LaneSegmentationConfig.preset(str(source))
    return LaneSegmentationConfig.from_yaml(source)


def _one_line(error: ValidationError, values: dict) -> str:
    """All faults as "setting is value, expected range", joined by semicolons."""
    faults = {}
    for fault in error.errors():
        name = fault["loc"][0]
        expected = _Checked.model_fields[name].description or fault["msg"].removeprefix("Input should be ")
        reason = fault.get("ctx", {}).get("error")  # a class table says what is wrong with it
        faults[name] = f"{name}: {reason}" if reason else f"{name} is {values[name]!r:.200}, expected {expected}"
    return "; ".join(faults.values())
