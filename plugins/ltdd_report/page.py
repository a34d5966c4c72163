"""The pages; each is one HTML file that needs no other file."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ltdd_core import (
    InputError,
    LongTailedSet,
    by_count,
    how_to_set,
    lettering,
    may_be_chance,
    spread_out,
    write_atomically,
    writing,
)
from ltdd_report import figures
from ltdd_report.comparing import Comparison
from ltdd_report.downloads import downloads, tables_of
from ltdd_report.entrants import OTHER_IMAGES
from ltdd_report.initial import Initial, initial_images
from ltdd_report.many import LISTED, confused_by, ends_of, shortened
from ltdd_report.reading import RunRecord, data_of, shown_images
from ltdd_report.summary import citations, facts_of
from ltdd_report.terminal import COSTS, cost
from ltdd_report.tested import Mistake, Tested, mistakes, tested
from ltdd_report.trained import TrainedRecord
from ltdd_report.visible import visible

COLUMNS = {
    "images": "images",
    "accuracy": "accuracy",
    "std": "std",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "worst": "worst",
    "harmonic_mean": "harmonic",
    "group_accuracy": "group",
    "calibration_error": "calibration",
}
"""Of the table: the key of a row, and its heading."""
MOST_CLASSES = 20  # whose images are shown
OVERVIEW = 10  # classes whose images are beside each other at the top
EACH = 2  # images of such a class
MISTAKES = 3  # a class
LARGEST = 96  # pixels of the longer side of a test image
MISSING = "Glyph .* missing from font"  # what matplotlib warns of


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the page."""

    source: Markup
    """A ``data:`` address, which needs no escapes."""
    text: str
    """The text for readers who cannot see it."""
    caption: str = ""

    @property
    def vector(self) -> bytes | None:
        """The SVG of a vector graphic; None of an image of pixels."""
        start = "data:image/svg+xml;base64,"
        return base64.b64decode(self.source.removeprefix(start)) if self.source.startswith(start) else None


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
    shown, unseen = ([], 0) if isinstance(found, str) else _mistakes(run, found)
    with _fonts([*run.data["classes"], *(row["name"] for row in run.rows)]):
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
        "counts": _picture(figures.counts_figure(names, counts), _listed("Training images", names, counts, order)),
        "classes": _picture(figures.class_figure(names, counts, rows), _accuracies(rows, names, order)),
        "gains": list(_gains(run)),
        "confusions": _confusions(names, counts, rows, run.groups),
        "reliabilities": [] if isinstance(found, str) else list(_reliabilities(run, found)),
        "loss": _loss(run),
        "speed": _speed(run),
    }
    files = {**tables_of(run), "config.yaml": config.encode()}
    return _template("report.html").render(
        title=run.title,
        run=run,
        summary=_summary(run),
        facts=facts_of(run),
        overview=[] if isinstance(data, str) else list(_overview(run, data)),
        unmoved=run.partition_has_no_say,
        columns=_known(COLUMNS, rows),
        costs=_known(COSTS, rows),
        cell=_cell,
        cell_of=_cost,
        cell_under=_cell_under,
        best=_best(rows),
        calibrated=not isinstance(found, str) and bool(found.temperatures),
        ends=ends_of(names, counts, rows),
        confused=confused_by(names, counts, rows),
        groups=[shortened(group) for group in run.groups or ()],
        intervals=any(row.get("accuracy_interval") for row in rows),
        chance=may_be_chance(rows, run.data["test_images"]),
        zeros=_zeros(rows, names, order),
        untested=found if isinstance(found, str) else "",
        mistakes=shown,
        unseen=unseen,
        images=list(_images(run, initial)),
        beside=_beside(run, initial),
        hidden=max(0, len(names) - MOST_CLASSES),
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
    with _fonts([*record.data["classes"], *(row["name"] for row in rows)]):
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
        columns=_known(COLUMNS, rows),
        costs=_known(COSTS, rows),
        cell=_cell_over_seeds,
        single_cell=_cell,
        cell_of=_cost,
        cell_under=_cell_under,
        best=_best(rows),
        zeros=_zeros(rows, names, order),
        counts=_picture(figures.counts_figure(names, counts), _listed("Training images", names, counts, order)),
        classes=_picture(figures.class_figure(names, counts, rows), _accuracies(rows, names, order)),
        ends=ends_of(names, counts, rows),
        confusions=_confusions(names, counts, rows, None),
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
    with _fonts([*names, *(entry.name for entry in comparison.entries)]):
        page = _template("compare.html").render(
            title=f"{len(comparison.entries)} classifiers on {comparison.data}",
            comparison=comparison,
            costs=COSTS,
            option=how_to_set,
            cost=cost,
            zeros=_zeros(shown, names, order),
            marked=OTHER_IMAGES if any(entry.images for entry in comparison.entries) else "",
            configurations=list(dict.fromkeys(name for found in comparison.differences for name in found.values)),
            classes=_picture(figures.class_figure(names, counts, shown), _accuracies(shown, names, order)),
            lines=shown,
            ends=ends_of(names, counts, shown),
            cell=_cell,
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


def _picture(figure: Figure, text: str, caption: str = "", *, kind: str = "svg") -> Picture:
    FigureCanvasAgg(figure)
    if kind == "svg":
        media, content = "image/svg+xml", _svg(figure)
    else:
        media, buffer = "image/png", io.BytesIO()
        figure.savefig(buffer, format="png")
        content = buffer.getvalue()
    return Picture(_address(media, content), text, caption)


def _address(media: str, content: bytes) -> Markup:
    return Markup(f"data:{media};base64,{base64.b64encode(content).decode()}")  # noqa: S704


@contextmanager
def _fonts(names: Sequence[str]) -> Iterator[None]:
    """Text of figures as outlines, which look the same everywhere; as text for the browser where no font has a name."""
    browser = bool(lettering(names).missing)
    with rc_context({"svg.fonttype": "none"} if browser else {}), warnings.catch_warnings():
        if browser:
            warnings.filterwarnings("ignore", MISSING)
        yield


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _known(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns that some row knows: a run may have no groups, and one of an earlier version has no costs."""
    return {key: heading for key, heading in columns.items() if any(row.get(key) is not None for row in rows)}


def _cost(row: Mapping[str, Any], key: str) -> str:
    return cost(row.get(key), key)


def _cell_over_seeds(row: Mapping[str, Any], key: str) -> str:
    """A mean, with the deviation over seeds where there are several."""
    deviation = row["deviation"].get(key)
    return _cell(row[key]) + (f"±{deviation:.1f}" if row["repeats"] > 1 and deviation is not None else "")


def _cell_under(row: Mapping[str, Any], name: str, key: str) -> str:
    """A score on a test distribution, with the deviation over seeds where there are several."""
    deviation = row["deviation"]["test_distributions"][name][key] if row.get("repeats", 1) > 1 else None
    return _cell(row["test_distributions"][name][key]) + ("" if deviation is None else f"±{deviation:.1f}")


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best value of a column, but for one that all lines share.

    Several seeds are needed to say that a line is better (``ltdd compare``).
    """
    low = {"std", "calibration_error"}
    best = {}
    for key in COLUMNS:
        values = [float(row[key]) for row in rows if row.get(key) is not None]
        if key != "images" and len(set(values)) > 1:
            best[key] = (min if key in low else max)(values)
    return best


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


def _gains(run: RunRecord) -> Iterator[Picture]:
    """Where the last line, which is the head of the run, gains and loses against each other line."""
    *references, asked = run.rows
    names, counts = run.data["classes"], run.data["counts"]
    for reference in references:
        figure = figures.gain_figure(names, counts, asked, reference)
        pairs = zip(asked["per_class"], reference["per_class"], strict=True)
        gains = [None if a is None or b is None else a - b for a, b in pairs]
        caption = f"{asked['name']}, beside {reference['name']}"
        yield _picture(figure, _listed(f"Points of {caption}", names, gains, by_count(counts)), caption)


def _confusions(
    names: Sequence[str],
    counts: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    groups: Sequence[Sequence[str]] | None,
) -> list[Picture]:
    """The matrices of the lines; none of so many classes that nothing could be seen in them."""
    return [] if len(names) > figures.NAMED else [_confusion(names, counts, row, groups) for row in rows]


def _confusion(
    names: Sequence[str],
    counts: Sequence[int],
    row: Mapping[str, Any],
    groups: Sequence[Sequence[str]] | None,
) -> Picture:
    figure = figures.confusion_figure(names, counts, row["confusion"], groups)
    right = _listed("", names, row["per_class"], by_count(counts))
    text = f"Confusion matrix of {row['name']}; right in per cent: {right}"
    return _picture(figure, text, str(row["name"]))


def _reliabilities(run: RunRecord, found: Tested) -> Iterator[Picture]:
    """How sure and how right each line is."""
    for line in [row["name"] for row in run.rows]:
        before, after = found.reliability(line)
        numbers = f"calibration error {before.error:.1f}"
        if after is not None:
            numbers += f" before, {after.error:.1f} after"
        figure, caption = figures.reliability_figure(before, after), f"{line}: {numbers}"
        yield _picture(figure, f"Accuracy by confidence of {caption}.", caption)


def _mistakes(run: RunRecord, found: Tested) -> tuple[list[tuple[str, list[Picture]]], int]:
    """Pictures of the surest mistakes of the head of the run by class, and how many classes are left out."""
    line, names = run.rows[-1], run.data["classes"]
    order = by_count(run.data["counts"])
    by_class = mistakes(found, line["name"], MISTAKES)
    wrong = [label for label in range(len(names)) if by_class[label]]
    worst = sorted(wrong, key=lambda label: float(line["per_class"][label]))[:MOST_CLASSES]
    shown = [
        (names[label], [_mistake(one, names) for one in by_class[label]]) for label in sorted(worst, key=order.index)
    ]
    return shown, len(wrong) - len(worst)


def _mistake(mistake: Mistake, names: Sequence[str]) -> Picture:
    taken = f"taken for {names[mistake.predicted]} ({100 * mistake.probability:.1f}\N{NO-BREAK SPACE}%)"
    return Picture(_png(mistake.image), f"A test image of {names[mistake.label]}, {taken}.", taken)


def _png(image: Tensor) -> Markup:
    """A ``data:`` address of an image, uint8 ``[C, H, W]``, made smaller where it is large."""
    pixels = image.permute(1, 2, 0) if len(image) == 3 else image.float().mean(0).to(torch.uint8)
    picture, buffer = Image.fromarray(pixels.numpy()), io.BytesIO()
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(buffer, format="png")
    return _address("image/png", buffer.getvalue())


def _loss(run: RunRecord) -> Picture | None:
    if len(run.steps) == 0:
        return None
    first, last = float(run.losses[0]), float(run.losses[-1])
    text = f"The loss from step {int(run.steps[0])} ({first:.4g}) to step {int(run.steps[-1])} ({last:.4g})."
    return _picture(figures.loss_figure(run.steps, run.losses), text)


def _speed(run: RunRecord) -> Picture | None:
    if len(run.seconds) == 0:
        return None
    usual, slowest = float(run.seconds.median()), float(run.seconds.max())
    text = f"Half of the steps took {usual:.3g} seconds or less, and the slowest {slowest:.3g}."
    return _picture(figures.speed_figure(run.seconds), text, text)


def _overview(run: RunRecord, data: LongTailedSet) -> Iterator[Picture]:
    """Original images above distilled ones, of classes from head to tail."""
    images, hard = shown_images(run)
    if images.shape[1:] != data.train_images.shape[1:]:
        return
    order = [label for label in by_count(data.counts) if bool((hard == label).any())]  # of soft labels, none may be
    for label in spread_out(order, OVERVIEW):
        original, distilled = data.train_images[data.train_labels == label].float() / 255, images[hard == label]
        figure = figures.images_figure(data.class_names[label], _filled(original), _filled(distilled))
        name = f"{data.class_names[label]} ({data.counts[label]})"
        yield _picture(figure, f"Original images, and below them distilled images, of {name}.", name, kind="png")


def _filled(images: Tensor) -> Tensor:
    """The first images of a class, float ``[n, C, H, W]`` in [0, 1], with white where there are no more."""
    first = images[:EACH]
    return torch.cat([first, first.new_ones(EACH - len(first), *first.shape[1:])])


def _images(run: RunRecord, initial: Initial | None) -> Iterator[Picture]:
    shown, hard = shown_images(run)
    start = run.distilled.normalisation.invert(initial.images) if initial and _comparable(run, initial) else None
    for label in spread_out(by_count(run.data["counts"]), MOST_CLASSES):
        name, members = run.data["classes"][label], hard == label
        if not bool(members.any()):  # soft labels may have no image whose likeliest class it is
            continue
        first = None if initial is None or start is None else start[initial.labels == label]
        figure = figures.images_figure(name, shown[members], first)
        below = "" if first is None else ", and below them the initial images of the run"
        text = f"{int(members.sum())} distilled images of {name}{below}."
        yield _picture(figure, text, f"{name} ({run.data['counts'][label]})", kind="png")


def _comparable(run: RunRecord, initial: Initial) -> bool:
    """Whether there is an initial image for each distilled one, and not the same image."""
    return not initial.kept and initial.images.shape == run.distilled.images.shape


def _beside(run: RunRecord, initial: Initial | None) -> str:
    """What the page says of the initial images."""
    if initial is None:
        return ""
    if initial.kept:
        return "They are initial images of the run, unchanged."
    if not _comparable(run, initial):
        return ""
    text = "Below them are the initial images that were drawn for this run; the method decides whether to use them."
    if initial.repeats:
        text += " Where a class has fewer training images than that, some are repeats, changed a little."
    return text


def _zeros(rows: Sequence[Mapping[str, Any]], names: Sequence[str], order: Sequence[int]) -> list[tuple[str, str]]:
    """Lines with the same classes that are never right, and these classes from head to tail."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        zero = tuple(names[label] for label in order if row["per_class"][label] == 0)
        lines.setdefault(zero, []).append(str(row["name"]))
    return [("; ".join(of), shortened(zero)) for zero, of in lines.items() if zero]


def _listed(heading: str, names: Sequence[str], values: Sequence[float | None], order: Sequence[int]) -> str:
    numbers = [f"{value:.0f}" if isinstance(value, int) else _cell(value) for value in values]
    every = [f"{names[label]} {numbers[label]}" for label in order]
    if len(every) > figures.NAMED:
        every[LISTED:-LISTED] = [f"{len(every) - 2 * LISTED} classes between"]
    listed = ", ".join(every)
    return f"{heading}: {listed}." if heading else f"{listed}."


def _accuracies(rows: Sequence[Mapping[str, Any]], names: Sequence[str], order: Sequence[int]) -> str:
    return " ".join(_listed(f"Accuracy of {row['name']}", names, row["per_class"], order) for row in rows)
