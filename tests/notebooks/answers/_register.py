"""Answers that learners might give: which exercise, of what kind, and a piece of the hint for those that are wrong."""

from collections.abc import Callable
from typing import NamedTuple

RIGHT = ("right", "unusual")
WRONG = ("tempting", "mutating", "cheating")


class Answer(NamedTuple):
    """An answer on trial; ``hint`` is ``None`` for one that must be accepted."""

    exercise: str
    kind: str
    given: object
    hint: str | None


ANSWERS: list[Answer] = []


def right(exercise: str, kind: str = "right") -> Callable[[object], object]:
    """Records an answer that must be accepted; ``unusual`` if few would write it so."""
    assert kind in RIGHT
    return lambda given: ANSWERS.append(Answer(exercise, kind, given, None)) or given


def wrong(exercise: str, hint: str, kind: str = "tempting") -> Callable[[object], object]:
    """Records an answer that must be refused with a hint that holds this text."""
    assert kind in WRONG
    assert hint
    return lambda given: ANSWERS.append(Answer(exercise, kind, given, hint)) or given
