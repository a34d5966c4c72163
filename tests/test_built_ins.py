"""The rules that built-ins and the core keep: cheap entry modules, public names only, no name of another plugin."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import ltdd_core
import ltdd_core.commands
from ltdd_core import hookspecs
from ltdd_core.cli.plugin_commands import plugin_commands
from ltdd_core.plugging.catalog import KINDS, Catalog
from ltdd_core.plugging.loading import load_plugins

ROOT = Path(__file__).parent.parent
BUILT_IN = [
    "ablations",
    "augmentations",
    "core",
    "coreset",
    "cosine",
    "dance",
    "dc",
    "decoupled",
    "dm",
    "ensemble",
    "hierarchical",
    "huggingface",
    "idm",
    "labellers",
    "losses",
    "methods",
    "mtt",
    "ncfm",
    "ray",
    "report",
    "samplers",
    "statistics",
    "submitit",
    "tensorboard",
    "timm",
    "torchvision",
    "trackio",
    "twostage",
]


# ---- no torch before it is needed ----------------------------------------------------------------


@pytest.mark.parametrize("command", [["--help"], ["plan", "--help"], ["plugins"], ["plugins", "--json"], ["nonsense"]])
def test_a_light_command_imports_no_torch(command):
    program = (
        "import sys\n"
        "from ltdd_core.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'pydantic', 'matplotlib', 'timm', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_entry_module_of_a_built_in_imports_no_torch(name):
    module = next(iter(entry_points(group="ltdd", name=name))).value
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ---- rules of the house --------------------------------------------------------------------------

PLUGIN_FOLDERS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
BUILDS_ON = {"ltdd_ablations": {"ltdd_twostage"}, "ltdd_ncfm": {"ltdd_dance"}}
"""The built-ins that use another as a library: a head that is a variant of the other's, and methods that compare
features otherwise than the other does, in the same networks."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS)
def test_a_built_in_imports_only_public_names(folder):
    for path in (ROOT / "plugins" / folder).rglob("*.py"):
        for module, name in imports(path):
            top = module.split(".")[0]
            if module == "ltdd_core.commands":
                assert name in ltdd_core.commands.__all__
                continue
            assert not module.startswith("ltdd_core."), f"{path.name} imports {module}"
            assert top != "ltdd_core" or name in ltdd_core.__all__, f"{path.name} imports {module}.{name}"
            known = {"ltdd_core", folder, *BUILDS_ON.get(folder, ())}
            assert not top.startswith("ltdd_") or top in known, f"{path.name} imports {module}"


def test_every_built_in_is_packaged_and_has_an_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == ["ltdd_core", *(f"plugins/{folder}" for folder in PLUGIN_FOLDERS)]
    declared = project["project"]["entry-points"]["ltdd"]
    assert sorted(declared.values()) == sorted(["ltdd_core.plugging.builtin", *PLUGIN_FOLDERS])
    assert sorted(declared) == BUILT_IN


def test_the_public_api_resolves():
    assert [name for name in ltdd_core.__all__ if getattr(ltdd_core, name, None) is None] == []
    assert sorted(ltdd_core.__all__) == sorted(set(ltdd_core.__all__))


def test_no_hook_implementation_has_default_arguments():
    for plugin in load_plugins().manager.get_plugins():
        for name, function in inspect.getmembers(plugin, inspect.isfunction):
            if hasattr(function, "ltdd_impl"):
                given = inspect.signature(function).parameters.values()
                assert all(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in given), name


def test_every_register_hook_belongs_to_a_kind():
    hooks = {name for name in vars(hookspecs) if name.startswith("ltdd_register_")}
    assert hooks == {*KINDS.values(), "ltdd_register_commands"}


