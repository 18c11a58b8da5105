"""Post-processing bench: the settings between embeddings and numbered lanes, on real outputs of a trained model."""

import time
from pathlib import Path

import numpy as np

from roadtopo_lib.course import samples
from roadtopo_lib.course.playground import SLOW_METHODS, Separated, separate
from roadtopo_lib.course.widgets._base import PANEL_SIZE, Board, PicturePanel
from roadtopo_lib.course.widgets._controls import choice, on_change, slider
from roadtopo_lib.course.widgets.frame import paint
from roadtopo_lib.data.images import list_images, read_image, read_instance_mask, read_semantic_mask
from roadtopo_lib.data.samples import sample_files
from roadtopo_lib.labels import LANE_CLASS_IDS
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import class_mask, collect_instances
from roadtopo_lib.postprocess.clustering import METHODS
from roadtopo_lib.viz import overlay


class PostProcessingBench(Board):
    """Frame, method, radius, minimum pixels and reference row; overlay, lanes found and true, and times.

    Args:
        segmenter: a trained model; default ``data_samples/tiny.safetensors``.
        folder: images to choose from, all of one size; default the course's test samples. The truth is
            shown where masks lie beside the folder, as ``data.samples`` describes it.
    """

    title = "Post-processing bench"

    def __init__(self, segmenter: LaneSegmenter | None = None, folder: str | Path | None = None) -> None:
        super().__init__()
        data = samples() if segmenter is None or folder is None else None
        self.segmenter = segmenter or LaneSegmenter.from_checkpoint(data / "tiny.safetensors")
        files = list_images(folder or data / "test" / "images")
        self._predictions: dict[Path, tuple[np.ndarray, dict, float]] = {}
        size = read_image(files[0]).shape[:2]
        self._overlay = PicturePanel("The road with lanes, their numbers and curves", size, PANEL_SIZE[0], whole=True)
        self._ids = PicturePanel("The road; a colour is a lane found", size)
        self._true = PicturePanel("The road; a colour is a true lane", size)
        self.panels = [self._overlay, self._ids, self._true]
        self._separated: tuple[tuple, tuple[Separated, float]] | None = (
            None  # the latest and its ms, with what it is of
        )
        config = self.segmenter.config
        self._frame = choice("frame", [(file.stem, file) for file in files], files[0])
        self._method = choice("method", METHODS, config.clustering)
        self._radius = slider("radius (units)", config.delta_dist, 0.1, 5.0, 0.1)
        self._min_pixels = slider("smallest (% of image)", 0.1, 0.0, 2.0, 0.05)
        self._row = slider("reference row (%)", round(100 * config.reference_row), 0, 100, 1)
        controls = (self._frame, self._method, self._radius, self._min_pixels, self._row)
        on_change(self.update, *controls)
        self.arrange([*([control] for control in controls), [self.ask]])

    def slow(self) -> str:
        """The method, if it is a slow one and what it would find is not known yet."""
        known = self._separated is not None and self._separated[0] == self._asked()
        return "" if known or self._method.value not in SLOW_METHODS else self._method.value

    def draw(self) -> None:
        """Sets the pictures and the words."""
        image, prediction, network_ms = self._predict(self._frame.value)
        separated, own_ms = self._separate(prediction)
        started = time.perf_counter()
        result = collect_instances(
            prediction["semantic_pred"], separated.lanes, separated.crosswalks,
            min_pixels=round(self._min_pixels.value / 100 * image[..., 0].size),
            reference_row=self._row.value / 100,
            confidence=prediction["confidence"],
        )  # fmt: skip
        own_ms += 1000 * (time.perf_counter() - started)
        lanes, crosswalks = result["lane_count"], result["crosswalk_count"]
        row = self._row.value / 100 * (len(image) - 1)
        self._overlay.draw(overlay(image, result), f"Found: {lanes} lanes, {crosswalks} crosswalks", row)
        self._ids.draw(paint(image, result["lane_instances"]), f"Found: {lanes} lanes", row)
        truth = self._truth(self._frame.value, image.shape[:2])
        there = "No truth is known" if truth is None else f"The truth: {len(np.unique(truth[truth > 0]))} lanes"
        self._true.draw(image if truth is None else paint(image, truth), there, row)
        pixels = len(separated.lanes[0])
        sampled = "" if separated.used == pixels else f" on {separated.used} of the {pixels} lane pixels"
        how = " (scikit-learn's labels, from one matrix of distances)" * (self._method.value == "dbscan")
        self.words = (
            f"{lanes} lanes and {crosswalks} crosswalks. The network took {network_ms:.0f} ms, post-processing with "
            f"{self._method.value}{how}{sampled} {own_ms:.0f} ms. Lanes are numbered by where their curves, continued "
            "if need be, meet the dashed row."
        )

    def _asked(self) -> tuple[Path, float, str]:
        return self._frame.value, self._radius.value, self._method.value

    def _separate(self, prediction: dict) -> tuple[Separated, float]:
        """Clusters and their time in ms; a slow method's are kept until something else is asked of it."""
        asked = self._asked()
        if self._separated is None or self._separated[0] != asked or asked[2] not in SLOW_METHODS:
            started = time.perf_counter()
            parts = (prediction[name] for name in ("semantic_pred", "embeddings", "first_row"))
            separated = separate(*parts, *asked[1:])
            self._separated = asked, (separated, 1000 * (time.perf_counter() - started))
        return self._separated[1]

    def _truth(self, file: Path, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) ids of the true lanes, if masks of this image's size lie beside its folder."""
        _, semantic, instance = sample_files(file.parent.parent, file.stem)
        if not (semantic.is_file() and instance.is_file()):
            return None
        ids = np.where(class_mask(read_semantic_mask(semantic), LANE_CLASS_IDS), read_instance_mask(instance), 0)
        return ids if ids.shape == size else None

    def _predict(self, file: Path) -> tuple[np.ndarray, dict, float]:
        """Image, the network's outputs and its time in ms; each frame passes the network once."""
        if file not in self._predictions:
            image = read_image(file)
            started = time.perf_counter()
            prediction = self.segmenter.predict(image)
            self._predictions[file] = image, prediction, 1000 * (time.perf_counter() - started)
        return self._predictions[file]
