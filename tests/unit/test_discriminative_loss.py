"""The discriminative loss against the paper, written out in loops, and at every edge where it could become NaN."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from roadtopo_lib.losses import DiscriminativeLoss, gather_embeddings


def paper_loss(
    embeddings: Tensor, instance_mask: Tensor, delta_var: float, delta_dist: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 1 to 3 of De Brabandere et al. in plain loops, averaged over the images that have instances."""
    images = []
    for image, mask in zip(embeddings, instance_mask, strict=True):
        ids = [i for i in sorted(set(mask.flatten().tolist())) if i != 0]
        if not ids:
            continue
        members = [[image[:, r, c] for r, c in (mask == i).nonzero().tolist()] for i in ids]
        means = [sum(pixels) / len(pixels) for pixels in members]
        count = len(ids)
        variance = torch.zeros((), dtype=image.dtype)
        for pixels, mean in zip(members, means, strict=True):
            hinges = [max(torch.zeros((), dtype=image.dtype), (mean - x).norm() - delta_var) ** 2 for x in pixels]
            variance = variance + sum(hinges) / len(pixels) / count
        distance = torch.zeros((), dtype=image.dtype)
        for a, b in itertools.permutations(means, 2):
            hinge = max(torch.zeros((), dtype=image.dtype), 2 * delta_dist - (a - b).norm())
            distance = distance + hinge**2 / (count * (count - 1))
        images.append(torch.stack([variance, distance, sum(mean.norm() for mean in means) / count]))
    return tuple(torch.stack(images).mean(dim=0)) if images else (torch.zeros(()),) * 3


def random_batch(seed: int, ids: list[list[int]], size: tuple[int, int] = (6, 7), dim: int = 4) -> tuple:
    """Double embeddings (B, D, H, W) and a mask in which image b holds the ids of ``ids[b]`` and background."""
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for image_ids in ids:
        choices = torch.tensor([0, *image_ids])
        masks.append(choices[torch.randint(0, len(choices), size, generator=generator)])
    embeddings = torch.randn(len(ids), dim, *size, generator=generator, dtype=torch.float64)
    return embeddings.requires_grad_(), torch.stack(masks)


BATCHES = {
    "one image": [[1, 2, 3]],
    "different counts": [[1, 2, 3, 4, 5], [1], [2, 3]],
    "an empty image between others": [[1, 2], [], [3, 4]],
    "ids with gaps, 255 among them": [[7, 255, 40_000], [255, 3], [10**15]],
    "one instance each": [[1], [2]],
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("ids", BATCHES.values(), ids=BATCHES.keys())
def test_values_and_gradients_are_those_of_the_paper_in_loops(ids, seed):
    embeddings, mask = random_batch(seed, ids)
    loss, parts = DiscriminativeLoss(0.7, 1.2, alpha=0.9, beta=1.3, gamma=0.05)(embeddings, mask)
    (gradient,) = torch.autograd.grad(loss, embeddings)

    variance, distance, regularization = paper_loss(embeddings, mask, 0.7, 1.2)
    expected = 0.9 * variance + 1.3 * distance + 0.05 * regularization
    (expected_gradient,) = torch.autograd.grad(expected, embeddings)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    torch.testing.assert_close(parts["variance"], variance.detach())
    torch.testing.assert_close(parts["distance"], distance.detach())
    torch.testing.assert_close(parts["regularization"], regularization.detach())


def test_the_guides_example_gives_the_corrected_numbers():
    """Two pixels around a mean at the origin: 0.36 lies inside the margin of 0.5, 0.72 does not."""

    def variance_of(x: float, y: float) -> Tensor:
        pixels = torch.tensor([[x, y], [-x, -y]]).T[None, :, None, :]  # (1, 2, 1, 2)
        return DiscriminativeLoss()(pixels, torch.ones(1, 1, 2, dtype=torch.int64))[1]["variance"]

    assert variance_of(0.2, 0.3) == 0
    assert variance_of(0.6, 0.4).item() == pytest.approx((math.sqrt(0.52) - 0.5) ** 2, rel=1e-5)

    two_means = torch.tensor([[0.0, 2.0], [0.0, 0.0]])[None, :, None, :]  # (0, 0) and (2, 0)
    parts = DiscriminativeLoss()(two_means, torch.tensor([[[1, 2]]]))[1]
    assert parts["distance"].item() == pytest.approx((3.0 - 2.0) ** 2)

    two_means = torch.tensor([[5.0, 6.0], [5.0, 4.0]])[None, :, None, :]  # (5, 5) and (6, 4)
    parts = DiscriminativeLoss()(two_means, torch.tensor([[[1, 2]]]))[1]
    assert parts["regularization"].item() == pytest.approx((math.sqrt(50) + math.sqrt(52)) / 2)


def test_separated_clusters_cost_nothing_but_the_regularisation():
    embeddings = torch.zeros(1, 2, 2, 4)
    embeddings[0, 0, :, 2:] = 3.0  # two clusters, exactly 2 · δ_dist apart
    mask = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2]]])
    loss, parts = DiscriminativeLoss(gamma=0.001)(embeddings, mask)
    assert parts["variance"] == 0
    assert parts["distance"] == 0
    assert loss.item() == pytest.approx(0.001 * 1.5)


