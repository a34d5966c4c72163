"""Matching of class means at every layer: the alignment term of CAFE.

Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, equation 1:

    sum_c sum_l lambda_l || mean_{x in T_c} F_l(x) - mean_{s in S_c} F_l(s) ||^2,

F_l being the maps of layer l.  The discrimination loss and the training of the network are left out.
"""

from torch import nn

from ltdd_core import ClassMatcher, hookimpl, option


class LayerMeans(ClassMatcher):
    """Match the mean of each class at every convolution and at the features."""

    class Options(ClassMatcher.Options):
        """How much the maps count beside the features."""

        weight: float = option(0.1, "weight of a convolution's maps; the features weigh 1", ge=0)

    def class_loss(self, network, real, synthetic):
        """Squared distance of the class means, summed over layers."""
        pairs = zip(layer_means(network, real), layer_means(network, synthetic), strict=True)
        *maps, features = [(target.detach() - current).square().sum() for target, current in pairs]
        return features + self.options.weight * sum(maps)


def layer_means(network, images):
    """The mean over images of every convolution's maps, first layer first, and of the features."""
    seen = []
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, maps: seen.append(maps.mean(0))) for layer in convolutions
    ]
    try:
        features = network.embed(images).mean(0)
    finally:
        for hook in hooks:
            hook.remove()
    return [*seen, features]


@hookimpl
def ltdd_register_matchers(register):
    """``--method layer-means``."""
    register("layer-means", LayerMeans)
