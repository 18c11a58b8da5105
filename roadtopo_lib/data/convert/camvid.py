"""CamVid: a mask of classes an image, in one of two public layouts.

``701_StillsRaw_full/X.png`` with ``LabeledApproved_full/X_L.png``, whose colours ``label_colors.txt`` names, a line a
class: ``128 64 128	Road``. Or ``train/X.png`` with ``trainannot/X.png``, and so for val and test: the 12 ids of the
SegNet tutorial, which knows no lane markings. Classes are mapped by name. CamVid knows no instances: each connected
piece of lane paint is one.

Reference:
    G. Brostow et al., "Semantic Object Classes in Video", Pattern Recognition Letters 2009; V. Badrinarayanan et al.,
    "SegNet", PAMI 2017 (road and pavement joined of the 32 classes).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from roadtopo_lib.data import SPLITS
from roadtopo_lib.data.convert import reading
from roadtopo_lib.data.convert.drawing import Shape
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.reading import Labelled
from roadtopo_lib.decoding import decoded
from roadtopo_lib.files import list_files
from roadtopo_lib.labels import BACKGROUND, IGNORE_INDEX

IMAGES, LABELS, COLORS = "701_StillsRaw_full", "LabeledApproved_full", "label_colors.txt"
ENDING = "_l.png"  # in small letters, as names are compared
SEGNET = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
    "Unlabelled",
)  # fmt: skip
"""Names of the ids 0..11 of the SegNet tutorial."""

OURS = {
    "LaneMkgsDriv": "lane_marking",
    "LaneMkgsNonDriv": "road",  # arrows, letters and hatching
    "RoadShoulder": "sidewalk",
    "ParkingBlock": "sidewalk",
}
"""Names that ``ClassNames`` does not know by itself. All others are background."""

UNLABELLED = ("Void", "Unlabelled")
COLOR = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S.*?)\s*$")


def read_camvid(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` a label file.

    Raises:
        FileNotFoundError: neither layout, or no table of colours.
        ValueError: a line of the table that is no colour with a name.
    """
    annotated = [split for split in SPLITS if (src / f"{split}annot").is_dir()]
    if annotated:
        for split in annotated:
            for path in list_files(src / f"{split}annot", ".png"):
                yield _read(path, path.name, [images or src / split], list(SEGNET), names, split)
        return
    expected = f"{LABELS}/*_L.png, or trainannot/ and the like"
    files = reading.label_files([src, src / LABELS], ENDING, expected)
    colors = _colors(src)
    roots = [images] if images else [src / IMAGES, src]
    for path in files:
        yield _read(path, path.name[: -len(ENDING)] + ".png", roots, colors, names, None)


def _read(
    path: Path, image: str, roots: list[Path], table: list[str] | dict[int, str], names: ClassNames, split: str | None
) -> Labelled:
    """The label of an image: ids that index a table of names, or colours that are its keys."""
    name = reading.sample_name(image)
    try:
        picture = decoded(path)
        if isinstance(table, dict):
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), np.int32), -1, 0)
            values = red << 16 | green << 8 | blue  # (H, W)
        else:
            values = _ids(picture)
            table = dict(enumerate(table))
    except (OSError, ValueError, Image.DecompressionBombError):
        return Labelled.unreadable(name, reading.UNREADABLE)
    shapes, dropped = _shapes(values, table, names)
    recording = path.name.split("_")[0]  # a sequence, as in 0001TP_006690_L.png
    return Labelled(name, reading.locate(roots, image, roots[-1:]), recording, shapes, split, dropped, values.shape)


def _ids(picture: Image.Image) -> np.ndarray:
    """(H, W) of a picture of grey values or of a palette's places; ValueError for colours."""
    if picture.mode not in ("L", "P"):
        raise ValueError("no mask of ids")
    return np.asarray(picture)


def _shapes(values: np.ndarray, table: dict[int, str], names: ClassNames) -> tuple[list[Shape], Counter]:
    """Areas of the classes, connected pieces of those with instances, and how many colours have no name."""
    mask, dropped = np.full(values.shape, BACKGROUND, np.uint8), Counter()
    for value in np.unique(values).tolist():
        name = table.get(value)
        if name is None:
            dropped["a colour or an id that the class table of the labels does not name"] += 1
        if name in (None, *UNLABELLED) and (name is None or name not in names):
            mask[values == value] = IGNORE_INDEX
            continue
        class_id = names.get(name, names.get(OURS.get(name, ""), BACKGROUND))
        mask[values == value] = BACKGROUND if class_id is None else class_id
    shapes = []
    for class_id in np.unique(mask[mask != BACKGROUND]).tolist():
        region = mask == class_id
        if class_id == IGNORE_INDEX or names.classes[class_id].instances is None:
            shapes.append(Shape([], class_id, mask=region))
            continue
        count, pieces, boxes, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
        for piece in range(1, count):
            x, y, width, height = boxes[piece, :4].tolist()
            shapes.append(Shape([], class_id, mask=pieces[y : y + height, x : x + width] == piece, corner=(x, y)))
    return shapes, dropped


def _colors(src: Path) -> dict[int, str]:
    """Colour as one number → name."""
    places = [folder / COLORS for folder in (src, src / LABELS, src.parent)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{places[0]}: no such file, expected CamVid's table of colours")
    colors = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        found = COLOR.match(line)
        if found and max(rgb := [int(value) for value in found.groups()[:3]]) < 256:
            colors[rgb[0] << 16 | rgb[1] << 8 | rgb[2]] = found[4]
        elif line.strip():
            raise ValueError(f"{path}: line {number} is {line[:80]!r}, expected red, green, blue and a name")
    return colors
