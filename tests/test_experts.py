"""Experts: trained as written, nothing lost, shared by processes, and found again by the runs that need them."""

import copy
import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import forked
import pytest
import torch
import yaml
from conftest import one_line_error, unclocked
from filelock import FileLock
from torch.nn import functional as F

from ltdd_core import (
    Augmentation,
    ClassifierHead,
    InputError,
    Interrupted,
    RunFailed,
    Sampler,
    TrainingOptions,
    configure,
    generator,
)
from ltdd_core.commands import open_setup, task_of
from ltdd_core.data.load import load_long_tailed
from ltdd_core.networks import trajectory
from ltdd_core.networks.store import SHARED, stored_networks
from ltdd_core.networks.trajectory import flat_parameters
from ltdd_core.processes import _check_end
from ltdd_core.seeding import global_generator
from ltdd_core.storage import digest_of, load_tensors, save_tensors
from ltdd_mtt.experts import (
    ExpertOptions,
    experts_of,
    train_experts,
)
from ltdd_mtt.jobs import bad_end

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
    with open_setup(configure(**{**SMALL, **settings})) as setup:
        return task_of(setup)


def experts_in(path, own=None, **options):
    """Experts in a folder of their own, trained or not."""
    return experts_of(replace(own or task(), shared=path), ExpertOptions(**options))


def trained(path, own=None, **options):
    """Experts in a folder of their own, and what was reported."""
    reports, own, options = [], replace(own or task(), shared=path), ExpertOptions(**options)
    experts = experts_of(own, options)
    train_experts(own, options, experts, lambda *report: reports.append(report))
    return experts, reports


def contents(folder):
    """All files but for the seconds of training; a lock goes with the process that holds it, unless that is killed."""
    found = {file.name: load_tensors(file) for file in folder.iterdir() if not file.name.startswith(".")}
    return {name: (digest_of(tensors), unclocked(facts)) for name, (tensors, facts) in found.items()}


def files(folder):
    """The files of experts by their number."""
    return {int(one.key["what"].split()[1]): one.path for one in stored_networks(folder)}


def test_a_trajectory_is_plain_sgd(tmp_path):
    """Written out: no chunks, no optimiser, the draws of each epoch in their order."""
    config = configure(**SMALL)
    data, own = load_long_tailed("digits-lt", config.data.make()), task()
    experts, reports = trained(tmp_path / "e", own, count=2, epochs=3, lr=0.05, batch=32)
    assert reports == [(index, done) for index in (0, 1) for done in (0, 1, 2, 3)]
    sampler, augmentation = config.sampler.make(), Augmentation(config.run.augment)
    sampler.prepare(data)
    for index in (0, 1):
        with global_generator(0, f"weights for expert {index} on original"):
            network = config.network.component((1, 8, 8), 10, config.network.options)
        rows = [flat_parameters(network)]
        for epoch in range(3):
            draws = generator(0, f"expert {index} on original: epoch", epoch)
            for batch in sampler.epoch(epoch / 2, draws).split(32):
                images = data.normalisation.apply(data.train_images[batch])
                images = augmentation.draw((1, 8, 8), draws, len(batch))(images)
                network.zero_grad()
                F.cross_entropy(network(images), data.train_labels[batch]).backward()
                with torch.no_grad():
                    for value in network.parameters():
                        value -= 0.05 * value.grad
            rows.append(flat_parameters(network))
        stored, facts = load_tensors(experts[index].path)
        torch.testing.assert_close(stored["trajectory"], torch.stack(rows), rtol=1e-4, atol=1e-6)
        assert set(stored) == {"trajectory"}
        assert facts["parameters"] == [[name, list(value.shape)] for name, value in network.named_parameters()]
        assert facts["key"]["what"] == f"expert {index} on the original set"
        first, last = experts[index].rows(0, 3)
        assert torch.equal(first, stored["trajectory"][0])
        assert torch.equal(last, stored["trajectory"][3])
    assert not torch.equal(experts[0].rows(0)[0], experts[1].rows(0)[0])


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
    exact, stored = (load_tensors(experts[0].path)[0] for experts in (full, half))
    assert torch.equal(stored["trajectory"], exact["trajectory"].to(stored["trajectory"].dtype))
    assert torch.equal(stored["last"], exact["trajectory"][-1])
    assert half[0].rows(1, 2)[0].dtype == torch.float32
    assert full[0].size(7) == exact["trajectory"].numel() * 4
    assert half[0].size(7) == exact["trajectory"].numel() * 2


