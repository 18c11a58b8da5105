"""Settings of a training run: every number that a person may want to turn, with its unit, range and source.

A config is a plain dataclass that checks itself when it is made, and travels as YAML beside every trained model.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import yaml

from roadtopo_lib.files import write_atomic
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES

ACTIVATIONS = ("gelu", "relu")
BACKBONES = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")
AMP_MODES = ("auto", "off", "fp16", "bf16")
CLUSTERING_METHODS = ("fast", "meanshift", "dbscan")
CLASS_WEIGHT_METHODS = ("inverse", "sqrt_inverse", "effective_number", "median_frequency")


@dataclass(frozen=True)
class LaneSegmentationConfig:
    """All settings of the lane model, its training and its post-processing.

    The defaults are the guide's, but for ``normalize_embeddings``: its margins do not fit on a sphere.
    ``LaneSegmentationConfig.preset("tiny")`` is the small model that trains from scratch on a CPU in minutes;
    ``preset("b0")`` .. ``preset("b5")`` fine-tune the hub's Cityscapes weights.

    Args:
        backbone: ``"tiny"`` or ``"b0"`` .. ``"b5"``.
        pretrained: ``True`` loads the Cityscapes checkpoint of that size from the hub, a string any hub id or local
            folder, ``False`` starts from random weights.
        num_classes: semantic classes, at least 2.
        embedding_dim: length of a pixel's embedding, at least 1.
        normalize_embeddings: project embeddings onto the unit sphere. The margins must then fit on it, see Raises.
        activation: of the encoder, ``"gelu"`` or ``"relu"``, for random weights; others bring their own.
        semantic_weight: weight of the semantic loss, >= 0.
        instance_weight: weight of the discriminative loss, >= 0.
        ce_weight: weight of cross-entropy within the semantic loss, >= 0.
        dice_weight: weight of Dice within the semantic loss, >= 0.
        class_weights: ``None`` or a method of ``losses.class_weights``, for cross-entropy and Dice alike.
        ignore_index: semantic id that takes part in no loss.
        delta_var: pull margin, in units of the embedding space, > 0.
        delta_dist: push margin: means want to be ``2 * delta_dist`` apart, > delta_var.
        alpha, beta, gamma: weights of the variance, distance and regularisation terms, >= 0.
        max_instances: the most instances expected in one image; decides what fits on the unit sphere.
        lr: base learning rate of AdamW, > 0. The heads run at this rate.
        encoder_lr_scale: the encoder runs at ``lr * encoder_lr_scale``, >= 0.
        muon_lr: rate at which Muon moves the matrices of hidden layers, >= 0; the encoder's times
            ``encoder_lr_scale``. 0 leaves all to AdamW. See ``training.optimizer.Muon``.
        betas: AdamW's moment decay rates.
        weight_decay: AdamW's decoupled weight decay, >= 0.
        warmup_fraction: share of all optimiser steps with a linearly rising rate, 0..1; a half cosine to zero follows.
        epochs: passes over the training set, >= 1.
        batch_size: images per forward pass, >= 1.
        accumulation_steps: batches per optimiser step, >= 1.
        max_grad_norm: gradients are scaled down to this total norm, > 0.
        patience: epochs without a better validation loss before training stops early, >= 1.
        amp: ``"auto"`` chooses by device, or ``"off"``, ``"fp16"``, ``"bf16"``.
        image_size: (height, width) in pixels fed to the network, multiples of 32.
        crop_top: share of the image height that is cut off above before anything else, 0..0.9: sky costs as much time
            as road. What is cut off counts as background.
        crop_scale: smallest share of the image area that a random crop keeps, 0..1; 1 keeps all of an image whose
            aspect ratio is near that of ``image_size``, and cuts others down to it.
        flip_probability: chance of a horizontal flip, 0..1.
        color_jitter: strength of brightness, contrast, saturation (this) and hue (a tenth of it) changes, 0..1.
        repeat_threshold: classes in fewer than this share of the images are drawn more often, 0..1; 0 draws all images
            alike. See ``dataset.repeat_factors``.
        num_workers: processes that load data; 0 loads in the main process.
        seed: the one integer from which every random draw follows.
        clustering: ``"fast"``, ``"meanshift"`` or ``"dbscan"``.
        reference_row: row (share of the image height from the top) where lanes are ordered left to right, 0..1.

    Raises:
        ValueError: a value outside its range, or ``normalize_embeddings`` with margins that no arrangement of
            ``max_instances`` means on the unit sphere can satisfy, as far as bounds for ``embedding_dim`` tell.

    Reference:
        B. De Brabandere et al., "Semantic Instance Segmentation with a Discriminative Loss Function", 2017
        (margins, alpha, beta, gamma); E. Xie et al., "SegFormer", NeurIPS 2021 (learning rate, weight decay).
    """

    backbone: str = "b5"
    pretrained: bool | str = True
    num_classes: int = NUM_CLASSES
    embedding_dim: int = 32
    normalize_embeddings: bool = False
    activation: str = "gelu"

    semantic_weight: float = 1.0
    instance_weight: float = 0.5
    ce_weight: float = 0.6
    dice_weight: float = 0.4
    class_weights: str | None = None
    ignore_index: int = IGNORE_INDEX
    delta_var: float = 0.5
    delta_dist: float = 1.5
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.001
    max_instances: int = 8

    lr: float = 6e-5
    encoder_lr_scale: float = 0.1
    muon_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    epochs: int = 50
    batch_size: int = 4
    accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    patience: int = 10
    amp: str = "auto"

    image_size: tuple[int, int] = (512, 1024)
    crop_top: float = 0.0
    crop_scale: float = 0.5
    flip_probability: float = 0.5
    color_jitter: float = 0.3
    repeat_threshold: float = 0.0
    num_workers: int = 0
    seed: int = 0

    clustering: str = "fast"
    reference_row: float = 0.9

    def __post_init__(self) -> None:
        # YAML knows lists only; a frozen dataclass is set through object.__setattr__.
        for name in ("betas", "image_size"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or len(value) != 2:
                raise ValueError(f"{name} must be two numbers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        self._check_types()
        self._check_ranges()
        if self.normalize_embeddings:
            check_margins_on_sphere(self.delta_dist, self.max_instances, self.embedding_dim)

    def _check_types(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                # YAML 1.1 reads "6e-5" (no dot) as text: take it as the number it is.
                if isinstance(value, str):
                    try:
                        value = float(value)
                    except ValueError:
                        raise ValueError(f"{field.name} must be a number, got {value!r}") from None
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ValueError(f"{field.name} must be a finite number, got {value!r}")
                object.__setattr__(self, field.name, float(value))
            elif field.type is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{field.name} must be a whole number, got {value!r}")
            elif field.type is bool and not isinstance(value, bool):
                raise ValueError(f"{field.name} must be true or false, got {value!r}")
        if not isinstance(self.pretrained, (bool, str)):
            raise ValueError(f"pretrained must be true, false, a hub id or a folder, got {self.pretrained!r}")
        if any(isinstance(side, bool) or not isinstance(side, int) for side in self.image_size):
            raise ValueError(f"image_size must be two whole numbers (height, width), got {self.image_size}")
        if any(isinstance(beta, bool) or not isinstance(beta, (int, float)) for beta in self.betas):
            raise ValueError(f"betas must be two numbers, got {self.betas}")

    def _check_ranges(self) -> None:
        for name, choices in (
            ("backbone", BACKBONES),
            ("activation", ACTIVATIONS),
            ("amp", AMP_MODES),
            ("clustering", CLUSTERING_METHODS),
            ("class_weights", (None, *CLASS_WEIGHT_METHODS)),
        ):
            _require(getattr(self, name) in choices, name, getattr(self, name), f"one of {choices}")
        for name in ("semantic_weight", "instance_weight", "ce_weight", "dice_weight", "alpha", "beta", "gamma"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("encoder_lr_scale", "muon_lr", "weight_decay", "num_workers", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("lr", "max_grad_norm", "delta_var", "delta_dist"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("embedding_dim", "epochs", "batch_size", "accumulation_steps", "patience", "max_instances"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("warmup_fraction", "flip_probability", "color_jitter", "repeat_threshold", "reference_row"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        _require(0 <= self.crop_top <= 0.9, "crop_top", self.crop_top, "between 0 and 0.9")
        _require(0 < self.crop_scale <= 1, "crop_scale", self.crop_scale, "more than 0 and at most 1")
        _require(self.num_classes >= 2, "num_classes", self.num_classes, "at least 2")
        _require(
            self.delta_dist > self.delta_var,
            "delta_dist",
            self.delta_dist,
            f"more than delta_var = {self.delta_var}, or clusters overlap",
        )
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "each at least 0 and below 1")
        _require(
            all(side > 0 and side % 32 == 0 for side in self.image_size),
            "image_size",
            self.image_size,
            "multiples of 32, the stride of the encoder's last stage",
        )

    @classmethod
    def preset(cls, name: str) -> "LaneSegmentationConfig":
        """Settings that work for one model size.

        Args:
            name: ``"tiny"`` or ``"b0"`` .. ``"b5"``.

        Raises:
            ValueError: unknown name.
        """
        _require(name in BACKBONES, "preset", name, f"one of {BACKBONES}")
        if name != "tiny":
            return cls(backbone=name)
        # From random weights there is nothing to preserve: the encoder learns at the full rate, and that rate is high.
        # Minutes of training are too few to overfit, so nothing is augmented but by mirroring; instances are learnt
        # sooner than classes, so their loss weighs less; the road lies below the upper quarter of the image. A step
        # with ReLU takes a CPU about 5 % less time than with GELU; scores came out alike (two sets of 200 scenes: mIoU
        # 0.660 and 0.658 against 0.661 and 0.657, lane F1 0.737 and 0.742 against 0.744 and 0.728). Few images show a
        # crosswalk; drawing these more often took mIoU from 0.649 to 0.657, and from 0.582 to 0.602 where night and
        # rain are among the scenes. Muon took mIoU from 0.593 to 0.673 and lane F1 from 0.686 to 0.762 (1100 scenes, 4
        # epochs, 200 test scenes), for a quarter more time; at half this rate to 0.663 and 0.755.
        return cls(
            backbone="tiny",
            pretrained=False,
            activation="relu",
            instance_weight=0.1,
            lr=3e-3,
            encoder_lr_scale=1.0,
            muon_lr=0.02,
            epochs=4,
            batch_size=4,
            image_size=(96, 256),
            crop_top=0.25,
            crop_scale=1.0,
            color_jitter=0.0,
            repeat_threshold=0.5,
        )

    @classmethod
    def from_dict(cls, values: dict) -> "LaneSegmentationConfig":
        """Builds a config from a mapping of field names; absent fields keep their defaults.

        Raises:
            ValueError: an unknown key (the nearest known ones are all listed) or a value outside its range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise ValueError(f"unknown config key {', '.join(unknown)}; known keys: {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict:
        """Plain values for YAML and JSON; tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_yaml(cls, path: str | Path) -> "LaneSegmentationConfig":
        """Reads a config file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a YAML mapping, unknown key, value outside its range; the message names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such config file, expected a YAML file")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_yaml(self, path: str | Path) -> None:
        """Writes the config; the file appears complete or not at all."""
        write_atomic(path, yaml.safe_dump(self.to_dict(), sort_keys=False))

    def replace(self, **changes) -> "LaneSegmentationConfig":
        """A checked copy with some fields changed."""
        return replace(self, **changes)


def check_margins_on_sphere(delta_dist: float, instances: int, embedding_dim: int = 32) -> None:
    """Refuses a push margin that ``instances`` means on the unit sphere cannot satisfy.

    The push term can reach zero only if ``2 * delta_dist`` does not exceed what the nearest two of K means on the unit
    sphere in D dimensions can be apart::

        K <= D + 1          sqrt(2K / (K - 1)), the regular simplex
        K >  D + 1          at most sqrt(2), attained up to K = 2D
        K >  D + 1, D = 2   2 sin(pi / K), the regular polygon
        K >  D + 1, D = 1   0: the "sphere" has two points

    Args:
        delta_dist: push margin, > 0.
        instances: K, the most instances in one image.
        embedding_dim: D, >= 1.

    Raises:
        ValueError: the margin is out of reach; names the largest one that fits, rounded down to two decimals.

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


def load_config(source: str | Path) -> LaneSegmentationConfig:
    """A config from a YAML file, or from the name of a preset (``tiny``, ``b0`` .. ``b5``)."""
    if str(source) in BACKBONES:
        return LaneSegmentationConfig.preset(str(source))
    return LaneSegmentationConfig.from_yaml(source)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}, expected {expected}")
