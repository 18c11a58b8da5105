"""Worker processes run the main script again before they work, so a script must say which part is the program."""

import ast
import os
import sys
from pathlib import Path

MOST_WORKERS = 61
"""Of a pool, at most: Windows cannot wait for more."""


def worker_count(wanted: int | None) -> int:
    """How many processes to work in: ``wanted``, or one per CPU, or 1 where the main script has no main guard.

    Raises:
        RuntimeError: several are wanted, see ``check_main_guard``.
    """
    if wanted is not None:
        check_main_guard(wanted if wanted > 1 else 0)
        return wanted
    try:
        check_main_guard(1)
    except RuntimeError:
        return 1
    return min(os.cpu_count() or 1, MOST_WORKERS)


def check_main_guard(workers: int) -> None:
    """Refuses worker processes from a script that has no ``if __name__ == "__main__":``, or that is not a file.

    Args:
        workers: how many spawned processes are wanted; none needs no guard.

    Raises:
        RuntimeError: one line with what to write instead.
    """
    main = sys.modules["__main__"]
    script, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if workers < 1 or script is None or (spec is not None and spec.name.endswith("__main__")):
        return  # a notebook, a prompt or a package's __main__: none of these is run again
    if not Path(script).is_file():
        raise RuntimeError("worker processes cannot read a script from stdin: save it to a file, or use no workers")
    frame = sys._getframe()
    while frame is not None and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    if frame is None:
        return
    for node in ast.parse(Path(script).read_bytes()).body:
        if node.lineno <= frame.f_lineno <= node.end_lineno and not (
            isinstance(node, ast.If) and any(getattr(part, "id", None) == "__name__" for part in ast.walk(node.test))
        ):
            raise RuntimeError(
                f"{script}, line {frame.f_lineno}: worker processes run this script again; put what it does under "
                '`if __name__ == "__main__":`, or use no workers'
            )