def test_batch_normalisation_goes_on_with_its_averages(tmp_path):
    """A last batch of one image is normalised with them, so the weights depend on them."""
    own = task(network={"width": 8, "depth": 2, "norm": "batch"})
    size = len(own.data.train_labels) - 1
    trained(tmp_path / "whole", own, count=1, epochs=4, batch=size)
    trained(tmp_path / "grown", own, count=1, epochs=2, batch=size)
    trained(tmp_path / "grown", own, count=1, epochs=4, batch=size)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("norm", "store"), [("instance", "fp32"), ("instance", "bf16"), ("batch", "fp32")])
def test_an_interruption_saves_the_epochs_that_are_done(tmp_path, norm, store):
    """It comes in the middle of an epoch, whose steps are taken again."""
    own, calls = task(network={"width": 8, "depth": 2, "norm": norm}), []

    def keep_going():
        if list(files(tmp_path / "cut")) == [0] and calls.append(0) is None and len(calls) > 5:
            raise Interrupted("SIGINT")

    stopping = replace(own, trainer=replaced(own.trainer, keep_going=keep_going))
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", stopping, count=2, epochs=4, batch=32, store=store)
    done = load_tensors(files(tmp_path / "cut")[1])[0]["trajectory"]
    assert 1 < len(done) < 5
    trained(tmp_path / "cut", own, count=2, epochs=4, batch=32, store=store)
    trained(tmp_path / "again", own, count=2, epochs=4, batch=32, store=store)
    assert contents(tmp_path / "cut") == contents(tmp_path / "again")


def replaced(trainer, **changes):
    other = copy.copy(trainer)
    vars(other).update(changes)
    return other


@pytest.mark.parametrize("remembering", [{"momentum": 0.5}, {"average": 0.5}, {"optimizer": "adamw"}])
def test_a_training_that_remembers_more_than_its_weights_is_no_trajectory(remembering):
    training = TrainingOptions(**{"momentum": 0.0, "schedule": "constant", **remembering})
    with pytest.raises(ValueError, match="momentum, AdamW or an average"):
        task().trajectories("expert", training=training)


def test_samplers_and_heads_have_their_say(tmp_path):
    rows = {}
    for name in ("instance", "class-balanced"):
        experts, _ = trained(tmp_path / name, count=1, epochs=2, sampler=name)
        rows[name] = experts[0].rows(0, 2)
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


class Decaying(Negative):
    def fit(self, sets, trainer):
        trainer.train(sets[0], outputs=sets[0].classes, loss_at=lambda progress: F.cross_entropy)


class Reading(Negative):
    def fit(self, sets, trainer):
        numbers = iter(range(1000))
        trainer.train(sets[0], outputs=sets[0].classes, loss=lambda x, y: next(numbers) * F.cross_entropy(x, y))


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


def with_head(head):
    own = task()
    return replace(own, component=lambda k, s: head(head.Options()) if k == "head" else own.component(k, s))


def with_sampler(sampler):
    own, made = task(), sampler(sampler.Options())
    made.prepare(own.data)
    return replace(own, original=lambda named: replace(own.original("instance"), order=made.epoch))


def test_the_loss_is_the_one_of_the_head(tmp_path):
    experts, _ = trained(tmp_path / "n", with_head(Negative), count=1, epochs=1, batch=1000, lr=0.01)
    plain, _ = trained(tmp_path / "p", count=1, epochs=1, batch=1000, lr=0.01)
    (start, up), (_, down) = experts[0].rows(0, 1), plain[0].rows(0, 1)
    torch.testing.assert_close(up - start, start - down, rtol=1e-3, atol=1e-7)


UNSUITED = [
    (Twice, "trains several networks"),
    (Narrow, "has not one logit for each class"),
    (Idle, "trains no network"),
    (Decaying, "changes the last layer, or the loss during training"),
    (Reading, "cannot be told from others: nothing could be found again"),
]


