"""How far two gradients of the same network lie apart (Zhao, Mopuri & Bilen, ICLR 2021, eq. 10; public code).

A gradient is a mapping from the names of parameters to tensors in the parameters' shapes.  Every distance is
a scalar that can be differentiated in its first argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Gradient = Mapping[str, Tensor]
Distance = Callable[[Gradient, Gradient], Tensor]

EPSILON = 1e-6  # beside the product of the norms; DC's public code


def layerwise_cosine(gradient: Gradient, target: Gradient) -> Tensor:
    """``1 - cos`` of the weights of each output, summed over outputs and layers: the paper's distance.

    The weights of an output are a row: ``[out, in * h * w]`` of a convolution, ``[out, in]`` of a linear
    layer.  Parameters with one dimension (biases, affine normalisation) do not count.
    """
    distances = [
        (1 - _cosine(_rows(gradient[name]), _rows(target[name]))).sum() for name in gradient if gradient[name].dim() > 1
    ]
    return torch.stack(distances).sum()


def cosine(gradient: Gradient, target: Gradient) -> Tensor:
    """``1 - cos`` of the whole gradients, all parameters in one vector."""
    return 1 - _cosine(_vector(gradient.values()), _vector(target[name] for name in gradient))


def mse(gradient: Gradient, target: Gradient) -> Tensor:
    """The squared differences of all parameters, summed; the public code's ``mse`` is no mean either."""
    return (_vector(gradient.values()) - _vector(target[name] for name in gradient)).square().sum()


DISTANCES: Mapping[str, Distance] = {"layerwise-cosine": layerwise_cosine, "cosine": cosine, "mse": mse}


def compares(distance: str, parameter: Tensor) -> bool:
    """Whether a distance looks at a parameter's gradient at all; if not, it need not be computed."""
    return distance != "layerwise-cosine" or parameter.dim() > 1


def _cosine(u: Tensor, v: Tensor) -> Tensor:
    """Along the last dimension; 0 where a vector is zero."""
    return (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1) + EPSILON)


def _rows(gradient: Tensor) -> Tensor:
    return gradient.flatten(1)


def _vector(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
