"""The contracts of what makes a classifier: networks, heads and recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.export import program_of
from ltdd_core.evaluation.head import Classifier, ClassifierHead, Recipe
from ltdd_core.evaluation.labeller import Labeller, Labelling
from ltdd_core.evaluation.stored import TrainedClassifier, class_finder
from ltdd_core.networks.compiled import precision_context
from ltdd_core.networks.network import Network
from ltdd_core.networks.stored import Entry, Storable, Unstorable, put_together, taken_apart
from ltdd_core.plugging.loading import load_plugins
from ltdd_core.seeding import generator
from ltdd_core.storage import json_text, parse_json
from ltdd_core.testing.contract import Contract, check_soft_labels
from ltdd_core.testing.tiny import CPU, PlainSampler, devices, tiny_long_tailed, tiny_task, tiny_trainer
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels


def check_head(component: type[ClassifierHead], **options: Any) -> None:
    """Log-probabilities of every class, the same for the same seed, on hard and soft labels, in fp32 and bf16.

    Validation images are a normal case, also where a class has none.
    A run can keep the classifier, and it says the same, bit for bit, when it is loaded again.
    ``ltdd export`` can make a graph of it, which says the same.

    Args:
        component: the class.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.ClassifierHead`.
    """
    contract, data = Contract(component), tiny_long_tailed()
    contract.options_are_described(component.Options)
    one_hot = torch.nn.functional.one_hot(data.train_labels, data.classes).float()
    soft = SoftLabels(one_hot * 0.9 + 0.1 / data.classes)
    names = ["original", *["distilled"] * (component.stages - 1)]
    lacking = data.test_labels < data.classes - 1
    validation = TrainingSet(
        "validation", data.test_images[lacking], data.test_labels[lacking], data.normalisation, data.classes
    )
    for device in devices():
        images = data.normalisation.apply(data.test_images).to(device)
        for precision, labels, unseen in (
            ("fp32", None, None),
            ("fp32", soft, None),
            ("bf16", None, None),
            ("fp32", None, validation),
        ):
            case = f"{'hard' if labels is None else 'soft'} labels on {device} in {precision}"
            case += "" if unseen is None else ", with validation images of all classes but one"
            whole = TrainingSet("", data.train_images, data.train_labels, data.normalisation, data.classes)
            sets = [replace(whole, name=name, soft_labels=labels) for name in names]
            results = []
            with contract.without_global_randomness(ClassifierHead.fit):
                for _ in range(2):
                    with contract.works(ClassifierHead.fit, f"it is trained with {case}"), torch.no_grad():
                        with torch.enable_grad():
                            trainer = tiny_trainer(device=device, precision=precision).changed(validation=unseen)
                            fitted = component(component.Options(**options)).fit(sets, trainer)
                        results.append(fitted.log_probabilities(images))
            _check_log_probabilities(contract, results[0], (len(images), data.classes), device)
            same = torch.equal(*results)
            contract.must(same, ClassifierHead.fit, "the same seed trains the same classifier a second time")
            loaded = _kept_and_loaded(contract, fitted, component).to(device)
            with torch.no_grad():
                same = torch.equal(loaded(images), results[1])
            contract.must(same, Storable, "the classifier says the same when it was kept and loaded again")
            if precision == "fp32" and labels is None and device == CPU:
                _check_graph(contract, loaded, data)


def _kept_and_loaded(contract: Contract, classifier: Classifier, component: type[ClassifierHead]) -> nn.Module:
    """The classifier as it comes out of a file; classes of the package of the head are found, installed or not."""
    plugins, package = load_plugins(), component.__module__.partition(".")[0]
    find = class_finder(plugins, package)
    try:
        modules, tensors = taken_apart(classifier, find)
    except Unstorable as error:
        raise contract.broken(Storable, f"a run can keep its classifier, and {error}") from error
    with contract.works(Storable, "a kept classifier can be loaded"):
        entries = [Entry.model_validate(entry) for entry in parse_json(json_text(modules))]
        return put_together(entries, {name: tensor.cpu() for name, tensor in tensors.items()}, find)


def _check_graph(contract: Contract, classifier: nn.Module, data: LongTailedSet) -> None:
    """``ltdd export`` can make a graph of the classifier, which says what the classifier says, of one image too."""
    trained = TrainedClassifier(
        cast(Classifier, classifier),
        line="",
        class_names=data.class_names,
        groups=None,
        counts=data.counts,
        images=len(data.train_labels),
        image_shape=data.image_shape,
        normalisation=data.normalisation,
        facts={},
    )
    images = data.test_images.float() / 255
    with contract.works(Classifier, "ltdd export can make a graph of its classifier"):
        graph = program_of(trained).module()
        for number in (len(images), 1):
            same = torch.allclose(graph(images[:number]), trained.predict(images[:number]), atol=1e-4)
            contract.must(same, Classifier, f"the graph says the same of {number} images")


def _check_log_probabilities(contract: Contract, result: Tensor, shape: tuple[int, int], device: torch.device) -> None:
    where = Classifier.log_probabilities
    contract.must(tuple(result.shape) == shape, where, f"log_probabilities are [n, classes] = {list(shape)}")
    contract.must(result.dtype == torch.float32, where, "log_probabilities are float32")
    contract.must(result.device.type == device.type, where, "log_probabilities are on the device of the images")
    contract.must(not bool(result.isnan().any()), where, "no log-probability is NaN")
    total = result.exp().sum(1)
    contract.must(torch.allclose(total, torch.ones_like(total), atol=1e-4), where, "probabilities sum to one")


def check_labeller(component: type[Labeller], **options: Any) -> None:
    """Soft labels of every class for any images, the same for the same seed, of single images and of many.

    Args:
        component: the class.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.Labeller`.
    """
    contract, data = Contract(component), tiny_long_tailed()
    contract.options_are_described(component.Options)
    for device in devices():
        task = tiny_task(data, PlainSampler(data), device=device)
        images = data.normalisation.apply(data.test_images).to(device)
        labelling = Labelling(
            images, data.test_labels.to(device), data.counts, task.trained, task.component, task.seed, device
        )
        results = []
        with contract.without_global_randomness(Labeller.label):
            for _ in range(2):
                labeller = component(component.Options(**options))
                with contract.works(Labeller.prepare, f"it is prepared on {device}"):
                    labeller.prepare(labelling)
                with contract.works(Labeller.label, f"label takes any images on {device}"):
                    results.append(labeller.label(images))
                    alone = labeller.label(images[:1])
        check_soft_labels(contract, results[0], (len(images), data.classes), Labeller.label)
        check_soft_labels(contract, alone, (1, data.classes), Labeller.label)
        contract.must(not alone.values.requires_grad, Labeller.label, "soft labels carry no gradient")
        among = results[1].probabilities()[:1]
        equal = torch.allclose(alone.probabilities(), among, rtol=1e-3, atol=1e-3)
        contract.must(equal, Labeller.label, "an image has the same label alone and among others")
        same = torch.equal(results[0].values, results[1].values)
        contract.must(same, Labeller.label, "the same seed gives the same labels a second time")
        contract.must(labeller.teacher_bytes() >= 0, Labeller.teacher_bytes, "teacher_bytes is a number of bytes")


def check_recipe(component: type[Recipe], **options: Any) -> None:
    """One of the two sets for each stage, or an InputError.

    Args:
        component: the class.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.Recipe`.
    """
    contract, where = Contract(component), Recipe.assign
    contract.options_are_described(component.Options)
    recipe = component(component.Options(**options))
    for stages in (1, 2, 3):
        with contract.works(where, f"assign names a set for each of {stages} stages, or raises InputError"):
            try:
                assigned = recipe.assign(stages)
            except InputError:
                continue
        known = set(assigned) <= {"original", "distilled"} and len(assigned) == stages
        contract.must(known, where, "assign names original or distilled for each stage")


def check_network(component: type[Network], shape: tuple[int, int, int] = (3, 32, 32), **options: Any) -> None:
    """``embed`` gives what ``linear`` takes, gradients flow, initial weights come from torch's generator.

    Args:
        component: the class.
        shape: C, H and W of the images that it takes.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.Network`.
    """
    contract = Contract(component)
    contract.options_are_described(component.Options)
    contract.must(component.forward is Network.forward, Network.forward, "forward is not overridden")
    for device in devices():
        network = _made(contract, component, shape, options).eval().to(device)
        images = torch.randn(2, *shape, generator=generator(0, "check")).to(device).requires_grad_()
        with contract.without_global_randomness(Network):
            _check_features(contract, network, images)
        _check_bf16(contract, network, images.detach())
    first, second = (_made(contract, component, shape, options).state_dict() for _ in range(2))
    same = all(torch.equal(value, second[name]) for name, value in first.items())
    contract.must(same, Network, "the same global seed gives the same weights")


def _made(contract: Contract, component: type[Network], shape: tuple[int, int, int], options: Any) -> Network:
    with torch.random.fork_rng(), contract.works(Network, "it is made as cls(image_shape, outputs, options)"):
        torch.manual_seed(0)
        return component(shape, 7, component.Options(**options))


def _check_features(contract: Contract, network: Network, images: Tensor) -> None:
    with contract.works(Network.embed, "embed gives features of images"):
        features, alone = network.embed(images), network.embed(images[:1])
    expected = (2, network.linear.in_features)
    contract.must(tuple(features.shape) == expected, Network.embed, "embed is [n, linear.in_features]")
    contract.must(len(alone) == 1, Network.embed, "embed takes a single image")
    contract.must(tuple(network(images).shape) == (2, 7), Network.forward, "forward is [n, outputs]")
    network(images).square().sum().backward()
    reached = images.grad is not None and bool(images.grad.any())
    contract.must(reached, Network.embed, "gradients reach the images")


def _check_bf16(contract: Contract, network: Network, images: Tensor) -> None:
    with contract.works(Network.embed, "embed works in bf16"), precision_context("bf16", images.device):
        features = network.embed(images)
    contract.must(bool(torch.isfinite(features).all()), Network.embed, "features in bf16 are finite")
