"""Every registered component keeps the contract of its kind, and a wrong one is caught."""

import operator
import random
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ltdd_core
from ltdd_core import (
    ArrayTable,
    BaseOptions,
    ClassMatcher,
    DataSource,
    LongTailOptions,
    SoftLabels,
    Softmax,
    SourceImages,
    Storable,
    Synthetic,
    option,
)
from ltdd_core.plugging.catalog import installed
from ltdd_core.testing import (
    ContractError,
    check_data,
    check_head,
    check_matcher,
    check_network,
    check_recipe,
    check_sampler,
)

CHECKS = {
    "sampler": check_sampler,
    "matcher": check_matcher,
    "head": check_head,
    "recipe": check_recipe,
    "network": check_network,
}
CATALOG = installed()
WRITTEN = re.compile(r"It is written at ltdd_core\.([\w.]+)\.")


def caught(check, wrong, message):
    """The check raises, and says where the contract is written; there is a docstring there."""
    with pytest.raises(ContractError, match=message) as error:
        check(wrong)
    assert str(error.value).startswith(f"{wrong.__qualname__} breaks its contract: ")
    (written,) = WRITTEN.findall(str(error.value))
    assert operator.attrgetter(written)(ltdd_core).__doc__


REGISTERED = [(kind, name) for kind in CHECKS for name in CATALOG.names(kind)]


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_every_registered_component_keeps_its_contract(kind, name):
    CHECKS[kind](CATALOG.get(kind, name).load())


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("twostage", {"routing": "hard"}),
        ("twostage", {"within": "separate"}),
        ("twostage", {"groups": 3}),
        ("twostage-ablations", {"within": "shared"}),
        ("twostage-ablations", {"within": "others", "partition": "random"}),
        ("twostage-ablations", {"groups": 3, "within": "shared", "routing": "hard"}),
    ],
)
def test_two_stage_options_keep_the_contract(head, options):
    check_head(CATALOG.get("head", head).load(), **options)


class Mean(ClassMatcher):
    """A matcher that is right."""

    def class_loss(self, network, real, synthetic):
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()


class Drifting(Mean):
    def step(self, step):
        torch.rand(1)
        return super().step(step)


class Forgetful(Mean):
    def state(self):
        return {"images": super().state()["images"]}


class Stuck(Mean):
    def class_loss(self, network, real, synthetic):
        return super().class_loss(network, real, synthetic) * 0


class Undocumented(Mean):
    class Options(Mean.Options):
        mystery: int = 3


class Worn(Mean):
    """Each instance in a process differs from the one before."""

    made = 0

    def __init__(self, options):
        super().__init__(options)
        Worn.made += 1

    def class_loss(self, network, real, synthetic):
        return super().class_loss(network, real, synthetic) * self.made


class Halved(Mean):
    def prepare(self, task):
        super().prepare(task)
        self.half = task.networks.precision == "bf16"

    def distilled(self):
        made = super().distilled()
        return replace(made, images=made.images.bfloat16()) if self.half else made


class Unmixed(Mean):
    """Does not run in bf16."""

    def prepare(self, task):
        super().prepare(task)
        self.kept = task.networks.precision

    def step(self, step):
        if self.kept == "bf16":
            return {"loss": torch.ones(2, dtype=torch.bfloat16).numpy()}
        return super().step(step)


class Elsewhere(Mean):
    def distilled(self):
        made = super().distilled()
        return replace(made, images=made.images.to("meta"))


class HeadOnly(Mean):
    """Forgets the class with one image."""

    def distilled(self):
        made = super().distilled()
        head = made.labels < made.labels.max()
        return Synthetic(made.images[head], made.labels[head])


class Explosive(Mean):
    def class_loss(self, network, real, synthetic):
        return super().class_loss(network, real, synthetic) / (len(real) - 1)


class Silent(Mean):
    def step(self, step):
        super().step(step)
        return {}


class Pickled(Mean):
    def state(self):
        return {**super().state(), "note": "a string"}


class Unlabelled(Mean):
    def distilled(self):
        made = super().distilled()
        return replace(made, labels=made.labels.float())


class AsATuple(Mean):
    def distilled(self):
        made = super().distilled()
        return made.images, made.labels


