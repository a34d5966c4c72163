"""Ctrl-C, SIGTERM and SIGHUP: whenever they come, a command ends with one line and exit code 130."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import forked
import pytest
import torch
from conftest import TINY
from PIL import Image

from ltdd_core import Interrupted, configure, distill, load_distilled
from ltdd_core.runs.stop import StopRequest
from ltdd_core.storage import load_tensors
from ltdd_dc.matcher import DatasetCondensation, SiameseCondensation
from ltdd_dm.matcher import DistributionMatcher
from ltdd_mtt.matcher import TrajectoryMatcher

LTDD = str(Path(sys.executable).with_name("ltdd"))
HOOK = """
import os, signal, sys
event, text, count = os.environ["AT"].split()
names = os.environ["SIGNALS"].split()
seen = []

def look(name, arguments):
    if name == event and arguments and any(text in str(each) for each in arguments[:2]) and len(seen) < int(count):
        seen.append(1)
        if len(seen) == int(count):
            for each in names:
                os.kill(os.getpid(), getattr(signal, each))

sys.addaudithook(look)
"""
"""Sends the process its signals when an audit event, as of an import or of opening a file, comes for the n-th time."""

NOTHING = "stopped; nothing was written."


@pytest.fixture(autouse=True)
def _hang_ups_count():
    """Under nohup they are ignored here, and in all commands that are started from here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def stopped(tmp_path):
    """Run a command in a folder of its own, with signals at a moment; its exit code and its stderr.

    The moments of the imports are those of the installed command.
    """
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "here").mkdir()

    def run(at, signals, *arguments, installed=False):
        environment = {**os.environ, "AT": at, "SIGNALS": signals}
        if not installed:
            errors = tmp_path / f"errors-{len(list(tmp_path.iterdir()))}"
            where = {"folder": tmp_path / "here", "environment": environment, "errors": errors}
            return forked.start(*arguments, before=HOOK, **where).wait(), errors.read_text()
        environment["PYTHONPATH"] = str(tmp_path / "hook")
        command = [LTDD, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    return run


def images(folder):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), (60 * index, 10, 20)).save(folder / name / f"{index}.png")


# ---- the command line ----------------------------------------------------------------------------

DISTILL = ("distill", "--method", "dm", *TINY, "--out", "x")


