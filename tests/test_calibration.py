"""Calibrated probabilities: the temperature against slow, literal versions, and what a run keeps of it."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from test_classifiers import GROUPS, IMAGES, find, network, trained
from torch.nn import functional as F

from ltdd_core import (
    InputError,
    Softmax,
    at_temperature,
    balanced_nll,
    best_temperature,
    generator,
    load_classifier,
    load_data,
    load_tensors,
    save_tensors,
)
from ltdd_core.cli import cli
from ltdd_core.evaluation.predictions import load_predictions
from ltdd_core.evaluation.stored import _digest, save_classifier
from ltdd_twostage.stages import OfClasses, TwoStage

VALIDATED = ("distill", "--method", "dm", "--plugin", "twostage", "--validation", "0.1", *TINY)
LINES = ["original, direct", "original, balanced softmax", "distilled, direct", "two-stage, original + distilled"]


def literal_error(log_p, labels):
    """The calibration error image by image, bin by bin."""
    bins = [[] for _ in range(15)]
    for row, label in zip(log_p.double().exp().tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        place = next(m for m in range(15) if confidence <= (m + 1) / 15 or m == 14)
        bins[place].append((confidence, float(row.index(confidence) == label)))
    gaps = [abs(sum(right - confidence for confidence, right in own)) for own in bins]
    return 100 * sum(gaps) / len(labels)


# ---- the temperature -----------------------------------------------------------------------------


def overconfident(seed, scale, counts=(40, 20, 8, 2)):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), len(counts), generator=generator(seed, "z"))
    return ((2 * F.one_hot(labels, len(counts)) + noise) * scale).log_softmax(1), labels


def literal_nll(log_p, labels, t):
    """The mean over classes of the mean over their images, of those whose class is not ruled out."""
    by_class = {}
    for row, label in zip(log_p.double(), labels.tolist(), strict=True):
        if math.isfinite(row[label]):
            shares = [math.exp(value / t) for value in row.tolist()]
            by_class.setdefault(label, []).append(-math.log(shares[label] / sum(shares)))
    return sum(sum(own) / len(own) for own in by_class.values()) / len(by_class)


@given(st.integers(0, 200), st.sampled_from([0.3, 1.0, 2.5]), st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_best_temperature_is_that_of_a_grid(seed, scale, lacking, hard):
    log_p, labels = overconfident(seed, scale)
    if lacking:  # a class that has no validation image
        log_p, labels = log_p[labels != 1], labels[labels != 1]
    if hard:  # classes that are ruled out
        log_p = log_p.masked_fill(log_p < log_p.median(1, keepdim=True).values, -torch.inf).log_softmax(1)
    else:
        assert balanced_nll(log_p, labels) == pytest.approx(literal_nll(log_p, labels, 1), rel=1e-5)
    best = best_temperature(log_p, labels)
    assert 0.01 <= best <= 100
    grid = min(literal_nll(log_p, labels, math.exp(step / 10)) for step in range(-22, 23))
    assert literal_nll(log_p, labels, best) <= grid + 1e-4


def test_more_confidence_is_taken_back_and_less_is_given():
    log_p, labels = overconfident(0, 1.0, (200, 200))
    plain = best_temperature(log_p, labels)
    for scale in (0.5, 3.0):
        scaled = (scale * log_p).log_softmax(1)
        assert best_temperature(scaled, labels) == pytest.approx(scale * plain, rel=1e-2)


def test_every_class_weighs_the_same_however_many_images_it_has():
    log_p, labels = overconfident(1, 2.0)
    often = torch.cat([torch.arange(len(labels)), *[torch.nonzero(labels == 0).flatten()] * 4])
    assert best_temperature(log_p[often], labels[often]) == pytest.approx(best_temperature(log_p, labels), rel=1e-3)


def test_where_the_class_of_every_image_is_ruled_out_nothing_is_changed():
    log_p = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]])
    assert best_temperature(log_p, torch.tensor([1, 1])) == 1


@given(st.integers(0, 200), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_the_likeliest_class_stays_and_so_does_a_class_that_is_ruled_out(seed, temperature):
    log_p = 4 * torch.randn(30, 6, generator=generator(seed, "z"))
    log_p[:, 4] = -torch.inf
    found = at_temperature(log_p.log_softmax(1), temperature)
    assert torch.equal(found.argmax(1), log_p.argmax(1))
    assert torch.equal(found.isneginf(), log_p.isneginf())
    torch.testing.assert_close(found.exp().sum(1), torch.ones(30))
    for row, values in zip(found[:3], log_p[:3].double().tolist(), strict=True):
        shares = [math.exp(value / temperature) for value in values]
        assert row.exp().tolist() == pytest.approx([share / sum(shares) for share in shares], abs=1e-5)


# ---- the file of a classifier ----------------------------------------------------------------------


def hard_classifier():
    first, second = (OfClasses(Softmax(network(seed)), GROUPS) for seed in (0, 1))
    return TwoStage(GROUPS, first, second, a=1, b=0.5, hard=True)


def test_a_classifier_keeps_its_temperature(tmp_path):
    made = trained(hard_classifier(), calibration={"temperature": 2.5})
    made.temperature = 2.5
    save_classifier(tmp_path / "c", made, find)
    found = load_classifier(tmp_path / "c", find=find)
    assert (found.temperature, found.calibrated) == (2.5, True)
    with torch.no_grad():
        plain, calibrated = found.classifier(IMAGES), found(IMAGES)
        assert torch.equal(calibrated, made(IMAGES))
    assert plain.isneginf().any()
    assert torch.equal(calibrated, at_temperature(plain, 2.5))
    assert torch.equal(calibrated.argmax(1), plain.argmax(1))
    assert not torch.allclose(calibrated, plain)


def rewritten(path, change):
    """The file with other metadata, under a digest that fits."""
    tensors, facts = load_tensors(path)
    change(facts)
    about = {key: facts.pop(key) for key in ("format", "format_version", "digest")}
    save_tensors(path, tensors, {**about, "digest": _digest(tensors, facts), **facts})


def test_a_file_of_an_earlier_version_has_no_temperature(tmp_path):
    save_classifier(tmp_path / "c", trained(Softmax(network())), find)
    rewritten(tmp_path / "c", lambda facts: facts.pop("temperature"))
    found = load_classifier(tmp_path / "c", find=find)
    assert (found.temperature, found.calibrated) == (1, False)
    with torch.no_grad():
        assert torch.equal(found(IMAGES), found.classifier(IMAGES))


@pytest.mark.parametrize("value", [0.0, -1.0, "2", None])
def test_a_temperature_that_is_none_is_refused(tmp_path, value):
    save_classifier(tmp_path / "c", trained(Softmax(network())), find)
    rewritten(tmp_path / "c", lambda facts: facts.update(temperature=value))
    with pytest.raises(InputError, match="temperature must be"):
        load_classifier(tmp_path / "c", find=find)


# ---- a run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The folder of a run with validation images, to be read and not to be written."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    result = CliRunner().invoke(cli, [*VALIDATED, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def test_a_run_keeps_the_temperature_of_each_line_beside_its_scores(calibrated):
    data = load_data("digits-lt", validation=0.1)
    known = load_predictions(calibrated / "predictions.safetensors")
    assert list(known) == sorted(LINES)
    for line in LINES:
        classifier = load_classifier(calibrated, line)
        with torch.no_grad():
            log_p, unseen = (
                classifier.classifier(data.normalisation.apply(images))
                for images in (data.test_images, data.validation_images)
            )
        torch.testing.assert_close(known[line].log_probabilities, log_p, atol=1e-4, rtol=1e-4)  # as before calibration
        grid = min(literal_nll(unseen, data.validation_labels, math.exp(step / 10)) for step in range(-22, 23))
        assert literal_nll(unseen, data.validation_labels, classifier.temperature) <= grid + 1e-4
        assert known[line].temperature == classifier.temperature
        after = classifier.log_probabilities_of(data.test_images)
        assert classifier.facts["calibration"] == {
            "temperature": classifier.temperature,
            "images": data.validation_count,
            "ece_before": pytest.approx(literal_error(known[line].log_probabilities, data.test_labels)),
            "ece_after": pytest.approx(literal_error(after, data.test_labels), abs=0.2),
        }
        torch.testing.assert_close(
            classifier.predict(data.test_images), (log_p / classifier.temperature).softmax(1), atol=1e-4, rtol=1e-3
        )


def test_the_table_has_the_calibration_error_before_calibration(calibrated):
    labels = load_data("digits-lt").test_labels
    known = load_predictions(calibrated / "predictions.safetensors")
    for row in json.loads((calibrated / "report.json").read_text())["rows"]:
        assert row["calibration_error"] == pytest.approx(literal_error(known[row["name"]].log_probabilities, labels))


def test_the_temperature_is_kept_where_the_classifiers_are_not_and_a_resumed_run_has_it(ltdd, calibrated):
    assert ltdd(*VALIDATED, "--no-keep", "--out", "b").exit_code == 0
    assert not Path("b/classifiers").exists()
    expected = {
        name: scores.temperature for name, scores in load_predictions(calibrated / "predictions.safetensors").items()
    }
    found = load_predictions(Path("b/predictions.safetensors"))
    assert {name: scores.temperature for name, scores in found.items()} == expected
    Path("b/report.json").unlink()
    assert ltdd("distill", "--out", "b", "--resume").exit_code == 0
    found = load_predictions(Path("b/predictions.safetensors"))
    assert {name: scores.temperature for name, scores in found.items()} == expected


@pytest.mark.parametrize("wrong", [[0.0], [-1.0], [math.nan], [math.inf], [1.0, 2.0]])
def test_a_damaged_temperature_is_one_line(ltdd, calibrated, wrong):
    shutil.copytree(calibrated, "run")
    Path("run/report.json").unlink()
    tensors, facts = load_tensors(Path("run/predictions.safetensors"))
    tensors[f"{LINES[0]}: temperature"] = torch.tensor(wrong, dtype=torch.float64)
    save_tensors(Path("run/predictions.safetensors"), tensors, facts)
    message = one_line_error(ltdd("distill", "--out", "run", "--resume", "--quiet"))
    assert f"predictions.safetensors: '{LINES[0]}': a temperature " in message
    assert "Delete the file" in message


def test_predict_says_whether_probabilities_are_calibrated(ltdd, calibrated, finished):
    data = load_data("digits-lt", validation=0.1)
    np.savez("digits.npz", images=data.test_images[:40, 0].numpy())
    classifier = load_classifier(calibrated)
    told = ltdd("predict", calibrated, "digits.npz").stdout.splitlines()[-1]
    assert told == (
        f"The probabilities are calibrated on validation images (temperature {classifier.temperature:.3g}): where no "
        "class is rarer than another, about 80 of 100 images with 80 % are right."
    )
    document = json.loads(ltdd("predict", calibrated, "digits.npz", "--json").stdout)
    assert (document["calibrated"], document["temperature"]) == (True, classifier.temperature)
    best = [image["probability"] for image in document["images"]]
    assert best == pytest.approx(classifier.predict(data.test_images[:40]).max(1).values.tolist(), abs=1e-5)
    told = ltdd("predict", finished, "digits.npz").stdout.splitlines()[-1]
    assert told == (
        "The probabilities are not calibrated, as the classifier was trained without --validation: of 100 images with "
        "80 %, far more or far fewer than 80 may be right."
    )
    document = json.loads(ltdd("predict", finished, "digits.npz", "--json").stdout)
    assert (document["calibrated"], document["temperature"]) == (False, 1)


def test_train_and_evaluate_keep_calibrated_classifiers_too(ltdd, calibrated):
    short = ("--set", "network.width=4", "--set", "training.original.epochs=1")
    assert ltdd("train", "--validation", "0.1", *short, "--out", "t").exit_code == 0
    assert load_classifier("t").calibrated
    options = ("--head", "linear", "--set", "training.distilled.epochs=1", "--out", "more", "--quiet")
    assert ltdd("evaluate", calibrated, *options).exit_code == 0
    assert (
        load_classifier("more").facts["calibration"]["images"]
        == load_data("digits-lt", validation=0.1).validation_count
    )
