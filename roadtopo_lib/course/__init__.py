"""What every notebook of the course shares: its first cells, guesses, pictures, and the sample data.

The first two cells of a notebook are generated: ``SETUP_CELL`` and ``colab_cell`` are their only source, and
``notebooks/build.py`` writes them into all notebooks at once.
"""

import random
import re
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from roadtopo_lib.course.data import frame, render_frame, samples
from roadtopo_lib.course.photo import my_photo
from roadtopo_lib.course.pictures import show
from roadtopo_lib.models import choose_device
from roadtopo_lib.viz import INSTANCE_COLORS

__all__ = [
    "colab_cell",
    "frame",
    "my_photo",
    "progress",
    "render_frame",
    "repository_address",
    "reveal",
    "samples",
    "setup_cell",
    "show",
    "start",
]

SETUP_CELL = """\
# @title Set-up: run this cell first
# The same cell opens every notebook: it finds the library, or fetches it on Colab.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = "{repository}"  # where to clone from if there is no clone around this notebook

if importlib.util.find_spec("roadtopo_lib") is None:
    here = Path.cwd()
    around = (p for p in (here, *here.parents) if (p / "roadtopo_lib" / "course").is_dir())
    root = next(around, None)
    if root is None:
        root = here / "road-topology"
        if not root.is_dir():
            if not REPOSITORY:
                raise SystemExit("No clone here: write your fork's address into REPOSITORY.")
            clone = ["git", "clone", "-q", "--depth", "1", REPOSITORY, str(root)]
            subprocess.run(clone, check=True)
        # --no-deps: Colab's own torch, numpy and OpenCV stay as they are.
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", str(root)]
        subprocess.run(install, check=True)
    sys.path.insert(0, str(root))

from roadtopo_lib.course import start

device = start(seed=0)"""

COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"

STYLE = {
    # White behind every figure: it stays readable where the page is dark.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "image.interpolation": "nearest",
    "legend.frameon": False,
}


def start(seed: int = 0) -> torch.device:
    """Makes a notebook ready: seeds every generator, sets the figures' style, picks the device.

    Args:
        seed: of ``random``, NumPy's old generator and torch.

    Returns:
        CUDA if there is one, else CPU.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  albumentations and old code in readers' cells draw from it
    torch.manual_seed(seed)
    torch.set_printoptions(precision=4, sci_mode=False)
    np.set_printoptions(precision=4, suppress=True)
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in INSTANCE_COLORS]
    plt.rcParams.update({**STYLE, "axes.prop_cycle": plt.cycler(color=colors)})
    device = choose_device()
    print(f"[OK] roadtopo_lib is ready: seed {seed}, device {device}")
    return device


def reveal(guess: object, truth: float | str, unit: str = "", tolerance: float = 0.1) -> None:
    """Prints the learner's guess, and below it the answer.

    Args:
        guess: a number, text such as ``"5 %"`` or ``"Yes"``, or ``None`` if the learner did not commit to one. In
            percent, 0.05 and ``"5 %"`` both mean 5; where the answer is a share, ``"5 %"`` means 0.05.
        truth: the number found, or the right one of the answers offered.
        unit: printed after both numbers.
        tolerance: relative distance that still counts as close, >= 0.
    """
    unit = f" {unit}" if unit else ""
    if isinstance(truth, str):
        said = {True: "yes", False: "no"}.get(guess, guess) if isinstance(guess, bool) else guess
        right = said is not None and str(said).strip().strip(".!").casefold() == truth.strip().casefold()
        shown, answer, verdict = said, truth, "right" if right else "look again"
    else:
        number = None if guess is None else _number(guess, percent="%" in unit, truth=truth)
        close = isinstance(number, float) and abs(number - truth) <= tolerance * max(abs(truth), 1e-12)
        shown = f"{number:.4g}{unit}" if isinstance(number, float) else guess
        verdict = "right" if number == truth else "close" if close else "look again"
        answer = f"{truth:.4g}{unit}"
    print(f"your guess: {'none' if guess is None else shown}")
    print(f"answer: {answer}" + ("" if guess is None else f" — {verdict}"))


def _number(guess: object, percent: bool, truth: float) -> float | None:
    """The number that a guess means, ``None`` if it holds none; in percent, 0.05 means whichever of two is closer."""
    found = re.search(r"[-+]?\d*[.,]?\d+(?:e[-+]?\d+)?", str(guess).replace(" ", ""), re.IGNORECASE)
    if found is None:
        return None
    number = float(found[0].replace(",", "."))
    if percent and "%" not in str(guess) and abs(number) < 1:
        return min(number, 100 * number, key=lambda meant: abs(meant - truth))
    if not percent and "%" in str(guess) and abs(truth) <= 1:  # asked for from 0 to 1
        return number / 100
    return number


def progress(elective: str = "") -> None:
    """Prints how far the learner is: exercises solved and parts of their own detector kept; or in ``"E1"`` alone."""
    from roadtopo_lib.course import parts  # loads all exercises, which the first cell of a notebook should not wait for

    print(parts.progress(elective))


def repository_address(pyproject: str | Path) -> str:
    """The address under ``[tool.road-topology] repository``, the one place where it stands; "" while it is unset."""
    with open(pyproject, "rb") as file:
        return tomllib.load(file)["tool"]["road-topology"]["repository"]


def setup_cell(repository: str) -> str:
    """Source of a notebook's set-up cell."""
    return SETUP_CELL.replace("{repository}", repository)


def colab_cell(name: str, repository: str) -> str:
    """Markdown that tells how to open a notebook in Colab.

    Args:
        name: ``"01_config"``, ``"electives/E1_class_imbalance"`` and the like.
        repository: address on GitHub, or "" while unknown.
    """
    if repository:
        path = repository.removesuffix(".git").removesuffix("/").removeprefix("https://github.com/")
        link = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"
        return f"[![Open in Colab]({COLAB_BADGE})]({link})"
    choose = f"choose `notebooks/{name}.ipynb`, write the same address into"
    gap = " " if len(choose) + len(" `REPOSITORY`") <= 100 else "\n"  # as wide as a page of the notebooks
    return (
        "**In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,\n"
        f"{choose}{gap}`REPOSITORY`\n"
        "in the first code cell, and run that cell again.\n"
        "**On your machine:** `make lab`."
    )
