"""Write the package of a new plugin: it works as it is, and its author changes the equation.

What it writes stands in ``templates``: one file for the module of each kind, and those that all packages have.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from ltdd_core.errors import InputError, unknown
from ltdd_core.plugging.catalog import KINDS as HOOKS, Catalog, noun

COMMANDS: Mapping[str, str] = {
    "matcher": "ltdd distill --method {name}",
    "sampler": "ltdd train --sampler {name}",
    "augmentation": "ltdd train --set training.original.augment={name}",
    "labeller": "ltdd distill --method {method} --labeller {name}",
    "head": "ltdd train --head {name}",
    "recipe": "ltdd distill --method {method} --recipe {name}",
    "data": "ltdd data show --data {name}",
    "network": "ltdd train --network {name}",
    "launcher": "ltdd bench grid.yaml --launcher {name}",
}
"""What shows a new component of a kind at work: ``{name}`` is the component, ``{method}`` some method."""
KINDS = tuple(COMMANDS)


def new_plugin(name: str, kind: str, parent: Path, catalog: Catalog) -> tuple[Path, str]:
    """Write the package ``parent / ltdd-NAME``.

    Args:
        name: of the plugin and of its component: lower case, digits and dashes, as it will be named on command lines.
        kind: one of :data:`KINDS`.
        parent: where the folder goes.
        catalog: what is installed; its names are taken.

    Returns:
        The folder, and a command that shows the plugin at work once it is installed.

    Raises:
        InputError: the name is not one, or is taken; the kind is unknown; the folder is there, or cannot be written.
    """
    _check(name, kind, catalog)
    folder = parent / f"ltdd-{name}"
    if folder.exists():
        raise InputError(f"{folder} is there already: remove it, or choose another name or --out.")
    facts = _facts(name, kind, catalog)
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        f"{facts['package']}/__init__.py": "init.py.j2",
        f"{facts['package']}/{kind}.py": f"{kind}.py.j2",
        "tests/test_contract.py": "test.py.j2",
    }
    _write(folder, {path: _rendered(template, facts) for path, template in files.items()})
    return folder, facts["command"]


def _check(name: str, kind: str, catalog: Catalog) -> None:
    """See that the kind exists, and that the name is one and is free.

    Raises:
        InputError: it is not so.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise InputError(
            f"{name!r} is no name for a plugin: lower-case letters, digits and single dashes, as in my-{kind}."
        )
    if name in catalog.names(kind) or name in {plugin.name for plugin in catalog.plugins.listed}:
        raise InputError(f"{name!r} is taken by what is installed already: ltdd plugins lists it; choose another name.")


def _facts(name: str, kind: str, catalog: Catalog) -> dict[str, str]:
    """What the templates need to know."""
    words = name.split("-")
    method = next(iter(catalog.names("matcher")), "NAME")
    return {
        "name": name,
        "kind": kind,
        "noun": noun(kind),
        "hook": HOOKS[kind],
        "package": f"ltdd_{'_'.join(words)}",
        "cls": "".join(word.capitalize() for word in [*words, *noun(kind).split()]),
        "about": f"The {noun(kind)} {name}",
        "version": version("ltdd"),
        "command": COMMANDS[kind].format(name=name, method=method),
    }


def _rendered(template: str, facts: Mapping[str, str]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: ltdd --help needs the kinds alone

    files = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(  # noqa: S701 - Python and TOML, not HTML
        loader=files, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(facts)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All files, by their path in the folder, or none."""
    from ltdd_core.storage import writing  # here: it imports torch

    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for path, text in files.items():
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / path).write_text(text, encoding="utf-8")
            unfinished.chmod(0o755)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
