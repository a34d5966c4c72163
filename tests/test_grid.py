"""Grid files: what is wrong in one is said before anything runs, and the cells are the product of the axes."""

import json
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
from conftest import one_line_error
from hypothesis import given, settings, strategies as st
from test_bench import LINES, write

from ltdd_core import configure
from ltdd_core.bench.axes import expanded
from ltdd_core.bench.grid import read_grid
from ltdd_core.data.load import load_long_tailed
from ltdd_core.plugging.catalog import installed

TOP = Path(__file__).parent.parent

WRONG = {
    "unknown key": ({"method": ["dm"]}, "unknown key 'method'. Did you mean 'methods'?"),
    "unknown method": ({"methods": ["dmm"]}, "unknown matcher 'dmm'"),
    "unknown preset": ({"methods": [{"preset": "dm-papr"}]}, "unknown preset 'dm-papr'"),
    "a preset that is no name": ({"methods": [{"preset": ["dm-paper", 1]}]}, "preset a name or several"),
    "unknown option": ({"methods": [{"method": "dm", "matcher": {"lr_im": 1}}]}, "methods: .*Did you mean 'lr_img'"),
    "unknown option of all": ({"common": {"itrations": 3}}, "common: .*Did you mean 'iterations'"),
    "value out of range": ({"ipc": [0]}, "ipc must be at least 1"),
    "empty axis": ({"methods": []}, "methods is empty"),
    "seeds": ({"seeds": 3}, r"seeds are listed one by one"),
    "a name instead of method": ({"methods": [{"name": "dm"}]}, "write 'method: dm'"),
    "no method": ({"methods": None}, "name a method"),
    "a list in an axis": ({"ipc": [[1]]}, "each is one value"),
    "an empty value": ({"data": [""]}, "each is a name or a mapping with 'name'"),
    "same value twice": ({"ipc": [2, 2]}, "the cells .* are the same"),
    "same cell twice": ({"methods": ["dm", {"method": "dm", "label": "b"}]}, "the cells .* are the same"),
    "same data under two labels": (
        {"data": ["digits-lt", {"name": "digits-lt", "label": "b"}]},
        "the cells .* are the same",
    ),
    "same label twice": ({"methods": ["dm", {"method": "dm", "init": "noise"}]}, "two cells are called .*label"),
    "unknown plugin": ({"plugins": ["twostag"]}, "unknown plugin 'twostag'"),
    "common is no mapping": ({"common": [1]}, "common is a configuration"),
    "lines are no list": ({"lines": {"name": "a"}}, "lines is a list of mappings"),
    "line without a name": ({"lines": [{"head": "linear"}]}, "a line needs a name"),
    "line that distils": ({"lines": [{"name": "a", "ipc": 3}]}, "line 'a': unknown key 'ipc'"),
    "line with a wrong option": ({"lines": [{"name": "a", "head": {"grups": 2}}]}, "line 'a'.*'grups'"),
    "line that does not fit": ({"lines": [{"name": "a", "recipe": "hierarchical"}]}, "line 'a': .*two stages"),
    "two lines, one name": (
        {"lines": [{"name": "a"}, {"name": "a", "recipe": {"data": "original"}}, {"name": "a", "head": "twostage"}]},
        "two different lines are called 'a'",
    ),
    "published nowhere": (
        {"published": [{"line": "b", "source": "x"}]},
        "published line 'b' fits no row; lines are 'original, direct', 'distilled, direct'",
    ),
    "published in two rows": ({"published": [{"line": "distilled, direct", "source": "x"}]}, "fits 2 rows"),
    "published without a source": ({"published": [{"line": "original, direct"}]}, "published.source"),
    "published twice": ({"published": [{"line": "original, direct", "source": "x"}] * 2}, "is there twice"),
    "title": ({"title": [1]}, "title must be text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_grid_is_refused_before_anything_runs(ltdd, name):
    changes, message = WRONG[name]
    write("grid.yaml", **changes)
    error = one_line_error(ltdd("bench", "grid.yaml"))
    assert re.search(message, error), error
    assert "grid.yaml" in error
    assert not Path("runs").exists()


def test_a_grid_file_that_is_not_there_or_not_yaml(ltdd):
    assert "cannot read grid.yaml" in one_line_error(ltdd("bench", "grid.yaml"))
    Path("grid.yaml").write_text("a: [")
    assert "grid.yaml: not plain YAML" in one_line_error(ltdd("bench", "grid.yaml"))
    write("grid.yaml")
    assert "unknown matcher option 'foo'" in one_line_error(ltdd("bench", "grid.yaml", "--set", "matcher.foo=1"))


# ---- expansion -----------------------------------------------------------------------------------

AXIS = st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(st.sampled_from("abcdef"), AXIS, min_size=1))
def test_expansion_is_the_product_in_order(axes):
    points = expanded(axes)
    assert len(points) == math.prod(map(len, axes.values()))
    assert len({tuple(point.items()) for point in points}) == len(points)
    positions = [[values.index(point[axis]) for axis, values in axes.items()] for point in points]
    assert positions == sorted(positions)


def test_data_sets_that_differ_only_in_where_they_lie_are_told_apart_by_their_labels(tmp_path):
    here = {"name": "folder", "root": "here"}
    data = [here, {**here, "root": "there", "label": "other images"}, {**here, "root": "last", "label": "other-images"}]
    cells = read_grid(write(tmp_path / "grid.yaml", data=data, seeds=[0], methods=["dm"]), installed()).cells
    assert [cell.data for cell in cells] == ["folder", "other images", "other-images"]
    for names in zip(*([cell.folder, *(line.file for line in cell.lines)] for cell in cells), strict=True):
        assert len(set(names)) == 3
        assert [name.partition("-if20-")[0] for name in names] == ["folder", "other-images", "other-images"]
    (tmp_path / "b").mkdir()
    path = write(tmp_path / "b" / "grid.yaml", data=[{**here, "label": "folder"}], seeds=[0], methods=["dm"])
    assert read_grid(path, installed()).cells[0].folder == cells[0].folder


@settings(max_examples=10, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True),
    ipc=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    imbalance=st.lists(st.integers(1, 50), min_size=1, max_size=2, unique=True),
    plugins=st.lists(st.sampled_from(["none", "twostage"]), min_size=1, max_size=2, unique=True),
)
def test_the_cells_of_a_grid_are_the_product(tmp_path_factory, seeds, ipc, imbalance, plugins):
    changes = {"seeds": seeds, "ipc": ipc, "imbalance": imbalance, "plugins": plugins}
    path = write(tmp_path_factory.mktemp("grid") / "grid.yaml", **changes)
    grid = read_grid(path, installed())
    expected = 2 * math.prod(map(len, changes.values()))
    assert len({cell.name for cell in grid.cells}) == len(grid.cells) == expected
    assert len(grid.runs()) == expected // len(plugins)
    assert [cell.seed for cell in grid.cells] == sorted([c.seed for c in grid.cells], key=seeds.index)
    opponents = 1 if "twostage" in plugins else 0
    per_place = 2 * (1 + opponents)  # each method direct and two-stage
    originals = len(imbalance) * (1 + opponents)
    assert len(grid.rows) == len(imbalance) * len(ipc) * per_place + originals
    assert all(len(row.members) == len(seeds) for row in grid.rows)


