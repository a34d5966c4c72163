"""``ltdd analyze grouping``: do networks see groups of classes, and do they always see the same groups?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.commands import (
    PATH,
    check_can_be_written,
    compute_options,
    consoles,
    data_options,
    only_json,
    output_options,
    print_rows_of_text,
    read_config,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ltdd_core import Config
    from ltdd_twostage.agreement import Agreement
    from ltdd_twostage.grouping import Partition, View


DOCUMENT = "grouping.json"


@click.group("analyze")
def command() -> None:
    """Show what networks see in the data."""


@command.command("grouping")
@click.option("--source", "sources", multiple=True, metavar="test|original|RUN",
              help="Images to look at: the balanced test images, the long-tailed set, or the distilled set of a run; "
              "repeatable. Default: test and original.")  # fmt: skip
@click.option("--network", "networks", multiple=True, metavar="NAME",
              help="Network to train; repeatable. Default: convnet-d3.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1, max=1000), default=3, show_default=True,
              help="Number of seeds: so many networks of each kind are trained.")  # fmt: skip
@click.option("--groups", "counts", multiple=True, type=click.IntRange(min=2),
              help="Number of groups K; repeatable. Default: 2 and 3, if there are so many classes.")  # fmt: skip
@data_options
@compute_options
@click.option("--out", type=PATH, help="Folder for figures and grouping.json.")
@output_options
def grouping(
    sources: tuple[str, ...],
    networks: tuple[str, ...],
    seeds: int,
    counts: tuple[int, ...],
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Compare the groups of classes that several networks give.

    Classes are put into groups that lie far apart in feature space. Each network learns the long-tailed set as a plain
    classifier; its features of the images of a data source give the groups. Agreement is the adjusted Rand index: 1 for
    the same groups, 0 for groups by chance.
    """
    results, notes = consoles(as_json)
    if out is not None:
        check_can_be_written(out / DOCUMENT, makes_folders=True)
    with only_json(as_json):

        def read(**trees: Any) -> Config:
            above = {f"--{flag}": tree for flag, tree in trees.items()}
            return read_config(
                given, assignments=assignments, config_file=config_file, preset=preset, above=above, distils=False
            )

        plain = read()
        first_seed = plain.run.seed
        configs = [
            read(network={} if network is None else {"network": {"name": network}}, seeds={"seed": seed})
            for network in dict.fromkeys(networks or (None,))
            for seed in range(first_seed, first_seed + seeds)
        ]
        class_names, views = _views(configs, sources or ("test", "original"), counts, None if quiet else notes)
        counts = counts or tuple(range(2, min(3, len(class_names)) + 1))
        document, tables = _results(class_names, views, counts, plain.data.name)
        if out is not None:
            _write(out, document, class_names, views, counts)
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
        return
    for title, head, body in tables:
        print_rows_of_text(results, head, body, title=title)
    if out is not None:
        results.print(f"figures and numbers are in {out}", soft_wrap=True)


def _views(
    configs: Sequence[Config], sources: Sequence[str], counts: Sequence[int], notes: Console | None
) -> tuple[Sequence[str], list[View]]:
    """The names of the classes, and how every network sees every data source."""
    from ltdd_core import Display
    from ltdd_twostage.grouping import views_of

    class TrainingNotes(Display):
        """Says what is trained."""

        def training(self, what: str) -> None:
            if notes is not None:
                notes.print(f"training a network: {what}", soft_wrap=True)

    views = list(views_of(configs, list(dict.fromkeys(sources)), counts, TrainingNotes()))
    return views[0][0], [view for _, view in views]


def _results(
    class_names: Sequence[str], views: Sequence[View], counts: Sequence[int], data: str
) -> tuple[dict[str, Any], list[TextTable]]:
    """The JSON document and the tables."""
    from dataclasses import asdict

    from ltdd_twostage.grouping import partition_of, stability

    document: dict[str, Any] = {"data": data, "classes": list(class_names), "partitions": [], "stability": []}
    tables: list[TextTable] = []
    for groups in dict.fromkeys(counts):
        partitions = [partition_of(view, groups) for view in views]
        agreements = stability(partitions)
        document["partitions"] += [{"k": groups, **partition.to_json(class_names)} for partition in partitions]
        document["stability"] += [{"k": groups, "between": name, **asdict(scores)} for name, scores in agreements]
        tables += [_partition_table(groups, class_names, partitions), _stability_table(groups, agreements)]
    return document, tables


TextTable = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, headings and rows."""


def _partition_table(groups: int, class_names: Sequence[str], partitions: Sequence[Partition]) -> TextTable:
    body: list[tuple[str, ...]] = []
    for partition in partitions:
        members = partition.to_json(class_names)["groups"] if len(class_names) <= 40 else []
        cells = (
            partition.view.source,
            partition.view.network,
            str(partition.view.seed),
            " | ".join(", ".join(names) for names in members),
            "n/a" if partition.margin is None else f"{partition.margin:.2f}",
            f"{100 * partition.value / partition.bound:.1f}",
        )
        body.append(cells)
    return f"{groups} groups", ("source", "network", "seed", "groups", "margin %", "of the bound %"), body


def _stability_table(groups: int, agreements: Sequence[tuple[str, Agreement]]) -> TextTable:
    body: list[tuple[str, ...]] = []
    for name, scores in agreements:
        cells = (str(scores.pairs), f"{scores.mean:.2f}", f"{scores.lowest:.2f}", f"{100 * scores.same:.0f}")
        body.append((name, *cells, f"{scores.p_value:.3f}"))
    title = f"{groups} groups: agreement (adjusted Rand index)"
    return title, ("between", "pairs", "mean", "lowest", "same %", "p"), body


def _write(
    out: Path, document: dict[str, Any], class_names: Sequence[str], views: Sequence[View], counts: Sequence[int]
) -> None:
    """Figures of the first seed of every data source and network, and the document."""
    import io
    import re

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from ltdd_core import write_atomically, writing
    from ltdd_twostage.figure import distance_figure, embedding_figure
    from ltdd_twostage.grouping import partition_of

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / DOCUMENT, json.dumps(document, indent=1, allow_nan=False).encode())
    for view in views:
        if view.seed != views[0].seed:
            continue
        stem = re.sub(r"[^\w.-]+", "-", f"{view.source}-{view.network}".strip("/"))
        member = partition_of(view, counts[0]).member
        for name, figure in (
            ("tsne", embedding_figure(view.features, view.labels, class_names, member, seed=view.seed)),
            ("distances", distance_figure(view.distances, class_names, member)),
        ):
            buffer = io.BytesIO()
            FigureCanvasAgg(figure)
            figure.savefig(buffer, format="png", dpi=130)
            write_atomically(out / f"{stem}-{name}.png", buffer.getvalue())
