"""The reversed sampler of BBN (Zhou et al., CVPR 2020, section 4.2) and smoothed labels (Szegedy et al., CVPR 2016)."""

import torch

from ltdd_core import BaseOptions, ClassifierHead, Sampler, Softmax, cross_entropy, draw_by_class, hookimpl, option


class Reversed(Sampler):
    """Draw class c with probability ~ 1 / n_c."""

    def prepare(self, data):
        """Remember who belongs to which class."""
        self.labels = data.train_labels.cpu()
        self.counts = torch.tensor(data.counts, dtype=torch.float64)

    def of_class(self, label, size, generator):
        """Different images of one class."""
        own = torch.nonzero(self.labels == label).flatten()
        return own[torch.randperm(len(own), generator=generator)[:size]]

    def epoch(self, progress, generator):
        """As many draws as there are images."""
        return draw_by_class(self.labels, 1 / self.counts, generator)

    def representatives(self, label, ipc, generator, features):
        """Random images of the class."""
        return self.of_class(label, ipc, generator)


class Smoothed(ClassifierHead):
    """Cross-entropy with smoothed labels."""

    title = "smoothed"

    class Options(BaseOptions):
        """How smooth."""

        epsilon: float = option(0.1, "mass that is spread over all classes", ge=0, lt=1)

    def fit(self, sets, trainer):
        """Train on the one set."""
        epsilon = self.options.epsilon

        def loss(logits, labels):
            uniform = -logits.log_softmax(1).mean()
            return (1 - epsilon) * cross_entropy(logits, labels) + epsilon * uniform

        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose=f"smoothed {epsilon}", loss=loss))


@hookimpl
def ltdd_register_samplers(register):
    """``--sampler reversed``."""
    register("reversed", Reversed)


@hookimpl
def ltdd_register_heads(register):
    """``--head smoothed``."""
    register("smoothed", Smoothed)
