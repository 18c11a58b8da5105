"""What the learner keeps: parts that stand alone, exercises solved, and a folder that never stops a notebook."""

import linecache
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from roadtopo_lib import course
from roadtopo_lib.course import learner, parts
from roadtopo_lib.course.exercises import check
from roadtopo_lib.course.exercises._base import EXERCISES

ROOT = Path(__file__).resolve().parents[2]

FUSE = """\
def fuse(maps, projections, mix):
    size = maps[0].shape[2:]
    large = [F.interpolate(p(x), size=size, mode="bilinear") for p, x in zip(projections, maps)]
    return mix(torch.cat(large[::-1], dim=1))
"""
FIRST_TO_LAST = FUSE.replace("[::-1]", "")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(learner.VARIABLE, str(tmp_path / "learner"))
    learner.say_where.cache_clear()  # each test is a process of its own
    return tmp_path / "learner"


def cell(code, name="fuse"):
    """What a notebook's cell defines; like IPython, it tells linecache the source."""
    path = f"<cell {abs(hash(code))}>"
    linecache.cache[path] = (len(code), None, code.splitlines(keepends=True), path)
    namespace = {"__name__": "__main__"}
    exec(parts.IMPORTS, namespace)
    exec(compile(code, path, "exec"), namespace)
    return namespace[name]


def said(capsys):
    return capsys.readouterr().out


def test_a_right_part_is_kept_and_runs_again(folder, capsys):
    assert parts.kept() == ()
    parts.keep(cell(FUSE))
    assert said(capsys).splitlines()[0] == "[OK] fuse: kept as part 2 of 6"
    assert parts.kept() == ("fuse",)
    assert (folder / "fuse.py").read_text() == parts.IMPORTS + FUSE
    assert parts.hint_for_part(parts.load("fuse")) is None


def test_a_kept_file_is_a_program_of_its_own(folder):
    parts.keep(cell(FUSE))
    command = "import fuse, inspect; print(inspect.signature(fuse.fuse))"
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "(maps, projections, mix)\n"


def test_a_wrong_part_is_refused_and_the_one_kept_before_stays(folder, capsys):
    parts.keep(cell(FIRST_TO_LAST))
    assert said(capsys).startswith("[not yet] fuse: the maps are concatenated first to last")
    assert parts.kept() == ()
    parts.keep(cell(FUSE))
    parts.keep(cell(FIRST_TO_LAST))
    assert (folder / "fuse.py").read_text() == parts.IMPORTS + FUSE


def test_a_better_version_replaces_the_one_kept(folder):
    parts.keep(cell(FUSE))
    parts.keep(cell(FUSE.replace("large", "resized")))
    assert "resized" in (folder / "fuse.py").read_text()


@pytest.mark.parametrize("body", ["return ...", "...", "pass"])
def test_an_untouched_stub_is_not_tried_yet(folder, capsys, body):
    parts.keep(cell(f"def fuse(maps, projections, mix):\n    {body}\n"))
    assert said(capsys) == "[not tried yet] fuse\n"
    assert parts.kept() == ()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("def resize(x, size):\n    return F.interpolate(x, size=size, mode='bilinear')\n\n\n"
         "def fuse(maps, projections, mix):\n"
         "    large = [resize(p(x), maps[0].shape[2:]) for p, x in zip(projections, maps)]\n"
         "    return mix(torch.cat(large[::-1], dim=1))\n", "it uses resize from outside of it"),
        ("import itertools\n\n\n" + FUSE.replace("zip(", "itertools.zip_longest("), "it uses itertools from outside"),
        # The check never gives a list of no maps: what such a branch needs must be missed all the same.
        (FUSE.replace("    size", "    if not maps:\n        return nothing_at_all\n    size"), "uses nothing_at_all"),
        (FUSE.replace("    return", "    def cat(x):\n        return join(x)\n\n    return") + "\n\njoin = 0\n",
         "it uses join from outside"),
        ("MODE = 'bilinear'\n\n\n" + FUSE.replace("mix):", "mix, mode=MODE):"), "its def raised NameError"),
        ("def same(f):\n    return f\n\n\n@same\n" + FUSE, "its def raised NameError"),
        (FUSE.replace("    size", "    from roadtopo_lib.models import upsample_to\n\n    size"), "asks roadtopo_lib"),
        (FUSE.replace("    size", "    import roadtopo_lib.models\n\n    size"), "asks roadtopo_lib"),
        ("torch = __import__('torch')\nF = torch.nn.functional\nF2 = F\n\n\n" + FUSE.replace("F.", "F2."), "uses F2"),
    ],
)  # fmt: skip
def test_a_part_that_cannot_stand_alone_is_refused(folder, capsys, code, hint):
    parts.keep(cell(code))
    out = said(capsys)
    assert out.startswith("[not yet] fuse: ")
    assert hint in out
    assert parts.kept() == ()


