"""The learner's folder: parts kept and exercises solved, on the learner's own disk.

Nothing in it may stop a notebook: a folder that cannot be read counts as empty.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

from roadtopo_lib.course.data import samples
from roadtopo_lib.files import write_json

VARIABLE = "ROADTOPO_LEARNER"
"""Environment variable that names the folder. Empty: a new folder for each process, removed at its end."""

DRIVE = Path("/content/drive/MyDrive")
"""Where Colab mounts the learner's Drive; the rest of Colab's disk is lost with the session."""

PROGRESS_FILE = "progress.json"


def learner_folder() -> Path:
    """The folder; it need not exist yet.

    Returns:
        What ``ROADTOPO_LEARNER`` names if it is set, else ``road-topology`` in a mounted Drive, else ``my_parts`` in
        the clone (or in the current folder, if there is no clone around the library).
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named).expanduser() if named else Path(_folder_of_process().name)
    if DRIVE.is_dir():
        return DRIVE / "road-topology"
    try:
        return samples().parent / "my_parts"
    except FileNotFoundError:
        return Path("my_parts").resolve()


@functools.cache
def _folder_of_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="road-topology-")


def solved() -> set[str]:
    """Names of the exercises recorded so far; empty if the file is missing or damaged."""
    try:
        names = json.loads((learner_folder() / PROGRESS_FILE).read_text(encoding="utf-8"))["exercises"]
        return {name for name in names if isinstance(name, str)}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def record(name: str) -> bool:
    """Remembers that an exercise is solved; does nothing where the folder cannot be written.

    Returns:
        Whether it was not recorded before, and is now.
    """
    names = solved()
    if name in names:
        return False
    try:
        write_json(learner_folder() / PROGRESS_FILE, {"exercises": sorted({*names, name})})
    except OSError:
        return False
    return True


@functools.cache
def say_where() -> None:
    """Prints the learner's folder, once in a process; nothing if the folder is that of the process."""
    if os.environ.get(VARIABLE) != "":
        print(f"Your progress and your parts are kept in {learner_folder()}")
