"""README and docs are true: their snippets run, their links lead somewhere, every hook is documented."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from made_folder import COUNTS, make_folder
from PIL import Image
from test_new_plugin import installed as install

import ltdd_core
from ltdd_core import configure
from ltdd_core.cli import cli
from ltdd_core.plugging.catalog import KINDS, installed
from ltdd_core.plugging.loading import load_plugins
from ltdd_core.testing import (
    ContractError,
    check_head,
    check_labeller,
    check_matcher,
    check_network,
    tiny_long_tailed,
    tiny_network,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
import generated

TOP = Path(__file__).parent.parent
DOCS = TOP / "docs"
PAGES = [TOP / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "results").glob("*.md"))]
NARROW = ["--set", "network.width=4"]
TRAINED = [*NARROW, "--set", "training.original.epochs=1", "--set", "training.distilled.epochs=1"]
SHORT = {"distill": ["--set", "iterations=2", *TRAINED], "train": TRAINED, "experts": NARROW}
SHORT["analyze"] = TRAINED[:4]
SHORT["plan"] = SHORT["distill"]
SHORT["bench"] = ["--set", "iterations=2", *TRAINED]
SHORT_PYTHON = "training={'original': {'epochs': 1}, 'distilled': {'epochs': 1}}, network={'width': 4}, iterations=2"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

CIFAR10_COUNTS = [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def image_folder(root, counts, side):
    draws = np.random.default_rng(0)
    for part, sizes in (("train", counts), ("test", [2] * len(counts))):
        for name, size in zip(CIFAR10, sizes, strict=False):
            (root / part / name).mkdir(parents=True)
            for index in range(size):
                pixels = draws.integers(0, 255, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.bmp")


def lists_of(root):
    """`train.txt` and `test.txt` of an image folder, and a table of all its images without their ending."""
    rows = ["image_id,label,split"]
    for part in ("train", "test"):
        paths = [path.relative_to(root) for path in sorted((root / part).rglob("*.bmp"))]
        (root / f"{part}.txt").write_text("".join(f"{path} {path.parent.name}\n" for path in paths))
        rows += [f"{path.with_suffix('')},{path.parent.name},{part}" for path in paths]
    (root / "labels.csv").write_text("\n".join(rows))


def run_commands(text):
    for line in text.splitlines():
        words = [word for word in shlex.split(line) if not re.match("[A-Z_]+=", word)]
        words = [found for word in words for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (TOP / "Makefile").read_text(), re.MULTILINE), f"no target: {line}"
            continue
        if words[:2] == ["python", "tests/made_folder.py"]:
            make_folder(Path(words[2]), {name: 2 + count // 8 for name, count in COUNTS.items()}, sides=(24, 40))
            continue
        if not words or words[0] != "ltdd":
            assert words[:2] == ["pip", "install"], f"not a command of ours: {line}"
            assert words[-1] == ".", f"not a command of ours: {line}"
            continue
        short = [] if "--resume" in words else SHORT.get(words[1], [])
        said = {word.partition("=")[0] for word in short}
        long = [place for place, word in enumerate(words) if word == "--set" and words[place + 1].split("=")[0] in said]
        words = [word for place, word in enumerate(words) if not {place, place - 1} & {*long}]
        result = CliRunner().invoke(cli, [*words[1:], *short])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_readme_works_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "my_images", [12, 5, 1], side=20)
    shutil.copytree(tmp_path / "my_images" / "test" / CIFAR10[0], tmp_path / "new_pictures")
    image_folder(tmp_path / "cifar10", CIFAR10_COUNTS, side=8)
    plain, own_method, from_python = blocks(TOP / "README.md", "python")
    for commands in blocks(TOP / "README.md", "sh"):
        run_commands(commands)

    plugin = types.ModuleType("your_module")
    exec(own_method, vars(plugin))
    plugins = load_plugins()
    plugins.manager.register(plugin, name="mean")
    check_matcher(plugin.MeanMatcher)

    names = {}
    exec(plain, names)  # the ten lines of plain PyTorch
    assert names["classify"](torch.zeros(3, 20, 20)) in CIFAR10[:3]

    shortened = from_python.replace("iterations=100", SHORT_PYTHON)
    assert shortened != from_python
    exec(shortened, {})


def test_the_plain_snippet_learns(tmp_path, monkeypatch):
    """On distilled digits the ten lines give a classifier that is far better than chance."""
    monkeypatch.chdir(tmp_path)
    short = {"original": {"epochs": 1}, "distilled": {"epochs": 1}}
    config = configure(method="dm", iterations=5, network={"width": 8}, training=short)
    data = ltdd_core.distill(config, "runs/mine").data
    names = {}
    exec(blocks(TOP / "README.md", "python")[0], names)
    images = data.test_images.float() / 255
    right = [
        names["classify"](image) == data.class_names[label]
        for image, label in zip(images, data.test_labels, strict=True)
    ]
    assert sum(right) / len(right) > 0.5


@pytest.mark.parametrize(
    "name",
    [
        *(
            "index.md",
            "first-run.md",
            "own-data.md",
            "resume.md",
            "gpu.md",
            "scale.md",
            "configuration.md",
            "heads.md",
            "metrics.md",
        ),
        *(
            "mtt.md",
            "trajectory-methods.md",
            "teacher-methods.md",
            "feature-methods.md",
            "samplers.md",
            "two-stage.md",
            "writing-a-plugin.md",
            "report.md",
            pytest.param("grouping.md", marks=pytest.mark.slow),
        ),
        "tutorial-pictures.md",
    ],
)
def test_the_commands_of_a_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "my_images", [12, 5, 1], side=20)
    lists_of(tmp_path / "my_images")
    (tmp_path / "grid.yaml").write_text("data: [digits-lt]\nmethods: [dm]\nseeds: [0, 1]\n")
    if "--root cifar10" in (DOCS / name).read_text():
        image_folder(tmp_path / "cifar10", CIFAR10_COUNTS, side=8)
    for commands in blocks(DOCS / name, "sh"):
        run_commands(commands)


def test_the_figure_of_the_guide_to_reports_is_saved(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "runs/a")
    executed(DOCS / "report.md")
    with Image.open("runs/classes.png") as picture:
        assert picture.width > 400


def test_the_tutorial_works_from_top_to_bottom(site, tmp_path, monkeypatch):
    """Its commands and files, in order; only pip is stood in for, by what an editable installation leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(site.folder))
    module = Path("ltdd-spread/ltdd_spread/matcher.py")
    for language, text in re.findall(
        r"^```(sh|python|yml)\n(.*?)^```", (DOCS / "tutorial.md").read_text(), re.M | re.S
    ):
        if language == "python":
            assert module.exists()
            module.write_text(text)
            [sys.modules.pop(name, None) for name in ("ltdd_spread", "ltdd_spread.matcher")]
        elif language == "yml":
            Path("grid.yaml").write_text(text)
        else:
            for line in text.splitlines():
                follow(line, site.folder)
    assert "spread, w = 1" in Path("runs/grid/table.md").read_text()


