"""Trained classifiers in files: what comes back is what was kept, and what cannot be kept or read is said."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from test_damage import with_odd_value
from torch import nn

import ltdd_core
from ltdd_core import (
    BaseOptions,
    Classifier,
    CompiledNetwork,
    CosineLinear,
    InputError,
    Softmax,
    Storable,
    TrainedClassifier,
    load_classifier,
)
from ltdd_core.evaluation.stored import _digest, class_finder, save_classifier
from ltdd_core.networks.stored import LINEAR, Entry, Unstorable, put_together, taken_apart
from ltdd_core.networks.zoo import ConvNet, ResNet18
from ltdd_core.plugging.loading import load_plugins
from ltdd_core.storage import json_text, load_tensors, save_tensors
from ltdd_core.testing import tiny_long_tailed, tiny_network
from ltdd_core.training.trainer import FrozenBody
from ltdd_ensemble.head import Averaged
from ltdd_twostage.stages import OfClasses, TwoStage, WithinGroups

DATA = tiny_long_tailed()
IMAGES = DATA.normalisation.apply(DATA.test_images)
GROUPS = torch.tensor([0, 1, 0, 1])


def find(name):
    """Classes of ltdd, of plugins and of this file."""
    return class_finder(load_plugins(), "test_classifiers")(name)


def network(seed=0, outputs=4):
    torch.manual_seed(seed)
    return tiny_network((3, 8, 8), outputs).eval()


def trained(classifier, **facts):
    return TrainedClassifier(
        classifier.eval(),
        line="original, direct",
        class_names=DATA.class_names,
        groups=classifier.groups,
        counts=DATA.counts,
        images=20,
        image_shape=DATA.image_shape,
        normalisation=DATA.normalisation,
        facts=facts,
    )


def again(module):
    modules, tensors = taken_apart(module, find)
    return put_together([Entry.model_validate(entry) for entry in json.loads(json_text(modules))], tensors, find)


def same(module):
    """The module that comes back, which says the same, bit for bit."""
    found = again(module.eval())
    with torch.no_grad():
        assert torch.equal(found(IMAGES), module(IMAGES))
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    return found


class Everything(Storable):
    """Made of all that a storable module may be made of."""

    class Options(BaseOptions):
        power: float = 1.5

    def __init__(self, network, options, *more, scale, layers, table, names=None):
        super().__init__()
        self.network, self.options, self.more, self.names = network, options, more, names
        self.scale, self.layers, self.table = nn.Buffer(scale), nn.ModuleList(layers), table

    def forward(self, images):
        return self.table["factor"] * self.options.power * self.scale * self.layers[0](self.network(images))


def test_a_module_comes_back_with_all_that_it_was_made_of():
    made = Everything(
        network(),
        Everything.Options(power=0.1),
        *(1, (2, [3, None]), True, "text"),
        scale=torch.rand(4),
        layers=[nn.Linear(4, 4, bias=False), None],
        table={"factor": 2.0},
    )
    found = same(made)
    assert found.more == (1, (2, [3, None]), True, "text")
    assert found.options == Everything.Options(power=0.1)
    assert type(found.layers[0]) is nn.Linear
    assert found.layers[0].bias is None


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_network_comes_back_with_averages_of_batch_normalisation(norm):
    made = ResNet18((3, 8, 8), 4, ResNet18.Options()) if norm == "batch" else network()
    made.train()(IMAGES)
    same(made)


def test_a_layer_that_was_put_in_place_of_another_comes_back():
    for layer in (CosineLinear(made_features := network().linear.in_features, 4, 7.0), nn.Linear(made_features, 6)):
        made = network()
        made.linear = layer
        found = same(made)
        assert type(found.linear) is type(layer)
    made = network()
    assert [entry["class"] for entry in taken_apart(made, find)[0]] == ["ltdd_core.networks.zoo:ConvNet"]


def test_a_frozen_body_and_a_network_in_bf16_come_back_and_are_not_compiled():
    body = CompiledNetwork(network(), "bf16", compiled=True)
    found = again(FrozenBody(body, nn.Linear(body.linear.in_features, 4)))
    assert (found.body._precision, found.body._compiled) == ("bf16", False)
    assert found.body.linear is found.body.inner.linear
    same(FrozenBody(CompiledNetwork(network(), "bf16", compiled=False), nn.Linear(body.linear.in_features, 4)))


def test_what_is_shared_is_kept_once_and_is_one_object_again():
    shared = network()
    made = TwoStage(
        GROUPS,
        OfClasses(Softmax(shared), GROUPS),
        WithinGroups([Softmax(network(1, 2)), None], GROUPS),
        a=1.0,
        b=0.0,
        hard=False,
    )
    assert again(made).groups.tolist() == GROUPS.tolist()
    both = Averaged([Softmax(shared), Softmax(shared)])
    found = same(both)
    assert found.members[0].logits is found.members[1].logits
    tensors = taken_apart(both, find)[1]
    assert sum(tensor.numel() for tensor in tensors.values()) <= sum(p.numel() for p in shared.parameters())


def test_a_part_of_a_network_that_is_kept_before_it_is_no_trouble():
    made = network()
    same(Softmax(Reusing(made.linear, made)))


class Reusing(Storable):
    def __init__(self, linear, network):
        super().__init__()
        self.linear, self.network = linear, network

    def forward(self, images):
        return self.linear(self.network.embed(images)) + self.network(images)


def test_a_constructor_is_remembered_with_the_arguments_of_the_subclass():
    class Narrow(ConvNet):
        def __init__(self, width):
            super().__init__((3, 8, 8), 4, ConvNet.Options(width=width, depth=1))

    assert Narrow(4).made_of() == ((4,), {})


def test_making_a_module_again_draws_nothing():
    modules = taken_apart(network(), find)
    state = torch.random.get_rng_state()
    put_together([Entry.model_validate(entry) for entry in modules[0]], modules[1], find)
    assert torch.equal(torch.random.get_rng_state(), state)


class Bare(Classifier):
    """A classifier that does not call the constructor of its base, as those of earlier plugins do not."""

    def __init__(self, network):
        self.network = network

    def log_probabilities(self, images):
        return self.network(images).log_softmax(1)


def test_a_classifier_that_does_not_call_its_base_comes_back():
    same(Bare(network()))


class Holding(Storable):
    def __init__(self, value):
        super().__init__()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (len, "Holding was made of a function"),
        (float("nan"), "Holding was made of a float"),
        ({1, 2}, "Holding was made of a set"),
        ({1: 2}, "Holding was made of a dict"),
        (nn.Conv2d(1, 1, 1), "Conv2d is no ltdd_core.Storable"),
    ],
)
def test_what_cannot_be_kept_is_said(value, message):
    with pytest.raises(Unstorable, match=message):
        taken_apart(Holding(value), find)


def test_a_class_that_could_not_be_found_again_is_not_kept():
    class Local(Holding):
        pass

    with pytest.raises(Unstorable, match="Local could not be found again"):
        taken_apart(Local(1), find)
    with pytest.raises(Unstorable, match="it needs the package 'test_classifiers', which no installed plugin has"):
        taken_apart(Holding(1), class_finder(load_plugins()))


# ---- files -----------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "a.safetensors"
    save_classifier(found, trained(Averaged([Softmax(network()), Softmax(network(1))]), accuracy=70.5))
    return found


def test_a_file_holds_all_that_is_needed_to_use_a_classifier(path):
    found = load_classifier(path)
    assert (found.class_names, found.counts, found.image_shape) == (DATA.class_names, DATA.counts, (3, 8, 8))
    assert (found.line, found.groups, found.facts) == ("original, direct", None, {"accuracy": 70.5})
    expected = Averaged([Softmax(network()), Softmax(network(1))])(IMAGES)
    with torch.no_grad():
        assert torch.equal(found(IMAGES), expected)
    again = path.with_name("b.safetensors")
    save_classifier(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_raw_images_of_any_number_are_predicted(path):
    found = load_classifier(str(path))
    raw = DATA.test_images.repeat(300, 1, 1, 1)[: 2 * found.chunk() + 1]
    probabilities = found.predict(raw)
    assert probabilities.shape == (len(raw), 4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(raw)))
    with torch.no_grad():
        torch.testing.assert_close(probabilities[:20], found(IMAGES).exp())
    torch.testing.assert_close(found.predict(raw[:20] / 255), probabilities[:20])
    assert found.predict(raw[:0]).shape == (0, 4)
    for wrong, message in ((raw[:, :1], r"takes \[n, 3, 8, 8\]"), (raw.long(), "uint8, or floats")):
        with pytest.raises(InputError, match=message):
            found.predict(wrong)


def test_a_file_that_is_no_classifier_is_refused(path, tmp_path):
    tensors, facts = load_tensors(path)
    changes = [
        ({"format": "ltdd-distilled"}, "a safetensors file, but not a classifier of ltdd"),
        ({"format_version": 2}, "format version 2; this ltdd reads 1"),
        ({"line": "another"}, "damaged: it is not what was written"),
    ]
    for change, message in changes:
        save_tensors(path, tensors, {**facts, **change})
        with pytest.raises(InputError, match=message):
            load_classifier(path)
    name = next(name for name in tensors if tensors[name].numel())
    tensors[name].view(-1)[0] += 1
    save_tensors(path, tensors, facts)
    with pytest.raises(InputError, match="damaged"):
        load_classifier(path)
    with pytest.raises(InputError, match="there is no such file"):
        load_classifier(tmp_path / "none.safetensors")


def with_modules(path, change):
    """A file that somebody made who knows the format."""
    tensors, facts = load_tensors(path)
    about = {key: facts.pop(key) for key in ("format", "format_version", "digest")}
    facts = change(facts)
    save_tensors(path, tensors, {**about, **facts, "digest": _digest(tensors, facts)})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("subprocess:Popen", "it needs the package 'subprocess', which no installed plugin has"),
        ("os:system", "needs the package 'os'"),
        ("elsewhere.networks:Net", "it needs the package 'elsewhere', which no installed plugin has"),
        ("ltdd_core.networks.zoo:Sequence", "no class of a classifier"),
        ("ltdd_core.networks.zoo:nn.Conv2d", "no class of a classifier"),
        ("ltdd_core.networks.zoo:ConvNet.Options", "no class of a classifier"),
        ("ltdd_core.networks.zoo:Missing", "cannot be imported"),
        ("ltdd_core.no_module:ConvNet", "cannot be imported"),
        ("ltdd_core", "no class of a classifier|cannot be imported"),
        (LINEAR, "cannot be made again"),
    ],
)
def test_only_classes_of_classifiers_are_imported(path, kind, message):
    def change(facts):
        facts["modules"][0]["class"] = kind
        return facts

    with_modules(path, change)
    with pytest.raises(InputError, match=message) as error:
        load_classifier(path)
    assert "\n" not in str(error.value)


def test_a_blocked_plugin_is_named(path, monkeypatch):
    monkeypatch.setenv("LTDD_BLOCK_PLUGINS", "ensemble")
    with pytest.raises(InputError, match=r"it needs plugin 'ensemble' .*, which is blocked"):
        load_classifier(path)


def test_a_file_of_somebody_who_knows_the_format_is_read_or_refused_in_one_line(path):
    content = path.read_bytes()

    @given(st.data())
    @settings(max_examples=150, deadline=None, derandomize=True)
    def try_one(data):
        path.write_bytes(content)
        try:
            with_modules(path, lambda facts: json.loads(with_odd_value(data.draw, facts)))
        except (ValueError, RecursionError, AttributeError, TypeError):
            return  # no JSON that could be in a file
        said = ""
        try:
            load_classifier(path)
        except InputError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 10_000

    try_one()


# ---- runs ------------------------------------------------------------------------------------------

LINES = ["original, direct", "original, balanced softmax", "distilled, direct", "two-stage, original + distilled"]
FILES = ["distilled-direct", "original-balanced-softmax", "original-direct", "two-stage-original-distilled"]
TWICE = ("--network", "convnet-d3", "--network", "mlp", "--repeats", "2")


def names_in(folder):
    return sorted(path.name.removesuffix(".safetensors") for path in Path(folder).iterdir())


def test_a_run_keeps_the_classifier_of_each_line(finished):
    assert names_in(finished / "classifiers") == FILES
    data = ltdd_core.load_data("digits-lt")
    rows = {row["name"]: row for row in json.loads((finished / "report.json").read_text())["rows"]}
    for line in LINES:
        found = load_classifier(finished, line)
        right = found.predict(data.test_images).argmax(1) == data.test_labels
        assert (found.line, float(right.double().mean() * 100)) == (line, rows[line]["accuracy"])
        assert found.facts["row"]["per_class"] == rows[line]["per_class"]
        assert found.facts["versions"]["ltdd"]
    assert load_classifier(finished).line == LINES[-1]
    assert load_classifier(finished).groups.shape == (10,)
    assert load_classifier(finished, "original-direct").line == LINES[0]


def test_a_run_of_which_no_classifier_is_kept_says_how_to_get_one(ltdd):
    assert ltdd("distill", "--method", "dm", *TINY, "--out", "run", "--no-keep", "--quiet").exit_code == 0
    assert not Path("run/classifiers").exists()
    with pytest.raises(
        InputError, match=r"made with compute={\"keep\": False}, .* evaluate\('run', out=FOLDER\) makes one"
    ):
        load_classifier("run")
    result = ltdd("distill", "--out", "run", "--resume", "--set", "compute.keep=true")
    assert result.exit_code == 0, result.output
    assert "training a network" not in result.stderr
    assert not Path("run/classifiers").exists()
    assert ltdd("evaluate", "run", "--out", "one").exit_code == 0
    assert load_classifier("one").line == "distilled, direct"
    assert ltdd("evaluate", "run", "--out", "none", "--no-keep").exit_code == 0
    assert not Path("none/classifiers").exists()


def test_an_evaluation_keeps_its_classifiers_in_a_folder_of_its_own(finished, ltdd):
    shutil.copytree(finished, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*.*") if "networks" not in path.parts}
    assert "run holds a run already" in one_line_error(ltdd("evaluate", "run", "--head", "linear", "--out", "run"))
    assert ltdd("evaluate", "run", "--head", "linear", *TWICE, "--out", "more/kept").exit_code == 0
    kept = names_in("more/kept/classifiers")
    assert kept == [f"distilled-direct-{name}-seed-{seed}" for name in ("convnet-d3", "mlp") for seed in (0, 1)]
    with pytest.raises(InputError, match="name another one: distilled-direct-convnet-d3-seed-0, "):
        load_classifier("more/kept")
    with pytest.raises(InputError, match="has several classifiers; name one: distilled-direct-convnet-d3-seed-0, "):
        load_classifier("more/kept/classifiers")
    with pytest.raises(InputError, match=r"no classifier of a line 'mlp'; there are: distilled-direct-conv"):
        load_classifier("more/kept", "mlp")
    assert load_classifier("more/kept", kept[3]).facts["seed"] == 1
    assert load_classifier("more/kept/classifiers/" + kept[3] + ".safetensors").facts["network"]["name"] == "mlp"
    result = ltdd("evaluate", "run")
    assert "the result is in runs/digits-lt-evaluated-twostage-seed0-1\n" in result.stderr
    assert names_in("runs/digits-lt-evaluated-twostage-seed0-1/classifiers") == [FILES[-1]]
    assert {path: path.read_bytes() for path in before} == before


def test_training_alone_keeps_its_classifiers(ltdd):
    small = TINY[4:8] + TINY[8:10]
    assert ltdd("train", *small, "--out", "one").exit_code == 0
    assert load_classifier("one").line == "original, direct"
    assert ltdd("train", *small, "--out", "none", "--no-keep").exit_code == 0
    assert not Path("none/classifiers").exists()
    with pytest.raises(InputError, match=r"no classifier in this folder. .*: ltdd train makes one"):
        load_classifier("none")
    with pytest.raises(InputError, match=r"there is no classifier in this folder\.$"):
        load_classifier(".")


CLOSED = """
    from ltdd_core import ClassifierHead, Softmax, hookimpl

    class ClosedHead(ClassifierHead):
        title = "closed"

        def fit(self, sets, trainer):
            network = trainer.train(sets[0], outputs=sets[0].classes)
            return Softmax(lambda images: 2 * network(images))

    @hookimpl
    def ltdd_register_heads(register):
        register("closed", ClosedHead)
