"""Points of a few lanes in an embedding space, moved step by step by ``losses.DiscriminativeLoss``.

There is no network: every point is a parameter of its own, so what is seen is the loss and nothing else. A step is
plain gradient descent, ``x ← x − rate · C · N · ∂loss/∂x`` with C lanes of N points: the loss divides by both, and
without the factor a lane of many points would take many steps to go the same way.

What is shown, forces and terms, comes from the library's loss by autograd. The steps between two pictures use the same
gradient written out (``_descent``), at a sixth of the time (5 × 200 points); a test holds one against the other.

Axes: C lanes, N points in a lane, D dimensions.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roadtopo_lib.course.playground.clustering import adjusted_rand_index
from roadtopo_lib.losses import DiscriminativeLoss
from roadtopo_lib.postprocess import cluster_embeddings, radius_from_margins

STARTS = ("random", "crossing", "one lane twice")
"""Where points begin: in random clouds; on lines that cross; or lanes 1 and 2 as two ids in one and the same cloud."""

RATE = 0.1
"""Step length at weights up to 1: two means go at most 8 · RATE of the way to their margin at once, never over it."""

TERMS = ("variance", "distance", "regularization")

TINY = 1e-6
"""Nothing is divided by a length below this: two equal means exert no force."""

SPLIT_SHARE = 0.1
"""A cluster that holds at least this share of a lane's points counts as a part of that lane."""


@dataclass(frozen=True)
class Margins:
    """Everything that decides where the points end.

    Args:
        delta_var: pull margin, >= 0.
        delta_dist: push margin, >= 0: means want to be ``2 * delta_dist`` apart.
        alpha, beta, gamma: weights of variance, distance and regularisation, >= 0.
        normalize: hold every embedding on the unit sphere.
    """

    delta_var: float = 0.5
    delta_dist: float = 1.5
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.001
    normalize: bool = False

    def loss(self) -> DiscriminativeLoss:
        """The library's loss with these margins and weights."""
        return DiscriminativeLoss(self.delta_var, self.delta_dist, self.alpha, self.beta, self.gamma)


FAILURES: dict[str, tuple[Margins, float | None]] = {
    "the paper's": (Margins(), None),
    "on the sphere": (Margins(normalize=True), None),
    "on the sphere, margins that fit": (Margins(delta_var=0.2, delta_dist=0.7, normalize=True), None),
    "pull margin 1.5, push margin 0.5": (Margins(delta_var=1.5, delta_dist=0.5), 0.5),
    "no pull": (Margins(alpha=0.0), None),
    "no push": (Margins(beta=0.0), None),
    "held too tightly": (Margins(gamma=6.0), None),
    "radius too large": (Margins(), 3.5),
    "radius too small": (Margins(), 0.1),
}
"""Margins and clustering radius of the classic failures, by name; radius ``None`` is the one the margins give."""


def floor_on_sphere(instances: int, delta_dist: float) -> float:
    """The least that the distance term can be when embeddings lie on the unit sphere.

    The means of K clusters lie in the unit ball, where the mean squared distance of two is at most 2K / (K − 1). The
    hinge is convex, so its mean is at least the hinge at that distance. Only the regular simplex attains it, and that
    takes K − 1 dimensions; in fewer the term stays higher.

    Args:
        instances: K, >= 0.
        delta_dist: push margin, >= 0.

    Returns:
        ``max(0, 2 · delta_dist − sqrt(2K / (K − 1)))²``; 0 for fewer than two instances, which have no pair.
    """
    if instances < 2:
        return 0.0
    return max(0.0, 2 * delta_dist - math.sqrt(2 * instances / (instances - 1))) ** 2


@dataclass(frozen=True)
class State:
    """One moment of the simulation.

    Attributes:
        step: steps since the last reset.
        points: (C·N, D) embeddings.
        lanes: (C·N,) the lane of each point, 0..C-1.
        means: (C, D).
        forces: (C·N, D) where the loss pushes each point: minus its gradient, times C·N.
        terms: variance, distance and regularization, unweighted.
        loss: their weighted sum.
        plane: (D, 2) orthonormal, the plane to look at.
        smallest_gap: distance of the two nearest means, in embedding units; infinite for a single lane.
    """

    step: int
    points: np.ndarray
    lanes: np.ndarray
    means: np.ndarray
    forces: np.ndarray
    terms: dict[str, float]
    loss: float
    plane: np.ndarray
    smallest_gap: float