def test_normalised_means_cannot_reach_the_default_push_margin():
    """On the unit sphere two means are at most 2 apart, so the distance term stays at 1 or more."""
    opposite = torch.tensor([[1.0, -1.0], [0.0, 0.0]])[None, :, None, :]
    assert DiscriminativeLoss()(opposite, torch.tensor([[[1, 2]]]))[1]["distance"].item() == pytest.approx(1.0)


def test_every_instance_counts_alike_however_many_pixels_it_has():
    embeddings = torch.tensor([[1.0, -1.0] * 10 + [2.0, -2.0]])[None, :, None, :]  # (1, 1, 1, 22)
    mask = torch.tensor([1] * 20 + [2] * 2)[None, None]
    variance = DiscriminativeLoss()(embeddings, mask)[1]["variance"]
    assert variance.item() == pytest.approx((0.5**2 + 1.5**2) / 2)


@pytest.mark.parametrize("shape", [(5, 7), (3, 2), (1, 1), (6, 10)])
def test_gradcheck_holds_at_full_and_at_other_resolutions(shape):
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64).mul(2).requires_grad_()
    mask = torch.randint(0, 3, (2, 5, 7), generator=generator)
    criterion = DiscriminativeLoss(0.1, 2.0, gamma=0.1)
    assert torch.autograd.gradcheck(lambda e: criterion(e, mask)[0], embeddings)


@pytest.mark.parametrize(
    ("low", "full"),
    [
        ((64, 128), (256, 512)),
        ((5, 9), (20, 36)),
        ((7, 11), (30, 23)),
        ((4, 6), (4, 6)),
        ((4, 6), (4, 13)),
        ((4, 6), (9, 6)),
        ((9, 8), (5, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gathered_embeddings_equal_upsampled_ones(low, full, dtype):
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(2, 8, *low, generator=generator, dtype=dtype).requires_grad_()
    labelled = torch.rand(2, *full, generator=generator) < 0.3
    labelled[:, [0, 0, -1, -1], [0, -1, 0, -1]] = True  # the corners, where there is nothing to interpolate with
    image, row, column = labelled.nonzero(as_tuple=True)
    gathered = gather_embeddings(embeddings, image, row, column, full)
    reference = F.interpolate(embeddings, full, mode="bilinear", align_corners=False)[image, :, row, column]
    torch.testing.assert_close(gathered, reference, atol=1e-5, rtol=0)

    weight = torch.randn(gathered.shape, generator=generator, dtype=dtype)
    (gradient,) = torch.autograd.grad((gathered * weight).sum(), embeddings)
    (expected,) = torch.autograd.grad((reference * weight).sum(), embeddings)
    torch.testing.assert_close(gradient, expected, atol=1e-5 if dtype == torch.float32 else 1e-10, rtol=0)


def test_small_embeddings_give_the_loss_of_upsampled_ones():
    generator = torch.Generator().manual_seed(6)
    embeddings = torch.randn(3, 8, 16, 24, generator=generator).mul(2).requires_grad_()
    mask = torch.randint(0, 5, (3, 64, 96), generator=generator)
    upsampled = F.interpolate(embeddings, (64, 96), mode="bilinear", align_corners=False)
    loss, expected = DiscriminativeLoss()(embeddings, mask)[0], DiscriminativeLoss()(upsampled, mask)[0]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(loss, embeddings)[0], torch.autograd.grad(expected, embeddings)[0], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("low", [(3, 5), (12, 20)])
def test_pixels_may_come_in_any_order_and_more_than_once(low):
    generator = torch.Generator().manual_seed(15)
    embeddings = torch.randn(3, 4, *low, generator=generator, dtype=torch.float64).requires_grad_()
    image = torch.tensor([2, 0, 2, 1, 0, 0])
    row, column = torch.tensor([11, 0, 4, 7, 5, 5]), torch.tensor([0, 19, 3, 8, 6, 6])
    gathered = gather_embeddings(embeddings, image, row, column, (12, 20))
    full = F.interpolate(embeddings, (12, 20), mode="bilinear", align_corners=False)
    expected = full[image, :, row, column]
    torch.testing.assert_close(gathered, expected)
    weight = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    (gradient,) = torch.autograd.grad((gathered * weight).sum(), embeddings)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), embeddings)[0])


def test_pixels_found_by_numpy_can_be_read_without_gradients():
    rows, columns = (torch.from_numpy(index) for index in np.nonzero(np.eye(8)))
    embeddings = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(16), dtype=torch.float16)
    with torch.inference_mode():
        vectors = gather_embeddings(embeddings, torch.zeros_like(rows), rows, columns, (8, 8)).numpy()
    full = F.interpolate(embeddings.float(), (8, 8), mode="bilinear", align_corners=False)[0].numpy()  # (3, 8, 8)
    np.testing.assert_allclose(vectors, full[:, np.arange(8), np.arange(8)].T, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 3, 8, 8), (0, 3, 4, 4)])
