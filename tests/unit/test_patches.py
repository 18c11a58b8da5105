"""Patches drawn by share."""

import numpy as np
import pytest

from roadtopo_lib.electives.patches import Patches, PositivePatchSampler, patch_starts, positive_patches


@pytest.mark.parametrize("size", [(100, 130), (20, 20), (64, 64), (65, 64)])
def test_patches_cover_an_image_without_leaving_it(size):
    covered = np.zeros(size, int)
    for top, left in patch_starts(size, 32):
        assert top + 32 <= max(32, size[0])
        covered[top : top + 32, left : left + 32] += 1
    assert covered.min() >= 1


def test_positive_patches_are_those_that_hold_the_class():
    mask = np.zeros((64, 96), np.uint8)
    mask[40, 70:73] = 1
    starts = patch_starts(mask.shape, 32)
    found = [starts[k] for k in np.flatnonzero(positive_patches(mask, 1, 32))]
    assert found == [(32, 64)]
    assert not positive_patches(mask, 1, 32, min_pixels=4).any()


def labelled(size):
    """An image whose colour, class and instance id all say the same number at each pixel."""
    numbers = np.arange(size[0] * size[1]).reshape(size) % 200
    return (
        np.repeat(numbers.astype(np.uint8)[..., None], 3, axis=2),
        numbers.astype(np.uint8),
        numbers.astype(np.uint16),
    )


def test_patches_are_cut_where_they_begin_and_fit_the_trainer():
    patches = Patches(*labelled((70, 100)), patch=32)
    assert len(patches) == len(patches.starts) == 12
    item = patches[5]
    top, left = patches.starts[5]
    expected = labelled((70, 100))[1][top : top + 32, left : left + 32]
    assert (item["semantic_mask"].numpy() == expected).all()
    assert (item["instance_mask"].numpy() == expected).all()
    assert item["image"].shape == (3, 32, 32)
    assert (255 * item["image"][0]).round().numpy() == pytest.approx(expected)
    assert str(top) in item["image_path"]


def test_turned_patches_keep_image_and_masks_together_and_depend_on_the_epoch():
    patches = Patches(*labelled((64, 64)), patch=32, turned=True)
    seen = []
    for epoch in range(12):
        patches.set_epoch(epoch)
        item = patches[1]
        assert (255 * item["image"][0]).round().numpy() == pytest.approx(item["semantic_mask"].numpy())
        assert (item["instance_mask"] == item["semantic_mask"]).all()
        assert (patches[1]["semantic_mask"] == item["semantic_mask"]).all()
        seen.append(item["semantic_mask"].numpy().tobytes())
    assert 4 < len(set(seen)) <= 8


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_share_wanted_is_the_share_reached(share):
    positive = np.random.default_rng(0).random(500) < 0.04
    sampler = PositivePatchSampler(positive, share, 4000)
    spread = 3 * np.sqrt(share * (1 - share) / 4000)  # three standard errors of a binomial share
    assert abs(sampler.share_reached() - share) <= spread
    assert positive[list(sampler)].mean() == sampler.share_reached()


def test_draws_depend_on_seed_and_epoch_and_go_on_where_they_stopped():
    sampler = PositivePatchSampler([True, False, False, True, False], 0.5, 100, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.first = 40
    assert list(sampler) == first[40:]
    assert list(sampler) == first
    sampler.epoch = 1
    assert list(sampler) != first
    assert set(first) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("positive", "share", "message"),
    [([True], 0.5, "1 of 1"), ([False, False], 0.1, "0 of 2"), ([True, False], 1.5, "share is 1.5")],
)
def test_a_share_that_cannot_be_drawn_is_refused(positive, share, message):
    with pytest.raises(ValueError, match=message):
        PositivePatchSampler(positive, share, 10)
