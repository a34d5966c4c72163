"""Every hook: when it is called, with what, for whom; and what becomes of a watcher that fails."""

import json
import re

import pytest
from conftest import MEAN_MATCHER, TINY
from safetensors.torch import load_file

from ltdd_core import InputError, configure, distill, hookspecs, load_data
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.plugging.loading import load_plugins

REGISTER = """
    from ltdd_core import hookimpl
    {imports}

    @hookimpl
    def ltdd_register_{hook}(register):
        register("mine", {component})
"""
WATCHER = """
    from ltdd_core import hookimpl

    LOG = []

    @hookimpl
    def ltdd_run_started(run):
        LOG.append(("started", run.start, run.config.matcher.name, run.data.name))

    @hookimpl
    def ltdd_step_finished(run, step, metrics):
        LOG.append(("step", step, type(metrics["loss"]).__name__))

    @hookimpl
    def ltdd_evaluated(row):
        LOG.append(("evaluated", row.name))

    @hookimpl
    def ltdd_run_finished(run, distilled):
        LOG.append(("finished", len(distilled.labels), (run.path / "report.json").exists()))

    @hookimpl
    def ltdd_run_failed(run, error):
        LOG.append(("failed", type(error).__name__, str(error)))
"""
SETTINGS = {
    "iterations": 3,
    "ipc": 1,
    "network": {"name": "convnet-d3", "width": 8, "depth": 2},
    "training": {"original": {"epochs": 1}, "distilled": {"epochs": 1}},
}


def log_of(module):
    import importlib

    return importlib.import_module(module).LOG


def small(**changes):
    return configure(**{"method": "dm", **SETTINGS, **changes})


# ---- naming --------------------------------------------------------------------------------------


def test_hook_ltdd_register_datasets(site):
    source = REGISTER.format(hook="datasets", imports="from ltdd_core.data.digits import Digits", component="Digits")
    site.install("p", source)
    assert load_data("mine", imbalance=20).counts == load_data("digits-lt", imbalance=20).counts
    assert configure(method="dm", data="mine").data.name == "mine"


@pytest.mark.parametrize(
    ("hook", "kind", "component"),
    [
        ("samplers", "sampler", "ltdd_core.data.by_class:InstanceSampler"),
        ("networks", "network", "ltdd_core.networks.zoo:MLP"),
        ("heads", "head", "ltdd_core.evaluation.linear:LinearHead"),
        ("recipes", "recipe", "ltdd_core.evaluation.linear:Direct"),
    ],
)
def test_hook_ltdd_register_components(hook, kind, component, site):
    site.install("p", REGISTER.format(hook=hook, imports="", component=repr(component)))
    chosen = getattr(configure(method="dm", **{kind: "mine"}), kind)
    assert (chosen.name, chosen.component.__name__) == ("mine", component.split(":")[1])
    assert chosen.owner == "stranger-p 1.5"


def test_hook_ltdd_register_matchers(site, tmp_path):
    site.install("p", MEAN_MATCHER)
    result = distill(small(method="mean"), tmp_path / "run")
    assert result.config.matcher.owner == "stranger-p 1.5"
    assert result.distilled.images.shape == (10, 1, 8, 8)


def test_hook_ltdd_register_presets(site):
    site.install("p", REGISTER.format(hook="presets", imports="", component="{'method': 'dm', 'ipc': 7}"))
    assert configure("mine").run.ipc == 7
    site.install("q", REGISTER.format(hook="presets", imports="", component="3").replace("mine", "three"))
    with pytest.raises(InputError, match=r"preset 'three' of plugin 'q' .* is not a mapping"):
        configure("three")


def test_hook_ltdd_register_commands(site, ltdd):
    site.install("p", """
        import click
        from ltdd_core import InputError, hookimpl

        @hookimpl
        def ltdd_register_commands(cli):
            @cli.command()
            @click.argument("name")
            def greet(name):
                "Say hello."
                if name == "nobody":
                    raise InputError("there is nobody.")
                click.echo(f"hello {name}")
    """)  # fmt: skip
    assert re.search(r"^  greet +Say hello\.$", ltdd("--help").stdout, re.MULTILINE)
    assert ltdd("greet", "you").stdout == "hello you\n"
    refused = ltdd("greet", "nobody")  # our errors mean the same in somebody else's command
    assert (refused.exit_code, refused.stderr) == (2, "Error: there is nobody.\n")
    rows = {row["name"]: row for row in json.loads(ltdd("plugins", "--json").stdout)}
    assert rows["p"]["offers"] == {"command": ["greet"]}


# ---- choosing ------------------------------------------------------------------------------------


def test_hook_ltdd_choose(site):
    source = """
        from ltdd_core import hookimpl

        @hookimpl
        def ltdd_choose(config):
            return {"head": "twostage", "recipe": "hierarchical"} if config["ipc"] > 5 else None
    """
    site.install("p", source)
    assert configure(method="dm", ipc=6, plugins=["p"]).head.name == "twostage"
    assert configure(method="dm", ipc=5, plugins=["p"]).head.name == "linear"
    assert configure(method="dm", ipc=6).head.name == "linear"


