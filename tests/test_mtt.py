"""Trajectory matching against literal versions of its equations, and what happens when it goes wrong."""

from dataclasses import replace

import pytest
import torch
from conftest import matcher_of
from torch.func import functional_call
from torch.nn import functional as F

from ltdd_core import InputError, RunFailed, configure, generator
from ltdd_core.networks.trajectory import fill_parameters, flat_parameters
from ltdd_core.testing import check_matcher, tiny_long_tailed, tiny_task
from ltdd_mtt import trajectory
from ltdd_mtt.experts import ExpertOptions
from ltdd_mtt.matcher import TrajectoryMatcher
from ltdd_mtt.student import Student

SMALL = {
    "method": "mtt",
    "ipc": 2,
    "data": {"name": "digits-lt", "n_max": 20, "imbalance": 20},
    "network": {"name": "convnet-d3", "width": 8, "depth": 2},
    "matcher": {"syn_steps": 5, "expert_epochs": 2, "batch_syn": 7, "experts": {"count": 2, "epochs": 4, "lr": 0.1}},
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Experts are kept under the folder one works in."""
    monkeypatch.chdir(tmp_path)


def prepared(**matcher):
    config = configure(**{**SMALL, "matcher": {**SMALL["matcher"], **matcher}})
    return matcher_of(config)


def double(loop):
    return replace(
        loop, start=loop.start.double(), target=loop.target.double(), images=loop.images.double(), lr=loop.lr.double()
    )


def literal(matcher, step, expert, start):
    """One step as in the paper, written out with autograd over a list of parameters, in float64."""
    options, seed = matcher.options, matcher.task.seed
    network = matcher.task.networks.new("literal").double()
    names = [name for name, _ in network.named_parameters()]

    def parameters(epoch):
        fill_parameters(network, matcher.experts[expert].rows(epoch)[0].double())
        return [value.detach().clone() for value in network.parameters()]

    begun, wanted = parameters(start), parameters(start + options.expert_epochs)
    pixels = matcher.images.double().clone().requires_grad_(True)
    lr = matcher.lr.double().clone().requires_grad_(True)
    student = [value.clone().requires_grad_(True) for value in begun]
    draws, batches = generator(seed, "student batches", step), []
    for k in range(options.syn_steps):
        if not batches:
            batches = list(torch.randperm(len(pixels), generator=draws).split(options.batch_syn))
        own = batches.pop(0)
        augmenting = generator(seed, f"student augmentation, step {k}", step)
        transform = matcher.task.augmentation.draw((1, 8, 8), augmenting, len(own))
        logits = functional_call(network, dict(zip(names, student, strict=True)), (transform(pixels[own]),))
        loss = -sum(row.log_softmax(0)[label] for row, label in zip(logits, matcher.classes[own], strict=True)) / len(
            own
        )
        gradients = torch.autograd.grad(loss, student, create_graph=True)
        student = [value - lr * gradient for value, gradient in zip(student, gradients, strict=True)]
    far = sum(((a - b) ** 2).sum() for a, b in zip(student, wanted, strict=True))
    went = sum(((a - b) ** 2).sum() for a, b in zip(begun, wanted, strict=True))
    matching = far / went
    return (matching.detach(), *torch.autograd.grad(matching, (pixels, lr)))


@pytest.mark.parametrize(("step", "expert", "start"), [(0, 0, 0), (3, 1, 2)])
def test_unroll_is_the_equation(step, expert, start):
    matcher = prepared()
    found = double(matcher._loop(step, expert, start)).gradient("unroll")
    assert found.images.abs().max() > 1e-4
    for ours, theirs in zip(found[:3], literal(matcher, step, expert, start), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kept", [0, trajectory.KEPT_BYTES])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_checkpoint_is_the_gradient_of_unroll(kept, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(trajectory, "KEPT_BYTES", kept)
    loop = prepared(syn_lr=0.05)._loop(0, 1, 1)
    loop = double(loop) if dtype == torch.float64 else loop
    assert trajectory.segment_length(loop) == (3 if kept == 0 else 1)
    exact, ours = loop.gradient("unroll"), loop.gradient("checkpoint")
    for name in ("loss", "images", "lr"):
        one, other = getattr(ours, name), getattr(exact, name)
        assert (one - other).norm() <= tolerance * other.norm(), name


def test_tesla_is_its_formula():
    """Cui et al. 2023: G is summed first; then each step's images get a gradient with all else held fixed."""
    loop = double(prepared(syn_lr=0.05)._loop(0, 1, 1))
    b, theta, thetas, total = loop.lr, loop.start, [], 0
    for step in range(loop.steps):
        thetas.append(theta)
        g = loop.student.gradient(theta, *loop.augmented(step))
        theta, total = theta - b * g, total + g
    went = (loop.start - loop.target).square().sum()
    expected = torch.zeros_like(loop.images)
    for step, theta in enumerate(thetas):
        indices, transform = loop.batch(step)
        own = loop.images[indices].requires_grad_(True)
        g = loop.student.gradient(theta, transform(own), loop.labels[indices], graph=True)
        inner = ((b * (loop.target - loop.start) + b**2 * total) * g).sum()
        expected[indices] += 2 / went * torch.autograd.grad(inner, own)[0]
    lr = b.clone().requires_grad_(True)
    loss = (loop.start - lr * total - loop.target).square().sum() / went
    found = loop.gradient("tesla")
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.images, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.lr, torch.autograd.grad(loss, lr)[0], rtol=1e-9, atol=0)
    exact = loop.gradient("unroll").images
    assert (found.images - exact).norm() > 1e-3 * exact.norm()  # it is another gradient


