"""``ltdd export``: a distilled set for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from ltdd_core.cli.settings import consoles


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", metavar="ddranking|folder|npz", required=True, help="Format to write: ddranking, folder or npz."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write, or file for npz; unless given, export-FORMAT beside the distilled set.",
)
def command(run: Path, kind: str, out: Path | None) -> None:
    """Write the distilled set of RUN, a run folder or a distilled.safetensors, in another format.

    `ddranking`: images.pt, labels.pt and lr.pt, as DD-Ranking's evaluators take them. `folder`: PNG files in a
    folder for each class. `npz`: numpy arrays.
    """
    from ltdd_core.runs.export import export

    target = export(run, kind, out)
    consoles(False)[0].print(str(target), soft_wrap=True)
