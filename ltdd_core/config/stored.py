"""What of a stored configuration somebody once asked for.

It is stored with every option spelt out.  Those that were defaults, or followed from another option such as a preset
of the head, must not stand against what follows from the user's words now.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ltdd_core.config.layers import COMPONENTS, Layer, Tree, normalised, paths
from ltdd_core.config.resolve import resolve
from ltdd_core.errors import InputError
from ltdd_core.plugging.catalog import Catalog


def asked_for(catalog: Catalog, stored: Layer) -> Layer:
    """The least that resolves to the same configuration: names of components, and options that follow from no other.

    Options are tried from the last to the first, so of options that follow from each other the first declared stays.
    A configuration that does not resolve comes back as it is.

    Raises:
        InputError: a component is neither a name nor a mapping.
    """
    layer = normalised(stored)
    try:
        whole = resolve(catalog, [layer], distils=False)
    except InputError:
        return layer
    tree = layer.tree
    for path in reversed(list(paths(tree))):
        if path[1:] == ("name",) and path[0] in COMPONENTS:
            continue
        rest = _without(tree, path)
        try:
            same = resolve(catalog, [Layer(layer.origin, rest)], distils=False) == whole
        except InputError:
            continue
        tree = rest if same else tree
    return Layer(layer.origin, tree)


def _without(tree: Tree, path: Sequence[str]) -> Tree:
    rest = copy.deepcopy(tree)
    section: Any = rest
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    return rest
