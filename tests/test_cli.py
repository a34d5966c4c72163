"""Whole commands: what they print and where, and how they end."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import torch
import yaml
from conftest import MEAN_MATCHER, TINY, one_line_error, unclocked
from safetensors.torch import save_file

from ltdd_core import Interrupted, load_distilled, save_distilled
from ltdd_core.cli import cli
from ltdd_core.cli.tables import duration
from ltdd_core.evaluation import repeats
from ltdd_core.evaluation.predictions import load_predictions
from ltdd_core.plugging.catalog import KINDS, installed

DISTILL = ("distill", "--method", "dm", *TINY)
ROWS = ["original, direct", "original, balanced softmax", "distilled, direct", "two-stage, original + distilled"]
ROW = {
    *("name", "images", "accuracy", "std", "many", "medium", "few", "head", "middle", "tail", "worst"),
    *("harmonic_mean", "geometric_mean", "group_accuracy", "calibration_error", "per_class", "confusion"),
    *("images_seen", "training_seconds", "multiply_adds"),
}
SAMPLERS = [
    *("class-balanced", "dream", "effective-number", "el2n", "forgetting", "graph-cut", "herding", "instance"),
    *("k-center", "k-means", "progressive", "random", "square-root"),
]
CATALOG = installed()
COMPONENTS = [(kind, name) for kind in KINDS if kind != "preset" for name in CATALOG.names(kind)]

# ---- distill -------------------------------------------------------------------------------------


def test_distill_prints_a_table_on_stdout_and_plain_progress_lines_on_stderr(ltdd, tmp_path):
    result = ltdd(*DISTILL, "--plugin", "twostage")
    assert result.exit_code == 0, result.output
    for name in ROWS:
        assert name in result.stdout
    for heading in ("images", "acc.", "std", "many", "med.", "few", "worst", "harm.", "group"):
        assert heading in result.stdout
    assert "iteration" not in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("iteration")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert re.fullmatch(r"iteration 3/3  loss \S+  [0-9.]+ (it/s|s/it)  0:00:00 left", lines[-1])
    assert "\x1b" not in result.output
    run = tmp_path / "here" / "runs" / "digits-lt-dm-seed0-1"
    assert f"the run is in {run.relative_to(tmp_path / 'here')}" in result.stderr
    assert (run / "distilled.png").exists()


def test_distill_json_is_one_document_on_stdout(ltdd, tmp_path):
    result = ltdd(*DISTILL, "--plugin", "twostage", "--json")
    document = json.loads(result.stdout)
    assert set(document) == {"run", "method", "data", "seconds", "ipc", "kept", "labels", "groups", "rows", "saving"}
    assert (tmp_path / "here" / document["run"]).is_dir()
    assert document["method"] == "dm"
    assert document["data"]["counts"][0] == 124
    assert [row["name"] for row in document["rows"]] == ROWS
    for row in document["rows"]:
        assert set(row) == ROW | {"accuracy_interval", "behind_best"}
        assert len(row["per_class"]) == 10
        assert 0 <= row["accuracy"] <= 100
    assert document["rows"][2]["images"] == 20
    assert "iteration 3/3" in result.stderr


def test_what_a_plugin_prints_is_no_part_of_the_document(ltdd, site):
    site.install("mean", MEAN_MATCHER.replace("return (", "print('chatter'); return ("))
    result = ltdd("distill", "--method", "mean", *TINY, "--json")
    assert json.loads(result.stdout)["method"] == "mean"
    assert "chatter" in result.stderr


def test_without_a_partition_group_accuracy_is_null(ltdd):
    rows = json.loads(ltdd(*DISTILL, "--json").stdout)["rows"]
    assert [(row["name"], row["group_accuracy"]) for row in rows] == [(name, None) for name in (ROWS[0], ROWS[2])]


def test_quiet_says_nothing_but_the_result_and_verbose_says_more(ltdd):
    quiet = ltdd(*DISTILL, "--out", "run", "--quiet")
    verbose = ltdd(*DISTILL, "--out", "run", "--resume", "--verbose")  # of the same run, whose seconds are the same
    assert quiet.exit_code == verbose.exit_code == 0
    assert quiet.stderr == ""
    assert quiet.stdout == verbose.stdout != ""
    assert re.search(r"^distilled, direct: accuracy [0-9.]+ %, std [0-9.]+$", verbose.stderr, re.MULTILINE)


def test_only_what_scores_a_run_takes_verbose(ltdd, finished):
    for command in (("train",), ("evaluate", finished)):
        assert "--verbose" in one_line_error(ltdd(*command, "--verbose"))


def test_json_is_explained_in_the_same_words_everywhere():
    def options(group):
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            if isinstance(command, click.Group):
                yield from options(command)
            yield from ((name, option) for option in command.params if "--json" in option.opts)

    found = dict(options(cli))
    assert {"distill", "bench", "show", "grouping", "compare", "plugins"} <= found.keys()
    assert {option.help for option in found.values()} == {"One JSON document on stdout, everything else on stderr."}


def test_a_time_of_a_minute_or_more_is_in_hours():
    assert [duration(seconds) for seconds in (0.4, 59.4, 59.7, 36000)] == ["0 s", "59 s", "0:01:00", "10:00:00"]


def test_resume_with_a_preset_needs_the_same_line(ltdd):
    assert ltdd(*DISTILL, "--quiet", "--preset", "dm-paper", "--out", "a").exit_code == 0
    assert ltdd(*DISTILL, "--quiet", "--preset", "dm-paper", "--out", "a", "--resume").exit_code == 0
    assert ltdd("distill", "--quiet", "--out", "a", "--resume").exit_code == 0
    message = one_line_error(ltdd("distill", "--quiet", "--preset", "dm-paper", "--out", "a", "--resume"))
    assert "a holds a run of another configuration" in message


def test_runs_are_numbered_and_a_run_that_is_there_is_not_overwritten(ltdd, tmp_path):
    for _ in range(2):
        assert ltdd(*DISTILL, "--quiet").exit_code == 0
    runs = tmp_path / "here" / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["digits-lt-dm-seed0-1", "digits-lt-dm-seed0-2"]
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    message = one_line_error(ltdd(*DISTILL, "--quiet", "--out", "runs/digits-lt-dm-seed0-1"))
    assert "runs/digits-lt-dm-seed0-1 holds a run already: resume it with --resume" in message
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_resume_needs_only_the_folder_and_refuses_another_configuration(ltdd, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    again = ltdd("distill", "--out", copy, "--resume", "--json")
    assert again.exit_code == 0, again.output
    stored = json.loads((finished / "report.json").read_text())["rows"]
    assert json.loads(again.stdout)["rows"] == stored
    message = one_line_error(ltdd("distill", "--out", copy, "--resume", "--ipc", "3", "--quiet"))
    assert "ipc was 2 and is now 3" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "dmm"), "--method: unknown matcher 'dmm'. Did you mean 'dm'?"),
        (("--plugin", "twostag"), "unknown plugin 'twostag'. Did you mean 'twostage'?"),
        (("--ipcc", "3"), "Did you mean '--ipc'?"),
        (("--ipc",), "Option '--ipc' requires an argument."),
        (("surplus",), "Got unexpected extra argument (surplus). See ltdd distill --help"),
        (("--data", "digit-lt"), "--data: unknown data source 'digit-lt'. Did you mean 'digits-lt'?"),
        (("--head", "twostages"), "--head: unknown head 'twostages'. Did you mean 'twostage'?"),
        (("--recipe", "hierarchicl"), "--recipe: unknown recipe 'hierarchicl'. Did you mean 'hierarchical'?"),
        (("--recipe", "hierarchical"), "recipe 'hierarchical' trains two stages but the head has 1"),
        (("--data", "folder"), "data source 'folder' needs --root"),
        (("--data", "folder", "--root", "nowhere"), "nowhere: there is no such folder"),
        (("--data", "npz", "--root", "nowhere.npz"), "nowhere.npz"),
        (("--data", "cifar10-lt", "--root", "nowhere"), "nowhere"),
    ],
    ids=" ".join,
)
def test_a_wrong_input_is_one_line_and_nothing_is_written(options, message, ltdd, tmp_path):
    method = () if "--method" in options else ("--method", "dm")
    assert message in one_line_error(ltdd("distill", *method, *options))
    assert list((tmp_path / "here").iterdir()) == []


def test_an_out_that_is_a_file_is_refused(ltdd, tmp_path):
    (tmp_path / "here" / "file").write_text("mine")
    assert "file is a file; a run needs a folder" in one_line_error(ltdd(*DISTILL, "--quiet", "--out", "file"))
    assert (tmp_path / "here" / "file").read_text() == "mine"


def test_the_head_and_recipe_of_two_stages_go_together_without_the_plugin(ltdd):
    result = ltdd(*DISTILL, "--head", "twostage", "--recipe", "hierarchical", "--json")
    assert [row["name"] for row in json.loads(result.stdout)["rows"]] == ROWS


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line_and_exit_code_1(ltdd, site):
    site.install("mean", MEAN_MATCHER.replace("return (", "return float('nan') * ("))
    result = ltdd("distill", "--method", "mean", *TINY, "--quiet")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.fullmatch(r"Error: the loss of step 0 is nan; .*\n", result.stderr)


LARGE_NETWORK = """
    from ltdd_core import Network, hookimpl

    class Large(Network):
        \"\"\"Too large.\"\"\"
        def __init__(self, shape, outputs, options):
            raise ERROR
        def embed(self, images):
            return images

    @hookimpl
    def ltdd_register_networks(register):
        register("large", Large)
