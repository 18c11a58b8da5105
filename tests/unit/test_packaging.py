"""The lists of dependencies agree with each other, and the Makefile and CI do with them what they promise."""

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
DIRECT = NEEDED + EXTRAS
CV2_PROVIDERS = {
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv",
    "py-opencv",
}


def read_pins(name: str) -> dict[str, Requirement]:
    """The lines ``name==version`` of a file in the repository, by canonical name."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert len({canonicalize_name(pin.name) for pin in pins}) == len(pins), f"{name} names a package twice"
    return {canonicalize_name(pin.name): pin for pin in pins}


def pinned_version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"not an exact pin: {pin}"
    return Version(specifier.version)


def environment_sections() -> tuple[list[str], list[str]]:
    """conda's own packages and the lines handed to pip, as environment.yml lists them."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    return [entry for entry in entries if isinstance(entry, str)], pip


def make(*arguments: str) -> str:
    """What make would do, without doing it."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_has_a_floor_and_only_albumentations_a_ceiling(requirement):
    operators = sorted(specifier.operator for specifier in requirement.specifier)
    assert operators == (["<", ">="] if requirement.name == "albumentations" else [">="])


def test_a_dependency_listed_twice_has_one_floor():
    floors = {}
    for requirement in DIRECT:
        assert floors.setdefault(canonicalize_name(requirement.name), requirement.specifier) == requirement.specifier


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_to_a_version_that_it_accepts(requirement):
    pin = read_pins("constraints.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned_version(pin), prereleases=True)


def test_pins_are_exact_and_fit_the_cpu_and_the_cuda_build_alike():
    versions = {name: pinned_version(pin) for name, pin in read_pins("constraints.txt").items()}
    assert len(versions) > 100  # the whole environment, not the direct dependencies alone
    assert [name for name, version in versions.items() if version.local] == []
    assert versions["torch"] == Version("2.13.0")


def test_pins_and_lists_bring_one_cv2_and_no_torchvision():
    conda, pip = environment_sections()
    environment = {canonicalize_name(re.split(r"[<>= ]", line)[0]) for line in conda + pip}
    for names in (set(read_pins("constraints.txt")), environment, {canonicalize_name(r.name) for r in DIRECT}):
        assert names & CV2_PROVIDERS == {"opencv-python-headless"}
        assert "torchvision" not in names


def test_environment_yml_lists_the_same_dependencies_with_the_same_floors():
    conda, pip = environment_sections()
    options = [line for line in pip if line.startswith("-")]
    listed = [Requirement(line) for line in pip if line not in options]
    assert {(canonicalize_name(r.name), r.specifier) for r in listed} == {
        (canonicalize_name(r.name), r.specifier) for r in DIRECT
    }
    assert len(listed) == len({r.name for r in listed})
    assert options == ["-c constraints.txt", "-e ."]
    assert [Requirement(line).name for line in conda] == ["python", "pip"]


def test_environment_yml_takes_a_python_that_the_project_accepts():
    conda, _ = environment_sections()
    asked, accepted = Requirement(conda[0]).specifier, SpecifierSet(PROJECT["requires-python"])
    for minor in range(8, 30):
        if asked.contains(f"3.{minor}"):
            assert accepted.contains(f"3.{minor}")
    assert asked.contains("3.11")
    assert asked.contains("3.13")


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda requirement: requirement.name)
def test_what_colab_brings_satisfies_every_floor(requirement):
    if requirement.name == "packaging":  # not in the list; matplotlib, which is, does not go without
        needs = {r.name: r.specifier for r in map(Requirement, importlib.metadata.requires("matplotlib"))}
        assert needs["packaging"] == requirement.specifier
        return
    pin = read_pins("tests/data/colab-2026-08.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned_version(pin))


def test_what_colab_brings_satisfies_the_floors_of_the_extras_too():
    colab = read_pins("tests/data/colab-2026-08.txt")
    shared = [requirement for requirement in EXTRAS if canonicalize_name(requirement.name) in colab]
    assert {"pytest", "jupytext"} <= {requirement.name for requirement in shared}
    for requirement in shared:
        assert requirement.specifier.contains(pinned_version(colab[canonicalize_name(requirement.name)]))


def test_colab_list_holds_nothing_that_the_project_does_not_use():
    assert set(read_pins("tests/data/colab-2026-08.txt")) <= set(read_pins("constraints.txt"))


def test_make_refuses_the_same_pythons_as_the_project():
    (floor,) = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert PROJECT["requires-python"] == f">={'.'.join(floor)}"


def test_make_setup_installs_once_and_again_only_when_a_list_has_changed(tmp_path):
    venv = tmp_path / "venv"
    assert "pip install" in make("setup", f"VENV={venv}")

    venv.mkdir()
    stamp = venv / ".installed"
    stamp.touch()
    assert "pip install" not in make("setup", f"VENV={venv}")
    assert "main_job" in make("run", f"VENV={venv}")
    assert "pip install" not in make("run", f"VENV={venv}")

    os.utime(stamp, (0, 0))  # now both lists are newer than the finished environment
    assert "pip install" in make("setup", f"VENV={venv}")


def test_make_test_checks_style_formatting_tests_coverage_and_every_notebook(tmp_path):
    (tmp_path / ".installed").touch()
    commands = make("test", f"VENV={tmp_path}", "NOTEBOOKS=notebooks/01_config.ipynb notebooks/02_dataset.ipynb")
    for part in ("ruff check .", "ruff format --check .", "pytest tests", "--cov=roadtopo_lib", "--cov-fail-under=85"):
        assert part in commands
    assert "--nbval notebooks/01_config.ipynb notebooks/02_dataset.ipynb" in commands
    assert "--dist loadscope" in commands
    # Folder by folder: one that the Makefile does not name would never be run.
    for folder in {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py")}:
        assert f" {folder} " in commands
    assert "--nbval" not in make("test", f"VENV={tmp_path}", "NOTEBOOKS=")


def test_make_lists_every_target_with_one_line_each():
    printed = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    listed = re.findall(r"^  make (\w+) +\S", printed, flags=re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert listed == phony.split()


def test_github_runs_the_pins_on_both_pythons_and_colabs_versions():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["pinned"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert {"run": "bash .ci/run"} in jobs["pinned"]["steps"]
    assert any("tests/data/colab-2026-08.txt" in step.get("run", "") for step in jobs["colab"]["steps"])
    for job in jobs.values():
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"[\w/-]+@v\d+", step["uses"])


def test_ci_run_makes_a_new_environment_and_stops_at_the_first_error():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert "set -euo pipefail" in script
    assert re.search(r'make --keep-going test VENV="\$folder/', script)


def test_license_is_mit_and_declared():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n\nCopyright (c) 2026 Road Topology")
    assert PROJECT["license"] == "MIT"


def test_make_bench_starts_only_what_runs_without_arguments(tmp_path):
    (tmp_path / ".installed").touch()
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$1" >> started\n')
    python.chmod(0o755)
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    for source in (ROOT / "tests" / "benchmarks").glob("*.py"):
        (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / ".installed").touch()  # newer than both lists
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    subprocess.run(["make", "bench", f"VENV={tmp_path}"], cwd=tmp_path, env=clean, check=True, capture_output=True)
    started = {Path(line).name for line in (tmp_path / "started").read_text().split()}
    assert {"bench_losses.py", "bench_video.py"} <= started
    for name in started:
        required = re.findall(r'add_argument\("(\w+)"(?!, nargs="\?")', (folder / name).read_text(encoding="utf-8"))
        assert not required, f"{name} needs {required}"
    assert "bench_finetune.py" not in started
