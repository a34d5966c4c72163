"""Distilled sets in other tools' formats: the same images and labels come back, and nothing is half written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error
from hypothesis import given, settings, strategies as st
from PIL import Image

from ltdd_core import (
    ZCA,
    DistilledSet,
    InputError,
    PerChannel,
    SoftLabels,
    export,
    generator,
    load_data,
    load_distilled,
    save_distilled,
)
from ltdd_core.evaluation.export import FORMATS as OF_CLASSIFIERS
from ltdd_core.runs.export import FORMATS, to_logits

NAMES = ("cat", "dog", "top/T-shirt")


def distilled(labels, *, soft=None, channels=3, side=6, **more):
    labels = torch.tensor(labels)
    images = torch.randn(len(labels), channels, side, side, generator=generator(0, "images"))
    normalisation = PerChannel((0.4,) * channels, (0.3,) * channels)
    if soft:
        said = torch.randn(len(labels), 3, generator=generator(1, "soft"))
        more["soft_labels"] = SoftLabels(said if soft == "logits" else said.softmax(1), soft)
    return DistilledSet(images, labels, NAMES, normalisation, ipc=2, **more)


def saved(folder, **options):
    folder.mkdir(exist_ok=True)
    own = distilled(**options)
    save_distilled(str(folder / "distilled.safetensors"), own)
    return own


@pytest.mark.parametrize("soft", [None, "probabilities", "logits"])
def test_ddranking_gets_images_sorted_by_class_logits_and_a_learning_rate(soft, tmp_path):
    own = saved(tmp_path / "run", labels=[2, 0, 1, 1, 0, 2], soft=soft, recipe={"lr": 0.125})
    target = export(tmp_path / "run", "ddranking")
    assert target == tmp_path / "run" / "export-ddranking"
    found = {path.stem: torch.load(path, weights_only=True) for path in sorted(target.iterdir())}
    assert set(found) == {"images", "labels", "lr"}
    order = [1, 4, 2, 3, 0, 5]
    assert torch.equal(found["images"], own.images[order])
    assert found["lr"].item() == 0.125
    assert found["lr"].dim() == 0
    expected = torch.nn.functional.one_hot(own.labels, 3).float()
    if soft:
        expected = own.soft_labels.values.softmax(1) if soft == "logits" else own.soft_labels.values
    expected = expected[order]
    torch.testing.assert_close(found["labels"].softmax(1), expected)
    if not soft:
        assert torch.equal(found["labels"].softmax(1), expected)  # to the last bit


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4).filter(sum), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_logits_of_soft_labels_give_the_labels_back(rows):
    soft = torch.tensor(rows, dtype=torch.float32)
    soft = soft / soft.sum(1, keepdim=True)
    own = DistilledSet(torch.zeros(len(soft), 1, 1, 1), torch.zeros(len(soft), dtype=torch.int64), tuple("abcd"),
                       PerChannel((0.0,), (1.0,)), ipc=1, soft_labels=SoftLabels(soft))  # fmt: skip
    logits = to_logits(own)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.softmax(1), soft, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "origin", "expected"),
    [
        ({"lr": 0.5}, {"configuration": {"training": {"distilled": {"lr": 0.1}}}}, 0.5),
        ({}, {"configuration": {"training": {"distilled": {"lr": 0.1}}}}, 0.1),
        ({}, {"configuration": {"training": {"distilled": {"lr": None}}}}, 0.01),
        ({}, {}, 0.01),
    ],
)
def test_the_learning_rate_is_the_learned_one_or_the_configured_one(recipe, origin, expected, tmp_path):
    saved(tmp_path / "run", labels=[0, 1, 2], recipe=recipe, origin=origin)
    found = torch.load(export(tmp_path / "run", "ddranking") / "lr.pt", weights_only=True)
    assert found.item() == pytest.approx(expected)


def test_ddranking_refuses_classes_of_different_sizes(tmp_path):
    saved(tmp_path / "run", labels=[0, 0, 1, 2])
    with pytest.raises(InputError, match=r"same number of images of each class.*1 to 2"):
        export(tmp_path / "run", "ddranking")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["distilled.safetensors"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_holds_what_a_picture_shows(channels, tmp_path):
    own = saved(tmp_path / "run", labels=[0, 0, 1, 2, 2, 2], channels=channels)
    target = export(tmp_path / "run" / "distilled.safetensors", "folder", tmp_path / "images")
    assert sorted(path.name for path in target.iterdir()) == ["cat", "dog", "top-T-shirt"]
    assert [len(list((target / name).iterdir())) for name in ("cat", "dog", "top-T-shirt")] == [2, 1, 3]
    shown = (own.normalisation.invert(own.images) * 255).round().to(torch.uint8)
    found = np.asarray(Image.open(target / "dog" / "0000.png"))
    expected = shown[2].permute(1, 2, 0).squeeze(2) if channels == 1 else shown[2].permute(1, 2, 0)
    assert np.array_equal(found, expected.numpy())


def test_a_folder_is_read_back_as_an_image_folder(tmp_path):
    own = saved(tmp_path / "run", labels=[0, 0, 1, 1, 2, 2], side=8)
    target = export(tmp_path / "run", "folder")
    data = load_data("folder", root=str(target))
    assert data.class_names == ("cat", "dog", "top-T-shirt")
    everything = torch.cat([data.train_images, data.test_images])
    shown = (own.normalisation.invert(own.images) * 255).round().to(torch.uint8)
    assert {image.numpy().tobytes() for image in everything} == {image.numpy().tobytes() for image in shown}


@pytest.mark.parametrize("soft", [None, "probabilities", "logits"])
def test_npz_holds_everything(soft, tmp_path):
    own = saved(tmp_path / "run", labels=[0, 1, 2, 2], soft=soft, recipe={"lr": 0.5})
    target = export(tmp_path / "run", "npz")
    with np.load(target, allow_pickle=False) as found:
        order = own.labels.argsort(stable=True)
        assert np.array_equal(found["images"], own.images[order].numpy())
        assert np.array_equal(found["labels"], own.labels[order].numpy())
        assert [name for name in found if name.startswith("soft")] == ([f"soft_{soft}"] if soft else [])
        if soft:
            assert np.array_equal(found[f"soft_{soft}"], own.soft_labels.values[order].numpy())
        assert found["class_names"].tolist() == list(NAMES)
        facts = json.loads(str(found["normalisation"]))
    assert facts == {**own.normalisation.to_json(), "recipe": {"lr": 0.5}}


def test_whitening_goes_with_an_npz(tmp_path):
    pixels = torch.randint(0, 255, (20, 1, 4, 4), generator=generator(0, "pixels")).to(torch.uint8)
    zca = ZCA.of(pixels, 0.1)
    (tmp_path / "run").mkdir()
    own = DistilledSet(zca.apply(pixels[:3]), torch.arange(3), NAMES, zca, ipc=1)
    save_distilled(tmp_path / "run" / "distilled.safetensors", own)
    with np.load(export(tmp_path / "run", "npz"), allow_pickle=False) as found:
        assert np.array_equal(found["zca_matrix"], zca.matrix.numpy())
        assert np.array_equal(found["zca_mean"], zca.mean.numpy())


def test_what_is_there_already_stays(ltdd, tmp_path):
    saved(tmp_path / "run", labels=[0, 1, 2])
    for kind in ("ddranking", "folder", "npz"):
        result = ltdd("export", tmp_path / "run", "--format", kind)
        assert result.exit_code == 0, result.output
        assert Path(result.stdout.strip()).exists()
        assert "is there already" in one_line_error(ltdd("export", tmp_path / "run", "--format", kind))
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["distilled.safetensors", "export-ddranking", "export-folder", "export-npz.npz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "dd-ranking"), "unknown format 'dd-ranking'. Did you mean 'ddranking'?"),
        (
            (),
            "Missing option '--format'. Choose from: ddranking, folder, npz, torch, onnx, state-dict. See",
        ),
        (("--format", "npz", "--out", "/proc/none/a.npz"), "cannot write /proc/none"),
        (("--format", "folder", "--out", "/proc/none/a"), "cannot write /proc/none"),
    ],
)
def test_a_wrong_export_gets_one_line(options, message, ltdd, tmp_path):
    saved(tmp_path / "run", labels=[0, 1, 2])
    assert message in one_line_error(ltdd("export", tmp_path / "run", *options))


def test_an_export_of_nothing_gets_one_line(ltdd, tmp_path):
    assert "there is no such file" in one_line_error(ltdd("export", tmp_path / "no", "--format", "npz"))


DOUBLED = """
    import torch

    from ltdd_core import ClassMatcher, hookimpl, option

    class Doubled(ClassMatcher):
        "Stores one of several images."

        class Options(ClassMatcher.Options):
            "The options."

            times: int = option(2, "images for each that is stored", ge=1)

        def decode(self, images):
            return torch.stack([images * (number + 1) for number in range(self.options.times)], 1)

        def class_loss(self, network, real, synthetic):
            return (real.mean() - synthetic.mean()).square()

    @hookimpl
    def ltdd_register_matchers(register):
        register("doubled", Doubled)