@pytest.mark.parametrize(("head", "message"), UNSUITED)
def test_a_head_that_makes_no_expert_is_refused_before_anything_is_trained(tmp_path, head, message):
    with pytest.raises(InputError, match=f"^experts.head=linear: the head .*{message}"):
        trained(tmp_path / "e", with_head(head), count=1, epochs=1)
    assert not (tmp_path / "e").exists()


def test_a_sampler_that_minds_how_far_training_is_gives_other_experts_for_another_length(tmp_path):
    own = with_sampler(Ageing)
    short, _ = trained(tmp_path / "e", own, count=1, epochs=2)
    longer, reports = trained(tmp_path / "e", own, count=1, epochs=3)
    assert reports[0] == (0, 0)
    assert short[0].path != longer[0].path
    assert not torch.equal(short[0].rows(2)[0], longer[0].rows(2)[0])


def test_an_expert_that_diverges_is_one_line(tmp_path):
    with pytest.raises(
        RunFailed, match=r"training of expert 0 on original diverged in epoch \d.*experts=.*lr"
    ) as caught:
        trained(tmp_path / "e", count=1, epochs=9, lr=1e30)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, None])
def test_a_damaged_expert_is_one_line(tmp_path, content):
    experts, _ = trained(tmp_path / "e", count=1, epochs=1)
    whole = experts[0].path.read_bytes()
    experts[0].path.write_bytes(whole[:-10] if content is None else content)
    with pytest.raises(
        InputError, match=rf"{experts[0].path.name}: damaged, or no trajectory: .*remove the file"
    ) as caught:
        trained(tmp_path / "e", count=1, epochs=2)
    assert "\n" not in str(caught.value)


def nothing_finite(tensors):
    return tensors | {"trajectory": tensors["trajectory"] * torch.nan}


def no_averages(tensors):
    return {"trajectory": tensors["trajectory"]}


def narrow(tensors):
    return tensors | {"trajectory": tensors["trajectory"][:, :1]}


@pytest.mark.parametrize("change", [nothing_finite, no_averages, narrow])
def test_an_expert_with_other_tensors_is_one_line(tmp_path, change):
    own = task(network={"width": 8, "depth": 2, "norm": "batch"})
    experts, _ = trained(tmp_path / "e", own, count=1, epochs=1)
    tensors, facts = load_tensors(experts[0].path)
    save_tensors(experts[0].path, change(tensors), facts)
    with pytest.raises(InputError, match=f"{experts[0].path.name}: .*remove the file"):
        trained(tmp_path / "e", own, count=1, epochs=2)
    if change is nothing_finite:
        with pytest.raises(InputError, match="a weight is not finite"):
            experts_in(tmp_path / "e", own)[0].rows(0, 1)


def test_a_file_under_the_name_of_another_expert_is_one_line(tmp_path):
    experts, _ = trained(tmp_path / "e", count=1, epochs=1)
    other, _ = trained(tmp_path / "o", task(network={"width": 4}), count=1, epochs=1)
    experts[0].path.write_bytes(other[0].path.read_bytes())
    with pytest.raises(InputError, match="not the network that its name says; remove the file"):
        trained(tmp_path / "e", count=1, epochs=2)


def test_an_expert_of_another_process_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "PATIENCE", 0.01)
    reports, own = [], task()
    experts = experts_in(tmp_path / "e", own, count=2, epochs=1)
    with experts[0].alone() as mine:
        assert mine
        worker = threading.Thread(target=lambda: reports.extend(trained(tmp_path / "e", own, count=2, epochs=1)[1]))
        worker.start()
        while not experts[1].path.exists():
            time.sleep(0.01)
        time.sleep(0.1)
        assert worker.is_alive()
        assert not experts[0].path.exists()
    worker.join(60)
    assert not worker.is_alive()
    assert [one.epochs() for one in (experts[0], experts[1])] == [1, 1]