@dataclass(frozen=True)
class Clusters:
    """What clustering makes of a state.

    Attributes:
        lanes: (C·N,) true lane of each point.
        labels: (C·N,) cluster of each point, -1 = none.
        count: number of clusters.
        verdict: one sentence on what went right or wrong, and why.
    """

    lanes: np.ndarray
    labels: np.ndarray
    count: int
    verdict: str

    @cached_property
    def ari(self) -> float:
        """``adjusted_rand_index`` against the true lanes, at most 1."""
        return adjusted_rand_index(self.lanes, self.labels)


@dataclass
class EmbeddingPlayground:
    """A few lanes' points, the loss, and time.

    Args:
        lanes: C, 1..8.
        points: N, points in each lane, >= 2.
        dim: D, >= 2.
        spread: root mean square distance of a lane's points from their centre at the start, in embedding units, >= 0.
            The centres themselves lie about 1 from the origin, in any number of dimensions.
        start: one of ``STARTS``.
        margins: margins and weights of the loss.
        seed: the one integer from which the start follows.

    Attributes:
        history: one row a step, from the start on: loss and its three terms.

    Raises:
        ValueError: a value outside its range.

    Reference:
        B. De Brabandere, D. Neven, L. Van Gool, "Semantic Instance Segmentation with a Discriminative Loss Function",
        2017, figures 2 and 3 (forces and convergence of points in 2-D).
    """

    lanes: int = 4
    points: int = 60
    dim: int = 2
    spread: float = 0.6
    start: str = "random"
    margins: Margins = field(default_factory=Margins)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.lanes <= 8 or self.points < 2 or self.dim < 2 or not self.spread >= 0:
            raise ValueError(
                f"expected 1..8 lanes of at least 2 points, at least 2 dimensions and a spread of at least 0, got "
                f"lanes={self.lanes}, points={self.points}, dim={self.dim}, spread={self.spread}"
            )
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}, expected one of {STARTS}")
        self.reset()

    def reset(self) -> None:
        """Back to the start."""
        self._x = self._start()  # (C, N, D)
        self._plane = np.eye(self.dim, 2)
        self._force, row = self._descent()  # (C, N, D)
        self.history: list[dict[str, float]] = [row]

    def set_margins(self, **changes: float | bool) -> None:
        """Other margins or weights from here on; the points stay where they are.

        Args:
            changes: fields of ``Margins``.
        """
        self.margins = replace(self.margins, **changes)
        self._x = self._on_sphere(self._x)
        self._force, self.history[-1] = self._descent()

    def step(self, n: int = 1) -> None:
        """Moves all points n times."""
        for _ in range(n):
            move = self.rate() * self._force
            # Far too strong a weight may throw points off; a point moves at most one unit a step.
            length = torch.linalg.vector_norm(move, dim=2, keepdim=True)
            self._x = self._on_sphere(self._x + move / length.clamp(min=1))
            self._force, row = self._descent()
            self.history.append(row)

    def state(self) -> State:
        """Where everything is now, as copies."""
        lanes = torch.arange(self.lanes).repeat_interleave(self.points)  # (C·N,)
        x = self._x.flatten(0, 1).clone().requires_grad_()  # (C·N, D)
        embeddings = self._on_sphere(x).T[None, :, None]  # (1, D, 1, C·N): an image one pixel high
        loss, parts = self.margins.loss()(embeddings, (lanes + 1)[None, None])
        loss.backward()
        means = self._x.mean(dim=1)  # (C, D)
        points = x.detach().numpy()
        self._plane = stable_plane(means.numpy(), self._plane)
        return State(
            step=len(self.history) - 1,
            points=points,
            lanes=lanes.numpy(),
            means=means.numpy(),
            forces=-len(points) * x.grad.numpy(),
            terms={name: float(parts[name]) for name in TERMS},
            loss=float(loss.detach()),
            plane=self._plane.copy(),
            smallest_gap=smallest_gap(means),
        )

    def rate(self) -> float:
        """Step length: shorter where a large weight would throw points over the mark."""
        return RATE / max(1.0, self.margins.alpha, self.margins.beta)

    def floor(self) -> float:
        """What the distance term cannot fall below: 0, or on the sphere ``floor_on_sphere``."""
        return floor_on_sphere(self.lanes, self.margins.delta_dist) if self.margins.normalize else 0.0

    def radius(self) -> float:
        """The clustering radius that follows from the margins; delta_dist even where they leave no room for any."""
        try:
            return radius_from_margins(self.margins.delta_var, self.margins.delta_dist)
        except ValueError:
            return max(self.margins.delta_dist, 0.01)

    def clusters(self, radius: float | None = None, method: str = "fast") -> Clusters:
        """Clusters the points as ``LanePostProcessor`` would, and says what came of it.

        Args:
            radius: in embedding units; default from the margins.
            method: of ``cluster_embeddings``.
        """
        radius = self.radius() if radius is None else radius
        labels = cluster_embeddings(self._x.flatten(0, 1), radius, method)
        lanes = np.repeat(np.arange(self.lanes), self.points)
        means = self._x.mean(dim=1)  # (C, D)
        reach = float(torch.linalg.vector_norm(self._x - means[:, None], dim=2).max())
        return Clusters(
            lanes=lanes,
            labels=labels,
            count=int(labels.max(initial=-1)) + 1,
            verdict=_verdict(lanes, labels, radius, smallest_gap(means), reach),
        )

    def _descent(self) -> tuple[Tensor, dict[str, float]]:
        """Minus the gradient of the loss, times C·N: (C, N, D), and a row of the history."""
        margins, x = self.margins, self._x  # on the sphere x is a unit vector already
        means = x.mean(dim=1, keepdim=True)  # (C, 1, D)
        offset = means - x  # (C, N, D)
        distance = torch.linalg.vector_norm(offset, dim=2, keepdim=True)  # (C, N, 1)
        beyond = (distance - margins.delta_var).relu()
        pull = 2 * beyond * offset / distance.clamp(min=TINY)
        pull = pull - pull.mean(dim=1, keepdim=True)  # a point that moves takes a share of its mean along

        between = means - means[:, 0]  # (C, 1, D) − (C, D) → (C, C, D): from b to a
        apart = torch.linalg.vector_norm(between, dim=2, keepdim=True)  # (C, C, 1)
        missing = (2 * margins.delta_dist - apart).relu() * (1 - torch.eye(self.lanes))[..., None]
        pairs = max(1, self.lanes * (self.lanes - 1))
        # Every pair counts twice in the sum, as (a, b) and (b, a).
        push = (
            self.lanes * 4 * (missing * between / apart.clamp(min=TINY)).sum(dim=1, keepdim=True) / pairs
        )  # (C, 1, D)

        norms = torch.linalg.vector_norm(means, dim=2, keepdim=True)  # (C, 1, 1)
        force = margins.alpha * pull + margins.beta * push - margins.gamma * means / norms.clamp(min=TINY)
        if margins.normalize:
            force = force - (force * x).sum(dim=2, keepdim=True) * x  # along the sphere only
        variance, distance_term = float(beyond.square().mean()), float(missing.square().sum()) / pairs
        regularization = float(norms.mean())
        loss = margins.alpha * variance + margins.beta * distance_term + margins.gamma * regularization
        return force, {"loss": loss, **dict(zip(TERMS, (variance, distance_term, regularization), strict=True))}

    def _on_sphere(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=TINY) if self.margins.normalize else x

    def _start(self) -> Tensor:
        random = torch.Generator().manual_seed(self.seed)
        # A standard normal vector is about √D long.
        noise = torch.randn(self.lanes, self.points, self.dim, generator=random) * (self.spread / math.sqrt(self.dim))
        centers = torch.randn(self.lanes, 1, self.dim, generator=random) / math.sqrt(self.dim)  # (C, 1, D)
        if self.start == "crossing":
            # Lane c runs along a line through the origin, like lanes that meet in one place of the image.
            angle = torch.arange(self.lanes) * (math.pi / self.lanes)
            along = torch.zeros(self.lanes, 1, self.dim)
            along[:, 0, 0], along[:, 0, 1] = angle.cos(), angle.sin()
            return self._on_sphere(torch.linspace(-2, 2, self.points)[:, None] * along + 0.3 * noise)
        if self.start == "one lane twice" and self.lanes > 1:
            centers[1] = centers[0]
        return self._on_sphere(centers + noise)


