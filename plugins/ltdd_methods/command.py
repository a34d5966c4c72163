"""``ltdd compare-methods``: which method is the best on these images, in this time?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltdd_core import InputError, Interrupted, RunFailed, how_to_set, unknown
from ltdd_core.commands import (
    PATH,
    as_file_name,
    check_can_be_written,
    compute_options,
    consoles,
    data_options,
    names_of,
    only_json,
    open_setup,
    output_options,
    read_config,
)

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ltdd_core import Config, LongTailedSet
    from ltdd_methods.comparison import Outcome

VALIDATION = 0.2
"""Share of the training images that choose, where the data have no validation images."""
MOST_SEEDS = 1000


@click.command("compare-methods")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    help="Time that each method has to distil, with all that it trains beforehand.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Method to compare, repeatable; unless given, all that are installed.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1, max=MOST_SEEDS),
    default=1,
    show_default=True,
    help="Number of seeds of each method, from --seed on.",
)
@click.option("--ipc", metavar="N", help="Synthetic images per class; for several numbers see ltdd describe run.")
@click.option("--network", metavar="NAME", help="Network to match with and to train.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="NAME",
    default=("twostage",),
    show_default=True,
    help="Plugin that says which classifiers are trained beside the direct one; repeatable.",
)
@click.option("--out", type=PATH, help="Folder of the runs; unless given, runs/methods-DATA-MINUTES.")
@data_options
@compute_options
@output_options
def command(
    minutes: float,
    methods: tuple[str, ...],
    seeds: int,
    plugins: tuple[str, ...],
    out: Path | None,
    config_file: Path | None,
    preset: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Find out which method suits some images best.

    Each method is measured for a tenth of its time and then distils with as many steps as fit. What it trains
    beforehand is part of its time. Where that takes more than half of it, the method has its quick preset, such as
    dance-quick, with fewer and shorter trainings.

    The classifiers are the same for all methods, and are trained for the same number of epochs. A method keeps what it
    says of their learning rate and of its soft labels.

    Validation images choose the winner, and test images have no part in that. Where the data have no validation images,
    a fifth of the training images become some; --validation says another share. The same command goes on where it was
    stopped, and with more --seeds or another --method it does what is new.

    Minutes are those of a machine that does nothing else. The whole takes longer: classifiers are trained for every
    method and seed.
    """
    results, notes = consoles(as_json)
    wanted = _Wanted(minutes, methods, seeds, plugins, out, config_file, preset, assignments, given)
    with only_json(as_json):
        outcome, data = _compare(wanted, notes, quiet)
        document = _document(outcome, data, minutes)
    if as_json:
        click.echo(json.dumps(document))
    else:
        from ltdd_methods.shown import print_document

        print_document(results, document)
    if outcome.failed:
        names = ", ".join(outcome.failed)
        raise RunFailed(f"{len(outcome.failed)} of the methods failed: {names}. The same command tries them again.")


@dataclass
class _Wanted:
    """What the user asks for."""

    minutes: float
    methods: tuple[str, ...]
    seeds: int
    plugins: tuple[str, ...]
    out: Path | None
    config_file: Path | None
    preset: tuple[str, ...]
    assignments: tuple[str, ...]
    given: dict[str, Any]
    below: dict[str, Any] = field(default_factory=dict)
    """What holds unless the user says something else."""

    def config(self, method: str, seed: int | None = None, iterations: int = 0, preset: str = "") -> Config:
        """The configuration of a run; ``preset`` is one of the method, below those of the user.

        Raises:
            InputError: an unknown name or option, or a value out of range.
        """
        own: dict[str, Mapping[str, Any]] = {
            "--method": {"method": method},
            "--plugin": {"plugins": list(self.plugins)},
            "compare-methods": {"compute": {"keep": True}},
        }
        if seed is not None:
            own["--seeds"] = {"seed": seed}
        if iterations:
            own["--minutes"] = {"iterations": iterations}
        return read_config(
            dict(self.given),
            assignments=self.assignments,
            config_file=self.config_file,
            preset=(preset, *self.preset) if preset else self.preset,
            below=self.below,
            above=own,
        )


