"""A model of timm whose blocks are left out at random while it is trained."""

import timm

from ltdd_core import Backbone, option


class StochasticDepth(Backbone):
    """A model of timm with stochastic depth."""

    argument = "model"

    class Options(Backbone.Options):
        """The model, and how often a block is left out."""

        model: str = option("test_resnet", "model of timm")
        drop: float = option(0.1, "probability that the last block is left out; of earlier ones it is smaller", ge=0)

    def model(self, channels, size, options):
        """Without its classifier."""
        body = timm.create_model(options.model, in_chans=channels, num_classes=0, drop_path_rate=options.drop)
        return body, "fc"
