"""The mean answer of several networks: ``--head ensemble``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """The control for every classifier that has more than one network."""
    register("ensemble", "ltdd_ensemble.head:EnsembleHead")
