"""Printing that never aborts work."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

_silent = False


def open_streams() -> None:
    """Gives a program whose stdout or stderr was closed one that leads nowhere.

    Progress bars ask for it, and a file opened later would get its number, and with it what libraries print.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            _lead_nowhere(name)


def be_silent() -> None:
    """From now on this process shows no progress and prints to stderr only: of several processes, one speaks."""
    global _silent
    _silent = True
    _lead_nowhere("stdout")


def say(text: object, error: bool = False) -> None:
    """Prints a line at once, to stderr with ``error``. Whatever the console cannot do, nothing is raised.

    A character that its encoding lacks is written as an escape. A console that is gone (a closed pipe, a full disk
    behind it) is not written to again.
    """
    name = "stderr" if error else "stdout"
    stream = getattr(sys, name)
    if stream is None:
        return  # closed before Python began
    try:
        try:
            print(f"{text}\n", end="", file=stream, flush=True)  # one write: lines of several processes stay whole
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            print(str(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: closed by the program
        _lead_nowhere(name)


def progress_bar(*arguments: object, **options: object) -> "tqdm":
    """A bar of tqdm on stderr, which does no harm where stderr is closed.

    Args:
        arguments, options: those of ``tqdm``; ``disable=None`` shows the bar on a terminal only.
    """
    from tqdm.auto import tqdm

    return tqdm(*arguments, **options | ({"disable": True} if _silent or sys.stderr is None else {}))


def _lead_nowhere(name: str) -> None:
    setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  stays open as long as the process
