"""Names of classes and files, which are the same to a reader in each form of Unicode: macOS decomposes them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence


def composed(name: str) -> str:
    """A name in the composed form of Unicode (NFC)."""
    return unicodedata.normalize("NFC", name)


def labels_by_name(class_names: Sequence[str]) -> dict[str, int]:
    """The label of each class, for :func:`found_by_name`.

    Args:
        class_names: in the order of the labels.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    return {**{composed(name): label for name, label in labels.items()}, **labels}


def found_by_name(numbers: Mapping[str, int], name: str) -> int | None:
    """What a name stands for, as it is written or in the composed form; None where it stands for nothing.

    Args:
        numbers: by names, each also in the composed form.
        name: in any form.
    """
    return numbers.get(name, numbers.get(composed(name)))
