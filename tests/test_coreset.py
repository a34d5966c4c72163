"""Coresets end to end: the images are real ones, chosen by features of the run's own plain classifier."""

import copy
import json
import os
import signal
from contextlib import contextmanager

import pytest
import torch
import yaml
from conftest import one_line_error, unclocked

from ltdd_core import configure, distill, evaluate, load_distilled
from ltdd_core.commands import open_setup, task_of
from ltdd_core.data.load import load_long_tailed
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_core.seeding import global_generator
from ltdd_core.setup import Setup
from ltdd_core.training.loop import train
from ltdd_core.training.losses import cross_entropy
from ltdd_core.training.trainer import Trainer
from ltdd_mtt.experts import experts_of, train_experts
from ltdd_samplers.coreset import centres, cut, herd
from ltdd_samplers.scores import error_norm

IPC = 4
SHORT = {"original": {"epochs": 2}, "distilled": {"epochs": 2}}
CATALOG = installed()


def config(method="coreset", **settings):
    tree = {
        "data": {"name": "digits-lt", "n_max": 40, "imbalance": 40},
        "network": {"width": 4, "depth": 2},
        "ipc": IPC,
        "iterations": 3,
        "training": SHORT,
        "compute": {"threads": 1},
    }
    return configure(method=method, **{**tree, **settings})


def literal_choice(wanted, choose):
    """Positions in the training set, from features of a network trained for the purpose."""
    data = load_long_tailed("digits-lt", wanted.data.make())
    with Setup.open(wanted, catalog=CATALOG, data=data) as setup:
        trainer, original = setup.trainer(), setup.original
    network = trainer.train(original, outputs=data.classes)
    found = []
    for label in range(data.classes):
        own = torch.nonzero(data.train_labels == label).flatten()
        features = network.embed(data.normalisation.apply(data.train_images[own]))
        found.append(own[choose(features, IPC)])
    return data, torch.cat(found)


def cut_of_the_sampler(features, size):
    return cut(features, size, redundancy=1.0)


@pytest.mark.parametrize(
    ("sampler", "choose"), [("herding", herd), ("k-center", centres), ("graph-cut", cut_of_the_sampler)]
)
def test_a_coreset_is_chosen_by_the_features_of_the_plain_classifier(sampler, choose, tmp_path):
    wanted = config(sampler=sampler)
    found = distill(wanted, tmp_path / "run").distilled
    data, chosen = literal_choice(wanted, choose)
    assert torch.equal(found.images, data.normalisation.apply(data.train_images[chosen]))
    assert torch.equal(found.labels, data.train_labels[chosen])
    sizes = torch.bincount(found.labels, minlength=10).tolist()
    assert sizes == [min(IPC, count) for count in data.counts]
    assert min(data.counts) == 1


def literal_errors(wanted, epochs, networks):
    """EL2N after so many epochs of the run's training, ``[N]``, by the loop itself and networks of its own."""
    data = load_long_tailed("digits-lt", wanted.data.make())
    found = []
    with Setup.open(wanted, catalog=CATALOG, data=data) as setup:
        trainer, original, options = setup.trainer(), setup.original, setup.config.training.original
        for number in range(networks):
            with global_generator(wanted.run.seed, f"weights for dynamics {number} on original"):
                network = trainer.make(data.image_shape, data.classes)
            snapshots = []
            train(
                network,
                original,
                options,
                loss=cross_entropy,
                augmentation=setup.augmentation,
                seed=wanted.run.seed,
                purpose=f"dynamics {number} on original",
                device=setup.device,
                after_epoch=lambda _, network=network, kept=snapshots: kept.append(copy.deepcopy(network).eval()),
                chunk=setup.chunk,
            )
            with torch.no_grad():
                logits = snapshots[epochs - 1](data.normalisation.apply(data.train_images))
            found.append(error_norm(logits, data.train_labels))
    return data, torch.stack(found).double().mean(0)


def test_scores_are_of_the_epoch_of_the_runs_own_training_and_kept(tmp_path):
    """Half of four epochs, whose learning rate falls as in all four, with averages of batches in the network."""
    settings = {
        "training": {"original": {"epochs": 4, "schedule": "cosine"}, "distilled": {"epochs": 1}},
        "network": {"width": 4, "depth": 2, "norm": "batch"},
        "sampler": {"name": "el2n", "networks": 2, "part": 0.5},
        "compute": {"threads": 1, "precision": "fp32"},
    }
    wanted = config(**settings)
    found = distill(wanted, tmp_path / "run").distilled
    data, errors = literal_errors(wanted, epochs=2, networks=2)
    sizes = torch.bincount(found.labels, minlength=10).tolist()
    assert sizes == [min(IPC, count) for count in data.counts]
    for label in range(10):
        own = torch.nonzero(data.train_labels == label).flatten()
        chosen = own[errors[own].argsort(descending=True)[:IPC]]
        assert torch.equal(found.images[found.labels == label], data.normalisation.apply(data.train_images[chosen]))
    cost = json.loads((tmp_path / "run" / "costs.json").read_text())["distilling"]["beforehand"]
    assert cost["images_seen"] == 2 * 2 * len(data.train_labels)
    assert cost["seconds"] > 0

    store, works = tmp_path / "networks", []

    class Working(Display):
        @contextmanager
        def work(self, what, total, unit, done=0, of=""):
            works.append(what)
            yield lambda done, **numbers: None

    for name in ("first", "second"):
        again = config(**{**settings, "compute": {**settings["compute"], "store": str(store)}})
        other = distill(again, tmp_path / name, display=Working()).distilled
        assert torch.equal(other.images, found.images)
    looked = [what for what in works if what.endswith("looking at the images after each epoch")]
    assert len(looked) == 2, "the second run finds what the first has kept"


