"""``ltdd report`` and ``ltdd compare``: every number on the page is the run's, and the page is whole in a browser."""

import base64
import csv
import dataclasses
import html
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import textwrap
import unicodedata
import warnings
import zipfile
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from ltdd_core import SHOT_COLOURS, SHOT_WORDS, Saving, amount, load_classifier, load_data, load_tensors, save_tensors
from ltdd_core.data.load import load_long_tailed
from ltdd_report import comparing, entrants as entrants_module, figures
from ltdd_report.cells import best_of
from ltdd_report.comparing import bootstrap, class_accuracy, compare_runs
from ltdd_report.initial import initial_images
from ltdd_report.reading import data_of, read_run, shown_images
from ltdd_report.visible import visible

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECTIONS = ["summary", "table", "classes", "gains", "groups", "reliability", "mistakes", "images", "loss", "provenance"]
SECTIONS += ["downloads", "cite"]


@pytest.fixture(scope="module")
def page(finished_once, tmp_path_factory):
    """The report of a tiny two-stage run, made by the command."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    out = tmp_path_factory.mktemp("report") / "new" / "page.html"
    result = CliRunner().invoke(cli, ["report", str(finished_once), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    return out


def table_of(text):
    """The cells of the result table."""
    text = text.partition('<section id="table"')[2] or text
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    return [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in body.split("<tr>")[1:]
    ]


def test_the_page_has_every_section_and_the_numbers_of_the_run(page, finished):
    text = page.read_text()
    assert re.findall(r'<section id="(\w+)"', text) == SECTIONS
    rows = json.loads((finished / "report.json").read_text())["rows"]
    for shown, row in zip(table_of(text), rows, strict=True):
        assert shown[0] == row["name"]
        low, high = row["accuracy_interval"]
        accuracy = f"{row['accuracy']:.1f} ({low:.1f} to {high:.1f})"
        behind = "" if row["behind_best"] is None else "{:.1f} ({:.1f} to {:.1f})".format(*row["behind_best"])
        assert shown[1:5] == [str(row["images"]), accuracy, behind, f"{row['std']:.1f}"]
    costs = table_of(text[text.index("What training each classifier costs") :])
    assert costs == [
        [row["name"], amount(row["images_seen"]), f"{row['training_seconds']:.1f}", amount(row["multiply_adds"])]
        for row in rows
    ]
    assert html.escape((finished / "config.yaml").read_text().splitlines()[1].strip()) in text
    for group in json.loads((finished / "report.json").read_text())["groups"]:
        assert f"<li>{', '.join(group)}</li>" in text


def test_a_run_of_an_earlier_version_has_a_page_without_what_it_did_not_note(ltdd, finished, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    report = json.loads((old / "report.json").read_text())
    later = ("accuracy_interval", "behind_best", "images_seen", "training_seconds", "multiply_adds")
    report["rows"] = [{key: value for key, value in row.items() if key not in later} for row in report["rows"]]
    (old / "report.json").write_text(json.dumps({key: value for key, value in report.items() if key != "saving"}))
    result = ltdd("report", old, "--out", "old.html")
    assert result.exit_code == 0, result.output
    text = Path("old.html").read_text()
    assert "two-stage, original + distilled" in text
    assert "What training each classifier costs" not in text


def test_the_page_holds_all_that_it_needs_and_every_picture_says_what_it_shows(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="(.*?)"', text)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in text
    pictures = re.findall(r'<img src="data:image/([\w+]+);base64,(.*?)" alt="(.*?)"', text)
    wrong = [alt for _, _, alt in pictures if alt.startswith("A test image of ")]
    # Originals and distilled images, counts and classes, gains, confusions, reliability, images of ten classes, curves.
    assert len(pictures) - len(wrong) == 10 + 2 + 3 + 4 + 4 + 10 + 2
    for kind, data, about in pictures:
        start = base64.b64decode(data)[:60]
        assert start.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        assert len(about) > 20


def saved(text, name):
    """A file that a page offers."""
    return base64.b64decode(re.search(rf'download="{re.escape(name)}" href="data:[\w/]+;base64,(.*?)"', text)[1])


def lines_of(content):
    return list(csv.reader(io.StringIO(content.decode())))


def test_the_page_says_what_the_run_was_and_what_it_cost(page, finished):
    found = section(page.read_text(), "summary")
    said = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', found))
    config = yaml.safe_load((finished / "config.yaml").read_text())
    facts = json.loads((finished / "run.json").read_text())
    report = json.loads((finished / "report.json").read_text())
    assert said["method"].startswith("dm (lr_img 1.0")
    assert said["network"].startswith("convnet-d3 (depth 2, width 8")
    assert (said["size"], said["iterations"]) == ("2 images a class: 20 images", "3")
    counts = facts["data"]["counts"]
    assert said["training images"] == f"{sum(counts)} in 10 classes, {counts[0]} to {counts[-1]} a class"
    assert (said["validation images"], said["test images"]) == ("none", "500")
    seconds = sum(json.loads(line)["seconds"] for line in (finished / "times.jsonl").read_text().splitlines())
    assert said["distillation"] == f"{seconds:,.0f} seconds in 3 steps"
    assert said["training"].startswith(f"{report['seconds'] - seconds:,.0f} seconds")
    epochs = config["training"]["original"]["epochs"]
    seen = {row["name"]: row["images_seen"] for row in report["rows"]}
    assert seen["original, direct"] == seen["original, balanced softmax"] == epochs * sum(counts)
    assert seen["distilled, direct"] == epochs * 20
    assert said["saving"] == html.escape(str(Saving.from_json(report["saving"])))
    assert "multiply-adds than on the whole set" in said["saving"]
    assert said["date"] == f"{datetime.fromisoformat(facts['sessions'][0]['began']):%Y-%m-%d %H:%M} UTC"
    assert said["versions"] == f"ltdd {version('ltdd')}, torch {torch.__version__}"


def test_a_run_that_noted_less_says_less(ltdd, finished):
    """No date, and nothing of the time of training where several processes shared the work; no costs."""
    shutil.copytree(finished, "run")
    facts = json.loads(Path("run/run.json").read_text())
    (session,) = facts["sessions"]
    session.pop("began")
    Path("run/run.json").write_text(json.dumps({**facts, "sessions": [session, session]}))
    report = json.loads(Path("run/report.json").read_text())
    report.pop("saving")
    for row in report["rows"]:
        for key in ("images_seen", "training_seconds", "multiply_adds"):
            row.pop(key)
    Path("run/report.json").write_text(json.dumps(report))
    found = ltdd("report", "run")
    assert found.exit_code == 0, found.output
    assert "multiply-adds" not in Path("report-run.html").read_text()
    assert "multiply" not in ltdd("compare", "run").stdout
    said = dict(
        re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', section(Path("report-run.html").read_text(), "summary"))
    )
    assert "date" not in said
    assert "saving" not in said
    assert said["training"].startswith("not told apart: the last of 2 processes took")


def test_the_command_of_the_summary_and_the_file_of_the_page_make_the_run_again(page, finished, ltdd):
    text = page.read_text()
    Path("config.yaml").write_bytes(saved(text, "config.yaml"))
    command = re.search(r"<td>ltdd (distill .*?)</td>", section(text, "summary"))[1].replace("FOLDER", "again").split()
    result = ltdd(*command)
    assert result.exit_code == 0, result.output
    assert Path("again/distilled.safetensors").read_bytes() == (finished / "distilled.safetensors").read_bytes()


def test_every_table_can_be_saved_as_csv_and_every_figure_as_svg(page, finished):
    text = page.read_text()
    run, report = read_run(finished), json.loads((finished / "report.json").read_text())
    heading, *table = lines_of(saved(text, "table.csv"))
    ends = ["accuracy_low", "accuracy_high", "behind_best", "behind_best_low", "behind_best_high"]
    assert heading[-5:] == ends
    for row, line in zip(report["rows"], table, strict=True):
        assert line[:-5] == ["" if row[key] is None else str(row[key]) for key in heading[:-5]]
        assert line[-5:-3] == [str(value) for value in row["accuracy_interval"]]
        assert line[-3:] == [str(value) for value in row["behind_best"] or ["", "", ""]]
    heading, *classes = lines_of(saved(text, "classes.csv"))
    lines = [f"accuracy of {row['name']}" for row in report["rows"]]
    assert heading == ["class", "training images", *lines, "group"]
    for label, line in enumerate(classes):
        assert line[:2] == [run.data["classes"][label], str(run.data["counts"][label])]
        assert [float(value) for value in line[2:-1]] == [row["per_class"][label] for row in report["rows"]]
        assert line[0] in run.groups[int(line[-1]) - 1]
    confusion = lines_of(saved(text, "confusion.csv"))[1:]
    assert len(confusion) == sum(np.count_nonzero(row["confusion"]) for row in report["rows"])
    assert sum(float(line[3]) for line in confusion) == len(report["rows"]) * 500
    steps = lines_of(saved(text, "steps.csv"))
    assert steps == [
        ["step", "loss", "seconds"],
        *([str(step), str(run.losses[step].item()), str(run.seconds[step].item())] for step in range(3)),
    ]
    with zipfile.ZipFile(io.BytesIO(saved(text, "tables-and-figures.zip"))) as archive:
        shown = {drawing.encode() for drawing in drawings(text)}
        assert {archive.read(name) for name in archive.namelist() if name.endswith(".svg")} == shown
        assert archive.read("table.csv") == saved(text, "table.csv")
    assert len(saved(text, "tables-and-figures.zip")) < len(text) / 4


def test_originals_stand_beside_distilled_images_from_head_to_tail(page, finished):
    data, run = load_data("digits-lt"), read_run(finished)
    distilled, labels = shown_images(run)
    found = section(page.read_text(), "summary").partition('<div class="overview">')[2]
    parts = re.findall(r"<figcaption>(.*?)</figcaption>\s*<img src=\"data:image/png;base64,(.*?)\"", found)
    assert [name for name, _ in parts] == [f"{label} ({data.counts[label]})" for label in range(10)]
    for label, (_, content) in enumerate(parts):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"), dtype=float)
        high, wide = (size // 2 for size in pixels.shape)
        originals = data.train_images[data.train_labels == label][:2, 0] / 255
        for row, images in enumerate((originals, distilled[labels == label][:2].clamp(0, 1)[:, 0])):
            for column in range(2):
                part = pixels[row * high : (row + 1) * high, column * wide : (column + 1) * wide] / 255
                # The same mean but for the white edges; where a class has no second image all is white.
                inside = part[8:-8, 8:-8].mean()
                expected = float(images[column].mean()) if column < len(images) else 1.0
                assert inside == pytest.approx(expected, abs=0.12), (label, row, column)


def test_the_page_says_what_to_cite(page, ltdd, site):
    cited = html.unescape(section(page.read_text(), "cite"))
    assert re.findall(r"@\w+\{(\w+),", cited) == ["ltdd", "zhao2023dm"]
    assert f"version = {{{version('ltdd')}}}" in cited
    site.install("cited", """
        from ltdd_core import hookimpl
        from ltdd_coreset.matcher import Coreset

        class Cited(Coreset):
            "A coreset with a paper."
            citation = "@misc{mine,\\n  title = {A & B}\\n}"

        @hookimpl
        def ltdd_register_matchers(register):
            register("cited", Cited)
    """)  # fmt: skip
    assert "title = {A & B}" in html.unescape(page_of(ltdd, "--method", "cited"))


def test_every_link_of_the_page_leads_to_a_section(page, calibrated):
    for text in (page.read_text(), (calibrated / "report.html").read_text()):
        assert re.findall(r'<li><a href="#(\w+)"', text) == re.findall(r'<section id="(\w+)"', text)


def test_a_finished_run_that_is_looked_at_stays_as_it_is(ltdd, finished, tmp_path):
    shutil.copytree(finished, "run")
    moved = {**json.loads(Path("run/report.json").read_text()), "run": "run"}
    Path("run/report.json").write_text(json.dumps(moved, indent=1) + "\n")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for look in (["report", "run"], ["compare", "run", "--html", "page.html"], ["watch", "run"]):
        assert ltdd(*look).exit_code == 0
    again = ltdd("distill", "--method", "dm", "--plugin", "twostage", *TINY, "--out", "run", "--resume")
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert ltdd("report", "run", "--out", "run/report.html").exit_code == 0
    assert Path("run/report.html").is_file()


def test_the_initial_images_of_the_page_are_those_of_the_run(finished):
    run = read_run(finished)
    found = initial_images(run, data_of(run))
    from ltdd_core import configure
    from ltdd_core.commands import open_setup, task_of

    with open_setup(configure(**run.config)) as setup:
        task = task_of(setup)
    assert torch.equal(found.images, task.initial_images)
    assert not torch.equal(found.images, run.distilled.images)
    assert not found.kept
    assert not found.repeats


def test_what_a_strangers_coreset_began_as_is_not_asked_for_since_a_network_would_have_to_be_trained(
    site, finished, monkeypatch
):
    site.install("mine", """
        from ltdd_core import ByClassSampler, hookimpl

        class Nearest(ByClassSampler):
            "The images nearest to the mean of their class."

            def representatives(self, label, ipc, generator, features):
                distances = (features(label) - features(label).mean(0)).norm(dim=1)
                return self.members[label][distances.argsort()[:ipc]]

        @hookimpl
        def ltdd_register_samplers(register):
            register("nearest", Nearest)
    """)  # fmt: skip
    run = read_run(finished)
    monkeypatch.setattr("ltdd_core.Trainer.train", lambda *_, **__: pytest.fail("a network is trained"))
    chosen = {**run.config, "sampler": {"name": "nearest"}}
    data = data_of(run)
    assert initial_images(dataclasses.replace(run, config=chosen), data) is None
    assert initial_images(dataclasses.replace(run, config={**chosen, "init": "noise"}), data) is not None


# ---- what the classifiers say of the test images --------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The folder of a run with validation images, and its report."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    out = tmp_path_factory.mktemp("calibrated") / "run"
    command = ["distill", "--method", "dm", "--plugin", "twostage", "--validation", "0.1", *TINY, "--out", str(out)]
    for arguments in (command, ["report", str(out), "--out", str(out / "report.html")]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    return out


def section(text, name):
    return text.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def literal_mistakes(folder, **options):
    """For each class the three surest mistakes of the last line: what they are taken for, and how surely."""
    classifier, data = load_classifier(folder), load_data("digits-lt", **options)
    said = classifier.predict(data.test_images).tolist()
    found = []
    for label in range(10):
        own = [row for row, true in zip(said, data.test_labels.tolist(), strict=True) if true == label]
        wrong = [(row.index(max(row)), max(row)) for row in own if row.index(max(row)) != label]
        found.append(sorted(wrong, key=lambda answer: -answer[1])[:3])
    return found


@pytest.mark.parametrize("validation", [0.0, 0.1])
def test_the_surest_mistakes_of_each_class_are_shown_with_their_pictures(validation, request, page):
    folder = request.getfixturevalue("calibrated" if validation else "finished")
    text = (folder / "report.html").read_text() if validation else page.read_text()
    shown = section(text, "mistakes")
    expected, data = literal_mistakes(folder, validation=validation), load_data("digits-lt", validation=validation)
    parts = re.findall(r"<h3>(.*?)</h3>(.*?)</div></div>", shown, re.DOTALL)
    assert [name for name, _ in parts] == [str(label) for label in range(10) if expected[label]]
    for name, part in parts:
        found = re.findall(r"<figcaption>taken for (\d) \((.*?)\xa0%\)</figcaption>", part)
        wanted = expected[int(name)]
        assert [float(sure) for _, sure in found] == pytest.approx([100 * sure for _, sure in wanted], abs=0.06)
        assert len({sure for _, sure in found}) < len(found) or [int(a) for a, _ in found] == [a for a, _ in wanted]
        own = {bytes(image.numpy()) for image in data.test_images[data.test_labels == int(name), 0]}
        pictures = re.findall(r'<img src="data:image/png;base64,(.*?)"', part)
        assert len(pictures) == len(found)
        for picture in pictures:
            assert np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).tobytes() in own


def test_reliability_is_shown_before_and_after_where_a_run_is_calibrated(calibrated):
    text = (calibrated / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text) == SECTIONS
    shown = section(text, "reliability")
    assert f"fitted to\n{load_data('digits-lt', validation=0.1).validation_count} validation images" in shown
    rows = json.loads((calibrated / "report.json").read_text())["rows"]
    for row in rows:
        facts = load_classifier(calibrated, row["name"]).facts["calibration"]
        numbers = f"calibration error {facts['ece_before']:.1f} before, {facts['ece_after']:.1f} after"
        assert f"{row['name']}: {numbers}</figcaption>" in shown
    assert len(drawings(shown)) == len(rows)
    assert "are not calibrated" not in shown


def test_reliability_of_a_run_that_is_not_calibrated_is_shown_as_it_is(finished, page):
    shown = section(page.read_text(), "reliability")
    rows = json.loads((finished / "report.json").read_text())["rows"]
    for row in rows:
        assert f"{row['name']}: calibration error {row['calibration_error']:.1f}</figcaption>" in shown
    assert len(drawings(shown)) == len(rows)
    assert "These classifiers are not calibrated, because the run had no validation images" in shown
    assert "after" not in shown


def test_reliability_is_shown_where_the_classifiers_are_not_kept(ltdd, calibrated):
    shutil.copytree(calibrated, "run")
    shutil.rmtree("run/classifiers")
    assert ltdd("report", "run").exit_code == 0
    found, expected = (
        re.findall("<figcaption>.*</figcaption>", page.read_text())
        for page in (Path("report-run.html"), calibrated / "report.html")
    )
    assert found == expected


def test_the_data_are_read_once_for_a_page(ltdd, finished, monkeypatch):
    loads = []

    def counted(*arguments, **more):
        loads.append(arguments)
        return load_long_tailed(*arguments, **more)

    for module in ("ltdd_core.setup", "ltdd_core.api", "ltdd_core.evaluation.record"):
        monkeypatch.setattr(f"{module}.load_long_tailed", counted, raising=False)
    assert ltdd("report", finished).exit_code == 0
    assert len(loads) == 1


def test_of_many_classes_those_with_the_lowest_accuracy_are_shown(ltdd, named):
    named([f"class {label:02}" for label in range(24)], "run")  # all look alike, so no more than two are ever right
    assert ltdd("report", "run").exit_code == 0
    shown = section(Path("report-run.html").read_text(), "mistakes")
    per_class = json.loads(Path("run/report.json").read_text())["rows"][-1]["per_class"]
    wrong = sum(value < 100 for value in per_class)
    assert shown.count("<h3>") == 20
    assert f"The 20 classes with the lowest accuracy are shown; {wrong - 20} more" in shown
    labels = [int(name) for name in re.findall(r"<h3>class (\d\d)</h3>", shown)]
    assert labels == sorted(labels)
    assert max(per_class[label] for label in labels) <= min(per_class[label] for label in {*range(24)} - {*labels})


def test_without_the_test_images_or_the_predictions_the_page_says_so(ltdd, named):
    named(["cat", "dog"], "run")
    Path("run/predictions.safetensors").rename("elsewhere")
    assert ltdd("report", "run").exit_code == 0
    assert "has no predictions.safetensors." in section(Path("report-run.html").read_text(), "mistakes")
    Path("elsewhere").rename("run/predictions.safetensors")
    root = Path(read_run(Path("run")).config["data"]["root"])
    root.rename(root.parent / "moved")
    assert ltdd("report", "run").exit_code == 0
    assert "The test images are not at hand: " in section(Path("report-run.html").read_text(), "mistakes")


def test_a_large_test_image_is_made_small():
    from ltdd_report.pictures import _png

    for channels, mode in ((3, "RGB"), (1, "L")):
        image = torch.randint(0, 256, (channels, 300, 150), dtype=torch.uint8)
        found = Image.open(io.BytesIO(base64.b64decode(_png(image).partition(",")[2])))
        assert (found.size, found.mode) == ((48, 96), mode)


@pytest.mark.parametrize("wrong", [[0.0], [float("nan")], [1.0, 2.0]])
def test_a_damaged_temperature_is_one_line(ltdd, calibrated, wrong):
    shutil.copytree(calibrated, "run")
    tensors, facts = load_tensors(Path("run/predictions.safetensors"))
    tensors["distilled, direct: temperature"] = torch.tensor(wrong, dtype=torch.float64)
    save_tensors(Path("run/predictions.safetensors"), tensors, facts)
    message = one_line_error(ltdd("report", "run"))
    assert "run/predictions.safetensors is damaged: the line 'distilled, direct' has a temperature" in message


def test_names_are_shown_as_they_are(ltdd, tmp_path):
    for part, size in (("train", 4), ("test", 2)):
        for name in ("<b>&amp;", "$x^2$"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(size):
                Image.new("RGB", (16, 16), (40 * index, 100, 200)).save(
                    tmp_path / "data" / part / name / f"{index}.png"
                )
    command = ["distill", "--method", "dm", "--data", "folder", "--root", tmp_path / "data", *TINY, "--out", "run"]
    assert ltdd(*command).exit_code == 0
    assert ltdd("report", "run").exit_code == 0
    text = (tmp_path / "here" / "report-run.html").read_text()
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;amp;" in text
    assert 'id="gains"' in text  # the two direct lines, one beside the other
    assert "No classifier of this run has groups." in text


def test_a_run_without_steps_has_no_loss(ltdd, tmp_path):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "run").exit_code == 0
    assert ltdd("report", "run").exit_code == 0
    text = (tmp_path / "here" / "report-run.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text) == [name for name in SECTIONS if name != "loss"]


def test_what_is_no_finished_run_gets_one_line(ltdd, finished, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}")
    assert "is not finished: ltdd distill --out" in one_line_error(ltdd("report", tmp_path / "begun"))
    shutil.copytree(finished, tmp_path / "damaged")
    (tmp_path / "damaged" / "run.json").write_text("{}")
    assert "run.json is damaged: data is missing" in one_line_error(ltdd("report", tmp_path / "damaged"))


NO_TORCH = """
    import sys
    sys.modules["torch"] = None  # any import of it fails
    sys.argv = ["ltdd", *sys.argv[1:]]
    from ltdd_core.cli import main
    main()
