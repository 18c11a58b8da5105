"""Class weights of a sample: near those of all masks, by as much as the error bar says; and thousands of masks."""

import tracemalloc

import numpy as np
import pytest
import torch

from roadtopo_lib.electives.sampled_weights import sampled_class_weights
from roadtopo_lib.losses import WEIGHT_METHODS, class_weights, weights_from_counts


class RandomMasks:
    """Masks made when they are asked for: background, road of any size, in every fourth a rare class."""

    num_classes = 3

    def __init__(self, count, side=16):
        self.count, self.side, self.reads = count, side, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        rng = np.random.default_rng(index)
        mask = np.zeros((self.side, self.side), np.int64)
        mask[rng.integers(1, self.side) :] = 1
        if rng.random() < 0.25:
            mask[: rng.integers(1, self.side // 2)] = 2
        return {"semantic_mask": mask}


@pytest.mark.parametrize("method", ["inverse", "sqrt_inverse", "median_frequency"])
def test_weights_of_all_masks_differ_from_a_samples_by_its_error_bar(method):
    """Over 30 samples the deviation in standard errors has a spread near 1, whatever the class."""
    data = RandomMasks(1500)
    truth = class_weights(data, method)
    found = [sampled_class_weights(data, 100, method, seed=seed) for seed in range(30)]
    deviation = torch.stack([(f.weights - truth) / f.standard_error for f in found])  # (30, C)
    spread = deviation.square().mean(dim=0).sqrt()
    assert ((spread > 0.7) & (spread < 1.45)).all(), spread


def test_the_error_bar_shrinks_with_the_root_of_the_sample():
    data = RandomMasks(1500)
    few, many = (
        torch.stack([sampled_class_weights(data, size, seed=seed).standard_error for seed in range(4)]).mean(dim=0)
        for size in (50, 800)
    )
    assert ((few / many > 3) & (few / many < 5.5)).all()  # √16 = 4


def test_a_sample_reads_no_mask_twice_and_no_other():
    data = RandomMasks(300)
    sampled_class_weights(data, 40)
    assert len(data.reads) == len(set(data.reads)) == 40
    other = RandomMasks(300)
    sampled_class_weights(other, 40, seed=1)
    assert set(other.reads) != set(data.reads)


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_a_sample_of_all_masks_gives_the_weights_of_all(method):
    data = RandomMasks(30)
    torch.testing.assert_close(sampled_class_weights(data, 30, method).weights, class_weights(data, method))


def test_masks_that_are_alike_leave_no_error():
    data = [{"semantic_mask": torch.tensor([[0, 0, 0, 1]])}] * 5
    found = sampled_class_weights(data, 3, num_classes=2)
    torch.testing.assert_close(found.weights, weights_from_counts([3, 1], "sqrt_inverse"))
    assert found.standard_error.max() < 1e-6


def test_ten_thousand_masks_are_counted_in_the_memory_of_a_few():
    def peak(count):
        data = RandomMasks(count, side=32)
        tracemalloc.start()
        try:
            class_weights(data)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(100), peak(10_000)
    assert many < few + 2e6  # all masks together are 80 MB; what grows are the numbers of the masks
    assert few < 1e6


def test_a_sample_of_the_wrong_size_is_refused():
    for samples in (0, 1, 31):
        with pytest.raises(ValueError, match=f"samples is {samples}, expected 2 to 30"):
            sampled_class_weights(RandomMasks(30), samples)
