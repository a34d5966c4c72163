"""``ltdd predict``: what a trained classifier of a run says about images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core.cli.paths import PATH
from ltdd_core.cli.settings import check_can_be_written, consoles, only_json, test_imbalance_option
from ltdd_core.errors import InputError
from ltdd_core.runs.named import check_there, holds_results

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ltdd_core.data.given import GivenImage
    from ltdd_core.evaluation.metrics import Row
    from ltdd_core.evaluation.stored import TrainedClassifier

SHOWN = 20
"""Images whose answers are printed; of more, a file has all."""
Answer = list[tuple[str, float]]
"""The likeliest classes of an image and their probabilities, the likeliest first."""


@click.command("predict")
@click.argument("run", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--line", metavar="NAME", help="Line of the result table whose classifier answers; else the last one.")
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Number of classes to show for each image."
)
@click.option("--csv", "csv_file", type=PATH, help="Write the answers to this CSV file.")
@click.option("--truth", metavar="folder|FILE.csv", help="Where the true classes are: score the answers too.")
@test_imbalance_option
@click.option("--device", metavar="auto|cpu|cuda", default="auto", help="Device to compute on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, everything else on stderr.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(
    run: Path,
    images: tuple[Path, ...],
    line: str | None,
    top: int,
    csv_file: Path | None,
    truth: str | None,
    test_imbalance: tuple[float, ...],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify IMAGES with a classifier of RUN.

    RUN is a run folder or the file of a classifier. IMAGES are image files, folders with images at any depth, and .npz
    archives with an array `images`. With `--truth folder` the name of the folder of an image is its class; a CSV file
    has the columns `file` and `class`.
    """
    for path in (run, *images):
        check_there(path)
    if not holds_results(run):
        raise InputError(f"{run}: there is no classifier in this folder.")
    # What comes now imports torch, which takes seconds.
    from ltdd_core.cli.tables import print_groups, print_rows, print_test_distributions
    from ltdd_core.config.model import Compute
    from ltdd_core.config.validation import validate_options
    from ltdd_core.data.given import find_images
    from ltdd_core.evaluation.stored import load_classifier
    from ltdd_core.runs.devices import computing, find_device

    results, notes = consoles(as_json)
    with only_json(as_json):
        _check_options(csv_file, truth, test_imbalance, as_json)
        compute = validate_options(("compute",), Compute, {"device": device})
        where = find_device(compute)
        classifier = load_classifier(run, line, device=where)
        given = find_images(images)
        labels = _true_classes(truth, given, classifier)
        with computing(compute, where):
            answers, read, log_p = _answered(classifier, given, top, notes, quiet, keep=labels is not None)
        names = [given[index].name for index in read]
        of_read = None if labels is None else [labels[index] for index in read]
        row = None if of_read is None else _scored(classifier, log_p, of_read, test_imbalance)
        truths = None if of_read is None else [classifier.class_names[label] for label in of_read]
    groups = _groups(classifier)
    of_class = {name: number for number, members in enumerate(groups, 1) for name in members}
    if as_json:
        click.echo(json.dumps(_document(run, classifier, names, answers, of_class, truths, row, len(given))))
        return
    if csv_file is None:
        _print_answers(results, names, answers, of_class)
    else:
        _write_csv(csv_file, names, answers, of_class, truths)
    if row is not None:
        print_rows(results, [row], classifier.class_names, classifier.counts)
        print_test_distributions(results, [row])
    print_groups(results, groups or None)
    results.print(_about_probabilities(classifier), soft_wrap=True)
    if csv_file is not None and not quiet:
        notes.print(f"{len(names)} answers are in {csv_file}", soft_wrap=True)


