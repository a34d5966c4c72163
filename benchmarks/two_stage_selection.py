"""Which exponents (a, b) the two-stage head should pool with, chosen on training images alone.

    python benchmarks/two_stage_selection.py RUN [--taught 0.5] [--folds 3] [--step 0.25] [--epochs 20]

RUN is a finished run. Stage 1, q, is a balanced-softmax network of the long-tailed set, and what it says of a
training image comes out of fold: from a network that was not trained on it. Stage 2, r, is a network of the distilled
set, taught by the q of all images; it never saw a real image, though its images were made from them and its teacher
did see them, so that r is flattered. Every (a, b) of a grid is scored by the class-balanced accuracy and
log-likelihood of the pool on the training images. No test image is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ltdd_core import configure, load_distilled
from ltdd_core.catalog import Catalog
from ltdd_core.data import load_long_tailed
from ltdd_core.devices import prepare_device
from ltdd_core.evaluation import make_trainer, training_sets
from ltdd_core.plugins import load_plugins
from ltdd_core.progress import Display
from ltdd_core.run import RunFolder, StopRequest
from ltdd_twostage.calibration import balanced_nll, out_of_fold, predictions
from ltdd_twostage.head import TwoStageHead
from ltdd_twostage.labels import TaughtHead, taught
from ltdd_twostage.stages import group_sums, pooled


def parts(log_p: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the group, and of the class within it."""
    sums = group_sums(log_p, groups)
    return sums, log_p - sums[:, groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--taught", type=float, default=0.5)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--step", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, help="on the original set; else as the run has it")
    given = parser.parse_args()

    stored = RunFolder(given.run).stored_config()
    stored.pop("recipe"), stored.pop("head")
    if given.epochs:
        stored["training"]["original"]["epochs"] = given.epochs
    config, catalog = configure(**stored), Catalog(load_plugins())
    data, distilled = load_long_tailed(config.data.name, config.data.make()), load_distilled(given.run)
    trainer = make_trainer(
        config, prepare_device(config), data.image_shape,
        seed=config.run.seed, catalog=catalog, stop=StopRequest(), display=Display(), learned=distilled.training,
    )  # fmt: skip
    sets = training_sets(config, data, distilled, catalog)
    original, own = sets["original"], sets["distilled"]
    head = trainer.component("head", {"name": "balanced-softmax"})
    teacher = predictions(head.fit([original], trainer), own, trainer)
    pupil = TaughtHead(TaughtHead.Options(weight=given.taught))
    r = predictions(pupil.fit([taught(own, teacher)], trainer), original, trainer)
    q = out_of_fold(head, original, given.folds, trainer, "classes", {})
    groups = TwoStageHead(TwoStageHead.Options(preset="paper")).partition(original, trainer, head)

    labels, classes = original.hard_labels(), torch.arange(original.classes)
    (q_group, q_within), (r_group, r_within) = parts(q, groups), parts(r, groups)
    print(f"{given.run.name}: groups {groups.tolist()}; class-balanced, training images, stage 1 out of fold")
    print("   a     b   accuracy  log-likelihood")
    steps = torch.arange(0, 1 + 1e-9, given.step).tolist()
    for a in steps:
        for b in steps:
            log_p = (pooled(a, q_group, r_group)[:, groups] + pooled(b, q_within, r_within)).log_softmax(1)
            right = log_p.argmax(1) == labels
            accuracy = 100 * torch.stack([right[labels == label].float().mean() for label in classes]).mean()
            print(f"{a:.2f}  {b:.2f}  {accuracy:9.2f}  {-balanced_nll(log_p, labels):14.4f}")


if __name__ == "__main__":
    main()
