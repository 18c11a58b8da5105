"""Wrong answers that learners are tempted to give, and a piece of the hint that each must get."""

WRONG_ANSWERS: dict[str, list[tuple[str, str]]] = {
    # 01_config
    "lr_at": [
        (
            "def lr_at(step, total, warmup, base):\n"
            "    if step < warmup:\n"
            "        return base * step / warmup\n"
            "    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))",
            "the first step has rate 0",
        ),
        (
            "def lr_at(step, total, warmup, base):\n"
            "    if step < warmup:\n"
            "        return base * (step + 1) / warmup\n"
            "    return base * 0.5 * (1 + math.cos(math.pi * step / total))",
            "count its steps from the warm-up's end",
        ),
    ],
    "largest_delta_dist": [
        (
            "def largest_delta_dist(k):\n    return math.inf if k < 2 else math.sqrt(2 * k / (k - 1))",
            "delta_dist is the radius",
        ),
        ("def largest_delta_dist(k):\n    return 1.0", "regular simplex"),
    ],
    "read_settings": [
        (
            "def read_settings(text, defaults):\n    return {**defaults, **(yaml.safe_load(text) or {})}",
            "'epoch' was accepted",
        ),
        ("def read_settings(text, defaults):\n    return {**defaults, **yaml.safe_load(text)}", "safe_load gives None"),
    ],
    "tokens_per_stage": [
        (
            "def tokens_per_stage(height, width):\n    return [height * width // s for s in (16, 32, 64, 128)]",
            "shrink by their product",
        ),
        (
            "def tokens_per_stage(height, width):\n    return [(height / s) * (width / s) for s in (4, 8, 16, 32)]",
            "divide with //",
        ),
    ],
}
