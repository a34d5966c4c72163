"""Runs: nothing is lost, whatever ends them, and going on gives the same pixels bit for bit."""

import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import forked
import pytest
import torch
import yaml
from PIL import Image

from ltdd_core import InputError, Interrupted, RunFailed, configure, distill, load_distilled
from ltdd_core.distillation.steps import loss_increase
from ltdd_core.progress import Display
from ltdd_core.runs.checkpoint import CHECKPOINT
from ltdd_core.runs.folder import RunFolder
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.storage import load_tensors
from ltdd_dm.matcher import DistributionMatcher

TINY = {
    "method": "dm",
    "ipc": 2,
    "iterations": 12,
    "data": {"name": "digits-lt", "n_max": 30, "imbalance": 30},
    "network": {"name": "convnet-d3", "width": 8, "depth": 2},
    "training": {"original": {"epochs": 2}, "distilled": {"epochs": 2}},
    "compute": {"checkpoint_every": 5, "threads": 1},
}
TINY_OPTIONS = [
    *("--method", "dm", "--ipc", "2", "--data", "digits-lt", "--n-max", "30", "--imbalance", "30"),
    *("--threads", "1", "--set", "network.width=8", "--set", "network.depth=2"),
    *("--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2"),
]


def tiny(**settings):
    return configure(**{**TINY, **settings})


class SignalAt(Display):
    """Sends this process a signal after a step, as a user or the system would."""

    def __init__(self, at, number):
        self.at, self.number = at, number

    def step(self, step, metrics):
        if step == self.at:
            os.kill(os.getpid(), self.number)


