"""The doctor says what is there, what is missing and what to type; the choice of mixed precision that it reports."""

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import threading
import tomllib
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from roadtopo_lib import hub
from roadtopo_lib.app import doctor
from roadtopo_lib.config import AMP_MODES
from roadtopo_lib.training.amp import choose_amp

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run_doctor(*options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *options, "-m", "roadtopo_lib.app.doctor"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def install_fake(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), module: str | None = None):
    """Write the metadata that an installed distribution would have; ``folder`` must be on ``sys.path``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Requires-Python: >=3.11"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    if module:
        (info / "top_level.txt").write_text(module + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder whose fake distributions come before the installed ones, with no imports and no network."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: None)
    monkeypatch.setattr(doctor, "ask_hub", lambda endpoint: None)
    return tmp_path


@pytest.fixture
def online(monkeypatch):
    """The hub's client as it is when nobody forbids the network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


@pytest.fixture
def gpu(monkeypatch):
    """A function that makes torch see one GPU of a given name and compute capability."""

    def pretend(name: str, major: int, minor: int) -> None:
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(torch.version, "hip", None)
        for function, answer in {
            "is_available": True,
            "current_device": 0,
            "get_device_name": name,
            "get_device_capability": (major, minor),
            "get_device_properties": SimpleNamespace(major=major, minor=minor),
            "mem_get_info": (3 * doctor.GIB, 15 * doctor.GIB),
            "_check_bf16_tensor_supported": True,  # any GPU of today can emulate bfloat16
        }.items():
            monkeypatch.setattr(torch.cuda, function, lambda *_, answer=answer: answer)

    return pretend


def line_of(report: str, name: str) -> str:
    return next(line for line in report.splitlines() if line[6:].split()[0] == name)


def test_a_complete_environment_is_ok_in_every_line_and_exits_with_0():
    finished = run_doctor()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for requirement in map(Requirement, PROJECT["dependencies"]):
        line = line_of(finished.stdout, requirement.name)
        assert line.startswith("[OK] ")
        assert re.search(r" \d+\.\d+\S* \(", line)
        for limit in requirement.specifier:
            assert str(limit) in line
    for name in ("python", "cv2", "device", "mixed"):
        assert line_of(finished.stdout, name).startswith("[OK] ")
    for name in ("memory", "disk"):
        assert "GiB" in line_of(finished.stdout, name)
    assert "HF_HUB_OFFLINE" in line_of(finished.stdout, "hub")
    assert finished.stdout.isascii()


def test_an_empty_python_gets_a_full_report_with_what_to_type():
    finished = run_doctor("-S")  # no site-packages: nothing is installed, not even this project
    assert finished.returncode == 1
    assert finished.stderr == ""
    assert line_of(finished.stdout, "packaging").startswith("[FAIL]")
    assert "python -m pip install packaging" in line_of(finished.stdout, "packaging")
    assert line_of(finished.stdout, "python").startswith("[--]")
    for name in ("memory", "disk", "hub"):
        assert line_of(finished.stdout, name)
    assert line_of(finished.stdout, "device").startswith("[--] ")


def test_what_the_project_asks_for_is_read_from_pyproject_in_a_clone_that_is_not_installed(monkeypatch):
    def not_installed(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "metadata", not_installed)
    python, lines = doctor.declared()
    assert python == PROJECT["requires-python"]
    assert lines[: len(PROJECT["dependencies"])] == PROJECT["dependencies"]
    assert {str(Requirement(line).marker) for line in lines[len(PROJECT["dependencies"]) :]} == {
        f'extra == "{extra}"' for extra in PROJECT["optional-dependencies"]
    }


def test_a_missing_package_fails(site, capsys):
    install_fake(site, "roadtopo-lib", "0.1.0", requires=("numpy>=2.0", "no-such-package>=1.0"))
    assert doctor.main() == 1
    report = capsys.readouterr().out
    expected = '[FAIL] no-such-package        missing (>=1.0): python -m pip install "no-such-package>=1.0"'
    assert line_of(report, "no-such-package") == expected
    assert line_of(report, "numpy").startswith("[OK] ")


