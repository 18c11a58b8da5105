"""Clustering of embeddings: the default method against the truth, against scikit-learn, and where DBSCAN fails."""

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, MeanShift
from sklearn.metrics import adjusted_rand_score

from roadtopo_lib.postprocess import cluster_embeddings, radius_from_margins
from roadtopo_lib.postprocess.clustering import spread


def separated_means(rng: np.random.Generator, count: int, dim: int, distance: float) -> np.ndarray:
    """(count, dim) points that are at least ``distance`` apart."""
    means = np.empty((0, dim))
    while len(means) < count:
        mean = rng.normal(0, distance * (count ** (1 / dim)) / np.sqrt(dim), dim)
        if (np.linalg.norm(means - mean, axis=1) >= distance).all():
            means = np.vstack([means, mean])
    return means


def blobs(sizes, dim=32, noise=0.05, distance=3.0, seed=0):
    """Shuffled Gaussian blobs: (N, dim) float32 and (N,) truth."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = separated_means(rng, len(sizes), dim, distance)
    return (means[truth] + rng.normal(0, noise, (len(truth), dim))).astype(np.float32), truth


def geometric_sizes(total: int, count: int, ratio: float) -> np.ndarray:
    share = np.geomspace(1, ratio, count)
    return np.maximum(np.round(share / share.sum() * total), 1).astype(int)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return adjusted_rand_score(a, b) == 1.0


@pytest.mark.parametrize("lanes", [1, 2, 5, 20])
@pytest.mark.parametrize("radius", [0.5, 0.75, 1.0, 1.5])
def test_every_radius_between_the_margins_finds_the_lanes(lanes, radius):
    x, truth = blobs(geometric_sizes(4000, lanes, 50), seed=lanes)
    labels = cluster_embeddings(x, radius)
    assert labels.shape == (len(x),)
    assert labels.dtype == np.int64
    assert set(labels) == set(range(lanes))
    assert same_partition(truth, labels)


@pytest.mark.parametrize("noise", [0.03, 0.05, 0.06])
def test_partition_equals_that_of_dbscan_where_dbscan_is_right(noise):
    x, truth = blobs(geometric_sizes(3000, 6, 20), noise=noise)
    dbscan = DBSCAN(eps=0.5, min_samples=10).fit_predict(x)
    assert same_partition(truth, dbscan)
    assert same_partition(dbscan, cluster_embeddings(x, 0.5))


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_few_dimensions_work_as_well(dim):
    x, truth = blobs([900, 300, 100, 50], dim=dim, noise=0.5 / 3, distance=3.2)
    for radius in (0.75, 1.0, 1.5):
        assert adjusted_rand_score(truth, cluster_embeddings(x, radius)) >= 0.99


def lanes_at_the_margin(shape: str, dim: int, seed: int, sizes=(40, 77, 147, 283, 543, 1042, 2000)):
    """Lanes that just keep the margins 0.5 and 1.5: all pixels up to 0.5 from their mean, means 3.0 apart."""
    rng = np.random.default_rng(seed)
    angle = np.arange(6) * np.pi / 3  # in a plane: six lanes around one
    means = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    means = np.concatenate([[[0, 0]], means]) if dim == 2 else np.eye(7, dim) * 3 / np.sqrt(2)
    truth = rng.permutation(np.repeat(np.arange(7), sizes))
    if shape == "knots":  # half of the pixels as near as may be to another lane, half on the opposite side
        step = (means[[1, *[0] * 6]] - means)[truth] * rng.choice([-1, 1], (len(truth), 1))
    else:
        step = rng.normal(size=(len(truth), dim))
    step *= 0.5 / np.linalg.norm(step, axis=1, keepdims=True)
    return (means[truth] + step * (rng.random((len(truth), 1)) ** (1 / dim) if shape == "ball" else 1)), truth


@pytest.mark.parametrize("shape", ["ball", "sphere", "knots"])
@pytest.mark.parametrize("dim", [2, 32])
def test_every_radius_of_the_rule_finds_lanes_that_just_keep_the_margins(shape, dim):
    for seed in range(13):
        x, truth = lanes_at_the_margin(shape, dim, seed)
        for radius in (1.05, 1.3, 1.5, 1.55, 1.6, 1.95):  # more than 2 · 0.5, less than 2 · (1.5 − 0.5)
            assert same_partition(truth, cluster_embeddings(x, radius)), (seed, radius)


@pytest.mark.parametrize("dim", [2, 32])
def test_a_radius_below_the_rule_may_split_every_lane(dim):
    x, _ = lanes_at_the_margin("knots", dim, 0, sizes=[400] * 7)
    assert len(set(cluster_embeddings(x, 0.95))) == 14


def test_a_radius_above_the_rule_may_merge_lanes():
    x, truth = lanes_at_the_margin("knots", 2, 0, sizes=[400] * 7)
    labels = cluster_embeddings(x, 2.3)
    assert any(len(set(truth[labels == label])) > 1 for label in set(labels))


def test_points_on_the_edge_of_the_margin_are_found_in_32_dimensions():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 1000)
    step = rng.normal(size=(4000, 32))
    step *= 0.5 / np.linalg.norm(step, axis=1, keepdims=True)  # every point exactly 0.5 from its mean, 0.7 from others
    x = separated_means(rng, 4, 32, 3.0)[truth] + step
    for radius in (0.55, 1.0, 1.5):
        assert adjusted_rand_score(truth, cluster_embeddings(x, radius)) >= 0.99


@pytest.mark.parametrize("seed", range(5))
def test_a_lane_a_hundred_times_smaller_than_another_is_found(seed):
    x, truth = blobs(geometric_sizes(20_000, 12, 100), seed=seed)
    assert same_partition(truth, cluster_embeddings(x, 1.5))


@pytest.mark.parametrize("radius", [0.7, 1.0, 1.5])
def test_a_bridge_of_stray_pixels_does_not_join_two_lanes_although_dbscan_does(radius):
    rng = np.random.default_rng(0)
    x, truth = blobs([1500, 1000], distance=3.2, noise=0.04)
    a, b = x[truth == 0].mean(axis=0), x[truth == 1].mean(axis=0)
    position = rng.random((120, 1))
    bridge = a + position * (b - a) + rng.normal(0, 0.02, (120, 32))
    with_bridge = np.concatenate([x, bridge]).astype(np.float32)

    dbscan = DBSCAN(eps=0.5, min_samples=10).fit_predict(with_bridge)[: len(x)]
    assert len(set(dbscan)) == 1
    labels = cluster_embeddings(with_bridge, radius)[: len(x)]
    assert adjusted_rand_score(truth, labels) >= 0.99


@pytest.mark.parametrize(("share", "lanes"), [(0.3, 2), (0.7, 1)])
def test_two_peaks_are_one_lane_where_the_density_between_them_is_half_of_theirs(share, lanes):
    rng = np.random.default_rng(0)
    between = np.linspace(0.9, 1.6, int(1000 * share))  # halfway, as wide as a window in which density is counted
    x = np.zeros((2000 + len(between), 8))
    x[:, 0] = np.concatenate([np.zeros(1000), between, np.full(1000, 2.5)])
    x = rng.permutation(x + rng.normal(0, 0.02, x.shape))
    assert len(set(cluster_embeddings(x, 1.5))) == lanes


def test_a_lane_found_late_gets_the_pixels_that_its_large_neighbour_has_claimed():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.02, (20_040, 32))
    small = np.zeros(len(x), dtype=bool)
    small[np.setdiff1d(np.arange(0, 20_000, 499), spread(len(x), 192))[:40]] = True  # none of them in the first sample
    x[small, 0] += np.linspace(1.2, 2.8, 40)  # a quarter of them within the radius of the large lane's mean
    labels = cluster_embeddings(x, 1.5)
    nearer = small & (x[:, 0] > 1.25)
    assert len(set(labels[nearer])) == 1
    assert set(labels[nearer]) != set(labels[~small])


@pytest.mark.parametrize("radius", [0.7, 1.0])
def test_a_lane_longer_than_the_radius_stays_one_lane(radius):
    rng = np.random.default_rng(0)
    direction = np.eye(32)[:2]
    x = np.concatenate([rng.uniform(-1.5, 1.5, (2000, 1)) * direction[:1], 6 * direction[1:] + np.zeros((500, 1))])
    x = x + rng.normal(0, 0.05, x.shape)
    truth = np.repeat([0, 1], [2000, 500])
    assert adjusted_rand_score(truth, cluster_embeddings(x, radius)) >= 0.98


def test_two_lanes_closer_than_trained_for_stay_apart():
    x, truth = blobs([800, 400, 200], distance=1.8, noise=0.04)
    x = x * np.float32(1.8 / np.linalg.norm(x[truth == 0].mean(axis=0) - x[truth == 1].mean(axis=0)))
    assert adjusted_rand_score(truth, cluster_embeddings(x, 1.0)) >= 0.99


def test_outliers_between_the_lanes_get_no_label_and_cost_no_lane():
    rng = np.random.default_rng(0)
    x, truth = blobs(geometric_sizes(5000, 8, 30))
    outliers = rng.uniform(x.min(axis=0), x.max(axis=0), (250, 32)).astype(np.float32)
    labels = cluster_embeddings(np.concatenate([x, outliers]), 1.0)
    assert same_partition(truth, labels[: len(x)])
    assert (labels[len(x) :] == -1).mean() > 0.95


def test_points_farther_than_the_documented_bound_are_none_and_nearer_ones_are_not():
    x = np.zeros((102, 4))
    x[100, 0] = 1.40  # √2 · radius = 1.414
    x[101, 1] = 1.43
    labels = cluster_embeddings(x, 1.0)
    assert labels[:101].tolist() == [0] * 101
    assert labels[101] == -1


@pytest.mark.parametrize("order", ["raster", "sorted", "reversed"])
def test_the_order_of_the_points_does_not_change_the_partition(order):
    x, truth = blobs(geometric_sizes(6000, 6, 40))
    labels = cluster_embeddings(x, 1.0)
    new = {"sorted": np.argsort(truth, kind="stable"), "reversed": np.arange(len(x))[::-1]}
    # raster: as if every image row held the same pixels, the case in which a plain stride sees one lane only
    new["raster"] = np.argsort(np.arange(len(x)) % 60, kind="stable")
    assert same_partition(labels[new[order]], cluster_embeddings(x[new[order]], 1.0))


def test_the_sample_sees_every_lane_although_every_row_holds_the_same_pixels():
    lane = np.tile(np.repeat(np.arange(4), 5), 960)  # 960 rows of 20 pixels, 5 per lane; a plain stride is 100 pixels
    sample = spread(len(lane), 192)
    assert np.all(np.bincount(lane[sample], minlength=4) > 192 / 8)
    assert len(set(sample)) == 192
    assert np.all(np.diff(sample) > 0)


def test_calling_twice_gives_the_same_labels():
    x, _ = blobs(geometric_sizes(5000, 10, 50))
    np.testing.assert_array_equal(cluster_embeddings(x, 0.7), cluster_embeddings(x.copy(), 0.7))


@pytest.mark.parametrize("method", ["fast", "meanshift", "dbscan"])
def test_no_points_give_no_labels(method):
    labels = cluster_embeddings(np.empty((0, 32), dtype=np.float32), 1.5, method)
    assert labels.shape == (0,)
    assert labels.dtype == np.int64


def test_one_point_is_one_cluster():
    assert cluster_embeddings(np.full((1, 32), 7.0), 1.5).tolist() == [0]


@pytest.mark.parametrize(("distance", "clusters"), [(0.0, 1), (0.5, 1), (3.0, 2)])
def test_two_points_are_one_or_two_clusters(distance, clusters):
    x = np.array([[0.0, 0.0], [distance, 0.0]])
    labels = cluster_embeddings(x, 1.5)
    assert sorted(set(labels)) == list(range(clusters))


def test_identical_points_are_one_cluster():
    assert set(cluster_embeddings(np.ones((3000, 8), dtype=np.float32), 0.5)) == {0}


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_cloud_far_from_the_origin_is_clustered_all_the_same(offset):
    x, truth = blobs([500, 300, 20])
    assert same_partition(truth, cluster_embeddings(x.astype(np.float64) + offset, 1.0))


def test_one_point_at_the_end_of_the_world_does_not_disturb_the_others():
    x, truth = blobs([500, 300, 20])
    far = np.concatenate([x, np.full((1, 32), 1e10, dtype=np.float32)])
    labels = cluster_embeddings(far, 1.0)
    assert same_partition(truth, labels[:-1])
    assert labels[-1] == -1


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64, np.float16, np.float64])
def test_every_floating_type_is_accepted(kind):
    x, truth = blobs([400, 200, 50], dim=8)
    x = torch.from_numpy(x).to(kind).requires_grad_() if isinstance(kind, torch.dtype) else x.astype(kind)
    assert same_partition(truth, cluster_embeddings(x, 1.0))


def test_a_transposed_array_gives_the_same_labels():
    x, _ = blobs([400, 200, 50])
    np.testing.assert_array_equal(cluster_embeddings(x, 1.0), cluster_embeddings(np.asfortranarray(x), 1.0))


def test_the_input_is_left_as_it_was():
    x, _ = blobs([400, 200], dim=4)
    x = x + 1000
    before = x.copy()
    cluster_embeddings(x, 0.5)
    np.testing.assert_array_equal(x, before)


def test_dbscan_by_name_is_scikit_learns():
    x, _ = blobs([300, 100, 8])
    np.testing.assert_array_equal(cluster_embeddings(x, 0.5, "dbscan"), DBSCAN(eps=0.5, min_samples=10).fit_predict(x))


def test_meanshift_by_name_is_scikit_learns_and_labels_orphans_as_none():
    x, truth = blobs([60, 40], dim=4)
    x = np.concatenate([x, [[50, 50, 50, 50]]]).astype(np.float32)
    labels = cluster_embeddings(x, 1.0, "meanshift")
    assert same_partition(labels, MeanShift(bandwidth=1.0, cluster_all=False).fit_predict(x))
    assert same_partition(truth, labels[:-1])


def test_default_radius_lies_between_the_margins():
    for delta_var, delta_dist in [(0.5, 1.5), (0.1, 0.2), (0.0, 1.0)]:
        radius = radius_from_margins(delta_var, delta_dist)
        assert delta_var < radius < 2 * delta_dist - delta_var


def test_default_radius_is_the_papers():
    assert radius_from_margins(0.5, 1.5) == 1.5


@pytest.mark.parametrize(("delta_var", "delta_dist"), [(0.5, 0.5), (1.0, 0.5), (-0.1, 1.0), (0.5, float("nan"))])
def test_margins_without_room_are_refused(delta_var, delta_dist):
    with pytest.raises(ValueError, match=r"delta_\w+ must"):
        radius_from_margins(delta_var, delta_dist)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_not_positive_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be positive"):
        cluster_embeddings(np.zeros((3, 2)), radius)


@pytest.mark.parametrize("method", ["kmeans", "", "Fast"])
def test_an_unknown_method_is_refused_and_the_known_ones_named(method):
    with pytest.raises(ValueError, match=r"fast.*meanshift.*dbscan"):
        cluster_embeddings(np.zeros((3, 2)), 1.0, method)


@pytest.mark.parametrize("x", [np.zeros(3), np.zeros((3, 2, 1)), np.zeros((3, 0))])
def test_another_shape_is_refused(x):
    with pytest.raises(ValueError, match=r"shape \(N, D\)"):
        cluster_embeddings(x, 1.0)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="floating type"):
        cluster_embeddings(np.zeros((3, 2), dtype=np.int64), 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["fast", "meanshift", "dbscan"])
def test_values_that_are_not_finite_are_refused(bad, method):
    x = np.zeros((20, 2))
    x[7, 1] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity|finite"):
        cluster_embeddings(x, 1.0, method)