def test_whatever_decides_an_expert_makes_it_another_expert():
    plain = task()
    variants = [
        (plain, {}),
        (task(seed=1), {}),
        (task(data={**DATA, "seed": 1}), {}),
        (task(data={**DATA, "mean": [0.5], "std": [0.5]}), {}),
        (task(network={"width": 8, "depth": 2, "norm": "group"}), {}),
        (task(network={"width": 8, "depth": 2, "pooling": "max"}), {}),
        (task(network={"width": 8, "depth": 2, "norm": "batch"}), {}),
        (task(augment="flip"), {}),
        (task(compute={"precision": "bf16"}), {}),
        (with_head(Negative), {}),
        (with_sampler(Ageing), {}),
        (with_sampler(Ageing), {"epochs": 7}),
        (plain, {"lr": 0.2}),
        (plain, {"batch": 17}),
        (plain, {"store": "fp16"}),
        (plain, {"store": "bf16"}),
        (plain, {"sampler": "class-balanced"}),
        (plain, {"sampler": {"name": "effective-number", "beta": 0.9}}),
        (plain, {"sampler": {"name": "effective-number", "beta": 0.99}}),
        (plain, {"head": "balanced-softmax"}),
        (plain, {"head": {"name": "logit-adjustment", "tau": 1.5}}),
        (plain, {"head": {"name": "logit-adjustment", "tau": 0.5}}),
    ]
    places = {experts_of(own, ExpertOptions(**options))[number].path for own, options in variants for number in (0, 1)}
    assert len(places) == 2 * len(variants)
    assert experts_of(plain, ExpertOptions(count=9, epochs=7))[0].path in places  # its beginning is the same
    assert {place.parent for place in places} == {SHARED}


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_trains_and_says_what(ltdd, tmp_path):
    arguments = ("experts", "train", *OPTIONS, "--count", "2", "--epochs", "3", "--set", "experts.batch=64")
    result = ltdd(*arguments, "--store", tmp_path / "e")
    assert result.exit_code == 0, result.output
    assert "2 experts of 3 epochs take" in result.stderr
    assert "epoch 6/6  0:00:00 left" in result.stderr
    assert f"ltdd distill --method mtt --store {tmp_path / 'e'} needs the same --data, --seed" in result.stdout
    assert "experts.count=2 and experts.epochs=3 among them" in result.stdout
    again = ltdd(*arguments, "--json", "--store", tmp_path / "e")
    document = json.loads(again.stdout)
    assert again.stderr.splitlines()[-1] == "epoch 6/6"
    assert document["count"] == 2
    assert document["epochs"] == 3
    assert document["store"] == str(tmp_path / "e")
    assert document["bytes"] == sum(
        4 * load_tensors(file)[0]["trajectory"].numel() for file in (tmp_path / "e").glob("*.safetensors")
    )
    assert ltdd(*arguments, "--quiet", "--store", tmp_path / "e").stderr == ""
    one = ltdd("experts", "train", *OPTIONS, "--count", "1", "--epochs", "1", "--store", tmp_path / "one")
    assert "1 expert of 1 epoch takes" in one.stderr
    assert "1 expert of 1 epoch in" in one.stdout


def test_experts_are_listed_and_removed(ltdd):
    assert ltdd("experts", "train", *OPTIONS, "--quiet", "--count", "2", "--epochs", "3").exit_code == 0
    listed = json.loads(ltdd("networks", "list", "--json").stdout)
    assert [(row["key"]["what"], row["epochs"], row["trajectory"]) for row in listed] == [
        ("expert 0 on the original set", 3, True),
        ("expert 1 on the original set", 3, True),
    ]
    shown = ltdd("networks", "list", "--folder", "runs/networks").stdout
    assert "expert 1 on the original set" in shown
    assert "0 to 3" in shown
    assert "2 networks" in shown
    assert ltdd("networks", "remove", listed[0]["name"]).exit_code == 0
    assert list(files(SHARED)) == [1]
    assert len(list(SHARED.iterdir())) == 1  # no lock is left


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "experts.lrr=1"], r"--set experts.lrr: unknown matcher.experts option 'lrr'. Did you mean 'lr'?"),
        (["--set", "experts.lr=-1"], "matcher.experts.lr must be above 0"),
        (["--set", "experts.head=twostage"], "experts.head=twostage: the head trains several networks"),
        (["--set", "experts.head=nope"], "unknown head 'nope'"),
        (["--set", "experts.sampler=nope"], "unknown sampler 'nope'"),
        (["--set", "matcher.name=dm"], "method 'dm' has no experts"),
        (["--count", "0"], "--count"),
        (["--jobs", "0"], "--jobs"),
        (["--jobs", "1000000000"], f"so use at most {4 * os.cpu_count()}."),
        (["--count", "1000000000"], "the experts need"),
        (["--preset", "nope"], "unknown preset"),
    ],
)
def test_wrong_input_is_one_line(ltdd, extra, message):
    result = ltdd("experts", "train", *OPTIONS, "--quiet", *extra)
    assert message in one_line_error(result)