def _check_options(csv_file: Path | None, truth: str | None, test_imbalance: tuple[float, ...], as_json: bool) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: they do not, or the CSV file cannot be written.
    """
    from ltdd_core.evaluation.label_shift import check_imbalances

    if as_json and csv_file is not None:
        raise InputError("--json and --csv: choose one of them.")
    if test_imbalance and truth is None:
        raise InputError("--test-imbalance is about scores: use --truth too, which says what the classes are.")
    check_imbalances(test_imbalance)
    if csv_file is not None:
        check_can_be_written(csv_file)


def _print_answers(
    results: Console, names: Sequence[str], answers: Sequence[Answer], group_of_class: Mapping[str, int]
) -> None:
    from ltdd_core.cli.tables import print_predictions

    print_predictions(results, names[:SHOWN], answers[:SHOWN], group_of_class)
    if len(names) > SHOWN:
        said = f"These are the first {SHOWN} of {len(names)} images; --csv FILE or --json has the answers for all."
        results.print(said, soft_wrap=True)


def _true_classes(truth: str | None, given: Sequence[GivenImage], classifier: TrainedClassifier) -> list[int] | None:
    from ltdd_core.data.given import classes_by_file, classes_by_folder

    if truth is None:
        return None
    if truth == "folder":
        return classes_by_folder(given, classifier.class_names)
    return classes_by_file(Path(truth), given, classifier.class_names)


def _answered(
    classifier: TrainedClassifier, given: Sequence[GivenImage], top: int, notes: Console, quiet: bool, *, keep: bool
) -> tuple[list[Answer], list[int], Tensor]:
    """The answers for the images that can be read, and their places in the list.

    With ``keep`` the log-probabilities float32 ``[n, classes]`` too, which scores are made of; else those of no image,
    so that the memory for many images of many classes is that of the answers.

    Raises:
        InputError: none can be read.
    """
    import torch

    answers, read, kept, converted = list[Answer](), list[int](), [torch.zeros(0, len(classifier.class_names))], 0
    for part in _in_parts(range(len(given)), classifier.chunk(), notes, quiet):
        pixels, places, changed = _pixels(classifier, given, part, notes)
        converted += changed
        read += places
        if pixels:
            log_p = classifier.log_probabilities_of(torch.stack(pixels))
            answers += _answers(classifier, log_p, top)
            kept += [log_p] if keep else []
    if not read:
        raise InputError(f"none of the {len(given)} images can be read.")
    if converted and not quiet:
        channels, height, width = classifier.image_shape
        notes.print(
            f"{converted} of {len(read)} images were of another size or colour; they were made {width}x{height} "
            f"{'grey' if channels == 1 else 'RGB'}, as the training images are.",
            soft_wrap=True,
        )
    return answers, read, torch.cat(kept)


def _in_parts(places: range, size: int, notes: Console, quiet: bool) -> Iterator[range]:
    """Chunks of the images, with a bar that moves from one to the next where somebody sees it."""
    from rich.progress import Progress

    with Progress(console=notes, transient=True, disable=quiet or not notes.is_interactive) as progress:
        bar = progress.add_task("images", total=len(places))
        for start in range(0, len(places), size):
            part = places[start : start + size]
            yield part
            progress.update(bar, advance=len(part))


def _pixels(
    classifier: TrainedClassifier, given: Sequence[GivenImage], part: range, notes: Console
) -> tuple[list[Tensor], list[int], int]:
    """The images of a chunk that can be read, their places, and how many were converted; the others are named."""
    from ltdd_core.data.given import range_of, read_image

    pixels, places, converted = [], [], 0
    for index in part:
        try:
            image, changed = read_image(given[index], classifier.image_shape, range_of(classifier.facts))
        except InputError as error:
            notes.print(f"skipped: {error}", style="yellow", soft_wrap=True)
            continue
        pixels.append(image)
        places.append(index)
        converted += changed
    return pixels, places, converted


def _answers(classifier: TrainedClassifier, log_p: Tensor, top: int) -> list[Answer]:
    values, indices = log_p.sort(dim=1, descending=True, stable=True)  # of equals, the first is the prediction
    names = classifier.class_names
    return [
        [(names[label], probability) for label, probability in zip(labels, probabilities, strict=True)]
        for labels, probabilities in zip(indices[:, :top].tolist(), values[:, :top].exp().tolist(), strict=True)
    ]


def _scored(
    classifier: TrainedClassifier, log_p: Tensor, labels: Sequence[int], test_imbalances: Sequence[float]
) -> Row:
    import torch

    from ltdd_core.evaluation.metrics import row

    groups = None if classifier.groups is None else classifier.groups.cpu()
    of_classifier = (classifier.line, classifier.images, log_p, torch.tensor(labels), classifier.counts, groups)
    return row(*of_classifier, test_imbalances=test_imbalances)


def _groups(classifier: TrainedClassifier) -> list[list[str]]:
    """The names of the classes in each group; none where there is no partition."""
    if classifier.groups is None:
        return []
    named = list(zip(classifier.class_names, classifier.groups.tolist(), strict=True))
    return [
        [name for name, of_class in named if of_class == group] for group in range(int(classifier.groups.max()) + 1)
    ]


def _about_probabilities(classifier: TrainedClassifier) -> str:
    """Whether they are calibrated, and what one of them means."""
    if classifier.calibrated:
        return (
            f"The probabilities are calibrated on validation images (temperature {classifier.temperature:.3g}): where "
            "no class is rarer than another, about 80 of 100 images with 80 % are right."
        )
    return (
        "The probabilities are not calibrated, as the classifier was trained without --validation: of 100 images with "
        "80 %, far more or far fewer than 80 may be right."
    )


def _document(
    run: Path,
    classifier: TrainedClassifier,
    names: Sequence[str],
    answers: Sequence[Answer],
    groups: dict[str, int],
    truths: Sequence[str] | None,
    row: Row | None,
    given: int,
) -> dict[str, Any]:
    """What ``--json`` prints; docs/file-formats.md describes it."""
    images = [
        {
            "file": name,
            "class": answer[0][0],
            "probability": answer[0][1],
            "group": groups.get(answer[0][0]),
            "top": [{"class": of_class, "probability": probability} for of_class, probability in answer],
        }
        for name, answer in zip(names, answers, strict=True)
    ]
    for image, truth in zip(images, truths or (), strict=truths is not None):
        image["truth"] = truth
    document = {"run": str(run), "line": classifier.line, "skipped": given - len(names), "images": images}
    document |= {"calibrated": classifier.calibrated, "temperature": classifier.temperature}
    return document | ({} if row is None else {"row": row.to_json()})


def _write_csv(
    path: Path,
    names: Sequence[str],
    answers: Sequence[Answer],
    groups: dict[str, int],
    truths: Sequence[str] | None,
) -> None:
    """A line for each image: its file, true class if it is known, class, probability, group, and the next classes."""
    import os

    from ltdd_core.storage import csv_text, write_atomically

    following = range(2, max(map(len, answers)) + 1)
    more = [f"{column}_{place}" for place in following for column in ("class", "probability")]
    rows: list[list[Any]] = [["file", *([] if truths is None else ["truth"]), "class", "probability", "group", *more]]
    for place, (name, ((best, probability), *rest)) in enumerate(zip(names, answers, strict=True)):
        truth = [] if truths is None else [truths[place]]
        rows.append([name, *truth, best, f"{probability:.6f}", groups.get(best, ""), *_flat(rest)])
    write_atomically(path, os.fsencode(csv_text(rows)))


def _flat(rest: Sequence[tuple[str, float]]) -> Iterator[str]:
    for name, probability in rest:
        yield from (name, f"{probability:.6f}")
