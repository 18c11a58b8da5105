"""The semantic losses against MONAI's and torch's, and where pixels or classes are missing."""

import math

import pytest
import torch
import torch.nn.functional as F
from monai import losses as monai_losses
from torch import Tensor

from roadtopo_lib.labels import BACKGROUND, CROSSWALK, IGNORE_INDEX, LANE_MARKING, NUM_CLASSES, ROAD
from roadtopo_lib.losses import CombinedLoss, DiceLoss, FocalDiceLoss, FocalLoss, FocalTverskyLoss, TverskyLoss

WEIGHTS = torch.tensor([0.1, 0.3, 5.0, 1.5, 0.6, 1.5])
ALL_LOSSES = {
    "dice": DiceLoss(),
    "dice per image": DiceLoss(per_image=True),
    "dice squared, weighted": DiceLoss(square_denominator=True, class_weights=WEIGHTS),
    "dice without smoothing": DiceLoss(smooth=0.0),
    "focal": FocalLoss(),
    "focal, weighted": FocalLoss(gamma=0.5, class_weights=WEIGHTS),
    "tversky": TverskyLoss(),
    "focal tversky": FocalTverskyLoss(gamma=0.75),
    "focal dice": FocalDiceLoss(0.3, gamma=0.5),
    "combined": CombinedLoss(),
    "combined, weighted": CombinedLoss(class_weights=WEIGHTS, per_image=True),
}
every_loss = pytest.mark.parametrize("criterion", ALL_LOSSES.values(), ids=ALL_LOSSES.keys())
FOREGROUND = torch.tensor([0.0, 1.0])
BINARY_LOSSES = {  # of one channel of logits, and what it must equal with two
    "dice": (DiceLoss(per_image=True), DiceLoss(per_image=True, class_weights=FOREGROUND)),
    "dice, both regions": (DiceLoss(class_weights=[1, 3]), DiceLoss(class_weights=[1, 3])),
    "tversky": (TverskyLoss(), TverskyLoss(class_weights=FOREGROUND)),
    "focal tversky": (FocalTverskyLoss(), FocalTverskyLoss(class_weights=FOREGROUND)),
    "focal": (FocalLoss(), FocalLoss()),
    "focal dice": (FocalDiceLoss(0.0), FocalDiceLoss(0.0)),
    "combined, weighted": (CombinedLoss(class_weights=[1, 3]), CombinedLoss(class_weights=[1, 3])),
}
every_binary_loss = pytest.mark.parametrize(
    ("criterion", "two_class"), BINARY_LOSSES.values(), ids=BINARY_LOSSES.keys()
)


def random_batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, NUM_CLASSES, 12, 16, generator=generator, dtype=dtype).mul(2).requires_grad_()
    return logits, torch.randint(0, NUM_CLASSES, (3, 12, 16), generator=generator)


def confident(labels: Tensor, certainty: float = 30.0) -> Tensor:
    """Logits (B, C, H, W) that are all but sure of ``labels`` (B, H, W)."""
    return F.one_hot(labels, NUM_CLASSES).movedim(-1, 1).double() * certainty


def assert_same_value_and_gradient(ours: Tensor, reference: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(reference, logits)[0])


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("square_denominator", [False, True])
@pytest.mark.parametrize("smooth", [1.0, 1e-5])
def test_dice_equals_monai(per_image, square_denominator, smooth):
    logits, target = random_batch()
    ours = DiceLoss(smooth=smooth, square_denominator=square_denominator, per_image=per_image)
    monai = monai_losses.DiceLoss(
        softmax=True,
        to_onehot_y=True,
        batch=not per_image,
        squared_pred=square_denominator,
        smooth_nr=smooth,
        smooth_dr=smooth,
    )
    assert_same_value_and_gradient(ours(logits, target), monai(logits, target[:, None]), logits)


@pytest.mark.parametrize("per_image", [False, True])
def test_weighted_dice_equals_monai_after_dividing_by_the_mean_weight(per_image):
    logits, target = random_batch(1)
    ours = DiceLoss(class_weights=WEIGHTS, per_image=per_image)
    monai = monai_losses.DiceLoss(
        softmax=True, to_onehot_y=True, batch=not per_image, weight=WEIGHTS, smooth_nr=1.0, smooth_dr=1.0
    )
    assert_same_value_and_gradient(ours(logits, target), monai(logits, target[:, None]) / WEIGHTS.mean(), logits)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.9, 0.2)])
