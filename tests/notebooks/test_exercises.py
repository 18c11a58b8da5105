"""Exercises: every reference solution passes, every stub gets its hint, a tempting wrong answer gets the right one."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from test_notebooks import TEXTS, build, tagged
from wrong_answers import WRONG_ANSWERS

from roadtopo_lib.course.exercises import check, hint_for
from roadtopo_lib.course.exercises._base import EXERCISES

NOTEBOOK_OF = {name: text for text in TEXTS for name in tagged(build.read_text(text), "exercise:")}


def hint(code: str, name: str) -> str | None:
    """What the check says when the learner's cell holds this code."""
    caught: list[str | None] = []
    namespace = {"math": math, "np": np, "torch": torch, "nn": torch.nn, "F": F, "yaml": yaml}
    namespace["check"] = lambda called, answer: caught.append(hint_for(called, answer))
    exec(code, namespace)
    exec(tagged(build.read_text(NOTEBOOK_OF[name]), "check:")[name].source, namespace)
    assert len(caught) == 1
    return caught[0]


def solution(name: str) -> str:
    source = tagged(build.read_text(NOTEBOOK_OF[name]), "solution:")[name].source
    assert source.startswith("<details><summary>Solution</summary>")
    return source.split("```python\n")[1].split("```")[0]


def test_the_notebooks_use_every_exercise():
    assert set(NOTEBOOK_OF) == set(EXERCISES)


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_reference_solution_passes(name):
    assert hint(solution(name), name) is None


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_stub_gets_a_hint(name):
    stub = tagged(build.read_text(NOTEBOOK_OF[name]), "exercise:")[name].source
    assert "nothing yet" in hint(stub, name)


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_tempting_wrong_answer_gets_the_right_hint(name):
    assert WRONG_ANSWERS[name]
    for code, fragment in WRONG_ANSWERS[name]:
        found = hint(code, name)
        assert found is not None, f"accepted:\n{code}"
        assert fragment in found


def test_check_prints_ok_or_the_hint(capsys):
    check("largest_delta_dist", lambda k: math.inf if k < 2 else math.sqrt(2 * k / (k - 1)) / 2)
    check("largest_delta_dist", lambda k: 1 / 0)
    assert capsys.readouterr().out == (
        "[OK] largest_delta_dist\n[not yet] largest_delta_dist: your code raised ZeroDivisionError: division by zero\n"
    )
