"""Trains the fusion of elective 4 in one process or several.

torchrun --nproc-per-node=2 -m roadtopo_lib.electives.train_amodal DATA OUT.safetensors
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from roadtopo_lib.console import be_silent, say
from roadtopo_lib.data.sampling import EpochSampler
from roadtopo_lib.distributed import (
    OwnSampler,
    connected,
    is_writer,
    mean_over_processes,
    parallel,
    sum_over_processes,
    world_size,
)
from roadtopo_lib.electives.amodal import AmodalFusionTransformer, EncoderDistance, fuse, masked_l1
from roadtopo_lib.electives.occlusions import Occlusions
from roadtopo_lib.files import load_weights, save_weights

KIND = "amodal-fusion"


class OwnPart(torch.utils.data.Dataset):
    """A data set in which ``None`` gives a sample that hides nothing, so that it changes no loss."""

    def __init__(self, dataset: Occlusions) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | tuple[int, int] | None) -> dict[str, Tensor]:
        sample = self.dataset[index or 0]
        return sample if index is not None else sample | {"mask": torch.zeros_like(sample["mask"])}


def loss_of(
    model: torch.nn.Module, batch: dict[str, Tensor], distance: EncoderDistance | None = None, share: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The loss over the hidden pixels of all processes together, and how many this one has.

    Args:
        model: gives the weights; in several processes it is ``parallel``.
        batch: of ``Occlusions``.
        distance: the perceptual term, on the fused image as a whole, which outside the mask is the target.
        share: its weight beside L1.
    """
    parts = [batch[name] for name in ("partial", "mask", "completions")]
    fused = fuse(*parts, model(*parts, batch["present"]))
    hidden = batch["mask"].sum()
    loss = mean_over_processes(masked_l1(fused, batch["target"], batch["mask"]), hidden)
    if distance is not None and share:
        shown = fuse(batch["target"], batch["mask"], fused[:, None], torch.ones_like(batch["mask"]))
        images = torch.tensor(float(batch["mask"].flatten(1).any(dim=1).sum()))
        loss = loss + share * mean_over_processes(distance(shown, batch["target"]), images)
    return loss, hidden


def batches_of(dataset: Occlusions, batch_size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """This process's part of batches in a new order every pass, without end."""
    sampler = OwnSampler(EpochSampler(len(dataset), seed, draws=len(dataset)), batch_size)
    loader = DataLoader(OwnPart(dataset), batch_size // world_size(), sampler=sampler)
    while True:
        yield from loader
        sampler.epoch += 1


def train(
    dataset: Occlusions, steps: int = 300, batch_size: int = 8, lr: float = 1e-3, seed: int = 0,
    perceptual: EncoderDistance | None = None, share: float = 0.0, kind: type = AmodalFusionTransformer,
    **model: object,
) -> tuple[AmodalFusionTransformer, list[float]]:  # fmt: skip
    """A trained model, and the loss of every step: in several processes the same in each.

    Args:
        dataset: images to learn from.
        steps: AdamW's steps; the rate falls to 0 along a cosine.
        batch_size: images a step, of all processes; a multiple of their number.
        lr: the rate to begin with.
        seed: decides first weights and order.
        perceptual, share: see ``loss_of``.
        kind: the model's class.
        model: arguments of ``AmodalFusionTransformer``.
    """
    torch.manual_seed(seed)
    network = kind(dataset.n_max, **model)
    wrapped = parallel(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _, batch in zip(range(steps), batches_of(dataset, batch_size, seed), strict=False):
        loss, _ = loss_of(wrapped, batch, perceptual, share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval(), losses


@torch.inference_mode()
def mean_error(model: AmodalFusionTransformer, dataset: Occlusions) -> float:
    """L1 over all hidden pixels of a data set; each process takes a part, and all get the same answer.

    Sums and counts are added up over the processes. Their means would count a pixel of a small part more.
    """
    sampler = OwnSampler(EpochSampler(len(dataset), shuffle=False), world_size())
    total = torch.zeros(2, dtype=torch.float64)
    for batch in DataLoader(OwnPart(dataset), 1, sampler=sampler):
        parts = [batch[name] for name in ("partial", "mask", "completions")]
        fused = fuse(*parts, model(*parts, batch["present"]))
        count = float(batch["mask"].sum())
        total += torch.tensor([float(masked_l1(fused, batch["target"], batch["mask"])) * count, count])
    error, count = sum_over_processes(total).tolist()
    return error / count


def load(path: str | Path) -> AmodalFusionTransformer:
    """A model that this module wrote; ValueError for another kind of file."""
    file = load_weights(path)
    if file.kind != KIND:
        raise ValueError(f"{path}: expected a model of kind {KIND!r}, found {file.kind!r}")
    model = AmodalFusionTransformer(**file.config)
    model.load_state_dict(file.tensors)
    return model.eval()


def main() -> int:
    """Trains, prints the error on ``val`` and writes the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder as occlusions.write_occlusions makes it")
    parser.add_argument("output", type=Path, help="a name ending in .safetensors")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8, help="of all processes together")
    parser.add_argument("--width", type=int, default=64, help="channels of the model")
    arguments = parser.parse_args()
    with connected():
        if not is_writer():
            be_silent()
        settings = {"d_model": arguments.width}
        model, losses = train(Occlusions(arguments.data), arguments.steps, arguments.batch_size, **settings)
        error = mean_error(model, Occlusions(arguments.data, "val"))
        say(f"loss {np.mean(losses[:10]):.4f} → {np.mean(losses[-10:]):.4f}; val: {error:.4f}")
        if is_writer():
            save_weights(arguments.output, KIND, model.state_dict(), {"n_max": model.n_max, **settings})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
