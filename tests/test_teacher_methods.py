"""The methods that begin with a teacher, against literal versions of what their papers say."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import configure, generator, load_distilled
from ltdd_core.networks.store import stored_networks
from ltdd_core.testing import PlainSampler, tiny_long_tailed, tiny_task
from ltdd_statistics.crops import CropOptions, best, chosen_crops
from ltdd_statistics.rded import CropMatcher
from ltdd_statistics.teachers import CONVNET, TeacherOptions, trained
from ltdd_statistics.windows import draw_windows

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
    found = chosen_crops(given_task, teachers, CropOptions(count=4)).split(3)
    for label, count in enumerate(DATA.counts):
        draws = generator(0, "crops", label=label)
        indices = given_task.sampler.of_class(label, 300, draws)
        real = DATA.normalisation.apply(DATA.train_images[indices])
        every = [draw_windows((3, 8, 8), count, draws, smallest=0.08).of(real) for _ in range(max(4, -(-3 // count)))]
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


def test_every_option_of_the_teachers_reaches_their_training():
    training = {
        "epochs": 3,
        "optimizer": "adamw",
        "lr": 0.02,
        "momentum": 0.8,
        "weight_decay": 0.1,
        "batch": 7,
        "schedule": "cosine",
        "warmup": 1,
        "augment": {"name": "crop-flip", "padding": 1},
        "mixup": 0.3,
        "cutmix": 0.4,
        "label_smoothing": 0.1,
        "average": 0.9,
    }
    asked = []
    options = TeacherOptions(**training, head="ldam", sampler="class-balanced", count=2)

    class Task:
        seed = 4

        def trained(self, **given):
            asked.append(given)
            return [None] * 2

    trained(Task(), options, [CONVNET])
    assert asked == [
        {"network": CONVNET, "head": "ldam", "sampler": "class-balanced", "training": training, "seeds": range(4, 6)}
    ]
    assert {*TeacherOptions.model_fields} == {*training, "head", "sampler", "count", "network"}


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


@pytest.mark.parametrize(("ipc", "batch"), [(1, 10), (10, 50), (50, 100)])
def test_the_recipe_is_that_of_the_paper(ipc, batch):
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
        *("--labeller", "teacher", "--set", "labeller.per=view", "--set", "labeller.head=balanced-softmax"),
        *("--set", f"labeller.network={{{', '.join(teacher)}}}", "--store", "networks", "--out", "view"),
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
    assert (options.factor, options.crops.candidates, options.crops.count) == (1, 300, 5)
    assert options.teacher.head == config.labeller.options.head == "linear"
    assert options.teacher.network == config.labeller.options.network
    assert config.labeller.options.per == "view"
    assert config.training.distilled.temperature == 20
