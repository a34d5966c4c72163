"""Long-tailed test distributions: what a balanced test part says about them, against tests that have them."""

import io
import json
from pathlib import Path

import pytest
import torch
from conftest import one_line_error
from hypothesis import given, settings, strategies as st
from PIL import Image

from ltdd_core import InputError
from ltdd_core.cli.settings import PlainConsole
from ltdd_core.cli.tables import print_test_distributions
from ltdd_core.evaluation.label_shift import check_imbalances, shares_of_classes
from ltdd_core.evaluation.metrics import average, row

GRID = "iterations: 1, network: mlp, training: {original: {epochs: 1}, distilled: {epochs: 1}}"
SADE = [2, 5, 10, 25, 50]
NAMES = [
    *("forward-50", "forward-25", "forward-10", "forward-5", "forward-2", "uniform"),
    *("backward-2", "backward-5", "backward-10", "backward-25", "backward-50"),
]
COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=7)


def answers(labels, classes, seed=0):
    draws = torch.Generator().manual_seed(seed)
    wrong = torch.randn(len(labels), classes, generator=draws, dtype=torch.float64)
    return (wrong + 1.5 * torch.nn.functional.one_hot(labels, classes)).log_softmax(1)


def literal(counts, imbalance, reverse):
    """n_i = n_max IF^(-i / (C - 1)) of class i in the order of the training images, as a share of all."""
    ranked = sorted(range(len(counts)), key=lambda label: (-counts[label], label))
    if reverse:
        ranked.reverse()
    sizes = {label: imbalance ** (-place / (len(counts) - 1)) for place, label in enumerate(ranked)}
    return [sizes[label] / sum(sizes.values()) for label in range(len(counts))]


@given(COUNTS, st.floats(1.01, 1000))
@settings(max_examples=60, deadline=None)
def test_shares_are_those_of_the_exponential_profile(counts, imbalance):
    shares = shares_of_classes(counts, [imbalance])
    forward, uniform, backward = shares.values()
    assert forward.dtype == torch.float64
    assert forward.tolist() == pytest.approx(literal(counts, imbalance, reverse=False), rel=1e-12)
    assert backward.tolist() == pytest.approx(literal(counts, imbalance, reverse=True), rel=1e-12)
    assert uniform.tolist() == pytest.approx([1 / len(counts)] * len(counts), rel=1e-12)
    assert float(forward.max() / forward.min()) == pytest.approx(imbalance)


def test_distributions_stand_from_forward_to_backward_and_each_once():
    assert list(shares_of_classes([3, 2, 1], [10, 2, 50, 5, 25, 2])) == NAMES
    assert list(shares_of_classes([3, 2, 1], [2.5])) == ["forward-2.5", "uniform", "backward-2.5"]


