"""Machines as people have them: containers, Windows, systems that refuse, and numbers that no machine can take."""

import errno
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import one_line_error

HERE = Path(__file__).parents[1]


def python(program, **settings):
    environment = {**os.environ, **settings}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE)


def test_nothing_that_windows_lacks_is_imported_with_the_package():
    """Blocked for our own modules alone: what others import is for them to know."""
    done = python(
        """
        import importlib, importlib.abc, pkgutil, signal, sys
        from pathlib import Path

        UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "curses", "readline"}

        class OnWindows(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                frame = sys._getframe(1)
                while frame and "importlib" in frame.f_code.co_filename:
                    frame = frame.f_back
                if name in UNIX and frame and frame.f_globals.get("__name__", "").startswith("ltdd"):
                    raise ImportError(f"{frame.f_globals['__name__']} imports {name}")

        from torch.utils import data  # the libraries have what they need already
        for name in UNIX:
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, OnWindows())
        del signal.SIGHUP
        names = ["ltdd_core", *(folder.name for folder in Path("plugins").glob("ltdd_*"))]
        for name in names:
            package = importlib.import_module(name)
            for module in pkgutil.walk_packages(package.__path__, f"{name}."):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)
        print(len([name for name in sys.modules if name.startswith("ltdd")]))
        """
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_the_usual_threads_follow_the_quota_of_a_container():
    program = "from ltdd_core.runs.devices import usual_threads; print(usual_threads())"
    script = f"""
        mount -t tmpfs none /sys/fs/cgroup && echo "50000 100000" > /sys/fs/cgroup/cpu.max || exit 77
        exec {sys.executable} -c '{program}'
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS",)}
    try:
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if done.returncode in (1, 77):
        pytest.skip(f"no namespace for a test: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_who_says_how_many_threads_gets_them(monkeypatch):
    import torch

    from ltdd_core.config.model import Compute
    from ltdd_core.runs.devices import computing, usual_threads

    before = torch.get_num_threads()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usual_threads() == before  # the variable was read when torch was loaded
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert usual_threads() == 1
    for asked, given in ((None, 1), (2, 2)):
        with computing(Compute(threads=asked), torch.device("cpu")):
            assert torch.get_num_threads() == given
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1025, 100_000, 99_999_999_999])
def test_more_threads_than_a_machine_can_start_are_one_line(threads, ltdd):
    message = one_line_error(ltdd("train", "--threads", threads))
    assert message == f"Error: --threads: compute.threads must be at most 1024, not {threads}."


def test_more_images_than_memory_holds_are_one_line(ltdd):
    message = one_line_error(ltdd("distill", "--method", "dm", "--ipc", 10**9, "--out", "x"))
    assert re.fullmatch(r"Error: 10000000000 synthetic images take 2\.6 TB, and .* of memory: lower --ipc\.", message)
    assert "at most 1000000000, not 99999999999" in one_line_error(
        ltdd("distill", "--method", "dm", "--ipc", 99999999999)
    )
    assert not Path("x").exists()


def test_a_signal_ends_the_drawing_of_many_initial_images(monkeypatch):
    from ltdd_core import Interrupted, configure
    from ltdd_core.distillation.initial import initial_images
    from ltdd_core.setup import Setup
    from ltdd_core.training.augment import Augmentation

    drawn, draw = [], Augmentation.draw

    def counted(self, *arguments):
        drawn.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, *arguments)

    monkeypatch.setattr(Augmentation, "draw", counted)
    with pytest.raises(Interrupted), Setup.open(configure(method="dm", data="digits-lt", ipc=500)) as setup:
        initial_images(setup)
    assert len(drawn) == 1


def test_a_plugin_that_is_not_there_cannot_be_blocked(ltdd):
    assert "Did you mean 'twostage'?" in one_line_error(ltdd("--block", "dm,twostge", "plugins"))


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_that_wait_do_not_take_a_core_from_others(given, spins):
    ending = "import atexit, os; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT')))"
    script = f"{ending}; from ltdd_core.cli import main; main()"
    others = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", script, "--version"]
    said = subprocess.run(command, env=others | given, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.splitlines()[-1] == spins


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_a_network_is_trained_in_memory_that_the_process_has_already():
    """Without, each step of this network asks the system for some ten thousand pages."""
    script = """
        import resource, torch
        from ltdd_core import make_network
        from ltdd_core.config.model import Compute
        from ltdd_core.runs.devices import computing
        network, images = make_network("convnet-d3", (3, 32, 32), 10), torch.zeros(32, 3, 32, 32)
        def faults():
            network(images).sum().backward()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with computing(Compute(threads=1), torch.device("cpu")):
            first = [faults() for _ in range(8)]
            print([faults() for _ in range(3)][-1] - first[-1])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert (
        int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout) < 10_000
    )  # of some 40,000


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "ltdd_core", "data", "shw"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: unknown command of ltdd data 'shw'. Did you mean 'show'?")


def test_a_name_that_is_too_long_is_one_line(ltdd, finished):
    result = ltdd("export", finished, "--format", "npz", "--out", "x" * 300)
    assert (result.exit_code, result.stderr) == (1, f"Error: {'x' * 300}: File name too long.\n")


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300 + ".png",
        pytest.param("/proc/x.png", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux")),
    ],
)
@pytest.mark.parametrize("command", [("data", "show", "--picture"), ("predict", "run", "run", "--csv")])
def test_a_file_that_cannot_be_written_is_noticed_before_any_image_is_read(command, name, ltdd, finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    for read in ("ltdd_core.data.load.load_long_tailed", "ltdd_core.evaluation.stored.load_classifier"):
        monkeypatch.setattr(read, lambda *arguments, **more: pytest.fail("nothing needs to be read"))
    assert one_line_error(ltdd(*command, name)).startswith(f"Error: cannot write {name}: ")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EDQUOT])
def test_what_a_system_refuses_is_one_line_whatever_was_done(number, ltdd, monkeypatch):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number), "a file")

    monkeypatch.setattr("ltdd_core.data.load.load_long_tailed", refuse)
    result = ltdd("data", "show")
    assert (result.exit_code, result.stderr) == (1, f"Error: a file: {os.strerror(number)}.\n")


def test_what_is_no_refusal_stays_a_bug(ltdd, monkeypatch):
    monkeypatch.setattr("ltdd_core.data.load.load_long_tailed", lambda *arguments: Path("gone").read_text())
    assert isinstance(ltdd("data", "show").exception, FileNotFoundError)
