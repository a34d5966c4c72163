"""The argument of a name, ``name:value``: understood wherever a component is named."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import one_line_error
from hypothesis import given, settings, strategies as st

import ltdd_core
from ltdd_core import InputError
from ltdd_core.config.resolve import component_maker, select
from ltdd_core.plugging.catalog import installed

SIZED = """
    from typing import ClassVar
    from ltdd_core import ClassifierHead, Network, NetworkOptions, Softmax, hookimpl, option
    from torch import nn

    class Sized(Network):
        \"\"\"One hidden layer.\"\"\"
        argument = "units"

        class Options(NetworkOptions):
            \"\"\"Its size.\"\"\"
            units: int = option(4, "hidden units", ge=1)
            bias: bool = option(True, "whether the hidden layer has a bias")

        def __init__(self, image_shape, outputs, options):
            super().__init__()
            size = image_shape[0] * image_shape[1] * image_shape[2]
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(size, options.units, options.bias), nn.Tanh())
            self.linear = nn.Linear(options.units, outputs)

        def embed(self, images):
            return self.features(images)

    class Called(ClassifierHead):
        \"\"\"Plain, and called something.\"\"\"
        argument = "word"
        title = "called"

        class Options(ClassifierHead.Options):
            \"\"\"The word.\"\"\"
            word: str = option("nothing", "any word")

        def fit(self, sets, trainer):
            return Softmax(trainer.train(sets[0], outputs=sets[0].classes))

    class Lost(Called):
        argument = "sound"

    @hookimpl
    def ltdd_register_networks(register):
        register("sized", Sized)

    @hookimpl
    def ltdd_register_heads(register):
        register("called", Called)
        register("lost", Lost)

    @hookimpl
    def ltdd_register_presets(register):
        register("small", {"network": "sized:2"})

    @hookimpl
    def ltdd_choose(config):
        return {"network": "sized:9"}
