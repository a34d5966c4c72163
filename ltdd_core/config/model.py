"""What a configuration is: the options of a run, and the components that were chosen."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ltdd_core.config.ipc import DEFAULT, IPC, read_ipc
from ltdd_core.config.layers import COMPONENTS, Tree, flat
from ltdd_core.config.validation import validate_options
from ltdd_core.errors import InputError, OptionError, brief
from ltdd_core.options import BaseOptions, Named, changes, option
from ltdd_core.training.options import (
    EPOCHS,
    Epochs,
    TrainingOptions,
    check_milestones,
    unset_option,
    with_what_it_needs,
)

DEFAULT_NAMES = {
    "data": "digits-lt",
    "sampler": "instance",
    "network": "convnet-d3",
    "head": "linear",
    "recipe": "direct",
}


STARTS = REAL, NOISE, KEEP = "real", "noise", "keep"
"""Initial images, beside the names of samplers."""


class RunOptions(BaseOptions):
    """What every run has."""

    ipc: IPC = option(
        DEFAULT,
        "synthetic images per class: a number, or a mapping with numbers for all, many, medium, few and single "
        "classes, or with a rule (equal, sqrt, proportional) and the total that it shares",
    )
    iterations: int = option(1000, "steps of the matcher; the published lengths are in the presets", ge=1)
    init: str = option(
        REAL,
        "initial images: real ones chosen by the run's sampler (real), or by the sampler named; noise; or as real, but "
        "a class with no more images than its IPC keeps them unchanged and has no others (keep)",
    )
    augment: str = option(
        "color_crop_cutout_flip_scale_rotate",
        "differentiable augmentation in matching and training: operations joined by _, or none",
        source="DSA, public code",
    )
    seed: int = option(0, "seed of everything random except the cut to the long tail (data.seed)", ge=0)
    plugins: tuple[str, ...] = option((), "active plugins, which choose components and watch the run")
    test_imbalances: tuple[Annotated[float, Field(gt=1)], ...] = option(
        (),
        "imbalance factors of long-tailed test distributions on which classifiers are scored, too; each is above 1",
        source="LADE and SADE",
    )

    @field_validator("ipc", mode="before")
    @classmethod
    def _read_ipc(cls, value: Any) -> Any:
        return read_ipc(value)


class OriginalTraining(TrainingOptions):
    """Training on the long-tailed set: fewer epochs, since each sees many more images."""

    epochs: Epochs = option(60, EPOCHS)
    lr: float = option(0.05, "initial learning rate", gt=0)

    @model_validator(mode="after")
    def _has_a_use_for_milestones(self) -> Self:
        check_milestones(self.schedule, self.milestones)
        return self


def _of_the_method(name: str, default: Any = None, source: str | None = None) -> Any:
    """An option of a training that a method may have a say in: None until somebody has said something."""
    usual = TrainingOptions.model_fields[name].default if default is None else default
    return unset_option(name, f"the method's, or {'that of the run' if usual is None else usual}", source)


DISTILLED_EPOCHS = 1000
"""What the public code of DSA trains on a distilled set for."""


class DistilledTraining(BaseOptions):
    """Training on the distilled set; what the user does not say is for the method to say."""

    epochs: Epochs | None = _of_the_method("epochs", DISTILLED_EPOCHS, "DSA, public code")
    optimizer: Literal["sgd", "adamw"] | None = _of_the_method("optimizer")
    lr: float | None = _of_the_method("lr")
    momentum: float | None = _of_the_method("momentum")
    weight_decay: float | None = _of_the_method("weight_decay")
    batch: int | None = _of_the_method("batch")
    schedule: Literal["step", "cosine", "constant"] | None = _of_the_method("schedule")
    milestones: tuple[float, ...] | None = _of_the_method("milestones")
    gamma: float | None = _of_the_method("gamma")
    warmup: int | None = _of_the_method("warmup")
    augment: Named | None = _of_the_method("augment")
    mixup: float | None = _of_the_method("mixup")
    cutmix: float | None = _of_the_method("cutmix")
    label_smoothing: float | None = _of_the_method("label_smoothing")
    average: float | None = _of_the_method("average")
    soft_loss: Literal["cross-entropy", "mse", "kl"] | None = _of_the_method("soft_loss")
    temperature: float | None = _of_the_method("temperature")
    hard_weight: float | None = _of_the_method("hard_weight")

    @model_validator(mode="after")
    def _has_a_use_for_milestones(self) -> Self:
        check_milestones(self.schedule, self.milestones)
        return self

    def said(self) -> dict[str, Any]:
        """The options of which somebody has said something, with what they need to count."""
        return with_what_it_needs({name: value for name, value in self.model_dump().items() if value is not None})

    def left_of(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """What holds of a method's recipe: the options of which nobody has said otherwise."""
        return {name: value for name, value in recipe.items() if name not in self.said()}

    def over(self, recipe: Mapping[str, Any], suggested: Mapping[str, Any] | None = None) -> TrainingOptions:
        """These options over what a method says, over what a data source suggests, over the defaults.

        Args:
            recipe: of the method.
            suggested: by the data source.

        Raises:
            InputError: the recipe has an option that there is not, or a value out of range.
        """
        values = {"epochs": DISTILLED_EPOCHS, **(suggested or {}), **recipe, **self.said()}
        try:
            options: TrainingOptions = validate_options(("training", "distilled"), TrainingOptions, values)
        except OptionError as error:
            raise InputError(f"the recipe of the distilled set: {error}" if recipe else str(error)) from error
        return options


