"""Damaged files and command lines, a few; ``make soak`` tries 5,000."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak" / "fuzz.py"


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and measures memory in KiB")
def test_damaged_files_and_lines_end_in_success_or_in_a_line_that_names_the_file():
    command = [sys.executable, str(SOAK), "--inputs", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert int(last.split()[0]) >= 300
    assert "'done'" in last
    assert "'refused in a line'" in last
