"""From pixel embeddings to clusters: one cluster per lane, without knowing how many lanes there are.

Where the discriminative loss is zero, two pixels of one lane are at most ``2 * delta_var`` apart, and two pixels of
different lanes at least ``2 * (delta_dist - delta_var)``. A radius between the two is safe: around *any* pixel of a
lane, the ball holds the whole lane and nothing else. ``delta_dist`` is the middle: 1.5 between 1.0 and 2.0 for the
margins 0.5 and 1.5. Below the range a lane may be split, above it two lanes may be merged.

``method="fast"`` does this in four steps (N pixels, D dimensions, K modes, sample of M = 192 pixels):

1. **Peaks.** Look at M pixels only, spread evenly over all. A pixel is dense when its eighth nearest neighbour is
   near; a pixel with no denser one in its surroundings is a peak, and the mean of its neighbours a *mode*.
2. **Claim.** One matrix product gives the distance of every pixel to every mode. Each pixel within ``radius`` of its
   nearest mode is claimed.
3. **Again for the rest.** A lane fifty times smaller than its neighbour has almost no pixel in the sample. But step 2
   leaves it over, so the next sample, drawn from what is left, consists of such lanes. Repeat until nothing new
   turns up.
4. **Join.** A lane that training left long and thin is covered by several modes. Two neighbouring modes belong
   together when there is no valley between them: the density halfway is at least half of that at the lower peak.
   Thin bridges of stray pixels between two lanes are such a valley; DBSCAN joins lanes across them.

The cost is O(rounds · M² · D + N · K · D): linear in N. DBSCAN and mean shift are quadratic: see ``QUADRATIC_POINTS``.

Reference:
    B. De Brabandere, D. Neven, L. Van Gool, "Semantic Instance Segmentation with a Discriminative Loss Function", 2017,
    section 3.3 (threshold around a mean, mean shift);
    A. Rodriguez, A. Laio, "Clustering by fast search and find of density peaks", Science 2014 (step 1);
    F. Chazal et al., "Persistence-based clustering in Riemannian manifolds", JACM 2013 (step 4).
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import DBSCAN, MeanShift
from sklearn.metrics import pairwise_distances_argmin_min
from threadpoolctl import ThreadpoolController

from roadtopo_lib.config import CLUSTERING_METHODS

if TYPE_CHECKING:
    import torch

METHODS = CLUSTERING_METHODS

SAMPLE_SIZE = 192
"""Pixels looked at in one round: enough for about 20 lanes, few enough that all pairs cost 0.2 ms."""

JOIN_SAMPLE_SIZE = 4096
"""Pixels from which the density between two modes is estimated."""

FAR = 1e4
"""Squared distance from the origin, in radii, up to which float32 tells distances to 0.1 % of the radius."""

NEIGHBOURS = 8
"""Density is measured by the distance to this many neighbours."""

MIN_SHARE, MIN_POINTS = 0.02, 10
"""A cluster needs this share of the pixels, but never more than so many (the ``min_samples`` that DBSCAN gets)."""

VALLEY = 0.5
"""Two modes are joined when the density between them is at least this share of the lower peak's."""

WINDOW = 1 / 3
"""Half the width of the windows in which the density between two modes is counted, in radii."""

QUADRATIC_POINTS = 8000
"""Pixels, at most, that DBSCAN and mean shift see, whose memory grows with their square; others follow the nearest."""

MEANSHIFT_SEEDS = 1000
"""Start points of scikit-learn's mean shift, whose cost is this number times N per iteration."""


def radius_from_margins(delta_var: float, delta_dist: float) -> float:
    """Radius around a mean that separates the clusters which these margins of the loss produce.

    It is ``delta_dist``, as in the paper: halfway between two means, and the middle of the safe range that the module's
    description gives. The range is empty unless ``delta_dist > 2 * delta_var``, which the paper asks for.

    Args:
        delta_var: pull margin of the discriminative loss, at least 0.
        delta_dist: push margin of the discriminative loss.

    Returns:
        The radius, ``delta_dist``.

    Raises:
        ValueError: the margins leave no room between the clusters.

    Reference:
        De Brabandere et al. 2017, section 3.3.
    """
    if delta_var < 0:
        raise ValueError(f"delta_var must be at least 0, got {delta_var}")
    if not delta_dist > delta_var:
        raise ValueError(
            f"delta_dist must exceed delta_var, or no radius lies between delta_var and 2 * delta_dist - delta_var: "
            f"got delta_var={delta_var}, delta_dist={delta_dist}"
        )
    return float(delta_dist)


