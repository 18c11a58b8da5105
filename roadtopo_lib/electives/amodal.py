"""Amodal fusion: several guesses of what a mask hides, merged pixel by pixel into one.

Source: the guide "AmodalFusionNet" (elective 4). Its encoder, transformer, query, and softmax over the completions are
here; what it lists differently, and why that fails, is in the appendix of the notebook.

Axes: B images, N completions, D model channels, H and W image pixels, h = H / 4, w = W / 4, L = h·w tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadtopo_lib.models import upsample_to
from roadtopo_lib.segformer import SegFormerModel

STRIDE = 4
"""Image pixels along a token's side."""


def positions_2d(channels: int, height: int, width: int) -> Tensor:
    """Sines and cosines that tell every place of a map apart: (channels, height, width) in [−1, 1].

    The first half of the channels encodes the row, the second the column, each as in Vaswani et al. 2017, section 3.5.

    Raises:
        ValueError: ``channels`` is no multiple of 4.
    """
    if channels <= 0 or channels % 4:
        raise ValueError(f"channels is {channels}, expected a multiple of 4: sine and cosine of row and column")
    rates = 10000 ** -(torch.arange(channels // 4) / (channels // 4))  # (channels / 4,)
    rows, columns = (torch.arange(n)[:, None] * rates for n in (height, width))  # (height, ·), (width, ·)
    rows, columns = (torch.cat([a.sin(), a.cos()], dim=1).T for a in (rows, columns))  # (channels / 2, height or width)
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)])


