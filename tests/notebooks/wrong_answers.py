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
    # 04_losses
    "variance_term": [
        (
            "def variance_term(points, lane_of, delta_var):\n"
            "    means = torch.stack([points[lane_of == lane].mean(dim=0) for lane in lane_of.unique()])\n"
            "    distance = (points - means[lane_of]).norm(dim=1)\n"
            "    return (distance - delta_var).clamp(min=0).square().mean()",
            "average within each lane",
        ),
        (
            "def variance_term(points, lane_of, delta_var):\n"
            "    means = torch.stack([points[lane_of == lane].mean(dim=0) for lane in lane_of.unique()])\n"
            "    distance = (points - means[lane_of]).norm(dim=1)\n"
            "    return (distance - delta_var).clamp(min=0).square().sum()",
            "average, do not add",
        ),
        (
            "def variance_term(points, lane_of, delta_var):\n"
            "    terms = []\n"
            "    for lane in lane_of.unique():\n"
            "        mine = points[lane_of == lane]\n"
            "        distance = (mine - mine.mean(dim=0)).square().sum(dim=1).sqrt()\n"
            "        terms.append((distance - delta_var).clamp(min=0).square().mean())\n"
            "    return torch.stack(terms).mean()",
            "NaN gradient",
        ),
    ],
    "distance_term": [
        (
            "def distance_term_of(means, delta_dist):\n"
            "    return (2 * delta_dist - torch.cdist(means, means)).clamp(min=0).square().mean()",
            "compared with itself",
        ),
        (
            "def distance_term_of(means, delta_dist):\n"
            "    return (2 * delta_dist - torch.pdist(means)).clamp(min=0).square().mean()",
            "a single lane gives NaN",
        ),
        (
            "def distance_term_of(means, delta_dist):\n"
            "    return (2 * delta_dist - torch.pdist(means)).clamp(min=0).mean()",
            "the hinge should be squared",
        ),
    ],
    "dice_ignoring": [
        (
            "def dice_ignoring(probabilities, target, smooth=1.0):\n"
            "    truth = F.one_hot(target.where(target != 255, 0), probabilities.shape[1]).movedim(-1, 1)\n"
            "    overlap = (probabilities * truth).sum(dim=(0, 2, 3))\n"
            "    areas = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))\n"
            "    return 1 - ((2 * overlap + smooth) / (areas + smooth)).mean()",
            "counted as class 0",
        ),
        (
            "def dice_ignoring(probabilities, target, smooth=1.0):\n"
            "    valid = (target != 255)[:, None]\n"
            "    truth = F.one_hot(target.where(target != 255, 0), probabilities.shape[1]).movedim(-1, 1) * valid\n"
            "    overlap = (probabilities * truth).sum(dim=(0, 2, 3))\n"
            "    areas = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))\n"
            "    return 1 - ((2 * overlap + smooth) / (areas + smooth)).mean()",
            "mask the probabilities",
        ),
    ],
    "push_floor": [
        (
            "def push_floor(k, delta_dist):\n    return 2 * delta_dist - math.sqrt(2 * k / (k - 1))",
            "the term squares it",
        ),
        (
            "def push_floor(k, delta_dist):\n    return (2 * delta_dist - math.sqrt(2 * k / (k - 1))) ** 2",
            "the hinge is never negative",
        ),
    ],
}
