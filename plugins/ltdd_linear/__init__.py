"""The plain classifier: a linear head trained on one set (``--head linear``, ``--recipe direct``)."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """The head of every network."""
    register("linear", "ltdd_linear.linear:LinearHead")


@hookimpl
def ltdd_register_recipes(register: Register) -> None:
    """Everything on the distilled set."""
    register("direct", "ltdd_linear.linear:Direct")
