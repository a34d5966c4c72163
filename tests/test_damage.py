"""Whatever is in a file that is read: it is used, or refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import TINY
from hypothesis import HealthCheck, given, settings, strategies as st

from ltdd_core import InputError, export, load_distilled
from ltdd_core.bench.grid import read_grid
from ltdd_core.cli import cli
from ltdd_core.config.layers import from_file
from ltdd_core.config.resolve import resolve
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.npz import Npz
from ltdd_core.evaluation.predictions import load_predictions
from ltdd_core.evaluation.stored import load_classifier
from ltdd_core.plugging.catalog import installed
from ltdd_core.runs.costs import stored_costs
from ltdd_core.runs.folder import METRICS, RunFolder

CATALOG = installed()
ODD_VALUES = (
    *(
        "null",
        "true",
        "NaN",
        "Infinity",
        "-1",
        "0",
        "2.5",
        "1e999",
        "[]",
        "{}",
        '""',
        '"x"',
        '"\\ud800"',
        '["x"]',
        "[1]",
    ),
    *(
        "9" * 5000,
        "1" + "0" * 400,
        "[" * 5000,
        "[" * 90 + "]" * 90,
        '{"name": "x"}',
        '{"lr": -1}',
        '"' + "x" * 300 + '"',
    ),
)
"""JSON, most of it, in place of a value."""
ODD_BYTES = (
    *(b"", b"\0", b"\xff\xfe", b"\n", b"null", b"{", b"}", b"9" * 5000, b"&a [*a]", b"!!python/object:os.system {}"),
    *(
        b"-",
        b": ",
        b".inf",
        b"2024-99-99",
        b"*a",
        b"<<: 5\n",
        b"? [a]\n",
        b"\xed\xa0\x80",
        b'"',
        b"\\u0000",
        b"1_000e9",
    ),
)
GRID = {
    "title": "A grid",
    "common": {"iterations": 3, "network": {"width": 8}, "training": {"original": {"epochs": 2}}},
    "data": ["digits-lt", {"name": "digits-lt", "label": "other", "n_max": 30}],
    "imbalance": [20],
    "ipc": [2],
    "methods": ["dm", {"method": "dm", "label": "noise", "init": "noise"}],
    "seeds": [0, 1],
    "lines": [{"name": "{method}, one stage"}, {"name": "two", "plugins": "twostage", "head": {"routing": "hard"}}],
    "published": [{"line": "two", "accuracy": 90.0, "data": "other", "method": "noise", "source": "Somebody"}],
}  # fmt: skip


# ---- damage ----------------------------------------------------------------------------------------


def cut_and_pasted(draw, content):
    """Some bytes replaced by others, by odd ones or by none."""
    start = draw(st.integers(0, len(content)))
    length = draw(st.sampled_from([0, 1, 4, 30, len(content)]))
    new = draw(st.sampled_from(ODD_BYTES) | st.binary(min_size=1, max_size=3))
    return content[:start] + new + content[start + length :]


def with_odd_value(draw, tree):
    """A JSON text in which a value somewhere inside is another, or gone."""
    marked, place = json.loads(json.dumps(tree)), None
    inside = marked
    while isinstance(inside, dict | list) and inside and (place is None or draw(st.integers(0, 3))):
        place = (inside, draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside)))))
        inside = inside[place[1]]
    if place is None or draw(st.integers(0, 5)) == 0:
        if place is not None:
            del place[0][place[1]]
        return json.dumps(marked)
    place[0][place[1]] = "@odd@"
    return json.dumps(marked).replace('"@odd@"', draw(st.sampled_from(ODD_VALUES)))


def damaged_document(draw, content):
    """JSON, YAML or JSON lines, damaged in its bytes or in its values."""
    if draw(st.booleans()):
        return cut_and_pasted(draw, content)
    first, *rest = content.splitlines(keepends=True)
    if rest and first.startswith(b'{"step"'):
        return b"".join([with_odd_value(draw, json.loads(first)).encode() + b"\n", *rest])
    return with_odd_value(draw, yaml.safe_load(content)).encode()


def damaged_tensors(draw, content):
    """A safetensors file, damaged in its bytes, in the values of its header or in those of its metadata."""
    how = draw(st.sampled_from(["bytes", "header", "metadata"]))
    if how == "bytes":
        return cut_and_pasted(draw, content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if how == "metadata":
        key = draw(st.sampled_from(sorted(header["__metadata__"])))
        header["__metadata__"][key] = damaged_metadatum(draw, header["__metadata__"][key])
        text = json.dumps(header).encode()
    else:
        text = with_odd_value(draw, header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def damaged_metadatum(draw, text):
    value = json.loads(text)
    return with_odd_value(draw, value) if isinstance(value, dict | list) else draw(st.sampled_from(ODD_VALUES))


# ---- the doors -------------------------------------------------------------------------------------


def read_set(path):
    load_distilled(path)
    for kind in ("npz", "folder", "ddranking"):
        target = path.with_name(f"{kind}.npz")
        export(path, kind, target)
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)


def read_log(path):
    RunFolder(path.parent).log_from(METRICS, 3).close()


DOORS = {
    "distilled.safetensors": (damaged_tensors, read_set),
    "predictions.safetensors": (damaged_tensors, load_predictions),
    "classifier.safetensors": (damaged_tensors, load_classifier),
    "checkpoint.safetensors": (damaged_tensors, lambda path: RunFolder(path.parent).load_checkpoint()),
    "config.yaml": (damaged_document, lambda path: resolve(CATALOG, [from_file(path)])),
    "run.json": (damaged_document, lambda path: RunFolder(path.parent).begin_session({"digest": "0"}, {})),
    "report.json": (damaged_document, lambda path: RunFolder(path.parent).seconds_taken()),
    "costs.json": (damaged_document, lambda path: stored_costs(path.parent)),
    "metrics.jsonl": (damaged_document, read_log),
    "grid.yaml": (damaged_document, lambda path: read_grid(path, CATALOG)),
    "set.npz": (cut_and_pasted, lambda path: load_long_tailed("npz", Npz(Npz.Options(root=path)))),
}
OF_NO_RUN = "set.npz", "grid.yaml", "classifier.safetensors"
"""Files that are read, and that no run has under this name."""


@pytest.fixture(scope="module")
def whole(finished_once, tmp_path_factory):
    """A folder with one of every file that is read."""
    folder = tmp_path_factory.mktemp("whole") / "files"
    shutil.copytree(finished_once, folder)
    shutil.copy(next((folder / "classifiers").glob("two-stage*")), folder / "classifier.safetensors")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    labels = np.arange(6).repeat(2) % 3
    images = np.zeros((12, 8, 8), np.uint8)
    np.savez(folder / "set.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return folder


def check(name, whole, folder, data):
    damage, read = DOORS[name]
    path = folder / name
    path.write_bytes(damage(data.draw, (whole / name).read_bytes()))
    said = ""
    try:
        read(path)
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 10_000  # of many faults each has a sentence


@pytest.mark.parametrize("name", DOORS)
def test_the_whole_files_are_read(name, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "files")
    if name != "run.json":  # which is asked about other data
        DOORS[name][1](tmp_path / "files" / name)


@pytest.mark.parametrize("name", DOORS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, whole, tmp_path):
    @given(st.data())
    @settings(max_examples=40, deadline=None, derandomize=True)
    def try_one(data):
        check(name, whole, tmp_path, data)

    try_one()


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", DOORS)
def test_files_damaged_in_very_many_ways_are_read_or_refused(name, whole, tmp_path):
    @given(st.data())
    @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
    def try_one(data):
        check(name, whole, tmp_path, data)

    try_one()


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", [name for name in DOORS if name not in OF_NO_RUN])
def test_commands_on_a_damaged_run_end_with_at_most_one_line(name, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @given(st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def try_one(data):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(finished, "run")
        Path("run", name).write_bytes(DOORS[name][0](data.draw, (finished / name).read_bytes()))
        for command in (["distill", "--out", "run", "--resume", "--quiet"], ["evaluate", "run", "--quiet", *TINY[4:]]):
            result = CliRunner().invoke(cli, command)
            assert result.exit_code in (0, 1, 2), result.exception
            assert result.exit_code == 0 or isinstance(result.exception, SystemExit), result.exception
            assert result.exit_code == 0 or result.stderr.count("\n") == 1, result.stderr

    try_one()
