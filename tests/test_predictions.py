"""Kept predictions: what fits neither the data nor itself is refused and never becomes a number of a table."""

import shutil

import pytest
import torch
from conftest import one_line_error

from ltdd_core import InputError, load_tensors, save_tensors
from ltdd_core.evaluation.predictions import PREDICTIONS, Scores, load_predictions, save_predictions

LINE = "two-stage, original + distilled"


def scores(images=6, classes=3, groups=None):
    return Scores(torch.randn(images, classes).log_softmax(1), None if groups is None else torch.tensor(groups))


def test_predictions_survive_the_round_trip(tmp_path):
    known = {"a": scores(), "b": scores(groups=[0, 1, 1])}
    known["b"].log_probabilities[0, 1] = -torch.inf
    save_predictions(tmp_path / "p", known)
    found = load_predictions(tmp_path / "p", images=6, classes=3)
    assert found.keys() == known.keys()
    assert torch.equal(found["b"].log_probabilities, known["b"].log_probabilities)
    assert found["a"].groups is None
    assert found["b"].groups.tolist() == [0, 1, 1]
    assert load_predictions(tmp_path / "gone") == {}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (LINE, lambda p: p[:7]),
        (LINE, lambda p: p[:, :3]),
        (LINE, lambda p: p * torch.nan),
        (LINE, lambda p: p.double()),
        (LINE, lambda p: torch.full_like(p, -torch.inf)),
        (LINE, lambda p: torch.full_like(p, torch.inf)),
        (LINE, lambda p: torch.tensor(1.0)),
        (f"{LINE}: groups", lambda g: g + 9),
        (f"{LINE}: groups", lambda g: g - 1),
        (f"{LINE}: groups", lambda g: g.float()),
        (f"{LINE}: groups", lambda g: g[:4]),
    ],
)
def test_damaged_predictions_are_one_line_and_no_number_of_a_table(ltdd, finished, tmp_path, name, change):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.json").unlink()
    tensors, facts = load_tensors(folder / PREDICTIONS)
    tensors[name] = change(tensors[name])
    save_tensors(folder / PREDICTIONS, tensors, facts)
    message = one_line_error(ltdd("distill", "--out", folder, "--resume", "--quiet"))
    assert message.startswith(f"Error: {folder / PREDICTIONS}: '{LINE}': ")
    assert "Delete the file" in message
    assert not (folder / "report.json").exists()


def test_scores_say_what_does_not_fit():
    with pytest.raises(InputError, match=r"predictions \[6, 3\]; there are 7 test images of 3 classes"):
        scores().check(7, 3)
    with pytest.raises(InputError, match="a group is none of"):
        scores(groups=[0, 1, 3]).check()
