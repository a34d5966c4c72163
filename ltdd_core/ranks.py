"""Several processes that share one run, one rank each, started by torchrun or by ``--processes``.

Every process does the whole run: it has the same configuration, draws the same numbers and takes the same decisions.
Where work can be split, each does its share and the results are added up or put together; whoever does not know of the
others does the work that they do, and comes to the same result.  Rank 0 alone talks to the user, and its folder is that
of the run.

A process that dies closes its connections, so the next exchange fails in all others.  While they work on their own for
long, they look around with :func:`check`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ltdd_core.errors import InputError, Interrupted, reason_of
from ltdd_core.processes import LOOK_AGAIN, lost, processes_sharing

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)
"""For what another process does, such as a training; one that dies is noticed at once."""


LEAST_SHARED = 8
"""Images of a batch, at least, that are worth a process; adding up what they come to takes time, too."""
ENDED = "another process of this run has ended"


class OtherEnded(Interrupted):
    """Another process of the run has ended, and says itself why; this one stops as if it had been asked to."""


_alone: ContextVar[bool] = ContextVar("alone", default=False)
_planned: ContextVar[int] = ContextVar("planned", default=1)


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes of the run, as the environment variables of torchrun say; nothing where there are none.

    Raises:
        InputError: these variables do not say where the processes meet.
        OtherEnded: inside the block, where a process has ended.
    """
    if processes_sharing() == 1 or dist.is_initialized():
        yield
        return
    local, on_this_machine = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        if on_this_machine <= torch.cuda.device_count():  # NCCL takes one process a GPU
            backend = "cpu:gloo,cuda:nccl"
    try:
        with _noticing():
            dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except ValueError as error:
        raise InputError(
            f"the environment variable WORLD_SIZE says that {processes_sharing()} processes share the run, and others "
            f"do not say how they meet ({reason_of(error)}): start it with torchrun, or unset WORLD_SIZE."
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _exchanging() else 0


def count() -> int:
    """How many processes share the work at this place; 1 where each does its own."""
    if _exchanging():
        return dist.get_world_size()
    return 1 if _alone.get() else _planned.get()


def several_processes() -> bool:
    """Whether several processes share the work at this place: what each has done has to be added up."""
    return count() > 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process works on its own: it measures something, or trains what others do not."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def as_first_of(processes: int) -> Iterator[None]:
    """Inside the block this process does what the first of so many does, and exchanges nothing: for a plan.

    Args:
        processes: at least 1.
    """
    token = _planned.set(processes)
    try:
        yield
    finally:
        _planned.reset(token)


def agreed(value: T) -> T:
    """What rank 0 says, in every process.

    Args:
        value: can be pickled; that of rank 0 counts.
    """
    if not _exchanging():
        return value
    values: list[Any] = [value]
    with _noticing():
        dist.broadcast_object_list(values, src=0)
    said: T = values[0]
    return said


def check() -> None:
    """Stop where a process has died that shares the run, as far as it can be seen without an exchange.

    Raises:
        OtherEnded: one has.
    """
    if lost.get()():
        raise OtherEnded(ENDED)


def met(keep_going: Callable[[], None] = check) -> None:
    """Wait until every process has come to this place.

    Args:
        keep_going: called meanwhile, a few times a second; raises to stop.
    """
    if not _exchanging():
        return
    with _noticing():
        others = dist.all_reduce(torch.zeros(1), async_op=True)
        while not others.is_completed():
            keep_going()
            time.sleep(LOOK_AGAIN)
        others.wait()


def summed_over_processes(*tensors: Tensor) -> None:
    """Replace tensors of one dtype by their sums over the processes of a run, which are the same bits in each.

    They stay as they are in a run of one process.

    Args:
        tensors: of any shapes, the same in each process, on one device; changed in place.

    Raises:
        OtherEnded: another process has died.
    """
    if not _exchanging() or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with _noticing():
        dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view(tensor.shape))


def put_together(part: Tensor) -> Tensor:
    """The parts of all processes one after another, ``[n, ...]``, on the CPU.

    Args:
        part: ``[n_rank, ...]`` on the CPU, of the same dtype and trailing shape in each process; may be empty.
    """
    if not _exchanging():
        return part
    shapes: list[Any] = [None] * count()
    with _noticing():
        dist.all_gather_object(shapes, tuple(part.shape))
        parts = [torch.empty(shape, dtype=part.dtype) for shape in shapes]
        parts[rank()] = part.contiguous()
        for source, tensor in enumerate(parts):
            dist.broadcast(tensor, src=source)
    return torch.cat(parts)


def share_of(number: int) -> slice:
    """Which of so many things, in a row, this process does; the shares differ by one at most."""
    each, more = divmod(number, count())
    start = rank() * each + min(rank(), more)
    return slice(start, start + each + (rank() < more))


def share_of_batch(images: int) -> slice:
    """Which images of a batch this process of a run works on; all in a run of one process.

    Each process has others, from 8 images a process on.  A smaller batch is not worth it: the first process has all of
    it, and the others have none.  Whoever works on a share ends with :func:`summed_over_processes`.

    Args:
        images: in the batch.
    """
    if images >= LEAST_SHARED * count():
        return share_of(images)
    return slice(0, images if rank() == 0 else 0)


def share_of_classes(classes: int) -> Sequence[int]:
    """The classes that this process of a run works on, in ascending order; all in a run of one process.

    That is every so many-th, since neighbours in a long tail have similar counts; none where there are more processes
    than classes.  Whoever works on a share ends with :func:`summed_over_processes`.

    Args:
        classes: how many there are in all.
    """
    return range(rank(), classes, count())


def _exchanging() -> bool:
    return dist.is_initialized() and not _alone.get() and _planned.get() == 1


@contextmanager
def _noticing() -> Iterator[None]:
    """Say in one line that another process is gone."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise OtherEnded(ENDED) from error
