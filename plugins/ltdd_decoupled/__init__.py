"""Train a plain network first and balance its last layer afterwards: ``--head crt|lws|tau-norm|ncm``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """The four classifiers of Kang et al."""
    register("crt", "ltdd_decoupled.heads:RetrainedHead")
    register("lws", "ltdd_decoupled.heads:ScaledHead")
    register("tau-norm", "ltdd_decoupled.heads:NormalisedHead")
    register("ncm", "ltdd_decoupled.heads:NearestMeanHead")
