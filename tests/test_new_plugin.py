"""``ltdd new-plugin``: what it writes is a plugin that works, for every kind."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, one_line_error

from ltdd_core.plugging.scaffold import KINDS

SHORT = {
    "matcher": ["distill", "--method", "mine-too", *TINY, "--plugin", "twostage"],
    "sampler": ["train", "--sampler", "mine-too", "--set", "training.original.epochs=1", "--set", "network.width=4"],
    "head": ["train", "--head", "mine-too", "--set", "training.original.epochs=1", "--set", "network.width=4"],
    "recipe": ["distill", "--method", "dm", *TINY, "--plugin", "twostage", "--set", "recipe.name=mine-too"],
    "data": ["data", "show", "--data", "mine-too"],
    "labeller": ["distill", "--method", "dm", *TINY, "--labeller", "mine-too"],
    "augmentation": [
        "train",
        "--set",
        "training.original.augment=mine-too",
        "--set",
        "training.original.epochs=1",
        "--set",
        "network.width=4",
    ],
    "launcher": ["bench", "grid.yaml", "--launcher", "mine-too"],
    "network": ["train", "--network", "mine-too", "--set", "training.original.epochs=1"],
}

GRID = "{iterations: 3, ipc: 2, network: {width: 4}, training: {original: {epochs: 1}, distilled: {epochs: 1}}}"
"""What is common to the runs of a grid."""


def installed(folder: Path, site: Path, name: str = "mine-too") -> None:
    """Installed as an editable package is: its folder on the path, its entry point among the metadata."""
    module = next(path.name for path in folder.iterdir() if path.name.startswith("ltdd_"))
    facts = site / f"{module}-0.1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 0.1.0\n")
    (facts / "entry_points.txt").write_text(f"[ltdd]\n{name} = {module}\n")
    (site / module).symlink_to(folder / module)


@pytest.mark.parametrize(
    "kind", [kind if kind == "matcher" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_new_plugin_works_and_passes_its_own_test(kind, ltdd, tmp_path):
    result = ltdd("new-plugin", "mine-too", "--kind", kind, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "ltdd-mine-too"
    assert f"pip install -e {folder} && ltdd " in result.stdout
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    package = ["ltdd_mine_too/__init__.py", f"ltdd_mine_too/{kind}.py"]
    assert files == ["README.md", *package, "pyproject.toml", "tests/test_contract.py"]
    assert f"\n{result.stdout.split(' && ')[1].splitlines()[0]}\n" in (folder / "README.md").read_text()
    installed(folder, tmp_path / "site")
    (tmp_path / "grid.yaml").write_text(f"common: {GRID}\nmethods: [dm]\n")
    environment = {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    options = {"check": True, "capture_output": True, "text": True, "env": environment, "cwd": tmp_path}
    main = [sys.executable, "-c", "from ltdd_core.cli import main; main()"]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)], **options)
    done = subprocess.run([*main, *SHORT[kind]], **options)
    assert done.stdout
    listed = subprocess.run([*main, "plugins", "mine-too"], **options).stdout
    assert "ltdd-mine-too 0.1.0" in listed
    program = "import sys, ltdd_mine_too; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], **options)  # every command imports the entry module


def test_the_module_is_short(ltdd, tmp_path):
    """A method is its equation: what is neither documentation nor empty has some 15 lines."""
    for kind in KINDS:
        assert ltdd("new-plugin", f"a-{kind}", "--kind", kind, "--out", tmp_path).exit_code == 0
        package = tmp_path / f"ltdd-a-{kind}" / f"ltdd_a_{kind}"
        text = (package / f"{kind}.py").read_text() + (package / "__init__.py").read_text()
        lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith('"""')]
        assert len(lines) <= 22, kind


def test_the_code_is_linted_and_formatted_as_ours_is(ltdd, tmp_path):
    ruff = Path(sys.executable).with_name("ruff")
    for kind in KINDS:
        assert ltdd("new-plugin", f"a-{kind}", "--kind", kind, "--out", tmp_path).exit_code == 0
        for command in (["format", "--check"], ["check", "--select", "E,F,I,UP,W"]):
            checked = subprocess.run(
                [ruff, *command, "--line-length", "120", "."],
                cwd=tmp_path / f"ltdd-a-{kind}",
                capture_output=True,
                text=True,
            )
            assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("mine", "matchr", "unknown kind 'matchr'. Did you mean 'matcher'?"),
        ("mine", "dataset", "unknown kind 'dataset'. Did you mean 'data'?"),
        ("Mine", "matcher", "'Mine' is no name for a plugin"),
        ("my_plugin", "matcher", "'my_plugin' is no name for a plugin"),
        ("../mine", "matcher", "'../mine' is no name for a plugin"),
        ("dm", "matcher", "'dm' is taken"),
        ("class-balanced", "sampler", "'class-balanced' is taken"),
        ("twostage", "matcher", "'twostage' is taken"),
    ],
)
def test_a_wrong_name_gets_one_line_and_writes_nothing(name, kind, message, ltdd, tmp_path):
    assert message in one_line_error(ltdd("new-plugin", name, "--kind", kind, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_never_written_over(ltdd, tmp_path):
    assert ltdd("new-plugin", "mine", "--kind", "head", "--out", tmp_path).exit_code == 0
    before = (tmp_path / "ltdd-mine" / "ltdd_mine" / "__init__.py").read_text()
    assert "is there already" in one_line_error(ltdd("new-plugin", "mine", "--kind", "head", "--out", tmp_path))
    assert (tmp_path / "ltdd-mine" / "ltdd_mine" / "__init__.py").read_text() == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "here"] == ["ltdd-mine"]
