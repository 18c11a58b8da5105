"""Long runs at a small size; ``make soak`` does 1,000 steps and 1,000 frames."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak" / "long_run.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_handles_do_not_grow_with_steps_and_frames():
    command = [sys.executable, str(SOAK), "--steps", "60", "--frames", "60", "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training steps: 60 in all" in done.stdout
    assert "frames: 60 in all" in done.stdout
    assert "frames of a film: 60 in all" in done.stdout
