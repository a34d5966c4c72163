"""Randomness as a function of (seed, purpose, step, class), never of history.

Every draw in ltdd takes a private generator from here, so an interrupted run that is resumed, a run split
over processes and an uninterrupted run see the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(seed: int, purpose: str, step: int = 0, label: int | None = None) -> int:
    """A 63-bit seed for one purpose at one step; different arguments give unrelated seeds."""
    if label is not None:
        purpose = f"{purpose} of class {label}"
    digest = hashlib.blake2b(f"{seed}|{purpose}|{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, step: int = 0, label: int | None = None) -> torch.Generator:
    """A private CPU generator.  Draw on the CPU and move the result: every device sees the same numbers.

    Args:
        seed: of the run.
        purpose: names what is drawn; another purpose gives unrelated numbers.
        step: of the matcher, or another number that tells draws of one purpose apart.
        label: the class that is drawn for.  What is drawn for one class then does not depend on the others, so that
            classes can be worked on apart, in any order.
    """
    return torch.Generator().manual_seed(seed_for(seed, purpose, step, label))


@contextmanager
def global_generator(seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """Seed torch's global generators inside the block and put them back as they were.

    For code that cannot be handed a generator: the constructors and dropout of ``torch.nn``.
    """
    number = seed_for(seed, purpose, step)
    # A GPU that is not in use stays untouched: its generator is nobody's business, and asking costs memory.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed(number)
        yield


@contextmanager
def seeded_by(draws: torch.Generator) -> Iterator[None]:
    """Seed torch's global generator from a private one inside the block, and put it back as it was.

    For code that draws from the global generator, such as the transforms of torchvision.

    Args:
        draws: on the CPU; it moves on by one number.
    """
    seed = int(torch.randint(2**62, (), generator=draws))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
