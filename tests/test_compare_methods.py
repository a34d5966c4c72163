"""``ltdd compare-methods``: the same time for each method, a winner by validation images, and noise in mind."""

import itertools
import json
import time

import numpy as np
import pytest
import yaml
from conftest import one_line_error
from PIL import Image

from ltdd_core import InputError, configure, load_classifier, load_data
from ltdd_core.commands import open_setup
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_methods.budget import measure
from ltdd_methods.comparison import Plan, compare
from ltdd_methods.contest import Entry, placed, sentence

SMALL = ("--n-max", "24", "--imbalance", "4", "--ipc", "2", "--threads", "1")
SMALL += ("--set", "network.width=4", "--set", "network.depth=2")
SMALL += ("--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2")
COMMAND = ("compare-methods", "--data", "digits-lt", "--minutes", "0.01", *SMALL)
STRANGERS = """
    import os, signal, time
    from pathlib import Path
    from ltdd_core import BaseOptions, Matcher, Synthetic, hookimpl, option

    class Still(Matcher):
        \"\"\"The initial images.\"\"\"
        def prepare(self, task):
            self.task = task
            self.keep()
        def step(self, step):
            time.sleep(0.02)
            return {"loss": 0.0}
        def distilled(self):
            return Synthetic(self.task.initial_images, self.task.initial_labels)

    class Endless(Still):
        \"\"\"Prepares for ever.\"\"\"
        def prepare(self, task):
            while True:
                time.sleep(0.01)
                task.keep_going()

    class Options(BaseOptions):
        \"\"\"How long it prepares.\"\"\"
        seconds: float = option(3600.0, "seconds of preparation")

    class Thorough(Still):
        \"\"\"Prepares for long, unless it has to be quick.\"\"\"
        Options = Options
        quick_preset = "thorough-quick"
        def prepare(self, task):
            began = time.monotonic()
            while time.monotonic() - began < self.options.seconds:
                time.sleep(0.01)
                task.keep_going()
            super().prepare(task)

    class Wrong(Still):
        \"\"\"Has a bug.\"\"\"
        def step(self, step):
            raise ZeroDivisionError("a bug")

    class Stopped(Still):
        \"\"\"Is interrupted once, in its run.\"\"\"
        def step(self, step):
            if step == 4 and not Path("stopped").exists():
                Path("stopped").touch()
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(step)

    @hookimpl
    def ltdd_register_matchers(register):
        register("still", Still)
        register("endless", Endless)
        register("thorough", Thorough)
        register("wrong", Wrong)
        register("stopped", Stopped)

    @hookimpl
    def ltdd_register_presets(register):
        register("thorough-quick", {"method": "thorough", "matcher": {"seconds": 0.1}})
"""


def entry(method, right, accuracy=50.0, line="distilled, direct"):
    right = np.array(right, dtype=bool)
    seeds = len(right)
    return Entry(method, line, right, (accuracy,) * seeds, (1.0,) * seeds, (0.0,) * seeds)


LABELS = np.array([0] * 40 + [1] * 10)
BETTER, WORSE = [True] * 30 + [False] * 10 + [True] * 9 + [False], [True] * 40 + [False] * 10


def test_the_winner_has_the_best_mean_over_the_classes_of_the_validation_images_whatever_the_test_images_say():
    """Of all images the second has more right, 40 of 50; of the test images, too."""
    found = placed([entry("a", [WORSE, WORSE], accuracy=90.0), entry("b", [BETTER, BETTER], accuracy=10.0)], LABELS)
    assert [one.entry.method for one in found] == ["b", "a"]
    assert [one.validation.value for one in found] == pytest.approx([(75 + 90) / 2, 50])
    assert found[1].behind.value == pytest.approx(32.5)
    assert not found[1].may_win
    text = sentence(found, len(LABELS))
    assert text == (
        "Take b, direct: it is the best on the validation images, 82.5 per cent, and has 10.0 on the test images. Its "
        "lead is more than the noise of 50 validation images and 2 seeds."
    )


def test_what_seeds_or_validation_images_may_turn_round_cannot_be_told_apart():
    steady, shaky = entry("a", [BETTER, BETTER, BETTER]), entry("b", [WORSE, [True] * 50, [True] * 50])
    found = placed([steady, shaky], LABELS)
    assert [one.entry.method for one in found] == ["b", "a"]
    assert found[1].may_win, "one of three seeds is far below"
    assert "it cannot be told from a, direct." in sentence(found, 50)
    one_more = [*BETTER[:29], False, *BETTER[30:]]
    pair = placed([entry("a", [BETTER]), entry("b", [one_more], line="two-stage, original + distilled")], LABELS)
    assert pair[1].may_win, "one image is no difference"
    assert "With 50 validation images and one seed it cannot be told from b, two-stage." in sentence(pair, 50)
    alone = placed([steady], LABELS)
    assert sentence(alone, 50).endswith("on the test images.")


