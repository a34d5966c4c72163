"""DSA: each operation against a literal version, one draw for real and synthetic, determinism, derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ltdd_core import Augmentation, InputError
from ltdd_core.augment import OPERATIONS
from ltdd_core.seeding import generator

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


@given(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 10_000), st.integers(4, 17), st.integers(4, 17))
@settings(max_examples=60, deadline=None)
def test_an_image_is_changed_the_same_alone_and_in_a_batch(name, seed, height, width):
    x = torch.randn(3, 3, height, width, generator=generator(seed, "x"), dtype=torch.float64)
    transform = OPERATIONS[name]((3, height, width), generator(seed, "draw"))
    together = transform(x)
    assert together.shape == x.shape
    torch.testing.assert_close(together[1:2], transform(x[1:2]))
    assert torch.equal(together, OPERATIONS[name]((3, height, width), generator(seed, "draw"))(x))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_first_and_second_derivatives(name):
    transform = OPERATIONS[name]((3, 6, 5), generator(1, name))
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, (x,))
    assert torch.autograd.gradgradcheck(lambda x: transform(x).square(), (x,))


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
