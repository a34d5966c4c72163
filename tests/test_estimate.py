"""The guess of how long the classifiers of a run will take."""

import json
import re

import pytest
import torch
from conftest import TINY

from ltdd_core import Matcher, configure, distill
from ltdd_core.evaluation import estimate
from ltdd_core.evaluation.lines import lines_of
from ltdd_core.networks.network import NetworkFactory
from ltdd_core.networks.store import NetworkStore, stored_networks
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_core.setup import Setup
from ltdd_core.training import measuring
from ltdd_dm.matcher import DistributionMatcher

TREE = {
    "iterations": 2,
    "ipc": 2,
    "network": {"width": 4, "depth": 2},
    "training": {"original": {"epochs": 3, "batch": 100}, "distilled": {"epochs": 5}},
    "compute": {"threads": 1},
}


class Guess(Display):
    """Asks for the guess as the command line does."""

    def ahead(self, trainings):
        self.trainings = trainings()


def ahead_of(config, **given):
    """The guess for the lines of a configuration, with two images of each class, and the networks that it counts."""
    with Setup.open(config, **given) as setup:
        lines, two = lines_of(config, setup.catalog), [2] * setup.data.classes
        trainer = setup.trainer({})
        jobs = estimate.jobs_ahead(setup, lines, estimate.stand_in(setup, two), trainer)
        return estimate.training_ahead(setup, lines, two, {"batch": 10, "epochs": 9}), jobs


def a_second_for_each_image(monkeypatch):
    monkeypatch.setattr(estimate, "seconds_per_step", lambda trainer, data, options, images: images)


def test_seconds_are_those_of_a_step_times_the_steps_and_a_network_that_lines_share_counts_once(monkeypatch):
    a_second_for_each_image(monkeypatch)
    guess, jobs = ahead_of(configure(method="dm", plugins=["twostage"], **TREE))
    assert [job.key["what"] for job in jobs] == [
        "classes on the original set",
        "balanced softmax on the original set",
        "classes on the distilled set",
    ]
    assert guess == {"original": [3 * 4 * 86] * 2, "distilled": [5 * 2 * 10]}  # 342 images in steps of 85 or 86


def test_a_network_that_is_in_the_store_does_not_count(monkeypatch, tmp_path):
    a_second_for_each_image(monkeypatch)
    config, store = configure(method="dm", plugins=["twostage"], **TREE), NetworkStore(tmp_path / "networks")
    distill(config, tmp_path / "run", store=store)
    guess, jobs = ahead_of(config, store=NetworkStore(tmp_path / "networks"))
    assert [job.key["what"] for job in jobs] == ["classes on the distilled set"]
    assert set(guess) == {"distilled"}


@pytest.mark.parametrize("head", installed().names("head"))
def test_the_networks_that_are_planned_are_those_that_are_trained(head, tmp_path):
    stages = installed().get("head", head).load().stages
    recipe = "hierarchical" if stages > 1 else "direct"
    config = configure(method="dm", head=head, recipe=recipe, **TREE)
    _, jobs = ahead_of(config)
    store = NetworkStore(tmp_path / "networks")
    distill(config, tmp_path / "run", store=store)
    assert sorted(job.key["what"] for job in jobs) == sorted(
        network.key["what"] for network in stored_networks(tmp_path / "networks")
    )


def test_a_guess_that_fails_stops_no_run(tmp_path, monkeypatch):
    def no_memory(*args):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(estimate, "seconds_per_step", no_memory)
    display = Guess()
    assert distill(configure(method="dm", **TREE), tmp_path / "run", display=display).rows
    assert display.trainings == {}


