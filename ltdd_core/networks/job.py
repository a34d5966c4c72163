"""A network that is to be trained: what decides it, how it is made, and how it is trained from where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ltdd_core.errors import InputError
from ltdd_core.identity import digest
from ltdd_core.networks.network import Network

Key = dict[str, Any]
"""All that decides a network, as JSON."""
FORMAT, TRAJECTORY, ARTEFACT, UNFINISHED = "ltdd-network", "ltdd-trajectory", "ltdd-artefact", "ltdd-unfinished"
FORMAT_VERSION = 1
ADVICE = "remove the file, and the network is trained again"


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch of a training."""

    done: int
    """How many epochs the network has behind it."""
    loss: float
    """Mean over the images of the epoch."""
    state: Callable[[], dict[str, Tensor]]
    """All that the next epoch depends on, beside ``done``; not copied."""


@dataclass(frozen=True)
class Start:
    """Where a training begins."""

    done: int = 0
    """How many epochs the network has behind it."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """As :attr:`Epoch.state` gave it; empty: the network is where it should be, and nothing else is remembered."""


@dataclass(frozen=True)
class Length:
    """How long a training is."""

    data: str = ""
    """The name of the set that it is trained on."""
    steps: int = 0
    """Of all its epochs."""
    images: int = 0
    """In a step, or one more than in some of them."""
    seen: int = 0
    """Images of all steps together."""


@dataclass(frozen=True)
class Job:
    """A network that is to be trained."""

    key: Key | None
    """All that decides it; None where that cannot be told."""
    make: Callable[[], Network]
    """Makes it with its initial weights."""
    train: Callable[[Network, Start, Callable[[Epoch], None]], Network]
    """``(network, start, after_epoch) -> network``: trains it and returns it, in evaluation mode and frozen.
    ``after_epoch`` is told of each epoch at its end.
    """
    ready: Callable[[Network], Network] = lambda network: network
    """What becomes of a trained network before it is handed out, such as compiling it."""
    epochs: int = 1
    extendable: Callable[[], bool] = lambda: False
    """Whether a training of more epochs begins as this one does, so that this one can be extended later."""
    length: Length = Length()
    """How long its training is, for those who want to know how long it will take."""
    first_step: Callable[[Network], int] = lambda network: 0
    """Takes the first step of the training with a network that :attr:`make` made, for those who count or measure what a
    step takes; says with how many images.
    """
    training: Any = None
    """What trains it, for those who train several at once."""


def check_facts(path: Path, facts: Mapping[str, Any], kind: str, key: Key) -> None:
    """Refuse a file of another version, of another kind, or of another network.

    Raises:
        InputError: saying which.
    """
    if facts.get("format") != kind or digest(facts.get("key")) != digest(key):
        raise InputError(f"{path}: not the network that its name says; {ADVICE}.")
    if facts.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: written by another version of ltdd; {ADVICE}.")


def seconds_in(facts: Mapping[str, Any]) -> float | None:
    """The seconds of training that a file notes; None in one of an earlier version, which notes none."""
    seconds: Any = facts.get("seconds")
    return float(seconds) if type(seconds) in (int, float) and seconds >= 0 else None
