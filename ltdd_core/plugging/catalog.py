"""Name -> component and its owner, one table a kind.  Clashes are refused, never renamed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ltdd_core.errors import InputError, brief, unknown
from ltdd_core.plugging.loading import Plugin, PluginFailed, Plugins, load_plugins, plugin_code

KINDS: Mapping[str, str] = {
    "data": "ltdd_register_datasets",
    "sampler": "ltdd_register_samplers",
    "network": "ltdd_register_networks",
    "matcher": "ltdd_register_matchers",
    "labeller": "ltdd_register_labellers",
    "augmentation": "ltdd_register_augmentations",
    "head": "ltdd_register_heads",
    "recipe": "ltdd_register_recipes",
    "preset": "ltdd_register_presets",
    "launcher": "ltdd_register_launchers",
}
"""The kinds of things that plugins name, in the order a run meets them, and the hook that asks for them."""
INTERFACES: Mapping[str, str] = {
    "data": "DataSource",
    "sampler": "Sampler",
    "network": "Network",
    "matcher": "Matcher",
    "labeller": "Labeller",
    "augmentation": "TrainingAugmentation",
    "head": "ClassifierHead",
    "recipe": "Recipe",
    "launcher": "Launcher",
}
"""What a component of a kind is a subclass of, by its public name in ``ltdd_core``; imported with a component only,
since interfaces need torch."""


def noun(kind: str) -> str:
    """What a sentence calls a component of a kind."""
    return "data source" if kind == "data" else kind


@dataclass(frozen=True)
class Entry:
    """A name, what stands behind it and who offers it."""

    kind: str
    name: str
    target: Any
    owner: Plugin

    def load(self) -> Any:
        """The component itself; imported now if it was registered as ``"module:Class"``.

        Raises:
            InputError: the module or the class is not there, or is no finished component of its kind; the message
                names the plugin.
        """
        component = self._imported() if isinstance(self.target, str) else self.target
        if self.kind in INTERFACES:
            self._check(component)
        return component

    def missing_module(self) -> str | None:
        """The module that it is registered to lie in, if that is not installed; nothing is imported to find out.

        Only the top of a package that nobody has imported yet is looked for.
        """
        if not isinstance(self.target, str):
            return None
        module = self.target.partition(":")[0]
        parent = module.rpartition(".")[0]
        looked_for = module if not parent or parent in sys.modules else module.partition(".")[0]
        try:
            spec = importlib.util.find_spec(looked_for)
        except (ImportError, ValueError):  # its parent is no package; it is no name of a module
            spec = None
        return None if spec else module

    def _check(self, component: Any) -> None:
        interface = getattr(importlib.import_module("ltdd_core"), INTERFACES[self.kind])
        owner = f"{noun(self.kind)} {self.name!r} of plugin {self.owner.name!r} ({self.owner})"
        if not (isinstance(component, type) and issubclass(component, interface)):
            raise InputError(f"{owner} is no subclass of {interface.__name__}.")
        missing = sorted(getattr(component, "__abstractmethods__", ()))
        if missing:
            raise InputError(f"{owner} is not finished: its class {component.__name__} has no {', '.join(missing)}.")
        finished: Any = component
        if finished.argument is not None and finished.argument not in finished.Options.model_fields:
            raise InputError(f"{owner} is not finished: its argument {finished.argument!r} is no option of it.")

    def _imported(self) -> Any:
        module, _, attribute = self.target.partition(":")
        try:
            with plugin_code():
                return getattr(importlib.import_module(module), attribute)
        except PluginFailed as failed:
            raise InputError(
                f"{noun(self.kind)} {self.name!r} of plugin {self.owner.name!r} ({self.owner}) cannot be loaded from "
                f"{self.target!r}: {failed}. Its traceback: ltdd plugins {self.owner.name}"
            ) from failed.error


class Catalog:
    """Everything that can be named."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self._tables: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        for plugin in list(plugins.usable):
            self._ask(plugin)

    def get(self, kind: str, name: str) -> Entry:
        """The entry of that kind and name.

        Raises:
            InputError: no such name; the message has the nearest one.
        """
        table = self._tables[kind]
        if name not in table:
            raise unknown(noun(kind), name, table)
        return table[name]

    def spelt_out(self, kind: str, section: Mapping[str, Any]) -> dict[str, Any]:
        """A section whose name has an argument, with the option that it gives.

        ``{"name": "timm:resnet18"}`` becomes ``{"name": "timm", "model": "resnet18"}``; a plain name stays as it is.

        Raises:
            InputError: no such name, one that takes no argument, an empty argument, or an option that is said twice.
        """
        text = section.get("name")
        if not isinstance(text, str) or ":" not in text:
            return dict(section)
        name, _, value = text.partition(":")
        option = getattr(self.get(kind, name).load(), "argument", None)
        if option is None:
            raise InputError(f"{noun(kind)} {name!r} takes nothing after a colon: write {name!r}, not {text!r}.")
        if not value:
            raise InputError(f"{noun(kind)} {text!r}: nothing follows the colon; write {name}:{option.upper()}.")
        if option in section:
            raise InputError(f"{noun(kind)} {text!r} and its option {option!r} say the same; keep one.")
        return {**section, "name": name, option: value}

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        return sorted(self._tables[kind])

    def add(self, kind: str, name: str, component: Any) -> None:
        """One more, of this Python process; a plugin that has the name keeps it."""
        self._tables[kind].setdefault(name, Entry(kind, name, component, SESSION))

    def offered_by(self, plugin: Plugin) -> Iterator[Entry]:
        """What one plugin offers, kind by kind."""
        for table in self._tables.values():
            yield from (entry for entry in table.values() if entry.owner is plugin)

    def _ask(self, plugin: Plugin) -> None:
        """Collect a plugin's names; all of them count, or none if one clashes or a hook raises."""
        offers: dict[tuple[str, str], Entry] = {}
        try:
            with plugin_code():
                for kind, hook in KINDS.items():
                    self.plugins.call(plugin, hook, register=self._collector(offers, kind, plugin))
        except PluginFailed as failed:
            self.plugins.set_broken(plugin, failed.error)
            return
        for (kind, name), entry in offers.items():
            self._tables[kind][name] = entry

    def _collector(self, offers: dict[tuple[str, str], Entry], kind: str, plugin: Plugin) -> Any:
        def register(name: str, component: Any) -> None:
            if not isinstance(name, str) or not name:
                raise TypeError(f"register(name, component): the name of a {noun(kind)} must be text, not {name!r}")
            if ":" in name:
                raise ValueError(f"register(name, component): the name {name!r} of a {noun(kind)} must have no colon")
            owner = self._tables[kind][name].owner if name in self._tables[kind] else None
            if (kind, name) in offers:
                owner = plugin
            if owner is not None:
                raise ValueError(
                    f"{noun(kind)} {name!r} of {plugin.name!r} is already offered by {owner.name!r} ({owner})"
                )
            offers[kind, name] = Entry(kind, name, component, plugin)

        return register


