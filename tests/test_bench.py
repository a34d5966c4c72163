"""Grids: everything once, nothing twice, nothing lost, and tables that are what the runs say."""

import csv
import gc
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
import yaml
from conftest import one_line_error, unclocked
from PIL import Image

from ltdd_core import Interrupted
from ltdd_core.bench import predictions
from ltdd_core.bench.grid import read_grid
from ltdd_core.bench.table import METRICS, markdown, table_of
from ltdd_core.bench.work import CLAIMS, work_on
from ltdd_core.locking import locked
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_core.storage import digest_of, load_tensors, save_tensors

COMMON = {
    "iterations": 3,
    "data": {"n_max": 30},
    "network": {"width": 8, "depth": 2},
    "training": {"original": {"epochs": 2}, "distilled": {"epochs": 2}},
    "compute": {"checkpoint_every": 1, "threads": 1},
}
NOISE = {"method": "dm", "label": "noise", "init": "noise"}
TINY = {
    "title": "Tiny",
    "common": COMMON,
    "data": ["digits-lt"],
    "imbalance": [20],
    "ipc": [2],
    "methods": ["dm", NOISE],
    "seeds": [0, 1],
}
PAPER = {"targets": "groups", "stage1": "linear", "within": "separate", "routing": "hard"}
SOFT = {**PAPER, "routing": "soft"}
LINES = [
    {"name": "original, one stage", "recipe": {"name": "direct", "data": "original"}},
    {"name": "{method}, one stage"},
    {"name": "original + original", "plugins": "twostage", "recipe": {"stage2": "original"}, "head": SOFT},
    {"name": "original + {method}", "plugins": "twostage", "head": SOFT},
    {"name": "original + {method}, hard", "plugins": "twostage", "head": PAPER},
]


def write(path, **changes):
    """A grid file: the tiny one, changed; None takes a key out."""
    tree = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
    Path(path).write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def table(folder):
    return json.loads((Path(folder) / "table.json").read_text())["rows"]


def by_name(folder):
    return {row["line"]: row for row in table(folder)}


