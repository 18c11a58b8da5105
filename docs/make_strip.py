"""Writes ``strip.png``, the first picture of the README: ``python docs/make_strip.py``."""

import io
from pathlib import Path

from PIL import Image

from roadtopo_lib.course import frame
from roadtopo_lib.course.pictures import DPI, as_png
from roadtopo_lib.course.strip import boxes_of, draw_strip, shipped_segmenter
from roadtopo_lib.files import write_atomic

buffer = io.BytesIO()
draw_strip([boxes_of(frame()[0], shipped_segmenter())]).savefig(buffer, format="png", dpi=DPI, facecolor="white")
write_atomic(Path(__file__).parent / "strip.png", as_png(Image.open(buffer).convert("RGB")))