def test_no_pixel_gives_an_empty_array_with_zero_gradient(shape):
    embeddings = torch.randn(*shape, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    gathered = gather_embeddings(embeddings, none, none, none, (8, 8))
    assert gathered.shape == (0, 3)
    gathered.sum().backward()
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def loss_and_gradient(embeddings: Tensor, mask: Tensor, **settings) -> tuple[Tensor, Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    loss, parts = DiscriminativeLoss(**settings)(embeddings, mask)
    loss.backward()
    assert all(torch.isfinite(value) for value in (loss, *parts.values()))
    assert torch.isfinite(embeddings.grad).all()
    return loss.detach(), embeddings.grad


@pytest.mark.parametrize("low", [(8, 8), (2, 2)])
def test_a_batch_without_instances_costs_nothing_and_stays_attached(low):
    loss, gradient = loss_and_gradient(torch.randn(2, 4, *low), torch.zeros(2, 8, 8, dtype=torch.int64))
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_images_without_instances_do_not_dilute_the_mean():
    embeddings, mask = random_batch(7, [[1, 2, 3]])
    nothing = torch.zeros_like(mask)
    alone, _ = loss_and_gradient(embeddings.detach(), mask)
    among_empty, gradient = loss_and_gradient(
        torch.cat([torch.randn_like(embeddings), embeddings, torch.randn_like(embeddings)]).detach(),
        torch.cat([nothing, mask, nothing]),
    )
    torch.testing.assert_close(among_empty, alone)
    assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))


def test_one_instance_has_nothing_to_be_pushed_from():
    embeddings = torch.randn(1, 4, 6, 6).requires_grad_()
    loss, parts = DiscriminativeLoss(gamma=0.0)(embeddings, torch.ones(1, 6, 6, dtype=torch.int64))
    assert parts["distance"] == 0
    assert parts["variance"] > 0
    torch.testing.assert_close(loss.detach(), parts["variance"])


def test_one_pixel_instances_have_no_variance():
    mask = torch.zeros(1, 4, 4, dtype=torch.int64)
    mask[0, 0, 0], mask[0, 3, 3] = 1, 2
    embeddings = torch.randn(1, 4, 4, 4)
    loss_and_gradient(embeddings, mask, delta_var=0.0)
    assert DiscriminativeLoss(delta_var=0.0)(embeddings, mask)[1]["variance"] == 0


