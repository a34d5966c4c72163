"""A tiny long-tailed set, and the contract that every component keeps, as functions to call in a test.

::

    from ltdd_core.testing import check_matcher

    def test_contract():
        check_matcher(MyMatcher)

A check that fails raises :class:`ContractError`, which says what the contract asks and where it is written.
"""

from ltdd_core.testing.classifiers import check_head, check_labeller, check_network, check_recipe
from ltdd_core.testing.contract import ContractError
from ltdd_core.testing.images import check_augmentation, check_data, check_sampler
from ltdd_core.testing.launchers import check_launcher
from ltdd_core.testing.matchers import check_matcher
from ltdd_core.testing.tiny import IPC, PlainSampler, tiny_long_tailed, tiny_network, tiny_task, tiny_trainer

__all__ = [
    "IPC",
    "ContractError",
    "PlainSampler",
    "check_augmentation",
    "check_data",
    "check_head",
    "check_labeller",
    "check_launcher",
    "check_matcher",
    "check_network",
    "check_recipe",
    "check_sampler",
    "tiny_long_tailed",
    "tiny_network",
    "tiny_task",
    "tiny_trainer",
]