"""


@pytest.mark.parametrize("command", ["report", "watch", "compare"])
def test_a_folder_that_is_none_of_a_run_is_refused_before_torch_is_imported(command, tmp_path):
    for name in ("cat", "dog", "runs/a", "runs/b"):
        (tmp_path / name).mkdir(parents=True)
        if name.startswith("runs"):
            (tmp_path / name / "config.yaml").touch()

    def said(folder):
        call = [sys.executable, "-c", textwrap.dedent(NO_TORCH), command, folder]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    assert said(".") == (
        "Error: . is not the folder of a run: it has no config.yaml. "
        "Name one that ltdd distill, ltdd train or ltdd evaluate wrote.\n"
    )
    assert said("runs") == (
        "Error: runs is not the folder of a run: it has no config.yaml. It has runs in it: runs/a, runs/b.\n"
    )


def test_a_line_without_predictions_and_a_folder_of_training_alone_get_one_line(ltdd, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    report = json.loads((finished / "report.json").read_text())
    report["rows"].append({**report["rows"][0], "name": "another"})
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    assert "has nothing of the line 'another'" in one_line_error(ltdd("compare", tmp_path / "run"))
    (tmp_path / "run" / "run.json").unlink()
    assert "that distilled something" in one_line_error(ltdd("report", tmp_path / "run"))


def test_a_partition_without_influence_is_named(ltdd, finished):
    command = ["distill", "--method", "dm", "--plugin", "twostage", *TINY]
    for a, b, routing, said in ((0.5, 0.5, "soft", True), (0.5, 0.5, "hard", False), (1.0, 0.5, "soft", False)):
        options = ("--set", f"head.a={a}", "--set", f"head.b={b}", "--set", f"head.routing={routing}")
        out = f"{a}-{b}-{routing}"
        assert ltdd(*command, *options, "--out", out).exit_code == 0
        assert read_run(Path(out)).partition_has_no_say == said
        assert ltdd("report", out).exit_code == 0
        assert ("has no\ninfluence" in Path(f"report-{out}.html").read_text()) == said
    undecided = {**read_run(finished).config["head"], "a": None, "b": None}  # what the head decides is not known here
    run = read_run(finished)
    assert not dataclasses.replace(run, config={**run.config, "head": undecided}).partition_has_no_say


def page_of(ltdd, *options):
    """The text of the page of a tiny run, all on one line."""
    assert ltdd("distill", *TINY, *options, "--out", "run").exit_code == 0
    assert ltdd("report", "run").exit_code == 0
    return " ".join(Path("report-run.html").read_text().split())


def test_the_page_claims_of_no_method_that_it_began_with_the_initial_images(ltdd):
    text = page_of(ltdd, "--method", "dm")
    assert "Below them are the initial images that were drawn for this run" in text
    assert "repeats" not in text
    assert "began as" not in text


def test_the_page_says_that_initial_images_are_repeats(ltdd):
    assert "some are repeats, changed a little" in page_of(ltdd, "--method", "dm", "--set", "ipc=3")


@pytest.mark.parametrize("ipc", ["2", "3"])
def test_the_page_says_that_a_coreset_is_its_initial_images_unchanged(ipc, ltdd):
    text = page_of(ltdd, "--method", "coreset", "--set", f"ipc={ipc}")  # with 3, classes of 2 images have no third one
    assert "They are initial images of the run, unchanged." in text
    assert "Below them" not in text


@pytest.mark.parametrize("sampler", ["stranger", "scoring-stranger", "random"])
def test_no_network_is_trained_to_draw_the_initial_images_again(sampler, ltdd, site, monkeypatch):
    """Samplers that nobody here knows by name ask for features or scores; one that ``init`` names asks for none."""
    site.install(
        "picky",
        """
        from ltdd_samplers.coreset import HerdingSampler
        from ltdd_samplers.scores import ForgettingSampler
        from ltdd_core import hookimpl

        @hookimpl
        def ltdd_register_samplers(register):
            register("stranger", HerdingSampler)
            register("scoring-stranger", ForgettingSampler)
        """,
    )
    command = ["distill", "--method", "dm", *TINY, "--init", sampler, "--out", "run"]
    assert ltdd(*command).exit_code == 0
    train = "ltdd_core.training.trainer.Trainer.train"
    monkeypatch.setattr(train, lambda *args, **kwargs: pytest.fail("it trains a network"))
    run = read_run(Path("run"))
    assert (initial_images(run, data_of(run)) is None) == (sampler != "random")


TILES = """
    from torch.nn.functional import avg_pool2d
    from ltdd_coreset.matcher import Coreset
    from ltdd_core import Synthetic, hookimpl

    class Tiles(Coreset):
        "A coreset whose images are stored twice as large."

        def decode(self, images):
            return avg_pool2d(images, 2)[:, None]

        def distilled(self):
            return Synthetic(self.images.repeat_interleave(2, 2).repeat_interleave(2, 3), self.labels)

    @hookimpl
    def ltdd_register_matchers(register):
        register("tiles", Tiles)
