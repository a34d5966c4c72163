"""The network store: a network is kept under all that decides it, and trained once, by one process or by several."""

import copy
import functools
import gc
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TINY, Noting, one_line_error
from hypothesis import given, strategies as st

from ltdd_core import (
    Augmentation,
    CompiledNetwork,
    CosineLinear,
    InputError,
    Interrupted,
    SoftLabels,
    TrainingOptions,
    TrainingSet,
    cross_entropy,
)
from ltdd_core.api import configure_original, train_original
from ltdd_core.config.layers import Layer
from ltdd_core.identity import Unidentified, digest, identity
from ltdd_core.networks.job import Start
from ltdd_core.networks.network import Network
from ltdd_core.networks.store import NetworkStore, stored_networks
from ltdd_core.progress import Display
from ltdd_core.storage import digest_of, load_tensors, save_tensors
from ltdd_core.testing import PlainSampler, tiny_long_tailed, tiny_task, tiny_trainer

DATA = tiny_long_tailed()
SET = TrainingSet("original", DATA.train_images, DATA.train_labels, DATA.normalisation, DATA.classes)


def trainer(store=None, **changes):
    """A trainer on the tiny set that counts what it trains."""
    made, trained = tiny_trainer(), []
    made.store, made.display = store or NetworkStore(), Noting(trained)
    for name, value in changes.items():
        setattr(made, name, value)
    return made, trained


def scaled(factor, logits, labels):
    return cross_entropy(logits * factor, labels)


def shifted(shift):
    def loss(logits, labels):
        return cross_entropy(logits + shift, labels)

    return loss


class Order:
    """An order of epochs with something to remember."""

    def __init__(self, step):
        self.step = step

    def epoch(self, progress, draws):
        return torch.arange(0, len(SET), self.step)


def changed_pixel():
    images = SET.images.clone()
    images[0, 0, 0, 0] ^= 1
    return replace(SET, images=images)


OTHERWISE = {
    "optimizer": "adamw", "lr": 0.02, "momentum": 0.8, "weight_decay": 0.1, "batch": 5, "schedule": "cosine",
    "milestones": (0.5,), "gamma": 0.5, "warmup": 1, "mixup": 0.4, "cutmix": 0.4, "label_smoothing": 0.1,
    "average": 0.9, "soft_loss": "mse", "temperature": 2.0, "hard_weight": 0.5, "epochs": 3, "augment": "crop-flip",
}  # fmt: skip
"""Every option of a training, each other than usual."""
EVEN = torch.full((len(SET), DATA.classes), 0.2) + 0.2 * (torch.arange(DATA.classes) == 1)


def teacher(certain):
    def view_labels(images):
        return SoftLabels(certain * images.flatten(1)[:, : DATA.classes], "logits")

    return view_labels


DIFFERENT = {
    "the plain network": {},
    "a loss that holds a number": {"loss": partial(scaled, 2.0)},
    "the same loss with another number": {"loss": partial(scaled, 3.0)},
    "a closure": {"loss": shifted(torch.tensor([0.0, 1.0, 0.0, 0.0]))},
    "the closure with another tensor": {"loss": shifted(torch.tensor([0.0, 2.0, 0.0, 0.0]))},
    "a lambda": {"loss": lambda logits, labels: 2 * cross_entropy(logits, labels)},
    "a loss that changes": {"loss_at": lambda progress: partial(scaled, 1 + progress)},
    "a layer": {"layer": partial(CosineLinear, scale=8.0)},
    "the layer with another option": {"layer": partial(CosineLinear, scale=16.0)},
    "another purpose": {"purpose": "others"},
    "more outputs": {"outputs": 5},
    "another pixel": {"data": changed_pixel()},
    "another label": {"data": replace(SET, labels=SET.labels.flip(0))},
    "an order": {"data": replace(SET, order=Order(2).epoch)},
    "the order with another option": {"data": replace(SET, order=Order(3).epoch)},
    "another seed": {"seed": 1},
    "another augmentation": {"augmentation": Augmentation("flip")},
    "another precision": {"precision": "bf16"},
    "the usual options": {"options": {}},
    **{f"{name} = {value}": {"options": {name: value}} for name, value in OTHERWISE.items()},
    "soft labels": {"data": replace(SET, soft_labels=SoftLabels(EVEN))},
    "the same numbers as logits": {"data": replace(SET, soft_labels=SoftLabels(EVEN, "logits"))},
    "other soft labels": {"data": replace(SET, soft_labels=SoftLabels(EVEN.roll(1, 1)))},
    "a teacher of views": {"data": replace(SET, view_labels=teacher(3.0))},
    "another teacher of views": {"data": replace(SET, view_labels=teacher(4.0))},
}


