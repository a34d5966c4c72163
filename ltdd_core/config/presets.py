"""What a preset says of itself: its options, where their values come from, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltdd_core.errors import InputError
from ltdd_core.plugging.catalog import Catalog

SOURCES, ABOUT = "sources", "about"
"""The keys of a preset under which it says where its values come from, and what it is, in a sentence or two."""


def preset_sources(catalog: Catalog, name: str) -> dict[str, str]:
    """Where the values of a preset come from, by the path of an option or of its section.

    Raises:
        InputError: there is no preset of that name, or it is not a mapping, or its sources are none.
    """
    sources = preset_tree(catalog, name).get(SOURCES, {})
    texts = isinstance(sources, Mapping) and all(isinstance(text, str) for item in sources.items() for text in item)
    if not texts:
        raise InputError(f"preset {name!r}: {SOURCES!r} maps paths of options to texts.")
    return dict(sources)


def preset_about(catalog: Catalog, name: str) -> str:
    """What a preset is, in its own words; "" where it says nothing.

    Raises:
        InputError: there is no preset of that name, or it is not a mapping, or what it says is no text.
    """
    about = preset_tree(catalog, name).get(ABOUT, "")
    if not isinstance(about, str):
        raise InputError(f"preset {name!r}: {ABOUT!r} is a text.")
    return about


def preset_tree(catalog: Catalog, name: str) -> Mapping[str, Any]:
    """All that a preset says.

    Raises:
        InputError: there is none of that name, or it is not a mapping.
    """
    entry = catalog.get("preset", name)
    tree = entry.load()
    if not isinstance(tree, Mapping):
        raise InputError(f"preset {name!r} of plugin {entry.owner.name!r} ({entry.owner}) is not a mapping.")
    return tree
