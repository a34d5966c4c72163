"""Images per class: one number or one per class, real images that are kept, and tiles of several real images."""

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, one_line_error
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from ltdd_core import (
    BatchMatcher,
    ClassMatcher,
    DistilledSet,
    InputError,
    Matcher,
    PerChannel,
    SoftLabels,
    Synthetic,
    class_means,
    configure,
    export,
    generator,
    load_distilled,
    save_distilled,
    tiled,
    untiled,
)
from ltdd_core.bench.grid import read_grid
from ltdd_core.config.ipc import ipc_of_classes, shares
from ltdd_core.config.layers import Layer
from ltdd_core.config.model import RunOptions
from ltdd_core.config.resolve import resolve
from ltdd_core.data.longtail import shot_groups
from ltdd_core.distillation import batch_matcher
from ltdd_core.distillation.kept import count_kept, put_back
from ltdd_core.distillation.task import task_of
from ltdd_core.evaluation.quality import random_images
from ltdd_core.plugging.catalog import installed
from ltdd_core.setup import Setup
from ltdd_core.storage import load_tensors, save_tensors
from ltdd_core.testing import ContractError, PlainSampler, check_matcher, tiny_long_tailed, tiny_task

CATALOG = installed()
COUNTS = st.lists(st.integers(1, 300), min_size=2, max_size=100)
QUICK = settings(max_examples=40, deadline=None)


def names_of(counts):
    return [f"class {label}" for label in range(len(counts))]


def numbers_of(ipc, counts):
    return ipc_of_classes(RunOptions(ipc=ipc).ipc, names_of(counts), counts)


# ---- the numbers ---------------------------------------------------------------------------------


@QUICK
@given(COUNTS, st.integers(0, 2000), st.sampled_from(["equal", "sqrt", "proportional"]))
def test_a_budget_is_spent_to_the_last_image_and_each_class_gets_one(counts, more, rule):
    total = len(counts) + more
    numbers = numbers_of({"rule": rule, "total": total}, counts)
    assert sum(numbers) == total
    assert min(numbers) >= 1
    largest_first = sorted(zip(counts, numbers, strict=True), reverse=True)
    for (many, number), (few, other) in itertools.pairwise(largest_first):
        assert number >= other - (many == few or rule == "equal")
    if rule == "equal":
        assert max(numbers) - min(numbers) <= 1


@QUICK
@given(COUNTS, st.integers(1, 40))
def test_a_proportional_budget_is_that_of_the_largest_remainders(counts, times):
    """Where no class would get less than one: exact quotas, in fractions, as Hamilton divided them."""
    total = math.ceil(sum(counts) / min(counts)) * times
    quotas = [Fraction(total * count, sum(counts)) for count in counts]
    expected = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(counts)), key=lambda label: (math.floor(quotas[label]) - quotas[label], label))
    for label in order[: total - sum(expected)]:
        expected[label] += 1
    found = shares(total, counts)
    assert sum(found) == total
    assert all(abs(number - quota) < 1 for number, quota in zip(found, quotas, strict=True))
    distinct = len({quota % 1 for quota in quotas}) == len(quotas)  # ties, which a float may break otherwise
    assert not distinct or list(found) == expected


def test_what_would_get_less_than_an_image_gets_one_and_the_others_share_the_rest():
    assert numbers_of({"rule": "proportional", "total": 12}, [100, 50, 1, 1]) == (7, 3, 1, 1)
    assert numbers_of({"rule": "sqrt", "total": 9}, [100, 25, 1]) == (5, 3, 1)
    assert numbers_of({"rule": "proportional", "total": 3}, [100, 50, 1]) == (1, 1, 1)
    assert numbers_of({"total": 8}, [9, 1, 1]) == (3, 3, 2)