def test_a_batch_in_chunks_has_the_gradient_of_the_whole():
    loop = double(prepared(batch_syn=None)._loop(0, 0, 1))
    whole = loop.gradient("checkpoint")
    for chunk in (1, 6):
        loop.student._chunk = chunk
        for ours, theirs in zip(loop.gradient("checkpoint"), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "none", "layer"])
def test_students_normalise_as_networks_in_training_do(norm):
    network = configure(**{**SMALL, "network": {"name": "convnet-d3", "width": 4, "depth": 2, "norm": norm}})
    made = network.network.component((1, 8, 8), 3, network.network.options).double().train()
    images, labels = torch.randn(6, 1, 8, 8, generator=generator(0, "images")).double(), torch.arange(6) % 3
    F.cross_entropy(made(images), labels).backward()
    expected = torch.cat([value.grad.flatten() for value in made.parameters()])
    theta = flat_parameters(made)
    student = Student(made, precision="fp32", compiled=False, chunk=2)
    torch.testing.assert_close(student.gradient(theta, images, labels), expected, rtol=1e-8, atol=1e-12)
    assert (student._chunk is None) == (norm == "batch")


def test_pixels_and_step_size_follow_by_sgd_with_momentum():
    matcher = prepared(lr_img=3.0, lr_lr=1e-7, momentum=0.5)
    pixels, lr = matcher.images.clone().requires_grad_(True), matcher.lr.clone().requires_grad_(True)
    theirs = [torch.optim.SGD([pixels], lr=3.0, momentum=0.5), torch.optim.SGD([lr], lr=1e-7, momentum=0.5)]
    for step in range(3):
        metrics = matcher.step(step)
        assert set(metrics) == {"loss", "syn_lr", "start_epoch"}
        start = int(metrics["start_epoch"])
        expert = next(e for e in (0, 1) if _loss(matcher, pixels, lr, step, e, start).loss == metrics["loss"])
        found = _loss(matcher, pixels, lr, step, expert, start)
        pixels.grad, lr.grad = found.images, found.lr
        for optimizer in theirs:
            optimizer.step()
        torch.testing.assert_close(matcher.images, pixels.detach())
        torch.testing.assert_close(matcher.lr, lr.detach())
    assert matcher.recipe() == {"lr": float(matcher.lr)}


def _loss(matcher, pixels, lr, step, expert, start):
    loop = matcher._loop(step, expert, start)
    return replace(loop, images=pixels.detach(), lr=lr.detach()).gradient("checkpoint")


def test_all_starts_and_all_experts_take_part(monkeypatch):
    matcher, seen = prepared(), set()
    nothing = trajectory.MatchingGradient(torch.zeros(()), torch.zeros_like(matcher.images), torch.zeros(()))

    class Loop:
        def gradient(self, memory):
            return nothing

    monkeypatch.setattr(matcher, "_loop", lambda step, expert, start: seen.add((expert, start)) or Loop())
    for step in range(80):
        matcher.step(step)
    assert seen == {(expert, start) for expert in (0, 1) for start in (0, 1, 2)}


@pytest.mark.parametrize("memory", ["unroll", "checkpoint", "tesla"])
def test_the_contract_with_every_gradient(memory):
    experts = ExpertOptions(count=2, epochs=3, lr=0.1)
    check_matcher(TrajectoryMatcher, memory=memory, syn_steps=4, expert_epochs=2, lr_img=10.0, experts=experts)


def test_mixed_precision_comes_close():
    exact = prepared()._loop(0, 0, 1)
    student = Student(exact.student.network, precision="bf16", compiled=False, chunk=100)
    ours, theirs = replace(exact, student=student).gradient("checkpoint"), exact.gradient("checkpoint")
    assert ours.images.dtype == torch.float32
    assert not torch.equal(ours.images, theirs.images)
    assert (ours.images - theirs.images).norm() < 0.2 * theirs.images.norm()