def cluster_embeddings(x: "np.ndarray | torch.Tensor", radius: float, method: str = "fast") -> np.ndarray:
    """Cluster embeddings without knowing the number of clusters.

    Args:
        x: (N, D) float array or tensor of embeddings, N ≥ 0.
        radius: larger than the diameter of a cluster and smaller than the gap between the points of two clusters, see
            the module's description and ``radius_from_margins``.
        method: "fast" (see the module's description; deterministic), "meanshift" (scikit-learn, bandwidth = radius) or
            "dbscan" (scikit-learn, eps = radius, min_samples = 10).

    Returns:
        (N,) int64 labels 0..K−1, in no particular order; −1 = none. "fast" gives −1 to points farther than
        √2 · radius from every mode: two points of a ball are that far apart when they are at right angles seen from
        its centre, as two random directions in many dimensions are.

    Raises:
        ValueError: x is not a finite (N, D) float array, radius is not positive, or method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    x = as_float_array(x, "x")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x must have shape (N, D) with D ≥ 1, got {x.shape}")
    if len(x) == 0:
        return np.empty(0, dtype=np.int64)

    if method != "fast" and len(x) > QUADRATIC_POINTS:
        sample = x[spread(len(x), QUADRATIC_POINTS)]
        nearest, distance = pairwise_distances_argmin_min(x, sample)
        return np.where(distance <= radius, cluster_embeddings(sample, radius, method)[nearest], -1)
    if method == "meanshift":
        seeds = x[spread(len(x), MEANSHIFT_SEEDS)]
        return MeanShift(bandwidth=radius, seeds=seeds, cluster_all=False).fit(x).labels_.astype(np.int64)
    if method == "dbscan":
        return DBSCAN(eps=radius, min_samples=MIN_POINTS).fit(x).labels_.astype(np.int64)
    # The products are too small for a second thread to help, and waiting for one on a busy machine costs 15 ms.
    with _threads().limit(limits=1, user_api="blas"):
        return _cluster_fast(x, radius)


def _centred(x: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Points as float32, moved to the origin if they lie far from it, and their squared lengths: (N, D) → (N, D), (N,).

    Distances come as ‖x‖² − 2 x·m + ‖m‖², which loses digits where ‖x‖ is large against the radius.
    """
    norms = _squared_lengths(x)
    if norms.max() > FAR * radius**2:
        x = x - np.median(x[spread(len(x), SAMPLE_SIZE)], axis=0)  # a mean would follow a single far outlier
        norms = _squared_lengths(x)
    return x.astype(np.float32, copy=False), norms.astype(np.float32, copy=False)


def _squared_lengths(x: np.ndarray) -> np.ndarray:
    """(N, D) → (N,); raises ValueError if one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.square(x) @ np.ones(x.shape[1], dtype=x.dtype)  # twice as fast as np.square(x).sum(axis=1)
    if not np.isfinite(lengths).all():
        raise ValueError("x must be finite, found NaN, infinite or overflowing embeddings")
    return lengths


def as_float_array(x: "np.ndarray | torch.Tensor", name: str) -> np.ndarray:
    """NumPy view of a float array or tensor; half precision becomes float32.

    Raises:
        ValueError: x is not of a floating type.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()
    x = np.asarray(x)
    if x.dtype.kind != "f":
        raise ValueError(f"{name} must be of a floating type, got {x.dtype}")
    return x.astype(np.float32) if x.dtype == np.float16 else x


