"""The learner's own photograph: named once, shown in every notebook."""

from pathlib import Path

import numpy as np

from roadtopo_lib.course.learner import learner_folder
from roadtopo_lib.data.images import IMAGE_SUFFIXES, read_image
from roadtopo_lib.files import write_atomic

UPLOAD = "upload"
"""In place of a path: Colab asks for a file."""


def my_photo(path: str | Path | None = None) -> np.ndarray | None:
    """The photograph named now, or else the one named in an earlier notebook.

    A copy is kept in the learner's folder. A folder that cannot be written is no error.

    Args:
        path: of an image; ``"upload"`` on Colab asks for a file; ``None`` takes the copy.

    Returns:
        (H, W, 3) uint8 RGB, or ``None`` if no photograph was ever named.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no readable image, or an upload was asked for outside of Colab.
    """
    if path is None:
        copies = [copy for suffix in IMAGE_SUFFIXES if (copy := _copy(suffix)).is_file()]
        return read_image(copies[0]) if copies else None
    path = Path(_uploaded() if str(path) == UPLOAD else path).expanduser()
    image, content = read_image(path), path.read_bytes()
    try:
        for suffix in IMAGE_SUFFIXES:
            _copy(suffix).unlink(missing_ok=True)
        write_atomic(_copy(path.suffix.lower()), content)
    except OSError:
        pass
    return image


def _copy(suffix: str) -> Path:
    return learner_folder() / f"photo{suffix}"


def _uploaded() -> str:
    """Name of the file that a learner hands to Colab."""
    try:
        from google.colab import files
    except ImportError:
        raise ValueError("an upload works on Colab only; elsewhere name the path of the photograph") from None
    names = list(files.upload())
    if not names:
        raise ValueError("no file was uploaded")
    return names[0]
