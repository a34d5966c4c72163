"""Plugins through real entry points: found, isolated, chosen, listed."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import Distribution, entry_points, version

import pytest
from conftest import MEAN_MATCHER, TINY, one_line_error
from test_built_ins import BUILT_IN
from test_completion import completed

from ltdd_core import InputError, configure
from ltdd_core.config.resolve import component_maker
from ltdd_core.plugging.catalog import INTERFACES, KINDS, installed, noun
from ltdd_core.plugging.loading import GROUP, load_plugins


def states(plugins):
    return {plugin.name: plugin.state for plugin in plugins.listed}


# ---- found and named -----------------------------------------------------------------------------


def test_a_strangers_matcher_is_found_named_and_described(site, ltdd):
    site.install("mean", MEAN_MATCHER)
    catalog = installed()
    assert {"dm", "mean"} <= set(catalog.names("matcher"))
    entry = catalog.get("matcher", "mean")
    assert (entry.owner.name, str(entry.owner), entry.owner.state) == ("mean", "stranger-mean 1.5", "installed")
    shown = ltdd("describe", "matcher", "mean").stdout
    assert "matcher mean, from stranger-mean 1.5" in shown
    assert "Match the mean feature of each class." in shown
    assert "matcher.lr_img" in shown  # options of ClassMatcher, which the plugin does not mention


def test_a_strangers_matcher_does_the_whole_job_with_two_stages_and_in_a_process_of_its_own(site, tmp_path):
    site.install("mean", MEAN_MATCHER)
    command = ["distill", "--method", "mean", "--plugin", "twostage", *TINY, "--json"]
    call = "from ltdd_core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", call, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site.folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["method"] == "mean"
    names = [row["name"] for row in document["rows"]]
    assert names == [
        *("original, direct", "original, balanced softmax"),
        *("distilled, direct", "two-stage, original + distilled"),
    ]
    kept = json.loads((tmp_path / document["run"] / "run.json").read_text())
    assert kept["sessions"][0]["versions"]["matcher mean"] == "stranger-mean 1.5"


def test_a_component_can_be_named_without_being_imported(site):
    module = site.install("lazy", """
        from ltdd_core import hookimpl

        @hookimpl
        def ltdd_register_matchers(register):
            register("late", "stranger_mean:MeanMatcher")
    """)  # fmt: skip
    site.install("mean", MEAN_MATCHER.split("@hookimpl")[0], entry=False)
    catalog = installed()
    assert module in sys.modules
    assert configure(method="late").matcher.component.__name__ == "MeanMatcher"
    assert catalog.get("matcher", "late").load() is configure(method="late").matcher.component


def test_nothing_is_active_until_it_is_named(site):
    before = configure(method="dm").to_tree()
    site.install("chooser", """
        from ltdd_core import hookimpl

        @hookimpl
        def ltdd_choose():
            return {"network": "mlp"}
    """)  # fmt: skip
    assert configure(method="dm").to_tree() == before
    assert configure(method="dm", plugins=["chooser"]).network.name == "mlp"
    assert configure(method="dm", plugins=["chooser"], network="vgg11").network.name == "vgg11"


# ---- isolated ------------------------------------------------------------------------------------

HOOKIMPL = "from ltdd_core import hookimpl\n"
BROKEN = {
    "raises": ("raise OSError('no such camera [/dev/x]')\nmore = 1", "OSError: no such camera [/dev/x]"),
    "exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "syntax": ("def broken(:", "SyntaxError: invalid syntax"),
    "missing": ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "unknown-hook": (HOOKIMPL + "@hookimpl\ndef ltdd_register_matcher(register): pass", "unknown hook"),
    "unknown-argument": (HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register, colour): pass", "colour"),
    "raising-hook": (
        HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): register('h', 1); 1 / 0",
        "ZeroDivision",
    ),
    "exiting-hook": (HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): raise SystemExit", "SystemExit"),
    "clash": (
        HOOKIMPL + "@hookimpl\ndef ltdd_register_matchers(register): register('dm', 1)",
        "ValueError: matcher 'dm' of 'clash' is already offered by 'dm' (ltdd",
    ),
    "twice": (
        HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): register('h', 1); register('h', 2)",
        "ValueError: head 'h' of 'twice' is already offered by 'twice'",
    ),
    "no-name": (
        HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): register(int, 'h')",
        "TypeError: register(name, component): the name of a head must be text",
    ),
    "raising-command": (HOOKIMPL + "@hookimpl\ndef ltdd_register_commands(cli): raise SystemExit(2)", "SystemExit: 2"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "interrupting-hook": (
        HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): raise KeyboardInterrupt",
        "KeyboardInterrupt",
    ),
    "interrupting-command": (
        HOOKIMPL + "@hookimpl\ndef ltdd_register_commands(cli): raise KeyboardInterrupt",
        "KeyboardInterrupt",
    ),
    "command-clash": (
        "import click\n" + HOOKIMPL + "@hookimpl\ndef ltdd_register_commands(cli): cli.command('data')(lambda: None)",
        "ValueError: there is a command 'data' already",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_costs_nobody_anything(what, site, ltdd):
    source, reason = BROKEN[what]
    site.install(what, source)
    site.install("mean", MEAN_MATCHER, entry="zzz")
    rows = {row["name"]: row for row in json.loads(ltdd("plugins", "--json").stdout)}
    assert rows[what]["state"] == "broken"
    assert reason in rows[what]["reason"]
    assert "\n" not in rows[what]["reason"]
    assert rows[what]["offers"] == {}
    assert {name: row["state"] for name, row in rows.items() if name != what} == {
        **dict.fromkeys(BUILT_IN, "built-in"),
        "zzz": "installed",
    }
    assert rows["zzz"]["offers"] == {"matcher": ["mean"]}
    assert configure(method="mean", plugin="twostage").head.name == "twostage"
    assert reason[:30] in ltdd("plugins").stdout
    assert "Traceback" in ltdd("plugins", what).stdout


def test_naming_a_broken_plugin_is_refused_with_its_reason(site, ltdd):
    site.install("raises", "raise OSError('no camera')")
    message = one_line_error_after_notes(ltdd("distill", "--method", "dm", "--plugin", "raises"))
    assert message == "Error: plugin 'raises' (stranger-raises 1.5) is broken. OSError: no camera"


def one_line_error_after_notes(result):
    assert result.exit_code == 2
    *notes, last = result.stderr.splitlines()
    assert notes == ["plugin 'raises' (stranger-raises 1.5) is broken: OSError: no camera"]
    return last


def test_ctrl_c_while_a_plugin_is_imported_ends_the_command(site, ltdd):
    site.install("waits", "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)")
    before = signal.getsignal(signal.SIGINT)
    assert ltdd("plugins").exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_plugin_prints_while_it_is_imported_leaves_json_alone(site, ltdd):
    site.install("chatty", """
        from ltdd_core import hookimpl

        print("hello from the import")

        @hookimpl
        def ltdd_register_heads(register):
            print("hello from a hook")
            register("late", "stranger_late:Late")

        @hookimpl
        def ltdd_register_commands(cli):
            print("hello from a hook of commands")
    """)  # fmt: skip
    site.install("late", "print('hello from a component')\nfrom ltdd_core.testing import *\nLate = 3", entry=False)
    listed = ltdd("plugins", "--json")
    assert json.loads(listed.stdout)
    assert all(f"hello from {place}" in listed.stderr for place in ("the import", "a hook", "a hook of commands"))
    described = ltdd("describe", "head", "--json")
    assert "late" in [row["name"] for row in json.loads(described.stdout)]
    assert "hello from a component" in described.stderr


def test_a_plugin_that_imports_slowly_is_listed_with_its_seconds(site, ltdd):
    site.install("slow", "import time\ntime.sleep(0.6)")
    site.install("quick", "")
    seconds = {row["name"]: row["import_seconds"] for row in json.loads(ltdd("plugins", "--json").stdout)}
    assert seconds["slow"] > 0.6
    assert seconds["quick"] < 0.5
    [sys.modules.pop(module) for module in ("stranger_slow", "stranger_quick")]
    shown = ltdd("plugins")
    assert shown.stdout.count("import took") == 1
    assert "Every command waits for the import of slow." in shown.stderr


def test_an_offer_whose_module_is_not_installed_is_marked_in_the_list_without_importing_anything(site, ltdd):
    site.install("lazy", HOOKIMPL + """
