"""The folder of a run: claimed when it is named, refused early, and gone again where nothing was written."""

import json
import os
import shutil
from pathlib import Path

import forked
import pytest
import torch
from conftest import TINY, one_line_error, unclocked

from ltdd_core import InputError, configure, distill, load_tensors, save_tensors
from ltdd_core.cli.distill import find_run
from ltdd_core.runs.checkpoint import CHECKPOINT
from ltdd_core.runs.claim import claimed, new_folder
from ltdd_core.runs.folder import FACTS, METRICS, TIMES, RunFolder
from ltdd_dm.matcher import DistributionMatcher

TRAIN = ("train", "--network", "mlp", "--set", "training.original.epochs=1")
DISTIL = ("distill", "--method", "dm", *TINY)


@pytest.mark.parametrize("command", [TRAIN, DISTIL])
def test_two_commands_at_once_without_a_folder_both_keep_their_results(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = [forked.start(*command, "--threads", "1", errors=f"errors-{index}") for index in range(2)]
    ends = [process.wait() for process in both]
    assert ends == [0, 0], [Path(f"errors-{index}").read_text() for index in range(2)]
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
    monkeypatch.setattr("ltdd_core.setup.load_long_tailed", None)  # the data are not even loaded
    with pytest.raises(InputError, match="file/x cannot be made"):
        distill(configure(method="dm"), "file/x")


def test_train_which_cannot_resume_does_not_advise_it(ltdd):
    assert ltdd(*TRAIN, "--out", "x").exit_code == 0
    message = one_line_error(ltdd(*TRAIN, "--out", "x"))
    assert message == "Error: x holds a run already: name another folder with --out."


def test_resume_without_a_folder_takes_the_unfinished_run(ltdd):
    assert ltdd(*DISTIL).exit_code == 0
    (finished,) = Path("runs").iterdir()
    unfinished = finished.with_name(finished.name.replace("-1", "-2"))
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    os.utime(unfinished, (1, 1))
    assert ltdd(*DISTIL, "--resume").exit_code == 0
    assert (unfinished / "report.json").exists()


def test_resume_without_a_folder_takes_the_run_that_began_last_whatever_was_touched_since(ltdd):
    assert ltdd(*DISTIL, "--quiet").exit_code == 0
    first = next(Path("runs").iterdir())
    facts = json.loads((first / FACTS).read_text())
    for name in ("report.json", "distilled.safetensors", "predictions.safetensors"):
        (first / name).unlink()
    began = {1: "2026-01-02T10:00:00+00:00", 2: "2026-01-03T10:00:00+00:00", 10: "2026-01-03T10:00:00+00:00", 3: None}
    for number, moment in began.items():
        folder = first.with_name(first.name.removesuffix("1") + str(number))
        if number > 1:
            shutil.copytree(first, folder)
        facts["sessions"][-1]["began"] = moment
        (folder / FACTS).write_text(json.dumps(facts))
        if moment is None:  # nothing is known yet
            (folder / FACTS).unlink()
            os.utime(folder / "config.yaml", (0, 0))
        os.utime(folder, (2e9 - number, 2e9 - number))  # the folder of the oldest was looked at last
    assert find_run(configure(**RunFolder(first).stored_config())).name.endswith("-10")


def test_resume_where_there_is_no_run_is_refused(ltdd):
    message = "Error: nowhere holds no run to resume: leave out --resume to begin one."
    for command in (("distill",), DISTIL, (*DISTIL, "--preset", "dm-paper")):
        assert one_line_error(ltdd(*command, "--resume", "--out", "nowhere")) == message
    assert ltdd(*TRAIN, "--out", "trained").exit_code == 0
    message = one_line_error(ltdd("distill", "--resume", "--out", "trained"))
    assert message.startswith("Error: trained holds classifiers of ltdd train and no run to resume")


def test_resume_without_a_folder_says_that_a_new_run_begins(ltdd):
    result = ltdd(*DISTIL, "--resume", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == "no run with this configuration under runs/: a new one begins.\n"
    assert ltdd(*DISTIL, "--resume", "--quiet").stderr == ""
    assert len(list(Path("runs").iterdir())) == 1


# ---- another number of steps -----------------------------------------------------------------------

SCIENCE = ("distilled.safetensors", "metrics.jsonl", "predictions.safetensors", "config.yaml")
"""What two runs of the same configuration have the same, bit for bit."""


def tiny_run(ltdd, out, iterations, *more):
    done = ltdd(
        "distill", "--method", "dm", *TINY[2:], "--threads", "1", "--iterations", iterations, "--out", out, *more
    )
    assert done.exit_code == 0, done.output


def resumed(ltdd, *more):
    done = ltdd("distill", "--out", "run", "--resume", *more)
    assert done.exit_code == 0, done.output
    return done


def all_of(out, *more):
    return {name: Path(out, name).read_bytes() for name in (*SCIENCE, *more)}


@pytest.fixture
def broken_off(ltdd, monkeypatch):
    """The folder ``run`` of a run that was stopped after three of its nine steps."""

    def stopped(matcher, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(matcher, number)

    step = DistributionMatcher.step
    with monkeypatch.context() as patch:
        patch.setattr(DistributionMatcher, "step", stopped)
        every = ("--set", "compute.checkpoint_every=1")
        command = ("distill", "--method", "dm", *TINY[2:], "--threads", "1", "--iterations", 9, "--out", "run", *every)
        assert ltdd(*command).exit_code == 130
    assert RunFolder(Path("run")).steps_done() == 3


def test_a_finished_run_that_goes_on_is_a_run_of_that_length(ltdd):
    tiny_run(ltdd, "run", 3, "--plugin", "twostage")
    before = all_of("run")
    resumed(ltdd, "--iterations", 7)
    tiny_run(ltdd, "whole", 7, "--plugin", "twostage")
    assert all_of("run") == all_of("whole")
    assert all_of("run") != before
    rows = [json.loads(Path(out, "report.json").read_text())["rows"] for out in ("run", "whole")]
    assert unclocked(rows[0]) == unclocked(rows[1])
    sessions = json.loads(Path("run/run.json").read_text())["sessions"]
    assert [(session["from_step"], session["to_step"]) for session in sessions] == [(0, 3), (3, 7)]


class Killed(BaseException):
    """The end of a process that no code of ours can answer."""


@pytest.mark.parametrize(
    "moment",
    [
        "ltdd_core.distillation.distill.shutil.rmtree",
        "ltdd_core.runs.folder.RunFolder.begin",
        "ltdd_dm.matcher.DistributionMatcher.step",
        "ltdd_core.distillation.distill.save_distilled",
    ],
)
def test_a_run_that_is_killed_while_it_goes_on_is_resumed(moment, ltdd, monkeypatch):
    def killed(*given, **named):
        raise Killed

    tiny_run(ltdd, "run", 3)
    with monkeypatch.context() as patch:
        patch.setattr(moment, killed)
        with pytest.raises(Killed):
            ltdd("distill", "--out", "run", "--resume", "--iterations", 7)
    resumed(ltdd, "--iterations", 7)
    tiny_run(ltdd, "whole", 7)
    assert all_of("run") == all_of("whole")


def test_with_quiet_a_stopped_run_is_finished_without_a_word(ltdd, broken_off):
    assert resumed(ltdd, "--finish", "--quiet").stderr == ""


def test_a_stopped_run_is_finished_as_it_is(ltdd, broken_off):
    done = resumed(ltdd, "--finish")
    assert "the run ends after 3 of 9 steps" in done.stderr
    tiny_run(ltdd, "whole", 3, "--set", "compute.checkpoint_every=1")
    assert all_of("run") == all_of("whole")
    for command in (("evaluate", "run"), ("report", "run"), ("export", "run", "--format", "npz"), ("compare", "run")):
        result = ltdd(*command)
        assert result.exit_code == 0, result.output
    assert "takes no more steps" in one_line_error(
        ltdd("distill", "--out", "run", "--resume", "--finish", "--iterations", 9)
    )
    before = all_of("run", "report.json")
    resumed(ltdd, "--finish")  # it is finished
    assert all_of("run", "report.json") == before
    resumed(ltdd, "--iterations", 9)
    tiny_run(ltdd, "nine", 9, "--set", "compute.checkpoint_every=1")
    assert all_of("run") == all_of("nine")


def test_a_number_of_steps_that_a_run_cannot_have_is_one_line(ltdd, broken_off):
    config = Path("run/config.yaml").read_bytes()
    fewer = one_line_error(ltdd("distill", "--out", "run", "--resume", "--iterations", 2))
    assert fewer == "Error: run has taken 3 steps already, and the run would have 2."
    alone = one_line_error(ltdd("distill", "--out", "run", "--finish"))
    assert alone == "Error: --finish ends a run that was stopped: name it with --out RUN --resume --finish."
    Path("run/checkpoint.safetensors").unlink()
    nothing = one_line_error(ltdd("distill", "--out", "run", "--resume", "--finish"))
    assert nothing == "Error: run has no checkpoint yet, so there is nothing to finish: leave out --finish."
    assert Path("run/config.yaml").read_bytes() == config
    resumed(ltdd)
    Path("run/checkpoint.safetensors").unlink()
    kept = all_of("run", "report.json")
    longer = one_line_error(ltdd("distill", "--out", "run", "--resume", "--iterations", 12))
    assert longer == "Error: run has no checkpoint.safetensors from which more steps could be taken."
    assert all_of("run", "report.json") == kept


def test_resume_without_a_folder_makes_no_finished_run_longer(ltdd):
    assert ltdd(*DISTIL).exit_code == 0
    assert ltdd("distill", "--method", "dm", *TINY[2:], "--iterations", "5", "--resume").exit_code == 0
    assert len(list(Path("runs").iterdir())) == 2


# ---- what is read again on --resume ----------------------------------------------------------------


@pytest.fixture
def stopped(finished, tmp_path):
    """A run that has taken its three steps and was killed before it wrote the distilled set."""
    folder = tmp_path / "stopped"
    shutil.copytree(finished, folder)
    for name in ("distilled.safetensors", "predictions.safetensors", "report.json"):
        (folder / name).unlink()
    return folder


LINES = (b"null", b"5", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"step": true}', b"9" * 5000)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *((METRICS, line) for line in LINES),
        *(pytest.param(TIMES, line, marks=pytest.mark.slow) for line in LINES if line != b"null"),
        (TIMES, b"null"),
    ],
)
def test_a_damaged_line_of_a_log_is_left_out_and_said(ltdd, stopped, name, line):
    _, *rest = (stopped / name).read_bytes().splitlines()
    (stopped / name).write_bytes(b"\n".join([line, *rest, b""]))
    result = ltdd("distill", "--out", stopped, "--resume")
    assert result.exit_code == 0, result.output
    assert f"{name} has lost 1 of the 3 steps before this one" in " ".join(result.stderr.split())
    assert (stopped / name).read_bytes().splitlines() == rest


def test_a_whole_log_is_kept_bit_for_bit_and_nothing_is_said(ltdd, stopped):
    before = (stopped / METRICS).read_bytes()
    (stopped / METRICS).write_bytes(before + b'{"step": 3, "lo')
    result = ltdd("distill", "--out", stopped, "--resume")
    assert "has lost" not in result.stderr
    assert (stopped / METRICS).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({}, {"step": -5}),
        ({}, {"step": 99}),
        ({}, {"step": True}),
        ({}, {"step": "3"}),
        ({"images": None}, {}),
        ({"images": None, "optimizer: 0: momentum_buffer": None}, {}),
        ({"images": lambda images: images[:1]}, {}),
        ({"images": lambda images: images[0]}, {}),
        ({"images": lambda images: images * torch.nan}, {}),
        ({"images": lambda images: torch.cat([images, images])}, {}),
        ({"more": lambda images: torch.zeros(1)}, {}),
    ],
)
def test_a_checkpoint_that_is_not_of_this_run_is_one_line(ltdd, stopped, change, facts):
    state, known = load_tensors(stopped / CHECKPOINT)
    for name, edit in change.items():
        state[name] = edit and edit(state.get(name))
    save_tensors(stopped / CHECKPOINT, {k: v for k, v in state.items() if v is not None}, {**known, **facts})
    assert str(stopped / CHECKPOINT) in one_line_error(ltdd("distill", "--out", stopped, "--resume", "--quiet"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"- a list"),
        ("config.yaml", b"a: " + b"[" * 100_000),
        ("config.yaml", b"ipc: " + b"9" * 5000),
        ("config.yaml", b"a: &a {b: *a}"),
        ("config.yaml", b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
            b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1) if i else b"*a"] * 9)) for i in range(9))),
        ("config.yaml", b"a: 2024-99-99"),
        ("config.yaml", b"a: !!python/object:os.system {}"),
        ("config.yaml", b"\xff\xfe"),
        ("run.json", b"[" * 100_000),
        ("run.json", b'{"data": [], "sessions": []}'),
        ("run.json", b'{"data": {}, "sessions": 1}'),
        ("run.json", b'{"data": {"images": ' + b"9" * 5000 + b"}}"),
        ("run.json", b"null"),
    ],
)  # fmt: skip
def test_a_damaged_document_of_a_run_is_one_line(ltdd, stopped, name, content):
    (stopped / name).write_bytes(content)
    message = one_line_error(ltdd("distill", "--out", stopped, "--resume", "--quiet"))
    assert str(stopped / name) in message
    assert len(message) < 500


