"""Write the package of a new plugin: it works as it is, and its author changes the equation."""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from string import Template

from ltdd_core.errors import InputError, unknown
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.storage import writing

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "ltdd-$name"
version = "0.1.0"
description = "$about, for ltdd"
requires-python = ">=3.11"
dependencies = ["ltdd>=$version"]

[project.optional-dependencies]
dev = ["pytest>=8"]

[project.entry-points.ltdd]
$name = "$module"

[tool.hatch.build.targets.wheel]
packages = ["$module"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""
TEST = """\
from ltdd_core.testing import check_$kind
from $module import $cls


def test_contract():
    check_$kind($cls)
"""
README = """\
# ltdd-$name

$about, as a plugin for ltdd.

```sh
pip install -e '.[dev]'
pytest
$command
```

`$module/__init__.py` holds all of it. `ltdd describe $kind $name` shows its options: declare them in a nested class
`Options` with `ltdd_core.option`. What a $kind may and must do is in the docstrings of `ltdd_core`; the test
calls the contract check that ltdd's own components pass too.
"""
MODULES = {
    "matcher": '''\
"""A distillation method: ``ltdd distill --method $name``."""

from ltdd_core import ClassMatcher, hookimpl


class $cls(ClassMatcher):
    """Match the mean feature of each class."""

    def class_loss(self, network, real, synthetic):  # [n, C, H, W], [ipc, C, H, W] -> scalar
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()
''',
    "sampler": '''\
"""A way to draw real images: ``--sampler $name``."""

import torch

from ltdd_core import Sampler, draw_by_class, hookimpl


class $cls(Sampler):
    """Draw class c with probability ~ log(1 + n_c)."""

    def prepare(self, data):
        self.labels = data.train_labels.cpu()
        self.counts = torch.tensor(data.counts, dtype=torch.float64)

    def of_class(self, label, size, generator):
        own = torch.nonzero(self.labels == label).flatten()
        return own[torch.randperm(len(own), generator=generator)[:size]]

    def epoch(self, progress, generator):
        return draw_by_class(self.labels, self.counts.log1p(), generator)

    def representatives(self, label, ipc, generator, features):
        return self.of_class(label, ipc, generator)
''',
    "head": '''\
"""A classifier head: ``--head $name``."""

from ltdd_core import ClassifierHead, Softmax, cross_entropy, hookimpl


class $cls(ClassifierHead):
    """Cross-entropy with smoothed labels."""

    title = "$name"

    def fit(self, sets, trainer):
        def loss(logits, labels):
            return 0.9 * cross_entropy(logits, labels) - 0.1 * logits.log_softmax(1).mean()

        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose="$name", loss=loss))
''',
    "recipe": '''\
"""Which data train which stage of a classifier: ``--set recipe.name=$name``."""

from ltdd_core import Recipe, hookimpl


class $cls(Recipe):
    """The original images for all stages but the last one."""

    def assign(self, stages):
        return ("original",) * (stages - 1) + ("distilled",)
''',
    "dataset": '''\
"""A source of labelled images: ``--data $name``."""

import torch

from ltdd_core import ArrayTable, DataSource, LongTailOptions, SourceImages, hookimpl


class $cls(DataSource):
    """Noise of a brightness that is the class: replace it by images of your own."""

    class Options(LongTailOptions):
        """The long tail; add options of your own."""

    def load(self, generator):
        def images(number):
            labels = torch.arange(10).repeat_interleave(number)
            noise = torch.randint(0, 60, (len(labels), 3, 32, 32), generator=generator)
            return ArrayTable((noise + 19 * labels[:, None, None, None]).to(torch.uint8), labels)

        return SourceImages(train=images(100), test=images(20), class_names=tuple(f"level {c}" for c in range(10)))
''',
    "network": '''\
"""A network: ``--network $name``."""

from torch import nn

from ltdd_core import Network, hookimpl


class $cls(Network):
    """Two convolutions and a linear layer."""

    def __init__(self, image_shape, outputs, options):
        super().__init__()
        channels, height, width = image_shape
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
            nn.Flatten(),
        )
        self.linear = nn.Linear(32 * (height // 4) * (width // 4), outputs)

    def embed(self, images):
        return self.features(images)
''',
}
HOOK = """

@hookimpl
def ltdd_register_${kind}s(register):
    register("$name", $cls)
"""
COMMANDS = {
    "matcher": "ltdd distill --method $name",
    "sampler": "ltdd train --sampler $name",
    "head": "ltdd train --head $name",
    "recipe": "ltdd distill --method $method --set recipe.name=$name",
    "dataset": "ltdd data show --data $name",
    "network": "ltdd train --network $name",
}
"""What shows a new plugin at work."""
KINDS = tuple(MODULES)


def new_plugin(name: str, kind: str, parent: Path, catalog: Catalog) -> tuple[Path, str]:
    """Write the package ``parent / ltdd-NAME``.

    Args:
        name: of the plugin and of its component: lower case, digits and dashes, as it will be named on command lines.
        kind: one of :data:`KINDS`.
        parent: where the folder goes.
        catalog: what is installed; its names are taken.

    Returns:
        The folder, and a command that shows the plugin at work once it is installed.

    Raises:
        InputError: the name is not one, or is taken; the kind is unknown; the folder is there, or cannot be written.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise InputError(
            f"{name!r} is no name for a plugin: lower-case letters, digits and single dashes, as in my-{kind}."
        )
    catalog_kind = "data" if kind == "dataset" else kind
    if name in catalog.names(catalog_kind) or name in {plugin.name for plugin in catalog.plugins.listed}:
        raise InputError(f"{name!r} is taken by what is installed already: ltdd plugins lists it; choose another name.")
    folder = parent / f"ltdd-{name}"
    if folder.exists():
        raise InputError(f"{folder} is there already: remove it, or choose another name or --out.")
    words = name.split("-")
    facts = {
        "name": name,
        "kind": kind,
        "module": f"ltdd_{'_'.join(words)}",
        "cls": "".join(word.capitalize() for word in words) + kind.capitalize(),
        "about": f"The {kind} {name}",
        "version": version("ltdd"),
        "method": next(iter(catalog.names("matcher")), "NAME"),
    }
    facts["command"] = Template(COMMANDS[kind]).substitute(facts)
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{facts['module']}/__init__.py": MODULES[kind] + HOOK,
        "tests/test_contract.py": TEST,
    }
    with writing(folder):
        parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        try:
            for path, text in files.items():
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / path).write_text(Template(text).substitute(facts), encoding="utf-8")
            unfinished.chmod(0o755)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder, facts["command"]
