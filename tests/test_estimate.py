"""The guess of how long the classifiers of a run will take."""

import json
import re

import pytest
from conftest import TINY

from ltdd_core import Matcher, configure, distill
from ltdd_core.evaluation import estimate
from ltdd_core.evaluation.lines import lines_of
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


def test_seconds_are_those_of_a_step_times_the_steps_for_each_stage_of_each_line(monkeypatch):
    monkeypatch.setattr(measuring, "seconds_per_step", lambda trainer, data, options, size: size / options.batch)
    config = configure(method="dm", plugins=["twostage"], **TREE)
    with Setup.open(config) as setup:
        lines = lines_of(config, setup.catalog)
        guess = estimate.training_ahead(setup, lines, 20, {"batch": 10, "epochs": 9})
        sets = [name for line in lines for name in line.sets]
        images = len(setup.data.train_labels)
    assert images == 342
    assert guess == {
        "original": [3 * 4 * 3.42] * sets.count("original"),
        "distilled": [5 * 2 * 2.0] * sets.count("distilled"),
    }


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
    config = configure(method="dm", **{**TREE, "compute": {"compile": True}})
    with Setup.open(config) as setup:
        assert estimate.training_ahead(setup, lines_of(config, setup.catalog), 20, {}) == {}


def test_the_networks_that_come_first_are_guessed_at_too_and_not_again_once_they_are_there(ltdd):
    words = ["distill", *TINY, "--threads", "1", "--labeller", "teacher", "--set", "labeller.teachers=2"]
    said = ltdd(*words, "--method", "dm", "--out", "a").stderr
    assert re.search(
        r"about 0:00:\d\d to train 2 networks beforehand, .* at the end; at most .* of memory so far\n", said
    )
    assert "beforehand" not in ltdd(*words, "--method", "dm", "--seed", "0", "--ipc", "1", "--out", "b").stderr


def test_experts_are_guessed_at_by_the_epochs_that_are_left_of_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "seconds_per_step", lambda trainer, data, options, size: 1.0)
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
