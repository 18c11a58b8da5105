"""Exercises: reference solutions pass, stubs are not tried yet, every recorded answer gets the verdict it should."""

import math
import threading
import time
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from answers import ANSWERS, RIGHT, WRONG
from test_notebooks import TEXTS, build, tagged

from roadtopo_lib.course import exercises
from roadtopo_lib.course.exercises import NOT_TRIED, check, hint_for
from roadtopo_lib.course.exercises._base import EXERCISES, is_stub

NOTEBOOK_OF = {name: text for text in TEXTS for name in tagged(build.read_text(text), "exercise:")}

AT_LEAST = 8  # answers tried against each check

WITHOUT_ARRAYS = {
    "lr_at", "tokens_per_stage", "mix_ffn_parameters", "tversky_prices", "push_floor",
    "read_labelled", "E2_tile_starts", "E3_all_boundary", "E4_positions",
}  # fmt: skip
"""Their arguments are numbers, names or paths: nobody can change them in place."""


def hint(code: str, name: str) -> str | None:
    """What the check says when the learner's cell holds this code."""
    caught: list[str | None] = []
    namespace = {"math": math, "cv2": cv2, "np": np, "torch": torch, "nn": torch.nn, "F": F, "yaml": yaml}
    namespace["check"] = lambda called, answer: caught.append(hint_for(called, answer))
    namespace["keep"] = lambda answer: caught.append(hint_for(answer.__name__, answer))
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
def test_stub_is_not_tried_yet(name):
    stub = tagged(build.read_text(NOTEBOOK_OF[name]), "exercise:")[name].source
    assert hint(stub, name) == NOT_TRIED


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_a_forgotten_return_is_named(name):
    class Forgets:
        def __init__(self, patience):
            self.patience = patience

        def stop(self, loss):
            self.loss = loss

    forgets = Forgets if name == "EarlyStopping" else lambda *given: print(end="")
    assert "returns None: is a `return` missing?" in hint_for(name, forgets)


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_enough_answers_of_every_kind_were_tried(name):
    kinds = Counter(answer.kind for answer in ANSWERS if answer.exercise == name)
    assert kinds.total() >= AT_LEAST
    assert kinds["right"] >= 2
    missing = {*RIGHT, *WRONG} - set(kinds)
    assert missing <= ({"mutating"} if name in WITHOUT_ARRAYS else set())


def _called(answer) -> str:
    code = getattr(answer.given, "__code__", None)
    return f"{answer.exercise}-{answer.kind}-{code.co_firstlineno if code else answer.given.__name__}"


@pytest.mark.parametrize("answer", ANSWERS, ids=_called)
def test_answer_gets_the_verdict_it_should(answer):
    found = hint_for(answer.exercise, answer.given)
    if answer.kind in RIGHT:
        assert found is None
    else:
        assert found is not None, "accepted"
        assert answer.hint in found


def test_check_prints_ok_or_not_tried_yet_or_the_hint(capsys):
    def stub(height, width):
        return ...

    assert check("tokens_per_stage", lambda height, width: [height * width // s**2 for s in (4, 8, 16, 32)]) is None
    check("tokens_per_stage", stub)
    check("tokens_per_stage", lambda height, width: 1 / 0)
    assert capsys.readouterr().out == (
        "[OK] tokens_per_stage\n"
        "[not tried yet] tokens_per_stage\n"
        "[not yet] tokens_per_stage: your code raised ZeroDivisionError: division by zero\n"
    )


class TestStubs:
    """What counts as untouched: nothing is computed, and nothing but ``...`` or ``None`` is returned."""

    def test_empty_functions_and_methods_are_stubs(self):
        def passes(a, b):
            """Text."""

        class Half:
            def __init__(self, patience):
                self.patience = patience

            def stop(self, loss):
                return ...

        assert all(map(is_stub, (..., None, passes, Half, lambda a: ..., lambda a: None)))

    def test_a_function_that_computes_or_returns_anything_is_none(self):
        def forgets(a):
            a + 1

        assert not any(map(is_stub, (forgets, lambda a, b: a * b, lambda a: a, lambda a: 0, lambda a: "", math.sqrt)))

    def test_a_stub_behind_the_first_lines_is_not_tried_either(self):
        def begun(height, width):
            half = height / 2
            return ... if half else half

        assert hint_for("tokens_per_stage", begun) == NOT_TRIED


class TestLimits:
    def test_an_endless_loop_ends_with_a_hint(self, monkeypatch):
        monkeypatch.setattr(exercises, "SECONDS", 0.3)

        def endless(height, width):
            while True:
                pass

        begin = time.monotonic()
        assert "never end" in hint_for("tokens_per_stage", endless)
        assert time.monotonic() - begin < 10

    def test_the_stop_button_stops_the_check_itself(self):
        def stopped(height, width):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            hint_for("tokens_per_stage", stopped)

    def test_no_limit_goes_on_ticking_after_a_check(self):
        before = threading.active_count()
        hint_for("push_floor", lambda k, delta_dist: 0.0)
        time.sleep(0.05)
        assert threading.active_count() <= before


def test_a_result_that_the_check_cannot_read_is_not_called_an_error_of_the_code():
    found = hint_for("number_lanes", lambda polylines, row: ["left", "right"][: len(polylines)])
    assert found.startswith("the result cannot be read as what is asked for")
    raised = hint_for("number_lanes", lambda polylines, row: int("left"))
    assert raised.startswith("your code raised ValueError")
    deep = hint_for("push_floor", lambda k, delta_dist: torch.zeros(2) @ torch.zeros(3))
    assert deep.startswith("your code raised RuntimeError")
