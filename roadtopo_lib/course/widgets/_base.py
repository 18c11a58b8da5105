"""What all widgets share: panels drawn by matplotlib, controls beside them, and a still picture where no kernel runs.

A panel is one small figure. What moves is redrawn over a stored background (blitting), the picture goes to the browser
as a PNG or JPEG, and the same artists give the still picture. The clock of an animation is the browser's ``Play``:
Colab shows no picture that a thread or a loop of the kernel sends by itself.
"""

import base64
import io
import textwrap
from collections.abc import Sequence

import cv2
import ipywidgets as widgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from roadtopo_lib.course.widgets._controls import button, in_turn
from roadtopo_lib.course.widgets._page import house, spoken
from roadtopo_lib.viz import INSTANCE_COLORS

DPI = 110
PANEL_SIZE = (4.8, 3.7)
"""Inches: one panel fills a phone, and what the controls leave in JupyterLab on a 1280 pixel screen, file list open."""
HALF = 4.0
"""Inches of width of a picture that shares a row with another one."""
TICK, LABEL, TITLE = 9, 9.5, 11
"""Points: on a phone a panel is shown at little more than half its size."""
ENLARGED = 1.3
"""The most that a browser may enlarge a panel."""
STILL_WIDTH = 1100
"""Pixels of the still picture; panels beyond it begin a new row."""
STILL_QUALITY, STILL_COLORS = 60, 32
"""JPEG quality of a still picture with photographs, 0..100, and colours of one without: a notebook holds it, and is
small."""
STILL_WORDS = 14
"""Points: on a phone, which shows the still picture at two fifths, its words are 8 pixels high."""

