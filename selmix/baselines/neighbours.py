"""k nearest neighbours, every class with the same weight in the vote."""

from dataclasses import dataclass

import torch

from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace
from selmix.neighbours import NeighbourIndex

NEIGHBOURS = 20


@dataclass(frozen=True)
class NeighbourVote:
    """A classifier by the vote of the nearest neighbours, each with weight 1 / (samples of its class).

    Attributes:
        space: where distances are taken.
        bank: float32 [n, d + 1], encoded.
        labels: int64 [n].
        num_classes: k.
        count: neighbours that vote.
    """

    space: FeatureSpace
    bank: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    count: int = NEIGHBOURS

    @classmethod
    def fit(cls, data: LabeledFeatures, num_classes: int) -> "NeighbourVote":
        """Remember the samples; every class must have one."""
        space = FeatureSpace.fit(data.tensor)
        return cls(space, space.encode(data.tensor), data.labels, num_classes)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the log of each class's share of the votes, [n, k]; -inf without a vote."""
        found = NeighbourIndex(self.bank, euclidean=True).search(self.space.encode(features), self.count).positions
        weight = 1 / torch.bincount(self.labels, minlength=self.num_classes).double()
        voters = self.labels[found]
        votes = torch.zeros(len(features), self.num_classes, dtype=torch.float64)
        votes.scatter_add_(1, voters, weight[voters].masked_fill(found < 0, 0))  # -1 is nobody
        return (votes / votes.sum(1, keepdim=True)).log()
