"""Scores of lanes as curves, and centre lines out of instance masks."""

from itertools import pairwise, permutations

import cv2
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from roadtopo_lib.metrics import LaneF1, TuSimpleScore, interpolate_lane, polylines_from_instances

CULANE_SIZE = (590, 1640)


# --- LaneF1 ---


def straight(x, top=-60.0, bottom=660.0):
    return np.array([[x, top], [x, bottom]])


def random_scene(seed):
    """Curved true lanes at CULane's size and predictions that are a little, or far, off; some missed, some invented."""
    rng = np.random.default_rng(seed)
    y = np.arange(260.0, 620.0, 20.0)

    def lane(x0):
        return np.stack([x0 + rng.uniform(-2, 2) * (y - 260) + rng.uniform(-4e-3, 4e-3) * (y - 260) ** 2, y], axis=1)

    target = [lane(x0) for x0 in rng.uniform(300, 1300, rng.integers(0, 5))]
    predicted = [
        line + np.array([rng.choice([0, 3, 8, 20]), 0]) + rng.normal(0, 1, line.shape)
        for line in target
        if rng.random() < 0.8
    ]
    predicted += [lane(x0) for x0 in rng.uniform(300, 1300, rng.integers(0, 2))]
    return [predicted[i] for i in rng.permutation(len(predicted))], target


def culane_iou(a, b):
    """IoU by CULane's rules on the full canvas: 50 points per spline piece, whole pixels, lines 30 px wide."""
    drawings = []
    for lane in (a, b):
        t = [0.0]
        for p, q in pairwise(lane):
            t.append(t[-1] + float(np.hypot(*(q - p))))
        spline = CubicSpline(t, lane, bc_type="natural")
        times = [u for left, right in pairwise(t) for u in np.linspace(left, right, 50, False)]
        points = np.rint(spline([*times, t[-1]])).astype(int).tolist()
        drawing = np.zeros(CULANE_SIZE, np.uint8)
        for p, q in pairwise(points):
            if p != q:
                cv2.line(drawing, p, q, 1, 30)
        drawings.append(drawing > 0)
    return (drawings[0] & drawings[1]).sum() / (drawings[0] | drawings[1]).sum()


def tusimple_scores(score):
    return {"accuracy": score.accuracy(), "fp": score.fp(), "fn": score.fn(), "images": score.images}


def test_lane_f1_equals_culane_rules_drawn_on_the_full_canvas():
    scores = LaneF1()
    tp = fp = fn = 0
    for seed in range(6):
        predicted, target = random_scene(seed)
        expected = np.array([[culane_iou(p, t) for t in target] for p in predicted])
        expected = expected.reshape(len(predicted), len(target))
        np.testing.assert_allclose(scores.iou_matrix(predicted, target, CULANE_SIZE), expected, atol=0.012)
        table = expected if len(predicted) <= len(target) else expected.T
        pairings = [
            [table[i, j] for i, j in enumerate(order)] for order in permutations(range(table.shape[1]), table.shape[0])
        ]
        best = max(pairings, key=sum)
        assert all(abs(value - 0.5) > 0.012 for value in best)  # the threshold does not hang on a rounding
        matches = sum(value > 0.5 for value in best)
        tp, fp, fn = tp + matches, fp + len(predicted) - matches, fn + len(target) - matches
        scores.update(predicted, target, CULANE_SIZE)
    assert min(tp, fp, fn) >= 2  # the random scenes hold some of each
    assert (scores.tp, scores.fp, scores.fn) == (tp, fp, fn)
    assert scores.precision() == tp / (tp + fp)
    assert scores.recall() == tp / (tp + fn)
    assert scores.f1() == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_upright_lines_match_up_to_ten_pixels_apart_as_computed_by_hand():
    # OpenCV draws a 30 px line 31 px wide. Shifted by s: IoU = (31 − s) / (31 + s) = 0.512 at 10 px, 0.476 at 11 px.
    scores = LaneF1()
    for shift in (0, 10, 11):
        iou = scores.iou_matrix([straight(800.0 + shift)], [straight(800.0)], CULANE_SIZE)
        assert iou[0, 0] == pytest.approx((31 - shift) / (31 + shift))
        scores.update([straight(800.0 + shift)], [straight(800.0)], CULANE_SIZE)
    assert (scores.tp, scores.fp, scores.fn) == (2, 1, 1)