def test_tversky_equals_monai(alpha, beta, per_image):
    logits, target = random_batch(2)
    ours = TverskyLoss(alpha, beta, smooth=1.0, per_image=per_image)
    monai = monai_losses.TverskyLoss(
        softmax=True, to_onehot_y=True, alpha=alpha, beta=beta, batch=not per_image, smooth_nr=1.0, smooth_dr=1.0
    )
    assert_same_value_and_gradient(ours(logits, target), monai(logits, target[:, None]), logits)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_focal_equals_monai_summed_over_classes(gamma, weights):
    logits, target = random_batch(3, torch.float32)  # MONAI computes it in float32
    monai = monai_losses.FocalLoss(
        use_softmax=True, to_onehot_y=True, include_background=True, gamma=gamma, weight=weights
    )
    # MONAI divides by the classes, too, although each pixel has one.
    reference = monai(logits, target[:, None]) * NUM_CLASSES
    assert_same_value_and_gradient(FocalLoss(gamma, weights)(logits, target), reference, logits)


def test_focal_without_focus_is_cross_entropy():
    logits, target = random_batch(4)
    assert_same_value_and_gradient(FocalLoss(gamma=0.0)(logits, target), F.cross_entropy(logits, target), logits)


def test_focal_weighs_pixels_as_the_guide_says():
    """(1 − p)² is 0.01, 0.25 and 0.81 for p = 0.9, 0.5 and 0.1."""
    for p, factor in ((0.9, 0.01), (0.5, 0.25), (0.1, 0.81)):
        logits = torch.tensor([p, 1 - p], dtype=torch.float64).log().view(1, 2, 1, 1)
        loss = FocalLoss(gamma=2.0)(logits, torch.zeros(1, 1, 1, dtype=torch.int64))
        assert loss.item() == pytest.approx(factor * -math.log(p))


def test_tversky_with_equal_prices_is_dice():
    logits, target = random_batch(5)
    # 2 TP + 2 s over 2 TP + FP + FN + 2 s
    assert_same_value_and_gradient(
        TverskyLoss(0.5, 0.5, smooth=1.0)(logits, target), DiceLoss(smooth=2.0)(logits, target), logits
    )


def test_tversky_charges_alpha_for_false_positives_and_beta_for_false_negatives():
    target = torch.zeros(1, 1, 10, dtype=torch.int64)
    target[..., :4] = ROAD
    predicted = torch.zeros_like(target)
    predicted[..., :2] = ROAD  # 2 of 4 road pixels found: road TP 2, FN 2, background TP 6, FP 2
    loss = TverskyLoss(alpha=0.2, beta=0.6, smooth=0.0)(confident(predicted, 60), target)
    road, background = 1 - 2 / (2 + 0.6 * 2), 1 - 6 / (6 + 0.2 * 2)
    assert loss.item() == pytest.approx((road + background) / 2)


def test_focal_tversky_raises_the_loss_of_each_class_to_gamma():
    logits, target = random_batch(6)
    weights_of_one_class = torch.eye(NUM_CLASSES)
    tversky = torch.stack([TverskyLoss(class_weights=w)(logits, target) for w in weights_of_one_class])
    assert_same_value_and_gradient(FocalTverskyLoss(gamma=1.5)(logits, target), (tversky**1.5).mean(), logits)


def test_dice_of_a_small_case_by_hand():
    probabilities = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).view(1, 2, 1, 2)  # two pixels, two classes
    target = torch.tensor([[[0, 1]]])
    first = (2 * 0.8 + 1) / (1.2 + 1 + 1)
    second = (2 * 0.6 + 1) / (0.8 + 1 + 1)
    loss = DiceLoss(from_logits=False)(probabilities, target)
    assert loss.item() == pytest.approx(1 - (first + second) / 2)


def test_per_image_dice_is_the_mean_of_the_images():
    logits, target = random_batch(7)
    target[0] = target[0].clamp(max=LANE_MARKING)  # one image with fewer classes than the others
    single = [DiceLoss()(logits[i : i + 1], target[i : i + 1]) for i in range(len(target))]
    assert_same_value_and_gradient(DiceLoss(per_image=True)(logits, target), torch.stack(single).mean(), logits)


def random_binary_batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits of one channel; 30 % foreground."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, 12, 16, generator=generator, dtype=dtype).mul(2).requires_grad_()
    return logits, (torch.rand(3, 12, 16, generator=generator) < 0.3).long()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("square_denominator", [False, True])