@pytest.mark.parametrize("augment", [{}, {"augment": "trivial-augment"}])
def test_a_step_is_measured_as_it_will_be_taken(augment):
    training = {"original": {"epochs": 2, "batch": 100, "cutmix": 1.0, **augment}}
    config = configure(method="dm", **{**TREE, "training": training, "network": {"norm": "batch", "width": 4}})
    seen = []
    with Setup.open(config) as setup:
        trainer = setup.trainer({})

        class Noting(NetworkFactory):
            def __call__(self, image_shape, outputs):
                network = super().__call__(image_shape, outputs)
                network.linear.register_forward_hook(
                    lambda linear, args, out: seen.append((len(args[0]), linear.training))
                )
                return network

        made = Noting(config.network.component, config.network.options)
        options = trainer.options["original"]
        assert measuring.seconds_per_step(trainer.changed(make=made), setup.original, options, 86) > 0
    of_memory, *steps = seen
    assert of_memory == (3, False)  # whether a step fits, which batch normalisation does not divide
    assert steps == [(8, True), *[(86, True)] * 3]


def test_a_step_is_measured_and_the_result_does_not_depend_on_it(tmp_path):
    display = Guess()
    told = distill(configure(method="dm", plugins=["twostage"], **TREE), tmp_path / "told", display=display)
    quiet = distill(configure(method="dm", plugins=["twostage"], **TREE), tmp_path / "quiet")
    assert all(seconds > 0 for each in display.trainings.values() for seconds in each)
    for name in ("distilled.safetensors", "predictions.safetensors"):
        assert (told.run / name).read_bytes() == (quiet.run / name).read_bytes()


@pytest.mark.parametrize("recipe", [RuntimeError("no steps yet"), {"epochs": 1, "batch": 1000}])
def test_a_recipe_that_is_not_there_yet_is_no_failure(tmp_path, monkeypatch, recipe):
    asked = []

    def early(self):
        asked.append(self)
        if isinstance(recipe, Exception) and len(asked) == 1:
            raise recipe
        return {} if isinstance(recipe, Exception) else recipe

    monkeypatch.setattr(DistributionMatcher, "recipe", early)
    assert DistributionMatcher.recipe is not Matcher.recipe
    display = Guess()
    distill(configure(method="dm", **TREE), tmp_path / "run", display=display)
    assert set(display.trainings) == {"original", "distilled"}


def test_a_compiled_network_is_not_guessed_at():
    assert ahead_of(configure(method="dm", **{**TREE, "compute": {"compile": True}}))[0] == {}


def test_the_networks_that_come_first_are_guessed_at_too_and_not_again_once_they_are_there(ltdd):
    words = ["distill", *TINY, "--threads", "1", "--labeller", "teacher", "--set", "labeller.teacher.count=2"]
    said = ltdd(*words, "--method", "dm", "--out", "a").stderr
    assert re.search(
        r"about 0:00:\d\d to train 2 networks beforehand, .* at the end; at most .* of memory so far\n", said
    )
    assert "beforehand" not in ltdd(*words, "--method", "dm", "--seed", "0", "--ipc", "1", "--out", "b").stderr


def test_experts_are_guessed_at_by_the_epochs_that_are_left_of_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "seconds_per_step", lambda trainer, data, options, images: 1.0)
    asked = []
    monkeypatch.setattr(Guess, "beforehand", lambda self, trainings: asked.append(trainings()), raising=False)
    for count, epochs in ((1, 2), (2, 3), (2, 3)):
        matcher = {"syn_steps": 1, "expert_epochs": 1, "experts": {"count": count, "epochs": epochs, "batch": 100}}
        distill(configure(method="mtt", matcher=matcher, **TREE), tmp_path / f"{len(asked)}", display=Guess())
    assert asked == [[2 * 4.0], [1 * 4.0, 3 * 4.0]]


def test_the_command_says_how_long_it_will_take_unless_it_is_quiet(ltdd):
    words = [word if word != "3" else "8" for word in TINY]
    said = ltdd("distill", "--method", "dm", *words, "--threads", "1", "--out", "run")
    assert said.exit_code == 0, said.output
    assert "to distil, " in said.stderr
    assert "to train 2 networks" in said.stderr
    quiet = ltdd("distill", "--method", "dm", *words, "--threads", "1", "--out", "other", "--quiet", "--json")
    assert "to distil" not in quiet.stderr
    assert len(json.loads(quiet.stdout)["rows"]) == 2
