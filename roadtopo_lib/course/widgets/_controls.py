"""Controls of the widgets: sliders, lists, switches, buttons and the clock, one look for all.

Only the core of ``ipywidgets``, and of that only what versions 7.7.1 (Colab) and 8 share.
"""

import functools
import math
import threading
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import traitlets

LABEL_WIDTH = "146px"
"""One for all controls: their handles and lists stand below each other."""

_TURN = threading.RLock()
"""Held by whoever changes a board or draws: JupyterLab 4.4 and newer lets controls answer in a thread of their own, a
subshell of the kernel, and those it has not heard from there still in the main thread. One for all boards, since
matplotlib is not made for threads."""


def in_turn(action: Callable) -> Callable:
    """The same function, waiting while another thread is in one."""

    @functools.wraps(action)
    def waiting(*args: object, **kwargs: object) -> object:
        with _TURN:
            return action(*args, **kwargs)

    return waiting


def slider(name: str, value: float, low: float, high: float, step: float) -> widgets.Widget:
    """A labelled slider; whole numbers where value and step are.

    Args:
        name: with its unit, as in ``"radius (units)"``; short, to fit into ``LABEL_WIDTH``. "Units" are those of the
            embedding space.
    """
    kind = widgets.IntSlider if isinstance(value, int) and isinstance(step, int) else widgets.FloatSlider
    return kind(value=value, min=low, max=high, step=step, **_labelled(name))


def picker(name: str, options: Sequence, value: object) -> widgets.SelectionSlider:
    """A labelled slider over a few values; options are pairs of a text and a value."""
    return widgets.SelectionSlider(options=options, value=value, **_labelled(name))


def choice(name: str, options: Sequence, value: object = None) -> widgets.Dropdown:
    """A labelled list to choose from; options are values, or pairs of a text and a value."""
    first = options[0][1] if isinstance(options[0], tuple) else options[0]
    return widgets.Dropdown(options=options, value=first if value is None else value, **_labelled(name))


def _labelled(name: str) -> dict[str, object]:
    return {
        "description": name,
        "style": {"description_width": LABEL_WIDTH},
        "layout": widgets.Layout(width="100%", margin="0"),
    }


def switch(name: str, value: bool = False) -> widgets.Checkbox:
    """A labelled check box."""
    return widgets.Checkbox(
        value=value, description=name, indent=False, layout=widgets.Layout(width="auto", max_width="100%")
    )


def note(text: str) -> widgets.HTML:
    """A line of words between controls."""
    return widgets.HTML(f'<div style="font-size: 14px; line-height: 1.4">{text}</div>')


def button(name: str, action: Callable[[], None], help_text: str = "") -> widgets.Button:
    """A button with words on it: Colab shows no icons."""
    made = widgets.Button(
        description=name, tooltip=help_text or name, layout=widgets.Layout(width="auto", min_width="64px")
    )
    made.on_click(in_turn(lambda _: action()))
    return made


class _Play(widgets.Play):
    """A clock whose ticks are not sent back to the browser: one message less for every picture."""

    value = traitlets.CInt(0).tag(sync=True, echo_update=False)


def clock(tick: Callable[[], None], rest: Callable[[], None], interval: int = 40) -> widgets.Play:
    """The browser's clock, a control with a button to play.

    Args:
        tick: called every ``interval`` milliseconds, or as often as it is done.
        rest: called when the clock stops.
        interval: in milliseconds.
    """
    play = _Play(min=0, max=1_000_000, interval=interval, layout=widgets.Layout(width="auto"))

    @in_turn
    def on_value(change: dict) -> None:
        if change["new"] > change["old"]:  # its stop button sets it back to 0, which is no tick
            tick()

    @in_turn
    def on_playing(change: dict) -> None:
        if not change["new"]:
            rest()

    play.observe(on_value, "value")
    play.observe(on_playing, "playing" if play.has_trait("playing") else "_playing")  # ipywidgets 8, 7
    return play


def film(shown: widgets.SelectionSlider, interval: int = 1000) -> widgets.Play:
    """A clock that leads a slider from its first value to its last, and stops there; it begins anew from the last.

    Args:
        shown: its options' values are 0, 1, 2, …
        interval: in milliseconds.
    """
    last = len(shown.options) - 1
    play = _Play(min=0, max=last, value=shown.value, interval=interval, layout=widgets.Layout(width="auto"))
    play.observe(in_turn(lambda change: setattr(shown, "value", change["new"])), "value")
    shown.observe(in_turn(lambda change: setattr(play, "value", change["new"])), "value")
    return play


def on_change(action: Callable[[], None], *controls: widgets.Widget) -> None:
    """Calls ``action`` when any of these controls gets another value.

    A slider that is set to 0.7 answers from the browser with 0.7000000000000001: that is no other value.
    """

    @in_turn
    def on_value(change: dict) -> None:
        before, now = change["old"], change["new"]
        if not (isinstance(now, float) and math.isclose(before, now)):
            action()

    for control in controls:
        # A value that comes from the browser waits, too: a drawing must not see it change half way.
        control.set_state = in_turn(control.set_state)
        control.observe(on_value, "value")