def test_binary_dice_equals_monai_with_a_sigmoid(per_image, square_denominator):
    logits, target = random_binary_batch(18)
    ours = DiceLoss(square_denominator=square_denominator, per_image=per_image)
    monai = monai_losses.DiceLoss(
        sigmoid=True, batch=not per_image, squared_pred=square_denominator, smooth_nr=1.0, smooth_dr=1.0
    )
    assert_same_value_and_gradient(ours(logits, target), monai(logits, target[:, None].double()), logits)
    torch.testing.assert_close(
        DiceLoss(square_denominator=square_denominator, per_image=per_image, from_logits=False)(
            logits.sigmoid(), target
        ),
        ours(logits, target),
    )


@pytest.mark.parametrize("per_image", [False, True])
def test_binary_tversky_equals_monai_with_a_sigmoid(per_image):
    logits, target = random_binary_batch(19)
    monai = monai_losses.TverskyLoss(
        sigmoid=True, alpha=0.3, beta=0.7, batch=not per_image, smooth_nr=1.0, smooth_dr=1.0
    )
    tversky = TverskyLoss(per_image=per_image)(logits, target)
    assert_same_value_and_gradient(tversky, monai(logits, target[:, None]), logits)
    torch.testing.assert_close(FocalTverskyLoss(gamma=2.0)(logits, target), TverskyLoss()(logits, target) ** 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_binary_focal_equals_monai_with_alpha(gamma):
    logits, target = random_binary_batch(20, torch.float32)
    monai = monai_losses.FocalLoss(gamma=gamma, alpha=0.25)
    ours = FocalLoss(gamma, class_weights=[0.75, 0.25])(logits, target)
    assert_same_value_and_gradient(ours, monai(logits, target[:, None].float()), logits)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("lam", "alpha", "gamma"), [(0.5, 0.25, 2.0), (0.3, 0.8, 1.0), (0.0, None, 2.0), (1.0, 0.2, 0)]
)
def test_focal_dice_equals_monai_of_one_channel_and_of_many(lam, alpha, gamma, per_image):
    smoothing = {"batch": not per_image, "smooth_nr": 1.0, "smooth_dr": 1.0}
    ours = FocalDiceLoss(lam, alpha, gamma, per_image=per_image)
    logits, target = random_binary_batch(22, torch.float32)
    focal = monai_losses.FocalLoss(gamma=gamma, alpha=alpha)(logits, target[:, None].float())
    dice = monai_losses.DiceLoss(sigmoid=True, **smoothing)(logits, target[:, None].float())
    assert_same_value_and_gradient(ours(logits, target), lam * dice + (1 - lam) * focal, logits)

    logits, target = random_batch(22, torch.float32)
    focal = monai_losses.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma, alpha=alpha)
    dice = monai_losses.DiceLoss(softmax=True, to_onehot_y=True, **smoothing)(logits, target[:, None])
    reference = lam * dice + (1 - lam) * focal(logits, target[:, None]) * NUM_CLASSES  # see above: it divides by C
    assert_same_value_and_gradient(ours(logits, target), reference, logits)


def test_an_empty_mask_leaves_focal_dice_its_focal_part():
    logits, target = random_binary_batch(23)
    empty = torch.zeros_like(target)
    focal = FocalLoss(class_weights=[0.75, 0.25])
    for per_image in (False, True):
        ours = FocalDiceLoss(0.4, per_image=per_image)
        assert_same_value_and_gradient(ours(logits, empty), 0.6 * focal(logits, empty), logits)
    target[1] = 0  # one empty image among others: Dice is the mean of the two that have a foreground
    dice = DiceLoss(per_image=True)(logits[[0, 2]], target[[0, 2]])
    reference = 0.4 * dice + 0.6 * focal(logits, target)
    assert_same_value_and_gradient(FocalDiceLoss(0.4, per_image=True)(logits, target), reference, logits)


def test_binary_combined_is_torch_binary_cross_entropy_plus_dice():
    logits, target = random_binary_batch(21)
    cross_entropy = F.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    reference = 0.6 * cross_entropy + 0.4 * DiceLoss()(logits, target)
    assert_same_value_and_gradient(CombinedLoss()(logits, target), reference, logits)


@every_binary_loss
def test_a_binary_loss_is_the_two_class_loss_of_its_foreground(criterion, two_class):
    logits, target = random_binary_batch(22)
    target[:, 0] = IGNORE_INDEX
    two_logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert_same_value_and_gradient(criterion(logits, target), two_class(two_logits, target), logits)
    ignored = torch.full_like(target, IGNORE_INDEX)
    assert criterion(logits, ignored) == 0


