"""Networks whose body is a model of torchvision or timm, and pretrained weights from a file."""

import importlib.util
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import one_line_error
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

from ltdd_core import Backbone, BaseOptions, InputError, configure, load_classifier, option
from ltdd_core.identity import digest, identity
from ltdd_core.networks.network import NetworkFactory
from ltdd_core.networks.pretrained import read_weights, take_weights
from ltdd_core.networks.stored import Entry, put_together, taken_apart
from ltdd_core.networks.zoo import MLP, ConvNet, ResNet18
from ltdd_core.plugging import catalog
from ltdd_core.seeding import global_generator
from ltdd_core.testing import check_network
from ltdd_timm.network import TimmNetwork
from ltdd_torchvision.network import TorchvisionNetwork

RUN = (
    *("--network", "timm:test_resnet", "--method", "dm", "--iterations", "2", "--ipc", "1", "--quiet"),
    *("--set", "training.original.epochs=1", "--set", "training.distilled.epochs=1"),
)

WITH_WEIGHTS = (
    *("--network", "mlp", "--set", "network.weights=w.pt", "--method", "coreset", "--ipc", "1", "--quiet"),
    *("--set", "training.original.epochs=1", "--set", "training.distilled.epochs=1"),
)


def made(kind, shape=(1, 8, 8), outputs=4, seed=0, **options):
    with global_generator(seed, "test network"):
        return NetworkFactory(kind, kind.Options(**options))(shape, outputs).eval()


def images(shape, n=3):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


# ---- models of libraries -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "options"),
    [
        (TorchvisionNetwork, (1, 32, 32), {"model": "mobilenet_v3_small"}),
        (TorchvisionNetwork, (3, 32, 32), {"model": "shufflenet_v2_x0_5"}),
        (TorchvisionNetwork, (1, 8, 8), {"stem": "small"}),
        (TimmNetwork, (1, 8, 8), {"model": "test_resnet"}),
        (TimmNetwork, (3, 32, 48), {"model": "test_vit"}),
        (TimmNetwork, (4, 16, 16), {"model": "test_efficientnet"}),
        (TimmNetwork, (1, 8, 8), {"model": "resnet18", "stem": "small"}),
    ],
    ids=str,
)
def test_models_keep_the_contract_on_images_of_any_channels(kind, shape, options):
    check_network(kind, shape, **options)


