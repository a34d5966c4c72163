"""Pictures of a page, each with a text for readers who cannot see it."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ltdd_core import LongTailedSet, by_count, lettering, spread_out
from ltdd_report import figures
from ltdd_report.cells import listed
from ltdd_report.initial import Initial
from ltdd_report.reading import RunRecord, shown_images
from ltdd_report.tested import Mistake, Tested, mistakes

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


def picture_of(figure: Figure, text: str, caption: str = "", *, kind: str = "svg") -> Picture:
    """A figure as it stands in the page: an SVG, or the pixels of a PNG where ``kind`` is png."""
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
def fonts_for(names: Sequence[str]) -> Iterator[None]:
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


def gains(run: RunRecord) -> Iterator[Picture]:
    """Where the last line, which is the head of the run, gains and loses against each other line."""
    *references, asked = run.rows
    names, counts = run.data["classes"], run.data["counts"]
    for reference in references:
        figure = figures.gain_figure(names, counts, asked, reference)
        pairs = zip(asked["per_class"], reference["per_class"], strict=True)
        gains = [None if a is None or b is None else a - b for a, b in pairs]
        caption = f"{asked['name']}, beside {reference['name']}"
        yield picture_of(figure, listed(f"Points of {caption}", names, gains, by_count(counts)), caption)


def confusions(
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
    right = listed("", names, row["per_class"], by_count(counts))
    text = f"Confusion matrix of {row['name']}; right in per cent: {right}"
    return picture_of(figure, text, str(row["name"]))


def reliabilities(run: RunRecord, found: Tested) -> Iterator[Picture]:
    """How sure and how right each line is."""
    for line in [row["name"] for row in run.rows]:
        before, after = found.reliability(line)
        numbers = f"calibration error {before.error:.1f}"
        if after is not None:
            numbers += f" before, {after.error:.1f} after"
        figure, caption = figures.reliability_figure(before, after), f"{line}: {numbers}"
        yield picture_of(figure, f"Accuracy by confidence of {caption}.", caption)


def surest_mistakes(run: RunRecord, found: Tested) -> tuple[list[tuple[str, list[Picture]]], int]:
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


def loss(run: RunRecord) -> Picture | None:
    """The loss over the steps; None of a method without steps."""
    if len(run.steps) == 0:
        return None
    first, last = float(run.losses[0]), float(run.losses[-1])
    text = f"The loss from step {int(run.steps[0])} ({first:.4g}) to step {int(run.steps[-1])} ({last:.4g})."
    return picture_of(figures.loss_figure(run.steps, run.losses), text)


def speed(run: RunRecord) -> Picture | None:
    """The seconds of each step; None where they are not known."""
    if len(run.seconds) == 0:
        return None
    usual, slowest = float(run.seconds.median()), float(run.seconds.max())
    text = f"Half of the steps took {usual:.3g} seconds or less, and the slowest {slowest:.3g}."
    return picture_of(figures.speed_figure(run.seconds), text, text)


def overview(run: RunRecord, data: LongTailedSet) -> Iterator[Picture]:
    """Original images above distilled ones, of classes from head to tail."""
    images, hard = shown_images(run)
    if images.shape[1:] != data.train_images.shape[1:]:
        return
    order = [label for label in by_count(data.counts) if bool((hard == label).any())]  # of soft labels, none may be
    for label in spread_out(order, OVERVIEW):
        original, distilled = data.train_images[data.train_labels == label].float() / 255, images[hard == label]
        figure = figures.images_figure(data.class_names[label], _filled(original), _filled(distilled))
        name = f"{data.class_names[label]} ({data.counts[label]})"
        yield picture_of(figure, f"Original images, and below them distilled images, of {name}.", name, kind="png")


def _filled(images: Tensor) -> Tensor:
    """The first images of a class, float ``[n, C, H, W]`` in [0, 1], with white where there are no more."""
    first = images[:EACH]
    return torch.cat([first, first.new_ones(EACH - len(first), *first.shape[1:])])


def images_of(run: RunRecord, initial: Initial | None) -> Iterator[Picture]:
    """The distilled images of each class, above the initial ones where there is one for each."""
    shown, hard = shown_images(run)
    start = run.distilled.normalisation.invert(initial.images) if initial and comparable(run, initial) else None
    for label in spread_out(by_count(run.data["counts"]), MOST_CLASSES):
        name, members = run.data["classes"][label], hard == label
        if not bool(members.any()):  # soft labels may have no image whose likeliest class it is
            continue
        first = None if initial is None or start is None else start[initial.labels == label]
        figure = figures.images_figure(name, shown[members], first)
        below = "" if first is None else ", and below them the initial images of the run"
        text = f"{int(members.sum())} distilled images of {name}{below}."
        yield picture_of(figure, text, f"{name} ({run.data['counts'][label]})", kind="png")


def comparable(run: RunRecord, initial: Initial) -> bool:
    """Whether there is an initial image for each distilled one, and not the same image."""
    return not initial.kept and initial.images.shape == run.distilled.images.shape