def stable_plane(means: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The plane to look at: (D, 2) orthonormal.

    Of all planes, and all directions in them, the one in which the means come nearest to the corners of a regular
    polygon, in the order of the lanes (orthogonal Procrustes). The axes of greatest spread would not do: where means
    are all equally far apart there are no such axes, some means then cover each other, and axes swap between steps.

    Args:
        means: (C, D), C >= 1.
        before: (D, 2), the plane before; it decides what the means leave open.

    Reference:
        P. Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.
    """
    if means.shape[1] == 2:
        return np.eye(2)
    angle = 2 * np.pi * np.arange(len(means)) / len(means)
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (C, 2)
    wanted = (means - means.mean(axis=0)).T @ corners + 1e-3 * before  # (D, 2)
    left, _, right = np.linalg.svd(wanted, full_matrices=False)
    return left @ right


def smallest_gap(means: Tensor) -> float:
    """Distance of the two nearest of (C, D) means, in embedding units; infinite for fewer than two."""
    gaps = torch.pdist(means)
    return float(gaps.min()) if len(gaps) else math.inf


def _verdict(lanes: np.ndarray, labels: np.ndarray, radius: float, gap: float, reach: float) -> str:
    """What clustering did to the lanes, in one sentence.

    By the triangle inequality two points of one lane are at most ``2 · reach`` apart, points of different lanes at
    least ``gap − 2 · reach``: a radius between the two is safe (see ``postprocess.radius_from_margins``).

    Args:
        lanes, labels: (C·N,) true lane and cluster of each point, -1 = none.
        radius: clustering radius.
        gap: distance of the two nearest means.
        reach: largest distance of a point from the mean of its lane; all three in embedding units.
    """
    count = int(lanes.max()) + 1
    table = np.zeros((count, int(labels.max(initial=-1)) + 1), dtype=int)  # lanes × clusters
    np.add.at(table, (lanes[labels >= 0], labels[labels >= 0]), 1)
    share = table / np.bincount(lanes)[:, None]
    parts = share >= SPLIT_SHARE
    together = parts.sum(axis=0)  # lanes in each cluster
    merged, split = int((parts[:, together > 1]).any(axis=1).sum()), int((parts.sum(axis=1) > 1).sum())
    lost = float((labels < 0).mean())
    said = [f"merged {merged} lanes"] if merged else []
    said += [f"split {split} {_lanes(split)}"] if split else []
    said += [f"left {lost:.0%} of the points without a cluster"] if lost >= 0.01 else []
    lowest, highest = 2 * reach, gap - 2 * reach
    safe = f"the safe radii, {lowest:.2f} to {highest:.2f}"  # "inf" for a single lane
    if lowest >= highest:
        why = f"no radius is safe where points stray {reach:.2f} from their mean and means are {gap:.2f} apart"
    elif radius < lowest:
        why = f"radius {radius:.2f} is below {safe}"
    elif radius >= highest:
        why = f"radius {radius:.2f} is above {safe}"
    else:
        why = f"radius {radius:.2f} is among {safe}"
    as_expected = bool(said) != (lowest <= radius < highest)
    return f"{', '.join(said) or f'all {count} {_lanes(count)} found'}{':' if as_expected else ', although'} {why}"


def _lanes(count: int) -> str:
    return "lane" if count == 1 else "lanes"
