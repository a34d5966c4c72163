"""The store of trained networks: each is kept under all that decides it, and trained once.

A store keeps networks in memory; one with a folder keeps them on disk too, a safetensors file each, so that other
processes and later runs find them.  While a process trains a network it holds a lock on its file; others that want the
same network wait for it.  The same folder keeps trajectories (:mod:`ltdd_core.networks.trajectory`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.errors import InputError
from ltdd_core.identity import digest
from ltdd_core.locking import locked
from ltdd_core.networks.job import (
    ADVICE,
    ARTEFACT,
    FORMAT,
    FORMAT_VERSION,
    TRAJECTORY,
    UNFINISHED,
    Job,
    Key,
    Start,
    check_facts,
    seconds_in,
)
from ltdd_core.networks.network import Network
from ltdd_core.networks.unfinished import Claim, Unfinished
from ltdd_core.storage import load_tensors, parse_json, save_tensors, writing

FOLDER = "networks"
"""The folder of a store within that of a run or of a grid."""
SHARED = Path("runs") / FOLDER
"""The store of what is always kept on disk, for all runs under the folder that one works in."""
ROWS = "trajectory"
"""The tensor of a trajectory, ``[epochs + 1, P]``."""
UNFINISHED_SUFFIX = ".unfinished"
FEW = 2
"""Images that stand for all of a set while trainings are only planned."""
PATIENCE = 0.2
"""Seconds between looks at a network that another process trains."""


class Trained(NamedTuple):
    """A trained network."""

    network: Network
    seconds: float | None
    """Of its training, over all processes that had a part in it; None where its file does not say."""


class NetworkStore:
    """Trained networks by what decides them.

    Args:
        folder: where they are kept on disk; None for in memory only.  It is made with the first network.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Trained] = {}

    def get(self, job: Job, keep_going: Callable[[], None] = lambda: None) -> Network:
        """The network of a job: the one that is known, or read from disk, or else trained now and kept.

        A network without a key is trained each time, and not kept.

        Args:
            job: what is wanted.
            keep_going: called while another process trains the same network; raises to stop.

        Raises:
            InputError: the folder cannot be written, or a file in it is damaged.
        """
        return self.trained(job, keep_going).network

    def trained(self, job: Job, keep_going: Callable[[], None] = lambda: None) -> Trained:
        """As :meth:`get`, with the seconds of the training."""
        if job.key is None:
            return _ready(job, _trained(job))
        name = digest(job.key)
        if name not in self._known:
            if ranks.count() > 1:
                trained = self._together(name, job, keep_going)
            else:
                trained = _trained(job) if self.folder is None else self._shared(name, job, keep_going)
            self._known[name] = _ready(job, trained)
        return self._known[name]

    def apart(self, trainings: Sequence[Callable[[NetworkStore], object]], keep_going: Callable[[], None]) -> None:
        """Let the processes of a run do some trainings apart, each of them others, so that all find the networks here.

        A network is then trained as in one process, whatever its layers.  Nothing happens where there is one process or
        one training, or where the store has no folder, which all processes see.

        Args:
            trainings: each trains networks with the store that it is given; the same in all processes.
            keep_going: called while other processes are at work; raises to stop.
        """
        if ranks.count() == 1 or len(trainings) == 1 or self.folder is None:
            return
        own = trainings[ranks.rank() :: ranks.count()]
        with ranks.alone():
            for training in own:
                training(NetworkStore(self.folder))  # this one must know what it knows in the other processes
        ranks.met(keep_going)

    def has(self, job: Job) -> bool:
        """Whether the network of a job is known or on disk."""
        if job.key is None:
            return False
        name = digest(job.key)
        return name in self._known or (self.folder is not None and (self.folder / f"{name}.safetensors").exists())

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """The trainings among some that are still to be done, each once; one without a key is done each time."""
        left: dict[str, Job] = {}
        for job in jobs:
            if not self.has(job):
                left[f"without a key: {len(left)}" if job.key is None else digest(job.key)] = job
        return list(left.values())

    @contextmanager
    def claimed(self, job: Job) -> Iterator[Claim | None]:
        """A network for this process alone to train until the block ends; None where it is there, or another trains it.

        Args:
            job: with a key.

        Raises:
            InputError: the folder cannot be written, or the file of an unfinished training is damaged.
        """
        key = job.key or {}
        name = digest(key)

        def keep(network: Network, seconds: float | None) -> None:
            trained = Trained(network, seconds)
            if path is not None:
                _save(path, key, trained)
            self._known[name] = _ready(job, trained)

        path = None if self.folder is None else self.folder / f"{name}.safetensors"
        if self.has(job):
            yield None
        elif path is None:
            yield Claim(job, None, keep)
        else:
            with made(path.parent), alone(path) as mine:
                if not mine or path.exists():
                    yield None
                else:
                    unfinished = Unfinished(path.with_suffix(UNFINISHED_SUFFIX), key)
                    yield Claim(job, unfinished, keep, unfinished.start())

    def artefact(
        self, key: Key | None, compute: Callable[[], dict[str, Tensor]], keep_going: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Tensors that follow from trained networks, such as statistics: known, read from disk, or computed and kept.

        Args:
            key: all that decides them; None where that cannot be told, and they are computed each time.
            compute: makes them, by name.
            keep_going: called while another process computes the same; raises to stop.

        Raises:
            InputError: the folder cannot be written, or a file in it is damaged.
        """
        if key is None or self.folder is None or ranks.count() > 1:
            return compute()
        path = self.folder / f"{digest(key)}.safetensors"
        if not path.exists():
            with made(self.folder), _locked(path, keep_going):
                if not path.exists():
                    facts = {"format": ARTEFACT, "format_version": FORMAT_VERSION, "key": key}
                    save_tensors(path, compute(), facts)
        tensors, facts = load_tensors(path)
        check_facts(path, facts, ARTEFACT, key)
        return tensors

    def _shared(self, name: str, job: Job, keep_going: Callable[[], None]) -> Trained:
        """The network from its file, written by whoever is first."""
        folder, key = self.folder, job.key
        assert folder is not None and key is not None  # noqa: S101, PT018 - for the type checker; the caller has looked
        path = folder / f"{name}.safetensors"
        if path.exists():
            return _filled(job.make(), path, key)
        with made(folder), _locked(path, keep_going):
            if path.exists():
                return _filled(job.make(), path, key)
            trained = _finished(job, Unfinished(path.with_suffix(UNFINISHED_SUFFIX), key))
            _save(path, key, trained)
            return trained

    def _together(self, name: str, job: Job, keep_going: Callable[[], None]) -> Trained:
        """The network in all processes of a run: from the file of rank 0, or trained by all of them at once."""
        if ranks.rank() > 0 or self.folder is None:
            return _with_others(job)
        path = self.folder / f"{name}.safetensors"
        with made(self.folder), _locked(path, keep_going):
            if path.exists():
                return _with_others(job, found=_filled(job.make(), path, job.key or {}))
            unfinished = Unfinished(path.with_suffix(UNFINISHED_SUFFIX), job.key or {})
            trained = _with_others(job, unfinished=unfinished)
            _save(path, job.key or {}, trained)
            return trained


class Plan(NetworkStore):
    """Notes what is asked for, and trains nothing: it hands out networks with their initial weights."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []

    def standing_for(self, images: int, chunk: int) -> AbstractContextManager[int]:
        """How many of so many images go through a network, while the block runs, and stand for all of them.

        Args:
            images: all of them.
            chunk: images at once, where all go through it.
        """
        return nullcontext(min(images, FEW))

    def trained(self, job: Job, keep_going: Callable[[], None] = lambda: None) -> Trained:
        """An untrained network."""
        self.jobs.append(job)
        return Trained(job.make().eval().requires_grad_(False), None)


def _trained(job: Job) -> Trained:
    network, began = job.make(), time.monotonic()
    return Trained(job.train(network, Start(), lambda epoch: None), time.monotonic() - began)


def _with_others(job: Job, found: Trained | None = None, unfinished: Unfinished | None = None) -> Trained:
    """The network of a job in all processes of a run, which call this at the same time.

    Args:
        job: the same in all of them.
        found: the network, where rank 0 has it.
        unfinished: where rank 0 keeps the checkpoints of its training.
    """
    state = None if found is None else {name: value.cpu() for name, value in found.network.state_dict().items()}
    if (state := ranks.agreed(state)) is not None:
        network = found.network if found is not None else job.make()
        network.load_state_dict(state)
        return Trained(network.eval().requires_grad_(False), ranks.agreed(found and found.seconds))
    start = ranks.agreed(Start() if unfinished is None else unfinished.start())
    network, began = job.make(), time.monotonic()
    try:
        network = job.train(network, start, (lambda epoch: None) if unfinished is None else unfinished.after_epoch)
    except KeyboardInterrupt:  # Interrupted is one
        if unfinished is not None:
            unfinished.write()
        raise
    return Trained(network, ranks.agreed(time.monotonic() - began if unfinished is None else unfinished.seconds))


def _ready(job: Job, trained: Trained) -> Trained:
    return trained._replace(network=job.ready(trained.network))


def _finished(job: Job, unfinished: Unfinished) -> Trained:
    """The network of a job, trained from where an earlier training of it stopped."""
    network, start = job.make(), unfinished.start()
    try:
        return Trained(job.train(network, start, unfinished.after_epoch), unfinished.seconds)
    except KeyboardInterrupt:  # Interrupted is one
        unfinished.write()
        raise


def _save(path: Path, key: Key, trained: Trained) -> None:
    """Write a network, whose training is no longer unfinished."""
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": key, "seconds": trained.seconds}
    save_tensors(path, trained.network.state_dict(), facts)
    path.with_suffix(UNFINISHED_SUFFIX).unlink(missing_ok=True)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder; where the block fails, folders that are still empty are gone again."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            for place in new:
                place.rmdir()
        raise


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process alone works on the file of a network, until the block ends.

    Raises:
        InputError: the folder cannot be written.
    """
    place = path.with_name(f".{path.stem}.lock")
    with locked(place, wait=False) as mine:
        try:
            for left in path.parent.glob(f".{path.stem}.*.tmp") if mine else ():
                left.unlink(missing_ok=True)  # of a process that was killed while it wrote
            yield mine
        finally:
            if mine:
                place.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, keep_going: Callable[[], None]) -> Iterator[None]:
    """Work on a file alone, after other processes."""
    while True:
        keep_going()
        with alone(path) as mine:
            if mine:
                yield
                return
        time.sleep(PATIENCE)


def _filled(network: Network, path: Path, key: Key) -> Trained:
    """A network with the weights of a file.

    Raises:
        InputError: the file is damaged, or of another network.
    """
    tensors, facts = load_tensors(path)
    check_facts(path, facts, FORMAT, key)
    device = next(network.parameters()).device
    try:
        network.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors do not fit the network; {ADVICE}.") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path}: a weight is not finite; {ADVICE}.")
    return Trained(network.eval().requires_grad_(False), seconds_in(facts))


# ---- what is on disk -----------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredNetwork:
    """A network on disk, a trajectory, or what follows from a network."""

    path: Path
    key: Key
    trajectory: bool
    """Whether its parameters after every epoch are kept, and not only those after the last."""
    epochs: int | None
    """Epochs of its training so far; None where its file does not say."""
    finished: bool
    """Whether its training has ended."""
    bytes: int
    """Size of its file."""
    modified: float
    """Seconds since 1970 when it was written."""


def stored_networks(folder: Path) -> Iterator[StoredNetwork]:
    """The networks in a folder and the folders within, the oldest first; other files and damaged ones are left out."""
    found = []
    for path in (*folder.rglob("*.safetensors"), *folder.rglob(f"*{UNFINISHED_SUFFIX}")):
        with contextlib.suppress(SafetensorError, OSError, ValueError):
            found.append(_stored(path))
    yield from sorted(filter(None, found), key=lambda network: (network.modified, network.path))


def _stored(path: Path) -> StoredNetwork | None:
    with safe_open(path, framework="pt") as file:
        facts = {name: parse_json(text) for name, text in (file.metadata() or {}).items()}
        key, kind = facts.get("key"), facts.get("format")
        if not isinstance(key, dict) or kind not in (FORMAT, TRAJECTORY, ARTEFACT, UNFINISHED):
            return None
        trajectory, finished = kind == TRAJECTORY, kind != UNFINISHED
        epochs = (
            file.get_slice(ROWS).get_shape()[0] - 1 if trajectory else (facts if not finished else key).get("epochs")
        )
    about = path.stat()
    return StoredNetwork(path, key, trajectory, epochs, finished, about.st_size, about.st_mtime)
