"""Hierarchical training: each stage of a classifier has its own training set (``--recipe hierarchical``)."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_recipes(register: Register) -> None:
    """One recipe."""
    register("hierarchical", "ltdd_hierarchical.recipe:Hierarchical")
