"""Standard streams as a command may find them: full, closed, a pipe that nobody reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

LTDD = str(Path(sys.executable).with_name("ltdd"))
FULL = "Error: cannot write to standard output: No space left on device.\n"


def run(script, folder, **settings):
    environment = {**os.environ, "LTDD": LTDD, **settings}
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["data show", "data show --json", "describe matcher dm", "--help", "--version"])
def test_a_standard_output_on_a_full_disk_is_one_line(command, unbuffered, tmp_path):
    done = run(f'"$LTDD" {command} >/dev/full', tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, FULL)


def test_a_pipe_that_nobody_reads_is_silent(tmp_path):
    done = run('"$LTDD" data show | true; exit ${PIPESTATUS[0]}', tmp_path)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "2> >(true)"])
def test_a_run_does_not_need_its_streams(closed, tmp_path):
    done = run(f'"$LTDD" distill --method dm {" ".join(TINY)} --out x {closed}', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "x" / "report.json").exists()
    assert "Traceback" not in done.stderr
    assert (tmp_path / "x" / ".lock").read_text() == ""  # nobody's output ends up in a file of the run
