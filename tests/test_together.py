"""Several networks trained at once: each is the one that is trained alone, up to rounding."""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, Noting, one_line_error
from torch import nn

from ltdd_core import configure
from ltdd_core.errors import Interrupted, RunFailed
from ltdd_core.evaluation.quality import QUALITY
from ltdd_core.identity import digest
from ltdd_core.networks import unfinished
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.cosine import CosineLinear
from ltdd_core.networks.job import Start
from ltdd_core.networks.store import NetworkStore, alone as alone_with, stored_networks
from ltdd_core.networks.zoo import MLP, ConvNet, ResNet32
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.seeding import global_generator
from ltdd_core.testing import PlainSampler, tiny_long_tailed, tiny_task, tiny_trainer
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.cost import Ledger
from ltdd_core.training.fitting import bytes_of_step
from ltdd_core.training.loop import Learner, UnequalEpochs, train, train_together
from ltdd_core.training.losses import WeightedLoss, cross_entropy
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels
from ltdd_core.training.together import OF_A_WEIGHT, Ask, bytes_of_training, most_at_once, train_ahead
from ltdd_core.training.trainer import FrozenBody

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
CLASSES = 3
USUAL = {"epochs": 3, "batch": 5, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}


class Identity:
    """A normalisation that changes nothing."""

    once = True

    def apply(self, images):
        return images


def images(seed=0, count=12):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, *SHAPE, generator=draws, dtype=torch.float64) + labels.view(-1, 1, 1, 1) / 2
    return TrainingSet("original", pixels, labels, Identity(), CLASSES)


SOFT = SoftLabels(torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(5)), "logits")


def of_views(seen):
    return SoftLabels(seen.flatten(1)[:, :CLASSES], "logits")


def weighed(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none") * (1.0 + labels)


def convnet(norm="instance"):
    return ConvNet(SHAPE, CLASSES, ConvNet.Options(width=4, depth=2, norm=norm))


def learners(count=3, make=convnet, data=None, **given):
    """Networks that differ in their initial weights and in all that is drawn.

    They are in float64: the gradient of a bias before a normalisation is nothing but rounding, of which AdamW makes
    whole steps.
    """
    found = []
    for seed in range(count):
        with global_generator(seed, "weights"):
            network = make().double()
        own = {"loss": cross_entropy, "loss_at": None, "augmentation": Augmentation("crop_flip_scale_color"), **given}
        found.append(Learner(network, images() if data is None else data, seed=seed, purpose=f"network {seed}", **own))
    return found


def alone(learner, options, **given):
    own = {name: value for name, value in vars(learner).items() if name not in ("network", "data")}
    return train(learner.network, learner.data, options, **own, device=CPU, chunk=32, **given)


def together(some, options, chunk=96, precision="fp32", keep_going=lambda: None):
    train_together(some, options, device=CPU, keep_going=keep_going, chunk=chunk, precision=precision)


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.network.state_dict(), other.network.state_dict(), **tolerance)


CASES = {
    "plain SGD": {},
    "momentum, weight decay, the step schedule": {"momentum": 0.9, "weight_decay": 0.01},
    "AdamW with a cosine and a warm-up": {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "warmup": 1},
    "a moving average": {"momentum": 0.9, "average": 0.8},
    "mixup and CutMix": {"mixup": 0.8, "cutmix": 1.0, "epochs": 4},
    "label smoothing": {"label_smoothing": 0.1},
}
SETS = {
    "soft labels": ({"soft_labels": SOFT}, {"hard_weight": 0.5}),
    "logits, by their distance": ({"soft_labels": SOFT}, {"soft_loss": "mse", "mixup": 1.0}),
    "logits at a temperature": ({"soft_labels": SOFT}, {"soft_loss": "kl", "temperature": 2.0}),
    "labels of each view": ({"view_labels": of_views}, {"cutmix": 1.0}),
    "an order that changes": ({"order": lambda progress, draws: torch.randperm(12, generator=draws)[:7]}, {}),
}
LOSSES = {
    "a loss that weighs images": {"loss": WeightedLoss(weighed, lambda labels: 1.0 + labels)},
    "a loss that changes": {"loss_at": lambda progress: lambda z, y: (1 + progress) * cross_entropy(z, y)},
}


