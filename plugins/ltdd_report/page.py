"""The pages; each is one HTML file that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ltdd_core import (
    InputError,
    LongTailedSet,
    by_count,
    how_to_set,
    may_be_chance,
    write_atomically,
    writing,
)
from ltdd_report import figures, pictures
from ltdd_report.cells import (
    COLUMNS,
    accuracies,
    best_of,
    cell,
    cell_over_seeds,
    cell_under,
    cost_cell,
    known,
    listed,
    never_right,
)
from ltdd_report.comparing import Comparison
from ltdd_report.downloads import downloads, tables_of
from ltdd_report.entrants import OTHER_IMAGES
from ltdd_report.initial import Initial, initial_images
from ltdd_report.many import confused_by, ends_of, shortened
from ltdd_report.pictures import (
    Picture,
    comparable,
    confusions,
    fonts_for,
    gains,
    images_of,
    loss,
    overview,
    picture_of,
    reliabilities,
    speed,
    surest_mistakes,
)
from ltdd_report.reading import RunRecord, data_of
from ltdd_report.summary import citations, facts_of
from ltdd_report.terminal import COSTS, cost
from ltdd_report.tested import Tested, tested
from ltdd_report.trained import TrainedRecord
from ltdd_report.visible import visible


def write_report(run: RunRecord, out: Path, root: Path | None = None) -> None:
    """Write the page of a run.

    Args:
        run: a finished run.
        out: the file.
        root: where the data of the run are now, if they have moved.

    Raises:
        InputError: it cannot be written.
    """
    data = _data_at_hand(run, root)
    found = tested(run, data)
    shown, unseen = ([], 0) if isinstance(found, str) else surest_mistakes(run, found)
    with fonts_for([*run.data["classes"], *(row["name"] for row in run.rows)]):
        page = _page(run, data, found, shown, unseen)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())


def _page(
    run: RunRecord,
    data: LongTailedSet | str,
    found: Tested | str,
    shown: Sequence[tuple[str, list[Picture]]],
    unseen: int,
) -> str:
    names, counts, rows = run.data["classes"], run.data["counts"], run.rows
    initial = None if isinstance(data, str) else initial_images(run, data)
    order = by_count(counts)
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    figures_of: dict[str, Any] = {
        "counts": picture_of(figures.counts_figure(names, counts), listed("Training images", names, counts, order)),
        "classes": picture_of(figures.class_figure(names, counts, rows), accuracies(rows, names, order)),
        "gains": list(gains(run)),
        "confusions": confusions(names, counts, rows, run.groups),
        "reliabilities": [] if isinstance(found, str) else list(reliabilities(run, found)),
        "loss": loss(run),
        "speed": speed(run),
    }
    files = {**tables_of(run), "config.yaml": config.encode()}
    return _template("report.html").render(
        title=run.title,
        run=run,
        summary=_summary(run),
        facts=facts_of(run),
        overview=[] if isinstance(data, str) else list(overview(run, data)),
        unmoved=run.partition_has_no_say,
        columns=known(COLUMNS, rows),
        costs=known(COSTS, rows),
        cell=cell,
        cell_of=cost_cell,
        cell_under=cell_under,
        best=best_of(rows),
        calibrated=not isinstance(found, str) and bool(found.temperatures),
        ends=ends_of(names, counts, rows),
        confused=confused_by(names, counts, rows),
        groups=[shortened(group) for group in run.groups or ()],
        intervals=any(row.get("accuracy_interval") for row in rows),
        chance=may_be_chance(rows, run.data["test_images"]),
        zeros=never_right(rows, names, order),
        untested=found if isinstance(found, str) else "",
        mistakes=shown,
        unseen=unseen,
        images=list(images_of(run, initial)),
        beside=_beside(run, initial),
        hidden=max(0, len(names) - pictures.MOST_CLASSES),
        config=config,
        downloads=downloads(files, _vectors(figures_of)),
        citations=citations(run),
        **figures_of,
    )


def _data_at_hand(run: RunRecord, root: Path | None) -> LongTailedSet | str:
    """The set of the run, or why it cannot be had."""
    try:
        return data_of(run, root)
    except InputError as error:
        return str(error)


def _vectors(figures_of: Mapping[str, Any]) -> dict[str, bytes]:
    """The vector graphics of a page by file name; several of a kind are numbered."""
    vectors = {}
    for name, shown in figures_of.items():
        for number, picture in enumerate(shown if isinstance(shown, list) else [shown], 1):
            if picture is not None and picture.vector is not None:
                vectors[f"{name}-{number}.svg" if isinstance(shown, list) else f"{name}.svg"] = picture.vector
    return vectors


def write_trained(record: TrainedRecord, out: Path) -> None:
    """Write the page of a folder of ``ltdd train`` or ``ltdd evaluate``.

    Raises:
        InputError: it cannot be written.
    """
    alike = len({row["name"] for row in record.rows}) == 1
    rows = [{**row, "name": row["network"] if alike else f"{row['name']}, {row['network']}"} for row in record.rows]
    with fonts_for([*record.data["classes"], *(row["name"] for row in rows)]):
        page = _page_of_trained(record, rows, record.rows[0]["name"] if alike else "")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())


def _page_of_trained(record: TrainedRecord, rows: Sequence[Mapping[str, Any]], line: str) -> str:
    names, counts = record.data["classes"], record.data["counts"]
    order = by_count(counts)
    return _template("trained.html").render(
        title=record.title,
        record=record,
        line=line,
        rows=rows,
        columns=known(COLUMNS, rows),
        costs=known(COSTS, rows),
        cell=cell_over_seeds,
        single_cell=cell,
        cell_of=cost_cell,
        cell_under=cell_under,
        best=best_of(rows),
        zeros=never_right(rows, names, order),
        counts=picture_of(figures.counts_figure(names, counts), listed("Training images", names, counts, order)),
        classes=picture_of(figures.class_figure(names, counts, rows), accuracies(rows, names, order)),
        ends=ends_of(names, counts, rows),
        confusions=confusions(names, counts, rows, None),
        confused=confused_by(names, counts, rows),
        config=yaml.safe_dump(dict(record.config), sort_keys=False, allow_unicode=True),
    )


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write the page of several runs.

    Raises:
        InputError: it cannot be written.
    """
    names, counts = comparison.class_names, comparison.counts
    shown = [{"name": entry.name, "per_class": entry.per_class} for entry in comparison.entries]
    order = by_count(counts)
    with fonts_for([*names, *(entry.name for entry in comparison.entries)]):
        page = _template("compare.html").render(
            title=f"{len(comparison.entries)} classifiers on {comparison.data}",
            comparison=comparison,
            costs=COSTS,
            option=how_to_set,
            cost=cost,
            zeros=never_right(shown, names, order),
            marked=OTHER_IMAGES if any(entry.images for entry in comparison.entries) else "",
            configurations=list(dict.fromkeys(name for found in comparison.differences for name in found.values)),
            classes=picture_of(figures.class_figure(names, counts, shown), accuracies(shown, names, order)),
            lines=shown,
            ends=ends_of(names, counts, shown),
            cell=cell,
        )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())


def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value, keep="\n") if type(value) is str else value,
    )
    environment.globals["style"] = Markup((Path(__file__).parent / "templates" / "style.css").read_text())  # noqa: S704
    return environment.get_template(f"{name}.j2")


def _summary(run: RunRecord) -> str:
    best = max(run.rows, key=lambda row: float(row["accuracy"]))
    even = min(run.rows, key=lambda row: float(row["std"]))
    text = f"The most accurate line is “{best['name']}” with {best['accuracy']:.1f} per cent"
    if even is best:
        return f"{text}; it is the most even one too (deviation over classes {even['std']:.1f})."
    return (
        f"{text} (deviation over classes {best['std']:.1f}); the most even one is “{even['name']}” with a deviation of "
        f"{even['std']:.1f} and {even['accuracy']:.1f} per cent."
    )


def _beside(run: RunRecord, initial: Initial | None) -> str:
    """What the page says of the initial images."""
    if initial is None:
        return ""
    if initial.kept:
        return "They are initial images of the run, unchanged."
    if not comparable(run, initial):
        return ""
    text = "Below them are the initial images that were drawn for this run; the method decides whether to use them."
    if initial.repeats:
        text += " Where a class has fewer training images than that, some are repeats, changed a little."
    return text
