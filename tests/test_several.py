"""Several processes that share a run come to the run of one process, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch
from conftest import TINY

from ltdd_core import cli as commands, ranks
from ltdd_core.cli import plugins
from ltdd_core.cli.several import _help_with
from ltdd_core.errors import InputError, Interrupted, RunFailed
from ltdd_core.processes import most_processes
from ltdd_core.ranks import OtherEnded
from ltdd_core.runs.stop import INTERRUPTED
from ltdd_core.storage import load_tensors

TEACHERS = ["--set", "matcher.teacher.count=2", "--set", "matcher.teacher.epochs=2"]
EXPERTS = ["--set", "matcher.experts.count=2", "--set", "matcher.experts.epochs=3", "--set", "matcher.syn_steps=2"]
METHODS = {
    "dc": ["--set", "matcher.outer_loop=2", "--set", "matcher.inner_loop=1"],
    "dsa": ["--set", "matcher.outer_loop=2", "--set", "matcher.inner_loop=1"],
    "dm": ["--init", "keep"],
    "idm": [],
    "mtt": EXPERTS,
    "datm": EXPERTS,
    "lad": EXPERTS,
    "uni-level": TEACHERS,
    "sre2l": [*TEACHERS, "--set", "matcher.batch=17", "--ipc", "8"],
    "dance": TEACHERS,
    "ncfm": [*TEACHERS, "--set", "matcher.sampling=network"],
}


def command(out, processes, *more, method="dm"):
    store = ["--store", str(Path(out).parent / f"store{processes}")]
    shared = ["--processes", str(processes), "--threads", "1", *store, "--out", str(out)]
    return ["distill", "--method", method, *TINY, *shared, *more]


def ended(words, folder, code, **environment):
    """What a command prints, on both streams, by the time that it ends as it should."""
    streams = [folder / f"{len(list(folder.iterdir()))} {name}" for name in ("output", "errors")]
    process = forked.start(*words, environment=os.environ | environment, output=streams[0], errors=streams[1])
    assert process.wait(300) == code, streams[1].read_text()
    return SimpleNamespace(stdout=streams[0].read_text(), stderr=streams[1].read_text())


def run(out, processes, *more, method="dm"):
    return ended(command(out, processes, *more, method=method), out.parent, 0)


def set_of(out):
    return load_tensors(out / "distilled.safetensors")[0]


def assert_same_set(first, second, atol=1e-5):
    one, other = set_of(first), set_of(second)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=atol)


def test_two_processes_come_to_the_run_of_one_and_another_number_resumes_it(tmp_path):
    """The steps, the networks and the table; and a run of two processes goes on in three."""
    run(tmp_path / "one", 1, "--plugin", "twostage", "--iterations", "6")
    two = run(tmp_path / "two", 2, "--plugin", "twostage", "--json")
    assert json.loads(two.stdout)["run"] == str(tmp_path / "two")
    assert two.stderr.count("the run is in") == 1
    assert not [path for path in (tmp_path / "two").iterdir() if path.name.startswith(".") and path.name != ".lock"]
    run(tmp_path / "two", 3, "--plugin", "twostage", "--iterations", "6", "--resume")
    assert_same_set(tmp_path / "one", tmp_path / "two")
    tables = [json.loads((tmp_path / name / "report.json").read_text())["rows"] for name in ("one", "two")]
    for one, two in zip(*tables, strict=True):
        assert one["name"] == two["name"]
        assert abs(one["accuracy"] - two["accuracy"]) < 2
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert [len(lines) for lines in logs] == [6, 6]
    for line, other in zip(*logs, strict=True):
        assert json.loads(line)["loss"] == pytest.approx(json.loads(other)["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_to_the_set_of_one_process(tmp_path, method, processes):
    run(tmp_path / "one", 1, *METHODS[method], method=method)
    run(tmp_path / "several", processes, *METHODS[method], method=method)
    by_adamw = method == "ncfm"  # which makes the rounding of small gradients larger
    assert_same_set(tmp_path / "one", tmp_path / "several", atol=2e-2 if by_adamw else 1e-5)
    one, other = (load_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("one", "several"))
    for name in (name for name in one if name.startswith("psi: ")):
        torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-4)


def helper_of(process):
    """The pid of the process with rank 1, or None."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"RANK=1\0" in (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return None


CLASSIFIERS = ("--network", "convnet-d3", "--set", "network.norm=batch", "--set", "network.width=4", "--threads", "1")


def without_seconds(told):
    """A document without what is measured, and without its place."""
    if isinstance(told, dict):
        return {key: without_seconds(value) for key, value in told.items() if "seconds" not in key and key != "run"}
    return [without_seconds(each) for each in told] if isinstance(told, list) else told


def assert_same_result(first, second):
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (first, second))
    assert without_seconds(one) == without_seconds(other)
    said, again = (load_tensors(folder / "predictions.safetensors")[0] for folder in (first, second))
    assert said.keys() == again.keys()
    assert all(torch.equal(said[name], again[name]) for name in said)
    kept = [{file.name for file in (folder / "classifiers").iterdir()} for folder in (first, second)]
    assert kept[0] == kept[1]