def check(options, chunk=96, **given):
    """Train alone and at once, and compare networks and what is told after each epoch."""
    told = {}

    def noting(who):
        def note(seed, epoch):
            told.setdefault((who, seed), []).append((epoch.done, epoch.loss))

        return [replace(each, after_epoch=partial(note, each.seed)) for each in learners(**given)]

    at_once, one_by_one = noting("together"), noting("alone")
    before = [each.network.linear.weight.clone() for each in at_once]
    together(at_once, options, chunk)
    for each in one_by_one:
        alone(each, options)
    assert_same(at_once, one_by_one, rtol=1e-7, atol=1e-8)
    for each, was in zip(at_once, before, strict=True):
        done, losses = zip(*told["together", each.seed], strict=True)
        assert done == tuple(range(1, options.epochs + 1))
        assert losses == pytest.approx([loss for _, loss in told["alone", each.seed]], rel=1e-8)
        assert not torch.allclose(each.network.linear.weight, was)
        assert not any(layer.training for layer in each.network.modules())
        assert not any(value.requires_grad for value in each.network.parameters())
    assert len({float(each.network.linear.weight.sum()) for each in at_once}) == len(at_once)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("case", CASES)
def test_each_network_is_the_one_that_is_trained_alone(case, norm):
    """Batches of 5, 5 and 2 images; batch normalisation has running statistics."""
    check(TrainingOptions(**USUAL | CASES[case]), make=lambda: convnet(norm))


@pytest.mark.parametrize("case", SETS)
def test_labels_and_orders_are_those_of_each_network(case):
    of_set, options = SETS[case]
    check(TrainingOptions(**USUAL | options), data=replace(images(), **of_set))


@pytest.mark.parametrize("case", LOSSES)
def test_losses_are_those_of_a_training_alone(case):
    check(TrainingOptions(**USUAL), **LOSSES[case])


def test_batch_normalisation_of_a_single_last_image_keeps_its_averages():
    check(TrainingOptions(**USUAL | {"batch": 11}), make=lambda: convnet("batch"))


def test_chunks_do_not_change_the_gradients():
    check(TrainingOptions(**USUAL | {"batch": 12, "mixup": 1.0}), chunk=9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(SHAPE, CLASSES, MLP.Options(width=5)),
        lambda: ResNet32(SHAPE, CLASSES, ResNet32.Options(width=2)),
        lambda: FrozenBody(CompiledNetwork(convnet("batch"), "fp32", compiled=False).eval(), nn.Linear(16, CLASSES)),
        lambda: FrozenBody(convnet("batch").eval(), CosineLinear(16, CLASSES, 8.0)),
    ],
    ids=["MLP", "ResNet-32", "a frozen body that is in two places", "a layer of cosines"],
)
def test_networks_of_other_kinds(make):
    check(TrainingOptions(**USUAL | {"epochs": 2}), count=2, make=make)


def test_only_what_learns_is_changed():
    def make():
        network = convnet()
        network.features[0].requires_grad_(False)
        return network

    some = learners(make=make)
    before = [each.network.features[0].weight.clone() for each in some]
    together(some, TrainingOptions(**USUAL | {"weight_decay": 0.1}))
    assert all(torch.equal(each.network.features[0].weight, was) for each, was in zip(some, before, strict=True))


def test_bf16_is_that_of_a_training_alone():
    options, some, others = TrainingOptions(**USUAL), learners(), learners()
    for each in (*some, *others):
        each.network.float()
    data = replace(images(), images=images().images.float())
    some, others = ([replace(each, data=data) for each in these] for these in (some, others))
    together(some, options, precision="bf16")
    for each in others:
        alone(each, options, precision="bf16")
    assert_same(some, others, rtol=0.05, atol=0.02)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("options", [{"momentum": 0.9, "average": 0.9}, {"optimizer": "adamw", "lr": 0.01}])
@pytest.mark.parametrize("then", ["together", "alone"])
def test_what_is_stopped_goes_on_together_or_alone(options, then):
    """The state of each after an epoch is that of a training alone, which the other way of training takes up."""
    options = TrainingOptions(**USUAL | {"epochs": 4} | options)
    kept = {}

    def keep(seed, epoch):
        if epoch.done == 2:
            kept[seed] = {name: value.clone() for name, value in epoch.state().items()}

    whole = learners(make=lambda: convnet("batch"))
    together([replace(each, after_epoch=partial(keep, each.seed)) for each in whole], options)
    rest = [replace(each, start=Start(2, kept[each.seed])) for each in learners(make=lambda: convnet("batch"))]
    if then == "together":
        together(rest, options)
    else:
        for each in rest:
            alone(each, options)
    assert_same(rest, whole, rtol=1e-7, atol=1e-8)


