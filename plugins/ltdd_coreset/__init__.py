"""Real images instead of synthetic ones: ``--method coreset --sampler NAME``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """The baseline of every method."""
    register("coreset", "ltdd_coreset.matcher:Coreset")
