"""Samples on disk: an image, its semantic mask and its instance mask.

Layout (each sample is one NAME in three folders)::

    root/{train,val,test}/images/NAME.jpg|.jpeg|.png
    root/{train,val,test}/semantic_masks/NAME.png     class id per pixel, single channel, 255 = unlabelled
    root/{train,val,test}/instance_masks/NAME.png     0 = no instance, 1..N; 8 or 16 bit grey, or RGB (a colour an id)

Endings may be written in capitals. Instance ids are unique in an image: two classes never share one.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roadtopo_lib.data import FOLDERS, SPLITS
from roadtopo_lib.data.images import (
    MASK_SUFFIXES,
    check_class_ids,
    list_images,
    stored_image,
    stored_instance_mask,
    stored_semantic_mask,
    write_image,
)
from roadtopo_lib.decoding import turned
from roadtopo_lib.files import list_files, plain_name
from roadtopo_lib.labels import CLASSES, IGNORE_INDEX, NO_INSTANCE, ClassTable

JPEG_QUALITY = 92  # of the images that ``write_sample`` writes
BINARY = "holds 0 and 255 only, and 255 means unlabelled: no pixel is labelled as a lane"
"""What is wrong with a binary mask; a model would learn nothing from it, and score an mIoU of 1."""

MOST_INSTANCES = 2048
"""Ids in one mask. The push term compares all pairs: 8,192 ids take gigabytes, and are a picture that is no mask."""

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Image (H, W, 3) uint8 RGB, semantic mask (H, W) uint8, instance mask (H, W) uint16."""


def sample_files(folder: Path, name: str, suffix: str = ".jpg") -> tuple[Path, Path, Path]:
    """The files that ``write_sample`` writes: image, semantic mask, instance mask."""
    endings = (suffix, ".png", ".png")
    image, semantic, instance = (folder / kind / (name + end) for kind, end in zip(FOLDERS, endings, strict=True))
    return image, semantic, instance


def write_sample(
    folder: str | Path,
    name: str,
    image: np.ndarray,
    semantic_mask: np.ndarray,
    instance_mask: np.ndarray,
    classes: ClassTable = CLASSES,
    suffix: str = ".jpg",
    note: str = "",
) -> None:
    """Writes one sample: image as JPEG or PNG, semantic mask as 8-bit PNG, instance mask as 16-bit PNG.

    Every file appears complete or not at all. The image comes last: where it exists, the masks do, too.

    Args:
        folder: the split, such as ``root/train``; made if missing.
        name: of the three files, without ending.
        image: (H, W, 3) uint8 RGB.
        semantic_mask: (H, W) integer class ids of the table, or 255 for unlabelled.
        instance_mask: (H, W) integer ids, 0 for no instance, 1..65535.
        classes: the class table.
        suffix: of the image: .jpg, .jpeg or, to keep every pixel, .png; capitals are allowed.
        note: ASCII text in the image's head, see ``images.note_of``.

    Raises:
        ValueError: an array of another shape or type, ids out of range, or an id on two classes that bear instances;
            nothing is written then.
        OSError: as for ``files.write_atomic``.
    """
    if Path(name).name != name:
        raise ValueError(f"the sample's name is {name!r}, expected the name of a file without folders")
    files = sample_files(Path(folder), name, suffix)
    image_path, semantic_path, instance_path = files
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"{image_path}: image must be (H, W, 3) uint8 RGB, got {image.dtype} {image.shape}")
    semantic = _narrowed(semantic_mask, np.uint8, semantic_path)
    instance = _narrowed(instance_mask, np.uint16, instance_path)
    check_class_ids(semantic, semantic_path, len(classes))
    check_sizes((image, semantic, instance), files)
    check_instances(semantic, instance, instance_path, classes)
    write_image(semantic_path, semantic)
    write_image(instance_path, instance)
    write_image(image_path, image, JPEG_QUALITY, note=note)