@pytest.mark.slow
def test_compiled_is_the_same():
    exact = prepared(batch_syn=None)._loop(0, 0, 1)
    student = Student(exact.student.network, precision="fp32", compiled=True, chunk=100)
    for memory in ("checkpoint", "tesla"):
        ours, theirs = replace(exact, student=student).gradient(memory), exact.gradient(memory)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


# ---- what goes wrong -----------------------------------------------------------------------------


def with_gradient(monkeypatch, *, loss=1.0, images=0.0, lr=0.0):
    matcher = prepared(lr_lr=1.0, syn_lr=0.01)
    found = trajectory.MatchingGradient(torch.tensor(loss), torch.full_like(matcher.images, images), torch.tensor(lr))
    monkeypatch.setattr(trajectory.InnerLoop, "gradient", lambda loop, memory: found)
    return matcher


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        ({"lr": 0.02}, r"step 7: the learned step size, -0\.01, is not positive .*smaller matcher\.lr_lr than 1 "),
        ({"lr": 0.01}, r"is not positive"),
        ({"lr": -1.0}, r"step 7: the learned step size, 1\.01, is over 100 times its initial 0\.01.*matcher\.lr_img"),
        ({"loss": float("nan")}, r"step 7: the student that starts from epoch \d of expert \d diverges, loss nan"),
        ({"loss": float("inf")}, r"loss inf, with step size 0\.01\. .*smaller matcher\.lr_img"),
        ({"images": float("nan")}, r"diverges.*matcher\.syn_lr"),
        ({"lr": float("nan")}, r"diverges.*--precision fp32"),
    ],
)
def test_a_step_that_goes_wrong_is_explained(gradient, message, monkeypatch):
    with pytest.raises(RunFailed, match=message) as caught:
        with_gradient(monkeypatch, **gradient).step(7)
    assert "\n" not in str(caught.value)


def test_a_student_that_really_diverges_is_explained():
    with pytest.raises(RunFailed, match="diverges"):
        prepared(syn_lr=1e30).step(0)


def test_a_step_size_that_is_left_alone_stays():
    matcher = prepared(lr_lr=0.0)
    matcher.step(0)
    assert matcher.recipe() == {"lr": pytest.approx(0.01)}


@pytest.mark.parametrize(
    ("matcher", "message"),
    [
        ({"max_start_epoch": 4}, r"max_start_epoch 4 and expert_epochs 2 need experts of 5 epochs, and they have 4"),
        ({"expert_epochs": 5}, r"need experts of 5 epochs, and they have 4.*experts=.*epochs.*5"),
    ],
)
def test_experts_that_are_too_short(matcher, message, tmp_path):
    with pytest.raises(InputError, match=message):
        prepared(**matcher)
    assert not (tmp_path / "runs").exists()


def tiny(count, epochs):
    """A matcher with so many experts, and a tiny task; experts are found again under the folder one works in."""
    from ltdd_core.testing import PlainSampler

    data, experts = tiny_long_tailed(), ExpertOptions(count=count, epochs=epochs)
    options = TrajectoryMatcher.Options(expert_epochs=1, syn_steps=2, experts=experts)
    return TrajectoryMatcher(options), tiny_task(data, PlainSampler(data))


def test_a_run_resumes_with_the_experts_it_began_with(tmp_path):
    matcher, task = tiny(2, 3)
    matcher.prepare(task)
    state = {name: value.clone() for name, value in matcher.state().items()}
    later, _ = tiny(4, 5)
    later.prepare(task)
    assert (later.numbers, later.starts) == ([0, 1, 2, 3], 5)
    later.load_state(state)
    assert (later.numbers, later.starts) == ([0, 1], 3)
    assert later.step(0) == matcher.step(0)
    later.experts[1].path.unlink()
    fewer, _ = tiny(1, 5)
    fewer.prepare(task)
    with pytest.raises(InputError, match=r"the run began with 2 experts of 3 epochs or more.*ltdd experts train"):
        fewer.load_state(state)
    shorter, _ = tiny(1, 1)
    for number in (0, 1):
        fewer.experts[number].path.unlink(missing_ok=True)
    shorter.prepare(task)
    with pytest.raises(InputError, match="the run began with 1 experts of 3 epochs or more"):
        shorter.load_state(state | {"experts": torch.tensor([0])})


def test_experts_of_other_data_or_another_network_are_not_those_of_a_run():
    matcher, task = tiny(1, 2)
    matcher.prepare(task)
    images = task.data.train_images.roll(1, -1)
    data = replace(task.data, train_images=images)
    moved = replace(task, original=lambda named: replace(task.original(named), images=images), data=data)
    other, _ = tiny(1, 2)
    other.prepare(moved)
    assert other.experts[0].path != matcher.experts[0].path
    assert not torch.equal(other.experts[0].rows(2)[0], matcher.experts[0].rows(2)[0])
