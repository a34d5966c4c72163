"""A coreset: the representatives of each class as they are.  The sampler chooses them, and the method takes no step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ltdd_core import Distillation, InputError, Matcher, Synthetic, how_to_set


class Coreset(Matcher):
    """IPC real images of each class as they are.  A class with fewer images gives all of them; none is repeated."""

    iterative = False

    def prepare(self, task: Distillation) -> None:
        """Take the real images among the initial ones.

        Raises:
            InputError: the run starts from noise.
        """
        if not task.initial_real.any():
            raise InputError(f"a coreset is made of real images: leave out {how_to_set('init', 'noise')}.")
        self.images = task.initial_images[task.initial_real]
        self.labels = task.initial_labels[task.initial_real]

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Never called."""
        return {"loss": 0.0}

    def distilled(self) -> Synthetic:
        """The images and their classes, ``[sum over classes of min(IPC, n_c)]``."""
        return Synthetic(self.images, self.labels)