def reports(folder):
    """The reports of all runs, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("runs/*/report.json"))]


def snapshot(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def contents(folder):
    """What must not depend on how often a grid was interrupted: all but the seconds of training."""
    found = {path: path.read_bytes() for path in Path(folder).glob("runs/*/distilled.safetensors")}
    for path in Path(folder).glob("lines/*"):
        tensors, facts = load_tensors(path)
        found[path] = digest_of(tensors), unclocked(facts)
    for path in Path(folder).glob("table.json"):
        found[path] = unclocked(json.loads(path.read_text()))
    return {str(path.relative_to(folder)): content for path, content in found.items()}


def no_nan(value):
    raise AssertionError(f"{value} is not JSON")


# ---- tables --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished grid with all lines, to be read and not to be written."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    folder = tmp_path_factory.mktemp("bench")
    published = {"line": "original + noise", "accuracy": 40.4, "std": 20.1, "source": "Somebody 2024, Table 2"}
    published["per_class"] = [float(value) for value in range(10)]
    grid = write(folder / "grid.yaml", lines=LINES, published=[published])
    result = CliRunner().invoke(cli, ["bench", str(grid), "--out", str(folder / "out"), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=no_nan)
    assert document == json.loads((folder / "out" / "table.json").read_text())
    return folder / "out", result.stderr


def test_mean_and_deviation_are_those_of_the_reports(whole):
    folder, _ = whole
    rows = by_name(folder)
    runs = {name: [] for name in ("dm", "noise")}
    for path in sorted(folder.glob("runs/*")):
        init = yaml.safe_load((path / "config.yaml").read_text())["init"]
        report = json.loads((path / "report.json").read_text())
        runs["noise" if init == "noise" else "dm"].append(report["rows"])
    assert [len(own) for own in runs.values()] == [2, 2]
    for line, own in (
        ("dm, one stage", [rows[1] for rows in runs["dm"]]),
        ("noise, one stage", [rows[1] for rows in runs["noise"]]),
        ("original, one stage", [rows[0] for rows in runs["noise"]]),
    ):
        for metric in set(METRICS) - {"group_accuracy"}:
            values = [row[metric] for row in own]
            if values[0] is None:
                assert rows[line][metric] is None
                continue
            assert math.isclose(rows[line][metric], statistics.mean(values), abs_tol=1e-9)
            assert math.isclose(rows[line]["deviation"][metric], statistics.pstdev(values), abs_tol=1e-9)
        for label in range(10):
            values = [row["per_class"][label] for row in own]
            assert math.isclose(rows[line]["per_class"][label], statistics.mean(values), abs_tol=1e-9)


def test_lines_stand_beside_each_other_and_originals_once(whole):
    folder, log = whole
    assert list(by_name(folder)) == [
        *("original, one stage", "dm, one stage", "noise, one stage", "original + original"),
        *("original + dm", "original + noise", "original + dm, hard", "original + noise, hard"),
    ]
    rows = by_name(folder)
    assert rows["original, one stage"]["method"] is None
    assert rows["original, one stage"]["ipc"] is None
    assert rows["original + dm"]["method"] == "dm"
    assert [row["seeds"] for row in rows.values()] == [[0, 1]] * 8
    assert all(row["group_accuracy"] is not None for row in rows.values())
    # Each seed trains the plain, the group and the two class networks of the original set once, for all lines.
    trained = re.findall(r"training a network: (.+) on the (\w+) set", log)
    assert sum(on == "original" for _, on in trained) == 2 * 4
    assert sum(on == "distilled" for _, on in trained) == 2 * 2 * 3


def test_a_run_of_a_grid_trains_no_classifier_of_the_original_images_that_the_grid_does_not_ask_for(ltdd, tmp_path):
    grid = write(tmp_path / "grid.yaml", lines=[{"name": "{method}"}])
    result = ltdd("bench", grid, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = [[row["name"] for row in report["rows"]] for report in reports(tmp_path / "out")]
    assert found == [["distilled, direct"]] * len(found) != []
    assert "on the distilled set" in result.stderr
    assert "on the original set" not in result.stderr


def test_a_line_is_the_one_that_distill_gives(whole, ltdd, tmp_path):
    """What lines share does not change them: the two-stage line of a plain run is the same to the last bit."""
    folder, _ = whole
    options = ["--iterations", 3, "--ipc", 2, "--n-max", 30, "--imbalance", 20, "--threads", 1, "--seed", 1]
    options += ["--set", "network.width=8", "--set", "network.depth=2"]
    options += ["--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2"]
    result = ltdd(
        *("distill", "--method", "dm", "--preset", "twostage-paper", "--set", "head.routing=soft"),
        *(*options, "--out", tmp_path / "a", "--json"),
    )
    assert result.exit_code == 0, result.output
    direct, _, distilled, twostage = json.loads(result.stdout)["rows"]
    rows = by_name(folder)
    for line, one in (("original, one stage", direct), ("dm, one stage", distilled), ("original + dm", twostage)):
        (mine,) = (each for each in rows[line]["each"] if each["seed"] == 1)
        assert {key: mine[key] for key in METRICS} == {key: one[key] for key in METRICS}
        assert mine["per_class"] == one["per_class"]


def test_markdown_csv_and_json_agree(whole):
    folder, _ = whole
    rows = table(folder)
    with (folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    text = (folder / "table.md").read_text()
    main = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    heading, shown = main[0], {line[0]: line for line in main[1 : len(rows) + 1]}
    assert [line["line"] for line in lines] == [row["line"] for row in rows] == list(shown)
    for row, line in zip(rows, lines, strict=True):
        cells = dict(zip(heading, shown[row["line"]], strict=False))
        for key, column in (("accuracy", "accuracy"), ("std", "std"), ("group_accuracy", "group")):
            assert float(line[key]) == round(row[key], 4)
            assert float(line[f"{key} deviation"]) == round(row["deviation"][key], 4)
            assert cells[column] == f"{row[key]:.1f} ± {row['deviation'][key]:.1f}"
        classes = [float(line[f"class {name}"]) for name in row["classes"]]
        assert classes == [round(value, 4) for value in row["per_class"]]
    (known,) = (row for row in rows if row["published"])
    assert known["line"] == "original + noise"
    (line,) = (line for line in lines if line["published accuracy"])
    assert (line["line"], line["published accuracy"], line["class 3 published"]) == ("original + noise", "40.4", "3.0")
    assert "| 40.4 \\[1\\] | 20.1 \\[1\\] |" in text
    assert "\\[1\\] Somebody 2024, Table 2" in text
    assert "| *published* \\[1\\] | *0.0* | *1.0* |" in text


def test_names_and_reasons_cannot_break_the_markdown(whole):
    folder, _ = whole
    document = json.loads((folder / "table.json").read_text())
    document["title"] = "two\nlines"
    for row in document["rows"]:
        row["classes"][0] = "a|b"
        row["missing"] = [{"seed": 7, "reason": "first\nsecond"}]
        if row["published"]:
            row["published"]["source"] = "Somebody\n2024 | Table 2"
    blocks = markdown(document).split("\n\n")
    assert blocks[0] == "# two lines"
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert [len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) for table in tables] == [1, 1]
    assert "\\[1\\] Somebody 2024 \\| Table 2" in blocks
    assert "- original + dm, seed 7: first second" in blocks[-1].splitlines()


def predictions_in_memory(shape):
    gc.collect()
    return sum(type(thing) is torch.Tensor and thing.shape == shape for thing in gc.get_objects())


def test_tables_score_each_classifier_once_and_keep_no_predictions_in_memory(whole, monkeypatch):
    folder, _ = whole
    shape = load_tensors(next(folder.glob("lines/*")))[0]["log_probabilities"].shape
    scored, score, before = [], predictions.row, predictions_in_memory(shape)
    monkeypatch.setattr(predictions, "row", lambda *given, **how: scored.append(1) or score(*given, **how))
    grid, kept = read_grid(folder.parent / "grid.yaml", installed()), predictions.StoredPredictions(folder)
    first, second = (table_of(grid, kept, {}) for _ in range(2))
    assert first == second == json.loads((folder / "table.json").read_text())
    assert len(scored) == len({line.file for cell in grid.cells for line in cell.lines})
    assert predictions_in_memory(shape) == before


def test_the_plugin_axis_shares_runs(ltdd):
    write("grid.yaml", plugins=["none", "twostage"], methods=["dm"], seeds=[0])
    result = ltdd("bench", "grid.yaml", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(list(Path("runs/bench-grid/runs").iterdir())) == 1
    rows = table("runs/bench-grid")
    assert [(row["line"], row["plugins"]) for row in rows] == [
        ("original, direct", "none"),
        ("distilled, direct", "none"),
        ("original, balanced softmax", "twostage"),
        ("two-stage, original + distilled", "twostage"),
    ]
    assert rows[0]["deviation"]["accuracy"] == 0


def test_heads_of_other_options_do_not_share_what_differs(ltdd):
    two, three = LINES[3], {**LINES[3], "name": "three groups", "head": {"groups": 3}}
    whole = {"methods": ["dm"], "seeds": [0]}
    for name, lines in (("both", [two, three]), ("two", [two]), ("three", [three])):
        assert ltdd("bench", write(f"{name}.yaml", lines=lines, **whole), "--quiet").exit_code == 0
    both, alone = contents("runs/bench-both"), {**contents("runs/bench-two"), **contents("runs/bench-three")}
    lines = [name for name in both if name.startswith("lines/")]
    assert len([name for name in lines if "twostage" in name]) == 2
    assert {name: both[name] for name in lines} == {name: alone[name] for name in lines}


def test_losses_with_other_options_do_not_share_what_differs(ltdd):
    original = {"recipe": {"name": "direct", "data": "original"}}
    one, two = (
        {"name": f"tau {tau}", **original, "head": {"name": "logit-adjustment", "tau": tau}} for tau in (0.5, 2.0)
    )
    whole = {"methods": ["dm"], "seeds": [0]}
    for name, lines in (("both", [one, two]), ("one", [one]), ("two", [two])):
        assert ltdd("bench", write(f"{name}.yaml", lines=lines, **whole), "--quiet").exit_code == 0
    both, alone = contents("runs/bench-both"), {**contents("runs/bench-one"), **contents("runs/bench-two")}
    lines = [name for name in both if name.startswith("lines/") and "logit-adjustment" in name]
    assert len(lines) == 2
    assert both[lines[0]] != both[lines[1]]
    assert {name: both[name] for name in lines} == {name: alone[name] for name in lines}


def test_stages_of_the_same_head_are_trained_once_for_all_methods(ltdd):
    line = {"name": "original + {method}", "plugins": "twostage", "head": {**SOFT, "stage1": "balanced-softmax"}}
    result = ltdd("bench", write("grid.yaml", lines=[line], seeds=[0]))
    assert result.exit_code == 0, result.output
    assert result.stderr.count("groups: balanced softmax on the original set") == 1


def test_heads_that_differ_in_how_stages_are_pooled_share_the_stages(ltdd):
    stages = {"targets": "classes", "stage1": "balanced-softmax", "within": "classes", "taught": 0.5}
    lines = [
        {"name": f"a {a}, b {b}", "plugins": "ablations", "head": {**stages, "a": a, "b": b}}
        for a, b in ((0, 0), (0.5, 0.5), (1, 0.5))
    ]
    alone = {"name": "alone", "recipe": {"name": "direct", "data": "original"}, "head": "balanced-softmax"}
    result = ltdd("bench", write("grid.yaml", methods=["dm"], lines=[*lines, alone], seeds=[0]), "--out", "out")
    assert result.exit_code == 0, result.output
    trained = re.findall(r"training a network: (.+)", result.stderr)
    assert trained.count("balanced softmax on the original set") == 1
    assert trained.count("classes, taught on the distilled set") == 1
    assert len({row["accuracy"] for row in by_name("out").values()}) > 1


def test_what_a_line_changes_does_not_distil_again(ltdd):
    write("grid.yaml", methods=["dm"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    before = snapshot("out/runs")
    longer = {"name": "longer", "training": {"distilled": {"epochs": 3}}, "network": {"name": "mlp"}}
    write("grid.yaml", methods=["dm"], seeds=[0], lines=[longer])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    assert snapshot("out/runs") == before
    assert list(by_name("out")) == ["longer"]


# ---- nothing twice, nothing lost -----------------------------------------------------------------


def test_a_second_call_runs_nothing(ltdd):
    write("grid.yaml", methods=["dm"], lines=LINES)
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    before = snapshot("out")
    again = ltdd("bench", "grid.yaml", "--out", "out")
    assert again.exit_code == 0
    assert "training" not in again.stderr
    assert snapshot("out") == before


def test_a_new_seed_leaves_the_old_ones_alone(ltdd):
    write("grid.yaml", methods=["dm"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    before = snapshot("out/runs") | snapshot("out/lines")
    result = ltdd("bench", write("grid.yaml", methods=["dm"], seeds=[0, 1]), "--out", "out")
    assert "run 2/2: dm, digits-lt, IF 20, IPC 2, seed 1" in result.stderr
    assert before.items() <= (snapshot("out/runs") | snapshot("out/lines")).items()
    assert by_name("out")["distilled, direct"]["seeds"] == [0, 1]


def start(grid, out):
    return forked.start("bench", grid, "--out", out, errors=f"{out}.log")


def kill_when(process, happened):
    while not happened() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_kill_9_loses_nothing(ltdd, tmp_path):
    grid = write(tmp_path / "grid.yaml", lines=LINES[2:4], seeds=[0], common={**COMMON, "iterations": 12})
    assert ltdd("bench", grid, "--out", tmp_path / "whole").exit_code == 0
    cut = tmp_path / "cut"
    kill_when(start(grid, cut), lambda: list(cut.glob("runs/*/checkpoint.safetensors")))
    kept = snapshot(cut / "lines")  # those of the original set
    assert len(kept) == 1
    kill_when(start(grid, cut), lambda: len(list(cut.glob("runs/*"))) == 2)
    result = ltdd("bench", grid, "--out", cut)
    assert result.exit_code == 0, result.output
    assert contents(cut) == contents(tmp_path / "whole")
    assert kept.items() <= snapshot(cut / "lines").items()
    assert "original + dm" not in result.stderr  # done before the second kill


class SignalAtStep(Display):
    def step(self, step, metrics):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class SignalInTraining(Display):
    def training(self, what):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("display", [SignalAtStep(), SignalInTraining()], ids=["a step", "training"])
def test_a_signal_stops_and_the_same_call_goes_on(tmp_path, display):
    catalog = installed()
    grid = read_grid(write(tmp_path / "grid.yaml", methods=["dm"], seeds=[0]), catalog)
    with pytest.raises(Interrupted):
        work_on(grid, tmp_path / "cut", catalog=catalog, display=display)
    for out in ("cut", "whole"):
        assert work_on(grid, tmp_path / out, catalog=catalog, display=Display()) == {}
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def runs_begun(out):
    """The cells that a process has begun, from its log."""
    return re.findall(r"^run \d/\d: (.*?seed \d)", Path(f"{out}.log").read_text(), re.MULTILINE)


def test_two_processes_share_the_work_of_a_grid(ltdd, tmp_path):
    grid = write(tmp_path / "grid.yaml", seeds=[0, 1])
    processes = [start(grid, tmp_path / "out") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    begun = runs_begun(tmp_path / "out")
    assert len(begun) == len(set(begun)) == 4
    assert ltdd("bench", grid, "--out", tmp_path / "whole").exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_jobs_share_the_runs_and_name_what_failed(ltdd, tmp_path):
    bad = {"method": "dm", "label": "diverges", "training": {"distilled": {"lr": 1e30}}}
    grid = write(tmp_path / "grid.yaml", methods=["dm", bad], seeds=[0, 1])
    result = ltdd("bench", grid, "--out", tmp_path / "out", "--jobs", "2")
    assert result.exit_code == 1
    begun = re.findall(r"^run \d/4: (.*?seed \d)", result.stderr, re.MULTILINE)
    assert len(begun) == len(set(begun)) == 4  # what fails is not tried by the other, too
    alone = ltdd("bench", grid, "--out", tmp_path / "alone")
    assert alone.stderr.splitlines()[-1].replace("/alone/", "/out/") == result.stderr.splitlines()[-1]
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_process_takes_the_run_of_another_that_was_killed(ltdd, tmp_path):
    grid = write(tmp_path / "grid.yaml", methods=["dm"], seeds=[0, 1], common={**COMMON, "iterations": 12})
    out = tmp_path / "out"
    first = start(grid, out)
    while not list(out.glob("runs/*/checkpoint.safetensors")):
        time.sleep(0.001)
    second = start(grid, out)
    kill_when(first, lambda: len(runs_begun(out)) == 2)
    assert second.wait() == 0
    assert len(runs_begun(out)) == 3  # the run of the first was begun twice
    assert ltdd("bench", grid, "--out", tmp_path / "whole").exit_code == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_a_process_waits_for_the_last_run_of_another_and_can_be_stopped(tmp_path):
    catalog, out, said = installed(), tmp_path / "out", []
    grid = read_grid(write(tmp_path / "grid.yaml", methods=["dm"], seeds=[0]), catalog)
    (out / CLAIMS).mkdir(parents=True)

    class Stopping(Display):
        def note(self, text):
            said.append(text)
            os.kill(os.getpid(), signal.SIGTERM)

    elsewhere = locked(out / CLAIMS / grid.cells[0].folder, wait=False)
    with elsewhere, pytest.raises(Interrupted):
        work_on(grid, out, catalog=catalog, display=Stopping())
    assert said == ["waiting for other processes, which work on the last run"]


def test_list_and_only_table(ltdd):
    write("grid.yaml", methods=["dm"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    write("grid.yaml", methods=["dm"])
    before = snapshot("out")
    listed = ltdd("bench", "grid.yaml", "--out", "out", "--list")
    assert listed.stdout.splitlines() == [
        "finished   dm, digits-lt, IF 20, IPC 2, seed 0",
        "not begun  dm, digits-lt, IF 20, IPC 2, seed 1",
        "1 of 2 cells are finished, in 2 runs",
    ]
    cells = json.loads(ltdd("bench", "grid.yaml", "--out", "out", "--list", "--json").stdout)
    assert [cell["state"] for cell in cells] == ["finished", "not begun"]
    assert snapshot("out") == before
    assert ltdd("bench", "grid.yaml", "--out", "out", "--only-table").exit_code == 0
    assert set(snapshot("out")) == set(before)
    row = by_name("out")["distilled, direct"]
    assert (row["seeds"], row["missing"]) == ([0], [{"seed": 1, "reason": "not run yet"}])
    assert "- distilled, direct, seed 1: not run yet" in Path("out/table.md").read_text()
    assert "there is no such folder" in one_line_error(ltdd("bench", "grid.yaml", "--out", "no", "--only-table"))


# ---- what goes wrong -----------------------------------------------------------------------------


BAD_MATCHER = """
    from ltdd_core import ClassMatcher, hookimpl

    class Bad(ClassMatcher):
        \"\"\"Raise.\"\"\"
        def class_loss(self, network, real, synthetic):
            raise {error}

    @hookimpl
    def ltdd_register_matchers(register):
        register("bad", Bad)
