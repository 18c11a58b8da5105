"""SegFormer with two heads: one shared Mix Transformer encoder, one MLP head for classes, one for embeddings.

Axes: B batch, C classes, D embedding dimensions, H and W image pixels; the heads work at h = H/4, w = W/4.

The encoder is transformers' own class, and both heads have the weights of its head, so the hub's weights fit. Ours are
the second head, a faster way to compute a head, the normalisation that lives inside the model (nobody can forget mean
and standard deviation), the parameter groups, and a file format that carries its own settings.

Reference:
    E. Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021.
"""

import copy
import functools
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead
from transformers.utils import logging as transformers_logging

from roadtopo_lib.config import ACTIVATIONS, MAX_DIM, STRIDE, LaneSegmentationConfig
from roadtopo_lib.hub import load_network
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES
from roadtopo_lib.models import StoredModel, upsample_to

logger = logging.getLogger(__name__)

# Depth, width and head width of each size: Xie et al. 2021, table 6 (b0..b5). "tiny" is ours, for CPUs.
ARCHITECTURES: dict[str, dict] = {
    "tiny": {
        # Lines are thin: width and depth pay most where the map is finest, in the first stage.
        "depths": [2, 1, 1, 1],
        "hidden_sizes": [64, 64, 96, 128],
        "num_attention_heads": [1, 2, 3, 4],
        "mlp_ratios": [4, 2, 2, 2],
        "decoder_hidden_size": 64,
    },
    "b0": {"depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256], "decoder_hidden_size": 256},
    "b1": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 256},
    "b2": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "b3": {"depths": [3, 4, 18, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "b4": {"depths": [3, 8, 27, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "b5": {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""RGB statistics that the hub's weights were trained with (Deng et al. 2009; SegFormer's own preprocessing)."""

MIN_EMBEDDING_NORM = 1e-6
"""Below this length an embedding is left as it is by the optional normalisation, so that nothing divides by zero."""

LICENSE_NOTICE = "NVIDIA licenses these weights for research and evaluation only, models derived from them included."


def hub_id(backbone: str) -> str:
    """The hub's Cityscapes checkpoint of a size ``"b0"`` .. ``"b5"``."""
    return f"nvidia/segformer-{backbone}-finetuned-cityscapes-1024-1024"


class SegFormerModel(StoredModel):
    """Class logits and instance embeddings for every pixel.

    Args:
        backbone: ``"tiny"`` (1.3 M parameters, for CPUs) or ``"b0"`` .. ``"b5"`` in their published sizes.
        num_classes: semantic classes C.
        embedding_dim: embedding dimensions D.
        pretrained: ``False`` for random weights, ``True`` for the hub's Cityscapes checkpoint of this size, or any hub
            id or local folder of the same architecture (``config.json``, ``model.safetensors``). The classifier is new
            whenever its class count differs, the embedding head always.
        normalize_embeddings: project embeddings onto the unit sphere. Off by default: with the paper's margins the
            push term could then never be satisfied (means on a unit sphere are at most 2 apart, 3 are asked for).
        activation: of the encoder's feed-forward networks, one of ``ACTIVATIONS``: ``"gelu"``, as in the paper; others
            cost less on a CPU. For random weights only: others bring the one they were trained with.

    Raises:
        ValueError: unknown backbone or activation, ``pretrained=True`` for ``"tiny"``, or weights of another
            architecture, damaged or incomplete.
        FileNotFoundError: a folder that is missing, or without config or weights.
        ConnectionError: weights that are neither on disk nor within reach.

    Reference:
        Xie et al. 2021 (encoder and head); De Brabandere et al. 2017 (embedding head).
    """

    kind = "segformer"

    def __init__(
        self,
        backbone: str = "b5",
        num_classes: int = NUM_CLASSES,
        embedding_dim: int = 32,
        pretrained: bool | str = True,
        normalize_embeddings: bool = False,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if backbone not in ARCHITECTURES:
            raise ValueError(f"backbone is {backbone!r}, expected one of {tuple(ARCHITECTURES)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, expected one of {ACTIVATIONS}")
        if not (2 <= num_classes <= IGNORE_INDEX and 1 <= embedding_dim <= MAX_DIM):
            expected = f"num_classes 2 to {IGNORE_INDEX} and embedding_dim 1 to {MAX_DIM}"
            raise ValueError(f"expected {expected}, got {num_classes} and {embedding_dim}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.normalize_embeddings = normalize_embeddings

        if pretrained is False:
            network = SegformerForSemanticSegmentation(_architecture(backbone, num_classes, activation))
        else:
            network = _load_pretrained(backbone, num_classes, pretrained)
        self.activation = network.config.hidden_act
        self.encoder = network.segformer
        self.semantic_head = DecodeHead(network.config)
        self.semantic_head.load_state_dict(network.decode_head.state_dict())
        head_config = copy.deepcopy(network.config)
        head_config.num_labels = embedding_dim
        self.embedding_head = DecodeHead(head_config)
        if pretrained is False:
            self.apply(initialize)
            start_as_identity(self.encoder)
        else:
            self.embedding_head.apply(initialize)  # new beside the loaded encoder

        # Buffers move with the model and are saved with it, yet no optimiser touches them.
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        """Logits and embeddings.

        Args:
            images: (B, 3, H, W) float in [0, 1], RGB; H and W at least 32. Not normalised: the model does that.
            upsample: ``True`` gives outputs at (H, W). ``False`` leaves both at the heads' (h, w) = (H/4, W/4):
                training reads embeddings at labelled pixels only and never needs the (B, D, H, W) tensor.

        Returns:
            ``logits`` (B, C, H, W) and ``embeddings`` (B, D, H, W), or both at (h, w). The large ones are the small
            ones, interpolated bilinearly: reading the small ones at single pixels gives the same vectors. With
            ``normalize_embeddings`` both have length 1, and what is read between two small ones has the direction of
            the large one there, but is shorter.

        Raises:
            ValueError: images of another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be float (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if min(images.shape[2:]) < STRIDE:
            raise ValueError(f"images must be at least {STRIDE} pixels high and wide, got {tuple(images.shape[2:])}")
        size = images.shape[2:]
        features = self.encode(images)
        logits = self.semantic_head(features)  # (B, C, h, w)
        embeddings = self.embedding_head(features)  # (B, D, h, w)
        if self.normalize_embeddings:
            embeddings = F.normalize(embeddings, dim=1, eps=MIN_EMBEDDING_NORM)
        if upsample:
            logits = upsample_to(logits, size)  # (B, C, h, w) → (B, C, H, W)
            embeddings = upsample_to(embeddings, size)  # (B, D, h, w) → (B, D, H, W)
            if self.normalize_embeddings:  # again: the mean of two unit vectors is shorter than one
                embeddings = F.normalize(embeddings, dim=1, eps=MIN_EMBEDDING_NORM)
        return {"logits": logits, "embeddings": embeddings}

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's four feature maps at 1/4, 1/8, 1/16 and 1/32 of (H, W), from images (B, 3, H, W) in [0, 1]."""
        normalized = (images - self.pixel_mean) / self.pixel_std
        features, maps = normalized, []
        for stage in self.encoder.stages:
            features = stage(features)  # (B, c_i, H / stride_i, W / stride_i)
            maps.append(features)
        return maps

    @torch.inference_mode()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Inference in evaluation mode, on the model's own device, without gradients; the mode is restored afterwards.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            ``logits`` (B, C, H, W), ``embeddings`` (B, D, H, W) and ``semantic`` (B, H, W) int64, the likeliest class.
        """
        was_training = self.training
        self.eval()
        try:
            outputs = self(images.to(self.pixel_mean.device))
        finally:
            self.train(was_training)
        return {**outputs, "semantic": outputs["logits"].argmax(dim=1)}

    def parameter_groups(self, encoder_lr_scale: float = 0.1) -> list[dict]:
        """Four parameter groups: the encoder learns slower than the heads, and Muon moves matrices only.

        Matrices are the weights of linear layers and convolutions, except depthwise convolutions (each filter is a
        vector) and the classifiers (each row is one output). The method goes by module, not by name: in today's
        transformers no parameter name of the encoder contains "encoder".

        Args:
            encoder_lr_scale: the encoder's share of the base rate, >= 0.

        Returns:
            ``[{"name", "params", "lr_scale", "matrices"}]`` for "encoder", "encoder matrices", "heads" and "heads
            matrices". ``build_optimizer`` turns the scales into rates; torch's own optimisers ignore ``lr_scale``.

        Raises:
            RuntimeError: encoder or heads have no trainable parameter, or one of the model is in no group.
        """
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        heads = [p for head in (self.semantic_head, self.embedding_head) for p in head.parameters() if p.requires_grad]
        total = sum(1 for p in self.parameters() if p.requires_grad)
        if not encoder or not heads or len(encoder) + len(heads) != total:
            raise RuntimeError(
                f"parameter groups do not cover the model: encoder {len(encoder)}, heads {len(heads)}, all {total}"
            )
        classifiers = (self.semantic_head.classifier, self.embedding_head.classifier)
        layers = [m for m in self.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m not in classifiers]
        hidden = {m.weight for m in layers if m.weight.shape[1] > 1}  # a depthwise filter has one input channel
        groups = []
        for part, parameters, scale in (("encoder", encoder, encoder_lr_scale), ("heads", heads, 1.0)):
            for name, matrices in ((part, False), (f"{part} matrices", True)):
                params = [p for p in parameters if (p in hidden) == matrices]
                groups.append({"name": name, "params": params, "lr_scale": scale, "matrices": matrices})
        return groups

    get_trainable_params = parameter_groups  # the guide's name

    def settings(self) -> dict:
        """What rebuilds this architecture; written into every saved file."""
        names = ("backbone", "num_classes", "embedding_dim", "normalize_embeddings", "activation")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_settings(cls, settings: dict) -> "SegFormerModel":
        """A model with random weights from what ``settings`` gave."""
        return cls(**settings, pretrained=False)

    @classmethod
    def from_config(cls, config: LaneSegmentationConfig) -> "SegFormerModel":
        """A new model as the config describes it, with pretrained weights if it asks for them."""
        names = ("backbone", "num_classes", "embedding_dim", "pretrained", "normalize_embeddings", "activation")
        return cls(**{name: getattr(config, name) for name in names})


class DecodeHead(SegformerDecodeHead):
    """transformers' head, with the same weights and outputs, in fewer operations.

    A 1×1 convolution mixes channels and interpolation mixes places, so they may trade places. transformers projects
    every stage to E channels, upsamples it to H/4 and then fuses 4·E channels into E. Here each stage is fused where
    it is small, by the product of both matrices, and only then upsampled; the (B, 4·E, H/4, W/4) tensor never exists.
    """

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Fuses the encoder's four maps (B, c_i, h_i, w_i), the largest first, into (B, num_labels, h_1, w_1)."""
        size = maps[0].shape[2:]
        # transformers concatenates the stages last to first: so lie the columns of the fusing weights.
        fusing = self.linear_fuse.weight[:, :, 0, 0].chunk(len(maps), dim=1)[::-1]  # (E, 4·E) → four (E, E)
        fused = 0
        for features, project, weight in zip(maps, self.linear_projections, fusing, strict=True):
            tokens = features.flatten(2).transpose(1, 2)  # (B, h_i·w_i, c_i)
            tokens = F.linear(tokens, weight @ project.proj.weight, weight @ project.proj.bias)  # (B, h_i·w_i, E)
            stage = tokens.transpose(1, 2).unflatten(2, features.shape[2:])  # (B, E, h_i, w_i)
            fused = fused + upsample_to(stage, size)  # (B, E, h_1, w_1)
        outputs = self.classifier(self.dropout(self.activation(self.batch_norm(fused))))
        return outputs.contiguous()  # so far channels lay side by side; what follows works on planes


def initialize(module: nn.Module) -> None:
    """Random weights for training from scratch; to be used as ``network.apply(initialize)``.

    transformers draws every weight with a standard deviation of 0.02: in a depthwise convolution (9 inputs) or a
    16-channel layer the signal almost vanishes. Here a convolution with ReLU keeps the mean square of its input.

    Reference:
        K. He et al., "Delving Deep into Rectifiers", ICCV 2015 (convolutions, as in SegFormer's original code);
        X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward networks", 2010 (linear).
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # fan_out counts all output channels, but an input channel reaches those of its own group only.
        module.weight.data.mul_(module.groups**0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def start_as_identity(encoder: nn.Module) -> None:
    """Silences every block of a new encoder: the last linear layer of each branch starts at zero.

    A block adds what attention and MLP find to what came in. Zeros let it begin by adding nothing, so the signal and
    its gradient pass through all stages unchanged, and each branch grows in where it helps.

    Reference:
        P. Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1 (the same for residual blocks of CNNs).
    """
    for stage in encoder.stages:
        for block in stage.blocks:
            nn.init.zeros_(block.attention.o_proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)


def _architecture(backbone: str, num_classes: int, activation: str) -> SegformerConfig:
    return SegformerConfig(
        **ARCHITECTURES[backbone],
        hidden_act=activation,
        num_labels=num_classes,
        semantic_loss_ignore_index=IGNORE_INDEX,
        # Too small a model to be regularised away, and minutes of training are too few to overfit.
        **({"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0} if backbone == "tiny" else {}),
    )


def _load_pretrained(backbone: str, num_classes: int, source: bool | str) -> SegformerForSemanticSegmentation:
    if source is True and backbone == "tiny":
        raise ValueError("backbone 'tiny' has no published weights: use pretrained=False, or a folder of your own")
    name = hub_id(backbone) if source is True else str(source)
    if name.startswith("nvidia/"):
        logger.warning("%s: %s", name, LICENSE_NOTICE)
    # transformers prints a table of the replaced classifier, which is what we asked for.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    load = functools.partial(
        SegformerForSemanticSegmentation.from_pretrained,
        num_labels=num_classes,
        semantic_loss_ignore_index=IGNORE_INDEX,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,  # a checkpoint may be in half precision
    )
    try:
        return load_network(load, name, backbone, ARCHITECTURES[backbone], classifier="decode_head.classifier.")
    finally:
        transformers_logging.set_verbosity(verbosity)
