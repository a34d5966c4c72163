"""The methods that begin with a teacher, against literal versions of what their papers say."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import (
    InputError,
    LayerStatistics,
    TeacherOptions,
    TeacherTraining,
    TrainingOptions,
    configure,
    generator,
    load_distilled,
    make_network,
)
from ltdd_core.config.layers import Layer
from ltdd_core.config.resolve import select
from ltdd_core.config.stored import asked_for
from ltdd_core.networks.store import stored_networks
from ltdd_core.options import section_of
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_core.testing import PlainSampler, tiny_long_tailed, tiny_task
from ltdd_statistics.crops import CropOptions, best, chosen_crops
from ltdd_statistics.edc import EDCMatcher
from ltdd_statistics.observers import global_target
from ltdd_statistics.rded import CropMatcher
from ltdd_statistics.recovery import averaged, falling, spread
from ltdd_statistics.sre2l import SRe2LMatcher
from ltdd_statistics.students import labelled_recipe
from ltdd_statistics.teachers import CONVNET, trained
from ltdd_statistics.uni_level import UniLevelMatcher
from ltdd_statistics.windows import draw_windows, smallest_share

DATA = tiny_long_tailed()
SMALL = {"name": "convnet-d3", "depth": 1, "width": 4, "norm": "batch"}
FAST = (*TINY, "--threads", "1", "--set", "matcher.teacher.network={name: convnet-d3, norm: batch, depth: 2, width: 8}")


def task(**changes):
    return tiny_task(changes.pop("data", DATA), PlainSampler(changes.pop("sampled", DATA)), **changes)


# ---- windows -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 1.0), st.integers(0, 100))
def test_a_window_is_the_interpolation_of_its_part_of_the_image(height, width, smallest, seed):
    images = torch.randn(4, 2, height, width, generator=generator(seed, "images"))
    windows = draw_windows((2, height, width), 4, generator(seed, "windows"), smallest=smallest, flip=0.5)
    seen = windows.of(images)
    for place, (top, left, tall, wide, flipped) in enumerate(zip(*vars(windows).values(), strict=True)):
        part = images[place, :, top : top + tall, left : left + wide]
        assert part.shape[1:] == (tall, wide)
        expected = F.interpolate(part[None], (height, width), mode="bilinear")[0]
        torch.testing.assert_close(seen[place], expected.flip(2) if flipped else expected, rtol=1e-4, atol=1e-5)


def test_the_largest_window_is_the_image_and_smaller_ones_have_their_share_of_the_area():
    images = torch.randn(5, 3, 6, 9)
    assert torch.equal(draw_windows((3, 6, 9), 5, generator(0, "w"), smallest=1.0).of(images), images)
    drawn = draw_windows((3, 32, 32), 2000, generator(0, "w"), smallest=0.25, flip=0.3)
    share = (drawn.height * drawn.width).double() / 32**2
    assert 0.2 < share.min() < 0.3
    assert share.max() > 0.9
    assert (drawn.height.double() / drawn.width).log().abs().max() < math.log(4 / 3) + 0.1
    assert 0.25 < drawn.flipped.double().mean() < 0.35


# ---- crops ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_rounds_take_the_best_crop_of_each_image_then_the_second_best(crops, images, data):
    number = data.draw(st.integers(1, crops * images))
    scores = torch.rand(crops, images, generator=generator(crops, "scores", images))
    left = {image: sorted(range(crops), key=lambda crop: -scores[crop, image]) for image in range(images)}
    expected = []
    while len(expected) < number:
        offered = [(left[image].pop(0), image) for image in range(images)]
        expected += sorted(offered, key=lambda pair: -scores[pair])[: number - len(expected)]
    taken = best(scores, number)
    assert list(zip(*(part.tolist() for part in taken), strict=True)) == expected


def test_a_class_with_enough_images_gives_one_crop_of_each_and_a_small_one_gives_several():
    counts = (12, 2, 1, 5)
    data = tiny_long_tailed(counts)
    data.train_images[:] = torch.arange(20, dtype=torch.uint8).view(-1, 1, 1, 1) * 10  # a crop tells its image
    given_task = tiny_task(data, PlainSampler(data), ipc=4)
    teachers = trained(given_task, TeacherOptions(epochs=1), [SMALL])
    found = chosen_crops(given_task, teachers, CropOptions(count=2)).split(4)
    real = data.normalisation.apply(data.train_images)[:, 0, 0, 0].split(counts)
    for own, images, number in zip(found, real, (4, 2, 1, 4), strict=True):
        values = own[:, 0, 4, 4]
        torch.testing.assert_close(own[:, 0], values.view(-1, 1, 1).expand_as(own[:, 0]))
        assert len({round(value, 4) for value in values.tolist()}) == number
        assert (values[:, None] - images).abs().min(1).values.max() < 1e-4


def test_the_crops_are_those_that_the_teachers_are_surest_of():
    given_task = task()
    teachers = trained(given_task, TeacherOptions(), [SMALL])
    found = chosen_crops(given_task, teachers, CropOptions(count=4, smallest=0.3)).split(3)
    for label, count in enumerate(DATA.counts):
        draws = generator(0, "crops", label=label)
        indices = given_task.sampler.of_class(label, 300, draws)
        real = DATA.normalisation.apply(DATA.train_images[indices])
        every = [draw_windows((3, 8, 8), count, draws, smallest=0.3).of(real) for _ in range(max(4, -(-3 // count)))]
        scores = torch.stack([teachers.logits(each).softmax(1)[:, label] for each in every])
        if count >= 3:
            top = scores.max(0).values.topk(3).values
            torch.testing.assert_close(teachers.logits(found[label]).softmax(1)[:, label], top, rtol=1e-3, atol=1e-4)


# ---- teachers ------------------------------------------------------------------------------------


def test_all_teachers_of_all_kinds_count_the_same():
    given_task, options = task(), TeacherOptions(count=2)
    teachers = trained(given_task, options, [SMALL, {"name": "mlp", "width": 5}])
    assert len(teachers.networks) == 4
    images = DATA.normalisation.apply(DATA.test_images)
    expected = sum(network(images).log_softmax(1) for network in teachers.networks) / 4
    torch.testing.assert_close(teachers.logits(images), expected)
    assert teachers.soft_labels(images).kind == "logits"


def test_every_option_of_the_teachers_reaches_their_training(monkeypatch):
    training = {
        "epochs": 3,
        "optimizer": "adamw",
        "lr": 0.02,
        "momentum": 0.8,
        "weight_decay": 0.1,
        "batch": 7,
        "schedule": "step",
        "milestones": (0.5,),
        "gamma": 0.5,
        "warmup": 1,
        "augment": {"name": "crop-flip", "padding": 1},
        "mixup": 0.3,
        "cutmix": 0.4,
        "label_smoothing": 0.1,
        "average": 0.9,
    }
    given_task, asked = task(seed=4), []
    options = TeacherOptions(**training, head="ldam", sampler="class-balanced", count=2)
    monkeypatch.setattr(TeacherTraining, "_all", lambda self, kinds: asked.extend(kinds) or [[None] * 2])
    trained(given_task, options, [CONVNET])
    assert [kind._asdict() for kind in asked] == [
        {"network": CONVNET, "head": "ldam", "sampler": "class-balanced", "training": training, "seeds": [4, 5]}
    ]
    assert {*TeacherOptions.model_fields} == {*training, "head", "sampler", "count", "network"}
    of_soft_labels = {"soft_loss", "temperature", "hard_weight"}
    assert {*training} == {*TrainingOptions.model_fields} - of_soft_labels


def test_milestones_of_a_teacher_say_the_step_schedule_where_the_run_has_another():
    given_task = task()
    of_the_run = TrainingOptions(epochs=2, schedule="cosine")
    trainer = given_task.trained.trainer.changed(options={"original": of_the_run})
    asked = replace(given_task.trained, trainer=trainer)
    found, expected = (
        asked(network=SMALL, training=training).networks[0].state_dict()
        for training in ({"milestones": (0.5,)}, TrainingOptions(epochs=2, schedule="step", milestones=(0.5,)))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# ---- RDED ----------------------------------------------------------------------------------------


def test_tiles_are_the_best_crops_shrunk_and_seen_as_one_image():
    plain, tiles = (
        CropMatcher(CropMatcher.Options(factor=factor, teacher={"network": SMALL, "epochs": 1})) for factor in (1, 2)
    )
    given_task = task(ipc=1)
    tiles.prepare(given_task)
    crops = chosen_crops(given_task, trained(given_task, tiles.options.teacher, [SMALL]), CropOptions(), 4)
    for image, own in zip(tiles.distilled().images, crops.split(4), strict=True):
        for place, crop in enumerate(own):
            top, left = 4 * (place // 2), 4 * (place % 2)
            shrunk = F.interpolate(crop[None], (4, 4), mode="bilinear", antialias=True)[0]
            torch.testing.assert_close(image[:, top : top + 4, left : left + 4], shrunk)
    plain.prepare(given_task)
    assert torch.equal(tiles.decode(tiles.images), tiles.images[:, None])
    assert "augment" not in plain.recipe()
    assert tiles.recipe()["augment"] == {"name": "resized-crop", "smallest": 0.5, "flip": 0.5}


@pytest.mark.parametrize(("ipc", "batch"), [(1, 10), (10, 10), (100, 20)])
def test_the_recipe_is_that_of_the_paper_in_smaller_batches(ipc, batch):
    matcher = CropMatcher(CropMatcher.Options(crops={"candidates": 2, "count": 1}, teacher={"network": SMALL}))
    matcher.prepare(task(ipc=ipc))
    recipe = matcher.recipe()
    assert recipe["batch"] == batch
    assert {recipe[key] for key in ("soft_loss", "optimizer", "schedule")} == {"kl", "adamw", "cosine"}
    assert (recipe["temperature"], recipe["cutmix"], recipe["epochs"]) == (20.0, 1.0, 300)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "matcher.factor=9"), "matcher.factor: 9 x 9 tiles do not fit into images of 8x8 pixels."),
        (("--set", "matcher.teacher.head=nope"), "nope"),
        (("--set", "matcher.teacher.head=twostage"), "stages"),
        (("--set", "matcher.teacher.epochs=0"), "teacher.epochs must be at least 1"),
    ],
)
def test_a_wrong_option_is_one_line(ltdd, tmp_path, words, message):
    result = ltdd("distill", "--method", "rded", *FAST, *words, "--out", "run", "--quiet")
    assert message in one_line_error(result)
    assert not (tmp_path / "here" / "run").exists()


def test_a_run_stores_crops_with_labels_and_the_labeller_finds_the_same_teacher(ltdd):
    base = ("distill", "--method", "rded", *FAST, "--quiet", "--json")
    done = ltdd(
        *base, "--set", "data.order=reversed", "--set", "data.imbalance=100", "--plugin", "twostage", "--out", "image"
    )
    assert done.exit_code == 0, done.output
    stored = load_distilled("image")
    assert torch.bincount(stored.labels).tolist() == [2] * 10  # the rarest digit has one image
    assert stored.soft_labels.kind == "logits"
    assert stored.recipe["soft_loss"] == "kl"
    teacher = ("name: convnet-d3", "norm: batch", "depth: 2", "width: 8")
    views = (
        *("--labeller", "teacher", "--set", "labeller.per=view", "--set", "labeller.teacher.head=balanced-softmax"),
        *("--set", f"labeller.teacher.network={{{', '.join(teacher)}}}", "--store", "networks", "--out", "view"),
    )
    done = ltdd(*base, *views)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["labels"]["teacher_bytes"] > 0
    assert load_distilled("view").soft_labels is None
    balanced = [one for one in stored_networks(Path("networks")) if "balanced softmax" in one.key["what"]]
    assert len(balanced) == 1


def test_the_preset_has_the_published_values():
    config = configure(preset="rded-paper")
    options = config.matcher.options
    assert (options.factor, options.crops.candidates, options.crops.count, options.crops.smallest) == (1, 300, 5, 0.08)
    assert options.teacher.head == config.labeller.options.teacher.head == "linear"
    assert options.teacher.network == config.labeller.options.teacher.network
    assert config.labeller.options.per == "view"
    assert config.training.distilled.temperature == 20


# ---- recovery ------------------------------------------------------------------------------------

TWO_LAYERS = {"name": "convnet-d3", "depth": 2, "width": 3, "norm": "batch"}
PLAIN = {"smallest": 1.0, "roll": 0, "clip": False}  # the images as they are


def prepared(component, given_task=None, **options):
    kinds = {"observers": [TWO_LAYERS, SMALL]} if component is EDCMatcher else {"teacher": {"network": TWO_LAYERS}}
    matcher = component(component.Options(**{**kinds, **options}))
    given_task = given_task or task()
    given_task.augmentation.name = "none"  # no view is mirrored
    matcher.prepare(given_task)
    return matcher


def literal_statistics(network, images):
    """Mean and variance of each channel of the input of each batch normalisation, value by value."""
    found, current = [], images
    for layer in network.features:
        if isinstance(layer, torch.nn.BatchNorm2d):
            channels = [
                torch.cat([image[channel].flatten() for image in current]) for channel in range(current.shape[1])
            ]
            means = [sum(values) / len(values) for values in channels]
            variances = [sum((values - mean) ** 2) / len(values) for values, mean in zip(channels, means, strict=True)]
            found.append((torch.stack(means), torch.stack(variances)))
        current = layer(current)
    return found, network.linear(current.flatten(1))


def norm(found, wanted):
    return ((found - wanted) ** 2).sum().sqrt()


def literal_loss(matcher, network, images, labels, before=None):
    """The equation in float64, for one group and one network."""
    options = matcher.options
    real = DATA.normalisation.apply(DATA.train_images).double()
    of_class = [literal_statistics(network, real[DATA.train_labels == label])[0] for label in range(4)]
    statistics, logits = literal_statistics(network, images)
    loss = -sum(logits[i].log_softmax(0)[label] for i, label in enumerate(labels)) / len(labels)
    for place, (mean, var) in enumerate(statistics):
        if before is not None:
            ema = [
                options.average * old + (1 - options.average) * new
                for old, new in zip(before[place], (mean, var), strict=True)
            ]
            mean, var = (moved.detach() + new - new.detach() for moved, new in zip(ema, (mean, var), strict=True))
        means, variances = zip(*(own[place] for own in of_class), strict=True)
        whole = sum(means) / 4
        between = sum((each - whole) ** 2 for each in means) / 4 if options.statistics == "balanced" else 0
        distance = norm(mean, whole) + norm(var, sum(variances) / 4 + between)
        own_mean, own_var = (sum(parts[label] for label in labels) / len(labels) for parts in (means, variances))
        by_class = norm(mean, own_mean) + norm(var, own_var)
        factor = options.first if place == 0 else 1
        w = options.class_weight
        loss = loss + options.r * factor * ((1 - w) * distance + w * by_class)
    return loss


@pytest.mark.parametrize(
    ("component", "options"),
    [
        (SRe2LMatcher, {"r": 0.3}),
        (SRe2LMatcher, {"r": 0.3, "statistics": "averaged", "class_weight": 0.3}),
        (EDCMatcher, {"r": 0.2}),
        (UniLevelMatcher, {"r": 0.2, "start": "initial"}),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_the_equation(component, options):
    matcher = prepared(component, **options, **PLAIN)
    labels = matcher.labels.tolist()
    doubles = [copy.deepcopy(each.network).double() for each in matcher.observers]
    before = [None] * len(doubles)
    for step in range(4):
        turn = step % len(doubles)
        network, images = doubles[turn], matcher.images.detach().double().requires_grad_()
        expected = literal_loss(matcher, network, images, labels, before[turn])
        (gradient,) = torch.autograd.grad(expected, images)
        seen = literal_statistics(network, images.detach())[0]
        decay = matcher.options.average
        if decay:
            before[turn] = (
                seen
                if before[turn] is None
                else [
                    tuple(decay * old + (1 - decay) * new for old, new in zip(*layer, strict=True))
                    for layer in zip(before[turn], seen, strict=True)
                ]
            )
        loss = matcher.step(step)["loss"]
        torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(matcher.images.grad.double(), gradient, rtol=1e-3, atol=1e-6)


def test_balanced_statistics_are_those_of_a_set_with_equal_classes_and_averaged_ones_lack_what_is_between():
    classes = torch.randn(4, 50, 3) * torch.rand(4, 1, 3) + torch.randn(4, 1, 3)  # [class, value, channel]
    of = LayerStatistics(classes.mean(1), classes.var(1, correction=0))
    layer = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    layer[0].running_mean += 5
    balanced, means, running = (global_target(layer, "0", of, which) for which in ("balanced", "averaged", "running"))
    together = classes.flatten(0, 1)
    torch.testing.assert_close(balanced, torch.stack([together.mean(0), together.var(0, correction=0)]))
    torch.testing.assert_close(means, torch.stack([of.mean.mean(0), of.var.mean(0)]))
    assert torch.equal(running, torch.tensor([[5.0] * 3, [1.0] * 3]))


def test_the_average_begins_with_the_first_batch_and_has_the_gradient_of_the_last():
    found, average = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.zeros(1, 2)
    assert torch.equal(averaged(found, average, 0.8, first=True), found)
    moved = averaged(3 * found, average, 0.8, first=False)
    torch.testing.assert_close(moved, torch.tensor([[1.4, 2.8]]))
    torch.testing.assert_close(average, moved.detach())
    (gradient,) = torch.autograd.grad(moved.sum(), found)
    assert torch.equal(gradient, torch.full((1, 2), 3.0))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 6))
def test_groups_have_each_image_once_and_as_many_classes_as_can_be(number, most, classes):
    groups = spread(number, most)
    assert sorted(torch.cat(groups).tolist()) == list(range(number))
    assert max(map(len, groups)) <= most
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    labels = torch.arange(classes).repeat_interleave(len(groups))[:number]  # every class once for each group
    if len(labels) == number == classes * len(groups):
        assert all(labels[group].tolist() == list(range(classes)) for group in groups)


def test_groups_are_moved_as_if_each_were_alone():
    whole = prepared(SRe2LMatcher, batch=5, **PLAIN)
    first = whole.groups[0]
    loss = whole._loss(whole.images[first].requires_grad_(), whole.labels[first], 0, None, 0)
    assert [len(group) for group in whole.groups] == [4, 4, 4]
    images = whole.images[first].clone().requires_grad_()
    (alone,) = torch.autograd.grad(whole._loss(images, whole.labels[first], 0, None, 0), images)
    losses = [whole._loss(whole.images[group], whole.labels[group], 0, None, 0) for group in whole.groups]
    assert loss.isfinite()
    torch.testing.assert_close(whole.step(0)["loss"], torch.stack(losses).mean())
    torch.testing.assert_close(whole.images.grad[first], alone)


@pytest.mark.parametrize(
    ("component", "options"),
    [(SRe2LMatcher, {"r": 0.3}), (EDCMatcher, {"r": 0.2, "roll": 2}), (UniLevelMatcher, {"r": 0.2, "batch": 7})],
)
def test_large_images_go_through_a_network_in_parts_to_the_same_images(monkeypatch, component, options):
    whole, parts = (prepared(component, **options) for _ in range(2))
    passed = []
    for observer in parts.observers:
        observer.network.register_forward_pre_hook(lambda network, given: passed.append(len(given[0])))
    for step in range(4):
        monkeypatch.setattr("ltdd_core.distillation.task.SYNTHETIC_PIXELS", 2**20)
        expected = whole.step(step)["loss"]
        monkeypatch.setattr("ltdd_core.distillation.task.SYNTHETIC_PIXELS", 5 * 8 * 8)  # 5 images
        torch.testing.assert_close(parts.step(step)["loss"], expected)
        torch.testing.assert_close(parts.images, whole.images, rtol=1e-3, atol=1e-3)
    assert set(passed) == ({5, 1} if "batch" in options else {5, 2})


def test_the_learning_rate_falls_to_zero_and_the_user_is_told_of_steps_behind_that():
    told = []
    given_task = replace(task(), display=Telling(told))
    matcher = prepared(SRe2LMatcher, given_task, anneal=2)
    rates, before = [], matcher.images.clone()
    for step in range(2):
        matcher.step(step)
        rates.append(matcher.optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0.125]
    assert not torch.equal(matcher.images, before)
    before = matcher.images.clone()
    matcher.step(2)
    torch.testing.assert_close(matcher.images, before)
    assert told == [
        "the images stay as they are from step 2 on, where their learning rate is 0: make a new run of all the steps, "
        "and leave out anneal=."
    ]
    assert prepared(SRe2LMatcher).step(0)["loss"] > 0  # without a run the rate stays
    assert [round(falling(step, 4), 3) for step in range(6)] == [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]


class Telling(Display):
    def __init__(self, told):
        self.warn = told.append


def test_views_are_rolled_and_cropped_and_those_of_a_curriculum_begin_as_the_whole_image():
    matcher = prepared(SRe2LMatcher, smallest=0.1, curriculum=True, anneal=10, roll=0)
    everything = torch.arange(len(matcher.images))
    views = [matcher._views(matcher.images, everything, step) for step in (0, 5, 10)]
    assert torch.equal(views[0], matcher.images)
    assert not torch.equal(views[1], matcher.images)
    assert torch.equal(matcher._views(matcher.images, everything, 5), views[1])
    part = everything[[2, 5]]
    torch.testing.assert_close(matcher._views(matcher.images[part], part, 5), views[1][part])
    rolled = prepared(SRe2LMatcher, roll=2)._views(matcher.images, everything, 0)
    assert any(
        torch.equal(rolled, matcher.images.roll((down, right), (2, 3)))
        for down in range(-2, 3)
        for right in range(-2, 3)
    )


def test_colours_stay_between_black_and_white_and_kept_images_as_they_are():
    given_task = task(ipc=(4, 1, 3, 2), keep_real=True)
    matcher = prepared(SRe2LMatcher, given_task, lr_img=50.0)
    matcher.step(0)
    assert torch.equal(matcher.images[given_task.kept], given_task.kept_images)
    moved = matcher.images[~given_task.kept]
    darkest, lightest = DATA.normalisation.apply(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert (moved >= darkest - 1e-5).all()
    assert (moved <= lightest + 1e-5).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 32, 32)])
def test_no_observer_is_another_one_by_default(shape):
    sizes = [{key: value for key, value in kind.items() if key != "name"} for kind in EDCMatcher.Options().observers]
    numbers = [
        sum(value.numel() for value in make_network("convnet-d3", shape, 10, **size).parameters()) for size in sizes
    ]
    assert len(set(numbers)) == len(numbers) == 3


def test_the_observers_take_turns_and_label_together():
    matcher = prepared(EDCMatcher, teacher={"count": 2})
    assert len(matcher.observers) == 4
    used = []
    for place, observer in enumerate(matcher.observers):
        observer.network.register_forward_hook(lambda *given, place=place: used.append(place))
    for step in range(5):
        matcher.step(step)
    assert used == [0, 1, 2, 3, 0]
    made = matcher.distilled()
    expected = sum(observer.network(made.images).log_softmax(1) for observer in matcher.observers) / 4
    torch.testing.assert_close(made.soft_labels.values, expected)


def test_uni_level_starts_from_the_crops_of_its_teacher():
    given_task = task()
    matcher = prepared(UniLevelMatcher, given_task, crops={"count": 2})
    teachers = trained(given_task, matcher.options.teacher, [TWO_LAYERS])
    assert torch.equal(matcher.images, chosen_crops(given_task, teachers, CropOptions(count=2)))
    assert matcher.options.teacher.head == "balanced-softmax"


@pytest.mark.parametrize("method", ["sre2l", "edc", "uni-level"])
def test_the_learning_rate_falls_over_the_steps_of_the_run_unless_told_otherwise(method):
    def anneal(**settings):
        return configure(method=method, **settings).matcher.options.anneal

    assert anneal() == 300  # the steps that digits-lt suggests
    assert anneal(iterations=37) == 37
    assert anneal(iterations=37, matcher={"anneal": 50}) == 50
    assert anneal(preset=f"{method}-paper", iterations=40) == 40
    stored = Layer("a run", configure(method=method, iterations=37).to_tree())
    assert stored.tree["matcher"]["anneal"] == 37
    assert "anneal" not in asked_for(installed(), stored).tree["matcher"]  # another --iterations has its own


@pytest.mark.parametrize(
    ("side", "share"),
    [(8, 1.0), (4, 1.0), (16, 0.25), (32, 0.08), (224, 0.08)],
)
def test_parts_have_at_least_eight_by_eight_pixels_unless_told_otherwise(side, share):
    assert smallest_share(None, (3, side, side)) == share
    assert smallest_share(0.3, (3, side, side)) == 0.3


def test_small_images_are_seen_and_cropped_whole_unless_told_otherwise():
    everything = torch.arange(12)
    for component in (SRe2LMatcher, EDCMatcher, UniLevelMatcher):
        matcher = prepared(component)
        assert torch.equal(matcher._views(matcher.images, everything, 0), matcher.images)
        matcher = prepared(component, smallest=0.3)
        assert not torch.equal(matcher._views(matcher.images, everything, 0), matcher.images)
    with pytest.raises(InputError, match="images of 8x8 pixels are not unless you say how far: matcher="):
        prepared(EDCMatcher, curriculum=True)


@pytest.mark.parametrize(("images", "batch"), [(10, 10), (100, 10), (500, 25), (1000, 50), (10000, 50)])
def test_the_recipes_have_the_batches_of_edc(images, batch):
    recipe = labelled_recipe(images)
    recovered = SRe2LMatcher(SRe2LMatcher.Options())
    recovered.images = torch.zeros(images, 1)
    assert recovered.recipe()["batch"] == batch
    assert recipe["batch"] == batch
    assert (recipe["soft_loss"], recipe["hard_weight"], recipe["average"]) == ("mse", 0.025, 0.99)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sre2l", "--set", "matcher.teacher.network=mlp"), "a teacher of kind 'mlp' has none: use one that has"),
        (("sre2l", "--set", "matcher.teacher.head=ncm"), "head 'ncm': the classifiers of this head are more than one"),
        (("edc", "--set", "matcher.observers=[nope]"), "nope"),
        (("edc", "--set", "matcher.observers=[]"), "matcher.observers"),
        (("uni-level", "--set", "matcher.start=noise"), "matcher.start must be"),
        (
            ("sre2l", "--set", "matcher.curriculum=true"),
            "curriculum needs views that are cropped: set smallest as well",
        ),
    ],
)
def test_what_cannot_be_matched_is_one_line(ltdd, tmp_path, words, message):
    result = ltdd("distill", "--method", *words, *TINY, "--threads", "1", "--out", "run", "--quiet")
    assert message in one_line_error(result)
    assert not (tmp_path / "here" / "run").exists()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("sre2l", (*FAST[-2:], "--init", "noise", "--set", "matcher.curriculum=true", "--set", "matcher.smallest=0.3")),
        ("edc", ("--set", "matcher.observers=[{name: convnet-d3, norm: batch, depth: 1, width: 4}]")),
        ("uni-level", FAST[-2:]),
    ],
)
def test_a_whole_run_recovers_labels_and_trains(ltdd, method, words):
    reversed_tail = ("--set", "data.order=reversed", "--set", "data.imbalance=100")
    common = (*TINY, "--threads", "1", *reversed_tail, "--plugin", "twostage", "--quiet", "--json")
    done = ltdd("distill", "--method", method, *words, *common, "--out", "run")
    assert done.exit_code == 0, done.output
    rows = [row["name"] for row in json.loads(done.stdout)["rows"]]
    assert rows[-1] == "two-stage, original + distilled"
    stored = load_distilled("run")
    assert torch.bincount(stored.labels).tolist() == [2] * 10  # the rarest digit has one image
    assert stored.soft_labels.kind == "logits"
    assert stored.recipe["optimizer"] == "adamw"


@pytest.mark.parametrize(
    ("preset", "iterations", "lr_img", "statistics"),
    [
        ("sre2l-paper", 1000, 0.25, "running"),
        ("edc-paper", 2000, 0.05, "running"),
        ("uni-level-paper", 2000, 0.05, "averaged"),
    ],
)
def test_the_presets_have_the_published_values(preset, iterations, lr_img, statistics):
    config = configure(preset=preset)
    options = config.matcher.options
    assert (options.roll, options.smallest) == ((4, 1) if preset == "sre2l-paper" else (0, 0.08))
    assert options.crops.smallest == (0.08 if preset == "uni-level-paper" else None)
    assert (config.run.iterations, options.anneal, options.lr_img) == (iterations, iterations, lr_img)
    assert (options.statistics, options.r, options.first) == (statistics, 0.01, 10)
    for observer in getattr(options, "observers", ()):
        select(installed(), "network", section_of(observer))


@pytest.mark.parametrize("preset", ["rded-paper", "sre2l-paper"])
def test_the_labeller_of_a_preset_has_the_teacher_of_the_method(preset):
    config = configure(preset=preset)
    assert config.matcher.options.teacher == config.labeller.options.teacher
