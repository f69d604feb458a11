"""Post-hoc logit adjustment."""

import torch

from selmix.heads import LinearHead


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
