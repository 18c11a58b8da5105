"""What all widgets share: panels drawn by matplotlib, controls beside them, and a still picture where no kernel runs.

A panel is one small figure. What moves is redrawn over a stored background (blitting), the picture goes to the browser
as a PNG, and the same artists give the still picture. The clock of an animation is the browser's ``Play``: Colab
shows no picture that a thread or a loop of the kernel sends by itself.

Only the core of ``ipywidgets``, and of that only what versions 7.7.1 (Colab) and 8 share.
"""

import base64
import functools
import io
import math
import textwrap
import threading
from collections.abc import Callable, Sequence

import cv2
import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from roadtopo_lib.viz import INSTANCE_COLORS

DPI = 100
PANEL_SIZE = (4.1, 3.5)
"""Inches: two panels lie side by side in JupyterLab on a 1280 pixel screen, file list open; one alone fills a phone."""

COLORS = INSTANCE_COLORS / 255
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A lane has its own shape as well as its own colour."""

DASH = 10
"""Pixels from one dash of a line to the next."""

PALETTE_COLORS = 128
"""Colours of a picture on its way to the browser: fewer bytes, which counts where the kernel is far away."""

PICTURES_PER_UPDATE = 3
"""While the clock runs, the second panel and the words follow with every third picture: nobody reads faster, and it
leaves the time to what moves."""

VIEW = "application/vnd.jupyter.widget-view+json"

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


class Panel:
    """One figure whose moving artists are redrawn over a stored background.

    Args:
        size: (width, height) in inches.

    Attributes:
        figure, axes: matplotlib's.
        image: the widget that shows it.
    """

    def __init__(self, size: tuple[float, float] = PANEL_SIZE) -> None:
        self.figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="none")
        self._canvas = FigureCanvasAgg(self.figure)
        # Fixed margins, in inches: a layout that adapts would shift the picture when a tick label grows.
        self.figure.subplots_adjust(0.62 / size[0], 0.48 / size[1], 1 - 0.12 / size[0], 1 - 0.32 / size[1])
        self.axes = self.figure.add_subplot()
        self.axes.spines[["top", "right"]].set_visible(False)
        self.axes.tick_params(labelsize=8)
        self._moving: list[Artist] = []
        self._background = None
        self._limits: tuple[float, ...] = ()
        self.image = widgets.Image(
            format="url", layout=widgets.Layout(width=f"{size[0] * DPI:.0f}px", max_width="100%")
        )

    def moving(self, *artists: Artist) -> None:
        """Names artists that change from picture to picture; all others belong to the background."""
        for artist in artists:
            artist.set_animated(True)
        self._moving += artists

    def finding(self) -> Text:
        """A title that may change with every picture: it states what is found."""
        return self.axes.text(
            0.5, 1.02, "", transform=self.axes.transAxes, ha="center", va="bottom", fontsize=9.5, weight="bold"
        )

    def forget(self) -> None:
        """The background has changed: it is drawn anew with the next picture."""
        self._background = None

    def set_limits(self, left: float, right: float, bottom: float, top: float) -> None:
        """Axis limits; new ones cost a full drawing, equal ones nothing."""
        if self._limits != (left, right, bottom, top):
            self._limits = (left, right, bottom, top)
            self.axes.set(xlim=(left, right), ylim=(bottom, top))
            self.forget()

    def pixels(self) -> np.ndarray:
        """The picture as (height, width, 3) uint8 RGB."""
        if self._background is None:
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self._canvas.restore_region(self._background)
        for artist in self._moving:
            self.figure.draw_artist(artist)
        return cv2.cvtColor(
            np.asarray(self._canvas.buffer_rgba()), cv2.COLOR_RGBA2RGB
        )  # 40 x faster than a copy by numpy

    def show(self) -> None:
        """Draws, and hands the picture to the browser."""
        # As a data URL (15.1 pictures a second): a browser gets bytes by way of another process (14.0).
        self.image.value = b"data:image/png;base64," + base64.b64encode(png(self.pixels()))


class PicturePanel(Panel):
    """A picture with a finding above it.

    Args:
        size: (height, width) of the picture in pixels.
        inches: width of the panel.
    """

    def __init__(self, size: tuple[int, int], inches: float = PANEL_SIZE[0]) -> None:
        height = inches * size[0] / size[1] + 0.3
        super().__init__((inches, height))
        self.figure.subplots_adjust(0.02 / inches, 0.02 / height, 1 - 0.02 / inches, 1 - 0.3 / height)
        self.axes.set_axis_off()
        box = self.axes.get_window_extent()
        self._left, self._bottom, self._width, self._height = (round(v) for v in box.bounds)
        self._picture = np.zeros((self._height, self._width, 3), np.uint8)
        self._title = self.finding()
        self.moving(self._title)

    def draw(self, picture: np.ndarray, finding: str, row: float | None = None) -> None:
        """Shows (H, W, 3) uint8, with a dashed line across one row if asked for."""
        self._picture = cv2.resize(picture, (self._width, self._height), interpolation=cv2.INTER_AREA)
        if row is not None:
            y = min(self._height - 1, round((row + 0.5) * self._height / len(picture)))
            dashes = np.arange(self._width) % DASH < DASH // 2
            self._picture[max(0, y - 1) : y + 1, dashes] = 255
        self._title.set_text(finding)

    def pixels(self) -> np.ndarray:
        """The title as matplotlib draws it, and the picture put below: its ``imshow`` takes 18 ms."""
        canvas = super().pixels()
        top = len(canvas) - self._bottom - self._height
        canvas[top : top + self._height, self._left : self._left + self._width] = self._picture
        return canvas


class Board:
    """A widget of the course: ``self.panels`` beside controls, and a line of words.

    A subclass fills ``panels``, calls ``arrange`` with its controls, and draws in ``draw``; one with a clock draws its
    first panel in ``draw_motion``.

    Attributes:
        panels: the pictures, in the order of the still picture.
        box: the whole, an ipywidgets box.
        words: what the widget says about its state; plain text.
        contrast: a control and a value. The still picture shows what that value would change, below what is there.
    """

    title = "widget"

    def __init__(self) -> None:
        self.panels: list[Panel] = []
        self.words = ""
        self.contrast: tuple[widgets.Widget, object] | None = None
        self._line = widgets.HTML()
        self._pictures = 0  # of the clock's, so far
        self.box = widgets.VBox()

    def arrange(self, rows: Sequence[Sequence[widgets.Widget]]) -> None:
        """Lays out rows of controls, the pictures below them, and the words; draws for the first time."""
        wrap = widgets.Layout(display="flex", flex_flow="row wrap", align_items="center")
        self.box.children = [
            *(widgets.Box(list(row), layout=wrap) for row in rows),
            widgets.Box([panel.image for panel in self.panels], layout=wrap),
            self._line,
        ]
        self.box.layout = widgets.Layout(max_width="980px")
        self.update()

    def draw(self) -> None:
        """Sets the artists and ``self.words``."""
        raise NotImplementedError

    @in_turn
    def update(self) -> None:
        """Draws and shows everything."""
        self.draw()
        for panel in self.panels:
            panel.show()
        self._line.value = f'<div role="status" style="font-size: 14px; line-height: 1.4">{self.words}</div>'

    def draw_motion(self) -> None:
        """Sets the artists of the first panel."""
        raise NotImplementedError

    def next_picture(self) -> None:
        """One picture of an animation: the first panel, and at times the rest. ``update`` when it stops."""
        self._pictures += 1
        if self._pictures % PICTURES_PER_UPDATE == 0:
            self.update()
        else:
            self.draw_motion()
            self.panels[0].show()

    def still(self) -> np.ndarray:
        """The picture for where no kernel runs: what is there, and the contrast; (height, width, 3) uint8 RGB."""
        rows = [self.row()]
        control, other = self.contrast or (None, None)
        if control and control.value != other:
            own, control.value = control.value, other
            rows.append(self.row())
            control.value = own
        return np.concatenate(rows)

    def row(self) -> np.ndarray:
        """All panels side by side as they are now, under the words; (height, width, 3) uint8 RGB."""
        self.draw()
        pictures = [panel.pixels() for panel in self.panels]
        tallest = max(len(picture) for picture in pictures)
        pictures = [np.pad(p, ((0, tallest - len(p)), (0, 0), (0, 0)), constant_values=255) for p in pictures]
        row = np.concatenate(pictures, axis=1)
        return np.concatenate([_written(f"{self.title} · {self.words}", row.shape[1]), row])

    @in_turn
    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        """The live widget where a kernel runs, the still picture elsewhere."""
        return {
            "text/plain": f"[{self.title}: run this cell to move it]",
            "image/png": base64.b64encode(png(self.still())).decode(),
            VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id},
        }


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG with a palette."""
    file = io.BytesIO()
    picture = Image.fromarray(pixels).quantize(PALETTE_COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def slider(name: str, value: float, low: float, high: float, step: float) -> widgets.Widget:
    """A labelled slider; whole numbers where value and step are.

    Args:
        name: with its unit, as in ``"radius (units)"``; short, for on a phone it leaves little room to the slider.
            "Units" are those of the embedding space.
    """
    kind = widgets.IntSlider if isinstance(value, int) and isinstance(step, int) else widgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=name,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="320px", max_width="100%"),
    )


