"""A later version: options that are added with a default change no file name and stop no run; changed defaults do."""

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import TINY, one_line_error
from pydantic import Field

from ltdd_core import configure
from ltdd_core.bench.grid import read_grid
from ltdd_core.bench.predictions import StoredPredictions
from ltdd_core.evaluation.linear import LinearHead
from ltdd_core.networks.zoo import ConvNet
from ltdd_core.options import BaseOptions, changes, option
from ltdd_core.plugging.catalog import installed
from ltdd_dm.matcher import DistributionMatcher

GRID = {
    "common": {
        "iterations": 2,
        "data": {"name": "digits-lt", "n_max": 30},
        "network": {"name": "convnet-d3", "width": 8, "depth": 2},
        "training": {"original": {"epochs": 1}, "distilled": {"epochs": 1}},
        "compute": {"threads": 1},
    },
    "methods": ["dm"],
    "ipc": [1, 2],
    "plugins": ["none", "twostage"],
}


def later(options, **values):
    """The same options in a later version that has more of them, or other defaults."""
    return type("Options", (options,), {"__annotations__": dict.fromkeys(values, float), **values})


class Inner(BaseOptions):
    epochs: int = option(300, "of the inside")
    lr: float = option(0.1, "of the inside")


class Outer(BaseOptions):
    inner: Inner = Inner(epochs=40)
    size: int = option(3, "of the outside")
    many: list[int] = Field(default_factory=list)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"size": 3, "inner": {"epochs": 40, "lr": 0.1}}, {}),
        ({"size": 4}, {"size": 4}),
        ({"inner": {"epochs": 300}}, {"inner": {"epochs": 300}}),
        ({"inner": {"epochs": 40, "lr": 1}}, {"inner": {"lr": 1.0}}),
        ({"many": [1]}, {"many": [1]}),
    ],
)
def test_what_differs_from_the_defaults_is_found_inside_options_too(values, expected):
    assert changes(Outer(**values)) == expected


def names(grid):
    return [(cell.folder, [line.file for line in cell.lines]) for cell in grid.cells]


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID))
    return lambda: read_grid(path, installed())


def test_an_option_added_with_a_default_leaves_the_files_of_a_grid_their_names(grid, monkeypatch):
    before = names(grid())
    for component in (DistributionMatcher, LinearHead):
        monkeypatch.setattr(component, "Options", later(component.Options, strength=option(0.5, "new")))
    assert "strength" in grid().cells[0].config.to_tree()["matcher"]
    assert names(grid()) == before


def test_a_value_that_is_not_the_default_has_a_name_of_its_own(grid, tmp_path, monkeypatch):
    before = names(grid())
    monkeypatch.setattr(DistributionMatcher, "Options", later(DistributionMatcher.Options, strength=option(0.5, "new")))
    methods = [{"method": "dm", "matcher": {"strength": 0.75}}]
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**GRID, "methods": methods}))
    assert not {folder for folder, _ in names(grid())} & {folder for folder, _ in before}


def test_an_unfinished_run_resumes_though_there_is_an_option_more(ltdd, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    monkeypatch.setattr(DistributionMatcher, "Options", later(DistributionMatcher.Options, strength=option(0.5, "new")))
    resume = ("distill", "--out", tmp_path / "run", "--resume", "--quiet")
    message = one_line_error(ltdd(*resume, "--set", "matcher.strength=0.75"))
    assert "another configuration: matcher.strength was None and is now 0.75" in message
    assert ltdd(*resume).exit_code == 0
    with_defaults = ("distill", "--method", "dm", "--plugin", "twostage", *TINY, "--out", tmp_path / "run", "--resume")
    assert ltdd(*with_defaults).exit_code == 0


def test_a_run_says_which_version_its_defaults_are_of(finished):
    text = (finished / "config.yaml").read_text()
    assert text.startswith("# Every option is spelt out; those that nobody set have the defaults of ltdd 0.")
    assert configure(**yaml.safe_load(text)).run.ipc == 2


def test_a_default_that_changed_is_not_taken_for_the_old_one(ltdd, grid, tmp_path, monkeypatch):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**GRID, "ipc": [1], "plugins": ["none"]}))
    assert ltdd("bench", tmp_path / "grid.yaml", "--out", "b", "--quiet").exit_code == 0
    (cell,) = grid().cells
    assert all(StoredPredictions(Path("b")).get(line) is not None for line in cell.lines)
    monkeypatch.setattr(ConvNet, "Options", later(ConvNet.Options, more=option(0.0, "new")))
    (same,) = grid().cells
    assert all(StoredPredictions(Path("b")).get(line) is not None for line in same.lines)
    monkeypatch.setattr(ConvNet.Options.model_fields["norm"], "default", "group")
    ConvNet.Options.model_rebuild(force=True)
    (other,) = grid().cells
    assert [line.file for line in other.lines] == [line.file for line in cell.lines]
    for line in other.lines:
        stored = StoredPredictions(Path("b"))
        assert stored.get(line) is None
        reason = "of another configuration: network.norm was 'instance' and is now 'group'"
        assert reason in stored.damaged[line.file]
