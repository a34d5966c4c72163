"""What to try when a run does not fit into memory or does not converge: options that the run really has."""

from __future__ import annotations

from collections.abc import Sequence

from ltdd_core.config.model import Config, Selection
from ltdd_core.errors import how_to_set


def against_memory(config: Config) -> str:
    """What to make smaller, as the end of a sentence about too little memory."""
    smaller = [*_had(config.matcher, ["batch_real"]), "ipc", *_had(config.data, ["image_size"])]
    return f"try {how_to_set('compute.chunk', 'N')} with a small N, or a smaller {' or '.join(smaller)}."


def against_divergence(config: Config) -> str:
    """How to get a smaller learning rate, without the full stop."""
    rates = _had(config.matcher, ["lr_img"])
    if rates:
        return f"try a smaller learning rate of the images ({how_to_set(rates[0], '...')})"
    return f"try a smaller learning rate, if the method has one (ltdd describe matcher {config.matcher.name})"


def _had(component: Selection, names: Sequence[str]) -> list[str]:
    """The paths of those options that the component has."""
    return [f"{component.kind}.{name}" for name in names if name in type(component.options).model_fields]
