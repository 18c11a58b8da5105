"""The simulations behind the widgets: they are the library's loss and nothing else."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import nn

from roadtopo_lib.course import samples
from roadtopo_lib.course.playground import (
    FAILURES,
    MOVED,
    STARTS,
    EmbeddingPlayground,
    FrameMoments,
    Margins,
    floor_on_sphere,
    loss_curves,
)
from roadtopo_lib.course.playground.clustering import adjusted_rand_index
from roadtopo_lib.course.playground.shaping import PIXELS
from roadtopo_lib.losses import DiceLoss, DiscriminativeLoss, FocalLoss, TverskyLoss


@pytest.mark.parametrize("clusters", [1, 3, 60])
def test_the_rand_index_is_scikit_learns_with_the_unclustered_alone(clusters):
    random = np.random.default_rng(clusters)
    true, labels = random.integers(3, 9, 60), random.integers(-1, clusters, 60)
    alone = np.where(labels < 0, 100 + np.arange(60), labels)
    assert adjusted_rand_index(true, labels) == pytest.approx(adjusted_rand_score(true, alone))
    assert adjusted_rand_index(true, true) == adjusted_rand_index(true[:1], true[:1]) == 1


class TestSeparation:
    @pytest.mark.parametrize("start", STARTS)
    @pytest.mark.parametrize("dim", [2, 32])
    @pytest.mark.parametrize("normalize", [False, True])
    def test_the_loss_falls_step_by_step(self, start, dim, normalize):
        playground = EmbeddingPlayground(lanes=4, dim=dim, start=start, margins=Margins(normalize=normalize))
        playground.step(300)
        losses = [row["loss"] for row in playground.history]
        assert losses[-1] < 0.7 * losses[0]
        assert all(after <= before + 1e-3 for before, after in itertools.pairwise(losses))

    def test_two_points_end_where_push_and_regularisation_balance(self):
        # C = 2 without spread: β (2 δ_dist − d)² + γ d / 2 is least at d = 2 δ_dist − γ / (4 β).
        margins = Margins(delta_dist=1.5, beta=0.8, gamma=0.4)
        playground = EmbeddingPlayground(lanes=2, points=2, spread=0.0, margins=margins)
        playground.step(3000)
        assert playground.state().smallest_gap == pytest.approx(3.0 - 0.4 / (4 * 0.8), abs=2e-3)

    @pytest.mark.parametrize("lanes", range(2, 9))
    def test_on_the_sphere_the_push_ends_at_the_floor_of_the_formula(self, lanes):
        playground = EmbeddingPlayground(lanes=lanes, dim=32, points=10, margins=Margins(normalize=True, gamma=0.0))
        playground.step(600)
        state = playground.state()
        assert state.terms["distance"] == pytest.approx(playground.floor(), abs=0.01)
        assert playground.floor() == pytest.approx((3 - math.sqrt(2 * lanes / (lanes - 1))) ** 2)
        assert np.allclose(np.linalg.norm(state.points, axis=1), 1, atol=1e-5)

    def test_off_the_sphere_and_for_margins_that_fit_there_is_no_floor(self):
        assert EmbeddingPlayground(lanes=5).floor() == 0
        assert floor_on_sphere(5, 0.7) == floor_on_sphere(1, 1.5) == floor_on_sphere(0, 1.5) == 0

    @pytest.mark.parametrize("normalize", [False, True])
    def test_forces_are_minus_the_gradient_of_the_librarys_loss(self, normalize):
        margins = Margins(delta_var=0.3, delta_dist=1.0, alpha=0.7, beta=1.3, gamma=0.2, normalize=normalize)
        playground = EmbeddingPlayground(lanes=3, points=5, dim=3, margins=margins)
        state = playground.state()

        def loss(points: np.ndarray) -> float:
            x = torch.from_numpy(points)
            x = nn.functional.normalize(x, dim=1) if normalize else x
            mask = torch.from_numpy(state.lanes + 1)[None, None]
            return DiscriminativeLoss(0.3, 1.0, 0.7, 1.3, 0.2)(x.T[None, :, None], mask)[0].item()

        points = state.points.astype(np.float64)
        for row, column in ((0, 0), (7, 1), (14, 2)):
            ahead, behind = points.copy(), points.copy()
            ahead[row, column] += 1e-5
            behind[row, column] -= 1e-5
            slope = (loss(ahead) - loss(behind)) / 2e-5
            assert state.forces[row, column] == pytest.approx(-len(points) * slope, abs=1e-3)

    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("lanes", [1, 2, 5])
    def test_steps_follow_the_librarys_gradient(self, normalize, lanes):
        margins = Margins(delta_var=0.3, delta_dist=1.0, alpha=0.7, beta=1.3, gamma=0.2, normalize=normalize)
        playground = EmbeddingPlayground(lanes, points=7, dim=4, margins=margins)
        for _ in range(3):
            state = playground.state()
            assert state.loss == pytest.approx(playground.history[-1]["loss"], abs=1e-5)
            for name, value in state.terms.items():
                assert value == pytest.approx(playground.history[-1][name], abs=1e-5)
            expected = torch.from_numpy(state.points + playground.rate() * state.forces)
            expected = nn.functional.normalize(expected, dim=1) if normalize else expected
            playground.step()
            np.testing.assert_allclose(playground.state().points, expected, atol=1e-5)

    def test_reset_and_the_same_seed_begin_alike_and_another_seed_does_not(self):
        playground = EmbeddingPlayground(seed=1)
        before = playground.state()
        playground.step(20)
        assert not np.allclose(playground.state().points, before.points)
        playground.reset()
        assert playground.state().step == 0
        assert len(playground.history) == 1
        np.testing.assert_array_equal(playground.state().points, before.points)
        assert not np.allclose(EmbeddingPlayground(seed=2).state().points, before.points)

    def test_other_margins_move_on_from_where_the_points_are(self):
        playground = EmbeddingPlayground(lanes=3)
        playground.step(300)
        wide = playground.state().smallest_gap
        playground.set_margins(delta_dist=2.5)
        assert playground.state().step == 300
        assert len(playground.history) == 301
        assert playground.history[-1]["distance"] > 1  # told anew at once
        playground.step(300)
        assert playground.state().smallest_gap > wide + 1
        playground.set_margins(normalize=True)
        assert np.allclose(np.linalg.norm(playground.state().points, axis=1), 1, atol=1e-5)

    @pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 3.0])
    def test_the_push_stops_at_its_margin_whatever_its_weight(self, beta):
        playground = EmbeddingPlayground(lanes=2, margins=Margins(beta=beta))
        playground.step(600)
        assert playground.state().smallest_gap == pytest.approx(3.0, abs=0.02)

    @pytest.mark.parametrize("weights", [{"alpha": 1e3}, {"beta": 1e3}, {"gamma": 1e3}, {"delta_dist": 1e3}])
    def test_absurd_weights_stay_finite(self, weights):
        playground = EmbeddingPlayground(margins=Margins(**weights))
        playground.step(200)
        assert np.isfinite(playground.state().points).all()

    def test_the_plane_of_a_32_d_run_turns_slowly(self):
        playground = EmbeddingPlayground(lanes=5, dim=32)
        seen = []
        for _ in range(60):
            state = playground.state()
            seen.append(state.means @ state.plane)
            np.testing.assert_allclose(state.plane.T @ state.plane, np.eye(2), atol=1e-5)
            playground.step(3)
        jumps = [np.abs(after - before).max() for before, after in itertools.pairwise(seen)]
        assert max(jumps[1:]) < 0.2
        assert jumps[0] < 1

    def test_trained_lanes_are_found_and_the_verdict_says_why(self):
        playground = EmbeddingPlayground(lanes=5, dim=32)
        assert playground.clusters().ari < 0.9
        playground.step(300)
        found = playground.clusters()
        assert found.count == 5
        assert found.ari == 1.0
        assert re.fullmatch(
            r"all 5 lanes found: radius 1.50 is among the safe radii, (1.00|0.9\d) to 2.0\d", found.verdict
        ), found.verdict

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("radius too large", r"merged 5 lanes: radius 3.50 is above the safe radii, \d\.\d\d to \d\.\d\d"),
            ("radius too small", "(without a cluster|split.*): radius 0.10 is below the safe radii, "),
            ("no push", "merged [2-5] lanes: no radius is safe where points stray 0.50"),
        ],
    )
    def test_classic_failures_get_their_verdict(self, name, part):
        margins, radius = FAILURES[name]
        playground = EmbeddingPlayground(lanes=5, dim=32, margins=margins)
        playground.step(300)
        found = playground.clusters(radius)
        assert re.search(part, found.verdict), found.verdict
        assert found.ari < 1

    def test_the_verdict_owns_up_where_lanes_are_found_without_a_safe_radius(self):
        playground = EmbeddingPlayground(lanes=5, dim=32, spread=1.0, margins=Margins(alpha=0.0))
        playground.step(300)
        assert playground.clusters().verdict.startswith("all 5 lanes found, although no radius is safe where points")

    @pytest.mark.parametrize(
        "wrong", [{"lanes": 0}, {"lanes": 9}, {"points": 1}, {"dim": 1}, {"spread": -1}, {"start": "elsewhere"}]
    )
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EmbeddingPlayground(**wrong)


class TestShaping:
    def test_curves_are_the_librarys_losses(self):
        curves = loss_curves(rare_share=0.05, rest=0.8, gamma=1.5, alpha=0.2, beta=0.6, probabilities=[0.3])
        foreground = torch.full((PIXELS,), 0.2, dtype=torch.float64)
        foreground[:50] = 0.3
        logits = torch.stack([1 - foreground, foreground]).log()[None, :, None]
        target = torch.zeros(1, 1, PIXELS, dtype=torch.int64)
        target[..., :50] = 1
        for name, criterion in {
            "cross-entropy": nn.CrossEntropyLoss(),
            "Dice": DiceLoss(),
            "focal": FocalLoss(gamma=1.5),
            "Tversky": TverskyLoss(alpha=0.2, beta=0.6),
        }.items():
            assert curves.loss[name][0] == pytest.approx(criterion(logits, target).item(), abs=1e-9)

    def test_the_gradient_of_cross_entropy_is_what_is_missing_to_one(self):
        curves = loss_curves(moved="one pixel")
        np.testing.assert_allclose(curves.gradient["cross-entropy"], 1 - curves.probability, atol=1e-9)

    @pytest.mark.parametrize("moved", MOVED)
    def test_the_gradient_is_the_slope_of_the_loss(self, moved):
        p = 0.4
        step = 1e-6
        around = loss_curves(moved=moved, rare_share=0.02, probabilities=[p - step, p, p + step])
        moving = 1 if moved == "one pixel" else around.rare
        for name, loss in around.loss.items():
            # dp/dz = p (1 − p); all moving pixels share the change.
            slope = (loss[2] - loss[0]) / (2 * step) * p * (1 - p) / moving
            assert around.gradient[name][1] == pytest.approx(-1000 * slope, rel=1e-4)

    def test_rarity_dims_cross_entropy_but_not_dice(self):
        rare, common = loss_curves(rare_share=0.01), loss_curves(rare_share=0.5)
        assert rare.loss["cross-entropy"][0] < 0.1 * common.loss["cross-entropy"][0]
        assert rare.loss["Dice"][0] > 0.4

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"rare_share": 0.7}, "rare_share is 0.7"),
            ({"rest": 1.0}, "above 0 and below 1"),
            ({"others": 0.0}, "above 0 and below 1"),
            ({"moved": "all"}, "moved is 'all'"),
            ({"probabilities": [0.0]}, "above 0 and below 1"),
        ],
    )
    def test_nonsense_is_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            loss_curves(**wrong)


def synthetic_moments(first_row: int = 8) -> FrameMoments:
    """Three vertical lanes; embeddings all alike at moment 0, apart at moment 1."""
    instance = np.zeros((40, 60), dtype=np.uint16)
    for lane, column in enumerate((10, 30, 50), start=1):
        instance[first_row:, column - 2 : column + 2] = lane
    semantic = np.where(instance > 0, 2, 0).astype(np.uint8)
    embeddings = np.zeros((2, 4, 32, 60), dtype=np.float32)
    embeddings += 0.01 * np.random.default_rng(0).standard_normal(embeddings.shape)
    for lane, column in enumerate((10, 30, 50)):
        embeddings[1, lane, :, column - 8 : column + 8] += 3
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    return FrameMoments(image, semantic, instance, embeddings, np.array([0, 100]), first_row)


class TestFrame:
    def test_lanes_part_between_the_moments(self):
        moments = synthetic_moments()
        assert moments.lanes == [1, 2, 3]
        ids, before = moments.separate(0, radius=1.5)
        assert before.ari == pytest.approx(0, abs=1e-9)
        assert set(np.unique(ids)) == {0, 1}
        ids, after = moments.separate(1, radius=1.5)
        assert after.ari == 1
        np.testing.assert_array_equal(ids, moments.instance_mask)
        assert set(after.lanes) == {1, 2, 3}
        means = np.stack([after.xy[after.lanes == lane].mean(axis=0) for lane in (1, 2, 3)])
        nearest = 1 + np.linalg.norm(after.xy[:, None] - means, axis=2).argmin(axis=1)
        np.testing.assert_array_equal(nearest, after.lanes)  # every point is shown with its own lane
        assert moments.smallest_gap(1) == pytest.approx(3 * math.sqrt(2), rel=0.02)
        assert moments.smallest_gap(0) < 0.1

    def test_embeddings_are_read_in_the_rows_of_their_pixels(self):
        rows, instance = np.arange(40), np.zeros((40, 60), dtype=np.uint16)
        instance[8:20], instance[24:40] = 1, 2
        semantic = np.where(instance > 0, 2, 0).astype(np.uint8)
        embeddings = np.zeros((1, 2, 32, 60), dtype=np.float32)
        embeddings[0, 0] = rows[8:, None]  # the map begins at row 8 and tells every pixel's row
        moments = FrameMoments(np.zeros((40, 60, 3), np.uint8), semantic, instance, embeddings, np.array([0]), 8)
        assert moments.smallest_gap(0) == pytest.approx(rows[24:].mean() - rows[8:20].mean(), abs=1e-4)

    def test_a_radius_beyond_the_gap_joins_them(self):
        assert synthetic_moments().separate(1, radius=6.0)[1].ari < 0.5

    def test_points_lie_within_reach_of_their_centre(self):
        moments = synthetic_moments()
        for moment in range(2):
            xy = moments.separate(moment, 1.5)[1].xy
            np.testing.assert_allclose(xy.mean(axis=0), 0, atol=1e-4)
            assert (np.abs(xy) < moments.reach).all()

    def test_the_samples_hold_a_run_in_which_the_lanes_part(self):
        moments = FrameMoments.load(samples())
        assert moments.steps[0] == 0
        assert len(moments.steps) >= 5
        scores = [moments.separate(t, 1.5)[1].ari for t in range(len(moments.steps))]
        assert scores[0] < 0.5 < 0.9 < scores[-1]

    def test_wrong_shapes_and_files_are_refused(self, tmp_path):
        good = synthetic_moments()
        parts = (good.image, good.semantic_mask, good.instance_mask, good.embeddings.numpy(), good.steps, 8)
        with pytest.raises(ValueError, match="semantic mask"):
            FrameMoments(parts[0], parts[1][:-1], *parts[2:])
        with pytest.raises(ValueError, match="steps"):
            FrameMoments(*parts[:4], np.array([0]), 8)
        with pytest.raises(FileNotFoundError, match="no such file"):
            FrameMoments.load(tmp_path)
