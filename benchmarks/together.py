"""Training several networks at once against one after another.

usage: python benchmarks/together.py --data cifar10-lt-1k --root DIR [--width 128] [--batch 10] [--networks 1 2 4 8 20]

The networks are students of one small set: ConvNets with seeds of their own, on the first IPC images of each class, by
SGD with momentum and the augmentation of DSA.  The two ways take turns in this process, after a warm-up of each; a
measurement is all epochs of all networks, and the table has medians.  The first column of times says what so many
networks cost one after another, the second at once, the last how many times one network those at once are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measuring import data_of, machine, options_of

from ltdd_core import Augmentation, TrainingSet, configure, cross_entropy, train
from ltdd_core.commands import open_setup
from ltdd_core.seeding import global_generator
from ltdd_core.setup import Setup
from ltdd_core.training.loop import Learner, train_together
from ltdd_core.training.options import TrainingOptions


def students(setup: Setup, count: int, per_class: int) -> list[Learner]:
    """Networks with initial weights, each with its own draws, on one set."""
    data = setup.original
    rows = [(data.labels == label).nonzero()[:per_class, 0] for label in range(data.classes)]
    chosen = torch.cat(rows).cpu()
    images, labels = data.batch(chosen, setup.device)
    few = TrainingSet("distilled", images, labels.cpu(), data.normalisation, data.classes)
    found = []
    for seed in range(count):
        with global_generator(seed, "weights"):
            network = setup.make_network(few.image_shape, few.classes).to(setup.device)
        augmentation = Augmentation(setup.config.run.augment)
        found.append(Learner(network, few, cross_entropy, None, augmentation, seed, "student"))
    return found


def one_after_another(setup: Setup, learners: Sequence[Learner], options: TrainingOptions) -> None:
    """Train each alone."""
    for learner in learners:
        train(
            learner.network.requires_grad_(True),
            learner.data,
            options,
            loss=learner.loss,
            augmentation=learner.augmentation,
            seed=learner.seed,
            purpose=learner.purpose,
            device=setup.device,
            chunk=setup.chunk,
            precision=setup.config.compute.precision,
        )


def at_once(setup: Setup, learners: Sequence[Learner], options: TrainingOptions) -> None:
    """Train all in one loop."""
    for learner in learners:
        learner.network.requires_grad_(True)
    train_together(
        learners,
        options,
        device=setup.device,
        keep_going=lambda: None,
        chunk=setup.chunk,
        precision=setup.config.compute.precision,
    )


def seconds(work: Callable[[], None]) -> float:
    """Of some work, to the end of what a GPU does for it."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Print a Markdown table."""
    parser = options_of(__doc__)
    parser.add_argument("--networks", nargs="+", type=int, default=[1, 2, 4, 8, 20], help="how many")
    parser.add_argument("--width", type=int, default=128, help="channels of the ConvNet")
    parser.add_argument("--norm", default="instance", help="normalisation of the ConvNet")
    parser.add_argument("--batch", type=int, default=10, help="images in a step")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    given: argparse.Namespace = parser.parse_args()
    compute = {"threads": given.threads, "precision": given.precision, "compile": False}
    network = {"name": "convnet-d3", "width": given.width, "norm": given.norm}
    config = configure(method="dm", data=data_of(given), network=network, compute=compute)
    options = TrainingOptions(epochs=given.epochs, batch=given.batch, lr=0.01)
    with open_setup(config) as setup:
        print(f"{machine(given.data)}, width {given.width}, batches of {given.batch}, {given.precision}\n")
        print("| networks | one after another, s | at once, s | times faster | times the time of one |")
        print("|---|---|---|---|---|")
        one = 0.0
        for count in given.networks:
            learners = students(setup, count, given.ipc)
            ways = (one_after_another, at_once) if count > 1 else (one_after_another,)
            taken: dict[str, list[float]] = {way.__name__: [] for way in ways}
            for _ in range(1 + given.repeats):
                for way in ways:
                    taken[way.__name__].append(seconds(partial(way, setup, learners, options)))
            alone, *together = (statistics.median(values[1:]) for values in taken.values())
            one = one or alone / count
            fast = together[0] if together else alone
            print(f"| {count} | {alone:.3f} | {fast:.3f} | {alone / fast:.2f} | {fast / one:.1f} |", flush=True)


if __name__ == "__main__":
    main()
