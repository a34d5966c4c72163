"""Time, memory and quality of partitions: 10, 100 and 1,000 classes with 50 images of 512 features each.

    python benchmarks/partition_speed.py

Quality: how often the local search finds the exact cut, and how far cuts are below the spectral bound.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import time

import numpy as np
import torch

from ltdd_core import generator
from ltdd_core.distillation.partition import _exact_cut, _local_search, class_distances, cut_value, max_cut
from ltdd_twostage.agreement import spectral_bound

IMAGES, FEATURES, CENTRES = 50, 512, 5


def instance(classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator(seed, "instance")
    means = torch.randn(classes, FEATURES, generator=draws)
    labels = torch.arange(classes).repeat_interleave(IMAGES)
    return means[labels] + torch.randn(len(labels), FEATURES, generator=draws), labels


def main() -> None:
    for classes, groups in itertools.product((10, 100, 1000), (2, 3)):
        features, labels = instance(classes, 0)
        began = time.perf_counter()
        distances = class_distances(features, labels, classes, CENTRES, 0)
        between = time.perf_counter()
        member = max_cut(distances, groups)
        ended = time.perf_counter()
        share = cut_value(distances.numpy(), member.numpy()) / spectral_bound(distances, groups)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{classes:5d} classes, {groups} groups: distances {between - began:.2f} s, cut {ended - between:.2f} s, "
            f"{100 * share:.1f} % of the bound, peak {peak:.2f} GB"
        )
    for classes in (4, 8, 12, 16):
        right, gaps = 0, []
        for seed in range(50):
            points = torch.randn(classes, 3, generator=generator(seed, "points"), dtype=torch.float64)
            weights, draws = torch.cdist(points, points).numpy(), generator(seed, "starts")
            exact = cut_value(weights, _exact_cut(weights))
            starts = [torch.randperm(classes, generator=draws).numpy() % 2 for _ in range(50)]
            found = max(cut_value(weights, _local_search(weights, start, 2)) for start in starts)
            right += bool(np.isclose(found, exact))
            gaps.append(exact / spectral_bound(torch.from_numpy(weights), 2))
        print(
            f"{classes:5d} classes: exact in {right} of 50; "
            f"the exact cut is {100 * statistics.mean(gaps):.1f} % of the bound"
        )


if __name__ == "__main__":
    main()
