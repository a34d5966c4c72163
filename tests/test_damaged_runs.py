"""``ltdd report``, ``watch`` and ``compare`` of damaged run folders: one line that names the file, or the truth."""

import io
import json
import shutil

import pytest
import torch
import yaml
from conftest import one_line_error
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, PngImagePlugin
from rich.console import Console
from safetensors.torch import save_file

from ltdd_core import InputError, load_tensors, save_tensors
from ltdd_report.reading import read_run
from ltdd_report.watching import read_state, small_picture

COMMANDS = {"watch": [], "compare": ["--json"], "report": ["--out", "page.html"]}
TEXTS = ("config.yaml", "run.json", "report.json", "metrics.jsonl", "times.jsonl")
TENSORS = ("distilled.safetensors", "predictions.safetensors")


def seen(ltdd, command, run):
    """What a command makes of a folder: exit code 0, or one line that names the folder."""
    result = ltdd(command, run, *COMMANDS[command])
    if result.exit_code != 0:
        assert str(run) in one_line_error(result)
    return result


@pytest.fixture
def run(finished, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def refused(reader, run):
    """The one line with which a folder is refused."""
    with pytest.raises(InputError) as error:
        reader(run)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(document, place, value):
    """The document with another value at a path of keys; without the last key where the value is ``...``."""
    if not place:
        return value
    copy = document.copy()
    if value is ... and len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = changed(copy[place[0]], place[1:], value)
    return copy


# ---- known damage --------------------------------------------------------------------------------

REPORTS = [
    (("seconds",), ..., "seconds is missing"),
    (("groups",), ..., "groups is missing"),
    (("groups",), [["0"]], "must have every class in one group"),
    (("rows",), [], "rows "),
    (("rows",), None, "rows must be a valid list"),
    (("rows", 0), 5, "rows.0 must be a mapping"),
    (("rows", 0, "name"), "distilled, direct", "another name for each row"),
    (("rows", 0, "accuracy"), True, "rows.0.accuracy must be a valid number"),
    (("rows", 0, "accuracy"), 77.0, "the accuracies that follow from its confusion matrix"),
    (("rows", 0, "std"), float("nan"), "rows.0.std must be a finite number"),
    (("rows", 0, "per_class"), [50.0] * 9, "must have a confusion matrix of all classes"),
    (("rows", 0, "confusion", 3), [0] * 10, "an accuracy of each class that has test images, and of no other"),
    (("rows", 0, "per_class", 3), None, "an accuracy of each class that has test images, and of no other"),
    (("rows", 0, "confusion"), [[0] * 10] * 10, "with test images in a row"),
    (("seconds",), float("inf"), "seconds must be a finite number"),
    (("seconds",), 10**400, "seconds must be a valid number"),
]


@pytest.mark.parametrize(("place", "value", "text"), REPORTS)
def test_a_damaged_report_is_named_with_its_key(place, value, text, run):
    document = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(changed(document, place, value)))
    for reader in (read_run, read_state):
        message = refused(reader, run)
        assert f"{run / 'report.json'} is damaged: " in message
        assert text in message


@pytest.mark.parametrize("key", ["seed", "iterations", "matcher", "data", "ipc", "head", "init"])
@pytest.mark.parametrize("value", [..., [1], None, float("inf")])
def test_a_damaged_configuration_is_named_with_its_key(key, value, run):
    document = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(changed(document, [key], value)))
    for reader in (read_run, read_state):
        if key == "matcher" and value is ...:
            assert "is not the folder of a run that distilled something" in refused(reader, run)
        else:
            assert f"{run / 'config.yaml'} is damaged: {key} " in refused(reader, run)


WHOLE = ["", "null", "5", "[]", "{}", "[" * 3000, '{"a":' * 30000, "9" * 5000, "a: &a {b: *a}", "\0", '{"a": NaN}']


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("content", [*(text.encode() for text in WHOLE), b"\xff\xfe", b"[1, "])
def test_a_file_of_something_else_is_named(name, content, run):
    (run / name).write_bytes(content + b"\n")
    assert str(run / name) in refused(read_run, run)
    if name != "run.json":  # which watching does not need
        assert str(run / name) in refused(read_state, run)


@pytest.mark.parametrize("line", ["null", "5", "{}", '{"step": 1e400, "loss": 1, "seconds": 1}', '{"step": 1}', "x"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "times.jsonl"])
def test_a_damaged_line_of_a_log_is_named_with_its_number(name, line, run):
    lines = (run / name).read_text().splitlines()
    (run / name).write_text("\n".join([lines[0], line, lines[2], ""]))
    for reader in (read_run, read_state):
        assert f"{run / name} is damaged: line 2: " in refused(reader, run)


