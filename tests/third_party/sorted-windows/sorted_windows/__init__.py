"""Trajectories followed from early windows to late ones, with soft labels that are learned.

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching" (DATM), ICLR 2024: a
student starts from the parameters theta_t of an expert, takes N steps on the synthetic images, and is to arrive where
the expert is M epochs later,

    || theta_N - theta_{t+M} ||^2 / || theta_t - theta_{t+M} ||^2.

t is drawn below a bound that rises with the steps.  Images, label logits and the student's step size are learned.
"""

import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import vector_to_parameters

from ltdd_core import (
    BaseOptions,
    Matcher,
    SoftLabels,
    Synthetic,
    TrainingOptions,
    generator,
    hookimpl,
    option,
    precision_context,
)


class SortedWindows(Matcher):
    """Follow experts, for networks without batch normalisation."""

    class Options(BaseOptions):
        """Experts, windows and learning rates."""

        experts: int = option(2, "number of experts", ge=1)
        epochs: int = option(20, "number of epochs of an expert", ge=2)
        lr_expert: float = option(0.01, "learning rate of the experts", gt=0)
        window: int = option(1, "epochs of an expert that a student follows", ge=1)
        rise: float = option(0.1, "epochs by which the latest start rises per step", ge=0)
        syn_steps: int = option(5, "number of steps of the student", ge=1)
        syn_lr: float = option(0.01, "initial step size of the student", gt=0)
        lr_img: float = option(10.0, "learning rate of the pixels", gt=0)
        lr_label: float = option(1.0, "learning rate of the label logits", gt=0)
        lr_lr: float = option(1e-6, "learning rate of the step size", ge=0)

    def prepare(self, task):
        """Train the experts, or find them; the soft labels are what the first one says at its end."""
        self.task, options = task, self.options
        training = TrainingOptions(epochs=options.epochs, lr=options.lr_expert, momentum=0, schedule="constant")
        self.experts = task.trajectories("expert", training=training)
        self.experts.train(options.experts, lambda number, epochs: None, task.keep_going)
        self.student, self.images = task.networks.new("student"), task.initial_images.clone()
        (last,) = self.experts[0].rows(options.epochs)
        with torch.no_grad():
            vector_to_parameters(last.to(task.device), self.student.parameters())
            self.logits = torch.cat([self.student(images) for images in self.images.split(task.chunk)])
        self.lr = torch.tensor(options.syn_lr, device=task.device)
        rates = (self.images, options.lr_img), (self.logits, options.lr_label), (self.lr, options.lr_lr)
        self.optimizer = torch.optim.SGD(
            [{"params": [learned.requires_grad_()], "lr": rate} for learned, rate in rates], momentum=0.5
        )
        self.images.register_hook(task.without_kept)
        self.keep(images=self.images, logits=self.logits, lr=self.lr, optimizer=self.optimizer)

    def step(self, step):
        """Follow one window of one expert."""
        task, options, draws = self.task, self.options, generator(self.task.seed, "window", step)
        starts = min(1 + int(options.rise * step), options.epochs - options.window + 1)
        start, expert = (int(torch.randint(most, (), generator=draws)) for most in (starts, options.experts))
        rows = self.experts[expert].rows(start, start + options.window)
        first, target = (row.to(task.device) for row in rows)
        theta = first.requires_grad_()
        for k in range(options.syn_steps):
            transform = task.augmentation.draw(task.data.image_shape, generator(task.seed, f"student step {k}", step))
            loss = F.cross_entropy(self._logits(theta, transform(self.images)), self.logits.softmax(1))
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - self.lr * gradient
        distance = (theta - target).square().sum() / (first.detach() - target).square().sum()
        self.optimizer.zero_grad()
        distance.backward(inputs=[self.images, self.logits, self.lr])
        self.optimizer.step()
        return {"loss": distance.detach(), "syn_lr": self.lr.detach().clone()}

    def _logits(self, theta, images):
        """Logits of the student ``[n, classes]`` with the parameters ``theta`` ``[P]``."""
        shapes = {name: value.shape for name, value in self.student.named_parameters()}
        parts = theta.split([shape.numel() for shape in shapes.values()])
        parameters = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        with precision_context(self.task.networks.precision, images.device):
            return functional_call(self.student, parameters, (images,)).float()

    def distilled(self):
        """The pixels, their classes and the soft labels."""
        soft_labels = SoftLabels(self.logits.detach(), "logits")
        return Synthetic(self.images.detach(), self.task.initial_labels, soft_labels)

    def recipe(self):
        """The step size of the student."""
        return {"lr": float(self.lr.detach())}


@hookimpl
def ltdd_register_matchers(register):
    """``--method sorted-windows``."""
    register("sorted-windows", SortedWindows)
