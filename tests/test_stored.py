"""``ltdd evaluate``: what the user says now, and what follows from it, beats what a run stored only as a default."""

import json

import pytest
import yaml
from conftest import TINY, unclocked
from hypothesis import given, settings, strategies as st

from ltdd_core.config.layers import Layer, flat
from ltdd_core.config.resolve import resolve
from ltdd_core.config.stored import asked_for
from ltdd_core.plugging.catalog import installed

SHARP = """
    from typing import Literal
    from pydantic import model_validator
    from ltdd_core import BaseOptions, ClassifierHead, Softmax, hookimpl, option

    class SharpHead(ClassifierHead):
        title = "sharp"

        class Options(BaseOptions):
            kind: Literal["plain", "sharp"] = option("plain", "which power")
            power: float = option(1.0, "power of the probabilities")

            @model_validator(mode="before")
            @classmethod
            def _follows(cls, values):
                return {"power": 4.0 if values.get("kind") == "sharp" else 1.0, **values}

        def fit(self, sets, trainer):
            network = trainer.train(sets[0], outputs=sets[0].classes)
            return Softmax(lambda images: self.options.power * network(images))

    @hookimpl
    def ltdd_register_heads(register):
        register("sharp", SharpHead)

    @hookimpl
    def ltdd_register_presets(register):
        register("keen", {"head": {"name": "sharp", "kind": "sharp"}})

    @hookimpl
    def ltdd_choose():
        return {"head": "sharp"}
"""
FILES = {
    "kind.yaml": {"head": {"kind": "sharp"}},
    "named.yaml": {"head": {"name": "sharp", "kind": "sharp"}},
    "two.yaml": {"head": "twostage", "recipe": "hierarchical"},
    "wide.yaml": {"network": {"name": "convnet-d3", "width": 4}},
}
SHARP_RUN, LINEAR, TWO = ("--head", "sharp"), ("--head", "linear"), ("--head", "twostage", "--recipe", "hierarchical")
KEEN = (*SHARP_RUN, "--set", "head.kind=sharp")
STRONG = (*SHARP_RUN, "--set", "head.power=3")
OBSERVER = "from ltdd_core import hookimpl\n@hookimpl\ndef ltdd_run_started(run):\n    pass\n"

