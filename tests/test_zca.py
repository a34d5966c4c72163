"""ZCA whitening: against numpy's singular values, through the file, and in a run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from safetensors import safe_open

from ltdd_core import ZCA, DistilledSet, InputError, generator, load_data, load_distilled, save_distilled

SHAPE = (2, 3, 4)


def images(n=30, shape=SHAPE):
    return torch.randint(0, 256, (n, *shape), generator=generator(n, "images"), dtype=torch.uint8)


def literal(raw, eps):
    """The transform as kornia's ``ZCAWhitening`` documents it, in float64."""
    flat = raw.flatten(1).numpy().astype(np.float64) / 255
    mean = flat.mean(0)
    centred = flat - mean
    axes, variances, _ = np.linalg.svd(centred.T @ centred / (len(flat) - 1))
    return mean, axes @ np.diag(1 / np.sqrt(variances + eps)) @ axes.T


@pytest.mark.parametrize("n", [2, 10, 200])
def test_the_matrix_is_that_of_the_equation(n):
    """Fewer images than pixels leave axes without variance, which eps takes care of."""
    raw = images(n)
    mean, matrix = literal(raw, 0.1)
    found = ZCA.of(raw, 0.1)
    np.testing.assert_allclose(found.mean.flatten(), mean, atol=1e-6)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-5)
    expected = (raw.flatten(1).numpy() / 255 - mean) @ matrix
    np.testing.assert_allclose(found.apply(raw).flatten(1), expected, atol=1e-5)


def test_pixels_are_uncorrelated_after_it():
    applied = ZCA.of(images(4000), 1e-6).apply(images(4000)).flatten(1).double()
    covariance = torch.cov(applied.T)
    torch.testing.assert_close(covariance, torch.eye(24, dtype=torch.float64), atol=1e-3, rtol=0)


@given(st.integers(2, 40), st.sampled_from([(1, 1, 1), (1, 5, 3), (3, 2, 2)]), st.floats(1e-3, 1.0))
@settings(max_examples=25, deadline=None)
def test_invert_goes_back(n, shape, eps):
    raw = images(n, shape)
    normalisation = ZCA.of(raw, eps)
    back = normalisation.invert(normalisation.apply(raw))
    assert (back * 255 - raw).abs().max() < 0.5
    assert (back >= 0).all()
    assert (back <= 1).all()


def test_each_image_is_whitened_by_itself():
    raw = images(1030)  # more than go through at once
    normalisation = ZCA.of(raw, 0.1)
    torch.testing.assert_close(normalisation.apply(raw)[1025:], normalisation.apply(raw[1025:]))
    assert normalisation.apply(raw[:0]).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "at least two training images"),
        (torch.zeros(2, 3, 100, 100, dtype=torch.uint8), r"3x100x100 are too large.* 3\.4 GiB.*image_size="),
    ],
)
def test_what_cannot_be_whitened_is_refused(raw, message):
    with pytest.raises(InputError, match=message):
        ZCA.of(raw, 0.1)


def test_it_goes_with_no_other_statistics():
    with pytest.raises(InputError, match="ZCA has its own"):
        load_data("digits-lt", normalisation="zca", mean=(0.5,), std=(0.5,))


def stored(path, **change):
    normalisation = ZCA.of(images(), 0.1)
    facts = {"images": torch.randn(4, *SHAPE), "labels": torch.arange(4) % 2, "class_names": ("a", "b"), "ipc": 2}
    save_distilled(path, DistilledSet(**{**facts, "normalisation": normalisation, **change}))
    return normalisation


def test_a_set_keeps_its_whitening(tmp_path):
    path = tmp_path / "x.safetensors"
    before = stored(path)
    after = load_distilled(path).normalisation
    assert torch.equal(before.apply(images()), after.apply(images()))
    first = path.read_bytes()
    stored(path, images=load_distilled(path).images)
    assert path.read_bytes() == first


def test_whitening_for_other_images_is_refused(tmp_path):
    stored(tmp_path / "x.safetensors", images=torch.randn(4, 2, 4, 4))
    with pytest.raises(InputError, match=r"its ZCA is for images of \(2, 3, 4\), not \(2, 4, 4\)"):
        load_distilled(tmp_path / "x.safetensors")


def test_a_run_on_whitened_images(ltdd):
    """The file alone says how to whiten; evaluate does it by itself, whatever the colours of the data it is given."""
    result = ltdd("distill", "--method", "dm", *TINY, "--set", "data.normalisation=zca", "--out", "run", "--json")
    assert result.exit_code == 0, result.output
    with safe_open("run/distilled.safetensors", "pt") as file:
        mean, matrix = file.get_tensor("zca_mean"), file.get_tensor("zca_matrix")
        facts = json.loads(file.metadata()["normalisation"])
    assert facts == {"kind": "zca", "eps": 0.1}
    data = load_data("digits-lt", normalisation="zca")
    page = (Path(__file__).parent.parent / "docs" / "file-formats.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {"image": data.test_images[3].float() / 255, "zca_mean": mean, "zca_matrix": matrix}
    exec(snippet, names)
    torch.testing.assert_close(data.normalisation.apply(data.test_images)[3], names["whitened"])

    evaluations = [
        json.loads(ltdd("evaluate", "run", "--json", *plain).stdout)["rows"][0]["per_class"]
        for plain in ((), ("--set", "data.normalisation=per-channel"))
    ]
    assert evaluations[0] == evaluations[1] == json.loads(result.stdout)["rows"][1]["per_class"]


def test_an_unknown_normalisation_is_one_line(ltdd):
    error = one_line_error(ltdd("distill", "--method", "dm", "--set", "data.normalisation=zac"))
    assert "data.normalisation must be" in error