def test_what_a_method_says_is_not_for_originals(tmp_path):
    """DC's preset may train without augmentation and MTT's may whiten: the original line stays one and the same."""
    plain = {"method": "dm", "label": "plain", "augment": "none", "data": {"normalisation": "zca"}}
    path = write(tmp_path / "grid.yaml", methods=["dm", plain], lines=LINES[:2])
    grid = read_grid(path, installed())
    assert [row.line for row in grid.rows] == ["original, one stage", "dm, one stage", "plain, one stage"]
    assert {line.config.run.augment for _, line in grid.rows[2].members} == {"none"}
    assert all(line.config.run.augment != "none" for _, line in grid.rows[0].members)


def test_a_method_may_have_several_presets(tmp_path):
    path = write(tmp_path / "grid.yaml", methods=[{"preset": ["strong-training", "mtt-paper"]}], lines=LINES[:2])
    configs = [line.config for _, line in read_grid(path, installed()).rows[1].members]
    assert {config.training.original.mixup for config in configs} == {0.4}
    assert {config.data.options.normalisation for config in configs} == {"zca"}


@pytest.mark.parametrize("name", ["paper", "paper-small"])
def test_the_grids_of_the_paper_resolve(name):
    grid = read_grid(TOP / "benchmarks" / f"{name}.yaml", installed())
    assert sum(row.published is not None for row in grid.rows) == 7
    assert {row.line for row in grid.rows} >= {"original, one stage", "original + dc, two stages"}


