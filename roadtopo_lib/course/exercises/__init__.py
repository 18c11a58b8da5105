"""Checks for the exercises of the notebooks: each says what is wrong with an answer, not what is right.

``check("name", answer)`` runs every test of an exercise in turn and prints the first hint that applies, so that the
learner mends one thing at a time.
"""

from collections.abc import Callable

from roadtopo_lib.course.exercises._base import EXERCISES, Hint
from roadtopo_lib.course.learner import record

from roadtopo_lib.course.exercises import (  # noqa: F401  isort: skip  importing a chapter registers its exercises
    config,
    dataset,
    end_to_end,
    losses,
    model,
    parts,
    parts_of_training,
    postprocessing,
    training,
)


def check(name: str, answer: object) -> None:
    """Tests an answer, prints ``[OK]`` or the first hint, and remembers what is solved (``course.progress``).

    Args:
        name: of the exercise, as the notebook gives it.
        answer: what the learner wrote, usually a function.

    Raises:
        KeyError: no exercise of that name.
    """
    hint = hint_for(name, answer)
    if hint is None:
        record(name)
    print(f"[OK] {name}" if hint is None else f"[not yet] {name}: {hint}")


def hint_for(name: str, answer: object) -> str | None:
    """The hint that ``check`` prints, or ``None`` for a right answer."""
    run: Callable[[object], None] = EXERCISES[name]
    try:
        run(answer)
    except Hint as hint:
        return str(hint)
    except Exception as error:  # whatever the learner's code raises is a message to the learner
        return f"your code raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None