def train(made, data=SET, outputs=DATA.classes, **given):
    return made.train(data, outputs=outputs, **given)


def test_whatever_decides_a_network_makes_it_another_network():
    store = NetworkStore()
    for what, changes in DIFFERENT.items():
        attributes = {key: changes[key] for key in ("seed", "augmentation", "precision") if key in changes}
        if "options" in changes:
            attributes["options"] = {"original": TrainingOptions(**{"epochs": 2, **changes["options"]})}
        made, trained = trainer(store, **attributes)
        for _ in range(2):
            train(made, **{key: value for key, value in changes.items() if key not in attributes})
        assert len(trained) == 1, what
    assert len(store._known) == len(DIFFERENT)
    assert OTHERWISE.keys() == TrainingOptions.model_fields.keys()


def test_the_keys_are_the_same_in_another_process():
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_store as t
from ltdd_core.identity import identity
names = "loss", "layer", "loss_at"
print(json.dumps([identity(v) for changes in t.DIFFERENT.values() for k, v in changes.items() if k in names]))
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    names = "loss", "layer", "loss_at"
    ours = [identity(value) for changes in DIFFERENT.values() for name, value in changes.items() if name in names]
    assert [digest(one) for one in ours] == [digest(one) for one in theirs]


class Margins(torch.nn.Module):
    """A loss as many public codes write them: what it knows is in plain attributes."""

    def __init__(self, margins, tensor):
        super().__init__()
        self.margins, self.tensor = margins, tensor
        self.register_buffer("hidden", tensor + 1, persistent=False)

    def forward(self, logits, labels):
        return cross_entropy(logits - self.tensor, labels)


class Slotted:
    """A loss without a dictionary of attributes."""

    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, logits, labels):
        return self.scale * cross_entropy(logits, labels)


class SlottedBelow(Slotted):
    """A loss with one, and with a slot of its base."""


@dataclass(slots=True)
class Weighted:
    """A loss whose text leaves out what decides it: of a large tensor a few values are shown."""

    weights: torch.Tensor

    def __call__(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, self.weights)


@functools.cache
def remembered(number):
    return number


def large(value):
    weights = torch.ones(2000)
    weights[1000] = value
    return weights


SAME_BUT_FOR_ONE_VALUE = {
    "a list of a module": lambda value: Margins([value], torch.zeros(2)),
    "a plain tensor of a module": lambda value: Margins([1], torch.full((2,), value)),
    "a pair of a layer": lambda value: torch.nn.MaxPool2d((2, int(value))),
    "the tensor of a method of torch": lambda value: torch.full((2,), value).mul,
    "bytes": lambda value: bytes([int(value)]),
}


@pytest.mark.parametrize("what", SAME_BUT_FOR_ONE_VALUE)
def test_every_value_that_an_object_holds_counts(what):
    make = SAME_BUT_FOR_ONE_VALUE[what]
    assert digest(identity(make(1.0))) == digest(identity(make(1.0)))
    assert digest(identity(make(1.0))) != digest(identity(make(2.0)))


@pytest.mark.parametrize(
    "value", [Slotted(2), SlottedBelow(2), Weighted(large(0.0))], ids=lambda value: str(type(value))
)
def test_an_object_with_values_in_slots_cannot_be_identified(value):
    with pytest.raises(Unidentified):
        identity(value)


def test_a_function_behind_a_decorator_is_identified():
    assert identity(remembered) == identity(remembered)
    assert digest(identity(remembered)) != digest(identity(functools.cache(shifted)))


