"""Writes ``moments.npz``, what the widget ``FrameEmbeddings`` shows: ``python data_samples/make_moments.py DATA``.

DATA is what ``make run`` leaves as ``results/data``. The tiny preset is trained on it as ``make run`` does, and its
embeddings of two test samples are kept, in half precision, at steps 0, 25, 100 and 300 and at the end of each epoch.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.dataset import LaneInstanceDataset, build_loader, build_transform, image_to_tensor, rows_cut
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.trainer_lane import LaneSegmentationTrainer

HERE = Path(__file__).parent
FRAMES = (0, 1)
"""Test samples, by number."""
EARLY_STEPS = (0, 25, 100, 300)
"""Optimiser steps of the first moments; then the end of each epoch."""

config = LaneSegmentationConfig.preset("tiny")
train = LaneInstanceDataset(sys.argv[1], "train", build_transform(config, train=True), config.seed)
loader = build_loader(train, config, shuffle=True)
val = LaneInstanceDataset(sys.argv[1], "val", build_transform(config, train=False), config.seed)
plain, resize = LaneInstanceDataset(HERE, "test"), build_transform(config, train=False)
files = [plain.read(i) for i in FRAMES]
inputs = torch.stack([image_to_tensor(resize(*file, seed=0)[0]) for file in files])  # (F, 3, H, W)

torch.manual_seed(config.seed)
model = SegFormerModel(config.backbone, pretrained=False, activation=config.activation)
trainer = LaneSegmentationTrainer(model, config=config)
steps, embeddings, done = [], [], 0


def keep() -> None:
    """Keeps the embeddings of this moment, and leaves the model as it was."""
    device = trainer.device
    steps.append(done)
    embeddings.append(model.eval()(inputs.to(device), upsample=False)["embeddings"].detach().cpu().numpy())
    model.train()
    print(f"step {done}", flush=True)


def after_step(*_: object) -> None:
    """Counts; called by the optimiser."""
    global done
    done += 1
    if done in EARLY_STEPS or done % len(loader) == 0:
        keep()


keep()
trainer.optimizer.register_step_post_hook(after_step)
trainer.fit(loader, build_loader(val, config, shuffle=False))
np.savez_compressed(
    HERE / "moments.npz",
    frames=np.array([plain.image_paths[i].stem for i in FRAMES]),
    embeddings=np.stack(embeddings, axis=1).astype(np.float16),  # (F, T, D, h, w)
    steps=np.array(steps),
    first_row=rows_cut(len(files[0][0]), config.crop_top),
)
