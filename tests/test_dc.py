"""DC and DSA against a literal version of their equations, written out class by class, layer by layer, row by row."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from conftest import TINY, tiny_data
from hypothesis import given, strategies as st
from torch.nn import functional as F

from ltdd_core import (
    Augmentation,
    InputError,
    Interrupted,
    NetworkPool,
    configure,
    cross_entropy,
    distill,
    generator,
    gradient_in_chunks,
)
from ltdd_core.networks.zoo import ConvNet
from ltdd_core.progress import Display
from ltdd_core.seeding import global_generator
from ltdd_core.testing import IPC, PlainSampler, check_matcher, tiny_task
from ltdd_dc.distance import DISTANCES
from ltdd_dc.gradients import SECOND_ORDER
from ltdd_dc.matcher import DatasetCondensation, SiameseCondensation, published_loops

METHODS = {"dc": DatasetCondensation, "dsa": SiameseCondensation}
SHORT = {"outer_loop": 2, "inner_loop": 2}
EVERYTHING = "color_crop_cutout_flip_scale_rotate"


def small_network(shape, outputs, norm="instance"):
    return ConvNet(shape, outputs, ConvNet.Options(depth=2, width=5, norm=norm))


def small_task(*, precision="fp32", compiled=False, norm="instance", chunk=4, augment=EVERYTHING):
    """The tiny set with a network of two blocks, in torch's default dtype."""
    data = tiny_data()
    pool = NetworkPool(
        lambda shape, outputs: small_network(shape, outputs, norm),
        data.image_shape,
        data.classes,
        seed=0,
        device=torch.device("cpu"),
        calibration=lambda step: data.normalisation.apply(data.train_images),
        precision=precision,
        compiled=compiled,
    )
    task = tiny_task(data, PlainSampler(data))
    return replace(task, networks=pool, chunk=chunk, augmentation=Augmentation(augment))


def prepared(method, task=None, **options):
    component = METHODS[method]
    matcher = component(component.Options(**{**SHORT, "batch_real": 8, **options}))
    matcher.prepare(task if task is not None else small_task())
    return matcher


# ---- the equations, slowly -----------------------------------------------------------------------


def literal_distance(name, one, other):
    """Of two lists of gradients, in loops over layers and rows."""
    if name == "layerwise-cosine":
        total = 0
        for a, b in zip(one, other, strict=True):
            if a.dim() == 1:
                continue
            for row_a, row_b in zip(a, b, strict=True):
                u, v = row_a.reshape(-1), row_b.reshape(-1)
                total = total + 1 - torch.dot(u, v) / (torch.dot(u, u).sqrt() * torch.dot(v, v).sqrt() + 1e-6)
        return total
    u = torch.cat([a.reshape(-1) for a in one])
    v = torch.cat([b.reshape(-1) for b in other])
    if name == "mse":
        return sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
    return 1 - torch.dot(u, v) / (torch.dot(u, u).sqrt() * torch.dot(v, v).sqrt() + 1e-6)


def literal_tiles(images, factor):
    """Each tile at the size of its image."""
    tiles = [tile for image in images for row in image.chunk(factor, 1) for tile in row.chunk(factor, 2)]
    return torch.cat([F.interpolate(tile[None], images.shape[2:], mode="bilinear") for tile in tiles])


def literal_matching(task, network, pixels, number, *, distance, batch_real, factor=1):
    """The loss of one matching and its gradient in the pixels ``[classes * ipc, C, H, W]``."""
    data, parameters = task.data, list(network.parameters())
    pixels = pixels.clone().requires_grad_(True)
    loss = 0
    for c in range(data.classes):
        chosen = task.sampler.of_class(c, batch_real, generator(0, f"real batch of class {c}", number))
        transform = task.augmentation.draw(data.image_shape, generator(0, f"augmentation of class {c}", number))
        real = transform(data.normalisation.apply(data.train_images[chosen]))
        synthetic = transform(literal_tiles(pixels[task.initial_labels == c], factor))
        gradients = [torch.autograd.grad(-network(image[None]).log_softmax(1)[0, c], parameters) for image in real]
        expected = [sum(own) / len(real) for own in zip(*gradients, strict=True)]
        own_loss = sum(-network(image[None]).log_softmax(1)[0, c] for image in synthetic) / len(synthetic)
        current = torch.autograd.grad(own_loss, parameters, create_graph=True)
        loss = loss + literal_distance(distance, current, expected)
    return loss.detach(), torch.autograd.grad(loss, pixels)[0]


