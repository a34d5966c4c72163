"""What is shown of more classes than can be named: the worst and the best, the most confused pairs, and files."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, one_line_error

from ltdd_core import confusion_matrix, read_run
from ltdd_report.many import LISTED, confused_by, ends_of, shortened

CLASSES = 130


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A two-stage run and a folder of classifiers on 130 classes, and what was printed of both."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    folder = tmp_path_factory.mktemp("many")
    random, labels = np.random.default_rng(0), np.arange(CLASSES).repeat(2)
    arrays = {
        "train_images": random.integers(0, 256, (2 * CLASSES, 8, 8, 1), dtype=np.uint8),
        "test_images": random.integers(0, 256, (2 * CLASSES, 8, 8, 1), dtype=np.uint8),
    }
    np.savez(folder / "data.npz", train_labels=labels, test_labels=labels, **arrays)
    data = ["--data", "npz", "--root", str(folder / "data.npz"), "--store", str(folder / "nets")]
    printed = {}
    for name, command in {
        "run": ["distill", "--method", "coreset", "--plugin", "twostage", *TINY[2:], *data],
        "trained": ["train", *TINY[4:], *data],
    }.items():
        result = CliRunner().invoke(cli, [*command, "--out", str(folder / name)])
        assert result.exit_code == 0, result.output
        printed[name] = result.output
    return folder, printed


def rows_of(path):
    return json.loads((path / "report.json").read_text())["rows"]


def test_both_forms_of_the_confusion_are_read(many, ltdd):
    folder, _ = many
    stored = [row["confusion"] for row in rows_of(folder / "run")]
    assert all(isinstance(line, dict) for rows in stored for line in rows)
    found = read_run(folder / "run")
    assert [row.confusion for row in found.rows] == [confusion_matrix(rows) for rows in stored]
    report = json.loads((folder / "run" / "report.json").read_text())
    shutil.copytree(folder / "run", "dense")
    for line in report["rows"]:
        line["confusion"] = confusion_matrix(line["confusion"])
    Path("dense/report.json").write_text(json.dumps(report))
    assert read_run("dense").rows == found.rows
    pages = []
    for run in (folder / "run", "dense"):
        assert ltdd("report", run, "--out", "page.html").exit_code == 0
        pages.append(saved(Path("page.html").read_text(), "confusion.csv"))
    assert pages[0] == pages[1]
    report["rows"][0]["confusion"][0] = {"cat": 1}
    Path("dense/report.json").write_text(json.dumps(report))
    assert "not the number of a class" in one_line_error(ltdd("report", "dense"))


def saved(text, name):
    """The lines of a CSV file that a page offers."""
    content = base64.b64decode(re.search(rf'download="{re.escape(name)}" href="data:[\w/]+;base64,(.*?)"', text)[1])
    return list(csv.reader(io.StringIO(content.decode())))


def test_the_page_of_a_run_names_the_worst_and_the_best_and_has_the_rest_in_files(many, ltdd):
    folder, _ = many
    assert ltdd("report", folder / "run", "--out", folder / "run.html").exit_code == 0
    text, rows = (folder / "run.html").read_text(), rows_of(folder / "run")
    assert "The 20 worst classes of" in text
    assert "The 20 best classes of" in text
    assert "90 more classes are not in these tables" in text
    assert text.count("<caption>") == len(rows) == 4  # pairs of each line, and no matrix of 130 x 130
    assert "Confusion matrix of" not in text
    classes = saved(text, "classes.csv")
    assert classes[0][-1] == "group"
    assert len(classes) == 1 + CLASSES
    pairs = saved(text, "confusion.csv")[1:]
    assert sum(float(pair[3]) for pair in pairs) == len(rows) * 2 * CLASSES
    assert min(float(pair[3]) for pair in pairs) == 1  # those without an image are left out
    longest = max(re.sub(r"\s+", " ", part) for part in re.findall(r">([^<]{200,})<", text))
    assert len(longest) < 3000
    assert max(map(len, re.findall(r'alt="(.*?)"', text))) < 4000


def test_the_pages_of_classifiers_and_of_a_comparison_do_so_too(many, ltdd):
    folder, _ = many
    assert ltdd("report", folder / "trained", "--out", folder / "trained.html").exit_code == 0
    assert ltdd("compare", folder / "run", folder / "trained", "--html", folder / "compared.html").exit_code == 0
    for name in ("trained", "compared"):
        text = (folder / f"{name}.html").read_text()
        assert "The 20 worst classes of" in text
        assert "90 more classes are not in these tables" in text
    assert "confused most" in (folder / "trained.html").read_text()


def test_the_ends_are_those_of_the_last_line_and_equal_classes_go_from_head_to_tail():
    counts = [CLASSES - label for label in range(CLASSES)]
    counts[0], counts[1] = counts[1], counts[0]  # class 1 is the largest
    last = {"name": "asked", "per_class": [float(label % 10) for label in range(CLASSES - 1)] + [None]}
    first = {"name": "other", "per_class": [50.0] * CLASSES}
    names = [f"class {label}" for label in range(CLASSES)]
    ends = ends_of(names, counts, [first, last])
    assert ends.line == "asked"
    assert [line.name for line in ends.worst[:3]] == ["class 0", "class 10", "class 20"]
    assert [line.accuracies for line in ends.worst][12:15] == [[50.0, 0.0], [50.0, 1.0], [50.0, 1.0]]
    assert [line.name for line in ends.worst[13:15]] == ["class 1", "class 11"]
    assert [line.accuracies[1] for line in ends.best] == [9.0] * 12 + [8.0] * 8
    assert ends.between == CLASSES - 40
    assert ends_of(names[:20], counts[:20], [{"name": "a", "per_class": [1.0] * 20}]) is None


def test_the_most_confused_pairs_are_those_with_most_images():
    confusion = np.zeros((50, 50))
    confusion[3, 3], confusion[3, 7], confusion[3, 8], confusion[9, 3], confusion[9, 9] = 5, 3, 1, 3, 1
    (found,) = confused_by([str(label) for label in range(50)], [9] * 50, [{"name": "a", "confusion": confusion}])
    assert [(pair.name, pair.predicted, pair.images) for pair in found.pairs] == [
        ("9", "3", 3),  # three of four
        ("3", "7", 3),  # three of nine
        ("3", "8", 1),
    ]
    assert found.pairs[0].share == 75
    assert confused_by(["a", "b"], [9, 9], [{"name": "a", "confusion": [[1, 2], [0, 3]]}]) == []


def test_many_names_are_the_first_and_a_number():
    assert shortened([str(number) for number in range(LISTED)]).endswith("18, 19")
    assert shortened([str(number) for number in range(LISTED + 3)]).endswith("18, 19 and 3 more")


def test_a_terminal_shows_the_worst_and_the_best_and_names_the_file(many, ltdd):
    folder, printed = many
    text = printed["run"]
    classes = [line for line in text[text.index("\nclass ") :].splitlines() if re.match(r"\d+ +2 ", line)]
    asked = rows_of(folder / "run")[-1]["per_class"]
    assert len(classes) == 40
    shown = [asked[int(line.split()[0])] for line in classes]
    assert shown == sorted(shown)
    assert shown[0] == min(asked)
    assert shown[-1] == max(asked)
    said = f"These are the 20 worst and the 20 best of {CLASSES} classes by 'two-stage, original + distilled'"
    assert f"{said}; all are in {folder / 'run' / 'classes.csv'}." in text
    (groups,) = (line for line in text.splitlines() if line.startswith("groups: "))
    assert groups.count(",") == 2 * 19
    assert " more | " in groups
    assert ltdd("report", folder / "run", "--out", folder / "again.html").exit_code == 0
    assert list(csv.reader((folder / "run" / "classes.csv").read_text().splitlines())) == saved(
        (folder / "again.html").read_text(), "classes.csv"
    )


def test_the_data_show_both_ends_of_the_tail(many, ltdd):
    folder, _ = many
    text = ltdd("data", "show", "--data", "npz", "--root", folder / "data.npz").stdout
    assert len([line for line in text.splitlines() if re.match(r"\d+ +4 +2 ", line)]) == 40
    assert "90 classes between these are not shown; --json has all of them." in text
