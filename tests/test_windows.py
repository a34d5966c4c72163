"""TESLA, DATM and LAD against literal versions of their equations, in float64, and what happens when it goes wrong."""

from dataclasses import replace

import pytest
import torch
from conftest import matcher_of
from torch.func import functional_call

from ltdd_core import InputError, RunFailed, configure, generator
from ltdd_mtt import trajectory
from ltdd_mtt.datm import first_of, initial_labels

SMALL = {
    "ipc": 2,
    "data": {"name": "digits-lt", "n_max": 20, "imbalance": 20},
    "network": {"name": "convnet-d3", "width": 4, "depth": 2},
}
STUDENT = {"syn_steps": 4, "expert_epochs": 2, "batch_syn": 7, "experts": {"count": 2, "epochs": 5, "lr": 0.1}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Experts are kept under the folder one works in."""
    monkeypatch.chdir(tmp_path)


def prepared(method, **matcher):
    return matcher_of(configure(**SMALL, method=method, matcher={**STUDENT, **matcher}))


def double(loop):
    floats = ("start", "target", "images", "lr", "fixed", "labels")
    known = {name: value for name in floats if (value := getattr(loop, name)) is not None}
    return replace(loop, **{name: value.double() for name, value in known.items() if value.is_floating_point()})


class Literal:
    """A student written out, in float64: a list of parameters, one image after another, autograd through all steps."""

    def __init__(self, matcher, step, student="student"):
        self.matcher, self.step, self.student = matcher, step, student
        self.network = matcher.task.networks.new("literal").double()
        self.names = [name for name, _ in self.network.named_parameters()]
        self.pixels = matcher.images.double().clone().requires_grad_(True)
        self.lr = matcher.lr.double().clone().requires_grad_(True)

    def parameters(self, row):
        sizes = [value.numel() for value in self.network.parameters()]
        return [
            part.view(value.shape).double()
            for part, value in zip(row.split(sizes), self.network.parameters(), strict=True)
        ]

    def batches(self):
        """Indices and augmentation of each step."""
        options, task = self.matcher.options, self.matcher.task
        draws, order = generator(task.seed, f"{self.student} batches", self.step), []
        for k in range(options.syn_steps):
            order = order or list(torch.randperm(len(self.pixels), generator=draws).split(options.batch_syn))
            own = order.pop(0)
            augmenting = generator(task.seed, f"{self.student} augmentation, step {k}", self.step)
            yield own, task.augmentation.draw((1, 8, 8), augmenting, len(own))

    def logits(self, student, images):
        return functional_call(self.network, dict(zip(self.names, student, strict=True)), (images,))

    def arrives(self, student, labels, weights, moves):
        """The parameters after N steps on ``-1/B sum_i sum_c w_c y_ic log p_ic``."""
        for own, transform in self.batches():
            logits = self.logits(student, transform(self.pixels[own]))
            loss = torch.zeros((), dtype=torch.float64)
            for row, label in zip(logits, labels[own], strict=True):
                log_p = row - row.exp().sum().log()
                loss = loss - sum(w * y * value for w, y, value in zip(weights, label, log_p, strict=True))
            moving = [value for value, m in zip(student, moves, strict=True) if m]
            slopes = iter(torch.autograd.grad(loss / len(own), moving, create_graph=True))
            student = [value - self.lr * next(slopes) if m else value for value, m in zip(student, moves, strict=True)]
        return student


def leaves(values):
    return [value.clone().requires_grad_(True) for value in values]


def distance(one, other, compared):
    return sum(((a - b) ** 2).sum() for a, b, c in zip(one, other, compared, strict=True) if c)


@pytest.mark.parametrize("memory", ["unroll", "checkpoint"])
def test_datm_is_its_equations(memory):
    """Labels are softmax(v) of logits v that move with the pixels: gradients of the loss, and the step of v."""
    matcher = prepared("datm", memory=memory, lr_label=3.0, momentum_label=0.0)
    expert, start = 1, 2
    loop = double(matcher._loop(6, expert, start))
    v = matcher.logits.double().clone().requires_grad_(True)
    loop = replace(loop, labels=v.detach().softmax(1))
    found = loop.gradient(memory)
    literal = Literal(matcher, 6)
    begun, wanted = (literal.parameters(row) for row in matcher.experts[expert].rows(start, start + 2))
    labels = v.exp() / v.exp().sum(1, keepdim=True)
    arrived = literal.arrives(leaves(begun), labels, [1.0] * 10, [True] * len(begun))
    all_of_them = [True] * len(begun)
    loss = distance(arrived, wanted, all_of_them) / distance(begun, wanted, all_of_them)
    by_pixels, by_lr, by_v = torch.autograd.grad(loss, (literal.pixels, literal.lr, v))
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.images, by_pixels, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found.lr, by_lr, rtol=1e-8, atol=0)
    assert by_v.abs().max() > 1e-4
    matcher.logits = v.detach().clone()
    matcher.label_velocity = torch.zeros_like(matcher.logits)
    matcher.move(trajectory.MatchingGradient(found.loss, found.images.float(), found.lr.float(), found.labels))
    torch.testing.assert_close(matcher.logits, v.detach() - 3 * by_v, rtol=1e-9, atol=1e-10)


def test_lad_is_its_equations():
    """Two students: of the backbone with classes as unequal as the real ones, of the last layer with the plain loss."""
    matcher = prepared("lad", memory="checkpoint", backbone_weight=0.25, layer_weight=2.0)
    expert, start, counts = 0, 1, matcher.task.data.counts
    assert min(counts) == 1
    labels = matcher.logits.double().softmax(1)
    first, second = Literal(matcher, 5), Literal(matcher, 5, "student of the layer")
    is_layer = [name.startswith("linear.") for name in first.names]
    begun, wanted = (first.parameters(row) for row in matcher.experts[expert].rows(start, start + 2))
    weights = [count / sum(counts) for count in counts]
    arrived = first.arrives(leaves(begun), labels, weights, [True] * len(begun))
    backbone = [not layer for layer in is_layer]
    loss_1 = distance(arrived, wanted, backbone) / distance(begun, wanted, backbone)
    begun, wanted = (second.parameters(row) for row in matcher.layers[expert].rows(0, 2))
    arrived = second.arrives(leaves(begun), labels, [1.0] * 10, is_layer)
    loss_2 = distance(arrived, wanted, is_layer) / distance(begun, wanted, is_layer)
    matcher._loop, one = lambda *where: double(type(matcher)._loop(matcher, *where)), matcher._loop(5, expert, start)
    matcher._layer_loop = lambda *where: double(type(matcher)._layer_loop(matcher, *where))
    found = matcher.match(5, expert, start)
    assert one.labels.dtype == torch.float32
    torch.testing.assert_close(found.loss, (0.25 * loss_1 + 2 * loss_2).detach(), rtol=1e-5, atol=0)
    by_1 = torch.autograd.grad(loss_1, (first.pixels, first.lr))
    by_2 = torch.autograd.grad(loss_2, (second.pixels, second.lr))
    for ours, a, b in zip((found.images, found.lr), by_1, by_2, strict=True):
        assert a.abs().max() > 1e-8
        torch.testing.assert_close(ours, 0.25 * a + 2 * b, rtol=1e-5, atol=1e-9)


def test_shifted_logits_make_equal_classes_unequal():
    """Cross-entropy of softmax(z - log n_c / n)."""
    matcher = prepared("lad", student_loss="shifted")
    (row,) = matcher.experts[0].rows(3)
    share = torch.tensor(matcher.task.data.counts).double() / sum(matcher.task.data.counts)
    literal = Literal(matcher, 0)
    student = leaves(literal.parameters(row))
    labels = matcher.logits.double().softmax(1)
    log_p = (literal.logits(student, matcher.images.double()) - share.log()).log_softmax(1)
    expected = torch.autograd.grad(-(labels * log_p).sum() / len(labels), student)
    ours = matcher.student.gradient(row.double(), matcher.images.double(), labels)
    torch.testing.assert_close(ours, torch.cat([value.flatten() for value in expected]), rtol=1e-5, atol=1e-7)


def test_tesla_labels_are_what_the_expert_says_at_the_end():
    matcher = prepared("tesla")
    literal = Literal(matcher, 0)
    with torch.no_grad():
        said = [
            literal.logits(literal.parameters(matcher.experts[number].rows(epoch)[0]), literal.pixels).softmax(1)
            for number, epoch in ((1, 3), (0, 5), (1, 5))
        ]
    torch.testing.assert_close(matcher.labels_of(1, 1).double(), said[0], rtol=1e-4, atol=1e-6)
    made = matcher.distilled()
    torch.testing.assert_close(made.soft_labels.probabilities().double(), (said[1] + said[2]) / 2, rtol=1e-4, atol=1e-6)
    loop = matcher._loop(2, 1, 1)
    found, exact = matcher.match(2, 1, 1), loop.gradient("unroll")
    assert torch.equal(loop.labels, matcher.labels_of(1, 1))
    assert torch.equal(found.images, loop.gradient("tesla").images)
    assert (found.images - exact.images).norm() > 1e-3 * exact.images.norm()  # it is another gradient
    plain = prepared("tesla", soft_labels=False)
    assert torch.equal(plain.labels_of(0, 0), plain.classes)
    assert plain.distilled().soft_labels is None


def test_windows_move_with_the_step():
    matcher = prepared("datm", min_start_epoch=1, first_max_start_epoch=2, max_start_epoch=4, growing_steps=10)
    assert [matcher.window(step) for step in (0, 4, 5, 9, 10, 99)] == [(1, 2), (1, 2), (1, 3), (1, 3), (1, 4), (1, 4)]
    seen = {(step >= 10, matcher.step(step)["start_epoch"]) for step in [0, 1, *range(10, 22)]}
    assert seen == {(False, 1.0), (True, 1.0), (True, 2.0), (True, 3.0)}
    assert prepared("datm").window(0) == (0, 2)  # half of the four epochs that five allow
    assert prepared("datm", growing_steps=0).window(0) == (0, 4)


@pytest.mark.parametrize("method", ["datm", "lad"])
def test_windows_grow_over_a_tenth_of_the_run_unless_told_otherwise(method):
    def growing_steps(**settings):
        return configure(method=method, **settings).matcher.options.growing_steps

    assert [growing_steps(iterations=steps) for steps in (10_000, 300, 4)] == [1000, 30, 0]
    assert growing_steps(iterations=300, matcher={"growing_steps": 50}) == 50
    assert growing_steps(preset=f"{method}-paper", iterations=40) == {"datm": 1000, "lad": 0}[method]


def test_labels_begin_with_the_experts_that_are_right():
    said = torch.tensor([[[4.0, 0, 1], [0, 3, 1], [5, 1, 2]], [[2.0, 1, 0], [5, 1, 0], [3, 2, 0]]])
    found = initial_labels(said, torch.tensor([0, 1, 2]))
    # both are right about the first image; one about the second; none about the third, whose mean is 4, 1.5, 1
    assert found.tolist() == [[3, 0.5, 0.5], [0, 3, 1], [1, 1.5, 4]]


def test_images_that_experts_know_come_first_and_repeats_last():
    known, real = torch.tensor([0, 1, 0, 1, 1]).bool(), torch.tensor([1, 1, 1, 0, 0]).bool()
    assert first_of(known, real, 4).tolist() == [1, 0, 2, 3]
    assert first_of(~known, real, 2).tolist() == [0, 2]


def test_images_begin_as_those_that_experts_know():
    experts = {"count": 1, "epochs": 12, "lr": 0.1, "batch": 4}
    matcher = prepared("datm", candidates=5, experts=experts)
    images, real = matcher.task.draw_initial(5)
    classes = matcher.classes.repeat_interleave(5)
    known = (matcher.said(images).argmax(2) == classes).any(0) & real
    chosen = (matcher.said(matcher.images).argmax(2) == matcher.classes).any(0)
    some_are = 0
    for label in range(10):
        there = known[classes == label]
        assert chosen[matcher.classes == label].sum() >= min(2, int(there.sum()))
        some_are += bool(there.any()) and not there[:2].all()
    assert some_are
    rare = matcher.images[matcher.classes == 9]  # of one real image
    assert len(rare) == 2
    assert not torch.equal(rare[0], rare[1])
    plain = prepared("datm", candidates=1)
    assert torch.equal(plain.images, plain.task.initial_images)


def test_a_second_stage_moves_the_last_layer_alone_from_where_the_expert_ended():
    matcher = prepared("lad", layer={"epochs": 3})
    for number in (0, 1):
        end = matcher.experts[number].rows(5)[0]
        rows = torch.stack(matcher.layers[number].rows(0, 1, 3))
        layer = matcher.in_layer
        assert torch.equal(rows[0], end)
        assert torch.equal(rows[:, ~layer], end[~layer].expand(3, -1))
        assert (rows[1:, layer] - end[layer]).abs().amax(1).min() > 1e-4
    again = prepared("lad", layer={"epochs": 3})
    paths = [matcher.layers[0].path, matcher.layers[1].path]
    assert [again.layers[number].path for number in (0, 1)] == paths
    assert len(set(paths)) == 2
    other = prepared("lad", layer={"epochs": 3}, experts={**STUDENT["experts"], "epochs": 6})
    assert other.layers[0].path not in paths  # another end is another beginning


def test_a_loss_that_is_too_large_moves_nothing():
    matcher = prepared("datm", skip_above=0.5)
    before = {name: value.clone() for name, value in matcher.state().items()}
    ones = torch.ones_like
    found = (ones(matcher.images), torch.tensor(1e-6), ones(matcher.logits))
    matcher.move(trajectory.MatchingGradient(torch.tensor(0.6), *found))
    assert all(torch.equal(value, before[name]) for name, value in matcher.state().items())
    matcher.move(trajectory.MatchingGradient(torch.tensor(0.4), *found))
    assert not torch.equal(matcher.images, before["images"])


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "matcher", "message"),
    [
        ("datm", {"min_start_epoch": 3, "max_start_epoch": 3}, "max_start_epoch 3 leaves no epoch to start from"),
        (
            "datm",
            {"first_max_start_epoch": 4, "max_start_epoch": 3},
            "first_max_start_epoch 4 is above max_start_epoch 3",
        ),
        (
            "datm",
            {"min_start_epoch": 4},
            r"min_start_epoch 4 does not fit: students start below epoch 4.*experts=.*epochs",
        ),
        ("datm", {"first_max_start_epoch": 9}, "first_max_start_epoch 9 does not fit: students start below epoch 4"),
        ("lad", {"layer": {"epochs": 1}}, "layer.epochs 1 is less than expert_epochs 2"),
        ("tesla", {"max_start_epoch": 5}, "need experts of 6 epochs, and they have 5"),
    ],
)
def test_options_that_do_not_fit_get_one_line_before_anything_is_trained(method, matcher, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        prepared(method, **matcher)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("method", ["tesla", "datm", "lad"])
def test_a_step_that_goes_wrong_is_explained(method):
    with pytest.raises(RunFailed, match=r"step 3: the student that starts from epoch . of expert . diverges"):
        prepared(method, syn_lr=1e30).step(3)
    matcher = prepared(method, lr_lr=1e9)
    with pytest.raises(RunFailed, match=r"step 0: the learned step size, .*, is"):
        matcher.step(0)


def test_a_second_stage_that_diverges_names_its_option():
    with pytest.raises(RunFailed, match=r'last layer of expert 0 .* diverged .*matcher={"layer": {"lr": \.\.\.}}'):
        prepared("lad", layer={"lr": 1e38})