"""
BY_DOUBLED = {"decoder": {"name": "doubled"}, "origin": {"versions": {"matcher doubled": "stranger-tiles 1.5"}}}


def test_the_decoder_of_a_method_is_applied(site, tmp_path):
    site.install("tiles", DOUBLED)
    own = saved(tmp_path / "run", labels=[2, 1, 0], **BY_DOUBLED)
    target = export(tmp_path / "run", "ddranking")
    found = torch.load(target / "images.pt", weights_only=True)
    assert torch.equal(found, torch.cat([image[None] * n for image in own.images.flip(0) for n in (1, 2)]))


def test_the_decoder_has_the_options_of_the_set(site, tmp_path):
    site.install("tiles", DOUBLED)
    more = {**BY_DOUBLED, "decoder": {"name": "doubled", "times": 3}}
    own = saved(tmp_path / "run", labels=[2, 1, 0], soft="logits", **more)
    with np.load(export(tmp_path / "run", "npz"), allow_pickle=False) as found:
        assert found["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        expected = torch.stack([own.images.flip(0) * n for n in (1, 2, 3)], 1).flatten(0, 1)
        assert np.array_equal(found["images"], expected.numpy())
        said = own.soft_labels.values.flip(0).repeat_interleave(3, 0)
        assert np.array_equal(found["soft_logits"], said.numpy())
    saved(tmp_path / "run", labels=[0], decoder={"name": "doubled", "sides": 3})
    with pytest.raises(InputError, match=r"unknown.*'sides'"):
        export(tmp_path / "run", "folder")


def test_a_set_whose_decoder_is_missing_says_which_package_has_it(site, ltdd, finished, tmp_path, monkeypatch):
    saved(tmp_path / "run", labels=[2, 1, 0], **BY_DOUBLED)
    made = load_distilled(finished)
    origin = {"configuration": {**made.origin["configuration"], "matcher": {"name": "doubled"}}, **BY_DOUBLED["origin"]}
    save_distilled(
        tmp_path / "digits.safetensors", dataclasses.replace(made, decoder={"name": "doubled"}, origin=origin)
    )
    commands = (
        ("export", tmp_path / "run", "--format", "npz"),
        ("evaluate", tmp_path / "digits.safetensors"),
    )

    def messages():
        return {one_line_error(ltdd(*command)) for command in commands}

    needs = "Error: this distilled set needs the decoder of matcher 'doubled'"
    assert messages() == {f"{needs}. It was made with stranger-tiles 1.5: install stranger-tiles."}
    site.install("tiles", DOUBLED)
    monkeypatch.setenv("LTDD_BLOCK_PLUGINS", "tiles")
    assert messages() == {f"{needs}, and plugin 'tiles' (stranger-tiles 1.5) is blocked."}
    saved(tmp_path / "run", labels=[0], decoder={"name": "doubled"})
    assert f"{needs}, which no installed plugin offers." == one_line_error(ltdd(*commands[0]))


def test_the_help_names_every_format(ltdd):
    formats = (*FORMATS, *OF_CLASSIFIERS)
    text = " ".join(ltdd("export", "--help").stdout.split())
    assert f"--format {'|'.join(formats)}" in text
