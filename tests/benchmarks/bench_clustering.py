"""How much faster the default clustering is than scikit-learn's DBSCAN, and whether it finds the same lanes.

Run from the repository: ``python tests/benchmarks/bench_clustering.py``. Points are Gaussian blobs as the
discriminative loss makes them (means at least 3 apart, sizes from 1 to 50 in a geometric series), shuffled.
"""

import statistics
import time

import numpy as np
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from roadtopo_lib.postprocess import cluster_embeddings

TARGET_RATIO = 300
TARGET_ARI = 0.99
POINTS, DIM = 20_000, 32
RADIUS = 0.5
SIZE_RATIO = 50
MEAN_DISTANCE = 3.0


def lane_blobs(lanes: int, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of lanes whose sizes run from 1 to 50.

    Args:
        lanes: number of blobs.
        noise: standard deviation per dimension; 0.05 puts the pixels 0.28 from their mean.
        seed: of everything random.

    Returns:
        embeddings: (20000, 32) float32.
        truth: (20000,) the lane of each.
    """
    rng = np.random.default_rng(seed)
    share = np.geomspace(1, SIZE_RATIO, lanes)
    bounds = np.round(np.cumsum(share) / share.sum() * POINTS).astype(int)
    means = np.empty((0, DIM))
    while len(means) < lanes:
        mean = rng.normal(0, 0.5, DIM)
        if (np.linalg.norm(means - mean, axis=1) >= MEAN_DISTANCE).all():
            means = np.vstack([means, mean])
    truth = rng.permutation(np.searchsorted(bounds, np.arange(POINTS), side="right"))
    return (means[truth] + rng.normal(0, noise, (POINTS, DIM))).astype(np.float32), truth


def compare_with_dbscan(lanes: int, noise: float = 0.05, seed: int = 0, repeats: int = 30) -> dict[str, float]:
    """Time both on the same points.

    Args:
        lanes: number of blobs.
        noise: standard deviation per dimension.
        seed: of the points.
        repeats: timed runs of ours, whose median counts; DBSCAN runs once.

    Returns:
        ``ms`` and ``dbscan_ms``, ``ratio`` of the two, ``ari`` against the truth and ``ari_dbscan`` against DBSCAN.
    """
    x, truth = lane_blobs(lanes, noise, seed)
    start = time.perf_counter()
    dbscan = DBSCAN(eps=0.5, min_samples=10).fit_predict(x)
    dbscan_ms = 1000 * (time.perf_counter() - start)
    times = []
    for _ in range(3 + repeats):
        start = time.perf_counter()
        labels = cluster_embeddings(x, RADIUS)
        times.append(1000 * (time.perf_counter() - start))
    ms = statistics.median(times[3:])  # the first runs warm caches
    return {
        "ms": ms,
        "dbscan_ms": dbscan_ms,
        "ratio": dbscan_ms / ms,
        "ari": adjusted_rand_score(truth, labels),
        "ari_dbscan": adjusted_rand_score(dbscan, labels),
    }


if __name__ == "__main__":
    for count in (5, 20):
        for noise_level in (0.03, 0.05, 0.06):
            row = compare_with_dbscan(count, noise_level)
            print(
                f"{count:2d} lanes, noise {noise_level}: {row['ms']:.1f} ms against {row['dbscan_ms']:.0f} ms, "
                f"{row['ratio']:.0f} × faster (target {TARGET_RATIO}), "
                f"ARI {row['ari']:.4f} to the truth, {row['ari_dbscan']:.4f} to DBSCAN (target {TARGET_ARI})"
            )