def spread(n: int, size: int) -> np.ndarray:
    """Indices of at most ``size`` of ``n`` items, evenly spread and the same on every call.

    One index is drawn from each of ``size`` equal stretches. Pixels come row by row, and a plain stride that fits the
    number of pixels per row would hit the same lane every time.
    """
    if n <= size:
        return np.arange(n)
    draw = np.random.default_rng(0).random(size)
    return ((np.arange(size) + draw) * (n / size)).astype(np.intp)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of all pairs, by one matrix product: ‖a − b‖² = ‖a‖² − 2 a·b + ‖b‖²."""
    d2 = (-2 * a) @ b.T  # (A, D), (B, D) → (A, B)
    d2 += np.einsum("ad,ad->a", a, a)[:, None]
    d2 += np.einsum("bd,bd->b", b, b)
    return np.maximum(d2, 0, out=d2)  # rounding can leave −1e-6


def _cluster_fast(x: np.ndarray, radius: float) -> np.ndarray:
    """Steps 1 to 4 of the module's description: (N, D) → (N,) labels."""
    x, norms = _centred(x, radius)
    n = len(x)
    min_points = int(np.clip(round(MIN_SHARE * n), 1, MIN_POINTS))
    modes = np.empty((0, x.shape[1]), dtype=np.float32)
    label = np.zeros(n, dtype=np.uint16)
    nearest = np.full(n, np.inf, dtype=np.float32)  # squared distance to the nearest mode
    while True:
        left = np.flatnonzero(nearest > radius**2)
        if len(left) < min_points:
            break
        new = _find_modes(x[left[spread(len(left), SAMPLE_SIZE)]], radius)
        new = new[(squared_distances(new, modes) > radius**2).all(axis=1)]
        # Which of them deserve to stay, the pixels left over decide; only then do all pixels see the new modes.
        rest, rest_norms = (x, norms) if len(left) == n else (x[left], norms[left])
        new, winner, distance = _claim(rest, rest_norms, new, radius, min_points)
        if len(new) == 0:
            break
        # A claimed point, within the radius of its mode, can be nearer to a new one only where their balls overlap.
        at = left
        if len(left) == n:
            at = slice(None)  # spares a copy
        elif (squared_distances(new, modes) < (2 * radius) ** 2).any():
            at, (winner, distance) = slice(None), _nearest(_scores(x, new), norms)
        label[at] = np.where(distance < nearest[at], winner + np.uint16(len(modes)), label[at])
        nearest[at] = np.minimum(nearest[at], distance)
        modes = np.concatenate([modes, new])

    in_reach = nearest <= 2 * radius**2
    if not in_reach.any():
        return np.full(n, -1, dtype=np.int64)
    lane = _join(x, np.where(in_reach, label, len(modes)), modes, radius)  # (K,) mode → lane
    return np.where(in_reach, lane[label], -1)


def _find_modes(sample: np.ndarray, radius: float) -> np.ndarray:
    """Means of the dense spots of a sample, densest first and at least ``radius`` apart: (M, D) → (K, D)."""
    d2 = squared_distances(sample, sample)  # (M, M)
    np.fill_diagonal(d2, 0)  # exactly: every point is its own neighbour
    k = min(NEIGHBOURS, len(sample) - 1)
    kth = np.partition(d2, k, axis=1)[:, k]  # squared distance to the k-th neighbour: small where dense
    rank = np.empty(len(sample), dtype=np.intp)
    rank[np.argsort(kth, kind="stable")] = np.arange(len(sample))  # 0 = densest; equals differ, too

    reach = 2 * radius**2  # two points of one cluster can be √2 · radius apart
    has_denser = ((d2 <= reach) & (rank < rank[:, None])).any(axis=1)
    peaks = np.flatnonzero(~has_denser)
    peaks = peaks[np.argsort(rank[peaks])]
    core = d2[peaks] <= np.minimum(kth[peaks], radius**2)[:, None]  # (K, M) a peak's nearest neighbours
    modes = _thin(_means(core, sample), radius)

    # Sharpen: the mean of all sampled points within the radius that have no nearer mode.
    d2 = squared_distances(modes, sample)
    own = (d2 == d2.min(axis=0)) & (d2 <= radius**2)
    return _thin(_means(own[own.any(axis=1)], sample), radius)