"""


def test_images_of_a_method_with_a_decoder_are_shown_decoded(ltdd, site, monkeypatch):
    site.install("tiles", TILES)
    zca = ("--set", "data.normalisation=zca")  # it cannot be undone on the images as they are stored
    for method, extra in (("coreset", ()), ("tiles", ("--plugin", "tensorboard"))):
        result = ltdd("distill", "--method", method, *extra, *TINY, *zca, "--out", method)
        assert result.exit_code == 0, result.output
    assert json.loads(Path("tiles/report.json").read_text())["detached_plugins"] == {}
    assert Path("tiles/distilled.png").read_bytes() == Path("coreset/distilled.png").read_bytes()
    (shown, labels), (expected, hard) = (shown_images(read_run(Path(method))) for method in ("tiles", "coreset"))
    assert torch.equal(labels, hard)
    assert torch.allclose(shown, expected, atol=1e-5)
    assert ltdd("report", "tiles").exit_code == 0
    monkeypatch.setenv("LTDD_BLOCK_PLUGINS", "tiles")
    assert "needs the decoder of matcher 'tiles'" in one_line_error(ltdd("report", "tiles"))


@pytest.fixture
def named(ltdd, tmp_path):
    """Makes the folder of a finished run whose classes have these names."""

    def make(names, out):
        for part, size in (("train", 4), ("test", 2)):
            for name in names:
                (tmp_path / "data" / part / name).mkdir(parents=True)
                for index in range(size):
                    image = Image.new("RGB", (16, 16), (40 * index, 100, 200))
                    image.save(tmp_path / "data" / part / name / f"{index}.png")
        command = ["distill", "--method", "dm", "--data", "folder", "--root", tmp_path / "data", *TINY, "--out", out]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # also of glyphs that no font has
            assert ltdd(*command).exit_code == 0

    return make


def drawings(text):
    """The vector graphics of a page."""
    return [base64.b64decode(data).decode() for data in re.findall('data:image/svg[^,]*,([^"]*)', text)]


def test_control_characters_in_names_are_shown_and_not_obeyed(ltdd, named):
    run, page = "\x1b[31mrun", "\x1b[31mpage.html"
    named(["\x1b[2J", "dog"], run)
    for look in (["report"], ["compare", "--html", page], ["watch"]):
        result = ltdd(*look, run)
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.output
    for text in (Path(f"report-{run}.html").read_text(), Path(page).read_text()):
        assert drawings(text)
        assert not any("\x1b" in drawing for drawing in drawings(text))
        assert "\x1b" not in text
        assert "\\x1b[2J" in text


def test_names_that_the_font_of_figures_does_not_have_are_left_to_the_browser(ltdd, named):
    named(["日本", "dog"], "run")
    result = ltdd("report", "run")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert sum("日本" in drawing for drawing in drawings(Path("report-run.html").read_text())) == 5


@given(st.text(st.characters()))
def test_what_is_shown_has_no_control_characters_and_everything_else_stays(text):
    shown = visible(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in shown)
    shown.encode()
    if all(unicodedata.category(character) not in ("Cc", "Cs") for character in text):
        assert shown == text


# ---- in a browser --------------------------------------------------------------------------------

LOOK = """<!doctype html><iframe id="page" style="width: {width}px; height: 900px" srcdoc="{page}"></iframe><script>
document.getElementById("page").onload = () => {{
  const page = document.getElementById("page").contentDocument, top = page.documentElement;
  const pictures = [...page.images].map(image => image.complete && image.naturalWidth > 0);
  document.title = JSON.stringify({{wide: top.scrollWidth, visible: top.clientWidth, pictures,
    cut: [...page.querySelectorAll(".scroll:has(table)")].filter(one => one.scrollWidth > one.clientWidth).length,
    sections: [...page.querySelectorAll("section")].filter(one => one.offsetHeight > 40).map(one => one.id)}});
}};
</script>"""


def looked_at(page, width, tmp_path):
    """What a browser makes of a page, once it is sure that its console is silent and that nothing sticks out."""
    look = tmp_path / "look.html"
    look.write_text(LOOK.format(width=width, page=html.escape(page.read_text())))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, look.as_uri()], capture_output=True, text=True, timeout=120)
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    assert found["wide"] <= found["visible"]
    assert found["pictures"]
    assert all(found["pictures"])
    assert ":CONSOLE" not in done.stderr
    assert not (found["cut"] and width >= 1280)  # no table scrolls on a desk
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_section_and_nothing_sticks_out(width, page, tmp_path):
    assert looked_at(page, width, tmp_path)["sections"] == SECTIONS


def test_a_value_that_all_lines_share_is_not_the_best():
    rows = [{"accuracy": 50.0, "worst": 0.0, "std": 1.0}, {"accuracy": 60.0, "worst": 0.0, "std": 2.0}]
    assert best_of(rows) == {"accuracy": 60.0, "std": 1.0}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_comparison(width, ltdd, finished, tmp_path):
    assert ltdd("compare", finished, "--html", tmp_path / "compared.html").exit_code == 0
    assert looked_at(tmp_path / "compared.html", width, tmp_path)["sections"] == ["table", "classes"]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_run_of_ten_classes_is_printed_on_six_pages_at_most(page, tmp_path):
    """A page of A4 is 595 x 842 points; every page of a PDF file has its own box."""
    paper = tmp_path / "paper.pdf"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer"]
    subprocess.run([CHROMIUM, *options, f"--print-to-pdf={paper}", page.as_uri()], capture_output=True, timeout=120)
    boxes = re.findall(rb"/MediaBox \[0 0 (\d+)[.\d]* (\d+)[.\d]*\]", paper.read_bytes())
    assert 1 < len(boxes) <= 6
    assert {(round(int(wide), -1), round(int(high), -1)) for wide, high in boxes} == {(590, 840)}


# ---- figures -------------------------------------------------------------------------------------


def test_the_bars_and_the_frames_of_figures_are_the_numbers():
    rows = [{"name": "a", "per_class": [10.0, 20.0, 30.0]}, {"name": "b", "per_class": [50.0, 5.0, 31.0]}]
    names, counts = ["x", "y", "z"], [9, 3, 1]
    charts = figures.class_figure(names, counts, rows).axes
    assert [[bar.get_width() for bar in axes.patches] for axes in charts] == [[10.0, 20.0, 30.0], [50.0, 5.0, 31.0]]
    gains = [bar.get_width() for bar in figures.gain_figure(names, counts, rows[1], rows[0]).axes[0].patches]
    assert gains == [40.0, -15.0, 1.0]
    confusion = [[8, 2, 0], [1, 1, 2], [0, 0, 5]]
    drawn = figures.confusion_figure(names, counts, confusion, [["x", "z"], ["y"]]).axes[0]
    assert drawn.images[0].get_array().tolist() == [[80, 0, 20], [0, 100, 0], [25, 50, 25]]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["x", "z", "y"]
    assert [(frame.get_xy(), frame.get_width()) for frame in drawn.patches] == [((-0.5, -0.5), 2), ((1.5, 1.5), 1)]
    pair = figures.images_figure("x", torch.zeros(12, 3, 8, 8), torch.ones(12, 3, 8, 8)).axes[0].images[0].get_array()
    assert pair.shape == (19, 91, 3)  # two lines of ten images, a pixel around each
    assert (pair[1:9, 1:9] == 0).all()
    assert (pair[10:] == 1).all()
    single = figures.images_figure("x", torch.full((1, 1, 8, 8), 0.5), None).axes[0].images[0].get_array()
    assert single.shape == (8, 8, 3)
    assert (single == 0.5).all()


def test_classes_go_from_head_to_tail_in_the_colours_of_many_medium_and_few():
    names, counts = ["x", "y", "z", "w"], [3, 500, 40, 19]
    colours = [SHOT_COLOURS[shot] for shot in ("many", "medium", "few", "few")]
    row, other = ({"name": "a", "per_class": shares} for shares in ([1.0, 2.0, 3.0, 0.0], [0.0] * 4))
    for figure, labels, widths in (
        (figures.counts_figure(names, counts), ["y", "z", "w", "x"], [500, 40, 19, 3]),
        (figures.class_figure(names, counts, [row]), ["y (500)", "z (40)", "w (19)", "x (3)"], [2.0, 3.0, 0.0, 1.0]),
        (
            figures.gain_figure(names, counts, row, other),
            ["y (500)", "z (40)", "w (19)", "x (3)"],
            [2.0, 3.0, 0.0, 1.0],
        ),
    ):
        axes = figure.axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == labels
        assert [bar.get_width() for bar in axes.patches] == widths
        assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == colours
        assert axes.yaxis_inverted()
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == list(SHOT_WORDS.values())
    counted = figures.counts_figure(names, counts)
    FigureCanvasAgg(counted).draw()
    axis = counted.axes[0].xaxis
    shown = [tick.label1.get_text() for tick in axis.get_major_ticks() if 1 <= tick.get_loc() <= 1000]
    assert shown == ["1", "10", "100", "1000"]
    assert not any(tick.label1.get_text() for tick in axis.get_minor_ticks())
    zero = [text.get_color() for text in figures.class_figure(names, counts, [row]).axes[0].texts]
    assert [colour == figures.ZERO for colour in zero] == [False, False, True, False]
    table = [[10 * true + guess for guess in range(4)] for true in range(4)]
    drawn = figures.confusion_figure(names, counts, table, None).axes[0]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["y", "z", "w", "x"]
    assert [to_hex(label.get_color()) for label in drawn.get_yticklabels()] == colours
    order = [1, 2, 3, 0]
    expected = [[100 * table[true][guess] / sum(table[true]) for guess in order] for true in order]
    assert np.allclose(drawn.images[0].get_array(), expected)
    grouped = figures.confusion_figure(names, counts, table, [["x", "z"], ["w", "y"]]).axes[0]
    assert [label.get_text() for label in grouped.get_yticklabels()] == ["y", "w", "z", "x"]


def overlap(figure):
    """Pairs of class names that lie over each other, and names that stick out of the figure."""
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels() if label.get_text()]
    wide = figure.bbox
    return [(one.bounds, other.bounds) for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)] + [
        box.bounds for box in boxes if box.x0 < wide.x0 or box.y0 < wide.y0 or box.y1 > wide.y1
    ]


@pytest.mark.parametrize("classes", [3, 10, pytest.param(100, marks=pytest.mark.slow)])
def test_names_of_sixty_characters_in_three_scripts_fit_and_nothing_warns(classes):
    alphabet = ["a wild animal of the plains ", "Ωμέγα Ωμέγα Ωμέγα ", "Дикое_животное_степей_", "猫"]
    names = [(f"{label} " + alphabet[label % 4] * 60)[:60] for label in range(classes)]
    counts = [3 * label + 1 for label in range(classes)]
    row = {"name": "猫" * 60, "per_class": [50.0] * classes}
    for figure in (
        figures.counts_figure(names, counts),
        figures.class_figure(names, counts, [row] * 5),
        figures.gain_figure(names, counts, row, row),
    ):
        assert len([label for label in figure.axes[0].get_yticklabels() if label.get_text()]) == classes
        assert not overlap(figure)
    FigureCanvasAgg(figures.confusion_figure(names, counts, torch.eye(classes).tolist(), None)).draw()


def test_hundreds_of_classes_have_no_names():
    names, counts = [f"class {label}" for label in range(300)], list(range(300, 0, -1))
    row = {"name": "a", "per_class": [float(label % 100) for label in range(300)]}
    for figure in (
        figures.counts_figure(names, counts),
        figures.class_figure(names, counts, [row]),
        figures.gain_figure(names, counts, row, row),
        figures.confusion_figure(names, counts, torch.eye(300).tolist(), None),
    ):
        assert not any("class" in label.get_text() for label in figure.axes[0].get_yticklabels())
        assert figure.get_figheight() < 12


# ---- comparing -----------------------------------------------------------------------------------


@given(st.integers(0, 100), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_the_bootstrap_is_the_literal_one(seed, seeds):
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [5, 3, 4])
    tables = [random.random((seeds, 12)) < 0.6, random.random((1, 12)) < 0.5]
    found = bootstrap(tables, labels, draws=7, seed=seed)
    draws = np.random.default_rng(seed)
    images = [draws.multinomial(n, np.full(n, 1 / n), size=7) for n in (5, 3, 4)]
    chosen = [draws.multinomial(len(t), np.full(len(t), 1 / len(t)), size=7) for t in tables]
    accuracy = comparing.accuracy_of(np.array([5, 3, 4]))
    for table, own, drawn in zip(tables, chosen, found, strict=True):
        for draw in range(7):
            total = 0.0
            for index, row in enumerate(table):
                sample = []
                for label in range(3):
                    sample += [
                        r for r, n in zip(row[labels == label], images[label][draw], strict=True) for _ in range(n)
                    ]
                total += own[draw][index] * 100 * sum(sample) / 12
            assert drawn.of(accuracy)[draw] == pytest.approx(total / len(table))


def test_intervals_hold_what_they_should_and_equal_classifiers_do_not_differ():
    random, labels = np.random.default_rng(0), np.repeat(np.arange(10), 100)
    accuracy, held = comparing.accuracy_of(np.bincount(labels)), 0
    for trial in range(60):
        table = random.random((1, 1000)) < 0.7
        (drawn,) = bootstrap([table], labels, draws=400, seed=trial)
        low, high = np.percentile(drawn.of(accuracy), [2.5, 97.5])
        held += low <= 70 <= high
    assert held >= 51  # 57 of 60 expected; fewer than 51 has a probability below 0.1 %
    same = bootstrap([table, table], labels, draws=50)
    assert (same[0].of(accuracy) == same[1].of(accuracy)).all()


def test_the_statistics_of_classes():
    right = np.array([[1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]], dtype=bool)
    classes = class_accuracy(right, np.array([0, 0, 1, 1, 2, 2]))
    assert classes.tolist() == [[100, 0, 100], [50, 0, 100]]
    assert comparing.accuracy_of(np.array([2, 2, 2]))(classes).tolist() == pytest.approx([200 / 3, 50])
    assert comparing.accuracy_of(np.array([2, 1, 1]))(classes).tolist() == pytest.approx([75, 50])
    assert comparing.deviation(classes)[1] == pytest.approx(np.std([50, 0, 100]))
    assert comparing.worst(classes).tolist() == [0, 0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one method, and another method."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    folder = tmp_path_factory.mktemp("runs")
    for name, options in (("a0", ["dm", "--seed", "0"]), ("a1", ["dm", "--seed", "1"]), ("b", ["coreset"])):
        command = ["distill", "--method", *options, *TINY, "--out", str(folder / name)]
        assert CliRunner().invoke(cli, command).exit_code == 0
    return folder


def test_runs_that_differ_in_the_seed_are_one_entry_and_originals_are_there_once(runs):
    alone = compare_runs([read_run(runs / name) for name in ("a0", "a1")])
    assert {entry.name: entry.seeds for entry in alone.entries} == {
        "original, direct": (0, 1),
        "distilled, direct": (0, 1),
    }
    reports = [json.loads((runs / name / "report.json").read_text()) for name in ("a0", "a1")]
    expected = np.mean([report["rows"][1]["accuracy"] for report in reports])
    (distilled,) = (entry for entry in alone.entries if entry.name == "distilled, direct")
    assert distilled.accuracy.value == pytest.approx(expected)
    assert distilled.accuracy.low <= distilled.accuracy.value <= distilled.accuracy.high
    together = compare_runs([read_run(runs / name) for name in ("a0", "b")])
    assert sorted(entry.name for entry in together.entries) == [
        "coreset: distilled, direct",
        "dm: distilled, direct",
        "original, direct",
    ]
    values = [entry.accuracy.value for entry in together.entries]
    assert values == sorted(values, reverse=True)
    assert together.entries[0].behind is None
    for entry in together.entries:
        assert entry.among_best == (entry.behind is None or entry.behind.low <= 0)


def test_compare_at_the_command_line(ltdd, runs, tmp_path):
    result = ltdd("compare", runs / "a0", runs / "a1", runs / "b", "--html", tmp_path / "all.html")
    assert result.exit_code == 0, result.output
    assert "dm: distilled, direct" in result.stdout
    text = (tmp_path / "all.html").read_text()
    document = json.loads(ltdd("compare", runs / "a0", runs / "a1", runs / "b", "--json").stdout)
    assert [row[0] for row in table_of(text)] == [row["name"] for row in document["rows"]]
    seeds = {row["name"]: row["seeds"] for row in document["rows"]}
    assert seeds["dm: distilled, direct"] == [0, 1]
    assert seeds["coreset: distilled, direct"] == [0]
    assert {row[0]: [int(seed) for seed in row[1].split(", ")] for row in table_of(text)} == seeds
    assert re.search(r"dm: distilled, direct +0, 1 ", result.stdout)
    assert document["differences"] == [{"option": "matcher.name", "values": {"dm": "dm", "coreset": "coreset"}}]
    assert "The configurations differ in --method:\n" in result.stdout
    assert {"  dm: --method dm", "  coreset: --method coreset"} <= set(result.stdout.splitlines())
    assert [row[0] for row in table_of(text[text.index('id="differences"') :])] == ["--method"]
    assert document["rows"][0]["behind"] is None
    assert "twice" in one_line_error(ltdd("compare", runs / "a0", runs / "a0"))


def test_runs_on_other_images_are_refused(ltdd, runs, tmp_path):
    command = ["distill", "--method", "dm", *TINY, "--imbalance", "10", "--out", "other"]
    assert ltdd(*command).exit_code == 0
    assert "they differ in counts" in one_line_error(ltdd("compare", runs / "a0", "other"))


def test_other_test_images_with_the_same_labels_are_refused(ltdd, tmp_path):
    for root, test_colour in (("a", 0), ("same", 0), ("other", 90)):
        for part, size in (("train", 4), ("test", 2)):
            for name in ("x", "y"):
                (tmp_path / root / part / name).mkdir(parents=True)
                for index in range(size):
                    # Other training images have another normalisation; the test images stay the same.
                    colour = (40 * index, 100 if root == "a" else 30, 200) if part == "train" else (9, 9, test_colour)
                    Image.new("RGB", (16, 16), colour).save(tmp_path / root / part / name / f"{index}.png")
    for seed, root in enumerate(("a", "same", "other")):
        command = ["distill", "--method", "dm", "--data", "folder", "--root", tmp_path / root, *TINY]
        assert ltdd(*command, "--seed", seed, "--out", f"run-{root}").exit_code == 0
    result = ltdd("compare", "run-a", "run-same", "--json")
    assert result.exit_code == 0, result.output
    marks = {row["name"]: (row["images"], row["seeds"]) for row in json.loads(result.stdout)["rows"]}
    assert marks["dm (images=A): distilled, direct"] == ("A", [0])  # not two seeds of one thing
    assert marks["dm (images=B): distilled, direct"] == ("B", [1])
    assert "marks runs on the same images" in ltdd("compare", "run-a", "run-same").stdout
    assert "they have different test images" in one_line_error(ltdd("compare", "run-a", "run-other"))


def test_runs_at_different_image_sizes_are_compared_and_marked(ltdd, tmp_path):
    random = np.random.default_rng(0)
    for part, size in (("train", 4), ("test", 2)):
        for name in ("x", "y"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(size):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{index}.png")
    for size in (8, 16):
        given = ["--data", "folder", "--root", tmp_path / "data", "--set", f"data.image_size={size}"]
        assert ltdd("distill", "--method", "dm", *given, *TINY, "--out", f"run-{size}").exit_code == 0
    document = json.loads(ltdd("compare", "run-8", "run-16", "--json").stdout)
    small, large = "dm (--image-size 8 images=A)", "dm (--image-size 16 images=B)"
    assert document["differences"] == [{"option": "data.image_size", "values": {small: "8", large: "16"}}]
    assert {row["name"].partition(": ")[0]: row["images"] for row in document["rows"]} == {small: "A", large: "B"}
    for file in ("run.json", "report.json"):  # as a run of an earlier version has them
        facts = json.loads(Path("run-16", file).read_text())
        del facts["data"]["test_digest"]
        Path("run-16", file).write_text(json.dumps(facts))
    assert "they have different test images" in one_line_error(ltdd("compare", "run-8", "run-16"))


def test_options_that_only_one_component_has_are_no_difference():
    def found(**settings):
        return [difference.option for difference in entrants_module.differences_of(settings)]

    one, other = {"matcher.name": "dm", "matcher.lr": "1", "ipc": "1"}, {"matcher.name": "mtt", "ipc": "2"}
    assert found(a=one, b=other) == ["matcher.name", "ipc"]
    assert found(a=one, b={**one, "matcher.lr": "2"}) == ["matcher.lr"]
    assert found(a=one, b={**other, "matcher.lr": "2"}) == ["matcher.name", "ipc"]  # another option of that name
    assert found(a=one) == found(a=one, b={**one, entrants_module.IMAGES: "B"}) == []


def test_a_labeller_that_other_runs_lack_is_named_by_what_is_unusual_about_it(ltdd):
    command = ["distill", "--method", "coreset", *TINY, "--out"]
    labelled = ["--labeller", "teacher"]
    for run, words in {"plain": [], "soft": labelled, "view": [*labelled, "--set", "labeller.per=view"]}.items():
        assert ltdd(*command, run, *words).exit_code == 0

    def told(*runs):
        document = json.loads(ltdd("compare", *runs, "--json").stdout)
        names = [row["name"].partition(": ")[0] for row in document["rows"] if ": distilled" in row["name"]]
        return sorted(names), document["differences"]

    plain, soft, view = (
        "coreset",
        "coreset (--labeller teacher)",
        "coreset (--labeller teacher --set labeller.per=view)",
    )
    of_both, of_all = {soft: "teacher"}, {soft: "teacher", view: "teacher"}
    assert told("plain", "soft") == ([plain, soft], [{"option": "labeller.name", "values": of_both}])
    assert told("plain", "view")[0] == [plain, view]
    names, differences = told("plain", "soft", "view")
    assert names == sorted([plain, soft, view])
    assert {found["option"]: found["values"] for found in differences} == {
        "labeller.name": of_all,
        "labeller.per": {soft: "image", view: "view"},
    }
    settings = {"matcher.name": "mine", "head.name": "mine", "head.depth": "3"}
    plain = read_run(Path("plain"))
    run = dataclasses.replace(plain, config={**plain.config, "matcher": {"name": "mine"}})
    others = {"matcher.name": "mine", "head.name": "linear"}  # a plugin that is not here: nobody knows its defaults
    unusual, said = entrants_module._unusual(run), {"whole": torch.zeros(1, 2)}
    entrants = [entrants_module.Entrant("mine", options, unusual, 0, said) for options in (settings, others)]
    assert unusual is None
    assert entrants_module.names_of(entrants) == ['mine (head="mine")', 'mine (head="linear")']


def test_a_name_is_what_a_command_has_to_say(ltdd):
    """Not what the plugin stands for, no default, and no list of Python."""
    settings = ["--set", "training.original.lr=0.02", "--set", "network.norm=none"]
    for run, words in {
        "plain": ["--plugin", "twostage", *settings[:2]],
        "deep": ["--plugin", "twostage", "--plugin", "losses", "--set", "head.groups=3"],
        "alone": settings[2:],
    }.items():
        assert ltdd("distill", "--method", "coreset", *TINY, *words, "--out", run).exit_code == 0, run
    document = json.loads(ltdd("compare", "plain", "deep", "alone", "--json").stdout)
    names = {row["name"].partition(": ")[0] for row in document["rows"]} - {"original, direct"}
    assert names == {
        "coreset (--plugin twostage --set training.original.lr=0.02)",
        "coreset (--set head.groups=3 --plugin twostage --plugin losses)",
        "coreset (--set network.norm=none)",
    }
    plugins = next(found["values"] for found in document["differences"] if found["option"] == "plugins")
    assert sorted(plugins.values()) == ["", "twostage", "twostage, losses"]


def test_names_that_would_be_the_same_say_all_that_differs():
    """As where the default of an option has changed between two versions."""
    said = {"whole": torch.zeros(1, 2)}
    entrants = [
        entrants_module.Entrant("dm", {"matcher.name": "dm", "matcher.lr": lr, "ipc": "1"}, frozenset(), 0, said)
        for lr in ("1", "2")
    ]
    assert entrants_module.names_of(entrants) == ['dm (matcher={"lr": "1"})', 'dm (matcher={"lr": "2"})']


def test_runs_without_a_digest_are_taken_to_be_on_the_images_of_the_first():
    class Run:
        def __init__(self, digest):
            self.data = {} if digest is None else {"digest": digest}

    letters = entrants_module.images_of([Run(digest) for digest in ("a", None, "b", "a", "c")])
    assert letters == ["A", "A", "B", "A", "C"]
    assert entrants_module.images_of([Run(None), Run("a")]) == ["", ""]
    assert entrants_module.images_of([Run(None), Run(None)]) == ["", ""]
    assert [entrants_module._letter(index) for index in (0, 25, 26, 53)] == ["A", "Z", "A1", "B2"]


def test_the_accuracy_of_an_unbalanced_test_set_is_that_of_the_table_and_changed_images_are_noticed(ltdd, tmp_path):
    for part, sizes in (("train", (8, 4)), ("test", (6, 1))):
        for label, size in enumerate(sizes):
            (tmp_path / "data" / part / f"class {label}").mkdir(parents=True)
            for index in range(size):
                colour = (20 * index, 90 + 10 * label, 200)
                path = tmp_path / "data" / part / f"class {label}" / f"{index}.png"
                Image.new("RGB", (16, 16), colour).save(path)
    command = ["distill", "--method", "dm", "--data", "folder", "--root", tmp_path / "data", *TINY, "--out", "run"]
    assert ltdd(*command).exit_code == 0
    rows = {row["name"]: row for row in json.loads(Path("run/report.json").read_text())["rows"]}
    assert any(row["accuracy"] != pytest.approx(np.mean(row["per_class"])) for row in rows.values())
    run = read_run(Path("run"))
    for entry in compare_runs([run]).entries:
        assert entry.accuracy.value == pytest.approx(rows[entry.name]["accuracy"])
    assert initial_images(run, data_of(run)) is not None
    Image.new("RGB", (16, 16), (1, 2, 3)).save(tmp_path / "data" / "train" / "class 0" / "3.png")
    assert "on other images than those of the data set 'data' now" in one_line_error(ltdd("compare", "run"))


def test_rounding_takes_no_star():
    """Both have 5 of 17 images right, and the sums over classes differ in the last digit."""
    accuracy = comparing.accuracy_of(np.array([1, 11, 5]))
    best, equal = np.array([[100.0, 100 * 4 / 11, 0.0]]), np.array([[0.0, 0.0, 100.0]])
    assert accuracy(best) > accuracy(equal)
    drawn, other = (comparing.Drawn(np.stack([shares] * 9), np.ones((9, 1))) for shares in (best, equal))
    assert comparing._entry("equal", [0], accuracy, equal, other, best, drawn).among_best


# ---- classifiers alone ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(finished_once, tmp_path_factory):
    """What ``ltdd train`` and ``ltdd evaluate`` wrote, two heads on two networks and one on one, with two seeds."""
    from click.testing import CliRunner

    from ltdd_core.cli import cli

    folder = tmp_path_factory.mktemp("tables")
    short = [*TINY[4:], "--network", "mlp", "--repeats", "2", "--no-keep", "--out"]
    for command in (
        ["train", "--head", "linear", "--head", "cosine", "--network", "convnet-d3", *short, str(folder / "t")],
        ["evaluate", str(finished_once), "--head", "linear", *short, str(folder / "e")],
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return folder


def changed_report(folder, key, value):
    document = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**document, key: value}))


def test_classifiers_alone_are_compared_with_runs(ltdd, tables, finished):
    document = json.loads(ltdd("compare", finished, tables / "t", tables / "e", "--json").stdout)
    entries = {row["name"]: row for row in document["rows"]}
    assert set(entries) == {
        "dm: original, direct",
        "dm: original, balanced softmax",
        "dm: distilled, direct",
        "dm: two-stage, original + distilled",
        "train (--network mlp): original, direct",
        "train (--network mlp): original, cosine",
        "train (--network convnet-d3): original, direct",
        "train (--network convnet-d3): original, cosine",
        "evaluate dm: distilled, direct",
    }
    stored = [json.loads((tables / name / "report.json").read_text())["rows"] for name in ("t", "e")]
    for row in [*stored[0], *stored[1]]:
        how = f"train (--network {row['network']})" if row["name"][0] == "o" else "evaluate dm"
        entry = entries[f"{how}: {row['name']}"]
        assert entry["seeds"] == [0, 1]
        assert entry["accuracy"][0] == pytest.approx(row["accuracy"])
        assert entry["deviation"] == pytest.approx(row["deviation"]["accuracy"])
        assert entry["per_class"] == pytest.approx(row["per_class"])
    assert entries["dm: distilled, direct"]["deviation"] == 0
    (best,) = (row for row in document["rows"] if row["behind"] is None)
    result = ltdd("compare", tables / "t", "--html", "page.html")
    assert result.exit_code == 0, result.output
    spread = f"{best['accuracy'][0]:.1f}±{best['deviation']:.1f}"
    assert spread in ltdd("compare", finished, tables / "t", tables / "e").stdout
    assert f"{spread} <span" in Path("page.html").read_text()
    assert "twice" in one_line_error(ltdd("compare", tables / "t", tables / "t"))


def test_the_original_line_of_a_run_and_the_same_training_alone_are_one_entry(ltdd, finished, tmp_path):
    assert ltdd("train", *TINY[4:], "--out", "t").exit_code == 0
    rows = json.loads(ltdd("compare", finished, "t", "--json").stdout)["rows"]
    assert [row["name"] for row in rows].count("original, direct") == 1


def test_networks_of_the_same_name_and_other_options_are_told_apart(ltdd):
    for width in (2, 3):
        short = ("--set", f"network.width={width}", "--set", "training.original.epochs=1", "--network", "convnet-d3")
        assert ltdd("train", *short, "--network", "mlp", "--out", f"w{width}").exit_code == 0
    rows = json.loads(ltdd("compare", "w2", "w3", "--json").stdout)["rows"]
    assert len(rows) == 4
    assert all(row["seeds"] == [0] for row in rows)
    assert sum("network.width=2" in row["name"] for row in rows) == 2


@pytest.mark.parametrize("name", ["t", "e"])
def test_the_page_of_classifiers_alone_has_what_they_have(name, ltdd, tables, tmp_path):
    result = ltdd("report", tables / name, "--out", "page.html")
    assert result.exit_code == 0, result.output
    assert "holds classifiers alone: steps and distilled images are left out." in result.stderr
    text = Path("page.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text) == ["table", "classes", "confusion", "provenance"]
    assert "so the page has no steps and no distilled images" in text
    rows = json.loads((tables / name / "report.json").read_text())["rows"]
    for shown, row in zip(table_of(text), rows, strict=True):
        assert shown[0] == (row["network"] if name == "e" else f"{row['name']}, {row['network']}")
        spread = f"{row['accuracy']:.1f}±{row['deviation']['accuracy']:.1f}"
        assert shown[1:3] == [str(row["images"]), spread]
    assert len(drawings(text)) == 2 + len(rows)
    if CHROMIUM is not None:
        assert looked_at(Path("page.html").absolute(), 390, tmp_path)["sections"][0] == "table"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: changed_report(t, "rows", []), "report.json is damaged: it must have a row for each head"),
        (lambda t: changed_report(t, "networks", [{"name": "mlp"}] * 2), "of two folders: head, network or seed"),
        (lambda t: changed_report(t, "distilled", {"run": 3}), "report.json is damaged: distilled.run must be"),
        (lambda t: (t / "report.json").write_text("{"), "report.json is damaged: it is not JSON"),
        (lambda t: (t / "run.json").unlink(), "of an earlier version of ltdd train, which kept no predictions"),
        (lambda t: (t / "run.json").write_text("{}"), "run.json is damaged: data is missing"),
        (lambda t: (t / "report.json").unlink(), "is not finished: run the command that began it again, with --out t"),
        (lambda t: (t / "config.yaml").write_text("head: {name: linear}"), "config.yaml is damaged: data is missing"),
    ],
)
def test_a_damaged_folder_of_classifiers_is_one_line(spoil, message, ltdd, tables):
    shutil.copytree(tables / "t", "t")
    spoil(Path("t"))
    for command in ("report", "compare"):
        assert message in one_line_error(ltdd(command, "t"))
    assert not Path("t/report.html").exists()


def test_predictions_that_are_not_those_of_the_table_are_one_line(ltdd, tables):
    shutil.copytree(tables / "t", "t")
    path = Path("t/predictions.safetensors")
    tensors, facts = load_tensors(path)
    name = "original, direct, mlp, seed 1"
    save_tensors(path, {**tensors, name: tensors[name].flip(1)}, facts)
    message = "predictions.safetensors does not go with report.json: the row 'original, direct' of 'mlp' has other"
    assert message in one_line_error(ltdd("compare", "t"))
    del tensors[name]
    save_tensors(path, tensors, facts)
    assert f"has nothing of the line {name!r}." in one_line_error(ltdd("compare", "t"))
    path.unlink()
    assert "t/predictions.safetensors: there is no such file." in one_line_error(ltdd("compare", "t"))
    assert ltdd("report", "t").exit_code == 0  # which has no need of them
