"""Machinery of notebook 4: heads on frozen features, their score, settled layouts, pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roadtopo_lib.course.lessons import losses as lesson
from roadtopo_lib.labels import NUM_CLASSES
from roadtopo_lib.segformer import SegFormerModel


@pytest.fixture
def features():
    """Two classes that the sign of the first channel tells apart."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(16, 4, 4, 8, generator=generator)
    masks = F.interpolate((maps[:, :1] > 0).float(), scale_factor=2)[:, 0].long()
    return lesson.Features(maps, masks)


def test_encoded_stacks_all_four_maps_without_a_gradient():
    model = SegFormerModel("tiny", pretrained=False).eval()
    stacked = lesson.encoded(model, torch.rand(1, 3, 32, 64))
    widths = [m.shape[1] for m in model.encode(torch.rand(1, 3, 32, 64))]
    assert stacked.shape == (1, sum(widths), 8, 16)
    assert not stacked.requires_grad


def test_a_head_learns_what_the_features_hold(features):
    head = lesson.train_head(features, F.cross_entropy)
    predicted = lesson.classes_of(head, features.maps, features.masks.shape[1:])
    untrained = lesson.train_head(features, F.cross_entropy, steps=0)
    guessed = lesson.classes_of(untrained, features.maps, features.masks.shape[1:])
    assert (predicted == features.masks).float().mean() > 0.8 > (guessed == features.masks).float().mean()


def test_the_seed_decides_where_a_head_starts(features):
    first, again, other = (lesson.train_head(features, F.cross_entropy, seed, steps=0) for seed in (0, 0, 1))
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_iou_divides_shared_pixels_by_those_of_either():
    truth, predicted = torch.tensor([[1, 1, 1, 0]]), torch.tensor([[1, 1, 0, 0]])
    iou = lesson.iou_per_class(predicted, truth)
    assert iou[:2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert iou[2:].isnan().all()


def test_the_contest_scores_every_seed_at_every_look(features):
    iou = lesson.contest({"cross-entropy": F.cross_entropy}, features, features)["cross-entropy"]
    assert iou.shape == (len(lesson.SEEDS), len(lesson.LOOKS), NUM_CLASSES)
    assert (iou[:, 1, :2] > iou[:, 0, :2]).all()
    assert len(iou[:, 0, 0].unique()) == len(lesson.SEEDS)
    chosen = lesson.contest({"cross-entropy": F.cross_entropy}, features, features, seeds=[2])["cross-entropy"]
    assert torch.equal(chosen[0].nan_to_num(), iou[2].nan_to_num())


def test_settled_points_obey_both_margins():
    state = lesson.settle(0.5, 1.5)
    within, across = lesson.distances(state)
    assert within <= 1.01
    assert across >= 1.99
    assert state.smallest_gap == pytest.approx(3.0, abs=0.02)
    from_means = lesson.distances_to_means(state)
    assert from_means.shape == (36,)
    assert from_means[:12].max() == pytest.approx(np.linalg.norm(state.points[:12] - state.means[0], axis=1).max())
    assert from_means.max() <= 0.51


def test_noise_costs_more_where_the_gap_is_thin():
    assert lesson.lost_to_noise(lesson.settle(0.5, 1.5)) < 0.005
    assert lesson.lost_to_noise(lesson.settle(0.5, 0.6)) > 0.05
    assert lesson.lost_to_noise(lesson.settle(0.5, 0.6), noise=0.0) == 0


def test_pictures_show_all_that_they_are_given():
    iou = {name: torch.rand(3, 2, NUM_CLASSES) for name in ("a", "b")}
    figure, words = lesson.draw_contest(iou)
    assert all(f"{steps} steps" in ax.get_title() for steps, ax in zip(lesson.LOOKS, figure.axes, strict=True))
    assert all(str(steps) in words for steps in lesson.LOOKS)
    assert len(figure.axes[0].patches) == 2 * NUM_CLASSES
    dots = np.array([line.get_ydata() for line in figure.axes[1].lines])  # a collapse shows beside its mean
    assert np.allclose(np.sort(dots.ravel()), np.sort(torch.cat([v[:, 1] for v in iou.values()]).ravel()))
    layouts = lesson.draw_layouts({pair: lesson.settle(*pair, steps=1) for pair in ((0.5, 1.5), (0.1, 1.5))})
    assert [len(ax.patches) for ax in layouts.axes] == [3, 3]
    shares = {"one": torch.full((NUM_CLASSES,), 1 / NUM_CLASSES), "two": torch.eye(NUM_CLASSES)[1]}
    heights = [patch.get_height() for patch in lesson.draw_shares(shares, "title").axes[0].patches]
    assert np.allclose(heights, 100 * torch.cat(list(shares.values())))
    cost = torch.zeros(8, 16)
    cost[2, 3] = 1.0
    glow = lesson.draw_cost(np.zeros((8, 16, 3), np.uint8), cost, "title", "unit").axes[0].images[1]
    assert np.flatnonzero(glow.get_alpha()).tolist() == [2 * 16 + 3]