def test_the_tutorial_that_compares_methods_works_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "tutorial-comparison.md").read_text()
    for language, text in re.findall(r"^```(sh|yml)\n(.*?)^```", page, re.M | re.S):
        if language == "yml":
            with Path("grid.yaml").open("a") as grid:
                grid.write(text)
        else:
            run_commands(text)
    assert "my own script, seed 0" in Path("runs/compared/table.md").read_text()
    assert Path("runs/compared.html").exists()
    assert list(Path().glob("report-digits-lt-if50-dm-ipc5-seed0-*.html"))


def test_every_number_of_the_guide_to_methods_is_on_the_pages_that_its_section_names():
    for section in re.split(r"^## ", (DOCS / "which-method.md").read_text(), flags=re.MULTILINE):
        measured = "".join((DOCS / name).read_text() for name in set(re.findall(r"\((results/[\w-]+\.md)", section)))
        for value in re.findall(r"(?<![\w.])\d+\.\d+(?: ± \d+\.\d+)?(?![\w.]*\.0)", section):
            assert value in measured, f"{value} under {section.splitlines()[0]}"


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")
def test_the_contract_refuses_the_variance_that_the_tutorial_warns_of():
    text = next(re.finditer(r"^```python\n(.*?)^```", (DOCS / "tutorial.md").read_text(), re.M | re.S))[1]
    names = {}
    exec(text.replace(", correction=0", ""), names)
    with pytest.raises(ContractError, match="the loss is finite"):
        check_matcher(names["SpreadMatcher"])