@QUICK
@given(
    COUNTS,
    st.dictionaries(st.sampled_from(["all", "many", "medium", "few"]), st.integers(1, 50)),
    st.dictionaries(st.integers(0, 1), st.integers(1, 50)),
)
def test_a_class_has_its_own_number_else_that_of_its_group_else_that_of_all(counts, groups, classes):
    own = {f"class {label}": number for label, number in classes.items()}
    numbers = numbers_of({**groups, "classes": own}, counts)
    for group, members in shot_groups(counts).items():
        for label in members:
            assert numbers[label] == classes.get(label, groups.get(group, groups.get("all", 10)))


def test_a_class_that_does_not_exist_and_a_budget_that_is_too_small_are_refused():
    with pytest.raises(InputError, match=r"^ipc\.classes: unknown class 'clas 1'\. Did you mean 'class 1'\?"):
        numbers_of({"classes": {"clas 1": 3}}, [3, 2])
    with pytest.raises(InputError, match=r"^ipc.total is 2, and each of the 3 classes gets .* at least 3\.$"):
        numbers_of({"total": 2}, [3, 2, 1])


# ---- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (5, {"few": 20}, {"all": 5, "few": 20}),
        ({"few": 20}, {"classes": {"a": 1}}, {"all": 10, "few": 20, "classes": {"a": 1}}),
        ({"classes": {"a": 1, "b": 2}}, {"classes": {"b": 3}}, {"all": 10, "classes": {"a": 1, "b": 3}}),
        ({"few": 20}, 7, 7),
        ({"few": 20}, {"total": 100}, {"rule": "equal", "total": 100}),
        ({"total": 100}, {"rule": "sqrt"}, {"rule": "sqrt", "total": 100}),
        ({"rule": "sqrt", "total": 100}, {"few": 2}, {"all": 10, "few": 2}),
        (5, {"rule": "sqrt", "total": 100}, {"rule": "sqrt", "total": 100}),
        (5, {"all": 6}, 6),
        ({"few": 10}, {"all": 3}, {"all": 3, "few": 10}),
    ],
)
def test_an_upper_layer_stands_over_a_lower_one(lower, upper, expected):
    config = resolve(CATALOG, [Layer("a", {"method": "dm", "ipc": lower}), Layer("b", {"ipc": upper})])
    assert config.to_tree()["ipc"] == expected
    again = resolve(CATALOG, [Layer("y", yaml.safe_load(yaml.safe_dump(config.to_tree())))])
    assert again == config


def test_what_is_wrong_is_answered_with_the_layer_that_wrote_it():
    lower, upper = Layer("low.yaml", {"method": "dm", "ipc": 5}), Layer("--set ipc.fw", {"ipc": {"fw": 2}})
    with pytest.raises(InputError, match=r"^--set ipc\.fw: unknown ipc option 'fw'\. Did you mean 'few'\?"):
        resolve(CATALOG, [lower, upper])


def test_tables_and_files_have_a_word_for_several_numbers(tmp_path):
    path = tmp_path / "grid.yaml"
    axis = [2, {"few": 5}, {"rule": "sqrt", "total": 40}, {"classes": {"3": 1, "4": 2}}]
    published = [{"line": "distilled, direct", "ipc": "2, few 5", "accuracy": 50.0, "source": "somewhere"}]
    common = {"ipc": 2, "data": {"name": "digits-lt"}}
    path.write_text(yaml.safe_dump({"common": common, "methods": ["dm"], "ipc": axis, "published": published}))
    grid = read_grid(path, CATALOG)
    assert [cell.ipc for cell in grid.cells] == [2, "2, few 5", "sqrt, 40 in all", "2, 3 1, 4 2"]
    assert len({cell.folder for cell in grid.cells}) == 4
    assert "IPC sqrt, 40 in all," in grid.cells[2].name
    assert grid.cells[2].folder.startswith("digits-lt-if50-dm-ipcsqrt-40-in-all-seed0-")
    assert [row.ipc for row in grid.rows if row.published] == ["2, few 5"]