class Taught(Mean):
    """Soft labels, a recipe and a decoder, all of them right."""

    kind = "probabilities"

    def distilled(self):
        made = super().distilled()
        return replace(made, soft_labels=SoftLabels(self.said(F.one_hot(made.labels, 4).float()), self.kind))

    def said(self, one_hot):
        return 0.8 * one_hot + 0.05

    def recipe(self):
        return {"optimizer": "adamw", "lr": 1e-3, "cutmix": 1.0, "soft_loss": "mse", "hard_weight": 0.025}

    def decode(self, images):
        return torch.stack([images, images.flip(3)], 1)


class Logits(Taught):
    kind = "logits"

    def said(self, one_hot):
        return 7 * one_hot - 3


class Narrow(Taught):
    def said(self, one_hot):
        return super().said(one_hot)[:, :3]


class Improbable(Taught):
    def said(self, one_hot):
        return 0.8 * one_hot


class Negative(Taught):
    """They sum to 1."""

    def said(self, one_hot):
        return 1.6 * one_hot - 0.15


class Endless(Logits):
    def said(self, one_hot):
        return one_hot.log()


class Astray(Mean):
    class Options(Mean.Options):
        fading: int | None = option(None, "steps", unless_given="the number of steps", follows="steps")


class Overruled(Mean):
    class Options(Mean.Options):
        fading: int | None = option(5, "steps", follows="iterations")


class Inventive(Taught):
    def recipe(self):
        return {"cutmixx": 1.0}


class Flat(Taught):
    def decode(self, images):
        return super().decode(images).flatten(0, 1)


class Shrinking(Taught):
    def decode(self, images):
        return super().decode(images)[..., ::2, ::2]


class Guessing(Taught):
    def decode(self, images):
        return super().decode(images) + torch.rand(1)


class Counting(Taught):
    """Decodes otherwise each time, without a random draw."""

    count = 0

    def decode(self, images):
        self.count += 1
        return super().decode(images) + self.count


class Detached(Taught):
    def decode(self, images):
        return super().decode(images.detach())


@pytest.mark.parametrize("right", [Mean, Taught, Logits])
def test_the_easy_interface_keeps_the_contract(right):
    check_matcher(right)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Drifting, "global generator"),
        (Forgetful, "bit for bit"),
        (Stuck, "steps move the images"),
        (Undocumented, "every option says what it does"),
        (Worn, "a second run in the same process"),
        (Halved, "images are float32"),
        (Unmixed, "step 0 is taken on cpu in bf16. It is written .* It raised TypeError"),
        (Elsewhere, "on the task's device or on the CPU"),
        (HeadOnly, "the class with one real image too"),
        (Explosive, "the loss is finite"),
        (Silent, "step returns a loss"),
        (Pickled, "state holds tensors only"),
        (Unlabelled, r"labels are classes, int64 \[n\]"),
        (AsATuple, "distilled gives a Synthetic"),
        (Narrow, r"soft labels are \[n, classes\]"),
        (Improbable, "soft labels sum to 1, or say that they are logits"),
        (Negative, "soft labels are not negative, or say that they are logits"),
        (Endless, "soft labels are finite"),
        (Astray, "'fading' follows an option that a run has"),
        (Overruled, "the default of 'fading' is None, since it follows another"),
        (Inventive, "recipe gives options of TrainingOptions.*cutmixx"),
        (Flat, r"decode gives \[n, f, C, H, W\], with C, H and W of the real images"),
        (Shrinking, r"decode gives \[n, f, C, H, W\], with C, H and W of the real images"),
        (Guessing, "global generator"),
        (Counting, "decode gives the same images each time"),
        (Detached, "gradients pass through decode"),
    ],
)
def test_a_wrong_matcher_is_caught(wrong, message):
    caught(check_matcher, wrong, message)


# ---- samplers and networks -----------------------------------------------------------------------

Instance = CATALOG.get("sampler", "instance").load()


class OtherClass(Instance):
    def of_class(self, label, size, generator):
        return super().of_class(label * 0, size, generator)


class Repeating(Instance):
    def of_class(self, label, size, generator):
        drawn = super().of_class(label, size, generator)
        return drawn[:1].expand(len(drawn))


class Restless(Instance):
    def of_class(self, label, size, generator):
        self.calls += 1
        return super().of_class(label, size, generator).roll(self.calls)

    def prepare(self, data):
        super().prepare(data)
        self.calls = 0


