"""``ltdd watch`` and the dashboards: what they show is what the files of the run say, and the run never minds them."""

import dataclasses
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import forked
import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, strategies as st
from rich.console import Console

import ltdd_tensorboard
from ltdd_core import load_distilled
from ltdd_core.runs.pictures import save_picture
from ltdd_report.running import is_running
from ltdd_report.watching import BLOCKS, SILENT, curve, read_state, small_picture, view

LTDD = str(Path(sys.executable).with_name("ltdd"))


def seen(state):
    console = Console(width=100, height=40, color_system=None, record=True, file=io.StringIO())
    console.print(view(state, console))
    return console.export_text()


def test_a_finished_run_is_shown_with_its_table(ltdd, finished):
    result = ltdd("watch", finished)
    assert result.exit_code == 0
    assert "dm on digits-lt, 2 images a class, seed 0" in result.stdout
    assert "3/3" in result.stdout
    for row in json.loads((finished / "report.json").read_text())["rows"]:
        assert re.search(rf"{re.escape(row['name'])} +{row['accuracy']:.1f} +{row['std']:.1f}", result.stdout)


def test_how_far_a_run_is_in_words(finished):
    state = dataclasses.replace(read_state(finished), report=None, silent=1.0, running=True)
    begun = dataclasses.replace(state, losses=state.losses[:2], seconds=[9.0, 0.25])
    assert "2/3" in seen(begun)
    assert "4.0 it/s, about 0:00:00 to go" in seen(begun)
    assert "100.0 s/it, about 0:01:40 to go" in seen(dataclasses.replace(begun, seconds=[9.0, 100.0]))
    assert "the first steps" in seen(dataclasses.replace(state, losses=state.losses[:1], seconds=[9.0]))
    assert "classifiers are being trained" in seen(state)
    unknown = dataclasses.replace(begun, silent=2 * SILENT, running=None)
    assert "nothing new for 0:02:00. If it has stopped" in seen(unknown)
    done = dataclasses.replace(state, report={**read_state(finished).report, "seconds": 36000.4})
    assert "finished, 10:00:00" in seen(done)
    assert re.search(r"continues it:\nltdd distill --out .* --resume\n", seen(unknown))
    stopped = seen(dataclasses.replace(begun, running=False))
    assert "not running" in stopped
    assert "continues it:" in stopped
    assert "to go" not in stopped
    assert "it/s" in seen(dataclasses.replace(begun, seconds=[9.0, 0.0]))


def test_when_there_is_nothing_more_to_expect(finished):
    state = dataclasses.replace(read_state(finished), report=None, seconds=[0.5, 10.0], running=False)
    assert read_state(finished).over
    assert not dataclasses.replace(state, silent=25.0).over  # a slow step on another machine may take that long
    assert dataclasses.replace(state, silent=35.0).over
    assert not dataclasses.replace(state, silent=35.0, running=True).over
    assert not dataclasses.replace(state, silent=35.0, running=None).over


def test_whether_a_run_is_running_is_told_without_touching_it(finished, tmp_path):
    assert is_running(finished) is False
    assert is_running(tmp_path) is False
    assert is_running(tmp_path / "nothing") is False
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock").mkdir()
    assert is_running(tmp_path) is None


@contextmanager
def distilling_into(run: Path, *, iterations: int) -> Iterator[forked.Command]:
    """A real process that has distilled at least one step."""
    command = ["distill", "--method", "dm", *TINY[2:], "--iterations", iterations, "--out", run]
    with forked.start(*command) as process:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process


def test_a_killed_run_is_not_watched_for_ever(tmp_path):
    """A real process, killed while it distils; the watching one has a pseudo-terminal."""
    run = tmp_path / "a run"
    with distilling_into(run, iterations=100000) as distilling:
        assert is_running(run) is True
        distilling.kill()
    files = {file.name: file.read_bytes() for file in run.iterdir()}
    assert is_running(run) is False
    with forked.start("watch", run, output=tmp_path / "once") as watching:
        assert watching.wait(60) == 0
    code, sent = forked.on_a_terminal("watch", run, columns=80)
    assert code == 0
    for shown in ((tmp_path / "once").read_text(), sent):
        assert "not running" in shown
        assert "to go" not in shown
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", shown)
        assert f"\nltdd distill --out '{run}' --resume\n" in plain
    assert {file.name: file.read_bytes() for file in run.iterdir()} == files


def test_what_is_no_run_gets_one_line(ltdd, tmp_path):
    assert "is not the folder of a run" in one_line_error(ltdd("watch", tmp_path))
    assert "nothing: there is no such file or folder" in one_line_error(ltdd("watch", tmp_path / "nothing"))


