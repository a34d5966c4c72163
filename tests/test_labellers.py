"""Teachers, labellers and relabelling: soft labels of images and of views, found again, and what they cost."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Noting, one_line_error
from hypothesis import given, settings, strategies as st
from torch import nn

from ltdd_core import (
    CompiledNetwork,
    InputError,
    Interrupted,
    SoftLabels,
    TeacherTraining,
    class_statistics,
    configure,
    generator,
    load_distilled,
    make_network,
)
from ltdd_core.commands import open_setup, task_of
from ltdd_core.evaluation.labeller import Labelling
from ltdd_core.evaluation.teachers import teacher_training
from ltdd_core.identity import identity
from ltdd_core.networks.store import NetworkStore, stored_networks
from ltdd_core.storage import load_tensors
from ltdd_core.testing import ContractError, PlainSampler, check_labeller, tiny_long_tailed, tiny_task
from ltdd_labellers.adsa import CalibratedLabeller, calibrated, spread_of_confidence
from ltdd_labellers.teacher import TeacherLabeller

DATA = tiny_long_tailed()


def task(**changes):
    return tiny_task(DATA, PlainSampler(DATA), **changes)


def training(folder=None, seed=0):
    trained = task(seed=seed).trained
    return TeacherTraining(trained.trainer, trained.original, trained.network, NetworkStore(folder))


def labelling(**changes):
    images = DATA.normalisation.apply(DATA.test_images)
    facts = {"counts": DATA.counts, "trained": task().trained, "component": task().component, "seed": 0}
    return Labelling(images, DATA.test_labels, device=torch.device("cpu"), **{**facts, **changes})


# ---- soft labels ---------------------------------------------------------------------------------


def test_soft_labels_as_probabilities_and_as_logits_say_the_same():
    z = torch.randn(5, 3, generator=generator(0, "logits"))
    logits, probabilities = SoftLabels(z, "logits"), SoftLabels(z.softmax(1))
    torch.testing.assert_close(logits.probabilities(), probabilities.probabilities())
    torch.testing.assert_close(logits.logits(), probabilities.logits())
    torch.testing.assert_close(logits.probabilities(4.0), (z / 4).softmax(1))
    torch.testing.assert_close(probabilities.probabilities(4.0), (z / 4).softmax(1))
    assert torch.equal(SoftLabels(torch.eye(3)).probabilities(), torch.eye(3))
    assert torch.isfinite(SoftLabels(torch.eye(3)).logits()).all()
    assert logits.logits().mean(1).abs().max() < 1e-6


# ---- teachers ------------------------------------------------------------------------------------


def test_teachers_are_trained_once_and_found_by_the_next_run(tmp_path):
    asked = {"network": {"name": "convnet-d3", "depth": 1, "width": 4, "norm": "batch"}, "seeds": [3, 4]}
    first = training(tmp_path)(head="balanced-softmax", training={"epochs": 2, "lr": 0.02}, **asked)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert [one.key["seed"] for one in stored_networks(tmp_path)] == [3, 4]
    second = training(tmp_path, seed=7)(head="balanced-softmax", training={"epochs": 2, "lr": 0.02}, **asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    images = DATA.normalisation.apply(DATA.test_images)
    assert torch.equal(first.logits(images), second.logits(images))
    assert len(first) == len(first.networks) == 2
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in first.networks[0].modules())
    training(tmp_path)(head="balanced-softmax", training={"epochs": 3, "lr": 0.02}, **asked)
    assert len(list(stored_networks(tmp_path))) == 4


def test_the_logits_of_teachers_are_their_mean_and_do_not_depend_on_the_others_in_a_batch():
    teachers = training()(seeds=range(3))
    images = DATA.normalisation.apply(DATA.test_images)
    expected = sum(network(images).log_softmax(1) for network in teachers.networks) / 3
    torch.testing.assert_close(teachers.logits(images), expected)
    torch.testing.assert_close(teachers.logits(images[2:3]), expected[2:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(teachers.probabilities(images, 2.0), (expected / 2).softmax(1))
    assert teachers.soft_labels(images).kind == "logits"
    assert not teachers.logits(images.clone().requires_grad_()).requires_grad
    assert teachers.bytes == 3 * 4 * sum(value.numel() for value in teachers.networks[0].parameters())


@pytest.mark.parametrize("head", ["crt", "ncm", "linear"])
def test_the_bytes_of_a_teacher_are_those_of_what_labels(head):
    teachers = training()(head=head, network={"name": "convnet-d3", "depth": 1, "width": 4, "norm": "batch"})
    (classifier,) = teachers.classifiers
    distinct = {value.data_ptr(): value.numel() for value in classifier.state_dict().values()}
    assert teachers.bytes == 4 * sum(distinct.values())


def test_the_network_before_its_training_is_there_too():
    teachers = training()(seeds=[1])
    start, end = teachers.initial[0], teachers.networks[0]
    assert not torch.equal(start.linear.weight, end.linear.weight)
    again = training()(seeds=[1], training={"lr": 1e-12, "weight_decay": 0.0}).networks[0]
    torch.testing.assert_close(start.linear.weight, again.linear.weight)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "resnet19"}, "resnet19"),
        ({"head": "nope"}, "nope"),
        ({"training": {"epochs": 0}}, "training.epochs must be at least 1"),
        ({"training": {"epoch": 3}}, "unknown training option 'epoch'"),
        ({"head": "twostage"}, "stages"),
    ],
)
def test_what_cannot_be_a_teacher_is_one_line(wrong, message):
    with pytest.raises(InputError, match=message):
        training()(**wrong)


# ---- statistics ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 3))
def test_class_statistics_are_those_of_each_class_over_images_and_pixels(chunk, missing):
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(3 * 9)).eval()
    images = torch.randn(11, 2, 5, 5, generator=generator(missing, "images"))
    labels = torch.arange(11) % 4
    labels[labels == missing] = (missing + 1) % 4
    batches = zip(images.split(chunk), labels.split(chunk), strict=True)
    found = class_statistics(network, batches, 4)
    assert list(found) == ["1", "3"]
    with torch.no_grad():
        inputs = {"1": network[0](images), "3": network[:3](images)[:, :, None, None]}
    for name, values in inputs.items():
        for label in range(4):
            own = values[labels == label]
            mean = own.mean((0, 2, 3)) if len(own) else torch.zeros(values.shape[1])
            var = own.var((0, 2, 3), correction=0) if len(own) else torch.zeros(values.shape[1])
            torch.testing.assert_close(found[name].mean[label], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[name].var[label], var, rtol=1e-4, atol=1e-5)
    assert not network[1]._forward_pre_hooks


def test_a_compiled_network_that_has_run_has_its_statistics_too():
    """What was compiled before hooks were there does not call them."""
    images, labels = torch.randn(8, 1, 8, 8, generator=generator(0, "images")), torch.arange(8) % 2
    plain = make_network("convnet-d3", (1, 8, 8), 2, depth=1, width=4, norm="batch").eval()
    compiled = CompiledNetwork(plain, "fp32", compiled=True).eval()
    with torch.no_grad():
        compiled(images)
    found, expected = (class_statistics(each, [(images, labels)], 2) for each in (compiled, plain))
    assert [name.removeprefix("inner.") for name in found] == list(expected) != []
    for of, other in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(of.mean, other.mean)


def test_the_statistics_of_teachers_are_computed_once(tmp_path, monkeypatch):
    asked = {"network": {"name": "convnet-d3", "depth": 1, "width": 4, "norm": "batch"}}
    (first,) = training(tmp_path)(**asked).statistics()

    def never(*given):
        raise AssertionError("they are known already")

    monkeypatch.setattr("ltdd_core.evaluation.teachers.class_statistics", never)
    (second,) = training(tmp_path)(**asked).statistics()
    assert list(first) == list(second)
    for name, statistics in first.items():
        assert torch.equal(statistics.mean, second[name].mean)
        assert statistics.var.shape == (DATA.classes, 4)
    monkeypatch.undo()
    assert training(tmp_path)().statistics() == [{}]  # instance normalisation has no running statistics


# ---- labellers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("component", [TeacherLabeller, CalibratedLabeller])
def test_the_labellers_keep_the_contract(component):
    check_labeller(component, teacher={"count": 2})


class OfTheBatch(TeacherLabeller):
    """Says how images compare with the others of their batch."""

    def label(self, images):
        logits = super().label(images).values
        return SoftLabels(logits - logits.mean(0), "logits")


class WithGradients(TeacherLabeller):
    def label(self, images):
        return SoftLabels(super().label(images).values.requires_grad_(), "logits")


class Unnormalised(TeacherLabeller):
    def label(self, images):
        return SoftLabels(super().label(images).values.exp() + 1)


class Drawn(TeacherLabeller):
    def label(self, images):
        return SoftLabels(torch.rand(len(images), DATA.classes), "logits")


class OneShort(TeacherLabeller):
    def label(self, images):
        return SoftLabels(super().label(images).values[:, 1:], "logits")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (OfTheBatch, "an image has the same label alone and among others"),
        (WithGradients, "soft labels carry no gradient"),
        (Unnormalised, "soft labels sum to 1, or say that they are logits"),
        (Drawn, "nothing is drawn from the global generator of torch"),
        (OneShort, r"soft labels are \[n, classes\]"),
    ],
)
def test_a_labeller_that_breaks_its_contract_is_told_how(wrong, message):
    with pytest.raises(ContractError, match=message):
        check_labeller(wrong)


def test_what_decides_a_labeller_can_be_told():
    made = [TeacherLabeller(TeacherLabeller.Options(teacher={"count": count})) for count in (1, 1, 2)]
    for labeller in made:
        labeller.prepare(labelling())
    first, same, other = (identity(labeller.label) for labeller in made)
    assert first == same
    assert first != other


def literal_spread(logits, labels, prior, tau):
    """The standard deviation over classes of the mean confidence in the own class, number by number."""
    by_class = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shifted = [f - tau * p for f, p in zip(row, prior, strict=True)]
        total = sum(math.exp(value) for value in shifted)
        by_class.setdefault(label, []).append(math.exp(shifted[label]) / total)
    means = [sum(values) / len(values) for values in by_class.values()]
    centre = sum(means) / len(means)
    return math.sqrt(sum((mean - centre) ** 2 for mean in means) / len(means))


@settings(deadline=None)
@given(st.integers(0, 50))
def test_adsa_makes_the_confidences_of_the_classes_most_equal(seed):
    draws = generator(seed, "adsa")
    labels = torch.arange(4).repeat_interleave(3)
    prior = torch.tensor([0.7, 0.2, 0.08, 0.02]).log()
    logits = 2 * torch.nn.functional.one_hot(labels, 4) + prior + torch.randn(12, 4, generator=draws)
    tau = calibrated(logits, labels, prior)
    best = literal_spread(logits, labels, prior.tolist(), tau)
    assert best == pytest.approx(spread_of_confidence((logits - tau * prior).double(), labels), abs=1e-5)
    assert best <= min(literal_spread(logits, labels, prior.tolist(), other) for other in np.linspace(-1, 4, 41)) + 1e-6


def test_adsa_takes_tau_log_pi_from_the_logits_of_the_teacher():
    labeller, plain = (kind(kind.Options(teacher={"head": "linear"})) for kind in (CalibratedLabeller, TeacherLabeller))
    fixed = CalibratedLabeller(CalibratedLabeller.Options(tau=0.7))
    given = labelling()
    for each in (labeller, plain, fixed):
        each.prepare(given)
    prior = torch.tensor(DATA.counts).double().div(sum(DATA.counts)).log()
    for each, tau in ((labeller, labeller.tau), (fixed, 0.7)):
        expected = plain.label(given.images).values - tau * prior
        torch.testing.assert_close(each.label(given.images).values, expected.float(), rtol=1e-5, atol=1e-6)
    assert labeller.tau == calibrated(plain.label(given.images).values, given.labels, prior)


def test_the_teacher_knows_the_counts_and_adsa_corrects_a_plain_one():
    assert TeacherLabeller.Options().teacher.head == "balanced-softmax"
    assert CalibratedLabeller.Options().teacher.head == "linear"


def test_the_same_teachers_are_given_to_who_asks_again(tmp_path):
    calls = []
    config = configure(method="dm", data={"n_max": 20, "imbalance": 4}, network={"name": "mlp", "width": 4},
                       training={"original": {"epochs": 1}}, compute={"store": tmp_path})  # fmt: skip
    with open_setup(config, display=Noting(calls)) as setup:
        first, second = task_of(setup).trained, teacher_training(setup)
        assert first(seeds=range(2)) is second(seeds=[0, 1])
        assert first(seeds=[0]) is not second(seeds=[0, 1])
        assert first(seeds=[0], training={"epochs": 2}) is not first(seeds=[0])
    assert len(calls) == 3  # networks 0 and 1, and 0 with two epochs


# ---- whole commands ------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["image", "view"])
def test_a_run_with_soft_labels_is_evaluated_with_them(ltdd, per):
    options = [
        *TINY,
        "--labeller",
        "adsa",
        "--set",
        f"labeller.per={per}",
        "--set",
        "training.distilled.soft_loss=mse",
    ]
    done = ltdd("distill", "--method", "coreset", *options, "--out", "a")
    assert done.exit_code == 0, done.output
    distilled, report = load_distilled("a"), json.loads(Path("a/report.json").read_text())
    if per == "image":
        assert distilled.soft_labels.kind == "logits"
        assert "labels: a soft label for each image, " in done.stdout
        assert report["labels"] == {"soft_label_numbers": distilled.soft_labels.values.numel(), "teacher_bytes": 0}
    else:
        assert distilled.soft_labels is None
        assert distilled.labeller["name"] == "adsa"
        assert "labels: of each view, by a teacher of " in done.stdout
        assert report["labels"]["teacher_bytes"] > 0
    again = ltdd("evaluate", "a", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"][0]["per_class"] == report["rows"][1]["per_class"]
    assert "training a network" not in again.stderr  # neither the teacher nor the student
    resumed = ltdd("distill", "--method", "coreset", *options, "--out", "a", "--resume", "--json")
    assert json.loads(resumed.stdout)["rows"] == report["rows"]
    plain = ltdd("distill", "--method", "coreset", *TINY, "--out", "b", "--json")
    assert json.loads(plain.stdout)["rows"][1]["per_class"] != report["rows"][1]["per_class"] or per == "image"


def test_relabelling_changes_the_labels_alone(ltdd):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "a").exit_code == 0
    done = ltdd("relabel", "a", "--labeller", "teacher", "--set", "labeller.teacher.epochs=1")
    assert done.exit_code == 0, done.output
    before, after = load_distilled("a"), load_distilled("a-teacher")
    assert torch.equal(before.images, after.images)
    assert torch.equal(before.labels, after.labels)
    assert before.soft_labels is None
    assert after.soft_labels.values.shape == (len(after.labels), 10)
    whole = ltdd(
        "distill",
        "--method",
        "coreset",
        *TINY,
        "--labeller",
        "teacher",
        "--set",
        "labeller.teacher.epochs=1",
        "--out",
        "c",
    )
    assert whole.exit_code == 0
    tensors = [load_tensors(Path(name, "distilled.safetensors"))[0] for name in ("a-teacher", "c")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[1])
    assert "holds a run already" in one_line_error(ltdd("relabel", "a", "--labeller", "teacher"))
    assert "unknown labeller 'adza'" in one_line_error(ltdd("relabel", "a", "--labeller", "adza"))
    assert "no distilled.safetensors" in one_line_error(ltdd("relabel", "runs", "--labeller", "adsa"))


def test_a_relabelled_run_says_of_its_images_what_is_true(ltdd):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "a").exit_code == 0
    for assignment, said in (
        ("iterations=50", "iterations was 3 and is now 50"),
        ("ipc.few=1", "ipc was 2 and is now {'all': 2, 'few': 1}"),
        ("init=keep", "init was 'real' and is now 'keep'"),
        ("matcher.name=dm", "matcher.name was 'coreset' and is now 'dm'"),
    ):
        line = one_line_error(ltdd("relabel", "a", "--labeller", "teacher", "--set", assignment))
        assert line == f"Error: a keeps its images, and {said}: leave that out, or distil again."
        assert not Path("a-teacher").exists()


def test_the_teacher_of_views_is_the_same_for_every_student(ltdd):
    """Another network, seed or training of the student trains no other teacher."""
    options = [*TINY, "--labeller", "adsa", "--set", "labeller.per=view", "--seed", "1"]
    assert ltdd("distill", "--method", "coreset", *options, "--out", "a").exit_code == 0
    teacher = {path.name for path in Path("runs/networks").iterdir()}
    other = ("--network", "mlp", "--repeats", "2", "--set", "training.original.epochs=1")
    for place in ("a", "a/distilled.safetensors"):
        done = ltdd("evaluate", place, *other)
        assert done.exit_code == 0, done.output
        assert {path.name for path in Path("runs/networks").iterdir()} == teacher
    assert ltdd("relabel", "a", "--labeller", "teacher", "--set", "labeller.per=view", "--seed", "4").exit_code == 0
    teacher = {path.name for path in Path("runs/networks").iterdir()}
    shutil.move("a-teacher/distilled.safetensors", "alone.safetensors")
    assert ltdd("evaluate", "alone.safetensors", *other).exit_code == 0
    assert {path.name for path in Path("runs/networks").iterdir()} == teacher


def test_a_relabelled_set_says_what_gave_its_labels(ltdd):
    assert ltdd("distill", "--method", "coreset", *TINY, "--labeller", "teacher", "--out", "a").exit_code == 0
    changed = ("--set", "labeller.tau=0.5", "--set", "training.distilled.epochs=1")
    assert ltdd("relabel", "a", "--labeller", "adsa", *changed, "--out", "b").exit_code == 0
    assert ltdd("relabel", "b", "--labeller", "teacher", "--out", "c").exit_code == 0
    shown = ltdd("report", "b")
    assert shown.exit_code == 0, shown.output
    origins = {name: load_distilled(name).origin for name in "abc"}
    assert origins["b"]["configuration"]["labeller"]["tau"] == 0.5
    assert "labeller adsa" in origins["b"]["versions"]
    assert origins["b"]["images"] == origins["c"]["images"] == origins["a"]
    assert origins["c"]["configuration"]["labeller"]["name"] == "teacher"


def test_the_folder_of_a_relabelled_run_stands_beside_the_old_one(ltdd, monkeypatch):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "a").exit_code == 0
    assert ltdd("relabel", "a/distilled.safetensors", "--labeller", "teacher", "--quiet").exit_code == 0
    assert "unknown labeller 'a/b'" in one_line_error(ltdd("relabel", "a", "--labeller", "a/b"))
    monkeypatch.chdir("a")
    done = ltdd("relabel", ".", "--labeller", "adsa", "--quiet")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("..").iterdir()} == {"a", "a-teacher", "a-adsa", "runs"}


def test_labels_come_from_a_teacher_of_the_images_that_were_distilled(ltdd):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "a").exit_code == 0
    refused = one_line_error(ltdd("relabel", "a", "--labeller", "teacher", "--set", "data.imbalance=10", "--out", "b"))
    assert "the set was distilled from other images than data 'digits-lt' has now" in refused
    assert not Path("b").exists()
    assert ltdd("relabel", "a", "--labeller", "teacher", "--set", "labeller.per=view", "--out", "c").exit_code == 0
    refused = ltdd("evaluate", "c", "--set", "data.imbalance=10")
    assert refused.exit_code == 2
    assert "the set was distilled from other images than data 'digits-lt' has now" in refused.stderr
    assert ltdd("evaluate", "a", "--set", "data.imbalance=10").exit_code == 0


def test_the_preset_keeps_real_images_for_a_teacher_to_label(ltdd, tmp_path):
    small = ["--set", "network.width=4", "--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2"]
    result = ltdd(
        "distill",
        "--preset",
        "strong-training",
        "--preset",
        "teacher-labels",
        *small,
        "--ipc",
        2,
        "--threads",
        1,
        "--out",
        tmp_path / "run",
        "--json",
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["method"] == "coreset"
    assert document["labels"]["teacher_bytes"] > 0
    config = configure(preset=["strong-training", "teacher-labels"])
    assert config.training.original.mixup == 0.4
    assert config.training.distilled.epochs == 1000
    assert config.network.options.norm == "batch"
    assert config.labeller.options.teacher.network is None


def test_a_relabelling_that_is_stopped_says_how_it_goes_on(ltdd, monkeypatch):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "a").exit_code == 0

    def stopped(*given, **more):
        raise Interrupted("SIGINT")

    with monkeypatch.context() as change:
        change.setattr("ltdd_core.api.distill", stopped)
        done = ltdd("relabel", "a", "--labeller", "teacher")
    assert done.exit_code == 130
    assert "the soft labels are in a-teacher: the same command goes on with --resume" in done.stderr
    before = Path("a-teacher/distilled.safetensors").read_bytes()
    assert ltdd("relabel", "a", "--labeller", "teacher", "--resume").exit_code == 0
    assert Path("a-teacher/distilled.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("labeller.teacher.head=twostage",), 2, "the head 'twostage' has 2 stages, and a teacher is one classifier"),
        (("labeller.teacher.lr=1e30",), 1, "diverged"),
        (
            ("training.original.warmup=1", "labeller.teacher.epochs=1"),
            2,
            "the training of a teacher: training: warmup",
        ),
    ],
)
def test_what_is_wrong_with_a_teacher_is_said_before_the_first_step(ltdd, options, code, message):
    settings = [word for one in options for word in ("--set", one)]
    done = ltdd("distill", "--method", "dm", *TINY, "--labeller", "teacher", *settings, "--out", "a")
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert not Path("a").exists()


def test_options_of_a_labeller_need_its_name(ltdd):
    refused = one_line_error(ltdd("distill", "--method", "coreset", *TINY, "--set", "labeller.per=view"))
    assert "name a labeller beside its options" in refused


EVEN = """
    import torch
    from ltdd_core import Labeller, SoftLabels, hookimpl

    class Even(Labeller):
        def prepare(self, task):
            self.classes = len(task.counts)

        def label(self, images):
            return SoftLabels(torch.full((len(images), self.classes), 1 / self.classes))

    @hookimpl
    def ltdd_register_labellers(register):
        register("even", Even)
"""


def test_soft_labels_that_nobody_could_read_again_are_not_written(ltdd, site):
    site.install("mine", EVEN.replace("len(task.counts)", "3"))
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "a").exit_code == 0
    done = ltdd("relabel", "a", "--labeller", "even")
    assert done.exit_code == 1
    assert "labeller 'even' gave soft labels that cannot be used: soft labels must be finite" in done.stderr
    assert not Path("a-even").exists()


def test_a_set_whose_labeller_is_gone_says_so(ltdd, site):
    site.install("mine", EVEN)
    done = ltdd(
        "distill", "--method", "coreset", *TINY, "--labeller", "even", "--set", "labeller.per=view", "--out", "a"
    )
    assert done.exit_code == 0, done.output
    for info in site.folder.glob("*.dist-info"):
        shutil.rmtree(info)
    assert "needs the labeller 'even'" in one_line_error(ltdd("evaluate", "a"))
