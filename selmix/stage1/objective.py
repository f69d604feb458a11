"""What a loop minimises: a loss per image, weighted by class, averaged over a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every sample, [b]."""
    return F.cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True)
class Objective:
    """A loss per image, weighted by class, averaged over a batch.

    Attributes:
        losses: (logits [b, k], labels [b]) -> [b].
        class_weights: [k]; None where all classes weigh 1.
        weights_from: the first epoch, from 0, in which they do (deferred re-weighting).
        divide_by: what the weighted losses of a batch are divided by: the number of images, as the authors of the
            class-balanced loss do, or the sum of weights, as `torch.nn.functional.cross_entropy` does.
        cosine_scale: where the losses want cosines for logits, what they multiply them with; else None.
        one_vs_rest: whether the losses judge each class against the rest.
    """

    losses: Losses = cross_entropy
    class_weights: torch.Tensor | None = None
    weights_from: float = 0
    divide_by: Literal["batch", "weight"] = "batch"
    cosine_scale: float | None = None
    one_vs_rest: bool = False

    def share(self, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, *, epoch: int) -> torch.Tensor:
        """Return what some rows contribute to the mean loss of a batch; the shares of all rows add up to it.

        Args:
            logits: [m, k], of these rows.
            labels: int64 [b], of the whole batch.
            rows: int64 [m].
            epoch: from 0.
        """
        losses = self.losses(logits, labels[rows])
        if self.class_weights is None or epoch < self.weights_from:
            return losses.sum() / len(labels)
        weights = self.class_weights.to(logits)[labels]
        return (weights[rows] * losses).sum() / (weights.sum() if self.divide_by == "weight" else len(labels))
