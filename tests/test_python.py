"""The Python API as its user meets it: progress in one line, short words for things, lists, messages, finished runs."""

import dataclasses
import html
import io
import json
import re
import shutil
import sys
import types

import pytest
import torch
from conftest import one_line_error
from hypothesis import given, strategies as st
from PIL import Image

import ltdd_core
from ltdd_core import (
    ClassMatcher,
    Display,
    InputError,
    Row,
    SoftLabels,
    configure,
    distill,
    evaluate,
    how_to_set,
    load_data,
    quality,
    read_run,
    register,
)
from ltdd_core.errors import PATHS, for_command_line
from ltdd_core.plugging import catalog
from ltdd_core.progress import OneLine, usual_display
from ltdd_core.testing import tiny_long_tailed

LONGEST = 400
"""Letters of what a thing is called in one line."""
SHORT = {
    "training": {"original": {"epochs": 2}, "distilled": {"epochs": 2}},
    "network": {"width": 8, "depth": 2},
    "ipc": 2,
    "iterations": 3,
}


class Terminal(io.StringIO):
    """A stderr that is a terminal; what stands in its last line."""

    def isatty(self):
        return True

    def lines(self):
        """Everything that the line has been."""
        return [text.rstrip() for text in self.getvalue().split("\r")]


@pytest.fixture
def terminal(monkeypatch):
    """Every draw is shown."""
    monkeypatch.setattr("ltdd_core.progress.SECONDS_BETWEEN_DRAWS", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    found = Terminal()
    monkeypatch.setattr("ltdd_core.progress.sys", types.SimpleNamespace(stderr=found, modules=sys.modules))
    return found


# ---- progress ------------------------------------------------------------------------------------


def test_a_run_in_a_terminal_is_one_line_that_goes_away(terminal, tmp_path):
    distill(configure(method="dm", **SHORT), tmp_path / "run")
    text, shown = terminal.getvalue(), terminal.lines()
    assert "\n" not in text
    assert any(line.startswith("distilling: 3/3 iterations  loss ") for line in shown)
    assert any(line.startswith("training classes on the ") for line in shown)
    assert all(len(line) < 60 for line in shown)
    assert shown[-1] == ""
    assert text.endswith("\r")


def test_the_line_takes_away_all_of_a_longer_one_and_no_name_commands_the_terminal(terminal):
    shown = usual_display()
    with shown.work("a\x1b[2J long name", 3, "images") as told:
        told(1)
        with shown.work("b", 2, "images") as inner:
            inner(2, loss=0.5)
        told(3)
    assert "\x1b" not in terminal.getvalue()
    assert "a?[2J long name: 1/3 images" in terminal.lines()
    longest = max(map(len, terminal.lines()))
    *_, blank, end = terminal.getvalue().split("\r")
    assert (blank.strip(), end) == ("", "")
    assert len(blank) >= len("a?[2J long name: 3/3 images")
    assert longest < 60


def test_where_stderr_is_no_terminal_nothing_is_shown(capsys, tmp_path):
    distill(configure(method="dm", **SHORT), tmp_path / "run")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert type(usual_display()) is Display


def test_a_display_that_shows_nothing_turns_the_line_off(terminal, tmp_path):
    distill(configure(method="dm", **SHORT), tmp_path / "run", display=Display())
    evaluate(tmp_path / "run", display=Display())
    load_data("digits-lt", display=Display())
    assert terminal.getvalue() == ""


def test_the_other_functions_show_a_line_too(terminal, finished, monkeypatch):
    monkeypatch.setattr("ltdd_core.progress.SECONDS_BETWEEN_DRAWS", 0.0)
    evaluate(finished, networks=["mlp"])
    assert any(line.startswith("training classes") for line in terminal.lines())
    terminal.truncate(0)
    quality(finished, settings=[{"seed": 3}])
    assert any(line.startswith("training classes") for line in terminal.lines())


def test_a_terminal_that_is_gone_stops_nothing(terminal, monkeypatch):
    shown = usual_display()
    terminal.close()
    with shown.work("work", 2, "images") as told:
        told(1)
    monkeypatch.setattr("ltdd_core.progress.sys", types.SimpleNamespace(stderr=None, modules=sys.modules))
    assert type(usual_display()) is Display


def test_a_fast_work_draws_a_few_times(monkeypatch):
    drawn = []
    now = iter(index / 100 for index in range(10_000))
    monkeypatch.setattr("ltdd_core.progress.time.monotonic", lambda: next(now))
    with OneLine(drawn.append).work("work", 1000, "images") as told:
        for done in range(1000):
            told(done)
    assert 20 < len(drawn) < 130
    assert drawn[-1] == ""


def test_a_warning_stands_in_a_line_of_its_own():
    drawn = []
    shown = OneLine(drawn.append)
    with shown.work("work", 2, "images"), pytest.warns(UserWarning, match="careful"):
        shown.warn("careful")
    assert drawn == ["work: 0/2 images", "", ""]


def test_in_a_notebook_the_line_is_a_display_that_is_updated(monkeypatch):
    found = []

    class Handle:
        def update(self, data, raw):
            found.append((raw, data["text/plain"]))

    def display(data, raw, display_id):
        assert raw
        assert display_id
        found.append(("new", data["text/plain"]))
        return Handle()

    module, inside = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    inside.display = display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", inside)
    monkeypatch.setattr("ltdd_core.progress.SECONDS_BETWEEN_DRAWS", 0.0)
    shown = usual_display()
    assert not found
    with shown.work("work", 2, "images") as told:
        told(2)
    assert found == [("new", "work: 0/2 images"), (True, "work: 2/2 images"), (True, "")]


def test_ipython_in_a_terminal_is_a_terminal(terminal, monkeypatch):
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", module)
    with usual_display().work("work", 2, "images"):
        assert terminal.lines()[-1] == "work: 0/2 images"


# ---- what things are called ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return distill(configure(method="dm", plugins=["twostage"], **SHORT), tmp_path_factory.mktemp("runs") / "a")


def test_everything_that_python_gives_is_called_something_in_one_line(result):
    lines = evaluate(result.run, networks=["mlp"], repeats=2, test_imbalances=[10])
    assert list(lines[0].mean.test_distributions or ()) == ["forward-10", "uniform", "backward-10"]
    stored = read_run(result.run)
    shown = {
        "Result(dm on digits-lt, 2 images a class, in ": result,
        "Row('original, direct': accuracy ": result.rows[0],
        "LongTailedSet(digits-lt: 342 training images, ": result.data,
        "DistilledSet(by dm: 2 images a class of 10 classes, 1x8x8)": result.distilled,
        "Config(data digits-lt, sampler instance, network convnet-d3, matcher dm, ": result.config,
        "Selection(network convnet-d3, depth=2, width=8)": result.config.network,
        "Repeated('two-stage, original + distilled' on mlp, 2 seeds: accuracy ": lines[0],
        "TrainedClassifier('distilled, direct': 10 classes, images of 1x8x8)": stored.classifier("distilled, direct"),
        "Scores(500 test images, 10 classes, ": stored.predictions[result.rows[-1].name],
        "SoftLabels(probabilities [4, 4])": SoftLabels(torch.eye(4)),
        "StoredRun(dm on digits-lt, in ": stored,
    }
    for start, thing in shown.items():
        text = repr(thing)
        assert text.startswith(start), text
        assert "\n" not in text
        assert "tensor" not in text
        assert len(text) < LONGEST


def test_a_notebook_shows_tables(result):
    table = result.rows._repr_html_()
    for row in result.rows:
        assert f"<td>{html.escape(row.name)}</td>" in table
        assert f"<td>{row.accuracy:.1f}</td>" in table
        assert row._repr_html_().count("<tr>") == 2
    assert table.count("<tr>") == 1 + len(result.rows)
    assert result._repr_html_().endswith(table)
    lines = evaluate(result.run, networks=["mlp", "convnet-d3"])
    assert isinstance(lines, list)
    assert re.findall("<td>(mlp|convnet-d3)</td>", lines._repr_html_()) == ["mlp", "convnet-d3"]
    assert type(lines)()._repr_html_() is None
    assert "<td>improvement over random</td>" in quality(result.run)._repr_html_()


@given(st.text(min_size=1))
def test_no_name_is_markup(name):
    row = Row(name, 1, *[1.0] * 11, None, 0.0, [1.0], [[1.0]])
    cell = re.search("<td>(.*?)</td>", row._repr_html_(), re.DOTALL)[1]
    assert html.unescape(cell) == name
    assert not set(cell) & {"<", ">", '"'}


def picture(shown):
    import base64

    data = re.search('src="data:image/png;base64,([^"]+)"', shown)[1]
    assert len(shown) < 100_000
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("counts", "shape", "drawn"),
    [
        ((3, 1), (1, 8, 8), [8, 8]),
        ([2] * 30, (3, 6, 9), [9, 6]),
        ([400, 1], (3, 64, 64), [42, 42]),  # as many dots as there are for an image
    ],
)
def test_a_set_shows_a_small_picture_of_its_first_classes(counts, shape, drawn):
    data = tiny_long_tailed(counts, shape)
    shown = data._repr_html_()
    place = json.loads(picture(shown).text["sheet"])
    assert place["rows"] == min(10, len(counts))
    assert place["columns"] == min(10, max(counts[:10]))
    assert place["size"] == drawn
    assert ("the first 10 of 30 classes" in shown) == (len(counts) == 30)


