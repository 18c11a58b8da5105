"""Embedding separation: points of a few lanes, pushed and pulled by the discriminative loss."""

import math

import numpy as np
from matplotlib.collections import LineCollection

from roadtopo_lib.course.playground import STARTS, Clusters, EmbeddingPlayground, Margins, State
from roadtopo_lib.course.widgets._base import COLORS, LABEL, MARKERS, Board, Panel
from roadtopo_lib.course.widgets._controls import button, choice, clock, note, on_change, slider

STEPS_PER_TICK = 3
STEPS_TO_CONVERGE = 300
MAX_ARROWS = 9
"""Arrows a lane: more hide the points."""
ARROW_LENGTH, SHORTEST_ARROW, LONGEST_ARROW = 0.15, 0.02, 1.0
"""Units an arrow is long per unit of force, at least (shorter ones are left out) and at most."""

MAX_LANES = 8
TERM_COLORS = {"variance": "#4477AA", "distance": "#EE6677", "regularization": "#228833"}
CURVE_POINTS = 1000
"""Steps, at most, through which a curve is drawn: even on the logarithmic axis, closer together than its pixels."""
TERM_STYLES = {"variance": "-", "distance": "--", "regularization": ":"}
LAST_STEP = {"marker": "o", "markersize": 4, "markevery": [-1]}
"""A dot at the end of each line: at step 0 there is nothing else to see."""


TERMS_SIZE = (4.8, 2.7)
"""Inches: lower than the points, for both to fit on a screen."""
UNCLUSTERED = (0.6, 0.6, 0.6)

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 49)), np.sin(np.linspace(0, 2 * np.pi, 49))], axis=1)
"""(49, 2), radius 1."""


class LayoutPanel(Panel):
    """Points and means in the plane; in 2-D the margins as circles, and the forces as arrows.

    A shape is a true lane. A colour is a true lane, too, or the cluster found where ``draw`` gets them.
    """

    def __init__(self) -> None:
        super().__init__("Points of each lane and their means in a plane of the embedding space")
        self.axes.set_aspect("equal", adjustable="box")
        self.axes.set_xlabel("first direction (embedding units)", fontsize=LABEL)
        self.axes.set_ylabel("second direction (embedding units)", fontsize=LABEL)
        self.axes.grid(alpha=0.2)
        self._points, self._means = [], []
        for marker in MARKERS[:MAX_LANES]:
            self._points.append(self.axes.scatter([], [], s=20, marker=marker, linewidths=0, alpha=0.6))
            self._means += self.axes.plot([], [], marker, ms=9, mec="black", mew=1.2)
        self._pull = self._line_set("black", "-")
        self._push = self._line_set("0.45", "--")
        self._radius = self._line_set("#AA3377", ":", 1.5)
        self._arrows = self._line_set("0.3", "-", 0.8)
        self._sphere = self._line_set("0.6", "-", 2.5)
        circles = (self._sphere, self._push, self._radius, self._pull)
        self.moving(*self._points, *circles, self._arrows, *self._means)

    def _line_set(self, color: str, style: str, width: float = 1.0) -> LineCollection:
        lines = LineCollection([], colors=color, linestyles=style, linewidths=width)
        self.axes.add_collection(lines, autolim=False)
        return lines

    def draw(self, playground: EmbeddingPlayground, found: Clusters | None = None, radius: float = 0.0,
             arrows: bool = True) -> None:  # fmt: skip
        """Sets all artists but the title.

        Args:
            playground: what to show.
            found: clusters, whose colours the points take.
            radius: a clustering radius to draw around each mean, if any.
            arrows: draw the forces.
        """
        state, margins = playground.state(), playground.margins
        xy, means, forces = (values @ state.plane for values in (state.points, state.means, state.forces))
        colors = COLORS[state.lanes % len(COLORS)] if found is None else cluster_colors(found)
        for lane, (points, mean) in enumerate(zip(self._points, self._means, strict=True)):
            for artist in (points, mean):
                artist.set_visible(lane < len(means))
            own = state.lanes == lane  # nowhere, beyond the last lane
            points.set_offsets(xy[own])
            # Equal colours as one: points of one look are drawn three times as fast.
            points.set_facecolors(colors[own][:1] if (colors[own] == colors[own][:1]).all() else colors[own])
            mean.set_data(means[lane : lane + 1, 0], means[lane : lane + 1, 1])
            mean.set_markerfacecolor(COLORS[lane % len(COLORS)] if found is None else "white")
        # Projected, distances look shorter than they are: only in two dimensions does a circle tell the truth.
        flat = playground.dim == 2
        sizes = {self._pull: margins.delta_var, self._push: margins.delta_dist, self._radius: radius}
        for circles, size in sizes.items():
            circles.set_segments(means[:, None] + size * CIRCLE if flat and size > 0 else [])  # (C, 49, 2)
        self._sphere.set_segments(CIRCLE[None] if margins.normalize else [])
        self._arrows.set_segments(_arrows(state, xy, forces) if arrows else [])
        # Limits in steps of a quarter: new ones cost a full drawing.
        around = max(margins.delta_var, margins.delta_dist) if flat else 0
        reach = max(np.abs(xy).max(), np.abs(means).max() + around, 0.5)
        extent = 1.25 ** math.ceil(math.log(1.02 * reach, 1.25))
        self.set_limits(-extent, extent, -extent, extent)


