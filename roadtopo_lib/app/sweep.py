"""A small search for good settings: ``road-topology sweep SPACE.yaml``. No service is needed.

SPACE.yaml says which settings vary, and how:

    lr: [1e-3, 3e-3]                              one of these
    instance_weight: {low: 0.05, high: 0.5}       random runs: anything between, evenly
    muon_lr: {low: 0.005, high: 0.05, log: true}  random runs: anything between, evenly in the exponent

Each run is a folder of its own, ``run_000`` and so on. A sweep that is started again goes on with what is missing.
"""

import csv
import io
import itertools
import math
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from roadtopo_lib.app.train import train_lane_model
from roadtopo_lib.config import LaneSegmentationConfig, read_settings
from roadtopo_lib.console import say
from roadtopo_lib.files import write_atomic, write_json

RANGE = {"low", "high", "log"}


def read_space(path: str | Path) -> dict[str, list | dict]:
    """Setting → its values, or a range.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a mapping of settings to lists or ranges; names the file.
    """
    space = read_settings(path)
    if not space:
        raise ValueError(f"{path}: no setting varies")
    known = [field.name for field in fields(LaneSegmentationConfig)]
    if unknown := [str(name) for name in space if name not in known]:
        raise ValueError(f"{path}: unknown config key {', '.join(unknown)}; known keys: {', '.join(known)}")
    for name, choice in space.items():
        if isinstance(choice, list) and choice:
            continue
        if not isinstance(choice, dict) or not {"low", "high"} <= choice.keys() <= RANGE:
            raise ValueError(f"{path}: {name} is {choice!r}, expected a list of values, or low, high and perhaps log")
        low, high = choice["low"], choice["high"]
        if (
            not all(isinstance(v, int | float) for v in (low, high))
            or not (0 if choice.get("log") else low) <= low < high
        ):
            raise ValueError(f"{path}: {name} goes from {low!r} to {high!r}, expected two numbers, the lower one first")
        if choice.get("log") and low == 0:
            raise ValueError(f"{path}: {name} begins at 0, which has no logarithm")
    return space


def grid(space: dict[str, list | dict]) -> list[dict]:
    """Every combination of the values; ValueError for a range."""
    for name, choice in space.items():
        if isinstance(choice, dict):
            raise ValueError(f"{name} is a range, and a grid needs values; take --runs N for random draws")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def random_draws(space: dict[str, list | dict], runs: int, seed: int = 0) -> list[dict]:
    """``runs`` random combinations; the first of them do not depend on how many follow."""
    found = []
    for number in range(runs):
        rng = np.random.default_rng((seed, number))
        drawn = {}
        for name, choice in space.items():
            if isinstance(choice, list):
                drawn[name] = choice[int(rng.integers(len(choice)))]
            elif choice.get("log"):
                drawn[name] = math.exp(rng.uniform(math.log(choice["low"]), math.log(choice["high"])))
            else:
                drawn[name] = float(rng.uniform(choice["low"], choice["high"]))
        found.append(drawn)
    return found


def run_sweep(
    config: LaneSegmentationConfig, settings: list[dict], data: str | Path, output: str | Path,
    score: str = "val_miou", device: str | None = None,
) -> list[dict]:  # fmt: skip
    """Trains once for each of the settings and compares the runs.

    Args:
        config: what all runs have in common.
        settings: of each run, what differs from ``config``.
        data: folder with ``train`` and ``val``.
        output: gets ``run_NNN`` folders, ``sweep.csv`` and ``sweep.json`` (the best run first) and ``sweep.png``.
        score: the column of a run's history that judges it: by its highest value, or its lowest if it is a loss.
        device: default CUDA if there is one, else CPU.

    Returns:
        A row a run, the best first: ``run``, its settings, ``epoch`` and the score.

    Raises:
        ValueError: a setting or value that the config refuses, before any run begins; an unknown score; a run in
            ``output`` that began with other settings.
        FileNotFoundError: no such data.
    """
    output, sign = Path(output), 1 if score.endswith("loss") else -1
    configs = [config.replace(**changes) for changes in settings]
    rows = []
    for number, (changes, run_config) in enumerate(zip(settings, configs, strict=True)):
        name = f"run_{number:03d}"
        told = ", ".join(f"{key} {shown(value)}" for key, value in changes.items())
        history = train_lane_model(run_config, data, output / name, device=device, resume=True).history
        if score not in history[0]:
            raise ValueError(f"score is {score!r}, expected one of {', '.join(history[0])}")
        best = min(history, key=lambda row: (math.isnan(row[score]), sign * row[score]))
        rows.append({"run": number, **changes, "epoch": best["epoch"], score: best[score]})
        say(f"{name} of {len(settings)}: {told}: {score} {best[score]:.4f}")
        ranked = sorted(rows, key=lambda row: (math.isnan(row[score]), sign * row[score]))
        write_atomic(output / "sweep.csv", _table(ranked))
        write_json(output / "sweep.json", {"score": score, "rows": ranked})
    figure = parallel_coordinates(rows, list(settings[0]), score)
    figure.savefig(output / "sweep.png", dpi=160)
    return ranked


def _table(rows: list[dict]) -> str:
    """CSV text, a line a row, numbers at six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def shown(value: object) -> str:
    """A value as a person writes it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parallel_coordinates(rows: list[dict], names: list[str], score: str) -> Figure:
    """A line a run over one axis a setting and one for the score; the better, the darker."""
    axes_names = [*names, score]
    figure, axes = plt.subplots(figsize=(2.2 * len(axes_names) + 1, 4), layout="constrained")
    places = np.array([_places([row[name] for row in rows]) for name in axes_names])  # (axes, runs)
    values = np.array([row[score] for row in rows], float)
    good = _places(list(-values if score.endswith("loss") else values))
    for run in np.argsort(good):
        axes.plot(range(len(axes_names)), places[:, run], color=plt.cm.viridis_r(0.05 + 0.9 * good[run]), lw=2)
    for place, name in enumerate(axes_names):
        axes.axvline(place, color="0.6", lw=1)
        column = [row[name] for row in rows]
        for value, height in {shown(v): h for v, h in zip(column, places[place], strict=True)}.items():
            if height in (0, 1) or len(set(map(shown, column))) <= 6:
                white = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # lines pass behind the number
                axes.text(place + 0.03, height, value, fontsize=8, va="center", bbox=white, zorder=3)
    axes.set_xticks(range(len(axes_names)), axes_names)
    axes.set(yticks=[], title=f"{len(rows)} runs; dark: the best {score}", xlim=(-0.1, len(axes_names) - 0.6))
    axes.spines[:].set_visible(False)
    plt.close(figure)
    return figure


def _places(values: list) -> np.ndarray:
    """0..1 for each value: by its number, or by its rank among words and truth values."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        order = sorted({str(v) for v in values})
        values = [order.index(str(v)) for v in values]
    numbers = np.nan_to_num(np.array(values, float), nan=np.nanmin(np.array(values, float)))
    span = np.ptp(numbers)
    return (numbers - numbers.min()) / span if span else np.full(len(numbers), 0.5)
