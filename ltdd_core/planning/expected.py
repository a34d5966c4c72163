"""Whether a run is going to take long, and then its plan: a short run is not kept waiting for one."""

from __future__ import annotations

import math

from ltdd_core.distillation.matcher import Matcher
from ltdd_core.planning.plan import Plan, plan
from ltdd_core.planning.sizes import DataSizes
from ltdd_core.seeding import global_generator
from ltdd_core.setup import ORIGINAL, Setup
from ltdd_core.training.cost import FORWARD_AND_BACKWARD, multiply_adds

LONG = 600.0
"""Seconds from which on a user is told of the plan."""
MAY_BE_LONG = {"cpu": 1e13, "cuda": 3e14}
"""Multiply-adds below which a run takes less time than that, however slow the machine is."""
MANY_STEPS = 20_000
"""Steps below which a run of small networks does."""


def plan_if_long(setup: Setup) -> Plan | None:
    """The plan of a run that is expected to take more than ten minutes; None of a shorter one.

    Args:
        setup: of the run, which is about to begin.
    """
    if not _may_be_long(setup):
        return None
    data = setup.data
    sizes = DataSizes(data.name, data.counts, data.image_shape, len(data.test_labels), data.class_names, decoding=0.0)
    found = plan(setup.config, sizes, catalog=setup.catalog)
    return found if found.seconds > LONG else None


def _may_be_long(setup: Setup) -> bool:
    """A look at the steps of the method and at one training on the long-tailed set, which takes no time."""
    config, images = setup.config, len(setup.data.train_labels)
    matcher: Matcher = config.matcher.make()
    steps = config.run.iterations if matcher.iterative else 0
    training = setup.trainer().options[ORIGINAL]
    epochs = training.passes(images)
    seen = steps * matcher.images_per_step(setup.data.counts, setup.ipc_of_class) + epochs * images
    with global_generator(0, "a network to count with"):
        network = setup.make_network(setup.data.image_shape, setup.data.classes).eval()
    work = FORWARD_AND_BACKWARD * seen * multiply_adds(network, setup.data.image_shape)
    return work > MAY_BE_LONG[setup.device.type] or steps + epochs * math.ceil(images / training.batch) > MANY_STEPS