CASES = [
    (SHARP_RUN, ("--set", "head.kind=sharp"), KEEN),
    (SHARP_RUN, KEEN, KEEN),
    (SHARP_RUN, ("--config", "kind.yaml"), KEEN),
    (SHARP_RUN, ("--config", "named.yaml"), KEEN),
    (SHARP_RUN, ("--preset", "keen"), KEEN),
    (SHARP_RUN, ("--plugin", "sharp", "--set", "head.kind=sharp"), KEEN),
    (SHARP_RUN, ("--plugin", "observer"), SHARP_RUN),
    (SHARP_RUN, ("--preset", "keen", "--set", "head.kind=plain"), SHARP_RUN),
    (SHARP_RUN, ("--preset", "keen", "--config", "two.yaml"), TWO),
    (SHARP_RUN, ("--preset", "keen", *LINEAR), LINEAR),
    (KEEN, (), KEEN),
    (KEEN, ("--set", "head.kind=plain"), SHARP_RUN),
    (KEEN, ("--plugin", "observer"), KEEN),
    (STRONG, ("--set", "head.kind=sharp"), STRONG),
    (LINEAR, TWO, TWO),
    (LINEAR, ("--config", "two.yaml"), TWO),
    (LINEAR, ("--plugin", "twostage"), TWO),
    (LINEAR, ("--preset", "keen"), KEEN),
    (TWO, LINEAR, LINEAR),
    (TWO, ("--plugin", "sharp"), SHARP_RUN),
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the runs are that several tests evaluate."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def runs(site, ltdd, tmp_path, kept):
    """``runs(options)``: the folder of a tiny run with those options."""
    site.install("sharp", SHARP)
    site.install("observer", OBSERVER)
    for name, tree in FILES.items():
        (tmp_path / "here" / name).write_text(yaml.safe_dump(tree))

    def made(options):
        folder = kept / "".join(options)
        if not folder.exists():
            result = ltdd("distill", "--method", "dm", *TINY, *options, "--out", folder)
            assert result.exit_code == 0, result.output
        return folder

    return made


def last_row(folder):
    return json.loads((folder / "report.json").read_text())["rows"][-1]


@pytest.mark.parametrize(("run", "now", "same"), CASES, ids=[" ".join([*a, "then", *b]) for a, b, _ in CASES])
def test_an_evaluation_is_that_of_a_run_with_those_options(run, now, same, runs, ltdd):
    result = ltdd("evaluate", runs(run), *now, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    row, expected = unclocked(row), unclocked(last_row(runs(same)))
    expected = {key: value for key, value in expected.items() if key not in ("accuracy_interval", "behind_best")}
    assert {key: row[key] for key in expected} == expected
    assert (unclocked(last_row(runs(same))) == unclocked(last_row(runs(run)))) == (run == same)


def test_a_network_that_is_named_beats_the_one_of_a_file(runs, ltdd):
    def rows(*options):
        result = ltdd("evaluate", runs(LINEAR), *options, "--json")
        assert result.exit_code == 0, result.output
        return unclocked(json.loads(result.stdout)["rows"])

    assert rows("--config", "wide.yaml", "--network", "mlp") == rows("--network", "mlp")
    assert rows("--config", "wide.yaml", "--network", "convnet-d3") == rows("--set", "network.width=4")


# ---- what was asked for --------------------------------------------------------------------------

CATALOG = installed()


def asked(tree):
    full = resolve(CATALOG, [Layer("x", tree)]).to_tree()
    return flat(asked_for(CATALOG, Layer("x", full)).tree)


NAMES = {"sampler.name": "instance", "network.name": "convnet-d3", "head.name": "linear", "recipe.name": "direct"}


def test_only_what_differs_from_defaults_was_asked_for():
    data = {"data.name": "digits-lt", "matcher.name": "dm"}
    assert asked({"method": "dm"}) == NAMES | data
    assert asked({"method": "dm", "ipc": 10, "seed": 3}) == NAMES | data | {"seed": 3}
    nested = {"method": "dm", "training": {"original": {"epochs": 7, "lr": 0.05}}}
    assert asked(nested) == NAMES | data | {"training.original.epochs": 7}


def test_a_default_that_somebody_asked_for_against_the_data_source_is_kept():
    """A source suggests 300 iterations; a run with the 1000 of everybody was asked for."""
    suggested = resolve(CATALOG, [Layer("x", {"method": "dm"})]).run.iterations
    assert suggested != 1000
    assert asked({"method": "dm", "iterations": 1000})["iterations"] == 1000
    assert "iterations" not in asked({"method": "dm", "iterations": suggested})


@given(
    st.fixed_dictionaries(
        {"method": st.sampled_from(["dm", "mtt", "coreset"])},
        optional={
            "plugins": st.just(["twostage"]),
            "data": st.sampled_from(["digits-lt", {"name": "digits-lt", "n_max": 30}, "cifar10-lt-1k"]),
            "head": st.sampled_from(["ensemble", {"name": "ldam", "scale": 10.0}, {"name": "focal", "gamma": 1.0}]),
            "training": st.fixed_dictionaries({"distilled": st.fixed_dictionaries({"epochs": st.integers(1, 400)})}),
            "iterations": st.sampled_from([300, 1000]),
        },
    )
)
@settings(max_examples=20, deadline=None)
def test_what_was_asked_for_resolves_to_the_whole(tree):
    config = resolve(CATALOG, [Layer("x", tree)])
    stored = Layer("stored", {**config.to_tree(), "plugins": []})
    assert resolve(CATALOG, [], stored=asked_for(CATALOG, stored)) == resolve(CATALOG, [stored])


def test_a_configuration_that_does_not_resolve_today_stays_as_it_is():
    stored = Layer("old", {"matcher": {"name": "gone", "x": 1}, "head": {"name": "linear"}})
    assert asked_for(CATALOG, stored) == stored


def test_another_component_in_an_option_drops_the_options_of_the_one_below():
    low = Layer("file", {"method": "dm", "head": {"name": "ensemble", "of": {"name": "ldam", "scale": 10}}})
    same, other = (Layer("--set", {"head": {"of": {"name": name}}}) for name in ("ldam", "cosine"))
    assert resolve(CATALOG, [low, same]).head.options.of == {"name": "ldam", "scale": 10}
    assert resolve(CATALOG, [low, other]).head.options.of == {"name": "cosine"}