def cluster_colors(found: Clusters) -> np.ndarray:
    """A colour for each point: (N, 3).

    A cluster takes the colour of the lane that gives it most points, unless a larger cluster has it already: a lane
    that is found looks as it does elsewhere, a split one has several colours, and merged ones have the same. Points
    without a cluster are grey.
    """
    lane_count = int(found.lanes.max()) + 1
    table = np.zeros((found.count, lane_count), int)  # clusters × lanes
    clustered = found.labels >= 0
    np.add.at(table, (found.labels[clustered], found.lanes[clustered]), 1)
    color_of, taken = np.zeros(found.count + 1, int), set()
    for rank, cluster in enumerate(np.argsort(-table.sum(axis=1), kind="stable")):
        lane = int(table[cluster].argmax())
        color_of[cluster] = lane if lane not in taken else lane_count + rank
        taken.add(lane)
    colors = COLORS[color_of % len(COLORS)]
    colors[-1] = UNCLUSTERED  # label −1
    return colors[found.labels]


class TermsPanel(Panel):
    """The three weighted terms of the loss over the steps, with the floor that the push cannot fall below."""

    def __init__(self) -> None:
        super().__init__("The three terms of the loss over the steps, on a logarithmic axis", TERMS_SIZE)
        self.axes.set_xscale("symlog", linthresh=1)
        self.axes.xaxis.set_major_formatter("{x:.0f}")
        self.axes.set_xlabel("steps (logarithmic from 1 on)", fontsize=LABEL)
        self.axes.set_ylabel("term × weight", fontsize=LABEL)
        self.axes.grid(alpha=0.2)
        self._lines = {
            name: self.axes.plot([], [], TERM_STYLES[name], color=color, lw=1.8, label=name, **LAST_STEP)[0]
            for name, color in TERM_COLORS.items()
        }
        (self._floor,) = self.axes.plot([], [], "-.", color="black", lw=1.2)
        self._floor_name = self.axes.text(
            0, 0, "floor of distance on the sphere", fontsize=LABEL, va="bottom", ha="left"
        )
        self.axes.legend(frameon=False, fontsize=LABEL, loc="upper right")
        self.moving(*self._lines.values(), self._floor, self._floor_name)

    def draw(self, playground: EmbeddingPlayground) -> None:
        """Sets all artists."""
        history = playground.history
        steps = np.unique(np.geomspace(1, len(history), CURVE_POINTS).astype(int)) - 1
        margins, most = playground.margins, 0.5
        weights = {"variance": margins.alpha, "distance": margins.beta, "regularization": margins.gamma}
        for name, line in self._lines.items():
            values = weights[name] * np.array([history[step][name] for step in steps])
            line.set_data(steps, values)
            most = max(most, values.max())
        floor = margins.beta * playground.floor()
        self._floor.set_data([0, 10**7], [floor, floor])
        for artist in (self._floor, self._floor_name):
            artist.set_visible(floor > 0)
        loss = sum(weight * history[-1][name] for name, weight in weights.items())
        self.finding.set_text(f"The loss is {loss:.2f}")
        # Limits grow tenfold, so that a new background is rarely needed.
        right = 10 ** max(2, math.ceil(math.log10(max(1, len(history)))))
        top = _round_up(max(most, floor))
        self.set_limits(-0.2, right, -0.03 * top, top)
        self._floor_name.set_position((0.1, floor + 0.01 * top))


