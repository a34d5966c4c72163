"""Completion in a shell: commands, options, and the values of options."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from ltdd_core.cli import cli

INSTALL = Path(__file__).parent.parent / "docs" / "install.md"
BIN = Path(sys.executable).parent


def completed(line):
    """What a shell offers for the last word of a line."""
    *words, incomplete = line.split(" ")
    found = ShellComplete(cli, {}, "ltdd", "_LTDD_COMPLETE").get_completions(words[1:], incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ltdd dist", ["distill"]),
        ("ltdd distill --meth", ["--method"]),
        ("ltdd distill --method ds", ["dsa"]),
        ("ltdd distill --method dm --network convnet-d", ["convnet-d3"]),
        ("ltdd distill --labeller ", ["adsa", "teacher"]),
        ("ltdd distill --precision ", ["auto", "fp32", "tf32", "bf16"]),
        ("ltdd distill --plugin two", ["twostage"]),
        ("ltdd distill --preset tw", ["twostage-paper"]),
        ("ltdd train --head balanced", ["balanced-softmax"]),
        ("ltdd train --head crt --head balanced", ["balanced-softmax"]),
        ("ltdd evaluate run --recipe d", ["direct"]),
        ("ltdd relabel run --labeller a", ["adsa"]),
        ("ltdd data show --data digits", ["digits-lt"]),
        ("ltdd bench grid.yaml --device c", ["cpu", "cuda"]),
        ("ltdd new-plugin mine --kind lab", ["labeller"]),
        ("ltdd describe run", ["run"]),
        ("ltdd describe head two", ["twostage", "twostage-ablations"]),
        ("ltdd describe run x", []),
        ("ltdd nonsense --me", []),
    ],
)
def test_the_last_word_of_a_line_is_completed(line, offered):
    assert completed(line) == offered


def test_a_component_of_a_stranger_is_offered_too(site):
    from conftest import MEAN_MATCHER

    site.install("mean", MEAN_MATCHER)
    assert completed("ltdd distill --method me") == ["mean"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_line_of_the_installation_guide(tmp_path):
    line = re.search(r"^eval .*bash_source.*$", INSTALL.read_text(), re.MULTILINE)[0]
    script = f"""
        export PATH={shlex.quote(str(BIN))}:$PATH
        {line}
        complete -p ltdd
        COMP_WORDS=(ltdd distill --method ds) COMP_CWORD=3
        _ltdd_completion ltdd && echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.split("\n")[-2] == "dsa"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_written(shell):
    assert f"{shell}_source" in INSTALL.read_text()
    environment = {"_LTDD_COMPLETE": f"{shell}_source", "PATH": str(BIN) + ":/usr/bin:/bin"}
    done = subprocess.run([BIN / "ltdd"], capture_output=True, text=True, check=True, env=environment)
    assert f"_LTDD_COMPLETE={shell}_complete" in done.stdout