def test_the_grid_of_baselines_has_every_head_and_coreset():
    catalog = installed()
    grid = read_grid(TOP / "benchmarks" / "baselines.yaml", catalog)
    on_original = {line.line.head.name for row in grid.rows for _, line in row.members if line.run is None}
    one_stage = {name for name in catalog.names("head") if catalog.get("head", name).load().stages == 1}
    assert on_original == one_stage - {"ensemble"}
    assert {cell.config.run.init for cell in grid.cells} == {"real", "herding", "k-center"}
    assert {len(row.members) for row in grid.rows} == {2}


def test_the_page_about_grids_is_true(ltdd):
    page = (TOP / "docs" / "bench.md").read_text()
    first, second = re.findall(r"^```yml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    Path("grid.yaml").write_text(first)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for command in commands.splitlines():
        result = ltdd(*command.split()[1:])
        assert result.exit_code == 0, result.output
    assert result.stderr == "the table is in runs/first-grid/table.md, .csv and .json\n"
    files = {path.name for path in Path("runs/first-grid").iterdir() if path.name != ".lock"}
    assert files == set(
        re.findall(r"`([\w.]+)/?`(?:,| \|)", page[page.index("in the folder") : page.index("## The file")])
    )
    Path("lines.yaml").write_text(second)
    result = ltdd("bench", "lines.yaml", "--quiet", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["rows"]) == 4


def test_the_grid_of_two_stages_has_its_own_stages_and_controls():
    grid = read_grid(TOP / "benchmarks" / "two-stage.yaml", installed())
    heads = {line.name: line.line.head for row in grid.rows for _, line in row.members}
    assert heads["original, two balanced softmax"].name == "ensemble"
    pooled = [head.options for head in heads.values() if head.name == "twostage"]
    variants = [head.options for head in heads.values() if head.name == "twostage-ablations"]
    published = configure("twostage-paper", method="dm").head.options
    assert [options.routing for options in pooled if options.targets == "groups"] == ["hard", "soft"]
    assert published in pooled
    assert any(options.partition == "random" for options in variants)
    assert any((options.a, options.b) == (0, 0) for options in variants)


@pytest.mark.parametrize("path", sorted((TOP / "benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_resolves(path):
    grid = read_grid(path, installed())
    assert grid.cells
    assert all(row.members for row in grid.rows)


@pytest.mark.parametrize("path", sorted((TOP / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))  # as `python benchmarks/NAME.py` does
    runpy.run_path(str(path), run_name="not main")


def test_the_left_out_images_are_none_of_the_long_tailed_set(tmp_path, monkeypatch):
    out = tmp_path / "left"
    monkeypatch.syspath_prepend(str(TOP / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["left_out.py", str(out), "--data", "digits-lt", "--images", "9"])
    runpy.run_path(str(TOP / "benchmarks" / "left_out.py"), run_name="__main__")
    data = load_long_tailed("digits-lt", configure(method="coreset", data="digits-lt").data.make())
    folders = [sorted((out / "train" / name).iterdir()) for name in data.class_names]
    assert [len(folder) for folder in folders] == list(data.counts)
    kept = {picture.stem for folder in folders for picture in folder}
    left = {picture.stem for picture in (out / "test").glob("*/*.png")}
    assert left
    assert not kept & left
    assert all(len(list(folder.iterdir())) <= 9 for folder in (out / "test").iterdir())
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOP / "benchmarks" / "left_out.py"), run_name="__main__")
