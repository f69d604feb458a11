"""The space in which heads are tuned: centred features of unit mean square, with a constant 1 for the bias."""

from dataclasses import dataclass

import torch

from selmix.heads import LinearHead


@dataclass(frozen=True)
class FeatureSpace:
    """An affine change of coordinates that leaves logits alone and makes learning rates mean the same everywhere.

    Attributes:
        centre: [d] subtracted from every feature.
        scale: root mean square norm of the centred features; > 0.
    """

    centre: torch.Tensor
    scale: float

    @classmethod
    def fit(cls, features: torch.Tensor) -> "FeatureSpace":
        """Centre and scale by the features [n, d], statistics in float64."""
        exact = features.double()
        centre = exact.mean(0)
        scale = float((exact - centre).square().sum(1).mean().sqrt())
        return cls(centre.to(features), scale or 1.0)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, d] to [n, d + 1]: centred, scaled, with a last column of ones."""
        ones = features.new_ones(len(features), 1)
        return torch.cat([(features - self.centre) / self.scale, ones], dim=1)

    def encode_head(self, head: LinearHead) -> torch.Tensor:
        """Return the weight [k, d + 1] that gives the head's logits on encoded features."""
        bias = head.bias + head.weight @ self.centre
        return torch.cat([head.weight * self.scale, bias.unsqueeze(1)], dim=1)

    def decode_head(self, weight: torch.Tensor) -> LinearHead:
        """Return the head on plain features that gives the logits of `weight` [k, d + 1] on encoded ones."""
        plain = weight[:, :-1] / self.scale
        return LinearHead(plain, weight[:, -1] - plain @ self.centre)