def test_a_part_that_works_only_beside_its_own_cell_is_refused(folder, capsys):
    code = "cv2 = lambda maps: maps\n\n\n" + FUSE.replace("maps[0]", "cv2(maps)[0]")  # a promised name, another thing
    parts.keep(cell(code))
    assert "alone, without the cells around it: your code raised TypeError" in said(capsys)


def test_imports_and_helpers_inside_of_a_part_are_fine(folder, capsys):
    inside = """\
    import itertools

    def up(x):
        return F.interpolate(x, size=size, mode="bilinear")

    size"""
    code = FUSE.replace("    size", inside)
    code = code.replace('F.interpolate(p(x), size=size, mode="bilinear")', "up(p(x))")
    code = code.replace("zip(", "itertools.zip_longest(")
    parts.keep(cell(code))
    assert said(capsys).startswith("[OK] fuse")


def test_indented_and_decorated_sources_are_kept(folder):
    parts.keep(cell("if True:\n" + "".join(f"    {line}\n" for line in FUSE.splitlines())))
    assert (folder / "fuse.py").read_text() == parts.IMPORTS + FUSE


def test_what_is_no_part_gets_a_hint(folder, capsys):
    parts.keep(cell(FUSE.replace("def fuse", "def my_fuse"), "my_fuse"))
    parts.keep(cell("fuse = lambda maps, projections, mix: maps\n"))
    parts.keep(None)
    lines = said(capsys).splitlines()
    assert len(lines) == 3
    assert all("no part has this name; write one with def" in line for line in lines)


def test_a_part_without_a_source_gets_a_hint(folder, capsys):
    namespace = {}
    exec(parts.IMPORTS + FUSE, namespace)
    parts.keep(namespace["fuse"])
    assert "its source cannot be found" in said(capsys)


def test_a_part_that_was_not_kept_or_is_damaged_names_its_file(folder):
    with pytest.raises(FileNotFoundError, match=r"fuse\.py: this part was not kept yet, expected keep\(fuse\)"):
        parts.load("fuse")
    folder.mkdir()
    for content in ("def fuse(", "fuse = 1 / 0", "other = 1"):
        (folder / "fuse.py").write_text(content)
        with pytest.raises(ValueError, match=r"fuse\.py: this part cannot be run"):
            parts.load("fuse")
    (folder / "fuse.py").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"fuse\.py: this part cannot be run"):
        parts.load("fuse")


def test_every_part_is_an_exercise():
    assert {*parts.PARTS} <= EXERCISES.keys()
    assert len(parts.PARTS) == 6


def right_answer(height, width):
    return [height * width // stride**2 for stride in (4, 8, 16, 32)]


def test_progress_counts_what_is_solved_and_kept(folder, capsys):
    exercises = len([name for name in EXERCISES if not re.match(r"E\d_", name)]) - 6  # neither parts nor of an elective
    course.progress()
    assert said(capsys) == f"exercises 0 of {exercises}, parts 0 of 6\n"
    check("tokens_per_stage", lambda height, width: ...)
    check("tokens_per_stage", lambda height, width: [1])
    course.progress()
    assert said(capsys).splitlines()[-1] == f"exercises 0 of {exercises}, parts 0 of 6"
    check("tokens_per_stage", right_answer)
    check("tokens_per_stage", right_answer)
    parts.keep(cell(FUSE))
    course.progress()
    assert said(capsys).splitlines()[-1] == f"exercises 1 of {exercises}, parts 1 of 6"
    check("fuse", cell(FUSE))  # a part that is checked, not kept, is no exercise more
    learner.record("an exercise of an older edition")
    course.progress()
    assert said(capsys).splitlines()[-1] == f"exercises 1 of {exercises}, parts 1 of 6"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"exercises": 3}', '{"exercises": [[1]]}', "\x00", "7", "null"])
