"""Gives changed files and command lines to the library: ``python tests/soak/fuzz.py --inputs 5000``.

Hypothesis changes valid files and lines: their bytes, numbers and words. Each input must end in success or in one line
that names the file, within 2 s of processor time and 1 GB of memory, and leaves no file half-written. Whatever else
comes of one is printed, and ``--keep FOLDER`` keeps the input. Equal versions of Hypothesis give equal inputs.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import cv2
import numpy as np
import torch
from fuzz_inputs import changed, changed_line, drawn, labels, pictures, with_checksums, write_template
from hypothesis.strategies import SearchStrategy

from roadtopo_lib.app import check_data, horizon, train  # noqa: F401  loaded once, not in each forked process
from roadtopo_lib.app.cli import EXPECTED_ERRORS, one_line
from roadtopo_lib.app.cli import main as command_line
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.data.convert.names import read_classes
from roadtopo_lib.data.images import read_image, read_instance_mask, read_semantic_mask
from roadtopo_lib.files import UNFINISHED, load_weights
from roadtopo_lib.inference.baselines import connected_components
from roadtopo_lib.inference.files import infer_to_files
from roadtopo_lib.pipeline import LaneSegmenter
from roadtopo_lib.processes import LOCK
from roadtopo_lib.training.run_state import RunState

SECONDS, MEGABYTES = 2.0, 1000
"""Of processor time and of memory beyond what Python and the libraries take, for one input."""

HANGS = 60  # seconds, by the clock and of the processor, after which an input is given up
LONGEST = 1500  # characters of a line that says what is wrong
BATCH = 25  # files that one process reads, if it lives; each command line has a process of its own
OUTCOMES = {0: "done", 1: "done but for damaged files", 2: "refused in a line"}


class Target(NamedTuple):
    """What is tried: inputs, what reads one, and the file that holds it (``None``: it is an argument itself)."""

    inputs: SearchStrategy
    read: Callable[[object], int | None]
    file: str | None


def targets() -> dict[str, Target]:
    """All that is tried, by name. The valid files lie in the current folder."""
    png, jpeg = {"format": "PNG"}, {"format": "JPEG", "quality": 80, "progressive": True}
    photos = [*pictures("RGB", "P", "RGBA", **png), *pictures("RGB", **jpeg)]
    grey, ids = pictures("L", **png), pictures("L", "I;16", "RGB", **png)
    config, names, model, state, clip = (Path(name).read_bytes() for name in (
        "tiny.yaml", "classes.yaml", "model.safetensors", "state.safetensors", "clip.avi"))  # fmt: skip
    end = 8 + int.from_bytes(model[:8], "little")
    headers = changed(model[8:end]).map(lambda header: struct.pack("<Q", len(header)) + header + model[end:])
    no_lane = connected_components(np.zeros((64, 96), np.int64))

    def infer(file: str) -> None:
        list(infer_to_files(lambda image: no_lane, file, "out", on_fault=str))

    found = {
        "image": Target(changed(photos), read_image, "a.png"),
        "image, sums mended": Target(changed(photos[:3]).map(with_checksums), read_image, "a.png"),
        "class mask": Target(changed(grey).map(with_checksums), read_semantic_mask, "mask.png"),
        "instance mask": Target(changed(ids).map(with_checksums), read_instance_mask, "mask.png"),
        "config": Target(changed(config), LaneSegmentationConfig.from_yaml, "lane.yaml"),
        "class names": Target(changed(names), read_classes, "names.yaml"),
        "model file": Target(changed(model), LaneSegmenter.from_checkpoint, "m.safetensors"),
        "model file, length mended": Target(headers, LaneSegmenter.from_checkpoint, "m.safetensors"),
        "state file": Target(changed(state), RunState.load, "s.safetensors"),
        "video": Target(changed(clip), infer, "v.avi"),
    }
    found = {name: target._replace(read=partial(_in_a_line, target.read)) for name, target in found.items()}
    for name, (form, file, valid) in labels().items():
        line = ["convert", form, file.split("/")[0], "out", "--workers", "1"]
        found[f"convert {name}"] = Target(changed(valid), lambda _, line=line: command_line(line), file)
    return found | {"command line": Target(changed_line(), command_line, None)}


def _in_a_line(read: Callable[[str], object], file: str) -> int:
    """Reads a file, with the errors and exit codes of the command line."""
    try:
        read(file)
    except EXPECTED_ERRORS as error:
        say(f"road-topology: {one_line(error)}", error=True)
        return 2
    return 0


def outcomes(target: Target, contents: list) -> list[str]:
    """What comes of each input; one of ``OUTCOMES`` if all is well."""
    found = []
    while len(found) < len(contents):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            shutil.copytree(".", folder, dirs_exist_ok=True)
            process = os.fork()
            if process == 0:
                _try(target, contents[len(found) :][: BATCH if target.file else 1], Path(folder))
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            found += [json.loads(line) for line in (Path(folder) / "outcomes").read_text().splitlines()]
            if code:
                found.append(f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")
    return found


def _try(target: Target, contents: list, folder: Path) -> NoReturn:
    """In a process of its own: tries inputs, and notes what came of each."""
    os.chdir(folder)
    os.mkfifo("pipe.png")
    os.cpu_count = lambda: 1  # so that no command asks for more processes
    for stream in (1, 2):
        os.dup2(os.open(f"stream{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    highest = start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("outcomes", "w") as notes:
        for content in contents:
            shutil.rmtree("out", ignore_errors=True)
            os.ftruncate(2, 0)
            if target.file:
                Path(target.file).write_bytes(content)
            before = time.process_time()
            signal.alarm(HANGS)
            resource.setrlimit(resource.RLIMIT_CPU, (int(before) + HANGS, resource.RLIM_INFINITY))
            try:
                code = target.read(target.file or content) or 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
                code = 99
            seconds, peak = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sys.stderr.flush()
            found = _judged(target, code, Path("stream2").read_text(errors="replace"))
            if seconds > SECONDS or (peak > highest and peak - start > 1000 * MEGABYTES):
                found = f"took {seconds:.1f} s and {(peak - start) / 1000:.0f} MB, and was {found}"
            highest = max(highest, peak)
            notes.write(json.dumps(found) + "\n")
            notes.flush()
    os._exit(0)


def _judged(target: Target, code: int, text: str) -> str:
    """An outcome from the exit code, what stands on stderr, and the files that are left."""
    if code not in OUTCOMES or "Traceback" in text:
        return f"a traceback: {text[-400:]}"
    if code == 2 and (text.count("\n") != 1 or not text.startswith("road-topology") or len(text) > LONGEST):
        return f"refused in other words: {text[:400]}"
    if code == 2 and target.file and Path(target.file).name not in text:
        return f"refused without the file's name: {text[:400]}"
    return _half_written() or OUTCOMES[code]


def _half_written() -> str:
    """A file that is not whole; empty if there is none."""
    readers = {".png": read_image, ".jpg": read_image, ".json": lambda path: json.loads(path.read_text()),
               ".safetensors": partial(load_weights, finite=False)}  # fmt: skip
    for path in Path().rglob("*"):
        if path.name.endswith((UNFINISHED, LOCK)):
            return f"left {path}"
        if path.parts[0] in ("out", "run", "scenes", "a.json", "report.json") and path.suffix in readers:
            try:
                readers[path.suffix](path)
            except ValueError as error:
                return f"left half of {path}: {error}"
    return ""


def fuzz(count: int, keep: Path | None = None, only: str = "") -> Counter:
    """Outcomes of that many inputs, shared out to the targets."""
    total = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.chdir(folder):
        write_template()
        wanted = {name: target for name, target in targets().items() if only in name}
        for name, target in wanted.items():
            contents, counts = drawn(target.inputs, -(-count // len(wanted))), Counter()
            for content, found in zip(contents, outcomes(target, contents), strict=True):
                counts[found if found in OUTCOMES.values() else "WRONG"] += 1
                if found not in OUTCOMES.values():
                    print(f"{name}: {found}\n    {content[:300]!r}", flush=True)
                    if keep:
                        written = content if target.file else repr(content).encode()
                        (keep / f"{name} {counts['WRONG']}").write_bytes(written)
            print(f"{name:26s} {dict(sorted(counts.items()))}", flush=True)
            total += counts
    return total


def main() -> int:
    """1 if an input came to another end than success or a line that names the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that came to another end")
    parser.add_argument("--only", default="", help="targets whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process that is forked beside torch's threads waits for them for ever
    cv2.setNumThreads(0)
    if arguments.keep:
        arguments.keep = arguments.keep.absolute()
        arguments.keep.mkdir(parents=True, exist_ok=True)
    total = fuzz(arguments.inputs, arguments.keep, arguments.only)
    print(f"{total.total()} inputs: {dict(sorted(total.items()))}")
    return 1 if total["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
