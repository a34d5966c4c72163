"""What the files of a run must say before a page, a table or a picture is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ltdd_core import Saving, confusion_matrix

LARGEST = 2**53  # above it a float does not hold every integer
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
PerCent = Annotated[float, Field(ge=0, le=100 + 1e-6)]  # a sum of shares can be a rounding error above 100
Points = Annotated[float, Field(ge=-100 - 1e-6, le=100 + 1e-6)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Loss = Annotated[float, Field(ge=-1e100, le=1e100)]  # sums and ratios of such numbers are still finite
Imbalances = list[Annotated[float, Field(gt=1)]]
ROUNDING = 1e-6  # per cent
FOLLOW = "must have the accuracies that follow from its confusion matrix"


class Document(BaseModel):
    """A mapping with names as keys.  Keys that nothing here reads may hold anything."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Section(Document):
    """A component in a configuration: its name, and options that are its own business."""

    name: str


def _images_a_class(ipc: Any) -> Any:
    if isinstance(ipc, dict) or (type(ipc) is int and 1 <= ipc <= LARGEST):
        return ipc
    raise ValueError("must be a number of images, or a mapping of several")


class Configuration(Document):
    """``config.yaml`` of a run that distils something."""

    data: Section
    sampler: Section
    matcher: Section
    head: Section
    ipc: Annotated[Any, AfterValidator(_images_a_class)]
    iterations: Count
    init: str
    seed: int
    test_imbalances: Imbalances = []


class Data(Document):
    """The data set of a run, in ``run.json`` and in ``report.json``."""

    name: str
    classes: Annotated[list[str], Field(min_length=1)]
    counts: list[Positive]
    images: Positive
    test_images: Positive
    imbalance: Annotated[float, Field(ge=1, le=LARGEST)]
    image_shape: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    validation_images: Count = 0

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if len(self.counts) != len(self.classes) or sum(self.counts) != self.images:
            raise ValueError("must have one count for each class, and as many images as the counts add up to")
        return self


class Session(Document):
    """What one process computed on and with."""

    device: str
    threads: Count
    python: str
    versions: dict[str, str]


class RunSession(Session):
    """What one process of a run computed on and with."""

    from_step: Count


class Facts(Document):
    """``run.json`` of a run that distils something."""

    data: Data
    sessions: list[RunSession]


class TrainedFacts(Document):
    """``run.json`` of ``ltdd train`` or ``ltdd evaluate``."""

    data: Data
    sessions: list[Session]


class UnderDistribution(Document):
    """The scores of a line on a long-tailed test distribution."""

    accuracy: PerCent
    calibration_error: PerCent