class EncoderLayer(nn.Module):
    """Self-attention over a map's tokens, then a small network for each token, both added to what comes in.

    Args:
        channels: D.
        heads: attention heads.
        reduction: keys and values are the means of ``reduction``² tokens. Every token still reads from the whole map;
            the attention matrix has L · L / reduction² entries a head instead of L².
    """

    def __init__(self, channels: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.reduction = reduction
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, D, h, w) to (B, D, h, w)."""
        normed = self.norms[0](x.movedim(1, 3)).movedim(3, 1)
        source = F.avg_pool2d(normed, self.reduction, ceil_mode=True) if self.reduction > 1 else normed
        queries, keys = (a.flatten(2).transpose(1, 2) for a in (normed, source))  # (B, L, D), (B, L / reduction², D)
        tokens = x.flatten(2).transpose(1, 2) + self.attention(queries, keys, keys, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norms[1](tokens))
        return tokens.transpose(1, 2).view_as(x)


class AmodalFusionTransformer(nn.Module):
    """How much each completion counts at each pixel.

    One convolutional encoder reads each completion beside the partial image and the mask. The mean over the completions
    goes through the transformer: what is there, and what else does the image show? Each completion is then judged
    beside that answer. So the order of the completions has no effect: permuting them permutes the weights.

    Args:
        n_max: how many completions an image has at most.
        d_model: channels D, a multiple of 4 and of ``heads``.
        heads: attention heads.
        layers: encoder layers.
        reduction: see ``EncoderLayer``; 1 is attention between all tokens.
        query: whether a learnt query reads the whole map and adds what it finds to every place.

    Raises:
        ValueError: ``d_model`` is no multiple of 4.
    """

    def __init__(
        self, n_max: int = 5, d_model: int = 64, heads: int = 4, layers: int = 2, reduction: int = 4, query: bool = True
    ) -> None:
        super().__init__()
        positions_2d(d_model, 1, 1)  # refuses a d_model that has no positions
        self.n_max = n_max
        # Each channel is a group of its own. With one group for all, means of channels drown the fine structure that
        # tells guesses apart: on 60 test scenes L1 stayed at that of equal weights, 0.080, after 300 steps.
        self.encoder = nn.Sequential(
            nn.Conv2d(7, d_model // 2, 7, stride=2, padding=3, bias=False),
            nn.GroupNorm(d_model // 2, d_model // 2), nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(d_model, d_model), nn.ReLU(),
        )  # fmt: skip
        self.layers = nn.Sequential(*(EncoderLayer(d_model, heads, reduction) for _ in range(layers)))
        self.query = nn.Parameter(torch.randn(1, 1, d_model)) if query else None
        self.reading = nn.MultiheadAttention(d_model, heads, batch_first=True) if query else None
        self.judge = nn.Sequential(
            nn.Conv2d(2 * d_model, d_model, 1), nn.ReLU(),
            nn.Conv2d(d_model, d_model // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(d_model // 2, 1, 1),
        )  # fmt: skip

    def forward(self, partial: Tensor, mask: Tensor, completions: Tensor, present: Tensor) -> Tensor:
        """The weights of the completions.

        Args:
            partial: (B, 3, H, W) float in [0, 1], the image; what the mask covers is not read.
            mask: (B, 1, H, W), 1 where something is hidden, 0 elsewhere.
            completions: (B, N, 3, H, W) float in [0, 1], N at most ``n_max``.
            present: (B, N) bool, which of them there are; at least one an image.

        Returns:
            (B, N, H, W) in [0, 1]; they sum to 1 over N at every pixel, and are exactly 0 where not present.

        Raises:
            ValueError: shapes that do not fit each other, more than ``n_max`` completions, or an image without one.
        """
        batch, count, _, height, width = completions.shape
        if partial.shape != (batch, 3, height, width) or mask.shape != (batch, 1, height, width):
            shapes = [tuple(x.shape) for x in (partial, mask, completions)]
            raise ValueError(f"partial, mask and completions have shapes {shapes}, which do not fit each other")
        if present.shape != (batch, count) or count > self.n_max:
            raise ValueError(
                f"present is {tuple(present.shape)} for {count} completions, expected (B, N), N ≤ {self.n_max}"
            )
        if not present.any(dim=1).all():
            raise ValueError("an image has no completion that is present")
        # Filled, not multiplied by 0: that would keep what is not finite.
        completions = completions.masked_fill(~present[:, :, None, None, None], 0)
        seen = torch.cat([partial.masked_fill(mask.bool(), 0), mask.to(partial.dtype)], dim=1)  # (B, 4, H, W)
        inputs = torch.cat([seen[:, None].expand(-1, count, -1, -1, -1), completions], dim=2).flatten(0, 1)
        inputs = F.pad(inputs, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        features = self.encoder(inputs).unflatten(0, (batch, count))  # (B, N, D, h, w)
        shares = present.to(features.dtype) / present.sum(dim=1, keepdim=True)
        scene = (features * shares[:, :, None, None, None]).sum(dim=1)  # (B, D, h, w)
        scene = self.layers(scene + positions_2d(*scene.shape[1:]).to(scene))
        if self.query is not None:
            tokens = scene.flatten(2).transpose(1, 2)  # (B, L, D)
            found = self.reading(self.query.expand(batch, -1, -1), tokens, tokens, need_weights=False)[0]  # (B, 1, D)
            scene = scene + found.transpose(1, 2)[..., None]
        beside = torch.cat([features, scene[:, None].expand_as(features)], dim=2).flatten(0, 1)  # (B·N, 2·D, h, w)
        scores = upsample_to(self.judge(beside), inputs.shape[2:])[:, 0, :height, :width].unflatten(0, (batch, count))
        return scores.masked_fill(~present[:, :, None, None], -math.inf).softmax(dim=1)


def fuse(partial: Tensor, mask: Tensor, completions: Tensor, weights: Tensor) -> Tensor:
    """The weighted completions inside the mask, and the image itself, bit for bit, outside.

    A completion of weight 0 has no part, even if it is not finite.

    Args:
        partial: (B, 3, H, W).
        mask: (B, 1, H, W), nonzero where something is hidden.
        completions: (B, N, 3, H, W).
        weights: (B, N, H, W), as ``AmodalFusionTransformer`` gives them.

    Returns:
        (B, 3, H, W).
    """
    weights = weights[:, :, None]
    merged = (weights * completions.masked_fill(weights == 0, 0)).sum(dim=1)
    return torch.where(mask.bool(), merged, partial)


def masked_l1(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of images (B, 3, H, W) over the hidden pixels and channels; 0 if nothing is hidden."""
    inside = mask.bool().expand_as(image)
    return (image - target).abs()[inside].sum() / inside.sum().clamp(min=1)


class EncoderDistance(nn.Module):
    """How different two images look to the encoder of a lane model: a perceptual loss without foreign weights.

    As in LPIPS (Zhang et al. 2018, equation 1), the features of every place are divided by their length; here all
    channels count alike. The squared differences are averaged over places, and over the encoder's four maps.

    Args:
        model: whose ``encode`` gives the maps; it is frozen and works in evaluation mode.
    """

    def __init__(self, model: SegFormerModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "EncoderDistance":
        """Changes nothing: the model stays in evaluation mode."""
        return super().train(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """A scalar, at least 0, of images (B, 3, H, W) in [0, 1], H and W at least 32."""
        pairs = zip(self.model.encode(image), self.model.encode(target), strict=True)
        steps = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean() for a, b in pairs]
        return torch.stack(steps).mean()
