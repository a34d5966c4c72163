"""The validation part of a long-tailed set: where it comes from, and that nothing sees it but what may."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, one_line_error, unclocked
from hypothesis import given, settings, strategies as st
from PIL import Image
from test_twostage import trainer

from ltdd_ablations.calibration import best_correction
from ltdd_ablations.head import AblationsHead
from ltdd_core import (
    ArrayTable,
    DataSource,
    InputError,
    LongTailOptions,
    SourceImages,
    TrainingSet,
    configure,
    generator,
    load_classifier,
    load_data,
    load_tensors,
)
from ltdd_core.commands import open_setup, task_of
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.longtail import balanced_part, spared_part
from ltdd_core.storage import digest_of
from ltdd_core.testing import check_data, tiny_long_tailed
from ltdd_decoupled.heads import TAUS, NormalisedHead
from ltdd_twostage.labels import of_groups

SHORT = ("--set", "training.original.epochs=1")
DATA = tiny_long_tailed((40, 12, 4, 1))
SET = TrainingSet("original", DATA.train_images, DATA.train_labels, DATA.normalisation, DATA.classes)
LACKING = DATA.test_labels != 2
UNSEEN = TrainingSet(
    "validation", DATA.test_images[LACKING], DATA.test_labels[LACKING], DATA.normalisation, DATA.classes
)

# ---- the cut -------------------------------------------------------------------------------------


def literal_number(counts, share):
    """The number of each class, tried one by one."""
    totals = {each: sum(min(each, n // 2) for n in counts) for each in range(1, max(counts) // 2 + 1)}
    return min(totals, key=lambda each: (abs(totals[each] - share * sum(counts)), each), default=0)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.floats(0.001, 0.5), st.integers(0, 9), st.randoms())
@settings(max_examples=100, deadline=None)
def test_as_many_of_each_class_as_of_any_other_and_at_most_half_of_one(counts, share, seed, shuffle):
    listed = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(listed)
    labels = torch.tensor(listed)
    chosen = balanced_part(labels, len(counts), share, generator(seed, "validation"))
    each = literal_number(counts, share)
    assert torch.bincount(labels[chosen], minlength=len(counts)).tolist() == [min(each, n // 2) for n in counts]
    assert torch.equal(chosen, balanced_part(labels, len(counts), share, generator(seed, "validation")))
    more = balanced_part(labels, len(counts), 0.5, generator(seed, "validation"))
    assert not (chosen & ~more).any()


@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_unasked_every_class_gives_a_tenth_of_the_smallest_or_none_does(counts, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    chosen = spared_part(labels, len(counts), generator(seed, "validation"))
    each = min(counts) // 10
    expected = [each] * len(counts) if each * len(counts) >= 20 else [0] * len(counts)
    assert torch.bincount(labels[chosen], minlength=len(counts)).tolist() == expected


def test_the_images_of_the_long_tail_are_parted_and_nothing_else_changes():
    plain, parted = load_data("digits-lt"), load_data("digits-lt", validation=0.1)
    assert torch.equal(parted.test_images, plain.test_images)
    assert len(parted.train_labels) + parted.validation_count == len(plain.train_labels)
    assert abs(parted.validation_count - 0.1 * len(plain.train_labels)) <= 5
    number = torch.bincount(parted.validation_labels, minlength=10).tolist()
    assert [a + b for a, b in zip(parted.counts, number, strict=True)] == list(plain.counts)
    assert number == [min(max(number), n // 2) for n in plain.counts]

    def pixels(*parts):
        return sorted(map(bytes, torch.cat(parts).flatten(1).numpy()))

    assert pixels(parted.train_images, parted.validation_images) == pixels(plain.train_images)
    for label in range(10):  # the images go with their labels
        own = plain.train_images[plain.train_labels == label]
        for image in parted.validation_images[parted.validation_labels == label]:
            assert (own == image).flatten(1).all(1).any()
    assert parted.normalisation == type(parted.normalisation).of(parted.train_images)
    other = load_data("digits-lt", validation=0.1, seed=1)
    assert not torch.equal(other.validation_images, parted.validation_images)


def test_a_digest_covers_the_validation_part_and_is_the_old_one_without():
    plain = load_data("digits-lt")
    names = ("train_images", "train_labels", "test_images", "test_labels")
    assert plain.digest == digest_of({name: getattr(plain, name) for name in names})
    parted = load_data("digits-lt", validation=0.1)
    changed = dataclasses.replace(parted, validation_images=255 - parted.validation_images)
    relabelled = dataclasses.replace(parted, validation_labels=9 - parted.validation_labels)
    assert len({plain.digest, parted.digest, changed.digest, relabelled.digest}) == 4


def test_every_place_says_how_many_there_are(ltdd):
    data = load_data("digits-lt", validation=0.1)
    assert data.summary().endswith(
        f"(imbalance factor 120), {data.validation_count} validation images, 500 test images"
    )
    shown = ltdd("data", "show", "--validation", "0.1")
    start = f"digits-lt: {len(data.train_labels)} training, {data.validation_count} validation and 500 test images"
    assert shown.stdout.startswith(start)
    facts = json.loads(ltdd("data", "show", "--validation", "0.1", "--json").stdout)
    assert (facts["validation_images"], facts["counts"]) == (data.validation_count, list(data.counts))
    assert "validation" not in load_data("digits-lt").summary()
    assert "validation_images" not in json.loads(ltdd("data", "show", "--json").stdout)


# ---- the data that have one ----------------------------------------------------------------------


def folder(root, parts):
    for part, counts in parts.items():
        for name, count in counts.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                level = 20 * len(part) + index
                Image.new("RGB", (8, 8), (level, level, level)).save(root / part / name / f"{index}.png")
    return root


TRAIN = {"train": {"a": 4, "b": 2, "c": 2}, "test": {"a": 1, "b": 1, "c": 1}}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_the_validation_part(tmp_path, name):
    data = load_data("folder", root=folder(tmp_path, {**TRAIN, name: {"a": 1, "c": 2, "b": 0}}), imbalance=2)
    assert data.counts == (2, 1, 1)  # the cut is of the training images alone
    assert data.validation_labels.tolist() == [0, 2, 2]
    assert data.validation_images[:, 0, 0, 0].tolist() == [20 * len(name), 20 * len(name), 20 * len(name) + 1]
    assert data.validation_images.shape[1:] == data.train_images.shape[1:]


def test_validation_images_of_another_size_or_colour_become_those_of_the_rest(tmp_path):
    root = folder(tmp_path, TRAIN)
    for part in ("train", "test"):
        for path in (root / part).rglob("*.png"):
            Image.open(path).convert("L").save(path)
    (root / "val" / "b").mkdir(parents=True)
    Image.new("RGB", (40, 20), (90, 90, 90)).save(root / "val" / "b" / "0.png")
    assert load_data("folder", root=root).validation_images.shape == (1, 1, 8, 8)


def test_a_folder_of_no_validation_image_is_none(tmp_path):
    root = folder(tmp_path, {**TRAIN, "val": {"a": 0, "of no class": 0}})
    assert load_data("folder", root=root).validation_images is None
    assert load_data("folder", root=root, validation=0.2).validation_labels.tolist() == [0, 1, 2]


def archive(path, **more):
    draws = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": draws.integers(0, 256, (9, 8, 8), dtype=np.uint8) if what == "images" else np.arange(9) % 3
        for part in ("train", "test")
        for what in ("images", "labels")
    }
    np.savez(path, **arrays, **more)
    return path


def test_an_archive_of_validation_images_may_lack_a_class(tmp_path):
    images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    path = archive(tmp_path / "set.npz", val_images=images, val_labels=np.array([[2]], dtype=np.uint8))
    data = load_data("npz", root=path)
    assert data.validation_labels.tolist() == [2]
    assert torch.equal(data.validation_images, torch.from_numpy(images)[:, None])
    assert load_data("npz", root=archive(tmp_path / "a.npz", val_images=images)).validation_images is None


def own(path, *counts):
    """An archive of one's own: classes of so many training images, and 10 test images each."""
    arrays = {}
    for part, numbers in (("train", counts), ("test", [10] * len(counts))):
        labels = np.repeat(np.arange(len(numbers)), numbers)
        levels = 40 * labels + np.arange(len(labels)) % 17
        images = np.broadcast_to(levels[:, None, None], (len(labels), 8, 8)).astype(np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.arange(len(labels)), 9 * (part == "test")  # no two are the same
        arrays[f"{part}_images"] = images
        arrays[f"{part}_labels"] = labels
    np.savez(path, **arrays)
    return path


def test_data_of_ones_own_keep_validation_images_unasked_and_say_so(ltdd):
    own("own.npz", 90, 70, 70)
    shown = ltdd("data", "show", "--data", "npz", "--root", "own.npz").stdout
    assert shown.startswith("own: 209 training, 21 validation and 30 test images")
    told = "21 of 230 training images, 7 of each class, are kept to calibrate probabilities with; --validation 0"
    assert shown.splitlines()[-1] == f"{told} trains on all."
    plain = ltdd("data", "show", "--data", "npz", "--root", "own.npz", "--validation", "0").stdout
    assert plain.startswith("own: 230 training and 30 test images")
    assert "calibrate" not in plain
    said = ltdd("train", "--data", "npz", "--root", "own.npz", "--network", "mlp", *SHORT, "--out", "t")
    assert said.stderr.count("21 of 230 training images, 7 of each class, are kept to calibrate") == 1
    assert load_classifier("t").facts["calibration"]["images"] == 21


@pytest.mark.parametrize("counts", [(90, 70, 9), (90, 60, 60)])
def test_a_class_that_can_spare_none_leaves_all_images_for_training(tmp_path, counts):
    data = load_data("npz", root=own(tmp_path / "own.npz", *counts))
    assert (data.counts, data.validation_images, data.advice) == (counts, None, ())


def test_a_folder_keeps_some_too_and_a_benchmark_only_if_it_is_asked_for(tmp_path):
    root = folder(tmp_path, {"train": {"a": 100, "b": 120}, "test": {"a": 10, "b": 10}})
    assert load_data("folder", root=root).validation_counts == (10, 10)
    assert load_data("digits-lt", n_max=100, imbalance=2).validation_images is None
    assert load_data("digits-lt", n_max=100, imbalance=2, validation=None).validation_counts == (5,) * 10


class Levels(DataSource):
    """Three classes; its validation part has images of one."""

    Options = LongTailOptions
    validation = (1, 1)

    def load(self, generator):
        def table(labels):
            return ArrayTable((60 * labels[:, None, None, None]).repeat(1, 1, 4, 4).to(torch.uint8), labels)

        labels = torch.arange(3).repeat_interleave(4)
        return SourceImages(table(labels), table(labels), tuple("abc"), table(torch.tensor(self.validation, dtype=int)))


def test_a_data_source_of_a_stranger_gives_its_validation_images():
    check_data(Levels)
    data = load_long_tailed("levels", Levels(Levels.Options(imbalance=4)))
    assert (data.counts, data.validation_labels.tolist()) == ((4, 2, 1), [1, 1])
    for labels, message in (((3,), "validation labels run from 3 to 3"), ((-1, 0), "validation labels run from -1")):
        wrong = type("Wrong", (Levels,), {"validation": labels})
        with pytest.raises(InputError, match=message):
            load_long_tailed("wrong", wrong(Levels.Options()))
    empty = type("Empty", (Levels,), {"validation": ()})
    assert load_long_tailed("empty", empty(Levels.Options())).validation_images is None


# ---- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--validation", "0.7"), "--validation: data.validation must be at most 0.5, not 0.7."),
        (("--validation", "-0.1"), "--validation: data.validation must be at least 0, not -0.1."),
        (("--validation", "a"), "--validation: data.validation must be a number, not 'a'."),
        (("--n-max", "1", "--imbalance", "1", "--validation", "0.1"), "no class has two training images, so none can"),
        (
            ("--data", "npz", "--root", "own.npz", "--validation", "0.1"),
            "data 'own' comes with validation images of its own: leave out --validation.",
        ),
        (("--data", "npz", "--root", "shape.npz"), "training and validation images differ in shape: [1, 8, 8] and "),
        (("--data", "npz", "--root", "label.npz"), "val_labels must be whole numbers from 0 to the number of classes"),
        (("--data", "npz", "--root", "number.npz"), "1 val_images but 2 val_labels"),
        (("--data", "folder", "--root", "two"), "two has val and valid: keep one folder of validation images."),
        (
            ("--data", "folder", "--root", "other"),
            "there is no folder for class 'd', which val/ has: add it, or remove",
        ),
    ],
)
def test_wrong_input_gets_one_line(ltdd, more, message):
    images, labels = np.zeros((1, 8, 8), np.uint8), np.array([0])
    archive("own.npz", val_images=images, val_labels=labels)
    archive("shape.npz", val_images=images[:, :5], val_labels=labels)
    archive("label.npz", val_images=images, val_labels=labels + 3)
    archive("number.npz", val_images=images, val_labels=np.array([0, 1]))
    folder(Path("two"), {**TRAIN, "val": {"a": 1}, "valid": {"a": 1}})
    folder(Path("other"), {**TRAIN, "val": {"a": 1, "d": 1}})
    assert message in one_line_error(ltdd("data", "show", *more))


