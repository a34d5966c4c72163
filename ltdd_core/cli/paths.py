"""Paths that a user types."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class UserPath(click.Path):
    """A path, with ``~`` and variables such as ``$HOME`` in it replaced; a shell leaves that in ``--out=~/runs``."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        from ltdd_core.options import expanded

        return super().convert(expanded(Path(value)), param, ctx)


PATH = UserPath(path_type=Path)
"""The type of every argument and option that is a path."""