def test_a_network_owns_its_tensors_afterwards_also_of_a_training_that_is_stopped():
    def stop():
        raise Stopped

    for keep_going in (lambda: None, stop):
        some = learners()
        with suppress(Stopped):
            together(some, TrainingOptions(**USUAL), keep_going=keep_going)
        for each in some:
            for value in (*each.network.parameters(), *each.network.buffers()):
                assert value.untyped_storage().nbytes() == value.nbytes


def test_the_network_that_diverges_is_named():
    def loss(logits, labels):
        return cross_entropy(logits, labels) * float("inf")

    some = learners()
    some[1] = replace(some[1], loss=loss)
    with pytest.raises(RunFailed, match=r"^training of network 1 diverged in epoch 1: its weights are not finite"):
        together(some, TrainingOptions(**USUAL))


def test_samplers_that_draw_unequal_numbers_of_images_are_found_out():
    some = learners(
        data=replace(
            images(), order=lambda progress, draws: torch.arange(int(torch.randint(2, 12, (), generator=draws)))
        )
    )
    with pytest.raises(UnequalEpochs):
        together(some, TrainingOptions(**USUAL))


# ---- before it is asked for ----------------------------------------------------------------------

DATA = tiny_long_tailed()
SET = TrainingSet("original", DATA.train_images, DATA.train_labels, DATA.normalisation, DATA.classes)


def trainers(count=3, folder=None, **changes):
    """Trainers of some seeds, three networks at once, and what they say that they train."""
    said = []
    made = tiny_trainer().changed(display=Noting(said))
    made.together = 3
    for name, value in changes.items():
        setattr(made, name, value)
    return [made.changed(seed=seed, store=NetworkStore(folder), ledger=Ledger()) for seed in range(count)], said


def asking(these, work):
    train_ahead([Ask(each, work) for each in these])


def plain(trainer):
    return trainer.train(SET, outputs=DATA.classes)


def two(trainer):
    """A network, and another last layer for it: which one that is depends on the weights of the first."""
    return trainer.retrain(plain(trainer), SET, trainer.options["original"], layer=nn.Linear, purpose="last layer")


