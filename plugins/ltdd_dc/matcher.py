"""Gradient matching, without and with siamese augmentation.

DC is Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021; DSA is Zhao & Bilen,
"Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021.

Each iteration takes a fresh random network theta and repeats, ``outer_loop`` times (DC, algorithm 1):

1. for every class c, compare the gradients of the cross-entropy on up to 256 real images T_c and on the
   synthetic images S_c, and move the pixels along minus the gradient of

       sum_c D( grad_theta L(A(S_c; w_c)), grad_theta L(A(T_c; w_c)) );

2. train theta on the synthetic images for ``inner_loop`` epochs, except after the last matching.

D is the distance of :mod:`ltdd_dc.distance`.  In DSA, A is the differentiable augmentation with one draw w_c
per class, and the training of theta is augmented too, with a separate draw for each image.  In DC, A leaves the
images as they are, and ``augment`` holds only for the training of classifiers.  Defaults are those of the authors'
public code.

One thing differs from that code: batch normalisation keeps the statistics that it took from real images when
the network was fresh, in the training of theta and in all matchings.  The code uses those of each batch while
it trains theta and takes new ones from real images before each matching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from ltdd_core import (
    Augmentation,
    Batch,
    BatchMatcher,
    CompiledNetwork,
    Distillation,
    Network,
    cross_entropy,
    generator,
    gradient_in_chunks,
    option,
)
from ltdd_dc.gradients import GradientMatching

PUBLISHED_IPC = (1, 10, 20, 30, 40, 50)
PUBLISHED_INNER = (1, 50, 25, 20, 15, 10)


def published_loops(ipc: int) -> tuple[int, int]:
    """Matchings an iteration, and epochs of training between two, for a number of images per class.

    The public code gives them for 1, 10, 20, 30, 40 and 50 images, where the matchings are as many as the
    images, and stops for any other number.  Here the matchings are as many as the images up to 50, and the
    epochs follow the straight lines between the published points, rounded; from 50 on both stay.
    """
    return min(ipc, PUBLISHED_IPC[-1]), round(float(np.interp(ipc, PUBLISHED_IPC, PUBLISHED_INNER)))


class GradientMatcher(BatchMatcher):
    """Gradient matching; DC and DSA differ only in the augmentation."""

    sums_over_classes = True

    class Options(BatchMatcher.Options):
        """Options of gradient matching; defaults of DC's public code."""

        lr_img: float = option(0.1, "learning rate of the pixels", source="DC, public code", gt=0)
        distance: Literal["layerwise-cosine", "cosine", "mse"] = option(
            "layerwise-cosine",
            "distance between two gradients: 1 - cos for the weights of each output (layerwise-cosine), 1 - cos of the "
            "whole gradients (cosine), or the sum of squared differences (mse)",
            source="DC, eq. 10; the others from its public code",
        )
        outer_loop: int | None = option(
            None,
            "number of matchings per iteration; None: IPC, of the class with most, but at most 50",
            source="DC, public code",
            ge=1,
        )
        inner_loop: int | None = option(
            None,
            "number of epochs of network training between two matchings; None: 1, 50, 25, 20, 15, 10 at IPC 1, 10, 20, "
            "30, 40, 50, with linear interpolation between them",
            source="DC, public code",
            ge=0,
        )
        lr_net: float = option(0.01, "learning rate of the SGD that trains the network", source="DC, public code", gt=0)
        batch_train: int = option(
            256, "number of synthetic images per step of network training", source="DC, public code", ge=1
        )
        gradients: Literal["auto", "loop", "batched"] = option(
            "auto",
            "computation of the gradients: class by class (loop), several classes at once (batched), or batched on a "
            "GPU and loop elsewhere (auto)",
        )

    def prepare(self, task: Distillation) -> None:
        """Start from the initial images."""
        super().prepare(task)
        self.outer_loop, self.inner_loop = self._loops(task.ipc_of_class)
        gradients = self.options.gradients
        self._batched = gradients == "batched" or (gradients == "auto" and task.device.type == "cuda")
        self._matching: GradientMatching | None = None

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """Those of all matchings, whose synthetic images go twice as far, and of the training between them."""
        outer, inner = self._loops(ipc_of_class)
        synthetic = self.tiles_of_image * sum(ipc_of_class)
        once = super().images_per_step(counts, ipc_of_class) + synthetic
        return outer * once + (outer - 1) * inner * synthetic

    def _loops(self, ipc_of_class: Sequence[int]) -> tuple[int, int]:
        """Matchings of an iteration, and epochs of training between two."""
        outer, inner = published_loops(max(ipc_of_class))
        options = self.options
        return options.outer_loop or outer, inner if options.inner_loop is None else options.inner_loop

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """One iteration; its loss is the mean over matchings and classes, as in the public code's log."""
        network = self.task.networks.trainable(step)
        losses = []
        for matching in range(self.outer_loop):
            number = step * self.outer_loop + matching
            losses.append(self.match(network, number))
            if matching + 1 < self.outer_loop:
                self._train(network, generator(self.task.seed, "network training", number))
        return {"loss": torch.stack(losses).mean() / self.task.data.classes}

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """The sum of the classes' distances; ``network`` comes from the pool's ``trainable``."""
        if self._matching is None or self._matching.network is not network:
            self._matching = self._new_matching(cast(CompiledNetwork, network))
        distances, gradient = self._matching(real, synthetic)
        # The gradient is known already, so autograd need not keep what led to it: the product adds 0.
        product = (synthetic.images * gradient).sum()
        return distances.sum() + (product - product.detach())

    def _new_matching(self, network: CompiledNetwork) -> GradientMatching:
        return GradientMatching(
            network,
            self.options.distance,
            chunk=self.task.chunk,
            batched=self._batched,
            compiled=self.task.networks.compiled,
            keep_going=self.task.keep_going,
        )

    def _train(self, network: Network, draws: torch.Generator) -> None:
        """Train the network on the synthetic images for ``inner_loop`` epochs, by SGD without momentum."""
        task, seen = self.task, self.decode(self.images.detach())
        images, labels = seen.flatten(0, 1), self.labels.repeat_interleave(seen.shape[1])
        parameters = list(network.parameters())
        for _ in range(self.inner_loop):
            for indices in torch.randperm(len(images), generator=draws).split(self.options.batch_train):
                task.keep_going()
                transform = task.augmentation.draw(task.data.image_shape, draws, len(indices))
                chosen = indices.to(images.device)
                batch = transform(images[chosen]), labels[chosen]
                gradient = gradient_in_chunks(network, parameters, *batch, cross_entropy, task.chunk)
                with torch.no_grad():
                    for parameter, slope in zip(parameters, gradient, strict=True):
                        parameter.sub_(slope, alpha=self.options.lr_net)


class DatasetCondensation(GradientMatcher):
    """DC: gradient matching without augmentation, in the matching and in the training of its networks."""

    citation = """@inproceedings{zhao2021dc,
  title = {Dataset Condensation with Gradient Matching},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2021}
}"""

    def prepare(self, task: Distillation) -> None:
        """Start from the initial images."""
        super().prepare(replace(task, augmentation=Augmentation("none")))


class SiameseCondensation(GradientMatcher):
    """DSA: gradient matching where the real and the synthetic images of a class share their augmentation."""

    citation = """@inproceedings{zhao2021dsa,
  title = {Dataset Condensation with Differentiable Siamese Augmentation},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2021}
}"""
