"""Checks for the exercises of the notebooks: each says what is wrong with an answer, not what is right.

``check("name", answer)`` runs every test of an exercise in turn and prints the first hint that applies, so that the
learner mends one thing at a time.
"""

from roadtopo_lib.course.exercises._base import EXERCISES, Hint, NotTried, is_stub, reason_of, time_limit
from roadtopo_lib.course.learner import record, say_where

from roadtopo_lib.course.exercises import (  # noqa: F401  isort: skip  importing a chapter registers its exercises
    amodal,
    config,
    dataset,
    end_to_end,
    imbalance,
    large_images,
    losses,
    model,
    night_ride,
    parts,
    parts_of_training,
    postprocessing,
    training,
)

NOT_TRIED = "not tried yet"
"""What ``hint_for`` gives for a stub."""

SECONDS = 30
"""The slowest right answer that was tried, a bootstrap in pure Python, takes five seconds."""


def check(name: str, answer: object) -> None:
    """Tests an answer, prints ``[OK]``, ``[not tried yet]`` or the first hint, and records what is solved.

    The first record of a process prints where it is kept, too.

    Args:
        name: of the exercise, as the notebook gives it.
        answer: what the learner wrote, usually a function.

    Raises:
        KeyError: no exercise of that name.
    """
    hint = hint_for(name, answer)
    print(verdict(name, hint))
    if hint is None and record(name):
        say_where()


def verdict(name: str, hint: str | None) -> str:
    """The line that the learner reads for what ``hint_for`` gave."""
    if hint is None:
        return f"[OK] {name}"
    if hint == NOT_TRIED:
        return f"[{NOT_TRIED}] {name}"
    return f"[not yet] {name}: {hint}"


def hint_for(name: str, answer: object) -> str | None:
    """The hint that ``check`` prints, ``NOT_TRIED`` for an untouched stub, ``None`` for a right answer."""
    run = EXERCISES[name]
    if is_stub(answer):
        return NOT_TRIED
    try:
        with time_limit(SECONDS):
            run(answer)
    except NotTried:
        return NOT_TRIED
    except Hint as hint:
        return str(hint)
    except Exception as error:  # whatever the learner's code raises is a message to the learner
        return reason_of(error)
    return None
