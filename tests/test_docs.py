"""README and docs are true: their snippets run, their links lead somewhere, every hook is documented."""

import json
import re
import shlex
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

import ltdd_core
from ltdd_core import configure
from ltdd_core.cli import cli
from ltdd_core.plugins import load_plugins
from ltdd_core.testing import check_head, check_matcher

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
NARROW = ["--set", "network.width=4"]
TRAINED = [*NARROW, "--set", "training.original.epochs=1", "--set", "training.distilled.epochs=1"]
SHORT = {"distill": ["--iterations", "2", *TRAINED], "train": TRAINED, "experts": NARROW}
SHORT_PYTHON = "training={'original': {'epochs': 1}, 'distilled': {'epochs': 1}}, network={'width': 4}, iterations=2"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def image_folder(root, counts, side):
    draws = np.random.default_rng(0)
    for part, sizes in (("train", counts), ("test", [2] * len(counts))):
        for name, size in zip(CIFAR10, sizes, strict=False):
            (root / part / name).mkdir(parents=True)
            for index in range(size):
                pixels = draws.integers(0, 255, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.bmp")


def run_commands(text):
    for line in text.splitlines():
        words = shlex.split(line)
        if not words or words[0] != "ltdd":
            assert words == ["pip", "install", "-e", "."], f"not a command of ours: {line}"
            continue
        short = [] if "--resume" in words else SHORT.get(words[1], [])
        result = CliRunner().invoke(cli, [*words[1:], *short])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_readme_works_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "my_images", [12, 5, 1], side=20)
    image_folder(tmp_path / "cifar10", [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10], side=8)
    plain, own_method, from_python = blocks(TOP / "README.md", "python")
    for commands in blocks(TOP / "README.md", "sh"):
        run_commands(commands)

    plugin = types.ModuleType("your_module")
    exec(own_method, vars(plugin))
    plugins = load_plugins()
    plugins.manager.register(plugin, name="mean")
    check_matcher(plugin.MeanMatcher)

    names = {}
    exec(plain, names)  # the ten lines of plain PyTorch
    assert names["classify"](torch.zeros(3, 20, 20)) in CIFAR10[:3]

    shortened = from_python.replace("iterations=100", SHORT_PYTHON)
    assert shortened != from_python
    exec(shortened, {})


def test_the_plain_snippet_learns(tmp_path, monkeypatch):
    """On distilled digits the ten lines give a classifier that is far better than chance."""
    monkeypatch.chdir(tmp_path)
    short = {"original": {"epochs": 1}, "distilled": {"epochs": 1}}
    config = configure(method="dm", iterations=5, network={"width": 8}, training=short)
    data = ltdd_core.distill(config, "runs/mine").data
    names = {}
    exec(blocks(TOP / "README.md", "python")[0], names)
    images = data.test_images.float() / 255
    right = [
        names["classify"](image) == data.class_names[label]
        for image, label in zip(images, data.test_labels, strict=True)
    ]
    assert sum(right) / len(right) > 0.5


@pytest.mark.parametrize(
    "name", ["first-run.md", "configuration.md", "heads.md", "metrics.md", "mtt.md", "samplers.md", "two-stage.md"]
)
def test_the_commands_of_a_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for commands in blocks(TOP / "docs" / name, "sh"):
        run_commands(commands)


def test_the_head_of_the_guide_to_heads_keeps_the_contract():
    (own_head,) = blocks(TOP / "docs" / "heads.md", "python")
    plugin = types.ModuleType("your_module")
    exec(own_head, vars(plugin))
    load_plugins().manager.register(plugin, name="smoothed")
    check_head(plugin.SmoothedHead)


def test_configuration_snippets_are_valid():
    found = [text for page in PAGES for text in blocks(page, "yaml")]
    assert found
    for text in found:
        configure(**yaml.safe_load(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_hook_has_a_heading_with_its_arguments():
    text = (TOP / "docs" / "hooks.md").read_text()
    headings = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    hooks = vars(load_plugins().manager.hook)
    expected = [f"{name}({', '.join(hook.spec.argnames)})" for name, hook in hooks.items() if name.startswith("ltdd_")]
    assert sorted(headings) == sorted(expected)


def test_the_report_format_is_the_documented_one(tmp_path):
    short = {"original": {"epochs": 1}, "distilled": {"epochs": 1}}
    config = configure(method="dm", iterations=1, network={"width": 4}, training=short)
    document = ltdd_core.distill(config, tmp_path / "a").to_json()
    text = (TOP / "docs" / "file-formats.md").read_text()
    section = text[text.index("## `report.json`") :]
    documented = set(re.findall(r"[`\"]([a-z_]+)[`\"]", section))
    assert {*document, *document["rows"][0]} <= documented
    assert json.loads(json.dumps(document)) == document
