"""Train classifiers on a distilled set, alone or together with the original one, and score them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdd_core.config.model import DEFAULT_NAMES, Config, Selection
from ltdd_core.config.resolve import component_maker, select
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError, memory_in_words
from ltdd_core.evaluation.head import Classifier, ClassifierHead, Recipe
from ltdd_core.evaluation.metrics import Row, average, row
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.progress import Display
from ltdd_core.runs.devices import chunk_size
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.stop import StopRequest
from ltdd_core.storage import load_tensors, save_tensors
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer

PREDICTIONS = "predictions.safetensors"


@dataclass(frozen=True)
class Line:
    """A line of the table before it is known: a head, and the set that trains each of its stages."""

    name: str
    head: Selection
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """What a classifier said about the test images."""

    log_probabilities: Tensor
    """float32 ``[N, classes]``."""
    groups: Tensor | None


def check_recipe(config: Config) -> tuple[str, ...]:
    """Which set trains which stage of the configured head.

    Raises:
        InputError: recipe and head do not go together.
    """
    recipe: Recipe = config.recipe.make()
    return recipe.assign(config.head.component.stages)


def lines_of(config: Config, catalog: Catalog) -> list[Line]:
    """The lines that a run answers: original direct, distilled direct, and the head that was asked for."""
    plain = config.head
    if config.head.component.stages > 1:
        plain = select(catalog, "head", {"name": DEFAULT_NAMES["head"]})
    how = "direct" if plain.name == DEFAULT_NAMES["head"] else plain.component.title
    lines = [Line(f"{data}, {how}", plain, (data,)) for data in ("original", "distilled")]
    if config.head.component.stages > 1:
        lines.append(line_of(config))
    return lines


def line_of(config: Config) -> Line:
    """The configured head and recipe.

    Raises:
        InputError: they do not go together.
    """
    sets = check_recipe(config)
    if config.head.component.stages > 1:
        return Line(f"{config.head.component.title}, {' + '.join(sets)}", config.head, sets)
    how = "direct" if config.head.name == DEFAULT_NAMES["head"] else config.head.component.title
    return Line(f"{sets[0]}, {how}", config.head, sets)


def result_rows(
    config: Config,
    data: LongTailedSet,
    distilled: DistilledSet,
    trainer: Trainer,
    catalog: Catalog,
    folder: Path,
) -> tuple[list[Row], Tensor | None]:
    """The lines of a run's table, and the partition (int64 ``[classes]``) if a classifier has one.

    The test predictions are kept in ``folder``, and what is there already is not trained again.  The group
    accuracy of a direct line is that of its predicted classes under the partition of the multi-stage line.
    """
    lines = lines_of(config, catalog)
    kept = kept_scores(folder, lines)
    groups = None
    for line in lines:
        if line.name not in kept:
            kept[line.name] = scores_of(line, config, data, distilled, trainer, catalog)
            keep_scores(folder, kept)
        if kept[line.name].groups is not None:
            groups = kept[line.name].groups
    return [_row(line, kept[line.name], data, distilled, groups) for line in lines], groups


def scores_of(
    line: Line,
    config: Config,
    data: LongTailedSet,
    distilled: DistilledSet | None,
    trainer: Trainer,
    catalog: Catalog,
) -> Scores:
    """Train the classifier of a line and run it over the test images; some lines need no distilled set."""
    sets = training_sets(config, data, distilled, catalog)
    head: ClassifierHead = line.head.make()
    classifier = head.fit([sets[name] for name in line.sets], trainer)
    return Scores(test_log_probabilities(classifier, data, trainer), classifier.groups)


def training_sets(
    config: Config, data: LongTailedSet, distilled: DistilledSet | None, catalog: Catalog
) -> dict[str, TrainingSet]:
    """The original set and the distilled one, if there is one, ready to train on."""
    sampler = config.sampler.make()
    sampler.prepare(data)
    seen = data.normalisation.apply(data.train_images) if data.normalisation.once else data.train_images
    original = TrainingSet("original", seen, data.train_labels, data.normalisation, data.classes, sampler.epoch)
    if distilled is None:
        return {"original": original}
    images, labels = distilled.images, distilled.labels
    if distilled.decoder is not None:
        images, labels = catalog.get("matcher", distilled.decoder).load().decoder(images, labels)
    plain = TrainingSet("distilled", images, labels, distilled.normalisation, data.classes)
    return {"original": original, "distilled": plain}


def test_log_probabilities(classifier: Classifier, data: LongTailedSet, trainer: Trainer) -> Tensor:
    """Float32 ``[N, classes]`` over the test images, on the CPU."""
    parts = []
    with torch.no_grad():
        for images in data.test_images.split(trainer.chunk):
            trainer.keep_going()
            normalised = data.normalisation.apply(images.to(trainer.device))
            parts.append(classifier.log_probabilities(normalised).float().cpu())
    return torch.cat(parts)


def training_options(config: Config, learned: Mapping[str, float]) -> dict[str, TrainingOptions]:
    """How each set trains a network; ``learned`` as :attr:`DistilledSet.training`."""
    return {"original": config.training.original, "distilled": config.training.distilled.with_learned(learned)}


def make_trainer(
    config: Config,
    device: torch.device,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
    catalog: Catalog,
    stop: StopRequest,
    display: Display,
    learned: Mapping[str, float] | None = None,
) -> Trainer:
    """What the classifiers of one table are trained with; ``learned`` as :attr:`DistilledSet.training`."""
    return Trainer(
        config.make_network,
        training_options(config, learned or {}),
        Augmentation(config.run.augment),
        seed=seed,
        device=device,
        chunk=chunk_size(config, device, image_shape),
        precision=config.compute.precision,
        compiled=config.compute.compile,
        keep_going=stop.check,
        started=display.training,
        component=component_maker(catalog),
    )


@dataclass(frozen=True)
class Repeated:
    """One line over several seeds."""

    network: str
    mean: Row
    deviation: Row
    repeats: int

    def to_json(self) -> dict[str, Any]:
        """The mean row, with the deviation over seeds beside it."""
        spread = {key: value for key, value in self.deviation.to_json().items() if key not in ("name", "images")}
        return {**self.mean.to_json(), "network": self.network, "repeats": self.repeats, "deviation": spread}


def repeated_rows(
    config: Config,
    data: LongTailedSet,
    distilled: DistilledSet | None,
    *,
    networks: Sequence[Selection],
    repeats: int,
    device: torch.device,
    catalog: Catalog,
    display: Display,
) -> Iterator[Repeated]:
    """Score the configured head and recipe on each network, ``repeats`` seeds from ``config.run.seed`` on.

    Raises:
        InputError: the distilled set is not of this data set, or there is none and the recipe asks for it.
    """
    line = line_of(config)
    if distilled is not None:
        check_fits(data, distilled)
        # The networks learn the colours of the distilled set; another cut of the data has other statistics.
        data = replace(data, normalisation=distilled.normalisation)
    elif set(line.sets) != {"original"}:
        raise InputError(f"recipe {config.recipe.name!r} trains on a distilled set, and there is none.")
    for network in networks:
        changed, rows = replace(config, network=network), []
        with StopRequest().listening() as stop, memory_in_words():
            for seed in range(config.run.seed, config.run.seed + repeats):
                trainer = make_trainer(
                    changed,
                    device,
                    data.image_shape,
                    seed=seed,
                    learned={} if distilled is None else distilled.training,
                    catalog=catalog,
                    stop=stop,
                    display=display,
                )
                scores = scores_of(line, changed, data, distilled, trainer, catalog)
                rows.append(_row(line, scores, data, distilled, scores.groups))
        mean, deviation = average(rows)
        yield Repeated(network.name, mean, deviation, repeats)


def check_fits(data: LongTailedSet, distilled: DistilledSet) -> None:
    """Refuse to score a distilled set on other classes, image sizes or colours than it was made for.

    Raises:
        InputError: saying what differs.
    """
    if data.class_names != distilled.class_names:
        raise InputError(f"data {data.name!r} has other classes than the distilled set.")
    shape = tuple(distilled.images.shape[1:])
    if distilled.decoder is None and data.image_shape != shape:
        raise InputError(f"data {data.name!r} has images {data.image_shape}; the distilled ones are {shape}.")


def _row(line: Line, scores: Scores, data: LongTailedSet, distilled: DistilledSet | None, groups: Tensor | None) -> Row:
    size = {"original": len(data.train_labels), "distilled": 0 if distilled is None else len(distilled.labels)}
    return row(
        line.name,
        sum(size[name] for name in line.sets),
        scores.log_probabilities,
        data.test_labels,
        data.counts,
        groups,
    )


def kept_scores(folder: Path, lines: Sequence[Line]) -> dict[str, Scores]:
    """What the run in ``folder`` knows already of these lines, by name."""
    if not (folder / PREDICTIONS).exists():
        return {}
    tensors, _ = load_tensors(folder / PREDICTIONS)
    return {
        line.name: Scores(tensors[line.name], tensors.get(f"{line.name}: groups"))
        for line in lines
        if line.name in tensors
    }


def keep_scores(folder: Path, kept: dict[str, Scores]) -> None:
    """Write what is known of the lines of a run."""
    tensors = {name: scores.log_probabilities for name, scores in kept.items()}
    tensors |= {f"{name}: groups": s.groups for name, s in kept.items() if s.groups is not None}
    save_tensors(folder / PREDICTIONS, tensors, {"about": "test log-probabilities of each line of the table"})