@pytest.fixture
def still(site):
    site.install("strangers", STRANGERS)
    data = load_data("digits-lt", n_max=24, imbalance=4, display=Display())
    settings = {"data": {"name": "digits-lt", "n_max": 24, "imbalance": 4}, "network": {"width": 4, "depth": 2}}
    return lambda method: (configure(method=method, compute={"threads": 1}, **settings), data)


def test_as_many_steps_are_planned_as_fit_into_the_time(still):
    found = measure(*still("still"), seconds=2.0)
    assert found.step >= 0.02
    assert 1.0 < (found.beforehand + found.iterations * found.step) < 3.0
    assert measure(*still("coreset"), seconds=5.0).iterations == 0


def test_a_method_is_left_alone_when_its_time_is_over_before_a_step(still):
    began = time.monotonic()
    assert measure(*still("endless"), seconds=0.3) is None
    assert time.monotonic() - began < 10


def test_networks_that_are_found_count_with_the_time_of_their_training(still, tmp_path):
    """An earlier measurement trained them: the method takes what it took then."""
    config, data = still("rded")
    seconds = []
    for _ in range(2):
        again = configure(
            **{**config.to_tree(), "compute": {**config.to_tree()["compute"], "store": str(tmp_path / "networks")}}
        )
        seconds.append(measure(again, data, 600.0).beforehand)
    with open_setup(again, data=data) as setup:
        trained = setup.store.folder
    assert list(trained.glob("*.safetensors"))
    assert seconds[1] > 0.5 * seconds[0]


def test_a_strangers_method_is_compared_and_more_seeds_do_only_what_is_new(site, ltdd, tmp_path):
    site.install("strangers", STRANGERS)
    methods = ("--method", "still", "--method", "coreset", "--method", "endless", "--out", tmp_path / "out")
    first = ltdd(*COMMAND, *methods, "--json")
    assert first.exit_code == 0, first.output
    document = json.loads(first.stdout)
    assert set(document["methods"]) == {"still", "coreset"}
    assert document["left_out"] == {"endless": "it has not taken a step when the time is over"}
    assert {(row["method"], row["shown"]) for row in document["rows"]} == set(
        itertools.product(("still", "coreset"), ("direct", "two-stage"))
    )
    assert {row["line"] for row in document["without_method"]} == {"original, direct", "original, balanced softmax"}
    taken = document["methods"]["still"]
    assert taken["seconds"] >= 0.02 * taken["iterations"] > 0
    report = tmp_path / "out" / "still-seed0" / "report.json"
    before, known = report.read_bytes(), set((tmp_path / "out" / "networks").iterdir())
    second = ltdd(*COMMAND, *methods, "--seeds", "2")
    assert second.exit_code == 0, second.output
    assert report.read_bytes() == before
    assert known <= set((tmp_path / "out" / "networks").iterdir())
    assert "run 4/4: coreset, seed 1" in second.stderr
    assert "steps of" not in second.stderr, "nothing is measured again"
    assert "Take " in second.stdout
    assert (tmp_path / "out" / "still-seed1" / "report.json").exists()


def test_a_method_that_prepares_for_more_than_half_of_its_time_has_its_quick_preset(site, ltdd, tmp_path):
    site.install("strangers", STRANGERS)
    out = tmp_path / "out"
    result = ltdd(*COMMAND, "--method", "thorough", "--method", "still", "--out", out)
    assert result.exit_code == 0, result.output
    assert "s of preparation, with the preset thorough-quick" in result.stderr
    assert "thorough has the preset thorough-quick, since it has so little time" in result.stdout
    assert yaml.safe_load((out / "thorough-seed0" / "config.yaml").read_text())["matcher"]["seconds"] == 0.1
    again = ltdd(*COMMAND, "--method", "thorough", "--method", "still", "--out", out, "--json")
    methods = json.loads(again.stdout)["methods"]
    assert {name: one["preset"] for name, one in methods.items()} == {"thorough": "thorough-quick", "still": None}


