"""A run goes on from another folder, on another machine, or after it or its data have moved."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import TINY, one_line_error
from made_folder import make_folder

from ltdd_core import InputError, read_run
from ltdd_core.runs.facts import other_machine
from ltdd_core.runs.folder import FACTS, RunFolder

COUNTS = {"cat": 6, "dog": 5, "owl": 4}
DISTIL = ("distill", "--method", "dm", "--data", "folder", "--root", "animals", *TINY, "--out", "run")


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """The folder in which a run began, with its data and the run, which is finished."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    here = tmp_path_factory.mktemp("moved") / "began"
    make_folder(here / "animals", COUNTS, sides=(8, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        result = CliRunner().invoke(cli, DISTIL)
    assert result.exit_code == 0, result.output
    return here


@pytest.fixture
def place(began, tmp_path, monkeypatch):
    """A copy of it at a place that the run knows as the one where it began, and another folder to work in."""
    here = shutil.copytree(began, tmp_path / "began")
    facts = json.loads((here / "run" / FACTS).read_text())
    facts["sessions"][-1].update(run=str(here / "run"))
    facts["sessions"][-1]["paths"]["data.root"] = str(here / "animals")
    (here / "run" / FACTS).write_text(json.dumps(facts))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return here


def root_of(run):
    return Path(RunFolder(Path(run)).stored_config()["data"]["root"])


def unfinished(run):
    for name in ("distilled.safetensors", "report.json", "predictions.safetensors"):
        (run / name).unlink()
    return run


def test_a_run_notes_where_its_files_are(began):
    (session,) = json.loads((began / "run" / FACTS).read_text())["sessions"]
    assert (session["run"], session["paths"]["data.root"]) == (str(began / "run"), str(began / "animals"))


def test_the_data_are_looked_for_where_the_run_had_them_then_from_here_then_beside_the_run(
    place, tmp_path, monkeypatch
):
    make_folder(Path("animals"), {"other": 3, "things": 3}, sides=(8, 20))
    assert root_of(place / "run") == place / "animals"  # and not these others of the same name
    moved = place.rename(tmp_path / "moved")
    assert root_of(moved / "run") == Path("animals").absolute()
    shutil.rmtree("animals")
    assert root_of(moved / "run") == moved / "animals"
    monkeypatch.chdir(moved)
    assert root_of("run") == moved / "animals"
    (moved / "animals").rename(tmp_path / "away")
    assert root_of("run") == place / "animals"  # so that a message says where they were


def test_in_the_folder_where_it_began_a_run_says_its_paths_as_they_were_written(place, monkeypatch):
    monkeypatch.chdir(place)
    assert root_of("run") == Path("animals")


def test_every_option_that_is_a_path_is_found_again(place, monkeypatch):
    file, facts = place / "run" / "config.yaml", json.loads((place / "run" / FACTS).read_text())
    (place / "w.pt").touch()
    (place / "kept").mkdir()
    file.write_text(file.read_text().replace("weights: null", "weights: w.pt").replace("store: null", "store: kept"))
    assert "w.pt" in file.read_text()
    facts["sessions"][-1]["paths"] |= {"network.weights": str(place / "w.pt"), "compute.store": str(place / "kept")}
    (place / "run" / FACTS).write_text(json.dumps(facts))
    tree = RunFolder(place / "run").stored_config()
    assert (tree["network"]["weights"], tree["compute"]["store"]) == (str(place / "w.pt"), str(place / "kept"))


def test_a_run_is_finished_from_another_folder_and_its_data_may_be_named_anew(place, ltdd, tmp_path):
    unfinished(place / "run")
    assert ltdd("distill", "--out", place / "run", "--resume", "--quiet").exit_code == 0
    moved = (place / "animals").rename(tmp_path / "away")
    assert read_run(place / "run").load_data(root=moved).classes == 3
    message = one_line_error(ltdd("evaluate", place / "run", "--network", "mlp"))
    gone = f"--root {place / 'animals'}: there is no such folder. Name the place of the data with --root."
    assert message == f"Error: {gone}"
    for command in (("report", place / "run"), ("relabel", place / "run", "--labeller", "teacher")):
        assert ltdd(*command, "--help").output.count("--root") == 1
    assert ltdd("report", place / "run", "--root", moved).exit_code == 0
    assert "there is no such folder" not in Path("report-run.html").read_text()
    unfinished(place / "run")
    assert gone in one_line_error(ltdd("distill", "--out", place / "run", "--resume", "--quiet"))
    assert ltdd("distill", "--out", place / "run", "--resume", "--quiet", "--root", moved).exit_code == 0
    assert root_of(place / "run") == moved


def test_data_that_are_not_here_name_the_folder_in_which_they_were_looked_for(ltdd):
    said = f"there is no such folder in {Path.cwd()}. Name the place of the data with --root."
    assert one_line_error(ltdd("data", "show", "--data", "folder", "--root", "no")) == f"Error: --root no: {said}"


def test_other_images_are_noticed_before_anything_is_computed(place, ltdd, monkeypatch):
    from ltdd_dm.matcher import DistributionMatcher

    monkeypatch.setattr(DistributionMatcher, "prepare", lambda self, task: pytest.fail("nothing needs to be prepared"))
    run = unfinished(place / "run")
    (place / "animals" / "cat" / "000.jpg").unlink()
    assert "holds a run on other images" in one_line_error(ltdd("distill", "--out", run, "--resume", "--quiet"))


# ---- another machine -----------------------------------------------------------------------------


def test_a_run_that_goes_on_with_other_threads_says_what_that_means(place, ltdd):
    run = unfinished(place / "run")
    facts = json.loads((run / FACTS).read_text())
    facts["sessions"][-1]["threads"] = 64
    (run / FACTS).write_text(json.dumps(facts))
    said = ltdd("distill", "--out", run, "--resume").stderr
    assert "the run was on 64 CPU threads before, and on " in said
    assert "up to rounding, and not bit for bit" in said


def test_another_device_or_torch_is_said_and_nothing_where_all_is_as_before():
    before = {"device": "cpu: x86_64", "threads": 2, "versions": {"torch": "2.10"}}
    assert other_machine(before, before) is None
    on_gpu = {**before, "device": "cuda: H100"}
    assert other_machine(on_gpu, {**on_gpu, "threads": 8}) is None
    assert "on cpu: x86_64 before, and on cuda: H100 now" in other_machine(before, on_gpu)
    later = {**before, "threads": 1, "versions": {"torch": "2.11"}}
    assert other_machine(before, {**before, "compiled": True}) is None  # by an earlier version
    said = other_machine({**before, "compiled": False}, {**before, "compiled": True})
    assert "the run was without compiled networks before, and with them now: sums are rounded" in said
    assert "2 CPU threads before, and on 1 now and with torch 2.10 before" in other_machine(before, later)


def test_two_processes_do_not_prepare_one_run_at_once(place, ltdd, monkeypatch):
    """The second one is refused before it has trained anything, though the first has written nothing yet."""
    from ltdd_dm.matcher import DistributionMatcher

    refused, again = [], [str(place / "animals") if word == "animals" else word for word in DISTIL]

    def prepare(self, task):
        refused.append(one_line_error(ltdd(*again, "--quiet")))
        raise InputError("enough")

    monkeypatch.setattr(DistributionMatcher, "prepare", prepare)
    assert one_line_error(ltdd(*again, "--quiet")) == "Error: enough"
    assert refused == ["Error: run is in use by another process."]
    assert not Path("run").exists()


def test_evaluate_says_where_the_test_images_are_not_those_of_the_run(place, ltdd, monkeypatch):
    monkeypatch.chdir(place)
    asked = ("evaluate", "run", "--network", "mlp", "--set", "training.distilled.epochs=1", "--quiet")
    told = "the test images of 'animals' are others than those of the run that made the distilled set"
    assert told not in " ".join(ltdd(*asked).stderr.split())
    next(Path("animals").glob("**/cat/*")).unlink()  # others are held out then
    (line,) = ltdd(*asked).stderr.splitlines()  # also with --quiet
    assert line.startswith(told)