def test_a_run_is_not_resumed_with_other_numbers(tmp_path, finished, ltdd):
    text = one_line_error(ltdd("distill", "--resume", "--out", finished, "--set", "ipc.few=3"))
    assert "ipc was 2 and is now {'all': 2, 'few': 3}" in text


# ---- distilled sets ------------------------------------------------------------------------------


def distilled_set(ipc):
    numbers = (ipc,) * 3 if isinstance(ipc, int) else ipc
    labels = torch.arange(3).repeat_interleave(torch.tensor(numbers))
    images = torch.randn(len(labels), 1, 4, 4)
    return DistilledSet(images, labels, ("a", "b", "c"), PerChannel((0.5,), (0.25,)), ipc)


@pytest.mark.parametrize("ipc", [2, (3, 1, 2)])
def test_the_numbers_of_a_set_survive_the_round_trip(ipc, tmp_path):
    path = tmp_path / "distilled.safetensors"
    save_distilled(path, distilled_set(ipc))
    found = load_distilled(path)
    assert found.ipc == ipc
    assert found.ipc_of_class == ((2, 2, 2) if ipc == 2 else ipc)
    facts = load_tensors(path)[1]
    assert facts["ipc"] == (2 if ipc == 2 else [3, 1, 2])
    assert "kept" not in facts  # an equal set is the file that it was


@pytest.mark.parametrize(
    ("ipc", "message"),
    [
        ([1, 2], r"ipc has 2 numbers for 3 classes\."),
        ([1, 0, 2], r"each item of ipc must be at least 1, not 0\."),
        ([1, "x", 2], r"each item of ipc must be a whole number, not 'x'\."),
        ([], r"ipc has 0 numbers for 3 classes\."),
        ({"few": 2}, r"ipc must be a whole number, not \{'few': 2\}\."),
    ],
)
def test_numbers_that_do_not_fit_the_classes_are_refused(ipc, message, tmp_path):
    path = tmp_path / "distilled.safetensors"
    save_distilled(path, distilled_set(2))
    tensors, facts = load_tensors(path)
    save_tensors(path, tensors, {**facts, "ipc": ipc})
    with pytest.raises(InputError, match=message):
        load_distilled(path)


def test_random_images_are_as_many_as_each_class_asks_for():
    data = tiny_long_tailed((12, 5, 2, 1))
    found = random_images(data, (4, 1, 3, 2), seed=0)
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 2, 2, 3]
    same = random_images(data, (3, 3, 3, 3), seed=0)
    assert torch.equal(found.images[:3], same.images[:3])  # the draw of a class is its own


# ---- initial images, kept images, tiles ----------------------------------------------------------

SMALL = {"network": {"width": 4, "depth": 1}, "compute": {"threads": 1}}


def task_on(counts, **settings):
    """The task of a run on a tiny long-tailed set of these counts."""
    config = resolve(CATALOG, [Layer("a", {"method": "dm", **SMALL, **settings})])
    with Setup.open(config, data=tiny_long_tailed(counts)) as setup:
        return task_of(setup)


def is_real(task, images):
    """Which images are real ones of their class, bit for bit."""
    data = task.data
    real = data.normalisation.apply(data.train_images)
    return [
        any(torch.equal(image, other) for other in real[data.train_labels == label])
        for image, label in zip(images, task.initial_labels, strict=True)
    ]


counts_and_ipc = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=2, max_size=8)


