"""Four small images in each that is stored: multi-formation of IDC.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, with factor 2: a network
sees each quarter of a stored image at full size.  What is matched is the mean feature of each class.
"""

import torch
from torch.nn import functional as F

from ltdd_core import ClassMatcher, hookimpl


class FourTiles(ClassMatcher):
    """Match the mean feature of each class; every stored image holds four."""

    def prepare(self, task):
        """Start from four real images in each."""
        super().prepare(task)
        with torch.no_grad():
            self.images.copy_(task.initial_tiles(2))

    def decode(self, images):
        """Each quarter at the size of the whole."""
        tiles = [F.interpolate(quarter, images.shape[2:], mode="bilinear") for quarter in quarters(images)]
        return torch.stack(tiles, 1)

    def class_loss(self, network, real, synthetic):
        """Squared distance of the mean features."""
        return (network.embed(real).mean(0).detach() - network.embed(synthetic).mean(0)).square().sum()


def quarters(images):
    """The four quarters of images, as views."""
    return [quarter for half in images.tensor_split(2, 2) for quarter in half.tensor_split(2, 3)]


@hookimpl
def ltdd_register_matchers(register):
    """``--method four-tiles``."""
    register("four-tiles", FourTiles)
