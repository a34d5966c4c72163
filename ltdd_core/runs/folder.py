"""The folder of a run: one configuration, one seed, one process at a time, nothing lost."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, NonNegativeFloat
from torch import Tensor

from ltdd_core import locking
from ltdd_core.config.layers import from_file
from ltdd_core.config.model import Config, differences
from ltdd_core.errors import InputError, RunFailed, WriteError, how_to_set
from ltdd_core.networks.store import FOLDER as NETWORKS
from ltdd_core.runs.checkpoint import CHECKPOINT, PARTS, load_checkpoint, save_checkpoint
from ltdd_core.runs.moved import found_again
from ltdd_core.runs.steplog import StepLog, lines_before
from ltdd_core.storage import json_text, parse_json, sync, write_atomically, writing

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
TIMES = "times.jsonl"
"""Seconds a step; a file of its own, since metrics are the same, bit for bit, each time that a run is made."""
FACTS = "run.json"
RESULT = "report.json"
LOCK = ".lock"
CLASSIFIERS = "classifiers"
"""The folder of the trained classifiers within that of a run."""
FREE = {
    *("data.root", "data.title", "data.train", "data.test", "data.val", "data.class_names"),
    *("compute.device", "compute.threads", "compute.checkpoint_every", "compute.chunk", "compute.together"),
    *("compute.store", "compute.keep", "test_imbalances"),
}
"""What may change when a run is resumed: where it runs, where its data lie (a digest knows them again), what it keeps,
and on which test distributions it is scored.  Another device, number of threads, chunk or number of networks that are
trained at once can change the last bits of a sum, so bit for bit holds only where these stay."""


ITERATIONS = "iterations"
"""The option that says how many steps a run takes."""


class RunFolder:
    """Reads and writes the files of one run.  Use :meth:`open`, which also locks the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, config: Config, *, resume: bool, warn: Callable[[str], None] = warnings.warn
    ) -> Iterator[RunFolder]:
        """Make the folder, or resume in it, and keep other processes out until the block ends.

        A new one holds no run yet: :meth:`begin` is for when all is ready.

        Raises:
            InputError: it holds a run already and ``resume`` is not asked for, or one of another
                configuration, or it belongs to a running process, or it cannot be written.
        """
        folder = cls(path)
        folder.check(config, resume=resume)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with folder.locked(warn):
            folder.check(config, resume=resume)  # again: another process may have been faster
            folder._remove_temporary()
            yield folder

    def _remove_temporary(self) -> None:
        """What a process left that was killed while it wrote; a report may be written at any time, so not its."""
        for ending in ("safetensors", "json", "jsonl", "yaml", "png"):
            for folder in (self.path, self.path / CLASSIFIERS, self.path / PARTS):
                for file in folder.glob(f".*.{ending}.*tmp"):
                    file.unlink(missing_ok=True)

    def begin(self, config: Config) -> None:
        """Write the configuration; from now on the folder holds a run."""
        defaults = f"# Every option is spelt out; those that nobody set have the defaults of ltdd {version('ltdd')}.\n"
        self.write_text(CONFIG, defaults + yaml.safe_dump(config.to_tree(), sort_keys=False))

    def check(self, config: Config, *, resume: bool) -> None:
        """Whether a run with this configuration may begin, or resume, here.

        Raises:
            InputError: as :meth:`open`.
        """
        if self.is_empty():
            self._check_can_be_made()
            return
        if resume:
            self._check_can_resume(config)
            return
        can_resume = config.matcher.component is not None and (self.path / CONFIG).exists()
        state = "holds a run already" if (self.path / CONFIG).exists() else "is not empty: empty it"
        how = f": resume it with {how_to_set('resume', True)}" if can_resume else ""
        joined = ", or" if ":" in state + how else ":"
        raise InputError(f"{self.path} {state}{how}{joined} name another folder with {how_to_set('out')}.")

    def is_empty(self) -> bool:
        """Whether no run has begun here.

        Hidden files are what a process leaves that dies at once, and trained networks are no run.

        Raises:
            InputError: it is not a folder.
        """
        with writing(self.path):  # a name may be too long, a folder closed
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"{self.path} is a file; a run needs a folder.")
            return not self.path.exists() or all(
                file.name.startswith(".") or file.name == NETWORKS for file in self.path.iterdir()
            )

    def _check_can_be_made(self) -> None:
        place = self.path.absolute()
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"{self.path} cannot be made: {there} is no folder that can be written to.")

    @contextmanager
    def locked(self, warn: Callable[[str], None] = warnings.warn) -> Iterator[None]:
        """Keep other processes out of the folder until the block ends; ``warn`` is told where that is not possible.

        Raises:
            InputError: one is in there already, or the folder cannot be locked.
            RunFailed: the work in the block could not write a file; that is not the fault of its input.
        """
        with locking.locked(self.path / LOCK, wait=False, warn=warn) as mine:
            if not mine:
                raise InputError(f"{self.path} is in use by another process.")
            try:
                yield
            except WriteError as error:
                raise RunFailed(f"{error} What was saved before is kept.") from error

    def stored_config(self) -> dict[str, Any]:
        """The configuration tree of the run in this folder, with the paths under which its files are found from here.

        Raises:
            InputError: there is no run, or its configuration is damaged.
        """
        if not (self.path / CONFIG).is_file():
            raise InputError(f"{self.path} holds no run to resume.")
        tree = from_file(self.path / CONFIG).tree
        sessions = self.stored(FACTS, _RunFacts).sessions if (self.path / FACTS).exists() else []
        known = sessions[-1] if sessions else {}  # an earlier version noted no paths
        return found_again(tree, known.get("paths", {}), known.get("run", ""), self.path)

    def check_same(self, config: Config) -> None:
        """Refuse a run of another configuration; where and on what it runs may differ.

        An option that an earlier version did not have is taken to have had today's default.

        Raises:
            InputError: naming the first options that differ.
        """
        self._check_differences(config, FREE)

    def _check_differences(self, config: Config, free: AbstractSet[str]) -> None:
        changes = differences(self.stored_config(), config.to_tree(), config.changes())
        differing = [f"{key} {how}" for key, how in changes.items() if key not in free]
        if differing:
            raise InputError(f"{self.path} holds a run of another configuration: {'; '.join(differing[:3])}.")

    def _check_can_resume(self, config: Config) -> None:
        """As :meth:`check_same`, but for the number of steps, which may change: no step depends on it.

        Raises:
            InputError: as :meth:`check_same`, or the run has taken more steps than that, or cannot take more.
        """
        if config.matcher.component is None:
            self.check_same(config)
            return
        self._check_differences(config, FREE | ({ITERATIONS} & self.stored_config().keys()))
        if not self.has_other_length(config) or not config.matcher.component.iterative:
            return
        done, wanted = self.steps_done(), config.run.iterations
        if done > wanted:
            raise InputError(f"{self.path} has taken {done} steps already, and the run would have {wanted}.")
        if done == 0 and (self.path / RESULT).exists():
            raise InputError(f"{self.path} has no {CHECKPOINT} from which more steps could be taken.")

    def began(self) -> str:
        """When the last process began that worked on the run, UTC in ISO 8601; whoever looked at it since is none."""
        try:
            return str(self.stored(FACTS, _RunFacts).sessions[-1]["began"])
        except (InputError, LookupError):  # before the data are read, or of an earlier version
            changed = (self.path / CONFIG).stat().st_mtime if (self.path / CONFIG).exists() else 0.0
            return datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")

    def has_other_length(self, config: Config) -> bool:
        """Whether the run in this folder was to take another number of steps."""
        now = config.run.iterations
        return (self.path / CONFIG).exists() and self.stored_config().get(ITERATIONS, now) != now

    def is_scored_otherwise(self, config: Config) -> bool:
        """Whether the run in this folder was to be scored on other test distributions."""
        known = self.stored_config().get("test_imbalances", [])
        return list(known) != list(config.run.test_imbalances)

    def steps_done(self) -> int:
        """How many steps the checkpoint of the run has behind it; 0 where there is none.

        Raises:
            InputError: it is damaged.
        """
        checkpoint = self.load_checkpoint()
        return 0 if checkpoint is None else checkpoint[0]

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        write_atomically(self.path / name, text.encode())

    def write_json(self, name: str, document: Any) -> None:
        """Write a JSON document atomically."""
        self.write_text(name, json_text(document, indent=1) + "\n")

    def lines(self) -> list[str]:
        """The names of the lines of the run's table; none before it is written.

        Raises:
            InputError: the file is damaged.
        """
        if not (self.path / RESULT).exists():
            return []
        return [row.name for row in self.stored(RESULT, _Table).rows]

    def seconds_taken(self) -> float | None:
        """What the process that finished the run took; None before that."""
        return self.stored(RESULT, _Result).seconds if (self.path / RESULT).exists() else None

    def begin_session(
        self, data: Mapping[str, Any], session: Mapping[str, Any], *, distilled: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Note which data the run is about, and what this process computes on; one entry a process.

        A process that only looks at a finished run is none of them.  A run of an earlier version has no digests of its
        data, and resumes where the rest is the same.

        Args:
            data: what is known of them.
            session: what this process computes on.
            distilled: the distilled set, with its ``digest``, where classifiers are trained on one that exists.

        Returns:
            The sessions before this one.

        Raises:
            InputError: the run began with other data, with another distilled set, or with other pretrained weights.
        """
        sessions = earlier = self.check_data(data)
        if sessions:
            before = self.stored(FACTS, _RunFacts).distilled or {}
            if before.get("digest") != (distilled or {}).get("digest"):
                another = f"name another folder with {how_to_set('out')}"
                raise InputError(f"{self.path} was begun with another distilled set: {another}.")
            if sessions[-1].get("weights") not in (None, session.get("weights")):
                raise InputError(
                    f"{self.path} holds a run with other pretrained weights: their file has changed since it began. "
                    "Delete the folder, and the run begins again."
                )
        if not (self.path / RESULT).exists():
            sessions = [*sessions, {**session, "run": os.path.abspath(self.path)}]  # noqa: PTH100 - links stay
        made_of = {} if distilled is None else {"distilled": distilled}
        self.write_json(FACTS, {"data": data, **made_of, "sessions": sessions})
        return earlier

    def began_compiled(self) -> bool | None:
        """Whether the networks that are matched with were compiled in the process that worked on the run last.

        None where none has, or where it was one of an earlier version, which did not note it.

        Raises:
            InputError: what is known of the processes is damaged.
        """
        sessions = self.stored(FACTS, _RunFacts).sessions if (self.path / FACTS).exists() else []
        known = sessions[-1].get("compiled") if sessions else None
        return known if isinstance(known, bool) else None

    def check_data(self, data: Mapping[str, Any]) -> list[Any]:
        """See that the run, if one has begun here, is about these data; its sessions so far.

        Raises:
            InputError: the run began with other data.
        """
        if not (self.path / FACTS).exists():
            return []
        stored, now = self.stored(FACTS, _RunFacts), json.loads(json_text(data))
        if _of_images(stored.data) != _of_images(
            {key: value for key, value in now.items() if key in stored.data or key != "digest"}
        ):
            raise InputError(
                f"{self.path} holds a run on other images: the data have changed since it began. "
                "Delete the folder, and the run begins again."
            )
        return stored.sessions

    def save_checkpoint(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep what the next step depends on; ``step`` is how many are done, and the logs have lines of all of them."""
        for name in (METRICS, TIMES):
            if (self.path / name).exists():
                sync(self.path / name)
        save_checkpoint(self.path, step, state)

    def load_checkpoint(self) -> tuple[int, dict[str, Tensor]] | None:
        """Steps done and the state after them; None if there is no checkpoint yet.

        Raises:
            InputError: it is damaged.
        """
        return load_checkpoint(self.path)

    def log_from(self, name: str, step: int, warn: Callable[[str], None] = lambda text: None) -> StepLog:
        """The log of that name, with what is younger than ``step``, or damaged, taken out.

        Args:
            name: of the file.
            step: how many steps the run has done.
            warn: is told in one line if the log does not have all of those steps.
        """
        path = self.path / name
        kept = list(lines_before(step, path.read_bytes())) if path.is_file() else []
        if len(kept) < step:
            warn(f"{path} has lost {step - len(kept)} of the {step} steps before this one.")
        self.write_text(name, "".join(kept))
        return StepLog(path)

    def stored(self, name: str, model: type[Stored]) -> Stored:
        """A JSON document in the folder.

        Raises:
            InputError: it is not there, damaged, or not as the model says.
        """
        try:
            return model.model_validate(parse_json((self.path / name).read_bytes()))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / name} is damaged, or from another version of ltdd.") from error


Stored = TypeVar("Stored", bound=BaseModel)


class _RunFacts(BaseModel):
    """``run.json``."""

    data: dict[str, Any]
    sessions: list[dict[str, Any]]
    distilled: dict[str, Any] | None = None


class _Result(BaseModel):
    """What is read of ``report.json``."""

    seconds: NonNegativeFloat


class _NamedRow(BaseModel):
    """What is read of a row of ``report.json``."""

    name: str


class _Table(BaseModel):
    """The rows of ``report.json``."""

    rows: list[_NamedRow]


def _of_images(data: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of data without what they are called, and what the digest of all images says already."""
    return {key: value for key, value in data.items() if key not in ("name", "test_digest")}