def test_a_running_run_is_followed_to_its_end_in_a_terminal(tmp_path):
    """Both are real processes; the watching one has a pseudo-terminal with colours."""
    run = tmp_path / "run"
    with distilling_into(run, iterations=40) as distilling:
        distilling.send_signal(signal.SIGSTOP)
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        with subprocess.Popen([LTDD, "watch", str(run)], stdout=theirs, stderr=theirs, env=environment) as watching:
            os.close(theirs)
            text = os.read(ours, 10000)  # the first look
            distilling.send_signal(signal.SIGCONT)
            while piece := forked.read(ours):
                text += piece
            assert watching.wait(60) == 0
        assert distilling.wait(60) == 0
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.decode())
    assert re.search(r" \d+/40", plain)
    assert "40/40" in plain
    assert plain.index("it/s" if "it/s" in plain else "first steps") < plain.index("finished, ")
    assert re.search(r"distilled, direct +\d", plain)
    assert plain.count("▀") >= 10 * 2 * 8 * 4  # two images of each class
    assert b"38;2;" in text


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 80))
def test_the_curve_is_as_wide_as_said_and_its_ends_are_the_extremes(values, width):
    drawn = curve(values, width)
    assert len(drawn) == min(width, len(values))
    if len(values) <= width and max(values) > min(values):
        assert drawn[values.index(max(values))] == BLOCKS[-1]
        assert drawn[values.index(min(values))] == BLOCKS[0]


def test_small_pictures_have_the_colours_of_the_images(finished, tmp_path):
    distilled = load_distilled(finished)
    levels = torch.arange(20) * 12 / 255
    pixels = levels[:, None, None, None].expand(20, *distilled.images.shape[1:])
    grey = dataclasses.replace(distilled, images=distilled.normalisation.apply((pixels * 255).round().byte()))
    save_picture(tmp_path / "grey.png", grey)
    expected = [[24 * label, 24 * label + 12] for label in range(10)]
    for lines, shown in ((None, range(10)), (15, (0, 4, 9)), (3, ())):
        pictures = list(small_picture(tmp_path / "grey.png", 100, lines))
        found = []
        for picture in pictures:
            colours = [span.style.color.triplet.red for span in picture.spans]
            assert len(set(colours)) == 2
            found.append([colours[0], colours[8]])
        assert len(found) == len(shown)
        for own, label in zip(found, shown, strict=True):
            assert own == pytest.approx(expected[label], abs=1)  # a level, in drawing
    (tmp_path / "other.png").write_bytes(b"nothing")
    (line,) = small_picture(tmp_path / "other.png", 100, None)
    assert line.plain.endswith("other.png is damaged and not shown")
    assert list(small_picture(tmp_path / "none.png", 100, None)) == []


# ---- dashboards ----------------------------------------------------------------------------------


def scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    return {tag: events.Scalars(tag) for tag in tags["scalars"]}, tags["images"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_has_every_step_once_though_the_run_was_interrupted(ltdd, tmp_path, monkeypatch):
    run, command = tmp_path / "run", ["distill", "--method", "dm", "--plugin", "tensorboard", *TINY[2:]]
    command += ["--set", "compute.checkpoint_every=2", "--iterations", "6", "--out", tmp_path / "run"]
    original = ltdd_tensorboard.ltdd_step_finished

    def power_cut(run, step, metrics):
        original(run, step, metrics)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ltdd_tensorboard, "ltdd_step_finished", ltdd_tensorboard.hookimpl(power_cut))
        assert ltdd(*command).exit_code == 130
    assert ltdd(*command, "--resume").exit_code == 0
    found, images = scalars(run)
    expected = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event.step for event in found["step/loss"]] == [entry["step"] for entry in expected]
    assert [event.value for event in found["step/loss"]] == pytest.approx([entry["loss"] for entry in expected])
    for row in json.loads((run / "report.json").read_text())["rows"]:
        (event,) = found[f"accuracy/{row['name']}"]
        assert event.value == pytest.approx(row["accuracy"])
    assert images == ["distilled"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_closes_its_file_where_a_picture_fails(ltdd, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("no picture")

    monkeypatch.setattr("torchvision.utils.make_grid", fails)
    result = ltdd("distill", "--method", "dm", "--plugin", "tensorboard", *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert "no picture" in result.stderr
    assert ltdd_tensorboard._writers == {}


def test_trackio_has_the_curves_and_json_stays_json(tmp_path):
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [LTDD, "distill", "--method", "dm", "--plugin", "trackio", *TINY, "--json", "--out", "a"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    rows = json.loads(done.stdout)["rows"]
    tool = str(Path(sys.executable).with_name("trackio"))
    asked = [tool, "get", "metric", "--project", "ltdd", "--run", "a", "--json", "--metric"]
    for name, values in (
        ("loss", [json.loads(line)["loss"] for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]),
        ("accuracy/distilled, direct", [rows[1]["accuracy"]]),
    ):
        answer = subprocess.run([*asked, name], capture_output=True, text=True, env=environment, check=True)
        found = [entry["value"] for entry in json.loads(answer.stdout)["values"]]
        assert found == pytest.approx(values)


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_dashboard_that_is_not_installed_is_named_and_the_run_goes_on(name, ltdd, tmp_path, monkeypatch):
    monkeypatch.setattr(f"ltdd_{name}.find_spec", lambda package: None)
    result = ltdd("distill", "--method", "dm", "--plugin", name, *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert f"pip install 'ltdd[{name}]'" in result.stderr
    assert name in json.loads((tmp_path / "run" / "report.json").read_text())["detached_plugins"]