def test_other_experts_are_trained_beside_those_that_are_there(ltdd, tmp_path):
    command = ("experts", "train", *OPTIONS, "--quiet", "--count", "1", "--epochs", "1", "--store", tmp_path / "e")
    assert ltdd(*command).exit_code == 0
    before = contents(tmp_path / "e")
    for count, others in enumerate(
        [["--set", "experts.lr=0.2"], ["--set", "data.imbalance=2", "--set", "data.n_max=10"], ["--seed", "3"]]
    ):
        assert ltdd(*command, *others).exit_code == 0
        after = contents(tmp_path / "e")
        assert len(after) == count + 2
        assert before.items() < after.items()
    (tmp_path / "file").write_text("")
    assert "cannot write" in one_line_error(ltdd(*command[:-1], tmp_path / "file"))


def test_two_processes_give_the_same_bytes_as_one(ltdd, tmp_path):
    command = ("experts", "train", *OPTIONS, "--count", "3", "--epochs", "6", "--json")
    for jobs in (1, 2):
        result = ltdd(*command, "--jobs", jobs, "--store", tmp_path / f"jobs{jobs}")
        assert result.exit_code == 0, result.output
        assert "epoch 18/18" in result.stderr
    assert len(contents(tmp_path / "jobs1")) == 3
    assert contents(tmp_path / "jobs1") == contents(tmp_path / "jobs2")


def test_what_ends_one_of_several_processes_is_one_line(ltdd):
    result = ltdd("experts", "train", *OPTIONS, "--quiet", "--jobs", "2", "--set", "experts.lr=1e30")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: training of expert ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-9, "ended with signal SIGKILL; what is done is kept. Try fewer --jobs."),
        (1, "ended with code 1; its traceback is above, and what is done is kept."),
    ],
)
def test_fewer_processes_are_advised_only_where_one_was_killed(code, message):
    with pytest.raises(RunFailed) as error:
        _check_end(SimpleNamespace(join=lambda: None, exitcode=code), bad_end)
    assert str(error.value) == f"a process that trained experts {message}"


def test_an_expert_is_no_ensemble(ltdd):
    assert "experts.head=ensemble: the head trains several networks; a trajectory is that of one" in one_line_error(
        ltdd("experts", "train", *OPTIONS, "--quiet", "--set", "experts.head=ensemble")
    )


def started(*arguments, log):
    return forked.start(*arguments, errors=log)


def epochs_of(folder, number):
    """Epochs on disk, while other processes write."""
    found = [one.epochs for one in stored_networks(folder) if one.key["what"] == f"expert {number} on the original set"]
    return found[0] if found else 0