class Training(BaseOptions):
    """How networks are trained on the original and on the distilled set."""

    original: OriginalTraining = OriginalTraining()
    distilled: DistilledTraining = DistilledTraining()
    suggested: dict[str, Any] = option(
        {},
        "what the data source suggests for training.distilled; it holds where neither you nor the method say anything",
    )

    def on_distilled(self, recipe: Mapping[str, Any]) -> TrainingOptions:
        """How networks are trained on a distilled set.

        Args:
            recipe: of the method that made it.

        Raises:
            InputError: the recipe has an option that there is not, or a value out of range.
        """
        return self.distilled.over(recipe, self.suggested)


MOST_THREADS = 1024
"""CPU threads; a system that cannot start as many as were asked for ends the process."""


MOST_TOGETHER = 1024
"""Networks that are trained at once."""


class Compute(BaseOptions):
    """What a run computes with; nothing here is part of the science."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "device to compute on; auto: the GPU where there is one")
    threads: int | None = option(
        None, "CPU threads; unless given, as many as there are cores, or as a container may use", ge=1, le=MOST_THREADS
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = option(
        "auto",
        "precision of the features in matching and training; auto: the one that this machine trains networks in "
        "fastest, as it is on most GPUs, and on CPUs with AMX or AVX-512-BF16, bf16; tf32, on NVIDIA GPUs only, rounds "
        "what enters convolutions and matrix products",
    )
    compile: Literal["auto"] | bool = option(
        "auto",
        "compiled networks in matching and training, for which a C++ compiler is needed; auto: in work that is long "
        "enough to pay for compiling, if there is a compiler",
    )
    together: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_TOGETHER)] = option(
        "auto",
        "networks of one shape that are trained at once where several are needed, as for repeats; auto: one on a CPU, "
        "and on a GPU up to 16 whose steps are too small to keep it busy",
    )
    checkpoint_every: int = option(20, "steps between two checkpoints", ge=1)
    chunk: int | None = option(
        None,
        "number of images that pass a network at once; unless given, at 32x32 pixels 32 on a CPU and 2048 on a GPU, "
        "and fewer of larger images",
        ge=1,
    )
    keep: bool = option(True, "trained classifiers kept in the folder of the run")
    store: Path | None = option(None, "folder of trained networks; unless given, the folder networks of the run")


SECTIONS = {*COMPONENTS, "training", "compute", *RunOptions.model_fields}
"""The keys of a configuration."""


@dataclass(frozen=True)
class Selection:
    """A component that was chosen: its name, its validated options, its class and who offers it."""

    kind: str
    name: str
    options: Any
    component: Any
    owner: str

    @property
    def shown(self) -> str:
        """What tables call it: its name, with the option that a text after its colon gives, ``timm:resnet18``."""
        option = getattr(self.component, "argument", None)
        return self.name if option is None else f"{self.name}:{getattr(self.options, option)}"

    @property
    def title(self) -> str:
        """What tables and run folders call it: its own title, as data have it, or else its name."""
        return getattr(self.make(), "title", None) or self.shown

    def __repr__(self) -> str:
        said = "".join(f", {key}={value!r}" for key, value in self.changes().items() if key != "name")
        return f"Selection({self.kind} {self.name}{said})"

    def following(self, run: RunOptions) -> Selection:
        """The same with the values of the run for options that follow one of its options and say nothing."""
        values = {}
        for name, field in type(self.options).model_fields.items():
            extra = field.json_schema_extra
            followed = extra.get("follows") if isinstance(extra, Mapping) else None
            if followed and getattr(self.options, name) is None:
                value, share = getattr(run, str(followed)), extra.get("share", 1)
                values[name] = value if share == 1 else round(share * value)
        return replace(self, options=self.options.model_copy(update=values))

    def make(self) -> Any:
        """A new instance."""
        return self.component(self.options)

    def to_tree(self) -> Tree:
        """Name and all options, as in a configuration file."""
        return {"name": self.name, **self.options.model_dump(mode="json")}

    def changes(self) -> Tree:
        """Name, and the options that differ from their defaults."""
        return {"name": self.name, **changes(self.options)}


@dataclass(frozen=True)
class Config:
    """A resolved configuration."""

    data: Selection
    """The data source."""
    sampler: Selection
    """Draws real images, for matching and for the epochs of a training."""
    network: Selection
    """Matches, and is trained."""
    matcher: Selection
    """The distillation method."""
    labeller: Selection
    """Gives the distilled set soft labels; :data:`NO_LABELLER` leaves those of the method."""
    head: Selection
    """The classifier head."""
    recipe: Selection
    """Which data train which stage of the head."""
    start: Selection | None
    """The sampler that ``init`` names, if it names one other than the run's."""
    run: RunOptions
    """Options that stand at the top of a configuration, such as ``ipc`` and ``seed``."""
    training: Training
    """How networks are trained."""
    compute: Compute
    """What a run computes with."""

    def __repr__(self) -> str:
        chosen = {key: value for key, value in flat(self.changes()).items() if value not in ((), [], {})}
        names = [key for key in chosen if key.endswith(".name")]
        others = [f"{key}={value!r}" for key, value in chosen.items() if key not in names]
        components = [f"{key.removesuffix('.name')} {chosen[key]}" for key in names]
        return f"Config({', '.join(components + others)})"

    def to_tree(self) -> Tree:
        """Everything spelt out; resolving it again gives the same configuration."""
        tree: Tree = {kind: getattr(self, kind).to_tree() for kind in self._named()}
        tree.update(self.run.model_dump(mode="json"))
        tree["training"] = self.training.model_dump(mode="json")
        tree["compute"] = self.compute.model_dump(mode="json")
        return tree

    def changes(self) -> Tree:
        """What differs from today's defaults, and the names of the components.

        What the data source suggests is written here like any other value.  A digest of this stays the same when a
        later version has more options.
        """
        tree: Tree = {kind: getattr(self, kind).changes() for kind in self._named()}
        tree.update(changes(self.run), training=changes(self.training), compute=changes(self.compute))
        return tree

    def _named(self) -> list[str]:
        """The kinds of which a component was chosen: of some there may be none."""
        return [kind for kind in COMPONENTS if getattr(self, kind).component is not None]

    def science(self) -> Tree:
        """The part that decides the result: without folders, devices and the like."""
        return _science(self.to_tree())

    def deciding_changes(self) -> Tree:
        """The part of :meth:`changes` that decides the result."""
        return _science(self.changes())


