"""Tau-normalisation: rows of the weight matrix of long-tailed heads are longer for frequent classes; shorten them."""

import torch

from selmix.baselines.choice import best_for
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import MetricFunction

EXPONENTS = torch.linspace(0, 2, 41).tolist()


def tau_normalised(head: LinearHead, *, exponent: float, keep_bias: bool = False) -> LinearHead:
    """Divide every row of the weight by its Euclidean norm to the power `exponent`.

    Args:
        head: trained on long-tailed data.
        exponent: tau; 0 keeps the weight, 1 makes all rows unit vectors.
        keep_bias: divide the bias likewise, so that whole logits are rescaled; the authors drop it, which is harmless
            where it is small.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section 4.
    """
    norms = head.weight.norm(dim=1)
    divisor = torch.where(norms > 0, norms, 1) ** exponent
    bias = head.bias / divisor if keep_bias else torch.zeros_like(head.bias)
    return LinearHead(head.weight / divisor.unsqueeze(1), bias)


def tuned_tau_norm(head: LinearHead, val: LabeledFeatures, metric: MetricFunction) -> LinearHead:
    """Return the best for the metric on val, over tau in `EXPONENTS` and with or without the bias."""
    candidates = [
        tau_normalised(head, exponent=exponent, keep_bias=keep) for keep in (False, True) for exponent in EXPONENTS
    ]
    return best_for(candidates, lambda candidate: candidate.logits(val.tensor), val.labels, metric)