class NumpyDraws(Instance):
    def epoch(self, progress, generator):
        return super().epoch(progress, generator) + int(np.random.random() * 0)  # noqa: NPY002 - what must not be done


class PythonDraws(Instance):
    def epoch(self, progress, generator):
        return super().epoch(progress, generator) + random.randrange(1)


class Short(Instance):
    def epoch(self, progress, generator):
        return super().epoch(progress, generator)[1:]


class NotAlone(Instance):
    """Cannot draw from a class with one image."""

    def of_class(self, label, size, generator):
        drawn = super().of_class(label, size, generator)
        if len(drawn) == 1:
            raise ZeroDivisionError
        return drawn


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (OtherClass, "of its class|gives min"),
        (Repeating, "of_class repeats no image"),
        (Restless, "of_class is a function of its arguments"),
        (NumpyDraws, "global generator of NumPy"),
        (PythonDraws, "global generator of Python"),
        (Short, "as many draws as there are images"),
        (NotAlone, "of_class draws 1 images of a class .* It raised ZeroDivisionError"),
    ],
)
def test_a_wrong_sampler_is_caught(wrong, message):
    caught(check_sampler, wrong, message)


MLP = CATALOG.get("network", "mlp").load()


class Narrow(MLP):
    def embed(self, images):
        return super().embed(images)[:, :5]


class Detached(MLP):
    def embed(self, images):
        return super().embed(images.detach())


class Numbered(MLP):
    made = 0

    def __init__(self, shape, outputs, options):
        super().__init__(shape, outputs, options)
        Numbered.made += 1
        torch.nn.init.constant_(self.linear.weight, Numbered.made)


class Noisy(MLP):
    def embed(self, images):
        return super().embed(images + torch.rand_like(images))


class Doubled(MLP):
    """Writes features of whatever precision into memory of fp32."""

    def embed(self, images):
        features = super().embed(images)
        return torch.zeros(features.shape).scatter_add(0, torch.zeros(features.shape, dtype=torch.int64), features)


class Sharpened(MLP):
    """Training, which calls embed and linear, would not see the factor."""

    def forward(self, images):
        return 10 * super().forward(images)


class Paired(MLP):
    def embed(self, images):
        return torch.nn.functional.batch_norm(super().embed(images), None, None, training=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Narrow, "embed is"),
        (Detached, "gradients reach the images"),
        (Numbered, "the same global seed gives the same weights"),
        (Noisy, "global generator of torch"),
        (Doubled, "embed works in bf16. It is written at .* It raised RuntimeError"),
        (Paired, "embed gives features of images.* It raised ValueError"),
        (Sharpened, "forward is not overridden"),
    ],
)
def test_a_wrong_network_is_caught(wrong, message):
    caught(check_network, wrong, message)


# ---- data sources --------------------------------------------------------------------------------


def test_the_embedded_data_keep_the_contract():
    check_data(CATALOG.get("data", "digits-lt").load())


class Levels(DataSource):
    """A data source that is right."""

    Options = LongTailOptions

    def load(self, generator):
        def images(number):
            labels = torch.arange(3).repeat_interleave(number)
            noise = torch.randint(0, 60, (len(labels), 1, 4, 4), generator=generator)
            return ArrayTable((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels)

        return SourceImages(train=images(9), test=images(3), class_names=("a", "b", "c"))


class Floating(Levels):
    def load(self, generator):
        found = super().load(generator)
        return SourceImages(ArrayTable(found.train.images.float(), found.train.labels), found.test, found.class_names)


class Changeable(Levels):
    def load(self, generator):
        with torch.random.fork_rng():
            return super().load(torch.Generator().manual_seed(torch.seed() % 2**31))


class Lacking(Levels):
    def load(self, generator):
        found = super().load(generator)
        return SourceImages(found.train, found.test, (*found.class_names, "d"))


class Unlimited(Levels):
    Options = BaseOptions


def test_a_right_data_source_passes_and_a_wrong_one_is_caught():
    check_data(Levels)
    for wrong, message in (
        (Floating, "uint8"),
        (Changeable, "the same each time"),
        (Lacking, "each class has an image"),
        (Unlimited, "extend LongTailOptions"),
    ):
        caught(check_data, wrong, message)


# ---- heads and recipes ---------------------------------------------------------------------------

Linear = CATALOG.get("head", "linear").load()


class Changed(Linear):
    """A linear head whose log-probabilities are changed."""

    def changed(self, log_probabilities):
        return log_probabilities

    def fit(self, sets, trainer):
        fitted = super().fit(sets, trainer)
        plain = fitted.log_probabilities
        fitted.log_probabilities = lambda images: self.changed(plain(images))
        return fitted


class Unsure(Changed):
    def changed(self, log_probabilities):
        return log_probabilities - 1


class Few(Changed):
    def changed(self, log_probabilities):
        return log_probabilities[:, :2]


class Rounded(Changed):
    def changed(self, log_probabilities):
        return log_probabilities.half()


class Undefined(Changed):
    def changed(self, log_probabilities):
        return log_probabilities * torch.nan


class Drawing(Linear):
    def fit(self, sets, trainer):
        torch.rand(1)
        return super().fit(sets, trainer)


class Lively(Changed):
    made = 0

    def changed(self, log_probabilities):
        Lively.made += 1
        return (log_probabilities * Lively.made).log_softmax(1)


class HardOnly(Linear):
    """Its loss takes classes, and no probabilities."""

    def fit(self, sets, trainer):
        def loss(logits, labels):
            return F.nll_loss(logits.log_softmax(1), labels)

        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, loss=loss))


