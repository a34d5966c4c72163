"""What several test files share: packages of strangers, the command line in an empty folder, a finished run."""

import importlib
import json
import shutil
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ltdd_core.cli import cli
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.progress import Display, nobody
from ltdd_core.runs import precision
from ltdd_core.testing import tiny_long_tailed

FP32 = {precision.name_of(torch.device(kind)): 1.0 for kind in ["cpu", *["cuda"] * torch.cuda.is_available()]}
"""A measurement by which bf16 is no faster: what tests expect must not depend on the processor that they run on."""

TINY = (
    *("--iterations", "3", "--ipc", "2", "--set", "network.width=8", "--set", "network.depth=2"),
    *("--set", "training.original.epochs=2", "--set", "training.distilled.epochs=2"),
)
"""Settings of a run that takes about a second."""

MEAN_MATCHER = """
    from ltdd_core import ClassMatcher, hookimpl

    class MeanMatcher(ClassMatcher):
        \"\"\"Match the mean feature of each class.\"\"\"
        def class_loss(self, network, real, synthetic):
            return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()

    @hookimpl
    def ltdd_register_matchers(register):
        register("mean", MeanMatcher)
"""


@pytest.fixture(scope="session", autouse=True)
def usual_precision(tmp_path_factory):
    """A cache folder for the tests alone, by which this machine, and each command that they start, computes in fp32."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "ltdd").mkdir()
    (cache / "ltdd" / precision.FILE).write_text(json.dumps(FP32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


class Noting(Display):
    """Notes what is trained, and from which epoch on."""

    def __init__(self, trained, begun=None):
        self.trained, self.begun = trained, begun

    def training(self, what):
        self.trained.append(what)

    @contextmanager
    def work(self, what, total, unit, done=0, of="", networks=1):
        if self.begun is not None:
            self.begun.append((done, total, unit))
        yield nobody


class Site:
    """A folder on the path with packages that strangers installed: a module, its metadata, its entry points."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def install(self, name, source, *, entry=None, distribution=None, requires=()):
        distribution = distribution or f"stranger-{name}"
        module = f"stranger_{name.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
        if entry is False:
            return module
        info = self.folder / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(exist_ok=True)
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n{needs}")
        (info / "entry_points.txt").write_text(f"[ltdd]\n{entry or name} = {module}\n")
        importlib.invalidate_caches()
        return module


@pytest.fixture
def site(tmp_path, monkeypatch):
    found = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(found.folder))
    yield found
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(found.folder)):
            del sys.modules[name]


@pytest.fixture
def ltdd(tmp_path, monkeypatch):
    """The command line, in a folder of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="ltdd")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Path:
    """The folder of a finished tiny run, to be read and not to be written."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    command = ["distill", "--method", "dm", "--plugin", "twostage", *TINY, "--out", str(folder)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def finished(finished_once, tmp_path_factory) -> Path:
    """A copy of a finished tiny run: what a test trains on it, no other test finds there."""
    return shutil.copytree(finished_once, tmp_path_factory.mktemp("finished") / "run")


class _Double(PerChannel):
    """Normalised images in float64."""

    def apply(self, images):
        return super().apply(images).double()


@pytest.fixture
def double():
    """Everything in float64, so that equal equations give equal numbers; images are those of :func:`tiny_data`."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny_data():
    """The tiny set of 12, 5, 2 and 1 images, which networks see in torch's default dtype."""
    data = tiny_long_tailed()
    if torch.get_default_dtype() == torch.float32:
        return data
    return replace(data, normalisation=_Double(data.normalisation.mean, data.normalisation.std))


def unclocked(document):
    """A JSON document without the seconds in it, which differ from one time to the next."""
    if isinstance(document, list):
        return [unclocked(part) for part in document]
    if isinstance(document, dict):
        timed = ("seconds", "training_seconds")
        return {key: unclocked(value) for key, value in document.items() if key not in timed}
    return document


def matcher_of(config, data=None):
    """The matcher of a configuration, ready for step 0; on a long-tailed set that is loaded already, if it is given."""
    from ltdd_core.distillation.task import task_of
    from ltdd_core.setup import Setup

    with Setup.open(config, data=data) as setup:
        matcher = config.matcher.make()
        matcher.prepare(task_of(setup))
    return matcher


def one_line_error(result) -> str:
    """The one line that a wrong input gets, once it is sure that there is no other, and exit code 2."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()
