"""The house: which part of the core may import which, and that the public names are one list that the docs have."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import ltdd_core
import ltdd_core.commands

ROOT = Path(__file__).parent.parent
CORE = ROOT / "ltdd_core"
FLOORS = (
    ("errors", "options", "seeding", "progress", "hookspecs"),
    ("storage",),
    ("identity", "locking", "processes"),
    ("ranks",),
    ("plugging", "data", "networks"),
    ("training",),
    ("config",),
    ("runs",),
    ("setup",),
    ("evaluation",),
    ("distillation",),
    ("planning",),
    ("bench",),
    ("api", "testing"),
    ("cli",),
    ("commands",),
    ("__main__",),
)
"""The parts of ltdd_core from the ground up; a part imports from its own floor's parts never, and from above never."""


def imported(path):
    """The modules of ltdd_core that a file imports, those under TYPE_CHECKING and inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ltdd_core"):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if (CORE.parent / f"{inside.replace('.', '/')}.py").exists() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ltdd_core"))


def graph():
    """Module -> modules that it imports, by dotted name; a package's face is the package."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = {other for other in imported(path) if other != name}
    return found


def part(module):
    return module.removeprefix("ltdd_core").lstrip(".").partition(".")[0]


def test_every_part_of_the_core_has_its_floor():
    parts = {part(module) for module in graph()} - {""}
    assert parts == {name for floor in FLOORS for name in floor}


def test_no_part_imports_from_its_own_floor_or_from_above():
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if module != "ltdd_core" and part(module) != part(other)
        if part(other) == "" or floor_of[part(other)] >= floor_of[part(module)]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    left = graph()
    while left:
        free = [module for module, others in left.items() if not others & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for module in free:
            del left[module]


def test_hooks_configurations_and_the_catalog_need_no_torch():
    import subprocess
    import sys

    modules = "hookspecs", "options", "plugging.catalog", "config.model", "config.resolve", "commands", "cli"
    code = f"import sys, {', '.join(f'ltdd_core.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ltdd_core.__all__)
def test_every_public_name_exists_and_is_on_the_page_of_the_api(name):
    assert getattr(ltdd_core, name) is not None
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. (auto\w+|py:data):: ltdd_core\.{name}$", page, re.MULTILINE), f"docs/api.md has no {name}"


@pytest.mark.parametrize("name", ltdd_core.commands.__all__)
def test_every_name_for_commands_is_on_the_page_of_the_api_and_has_its_arguments_explained(name):
    page, value = (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), getattr(ltdd_core.commands, name)
    function = inspect.isfunction(value)
    assert f".. auto{'function' if function else 'data'}:: ltdd_core.commands.{name}\n" in page
    assert not function or "Args:\n" in inspect.getdoc(value)