@pytest.mark.parametrize("seconds", [b"null", b"NaN", b'"x"', b"-1", b"1" + b"0" * 400, b"[]"])
def test_a_damaged_report_is_one_line(ltdd, finished, tmp_path, seconds):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.json").write_bytes(b'{"seconds": ' + seconds + b"}")
    assert "report.json" in one_line_error(ltdd("distill", "--out", folder, "--resume", "--quiet"))


def test_a_run_of_a_version_without_a_digest_of_the_data_resumes_and_has_one_then(ltdd, stopped):
    facts = json.loads((stopped / FACTS).read_text())
    digest = facts["data"].pop("digest")
    (stopped / FACTS).write_text(json.dumps(facts))
    assert ltdd("distill", "--out", stopped, "--resume", "--quiet").exit_code == 0
    assert json.loads((stopped / FACTS).read_text())["data"]["digest"] == digest


def test_a_run_does_not_resume_on_other_pixels(ltdd, stopped):
    facts = json.loads((stopped / FACTS).read_text())
    facts["data"]["digest"] = "0" * 32
    (stopped / FACTS).write_text(json.dumps(facts))
    assert "the data have changed" in one_line_error(ltdd("distill", "--out", stopped, "--resume", "--quiet"))


def test_a_metric_that_is_not_finite_is_null(ltdd, tmp_path, monkeypatch):
    step = DistributionMatcher.step
    odd = {"nan": float("nan"), "inf": float("inf")}
    monkeypatch.setattr(DistributionMatcher, "step", lambda self, number: {**step(self, number), **odd})
    assert ltdd(*DISTIL, "--out", "x", "--quiet").exit_code == 0
    lines = [json.loads(line, parse_constant=pytest.fail) for line in Path("x", METRICS).read_text().splitlines()]
    assert [(line["nan"], line["inf"]) for line in lines] == [(None, None)] * 3


