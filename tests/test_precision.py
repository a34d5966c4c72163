"""Which precision a run takes, and whether its networks are compiled, where nobody says it."""

import json
import warnings

import click
import pytest
import torch
import yaml
from conftest import TINY, Noting, one_line_error

from ltdd_core import ClassMatcher, compiled_function, configure, distill, make_network
from ltdd_core.cli.settings import compute_options, layers
from ltdd_core.config.layers import Layer
from ltdd_core.config.model import Compute
from ltdd_core.config.resolve import resolve
from ltdd_core.networks import compiled
from ltdd_core.networks.compiled import compiling_pays
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display
from ltdd_core.runs import precision
from ltdd_core.runs.precision import bf16_speed, in_one_precision
from ltdd_core.setup import Setup

CPU = torch.device("cpu")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Say how fast bf16 was measured to be on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def say(speed):
        folder = tmp_path / "cache" / "ltdd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / precision.FILE).write_text(json.dumps({precision.name_of(CPU): speed}))
        return folder / precision.FILE

    return say


@pytest.mark.parametrize(
    ("speed", "asked", "expected"),
    [(1.6, "auto", "bf16"), (1.0, "auto", "fp32"), (0.3, "auto", "fp32"), (0.3, "bf16", "bf16"), (1.6, "fp32", "fp32")],
)
def test_the_faster_precision_is_taken_unless_one_is_named(speed, asked, expected, measured):
    measured(speed)
    config = configure(method="dm", compute={"precision": asked, "device": "cpu"})
    assert in_one_precision(config).compute.precision == expected
    with Setup.open(config) as setup:
        assert setup.config.compute.precision == setup.trainer().precision == setup.networks.precision == expected


def test_a_machine_is_measured_once(measured, monkeypatch):
    file = measured(1.0)
    file.unlink()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    speed = bf16_speed(Compute(threads=1), CPU)
    assert 0.01 < speed < 100
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(precision, "_measured", lambda device: pytest.fail("measured again"))
    assert bf16_speed(Compute(), CPU) == speed
    assert json.loads(file.read_text())[precision.name_of(CPU)] == speed


@pytest.mark.parametrize("damage", ["no json", "[]", '{"other": 2}', '{"other": "x"}', "\udcff"])
def test_a_damaged_file_of_measurements_is_written_anew(damage, measured, monkeypatch):
    file = measured(1.0)
    file.write_bytes(damage.encode(errors="surrogateescape"))
    monkeypatch.setattr(precision, "_measured", lambda device: 1.257)
    assert bf16_speed(Compute(), CPU) == 1.26
    assert json.loads(file.read_text())[precision.name_of(CPU)] == 1.26


def test_a_machine_whose_measurement_cannot_be_kept_is_measured_each_time(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    speeds = iter([1.5, 0.5])
    monkeypatch.setattr(precision, "_measured", lambda device: next(speeds))
    assert [bf16_speed(Compute(), CPU) for _ in range(2)] == [1.5, 0.5]


def test_a_machine_that_cannot_compute_in_bf16_computes_in_fp32(measured, monkeypatch):
    file = measured(1.0)
    file.unlink()

    def refuses(device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(precision, "_measured", refuses)
    assert in_one_precision(configure(method="dm", compute={"device": "cpu"})).compute.precision == "fp32"
    assert not file.exists()  # there may be room the next time


def test_a_run_goes_on_in_the_precision_that_it_began_with(ltdd, measured, tmp_path):
    measured(2.0)
    begun = ltdd("distill", "--method", "dm", "--out", "run", *TINY)
    assert begun.exit_code == 0, begun.output
    assert "; networks in bf16" in begun.stderr
    stored = yaml.safe_load((tmp_path / "here" / "run" / "config.yaml").read_text())
    assert stored["compute"]["precision"] == "bf16"
    measured(1.0)
    longer = ltdd("distill", "--method", "dm", "--out", "run", *TINY, "--iterations", "4", "--resume")
    assert (longer.exit_code, "; networks in bf16" in longer.stderr) == (0, True)
    refused = one_line_error(
        ltdd("distill", "--method", "dm", "--out", "run", *TINY, "--precision", "fp32", "--resume")
    )
    assert "compute.precision was 'bf16' and is now 'fp32'" in refused
    kept = ltdd("evaluate", "run", "--out", "scores")
    assert kept.exit_code == 0, kept.output
    assert yaml.safe_load((tmp_path / "here" / "scores" / "config.yaml").read_text())["compute"]["precision"] == "bf16"


@pytest.mark.parametrize("said", [True, False])
def test_a_run_goes_on_compiled_or_not_as_it_was_asked_to(said, tmp_path):
    config = configure(method="dm", compute={"precision": "fp32", "compile": said})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_tree()))
    later = in_one_precision(configure(method="dm"), tmp_path).compute
    assert (later.precision, later.compile) == ("fp32", said)
    asked = in_one_precision(configure(method="dm", compute={"precision": "bf16", "compile": not said}), tmp_path)
    assert (asked.compute.precision, asked.compute.compile) == ("bf16", not said)  # which a resume refuses


@pytest.mark.parametrize("command", [("distill", "--method", "dm"), ("train",)])
def test_tf32_is_refused_on_a_cpu(command, ltdd):
    refused = one_line_error(ltdd(*command, "--device", "cpu", "--precision", "tf32"))
    assert "--precision tf32 is for NVIDIA GPUs, and this run computes on the CPU; use --precision fp32" in refused


