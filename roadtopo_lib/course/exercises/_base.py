"""Register of exercises and the few tests that most of them share."""

from collections.abc import Callable

import torch
from torch import Tensor

EXERCISES: dict[str, Callable[[object], None]] = {}


class Hint(Exception):
    """What is wrong with an answer."""


def exercise(name: str) -> Callable[[Callable[[object], None]], Callable[[object], None]]:
    """Registers a function that takes an answer and raises ``Hint`` at the first thing wrong with it."""

    def register(run: Callable[[object], None]) -> Callable[[object], None]:
        if name in EXERCISES:
            raise ValueError(f"two exercises are called {name!r}")
        EXERCISES[name] = run
        return run

    return register


def expect(condition: bool, hint: str) -> None:
    """Raises ``Hint`` unless the condition holds."""
    if not condition:
        raise Hint(hint)


def expect_written(value: object, what: str = "your function") -> None:
    """A stub returns ``None`` or ``...``."""
    expect(value is not None and value is not Ellipsis, f"{what} returns nothing yet: replace the ... by your code")


def expect_tensor(value: object, shape: tuple[int, ...], what: str = "the result") -> None:
    """Type and shape of a tensor."""
    expect_written(value)
    expect(isinstance(value, Tensor), f"{what} should be a tensor, it is a {type(value).__name__}")
    expect(tuple(value.shape) == shape, f"{what} should have shape {shape}, it has {tuple(value.shape)}")


def expect_close(value: object, truth: object, hint: str, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Numbers or tensors that should be equal up to rounding."""
    value, truth = torch.as_tensor(value, dtype=torch.float64), torch.as_tensor(truth, dtype=torch.float64)
    expect(value.shape == truth.shape and torch.allclose(value, truth, atol=atol, rtol=rtol, equal_nan=True), hint)
