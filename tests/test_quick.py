"""A wrong name is answered at once: nothing that computes is imported to find out that something is not there."""

import json
import subprocess
import sys

import pytest

SLOW = ("torch", "torchvision", "sklearn", "matplotlib", "scipy")
WRONG = [
    (("distill",), "name a method: --method "),
    (("distill", "--method", "dmm"), "Did you mean 'dm'?"),
    (("distill", "--method", "dm", "--data", "digitslt"), "Did you mean 'digits-lt'?"),
    (("distill", "--method", "dm", "--head", "linaer"), "Did you mean 'linear'?"),
    (("distill", "--method", "dm", "--network", "resnet19"), "Did you mean 'resnet18'?"),
    (("distill", "--method", "dm", "--init", "reel"), "Did you mean 'real'?"),
    (("distill", "--method", "dm", "--plugin", "twostag"), "Did you mean 'twostage'?"),
    (("distill", "--method", "dm", "--preset", "none"), "unknown preset 'none'"),
    (("distill", "--method", "dm", "--data", "folder", "--root", "none"), "--root none: there is no such folder in"),
    (("distill", "--method", "dm", "--data", "npz", "--root", "none"), "--root none: there is no such file in"),
    (("distill", "--method", "dm", "--data", "folder"), "needs --root"),
    (("distill", "--out", "none", "--resume"), "none holds no run to resume"),
    (("distil",), "Did you mean 'distill'?"),
    (("train", "--head", "linaer"), "Did you mean 'linear'?"),
    (("train", "--network", "resnet18", "--network", "resnet19"), "unknown network 'resnet19'"),
    (("train", "--data", "folder", "--root", "none"), "there is no such folder"),
    (("data", "show", "--data", "foldr"), "Did you mean 'folder'?"),
    (("data", "show", "--data", "folder", "--root", "none"), "there is no such folder"),
    (("data", "show", "--picture", "none/sheet.png"), "there is no folder none"),
    (("evaluate", "run/anmals-1"), "there is no such file or folder. Did you mean run/animals-1?"),
    (("evaluate", "run", "--network", "resnet19"), "Did you mean 'resnet18'?"),
    (("relabel", "none", "--labeller", "teacher"), "none: there is no such file or folder."),
    (("relabel", "run", "--labeller", "teach"), "Did you mean 'teacher'?"),
    (("predict", "none", "image.png"), "none: there is no such file or folder."),
    (("predict", "run", "image.png"), "image.png: there is no such file or folder."),
    (("export", "none", "--format", "onnx"), "none: there is no such file or folder."),
    (("report", "animals-1"), "there is no such file or folder. Did you mean runs/animals-1?"),
    (("compare", "run", "none"), "none: there is no such file or folder."),
    (("report", "runs"), "runs is not the folder of a run"),
    (("compare", "run", "runs"), "runs is not the folder of a run"),
    (("watch", "runs"), "runs is not the folder of a run"),
    (("evaluate", "runs"), "runs: no distilled.safetensors in this folder; did the run finish?"),
    (("relabel", "trained", "--labeller", "teacher"), "trained has classifiers and no distilled set: name the folder"),
    (("predict", "runs", "run"), "runs: there is no classifier in this folder."),
    (
        ("export", "runs", "--format", "npz"),
        "runs: there is no distilled set and no classifier in this folder; did the",
    ),
    (("report", "run", "--out", "run/config.yaml/page.html"), "run/config.yaml is no folder."),
    (("export", "run", "--format", "onx"), "Did you mean 'onnx'?"),
    (("watch", "none"), "none: there is no such file or folder."),
    (("bench", "none"), "cannot read none: No such file or directory."),
    (("describe", "matcher", "dmm"), "Did you mean 'dm'?"),
]
CODE = f"""
import json, sys
from click.testing import CliRunner
from ltdd_core.cli import cli
for command in json.load(sys.stdin):
    result = CliRunner().invoke(cli, command, prog_name="ltdd")
    print(json.dumps([result.exit_code, result.stderr, sorted(set({SLOW!r}) & set(sys.modules))]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code, words and slow modules after each command, all in one process that has imported nothing before."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "run" / "animals-1").mkdir(parents=True)
    (folder / "runs" / "animals-1").mkdir(parents=True)
    (folder / "trained").mkdir()
    (folder / "trained" / "report.json").touch()
    for name in ("config.yaml", "distilled.safetensors"):
        (folder / "run" / name).touch()
    told = json.dumps([command for command, _ in WRONG])
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=told, cwd=folder, capture_output=True, text=True, check=True
    )
    assert sorted(path.name for path in folder.iterdir()) == ["run", "runs", "trained"]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(command) for command, _ in WRONG])
def test_what_is_not_there_is_told_before_anything_slow_is_imported(number, answers):
    code, words, slow = answers[number]
    assert slow == []
    assert code == 2
    assert words.startswith("Error: ")
    assert words.count("\n") == 1
    assert WRONG[number][1] in words


def test_a_terminal_sees_at_once_what_is_about_to_be_done(tmp_path):
    """The first bytes that a terminal gets, before torch is imported."""
    pty = pytest.importorskip("pty")
    import os

    code = """
import sys, click
from ltdd_core.cli.settings import announced, consoles
with announced(consoles(False)[1], "distilling [red]animals with dm", quiet="-q" in sys.argv):
    assert "torch" not in sys.modules
"""
    for more, said in (([], True), (["-q"], False)):
        reader, writer = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        subprocess.run([sys.executable, "-c", code, *more], stderr=writer, stdout=writer, check=True, env=env)
        os.write(writer, b".")
        shown = os.read(reader, 10_000).decode()
        assert ("distilling [red]animals with dm" in shown) == said
        os.close(reader)
        os.close(writer)
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (piped.stdout, piped.stderr) == ("", "")


@pytest.mark.parametrize(
    "name", ["digits-lt", "cifar10-lt", "cifar10-lt-1k", "cifar100-lt", "svhn-lt", "fashion-mnist-lt"]
)
def test_the_data_are_named_before_anything_slow_is_imported(name):
    code = f"""
import sys
from ltdd_core.config.layers import Layer
from ltdd_core.config.resolve import check_data
from ltdd_core.plugging.catalog import installed
named = check_data(installed(), [Layer("test", {{"data": {{"name": {name!r}}}}})])
print(named, {{*{SLOW!r}}} & {{*sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{name} set()\n"
