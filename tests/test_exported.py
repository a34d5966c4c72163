"""Trained classifiers in other tools' formats: they say what the classifier says, and their model card is true."""

import importlib.util
import json
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from torch import nn

import ltdd_core.evaluation.export
from ltdd_core import (
    ZCA,
    Classifier,
    CompiledNetwork,
    CosineLinear,
    InputError,
    Softmax,
    TrainedClassifier,
    export,
    load_classifier,
    make_network,
)
from ltdd_core.evaluation.card import model_card
from ltdd_core.evaluation.export import config_of, program_of
from ltdd_core.evaluation.stored import save_classifier
from ltdd_core.testing import tiny_long_tailed, tiny_network
from ltdd_core.training.trainer import FrozenBody
from ltdd_ensemble.head import Averaged
from ltdd_twostage.stages import OfClasses, OfGroups, TwoStage, WithinGroups

DATA = tiny_long_tailed()
IMAGES = DATA.test_images.float() / 255
TINY_NETWORK = {"name": "convnet-d3", "depth": 1, "width": 4}
KINDS = ("torch", "onnx", "state-dict")


def network(seed=0, outputs=4, shape=(3, 8, 8), **named):
    torch.manual_seed(seed)
    return make_network(image_shape=shape, outputs=outputs, **named) if named else tiny_network(shape, outputs).eval()


def trained(classifier, of=DATA, **facts):
    return TrainedClassifier(
        classifier,
        line="original, direct",
        class_names=facts.pop("class_names", of.class_names),
        groups=classifier.groups,
        counts=facts.pop("counts", of.counts),
        images=20,
        image_shape=of.image_shape,
        normalisation=facts.pop("normalisation", of.normalisation),
        facts={"network": TINY_NETWORK, **facts},
    ).eval()


def two_stage(groups=(0, 1, 0, 2), *, hard, whole=False):
    groups = torch.tensor(groups)
    first = OfClasses(Softmax(network()), groups) if whole else OfGroups(Softmax(network(1, 3)))
    within = [Softmax(network(2, 2)), None, None]
    second = OfClasses(Softmax(network(3)), groups) if whole else WithinGroups(within, groups)
    return TwoStage(groups, first, second, a=1.0, b=0.5 if whole else 0.0, hard=hard)


def whitened(classifier, **facts):
    return trained(classifier, normalisation=ZCA.of(DATA.train_images, 0.1), **facts)


def agrees(graph, classifier, images):
    for number in (1, len(images)):
        torch.testing.assert_close(
            graph(images[:number]), classifier.predict(images[:number]), atol=1e-4, rtol=0, check_stride=False
        )


# ---- graphs ----------------------------------------------------------------------------------------

NORMS = ("instance", "batch", "layer", "group", "none")


@pytest.mark.parametrize(
    "named",
    [
        *({**TINY_NETWORK, "norm": norm} for norm in NORMS),
        {**TINY_NETWORK, "pooling": "max", "activation": "leaky-relu"},
        {"name": "resnet18"},
        {"name": "vgg11"},
        {"name": "alexnet"},
        {"name": "mlp"},
    ],
    ids=lambda named: "-".join(map(str, named.values())),
)
def test_every_network_becomes_a_graph_for_any_number_of_images(named):
    data = tiny_long_tailed(shape=(3, 16, 16))
    classifier = trained(Softmax(network(shape=(3, 16, 16), **named)), data)
    agrees(program_of(classifier).module(), classifier, data.test_images.float() / 255)


def test_whitening_is_part_of_a_graph():
    classifier = whitened(Softmax(network()))
    plain = trained(classifier.classifier)
    agrees(program_of(classifier).module(), classifier, IMAGES)
    assert (classifier.predict(IMAGES) - plain.predict(IMAGES)).abs().max() > 1e-3


def test_a_network_in_bf16_becomes_a_graph_in_fp32():
    inner = network()
    graph = program_of(trained(Softmax(CompiledNetwork(inner, "bf16", compiled=False)))).module()
    agrees(graph, trained(Softmax(inner)), IMAGES)


