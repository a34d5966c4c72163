"""Augmentations of training images: what each does to an image, and that training uses the one that is named."""

import json

import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from torchvision.transforms import v2

from ltdd_augmentations.policies import AutoAugmentation, TrivialAugmentation
from ltdd_core import PerChannel, TrainingAugmentation, generator, seeded_by
from ltdd_core.plugging.catalog import installed
from ltdd_core.testing import check_augmentation
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.augmentation import SiameseAugmentation
from ltdd_core.training.crops import CropFlip, ResizedCrop

COLOURS = PerChannel((0.5, 0.4, 0.3), (0.25, 0.2, 0.2))
CATALOG = installed()


def images(count=4, size=8, seed=0):
    raw = torch.randint(256, (count, 3, size, size), generator=generator(seed, "images"), dtype=torch.uint8)
    return COLOURS.apply(raw)


def applied(kind, given_images, seed=0, **options):
    return kind(kind.Options(**options)).apply(given_images, generator(seed, "augment"), COLOURS)


@pytest.mark.parametrize("name", CATALOG.names("augmentation"))
def test_every_augmentation_keeps_the_contract(name):
    check_augmentation(CATALOG.get("augmentation", name).load())


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 3))
def test_a_shifted_image_is_a_window_of_the_padded_one_and_perhaps_flipped(seed, padding):
    before = images(3, 6)
    for image, changed in zip(before, applied(CropFlip, before, seed, padding=padding), strict=True):
        padded = F.pad(image, (padding,) * 4)
        windows = [padded[:, y : y + 6, x : x + 6] for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
        assert any(torch.equal(changed, other) for window in windows for other in (window, window.flip(2)))


def test_images_of_a_batch_are_changed_each_in_its_own_way():
    same = images(1).repeat(16, 1, 1, 1)
    for kind in (CropFlip, ResizedCrop, AutoAugmentation, TrivialAugmentation):
        assert len({tuple(image.flatten().tolist()) for image in applied(kind, same)}) > 4, kind


def test_a_part_of_the_image_is_scaled_to_its_size_and_never_smaller_than_asked():
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32).contiguous()
    found = applied(ResizedCrop, ramp.repeat(200, 1, 1, 1), smallest=0.25, ratio=1.0, flip=0.0)
    shares = (found[:, 0, 0, -1] - found[:, 0, 0, 0]) / 2  # the width of the part, as a share
    assert 0.45 < shares.min() < 0.6
    assert shares.max() > 0.9
    assert torch.equal(applied(ResizedCrop, ramp, smallest=1.0, ratio=1.0, flip=0.0), ramp)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 20, 33)], ids=str)
@pytest.mark.parametrize("kind", [CropFlip, ResizedCrop])
def test_a_batch_is_changed_as_torchvision_changes_one_image_after_another(kind, shape):
    before = torch.randn(12, *shape, generator=generator(0, "images"))
    size = shape[1:]
    resized = v2.RandomResizedCrop(size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), antialias=True)
    crop = {CropFlip: v2.RandomCrop(size, padding=4), ResizedCrop: resized}[kind]
    change = v2.Compose([crop, v2.RandomHorizontalFlip()])
    with seeded_by(generator(5, "augment")):
        expected = torch.stack([change(image) for image in before])
    torch.testing.assert_close(applied(kind, before, seed=5), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [AutoAugmentation, TrivialAugmentation])
def test_policies_end_in_colours_that_there_are_but_for_the_cutout(kind):
    found = applied(kind, images(32), cutout=0.0)
    restored = COLOURS.invert(found) * 255
    torch.testing.assert_close(restored, restored.round(), rtol=0, atol=1e-3)
    cut = applied(kind, images(32), cutout=0.5)
    assert ((cut == 0).all(1).flatten(1).sum(1) >= 4).all()  # a corner of the square at least


def test_the_operations_of_dsa_are_those_of_matching():
    expected = Augmentation("crop_flip").draw((3, 8, 8), generator(0, "augment"), 4)(images())
    assert torch.equal(applied(SiameseAugmentation, images(), operations="crop_flip"), expected)


def test_a_block_that_is_seeded_leaves_the_global_generator_alone():
    before, draws = torch.random.get_rng_state(), generator(0, "draws")
    with seeded_by(draws):
        first = torch.rand(3)
    with seeded_by(generator(0, "draws")):
        assert torch.equal(first, torch.rand(3))
    with seeded_by(draws):
        assert not torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_uses_the_augmentation_that_is_named(ltdd):
    command = ["train", "--json", "--quiet", "--threads", "1", "--set", "training.original.epochs=1", *TINY[4:8]]
    plain = ltdd(*command, "--out", "a")
    named = ltdd(*command, "--set", "training.original.augment=crop-flip", "--out", "b")
    again = ltdd(*command, "--set", "training.original.augment={name: crop-flip, padding: 4}", "--out", "c")
    tables = [json.loads(result.stdout)["rows"][0]["confusion"] for result in (plain, named, again)]
    assert tables[0] != tables[1]
    assert tables[1] == tables[2]
    wrong = one_line_error(ltdd(*command, "--set", "training.original.augment=crop-flop"))
    assert "unknown augmentation 'crop-flop'. Did you mean 'crop-flip'?" in wrong
    wrong = one_line_error(ltdd(*command, "--set", "training.original.augment={name: crop-flip, pading: 4}"))
    assert "pading" in wrong


def test_the_interface_is_abstract():
    with pytest.raises(TypeError):
        TrainingAugmentation(None)