@pytest.mark.parametrize(
    ("kind", "model", "whole"),
    [
        (TimmNetwork, "test_resnet", lambda: timm.create_model("test_resnet", num_classes=4)),
        (TimmNetwork, "test_convnext", lambda: timm.create_model("test_convnext", num_classes=4)),
        (TorchvisionNetwork, "mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small(num_classes=4)),
        (TorchvisionNetwork, "resnet18", lambda: torchvision.models.resnet18(num_classes=4)),
    ],
)
def test_a_network_with_the_weights_of_its_library_is_the_model_of_that_library(kind, model, whole, tmp_path):
    with global_generator(3, "theirs"):
        theirs = whole().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    pixels = images((3, 32, 32))
    ours = made(kind, (3, 32, 32), model=model, weights=tmp_path / "weights.pt")
    assert torch.equal(ours(pixels), theirs(pixels))


def test_the_small_stem_keeps_the_size_of_the_images():
    network = made(TorchvisionNetwork, stem="small")
    assert network.body.conv1(images((1, 8, 8))).shape[2:] == (8, 8)
    zoo = {name: value.shape for name, value in made(ResNet18).state_dict().items()}
    assert {name: value.shape for name, value in network.state_dict().items()} == zoo


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TorchvisionNetwork, {"model": "alexnet"}, "alexnet cannot take images of 8x8 .*: use another model, or"),
        (TimmNetwork, {"model": "test_vit"}, "test_vit cannot take images of 8x8 .*patch size"),
        (TimmNetwork, {"model": "test_convnext", "stem": "small"}, "only plain ResNets have a small stem"),
    ],
)
def test_what_a_model_cannot_take_gets_one_line(kind, options, message):
    with pytest.raises(InputError, match=message) as caught:
        made(kind, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


class Lost(Backbone):
    """Nothing is left of an image."""

    class Options(Backbone.Options):
        """What it gives."""

        gives: str = "nothing"

    def model(self, channels, size, options):
        if options.gives == "memory":
            raise MemoryError
        shrunk = nn.AvgPool2d(8, ceil_mode=True) if options.gives == "maps" else nn.Softmax(1)
        return nn.Sequential(shrunk, *([] if options.gives == "maps" else [nn.Flatten(), Nothing()])), "fc"


class Nothing(nn.Module):
    def forward(self, maps):
        return maps * torch.nan


def test_features_that_are_none_are_refused_and_missing_memory_is_told_as_such():
    with pytest.raises(InputError, match="nothing is left of them"):
        made(Lost)
    with pytest.raises(InputError, match=r"no features \[n, D\]"):
        made(Lost, gives="maps")
    with pytest.raises(MemoryError):
        made(Lost, gives="memory")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnt18", "network.model: unknown model of timm 'resnt18'. Did you mean 'resnet18' or"),
        ("timm:hf-hub:somebody/model", "unknown model of timm 'hf-hub:somebody/model'."),
        ("torchvision:squeezenet1_0", "unknown model of torchvision 'squeezenet1_0'."),
        ("torchvision:Resnet18", "Did you mean 'resnet18'"),
        ("timm:test_vit", "test_vit cannot take images of 8x8"),
    ],
)
def test_a_model_that_does_not_exist_or_fit_is_refused_before_anything_is_written(ltdd, name, message):
    line = one_line_error(ltdd("distill", *RUN[2:], "--network", name, "--out", "run"))
    assert message in line
    assert len(line) < 400
    assert not Path("run").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_model_that_does_not_fit_is_refused_before_others_are_trained(ltdd, finished, command):
    run = [finished] if command == "evaluate" else []
    words = ("--network", "mlp", "--network", "torchvision:alexnet", "--out", "new", "--quiet")
    line = one_line_error(ltdd(command, *run, *words, "--store", "store"))
    assert "alexnet cannot take images of 8x8" in line
    assert not Path("new").exists()
    assert not Path("store").exists()


def test_without_timm_its_network_says_how_to_get_it(ltdd, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("ltdd_timm.network.find_spec", lambda name: None if name == "timm" else found(name))
    for name in ("timm", "timm:resnet18"):
        line = one_line_error(ltdd("distill", *RUN[2:], "--network", name, "--out", "run"))
        assert line == "Error: timm is not installed: pip install 'ltdd[timm]'."
    assert ltdd("describe", "network").exit_code == 0
    assert ltdd("plugins", "timm").exit_code == 0


# ---- weights of a file ---------------------------------------------------------------------------


def saved(path, tensors):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("kind", [ConvNet, ResNet18, MLP])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_networks_of_the_zoo_take_their_own_weights(kind, name, tmp_path):
    first = made(kind)
    path = saved(tmp_path / name, {f"module.{key}": value for key, value in first.state_dict().items()})
    second = made(kind, seed=1, weights=path)
    assert torch.equal(first(images((1, 8, 8))), second(images((1, 8, 8))))
    wrapped = saved(tmp_path / "w.pt", {"state_dict": first.state_dict(), "epoch": 3})
    assert torch.equal(first(images((1, 8, 8))), made(kind, seed=1, weights=wrapped)(images((1, 8, 8))))


def test_the_last_layer_is_taken_where_it_fits_and_stays_random_elsewhere(tmp_path):
    path = saved(tmp_path / "w.pt", made(MLP, outputs=9, seed=5).state_dict())
    network, random = made(MLP, weights=path), made(MLP)
    assert torch.equal(network.linear.weight, random.linear.weight)
    assert not torch.equal(network.features[1].weight, random.features[1].weight)
    body = {name: value for name, value in network.state_dict().items() if not name.startswith("linear.")}
    half = saved(tmp_path / "half.safetensors", {name: value.half() for name, value in body.items()})
    taken = made(MLP, weights=half)
    assert torch.equal(taken.linear.weight, random.linear.weight)
    assert taken.features[1].weight.dtype == torch.float32
    torch.testing.assert_close(taken.features[1].weight, network.features[1].weight, atol=1e-3, rtol=1e-2)


NAMES = sorted(name for name in made(MLP).state_dict() if not name.startswith("linear."))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.sets(st.text("abc.", min_size=1)))
def test_whatever_does_not_fit_is_named(missing, reshaped, left):
    network, reshaped = made(MLP), reshaped - missing
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = {name: value + 1 for name, value in before.items() if name not in missing}
    given |= {name: torch.zeros(2, 2, 2) for name in reshaped} | {name: torch.zeros(1) for name in left}
    if not missing | reshaped | left:
        take_weights(network, given, Path("w.pt"), {})
        assert all(torch.equal(value, before[name] + 1) for name, value in network.state_dict().items())
        return
    with pytest.raises(InputError) as caught:
        take_weights(network, given, Path("w.pt"), {})
    text = str(caught.value)
    assert "\n" not in text
    for what, names in (("missing", missing), ("left over", left), ("of another shape", reshaped)):
        assert (f"{what}: " in text) == bool(names)
        assert not names or any(name in text for name in names)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "nothing was taken"


