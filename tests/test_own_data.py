"""A folder of one's own from the first look to a report: odd pictures, few test images, a class that has none."""

import csv
import functools
import io
import json
import re
import unicodedata

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY, one_line_error
from hypothesis import given, strategies as st
from made_folder import make_folder
from PIL import Image

from ltdd_core.cli import cli
from ltdd_core.evaluation.metrics import average, row
from ltdd_core.runs.named import LONGEST_NAME, as_file_name, as_folder_names

COUNTS = {"cat": 14, "red fox": 9, "кошка": 5, "猫": 3, "zebra": 1}
"""The last one, the only one without a test image, is last in order: what counts labels by the largest misses it."""
COUNTS_IN_ORDER = sorted(COUNTS)
TESTS = {"cat": 7, "red fox": 4, "кошка": 2, "猫": 1, "zebra": 0}


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="ltdd")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder `animals`, and a finished run on it under `runs`."""
    here = tmp_path_factory.mktemp("own")
    make_folder(here / "animals", COUNTS, sides=(8, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        result = run(
            "distill", "--method", "dm", "--plugin", "twostage", "--data", "folder", "--root", "animals", *TINY
        )
    assert result.exit_code == 0, result.output
    (here / "told.txt").write_text(result.output)
    return here


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def found(name):
    (path,) = (path for path in (name / "runs").glob("*-dm-*"))
    return path


# ---- the split ---------------------------------------------------------------------------------------


def test_data_show_has_the_counts_before_and_after(here):
    text = run("data", "show", "--data", "folder", "--root", "animals", "--validation", "0.2").stdout
    heading = re.search(r"^class .*$", text, re.MULTILINE)[0].split()
    assert heading == ["class", "found", "training", "validation", "test", "shot"]
    for name, count in COUNTS.items():
        whole, *parts = map(int, re.search(rf"^{name} +(\d+) +(\d+) +(\d+) +(\d+) ", text, re.MULTILINE).groups())
        assert whole == count == sum(parts)
        assert parts[-1] == TESTS[name]
    assert "-> 32x32" in text
    assert "4 of 5 classes have fewer than 10 test images (cat 7, red fox 4, кошка 2, 猫 1)" in text
    assert "1 of 5 classes has no test image (zebra)" in text


def test_data_show_as_json_has_the_same_numbers(here):
    document = json.loads(run("data", "show", "--data", "folder", "--root", "animals", "--json").stdout)
    assert dict(zip(document["classes"], document["found"], strict=True)) == COUNTS
    assert dict(zip(document["classes"], document["test_counts"], strict=True)) == TESTS
    sums = zip(document["counts"], document["validation_counts"], document["test_counts"], strict=True)
    assert [sum(parts) for parts in sums] == document["found"]
    assert document["resized"].endswith("-> 32x32")
    converted = ["4 images have the colours of a palette", "4 images have an alpha channel"]
    assert [sentence.split(";")[0] for sentence in document["advice"][:2]] == converted
    assert len(document["advice"]) == 4


def test_a_picture_of_what_networks_see_head_first(here, tmp_path):
    result = run("data", "show", "--data", "folder", "--root", "animals", "--picture", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    assert f"the picture is in {tmp_path / 'sheet.png'}" in result.stderr
    sheet = Image.open(tmp_path / "sheet.png")
    said = json.loads(sheet.text["sheet"])
    assert (said["rows"], said["columns"], said["size"]) == (5, 7, [32, 32])  # 7 training images of the head
    left, top, right, bottom = said["box"]
    drawn = torch.from_numpy(np.asarray(sheet.convert("L").crop((left, top, right, bottom))).copy())
    each = [rows.float() for rows in drawn.tensor_split(5)]
    last = [int((rows.mean(0) < 250).nonzero().max()) for rows in each]
    assert last == sorted(last, reverse=True)  # from head to tail the rows get shorter
    assert last[0] > 4 * last[-1]


def test_a_picture_with_names_that_no_font_has_says_so(tmp_path):
    for name in ("\U000e0001tag", "dog"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for level in (50, 200):
            Image.new("RGB", (8, 8), (level, 0, 0)).save(folder / f"{level}.png")
    told = run("data", "show", "--data", "folder", "--root", tmp_path / "data", "--picture", tmp_path / "a.png")
    assert "no installed font has these characters of the class names: \U000e0001. Pictures show" in told.stderr
    told = run("data", "show", "--data", "folder", "--root", tmp_path / "data")
    assert "font" not in told.stderr


def test_a_picture_of_a_hundred_classes_shows_some_of_all_parts_of_the_tail(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    from ltdd_core.runs import pictures
    from ltdd_core.testing.tiny import tiny_long_tailed

    drawn, draw = [], Axes.set_yticklabels
    monkeypatch.setattr(
        Axes, "set_yticklabels", lambda axes, names, **how: (drawn.extend(names), draw(axes, names, **how))
    )
    monkeypatch.setattr(pictures, "class_sheet", functools.partial(pictures.class_sheet, rows=3))
    pictures.save_data_picture(tmp_path / "x.png", tiny_long_tailed((2, 9, 4, 1, 6)))
    assert drawn == ["class 1 (9)", "class 2 (4)", "class 3 (1)"]


def test_a_folder_cannot_be_the_picture(here):
    assert "it is a folder" in one_line_error(run("data", "show", "--picture", "animals"))


# ---- a class without test images ----------------------------------------------------------------------


def test_a_class_without_test_images_is_said_once_and_na_everywhere(here):
    told = (here / "told.txt").read_text()
    assert told.count("no test image (zebra)") == 1
    assert "UserWarning" not in told
    assert re.search(r"^zebra +1 .* n/a", told, re.MULTILINE)
    rows = json.loads((found(here) / "report.json").read_text())["rows"]
    classes = json.loads((found(here) / "report.json").read_text())["data"]["classes"]
    for line in rows:
        known = [value for value in line["per_class"] if value is not None]
        assert [name for name, value in zip(classes, line["per_class"], strict=True) if value is None] == ["zebra"]
        assert line["worst"] == min(known)
        assert sum(map(sum, line["confusion"])) == sum(TESTS.values())


def test_a_report_a_comparison_and_a_watch_of_it(here, tmp_path):
    path = found(here)
    result = run("report", path, "--out", tmp_path / "page.html")
    assert (result.exit_code, result.stderr) == (0, "")
    page = (tmp_path / "page.html").read_text()
    assert "zebra n/a" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    result = run("compare", path, "--json", "--html", tmp_path / "compared.html")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    stored = json.loads((path / "report.json").read_text())
    by_name = {line["name"]: line for line in stored["rows"]}
    assert document["data"] == "animals"
    for line in document["rows"]:
        assert line["per_class"] == pytest.approx(by_name[line["name"]]["per_class"])
        assert line["worst"][0] == pytest.approx(by_name[line["name"]]["worst"])
        assert line["accuracy"][0] == pytest.approx(by_name[line["name"]]["accuracy"])
        assert line["std"][0] == pytest.approx(by_name[line["name"]]["std"])
    assert "zebra n/a" in (tmp_path / "compared.html").read_text()
    assert "dm on animals" in run("watch", path).stdout


def test_predictions_and_a_model_card_of_it(here, tmp_path):
    path = found(here)
    result = run("predict", path, "animals/zebra", "animals/猫", "--csv", tmp_path / "x.csv", "--truth", "folder")
    assert result.exit_code == 0, result.output
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))) == 4
    result = run("export", path, "--format", "state-dict", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert card.startswith("# animals: ")
    assert "since there was no test image: zebra." in card


def test_repeats_and_a_grid_of_it(here, tmp_path):
    result = run("evaluate", found(here), "--head", "linear", "--repeats", "2", "--json", "--set",
                 "training.distilled.epochs=1", "--out", "evaluated")  # fmt: skip
    assert result.exit_code == 0, result.output
    (line,) = json.loads(result.stdout)["rows"]
    for values in (line["per_class"], line["deviation"]["per_class"]):
        assert [name for name, value in zip(COUNTS_IN_ORDER, values, strict=True) if value is None] == ["zebra"]


def test_a_grid_of_it(here):
    (here / "grid.yaml").write_text(f"""
