"""Figures of the notebooks: sharp, small, with words for readers who do not see them."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

DPI = 160
"""Pixels per inch that are stored. A figure is shown at 100 per inch, so that letters are sharp on dense screens."""
SHOWN_DPI = 100
COLORS = 256
"""Of a PNG palette, by default."""
FLAT_SHARE = 2e-4
"""Share of the pixels from which a colour counts as flat: it is kept exactly."""
JPEG_QUALITY = 92


def show(figure: Figure, alt: str, photo: bool = False, colors: int = COLORS) -> None:
    """Displays a figure and closes it.

    Args:
        figure: a matplotlib figure.
        alt: what the picture shows, in a sentence: for screen readers, and for viewers without pictures.
        photo: the figure holds photographs only: JPEG, small and without bands. Class and instance colours change by
            a level or two in JPEG; a figure with masks stays PNG.
        colors: of the PNG. Fewer than ``COLORS`` are not dithered: a drawing takes half the bytes then.

    Raises:
        ValueError: an empty ``alt``.
    """
    if not alt.strip():
        raise ValueError("alt is empty, expected a sentence on what the picture shows")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    kind, data = ("image/jpeg", as_jpeg(picture)) if photo else ("image/png", as_png(picture, colors))
    width = round(picture.width * SHOWN_DPI / DPI)
    bundle = {kind: base64.b64encode(data).decode(), "text/plain": alt}
    display(bundle, raw=True, metadata={kind: {"alt": alt, "width": width}})


def as_jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG with full colour resolution."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def as_png(picture: Image.Image, colors: int = COLORS) -> bytes:
    """The picture as PNG of at most ``colors`` colours; those of flat areas, such as white or a class, stay exact.

    Of ``COLORS``, the others are dithered, which avoids bands in a sky. Flat areas are not touched by the dithering.
    Of fewer, each pixel gets the nearest colour.
    """
    pixels = np.asarray(picture)
    codes = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)  # (H, W), one number a colour
    found, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    place = place.reshape(codes.shape)
    buffer = io.BytesIO()
    if len(found) > colors:
        by_count = np.argsort(counts)[::-1][: colors // 2]
        flat = by_count[counts[by_count] >= max(FLAT_SHARE * codes.size, 1)]
        is_flat = np.isin(place, flat)
        palette = np.stack([found[flat] >> 16, found[flat] >> 8 & 255, found[flat] & 255], axis=1).astype(np.uint8)
        rest = Image.fromarray(pixels[~is_flat][None])
        mixed = rest.quantize(colors - len(flat), kmeans=2)
        others = np.array(mixed.getpalette(), np.uint8).reshape(-1, 3)[: colors - len(flat)]
        table = Image.new("P", (1, 1))
        table.putpalette(np.concatenate([palette, others]).tobytes())
        dither = Image.Dither.FLOYDSTEINBERG if colors == COLORS else Image.Dither.NONE
        indices = np.array(picture.quantize(palette=table, dither=dither))
        number_of = np.zeros(len(found), np.uint8)
        number_of[flat] = np.arange(len(flat))
        indices[is_flat] = number_of[place[is_flat]]
        picture = Image.fromarray(indices, "P")
        picture.putpalette(table.getpalette())
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
