"""Kills trainings and lets them go on: ``python tests/soak/kill_test.py --kills 25 --writing 10``.

A reference run trains to its end without interruption. Then runs of the same settings are killed (SIGKILL) and resumed,
again and again, until the number of kills is reached. Each one that comes to its end must equal the reference: every
byte of the models and the settings, every number of the history but the seconds.

Most kills come from outside at a random moment. Those of ``--writing`` come in the middle of a write: half of the bytes
are in the file, or it is not renamed yet, or it has just been renamed, or an earlier run is half removed.
"""

import argparse
import csv
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from roadtopo_lib import dataset, segformer  # noqa: F401  the same
from roadtopo_lib.app.cli import main as command_line
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.data.samples import write_sample
from roadtopo_lib.files import load_weights
from roadtopo_lib.labels import LANE_MARKING, ROAD
from roadtopo_lib.training.run_folder import STATES
from roadtopo_lib.training.run_state import RunState

EQUAL_FILES = ("best.safetensors", "last.safetensors", "config.yaml")
OTHER_SEED = 5
"""Of the earlier runs that are replaced."""

LEFT = {*EQUAL_FILES, "history.csv", "state.safetensors"}
"""All that a run may leave."""


def write_data(root: Path) -> None:
    """Seven training and three validation images: two bright upright lines on grey."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for number in range(count):
            instance = np.zeros((32, 64), np.uint16)
            for place, left in enumerate(rng.integers((5, 35), (25, 60)), start=1):
                instance[8:, left : left + 3] = place
            image = 60 + 150 * (instance > 0)[..., None] + rng.integers(0, 30, (32, 64, 3))
            semantic = np.where(instance > 0, LANE_MARKING, ROAD)
            write_sample(root / split, str(number), image.astype(np.uint8), semantic, instance)


def write_config(path: Path, workers: int) -> None:
    """Everything that draws random numbers is on; the last window of an epoch is shorter than the others."""
    config = LaneSegmentationConfig.preset("tiny").replace(
        image_size=(32, 64), crop_top=0.0, crop_scale=0.6, color_jitter=0.3, batch_size=2, accumulation_steps=3,
        epochs=3, repeat_threshold=0.5, num_workers=workers,
    )  # fmt: skip
    config.to_yaml(path)


def start(*command: str, die: Callable[[], None] | None = None) -> int:
    """The command line in a process of its own, which need not load torch again; returns its number."""
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 99
        try:
            if die is not None:
                die()
            code = command_line(list(command))
        finally:
            os._exit(code)
    return number


def end_of(number: int) -> int:
    """Waits; the exit code, or minus the signal that killed the process."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def killed_in_write(rng: random.Random) -> tuple[Callable[[], None], str]:
    """What makes a process kill itself around one of its writes, and the moment in words."""
    moment = rng.choice(["half-way through a write", "before a rename", "after a rename", "while it removed a file"])
    place = rng.randrange(12)
    calls = Counter()

    def die() -> None:
        write, replace, unlink = Path.write_bytes, Path.replace, Path.unlink

        def is_it(name: str) -> bool:
            calls[name] += 1
            return name == moment and calls[name] > place

        def kill() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def write_bytes(path, content):
            if is_it("half-way through a write"):
                write(path, content[: len(content) // 2])
                kill()
            return write(path, content)

        def replace_file(path, target):
            if is_it("before a rename"):
                kill()
            result = replace(path, target)
            if is_it("after a rename"):
                kill()
            return result

        def unlink_file(path, missing_ok=False):
            if is_it("while it removed a file"):
                kill()
            return unlink(path, missing_ok=missing_ok)

        Path.write_bytes, Path.replace, Path.unlink = write_bytes, replace_file, unlink_file

    return die, moment


def without_seconds(path: Path) -> list[dict]:
    """The rows of a history, as they are written, without wall-clock times."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(path.open())]


def difference(run: Path, reference: Path) -> str:
    """In what a run differs from the reference; empty if in nothing."""
    names = {path.name for path in run.iterdir()}
    if names != LEFT:
        return f"files {sorted(names ^ LEFT)}"
    for name in EQUAL_FILES:
        if (run / name).read_bytes() != (reference / name).read_bytes():
            return name
    return "" if without_seconds(run / "history.csv") == without_seconds(reference / "history.csv") else "history.csv"


def soak(folder: Path, kills: int, writing: int, seed: int, workers: int = 0) -> Counter:
    """Kills runs ``kills`` times, ``writing`` of them in a write.

    Returns:
        How many runs ended equal to the reference, how many kills came when.

    Raises:
        AssertionError: a run ended otherwise, or could not go on.
    """
    write_data(folder / "data")
    write_config(folder / "lane.yaml", workers)
    base = ("train", "lane", "--config", str(folder / "lane.yaml"), "--data", str(folder / "data"), "--device", "cpu",
            "--checkpoint-every", "1")  # fmt: skip
    started = time.monotonic()
    assert end_of(start(*base, "--output", str(folder / "reference"))) == 0
    length = time.monotonic() - started
    print(f"the reference took {length:.1f} s", flush=True)
    rng, outcomes = random.Random(seed), Counter()
    plan = [True] * writing + [False] * (kills - writing)
    number = 0
    while plan:
        number += 1
        run, options = folder / f"run_{number}", ("--resume",)
        if number % 3 == 0:  # an earlier run of another seed lies there, and is replaced
            earlier = ("--seed", str(OTHER_SEED), "--epochs", "1")
            assert end_of(start(*base, *earlier, "--output", str(run))) == 0
            options = ("--overwrite",)
        code = None
        while code != 0:
            rng.shuffle(plan)
            die, moment = killed_in_write(rng) if plan and plan[-1] else (None, "at a random moment")
            process = start(*base, *options, "--output", str(run), die=die)
            if plan and die is None:
                time.sleep(rng.uniform(0, length))
                os.kill(process, signal.SIGKILL)
            code = end_of(process)
            assert code in (0, -signal.SIGKILL), f"{run.name} ended with {code} after {dict(outcomes)}"
            if code:
                plan.pop()
                outcomes[f"killed {moment}"] += 1
            seeds = seeds_in(run)
            assert len(seeds) <= 1, f"{run.name} mixes two runs after {dict(outcomes)}"
            if seeds != {OTHER_SEED}:
                options = ("--resume",)
        found = difference(run, folder / "reference")
        assert not found, f"{run.name} differs from the reference in {found} after {dict(outcomes)}"
        outcomes["ended equal to the reference"] += 1
        print(f"{run.name} ended equal to the reference, {kills - len(plan)} kills so far", flush=True)
    return outcomes


def seeds_in(run: Path) -> set[int]:
    """The seeds that the files of a run know of; of what is left of an earlier one while it is removed, none."""
    states = [RunState.load(path) for path in (run / name for name in STATES) if path.exists()]
    if states and states[0].model is None:
        return {states[0].config["seed"]}
    seeds = {state.config["seed"] for state in states}
    seeds |= {load_weights(path).info["training"]["seed"] for path in run.glob("[bl]*.safetensors")}
    return seeds | {LaneSegmentationConfig.from_yaml(path).seed for path in run.glob("config.yaml")}


def main() -> int:
    """Says what came of it; 1 if a run ended otherwise than the reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--writing", type=int, default=10, help="how many of them in the middle of a write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process that is forked beside torch's threads waits for them for ever
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        try:
            outcomes = soak(Path(folder), arguments.kills, arguments.writing, arguments.seed, arguments.workers)
        except AssertionError as error:
            print(error)
            return 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:4d} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
