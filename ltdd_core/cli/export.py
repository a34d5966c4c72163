"""``ltdd export``: a distilled set or a trained classifier for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import consoles
from ltdd_core.errors import InputError, unknown
from ltdd_core.runs.named import check_there, holds_results

FORMATS = ("ddranking", "folder", "npz", "torch", "onnx", "state-dict")
"""Those of :func:`ltdd_core.export`, here without torch: of distilled sets, and then of classifiers."""


class Format(click.Choice[str]):
    """A format; where none is given, all are named, and a wrong one is answered with the nearest."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as it is.

        Raises:
            InputError: there is no such format.
        """
        if value not in FORMATS:
            raise unknown("format", value, FORMATS)
        return value


@click.command("export")
@click.argument("run", type=PATH)
@click.option(
    "--format",
    "kind",
    type=Format(FORMATS),
    metavar="|".join(FORMATS),
    required=True,
    help="Format to write: of the distilled set the first three, of a classifier the others.",
)
@click.option(
    "--out",
    type=PATH,
    help="Folder to write, or file for npz; unless given, export-FORMAT in the folder of the run.",
)
@click.option("--line", metavar="NAME", help="Line of the result table whose classifier is written; else the last one.")
def command(run: Path, kind: str, out: Path | None, line: str | None) -> None:
    """Write the distilled set or a classifier for other tools.

    RUN is a run folder, a folder of ltdd train, a distilled.safetensors, or the file of a classifier.

    The distilled set: `ddranking`: images.pt, labels.pt and lr.pt, as DD-Ranking's evaluators take them. `folder`: PNG
    files in a folder for each class. `npz`: numpy arrays.

    A classifier, with a model card beside it: `torch`: classifier.pt2, a program of torch.export. `onnx`:
    classifier.onnx. Both take float images in [0, 1] and give probabilities. `state-dict`: model.safetensors and
    config.json.
    """
    check_there(run)
    if not holds_results(run):
        raise InputError(f"{run}: there is no distilled set and no classifier in this folder; did the run finish?")
    from ltdd_core.api import export  # which imports torch

    target = export(run, kind, out, line=line)
    consoles(False)[0].print(str(target), soft_wrap=True)
