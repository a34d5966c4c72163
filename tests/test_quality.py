"""DD-Ranking's scores: the formulas, and what the accuracies in them are of."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from ltdd_core import Augmentation, configure, distill, quality
from ltdd_core.data.load import load_long_tailed
from ltdd_core.evaluation.quality import Accuracies, augmentation_robust_score, label_robust_score, random_images
from ltdd_core.plugging.catalog import installed
from ltdd_core.setup import Setup
from ltdd_core.testing import tiny_long_tailed

FRACTION = st.floats(0, 1)
NAMES = {
    *("real", "hard", "distilled", "random", "distilled_plain", "random_plain"),
    *("hard_label_recovery", "improvement_over_random", "label_robust_score", "augmentation_robust_score"),
}


@given(FRACTION, FRACTION, FRACTION, FRACTION, FRACTION, FRACTION)
def test_scores_are_the_formulas(real, hard, distilled, random, distilled_plain, random_plain):
    found = Accuracies(real, hard, distilled, random, distilled_plain, random_plain).scores()
    recovery, improvement, plain = real - hard, distilled - random, distilled_plain - random_plain
    alpha = 0.5 * improvement - 0.5 * recovery
    beta = 0.5 * improvement + 0.5 * plain

    def score(value):
        return (math.exp(value) - 1 / math.e) / (math.e - 1 / math.e)

    assert found["hard_label_recovery"] == pytest.approx(recovery)
    assert found["improvement_over_random"] == pytest.approx(improvement)
    assert found["label_robust_score"] == pytest.approx(score(alpha), abs=1e-12)
    assert found["augmentation_robust_score"] == pytest.approx(score(beta), abs=1e-12)


def test_scores_go_from_0_to_1():
    assert label_robust_score(1, -1) == pytest.approx(0)
    assert label_robust_score(-1, 1) == pytest.approx(1)
    assert augmentation_robust_score(-1, -1) == pytest.approx(0)
    assert augmentation_robust_score(1, 1) == pytest.approx(1)
    assert label_robust_score(0.2, 0.4, weight=1) == augmentation_robust_score(0.4, 9, weight=1)


def test_random_images_are_of_their_class_and_not_repeated():
    data = tiny_long_tailed((12, 5, 2, 1))
    found = random_images(data, [3] * 4, seed=0)
    assert found.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 2 + [3]
    real = data.normalisation.apply(data.train_images)
    for image, label in zip(found.images, found.labels, strict=True):
        assert any(torch.equal(image, other) for other in real[data.train_labels == label])
    assert len({image.numpy().tobytes() for image in found.images}) == len(found.images)
    assert not torch.equal(found.images, random_images(data, [3] * 4, seed=1).images)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = configure(
        method="dm",
        iterations=2,
        ipc=2,
        network={"name": "mlp", "width": 16, "depth": 1},
        training={"original": {"epochs": 3}, "distilled": {"epochs": 3}},
        compute={"threads": 1},
    )
    folder = tmp_path_factory.mktemp("quality") / "run"
    return distill(config, folder)


def test_the_accuracies_are_of_what_they_say(run):
    """Each once more by hand, with a trainer of its own."""
    (found,) = quality(run.run, settings=[{"seed": 3}])
    catalog = installed()
    data = load_long_tailed("digits-lt", run.config.data.make())
    few = random_images(data, [2] * 10, seed=3)
    seeded = replace(run.config, run=run.config.run.model_copy(update={"seed": 3}))

    def accuracy(own, purpose, augmented=True):
        with Setup.open(seeded, catalog=catalog, data=data) as setup:
            made = setup.trainer()
            own = {"original": setup.original, "distilled": setup.distilled(run.distilled)}.get(own, few)
        if not augmented:
            made.augmentation = Augmentation("none")
        network = made.train(own, outputs=10, purpose=purpose)
        predicted = network(data.normalisation.apply(data.test_images)).argmax(1)
        return 100 * (predicted == data.test_labels).double().mean().item()

    random = "classes of random images"
    assert found.mean["real"] == pytest.approx(accuracy("original", "classes"))
    assert found.mean["distilled"] == pytest.approx(accuracy("distilled", "classes"))
    assert found.mean["hard"] == found.mean["distilled"]  # DM's labels are hard
    assert found.mean["random"] == pytest.approx(accuracy("few", random))
    assert found.mean["distilled_plain"] == pytest.approx(accuracy("distilled", "classes", augmented=False))
    assert found.mean["random_plain"] == pytest.approx(accuracy("few", random, augmented=False))
    assert set(found.mean) == NAMES
    recovery, improvement = found.mean["real"] - found.mean["hard"], found.mean["distilled"] - found.mean["random"]
    expected = 100 * label_robust_score(recovery / 100, improvement / 100)
    assert found.mean["label_robust_score"] == pytest.approx(expected)


def test_evaluate_shows_the_quality_beside_the_accuracy(run, ltdd):
    command = ("evaluate", run.run, "--head", "linear", "--network", "mlp", "--network", "convnet-d3", "--quality")
    command = (*command, "--repeats", 2, "--set", "network.width=4")
    table = ltdd(*command)
    assert table.exit_code == 0, table.output
    for text in ("random real images, not augmented", "label-robust score", "hard-label recovery (0 is best)"):
        assert text in table.stdout
    _, _, below = table.stdout.partition("quality beside accuracy")
    assert max(map(len, below.splitlines())) <= 80
    document = json.loads(ltdd(*command, "--json").stdout)
    assert [one["network"] for one in document["quality"]] == ["mlp", "convnet-d3"]
    for one in document["quality"]:
        assert set(one) == NAMES | {"network", "repeats", "deviation"}
        assert set(one["deviation"]) == NAMES
    assert "quality" not in json.loads(ltdd("evaluate", run.run, "--json").stdout)
