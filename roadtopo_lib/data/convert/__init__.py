"""Other people's label files → our samples: one module a format reads, ``writing.write_labelled`` writes."""

from collections.abc import Callable
from pathlib import Path

from roadtopo_lib.data.convert.bdd100k import read_bdd100k
from roadtopo_lib.data.convert.camvid import read_camvid
from roadtopo_lib.data.convert.coco import read_coco
from roadtopo_lib.data.convert.culane import read_culane
from roadtopo_lib.data.convert.labelme import read_labelme
from roadtopo_lib.data.convert.names import ClassNames
from roadtopo_lib.data.convert.tusimple import read_tusimple
from roadtopo_lib.data.convert.writing import Options, Report, write_labelled

__all__ = [
    "FORMATS", "Options", "Report", "convert_bdd100k", "convert_camvid", "convert_coco", "convert_culane",
    "convert_labelme", "convert_tusimple",
]  # fmt: skip


def _converter(read: Callable, has_names: bool = True) -> Callable[..., Report]:
    """A format's converter."""

    def convert(
        src: str | Path, dst: str | Path, images: str | Path | None = None, names: dict | None = None, **options: object
    ) -> Report:
        """Converts label files to a data set; see the format's module for what it reads.

        Args:
            src: a label file, or a folder of label files.
            dst: the data set's folder.
            images: folder of the images; default: beside the label files, or where these say.
            names: their class name → ours, ``None`` for one to leave out; see ``names.ClassNames``. TuSimple and CULane
                name no classes: their lanes get the class table's first class of lanes.
            options: fields of ``Options``.

        Returns:
            What was read, written and dropped, and why; it lies in ``dst``, too.

        Raises:
            FileNotFoundError: no label file.
            FileExistsError: another conversion writes to ``dst``.
            RuntimeError: several workers asked for, and a main script without main guard.
            ValueError: wrong options or names, a class table without lanes, or a label file of which nothing can be
                read.
            OSError: ``dst`` cannot be written to.
        """
        settings = Options(**options)
        if names is not None and not has_names:
            raise ValueError(f"{read.__name__.removeprefix('read_')} takes no names: it knows nothing but lanes")
        class_names = ClassNames(settings.classes, names)
        return write_labelled(read(Path(src), class_names, images and Path(images)), dst, settings)

    convert.__name__ = convert.__qualname__ = read.__name__.replace("read", "convert")
    return convert


convert_labelme = _converter(read_labelme)
convert_tusimple = _converter(read_tusimple, has_names=False)
convert_culane = _converter(read_culane, has_names=False)
convert_bdd100k = _converter(read_bdd100k)
convert_coco = _converter(read_coco)
convert_camvid = _converter(read_camvid)

FORMATS: dict[str, Callable[..., Report]] = {
    "labelme": convert_labelme, "tusimple": convert_tusimple, "culane": convert_culane, "bdd100k": convert_bdd100k,
    "coco": convert_coco, "camvid": convert_camvid,
}  # fmt: skip
"""Names on the command line."""
