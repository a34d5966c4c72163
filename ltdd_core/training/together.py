"""Train at once what would be trained one after another, before it is asked for.

Whoever is about to ask for networks of several seeds, or of several numbers, says so beforehand.  Those that are alike
are trained in one loop and put into the network store, where they are found when they are asked for.  A network is kept
under the same key as one that is trained alone, and is the same up to rounding.  What cannot be trained at once is left
to those who ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.errors import RunFailed, is_out_of_memory
from ltdd_core.identity import digest
from ltdd_core.networks.job import Epoch, Job, Key, Start
from ltdd_core.networks.network import Network
from ltdd_core.networks.store import NetworkStore, Plan, Trained
from ltdd_core.networks.trajectory import Record, Report, Trajectory
from ltdd_core.networks.unfinished import Claim
from ltdd_core.progress import Display
from ltdd_core.training.cost import Ledger
from ltdd_core.training.fitting import bytes_of_step
from ltdd_core.training.loop import Learner, UnequalEpochs
from ltdd_core.training.models import can_be_stacked
from ltdd_core.training.network_training import NetworkTraining
from ltdd_core.training.trainer import Trainer

MOST = 16
"""Networks at once on a GPU, at most, where nobody says how many."""
FILLS = 1e11
"""Multiply-adds of a step that keep a GPU busy; networks with such steps are trained alone.

An H200 takes 4 ms for them in fp32, and Python takes 6 ms to start the operations of a step.  What is gained below has
not been measured on a GPU.
"""
SHARE_OF_MEMORY = 0.3
"""Of the free memory of a GPU, which networks at once may take."""
OF_A_WEIGHT = 6
"""Numbers for each weight: itself, its gradient, what an optimiser remembers, an average, and room."""


@dataclass(frozen=True)
class Ask:
    """Some work that asks a trainer for networks."""

    trainer: Trainer
    work: Callable[[Trainer], object]
    """Such as ``lambda trainer: head.fit(sets, trainer)``.  It may be done more than once, from its beginning to the
    first network that is not there yet."""


def most_at_once(trainer: Trainer) -> int:
    """How many networks a trainer may train at once, if they are small."""
    if ranks.count() > 1 or isinstance(trainer.store, Plan):
        return 1
    if trainer.together == "auto":
        return MOST if trainer.device.type == "cuda" else 1
    return trainer.together


def train_ahead(asks: Sequence[Ask]) -> None:
    """Train at once what some works will ask for, as far as it is alike.

    A work asks for one network after another, and for some of them only when it has seen others.  So the first one is
    found out that each work lacks; those that are alike are trained; and then the next one, until no two are alike.
    A training that diverges is left to the work that asks for it, which goes on from where it was kept last.

    Args:
        asks: the works, each with its trainer.

    Raises:
        InputError: the folder of a store cannot be written, or a file in it is damaged.
        Interrupted: it was asked to stop; what is done is saved.
    """
    if len(asks) < 2 or (most := most_at_once(asks[0].trainer)) == 1:
        return
    trainer, alone, trained = asks[0].trainer, set[str](), False
    with trainer.ledger.spending():
        wanted = _wanted(asks)
        several = len(wanted) > 1
        while sum(_train_group(group, most, alone) for group in _groups(wanted, alone)):
            wanted, trained = _wanted(asks), True
    if several and not trained and trainer.together != "auto":
        trainer.display.note(
            f"{len(wanted)} networks are trained alone: they are not alike, or torch cannot train them at once"
        )


class _Missing(Exception):
    """A work has come to a network that is not there yet."""

    def __init__(self, job: Job) -> None:
        self.job = job


class _Looking(NetworkStore):
    """Another store, as long as it has what is asked for."""

    def __init__(self, store: NetworkStore) -> None:
        super().__init__(store.folder)
        self._store = store

    def trained(self, job: Job, keep_going: Callable[[], None] = lambda: None) -> Trained:
        """A network that is there.

        Raises:
            _Missing: it is not.
        """
        if not self._store.has(job):
            raise _Missing(job)
        return self._store.trained(job, keep_going)

    def artefact(
        self, key: Key | None, compute: Callable[[], dict[str, Tensor]], keep_going: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Of the other store."""
        return self._store.artefact(key, compute, keep_going)


Wanted = tuple[NetworkStore, Job]
"""A network that is not there yet, and the store that is to keep it."""


def _wanted(asks: Sequence[Ask]) -> list[Wanted]:
    """What the works will train next, each network once."""
    wanted: dict[str, Wanted] = {}
    for ask in asks:
        looking = ask.trainer.changed(store=_Looking(ask.trainer.store), ledger=Ledger(), display=Display())
        try:
            ask.work(looking)
        except _Missing as missing:
            if missing.job.key is not None:
                seen = replace(_training(missing.job), display=ask.trainer.display)
                job = replace(missing.job, training=seen)
                wanted.setdefault(digest(missing.job.key), (ask.trainer.store, job))
    return list(wanted.values())


def _groups(wanted: Sequence[Wanted], alone: set[str]) -> list[list[Wanted]]:
    """Networks in groups of what is alike; those of a kind in ``alone`` are left out."""
    groups: dict[str, list[Wanted]] = {}
    for store, job in wanted:
        if (kind := _training(job).kind) is not None and kind not in alone:
            groups.setdefault(kind, []).append((store, job))
    return list(groups.values())


