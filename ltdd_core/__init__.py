"""ltdd: long-tailed dataset distillation, with methods as plugins.

These names are the public API; nothing else is promised.  Names that need torch are imported when they are
first used, so that a plugin's entry module stays cheap to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ltdd_core.errors import InputError, Interrupted, RunFailed
from ltdd_core.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from ltdd_core.api import configure, evaluate, load_data, quality
    from ltdd_core.augment import Augmentation
    from ltdd_core.config import Config
    from ltdd_core.data import ArrayTable, ImageTable, LongTailedSet, LongTailOptions
    from ltdd_core.data.normalisation import ZCA, Normalisation, PerChannel
    from ltdd_core.distillation import Result, distill
    from ltdd_core.formats import export
    from ltdd_core.interfaces import (
        Batch,
        Classifier,
        ClassifierHead,
        DataSource,
        Distillation,
        DistilledSet,
        EpochOrder,
        Features,
        Matcher,
        Network,
        Recipe,
        Sampler,
        Softmax,
        SourceImages,
        TrainingSet,
    )
    from ltdd_core.matching import BatchMatcher, ClassMatcher, class_means, embed_without_gradient
    from ltdd_core.networks import CosineLinear, Faster, NetworkPool, precision_context
    from ltdd_core.options import BaseOptions, Named, name_of, option
    from ltdd_core.partition import class_centres, class_distances, cut_value, max_cut, numbered
    from ltdd_core.progress import Display
    from ltdd_core.sampling import draw_by_class
    from ltdd_core.seeding import generator
    from ltdd_core.storage import load_distilled, load_tensors, save_distilled, save_tensors, write_atomically, writing
    from ltdd_core.training import (
        LastLayer,
        Loss,
        LossSchedule,
        Trainer,
        TrainingOptions,
        cross_entropy,
        train,
    )

_LAZY = {
    "ltdd_core.api": ("configure", "evaluate", "load_data", "quality"),
    "ltdd_core.augment": ("Augmentation",),
    "ltdd_core.config": ("Config",),
    "ltdd_core.data": ("ArrayTable", "ImageTable", "LongTailOptions", "LongTailedSet"),
    "ltdd_core.data.normalisation": ("Normalisation", "PerChannel", "ZCA"),
    "ltdd_core.distillation": ("Result", "distill"),
    "ltdd_core.formats": ("export",),
    "ltdd_core.interfaces": (
        "Batch",
        "Classifier",
        "ClassifierHead",
        "DataSource",
        "Distillation",
        "DistilledSet",
        "EpochOrder",
        "Features",
        "Matcher",
        "Network",
        "Recipe",
        "Sampler",
        "Softmax",
        "SourceImages",
        "TrainingSet",
    ),
    "ltdd_core.matching": ("BatchMatcher", "ClassMatcher", "class_means", "embed_without_gradient"),
    "ltdd_core.networks": ("CosineLinear", "Faster", "NetworkPool", "precision_context"),
    "ltdd_core.options": ("BaseOptions", "Named", "name_of", "option"),
    "ltdd_core.partition": ("class_centres", "class_distances", "cut_value", "max_cut", "numbered"),
    "ltdd_core.progress": ("Display",),
    "ltdd_core.sampling": ("draw_by_class",),
    "ltdd_core.seeding": ("generator",),
    "ltdd_core.storage": (
        "load_distilled",
        "load_tensors",
        "save_distilled",
        "save_tensors",
        "write_atomically",
        "writing",
    ),
    "ltdd_core.training": (
        "LastLayer",
        "Loss",
        "LossSchedule",
        "Trainer",
        "TrainingOptions",
        "cross_entropy",
        "train",
    ),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "ZCA",
    "ArrayTable",
    "Augmentation",
    "BaseOptions",
    "Batch",
    "BatchMatcher",
    "ClassMatcher",
    "Classifier",
    "ClassifierHead",
    "Config",
    "CosineLinear",
    "DataSource",
    "Display",
    "Distillation",
    "DistilledSet",
    "EpochOrder",
    "Faster",
    "Features",
    "ImageTable",
    "InputError",
    "Interrupted",
    "LastLayer",
    "LongTailOptions",
    "LongTailedSet",
    "Loss",
    "LossSchedule",
    "Matcher",
    "Named",
    "Network",
    "NetworkPool",
    "Normalisation",
    "PerChannel",
    "Recipe",
    "Register",
    "Result",
    "RunFailed",
    "Sampler",
    "Softmax",
    "SourceImages",
    "Trainer",
    "TrainingOptions",
    "TrainingSet",
    "class_centres",
    "class_distances",
    "class_means",
    "configure",
    "cross_entropy",
    "cut_value",
    "distill",
    "draw_by_class",
    "embed_without_gradient",
    "evaluate",
    "export",
    "generator",
    "hookimpl",
    "load_data",
    "load_distilled",
    "load_tensors",
    "max_cut",
    "name_of",
    "numbered",
    "option",
    "precision_context",
    "quality",
    "save_distilled",
    "save_tensors",
    "train",
    "write_atomically",
    "writing",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