# ---- who sees it ---------------------------------------------------------------------------------


def test_heads_of_a_run_see_the_validation_images_and_matchers_and_teachers_do_not():
    with open_setup(configure(method="dm", data={"name": "digits-lt", "validation": 0.1})) as setup:
        assert torch.equal(setup.validation.images, setup.data.validation_images)
        task = task_of(setup)
        assert task.trainer.validation is None
        assert task.trained.trainer.validation is None
    with open_setup(configure(method="dm")) as setup:
        assert setup.validation is None


def test_a_part_of_a_classifier_has_none_unless_they_are_given():
    made = trainer().changed(validation=UNSEEN)
    assert made.changed(seed=1).validation is UNSEEN
    assert made.part("groups").validation is None
    assert made.part("member", validation=UNSEEN).validation is UNSEEN


def test_validation_images_that_are_garbage_change_the_temperatures_and_nothing_else(ltdd, monkeypatch):
    command = ["distill", "--method", "dm", "--plugin", "twostage", "--validation", "0.1", *TINY]
    assert ltdd(*command, "--out", "a").exit_code == 0

    def spoilt(name, source, display):
        data = load_long_tailed(name, source, display)
        noise = torch.randint(0, 256, data.validation_images.shape, generator=generator(3, "garbage"))
        return dataclasses.replace(data, validation_images=noise.to(torch.uint8))

    monkeypatch.setattr("ltdd_core.setup.load_long_tailed", spoilt)
    assert ltdd(*command, "--out", "b").exit_code == 0
    assert Path("a/metrics.jsonl").read_bytes() == Path("b/metrics.jsonl").read_bytes()
    assert {path.name for path in Path("a/networks").iterdir()} == {path.name for path in Path("b/networks").iterdir()}
    files = ["distilled", "predictions", *(f"classifiers/{path.stem}" for path in Path("a/classifiers").iterdir())]
    for name in files:
        first, second = (load_tensors(Path(run) / f"{name}.safetensors")[0] for run in "ab")
        assert first.keys() == second.keys()
        different = [key for key in first if not torch.equal(first[key], second[key])]
        assert different == ([key for key in first if key.endswith(": temperature")] if name == "predictions" else [])
    first, second = (json.loads(Path(run, "report.json").read_text()) for run in "ab")
    assert unclocked(first["rows"]) == unclocked(second["rows"])
    assert first["data"]["digest"] != second["data"]["digest"]