@hookimpl
def ltdd_register_heads(register):
    register("gone", "stranger_gone:Head")
    register("gone-too", "stranger_gone.deeper:Head")
    register("there", "stranger_there:Head")
    register("no-name", ":Head")
""")  # fmt: skip
    site.install("there", "raise SystemExit", entry=False)
    rows = {row["name"]: row for row in json.loads(ltdd("plugins", "--json").stdout)}
    assert rows["lazy"]["faults"] == {
        "head gone": "no module 'stranger_gone' is installed",
        "head gone-too": "no module 'stranger_gone.deeper' is installed",
        "head no-name": "no module '' is installed",
    }
    assert [name for name, row in rows.items() if row["faults"]] == ["lazy"]
    assert "stranger_there" not in sys.modules
    assert "head gone: no module 'stranger_gone' is" in ltdd("plugins").stdout  # and the rest on the next line


def test_plugins_name_imports_all_that_it_offers_and_says_what_cannot_be_used(site, ltdd):
    site.install("mixed", HOOKIMPL + """
@hookimpl
def ltdd_register_heads(register):
    register("right", "ltdd_core.evaluation.linear:LinearHead")
    register("number", 3)
    register("recipe", "ltdd_core.evaluation.linear:Direct")
    register("lost", "ltdd_core.evaluation.linear:Lost")
