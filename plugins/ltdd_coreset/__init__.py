"""Real images instead of synthetic ones: ``--method coreset --sampler random|herding|k-center``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """What every method has to be better than."""
    register("coreset", "ltdd_coreset.matcher:Coreset")