def test_equal_means_cost_the_full_hinge_and_give_finite_gradients():
    embeddings = torch.tensor([1.0, -1.0, 1.0, -1.0])[None, None, None]  # both means are 0, no pixel is
    loss, _ = loss_and_gradient(embeddings, torch.tensor([[[1, 1, 2, 2]]]), delta_var=2.0, gamma=0.0)
    assert loss.item() == pytest.approx(9.0)  # (2 · 1.5 − 0)²


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("delta_var", [0.0, 0.5])
def test_points_that_all_coincide_give_finite_gradients(value, delta_var):
    mask = torch.randint(0, 4, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    loss_and_gradient(torch.full((2, 4, 3, 3), value), mask, delta_var=delta_var)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_summed_in_float32(dtype):
    generator = torch.Generator().manual_seed(8)
    mask = torch.randint(0, 3, (2, 128, 128), generator=generator)
    # Thousands of pixels around 100: their sum is beyond float16's 65504.
    embeddings = (torch.randn(2, 4, 32, 32, generator=generator) + 100).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss, parts = DiscriminativeLoss()(embeddings, mask)
    loss.backward()
    assert loss.dtype == torch.float32
    expected, expected_parts = DiscriminativeLoss()(embeddings.detach().double(), mask)
    torch.testing.assert_close(loss.detach(), expected.float(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parts["regularization"], expected_parts["regularization"].float(), rtol=1e-5, atol=0)
    assert embeddings.grad.dtype == dtype
    assert torch.isfinite(embeddings.grad).all()


def test_double_embeddings_stay_double():
    embeddings, mask = random_batch(9, [[1, 2]])
    loss, parts = DiscriminativeLoss()(embeddings, mask)
    assert loss.dtype == torch.float64
    assert all(part.dtype == torch.float64 and not part.requires_grad for part in parts.values())


def test_renaming_the_ids_changes_nothing():
    embeddings, mask = random_batch(10, [[1, 2, 3, 4], [1, 2, 3]])
    renamed = torch.tensor([0, 9_000_000_000, 3, 255, 1])[mask]
    torch.testing.assert_close(
        loss_and_gradient(embeddings.detach(), renamed), loss_and_gradient(embeddings.detach(), mask)
    )


def test_the_order_of_images_changes_nothing():
    embeddings, mask = random_batch(11, [[1, 2, 3, 4], [], [5, 1]])
    loss, gradient = loss_and_gradient(embeddings.detach(), mask)
    other, other_gradient = loss_and_gradient(embeddings.detach().flip(0), mask.flip(0))
    torch.testing.assert_close(other, loss)
    torch.testing.assert_close(other_gradient.flip(0), gradient)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_ids_may_be_of_any_integer_type(dtype):
    embeddings, mask = random_batch(14, [[1, 2, 100], [], [2, 3]])
    torch.testing.assert_close(
        loss_and_gradient(embeddings.detach(), mask.to(dtype)), loss_and_gradient(embeddings.detach(), mask)
    )


def test_a_batch_of_no_image_costs_nothing_and_stays_attached():
    loss, gradient = loss_and_gradient(torch.randn(0, 4, 2, 2), torch.zeros(0, 8, 8, dtype=torch.int64))
    assert loss == 0
    assert gradient.shape == (0, 4, 2, 2)


def test_unlabelled_pixels_get_no_gradient():
    embeddings, mask = random_batch(12, [[1, 2], [3]])
    _, gradient = loss_and_gradient(embeddings.detach(), mask, delta_var=0.0, gamma=1.0)
    labelled = (mask != 0)[:, None].expand_as(gradient)
    assert (gradient[~labelled] == 0).all()
    assert (gradient[labelled] != 0).all()


def test_gradient_descent_separates_the_instances():
    generator = torch.Generator().manual_seed(13)
    embeddings = torch.randn(1, 2, 4, 10, generator=generator).requires_grad_()
    mask = (torch.arange(10) // 2).expand(1, 4, 10)  # columns 2..9 in four instances
    criterion = DiscriminativeLoss()
    optimizer = torch.optim.Adam([embeddings], lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        criterion(embeddings, mask)[0].backward()
        optimizer.step()
    parts = criterion(embeddings, mask)[1]
    assert parts["variance"] < 1e-3
    assert parts["distance"] < 1e-3


IDS = torch.ones(2, 8, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("embeddings", "mask", "message"),
    [
        (torch.zeros(4, 8, 8), IDS, "embeddings"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.int64), IDS, "embeddings"),
        (torch.zeros(2, 4, 8, 8), IDS[0], "instance_mask"),
        (torch.zeros(2, 4, 8, 8), IDS[:, None], "instance_mask"),
        (torch.zeros(2, 4, 8, 8), IDS.float(), "instance_mask.*float32"),
        (torch.zeros(3, 4, 8, 8), IDS, "3 images, instance_mask 2"),
        (torch.zeros(2, 4, 8, 8), -IDS, "instance_mask.*-1"),
    ],
)
def test_wrong_input_is_refused_by_name(embeddings, mask, message):
    with pytest.raises(ValueError, match=message):
        DiscriminativeLoss()(embeddings, mask)


@pytest.mark.parametrize("name", ["delta_var", "delta_dist", "alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_negative_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        DiscriminativeLoss(**{name: value})
