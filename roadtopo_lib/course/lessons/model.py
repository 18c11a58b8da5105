"""Machinery of notebook 3: a CNN of the encoder's size, three kinds of model, a short training, a load offline."""

import io
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from roadtopo_lib.segformer import ARCHITECTURES, SegFormerModel, initialize

KINDS = ("SegFormer", "CNN", "no attention")
BACKBONE = "tiny"
WIDENING = 1.4
"""Inner width of a convolutional block; with it the CNN has as many parameters as the encoder of ``tiny``."""


class ConvBlock(nn.Module):
    """Two 3 × 3 convolutions whose result is added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = int(WIDENING * width)
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1),
            nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) → the same shape."""
        return x + self.branch(x)


def conv_encoder() -> nn.Module:
    """An encoder with the strides, depths and widths of ``tiny``, and convolutions for attention and Mix-FFN.

    Returns:
        A module whose ``stages`` are used as those of ``SegFormerModel.encoder``.
    """
    shape = ARCHITECTURES[BACKBONE]
    widths, depths = shape["hidden_sizes"], shape["depths"]
    encoder = nn.Module()
    encoder.stages = nn.ModuleList()
    for before, width, depth in zip([3, *widths[:-1]], widths, depths, strict=True):
        embed = nn.Conv2d(before, width, 7, 4, 3) if before == 3 else nn.Conv2d(before, width, 3, 2, 1)
        blocks = [ConvBlock(width) for _ in range(depth)]
        encoder.stages.append(nn.Sequential(embed, nn.BatchNorm2d(width), *blocks, nn.BatchNorm2d(width)))
    return encoder.apply(initialize)


