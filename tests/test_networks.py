"""The networks' shapes and sizes, and the pool that deals out a random one each step."""

import itertools

import pytest
import torch
import torchvision
from torch import nn

from ltdd_core import InputError, generator
from ltdd_core.networks.backbone import small_stem
from ltdd_core.networks.pool import NetworkPool
from ltdd_core.networks.zoo import MLP, VGG11, AlexNet, AveragePool, ConvNet, ResNet18, ResNet32
from ltdd_core.plugging.catalog import installed
from ltdd_core.seeding import global_generator

SHAPES = [(1, 8, 8), (3, 32, 32), (3, 28, 28), (1, 32, 48)]
CPU = torch.device("cpu")


def made(kind, shape, outputs=4, seed=0, **options):
    with global_generator(seed, "test network"):
        return kind(shape, outputs, kind.Options(**options))


def images(n, shape, seed=0):
    return torch.randn(n, *shape, generator=generator(seed, "images"))


# ---- the networks --------------------------------------------------------------------------------


def test_every_network_of_the_core_is_tested_here():
    catalog = installed()
    kinds = {catalog.get("network", name).load() for name in catalog.names("network")}
    assert {ConvNet, ResNet18, ResNet32, VGG11, AlexNet, MLP} == {
        kind for kind in kinds if kind.__module__.startswith("ltdd_core.")
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [ConvNet, ResNet18, ResNet32, VGG11, AlexNet, MLP])
def test_features_logits_and_gradients(kind, shape):
    network, pixels = made(kind, shape).eval(), images(3, shape).requires_grad_(True)
    features = network.embed(pixels)
    assert features.shape == (3, network.linear.in_features)
    assert torch.equal(network(pixels), network.linear(features))
    assert network(pixels).shape == (3, 4)
    network(pixels).square().sum().backward()
    assert all(image.any() for image in pixels.grad)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert (features.std(0).max() > 1e-3).item(), "different images have different features"


WITHOUT_BATCH_STATISTICS = [
    (ConvNet, {}),
    (ConvNet, {"norm": "group"}),
    (ConvNet, {"norm": "layer"}),
    (ConvNet, {"norm": "none", "activation": "sigmoid", "pooling": "max"}),
    (ResNet18, {"norm": "instance"}),
    (ResNet32, {"norm": "instance"}),
    (VGG11, {}),
    (VGG11, {"norm": "none"}),
    (AlexNet, {}),
    (MLP, {}),
]


@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    # ResNet-18 refuses 8x8 images with instance normalisation: see below.
    [(*one, shape) for one in WITHOUT_BATCH_STATISTICS for shape in SHAPES if one[0] is not ResNet18 or shape[1] > 8],
)
def test_without_batch_statistics_an_image_is_the_same_alone_while_training(kind, options, shape):
    network, batch = made(kind, shape, **options).train(), images(3, shape)
    torch.testing.assert_close(network(batch[1:2]), network(batch)[1:2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "group", "none"])
