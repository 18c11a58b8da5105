"""A real JupyterLab and a real Chromium, for one notebook at a time.

Where no browser is installed the suite is skipped and says so; in CI (environment variable ``CI``) it fails instead.
"""

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
KERNEL_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a new kernel's debugger would warn on stderr
}
TOKEN = "only-for-this-test"
START_SECONDS, CELL_SECONDS = 90, 120

WATCH_MESSAGES = """
const session = jupyterapp.shell.currentWidget.sessionContext;
await session.ready;
window.said = [];
window.busy = new Set();
window.heard = performance.now();
session.iopubMessage.connect((_, message) => {
    const {header, parent_header, content} = message;
    window.heard = performance.now();
    if (["stream", "error"].includes(header.msg_type)) window.said.push(JSON.stringify(content));
    if (header.msg_type === "status" && content.execution_state === "busy") window.busy.add(parent_header.msg_id);
    if (header.msg_type === "status" && content.execution_state === "idle") window.busy.delete(parent_header.msg_id);
});
"""
QUIET = 300
"""Milliseconds without a message from the kernel after which nothing more comes: a control that was moved while its
last move was being answered sends the next one only then."""
WATCH_PICTURES = """
(image) => {
    window.pictures = [];
    image.onload = () => window.pictures.push(performance.now());
}
"""