def test_a_missing_package_of_an_extra_is_no_failure(site, capsys):
    install_fake(site, "roadtopo-lib", "0.1.0", requires=('no-such-package>=1.0; extra == "course"',))
    assert doctor.main() == 0
    assert line_of(capsys.readouterr().out, "no-such-package").startswith("[--] ")


def test_a_package_that_is_too_old_fails(site, capsys):
    install_fake(site, "torch", "1.13.1+cpu")
    assert doctor.main() == 1
    line = line_of(capsys.readouterr().out, "torch")
    floor = next(line for line in PROJECT["dependencies"] if line.startswith("torch"))
    assert line.startswith("[FAIL] torch")
    assert "1.13.1+cpu does not fit" in line
    assert line.endswith(f'python -m pip install "{floor}"')


def test_a_package_that_is_too_new_fails(site):
    install_fake(site, "albumentations", "2.1.0")
    assert doctor.main() == 1


def test_a_package_that_cannot_be_imported_fails_with_the_reason(site, monkeypatch, capsys):
    def broken_import(name: str) -> None:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", broken_import)
    assert doctor.main() == 1
    line = line_of(capsys.readouterr().out, "opencv-python-headless")
    assert line.startswith("[FAIL]")
    assert "libGL.so.1" in line


def test_the_module_imported_for_a_package_is_its_main_one():
    modules = doctor.modules_by_distribution()
    expected = {
        "torch": "torch",
        "PyYAML": "yaml",
        "pillow": "PIL",
        "scikit-learn": "sklearn",
        "matplotlib": "matplotlib",
    }
    assert {name: doctor.main_module(name, modules) for name in expected} == expected


def test_two_packages_that_provide_cv2_fail_with_the_way_out(site, capsys):
    install_fake(site, "opencv-python", "5.0.0.93", module="cv2")
    assert doctor.main() == 1
    line = line_of(capsys.readouterr().out, "cv2")
    assert line.startswith("[FAIL]")
    assert "pip uninstall -y opencv-python opencv-python-headless" in line


def test_a_check_that_breaks_becomes_one_line(site, monkeypatch, capsys):
    def check_something():
        raise RuntimeError("CUDA driver\nis strange")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (check_something, doctor.check_disk))
    assert doctor.main() == 1
    report = capsys.readouterr().out
    assert line_of(report, "something") == "[FAIL] something              RuntimeError: CUDA driver"
    assert line_of(report, "disk")


def test_python_outside_the_accepted_range_fails(site, monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.13")
    (line,) = doctor.check_python()
    assert line.status == "FAIL"
    assert ">=3.11" in line.text


def test_python_without_tomllib_is_told_so_and_nothing_else_is_tried(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "tomllib", None)
    assert doctor.main() == 1
    report = capsys.readouterr().out
    assert "too old" in line_of(report, "python")
    assert report.count("[") == 2  # the line and the summary that points at it


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.0.7", "FAIL"), ("2.0.8", "OK"), ("2.0.10+cpu", "OK"), ("2.1", "FAIL"), ("2.1.0", "FAIL"), ("10.0", "FAIL")],
)
def test_every_limit_of_a_package_counts(site, version, status):
    install_fake(site, "no-such-package", version)
    assert doctor.check_package(Requirement("no-such-package>=2.0.8,<2.1"), {}).status == status


def test_a_package_of_an_extra_may_be_too_old_and_is_named_with_its_extra(site):
    install_fake(site, "no-such-package", "1.0")
    line = doctor.check_package(Requirement('no-such-package>=2.0; extra == "course"'), {})
    assert line.status == "--"
    assert 'does not fit (>=2.0, extra == "course")' in line.text


def test_without_packaging_the_rest_is_still_reported():
    code = "import sys; sys.modules['packaging'] = None; from roadtopo_lib.app import doctor; sys.exit(doctor.main())"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert line_of(finished.stdout, "packaging").startswith("[FAIL] packaging")
    assert "python -m pip install packaging" in line_of(finished.stdout, "packaging")
    assert ">=3.11" in line_of(finished.stdout, "python")
    for name in ("device", "memory", "disk", "hub"):
        assert line_of(finished.stdout, name)
    assert finished.stdout.count("[FAIL]") == 2  # the line and the summary that points at it


