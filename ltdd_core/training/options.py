"""The options of a training."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import BaseOptions, Named, option

STEPS = re.compile(r"(?:([1-9]\d*) or )?([1-9]\d*) steps")
"""A length in steps, ``4000 steps``, or one in epochs or steps, ``60 or 4000 steps``."""


def _as_length(value: Any) -> Any:
    """A number of epochs, or a text that says it in steps."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value < 1:
        raise PydanticKnownError("greater_than_equal", {"ge": 1})
    if isinstance(value, int) or (isinstance(value, str) and STEPS.fullmatch(value)):
        return value
    raise PydanticCustomError("length", "length")


Epochs = Annotated[int | str, BeforeValidator(_as_length)]
"""How long a training is: see :meth:`TrainingOptions.passes`."""
EPOCHS = (
    "passes over the images, as in 300; '4000 steps' are as many passes as make 4000 steps, and '60 or 4000 steps' are "
    "60, or more where those are fewer than 4000 steps"
)


class TrainingOptions(BaseOptions):
    """How one network is trained.  Unless told otherwise by SGD, as in the evaluation of DC's public code.

    The step schedule of that code has one epoch more before the learning rate drops, epochs + 1 in all, and loses the
    momentum at the drop, where it makes a new optimizer.
    """

    epochs: Epochs = option(300, EPOCHS, source="DC, public code: 300, or 1000 with DSA")
    optimizer: Literal["sgd", "adamw"] = option("sgd", "optimizer of the weights", source="DC, public code")
    lr: float = option(0.01, "initial learning rate", source="DC, public code", gt=0)
    momentum: float = option(
        0.9,
        "momentum of SGD, or the first of AdamW's two betas; the second is 0.999",
        source="DC, public code",
        ge=0,
        lt=1,
    )
    weight_decay: float = option(5e-4, "weight decay", source="DC, public code", ge=0)
    batch: int = option(256, "images in a step", source="DC, public code", ge=1)
    schedule: Literal["step", "cosine", "constant"] = option(
        "step",
        "course of the learning rate: step, times gamma at each milestone; cosine, down to 0; or constant",
        source="DC, public code",
    )
    milestones: tuple[float, ...] | None = option(
        None,
        "milestones of the step schedule, each a share of all epochs: [0.8, 0.9] of 200 epochs are the epochs 160 and "
        "180, counted from 0",
        source="DC, public code",
        unless_given="epochs // 2 + 1 epochs after a warm-up",
    )
    gamma: float = option(
        0.1,
        "factor gamma of the learning rate at each milestone of the step schedule",
        source="DC, public code",
        gt=0,
        le=1,
    )
    warmup: int = option(
        0, "epochs in which the learning rate rises to its initial value in equal steps, before its course begins", ge=0
    )
    augment: Named | None = option(
        None, "augmentation of the training images; unless given, that of the run", component="augmentation"
    )
    mixup: float = option(
        0.0,
        "alpha of mixup, which mixes pairs of images in parts drawn from Beta(alpha, alpha); 0: no mixup",
        source="Zhang et al., ICLR 2018",
        ge=0,
    )
    cutmix: float = option(
        0.0,
        "alpha of CutMix, which replaces a rectangle of an image by that of another, its area drawn from Beta(alpha, "
        "alpha); 0: no CutMix; with mixup too, each batch has either",
        source="Yun et al., ICCV 2019",
        ge=0,
    )
    label_smoothing: float = option(
        0.0, "share of the label that is spread over all classes; soft labels stay as they are", ge=0, lt=1
    )
    average: float = option(
        0.0,
        "decay of the moving average of the weights, which is the network that comes out; 0: the last weights",
        ge=0,
        lt=1,
    )
    soft_loss: Literal["cross-entropy", "mse", "kl"] = option(
        "cross-entropy",
        "loss of soft labels: the head's loss (cross-entropy), the squared distance of centred logits (mse), or the "
        "Kullback-Leibler divergence at a temperature (kl)",
    )
    temperature: float = option(1.0, "temperature of teacher and student in the loss kl", gt=0)
    hard_weight: float = option(
        0.0,
        "weight of the head's loss of the classes, beside the loss of soft labels",
        source="EDC, public code: 0.025",
        ge=0,
    )

    @field_validator("milestones")
    @classmethod
    def _inside_the_training(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for share in value or ():
            if not 0 < share < 1:
                raise ValueError(f"{share:g} is no share of the epochs between 0 and 1: epoch 160 of 200 is 0.8")
        return value

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> Self:
        if isinstance(self.epochs, int) and self.warmup >= self.epochs:
            raise ValueError(f"warmup takes {self.warmup} of {self.epochs} epochs: use a smaller number")
        return self

    def passes(self, images: int, of: str = "") -> int:
        """Epochs on so many images, whether :attr:`epochs` says that in epochs or in steps.

        Args:
            images: how many there are.
            of: the set that they are of, ``original`` or ``distilled``, whose options a message names.

        Raises:
            InputError: a warm-up takes all of them.
        """
        said = STEPS.fullmatch(str(self.epochs))
        if said is None:
            return int(self.epochs)
        of_an_epoch = max(1, math.ceil(images / self.batch))
        passes = max(int(said[1] or 1), math.ceil(int(said[2]) / of_an_epoch))
        if self.warmup >= passes:
            known = of in ("original", "distilled")
            how = f", {how_to_set(f'training.{of}.warmup', 'N')}" if known else ""
            here = f"the {passes} epochs that {self.epochs} are here"
            raise InputError(f"warmup takes {self.warmup} of {here}: use a smaller number{how}.")
        return passes

    @property
    def remembers(self) -> bool:
        """Whether more than the weights goes from one step to the next, so that a training cannot resume from them."""
        return bool(self.momentum or self.average or self.optimizer == "adamw")


NEEDS = {
    "milestones": ("schedule", "step"),
    "gamma": ("schedule", "step"),
    "temperature": ("soft_loss", "kl"),
}
"""Options that count only where another one has this value."""


def with_what_it_needs(said: Mapping[str, Any]) -> dict[str, Any]:
    """Options that somebody said, with what they need to count: whoever says milestones says the step schedule.

    Args:
        said: by their names.  What is said of the other option, too, stays as it is.
    """
    return {**dict(NEEDS[name] for name in said if name in NEEDS), **said}


def check_milestones(schedule: str | None, milestones: Sequence[float] | None) -> None:
    """Refuse milestones beside a schedule that has none, which would be passed over.

    Args:
        schedule: as it was said; None: nobody has.
        milestones: likewise.

    Raises:
        ValueError: saying how to leave them out.
    """
    if milestones is not None and schedule not in (None, "step"):
        way_out = "write schedule=step or milestones=null"
        raise ValueError(f"milestones are those of schedule=step, and this is {schedule}: {way_out}")


def unset_option(name: str, unless_given: str, source: str | None = None) -> Any:
    """An option of a training that somebody else has a say in: None until something is said.

    Args:
        name: of an option of :class:`TrainingOptions`, whose description, limits and kind it has.
        unless_given: what holds where nothing is said.
        source: of its default; that of the option unless given.
    """
    field = TrainingOptions.model_fields[name]
    limits = {
        key: getattr(limit, key) for limit in field.metadata for key in ("gt", "ge", "lt", "le") if hasattr(limit, key)
    }
    extra: Any = field.json_schema_extra
    described = str(field.description).partition("; unless given")[0]
    return option(
        None,
        described,
        source=extra["source"] if source is None else source,
        component=extra["component"],
        unless_given=unless_given,
        **limits,
    )
