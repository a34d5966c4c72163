"""Recovery of images from the batch statistics of a teacher.

SRe2L (Yin et al., NeurIPS 2023, equation 5), with the real images that EDC (Shao et al., NeurIPS 2024) starts from, and
EDC's recipe:

    CE(f(S), y) + alpha sum_l || mean_l(S) - mu_l ||^2 + || var_l(S) - var_l ||^2.

mu_l and var_l are those of a set in which every class counts the same: with the mean m_c and the variance v_c of class
c, mu = mean_c m_c and var = mean_c (v_c + m_c^2) - mu^2.
"""

import torch
from torch.nn import functional as F

from ltdd_core import BaseOptions, Matcher, Named, Synthetic, generator, hookimpl, option, precision_context


class StatisticsRecovery(Matcher):
    """Move images until a teacher sees the class-balanced statistics of the real ones."""

    class Options(BaseOptions):
        """The teacher and Adam."""

        teacher: Named = option(
            {"name": "convnet-d3", "norm": "batch"},
            "kind of network of the teacher, with batch normalisation",
            component="network",
        )
        head: Named = option("balanced-softmax", "classifier head that trains the teacher", component="head")
        lr_img: float = option(0.1, "learning rate of the pixels", gt=0)
        alpha: float = option(0.01, "weight of the statistics beside the cross-entropy", ge=0)

    def prepare(self, task):
        """Train the teacher, or find it; start from the initial images."""
        self.task, self.labels = task, task.initial_labels
        self.teachers = task.trained(network=self.options.teacher, head=self.options.head)
        (self.network,), (found,) = self.teachers.networks, self.teachers.statistics()
        self.targets = {name: [value.to(task.device) for value in balanced(of)] for name, of in found.items()}
        self.images = task.initial_images.clone().requires_grad_(True)
        self.images.register_hook(task.without_kept)
        self.optimizer = torch.optim.Adam([self.images], lr=self.options.lr_img, betas=(0.5, 0.9))
        self.keep(images=self.images, optimizer=self.optimizer)

    def step(self, step):
        """One step of Adam on all images, under an augmentation of their own."""
        task = self.task
        transform = task.augmentation.draw(task.data.image_shape, generator(task.seed, "augmentation", step))
        logits, seen = self._through(transform(self.images))
        distance = sum(
            ((values.mean((0, 2, 3)) - mean).square() + (values.var((0, 2, 3), correction=0) - var).square()).sum()
            for values, (mean, var) in ((seen[name], target) for name, target in self.targets.items())
        )
        loss = F.cross_entropy(logits, self.labels) + self.options.alpha * distance
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def _through(self, images):
        """The logits ``[n, classes]``, and by name what each batch normalisation is given ``[n, channels, h, w]``."""
        seen = {}
        hooks = [
            self.network.get_submodule(name).register_forward_pre_hook(
                lambda _layer, inputs, name=name: seen.update({name: inputs[0].float()})
            )
            for name in self.targets
        ]
        try:
            with precision_context(self.task.networks.precision, images.device):
                logits = self.network(images).float()
        finally:
            for hook in hooks:
                hook.remove()
        return logits, seen

    def distilled(self):
        """The pixels, and what the teacher says of them."""
        images = self.images.detach()
        return Synthetic(images, self.labels, self.teachers.soft_labels(images))

    def recipe(self):
        """EDC's."""
        adamw = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "cosine"}
        return {**adamw, "cutmix": 1.0, "soft_loss": "mse", "hard_weight": 0.025}


def balanced(statistics):
    """Mean and variance ``[channels]`` of a set in which every class counts the same."""
    mean = statistics.mean.mean(0)
    return mean, (statistics.var + statistics.mean.square()).mean(0) - mean.square()


@hookimpl
def ltdd_register_matchers(register):
    """``--method statistics-recovery``."""
    register("statistics-recovery", StatisticsRecovery)
