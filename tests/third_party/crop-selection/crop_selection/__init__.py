"""Selection of crops that a teacher is sure of, and its soft labels: RDED without the stitching of crops.

Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024: of random crops x of the images of class c,
keep the IPC with the largest log p(c | x).
"""

import torch
from torch.nn import functional as F

from ltdd_core import BaseOptions, Matcher, Named, Synthetic, generator, hookimpl, option


class CropSelection(Matcher):
    """Keep the crops of each class that a teacher is surest of."""

    iterative = False

    class Options(BaseOptions):
        """The teacher and the crops."""

        teacher: Named = option(
            {"name": "convnet-d3", "norm": "batch"}, "kind of network of the teacher", component="network"
        )
        head: Named = option("balanced-softmax", "classifier head that trains the teacher", component="head")
        images: int = option(256, "number of real images per class that are cropped", ge=1)
        crops: int = option(5, "number of crops of each, or more if a class has fewer than IPC", ge=1)
        least: float = option(0.5, "side of the smallest crop, as a part of the image's", gt=0, le=1)
        temperature: float = option(4.0, "temperature of the soft labels", gt=0)

    def prepare(self, task):
        """Train the teacher, or find it; then choose."""
        self.labels = task.initial_labels
        teachers = task.trained(network=self.options.teacher, head=self.options.head)
        self.images = torch.cat([self._best(task, teachers, label, ipc) for label, ipc in enumerate(task.ipc_of_class)])
        self.images[task.kept] = task.kept_images
        self.soft_labels = teachers.soft_labels(self.images)

    def _best(self, task, teachers, label, ipc):
        """The crops of a class, float32 ``[ipc, C, H, W]``."""
        draws = generator(task.seed, "crops", label=label)
        chosen = task.sampler.of_class(label, self.options.images, draws)
        real = task.data.normalisation.apply(task.data.train_images[chosen])
        count = max(self.options.crops, -(-ipc // len(real)))
        crops = torch.cat([self._crop(real, draws) for _ in range(count)])
        return crops[teachers.logits(crops)[:, label].topk(ipc).indices]

    def _crop(self, images, draws):
        """One window of all images, drawn at random, at the size of the images."""
        size = images.shape[2:]
        part, *corner = torch.rand(3, generator=draws).tolist()
        sides = [max(1, round(side * (self.options.least + (1 - self.options.least) * part))) for side in size]
        top, left = (int(at * (side - cut + 1)) for at, side, cut in zip(corner, size, sides, strict=True))
        window = images[:, :, top : top + sides[0], left : left + sides[1]]
        return F.interpolate(window, size, mode="bilinear")

    def step(self, step):
        """None is taken."""
        raise NotImplementedError

    def distilled(self):
        """The crops, and what the teacher says of each."""
        return Synthetic(self.images, self.labels, self.soft_labels)

    def recipe(self):
        """Learn from the teacher at a temperature."""
        return {"soft_loss": "kl", "temperature": self.options.temperature}


@hookimpl
def ltdd_register_matchers(register):
    """``--method crop-selection``."""
    register("crop-selection", CropSelection)