def _science(tree: Tree) -> Tree:
    tree.pop("test_imbalances", None)  # what is said of a classifier changes neither it nor the images
    for key in ("root", "title"):
        tree["data"].pop(key, None)
    weights = tree["network"].get("weights")
    if isinstance(weights, str):  # an option of that name of a stranger's network may be anything
        with contextlib.suppress(OSError), Path(weights).open("rb") as file:  # what is in it decides, not where it lies
            tree["network"]["weights"] = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    tree["compute"] = {key: tree["compute"][key] for key in ("precision", "compile") if key in tree["compute"]}
    return tree


LEFT_TO_THE_MACHINE = ("compute.precision", "compute.compile")
"""Options that may be ``auto``."""


def differences(stored: Tree, now: Tree, changed: Tree) -> dict[str, str]:
    """What a stored configuration says otherwise, by the path of an option: ``"was 1 and is now 2"``.

    Args:
        stored: perhaps by an earlier version; an option that it does not have is taken to have today's default.
        now: everything spelt out; what it leaves to the machine is as it was.
        changed: what of it differs from today's defaults.
    """
    if "suggested" not in stored.get("training", {}):
        now, stored = _with_usual_training(now), _with_usual_training(stored)
    before, after, unusual = (_by_path(tree) for tree in (stored, now, changed))
    return {
        key: f"was {brief(before.get(key))} and is now {brief(after.get(key))}"
        for key in sorted({*before, *after})
        if (before[key] != after.get(key) if key in before else key in unusual)
        if not (key in LEFT_TO_THE_MACHINE and after.get(key) == "auto")  # what it chose before
    }


def _by_path(tree: Tree) -> Tree:
    """Options by their paths; numbers of images per class are one value, in whatever way they are written."""
    whole = {"ipc": tree["ipc"]} if "ipc" in tree else {}
    return {**flat({key: value for key, value in tree.items() if key not in whole}), **whole}


def _with_usual_training(tree: Tree) -> Tree:
    """As earlier versions stored a configuration: what a data source suggests, and the defaults, in full."""
    training = tree.get("training", {})
    if not isinstance(training, Mapping) or not isinstance(training.get("distilled"), Mapping):
        return tree
    usual = {name: field.default for name, field in TrainingOptions.model_fields.items()}
    said = {name: value for name, value in training["distilled"].items() if value is not None}
    full = {**usual, "epochs": DISTILLED_EPOCHS, **training.get("suggested", {}), **said}
    rest = {key: value for key, value in training.items() if key != "suggested"}
    return {**tree, "training": {**rest, "distilled": full}}


NO_METHOD = Selection("matcher", "none", BaseOptions(), None, "")
"""In the configuration of what distils nothing."""
NO_LABELLER = Selection("labeller", "none", BaseOptions(), None, "")
"""In the configuration of what leaves the labels of the method as they are."""
