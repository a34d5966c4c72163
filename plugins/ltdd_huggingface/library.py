"""The library ``datasets``: what it finds in a folder or on the hub, as splits; and what goes wrong, in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ltdd_core import InputError, how_to_set

SAVED_SPLITS, SAVED_ONE = "dataset_dict.json", "state.json"
"""The files by which a folder of ``save_to_disk`` is known."""
ONLY = "train"
"""What the split of a data set is called that has no name for it."""
LONGEST_REASON = 200
LOGGERS = "datasets", "huggingface_hub"


def check_installed() -> None:
    """See that the library is there; it is not imported.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("datasets") is None:
        raise InputError("datasets, the library of Hugging Face, is not installed: pip install 'ltdd[huggingface]'.")


def splits_of(place: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """The splits of a data set by name, each a ``datasets.Dataset`` whose images are not decoded yet.

    Args:
        place: a folder, or a name on the hub.
        config: which of the configurations of the data set; None: the only one.
        revision: branch, tag or commit on the hub; None: the newest.

    Raises:
        InputError: there is no such data set, or it cannot be read.
    """
    folder = Path(place)
    no_folder = "" if folder.is_dir() else "there is no such folder, and "
    try:
        with _quiet():
            found = _load(folder, place, config, revision)
    except (ConnectionError, TimeoutError) as error:
        raise InputError(
            f"{place!r}: {no_folder}the hub of Hugging Face cannot be reached ({_reason(error)}). Where there is a "
            f"network, save the data set with datasets.load_dataset({place!r}).save_to_disk('FOLDER'), and give that "
            f"folder: {how_to_set('data.name', 'hf:FOLDER')}."
        ) from error
    except Exception as error:  # the library raises whatever its readers and the hub lead it to
        if "Config name is missing" in str(error):
            raise InputError(
                f"{place!r}: choose with {how_to_set('data.config', 'NAME')}. {_reason(error)}."
            ) from error
        hint = "" if no_folder else f" {of_images(place)}"
        raise InputError(
            f"{place!r}: {no_folder}it is no data set of Hugging Face ({_reason(error)}).{hint}"
        ) from error
    return dict(found) if isinstance(found, Mapping) else {ONLY: found}


def of_images(place: str) -> str:
    """A sentence about folders of images, which the core reads as people have them."""
    return f"A folder of images is read with {how_to_set('data', {'name': 'folder', 'root': place})}."


def is_of_images(split: Any) -> bool:
    """Whether the library has taken a folder for one of images, since there are no tables in it."""
    return getattr(split.info, "builder_name", None) == "imagefolder"


def _load(folder: Path, place: str, config: str | None, revision: str | None) -> Any:
    datasets = import_module("datasets")
    if (folder / SAVED_SPLITS).is_file() or (folder / SAVED_ONE).is_file():
        return datasets.load_from_disk(str(folder))
    # A relative folder would be taken for a name on the hub, if one of its files is called as the folder is.
    where = str(folder.absolute()) if folder.is_dir() else place
    return datasets.load_dataset(where, config, revision=revision)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about each attempt to reach the hub, and no bars of progress in a log."""
    datasets = import_module("datasets")
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    bars = datasets.are_progress_bars_disabled() or (sys.stderr is not None and sys.stderr.isatty())
    try:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        if not bars:
            datasets.disable_progress_bars()
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."
