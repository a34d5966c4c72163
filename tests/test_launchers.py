"""Launchers: whoever does the runs, the table is the same, nothing is lost, and nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import one_line_error
from test_bench import COMMON, contents, runs_begun, write

from ltdd_core import InputError, Launcher
from ltdd_core.bench.grid import read_grid
from ltdd_core.bench.launch import work_by
from ltdd_core.bench.launcher import Resources
from ltdd_core.bench.local import LocalLauncher, _places
from ltdd_core.bench.task import GridFile, RunTask
from ltdd_core.bench.work import CLAIMS
from ltdd_core.config.layers import from_file
from ltdd_core.locking import locked
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_core.testing import ContractError, check_launcher


class Now:
    """A job that is done as soon as it is submitted, by this process."""

    def __init__(self, task):
        self._task = task

    def done(self):
        return True

    def result(self):
        return self._task()


class Inline(Launcher):
    """A launcher of a stranger, without an engine."""

    def submit(self, task):
        return Now(task)


class Dying(Inline):
    """Whose first workers die, one of them after it has done its run."""

    deaths = 2

    def submit(self, task):
        self.deaths -= 1
        if self.deaths < 0:
            return Now(task)
        last = self.deaths == 0

        def die():
            if last:
                task()
            raise ConnectionError("node\n lost")

        return Now(die)


STRANGER = """
    from ltdd_core import Launcher, hookimpl, option

    class Inline(Launcher):
        \"\"\"This process.\"\"\"
        class Options(Launcher.Options):
            color: str = option("grey", "colour of the process")
        def submit(self, task):
            print("submitted", self.options.color, self.options.retries)
            class Job:
                done = lambda self: True
                result = lambda self: task()
            return Job()

    @hookimpl
    def ltdd_register_launchers(register):
        register("inline", Inline)
