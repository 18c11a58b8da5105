"""Embedding separation: points of a few lanes, pushed and pulled by the discriminative loss."""

import copy
import math

import numpy as np
from matplotlib.collections import LineCollection

from roadtopo_lib.course.playground import STARTS, EmbeddingPlayground, Margins, State
from roadtopo_lib.course.widgets._base import (
    COLORS,
    MARKERS,
    Board,
    Panel,
    button,
    choice,
    clock,
    note,
    on_change,
    slider,
)

STEPS_PER_TICK = 3
STEPS_TO_CONVERGE = 300
MAX_ARROWS = 9
"""Arrows a lane: more hide the points."""
ARROW_LENGTH, SHORTEST_ARROW, LONGEST_ARROW = 0.15, 0.02, 1.0
"""Units an arrow is long per unit of force, at least (shorter ones are left out) and at most."""

MAX_LANES = 8
TERM_COLORS = {"variance": "#4477AA", "distance": "#EE6677", "regularization": "#228833"}
TERM_STYLES = {"variance": "-", "distance": "--", "regularization": ":"}
LAST_STEP = {"marker": "o", "markersize": 4, "markevery": [-1]}
"""A dot at the end of each line: at step 0 there is nothing else to see."""


CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 49)), np.sin(np.linspace(0, 2 * np.pi, 49))], axis=1)
"""(49, 2), radius 1."""


class LayoutPanel(Panel):
    """Points and means in the plane, the margins as circles, the forces as arrows."""

    def __init__(self) -> None:
        super().__init__()
        self.axes.set_aspect("equal", adjustable="box")
        self.axes.set_xlabel("first direction (embedding units)", fontsize=8)
        self.axes.set_ylabel("second direction (embedding units)", fontsize=8)
        self.axes.grid(alpha=0.2)
        self._points, self._means = [], []
        for lane in range(MAX_LANES):
            color, marker = COLORS[lane % len(COLORS)], MARKERS[lane]
            self._points += self.axes.plot([], [], marker, color=color, ms=4, alpha=0.55, mew=0)
            self._means += self.axes.plot([], [], marker, color=color, ms=9, mec="black", mew=1.2)
        self._pull = self._line_set("black", "-")
        self._push = self._line_set("0.45", "--")
        self._radius = self._line_set("#AA3377", ":")
        self._arrows = self._line_set("0.3", "-", 0.8)
        self.finding().set_text("Points, means and margins")
        self._sphere = self._line_set("0.6", "-", 2.5)
        circles = (self._sphere, self._push, self._radius, self._pull)
        self.moving(*self._points, *circles, self._arrows, *self._means)

    def _line_set(self, color: str, style: str, width: float = 1.0) -> LineCollection:
        lines = LineCollection([], colors=color, linestyles=style, linewidths=width)
        self.axes.add_collection(lines, autolim=False)
        return lines

    def draw(self, playground: EmbeddingPlayground, radius: float | None = None, arrows: bool = True) -> None:
        """Sets all artists.

        Args:
            playground: what to show.
            radius: a clustering radius to draw around each mean, if any.
            arrows: draw the forces.
        """
        state, margins = playground.state(), playground.margins
        xy, means, forces = (values @ state.plane for values in (state.points, state.means, state.forces))
        for lane in range(MAX_LANES):
            own = xy[state.lanes == lane]  # empty beyond the last lane
            self._points[lane].set_data(own[:, 0], own[:, 1])
            self._means[lane].set_data(means[lane : lane + 1, 0], means[lane : lane + 1, 1])
            for artist in (self._points[lane], self._means[lane]):
                artist.set_visible(lane < playground.lanes)
        # Projected, means look nearer than they are: circles that do not overlap in 32-D would seem to.
        push = margins.delta_dist if playground.dim == 2 else None
        for circles, size in ((self._pull, margins.delta_var), (self._push, push), (self._radius, radius)):
            circles.set_segments(means[:, None] + size * CIRCLE if size else [])  # (C, 49, 2)
        self._sphere.set_segments(CIRCLE[None] if margins.normalize else [])
        self._arrows.set_segments(_arrows(state, xy, forces) if arrows else [])
        # Limits in steps of a quarter: new ones cost a full drawing.
        reach = max(np.abs(xy).max(), np.abs(means).max() + max(margins.delta_var, push or 0), 0.5)
        extent = 1.25 ** math.ceil(math.log(1.02 * reach, 1.25))
        self.set_limits(-extent, extent, -extent, extent)


