"""Where the sample data lie, and the frame: one rendered scene that every notebook uses."""

from pathlib import Path

from roadtopo_lib.data.samples import Sample, read_sample, sample_files
from roadtopo_lib.scenes import Scene, render_scene

FRAME_SEED, FRAME_SIZE, FRAME_PRESET = 21365, (512, 1024), "day"
LANE_SMALL = "checkpoints/lane-small.safetensors"
"""Within ``samples()``: the small one of the models that were trained for photographs."""


def samples() -> Path:
    """The folder ``data_samples`` of the clone that this library or the notebook lies in.

    Raises:
        FileNotFoundError: neither lies in a clone.
    """
    starts = (Path(__file__).resolve().parent, Path.cwd())
    for folder in (parent for start in starts for parent in (start, *start.parents)):
        if (folder / "data_samples" / "README.md").is_file():
            return folder / "data_samples"
    raise FileNotFoundError("data_samples: not found around the notebook or the library; open the notebook in a clone")


def frame() -> Sample:
    """The frame with amodal labels: a bend with four lines and a crosswalk, where a car hides part of the first line.

    Returns:
        Image (512, 1024, 3) uint8 RGB, semantic mask (512, 1024) uint8, instance mask (512, 1024) uint16.
    """
    return read_sample(*sample_files(samples() / "frame", "frame", ".png"))


def render_frame() -> Scene:
    """The frame rendered again, with what no file holds: its camera, its road, the labels of what is visible."""
    return render_scene(FRAME_SEED, FRAME_SIZE, FRAME_PRESET)