@settings(max_examples=15, deadline=None)
@given(counts_and_ipc, st.sampled_from(["real", "noise", "keep"]))
def test_initial_images_are_as_many_as_each_class_asks_for(pairs, init):
    counts, numbers = zip(*pairs, strict=True)
    task = task_on(counts, init=init, ipc={"classes": dict(zip(names_of(counts), numbers, strict=True))})
    expected = tuple(map(min, counts, numbers)) if init == "keep" else numbers
    assert task.ipc_of_class == expected
    assert torch.bincount(task.initial_labels).tolist() == list(expected)
    assert len(task.initial_images) == len(task.initial_real) == len(task.kept) == sum(expected)
    assert is_real(task, task.initial_images) == task.initial_real.tolist()
    kept = [init == "keep" and count <= number for count, number in pairs]
    assert task.kept.tolist() == [kept[label] for label in task.initial_labels]
    assert torch.equal(task.kept_images, task.initial_images[task.kept])
    before = task.initial_images.clone()
    task.initial_images.zero_()  # as a method moves them that has no copy
    task.forget_initial_images()
    assert torch.equal(task.kept_images, before[task.kept])
    assert torch.equal(task.initial_images, before)
    for label, count in enumerate(counts):
        own = task.initial_images[task.initial_labels == label]
        if init != "noise":
            real = task.initial_real[task.initial_labels == label]
            assert real.tolist() == [place < count for place in range(expected[label])]
        assert len({image.numpy().tobytes() for image in own}) == len(own)


@pytest.mark.parametrize(("classes", "largest"), [(2, 3), (100, 5)])
def test_two_classes_and_a_hundred(classes, largest):
    task = task_on([9, *[1] * (classes - 1)], ipc={"rule": "sqrt", "total": 2 * classes}, init="keep")
    assert task.ipc_of_class == (largest, *[1] * (classes - 1))
    assert task.kept.tolist() == [False] * largest + [True] * (classes - 1)


@pytest.mark.parametrize("init", ["real", "noise"])
def test_what_is_drawn_for_a_class_does_not_depend_on_the_others(init):
    one, other = task_on((12, 5, 2, 1), ipc=3, init=init), task_on((12, 5, 2, 1), ipc={"total": 12}, init=init)
    assert other.ipc == one.ipc == 3
    assert torch.equal(one.initial_images, other.initial_images)
    fewer = task_on((12, 5, 2, 1), ipc={"all": 3, "classes": {"class 1": 2}}, init=init)
    changed = one.initial_labels == 1
    assert torch.equal(fewer.initial_images[fewer.initial_labels != 1], one.initial_images[~changed])


def test_a_method_of_equal_numbers_is_told_of_different_ones():
    with pytest.raises(InputError, match="makes the same number of images of each class, and the run asks for 2 to 3"):
        _ = task_on((12, 5), ipc={"classes": {"class 1": 2}, "all": 3}).ipc


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 5)])
def test_tiles_are_different_real_images_of_their_class_shrunk(factor, shape):
    data = tiny_long_tailed((40, 3, 1), shape=shape)
    with Setup.open(configure(method="dm", ipc=2, **SMALL), data=data) as setup:
        task = task_of(setup)
    tiles = task.initial_tiles(factor)
    assert tiles.shape == task.initial_images.shape
    assert torch.equal(tiles, task.initial_tiles(factor))
    if factor == 1:
        torch.testing.assert_close(tiles, task.initial_images)
    real = data.normalisation.apply(data.train_images)
    seen = set()
    for image in tiles[:2]:  # a class that has enough
        for row in image.tensor_split(factor, 1):
            for tile in row.tensor_split(factor, 2):
                small = F.interpolate(real, tile.shape[1:], mode="bilinear", antialias=True)
                (nearest,) = (small - tile).flatten(1).abs().max(1).values.lt(1e-6).nonzero().flatten().tolist()
                assert data.train_labels[nearest] == 0
                seen.add(nearest)
    assert len(seen) == 2 * factor**2
    parts = [
        tile for image in tiles[4:] for row in image.tensor_split(factor, 1) for tile in row.tensor_split(factor, 2)
    ]
    assert len({part.numpy().tobytes() for part in parts}) == len(parts)  # repeats of one image are no copies


def test_tiles_of_noise_are_the_noise_and_too_many_do_not_fit():
    task = task_on((4, 2), ipc=1, init="noise")
    assert torch.equal(task.initial_tiles(2), task.initial_images)
    with pytest.raises(InputError, match="9 x 9 tiles do not fit into images of 8x8 pixels"):
        task.initial_tiles(9)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 5)])
