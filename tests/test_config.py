"""One configuration from many places: what wins, and what a wrong word is answered with."""

import copy
import itertools
import json
import math

import pytest
import yaml
from conftest import one_line_error
from hypothesis import given, settings, strategies as st

from ltdd_core import InputError, TrainingOptions, configure
from ltdd_core.cli.settings import layers
from ltdd_core.config.layers import Layer, flat, from_assignments, from_file, merged
from ltdd_core.config.model import Compute, DistilledTraining, OriginalTraining, RunOptions, differences
from ltdd_core.config.resolve import resolve, resolve_data
from ltdd_core.plugging.catalog import installed

CATALOG = installed()
DM = Layer("--method", {"method": "dm"})

# ---- what wins -----------------------------------------------------------------------------------

LEVELS = ("default", "data source", "preset", "file", "option", "--set")

SOURCE_AND_PRESET = """
    from ltdd_core import hookimpl
    from ltdd_core.data.digits import Digits

    class Plain(Digits):
        suggested = {{}}

    class Suggesting(Digits):
        suggested = {suggested}

    @hookimpl
    def ltdd_register_datasets(register):
        register("plain", Plain)
        register("suggesting", Suggesting)

    @hookimpl
    def ltdd_register_presets(register):
        register("house", {preset})
"""


def settled(site, tmp_path, place, values):
    """The configuration in which each level of ``values`` (level -> value) sets the option at ``place``."""

    def tree(level):
        found = values[level]
        for key in reversed(place.split(".")):
            found = {key: found}
        return found

    preset = tree("preset") if "preset" in values else {}
    suggested = tree("data source") if "data source" in values else {}
    site.install("levels", SOURCE_AND_PRESET.format(preset=preset, suggested=suggested))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"method": "dm", **(tree("file") if "file" in values else {})}))
    assignments = (f"{place}={values['--set']}",) if "--set" in values else ()
    options = {"data": "suggesting", **({place: str(values["option"])} if "option" in values else {})}
    given = layers(file, assignments, options)
    return resolve(installed(), given, "house").to_tree()


@pytest.mark.parametrize(("lower", "upper"), list(itertools.combinations(LEVELS, 2)))
def test_the_upper_level_wins(lower, upper, site, tmp_path):
    values = {level: 20 + number for number, level in enumerate(LEVELS) if level in (lower, upper)}
    values.pop("default", None)
    assert settled(site, tmp_path, "ipc", values)["ipc"] == values[upper]


@pytest.mark.parametrize(
    ("lower", "upper"), list(itertools.combinations(["data source", "preset", "file", "--set"], 2))
)
def test_a_level_changes_only_what_it_names(lower, upper, site, tmp_path):
    tree = settled(site, tmp_path, "training.distilled.lr", {lower: 0.5, upper: 0.25})
    usual = configure(method="dm", data="digits-lt").to_tree()["training"]["distilled"]
    assert tree["training"]["distilled"] == {**usual, "lr": 0.25}
    assert tree["training"]["suggested"] == ({"lr": 0.5} if lower == "data source" else {})


def test_a_later_preset_overrides_an_earlier_one():
    both = resolve(CATALOG, [], ["mtt-paper", "dm-paper"])
    alone = resolve(CATALOG, [], "dm-paper")
    assert (both.matcher.name, both.run.iterations) == ("dm", 20000)
    assert both.data.options.normalisation == "zca"  # of the first one
    assert alone.data.options.normalisation == "per-channel"
    assert resolve(CATALOG, [], ["dm-paper", "mtt-paper"]).run.iterations == 5000
    assert resolve(CATALOG, [], ("dm-paper",)) == alone


def test_the_choice_of_a_plugin_is_above_a_preset_and_below_the_user(site, tmp_path):
    site.install("p", "from ltdd_core import hookimpl\n@hookimpl\ndef ltdd_register_presets(register):\n"
                      "    register('q', {'recipe': {'name': 'direct', 'data': 'original'}})\n")  # fmt: skip
    catalog = installed()
    two = Layer("--plugin", {"plugins": ["twostage"]})
    chosen = resolve(catalog, [DM, two], "q")
    assert (chosen.head.name, chosen.recipe.name) == ("twostage", "hierarchical")
    named = resolve(catalog, [DM, two, Layer("--recipe", {"recipe": "direct"})], "q")
    assert (named.head.name, named.recipe.name, named.recipe.options.data) == ("twostage", "direct", "distilled")


