"""Find, isolate, choose and list plugins.

Every call of :func:`load_plugins` makes a fresh manager.  The order of loading is: built-ins by name,
then everybody else by name; so a stranger's package can never take a built-in's name, and the order in
which packages lie on the path does not matter.  A plugin that cannot be loaded is kept with its reason.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set as AbstractSet
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points, version
from traceback import walk_tb
from typing import Any

import pluggy
from packaging.requirements import Requirement

from ltdd_core import hookspecs
from ltdd_core.errors import InputError, unknown
from ltdd_core.plugging.interrupts import real_interrupts

GROUP = "ltdd"
BLOCK_VARIABLE = "LTDD_BLOCK_PLUGINS"
LOAD_VARIABLE = "LTDD_LOAD_PLUGINS"
TRACE_VARIABLE = "LTDD_TRACE_PLUGINS"
SLOW_IMPORT = 0.5
"""Seconds; every command waits for the import of every plugin."""


def one_line(error: BaseException) -> str:
    """The type of an error and what it says, without line breaks and not at any length."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...").rstrip(": ")


class PluginFailed(Exception):
    """Code of a plugin raised ``error``, whatever that is: an exit and an interrupt of its own, too."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(one_line(error))
        self.error = error


@contextmanager
def plugin_code() -> Iterator[None]:
    """Run somebody else's code: what it prints goes to stderr, and it cannot end the command.

    Raises:
        PluginFailed: the code raised something.
        KeyboardInterrupt: the user pressed Ctrl-C meanwhile.
    """
    with real_interrupts() as pressed:
        try:
            with redirect_stdout(sys.stderr):
                yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and pressed():
                raise
            raise PluginFailed(error) from error


@dataclass
class Plugin:
    """One entry point and what became of it."""

    name: str
    distribution: str
    version: str
    target: str
    state: str = "installed"
    """``built-in``, ``installed``, ``blocked`` or ``broken``."""
    error: BaseException | None = None
    seconds: float = 0.0
    """How long its entry module took to import."""

    @property
    def reason(self) -> str:
        """Why it is broken, in one line; empty when it is not."""
        return "" if self.error is None else one_line(self.error)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass
class Plugins:
    """All plugins there are, and a way to call the hooks of one or of some of them."""

    manager: pluggy.PluginManager
    listed: list[Plugin] = field(default_factory=list)

    @property
    def usable(self) -> Iterator[Plugin]:
        """The plugins whose hooks can be called, in loading order."""
        return (plugin for plugin in self.listed if plugin.state in ("built-in", "installed"))

    def call(self, plugin: Plugin, hook: str, **arguments: Any) -> Any:
        """Call ``hook`` of one plugin; its result, or None when it does not implement the hook.

        With ``LTDD_TRACE_PLUGINS=1`` every call says so on stderr.
        """
        mine = self.manager.get_plugin(plugin.name)
        others = [registered for registered in self.manager.get_plugins() if registered is not mine]
        traced = os.environ.get(TRACE_VARIABLE, "") not in ("", "0") and hasattr(mine, hook)
        if traced:
            print(f"{plugin.name} ({plugin}): {hook}({', '.join(arguments)})", file=sys.stderr, flush=True)  # noqa: T201
        results = self.manager.subset_hook_caller(hook, others)(**arguments)
        if traced and results:
            print(f"{plugin.name}: {hook} -> {textwrap.shorten(repr(results[0]), 200)}", file=sys.stderr)  # noqa: T201
        return results[0] if results else None

    def watches(self, plugin: Plugin) -> bool:
        """Whether ``--plugin NAME`` lets it watch runs."""
        mine = self.manager.get_plugin(plugin.name)
        hooks = [caller.name for caller in self.manager.get_hookcallers(mine) or []] if mine is not None else []
        return any(not name.startswith("ltdd_register_") and name != "ltdd_choose" for name in hooks)

    def set_broken(self, plugin: Plugin, error: BaseException) -> None:
        """Take a plugin out of service and keep the reason."""
        if self.manager.has_plugin(plugin.name):
            self.manager.unregister(name=plugin.name)
        plugin.state, plugin.error = "broken", error

    def at_fault(self, error: BaseException) -> Plugin | None:
        """The stranger's plugin in whose code, or in what that code called, an error was raised; the innermost."""
        strangers = {_package(plugin.target): plugin for plugin in self.usable if plugin.state == "installed"}
        for frame, _ in reversed(list(walk_tb(error.__traceback__))):
            plugin = strangers.get(_package(frame.f_globals.get("__name__", "")))
            if plugin is not None:
                return plugin
        return None

    def named(self, names: Iterable[str]) -> list[Plugin]:
        """The plugins that a user names with ``--plugin``.

        Raises:
            InputError: there is no such plugin, or it is broken or blocked.
        """
        by_name: dict[str, Plugin] = {}
        for plugin in self.listed:  # whoever came first has the name; a later one is broken for it
            by_name.setdefault(plugin.name, plugin)
        chosen = []
        for name in dict.fromkeys(names):
            if name not in by_name:
                raise unknown("plugin", name, by_name)
            plugin = by_name[name]
            if plugin.state in ("broken", "blocked"):
                raise InputError(f"plugin {name!r} ({plugin}) is {plugin.state}. {plugin.reason}".rstrip())
            chosen.append(plugin)
        return chosen


