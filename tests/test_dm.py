"""DM against a literal, per-class version of its equation."""

import pytest
import torch
from conftest import matcher_of
from torch.nn import functional as F

from ltdd_core import configure
from ltdd_core.data.load import load_long_tailed
from ltdd_core.seeding import generator, global_generator


def small(**settings):
    tree = {
        "method": "dm",
        "ipc": 3,
        "data": {"name": "digits-lt", "n_max": 40, "imbalance": 40},
        "network": {"name": "convnet-d3", "width": 8, "depth": 2},
        "matcher": {"batch_real": 16},
    }
    return configure(**{**tree, **settings})


def literal_gradient(config, data, images, labels, step):
    """The loss of one step written out class by class in float64; returns it with its gradient."""
    with global_generator(config.run.seed, "network", step):
        network = config.network.component(data.image_shape, data.classes, config.network.options).double()
    sampler = config.sampler.make()
    sampler.prepare(data)
    from ltdd_core import Augmentation

    augmentation = Augmentation(config.run.augment)
    pixels = images.double().clone().requires_grad_(True)
    loss = torch.zeros((), dtype=torch.float64)
    for c in range(data.classes):
        draws = generator(0, f"real batch of class {c}", step)
        own = sampler.of_class(c, config.matcher.options.batch_real, draws)
        transform = augmentation.draw(data.image_shape, generator(0, f"augmentation of class {c}", step))
        real = transform(data.normalisation.apply(data.train_images[own]).double())
        own = pixels[labels == c]
        if config.matcher.options.factor:
            tiles = [tile for image in own for row in image.chunk(2, 1) for tile in row.chunk(2, 2)]
            own = torch.cat([F.interpolate(tile[None], own.shape[2:], mode="bilinear") for tile in tiles])
        synthetic = transform(own)
        mean_real = sum(network.embed(image[None])[0] for image in real) / len(real)
        mean_synthetic = sum(network.embed(image[None])[0] for image in synthetic) / len(synthetic)
        loss = loss + sum((a - b) ** 2 for a, b in zip(mean_real.detach(), mean_synthetic, strict=True))
    loss.backward()
    return loss.detach(), pixels.grad


@pytest.mark.parametrize("factor", [None, 2])
def test_loss_and_pixel_gradients_are_those_of_the_equation(factor):
    config = small(matcher={"batch_real": 16, "factor": factor})
    data = load_long_tailed("digits-lt", config.data.make())
    matcher = matcher_of(config, data)
    for step in range(4):
        loss, gradient = literal_gradient(config, data, matcher.images.detach(), matcher.labels, step)
        matcher.images.grad = None
        before = matcher.images.detach().clone()
        metrics = matcher.step(step)
        torch.testing.assert_close(metrics["loss"].double(), loss, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(matcher.images.grad.double(), gradient, rtol=1e-3, atol=1e-6)
        assert not torch.equal(before, matcher.images.detach())