ENGLISH = {
    *("class-balanced", "compare", "cosine", "k-means", "losses", "methods", "random", "report", "samplers"),
    *("statistics", "teacher", "watch"),
}
"""Names of plugins, components or commands that are ordinary words of English or of mathematics as well."""
LIBRARIES = {"torchvision"}
"""Names of plugins that are those of libraries that the core itself uses."""
PAPERS = {"lad", "ldam"}
"""Names of components that are those of papers, whose subset of CIFAR the core can draw (``data.subset``)."""
DEPENDENCIES = {
    (
        "ltdd_twostage",
        "hierarchical",
    ): "--plugin twostage stands for the head and for the recipe that trains its stages",
    (
        "ltdd_statistics",
        "balanced-softmax",
    ): "the default head of teachers; on classes of equal size it is the linear one",
    (
        "ltdd_dance",
        "balanced-softmax",
    ): "the default head of the networks to match in; on classes of equal size it is the linear one",
    ("ltdd_labellers", "balanced-softmax"): "the default head of teachers, whose labels would forget rare classes else",
    ("ltdd_methods", "twostage"): "the classifier beside the direct one, unless --plugin names another",
    ("ltdd_dm", "compare-methods"): "what says which method to take first says how to find out",
    ("ltdd_statistics", "coreset"): "the preset keeps real images",
    ("ltdd_statistics", "herding"): "the preset keeps those that stand for their classes",
    ("ltdd_twostage", "balanced-softmax"): "the default head of stage 1, as measured in docs/results/two-stage.md",
    ("ltdd_twostage", "logit-adjustment"): "other defaults of stage 2 go with a stage 1 of this head",
}
"""What one built-in asks of another by name, and why."""


def names_of_plugins():
    """Every name that a plugin other than the core brings, with its owners: of itself, its components and commands."""
    plugins, found = load_plugins(), {}
    catalog = Catalog(plugins)
    for plugin in plugins.listed:
        if plugin.name != "core":
            offered = {entry.name for entry in catalog.offered_by(plugin)}
            for name in {plugin.name, plugin.target, *offered}:
                found.setdefault(name, set()).add(plugin.target)
    for name, (_, owner) in plugin_commands(plugins).items():
        found.setdefault(name, set()).add(owner.target)
    return {name: owners for name, owners in found.items() if name not in ENGLISH | LIBRARIES | PAPERS}


def words_of(path, *, docstrings):
    """Words that code acts on or shows, with their lines: identifiers, and what is inside strings and f-strings.

    Comments are none of them, and docstrings only where they are asked for.
    """
    if path.suffix != ".py":
        yield from ((word, "template") for word in WORD.findall(path.read_text()))
        return
    tree = ast.parse(path.read_text())
    plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)} if not docstrings else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain:
            text = PATH_OF_CLASS.sub(r"\1", node.value)
            yield from ((word, node.lineno) for word in WORD.findall(text))
        identifiers = (getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module"))
        yield from ((word, getattr(node, "lineno", 0)) for word in identifiers if isinstance(word, str))


WORD = re.compile(r"[\w-]+")
PATH_OF_CLASS = re.compile(r"^(\w+)(\.\w+)*:\w+$")  # only its package belongs to somebody


def test_the_core_knows_no_plugin_by_name():
    names = names_of_plugins()
    assert {"mtt", "twostage", "experts", "dm-paper", "hierarchical", "ltdd_report"} <= set(names)
    for path in [*(ROOT / "ltdd_core").rglob("*.py"), *(ROOT / "ltdd_core").rglob("*.j2")]:
        shown_as_help = path.parent.name == "cli"
        known = [f"{path}:{line}: {word}" for word, line in words_of(path, docstrings=shown_as_help) if word in names]
        assert not known


def test_a_plugin_asks_another_for_nothing_by_name():
    names, used = names_of_plugins(), set()
    for path in (ROOT / "plugins").rglob("*.py"):
        folder = path.relative_to(ROOT / "plugins").parts[0]
        for word, line in words_of(path, docstrings=False):
            like = {folder, *BUILDS_ON.get(folder, ())}
            if word in names and not like & names[word]:
                asked = {(asking, word) for asking in like} & DEPENDENCIES.keys()
                assert asked, f"{path}:{line}: {word}"
                used |= asked
    assert used == set(DEPENDENCIES)


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("x = 'experts of --method mtt may not fit'", {"mtt", "experts"}),
        ("x = f'use --head twostage, or {1}'", {"twostage"}),
        ("import ltdd_mtt", {"ltdd_mtt"}),
        ('"Of a dm run."\nx = "admirable dm_x mtt-like"', set()),
    ],
)
def test_names_are_found_inside_strings(source, known, tmp_path):
    (tmp_path / "code.py").write_text(source)
    words = {word for word, _ in words_of(tmp_path / "code.py", docstrings=False)}
    assert words & names_of_plugins().keys() == known