def test_a_method_that_begins_early_enough_keeps_its_usual_options(site, ltdd, tmp_path):
    site.install("strangers", STRANGERS)
    result = ltdd(
        *COMMAND, "--method", "thorough", "--set", "matcher.seconds=0.02", "--out", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    taken = json.loads(result.stdout)["methods"]["thorough"]
    assert taken["preset"] is None
    assert taken["iterations"] > 15, "steps of 0.02 s fill the half that the preparation might have taken"


QUICK = ["csdm", "dance", "datm", "edc", "lad", "mtt", "ncfm", "tesla", "tgdd"]


def epochs_beforehand(config):
    """Of all networks that the options of a method ask for, over one another."""
    options = [value for _, value in config.matcher.options if hasattr(value, "count") and hasattr(value, "epochs")]
    (training,) = options
    return training.count * (training.epochs or config.training.original.epochs)


def test_these_methods_have_a_quick_preset():
    catalog = installed()
    assert [name for name in catalog.names("matcher") if catalog.get("matcher", name).load().quick_preset] == QUICK


@pytest.mark.parametrize("method", QUICK)
def test_a_quick_preset_is_one_of_the_method_and_trains_less(method):
    usual = configure(method=method)
    quick = configure(preset=usual.matcher.component.quick_preset)
    assert quick.matcher.name == method
    assert 3 * epochs_beforehand(quick) <= epochs_beforehand(usual)


def test_the_validation_images_that_choose_train_nothing_and_are_scored_by_the_classifiers_of_the_runs(ltdd, tmp_path):
    out = tmp_path / "out"
    document = json.loads(ltdd(*COMMAND, "--method", "coreset", "--out", out, "--json").stdout)
    data = load_data("digits-lt", n_max=24, imbalance=4, validation=0.2, display=Display())
    assert document["validation_images"] == len(data.validation_labels)
    for row in document["rows"]:
        said = load_classifier(out / "coreset-seed0", row["line"]).log_probabilities_of(data.validation_images)
        right = said.argmax(1) == data.validation_labels
        classes = [100 * right[data.validation_labels == label].float().mean() for label in range(10)]
        assert row["validation"][0] == pytest.approx(float(sum(classes)) / 10, abs=1e-4)
    assert json.loads((out / "coreset-seed0" / "run.json").read_text())["data"]["counts"] == list(data.counts)


def test_the_folder_has_the_name_of_the_pictures(ltdd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("cat", "dog")):
        for part in ("train", "test"):
            (tmp_path / "my pets" / part / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.new("RGB", (8, 8), (120 * place + number, 0, 0))
                picture.save(tmp_path / "my pets" / part / name / f"{number}.png")
    command = ("compare-methods", "--data", "folder", "--root", "my pets", "--minutes", "0.01", "--method", "coreset")
    result = ltdd(*command, *SMALL[4:])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "methods-my-pets-0.01" / "plan.json").exists()


def test_a_method_with_a_bug_costs_the_others_nothing(site, ltdd, tmp_path):
    site.install("strangers", STRANGERS)
    result = ltdd(*COMMAND, "--method", "wrong", "--method", "coreset", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "left out: wrong: ZeroDivisionError: a bug" in result.stdout
    assert "Take coreset" in result.stdout
    assert "1 of the methods failed: wrong. The same command tries them again." in result.stderr


def test_a_comparison_that_was_interrupted_goes_on(site, ltdd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    site.install("strangers", STRANGERS)
    command = (*COMMAND, "--method", "stopped", "--out", tmp_path / "out")
    first = ltdd(*command)
    assert first.exit_code == 130, first.output
    assert "the same command goes on" in first.stderr
    second = ltdd(*command)
    assert second.exit_code == 0, second.output
    assert "Take stopped" in second.stdout


def test_a_full_disk_is_no_fault_of_a_method(still, tmp_path):
    config, data = still("coreset")
    plan = Plan.open(tmp_path / "out", {})
    (tmp_path / "out").write_text("in the way, as a full disk would be")
    with pytest.raises(InputError, match=r"cannot write .*plan\.json"):
        compare(["coreset"], [0], lambda *asked: config, plan, data, 5.0, display=None, report=lambda text: None)


def test_other_questions_need_another_folder_and_wrong_ones_are_refused(ltdd, tmp_path):
    out = tmp_path / "out"
    assert ltdd(*COMMAND, "--method", "coreset", "--out", out, "--quiet").exit_code == 0
    other = ("compare-methods", "--data", "digits-lt", "--minutes", "0.02", *SMALL, "--method", "coreset")
    error = one_line_error(ltdd(*other, "--out", out))
    assert f"{out} has a comparison with another minutes: name another --out." in error
    assert "unknown method 'corset'. Did you mean 'coreset'?" in one_line_error(ltdd(*COMMAND, "--method", "corset"))
    error = one_line_error(ltdd(*COMMAND, "--method", "coreset", "--validation", "0", "--out", tmp_path / "new"))
    assert "there are no validation images to choose with: leave out --validation 0" in error
    (tmp_path / "file").write_text("")
    error = one_line_error(ltdd(*COMMAND, "--method", "coreset", "--out", tmp_path / "file"))
    assert error == f"Error: cannot write {tmp_path / 'file' / 'plan.json'}: {tmp_path / 'file'} is no folder."
    (out / "plan.json").write_text("[]")
    assert "plan.json is damaged" in one_line_error(ltdd(*COMMAND, "--method", "coreset", "--out", out))