COLORS = INSTANCE_COLORS / 255
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A lane has its own shape as well as its own colour."""

DASH = 10
"""Pixels from one dash of a line to the next."""

PALETTE_COLORS = 128
"""Colours of a plot on its way to the browser: fewer bytes, which counts where the kernel is far away."""
JPEG_QUALITY = 90

PICTURES_PER_UPDATE = 6
"""While the clock runs, the second panel and the words follow with every sixth picture: nobody reads faster, and it
leaves the time to what moves."""

VIEW = "application/vnd.jupyter.widget-view+json"


class Panel:
    """One figure whose moving artists are redrawn over a stored background.

    Args:
        name: what it shows, for those who do not see it.
        size: (width, height) in inches.
        whole: it takes a row of its own, except on wide screens.

    Attributes:
        figure, axes: matplotlib's.
        image: the widget that shows it.
        kind: "plot", "photo" (sent as JPEG, without banding) or "flat" (exact colours).
    """

    def __init__(self, name: str, size: tuple[float, float] = PANEL_SIZE, whole: bool = True) -> None:
        self.name, self.kind = name, "plot"
        self.figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="none")
        self._canvas = FigureCanvasAgg(self.figure)
        # Fixed margins, in inches: a layout that adapts would shift the picture when a tick label grows.
        self.figure.subplots_adjust(0.66 / size[0], 0.5 / size[1], 1 - 0.24 / size[0], 1 - 0.36 / size[1])
        self.axes = self.figure.add_subplot()
        self.axes.spines[["top", "right"]].set_visible(False)
        self.axes.tick_params(labelsize=TICK)
        self._title = self.axes.text(
            0.5, 1.02, "", transform=self.axes.transAxes, ha="center", va="bottom", fontsize=TITLE, weight="bold"
        )
        self._title.set_animated(True)
        self._moving: list[Artist] = []
        self._background = self._bare = None  # with the title, and without
        self._written = ""  # the title in the background
        self._limits: tuple[float, ...] = ()
        self.image = widgets.Image(format="url", layout=widgets.Layout(max_width=f"{ENLARGED * size[0] * DPI:.0f}px"))
        for css in ("rt-picture", *(["rt-whole"] if whole else [])):
            self.image.add_class(css)

    def moving(self, *artists: Artist) -> None:
        """Names artists that change from picture to picture; all others belong to the background."""
        for artist in artists:
            artist.set_animated(True)
        self._moving += artists

    @property
    def finding(self) -> Text:
        """The title, which may change with every picture: it states what is found."""
        return self._title

    @property
    def alt(self) -> str:
        """The picture in words: its title and what it shows."""
        return f"{self._title.get_text()}. {self.name}"

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
            self._bare = self._canvas.copy_from_bbox(self.figure.bbox)
        if self._background is None or self._title.get_text() != self._written:
            # Letters cost 8 ms, more than all points: the same title is drawn once.
            self._written = self._title.get_text()
            self._canvas.restore_region(self._bare)
            self.figure.draw_artist(self._title)
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
        mime, data = encoded(self.pixels(), self.kind)
        self.image.value = f"data:{mime};base64,{base64.b64encode(data).decode()}".encode()


class PicturePanel(Panel):
    """A picture with a finding above it.

    Args:
        name: what it shows, for those who do not see it.
        size: (height, width) of the picture in pixels.
        inches: width of the panel.
        whole: it takes a row of its own, except on wide screens.
        flat: the picture has a few colours, which must arrive exactly.
    """

    def __init__(
        self, name: str, size: tuple[int, int], inches: float = HALF, whole: bool = False, flat: bool = False
    ) -> None:
        height = inches * size[0] / size[1] + 0.3
        super().__init__(name, (inches, height), whole)
        self.kind = "flat" if flat else "photo"
        self.figure.subplots_adjust(0.02 / inches, 0.02 / height, 1 - 0.02 / inches, 1 - 0.3 / height)
        self.axes.set_axis_off()
        box = self.axes.get_window_extent()
        self._left, self._bottom, self._width, self._height = (round(v) for v in box.bounds)
        self._picture = np.zeros((self._height, self._width, 3), np.uint8)

    def draw(self, picture: np.ndarray, finding: str, row: float | None = None) -> None:
        """Shows (H, W, 3) uint8, with a dashed line across one row if asked for."""
        how = cv2.INTER_NEAREST if self.kind == "flat" else cv2.INTER_AREA  # the mean of two classes is a third one
        self._picture = cv2.resize(picture, (self._width, self._height), interpolation=how)
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
    first panel in ``draw_motion``. One that may take long says so in ``slow``: then a move only announces what is to
    come, and the browser asks for it once the hand rests (or the reader does, with ``Compute``). So no move waits for
    those before it, and only the latest is computed.

    Attributes:
        panels: the pictures, in the order of the still picture.
        box: the whole, an ipywidgets box.
        words: what the widget says about its state; plain text.
        ask: the button ``Compute``, for a board that may take long.
    """

    title = "widget"

    def __init__(self) -> None:
        self.panels: list[Panel] = []
        self.words = ""
        self.ask = button("Compute", self._compute, "computes what the controls say")
        self.ask.add_class("rt-compute")
        self.ask.disabled = True
        self._line = widgets.HTML()
        self._line.add_class("rt-words")
        self._pictures = 0  # of the clock's, so far
        self._moves = 0  # that take long, so far
        self.box = widgets.VBox()

    def arrange(self, rows: Sequence[Sequence[widgets.Widget]]) -> None:
        """Lays out rows of controls, the pictures beside or below them, and the words; draws for the first time."""
        wrap = widgets.Layout(display="flex", flex_flow="row wrap", align_items="center", overflow="visible")
        controls = widgets.Box(
            [row[0] if len(row) == 1 else widgets.Box(list(row), layout=wrap) for row in rows],
            layout=widgets.Layout(display="flex", flex_flow="column"),
        )
        pictures, grid = widgets.Box([panel.image for panel in self.panels]), widgets.Box()
        grid.children = [controls, self._line, pictures]
        self.box.children = [house([control for row in rows for control in row]), grid]
        self.box.layout = widgets.Layout(width="100%")
        named = {"rt-board": self.box, "rt-grid": grid, "rt-controls": controls, "rt-pictures": pictures}
        for css, part in named.items():
            part.add_class(css)
        self.redraw()

    def draw(self) -> None:
        """Sets the artists and ``self.words``."""
        raise NotImplementedError

    def slow(self) -> str:
        """What would take long if it were drawn now, as the subject of "computes …"; empty if nothing."""
        return ""

    @in_turn
    def update(self) -> None:
        """Draws and shows everything; if that takes long, announces it."""
        if not self.slow():
            self.redraw()
            return
        self._moves += 1
        self.ask.disabled = False
        self.panels[0].finding.set_text(f"{self.slow()} computes …")
        self.panels[0].show()
        self._say(f"{self.slow()} computes … (a slow method: the latest move only)", self._moves)

    @in_turn
    def redraw(self) -> None:
        """Draws and shows everything."""
        self.draw()
        self.ask.disabled = True
        for panel in self.panels:
            panel.show()
        self._say(self.words)

    def _compute(self) -> None:
        if not self.ask.disabled:  # else another view of the same widget has asked
            self.redraw()

    def _say(self, words: str, due: int | None = None) -> None:
        self.words = words
        self._line.value = spoken(words, [panel.alt for panel in self.panels], due)

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
        """The picture for where no kernel runs: what is there, under the words; (height, width, 3) uint8 RGB.

        It shows nothing that the reader has not set: what a move would bring is what the notebooks ask for.
        """
        self.draw()
        rows: list[list[np.ndarray]] = []
        for picture in (panel.pixels() for panel in self.panels):
            if not rows or sum(p.shape[1] for p in rows[-1]) + picture.shape[1] > STILL_WIDTH:
                rows.append([])
            rows[-1].append(picture)
        width = max(sum(picture.shape[1] for picture in row) for row in rows)
        drawn = [_beside(row, width) for row in rows]
        return np.concatenate([_written(f"{self.title} · {self.words}", width), *drawn])

    @in_turn
    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, object], dict[str, object]]:
        """The live widget where a kernel runs, the still picture elsewhere; and what a viewer may tell of it."""
        photo = any(panel.kind == "photo" for panel in self.panels)
        mime, data = encoded(self.still(), "photo" if photo else "plot", STILL_QUALITY, 9, STILL_COLORS)
        alt = f"{self.title}: {' '.join(f'{panel.alt}.' for panel in self.panels)}"
        return {
            "text/plain": f"[{self.title}: run this cell to move it]",
            mime: base64.b64encode(data).decode(),
            VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id},
        }, {mime: {"alt": alt}}


