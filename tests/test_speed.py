"""The scripts that measure speed: each variant is what its name says, and the options hold while it is measured."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from ltdd_core import configure
from ltdd_core.commands import open_setup

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
NAMES = ("measuring", "dm_speed", "dc_speed", "mtt_speed", "limit")


@pytest.fixture
def script(monkeypatch):
    """Imports a script as ``python benchmarks/NAME.py`` finds it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "method"), [("dm_speed", "dm"), ("dc_speed", "dc")])
def test_a_variant_is_computed_as_its_name_says_whatever_the_defaults_are(script, name, method):
    module, base = script(name), configure(method=method)
    for variant in module.VARIANTS:
        compute = module.variant_config(base, variant).compute
        assert compute.precision == ("bf16" if "bf16" in variant else "fp32")
        assert compute.compile is ("--compile" in variant)


def test_variants_of_trajectory_matching_are_computed_as_their_names_say(script):
    for variant, (_, compute) in script("mtt_speed").MATCHERS.items():
        assert compute == {"precision": "bf16" if "bf16" in variant else "fp32", "compile": "--compile" in variant}


def test_threads_hold_while_a_matcher_is_measured(script):
    before = torch.get_num_threads()
    base = configure(method="dm", compute={"threads": before + 1}, ipc=1)
    with script("measuring").as_configured(base):
        with open_setup(base):
            pass  # a matcher is measured after its setup, which sets the threads, is closed
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def limit_rows(printed):
    """The cells of the table that ``limit.py`` printed, by part and precision."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")]
    return {(cells[0], cells[1]): cells[2:] for cells in lines if len(cells) == 8 and cells[0] != "part"}


@pytest.fixture
def limit(script, monkeypatch, capsys):
    """Runs ``limit.py`` on a narrow network, and gives what it printed."""
    module = script("limit")
    monkeypatch.setattr(module, "SIZES", {"cpu": (32,), "cuda": (32,)})
    monkeypatch.setattr(module, "CONVOLUTIONS", {"cpu": (1, 8, 8), "cuda": (1, 8, 8)})

    def run(*options):
        tiny = ["--no-compile", "--width", "2", "--ipc", "1", "--steps", "1", "--inner", "1", "--syn-steps", "1"]
        monkeypatch.setattr(sys, "argv", ["limit.py", *tiny, *options])
        module.main()
        return capsys.readouterr().out

    return run


def test_the_limits_are_a_table_of_all_parts_with_bound_time_and_ratio(limit):
    printed = limit("--precision", "bf16")
    rows = limit_rows(printed)
    parts = ("DM step", "DC iteration", "MTT iteration", "epoch of a classifier", "evaluation pass")
    assert list(rows) == [(part, "bf16") for part in parts]
    for _, bound, eager, ratio, *compiled in rows.values():
        assert float(ratio) == pytest.approx(float(eager) / float(bound), rel=0.01)
        assert compiled == ["", ""]
    assert f"torch {torch.__version__}" in printed
    assert re.search(r"^bf16: [\d.]+[MG] multiply-adds a second \((torch.mm|a convolution), ", printed, re.MULTILINE)
    assert "operators" not in printed


def test_the_profile_of_a_part_says_what_its_products_take(limit):
    printed = limit("--only", "evaluation", "--precision", "fp32", "--profile", "evaluation")
    assert list(limit_rows(printed)) == [("evaluation pass", "fp32")]
    shares = dict(re.findall(r"^\| `?([\w: ]+?)`? \| [\d.]+ \| (\d+)% \|", printed, re.MULTILINE))
    assert 0 < int(shares["all convolutions and matrix products"]) < 100
    assert "aten::native_group_norm" in shares


def test_the_seconds_of_several_threads_are_not_taken_for_those_of_one(limit, capsys):
    with pytest.raises(SystemExit):
        limit("--threads", "2", "--clock", "cpu")
    assert "--clock cpu adds up the seconds of all threads: use it with --threads 1" in capsys.readouterr().err


def test_a_dm_step_has_the_multiply_adds_of_its_layers(script):
    limit, width, ipc, classes = script("limit"), 2, 3, 10
    config = configure(method="dm", network={"width": width}, ipc=ipc, augment="none", compute=limit.FP32)
    with open_setup(config) as setup:
        count = limit.multiply_adds(limit.of_matcher(setup))
        real = sum(min(images, 256) for images in setup.data.counts)
    synthetic = classes * ipc
    an_image = 8 * 8 * 9 * width + 4 * 4 * 9 * width * width  # 3x3 convolutions of 8x8 and of 4x4 pixels
    there_and_back = 2 * an_image  # to the pixels, since the weights are frozen
    assert count == real * an_image + synthetic * there_and_back  # the means of the classes are sums
    assert (real, count) == (342, 694_656)


def test_the_page_about_public_codes_has_commands_that_there_are(script, monkeypatch, capsys):
    page = (SCRIPTS / "peers.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python benchmarks/(\w+)\.py (.+)$", page, re.MULTILINE)
    assert [name for name, _ in commands] == ["dm_speed", "dc_speed", "mtt_speed"]
    for name, options in commands:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
        with pytest.raises(SystemExit):
            script(name).main()
        assert set(re.findall(r"--[\w-]+", options)) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    for link in re.findall(r"\]\((\.\./[^)]+)\)", page):
        assert (SCRIPTS / link).is_file()