def trained(err):
    """The networks that a process says it has trained."""
    return [line for line in err.splitlines() if line.startswith("training a network:")]


def test_processes_train_other_classifiers_of_a_table_each(ltdd, finished, tmp_path):
    """Bit for bit those of one process, batch normalisation or not; by ``--processes`` and by torchrun."""
    words = ["train", "--head", "linear", "--head", "cosine", "--repeats", "2", *CLASSIFIERS]
    words += ["--set", "training.original.epochs=2"]
    alone = ltdd(*words, "--out", tmp_path / "one")
    assert len(trained(alone.stderr)) == 4
    two = ended([*words, "--processes", "2", "--out", tmp_path / "two"], tmp_path, 0)
    assert len(trained(two.stderr)) == 2
    assert all("seed 0" in line for line in trained(two.stderr))
    assert two.stderr.count("the result is in") == 1
    assert_same_result(tmp_path / "one", tmp_path / "two")

    words = ["evaluate", str(finished), "--repeats", "2", "--network", "mlp", "--quality", "--threads", "1", "--json"]
    ltdd(*words, "--store", tmp_path / "one", "--out", tmp_path / "three")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ltdd_core"]
    four = subprocess.run(
        [*torchrun, *words, "--store", tmp_path / "two", "--out", tmp_path / "four"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert four.returncode == 0, four.stderr
    assert not [line for line in trained(four.stderr) if "seed 1" in line]
    assert json.loads(four.stdout)["run"] == str(tmp_path / "four")
    assert_same_result(tmp_path / "three", tmp_path / "four")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process by /proc")
def test_a_process_that_works_on_its_own_notices_that_another_one_is_killed(tmp_path):
    words = ["train", "--repeats", "2", *CLASSIFIERS, "--set", "training.original.epochs=100000", "--no-compile"]
    words += ["--processes", "2", "--out", str(tmp_path / "out")]
    with forked.start(*words, errors=tmp_path / "errors") as running:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "out").glob("networks/.*.lock"))) < 2:
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.1)
        time.sleep(1)  # for an epoch to be kept
        os.kill(helper_of(running), signal.SIGKILL)
        began = time.monotonic()
        code = running.wait(60)
    assert time.monotonic() - began < 30
    assert code == 1
    err = (tmp_path / "errors").read_text()
    assert err.count("another process of this run has ended: stopped; finished networks are kept in") == 1
    assert len(list((tmp_path / "out" / "networks").glob("*.unfinished"))) == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process by /proc")
@pytest.mark.parametrize("moment", [2, *(pytest.param(steps, marks=pytest.mark.slow) for steps in range(10, 100, 10))])
def test_a_killed_process_ends_the_others_within_seconds_and_the_run_goes_on(tmp_path, moment):
    out, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    words = command(out, 2, "--iterations", "100000", "--set", "compute.checkpoint_every=1")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with forked.start(*words, environment=environment, errors=tmp_path / "errors") as running:
        log, deadline = out / "metrics.jsonl", time.monotonic() + 120
        while not log.exists() or log.read_bytes().count(b"\n") < moment:
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.01)
        assert [path.name for path in temporary.glob("ltdd-*/ltdd-*/*")] == ["run"]
        os.kill(helper_of(running), signal.SIGKILL)
        began = time.monotonic()
        code = running.wait(60)
    assert time.monotonic() - began < 30
    assert code == 1
    err = (tmp_path / "errors").read_text()
    assert not [*temporary.glob("ltdd-*")]
    assert err.count("another process of this run has ended") == 1
    done = load_tensors(out / "checkpoint.safetensors")[1]["step"]
    assert done >= moment
    more = str(done + 2)
    run(out, 1, "--resume", "--iterations", more)
    run(tmp_path / "whole", 1, "--iterations", more)
    assert_same_set(tmp_path / "whole", out)


def test_more_processes_than_a_machine_holds_are_refused(ltdd):
    refused = ltdd("distill", "--processes", most_processes() + 1)
    assert refused.exit_code == 2
    assert f"use at most {most_processes()} on this machine" in refused.stderr


def test_wrong_input_is_said_once(tmp_path):
    assert ended(command(tmp_path / "x", 2, "--ipc", "x"), tmp_path, 2).stderr.count("Error:") == 1


