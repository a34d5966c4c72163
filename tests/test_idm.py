"""IDM against a literal version of its loop: class by class, with one optimizer of pixels and one of each network."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import TINY, one_line_error, tiny_data
from torch.nn import functional as F

from ltdd_core import InputError, Interrupted, NetworkPool, configure, distill, generator, load_distilled
from ltdd_core.networks.zoo import ConvNet
from ltdd_core.progress import Display
from ltdd_core.testing import PlainSampler, check_matcher, tiny_long_tailed, tiny_task
from ltdd_idm.matcher import ImprovedDistributionMatcher

IPC = (4, 1, 3, 2)
QUEUE = {"networks": 4, "push": 3, "meter": 4, "trained": 3, "train_steps": 2, "batch_train": 7, "lr_net": 0.02}
SHORT = {**QUEUE, "factor": 2, "batch_real": 4, "cross_entropy": 0.05}
"""A queue that is full after the first step, so that networks leave it."""


def task_in_double():
    data = tiny_data()
    return tiny_task(data, PlainSampler(data), ipc=IPC)


def prepared(task, **options):
    matcher = ImprovedDistributionMatcher(ImprovedDistributionMatcher.Options(**{**SHORT, **options}))
    matcher.prepare(task)
    return matcher


# ---- the literal version -------------------------------------------------------------------------


class LiteralIDM:
    """The loop as the public code has it; ``seen`` notes the images of each class as they are at its turn."""

    def __init__(self, task, options):
        self.task, self.options, self.joined, self.queue = task, options, 0, []
        self.images = task.initial_tiles(options.factor).requires_grad_(True)
        self.optimizer = torch.optim.SGD([self.images], lr=options.lr_img, momentum=options.momentum)
        for _ in range(3):
            self.push()

    def push(self):
        if len(self.queue) == self.options.networks:
            self.queue.pop(0)
        network = copy.deepcopy(self.task.networks.new("queue", self.joined))
        optimizer = torch.optim.SGD(network.parameters(), lr=self.options.lr_net, momentum=0.9, weight_decay=5e-4)
        self.queue.append({"network": network, "optimizer": optimizer, "right": 0, "seen": 0})
        self.joined += 1

    def step(self, step):
        options, data, seen, total = self.options, self.task.data, [], 0
        if step % options.meter == 0:
            for member in self.queue:
                member["right"] = member["seen"] = 0
        if step % options.push == 0:
            self.push()
        order = torch.randperm(len(self.queue), generator=generator(0, "network to match in", step))
        member = self.queue[order[0]]
        accuracy = 100 * member["right"] / member["seen"] if member["seen"] else 0
        for label in range(data.classes):
            own = self.images.split(IPC)[label]
            seen.append(own.detach().clone())
            loss = self.loss_of(member["network"], own, label, step, accuracy)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach())
        self.train(step)
        return torch.cat(seen), total, accuracy

    def loss_of(self, network, own, label, step, accuracy):
        task, data, options = self.task, self.task.data, self.options
        chosen = task.sampler.of_class(label, options.batch_real, generator(0, "real batch", step, label))
        transform = task.augmentation.draw(data.image_shape, generator(0, "augmentation", step, label))
        real = transform(data.normalisation.apply(data.train_images[chosen]))
        synthetic = transform(torch.stack([tile for image in own for tile in quarters(image)]))
        mean = sum(network.embed(image[None])[0].detach() for image in real) / len(real)
        means = sum(network.embed(image[None])[0] for image in synthetic) / len(synthetic)
        wrong = sum(-network(image[None])[0].log_softmax(0)[label] for image in synthetic) / len(synthetic)
        return ((mean - means) ** 2).sum() + options.cross_entropy * accuracy * wrong

    def train(self, step):
        options, data = self.options, self.task.data
        order = torch.randperm(len(self.queue), generator=generator(0, "networks to train", step)).tolist()
        for turn, place in enumerate(order[: options.trained]):
            member, draws = self.queue[place], generator(0, f"batches of network {turn}", step)
            for _ in range(options.train_steps):
                chosen = self.task.sampler.epoch(0.0, draws)[: options.batch_train]
                images, labels = data.normalisation.apply(data.train_images[chosen]), data.train_labels[chosen]
                logits = member["network"](images)
                prior = torch.tensor([float(n) for n in data.counts]) if options.loss == "balanced" else torch.ones(4)
                member["optimizer"].zero_grad()
                F.cross_entropy(logits + prior.log(), labels).backward()
                member["optimizer"].step()
                member["right"] += int((logits.argmax(1) == labels).sum())
                member["seen"] += len(labels)


def quarters(image):
    for rows in image.tensor_split(2, 1):
        for tile in rows.tensor_split(2, 2):
            yield F.interpolate(tile[None], image.shape[1:], mode="bilinear")[0]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("loss", ["plain", "balanced"])
def test_the_loop_is_that_of_the_public_code(loss):
    """Images are compared where their gradients are taken: at the turn of each class, and before a joint step."""
    matcher = prepared(task_in_double(), loss=loss)
    literal, accuracies = LiteralIDM(task_in_double(), matcher.options), []
    for step in range(7):
        before = matcher.images.detach().clone()
        metrics = matcher.step(step)
        seen, total, accuracy = literal.step(step)
        torch.testing.assert_close(before, seen, rtol=1e-6, atol=1e-6)  # means of real images are in float32
        assert float(metrics["loss"]) == pytest.approx(total, rel=1e-6)
        assert float(metrics["network_accuracy"]) == pytest.approx(accuracy)
        accuracies.append(accuracy)
    assert len(set(accuracies)) > 2
    assert len(matcher.queue.drawn(generator(0, "any"))) == 4
    for place, member in enumerate(literal.queue):
        found = matcher.queue.network(place, 0)
        for parameter, expected in zip(found.inner.parameters(), member["network"].parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-12)


# ---- the queue -----------------------------------------------------------------------------------


def test_a_longer_and_a_shorter_queue_go_back_to_what_they_were():
    """A run is resumed in a new process, whose queue has its first networks; a step that was ended has one more."""

    def fresh():
        data = tiny_long_tailed()
        return prepared(tiny_task(data, PlainSampler(data), ipc=IPC), networks=9, push=2)

    matcher = fresh()
    for step in range(4):
        matcher.step(step)
    state = {name: value.clone() for name, value in matcher.state().items()}
    matcher.step(4)
    expected = {name: value.clone() for name, value in matcher.state().items()}
    assert int(expected["pushed"]) == 6 == int(state["pushed"]) + 1
    for other in (fresh(), matcher):
        other.load_state(state)
        other.step(4)
        found = other.state()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def queue_trained(make, chunk=4):
    """The parameters of the first network after a step of training, in networks of another kind."""
    data = tiny_long_tailed()
    device, images = torch.device("cpu"), data.normalisation.apply(data.train_images)
    pool = NetworkPool(make, data.image_shape, data.classes, seed=0, device=device, calibration=lambda step: images)
    matcher = prepared(replace(tiny_task(data, PlainSampler(data), ipc=IPC), networks=pool, chunk=chunk))
    matcher.queue.train(0, torch.arange(20))
    return matcher.state()["queue: 0: parameters"]


def small_network(shape, outputs, norm="instance"):
    return ConvNet(shape, outputs, ConvNet.Options(depth=1, width=4, norm=norm))


def test_batch_normalisation_takes_whole_batches():
    whole, parts = (queue_trained(partial(small_network, norm="batch"), chunk) for chunk in (64, 2))
    assert torch.equal(whole, parts)


def test_the_layout_of_parameters_and_gradients_does_not_matter():
    """Compiled gradients lie in memory as the compiler likes; those of such a network do, too."""

    def in_another_layout(shape, outputs):
        return small_network(shape, outputs).to(memory_format=torch.channels_last)

    torch.testing.assert_close(queue_trained(in_another_layout), queue_trained(small_network))


# ---- the matcher among the others ----------------------------------------------------------------


@pytest.mark.parametrize("options", [SHORT, {**SHORT, "factor": 1, "trained": 0, "momentum": 0}])
def test_contract(options):
    check_matcher(ImprovedDistributionMatcher, **options)


def test_small_images_are_seen_whole_and_may_be_kept():
    matcher = ImprovedDistributionMatcher(ImprovedDistributionMatcher.Options())
    assert [matcher.factor_of((3, side, side)) for side in (8, 15, 16, 32)] == [1, 1, 2, 2]
    assert [matcher.is_decoded((3, side, side)) for side in (8, 32)] == [False, True]
    assert matcher.decode(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 3, 32, 32)


def test_the_preset_has_the_published_values():
    config = configure(preset="idm-paper")
    options = config.matcher.options
    assert (config.run.iterations, config.training.distilled.epochs) == (20000, 1000)
    assert (options.lr_img, options.momentum, options.batch_real, options.factor) == (0.2, 0.5, 256, 2)
    assert (options.networks, options.push, options.trained, options.train_steps) == (100, 30, 2, 10)
    assert (options.loss, options.cross_entropy) == ("plain", 0.5)


class SignalAt(Display):
    """A signal comes when a step is done."""

    def __init__(self, step):
        self.at = step

    def step(self, step, metrics):
        if step == self.at:
            raise Interrupted(2)


def test_a_run_that_stopped_goes_on_to_the_same_bytes(tmp_path):
    """A process that ends between two checkpoints loses the steps after the first of them, as with kill -9."""
    tree = {
        "method": "idm",
        "iterations": 6,
        "ipc": 2,
        "network": {"width": 8, "depth": 1},
        "matcher": {**SHORT, "networks": 5, "push": 1},
        "training": {"original": {"epochs": 1}, "distilled": {"epochs": 1}},
        "compute": {"threads": 1, "checkpoint_every": 2},
    }
    config = configure(**tree)
    distill(config, tmp_path / "whole", lines=[])
    with pytest.raises(Interrupted):
        distill(config, tmp_path / "cut", display=SignalAt(2), lines=[])
    assert not (tmp_path / "cut" / "distilled.safetensors").exists()
    distill(config, tmp_path / "cut", resume=True, lines=[])
    for name in ("distilled.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    stored = load_distilled(tmp_path / "whole")
    assert stored.decoder["name"] == "idm"
    assert len(stored.decoded().images) == 4 * len(stored.images)


def test_what_cannot_be_done_is_one_line(ltdd):
    words = ("distill", "--method", "idm", *TINY)
    assert "9 x 9 tiles do not fit into images of 8x8 pixels" in one_line_error(
        ltdd(*words, "--set", "matcher.factor=9")
    )
    kept = one_line_error(ltdd(*words, "--set", "matcher.factor=2", "--init", "keep"))
    assert "stores images that are decoded, so it cannot keep real ones" in kept
    with pytest.raises(InputError, match=r"matcher\.loss"):
        configure(method="idm", matcher={"loss": "focal"})
