"""Several processes that train one model, as `torchrun` starts them.

Each of them reads the same batches and takes every `size`-th row of each; sums of losses and gradients are added up
over all, so that any number of processes takes the same steps. torch's DistributedDataParallel isn't used: it averages
over processes, which is only the same where each has as many labels, and it calls for a row in every process.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import distributed

from deploykit.errors import TrainError
from deploykit.train.parts import Batch

_BUCKET: Final = 1 << 23
"""Numbers that are sent at once: 32 MB in fp32, as DistributedDataParallel has it (25 MB)."""

Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes files and talks to the user."""
        return self.rank == 0


def world() -> World:
    """Return this process's place; alone where no group was joined."""
    if not distributed.is_available() or not distributed.is_initialized():
        return World()
    return World(rank=distributed.get_rank(), size=distributed.get_world_size())


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started, if it started this one (RANK, WORLD_SIZE); leave them at the end.

    Raises:
        TrainError: another process is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield World()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world()
    except RuntimeError as error:
        # gloo has no class of its own for it.
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise TrainError("another process of this training is gone; what it said last is the reason") from error
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    if world().size > 1:
        distributed.barrier()


def share(batch: Batch, place: World) -> tuple[Batch, float]:
    """Return the rows of `batch` that are this process's, and what their loss counts: 0 where none was left for it.

    Such a process computes one row for nothing, so that the same parameters get gradients everywhere.
    """
    if place.size == 1:
        return batch, 1.0
    mine = slice(place.rank, None, place.size) if place.rank < batch.rows else slice(0, 1)
    part = dataclasses.replace(
        batch, inputs={name: tensor[mine] for name, tensor in batch.inputs.items()}, labels=batch.labels[mine]
    )
    return part, float(place.rank < batch.rows)


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if world().size > 1:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            distributed.all_reduce(flat)
            _spread(flat, bucket)


def take_over(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by that of rank 0."""
    if world().size > 1:
        for tensor in tensors:
            # Detached, or torch warns that weights were changed behind its back when the gradients are worked out.
            distributed.broadcast(tensor.detach(), 0)


def gathered(things: list[Thing]) -> list[Thing]:
    """Return the things of all processes, rank 0's first."""
    if (size := world().size) == 1:
        return things
    lists: list[list[Thing]] = [[] for _ in range(size)]
    distributed.all_gather_object(lists, things)
    return [thing for part in lists for thing in part]


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(one.numel() for one in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _spread(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    for tensor, part in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
