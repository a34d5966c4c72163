"""DANCE, TGDD, NCFM and CSDM against literal versions of their equations, class by class, in float64."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import TINY, one_line_error
from torch.nn import functional as F

from ltdd_core import generator, load_distilled
from ltdd_core.plugging.catalog import installed
from ltdd_core.testing import PlainSampler, check_matcher, tiny_long_tailed, tiny_network, tiny_task
from ltdd_dance.calibrated import grouped
from ltdd_dance.dance import DanceMatcher
from ltdd_dance.tgdd import TrajectoryGuidedMatcher
from ltdd_ncfm.characteristic import characteristic_functions, differences, follow
from ltdd_ncfm.csdm import SpectralMatcher, amplitude_weights
from ltdd_ncfm.ncfm import NCFMatcher

DATA = tiny_long_tailed()
IPC = (4, 1, 3, 2)
PAIRS = {"factor": 2, "teacher": {"count": 2, "epochs": 3, "lr": 0.1}}
SHORT = {"factor": 2, "trajectories": {"count": 2, "epochs": 3}}
NCFM = {**PAIRS, "frequencies": 6, "batch_real": 4}


def prepared(component, options, shared=None, ipc=IPC):
    matcher = component(component.Options(**options))
    task = tiny_task(DATA, PlainSampler(DATA), ipc=ipc)
    matcher.prepare(task if shared is None else replace(task, shared=shared))
    return matcher


# ---- the literal versions ------------------------------------------------------------------------


def network_of(parameters):
    network, place = tiny_network(DATA.image_shape, DATA.classes).double(), 0
    for value in network.parameters():
        value.data = parameters[place : place + value.numel()].double().view(value.shape)
        place += value.numel()
    return network


def in_colours(pixels):
    mean, std = (
        torch.tensor(values, dtype=torch.float64)[:, None, None] for values in vars(DATA.normalisation).values()
    )
    return (pixels - mean) / std


def tiles_of(image, factor):
    """Each quarter of an image at its size, one after another."""
    for rows in image.tensor_split(factor, 1):
        for tile in rows.tensor_split(factor, 2):
            yield F.interpolate(tile[None], image.shape[1:], mode="bilinear")[0]


def seen_of(matcher, pixels, purpose, step, label):
    """The tiles of a class as a network sees them, and the augmentation that they share with its real images."""
    draws = generator(0, purpose, step, label)
    transform = matcher.task.augmentation.draw(DATA.image_shape, draws)
    own = [tile for image in in_colours(pixels) for tile in tiles_of(image, matcher.options.factor)]
    return transform(torch.stack(own)), transform


def literal_matching(matcher, network, pixels, step, of_class):
    """The sum over classes of what ``of_class(real features, synthetic features, label)`` says."""
    total = 0
    for label, own in enumerate(pixels.split(IPC)):
        synthetic, transform = seen_of(matcher, own, "augmentation", step, label)
        draws = generator(0, "real batch", step, label)
        chosen = matcher.task.sampler.of_class(label, matcher.options.batch_real, draws)
        real = transform(in_colours(DATA.train_images[chosen].double() / 255))
        features = [[network.embed(image[None])[0] for image in images] for images in (real, synthetic)]
        total = total + of_class(*features, label)
    return total


def literal_calibration(matcher, network, pixels, step):
    total = 0
    for label, own in enumerate(pixels.split(IPC)):
        synthetic, _ = seen_of(matcher, own, "calibrating augmentation", step, label)
        losses = [-network(image[None])[0].log_softmax(0)[label] for image in synthetic]
        total = total + sum(losses) / len(losses)
    return matcher.options.calibration * total


def distance_of_means(real, synthetic, label):
    return ((sum(real) / len(real) - sum(synthetic) / len(synthetic)) ** 2).sum()


def phi(features, frequency):
    """The characteristic function at one frequency, with complex numbers."""
    values = [torch.exp(1j * (frequency @ (x / x.norm()))) for x in features]
    return sum(values) / len(values)


def amplitude_and_phase(real, synthetic, frequency):
    one, other = phi(real, frequency), phi(synthetic, frequency)
    angle = one.angle() - other.angle()
    return (one.abs() - other.abs()) ** 2, 2 * one.abs() * other.abs() * (1 - angle.cos())


class Descent:
    """SGD with momentum, written out; the learning rate of an image is in proportion to those of its class."""

    def __init__(self, matcher):
        self.options, self.velocity = matcher.options, 0

    def __call__(self, pixels, gradient):
        of_image = torch.tensor([number for number in IPC for _ in range(number)], dtype=torch.float64)
        self.velocity = self.options.momentum * self.velocity + of_image[:, None, None, None] * gradient
        return (pixels - self.options.lr_img * self.velocity).clamp(0, 1)


class DescentOfAdamW:
    """AdamW, written out."""

    def __init__(self, matcher):
        self.options, self.mean, self.square, self.steps = matcher.options, 0, 0, 0

    def __call__(self, pixels, gradient):
        beta, lr, self.steps = self.options.momentum, self.options.lr_img, self.steps + 1
        self.mean = beta * self.mean + (1 - beta) * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - beta**self.steps), self.square / (1 - 0.999**self.steps)
        pixels = pixels * (1 - lr * self.options.weight_decay)
        return (pixels - lr * mean / (square.sqrt() + 1e-8)).clamp(0, 1)


def same_pixels(matcher, of_class, descend, steps, *, together=False):
    """Take steps of the matcher, and the literal ones from where it is."""
    before = pixels = matcher.pixels.detach().double()
    for step in range(steps):
        matching, calibrating = map(network_of, matcher.weights(step))
        pixels = pixels.clone().requires_grad_(True)
        matched = literal_matching(matcher, matching, pixels, step, of_class(step))
        (gradient,) = torch.autograd.grad(matched, pixels)
        if not together:
            pixels = descend(pixels.detach(), gradient).requires_grad_(True)
        calibrated = literal_calibration(matcher, calibrating, pixels, step)
        (other,) = torch.autograd.grad(calibrated, pixels)
        pixels = descend(pixels.detach(), gradient + other if together else other)
        found = matcher.step(step)
        torch.testing.assert_close(found["matching"].double(), matched.detach(), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found["calibration"].double(), calibrated.detach(), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found["loss"].double(), (matched + calibrated).detach(), rtol=1e-4, atol=1e-7)
    # A single pixel with a gradient near zero may round to the other sign, which AdamW makes a whole step of.
    assert (matcher.pixels.detach() - pixels).norm() < 2e-3 * (before - pixels).norm()


def test_dance_is_its_equations():
    matcher = prepared(DanceMatcher, {**PAIRS, "batch_real": 3, "calibration": 0.7, "lr_img": 0.02})
    before = matcher.pixels.detach().clone()
    same_pixels(matcher, lambda step: distance_of_means, Descent(matcher), steps=3)
    moved = (matcher.pixels.detach() - before).abs().flatten(1).max(1).values
    assert moved.min() > 1e-3  # of every class, those with one image too
    assert matcher.pixels.min() >= 0
    assert matcher.pixels.max() <= 1


def test_tgdd_is_its_equations(tmp_path):
    matcher = prepared(TrajectoryGuidedMatcher, {**SHORT, "batch_real": 3}, tmp_path)
    same_pixels(matcher, lambda step: distance_of_means, Descent(matcher), steps=3, together=True)


def test_ncfm_is_its_equations():
    matcher = prepared(NCFMatcher, {**NCFM, "amplitude": 0.3})

    def of_class(step):
        draws = generator(0, "frequencies", step)
        frequencies = torch.randn(6, matcher.pool.fresh(0).linear.in_features, generator=draws).double()

        def discrepancy(real, synthetic, label):
            roots = []
            for frequency in frequencies:
                amplitude, phase = amplitude_and_phase(real, synthetic, frequency)
                roots.append((0.3 * amplitude + 0.7 * phase).sqrt())
            return 300 * sum(roots) / len(roots)

        return discrepancy

    same_pixels(matcher, of_class, DescentOfAdamW(matcher), steps=2)


def test_the_sampling_network_climbs_what_the_images_descend():
    matcher = prepared(NCFMatcher, {**NCFM, "sampling": "network", "lr_sampling": 0.01})
    psi, step_gradient = copy.deepcopy(matcher.psi).double(), {}

    def of_class(step):
        draws = generator(0, "frequencies", step)
        noise = torch.randn(6, psi[0].in_features, generator=draws).double()
        frequencies = psi(noise)

        def discrepancy(real, synthetic, label):
            found = []
            for frequency in frequencies:
                amplitude, phase = amplitude_and_phase(real, synthetic, frequency)
                found.append((0.5 * amplitude + 0.5 * phase).sqrt())
            loss = 300 * sum(found) / len(found)
            parts = torch.autograd.grad(loss, list(psi.parameters()), retain_graph=True)
            for place, part in enumerate(parts):
                step_gradient[place] = step_gradient.get(place, 0) + part
            return loss

        return discrepancy

    same_pixels(matcher, of_class, DescentOfAdamW(matcher), steps=1)
    for place, (name, value) in enumerate(psi.named_parameters()):
        climbed = matcher.psi.state_dict()[name] - value
        if name.endswith("weight"):  # a bias before batch normalisation has no gradient
            assert (climbed - 0.01 * step_gradient[place]).norm() < 1e-2 * climbed.norm()


def test_csdm_is_its_equations():
    matcher = prepared(SpectralMatcher, {**NCFM, "bandwidth": 0.5, "amplitude_head": 0.9, "amplitude_tail": 0.2})
    counts = DATA.counts

    def of_class(step):
        draws = generator(0, "frequencies", step)
        frequencies = torch.randn(6, matcher.pool.fresh(0).linear.in_features, generator=draws).double() / 0.5

        def discrepancy(real, synthetic, label):
            share = math.log(counts[label] / min(counts)) / math.log(max(counts) / min(counts))
            alpha = 0.2 + 0.7 * share
            found = [amplitude_and_phase(real, synthetic, frequency) for frequency in frequencies]
            return 300 * sum(alpha * amplitude + (1 - alpha) * phase for amplitude, phase in found) / len(found)

        return discrepancy

    same_pixels(matcher, of_class, DescentOfAdamW(matcher), steps=2)


# ---- parts ---------------------------------------------------------------------------------------


def test_amplitude_and_phase_add_up_to_the_distance_of_characteristic_functions():
    draws = generator(0, "features")
    counts, frequencies = torch.tensor([5, 1, 2]), torch.randn(7, 4, generator=draws)
    one, other = (characteristic_functions(torch.randn(8, 4, generator=draws), counts, frequencies) for _ in range(2))
    amplitude, phase = differences(one, other)
    wanted = torch.complex(one.real - other.real, one.imaginary - other.imaginary).abs().square()
    torch.testing.assert_close(amplitude + phase, wanted)
    assert torch.allclose(one.amplitude[1], torch.ones(7))  # a class of one image has no spread


def test_the_discrepancy_of_a_class_from_itself_has_a_gradient():
    features = torch.randn(3, 4, generator=generator(0, "features")).requires_grad_(True)
    counts, frequencies = torch.tensor([2, 1]), torch.randn(5, 4, generator=generator(0, "frequencies"))
    own = characteristic_functions(features, counts, frequencies)
    amplitude, phase = differences(characteristic_functions(features.detach(), counts, frequencies), own)
    (amplitude + phase).sqrt().sum().backward()
    assert features.grad.isfinite().all()


def test_the_tail_has_the_weight_of_the_tail():
    weights = amplitude_weights((1000, 100, 10), 0.7, 0.3)
    torch.testing.assert_close(weights, torch.tensor([0.7, 0.5, 0.3]))
    assert amplitude_weights((5, 5), 0.7, 0.3).tolist() == pytest.approx([0.7, 0.7])


def test_the_learning_rate_follows_as_that_of_torch():
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.01)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    plateau = torch.tensor([math.inf, 0, 0.01], dtype=torch.float64)
    for loss in (3 + torch.rand(60, generator=generator(0, "losses"))).tolist():
        theirs.step(loss)
        follow(plateau, loss, 3)
        assert float(plateau[2]) == optimizer.param_groups[0]["lr"]
    assert float(plateau[2]) < 0.001


def test_every_pair_and_every_share_between_its_ends_takes_part():
    matcher = prepared(DanceMatcher, PAIRS)
    shares = {0: [], 1: []}
    for step in range(60):
        between, trained = matcher.weights(step)
        pair = next(number for number in shares if torch.equal(trained, matcher._trained[number]))
        initial = matcher._initial[pair]
        far = initial - trained
        share = float((between - trained) @ far / (far @ far))
        torch.testing.assert_close(between, share * initial + (1 - share) * trained, rtol=1e-4, atol=1e-6)
        shares[pair].append(share)
    for found in shares.values():
        assert len(found) > 15
        assert 0 <= min(found) < 0.2
        assert 0.8 < max(found) <= 1


def test_every_stage_takes_part_and_what_calibrates_is_in_its_window(tmp_path):
    matcher = prepared(TrajectoryGuidedMatcher, {**SHORT, "window": 2}, tmp_path)
    rows = [[matcher._trainings[expert].rows(epoch)[0] for epoch in range(4)] for expert in (0, 1)]

    def place(parameters):
        return next((i, j) for i in (0, 1) for j in range(4) if torch.equal(parameters, rows[i][j]))

    seen = {tuple(map(place, matcher.weights(step))) for step in range(150)}
    assert seen == {((i, j), (i, k)) for i in (0, 1) for j in range(4) for k in (j, j + 1) if k < 4}


@pytest.mark.parametrize("component", [DanceMatcher, TrajectoryGuidedMatcher])
def test_without_calibration_or_tiles_there_is_matching_alone(component, tmp_path):
    options = {**(PAIRS if component is DanceMatcher else SHORT), "calibration": 0, "factor": 1}
    matcher = prepared(component, options, tmp_path)
    assert set(matcher.step(0)) == {"loss", "matching"}
    assert matcher.distilled().images.shape == matcher.decode(matcher.distilled().images)[:, 0].shape
    assert matcher.images_per_step((12, 5), (2, 3)) == 17 + 5


@pytest.mark.parametrize(("side", "tiles"), [(8, 1), (15, 1), (16, 4), (32, 4)])
def test_small_images_are_no_tiles_unless_they_are_asked_for(side, tiles):
    assert DanceMatcher(DanceMatcher.Options()).decode(torch.zeros(2, 3, side, 40)).shape[1] == tiles
    assert DanceMatcher(DanceMatcher.Options(factor=3)).decode(torch.zeros(2, 3, side, 40)).shape[1] == 9


@pytest.mark.parametrize(
    ("most", "groups"),
    [(1, [[0], [1], [2], [3]]), (9, [[0], [1, 2], [3]]), (40, [[0, 1, 2, 3]]), (16, [[0], [1, 2], [3]])],
)
def test_classes_go_together_up_to_a_chunk(most, groups):
    assert grouped([16, 4, 4, 12], most) == groups


def test_the_sampling_network_keeps_the_contract():
    check_matcher(NCFMatcher, **NCFM, sampling="network")


# ---- runs ----------------------------------------------------------------------------------------

FAST = (*TINY, "--data", "digits-lt", "--threads", "1")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("dance", ("teacher.count=1", "teacher.epochs=1", "teacher.network={name: convnet-d3, norm: batch, width: 4}")),
        ("tgdd", ("trajectories.count=1", "trajectories.epochs=2")),
        ("ncfm", ("teacher.count=1", "teacher.epochs=1", "frequencies=8")),
    ],
)
def test_a_run_stores_tiles_that_its_classifiers_see_one_by_one(ltdd, method, words):
    sets = [word for each in ("factor=2", *words) for word in ("--set", f"matcher.{each}")]
    result = ltdd("distill", "--method", method, *FAST, *sets, "--out", "run")
    assert result.exit_code == 0, result.output
    stored = load_distilled("run/distilled.safetensors")
    assert stored.images.shape == (20, 1, 8, 8)
    assert stored.decoded().images.shape == (80, 1, 8, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--method", "dance", "--set", "teacher.head=cosine"),
            "head 'cosine' changes the last layer .* use another, --set teacher.head=NAME",
        ),
        (("--method", "dance", "--set", "teacher.head=crt"), "head 'crt' trains several networks"),
        (
            ("--method", "tgdd", "--set", "trajectories.head=crt"),
            "trajectories.head=crt: the head trains several networks",
        ),
        (("--method", "ncfm", "--set", "matcher.factor=9"), "9 x 9 tiles do not fit into images of 8x8 pixels"),
        (("--method", "csdm", "--init", "keep", "--set", "matcher.factor=2"), "so it cannot keep real ones"),
        (("--method", "csdm", "--set", "matcher.amplitude_head=2"), "matcher.amplitude_head"),
    ],
)
def test_what_cannot_be_matched_is_one_line(ltdd, words, message):
    assert re.search(message, one_line_error(ltdd("distill", *FAST, *words)))


@pytest.mark.parametrize(
    ("preset", "iterations", "real", "factor"),
    [("dance-paper", 10000, 128, 2), ("tgdd-paper", 10000, 128, 2), ("ncfm-paper", 20000, 1024, 2)],
)
def test_the_presets_have_the_published_values(preset, iterations, real, factor):
    tree = installed().get("preset", preset).load()
    assert (tree["iterations"], tree["matcher"]["batch_real"], tree["matcher"]["factor"]) == (iterations, real, factor)
    assert tree["augment"] == "color_crop_cutout"
