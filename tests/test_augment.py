"""DSA: each operation against a literal version, a draw for all images or for each, determinism, derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import Augmentation, InputError
from ltdd_core.seeding import generator
from ltdd_core.training.augment import OPERATIONS, _gathered_warp, _sampled_warp

SHAPE = (3, 12, 10)


def images(n=4, shape=SHAPE, dtype=torch.float64):
    return torch.randn(n, *shape, generator=generator(0, "images"), dtype=dtype)


def uniform(draws):
    return float(torch.rand((), generator=draws, dtype=torch.float64))


def reference_warp(x, matrix):
    theta = torch.tensor([[*matrix[0], 0], [*matrix[1], 0]], dtype=x.dtype).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("seed", range(5))
def test_rotation_is_a_bilinear_warp_by_up_to_15_degrees(seed):
    x = images()
    angle = (2 * uniform(generator(seed, "r")) - 1) * math.radians(15)
    expected = reference_warp(x, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    torch.testing.assert_close(OPERATIONS["rotate"](SHAPE, generator(seed, "r"))(x), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_scale_is_a_bilinear_zoom_of_each_axis(seed):
    x, draws = images(), generator(seed, "s")
    zoom_x, zoom_y = (1 / 1.2 + (1.2 - 1 / 1.2) * uniform(draws) for _ in range(2))
    expected = reference_warp(x, [[zoom_x, 0], [0, zoom_y]])
    torch.testing.assert_close(OPERATIONS["scale"](SHAPE, generator(seed, "s"))(x), expected, atol=1e-6, rtol=0)


def test_color_is_brightness_saturation_contrast_without_clamping():
    x, draws = images() * 5, generator(3, "c")
    b, s, c = (uniform(draws) for _ in range(3))
    expected = torch.empty_like(x)
    for i, image in enumerate(x):
        image = image + b - 0.5
        mean = image.mean(0)
        image = torch.stack([(channel - mean) * 2 * s + mean for channel in image])
        expected[i] = (image - image.mean()) * (c + 0.5) + image.mean()
    torch.testing.assert_close(OPERATIONS["color"](SHAPE, generator(3, "c"))(x), expected)


@pytest.mark.parametrize("seed", range(20))
def test_crop_shifts_by_up_to_an_eighth_and_brings_zeros(seed):
    x = images() + 10
    y = OPERATIONS["crop"](SHAPE, generator(seed, "crop"))(x)
    found = []
    for dy in range(-2, 3):
        for dx in range(-1, 2):
            shifted = torch.zeros_like(x)
            for r in range(12):
                for c in range(10):
                    if 0 <= r + dy < 12 and 0 <= c + dx < 10:
                        shifted[:, :, r, c] = x[:, :, r + dy, c + dx]
            found.append(torch.equal(shifted, y))
    assert sum(found) == 1


@pytest.mark.parametrize("seed", range(20))
def test_cutout_zeroes_one_square_of_half_the_side(seed):
    y = OPERATIONS["cutout"](SHAPE, generator(seed, "cutout"))(torch.ones(2, *SHAPE))
    zero = y[0, 0] == 0
    assert torch.equal(y[0], y[1])
    assert 0 < zero.sum() <= 6 * 5
    rows, columns = zero.any(1).nonzero(), zero.any(0).nonzero()
    assert zero.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)


def test_flip_happens_half_of_the_time():
    x = images()
    flips = [torch.equal(OPERATIONS["flip"](SHAPE, generator(seed, "f"))(x), x.flip(3)) for seed in range(200)]
    assert 70 < sum(flips) < 130


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17))


@given(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 10_000), SHAPES)
@settings(max_examples=60, deadline=None)
def test_an_image_is_changed_the_same_alone_and_in_a_batch(name, seed, shape):
    x = images(3, shape)
    transform = OPERATIONS[name](shape, generator(seed, "draw"))
    together = transform(x)
    assert together.shape == x.shape
    torch.testing.assert_close(together[1:2], transform(x[1:2]))
    assert torch.equal(together, OPERATIONS[name](shape, generator(seed, "draw"))(x))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_first_and_second_derivatives(name):
    transform = OPERATIONS[name]((3, 6, 5), generator(1, name))
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, (x,))
    assert torch.autograd.gradgradcheck(lambda x: transform(x).square(), (x,))


# ---- strengths of its own for each image ---------------------------------------------------------


def literal_color(x, brightness, saturation, contrast):
    x = x + brightness - 0.5
    grey = sum(x) / len(x)
    x = torch.stack([(channel - grey) * 2 * saturation + grey for channel in x])
    return (x - x.mean()) * (contrast + 0.5) + x.mean()


def literal_crop(x, dy, dx):
    y = torch.zeros_like(x)
    for r in range(x.shape[1]):
        for c in range(x.shape[2]):
            if 0 <= r + dy < x.shape[1] and 0 <= c + dx < x.shape[2]:
                y[:, r, c] = x[:, r + dy, c + dx]
    return y


def literal_cutout(x, row, column):
    y = x.clone()
    tall, wide = (int(side * 0.5 + 0.5) for side in x.shape[1:])
    for r in range(row - tall // 2, row - tall // 2 + tall):
        for c in range(column - wide // 2, column - wide // 2 + wide):
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                y[:, r, c] = 0
    return y


def literal_scale(x, u, v):
    zoom_x, zoom_y = (1 / 1.2 + (1.2 - 1 / 1.2) * float(w) for w in (u, v))
    return reference_warp(x[None], [[zoom_x, 0], [0, zoom_y]])[0]


def literal_rotate(x, u):
    angle = math.radians(-15 + 30 * float(u))
    return reference_warp(x[None], [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])[0]


LITERAL = {
    "color": literal_color,
    "crop": literal_crop,
    "cutout": literal_cutout,
    "flip": lambda x, u: x.flip(2) if u < 0.5 else x,
    "scale": literal_scale,
    "rotate": literal_rotate,
}


def strengths(name, shape, draws, count):
    """What an operation draws: for each of its strengths, one number for each image."""
    height, width = shape[1:]
    if name == "crop":
        reaches = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        return [torch.randint(-reach, reach + 1, (count,), generator=draws).tolist() for reach in reaches]
    if name == "cutout":  # where half the side is odd, its centre is a pixel; where even, the corner of one
        ends = (side + 1 - int(side * 0.5 + 0.5) % 2 for side in (height, width))
        return [torch.randint(end, (count,), generator=draws).tolist() for end in ends]
    how_many = {"color": 3, "flip": 1, "scale": 2, "rotate": 1}[name]
    return [torch.rand(count, generator=draws, dtype=torch.float64) for _ in range(how_many)]


def literal(name, x, draws):
    each = zip(*strengths(name, x.shape[1:], draws, len(x)), strict=True)
    return torch.stack([LITERAL[name](image, *own) for image, own in zip(x, each, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_image_is_changed_by_its_own_strengths(name, dtype):
    for seed in range(5):
        x, draws = images(20, dtype=dtype), generator(seed, name)
        torch.randint(1, (), generator=draws)  # the choice of the operation
        y = Augmentation(name).draw(SHAPE, generator(seed, name), 20)(x)
        assert y.dtype == dtype
        atol = 1e-6 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(y, literal(name, x, draws), atol=atol, rtol=1e-5)


@given(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 10_000), SHAPES, st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_each_image_of_any_shape(name, seed, shape, count):
    x = images(count, shape)
    y = OPERATIONS[name](shape, generator(seed, "draw"), count)(x)
    torch.testing.assert_close(y, literal(name, x, generator(seed, "draw")), atol=1e-5, rtol=1e-5)
    assert torch.equal(y, OPERATIONS[name](shape, generator(seed, "draw"), count)(x))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_equal_images_come_out_different_and_one_image_as_with_a_shared_draw(name):
    augmentation, one = Augmentation(name), images(1)
    each = augmentation.draw(SHAPE, generator(0, name), 64)(one.expand(64, -1, -1, -1))
    different = len({tuple(y.flatten().tolist()) for y in each})
    assert different == 2 if name == "flip" else different > 10
    assert torch.equal(
        augmentation.draw(SHAPE, generator(3, name), 1)(one), augmentation.draw(SHAPE, generator(3, name))(one)
    )


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_first_and_second_derivatives_for_each_image(name):
    transform = OPERATIONS[name]((3, 6, 5), generator(1, name), 3)
    x = images(3, (3, 6, 5)).requires_grad_()
    assert torch.autograd.gradcheck(transform, (x,))
    assert torch.autograd.gradgradcheck(lambda x: transform(x).square(), (x,))


@given(SHAPES, st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_warps_gathered_and_sampled_are_the_same_and_so_are_their_gradients(shape, seed, count):
    # The one runs on CUDA, where its gradient is deterministic, the other on the CPU, where it is fast.
    matrices = torch.eye(2).double() + 0.3 * torch.randn(count, 2, 2, generator=generator(seed, "m")).double()
    weights, results = images(count, shape, torch.float64) + 1, []
    for warp in (_gathered_warp, _sampled_warp):
        x = images(count, shape).requires_grad_()
        y = warp(shape, matrices)(x)
        results.append((y.detach(), *torch.autograd.grad((y * weights).sum(), x)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_gathered_warps_of_each_image_have_derivatives():
    matrices = torch.eye(2).double() + 0.3 * torch.randn(3, 2, 2, generator=generator(0, "m")).double()
    transform, x = _gathered_warp((2, 5, 4), matrices), images(3, (2, 5, 4)).requires_grad_()
    assert torch.autograd.gradcheck(transform, (x,))
    assert torch.autograd.gradgradcheck(lambda x: transform(x).square(), (x,))


@pytest.mark.parametrize("name", ["none", *sorted(OPERATIONS)])
@pytest.mark.parametrize("given_images", [1, 3, 5])
def test_a_draw_for_four_images_takes_four(name, given_images):
    transform = Augmentation(name).draw(SHAPE, generator(0, "a"), 4)
    assert transform(images(4)).shape == (4, *SHAPE)
    with pytest.raises(ValueError, match=f"drawn for 4 images, not for {given_images}"):
        transform(images(given_images))


def test_a_draw_for_no_images_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Augmentation("color").draw(SHAPE, generator(0, "a"), 0)


# ---- the choice of operations --------------------------------------------------------------------


def test_one_operation_a_draw_and_none():
    x = images()
    assert Augmentation("none").draw(SHAPE, generator(0, "a"))(x) is x
    augmentation = Augmentation("flip_crop")
    results = {augmentation.draw(SHAPE, generator(s, "a"))(x).sum().item() for s in range(30)}
    assert len(results) > 3


def test_names_are_checked():
    with pytest.raises(InputError, match=r"unknown augmentation 'flop'\. Did you mean 'flip'\?"):
        Augmentation("color_flop")
    with pytest.raises(InputError, match="twice"):
        Augmentation("flip_flip")


@pytest.mark.parametrize("name", ["none", *sorted(OPERATIONS), "_".join(sorted(OPERATIONS))])
def test_several_batches_at_once_are_each_what_its_own_generator_draws(name):
    augmentation, batches = Augmentation(name), images(21).view(7, 3, *SHAPE)
    alone, at_once = ([generator(seed, "several") for seed in range(7)] for _ in range(2))
    expected = [augmentation.apply(batch, own, None) for batch, own in zip(batches, alone, strict=True)]
    torch.testing.assert_close(augmentation.apply_to_each(batches, at_once), torch.stack(expected))
    for one, other in zip(alone, at_once, strict=True):
        assert torch.equal(one.get_state(), other.get_state())
