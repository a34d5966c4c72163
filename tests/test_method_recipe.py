"""A method with soft labels, a training recipe and a decoder, through every command that meets its set."""

import json
import re

import numpy as np
import pytest
import torch
import yaml

from ltdd_core import TrainingOptions, load_distilled
from ltdd_core.identity import identity
from ltdd_core.networks.store import stored_networks

TAUGHT = """
    import torch
    from torch.nn import functional as F

    from ltdd_core import ClassMatcher, SoftLabels, Synthetic, hookimpl

    class Taught(ClassMatcher):
        "Match mean features; a network sees each image, and its mirror image."

        def decode(self, images):
            return torch.stack([images, images.flip(3)], 1)

        def class_loss(self, network, real, synthetic):
            return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()

        def distilled(self):
            images, labels = self.images.detach(), self.labels
            return Synthetic(images, labels, SoftLabels(4 * F.one_hot(labels, 10).float() + labels[:, None], "logits"))

        def recipe(self):
            return {"epochs": 4, "optimizer": "adamw", "lr": 0.02, "soft_loss": "mse", "hard_weight": 0.1}

    @hookimpl
    def ltdd_register_matchers(register):
        register("taught", Taught)
"""
SMALL = (
    *("--iterations", "2", "--ipc", "2", "--threads", "1", "--set", "training.original.epochs=2"),
    *("--set", "network.width=8", "--set", "network.depth=2"),
)
SAYS = "training on the distilled set as its method says: "
RECIPE = "hard_weight=0.1, lr=0.02, optimizer=adamw, soft_loss=mse"


def ran(result):
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture
def run(site, ltdd, tmp_path):
    site.install("taught", TAUGHT)
    ran(ltdd("distill", "--method", "taught", "--data", "digits-lt", *SMALL, "--quiet", "--out", tmp_path / "run"))
    return tmp_path / "run"


def trained_on_distilled(folder):
    """How the networks in a store were trained on a distilled set: epochs, and the other options as they identify."""
    keys = [network.key for network in stored_networks(folder) if "distilled" in network.key["what"]]
    return sorted((key["epochs"], key["training"]) for key in keys)


def test_the_recipe_holds_for_the_table_of_the_run_and_for_evaluate_until_the_user_says_otherwise(run, ltdd):
    (row,) = [row for row in json.loads((run / "report.json").read_text())["rows"] if "distilled" in row["name"]]
    ((epochs, training),) = trained_on_distilled(run)
    said = TrainingOptions(**load_distilled(run).recipe)
    assert epochs == said.epochs == 4
    assert training == identity(said.model_dump(exclude={"epochs"}))
    again = ran(ltdd("evaluate", run, "--json"))
    assert again.stderr.splitlines().count(f"{SAYS}epochs=4, {RECIPE}") == 1
    assert json.loads(again.stdout)["rows"][0]["accuracy"] == row["accuracy"]
    assert len(trained_on_distilled(run)) == 1
    shorter = ran(ltdd("evaluate", run, "--set", "training.distilled.epochs=3"))
    assert shorter.stderr.splitlines().count(f"{SAYS}{RECIPE}") == 1
    assert [epochs for epochs, _ in trained_on_distilled(run)] == [3, 4]
    for silent in (("--quiet",), ("--recipe", "direct", "--set", "recipe.data=original")):
        assert SAYS not in ran(ltdd("evaluate", run, *silent)).stderr


def test_a_grid_trains_as_the_method_says(run, ltdd, tmp_path):
    grid = {
        "title": "A grid",
        "common": {
            "network": {"name": "convnet-d3", "depth": 2, "width": 8},
            "training": {"original": {"epochs": 2}},
            "compute": {"threads": 1},
        },
        "data": ["digits-lt"],
        "ipc": [2],
        "methods": [{"method": "taught", "iterations": 2}],
        "seeds": [0],
        "lines": [{"name": "{method}"}],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    ran(ltdd("bench", tmp_path / "grid.yaml", "--out", tmp_path / "grid"))
    (found,) = json.loads((tmp_path / "grid" / "table.json").read_text())["rows"]
    row = json.loads((run / "report.json").read_text())["rows"][1]
    assert found["accuracy"] == pytest.approx(row["accuracy"])
    assert trained_on_distilled(tmp_path / "grid") == trained_on_distilled(run)


def test_the_pages_show_the_numbers_of_the_run(run, ltdd, tmp_path):
    rows = json.loads((run / "report.json").read_text())["rows"]
    ran(ltdd("report", run, "--out", tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    table = ran(ltdd("compare", run)).stdout
    for row in rows:
        for text in (page, table):
            assert re.search(rf"\b{row['accuracy']:.1f}\b", text), row["name"]


def test_an_export_has_what_a_network_sees_and_the_soft_labels(run, ltdd, tmp_path):
    stored = load_distilled(run)
    seen = torch.stack([stored.images, stored.images.flip(3)], 1).flatten(0, 1)
    said = stored.soft_labels.values.repeat_interleave(2, 0)
    ran(ltdd("export", run, "--format", "npz", "--out", tmp_path / "set.npz"))
    with np.load(tmp_path / "set.npz", allow_pickle=False) as found:
        assert np.array_equal(found["images"], seen.numpy())
        assert found["labels"].tolist() == [label for label in range(10) for _ in range(4)]
        assert np.array_equal(found["soft_logits"], said.numpy())
    ran(ltdd("export", run, "--format", "ddranking", "--out", tmp_path / "dd"))
    logits = torch.load(tmp_path / "dd" / "labels.pt", weights_only=True)
    torch.testing.assert_close(logits, said - said.mean(1, keepdim=True))
    assert torch.load(tmp_path / "dd" / "lr.pt", weights_only=True).item() == pytest.approx(0.02)
    assert stored.decoder["name"] == "taught"
