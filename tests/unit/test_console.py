"""A console that is gone ends no work."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from roadtopo_lib.console import say

for number in range(2000):
    say(f"line {number} " + 100 * "x")
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_behind_the_console_ends_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "end"], stdout=full, check=True)
    assert (tmp_path / "end").read_text() == "done"


def test_a_reader_that_has_left_ends_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path / "end"], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert (tmp_path / "end").read_text() == "done"


def test_what_is_said_is_printed(capsys):
    from roadtopo_lib.console import say

    say("one")
    assert capsys.readouterr().out == "one\n"
