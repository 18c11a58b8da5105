"""What is installed, what is missing, and what this machine will train on: ``python -m roadtopo_lib.app.doctor``.

Each line is one check: ``[OK]``, ``[FAIL]`` with what to type, or ``[--]`` for something that is absent but not needed.
The text is meant to be pasted into a bug report. The module imports nothing but the standard library at the top, so
that it runs where everything else is broken; the versions it compares with are read from the project's own metadata.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from roadtopo_lib import __version__
from roadtopo_lib.hub import ask_hub

try:
    import tomllib
except ModuleNotFoundError:  # Python before 3.11: reported by `check_python`
    tomllib = None

DISTRIBUTION = "roadtopo-lib"
PYPROJECT = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"

GIB = 2**30
MEMORY_FLOOR = 4 * GIB
"""The most that ``make run`` may take, see the README."""
DISK_FLOOR = 2 * GIB
"""Room for rendered scenes, checkpoints and one set of b5 weights (0.34 GB) with a margin."""


class Check(NamedTuple):
    """One line of the report; ``status`` is ``"OK"``, ``"FAIL"`` or ``"--"``."""

    status: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{f'[{self.status}]':<6} {self.name:<22} {self.text}"


class Requirement(NamedTuple):
    """One declared dependency, e.g. ``Requirement("monai", (">=1.5",), "test")``; no extra means always needed."""

    name: str
    limits: tuple[str, ...]
    extra: str | None


def parse_requirement(line: str) -> Requirement:
    """Read one dependency as the project writes them: ``name>=floor``, maybe ``,<limit``, maybe ``; extra == "x"``.

    The full grammar is the ``packaging`` library's, which may be one of the missing packages.
    """
    specifier, _, marker = line.partition(";")
    name, limits = re.fullmatch(r"\s*([\w.-]+)\s*(.*?)\s*", specifier).groups()
    extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", marker)
    return Requirement(name, tuple(part.strip() for part in limits.split(",") if part), extra and extra[1])


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version without trailing zeros: ``"2.13.0+cpu"`` becomes ``(2, 13)``, equal to ``"2.13"``."""
    numbers = [int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def satisfies(version: str, limits: tuple[str, ...]) -> bool:
    """Whether a version keeps all limits, each ``">=x"`` or ``"<x"``.

    Raises:
        ValueError: a limit with another operator, which the project does not use.
    """
    for limit in limits:
        if limit.startswith(">="):
            kept = release(version) >= release(limit[2:])
        elif limit.startswith("<") and not limit.startswith("<="):
            kept = release(version) < release(limit[1:])
        else:
            raise ValueError(f"limit must be '>=VERSION' or '<VERSION', got {limit!r}")
        if not kept:
            return False
    return True


def declared() -> tuple[str, list[str]]:
    """What the project asks for: the Python versions and one line per dependency, extras marked.

    Read from the installed package, or from ``pyproject.toml`` in a clone that is not installed.

    Raises:
        FileNotFoundError: neither is there.
    """
    try:
        python = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
        return python, importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra, names in project["optional-dependencies"].items():
        lines += [f'{name}; extra == "{extra}"' for name in names]
    return project["requires-python"], lines


def check_python() -> Iterator[Check]:
    """Is this Python new enough?"""
    version = platform.python_version()
    if tomllib is None:
        yield Check("FAIL", "python", f"{version} is too old, it lacks tomllib: run this with Python 3.11 or later")
        return
    python, _ = declared()
    if satisfies(version, tuple(python.split(","))):
        yield Check("OK", "python", f"{version} ({python})")
    else:
        yield Check("FAIL", "python", f"{version} does not fit {python}: make the environment with another Python")


def check_packages() -> Iterator[Check]:
    """Is every declared package there, new enough and importable, and ``cv2`` there once? The extras are optional."""
    # Importing albumentations asks a server for newer versions unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    modules = modules_by_distribution()
    seen = set()
    for requirement in map(parse_requirement, declared()[1]):
        if requirement.name not in seen:
            seen.add(requirement.name)
            yield check_package(requirement, modules)
    yield check_cv2(modules)


def check_package(requirement: Requirement, modules: dict[str, list[str]]) -> Check:
    """One package: its version against its limits, and for needed packages one import."""
    name, extra = requirement.name, requirement.extra
    limits = ",".join(requirement.limits)
    failed = "--" if extra else "FAIL"
    wanted = f"{limits}, extra '{extra}'" if extra else limits
    way_out = f'python -m pip install "{name}{limits}"'
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(failed, name, f"missing ({wanted}): {way_out}")
    if not satisfies(version, requirement.limits):
        return Check(failed, name, f"{version} does not fit ({wanted}): {way_out}")
    module = main_module(name, modules)
    if module and not extra:
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken package may raise anything
            return Check("FAIL", name, f"{version} cannot be imported ({one_line(error)}): {way_out} --force-reinstall")
    return Check("OK", name, f"{version} ({wanted})")


def modules_by_distribution() -> dict[str, list[str]]:
    """The modules that each installed distribution brings, e.g. ``scikit-learn`` → ``["sklearn"]``."""
    modules = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for distribution in distributions:
                modules.setdefault(canonical(distribution), []).append(module)
    return modules


def main_module(name: str, modules: dict[str, list[str]]) -> str | None:
    """The module to import for a distribution: the one of its own name (``torch``, not ``torchgen``), else its first.

    ``None`` where the distribution keeps no list of its files, as some of conda's do.
    """
    candidates = modules.get(canonical(name), [None])
    return next((module for module in candidates if module and canonical(module) == canonical(name)), candidates[0])


def canonical(name: str) -> str:
    """The one spelling of a distribution's name: ``PyYAML`` → ``pyyaml``, ``huggingface_hub`` → ``huggingface-hub``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_cv2(modules: dict[str, list[str]]) -> Check:
    """Does exactly one distribution provide ``cv2``? Several overwrite each other's files."""
    providers = sorted(name for name, brought in modules.items() if "cv2" in brought)
    if len(providers) > 1:
        way_out = f"python -m pip uninstall -y {' '.join(providers)}; python -m pip install opencv-python-headless"
        return Check("FAIL", "cv2", f"provided by {len(providers)} packages that overwrite each other: {way_out}")
    if providers:
        return Check("OK", "cv2", f"provided by {providers[0]} alone")
    if importlib.util.find_spec("cv2"):
        return Check("OK", "cv2", "provided by a package that keeps no list of its files")
    return Check("FAIL", "cv2", "no package provides it: python -m pip install opencv-python-headless")


def check_device() -> Iterator[Check]:
    """What will the model run on, in which float type, with how much memory?"""
    try:
        import torch
    except Exception:  # already reported with its reason by `check_packages`
        yield Check("--", "device", "not known without torch")
        return
    from roadtopo_lib.training.amp import choose_amp

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    if torch.cuda.is_available():
        device = "cuda"
        major, minor = torch.cuda.get_device_capability()
        text = f"cuda: {torch.cuda.get_device_name()}, compute capability {major}.{minor}, {threads}"
    elif torch.backends.mps.is_available():
        device, text = "mps", f"mps: Apple GPU, {threads}"
    else:
        device, text = "cpu", f"cpu: {platform.processor() or platform.machine()}, {threads}"
    yield Check("OK", "device", text)
    yield Check("OK", "mixed precision", str(choose_amp(device)))
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield Check("OK", "GPU memory", f"{free / GIB:.1f} GiB free of {total / GIB:.1f}")


def check_memory() -> Iterator[Check]:
    """How much memory is free? Linux says so; elsewhere the standard library knows the total at best."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        yield Check("--", "memory", "not known on this system")
        return
    try:
        # Free pages plus what the file cache gives back at once; SC_AVPHYS_PAGES would leave the latter out.
        free = 1024 * int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    except OSError:
        yield Check("OK", "memory", f"{total / GIB:.1f} GiB in all")
        return
    yield enough("memory", free, total, MEMORY_FLOOR)


def check_disk() -> Iterator[Check]:
    """How much room is left in the current folder, where results are written?"""
    usage = shutil.disk_usage(".")
    yield enough("disk", usage.free, usage.total, DISK_FLOOR)


def enough(name: str, free: int, total: int, floor: int) -> Check:
    """A line about free bytes that says so when they are few."""
    text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free < floor:
        return Check("--", name, f"{text}: `make run` may need {floor / GIB:.0f} GiB")
    return Check("OK", name, text)


def check_hub() -> Iterator[Check]:
    """Can pretrained weights be downloaded? Not needed for the tiny preset, so never a failure."""
    consequence = "only weights that were downloaded before can be loaded by name; everything else works"
    try:
        from huggingface_hub import constants
    except Exception:  # it comes with transformers, whose absence `check_packages` reports
        yield Check("--", "hub", f"not asked, huggingface_hub cannot be imported: {consequence}")
        return
    if constants.HF_HUB_OFFLINE:
        yield Check("--", "hub", f"not asked, HF_HUB_OFFLINE is set: {consequence}")
        return
    problem = ask_hub(constants.ENDPOINT)
    if problem:
        yield Check("--", "hub", f"{constants.ENDPOINT} not reachable ({problem}): {consequence}")
    else:
        yield Check("OK", "hub", f"{constants.ENDPOINT} answers")


def one_line(error: Exception) -> str:
    """An exception as one short line."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0][:120]}" if message else type(error).__name__


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_device,
    check_memory,
    check_disk,
    check_hub,
)


def main() -> int:
    """Print the report.

    Returns:
        0 if everything that is needed is there, else 1: the exit code.
    """
    print(f"Road Topology {__version__} on {platform.platform()}")
    failures = 0
    for check in CHECKS:
        try:
            for line in check():
                print(line, flush=True)
                failures += line.status == "FAIL"
        except Exception as error:  # a report with a hole in it beats no report
            print(Check("FAIL", check.__name__.removeprefix("check_"), one_line(error)), flush=True)
            failures += 1
        if tomllib is None:
            break
    print("All that is needed is there." if not failures else f"{failures} failed: see the [FAIL] lines above.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
