"""Trajectories: the parameters of a network after every epoch of its training, kept on disk.

A trajectory lies in the folder of a network store, in a file named after a digest of all that decides it.  The tensor
``trajectory`` ``[epochs + 1, P]`` holds all parameters after e epochs in row e, in the order of
``network.parameters()``.  Beside it is what it takes to resume the training exactly: the last row in full precision
(``last``) where the others are in half of it, and the buffers of the network (``buffer: NAME``), such as the averages
of batch normalisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from ltdd_core import ranks
from ltdd_core.errors import InputError, Interrupted, reason_of
from ltdd_core.identity import digest
from ltdd_core.networks.job import ADVICE, FORMAT_VERSION, TRAJECTORY, Epoch, Job, Key, Start, check_facts, seconds_in
from ltdd_core.networks.network import Network
from ltdd_core.networks.store import PATIENCE, ROWS, alone, made
from ltdd_core.storage import load_tensors, parse_json, save_tensors

SAVE_EVERY = 5
"""Epochs between writes: what kill -9 can cost."""
Numbers = Literal["fp32", "fp16", "bf16"]
"""How the numbers of a trajectory are kept."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Report = Callable[[int, int], None]
"""``(number of the network, epochs it has behind it)``."""


class Trajectory:
    """The parameters of one network after every epoch of its training.

    Args:
        folder: of a network store.
        job: the training; by plain SGD, since it may stop after any epoch and resume from the weights.
        numbers: how the parameters are kept: ``fp16`` and ``bf16`` take half the room.

    Raises:
        ValueError: what decides the network cannot be told, so that it cannot be found again.
    """

    def __init__(self, folder: Path, job: Job, numbers: Numbers = "fp32") -> None:
        if job.key is None:
            raise ValueError("what decides the network cannot be told")
        self.job, self.dtype = job, DTYPES[numbers]
        left_out = {"epochs"} if job.extendable() else set()
        self.key: Key = {name: value for name, value in job.key.items() if name not in left_out} | {ROWS: numbers}
        self.path = folder / f"{digest(self.key)}.safetensors"
        self._file: Any = None
        self._open_epochs = 0

    def epochs(self) -> int:
        """Epochs on disk; 0 where there is no file.

        Raises:
            InputError: the file is damaged.
        """
        if not self.path.exists():
            return 0
        return self._described()[0]

    def seconds(self) -> float | None:
        """Seconds of the training of as many epochs as are wanted; None where its file does not say.

        Raises:
            InputError: the file is not there, or is damaged.
        """
        epochs, facts = self._described()
        seconds = seconds_in(facts)
        return None if seconds is None else seconds * min(1.0, self.job.epochs / max(1, epochs))

    def _described(self) -> tuple[int, dict[str, Any]]:
        """The epochs on disk, and what the file says of them."""
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = {name: parse_json(text) for name, text in (file.metadata() or {}).items()}
                self._check(facts)
                rows, _ = file.get_slice(ROWS).get_shape()
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{self.path}: damaged, or no trajectory: {reason_of(error)}; {ADVICE}.") from error
        return int(rows) - 1, facts

    def rows(self, *epochs: int) -> tuple[Tensor, ...]:
        """The parameters after each of some epochs, float32 ``[P]`` on the CPU; ``0`` for the initial ones.

        Raises:
            InputError: the file is not there, is damaged, or has fewer epochs.
        """
        if self._file is None or self._open_epochs < max(epochs):  # another process may have made it longer
            self._open_epochs = self.epochs()
            if not self._open_epochs:
                raise InputError(f"{self.path}: there is no such trajectory.")
            self._file = safe_open(self.path, framework="pt")
        if max(epochs) > self._open_epochs:
            raise InputError(
                f"{self.path}: of epoch {max(epochs)} there is nothing: it has {self._open_epochs} epochs."
            )
        stored = self._file.get_slice(ROWS)
        found = tuple(stored[epoch].float() for epoch in epochs)
        if not all(row.isfinite().all() for row in found):
            raise InputError(f"{self.path}: a weight is not finite; {ADVICE}.")
        return found

    def size(self, epochs: int) -> int:
        """Bytes of the rows of so many epochs."""
        return (epochs + 1) * sum(value.numel() for value in self.job.make().parameters()) * self.dtype.itemsize

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process alone works on it, until the block ends."""
        with made(self.path.parent), alone(self.path) as mine:
            yield mine

    def train(self, network: Network, report: Callable[[int], None]) -> None:
        """Train from where it is to the end, with a write every :data:`SAVE_EVERY` epochs.

        Args:
            network: of the kind of the job, on the device; it is refilled.
            report: told the epochs behind it, at the beginning and after each.

        Raises:
            InputError: the file is damaged, or cannot be written.
            RunFailed: training diverged.
            Interrupted: the training stopped itself; what is done is saved.
        """
        epochs = self.job.epochs
        record = Record.begin(self, network)
        report(record.done)
        if record.done >= epochs:
            return

        def after_epoch(epoch: Epoch) -> None:
            record.after_epoch(epoch)
            report(epoch.done)

        try:
            self.job.train(network, Start(record.done), after_epoch)
        except Interrupted:
            record.save()
            raise

    def load(self) -> dict[str, Tensor]:
        """All of its tensors; none where there is no file.

        Raises:
            InputError: the file is damaged.
        """
        return load_tensors(self.path)[0] if self.epochs() else {}

    def save(self, tensors: dict[str, Tensor], network: Network, seconds: float | None = None) -> None:
        """Write all of its tensors, and the seconds of training so far where they are known."""
        layout = [[name, list(value.shape)] for name, value in network.named_parameters()]
        facts = {"format": TRAJECTORY, "format_version": FORMAT_VERSION, "key": self.key, "parameters": layout}
        if seconds is not None:
            facts["seconds"] = seconds
        save_tensors(self.path, tensors, facts)
        self._file = None

    def _check(self, facts: dict[str, Any]) -> None:
        check_facts(self.path, facts, TRAJECTORY, self.key)


class Record:
    """A trajectory while it is trained: the rows so far, and all that it takes to resume after the last of them.

    The network itself may be some steps into the next epoch when a training stops.
    """

    def __init__(
        self, trajectory: Trajectory, network: Network, rows: Tensor, done: int, before: float | None = 0.0
    ) -> None:
        self.trajectory, self.network, self.rows, self.done, self.saved = trajectory, network, rows, done, done
        self.last: Tensor | None = None
        """The parameters after the last epoch, float32 ``[P]`` on the CPU; None before the first that is trained."""
        self.buffers: dict[str, Tensor] = {}
        self._before, self._began = before, time.monotonic()  # seconds of the epochs that are done
        self._sharing = 1

    @classmethod
    def begin(cls, trajectory: Trajectory, network: Network) -> Record:
        """From its file, or from the initial weights."""
        _refill(network, trajectory.job.make())
        start, stored = flat_parameters(network), trajectory.load()
        known = stored.get(ROWS, start[None].to("cpu", trajectory.dtype))
        done = len(known) - 1
        rows = torch.empty(max(trajectory.job.epochs, done) + 1, len(start), dtype=trajectory.dtype)
        try:
            rows[: done + 1] = known.view(done + 1, len(start))
            if done:
                fill_parameters(network, stored.get("last", known[done]))
                for name, buffer in network.named_buffers():
                    buffer.copy_(stored[f"buffer: {name}"].view_as(buffer))
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{trajectory.path}: its tensors do not fit the network; {ADVICE}.") from error
        if not flat_parameters(network).isfinite().all():
            raise InputError(f"{trajectory.path}: a weight is not finite; {ADVICE}.")
        return cls(trajectory, network, rows, done, seconds_in(trajectory._described()[1]) if done else 0.0)

    def begin_sharing(self, count: int) -> None:
        """Its training begins now, at once with others: so many share the time."""
        self._sharing, self._began = count, time.monotonic()

    def after_epoch(self, epoch: Epoch) -> None:
        """An epoch is over: keep where the network is, and write it now and then."""
        self.add(epoch.done)
        if epoch.done - self.saved >= SAVE_EVERY or epoch.done == self.trajectory.job.epochs:
            self.save()

    def add(self, done: int) -> None:
        """An epoch is over: keep where the network is."""
        self.last = flat_parameters(self.network).cpu()
        self.buffers = {f"buffer: {name}": buffer.cpu().clone() for name, buffer in self.network.named_buffers()}
        self.rows[done], self.done = self.last, done

    def save(self) -> None:
        """Write it, if there is anything new."""
        if self.last is None or self.done == self.saved:
            return
        tensors = {ROWS: self.rows[: self.done + 1], **self.buffers}
        if self.rows.dtype != torch.float32:
            tensors["last"] = self.last
        taken = (time.monotonic() - self._began) / self._sharing
        seconds = None if self._before is None else self._before + taken
        self.trajectory.save(tensors, self.network, seconds)
        self.saved = self.done


def train_all(trajectories: Sequence[Trajectory], report: Report, keep_going: Callable[[], None]) -> None:
    """Train all; those that are complete cost nothing, those that another process trains are waited for.

    Args:
        trajectories: of networks of one kind, which share one module, so that it is compiled once.
        report: told where each is when it is begun or found complete, and after each epoch.
        keep_going: called between them; raises to stop.

    Raises:
        InputError: a file is damaged, or cannot be written.
        RunFailed: training diverged.
        Interrupted: ``keep_going``, or the training, said so; what is done is saved.
    """
    network: Network | None = None
    waiting = dict(enumerate(trajectories))
    while waiting:
        for number, trajectory in list(waiting.items()):
            keep_going()
            if (done := trajectory.epochs()) >= trajectory.job.epochs:
                report(number, done)
                del waiting[number]
                continue
            with trajectory.alone() as mine:
                if mine:
                    network = network or trajectory.job.make()
                    with ranks.alone():  # other processes of the run train other trajectories
                        trajectory.train(network, partial(report, number))
                    del waiting[number]
        if waiting:
            time.sleep(PATIENCE)


def flat_parameters(network: nn.Module) -> Tensor:
    """All parameters as one vector ``[P]``, a copy."""
    return parameters_to_vector(network.parameters()).detach()


def fill_parameters(network: nn.Module, vector: Tensor) -> None:
    """Copy a vector ``[P]`` into the parameters."""
    parameters = list(network.parameters())
    with torch.no_grad():
        for value, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
            value.copy_(part.view(value.shape))


def _refill(network: Network, source: Network) -> None:
    """Make a network of the same kind what another is: weights, buffers, and which parameters learn."""
    network.load_state_dict(source.state_dict())
    for value, wanted in zip(network.parameters(), source.parameters(), strict=True):
        value.requires_grad_(wanted.requires_grad)