"""


@pytest.mark.parametrize("error", ["MemoryError", 'RuntimeError("DefaultCPUAllocator: can\'t allocate memory")'])
@pytest.mark.parametrize("command", ["distill", "train", "evaluate"])
def test_memory_that_runs_out_on_a_cpu_is_one_line_with_advice(command, error, ltdd, site, finished):
    site.install("large", LARGE_NETWORK.replace("ERROR", error))
    more = {"distill": ("--method", "dm"), "train": (), "evaluate": (finished,)}[command]
    result = ltdd(command, *more, "--quiet", "--network", "large")
    assert result.exit_code == 1, result.output
    assert re.fullmatch(r"Error: out of memory: try --set compute.chunk=N .*\n", result.stderr)


def test_a_bug_shows_its_traceback_and_exit_code_1(site, tmp_path, monkeypatch):
    site.install("mean", MEAN_MATCHER.replace("return (", "raise KeyError('a bug'); return ("))
    monkeypatch.setenv("PYTHONPATH", str(site.folder))
    command = [sys.executable, "-c", "from ltdd_core.cli import main; main()", "distill", "--method", "mean", *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.rstrip().endswith("KeyError: 'a bug'")


# ---- train ---------------------------------------------------------------------------------------

TRAIN = ("train", "--set", "network.width=4", "--set", "training.original.epochs=1")


def test_train_scores_the_original_set_without_a_method(ltdd, tmp_path):
    result = ltdd(*TRAIN, "--head", "balanced-softmax", "--network", "mlp", "--network", "convnet-d3", "--repeats", 2)
    assert result.exit_code == 0, result.output
    assert "original, balanced softmax, 342 images; per cent, mean of 2 seeds" in " ".join(result.stdout.split())
    assert re.search(r"convnet-d3 +[0-9.]+±[0-9.]+ ", result.stdout)
    folder = tmp_path / "here" / "runs" / "digits-lt-balanced-softmax-seed0-1"
    assert str(folder.relative_to(tmp_path / "here")) in result.stderr
    document = json.loads((folder / "report.json").read_text())
    assert [row["network"] for row in document["rows"]] == ["mlp", "convnet-d3"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["head"]["name"] == "balanced-softmax"


def test_train_trains_each_head_with_each_network(ltdd):
    several = ("--head", "linear", "--head", "cosine", "--network", "mlp", "--network", "convnet-d3")
    result = ltdd(*TRAIN, *several, "--out", "a")
    assert result.exit_code == 0, result.output
    document = json.loads(Path("a/report.json").read_text())
    rows = [(row["name"], row["network"], row["classifiers"]) for row in document["rows"]]
    names = [(line, net) for line in ("original, direct", "original, cosine") for net in ("mlp", "convnet-d3")]
    assert rows == [(line, net, [f"{line}, {net}, seed 0"]) for line, net in names]
    assert [head["name"] for head in document["heads"]] == ["linear", "cosine"]
    for line, net in names:
        assert re.search(rf"{line}, {net} +342 +[0-9.]+", result.stdout)
    scores = load_predictions(Path("a/predictions.safetensors"))
    assert list(scores) == sorted(f"{line}, {net}, seed 0" for line, net in names)
    files = {path.stem for path in Path("a/classifiers").iterdir()}
    assert files == {f"original-{head}-{net}-seed-0" for head in ("direct", "cosine") for net in ("mlp", "convnet-d3")}
    one = json.loads(ltdd(*TRAIN, "--head", "cosine", "--network", "mlp", "--out", "b", "--json").stdout)
    assert one["rows"][0]["confusion"] == document["rows"][2]["confusion"]


def test_a_name_that_is_there_twice_is_refused_before_anything_is_trained(ltdd):
    for twice in ("--head", "cosine"), ("--network", "mlp"):
        message = one_line_error(ltdd(*TRAIN, *twice, *twice))
        assert "two classifiers would be called 'original, " in message
        assert message.endswith("name each head and each network once.")
    assert "--head: a value is missing." in one_line_error(ltdd(*TRAIN, "--head", ""))
    assert not any(Path().iterdir())


def test_train_json_is_the_report(ltdd, tmp_path):
    result = ltdd(*TRAIN, "--plugin", "twostage", "--out", tmp_path / "mine", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "mine" / "report.json").read_text())
    assert [row["name"] for row in document["rows"]] == ["two-stage, original + original"]


def test_a_folder_of_train_is_told_from_a_run_and_its_configuration_can_be_used_again(ltdd, tmp_path):
    again = ("train", "--config", "a/config.yaml", "--json")
    first = ltdd(*TRAIN, "--network", "mlp", "--network", "convnet-d3", "--out", "a", "--json")
    document = json.loads(first.stdout)
    assert [network["name"] for network in document["networks"]] == ["mlp", "convnet-d3"]
    assert [network["width"] for network in document["networks"]] == [4, 4]
    stored = yaml.safe_load((tmp_path / "here" / "a" / "config.yaml").read_text())
    assert "matcher" not in stored
    result = ltdd(*again)
    assert result.exit_code == 0, result.output
    (row,), expected = json.loads(result.stdout)["rows"], document["rows"][0]
    assert unclocked(row) == unclocked({**expected, "classifiers": ["original, direct"]})
    for tree in (stored, {**stored, "matcher": {"name": "none"}}):  # an earlier version wrote the second
        (tmp_path / "here" / "a" / "config.yaml").write_text(yaml.safe_dump(tree))
        message = one_line_error(ltdd("watch", "a"))
        assert message == "Error: a is not the folder of a run that distilled something: ltdd distill makes those."
        for command in ("report", "compare"):
            assert ltdd(command, "a").exit_code == 0


def test_train_keeps_its_networks(ltdd, tmp_path):
    assert ltdd(*TRAIN, "--repeats", 2, "--out", "a").exit_code == 0
    assert len(json.loads(ltdd("networks", "list", "--folder", "a", "--json").stdout)) == 2


KILLED = """
import os, sys
from ltdd_core.cli import cli
from ltdd_core.evaluation import table