def _means(member: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Mean of each row's members: (K, M) bool, (M, D) → (K, D). No row may be empty."""
    return member.astype(np.float32) @ points / member.sum(axis=1, keepdims=True, dtype=np.float32)


def _thin(modes: np.ndarray, radius: float) -> np.ndarray:
    """Drop every mode that lies within ``radius`` of an earlier one."""
    near = squared_distances(modes, modes) <= radius**2
    return modes[~np.tril(near, -1).any(axis=1)]


def _claim(
    x: np.ndarray, norms: np.ndarray, modes: np.ndarray, radius: float, min_points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let new modes claim the points within the radius; modes that claim fewer than ``min_points`` are dropped.

    Args:
        x: (N, D) points that no earlier mode has claimed.
        norms: (N,) squared lengths of x.
        modes: (K, D).

    Returns:
        modes: (K', D) those that stay.
        winner: (N,) uint16 index of the nearest of them.
        distance: (N,) squared distance to it.
    """
    score = _scores(x, modes)
    while len(modes):
        winner, distance = _nearest(score, norms)
        enough = np.bincount(winner[distance <= radius**2], minlength=len(modes)) >= min_points
        if enough.all():
            return modes, winner, distance
        modes, score = modes[enough], score[enough]
    return modes, np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.float32)


def _scores(x: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Squared distances less the point's own squared length: (N, D), (K, D) → (K, N)."""
    score = (-2 * modes) @ x.T
    score += np.einsum("kd,kd->k", modes, modes)[:, None]
    return score


def _nearest(score: np.ndarray, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point's nearest mode and the squared distance to it: (K, N), (N,) → (N,) uint16, (N,)."""
    best = score.min(axis=0)
    # argmin along the short axis is 5 times slower than comparing with the minimum.
    ids = np.arange(len(score), dtype=np.uint16)[:, None]
    return ((score == best) * ids).max(axis=0), best + norms


def _join(x: np.ndarray, label: np.ndarray, modes: np.ndarray, radius: float) -> np.ndarray:
    """Number the lanes: modes without a valley between them get the same number.

    For two modes whose balls overlap, the points of both are projected on the line through the modes. Counted in
    three windows of equal width they give the density at either peak and halfway. Pairs are visited from the
    densest link to the thinnest; a lane's peak is the highest of its modes'.

    Args:
        x: (N, D).
        label: (N,) mode of each point, K = none.
        modes: (K, D).

    Returns:
        (K,) lane 0..L−1 of each mode.
    """
    lane = np.arange(len(modes))
    d2 = squared_distances(modes, modes)
    first, second = np.nonzero(np.triu(d2 < (2 * radius) ** 2, 1))
    if len(first) == 0:
        return lane

    sample = spread(len(x), JOIN_SAMPLE_SIZE)
    x, label = x[sample], label[sample]
    member = label == np.arange(len(modes))[:, None]  # (K, M)
    seen = member.any(axis=1)
    modes = modes.copy()
    modes[seen] = _means(member[seen], x)  # a mode from few pixels may lie at the edge of its lane, their mean does not
    d2 = squared_distances(modes, modes)
    peak = np.zeros(len(modes), dtype=np.int64)
    link = np.zeros(len(first), dtype=np.int64)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        length = np.sqrt(d2[a, b])
        along = (x[member[a] | member[b]] - modes[a]) @ (modes[b] - modes[a]) / length  # 0 at a, length at b
        at_a, link[i], at_b = (np.count_nonzero(abs(along - t) <= WINDOW * radius) for t in (0, length / 2, length))
        peak[a], peak[b] = max(peak[a], at_a), max(peak[b], at_b)

    for i in np.argsort(-link, kind="stable"):
        a, b = lane[first[i]], lane[second[i]]
        if a != b and link[i] > 0 and link[i] >= VALLEY * min(peak[a], peak[b]):
            lane[lane == b] = a
            peak[a] = max(peak[a], peak[b])
    return np.unique(lane, return_inverse=True)[1]


@cache
def _threads() -> ThreadpoolController:
    """Handle on the thread pools of the loaded BLAS libraries; looking for them takes milliseconds, so only once."""
    return ThreadpoolController()
