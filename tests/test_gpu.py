"""The same job on a CUDA device; skipped where there is none."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from ltdd_core import Augmentation, TrainingSet, configure, cross_entropy, distill, make_network, train
from ltdd_core.config.model import Compute
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.networks.job import Start
from ltdd_core.networks.store import NetworkStore
from ltdd_core.runs.devices import computing
from ltdd_core.runs.precision import FASTER, bf16_speed
from ltdd_core.seeding import generator, global_generator
from ltdd_core.testing import tiny_trainer
from ltdd_core.training.augment import OPERATIONS
from ltdd_core.training.loop import Learner, train_together
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.together import MOST, bytes_of_training, most_at_once

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TINY = {
    "method": "dm",
    "plugins": ["twostage"],
    "ipc": 2,
    "iterations": 5,
    "training": {"original": {"epochs": 2}, "distilled": {"epochs": 2}},
}


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_augmentation_gradients_are_deterministic(name, count):
    transform = OPERATIONS[name]((3, 32, 32), generator(0, name), count)
    x = torch.randn(64, 3, 32, 32, generator=generator(1, name)).cuda().requires_grad_(True)
    gradients = [torch.autograd.grad(transform(x).square().sum(), x)[0] for _ in range(3)]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_the_first_steps_are_those_of_the_cpu(tmp_path):
    images = {}
    for device in ("cpu", "cuda"):
        result = distill(configure(**TINY, compute={"device": device}), tmp_path / device)
        images[device] = result.distilled.images
    torch.testing.assert_close(images["cpu"], images["cuda"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("precision", "compiled"), [("bf16", False), ("bf16", True), ("fp32", True), ("tf32", False)])
def test_precision_and_compile(tmp_path, precision, compiled):
    compute = {"device": "cuda", "precision": precision, "compile": compiled}
    result = distill(configure(**TINY, compute=compute), tmp_path / "a")
    assert torch.isfinite(result.distilled.images).all()


@pytest.mark.parametrize(("precision", "rounded"), [("tf32", True), ("fp32", False)])
def test_products_are_rounded_only_where_that_is_asked_for(precision, rounded):
    if rounded and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    a = torch.full((64, 64), 1 + 2.0**-20, device="cuda")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with computing(Compute(device="cuda", precision=precision), torch.device("cuda")):
        product = a @ torch.eye(64, device="cuda")
    assert torch.equal(product, a) != rounded
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_a_card_with_bf16_is_measured_to_be_faster_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speed = bf16_speed(Compute(device="cuda"), torch.device("cuda"))
    assert speed > (FASTER if torch.cuda.get_device_capability() >= (8, 0) else 0)
    result = distill(configure(**TINY, compute={"device": "cuda"}), tmp_path / "a")
    assert result.config.compute.precision == ("bf16" if speed >= FASTER else "fp32")


AT_ONCE = {
    "SGD with momentum, mixed images": {"momentum": 0.9, "mixup": 0.8, "cutmix": 1.0},
    "AdamW, fused, with an average": {"optimizer": "adamw", "lr": 1e-3, "average": 0.9},
}


def learners(count, norm="instance", size=(3, 16, 16), batch=16):
    """Networks and their sets on the device, whose images the classes differ in."""
    labels = torch.arange(40) % 4
    pixels = torch.rand(40, *size, generator=generator(0, "pixels")) + labels.view(-1, 1, 1, 1) / 2
    data = TrainingSet("distilled", pixels.cuda(), labels, PerChannel((0.5,) * 3, (0.5,) * 3), 4)
    found = []
    for seed in range(count):
        with global_generator(seed, "weights"):
            network = make_network("convnet-d3", size, 4, width=16, depth=2, norm=norm).cuda()
        own = Augmentation("color_crop_cutout_flip_scale_rotate"), seed, f"network {seed}"
        found.append(Learner(network, data, cross_entropy, None, *own))
    return found


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("case", AT_ONCE)
def test_networks_at_once_are_those_of_training_alone_and_go_on(case, norm):
    """Their first losses are close; later ones differ as rounding grows.  AdamW takes up its steps on the card."""
    options = TrainingOptions(**{"epochs": 4, "batch": 16, "lr": 0.01} | AT_ONCE[case])
    told, kept = {}, {}

    def note(who, seed, epoch):
        told.setdefault((who, seed), []).append(epoch.loss)
        if who == "at once" and epoch.done == 2:
            kept[seed] = {name: value.clone() for name, value in epoch.state().items()}

    def noting(who, **given):
        return [replace(each, after_epoch=partial(note, who, each.seed), **given) for each in learners(3, norm)]

    how = {"device": torch.device("cuda"), "chunk": 2048, "precision": "fp32"}
    train_together(noting("at once"), options, keep_going=lambda: None, **how)
    rest = [replace(each, start=Start(2, kept[each.seed])) for each in noting("goes on")]
    train_together(rest, options, keep_going=lambda: None, **how)
    for each in noting("alone"):
        rest = {name: value for name, value in vars(each).items() if name not in ("network", "data")}
        train(each.network, each.data, options, **rest, **how)
    for seed in range(3):
        assert told["at once", seed] == pytest.approx(told["alone", seed], rel=0.05)
        assert told["goes on", seed] == pytest.approx(told["at once", seed][2:], rel=0.02)


def test_what_a_step_takes_is_not_more_than_is_counted_on():
    """``auto`` counts on a share of the free memory."""
    made = tiny_trainer(device=torch.device("cuda")).changed(store=NetworkStore())
    made.together = "auto"
    (data,) = {id(each.data): each.data for each in learners(1, size=(3, 32, 32))}.values()
    (job,) = made.plan(lambda planning: planning.train(replace(data, name="original"), outputs=4))
    network = job.make()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    job.first_step(network)
    assert torch.cuda.max_memory_allocated() - before < 4 * bytes_of_training(job.training)
    assert most_at_once(made) == MOST


def test_the_networks_of_repeats_are_trained_at_once(ltdd):
    small = ("--set", "network.width=16", "--set", "training.original.epochs=2", "--device", "cuda")
    result = ltdd("train", "--data", "digits-lt", "--repeats", "4", *small)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("one of 4 at once") == 4