# ---- checkpoints of a large state ------------------------------------------------------------------


def queue_of(networks, **more):
    return {
        f"queue: {place}: {name}": value for place, net in enumerate(networks) for name, value in net.items()
    } | more


def network(number):
    return {"weight": torch.full((3, 4), float(number)), "bias": torch.full((4,), float(number))}


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr("ltdd_core.runs.checkpoint.LARGE", 100)


def written(folder):
    return {file.name: file.stat().st_mtime_ns for file in (folder / "state").glob("*")}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_only_what_has_changed_of_a_large_state_is_written_again(tmp_path, large):
    folder = RunFolder(tmp_path)
    first = queue_of([network(0), network(1), network(2)], images=torch.ones(2))
    folder.save_checkpoint(1, first)
    before = written(tmp_path)
    assert len(before) == 4
    assert folder.load_checkpoint()[0] == 1
    assert same(folder.load_checkpoint()[1], first)
    second = queue_of([network(0), network(7), network(2)], images=torch.zeros(2))
    folder.save_checkpoint(2, second)
    after = written(tmp_path)
    assert len(after) == 4
    assert len(before.items() & after.items()) == 2
    assert folder.load_checkpoint()[0] == 2
    assert same(folder.load_checkpoint()[1], second)


def test_networks_that_are_equal_are_one_file(tmp_path, large):
    folder = RunFolder(tmp_path)
    state = queue_of([network(5)] * 4)
    folder.save_checkpoint(1, state)
    assert len(written(tmp_path)) == 1
    assert same(folder.load_checkpoint()[1], state)