title: own
common:
  network: {{width: 8, depth: 2}}
  iterations: 2
  training: {{original: {{epochs: 1}}, distilled: {{epochs: 1}}}}
data: [{{name: folder, root: {here / "animals"}, label: animals}}]
ipc: [1]
methods: [dm]
seeds: [0, 1]
""")
    result = run("bench", "grid.yaml", "--out", "grid")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("no test image (zebra)") == 1
    table = (here / "grid" / "table.md").read_text()
    assert re.search(r"accuracy of each class \| cat \| red fox \| zebra \|", table)
    assert re.search(r"^\| original, direct (\| [\d.]+ ± [\d.]+ ){2}\| n/a \|", table, re.MULTILINE)
    (row, *_) = csv.DictReader((here / "grid" / "table.csv").read_text(encoding="utf-8").splitlines())
    assert (row["class zebra"], row["class zebra deviation"]) == ("", "")


def test_classes_are_not_grouped_by_test_images_that_one_of_them_lacks(here):
    options = ("--data", "folder", "--root", "animals", "--set", "training.original.epochs=1", "--quiet")
    result = run("analyze", "grouping", *options, "--source", "test", "--out", "grouping")
    assert "no test image of class 'zebra'" in one_line_error(result)
    assert one_line_error(result).endswith("use --source original.")


def test_means_over_repeats_leave_out_a_class_without_test_images():
    labels, generator = torch.tensor([0, 0, 2]), torch.Generator().manual_seed(0)
    rows = [row("x", 1, torch.rand(3, 3, generator=generator).log(), labels, (5, 4, 3)) for _ in range(3)]
    mean, deviation = average(rows)
    assert mean.per_class[1] is deviation.per_class[1] is None
    for label in (0, 2):
        values = torch.tensor([line.per_class[label] for line in rows], dtype=torch.float64)
        assert mean.per_class[label] == pytest.approx(float(values.mean()))
        assert deviation.per_class[label] == pytest.approx(float(values.std(correction=0)))


# ---- the name -----------------------------------------------------------------------------------------


def test_the_folder_gives_the_run_its_name_and_the_configuration_keeps_the_source(here):
    path = found(here)
    assert path.name == "animals-dm-seed0-1"
    assert json.loads((path / "run.json").read_text())["data"]["name"] == "animals"
    section = (path / "config.yaml").read_text().partition("data:")[2]
    assert section.split()[:4] == ["name:", "folder", "title:", "null"]


def test_data_may_be_renamed_and_a_run_goes_on(here):
    again = run("distill", "--out", found(here), "--resume", "--name", "Tiere von Anna", "--quiet")
    assert again.exit_code == 0, again.output
    assert run("data", "show", "--data", "folder", "--root", "animals", "--name", "x y").stdout.startswith("x y: ")
    assert run("data", "show", "--name", "").exit_code == 2


def test_a_run_is_found_again_under_another_name(here):
    command = ("distill", "--method", "dm", "--plugin", "twostage", "--data", "folder", "--root", "animals", *TINY)
    result = run(*command, "--name", "other", "--resume")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (here / "runs").glob("*-dm-*")] == ["animals-dm-seed0-1"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("animals", "animals"),
        ("Tiere von Anna", "Tiere-von-Anna"),
        ("a/b\\c:d", "a-b-c-d"),
        ("हिन्दी 猫", "हिन्दी-猫"),
        ("..", "data"),
        ("\x1b[31m", "[31m"),
        ("猫" * 100, "猫" * (LONGEST_NAME // 3)),
    ],
)
def test_a_title_is_the_name_of_a_folder(title, name):
    assert as_file_name(title) == name


FOLDERS = {
    "cat": "cat",
    "top/T-shirt": "top-T-shirt",
    "a:b": "a-b",
    "CON": "CON-",
    "aux.txt": "aux-.txt",
    "Com1 ": "Com1-",
    "cat.": "cat-",
    "two. ": "two--",
    "Cat": "Cat-2",
    ".": "-",
    "": "--2",
    ".hidden": "-hidden",
    "console": "console",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}": "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "cafe\N{COMBINING ACUTE ACCENT}": "cafe\N{COMBINING ACUTE ACCENT}-2",
    "猫": "猫",
    "a\tb": "a-b-2",
}


def test_each_class_has_a_folder_whatever_the_system():
    assert dict(zip(FOLDERS, as_folder_names(list(FOLDERS)), strict=True)) == FOLDERS


@given(
    st.lists(st.text(max_size=12), max_size=6) | st.lists(st.sampled_from([*FOLDERS, *FOLDERS.values()]), max_size=9)
)
def test_the_rule_of_windows_for_names_of_folders(names):
    """https://learn.microsoft.com/windows/win32/fileio/naming-a-file"""
    found = as_folder_names(names)
    assert len(found) == len(names)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(found)
    devices = {"CON", "PRN", "AUX", "NUL"} | {f"{kind}{digit}" for kind in ("COM", "LPT") for digit in range(1, 10)}
    for name in found:
        assert name
        assert not any(letter in '<>:"/\\|?*' or ord(letter) < 32 for letter in name)
        assert not name.endswith((".", " "))
        assert name.partition(".")[0].strip().upper() not in devices