class Code:
    def __reduce__(self):
        return os.mkdir, ("run by a pickle",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", lambda path: torch.save({"a": Code()}, path), "damaged, or it holds more than tensors"),
        ("w.pth", lambda path: path.write_bytes(pickle.dumps(Code())), "damaged, or it holds more than tensors"),
        ("w.pt", lambda path: path.write_bytes(b"PK\3\4 and so on"), "damaged, or it holds more than tensors"),
        ("w.pt", lambda path: path.write_bytes(b""), "damaged, or it holds more than tensors"),
        ("w.safetensors", lambda path: path.write_bytes(b"\7" * 99), "damaged, or not a safetensors file"),
        ("w.pt", lambda path: torch.save([torch.zeros(2)], path), "it is no state dict"),
        ("w.pt", lambda path: torch.save({}, path), "it holds no tensor"),
        ("w.pt", lambda path: torch.save({"a": torch.tensor(torch.nan)}, path), "a weight is not finite"),
        ("w.bin", lambda path: path.write_bytes(b""), "weights are a file .safetensors, .pt, .pth"),
        ("w.pt", lambda path: path.mkdir(), "there is no such file"),
        ("w.pt", lambda path: None, "there is no such file"),
        ("w.pt", lambda path: torch.save({"a": torch.zeros(2)}, path), "72 more; left over: a."),
    ],
)
def test_a_wrong_file_gets_one_line_and_nothing_is_written(ltdd, name, content, message):
    content(Path(name))
    line = one_line_error(ltdd("distill", *RUN, "--set", f"network.weights={name}", "--out", "run"))
    assert f"{name}: " in line
    assert message in line
    assert not Path("run").exists()
    assert not Path("run by a pickle").exists()


def test_what_is_in_the_file_decides_a_network_and_not_where_it_lies(tmp_path):
    def key(path):
        return digest(identity(NetworkFactory(MLP, MLP.Options(weights=path))))

    def science(path):
        config = configure(method="dm", network={"name": "mlp", "weights": str(path)})
        return config.science(), config.deciding_changes()

    one, other = made(MLP).state_dict(), made(MLP, seed=1).state_dict()
    paths = [saved(tmp_path / name, one) for name in ("a.pt", "b.pt", "c.safetensors")]
    assert len({key(path) for path in paths}) == 1
    assert key(None) != key(paths[0])
    before = key(paths[0]), science(paths[0])
    assert science(paths[0]) == science(shutil.copy(paths[0], tmp_path / "copy.pt"))
    saved(paths[0], other)
    assert key(paths[0]) != before[0]
    assert science(paths[0]) != before[1]