"""


class Seen(Display):
    def __init__(self):
        self.told, self.said = [], []

    def warn(self, text):
        self.said.append(text)

    def note(self, text):
        self.said.append(text)

    @contextmanager
    def work(self, what, total, unit, done=0, of=""):
        yield lambda done, **numbers: self.told.append((done, total, numbers)) if what == "bench" else None


def launched(launcher, path, out, *, jobs=None):
    """What failed, what the display was told, and the lines that were reported."""
    catalog, seen, lines = installed(), Seen(), []
    file = GridFile(path, from_file(path).tree, (), out)
    found = work_by(
        launcher,
        Resources(jobs, None, out / "engine"),
        read_grid(path, catalog),
        file,
        catalog=catalog,
        display=seen,
        report=lines.append,
    )
    return found, seen, lines


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A grid of two runs, and what is in its folder when one process has done it."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    folder = tmp_path_factory.mktemp("plain")
    grid = write(folder / "grid.yaml", methods=["dm"])
    result = CliRunner().invoke(cli, ["bench", str(grid), "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    return grid, contents(folder / "out")


# ---- any launcher --------------------------------------------------------------------------------


def test_hook_register_launchers_gives_a_name_and_options_to_the_command_line(ltdd, site, plain, tmp_path):
    site.install("inline", STRANGER)
    grid = write("grid.yaml", methods=["dm"], seeds=[0], launcher={"name": "inline", "color": "red"})
    result = ltdd("bench", grid, "--out", tmp_path / "out", "--set", "launcher.retries=1", "--json")
    assert result.exit_code == 0, result.output
    assert "submitted red 1\n" in result.stderr
    assert json.loads(result.stdout)["rows"]
    assert "launcher.color" in ltdd("describe", "launcher", "inline").stdout
    for words, message in (
        (("--launcher", "inlin"), "unknown launcher 'inlin'. Did you mean 'inline'?"),
        (("--launcher", "local"), None),  # the options in the file are those of the other launcher
        (
            ("--set", "launcher.colour=1"),
            "--set launcher.colour: unknown launcher option 'colour'. Did you mean 'color'?",
        ),
        (("--set", "launcher.retries=-1"), "launcher.retries must be at least 0, not -1."),
        (("--set", "launcher=[1]"), "--set launcher: launcher is a name, or a mapping with a name and options."),
    ):
        result = ltdd("bench", grid, "--out", tmp_path / "out", "--list", *words)
        assert result.exit_code == 0 if message is None else message in one_line_error(result)


def test_runs_are_done_once_and_the_display_counts_them(plain, tmp_path):
    grid, expected = plain
    failures, seen, lines = launched(Inline(Launcher.Options()), grid, tmp_path / "out")
    assert failures == {}
    assert contents(tmp_path / "out") == expected
    assert [line[:8] for line in lines] == ["run 1/2:", "run 2/2:"]
    assert seen.told[-1] == (2, 2, {"running": 0, "failed": 0})
    assert seen.said == []
    assert not list((tmp_path / "out" / CLAIMS).glob("*.worker.json"))
    assert launched(Inline(Launcher.Options()), grid, tmp_path / "out")[2] == []  # nothing is left to do


def test_a_run_whose_worker_died_is_tried_again_a_few_times(plain, tmp_path):
    grid, expected = plain
    failures, seen, _ = launched(Dying(Launcher.Options(retries=1)), grid, tmp_path / "out")
    assert failures == {}
    assert contents(tmp_path / "out") == expected
    lost = "ended with ConnectionError: node lost. The run is tried again; what it had done is kept."
    assert [text.partition(", seed 0 ")[2] for text in seen.said] == [lost]  # the other one had done its run
    failures, seen, lines = launched(Dying(Launcher.Options(retries=0)), grid, tmp_path / "again")
    assert list(failures.values()) == ["its worker ended with ConnectionError: node lost"]
    assert seen.told[-1] == (2, 2, {"running": 0, "failed": 1})
    assert sum(line.startswith("failed: ") for line in lines) == 1
    rows = json.loads((tmp_path / "again" / "table.json").read_text())["rows"]
    assert "node lost" in json.dumps([row["missing"] for row in rows])


def test_what_another_command_has_is_left_to_it(plain, tmp_path):
    grid, expected = plain
    out, cells = tmp_path / "out", read_grid(plain[0], installed()).cells
    (out / CLAIMS).mkdir(parents=True)
    with locked(out / CLAIMS / cells[0].folder, wait=False) as mine:
        assert mine
        file = GridFile(grid, from_file(grid).tree, (), out)
        assert RunTask(file, cells[0].folder)().elsewhere
        said = []
        thread = threading.Thread(target=lambda: said.append(launched(Inline(Launcher.Options()), grid, out)))
        thread.start()
        while not list(out.glob("lines/*")):
            time.sleep(0.01)
        time.sleep(1.5)
        assert not (out / "runs" / cells[0].folder).exists()
    thread.join()
    ((failures, seen, _),) = said
    assert failures == {}
    assert contents(out) == expected
    assert "waiting for other processes, which work on the last run" in seen.said


def test_a_worker_that_lacks_the_folder_says_so(plain, tmp_path, monkeypatch):
    file = GridFile(plain[0], from_file(plain[0]).tree, (), tmp_path / "elsewhere")
    error = RunTask(file, "any")().error
    assert isinstance(error, InputError)
    assert "all workers need the folder of the grid under the same path" in str(error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--jobs", "100000"), "--jobs 100000: this machine has "),
        (("--gpus-per-run", "0.5", "--device", "cpu"), "--gpus-per-run 0.5: compute.device is cpu in "),
        (("--gpus-per-run", "2"), "--gpus-per-run"),
        (("--launcher", "ray"), "Ray is not installed: pip install 'ltdd[ray]'."),
        (("--launcher", "submitit"), "submitit is not installed: pip install 'ltdd[submitit]'."),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(words, message, ltdd, monkeypatch, tmp_path):
    for plugin in ("ltdd_ray", "ltdd_submitit"):
        monkeypatch.setattr(f"{plugin}.launcher.find_spec", lambda name: None)
    result = ltdd("bench", write("grid.yaml"), "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# ---- this machine --------------------------------------------------------------------------------


def test_local_keeps_the_contract(tmp_path):
    check_launcher(LocalLauncher, tmp_path)


def test_a_wrong_launcher_is_caught(tmp_path):
    with pytest.raises(ContractError, match="breaks its contract: a task is done in another process"):
        check_launcher(Inline, tmp_path)


def test_gpus_are_shared_evenly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _places(0.5) == ["0", "1", "0", "1"]
    assert _places(1) == ["0", "1"]
    assert len(_places(1 / 3)) == 6
    assert len(_places(0.1)) == 20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert _places(0.7) == ["3", "5"]
    with pytest.raises(
        InputError, match=r"--jobs 5: with --gpus-per-run 0\.5 the GPUs of this machine have room for 4"
    ):
        LocalLauncher(Launcher.Options()).start(Resources(5, 0.5, Path()))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"--gpus-per-run 1: this machine has no usable CUDA device"):
        LocalLauncher(Launcher.Options()).start(Resources(None, 1, Path()))


# ---- engines, and workers that are killed --------------------------------------------------------


@contextmanager
def ray_cluster():
    """Two nodes on this machine, each with a CPU."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(**small)
        yield ("--launcher", "ray", "--set", f"launcher.address={cluster.address}")
    finally:
        cluster.shutdown()


