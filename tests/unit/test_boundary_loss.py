"""The boundary loss against distances of all pairs of pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roadtopo_lib.electives.boundary_loss import BoundaryLoss, signed_distance


def by_pairs(mask):
    """Distances to every pixel of the other kind, the least of them."""
    inside, outside = np.argwhere(mask).astype(float), np.argwhere(~mask).astype(float)
    result = np.zeros(mask.shape)
    if len(inside) and len(outside):
        between = np.linalg.norm(inside[:, None] - outside[None], axis=-1)
        result[mask], result[~mask] = 1 - between.min(axis=1), between.min(axis=0)
    return result


def noise(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 9, 12, generator=rng), torch.randint(0, 2, (2, 9, 12), generator=rng)  # class 2 is absent


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_distances_are_those_of_all_pairs_of_pixels(share):
    mask = np.random.default_rng(0).random((11, 14)) < share
    np.testing.assert_allclose(signed_distance(mask), by_pairs(mask))


def test_the_loss_is_probability_times_distance_over_labelled_pixels():
    logits, target = noise()
    target[:, :2] = 255
    p, total = logits.double().softmax(dim=1).numpy(), 0.0
    for image, mask in zip(p, target.numpy(), strict=True):
        for c in range(3):
            total += (image[c] * by_pairs(mask == c))[mask != 255].sum()
    labelled = int((target != 255).sum())
    assert BoundaryLoss()(logits, target).item() == pytest.approx(total / (3 * labelled), rel=1e-5)


def test_the_truth_has_the_least_loss_and_far_mistakes_cost_most():
    target = torch.zeros(1, 12, 12, dtype=torch.long)
    target[:, 3:9, 2:6] = 1

    def loss(answer):
        return BoundaryLoss()(20.0 * F.one_hot(answer, 2).movedim(-1, 1), target).item()

    near, far = target.clone(), target.clone()
    near[0, 5, 6] = far[0, 5, 11] = 1
    assert loss(target) < loss(near) < loss(far)
    assert all(loss(target) <= loss(torch.randint(0, 2, target.shape)) for _ in range(20))


def test_unlabelled_pixels_have_no_gradient_and_nothing_labelled_costs_nothing():
    logits, target = noise()
    target[:, 4:] = 255
    (slope,) = torch.autograd.grad(BoundaryLoss()(logits.requires_grad_(), target), logits)
    assert not slope[:, :, 4:].any()
    assert slope[:, :, :4].any()
    assert BoundaryLoss()(logits, torch.full_like(target, 255)).item() == 0
    with pytest.raises(ValueError, match="do not fit"):
        BoundaryLoss()(logits[:, :1], target)