def test_binary_masks_without_foreground_teach_by_cross_entropy_alone():
    logits, target = random_binary_batch(23)
    target[0] = 0
    both, second = DiceLoss(per_image=True)(logits, target), DiceLoss(per_image=True)(logits[1:], target[1:])
    assert_same_value_and_gradient(both, second, logits)
    nothing = torch.zeros_like(target)
    for criterion in (DiceLoss(), TverskyLoss(), FocalTverskyLoss(), DiceLoss(smooth=0.0, per_image=True)):
        loss = criterion(logits, nothing)
        assert loss == 0
        assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros_like(logits))
    assert FocalLoss()(logits, nothing) > 0.1
    assert CombinedLoss()(logits, nothing) > 0.1


def test_combined_is_torch_cross_entropy_plus_dice():
    logits, target = random_batch(8)
    target[0, :5] = IGNORE_INDEX
    criterion = CombinedLoss(0.6, 0.4, class_weights=WEIGHTS)
    loss, parts = criterion.with_parts(logits, target)
    cross_entropy = F.cross_entropy(logits, target, weight=WEIGHTS.double(), ignore_index=IGNORE_INDEX)
    dice = DiceLoss(class_weights=WEIGHTS)(logits, target)
    assert_same_value_and_gradient(loss, 0.6 * cross_entropy + 0.4 * dice, logits)
    torch.testing.assert_close(parts["cross_entropy"], cross_entropy.detach())
    torch.testing.assert_close(parts["dice"], dice.detach())
    assert not any(part.requires_grad for part in parts.values())
    torch.testing.assert_close(criterion(logits, target), loss)


def test_combined_hands_its_settings_to_dice():
    logits, target = random_batch(9)
    settings = {"smooth": 5.0, "square_denominator": True, "per_image": True, "ignore_index": BACKGROUND}
    combined = CombinedLoss(ce_weight=0.0, dice_weight=1.0, **settings)(logits, target)
    torch.testing.assert_close(combined, DiceLoss(**settings)(logits, target))


def test_weighted_dice_stays_between_zero_and_one():
    """The plain sum 1 − Σ w·Dice reaches −52 with a weight of 58."""
    weights = torch.tensor([0.1, 58.0, 1.0, 1.0, 1.0, 1.0])
    _, target = random_batch(10)
    right = DiceLoss(class_weights=weights)(confident(target), target)
    wrong = DiceLoss(class_weights=weights)(confident((target + 1) % NUM_CLASSES), target)
    assert 0 <= right < 1e-6
    assert 0.98 < wrong <= 1


def test_only_the_proportions_of_the_weights_matter_in_combined():
    logits, target = random_batch(11)
    loss = CombinedLoss(class_weights=WEIGHTS)(logits, target)
    torch.testing.assert_close(CombinedLoss(class_weights=100 * WEIGHTS)(logits, target), loss)


@every_loss
def test_ignored_pixels_change_nothing(criterion):
    logits, target = random_batch(12)
    target[:, 8:] = IGNORE_INDEX
    loss = criterion(logits, target)
    torch.testing.assert_close(loss, criterion(logits[:, :, :8], target[:, :8]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, :, 8:] == 0).all()
    assert (gradient[:, :, :8] != 0).any()


@every_loss
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_batch_of_ignored_pixels_costs_nothing(criterion, scale):
    logits = (torch.randn(2, NUM_CLASSES, 4, 4) * scale).requires_grad_()
    loss = criterion(logits, torch.full((2, 4, 4), IGNORE_INDEX))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_ignored_image_does_not_dilute_the_others():
    logits, target = random_batch(13)
    alone = DiceLoss(per_image=True)(logits[:2], target[:2])
    target[2] = IGNORE_INDEX
    torch.testing.assert_close(DiceLoss(per_image=True)(logits, target), alone)


def test_no_ignore_index_makes_every_class_count():
    logits, target = random_batch(14)
    everything = DiceLoss(ignore_index=None)(logits, target)
    torch.testing.assert_close(everything, DiceLoss(ignore_index=IGNORE_INDEX)(logits, target))
    without_background = DiceLoss(ignore_index=BACKGROUND)(logits, target)
    assert not torch.isclose(everything, without_background)


def test_ignoring_the_background_leaves_false_positives_on_it_unpunished():
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[:, :, 4:] = ROAD
    road_everywhere = confident(torch.full_like(target, ROAD))
    assert CombinedLoss(ignore_index=BACKGROUND)(road_everywhere, target) < 1e-6
    assert CombinedLoss()(road_everywhere, target) > 0.3


