"""Several processes that do one job, each a part of it, as ``torchrun`` starts them; see docs/several_processes.md.

Every process computes the loss of the whole batch: sums and counts are taken over all processes, so that pixels and
images are what is averaged over. Process 0 alone writes and prints. In a single process each function here gives back
what it was given.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Sampler

TIMEOUT = timedelta(minutes=5)
"""A process waits that long for the others. One that dies ends all at once; this is for one that hangs."""

_GROUPS: list = []
"""The process groups of this process. ``DistributedDataParallel`` would free the last reference to its group while it
holds Python's lock, for which a thread of the group may wait; one reference stays here."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes do the job."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_writer() -> bool:
    """Whether this process writes files and prints: process 0."""
    return rank() == 0


@contextmanager
def connected() -> Iterator[None]:
    """Inside, the processes that ``torchrun`` started are one job, each with a GPU of its own if there are any.

    Raises:
        ConnectionError: another process of the job has ended, or has not answered for ``TIMEOUT``.
    """
    alone = not dist.is_available() or not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1
    if alone or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(timeout=TIMEOUT)  # gloo for tensors on the CPU, NCCL for those on GPUs
    _GROUPS.append(dist.group.WORLD)
    try:
        yield
    except RuntimeError as error:  # only its text says what it is: gloo raises no type of its own
        if not isinstance(error, dist.DistBackendError) and "gloo" not in str(error):
            raise
        raise ConnectionError(f"process {rank()} lost the others: {str(error).splitlines()[0]}") from error
    dist.destroy_process_group()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over the same tensor of every process, without gradients."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def pooled(values: Tensor) -> Tensor:
    """The same sum, differentiable: the mean of all processes' gradients is then that of a single process.

    Each process gives its own part's gradient times their number, since ``DistributedDataParallel`` takes the mean.
    """
    if world_size() == 1:
        return values
    return sum_over_processes(values) + world_size() * (values - values.detach())


def mean_over_processes(mean: Tensor, count: Tensor) -> Tensor:
    """The mean over what all processes have, differentiable, from each one's own ``mean`` over ``count`` of them."""
    if world_size() == 1:
        return mean
    total = sum_over_processes(count)
    return pooled(mean * count / total.clamp(min=torch.finfo(mean.dtype).tiny))


def highest(number: int) -> int:
    """The highest of the numbers that the processes give."""
    if world_size() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def from_writer(make: Callable[[], object]) -> object:
    """What ``make`` gives in process 0, the only one that calls it; the others receive a copy."""
    found = [make() if is_writer() else None]
    if world_size() > 1:
        dist.broadcast_object_list(found)
    return found[0]


def parallel(model: nn.Module) -> nn.Module:
    """A model whose backward pass averages the gradients over the processes, which begin with process 0's weights.

    On GPUs, batch normalisation is over the images of all processes. On a CPU it is over each process's own images,
    and the running statistics are those of process 0: torch has no ``SyncBatchNorm`` there.
    """
    if world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model)


def exchanging(network: nn.Module, now: bool) -> AbstractContextManager:
    """Inside, the backward pass of a ``parallel`` model averages gradients, or with ``now`` off adds them up."""
    return nullcontext() if now or world_size() == 1 else network.no_sync()


class OwnSampler(Sampler[int | tuple[int, int] | None]):
    """What one of several processes draws: of every batch its part, each sample in one process.

    Args:
        sampler: draws what all processes draw together.
        batch_size: images of a batch, of all processes; a multiple of their number.

    Attributes:
        epoch: which epoch to draw.
        first: how many of its own samples the next iteration leaves out.

    Raises:
        ValueError: ``batch_size`` is no multiple.
    """

    def __init__(self, sampler: Sampler, batch_size: int) -> None:
        if batch_size % world_size():
            raise ValueError(f"batch_size is {batch_size}, expected a multiple of {world_size()}, one part a process")
        self.sampler, self.batch_size = sampler, batch_size
        self.epoch = self.first = 0

    def __len__(self) -> int:
        own = len(range(rank(), len(self.sampler), world_size()))
        return own + (len(self.sampler) % self.batch_size in range(1, rank() + 1))

    def __iter__(self) -> Iterator[int | tuple[int, int] | None]:
        first, self.first, self.sampler.epoch = self.first, 0, self.epoch
        own = list(itertools.islice(self.sampler, rank(), None, world_size()))
        # Of a last batch with fewer images than processes, some get none: all take part in every step none the less.
        return iter([*own, *[None] * (len(self) - len(own))][first:])


def images_in(batch: dict) -> int:
    """How many images of a batch this process has; 0 where ``OwnSampler`` had none left for it."""
    return 0 if batch.get("image_path") == [""] else len(batch["image"])


def count_images(batches: Sequence[dict]) -> list[int]:
    """How many images each batch has in all processes."""
    return sum_over_processes(torch.tensor([images_in(batch) for batch in batches])).tolist()
