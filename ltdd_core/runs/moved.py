"""Where the files are that a run works with, when it goes on from another folder, or when it or they have moved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ltdd_core.config.layers import COMPONENTS
from ltdd_core.config.model import Config


def paths_of(config: Config) -> dict[str, str]:
    """The absolute path of every option that is a path and is set, by its place: ``data.root``, ``compute.store``.

    What a component has is noted if it is there from here; a list of images, say, may be named within ``data.root``.
    """
    sections = {kind: getattr(config, kind).options for kind in COMPONENTS} | {"compute": config.compute}
    return {
        place: os.path.abspath(path)  # noqa: PTH100 - links stay
        for kind, options in sections.items()
        for place, path in _paths(options, kind)
        if kind == "compute" or os.path.exists(path)  # noqa: PTH110
    }


def _paths(options: Any, place: str) -> Iterator[tuple[str, Path]]:
    for name in type(options).model_fields if isinstance(options, BaseModel) else ():
        value = getattr(options, name)
        if isinstance(value, Path):
            yield f"{place}.{name}", value
        else:
            yield from _paths(value, f"{place}.{name}")


def found_again(tree: Mapping[str, Any], known: Mapping[str, str], run_before: str, run: Path) -> dict[str, Any]:
    """The configuration of a run with the paths under which its files are found from here.

    A file is looked for where the run had it, then where the path as it is written leads to from here, then in the
    place that it had beside the run, which may have moved together with it.  If it is nowhere, the place where the run
    had it stays in the configuration, so that a message names it.

    Args:
        tree: the configuration as the run has written it.
        known: the absolute paths that the run had, from :func:`paths_of`.
        run_before: the absolute path that the folder of the run had then.
        run: its folder now.
    """
    return {
        key: _section(branch, key, known, run_before, run) if isinstance(branch, Mapping) else branch
        for key, branch in tree.items()
    }


def _section(tree: Mapping[str, Any], place: str, known: Mapping[str, str], before: str, run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inside = f"{place}.{key}"
        if isinstance(value, Mapping):
            found[key] = _section(value, inside, known, before, run)
        elif isinstance(value, str) and inside in known:
            found[key] = _place(value, known[inside], before, run)
        else:
            found[key] = value
    return found


def _place(written: str, had: str, before: str, run: Path) -> str:
    """One path: as it is written where that is right, else where the file is."""
    from_here = os.path.abspath(os.path.expanduser(os.path.expandvars(written)))  # noqa: PTH100, PTH111 - as options.expanded
    if from_here == had and os.path.exists(had):  # noqa: PTH110
        return written
    try:
        beside = os.path.normpath(run.absolute() / os.path.relpath(had, before))
    except ValueError:  # another drive
        beside = had
    return next((place for place in (had, from_here, beside) if os.path.exists(place)), had)  # noqa: PTH110
