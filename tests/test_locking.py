"""Locks between processes, and file systems that have none."""

import errno
import fcntl
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import TINY, one_line_error

from ltdd_core import InputError, locking
from ltdd_core.locking import locked

HOLD = """
import sys, time
from pathlib import Path
from ltdd_core.locking import locked
with locked(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holding(path, seconds):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_lock_keeps_another_process_out_until_that_is_killed(tmp_path):
    path = tmp_path / ".lock"
    other = holding(path, 60)
    with locked(path, wait=False) as mine:
        assert not mine
    with other:
        other.kill()
    with locked(path, wait=False) as mine:
        assert mine


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path):
    with holding(tmp_path / ".lock", 0.5), locked(tmp_path / ".lock", wait=True) as mine:
        assert mine


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot write .*No such file or directory"),
        locked(tmp_path / "a/b", wait=False),
    ):
        pass


@pytest.fixture
def lock_error(monkeypatch):
    def refuse(number):
        def flock(handle, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(locking, "_said", set())

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once_and_work_goes_on(tmp_path, lock_error, number):
    lock_error(number)
    said = []
    for _ in range(3):
        with locked(tmp_path / ".lock", wait=False, warn=said.append) as mine:
            assert mine
    assert said == [
        f"the file system of {tmp_path} has no locks: see that no two processes work in one folder at once."
    ]
    with warnings.catch_warnings(record=True), locked(tmp_path / ".lock", wait=True) as mine:
        assert mine


def test_a_run_works_where_there_are_no_locks(ltdd, lock_error):
    lock_error(errno.ENOLCK)
    result = ltdd("distill", "--method", "dm", *TINY, "--out", "x")
    assert result.exit_code == 0
    assert result.stderr.count("has no locks") == 1
    assert Path("x/report.json").exists()


def test_another_error_of_a_lock_is_one_line(ltdd, lock_error):
    lock_error(errno.EIO)
    message = one_line_error(ltdd("distill", "--method", "dm", *TINY, "--out", "x", "--quiet"))
    assert message == "Error: x cannot be locked: Input/output error."
    assert not Path("x").exists()