def test_a_distilled_set_shows_its_images_or_says_why_it_cannot(result):
    place = json.loads(picture(result.distilled._repr_html_()).text["sheet"])
    assert (place["rows"], place["columns"]) == (10, 2)
    strange = dataclasses.replace(result.distilled, decoder={"name": "<nobody>"}, origin={})
    assert repr(strange) == "DistilledSet(2 images a class of 10 classes, 1x8x8)"
    assert dataclasses.replace(strange, ipc=1).ipc_in_words() == "1 image a class"
    assert "needs the decoder of matcher &#x27;&lt;nobody&gt;&#x27;, which no installed" in strange._repr_html_()


# ---- lists ---------------------------------------------------------------------------------------


def test_evaluate_does_its_work_at_once_and_tells_each_line(finished):
    told = []
    lines = evaluate(finished, networks=["mlp", "convnet-d3"], told=told.append)
    assert [line.network for line in lines] == ["mlp", "convnet-d3"]
    assert told == lines
    assert json.dumps([line.to_json() for line in lines])


def test_a_wrong_data_folder_is_refused_at_once(finished, tmp_path):
    with pytest.raises(InputError):
        evaluate(finished, settings=[{"data": {"name": "folder", "root": str(tmp_path / "none")}}])


@pytest.mark.parametrize("repeats", [0, -1, 10**9])
@pytest.mark.parametrize("function", [evaluate, ltdd_core.quality])
def test_a_table_of_no_seed_or_of_too_many_is_refused(finished, function, repeats):
    with pytest.raises(InputError, match=f"repeats= is a number of seeds, 1 to 1000, not {repeats}"):
        function(finished, repeats=repeats)


