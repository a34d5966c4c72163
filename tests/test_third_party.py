"""Packages of strangers, as pip installs them: they work with everything, and ltdd does not know them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY

from ltdd_core.plugging.catalog import installed
from ltdd_core.testing import check_head, check_matcher, check_sampler, tiny_network

ROOT = Path(__file__).parent.parent
PACKAGES = Path(__file__).parent / "third_party"


@pytest.fixture
def strangers(site, monkeypatch):
    """Both packages with the metadata of their own pyproject.toml, in a folder on the path."""
    for name in ("layer-means", "reversed-sampling"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        built = subprocess.run([*command, "--target", site.folder, PACKAGES / name], capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
    monkeypatch.setenv("PYTHONPATH", str(site.folder))


def test_they_keep_their_contracts(strangers):
    catalog = installed()
    for kind, name, check in (
        ("matcher", "layer-means", check_matcher),
        ("sampler", "reversed", check_sampler),
        ("head", "smoothed", check_head),
    ):
        check(catalog.get(kind, name).load())


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


def test_the_house_holds_no_word_about_them():
    words = re.compile("layer.?means|reversed.sampling|smoothed")
    for folder in ("ltdd_core", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            found = words.search(path.read_text())
            assert found is None, path
