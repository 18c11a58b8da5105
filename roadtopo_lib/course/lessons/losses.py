"""Machinery of notebook 4: heads that learn on frozen features with one loss or another, layouts, pictures."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import samples
from roadtopo_lib.course.playground import EmbeddingPlayground, LossCurves, Margins, State
from roadtopo_lib.dataset import LaneInstanceDataset, build_transform
from roadtopo_lib.labels import CLASS_NAMES, NUM_CLASSES
from roadtopo_lib.segformer import SegFormerModel, upsample_to

BATCH, LEARNING_RATE, HIDDEN = 8, 1e-2, 32
SEEDS, LOOKS = range(3), (15, 60)
"""Of the contest: where the heads start, and after how many steps they are scored."""
GREY_STEP = 15
"""Between the grey levels behind a glow: few levels make a small picture."""
HATCHES = ("", "//", "..", "xx")


class Features(NamedTuple):
    """What a head learns from.

    Attributes:
        maps: (B, C, h, w) all four maps of the frozen encoder, at a quarter of the image's size.
        masks: (B, 2h, 2w) int64 classes, at half of its size.
    """

    maps: Tensor
    masks: Tensor


@torch.no_grad()
def encoded(model: SegFormerModel, images: Tensor) -> Tensor:
    """The four maps of the encoder, upsampled to the first and stacked: (B, 3, H, W) → (B, C, H/4, W/4)."""
    maps = model.encode(images)
    return torch.cat([upsample_to(m, maps[0].shape[2:]) for m in maps], dim=1)


def features_of(model: SegFormerModel, split: str, config: LaneSegmentationConfig) -> Features:
    """The sample images of a split, as the config shows them in evaluation, through the frozen encoder."""
    dataset = LaneInstanceDataset(samples(), split, build_transform(config, train=False))
    items = [dataset[index] for index in range(len(dataset))]
    maps = encoded(model, torch.stack([item["image"] for item in items]))
    return Features(maps, torch.stack([item["semantic_mask"] for item in items])[:, ::2, ::2])


def train_head(
    features: Features,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    seed: int = 0,
    steps: int = LOOKS[-1],
    after_step: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """A new head of two 1 × 1 convolutions, trained on frozen features with Adam.

    Args:
        features: what it learns from; the batches take them in order.
        loss_function: (logits, classes) → scalar.
        seed: decides where the weights start.
        steps: of the optimiser.
        after_step: called with the number of the step and the head.
    """
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Conv2d(features.maps.shape[1], HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, NUM_CLASSES, 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    for step in range(1, steps + 1):
        batch = torch.arange(BATCH) + BATCH * (step % (len(features.maps) // BATCH))
        logits = upsample_to(head(features.maps[batch]), features.masks.shape[1:])
        loss = loss_function(logits, features.masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step is not None:
            after_step(step, head)
    return head


@torch.no_grad()
def classes_of(head: nn.Module, maps: Tensor, size: Sequence[int]) -> Tensor:
    """The class that a head finds most probable: (B, C, h, w) → (B, H, W) of the given size."""
    return upsample_to(head(maps), tuple(size)).argmax(dim=1)


def iou_per_class(predicted: Tensor, truth: Tensor) -> Tensor:
    """(NUM_CLASSES,): pixels that both hold over pixels that at least one holds."""
    both = [((predicted == c) & (truth == c)).sum() for c in range(NUM_CLASSES)]
    either = [((predicted == c) | (truth == c)).sum() for c in range(NUM_CLASSES)]
    return torch.tensor(both) / torch.tensor(either)


def contest(
    losses: dict[str, Callable], train: Features, val: Features, seeds: Sequence[int] = SEEDS
) -> dict[str, Tensor]:
    """IoU of heads trained with each loss: (seeds, looks, classes), on the validation images.

    Heads of one seed start with the same weights and see the same batches, so losses can be compared in pairs.
    """
    iou = {}
    for name, loss in losses.items():
        rows: list[Tensor] = []

        def score(step: int, head: nn.Module, rows: list[Tensor] = rows) -> None:
            if step in LOOKS:
                rows.append(iou_per_class(classes_of(head, val.maps, val.masks.shape[1:]), val.masks))

        for seed in seeds:
            train_head(train, loss, seed, after_step=score)
        iou[name] = torch.stack(rows).view(len(seeds), len(LOOKS), NUM_CLASSES)
    return iou


def draw_contest(iou: dict[str, Tensor]) -> tuple[Figure, str]:
    """Bars for the mean of the seeds and a dot for each seed, one panel a look: figure, and what it shows in words."""
    titles = (
        "After 15 steps: Dice is ahead on the rare classes",
        "After 60 steps: Dice is still ahead, but one seed lost the crosswalk",
    )
    figure, axes = plt.subplots(len(titles), 1, figsize=(8, 4.6), sharex=True)
    for look, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for i, ((name, value), hatch) in enumerate(zip(iou.items(), HATCHES, strict=False)):
            place = np.arange(NUM_CLASSES) + 0.2 * (i - 1.5)
            ax.bar(place, value[:, look].mean(dim=0), 0.2, label=name, hatch=hatch)
            ax.plot(place, value[:, look].T, "o", color="black", markersize=3, clip_on=False)
        ax.set(title=title, ylabel="IoU", ylim=(0, 1.15))
    axes[0].legend(ncols=4, loc="upper center", fontsize="small")
    axes[1].set_xticks(range(NUM_CLASSES), CLASS_NAMES)
    return figure, "Bars of IoU by class and loss after 15 and after 60 steps, a dot for each seed."


def draw_gradients(curves: dict[int, LossCurves]) -> tuple[Figure, str]:
    """Gradients of Dice and cross-entropy over the probability: figure, and what it shows in words.

    Args:
        curves: of classes with so many pixels; the gradient of cross-entropy is the same for all.
    """
    figure, ax = plt.subplots(figsize=(7, 3))
    for (size, of_class), style in zip(curves.items(), ("-", "--"), strict=True):
        ax.semilogy(of_class.probability, of_class.gradient["Dice"], f"C1{style}", label=f"Dice, {size} pixels")
    ax.semilogy(of_class.probability, of_class.gradient["cross-entropy"], "C0", label="cross-entropy, both")
    ax.set(title="Dice gives a small class a larger gradient", xlabel="p of the rare pixels", ylabel="gradient (‰)")
    ax.legend()
    return figure, "Gradients over p: that of cross-entropy falls, those of Dice rise first and fall then."


def draw_shares(shares: dict[str, Tensor], title: str) -> Figure:
    """Bars by class: for each name a (NUM_CLASSES,) tensor of shares that sum to 1."""
    figure, ax = plt.subplots(figsize=(8, 2.8))
    width = 0.8 / len(shares)
    for i, ((name, share), hatch) in enumerate(zip(shares.items(), HATCHES, strict=False)):
        place = np.arange(NUM_CLASSES) + width * (i - (len(shares) - 1) / 2)
        ax.bar(place, 100 * share, width, label=name, hatch=hatch)
    ax.set(title=title, ylabel="share (%)")
    ax.set_xticks(range(NUM_CLASSES), CLASS_NAMES)
    ax.legend()
    return figure


def draw_cost(image: np.ndarray, cost: Tensor, title: str, label: str) -> Figure:
    """An image in grey, and what each of its pixels costs as a glow above it.

    Args:
        image: (H, W, 3) uint8.
        cost: (H, W), >= 0.
        title: of the figure.
        label: of the colour bar: quantity and unit.
    """
    figure, ax = plt.subplots(figsize=(6.0, 2.3))
    grey = np.round((image.mean(axis=2) * 0.45 + 120) / GREY_STEP) * GREY_STEP
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    top = float(cost.flatten().float().quantile(0.998))
    strength = (cost / top).clamp(0, 1).numpy()
    shown = ax.imshow(cost, cmap="inferno", vmin=0, vmax=top, alpha=np.minimum(1, 2.5 * strength))
    figure.colorbar(plt.cm.ScalarMappable(shown.norm, shown.cmap), ax=ax, label=label, shrink=0.85)
    ax.set_title(title)
    ax.axis("off")
    return figure


def settle(delta_var: float, delta_dist: float, seed: int = 0, steps: int = 300) -> State:
    """Three lanes of 12 points that start in one crowd, after gradient descent on the loss with these margins."""
    margins = Margins(delta_var, delta_dist)
    playground = EmbeddingPlayground(lanes=3, points=12, spread=0.6, margins=margins, seed=seed)
    playground.step(steps)
    return playground.state()


def distances(state: State) -> tuple[float, float]:
    """The largest distance of two points of one lane, and the smallest of two points of different lanes."""
    apart = np.linalg.norm(state.points[:, None] - state.points, axis=2)
    same = state.lanes[:, None] == state.lanes
    return float(apart[same].max()), float(apart[~same].min())


def distances_to_means(state: State) -> np.ndarray:
    """(N,) distance of each point from the mean of its lane."""
    return np.linalg.norm(state.points - state.means[state.lanes], axis=1)


def lost_to_noise(state: State, noise: float = 0.3, draws: int = 20, seed: int = 0) -> float:
    """Share of the points that noise of this standard deviation moves nearest to the mean of another lane."""
    rng = np.random.default_rng(seed)
    shaken = state.points + noise * rng.standard_normal((draws, *state.points.shape))
    nearest = np.linalg.norm(shaken[:, :, None] - state.means, axis=3).argmin(axis=2)  # (draws, points)
    return float((nearest != state.lanes).mean())


def draw_layouts(states: dict[tuple[float, float], State]) -> Figure:
    """Layouts in two rows: points of each lane as small marks, and a circle of δ_var around their mean.

    Args:
        states: (δ_var, δ_dist) → state in two dimensions.
    """
    figure, axes = plt.subplots(2, -(-len(states) // 2), figsize=(7.2, 3.6), sharex=True, sharey=True, squeeze=False)
    for ax, ((delta_var, delta_dist), state) in zip(axes.flat, states.items(), strict=True):
        points = state.points - state.means.mean(axis=0)
        for lane in range(len(state.means)):
            mine = points[state.lanes == lane]
            ax.scatter(*mine.T, s=7, color=f"C{lane}", marker="os^"[lane], linewidths=0)
            ax.add_patch(plt.Circle(mine.mean(axis=0), delta_var, fill=False, color="0.4", linewidth=0.8))
        ax.set(title=f"δ_var {delta_var}, δ_dist {delta_dist}", aspect="equal")
    figure.supxlabel("dimension 1", fontsize="medium")
    figure.supylabel("dimension 2", fontsize="medium")
    figure.suptitle("δ_dist sets the distance of the means, δ_var the size of the blobs", fontweight="bold")
    return figure
