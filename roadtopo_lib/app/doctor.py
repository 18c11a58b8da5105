"""What is installed, what is missing, and what this machine will train on: ``python -m roadtopo_lib.app.doctor``.

Each line is one check: ``[OK]``, ``[FAIL]`` with what to type, or ``[--]`` for something that is absent but not needed.
The text is meant to be pasted into a bug report. The module needs nothing but the standard library, so that it runs
where everything else is broken; with `packaging` it also compares versions, with those in the project's own metadata.
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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from roadtopo_lib import __version__
from roadtopo_lib.console import say
from roadtopo_lib.hub import ask_hub, hub_settings

try:
    import tomllib
except ModuleNotFoundError:  # Python before 3.11: reported by `check_python`
    tomllib = None
try:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name
except Exception:  # missing or broken: reported by `check_packages`
    Requirement = SpecifierSet = canonicalize_name = None

DISTRIBUTION = "roadtopo-lib"
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
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
        yield Check("FAIL", "python", f"{version} is too old: make the environment with Python 3.11 or later")
        return
    python, _ = declared()
    if SpecifierSet is None:
        yield Check("--", "python", f"{version}, not compared with {python} without packaging")
    elif SpecifierSet(python).contains(version, prereleases=True):
        yield Check("OK", "python", f"{version} ({python})")
    else:
        yield Check("FAIL", "python", f"{version} does not fit {python}: make the environment with another Python")


def check_packages() -> Iterator[Check]:
    """Is every declared package there, new enough and importable, and ``cv2`` there once? The extras are optional."""
    if Requirement is None:
        yield Check("FAIL", "packaging", "not importable, so no package is checked: python -m pip install packaging")
        return
    # Importing albumentations asks a server for newer versions unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    modules = modules_by_distribution()
    seen = set()
    for requirement in map(Requirement, declared()[1]):
        if requirement.name not in seen:
            seen.add(requirement.name)
            yield check_package(requirement, modules)
    yield check_cv2(modules)


def check_package(requirement: Requirement, modules: dict[str, list[str]]) -> Check:
    """One package: its version against its limits, and for needed packages one import."""
    name, limits, marker = requirement.name, requirement.specifier, requirement.marker
    is_needed = marker is None or marker.evaluate({"extra": ""})
    failed = "FAIL" if is_needed else "--"
    wanted = f"{limits}" if is_needed else f"{limits}, {marker}"
    way_out = f'python -m pip install "{name}{limits}"'
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(failed, name, f"missing ({wanted}): {way_out}")
    if not limits.contains(version, prereleases=True):
        return Check(failed, name, f"{version} does not fit ({wanted}): {way_out}")
    module = main_module(name, modules)
    if module and is_needed:
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
                modules.setdefault(canonicalize_name(distribution), []).append(module)
    return modules


def main_module(name: str, modules: dict[str, list[str]]) -> str | None:
    """The module to import for a distribution: the one of its own name (``torch``, not ``torchgen``), else its first.

    ``None`` where the distribution keeps no list of its files, as some of conda's do.
    """
    name = canonicalize_name(name)
    candidates = modules.get(name, [None])
    return next((module for module in candidates if module and canonicalize_name(module) == name), candidates[0])


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
    device = "cuda" if torch.cuda.is_available() else "cpu"  # what every command takes unless told otherwise
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        text = f"cuda: {torch.cuda.get_device_name()}, compute capability {major}.{minor}, {threads}"
    else:
        text = f"cpu: {platform.processor() or platform.machine()}, {threads}"
        if torch.backends.mps.is_available():
            text += "; mps present, not used unless --device mps"
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
        endpoint, offline = hub_settings()
    except Exception:  # it comes with transformers, whose absence `check_packages` reports
        yield Check("--", "hub", f"not asked, huggingface_hub cannot be imported: {consequence}")
        return
    if offline:
        yield Check("--", "hub", f"not asked, HF_HUB_OFFLINE is set: {consequence}")
        return
    problem = ask_hub(endpoint)
    answer = f"not reachable ({problem}): {consequence}" if problem else "answers"
    yield Check("--" if problem else "OK", "hub", f"{endpoint} {answer}")


def one_line(error: Exception) -> str:
    """An exception as one short line."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0][:120]}" if message else type(error).__name__


CHECKS = (check_python, check_packages, check_device, check_memory, check_disk, check_hub)


def main(model: Path | None = None, data: Path | None = None) -> int:
    """Print the report; returns the exit code, 0 if everything that is needed is there, else 1.

    Args:
        model, data: both or neither; whether this model file fits this data folder, see ``fit_check``.
    """
    if (model is None) != (data is None):
        raise ValueError("--model and --data belong together: give both or neither")
    say(f"Road Topology {__version__} on {platform.platform()}")
    failures = 0
    checks = [*CHECKS]
    if model is not None:
        checks.append(lambda: importlib.import_module("roadtopo_lib.app.fit_check").check_fit(model, data))
        checks[-1].__name__ = "check_fit"
    for check in checks:
        try:
            for line in check():
                say(line)
                failures += line.status == "FAIL"
        except Exception as error:  # the other checks go on
            say(Check("FAIL", check.__name__.removeprefix("check_"), one_line(error)))
            failures += 1
        if tomllib is None:
            break
    say("All that is needed is there." if not failures else f"{failures} failed: see the [FAIL] lines above.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
