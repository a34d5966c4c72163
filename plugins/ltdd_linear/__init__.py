"""The plain classifier, trained on one set: ``--head linear``, ``--head cosine``, ``--recipe direct``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """The head of every network, and the one that looks at directions only."""
    register("linear", "ltdd_linear.linear:LinearHead")
    register("cosine", "ltdd_linear.cosine:CosineHead")


@hookimpl
def ltdd_register_recipes(register: Register) -> None:
    """Everything on the distilled set."""
    register("direct", "ltdd_linear.linear:Direct")
