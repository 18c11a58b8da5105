"""U-Net and ResUNet as lane models: the encoder's maps return beside the decoder's, one resolution after the other.

Axes: B batch, C classes, D embedding dimensions, H and W image pixels.

Reference:
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015;
    Z. Zhang, Q. Liu, Y. Wang, "Road Extraction by Deep Residual U-Net", IEEE GRSL 2018 (residual blocks).
"""

import itertools
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadtopo_lib.config import MAX_DIM, LaneSegmentationConfig
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES
from roadtopo_lib.losses.criterion import LaneCriterion
from roadtopo_lib.models import StoredModel, upsample_to
from roadtopo_lib.segformer import IMAGENET_MEAN, IMAGENET_STD, MIN_EMBEDDING_NORM, initialize

NORMS = {
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 8),
    "instance": partial(nn.InstanceNorm2d, affine=True),
}
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}
UPSAMPLINGS = ("transposed", "bilinear")
WIDTHS = (24, 48, 96, 192)
"""Channels at 1/1, 1/2, 1/4 and 1/8: 1.1 M parameters, near those of SegFormer ``tiny``."""


class UNet(StoredModel):
    """Class logits and instance embeddings at the image's own resolution.

    Args:
        num_classes: semantic classes C; 1 for one channel whose sigmoid is the probability of the second of two.
        embedding_dim: embedding dimensions D; 0 for none: the model then has no instance head.
        widths: channels of each resolution, the finest first, multiples of 8.
        norm: ``"batch"``, ``"group"`` (8 groups) or ``"instance"``; the last two do not depend on the batch.
        upsampling: ``"transposed"`` convolution, or ``"bilinear"`` interpolation before a 1×1 convolution.
        normalize_embeddings: project embeddings onto the unit sphere.
        deep_supervision: in training mode the coarser decoder maps give logits, too; see ``DeepSupervision``.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.01 below zero) or ``"gelu"``, behind each normalisation.

    Raises:
        ValueError: an argument out of range.
    """

    kind = "unet"
    side_multiple = 1  # what tiles are padded to: nothing, ``forward`` takes any size

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        embedding_dim: int = 32,
        widths: Sequence[int] = WIDTHS,
        norm: str = "batch",
        upsampling: str = "transposed",
        deep_supervision: bool = False,
        normalize_embeddings: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        for name, found, expected in (
            ("norm", norm, NORMS), ("upsampling", upsampling, UPSAMPLINGS), ("activation", activation, ACTIVATIONS),
        ):  # fmt: skip
            if found not in expected:
                raise ValueError(f"{name} is {found!r}, expected one of {tuple(expected)}")
        if not (1 <= num_classes <= IGNORE_INDEX and 0 <= embedding_dim <= MAX_DIM):
            expected = f"num_classes 1 to {IGNORE_INDEX} and embedding_dim 0 to {MAX_DIM}"
            raise ValueError(f"expected {expected}, got {num_classes} and {embedding_dim}")
        if not 2 <= len(widths) <= 10 or any(width < 8 or width % 8 for width in widths):
            raise ValueError(f"widths is {tuple(widths)}, expected two to ten multiples of 8")
        self.num_classes = max(2, num_classes)
        self.embedding_dim = embedding_dim
        self.normalize_embeddings = normalize_embeddings
        self.activation = ACTIVATIONS[activation]  # the blocks ask for it
        self._settings = {
            "num_classes": num_classes, "embedding_dim": embedding_dim, "widths": list(widths), "norm": norm,
            "upsampling": upsampling, "deep_supervision": deep_supervision,
            "normalize_embeddings": normalize_embeddings, "activation": activation,
        }  # fmt: skip
        pairs = list(itertools.pairwise(widths))  # (finer, coarser)
        self.encoder = nn.ModuleList(self.block(a, b, norm) for a, b in ((3, widths[0]), *pairs))
        self.upsamplers = nn.ModuleList(_upsampler(coarse, fine, upsampling) for fine, coarse in pairs[::-1])
        self.decoder = nn.ModuleList(self.block(2 * fine, fine, norm) for fine, _ in pairs[::-1])
        self.semantic_head = nn.Conv2d(widths[0], num_classes, 1)
        self.embedding_head = nn.Conv2d(widths[0], embedding_dim, 1) if embedding_dim else None
        coarser = widths[-2:0:-1] if deep_supervision else ()
        self.auxiliary_heads = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in coarser)
        self.apply(initialize)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def block(self, inputs: int, outputs: int, norm: str) -> nn.Module:
        """Two 3×3 convolutions, each with normalisation and activation: (B, inputs, h, w) → (B, outputs, h, w)."""
        layers = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), NORMS[norm](outputs), self.activation()]
        return nn.Sequential(*layers)

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        """Logits and embeddings.

        Args:
            images: (B, 3, H, W) float in [0, 1], RGB, of any size: inside they are padded to a multiple of the
                coarsest stride, and the outputs are cropped back.
            upsample: without effect: the heads work at (H, W).

        Returns:
            ``logits`` (B, C, H, W), or (B, 1, H, W) for ``num_classes=1``; ``embeddings`` (B, D, H, W). With
            ``deep_supervision`` in training mode also ``auxiliary``, a list of the coarser maps' logits, interpolated
            to (H, W).

        Raises:
            ValueError: images of another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be float (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        height, width = images.shape[2:]
        stride = 2 ** (len(self.encoder) - 1)
        # Rounded up without negative numbers, whose division ONNX rounds towards zero.
        padded = [stride * max(2, (side + stride - 1) // stride) for side in (height, width)]
        x = (images - self.pixel_mean) / self.pixel_std
        x = F.pad(x, (0, padded[1] - width, 0, padded[0] - height), mode="replicate")
        skips = []
        for number, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if number else x)  # (B, widths[k], h / 2^k, w / 2^k)
            skips.append(x)
        auxiliary = []
        for number, (enlarge, block, skip) in enumerate(zip(self.upsamplers, self.decoder, skips[-2::-1], strict=True)):
            x = block(torch.cat([skip, enlarge(x)], dim=1))
            if self.training and number < len(self.auxiliary_heads):
                auxiliary.append(upsample_to(self.auxiliary_heads[number](x), padded)[:, :, :height, :width])
        x = x[:, :, :height, :width]
        embeddings = x[:, :0] if self.embedding_head is None else self.embedding_head(x)
        if self.normalize_embeddings:
            embeddings = F.normalize(embeddings, dim=1, eps=MIN_EMBEDDING_NORM)
        outputs = {"logits": self.semantic_head(x), "embeddings": embeddings}
        return outputs | ({"auxiliary": auxiliary} if auxiliary else {})

    def parameter_groups(self, encoder_lr_scale: float = 1.0) -> list[dict]:
        """Encoder and decoder, each as vectors and matrices, see ``LaneModel``."""
        heads = (self.semantic_head, self.embedding_head, *self.auxiliary_heads)
        hidden = {m.weight for m in self.modules() if isinstance(m, nn.Conv2d) and m not in heads}
        encoder = set(self.encoder.parameters())
        groups = []
        for part, is_encoder, scale in (("encoder", True, encoder_lr_scale), ("decoder", False, 1.0)):
            params = [p for p in self.parameters() if p.requires_grad and (p in encoder) == is_encoder]
            for name, matrices in ((part, False), (f"{part} matrices", True)):
                chosen = [p for p in params if (p in hidden) == matrices]
                groups.append({"name": name, "params": chosen, "lr_scale": scale, "matrices": matrices})
        return groups

    def settings(self) -> dict:
        """What rebuilds this architecture; written into every saved file."""
        return dict(self._settings)

    @classmethod
    def from_config(cls, config: LaneSegmentationConfig) -> "UNet":
        """A new model with the config's classes, embeddings and activation; ``pretrained`` must be off.

        Norm, widths and upsampling are those of this class: with others, save a model and begin with its file
        (``road-topology train lane --init FILE``).

        Raises:
            ValueError: ``pretrained`` is on: there are no published weights.
        """
        if config.pretrained is not False:
            raise ValueError(f"pretrained is {config.pretrained!r}, expected false: no weights of {cls.kind} exist")
        names = ("num_classes", "embedding_dim", "normalize_embeddings", "activation")
        return cls(**{name: getattr(config, name) for name in names})


class ResUNet(UNet):
    """A U-Net of residual blocks: a block adds its input to its result.

    Args:
        preactivation: normalisation and activation stand before each convolution, else behind it and behind the sum.
        others: as of ``UNet``.

    Reference:
        Zhang, Liu, Wang 2018 (pre-activation); K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
        and "Identity Mappings in Deep Residual Networks", ECCV 2016 (the two orders).
    """

    kind = "resunet"

    def __init__(self, *args, preactivation: bool = True, **others) -> None:
        self.preactivation = preactivation  # the blocks, made by ``UNet``, ask for it
        super().__init__(*args, **others)
        self._settings["preactivation"] = preactivation

    def block(self, inputs: int, outputs: int, norm: str) -> nn.Module:
        """A residual block: (B, inputs, h, w) → (B, outputs, h, w)."""
        family = PreActivationBlock if self.preactivation else PostActivationBlock
        return family(inputs, outputs, norm, self.activation)


class PostActivationBlock(nn.Module):
    """3×3 convolution and normalisation, twice, with an activation between; plus the input; then an activation.

    Where the channels change, the input goes through a 1×1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            NORMS[norm](outputs),
            activation(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            NORMS[norm](outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h, w)."""
        return self.activation(self.branch(x) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """Normalisation, activation and 3×3 convolution, twice, plus the input through a 1×1 convolution.

    The first block of a network sees the image, which needs no normalisation: there the first step is left out.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        before = [] if inputs == 3 else [NORMS[norm](inputs), activation()]
        self.branch = nn.Sequential(
            *before,
            nn.Conv2d(inputs, outputs, 3, padding=1),
            NORMS[norm](outputs),
            activation(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h, w)."""
        return self.branch(x) + self.shortcut(x)


class DeepSupervision:
    """A criterion that also judges the logits of coarser maps, so that deep layers get a gradient of their own.

    Args:
        criterion: judges the outputs at full resolution, and its semantic loss the coarser logits.
        weight: of the mean of the auxiliary losses, >= 0.

    Reference:
        C.-Y. Lee et al., "Deeply-Supervised Nets", AISTATS 2015.
    """

    def __init__(self, criterion: LaneCriterion, weight: float = 0.4) -> None:
        self.criterion = criterion
        self.weight = weight

    def __call__(self, outputs: dict, batch: dict, shares: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``losses.criterion.Criterion``. Records ``auxiliary`` as well; ``loss`` includes it."""
        loss, parts = self.criterion(outputs, batch, shares)
        if "auxiliary" not in outputs:  # evaluation mode
            return loss, parts
        losses = [self.criterion.semantic(logits, batch["semantic_mask"]) for logits in outputs["auxiliary"]]
        auxiliary = torch.stack(losses).mean()
        share = 1.0 if shares is None else shares[0].item()  # of the labelled pixels
        parts |= {"auxiliary": auxiliary.detach(), "loss": parts["loss"] + self.weight * auxiliary.detach()}
        return loss + share * self.weight * auxiliary, parts

    def counts(self, batch: dict) -> Tensor:
        """See ``losses.criterion.Criterion``."""
        return self.criterion.counts(batch)


def _upsampler(inputs: int, outputs: int, method: str) -> nn.Module:
    """Doubles height and width: (B, inputs, h, w) → (B, outputs, 2h, 2w)."""
    if method == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), enlarge)
