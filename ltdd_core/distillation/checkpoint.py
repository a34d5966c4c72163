"""Put a matcher back to where a run or a step began, or refuse a checkpoint that is not of this run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ltdd_core.distillation.matcher import Matcher
from ltdd_core.errors import InputError, reason_of
from ltdd_core.runs.checkpoint import BEGIN_AGAIN
from ltdd_core.storage import digest_of

SMALL_STATE, LARGE_STATE = 16 * 2**20, 512 * 2**20
"""Bytes of a state that is copied before every step, and of one on the CPU that is never copied."""


@dataclass(frozen=True)
class Before:
    """The state of a matcher before a step, to go back to if a signal ends the step."""

    copy: Mapping[str, Tensor] | None = None
    digest: str | None = None
    """Of a state that is too large to be there twice: steps that change their state at the end can be ended before."""

    @classmethod
    def of(cls, matcher: Matcher, *, slow: bool) -> Before:
        """Remember a state, unless that would cost much of the step.

        Args:
            matcher: before the step.
            slow: whether its steps are slow enough for a state of any size.
        """
        state = matcher.state()
        size = sum(tensor.nbytes for tensor in state.values())
        if not slow and size > SMALL_STATE:
            return cls()
        if size > LARGE_STATE and all(tensor.device.type == "cpu" for tensor in state.values()):
            return cls(digest=digest_of(state))
        return cls({name: tensor.detach().clone() for name, tensor in state.items()})

    def is_back(self, matcher: Matcher) -> bool:
        """Whether the matcher has this state now: it is put back, or was never changed."""
        if self.copy is not None:
            matcher.load_state(self.copy)
            return True
        return self.digest is not None and self.digest == digest_of(matcher.state())


def restore(matcher: Matcher, step: int, state: Mapping[str, Tensor], *, total: int, path: Path) -> None:
    """Load a state into a prepared matcher, and see that it is there.

    Args:
        matcher: after its ``prepare``.
        step: how many steps the state has seen.
        state: from the checkpoint.
        total: steps of the whole run.
        path: of the checkpoint.

    Raises:
        InputError: the checkpoint is damaged, or of another run.
    """
    if step > total:
        raise InputError(f"{path} is of step {step}, and the run has {total} steps. {BEGIN_AGAIN}")
    try:
        matcher.load_state(state)
        restored = matcher.state()
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} does not fit the run ({reason_of(error)}). {BEGIN_AGAIN}") from error
    for name in sorted({*state, *restored}):
        if name not in state or name not in restored or not _same(state[name], restored[name]):
            raise InputError(f"{path} does not fit the run: {name!r} is another. {BEGIN_AGAIN}")


def _same(stored: Tensor, restored: Tensor) -> bool:
    """Whether a matcher holds what was stored, on whatever device and in whatever precision."""
    return torch.equal(stored.to(restored.dtype), restored.detach().cpu())
