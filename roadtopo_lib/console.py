"""Printing that never aborts work."""

import os
import sys


def say(text: str) -> None:
    """Prints a line at once. A console that is gone (a closed pipe, a full disk behind it) is not written to again."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  stays open as long as the process