@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("criterion", [DiceLoss, TverskyLoss, FocalTverskyLoss])
def test_a_class_that_is_not_there_costs_nothing(criterion, smooth):
    """Its softmax leftovers, p = 0.001 over 64 × 64 pixels, must not count as a failed class."""
    target = torch.full((1, 64, 64), ROAD)
    target[:, :32] = LANE_MARKING
    logits = confident(target, math.log(995 / 1))  # p = 0.995, and 0.001 for each of the five other classes
    assert criterion(smooth=smooth)(logits, target) < 0.01


def test_painting_a_class_that_is_not_there_costs():
    target = torch.full((1, 8, 8), ROAD)
    painted = target.clone()
    painted[:, :4] = CROSSWALK
    assert DiceLoss()(confident(painted), target) > 0.3


@every_loss
def test_a_perfect_prediction_costs_nothing(criterion):
    _, target = random_batch(15)
    logits = confident(target, 100.0).requires_grad_()
    loss = criterion(logits, target)
    loss.backward()
    assert 0 <= loss < 1e-4
    assert torch.isfinite(logits.grad).all()


@every_loss
def test_the_worst_prediction_gives_a_finite_loss_and_gradient(criterion):
    _, target = random_batch(16)
    logits = confident((target + 1) % NUM_CLASSES, 1e4).float().requires_grad_()
    loss = criterion(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@every_loss
def test_gradcheck_holds(criterion):
    logits, target = random_batch(17)
    target[0, 0] = IGNORE_INDEX
    small = logits.detach()[:2, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: criterion(x, target[:2, :3, :3]), small)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(criterion, dtype):
    # 400 × 400 pixels: float16 counts to 65504, bfloat16 stops growing at 256.
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (1, 400, 400), generator=generator)
    logits = torch.randn(1, NUM_CLASSES, 400, 400, generator=generator).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = criterion(logits, target)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), criterion(logits.detach().double(), target), rtol=1e-5, atol=1e-6)
    assert logits.grad.dtype == dtype
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("criterion", [DiceLoss, TverskyLoss, FocalLoss, CombinedLoss])
def test_weights_move_with_the_module_but_are_not_part_of_a_checkpoint(criterion):
    weighted = criterion(class_weights=WEIGHTS)
    assert [buffer.tolist() for buffer in weighted.buffers()] == [WEIGHTS.tolist()]
    assert weighted.state_dict() == {}


@pytest.mark.parametrize("criterion", [DiceLoss(), FocalLoss(), FocalDiceLoss(), CombinedLoss()])
def test_wrong_shapes_are_refused_by_name(criterion):
    logits, target = random_batch()
    for wrong in (target[:, None], target[:2], target[:, :5], target.float()):
        with pytest.raises(ValueError, match=r"target is .* expected \(3, 12, 16\)"):
            criterion(logits, wrong)
    with pytest.raises(ValueError, match="logits are"):
        criterion(logits[0], target)
    with pytest.raises(ValueError, match="logits are"):
        criterion(target[:, None], target)


def test_wrong_settings_are_refused_by_name():
    for criterion, name in (
        (DiceLoss, "smooth"),
        (TverskyLoss, "alpha"),
        (TverskyLoss, "beta"),
        (FocalTverskyLoss, "gamma"),
        (FocalLoss, "gamma"),
        (FocalDiceLoss, "lam"),
        (FocalDiceLoss, "alpha"),
        (FocalDiceLoss, "gamma"),
        (CombinedLoss, "ce_weight"),
        (CombinedLoss, "dice_weight"),
    ):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            criterion(**{name: -1})
    with pytest.raises(ValueError, match="gamma is 0"):
        FocalTverskyLoss(gamma=0)
    for weights in ([-1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [[1.0, 1.0]]):
        for criterion in (DiceLoss, FocalLoss, CombinedLoss):
            with pytest.raises(ValueError, match="class_weights"):
                criterion(class_weights=weights)
    logits, target = random_batch()
    for criterion in (DiceLoss, FocalLoss, CombinedLoss):
        with pytest.raises(ValueError, match="class_weights has 2 weights, but logits have 6 classes"):
            criterion(class_weights=[1.0, 2.0])(logits, target)
        with pytest.raises(ValueError, match="class_weights has 1 weights, but logits have 2 classes"):
            criterion(class_weights=[1.0])(logits[:, :1], target.clamp(max=1))