def test_a_helping_process_that_is_asked_to_stop_says_nothing(monkeypatch, capsys):
    """Whether the command has begun or not: the first process says why."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["ltdd", "plugins"])

    def stopped(*given, **options):
        raise KeyboardInterrupt("SIGTERM: stopped; nothing was written.")

    for group, function in ((commands.cli, "main"), (plugins.command, "invoke")):
        with monkeypatch.context() as patch:
            patch.setattr(group, function, stopped)
            assert commands._run(None) == INTERRUPTED, function
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("2", "others do not say how they meet"),
        ("many", "WORLD_SIZE is 'many', and no number of processes: unset it."),
        ("0", "WORLD_SIZE is '0', and no number of processes: unset it."),
    ],
)
def test_variables_that_torchrun_has_not_set_are_one_line(tmp_path, monkeypatch, size, said):
    for name in [name for name in os.environ if name.startswith("MASTER_")]:
        monkeypatch.delenv(name)
    refused = ended(command(tmp_path / "x", 1), tmp_path, 2, WORLD_SIZE=size, RANK="0")
    assert said in refused.stderr
    assert refused.stderr.count("Error:") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("error", "of_machine", "heard"),
    [
        (InputError("no such folder"), "0", "process 3: no such folder\n"),  # as on a machine that lacks the data
        (InputError("no such folder"), "1", ""),  # the first process of its machine says so
        (RunFailed("out of memory"), "1", "process 3: out of memory\n"),
        (OtherEnded("another process has ended"), "0", ""),
        (Interrupted("SIGTERM"), "0", ""),
    ],
)
def test_a_helping_process_says_what_may_be_wrong_with_it_alone(monkeypatch, capsys, error, of_machine, heard):
    def work():
        print("a table")
        raise error

    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", of_machine)
    with pytest.raises(SystemExit) as ended:
        _help_with(work)
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", heard)


# ---- what ranks do -------------------------------------------------------------------------------


def test_one_process_does_everything():
    assert (ranks.rank(), ranks.count()) == (0, 1)
    assert list(ranks.share_of_classes(3)) == [0, 1, 2]
    assert ranks.share_of(5) == slice(0, 5)
    assert ranks.agreed({"a": 1}) == {"a": 1}
    assert torch.equal(ranks.put_together(torch.ones(2)), torch.ones(2))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 5, 20])
def test_shares_are_everything_once(monkeypatch, number, processes):
    monkeypatch.setattr(ranks, "count", lambda: processes)
    shares, batches, classes = [], [], []
    for rank in range(processes):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(range(number)[ranks.share_of(number)])
        batches.append(range(number)[ranks.share_of_batch(number)])
        classes += ranks.share_of_classes(number)
    assert [one for share in shares for one in share] == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [one for batch in batches for one in batch] == list(range(number))
    assert len(batches[0]) == number or min(map(len, batches)) >= ranks.LEAST_SHARED
    assert sorted(classes) == list(range(number))


EXCHANGES = """
import sys, torch
from pathlib import Path
from ltdd_core import ranks
from ltdd_core import make_network
from ltdd_core.networks.store import NetworkStore
from ltdd_mtt.student import Student
with ranks.joined():
    me = ranks.rank()
    assert ranks.agreed(f"of {me}") == "of 0"
    first, second = torch.full((2, 3), me + 1.0), torch.tensor(10.0 * me)
    ranks.summed_over_processes(first, second)
    assert first.tolist() == [[6.0] * 3] * 2 and float(second) == 30.0, (first, second)
    parts = ranks.put_together(torch.full((me, 2), me))
    assert parts.tolist() == [[1, 1], [2, 2], [2, 2]], parts
    with ranks.alone():
        assert (ranks.rank(), ranks.count()) == (0, 1) and ranks.agreed(me) == me
    store, done = NetworkStore(Path(sys.argv[1])), []
    def training(number, other):
        assert other.folder == store.folder and other is not store and ranks.count() == 1
        done.append(number)
    store.apart([lambda other, number=number: training(number, other) for number in range(5)], ranks.check)
    assert done == [[0, 3], [1, 4], [2]][me], done
    for other, trainings in ((NetworkStore(), 5), (store, 1)):
        other.apart([lambda other: done.append("everywhere")] * trainings, ranks.check)
    assert "everywhere" not in done  # nobody would find its network, or there is nothing to share
    torch.manual_seed(0)
    network = make_network("convnet-d3", (1, 8, 8), 10, depth=1, width=4)
    theta, images = torch.cat([value.detach().flatten() for value in network.parameters()]), torch.randn(25, 1, 8, 8)
    student, labels = Student(network, precision="fp32", compiled=False, chunk=4), torch.rand(25, 10)
    forward, seen = student._forward, []
    student._forward = lambda values, part, dtype: seen.append(len(part)) or forward(values, part, dtype)
    pull = lambda: student.pullback(theta, images, labels, theta.square(), theta_too=True)
    together = [student.gradient(theta, images, labels), *pull()]
    assert sum(seen) == 2 * [9, 8, 8][me], seen
    with ranks.alone():
        for one, other in zip([student.gradient(theta, images, labels), *pull()], together, strict=True):
            torch.testing.assert_close(other, one)
    if me == 2:
        sys.exit(0)
    try:
        ranks.met()
    except BaseException as error:
        print(type(error).__name__, error)
"""


def test_what_processes_exchange(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environments = [
        {**os.environ, "RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(3)
    ]
    started = [
        subprocess.Popen([sys.executable, "-c", EXCHANGES, tmp_path], env=env, stdout=subprocess.PIPE, text=True)
        for env in environments
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert all(text.startswith(f"{OtherEnded.__name__} another process of this run has ended") for text in said[:2])
