"""The scripts that measure speed: each variant is what its name says, and the options hold while it is measured."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from ltdd_core import configure

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
NAMES = ("measuring", "dm_speed", "dc_speed", "mtt_speed")


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
    measuring = script("measuring")
    with measuring.as_configured(base):
        measuring.matcher_of(base)  # its setup, which sets the threads, is closed again
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
