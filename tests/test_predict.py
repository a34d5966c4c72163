"""``ltdd predict``: images of every kind in, classes out; and the same numbers as the table of the run."""

import csv
import gc
import json
import shutil
import unicodedata
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY, one_line_error
from PIL import Image

import ltdd_core
from ltdd_core import InputError, TrainedClassifier, load_classifier
from ltdd_core.cli import cli
from ltdd_core.config.ipc import GroupedIPC
from ltdd_core.data.given import GivenImage, classes_by_file, classes_by_folder
from ltdd_core.evaluation.shown import COSTS

NAMES = ["cat", "dog", "fox"]


def predicted(row):
    """A row of a run as predict has it: alone, so not behind another, and of a classifier whose training is over."""
    shown = {key: value for key, value in row.items() if key not in ("accuracy_interval", "behind_best")}
    return {**shown, **dict.fromkeys(COSTS)}


def save(path, level, size=(12, 12), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng([seed, level])
    pixels = (draws.integers(0, 120, (size[1], size[0], 3)) + level).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A folder with images/train, images/test, and a run on them."""
    folder = tmp_path_factory.mktemp("animals")
    for part, counts in (("train", (20, 6, 2)), ("test", (7, 7, 7))):
        for label, (name, count) in enumerate(zip(NAMES, counts, strict=True)):
            for index in range(count):
                save(folder / "images" / part / name / f"{index:02}.png", 60 * label, seed=index)
    command = [
        "distill",
        "--data",
        "folder",
        "--root",
        str(folder / "images"),
        "--method",
        "dm",
        "--plugin",
        "twostage",
    ]
    longer = ["--set", "training.original.epochs=20", "--set", "training.distilled.epochs=20"]
    result = CliRunner().invoke(cli, [*command, *TINY[:8], *longer, "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def here(animals, ltdd):
    """The run and its images in the folder where commands are given."""
    shutil.copytree(animals, ".", dirs_exist_ok=True)
    return ltdd


def document(result):
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


# ---- the same numbers as the run ----------------------------------------------------------------------


def test_the_test_folder_gives_the_numbers_of_the_table_to_the_last_digit(here):
    rows = [predicted(row) for row in json.loads(Path("run/report.json").read_text())["rows"]]
    assert rows[-1]["accuracy"] > 50
    found = document(here("predict", "run", "images/test", "--truth", "folder", "--json"))
    assert (found["row"], found["skipped"]) == (rows[-1], 0)
    for row in rows[:2]:  # whose groups are those of the last line
        found = document(here("predict", "run", "images/test", "--truth", "folder", "--json", "--line", row["name"]))
        assert found["row"] == {**row, "group_accuracy": None}
        assert found["line"] == row["name"]


def test_a_table_of_scores_is_that_of_the_run(here):
    told = here("predict", "run", "images/test", "--truth", "folder", "--csv", "out.csv")
    (line,) = [line for line in told.stdout.splitlines() if line.strip().startswith("two-stage,")]
    again = here("distill", "--out", "run", "--resume")
    of_the_run = next(row for row in again.stdout.splitlines() if "two-stage, " in row)
    assert line.split() == of_the_run.split()[: -len(COSTS)]
    assert "groups: " in told.stdout


def test_the_answers_stand_beside_the_true_classes(here):
    """So that the images that are taken for something else can be found."""
    files = sorted(str(path) for path in Path("images/test").rglob("*.png"))
    Path(files[0]).rename("images/test/dog/moved.png")  # whose true class is dog
    found = document(here("predict", "run", "images/test", "--truth", "folder", "--json"))
    images = found["images"]
    assert [image["truth"] for image in images] == [Path(image["file"]).parent.name for image in images]
    right = [image["truth"] == image["class"] for image in images]
    assert 100 * sum(right) / len(right) == pytest.approx(found["row"]["accuracy"])
    here("predict", "run", "images/test", "--truth", "folder", "--csv", "out.csv")
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["file", "truth", "class"]
    for key in ("file", "truth", "class"):
        assert [row[key] for row in rows] == [image[key] for image in images]
    assert "truth" not in document(here("predict", "run", "images/test", "--json"))["images"][0]


def decomposed(name):
    return unicodedata.normalize("NFD", name)


def test_true_classes_are_found_in_either_form_of_unicode(tmp_path):
    """Folders from a Mac have decomposed names, and those of classes are composed."""
    image = GivenImage(str(tmp_path / decomposed("Bär") / "é.png"), tmp_path / decomposed("Bär") / "é.png", tmp_path)
    (tmp_path / "truth.csv").write_text(f"file,class\n{Path(image.name).relative_to(tmp_path)},{decomposed('Bär')}\n")
    for class_names in (["Affe", "Bär"], ["Affe", decomposed("Bär")]):
        assert classes_by_folder([image], class_names) == [1]
        assert classes_by_file(tmp_path / "truth.csv", [image], class_names) == [1]
    elsewhere = replace(image, name=str(tmp_path / "Bär" / decomposed("é.png")))
    assert classes_by_file(tmp_path / "truth.csv", [elsewhere], ["Affe", "Bär"]) == [1]
    assert GroupedIPC(classes={decomposed("Bär"): 3}).of_classes(["Affe", "Bär"], [9, 5]) == (10, 3)


def test_a_message_does_not_name_a_thousand_classes(tmp_path):
    stray = GivenImage("stray.png", tmp_path / "stray.png")
    with pytest.raises(InputError, match=r"\(c0, c1, .*, c49 and 950 more\): use --truth") as caught:
        classes_by_folder([stray], [f"c{number}" for number in range(1000)])
    assert "c50" not in str(caught.value)


def test_the_true_classes_come_from_a_csv_file_too(here):
    files = sorted(Path("images/test").rglob("*.png"))
    lines = ["\ufefffile,class", *(f"{path},{path.parent.name}" for path in files)]
    Path("truth.csv").write_text("\n".join(lines))
    Path("images/beside.csv").write_text("\n".join(lines).replace("images/", ""))
    for truth in ("truth.csv", "images/beside.csv"):
        by_file = document(here("predict", "run", *files, "--json", "--truth", truth))
        by_folder = document(here("predict", "run", "images/test", "--json", "--truth", "folder"))
        assert by_file == by_folder


def test_a_name_that_a_spreadsheet_would_compute_has_an_apostrophe_and_is_found_again(here):
    files = sorted(Path("images/test").rglob("*.png"))
    shutil.copy(files[0], "=1+1.png")
    here("predict", "run", "=1+1.png", "--csv", "out.csv")
    heading, line = Path("out.csv").read_text().splitlines()
    assert heading.startswith("file,class,")
    assert line.startswith("'=1+1.png,")
    by_csv = document(here("predict", "run", "=1+1.png", "--json", "--truth", "out.csv"))
    assert by_csv["row"]["accuracy"] == 100  # the answer itself was taken for the truth


def test_classes_without_a_true_image_are_no_trouble(here):
    row = document(here("predict", "run", "images/test/cat", "--json", "--truth", "folder"))["row"]
    assert row["per_class"][1:] == [None, None]
    assert row["accuracy"] == row["worst"] == row["per_class"][0]
    assert here("predict", "run", "images/test/cat", "--truth", "folder").exit_code == 0


def test_an_image_that_cannot_be_read_is_not_scored(here):
    whole = document(here("predict", "run", "images/test", "--json", "--truth", "folder"))
    Path("images/test/cat/aa.png").write_bytes(b"no image")
    found = here("predict", "run", "images/test", "--json", "--truth", "folder")
    assert document(found) == {**whole, "skipped": 1}
    assert found.stderr.count("\n") == 1
    assert "skipped: images/test/cat/aa.png: this is not an image" in found.stderr


# ---- what goes in and what comes out ------------------------------------------------------------------


def test_files_and_folders_at_any_depth_are_found_and_hidden_ones_are_not(here):
    for name in ("deep/a/b/1.png", "deep/2.JPG", "deep/.hidden.png", "deep/.hidden/3.png", "4.png"):
        save(Path(name), 60)
    Path("deep/notes.txt").write_text("no image")
    found = document(here("predict", "run", "4.png", "deep", "deep/.hidden.png", "--json"))
    assert [image["file"] for image in found["images"]] == ["4.png", "deep/2.JPG", "deep/a/b/1.png", "deep/.hidden.png"]


def test_the_answers_are_those_of_the_classifier(here):
    save(Path("a.png"), 90)
    classifier = load_classifier("run")
    raw = torch.from_numpy(np.asarray(Image.open("a.png")).copy()).permute(2, 0, 1)[None]
    (expected,) = classifier.predict(raw).tolist()
    (found,) = document(here("predict", "run", "a.png", "--json", "--top", "9"))["images"]
    assert [answer["probability"] for answer in found["top"]] == sorted(expected, reverse=True)
    assert [NAMES[expected.index(answer["probability"])] for answer in found["top"]] == [
        answer["class"] for answer in found["top"]
    ]
    assert found["group"] == classifier.groups.tolist()[NAMES.index(found["class"])] + 1
    assert found["class"] == found["top"][0]["class"]


def test_a_table_and_a_csv_file_say_the_same(here):
    save(Path("a, b.png"), 90)
    wanted = document(here("predict", "run", "a, b.png", "--json", "--top", "2"))["images"][0]
    table = here("predict", "run", "a, b.png", "--top", "2")
    best, second = wanted["top"]
    percent = [f"{100 * answer['probability']:.1f}" for answer in (best, second)]
    words = ["a,", "b.png", best["class"], percent[0], str(wanted["group"]), second["class"], percent[1]]
    assert words in [line.split() for line in table.stdout.splitlines()]
    assert here("predict", "run", "a, b.png", "--top", "2", "--csv", "out.csv").stdout.startswith("groups: ")
    with Path("out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "file": "a, b.png",
        "class": best["class"],
        "probability": f"{best['probability']:.6f}",
        "group": str(wanted["group"]),
        "class_2": second["class"],
        "probability_2": f"{second['probability']:.6f}",
    }
    one = here("predict", "run", "a, b.png", "--top", "1", "--line", "original-direct")
    assert "next" not in one.stdout
    assert "group" not in one.stdout


def test_a_table_has_the_first_twenty_images_and_says_where_all_are(here):
    found = here("predict", "run", "images/test", "--top", "1").stdout
    assert [f"{index:02}.png" in found for index in range(7)] == [True] * 7
    assert found.count(".png") == 20
    assert "These are the first 20 of 21 images; --csv FILE or --json has the answers for all." in found
    assert len(document(here("predict", "run", "images/test", "--json"))["images"]) == 21
    few = here("predict", "run", "images/test/cat", "images/test/dog", "--csv", "few.csv")
    assert "These are the first" not in few.stdout + here("predict", "run", "images/test/cat").stdout


def test_an_archive_is_taken_and_other_sizes_and_colours_are_converted_and_said_once(here):
    raw = np.stack([np.asarray(Image.open(path)) for path in sorted(Path("images/test/cat").glob("*.png"))])
    np.savez("some.npz", images=raw)
    np.savez("grey.npz", images=raw[..., 0])
    from_files = document(here("predict", "run", "images/test/cat", "--json"))["images"]
    from_archive = here("predict", "run", "some.npz", "--json")
    assert from_archive.stderr == ""
    found = document(from_archive)["images"]
    assert [{**image, "file": ""} for image in found] == [{**image, "file": ""} for image in from_files]
    assert [image["file"] for image in found] == [f"some.npz[{index}]" for index in range(7)]
    save(Path("large.png"), 60, size=(40, 24))
    save(Path("grey.png"), 60, mode="L")
    told = here("predict", "run", "grey.npz", "large.png", "grey.png", "images/test/cat/00.png")
    assert told.stderr == (
        "9 of 10 images were of another size or colour; they were made 12x12 RGB, as the training images are.\n"
    )
    assert here("predict", "run", "grey.npz", "--quiet").stderr == ""


def test_a_chunk_of_images_at_a_time_is_in_memory(here, monkeypatch):
    seen, plain = [], TrainedClassifier.log_probabilities_of
    monkeypatch.setattr(TrainedClassifier, "chunk", lambda self: 5)
    monkeypatch.setattr(
        TrainedClassifier, "log_probabilities_of", lambda self, images: seen.append(len(images)) or plain(self, images)
    )
    document(here("predict", "run", "images/test", "--json"))
    assert seen == [5, 5, 5, 5, 1]


def test_what_is_kept_of_an_image_is_its_answer(here, monkeypatch):
    """And not its probability of each of a thousand classes."""
    alive, plain = [], TrainedClassifier.log_probabilities_of

    def noted(self, images):
        gc.collect()
        assert len([one for one in alive if one() is not None]) <= 1  # that of the chunk before
        found = plain(self, images)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(TrainedClassifier, "chunk", lambda self: 5)
    monkeypatch.setattr(TrainedClassifier, "log_probabilities_of", noted)
    document(here("predict", "run", "images/test", "--json"))
    assert len(alive) == 5


def test_grey_digits_are_predicted_by_a_run_on_digits(finished, ltdd):
    data = ltdd_core.load_data("digits-lt")
    np.savez("digits.npz", images=data.test_images[:, 0].numpy())
    rows = [f"digits.npz[{index}],{label}" for index, label in enumerate(data.test_labels.tolist())]
    Path("truth.csv").write_text("\n".join(["file,class", *rows]))
    found = document(ltdd("predict", finished, "digits.npz", "--truth", "truth.csv", "--json"))
    assert found["row"] == predicted(json.loads((finished / "report.json").read_text())["rows"][-1])


# ---- wrong input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Missing argument 'IMAGES...'"),
        (("none", "images"), "none: there is no such file"),
        (("images", "images"), "images: there is no classifier in this folder."),
        (("run", "images", "--line", "two"), "run has no classifier of a line 'two'; there are: distilled-direct, "),
        (("run", "none.png"), "none.png: there is no such file or folder"),
        (("run", "empty"), "empty: there is no image in this folder"),
        (("run", "images", "--json", "--csv", "a.csv"), "--json and --csv: choose one"),
        (("run", "images", "--device", "tpu"), "compute.device must be"),
        (("run", "images", "--truth", "none.csv"), "none.csv: cannot be read: No such file"),
        (("run", "images", "--truth", "columns.csv"), "columns.csv has no columns 'file' and 'class'"),
        (("run", "images", "--truth", "short.csv"), "short.csv, line 2: a value is missing"),
        (("run", "images", "--truth", "cow.csv"), "cow.csv: unknown class 'cow'. Available: cat, dog, fox"),
        (("run", "images", "--truth", "few.csv"), "few.csv has no class of images/test/cat/00.png"),
        (("run", "images", "--truth", "run/distilled.safetensors"), "this is no CSV file in UTF-8"),
        (("run", "stray.png", "--truth", "folder"), "stray.png lies in no folder of a class (cat, dog, fox)"),
        (("run", "a.npz", "--truth", "folder"), "a.npz[0] lies in no folder of a class"),
        (("run", "bad.npz"), "bad.npz: this is not a .npz archive"),
        (("run", "other.npz"), "other.npz: array 'images' is missing; it has pixels."),
        (("run", "none.npz"), "none.npz: there is no image in this archive."),
        (("run", "images", "--csv", "none/a.csv"), "cannot write none/a.csv: there is no folder none."),
        (("run", "images", "--csv", "empty"), "cannot write empty: it is a folder."),
        (("run", "images", "--truth", "twice.csv"), "twice.csv has two classes of a.png: cat and dog."),
    ],
)
def test_wrong_input_gets_one_line(here, arguments, message):
    Path("empty").mkdir()
    save(Path("stray.png"), 60)
    np.savez("a.npz", images=np.zeros((2, 8, 8), np.uint8))
    np.savez("other.npz", pixels=np.zeros((2, 8, 8), np.uint8))
    np.savez("none.npz", images=np.zeros((0, 8, 8), np.uint8))
    Path("twice.csv").write_text("file,class\na.png,cat\na.png,cat\na.png,dog\n")
    Path("bad.npz").write_bytes(b"no archive")
    Path("columns.csv").write_text("name,class\n")
    Path("short.csv").write_text("file,class\na.png\n")
    Path("cow.csv").write_text("file,class\na.png,cow\n")
    Path("few.csv").write_text("file,class\na.png,cat\n")
    assert message in one_line_error(here("predict", *arguments, "--quiet"))


def test_a_run_without_classifiers_says_how_to_get_one(here):
    shutil.rmtree("run/classifiers")
    said = one_line_error(here("predict", "run", "images"))
    assert "made with --no-keep, or by an earlier version: ltdd evaluate run --out FOLDER makes one" in said
    assert here("evaluate", "run", "--out", "more", "--quiet").exit_code == 0
    assert here("predict", "more", "images").exit_code == 0


def test_a_file_that_cannot_be_written_is_said_before_an_image_is_read(here, monkeypatch):
    def never(*given):
        raise AssertionError("an image was read")

    monkeypatch.setattr("ltdd_core.data.given.read_image", never)
    for place in ("none/a.csv", "images"):
        assert f"cannot write {place}" in one_line_error(here("predict", "run", "images/test", "--csv", place))


def test_where_no_image_can_be_read_it_is_an_error(here):
    Path("a.png").write_bytes(b"")
    result = here("predict", "run", "a.png")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: none of the 1 images can be read."