class Precise(Linear):
    def fit(self, sets, trainer):
        {"fp32": 0}[trainer.precision]
        return super().fit(sets, trainer)


class Closed(Linear):
    """Its logits are those of a function, which no file can keep."""

    def fit(self, sets, trainer):
        network = super().fit(sets, trainer).logits
        return Softmax(lambda images: 2 * network(images))


class Warm(Storable):
    """Has a temperature that is neither an argument nor a buffer."""

    def __init__(self, network):
        super().__init__()
        self.network, self.temperature = network, 1.0

    def forward(self, images):
        return self.network(images) / self.temperature


class Forgotten(Linear):
    def fit(self, sets, trainer):
        logits = Warm(super().fit(sets, trainer).logits)
        logits.temperature = 3.0
        return Softmax(logits)


class Looking(Storable):
    """Branches on what a tensor holds."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images) if images.mean() < 100 else -self.network(images)


class Otherwise(Looking):
    """Says something else in a graph."""

    def forward(self, images):
        return self.network(images) * (-1 if torch.compiler.is_exporting() else 1)


class WithoutGraph(Linear):
    def fit(self, sets, trainer):
        return Softmax(Looking(super().fit(sets, trainer).logits))


class OtherGraph(Linear):
    def fit(self, sets, trainer):
        return Softmax(Otherwise(super().fit(sets, trainer).logits))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (WithoutGraph, 'ltdd export can make a graph of its classifier.* use kind="state-dict"'),
        (OtherGraph, "the graph says the same of 20 images"),
        (Closed, "a run can keep its classifier, and Softmax was made of a function"),
        (Forgotten, "says the same when it was kept and loaded again"),
        (Drawing, "global generator of torch"),
        (Unsure, "sum to one"),
        (Few, r"\[n, classes\]"),
        (Rounded, "log_probabilities are float32"),
        (Undefined, "NaN"),
        (Lively, "the same seed trains the same classifier"),
        (HardOnly, "trained with soft labels on cpu in fp32.* It raised RuntimeError"),
        (Precise, "trained with hard labels on cpu in bf16.* It raised KeyError"),
    ],
)
def test_a_wrong_head_is_caught(wrong, message):
    caught(check_head, wrong, message)


def test_a_check_in_a_process_of_its_own_does_not_blame_a_component_for_what_imports_draw():
    program = (
        "from ltdd_core.testing import check_head\n"
        "from ltdd_ensemble.head import EnsembleHead\n"
        "check_head(EnsembleHead)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Unknown(CATALOG.get("recipe", "direct").load()):
    def assign(self, stages):
        return ("test",) * stages


def test_a_wrong_recipe_is_caught():
    caught(check_recipe, Unknown, "original or distilled for each stage")


def test_a_method_without_steps_must_not_change():
    coreset = CATALOG.get("matcher", "coreset").load()
    check_matcher(coreset)
    count = iter(range(10))

    class Changing(coreset):
        def distilled(self):
            made = super().distilled()
            return replace(made, images=made.images + next(count))

    caught(check_matcher, Changing, "the same images each time")
