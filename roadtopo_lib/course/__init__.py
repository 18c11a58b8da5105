"""What every notebook of the course shares: its first cell, guesses, and where the sample data lie.

The first two cells of a notebook are generated: ``SETUP_CELL`` and ``colab_cell`` are their only source, and
``notebooks/build.py`` writes them into all notebooks at once.
"""

import random
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from roadtopo_lib.models import choose_device
from roadtopo_lib.viz import INSTANCE_COLORS

SETUP_CELL = """\
# The same cell opens every notebook: it finds the library, or fetches it on Colab.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = "{repository}"  # where to clone from if there is no clone around this notebook

if importlib.util.find_spec("roadtopo_lib") is None:
    here = Path.cwd()
    root = next((p for p in (here, *here.parents) if (p / "roadtopo_lib" / "course").is_dir()), None)
    if root is None:
        root = here / "road-topology"
        if not root.is_dir():
            if not REPOSITORY:
                raise SystemExit("No clone found here: write your fork's address into REPOSITORY, then run again.")
            subprocess.run(["git", "clone", "-q", "--depth", "1", REPOSITORY, str(root)], check=True)
        # --no-deps: Colab's own torch, numpy and OpenCV stay as they are.
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", str(root)], check=True)
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


def reveal(guess: object, truth: float, unit: str = "", tolerance: float = 0.1) -> None:
    """Prints the learner's guess, and below it the answer.

    The answer is not in the first line, since JupyterLab shows that one even of a folded output.

    Args:
        guess: a number, or ``None`` if the learner did not commit to one.
        truth: the number found.
        unit: printed after both.
        tolerance: relative distance that still counts as close, >= 0.
    """
    unit = f" {unit}" if unit else ""
    verdict = ""
    if guess is not None:
        close = abs(float(guess) - truth) <= tolerance * max(abs(truth), 1e-12)
        verdict = " — close" if close else " — look again"
    print(f"your guess: {'none' if guess is None else f'{float(guess):.4g}{unit}'}\nanswer: {truth:.4g}{unit}{verdict}")


def reveal_choice(guess: str | None, truth: str) -> None:
    """The same for a question with named answers.

    Args:
        guess: one of the answers offered, or ``None``.
        truth: the right one.
    """
    verdict = "" if guess is None else " — right" if guess == truth else " — look again"
    print(f"your guess: {'none' if guess is None else guess}\nanswer: {truth}{verdict}")


def samples() -> Path:
    """The folder ``data_samples`` of the clone that this library or the notebook lies in.

    Raises:
        FileNotFoundError: neither lies in a clone.
    """
    starts = (Path(__file__).resolve().parent, Path.cwd())
    for folder in (parent for start in starts for parent in (start, *start.parents)):
        if (folder / "data_samples" / "README.md").is_file():
            return folder / "data_samples"
    raise FileNotFoundError("data_samples: not found around the notebook or the library; open the notebook in a clone")


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
        name: ``"01_config"`` and the like.
        repository: address on GitHub, or "" while unknown.
    """
    if repository:
        path = repository.removesuffix(".git").removesuffix("/").removeprefix("https://github.com/")
        link = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"
        return f"[![Open in Colab]({COLAB_BADGE})]({link})"
    return (
        "**In Colab:** *File → Open notebook → GitHub*, paste the address of your fork of this repository,\n"
        f"choose `notebooks/{name}.ipynb`, and write the same address into `REPOSITORY` below.\n"
        "**On your machine:** `make lab`."
    )