@pytest.mark.parametrize(("counts", "copies"), [([9, 5, 2], (4, 2, 1)), ([2, 5, 9], (1, 2, 4)), ([5, 9, 2], (2, 4, 1))])
def test_it_is_as_if_the_test_part_had_this_distribution(counts, copies):
    """Accuracy and calibration error of a test part with each image as often as its class is frequent, in fp64."""
    labels = torch.arange(3).repeat_interleave(20)
    said = answers(labels, 3)
    found = row("line", 7, said, labels, counts, test_imbalances=[4.0]).test_distributions
    often = torch.tensor(copies)
    for name, times in (("forward-4", often), ("uniform", torch.ones(3).long()), ("backward-4", 4 // often)):
        again = torch.arange(60).repeat_interleave(times[labels])
        expected = row("line", 7, said[again], labels[again], counts)
        assert found[name]["accuracy"] == pytest.approx(expected.accuracy, abs=1e-10)
        assert found[name]["calibration_error"] == pytest.approx(expected.calibration_error, abs=1e-10)
    assert found["forward-4"]["accuracy"] != pytest.approx(found["backward-4"]["accuracy"], abs=0.1)


@given(COUNTS, st.data())
@settings(max_examples=40, deadline=None)
def test_a_class_without_a_test_image_has_no_share_and_uniform_is_the_mean_over_classes(counts, data):
    gone = data.draw(st.integers(0, len(counts) - 1))
    tests = data.draw(st.lists(st.integers(1, 5), min_size=len(counts), max_size=len(counts)))
    tests[gone] = 0
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(tests))
    found = row("line", 7, answers(labels, len(counts)), labels, counts, test_imbalances=[10.0])
    known = {label: value for label, value in enumerate(found.per_class) if value is not None}
    assert known.keys() == set(range(len(counts))) - {gone}
    weights = {label: literal(counts, 10, reverse=False)[label] for label in known}
    expected = sum(weights[label] * known[label] for label in known) / sum(weights.values())
    under = found.test_distributions
    assert under["forward-10"]["accuracy"] == pytest.approx(expected, abs=1e-9)
    assert under["uniform"]["accuracy"] == pytest.approx(sum(known.values()) / len(known), abs=1e-9)
    assert all(0 <= value <= 100 + 1e-9 for values in under.values() for value in values.values())


def test_a_balanced_test_part_is_uniform():
    labels = torch.arange(4).repeat_interleave(25)
    found = row("line", 7, answers(labels, 4), labels, [9, 5, 3, 1], test_imbalances=[3.0])
    assert found.test_distributions["uniform"]["accuracy"] == pytest.approx(found.accuracy)
    assert found.test_distributions["uniform"]["calibration_error"] == pytest.approx(found.calibration_error)
    assert "test_distributions" not in row("line", 7, answers(labels, 4), labels, [9, 5, 3, 1]).to_json()


@pytest.mark.parametrize("imbalance", [1.0, 0.5, 0.0, -2.0, float("inf"), float("nan")])
def test_a_factor_that_makes_no_long_tail_is_refused(imbalance):
    check_imbalances(SADE)
    with pytest.raises(InputError, match="test_imbalances is an imbalance factor, a number above 1, not"):
        check_imbalances([2.0, imbalance])


# ---- at the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [140, 80, 60, 40])
def test_no_digit_is_lost_however_narrow_the_terminal(width):
    labels = torch.arange(3).repeat_interleave(20)
    found = row("original, balanced softmax", 7, answers(labels, 3), labels, [9, 5, 2], test_imbalances=SADE)
    console = PlainConsole(stderr=False)
    console.file, console.width = io.StringIO(), width
    print_test_distributions(console, [found])
    shown = console.file.getvalue().split()
    wanted = [f"{value:.1f}" for values in found.test_distributions.values() for value in values.values()]
    assert all(value in shown for value in wanted)
    assert ("F50" in shown) == (width == 140)
    assert ("forward-50" in shown) == (width < 140)


def test_train_and_predict_score_on_the_distributions_that_are_asked_for(ltdd, tmp_path):
    of_mlp = ("--data", "digits-lt", "--network", "mlp", "--set", "training.original.epochs=1")
    factors = ("--test-imbalance", "10", "--test-imbalance", "50")
    made = ltdd("train", *of_mlp, *factors, "--repeats", "2", "--quiet", "--json", "--out", "scored")
    assert made.exit_code == 0, made.output
    (line,) = json.loads(made.stdout)["rows"]
    names = ["forward-50", "forward-10", "uniform", "backward-10", "backward-50"]
    assert list(line["test_distributions"]) == list(line["deviation"]["test_distributions"]) == names
    shown = ltdd("train", *of_mlp, *factors[:2], "--quiet").stdout
    assert "F10" in shown
    assert "ECE: expected calibration error" in shown
    for name in ("0", "3"):
        (tmp_path / "here" / "seen" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 200).save(tmp_path / "here" / "seen" / name / "x.png")
    predict = ("predict", "scored", "seen", "--line", line["classifiers"][0], *factors)
    refused = ltdd(*predict)
    assert refused.exit_code == 2
    assert "Error: --test-imbalance is about scores: use --truth too" in refused.stderr
    scored = json.loads(ltdd(*predict, "--truth", "folder", "--json").stdout)["row"]
    assert list(scored["test_distributions"]) == names
    assert scored["test_distributions"]["uniform"]["accuracy"] == pytest.approx(scored["accuracy"])
    assert "B50" in ltdd(*predict, "--truth", "folder").stdout
    wrong = ltdd("train", *of_mlp, "--test-imbalance", "1")
    assert one_line_error(wrong) == "Error: --test-imbalance: each item of test_imbalances must be above 1, not 1.0."


def compared(ltdd, *words):
    result = ltdd("compare", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_run_is_scored_again_without_training_and_its_page_shows_it(ltdd, finished):
    before = {path: path.read_bytes() for path in (finished / "classifiers").iterdir()}
    shown = ltdd("distill", "--out", finished, "--resume", "--test-imbalance", 50, "--quiet")
    assert "F50" in shown.stdout, shown.output
    assert {path: path.read_bytes() for path in (finished / "classifiers").iterdir()} == before
    (line, *_) = json.loads((finished / "report.json").read_text())["rows"]
    names = ["forward-50", "uniform", "backward-50"]
    assert list(line["test_distributions"]) == names
    again = ltdd("distill", "--out", finished, "--resume", "--quiet", "--json")
    assert json.loads(again.stdout)["rows"][0]["test_distributions"] == line["test_distributions"]
    assert ltdd("report", finished, "--out", "page.html").exit_code == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert all(f'<th scope="col">{name}</th>' in page for name in names)
    score = line["test_distributions"]["backward-50"]
    assert f'<td>{score["accuracy"]:.1f} <span class="quiet below">ECE {score["calibration_error"]:.1f}</span>' in page
    (entry,) = (each for each in json.loads(compared(ltdd, finished, "--json"))["rows"] if each["name"] == line["name"])
    value, low, high = entry["test_distributions"]["backward-50"]
    assert value == pytest.approx(score["accuracy"])
    assert low <= value <= high
    cell = f"{value:.1f} ({low:.1f} to {high:.1f})"
    assert cell in compared(ltdd, finished, "--html", "compared.html")
    assert (
        f'<td>{value:.1f} <span class="quiet below">({low:.1f} to {high:.1f})</span>'
        in Path("compared.html").read_text()
    )
    evaluated = ltdd(
        "evaluate", finished, "--network", "mlp", "--quiet", "--json", "--set", "training.distilled.epochs=1"
    )
    assert list(json.loads(evaluated.stdout)["rows"][0]["test_distributions"]) == names


def test_a_grid_shows_them_and_trains_nothing_for_it(ltdd):
    text = f"methods: [coreset]\nipc: [1]\nseeds: [0, 1]\ncommon: {{{GRID}}}\n"
    Path("grid.yaml").write_text(text)
    assert ltdd("bench", "grid.yaml", "--quiet").exit_code == 0
    assert "forward" not in Path("runs/bench-grid/table.md").read_text()
    found = ltdd("bench", "grid.yaml", "--only-table", "--set", "test_imbalances=[50]")
    assert "F50" in found.stdout, found.output
    document = json.loads(Path("runs/bench-grid/table.json").read_text())
    row = document["rows"][-1]
    mean = sum(each["test_distributions"]["backward-50"]["accuracy"] for each in row["each"]) / 2
    assert row["test_distributions"]["backward-50"]["accuracy"] == pytest.approx(mean)
    written = f"{mean:.1f} ± {row['deviation']['test_distributions']['backward-50']['accuracy']:.1f}"
    assert f"| {written} |" in Path("runs/bench-grid/table.md").read_text()
    assert "backward-50 accuracy deviation" in Path("runs/bench-grid/table.csv").read_text()
    assert ltdd("bench", "grid.yaml", "--list", "--set", "test_imbalances=[50]").stdout.count("finished  ") == 2


def test_repeats_are_averaged_distribution_by_distribution():
    labels = torch.arange(3).repeat_interleave(20)
    rows = [row("line", 7, answers(labels, 3, seed), labels, [9, 5, 2], test_imbalances=[4.0]) for seed in range(3)]
    means, deviations = average(rows)
    values = [one.test_distributions["forward-4"]["accuracy"] for one in rows]
    middle = sum(values) / 3
    assert means.test_distributions["forward-4"]["accuracy"] == pytest.approx(middle)
    spread = (sum((value - middle) ** 2 for value in values) / 3) ** 0.5
    assert deviations.test_distributions["forward-4"]["accuracy"] == pytest.approx(spread)
