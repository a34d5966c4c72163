"""What makes a folder one of a run, looked at before torch is imported, so that any other is refused at once."""

from __future__ import annotations

from pathlib import Path

from ltdd_core import InputError

CONFIG, FACTS, REPORT = "config.yaml", "run.json", "report.json"
NAMED = 3  # runs of a folder of runs


def check_run(path: Path) -> None:
    """See that a folder holds something of a run, finished or not.

    Args:
        path: what the user named.

    Raises:
        InputError: it holds neither a configuration nor a result; the message has runs in it, if there are any.
    """
    if _is_run(path):
        return
    runs = sorted(str(file.parent) for file in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    found = f"It has runs in it: {', '.join(runs[:NAMED])}{more}."
    hint = found if runs else "Name one that ltdd distill, ltdd train or ltdd evaluate wrote."
    raise InputError(f"{path} is not the folder of a run: it has no {CONFIG}. {hint}")


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / REPORT).is_file()
