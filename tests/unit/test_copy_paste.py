"""Copy-paste: perspective, light, blur, both masks, the rider in front, and what is cut out at all."""

import cv2
import numpy as np
import pytest

from roadtopo_lib.electives.copy_paste import MARGIN, CopyPaste, cut_outs

SKY, ROAD, PAINT, CAR, RIDER = range(5)
SIZE = (120, 200)
VANISHING = (0.5, 0.25)  # (100, 30)


def empty(light=100):
    """A road below row 30 and a rider at the lower edge."""
    image = np.full((*SIZE, 3), light, np.uint8)
    semantic = np.full(SIZE, SKY, np.uint8)
    semantic[31:] = ROAD
    semantic[110:, 80:120] = RIDER
    image[110:, 80:120] = 10
    return image, semantic, np.zeros(SIZE, np.uint16)


def with_car(foot=70, size=(12, 16)):
    image, semantic, instance = empty()
    box = slice(foot - size[0] + 1, foot + 1), slice(40, 40 + size[1])
    image[box], semantic[box], instance[box] = (200, 40, 40), CAR, 1
    return image, semantic, instance


def with_dash():
    """A dash on the line from the vanishing point to the lower left corner."""
    image, semantic, instance = empty()
    for y in range(70, 90):
        x = round(100 - (y - 30))
        image[y, x - 3 : x + 4], semantic[y, x - 3 : x + 4], instance[y, x - 3 : x + 4] = 250, PAINT, 1
    return image, semantic, instance


def pasting(bank, **options):
    options = {"probability": 1.0, "most": 1, "vanishing": VANISHING} | options
    return CopyPaste(bank, (ROAD,), (PAINT,), (RIDER,), **options)


def test_whole_things_below_the_vanishing_point_are_cut_out_with_a_margin():
    bank = cut_outs([with_car(), with_dash()], (CAR, PAINT), VANISHING, (RIDER,))
    assert [(cut.class_id, cut.is_instance) for cut in bank] == [(CAR, True), (PAINT, True)]
    assert bank[0].image.shape == (12 + 2 * MARGIN, 16 + 2 * MARGIN, 3)
    assert bank[0].mask.sum() == 12 * 16
    assert bank[0].corner == (40 - MARGIN - 100, 59 - MARGIN - 30)
    for spoil in (
        lambda s: s.__setitem__((slice(59, 71), slice(0, 40)), CAR),  # goes on to the edge
        lambda s: s.__setitem__((slice(71, 73), slice(40, 50)), RIDER),  # the rider hides a part
        lambda s: s.__setitem__((slice(0, 71), slice(0, 200)), SKY),  # gone
        lambda s: s.__setitem__((slice(59, 71), slice(43, 60)), ROAD),  # three columns are left: too small
    ):
        image, semantic, instance = with_car()
        spoil(semantic)
        assert not cut_outs([(image, semantic, instance)], (CAR,), VANISHING, (RIDER,))
    image, semantic, instance = with_car(foot=25)
    assert not cut_outs([(image, semantic, instance)], (CAR,), VANISHING)


def test_an_upright_thing_is_as_large_as_its_distance_says_and_stands_on_the_road():
    transform = pasting(cut_outs([with_car()], (CAR,), VANISHING))
    heights = set()
    for seed in range(30):
        _, semantic, instance = transform(*empty(), seed)
        rows, columns = np.nonzero(semantic == CAR)
        if not len(rows) or columns.min() == 0 or columns.max() == SIZE[1] - 1 or rows.max() > 105:
            continue
        scale = (rows.max() - 30) / (70 - 30)
        assert np.ptp(rows) + 1 == pytest.approx(12 * scale, abs=1.5)
        assert np.ptp(columns) + 1 == pytest.approx(16 * scale, abs=1.5)
        assert np.array_equal(instance > 0, semantic == CAR)
        heights.add(int(np.ptp(rows)))
    assert len(heights) > 5


def test_paint_runs_towards_the_vanishing_point_wherever_it_lies():
    transform = pasting(cut_outs([with_dash()], (PAINT,), VANISHING))
    sides = set()
    for seed in range(30):
        _, semantic, _ = transform(*empty(), seed)
        rows, columns = np.nonzero(semantic == PAINT)
        if not len(rows) or columns.min() == 0 or columns.max() == SIZE[1] - 1 or rows.max() > 105:
            continue
        middles = [(columns[rows == y].mean() - 100) / (y - 30) for y in np.unique(rows)[2:-2]]
        assert np.ptp(middles) < 0.06  # one straight line through (100, 30)
        sides.add(np.sign(np.mean(middles)))
    assert sides == {-1, 1}