@pytest.mark.parametrize(
    ("at", "number", "command"),
    [
        ("import click 1", "SIGINT", ("plugins",)),
        ("import torch 1", "SIGHUP", DISTILL),
        ("open matcher.cpython 1", "SIGTERM", DISTILL),
        ("open 2.png 1", "SIGTERM", ("train", "--data", "folder", "--root", "../images")),
        ("import ltdd_report.page 1", "SIGTERM", ("report", "../run")),
        ("tempfile.mkdtemp .x- 1", "SIGTERM", ("export", "../run", "--format", "folder", "--out", "x")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_signal_where_nothing_is_at_stake_ends_the_command_there(at, number, command, stopped, finished, tmp_path):
    images(tmp_path / "images")
    shutil.copytree(finished, tmp_path / "run")
    before = sorted(tmp_path.rglob("*.*"))
    assert stopped(at, number, *command, installed=True) == (130, f"Interrupted: {number}: {NOTHING}\n")
    assert [path for path in sorted(tmp_path.rglob("*.*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize("at", ["import ltdd_report.watching 1", "open metrics.jsonl 1"])
def test_watching_ends_without_a_word(at, stopped, finished):
    assert stopped(at, "SIGINT", "watch", finished, installed=True) == (130, "")


def test_train_keeps_the_networks_that_it_has_finished(stopped, tmp_path):
    train = ("train", "--network", "mlp", "--set", "training.original.epochs=1", "--repeats", "2", "--out", "a run")
    code, said = stopped("os.rename networks/ 1", "SIGTERM", *train, "--quiet")
    kept = "finished networks are kept in a run/networks: run it again with --out 'a run'."
    assert (code, said) == (130, f"Interrupted: SIGTERM: stopped; {kept}\n")
    code, said = stopped("import nothing 1", "SIGTERM", *train)
    assert (code, said.count("training a network")) == (0, 1)
    assert (tmp_path / "here" / "a run" / "report.json").exists()


def test_train_with_a_store_is_just_run_again(stopped, tmp_path):
    train = ("train", "--network", "mlp", "--set", "training.original.epochs=1", "--repeats", "2", "--store", "kept")
    code, said = stopped("os.rename kept/ 1", "SIGTERM", *train, "--quiet")
    assert (code, said) == (130, "Interrupted: SIGTERM: stopped; finished networks are kept in kept: run it again.\n")
    assert not (tmp_path / "here" / "runs").exists()


@pytest.mark.parametrize(
    ("at", "command"),
    [
        ("open cat/2.png 1", ("predict", "../run", "../images")),
        ("open 2.png 2", ("data", "show", "--data", "folder", "--root", "../images", "--picture", "x.png")),
        ("open report.json 1", ("compare", "../run")),
        ("open config.yaml 1", ("evaluate", "../run", "--out", "x")),
        ("import torch 1", ("analyze", "grouping")),
        ("import torch 1", ("export", "../run", "--format", "torch")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_only_reads_is_interrupted_where_it_is(at, command, stopped, finished, tmp_path):
    images(tmp_path / "images")
    shutil.copytree(finished, tmp_path / "run")
    code, said = stopped(at, "SIGINT", *command, installed=at.startswith("import"))
    assert code == 130
    assert said.startswith("Interrupted: SIGINT: stopped")
    assert said.count("\n") == 1


def test_a_teacher_goes_on_from_its_last_epoch(stopped, tmp_path):
    distil = (*DISTILL, "--labeller", "teacher", "--store", "kept", "--set", "labeller.teacher.epochs=40")
    code, said = stopped("os.rename kept/ 1", "SIGINT", *distil, "--quiet")
    how = "what was trained is kept, and the same command goes on."
    assert (code, said) == (130, f"Interrupted: SIGINT: stopped before the first step; {how}\n")
    assert not (tmp_path / "here" / "x").exists()
    code, said = stopped("import nothing 1", "SIGINT", *distil)
    assert code == 0
    assert "beforehand" not in said


def test_experts_keep_the_epochs_that_are_done(stopped, tmp_path):
    small = ("--set", "network.width=4", "--count", "2", "--epochs", "3", "--store", "kept", "--threads", "1")
    code, said = stopped("os.rename kept/ 1", "SIGINT", "experts", "train", *small, "--quiet")
    assert (code, said) == (130, "Interrupted: SIGINT: stopped and saved; the same command resumes.\n")
    code, said = stopped("import nothing 1", "SIGINT", "experts", "train", *small)
    assert code == 0


def test_networks_that_were_trained_before_the_first_step_are_kept(stopped, tmp_path):
    distil = (*DISTILL[:-2], "--init", "herding")
    code, said = stopped("os.rename networks/ 1", "SIGTERM", *distil, "--quiet")
    how = "run it again with --out runs/digits-lt-dm-seed0-1."
    expected = f"Interrupted: SIGTERM: stopped before the first step; trained networks are kept: {how}\n"
    assert (code, said) == (130, expected)
    code, said = stopped("import nothing 1", "SIGTERM", *distil, "--out", "runs/digits-lt-dm-seed0-1")
    assert (code, said.count("training a network: classes on the original set")) == (0, 0)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_images_are_distilled_saves_them(number, stopped, tmp_path):
    distil = (*DISTILL[:-1], "a run", "--quiet")
    code, said = stopped("open times.jsonl 2", number, *distil, installed=number == "SIGTERM")
    assert (code, said) == (
        130,
        f"Interrupted: {number}: stopped and saved. Resume with: ltdd distill --out 'a run' --resume\n",
    )
    assert (tmp_path / "here" / "a run" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "here" / "a run" / "distilled.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "looks", "options"),
    [
        (DatasetCondensation, 12, {"name": "dc", "momentum": 0.5}),  # the images have moved once by then
        (SiameseCondensation, 12, {"name": "dsa", "momentum": 0.5}),
        (TrajectoryMatcher, 3, {"name": "mtt", "experts": {"count": 1, "epochs": 2}, "syn_steps": 2}),
        (DistributionMatcher, 1, {"name": "dm"}),  # with a state that is too large to be copied, see below
    ],
)
def test_a_slow_step_is_ended_inside_and_is_taken_again(kind, looks, options, tmp_path, monkeypatch):
    expert = {"expert_epochs": 1} if options["name"] == "mtt" else {}
    training = {"original": {"epochs": 1}, "distilled": {"epochs": 1}}
    config = configure(ipc=2, iterations=3, data={"n_max": 20, "imbalance": 4}, training=training,
                       network={"name": "convnet-d3", "width": 4, "depth": 2}, matcher={**options, **expert},
                       compute={"store": tmp_path / "networks"})  # fmt: skip
    distill(config, tmp_path / "whole")
    step, check, inside, looked = kind.step, StopRequest.check, [], []

    def looked_at(self):
        looked.extend(inside)
        if len(looked) == looks:
            self.signal = "SIGINT"
        check(self)

    def noted(self, number):
        inside[:] = [number] if number == 1 and len(looked) < looks else []
        return step(self, number)

    monkeypatch.setattr(StopRequest, "check", looked_at)
    monkeypatch.setattr(kind, "step", noted)
    monkeypatch.setattr("ltdd_core.distillation.steps.SLOW_STEP", 0)
    if kind is DistributionMatcher:
        monkeypatch.setattr("ltdd_core.distillation.checkpoint.LARGE_STATE", 0)
    with monkeypatch.context() as patched:
        if kind is DistributionMatcher:
            patched.setattr(kind, "load_state", None)
        with pytest.raises(Interrupted):
            distill(config, tmp_path / "cut")
    assert load_tensors(tmp_path / "cut" / "checkpoint.safetensors")[1] == {"step": 1}
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 1
    looked.append(1)  # enough for no other signal to come
    distill(config, tmp_path / "cut", resume=True)
    assert torch.equal(*(load_distilled(tmp_path / name).images for name in ("whole", "cut")))


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_waits(stopped, tmp_path):
    code, said = stopped("open times.jsonl 2", "SIGINT SIGINT", *DISTILL, "--quiet")
    assert code == 130
    assert said == "Interrupted: SIGINT: stopped at once; what was not saved before is lost.\n"
    assert not (tmp_path / "here" / "x" / "checkpoint.safetensors").exists()
    code, said = stopped("open times.jsonl 2", "SIGTERM SIGTERM", *DISTILL[:-1], "y", "--quiet")
    assert "stopped and saved" in said
    assert (tmp_path / "here" / "y" / "checkpoint.safetensors").exists()


def test_nohup_goes_on(tmp_path):
    script = f"trap '' HUP; '{LTDD}' plugins >/dev/null & wait $!"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "AT": "import click 1", "SIGNALS": "SIGHUP"}
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    assert subprocess.run(["bash", "-c", script], env=environment, capture_output=True).returncode == 0


GRID = """
data: [{name: digits-lt, n_max: 60}]
ipc: [1]
methods: [{method: dm, iterations: 2, label: a}, {method: dm, iterations: 3, label: b}]
common: {network: mlp, training: {original: {epochs: 1}, distilled: {epochs: 1}}, compute: {threads: 1, device: cpu}}
"""


def test_a_signal_between_two_cells_of_a_grid_stops_before_the_next(stopped, tmp_path):
    (tmp_path / "here" / "grid.yaml").write_text(GRID)
    code, said = stopped("os.rename out/table.md 2", "SIGTERM", "bench", "grid.yaml", "--out", "out", "--quiet")
    assert (code, said) == (
        130,
        "Interrupted: SIGTERM: stopped; what is finished is kept, the same command resumes it.\n",
    )
    assert len(list((tmp_path / "here").glob("out/runs/*"))) == 1
    assert len(list((tmp_path / "here").glob("out/runs/*/report.json"))) == 1


def test_a_signal_while_a_grid_loads_images_does_not_wait_for_them(stopped, tmp_path):
    images(tmp_path / "images")
    (tmp_path / "here" / "grid.yaml").write_text(GRID.replace("digits-lt, n_max: 60", "folder, root: ../images"))
    code, said = stopped("open cat/1.png 1", "SIGTERM", "bench", "grid.yaml", "--out", "out", "--quiet")
    assert (code, said) == (
        130,
        "Interrupted: SIGTERM: stopped; what is finished is kept, the same command resumes it.\n",
    )


# ---- the blocks ----------------------------------------------------------------------------------


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_block_notes_a_signal_and_puts_the_handlers_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted), StopRequest().listening() as stop:  # noqa: PT012
        send(number)
        assert stop.signal == number.name
        stop.check()
    assert signal.getsignal(number) is before


def test_blocks_inside_one_another_share_one_request():
    with pytest.raises(Interrupted), StopRequest().listening() as outer:  # noqa: PT012
        with StopRequest().listening() as inner:
            assert inner is outer
        send(signal.SIGTERM)
        assert outer.signal == "SIGTERM"
        with StopRequest().listening():
            pytest.fail("a block begins after a signal")


def test_a_signal_at_which_nobody_looked_is_not_lost():
    done = []
    with pytest.raises(Interrupted, match="SIGTERM"), StopRequest().listening():  # noqa: PT012
        send(signal.SIGTERM)
        done.append(1)
    assert done == [1]


def test_where_nothing_is_lost_a_signal_ends_the_block_itself():
    done = []
    with pytest.raises(Interrupted, match="SIGTERM"), StopRequest().listening() as stop, stop.at_once():  # noqa: PT012
        send(signal.SIGTERM)
        done.append(1)
    assert done == []


def test_code_that_survives_every_exception_does_not_survive_a_request_to_stop():
    with pytest.raises(Interrupted), StopRequest().listening() as stop:  # noqa: PT012
        send(signal.SIGTERM)
        try:
            stop.check()
        except Exception:
            pytest.fail("taken for a failure")


def test_a_thread_shares_the_request_of_the_main_one():
    found = []

    def work():
        with StopRequest().listening() as stop:
            found.append(stop)

    with StopRequest().listening() as mine:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [mine]
