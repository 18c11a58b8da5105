"""COCO polygons: one JSON file with ``images``, ``annotations`` and ``categories``.

Categories are mapped by name, never by position. Polygons of one annotation are one instance; run-length masks are read
by pycocotools. Only images that the file names are read, so ``….png___fuse.png`` and the like beside them stay out.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from roadtopo_lib.data.convert.drawing import Area
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.writing import Labelled, Options, Report, inside, sample_name, write_labelled
from roadtopo_lib.files import list_files


def convert_coco(
    src: str | Path, dst: str | Path, images: str | Path | None = None, names: dict | None = None, **options: object
) -> Report:
    """Converts COCO's polygons and run-length masks.

    The annotations stay in memory; images are read one by one.

    Args:
        src: the JSON file, or a folder that holds exactly one.
        dst: the data set's folder.
        images: folder of the images; default: that of the JSON file.
        names: category name → class name; see ``ClassNames``.
        options: fields of ``Options``.

    Raises:
        FileNotFoundError: no JSON file.
        ValueError: several JSON files, a file that is no COCO file, wrong options or names.
        ImportError: run-length masks without pycocotools.
    """
    options = Options(**options)
    class_names = ClassNames(options.classes, names)
    return write_labelled(read_coco(Path(src), class_names, images and Path(images)), dst, options)


def read_coco(src: Path, names: ClassNames, images: Path | None = None) -> Iterator[Labelled]:
    """One ``Labelled`` an image."""
    path = _json_of(src)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        categories = {c["id"]: str(c["name"]) for c in values["categories"]}
        listed = [(i["id"], str(i["file_name"]), _size(i)) for i in values["images"]]
        by_image = defaultdict(list)
        for annotation in values["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no COCO file ({type(error).__name__}: {error})") from None
    for image_id, file, size in listed:
        image = inside(images or path.parent, file)
        if image is None:
            yield Labelled.unreadable(sample_name(file), "an image outside of the data set")
            continue
        areas, dropped = [], Counter()
        for number, annotation in enumerate(by_image.get(image_id, [])):
            name = categories.get(annotation.get("category_id"))
            if name not in names:
                dropped[f"category {name!r} is not in the class table"] += 1
            elif names[name] is not None:
                area = _area(annotation.get("segmentation"), names[name], number, size)
                if area is None:
                    dropped["an annotation without a region"] += 1
                else:
                    areas.append(area)
        yield Labelled(sample_name(file), image, str(image.parent), areas=areas, dropped=dropped, size=size)


def _json_of(src: Path) -> Path:
    if src.is_file():
        return src
    files = list_files(src, ".json")
    if not files:
        raise FileNotFoundError(f"{src}: no JSON file of COCO found")
    if len(files) > 1:
        raise ValueError(f"{src}: holds {len(files)} JSON files, expected one; name the file itself")
    return files[0]


def _size(image: dict) -> tuple[int, int] | None:
    return (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None


def _area(segmentation: object, class_id: int, instance: int, size: tuple[int, int] | None) -> Area | None:
    """A region of polygons or of a run-length mask; ``None`` if it holds nothing that can be read."""
    try:
        if isinstance(segmentation, dict):
            from pycocotools import mask as masks  # an extra: only run-length masks need it

            if isinstance(segmentation["counts"], list):
                segmentation = masks.frPyObjects(segmentation, *segmentation["size"])
            return Area([], class_id, instance, masks.decode(segmentation).astype(bool))
        rings = [np.array(ring, float).reshape(-1, 2) for ring in segmentation]
    except (KeyError, ValueError, TypeError):
        return None
    rings = [ring for ring in rings if len(ring) >= 3 and np.isfinite(ring).all()]
    return Area(rings, class_id, instance) if rings else None
