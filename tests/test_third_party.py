"""Packages of strangers, as pip installs them: they work with everything, and ltdd does not know them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from PIL import Image
from torch.nn import functional as F

from ltdd_core import LayerStatistics, load_data, load_distilled
from ltdd_core.plugging.catalog import installed
from ltdd_core.testing import check_head, check_labeller, check_matcher, check_network, check_sampler, tiny_network

ROOT = Path(__file__).parent.parent
PACKAGES = Path(__file__).parent / "third_party"
METHODS = ("crop-selection", "four-tiles", "network-queue", "sorted-windows", "statistics-recovery")
WAYS = {
    **{method: ("--method", method, *TINY) for method in METHODS},
    "two-heads": ("--method", "dm", "--labeller", "two-heads", *TINY),
    "timm-network": ("--method", "dm", "--network", "timm-network:test_resnet", *TINY[:4], *TINY[8:]),
}
"""What runs a package, by its name; the network of a stranger has neither width nor depth."""
COMPONENTS = ("--method", "--labeller", "--network")


def ways(*quick):
    """All of them, of which these are tried every time."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in WAYS]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All packages with the metadata of their own pyproject.toml, in a folder."""
    folder = tmp_path_factory.mktemp("strangers")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    packages = sorted(path.parent for path in PACKAGES.glob("*/pyproject.toml"))
    result = subprocess.run([*command, "--target", folder, *packages], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def strangers(built, tmp_path, monkeypatch):
    """They are on the path, and the networks that they train are kept in an empty folder."""
    monkeypatch.syspath_prepend(str(built))
    monkeypatch.setenv("PYTHONPATH", str(built))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "check"),
    [
        *(("matcher", name, check_matcher) for name in ("layer-means", *METHODS)),
        ("sampler", "reversed", check_sampler),
        ("head", "smoothed", check_head),
        ("labeller", "two-heads", check_labeller),
        ("network", "timm-network", check_network),
    ],
)
def test_they_keep_their_contracts(strangers, kind, name, check):
    check(installed().get(kind, name).load())


def test_the_matcher_is_its_equation(strangers):
    entry = installed().get("matcher", "layer-means")
    matcher = entry.load()
    network = tiny_network((3, 8, 8), 2)
    real, synthetic = torch.randn(5, 3, 8, 8), torch.randn(2, 3, 8, 8)
    convolution = network.features[0]
    maps = (convolution(real).mean(0) - convolution(synthetic).mean(0)).square().sum()
    features = (network.embed(real).mean(0) - network.embed(synthetic).mean(0)).square().sum()
    loss = matcher(matcher.Options(weight=0.25)).class_loss(network, real, synthetic)
    torch.testing.assert_close(loss, features + 0.25 * maps)


def test_balanced_statistics_are_those_of_a_set_with_equal_classes(strangers):
    from statistics_recovery import balanced

    classes = torch.randn(4, 50, 3) * torch.rand(4, 1, 3) + torch.randn(4, 1, 3)  # [class, value, channel]
    mean, var = balanced(LayerStatistics(classes.mean(1), classes.var(1, correction=0)))
    torch.testing.assert_close(mean, classes.flatten(0, 1).mean(0))
    torch.testing.assert_close(var, classes.flatten(0, 1).var(0, correction=0))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_each_tile_is_a_quarter_at_full_size(strangers, height, width):
    entry = installed().get("matcher", "four-tiles").load()
    images = torch.randn(2, 3, height, width)
    seen = entry(entry.Options()).decode(images)
    assert seen.shape == (2, 4, 3, height, width)
    last = images[:, :, (height + 1) // 2 :, (width + 1) // 2 :]
    torch.testing.assert_close(seen[:, 3], F.interpolate(last, (height, width), mode="bilinear"))


def test_they_run_with_two_stages_and_in_a_grid(strangers, ltdd, tmp_path):
    command = ["distill", "--method", "layer-means", "--sampler", "reversed", "--plugin", "twostage", *TINY, "--json"]
    result = ltdd(*command)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["name"] for row in document["rows"]][-1] == "two-stage, original + distilled"
    versions = json.loads((Path(document["run"]) / "run.json").read_text())["sessions"][0]["versions"]
    assert versions["matcher layer-means"] == "layer-means 1.0"
    grid = ltdd("bench", PACKAGES / "grid.yaml", "--out", tmp_path / "grid")
    assert grid.exit_code == 0, grid.output
    table = (tmp_path / "grid" / "table.csv").read_text()
    for line in ("original, smoothed", "layer-means, smoothed", "original (smoothed) + layer-means, two stages"):
        assert line in table


@pytest.fixture
def pictures(strangers, ltdd):
    """A few images of the test part as files, in the folder ``pictures``, each in the folder of its class."""
    data = load_data("digits-lt")
    for label in (0, 4, 9):
        place = Path("pictures", data.class_names[label], "some.png")
        place.parent.mkdir(parents=True)
        image = data.test_images[data.test_labels == label][0, 0]
        Image.fromarray(image.numpy()).save(place)