def test_tiles_are_seen_at_full_size(factor, shape):
    images = torch.randn(4, *shape, generator=generator(0, "images"), dtype=torch.float64).requires_grad_(True)
    seen = untiled(images, factor)
    tiles = [tile for row in images.tensor_split(factor, 2) for tile in row.tensor_split(factor, 3)]
    whole = torch.stack([F.interpolate(tile, shape[1:], mode="bilinear") for tile in tiles], 1)
    torch.testing.assert_close(seen, whole, rtol=1e-6, atol=1e-6)
    (found,), (expected,) = (torch.autograd.grad(each.square().sum(), images) for each in (seen, whole))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    flat = torch.arange(4.0 * factor**2)[:, None, None, None].expand(-1, *shape)  # each tile of one colour
    assert torch.allclose(untiled(tiled(flat, factor), factor).flatten(0, 1), flat)


# ---- methods -------------------------------------------------------------------------------------


class Mean(ClassMatcher):
    def class_loss(self, network, real, synthetic):
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()


class AllMeans(BatchMatcher):
    def loss(self, network, real, synthetic):
        target = class_means(network.embed(real.images).detach(), real.counts)
        return (target - class_means(network.embed(synthetic.images), synthetic.counts)).square().sum()


class Own(Matcher):
    """A loop of its own that knows nothing of images that are kept."""

    def prepare(self, task):
        self.task, self.images = task, task.initial_images
        self.keep(images=self.images)

    def step(self, step):
        self.images += 1
        return {"loss": 0.0}

    def distilled(self):
        return Synthetic(self.images, self.task.initial_labels)


def moved(component, steps=2, options=None, **task):
    data = tiny_long_tailed()
    matcher = component(component.Options(**(options or {})))
    matcher.prepare(tiny_task(data, PlainSampler(data), ipc=(4, 1, 3, 2), **task))
    for step in range(steps):
        matcher.step(step)
    return matcher


SHORT_DSA = {"outer_loop": 2, "inner_loop": 1}
SHORT_MTT = {"syn_steps": 2, "expert_epochs": 1, "experts": {"count": 1, "epochs": 2}}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("component", "options"),
    [(Mean, {}), (CATALOG.get("matcher", "dm").load(), {}), (CATALOG.get("matcher", "dsa").load(), SHORT_DSA)],
)
def test_groups_of_classes_come_to_the_same_step(component, options, keep, monkeypatch):
    one = moved(component, options=options, keep_real=keep)
    room = 3 * one.task.data.image_shape[1] * one.task.data.image_shape[2]  # for three synthetic images of one network
    monkeypatch.setattr(batch_matcher, "SYNTHETIC_PIXELS", room)
    seen, drawn = [], component._drawn
    monkeypatch.setattr(component, "_drawn", lambda *args: seen.append(drawn(*args)) or seen[-1])
    several = moved(component, options=options, keep_real=keep)
    torch.testing.assert_close(several.images, one.images, rtol=1e-5, atol=1e-6)
    groups = [[4], [1, 2], [1]] if keep else [[4], [1], [3], [2]]  # images of the classes of each group
    assert [synthetic.counts.tolist() for _, synthetic in seen[: len(groups)]] == groups
    assert [real.labels.unique().tolist() for real, _ in seen[: len(groups)]][:2] == [[0], [1, 2] if keep else [1]]


def test_groups_end_where_the_real_images_have_no_more_room(monkeypatch):
    matcher = moved(Mean, steps=0)
    counts, image = matcher.task.data.counts, 4 * math.prod(matcher.task.data.image_shape)
    monkeypatch.setattr(batch_matcher, "REAL_BYTES", (counts[0] + counts[1]) * image)
    first, *rest = matcher.matched_together(counts, matcher.task.ipc_of_class)
    assert first == range(2)
    assert [label for group in (first, *rest) for label in group] == [0, 1, 2, 3]


