"""Watch runs in trackio: ``ltdd distill ... --plugin trackio``, then ``trackio show --project ltdd``.

Trackio keeps its files where it always does (``TRACKIO_DIR``), on this machine only.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltdd_core import InputError, hookimpl

if TYPE_CHECKING:
    from ltdd_core import DistilledSet

PROJECT = "ltdd"
SHOWN = ("accuracy", "std", "worst", "group_accuracy")
"""Columns of the result table."""
_runs: dict[Path, Any] = {}
"""By the folder of the run; a process can have several, one after the other."""


@hookimpl
def ltdd_run_started(run: Any) -> None:
    """Begin a run of trackio, named like the folder, or resume it.

    Raises:
        InputError: trackio is not installed.
    """
    if find_spec("trackio") is None:
        raise InputError("trackio is not installed: pip install 'ltdd[trackio]'.")
    import trackio

    with _quiet():
        _runs[run.path] = trackio.init(
            project=PROJECT,
            name=str(run.path),
            config=run.config.to_tree(),
            resume="allow" if run.start else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


@hookimpl
def ltdd_step_finished(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """A point of each curve."""
    _runs[run.path].log(dict(metrics), step=step)


@hookimpl
def ltdd_evaluated(run: Any, row: Any) -> None:
    """Columns of the table, by the name of the line."""
    values = row.to_json()
    known = {f"{name}/{row.name}": values[name] for name in SHOWN if values[name] is not None}
    _runs[run.path].log(known, step=run.config.run.iterations)


@hookimpl
def ltdd_run_finished(run: Any, distilled: DistilledSet) -> None:
    """Write what is left."""
    _finish(run.path)


@hookimpl
def ltdd_run_failed(run: Any, error: BaseException) -> None:
    """What was logged stays."""
    _finish(run.path)


def _finish(path: Path) -> None:
    if _runs.pop(path, None) is not None:  # not there if the run ended before it started to be watched
        import trackio

        with _quiet():
            trackio.finish()


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Trackio prints to stdout, which belongs to ``--json``."""
    return contextlib.redirect_stdout(sys.stderr)