def assert_near(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("work", [plain, two])
@pytest.mark.parametrize("kept", ["in memory", "on disk"])
def test_what_will_be_asked_for_is_there_and_is_what_would_have_been_trained(work, kept, tmp_path):
    folder = tmp_path / "ahead" if kept == "on disk" else None
    some, said = trainers(folder=folder)
    asking(some, work)
    kinds = ["classes", "last layer"] if work is two else ["classes"]
    assert said == [f"{kind} on the original set, one of 3 at once" for kind in kinds for _ in range(3)]
    found = [work(each) for each in some]
    assert len(said) == 3 * len(kinds)  # nothing more is trained
    others, _ = trainers(folder=None if folder is None else tmp_path / "alone", together=1)
    asking(others, work)  # does nothing
    expected = [work(each) for each in others]
    assert_near(found, expected)
    if work is plain:  # a last layer is known by the very bits of its body
        assert [set(each.store._known) for each in some] == [set(each.store._known) for each in others]
        if folder is not None:
            assert sorted(path.name for path in folder.iterdir()) == sorted(
                path.name for path in (tmp_path / "alone").iterdir()
            )


def test_the_seconds_of_each_are_its_share(tmp_path):
    some, _ = trainers(folder=tmp_path)
    began = time.monotonic()
    asking(some, plain)
    took = time.monotonic() - began
    for each in some:
        plain(each)
    seconds = [each.ledger.total.seconds for each in some]
    assert 0 < sum(seconds) <= took
    assert seconds == pytest.approx(seconds[:1] * 3, rel=0.05)
    assert some[0].ledger.spent > sum(seconds) > some[1].ledger.spent


class Dropping(ConvNet):
    """A ConvNet with dropout."""

    def __init__(self, shape, outputs, options):
        super().__init__(shape, outputs, options)
        self.features.append(nn.Dropout(0.5))


class Secretive(ConvNet):
    """A network that has a number which no parameter or buffer says."""

    def __init__(self, shape, outputs, options):
        super().__init__(shape, outputs, options)
        self.factor = float(torch.rand(()))

    def embed(self, images):
        return super().embed(images) * self.factor


class Noisy(ConvNet):
    """A network that draws random numbers without a layer of dropout."""

    def embed(self, images):
        return super().embed(images) * torch.rand((), device=images.device)


class Deciding(ConvNet):
    """A network whose Python code looks at numbers."""

    def embed(self, images):
        return super().embed(images) * (1.0 if float(images.sum()) > 0 else 2.0)


def made_of(kind):
    return lambda shape, outputs: kind(shape, outputs, ConvNet.Options(width=4, depth=2))


UNLIKE = {
    "dropout": {"make": made_of(Dropping)},
    "a number that is nobody's parameter": {"make": made_of(Secretive)},
    "random numbers": {"make": made_of(Noisy)},
    "numbers that decide": {"make": made_of(Deciding)},
    "compiled networks": {"compiling": True},
}


@pytest.mark.parametrize("case", UNLIKE)
def test_what_cannot_be_trained_at_once_is_trained_alone(case):
    noted = []
    some, said = trainers(**UNLIKE[case])
    some[0].display.note = noted.append
    asking(some, plain)
    assert said == []
    assert noted == ["3 networks are trained alone: they are not alike, or torch cannot train them at once"]
    assert not any(each.store._known for each in some)


def test_sets_of_unequal_size_and_other_options_are_not_alike():
    some, said = trainers(4)
    few = replace(SET, images=SET.images[:-1], labels=SET.labels[:-1])
    slow = {"original": some[2].options["original"].model_copy(update={"lr": 0.001})}
    works = [(some[0], SET), (some[1], few), (some[2].changed(options=slow), SET), (some[3], SET)]
    train_ahead([Ask(each, lambda trainer, own=own: trainer.train(own, outputs=DATA.classes)) for each, own in works])
    assert said == ["classes on the original set, one of 2 at once"] * 2
    assert [len(each.store._known) for each in some] == [1, 0, 0, 1]


def test_losses_and_images_of_one_shape_may_differ():
    some, said = trainers(2)
    other = replace(SET, images=SET.images.flip(0), labels=SET.labels.flip(0))
    works = [
        lambda trainer: trainer.train(SET, outputs=DATA.classes, loss=smooth),
        lambda trainer: trainer.train(other, outputs=DATA.classes),
    ]
    train_ahead([Ask(*ask) for ask in zip(some, works, strict=True)])
    assert len(said) == 2
    alone = [work(each) for each, work in zip(trainers(2)[0], works, strict=True)]
    assert_near([work(each) for each, work in zip(some, works, strict=True)], alone)


def smooth(logits, labels):
    return nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)


def test_more_than_may_be_at_once_are_trained_in_parts():
    some, said = trainers(7)
    asking(some, plain)
    assert said == ["classes on the original set, one of 3 at once"] * 6  # the seventh is left to who asks
    assert [len(each.store._known) for each in some] == [1] * 6 + [0]


def test_what_is_there_or_in_the_hands_of_another_process_is_left_alone(tmp_path):
    some, said = trainers(4, tmp_path, together=4)
    there = plain(some[0])
    (job,) = some[1].plan(plain)
    said.clear()
    with alone_with(tmp_path / f"{digest(job.key)}.safetensors") as mine:
        assert mine
        asking(some, plain)
    assert said == ["classes on the original set, one of 2 at once"] * 2
    assert [len(each.store._known) for each in some] == [1, 0, 1, 1]
    assert plain(some[0]) is there


def exploding(logits, labels):
    return cross_entropy(logits, labels) * float("inf")


def test_a_training_that_diverges_says_so_as_alone_and_the_others_are_trained(tmp_path):
    some, _ = trainers(folder=tmp_path)

    def work(trainer):
        return trainer.train(SET, outputs=DATA.classes, loss=exploding if trainer.seed == 1 else cross_entropy)

    asking(some, work)
    first = work(some[0])
    with pytest.raises(RunFailed) as together:
        work(some[1])
    others, _ = trainers()
    assert_near([first], [work(others[0])])
    with pytest.raises(RunFailed) as by_itself:
        work(others[1])
    assert str(together.value) == str(by_itself.value)
    assert "training of classes on original diverged in epoch 1" in str(together.value)