def test_no_public_function_is_a_generator():
    import inspect

    lazy = [name for name in ltdd_core.__all__ if inspect.isgeneratorfunction(getattr(ltdd_core, name))]
    returned = [
        name
        for name in ltdd_core.__all__
        if inspect.isfunction(function := getattr(ltdd_core, name))
        and str(function.__annotations__.get("return", "")).startswith(("Iterator", "Generator"))
        and not hasattr(function, "__wrapped__")  # a context manager
    ]
    assert (lazy, returned) == ([], [])


# ---- messages ------------------------------------------------------------------------------------

SPELT = [
    (("resume", True), "--resume", "resume=True"),
    (("out",), "--out", "out="),
    (("data.root",), "--root", "root="),
    (("data.image_size",), "--image-size", "image_size="),
    (("network.name",), "--network", "network="),
    (("network.name", "mlp"), "--network mlp", 'network="mlp"'),
    (("network.width", "N"), "--set network.width=N", 'network={"width": N}'),
    (("compute.device", "cpu"), "--device cpu", 'compute={"device": "cpu"}'),
    (("compute.keep", False), "--no-keep", 'compute={"keep": False}'),
    (("compute.compile", True), "--compile", 'compute={"compile": True}'),
    (("training.original.lr", "..."), "--set training.original.lr=...", 'training={"original": {"lr": ...}}'),
    (("ipc.total", 100), "--set ipc.total=100", 'ipc={"total": 100}'),
    (("init", "keep"), "--init keep", 'init="keep"'),
    (
        ("recipe", {"name": "hierarchical", "stage1": "original"}),
        "--recipe hierarchical --set recipe.stage1=original",
        'recipe={"name": "hierarchical", "stage1": "original"}',
    ),
]


