"""Procedural road scenes with exact labels: everything from one integer.

Read in this order: `camera` (pixels and ground), `road` (the curve, coverage), `layout` and `streets` (what is
painted where), `surface` (textures), `marks`, `canvas`, `surroundings`, `overhead`, `vehicles`, `shadows`, `sky`,
`weather`, `lens`, then `annotate` (labels), `render` (the order of it all) and `synth` (a data set on disk).
`aerial` is a renderer of its own: roads from above.
"""

from roadtopo_lib.scenes.aerial import AerialScene, render_aerial
from roadtopo_lib.scenes.camera import Camera
from roadtopo_lib.scenes.render import PRESETS, Scene, render_scene
from roadtopo_lib.scenes.road import Road
from roadtopo_lib.scenes.synth import write_dataset

__all__ = ["PRESETS", "AerialScene", "Camera", "Road", "Scene", "render_aerial", "render_scene", "write_dataset"]