class Branching(Classifier):
    """Looks at what a tensor holds."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def log_probabilities(self, images):
        return self.network(images if images.mean() > 0 else -images).log_softmax(1)


def test_a_classifier_of_which_there_is_no_graph_is_named_with_a_way_out():
    with pytest.raises(InputError, match=r"no graph of the classifier 'original, direct': use kind=\"state-dict\""):
        program_of(trained(Branching(network())))


# ---- files -----------------------------------------------------------------------------------------


def kept(folder, classifier):
    (folder / "classifiers").mkdir(parents=True, exist_ok=True)
    find = ltdd_core.evaluation.stored.class_finder(ltdd_core.evaluation.stored.load_plugins(), "test_exported")
    save_classifier(folder / "classifiers" / "original-direct.safetensors", classifier, find)
    return folder


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def session_of(path):
    session = onnxruntime.InferenceSession(path)
    return session, lambda images: torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])


def test_hard_routing_of_stages_of_all_classes_becomes_a_graph():
    classifier = trained(two_stage(hard=True, whole=True))
    agrees(program_of(classifier).module(), classifier, IMAGES)


def test_hard_routing_and_whitening_become_onnx(tmp_path):
    classifier = whitened(two_stage(hard=True))
    target = export(kept(tmp_path / "run", classifier), "onnx")
    session, answers = session_of(target / "classifier.onnx")
    agrees(answers, classifier, IMAGES)
    assert (answers(IMAGES) == 0).any()
    onnx.checker.check_model(target / "classifier.onnx", full_check=True)
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["batch", 3, 8, 8])
    assert (probabilities.name, probabilities.shape[1:]) == ("probabilities", [4])
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(DATA.class_names)


def cosine(scale=7.0):
    made = network()
    made.linear = CosineLinear(made.linear.in_features, 4, scale)
    return made


def retrained():
    torch.manual_seed(5)
    body = CompiledNetwork(network(), "fp32", compiled=False)
    return FrozenBody(body, nn.Linear(body.linear.in_features, 4))


def run_snippet(target, images, monkeypatch):
    """The Python of a model card, where its files are, on these images in the place of random ones."""
    monkeypatch.chdir(target)
    (code,) = (part.split("```")[0] for part in Path("model-card.md").read_text().split("```python\n")[1:])
    names, given = {"given": images}, "numpy()" if "numpy" in code else "clone()"
    replaced = "\n".join(
        f"images = given.{given}" if line.startswith("images = ") else line for line in code.splitlines()
    )
    exec(replaced, names)
    return names


@pytest.mark.parametrize(
    ("made", "more"),
    [
        (network, {}),
        (cosine, {}),
        (retrained, {}),
        (lambda: CompiledNetwork(network(), "fp32", compiled=False), {}),
        (network, {"normalisation": ZCA.of(DATA.train_images, 0.1)}),
    ],
    ids=["plain", "cosine", "retrained", "compiled", "whitened"],
)
def test_one_network_is_made_again_from_its_config_by_public_names(made, more, tmp_path, monkeypatch):
    classifier = trained(Softmax(made()), **more)
    target = export(kept(tmp_path / "run", classifier), "state-dict")
    config = json.loads((target / "config.json").read_text())
    assert config["architecture"] == "convnet-d3"
    assert (config["num_classes"], config["label_names"]) == (4, list(DATA.class_names))
    assert config["pretrained_cfg"]["input_size"] == [3, 8, 8]
    assert set(load_file(target / "model.safetensors")) >= {"features.0.weight", "linear.weight"}
    assert ("normalisation.safetensors" in files(target)) == bool(more)
    found = run_snippet(target, IMAGES, monkeypatch)
    torch.testing.assert_close(found["probabilities"], classifier.predict(IMAGES), atol=1e-5, rtol=0)
    labels = classifier.predict(IMAGES).argmax(1).tolist()
    assert found["names"] == [DATA.class_names[label] for label in labels]


def test_several_networks_have_prefixes_and_each_is_made_again(tmp_path, monkeypatch):
    members = [network(seed) for seed in (0, 1)]
    compiled = CompiledNetwork(members[1], "fp32", compiled=False)
    target = export(kept(tmp_path / "run", trained(Averaged([Softmax(members[0]), Softmax(compiled)]))), "state-dict")
    weights, config = load_file(target / "model.safetensors"), json.loads((target / "config.json").read_text())
    prefixes = [part["prefix"] for part in config["ltdd"]["networks"]]
    assert prefixes == ["members.0.logits.", "members.1.logits."]
    for prefix, member in zip(prefixes, members, strict=True):
        again = network(9)
        own = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
        again.load_state_dict(own)
        assert torch.equal(again(IMAGES), member(IMAGES))
    run_snippet(target, None, monkeypatch)
    assert "more than one network" in (target / "model-card.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_exported_and_the_code_of_its_card_works(kind, finished, ltdd, tmp_path, monkeypatch):
    line = "original, direct" if kind == "state-dict" else "two-stage, original + distilled"
    named = ("--line", line) if kind == "state-dict" else ()
    result = ltdd("export", finished, "--format", kind, "--out", tmp_path / "out", *named)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tmp_path / 'out'}\n", "")
    classifier = load_classifier(finished, line)
    images = torch.rand(5, *classifier.image_shape)
    found = run_snippet(tmp_path / "out", images, monkeypatch)
    expected = classifier.predict(images)
    torch.testing.assert_close(torch.as_tensor(found["probabilities"]), expected, atol=1e-4, rtol=0)
    assert found["names"] == [classifier.class_names[label] for label in expected.argmax(1)]
    card = (tmp_path / "out" / "model-card.md").read_text()
    row = classifier.facts["row"]
    assert card.startswith(f"# digits-lt: {line}\n")
    assert f"| accuracy over all test images | {row['accuracy']:.1f} |" in card
    assert f"| 9 | 2 | 50 | {row['per_class'][9]:.1f} |" in card
    assert "No: nothing was fitted" in card
    assert ("with the method\n`dm`: 20 images" in card) == (kind != "state-dict")


def test_the_folder_of_a_training_and_the_file_of_a_classifier_are_exported(ltdd):
    assert ltdd("train", *TINY[4:], "--head", "cosine", "--out", "a").exit_code == 0
    for where in ("a", "a/classifiers/original-cosine.safetensors"):
        result = ltdd("export", where, "--format", "state-dict")
        assert (result.exit_code, result.stdout) == (0, "a/export-state-dict\n")
        shutil.rmtree("a/export-state-dict")
    message = one_line_error(ltdd("export", "a", "--format", "npz"))
    assert "a has classifiers and no distilled set, which --format npz is for: write a classifier" in message


def test_a_wrong_export_of_a_classifier_gets_one_line_and_writes_nothing(finished, ltdd, monkeypatch):
    shutil.copytree(finished, "run")
    shutil.copytree(finished, "old", ignore=shutil.ignore_patterns("classifiers"))
    Path("there").mkdir()
    Path("there/mine").touch()
    for arguments, message in (
        (("run", "--format", "onnx", "--line", "nope"), "run has no classifier of a line 'nope'; there are: "),
        (("run", "--format", "npz", "--line", "x"), "--format npz writes the distilled set: leave --line out"),
        (("run", "--format", "torch", "--out", "there"), "there is there already: remove it"),
        (("run", "--format", "state-dict", "--out", "/proc/none/a"), "cannot write /proc/none"),
        (("run/distilled.safetensors", "--format", "torch"), "is a distilled set, and --format torch is for a class"),
        (("run/classifiers/original-direct.safetensors", "--format", "folder"), "which --format folder is for"),
        (("old", "--format", "torch"), "ltdd evaluate old --out FOLDER makes one"),
        (("none", "--format", "torch"), "none: there is no such file"),
        (("run", "--format", "onxx"), "Did you mean 'onnx'?"),
    ):
        assert message in one_line_error(ltdd("export", *arguments))
    monkeypatch.setattr(ltdd_core.evaluation.export, "find_spec", lambda name: None)
    message = one_line_error(ltdd("export", "run", "--format", "onnx"))
    assert message == "Error: onnx is not installed: pip install 'ltdd[onnx]'."
    assert files(Path("run")) == files(finished)
    assert files(Path("there")) == ["mine"]


def test_a_classifier_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    run = kept(tmp_path / "run", trained(Softmax(network())))

    def fails(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ltdd_core.evaluation.export, "model_card", fails)
    with pytest.raises(InputError, match="No space left on device"):
        export(run, "state-dict")
    assert files(run) == ["classifiers"]


# ---- model cards -----------------------------------------------------------------------------------


def card_of(kind="torch", classifier=None, **facts):
    found = trained(classifier or Softmax(network()), **facts)
    return model_card(found, kind, config_of(found))


def row(*per_class, **more):
    known = [accuracy for accuracy in per_class if accuracy is not None]
    names = ("std", "many", "medium", "few", "head", "middle", "tail", "group_accuracy")
    return {
        **dict.fromkeys(names),
        "accuracy": sum(known) / len(known),
        "worst": min(known),
        "calibration_error": 7.25,
        "per_class": list(per_class),
        **more,
    }


def test_a_card_does_not_say_where_a_file_of_weights_lay():
    card = card_of(network={**TINY_NETWORK, "weights": "/home/me/w.pt"})
    assert "| network | convnet-d3 (depth 1, width 4) |" in card
    assert "w.pt" not in card


def test_a_card_says_what_is_weak():
    facts = {"row": row(100.0, 50.0, 0.0, None, few=25.0), "data": {"name": "birds", "test_counts": [5, 5, 4, 0]}}
    card = card_of(**facts)
    assert "# birds: original, direct\n" in card
    assert "the most frequent class has 12 training images,\nthe rarest 1. Of" in card
    assert "Of 14 test images it classifies 50.0 % correctly." in card
    assert "not balanced: 0 to 5 of a class" in card
    assert "| classes with fewer than 20 training images, mean | 25.0 |" in card
    assert "over 100 training images" not in card
    assert "| class 3 | 1 | 0 | - |" in card
    assert "It recognised no test image of these classes: class 2." in card
    assert "there was no test image: class 3." in card
    assert "apart (expected\ncalibration error" in card
    assert "7.2 percentage points" in card


def test_a_card_of_a_classifier_about_which_little_is_known_says_so():
    card = card_of(network=None, versions={"data birds": "stranger 1.5", "torch": "2.14"}, sets=["distilled"])
    assert "| trained on | the distilled set; 20 images in all |" in card
    assert "The *distilled* set is a small one that was made from it.\n" in card
    assert card.endswith("|\n")
    assert card.startswith("# birds: original, direct\n")
    assert "| network | unknown |" in card
    assert "Nobody has written down how good it is." in card
    assert "| class 0 | 12 |\n" in card
    assert "test images" not in card.split("## Limits")[0]
    assert "| components of its run from stranger 1.5 | data birds |" in card


@pytest.mark.parametrize("hard", [False, True])
def test_a_graph_gives_calibrated_probabilities(hard):
    classifier = trained(two_stage(hard=hard))
    plain = classifier.predict(IMAGES)
    classifier.temperature = 2.5
    assert (classifier.predict(IMAGES) - plain).abs().max() > 0.01
    agrees(program_of(classifier).module(), classifier, IMAGES)


def test_a_file_of_pretrained_weights_is_not_asked_for_again():
    config = config_of(trained(Softmax(network()), network={**TINY_NETWORK, "weights": "elsewhere.safetensors"}))
    assert "elsewhere" not in json.dumps(config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_is_on_the_card_and_in_the_code_for_weights(kind):
    known = {"temperature": 1.2345, "images": 30, "ece_before": 12.0, "ece_after": 3.0}
    card = card_of(kind, calibration=known, row=row(90.0, 90.0, 90.0, 90.0))
    assert "A temperature was fitted on 30 validation images: 1.234." in card
    assert "were 12.0 percentage points apart before, and\nare 3.0 apart with it" in card
    assert "No: nothing was fitted" not in card
    assert ("have it already" in card) == (kind != "state-dict")
    assert ('["calibration"]["temperature"]).softmax(1)' in card) == (kind == "state-dict")
    assert "A temperature was fitted. " in card_of(kind, calibration={"something": 1})


@given(st.lists(st.text(min_size=1, max_size=12), min_size=4, max_size=4, unique=True))
@settings(max_examples=60, deadline=None)
def test_no_name_of_a_class_breaks_the_table_of_a_card(names):
    card = card_of(class_names=names, row=row(0.0, 0.0, 0.0, 0.0))
    card.encode()
    table = card[card.index("| class | training images |") :].split("\n\n")[0].split("\n")
    assert len(table) == 2 + 4
    for line, count in zip(table[2:], DATA.counts, strict=True):
        assert line.endswith(f" | {count} | 0.0 |")
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 4
        assert "<" not in line.replace("\\\\", "").replace("\\<", "")


def test_of_many_classes_a_sentence_names_some():
    names = [f"n{number:03}" for number in range(300)]
    card = card_of(classifier=Softmax(network(outputs=300)), class_names=names, counts=[2] * 300)
    assert "Classes with fewer than 20 training images: n000, n001," in card
    assert "n019 and 280 more." in card
    assert card.count("n299") == 1


# ---- networks by name ------------------------------------------------------------------------------


def test_a_network_is_made_by_its_name():
    torch.manual_seed(0)
    found = make_network("convnet-d3", (1, 8, 8), 3, depth=2, width=5, norm="none")
    assert found(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert not found.training
    for wrong, message in (({"name": "convnet"}, "unknown network 'convnet'. Did you mean 'convnet-d3'"),
                           ({"name": "mlp", "depht": 2}, "depht")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            make_network(wrong.pop("name"), (1, 8, 8), 3, **wrong)


def test_the_packages_of_onnx_are_in_the_extra():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert all(f'"{name}>=' in text for name in ltdd_core.evaluation.export.ONNX_PACKAGES)
    assert all(importlib.util.find_spec(name) for name in ltdd_core.evaluation.export.ONNX_PACKAGES)
