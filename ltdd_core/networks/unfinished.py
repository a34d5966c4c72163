"""The checkpoint of a training that has not ended yet, beside the place of its network in a store.

It is written when a training is interrupted, and now and then.  A training that begins from it ends with the same bits
as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdd_core.errors import InputError
from ltdd_core.networks.job import ADVICE, FORMAT_VERSION, UNFINISHED, Epoch, Job, Key, Start, check_facts, seconds_in
from ltdd_core.networks.network import Network
from ltdd_core.storage import load_tensors, save_tensors

SECONDS_BETWEEN_COPIES = 0.5
"""Of the state, in memory: at most so much of a training is done again after an interruption."""
SECONDS_BETWEEN_WRITES = 60.0
"""At most so much is done again where a process dies at once."""


@dataclass
class Unfinished:
    """The checkpoint of a training, on disk and in memory."""

    path: Path
    """Its file."""
    key: Key
    """All that decides the network."""
    before: float | None = 0.0
    """Seconds of training behind its file; None where an earlier version wrote it."""
    sharing: int = 1
    """How many networks share the time of the training."""
    _began: float = field(default_factory=time.monotonic)
    _epochs: int = 0
    _state: dict[str, Tensor] = field(default_factory=dict)
    _copied: float = field(default_factory=time.monotonic)
    _written: float = field(default_factory=time.monotonic)

    def start(self) -> Start:
        """Where to begin: after the epochs of the file, or with initial weights where there is none.

        Raises:
            InputError: the file is damaged, or of another training.
        """
        self._began = time.monotonic()
        if not self.path.exists():
            return Start()
        state, facts = load_tensors(self.path)
        check_facts(self.path, facts, UNFINISHED, self.key)
        epochs: Any = facts.get("epochs")
        if type(epochs) is not int or epochs < 1 or not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise InputError(f"{self.path}: damaged; {ADVICE}.")
        self.before = seconds_in(facts)
        return Start(epochs, state)

    def begin_sharing(self, count: int) -> None:
        """The training begins now, at once with others: so many share the time."""
        self.sharing, self._began = count, time.monotonic()

    @property
    def seconds(self) -> float | None:
        """Seconds of training so far, over all processes; None where that is not known."""
        return None if self.before is None else self.before + (time.monotonic() - self._began) / self.sharing

    def after_epoch(self, epoch: Epoch) -> None:
        """Keep the state, if it was not kept a moment ago."""
        now = time.monotonic()
        if now - self._copied < SECONDS_BETWEEN_COPIES:
            return
        self._epochs, self._copied = epoch.done, now
        self._state = {name: tensor.detach().cpu().clone() for name, tensor in epoch.state().items()}
        if now - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write what was kept last, if anything.

        Raises:
            WriteError: the file cannot be written.
        """
        if self._state:
            facts = {"format": UNFINISHED, "format_version": FORMAT_VERSION, "key": self.key, "epochs": self._epochs}
            facts["seconds"] = self.seconds
            save_tensors(self.path, self._state, facts)
            self._state, self._written = {}, time.monotonic()


@dataclass
class Claim:
    """A network that this process alone may train and put into a store."""

    job: Job
    """Its training."""
    unfinished: Unfinished | None
    """The checkpoint of its training; None where the store has no folder."""
    keep: Callable[[Network, float | None], None]
    """Puts ``(network, seconds of its training)`` into the store."""
    start: Start = field(default_factory=Start)
    """Where its training begins."""
    _sharing: int = 1
    _began: float = field(default_factory=time.monotonic)

    def begin_sharing(self, count: int) -> None:
        """Its training begins now, at once with others.

        Args:
            count: how many they are with it.
        """
        self._sharing, self._began = count, time.monotonic()
        if self.unfinished is not None:
            self.unfinished.begin_sharing(count)

    def after_epoch(self, epoch: Epoch) -> None:
        """Told of each epoch at its end."""
        if self.unfinished is not None:
            self.unfinished.after_epoch(epoch)

    def stop(self) -> None:
        """Its training stops before its end: write what it takes to go on.

        Raises:
            WriteError: the file cannot be written.
        """
        if self.unfinished is not None:
            self.unfinished.write()

    @property
    def seconds(self) -> float | None:
        """Of its training so far: its share where it is trained with others.  None where that is not known."""
        if self.unfinished is not None:
            return self.unfinished.seconds
        return (time.monotonic() - self._began) / self._sharing
