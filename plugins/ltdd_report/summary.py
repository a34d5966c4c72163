"""What a run was and what it cost, in a few lines, and what to cite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import metadata
from typing import Any

from ltdd_core import InputError, Saving, configure
from ltdd_report.reading import RunRecord

AGAIN = "ltdd distill --config config.yaml --out FOLDER"
"""What makes a run again from its configuration, which the page has as a file."""


def facts_of(run: RunRecord) -> list[tuple[str, str]]:
    """The summary of a run: what is said, and what it is; what the run has not noted is left out."""
    config, data = run.config, run.data
    counts, versions = data["counts"], run.sessions[-1]["versions"] if run.sessions else {}
    lines = [
        ("method", _named(config["matcher"])),
        ("labels", _named(config["labeller"]) if config.get("labeller", {}).get("name", "none") != "none" else ""),
        ("network", _named(config["network"]) if "network" in config else ""),
        ("head", _named(config["head"])),
        ("size", f"{run.distilled.ipc_in_words()}: {len(run.distilled.labels)} images"),
        ("iterations", f"{config['iterations']:,}"),
        ("seed", str(config["seed"])),
        ("training images", f"{data['images']:,} in {len(counts)} classes, {max(counts):,} to {min(counts):,} a class"),
        ("validation images", f"{data['validation_images']:,}" if data.get("validation_images") else "none"),
        ("test images", f"{data['test_images']:,}"),
        *_cost(run),
        ("date", _date(run)),
        ("versions", ", ".join(f"{name} {versions[name]}" for name in ("ltdd", "torch") if name in versions)),
        ("make it again", AGAIN),
    ]
    return [(name, text) for name, text in lines if text]


def _named(section: Mapping[str, Any]) -> str:
    """A component with the options that have a value: ``convnet-d3 (depth 3, width 128)``."""
    plain = {key: value for key, value in section.items() if key != "name" and isinstance(value, int | float | str)}
    options = ", ".join(f"{key} {value}" for key, value in plain.items())
    return f"{section['name']} ({options})" if options else str(section["name"])


def _date(run: RunRecord) -> str:
    """When the run began; "" for a run of an earlier version."""
    try:
        return f"{datetime.fromisoformat(run.sessions[0]['began']):%Y-%m-%d %H:%M %Z}"
    except (LookupError, TypeError, ValueError):
        return ""


def _cost(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Seconds, and what the distilled set saves; the table has what each classifier cost."""
    steps, total = run.seconds, float(run.report["seconds"])
    if len(steps):
        yield "distillation", f"{float(steps.sum()):,.0f} seconds in {len(steps):,} steps"
    if len(run.sessions) == 1:
        rest = max(0.0, total - float(steps.sum()))
        yield "training", f"{rest:,.0f} seconds for the classifiers, with reading and testing"
    else:
        yield "training", f"not told apart: the last of {len(run.sessions)} processes took {total:,.0f} seconds in all"
    if run.report.get("saving") is not None:
        yield "saving", str(Saving.from_json(run.report["saving"]))


def citations(run: RunRecord) -> list[str]:
    """BibTeX entries: of ltdd, and of every component of the run that names its paper."""
    found = [_own(run)]
    try:
        config = configure(**run.config)
    except InputError:  # a plugin is not here, or another version of it
        return found
    chosen: Sequence[Any] = [
        getattr(config, kind) for kind in ("matcher", "labeller", "sampler", "head", "recipe", "data")
    ]
    entries = (str(getattr(selection.component, "citation", "")) for selection in chosen)
    return list(dict.fromkeys([*found, *(entry for entry in entries if entry)]))


def _own(run: RunRecord) -> str:
    versions = run.sessions[-1]["versions"] if run.sessions else {}
    title, year = metadata("ltdd")["Summary"].rstrip("."), _date(run)[:4]
    fields = {
        "title": f"ltdd: {title}",
        "author": "{the ltdd authors}",
        "version": versions.get("ltdd", ""),
        "year": year,
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@software{{ltdd,\n{lines}\n}}"
