"""Other people's label files → our samples: one module a format, all written by ``writing.write_labelled``."""

from roadtopo_lib.data.convert.bdd100k import convert_bdd100k
from roadtopo_lib.data.convert.coco import convert_coco
from roadtopo_lib.data.convert.culane import convert_culane
from roadtopo_lib.data.convert.labelme import convert_labelme
from roadtopo_lib.data.convert.tusimple import convert_tusimple
from roadtopo_lib.data.convert.writing import Options, Report

__all__ = [
    "FORMATS",
    "Options",
    "Report",
    "convert_bdd100k",
    "convert_coco",
    "convert_culane",
    "convert_labelme",
    "convert_tusimple",
]

FORMATS = {
    "labelme": convert_labelme,
    "tusimple": convert_tusimple,
    "culane": convert_culane,
    "bdd100k": convert_bdd100k,
    "coco": convert_coco,
}
"""Names on the command line."""