def test_a_plan_in_tf32_is_made_as_in_fp32(ltdd):
    result = ltdd("plan", *TINY, "--method", "dm", "--on", "h100", "--precision", "tf32", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["precision"] == "fp32"


def test_a_run_of_one_precision_is_not_measured(ltdd, monkeypatch):
    monkeypatch.setattr(precision, "bf16_speed", lambda *given: pytest.fail("measured"))
    assert ltdd("distill", "--method", "dm", *TINY, "--precision", "fp32").exit_code == 0


# ---- compiled networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compiling", "multiply_adds", "pays"),
    [("auto", 6e12, True), ("auto", 5.9e12, False), (True, 1, True), (False, 1e20, False)],
)
def test_compiling_pays_in_long_work(compiling, multiply_adds, pays):
    assert compiling_pays(compiling, lambda: multiply_adds, CPU) is pays


def test_work_is_not_counted_where_it_decides_nothing():
    assert not compiling_pays(False, lambda: pytest.fail("counted"), CPU)


class Counting(ClassMatcher):
    """Counts the images that it is given."""

    seen = 0

    def class_loss(self, network, real, synthetic):
        """The mean of the features; an image counts each time that it is given."""
        self.seen += len(real) + len(synthetic)
        return network.embed(synthetic).mean()


def test_the_images_of_a_step_are_those_that_a_class_matcher_is_given():
    config = configure(method="dm", ipc=2, network={"name": "mlp"}, matcher={"batch_real": 7})
    with Setup.open(config) as setup:
        from ltdd_core.distillation.task import task_of

        matcher = Counting(config.matcher.options)
        matcher.prepare(task_of(setup))
        matcher.step(0)
        assert matcher.seen == matcher.images_per_step(setup.data.counts, setup.ipc_of_class)


def test_long_work_is_compiled_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(compiled.PAYS_FROM, "cpu", 5e6)  # between what the two sets take
    made, known = [], compiled_function
    monkeypatch.setattr(compiled, "compiled_function", lambda function: made.append(function) or known(function))
    trained = []
    config = configure(
        method="dm",
        ipc=1,
        iterations=1,
        network={"name": "mlp", "width": 16},
        training={"original": {"epochs": 100}, "distilled": {"epochs": 1}},
    )
    distill(config, tmp_path / "run", display=Noting(trained))
    assert trained == ["classes on the original set, compiled", "classes on the distilled set"]
    assert {function.__self__.__class__.__name__ for function in made} == {"MLP"}


@pytest.mark.parametrize(("at_first", "later"), [(1e20, 0), (0, 1e20)])
def test_steps_go_on_compiled_or_not_as_the_run_began(at_first, later, monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "compiled_function", lambda function: function)
    kind = {"method": "dm", "ipc": 1, "network": {"name": "mlp", "width": 16}, "training": {"distilled": {"epochs": 1}}}
    for pays_from, steps in ((at_first, 1), (later, 2)):
        monkeypatch.setitem(compiled.PAYS_FROM, "cpu", pays_from)
        distill(configure(**kind, iterations=steps), tmp_path, resume=True, display=Display(), lines=[])
    noted = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [each["compiled"] for each in noted] == [at_first == 0] * 2


def test_the_reference_never_finds_a_network_that_was_compiled():
    def key(compiling, epochs=2):
        training = {"original": {"epochs": epochs, "schedule": "constant", "momentum": 0}}
        with Setup.open(configure(method="dm", compute={"compile": compiling}, training=training)) as setup:
            (job,) = setup.trainer().plan(lambda trainer: trainer.train(setup.original, outputs=setup.data.classes))
        return {name: value for name, value in job.key.items() if name != "epochs"}

    assert [key(True) == key(False), key("auto") == key(False), key("auto") == key(True)] == [False] * 3
    assert key("auto") == key("auto", epochs=10**6)  # which extends the shorter one


def test_nothing_is_compiled_without_a_compiler_unless_it_is_asked_for(monkeypatch, ltdd):
    monkeypatch.setattr("ltdd_core.runs.devices.shutil.which", lambda name: None)
    monkeypatch.setitem(compiled.PAYS_FROM, "cpu", 0)
    with Setup.open(configure(method="dm")) as setup:
        assert (setup.compiling, setup.matches_compiled) == (False, False)
    assert "--compile needs a compiler" in one_line_error(ltdd("distill", "--method", "dm", *TINY, "--compile"))


@pytest.mark.parametrize(
    ("flag", "expected"),
    [((), "auto"), (("--compile",), True), (("--no-compile",), False), (("--precision", "bf16"), "auto")],
)
def test_compile_is_said_both_ways(flag, expected):
    @click.command()
    @compute_options
    def command(config_file, preset, assignments, **given):
        found.append(resolve(installed(), [Layer("here", {"method": "dm"}), *layers(config_file, assignments, given)]))

    found = []
    command.main(flag, standalone_mode=False)
    assert found[0].compute.compile == expected


def test_a_compiler_that_does_not_work_costs_no_run(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    network = make_network("convnet-d3", (1, 8, 8), 3, width=5).eval()
    images = torch.zeros(2, 1, 8, 8)
    embed = compiled_function(network.embed)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing compiled yet"))
    with inductor.patch({"cpp.cxx": (None, str(tmp_path / "missing"))}):
        with pytest.warns(UserWarning, match="torch cannot compile the network, which runs as it is: .*compiler"):
            features = embed(images)
        torch.testing.assert_close(features, network.embed(images), rtol=0, atol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            embed(images)  # said once
