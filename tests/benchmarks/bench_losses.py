"""How long the discriminative loss takes, as a multiple of cross-entropy on the same batch.

Run from the repository: ``python tests/benchmarks/bench_losses.py``. Both losses run forward and backward in turn, on
one thread. Each run is timed by the processor time it takes, and the fastest run of each loss counts: other programs
on the machine can only slow a run down.

Batch: 4 images, labels 256×512, 6-class logits at full size, 32-d embeddings at a quarter, about 4 % of the pixels
labelled as instances.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from roadtopo_lib.labels import NUM_CLASSES
from roadtopo_lib.losses import DiscriminativeLoss

TARGET_RATIO = 1.5
BATCH, DIM, HEIGHT, WIDTH = 4, 32, 256, 512
LABELLED_SHARE = 0.04


def slanted_lanes(instances: int) -> Tensor:
    """(B, H, W) int64: lanes side by side, each leaning further the further right it is."""
    width = max(1, round(LABELLED_SHARE * WIDTH / instances))
    row = torch.arange(HEIGHT)[:, None]
    column = torch.arange(WIDTH)[None, :]
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    for lane in range(instances):
        left = (lane + 0.25) * WIDTH / instances + row * 0.5 * (lane / instances) / instances
        mask[(column >= left) & (column < left + width)] = lane + 1
    return mask.expand(BATCH, -1, -1).contiguous()


def discriminative_to_cross_entropy_ratio(instances: int, repeats: int = 100) -> float:
    """Shortest time of the discriminative loss over that of cross-entropy, each forward and backward.

    Args:
        instances: per image.
        repeats: timed runs of each loss.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, NUM_CLASSES, HEIGHT, WIDTH, generator=generator).requires_grad_()
    target = torch.randint(0, NUM_CLASSES, (BATCH, HEIGHT, WIDTH), generator=generator)
    embeddings = torch.randn(BATCH, DIM, HEIGHT // 4, WIDTH // 4, generator=generator).requires_grad_()
    mask = slanted_lanes(instances)
    criterion = DiscriminativeLoss()

    def seconds(loss: Callable[[], Tensor], leaf: Tensor) -> float:
        leaf.grad = None
        start = time.process_time()
        loss().backward()
        return time.process_time() - start

    times = [
        (
            seconds(lambda: criterion(embeddings, mask)[0], embeddings),
            seconds(lambda: F.cross_entropy(logits, target), logits),
        )
        for _ in range(5 + repeats)
    ]
    ours, reference = zip(*times[5:], strict=True)  # the first runs warm caches and memory
    return min(ours) / min(reference)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for count in (5, 20):
        share = (slanted_lanes(count) > 0).double().mean().item()
        ratio = discriminative_to_cross_entropy_ratio(count)
        print(f"{count:2d} instances, {share:.1%} labelled: {ratio:.2f} × cross-entropy (target {TARGET_RATIO})")
