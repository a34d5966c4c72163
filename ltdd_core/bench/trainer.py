"""A trainer that several classifiers share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from ltdd_core.config.model import Config, Selection
from ltdd_core.networks.network import Network
from ltdd_core.training.losses import Loss, LossSchedule, cross_entropy
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import CLASSES, LastLayer, Trainer


class SharingTrainer(Trainer):
    """Finds a network by what decides it, so that classifiers with stages in common train those once.

    Args:
        own: the trainer of one classifier.
        config: of the same classifier.
        head: of the same classifier.
        known: networks by what decided them; those of this classifier are added.
    """

    def __init__(self, own: Trainer, config: Config, head: Selection, known: dict[str, Network]) -> None:
        vars(self).update(vars(own))
        science = config.science()
        self._science = {key: science[key] for key in ("data", "sampler", "network", "augment", "compute")}
        self._head, self._known = head.to_tree(), known

    def train(
        self,
        data: TrainingSet,
        *,
        outputs: int,
        purpose: str = CLASSES,
        loss: Loss = cross_entropy,
        loss_at: LossSchedule | None = None,
        layer: LastLayer | None = None,
    ) -> Network:
        """As :meth:`Trainer.train`."""
        # Functions, and what they hold, cannot be compared; they are the same for the same head, data and purpose.
        own = loss is not cross_entropy or loss_at is not None or layer is not None
        key = self._decided_by(data, outputs, self._full(purpose), self._head if own else None)
        if key not in self._known:
            self._known[key] = super().train(
                data, outputs=outputs, purpose=purpose, loss=loss, loss_at=loss_at, layer=layer
            )
        return self._known[key]

    def part(self, name: str | None, decided_by: Mapping[str, Any] | None = None) -> Trainer:
        """As :meth:`Trainer.part`."""
        part = super().part(name)
        if decided_by is not None and isinstance(part, SharingTrainer):
            part._head = dict(decided_by)
        return part

    def _decided_by(self, data: TrainingSet, outputs: int, purpose: str, head: dict[str, Any] | None) -> str:
        options = self.options[data.name].model_dump(mode="json")
        facts = {**self._science, "seed": self.seed, "set": data.name, "ordered": data.order is not None}
        facts |= {"training": options, "outputs": outputs, "purpose": purpose, "head": head}
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
        for tensor in (data.images, data.labels):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
