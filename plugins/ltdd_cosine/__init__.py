"""A classifier that compares directions and not lengths: ``--head cosine``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """One head."""
    register("cosine", "ltdd_cosine.cosine:CosineHead")
