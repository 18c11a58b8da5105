"""Samples on disk: an image, its semantic mask and its instance mask.

Layout (each sample is one NAME in three folders)::

    root/{train,val,test}/images/NAME.jpg|.jpeg|.png
    root/{train,val,test}/semantic_masks/NAME.png     class id per pixel, single channel, 255 = unlabelled
    root/{train,val,test}/instance_masks/NAME.png     0 = no instance, 1..N; 8 or 16 bit grey, or RGB (a colour an id)

Endings may be written in capitals.
"""

from collections import Counter
from pathlib import Path

from roadtopo_lib.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES


def list_samples(root: Path, split: str) -> tuple[list[Path], list[Path], list[Path]]:
    folder = root / split
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such data folder")
    if not folder.is_dir():
        found = sorted(child.name for child in root.iterdir() if child.is_dir())
        raise FileNotFoundError(f"{folder}: no such split; {root} holds {', '.join(found) or 'no folder'}")
    for name in ("images", "semantic_masks", "instance_masks"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder / name}: missing; a split needs images, semantic_masks, instance_masks")

    images = _files_by_stem(folder / "images", IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"{folder / 'images'}: no image found, expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    masks = {}
    for kind in ("semantic_masks", "instance_masks"):
        present = _files_by_stem(folder / kind, MASK_SUFFIXES)
        missing = sorted(images.keys() - present.keys())
        if missing:
            raise FileNotFoundError(
                f"{folder / kind / (missing[0] + '.png')}: missing; {len(missing)} of {len(images)} images lack it"
            )
        orphans = sorted(present.keys() - images.keys())
        if orphans:
            raise FileNotFoundError(f"{present[orphans[0]]}: this mask has no image; {len(orphans)} such masks in all")
        masks[kind] = [present[stem] for stem in images]
    return list(images.values()), masks["semantic_masks"], masks["instance_masks"]


def locate_split(data: str | Path, split: str | None = None) -> tuple[Path, str]:
    """Understands both ``DATA`` and ``DATA/val``.

    Args:
        data: a data folder, or one of its splits.
        split: which split of a data folder; default ``test``.

    Returns:
        (data folder, split).

    Raises:
        FileNotFoundError: no such folder.
        ValueError: ``data`` is a split already, and another one is asked for.
    """
    data = Path(data)
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such data folder")
    if not (data / "images").is_dir():
        return data, split or "test"
    if split is not None and split != data.resolve().name:
        raise ValueError(f"{data} is a split itself, but split {split!r} is asked for")
    return data.resolve().parent, data.resolve().name


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files with one of the endings, sorted, by their names without it."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if twice:
        kind = folder.name.replace("_", " ")
        raise ValueError(f"{folder}: several {kind} are named {twice[0]!r}; nothing says which one is meant")
    return {path.stem: path for path in files}
