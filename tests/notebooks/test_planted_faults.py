"""The planted faults (planted_faults.py, not part of ``make test``) must still find the lines that they break."""

import pytest
from planted_faults import FAULTS, ROOT
from test_notebooks import NAMES


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_a_planted_fault_finds_its_line(fault):
    sound = (ROOT / "roadtopo_lib" / fault.file).read_text(encoding="utf-8")
    assert fault.old in sound
    compile(sound.replace(fault.old, fault.new), fault.file, "exec")  # a fault, not a syntax error
    assert fault.notebook in NAMES