def literal_training(task, network, pixels, number, *, epochs, lr, batch, factor):
    """Plain SGD on the synthetic images, a step of the mean loss for every batch."""
    draws = generator(0, "network training", number)
    pixels, classes = literal_tiles(pixels, factor), task.initial_labels.repeat_interleave(factor**2)
    for _ in range(epochs):
        order = torch.randperm(len(pixels), generator=draws)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            images = task.augmentation.draw(task.data.image_shape, draws, len(chosen))(pixels[chosen])
            labels = classes[chosen]
            losses = [
                -network(image[None]).log_softmax(1)[0, c] for image, c in zip(images, labels.tolist(), strict=True)
            ]
            gradients = torch.autograd.grad(sum(losses) / len(losses), list(network.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                    parameter -= lr * gradient


def fresh_network(task, step):
    with global_generator(0, "network", step):
        return small_network(task.data.image_shape, task.data.classes)


def as_seen_by(method, task):
    return replace(task, augmentation=Augmentation("none")) if method == "dc" else task


def assert_same(found, expected, relative=1e-8):
    assert expected.norm() > 0
    assert ((found - expected).norm() / expected.norm()).item() < relative


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_pixel_gradients_are_those_of_the_equation(method, distance):
    task = small_task()
    matcher = prepared(method, task, outer_loop=1, distance=distance)
    seen = as_seen_by(method, task)
    for step in range(3):
        before = matcher.images.detach().clone()
        loss, gradient = literal_matching(
            seen, fresh_network(task, step), before, step, distance=distance, batch_real=8
        )
        metrics = matcher.step(step)
        assert_same(metrics["loss"] * task.data.classes, loss)
        assert_same(matcher.images.grad, gradient)
        assert not torch.equal(before, matcher.images.detach())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("method", "factor"), [("dc", 1), ("dsa", 1), ("dsa", 2)])
def test_an_iteration_matches_and_trains_in_turns(method, factor):
    """Three matchings with two trainings between them, in batches smaller than the set, and momentum."""
    task = small_task()
    options = {"outer_loop": 3, "inner_loop": 2, "batch_train": 5, "lr_net": 0.2, "lr_img": 0.3, "factor": factor}
    matcher = prepared(method, task, **options)
    seen, layers = as_seen_by(method, task), "layerwise-cosine"
    pixels, velocity = task.initial_tiles(factor), torch.zeros_like(task.initial_images)
    for step in range(2):
        network, losses = fresh_network(task, step), []
        for matching in range(3):
            number = step * 3 + matching
            how = {"distance": layers, "batch_real": 8, "factor": factor}
            loss, gradient = literal_matching(seen, network, pixels, number, **how)
            losses.append(loss)
            velocity = 0.5 * velocity + gradient
            pixels = pixels - 0.3 * velocity
            if matching < 2:
                literal_training(seen, network, pixels, number, epochs=2, lr=0.2, batch=5, factor=factor)
        metrics = matcher.step(step)
        assert_same(metrics["loss"], sum(losses) / (3 * task.data.classes))
        assert_same(matcher.images.detach(), pixels)
        trained = matcher.task.networks._trainable.inner
        for found, expected in zip(trained.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_a_zero_gradient_is_at_distance_one_of_each_row_and_can_be_differentiated():
    zero = {"weight": torch.zeros(3, 2, 1, 1, requires_grad=True), "bias": torch.zeros(3)}
    other = {"weight": torch.ones(3, 2, 1, 1), "bias": torch.ones(3)}
    assert DISTANCES["layerwise-cosine"](zero, other).item() == 3
    assert DISTANCES["cosine"](zero, other).item() == 1
    assert DISTANCES["mse"](zero, other).item() == 9
    for distance in DISTANCES.values():
        assert torch.isfinite(torch.autograd.grad(distance(zero, other), zero["weight"])[0]).all()


# ---- what must not matter ------------------------------------------------------------------------


def first_gradient(method, **task_and_options):
    keys = ("precision", "compiled", "norm", "chunk", "augment")
    task = small_task(**{key: task_and_options.pop(key) for key in keys if key in task_and_options})
    matcher = prepared(method, task, outer_loop=1, **task_and_options)
    matcher.step(0)
    return matcher.images.grad


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_batched_classes_are_the_loop(at_once, distance):
    chunk = at_once * SECOND_ORDER * IPC
    batched = first_gradient("dsa", chunk=chunk, gradients="batched", distance=distance)
    assert_same(batched, first_gradient("dsa", chunk=chunk, gradients="loop", distance=distance), 1e-5)


@pytest.mark.usefixtures("double")
def test_chunks_do_not_change_a_gradient():
    whole = first_gradient("dsa", chunk=1000)
    for chunk in (1, 3, 5):
        assert_same(first_gradient("dsa", chunk=chunk), whole, 1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_the_gradient_in_chunks_is_that_of_the_mean_loss(chunk):
    network, labels = small_network((3, 8, 8), 4), torch.tensor([0, 1, 3, 3, 2, 0, 1])
    images = torch.randn(7, 3, 8, 8, generator=generator(0, "images"))
    parameters = [*network.parameters(), torch.zeros(3, requires_grad=True)]  # the last one does nothing
    found = gradient_in_chunks(network, parameters, images, labels, cross_entropy, chunk)
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    for own, parameter in zip(found[:-1], network.parameters(), strict=True):
        torch.testing.assert_close(own, parameter.grad, rtol=1e-10, atol=1e-12)
    assert not found[-1].any()


def test_bf16_points_the_same_way():
    exact, rough = first_gradient("dc"), first_gradient("dc", precision="bf16")
    assert not torch.equal(exact, rough)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.95


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.parametrize(("gradients", "loops"), [("loop", SHORT), ("batched", {"outer_loop": 1})])
def test_compiled_is_the_same_up_to_rounding(gradients, loops):
    chunk = 2 * SECOND_ORDER * IPC
    eager = prepared("dsa", small_task(chunk=chunk), gradients=gradients, **loops)
    compiled = prepared("dsa", small_task(chunk=chunk, compiled=True), gradients=gradients, **loops)
    for matcher in (eager, compiled):
        matcher.step(0)
    assert_same(compiled.images.detach(), eager.images.detach(), 1e-4)


def test_dc_never_augments_and_dsa_does():
    def pixels(method, augment):
        matcher = prepared(method, small_task(augment=augment))
        matcher.step(0)
        return matcher.images.detach()

    plain = pixels("dc", "none")
    assert torch.equal(pixels("dc", EVERYTHING), plain)
    assert torch.equal(pixels("dsa", "none"), plain)
    assert not torch.equal(pixels("dsa", EVERYTHING), plain)


def test_batch_statistics_stay_those_of_the_fresh_network():
    matcher = prepared("dsa", small_task(norm="batch"))
    assert torch.isfinite(torch.as_tensor(matcher.step(0)["loss"]))
    used = {name: value.clone() for name, value in matcher._matching.network.inner.named_buffers()}
    weights = [value.clone() for value in matcher._matching.network.inner.parameters()]
    fresh = matcher.task.networks.trainable(0).inner
    assert used
    assert all(torch.equal(value, used[name]) for name, value in fresh.named_buffers())
    assert not all(torch.equal(*pair) for pair in zip(weights, fresh.parameters(), strict=True))


def test_matchings_and_iterations_draw_different_images():
    matcher = prepared("dc", small_task())
    seen, inner = [], matcher._drawn
    matcher._drawn = lambda *args: seen.append(inner(*args)) or seen[-1]
    for step in range(3):
        matcher.step(step)
    assert len({tuple(real.images.flatten().tolist()) for real, _ in seen}) == len(seen) == 6


# ---- contracts, options, runs --------------------------------------------------------------------


@pytest.mark.parametrize("gradients", ["loop", "batched"])
@pytest.mark.parametrize("method", METHODS)
def test_contract(method, gradients):
    check_matcher(METHODS[method], gradients=gradients, **SHORT)


def test_published_loops_at_the_published_points():
    published = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    assert {ipc: published_loops(ipc) for ipc in published} == published
    assert published_loops(5) == (5, 23)
    assert published_loops(100) == (50, 10)


@given(st.integers(1, 99))
def test_published_loops_everywhere_else(ipc):
    (outer, inner), (next_outer, next_inner) = published_loops(ipc), published_loops(ipc + 1)
    assert outer == min(ipc, 50)
    assert outer <= next_outer <= outer + 1
    assert 1 <= inner <= 50
    assert inner <= next_inner if ipc < 10 else inner >= next_inner
    assert outer * inner <= 660


def test_loops_follow_ipc_unless_given():
    def loops(**options):
        matcher = prepared("dc", **{"outer_loop": None, "inner_loop": None, **options})
        return matcher.outer_loop, matcher.inner_loop

    assert loops() == published_loops(IPC) == (3, 12)
    assert loops(outer_loop=7) == (7, 12)
    assert loops(inner_loop=0) == (3, 0)


@pytest.mark.parametrize(("preset", "epochs", "augment"), [("dc-paper", 300, "none"), ("dsa-paper", 1000, EVERYTHING)])
def test_presets(preset, epochs, augment):
    config = configure(preset=preset)
    assert config.matcher.name == preset.removesuffix("-paper")
    assert (config.run.iterations, config.run.init, config.run.augment) == (1000, "noise", augment)
    assert (config.training.distilled.epochs, config.training.distilled.lr) == (epochs, 0.01)
    options = config.matcher.options
    assert (options.lr_img, options.momentum, options.batch_real, options.lr_net) == (0.1, 0.5, 256, 0.01)


@pytest.mark.parametrize("wrong", [{"distance": "l1"}, {"outer_loop": 0}, {"lr_net": 0}, {"gradients": "fast"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        configure(method="dc", matcher=wrong)


FEW = ("--set", "matcher.outer_loop=2", "--set", "matcher.inner_loop=1", "--set", "matcher.batch_real=16")


@pytest.mark.parametrize("method", METHODS)
def test_the_command_line_with_a_two_stage_classifier(ltdd, method):
    result = ltdd("distill", "--method", method, "--plugin", "twostage", *TINY, *FEW, "--out", "run", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["method"] == method
    assert [row["name"] for row in report["rows"]][-1].startswith("two-stage")


TREE = {
    "ipc": 2,
    "iterations": 6,
    "data": {"name": "digits-lt", "n_max": 30, "imbalance": 30},
    "network": {"name": "convnet-d3", "width": 8, "depth": 2},
    "matcher": {**SHORT, "batch_real": 16},
    "training": {"original": {"epochs": 1}, "distilled": {"epochs": 1}},
    "compute": {"checkpoint_every": 2, "threads": 1},
}


class SignalAt(Display):
    """Sends this process a signal after a step, as a user would."""

    def __init__(self, at):
        self.at = at

    def step(self, step, metrics):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, method):
    config = configure(method=method, **TREE)
    distill(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        distill(config, tmp_path / "cut", display=SignalAt(2))
    distill(config, tmp_path / "cut", resume=True)
    for name in ("distilled.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    (tmp_path / "tree.json").write_text(json.dumps({"method": "dsa", **TREE, "iterations": 30}))
    main = [sys.executable, "-c", "from ltdd_core.cli import main; main()", "distill", "--quiet"]
    command = [*main, "--config", str(tmp_path / "tree.json"), "--out"]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 4):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "distilled.safetensors").exists()
    subprocess.run([*command, str(tmp_path / "killed"), "--resume"], check=True, capture_output=True)
    distill(configure(method="dsa", **{**TREE, "iterations": 30}), tmp_path / "whole")
    whole = (tmp_path / "whole" / "distilled.safetensors").read_bytes()
    assert (tmp_path / "killed" / "distilled.safetensors").read_bytes() == whole
