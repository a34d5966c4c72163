"""Watch runs in TensorBoard: ``ltdd distill ... --plugin tensorboard``, then ``tensorboard --logdir runs``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltdd_core import InputError, hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ltdd_core import DistilledSet

SHOWN = ("accuracy", "std", "worst", "group_accuracy")
"""Columns of the result table."""
_writers: dict[Path, SummaryWriter] = {}
"""By the folder of the run; a process can have several, one after the other."""


@hookimpl
def ltdd_run_started(run: Any) -> None:
    """Write into the folder ``tensorboard`` of the run; steps that are repeated after a crash replace the earlier ones.

    Raises:
        InputError: TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed: pip install 'ltdd[tensorboard]'.")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(run.path / "tensorboard", purge_step=run.start)
    writer.add_text("configuration", "```yaml\n" + (run.path / "config.yaml").read_text(encoding="utf-8") + "```")
    _writers[run.path] = writer


@hookimpl
def ltdd_step_finished(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """A point of each curve."""
    for name, value in metrics.items():
        _writers[run.path].add_scalar(f"step/{name}", value, step)


@hookimpl
def ltdd_evaluated(run: Any, row: Any) -> None:
    """A bar for each column of the table, by the name of the line."""
    values = row.to_json()
    for name in SHOWN:
        if values[name] is not None:
            _writers[run.path].add_scalar(f"{name}/{row.name}", values[name], run.config.run.iterations)


@hookimpl
def ltdd_run_finished(run: Any, distilled: DistilledSet) -> None:
    """The distilled images as networks see them, from head to tail, IPC in a row; a class with fewer leaves room."""
    import torch
    from torchvision.utils import make_grid

    from ltdd_core import by_count

    try:
        seen = distilled.decoded()
        images, columns = distilled.normalisation.invert(seen.images), max(distilled.ipc_of_class)
        classes = [images[seen.labels == label] for label in by_count(run.data.counts)]
        room = [own.new_ones(-len(own) % columns, *own.shape[1:]) for own in classes]
        images = torch.cat([part for parts in zip(classes, room, strict=True) for part in parts])
        sheet = make_grid(images, nrow=columns, padding=1, pad_value=1)
        _writers[run.path].add_image("distilled", sheet, run.config.run.iterations)
    finally:
        _close(run.path)


@hookimpl
def ltdd_run_failed(run: Any, error: BaseException) -> None:
    """Close the writer; the written values stay."""
    _close(run.path)


def _close(path: Path) -> None:
    writer = _writers.pop(path, None)  # not there if the run ended before it started to be watched
    if writer is not None:
        writer.close()
