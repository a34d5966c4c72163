"""What the core itself offers, the defaults among it, through the same hooks as everybody else."""

from __future__ import annotations

from ltdd_core.hookspecs import Register, hookimpl


@hookimpl
def ltdd_register_datasets(register: Register) -> None:
    """Embedded images, those of torchvision, and those of the user."""
    register("digits-lt", "ltdd_core.data.digits:Digits")
    register("cifar10-lt", "ltdd_core.data.vision:Cifar10")
    register("cifar10-lt-1k", "ltdd_core.data.vision:Cifar10Thousand")
    register("cifar100-lt", "ltdd_core.data.vision:Cifar100")
    register("svhn-lt", "ltdd_core.data.vision:Svhn")
    register("fashion-mnist-lt", "ltdd_core.data.vision:FashionMnist")
    register("tiny-imagenet-lt", "ltdd_core.data.tiny_imagenet:TinyImageNet")
    register("imagenet-lt", "ltdd_core.data.known_lists:ImageNetLT")
    register("places-lt", "ltdd_core.data.known_lists:PlacesLT")
    register("inat2018", "ltdd_core.data.known_lists:INaturalist2018")
    register("folder", "ltdd_core.data.folder:ImageFolder")
    register("list", "ltdd_core.data.lists:ImageList")
    register("npz", "ltdd_core.data.npz:Npz")


@hookimpl
def ltdd_register_samplers(register: Register) -> None:
    """Every image once an epoch."""
    register("instance", "ltdd_core.data.by_class:InstanceSampler")


@hookimpl
def ltdd_register_networks(register: Register) -> None:
    """The field's networks."""
    register("convnet-d3", "ltdd_core.networks.zoo:ConvNet")
    register("resnet18", "ltdd_core.networks.zoo:ResNet18")
    register("resnet32", "ltdd_core.networks.zoo:ResNet32")
    register("vgg11", "ltdd_core.networks.zoo:VGG11")
    register("alexnet", "ltdd_core.networks.zoo:AlexNet")
    register("mlp", "ltdd_core.networks.zoo:MLP")


@hookimpl
def ltdd_register_augmentations(register: Register) -> None:
    """The operations of DSA, for training alone; crops and flips, and crops of any size."""
    register("siamese", "ltdd_core.training.augmentation:SiameseAugmentation")
    register("crop-flip", "ltdd_core.training.crops:CropFlip")
    register("resized-crop", "ltdd_core.training.crops:ResizedCrop")


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """The last layer that every network has."""
    register("linear", "ltdd_core.evaluation.linear:LinearHead")


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """A training of classifiers for any data."""
    register("strong-training", "ltdd_core.data.strong_training:PRESET")


@hookimpl
def ltdd_register_recipes(register: Register) -> None:
    """One set for every stage."""
    register("direct", "ltdd_core.evaluation.linear:Direct")


@hookimpl
def ltdd_register_launchers(register: Register) -> None:
    """This machine."""
    register("local", "ltdd_core.bench.local:LocalLauncher")