def _train_group(group: Sequence[Wanted], most: int, alone: set[str]) -> bool:
    """Train networks that are alike; whether any was trained.  Their kind is noted in ``alone`` if one was not."""
    first, trained = _training(group[0][1]), False
    for some in _parts(group, min(most, _fitting(first))):
        with ExitStack() as held:
            claims = [claim for store, job in some if (claim := held.enter_context(store.claimed(job))) is not None]
            for same in _alike(claims):
                networks = [claim.job.make() for claim in same]
                if _train(same, networks):
                    taken = [claim.seconds for claim in same]
                    for claim, network, seconds in zip(same, networks, taken, strict=True):
                        claim.keep(network, seconds)
                    trained = True
                else:
                    alone.add(str(first.kind))
    return trained


def train_trajectories_ahead(trainer: Trainer, trajectories: Sequence[Trajectory], report: Report) -> None:
    """Train at once the trajectories among some that are not complete, and that no other process trains.

    A training that diverges is left to be trained alone, from the last epoch that was kept.

    Args:
        trainer: says how many at once.
        trajectories: of networks of one kind.
        report: told ``(number, epochs it has behind it)`` when one is begun, and after each epoch.

    Raises:
        InputError: a file is damaged, or cannot be written.
        Interrupted: it was asked to stop; what is done is saved.
    """
    if (most := most_at_once(trainer)) == 1:
        return
    left: dict[tuple[str, int], list[int]] = {}  # by their kind, and the epochs that they have behind them
    for number, trajectory in enumerate(trajectories):
        done, kind = trajectory.epochs(), _training(trajectory.job).kind
        if done < trajectory.job.epochs and kind is not None:
            left.setdefault((kind, done), []).append(number)
    for numbers in left.values():
        for some in _parts(numbers, min(most, _fitting(_training(trajectories[numbers[0]].job)))):
            with ExitStack() as held:
                mine = [number for number in some if held.enter_context(trajectories[number].alone())]
                begun = [_Recorded.begin(trajectories[number], number, report) for number in mine]
                for same in _alike([one for one in begun if one.start.done < one.job.epochs]):
                    if not _train(same, [one.record.network for one in same]):
                        return


@dataclass(frozen=True)
class _Recorded:
    """A trajectory that is about to go on, as :class:`Claim` is a network of a store."""

    job: Job
    record: Record
    start: Start
    report: Callable[[int], None]

    @classmethod
    def begin(cls, trajectory: Trajectory, number: int, report: Report) -> _Recorded:
        """From its file, or from the initial weights."""
        record = Record.begin(trajectory, trajectory.job.make())
        report(number, record.done)
        return cls(trajectory.job, record, Start(record.done), partial(report, number))

    def begin_sharing(self, count: int) -> None:
        """Its training begins now, at once with others."""
        self.record.begin_sharing(count)

    def after_epoch(self, epoch: Epoch) -> None:
        """Told of each epoch at its end."""
        self.record.after_epoch(epoch)
        self.report(epoch.done)

    def stop(self) -> None:
        """Its training stops before its end: write what it takes to go on."""
        self.record.save()


Begun = TypeVar("Begun", Claim, _Recorded)
Item = TypeVar("Item")


def _training(job: Job) -> NetworkTraining:
    training: NetworkTraining = job.training
    return training


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Parts of two or more, at most ``size``."""
    parts = (items[begin : begin + size] for begin in range(0, len(items), size))
    yield from (part for part in parts if len(part) > 1)


def _alike(begun: Sequence[Begun]) -> list[list[Begun]]:
    """Those that go on after the same number of epochs, if they are two or more."""
    by_start: dict[tuple[int, bool], list[Begun]] = {}
    for one in begun:
        by_start.setdefault((one.start.done, bool(one.start.state)), []).append(one)
    return [same for same in by_start.values() if len(same) > 1]


def _train(begun: Sequence[Claim | _Recorded], networks: Sequence[Network]) -> bool:
    """Train networks at once; whether it could be done.

    If it could not, or if one diverged, what was kept last is written, and each goes on alone.
    """
    first, *others = (_training(one.job) for one in begun)
    if not can_be_stacked(networks, first.data.image_shape, first.precision):
        return False
    learners = [_learner(one, network) for one, network in zip(begun, networks, strict=True)]
    for one in begun:
        one.begin_sharing(len(begun))
    try:
        first.train_with(others, learners)
    except KeyboardInterrupt:  # Interrupted is one
        _stop(begun)
        raise
    except (RunFailed, UnequalEpochs):
        _stop(begun)
        return False
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _stop(begun)
        return False
    return True


def _learner(one: Claim | _Recorded, network: Network) -> Learner:
    return _training(one.job).learner(network, one.start, one.after_epoch)


def _stop(begun: Sequence[Claim | _Recorded]) -> None:
    for one in begun:
        one.stop()


# ---- how many ------------------------------------------------------------------------------------


def _fitting(training: NetworkTraining) -> int:
    """How many networks of a kind may be trained at once on their device."""
    if training.together != "auto":
        return training.together
    if training.device.type != "cuda":
        return 1
    if training.multiply_adds_of_step() >= FILLS:
        return 1
    room = SHARE_OF_MEMORY * torch.cuda.mem_get_info(training.device)[0]
    return max(1, int(min(MOST, room // bytes_of_training(training))))


def bytes_of_training(training: NetworkTraining) -> int:
    """What the training of a network takes, about: its weights, what goes with them, and a step."""
    network = training.make()
    weights = sum(value.nbytes for value in network.state_dict().values())
    images = min(training.options.batch, len(training.data))
    return OF_A_WEIGHT * weights + bytes_of_step(network, training.data.image_shape, images, training.precision)