""")  # fmt: skip
    (row,) = json.loads(ltdd("plugins", "mixed", "--json").stdout)
    assert set(row["faults"]) == {"head number", "head recipe", "head lost"}
    assert "is no subclass of ClassifierHead" in row["faults"]["head recipe"]
    assert "has no attribute 'Lost'" in row["faults"]["head lost"]
    shown = ltdd("plugins", "mixed").stdout
    assert "head number: InputError" in shown
    assert "Traceback" in shown


@pytest.mark.parametrize("kind", INTERFACES)
def test_an_unfinished_component_is_one_line_for_who_names_it(kind, site, ltdd):
    site.install("half", f"""
        from ltdd_core import {INTERFACES[kind]}, hookimpl

        class Half({INTERFACES[kind]}):
            "Not a method yet."

        @hookimpl
        def {KINDS[kind]}(register):
            register("half", Half)
    """)  # fmt: skip
    message = one_line_error(ltdd("describe", kind, "half"))
    assert (
        f"{noun(kind)} 'half' of plugin 'half' (stranger-half 1.5) is not finished: its class Half has no " in message
    )
    if kind not in ("matcher", "launcher"):  # a launcher is named to ltdd bench alone
        option = "training.original.augment" if kind == "augmentation" else f"{kind}.name"
        assert "is not finished" in one_line_error(ltdd("distill", "--method", "dm", "--set", f"{option}=half"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("network", "task.networks, a head trainer.train"),
        ("data", "ltdd_core.load_data"),
        ("preset", "ltdd_core.configure"),
        ("dataset", "unknown kind of component 'dataset'"),
        ("heads", "Did you mean 'head'"),
    ],
)
def test_a_component_of_a_kind_that_is_not_made_by_name_is_refused_with_what_to_use(kind, message):
    with pytest.raises(InputError, match=message):
        component_maker(installed())(kind, "convnet-d3")


@pytest.mark.parametrize(
    "fault", ["raise KeyError('x')", "raise SystemExit(0)", "import nowhere_to_be_found", "Component = 3"]
)
def test_a_component_that_does_not_load_is_one_line_for_who_names_it_and_nothing_for_others(fault, site, ltdd):
    site.install(
        "lazy", HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): register('h', 'stranger_h:Component')"
    )
    site.install("h", fault, entry=False)
    message = one_line_error(ltdd("distill", "--method", "dm", "--head", "h"))
    assert "head 'h' of plugin 'lazy' (stranger-lazy 1.5)" in message
    assert "linear" in ltdd("describe", "head").stdout
    assert configure(method="dm").head.name == "linear"


def test_plugins_name_shows_the_traceback_of_what_it_offers_and_cannot_be_loaded(site, ltdd):
    site.install(
        "lazy", HOOKIMPL + "@hookimpl\ndef ltdd_register_heads(register): register('h', 'stranger_h:Component')"
    )
    site.install("h", "import nowhere_to_be_found", entry=False)
    shown = ltdd("plugins", "lazy").stdout
    assert "installed" in shown
    assert "import nowhere_to_be_found" in shown
    (row,) = json.loads(ltdd("plugins", "lazy", "--json").stdout)
    assert "import nowhere_to_be_found" in row["traceback"]
    assert {row["traceback"] for row in json.loads(ltdd("plugins", "--json").stdout)} == {""}


# ---- order, blocking, choosing -------------------------------------------------------------------


def test_built_ins_come_first_and_then_names_in_order_wherever_they_lie(site):
    for name in ("b", "a", "0"):
        site.install(name, "")
    assert [plugin.name for plugin in load_plugins().listed] == [*BUILT_IN, "0", "a", "b"]


def test_a_stranger_cannot_take_the_name_of_a_built_in_plugin(site):
    site.install("thief", "raise SystemExit", entry="twostage")
    found = [plugin for plugin in load_plugins().listed if plugin.name == "twostage"]
    assert [plugin.state for plugin in found] == ["built-in", "broken"]
    assert found[1].reason == "ValueError: another plugin is already called 'twostage'"
    assert configure(method="dm", plugin="twostage").head.name == "twostage"


def test_each_call_has_a_fresh_manager(site):
    one = load_plugins()
    site.install("new", "")
    two = load_plugins()
    assert one.manager is not two.manager
    assert set(states(two)) - set(states(one)) == {"new"}


def test_the_metadata_of_a_package_with_many_plugins_are_parsed_once(site, monkeypatch):
    """Every command and every configuration loads the plugins: once a plugin instead took 50 ms."""
    site.install("mean", MEAN_MATCHER)
    parsed, packages = [], {entry.dist.name for entry in entry_points(group=GROUP)}
    own = Distribution.metadata.fget
    monkeypatch.setattr(Distribution, "metadata", property(lambda one: parsed.append(one) or own(one)))
    assert len(load_plugins().listed) > 20
    assert len(parsed) <= 4 * len(packages)  # the name, the version, what it needs, and the version of ltdd


def test_plugins_can_be_blocked_by_name(site, monkeypatch, ltdd):
    module = site.install("bad", "raise SystemExit")
    monkeypatch.setenv("LTDD_BLOCK_PLUGINS", "bad, dm")
    assert states(load_plugins()) | {"bad": "blocked", "dm": "blocked"} == states(load_plugins())
    assert module not in sys.modules
    assert "unknown matcher 'dm'" in one_line_error(ltdd("distill", "--method", "dm"))
    assert "plugin 'bad' (stranger-bad 1.5) is blocked." in one_line_error(ltdd("distill", "--plugin", "bad"))
    monkeypatch.delenv("LTDD_BLOCK_PLUGINS")
    assert states(load_plugins(["bad"]))["bad"] == "blocked"


def test_the_core_alone_has_all_defaults_of_a_strangers_method(site, monkeypatch, ltdd):
    site.install("mean", MEAN_MATCHER)
    monkeypatch.setenv("LTDD_BLOCK_PLUGINS", ",".join(name for name in BUILT_IN if name != "core"))
    result = ltdd("distill", "--method", "mean", *TINY, "--json")
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in json.loads(result.stdout)["rows"]] == ["original, direct", "distilled, direct"]


def test_block_is_for_one_command_and_adds_to_the_variable(site, monkeypatch, ltdd):
    module = site.install("bad", "raise SystemExit")
    monkeypatch.setenv("LTDD_BLOCK_PLUGINS", "dc")
    shown = json.loads(ltdd("--block", "bad", "--block", "dm", "plugins", "--json").stdout)
    assert {row["name"] for row in shown if row["state"] == "blocked"} == {"bad", "dm", "dc"}
    assert module not in sys.modules
    assert os.environ["LTDD_BLOCK_PLUGINS"] == "dc"
    assert "--block NAME" in ltdd("--block", "bad", "--help").stdout


@pytest.mark.parametrize(
    ("requires", "state"),
    [
        (["ltdd>=0.1", "torch"], "installed"),
        (["ltdd>=99"], "broken"),
        (["ltdd<0.0.1"], "broken"),
        (["ltdd>=99; extra == 'future'"], "installed"),
    ],
)
def test_a_plugin_for_another_ltdd_is_left_out_before_it_is_imported(requires, state, site, ltdd):
    module = site.install("later", "", requires=requires)
    plugin = next(plugin for plugin in load_plugins().listed if plugin.name == "later")
    assert plugin.state == state
    assert (module in sys.modules) == (state == "installed")
    if state == "broken":
        assert plugin.reason == f"ImportError: it needs {requires[0]}, and this is ltdd {version('ltdd')}"
        assert ltdd("--help").exit_code == 0


def test_a_component_that_fails_in_a_run_is_named_with_its_package_and_version(site, ltdd):
    site.install("weak", MEAN_MATCHER.replace("return (network", "1 / 0; return (network"))
    result = ltdd("distill", "--method", "mean", *TINY)
    assert result.exit_code == 1
    *traceback, last = result.stderr.strip().splitlines()
    assert last == "Error: plugin 'weak' (stranger-weak 1.5) failed: ZeroDivisionError: division by zero"
    assert any("stranger_weak.py" in line for line in traceback)


@pytest.mark.parametrize("variable", ["LTDD_BLOCK_PLUGINS", "LTDD_LOAD_PLUGINS"])
def test_a_plugin_that_is_not_there_is_no_plugin_to_block_or_to_let_in(variable, monkeypatch, ltdd):
    monkeypatch.setenv(variable, "dm, dmm")
    assert one_line_error(ltdd("plugins")).startswith(f"Error: {variable}: unknown plugin 'dmm'. Did you mean 'dm'?")
    with pytest.raises(InputError, match=f"{variable}: unknown plugin 'dmm'"):
        configure(method="dm")
    offered = completed("ltdd ")
    assert "distill" in offered
    assert "compare" not in offered
    assert completed("ltdd distill --method ") == []


@pytest.mark.parametrize(("allowed", "blocked"), [("", {"a", "b"}), ("a", {"b"}), ("a,b", set())])
def test_only_some_strangers_can_be_let_in(allowed, blocked, site, monkeypatch):
    site.install("a", "")
    site.install("b", "")
    monkeypatch.setenv("LTDD_LOAD_PLUGINS", allowed)
    assert {name for name, state in states(load_plugins()).items() if state == "blocked"} == blocked


CHOOSER = HOOKIMPL + "@hookimpl\ndef ltdd_choose(config): return {'network': '%s', 'sampler': 'square-root'}"


def test_two_active_plugins_that_choose_differently_are_refused_unless_the_user_decides(site):
    site.install("one", CHOOSER % "mlp")
    site.install("two", CHOOSER % "vgg11")
    site.install("three", CHOOSER % "mlp")
    assert configure(method="dm", plugins=["one", "three"]).network.name == "mlp"
    with pytest.raises(InputError, match="plugins 'one' and 'two' choose different networks, 'mlp' and 'vgg11'"):
        configure(method="dm", plugins=["one", "two"])
    decided = configure(method="dm", plugins=["one", "two"], network="alexnet")
    assert (decided.network.name, decided.sampler.name) == ("alexnet", "square-root")


def test_a_plugin_chooses_from_what_exists_and_cannot_change_what_it_is_shown(site):
    site.install("wild", HOOKIMPL + "@hookimpl\ndef ltdd_choose(config): return {'colour': 'red'}")
    site.install("lost", HOOKIMPL + "@hookimpl\ndef ltdd_choose(config): return {'network': 'mpl'}")
    site.install("sly", HOOKIMPL + "@hookimpl\ndef ltdd_choose(config): config['matcher']['lr_img'] = 9")
    with pytest.raises(InputError, match=r"plugin 'wild' .stranger-wild 1.5. chooses for 'colour'"):
        configure(method="dm", plugins=["wild"])
    with pytest.raises(InputError, match=r"^plugin 'lost': unknown network 'mpl'. Did you mean 'mlp'"):
        configure(method="dm", plugins=["lost"])
    assert configure(matcher={"name": "dm", "lr_img": 2}, plugins=["sly"]).matcher.options.lr_img == 2


@pytest.mark.parametrize("answer", ["'mlp'", "['network']", "[]", "0", "{'network': 3}", "{3: 'mlp'}"])
def test_a_plugin_that_chooses_something_else_than_names_is_named(answer, site):
    site.install("odd", f"{HOOKIMPL}@hookimpl\ndef ltdd_choose(config): return {answer}")
    with pytest.raises(InputError) as caught:
        configure(method="dm", plugins=["odd"])
    reason = f"ltdd_choose must return component names by kind, not {answer}."
    assert str(caught.value) == f"plugin 'odd' (stranger-odd 1.5): {reason}"


def test_a_component_of_the_wrong_kind_is_refused(site):
    site.install("wrong", MEAN_MATCHER.replace("ltdd_register_matchers", "ltdd_register_heads"))
    with pytest.raises(InputError, match=r"head 'mean' of plugin 'wrong' .* is no subclass of ClassifierHead"):
        configure(method="dm", head="mean")


def test_hook_calls_are_traced_on_stderr(ltdd, monkeypatch):
    monkeypatch.setenv("LTDD_TRACE_PLUGINS", "1")
    result = ltdd("describe", "head", "twostage", "--json")
    assert result.exit_code == 0
    json.loads(result.stdout)
    assert re.search(r"^twostage \(ltdd .*\): ltdd_register_heads\(register\)$", result.stderr, re.MULTILINE)
    assert "dm (ltdd" in result.stderr
    assert "samplers: ltdd_register_heads" not in result.stderr  # it has none
    monkeypatch.setenv("LTDD_TRACE_PLUGINS", "0")
    assert ltdd("describe", "head", "twostage", "--json").stderr == ""
