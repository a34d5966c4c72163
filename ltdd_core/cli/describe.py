"""``ltdd describe``: what a component is and which options it has."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from textwrap import wrap
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import click

from ltdd_core.cli.completion import choices, names
from ltdd_core.cli.settings import consoles, json_option
from ltdd_core.errors import InputError, unknown
from ltdd_core.plugging.catalog import KINDS, Catalog, installed

WIDTH = 100
"""Characters of a line of what a preset says of itself."""


@click.command("describe")
@click.argument("kind", shell_complete=choices(*KINDS, "run", "training", "compute"))
@click.argument("name", required=False, shell_complete=lambda ctx, arg, text: names(ctx.params["kind"])(ctx, arg, text))
@json_option
def command(kind: str, name: str | None, as_json: bool) -> None:
    """Describe the component NAME of a KIND.

    A KIND is data, sampler, network, matcher, labeller, augmentation, head, recipe, preset or launcher.

    Without NAME, list the components of that kind; `ltdd describe run|training|compute` lists the
    options that belong to no component.
    """
    from ltdd_core.config.model import Compute, RunOptions, Training
    from ltdd_core.config.presets import preset_about, preset_sources
    from ltdd_core.config.resolve import preset_layer, select

    console, _ = consoles(as_json)
    general = {"run": RunOptions, "training": Training, "compute": Compute}
    if kind in general:
        _show(console, as_json, kind, "", general[kind], prefix="" if kind == "run" else f"{kind}.")
        return
    if kind not in KINDS:
        raise unknown("kind", kind, [*KINDS, *general])
    catalog = installed()
    if name is None:
        _list(console, as_json, catalog, kind)
        return
    if kind == "preset":
        tree, sources = preset_layer(catalog, name).tree, preset_sources(catalog, name)
        about = preset_about(catalog, name)
        if as_json:
            click.echo(json.dumps({**({"about": about} if about else {}), **tree, "sources": sources}))
        else:
            click.echo("\n".join([*(f"# {line}" for line in wrap(about, WIDTH)), *_yaml_lines(tree, sources)]))
        return
    chosen = select(catalog, kind, {"name": name})
    component = chosen.component
    title = f"{kind} {name}, from {chosen.owner}"
    about = f"{_read_aloud(component)}\n\n{_read_aloud(sys.modules[component.__module__])}".strip()
    if component.argument is not None:
        about += f"\n\n{chosen.name}:{component.argument.upper()} is short for its option {component.argument}."
    suggested = getattr(component, "suggested", {})
    values = chosen.options if name != chosen.name else None
    _show(console, as_json, title, about, component.Options, prefix=f"{kind}.", suggested=suggested, values=values)


def _read_aloud(documented: object) -> str:
    """The docstring of a component or a module without its markup, which is for the pages of the documentation."""
    text = inspect.getdoc(documented) or ""
    return re.sub(r":[a-z]+:`~?([^`]+)`", r"\1", text).replace("``", "")


def _yaml_lines(tree: Mapping[str, Any], sources: Mapping[str, str], path: tuple[str, ...] = ()) -> Iterator[str]:
    """A preset as a configuration file that says where each value comes from."""
    import yaml

    indent = "  " * len(path)
    for key, value in tree.items():
        place = (*path, key)
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, sources, place)
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
        line = f"{indent}{key}: {text}"
        # The nearest section that has a source speaks for the options in it.
        above = (".".join(place[:length]) for length in range(len(place), -1, -1))
        source = next((sources[prefix] for prefix in above if prefix in sources), None)
        yield line if source is None else f"{line.ljust(24)}  # {source}"


def _list(console: Any, as_json: bool, catalog: Catalog, kind: str) -> None:
    """One line for each component of a kind; one that does not load costs the others nothing."""
    from ltdd_core.config.presets import preset_about

    rows = []
    for name in catalog.names(kind):
        entry, first = catalog.get(kind, name), ""
        try:
            about = preset_about(catalog, name) if kind == "preset" else _read_aloud(entry.load()).split("\n")[0]
            first = "" if kind == "preset" else getattr(entry.load(), "take_first", "")
        except InputError as error:
            about = str(error)
        row = {"name": entry.name, "about": about, "from": str(entry.owner)}
        rows.append({**row, "take_first": first} if first else row)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        shown = (row["name"], row["about"], f"({row['from']})")
        console.print("  ".join(part for part in shown if part), soft_wrap=True)
    for row in rows:
        if "take_first" in row:
            console.print(f"\nTake {row['name']} first: {row['take_first']}", soft_wrap=True)


def _show(
    console: Any,
    as_json: bool,
    title: str,
    about: str,
    options: Any,
    *,
    prefix: str,
    suggested: Mapping[str, Any] | None = None,
    values: Any = None,
) -> None:
    from ltdd_core.cli.rows import print_rows_of_text
    from ltdd_core.config.layers import flat

    rows = list(_rows(options, prefix, values))
    if as_json:
        document: dict[str, Any] = {"name": title, "about": about, "options": rows}
        if suggested:
            document["suggested"] = suggested
        click.echo(json.dumps(document, default=str))
        return
    console.print(title, style="bold")
    if about:
        console.print(about)
    if suggested:
        values = (f"--set {path}={value}" for path, value in flat(suggested).items())
        console.print(f"\nA run on it has {' '.join(values)} unless you say otherwise.")
    if not rows:
        console.print("no options")
        return
    head = ("option", "default", "type", "what it does", "default from")
    body = [
        (row["option"], row["unless_given"] or str(row["default"]), row["type"], row["help"], row["source"])
        for row in rows
    ]
    print_rows_of_text(console, head, body)


def _rows(options: Any, prefix: str, values: Any = None) -> Any:
    """One row for each option; ``values`` are the defaults where they are not those of the class."""
    from pydantic import BaseModel

    for name, field in options.model_fields.items():
        default = field.default if values is None else getattr(values, name)
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            nested = default if isinstance(default, BaseModel) else None
            yield from _rows(field.annotation, f"{prefix}{name}.", nested)
            continue
        extra = field.json_schema_extra or {}
        yield {
            "option": prefix + name,
            "default": default,
            "unless_given": extra.get("unless_given", "") if default is None else "",  # a method may have a value
            "type": extra.get("component") or _type_name(field.annotation),
            "help": field.description or "",
            "source": extra.get("source", ""),
        }


def _type_name(annotation: Any) -> str:
    from pydantic import BaseModel

    if annotation is NoneType:
        return "None"
    if inspect.isclass(annotation):
        return "mapping" if issubclass(annotation, BaseModel) else annotation.__name__
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if annotation is Ellipsis:
        return "..."
    if get_origin(annotation) is tuple:
        return f"tuple[{', '.join(map(_type_name, get_args(annotation)))}]"
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(dict.fromkeys(_type_name(kind) for kind in get_args(annotation)))
    text = str(annotation).replace("typing.", "").replace("pathlib.", "")
    return text.removeprefix("Literal[").removesuffix("]") if text.startswith("Literal[") else text
