"""Embeddings of a test scene: the road beside its lane pixels in embedding space, over the course of training."""

import ipywidgets as widgets
import numpy as np

from roadtopo_lib.course import samples
from roadtopo_lib.course.playground import SLOW_METHODS, Cloud, FrameMoments
from roadtopo_lib.course.widgets._base import COLORS, LABEL, MARKERS, Board, Panel, PicturePanel
from roadtopo_lib.course.widgets._controls import choice, film, on_change, picker, slider
from roadtopo_lib.postprocess.clustering import METHODS
from roadtopo_lib.viz import color_instances

DIMMED, PAINTED = 0.45, 0.75
"""Brightness of the road under the paint, and opacity of the paint."""


class CloudPanel(Panel):
    """Lane pixels in a plane of the embedding space that shows their lanes side by side.

    Args:
        reach: half the side of the picture, in embedding units.
        lanes: true instance ids, left to right.
    """

    def __init__(self, reach: float, lanes: list[int]) -> None:
        super().__init__("Lane pixels in a plane of the embedding space, in the colour and shape of their true lane")
        self.axes.set_aspect("equal", adjustable="box")
        self.set_limits(-reach, reach, -reach, reach)
        self.axes.set_xlabel("first direction (embedding units)", fontsize=LABEL)
        self.axes.set_ylabel("second direction (embedding units)", fontsize=LABEL)
        self.axes.grid(alpha=0.2)
        self._points = [
            self.axes.plot(
                [], [], MARKERS[i % len(MARKERS)], color=COLORS[i % len(COLORS)], ms=4, mew=0, label=f"lane {lane}"
            )[0]
            for i, lane in enumerate(lanes)
        ]
        self.axes.legend(frameon=False, fontsize=LABEL, loc="upper left", title="true lane", title_fontsize=LABEL)
        self.moving(*self._points)

    def draw(self, xy: np.ndarray, lane_of: np.ndarray, lanes: list[int], lit: int | None, finding: str) -> None:
        """Sets the points of each lane; all but the lit one fade.

        Args:
            xy: (N, 2) in embedding units.
            lane_of: (N,) instance id of each point.
            lanes: as at the start.
            lit: an id, or ``None`` for all.
            finding: the title.
        """
        for points, lane in zip(self._points, lanes, strict=True):
            own = xy[lane_of == lane]
            points.set_data(own[:, 0], own[:, 1])
            points.set_alpha(0.6 if lit in (None, lane) else 0.06)
        self.finding.set_text(finding)


class FrameEmbeddings(Board):
    """The lanes found in a frame, the true ones, and their pixels in embedding space, at eight moments of a training.

    Args:
        moments: the frame; default the first of ``data_samples/moments.npz``.
    """

    title = "Embeddings of a test scene"

    def __init__(self, moments: FrameMoments | None = None) -> None:
        super().__init__()
        self.moments = moments or FrameMoments.load(samples())
        lanes = self.moments.lanes
        size = self.moments.image.shape[:2]
        self._road = PicturePanel("The road; a colour is an instance found", size)
        self._truth = PicturePanel("The road; a colour is a true lane", size)
        self._cloud = CloudPanel(self.moments.reach, lanes)
        self.panels = [self._road, self._truth, self._cloud]
        moments = [(f"{step}", i) for i, step in enumerate(self.moments.steps)]
        self._moment = picker("steps trained", moments, len(moments) - 1)
        self._lane = widgets.ToggleButtons(
            options=[("all", None), *((f"lane {lane}", lane) for lane in lanes)],
            description="light up",
            style={"button_width": "auto", "description_width": "auto"},
        )
        self._radius = slider("radius (units)", 1.5, 0.1, 5.0, 0.1)
        self._method = choice("method", METHODS)
        self._result: tuple[tuple, tuple[np.ndarray, Cloud]] | None = None  # the latest, with what it is of
        on_change(self.update, self._moment, self._lane, self._radius, self._method)
        self.arrange([[self._moment], [film(self._moment)], [self._lane], [self._radius], [self._method], [self.ask]])

    def slow(self) -> str:
        """The method, if it is a slow one and what it would find is not known yet."""
        known = self._result is not None and self._result[0] == self._asked()
        return "" if known or self._method.value not in SLOW_METHODS else self._method.value

    def draw(self) -> None:
        """Sets the artists and the words."""
        asked = self._asked()
        if self._result is None or self._result[0] != asked:
            self._result = asked, self.moments.separate(*asked)
        (moment, radius, method), (ids, cloud) = self._result
        lit, lanes = self._lane.value, self.moments.lanes
        count, gap = int(ids.max()), self.moments.smallest_gap(moment)
        truth = np.where(np.isin(self.moments.instance_mask, lanes), self.moments.instance_mask, 0)
        if lit is not None:
            ids, truth = (np.where(self.moments.instance_mask == lit, mask, 0) for mask in (ids, truth))
        steps = self.moments.steps[moment]
        self._road.draw(paint(self.moments.image, ids), f"Found: {count} instances")
        self._truth.draw(paint(self.moments.image, truth), f"The truth: {len(lanes)} lanes")
        self._cloud.draw(cloud.xy, cloud.lanes, lanes, lit, f"After {steps} steps: ARI {cloud.ari:.2f}")
        pixels = len(self.moments.pixels)
        sampled = "" if cloud.used == pixels else f" on {cloud.used} of the {pixels} lane pixels"
        self.words = (
            f"After {steps} steps the nearest lane means are {gap:.2f} apart; {method} with radius {radius:.1f}"
            f"{sampled} finds {count} instances for {len(lanes)} lanes (ARI {cloud.ari:.2f}). A colour is an instance "
            "found in the first picture, a true lane in the others."
        )

    def _asked(self) -> tuple[int, float, str]:
        return self._moment.value, self._radius.value, self._method.value


def paint(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Instance colours over the darkened image: (H, W, 3) uint8."""
    canvas = DIMMED * image.astype(np.float32)
    where = ids > 0
    canvas[where] = PAINTED * color_instances(ids)[where] + (1 - PAINTED) * canvas[where]
    return canvas.astype(np.uint8)
