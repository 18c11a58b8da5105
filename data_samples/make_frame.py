"""Writes ``frame/``, the scene that every notebook shows: ``python data_samples/make_frame.py``."""

from pathlib import Path

from roadtopo_lib.course import render_frame
from roadtopo_lib.data.samples import write_sample

scene = render_frame()
write_sample(
    Path(__file__).parent / "frame", "frame", scene.image, scene.semantic_amodal, scene.instance_amodal, suffix=".png"
)
