"""Standard streams as a command may find them: full, closed, a pipe that nobody reads."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from conftest import TINY
from PIL import Image

from ltdd_core.cli.streams import printable

LTDD = str(Path(sys.executable).with_name("ltdd"))
FULL = "Error: cannot write to standard output: No space left on device.\n"


def without_size(**settings):
    """The environment, which does not say how large the terminal is."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | settings


def run(script, folder, **settings):
    environment = without_size(LTDD=LTDD, **settings)
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        *(("--help", ""), ("--help", "1"), ("--version", ""), ("--version", "1")),
        *(("data show", ""), slow("data show", "1"), slow("data show --json", ""), ("data show --json", "1")),
        *(slow("describe matcher dm", ""), slow("describe matcher dm", "1")),
    ],
)
def test_a_standard_output_on_a_full_disk_is_one_line(command, unbuffered, tmp_path):
    done = run(f'"$LTDD" {command} >/dev/full', tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, FULL)


def test_a_pipe_that_nobody_reads_is_silent(tmp_path):
    done = run('"$LTDD" data show | true; exit ${PIPESTATUS[0]}', tmp_path)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [slow(">&-"), slow("2>&-"), "<&- >&- 2>&-", "2>/dev/full", slow("2> >(true)")])
def test_a_run_does_not_need_its_streams(closed, tmp_path):
    done = run(f'"$LTDD" distill --method dm {" ".join(TINY)} --out x {closed}', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "x" / "report.json").exists()
    assert "Traceback" not in done.stderr
    assert (tmp_path / "x" / ".lock").read_text() == ""  # nobody's output ends up in a file of the run


def images(folder):
    for name in ("cat", "dog\x1b[2J", "\u65e5"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), (60 * index, 10, 20)).save(folder / name / f"{index}.png")


@pytest.mark.parametrize(
    "command",
    [
        ("data", "show", "--data", "folder", "--root", "images"),
        ("train", "--data", "folder", "--root", "images", "--network", "mlp", *TINY[8:10], "--out", "x"),
        ("data", "show", "--data", "a\x1b[2Jb"),
        ("distill", "--method", "dm", "--data", "folder", "--root", "images\x1b[2J"),
        ("report", "x\x1b[2J"),
        ("bench", "x\x1b[2J\udcff.yaml"),
        ("x\x1b[2J",),
    ],
)
def test_control_characters_do_not_reach_the_terminal(command, tmp_path):
    images(tmp_path / "images")
    streams = [tmp_path / name for name in ("output", "errors")]
    forked.start(*command, folder=tmp_path, output=streams[0], errors=streams[1]).wait()
    said = "".join(stream.read_text() for stream in streams)
    assert said
    assert "\x1b" not in said
    if ("show" in command[:2] and "images" in command) or command[0] == "bench":
        assert "\\x1b[2J" in said


def test_what_is_printable_stays_as_it_is():
    assert printable("a\x1b[2Jb\r\x9b\udcff\n") == "a\\x1b[2Jb\\r\\x9b\\udcff\n"
    assert printable("Z\u00fcrich \u2588 \u65e5") == "Z\u00fcrich \u2588 \u65e5"


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    done = run('mkdir gone; cd gone; rmdir ../gone; exec "$LTDD" data show', tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("Error: the folder that you work in is gone: change to another one.\n")


DISTILL = ("distill", "--method", "dm", *TINY, "--out", "x")


def test_colours_in_a_file_are_no_moving_bars(tmp_path):
    environment = without_size(FORCE_COLOR="1")
    forked.start(*DISTILL, folder=tmp_path, environment=environment, errors=tmp_path / "errors").wait()
    said = (tmp_path / "errors").read_bytes().decode()
    assert "\r" not in said
    assert "iteration 3/3" in said


def test_a_dumb_terminal_gets_lines(tmp_path):
    _, sent = forked.on_a_terminal(*DISTILL, columns=80, folder=tmp_path, environment=without_size(TERM="dumb"))
    assert "iteration 3/3" in sent


def test_in_a_locale_without_utf_8_names_and_bars_can_be_read(tmp_path):
    images(tmp_path / "images")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = run('"$LTDD" data show --data folder --root images', tmp_path, **locale)
    assert done.returncode == 0, done.stderr
    assert "\\u65e5" in done.stdout
    assert "########" in done.stdout


def test_a_user_without_a_home_gets_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import pwd\n\ndef no(uid):\n    raise KeyError\n\npwd.getpwuid = no\n")
    script = 'unset HOME XDG_CACHE_HOME; exec "$LTDD" data show --data fashion-mnist-lt'
    done = run(script, tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "name a folder with --root" in done.stderr


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
def test_a_narrow_terminal_shows_every_digit(columns, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "x")
    again, environment = ("distill", "--out", "x", "--resume", "--quiet"), without_size(TERM="xterm")
    code, sent = forked.on_a_terminal(*again, columns=columns, folder=tmp_path, environment=environment)
    assert code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent)
    for row in json.loads((finished / "report.json").read_text())["rows"]:
        keys = ("accuracy", "std", "many", "few", "worst", "harmonic_mean", "group_accuracy")
        for value in [*(row[key] for key in keys), *row["per_class"]]:
            assert value is None or re.search(rf"(?<![\d.]){value:.1f}(?!\d)", shown), (value, shown)
    assert max(map(len, shown.splitlines())) <= columns
