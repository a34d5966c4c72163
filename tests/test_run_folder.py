"""The folder of a run: claimed when it is named, refused early, and gone again where nothing was written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, one_line_error

from ltdd_core import InputError, configure, distill
from ltdd_core.runs.folder import RunFolder, claimed, new_folder

TRAIN = ("train", "--network", "mlp", "--set", "training.original.epochs=1")
DISTIL = ("distill", "--method", "dm", *TINY)


def in_background(*command):
    program = "from ltdd_core.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", program, *command], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("command", [TRAIN, DISTIL])
def test_two_commands_at_once_without_a_folder_both_keep_their_results(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = [in_background(*command, "--threads", "1") for _ in range(2)]
    messages = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], messages
    assert len(list(Path("runs").glob("*/report.json"))) == 2


def test_every_new_folder_has_a_number_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(new_folder("a")) for _ in range(3)] == ["runs/a-1", "runs/a-2", "runs/a-3"]


def test_a_claimed_folder_in_which_nothing_was_written_is_gone_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (None, Path("deep/er/x")):
        with claimed(out, "a") as path, RunFolder(path).locked():
            assert path.is_dir()
        assert list(tmp_path.iterdir()) == []
    Path("mine").mkdir()
    with claimed(Path("mine"), "a"):
        pass
    assert Path("mine").is_dir()  # it was there before
    with claimed(None, "a") as path:
        (path / "config.yaml").touch()
    assert path.is_dir()


def test_a_wrong_input_leaves_no_folder(ltdd):
    one_line_error(ltdd("distill", "--method", "dm", "--data", "folder", "--root", "gone"))
    one_line_error(ltdd("train", "--data", "folder", "--root", "gone", "--out", "a/b"))
    assert list(Path().iterdir()) == []


def test_a_place_where_no_folder_can_be_is_refused_before_any_work(ltdd, monkeypatch):
    Path("file").touch()
    assert "cannot write file/x: Not a directory" in one_line_error(ltdd(*TRAIN, "--out", "file/x"))
    assert "cannot write file/x: Not a directory" in one_line_error(ltdd(*DISTIL, "--out", "file/x"))
    assert "file is a file; a run needs a folder" in one_line_error(ltdd(*TRAIN, "--out", "file"))
    monkeypatch.setattr("ltdd_core.distillation.distill.load_long_tailed", None)  # the data are not even loaded
    with pytest.raises(InputError, match="file/x cannot be made"):
        distill(configure(method="dm"), "file/x")


def test_train_which_cannot_resume_does_not_advise_it(ltdd):
    assert ltdd(*TRAIN, "--out", "x").exit_code == 0
    message = one_line_error(ltdd(*TRAIN, "--out", "x"))
    assert message == "Error: x holds a run already, or name another folder with --out."


def test_resume_without_a_folder_takes_the_unfinished_run(ltdd):
    assert ltdd(*DISTIL).exit_code == 0
    (finished,) = Path("runs").iterdir()
    unfinished = finished.with_name(finished.name.replace("-1", "-2"))
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    os.utime(unfinished, (1, 1))
    assert ltdd(*DISTIL, "--resume").exit_code == 0
    assert (unfinished / "report.json").exists()
