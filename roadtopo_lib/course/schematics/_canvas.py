"""What all drawings share: a white sheet measured in inches, one palette, and the frame of the course.

Axes: x to the right and y down, both in inches from the upper left corner, so that a layout reads like the drawing. A
sheet is 8 inches wide. Shown 420 pixels wide, text of 12 points is then 9 pixels high, which can be read; what is
printed smaller only adds to the picture.
"""

from collections.abc import Callable, Sequence
from functools import cache

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.course.data import frame, render_frame
from roadtopo_lib.data.samples import Sample
from roadtopo_lib.dataset import build_transform
from roadtopo_lib.scenes import Scene
from roadtopo_lib.viz import INSTANCE_COLORS

WIDTH = 8.0
"""Of every drawing, in inches."""

TITLE, TEXT, SMALL = 15.0, 12.5, 10.5
"""Sizes in points."""

BLUE, RED, GREEN, YELLOW, CYAN, PURPLE, ORANGE = COLORS = tuple(
    "#{:02x}{:02x}{:02x}".format(*color) for color in INSTANCE_COLORS
)
INK, GREY, FAINT = "#222222", "#666666", "#DDDDDD"

ALT: dict[str, str] = {}
"""Name of each drawing → one sentence that describes it to those who do not see it."""


def drawing(alt: str) -> Callable:
    """Registers a drawing with its description, which also becomes the function's attribute ``alt``."""

    def register(function: Callable[..., Figure]) -> Callable[..., Figure]:
        ALT[function.__name__] = function.alt = alt
        return function

    return register


