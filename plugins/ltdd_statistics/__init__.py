"""Methods that begin with a teacher: ``--method rded|sre2l|edc|uni-level``."""

from __future__ import annotations

from typing import Any

from ltdd_core import Register, hookimpl

TEACHER = {"network": {"name": "convnet-d3", "norm": "batch"}, "head": "linear"}
RDED: dict[str, Any] = {
    "about": "RDED with the values of its public code for CIFAR-10 and 10 images a class.",
    "method": "rded",
    "init": "real",
    "matcher": {
        "factor": 1,
        "crops": {"candidates": 300, "count": 5, "smallest": 0.08},
        "teacher": TEACHER,
    },
    "labeller": {"name": "teacher", "per": "view", "teacher": TEACHER},
    "augment": "flip",
    "training": {
        "distilled": {
            "epochs": 300,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch": 50,
            "schedule": "cosine",
            "cutmix": 1.0,
            "soft_loss": "kl",
            "temperature": 20.0,
        }
    },
    "sources": {
        "": "RDED, public code for CIFAR-10, IPC 10",
        "matcher.teacher.network": "RDED, public code: a ConvNet of depth 3; its normalisation is ours",
        "training.distilled.schedule": "RDED, public code; its cosine ends at half of the learning rate",
    },
}
"""For CIFAR-10 with 10 images a class."""

RESNET = {
    "network": "resnet18",
    "head": "linear",
    "epochs": 200,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "batch": 128,
    "schedule": "cosine",
    "augment": "crop-flip",
}
SRE2L: dict[str, Any] = {
    "about": "SRe2L with the values of its public code for CIFAR-100.",
    "method": "sre2l",
    "iterations": 1000,
    "init": "noise",
    "augment": "none",
    "matcher": {
        "lr_img": 0.25,
        "r": 0.01,
        "first": 10.0,
        "statistics": "running",
        "class_weight": 0.0,
        "average": 0.0,
        "roll": 4,
        "teacher": RESNET,
    },
    "labeller": {"name": "teacher", "per": "view", "teacher": RESNET},
    "training": {
        "distilled": {
            "epochs": 400,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch": 128,
            "schedule": "cosine",
            "augment": "crop-flip",
            "mixup": 0.8,
            "soft_loss": "kl",
            "temperature": 30.0,
        },
    },
    "sources": {"": "SRe2L, public code for CIFAR-100"},
}
OF_EDC: dict[str, Any] = {
    "epochs": 1000,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch": 10,
    "schedule": "cosine",
    "augment": "resized-crop",
    "cutmix": 1.0,
    "average": 0.99,
    "soft_loss": "mse",
    "hard_weight": 0.025,
}
TEACHER_LABELS: dict[str, Any] = {
    "about": "Real images, which a teacher labels while a network is trained on them.",
    "method": "coreset",
    "init": "herding",
    # A student learns best from a teacher of its own kind, so both are the network of the run.
    "network": {"name": "convnet-d3", "norm": "batch"},
    "labeller": {"name": "teacher", "per": "view", "teacher": {"head": "balanced-softmax"}},
    "training": {"distilled": OF_EDC},
    "sources": {
        "": "measured on CIFAR-10: docs/results/hundred-images.md",
        "training.distilled": "EDC, public code, but for the schedule",
    },
}
EDC: dict[str, Any] = {
    "about": "EDC with the values of its public code for CIFAR.",
    "method": "edc",
    "iterations": 2000,
    "init": "real",
    "augment": "flip",
    "matcher": {
        "lr_img": 0.05,
        "r": 0.01,
        "first": 10.0,
        "statistics": "running",
        "class_weight": 0.5,
        "average": 0.8,
        "start": "initial",
        "smallest": 0.08,
        "batch": 100,
        "observers": [
            "resnet18",
            {"name": "convnet-d3", "norm": "batch"},
            {"name": "torchvision", "model": "mobilenet_v2"},
            {"name": "torchvision", "model": "shufflenet_v2_x0_5"},
            {"name": "convnet-d3", "norm": "batch", "depth": 1},
            {"name": "convnet-d3", "norm": "batch", "depth": 2},
            {"name": "convnet-d3", "norm": "batch", "width": 32},
        ],
        "teacher": {"head": "linear", "lr": 0.05, "weight_decay": 0.0, "batch": 64},
    },
    "training": {"distilled": OF_EDC},
    "sources": {
        "": "EDC, public code for CIFAR",
        "iterations": "EDC, public code for CIFAR-100, IPC 10",
        "matcher.observers": "EDC, public code, without WRN-16-2",
        "training.distilled.schedule": "EDC, public code, where it is halved at 80, 90 and 95 per cent",
    },
}
UNI_LEVEL: dict[str, Any] = {
    "about": "Uni-level with the published values, as far as they are known.",
    "method": "uni-level",
    "iterations": 2000,
    "augment": "flip",
    "matcher": {
        "lr_img": 0.05,
        "r": 0.01,
        "first": 10.0,
        "statistics": "averaged",
        "class_weight": 0.5,
        "average": 0.8,
        "start": "crops",
        "crops": {"candidates": 300, "count": 5, "smallest": 0.08},
        "smallest": 0.08,
        "teacher": {
            "network": {"name": "convnet-d3", "norm": "batch"},
            "head": "balanced-softmax",
            "epochs": 200,
            "lr": 0.01,
            "weight_decay": 5e-3,
            "batch": 64,
            "schedule": "cosine",
            "augment": "crop-flip",
        },
    },
    "training": {"distilled": OF_EDC},
    "sources": {
        "": "EDC, public code, which Uni-level follows",
        "matcher.statistics": "Uni-level",
        "matcher.start": "Uni-level",
        "matcher.crops": "RDED, public code",
        "matcher.teacher": "GLMC, public code, with another head",
        "training.distilled.epochs": "Uni-level",
    },
}

EDC_QUICK: dict[str, Any] = {
    "about": "EDC with networks of 30 epochs, for runs of some minutes.",
    "method": "edc",
    "matcher": {"teacher": {"epochs": 30}},
}


@hookimpl
def ltdd_register_matchers(register: Register) -> None:
    """The family of methods."""
    register("rded", "ltdd_statistics.rded:CropMatcher")
    register("sre2l", "ltdd_statistics.sre2l:SRe2LMatcher")
    register("edc", "ltdd_statistics.edc:EDCMatcher")
    register("uni-level", "ltdd_statistics.uni_level:UniLevelMatcher")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """The published values, as far as they are known, real images that a teacher labels, and what minutes allow."""
    register("rded-paper", RDED)
    register("sre2l-paper", SRE2L)
    register("edc-paper", EDC)
    register("edc-quick", EDC_QUICK)
    register("uni-level-paper", UNI_LEVEL)
    register("teacher-labels", TEACHER_LABELS)