# ---- heads that choose ---------------------------------------------------------------------------


def test_tau_is_the_best_one_on_the_validation_images_and_no_second_network_is_trained():
    calls = []
    made = trainer(calls=calls, epochs=6).changed(validation=UNSEEN)
    found = NormalisedHead(NormalisedHead.Options()).fit([SET], made)
    plain = made.train(SET, outputs=4)
    features = made.features(plain, UNSEEN)
    recalls = []
    for tau in TAUS:
        predicted = (features @ (plain.linear.weight / plain.linear.weight.norm(dim=1)[:, None] ** tau).T).argmax(1)
        recalls.append(sum(float((predicted[UNSEEN.labels == c] == c).double().mean()) for c in (0, 1, 3)))
    tau = TAUS[recalls.index(max(recalls))]
    torch.testing.assert_close(
        found.logits.weights, plain.linear.weight / plain.linear.weight.norm(dim=1)[:, None] ** tau
    )
    assert calls == ["classes on the original set"]


@pytest.mark.parametrize("targets", ["classes", "groups"])
def test_a_calibrated_stage_is_fitted_to_the_validation_images(targets):
    calls = []
    made = trainer(calls=calls).changed(validation=UNSEEN)
    options = AblationsHead.Options(calibrate=True, targets=targets, b=0)
    found = AblationsHead(options).fit([SET, dataclasses.replace(SET, name="distilled")], made)
    unseen, counts = UNSEEN, SET.counts()
    if targets == "groups":
        unseen = of_groups(UNSEEN, found.groups, 2)
        counts = of_groups(SET, found.groups, 2).counts()
    stage = found.first.classifier
    log_p = made.outputs(stage.classifier.log_probabilities, UNSEEN)
    temperature, margin = best_correction(log_p, unseen.labels, counts)
    assert stage.temperature == pytest.approx(temperature)
    torch.testing.assert_close(stage.offset.double(), margin * counts**-0.25, rtol=1e-5, atol=1e-5)
    assert not any("fold" in purpose for purpose in calls)
