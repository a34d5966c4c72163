"""Images from which batch normalisations see the statistics of the real ones: what SRe2L, EDC and Uni-level share.

Each step lowers, for images S with classes y and a trained network f,

    CE(f(A(S)), y) + r sum_l m_l ((1 - w) d_l(global) + w d_l(classes)),
    d_l(target) = || mean_l - target's mean_l ||_2 + || var_l - target's var_l ||_2,

where mean_l and var_l are those of the inputs of batch normalisation l, over the images of the batch and all pixels,
the norms are not squared, m_1 is the factor of the first layer, every other m_l is 1, and A is a random view.  The
targets are

- global: those of the long-tailed set; see :func:`global_target`;
- classes: the mean over the images of the batch of the statistics of their classes (EDC).

With several networks, each has its turn.  With an average e, what is compared is the moving average e s + (1 - e) stat
of the batches' statistics, whose gradient is that of stat (G-VBSM, EDC).  It begins with the first batch; in the public
codes it begins at zero, since their test for the first batch never holds.

Large images go through a network a part at a time, twice: once for the statistics of all, once for the gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import (
    BaseOptions,
    CompiledNetwork,
    Distillation,
    InputError,
    Labelling,
    LayerStatistics,
    Matcher,
    Named,
    Network,
    Synthetic,
    TeacherTrainingOptions,
    ViewLabels,
    generator,
    how_to_set,
    name_of,
    option,
    several_processes,
    share_of_batch,
    summed_over_processes,
)
from ltdd_statistics.crops import CropOptions, chosen_crops
from ltdd_statistics.moments import about, moments, together
from ltdd_statistics.observers import Observer, Target, Which, global_target, observed
from ltdd_statistics.teachers import DEBIASED, trained
from ltdd_statistics.windows import draw_windows, mirrored, smallest_share


class RecoveryMatcher(Matcher, ABC):
    """Move images until trained networks see the statistics of the real ones, and classify them well."""

    class Options(BaseOptions):
        """What the methods of the family have in common."""

        lr_img: float = option(0.05, "initial learning rate of the pixels, by Adam", source="EDC, public code", gt=0)
        anneal: int | None = option(
            None,
            "steps in which the learning rate falls to 0 along a cosine",
            unless_given="the number of iterations",
            follows="iterations",
            ge=1,
        )
        r: float = option(0.01, "weight of the statistics beside the cross-entropy", source="SRe2L, public code", ge=0)
        first: float = option(10.0, "factor of the first batch normalisation", source="SRe2L, public code", ge=0)
        statistics: Which = option(
            "balanced",
            "statistics that are matched: the networks' running ones (running), those of a set in which classes count "
            "the same (balanced), or the means over classes, without the variance between classes (averaged)",
        )
        class_weight: float = option(0.0, "share w of the statistics of the classes in the batch", ge=0, le=1)
        average: float = option(0.0, "decay of the moving average of the batches' statistics; 0: none", ge=0, lt=1)
        start: Literal["initial", "crops"] = option(
            "initial", "images to start from: those of --init (initial), or the crops that the teachers are surest of"
        )
        crops: CropOptions = option(CropOptions(), "the crops to choose from")
        smallest: float | None = option(
            1.0, "smallest share of the area of an image that a view has; 1: views are not cropped", gt=0, le=1
        )
        curriculum: bool = option(
            False, "views that begin as whole images; their smallest share falls to the above along a cosine (CDA)"
        )
        roll: int = option(0, "number of pixels by which images are rolled at most", ge=0)
        clip: bool = option(True, "colours kept between black and white", source="SRe2L, public code")
        batch: int = option(
            1000, "number of images whose statistics are taken together; more make several groups", ge=1
        )
        teacher: TeacherTrainingOptions = option(TeacherTrainingOptions(head=DEBIASED), "the teachers")

        @model_validator(mode="after")
        def _a_curriculum_crops(self) -> Self:
            if self.curriculum and self.smallest == 1:
                raise ValueError("curriculum needs views that are cropped: set smallest as well, such as 0.08")
            return self

    @abstractmethod
    def kinds(self) -> Sequence[Named | None]:
        """The kinds of network that observe and label."""

    def prepare(self, task: Distillation) -> None:
        """Train the teachers, or find them; start from the initial images or from crops.

        Raises:
            InputError: the teachers cannot be had, or have no batch normalisation; a curriculum has nothing to crop.
            RunFailed: the training of a teacher diverged.
        """
        self.task, options, shape = task, self.options, task.data.image_shape
        self.smallest = smallest_share(options.smallest, shape)
        if options.curriculum and self.smallest == 1:
            raise InputError(
                f"a curriculum needs views that are cropped, and images of {shape[1]}x{shape[2]} pixels are not unless "
                f"you say how far: {how_to_set('matcher.smallest', 0.5)}."
            )
        self.teachers = trained(task, options.teacher, self.kinds())
        self.observers = self._observers()
        if options.start == "crops":
            self.images = chosen_crops(task, self.teachers, options.crops)
            self.images[task.kept] = task.kept_images
        else:
            self.images = task.initial_images.clone()
        self.labels = task.initial_labels
        self.groups = spread(len(self.images), options.batch)
        self.optimizer = torch.optim.Adam([self.images], lr=options.lr_img, betas=(0.5, 0.9), fused=True)
        self.averages = [
            [[torch.zeros_like(target.whole) for target in each.targets] for _ in self.groups]
            for each in (self.observers if options.average else ())
        ]
        self.keep(images=self.images, optimizer=self.optimizer, averages=self.averages)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """None: the networks of this method are its teachers."""
        return 0

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """One step of Adam on all images, group by group through one network."""
        task, options = self.task, self.options
        if step == options.anneal:
            task.display.warn(
                f"the images stay as they are from step {step} on, where their learning rate is 0: make a new run of "
                f"all the steps, and leave out {how_to_set('matcher.anneal')}."
            )
        turn = step % len(self.observers)
        self.optimizer.zero_grad()  # before there is another, which is as large as the images
        gradient, losses = torch.zeros_like(self.images), []
        kept = self.averages[turn] if self.averages else []
        moved = [[layer.clone() for layer in of_group] for of_group in kept]  # a step that a signal ends moves nothing
        for number, group in enumerate(self.groups):
            loss = self._add_gradient(gradient, group, turn, moved[number] if moved else None, step)
            losses.append(loss * len(group) / len(self.images))
        summed_over_processes(gradient)
        self.images.grad = task.without_kept(gradient)
        self.optimizer.param_groups[0]["lr"] = options.lr_img * falling(step, options.anneal)
        self.optimizer.step()
        for layer, average in zip(chain(*kept), chain(*moved), strict=True):
            layer.copy_(average)
        if options.clip:
            clip(task, self.images, task.chunk_with_gradient)
        return {"loss": torch.stack(losses).sum()}

    def teacher(self, task: Labelling) -> ViewLabels:
        """The teachers, which label the images too."""
        return trained(task, self.options.teacher, self.kinds()).soft_labels

    def distilled(self) -> Synthetic:
        """The pixels, and what the teachers say of them."""
        return Synthetic(self.images, self.labels, self.teachers.soft_labels(self.images))

    # ---- the loss --------------------------------------------------------------------------------

    def _add_gradient(
        self, gradient: Tensor, group: Tensor, turn: int, averages: list[Tensor] | None, step: int
    ) -> Tensor:
        """Fill in the gradient of a group of images, or of those that this process of a run has; returns the loss.

        Of a group that goes through the network in parts, the gradient of a part depends on the others by the
        statistics of all alone.  So these come first.
        """
        observer, at_once = self.observers[turn], self.task.chunk_with_gradient
        if len(group) <= at_once and not several_processes():
            images = self.images[group].requires_grad_(True)
            loss = self._loss(self._views(images, group, step), self.labels[group], turn, averages, step)
            (gradient[group],) = torch.autograd.grad(loss, images)
            return loss.detach()
        parts = [part for part in group[share_of_batch(len(group))].split(at_once) if len(part) > 0]
        shares = [len(part) / len(group) for part in parts]
        like = [target.whole for target in observer.targets]
        found = [layer.requires_grad_(True) for layer in together(self._moments(parts, observer, step), shares, like)]
        loss = self.options.r * self._distance(found, self.labels[group], turn, averages, step)
        slopes = torch.autograd.grad(loss, found)
        entropies = torch.zeros_like(loss)
        means = [layer.detach()[0] for layer in found]
        for part, share in zip(parts, shares, strict=True):
            self.task.keep_going()
            gradient[part], entropy = self._of_part(part, share, means, slopes, observer, step)
            entropies += share * entropy
        summed_over_processes(entropies)
        return loss.detach() + entropies

    def _of_part(
        self,
        part: Tensor,
        share: float,
        means: Sequence[Tensor],
        slopes: Sequence[Tensor],
        observer: Observer,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """The gradient of a part of a group, and its cross-entropy; what its layers held is free afterwards.

        Args:
            part: places of the images.
            share: of the group, that the part has.
            means: of the whole group, in each layer.
            slopes: the derivative of the distance to the moments of the whole group, in each layer.
            observer: the network whose turn it is.
            step: decides the views.
        """
        images = self.images[part].requires_grad_(True)
        logits, seen = observed(observer, self._views(images, part, step))
        entropy = F.cross_entropy(logits, self.labels[part])
        own = [about(moments(values), mean) for values, mean in zip(seen, means, strict=True)]
        change = torch.stack([(slope * term).sum() for slope, term in zip(slopes, own, strict=True)]).sum()
        (gradient,) = torch.autograd.grad(share * (entropy + change), images)
        return gradient, entropy.detach()

    @torch.no_grad()
    def _moments(self, parts: Sequence[Tensor], observer: Observer, step: int) -> list[list[Tensor]]:
        """For each part of a group the moments that each batch normalisation is given."""

        def of(part: Tensor) -> list[Tensor]:
            self.task.keep_going()
            return [moments(values) for values in observed(observer, self._views(self.images[part], part, step))[1]]

        return [of(part) for part in parts]

    def _loss(self, images: Tensor, labels: Tensor, turn: int, averages: list[Tensor] | None, step: int) -> Tensor:
        """The loss of a group of images in the network whose turn it is."""
        logits, seen = observed(self.observers[turn], images)
        distance = self._distance([moments(values) for values in seen], labels, turn, averages, step)
        return F.cross_entropy(logits, labels) + self.options.r * distance

    def _distance(
        self, seen: Sequence[Tensor], labels: Tensor, turn: int, averages: list[Tensor] | None, step: int
    ) -> Tensor:
        """How far the statistics of a group of images are from what they should be, over all layers."""
        options, observer = self.options, self.observers[turn]
        distance = seen[0].new_zeros(())
        for place, target in enumerate(observer.targets):
            found = seen[place]
            if averages is not None:
                found = averaged(found, averages[place], options.average, first=step == turn)
            parts = (1 - options.class_weight) * distance_of(found, target.whole)
            if options.class_weight:
                parts = parts + options.class_weight * distance_of(found, target.classes[labels].mean(0))
            distance = distance + (options.first if place == 0 else 1.0) * parts
        return distance

    def _views(self, images: Tensor, group: Tensor, step: int) -> Tensor:
        """Each image as the network sees it: a part of it, perhaps mirrored, all rolled in the same way."""
        task, options = self.task, self.options
        draws, count = generator(task.seed, "views", step), len(self.images)
        smallest, flip = self.smallest, mirrored(task)
        if options.curriculum:
            smallest += (1 - smallest) * falling(step, options.anneal)
        if smallest < 1 or flip:
            windows = draw_windows(task.data.image_shape, count, draws, smallest=smallest, flip=flip)
            images = windows[group.cpu()].of(images)
        down, right = torch.randint(-options.roll, options.roll + 1, (2,), generator=draws).tolist()
        return images.roll((down, right), (2, 3)) if down or right else images

    # ---- what is matched -------------------------------------------------------------------------

    def _observers(self) -> list[Observer]:
        """Every network of the teachers, with what its batch normalisations should see.

        Raises:
            InputError: a network has no batch normalisation, or the head gives more than a network.
        """
        try:
            networks = self.teachers.networks
        except ValueError as error:
            head, how = name_of(self.options.teacher.head), how_to_set("teacher.head", "NAME")
            raise InputError(f"head {head!r}: {error}, and this method needs one: use another, {how}.") from error
        known = [found for kind in self.teachers.kinds for found in kind.statistics()]
        return [self._observer(network, of) for network, of in zip(networks, known, strict=True)]

    def _observer(self, network: Network, known: Mapping[str, LayerStatistics]) -> Observer:
        if not known:
            named = {"of the run's kind" if kind is None else f"of kind {name_of(kind)!r}" for kind in self.kinds()}
            raise InputError(
                "the statistics that are matched are those of batch normalisations, and a teacher "
                f"{' or '.join(sorted(named))} has none: use one that has, such as {{name: convnet-d3, norm: batch}}."
            )
        plain = network.eager if isinstance(network, CompiledNetwork) else network  # hooks do not see compiled layers
        device, which = self.task.device, self.options.statistics
        targets = [
            Target(
                name,
                global_target(plain, name, of, which).to(device),
                torch.stack([of.mean, of.var], 1).to(device),
            )
            for name, of in known.items()
        ]
        return Observer(plain, tuple(targets))


def distance_of(found: Tensor, target: Tensor) -> Tensor:
    """|| mean - mean ||_2 + || var - var ||_2, of ``[2, channels]`` each: a scalar."""
    return torch.linalg.vector_norm(found - target, dim=1).sum()


def averaged(found: Tensor, average: Tensor, decay: float, *, first: bool) -> Tensor:
    """The moving average, moved on in place, with the gradient of the batch.

    Args:
        found: of the batch.
        average: of the batches before; filled in place.
        decay: share of the batches before.
        first: there was none before.
    """
    with torch.no_grad():
        average.copy_(found) if first else average.lerp_(found, 1 - decay)
    return average.clone() + found - found.detach()


def falling(step: int, steps: int | None) -> float:
    """From 1 at step 0 to 0 at ``steps`` along half a cosine; 0 from there on.

    Without a number of steps, as of a method that was made without the configuration of a run, it stays at 1.
    """
    if steps is None:
        return 1.0
    return (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def spread(number: int, most: int) -> list[Tensor]:
    """Places 0 to ``number - 1`` in groups of at most ``most``, int64.

    What is sorted by class is spread over all groups, so that each has images of as many classes as can be.

    Args:
        number: of images, at least 1.
        most: images of a group.
    """
    groups = -(-number // most)
    return [torch.arange(first, number, groups) for first in range(groups)]


def clip(task: Distillation, images: Tensor, at_once: int) -> None:
    """Move images in place to colours that can be displayed; those that the run keeps stay as they are.

    Args:
        task: of the method.
        images: normalised, in the order of the initial images.
        at_once: images, so that memory does not hold all of them several times.
    """
    normalisation = task.data.normalisation
    for part in images.split(at_once):
        part.copy_(normalisation.apply(normalisation.invert(part) * 255))
    images[task.kept] = task.kept_images
