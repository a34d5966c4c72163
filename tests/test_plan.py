"""The plan of a run: its counts are those of literal sums and of real steps, and it needs neither files nor memory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MEAN_MATCHER, TINY, matcher_of, one_line_error

from ltdd_core import SourceSizes, configure, make_network, ranks
from ltdd_core.commands import open_setup
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.longtail import exponential_counts
from ltdd_core.data.vision import Cifar10
from ltdd_core.distillation import batch_matcher, task
from ltdd_core.errors import InputError
from ltdd_core.networks.store import NetworkStore
from ltdd_core.planning import dry, expected, method, rates
from ltdd_core.planning.counting import Counting, Work, hollow, is_hollow
from ltdd_core.planning.dry import hollow_set, only, spread
from ltdd_core.planning.parts import counted
from ltdd_core.planning.plan import plan, side_by_side
from ltdd_core.planning.sizes import DataSizes, counts_in, sizes_of, sizes_told
from ltdd_core.plugging.catalog import installed

WIDTH, SIDE, CLASSES, IPC = 8, 8, 10, 3
DATA = {"name": "digits-lt", "n_max": 40, "imbalance": 40}
TABLE = ("--json", "--on", "h100")


def small(method="dm", **settings):
    """A configuration of digits with a small network, to be counted on the CPU."""
    tree = {
        "method": method,
        "ipc": IPC,
        "data": DATA,
        "iterations": 4,
        "network": {"name": "convnet-d3", "width": WIDTH, "depth": 2},
        "training": {"original": {"epochs": 5, "batch": 16}, "distilled": {"epochs": 7}},
        "compute": {"device": "cpu", "precision": "fp32", "compile": False, "chunk": 32, "threads": 1},
    }
    return configure(**{**tree, **settings})


def of(config):
    """What a dry run of a configuration counts."""
    sizes = sizes_of(config.data)
    data = hollow_set(sizes.title, sizes.counts, sizes.image_shape, sizes.tests, sizes.class_names)
    return counted(config, data, installed())


FIRST, SECOND = SIDE**2 * WIDTH * 9, (SIDE // 2) ** 2 * WIDTH * WIDTH * 9
FEATURES = WIDTH * (SIDE // 4) ** 2
FORWARD, LAST = FIRST + SECOND, FEATURES * CLASSES
"""Multiply-adds of the two convolutions of 3 x 3 for an image of one channel, and of the last layer."""


def test_a_training_costs_what_literal_sums_say():
    config = small(augment="none")
    images, tests = sum(sizes_of(config.data).counts), sizes_of(config.data).tests
    original, distilled = of(config).lines
    of_an_image = 3 * (FORWARD + LAST) - FIRST  # nothing asks for the gradient of the images
    applied = tests * (FORWARD + LAST)
    assert original.work.multiply_adds == pytest.approx(5 * images * of_an_image + applied, rel=1e-12)
    assert distilled.work.multiply_adds == pytest.approx(7 * CLASSES * IPC * of_an_image + applied, rel=1e-12)


def test_a_step_of_dm_costs_what_literal_sums_say():
    config = small(augment="none", matcher={"batch_real": 16})
    real = sum(min(count, 16) for count in sizes_of(config.data).counts)
    synthetic = CLASSES * IPC
    step = real * FORWARD + 2 * synthetic * FORWARD  # the means of the classes are sums
    (method,) = of(config).method
    assert method.work.multiply_adds == 4 * step
    assert method.work.bf16 == 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dm", {}),
        ("dc", {"outer_loop": 2, "inner_loop": 2}),
        ("mtt", {"syn_steps": 2, "experts": {"count": 1, "epochs": 3}}),
        ("sre2l", {}),
    ],
)
def test_a_step_costs_what_the_real_one_does(method, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small(method, matcher=options)
    matcher = matcher_of(config, load_long_tailed("digits-lt", config.data.make()))
    with Counting() as counting:
        matcher.step(0)
    assert counting.work.so_far().multiply_adds == pytest.approx(_step(config).multiply_adds, rel=1e-12)


def _step(config):
    """What one step more adds."""
    one, two = (of(replace(config, run=config.run.model_copy(update={"iterations": n}))).method[0] for n in (1, 2))
    return two.work - one.work


def test_a_method_of_a_stranger_is_counted_without_a_line_about_it(ltdd, site):
    site.install("mean_plugin", MEAN_MATCHER)
    found = json.loads(ltdd("plan", "--method", "mean", *TINY, *TABLE).stdout)
    method = next(part for part in found["parts"] if part["name"] == "mean, 3 steps")
    assert method["multiply_adds"] > 0
    assert found["multiply_adds"] == sum(part["multiply_adds"] for part in found["parts"])


def test_hollow_tensors_stay_hollow_and_what_has_values_is_computed():
    with Counting() as counting:
        images = hollow(1000, 3, 64, 64).clone().requires_grad_(True)
        order = torch.arange(6).flip(0)
        total = (images[order].relu() * 2).sum()
        total.backward()
        images.data.add_(images.grad)
    assert is_hollow(images.grad)
    assert is_hollow(images)
    assert order.tolist() == [5, 4, 3, 2, 1, 0]
    assert counting.peak >= 2 * images.numel() * 4
    assert bool(images.isfinite().all())


def test_memory_is_forgotten_with_its_tensor():
    with Counting() as counting:
        first = hollow(2**20).clone()
        assert counting.live == 4 * 2**20
        del first
        assert counting.live == 0
        assert counting.peak == 4 * 2**20


def test_a_large_set_is_planned_without_its_memory_and_more_classes_lie_on_a_straight_line(monkeypatch):
    config = small(matcher={"batch_real": 8})
    data = hollow_set("large", [50_000] * 96, (1, 8, 8), 1000)
    line = counted(config, data, installed())
    monkeypatch.setattr(method, "COUNTED_CLASSES", 96)
    whole = counted(config, data, installed())
    for name in ("fp32", "moved", "calls"):
        found, wanted = (getattr(counts.method[0].work, name) for counts in (line, whole))
        assert found == pytest.approx(wanted, rel=0.06)  # class means cost the square of the classes
    assert whole.method[0].work.moved < 10**9  # of a set of 300 MB no more is read than is drawn
    assert line.remarks
    assert not whole.remarks
    assert [part.work for part in line.lines] == [part.work for part in whole.lines]


def test_experts_and_teachers_are_parts_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    experts = {"count": 3, "epochs": 4, "batch": 16}
    (found,) = of(small("mtt", matcher={"syn_steps": 2, "experts": experts})).beforehand
    network = make_network("convnet-d3", (1, SIDE, SIDE), CLASSES, width=WIDTH, depth=2)
    numbers = sum(value.numel() for value in network.parameters())
    images = sum(sizes_of(small().data).counts)
    assert found.name == "3 x experts"
    assert found.own == found.work
    assert found.disk == 3 * 5 * 4 * numbers  # the rows of epochs 0 to 4
    assert found.work.multiply_adds == pytest.approx(3 * 4 * images * (3 * (FORWARD + LAST) - FIRST), rel=1e-12)
    teacher = of(small("coreset", labeller={"name": "teacher"})).beforehand
    assert [part.name for part in teacher] == ["balanced softmax on the original set"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_leaves_random_numbers_and_stores_alone(tmp_path):
    config = small()
    with open_setup(config) as setup:
        before = torch.get_rng_state()
        of(config)
        assert torch.equal(before, torch.get_rng_state())
        assert setup.store.folder is None
    assert NetworkStore(tmp_path).folder == tmp_path


def test_the_largest_class_is_among_those_that_are_counted():
    data = hollow_set("long", [5, 900, 30, 7, 6, 4, 3, 2], (1, 8, 8), 8)
    kept = spread(data.counts, 4)
    assert 1 in kept
    assert len(kept) == 4
    assert only(data, kept).counts == tuple(data.counts[label] for label in kept)
    assert spread(data.counts, 8) == list(range(8))


# ---- groups of classes ---------------------------------------------------------------------------


MANY = hollow_set("many", [90 - place for place in range(40)], (3, 64, 64), 40)
ROOM = 12
"""Classes of these that are matched together."""


def with_groups(name, monkeypatch, **options):
    """A configuration that goes through groups of so many classes."""
    monkeypatch.setattr(batch_matcher, "SYNTHETIC_PIXELS", ROOM * IPC * 64 * 64)
    wide = {"name": "convnet-d3", "width": 32, "depth": 2}
    config = small(name, matcher={"batch_real": 4, **options}, network=wide)
    return replace(config, compute=config.compute.model_copy(update={"chunk": ROOM * IPC}))


@pytest.mark.parametrize(("name", "options"), [("dm", {}), ("dance", {"factor": 1, "teacher": {"count": 1}})])
def test_memory_is_that_of_the_largest_group_and_of_the_images_of_all_classes(name, options, monkeypatch):
    config, classes = with_groups(name, monkeypatch, **options), MANY.classes
    monkeypatch.setattr(method, "COUNTED_CLASSES", classes)
    whole = counted(config, MANY, installed(), [])
    monkeypatch.setattr(method, "COUNTED_CLASSES", 10)  # fewer than a group, so their line leads to all in one group
    lines = counted(config, MANY, installed(), [])
    assert lines.method[0].peak == pytest.approx(whole.method[0].peak, rel=0.15)
    assert any(f"matches up to {ROOM} of {classes} classes together" in remark for remark in lines.remarks)


def test_gpus_share_the_groups_and_each_holds_all_images(monkeypatch):
    config = with_groups("dm", monkeypatch)
    one, few, most = (counted(config, MANY, installed(), [], gpus=gpus).method[0].peak for gpus in (1, 2, 40))
    images = 4 * MANY.classes * IPC * 3 * 64 * 64
    assert one == pytest.approx(few, rel=0.01)  # groups are as large on two
    assert one > 2 * most
    assert most > 3 * images  # with their gradient and its momentum


NARROW = {"name": "convnet-d3", "width": 8, "depth": 2, "norm": "batch"}
TEACHER = {"network": NARROW}


def test_what_a_teacher_takes_does_not_grow_with_the_classes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    training = {"original": {"batch": 512, "epochs": 1}}
    config = small("rded", matcher={"teacher": TEACHER, "crops": {"candidates": 2}}, network=NARROW, training=training)
    data = hollow_set("many", [60] * 40, (1, 64, 64), 40)
    monkeypatch.setattr(method, "COUNTED_CLASSES", 8)
    found = counted(config, data, installed(), [])
    (teacher,), (chosen,) = found.beforehand, found.method
    assert teacher.peak > 100 * 10**6
    assert chosen.peak < teacher.peak / 4


@pytest.mark.parametrize(("name", "chunk"), [("sre2l", 8), ("sre2l", 64), ("rded", 64)])
def test_memory_follows_the_images_that_go_through_a_network_at_once(name, chunk, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry, "SYNTHETIC_PIXELS", 64 * 64 * 64)
    monkeypatch.setattr(task, "SYNTHETIC_PIXELS", 64 * 64 * 64)
    config = small(name, ipc=6, matcher={"teacher": TEACHER}, network=NARROW)
    config = replace(config, compute=config.compute.model_copy(update={"chunk": chunk}))
    data = hollow_set("many", [20] * 40, (1, 64, 64), 40)
    monkeypatch.setattr(method, "COUNTED_CLASSES", 40)
    whole = counted(config, data, installed(), []).method[0].peak
    monkeypatch.setattr(method, "COUNTED_CLASSES", 12)  # which have fewer images than go through a network at once
    assert counted(config, data, installed(), []).method[0].peak == pytest.approx(whole, rel=0.1)


def test_images_that_are_mapped_from_the_cache_take_no_memory():
    held, mapped = (replace(sizes_of(small().data), decoding=seconds) for seconds in (0.0, 0.001))
    one, other = (plan(small(), sizes, on="h100", lines=[]) for sizes in (held, mapped))
    images = (held.images + held.tests) * SIDE**2
    assert one.host_memory - other.host_memory == images == other.disk - one.disk


@pytest.mark.parametrize("name", ["idm", "lad"])
def test_a_method_that_puts_counts_beside_logits_is_counted_on_some_classes(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = {"syn_steps": 2, "experts": {"count": 1, "epochs": 3}} if name == "lad" else {}
    config = small(name, matcher=options)
    data = hollow_set("equal", [20] * 10, (1, SIDE, SIDE), 60)
    whole = counted(config, data, installed())
    monkeypatch.setattr(method, "COUNTED_CLASSES", 6)
    some = counted(config, data, installed())
    assert [part.name for part in some.beforehand] == [part.name for part in whole.beforehand]
    pairs = zip([*some.beforehand, *some.method], [*whole.beforehand, *whole.method], strict=True)
    for found, wanted in pairs:
        assert found.work.multiply_adds == pytest.approx(wanted.work.multiply_adds, rel=0.1)


# ---- sizes of data -------------------------------------------------------------------------------


def test_published_sizes_are_cut_without_files():
    config = configure(method="dm", data={"name": "cifar10-lt", "root": "/nowhere"})
    sizes = sizes_of(config.data)
    assert sum(sizes.counts) == 12406
    assert (sizes.counts[0], sizes.counts[-1]) == (5000, 50)
    assert (sizes.image_shape, sizes.tests) == ((3, 32, 32), 10000)
    assert Cifar10.published == SourceSizes((5000,) * 10, (3, 32, 32), 10000)


def test_sizes_of_files_are_those_of_the_set():
    config = small()
    data = load_long_tailed("digits-lt", config.data.make())
    sizes = sizes_of(config.data)
    assert (sizes.counts, sizes.image_shape, sizes.tests) == (data.counts, data.image_shape, len(data.test_labels))


def test_told_sizes_fall_as_the_options_say(tmp_path):
    data = configure(method="dm", data={"name": "folder", "imbalance": 256, "image_size": 64}).data
    sizes = sizes_told(data, classes=1000, images=115846)
    assert sizes.image_shape == (3, 64, 64)
    assert sizes.tests == 50_000
    assert sum(sizes.counts) == 115846
    wanted = exponential_counts(1000, sizes.counts[0] + 1, 256)
    assert {most - count for most, count in zip(wanted, sizes.counts, strict=True)} == {0, 1}
    file = tmp_path / "counts.txt"
    file.write_text("7, 3\n1\n")
    assert sizes_told(data, counts=counts_in(file), tests=9) == DataSizes(
        "11 images of 3 classes", (7, 3, 1), (3, 64, 64), 9
    )
    natural = configure(method="dm", data={"name": "folder", "imbalance": "natural"}).data
    assert sizes_told(natural, classes=3, images=11).counts == (4, 4, 3)


@pytest.mark.parametrize(
    "words",
    [
        ("--method", "dm", "--on", "h9"),
        ("--method", "dm", "--classes", "5"),
        ("--method", "dm", "--classes", "5", "--images", "3"),
        ("--method", "dm", "--counts", "missing.txt"),
        ("--method", "dm", "--counts", "words.txt"),
        ("--method", "dm", "--counts", "words.txt", "--classes", "3"),
        ("--method", "dm", "--gpus", "0"),
        ("--method", "dx"),
        (),
        ("missing.yaml",),
        ("run.yaml", "--config", "run.yaml"),
    ],
)
def test_wrong_input_is_refused_in_a_line(ltdd, words):
    Path("words.txt").write_text("five\n")
    Path("run.yaml").write_text("method: dm\n")
    assert one_line_error(ltdd("plan", *words))


# ---- time ----------------------------------------------------------------------------------------


def test_a_card_is_taken_at_shares_of_its_data_sheet():
    found = rates.rates_of_card("H100")
    assert found.bf16 == pytest.approx(0.4 * 989e12 / 2)
    assert found.seconds(Work(bf16=found.bf16, moved=found.bandwidth, calls=1 / found.call)) == pytest.approx(3)
    assert rates.rates_of_card("rtx 4090").memory == 24 * 10**9
    with pytest.raises(InputError, match="h100"):
        rates.rates_of_card("h10")


def test_this_machine_is_measured_once(monkeypatch):
    compute = small().compute
    first = rates.rates_here(compute, torch.device("cpu"))
    assert min(first.fp32, first.bandwidth, first.call, first.small, first.factor) > 0
    monkeypatch.setattr(rates, "_measured", None)
    assert rates.rates_here(compute, torch.device("cpu")) == first


@pytest.mark.parametrize(
    ("norm", "shares"),
    [("instance", [0.3, 0.25, 0.25]), ("batch", [0.3, 1, 1])],  # 3 of 10 classes; 4 of a batch's 16 images, or all
)
def test_several_gpus_share_what_a_run_shares(norm, shares, monkeypatch):
    monkeypatch.setattr(ranks, "LEAST_SHARED", 4)
    config = small(
        network={"name": "convnet-d3", "width": WIDTH, "depth": 2, "norm": norm},
        training={"original": {"epochs": 50, "batch": 16}, "distilled": {"epochs": 500, "batch": 16}},
    )
    config = replace(config, compute=config.compute.model_copy(update={"chunk": 4}))
    sizes = sizes_of(config.data)
    data = hollow_set(sizes.title, sizes.counts, sizes.image_shape, sizes.tests, sizes.class_names)
    found = counted(config, data, installed(), gpus=4)
    parts = [*found.method, *found.lines]
    own = [part.own.multiply_adds / part.work.multiply_adds for part in parts]
    assert own == pytest.approx(shares, rel=0.05)
    one, four = (plan(config, sizes, on="a100", gpus=gpus) for gpus in (1, 4))
    assert four.multiply_adds == one.multiply_adds
    assert four.seconds == pytest.approx(sum(part.seconds for part in four.parts))
    assert side_by_side([3.0, 2.0, 2.0], 2) == 4.0


def test_each_gpu_trains_other_teachers_and_recovers_some_of_a_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small("sre2l", matcher={"teacher": {**TEACHER, "count": 3}}, network=NARROW, ipc=8)
    data = hollow_set("equal", [20] * 4, (1, SIDE, SIDE), 8)
    found = counted(config, data, installed(), [], gpus=2)
    teachers = [one.own.multiply_adds / one.work.multiply_adds for one in found.beforehand]
    assert teachers == [1, 0, 1, 1, 1, 1]  # and the statistics of all of them
    recovery = found.method[0]
    share = recovery.own.multiply_adds / recovery.work.multiply_adds
    assert 0.5 * 3 / 2 <= share < 0.85  # half of the images go there, back and there once more; each GPU labels all


def test_a_long_run_says_what_is_planned_and_a_short_one_does_not(ltdd, monkeypatch):
    monkeypatch.setattr(expected, "MAY_BE_LONG", {"cpu": 0.0, "cuda": 0.0})
    short = ltdd("distill", "--method", "dm", *TINY, "--out", "short")
    assert "is expected to take" not in short.stderr
    monkeypatch.setattr(expected, "LONG", 0.0)
    long = ltdd("distill", "--method", "dm", *TINY, "--out", "long")
    assert "this run is expected to take about" in " ".join(long.stderr.split())
    assert "--preset" not in long.stderr


def test_a_long_run_says_which_preset_makes_it_shorter(ltdd, monkeypatch):
    monkeypatch.setattr(expected, "MAY_BE_LONG", {"cpu": 0.0, "cuda": 0.0})
    monkeypatch.setattr(expected, "LONG", 0.0)
    command = ("distill", "--method", "dance", *TINY, "--set", "teacher.count=1", "--set", "teacher.epochs=1")
    assert "; --preset dance-quick takes less" in " ".join(ltdd(*command, "--out", "usual").stderr.split())
    assert "takes less" not in ltdd(*command, "--preset", "dance-quick", "--out", "quick").stderr


def test_a_plan_is_a_table_with_its_sum(ltdd):
    Path("run.yaml").write_text("method: dm\nplugins: [twostage]\n")
    result = ltdd("plan", "run.yaml", *TINY, "--on", "h100", "--gpus", "2")
    assert result.exit_code == 0, result.stderr
    for words in ("dm, 3 steps", "two-stage", "in all", "NVIDIA H100", "On 2 GPUs"):
        assert words in result.stdout
    assert [str(path) for path in Path().iterdir()] == ["run.yaml"]


def test_a_grid_is_the_sum_of_its_runs(ltdd):
    Path("grid.yaml").write_text(
        "common: {iterations: 3, ipc: 2, network: {width: 8, depth: 2},"
        " training: {original: {epochs: 2}, distilled: {epochs: 2}}}\n"
        "data: [digits-lt]\nmethods: [dm, coreset]\nseeds: [0, 1]\nplugins: [none, twostage]\n"
    )
    found = json.loads(ltdd("plan", "grid.yaml", *TABLE).stdout)
    assert [runs["runs"] for runs in found["runs"]] == [2, 2]
    by_dm, by_coreset = ([part["name"] for part in runs["plan"]["parts"]] for runs in found["runs"])
    assert "original, direct" in by_dm
    assert "original, direct" not in by_coreset  # the run before has trained it
    assert any("two-stage" in name for name in by_coreset)
    assert found["seconds"] == pytest.approx(sum(runs["runs"] * runs["plan"]["seconds"] for runs in found["runs"]))
    shown = ltdd("plan", "grid.yaml", "--on", "h100", "--gpus", "2")
    assert "side by side on 2 GPUs" in shown.stdout
    assert one_line_error(ltdd("plan", "grid.yaml", "--classes", "3"))
