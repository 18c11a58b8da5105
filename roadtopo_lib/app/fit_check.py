"""Does a model fit a data set? ``road-topology doctor --model M --data D``: a line for each point of a debugging list.

What lies on disk is ``check-data``'s; this is about what the network, the loss and the data make of each other.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from roadtopo_lib.app.doctor import Check
from roadtopo_lib.data.samples import list_splits, locate_split
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform
from roadtopo_lib.losses import LaneCriterion
from roadtopo_lib.models import load_with_info
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.training.optimizer import build_optimizer

OVERFIT_STEPS = 40
OVERFIT_SHARE = 0.7
"""A network that can learn at all brings the loss of one batch below this share of the first step's."""


def check_fit(model: Path, data: Path) -> Iterator[Check]:
    """Lines about a model and a data set.

    Args:
        model: file of a run.
        data: data folder, or one of its splits; ``train`` is looked at if it is there.

    Raises:
        FileNotFoundError, ValueError: a file or folder that cannot be read.
    """
    segmenter = LaneSegmenter.from_checkpoint(model, "cpu")
    config, network = segmenter.config, segmenter.model
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in network.parameters()})
    count = sum(p.numel() for p in network.parameters()) / 1e6
    yield Check("OK" if kinds == ["float32"] else "FAIL", "weights", f"{network.kind}, {count:.2f} M of {kinds}")

    split = "train" if not (data / "images").is_dir() and "train" in list_splits(data) else None
    root, split = locate_split(data, split)
    dataset = LaneInstanceDataset(root, split, build_transform(config, train=False), classes=config.class_table)
    stored = dataset.read(0)[0].shape[:2]
    batch = next(iter(build_loader(dataset, config.replace(num_workers=0), shuffle=False)))
    images, semantic = batch["image"], batch["semantic_mask"]
    text = f"{len(images)} images {images.dtype} {images.min():.2f}..{images.max():.2f}, masks {semantic.dtype}"
    good = images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1 and semantic.dtype == torch.int64
    yield Check("OK" if good else "FAIL", "types", text)
    yield Check(
        "OK" if images.max() > 0.02 else "FAIL", "scale", "images in 0..1, as the network normalises them itself"
    )

    height, width = config.image_size
    larger = max(stored[0] * (1 - config.crop_top) / height, stored[1] / width)
    text = f"{dataset.image_paths[0].name} is {stored[0]}×{stored[1]}, the network sees {height}×{width}"
    if larger > 4:
        text += f": {larger:.1f} times less; thin lines may vanish, see infer --tile"
    yield Check("OK" if larger <= 4 else "--", "sizes", text)

    labelled = semantic[semantic != config.ignore_index]
    present = labelled.unique().tolist()
    empty = int(((semantic > 0) & (semantic != config.ignore_index)).flatten(1).any(dim=1).logical_not().sum())
    yield Check(
        "OK" if len(present) > 1 else "--", "classes in a batch", f"{present}; {empty} images show background only"
    )

    with torch.inference_mode():
        outputs = network(images, upsample=True)
    channels = outputs["logits"].shape[1]
    way = "sigmoid" if channels == 1 else "softmax"
    fits = channels == len(config.class_table) or (channels == 1 and len(config.class_table) == 2)
    text = f"{channels} through {way}, for {len(config.class_table)} classes: {', '.join(config.class_table.names)}"
    yield Check("OK" if fits else "FAIL", "channels and loss", text)
    same = outputs["logits"].shape[2:] == semantic.shape[1:] == outputs["embeddings"].shape[2:]
    yield Check(
        "OK" if same else "FAIL", "output sizes", f"{tuple(outputs['logits'].shape)} for masks {tuple(semantic.shape)}"
    )

    criterion = LaneCriterion.from_config(config)
    with torch.inference_mode():
        loss, parts = criterion(outputs, batch)
    told = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
    yield Check("OK" if loss.isfinite() else "FAIL", "loss", told)
    blank = batch | {name: torch.zeros_like(batch[name]) for name in ("semantic_mask", "instance_mask")}
    with torch.inference_mode():
        loss = criterion(outputs, blank)[0]
    yield Check("OK" if loss.isfinite() else "FAIL", "loss of empty masks", f"{loss:.3f}")

    first, last = overfit(load_with_info(model)[0], config, criterion, batch)
    text = f"from new weights, {OVERFIT_STEPS} steps on one batch: loss {first:.3f} → {last:.3f}"
    yield Check("OK" if last < OVERFIT_SHARE * first else "FAIL", "overfit", text)


def overfit(model, config, criterion, batch: dict) -> tuple[float, float]:
    """First and last loss of ``OVERFIT_STEPS`` steps on one batch, begun from new weights of this model's kind."""
    torch.manual_seed(config.seed)
    fresh = type(model).from_settings(model.settings()).train()
    optimizer = build_optimizer(fresh, config.replace(encoder_lr_scale=1.0))
    losses = []
    for _ in range(OVERFIT_STEPS):
        optimizer.zero_grad()
        loss, _ = criterion(fresh(batch["image"], upsample=False), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(fresh.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]
