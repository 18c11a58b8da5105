"""Post-processing bench: the settings between embeddings and numbered lanes, on real outputs of a trained model."""

import time
from pathlib import Path

import numpy as np

from roadtopo_lib.course import samples
from roadtopo_lib.course.widgets._base import Board, PicturePanel, choice, on_change, slider
from roadtopo_lib.course.widgets.frame import paint
from roadtopo_lib.data.images import list_images, read_image
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import LanePostProcessor
from roadtopo_lib.postprocess.clustering import METHODS
from roadtopo_lib.viz import overlay


class PostProcessingBench(Board):
    """Frame, method, radius, minimum pixels and reference row; overlay, ids and times.

    Args:
        segmenter: a trained model; default ``data_samples/tiny.safetensors``.
        folder: images to choose from, all of one size; default the course's test samples.
    """

    title = "Post-processing bench"

    def __init__(self, segmenter: LaneSegmenter | None = None, folder: str | Path | None = None) -> None:
        super().__init__()
        data = samples() if segmenter is None or folder is None else None
        self.segmenter = segmenter or LaneSegmenter.from_checkpoint(data / "tiny.safetensors")
        files = list_images(folder or data / "test" / "images")
        self._predictions: dict[Path, tuple[np.ndarray, dict, float]] = {}
        size = read_image(files[0]).shape[:2]
        self._overlay, self._ids = PicturePanel(size), PicturePanel(size)
        self.panels = [self._overlay, self._ids]
        config = self.segmenter.config
        self._frame = choice("frame", [(file.stem, file) for file in files], files[0])
        self._method = choice("method", METHODS, config.clustering)
        self._radius = slider("radius (units)", config.delta_dist, 0.1, 5.0, 0.1)
        self._min_pixels = slider("smallest (% of image)", 0.1, 0.0, 2.0, 0.05)
        self._row = slider("reference row (%)", round(100 * config.reference_row), 0, 100, 1)
        controls = (self._frame, self._method, self._radius, self._min_pixels, self._row)
        on_change(self.update, *controls)
        self.arrange([controls[:2], controls[2:]])

    def draw(self) -> None:
        """Sets the pictures and the words."""
        image, prediction, network_ms = self._predict(self._frame.value)
        height = len(image)
        started = time.perf_counter()
        result = LanePostProcessor(
            method=self._method.value,
            radius=self._radius.value,
            min_pixels=round(self._min_pixels.value / 100 * image[..., 0].size),
            reference_row=self._row.value / 100,
        ).process(**prediction)
        own_ms = 1000 * (time.perf_counter() - started)
        lanes, crosswalks = result["lane_count"], result["crosswalk_count"]
        row = self._row.value / 100 * (height - 1)
        self._overlay.draw(overlay(image, result), f"{lanes} lanes, {crosswalks} crosswalks", row)
        self._ids.draw(paint(image, result["lane_instances"]), "pixels of each lane", row)
        self.words = (
            f"{lanes} lanes and {crosswalks} crosswalks. The network took {network_ms:.0f} ms, post-processing with "
            f"{self._method.value} {own_ms:.0f} ms. Lanes are numbered by where their curves, continued if need be, "
            "meet the dashed row."
        )

    def _predict(self, file: Path) -> tuple[np.ndarray, dict, float]:
        """Image, the network's outputs and its time in ms; each frame passes the network once."""
        if file not in self._predictions:
            image = read_image(file)
            started = time.perf_counter()
            prediction = self.segmenter.predict(image)
            self._predictions[file] = image, prediction, 1000 * (time.perf_counter() - started)
        return self._predictions[file]