@pytest.mark.parametrize("size", [(1180, 3280), (295, 820), (256, 512), (590, 1000)])
def test_line_width_is_the_same_share_of_the_image_width_at_every_size(size):
    scale = size[1] / 1640
    a, b = ((straight(x, -300, 4000) + 0.5) * scale - 0.5 for x in (800.0, 807.0))
    assert LaneF1().iou_matrix([a], [b], size)[0, 0] == pytest.approx(24 / 38, abs=1e-3)


def test_every_lane_is_matched_at_most_once():
    scores = LaneF1()
    scores.update([straight(800.0), straight(802.0)], [straight(800.0)], CULANE_SIZE)
    assert (scores.tp, scores.fp, scores.fn) == (1, 1, 0)


def test_the_order_of_lanes_and_the_direction_of_points_do_not_matter():
    predicted, target = random_scene(3)
    assert len(predicted) > 1
    assert len(target) > 1
    forward = LaneF1().iou_matrix(predicted, target, CULANE_SIZE)
    backward = LaneF1().iou_matrix([line[::-1] for line in predicted[::-1]], target, CULANE_SIZE)
    np.testing.assert_allclose(forward, backward[::-1], atol=0.01)


def test_a_curve_through_few_points_matches_the_same_curve_through_many():
    y = np.linspace(100.0, 580.0, 200)
    dense = np.stack([600 + 1e-3 * (y - 100) ** 2, y], axis=1)
    few = dense[[0, 40, 80, 120, 160, 199]]
    assert LaneF1().iou_matrix([few], [dense], CULANE_SIZE)[0, 0] > 0.95
    chord = dense[[0, 199]]  # two points are a straight line, far from the bow in the middle
    assert LaneF1().iou_matrix([chord], [dense], CULANE_SIZE)[0, 0] < 0.6


def test_interpolated_points_follow_a_circle_through_the_level():
    angle = np.radians(np.arange(0, 271, 15))  # three quarters of a circle: no function of x or of y
    points = 100 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    curve = interpolate_lane(points, step=2.0)
    np.testing.assert_allclose(curve[[0, -1]], points[[0, -1]], atol=1e-9)
    radius = np.linalg.norm(curve, axis=1)
    np.testing.assert_allclose(radius, 100, atol=0.4)  # a natural spline has no curvature at its two ends
    np.testing.assert_allclose(radius[40:-40], 100, atol=0.01)
    assert np.linalg.norm(np.diff(curve, axis=0), axis=1).max() <= 2.1


def test_empty_sides_count_as_missed_or_invented_lanes():
    scores = LaneF1()
    scores.update([], [], CULANE_SIZE)
    assert (scores.tp, scores.fp, scores.fn) == (0, 0, 0)
    assert (scores.precision(), scores.recall(), scores.f1()) == (0.0, 0.0, 0.0)
    scores.update([], [straight(10.0), straight(90.0)], CULANE_SIZE)
    scores.update([straight(10.0)], [], CULANE_SIZE)
    assert (scores.tp, scores.fp, scores.fn) == (0, 1, 2)


def test_lanes_without_extent_or_outside_the_image_match_nothing():
    scores = LaneF1()
    nothing = [np.zeros((0, 2)), np.array([[5.0, 5.0]]), np.array([[5.0, 5.0], [5.0, 5.0]]), straight(9000.0)]
    scores.update(nothing, nothing, CULANE_SIZE)
    assert (scores.tp, scores.fp, scores.fn) == (0, 4, 4)


def test_repeated_points_change_nothing():
    _, target = random_scene(3)
    twice = np.repeat(target[0], 2, axis=0)
    assert LaneF1().iou_matrix([twice], [target[0]], CULANE_SIZE)[0, 0] == 1.0


@pytest.mark.parametrize(
    ("lane", "message"),
    [
        (np.zeros((3, 3)), r"shape \(3, 3\), expected \(M, 2\)"),
        (np.array([[0.0, 0.0], [np.nan, 5.0]]), "holds nan, expected finite coordinates"),
        (np.array([[0.0, 0.0], [1e12, 5.0]]), r"holds 1000000000000\.0, expected finite"),
    ],
)
def test_wrong_polylines_are_refused_and_nothing_is_counted(lane, message):
    scores = LaneF1()
    with pytest.raises(ValueError, match=message):
        scores.update([straight(5.0)], [straight(5.0), lane], CULANE_SIZE)
    assert (scores.tp, scores.fp, scores.fn) == (0, 0, 0)


