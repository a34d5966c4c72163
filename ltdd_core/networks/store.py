"""The store of trained networks: each is kept under all that decides it, and trained once.

A store keeps networks in memory; one with a folder keeps them on disk too, a safetensors file each, so that other
processes and later runs find them.  While a process trains a network it holds a lock on its file; others that want the
same network wait for it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from ltdd_core.errors import InputError
from ltdd_core.identity import digest
from ltdd_core.networks.network import Network
from ltdd_core.storage import load_tensors, save_tensors, writing

FOLDER = "networks"
"""The folder of a store within that of a run or of a grid."""
FORMAT, FORMAT_VERSION = "ltdd-network", 1
PATIENCE = 0.2
"""Seconds between looks at a network that another process trains."""

Key = dict[str, Any]
"""All that decides a network, as JSON."""


class NetworkStore:
    """Trained networks by what decides them.

    Args:
        folder: where they are kept on disk; None for in memory only.  It is made with the first network.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Network] = {}

    def get(
        self,
        key: Key | None,
        make: Callable[[], Network],
        train: Callable[[Network], Network],
        ready: Callable[[Network], Network] = lambda network: network,
        keep_going: Callable[[], None] = lambda: None,
    ) -> Network:
        """The network of a key: the one that is known, or read from disk, or else trained now and kept.

        Args:
            key: all that decides it; None where that cannot be told: it is trained, and not kept.
            make: the network with its initial weights.
            train: trains it and returns it, in evaluation mode and frozen.
            ready: what becomes of a trained network before it is handed out, such as compiling it; done once.
            keep_going: called while another process trains the same network; raises to stop.

        Raises:
            InputError: the folder cannot be written, or a file in it is damaged.
        """
        if key is None:
            return ready(train(make()))
        name = digest(key)
        if name not in self._known:
            network = train(make()) if self.folder is None else self._shared(name, key, make, train, keep_going)
            self._known[name] = ready(network)
        return self._known[name]

    def forget(self) -> None:
        """Drop what is in memory; what is on disk stays."""
        self._known.clear()

    def _shared(
        self,
        name: str,
        key: Key,
        make: Callable[[], Network],
        train: Callable[[Network], Network],
        keep_going: Callable[[], None],
    ) -> Network:
        """The network from its file, written by whoever is first."""
        folder = self.folder
        assert folder is not None  # noqa: S101 - for the type checker; the caller has looked
        path = folder / f"{name}.safetensors"
        if path.exists():
            return _filled(make(), path, key)
        with _made(folder), _locked(folder / f".{name}.lock", keep_going):
            if path.exists():
                return _filled(make(), path, key)
            network = train(make())
            facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": key}
            save_tensors(path, network.state_dict(), facts)
            return network


@contextmanager
def _made(folder: Path) -> Iterator[None]:
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
def _locked(path: Path, keep_going: Callable[[], None]) -> Iterator[None]:
    """Hold a lock, waiting for other processes; its file goes with it."""
    lock = FileLock(path)
    while True:
        keep_going()
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            time.sleep(PATIENCE)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _filled(network: Network, path: Path, key: Key) -> Network:
    """A network with the weights of a file.

    Raises:
        InputError: the file is damaged, or of another network.
    """
    tensors, facts = load_tensors(path)
    advice = "remove the file, and the network is trained again"
    if facts.get("format") != FORMAT or digest(facts.get("key")) != digest(key):
        raise InputError(f"{path}: not the network that its name says; {advice}.")
    device = next(network.parameters()).device
    try:
        network.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors do not fit the network; {advice}.") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path}: a weight is not finite; {advice}.")
    return network.eval().requires_grad_(False)


# ---- what is on disk -----------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredNetwork:
    """A network on disk."""

    path: Path
    key: Key
    bytes: int
    """Size of its file."""
    modified: float
    """Seconds since 1970 when it was written."""


def stored_networks(folder: Path) -> Iterator[StoredNetwork]:
    """The networks in a folder and the folders within, the oldest first; other files and damaged ones are left out."""
    paths = sorted(folder.rglob(f"{FOLDER}/*.safetensors") if folder.name != FOLDER else folder.glob("*.safetensors"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            with safe_open(path, framework="pt") as file:
                facts = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
        except (SafetensorError, OSError, ValueError):
            continue
        if facts.get("format") == FORMAT and isinstance(facts.get("key"), dict):
            yield StoredNetwork(path, facts["key"], path.stat().st_size, path.stat().st_mtime)
