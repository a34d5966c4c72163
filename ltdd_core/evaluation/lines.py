"""The lines of a result table: which head is trained on which set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ltdd_core.config.model import DEFAULT_NAMES, Config, Selection
from ltdd_core.config.resolve import select
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.controls import TEACHER, images_of_control
from ltdd_core.evaluation.head import Recipe
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.setup import DISTILLED


@dataclass(frozen=True)
class Line:
    """A line of a result table before it is known: a head, and the set that trains each of its stages."""

    name: str
    """The line, as the table calls it."""
    head: Selection
    """The classifier head."""
    sets: tuple[str, ...]
    """``original`` or ``distilled`` for each stage of the head."""
    control: str | None = None
    """What stands in the place of the distilled set, with its labels; see :mod:`ltdd_core.evaluation.controls`."""

    def images(self, data: LongTailedSet, distilled: DistilledSet | None) -> int:
        """How many images train the head, over all its stages."""
        size = {"original": len(data.train_labels), "distilled": 0 if distilled is None else len(distilled.labels)}
        if self.control is not None:
            size["distilled"] = images_of_control(self.control, data, distilled)
            if self.control == TEACHER:
                return size["original"]
        return sum(size[name] for name in self.sets)


def check_recipe(config: Config) -> tuple[str, ...]:
    """Which set trains which stage of the configured head.

    Raises:
        InputError: recipe and head do not go together.
    """
    recipe: Recipe = config.recipe.make()
    return recipe.assign(config.head.component.stages)


def lines_of(config: Config, catalog: Catalog) -> list[Line]:
    """The lines that a run answers, the head that was asked for last.

    A head of one stage is trained on the original and on the distilled set.  Beside one of several stages stand the
    plain head on each set, and on the original set the opponent that the head names.

    Raises:
        InputError: recipe and head do not go together, or the opponent is not installed.
    """
    if config.head.component.stages == 1:
        return [_one_stage(config.head, (data,)) for data in ("original", "distilled")]
    plain = select(catalog, "head", {"name": DEFAULT_NAMES["head"]})
    lines = [_one_stage(plain, ("original",))]
    opponent = config.head.component.opponent
    if opponent not in (None, plain.name):
        lines.append(_one_stage(select(catalog, "head", {"name": opponent}), ("original",)))
    return [*lines, _one_stage(plain, ("distilled",)), line_of(config)]


def line_of(config: Config) -> Line:
    """The configured head and recipe.

    Raises:
        InputError: they do not go together.
    """
    sets = check_recipe(config)
    if config.head.component.stages > 1:
        return Line(f"{config.head.component.title}, {' + '.join(sets)}", config.head, sets)
    return _one_stage(config.head, sets)


def control_of(line: Line, control: str) -> Line:
    """The line of a control: what the classifier of a line would be with other images in the place of the distilled.

    Raises:
        InputError: no distilled image trains the classifier.
    """
    if DISTILLED not in line.sets:
        raise InputError(f"no distilled image trains {line.name!r}, so it has no control.")
    if control == TEACHER:
        return replace(line, name=TEACHER, control=control)
    where, _, how = line.name.rpartition(DISTILLED)
    return replace(line, name=f"{where}{control}{how}", control=control)


def _one_stage(head: Selection, sets: tuple[str, ...]) -> Line:
    how = "direct" if head.name == DEFAULT_NAMES["head"] else head.component.title
    return Line(f"{sets[0]}, {how}", head, sets)
