"""Exercises of notebook 1: schedules, margins, settings."""

import math

from roadtopo_lib.course.exercises._base import exercise, expect, expect_close, expect_written


@exercise("lr_at")
def lr_at(answer) -> None:
    total, warmup, base = 100, 10, 2.0
    expect_written(answer(0, total, warmup, base))
    rates = [answer(step, total, warmup, base) for step in range(total + 1)]
    expect(rates[0] > 0, "the first step has rate 0: it would be wasted")
    expect_close(rates[0], base / warmup, f"step 0 of {warmup} warm-up steps should have base / {warmup}")
    expect_close(rates[warmup - 1], base, "the last warm-up step should be at the base rate")
    expect_close(
        rates[warmup], base, "the cosine should start at the base rate: count its steps from the warm-up's end"
    )
    expect_close(rates[total], 0, "the rate should be 0 at step `total`: the cosine must run over total - warmup steps")
    expect_close(rates[55], base / 2, "half-way down the rate should be half of the base: is it half a cosine period?")
    expect_close(answer(0, total, 0, base), base, "without warm-up, step 0 should be at the base rate")


@exercise("largest_delta_dist")
def largest_delta_dist(answer) -> None:
    expect_written(answer(2))
    expect(
        not math.isclose(answer(2), 2.0),
        "2 is how far apart two means can be; delta_dist is the radius: means are 2 · delta_dist apart",
    )
    expect_close(answer(2), 1.0, "two means can be 2 apart (opposite ends), so delta_dist can be 1")
    for k in (3, 5, 8):
        truth = math.sqrt(2 * k / (k - 1)) / 2
        expect_close(answer(k), truth, f"for {k} lanes: the regular simplex has its corners √(2k/(k−1)) apart")
    expect(answer(1) == math.inf, "with a single lane there is nothing to keep away from: any margin fits (math.inf)")


@exercise("read_settings")
def read_settings(answer) -> None:
    defaults = {"lr": 0.1, "epochs": 4}
    settings = answer("epochs: 7", defaults)
    expect_written(settings)
    expect(isinstance(settings, dict), f"the result should be a dict, it is a {type(settings).__name__}")
    expect(settings.get("epochs") == 7, "a value that is given should replace the default")
    expect(settings.get("lr") == 0.1, "a key that is not given should keep its default")
    expect(defaults == {"lr": 0.1, "epochs": 4}, "the defaults were changed in place: the next caller gets them so")
    try:
        empty = answer("", defaults)
    except Exception as error:
        expect(False, f"empty text raised {type(error).__name__}: safe_load gives None for it")
    expect(empty == defaults, "empty text should give all defaults")
    try:
        answer("epoch: 7", defaults)
    except ValueError as error:
        expect("epoch" in str(error), "the message should name the unknown key")
    except Exception as error:
        expect(False, f"an unknown key should raise ValueError, it raised {type(error).__name__}")
    else:
        expect(False, "the unknown key 'epoch' was accepted")


@exercise("tokens_per_stage")
def tokens_per_stage(answer) -> None:
    tokens = answer(64, 128)
    expect_written(tokens)
    expect(isinstance(tokens, (list, tuple)) and len(tokens) == 4, "the result should be a list of four numbers")
    expect(
        list(tokens) != [512, 256, 128, 64],
        "the height and the width shrink by 4, 8, 16 and 32 each, so tokens shrink by their product",
    )
    expect(all(isinstance(n, int) for n in tokens), "tokens are whole numbers: divide with //")
    expect(list(tokens) == [512, 128, 32, 8], "a stage has (height / stride) · (width / stride) tokens")
    expect(list(answer(512, 1024)) == [32768, 8192, 2048, 512], "it should hold for 512 × 1024 as well")