@dataclass
class Observers:
    """The active plugins of a run, told what happens.  One that raises is reported once and left out."""

    plugins: Plugins
    active: list[Plugin]
    warn: Callable[[str], None]
    detached: dict[str, str] = field(default_factory=dict)

    def tell(self, hook: str, **facts: Any) -> None:
        """Call an observing hook of every active plugin."""
        for plugin in self.active:
            if plugin.name in self.detached:
                continue
            try:
                self.plugins.call(plugin, hook, **facts)
            except (Exception, SystemExit) as error:  # a watcher must never stop what it watches
                self.detached[plugin.name] = f"{hook}: {one_line(error)}"
                self.warn(
                    f"plugin {plugin.name!r} ({plugin}) raised in {hook} and watches no longer: {one_line(error)}"
                )


def load_plugins(block: Sequence[str] = ()) -> Plugins:
    """Load every installed plugin, one at a time.

    ``LTDD_BLOCK_PLUGINS=a,b`` blocks some; ``LTDD_LOAD_PLUGINS=a,b`` loads only those beside the
    built-ins (empty: none of them).

    Raises:
        InputError: one of these variables names a plugin that there is not.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    # The metadata of a package with many plugins are parsed once, not once a plugin: every command waits for this.
    described, checked = cache(_described), cache(_check_version)
    entries = sorted(entry_points(group=GROUP), key=lambda entry: _loading_order(entry, described(entry.dist)[0]))
    there = {entry.name for entry in entries}
    blocked = {*block, *_listed_in(BLOCK_VARIABLE, there)}
    allowed = _listed_in(LOAD_VARIABLE, there) if LOAD_VARIABLE in os.environ else None
    for entry in entries:
        plugin = _plugin(entry, *described(entry.dist))
        if any(listed.name == plugin.name and listed.target == plugin.target for listed in plugins.listed):
            continue  # one distribution can be seen twice on the path
        plugins.listed.append(plugin)
        stranger = plugin.state != "built-in"
        if plugin.name in blocked or (stranger and allowed is not None and plugin.name not in allowed):
            plugin.state = "blocked"
            continue
        _load(plugins, plugin, entry, checked)
    return plugins


def _load(
    plugins: Plugins, plugin: Plugin, entry: EntryPoint, check_version: Callable[[Distribution | None], None]
) -> None:
    if plugins.manager.has_plugin(plugin.name):
        plugin.state, plugin.error = "broken", ValueError(f"another plugin is already called {plugin.name!r}")
        return
    began = time.perf_counter()
    try:
        with plugin_code():
            check_version(entry.dist)
            plugins.manager.register(entry.load(), name=plugin.name)
            plugins.manager.check_pending()
    except PluginFailed as failed:
        plugins.set_broken(plugin, failed.error)
    plugin.seconds = time.perf_counter() - began


def _check_version(distribution: Distribution | None) -> None:
    """Say it in words where a package was installed against another ltdd than it asks for (``pip --no-deps``)."""
    ours = version("ltdd")
    for line in (distribution.requires if distribution else None) or []:
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if wanted.name == "ltdd" and applies and not wanted.specifier.contains(ours, prereleases=True):
            raise ImportError(f"it needs {wanted}, and this is ltdd {ours}")


def _package(module: str) -> str:
    """The top-level package of a module, or of an entry point ``module:object``."""
    return module.partition(":")[0].partition(".")[0]


def _described(distribution: Distribution | None) -> tuple[str, str]:
    """The name and the version of a package."""
    return (distribution.name, distribution.version) if distribution else ("unknown", "?")


def _plugin(entry: EntryPoint, package: str, version: str) -> Plugin:
    state = "built-in" if package == "ltdd" else "installed"
    return Plugin(entry.name, package, version, entry.value, state)


def _loading_order(entry: EntryPoint, package: str) -> tuple[bool, str, str]:
    return (package != "ltdd", entry.name, entry.value)


def _listed_in(variable: str, there: AbstractSet[str]) -> set[str]:
    """The names in a variable.

    Raises:
        InputError: there is no plugin of such a name: the one that is meant would be loaded, or left out, unnoticed.
    """
    names = {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}
    for name in sorted(names - there):
        raise InputError(f"{variable}: {unknown('plugin', name, there)}")
    return names
