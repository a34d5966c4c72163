"""Losses for long-tailed sets, of logits z ``[n, C]`` and labels: int64 ``[n]``, or y float ``[n, C]``.

Each returns the mean over the images, except the margin loss, which divides by their weights.  For soft labels, the
term of each class is weighted with its probability in the label; a hard label gives the formula of the paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import Loss, WeightedLoss, cross_entropy


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Weight of each class, (1 - beta) / (1 - beta^n_c), scaled to sum to C (Cui et al., CVPR 2019, equation 3).

    Args:
        counts: float64 ``[C]``; a class with less than one image counts as one.
        beta: from 0, where all classes have the same weight, to below 1; near 1 weights are proportional to 1 / n_c.
    """
    # 1 - beta^n would lose its digits where beta is almost 1.
    weights = (1 - beta) / -torch.expm1(counts.clamp(min=1) * math.log(beta)) if beta else torch.ones_like(counts)
    return weights * len(counts) / weights.sum()


def power_weights(counts: Tensor, q: float) -> Tensor:
    """Weight of each class, n_c^-q, scaled to sum to C (GLMC, public code).

    Args:
        counts: float64 ``[C]``; a class with less than one image counts as one.
        q: the exponent, 0 or more.
    """
    weights = counts.clamp(min=1) ** -q
    return weights * len(counts) / weights.sum()


def weighted_cross_entropy(weights: Tensor) -> Loss:
    """-w_y log p_y, with weights ``[C]``; the plain mean over the images, as Cui et al., CVPR 2019, have it."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        class_weights = weights.to(logits)
        return -(_soft(labels, logits) * class_weights * logits.log_softmax(1)).sum(1).mean()

    return loss


def focal(gamma: float, weights: Tensor | None = None) -> Loss:
    """-w_y (1 - p_y)^gamma log p_y (Lin et al., ICCV 2017, equation 4; with the softmax, as LDAM's code has it)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        class_losses = -((1 - log_p.exp()).clamp(min=0) ** gamma) * log_p
        if weights is not None:
            class_losses = class_losses * weights.to(logits)
        return (_soft(labels, logits) * class_losses).sum(1).mean()

    return loss


def log_prior(counts: Tensor) -> Tensor:
    """Log pi_c = log(n_c / N) ``[C]``; a class with less than one image counts as one."""
    images = counts.clamp(min=1)
    return (images / images.sum()).log()


def prior_adjusted(counts: Tensor, tau: float) -> Loss:
    """Cross-entropy of z + tau log pi (Menon et al., ICLR 2021, equation 10).

    With tau = 1 it is balanced softmax (Ren et al., NeurIPS 2020, equation 4): log n_c differs from log pi_c by a
    constant, which no softmax sees.
    """
    shift = tau * log_prior(counts)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits + shift.to(logits), labels)

    return loss


def margins(counts: Tensor, largest: float) -> Tensor:
    """Margin of each class, proportional to n_c^(-1/4), ``largest`` that of the rarest (LDAM, equation 13)."""
    relative = counts.clamp(min=1) ** -0.25
    return largest * relative / relative.max()


def margin_loss(margin: Tensor, scale: float, weights: Tensor) -> WeightedLoss:
    """-w_y log softmax(z - s m_y e_y)_y (Cao et al., NeurIPS 2019, equation 12); z are s times cosines.

    The sum over a batch is divided by the sum of its weights, as LDAM-DRW's public code does.

    Args:
        margin: m ``[C]``, in units of cosines.
        scale: s.
        weights: ``[C]``.
    """

    def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
        soft = _soft(labels, logits)
        log_p = (logits - scale * margin.to(logits) * soft).log_softmax(1)
        return -(soft * weights.to(logits) * log_p).sum(1)

    def weight(labels: Tensor) -> Tensor:
        class_weights = weights.to(labels.device)
        return class_weights[labels] if labels.dim() == 1 else labels.to(class_weights) @ class_weights

    return WeightedLoss(image_losses, weight)


def _soft(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels as probabilities ``[n, C]``."""
    return F.one_hot(labels, logits.shape[1]).to(logits) if labels.dim() == 1 else labels.to(logits)
