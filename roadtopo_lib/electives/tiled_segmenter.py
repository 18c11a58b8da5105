"""Lanes in images of any size: tile by tile, and joined where tiles overlap.

Embeddings tell instances apart within one tile only: nothing in training makes those of two tiles alike. So clusters
are sought in each tile, and two of them are one instance if they share most of their pixels where the tiles overlap.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from roadtopo_lib.dataset import image_to_tensor
from roadtopo_lib.files import check_file, temporary_beside
from roadtopo_lib.inference.tiling import blend, tile_outputs, tile_starts
from roadtopo_lib.losses import gather_embeddings
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.postprocess import (
    MIN_PIXELS_SHARE,
    LanePostProcessor,
    LaneResult,
    class_mask,
    cluster_embeddings,
    collect_instances,
)

JOIN_SHARE, JOIN_PIXELS = 0.5, 10
"""Instances of two tiles are one if they share this part of the smaller one's common pixels, and so many pixels."""


class TiledSegmenter(LaneSegmenter):
    """A ``LaneSegmenter`` that sees the image at its own resolution, in tiles, without a second view.

    Args:
        model, config, device: see ``LaneSegmenter``.
        tile, overlap: see ``tiled_predict``. The smallest instance is a share of a tile, not of the image.
    """

    def __init__(self, model, config, device=None, tile: int = 512, overlap: int = 64) -> None:
        tile_starts(tile, tile, overlap)  # refuses what is out of range
        super().__init__(model, config, device, tta=False)
        self.tile, self.overlap, self.most_pixels = tile, overlap, math.inf
        self.postprocessor = _TilePostProcessor(self.postprocessor, round(MIN_PIXELS_SHARE * tile**2))

    def make_views(self, image: np.ndarray) -> list[np.ndarray]:
        """The image as it is."""
        return [image]

    def run_network(self, view: np.ndarray) -> dict[str, np.ndarray]:
        """``semantic_pred``, ``instances`` and ``confidence`` of (H, W, 3) uint8, each (H, W)."""
        types = {"semantic_pred": np.uint8, "instances": np.int32, "confidence": np.float32}
        maps = {name: np.zeros(view.shape[:2], dtype) for name, dtype in types.items()}
        self.fill(view, **maps)
        return maps

    def read_classes(self, outputs: dict[str, np.ndarray], size: tuple[int, int], first_row: int) -> dict:
        """The same for the whole image of ``size`` (H, W)."""
        return {name: np.pad(values, ((first_row, 0), (0, 0))) for name, values in outputs.items()}

    @torch.inference_mode()
    def fill(self, image, semantic_pred, instances, confidence=None) -> None:
        """Fills (H, W) arrays with class ids, instance ids (1..N, 0 = none) and probabilities of a lane class.

        Args:
            image: (H, W, 3) uint8. All four arrays may lie in files, as ``numpy.memmap``; ``instances`` holds zeros.
        """
        links, count = [], 0  # pairs of instances of two tiles that are one; instances so far

        def run(top: int, left: int) -> Tensor:
            nonlocal count
            place = slice(top, top + self.tile), slice(left, left + self.tile)
            outputs = tile_outputs(self.model, image_to_tensor(np.array(image[place])).to(self.device))
            found, known = self.postprocessor.cluster(outputs), np.array(instances[place])
            found[found > 0] += count
            count = max(count, int(found.max()))
            links.extend(same_instances(known, found))
            near = [self.overlap // 2 * (start > 0) for start in (top, left)]  # half of what is shared stays as it is
            inner = (np.arange(len(found))[:, None] >= near[0]) & (np.arange(found.shape[1]) >= near[1])
            instances[place] = np.where((found > 0) & (inner | (known == 0)), found, known)
            return outputs["probabilities"].cpu()

        places = []
        for top, left, block in blend(run, image.shape[:2], self.tile, self.overlap):
            places.append((slice(top, top + block.shape[1]), slice(left, left + block.shape[2])))
            semantic_pred[places[-1]] = block.argmax(dim=0).numpy()
            if confidence is not None:
                confidence[places[-1]] = block[list(self.classes.lane_ids)].sum(dim=0).numpy()
        pairs = np.array(links, dtype=np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(pairs.shape[1]), pairs), (count + 1, count + 1))
        number = connected_components(graph, directed=False)[1]  # 0 stays 0
        pixels = np.zeros(count + 1, np.int64)
        for place in places:
            bearing = class_mask(semantic_pred[place], (*self.classes.lane_ids, *self.classes.crosswalk_ids))
            instances[place] = np.where(bearing, number[instances[place]], 0)
            pixels += np.bincount(instances[place].ravel(), minlength=count + 1)
        kept = (pixels >= self.postprocessor.whole.min_pixels) & (np.arange(count + 1) > 0)
        final = np.where(kept, kept.cumsum(), 0)
        for place in places:
            instances[place] = final[instances[place]]