@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "sigmoid"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_every_kind_of_convnet_is_its_blocks_one_after_another(norm, activation, pooling):
    network = made(ConvNet, (2, 9, 12), width=8, depth=2, norm=norm, activation=activation, pooling=pooling).train()
    x = batch = images(3, (2, 9, 12))
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    for convolution in convolutions:
        x = nn.functional.conv2d(x, convolution.weight, convolution.bias, padding=1)
        n, c, h, w = x.shape
        over = {"instance": (2, 3), "layer": (1, 2, 3), "batch": (0, 2, 3)}
        if norm == "group":
            parts = x.reshape(n, 4, c // 4, h, w)
            x = normalised(parts, (2, 3, 4)).reshape(n, c, h, w)
        elif norm != "none":
            x = normalised(x, over[norm])
        x = {
            "relu": lambda x: x.clamp(0),
            "leaky-relu": lambda x: torch.where(x > 0, x, 0.01 * x),
            "sigmoid": torch.sigmoid,
        }[activation](x)
        if pooling != "none":
            cells = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
            x = cells.mean((3, 5)) if pooling == "avg" else cells.amax((3, 5))
    assert len(convolutions) == 2
    torch.testing.assert_close(network.embed(batch), x.flatten(1), rtol=1e-4, atol=1e-5)


def normalised(x, over):
    return (x - x.mean(over, keepdim=True)) / (x.var(over, correction=0, keepdim=True) + 1e-5).sqrt()


def test_convnet_d3_has_the_size_of_the_field():
    network = made(ConvNet, (3, 32, 32), outputs=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 320_010
    assert network.linear.in_features == 2048


def test_vgg11_keeps_maps_that_instance_normalisation_leaves_something_of():
    """28x28 images came down to one pixel before the last normalisations, and all features were zero."""
    for shape in [(3, 28, 28), (1, 8, 8), (1, 2, 2), (1, 1, 6)]:
        features = made(VGG11, shape).embed(images(6, shape))
        assert features.std(0).max() > 0.02, shape
    layers = [type(layer).__name__ for layer in made(VGG11, (3, 32, 32), norm="none").features]
    assert layers.count("MaxPool2d") == 5
    assert layers.index("AdaptiveAvgPool2d") == len(layers) - 1


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_resnet18_is_that_of_torchvision_with_the_small_stem(norm):
    """Of every width: torchvision's has 64 channels in the first stage."""
    layer = nn.BatchNorm2d if norm == "batch" else lambda channels: nn.GroupNorm(channels, channels)
    theirs = torchvision.models.resnet18(num_classes=4, norm_layer=layer)
    small_stem(theirs, 3)
    network, pixels = made(ResNet18, (3, 32, 32), norm=norm), images(2, (3, 32, 32))
    mine = {name.replace("body.", "").replace("linear.", "fc."): value for name, value in network.state_dict().items()}
    theirs.load_state_dict(mine)
    torch.testing.assert_close(network.eval()(pixels), theirs.eval()(pixels))
    narrow = made(ResNet18, (3, 32, 32), norm=norm, width=6)
    assert narrow.embed(pixels).shape == (2, 48)
    assert [tuple(value.shape) for value in narrow.parameters()][:1] == [(6, 3, 3, 3)]


def test_resnet32_has_the_size_of_the_paper():
    """0.46 million parameters (He et al., 2016, table 6), 31 convolutions and a linear layer."""
    network = made(ResNet32, (3, 32, 32), outputs=10)
    assert sum(value.numel() for value in network.parameters()) == 464_154
    assert len([layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]) == 31
    assert network.body[:-2](images(1, (3, 32, 32))).shape == (1, 64, 8, 8)


@pytest.mark.parametrize("width", [3, 4])
def test_the_shortcuts_of_resnet32_are_every_second_pixel_between_zeros(width):
    """Option A of He et al.: with blocks that add nothing, an image goes through as it is."""
    network, maps = made(ResNet32, (3, 32, 32), width=width).eval(), images(2, (width, 32, 32)).abs()
    for stage in (network.body.layer1, network.body.layer2, network.body.layer3):
        for block in stage:
            nn.init.zeros_(block.bn2.weight)
    last = network.body.layer3(network.body.layer2(network.body.layer1(maps)))
    before = width // 2 + width
    expected = torch.zeros(2, 4 * width, 8, 8)
    expected[:, before : before + width] = maps[:, :, ::4, ::4]
    assert torch.equal(last, expected)


@pytest.mark.parametrize(
    ("shape", "depth"),
    [
        ((3, 32, 32), 3),
        ((3, 64, 64), 3),
        ((1, 28, 28), 3),
        ((3, 16, 40), 3),
        ((3, 15, 15), 2),
        ((1, 8, 8), 2),
        ((1, 7, 7), 1),
    ],
)
def test_a_convnet_has_three_blocks_or_as_many_as_see_four_pixels_a_side(shape, depth):
    sides = []
    network = made(ConvNet, shape, width=4)
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _inputs, maps: sides.append(min(maps.shape[-2:])))
    network(torch.zeros(1, *shape))
    assert len(sides) == depth
    assert all(side >= 4 for side in sides)
    assert len(made(ConvNet, shape, width=4, pooling="none").features) == 9


@pytest.mark.parametrize(
    ("kind", "shape", "options", "advice"),
    [
        (ConvNet, (3, 8, 8), {"depth": 4}, 'network={"depth": N}'),
        (ConvNet, (3, 32, 3), {"depth": 3}, 'network={"depth": N}'),
        (ConvNet, (3, 1, 1), {}, "image_size="),
        (ConvNet, (3, 32, 32), {"width": 6, "norm": "group"}, 'network={"width": N}'),
        (AlexNet, (3, 7, 32), {}, "image_size="),
        (ResNet18, (1, 8, 8), {"norm": "instance"}, 'network={"norm": "batch"}'),
        (ResNet32, (3, 4, 4), {"norm": "instance"}, 'network={"norm": "batch"}'),
        (VGG11, (3, 1, 1), {}, 'network="mlp"'),
    ],
)
def test_what_a_network_cannot_take_gets_one_line(kind, shape, options, advice):
    with pytest.raises(InputError, match=advice) as caught:
        made(kind, shape, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", range(1, 18))
@pytest.mark.parametrize("kind", [ConvNet, ResNet18, ResNet32, VGG11, AlexNet, MLP])
def test_any_size_of_image_works_or_is_refused_in_words(kind, side):
    try:
        network = made(kind, (1, side, side + 1), **({"width": 8} if kind is ConvNet else {})).eval()
    except InputError:
        assert side < 8
        return
    logits = network(images(2, (1, side, side + 1)))
    assert logits.shape == (2, 4)
    assert not torch.equal(logits[0], logits[1])


# ---- the pool ------------------------------------------------------------------------------------


def pool(kind=ConvNet, seed=0, shape=(3, 16, 16), calibration=None, precision="fp32", compiled=False, **options):
    if kind is ConvNet:
        options = {"width": 8, **options}

    def real(step):
        return images(20, shape, seed=100 + step) * 2 + 1

    return NetworkPool(
        lambda shape, outputs: kind(shape, outputs, kind.Options(**options)),
        shape,
        4,
        seed=seed,
        device=CPU,
        calibration=calibration or real,
        precision=precision,
        compiled=compiled,
    )


def direct(seed, step, shape=(3, 16, 16), **options):
    with global_generator(seed, "network", step):
        return ConvNet(shape, 4, ConvNet.Options(**{"width": 8, **options}))


@pytest.mark.parametrize("steps", [(0, 1, 2, 1), (2, 1, 0), (1,)])
def test_the_network_of_a_step_is_a_function_of_seed_and_step(steps):
    batch = images(5, (3, 16, 16))
    networks, before = pool(seed=7), torch.random.get_rng_state()
    for step in steps:
        fresh, expected = networks.fresh(step), direct(7, step)
        torch.testing.assert_close(fresh.embed(batch), expected.embed(batch), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fresh(batch), expected(batch), rtol=1e-4, atol=1e-5)
        found = {name.removeprefix("inner."): value for name, value in fresh.named_parameters()}
        assert found.keys() == dict(expected.named_parameters()).keys()
        for name, value in expected.named_parameters():
            assert torch.equal(found[name], value)
        assert not any(value.requires_grad for value in found.values())
    assert torch.equal(before, torch.random.get_rng_state())


def test_steps_and_seeds_differ():
    batch = images(5, (3, 16, 16))
    features = [pool(seed=seed).fresh(step).embed(batch) for seed, step in [(0, 0), (0, 1), (1, 0)]]
    assert all(not torch.allclose(a, b, atol=1e-2) for a, b in itertools.combinations(features, 2))


def test_gradients_reach_the_images_and_not_the_network():
    network, batch = pool().fresh(0), images(5, (3, 16, 16)).requires_grad_(True)
    network.embed(batch).square().mean().backward()
    assert batch.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_of_ones_own_can_be_trained_and_leaves_the_pool_alone():
    networks, batch = pool(), images(2, (3, 16, 16))
    shared = networks.fresh(3).embed(batch)
    before = torch.random.get_rng_state()
    own, again, other = networks.new("expert", 1), networks.new("expert", 1), networks.new("expert", 2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert torch.equal(own.embed(batch), again.embed(batch))
    assert not torch.equal(own.embed(batch), other.embed(batch))
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.zero_()
    assert torch.equal(shared, networks.fresh(3).embed(batch))


@pytest.mark.parametrize("steps", [(4,), (0, 9, 4)])
def test_batch_statistics_are_those_of_the_calibration_images_and_stay(steps):
    networks = pool(norm="batch", depth=2)
    for step in steps:
        network = networks.fresh(step)
    x = calibration = images(20, (3, 16, 16), seed=104) * 2 + 1
    y = batch = images(3, (3, 16, 16)) * 5
    for layer in direct(0, 4, norm="batch", depth=2).features:
        if isinstance(layer, nn.BatchNorm2d):
            mean = x.mean((0, 2, 3), keepdim=True)
            y = (y - mean) / (x.var((0, 2, 3), keepdim=True) + 1e-5).sqrt()  # running variances are unbiased
            x = (x - mean) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        else:
            x, y = layer(x), layer(y)
    torch.testing.assert_close(network.embed(batch), y.flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.embed(batch[:1]), y[:1].flatten(1), rtol=1e-4, atol=1e-4)
    network.embed(calibration * 100)
    torch.testing.assert_close(network.embed(batch), y.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("before", [(), (0, 9)])
def test_a_network_of_given_weights_takes_its_statistics_from_the_calibration_images(before):
    batch, networks = images(3, (3, 16, 16)), pool(norm="batch", depth=2)
    given = direct(5, 1, norm="batch", depth=2)
    parameters = torch.cat([value.detach().flatten() for value in given.parameters()])
    for step in before:
        networks.holding(parameters * (step + 2), step).embed(batch)
    found = networks.holding(parameters, 4)
    expected = pool(norm="batch", depth=2, seed=5, calibration=lambda step: images(20, (3, 16, 16), seed=104) * 2 + 1)
    torch.testing.assert_close(found.embed(batch), expected.fresh(1).embed(batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found(batch), expected.fresh(1)(batch), rtol=1e-4, atol=1e-4)
    assert not any(value.requires_grad for value in found.parameters())
    with pytest.raises(ValueError, match="are not the"):
        networks.holding(parameters[1:], 0)


class Dropping(ConvNet):
    """Drops features, which must not happen while statistics are taken."""

    def embed(self, images):
        return self.features(nn.functional.dropout(images, 0.5, self.training)).flatten(1)


def test_the_first_network_of_a_pool_is_no_other_than_later_ones():
    batch, before = images(3, (3, 16, 16)), torch.random.get_rng_state()
    first = pool(Dropping, norm="batch", width=8).fresh(1).embed(batch)
    assert torch.equal(before, torch.random.get_rng_state())
    networks = pool(Dropping, norm="batch", width=8)
    networks.fresh(0)
    assert torch.equal(first, networks.fresh(1).embed(batch))


def test_networks_without_batch_statistics_need_no_calibration():
    def refuse(step):
        raise AssertionError(f"calibration images of step {step} are not needed")

    pool(calibration=refuse).fresh(0)


def test_bf16_gives_float32_features_close_to_those_of_fp32():
    batch = images(6, (3, 16, 16))
    exact, mixed = pool().fresh(0).embed(batch), pool(precision="bf16").fresh(0).embed(batch)
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    assert (exact - mixed).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("precision", "compiled", "last"),
    [("fp32", False, True), ("fp32", True, True), ("bf16", False, False), ("bf16", True, True)],
)
def test_networks_to_match_with_lie_in_memory_as_is_fastest_on_a_cpu(precision, compiled, last):
    weight = pool(precision=precision, compiled=compiled).fresh(0).inner.features[4].weight
    assert weight.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_networks_give_what_the_others_give(norm):
    eager, compiled = pool(norm=norm), pool(norm=norm, compiled=True)
    for step in (0, 1):
        batches = [images(6, (3, 16, 16), seed=step).requires_grad_(True) for _ in range(2)]
        features = [
            networks.fresh(step).embed(batch) for networks, batch in zip((eager, compiled), batches, strict=True)
        ]
        torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-4)
        for values in features:
            values.square().mean().backward()
        torch.testing.assert_close(batches[0].grad, batches[1].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 2, 6), (2, 3, 7, 9), (3, 2, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_means_of_pixels_are_those_of_torch(shape, dtype, layout):
    draws = torch.Generator().manual_seed(0)
    maps = torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype, memory_format=layout).requires_grad_(True)
    exact = maps.detach().double().requires_grad_(True)
    found, expected = AveragePool(2)(maps), torch.nn.functional.avg_pool2d(exact, 2)
    rounding = 2**-7 if dtype == torch.bfloat16 else 1e-6
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=rounding)
    slopes = torch.randn(expected.shape, generator=draws, dtype=torch.float64).to(dtype)
    (gradient,) = torch.autograd.grad(found, maps, slopes)
    (reference,) = torch.autograd.grad(expected, exact, slopes.double())
    torch.testing.assert_close(gradient.double(), reference, rtol=rounding, atol=rounding)
