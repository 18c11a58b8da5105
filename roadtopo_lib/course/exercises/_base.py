"""Register of exercises and the few tests that most of them share."""

import _thread
import dis
import inspect
import math
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EXERCISES: dict[str, Callable[[object], None]] = {}


class Hint(Exception):
    """What is wrong with an answer."""


class NotTried(Exception):
    """The answer still returns the stub's ``...``."""


def exercise(name: str, keeps: Sequence[str] = ()) -> Callable[[Callable[[object], None]], Callable[[object], None]]:
    """Registers a function that takes an answer and raises ``Hint`` at the first thing wrong with it.

    Args:
        name: of the exercise.
        keeps: names of the answer's first arguments; an answer that changes one of them in place gets a hint.
    """

    def register(run: Callable[[object], None]) -> Callable[[object], None]:
        if name in EXERCISES:
            raise ValueError(f"two exercises are called {name!r}")
        EXERCISES[name] = (lambda answer: run(_keeping(answer, keeps))) if keeps else run
        return run

    return register


def _keeping(answer: Callable, names: Sequence[str]) -> Callable:
    """The answer, followed by a look at its arguments."""

    def call(*arguments: object, **options: object) -> object:
        before = [_copied(argument) for argument in arguments]
        result = answer(*arguments, **options)
        for name, old, new in zip(names, before, arguments, strict=False):
            expect(_same(old, new), f"`{name}` was changed in place: leave the arguments as they are")
        return result

    return call


def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return value


def _same(old: object, new: object) -> bool:
    if isinstance(old, Tensor):
        return old.dtype == new.dtype and old.shape == new.shape and np.array_equal(old.numpy(), new.detach().numpy())
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new)
    if isinstance(old, list):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    return old is new or old == new


def is_stub(answer: object) -> bool:
    """Whether a function, or every method of a class but ``__init__``, holds nothing but ``...``, ``pass`` or text."""
    if answer is None or answer is Ellipsis:
        return True
    functions = [answer]
    if inspect.isclass(answer):
        functions = [value for name, value in vars(answer).items() if name != "__init__" and inspect.isfunction(value)]
    codes = [function.__code__ for function in functions if inspect.isfunction(function)]
    return bool(codes) and all(_does_nothing(code) for code in codes)


def _does_nothing(code: CodeType) -> bool:
    """Whether all that compiled code does is to return ``None`` or ``...``."""
    loads = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP", "RETURN_VALUE")]
    return all(
        step.opname in ("LOAD_CONST", "RETURN_CONST") and (step.argval is None or step.argval is Ellipsis)
        for step in loads
    )


@contextmanager
def time_limit(seconds: float, hint: str = "does a loop of yours never end?") -> Iterator[None]:
    """Raises ``Hint`` in the main thread if the block runs for longer; elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late = threading.Event()

    def interrupt() -> None:
        late.set()
        _thread.interrupt_main()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not late.is_set():  # the learner's own
            raise
        raise Hint(f"your code was stopped after {seconds:g} seconds: {hint}") from None
    finally:
        timer.cancel()


def reason_of(error: Exception) -> str:
    """What an exception means to the learner: their code raised it, or a check could not read their result."""
    here = str(Path(__file__).parent)
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    outside = [file for file in files if not file.startswith(here)]
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if outside and "site-packages" not in outside[0]:
        return f"your code raised {message}"
    return f"the result cannot be read as what is asked for ({message})"


@contextmanager
def forbidden_torch(*names: str) -> Iterator[None]:
    """Raises ``Hint`` if a function of torch with one of these words in its name is called in the block."""

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            name = getattr(function, "__name__", "")
            expect(
                not any(word in name for word in names), f"torch's {name} was called: write it without that function"
            )
            return function(*args, **(kwargs or {}))

    with Watch():
        yield


@contextmanager
def explained(names: Iterable[str], hint: str) -> Iterator[None]:
    """Raises ``Hint`` if a function of torch with one of these names fails in the block; torch's words follow."""
    failed = False

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal failed
            try:
                return function(*args, **(kwargs or {}))
            except RuntimeError:
                failed = getattr(function, "__name__", "") in names
                raise

    try:
        with Watch():
            yield
    except RuntimeError as error:
        if not failed:
            raise
        words = str(error).partition("\n")[0]
        raise Hint(f"{hint} (torch says: {words[:120]})") from None


@contextmanager
def forbidden_method(owner: type, name: str, hint: str) -> Iterator[None]:
    """Raises ``Hint`` after the block if this method of a class was called in it."""
    called = False
    original = getattr(owner, name)

    def watched(self, *arguments, **options):
        nonlocal called
        called = True
        return original(self, *arguments, **options)

    with mock.patch.object(owner, name, watched):
        yield
    expect(not called, hint)


def expect(condition: bool, hint: str) -> None:
    """Raises ``Hint`` unless the condition holds."""
    if not condition:
        raise Hint(hint)


def expect_written(value: object, what: str = "your function") -> None:
    """A stub returns ``...``, a function without ``return`` gives ``None``."""
    if value is Ellipsis:
        raise NotTried
    expect(value is not None, f"{what} returns None: is a `return` missing?")


def expect_tensor(value: object, shape: tuple[int, ...], what: str = "the result") -> None:
    """Type and shape of a tensor."""
    expect_written(value)
    expect(isinstance(value, Tensor), f"{what} should be a tensor, it is a {type(value).__name__}")
    expect(tuple(value.shape) == shape, f"{what} should have shape {shape}, it has {tuple(value.shape)}")


def expect_close(value: object, truth: object, hint: str, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Numbers or tensors that should be equal up to rounding."""
    expect(is_close(value, truth, atol, rtol), hint)


def is_close(value: object, truth: object, atol: float = 1e-5, rtol: float = 1e-5) -> bool:
    """Whether numbers or tensors are of one shape and equal up to rounding."""
    expect_written(value)
    if isinstance(value, np.ndarray):
        value = value.copy()  # torch takes no negative strides
    value, truth = torch.as_tensor(value, dtype=torch.float64), torch.as_tensor(truth, dtype=torch.float64)
    return value.shape == truth.shape and torch.allclose(value, truth, atol=atol, rtol=rtol, equal_nan=True)


def number(value: object, what: str = "the result") -> float:
    """A single number, of Python, NumPy or torch."""
    expect_written(value)
    expect(
        not isinstance(value, (str, bytes, list, tuple, dict, bool)) and np.ndim(value) == 0,
        f"{what} should be one number, it is a {type(value).__name__}",
    )
    value = float(value.detach() if isinstance(value, Tensor) else value)
    expect(not math.isnan(value), f"{what} is NaN")
    return value