@pytest.mark.parametrize("name", ways("four-tiles", "timm-network", "two-heads"))
def test_a_package_goes_all_the_way(strangers, ltdd, pictures, name):
    network = "timm-network:test_resnet" if name == "timm-network" else "mlp"
    whole = ltdd("distill", *WAYS[name], "--plugin", "twostage", "--out", "whole", "--json")
    assert whole.exit_code == 0, whole.output
    rows = [row["name"] for row in json.loads(whole.stdout)["rows"]]
    assert rows[-1] == "two-stage, original + distilled"
    for command in (
        ("evaluate", "whole", "--network", network),
        ("report", "whole"),
        ("export", "whole", "--format", "npz"),
        ("export", "whole", "--format", "folder"),
    ):
        result = ltdd(*command)
        assert result.exit_code == 0, f"{command}\n{result.output}"
    assert Path("report-whole.html").exists()
    answered = ltdd("predict", "whole", "pictures", "--truth", "folder", "--json")
    assert answered.exit_code == 0, answered.output
    assert len(json.loads(answered.stdout)["images"]) == 3
    words = iter(WAYS[name])
    chosen = {word[2:]: value for word, value in zip(words, words, strict=True) if word in COMPONENTS}
    entry = json.dumps({**chosen, "label": name})
    Path("grid.yaml").write_text(f"data: [digits-lt]\nipc: [2]\nseeds: [0]\nmethods: [{entry}]\n")
    short = WAYS[name][2 * len(chosen) + 4 :]
    grid = ltdd("bench", "grid.yaml", "--out", "grid", "--set", "iterations=2", *short)
    assert grid.exit_code == 0, grid.output
    assert name in Path("grid/table.csv").read_text()


@pytest.mark.parametrize("name", ways("crop-selection", "network-queue", "statistics-recovery"))
def test_an_interrupted_run_resumes_to_the_same_bytes(strangers, ltdd, monkeypatch, name):
    """Ctrl-C after the second step; for a method without steps, while its teacher is trained."""
    monkeypatch.setattr("ltdd_core.runs.checkpoint.LARGE", 10_000)  # bytes: the queue has files of its own
    command = ["distill", *WAYS[name], "--threads", "1", "--out"]
    assert ltdd(*command, "whole").exit_code == 0
    shutil.rmtree("runs", ignore_errors=True)  # the teachers and experts, which the next run would find

    def alarm(display, step, *metrics):
        if step == 1 or name == "crop-selection":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as alarmed:
        moment = "training" if name == "crop-selection" else "step"
        alarmed.setattr(f"ltdd_core.cli.live.LiveDisplay.{moment}", alarm)
        cut = ltdd(*command, "cut")
    assert "SIGINT" in cut.stderr, cut.output
    assert not Path("cut/distilled.safetensors").exists()
    assert Path("cut/state").exists() or name != "network-queue"
    resumed = ltdd(*command, "cut", *(["--resume"] if Path("cut").exists() else []))
    assert resumed.exit_code == 0, resumed.output
    for file in ("distilled.safetensors", "predictions.safetensors"):
        assert Path("whole", file).read_bytes() == Path("cut", file).read_bytes(), file


def test_the_soft_labels_and_recipes_of_methods_are_stored_with_their_sets(strangers, ltdd):
    for method in ("crop-selection", "statistics-recovery", "sorted-windows"):
        assert ltdd("distill", "--method", method, *TINY, "--quiet", "--out", method).exit_code == 0
        assert load_distilled(method).soft_labels.kind == "logits"
    assert load_distilled("crop-selection").recipe == {"soft_loss": "kl", "temperature": 4.0}
    recipe = load_distilled("statistics-recovery").recipe
    assert {key: recipe[key] for key in ("optimizer", "soft_loss", "hard_weight")} == {
        "optimizer": "adamw",
        "soft_loss": "mse",
        "hard_weight": 0.025,
    }


@pytest.mark.parametrize(
    ("method", "labeller", "per"),
    [
        ("statistics-recovery", "teacher", "view"),
        ("four-tiles", "two-heads", "image"),
        ("dm", "two-heads", "view"),
    ],
)
def test_methods_and_labellers_go_together(strangers, ltdd, method, labeller, per):
    words = ["distill", "--method", method, "--labeller", labeller, "--set", f"labeller.per={per}"]
    done = ltdd(*words, *TINY, "--out", "run", "--json")
    assert done.exit_code == 0, done.output
    labels = json.loads(done.stdout)["labels"]
    assert (labels["teacher_bytes"] > 0) == (per == "view")
    assert (load_distilled("run").soft_labels is None) == (per == "view")
    again = ltdd("evaluate", "run", "--network", "mlp")
    assert again.exit_code == 0, again.output


def test_the_house_holds_no_word_about_them():
    names = "|".join(path.parent.name.replace("-", "[-_]") for path in PACKAGES.glob("*/pyproject.toml"))
    words = re.compile(names)
    for folder in ("ltdd_core", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            found = words.search(path.read_text())
            assert found is None, path
