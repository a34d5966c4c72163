"""Hierarchical training (Zheng et al., ICMSSP 2024, section on two-stage classification).

Stage 1, which tells groups of classes apart, learns from the whole long-tailed set, since groups are far
less imbalanced than classes; stage 2, which tells the classes of a group apart, from the distilled set,
which is balanced.  The paper's ablation trains both stages on the same kind of data.
"""

from __future__ import annotations

from typing import Literal

from ltdd_core import BaseOptions, InputError, Recipe, how_to_set, option

Which = Literal["original", "distilled"]


class Hierarchical(Recipe):
    """Stage 1 on the original set and stage 2 on the distilled one."""

    class Options(BaseOptions):
        """The set of each stage."""

        stage1: Which = option("original", "training set of stage 1", source="Zheng et al. 2024")
        stage2: Which = option("distilled", "training set of stage 2", source="Zheng et al. 2024")

    def assign(self, stages: int) -> tuple[str, ...]:
        """The training set of each stage.

        Raises:
            InputError: the head has one stage, or more than two.
        """
        if stages != 2:
            raise InputError(
                f"recipe 'hierarchical' trains two stages but the head has {stages}: "
                f"use a head of two stages, or {how_to_set('recipe.name', 'direct')}."
            )
        return self.options.stage1, self.options.stage2