@contextmanager
def slurm_stand_in():
    yield ("--launcher", "submitit", "--set", "launcher.cluster=local", "--jobs", "2")


@contextmanager
def this_machine():
    yield ("--jobs", "2")


def engine(name, words):
    missing = find_spec(name) is None
    return pytest.param(words, id=name, marks=pytest.mark.skipif(missing, reason=f"{name} is not installed"))


def at_work(out):
    """The process of a worker that has made the first checkpoint of its run; None so far."""
    for path in out.glob(f"{CLAIMS}/*.worker.json"):
        if list(out.glob(f"runs/{path.name.removesuffix('.worker.json')}/checkpoint.safetensors")):
            with suppress(OSError, ValueError):  # it has just ended
                return json.loads(path.read_text())["process"]
    return None


ENGINES = [pytest.param(this_machine, id="local"), engine("submitit", slurm_stand_in), engine("ray", ray_cluster)]


def start(grid, out, words):
    """The command, in a process of its own; its log is beside the folder."""
    main = [sys.executable, "-m", "ltdd_core", "bench", str(grid), "--out", str(out), *words]
    with Path(f"{out}.log").open("w") as log:
        return subprocess.Popen(main, stdout=log, stderr=log)


def a_worker(process, out):
    """The process of a worker, once one is at work."""
    while (worker := at_work(out)) is None and process.poll() is None:
        time.sleep(0.01)
    return worker


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the engines
@pytest.mark.parametrize("launcher", ENGINES)
def test_a_stopped_grid_says_so_in_one_line_and_its_workers_end(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    grid = write(tmp_path / "grid.yaml", seeds=[0, 1], common={**COMMON, "iterations": 100_000})
    out = tmp_path / "out"
    with launcher() as words:
        process = start(grid, out, words)
        a_worker(process, out)
        process.terminate()
        assert process.wait() == 130, Path(f"{out}.log").read_text()
        last = Path(f"{out}.log").read_text().splitlines()[-1]
        assert last == "Interrupted: SIGTERM: stopped; what is finished is kept, the same command resumes it."
        ended = time.monotonic() + 60
        while at_work(out) is not None and time.monotonic() < ended:
            time.sleep(0.1)
        assert at_work(out) is None  # none goes on without the command


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("launcher", ENGINES)
def test_a_killed_worker_costs_nothing_whatever_the_engine(launcher, ltdd, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    grid = write(tmp_path / "grid.yaml", seeds=[0, 1], common={**COMMON, "iterations": 200})
    out = tmp_path / "out"
    with launcher() as words:
        process = start(grid, out, words)
        os.kill(a_worker(process, out), signal.SIGKILL)
        assert process.wait() == 0, Path(f"{out}.log").read_text()
    said = Path(f"{out}.log").read_text()
    assert said.count("The run is tried again") == 1
    begun = runs_begun(out)
    assert len(set(begun)) == 4  # none is lost
    assert len(begun) == 5  # one was begun twice
    assert ltdd("bench", grid, "--out", tmp_path / "whole").exit_code == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
def test_submitit_keeps_the_contract_and_refuses_shares_of_gpus(ltdd, tmp_path):
    component = installed().get("launcher", "submitit").load()
    check_launcher(component, tmp_path, cluster="local")
    words = ("--launcher", "submitit", "--set", "launcher.cluster=local", "--gpus-per-run", "0.5")
    said = one_line_error(ltdd("bench", write("grid.yaml"), "--out", tmp_path / "out", *words))
    assert said == "Error: --gpus-per-run 0.5: Slurm gives whole GPUs to a job; use 1."
