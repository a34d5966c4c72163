"""Data sets in the format of Hugging Face: ``--data hf:FOLDER`` and ``--data hf:NAME``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_datasets(register: Register) -> None:
    """All data sets that the library ``datasets`` reads, as one data source."""
    register("hf", "ltdd_huggingface.source:HuggingFace")