def test_a_mean_for_each_of_a_thousand_classes_takes_no_table_of_classes_by_images():
    features, counts = torch.arange(6.0)[:, None].repeat(1, 2), torch.tensor([1, 3, 2])
    assert class_means(features, counts)[:, 1].tolist() == [0, 2, 4.5]
    many, ones = torch.randn(60_000, 1), torch.ones(60_000, dtype=torch.int64)
    assert torch.equal(class_means(many, ones), many)  # a table of 0 and 1 would be 29 GB


@pytest.mark.parametrize(
    ("component", "options"),
    [
        (Mean, {}),
        (AllMeans, {}),
        (CATALOG.get("matcher", "dsa").load(), SHORT_DSA),
        (CATALOG.get("matcher", "mtt").load(), SHORT_MTT),
    ],
)
def test_methods_move_all_images_but_those_that_are_kept(component, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # experts are kept in the folder runs
    matcher = moved(component, options=options, keep_real=True)
    task, images = matcher.task, matcher.distilled().images
    assert task.kept.tolist() == [False] * 5 + [True] * 3
    assert torch.equal(images[task.kept], task.initial_images[task.kept])
    assert (images != task.initial_images)[~task.kept].flatten(1).any(1).all()
    start, end = (moved(component, steps, options).distilled().images.clone() for steps in (0, 2))
    assert (start != end).flatten(1).any(1).all()


def test_a_method_with_a_loop_of_its_own_gets_the_kept_images_put_back():
    matcher = moved(Own, keep_real=True)
    task, made = matcher.task, matcher.distilled()
    assert count_kept(task, made) == 0
    found = put_back(task, made)
    assert count_kept(task, found) == int(task.kept.sum()) == 3
    assert torch.equal(found.images[~task.kept], made.images[~task.kept])
    check_matcher(Own)


class FirstNumber(Mean):
    """As many images of each class as of the first."""

    def prepare(self, task):
        super().prepare(task)
        self.first = task.ipc_of_class[0]

    def distilled(self):
        made = super().distilled()
        places = [(made.labels == label).nonzero().flatten() for label in range(4)]
        chosen = torch.cat([own[torch.arange(self.first) % len(own)] for own in places])
        return Synthetic(made.images[chosen], made.labels[chosen])


class OneNumber(Mean):
    def prepare(self, task):
        super().prepare(task)
        self.groups = self.images.detach().split(task.ipc)


class Split(Mean):
    """Takes the images for those of equal classes."""

    def distilled(self):
        made = super().distilled()
        per_class = -(-len(made.labels) // 4)
        return Synthetic(made.images, torch.arange(len(made.labels)) // per_class)


class Shuffled(Own):
    """In an order in which the core cannot put anything back."""

    def distilled(self):
        made = super().distilled()
        return Synthetic(made.images.flip(0), made.labels.flip(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (FirstNumber, r"each class has the number of images that task\.ipc_of_class says"),
        (OneNumber, r"it is prepared with different numbers of images per class.*makes the same number"),
        (Split, r"each class has"),
        (Shuffled, r"the real images that the run keeps are in the set, as they were"),
    ],
)
def test_a_matcher_that_ignores_the_numbers_or_what_is_kept_is_caught(wrong, message):
    with pytest.raises(ContractError, match=message):
        check_matcher(wrong)


# ---- whole commands ------------------------------------------------------------------------------

SHORT = [word for word in TINY if word not in ("--ipc", "2")]
NUMBERS = ("--ipc", 2, "--set", "ipc.few=6", "--set", "ipc.classes.0=1")


def test_a_run_has_the_numbers_that_it_is_asked_for_and_says_so(ltdd):
    done = ltdd("distill", "--method", "dm", "--plugin", "tensorboard", *SHORT, *NUMBERS, "--out", "run")
    assert done.exit_code == 0, done.output
    assert "distilled: 1 to 6 images a class (39 in all)\n" in done.stdout
    found = load_distilled("run")
    assert found.ipc == (1, 2, 2, 2, 2, 6, 6, 6, 6, 6)
    assert torch.bincount(found.labels).tolist() == list(found.ipc)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["ipc"] == {"all": 2, "few": 6, "classes": {"0": 1}}
    for command in (["evaluate", "run", "--quality"], ["report", "run"]):
        result = ltdd(*command)
        assert result.exit_code == 0, (command, result.output)
    assert "images a class: all 2, few 6, 0 1, seed 0" in ltdd("watch", "run").stdout
    assert "1 to 6 images a class (39 in all)" in Path("report-run.html").read_text()
    assert "this set has 1 to 6" in one_line_error(ltdd("export", "run", "--format", "ddranking"))
    export("run", "folder")
    assert len(list(Path("run/export-folder").glob("*/*.png"))) == 39


@pytest.mark.parametrize(("method", "words"), [("dm", []), ("own", ["--json"])])
def test_a_run_that_keeps_has_the_real_images_of_small_classes_and_says_how_many(method, words, ltdd, site):
    site.install("own", OWN)
    done = ltdd("distill", "--method", method, *SHORT, *NUMBERS, "--init", "keep", "--out", "run", *words)
    assert done.exit_code == 0, done.output
    if words:
        document = json.loads(done.stdout)
        assert (document["ipc"], document["kept"]) == ([1, 2, 2, 2, 2, 6, 6, 5, 3, 2], 10)
    else:
        assert "distilled: 1 to 6 images a class (31 in all); 10 of them real, kept unchanged\n" in done.stdout
        assert ltdd("report", "run").exit_code == 0
    found = load_distilled("run")
    assert found.ipc == (1, 2, 2, 2, 2, 6, 6, 5, 3, 2)
    assert found.kept == 10
    config = configure(method="dm")
    with Setup.open(config) as setup:
        data = setup.data
    for label in (7, 8, 9):
        real = data.normalisation.apply(data.train_images[data.train_labels == label])
        own = found.images[found.labels == label]
        assert {image.numpy().tobytes() for image in own} == {image.numpy().tobytes() for image in real}


OWN = """
    from ltdd_core import Matcher, Synthetic, hookimpl

    class Own(Matcher):
        def prepare(self, task):
            self.task, self.images = task, task.initial_images.clone()
            self.keep(images=self.images)

        def step(self, step):
            self.images.mul_(1.01)
            return {"loss": 0.0}

        def distilled(self):
            return Synthetic(self.images, self.task.initial_labels)

    class Decoding(Own):
        def decode(self, images):
            return images.flip(3)[:, None]

    @hookimpl
    def ltdd_register_matchers(register):
        register("own", Own)
        register("decoding", Decoding)
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "ipc.classes.x=3"], "ipc.classes: unknown class 'x'"),
        (["--set", "ipc.total=9"], "ipc.total is 9, and each of the 10 classes gets an image or more"),
        (["--set", "ipc.fw=9"], "--set ipc.fw: unknown ipc option 'fw'. Did you mean 'few'?"),
        (["--ipc", "sqrt"], "--ipc: ipc must be a whole number, not 'sqrt'."),
        (["--method", "decoding", "--init", "keep"], "method 'decoding' stores images that are decoded, so it cannot"),
    ],
)
def test_wrong_numbers_end_the_command_with_one_line_and_nothing_written(words, message, ltdd, site):
    site.install("own", OWN)
    method = [] if "--method" in words else ["--method", "dm"]
    assert message in one_line_error(ltdd("distill", *method, *words))
    assert not list(Path.cwd().iterdir())


def test_soft_labels_of_kept_images_are_those_of_the_method():
    matcher = moved(Own, keep_real=True)
    made = matcher.distilled()
    soft = SoftLabels(torch.full((len(made.labels), 4), 0.25))
    found = put_back(matcher.task, Synthetic(made.images, made.labels, soft))
    assert found.soft_labels is soft
