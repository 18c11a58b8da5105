"""Loss shaper: what each semantic loss pays for a probability, and its gradient."""

import math

import numpy as np

from roadtopo_lib.course.playground import LOSSES, MOVED, LossCurves, loss_curves
from roadtopo_lib.course.widgets._base import COLORS, LABEL, Board, Panel
from roadtopo_lib.course.widgets._controls import choice, on_change, slider

STYLES = ("-", "--", "-.", ":")
CURVES_SIZE = (4.8, 3.0)
"""Inches: two such panels below each other fit on a screen."""


class CurvesPanel(Panel):
    """Four curves over the predicted probability, and a cursor on them.

    Args:
        what: label of the vertical axis.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"Curves of four losses over the predicted probability: {what}", CURVES_SIZE)
        self.axes.set_xlabel("predicted probability of the rare class", fontsize=LABEL)
        self.axes.set_ylabel(what, fontsize=LABEL)
        self.axes.grid(alpha=0.2)
        self._lines = {
            name: self.axes.plot([], [], style, color=COLORS[i], lw=1.8, label=name)[0]
            for i, (name, style) in enumerate(zip(LOSSES, STYLES, strict=True))
        }
        self._cursor = self.axes.axvline(0.5, color="black", lw=1)
        self._dots = {
            name: self.axes.plot([], [], "o", color=COLORS[i], mec="black", ms=6)[0] for i, name in enumerate(LOSSES)
        }
        self.axes.legend(frameon=False, fontsize=LABEL, loc="upper right", ncols=2)
        self.moving(*self._lines.values(), self._cursor, *self._dots.values())

    def draw(self, curves: dict[str, np.ndarray], probability: np.ndarray, at: float, finding: str) -> None:
        """Sets all artists; the axes leave room for the largest value."""
        for name, values in curves.items():
            self._lines[name].set_data(probability, values)
            self._dots[name].set_data([at], [np.interp(at, probability, values)])
        self._cursor.set_xdata([at, at])
        low = min(0.0, *(values.min() for values in curves.values()))
        high = max(values.max() for values in curves.values())
        top = _stepped(high)
        self.set_limits(
            0, 1, -0.05 * top if low > -0.01 * top else -1.05 * _stepped(-low), 1.3 * top
        )  # above: the legend
        self.finding.set_text(finding)


class LossShaper(Board):
    """Cross-entropy, Dice, focal and Tversky over a predicted probability, and their gradient by a pixel's logit."""

    title = "Loss shaper"

    def __init__(self) -> None:
        super().__init__()
        self._loss, self._gradient = CurvesPanel("loss"), CurvesPanel("gradient by a logit (thousandths)")
        self.panels = [self._loss, self._gradient]
        self._at = slider("probability", 0.3, 0.01, 0.99, 0.01)
        self._moved = choice("what moves", MOVED, MOVED[1])
        self._share = slider("rare class (%)", 3.0, 0.1, 50.0, 0.1)
        self._rest = slider("others right (prob.)", 0.9, 0.5, 0.99, 0.01)
        self._others = slider("unmoved rare (prob.)", 0.5, 0.01, 0.99, 0.01)
        self._gamma = slider("focal gamma", 2.0, 0.0, 5.0, 0.1)
        self._alpha = slider("Tversky alpha", 0.3, 0.0, 1.0, 0.05)
        self._beta = slider("Tversky beta", 0.7, 0.0, 1.0, 0.05)
        self._others.disabled = True
        self._curves = self._compute()
        on_change(self.update, self._at)
        on_change(
            self.recompute,
            self._moved, self._share, self._rest, self._others, self._gamma, self._alpha, self._beta,
        )  # fmt: skip
        self.arrange(
            [
                [control]
                for control in (
                    self._at, self._share, self._moved, self._rest, self._others, self._gamma, self._alpha, self._beta,
                )
            ]
        )  # fmt: skip

    def recompute(self) -> None:
        """New curves from the controls."""
        self._others.disabled = self._moved.value != "one pixel"  # else none stays behind
        self._curves = self._compute()
        self.update()

    def draw(self) -> None:
        """Sets the artists and the words."""
        curves, at = self._curves, self._at.value
        there = {name: float(np.interp(at, curves.probability, values)) for name, values in curves.gradient.items()}
        strongest = max(there, key=there.get)
        self._loss.draw(curves.loss, curves.probability, at, f"{curves.rare} of 1000 pixels rare")
        self._gradient.draw(curves.gradient, curves.probability, at, f"At {at:.2f} that of {strongest} is largest")
        told = ", ".join(f"{name} {value:.2f}" for name, value in there.items())
        self.words = (
            f"Gradient towards the rare class, by a logit of one of its pixels at probability {at:.2f}, "
            f"in thousandths: {told}."
        )

    def _compute(self) -> LossCurves:
        return loss_curves(
            rare_share=self._share.value / 100,
            rest=self._rest.value,
            others=self._others.value,
            moved=self._moved.value,
            gamma=self._gamma.value,
            alpha=self._alpha.value,
            beta=self._beta.value,
        )


def _stepped(value: float) -> float:
    """The next power of √2: an axis must not shake, nor its background be drawn anew, with every small change."""
    return 2 ** (math.ceil(2 * math.log2(value)) / 2)