def test_another_component_drops_the_options_of_the_one_below():
    file = Layer("file", {"network": {"name": "convnet-d3", "width": 8}})
    assert resolve(CATALOG, [DM, file, Layer("--set", {"network": {"depth": 2}})]).network.options.width == 8
    assert resolve(CATALOG, [DM, file, Layer("--network", {"network": "mlp"})]).network.name == "mlp"


def test_options_of_later_layers_reach_the_network_named_before():
    config = resolve(CATALOG, [DM, *layers(None, ("network.width=16",), {"network": "convnet-d3"})])
    assert config.network.options.width == 16


# ---- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("ipc=5", {"ipc": 5}),
        ("matcher.lr_img=1e-3", {"matcher": {"lr_img": "1e-3"}}),
        ("plugins=[a, b]", {"plugins": ["a", "b"]}),
        ("head=linear", {"head": "linear"}),
        ("data.root=a=b", {"data": {"root": "a=b"}}),
        ("training={distilled: {lr: 1}}", {"training": {"distilled": {"lr": 1}}}),
        ("compute.threads=", {"compute": {"threads": None}}),
    ],
)
def test_set_takes_a_path_and_plain_yaml(text, tree):
    assert from_assignments([text]) == [Layer(f"--set {text.split('=')[0]}", tree)]