# ---- arrays of other channels and numbers ------------------------------------------------------------


def test_four_channels_of_floats_go_all_the_way(tmp_path, monkeypatch):
    """What is declared for training is applied in predicting: the test images have the answers of the run."""
    monkeypatch.chdir(tmp_path)
    random, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 24), ("test", 8)):
        labels = np.arange(count) % 2
        images = random.uniform(-1, 1, (count, 8, 8, 4)).astype(np.float32)
        images[..., 3] = 2 * labels[:, None, None] - 1  # only the fourth channel tells the classes apart
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    np.savez("bands.npz", **arrays)
    np.savez("new.npz", images=arrays["test_images"])
    declared = ("--set", "data.channels=4", "--set", "data.range=[-1,1]")
    shown = run("data", "show", "--data", "npz", "--root", "bands.npz", *declared, "--picture", "sheet.png")
    assert shown.stdout.startswith("bands: 24 training and 8 test images of 4x8x8, 2 classes"), shown.output
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 100
    made = run(
        "distill", "--method", "dm", "--data", "npz", "--root", "bands.npz", *declared, "--out", "run",
        *(part.replace("original.epochs=2", "original.epochs=20") for part in TINY),
        "--set", "training.original.batch=8",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert run("evaluate", "run").exit_code == 0
    answers = json.loads(run("predict", "run", "new.npz", "--line", "original-direct", "--json").stdout)
    predicted = [int(image["class"]) for image in answers["images"]]
    assert predicted == arrays["test_labels"].tolist()
    np.savez("unknown.npz", images=arrays["test_images"][..., :2])
    refused = run("predict", "run", "unknown.npz")
    assert "unknown.npz[0] has 2 channels, and this classifier takes images of 4." in refused.output