def test_the_folder_of_a_run_holds_everything(tmp_path):
    result = distill(tiny(plugins=["twostage"]), tmp_path / "a")
    files = {path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith(".")}
    assert files == {
        "checkpoint.safetensors",
        "classifiers",
        "config.yaml",
        "costs.json",
        "distilled.png",
        "distilled.safetensors",
        "metrics.jsonl",
        "networks",
        "predictions.safetensors",
        "report.json",
        "run.json",
        "times.jsonl",
    }
    stored = configure(**yaml.safe_load((tmp_path / "a" / "config.yaml").read_text()))
    assert stored == in_one_precision(tiny(plugins=["twostage"]))
    steps = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in steps] == list(range(12))
    times = [json.loads(line) for line in (tmp_path / "a" / "times.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in times] == list(range(12))
    assert all(0 < entry["seconds"] < result.seconds for entry in times)
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert facts["data"]["counts"] == list(result.data.counts)
    (session,) = facts["sessions"]
    assert session["from_step"] == 0
    assert {"torch", "ltdd", "matcher dm"} <= set(session["versions"])
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == [
        "original, direct",
        "original, balanced softmax",
        "distilled, direct",
        "two-stage, original + distilled",
    ]
    original = len(result.data.train_labels)
    assert [row["images"] for row in report["rows"]] == [original, original, 20, original + 20]
    assert all(row["group_accuracy"] is not None for row in report["rows"])


def test_the_distilled_file_tells_how_it_was_made_but_not_where(tmp_path):
    distill(tiny(), tmp_path / "a")
    origin = load_distilled(tmp_path / "a").origin
    assert origin["configuration"]["matcher"]["lr_img"] == 1.0
    assert origin["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in (tmp_path / "a" / "distilled.safetensors").read_bytes().decode("latin1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 4, 7])
def test_a_signal_saves_and_resume_gives_the_same_bytes(tmp_path, number, at):
    handler = signal.getsignal(signal.SIGINT)
    distill(tiny(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        distill(tiny(), tmp_path / "cut", display=SignalAt(at, number))
    assert load_tensors(tmp_path / "cut" / CHECKPOINT)[1]["step"] == at + 1
    assert not (tmp_path / "cut" / "distilled.safetensors").exists()
    distill(tiny(), tmp_path / "cut", resume=True)
    for name in ("distilled.safetensors", "metrics.jsonl", "distilled.png", "predictions.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_works_in_a_thread_that_cannot_catch_signals(tmp_path):
    failures = []

    def work():
        try:
            distill(tiny(), tmp_path / "thread")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_resuming_a_finished_run_only_reads(tmp_path):
    first = distill(tiny(), tmp_path / "a")
    before = (tmp_path / "a" / "predictions.safetensors").stat().st_mtime_ns
    again = distill(tiny(), tmp_path / "a", resume=True)
    assert again.rows == first.rows
    assert again.to_json() == first.to_json()
    assert (tmp_path / "a" / "predictions.safetensors").stat().st_mtime_ns == before


def test_resume_without_a_run_begins_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()  # what a process leaves that is killed at once
    distill(tiny(iterations=2), tmp_path / "a", resume=True)
    assert (tmp_path / "a" / "report.json").exists()


def test_a_folder_with_a_run_or_anything_else_is_not_overwritten(tmp_path):
    distill(tiny(iterations=2), tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds a run already: resume it with resume=True"):
        distill(tiny(iterations=2), tmp_path / "a")
    with pytest.raises(InputError, match="another configuration: ipc was 2 and is now 3"):
        distill(tiny(iterations=2, ipc=3), tmp_path / "a", resume=True)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty"):
        distill(tiny(), tmp_path / "b")
    with pytest.raises(InputError, match="holds no run to resume"):
        distill(tiny(), tmp_path / "b", resume=True)
    (tmp_path / "c").touch()
    with pytest.raises(InputError, match="is a file; a run needs a folder"):
        distill(tiny(), tmp_path / "c")


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    for part in ("train", "test"):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("L", (8, 8), level + index).save(folder / f"{index}.png")
    config = tiny(data={"name": "folder", "root": str(tmp_path / "images")}, iterations=6)
    with pytest.raises(Interrupted):
        distill(config, tmp_path / "a", display=SignalAt(2, signal.SIGTERM))
    Image.new("L", (8, 8), 30).save(tmp_path / "images" / "train" / "dark" / "new.png")
    with pytest.raises(InputError, match="the data have changed since it began"):
        distill(config, tmp_path / "a", resume=True)
    (tmp_path / "images" / "train" / "dark" / "new.png").unlink()
    distill(config, tmp_path / "a", resume=True)
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert [session["from_step"] for session in facts["sessions"]] == [0, 3]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """The folder of a finished run of two steps, to be copied."""
    folder = tmp_path_factory.mktemp("two steps") / "a"
    distill(tiny(iterations=2), folder)
    return folder


@pytest.mark.parametrize("name", ["run.json", "report.json", "checkpoint.safetensors", "config.yaml"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]"])
def test_a_damaged_file_of_a_run_is_one_line(two_steps, tmp_path, name, content):
    shutil.copytree(two_steps, tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name.split('.')[0]}|holds (no|a) run"):
        distill(tiny(iterations=2), tmp_path / "a", resume=True)


def test_a_second_process_in_the_same_folder_is_refused_before_it_works(tmp_path, monkeypatch):
    def prepare(self, task):
        raise AssertionError("another process is at work: nothing needs to be prepared")

    with monkeypatch.context() as patched, RunFolder.open(tmp_path / "a", tiny(), resume=False):
        patched.setattr(DistributionMatcher, "prepare", prepare)
        with pytest.raises(InputError, match="is in use by another process"):
            distill(tiny(), tmp_path / "a", resume=True)
    distill(tiny(), tmp_path / "a", resume=True)


def test_a_loss_that_goes_up_is_said_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(DistributionMatcher, "step", lambda self, step: {"loss": 1.0 + step})
    with pytest.warns(UserWarning, match=r"the loss went up from .* the images may be worse"):
        distill(tiny(iterations=20), tmp_path / "up")
    assert loss_increase([1.0] * 10 + [9.0] * 9) is None
    assert loss_increase([*[2.0] * 10, *[9.0] * 80, *[2.5] * 10]) is None
    assert loss_increase([*[2.0] * 10, *[1.0] * 80, *[2.7] * 10]) == (
        "the loss went up from 2 to 2.7 (means of the first and of the last tenth of these steps)"
    )
    assert loss_increase([*[-2.0] * 10, *[-1.0] * 10]) is None


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny(iterations=40, matcher={"lr_img": 1e38}, compute={"checkpoint_every": 1, "threads": 1})
    with pytest.raises(RunFailed, match=r'try a smaller learning rate .*matcher={"lr_img": \.\.\.}'):
        distill(config, tmp_path / "a")
    state, facts = load_tensors(tmp_path / "a" / CHECKPOINT)
    assert torch.isfinite(state["images"]).all()
    assert facts["step"] >= 1
    steps = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert facts["step"] <= len(steps) <= facts["step"] + 1
    assert not (tmp_path / "a" / "distilled.safetensors").exists()


WITHOUT_OPTIONS = """
    import torch
    from ltdd_core import Matcher, SoftLabels, Synthetic, hookimpl

    class Plain(Matcher):
        "A method that has no options."

        def prepare(self, task):
            self.images, self.labels = task.initial_images, task.initial_labels

        def step(self, step):
            raise torch.OutOfMemoryError("CUDA out of memory")

        def state(self):
            return {"images": self.images}

        def load_state(self, state):
            self.images = state["images"]

        def distilled(self):
            return Synthetic(self.images, self.labels)

    @hookimpl
    def ltdd_register_matchers(register):
        register("plain", Plain)
"""


SELECTING = WITHOUT_OPTIONS.replace("plain", "selecting").replace(
    '"A method that has no options."', "iterative = False"
)


def selecting(images, labels):
    return SELECTING.replace("return Synthetic(self.images, self.labels)", f"return Synthetic({images}, {labels})")


def test_soft_labels_of_another_precision_are_stored_in_float32(site, tmp_path):
    labels = "self.labels, SoftLabels(torch.nn.functional.one_hot(self.labels).double())"
    site.install("selecting", selecting("self.images", labels))
    distill(tiny(method="selecting"), tmp_path / "a")
    assert load_distilled(tmp_path / "a").soft_labels.values.dtype == torch.float32


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ("self.images / 0", "self.labels", "images must be finite"),
        ("self.images[0]", "self.labels", "images must be finite float32"),
        ("self.images", "self.labels.float()", r"labels must be int64 \[n\]"),
        ("self.images", "self.labels, SoftLabels(torch.ones(20, 3))", r"soft labels must be finite float32 \[n, 10\]"),
        ("self.images", "self.labels, SoftLabels(torch.ones(20, 10))", "soft labels must be probabilities"),
    ],
)
def test_a_set_that_could_not_be_read_again_is_not_written(site, tmp_path, images, labels, message):
    site.install("selecting", selecting(images, labels))
    with pytest.raises(RunFailed, match=f"method 'selecting' gave a distilled set that cannot be used: {message}"):
        distill(tiny(method="selecting"), tmp_path / "a")
    assert not (tmp_path / "a" / "distilled.safetensors").exists()


def test_a_method_that_gives_a_pair_is_told_what_to_give(site, tmp_path):
    source = SELECTING.replace("return Synthetic(self.images, self.labels)", "return self.images, self.labels")
    site.install("selecting", source)
    with pytest.raises(RunFailed, match=r"'selecting': distilled\(\) must return an ltdd_core.Synthetic\."):
        distill(tiny(method="selecting"), tmp_path / "a")


def test_advice_names_only_options_that_the_method_has(site, tmp_path, monkeypatch):
    site.install("full", WITHOUT_OPTIONS)
    with pytest.raises(
        RunFailed, match=r'^out of memory: try compute={"chunk": N} with a small N, or a smaller ipc\.$'
    ):
        distill(tiny(method="plain"), tmp_path / "a")
    site.install(
        "nan", WITHOUT_OPTIONS.replace("plain", "nan").replace("raise torch.Out", "return {'loss': torch.nan} #")
    )
    with pytest.raises(RunFailed, match=r"if the method has one \(ltdd describe matcher nan\), use compute=") as failed:
        distill(tiny(method="nan"), tmp_path / "b")
    assert "lr_img" not in str(failed.value)

    def full(self, step):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(DistributionMatcher, "step", full)
    with pytest.raises(RunFailed, match=r"or a smaller matcher\.batch_real or ipc\.$"):
        distill(tiny(), tmp_path / "c")


def test_a_disk_that_is_full_in_the_middle_of_a_run_fails_the_run_and_keeps_the_checkpoint(ltdd, tmp_path, monkeypatch):
    sync, seen = os.fsync, []

    def full(handle):
        if CHECKPOINT in str(Path(f"/proc/self/fd/{handle}").readlink()):
            seen.append(handle)
            if len(seen) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    command = ["distill", *TINY_OPTIONS, "--iterations", 40, "--set", "compute.checkpoint_every=5", "--out", "x"]
    result = ltdd(*command, "--quiet")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: cannot write x/checkpoint.safetensors: No space left on device. What was saved before is kept.\n"
    )
    assert load_tensors(Path("x", CHECKPOINT))[1]["step"] == 10


def test_a_checkpoint_is_never_on_the_disk_before_the_lines_of_its_steps(tmp_path, monkeypatch):
    """What is on the disk after a power cut is what was synced."""
    sync, lines, seen = os.fsync, {}, []

    def noted(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115
        if path.suffix == ".jsonl":
            lines[path.name] = len(path.read_bytes().splitlines())
        elif CHECKPOINT in path.name:
            seen.append(dict(lines))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    distill(tiny(), tmp_path / "a")
    assert seen == [{"metrics.jsonl": step, "times.jsonl": step} for step in (5, 10, 12)]


@pytest.mark.parametrize("init", ["real", "noise"])
@pytest.mark.parametrize("sampler", ["instance", "square-root", "class-balanced"])
def test_a_class_with_one_image_and_fewer_than_ipc(tmp_path, init, sampler):
    config = tiny(iterations=2, init=init, sampler=sampler, plugins=["twostage"], ipc=4)
    result = distill(config, tmp_path / "a")
    assert min(result.data.counts) == 1
    images = result.distilled.images.view(10, 4, -1)
    for own in images:  # equal images would stay equal for ever
        assert len(own.unique(dim=0)) == 4


@pytest.mark.parametrize("method", ["dc", "dsa", "dm", "mtt", "coreset"])
def test_every_method_takes_a_class_with_one_image(method, ltdd, tmp_path):
    options = [*TINY_OPTIONS[2:], "--method", method, "--iterations", 2, "--plugin", "twostage"]
    if method == "mtt":
        options += ["--set", "experts.count=1", "--set", "experts.epochs=4", "--set", "matcher.syn_steps=2"]
    result = ltdd("distill", *options, "--out", tmp_path / "a", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert min(document["data"]["counts"]) == 1
    assert [row["name"] for row in document["rows"]][-1] == "two-stage, original + distilled"
    found = load_distilled(tmp_path / "a")
    counts = [min(2, count) if method == "coreset" else 2 for count in document["data"]["counts"]]
    assert torch.bincount(found.labels).tolist() == counts


def test_results_do_not_depend_on_the_global_generator(tmp_path):
    torch.manual_seed(1)
    one = distill(tiny(), tmp_path / "a")
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    two = distill(tiny(), tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.rows == two.rows
    assert torch.equal(one.distilled.images, two.distilled.images)
    other = distill(tiny(seed=1), tmp_path / "c")
    assert not torch.equal(one.distilled.images, other.distilled.images)


# ---- kill -9 -------------------------------------------------------------------------------------


def start(folder, iterations, *extra):
    command = ["distill", *TINY_OPTIONS, "--iterations", iterations, "--set", "compute.checkpoint_every=1"]
    return forked.start(*command, "--out", folder, *extra, errors=folder.with_suffix(".log"))


def kill_at_random(folder, process, draws):
    """Some time after the folder appears, so somewhere in the steps or in the training that follows."""
    while not (folder / "config.yaml").exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(draws.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return False


def kill_inside_a_checkpoint(folder, process, draws):
    """While the temporary file of a checkpoint exists; says whether it was still there afterwards."""
    skip = draws.randrange(0, 30)

    def temporary():
        return next(folder.glob(f".{CHECKPOINT}.*.tmp"), None)

    checkpoint = folder / CHECKPOINT
    while skip > 0 and process.poll() is None:
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
            time.sleep(0.0005)
        skip -= 1
    while temporary() is None and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    return temporary() is not None


def killed_and_resumed(tmp_path, moments, iterations=60):
    """Kill a run at each of the moments and resume; returns how many gave the same bytes and hit a write."""
    assert start(tmp_path / "whole", iterations).wait() == 0
    whole = (tmp_path / "whole" / "distilled.safetensors").read_bytes()
    draws, same, inside = random.Random(7), 0, 0
    for index, kill in enumerate(moments):
        folder = tmp_path / f"killed-{index}"
        inside += kill(folder, start(folder, iterations), draws)
        resumed = start(folder, iterations, "--resume")
        assert resumed.wait() == 0, folder.with_suffix(".log").read_text()
        same += (folder / "distilled.safetensors").read_bytes() == whole
        assert not list(Path(folder).glob(".*.tmp"))
    return same, inside


def test_two_kills_resume_to_the_same_bytes(tmp_path):
    same, _ = killed_and_resumed(tmp_path, [kill_at_random, kill_inside_a_checkpoint], iterations=30)
    assert same == 2


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_kills_resume_to_the_same_bytes(tmp_path):
    moments = [kill_at_random] * 8 + [kill_inside_a_checkpoint] * 12
    same, inside = killed_and_resumed(tmp_path, moments)
    print(f"{same} of 20 the same bytes; {inside} killed inside a checkpoint write")
    assert same == 20
    assert inside >= 5


def test_a_run_without_classifiers_distils_alone(tmp_path):
    result = distill(tiny(), tmp_path / "a", lines=[])
    assert (list(result.rows), result.chance()) == ([], None)
    whole = distill(tiny(), tmp_path / "b").distilled
    assert torch.equal(load_distilled(tmp_path / "a").images, whole.images)
