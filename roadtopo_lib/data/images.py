"""Image and mask files: decoded and checked, or encoded and written.

Pillow decodes the files: it names a file's pixel format and refuses a truncated file. OpenCV's ``imread`` with
``IMREAD_GRAYSCALE`` does neither: it turns RGB ids into luminances and divides 16-bit ids by 256, without a word.
OpenCV encodes the files.
"""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from roadtopo_lib.data import FOLDERS
from roadtopo_lib.decoding import decoded, orientation_of, turned
from roadtopo_lib.files import check_file, list_files, write_atomic
from roadtopo_lib.labels import IGNORE_INDEX, NUM_CLASSES

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

MASK_SUFFIXES = (".png",)

# Pillow's names.
LOSSY = ("JPEG", "MPO", "WEBP")  # formats that may change pixels
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # compressions
GREY_16_BIT = ("I;16", "I;16B", "I")  # older versions open 16-bit grey as 32-bit "I"
MARK = b"Software\0roadtopo_lib"
"""Stands in the head of a picture that shows results: no listing takes it for a photograph."""

NOTE = b"Comment\0"  # stands before a note


class DamagedFileError(ValueError):
    """A file begins as a picture, but cannot be decoded to its end."""


def read_image(path: str | Path) -> np.ndarray:
    """Reads a photograph as it is meant to be seen.

    Args:
        path: a JPEG or PNG file; grey, palette and alpha images become RGB, 16 bits become 8, EXIF rotation is applied.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or truncated.
    """
    return turned(*stored_image(path))


def stored_image(path: str | Path) -> tuple[np.ndarray, int]:
    """As ``read_image``, but not turned: the pixels as they are stored, and the orientation tag, 1..8."""
    return pixels_of(_open(path))


def pixels_of(picture: Image.Image) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 RGB of an open picture, not turned, and its orientation tag, 1..8."""
    if picture.mode in GREY_16_BIT:
        # Pillow scales 16-bit colours to 8 bits, but of 16-bit grey it would make white wherever it exceeds 255.
        grey = np.rint(np.asarray(picture) / (65535 / 255)).clip(0, 255).astype(np.uint8)
        return np.stack([grey] * 3, axis=2), orientation_of(picture)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB")), orientation_of(picture)


def read_semantic_mask(path: str | Path, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Reads a mask of class ids.

    Args:
        path: single-channel PNG of 8 bits, or of 2 or 4 as tools that shrink files make of it; EXIF rotation
            is applied.
        num_classes: ids 0..num_classes-1 and 255 are valid.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another pixel format, or ids outside the range; names the file and what was found.
    """
    return turned(*stored_semantic_mask(path, num_classes))


def stored_semantic_mask(path: str | Path, num_classes: int = NUM_CLASSES) -> tuple[np.ndarray, int]:
    """As ``read_semantic_mask``, errors included, but not turned: the stored mask, and the orientation tag, 1..8."""
    picture = _open_mask(path)
    if picture.mode != "L":
        raise ValueError(f"{path}: semantic masks are single-channel 8-bit, found {_describe(picture)}")
    mask = _unscaled(picture, path)
    check_class_ids(mask, path, num_classes)
    return mask, orientation_of(picture)


def check_class_ids(mask: np.ndarray, path: str | Path, num_classes: int = NUM_CLASSES) -> None:
    """Raises ValueError if an (H, W) uint8 mask holds other ids than 0..num_classes-1 and 255."""
    ids = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    wrong = [int(i) for i in ids if i >= num_classes and i != IGNORE_INDEX]
    if wrong:
        raise ValueError(f"{path}: semantic ids {wrong} found, expected 0..{num_classes - 1} or {IGNORE_INDEX}")


def read_instance_mask(path: str | Path) -> np.ndarray:
    """Reads a mask of instance ids.

    Args:
        path: PNG, grey (2 to 16 bit: the value is the id) or RGB of 8 bits (black is 0; every other colour gets an id,
            1..N in the order of its (red, green, blue) value); EXIF rotation is applied.

    Returns:
        (H, W) uint16.

    Raises:
        FileNotFoundError: no such file.
        ValueError: palette, alpha or float pixels, or RGB without any black pixel: then nothing says which colour is
            the background, and an instance would silently vanish.
    """
    return turned(*stored_instance_mask(path))