class Measured(Document):
    """A line of a result table: one classifier, or the means over several."""

    name: str
    images: Count
    accuracy: PerCent
    std: PerCent
    many: PerCent | None
    medium: PerCent | None
    few: PerCent | None
    worst: PerCent
    harmonic_mean: PerCent
    group_accuracy: PerCent | None
    calibration_error: PerCent
    per_class: list[PerCent | None]
    confusion: Annotated[list[list[Annotated[float, Field(ge=0, le=LARGEST)]]], BeforeValidator(confusion_matrix)]
    images_seen: Amount | None = None
    training_seconds: Seconds | None = None
    multiply_adds: Amount | None = None
    """These three are not there in a folder of an earlier version."""
    test_distributions: dict[str, UnderDistribution] | None = None
    """Only where they were asked for."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        classes, totals = len(self.per_class), [sum(row) for row in self.confusion]
        if [len(row) for row in self.confusion] != [classes] * classes or not any(totals):
            raise ValueError("must have a confusion matrix of all classes, with test images in a row")
        right = [self.confusion[label][label] for label in range(classes)]
        if [total > 0 for total in totals] != [stated is not None for stated in self.per_class]:
            raise ValueError("must have an accuracy of each class that has test images, and of no other")
        pairs = [
            (100 * right[label] / totals[label], self.per_class[label]) for label in range(classes) if totals[label]
        ]
        pairs.append((100 * sum(right) / sum(totals), self.accuracy))
        if not all(math.isclose(share, stated or 0, abs_tol=ROUNDING) for share, stated in pairs):
            raise ValueError(FOLLOW)
        return self


class Line(Measured):
    """One classifier in the result table of a run."""

    accuracy_interval: Annotated[list[PerCent], Field(min_length=2, max_length=2)] | None = None
    behind_best: Annotated[list[Points], Field(min_length=3, max_length=3)] | None = None
    """These two are not there in a run of an earlier version."""

    @model_validator(mode="after")
    def _worst_fits(self) -> Self:
        if not math.isclose(min(share for share in self.per_class if share is not None), self.worst, abs_tol=ROUNDING):
            raise ValueError(FOLLOW)
        return self


def _check_distributions(rows: Sequence[Measured]) -> None:
    """All rows are scored on the same test distributions."""
    if len({tuple(row.test_distributions or ()) for row in rows}) > 1:
        raise ValueError("must have rows with the same test distributions")


def _saving(document: Any) -> Any:
    if document is not None:
        Saving.from_json(document)
    return document


class Report(Document):
    """``report.json``."""

    method: str
    data: Data
    seconds: Seconds
    groups: list[list[str]] | None
    rows: Annotated[list[Line], Field(min_length=1)]
    saving: Annotated[Any, AfterValidator(_saving)] = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("must have another name for each row")
        if any(len(row.per_class) != len(self.data.classes) for row in self.rows):
            raise ValueError("must have rows with as many classes as the data have")
        _check_distributions(self.rows)
        if any(sum(map(sum, row.confusion)) != self.data.test_images for row in self.rows):
            raise ValueError("must have rows with as many test images as the data have")
        if self.groups is not None and sorted(chain(*self.groups)) != sorted(self.data.classes):
            raise ValueError("must have every class in one group")
        return self


class Deviation(Document):
    """How far the seeds of a row lie apart, in points; values of which some seed has none are null."""

    accuracy: PerCent
    std: PerCent
    many: PerCent | None
    medium: PerCent | None
    few: PerCent | None
    worst: PerCent
    harmonic_mean: PerCent
    group_accuracy: PerCent | None
    calibration_error: PerCent
    test_distributions: dict[str, UnderDistribution] | None = None


class TrainedRow(Measured):
    """A row of ``ltdd train`` or ``ltdd evaluate``: means over its seeds."""

    network: str
    repeats: Positive
    seeds: list[Count]
    classifiers: list[str]
    control: str | None = None
    deviation: Deviation

    @model_validator(mode="after")
    def _seeds_fit(self) -> Self:
        if not len(set(self.seeds)) == len(self.seeds) == len(self.classifiers) == self.repeats:
            raise ValueError("must have a seed and a classifier for each repeat")
        if (self.test_distributions or {}).keys() != (self.deviation.test_distributions or {}).keys():
            raise ValueError("must have a deviation for each test distribution")
        return self


class DistilledFacts(Document):
    """The distilled set that ``ltdd evaluate`` was given."""

    run: str
    method: str | None
    images: Positive
    digest: str


class TrainedReport(Document):
    """``report.json`` of ``ltdd train`` or ``ltdd evaluate``."""

    data: Data
    seconds: Seconds
    heads: Annotated[list[Section], Field(min_length=1)]
    networks: Annotated[list[Section], Field(min_length=1)]
    distilled: DistilledFacts | None
    controls: list[str] = []
    rows: list[TrainedRow]

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [name for row in self.rows for name in row.classifiers]
        of_a_head = [control for control in (None, *self.controls) for _ in self.networks]
        if [row.control for row in self.rows] != of_a_head * len(self.heads) or len(set(names)) < len(names):
            raise ValueError("must have a row for each head, control and network, and another name for each classifier")
        _check_distributions(self.rows)
        if any(len(row.per_class) != len(self.data.classes) for row in self.rows):
            raise ValueError("must have rows with as many classes as the data have")
        return self


class TrainedConfiguration(Document):
    """``config.yaml`` of ``ltdd train`` or ``ltdd evaluate``."""

    data: Section
    head: Section
    network: Section
    seed: int
    test_imbalances: Imbalances = []


class LossLine(Document):
    """A line of ``metrics.jsonl``."""

    step: Count
    loss: Loss


class SecondsLine(Document):
    """A line of ``times.jsonl``."""

    step: Count
    seconds: Seconds


class Sheet(Document):
    """Where the images are in ``distilled.png``: its text entry ``sheet``."""

    box: tuple[Count, Count, Count, Count]
    size: tuple[Positive, Positive]
    gap: Count
    rows: Annotated[int, Field(ge=1, le=1000)]
    columns: Annotated[int, Field(ge=1, le=1000)]

    model_config = ConfigDict(strict=False)  # a JSON list is a tuple here


def fault(error: ValidationError) -> str:
    """The first fault as half a sentence: ``rows.0.accuracy must be a valid number``."""
    first: Any = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(key) for key in first["loc"])
    text = {"missing": "is missing", "model_type": "must be a mapping", "dict_type": "must be a mapping"}.get(
        first["type"], first["msg"]
    )
    text = text.removeprefix("Value error, ").replace("Input should be", "must be").replace("Keys should", "must")
    return f"{place or 'it'} {text}"
