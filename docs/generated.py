"""The pages that are written by the code itself: hooks from their specifications, components from ``describe``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from ltdd_core import hookspecs
from ltdd_core.cli import cli
from ltdd_core.config.layers import flat
from ltdd_core.plugging.catalog import KINDS

SECTION = re.compile(r"^# ---- (.+?) -+$")
HOOK = re.compile(r"^def (ltdd_\w+)\(")
ROLE = re.compile(r":\w+:`~?([^`]+)`")


def write_pages(folder: Path) -> None:
    """Write ``hooks.md`` and ``components.md``."""
    folder.mkdir(exist_ok=True)
    for name, lines in (("hooks.md", hook_lines()), ("components.md", component_lines())):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def hook_lines() -> Iterator[str]:
    """Every hook under the section of its specification, in that order: arguments, signature, docstring."""
    for line in inspect.getsource(hookspecs).splitlines():
        if section := SECTION.match(line):
            title, _, about = section[1].partition(": ")
            yield from (f"## {title}", "", f"{about[:1].upper()}{about[1:]}.", "")
        elif hook := HOOK.match(line):
            yield from _hook(hook[1])


def _hook(name: str) -> Iterator[str]:
    spec = getattr(hookspecs, name)
    signature = inspect.signature(spec)
    yield from (f"### `{name}({', '.join(signature.parameters)})`", "")
    yield from ("```python", f"def {name}{signature}: ...".replace("'", ""), "```", "")
    yield from (_as_markdown(inspect.getdoc(spec) or ""), "")


def component_lines() -> Iterator[str]:
    """Every component that comes with ltdd, with its options, as ``ltdd describe`` tells them."""
    for kind in KINDS:
        yield from (f"## {kind}", "")
        for row in _described(kind):
            if not row["from"].startswith("ltdd "):
                continue
            if kind == "preset":
                about = f"{_as_markdown(row['about'])} " if row["about"] else ""
                yield f"- `{row['name']}`: {about}`ltdd describe preset {row['name']}`"
                continue
            shown = _described(kind, row["name"])
            yield from (f"### {kind} `{row['name']}`", "", _as_markdown(shown["about"]), "")
            if "suggested" in shown:
                values = (f"`{path}={value}`" for path, value in flat(shown["suggested"]).items())
                yield from (f"A run on it has {', '.join(values)} unless you say otherwise.", "")
            yield from _options(shown["options"])
        yield ""


def _options(options: list[dict[str, Any]]) -> Iterator[str]:
    if not options:
        yield from ("No options.", "")
        return
    yield from ("| option | default | type | what it does | default from |", "|---|---|---|---|---|")
    for each in options:
        cells = (f"`{each['option']}`", f"`{each['default']}`", f"`{each['type']}`", each["help"], each["source"])
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _described(*words: str) -> Any:
    result = CliRunner().invoke(cli, ["describe", *words, "--json"], catch_exceptions=False)
    return json.loads(result.stdout)


def _as_markdown(text: str) -> str:
    """A docstring as MyST reads it: roles and double backquotes are code, what is indented is literal."""
    text = ROLE.sub(r"``\1``", text)
    parts = []
    for paragraph in re.split(r"\n\n+", text):
        if paragraph.startswith(("    ", "\t")):
            parts.append(f"```text\n{inspect.cleandoc(paragraph)}\n```")
        else:
            parts.append(re.sub(r"::$", ":", paragraph).replace("<", "\\<"))
    return "\n\n".join(parts)