def test_kill_9_loses_no_finished_expert_and_ends_in_the_same_bytes(tmp_path):
    command = ("experts", "train", *OPTIONS, "--count", "3", "--epochs", "30", "--store")
    assert started(*command, tmp_path / "whole", log=tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    process = started(*command, tmp_path / "cut", log=tmp_path / "log")
    while not epochs_of(tmp_path / "cut", 1) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert epochs_of(tmp_path / "cut", 0) == 30
    assert 0 < epochs_of(tmp_path / "cut", 1) < 30
    assert started(*command, tmp_path / "cut", log=tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_signal_saves_and_says_how_to_resume(tmp_path):
    store = tmp_path / "e"
    command = ("experts", "train", *OPTIONS, "--count", "1", "--epochs", "5000", "--jobs", "2", "--store", store)
    process = started(*command, log=tmp_path / "log")
    while not epochs_of(store, 0) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 130
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        "Interrupted: SIGTERM: stopped and saved; the same command resumes."
    )
    assert epochs_of(store, 0) >= 5


def test_when_the_command_is_killed_its_processes_end(tmp_path):
    store = tmp_path / "e"
    command = ("experts", "train", *OPTIONS, "--count", "2", "--epochs", "100000", "--jobs", "2", "--store", store)
    process = started(*command, log=tmp_path / "log")
    while not (epochs_of(store, 0) and epochs_of(store, 1)) and process.poll() is None:
        time.sleep(0.01)
    locks = [FileLock(lock) for lock in store.glob(".*.lock")]
    assert len(locks) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    for lock in locks:  # free as soon as its process is gone
        lock.acquire(timeout=30)


# ---- distilling with them ------------------------------------------------------------------------


def test_distilling_trains_experts_once_and_finds_them_again(ltdd):
    command = (*DISTIL, "--iterations", "3", "--plugin", "twostage", "--set", "experts.epochs=4")
    first = ltdd(*command, "--set", "experts.count=2")
    assert first.exit_code == 0, first.output
    assert first.stderr.count("training a network: expert") == 2
    assert "two-stage" in first.stdout
    second = ltdd(*command, "--set", "experts.count=2", "--set", "iterations=2")
    assert "training a network: expert" not in second.stderr
    third = ltdd(*command, "--set", "experts.count=3", "--set", "iterations=2")
    assert third.stderr.count("training a network: expert") == 1


def test_distilling_says_where_it_begins_with_an_expert_and_how_long_it_takes(ltdd):
    how = ("--set", "experts.batch=64", "--count", "1", "--epochs", "3", "--quiet")
    assert ltdd("experts", "train", *OPTIONS, *how).exit_code == 0
    said = ltdd(*DISTIL, "--set", "experts.batch=64", "--set", "experts.epochs=6", "--iterations", "1").stderr
    assert "expert 1 of 4, 3 of 6 epochs done, " in said
    assert " MB for all, in runs/networks\n" in said or " kB for all, in runs/networks\n" in said
    assert re.search(r"expert 1 of 4, 5 of 6 epochs done, \d:\d\d:\d\d left for all\n", said)
    assert "expert 4 of 4, 0 of 6 epochs done, " in said


def test_experts_from_the_command_are_those_of_distilling(ltdd, tmp_path):
    how = ("--set", "experts.count=2", "--set", "experts.epochs=4", "--set", "experts.sampler=class-balanced")
    assert ltdd("experts", "train", *OPTIONS, *how, "--json").exit_code == 0
    found = ltdd(*DISTIL, "--iterations", "2", *how, "--out", tmp_path / "found")
    assert found.exit_code == 0, found.output
    assert "training a network: expert" not in found.stderr
    store = tmp_path / "store"
    assert ltdd("experts", "train", *OPTIONS, *how, "--quiet", "--store", store).exit_code == 0
    named = ltdd(*DISTIL, "--iterations", "2", *how, "--store", store, "--out", tmp_path / "named")
    assert named.exit_code == 0, named.output
    assert "training a network: expert" not in named.stderr
    one, other = (load_tensors(tmp_path / run / "distilled.safetensors") for run in ("found", "named"))
    assert torch.equal(one[0]["images"], other[0]["images"])
    assert one[1]["recipe"]["lr"] == other[1]["recipe"]["lr"] != 0.01
    at = ("--set", f"matcher.experts_dir={store}")
    named = ltdd(*DISTIL, "--iterations", "2", *how, *at, "--out", tmp_path / "at")
    assert named.exit_code == 0, named.output
    assert "training a network: expert" not in named.stderr
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    out = ltdd("experts", "train", *OPTIONS, *how, "--out", store, "--json")
    assert json.loads(out.stdout)["store"] == str(store), out.output
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")} == before != {}
    others = ltdd(*DISTIL, "--iterations", "1", *how, "--store", store, "--seed", "1")
    assert "training a network: expert 1 of 2, 0 of 4 epochs done, " in others.stderr
    assert f"for all, in {store}" in others.stderr


@pytest.mark.slow
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