@pytest.mark.parametrize(
    "text",
    [
        *("ipc", "=5", "a..b=1", ".a=1", "ipc=[1", "ipc=!!python/name:os.system", "ipc={a: 1, a: 2}"),
        *("\udcff=1", "ipc=\udcff", "a\x1b[31mb=1", "ipc=\x1b[31m", "a\nb", "a." * 3000 + "b=1", "ipc=" + "9" * 5000),
        *("x" * 5000, "training=&x {original: *x}"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_set_in_another_form_is_refused(text):
    with pytest.raises(InputError, match=r"^--set .*(write it as|not plain YAML)") as caught:
        from_assignments([text])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_short_forms_mean_the_long_ones():
    short = configure(method="dm", plugin="twostage", network="mlp", data="digits-lt")
    long = configure(matcher={"name": "dm"}, plugins=["twostage"], network={"name": "mlp"}, data={"name": "digits-lt"})
    assert short.to_tree() == long.to_tree()
    assert configure(method="dm", matcher={"lr_img": 2}).matcher.options.lr_img == 2
    assert configure(method="dm", matcher={"lr_img": "1e-3"}).matcher.options.lr_img == 1e-3  # YAML 1.1 says text


@pytest.mark.parametrize("twice", [{"method": "dm", "matcher": "dm"}, {"plugin": "twostage", "plugins": []}])
def test_saying_the_same_thing_twice_is_refused(twice):
    with pytest.raises(InputError, match="say the same; keep one"):
        configure(**twice)


FILES = {
    "a tag": (b"ipc: !!python/object/apply:os.getcwd []", "line 1: could not determine a constructor"),
    "a list": (b"- ipc\n- 10\n", "a configuration is a mapping"),
    "nothing": (b"", "a configuration is a mapping"),
    "binary": (bytes(range(256)), "not plain YAML"),
    "other encoding": ("näme: ü".encode("latin-1"), "not plain YAML"),
    "a key twice": (b"ipc: 1\nseed: 2\nipc: 3\n", "line 3: 'ipc' is there twice"),
    "a nested key twice": (b"data:\n  name: a\n  name: b\n", "line 3: 'name' is there twice"),
    "a key that is no name": (b"1: 2", "line 1: a key must be a name, not 1: put it in quotes"),
    "two documents": (b"ipc: 1\n---\nipc: 2\n", "not plain YAML"),
    "open bracket": (b"plugins: [a\n", "not plain YAML"),
    "very deep": (b"a: " + b"[" * 5000, "nested too deeply"),
    "deep by aliases": (
        b"a0: &a0 {}\n" + b"".join(b"a%d: &a%d {x: *a%d}\n" % (i, i, i - 1) for i in range(1, 60)),
        "deep",
    ),
    "inside itself": (b"training: &x {original: *x}", "nested too deeply"),
    "5000 digits": (b"ipc: " + b"9" * 5000, "line 1: a value that cannot be read as int"),
    "no mapping": (b"ipc: !!map x", "line 1: expected a mapping node, but found scalar"),
    "no set": (b"ipc: !!set [a]", "line 1: expected a mapping node, but found sequence"),
    "inside its pairs": (b"ipc: &x !!omap [a: *x]", "nested too deeply"),
    "no date": (b"ipc: 2001-99-99", "line 1: a value that cannot be read as timestamp"),
    "no number": (b"ipc: !!float x", "line 1: a value that cannot be read as float"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(what, tmp_path):
    content, expected = FILES[what]
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        from_file(path)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 300


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        from_file(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        from_file(tmp_path)


def test_a_merge_key_is_plain_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("original: &t {lr: 1, epochs: 2}\ndistilled: {<<: *t, lr: 3}\n")
    assert from_file(path).tree["distilled"] == {"lr": 3, "epochs": 2}


# ---- wrong words and values ----------------------------------------------------------------------

WRONG = [
    ({"ipc": True}, "ipc must be a whole number, not True."),
    ({"ipc": 1.5}, "ipc must be a whole number, not 1.5."),
    ({"ipc": None}, "ipc must be a whole number, not None."),
    ({"ipc": 0}, "ipc must be at least 1, not 0."),
    ({"ipc": {"x": [1]}}, "unknown ipc option 'x'. Available: all, classes, few, many, medium, rule, total."),
    ({"ipc": {"al": 1}}, "unknown ipc option 'al'. Did you mean 'all'?"),
    ({"ipc": {"few": 0}}, "ipc.few must be at least 1, not 0."),
    ({"ipc": {"few": True}}, "ipc.few must be a whole number, not True."),
    ({"ipc": {"classes": {"a": 1.5}}}, "ipc.classes must be a whole number, not 1.5."),
    ({"ipc": {"classes": 3}}, "ipc.classes must be a mapping, not 3."),
    ({"ipc": {"rule": "sqrt"}}, 'ipc.rule needs a budget to share: ipc={"total": 100}.'),
    ({"ipc": {"rule": "log", "total": 9}}, "ipc.rule must be 'equal', 'sqrt' or 'proportional', not 'log'."),
    ({"ipc": {"total": 0}}, "ipc.total must be at least 1, not 0."),
    (
        {"ipc": {"total": 9, "few": 2}},
        "ipc: total shares a budget, and few is a number of its own; keep one of the two.",
    ),
    ({"ipc": float("inf")}, "ipc must be a finite number, not inf."),
    ({"ipc": 10**6000}, "ipc must be below 2^63, not a number of thousands of digits."),
    ({"iterations": 2**63}, "iterations must be below 2^63, not 9223372036854775808."),
    ({"head": {"name": 10**6000}}, "head.name must be a name, not a number of thousands of digits."),
    (
        {"head": {"name": "twostage", "stage1": {"name": "twostage", "stage1": 3}}},
        "head.stage1 must be text or a mapping",
    ),
    ({"init": "a\0b"}, "init must be valid text, not 'a\\x00b'."),
    ({"init": "\ud800"}, "init must be valid text, not '\\ud800'."),
    ({"data": {"mean": [0.5, True]}}, "each item of data.mean must be a number, not True."),
    ({"training": {f"a{i}": 1 for i in range(3000)}}, "unknown training option 'a0'."),
    ({"init": "reel"}, "unknown value of init 'reel'. Did you mean 'real'? Available: "),
    ({"plugins": 3}, "plugins must be a list of names, not 3."),
    ({"head": None}, "head is a name, or a mapping with a name and options."),
    ({"head": {"name": 3}}, "head.name must be a name, not 3."),
    ({"compute": {"device": "tpu"}}, "compute.device must be 'auto', 'cpu' or 'cuda', not 'tpu'."),
    ({"compute": {"threads": "two"}}, "compute.threads must be a whole number, not 'two'."),
    ({"compute": {"threads": True}}, "compute.threads must be a whole number, not True."),
    ({"compute": {"compile": "perhaps"}}, "compute.compile must be 'auto', true or false, not 'perhaps'."),
    ({"data": {"imbalance": "x"}}, "data.imbalance must be a number or 'natural', not 'x'."),
    ({"data": {"imbalance": float("nan")}}, "data.imbalance must be a finite number or 'natural', not nan."),
    ({"data": {"mean": [0.5, "x"]}}, "each item of data.mean must be a number, not 'x'."),
    ({"data": {"mean": 0.5}}, "data.mean must be a list, not 0.5."),
    ({"matcher": {"lr_img": "inf"}}, "matcher.lr_img must be a finite number, not 'inf'."),
    ({"training": 5}, "training must be a mapping of options, not 5."),
    ({"training": None}, "training must be a mapping of options, not None."),
    ({"training": {"original": []}}, "training.original must be a mapping of options, not []."),
    ({"training": {"original": {"lr": 0}}}, "training.original.lr must be above 0, not 0."),
    ({"training": {"original": {"lr": True}}}, "training.original.lr must be a number, not True."),
    ({"training": {"distilled": {"momentum": 1}}}, "training.distilled.momentum must be below 1, not 1."),
    ({"training": {"original": {"lrr": 1}}}, "unknown training.original option 'lrr'. Did you mean 'lr'?"),
    ({"training": {"orginal": {}}}, "unknown training option 'orginal'. Did you mean 'original'?"),
    ({"network": {"widht": 8}}, "unknown network option 'widht'. Did you mean 'width'?"),
    ({"network": "convnet"}, "unknown network 'convnet'. Did you mean 'convnet-d3'?"),
    ({"sampler": "class-balance"}, "unknown sampler 'class-balance'. Did you mean 'class-balanced'?"),
    ({"recipe": "Direct"}, "unknown recipe 'Direct'. Did you mean 'direct'?"),
    ({"iteration": 5}, "unknown option 'iteration'. Did you mean 'iterations'?"),
]


@pytest.mark.parametrize(("tree", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_value_gets_one_readable_line_that_says_where_it_is_written(tree, message):
    with pytest.raises(InputError) as caught:
        resolve(CATALOG, [DM, Layer("my.yaml", tree), Layer("--set seed", {"seed": 1})])
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    if "plugins" not in tree:
        assert text.startswith("my.yaml: ")


def test_every_wrong_value_of_a_section_is_told_at_once_each_with_its_origin():
    with pytest.raises(InputError) as caught:
        resolve(CATALOG, [DM, Layer("my.yaml", {"ipc": 0}), Layer("--seed", {"seed": -1})])
    assert str(caught.value) == "my.yaml: ipc must be at least 1, not 0. --seed: seed must be at least 0, not -1."


def test_the_origin_is_the_layer_whose_value_counts():
    low, high = Layer("low.yaml", {"ipc": "many"}), Layer("--ipc", {"ipc": 0})
    with pytest.raises(InputError, match=r"^--ipc: "):
        resolve(CATALOG, [DM, low, high])
    with pytest.raises(InputError, match=r"^low.yaml: "):
        resolve(CATALOG, [DM, Layer("higher.yaml", {"ipc": 5}), low])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        *(({"lr": lr}, r"training\.distilled\.lr must be (above 0|a fin)") for lr in (-1.0, 0.0, math.nan, math.inf)),
        ({"optimizer": "lion"}, r"training\.distilled\.optimizer must be 'sgd' or 'adamw', not 'lion'"),
        ({"epochs": 3, "warmup": 3}, r"training\.distilled: warmup takes 3 of 3 epochs"),
        ({"cutmixx": 1.0}, "unknown training.distilled option 'cutmixx'. Did you mean 'cutmix'"),
    ],
)
def test_what_a_method_says_is_validated(recipe, message):
    with pytest.raises(InputError, match=f"^the recipe of the distilled set: {message}"):
        DistilledTraining().over(recipe)


def test_the_user_is_above_the_method_and_the_method_above_the_defaults():
    """Option by option."""
    usual = TrainingOptions(epochs=1000)
    assert DistilledTraining().over({}) == usual
    assert DistilledTraining().over({"lr": 0.5, "mixup": 0.1}) == usual.model_copy(update={"lr": 0.5, "mixup": 0.1})
    mine = DistilledTraining(lr=0.25, hard_weight=0.0)
    assert mine.over({"lr": -1.0, "hard_weight": 0.5, "epochs": 7}) == usual.model_copy(
        update={"lr": 0.25, "epochs": 7}
    )
    assert DistilledTraining.model_fields.keys() == TrainingOptions.model_fields.keys()


def test_the_method_is_above_what_the_data_source_suggests():
    training = configure(method="dm", data="digits-lt").training
    assert training.on_distilled({}).epochs == 300
    assert training.on_distilled({"epochs": 7, "lr": 0.5}).epochs == 7
    said = configure(method="dm", data="digits-lt", training={"distilled": {"epochs": 3}}).training
    assert said.on_distilled({"epochs": 7}).epochs == 3


@pytest.mark.parametrize(
    ("suggested", "message"),
    [
        ({"epochs": 0}, "training.distilled.epochs must be at least 1"),
        ({"epochs": "long"}, "training.distilled.epochs must be a whole number, or text such as '4000 steps' or"),
        ({"epochs": "0 steps"}, "training.distilled.epochs must be a whole number, or text such as"),
        ({"epochs": 2.5}, "training.distilled.epochs must be a whole number, or text such as"),
        ({"epoch": 3}, "unknown training.distilled option 'epoch'. Did you mean 'epochs'"),
        ({"augment": "crop-flop"}, "training.distilled.augment: unknown augmentation 'crop-flop'"),
    ],
)
def test_what_a_data_source_suggests_is_validated(site, suggested, message):
    tree = {"training": {"distilled": suggested}}
    site.install("levels", SOURCE_AND_PRESET.format(preset={}, suggested=tree))
    with pytest.raises(InputError, match=f"^data source 'suggesting': {message}"):
        resolve(installed(), [DM, Layer("x", {"data": "suggesting"})])


def test_what_was_the_default_is_no_difference_from_saying_nothing():
    """Earlier versions stored the defaults of the training in full."""
    now = configure(method="dm", data="cifar10-lt").science()
    before = copy.deepcopy(now)
    del before["training"]["suggested"]
    before["training"]["distilled"] |= {"epochs": 1000, "momentum": 0.9, "mixup": 0.0}
    assert differences(before, now, {}) == {}
    before["training"]["distilled"]["momentum"] = 0.5
    assert differences(before, now, {}) == {"training.distilled.momentum": "was 0.5 and is now 0.9"}


def test_what_a_data_source_suggested_is_no_difference_from_having_it_in_full():
    """Earlier versions stored a suggestion as if the user had said it."""
    now = configure(method="dm", data="digits-lt").science()
    before = copy.deepcopy(now)
    del before["training"]["suggested"]
    before["training"]["distilled"]["epochs"] = 300
    assert differences(before, now, {}) == {}
    before["training"]["distilled"]["epochs"] = 200
    assert differences(before, now, {}) == {"training.distilled.epochs": "was 200 and is now 300"}


def test_a_configuration_needs_a_method():
    with pytest.raises(InputError, match=r"name a method: method= one of coreset, .*dc, dm"):
        resolve(CATALOG, [Layer("x", {"ipc": 3})])


def test_data_alone_are_resolved_with_the_same_messages():
    assert resolve_data(CATALOG, [Layer("x", {"data": "digits-lt"})]).name == "digits-lt"
    with pytest.raises(InputError, match=r"^x: unknown data option 'imbalanc'. Did you mean 'imbalance'"):
        resolve_data(CATALOG, [Layer("x", {"data": {"imbalanc": 3}})])
    with pytest.raises(InputError, match=r"^x: unknown section 'ipc'"):
        resolve_data(CATALOG, [Layer("x", {"ipc": 3})])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = (
    *(("ipc",), ("plugins",), ("augment",), ("head",), ("matcher", "name"), ("matcher", "lr_img"), ("data",)),
    *(("data", "imbalance"), ("data", "mean"), ("data", "root"), ("network", "width"), ("training",), ("method",)),
    *(("training", "original"), ("training", "original", "lr"), ("compute", "threads"), ("compute", "compile")),
)


@given(st.sampled_from(PLACES), ANYTHING)
@settings(max_examples=300, deadline=None)
def test_anything_at_any_place_is_valid_or_refused_in_one_line(place, value):
    tree = value
    for key in reversed(place):
        tree = {key: tree}
    try:
        resolve(CATALOG, [DM, Layer("my.yaml", tree)])
    except InputError as error:
        message = str(error)
    else:
        return
    assert len(message.splitlines()) == 1
    assert len(message) < 2000


TREES = st.fixed_dictionaries(
    {"method": st.just("dm")},
    optional={
        "ipc": st.integers(1, 50),
        "seed": st.integers(0, 2**31),
        "init": st.sampled_from(["real", "noise", "herding"]),
        "plugins": st.sampled_from([[], ["twostage"]]),
        "data": st.fixed_dictionaries(
            {"name": st.sampled_from(["digits-lt", "folder", "cifar10-lt"])},
            optional={
                "imbalance": st.just("natural") | st.floats(1, 1000),
                "n_max": st.none() | st.integers(1, 500),
                "mean": st.none() | st.lists(st.floats(0, 1), max_size=3),
            },
        ),
        "network": st.sampled_from([{"name": "mlp"}, {"name": "convnet-d3", "width": 8}, {"width": 16}]),
        "matcher": st.fixed_dictionaries({"lr_img": st.floats(1e-6, 1e6)}),
        "training": st.fixed_dictionaries({"original": st.fixed_dictionaries({"lr": st.floats(1e-9, 10)})}),
        "compute": st.fixed_dictionaries({"device": st.sampled_from(["auto", "cpu"]), "compile": st.booleans()}),
    },
)


@given(TREES)
@settings(max_examples=100, deadline=None)
def test_a_resolved_configuration_resolves_to_itself(tree):
    config = resolve(CATALOG, [Layer("x", tree)])
    written = yaml.safe_load(yaml.safe_dump(config.to_tree()))
    assert resolve(CATALOG, [Layer("y", written)]) == config


def test_the_science_of_a_configuration_leaves_out_where_and_on_what_it_runs():
    one = configure(method="dm", data={"name": "folder", "root": "a"}, compute={"device": "cpu", "threads": 1})
    other = configure(method="dm", data={"name": "folder", "root": "b"})
    assert one.science() == other.science()
    assert one.science() != configure(method="dm", data={"name": "folder"}, compute={"precision": "bf16"}).science()


# ---- the same at the command line ----------------------------------------------------------------

COMMAND = [
    (("--seed", "x"), "--seed: seed must be a whole number, not 'x'."),
    (("--ipc", "0"), "--ipc: ipc must be at least 1, not 0."),
    (("--ipc", ""), "--ipc: a value is missing."),
    (("--root", ""), "--root: a value is missing."),
    (("--iterations", "-1"), "--iterations: iterations must be at least 1, not -1."),
    (("--imbalance", "0.5"), "at least 1, not 0.5."),
    (("--imbalance", "flat"), "--imbalance: data.imbalance must be a number or 'natural', not 'flat'."),
    (("--device", "tpu"), "--device: compute.device must be 'auto', 'cpu' or 'cuda', not 'tpu'."),
    (("--threads", "0"), "--threads: compute.threads must be at least 1, not 0."),
    (("--precision", "fp8"), "--precision: compute.precision must be 'auto', 'fp32', 'tf32' or 'bf16', not 'fp8'."),
    (("--set", "matcher.lr=1"), "unknown matcher option 'lr'. Did you mean 'lr_img'?"),
    (("--set", "ipc"), "--set ipc: write it as --set matcher.lr_img=1.0."),
    (("--set", "augment=colr"), "Did you mean 'color'?"),
    (("--preset", "dm-papr"), "unknown preset 'dm-papr'. Did you mean 'dm-paper'?"),
    (("--config", "none.yaml"), "cannot read none.yaml: No such file or directory."),
]


@pytest.mark.parametrize(("options", "message"), COMMAND, ids=[" ".join(options) for options, _ in COMMAND])
def test_a_wrong_option_ends_the_command_with_one_line_and_nothing_written(options, message, ltdd, tmp_path):
    assert message in one_line_error(ltdd("distill", "--method", "dm", *options))
    assert list((tmp_path / "here").iterdir()) == []


def test_a_wrong_value_in_a_file_names_the_file(ltdd, tmp_path):
    (tmp_path / "here" / "my.yaml").write_text("method: dm\nnetwork:\n  widht: 8\n")
    assert "my.yaml: unknown network option 'widht'" in one_line_error(ltdd("distill", "--config", "my.yaml"))


# ---- options that were written for no component in particular -------------------------------------


def test_options_without_a_name_are_for_whichever_component_it_will_be():
    """A preset's ``data: {normalisation: zca}`` was lost as soon as somebody named their data."""
    preset, file = Layer("preset", {"data": {"normalisation": "zca"}}), Layer("file", {"data": {"seed": 3}})
    default, other = Layer("default", {"data": {"name": "a"}}), Layer("--data", {"data": {"name": "b"}})
    assert merged([default, preset, file, other]) == {"data": {"name": "b", "normalisation": "zca", "seed": 3}}


def test_options_with_a_name_go_with_it():
    stored = Layer("stored", {"matcher": {"name": "a", "x": 1, "y": 1}})
    loose, other = Layer("file", {"matcher": {"x": 2}}), Layer("--method", {"matcher": {"name": "b"}})
    assert merged([stored, loose]) == {"matcher": {"name": "a", "x": 2, "y": 1}}
    assert merged([stored, loose, other]) == {"matcher": {"name": "b", "x": 2}}
    assert merged([loose, stored, other]) == {"matcher": {"name": "b", "x": 2}}
    assert merged([stored, other]) == {"matcher": {"name": "b"}}


SECTIONED = """
    from ltdd_core import BaseOptions, ClassMatcher, hookimpl, option

    class Teacher(BaseOptions):
        rate: float = option(0.5, "how fast", gt=0)

    class Sectioned(ClassMatcher):
        class Options(ClassMatcher.Options):
            teacher: Teacher = Teacher()

        def class_loss(self, network, real, synthetic):
            return synthetic.sum()

    @hookimpl
    def ltdd_register_matchers(register):
        register("sectioned", Sectioned)
"""


NESTED = """
    from ltdd_core import BaseOptions, ClassMatcher, TrainingOptions, hookimpl, option

    class Teacher(BaseOptions):
        training: TrainingOptions = option(TrainingOptions(epochs=40, batch=64), "training of the teacher")
        head: str = option("linear", "head of the teacher")

    class Taught(ClassMatcher):
        class Options(ClassMatcher.Options):
            teacher: Teacher = option(Teacher(head="cosine", training=TrainingOptions(epochs=7)), "the teacher")
            pupil: Teacher = Teacher()
            training: TrainingOptions = TrainingOptions(lr=0.5)

        def class_loss(self, network, real, synthetic):
            return synthetic.sum()

    @hookimpl
    def ltdd_register_matchers(register):
        register("taught", Taught)
"""


def test_what_is_given_of_a_nested_option_stands_over_its_default(site):
    site.install("nested", NESTED)

    def options(**given):
        return flat(configure(method="taught", matcher=given).to_tree()["matcher"])

    plain = options()
    assert (plain["teacher.training.epochs"], plain["teacher.training.batch"]) == (7, 256)
    assert (plain["pupil.training.epochs"], plain["pupil.training.batch"]) == (40, 64)
    for path in ("teacher.training.lr", "teacher.training.epochs", "pupil.training.lr", "training.epochs"):
        tree = 3
        for key in reversed(path.split(".")):
            tree = {key: tree}
        assert options(**tree) == plain | {path: 3}
    assert options(teacher={"training": {"lr": 1.0}, "head": "ncm"}) == plain | {
        "teacher.training.lr": 1.0,
        "teacher.head": "ncm",
    }
    with pytest.raises(InputError, match=r"configure\(\): matcher.teacher.training.lr must be above 0"):
        configure(method="taught", matcher={"teacher": {"training": {"lr": -1}}})


def test_describe_shows_the_defaults_of_a_nested_option(site, ltdd):
    site.install("nested", NESTED)
    document = json.loads(ltdd("describe", "matcher", "taught", "--json").stdout)
    shown = {row["option"].removeprefix("matcher."): row["default"] for row in document["options"]}
    used = flat(configure(method="taught").to_tree()["matcher"])
    assert {name: used[name] for name in shown} == shown


def test_a_section_of_the_method_can_be_written_without_the_method(site):
    site.install("sectioned", SECTIONED)
    short = configure(method="sectioned", teacher={"rate": 0.25})
    assert short.matcher.options.teacher.rate == 0.25
    assert short.to_tree() == configure(method="sectioned", matcher={"teacher": {"rate": 0.25}}).to_tree()
    with pytest.raises(InputError, match=r"configure\(\): matcher.teacher.rate must be above 0"):
        configure(method="sectioned", teacher={"rate": -1})
    with pytest.raises(InputError, match=r"configure\(\): unknown option 'teacher'"):
        configure(method="dm", teacher={"rate": 0.25})


# ---- help texts ----------------------------------------------------------------------------------

GENERAL = [RunOptions, Compute, OriginalTraining, DistilledTraining]
DESCRIBED = GENERAL + [
    CATALOG.get(kind, name).load().Options
    for kind, names in {
        "data": CATALOG.names("data"),
        "head": [
            "class-balanced",
            "focal",
            "logit-adjustment",
            "ldam",
            "glmc",
            "crt",
            "lws",
            "tau-norm",
            "ncm",
            "ensemble",
        ],
    }.items()
    for name in names
]


@pytest.mark.parametrize("options", DESCRIBED, ids=lambda options: options.__qualname__)
def test_the_help_of_an_option_stands_alone(options):
    """ "of the focal loss" or "0: all classes" say nothing in a list of options."""
    for name, field in options.model_fields.items():
        text = field.description
        assert text, name
        first = text.split()[0].rstrip(":,")
        assert first not in ("of", "how", "what", "where", "which", "the", "unless", "without", "auto", "0"), (
            name,
            text,
        )
        assert "alike" not in text


@pytest.mark.parametrize(
    ("settings", "option", "most"),
    [
        ({"method": "mtt", "matcher": {"syn_steps": 10**9}}, "matcher.syn_steps", 1000),
        ({"method": "rded", "matcher": {"crops": {"count": 10**9}}}, "matcher.crops.count", 1000),
        ({"method": "dm", "network": {"name": "mlp", "depth": 10**9}}, "network.depth", 100),
        ({"method": "dm", "head": {"name": "ensemble", "members": 10**9}}, "head.members", 1000),
    ],
)
def test_as_many_of_something_as_no_machine_has_room_for_are_refused(settings, option, most):
    """Each is an object, or a graph, of its own: memory would run out slowly, and a signal be seen after that."""
    with pytest.raises(InputError, match=f"{option} must be at most {most}, not 1000000000"):
        configure(**settings)


@pytest.mark.parametrize(
    "section",
    [
        {"training": {"original": {"schedule": "cosine", "milestones": [0.5]}}},
        {"training": {"distilled": {"schedule": "constant", "milestones": [0.5]}}},
        {"method": "rded", "matcher": {"teacher": {"schedule": "cosine", "milestones": [0.5]}}},
    ],
)
def test_milestones_that_a_schedule_would_pass_over_are_refused(section):
    with pytest.raises(
        InputError,
        match=r"milestones are those of schedule=step, and this is co.*: write schedule=step or milestones=null",
    ):
        configure(**{"method": "dm", **section})


@pytest.mark.parametrize(
    ("said", "needs"),
    [
        ({"milestones": (0.5,)}, {"schedule": "step"}),
        ({"gamma": 0.5}, {"schedule": "step"}),
        ({"temperature": 4.0}, {"soft_loss": "kl"}),
        ({"gamma": 0.5, "schedule": "constant"}, {}),
    ],
)
def test_what_a_user_says_of_a_schedule_or_loss_says_it_where_the_method_has_another(said, needs):
    recipe = {"schedule": "cosine", "soft_loss": "mse", "epochs": 7}
    training = configure(method="rded", training={"distilled": said}).training
    options = training.on_distilled(recipe)
    assert options == TrainingOptions(**{**recipe, **needs, **said})
    assert training.distilled.left_of(recipe).keys() == recipe.keys() - needs.keys() - said.keys()


def test_milestones_of_a_preset_can_be_left_out():
    training = {"original": {"schedule": "cosine", "milestones": None}}
    options = configure("drw-200", method="dm", training=training).training.original
    assert (options.schedule, options.milestones) == ("cosine", None)
    with pytest.raises(InputError, match="or milestones=null"):
        configure("drw-200", method="dm", training={"original": {"schedule": "cosine"}})