def read_sample(
    image_path: str | Path, semantic_path: str | Path, instance_path: str | Path, classes: ClassTable = CLASSES
) -> Sample:
    """Reads and checks one sample.

    Args:
        image_path, semantic_path, instance_path: the files, in the formats that ``data.images`` reads.
        classes: the class table; valid semantic ids are its own and 255.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: unreadable files, wrong ids, masks of another size than the image, an id on two classes that bear
            instances, instances on unlabelled pixels only, or EXIF orientations of which nothing says what they mean
            for the masks; names the file and what was found.
    """
    stored, tag = stored_image(image_path)
    image = turned(stored, tag)
    semantic, instance = (
        aligned(mask, mask_tag, Path(path), image, tag, Path(image_path))
        for (mask, mask_tag), path in (
            (stored_semantic_mask(semantic_path, len(classes)), semantic_path),
            (stored_instance_mask(instance_path), instance_path),
        )
    )
    check_sizes((image, semantic, instance), (Path(image_path), Path(semantic_path), Path(instance_path)))
    check_instances(semantic, instance, instance_path, classes)
    if classes.lane_ids and instance.any() and has_binary_ids(np.bincount(semantic.ravel(), minlength=256)):
        raise ValueError(f"{semantic_path}: {BINARY}, expected {classes.lane_ids[0]} where a lane is")
    return image, semantic, instance


def has_binary_ids(pixels: np.ndarray) -> bool:
    """Whether a mask, or several, hold 0 and 255 and nothing else: (256,) how many pixels each class id has."""
    return bool(pixels[IGNORE_INDEX]) and not pixels[1:IGNORE_INDEX].any()