# ---- watching ------------------------------------------------------------------------------------

WATCHED = [
    ("started", 0, "dm", "digits-lt"),
    *(("step", step, "float") for step in range(3)),
    ("evaluated", "original, direct"),
    ("evaluated", "distilled, direct"),
    ("finished", 10, True),
]


def test_active_plugins_watch_a_run_from_start_to_end_and_others_do_not(site, tmp_path):
    active, idle = site.install("active", WATCHER), site.install("idle", WATCHER)
    watched = distill(small(plugins=["active"]), tmp_path / "watched")
    plain = distill(small(), tmp_path / "plain")
    assert log_of(active) == WATCHED
    assert log_of(idle) == []
    assert watched.distilled.images.equal(plain.distilled.images)
    assert watched.rows == plain.rows  # but for the seconds


@pytest.mark.parametrize("event", ["started", "finished"])
def test_hook_ltdd_run_started_and_finished_are_told_once(event, site, tmp_path):
    module = site.install("active", WATCHER)
    distill(small(plugins=["active"]), tmp_path / "run")
    assert [line[0] for line in log_of(module)].count(event) == 1


def test_hook_ltdd_step_finished_and_evaluated_of_a_run_that_goes_on(site, tmp_path):
    module = site.install("active", WATCHER)
    config = small(plugins=["active"], compute={"checkpoint_every": 1})
    distill(config, tmp_path / "run")
    (tmp_path / "run" / "distilled.safetensors").unlink()
    log_of(module).clear()
    distill(config, tmp_path / "run", resume=True)  # every step is done, and a watcher is told so
    assert [line[0] for line in log_of(module)] == ["started", "evaluated", "evaluated", "finished"]
    assert log_of(module)[0][1] == 3


def test_hook_ltdd_run_failed(site, tmp_path):
    module = site.install("active", WATCHER)
    site.install("bad", MEAN_MATCHER.replace("return (", "raise RuntimeError('no luck'); return ("))
    with pytest.raises(RuntimeError, match="no luck"):
        distill(small(method="mean", plugins=["active"]), tmp_path / "run")
    assert log_of(module) == [("started", 0, "mean", "digits-lt"), ("failed", "RuntimeError", "no luck")]


@pytest.mark.parametrize(
    ("hook", "argument"), [("run_started", "run"), ("step_finished", "step"), ("evaluated", "row")]
)
@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(3)"])
def test_a_watcher_that_fails_is_reported_once_and_left_out_and_the_result_is_the_same(
    hook, argument, fault, site, tmp_path
):
    module = site.install("active", WATCHER)
    site.install("bad", f"from ltdd_core import hookimpl\n@hookimpl\ndef ltdd_{hook}({argument}): {fault}\n")
    with pytest.warns(UserWarning, match=f"plugin 'bad' .* raised in ltdd_{hook} and watches no longer") as caught:
        disturbed = distill(small(plugins=["bad", "active"]), tmp_path / "disturbed")
    assert len(caught) == 1
    assert log_of(module) == WATCHED
    distill(small(), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "distilled.safetensors")
    assert disturbed.distilled.images.equal(plain["images"])
    report = json.loads((tmp_path / "disturbed" / "report.json").read_text())
    assert list(report["detached_plugins"]) == ["bad"]
    assert report["detached_plugins"]["bad"].startswith(f"ltdd_{hook}: ")


def test_a_watcher_that_fails_at_the_command_line_costs_the_run_nothing(site, ltdd):
    site.install("bad", "from ltdd_core import hookimpl\n@hookimpl\ndef ltdd_step_finished(): 1 / 0\n")
    result = ltdd("distill", "--method", "dm", "--plugin", "bad", *TINY, "--json")
    assert "raised in ltdd_step_finished and watches no longer: ZeroDivisionError: division by zero" in result.stderr
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["rows"]) == 2


# ---- together ------------------------------------------------------------------------------------


def test_every_hook_has_a_test_here_and_a_documented_specification():
    tests = "".join(name for name in globals() if name.startswith("test_hook_"))
    components = ("samplers", "networks", "labellers", "augmentations", "heads", "recipes", "launchers")
    for name, spec in vars(hookspecs).items():
        if not name.startswith("ltdd_"):
            continue
        assert spec.__doc__
        word = name.removeprefix("ltdd_").removeprefix("run_")
        assert word in tests or name.removeprefix("ltdd_register_") in components, name


def test_one_plugin_may_implement_every_hook(site):
    hooks = [name for name in vars(hookspecs) if name.startswith("ltdd_")]
    source = "from ltdd_core import hookimpl\n" + "\n".join(f"@hookimpl\ndef {name}(): pass" for name in hooks)
    site.install("all", source)
    plugins = load_plugins()
    Catalog(plugins)
    assert {plugin.name: plugin.state for plugin in plugins.listed}["all"] == "installed"