def follow(line, site):
    if line == "pip install -e './ltdd-spread[dev]'":
        install(Path("ltdd-spread").absolute(), site, "spread")
    elif line.startswith("pytest "):
        subprocess.run([sys.executable, "-m", *shlex.split(line), "-p", "no:cacheprovider"], check=True)
    else:
        run_commands(line)


def test_the_plugins_of_the_guides_keep_the_contract():
    testing, weighted = (executed(DOCS / name) for name in ("testing-a-plugin.md", "writing-a-plugin.md"))
    testing.test_contract()
    for name in ("WeightedMatcher", "SurestMatcher", "TilesMatcher", "QueueMatcher"):
        check_matcher(getattr(weighted, name))
    check_labeller(weighted.TwoHeadsLabeller)
    check_network(weighted.ShallowNetwork, (1, 16, 16))


def test_the_wrapped_script_keeps_the_contract_and_the_script_runs():
    wrapped = executed(DOCS / "wrapping-a-script.md")
    check_matcher(wrapped.ScriptMatcher)
    data = tiny_long_tailed()
    start, labels = torch.randn(8, 3, 8, 8), torch.arange(4).repeat_interleave(2)
    found, _ = wrapped.script(
        start,
        labels,
        lambda: tiny_network((3, 8, 8), 4),
        lambda label: data.normalisation.apply(data.train_images[data.train_labels == label]),
        iterations=3,
    )
    assert not torch.equal(found, start)
    assert torch.isfinite(found).all()


def test_the_page_about_prediction_works_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "my_images", [12, 5, 1], side=20)
    for commands in blocks(DOCS / "predict.md", "sh"):
        run_commands(commands)
    found = executed(DOCS / "predict.md")
    assert found.probabilities.shape == (3, 3)
    assert set(found.names) <= set(CIFAR10)


def executed(page):
    """A module with the Python of a page, block after block."""
    module = types.ModuleType("your_module")
    for text in blocks(page, "python"):
        exec(text, vars(module))
    return module


def test_the_head_of_the_guide_to_heads_keeps_the_contract():
    plugin = executed(DOCS / "heads.md")
    load_plugins().manager.register(plugin, name="smoothed")
    check_head(plugin.SmoothedHead)
    shifted = plugin.Shifted(tiny_network((3, 8, 8), 4), torch.ones(4))
    assert shifted(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


def test_configuration_snippets_are_valid():
    found = [text for page in PAGES for text in blocks(page, "yaml")]
    assert found
    for text in found:
        configure(**yaml.safe_load(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_hook_has_a_heading_with_its_arguments_and_says_what_it_is_for():
    text = "\n".join(generated.hook_lines())
    assert "{include} _generated/hooks.md" in (DOCS / "hooks.md").read_text()
    headings = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    hooks = {name: hook.spec for name, hook in vars(load_plugins().manager.hook).items() if name.startswith("ltdd_")}
    assert sorted(headings) == sorted(f"{name}({', '.join(spec.argnames)})" for name, spec in hooks.items())
    for spec in hooks.values():
        assert spec.function.__doc__.split()[0] in text


def test_every_component_is_on_the_page_of_components_with_its_options():
    text = "\n".join(generated.component_lines())
    catalog = installed()
    for kind in KINDS:
        for name in catalog.names(kind):
            assert f"`{name}`" in text
    for option in ("matcher.lr_img", "head.taught", "sampler.beta", "network.width", "recipe.stage1", "data.root"):
        assert f"`{option}`" in text


def test_the_report_format_is_the_documented_one(tmp_path):
    short = {"original": {"epochs": 1}, "distilled": {"epochs": 1}}
    config = configure(method="dm", iterations=1, network={"width": 4}, training=short)
    document = ltdd_core.distill(config, tmp_path / "a").to_json()
    text = (TOP / "docs" / "file-formats.md").read_text()
    section = text[text.index("## `report.json`") :]
    documented = set(re.findall(r"[`\"]([a-z_]+)[`\"]", section))
    assert {*document, *document["rows"][0]} <= documented
    assert json.loads(json.dumps(document)) == document
