"""Focal loss on softmax probabilities."""

import math

import torch


def focal(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return (1 - p_y)^gamma times the cross-entropy of every sample, [b].

    Args:
        logits: [b, k], k >= 2.
        labels: int64 [b].
        gamma: >= 0; 0 is cross-entropy.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, with the softmax.
    """
    truth = labels[:, None]
    logits = logits - logits.amax(1, keepdim=True).detach()  # a common offset would cost float32 its digits
    normaliser = logits.logsumexp(1)
    # 1 - p_y is what the others have; by its logarithm the power stays exact and differentiable near 0
    others = logits.scatter(1, truth, -math.inf).logsumexp(1) - normaliser
    return (gamma * others).exp() * (normaliser - logits.gather(1, truth).squeeze(1))
