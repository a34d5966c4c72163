"""Controls: other images than the distilled ones with the same labels, trained on in the same way; and the teacher."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import TINY, one_line_error

from ltdd_core import configure, evaluate, load_distilled
from ltdd_core.cli import cli
from ltdd_core.evaluation.controls import control_set, images_of_control, teacher_of
from ltdd_core.evaluation.table import fitted
from ltdd_core.runs.distilled import save_distilled
from ltdd_core.setup import Setup

CONTROLS = ("random", "herding", "whole", "teacher")
OPTIONS = [option for control in CONTROLS for option in ("--control", control)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


def run_of(folder, *more):
    result = CliRunner().invoke(cli, ["distill", *TINY, *map(str, more), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def rded(store, tmp_path_factory):
    """A run of a method with a teacher of its own, one soft label an image."""
    folder = tmp_path_factory.mktemp("rded") / "run"
    teacher = ("--set", "matcher.teacher.network.width=4", "--set", "matcher.teacher.network.depth=1")
    named = ("--set", "matcher.teacher.network.name=convnet-d3", "--set", "matcher.teacher.count=2")
    return run_of(folder, "--method", "rded", *named, *teacher, "--store", store)


@pytest.fixture(scope="module")
def views(store, tmp_path_factory):
    """A run whose labeller labels each view."""
    how = ("--labeller", "teacher", "--set", "labeller.per=view", "--store", store)
    return run_of(tmp_path_factory.mktemp("views") / "run", "--method", "coreset", *how)


@pytest.fixture(scope="module")
def labelled(store, tmp_path_factory):
    """A run whose labeller labels each image."""
    how = ("--labeller", "adsa", "--store", store)
    return run_of(tmp_path_factory.mktemp("labelled") / "run", "--method", "dm", *how)


@pytest.fixture
def opened():
    """A setup of a stored run, in the colours of its set, and the set."""

    def opened(folder):
        config = configure(**yaml.safe_load((folder / "config.yaml").read_text()))
        distilled = load_distilled(folder)
        with Setup.open(config) as setup:
            return fitted(setup, distilled), distilled

    return opened


@pytest.mark.parametrize("run", ["rded", "labelled"])
def test_the_labels_of_a_control_are_what_labelled_the_distilled_images(run, opened, request):
    setup, distilled = opened(request.getfixturevalue(run))
    own = setup.distilled(distilled)
    label = teacher_of(setup, distilled)
    assert torch.allclose(label(own.images).logits(), distilled.soft_labels.logits(), atol=1e-4)
    data = control_set("random", setup, distilled)
    assert data.name == "distilled"
    assert data.counts().tolist() == [min(2, count) for count in setup.data.counts]
    images, _ = data.batch(torch.arange(len(data)), torch.device("cpu"))
    real = setup.data.normalisation.apply(setup.data.train_images)
    assert all((real == image).flatten(1).all(1).any() for image in images)
    assert torch.allclose(data.soft_labels.values, label(images).values, atol=1e-4)
    assert data.soft_labels.kind == distilled.soft_labels.kind


def test_a_coreset_has_the_images_of_its_control(views, opened):
    setup, distilled = opened(views)
    data = control_set(setup.config.sampler.name, setup, distilled)
    assert torch.equal(data.images, distilled.images)
    assert torch.equal(data.labels, distilled.labels)
    assert data.soft_labels is None
    assert torch.equal(data.view_labels(data.images).values, teacher_of(setup, distilled)(data.images).values)


def test_the_whole_set_is_trained_on_as_a_distilled_one(rded, opened):
    setup, distilled = opened(rded)
    data = control_set("whole", setup, distilled)
    assert data.name == "distilled"
    assert torch.equal(data.labels, setup.data.train_labels)
    assert data.soft_labels.values.shape == (len(data), setup.data.classes)
    assert images_of_control("whole", setup.data, distilled) == images_of_control("teacher", setup.data, distilled)


def test_a_set_with_hard_labels_has_controls_with_hard_labels(finished, opened):
    setup, distilled = opened(finished)
    data = control_set("random", setup, distilled)
    assert data.soft_labels is None
    assert data.view_labels is None
    assert images_of_control("random", setup.data, distilled) == len(data)


@pytest.mark.parametrize("run", ["rded", "views", "labelled"])
def test_evaluate_has_a_row_for_each_control(run, store, ltdd, request):
    folder = request.getfixturevalue(run)
    command = ("evaluate", folder, *OPTIONS, "--store", store, "--repeats", 2, "--json")
    result = ltdd(*command, "--out", "controls")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["controls"] == list(CONTROLS)
    rows = document["rows"]
    names = [f"{what}, direct" for what in ("distilled", *CONTROLS[:-1])]
    assert [row["name"] for row in rows] == [*names, "teacher"]
    assert [row.get("control") for row in rows] == [None, *CONTROLS]
    whole = document["data"]["images"]
    assert [row["images_seen"] for row in rows[:1]] == [2 * rows[0]["images"]]
    assert rows[3]["images"] == rows[4]["images"] == whole
    assert rows[3]["images_seen"] == rows[0]["images_seen"] / rows[0]["images"] * whole
    assert rows[4]["deviation"]["accuracy"] == 0  # the same teacher for students of all seeds
    if run != "rded":
        return
    again = ltdd(*command, "--out", "again")
    assert [row["accuracy"] for row in json.loads(again.stdout)["rows"]] == [row["accuracy"] for row in rows]
    assert "training a network" not in again.stderr
    assert ltdd("report", "controls").exit_code == 0
    assert "teacher" in Path("report-controls.html").read_text()
    compared = ltdd("compare", folder, "controls", "--json")
    assert compared.exit_code == 0, compared.output
    assert any(row["name"].endswith(": teacher") for row in json.loads(compared.stdout)["rows"])


def test_the_distilled_set_of_two_stages_is_replaced_in_its_stage(finished):
    (line, control) = evaluate(finished, controls=["random"])
    assert (line.mean.name, line.control) == ("two-stage, original + distilled", None)
    assert (control.mean.name, control.control) == ("two-stage, original + random", "random")
    assert line.mean.group_accuracy is not None
    assert control.mean.group_accuracy is not None
    assert control.mean.images == line.mean.images  # each class has two real images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--control", "herdin"), "unknown control 'herdin'. Did you mean 'herding'?"),
        (("--control", "teacher"), "has hard labels, so there is no teacher: leave out that control."),
        (
            ("--control", "random", "--set", "recipe.name=direct", "--set", "recipe.data=original", "--head", "linear"),
            "no distilled image trains 'original, direct', so it has no control.",
        ),
    ],
)
def test_a_control_that_cannot_be_had_is_one_line_and_nothing_is_written(options, message, finished, ltdd):
    assert message in one_line_error(ltdd("evaluate", finished, *options, "--out", "out", "--quiet"))
    assert not Path("out").exists()


def test_a_method_that_names_no_teacher_has_no_controls(rded, ltdd):
    shutil.copytree(rded, "run")
    distilled = load_distilled("run")
    configuration = {**distilled.origin["configuration"], "matcher": {"name": "dm"}}
    save_distilled(
        Path("run/distilled.safetensors"),
        replace(distilled, origin={**distilled.origin, "configuration": configuration}),
    )
    message = one_line_error(ltdd("evaluate", "run", "--control", "random", "--quiet"))
    assert "come from a method that does not say what labels other images" in message
    assert "training a network" not in ltdd("evaluate", "run", "--control", "random").stderr


GRID = {
    "common": {
        "iterations": 1,
        "network": {"width": 4, "depth": 1},
        "training": {"original": {"epochs": 1}, "distilled": {"epochs": 1}},
    },
    "ipc": [2],
    "methods": ["dm"],
    "lines": [
        {"name": "{method}"},
        {"name": "random", "control": "random"},
        {"name": "herding", "control": "herding"},
    ],
}


def test_a_line_of_a_grid_may_be_a_control(ltdd):
    Path("grid.yaml").write_text(yaml.safe_dump(GRID))
    result = ltdd("bench", "grid.yaml", "--out", "out", "--quiet")
    assert result.exit_code == 0, result.output
    rows = json.loads(Path("out/table.json").read_text())["rows"]
    assert [row["line"] for row in rows] == ["dm", "random", "herding"]
    assert len({row["each"][0]["file"] for row in rows}) == 3
    assert rows[0]["images"] == rows[1]["images"] == rows[2]["images"] == 20
    assert all(row["images_seen"] == row["images"] for row in rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"control": "nothing"}, "unknown control 'nothing'"),
        ({"control": ["random"]}, "unknown control \"['random']\""),
        ({"control": "random", "recipe": {"name": "direct", "data": "original"}}, "so it has no control"),
    ],
)
def test_a_control_that_a_grid_cannot_have_is_one_line(line, message, ltdd):
    Path("grid.yaml").write_text(yaml.safe_dump({**GRID, "lines": [{"name": "a", **line}]}))
    assert message in one_line_error(ltdd("bench", "grid.yaml", "--out", "out"))
    assert not Path("out").exists()
