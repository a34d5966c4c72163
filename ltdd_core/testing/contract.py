"""What a check says when a component breaks its contract: what is asked, and where it is written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ltdd_core.options import BaseOptions, option
from ltdd_core.plugging.loading import load_plugins
from ltdd_core.training.soft_labels import SoftLabels


class ContractError(AssertionError):
    """A component does not keep its contract."""


class Contract:
    """The contract of one component, as statements that must hold.

    Args:
        component: the class that is checked.
    """

    def __init__(self, component: type) -> None:
        self.name = component.__qualname__

    def must(self, holds: bool, where: Callable[..., Any], promise: str) -> None:
        """Raise :class:`ContractError` unless it holds; the docstring of ``where`` is where it is written."""
        if not holds:
            raise self.broken(where, promise)

    @contextmanager
    def works(self, where: Callable[..., Any], promise: str) -> Iterator[None]:
        """What raises in the block breaks the contract."""
        try:
            yield
        except ContractError:
            raise
        except Exception as error:
            text = f"{self.broken(where, promise)} It raised {type(error).__name__}: {error}"
            raise ContractError(text) from error

    @contextmanager
    def without_global_randomness(self, where: Callable[..., Any]) -> Iterator[None]:
        """The block leaves the global generators of torch, NumPy and Python as they were.

        Plugins are imported before: a library that one of them imports may draw (rich does), and the component that
        is checked is not to blame for that.
        """
        load_plugins()
        before = _global_states()
        yield
        for name, state in _global_states().items():
            self.must(state == before[name], where, f"nothing is drawn from the global generator of {name}")

    def options_are_described(self, options: type[BaseOptions]) -> None:
        """Each option says what it does."""
        for name, field in options.model_fields.items():
            self.must(bool(field.description), option, f"every option says what it does, and {name!r} does not")

    def broken(self, where: Callable[..., Any], promise: str) -> ContractError:
        """What is raised where a promise is broken."""
        return ContractError(
            f"{self.name} breaks its contract: {promise}. It is written at ltdd_core.{where.__qualname__}."
        )


def check_soft_labels(contract: Contract, soft: Any, shape: tuple[int, int], where: Callable[..., Any]) -> None:
    """Soft labels are finite, of every class, and probabilities unless they say that they are logits.

    Args:
        contract: of the component that gives them.
        soft: what it gives.
        shape: ``(images, classes)``.
        where: the method whose promise it is.

    Raises:
        ContractError: they are not.
    """
    contract.must(isinstance(soft, SoftLabels), where, "soft labels are SoftLabels")
    values = soft.values
    contract.must(tuple(values.shape) == shape, where, "soft labels are [n, classes]")
    contract.must(bool(torch.isfinite(values).all()), where, "soft labels are finite")
    if soft.kind == "probabilities":
        sums = bool(((values.sum(1) - 1).abs() < 1e-3).all())
        contract.must(sums, where, "soft labels sum to 1, or say that they are logits")
        contract.must(bool((values >= 0).all()), where, "soft labels are not negative, or say that they are logits")


def _global_states() -> dict[str, Any]:
    legacy: Any = np.random.get_state()  # noqa: NPY002 - the global generator is what is looked at
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "CUDA": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
        "NumPy": (legacy[0], legacy[1].tolist(), *legacy[2:]),
        "Python": random.getstate(),
    }