def encoded(
    pixels: np.ndarray, kind: str, quality: int = JPEG_QUALITY, compression: int = 1, colors: int = PALETTE_COLORS
) -> tuple[str, bytes]:
    """(H, W, 3) uint8 RGB as its media type and bytes: JPEG for a "photo", PNG for a "plot" or a "flat" picture."""
    if kind != "plot":
        ending, options = {
            "photo": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality,
                               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]),
            "flat": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
        }[kind]  # fmt: skip
        data = cv2.imencode(ending, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()
        return "image/jpeg" if kind == "photo" else "image/png", data
    picture = Image.fromarray(pixels).quantize(colors, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
    palette[(palette >= 250).all(axis=1)] = 255  # the quantiser's white is a mean of near whites
    picture.putpalette(palette.ravel().tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=compression)
    return "image/png", file.getvalue()


def _beside(pictures: list[np.ndarray], width: int) -> np.ndarray:
    """Pictures side by side, filled up with white from above and from the right: (height, width, 3) uint8 RGB."""
    tallest = max(len(picture) for picture in pictures)
    row = np.concatenate(
        [np.pad(p, ((tallest - len(p), 0), (0, 0), (0, 0)), constant_values=255) for p in pictures], axis=1
    )
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)


def _written(text: str, width: int) -> np.ndarray:
    """A strip of words, wrapped to the width: (height, width, 3) uint8 RGB."""
    letter, line = STILL_WORDS * DPI / 72 * np.array([0.56, 1.3])  # pixels, across and down
    lines = textwrap.wrap(text, width=max(20, int(width / letter)))
    figure = Figure(figsize=(width / DPI, (len(lines) * line + 8) / DPI), dpi=DPI, facecolor="white", layout="none")
    canvas = FigureCanvasAgg(figure)
    figure.text(8 / width, 0.5, "\n".join(lines), va="center", fontsize=STILL_WORDS)
    canvas.draw()
    strip = np.asarray(canvas.buffer_rgba())[..., :3]
    return strip[:, :width].copy()