"""


def test_a_classifier_that_cannot_be_kept_is_named_and_the_run_goes_on(ltdd, site):
    site.install("closed", CLOSED)
    result = ltdd("distill", "--method", "dm", "--head", "closed", *TINY, "--out", "run")
    assert result.exit_code == 0, result.output
    assert (
        "the classifier 'distilled, closed' is not kept in a file: Softmax was made of a function.\n" in result.stderr
    )
    assert not list(Path("run/classifiers").iterdir())


def test_what_a_killed_process_left_is_removed(finished, ltdd):
    shutil.copytree(finished, "run")
    left = Path("run/classifiers/.original-direct.safetensors.0123.tmp")
    left.write_bytes(b"half")
    assert ltdd("distill", "--out", "run", "--resume", "--quiet").exit_code == 0
    assert not left.exists()


def test_a_loaded_classifier_needs_neither_the_run_nor_its_data(finished, tmp_path):
    """In a process of its own, from a file that was taken elsewhere."""
    shutil.copy(finished / "classifiers" / f"{FILES[-1]}.safetensors", tmp_path / "mine.safetensors")
    program = (
        "import torch, ltdd_core\n"
        "classifier = ltdd_core.load_classifier('mine.safetensors', device=torch.device('cpu'))\n"
        "print(classifier.predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).sum(1).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx([1, 1])


def test_a_classifier_of_whitened_images_whitens_them(ltdd):
    assert ltdd("train", *TINY[4:], "--set", "data.normalisation=zca", "--out", "run").exit_code == 0
    (row,) = json.loads(Path("run/report.json").read_text())["rows"]
    data = ltdd_core.load_data("digits-lt")
    right = load_classifier("run").predict(data.test_images).argmax(1) == data.test_labels
    assert float(right.double().mean() * 100) == row["accuracy"]
