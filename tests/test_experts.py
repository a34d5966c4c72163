"""Experts: trained as written, nothing lost, shared by processes, and found again by the runs that need them."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import TINY, one_line_error
from torch.nn import functional as F

from ltdd_core import Augmentation, ClassifierHead, InputError, Interrupted, RunFailed, Sampler, configure, generator
from ltdd_core.data.load import load_long_tailed
from ltdd_core.runs.stop import StopRequest
from ltdd_core.storage import load_tensors
from ltdd_mtt import jobs as processes, training
from ltdd_mtt.experts import ExpertFolder, ExpertOptions, bytes_on_disk, expert_key, folder_for
from ltdd_mtt.jobs import task_of
from ltdd_mtt.student import flat_parameters
from ltdd_mtt.training import train_experts

DATA = {"name": "digits-lt", "n_max": 20, "imbalance": 20}
SMALL = {"method": "mtt", "ipc": 2, "data": DATA, "network": {"name": "convnet-d3", "width": 8, "depth": 2}}
OPTIONS = (
    *("--data", "digits-lt", "--n-max", "20", "--imbalance", "20", "--threads", "1"),
    *("--set", "network.width=8", "--set", "network.depth=2"),
)
DISTIL = (
    *("distill", "--method", "mtt", "--ipc", "2", *OPTIONS, "--set", "matcher.syn_steps=3"),
    *("--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2"),
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def task(**settings):
    return task_of(configure(**{**SMALL, **settings}), StopRequest())


def trained(path, own=None, **options):
    """A folder of experts, and what was reported."""
    reports, folder = [], ExpertFolder(path)
    train_experts(own or task(), ExpertOptions(**options), folder, lambda *report: reports.append(report))
    return folder, reports


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def test_a_trajectory_is_plain_sgd(tmp_path):
    """Written out: no chunks, no optimiser, the draws of each epoch in their order."""
    config = configure(**SMALL)
    data, own = load_long_tailed("digits-lt", config.data.make()), task()
    folder, reports = trained(tmp_path / "e", own, count=2, epochs=3, lr=0.05, batch=32)
    assert reports == [(index, done) for index in (0, 1) for done in (0, 1, 2, 3)]
    sampler, augmentation = config.sampler.make(), Augmentation(config.run.augment)
    sampler.prepare(data)
    for index in (0, 1):
        network, rows = own.networks.new("expert", index), []
        rows.append(flat_parameters(network))
        for epoch in range(3):
            draws = generator(0, f"expert {index}: epoch", epoch)
            for batch in sampler.epoch(epoch / 2, draws).split(32):
                images = data.normalisation.apply(data.train_images[batch])
                images = augmentation.draw((1, 8, 8), draws, len(batch))(images)
                network.zero_grad()
                F.cross_entropy(network(images), data.train_labels[batch]).backward()
                with torch.no_grad():
                    for value in network.parameters():
                        value -= 0.05 * value.grad
            rows.append(flat_parameters(network))
        stored, facts = load_tensors(folder.file(index))
        torch.testing.assert_close(stored["trajectory"], torch.stack(rows), rtol=1e-4, atol=1e-6)
        assert set(stored) == {"trajectory"}
        assert facts["parameters"] == [[name, list(value.shape)] for name, value in network.named_parameters()]
        assert facts["recipe"]["lr"] == 0.05
        first, last = folder.rows(index, 0, 3)
        assert torch.equal(first, stored["trajectory"][0])
        assert torch.equal(last, stored["trajectory"][3])
    assert not torch.equal(folder.rows(0, 0, 0)[0], folder.rows(1, 0, 0)[0])


def test_what_is_there_is_kept_and_made_longer(tmp_path):
    trained(tmp_path / "whole", count=3, epochs=9)
    trained(tmp_path / "grown", count=1, epochs=2)
    _, reports = trained(tmp_path / "grown", count=3, epochs=9)
    assert reports[:2] == [(0, 2), (0, 3)]
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    _, reports = trained(tmp_path / "grown", count=2, epochs=4)
    assert reports == [(0, 9), (1, 9)]
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize("store", ["fp16", "bf16"])
def test_half_precision_takes_half_the_room_and_goes_on_exactly(tmp_path, store):
    full, _ = trained(tmp_path / "full", count=1, epochs=7)
    half, _ = trained(tmp_path / "half", count=1, epochs=7, store=store)
    trained(tmp_path / "grown", count=1, epochs=3, store=store)
    trained(tmp_path / "grown", count=1, epochs=7, store=store)
    assert contents(tmp_path / "grown") == contents(tmp_path / "half")
    exact, stored = (load_tensors(folder.file(0))[0] for folder in (full, half))
    assert torch.equal(stored["trajectory"], exact["trajectory"].to(stored["trajectory"].dtype))
    assert torch.equal(stored["last"], exact["trajectory"][-1])
    assert half.rows(0, 1, 2)[0].dtype == torch.float32
    key, options = expert_key(task(), ExpertOptions()), ExpertOptions(count=3, epochs=7)
    assert bytes_on_disk(key, options) == 3 * exact["trajectory"].numel() * 4
    assert bytes_on_disk(key, options.model_copy(update={"store": store})) == 3 * exact["trajectory"].numel() * 2


def test_batch_normalisation_goes_on_with_its_averages(tmp_path):
    """A last batch of one image is normalised with them, so the weights depend on them."""
    own = task(network={"width": 8, "depth": 2, "norm": "batch"})
    size = len(own.data.train_labels) - 1
    trained(tmp_path / "whole", own, count=1, epochs=4, batch=size)
    trained(tmp_path / "grown", own, count=1, epochs=2, batch=size)
    trained(tmp_path / "grown", own, count=1, epochs=4, batch=size)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_an_interruption_saves_the_epochs_that_are_done(tmp_path):
    folder, own = ExpertFolder(tmp_path / "cut"), task()

    def keep_going():
        if folder.numbers() == [0] and calls.append(0) is None and len(calls) > 7:
            raise Interrupted("SIGINT")

    calls = []
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", replace(own, keep_going=keep_going), count=2, epochs=4, batch=32)
    done = load_tensors(folder.file(1))[0]["trajectory"]
    assert 1 < len(done) < 5
    trained(tmp_path / "cut", own, count=2, epochs=4, batch=32)
    trained(tmp_path / "again", own, count=2, epochs=4, batch=32)
    assert contents(tmp_path / "cut") == contents(tmp_path / "again")


def test_samplers_and_heads_have_their_say(tmp_path):
    rows = {}
    for name in ("instance", "class-balanced"):
        folder, _ = trained(tmp_path / name, count=1, epochs=2, sampler=name)
        rows[name] = folder.rows(0, 0, 2)
    assert torch.equal(rows["instance"][0], rows["class-balanced"][0])
    assert not torch.equal(rows["instance"][1], rows["class-balanced"][1])


class Negative(ClassifierHead):
    """Trains its one network with a loss of its own."""

    title = "negative"

    def fit(self, sets, trainer):
        trainer.train(sets[0], outputs=sets[0].classes, loss=lambda logits, labels: -F.cross_entropy(logits, labels))


class Twice(Negative):
    def fit(self, sets, trainer):
        for purpose in ("one", "other"):
            trainer.train(sets[0], outputs=sets[0].classes, purpose=purpose)


class Narrow(Negative):
    def fit(self, sets, trainer):
        trainer.train(sets[0], outputs=2)


class Idle(Negative):
    def fit(self, sets, trainer):
        return None


class Ageing(Sampler):
    """Orders late epochs otherwise than early ones."""

    def prepare(self, data):
        self.size = len(data.train_labels)

    def of_class(self, label, size, generator):
        raise NotImplementedError

    def epoch(self, progress, generator):
        return torch.randperm(self.size, generator=generator).roll(round(100 * progress))

    def representatives(self, label, ipc, generator, features):
        raise NotImplementedError


def with_component(kind, component):
    own = task()
    return replace(own, component=lambda k, s: component(component.Options()) if k == kind else own.component(k, s))


def test_the_loss_is_the_one_of_the_head(tmp_path):
    own = with_component("head", Negative)
    folder, _ = trained(tmp_path / "n", own, count=1, epochs=1, batch=1000, lr=0.01)
    plain, _ = trained(tmp_path / "p", count=1, epochs=1, batch=1000, lr=0.01)
    (start, up), (_, down) = folder.rows(0, 0, 1), plain.rows(0, 0, 1)
    torch.testing.assert_close(up - start, start - down, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("head", "message"), [(Twice, "several networks"), (Narrow, "several"), (Idle, "no network")])
def test_a_head_that_makes_no_expert_is_refused(tmp_path, head, message):
    with pytest.raises(InputError, match=f"experts.head=linear trains .*{message}|{message}"):
        trained(tmp_path / "e", with_component("head", head), count=1, epochs=1)


def test_a_sampler_that_minds_how_far_training_is_cannot_be_extended(tmp_path):
    own = with_component("sampler", Ageing)
    trained(tmp_path / "e", own, count=1, epochs=2)
    with pytest.raises(InputError, match=r"recipe\.epochs is 2 there and 3 here"):
        trained(tmp_path / "e", own, count=1, epochs=3)


def test_an_expert_that_diverges_is_one_line(tmp_path):
    with pytest.raises(RunFailed, match=r"training of expert 0 diverged in epoch \d.*experts\.lr") as caught:
        trained(tmp_path / "e", count=1, epochs=9, lr=1e30)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "ltdd-experts", "format_version": 9}', b"\xff"])
def test_a_damaged_key_or_expert_is_one_line(tmp_path, content):
    folder, _ = trained(tmp_path / "e", count=1, epochs=1)
    folder.file(0).write_bytes(content)
    with pytest.raises(InputError, match=r"expert-0000\.safetensors: damaged, or no expert.*delete it"):
        trained(tmp_path / "e", count=1, epochs=2)
    (tmp_path / "e" / "experts.json").write_bytes(content)
    with pytest.raises(InputError, match=r"holds no experts|of another version"):
        trained(tmp_path / "e", count=1, epochs=2)


def test_an_expert_of_another_network_is_one_line(tmp_path):
    folder, _ = trained(tmp_path / "e", count=1, epochs=1)
    other, _ = trained(tmp_path / "o", task(network={"width": 4}), count=1, epochs=1)
    folder.file(0).write_bytes(other.file(0).read_bytes())
    with pytest.raises(InputError, match="not an expert of this folder; delete it"):
        trained(tmp_path / "e", count=1, epochs=2)


def test_an_expert_of_another_process_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 0.01)
    reports, own, folder = [], task(), ExpertFolder(tmp_path / "e")
    folder.begin(expert_key(own, ExpertOptions()))
    with folder.locked(0) as mine:
        assert mine
        worker = threading.Thread(target=lambda: reports.extend(trained(tmp_path / "e", own, count=2, epochs=1)[1]))
        worker.start()
        while len(reports) == 0 and not folder.file(1).exists():
            time.sleep(0.01)
        time.sleep(0.1)
        assert worker.is_alive()
        assert not folder.file(0).exists()
    worker.join(60)
    assert not worker.is_alive()
    assert folder.numbers() == [0, 1]


def test_different_data_networks_recipes_and_seeds_have_folders_of_their_own():
    plain = task()
    variants = {
        folder_for(own, expert_key(own, options))
        for own, options in [
            (plain, ExpertOptions()),
            (task(seed=1), ExpertOptions()),
            (task(data={**DATA, "seed": 1}), ExpertOptions()),
            (task(data={**DATA, "mean": [0.5], "std": [0.5]}), ExpertOptions()),
            (task(network={"width": 8, "depth": 2, "norm": "group"}), ExpertOptions()),
            (task(network={"width": 8, "depth": 2, "pooling": "max"}), ExpertOptions()),
            (task(augment="flip"), ExpertOptions()),
            (plain, ExpertOptions(lr=0.2)),
            (plain, ExpertOptions(sampler="class-balanced")),
        ]
    }
    assert len(variants) == 9
    assert folder_for(plain, expert_key(plain, ExpertOptions(count=9, epochs=7))) in variants


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_trains_and_says_what(ltdd, tmp_path):
    arguments = ("experts", "train", *OPTIONS, "--count", "2", "--epochs", "3", "--set", "experts.batch=64")
    result = ltdd(*arguments, "--out", tmp_path / "e")
    assert result.exit_code == 0, result.output
    assert "2 experts of 3 epochs take" in result.stderr
    assert "epoch 6/6" in result.stderr
    assert f"--set matcher.experts_dir={tmp_path / 'e'}" in result.stdout
    again = ltdd(*arguments, "--json", "--out", tmp_path / "e")
    document = json.loads(again.stdout)
    assert document["count"] == 2
    assert document["epochs"] == 3
    assert document["bytes"] == sum(
        4 * load_tensors(file)[0]["trajectory"].numel() for file in (tmp_path / "e").glob("*.safetensors")
    )
    assert ltdd(*arguments, "--quiet", "--out", tmp_path / "e").stderr == ""


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "experts.lrr=1"], r"--set experts.lrr: unknown matcher.experts option 'lrr'. Did you mean 'lr'?"),
        (["--set", "experts.lr=-1"], "matcher.experts.lr must be above 0"),
        (["--set", "experts.head=twostage"], "experts.head=twostage trains several networks"),
        (["--set", "experts.head=nope"], "unknown head 'nope'"),
        (["--set", "experts.sampler=nope"], "unknown sampler 'nope'"),
        (["--set", "matcher.name=dm"], "method 'dm' has no experts"),
        (["--count", "0"], "--count"),
        (["--jobs", "0"], "--jobs"),
        (["--count", "1000000000"], "the experts need"),
        (["--preset", "nope"], "unknown preset"),
    ],
)
def test_wrong_input_is_one_line(ltdd, extra, message):
    result = ltdd("experts", "train", *OPTIONS, "--quiet", *extra)
    assert message in one_line_error(result)


def test_other_experts_in_the_folder_are_refused(ltdd, tmp_path):
    command = ("experts", "train", *OPTIONS, "--quiet", "--count", "1", "--epochs", "1", "--out", tmp_path / "e")
    assert ltdd(*command).exit_code == 0
    before = contents(tmp_path / "e")
    assert "recipe.lr is 0.1 there and 0.2 here" in one_line_error(ltdd(*command, "--set", "experts.lr=0.2"))
    assert "data.counts is 20 there" in one_line_error(ltdd(*command, "--imbalance", "2", "--n-max", "10"))
    assert "recipe.seed is 0 there and 3 here" in one_line_error(ltdd(*command, "--seed", "3"))
    (tmp_path / "file").write_text("")
    assert "cannot write" in one_line_error(ltdd(*command, "--out", tmp_path / "file"))
    assert contents(tmp_path / "e") == before


def test_two_processes_give_the_same_bytes_as_one(ltdd, tmp_path):
    command = ("experts", "train", *OPTIONS, "--count", "3", "--epochs", "6", "--json")
    for jobs in (1, 2):
        result = ltdd(*command, "--jobs", jobs, "--out", tmp_path / f"jobs{jobs}")
        assert result.exit_code == 0, result.output
        assert "epoch 18/18" in result.stderr
    assert len(contents(tmp_path / "jobs1")) == 4
    assert contents(tmp_path / "jobs1") == contents(tmp_path / "jobs2")


def test_what_ends_one_of_several_processes_is_one_line(ltdd):
    result = ltdd("experts", "train", *OPTIONS, "--quiet", "--jobs", "2", "--set", "experts.lr=1e30")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: training of expert ")
    assert result.stderr.count("\n") == 1


def test_an_expert_is_no_ensemble(ltdd):
    assert "experts.head=ensemble is made of other heads; an expert is one network" in one_line_error(
        ltdd("experts", "train", *OPTIONS, "--quiet", "--set", "experts.head=ensemble")
    )


@pytest.mark.parametrize("line", ["a note from a C library", "7", "[1]", "{}", '{"code": 3}'])
def test_what_a_library_prints_in_a_child_is_no_message(line, monkeypatch, capfd):
    said = queue.Queue()
    child = f"import os, sys; sys.stdin.read(); os.write(1, {line.encode() + bytes([10, 255, 10])!r})"
    real = subprocess.Popen
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda command, **how: real([sys.executable, "-c", child], **how)
    )
    processes._start("{}", said)
    assert said.get(timeout=60) == {"code": 0}
    assert line in capfd.readouterr().err


def test_a_child_that_dies_before_it_reads_still_says_so(monkeypatch):
    said, real = queue.Queue(), subprocess.Popen
    child = "import os; os.close(0); os._exit(7)"
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda command, **how: real([sys.executable, "-c", child], **how)
    )
    processes._start("x" * 10**7, said)
    assert said.get(timeout=60) == {"code": 7}


def started(*arguments, log):
    command = [sys.executable, "-c", "from ltdd_core.cli import main; main()", *map(str, arguments)]
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def test_kill_9_loses_no_finished_expert_and_ends_in_the_same_bytes(tmp_path):
    command = ("experts", "train", *OPTIONS, "--count", "3", "--epochs", "30", "--out")
    assert started(*command, tmp_path / "whole", log=tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    process = started(*command, tmp_path / "cut", log=tmp_path / "log")
    second = tmp_path / "cut" / "expert-0001.safetensors"
    while not second.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    folder = ExpertFolder(tmp_path / "cut")
    assert folder.epochs(0) == 30
    assert 0 < folder.epochs(1) < 30
    assert started(*command, tmp_path / "cut", log=tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_signal_saves_and_says_how_to_go_on(tmp_path):
    command = ("experts", "train", *OPTIONS, "--count", "1", "--epochs", "5000", "--jobs", "2", "--out", tmp_path / "e")
    process = started(*command, log=tmp_path / "log")
    while not (tmp_path / "e" / "expert-0000.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 130
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        "Error: SIGTERM: stopped and saved; the same command resumes it."
    )
    assert ExpertFolder(tmp_path / "e").epochs(0) >= 5


# ---- distilling with them ------------------------------------------------------------------------


def test_distilling_trains_experts_once_and_finds_them_again(ltdd):
    command = (*DISTIL, "--iterations", "3", "--plugin", "twostage", "--set", "experts.epochs=4")
    first = ltdd(*command, "--set", "experts.count=2")
    assert first.exit_code == 0, first.output
    assert first.stderr.count("training a network: expert") == 2
    assert "two-stage" in first.stdout
    second = ltdd(*command, "--set", "experts.count=2", "--iterations", "2")
    assert "training a network: expert" not in second.stderr
    third = ltdd(*command, "--set", "experts.count=3", "--iterations", "2")
    assert third.stderr.count("training a network: expert") == 1


def test_experts_from_the_command_are_those_of_distilling(ltdd, tmp_path):
    how = ("--set", "experts.count=2", "--set", "experts.epochs=4", "--set", "experts.sampler=class-balanced")
    assert ltdd("experts", "train", *OPTIONS, *how, "--json").exit_code == 0
    found = ltdd(*DISTIL, "--iterations", "2", *how, "--out", tmp_path / "found")
    assert found.exit_code == 0, found.output
    assert "training a network: expert" not in found.stderr
    (folder,) = (tmp_path / "here" / "runs" / "experts").iterdir()
    named = ltdd(*DISTIL, "--iterations", "2", "--set", f"matcher.experts_dir={folder}", "--out", tmp_path / "named")
    assert named.exit_code == 0, named.output
    one, other = (load_tensors(tmp_path / run / "distilled.safetensors") for run in ("found", "named"))
    assert torch.equal(one[0]["images"], other[0]["images"])
    assert one[1]["training"]["lr"] == other[1]["training"]["lr"] != 0.01
    assert "data.counts is 20 there" in one_line_error(
        ltdd(*DISTIL, "--n-max", "10", "--imbalance", "10", "--set", f"matcher.experts_dir={folder}")
    )
    assert "network" in one_line_error(
        ltdd(*DISTIL, *TINY[4:6], "--set", "network.depth=1", "--set", f"matcher.experts_dir={folder}")
    )


def test_a_run_killed_with_9_ends_in_the_same_bytes(tmp_path):
    how = ("--set", "experts.count=2", "--set", "experts.epochs=4", "--set", "compute.checkpoint_every=1")
    command = (*DISTIL, *how, "--iterations", "40", "--plugin", "twostage", "--out")
    assert started(*command, tmp_path / "whole", log=tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    process, steps = started(*command, tmp_path / "cut", log=tmp_path / "log"), tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (steps.exists() and steps.read_text().count("\n") > 5):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = started(*command, tmp_path / "cut", "--resume", log=tmp_path / "log")
    assert resumed.wait() == 0, (tmp_path / "log").read_text()
    for name in ("distilled.safetensors", "metrics.jsonl", "predictions.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_preset_has_the_published_values():
    config = configure(preset="mtt-paper")
    options = config.matcher.options
    assert (options.lr_img, options.lr_lr, options.momentum, config.run.iterations) == (1000, 1e-5, 0.5, 5000)
    assert (options.syn_steps, options.expert_epochs, options.max_start_epoch) == (30, 2, 15)
    assert options.experts.model_dump() == {
        **ExpertOptions().model_dump(),
        "count": 100,
        "epochs": 50,
        "lr": 0.01,
        "batch": 256,
    }
    assert config.data.options.normalisation == "zca"
    assert configure(**yaml.safe_load(yaml.safe_dump(config.to_tree()))) == config
