"""Answers to the exercises of notebook 1."""

import ast
import math

import numpy as np
import torch
import yaml

from answers._register import right, wrong


def _half_cosine(progress, base):
    return base * (1 + math.cos(math.pi * progress)) / 2


# --- lr_at


@right("lr_at")
def _(step, total, warmup, base):
    return (
        base * min((step + 1) / warmup, 1) if step < warmup else _half_cosine((step - warmup) / (total - warmup), base)
    )


@right("lr_at")
def _(step, total, warmup, base):
    rise = np.arange(1, warmup + 1) / max(warmup, 1)
    fall = (1 + np.cos(np.linspace(0, np.pi, total - warmup + 1))) / 2
    return base * np.concatenate([rise, fall])[step]


@right("lr_at", "unusual")
def _(step, total, warmup, base):
    if step < warmup:
        return torch.tensor(base * (step + 1) / warmup, dtype=torch.float64)
    return base * torch.cos(torch.tensor(math.pi / 2 * (step - warmup) / (total - warmup), dtype=torch.float64)) ** 2


@wrong("lr_at", "the first step has rate 0")
def _(step, total, warmup, base):
    return base * step / warmup if step < warmup else _half_cosine((step - warmup) / (total - warmup), base)


@wrong("lr_at", "count its steps from the warm-up's end")
def _(step, total, warmup, base):
    return base * (step + 1) / warmup if step < warmup else _half_cosine(step / total, base)


@wrong("lr_at", "compare with <, not with <=")
def _(step, total, warmup, base):
    return base * (step + 1) / warmup if step <= warmup else _half_cosine((step - warmup) / (total - warmup), base)


@wrong("lr_at", "compare with <, not with <=")
def _(step, total, warmup, base):
    rise = base * (step + 1) / max(warmup, 1)
    return rise if step <= warmup else _half_cosine((step - warmup - 1) / (total - warmup - 1), base)


@wrong("lr_at", "falls in a straight line")
def _(step, total, warmup, base):
    return base * (step + 1) / warmup if step < warmup else base * (total - step) / (total - warmup)


@wrong("lr_at", "no half cosine")
def _(step, total, warmup, base):
    p = (step - warmup) / (total - warmup)
    return base * (step + 1) / warmup if step < warmup else base * (1 - p * p * (3 - 2 * p))


@wrong("lr_at", "rise in equal steps")
def _(step, total, warmup, base):
    if step < warmup:
        return {0: base / warmup, warmup - 1: base}.get(step, 0.0)
    return _half_cosine((step - warmup) / (total - warmup), base)


@wrong("lr_at", "is it half a cosine period")
def _(step, total, warmup, base):
    p = (step - warmup) / (total - warmup)
    return base * (step + 1) / warmup if step < warmup else base * math.cos(math.pi / 2 * p)


@wrong("lr_at", "the last warm-up step")
def _(step, total, warmup, base):
    rise = base * (step + 1) / max(warmup, 1)
    return (
        rise * 0.99 + base / max(warmup, 1) * 0.01
        if step < warmup
        else _half_cosine((step - warmup) / (total - warmup), base)
    )


@wrong("lr_at", "must run over total - warmup steps")
def _(step, total, warmup, base):
    return base * (step + 1) / warmup if step < warmup else _half_cosine((step - warmup) / total, base)


@wrong("lr_at", "ZeroDivisionError")
def _(step, total, warmup, base):
    return min(base * (step + 1) / warmup, _half_cosine(max(step - warmup, 0) / (total - warmup), base))


@wrong("lr_at", "is NaN")
def _(step, total, warmup, base):
    return math.nan


@wrong("lr_at", "right for 100 steps", "cheating")
def _(step, total, warmup, base):
    return base * (step + 1) / warmup if step < warmup else _half_cosine((step - warmup) / (100 - warmup), base)


@wrong("lr_at", "step 0 of 10 warm-up steps")
def _(step, total, warmup, base):
    return (
        base * max(step / (warmup - 1), 0.01)
        if step < warmup
        else _half_cosine((step - warmup) / (total - warmup), base)
    )


@wrong("lr_at", "without warm-up")
def _(step, total, warmup, base):
    rise = (step + 1) / warmup if warmup else 0.0
    return base * rise if step <= warmup - 1 or not warmup else _half_cosine((step - warmup) / (total - warmup), base)


@wrong("lr_at", "a single warm-up step")
def _(step, total, warmup, base):
    rise = (step + 1) / max(warmup, 2)
    return base * rise if step < warmup else _half_cosine((step - warmup) / (total - warmup), base)


# --- read_settings


def _unknown(settings, defaults):
    for key in settings:
        if key not in defaults:
            raise ValueError(f"{key} is not one of {', '.join(defaults)}")


@right("read_settings")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    _unknown(settings, defaults)
    return defaults | settings


@right("read_settings")
def _(text, defaults):
    result = defaults.copy()
    for key, value in (yaml.safe_load(text) or {}).items():
        if key not in result:
            raise ValueError(f"unknown: {key}")
        result[key] = value
    return result