def tint(color: str, share: float = 0.2) -> tuple[float, float, float]:
    """A colour mixed with white; ``share`` 0..1 is what remains of it."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return tuple(float(v) for v in share * rgb + 1 - share)


@cache
def frame_sample() -> Sample:
    """The frame of the course: image, semantic mask, instance mask."""
    return frame()


@cache
def frame_scene() -> Scene:
    """The frame rendered again: its camera and its exact lanes."""
    return render_frame()


@cache
def network_sample() -> Sample:
    """The frame as the network of preset ``tiny`` sees it: cut, then shrunk to ``image_size``."""
    return build_transform(LaneSegmentationConfig.preset("tiny"), train=False)(*frame_sample(), 0)


class Sheet:
    """One drawing in the making.

    Args:
        height: in inches.
        title: the sentence above it.
    """

    def __init__(self, height: float, title: str) -> None:
        self.figure = Figure(figsize=(WIDTH, height), facecolor="white", layout="none")
        self.height = height
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.axes.axis("off")
        self.text(0.15, 0.28, title, TITLE, weight="bold", ha="left")

    def text(self, x: float, y: float, words: str, size: float = TEXT, color: str = INK, **style) -> None:
        """Words around the point (x, y), or beside it with ``ha="left"`` and the like."""
        style = {"ha": "center", "linespacing": 1.15, **style}
        if "va" not in style and not set("\n$") & set(words):
            y, style["va"] = y + 0.36 * size / 72, "baseline"  # half a capital: words of a row stand on one line
        style.setdefault("va", "center")
        self.axes.text(x, y, words, fontsize=size, color=color, family="DejaVu Sans", **style)

    def box(self, x: float, y: float, width: float, height: float, words: str = "", color: str = BLUE, **style) -> None:
        """A rounded box with its upper left corner at (x, y), and words in its middle."""
        shape = f"round,pad=0,rounding_size={min(0.09, height / 3)}"
        fill, level = style.pop("fill", tint(color)), style.pop("zorder", 2)
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, shape, fc=fill, ec=color, lw=1.6, zorder=level))
        if words:
            self.text(x + width / 2, y + height / 2, words, zorder=level + 1, **style)

    def rectangle(self, x: float, y: float, width: float, height: float, color: str = INK, **style) -> None:
        """A plain rectangle, an outline unless ``fc`` fills it."""
        style = {"fc": "none", "lw": 1.6, "zorder": 4, **style}
        self.axes.add_patch(Rectangle((x, y), width, height, ec=color, **style))

    def arrow(self, start: Sequence[float], end: Sequence[float], color: str = INK, bend: float = 0.0, **style) -> None:
        """An arrow from point to point; ``bend`` curves it."""
        style = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.8, "shrinkA": 0, "shrinkB": 0, "zorder": 5, **style}
        path = f"arc3,rad={bend}"
        self.axes.add_patch(FancyArrowPatch(tuple(start), tuple(end), connectionstyle=path, color=color, **style))

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str = INK, **style) -> None:
        """A line through points."""
        self.axes.plot(xs, ys, color=color, **{"lw": 1.8, "solid_capstyle": "round", "zorder": 3, **style})

    def dots(self, points: np.ndarray, color: str | Sequence = BLUE, size: float = 18.0, **style) -> None:
        """Dots at (N, 2) points."""
        points = np.reshape(points, (-1, 2))
        self.axes.scatter(points[:, 0], points[:, 1], s=size, c=color, **{"linewidths": 0, "zorder": 4, **style})

    def circle(
        self,
        center: Sequence[float],
        radius: float,
        color: str = BLUE,
        within: tuple[float, float, float, float] | None = None,
        **style,
    ) -> None:
        """A circle, an outline unless ``fc`` fills it, cut off at the rectangle ``within`` (x, y, width, height)."""
        circle = Circle(tuple(center), radius, ec=color, **{"fc": "none", "lw": 1.8, "zorder": 3, **style})
        self.axes.add_patch(circle)
        if within:
            x, y, width, height = within
            circle.set_clip_path(Rectangle((x, y), width, height, transform=self.axes.transData))

    def badge(self, spot: Sequence[float], words: str, color: str) -> None:
        """A number in a coloured ring."""
        self.circle(spot, 0.18, color, fc="white", lw=2.6, zorder=7)
        self.text(*spot, words, TEXT if len(words) == 1 else SMALL, weight="bold", zorder=8)

    def polygon(self, points: Sequence[Sequence[float]], color: str = BLUE, **style) -> None:
        """A filled polygon."""
        self.axes.add_patch(Polygon(points, **{"fc": tint(color), "ec": color, "lw": 1.4, "zorder": 2, **style}))

    def image(
        self,
        pixels: np.ndarray,
        x: float,
        y: float,
        width: float,
        height: float | None = None,
        smooth: bool = True,
    ) -> float:
        """A picture with its upper left corner at (x, y); returns its height, by default that of square pixels.

        Without ``smooth`` each pixel is a square of one colour.
        """
        if height is None:
            height = width * pixels.shape[0] / pixels.shape[1]
        how = {"interpolation": "antialiased" if smooth else "nearest", "aspect": "auto", "zorder": 3}
        self.axes.imshow(pixels, extent=(x, x + width, y + height, y), **how)
        self.axes.set(xlim=(0, WIDTH), ylim=(self.height, 0))  # imshow moves them
        self.rectangle(x, y, width, height, GREY, lw=0.8)
        return height

    def cells(
        self,
        values: np.ndarray,
        x: float,
        y: float,
        side: float,
        fill: Callable[[float], object] | None = None,
        words: str | None = "{:g}",
        size: float = TEXT,
        edge: str = GREY,
    ) -> None:
        """A table of square cells.

        Args:
            values: (rows, columns).
            x, y: upper left corner.
            side: of a cell.
            fill: value → colour; default white.
            words: format of the values, ``None`` for empty cells.
        """
        for (row, column), value in np.ndenumerate(values):
            left, top = x + column * side, y + row * side
            self.rectangle(left, top, side, side, edge, fc=fill(value) if fill else "white", lw=0.8, zorder=2)
            if words is not None:
                self.text(left + side / 2, top + side / 2, words.format(value), size, zorder=6)

    def mesh(self, x: float, y: float, rows: int, columns: int, side: float, color: str = "white") -> None:
        """Thin lines between square cells, drawn over a picture."""
        right, bottom = x + columns * side, y + rows * side
        for k in range(1, columns):
            self.line([x + k * side] * 2, [y, bottom], color, lw=0.35, zorder=5)
        for k in range(1, rows):
            self.line([x, right], [y + k * side] * 2, color, lw=0.35, zorder=5)

    def slab(
        self, x: float, y: float, width: float, height: float, depth: float, color: str = BLUE, share: float = 0.3
    ) -> None:
        """A feature map as a block: height × width in front, its channels to the back.

        The front face has its upper left corner at (x, y); the block reaches ``depth`` to the right and up.
        """
        up = 0.6 * depth
        front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        top = [(x, y), (x + depth, y - up), (x + width + depth, y - up), (x + width, y)]
        side = [
            (x + width, y),
            (x + width + depth, y - up),
            (x + width + depth, y + height - up),
            (x + width, y + height),
        ]
        for face, part in ((top, 0.6 * share), (side, 1.6 * share), (front, share)):
            self.polygon(face, color, fc=tint(color, min(part, 1.0)), lw=1.1)


def backdrop(image: np.ndarray, columns: int = 512) -> np.ndarray:
    """A photograph in few pale greys: lines drawn over it stand out, and the stored picture stays small.

    Args:
        image: (H, W, 3) uint8 RGB.
        columns: of the result, at most.
    """
    small = min(columns, image.shape[1])
    image = cv2.resize(image, (small, round(small * image.shape[0] / image.shape[1])), interpolation=cv2.INTER_AREA)
    grey = 255 - 0.38 * (255 - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return np.repeat((np.round(grey / 9) * 9).astype(np.uint8)[..., None], 3, axis=2)


def averaged(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Mean colour of each of (rows, columns) equal parts of an image: (rows, columns, 3) uint8."""
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def clumps(
    sheet: Sheet, x: float, y: float, width: float, height: float, count: int, known: bool, ball: float = 0.15
) -> None:
    """Clumps of points, one a lane, in a frame: grey, or in the lanes' colours with a ball around each.

    Args:
        x, y, width, height: of the frame, in inches.
        count: of the lanes.
        known: whether the lanes are told apart.
        ball: radius of the balls, in inches.
    """
    rng = np.random.default_rng(0)
    sheet.rectangle(x, y, width, height, GREY, lw=0.8, fc="white", zorder=2.5)
    for k in range(count):
        center = np.array([x + width * (k + 0.5) / count, y + height * (0.32 if k % 2 else 0.68)])
        color = COLORS[k % len(COLORS)] if known else GREY
        sheet.dots(center + rng.normal(0, 0.045, (18, 2)), color, 9)
        if known and ball:
            sheet.circle(center, ball, color, lw=1.2)