# --- TuSimpleScore ---

ROWS = list(range(240, 720, 10))


def tusimple_by_the_rules(predicted, target, rows, run_time):
    """The benchmark's rules, one loop each."""
    n = len(target)
    if run_time > 200 or len(predicted) > n + 2:
        return 0.0, 0.0, 1.0
    best_scores, missed, found = [], 0, 0
    for lane in target:
        points = [(x, y) for x, y in zip(lane, rows, strict=True) if x >= 0]
        theta = 0.0
        if len(points) >= 2:
            theta = np.arctan(np.polyfit([y for _, y in points], [x for x, _ in points], 1)[0])
        best = 0.0
        for guess in predicted:
            right = 0
            for x, g in zip(lane, guess, strict=True):
                x, g = (v if v >= 0 else -100 for v in (x, g))
                right += abs(x - g) < 20 / np.cos(theta)
            best = max(best, right / len(rows))
        best_scores.append(best)
        if best >= 0.85:
            found += 1
        else:
            missed += 1
    if n > 4:
        best_scores.remove(min(best_scores))
        missed = max(missed - 1, 0)
    return (
        sum(best_scores) / max(min(4, n), 1),
        (len(predicted) - found) / len(predicted) if predicted else 0.0,
        missed / max(min(n, 4), 1),
    )


def tusimple_case(seed):
    rng = np.random.default_rng(seed)
    y = np.array(ROWS)

    def lane(noise_from=None):
        if noise_from is None:
            x = rng.uniform(200, 1000) + rng.uniform(-3, 3) * (y - 240)
            return np.where((x < 0) | (x > 1279) | (y < rng.integers(200, 420)), -2, x.round()).tolist()
        x = np.array(noise_from) + rng.choice([0.0, 15.0, 30.0]) + rng.normal(0, rng.choice([2, 12]), len(y))
        return np.where((np.array(noise_from) < 0) | (rng.random(len(y)) < 0.05), -2, x.round()).tolist()

    target = [lane() for _ in range(rng.integers(0, 7))]
    predicted = [lane(noise_from=line) for line in target if rng.random() < 0.8]
    predicted += [lane() for _ in range(rng.choice([0, 0, 1, 4]))]
    return predicted, target, ROWS, float(rng.choice([20, 200, 201], p=[0.5, 0.4, 0.1]))


def test_tusimple_scores_equal_the_rules_in_plain_loops():
    scores = TuSimpleScore()
    expected = []
    kinds = set()
    for seed in range(120):
        case = tusimple_case(seed)
        predicted, target, _, run_time = case
        expected.append(tusimple_by_the_rules(*case))
        single = TuSimpleScore()
        single.update(*case)
        assert (single.accuracy(), single.fp(), single.fn()) == pytest.approx(expected[-1])
        scores.update(*case)
        kinds |= {
            "slow" * (run_time > 200),
            "too many" * (len(predicted) > len(target) + 2),
            "no lane" * (not target and len(predicted) <= 2),
            "nothing predicted" * (not predicted and bool(target)),
            "more than four" * (len(target) > 4 and expected[-1][2] not in (0.0, 1.0)),
        }
    assert kinds >= {"slow", "too many", "no lane", "nothing predicted", "more than four"}
    assert (scores.accuracy(), scores.fp(), scores.fn()) == pytest.approx(tuple(np.mean(expected, axis=0)))
    assert scores.images == 120


def single_tusimple(predicted, target, rows, run_time_ms=10.0):
    score = TuSimpleScore()
    score.update(predicted, target, rows, run_time_ms)
    return score.accuracy(), score.fp(), score.fn()


def test_tusimple_tolerance_is_below_twenty_pixels_across_the_lane():
    rows = list(range(0, 100, 10))
    upright = [500] * 10
    assert single_tusimple([[519.9] * 10], [upright], rows) == (1.0, 0.0, 0.0)
    assert single_tusimple([[520] * 10], [upright], rows) == (0.0, 1.0, 1.0)
    slanted = [500 + y for y in rows]  # 45°: 20 / cos θ = 28.28
    assert single_tusimple([[x + 28.2 for x in slanted]], [slanted], rows) == (1.0, 0.0, 0.0)
    assert single_tusimple([[x + 28.4 for x in slanted]], [slanted], rows) == (0.0, 1.0, 1.0)


