"""Processes and signals: what workers need and how they end, one process to a folder, how a long run is stopped."""

import ast
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from types import FrameType

from roadtopo_lib.console import say
from roadtopo_lib.files import naming

LOCK = ".lock"
"""Name of the file that ``locked`` holds in a folder."""

HINT_SECONDS = 2.0
"""After a signal that long, ``StopSignals`` says what it waits for."""

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


@contextmanager
def locked(folder: str | Path, work: str) -> Iterator[None]:
    """Inside, no other process may enter the same folder; a process that ends in any way gives the lock back.

    A file system without locks is used without one. A folder that did not exist and is still empty at the end is
    removed again.

    Args:
        folder: made if missing.
        work: what is done there, for the error: "a training".

    Raises:
        FileExistsError: another process is inside; names the folder and the process.
        OSError: the folder cannot be written to; names it and the reason.
    """
    path = Path(folder) / LOCK
    is_new = not path.parent.exists()
    with naming(folder):
        if is_new:
            path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path)
    try:
        if file is None:
            holder = "unknown"
            with suppress(OSError):  # it has just ended
                holder = path.read_text(errors="replace") or holder
            raise FileExistsError(f"{folder}: {work} is running there already (process {holder}), expected none")
        with file:
            try:
                with suppress(OSError):  # a full disk keeps the lock, without the number
                    os.ftruncate(file.fileno(), 0)
                    os.write(file.fileno(), str(os.getpid()).encode())
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file; what is left behind locks nothing
                    path.unlink()
    finally:
        if is_new:
            with suppress(OSError):  # the folder holds something
                path.parent.rmdir()


def _open_locked(path: Path) -> FileIO | None:
    """The file, open and locked; ``None`` if another process has the lock."""
    for _ in range(3):
        # A link or a pipe of that name, in a folder of a stranger, is not followed and does not keep waiting.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = open(os.open(path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(f"{path.name} in it is no file")
        if not _lock(file):
            break
        if os.fstat(file.fileno()).st_nlink:  # else its holder removed it before it was locked here
            return file
        file.close()
    file.close()
    return None


def _lock(file: FileIO) -> bool:
    """Whether this process has the lock of an open file now; a file system without locks grants it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 20)  # the byte that is locked cannot be read by others: one behind the text
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def start_worker(number: int = 0) -> None:
    """The first call of a worker process. It then ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Stopped(KeyboardInterrupt):
    """A long run that ended at a place of its choice, since a signal asked for it.

    Attributes:
        exit_code: of a program that ends so: 130 after SIGINT, 143 after SIGTERM.
    """

    exit_code = 130


class StopSignals:
    """Inside, SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM are noted, and obeyed where ``check`` is called.

    So an optimiser step is never cut in two. A second signal raises ``KeyboardInterrupt`` at once. Outside the main
    thread, which alone receives signals, nothing changes; neither do signals that the process ignores.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict = {}
        self._hint: threading.Timer | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler that Python did not install
        if self._hint is not None:
            self._hint.cancel()
        if kind is None:
            self.check()
        self._received = None

    def check(self, highest: Callable[[int], int] = int) -> None:
        """Raises ``Stopped`` if a signal has come.

        Args:
            highest: of several processes that stop together, ``distributed.highest``; a signal to one is for all.
        """
        received, self._received = highest(self._received or 0), None
        if received:
            received = signal.Signals(received)
            stop = Stopped(f"stopped by {received.name}")
            stop.exit_code = 128 + received
            raise stop

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        self._hint = threading.Timer(HINT_SECONDS, say, ("stopping after this step; a second time stops at once", True))
        self._hint.daemon = True
        self._hint.start()