def browser_path() -> str | None:
    """Where a Chromium is installed, if anywhere."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    """Chromium, or a skip (in CI a failure)."""
    path = browser_path()
    if path is None:
        message = f"no browser found, looked for {', '.join(BROWSERS)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(BROWSER_OPTIONS))
        yield chromium
        chromium.close()


class Lab:
    """A running JupyterLab.

    Attributes:
        folder: its root; notebooks written there can be opened.
        log: what the server has written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "root"
        self.folder.mkdir()
        own = {
            name: str(folder / name.lower())
            for name in (
                "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
                "IPYTHONDIR",
            )
        }  # fmt: skip
        settings = Path(own["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab"
        for name, text in (
            ("notebook-extension/tracker", '{"windowingMode": "none"}'),
            ("apputils-extension/notification", '{"checkForUpdates": false, "fetchNews": "false"}'),
        ):
            path = settings / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(text)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = folder / "lab.log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
                    f"--ServerApp.root_dir={self.folder}", f"--ServerApp.port={self.port}",
                    "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
                    "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
                ],
                stdout=log, stderr=log, env={**os.environ, **own, **KERNEL_SETTINGS},
            )  # fmt: skip
        self._wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api", timeout=2)
                return
            except OSError:
                assert self._process.poll() is None, self.log
                time.sleep(0.2)
        self.stop()
        raise TimeoutError(f"JupyterLab did not start:\n{self.log}")

    def stop(self) -> None:
        """Ends the server and its kernels."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def write(self, name: str, *cells: str | nbformat.NotebookNode) -> str:
        """A notebook of these code cells in the root folder; returns its name."""
        made = [nbformat.v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        notebook = nbformat.v4.new_notebook(cells=made)
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(notebook, self.folder / name)
        return name


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    running = Lab(tmp_path_factory.mktemp("lab"))
    yield running
    running.stop()


class Notebook:
    """One notebook, open in the browser.

    Attributes:
        page: Playwright's page.
        errors: what the page's scripts threw.
    """

    def __init__(self, browser, lab: Lab, name: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 1400})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/{name}?token={TOKEN}&reset")
        self.page.wait_for_selector(".jp-Notebook", timeout=1000 * START_SECONDS)
        self._do(WATCH_MESSAGES)

    def _do(self, script: str) -> object:
        return self.page.evaluate(f"async () => {{ {script} }}")

    def command(self, name: str) -> None:
        """Runs a command of JupyterLab, and waits for it."""
        self._do(f"await jupyterapp.commands.execute({name!r});")

    def run_all(self) -> "Notebook":
        """Runs every cell, and waits until all are done."""
        self.command("notebook:run-all-cells")
        return self

    def restart(self) -> None:
        """A new kernel, without the dialog."""
        self._do("await jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart();")

    def settle(self) -> None:
        """Waits until the kernel has answered everything, in all its threads."""
        self._do("await jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code: ''}).done;")
        self.page.wait_for_function(
            f"window.busy.size === 0 && performance.now() - window.heard > {QUIET}", timeout=1000 * CELL_SECONDS
        )

    @property
    def said(self) -> list[str]:
        """Everything that the kernel printed or raised, from wherever.

        Not what it says of comms: JupyterLab asks a new kernel for its widgets before any code has loaded ipywidgets.
        """
        return [text for text in self.page.evaluate("window.said") if "No such comm" not in text]

    def board(self, index: int = 0) -> "BoardInPage":
        """The widget of the index-th cell that shows one."""
        return BoardInPage(self, index)

    def close(self) -> None:
        """Hangs up before the page goes: a server still sending to it would write a traceback, at times late."""
        self._do("jupyterapp.serviceManager.dispose();")
        self.page.wait_for_timeout(300)  # ms, for the server to hear of it
        self.page.close()


class BoardInPage:
    """A widget as a reader meets it: by labels, handles and pictures."""

    def __init__(self, notebook: Notebook, index: int) -> None:
        self.page = notebook.page
        self.root = self.page.locator(".jp-OutputArea-output .widget-vbox").nth(index)
        deadline = time.monotonic() + CELL_SECONDS
        while not self.root.is_visible():
            assert not notebook.said, f"no widget; the kernel said {notebook.said}"
            assert time.monotonic() < deadline, "no widget"
            time.sleep(0.1)

    @property
    def words(self) -> str:
        return self.root.locator("[role=status]").inner_text()

    def wait_for_words(self, part: str, timeout: float = 10) -> str:
        """Waits until the words contain a text, and returns them all."""
        deadline = time.monotonic() + timeout
        while part not in self.words:
            assert time.monotonic() < deadline, f"waited for {part!r}, the words are {self.words!r}"
            time.sleep(0.02)
        return self.words

    def wait_until_computed(self, timeout: float) -> None:
        """Waits until no slow method waits or computes."""
        deadline = time.monotonic() + timeout
        while self.root.locator("[data-due]").count():
            assert time.monotonic() < deadline, f"still computes: {self.words!r}"
            time.sleep(0.02)

    def control(self, label: str):
        """The control with this label."""
        return (
            self.root.locator(".jupyter-widgets")
            .filter(has=self.page.locator(f'.widget-label:text-is("{label}"), label:has-text("{label}")'))
            .last
        )

    def handle(self, label: str):
        """The handle of a slider, of ipywidgets 8 or 7."""
        return self.control(label).locator(".noUi-handle, .ui-slider-handle").first

    def press(self, label: str, key: str, times: int = 1) -> None:
        """Moves a slider by keys."""
        self.handle(label).focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def drag(self, label: str, share: float, steps: int = 6) -> None:
        """Drags a slider's handle to a share of its track, 0..1."""
        handle = self.handle(label).bounding_box()
        track = self.control(label).locator(".noUi-base, .slider-container, .ui-slider").first.bounding_box()
        self.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + share * track["width"], track["y"] + track["height"] / 2, steps=steps)
        self.page.mouse.up()

    def choose(self, label: str, option: str) -> None:
        """Picks from a list."""
        self.control(label).locator("select").select_option(label=option)

    def click(self, name: str) -> None:
        """Presses a button by its words."""
        self.root.get_by_role("button", name=name, exact=True).click()

    def check(self, label: str) -> None:
        """Toggles a check box."""
        self.control(label).locator("input[type=checkbox]").click()

    def play(self) -> None:
        """Starts the clock."""
        self.root.locator(".widget-play button:has(.fa-play)").click()

    def pause(self) -> None:
        """Stops the clock: the same button in ipywidgets 8, one of its own in 7."""
        self.root.locator(".widget-play button:has(.fa-pause)").click()

    def picture(self, index: int = 0) -> np.ndarray:
        """What the browser shows: (H, W, 3) uint8."""
        data = (
            self.root.locator("img")
            .nth(index)
            .evaluate(
                """async (image) => {
                const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
                let text = ""; for (const byte of bytes) text += String.fromCharCode(byte);
                return btoa(text);
            }"""
            )
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def watch(self, index: int = 0) -> None:
        """Notes the time when every new picture is loaded, from here on."""
        self.root.locator("img").nth(index).evaluate(WATCH_PICTURES)

    def picture_times(self) -> list[float]:
        """When new pictures came since ``watch``, in ms."""
        return self.page.evaluate("window.pictures")


@pytest.fixture
def open_notebook(browser, lab):
    """Opens notebooks; afterwards none may have printed, raised or thrown anything, nor the server have failed.

    Only what the server writes meanwhile counts. Every page has its kernel before it is closed: one closed while
    JupyterLab still connects leaves a traceback of the server's own.
    """
    opened: list[Notebook] = []
    before = len(lab.log)

    def open_one(name: str, width: int = 1280) -> Notebook:
        opened.append(Notebook(browser, lab, name, width))
        return opened[-1]

    yield open_one
    for notebook in opened:
        notebook.settle()
        said, errors = notebook.said, notebook.errors
        notebook.close()
        assert not [*said, *errors], f"printed: {said}; thrown: {errors}"
    log = lab.log[before:]
    assert "Traceback" not in log, log[log.index("Traceback") :][:2000]
