"""Embeddings of a real frame: the road beside its lane pixels in embedding space, over the course of training."""

import ipywidgets as widgets
import numpy as np

from roadtopo_lib.course import samples
from roadtopo_lib.course.playground import FrameMoments
from roadtopo_lib.course.widgets._base import COLORS, MARKERS, Board, Panel, PicturePanel, choice, on_change, slider
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
        super().__init__()
        self.axes.set_aspect("equal", adjustable="box")
        self.set_limits(-reach, reach, -reach, reach)
        self.axes.set_xlabel("first direction (embedding units)", fontsize=8)
        self.axes.set_ylabel("second direction (embedding units)", fontsize=8)
        self.axes.grid(alpha=0.2)
        self._points = [
            self.axes.plot(
                [], [], MARKERS[i % len(MARKERS)], color=COLORS[i % len(COLORS)], ms=4, mew=0, label=f"lane {lane}"
            )[0]
            for i, lane in enumerate(lanes)
        ]
        self.axes.legend(frameon=False, fontsize=8, loc="upper left", title="true lane", title_fontsize=8)
        self._title = self.finding()
        self.moving(*self._points, self._title)

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
        self._title.set_text(finding)


class FrameEmbeddings(Board):
    """A road image beside its lane pixels in embedding space; lanes, moment of training, radius and method to choose.

    Args:
        moments: the frame; default the first of ``data_samples/moments.npz``.
    """

    title = "Embeddings of a real frame"

    def __init__(self, moments: FrameMoments | None = None) -> None:
        super().__init__()
        self.moments = moments or FrameMoments.load(samples())
        lanes = self.moments.lanes
        self._road = PicturePanel(self.moments.image.shape[:2])
        self._cloud = CloudPanel(self.moments.reach, lanes)
        self.panels = [self._road, self._cloud]
        last = len(self.moments.steps) - 1
        self._moment = widgets.SelectionSlider(
            options=[(f"{step}", i) for i, step in enumerate(self.moments.steps)],
            value=last,
            description="steps trained",
            style={"description_width": "initial"},
            layout=widgets.Layout(width="420px", max_width="100%"),
        )
        self._lane = widgets.ToggleButtons(
            options=[("all lanes", None), *((f"lane {lane}", lane) for lane in lanes)],
            description="light up",
            style={"button_width": "auto", "description_width": "initial"},
        )
        self._radius = slider("radius (units)", 1.5, 0.1, 5.0, 0.1)
        self._method = choice("method", METHODS)
        self.contrast = self._moment, 0
        on_change(self.update, self._moment, self._lane, self._radius, self._method)
        self.arrange([[self._moment], [self._lane], [self._radius, self._method]])

    def draw(self) -> None:
        """Sets the artists and the words."""
        moment, lit = self._moment.value, self._lane.value
        ids, cloud = self.moments.separate(moment, self._radius.value, self._method.value)
        count, lanes, gap = int(ids.max()), self.moments.lanes, self.moments.smallest_gap(moment)
        if lit is not None:
            ids = np.where(self.moments.instance_mask == lit, ids, 0)
        steps, radius, method = self.moments.steps[moment], self._radius.value, self._method.value
        self._road.draw(paint(self.moments.image, ids), f"{count} instances found, {len(lanes)} are there")
        self._cloud.draw(cloud.xy, cloud.lanes, lanes, lit, f"After {steps} steps: ARI {cloud.ari:.2f}")
        self.words = (
            f"After {steps} steps the nearest lane means are {gap:.2f} apart; {method} with radius {radius:.1f} finds "
            f"{count} instances for {len(lanes)} lanes (ARI {cloud.ari:.2f}). On the road a colour is an instance "
            "found, in the cloud it is a true lane."
        )


def paint(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Instance colours over the darkened image: (H, W, 3) uint8."""
    canvas = DIMMED * image.astype(np.float32)
    where = ids > 0
    canvas[where] = PAINTED * color_instances(ids)[where] + (1 - PAINTED) * canvas[where]
    return canvas.astype(np.uint8)
