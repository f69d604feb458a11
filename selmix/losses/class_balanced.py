"""The class-balanced loss: weights by effective number of samples, and the one-against-the-rest losses they go with.

The weight of a sample's own class multiplies its whole loss, whatever the loss. Source of all: Cui et al.,
"Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

import math

import torch
from torch.nn import functional as F


def effective_number(class_counts: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return (1 - beta^n) / (1 - beta) of every class, float64 [k]: 1 at beta = 0, n in the limit beta = 1.

    Args:
        class_counts: [k] training samples.
        beta: in [0, 1].

    Source: equation 2.
    """
    counts = class_counts.double()
    if beta == 1:
        return counts
    return -torch.expm1(counts * (math.log(beta) if beta else -math.inf)) / (1 - beta)


def class_balanced_weights(class_counts: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return weights inverse to the effective numbers that sum to k, float64 [k].

    Args:
        class_counts: [k] training samples, each >= 1.
        beta: in [0, 1]; 0 makes all weights 1, and 1 is inverse frequency.

    Source: section 4.
    """
    inverse = 1 / effective_number(class_counts, beta=beta)
    return inverse * len(inverse) / inverse.sum()


def sigmoid_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropies of every class against the rest, summed up for every sample, [b].

    Args:
        logits: [b, k].
        labels: int64 [b].

    Source: section 4.2.
    """
    return -F.logsigmoid(_towards_truth(logits, labels)).sum(1)


def sigmoid_focal(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return the sum over classes of (1 - p_t)^gamma times the binary cross-entropy, of every sample, [b].

    p_t is the probability of the truth, which for all classes but the sample's own is that it is not of that class.

    Args:
        logits: [b, k].
        labels: int64 [b].
        gamma: >= 0; 0 is `sigmoid_cross_entropy`.

    Source: section 4.3; Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4.
    """
    signed = _towards_truth(logits, labels)
    # 1 - p_t = sigmoid(-signed), by its logarithm: the power stays differentiable at 0
    return -((gamma * F.logsigmoid(-signed)).exp() * F.logsigmoid(signed)).sum(1)


def _towards_truth(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Turn the sign of all logits but that of the own class."""
    own = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    return torch.where(own, logits, -logits)


def one_vs_rest_bias(num_classes: int) -> float:
    """Return the bias at which each of k classes against the rest has probability 1 / k: -log(k - 1).

    Source: section 4.4.
    """
    return -math.log(num_classes - 1)
