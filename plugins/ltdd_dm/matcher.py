"""Distribution matching (Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023).

Each step takes a fresh random network psi and lowers the loss of the paper,

    sum_c || mean_{x in T_c} psi(A(x; w_c)) - mean_{s in S_c} psi(A(s; w_c)) ||^2,

where T_c are up to 256 real images of class c, S_c are its synthetic images, and A is the differentiable
augmentation with one draw w_c per class.  Defaults are those of the authors' public code.  Classes go through
the network together, as many as there is room for; the real images go without gradient, a few at a time.
"""

from __future__ import annotations

from torch import Tensor

from ltdd_core import Batch, BatchMatcher, Network, class_means, embed_without_gradient


class DistributionMatcher(BatchMatcher):
    """Match the mean feature of each class in random networks."""

    citation = """@inproceedings{zhao2023dm,
  title = {Dataset Condensation with Distribution Matching},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year = {2023}
}"""
    sums_over_classes = True
    take_first = (
        "minutes on a CPU are enough for it, and it needs no teacher. "
        "`ltdd compare-methods --data NAME --minutes 10` finds out which method is the best on your images."
    )

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """Squared distance of the class means, summed over classes and features."""
        target = class_means(embed_without_gradient(network, real.images, self.task.chunk), real.counts)
        current = class_means(network.embed(synthetic.images), synthetic.counts)
        return (target - current).square().sum()
