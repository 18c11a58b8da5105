"""Which operations of a training step are not deterministic on a device: ``road-topology doctor --determinism``."""

import re
import warnings
from collections.abc import Callable, Iterator

import torch

from roadtopo_lib import models
from roadtopo_lib.app.doctor import Check
from roadtopo_lib.config import LaneSegmentationConfig
from roadtopo_lib.console import say
from roadtopo_lib.labels import CROSSWALK, LANE_MARKING, ROAD
from roadtopo_lib.losses import LaneCriterion
from roadtopo_lib.seeding import own_generators

REPEATS = 3
"""Times that a step is repeated: an operation of which torch does not warn may differ, too."""


def check_determinism(device: str | torch.device | None = None) -> Iterator[Check]:
    """Lines on a training step of the tiny model: of which operations torch warns, and what differs when repeated.

    Args:
        device: default CUDA if there is one, else the CPU.
    """
    device = models.choose_device(device)
    step = training_step(device)
    for operation in unstable_operations(step):
        yield Check("--", "determinism", f"{device}: {operation} is not deterministic")
    first, *others = (step() for _ in range(REPEATS))
    differing = [name for name in first if any(not torch.equal(first[name], other[name]) for other in others)]
    if differing:
        found = f"{len(differing)} of {len(first)} gradients differ, {differing[0]} first"
        yield Check("--", "determinism", f"{device}: of {REPEATS} equal training steps {found}")
    else:
        text = f"{REPEATS} equal training steps give equal gradients, bit for bit ({torch.get_num_threads()} threads)"
        yield Check("OK", "determinism", f"{device}: {text}")


def training_step(device: torch.device) -> Callable[[], dict[str, torch.Tensor]]:
    """A step that always begins alike: what it returns are the loss and all gradients."""
    config = LaneSegmentationConfig.preset("tiny")
    criterion = LaneCriterion.from_config(config)
    with own_generators(device, 0):
        model = models.build(config).to(device).train()
        image = torch.rand(2, 3, *config.image_size, device=device)
    semantic = torch.full((2, *config.image_size), ROAD, device=device)
    instance = torch.zeros_like(semantic)
    for place, kind in enumerate((LANE_MARKING, LANE_MARKING, CROSSWALK)):
        semantic[:, 20:, 60 * place + 30 : 60 * place + 40] = kind
        instance[:, 20:, 60 * place + 30 : 60 * place + 40] = place + 1
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def step() -> dict[str, torch.Tensor]:
        model.load_state_dict(start)
        model.zero_grad()
        with own_generators(device, 0):
            batch = {"semantic_mask": semantic, "instance_mask": instance}
            loss, _ = criterion(model(image, upsample=False), batch)
            loss.backward()
        return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters()}

    return step


def unstable_operations(step: Callable[[], object]) -> list[str]:
    """Names of the operations in a step of which torch warns that they are not deterministic."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            step()
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    found = (re.match(r"(\S+).*(?:not have a deterministic|[Dd]eterministic behavior)", str(w.message)) for w in told)
    return sorted({match[1] for match in found if match})


def main() -> int:
    """Prints the lines; returns the exit code, 0: what is not deterministic is no fault of the installation."""
    for line in check_determinism():
        say(line)
    return 0
