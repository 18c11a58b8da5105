"""The kill test at a small size; ``make soak`` does 200."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak" / "kill_test.py"


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_trainings_that_are_killed_go_on_and_end_equal_to_one_that_is_not():
    command = [sys.executable, str(SOAK), "--kills", "3", "--writing", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended equal to the reference" in done.stdout
    assert sum(int(line.split()[0]) for line in done.stdout.splitlines() if "killed" in line) == 3