def test_a_kept_classifier_needs_the_file_no_more_and_the_store_knows_it_by_its_content(ltdd):
    saved(Path("w.pt"), timm.create_model("test_resnet", num_classes=3, in_chans=1).state_dict())
    words = (*RUN, "--set", "network.weights=w.pt", "--store", "store")
    assert ltdd("distill", *words, "--out", "run").exit_code == 0
    count = len(list(Path("store").iterdir()))
    Path("w.pt").rename("moved.pt")
    classifier = load_classifier("run")
    assert classifier(images((1, 8, 8))).shape == (3, 10)
    again = ltdd("evaluate", "run", "--set", "network.weights=moved.pt", "--store", "store", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"][0]["network"] == "timm:test_resnet"
    assert len(list(Path("store").iterdir())) == count, "nothing was trained again"
    gone = one_line_error(ltdd("evaluate", "run", "--quiet"))
    assert gone == f"Error: {Path('w.pt').absolute()}: there is no such file."


def test_a_teacher_with_weights_of_a_file_labels_the_views_of_a_run_and_of_its_evaluation(ltdd):
    saved(Path("w.pt"), made(MLP).state_dict())
    views = ("--labeller", "teacher", "--set", "labeller.per=view")
    done = ltdd("distill", *WITH_WEIGHTS, *views, "--out", "run", "--json")
    assert done.exit_code == 0, done.output
    again = ltdd("evaluate", "run", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"][0]["per_class"] == json.loads(done.stdout)["rows"][1]["per_class"]
    other = one_line_error(ltdd("evaluate", "run", "--network", "convnet-d3", "--quiet", "--out", "other"))
    assert "a teacher that began with pretrained weights" in other
    assert not Path("other").exists()


def test_a_distilled_set_alone_asks_for_the_file_of_the_weights(ltdd):
    saved(Path("w.pt"), made(MLP).state_dict())
    assert ltdd("distill", *WITH_WEIGHTS, "--out", "run").exit_code == 0
    Path("run/distilled.safetensors").rename("alone.safetensors")
    line = one_line_error(ltdd("evaluate", "alone.safetensors", "--quiet", "--out", "result"))
    assert line.endswith("name their file with --set network.weights=FILE.")
    assert not Path("result").exists()
    named = ltdd("evaluate", "alone.safetensors", "--set", "network.weights=w.pt", "--quiet", "--out", "result")
    assert named.exit_code == 0, named.output


def test_a_run_does_not_go_on_with_other_weights_under_the_same_name(ltdd):
    saved(Path("w.pt"), made(MLP).state_dict())
    assert ltdd("distill", *WITH_WEIGHTS, "--out", "run").exit_code == 0
    Path("run/report.json").unlink()
    saved(Path("w.pt"), made(MLP, seed=1).state_dict())
    before = Path("run/run.json").read_bytes()
    line = one_line_error(ltdd("distill", "--out", "run", "--resume", "--quiet"))
    assert line.startswith("Error: run holds a run with other pretrained weights: their file has changed since")
    assert Path("run/run.json").read_bytes() == before
    saved(Path("w.pt"), made(MLP).state_dict())
    assert ltdd("distill", "--out", "run", "--resume", "--quiet").exit_code == 0


def test_the_weights_of_a_strangers_network_need_not_be_a_file(monkeypatch):
    class Stranger(MLP):
        class Options(BaseOptions):
            weights: bool = option(True, "whether the library downloads its own")

    monkeypatch.setattr(catalog, "_registered", {("network", "stranger"): Stranger})
    assert configure(method="dm", network="stranger").science()["network"]["weights"] is True


def test_a_classifier_is_made_of_its_options_without_the_file(tmp_path):
    path = saved(tmp_path / "w.pt", made(TorchvisionNetwork, model="shufflenet_v2_x0_5").state_dict())
    network = made(TorchvisionNetwork, seed=1, model="shufflenet_v2_x0_5", weights=path)
    path.unlink()
    modules, tensors = taken_apart(network, lambda name: find(name))
    assert "w.pt" not in json.dumps(modules)
    loaded = put_together([Entry.model_validate(entry) for entry in modules], tensors, find)
    assert torch.equal(loaded(images((1, 8, 8))), network(images((1, 8, 8))))


def find(name):
    module, _, qualified = name.partition(":")
    found = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    return found


def test_all_names_that_a_file_may_have_are_read(tmp_path):
    path = saved(tmp_path / "w.pt", {"module.a": torch.ones(2), "b": torch.zeros(1)})
    assert sorted(read_weights(path)) == ["a", "b"]