def test_another_method_starts_from_a_coreset(tmp_path):
    wanted = config("dm", init="herding", matcher={"lr_img": 1e-12})
    found = distill(wanted, tmp_path / "run").distilled
    data, chosen = literal_choice(wanted, herd)
    real = data.normalisation.apply(data.train_images[chosen])
    assert len(found.images) == 10 * IPC
    labels = data.train_labels[chosen]
    for label, count in enumerate(data.counts):
        own = found.images[found.labels == label][: min(IPC, count)]
        torch.testing.assert_close(own, real[labels == label])


class Listening(Display):
    def __init__(self):
        self.trained = []

    def training(self, what):
        self.trained.append(what)


def test_the_network_that_chooses_is_that_of_the_first_row(tmp_path):
    display = Listening()
    distill(config(sampler="herding", plugins=["twostage"]), tmp_path / "herding", display=display)
    assert display.trained.count("classes on the original set") == 1
    distill(config(sampler="random", plugins=["twostage"]), tmp_path / "random")
    rows = [json.loads((tmp_path / name / "report.json").read_text())["rows"][0] for name in ("herding", "random")]
    assert unclocked(rows[0]) == unclocked(rows[1])


def test_the_random_coreset_needs_no_network_and_is_what_every_method_starts_from(tmp_path):
    found = load_distilled(distill(config(sampler="random"), tmp_path / "a").run)
    other = distill(config("dm", matcher={"lr_img": 1e-12}), tmp_path / "b").distilled
    for label in range(10):
        own = found.images[found.labels == label]
        torch.testing.assert_close(own, other.images[other.labels == label][: len(own)])


def test_a_coreset_is_evaluated_pictured_and_taken_up_again_like_any_distilled_set(ltdd, tmp_path):
    options = ["--iterations", 50, "--ipc", IPC, "--n-max", 40, "--imbalance", 40, "--threads", 1]
    options += ["--set", "network.width=4", "--set", "network.depth=2"]
    options += ["--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2"]
    command = ["distill", "--method", "coreset", "--sampler", "k-center", "--plugin", "twostage", *options]
    result = ltdd(*command, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "two-stage, original + distilled" in result.stdout
    assert "iteration" not in result.stderr  # none is taken
    assert (tmp_path / "run" / "distilled.png").exists()
    before = (tmp_path / "run" / "report.json").read_bytes()
    assert ltdd("distill", "--out", tmp_path / "run", "--resume").exit_code == 0
    assert (tmp_path / "run" / "report.json").read_bytes() == before
    (line,) = evaluate(tmp_path / "run", networks=["mlp"])
    assert line.mean.images == json.loads(before)["rows"][-1]["images"]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["sampler"]["name"] == "k-center"


def test_a_coreset_of_noise_is_refused(ltdd, tmp_path):
    error = one_line_error(ltdd("distill", "--method", "coreset", "--init", "noise", "--out", tmp_path / "run"))
    assert "leave out --init noise" in error
    assert not (tmp_path / "run").exists()


def test_an_unknown_way_to_start_is_refused_at_once(ltdd, tmp_path):
    error = one_line_error(ltdd("distill", "--method", "dm", "--init", "herdin", "--out", tmp_path / "run"))
    assert "unknown value of init 'herdin'. Did you mean 'herding'?" in error
    assert not (tmp_path / "run").exists()


class Alarmed(Display):
    """Ctrl-C while the network is trained by whose features images are chosen."""

    def training(self, what):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interruption_before_the_first_step_says_so(ltdd, tmp_path, monkeypatch):
    monkeypatch.setattr("ltdd_core.cli.live.LiveDisplay.training", Alarmed.training)
    result = ltdd("distill", "--method", "coreset", "--sampler", "herding", "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "stopped before the first step; the same command begins again" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_chooses_nothing_again(tmp_path):
    distill(config(sampler="herding"), tmp_path / "run")
    display = Listening()
    distill(config(sampler="herding"), tmp_path / "run", resume=True, display=display)
    assert display.trained == []


def test_who_starts_from_nothing_chooses_nothing(tmp_path, monkeypatch):
    """Experts are trained without initial images, so the network that would choose them is not trained."""
    monkeypatch.chdir(tmp_path)
    wanted = config("mtt", init="herding", matcher={"experts": {"count": 1, "epochs": 1}})
    with open_setup(wanted) as setup:
        task = task_of(setup)
    trained, plain = [], Trainer.train

    def noted(trainer, data, **given):
        trained.append(trainer._full("classes"))
        return plain(trainer, data, **given)

    monkeypatch.setattr(Trainer, "train", noted)
    options = wanted.matcher.options.experts
    experts = experts_of(task, options)
    train_experts(task, options, experts, lambda number, epochs: None)
    assert trained == ["expert 0"]
    assert experts[0].epochs() == 1


def test_the_versions_of_a_run_name_who_chose_its_first_images(tmp_path):
    distill(config("dm", init="k-center"), tmp_path / "run")
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert {"sampler instance", "sampler k-center"} <= set(sessions[0]["versions"])