def installed() -> Catalog:
    """Everything that is installed, or registered here, can be named; plugins are looked for anew at every call."""
    catalog = Catalog(load_plugins())
    for kind, name in _registered:
        catalog.add(kind, name, _registered[kind, name])
    return catalog


SESSION = Plugin("session", "this Python", "session", "__main__")
"""Who offers what :func:`register` was given."""
_registered: dict[tuple[str, str], Any] = {}


def register(kind: str, name: str, component: Any) -> None:
    """Let a component be named in this Python process, without a package; a notebook's own method, say.

    Registered again, a name stands for the new component, so a cell can be run twice.  A package with a plugin makes
    the name known to the command line and to others, too.

    Args:
        kind: ``"matcher"``, ``"head"``, ``"sampler"``, ``"data"``, ...: the kinds of ``ltdd describe``.
        name: what to call it.
        component: a class; for ``"preset"`` a mapping.

    Raises:
        InputError: there is no such kind, a plugin has the name, or the component is not finished.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if not isinstance(name, str) or not name or ":" in name:
        raise InputError(f"the name of a {noun(kind)} must be text without a colon, not {brief(name)}.")
    Entry(kind, name, component, SESSION).load()
    catalog = Catalog(load_plugins())
    if name in catalog.names(kind):
        owner = catalog.get(kind, name).owner
        raise InputError(f"plugin {owner.name!r} ({owner}) has a {noun(kind)} {name!r}: choose another name.")
    _registered[kind, name] = component
