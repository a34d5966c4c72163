"""Ablations of the two-stage head, as measured in docs/results/two-stage.md: ``--plugin ablations``.

This package builds on :mod:`ltdd_twostage`, the only plugin here that imports another.
"""

from __future__ import annotations

from collections.abc import Mapping

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """The two-stage head with the variants that were measured."""
    register("twostage-ablations", "ltdd_ablations.head:AblationsHead")


@hookimpl
def ltdd_choose() -> Mapping[str, str]:
    """The head, and the recipe of two-stage classification."""
    return {"head": "twostage-ablations", "recipe": "hierarchical"}