def test_tusimple_counts_rows_absent_on_both_sides_as_right_and_divides_by_all_rows():
    rows = list(range(0, 200, 10))
    target = [-2] * 10 + [500] * 10
    assert single_tusimple([[-2] * 10 + [500] * 10], [target], rows)[0] == 1.0
    assert single_tusimple([[-7] * 10 + [500] * 10], [target], rows)[0] == 1.0  # any negative x is absent
    assert single_tusimple([[10] * 10 + [500] * 10], [target], rows)[0] == 0.5
    assert single_tusimple([[-2] * 20], [target], rows)[0] == 0.5


def test_tusimple_matches_at_eighty_five_percent_exactly():
    rows = list(range(20))
    target = [500] * 20
    assert single_tusimple([[500] * 17 + [900] * 3], [target], rows) == (0.85, 0.0, 0.0)
    assert single_tusimple([[500] * 16 + [900] * 4], [target], rows) == (0.8, 1.0, 1.0)


def test_tusimple_lets_one_prediction_find_two_lanes_so_that_fp_turns_negative():
    assert single_tusimple([[505] * 5], [[500] * 5, [510] * 5], list(range(5))) == (1.0, -1.0, 0.0)


def test_tusimple_forgives_the_worst_of_five_lanes():
    rows = list(range(5))
    lanes = [[100 * i] * 5 for i in range(1, 6)]
    assert single_tusimple(lanes[:4], lanes, rows) == (1.0, 0.0, 0.0)
    assert single_tusimple(lanes[:3], lanes, rows) == (0.75, 0.0, 0.25)
    assert single_tusimple(lanes[:3], lanes[:4], rows) == (0.75, 0.0, 0.25)  # four lanes: nothing is forgiven


def test_tusimple_rejects_slow_or_too_many_predictions():
    rows, lane = list(range(5)), [500] * 5
    assert single_tusimple([lane], [lane], rows, run_time_ms=200.0) == (1.0, 0.0, 0.0)
    assert single_tusimple([lane], [lane], rows, run_time_ms=200.1) == (0.0, 0.0, 1.0)
    assert single_tusimple([lane] * 3, [lane], rows)[0] == 1.0
    assert single_tusimple([lane] * 4, [lane], rows) == (0.0, 0.0, 1.0)
    assert tusimple_scores(TuSimpleScore()) == {"accuracy": 0.0, "fp": 0.0, "fn": 0.0, "images": 0}


def test_tusimple_lanes_of_another_length_than_the_rows_are_refused():
    score = TuSimpleScore()
    with pytest.raises(ValueError, match=r"predicted_lanes\[1\] has 2 points, expected one per row of h_samples: 3"):
        score.update([[1, 2, 3], [1, 2]], [], [0, 10, 20])
    with pytest.raises(ValueError, match=r"target_lanes\[0\] has 4 points"):
        score.update([], [[1, 2, 3, 4]], [0, 10, 20])
    with pytest.raises(ValueError, match="at least one row"):
        score.update([], [], [])
    assert score.images == 0


# --- Centre lines ---

SIZE = (256, 512)


def _curves():
    y, x = np.linspace(120, 255, 2000), np.linspace(20, 480, 2000)
    depth = np.linspace(10, 155, 4000)  # rows below the horizon
    angle = np.linspace(0, np.pi / 2, 3000)
    far = np.linspace(6.4, 155, 6000)
    return {
        "upright": np.stack([np.full_like(y, 200.3), y], axis=1),
        "slanted": np.stack([y - 19.8, y], axis=1),
        "shallow": np.stack([x, 110 + np.tan(np.radians(10)) * (x - 20)], axis=1),
        "level": np.stack([x, np.full_like(x, 150.4)], axis=1),
        "wave": np.stack([250 + 40 * np.sin(depth / 30), depth + 60], axis=1),
        "from level to upright": np.stack([100 + 150 * np.sin(angle), 240 - 150 * np.cos(angle)], axis=1),
        # A lane of a bent road: almost level near the horizon, then turning back past the upright.
        "bent road": np.stack([150 + 0.8 * depth + 1500 / depth, depth + 100], axis=1),
        "sharply bent road": np.stack([40 + 0.5 * far + 3000 / far, far + 100], axis=1),
    }