def test_a_state_that_has_become_small_leaves_no_parts(tmp_path, large):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(1, queue_of([network(0), network(1)]))
    folder.save_checkpoint(2, {"images": torch.ones(2)})
    assert written(tmp_path) == {}
    assert same(folder.load_checkpoint()[1], {"images": torch.ones(2)})


@pytest.mark.parametrize("moment", ["a part", "the file that names them", "removal"])
def test_a_checkpoint_that_is_cut_off_leaves_the_one_before(tmp_path, large, monkeypatch, moment):
    folder = RunFolder(tmp_path)
    first, second = queue_of([network(0), network(1)]), queue_of([network(2), network(3)])
    folder.save_checkpoint(1, first)
    original = save_tensors

    def cut_off(path, *rest):
        if (path.name == CHECKPOINT) == (moment == "the file that names them"):
            raise KeyboardInterrupt
        original(path, *rest)

    def no_removal(folder, digests):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if moment == "removal":
            patched.setattr("ltdd_core.runs.checkpoint._remove_all_but", no_removal)
        else:
            patched.setattr("ltdd_core.runs.checkpoint.save_tensors", cut_off)
        with pytest.raises(KeyboardInterrupt):
            folder.save_checkpoint(2, second)
    step, state = folder.load_checkpoint()
    assert (step, same(state, second if moment == "removal" else first)) == (2 if moment == "removal" else 1, True)
    folder.save_checkpoint(3, second)
    assert len(written(tmp_path)) == 2


def test_a_part_that_is_missing_or_another_is_refused(tmp_path, large):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(1, queue_of([network(0), network(1)]))
    part = next((tmp_path / "state").iterdir())
    save_tensors(part, network(9), {})
    with pytest.raises(InputError, match=rf"{part.name}: damaged. Delete .*{CHECKPOINT}, and the run begins again"):
        folder.load_checkpoint()
    part.unlink()
    with pytest.raises(InputError, match=rf"{part.name}: there is no such file"):
        folder.load_checkpoint()
    save_tensors(tmp_path / CHECKPOINT, {}, {"step": 1, "parts": {"queue: 0": "../../elsewhere"}})
    with pytest.raises(InputError, match="is no checkpoint of this version"):
        folder.load_checkpoint()
