"""Trajectories of networks that are trained on the long-tailed set, for methods that follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from ltdd_core.errors import OptionError
from ltdd_core.evaluation.head import ClassifierHead
from ltdd_core.networks.job import Job
from ltdd_core.networks.network import MakeNetwork
from ltdd_core.networks.trajectory import Numbers, Report, Trajectory, train_all
from ltdd_core.training.cost import FORWARD_AND_BACKWARD, TrainingCost, multiply_adds
from ltdd_core.training.measuring import seconds_of_training
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.together import train_trajectories_ahead
from ltdd_core.training.trainer import Trainer


class Trajectories:
    """Networks of one kind that are trained in the same way on the long-tailed set, numbered from 0.

    They differ in their initial weights and in everything random of their training, a function of seed and number.
    ``trajectories[3]`` is the :class:`Trajectory` of network 3, trained or not.

    Args:
        folder: of the network store that keeps them.
        trainer: with the options of this training.
        data: the images, in the order of a sampler.
        head: trains each network; the loss is the head's.
        name: what they are called: network 3 is ``"NAME 3"``.
        numbers: how parameters are kept on disk.
        make: makes the network of a number with its initial weights; the trainer's unless given.

    Raises:
        OptionError: the head does not train one network, as it is, with one loss from beginning to end.
        ValueError: the training has momentum, AdamW or an average, and so cannot resume from the weights alone.
    """

    folder: Path
    """Of the network store that keeps them."""
    name: str
    """What they are called."""

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        data: TrainingSet,
        head: ClassifierHead,
        name: str,
        numbers: Numbers = "fp32",
        make: Callable[[int], MakeNetwork] | None = None,
    ) -> None:
        if trainer.options[data.name].remembers:
            raise ValueError("a training with momentum, AdamW or an average cannot resume from the weights alone")
        self.folder, self.name, self._numbers = folder, name, numbers
        self._trainer, self._data, self._head, self._make = trainer, data, head, make
        self._get = cache(self._made)
        self[0]  # see that the head suits before any work

    def __getitem__(self, number: int) -> Trajectory:
        """The trajectory of a network, trained or not."""
        return self._get(number)

    def train(self, count: int, report: Report, keep_going: Callable[[], None] = lambda: None) -> None:
        """Train the first ``count``; see :func:`ltdd_core.networks.trajectory.train_all`.

        Several processes may do so at the same time, and share the work.

        Args:
            count: how many.
            report: told ``(number, epochs it has behind it)`` when one is begun or found, and after each epoch.
            keep_going: called between networks; raises to stop.

        Raises:
            InputError: a file is damaged, or the folder cannot be written.
            RunFailed: a training diverged.
            Interrupted: it was asked to stop; what is done is saved.
        """
        trajectories = [self[number] for number in range(count)]
        self._announce([each.job.epochs - each.epochs() for each in trajectories])
        ledger = self._trainer.ledger
        with ledger.spending():
            train_trajectories_ahead(self._trainer, trajectories, report)
            train_all(trajectories, report, keep_going)
        for trajectory in trajectories:
            ledger.note(trajectory.key, partial(self._cost, trajectory))

    def _cost(self, trajectory: Trajectory) -> TrainingCost:
        of_an_image = FORWARD_AND_BACKWARD * multiply_adds(trajectory.job.make().eval(), self._data.image_shape)
        seen = trajectory.job.epochs * len(self._data)
        return TrainingCost(seen, trajectory.seconds(), seen * of_an_image)

    def _announce(self, left: Sequence[int]) -> None:
        """Tell how long the epochs will take that are left of each; of compiled networks nobody knows."""
        trainer, options = self._trainer, self._trainer.options[self._data.name]
        if trainer.compiling is True or not any(each > 0 for each in left):
            return

        def seconds() -> list[float]:
            of_one = seconds_of_training(trainer, self._data, options)
            return [of_one * each / options.passes(len(self._data)) for each in left if each > 0]

        trainer.display.beforehand(seconds)

    def _made(self, number: int) -> Trajectory:
        trainer = self._trainer.part(f"{self.name} {number}")
        if self._make is not None:
            trainer = trainer.changed(make=self._make(number))
        jobs = trainer.plan(lambda planning: self._head.fit([self._data], planning)) if self._head.stages == 1 else []
        if fault := self._fault(jobs):
            raise OptionError({("head",): f"the head {fault}"})
        return Trajectory(self.folder, jobs[0], self._numbers)

    def _fault(self, jobs: list[Job]) -> str | None:
        """What keeps the trainings of a head from being one trajectory."""
        if self._head.stages > 1 or len(jobs) > 1:
            return "trains several networks; a trajectory is that of one."
        if not jobs:
            return "trains no network, so there is no trajectory."
        key = jobs[0].key
        if key is None:
            return "has a loss, or the sampler an order, that cannot be told from others: nothing could be found again."
        if key["outputs"] != self._data.classes:
            return "trains a network that has not one logit for each class."
        if key["layer"] is not None or key["loss_at"] is not None:
            return "changes the last layer, or the loss during training; a trajectory is of the network as it is."
        return None
