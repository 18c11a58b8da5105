"""Exercises of notebook 1: a schedule, a reader of settings, tokens."""

import math
from numbers import Integral

import numpy as np

from roadtopo_lib.course.exercises._base import (
    Hint,
    exercise,
    expect,
    expect_close,
    expect_written,
    is_close,
    number,
)


def _rate(step: int, total: int, warmup: int, base: float) -> float:
    if step < warmup:
        return base * (step + 1) / warmup
    return base * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@exercise("lr_at")
def lr_at(answer) -> None:
    total, warmup, base = 100, 10, 2.0
    rates = [number(answer(step, total, warmup, base), f"the rate of step {step}") for step in range(total + 1)]
    expect(rates[0] > 0, "the first step has rate 0: it would be wasted")
    expect_close(rates[0], base / warmup, f"step 0 of {warmup} warm-up steps should have base / {warmup}")
    expect_close(rates[warmup - 1], base, "the last warm-up step should be at the base rate")
    rise = [base * (step + 1) / warmup for step in range(warmup)]
    expect_close(rates[:warmup], rise, "between its first and its last step the warm-up should rise in equal steps")
    expect(
        not is_close(rates[warmup], base * (warmup + 1) / warmup),
        f"step {warmup} of {warmup} warm-up steps already belongs to the cosine: compare with <, not with <=",
    )
    expect_close(
        rates[warmup], base, "the cosine should start at the base rate: count its steps from the warm-up's end"
    )
    in_degrees = base * (1 + math.cos(180)) / 2
    expect(not is_close(rates[total], in_degrees), "math.cos takes radians: half a period is math.pi, not 180")
    expect_close(rates[total], 0, "the rate should be 0 at step `total`: the cosine must run over total - warmup steps")
    expect_close(rates[55], base / 2, "half-way down the rate should be half of the base: is it half a cosine period?")
    share = np.arange(total - warmup + 1) / (total - warmup)
    fall = rates[warmup:]
    expect(not is_close(fall, base * (1 - share)), "the rate falls in a straight line; half a cosine is asked for")
    truth = [_rate(step, total, warmup, base) for step in range(warmup, total + 1)]
    expect_close(fall, truth, "both ends and the middle are right, but between them the curve is no half cosine")
    for warmup, hint in ((0, "without warm-up, step 0 should be at the base rate"), (1, "a single warm-up step")):
        expect_close(number(answer(0, total, warmup, base)), base, f"{hint}: the first rate is the base rate")
    total, warmup, base = 41, 7, 0.006
    for step in range(total + 1):
        expect_close(
            number(answer(step, total, warmup, base)),
            _rate(step, total, warmup, base),
            f"right for 100 steps with 10 of warm-up; wrong at step {step} of {total} with {warmup} of warm-up",
            atol=1e-6 * base,
        )


@exercise("read_settings", keeps=("text", "defaults"))
def read_settings(answer) -> None:
    defaults = {"lr": 0.1, "epochs": 4}
    settings = answer("epochs: 7", defaults)
    expect_written(settings)
    expect(isinstance(settings, dict), f"the result should be a dict, it is a {type(settings).__name__}")
    expect(settings.get("epochs") != "7", "the value became the text '7': a YAML parser reads it as a number")
    expect(settings.get("epochs") == 7, "a value that is given should replace the default")
    expect(settings.get("lr") == 0.1, "a key that is not given should keep its default")
    expect(len(settings) == 2, "the result should hold the keys of the defaults, and no others")
    zero = answer("epochs: 0\nlr: 0.5", defaults)
    expect(zero != {"lr": 0.5, "epochs": 4}, "a given value of 0 was replaced by the default: 0 is a value")
    expect(zero == {"lr": 0.5, "epochs": 0}, "of two values that are given, both should replace their defaults")
    for text, called in (("", "empty text"), ("# nothing but a comment\n", "text without any setting")):
        try:
            empty = answer(text, defaults)
        except Hint:
            raise
        except Exception as error:
            expect(False, f"{called} raised {type(error).__name__}: safe_load gives None for it")
        expect(empty == defaults, f"{called} should give all defaults")
    try:
        answer("lr: 0.2\nmomentum: 7", defaults)
    except ValueError as error:
        expect("momentum" in str(error), "the message should name the unknown key")
    except Hint:
        raise
    except Exception as error:
        expect(False, f"an unknown key should raise ValueError, it raised {type(error).__name__}")
    else:
        expect(False, "the unknown key 'momentum' was accepted")
    nested = answer("size: [64, 128]\nname: 'a: b'", {"size": [1, 1], "name": "none", "seed": 3})
    expect(
        nested == {"size": [64, 128], "name": "a: b", "seed": 3},
        "lists and quoted text are values, too, and `defaults` may hold other keys: let a YAML parser read the text",
    )
    _plain_values(answer)


def _plain_values(answer) -> None:
    defaults = {"name": "b5", "flip": True, "share": 1, "limit": 9}
    try:
        found = answer("name: tiny\nflip: false\nshare: 0.5", defaults)
    except ValueError as error:
        expect(False, f"text without quotes is a value, too, and raised {str(error)[:60]}: let a YAML parser read it")
    hint = "0.5 in place of the default 1 became another number: take values as they are, whatever the default's type"
    expect(found["share"] == 0.5, hint)
    hint = "`tiny` without quotes is text in YAML, and `false` is False: let a YAML parser read the text"
    expect(found == defaults | {"name": "tiny", "flip": False, "share": 0.5}, hint)
    hint = "a given `null` was replaced by the default: it is a value, None"
    expect(answer("limit: null", defaults)["limit"] is None, hint)


@exercise("tokens_per_stage")
def tokens_per_stage(answer) -> None:
    tokens = answer(64, 128)
    expect_written(tokens)
    expect(
        isinstance(tokens, (list, tuple, np.ndarray)) and np.shape(tokens) == (4,),
        "the result should be a list of four numbers",
    )
    expect(
        list(tokens) != [512, 256, 128, 64],
        "the height and the width shrink by 4, 8, 16 and 32 each, so tokens shrink by their product",
    )
    expect(list(tokens) != [8, 32, 128, 512], "the first stage comes first: it has the most tokens")
    expect(list(tokens) != [48, 24, 12, 6], "tokens fill an area: multiply height and width, do not add them")
    hint = "a stage's grid is its stride times smaller, in height and in width; its tokens are all places of the grid"
    expect(list(tokens) == [512, 128, 32, 8], hint)
    expect(all(isinstance(n, Integral) for n in tokens), "tokens are whole numbers: divide with //")
    for height, width in ((512, 1024), (96, 160)):
        expect(
            list(answer(height, width)) == [height * width // stride**2 for stride in (4, 8, 16, 32)],
            f"right for 64 × 128; it should hold for {height} × {width} as well",
        )
