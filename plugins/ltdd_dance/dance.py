"""DANCE (Zhang et al., "DANCE: Dual-View Distribution Alignment for Dataset Condensation", IJCAI 2024).

Some networks are trained beforehand, and their initial weights are kept with their trained ones.  Each step takes such
a pair of weights and matches in a network between the two, a *pseudo long-term* one: it stands for a stage of training
that did not have to be followed,

    theta = l theta_initial + (1 - l) theta_trained,    l ~ U(0, 1),
    sum_c || mean_{x in T_c} f_theta(A(x)) - mean_{s in S_c} f_theta(A(s)) ||^2,

where T_c are up to 128 real images of class c and S_c the tiles of its synthetic images.  Then the trained network of
the same pair calibrates, see :mod:`ltdd_dance.calibrated`.  Defaults are those of the public code; its networks
are trained with a plain loss, which on classes of equal size is that of the head here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core import (
    Batch,
    ClassifierHead,
    Distillation,
    InputError,
    Network,
    TeacherOptions,
    class_means,
    embed_without_gradient,
    generator,
    how_to_set,
    name_of,
    option,
)
from ltdd_dance.calibrated import CalibratedMatcher

PAIRS = TeacherOptions(head="balanced-softmax", count=5)
"""Five networks, as the public code takes of the twenty that it trains, trained as the run trains its classifiers."""


class PairMatcher(CalibratedMatcher):
    """Match in networks between the initial and the trained weights of one training."""

    class Options(CalibratedMatcher.Options):
        """The networks that are trained beforehand."""

        teacher: TeacherOptions = option(PAIRS, "the networks that are trained beforehand")

    def prepare_networks(self, task: Distillation) -> None:
        """Train the pairs, or find them.

        Raises:
            InputError: the head does not train one network, or changes its last layer.
            RunFailed: training diverged.
        """
        options = self.options.teacher
        _check_head(task, options)
        if options.network is not None:
            self.pool = task.pool(options.network)
        teachers = task.trained.of(options, options.network)
        self._initial = [_vector(network) for network in teachers.initial]
        self._trained = [_vector(network) for network in teachers.networks]

    def weights(self, step: int) -> tuple[Tensor, Tensor]:
        """Weights between those of a random pair, and its trained ones."""
        draws = generator(self.task.seed, "pair", step)
        pair = int(torch.randint(len(self._trained), (), generator=draws))
        share = float(torch.rand((), generator=draws))
        return torch.lerp(self._trained[pair], self._initial[pair], share), self._trained[pair]


class DanceMatcher(PairMatcher):
    """Match the mean features of classes in networks between initial and trained ones; the trained ones calibrate."""

    citation = """@inproceedings{zhang2024dance,
  title = {{DANCE}: Dual-View Distribution Alignment for Dataset Condensation},
  author = {Zhang, Hansong and Li, Shikun and Lin, Fanzhao and Wang, Weiping and Qian, Zhenxing and Ge, Shiming},
  booktitle = {International Joint Conference on Artificial Intelligence (IJCAI)},
  year = {2024}
}"""
    quick_preset = "dance-quick"

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """Squared distance of the class means, summed over classes and features."""
        return distance_of_means(network, real, synthetic, self.task.chunk)


def distance_of_means(network: Network, real: Batch, synthetic: Batch, chunk: int) -> Tensor:
    """sum_c || mean f(real_c) - mean f(synthetic_c) ||^2, a scalar."""
    target = class_means(embed_without_gradient(network, real.images, chunk), real.counts)
    return (target - class_means(network.embed(synthetic.images), synthetic.counts)).square().sum()


def _check_head(task: Distillation, options: TeacherOptions) -> None:
    """Refuse a head that trains something else than a network of the pool, before anything is trained.

    Raises:
        InputError: naming the head.
    """
    head: ClassifierHead = task.component("head", options.head)
    if head.stages > 1:
        return  # the training itself refuses it
    data = task.original("instance")
    jobs = task.trainer.plan(lambda planning: head.fit([data], planning))
    fault = "trains no network" if not jobs else "trains several networks" if len(jobs) > 1 else ""
    if not fault:
        try:
            task.networks.holding(_vector(jobs[0].make()), 0)
        except ValueError:
            fault = "changes the last layer of the network"
    if fault:
        raise InputError(
            f"head {name_of(options.head)!r} {fault}, and this method needs one network as it is: use another, "
            f"{how_to_set('teacher.head', 'NAME')}."
        )


def _vector(network: Network) -> Tensor:
    """All parameters, ``[P]``, in whatever layout they are in memory."""
    return torch.cat([value.detach().flatten() for value in network.parameters()])