@pytest.mark.parametrize("then", [1, 3])
def test_an_interruption_keeps_the_epochs_of_all_and_either_way_goes_on(tmp_path, monkeypatch, then):
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN_COPIES", 0.0)
    calls, steps = [], -(-len(SET) // TrainingOptions().batch)

    def keep_going():
        calls.append(1)
        if len(calls) > 2 * steps:
            raise Interrupted("SIGINT")

    options = {"original": TrainingOptions(epochs=4, average=0.9)}
    some, _ = trainers(folder=tmp_path / "cut", options=options, keep_going=keep_going)
    with pytest.raises(Interrupted):
        asking(some, plain)
    assert {path.suffix for path in (tmp_path / "cut").iterdir()} == {".unfinished"}
    epochs = [found.epochs for found in stored_networks(tmp_path / "cut")]
    assert epochs == [2, 2, 2]
    again, _ = trainers(folder=tmp_path / "cut", options=options, together=then)
    again[0].display.begun = begun = []
    asking(again, plain)
    found = [plain(each) for each in again]
    assert begun == [(2, 4, "epochs")] * (1 if then == 3 else 3)
    assert {path.suffix for path in (tmp_path / "cut").iterdir()} == {".safetensors"}
    whole, _ = trainers(options=options, together=1)
    assert_near(found, [plain(each) for each in whole])


def test_a_plan_and_a_single_network_are_left_as_they_are():
    some, said = trainers()
    asking(some[:1], plain)
    jobs = some[0].plan(lambda planning: asking([planning, planning.changed(seed=1)], plain))
    assert (said, jobs) == ([], [])


@pytest.mark.parametrize(("asked", "expected"), [("auto", 1), (1, 1), (5, 5)])
def test_how_many_are_trained_at_once_on_a_cpu(asked, expected):
    (trainer,), _ = trainers(1, together=asked)
    assert most_at_once(trainer) == expected


def test_the_memory_of_a_training_is_that_of_its_weights_and_of_a_step():
    (trainer,), _ = trainers(1, make=made_of(ConvNet))
    (job,) = trainer.plan(plain)
    network = job.make()
    weights = sum(value.nbytes for value in network.parameters())
    step = bytes_of_step(network, SET.image_shape, len(SET), "fp32")  # a batch holds all of it
    assert step > weights
    assert bytes_of_training(job.training) == OF_A_WEIGHT * weights + step


# ---- in commands ---------------------------------------------------------------------------------


def table_of(result):
    """The accuracy of each line in per cent, and how many networks were trained at once."""
    assert result.exit_code == 0, result.output
    return [row["accuracy"] for row in json.loads(result.stdout)["rows"]], result.stderr.count("at once")


def test_repeats_of_a_classifier_of_two_stages(ltdd, finished):
    """What trains the second stage is known after the first."""
    command = ("--repeats", "2", "--json", "--seed", "1")  # of the seeds 1 and 2, which the run has not
    copied = shutil.copytree(finished, "copied")
    at_once, several = table_of(ltdd("evaluate", finished, *command, "--set", "compute.together=2"))
    one_by_one, none = table_of(ltdd("evaluate", copied, *command))
    assert at_once == pytest.approx(one_by_one, abs=0.6)
    assert (several, none) == (6, 0)  # the groups, and the classes within each of two groups


def test_the_networks_of_quality(ltdd, finished):
    command = ("--quality", "--repeats", "2", "--json", "--head", "linear")
    copied = shutil.copytree(finished, "copied")
    at_once = ltdd("evaluate", finished, *command, "--set", "compute.together=12")
    one_by_one = ltdd("evaluate", copied, *command)
    found, expected = (json.loads(result.stdout)["quality"][0] for result in (at_once, one_by_one))
    assert at_once.stderr.count("one of 6 at once") == 6  # of one size: random images, and the distilled ones
    assert {key: found[key] for key in QUALITY} == pytest.approx({key: expected[key] for key in QUALITY}, abs=0.6)


def test_teachers_of_several_seeds(tmp_path):
    task, said = tiny_task(DATA, PlainSampler(DATA)), []
    trainer = task.trainer.changed(display=Noting(said))
    trainer.together = 3
    training = replace(task.trained, trainer=trainer, store=NetworkStore(tmp_path), made={})
    teachers = training(seeds=range(3), head="balanced-softmax")
    assert sum("at once" in line for line in said) == len(said) == 3
    alone = tiny_task(DATA, PlainSampler(DATA)).trained(seeds=range(3), head="balanced-softmax")
    assert_near(teachers.networks, alone.networks)
    costs = trainer.ledger.costs.values()
    assert len(costs) == 3
    assert all(cost.images_seen == 2 * len(SET) for cost in costs)


def friends(folder, together, keep_going=lambda: None, **options):
    task = replace(tiny_task(DATA, PlainSampler(DATA)), shared=folder)
    task.trainer.together, task.trainer.keep_going = together, keep_going
    steady = {"lr": 0.01, "momentum": 0, "schedule": "constant", "batch": 7}
    numbers = options.pop("numbers", "fp32")
    return task.trajectories("friend", training=TrainingOptions(**steady | options), numbers=numbers)


@pytest.mark.parametrize("numbers", ["fp32", "bf16"])
def test_trajectories_are_those_of_training_alone(tmp_path, numbers):
    """The first has two epochs already, so it goes on alone; the fourth is one more than may be at once."""
    friends(tmp_path / "ahead", 1, epochs=2, numbers=numbers).train(1, lambda *told: None)
    told = []
    ahead, alone = (friends(tmp_path / name, 2, epochs=6, numbers=numbers) for name in ("ahead", "alone"))
    ahead.train(4, lambda *given: told.append(given))
    assert told[:6] == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]
    assert sorted(set(told)) == [(0, done) for done in range(2, 7)] + [
        (n, done) for n in (1, 2, 3) for done in range(7)
    ]
    for number in range(4):
        alone._trainer.together = 1
        alone.train(number + 1, lambda *given: None)
        assert ahead[number].path.name == alone[number].path.name
        assert ahead[number].seconds() > 0
        near = {"rtol": 1e-2, "atol": 1e-2 if numbers == "bf16" else 1e-4}
        for epoch in range(7):
            torch.testing.assert_close(ahead[number].rows(epoch), alone[number].rows(epoch), **near)