def test_nothing_covers_the_rider_and_all_else_stays():
    bank = cut_outs([with_car(foot=100, size=(60, 90))], (CAR,), VANISHING)
    image, semantic, instance = empty()
    behind = 0
    for seed in range(40):
        out = pasting(bank)(image, semantic, instance, seed)
        rider = semantic == RIDER
        assert np.array_equal(out[1] == RIDER, rider)
        assert np.array_equal(out[0][rider], image[rider])
        far = cv2.dilate((out[1] == CAR).astype(np.uint8), np.ones((7, 7))) == 0
        assert np.array_equal(out[0][far], image[far])
        behind += bool((cv2.dilate((out[1] == CAR).astype(np.uint8), np.ones((3, 3))) > 0)[rider].any())
    assert behind > 0
    assert not instance.any()  # the inputs are not written to


def test_a_thing_takes_over_the_light():
    transform = pasting(cut_outs([with_car()], (CAR,), VANISHING))
    reds = {}
    for light in (50, 100):
        out = transform(*empty(light), 3)
        reds[light] = out[0][out[1] == CAR][:, 0].max()  # its middle: the edge is soft
    assert reds[100] == pytest.approx(200, abs=4)
    assert reds[50] == pytest.approx(100, abs=4)


def test_a_thing_takes_over_the_blur():
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 140, (*SIZE, 1)).repeat(3, axis=2).astype(np.uint8)
    image, semantic, instance = with_car()
    image[semantic != CAR] = noise[semantic != CAR]
    image[59:71, 40:56] = noise[59:71, 40:56]
    transform = pasting(cut_outs([(image, semantic, instance)], (CAR,), VANISHING))
    roughness = []
    for sigma in (0.6, 2.5):
        target = empty()
        target[0][31:100] = cv2.GaussianBlur(noise, (0, 0), sigma)[31:100]
        out = transform(*target, 4)
        inside = cv2.erode((out[1] == CAR).astype(np.uint8), np.ones((5, 5))) > 0
        assert inside.any()
        roughness.append(np.abs(cv2.Laplacian(out[0][..., 0], cv2.CV_32F))[inside].mean())
    assert roughness[0] > 3 * roughness[1]


def test_without_realism_a_thing_keeps_its_size_and_colour():
    transform = pasting(cut_outs([with_car()], (CAR,), VANISHING), realistic=False)
    for seed in range(5):
        out = transform(*empty(30), seed)
        if (out[1] == CAR).sum() == 12 * 16:
            assert (out[0][out[1] == CAR] == (200, 40, 40)).all()
            return
    pytest.fail("no whole car in five images")


def test_the_seed_decides_and_the_next_transform_follows():
    bank = cut_outs([with_car(), with_dash()], (CAR, PAINT), VANISHING)
    calls = []

    def then(image, semantic, instance, seed):
        calls.append(seed)
        return image[:, ::-1], semantic[:, ::-1], instance[:, ::-1]

    first, again, mirrored = (pasting(bank, most=3, then=t)(*empty(), 5) for t in (None, None, then))
    for a, b, c in zip(first, again, mirrored, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c[:, ::-1])
    assert calls == [5]
    unchanged = pasting(bank, probability=0.0)(*empty(), 5)
    assert all(np.array_equal(a, b) for a, b in zip(unchanged, empty(), strict=True))
    with pytest.raises(ValueError, match="the bank is empty"):
        pasting([])


def test_each_class_comes_up_equally_often_and_new_instances_get_new_ids():
    bank = cut_outs([with_car(foot=f) for f in (60, 70, 80, 90)] + [with_dash()], (CAR, PAINT), VANISHING)
    found = [np.isin((CAR, PAINT), pasting(bank)(*empty(), seed)[1]) for seed in range(120)]
    cars, dashes = np.sum(found, axis=0)
    assert 0.6 < cars / dashes < 1.7  # four cars to one dash in the bank
    image, semantic, instance = with_car()
    for seed in range(20):
        out = pasting(bank[:1], most=2)(image, semantic, instance, seed)[2]
        assert set(np.unique(out)) <= {0, 1, 2, 3}
        if out.max() > 1:
            return
    pytest.fail("nothing was pasted in twenty images")
