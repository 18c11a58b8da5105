"""How fast the widgets are in a browser: frames a second, from slider to picture, and to rest after a wild drag.

Run on a machine that does nothing else: ``python tests/benchmarks/bench_widgets.py``, or ``make bench``.
"""

import os
import random
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
    ("MarginsExplorer()", "delta_var (units)"),
    ("FrameEmbeddings()", "steps trained"),
    ("LossShaper()", "probability"),
    ("LossShaper()", "focal gamma"),
    ("AugmentationInStep()", "crop side (%)"),
    ("PostProcessingBench()", "reference row (%)"),
)
WILD = (
    ("EmbeddingSeparation()", "points per lane", None),
    ("MarginsExplorer()", "delta_dist (units)", None),
    ("LossShaper()", "focal gamma", None),
    ("AugmentationInStep()", "sample (number)", None),
    *(
        (call, "radius (units)", method)
        for call in ("FrameEmbeddings()", "PostProcessingBench()")
        for method in ("fast", "meanshift", "dbscan")
    ),
)
"""Widget, slider, and the method to choose first, if it has methods."""
WILD_MOVES, WILD_PAUSE = 80, 0.02
"""Places that a wild drag jumps to, and the seconds between them."""
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


def rest_after_wild_drag(notebook: Notebook, label: str) -> float:
    """Milliseconds from letting go of a slider that was torn to and fro to the last picture that follows."""
    board, rng = notebook.board(), random.Random(0)
    handle, track = board.handle(label).bounding_box(), board.control(label).locator(".noUi-base").first.bounding_box()
    board.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    board.page.mouse.down()
    board.watch()
    for _ in range(WILD_MOVES):
        board.page.mouse.move(track["x"] + rng.random() * track["width"], track["y"] + track["height"] / 2)
        time.sleep(WILD_PAUSE)
    released = board.page.evaluate("performance.now()")
    board.page.mouse.up()
    notebook.settle()
    board.wait_until_computed(60)
    notebook.settle()
    return max([0.0, *(came - released for came in board.picture_times())])


def main() -> None:
    """Prints the three tables."""
    from playwright.sync_api import sync_playwright

    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
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
            for call, label, method in WILD:
                notebook = opened(browser, lab, call)
                if method:
                    notebook.board().choose("method", method)
                    notebook.settle()
                    notebook.board().wait_until_computed(60)
                rest = rest_after_wild_drag(notebook, label)
                print(
                    f"{call:24s} {label:20s} {method or '':10s} at rest after {rest:4.0f} ms (target 2000)", flush=True
                )
                notebook.close()
            browser.close()
            print(f"load {os.getloadavg()[0]:.1f}")
    finally:
        lab.stop()


if __name__ == "__main__":
    main()