"""
FAST = (
    "--set",
    "training.original.epochs=1",
    "--set",
    "training.distilled.epochs=1",
    "--iterations",
    "2",
    "--ipc",
    "1",
)


@pytest.fixture(autouse=True)
def sized(site):
    site.install("sized", SIZED)


def configure(**settings):
    return ltdd_core.configure(method="dm", **settings)


def network_of(config):
    chosen = config.network
    return chosen.name, chosen.options.units, chosen.options.bias


def test_an_argument_is_the_option_that_the_component_says():
    short, long = configure(network="sized:7"), configure(network={"name": "sized", "units": 7})
    assert short == long
    assert short.to_tree() == long.to_tree()
    assert network_of(configure(network={"name": "sized:7", "bias": False})) == ("sized", 7, False)
    assert configure(head="called:a:b").head.options.word == "a:b", "the first colon counts"


def test_a_later_layer_stands_above_an_earlier_one(tmp_path, ltdd):
    Path("c.yaml").write_text("network: {name: 'sized:3', bias: false}\nmethod: dm\n")

    def written(*words):
        done = ltdd("distill", *FAST, *words, "--out", tmp_path / "run", "--config", "c.yaml", "--set", "seed=-1")
        return one_line_error(done)

    assert "seed" in written()  # everything else is right
    assert network_of(configure(preset="small", network={"bias": False})) == ("sized", 2, False)
    assert network_of(configure(plugins=["sized"])) == ("sized", 9, True)
    assert network_of(configure(plugins=["sized"], network="sized:3")) == ("sized", 3, True)
    assert "network.units" in written("--network", "sized:0")
    assert "--network: network.units must be at least 1" in written("--network", "sized:0")


def test_all_options_that_name_components_take_it():
    catalog = installed()
    assert component_maker(catalog)("head", "called:x").options.word == "x"
    assert component_maker(catalog)("head", {"name": "called:x"}).options.word == "x"
    assert select(catalog, "network", {"name": "sized:5"}).options.units == 5
    members = configure(head={"name": "ensemble", "of": "called:x"}).head
    assert members.options.of == "called:x"
    for wrong, message in (("called:", "nothing follows"), ("linear:x", "takes nothing"), ("caled:x", "'called'")):
        with pytest.raises(InputError, match=message):
            configure(head={"name": "ensemble", "of": wrong})


def test_teachers_are_of_the_network_that_a_name_with_an_argument_says(ltdd):
    words = (
        "--method",
        "dm",
        "--labeller",
        "teacher",
        "--set",
        "labeller.teacher.network=sized:6",
        "--network",
        "sized:5",
    )
    assert ltdd("distill", *words, *FAST, "--out", "run", "--store", "store").exit_code == 0
    keys = json.dumps([n["key"] for n in json.loads(ltdd("networks", "list", "--store", "store", "--json").stdout)])
    assert [f'["units", {units}]' in keys for units in (4, 5, 6)] == [False, True, True]
    assert yaml.safe_load(Path("run/config.yaml").read_text())["network"]["units"] == 5
    again = ltdd("evaluate", "run", "--network", "sized:2", "--network", "sized:3", "--json", "--quiet")
    assert [row["network"] for row in json.loads(again.stdout)["rows"]] == ["sized:2", "sized:3"]


def test_train_bench_and_describe_take_and_show_it(ltdd):
    trained = ltdd("train", "--network", "sized:2", "--network", "sized:3", *FAST[:2], "--out", "both")
    assert trained.exit_code == 0, trained.output
    assert "sized:2" in trained.stdout
    assert "sized:3" in trained.stdout
    kept = sorted(path.stem for path in Path("both/classifiers").iterdir())
    assert len(kept) == 2
    lines = "[{name: two, network: 'sized:2'}, {name: three, network: 'sized:3'}]"
    Path("g.yaml").write_text(f"data: [digits-lt]\nipc: [1]\nseeds: [0]\nmethods: [coreset]\nlines: {lines}\n")
    done = ltdd("bench", "g.yaml", "--out", "grid", *FAST[:4])
    assert done.exit_code == 0, done.output
    table = Path("grid/table.csv").read_text()
    assert "two" in table
    assert "three" in table
    shown = json.loads(ltdd("describe", "network", "sized:8", "--json").stdout)
    assert shown["name"].startswith("network sized:8")
    assert "sized:UNITS is short for its option units." in shown["about"]
    assert {row["option"]: row["default"] for row in shown["options"]}["network.units"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "mlp:3"), "network 'mlp' takes nothing after a colon: write 'mlp', not 'mlp:3'."),
        (("--network", "sized:"), "network 'sized:': nothing follows the colon; write sized:UNITS."),
        (("--network", "siced:3"), "Did you mean 'sized'?"),
        (("--network", ":3"), "unknown network ''."),
        (("--network", "sized:many"), "network.units must be a whole number"),
        (("--set", "network={name: 'sized:3', units: 4}"), "'sized:3' and its option 'units' say the same; keep one."),
        (("--head", "lost:x"), "its argument 'sound' is no option of it."),
        (("--data", "digits-lt:x"), "data source 'digits-lt' takes nothing after a colon"),
        (("--init", "instance:x"), "sampler 'instance' takes nothing after a colon"),
    ],
)
def test_a_wrong_argument_gets_one_line_and_nothing_is_written(ltdd, words, message):
    assert message in one_line_error(ltdd("distill", "--method", "dm", *words, "--out", "run"))
    assert not Path("run").exists()


def test_no_component_has_a_colon_in_its_name(site, ltdd):
    source = (
        "from ltdd_core import hookimpl\n@hookimpl\ndef ltdd_register_heads(register):\n    register('a:b', 'x:Y')\n"
    )
    site.install("colon", source)
    assert "a:b" not in installed().names("head")
    told = ltdd("plugins", "--json")
    (row,) = (row for row in json.loads(told.stdout) if row["name"] == "colon")
    assert row["state"] == "broken"
    assert "the name 'a:b' of a head must have no colon" in row["reason"]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_any_text_after_the_colon_arrives_as_it_is(word):
    section = installed_once().spelt_out("head", {"name": f"called:{word}"})
    assert section == {"name": "called", "word": word}
    assert installed_once().spelt_out("head", section) == section


def installed_once(found=[]):  # noqa: B006 - plugins are looked for once for all examples
    if not found:
        found.append(installed())
    return found[0]