@right("read_settings", "unusual")
def _(text, defaults):
    settings = yaml.load(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
    settings = dict(settings) if settings is not None else {}
    merged = {key: settings.pop(key, default) for key, default in defaults.items()}
    if settings:
        raise ValueError(f"unknown settings {settings}")
    return merged


@wrong("read_settings", "'momentum' was accepted")
def _(text, defaults):
    return {**defaults, **(yaml.safe_load(text) or {})}


@wrong("read_settings", "safe_load gives None")
def _(text, defaults):
    return {**defaults, **yaml.safe_load(text)}


@wrong("read_settings", "was changed in place", "mutating")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    _unknown(settings, defaults)
    defaults.update(settings)
    return defaults


@wrong("read_settings", "keep its default")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    _unknown(settings, defaults)
    return settings


@wrong("read_settings", "0 is a value")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    _unknown(settings, defaults)
    return {key: settings.get(key) or value for key, value in defaults.items()}


@wrong("read_settings", "it raised KeyError")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    return {**defaults, **{key: (defaults[key], value)[1] for key, value in settings.items()}}


@wrong("read_settings", "name the unknown key")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    if not set(settings) <= set(defaults):
        raise ValueError(f"only {sorted(defaults)} are known")
    return {**defaults, **settings}


@wrong("read_settings", "the text '7'")
def _(text, defaults):
    settings = dict(line.split(": ") for line in text.splitlines() if ": " in line)
    _unknown(settings, defaults)
    return {**defaults, **settings}


@wrong("read_settings", "let a YAML parser read", "cheating")
def _(text, defaults):
    lines = [line.split(": ") for line in text.splitlines() if ": " in line]
    settings = {line[0]: int(line[1]) if line[1].isdigit() else line[1] for line in lines}
    settings.update({key: float(value) for key, value in settings.items() if key == "lr"})
    _unknown(settings, defaults)
    return {**defaults, **settings}


wrong("read_settings", "should be a dict")(lambda text, defaults: list({**defaults, **yaml.safe_load(text)}.items()))
wrong("read_settings", "should replace the default")(lambda text, defaults: {**yaml.safe_load(text), **defaults})
wrong("read_settings", "and no others")(lambda text, defaults: {**defaults, **yaml.safe_load(text), "unknown": []})


@wrong("read_settings", "both should replace")
def _(text, defaults):
    return {**defaults, **dict(list((yaml.safe_load(text) or {}).items())[:1])}


wrong("read_settings", "text without any setting raised")(
    lambda text, defaults: {**defaults, **yaml.safe_load(text)} if text else dict(defaults)
)
wrong("read_settings", "empty text should give all defaults")(
    lambda text, defaults: {**defaults, **(yaml.safe_load(text) or {})} if text else {}
)


@wrong("read_settings", "'momentum' was accepted")
def _(text, defaults):
    settings = yaml.safe_load(text) or {}
    _unknown(list(settings)[:1], defaults)
    return {**defaults, **settings}


# --- tokens_per_stage

STRIDES = (4, 8, 16, 32)

right("tokens_per_stage")(lambda height, width: [height // s * (width // s) for s in STRIDES])
right("tokens_per_stage")(lambda height, width: (height * width // np.array(STRIDES) ** 2).tolist())
right("tokens_per_stage", "unusual")(lambda height, width: list(np.int64(height * width) // np.square(STRIDES)))
right("tokens_per_stage", "unusual")(lambda height, width: tuple(height * width >> n for n in (4, 6, 8, 10)))
wrong("tokens_per_stage", "shrink by their product")(lambda h, w: [h * w // s for s in (16, 32, 64, 128)])
wrong("tokens_per_stage", "divide with //")(lambda h, w: [(h / s) * (w / s) for s in STRIDES])
wrong("tokens_per_stage", "in height and in width")(lambda h, w: [h * w // s for s in STRIDES])
wrong("tokens_per_stage", "in height and in width")(lambda h, w: [h // s * (w // s) for s in (2, 4, 8, 16)])
wrong("tokens_per_stage", "the first stage comes first")(lambda h, w: [h * w // s**2 for s in STRIDES[::-1]])
wrong("tokens_per_stage", "do not add them")(lambda h, w: [h // s + w // s for s in STRIDES])
wrong("tokens_per_stage", "list of four numbers")(lambda h, w: sum(h * w // s**2 for s in STRIDES))
wrong("tokens_per_stage", "list of four numbers")(lambda h, w: [(h // s, w // s) for s in STRIDES])
wrong("tokens_per_stage", "for 512 × 1024 as well", "cheating")(lambda h, w: [512, 128, 32, 8])
wrong("tokens_per_stage", "for 96 × 160 as well", "cheating")(
    lambda h, w: [32768, 8192, 2048, 512] if h == 512 else [512, 128, 32, 8]
)
wrong("lr_at", "takes radians")(
    lambda step, total, warmup, base: (
        base * (step + 1) / warmup
        if step < warmup
        else base * (1 + math.cos(180 * (step - warmup) / (total - warmup))) / 2
    )
)


def _read_by(value_of):
    """An answer that makes each value of (its text, its default) by a function."""

    def answer(text, defaults):
        settings = yaml.safe_load(text) or {}
        _unknown(settings, defaults)
        return {name: value_of(settings[name], v) if name in settings else v for name, v in defaults.items()}

    return answer


@wrong("read_settings", "text without quotes", "cheating")
def _(text, defaults):
    lines = [line.split(": ", 1) for line in text.splitlines() if ": " in line]
    settings = {name: ast.literal_eval(value) for name, value in lines}
    _unknown(settings, defaults)
    return {**defaults, **settings}


wrong("read_settings", "whatever the default's type")(_read_by(lambda value, default: type(default)(value)))
wrong("read_settings", "`null` was replaced")(_read_by(lambda value, default: default if value is None else value))