"""


def test_a_bug_in_a_plugin_costs_its_own_cells_only_and_the_plugin_is_named(ltdd, site):
    site.install("bad", BAD_MATCHER.format(error="ValueError('a bug')"))
    write("grid.yaml", methods=["bad", "dm"], seeds=[0])
    result = ltdd("bench", "grid.yaml", "--out", "out")
    assert result.exit_code == 1
    assert "ValueError: a bug" in result.stderr
    assert "Traceback" in result.stderr  # for the author of the plugin
    assert result.stderr.splitlines()[-1].startswith("Error: 1 of the runs and classifiers failed")
    reasons = {row["method"]: [one["reason"] for one in row["missing"]] for row in table("out")}
    assert reasons["bad"] == ["plugin 'bad' (stranger-bad 1.5) failed: ValueError: a bug"]
    assert reasons["dm"] == []


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)"])
def test_what_is_no_failure_ends_a_grid(error, ltdd, site):
    site.install("bad", BAD_MATCHER.format(error=error))
    write("grid.yaml", methods=["bad", "dm"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == (3 if "3" in error else 130)
    assert not list(Path("out/runs").glob("*-dm-*"))


def test_memory_that_runs_out_in_one_cell_is_noted_with_advice(ltdd, site):
    site.install("bad", BAD_MATCHER.format(error='RuntimeError("DefaultCPUAllocator: can\'t allocate memory")'))
    write("grid.yaml", methods=["bad", "dm"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 1
    reasons = {row["method"]: [one["reason"] for one in row["missing"]] for row in table("out")}
    assert reasons["bad"][0].startswith("out of memory: try --set compute.chunk=N")
    assert reasons["dm"] == []


def test_one_damaged_run_costs_its_own_cell_only(ltdd):
    write("grid.yaml", methods=["dm", "coreset"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    (bad,) = Path("out/runs").glob("*-coreset-*")
    (other,) = Path("out/runs").glob("*-dm-*")
    shutil.rmtree(other)
    (bad / "config.yaml").write_text("- no: configuration\n")
    cells = json.loads(ltdd("bench", "grid.yaml", "--out", "out", "--list", "--json").stdout)
    states = {cell["cell"].split(",")[0]: cell["state"] for cell in cells}
    reason = "not plain YAML: line 1: a key must be a name, not False: put it in quotes."
    assert states == {"dm": "begun", "coreset": f"damaged: {bad}/config.yaml: {reason}"}
    assert ltdd("bench", "grid.yaml", "--out", "out", "--only-table").exit_code == 0
    result = ltdd("bench", "grid.yaml", "--out", "out", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert (other / "report.json").exists()


def test_one_damaged_file_of_a_classifier_costs_its_own_row_only(ltdd):
    write("grid.yaml", methods=["dm", "coreset"], seeds=[0])
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    (bad,) = Path("out/lines").glob("*-coreset-*")
    bad.write_bytes(b"nothing")
    for options in ([], ["--only-table"]):
        result = ltdd("bench", "grid.yaml", "--out", "out", "--quiet", *options)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        reasons = {row["method"]: [one["reason"] for one in row["missing"]] for row in table("out")}
        assert reasons["dm"] == []
        assert f"{bad}: damaged" in reasons["coreset"][0]
        assert "Delete the file" in reasons["coreset"][0]
        assert result.stderr.endswith(
            "the same command tries them again, once you have deleted the files named there.\n"
        )
    listed = ltdd("bench", "grid.yaml", "--out", "out", "--list").stdout.splitlines()
    assert listed[0] == "finished   dm, digits-lt, IF 20, IPC 2, seed 0"
    assert listed[1].startswith(f"damaged: {bad}: damaged")
    assert listed[2] == "1 of 2 cells are finished, in 2 runs"
    bad.unlink()
    assert ltdd("bench", "grid.yaml", "--out", "out", "--quiet").exit_code == 0


def image_folder(root, shift=0):
    for part in ("train", "test"):
        for name, level in (("dark", 40), ("light", 200)):
            folder = Path(root) / part / name
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("L", (8, 8), level + index + shift).save(folder / f"{index}.png")
    return {"name": "folder", "root": str(root)}


IMAGES = {"imbalance": None, "methods": ["dm"], "common": {key: COMMON[key] for key in COMMON if key != "data"}}


def reasons(folder):
    return {entry["reason"] for row in table(folder) for entry in row["missing"]}


def test_images_that_have_changed_are_refused_so_that_no_table_mixes_them(ltdd):
    before, moved, after = image_folder("before"), image_folder("moved"), image_folder("after", shift=9)
    assert ltdd("bench", write("a.yaml", data=[before], seeds=[0], **IMAGES), "--out", "out").exit_code == 0
    files = sorted(Path("out/lines").iterdir())
    assert ltdd("bench", write("b.yaml", data=[moved], seeds=[0, 1], **IMAGES), "--out", "out").exit_code == 0
    kept = snapshot("out/runs") | snapshot("out/lines")

    result = ltdd("bench", write("c.yaml", data=[after], seeds=[0, 1, 2], **IMAGES), "--out", "out", "--quiet")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    (reason,) = reasons("out")
    assert reason == (
        f"{files[1]} is of other images: the data have changed since. "
        "Delete the file, and the classifiers are trained again."
    )
    assert [row["seeds"] for row in table("out")] == [[0, 1], [0, 1]]
    assert snapshot("out/runs") | snapshot("out/lines") == kept

    shutil.rmtree("out/lines")
    assert ltdd("bench", "c.yaml", "--out", "out", "--quiet").exit_code == 1
    runs = sorted(Path("out/runs").iterdir())
    advice = "the data have changed since it began. Delete the folder, and the run begins again."
    assert reasons("out") == {f"{run} holds a run on other images: {advice}" for run in runs[:2]}
    for run in runs[:2]:
        shutil.rmtree(run)
    assert ltdd("bench", "c.yaml", "--out", "out", "--quiet").exit_code == 0


def test_predictions_of_a_version_that_kept_no_digest_of_the_images_are_still_read(ltdd):
    grid = write("grid.yaml", data=[image_folder("images")], seeds=[0], **IMAGES)
    assert ltdd("bench", grid, "--out", "out").exit_code == 0
    for path in Path("out/lines").iterdir():
        tensors, facts = load_tensors(path)
        assert facts.pop("data")
        save_tensors(path, tensors, facts)
    write("grid.yaml", data=[image_folder("other", shift=9)], seeds=[0, 1], **IMAGES)
    assert ltdd("bench", "grid.yaml", "--out", "out").exit_code == 0
    assert [row["seeds"] for row in table("out")] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("files", [6, 8])
def test_too_few_open_files_are_no_traceback(files, tmp_path):
    write(tmp_path / "grid.yaml", methods=["dm"], seeds=[0])
    ltdd = Path(sys.executable).with_name("ltdd")
    command = f"ulimit -n {files}; exec {ltdd} bench grid.yaml --out out --quiet"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")


def test_a_failing_cell_costs_the_others_nothing(ltdd):
    diverging = {"method": "dm", "label": "diverging", "matcher": {"lr_img": 1.0e38}, "iterations": 40}
    nowhere = {"name": "folder", "root": "nowhere", "image_size": 8}
    write("grid.yaml", data=["digits-lt", nowhere], methods=[diverging, "dm"], seeds=[0], common=COMMON)
    result = ltdd("bench", "grid.yaml", "--out", "out", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    rows = {(row["data"], row["method"], row["line"]): row for row in table("out")}
    assert rows["digits-lt", "dm", "distilled, direct"]["seeds"] == [0]
    assert rows["digits-lt", None, "original, direct"]["seeds"] == [0]
    (failed,) = rows["digits-lt", "diverging", "distilled, direct"]["missing"]
    assert "try a smaller learning rate" in failed["reason"]
    (failed,) = rows["folder", "dm", "distilled, direct"]["missing"]
    assert "nowhere" in failed["reason"]
    text = Path("out/table.md").read_text()
    assert "## Not finished" in text
    assert "n/a" in text

    before = snapshot("out/lines")
    again = ltdd("bench", "grid.yaml", "--out", "out")
    assert again.exit_code == 1
    assert "failed: " in again.stderr
    assert snapshot("out/lines") == before
