"""A network's embeddings of one frame at several moments of its training.

The lane pixels are those of the label, not those that the network finds: at step 0 it finds nothing, and what is to be
seen is how the embeddings of different lanes part.

Axes: T moments, D embedding dimensions, (h, w) size of the heads' output, (H, W) of the image, N lane pixels looked at.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib.course.playground.clustering import adjusted_rand_index, separate
from roadtopo_lib.course.playground.separation import smallest_gap, stable_plane
from roadtopo_lib.dataset import LaneInstanceDataset
from roadtopo_lib.labels import LANE_CLASS_IDS
from roadtopo_lib.losses.discriminative import gather_embeddings
from roadtopo_lib.postprocess import collect_instances

MAX_POINTS = 1500
"""Lane pixels in the scatter plot, evenly taken from all."""


@dataclass(frozen=True)
class Cloud:
    """The lane pixels of one moment.

    Attributes:
        xy: (N, 2) their embeddings around their centre, projected onto a plane, see ``stable_plane``.
        lanes: (N,) true instance id of each.
        ari: ``adjusted_rand_index`` of clusters against lanes, over all lane pixels of the image.
        used: lane pixels that were clustered themselves, see ``clustering.Separated``.
    """

    xy: np.ndarray
    lanes: np.ndarray
    ari: float
    used: int


class FrameMoments:
    """One frame, its labels, and its embeddings at T moments of a training run.

    Args:
        image: (H, W, 3) uint8 RGB.
        semantic_mask: (H, W) class ids.
        instance_mask: (H, W) true instance ids.
        embeddings: (T, D, h, w) float.
        steps: (T,) optimiser steps done at each moment.
        first_row: image row where the embeddings begin.

    Attributes:
        reach: how far from their centre nearly all points lie, in embedding units, at any moment.

    Raises:
        ValueError: shapes that do not belong together.
    """

    def __init__(
        self,
        image: np.ndarray,
        semantic_mask: np.ndarray,
        instance_mask: np.ndarray,
        embeddings: np.ndarray,
        steps: np.ndarray,
        first_row: int,
    ) -> None:
        size = image.shape[:2]
        if semantic_mask.shape != size or instance_mask.shape != size:
            raise ValueError(f"image is {size}, semantic mask {semantic_mask.shape}, instances {instance_mask.shape}")
        if embeddings.ndim != 4 or len(steps) != len(embeddings) or not 0 <= first_row < size[0]:
            raise ValueError(f"{embeddings.shape} embeddings, {len(steps)} steps, first row {first_row} do not fit")
        self.image = image
        self.semantic_mask = semantic_mask
        self.instance_mask = instance_mask
        self.embeddings = torch.as_tensor(embeddings).float()
        self.steps = steps
        self.first_row = int(first_row)
        lane = np.isin(semantic_mask, LANE_CLASS_IDS) & (instance_mask > 0)
        lane[: self.first_row] = False
        self.pixels = np.flatnonzero(lane)  # (P,) flat indices of all lane pixels that have an embedding
        self._shown = self.pixels[np.linspace(0, len(self.pixels) - 1, min(len(self.pixels), MAX_POINTS)).astype(int)]
        self._planes = self._stable_planes()
        everything = np.concatenate([self._project(t) for t in range(len(steps))])
        self.reach = 1.2 * float(np.percentile(np.abs(everything), 99))

    @classmethod
    def load(cls, data: str | Path, frame: int = 0) -> "FrameMoments":
        """Reads what ``data_samples/make_moments.py`` wrote.

        Args:
            data: a data folder with ``moments.npz`` in it.
            frame: which of the file's frames.

        Raises:
            FileNotFoundError: no such file, or the frame's sample is not among the test samples.
            ValueError: no such frame in it.
        """
        path = Path(data) / "moments.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        with np.load(path, allow_pickle=False) as file:
            names = file["frames"].tolist()
            if not 0 <= frame < len(names):
                raise ValueError(f"{path}: holds {len(names)} frames, asked for number {frame}")
            embeddings, steps, first_row = file["embeddings"][frame], file["steps"], int(file["first_row"])
        test = LaneInstanceDataset(data, "test")
        found = {image.stem: index for index, image in enumerate(test.image_paths)}
        if names[frame] not in found:
            raise FileNotFoundError(f"{path}: its frame {names[frame]} is not among the test samples of {data}")
        return cls(*test.read(found[names[frame]]), embeddings, steps, first_row)

    @property
    def lanes(self) -> list[int]:
        """True instance ids of the lanes that have an embedding, ascending: left to right."""
        return np.unique(self.instance_mask.ravel()[self.pixels]).tolist()

    def separate(self, moment: int, radius: float, method: str = "fast") -> tuple[np.ndarray, Cloud]:
        """Clusters the lane pixels' embeddings of one moment.

        Args:
            moment: 0..T-1.
            radius: clustering radius, in embedding units.
            method: of ``cluster_embeddings``; "meanshift" gets some of the pixels, see ``cluster_quickly``.

        Returns:
            The ids painted on the road, (H, W) with 0 = none, and the cloud of points.
        """
        lanes_only = np.zeros_like(self.semantic_mask, dtype=np.int64)
        lanes_only.ravel()[self.pixels] = LANE_CLASS_IDS[0]
        separated = separate(lanes_only, self.embeddings[moment], self.first_row, radius, method)
        groups = separated.lanes, separated.crosswalks
        ids = collect_instances(lanes_only, *groups, min_pixels=0, road_model=False)["lane_instances"]
        found = ids.ravel()[self.pixels].astype(np.int64) - 1  # id 0, no lane, becomes label −1
        cloud = Cloud(
            xy=self._project(moment),
            lanes=self.instance_mask.ravel()[self._shown].astype(np.int64),
            ari=adjusted_rand_index(self.instance_mask.ravel()[self.pixels], found),
            used=separated.used,
        )
        return ids, cloud

    def smallest_gap(self, moment: int) -> float:
        """Distance of the two nearest lane means, in embedding units; infinite for fewer than two lanes."""
        return smallest_gap(torch.from_numpy(self._means(moment)))

    def _vectors(self, moment: int, pixels: np.ndarray) -> np.ndarray:
        """Embeddings at flat pixel indices: (N, D)."""
        height, width = self.image.shape[:2]
        rows = torch.from_numpy(pixels // width - self.first_row)
        columns = torch.from_numpy(pixels % width)
        return gather_embeddings(
            self.embeddings[moment][None], torch.zeros_like(rows), rows, columns, (height - self.first_row, width)
        ).numpy()

    def _means(self, moment: int) -> np.ndarray:
        """Mean embedding of each lane: (C, D)."""
        vectors, lane_of = self._vectors(moment, self.pixels), self.instance_mask.ravel()[self.pixels]
        return np.stack([vectors[lane_of == lane].mean(axis=0) for lane in self.lanes])

    def _stable_planes(self) -> list[np.ndarray]:
        """A plane a moment, each turned to resemble the next: the last, where lanes are apart, decides."""
        planes, plane = [], np.eye(self.embeddings.shape[1], 2)
        for moment in reversed(range(len(self.steps))):
            plane = stable_plane(self._means(moment), plane)
            planes.insert(0, plane)
        return planes

    def _project(self, moment: int) -> np.ndarray:
        """Embeddings of the pixels shown in the moment's plane, around their own centre: (N, 2)."""
        xy = self._vectors(moment, self._shown) @ self._planes[moment]
        return xy - xy.mean(axis=0)
