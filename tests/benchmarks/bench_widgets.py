"""How fast the widgets are in a browser: frames a second while playing, and from slider to picture.

Run on a machine that does nothing else: ``python tests/benchmarks/bench_widgets.py``, or ``make bench``.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from conftest import BROWSER_OPTIONS, Lab, Notebook, browser_path

from roadtopo_lib.course.playground import EmbeddingPlayground

PLAY_SECONDS = 10
MOVES = 7
"""All one way: a value taken back may give the same picture, which is not sent again."""
PLAYED = ("EmbeddingSeparation()", "EmbeddingSeparation(lanes=5, points=200)", "MarginsExplorer()")
MOVED = (
    ("EmbeddingSeparation()", "spread (units)"),
    ("MarginsExplorer()", "delta_dist (units)"),
    ("MarginsExplorer()", "radius (units)"),
    ("FrameEmbeddings()", "steps trained"),
    ("LossShaper()", "probability"),
    ("LossShaper()", "focal gamma"),
    ("AugmentationInStep()", "crop side (%)"),
    ("PostProcessingBench()", "reference row (%)"),
)
LEFT = {"steps trained"}
"""Sliders that begin at their right end."""


def opened(browser, lab: Lab, call: str) -> Notebook:
    """A notebook that shows one widget."""
    notebook = Notebook(
        browser, lab, lab.write("bench.ipynb", "from roadtopo_lib.course.widgets import *", call)
    ).run_all()
    notebook.board().wait_for_words(" ", timeout=60)
    time.sleep(2)
    return notebook


def frames_per_second(board) -> float:
    """Pictures of the first panel a second while the clock plays."""
    board.watch()
    board.play()
    time.sleep(PLAY_SECONDS)
    board.pause()
    times = board.picture_times()
    return 1000 * (len(times) - 1) / (times[-1] - times[0])


def slider_to_picture(board, label: str) -> list[float]:
    """Milliseconds from a key on a slider to the first new picture."""
    board.handle(label).focus()
    taken = []
    for _ in range(MOVES):
        board.watch()
        began = board.page.evaluate("performance.now()")
        board.page.keyboard.press("ArrowLeft" if label in LEFT else "ArrowRight")
        deadline = time.monotonic() + 5
        while not board.picture_times() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.6)  # what the slider set off has ended
        taken.append(board.picture_times()[0] - began)
    return taken


def main() -> None:
    """Prints both tables."""
    from playwright.sync_api import sync_playwright

    playground = EmbeddingPlayground(5, 200, 32)
    started = time.perf_counter()
    playground.step(300)
    print(f"300 steps of 5 x 200 points in 32-D: {1000 * (time.perf_counter() - started):.0f} ms (target 250)")
    lab = Lab(Path(tempfile.mkdtemp()))
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path(), args=list(BROWSER_OPTIONS))
            for call in PLAYED:
                notebook = opened(browser, lab, call)
                print(f"{call:42s} {frames_per_second(notebook.board()):5.1f} frames/s (target 15)", flush=True)
                notebook.close()
            for call, label in MOVED:
                notebook = opened(browser, lab, call)
                taken = slider_to_picture(notebook.board(), label)
                middle, slow = statistics.median(taken), max(taken)
                print(
                    f"{call:24s} {label:20s} {middle:4.0f} ms median, {slow:4.0f} ms at most (target 100)", flush=True
                )
                notebook.close()
            browser.close()
    finally:
        lab.stop()


if __name__ == "__main__":
    main()
