"""What training costs: counted as literal sums say, noted once, kept with networks, and told beside accuracy."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, one_line_error
from hypothesis import given, strategies as st
from test_store import SET, interrupted_at, long_trainer, trainer
from torch import nn

from ltdd_core import Interrupted, Row, Saving, TrainingOptions, TrainingSet, amount, make_network
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.evaluation.saving import saving_of
from ltdd_core.networks.store import NetworkStore
from ltdd_core.runs.costs import COSTS, DistillingCost, note_costs, stored_costs
from ltdd_core.storage import load_tensors, save_tensors
from ltdd_core.training import cost
from ltdd_core.training.cost import Ledger, TrainingCost, multiply_adds, total

SHAPE = (3, 8, 8)


def literal(width, depth, outputs, channels=3, side=8):
    """The multiply-adds of a ConvNet: each number of each feature map is a sum over a window of 3 x 3."""
    found = 0
    for _ in range(depth):
        found += side * side * width * channels * 3 * 3
        channels, side = width, side // 2
    return found + width * side * side * outputs


@pytest.mark.parametrize(("width", "depth"), [(4, 1), (8, 2), (6, 3)])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_multiply_adds_are_those_of_convolutions_and_matrix_products(width, depth, norm):
    network = make_network("convnet-d3", SHAPE, 5, width=width, depth=depth, norm=norm)
    assert multiply_adds(network, SHAPE) == literal(width, depth, 5)


def test_a_training_costs_epochs_times_images_of_three_passes():
    made, _ = trainer()
    before = torch.get_rng_state()
    network = made.train(SET, outputs=4)
    assert torch.equal(torch.get_rng_state(), before)
    cost, epochs = made.ledger.total, made.options["original"].epochs
    assert cost.images_seen == epochs * len(SET)
    assert cost.multiply_adds == 3 * multiply_adds(network, SHAPE) * epochs * len(SET)
    assert 0 < cost.seconds <= made.ledger.spent
    made.part("groups").train(SET, outputs=4)
    assert made.ledger.total.images_seen == 2 * cost.images_seen
    made.train(SET, outputs=4)  # known
    assert made.ledger.total.images_seen == 2 * cost.images_seen


def test_a_new_last_layer_costs_the_forward_pass_of_the_network_and_its_own_training():
    made, _ = trainer()
    network = made.train(SET, outputs=4)
    before, options = made.ledger.total, TrainingOptions(epochs=3)
    made.retrain(network, SET, options, layer=nn.Linear, purpose="layer")
    last = network.linear.in_features * 4
    more = made.ledger.total.multiply_adds - before.multiply_adds
    assert more == 3 * len(SET) * (multiply_adds(network, SHAPE) + 2 * last)


def test_a_network_that_cannot_be_identified_is_noted_each_time_and_a_plan_notes_nothing():
    numbers = iter(range(10))
    made, _ = trainer()
    made.plan(lambda planning: planning.train(SET, outputs=4))
    assert made.ledger.total == TrainingCost(0, 0.0, 0)
    for _ in range(2):
        made.train(SET, outputs=4, loss=lambda x, y: nn.functional.cross_entropy(x, y) + 0 * next(numbers, 0))
    assert made.ledger.total.images_seen == 2 * made.options["original"].epochs * len(SET)


def test_a_network_that_is_found_keeps_the_seconds_of_its_training(tmp_path):
    first, _ = trainer(NetworkStore(tmp_path))
    first.train(SET, outputs=4)
    again, trained = trainer(NetworkStore(tmp_path))
    again.train(SET, outputs=4)
    assert trained == []
    assert again.ledger.total == first.ledger.total
    (path,) = tmp_path.iterdir()
    tensors, facts = load_tensors(path)
    assert facts.pop("seconds") == first.ledger.total.seconds
    save_tensors(path, tensors, facts)  # as an earlier version wrote it
    earlier, trained = trainer(NetworkStore(tmp_path))
    earlier.train(SET, outputs=4)
    assert trained == []
    assert earlier.ledger.total.seconds is None
    assert earlier.ledger.total.multiply_adds == first.ledger.total.multiply_adds


def test_the_seconds_of_a_training_are_those_of_all_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("ltdd_core.networks.unfinished.SECONDS_BETWEEN_COPIES", 0.0)
    steps = -(-len(SET) // 10)
    cut, _ = long_trainer(tmp_path, keep_going=interrupted_at(3 * steps + 1))
    with pytest.raises(Interrupted):
        cut.train(SET, outputs=4)
    (left,) = tmp_path.iterdir()
    tensors, facts = load_tensors(left)
    assert facts["seconds"] > 0
    save_tensors(left, tensors, {**facts, "seconds": 1000.0})
    again, _ = long_trainer(tmp_path)
    again.train(SET, outputs=4)
    assert 1000 < again.ledger.total.seconds < 1060


def test_seconds_are_spent_once_by_a_block_inside_another_one(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr(cost, "monotonic", lambda: next(now))
    ledger = Ledger()
    with ledger.spending(), ledger.spending():
        pass
    assert ledger.spent == 10


def test_the_cost_of_several_trainings_is_their_sum_as_far_as_it_is_known():
    known, unknown = TrainingCost(3, 1.5, 10), TrainingCost(4, None, 20)
    assert total([known, known]) == TrainingCost(6, 3.0, 20)
    assert total([known, unknown]) == TrainingCost(7, None, 30)
    assert total([]) == Ledger().total == TrainingCost(0, 0.0, 0)


def test_a_set_counts_what_a_network_sees():
    images = torch.zeros(7, *SHAPE, dtype=torch.uint8)
    data = TrainingSet("original", images, torch.zeros(7, dtype=torch.long), PerChannel.of(SET.images), 4)
    made, _ = trainer()
    made.train(data, outputs=4)
    assert made.ledger.total.images_seen == 7 * made.options["original"].epochs


# ---- what a distilled set saves ------------------------------------------------------------------


WHOLE, SMALL = TrainingCost(1000, 50.0, 10**12), TrainingCost(100, 5.0, 10**11)


@pytest.mark.parametrize(
    ("whole", "small", "distilling", "sentence"),
    [
        (
            WHOLE,
            SMALL,
            DistillingCost(60.0, TrainingCost(9, 40.0, 9)),
            "Training on the distilled set alone takes 10 times fewer multiply-adds than on the whole set, and 5.0 s "
            "instead of 50 s. Distilling took 60 s, and the networks trained beforehand 40 s; it pays after 3 "
            "trainings.",
        ),
        (
            WHOLE,
            SMALL,
            DistillingCost(4.0, TrainingCost(0, 0.0, 0)),
            "Training on the distilled set alone takes 10 times fewer multiply-adds than on the whole set, and 5.0 s "
            "instead of 50 s. Distilling took 4.0 s; it pays after 1 training.",
        ),
        (
            SMALL,
            WHOLE,
            DistillingCost(4.0, TrainingCost(0, 0.0, 0)),
            "Training on the distilled set alone takes 10 times more multiply-adds than on the whole set, and 50 s "
            "instead of 5.0 s. Distilling took 4.0 s; it saves no time.",
        ),
        (
            WHOLE,
            SMALL,
            DistillingCost(4.0, TrainingCost(3, None, 3)),
            "Training on the distilled set alone takes 10 times fewer multiply-adds than on the whole set, and 5.0 s "
            "instead of 50 s. Distilling took 4.0 s, and the networks trained beforehand a time that is not known.",
        ),
        (
            TrainingCost(1000, None, 10**12),
            SMALL,
            DistillingCost(4.0, TrainingCost(3, 1.0, 3)),
            "Training on the distilled set alone takes 10 times fewer multiply-adds than on the whole set.",
        ),
        (
            WHOLE,
            SMALL,
            None,
            "Training on the distilled set alone takes 10 times fewer multiply-adds than on the whole set, and 5.0 s "
            "instead of 50 s.",
        ),
        (
            SMALL,
            TrainingCost(100, 6.0, 10**11 + 1),  # one image a class, and one in the whole set
            None,
            "Training on the distilled set alone takes as many multiply-adds as on the whole set, and 6.0 s instead of "
            "5.0 s.",
        ),
    ],
)
def test_the_saving_is_told_as_far_as_it_is_known(whole, small, distilling, sentence):
    saving = saving_of(whole, small, distilling)
    assert str(saving) == sentence
    assert Saving.from_json(json.loads(json.dumps(saving.to_json()))) == saving


def test_nothing_is_saved_where_a_cost_is_not_known():
    assert saving_of(None, SMALL, None) is None
    assert saving_of(WHOLE, None, None) is None
    with pytest.raises(ValueError, match="must have the costs of two trainings"):
        Saving.from_json({"whole": 3})


@given(st.floats(0.01, 1e6), st.floats(0.0, 1e6), st.floats(0.01, 1e6), st.floats(0.0, 1e6))
def test_it_pays_after_the_first_training_that_has_made_up_for_distilling(whole, share, own, teachers):
    small = whole * share / 1e6
    saving = Saving(TrainingCost(1, whole, 1), TrainingCost(1, small, 1), own, teachers)
    pays, spent = saving.pays_after, own + teachers
    if whole <= small:
        assert pays is None
        return
    close = 1e-9 * spent
    assert pays * (whole - small) >= spent - close
    assert pays == 1 or (pays - 1) * (whole - small) <= spent + close


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "n/a"), (0, "0"), (6, "6"), (999, "999"), (1000, "1k"), (12406, "12.4k"), (999499, "999k")),
        *((999500, "1M"), (3.72e6, "3.72M"), (9.3e11, "930G"), (4.5e12, "4.5T"), (2e21, "2e+03E")),
    ],
)
def test_amounts_have_three_digits(value, text):
    assert amount(value) == text


# ---- whole commands --------------------------------------------------------------------------------


def test_every_row_of_a_run_says_what_its_classifier_costs(finished):
    report, costs = json.loads((finished / "report.json").read_text()), stored_costs(finished)
    rows, images = {row["name"]: row for row in report["rows"]}, report["data"]["images"]
    assert rows["original, direct"]["images_seen"] == 2 * images
    assert rows["distilled, direct"]["images_seen"] == 2 * 20
    assert rows["two-stage, original + distilled"]["images_seen"] >= 2 * (images + 20)
    for name, row in rows.items():
        assert row["training_seconds"] == costs.lines[name].seconds > 0
        assert row["multiply_adds"] == costs.lines[name].multiply_adds
    direct = [rows[f"{data}, direct"] for data in ("original", "distilled")]
    assert report["saving"]["times_cheaper"] == direct[0]["multiply_adds"] / direct[1]["multiply_adds"] == images / 20
    steps = [json.loads(line)["seconds"] for line in (finished / "times.jsonl").read_text().splitlines()]
    assert report["saving"]["distilling_seconds"] == costs.distilling.seconds >= sum(steps)
    assert costs.distilling.beforehand == TrainingCost(0, 0.0, 0)


def test_a_run_that_goes_on_keeps_its_costs_and_one_of_an_earlier_version_has_none(finished, ltdd):
    shutil.copytree(finished, "run")
    report = json.loads(Path("run/report.json").read_text())
    Path("run/report.json").unlink()
    again = json.loads(ltdd("distill", "--out", "run", "--resume", "--json").stdout)
    assert again["rows"] == report["rows"]
    assert again["saving"] == report["saving"]
    Path("run", COSTS).write_text("{")
    message = one_line_error(ltdd("distill", "--out", "run", "--resume", "--quiet"))
    assert message == f"Error: {Path('run', COSTS)} is damaged. Delete the file, and the costs are not known."
    Path("run", COSTS).unlink()
    earlier = ltdd("distill", "--out", "run", "--resume", "--json", "--quiet")
    document = json.loads(earlier.stdout)
    assert {row["images_seen"] for row in document["rows"]} == {None}
    assert document["saving"] is None
    assert "seconds" not in ltdd("distill", "--out", "run", "--resume", "--quiet").stdout


def test_costs_are_added_to_what_is_known(tmp_path):
    assert stored_costs(tmp_path).lines == {}
    note_costs(tmp_path, lines={"a": WHOLE})
    note_costs(tmp_path, distilling=DistillingCost(2.0, SMALL))
    note_costs(tmp_path, lines={"b": TrainingCost(1, None, 2)})
    found = stored_costs(tmp_path)
    assert found.lines == {"a": WHOLE, "b": TrainingCost(1, None, 2)}
    assert found.distilling == DistillingCost(2.0, SMALL)
    assert found.distilling.total_seconds == 7.0


def test_the_teachers_of_a_run_are_named_apart_and_cost_the_same_when_they_are_found(ltdd):
    command = ["distill", "--method", "coreset", "--labeller", "teacher", *TINY, "--out"]
    first = ltdd(*command, "a")
    assert first.exit_code == 0, first.output
    assert re.search(r"^Training on the distilled set alone .* networks trained beforehand .*\.$", first.stdout, re.M)
    assert ltdd(*command, "b").exit_code == 0
    costs = [stored_costs(Path(run)) for run in "ab"]
    images = json.loads(Path("a/report.json").read_text())["data"]["images"]
    assert [each.distilling.beforehand.images_seen for each in costs] == [2 * images] * 2
    assert costs[0].distilling.beforehand == costs[1].distilling.beforehand
    assert costs[0].lines["distilled, direct"].images_seen == 2 * 20  # without the teacher


def test_the_experts_of_mtt_are_trained_beforehand(ltdd):
    how = (
        "--set",
        "matcher.experts.count=2",
        "--set",
        "matcher.experts.epochs=3",
        "--set",
        "matcher.max_start_epoch=1",
    )
    result = ltdd("distill", "--method", "mtt", *TINY, *how, "--set", "matcher.expert_epochs=1", "--out", "a")
    assert result.exit_code == 0, result.output
    beforehand = stored_costs(Path("a")).distilling.beforehand
    images = json.loads(Path("a/report.json").read_text())["data"]["images"]
    assert beforehand.images_seen == 2 * 3 * images
    assert beforehand.seconds > 0


def test_train_and_evaluate_have_the_mean_cost_over_seeds(finished, ltdd):
    trained = json.loads(ltdd("train", *TINY[4:], "--repeats", 2, "--json").stdout)
    (row,) = trained["rows"]
    assert row["images_seen"] == 2 * trained["data"]["images"]
    assert row["deviation"]["images_seen"] == 0
    assert row["training_seconds"] > 0
    evaluated = ltdd("evaluate", finished, "--head", "linear", "--set", "recipe.data=distilled", "--json")
    assert json.loads(evaluated.stdout)["rows"][0]["images_seen"] == 2 * 20


def test_rows_are_the_same_whatever_their_seconds():
    fields = dict.fromkeys(Row.__dataclass_fields__)
    assert Row(**{**fields, "training_seconds": 1.0}) == Row(**{**fields, "training_seconds": 2.0})
    assert Row(**{**fields, "images_seen": 1}) != Row(**{**fields, "images_seen": 2})
