"""Scores of restored images beside independent references, and fusions without learning."""

import cv2
import numpy as np
import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from scipy.stats import bootstrap

from roadtopo_lib.electives.restored import compare, interval, ssim_map, unlearned


def pair(size=(40, 52), seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 3, *size, generator=generator)
    target = torch.nn.functional.avg_pool2d(target, 3, 1, 1)
    return (target + 0.1 * torch.randn(2, 3, *size, generator=generator)).clamp(0, 1), target


def test_ssim_is_monais_where_the_window_lies_inside():
    image, target = pair()
    reference = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=11, kernel_sigma=1.5)(image, target)
    inner = ssim_map(image, target)[:, 5:-5, 5:-5].mean(dim=(1, 2))
    torch.testing.assert_close(inner, reference[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ssim_map(image, image), torch.ones(2, 40, 52))


def test_psnr_is_monais_and_opencvs_over_the_whole_image():
    image, target = pair()
    found = compare(image, target, torch.ones(2, 1, 40, 52))
    torch.testing.assert_close(found.psnr, PSNRMetric(max_val=1.0)(image, target)[:, 0])
    arrays = (x[0].permute(1, 2, 0).numpy().astype(np.float64) for x in (image, target))
    assert found.psnr[0].item() == pytest.approx(cv2.PSNR(*arrays, R=1.0), rel=1e-5)
    torch.testing.assert_close(found.l1, (image - target).abs().mean(dim=(1, 2, 3)))


def test_only_what_is_inside_the_mask_counts():
    image, target = pair()
    mask = torch.zeros(2, 1, 40, 52)
    mask[:, :, 10:20, 10:30] = 1
    mask[1, :, 15:] = 0
    found = compare(image, target, mask)
    for k, rows in enumerate((slice(10, 20), slice(10, 15))):
        error = (image - target)[k, :, rows, 10:30]
        assert found.l1[k].item() == pytest.approx(error.abs().mean().item(), rel=1e-5)
        assert found.psnr[k].item() == pytest.approx(-10 * np.log10(error.square().mean().item()), rel=1e-5)
        inside = ssim_map(image, target)[k, rows, 10:30]
        assert found.ssim[k].item() == pytest.approx(inside.mean().item(), rel=1e-5)
    far = image.clone()
    far[:, :, 35:] = 0  # beyond half a window from the mask
    torch.testing.assert_close(compare(far, target, mask), found)


def test_mean_best_and_oracle_are_what_their_names_say():
    target = torch.full((2, 3, 2, 2), 0.5)
    completions = torch.zeros(2, 3, 3, 2, 2)
    completions[:, 0], completions[:, 1] = 0.6, 0.2
    completions[0, 0, :, 0, 0], completions[0, 1, :, 0, 0] = 0.2, 0.5  # the worse one is right in one pixel
    completions[:, 2] = 0.5  # perfect, and not there
    present = torch.tensor([[True, True, False]] * 2)
    mask = torch.ones(2, 1, 2, 2)
    mask[:, :, 1, 1] = 0
    partial = torch.full((2, 3, 2, 2), 0.9)
    batch = {
        "target": target, "partial": partial, "mask": mask, "completions": completions, "present": present
    }  # fmt: skip
    found = unlearned(batch)
    assert all(torch.equal(image[:, :, 1, 1], partial[:, :, 1, 1]) for image in found.values())
    torch.testing.assert_close(found["mean"][1, :, 0], torch.full((3, 2), 0.4))
    torch.testing.assert_close(found["mean"][0, 0, 0], torch.tensor([0.35, 0.4]))
    torch.testing.assert_close(found["best"][0, 0, 0], torch.tensor([0.2, 0.6]))
    torch.testing.assert_close(found["oracle"][0, 0, 0], torch.tensor([0.5, 0.6]))
    torch.testing.assert_close(found["oracle"][1, 0, 0], torch.tensor([0.6, 0.6]))
    completions[0, 0, :, 0] = 0.0  # now the other one is nearer in the image as a whole
    assert unlearned(batch)["best"][0, 0, 0, 1].item() == pytest.approx(0.2)


def test_the_interval_is_scipys_and_seeds_widen_it():
    values = np.random.default_rng(1).normal(3, 1, 60)
    reference = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert interval(values) == pytest.approx(tuple(reference), abs=0.03)
    apart = values + np.array([[-0.5], [0.5], [0.0]])
    low, high = interval(apart)
    assert high - low > 1.3 * np.diff(interval(values))[0]
    assert low < 3 < high