class EmbeddingSeparation(Board):
    """Points of several lanes under the discriminative loss: play, step, reset, converge, and predict first.

    Args:
        lanes: lanes at the start.
        points: points in each.
        margins: of the loss; the guide's by default.
        seed: of the start.

    Attributes:
        playground: the simulation.
    """

    title = "Embedding separation"

    def __init__(self, lanes: int = 4, points: int = 60, margins: Margins | None = None, seed: int = 0) -> None:
        super().__init__()
        self.playground = EmbeddingPlayground(lanes, points, margins=margins or Margins(), seed=seed)
        self._layout, self._terms = LayoutPanel(), TermsPanel()
        self.panels = [self._layout, self._terms]
        self._lanes = slider("lanes (number)", lanes, 2, MAX_LANES, 1)
        self._points = slider("points per lane", points, 10, 200, 10)
        self._spread = slider("spread (units)", 0.6, 0.1, 1.5, 0.1)
        self._start = choice("start", STARTS)
        self._dim = choice("space", [("2-D", 2), ("32-D, projected", 32)])
        self._guess = slider("my guess (units)", 1.0, 0.0, 5.0, 0.1)
        self._answer = ""
        self._released = False  # the points lie where the answer showed them: the next step begins at the start
        on_change(self.restart, self._lanes, self._points, self._spread, self._start, self._dim)
        self.arrange(
            [
                [note("<b>Predict first</b>: how far apart will the nearest two means end?")],
                [self._guess],
                [button("Release", self.release, "runs to the end and shows the answer")],
                [note("Then play: watch the points on their way.")],
                [
                    clock(self._tick, self.update),
                    button("Step", lambda: self.advance(1), "one step of gradient descent"),
                ],
                [
                    button("Converge", lambda: self.advance(STEPS_TO_CONVERGE), f"{STEPS_TO_CONVERGE} steps at once"),
                    button("Reset", self.restart, "back to the start"),
                ],
                *([control] for control in (self._lanes, self._points, self._spread, self._start, self._dim)),
            ]
        )

    def _tick(self) -> None:
        self._begin()
        self.playground.step(STEPS_PER_TICK)
        self.next_picture()

    def _begin(self) -> None:
        """After an answer the next step is the first one: its way there is what is to be seen."""
        if self._released:
            self.playground.reset()
        self._answer, self._released = "", False

    def advance(self, steps: int) -> None:
        """Steps, and shows."""
        self._begin()
        self.playground.step(steps)
        self.update()

    def restart(self) -> None:
        """A new start with what the controls say."""
        self.playground = EmbeddingPlayground(
            self._lanes.value,
            self._points.value,
            self._dim.value,
            self._spread.value,
            self._start.value,
            self.playground.margins,
            self.playground.seed,
        )
        self._answer, self._released = "", False
        self.update()

    def release(self) -> None:
        """Runs to the end, and holds the guess against it."""
        self.playground.step(STEPS_TO_CONVERGE)
        self._released = True
        truth, guess = self.playground.state().smallest_gap, self._guess.value
        judged = "close" if abs(guess - truth) <= 0.2 else "look again: 2 · delta_dist is where the push ends"
        self._answer = f"You guessed {guess:.1f}, it is {truth:.2f}: {judged}. "
        self.update()

    def draw_motion(self) -> None:
        """Sets the artists of the points; the title follows with the words."""
        self._layout.draw(self.playground)

    def draw(self) -> None:
        """Sets the artists and the words."""
        self.draw_motion()
        gap = self.playground.state().smallest_gap
        self._layout.finding.set_text(f"The nearest two means are {gap:.2f} apart")
        self._terms.draw(self.playground)
        margins, step = self.playground.margins, len(self.playground.history) - 1
        found = self.playground.clusters()
        circles = (
            f"Circles around each mean: solid delta_var = {margins.delta_var:g}, dashed delta_dist = "
            f"{margins.delta_dist:g}. Arrows: the forces."
            if self.playground.dim == 2
            else "No circles: projected, points look nearer than they are. Arrows: the forces."
        )
        self.words = (
            f"{self._answer}Step {step}, {terms_in_words(self.playground)}. Clustering: {found.verdict}. {circles}"
        )


def terms_in_words(playground: EmbeddingPlayground) -> str:
    """The three terms of the loss as they are now, unweighted."""
    last = playground.history[-1]
    return ", ".join(f"{name} {last[name]:.3f}" for name in TERM_COLORS)


def _arrows(state: State, xy: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """Forces on some of each lane's points as arrows: (M, 5, 2) strokes, shaft and two barbs."""
    per_lane = len(xy) // len(state.means)
    picked = np.arange(len(xy)).reshape(-1, per_lane)[:, :: math.ceil(per_lane / MAX_ARROWS)].ravel()
    length = np.maximum(ARROW_LENGTH * np.linalg.norm(forces[picked], axis=1), 1e-9)
    picked, length = picked[length > SHORTEST_ARROW], length[length > SHORTEST_ARROW, None]
    arrow = ARROW_LENGTH * forces[picked] * np.minimum(1, LONGEST_ARROW / length)
    tip, across = xy[picked] + arrow, np.stack([-arrow[:, 1], arrow[:, 0]], axis=1)
    left, right = (tip - 0.25 * arrow + side * 0.12 * across for side in (1, -1))
    return np.stack([xy[picked], tip, left, tip, right], axis=1)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that leaves some room above."""
    power = 10 ** math.floor(math.log10(1.1 * value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= 1.1 * value)
