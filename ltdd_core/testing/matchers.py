"""The contract of distillation methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ltdd_core.config.model import RunOptions
from ltdd_core.config.validation import validate_options
from ltdd_core.data.sampler import Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.kept import count_kept, put_back
from ltdd_core.distillation.matcher import Matcher, Synthetic
from ltdd_core.options import option
from ltdd_core.testing.contract import Contract, check_soft_labels
from ltdd_core.testing.tiny import PlainSampler, devices, tiny_long_tailed, tiny_task
from ltdd_core.training.options import TrainingOptions

STEPS = 3
UNEQUAL = (4, 1, 3, 2)
"""Synthetic images of the classes of the tiny set, of which the last two have no more real ones."""


def check_matcher(component: type[Matcher], *, sampler: Sampler | None = None, **options: Any) -> None:
    """Steps are functions of (state, step), in bf16 too and on every device; a one-image class is a normal case.

    Each class has the number of images that the run asks for, and real images that the run keeps are in the set.

    Args:
        component: the class.
        sampler: draws the real images; uniformly, unless given.
        options: of the component, where other than the defaults are to be checked.

    Raises:
        ContractError: it does not keep the contract of :class:`ltdd_core.Matcher`.
    """
    contract, data = Contract(component), tiny_long_tailed()
    contract.options_are_described(component.Options)
    _check_followed(contract, component)
    for device in devices():
        for precision in ("fp32", "bf16"):

            def prepared(device: torch.device = device, precision: str = precision) -> Matcher:
                task = tiny_task(data, sampler or PlainSampler(data), device=device, precision=precision)
                matcher = component(component.Options(**options))
                matcher.prepare(task)
                return matcher

            check = _check_steps if component.iterative else _check_as_prepared
            with contract.without_global_randomness(Matcher.step):
                with contract.works(Matcher.prepare, f"it is prepared on {device} in {precision}"):
                    matcher = prepared()
                _check_distilled(contract, matcher, data.classes, device)
                _check_recipe(contract, matcher)
                _check_decode(contract, matcher, matcher.distilled().images, data.image_shape)
                check(contract, prepared, f"on {device} in {precision}")
    with contract.without_global_randomness(Matcher.step):
        _check_unequal(contract, component, data, sampler or PlainSampler(data), options)


def _check_followed(contract: Contract, component: type[Matcher]) -> None:
    """An option that follows one of the run can: there is such a one, and nothing stands against it."""
    for name, field in component.Options.model_fields.items():
        extra = field.json_schema_extra
        followed = extra.get("follows") if isinstance(extra, Mapping) else None
        if followed:
            contract.must(followed in RunOptions.model_fields, option, f"{name!r} follows an option that a run has")
            contract.must(field.default is None, option, f"the default of {name!r} is None, since it follows another")


def _check_unequal(
    contract: Contract, component: type[Matcher], data: LongTailedSet, sampler: Sampler, options: dict[str, Any]
) -> None:
    """Each class has its own number of images, and where a class keeps its real ones they stay as they are."""
    decoded = component(component.Options(**options)).is_decoded(data.image_shape)  # a run refuses to keep that
    for keep_real in (False,) if decoded else (False, True):
        where = "with different numbers of images per class" + (", some of them kept" if keep_real else "")
        task = tiny_task(data, sampler, ipc=UNEQUAL, keep_real=keep_real)
        matcher = component(component.Options(**options))
        with contract.works(Matcher.prepare, f"it is prepared {where}"):
            matcher.prepare(task)
        if component.iterative:
            _after(contract, matcher, range(2), where)
        _check_distilled(contract, matcher, data.classes, task.device)
        made = put_back(task, matcher.distilled())
        found = torch.bincount(made.labels.cpu(), minlength=data.classes).tolist()
        each = zip(found, task.ipc_of_class, data.counts, strict=True)
        fits = all(min(number, count) <= images <= number for images, number, count in each)
        contract.must(fits, Matcher.distilled, "each class has the number of images that task.ipc_of_class says")
        contract.must(bool(torch.isfinite(made.images).all()), Matcher.step, f"the images are finite {where}")
        kept = count_kept(task, made) == len(task.kept_images)
        contract.must(kept, Matcher.distilled, "the real images that the run keeps are in the set, as they were")


def _check_steps(contract: Contract, prepared: Callable[[], Matcher], where: str) -> None:
    whole, states = prepared(), []
    for step in range(STEPS):
        states.append(_copied(contract, whole))
        with contract.works(Matcher.step, f"step {step} is taken {where}"):
            metrics = whole.step(step)
        contract.must("loss" in metrics, Matcher.step, "step returns a loss")
        finite = bool(torch.isfinite(torch.as_tensor(metrics["loss"])))
        contract.must(finite, Matcher.step, f"the loss is finite {where}")
    images, before = whole.distilled().images, prepared().distilled().images
    contract.must(bool(torch.isfinite(images).all()), Matcher.step, f"the images are finite {where}")
    contract.must(not torch.equal(images, before), Matcher.step, f"steps move the images {where}")
    second = _after(contract, prepared(), range(STEPS), where)
    same = torch.equal(images, second.distilled().images)
    contract.must(same, Matcher.step, f"a second run in the same process comes to the same pixels {where}")
    resumed = prepared()
    with contract.works(Matcher.load_state, "load_state takes what state returned"):
        resumed.load_state(states[1])
    again = _after(contract, resumed, range(1, STEPS), where).distilled().images
    resumes = torch.equal(images, again)
    contract.must(resumes, Matcher.load_state, f"load_state resumes with the same pixels, bit for bit {where}")


def _copied(contract: Contract, matcher: Matcher) -> dict[str, Tensor]:
    with contract.works(Matcher.state, "state is asked before each step"):
        state = matcher.state()
    plain = all(isinstance(tensor, Tensor) for tensor in state.values())
    contract.must(plain, Matcher.state, "state holds tensors only")
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _after(contract: Contract, matcher: Matcher, steps: range, where: str) -> Matcher:
    for step in steps:
        with contract.works(Matcher.step, f"step {step} is taken {where}"):
            matcher.step(step)
    return matcher


def _check_as_prepared(contract: Contract, prepared: Callable[[], Matcher], where: str) -> None:
    """A method that takes no steps gives the same images whenever it is prepared."""
    same = torch.equal(prepared().distilled().images, prepared().distilled().images)
    contract.must(same, Matcher.prepare, f"prepare gives the same images each time {where}")


def _check_distilled(contract: Contract, matcher: Matcher, classes: int, device: torch.device) -> None:
    where = Matcher.distilled
    with contract.works(where, "distilled gives the images and their labels"):
        made = matcher.distilled()
    contract.must(isinstance(made, Synthetic), where, "distilled gives a Synthetic")
    images, labels, soft = made.images, made.labels, made.soft_labels
    contract.must(images.dtype == torch.float32, where, "distilled images are float32")
    contract.must(images.dim() == 4, where, "distilled images are [n, C, H, W]")
    contract.must(len(labels) == len(images), where, "distilled gives a label for each image")
    classes_only = labels.dim() == 1 and labels.dtype == torch.int64
    contract.must(classes_only, where, "distilled labels are classes, int64 [n]")
    near = all(tensor.device.type in (device.type, "cpu") for tensor in (images, labels))
    contract.must(near, where, "distilled images and labels are on the task's device or on the CPU")
    if soft is not None:
        check_soft_labels(contract, soft, (len(images), classes), where)
    every = set(labels.tolist()) == set(range(classes))
    contract.must(every, where, "each class has a distilled image, the class with one real image too")


def _check_recipe(contract: Contract, matcher: Matcher) -> None:
    """The training recipe is one that evaluation can use."""
    with contract.works(Matcher.recipe, "recipe gives options of TrainingOptions"):
        validate_options(("recipe",), TrainingOptions, matcher.recipe())


def _check_decode(contract: Contract, matcher: Matcher, images: Tensor, shape: tuple[int, ...]) -> None:
    """What is stored becomes what a network takes, the same each time, and gradients pass."""
    where = Matcher.decode
    stored = images.detach().clone().requires_grad_()
    with contract.works(where, "decode takes stored images"), contract.without_global_randomness(where):
        seen, again = matcher.decode(stored), matcher.decode(stored)
    fits = seen.dim() == 5 and len(seen) == len(stored) and tuple(seen.shape[2:]) == shape
    contract.must(fits, where, "decode gives [n, f, C, H, W], with C, H and W of the real images")
    contract.must(torch.equal(seen, again), where, "decode gives the same images each time")
    with contract.works(where, "gradients pass through decode"):
        seen.sum().backward()