def check_instances(
    semantic: np.ndarray, instance: np.ndarray, name: str | Path = "instance mask", classes: ClassTable = CLASSES
) -> None:
    """Refuses an instance id that lies on pixels of two classes that bear instances.

    Pixels of the other classes do not matter: an instance mask may be wider than its class.

    Args:
        semantic: (H, W) class ids.
        instance: (H, W) instance ids.
        name: what to call the instance mask in the error.
        classes: the class table.

    Raises:
        ValueError: names the ids and their classes; or more than ``MOST_INSTANCES``.
    """
    count = np.count_nonzero(np.unique(instance)) if instance.max(initial=0) > MOST_INSTANCES else 0
    if count > MOST_INSTANCES:
        raise ValueError(f"{name}: {count} instances, expected at most {MOST_INSTANCES}")
    bearing = np.isin(semantic, classes.instance_ids) & (instance != NO_INSTANCE)
    pairs = np.unique(instance[bearing].astype(np.int64) * 256 + semantic[bearing])  # one number a pair: id, class
    ids, counts = np.unique(pairs // 256, return_counts=True)
    shared = ids[counts > 1].tolist()
    if shared:
        found = " and ".join(classes[pair % 256].name for pair in pairs if pair // 256 == shared[0])
        raise ValueError(
            f"{name}: instance ids {shared} lie on pixels of more than one class ({shared[0]} on {found}), expected "
            "one class for each id"
        )


def instances_by_role(
    semantic: np.ndarray, instance: np.ndarray, role: str = "lane", classes: ClassTable = CLASSES
) -> list[int]:
    """Ids of the instances with more pixels of one role's classes than of the other's.

    Args:
        semantic: (H, W) class ids.
        instance: (H, W) instance ids.
        role: ``"lane"`` or ``"crosswalk"``.
        classes: the class table.
    """
    lane, crosswalk = (_pixels_by_id(semantic, instance, ids) for ids in (classes.lane_ids, classes.crosswalk_ids))
    more = lane > crosswalk if role == "lane" else crosswalk > lane
    return [int(i) for i in np.flatnonzero(more) if i != NO_INSTANCE]


def list_samples(root: Path, split: str) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, semantic masks and instance masks of a split, sorted by name, in step.

    Raises:
        FileNotFoundError: missing root, split or folder; an image without a mask, or a mask without an image.
        ValueError: no image at all, or two images or masks of one name.
    """
    folder = root / split
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such data folder")
    if not folder.is_dir():
        found = sorted(child.name for child in root.iterdir() if child.is_dir() and child.name[0] != ".")
        raise FileNotFoundError(f"{folder}: no such split; {root} holds {', '.join(found) or 'no folder'}")
    for name in FOLDERS:
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder / name}: missing; a split needs {', '.join(FOLDERS)}")

    images = _by_stem(folder / "images", list_images(folder / "images"))
    masks = {}
    for kind in FOLDERS[1:]:
        present = _by_stem(folder / kind, list_files(folder / kind, *MASK_SUFFIXES))
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


def list_splits(root: str | Path) -> list[str]:
    """Which of train, val and test hold images in a data folder."""
    folders = {split: Path(root) / split / FOLDERS[0] for split in SPLITS}
    return [split for split, folder in folders.items() if folder.is_dir() and list_files(folder, "")]


def locate_split(data: str | Path, split: str | None = None) -> tuple[Path, str]:
    """Understands both ``DATA`` and ``DATA/val``.

    Args:
        data: a data folder, or one of its splits.
        split: which split of a data folder; default ``test``, or ``val`` where only that one holds images.

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
        return data, split or ("val" if list_splits(data)[-1:] == ["val"] else "test")
    if split is not None and split != data.resolve().name:
        raise ValueError(f"{data} is a split itself, but split {split!r} is asked for")
    return data.resolve().parent, data.resolve().name


def aligned(mask: np.ndarray, tag: int, path: Path, image: np.ndarray, image_tag: int, image_path: Path) -> np.ndarray:
    """A mask turned by its own orientation tag or, if its size fits only so, along with the image, by the image's.

    Args:
        mask: as stored; ``tag`` is its EXIF orientation, ``path`` its file.
        image: turned by ``image_tag``, its EXIF orientation.

    Raises:
        ValueError: the tags differ and the sizes fit both ways.
    """
    own, along = turned(mask, tag), turned(mask, image_tag)
    if tag != image_tag and own.shape == along.shape == image.shape[:2]:
        (turns, by), (other, its) = ((path, tag), (image_path, image_tag))[:: -1 if tag == 1 else 1]
        raise ValueError(
            f"{turns}: EXIF orientation {by} turns it, {other.parent.name}/{other.name} has orientation {its}, and the "
            "sizes fit either way: nothing says on which pixels the mask was drawn, expected equal tags or none"
        )
    return along if along.shape == image.shape[:2] != own.shape else own


def check_sizes(sample: Sample, files: tuple[Path, Path, Path]) -> None:
    """Raises ValueError if a mask has another size than its image."""
    image, *masks = sample
    for mask, path in zip(masks, files[1:], strict=True):
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"{path}: mask is {'×'.join(map(str, mask.shape))} (height × width), its image "
                f"{files[0].name} is {image.shape[0]}×{image.shape[1]}"
            )


def _narrowed(mask: np.ndarray, dtype: type, path: Path) -> np.ndarray:
    """The mask in the type of its file; ValueError for ids that do not fit."""
    highest = np.iinfo(dtype).max
    if mask.dtype.kind not in "iu":
        raise ValueError(f"{path}: mask must hold integers, got {mask.dtype}")
    if mask.min(initial=0) < 0 or mask.max(initial=0) > highest:
        raise ValueError(f"{path}: ids {mask.min()}..{mask.max()} found, expected 0..{highest}")
    return mask.astype(dtype)


def _pixels_by_id(semantic: np.ndarray, instance: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """How many pixels of the given classes each instance id has: (highest id + 1,) int64."""
    size = int(instance.max(initial=0)) + 1
    return np.bincount(instance[np.isin(semantic, class_ids)], minlength=size)


def _by_stem(folder: Path, files: list[Path]) -> dict[str, Path]:
    """Files by their names without ending, in one Unicode form: that of a mask need not be its image's."""
    stems = [plain_name(path.stem) for path in files]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        kind = folder.name.replace("_", " ")
        raise ValueError(f"{folder}: several {kind} are named {twice[0]!r}; nothing says which one is meant")
    return dict(zip(stems, files, strict=True))
