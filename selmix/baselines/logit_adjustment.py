"""Post-hoc logit adjustment."""

import torch

from selmix.baselines.choice import best_for
from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead
from selmix.metrics import MetricFunction

STRENGTHS = torch.linspace(0, 3, 61).tolist()


def logit_adjusted(head: LinearHead, class_counts: torch.Tensor, *, strength: float = 1.0) -> LinearHead:
    """Subtract strength * log(prior) from the logits of a head trained on long-tailed data.

    Args:
        head: trained with plain cross-entropy.
        class_counts: [k] training samples per class, all positive.
        strength: tau; 1 is Fisher-consistent for the balanced error.

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, equation 9.
    """
    prior = class_counts.double() / class_counts.sum()
    return LinearHead(head.weight, head.bias - strength * prior.log().to(head.bias))


def tuned_logit_adjustment(
    head: LinearHead, class_counts: torch.Tensor, val: LabeledFeatures, metric: MetricFunction
) -> LinearHead:
    """Return the adjusted head whose tau, of `STRENGTHS`, is the best for the metric on val."""
    candidates = [logit_adjusted(head, class_counts, strength=strength) for strength in STRENGTHS]
    return best_for(candidates, lambda candidate: candidate.logits(val.tensor), val.labels, metric)