def killed(*given):
    save(*given)
    os.kill(os.getpid(), 9)

save, table.save_classifier = table.save_classifier, killed
cli(sys.argv[1:])
"""


def test_the_same_command_goes_on_after_kill_9(ltdd, tmp_path):
    whole = ltdd(*TRAIN, "--repeats", 2, "--out", "whole", "--json")
    command = (*TRAIN, "--repeats", "2", "--out", "cut")
    done = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, cwd=tmp_path / "here")
    assert done.returncode == -9, done.stderr
    left = list(Path("cut/networks").iterdir())
    assert len(left) == 1
    written = left[0].stat().st_mtime_ns
    other = one_line_error(ltdd(*command, "--head", "cosine"))
    assert "cut holds a run of another configuration: " in other
    assert "name another folder with --out" in other
    again = ltdd(*command, "--json")
    assert again.exit_code == 0, again.output
    assert again.stderr.count("training a network") == 1
    assert unclocked(json.loads(again.stdout)["rows"]) == unclocked(json.loads(whole.stdout)["rows"])
    assert left[0].stat().st_mtime_ns == written
    names = [{path.name for path in Path(folder, "classifiers").iterdir()} for folder in ("cut", "whole")]
    assert names[0] == names[1]
    assert "cut holds a run already" in one_line_error(ltdd(*command))


def test_a_training_that_goes_on_keeps_the_classifiers_of_its_own_networks_alone(ltdd):
    assert ltdd(*TRAIN, "--repeats", 2, "--out", "a").exit_code == 0
    Path("a/report.json").unlink()  # what is left of a process that was killed at the last moment
    assert ltdd(*TRAIN, "--out", "a").exit_code == 0
    assert [path.name for path in Path("a/classifiers").iterdir()] == ["original-direct.safetensors"]


def test_a_training_that_fails_leaves_its_folder_to_any_other(ltdd):
    failed = ltdd(*TRAIN, "--set", "training.original.lr=1e30", "--out", "a")
    assert failed.exit_code == 1, failed.output
    assert ltdd(*TRAIN, "--out", "a").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--head", "balanced-softmx"), "unknown head 'balanced-softmx'. Did you mean 'balanced-softmax'?"),
        (("--set", "head.tau=1"), "unknown head option 'tau'"),
        (("--set", "head.stage1=nome", "--head", "twostage"), "head.stage1: unknown head 'nome'"),
        (("--set", "head.stage1.tau=1", "--head", "twostage"), "head.stage1: which head? Its options need its name"),
        (("--set", "head.stage1={name: ldam, scal: 3}", "--head", "twostage"), "Did you mean 'scale'?"),
        (("--set", "recipe.data=distilled"), None),
    ],
)
def test_train_answers_what_is_wrong_with_one_line(options, message, ltdd, tmp_path):
    result = ltdd(*TRAIN, *options)
    if message is None:  # whatever is said, the original images train
        assert "original, direct" in result.output
        return
    assert message in one_line_error(result)
    assert not (tmp_path / "here" / "runs").exists()


def test_train_never_writes_into_a_folder_that_holds_something(ltdd, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert str(tmp_path / "mine") in one_line_error(ltdd(*TRAIN, "--out", tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


# ---- evaluate ------------------------------------------------------------------------------------


def test_evaluate_scores_networks_over_several_seeds(ltdd, finished):
    command = ("evaluate", finished, "--head", "linear", "--network", "convnet-d3", "--network", "mlp", "--repeats", 2)
    table = ltdd(*command)
    assert table.exit_code == 0, table.output
    assert "distilled, direct, 20 images; per cent, mean of 2 seeds" in " ".join(table.stdout.split())
    assert re.search(r"mlp +[0-9.]+±[0-9.]+ ", table.stdout)
    trained = re.findall(r"training a network: classes on the distilled set \((.+)\)", table.stderr)
    assert trained == ["convnet-d3, seed 1", "mlp, seed 0", "mlp, seed 1"]  # the run has trained the first one
    result = ltdd(*command, "--json", "--quiet")
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert set(document) == {"run", "seconds", "versions", "data", "heads", "networks", "distilled", "rows"}
    assert document["distilled"]["run"] == str(finished)
    assert (document["distilled"]["method"], document["distilled"]["images"]) == ("dm", 20)
    assert document == json.loads(Path(document["run"], "report.json").read_text())
    assert [row["network"] for row in document["rows"]] == ["convnet-d3", "mlp"]
    for row in document["rows"]:
        assert set(row) == ROW | {"network", "repeats", "seeds", "classifiers", "deviation"}
        assert (row["name"], row["repeats"], row["images"]) == ("distilled, direct", 2, 20)
        assert row["seeds"] == [0, 1]


def test_evaluate_without_options_repeats_the_last_line_of_the_run(ltdd, finished):
    (row,) = json.loads(ltdd("evaluate", finished, "--json").stdout)["rows"]
    last = json.loads((finished / "report.json").read_text())["rows"][-1]
    assert {key: row[key] for key in ROW} == {key: last[key] for key in ROW}


def test_an_evaluation_that_is_stopped_or_killed_goes_on_and_trains_no_network_again(ltdd, finished, tmp_path):
    alone = tmp_path / "here" / "mine.safetensors"  # which has no folder of networks
    shutil.copy(finished / "distilled.safetensors", alone)
    command = ("evaluate", "mine.safetensors", "--head", "linear", "--network", "mlp", "--repeats", "2", "--out")
    whole = ltdd(*command, "whole", "--json")
    assert whole.exit_code == 0, whole.output
    done = subprocess.run([sys.executable, "-c", KILLED, *command, "cut"], capture_output=True, cwd=tmp_path / "here")
    assert done.returncode == -9, done.stderr
    (network,) = Path("cut/networks").iterdir()
    written = network.stat().st_mtime_ns
    different = one_line_error(ltdd(*command, "cut", "--seed", "3"))
    assert "seed was 0 and is now 3. It is not finished: name another folder with --out." in different
    other = load_distilled(alone)
    save_distilled(Path("other.safetensors"), replace(other, images=other.images + 1))
    refused = one_line_error(ltdd("evaluate", "other.safetensors", *command[2:], "cut"))
    assert refused == "Error: cut was begun with another distilled set: name another folder with --out."
    again = ltdd(*command, "cut", "--json")
    assert again.exit_code == 0, again.output
    assert again.stderr.count("training a network") == 1
    assert network.stat().st_mtime_ns == written
    assert unclocked(json.loads(again.stdout)["rows"]) == unclocked(json.loads(whole.stdout)["rows"])
    for name in ("predictions.safetensors", "config.yaml"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes()
    assert len(json.loads(Path("cut/run.json").read_text())["sessions"]) == 2


def test_an_evaluation_that_is_stopped_says_how_it_goes_on(ltdd, finished, monkeypatch):
    def stopped(*given):
        raise Interrupted("SIGINT")

    shutil.copy(finished / "distilled.safetensors", "mine.safetensors")
    command = ("evaluate", "mine.safetensors", "--head", "linear", "--network", "mlp", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(repeats, "keep_classifier", stopped)
        done = ltdd(*command)
    kept = "finished networks are kept in runs/digits-lt-evaluated-linear-seed0-1/networks: run it again with --out "
    assert (done.exit_code, done.stderr) == (
        130,
        f"Interrupted: SIGINT: stopped; {kept}runs/digits-lt-evaluated-linear-seed0-1.\n",
    )
    (folder,) = Path("runs").iterdir()
    assert [path.name for path in folder.iterdir() if path.name[0] != "."] == ["networks"]
    again = ltdd(*command[:-1], "--out", folder)
    assert again.exit_code == 0, again.output
    assert "training a network" not in again.stderr


def test_an_evaluation_keeps_what_it_compares_with(ltdd, finished):
    command = ("evaluate", finished, "--head", "linear", "--network", "mlp", "--quality", "--out", "a", "--json")
    document = json.loads(ltdd(*command).stdout)
    assert document["quality"][0]["network"] == "mlp"
    assert document == json.loads(Path("a/report.json").read_text())


def test_evaluate_takes_the_file_alone(ltdd, finished, tmp_path):
    alone = tmp_path / "mine.safetensors"
    shutil.copy(finished / "distilled.safetensors", alone)
    results = [json.loads(ltdd("evaluate", path, "--json").stdout)["rows"] for path in (alone, finished)]
    assert unclocked(results[0]) == unclocked(results[1])


def test_evaluate_keeps_the_options_of_the_network_of_the_run_and_takes_others(ltdd, finished):
    def accuracy(*options):
        result = ltdd("evaluate", finished, "--head", "linear", *options, "--json")
        return json.loads(result.stdout)["rows"][0]["per_class"]

    assert accuracy("--network", "convnet-d3") == accuracy()
    assert accuracy("--network", "convnet-d3", "--set", "network.width=4") == accuracy("--set", "network.width=4")
    assert accuracy("--set", "network.width=4") != accuracy()


def test_evaluate_with_a_plugin_takes_its_head_and_recipe_however_it_is_named(ltdd, finished, tmp_path):
    plain = tmp_path / "plain"  # a run that never heard of two stages
    shutil.copytree(finished, plain)
    stored = yaml.safe_load((plain / "config.yaml").read_text())
    stored |= {"plugins": [], "head": {"name": "linear"}, "recipe": {"name": "direct"}}
    (plain / "config.yaml").write_text(yaml.safe_dump(stored))
    (tmp_path / "here" / "plain.yaml").write_text("head: linear\n")
    (tmp_path / "here" / "two.yaml").write_text("plugin: twostage\n")
    for run, options, name in (
        (finished, ("--config", "plain.yaml"), ROWS[2]),
        (finished, ("--head", "linear", "--set", "recipe.data=original"), ROWS[0]),
        (plain, (), ROWS[2]),
        (plain, ("--config", "two.yaml"), ROWS[3]),
        (plain, ("--plugin", "twostage"), ROWS[3]),
    ):
        result = ltdd("evaluate", run, *options, "--json")
        assert [row["name"] for row in json.loads(result.stdout)["rows"]] == [name]


@pytest.fixture
def unusable(finished, tmp_path):
    """Paths that hold no distilled set."""
    (tmp_path / "empty").mkdir()
    content = (finished / "distilled.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 200)
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    shutil.copytree(finished, tmp_path / "damaged")
    (tmp_path / "damaged" / "distilled.safetensors").write_bytes(content[:-1])
    return tmp_path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("empty", "empty: no distilled.safetensors in this folder; did the run finish?"),
        ("nothing", "nothing: there is no such file"),
        ("cut.safetensors", "damaged, or not a safetensors file"),
        ("noise.safetensors", "damaged, or not a safetensors file"),
        ("foreign.safetensors", "a safetensors file, but not a distilled set of ltdd"),
        ("damaged", "damaged, or not a safetensors file"),
    ],
)
def test_evaluate_refuses_what_is_no_distilled_set(path, message, ltdd, unusable):
    assert message in one_line_error(ltdd("evaluate", unusable / path))


@pytest.mark.parametrize("command", [["evaluate"], ["relabel", "--labeller", "teacher"]])
def test_a_folder_without_a_distilled_set_is_refused_before_torch_is_imported(command, unusable):
    code = "import sys; sys.modules['torch'] = None; from ltdd_core.cli import main; main()"
    call = [sys.executable, "-c", code, *command, str(unusable / "empty")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("empty: no distilled.safetensors in this folder; did the run finish?\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--network", "mpl"), "--network: unknown network 'mpl'. Did you mean 'mlp'?"),
        (("--network", "mlp", "--set", "network.depht=3"), "unknown network option 'depht'"),
        (("--head", "lineal"), "--head: unknown head 'lineal'. Did you mean 'linear'?"),
        (
            ("--head", "linear", "--recipe", "hierarchical"),
            "recipe 'hierarchical' trains two stages but the head has 1",
        ),
        (("--preset", "dm-papr"), "unknown preset 'dm-papr'. Did you mean 'dm-paper'?"),
        (("--repeats", "0"), "Invalid value for '--repeats': 0 is not in the range x>=1."),
        (("--seed", "-1"), "--seed: seed must be at least 0, not -1."),
    ],
    ids=" ".join,
)
def test_evaluate_answers_a_wrong_option_with_one_line(options, message, ltdd, finished):
    assert message in one_line_error(ltdd("evaluate", finished, *options))


# ---- plugins, describe, data, help ---------------------------------------------------------------


def test_plugins_lists_what_is_installed_from_where_and_what_it_offers(ltdd):
    table = ltdd("plugins").stdout
    assert re.search(r"dm .*ltdd " + re.escape(version("ltdd")) + ".*built-in.*matcher: dm", table)
    rows = {row["name"]: row for row in json.loads(ltdd("plugins", "--json").stdout)}
    assert rows["samplers"].pop("import_seconds") < 0.5
    assert rows["samplers"] == {
        "name": "samplers",
        "distribution": "ltdd",
        "version": version("ltdd"),
        "module": "ltdd_samplers",
        "state": "built-in",
        "reason": "",
        "offers": {"sampler": [name for name in SAMPLERS if name != "instance"], "preset": ["dream-paper"]},
        "faults": {},
        "traceback": "",
    }
    assert rows["core"]["offers"]["sampler"] == ["instance"]


def test_plugins_shows_one_by_name(ltdd):
    assert [row["name"] for row in json.loads(ltdd("plugins", "twostage", "--json").stdout)] == ["twostage"]
    shown = ltdd("plugins", "twostage").stdout
    assert "head: twostage" in shown
    assert "samplers" not in shown
    assert "unknown plugin 'twostages'. Did you mean 'twostage'?" in one_line_error(ltdd("plugins", "twostages"))


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=[" ".join(pair) for pair in COMPONENTS])
def test_every_component_is_described_and_every_option_has_a_help_text(kind, name, ltdd):
    document = json.loads(ltdd("describe", kind, name, "--json").stdout)
    assert document["about"]
    for option in document["options"]:
        assert option["option"].startswith(f"{kind}.")
        assert len(option["help"]) > 3, option
    assert not [row["option"] for row in document["options"] if row["unless_given"] and row["default"] is not None]
    shown = ltdd("describe", kind, name).stdout
    assert f"{kind} {name}, from ltdd" in shown
    for option in document["options"]:
        assert option["option"] in shown
        assert option["type"].split(" ")[0] in shown  # brackets of types are no markup


@pytest.mark.parametrize("section", ["run", "training", "compute"])
def test_the_options_of_no_component_are_described(section, ltdd):
    options = json.loads(ltdd("describe", section, "--json").stdout)["options"]
    assert options
    assert all(len(option["help"]) > 3 for option in options)


def test_describe_says_which_options_a_method_has_a_say_in(ltdd):
    shown = ltdd("describe", "training").stdout
    assert re.search(r"training\.original\.optimizer .*sgd.*'sgd', 'adamw' ", shown)
    assert re.search(r"training\.distilled\.optimizer .*the method's, or sgd.*'sgd', 'adamw' \| None", shown)
    assert re.search(
        r"training\.distilled\.epochs .*the method's, or 1000.*int \| str \| None.*DSA, public code", shown
    )
    assert not re.search("Optional|Union|NoneType", shown + ltdd("describe", "data", "digits-lt").stdout)


def test_describe_shows_what_a_docstring_says_and_not_its_markup(ltdd):
    shown = " ".join(ltdd("describe", "data", "npz").stdout.split())
    assert "The archive holds train_images, train_labels, and perhaps arrays of a test and" in shown
    assert "D is the distance of ltdd_dc.distance." in ltdd("describe", "matcher", "dc").stdout


def test_the_list_of_methods_says_which_one_to_take_first(ltdd):
    shown = ltdd("describe", "matcher").stdout
    assert shown.count("\nTake ") == 1
    assert "\nTake dm first: " in shown
    rows = {row["name"]: row for row in json.loads(ltdd("describe", "matcher", "--json").stdout)}
    assert "compare-methods" in rows["dm"]["take_first"]
    assert "take_first" not in rows["mtt"]


def test_describe_shows_defaults_types_and_where_defaults_come_from(ltdd):
    shown = ltdd("describe", "matcher", "dm").stdout
    assert re.search(r"matcher\.lr_img .*1\.0.*float.*learning rate of the pixels.*DM, public code", shown)
    assert "tuple[float, ...]" in ltdd("describe", "data", "digits-lt").stdout


def test_describe_tells_what_suits_a_data_source(ltdd):
    shown = ltdd("describe", "data", "cifar10-lt-1k").stdout
    assert "--set training.original.epochs=100 --set training.original.lr=0.05" in " ".join(shown.split())
    assert json.loads(ltdd("describe", "data", "digits-lt", "--json").stdout)["suggested"]["iterations"] == 300
    assert "suggested" not in json.loads(ltdd("describe", "data", "cifar100-lt", "--json").stdout)


def test_describe_lists_a_kind_and_shows_presets(ltdd):
    listed = json.loads(ltdd("describe", "sampler", "--json").stdout)
    assert [row["name"] for row in listed] == SAMPLERS
    assert all(row["about"] for row in listed)
    for kind in KINDS:  # a terminal shows no markup
        assert not re.search(r"``|:[a-z]+:`", ltdd("describe", kind).stdout)
    lines = ltdd("describe", "sampler").stdout.splitlines()
    assert [line.split()[0] for line in lines] == SAMPLERS
    shown = ltdd("describe", "preset", "dm-paper").stdout
    assert re.search(r"^iterations: 20000 +# DM, public code$", shown, re.MULTILINE)
    shown_values = yaml.safe_load(shown)
    stored = json.loads(ltdd("describe", "preset", "dm-paper", "--json").stdout)
    assert shown_values == {key: value for key, value in stored.items() if key not in ("about", "sources")}
    assert json.loads(ltdd("describe", "preset", "dm-paper", "--json").stdout)["iterations"] == 20000
    assert "unknown kind 'matchers'. Did you mean 'matcher'?" in one_line_error(ltdd("describe", "matchers"))
    assert "unknown matcher 'dmm'. Did you mean 'dm'?" in one_line_error(ltdd("describe", "matcher", "dmm"))


def test_data_show_draws_the_class_counts(ltdd):
    shown = ltdd("data", "show", "--imbalance", "20").stdout
    document = json.loads(ltdd("data", "show", "--imbalance", "20", "--json").stdout)
    assert f"{document['images']} training and {document['test_images']} test images of 1x8x8, 10 classes" in shown
    assert document["counts"] == sorted(document["counts"], reverse=True)
    lines = [line for line in shown.splitlines() if "█" in line]
    numbers = [[int(number) for number in line.split()[1:4]] for line in lines]
    assert [training for _, training, _ in numbers] == document["counts"]
    assert [[found, test] for found, _, test in numbers] == [
        list(pair) for pair in zip(document["found"], document["test_counts"], strict=True)
    ]
    bars = [line.count("█") for line in lines]
    assert bars[0] == 40
    assert bars == sorted(bars, reverse=True)
    assert lines[0].split()[-1] == "many"
    assert "fewer (few):" in shown


def test_names_of_classes_are_no_markup(ltdd, tmp_path):
    from PIL import Image

    for name in ("[bold]", "[red]", ":dog:"):
        for part in ("train", "test"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (40, 80, 120)).save(folder / "a.png")
    shown = ltdd("data", "show", "--data", "folder", "--root", tmp_path / "images", "--imbalance", "natural")
    assert shown.exit_code == 0, shown.output
    assert "[bold]" in shown.stdout
    assert ":dog:" in shown.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("distil",), "unknown command 'distil'. Did you mean 'distill'?"),
        (("--versio",), "Did you mean '--version'?"),
        (("data", "sho"), "unknown command of ltdd data 'sho'. Did you mean 'show'?"),
        (("data", "show", "--dta", "x"), "'--data'"),
        (("evaluate",), "Missing argument 'RUN'. See ltdd evaluate --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_unknown_command_or_option_is_one_line(command, message, ltdd):
    assert message in one_line_error(ltdd(*command))


@pytest.mark.parametrize(
    ("command", "option", "last"),
    [
        (("distill", "--method", "dm", "--seed", "1", "--method", "dmm"), "--method", "dmm"),
        (("distill", "--method", "dmm", "--seed", "1", "--seed=2"), "--seed", "2"),
        (("evaluate", "run", "--head", "linear", "--head", "cosine"), "--head", "cosine"),
        (("train", "--head", "x", "--out", "a", "--out", "b"), "--out", "b"),
        (("data", "show", "--data", "x", "--n-max", "3", "--n-max", "4"), "--n-max", "4"),
        (("experts", "train", "--count", "1", "--count", "0"), "--count", "0"),
        (("compare", "a", "--html", "x", "--html", "y"), "--html", "y"),
        (("distill", "--method", "dmm", "--set", "seed=1", "--set", "seed=2"), "--set seed", "2"),
        (("train", "--set", "network={width: 3}", "--set", "network={width: -4}"), "--set network.width", "-4"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_of_an_option_that_takes_one_value_the_last_one_counts_and_a_line_says_so(command, option, last, ltdd):
    said = ltdd(*command).stderr.splitlines()  # two lines: each of these is refused for something else
    assert said[0] == f"{option} is given several times, and the last one counts: {last}"
    assert (len(said), said[1][:7]) == (2, "Error: ")


def test_the_last_value_is_the_one_that_is_used(ltdd, site):
    site.install("greet", GREET)
    said = ltdd("greet", "--name", "a", "--name", "b\x1b")
    assert (said.exit_code, said.stdout) == (0, "() False b\x1b\n")
    assert said.stderr == "--name is given several times, and the last one counts: b\\x1b\n"
    shown = ltdd("data", "show", "--data", "digits-lt", "--n-max", "50", "--n-max", "60", "--json")
    assert max(json.loads(shown.stdout)["counts"]) == 60
    shown = ltdd("data", "show", "--data", "digits-lt", *("--set", "data.n_max=50", "--set", "data.n_max=60"), "--json")
    assert max(json.loads(shown.stdout)["counts"]) == 60


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_network_that_is_named_does_not_undo_what_is_set(command, ltdd, finished):
    run = () if command == "train" else (finished,)
    message = one_line_error(
        ltdd(command, *run, "--network", "torchvision:resnet18", "--set", "network.model=resnet34")
    )
    assert message == "Error: --network says 'resnet18', and --set network.model 'resnet34': keep one."
    assert not any(Path().iterdir())
    named = one_line_error(ltdd(command, *run, "--network", "mlp", "--set", "network=convnet-d3"))
    assert named == "Error: --network says 'mlp', and --set network 'convnet-d3': keep one."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("networks", "lst"), "unknown command of ltdd networks 'lst'. Did you mean 'list'? Available: list, remove."),
        (("data", "nope"), "unknown command of ltdd data 'nope'. Available: cache, show."),
        (("experts", "trian"), "unknown command of ltdd experts 'trian'. Did you mean 'train'? Available: train."),
    ],
)
def test_a_wrong_command_of_a_group_is_answered_with_the_nearest(words, message, ltdd):
    assert one_line_error(ltdd(*words)) == f"Error: {message}"


def test_what_may_be_given_twice_still_may(ltdd, site):
    site.install("greet", GREET)
    assert ltdd("greet", "--word", "a", "--word", "b", "--loud", "--loud").stdout == "('a', 'b') True None\n"
    assert ltdd("greet", "--name", "a", "--", "--name").exit_code == 2  # one word too many, and no option


GREET = """
    import click
    from ltdd_core import hookimpl

    @click.command("greet")
    @click.option("--name")
    @click.option("--word", multiple=True)
    @click.option("--loud", is_flag=True)
    def greet(name, word, loud):
        click.echo(f"{word} {loud} {name}")

    @hookimpl
    def ltdd_register_commands(cli):
        cli.add_command(greet)
