"""Put a matcher back to where a run stopped, or refuse a checkpoint that is not of this run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ltdd_core.distillation.matcher import Matcher
from ltdd_core.errors import InputError, reason_of
from ltdd_core.runs.checkpoint import BEGIN_AGAIN


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
