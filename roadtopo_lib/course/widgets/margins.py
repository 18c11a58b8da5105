"""Margins explorer: what each margin and weight does to the layout, to the loss and to the clusters found."""

from roadtopo_lib.course.playground import FAILURES, EmbeddingPlayground
from roadtopo_lib.course.widgets._base import Board
from roadtopo_lib.course.widgets._controls import button, choice, clock, on_change, slider, switch
from roadtopo_lib.course.widgets.separation import (
    STEPS_PER_TICK,
    STEPS_TO_CONVERGE,
    LayoutPanel,
    TermsPanel,
    terms_in_words,
)

FIRST_STEPS = 12
"""Steps before the first picture after a slider moved: the hand wants to see at once which way things go."""

OWN = "my own"
"""What the list of presets says once a slider has been moved."""

POINTS, SPREAD = 40, 1.0
"""Points a lane, and their spread at the start in embedding units."""

SLIDERS = {
    "delta_var": ("delta_var (units)", 0.0, 2.0, 0.05),
    "delta_dist": ("delta_dist (units)", 0.05, 3.0, 0.05),
    "alpha": ("alpha (weight)", 0.0, 3.0, 0.1),
    "beta": ("beta (weight)", 0.0, 3.0, 0.1),
    "gamma": ("gamma (weight)", 0.0, 8.0, 0.001),
}


class MarginsExplorer(Board):
    """Margins, weights, sphere and clustering radius; the points follow at once, and words say what clustering finds.

    In 32 dimensions, as the model has, points are projected onto a plane; distances look shorter there than they are.
    In 2-D nothing is hidden, but fewer means fit on the unit circle.

    Args:
        lanes: lanes at the start.
        preset: name of the ``playground.FAILURES`` to begin with.
        seed: of the start.

    Attributes:
        playground: the simulation.
    """

    title = "Margins explorer"

    def __init__(self, lanes: int = 5, preset: str = "the paper's", seed: int = 0) -> None:
        super().__init__()
        margins, radius = FAILURES[preset]
        self.playground = EmbeddingPlayground(lanes, POINTS, 32, SPREAD, margins=margins, seed=seed)
        self.playground.step(STEPS_TO_CONVERGE)
        self._layout, self._terms = LayoutPanel(), TermsPanel()
        self.panels = [self._layout, self._terms]
        self._preset = choice("preset", [*FAILURES, OWN], preset)
        self._lanes = slider("lanes (number)", lanes, 2, 8, 1)
        self._dim = choice("space", [("32-D, projected", 32), ("2-D", 2)])
        self._margins = {
            name: slider(text, getattr(margins, name), low, high, step)
            for name, (text, low, high, step) in SLIDERS.items()
        }
        self._margins["gamma"].readout_format = ".3f"
        self._normalize = switch("L2-normalise (unit sphere)", margins.normalize)
        self._follow = switch("radius from the margins", radius is None)
        self._radius = slider("radius (units)", radius or 1.5, 0.05, 5.0, 0.05)
        self._found = self.playground.clusters(self.radius)
        self._quiet = False  # set while a preset moves many controls at once
        on_change(self.settle, *self._margins.values(), self._normalize)
        on_change(self._redraw, self._follow)
        on_change(self._own_radius, self._radius)
        on_change(self.choose_preset, self._preset)
        on_change(self._begin_again, self._lanes, self._dim)
        self.arrange(
            [
                *([control] for control in (self._preset, *self._margins.values(), self._normalize, self._radius)),
                [self._follow],
                [self._lanes],
                [self._dim],
                [clock(self._tick, self.update)],
                [
                    button("Restart", self.restart, "from random points, without converging: play to watch"),
                    button("Converge", self.converge, f"{STEPS_TO_CONVERGE} steps at once"),
                ],
            ]
        )

    @property
    def radius(self) -> float:
        """The clustering radius in use."""
        return self.playground.radius() if self._follow.value else self._radius.value

    def settle(self) -> None:
        """Takes the margins from the controls and lets the points follow, from where they are."""
        if self._quiet:
            return
        self._preset.value = OWN
        self._take_margins()
        self.playground.step(FIRST_STEPS)
        self.draw_motion()
        self._layout.show()
        self.converge(STEPS_TO_CONVERGE - FIRST_STEPS)

    def converge(self, steps: int = STEPS_TO_CONVERGE) -> None:
        """Steps at once, and shows."""
        self.playground.step(steps)
        self.update()

    def choose_preset(self) -> None:
        """Sets all controls as a preset says, and starts anew."""
        if self._preset.value == OWN:
            return
        margins, radius = FAILURES[self._preset.value]
        self._quiet = True
        try:
            for name, control in self._margins.items():
                control.value = getattr(margins, name)
            self._normalize.value = margins.normalize
            self._follow.value = radius is None
            if radius is not None:
                self._radius.value = radius
        finally:
            self._quiet = False
        self.playground.margins = margins
        self.playground.reset()
        self.converge()

    def restart(self) -> None:
        """A new start with what the controls say; not converged yet."""
        before = self.playground
        self.playground = EmbeddingPlayground(
            self._lanes.value, POINTS, self._dim.value, SPREAD, margins=before.margins, seed=before.seed
        )
        self.update()

    def draw_motion(self) -> None:
        """Sets the artists of the points."""
        self._found = self.playground.clusters(self.radius)
        lanes, count = self.playground.lanes, self._found.count
        finding = f"{count} {'cluster' if count == 1 else 'clusters'} for {lanes} lanes, ARI {self._found.ari:.2f}"
        self._layout.finding.set_text(finding)
        self._layout.draw(self.playground, self._found, self.radius, arrows=False)

    def draw(self) -> None:
        """Sets the artists and the words; the radius slider shows what is in use."""
        self._quiet, before = True, self._quiet
        self._radius.value = self.radius
        self._quiet = before
        self.draw_motion()
        self._terms.draw(self.playground)
        found, floor, lanes = self._found, self.playground.floor(), self.playground.lanes
        flat = self.playground.dim == 2
        self.words = (
            f"{found.count} clusters for {lanes} lanes, ARI {found.ari:.2f}: {found.verdict}. "
            f"{terms_in_words(self.playground).capitalize()}."
        )
        if floor > 0:
            self.words += (
                f" On the unit sphere {lanes} means cannot all be 2 · delta_dist ="
                f" {2 * self.playground.margins.delta_dist:.2f} apart: the distance term never falls below {floor:.2f}"
                f"{', in 2-D not even there' if flat else ''}."
            )
        self.words += " A colour is a cluster found (grey: none), a shape is a true lane, white is a lane's mean. "
        self.words += (
            "Circles around each mean: solid delta_var, dashed delta_dist, dotted the radius."
            if flat
            else "Projected, points look nearer than they are: in 32-D no circles are drawn."
        )

    def _begin_again(self) -> None:
        self.restart()
        self.converge()

    def _take_margins(self) -> None:
        values = {name: control.value for name, control in self._margins.items()}
        self.playground.set_margins(**values, normalize=self._normalize.value)

    def _redraw(self) -> None:
        if not self._quiet:
            self.update()

    def _own_radius(self) -> None:
        """A hand on the radius: it follows the margins no longer."""
        if not self._quiet:
            self._preset.value = OWN
            self._quiet, self._follow.value = True, False
            self._quiet = False
            self.update()

    def _tick(self) -> None:
        self.playground.step(STEPS_PER_TICK)
        self.next_picture()
