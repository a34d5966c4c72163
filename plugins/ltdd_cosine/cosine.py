"""A last layer of cosines: the norm of its weights gives no class an advantage (Liu et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ltdd_core import BaseOptions, Classifier, ClassifierHead, CosineLinear, Softmax, Trainer, TrainingSet, option


class CosineHead(ClassifierHead):
    """Softmax of scaled cosines between features and class weights, trained together with the network."""

    title = "cosine"

    class Options(BaseOptions):
        """The scale of the logits."""

        scale: float = option(16.0, "scale of the cosine logits", source="OLTR, public code", gt=0)

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""

        def layer(features: int, outputs: int) -> nn.Linear:
            return CosineLinear(features, outputs, self.options.scale)

        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose="classes by cosine", layer=layer))