def stored_instance_mask(path: str | Path) -> tuple[np.ndarray, int]:
    """As ``read_instance_mask``, errors included, but not turned: the stored mask, and the orientation tag, 1..8."""
    picture = _open_mask(path)
    if picture.mode in ("L", *GREY_16_BIT):
        mask = _unscaled(picture, path)
        if mask.min(initial=0) < 0 or mask.max(initial=0) > np.iinfo(np.uint16).max:
            raise ValueError(f"{path}: instance ids {mask.min()}..{mask.max()} found, expected 0..65535")
        return mask.astype(np.uint16), orientation_of(picture)
    if picture.mode == "RGB":
        if _bit_depth(path) == 16:  # Pillow would cut colours to 8 bits: several would become one
            raise ValueError(f"{path}: instance masks are grey (8 or 16 bit) or RGB of 8 bits, found RGB of 16 bits")
        return rgb_to_instance_ids(np.asarray(picture), path), orientation_of(picture)
    raise ValueError(f"{path}: instance masks are grey (8 or 16 bit) or RGB, found {_describe(picture)}")


def rgb_to_instance_ids(rgb: np.ndarray, name: str | Path = "mask") -> np.ndarray:
    """Gives every colour but black an id.

    Args:
        rgb: (H, W, 3) uint8.
        name: what to call the mask in an error.

    Returns:
        (H, W) uint16: 0 where black, 1..N elsewhere.

    Raises:
        ValueError: no pixel is black, or more than 65535 colours.
    """
    code = (rgb.astype(np.uint32) * np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
    colors, ids = np.unique(code, return_inverse=True)
    if colors[0] != 0:
        raise ValueError(f"{name}: RGB instance mask with {len(colors)} colours, none of them black (the background)")
    if len(colors) > np.iinfo(np.uint16).max:
        raise ValueError(f"{name}: RGB instance mask with {len(colors)} colours: it looks like a photograph, not ids")
    return ids.reshape(code.shape).astype(np.uint16)


def write_image(
    path: str | Path, image: np.ndarray, jpeg_quality: int = 95, is_result: bool = False, note: str = ""
) -> None:
    """Writes an image or a mask; the file appears complete or not at all.

    Args:
        path: a name ending in .png, .jpg or .jpeg; the ending decides the format. JPEG changes pixels: no format for
            masks.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8, or for PNG (H, W) uint16.
        jpeg_quality: 0..100, for JPEG only.
        is_result: mark it as a picture that no listing takes for a photograph.
        note: ASCII text in the file's head, in place of that mark, see ``note_of``.

    Raises:
        OSError: as for ``files.write_atomic``.
        ValueError: another ending or an array that the format cannot hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: expected a name ending in {', '.join(IMAGE_SUFFIXES)}")
    is_rgb = image.ndim == 3 and image.shape[2] == 3
    types = (np.uint8, np.uint16) if suffix == ".png" and not is_rgb else (np.uint8,)
    if not (is_rgb or image.ndim == 2) or image.dtype not in types or image.size == 0:
        raise ValueError(
            f"{path}: an array of shape {image.shape} and type {image.dtype} cannot be written, expected (H, W, 3) "
            "uint8, (H, W) uint8 or, as PNG, (H, W) uint16"
        )
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    done, data = cv2.imencode(suffix, image[..., ::-1] if is_rgb else image, options)  # OpenCV writes blue first
    if not done:
        raise ValueError(f"{path}: an image of {image.shape[0]}×{image.shape[1]} is too large for this format")
    content, text = data.tobytes(), MARK if is_result else NOTE + note.encode("ascii") + b"\n"
    if (is_result or note) and suffix == ".png":  # a text chunk behind the header, which ends at byte 33
        chunk = struct.pack(">L", len(text)) + b"tEXt" + text + struct.pack(">L", zlib.crc32(b"tEXt" + text))
        content = content[:33] + chunk + content[33:]
    elif is_result or note:  # a comment behind JFIF's header, which ends at byte 20
        content = content[:20] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + content[20:]
    write_atomic(path, content, durable=False)


def note_of(path: str | Path) -> str:
    """The note that ``write_image`` has put into a file; empty if there is none, or no such file."""
    try:
        with open(path, "rb") as file:
            return file.read(300).partition(NOTE)[2].partition(b"\n")[0].decode("ascii", "replace")
    except OSError:
        return ""


def read_images(
    files: Iterable[Path], on_fault: Callable[[str], object] = warnings.warn
) -> Iterator[tuple[Path, np.ndarray]]:
    """Files with their images (H, W, 3) uint8 RGB; ``on_fault`` is told in a line of each that cannot be read."""
    for file in files:
        try:
            image = read_image(file)
        except (OSError, ValueError) as error:
            on_fault(" ".join(str(error).split()))
        else:
            yield file, image


def list_images(folder: str | Path, deep: bool = False) -> list[Path]:
    """Photographs of a folder, ``deep``: of subfolders, too; sorted by name, no hidden files, no pictures of
    results, no masks of a data set in a subfolder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = [path for path in list_files(folder, *IMAGE_SUFFIXES, deep=deep) if not shows_results(path)]
    files = [path for path in files if path.parent == folder or path.parent.name not in FOLDERS[1:]]
    if not files:
        raise ValueError(f"{folder}: no image found, expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return files


def _open(path: str | Path) -> Image.Image:
    """Opens and fully decodes an image file."""
    check_file(path, expected="a JPEG or PNG")
    try:
        picture = decoded(path)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that can be read, expected a JPEG or PNG") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large to be read safely ({error})") from None
    except Exception as error:  # a damaged file makes Pillow's parsers raise almost anything
        if getattr(error, "errno", None):
            raise ValueError(f"{path}: cannot be read ({error.strerror}), expected a JPEG or PNG") from None
        raise DamagedFileError(f"{path}: damaged or truncated image ({error}), expected a whole JPEG or PNG") from None
    return picture


def is_picture(path: str | Path) -> bool:
    """Whether a file begins as a picture does; it may be damaged further on."""
    return picture_format(path) is not None


def picture_format(path: str | Path) -> str | None:
    """Pillow's name of the format in which a file begins, whatever its ending says; ``None``: no picture."""
    try:
        check_file(path)
        with Image.open(path) as picture:
            return picture.format
    except Exception:  # see ``_open``
        return None


def _open_mask(path: str | Path) -> Image.Image:
    """As ``_open``, but no lossy format, whatever the file is called."""
    picture = _open(path)
    if picture.format in LOSSY or picture.info.get("compression") in LOSSY_TIFF:
        raise ValueError(
            f"{path}: this is a {picture.format} file, which invents ids where a mask has borders, expected a PNG"
        )
    return picture


def shows_results(path: Path) -> bool:
    """Whether ``write_image`` has marked the file."""
    try:
        with open(path, "rb") as file:
            return MARK in file.read(100)
    except OSError:
        return False  # whoever reads it says what is wrong


def _bit_depth(path: str | Path) -> int:
    """Bits per channel of a PNG; 8 of any other file."""
    with open(path, "rb") as file:
        start = file.read(25)  # signature, length and name of the header chunk, width, height, bit depth
    return start[24] if start.startswith(b"\x89PNG") else 8


def _unscaled(picture: Image.Image, path: str | Path) -> np.ndarray:
    """The values of a grey picture as stored: those of 2 and 4 bits, Pillow spreads over 0..255."""
    bits = min(8, _bit_depth(path))
    return np.asarray(picture) // (255 // (2**bits - 1))


def _describe(picture: Image.Image) -> str:
    names = {"P": "a palette", "RGBA": "RGBA (with alpha)", "RGB": "RGB", "F": "float pixels", "1": "1-bit pixels"}
    return names.get(picture.mode, f"pixel format {picture.mode}")