def test_a_log_without_its_steps_is_damaged_once_the_run_is_finished(ltdd, run):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    for content in ("", "".join(lines[:2]), "".join(reversed(lines)), "".join(lines)[:-1]):
        (run / "metrics.jsonl").write_text(content)
        assert "run/metrics.jsonl is damaged" in one_line_error(ltdd("report", run))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda said: said[:7], "is not 500 x 10 numbers"),
        (lambda said: said[:, :3], "is not 500 x 10 numbers"),
        (lambda said: torch.tensor(1.0), "is not 500 x 10 numbers"),
        (lambda said: said.int(), "is not 500 x 10 numbers"),
        (lambda said: said * float("nan"), "no log-probabilities"),
        (lambda said: -said, "no log-probabilities"),
        (lambda said: torch.full_like(said, -torch.inf), "no log-probabilities"),
        (lambda said: said.flip(1), "does not go with report.json: the line 'distilled, direct' has other accuracies"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(change, text, ltdd, run):
    path, name = run / "predictions.safetensors", "distilled, direct"
    tensors, facts = load_tensors(path)
    save_tensors(path, {**tensors, name: change(tensors[name])}, facts)
    message = one_line_error(ltdd("compare", run))
    assert "run/predictions.safetensors" in message
    assert text in message


@pytest.mark.parametrize(
    ("name", "place", "value", "text"),
    [
        ("config.yaml", ["seed"], 7, "config.yaml and distilled.safetensors differ in seed"),
        ("config.yaml", ["head", "a"], 0.25, "config.yaml and distilled.safetensors differ in head.a"),
        ("config.yaml", ["data", "imbalance"], 2.0, "config.yaml and distilled.safetensors differ in data.imbalance"),
        ("config.yaml", ["data", "name"], "cifar10-lt", "config.yaml and distilled.safetensors differ in data.name"),
        ("config.yaml", ["matcher", "name"], "dc", "config.yaml and report.json name different methods"),
        ("run.json", ["data", "test_images"], 400, "report.json and run.json are about different data"),
    ],
)
def test_files_of_two_runs_are_not_taken_for_one(name, place, value, text, ltdd, run):
    document = yaml.safe_load((run / name).read_text())
    (run / name).write_text(
        yaml.safe_dump(changed(document, place, value))
        if "yaml" in name
        else json.dumps(changed(document, place, value))
    )
    for command in ("report", "compare"):
        assert text in one_line_error(ltdd(command, run, *COMMANDS[command]))


def test_a_run_is_read_wherever_its_images_are_now(ltdd, run):
    document = yaml.safe_load((run / "config.yaml").read_text())
    document["compute"] = {**document["compute"], "threads": 3}
    (run / "config.yaml").write_text(yaml.safe_dump(document))
    assert seen(ltdd, "compare", run).exit_code == 0


def test_a_distilled_set_of_an_unknown_normalisation_is_named(run):
    path = run / "distilled.safetensors"
    tensors, facts = load_tensors(path)
    for kind in (None, "other"):
        save_tensors(path, tensors, {**facts, "normalisation": {"kind": kind}})
        assert f"{path}: normalisation of kind {kind!r} is unknown" in refused(read_run, run)


# ---- any damage ----------------------------------------------------------------------------------

RAW = {
    "@DIGITS@": "9" * 5000,
    "@DEEP@": "[" * 3000 + "]" * 3000,
    "@HUGE@": "1e400",
    "@NAN@": "NaN",
    "@INF@": "-Infinity",
}
"""What no library writes, by what stands for it."""
VALUES = st.one_of(
    st.sampled_from([..., None, True, -1, 0, 5, 0.5, "", "x", "\x1b[31m", "$\\foo$", "\udc80", [], {}, [[]], {"a": 1}]),
    st.sampled_from([10**30, 1e308, 5e-324, *RAW]),
    st.text(max_size=3),
    st.integers(),
)


def places(document):
    """Every path of keys into a document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [(), *((key, *rest) for key in keys for rest in places(document[key]))]


def written(document, *, as_yaml):
    text = yaml.safe_dump(document) if as_yaml else json.dumps(document)
    for stand_in, raw in RAW.items():
        text = text.replace(f'"{stand_in}"', raw).replace(f"'{stand_in}'", raw)
    return text.encode(errors="surrogatepass")


@st.composite
def retyped(draw, name, content):
    """A text file with one value dropped or replaced by another one."""
    lines = content.splitlines() if name.endswith("jsonl") else [content]
    index = draw(st.integers(0, len(lines) - 1))
    document = yaml.safe_load(lines[index])
    # The matrices have most of the places and are not to get most of the draws.
    known = [place for place in places(document) if not {"confusion", "per_class"} & set(place[:-1])]
    place, value = draw(st.sampled_from(known)), draw(VALUES)
    damaged = written(changed(document, place, value) if place or value is not ... else None, as_yaml="yaml" in name)
    lines[index] = damaged.strip()
    return b"\n".join(lines) + b"\n"


@st.composite
def scrambled(draw, content):
    """A file with some bytes changed, or cut short."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        # Half of the changes are where a file says what it is.
        place = draw(st.one_of(st.integers(0, min(400, len(damaged) - 1)), st.integers(0, len(damaged) - 1)))
        damaged[place] = draw(st.integers(0, 255))
    return bytes(damaged[: draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))])


