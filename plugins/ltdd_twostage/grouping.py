"""The grouping hypothesis, measured: which groups of classes do the features of a network show, and always the same?

A network learns the long-tailed set as a plain classifier, which is what the two-stage head does; its features of the
images of a *source* give class distances and a partition.  Sources are the balanced test images, the long-tailed
training images themselves, and distilled sets.  The two-stage head uses the second.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ltdd_core import (
    Config,
    Display,
    DistilledSet,
    InputError,
    LongTailedSet,
    Normalisation,
    Trainer,
    TrainingSet,
    class_distances,
    cut_value,
    load_distilled,
    max_cut,
)
from ltdd_core.commands import open_setup
from ltdd_twostage.agreement import Agreement, agreement, agreement_between, second_best, spectral_bound

TEST, ORIGINAL = "test", "original"


@dataclass(frozen=True)
class View:
    """How one network sees the classes of one source."""

    source: str
    network: str
    seed: int
    features: Tensor
    """float32 ``[N, D]``."""
    labels: Tensor
    """int64 ``[N]``."""
    distances: Tensor
    """float64 ``[classes, classes]``."""


@dataclass(frozen=True)
class Partition:
    """The groups of a view."""

    view: View
    groups: int
    """Number of groups."""
    member: Tensor
    """int64 ``[classes]``."""
    value: float
    """Value of the cut: the sum of distances between classes of different groups."""
    second: float | None
    """Value of the best other partition; None where there is no other."""
    bound: float
    """Value that no cut exceeds."""

    @property
    def margin(self) -> float | None:
        """By how many per cent the best partition is above the next; None where there is no other."""
        return None if self.second is None else 100 * (self.value - self.second) / self.value

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """What ``--json`` prints of it.

        Args:
            names: of the classes.
        """
        by_group = [
            [name for name, member in zip(names, self.member.tolist(), strict=True) if member == group]
            for group in range(int(self.member.max()) + 1)
        ]
        facts = {"source": self.view.source, "network": self.view.network, "seed": self.view.seed}
        cut = {"value": self.value, "second": self.second, "margin_percent": self.margin, "bound": self.bound}
        return {**facts, "groups": by_group, **cut}


def views_of(
    configs: Sequence[Config], sources: Sequence[str], counts: Sequence[int], display: Display
) -> Iterator[tuple[tuple[str, ...], View]]:
    """Train the network of each configuration and look at every data source with it; the names of the classes with it.

    Args:
        configs: they differ in the network and the seed.
        sources: ``test``, ``original``, or the folder of a run.
        counts: numbers of groups that the classes will be put into.
        display: gets the name of each network that is trained.

    Raises:
        InputError: a data source, a network or the data cannot be used, or there are fewer classes than groups.
    """
    distilled = {name: load_distilled(name) for name in sources if name not in (TEST, ORIGINAL)}
    for config in configs:
        with open_setup(config, display=display) as setup:
            data, original, trainer = setup.data, setup.original, setup.trainer()
            if (most := max(counts, default=2)) > data.classes:
                raise InputError(f"--groups {most}: there are only {data.classes} classes.")
            if TEST in sources and 0 in data.test_counts:
                name = data.class_names[data.test_counts.index(0)]
                raise InputError(
                    f"{data.name} has no test image of class {name!r}, so the classes cannot be grouped by their test "
                    f"images: use --source {ORIGINAL}."
                )
            sets = {TEST: replace(original, images=data.test_images, labels=data.test_labels), ORIGINAL: original}
            for name, distilled_set in distilled.items():
                sets[name] = setup.distilled(distilled_set)
                _check_fits(name, distilled_set, sets[name], data)
            plain = trainer.train(original, outputs=data.classes)
            for source in sources:
                yield data.class_names, _view(source, sets[source], config.network.shown, plain, trainer)


def _check_fits(name: str, distilled: DistilledSet, images: TrainingSet, data: LongTailedSet) -> None:
    """Refuse a distilled set, ``images`` where it is decoded, that the networks of the data cannot look at."""
    if distilled.class_names != data.class_names:
        raise InputError(f"{name} was distilled from other classes than those of {data.name}.")
    if images.image_shape != data.image_shape:
        raise InputError(f"the images of {name} are not of the size that networks see in {data.name}.")
    if not _same_colours(distilled.normalisation, data.normalisation):
        raise InputError(
            f"{name} has other colours than {data.name}: use the same data options, --set data.normalisation=... "
            "among them."
        )


def _same_colours(first: Normalisation, second: Normalisation) -> bool:
    """Whether two normalisations are of the same images; a whitening is so to rounding, on whatever machine."""
    if first.to_json() != second.to_json():
        return False
    others = second.tensors()
    return all(torch.allclose(tensor, others[name], atol=1e-4) for name, tensor in first.tensors().items())


def _view(source: str, images: TrainingSet, network: str, plain: Any, trainer: Trainer) -> View:
    features, labels = trainer.features(plain, images), images.labels
    distances = class_distances(features, labels, images.classes, seed=trainer.seed)
    return View(source, network, trainer.seed, features, labels, distances)


def partition_of(view: View, groups: int) -> Partition:
    """The largest cut of a view into K groups, with the values it is compared with.

    Args:
        view: how a network sees the classes.
        groups: K.
    """
    member = max_cut(view.distances, groups, view.seed)
    value = cut_value(view.distances.numpy(), member.numpy())
    return Partition(
        view,
        groups,
        member,
        value,
        second_best(view.distances, member, groups),
        spectral_bound(view.distances, groups),
    )


def stability(partitions: Sequence[Partition]) -> list[tuple[str, Agreement]]:
    """How much the partitions of one K agree: between seeds, between sources, between networks.

    Between seeds: the same source and network.  Between sources: the same network and seed.  Between networks: the same
    source and seed.
    """
    by_place = {(p.view.source, p.view.network, p.view.seed): p.member for p in partitions}
    sources = list(dict.fromkeys(source for source, _, _ in by_place))
    networks = list(dict.fromkeys(network for _, network, _ in by_place))
    seeds = list(dict.fromkeys(seed for _, _, seed in by_place))
    agreements = [
        (f"seeds: {source}, {network}", agreement([by_place[source, network, seed] for seed in seeds]))
        for source in sources
        for network in networks
    ]
    for pair in itertools.combinations(sources, 2):
        places = [(network, seed) for network in networks for seed in seeds]
        first, second = ([by_place[source, net, seed] for net, seed in places] for source in pair)
        agreements.append((f"sources: {pair[0]} and {pair[1]}", agreement_between(first, second)))
    for pair in itertools.combinations(networks, 2):
        seen = [(source, seed) for source in sources for seed in seeds]
        first, second = ([by_place[source, network, seed] for source, seed in seen] for network in pair)
        agreements.append((f"networks: {pair[0]} and {pair[1]}", agreement_between(first, second)))
    return [(name, compared) for name, compared in agreements if compared is not None]