def test_little_free_memory_is_said():
    assert doctor.enough("memory", 1 * doctor.GIB, 8 * doctor.GIB, doctor.MEMORY_FLOOR).status == "--"
    assert doctor.enough("memory", 5 * doctor.GIB, 8 * doctor.GIB, doctor.MEMORY_FLOOR).status == "OK"


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self):
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "problem"), [(200, None), (404, None), (503, "HTTP status 503")])
def test_a_hub_that_answers_is_reachable_unless_it_is_out_of_order(status, problem, online, monkeypatch):
    monkeypatch.setattr(Answer, "status", status)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert hub.ask_hub(f"http://127.0.0.1:{server.server_port}") == problem
        thread.join()


def test_a_name_look_up_that_hangs_is_given_up_in_time(monkeypatch):
    # The client's own timeout does not cover it: the request blocks before the clock starts.
    given_up = threading.Event()
    hanging = SimpleNamespace(head=lambda *_, **__: given_up.wait(10))
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: hanging)
    monkeypatch.setattr(hub, "HUB_TIMEOUT", 0.1)
    assert hub.ask_hub("http://127.0.0.1") == "no answer within 0 s"
    given_up.set()


def test_offline_mode_sends_no_request(online, monkeypatch):
    monkeypatch.setattr(online, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor, "ask_hub", pytest.fail)
    (line,) = doctor.check_hub()
    assert line.status == "--"
    assert line.text.startswith("not asked, HF_HUB_OFFLINE is set")


def test_an_unreachable_hub_is_no_failure_but_says_what_will_not_work(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(online, "ENDPOINT", endpoint)
    (line,) = doctor.check_hub()
    assert line.status == "--"
    assert f"{endpoint} not reachable" in line.text
    assert "downloaded before" in line.text


def test_a_gpu_of_apple_is_named_as_present_yet_not_as_what_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device, precision = doctor.check_device()
    assert device.text.startswith("cpu: ")
    assert device.text.endswith("; mps present, not used unless --device mps")
    assert precision.text == "off (float32)"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "mps" not in next(doctor.check_device()).text


def test_a_gpu_is_named_with_its_float_type_and_memory(gpu):
    gpu("Tesla T4", 7, 5)
    device, precision, memory = doctor.check_device()
    assert "Tesla T4" in device.text
    assert precision.text == "float16 with loss scaling"
    assert memory.text == "3.0 GiB free of 15.0"


def test_a_t4_trains_in_fp16_with_scaling_although_torch_says_that_it_knows_bf16(gpu):
    gpu("Tesla T4", 7, 5)
    assert torch.cuda.is_bf16_supported()  # by emulation
    assert choose_amp("cuda") == (True, torch.float16, True)


def test_an_a100_trains_in_bf16_without_scaling(gpu):
    gpu("A100", 8, 0)
    assert choose_amp(torch.device("cuda")) == (True, torch.bfloat16, False)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_a_cuda_gpu_mixed_precision_is_off(device):
    assert choose_amp(device) == (False, torch.float32, False)


def test_a_named_precision_is_taken_at_its_word(gpu):
    gpu("A100", 8, 0)
    assert choose_amp("cuda", "off") == (False, torch.float32, False)
    assert choose_amp("cuda", "fp16") == (True, torch.float16, True)
    assert choose_amp("cpu", "bf16") == (True, torch.bfloat16, False)


def test_every_setting_of_the_config_is_known_and_others_are_refused():
    for mode in AMP_MODES:
        choose_amp("cpu", mode)
    with pytest.raises(ValueError, match="half"):
        choose_amp("cpu", "half")


@pytest.mark.parametrize("mode", AMP_MODES)
def test_autocast_and_the_scaler_accept_the_choice_without_a_warning(mode):
    amp = choose_amp("cpu", mode)
    layer = torch.nn.Linear(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaler = torch.amp.GradScaler("cpu", enabled=amp.use_scaler)
        with torch.autocast("cpu", dtype=amp.dtype, enabled=amp.enabled):
            output = layer(torch.ones(1, 4))
        scaler.scale(output.float().sum()).backward()
    assert output.dtype == amp.dtype
    assert scaler.is_enabled() == (mode == "fp16")