def test_a_damaged_record_counts_as_empty_and_is_replaced(folder, content):
    folder.mkdir()
    (folder / learner.PROGRESS_FILE).write_text(content)
    assert learner.solved() == set()
    learner.record("fuse_maps")
    assert learner.solved() == {"fuse_maps"}


def test_the_first_record_of_a_process_says_where_it_is_kept(folder, capsys):
    where = f"Your progress and your parts are kept in {folder}"
    check("tokens_per_stage", lambda height, width: [1])
    assert where not in said(capsys)
    check("tokens_per_stage", right_answer)
    assert said(capsys) == f"[OK] tokens_per_stage\n{where}\n"
    parts.keep(cell(FUSE))
    assert where not in said(capsys)
    learner.say_where.cache_clear()  # the next day
    check("tokens_per_stage", right_answer)
    assert said(capsys) == "[OK] tokens_per_stage\n"
    parts.keep(cell(FUSE))
    assert said(capsys).splitlines()[1:] == [where]


def test_a_folder_of_the_process_is_not_named(folder, capsys, monkeypatch):
    monkeypatch.setenv(learner.VARIABLE, "")
    learner.say_where()
    assert said(capsys) == ""


def test_a_folder_that_cannot_be_written_stops_no_check(folder, capsys):
    folder.write_text("a file where the folder should be")
    check("tokens_per_stage", right_answer)
    parts.keep(cell(FUSE))
    course.progress()
    first, second, third = said(capsys).splitlines()
    assert first == "[OK] tokens_per_stage"
    assert second.startswith("[OK] fuse, but it could not be kept: ")
    assert third.startswith("exercises 0 of ")


def test_the_folder_is_the_one_named(monkeypatch, tmp_path):
    monkeypatch.setenv(learner.VARIABLE, str(tmp_path / "mine"))
    assert learner.learner_folder() == tmp_path / "mine"
    monkeypatch.setenv(learner.VARIABLE, "~/mine")
    assert learner.learner_folder() == Path.home() / "mine"


def test_without_a_name_the_folder_lies_in_the_drive_or_in_the_clone(monkeypatch, tmp_path):
    monkeypatch.delenv(learner.VARIABLE)
    monkeypatch.setattr(learner, "DRIVE", tmp_path / "MyDrive")
    assert learner.learner_folder() == ROOT / "my_parts"
    assert "my_parts/" in (ROOT / ".gitignore").read_text().splitlines()
    (tmp_path / "MyDrive").mkdir()
    assert learner.learner_folder() == tmp_path / "MyDrive" / "road-topology"


def test_tests_and_notebooks_under_test_get_a_new_folder_for_each_process():
    assert os.environ[learner.VARIABLE] == ""
    mine = learner.learner_folder()
    assert mine == learner.learner_folder()
    command = "from roadtopo_lib.course import learner; f = learner.learner_folder(); learner.record('x'); print(f)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    other = Path(done.stdout.strip())
    assert other != mine
    assert not other.exists()  # removed at the end of its process


def test_an_elective_counts_its_own_exercises_and_changes_no_other_count(monkeypatch):
    monkeypatch.setattr(parts, "solved", set)
    before = parts.progress()
    monkeypatch.setitem(parts.EXERCISES, "E9_weights", lambda answer: None)
    monkeypatch.setitem(parts.EXERCISES, "E9_dice", lambda answer: None)
    monkeypatch.setattr(parts, "solved", lambda: {"E9_dice"})
    assert parts.progress("E9") == "E9: exercises 1 of 2"
    assert parts.progress() == before