class _TilePostProcessor:
    """The two halves of a ``LanePostProcessor``: clusters of one tile, and the result of instances that are joined."""

    def __init__(self, whole: LanePostProcessor, min_pixels: int) -> None:
        self.whole = whole
        self.whole.min_pixels = min_pixels

    def cluster(self, outputs: dict[str, Tensor]) -> np.ndarray:
        """(h, w) int32 ids 1..n of a tile's instances from what ``tile_outputs`` gives."""
        semantic = outputs["probabilities"].argmax(dim=0).cpu().numpy()
        found, count = np.zeros(semantic.shape, np.int32), 0
        for class_ids in (self.whole.lane_class_ids, self.whole.crosswalk_class_ids):
            place = np.nonzero(class_mask(semantic, class_ids))
            index = (torch.from_numpy(side).to(outputs["embeddings"].device) for side in (0 * place[0], *place))
            vectors = gather_embeddings(outputs["embeddings"], *index, semantic.shape)  # (n, D)
            labels = cluster_embeddings(vectors, self.whole.radius, self.whole.method)
            found[place] = np.where(labels >= 0, labels + 1 + count, 0)
            count = int(found.max())
        return found

    def process(self, semantic_pred: np.ndarray, instances: np.ndarray, confidence: np.ndarray) -> LaneResult:
        """See ``LanePostProcessor.process``; ``instances`` (H, W) hold ids 1..N in place of embeddings."""
        groups = []
        for class_ids in (self.whole.lane_class_ids, self.whole.crosswalk_class_ids):
            pixels = np.flatnonzero(class_mask(semantic_pred, class_ids))
            groups.append((pixels, instances.ravel()[pixels] - 1))
        whole = self.whole
        return collect_instances(
            semantic_pred, *groups, whole.min_pixels, whole.reference_row, whole.road_model, confidence
        )


def same_instances(known: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of ids in two (h, w) masks of the same place that are one instance."""
    both = (known > 0) & (found > 0)
    pairs, counts = np.unique(np.stack([known[both], found[both]]), axis=1, return_counts=True)
    smaller = np.minimum(*(np.bincount(side, counts)[side] for side in pairs))
    return [tuple(pair) for pair in pairs.T[counts >= np.maximum(JOIN_SHARE * smaller, JOIN_PIXELS)].tolist()]


def segment_file(segmenter: TiledSegmenter, source: Path, output: Path) -> Iterator[tuple[Path, int]]:
    """An image as (H, W, 3) uint8 in a ``.npy`` file, of any size, from disk to disk.

    Pillow decodes a PNG, JPEG or compressed TIFF as a whole only; rows of a ``.npy`` file are read as they are needed.

    Args:
        output: a folder for ``NAME_semantic.npy`` (H, W) uint8 and ``NAME_instances.npy`` (H, W) int32.

    Yields:
        Once: the file of the instances, and how many there are.

    Raises:
        ValueError: not a segmenter in tiles, or another array in the file.
    """
    if not isinstance(segmenter, TiledSegmenter):
        raise ValueError(f"{source}: an array is read in tiles only: give --tile")
    check_file(source, expected="an array in a .npy file")
    try:
        image = np.load(source, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"{source}: not an array in a .npy file ({error})") from None
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"{source}: expected (H, W, 3) uint8, found {image.shape} {image.dtype}")
    paths = [output / f"{source.stem}_{name}.npy" for name in ("semantic", "instances")]
    with temporary_beside(paths[0]) as semantic, temporary_beside(paths[1]) as instances:
        maps = [
            np.lib.format.open_memmap(file, "w+", dtype, image.shape[:2])
            for file, dtype in ((semantic, np.uint8), (instances, np.int32))
        ]
        segmenter.fill(image, *maps)
        count = int(max(maps[1][row].max() for row in range(len(image))))
        for values, file, path in zip(maps, (semantic, instances), paths, strict=True):
            values.flush()
            file.replace(path)
    yield paths[1], count