class TermsPanel(Panel):
    """The three terms of the loss over the steps, with the floor that the push cannot fall below."""

    def __init__(self) -> None:
        super().__init__()
        self.axes.set_xlabel("steps", fontsize=8)
        self.axes.set_ylabel("term of the loss, unweighted", fontsize=8)
        self.axes.grid(alpha=0.2)
        self._lines = {
            name: self.axes.plot([], [], TERM_STYLES[name], color=color, lw=1.8, label=name, **LAST_STEP)[0]
            for name, color in TERM_COLORS.items()
        }
        (self._floor,) = self.axes.plot([], [], "-.", color="black", lw=1.2)
        self._floor_name = self.axes.text(0, 0, "floor of distance on the sphere", fontsize=8, va="bottom", ha="right")
        self.axes.legend(frameon=False, fontsize=8, loc="upper right")
        self.finding().set_text("Terms of the loss")
        self.moving(*self._lines.values(), self._floor, self._floor_name)

    def draw(self, playground: EmbeddingPlayground) -> None:
        """Sets all artists."""
        history = playground.history
        steps = np.arange(len(history))
        most = 0.5
        for name, line in self._lines.items():
            values = np.array([row[name] for row in history])
            line.set_data(steps, values)
            most = max(most, values.max())
        floor = playground.floor()
        self._floor.set_data([0, 10**7], [floor, floor])
        for artist in (self._floor, self._floor_name):
            artist.set_visible(floor > 0)
        # Limits grow by doubling, so that a new background is rarely needed.
        right = 50 * 2 ** max(0, math.ceil(math.log2(max(1, len(history)) / 50)))
        top = _round_up(max(most, floor))
        self.set_limits(0, right, -0.03 * top, top)
        self._floor_name.set_position((0.98 * right, floor + 0.01 * top))


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
        on_change(self.restart, self._lanes, self._points, self._spread, self._start, self._dim)
        self.arrange(
            [
                [
                    clock(self._tick, self.update),
                    button("Step", lambda: self.advance(1), "one step of gradient descent"),
                    button("Converge", lambda: self.advance(STEPS_TO_CONVERGE), f"{STEPS_TO_CONVERGE} steps at once"),
                    button("Reset", self.restart, "back to the start"),
                ],
                [self._lanes, self._points, self._spread, self._start, self._dim],
                [note("Predict first: how far apart will the nearest two means end?")],
                [self._guess, button("Release", self.release, "runs to the end and shows the answer")],
            ]
        )

    def _tick(self) -> None:
        self._answer = ""
        self.playground.step(STEPS_PER_TICK)
        self.next_picture()

    def advance(self, steps: int) -> None:
        """Steps, and shows."""
        self._answer = ""
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
        self._answer = ""
        self.update()

    def release(self) -> None:
        """Runs to the end, and holds the guess against it."""
        self.playground.step(STEPS_TO_CONVERGE)
        truth, guess = self.playground.state().smallest_gap, self._guess.value
        judged = "close" if abs(guess - truth) <= 0.2 else "look again: 2 · delta_dist is where the push ends"
        self._answer = f" You guessed {guess:.1f}, it is {truth:.2f}: {judged}."
        self.update()

    def still(self) -> np.ndarray:
        """Where the points are, and below where they end; (height, width, 3) uint8 RGB."""
        end = copy.deepcopy(self.playground)
        end.step(STEPS_TO_CONVERGE)
        return np.concatenate([self.row(), row_of(self, end)])

    def draw_motion(self) -> None:
        """Sets the artists of the points."""
        self._layout.draw(self.playground)

    def draw(self) -> None:
        """Sets the artists and the words."""
        self.draw_motion()
        self._terms.draw(self.playground)
        margins, step = self.playground.margins, len(self.playground.history) - 1
        found = self.playground.clusters()
        push = f"dashed delta_dist = {margins.delta_dist:g}, two of which must not overlap"
        self.words = (
            f"Circles around each mean: solid delta_var = {margins.delta_var:g}, where the pull ends; "
            f"{push if self.playground.dim == 2 else 'projected, means look nearer than they are'}. "
            f"Step {step}, {terms_in_words(self.playground)}. Clustering: {found.verdict}.{self._answer}"
        )


def row_of(board: Board, other: EmbeddingPlayground) -> np.ndarray:
    """What a board would show of another simulation, see ``Board.row``; it keeps its own."""
    own, board.playground = board.playground, other
    row = board.row()
    board.playground = own
    board.draw()
    return row


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