@st.composite
def reshaped(draw, path):
    """A file of tensors with other tensors or facts in it."""
    (tensors, facts), out = load_tensors(path), path.with_name("other")
    tensors, facts = dict(tensors), {key: json.dumps(value) for key, value in facts.items()}
    if facts and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(facts)))
        document = json.loads(facts[name])
        place, value = draw(st.sampled_from(places(document))), draw(VALUES)
        facts[name] = written(changed(document, place, value) if place or value is not ... else None, as_yaml=False)
        facts[name] = facts[name].decode(errors="replace")
    else:
        name = draw(st.sampled_from(sorted(tensors)))
        change = draw(
            st.sampled_from(
                [
                    lambda tensor: tensor[:1],
                    lambda tensor: tensor[:0],
                    lambda tensor: tensor[..., :2],
                    lambda tensor: tensor * float("nan"),
                    lambda tensor: tensor + 1e30,
                    lambda tensor: tensor.flip(0),
                    lambda tensor: tensor.double(),
                    lambda tensor: tensor.bool(),
                    lambda tensor: tensor.to(torch.int8),
                    lambda tensor: torch.zeros_like(tensor),
                    lambda tensor: tensor.sum(),
                    None,
                ]
            )
        )
        found = tensors.pop(name)
        if change is not None:
            tensors[name] = change(found).contiguous().clone()
    save_file(tensors, out, facts)
    content = out.read_bytes()
    out.unlink()
    return content


def any_damage(data, run):
    """The name of a file and what it holds once it is damaged."""
    name = data.draw(st.sampled_from([*TEXTS, *TENSORS]))
    content, kind = (run / name).read_bytes(), data.draw(st.integers(0, 3))
    if kind == 0:
        return name, data.draw(scrambled(content))
    return name, data.draw(retyped(name, content) if name in TEXTS else reshaped(run / name))


def check_any_damage(ltdd, run, data):
    name, damaged = any_damage(data, run)
    # A page takes a second or two, so fewer of them are made.
    command = data.draw(st.sampled_from([*["watch"] * 4, *["compare"] * 4, "report"]))
    before = (run / name).read_bytes()
    (run / name).write_bytes(damaged)
    try:
        seen(ltdd, command, run)
    finally:
        (run / name).write_bytes(before)


HERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(data=st.data())
@settings(HERE, max_examples=60)
def test_whatever_is_damaged_gets_one_line_or_does_not_matter(ltdd, run, data):
    check_any_damage(ltdd, run, data)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(data=st.data())
@settings(HERE, max_examples=600)
def test_whatever_is_damaged_gets_one_line_or_does_not_matter_many_times(ltdd, run, data):
    check_any_damage(ltdd, run, data)


# ---- the picture ---------------------------------------------------------------------------------


def drawn(path):
    """What a terminal with colours shows of a picture."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    for text in small_picture(path, 100, 20):
        console.print(text)
    return console.file.getvalue()


@given(data=st.data())
@settings(HERE, max_examples=60)
def test_a_damaged_picture_is_left_out_with_a_line(finished, tmp_path, data):
    with Image.open(finished / "distilled.png") as opened:
        sheet, picture = json.loads(opened.text["sheet"]), opened.copy()
    if data.draw(st.booleans()):
        content = data.draw(scrambled((finished / "distilled.png").read_bytes()))
    else:
        place, value = data.draw(st.sampled_from(places(sheet))), data.draw(VALUES)
        text = PngImagePlugin.PngInfo()
        damaged = changed(sheet, place, value) if place or value is not ... else None
        text.add_text("sheet", written(damaged, as_yaml=False).decode(errors="replace"))
        out = io.BytesIO()
        picture.save(out, "png", pnginfo=text)
        content = out.getvalue()
    (tmp_path / "distilled.png").write_bytes(content)
    found = drawn(tmp_path / "distilled.png")
    assert found.count("\n") < 200
    assert "▀" in found or "distilled.png is damaged and not shown" in " ".join(found.split()), found
