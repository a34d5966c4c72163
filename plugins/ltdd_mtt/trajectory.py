"""The inner loop of trajectory matching and its gradient, in three ways that trade time for memory.

From an expert's parameters theta_0 = theta*_t the student takes N steps on the synthetic images X,

    theta_{k+1} = theta_k - lr * g_k,    g_k = gradient of the cross-entropy of A_k(X[I_k]) at theta_k,

and the loss compares where it arrives with where the expert was M epochs later (Cazenavette et al., "Dataset
Distillation by Matching Training Trajectories", CVPR 2022, equation 2):

    L = || theta_N - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2.

Its derivatives with respect to X and lr come from going backward through the steps: with a = dL/dtheta_{k+1},

    dL/dX += -lr * d(a . g_k)/dX,    dL/dlr += -a . g_k,    dL/dtheta_k = a - lr * d(a . g_k)/dtheta_k,

and of labels Y that are probabilities as of X: dL/dY += -lr * d(a . g_k)/dY.

*unroll* leaves this to autograd, which keeps the maps of all N steps.  *checkpoint* does it step by step: the
same gradient with the maps of one step.  *tesla* (Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with
Constant Memory", ICML 2023) leaves out the second term of the last equation, that is, how X changes the steps after
the one that uses it: another gradient, for which no parameters need be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ltdd_mtt.student import Pulled, Student

Memory = Literal["unroll", "checkpoint", "tesla"]
KEPT_BYTES = 512 * 2**20
"""Parameters of all N steps are kept while they take no more; else of about sqrt(N) steps."""


class InnerBatch(NamedTuple):
    """The images of one step of the student."""

    indices: Tensor
    """int64 ``[b]``, no image twice, on the device."""
    transform: Callable[[Tensor], Tensor]
    """The augmentation of images ``[b, C, H, W]``."""


@dataclass(frozen=True)
class InnerLoop:
    """N steps of a student between two points of an expert's trajectory."""

    student: Student
    start: Tensor
    """theta*_t ``[P]``."""
    target: Tensor
    """theta*_{t+M} ``[P]``."""
    images: Tensor
    """X ``[n, C, H, W]``, without a graph."""
    labels: Tensor
    """Classes, int64 ``[n]``, or probabilities, float32 ``[n, classes]``, without a graph."""
    lr: Tensor
    """A scalar, without a graph."""
    steps: int
    batch: Callable[[int], InnerBatch]
    """The batch of a step; a function of the step, since it is asked more than once."""
    compared: Tensor | None = None
    """Which parameters the loss compares, bool ``[P]``; all unless given.  The student moves the others as well."""
    fixed: Tensor | None = None
    """The parameters that the student does not move, where it moves the last layer alone."""

    def gradient(self, memory: Memory) -> MatchingGradient:
        """The loss and its derivatives."""
        return {"unroll": _unroll, "checkpoint": _checkpoint, "tesla": _tesla}[memory](self)

    def distance(self) -> Tensor:
        """The denominator of the loss."""
        return self.error(self.start).square().sum()

    def error(self, theta: Tensor) -> Tensor:
        """How far theta is from theta*_{t+M}, ``[P]``; 0 where the loss compares nothing."""
        error = theta - self.target
        return error if self.compared is None else error * self.compared

    def augmented(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step, without a graph."""
        batch = self.batch(step)
        return batch.transform(self.images[batch.indices]), self.labels[batch.indices]

    def advance(self, theta: Tensor, step: int) -> Tensor:
        """theta_{k+1} from theta_k, without a graph."""
        return theta - self.lr * self.student.gradient(theta, *self.augmented(step), self.fixed)


class MatchingGradient(NamedTuple):
    """The loss and its derivatives."""

    loss: Tensor
    images: Tensor
    """dL/dX, of the shape of X."""
    lr: Tensor
    """dL/dlr, a scalar."""
    labels: Tensor | None = None
    """dL/dY, of the shape of the labels, where they are probabilities Y."""

    def plus(self, other: MatchingGradient) -> MatchingGradient:
        """That of the sum of two losses."""
        labels = None if self.labels is None or other.labels is None else self.labels + other.labels
        return MatchingGradient(self.loss + other.loss, self.images + other.images, self.lr + other.lr, labels)

    def times(self, factor: float) -> MatchingGradient:
        """That of a multiple of the loss."""
        labels = None if self.labels is None else factor * self.labels
        return MatchingGradient(factor * self.loss, factor * self.images, factor * self.lr, labels)


def _unroll(loop: InnerLoop) -> MatchingGradient:
    """Autograd through all steps."""
    images, lr = loop.images.detach().requires_grad_(True), loop.lr.detach().requires_grad_(True)
    soft = loop.labels.is_floating_point()
    labels = loop.labels.detach().requires_grad_(soft)
    theta = loop.start
    for step in range(loop.steps):
        batch = loop.batch(step)
        augmented = batch.transform(images[batch.indices])
        own = labels[batch.indices]
        theta = theta - lr * loop.student.gradient(theta, augmented, own, loop.fixed, graph=True)
    loss = loop.error(theta).square().sum() / loop.distance()
    found = torch.autograd.grad(loss, (images, lr, labels) if soft else (images, lr))
    return MatchingGradient(loss.detach(), *found)


def _checkpoint(loop: InnerLoop) -> MatchingGradient:
    """Forward keeping some parameters, then backward one step after another."""
    length = segment_length(loop)
    kept, theta = [], loop.start
    for step in range(loop.steps):
        if step % length == 0:
            kept.append(theta)
        theta = loop.advance(theta, step)
    loss, a = _arrival(loop, theta)
    sums = _nothing_yet(loop, loss)
    for first in reversed(range(0, loop.steps, length)):
        thetas = [kept.pop()]
        for step in range(first, min(first + length, loop.steps) - 1):
            thetas.append(loop.advance(thetas[-1], step))
        for step in reversed(range(first, first + len(thetas))):
            pulled = _pull(loop, step, thetas.pop(), a, sums, theta_too=True)
            assert pulled.theta is not None  # noqa: S101 - for the type checker; it was asked for
            a = a - loop.lr * pulled.theta
    return sums


def _tesla(loop: InnerLoop) -> MatchingGradient:
    """Forward to know where it arrives, then forward again for the gradients of single steps."""
    theta = loop.start
    for step in range(loop.steps):
        theta = loop.advance(theta, step)
    loss, a = _arrival(loop, theta)
    sums, theta = _nothing_yet(loop, loss), loop.start
    for step in range(loop.steps):
        pulled = _pull(loop, step, theta, a, sums, theta_too=False)
        theta = theta - loop.lr * pulled.gradient
    return sums


def segment_length(loop: InnerLoop) -> int:
    """Steps between kept parameters: every one if they fit, else so that kept and repeated ones balance."""
    everything = loop.steps * loop.start.numel() * loop.start.element_size()
    return 1 if everything <= KEPT_BYTES else math.ceil(math.sqrt(loop.steps))


def _arrival(loop: InnerLoop, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and a = dL/dtheta_N."""
    error, distance = loop.error(theta), loop.distance()
    return error.square().sum() / distance, 2 * error / distance


def _nothing_yet(loop: InnerLoop, loss: Tensor) -> MatchingGradient:
    """Sums of the gradients of steps, for :func:`_pull` to add to."""
    labels = torch.zeros_like(loop.labels) if loop.labels.is_floating_point() else None
    return MatchingGradient(loss, torch.zeros_like(loop.images), torch.zeros_like(loop.lr), labels)


def _pull(loop: InnerLoop, step: int, theta: Tensor, a: Tensor, sums: MatchingGradient, *, theta_too: bool) -> Pulled:
    """g_k and the derivatives of a . g_k; adds those of -lr * a . g_k, through the augmentation, to ``sums``."""
    batch = loop.batch(step)
    own = loop.images[batch.indices].requires_grad_(True)
    augmented = batch.transform(own)
    labels = loop.labels[batch.indices]
    pulled = loop.student.pullback(theta, augmented.detach(), labels, a, loop.fixed, theta_too=theta_too)
    (by_own,) = torch.autograd.grad(augmented, own, pulled.images)
    sums.images[batch.indices] -= loop.lr * by_own
    sums.lr.sub_(a @ pulled.gradient)
    if sums.labels is not None and pulled.labels is not None:
        sums.labels[batch.indices] -= loop.lr * pulled.labels
    return pulled
