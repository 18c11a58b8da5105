"""Checks for the exercises of the notebooks: each says what is wrong with an answer, not what is right.

``check("name", answer)`` runs every test of an exercise in turn and prints the first hint that applies, so that the
learner mends one thing at a time.
"""

from roadtopo_lib.course.exercises._base import EXERCISES, Hint, NotTried, is_stub, reason_of, time_limit

from roadtopo_lib.course.exercises import (  # noqa: F401  isort: skip  importing a chapter registers its exercises
    config,
    dataset,
    end_to_end,
    losses,
    model,
    postprocessing,
    training,
)

NOT_TRIED = "not tried yet"
"""What ``hint_for`` gives for a stub."""

SECONDS = 20
"""A right answer takes less than one; whoever needs more waits for a loop that never ends."""


def check(name: str, answer: object) -> None:
    """Tests an answer and prints ``[OK]``, ``[not tried yet]`` or the first hint.

    Args:
        name: of the exercise, as the notebook gives it.
        answer: what the learner wrote, usually a function.

    Raises:
        KeyError: no exercise of that name.
    """
    hint = hint_for(name, answer)
    if hint is None:
        print(f"[OK] {name}")
    elif hint == NOT_TRIED:
        print(f"[{NOT_TRIED}] {name}")
    else:
        print(f"[not yet] {name}: {hint}")


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