@pytest.mark.parametrize(("asked", "command_line", "python"), SPELT)
def test_an_option_is_written_as_its_reader_writes_it(asked, command_line, python):
    with for_command_line():
        assert how_to_set(*asked) == command_line
    assert how_to_set(*asked) == python


@pytest.mark.parametrize("path", PATHS.values())
def test_what_a_message_names_exists_in_both_languages(path):
    from ltdd_core.cli import bench, distill

    command = bench.command if path == "launcher.name" else distill.command
    with for_command_line():
        option = how_to_set(path)
    assert option in {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--keep"
    }
    assert how_to_set(path).endswith("=")


def test_the_same_mistake_is_said_in_the_language_of_who_made_it(ltdd, finished, tmp_path):
    python = {
        "needs root=: a folder": lambda: load_data("folder"),
        "resume it with resume=True, or name another folder with out=": lambda: distill(
            configure(**read_run(finished).config), finished
        ),
        'root="none": there is no such folder': lambda: load_data("folder", root="none"),
        "line= names a classifier": lambda: ltdd_core.export(finished, "npz", line="x"),
        "networks: unknown network 'mpl'": lambda: evaluate(finished, networks=["mpl"]),
        "name a method: method= one of": lambda: configure(),
        "use a head of two stages": lambda: distill(configure(method="dm", recipe="hierarchical"), tmp_path / "no"),
    }
    for text, wrong in python.items():
        with pytest.raises(InputError) as caught:
            wrong()
        assert text in str(caught.value)
        assert " --" not in str(caught.value)
        assert not str(caught.value).startswith("--")
    commands = {
        "needs --root: a folder": ["data", "show", "--data", "folder"],
        "--root none: there is no such folder": ["data", "show", "--data", "folder", "--root", "none"],
        "resume it with --resume, or name another folder with --out": [
            *("distill", "--config", finished / "config.yaml", "--out", finished)
        ],
        "--line names a classifier": ["export", finished, "--format", "npz", "--line", "x"],
        "--network: unknown network 'mpl'": ["evaluate", finished, "--network", "mpl"],
        "name a method: --method coreset|": ["distill"],
        "or --recipe direct": ["distill", "--method", "dm", "--recipe", "hierarchical", "--out", tmp_path / "no"],
    }
    for text, words in commands.items():
        assert text in one_line_error(ltdd(*words))
    assert how_to_set("out") == "out="  # also after a command in the same process


# ---- a finished run ------------------------------------------------------------------------------


def test_a_run_is_read_again(result):
    run = read_run(str(result.run))
    assert run.rows == result.rows
    assert run.groups == result.group_names()
    assert configure(**run.config) == result.config
    assert run.data["counts"] == list(result.data.counts)
    assert run.data["digest"] == result.data.digest
    assert torch.equal(run.distilled.images, result.distilled.images)
    assert run.distilled is run.distilled
    assert list(run.predictions) == sorted(row.name for row in run.rows)
    found = run.predictions[run.rows[-1].name].log_probabilities
    right = (found.argmax(1) == run.load_data().test_labels).double().mean() * 100
    assert float(right) == pytest.approx(run.rows[-1].accuracy)
    assert run.classifier().line == run.rows[-1].name
    assert run.classifier("original, direct").line == "original, direct"
    assert run._repr_html_().endswith(Row.table(run.rows).html())


