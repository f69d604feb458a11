"""Learnable weight scaling: keep the directions of a head's rows, learn how long each should be."""

import torch
from torch.nn import functional as F

from selmix.features.labeled import LabeledFeatures
from selmix.heads import LinearHead

ITERATIONS = 200


def scaled_head(head: LinearHead, data: LabeledFeatures, *, decay: float = 5e-4) -> LinearHead:
    """Multiply each logit by a factor s_k that minimises class-balanced cross-entropy plus decay/2 |s|^2.

    The problem is convex in s [k], so it is solved by L-BFGS on all samples; the authors take SGD on class-balanced
    batches. As in their code the bias is scaled, too.

    Args:
        head: its logits are fixed but for their factors.
        data: every class must have a sample.
        decay: L2 coefficient.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section 4.
    """
    logits = head.logits(data.tensor).double()
    counts = torch.bincount(data.labels, minlength=head.num_classes)
    scale = torch.ones(head.num_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scale], max_iter=ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        # weight 1 / n_k and mean reduction: every class counts the same
        value = F.cross_entropy(logits * scale, data.labels, weight=1 / counts.double())
        value = value + decay / 2 * scale.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    factors = scale.detach().to(head.weight)
    return LinearHead(head.weight * factors.unsqueeze(1), head.bias * factors)