def test_trajectories_that_are_stopped_keep_the_epochs_that_are_done(tmp_path):
    calls, steps = [], -(-len(SET) // 7)

    def keep_going():
        calls.append(1)
        if len(calls) > 3 * steps:
            raise Interrupted("SIGINT")

    with pytest.raises(Interrupted):
        friends(tmp_path, 3, keep_going, epochs=9).train(3, lambda *told: None)
    assert [friends(tmp_path, 1, epochs=9)[number].epochs() for number in range(3)] == [3, 3, 3]


def test_a_trajectory_that_diverges_says_so_as_alone(tmp_path):
    said = []
    for together in (1, 3):
        with pytest.raises(RunFailed) as found:
            friends(tmp_path / str(together), together, epochs=2, lr=1e30).train(3, lambda *told: None)
        said.append(str(found.value))
    assert said[0] == said[1]
    assert "training of friend 0 on original diverged in epoch 1" in said[0]


def test_a_run_remembers_how_many_and_may_go_on_with_others(ltdd):
    assert ltdd("distill", "--method", "dm", *TINY, "--set", "compute.together=3", "--out", "run").exit_code == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["compute"]["together"] == 3
    config = configure(method="dm")
    assert config.compute.together == "auto"
    assert in_one_precision(config, Path("run")).compute.together == 3
    more = ("distill", "--method", "dm", *TINY, "--iterations", "4", "--out", "run", "--resume")
    assert ltdd(*more, "--set", "compute.together=2").exit_code == 0


@pytest.mark.parametrize("wrong", ["0", "2000", "many", "1.5", "true"])
def test_a_wrong_number_is_one_line(ltdd, wrong):
    said = one_line_error(ltdd("train", "--data", "digits-lt", "--set", f"compute.together={wrong}", "--out", "x"))
    assert said.startswith("Error: --set compute.together"), said


def test_a_plan_does_not_depend_on_it(ltdd):
    command = ("plan", "--method", "dm", *TINY, "--on", "h100", "--json")
    plans = [ltdd(*command, "--set", f"compute.together={number}").stdout for number in (1, 4)]
    assert json.loads(plans[0]) == json.loads(plans[1])