def test_reading_a_run_reads_no_tensors(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("distilled.safetensors", "predictions.safetensors"):
        (run / name).write_bytes(b"damaged")
    found = read_run(run)
    assert found.rows[0].name == "original, direct"
    for part in ("distilled", "predictions"):
        with pytest.raises(InputError, match=rf"run/{part}\.safetensors"):
            getattr(found, part)


def test_a_run_of_an_earlier_version_has_what_can_be_known(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    document = json.loads((run / "report.json").read_text())
    for row in document["rows"]:
        for later in ("head", "middle", "tail", "geometric_mean"):
            del row[later]
    (run / "report.json").write_text(json.dumps(document))
    for old, now in zip(read_run(run).rows, read_run(finished).rows, strict=True):
        assert old.tail is None
        assert old.geometric_mean == pytest.approx(now.geometric_mean)
        assert old.per_class == now.per_class


def test_what_is_no_finished_run_gets_one_line(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    run = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(InputError, match=r"empty is not the folder of a run\.$"):
        read_run(tmp_path / "empty")
    with pytest.raises(InputError, match=r"nowhere is not the folder of a run\.$"):
        read_run(tmp_path / "nowhere")
    (run / "report.json").rename(tmp_path / "report.json")
    with pytest.raises(InputError, match=r"run is not finished: distill\(\.\.\., resume=True\) finishes it\.$"):
        read_run(run)
    for damage in ("[]", '{"rows": [{}], "groups": null, "seconds": 1}', '{"rows": 5}', "\0"):
        (run / "report.json").write_text(damage)
        with pytest.raises(InputError, match=r"report\.json is damaged"):
            read_run(run)
    (run / "run.json").unlink()
    with pytest.raises(InputError, match="is not the folder of a run that distilled something"):
        read_run(run)


def test_data_that_have_changed_are_refused(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["digest"] = "0" * 32
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="holds a run on other images than those of the data set 'digits-lt' now"):
        read_run(run).load_data()


# ---- a component without a package ---------------------------------------------------------------


class Mean(ClassMatcher):
    """Match the mean feature of each class."""

    def class_loss(self, network, real, synthetic):
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()


@pytest.fixture
def session(monkeypatch):
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(catalog, "_registered", {})


def test_a_class_of_a_notebook_is_a_method_until_the_process_ends(session, tmp_path):
    with pytest.raises(InputError, match="unknown matcher 'mine'"):
        configure(method="mine")
    register("matcher", "mine", Mean)
    result = distill(configure(method="mine", **SHORT), tmp_path / "run")
    assert result.config.matcher.component is Mean
    assert result.distilled.origin["versions"]["matcher mine"] == "this Python session"
    register("matcher", "mine", type("Other", (Mean,), {}))
    assert configure(method="mine").matcher.component.__name__ == "Other"
    register("preset", "short", {"iterations": 2})
    assert configure("short", method="mine").run.iterations == 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (("matchr", "a", Mean), "unknown kind 'matchr'. Did you mean 'matcher'?"),
        (("matcher", "dm", Mean), r"plugin 'dm' \(ltdd .*\) has a matcher 'dm': choose another name"),
        (("matcher", "a:b", Mean), "must be text without a colon, not 'a:b'"),
        (("matcher", "", Mean), "must be text without a colon, not ''"),
        (("head", "a", Mean), "head 'a' of plugin 'session' .* is no subclass of ClassifierHead"),
        (("matcher", "a", ClassMatcher), "is not finished: its class ClassMatcher has no class_loss"),
    ],
)
def test_what_cannot_be_registered_is_refused(session, wrong, text):
    with pytest.raises(InputError, match=text):
        register(*wrong)
    assert not catalog._registered


def test_a_set_whose_decoder_was_registered_says_to_register_it_again(session, result):
    strange = dataclasses.replace(
        result.distilled, decoder={"name": "mine"}, origin={"versions": {"matcher mine": "this Python session"}}
    )
    with pytest.raises(InputError, match="which was registered in a Python session: register it again"):
        strange.decoded()
