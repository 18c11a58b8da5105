"""The planted faults must find the lines that they break; ``make soak`` plants all, this file a sample of three."""

import pytest
from planted_faults import FAULTS, ROOT, SAMPLE, caught_by, copy_of_course
from test_notebooks import NAMES


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_a_planted_fault_finds_its_line(fault):
    sound = (ROOT / "roadtopo_lib" / fault.file).read_text(encoding="utf-8")
    assert fault.old in sound
    compile(sound.replace(fault.old, fault.new), fault.file, "exec")  # a fault, not a syntax error
    assert fault.notebook in NAMES


def test_the_notebooks_notice_a_sample_of_the_faults(tmp_path):
    sample = [fault for fault in FAULTS if fault.what in SAMPLE]
    assert len(sample) == len({fault.notebook for fault in sample}) == 3
    copy = copy_of_course(tmp_path)
    for fault in sample:
        assert caught_by(copy, fault), f"{fault.notebook} did not notice: {fault.what}"