def model_of(kind: str, seed: int = 0) -> SegFormerModel:
    """A new model with random weights; the branch of every block begins at zero.

    Args:
        kind: one of ``KINDS``. "no attention" is a SegFormer whose attention always returns zeros.
        seed: of the weights.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {KINDS}")
    torch.manual_seed(seed)
    model = SegFormerModel(BACKBONE, num_classes=2, pretrained=False)
    if kind == "CNN":
        model.encoder = conv_encoder()
        for block in (m for m in model.encoder.modules() if isinstance(m, ConvBlock)):
            nn.init.zeros_(block.branch[-1].weight)
    if kind == "no attention":
        for block in (block for stage in model.encoder.stages for block in stage.blocks):
            block.attention.forward = lambda x, *size, **_: (torch.zeros_like(x), None)
    return model


def train(
    model: SegFormerModel,
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    logits_of: Callable[[SegFormerModel, Tensor], Tensor],
    seed: int = 0,
    steps: int = 30,
    lr: float = 2e-3,
) -> SegFormerModel:
    """Trains encoder and semantic head for a few steps; returns the model in evaluation mode.

    Args:
        model: changed in place.
        draw: a batch, images (B, 3, H, W) and classes (B,) int64, from a generator.
        logits_of: (B, 2, n) from the model and images; every one of the n places has the image's class.
        seed: of the batches.
        steps: of AdamW, with a one-cycle schedule.
        lr: highest learning rate.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [*model.train().encoder.parameters(), *model.semantic_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        images, classes = draw(generator)
        logits = logits_of(model, images)
        optimizer.zero_grad()
        F.cross_entropy(logits, classes[:, None].expand(-1, logits.shape[2])).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def rates(optimizer: torch.optim.Optimizer, part: nn.Module) -> list[float]:
    """All learning rates that an optimiser holds for the parameters of a part, ascending.

    Raises:
        KeyError: it holds none for one of them.
    """
    rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return sorted({rate_of[p] for p in part.parameters()})


def load_offline(backbone: str) -> tuple[str, str]:
    """What the library says when it shall load published weights, and no network and no copy is there.

    Returns:
        The notice about the weights' licence, and the sentence of the error.
    """
    notice, error = io.StringIO(), ""
    handler, logger = logging.StreamHandler(notice), logging.getLogger("roadtopo_lib")
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as empty:
            nowhere = mock.patch.multiple("huggingface_hub.constants", HF_HUB_OFFLINE=True, HF_HUB_CACHE=empty)
            with nowhere:
                SegFormerModel(backbone)
    except ConnectionError as refused:
        error = str(refused)
    finally:
        logger.removeHandler(handler)
    return notice.getvalue().strip(), error


@torch.no_grad()
def cost(work: Callable[[Tensor], object], x: Tensor) -> tuple[float, float]:
    """Billions of operations of one call, and the milliseconds of the fastest of five.

    Counted are matrix products and convolutions, a multiplication and its addition as two. For the count attention
    runs as plain matrix products; for the time PyTorch may choose.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work(x)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work(x)
        seconds.append(time.perf_counter() - started)
    return counter.get_total_flops() / 1e9, 1000 * min(seconds)


def panels(pictures: dict[str, np.ndarray | Tensor], columns: int = 3, width: float = 9.0, title: str = "") -> Figure:
    """Pictures side by side, each with its title.

    Args:
        pictures: title → (h, w) or (h, w, 3), all of about one shape.
        columns: in a row.
        width: of the figure, in inches.
        title: of the figure; what the pictures show together.
    """
    first = next(iter(pictures.values()))
    rows = -(-len(pictures) // columns)
    height = rows * (width / columns * first.shape[0] / first.shape[1] + 0.35) + (0.35 if title else 0.0)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    if title:
        figure.suptitle(title, fontweight="bold")
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        ax.imshow(picture)
        ax.set_title(name, fontweight="normal" if title else "bold")
    return figure


def draw_attention(picture: np.ndarray | Tensor, tokens: dict[str, tuple[int, int]], weights: Tensor) -> Figure:
    """Where some tokens lie, and for each of them and each attention head the weights of all places.

    Args:
        picture: (H, W, 3), what the encoder sees.
        tokens: name → (row, column) on the grid of the queries.
        weights: (heads, rows, columns, h, w): of each query, over the h × w places of the keys.

    Returns:
        A column for each token; weights from 0.05 on are printed, and the place of the largest is framed.
    """
    heads, rows, columns, h, w = weights.shape
    figure, axes = plt.subplots(1 + heads, len(tokens), figsize=(7.6, 1.5 * (1 + heads)), squeeze=False)
    height, width = picture.shape[:2]
    grey = np.round(10 * np.asarray(picture).mean(axis=2)) / 10  # few levels make a small file
    for column, (name, (row, place)) in zip(axes.T, tokens.items(), strict=True):
        shape = {"extent": (0, w, h, 0), "aspect": height * w / (width * h)}
        column[0].imshow(grey * 0.6 + 0.4, cmap="gray", vmin=0, vmax=1, **shape)
        spot = ((place + 0.5) * w / columns, (row + 0.5) * h / rows)
        column[0].plot(*spot, "*", color="C1", markersize=15, markeredgecolor="white")
        column[0].set_title(name)
        for number, (ax, look) in enumerate(zip(column[1:], weights[:, row, place], strict=True), start=1):
            ax.imshow(look, cmap="Blues", vmin=0, vmax=1.3, **shape)
            for y, x in torch.argwhere(look >= 0.05).tolist():
                ax.text(x + 0.5, y + 0.5, f"{look[y, x]:.2f}", ha="center", va="center")
            y, x = divmod(int(look.argmax()), w)
            ax.add_patch(plt.Rectangle((x, y), 1, 1, fill=False, edgecolor="C1", linewidth=2.5, zorder=5))
            ax.set_ylabel(f"head {number}")
    for ax in axes.flat:
        ax.set(xticks=range(w + 1), yticks=range(h + 1), xticklabels=[], yticklabels=[], xlim=(0, w), ylim=(h, 0))
        ax.grid(color="0.75", linewidth=0.6)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return figure


def glow(field: Tensor, decades: int = 6) -> np.ndarray:
    """Numbers >= 0 as colours on a logarithmic scale: (h, w) → (h, w, 3) in [0, 1], and black where they are 0.

    Args:
        field: (h, w), not all 0.
        decades: powers of ten below the maximum that are told apart.
    """
    share = (field / field.max()).clamp(min=10.0**-decades)
    colors = plt.get_cmap("viridis")((1 + share.log10() / decades).numpy())[..., :3]
    colors[(field == 0).numpy()] = 0
    return colors


def draw_sizes(
    sizes: Sequence[tuple[int, int]], of_pictures: Sequence[float], of_frame: Sequence[float]
) -> tuple[Figure, str]:
    """Lane IoU of the validation pictures and of the frame over the size of the input, and the words for it."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    ax.plot(of_pictures, "o-", label="twelve validation pictures")
    ax.plot(of_frame, "s--", label="the frame alone")
    ax.set_xticks(range(len(sizes)), [f"{height} × {width}" for height, width in sizes])
    ax.set(xlabel="size in pixels", ylabel="lane IoU", ylim=(0, 0.8))
    ax.set_title("The size of the training is best; one picture alone says otherwise")
    ax.legend()
    return figure, "Lane IoU over the size of the pictures: highest at the size of the training."


def draw_memory(all_tokens: Sequence[float], smaller_grid: Sequence[float]) -> tuple[Figure, str]:
    """Memory of the scores in MB for each stage, with keys from all tokens or fewer, and the words for it."""
    figure, ax = plt.subplots(figsize=(8, 2.8))
    draw_bars(ax, {"keys from all tokens": all_tokens, "keys from the smaller grid": smaller_grid})
    ax.set(ylabel="scores of one layer (MB)", ylim=(1, 5e4))
    ax.set_title("Sequence reduction saves most where the grid is fine")
    return figure, "Memory of the scores for each stage, with and without sequence reduction."


def draw_normalisation(classes: dict[str, np.ndarray]) -> tuple[Figure, str]:
    """Classes of the frame "with" and "without" normalisation, (H, W, 3) each, and the words for them."""
    title = "Without normalisation crosswalk, sidewalks and most boundaries are missing"
    figure = panels({f"{name} normalisation": picture for name, picture in classes.items()}, 2, title=title)
    return figure, "The classes of the frame, with and without normalisation."


def draw_fields(fields: dict[str, Sequence[Tensor]], share: dict[str, Sequence[float]]) -> tuple[Figure, str]:
    """Where one token's gradient comes from, in stages 1 and 4, and the words for it.

    Args:
        fields: encoder → (H, W) of each stage.
        share: encoder → share of the pixels with a gradient, of each stage.
    """
    pictures = {
        f"{name}, stage {number}: {share[name][number - 1]:.1%} of the frame": glow(found[number - 1])
        for name, found in fields.items()
        for number in (1, 4)
    }
    figure = panels(pictures, 2, title="Only attention reaches every pixel in stage 1")
    return figure, "Where one token's gradient comes from, for two encoders and two stages."


def draw_far_cue(curves: dict[str, Tensor], reach: dict[str, int]) -> tuple[Figure, str]:
    """Right answers along the lane, and the words for it.

    Args:
        curves: kind of model → (seeds, 96), share of right answers in each cell of 4 pixels.
        reach: kind of model → end of its field, in pixels.
    """
    figure, ax = plt.subplots(figsize=(9, 3))
    for (kind, found), color in zip(curves.items(), ("C0", "C1", "C2"), strict=True):
        ax.plot(4 * np.arange(found.shape[1]) + 2, 100 * found.T, color=color, alpha=0.7)
        ax.plot([], [], color=color, label=kind)
        ax.axvline(reach[kind], color=color, linestyle=":")
    ax.axvspan(0, 16, color="0.85")
    ax.set(xlabel="pixels from the lane's beginning", ylabel="right answers (%)", ylim=(0, 105))
    ax.set_title("Convolutions fall short of their field (dotted); attention reaches the far end")
    ax.legend(loc="lower left", ncols=3)
    return figure, "The share of right answers along the lane, for three kinds of model."


def draw_bars(ax: Axes, values: dict[str, Sequence[float]]) -> None:
    """Groups of bars on a logarithmic axis, one group for each stage, each bar with its number."""
    for place, (label, heights) in enumerate(values.items()):
        x = np.arange(len(heights)) + 0.8 / len(values) * (place - (len(values) - 1) / 2)
        bars = ax.bar(x, heights, 0.8 / len(values), log=True, label=label)
        ax.bar_label(bars, fmt="%.0f", fontsize=9)
    ax.set_xticks(range(len(heights)), [f"stage {number}" for number in range(1, len(heights) + 1)])
    ax.legend()