def test_a_compiled_network_has_the_identity_of_its_weights():
    network = train(trainer(precision="bf16")[0])
    assert isinstance(network, CompiledNetwork)
    assert identity(network) == identity(copy.deepcopy(network))


CODE = """
SCALE = {scale}
NAMES = {{"b", "a", "c", "d"}}


class Base:
    POWER = {power}

    def weights(self, counts):
        return helper(counts) ** self.POWER


class Sampler(Base):
    def epoch(self, progress, draws):
        return self.weights(draws)


def helper(counts):
    return counts {operator} SCALE


def loss(logits, labels):
    return helper(logits) if str(labels) in {{"b", "a", "c", "d"}} else logits


class Layer:
    def __init__(self, width):
        self.width = width
"""
PLAIN_CODE = {"scale": 2, "power": 3, "operator": "+"}


USES = {
    "user.Sampler().epoch": {"scale", "power", "operator"},
    "user.loss": {"scale", "operator"},
    "user.Layer(3)": set(),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Says the identities of the code with given values, each time in another process."""

    @functools.cache
    def told_of(*values):
        folder = tmp_path_factory.mktemp("user")
        (folder / "written_by_a_user.py").write_text(CODE.format(**dict(values)))
        command = (
            "import json, sys; sys.dont_write_bytecode = True; import written_by_a_user as user;"
            f"from ltdd_core.identity import identity; print(json.dumps(list(map(identity, [{', '.join(USES)}]))))"
        )
        result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=folder)
        return json.loads(result.stdout)

    return lambda values: told_of(*values.items())


def test_the_same_code_is_the_same_in_another_process(told):
    assert told(PLAIN_CODE) == told(dict(reversed(PLAIN_CODE.items())))


@pytest.mark.parametrize("changed", [{"scale": 4}, {"power": 5}, {"operator": "*"}], ids=str)
def test_the_code_that_a_function_or_a_class_uses_counts(told, changed):
    found = zip(told(PLAIN_CODE), told({**PLAIN_CODE, **changed}), strict=True)
    for (expression, counts), (before, after) in zip(USES.items(), found, strict=True):
        assert (before != after) == bool(counts & set(changed)), expression


def test_what_a_function_says_of_itself_does_not_count():
    def described():
        """One thing."""
        return 1

    def plain():
        """Another."""
        return 1

    plain.__qualname__, plain.__name__ = described.__qualname__, described.__name__
    assert identity(plain) == identity(described)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN, PLAIN)
def test_plain_values_have_one_identity_each(one, other):
    same = repr(one) == repr(other)
    assert (digest(identity(one)) == digest(identity(other))) == same


def test_a_value_that_holds_itself_or_a_file_cannot_be_identified(tmp_path):
    circle = []
    circle.append(circle)
    with pytest.raises(Unidentified, match="nested too deeply"):
        identity(circle)
    with (tmp_path / "file").open("w") as file, pytest.raises(Unidentified):
        identity(iter(file))


def test_what_cannot_be_identified_is_trained_every_time():
    made, trained = trainer()
    unknown = partial(scaled, iter([2.0]))
    for _ in range(2):
        with pytest.raises(TypeError):
            train(made, loss=unknown)  # a list iterator is no number: what matters is that nothing was looked up
    assert len(trained) == 2


def test_two_stages_of_one_head_with_other_options_are_two_networks():
    """Both stages on one set, logit adjustment with two values of tau."""
    made, trained = trainer()
    head = {"name": "logit-adjustment", "tau": 0.5}
    other = {"name": "logit-adjustment", "tau": 2.0}
    first, second = (made.component("head", named).fit([SET], made) for named in (head, other))
    alone, _ = trainer()
    again = alone.component("head", other).fit([SET], alone)
    images = DATA.normalisation.apply(DATA.test_images)
    with torch.no_grad():
        assert not torch.equal(first.log_probabilities(images), second.log_probabilities(images))
        assert torch.equal(second.log_probabilities(images), again.log_probabilities(images))
    assert len(trained) == 2


def test_a_length_in_steps_is_the_network_of_as_many_epochs():
    store = NetworkStore()
    for epochs in (3, "3 or 5 steps", f"{2 * math.ceil(len(SET) / 10) + 1} steps"):
        made, told = trainer(store)
        made.options = {"original": TrainingOptions(epochs=epochs, batch=10)}
        made.train(SET, outputs=DATA.classes, purpose="classes", loss=cross_entropy)
        assert len(told) == (1 if epochs == 3 else 0)


def test_a_new_last_layer_depends_on_the_network_and_on_its_options():
    made, trained = trainer()
    plain, other = train(made), train(made, purpose="others")
    options = made.options["original"]
    layers = [
        made.retrain(network, SET, changed, layer=torch.nn.Linear, purpose="layer").linear.weight
        for network in (plain, other)
        for changed in (options, options.model_copy(update={"lr": 0.5}))
    ]
    assert len(trained) == 2 + 4
    assert len({tuple(weight.flatten().tolist()) for weight in layers}) == 4


# ---- on disk -------------------------------------------------------------------------------------


def test_a_store_on_disk_gives_the_same_network_to_another_trainer(tmp_path):
    made, trained = trainer(NetworkStore(tmp_path / "networks"))
    network = train(made)
    again, nothing = trainer(NetworkStore(tmp_path / "networks"))
    found = train(again)
    assert (len(trained), nothing) == (1, [])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name])
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    (stored,) = stored_networks(tmp_path)
    assert stored.key["what"] == "classes on the original set"
    assert [path.name for path in (tmp_path / "networks").iterdir()] == [stored.path.name]  # no lock is left


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "nan", "version"])
def test_a_damaged_network_is_one_line_and_never_used(tmp_path, damage):
    train(trainer(NetworkStore(tmp_path / "networks"))[0])
    (path,) = (tmp_path / "networks").glob("*.safetensors")
    tensors, facts = load_tensors(path)
    name = next(iter(tensors))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "flipped":
        save_tensors(path, {**tensors, name: tensors[name][:1]}, facts)
    elif damage == "other":
        save_tensors(path, tensors, {**facts, "key": {**facts["key"], "seed": 7}})
    elif damage == "version":
        save_tensors(path, tensors, {**facts, "format_version": 99})
    else:
        save_tensors(path, {**tensors, name: tensors[name] * torch.nan}, facts)
    with pytest.raises(InputError, match=path.name):
        train(trainer(NetworkStore(tmp_path / "networks"))[0])


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    train(trainer(NetworkStore(tmp_path))[0])
    (path,) = tmp_path.glob("*.safetensors")
    (tmp_path / f".{path.name}.0a1b2c3d.tmp").write_bytes(path.read_bytes()[:100])
    path.unlink()
    train(trainer(NetworkStore(tmp_path))[0])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_that_goes_away_is_no_network_any_more(tmp_path):
    train(trainer(NetworkStore(tmp_path))[0])
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert len(list(stored_networks(tmp_path))) == 1


def test_a_network_that_is_kept_does_not_keep_its_last_gradient():
    assert all(parameter.grad is None for parameter in train(trainer()[0]).parameters())


def test_an_interrupted_training_leaves_nothing_behind(tmp_path):
    def stop():
        raise Interrupted("SIGINT")

    made, _ = trainer(NetworkStore(tmp_path / "run" / "networks"))
    calls = iter(range(2))
    made.keep_going = lambda: next(calls, None) is not None or stop()
    with pytest.raises(Interrupted):
        train(made)
    assert not (tmp_path / "run").exists()


def test_several_processes_train_a_network_once(tmp_path):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import test_store as t
made, trained = t.trainer(t.NetworkStore(t.Path(sys.argv[2])))
t.train(made)
print(len(trained))
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "networks")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = sorted(process.communicate()[0].strip() for process in running)
    assert counts == ["0", "0", "1"]
    assert len(list((tmp_path / "networks").iterdir())) == 1


# ---- trainings that are interrupted ----------------------------------------------------------------


def interrupted_at(step):
    """A look that stops a training before a step of it."""
    steps = iter(range(10**6))

    def keep_going():
        if next(steps) == step:
            raise Interrupted("SIGINT")

    return keep_going


def long_trainer(folder, **changes):
    made, trained = trainer(NetworkStore(folder), **changes)
    made.options = {"original": TrainingOptions(epochs=5, batch=10, average=0.9)}
    return made, trained


STEPS = -(-len(SET) // 10)  # of an epoch


def assert_same_but_for_the_seconds(path, other):
    """Two files of a store with the same bits, which both say how long the training took."""
    (tensors, facts), (others, other_facts) = load_tensors(path), load_tensors(other)
    assert digest_of(tensors) == digest_of(others)
    assert facts.pop("seconds") > 0
    assert other_facts.pop("seconds") > 0
    assert facts == other_facts


@pytest.fixture
def always_copied(monkeypatch):
    monkeypatch.setattr("ltdd_core.networks.unfinished.SECONDS_BETWEEN_COPIES", 0.0)


@pytest.mark.parametrize("step", [0, STEPS - 1, STEPS + 1, 2 * STEPS + 2, 5 * STEPS - 1])
def test_an_interrupted_training_goes_on_after_its_last_epoch_to_the_same_bytes(tmp_path, always_copied, step):
    whole, _ = long_trainer(tmp_path / "whole")
    whole.train(SET, outputs=DATA.classes)
    cut, _ = long_trainer(tmp_path / "cut", keep_going=interrupted_at(step + 1))  # the store looks once, too
    with pytest.raises(Interrupted):
        cut.train(SET, outputs=DATA.classes)
    done = step // STEPS
    left = list((tmp_path / "cut").glob("*")) if done else []
    assert [file.suffix for file in left] == [".unfinished"] * bool(done)
    if done:
        (stored,) = stored_networks(tmp_path / "cut")
        assert (stored.epochs, stored.finished, stored.key["epochs"]) == (done, False, 5)
    begun = []
    again, _ = long_trainer(tmp_path / "cut", display=Noting([], begun))
    again.train(SET, outputs=DATA.classes)
    assert begun == [(done, 5, "epochs")]
    (file,), (expected,) = ([*(tmp_path / name).iterdir()] for name in ("cut", "whole"))
    assert file.name == expected.name
    assert_same_but_for_the_seconds(file, expected)


def test_a_training_that_is_killed_has_what_was_written_before(tmp_path, always_copied, monkeypatch):
    monkeypatch.setattr("ltdd_core.networks.unfinished.SECONDS_BETWEEN_WRITES", -1.0)

    class Killed(BaseException):
        """Nothing runs after kill -9."""

    steps = iter(range(10**6))

    def keep_going():
        if next(steps) == 3 * STEPS:
            raise Killed

    cut, _ = long_trainer(tmp_path, keep_going=keep_going)
    with pytest.raises(Killed):
        cut.train(SET, outputs=DATA.classes)
    begun = []
    again, _ = long_trainer(tmp_path, display=Noting([], begun))
    again.train(SET, outputs=DATA.classes)
    assert begun == [(2, 5, "epochs")]


def test_a_damaged_state_of_a_training_is_refused_in_one_line(tmp_path, always_copied):
    cut, _ = long_trainer(tmp_path, keep_going=interrupted_at(2 * STEPS))
    with pytest.raises(Interrupted):
        cut.train(SET, outputs=DATA.classes)
    (file,) = tmp_path.glob("*.unfinished")
    state, facts = load_tensors(file)
    for damaged, said in (
        ((state, {**facts, "key": {}}), "not the network that its name says"),
        ((state, {**facts, "epochs": "3"}), "damaged"),
        (({name: value / 0 for name, value in state.items()}, facts), "damaged"),
        (({**state, "network: linear.bias": torch.zeros(77)}, facts), "does not fit"),
    ):
        save_tensors(file, *damaged)
        with pytest.raises(InputError, match=rf"{said}.*remove the file, and the network is trained again"):
            long_trainer(tmp_path)[0].train(SET, outputs=DATA.classes)


class Alive(Display):
    """Counts the networks in memory whenever one is about to be trained."""

    def __init__(self):
        self.counts = []

    def training(self, what):
        gc.collect()
        self.counts.append(sum(issubclass(type(thing), Network) for thing in gc.get_objects()))


def test_the_networks_of_a_seed_are_let_go_of_after_it():
    tiny = {"network": {"width": 4}, "training": {"original": {"epochs": 1}}}
    display = Alive()
    train_original(configure_original([Layer("test", tiny)]), repeats=3, display=display)
    assert len(display.counts) == 3
    assert len(set(display.counts)) == 1


# ---- trajectories --------------------------------------------------------------------------------

STEADY = {"momentum": 0, "schedule": "constant", "epochs": 7, "batch": 8}


def trajectories(folder, **changes):
    """What a matcher gets when it asks for networks by the name of friend."""
    given = {name: changes.pop(name) for name in ("head", "numbers") if name in changes}
    task = replace(tiny_task(DATA, PlainSampler(DATA)), shared=folder)
    return task.trajectories("friend", training=TrainingOptions(**{**STEADY, **changes}), **given)


def test_a_plan_trains_nothing_and_says_what_would_be_trained():
    made, trained = trainer()
    head = made.component("head", {"name": "logit-adjustment", "tau": 0.5})
    (job,) = made.plan(lambda planning: head.fit([SET], planning))
    assert trained == []
    assert not made.store._known
    network = head.fit([SET], made).logits
    assert job.key["what"] == "logit adjustment on the original set"
    assert list(made.store._known) == [digest(job.key)]
    alone = job.train(job.make(), Start(), lambda epoch: None)
    images = DATA.normalisation.apply(DATA.test_images)
    assert torch.equal(alone(images), network(images))


def test_what_is_missing_is_each_network_once_and_one_without_a_key_each_time():
    made, _ = trainer()
    done, other = (made.component("head", {"name": "logit-adjustment", "tau": tau}) for tau in (0.5, 0.7))
    jobs = [job for head in (done, other, other) for job in made.plan(lambda planning, h=head: h.fit([SET], planning))]
    keyless = replace(jobs[0], key=None)
    done.fit([SET], made)
    assert made.store.missing([*jobs, keyless, keyless]) == [jobs[2], keyless, keyless]


def test_any_matcher_gets_the_parameters_after_every_epoch(tmp_path):
    friends, told = trajectories(tmp_path), []
    friends.train(2, report=lambda *given: told.append(given))
    assert told == [(number, epochs) for number in (0, 1) for epochs in range(8)]
    first, last = friends[1].rows(0, 7)
    network = friends[1].job.make()
    assert torch.equal(first, torch.nn.utils.parameters_to_vector(network.parameters()))
    trained = friends[1].job.train(network, Start(), lambda epoch: None)
    assert torch.equal(last, torch.nn.utils.parameters_to_vector(trained.parameters()))
    again = trajectories(tmp_path)
    again.train(2, report=lambda *given: told.append(given))
    assert told[16:] == [(0, 7), (1, 7)]
    assert torch.equal(again[1].rows(7)[0], last)


class Stop(Exception):
    pass


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
@pytest.mark.parametrize("numbers", ["fp32", "fp16", "bf16"])
def test_a_training_that_died_resumes_after_its_last_write(tmp_path, schedule, numbers):
    def die(number, epochs):
        if epochs == 6:
            raise Stop

    whole = trajectories(tmp_path / "whole", schedule=schedule, numbers=numbers)
    whole.train(1, report=lambda number, epochs: None)
    cut, begun = trajectories(tmp_path / "cut", schedule=schedule, numbers=numbers), []
    with pytest.raises(Stop):
        cut.train(1, report=die)
    assert cut[0].epochs() == 5
    cut.train(1, report=lambda number, epochs: begun.append(epochs))
    assert begun == [5, 6, 7]
    assert_same_but_for_the_seconds(cut[0].path, whole[0].path)


def test_only_a_training_that_begins_as_a_shorter_one_extends_it(tmp_path):
    for schedule, extends in (("constant", True), ("cosine", False), ("step", False)):
        short, longer = (trajectories(tmp_path, schedule=schedule, epochs=epochs)[0] for epochs in (3, 4))
        assert (short.path == longer.path) == extends, schedule
    with pytest.raises(ValueError, match="momentum"):
        trajectories(tmp_path, momentum=0.9)


def test_epochs_that_are_not_there_are_one_line_and_those_of_another_process_are_found(tmp_path):
    short = trajectories(tmp_path, epochs=2)
    with pytest.raises(InputError, match="there is no such trajectory"):
        short[0].rows(0)
    short.train(1, report=lambda number, epochs: None)
    with pytest.raises(InputError, match=r"of epoch 3 there is nothing: it has 2 epochs\.$"):
        short[0].rows(0, 3)
    trajectories(tmp_path, epochs=4).train(1, report=lambda number, epochs: None)
    assert short[0].rows(4)[0].isfinite().all()


def test_a_trajectory_and_a_network_of_the_same_training_are_two_files(tmp_path):
    friends = trajectories(tmp_path, epochs=1)
    friends.train(1, report=lambda number, epochs: None)
    NetworkStore(tmp_path).get(friends[0].job)
    assert [(one.trajectory, one.epochs) for one in stored_networks(tmp_path)] == [(True, 1), (False, 1)]


def test_what_does_not_fit_a_trajectory_is_said_before_anything_is_trained(tmp_path):
    for head, message in (("twostage", "trains several"), ("ensemble", "trains several"), ("cosine", "last layer")):
        with pytest.raises(InputError, match=message):
            trajectories(tmp_path, head=head)
    assert list(tmp_path.iterdir()) == []


# ---- ltdd networks -------------------------------------------------------------------------------


def test_the_networks_of_a_run_are_listed_found_by_the_next_command_and_removed(ltdd):
    assert ltdd("distill", "--method", "coreset", *TINY, "--out", "runs/a").exit_code == 0
    listed = json.loads(ltdd("networks", "list", "--json").stdout)
    assert [row["key"]["what"] for row in listed] == ["classes on the original set", "classes on the distilled set"]
    shown = ltdd("networks", "list").stdout
    assert "classes on the distilled set" in shown
    assert "2 networks" in shown
    again = ltdd("evaluate", "runs/a")
    assert "training a network" not in again.stderr
    assert "training a network" in ltdd("evaluate", "runs/a", "--seed", "1").stderr
    assert one_line_error(ltdd("networks", "remove")).startswith("Error: say which networks")
    assert "no network 'abc'" in one_line_error(ltdd("networks", "remove", "abc"))
    assert ltdd("networks", "remove", listed[0]["name"]).stdout == "1 network removed\n"
    assert len(json.loads(ltdd("networks", "list", "--json", "--folder", "runs/a").stdout)) == 2
    assert ltdd("networks", "remove", "--all").exit_code == 0
    assert json.loads(ltdd("networks", "list", "--json").stdout) == []
    assert "no such folder" in one_line_error(ltdd("networks", "list", "--folder", "elsewhere"))


def test_the_networks_of_a_store_of_any_name_are_listed(ltdd):
    assert ltdd("distill", "--method", "coreset", *TINY, "--store", "kept/here").exit_code == 0
    for folder in ("kept", "kept/here"):
        assert len(json.loads(ltdd("networks", "list", "--json", "--folder", folder).stdout)) == 2
    shown = ltdd("networks", "list", "--folder", "kept").stdout
    assert " epochs " in shown
    assert ltdd("networks", "list", "--store", "kept").stdout == shown
    name = json.loads(ltdd("networks", "list", "--json", "--store", "kept").stdout)[0]["name"]
    assert ltdd("networks", "remove", name, "--store", "kept").exit_code == 0
    assert "1 network, " in ltdd("networks", "list", "--store", "kept").stdout


def test_a_grid_in_another_folder_trains_nothing_that_a_shared_store_has(ltdd, tmp_path):
    (tmp_path / "here" / "grid.yaml").write_text(
        "methods: [coreset]\nseeds: [0, 1]\nplugins: [none, twostage]\n"
        "common: {data: {name: digits-lt, n_max: 60}, network: mlp, ipc: 1, iterations: 2,"
        " training: {original: {epochs: 1}, distilled: {epochs: 1}}}\n"
    )
    first = ltdd("bench", "grid.yaml", "--out", "a", "--set", "compute.store=store")
    second = ltdd("bench", "grid.yaml", "--out", "b", "--set", "compute.store=store")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stderr.count("training a network") > 0
    assert second.stderr.count("training a network") == 0
    assert Path("a/table.md").read_text() == Path("b/table.md").read_text()