def choice(name: str, options: Sequence, value: object = None) -> widgets.Dropdown:
    """A labelled list to choose from; options are values, or pairs of a text and a value."""
    first = options[0][1] if isinstance(options[0], tuple) else options[0]
    return widgets.Dropdown(
        options=options,
        value=first if value is None else value,
        description=name,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="320px", max_width="100%"),
    )


def switch(name: str, value: bool = False) -> widgets.Checkbox:
    """A labelled check box."""
    return widgets.Checkbox(
        value=value, description=name, indent=False, layout=widgets.Layout(width="auto", max_width="100%")
    )


def note(text: str) -> widgets.HTML:
    """A line of words between controls."""
    return widgets.HTML(f'<span style="font-size: 14px">{text}</span>')


def button(name: str, action: Callable[[], None], help_text: str = "") -> widgets.Button:
    """A button with words on it: Colab shows no icons."""
    made = widgets.Button(
        description=name, tooltip=help_text or name, layout=widgets.Layout(width="auto", min_width="70px")
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


def _written(text: str, width: int) -> np.ndarray:
    """A strip of words, wrapped to the width: (height, width, 3) uint8 RGB."""
    lines = textwrap.wrap(text, width=max(20, width // 7))
    figure = Figure(figsize=(width / DPI, (len(lines) * 17 + 8) / DPI), dpi=DPI, facecolor="white", layout="none")
    canvas = FigureCanvasAgg(figure)
    figure.text(8 / width, 0.5, "\n".join(lines), va="center", fontsize=9.5)
    canvas.draw()
    strip = np.asarray(canvas.buffer_rgba())[..., :3]
    return strip[:, :width].copy()
