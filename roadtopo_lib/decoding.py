"""Pictures decoded with Pillow: damaged metadata stop no reading, pixels that are missing do; EXIF's orientation.

Videos are opened with FFmpeg.
"""

import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg prints hundreds of lines for a damaged frame

warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged metadata, and of half the size that is an error

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
"""Pillow's names of the formats that are decoded: others bring parsers, or programs, of their own."""

ORIENTATION = 0x0112
"""EXIF's tag that says how a viewer turns the picture: 1 not at all, 2 to 8 mirrored, turned or both."""

BACKWARDS = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations that reverse the columns, and those that reverse the rows, after rows and columns are exchanged."""

MAX_GAP = 1000  # undecodable frames in a row after which a video has ended: what it announces may be wrong

APPLICATION = (*range(0xE0, 0xF0), 0xFE)  # markers of a JPEG's segments that belong to applications, and of comments


def decoded(source: str | Path | bytes) -> Image.Image:
    """A picture from a file or its content. What Pillow raises of metadata alone is no error: they are left out.

    Raises:
        OSError, ValueError: no picture, or a damaged one; Pillow raises struct.error, SyntaxError and others, too.
        Image.DecompressionBombError: too large.
    """
    try:
        return _whole(source)
    except Image.DecompressionBombError:
        raise
    except Exception as error:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            return _whole(_without_metadata(content))
        except Exception:
            raise error if isinstance(error, OSError | ValueError) else ValueError(str(error)) from None


def _whole(source: str | Path | bytes) -> Image.Image:
    """A decoded picture; ValueError for a PNG whose stream ends too early: to Pillow, pixels that are not there are 0.

    Where the last row is zero, or the last may stand elsewhere, the file is decoded once more, onto ones.
    """

    def decode(ground: int) -> Image.Image:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        if ground:
            picture.im = Image.new(picture.mode, picture.size, ground).im
        picture.load()
        return picture

    def last(picture: Image.Image, rows: int) -> Image.Image:
        return picture.crop((0, max(0, picture.height - rows), *picture.size))

    picture = decode(0)
    if picture.format == "PNG" and not _is_sound(source if isinstance(source, bytes) else Path(source).read_bytes()):
        raise ValueError("a checksum of its pixels is wrong")
    in_doubt = picture.info.get("interlace") or last(picture, 1).getbbox(alpha_only=False) is None
    if picture.format == "PNG" and in_doubt and last(picture, 2).tobytes() != last(decode(1), 2).tobytes():
        raise ValueError("it ends before its last row")
    return picture


def _is_sound(png: bytes) -> bool:
    """Whether the checksums of a PNG's pixels are right: Pillow compares none, and damaged masks hold invented ids."""
    at = 8
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        chunk, checksum = png[at + 4 : end - 4], int.from_bytes(png[end - 4 : end], "big")
        if chunk.startswith(b"IDAT") and zlib.crc32(chunk) != checksum:
            return False
        at = end
    return True


def _without_metadata(content: bytes) -> bytes:
    """A JPEG or PNG file without what describes the picture, its EXIF aside."""
    is_png, at = content.startswith(b"\x89PNG"), 8 if content.startswith(b"\x89PNG") else 2
    kept = [content[:at]]
    while at + 8 < len(content):
        if is_png:  # a chunk: length, name, data, checksum; names of those that a picture needs are in capitals
            end, name = at + 12 + int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
            needed = name.isupper() or name == b"eXIf"
        else:  # a segment: marker, length, data; the image begins with marker DA
            end, name = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big"), content[at + 4 : at + 8]
            if content[at + 1] == 0xDA:
                break
            needed = content[at + 1] not in APPLICATION or name == b"Exif" or (name == b"Adob" and end - at >= 16)
        kept.append(content[at:end] if needed else b"")
        at = end
    return b"".join([*kept, content[at:]])


def orientation_of(picture: Image.Image) -> int:
    """EXIF's orientation, 1..8; a tag that is none of these turns nothing, and damaged EXIF never stops a reader."""
    try:
        value = picture.getexif().get(ORIENTATION)
    except Exception:  # Pillow lets pass whatever its parsers meet: struct.error, TypeError, SyntaxError and others
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, …) as a viewer shows it that heeds the orientation tag: (H, W, …), or from 5 on (W, H, …)."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    columns, rows = (-1 if orientation in backwards else 1 for backwards in BACKWARDS)
    return np.ascontiguousarray(pixels[::rows, ::columns])


def turned_points(points: np.ndarray, orientation: int, size: tuple[int, int]) -> np.ndarray:
    """(M, 2) points (x, y) of stored pixels of ``size`` (H, W): where ``turned`` moves the pixels to."""
    if orientation > 4:
        points, size = points[:, ::-1], size[::-1]
    ends = np.array(size[::-1]) - 1  # the last column and row
    return np.where([orientation in backwards for backwards in BACKWARDS], ends - points, points)


def opened_video(name: str) -> cv2.VideoCapture:
    """A video, not opened if FFmpeg knows no such format. Nothing is printed.

    OpenCV's other readers print what they dislike, and take a % in the name for the numbers of single pictures.

    Args:
        name: of the file, in UTF-8, see ``files.utf8_name``.
    """
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)


def numbered_frames(name: str, on_fault: Callable[[str], object]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a video, (H, W, 3) uint8 RGB, with their places in it; a damaged one is left out.

    Args:
        name: of the file, as for ``opened_video``.
        on_fault: told at the end, in a line, how many frames are missing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video that OpenCV can decode.
    """
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    capture = opened_video(name)
    try:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number = found = end = 0  # ``end``: one behind the last frame that was read
        while number < end + MAX_GAP:
            is_read, frame = capture.read()
            if is_read:
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                found, end = found + 1, number + 1
            number += 1
        if not found:
            raise ValueError(f"{name}: not a video that can be decoded")
        missing = max(end, announced) - found
        if missing:
            on_fault(f"{name}: {missing} of {found + missing} frames are missing or cannot be decoded")
    finally:
        capture.release()
