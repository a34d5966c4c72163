"""What a step of training lowers: the loss of a head on the classes, and the distance to the soft labels of a teacher.

With logits z, the class y of an image, and its soft label as logits f or probabilities p:

- without soft labels L(z, y), L the loss of the head;
- ``soft_loss=cross-entropy``: L(z, p);
- ``soft_loss=mse``: mean_c (z_c - f_c)^2, both with mean 0 over the classes;
- ``soft_loss=kl``: KL(softmax(f / T) || softmax(z / T)), without the factor T^2;

and, where there are soft labels, ``hard_weight`` times L(z, y) on top.  All are means over the images of a batch.

Of mixed images all of them are l times that of the first label and 1 - l times that of the second; see
:mod:`ltdd_core.training.mixing`.  The distances of ``mse`` and ``kl`` are taken to the mixture of what both labels ask
for, centred logits or softmax(f / T), which is the same but for a number that no weight can change.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from ltdd_core.training.losses import Loss, share_of
from ltdd_core.training.mixing import Mix
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.soft_labels import SoftLabels

Objective = Callable[[Tensor, Tensor], Tensor]
"""``(logits, rows) -> scalar``: what some images of a batch add to its loss.

The rows of the images in their batch are int64 ``[n]``, and the logits are theirs, ``[n, outputs]``.  The parts of a
batch add up to its loss.
"""


def objective_of(
    loss: Loss,
    labels: Tensor,
    soft: SoftLabels | None,
    mix: Mix | None,
    options: TrainingOptions,
    outputs: int,
    *,
    of_views: bool = False,
) -> Objective:
    """What a batch lowers.

    Args:
        loss: of the head.
        labels: the class of each image, int64 ``[n]``, or whatever the loss takes.
        soft: the soft label of each image; None for none.
        mix: how the images were mixed.
        options: say how soft labels count.
        outputs: number of logits.
        of_views: the soft labels are those of the mixed images; else they are mixed as the images were.
    """
    mix_of_soft = None if of_views else mix
    if soft is None:
        return of_labels(loss, with_smoothing(labels, options.label_smoothing, outputs), mix)
    if options.soft_loss == "cross-entropy":
        first = of_labels(loss, soft.probabilities(), mix_of_soft)
    else:
        first = of_distance(options, soft, mix_of_soft)
    if not options.hard_weight:
        return first
    second, weight = of_labels(loss, with_smoothing(labels, options.label_smoothing, outputs), mix), options.hard_weight
    return lambda logits, rows: first(logits, rows) + weight * second(logits, rows)


def of_labels(loss: Loss, labels: Tensor, mix: Mix | None = None) -> Objective:
    """The loss of labels ``[n]`` or ``[n, outputs]``, of images that may be mixed."""
    targets = labels if mix is None else mix.pairs(labels)
    of_targets = loss if mix is None else mix.of_loss(loss)

    def part(logits: Tensor, rows: Tensor) -> Tensor:
        own = targets[rows]
        return of_targets(logits, own) * share_of(of_targets, own, targets)

    return part


def of_distance(options: TrainingOptions, soft: SoftLabels, mix: Mix | None = None) -> Objective:
    """The distance between logits and soft labels, of images that may be mixed."""
    t = options.temperature
    own = soft.logits() if options.soft_loss == "mse" else soft.probabilities(t)
    wanted = own if mix is None else mix.of_values(own)
    if options.soft_loss == "mse":
        return lambda z, rows: ((z - z.mean(1, keepdim=True)) - wanted[rows]).square().mean(1).sum() / len(wanted)
    return lambda z, rows: F.kl_div((z / t).log_softmax(1), wanted[rows], reduction="sum") / len(wanted)


def with_smoothing(labels: Tensor, amount: float, outputs: int) -> Tensor:
    """Classes as probabilities ``[n, outputs]``, of which ``amount`` is spread over all classes; 0 leaves labels."""
    if not amount or labels.dim() > 1:
        return labels
    return (1 - amount) * F.one_hot(labels, outputs).float() + amount / outputs