def _compare(wanted: _Wanted, notes: Console, quiet: bool) -> tuple[Outcome, LongTailedSet]:
    """All the work; on Ctrl-C say how to go on."""
    known = names_of("matcher")
    for method in wanted.methods:
        if method not in known:
            raise unknown("method", method, known)
    methods = list(dict.fromkeys(wanted.methods or known))
    first = wanted.config(methods[0])  # says what is wrong before torch is imported
    folder = wanted.out or Path("runs") / f"methods-{as_file_name(first.data.title)}-{wanted.minutes:g}"
    from ltdd_core import Display
    from ltdd_methods.comparison import PLAN, Plan, compare

    if not (folder / PLAN).exists():
        check_can_be_written(folder / PLAN, makes_folders=True)

    def report(text: str) -> None:
        if not quiet:
            notes.print(text, style="bold" if text.startswith("run ") else None, soft_wrap=True, markup=False)

    data = _data(wanted, methods[0])
    first = wanted.config(methods[0])  # with what the data have
    wanted.below["compute"] = {"store": str(folder / "networks")}
    # Said by the user's side, so that it holds for all methods, whatever their recipes say.
    wanted.below["training"] = {"distilled": {"epochs": first.training.on_distilled({}).epochs}}
    plan = Plan.open(folder, _asked(wanted, methods[0]))
    if "data" in wanted.below:
        report(
            f"the data have no validation images, so {len(_labels(data))} of the training images choose the "
            f"method; {how_to_set('data.validation')} says how many."
        )
    seeds = range(first.run.seed, first.run.seed + wanted.seeds)
    try:
        outcome = compare(
            methods,
            seeds,
            wanted.config,
            plan,
            data,
            60 * wanted.minutes,
            display=Display() if quiet else None,
            report=report,
        )
    except Interrupted as error:
        raise Interrupted(f"{error}: stopped; what is finished is kept, the same command goes on.") from error
    if not outcome.runs:
        reasons = {**outcome.left_out, **outcome.failed}
        said = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise InputError(f"no method has come to its end in {wanted.minutes:g} minutes: {said}. Give more --minutes.")
    return outcome, data


def _data(wanted: _Wanted, method: str) -> LongTailedSet:
    """The long-tailed set, with validation images.

    Raises:
        InputError: there are none, and the classes are too small to give some.
    """
    with open_setup(wanted.config(method)) as setup:
        data = setup.data
    if data.validation_images is None:
        wanted.below["data"] = {"validation": VALIDATION}
        with open_setup(wanted.config(method)) as setup:
            data = setup.data
    if data.validation_images is None or not len(data.validation_images):
        raise InputError(
            f"there are no validation images to choose with: leave out {how_to_set('data.validation', 0)}, or add some "
            "to the data."
        )
    return data


def _labels(data: LongTailedSet) -> Tensor:
    assert data.validation_labels is not None  # noqa: S101 - for the type checker; _data has looked
    return data.validation_labels


def _asked(wanted: _Wanted, method: str) -> dict[str, Any]:
    """What all runs of a folder have in common."""
    science = wanted.config(method).science()
    common = {key: value for key, value in science.items() if key not in ("matcher", "seed", "iterations")}
    return {"minutes": wanted.minutes, **common}


def _document(outcome: Outcome, data: LongTailedSet, minutes: float) -> dict[str, Any]:
    """What ``--json`` prints."""
    from ltdd_methods.comparison import entries_of, seconds_of
    from ltdd_methods.contest import placed, sentence

    entries, tests = entries_of(outcome, data), _labels(data).cpu().numpy()
    of_methods = placed([entry for entry in entries if entry.method], tests)
    others = [entry for entry in entries if not entry.method]
    return {
        "data": data.name,
        "minutes": minutes,
        "validation_images": len(tests),
        "rows": [one.to_json() for one in of_methods],
        "without_method": [one.to_json() for one in placed(others, tests)] if others else [],
        "methods": {
            method: {
                "seeds": [run.config.run.seed for run in runs],
                "iterations": runs[0].config.run.iterations if runs[0].config.matcher.component.iterative else 0,
                "seconds": seconds_of(runs),
                "preset": outcome.quick.get(method),
            }
            for method, runs in outcome.runs.items()
        },
        "winner": of_methods[0].to_json(),
        "sentence": sentence(of_methods, len(tests)),
        "left_out": outcome.left_out,
        "failed": outcome.failed,
    }
