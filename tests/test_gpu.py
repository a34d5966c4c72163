"""The same job on a CUDA device; skipped where there is none."""

import pytest
import torch

from ltdd_core import configure, distill
from ltdd_core.config.model import Compute
from ltdd_core.runs.devices import computing
from ltdd_core.runs.precision import FASTER, bf16_speed
from ltdd_core.seeding import generator
from ltdd_core.training.augment import OPERATIONS

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
