"""Whatever a configuration file or ``--set`` holds: it resolves, or one printable line says what is wrong."""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ltdd_core import InputError
from ltdd_core.config.layers import Layer, from_assignments, from_file
from ltdd_core.config.resolve import resolve
from ltdd_core.plugging.catalog import installed

CATALOG = installed()

FILES = (
    """method: dm
plugins: [twostage]
ipc: 10
seed: 3
init: herding
augment: color_crop_cutout
data: {name: digits-lt, imbalance: 20, mean: [0.5], n_max: 50}
matcher: {lr_img: 1.0, batch_real: 64}
network: {name: convnet-d3, width: 64}
head: {name: twostage, stage1: {name: ldam, scale: 10}, groups: 3}
training:
  original: &t {epochs: 100, lr: 1e-3, mixup: 0.2}
  distilled: {<<: *t, schedule: cosine}
compute: {device: cpu, threads: 1, compile: false}
""",
    """matcher:
  name: mtt
  syn_steps: 30
  experts: {count: 100, epochs: 50, sampler: class-balanced}
data: {name: folder, root: "some/where", image_size: 32, imbalance: natural}
head: {name: ensemble, of: linear, members: 3}
recipe: direct
sampler: {name: effective-number, beta: 0.999}
""",
)
TOKENS = (
    *(
        "9" * 5000,
        "0x" + "f" * 5000,
        "1e999",
        ".inf",
        "-.inf",
        ".nan",
        "-1",
        "0",
        "1e-400",
        "9223372036854775808",
        "1.5",
    ),
    *("true", "null", "~", "''", '"\\ud800"', '"\\0"', '"\\e[31m"', "2001-99-99", "12:30:45", "!!int x", "!!binary x"),
    *(
        "!!python/name:os.system",
        "!!set {a}",
        "!!set x",
        "!!omap [a: 1]",
        "&x !!omap [a: *x]",
        "&x [*x]",
        "&x {a: *x}",
        "*t",
        "<<: 3",
        "<<: {name: 3}",
    ),
    *("[" * 200, "{a: " * 200, "[]", "{}", "[a, b]", "{a: 3}", "{name: 3}", "{name: linear}", "{name: [a]}", "- a"),
    *(
        "name",
        "twostage",
        "linear",
        "ensemble",
        "root",
        "plugin: x",
        "method: dm",
        "? [a]",
        "---",
        "...",
        "%TAG",
        "@",
        "\t",
    ),
    *(": ", ", ", "\n", "\n  ", "#", "\x00", "\x1b", "\x85", "\u2028", "\ufeff", "ä", "=", "."),
)
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(TOKENS) | st.text(max_size=4))


def edited(text, edits):
    """Text in which pieces of up to a dozen letters are replaced by something else."""
    for place, length, token in edits:
        start = int(place * len(text))
        text = text[:start] + token + text[start + length :]
    return text


def one_line_or_none(work):
    message = "it resolves"
    try:
        work()
    except InputError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) > 10


def check_file(text, edits, encoding):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.yaml"
        path.write_bytes(edited(text, edits).encode(encoding, errors="replace"))
        one_line_or_none(lambda: resolve(CATALOG, [Layer("--method", {"method": "dm"}), from_file(path)]))


PATHS = (
    *(
        "ipc",
        "ipc.few",
        "ipc.classes",
        "seed",
        "init",
        "plugins",
        "method",
        "head.of",
        "head.name",
        "head",
        "data.root",
        "data.mean",
        "compute",
    ),
    *("training.original.lr", "training", "network.width", "experts.count", "matcher.experts.sampler", "recipe"),
)


def check_assignments(pieces):
    words = [edited(f"{path}={value}", edits) for path, value, edits in pieces]
    one_line_or_none(lambda: resolve(CATALOG, [Layer("--method", {"method": "mtt"}), *from_assignments(words)]))


files = st.sampled_from(FILES), st.lists(EDIT, min_size=1, max_size=4), st.sampled_from(["utf-8", "utf-16", "latin-1"])
assignments = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(TOKENS) | st.text(max_size=8), st.lists(EDIT, max_size=2)),
    min_size=1,
    max_size=3,
)
QUICK = settings(max_examples=200, deadline=None)
SLOW = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(*files)
def test_a_mutated_file_resolves_or_is_refused_in_one_line(text, edits, encoding):
    check_file(text, edits, encoding)


@QUICK
@given(assignments)
def test_a_mutated_assignment_resolves_or_is_refused_in_one_line(pieces):
    check_assignments(pieces)


@pytest.mark.slow
@SLOW
@given(*files)
def test_many_mutated_files_resolve_or_are_refused_in_one_line(text, edits, encoding):
    check_file(text, edits, encoding)


@pytest.mark.slow
@SLOW
@given(assignments)
def test_many_mutated_assignments_resolve_or_are_refused_in_one_line(pieces):
    check_assignments(pieces)


def test_odd_values_at_every_place_resolve_or_are_refused_in_one_line():
    for path, token in itertools.product(PATHS, TOKENS):
        check_assignments([(path, token, [])])
