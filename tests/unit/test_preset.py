"""The rates of the tiny preset fit the tiny model."""

import statistics

import torch
from torch.nn import functional

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.segformer import SegFormerModel
from roadtopo_lib.training.optimizer import build_optimizer

WARM_UP = 3  # residual branches start at zero, so in the first step some matrices have no gradient


def test_one_step_of_the_tiny_preset_changes_a_hidden_matrix_by_about_one_percent():
    """Measured medians: 1.2 % with the preset, 0.12 % and 12 % with a tenth and ten times its rate, 4 % without Muon.

    A change is the spectral norm of the step divided by that of the matrix (G. Yang et al., "A Spectral Condition for
    Feature Learning", 2023). Muon's step hardly depends on the gradient's size, so any images and labels do.
    """
    torch.manual_seed(0)
    config = LaneSegmentationConfig.preset("tiny")
    model = SegFormerModel("tiny", pretrained=False).train()
    optimizer = build_optimizer(model, config)
    images, labels = torch.rand(2, 3, 32, 64), torch.randint(0, config.num_classes, (2, 8, 16))
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.shape[1] > 1]  # depthwise filters are vectors
    for _ in range(WARM_UP + 1):
        before = [p.detach().clone() for p in matrices]
        outputs = model(images, upsample=False)
        optimizer.zero_grad()
        loss = functional.cross_entropy(outputs["logits"], labels) + outputs["embeddings"].square().mean()
        loss.backward()
        optimizer.step()
    changes = [spectral_norm(p.detach() - old) / spectral_norm(old) for p, old in zip(matrices, before, strict=True)]
    assert 0.005 < statistics.median(changes) < 0.03


def spectral_norm(matrix):
    return torch.linalg.matrix_norm(matrix.flatten(1), 2).item()
