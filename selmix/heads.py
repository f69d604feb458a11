"""The linear head: a classifier on features."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier, logits = features W^T + b.

    Attributes:
        weight: [k, d].
        bias: [k]; zeros for a head without bias.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    @property
    def num_classes(self) -> int:
        """Return k."""
        return self.weight.shape[0]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, d] to logits [n, k]."""
        return torch.addmm(self.bias, features, self.weight.T)

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, d] to predictions, int64 [n]."""
        return self.logits(features).argmax(1)