"""


def test_version_and_help(ltdd):
    assert ltdd("--version").stdout == f"ltdd, version {version('ltdd')}\n"
    shown = ltdd("--help").stdout
    for command in ("distill", "evaluate", "plugins", "describe", "data"):
        assert re.search(rf"^  {command} +\S", shown, re.MULTILINE)
        assert ltdd(command, "-h").exit_code == 0
    for nothing in (ltdd(), ltdd("data")):  # asks for a command, so the help is the answer
        assert nothing.exit_code == 2
        assert "Usage: ltdd" in nothing.output
        assert "Commands:" in nothing.output


def test_the_lists_of_commands_are_not_cut_off(ltdd):
    """In a usual terminal of 80 columns."""
    context = click.Context(cli)
    names = cli.list_commands(context)
    groups = [(name,) for name in names if isinstance(cli.get_command(context, name), click.Group)]
    assert ("data",) in groups
    for group in [(), *groups]:
        listed = ltdd(*group, "--help").stdout.partition("Commands:")[2].splitlines()
        assert [line for line in listed if line.endswith("...")] == []


# ---- doctor --------------------------------------------------------------------------------------


def test_doctor_says_what_there_is(ltdd):
    result = ltdd("doctor")
    assert result.exit_code == 0, result.output
    for text in (version("torch"), version("ltdd"), "bf16 on the CPU", "C++ compiler", "built-in", "free disk"):
        assert text in result.stdout
    rows = {row["what"]: row for row in json.loads(ltdd("doctor", "--json").stdout)}
    assert rows["torch"] == {"what": "torch", "is": version("torch"), "remark": ""}
    assert {"Python", "CPU", "GPU" if "GPU" in rows else "GPU 0", "plugins", "folder"} <= set(rows)


def test_doctor_remarks_on_what_will_not_work(ltdd, monkeypatch):
    monkeypatch.setattr("ltdd_core.runs.devices.shutil.which", lambda name: None)
    result = ltdd("doctor")
    assert "install g++ or clang" in result.stdout
    assert re.search(r"[1-9] remarks?, marked with !", result.stdout)


def test_doctor_shows_a_broken_plugin(ltdd, site):
    site.install("broken", "raise RuntimeError('no such luck')")
    rows = {row["what"]: row for row in json.loads(ltdd("doctor", "--json").stdout)}
    assert "broken RuntimeError: no such luck" in rows["plugin broken"]["is"]
    assert rows["plugin broken"]["remark"] == "ltdd plugins broken shows more"


# ---- paths -----------------------------------------------------------------------------------------


def test_home_and_variables_in_paths_are_replaced(ltdd, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PICTURES", str(tmp_path / "home" / "my images"))
    for name in "ab":
        for number in range(4):
            folder = tmp_path / "home" / "my images" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * number, 80, 120)).save(folder / f"{number}.png")
    (tmp_path / "in.yaml").write_text("data: {name: folder, root: ~/my images}\nmethod: coreset\nipc: 1\nnetwork: mlp")
    shown = [
        ltdd("data", "show", "--json", *given).stdout
        for given in (
            ("--data", "folder", "--root", "~/my images"),
            ("--data", "folder", "--root", "$PICTURES"),
            ("--data", "folder", "--set", "data.root=${PICTURES}"),
        )
    ]
    assert len({*shown}) == 1
    assert json.loads(shown[0])["classes"] == ["a", "b"]
    assert ltdd(*DISTILL, "--quiet", "--out=~/run").exit_code == 0
    assert (tmp_path / "home" / "run" / "report.json").exists()
    read = ltdd("distill", "--config", "$HOME/../in.yaml", "--set", "training.distilled.epochs=1", "--out", "$HOME/b")
    assert read.exit_code == 0, read.output
    assert (tmp_path / "home" / "b" / "report.json").exists()
    assert not Path("~").exists()
    assert "no such" in ltdd("data", "show", "--data", "folder", "--root", "$NOT_SET/x").stderr


def test_a_place_that_takes_no_file_is_refused_before_anything_is_read_or_trained(ltdd):
    """Each of these commands would find something else wrong after that."""
    Path("file").write_text("")
    Path("run").mkdir()
    Path("run/config.yaml").write_text("")
    said = "Error: cannot write file/there/{}: file is no folder."
    report = ltdd("report", "run", "--out", "file/there/a.html")
    assert one_line_error(report) == said.format("a.html")
    assert one_line_error(ltdd("compare", "run", "--html", "file/there/a.html")) == said.format("a.html")
    grouping = ltdd("analyze", "grouping", "--network", "nope", "--out", "file/there")
    assert one_line_error(grouping) == said.format("grouping.json")
    Path("folder").mkdir()
    assert "it is a folder" in one_line_error(ltdd("report", "run", "--out", "folder"))
    assert "is not finished" in one_line_error(ltdd("report", "run", "--out", "new/folder/a.html"))
    assert not Path("new").exists()