CURVES = _curves()


def draw(curve, dash=None, width=7, number=1):
    """The curve as a line of an instance mask, the second half of every 2·dash pixels left out."""
    mask = np.zeros(SIZE, np.int32)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    piece = np.zeros(len(curve), int) if dash is None else (along // dash).astype(int)
    for k in range(0, piece.max() + 1, 2):
        points = np.rint(curve[piece == k] * 16).astype(np.int32)
        cv2.polylines(mask, [points[:, None]], False, number, width, cv2.LINE_8, 4)
    return mask, curve[piece % 2 == 0]


def distances(points, curve):
    return np.array([np.linalg.norm(curve - p, axis=1).min() for p in points])


def with_ends(curve):
    """The curve prolonged by the round caps of the drawn line, which are half a line width long."""
    caps = []
    for end, inner in ((curve[0], curve[10]), (curve[-1], curve[-11])):
        outward = (end - inner) / np.linalg.norm(end - inner)
        caps.append(end + outward * np.linspace(0, 3.5, 20)[:, None])
    return np.concatenate([caps[0], curve, caps[1]])


def densely(polyline):
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(polyline, axis=0), axis=1))])
    t = np.arange(0, along[-1], 0.25)
    return np.stack([np.interp(t, along, polyline[:, axis]) for axis in (0, 1)], axis=1)


@pytest.mark.parametrize("name", CURVES)
def test_centre_line_lies_within_a_pixel_of_the_curve_and_covers_it(name):
    mask, curve = draw(CURVES[name])
    (line,) = polylines_from_instances(mask, [1])
    assert distances(line, with_ends(curve)).max() < 1.0
    assert distances(curve[::20], densely(line)).max() < 3.5  # only the ends, half a line width, may be missing
    assert line[0, 1] <= line[-1, 1]


@pytest.mark.parametrize("name", CURVES)
def test_centre_line_of_a_dashed_line_bridges_the_gaps(name):
    mask, visible = draw(CURVES[name], dash=30)
    (line,) = polylines_from_instances(mask, [1])
    assert distances(line, with_ends(CURVES[name])).max() < 1.0
    inner = visible[: -len(visible) // 6 : 20]  # the last dash may be a stump
    assert distances(inner, densely(line)).max() < 3.5


def test_a_line_that_leaves_the_image_is_followed_to_the_edge():
    y = np.linspace(-20, 275, 3000)
    (line,) = polylines_from_instances(draw(np.stack([80 + 0.5 * y, y], axis=1))[0], [1])
    assert line[0, 1] < 4
    assert line[-1, 1] > 251
    assert np.abs(line[:, 0] - 80 - 0.5 * line[:, 1]).max() < 1.0


def test_centre_lines_come_in_the_order_of_the_ids_and_small_instances_do_no_harm():
    left, right = draw(CURVES["upright"], number=300)[0], draw(CURVES["upright"] + [90, 0], number=2)[0]
    mask = left + right
    mask[10, 10] = 7
    mask[20, 30:32] = 8
    lines = polylines_from_instances(mask, [2, 300, 9, 7, 8])
    assert lines[0][:, 0].mean() == pytest.approx(290.3, abs=0.6)
    assert lines[1][:, 0].mean() == pytest.approx(200.3, abs=0.6)
    assert lines[2].shape == (0, 2)
    np.testing.assert_array_equal(lines[3], [[10, 10]])
    np.testing.assert_array_equal(lines[4], [[30.5, 20]])
    assert polylines_from_instances(mask, []) == []


def test_centre_lines_of_a_mask_score_as_the_true_curves():
    curves = [CURVES["shallow"], CURVES["bent road"] + [60, 0]]
    mask = np.maximum(draw(curves[0])[0], draw(curves[1], number=2)[0])
    scores = LaneF1()
    scores.update(polylines_from_instances(mask, [1, 2]), [c[::40] for c in curves], SIZE)
    assert scores.f1() == 1.0
    assert scores.iou_matrix(polylines_from_instances(mask, [1, 2]), [c[::40] for c in curves], SIZE).max() > 0.8
