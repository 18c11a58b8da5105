"""The learner's own detector, part by part: keeps the source of each right function and runs it again later.

A kept part stands alone. Its file begins with the imports that the exercises promise, so everything else that it needs
must be imported or defined inside the function.
"""

import builtins
import dis
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType

from roadtopo_lib.course.exercises import hint_for, verdict
from roadtopo_lib.course.exercises._base import EXERCISES
from roadtopo_lib.course.learner import learner_folder, say_where, solved
from roadtopo_lib.files import write_atomic

PARTS = ("read_labelled", "fuse", "discriminative", "training_step", "separate_and_number", "lane_f1")
"""Names of the parts, in the order of notebooks 2 to 7; each is also the name of its exercise."""

IMPORTS = """\
import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


"""
"""What every kept part may use; its file begins with these lines."""

_ADVICE = "Define or import inside the function what it needs; np, torch, F, nn, math and cv2 are there."


def keep(function: Callable) -> None:
    """Tests a part of the detector; if it is right, stores its source in the learner's folder.

    Prints ``[OK]`` or the first hint. A wrong answer leaves the part that was kept before as it was.

    Args:
        function: what the learner wrote with ``def``, named like the part.
    """
    name = getattr(function, "__name__", type(function).__name__)
    hint = hint_for_part(function)
    if hint is not None:
        print(verdict(name, hint))
        return
    path = _file(name)
    try:
        write_atomic(path, IMPORTS + _source(function))
    except OSError as error:
        print(f"{verdict(name, None)}, but it could not be kept: {error}")
        return
    print(f"{verdict(name, None)}: kept as part {PARTS.index(name) + 1} of {len(PARTS)}")
    say_where()


def hint_for_part(function: object) -> str | None:
    """The hint that ``keep`` prints, or ``None`` for a part that is right, here and on its own."""
    name = getattr(function, "__name__", None)
    if name not in PARTS or not isinstance(function, FunctionType):
        return f"no part has this name; write one with def, named as one of {', '.join(PARTS)}"
    hint = hint_for(name, function)
    if hint is not None:
        return hint
    try:
        source = _source(function)
    except (OSError, SyntaxError):
        return "its source cannot be found: write it with def in a cell, and run the cell"
    libraries = {module.split(".")[0] for module in _operands(function.__code__, "IMPORT_NAME")}
    if "roadtopo_lib" in libraries:
        return "it asks roadtopo_lib for the answer: a part of your own does the work itself"
    try:
        alone = _run(source, name)
    except Exception as error:
        return f"alone, without the cells around it, its def raised {type(error).__name__}: {error}. {_ADVICE}"
    missing = sorted(_operands(alone.__code__, "LOAD_GLOBAL") - alone.__globals__.keys() - vars(builtins).keys())
    if missing:
        return f"it uses {', '.join(missing)} from outside of it, and a part stands alone. {_ADVICE}"
    hint = hint_for(name, alone)
    return None if hint is None else f"alone, without the cells around it: {hint}. {_ADVICE}"


def kept() -> tuple[str, ...]:
    """Names of the parts in the learner's folder, in the order of the notebooks."""
    return tuple(name for name in PARTS if _file(name).is_file())


def load(name: str) -> Callable:
    """A kept part, made by running its source again.

    Raises:
        FileNotFoundError: it was not kept.
        ValueError: its file cannot be run, or does not define it; names the file.
    """
    path = _file(name)
    try:
        return _run(path.read_text(encoding="utf-8"), name, str(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: this part was not kept yet, expected keep({name}) in its notebook") from None
    except Exception as error:  # whatever lies in the file
        raise ValueError(
            f"{path}: this part cannot be run ({type(error).__name__}: {error}); keep it again in its notebook"
        ) from None


def progress(elective: str = "") -> str:
    """How far the learner is, in one line: exercises solved, parts kept.

    Args:
        elective: ``"E1"`` counts the exercises of that notebook, ``""`` those of notebooks 1 to 7. The exercises of an
            elective have its number before their names: ``E1_weights``.
    """
    if elective:
        exercises = {name for name in EXERCISES if name.startswith(f"{elective}_")}
        return f"{elective}: exercises {len(solved() & exercises)} of {len(exercises)}"
    exercises = {name for name in EXERCISES if not re.match(r"E\d_", name)} - {*PARTS}
    return f"exercises {len(solved() & exercises)} of {len(exercises)}, parts {len(kept())} of {len(PARTS)}"


def _file(name: str) -> Path:
    return learner_folder() / f"{name}.py"


def _source(function: FunctionType) -> str:
    return textwrap.dedent(inspect.getsource(function))


def _run(source: str, name: str, path: str = "<part>") -> FunctionType:
    """The function of this name that the source defines, in a namespace with nothing else but the promised imports."""
    namespace: dict = {"__name__": f"kept_{name}"}
    exec(IMPORTS, namespace)
    exec(compile(source, path, "exec"), namespace)
    return namespace[name]


def _operands(code: CodeType, operation: str) -> set[str]:
    """What all instructions of one kind name, in a function and in the functions and classes inside it."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname == operation}
    return own.union(*(_operands(part, operation) for part in inner))
