"""k nearest neighbours, every class with the same weight in the vote."""

from dataclasses import dataclass

import torch

from selmix.features.labeled import LabeledFeatures
from selmix.features.space import FeatureSpace

NEIGHBOURS = 20
_BLOCK = 4096  # queries at once, where faiss is missing


def nearest(bank: torch.Tensor, queries: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions in the bank of each query's nearest neighbours in Euclidean distance, nearest first.

    Args:
        bank: float32 [n, d].
        queries: float32 [m, d].
        count: neighbours; where it exceeds n, the rest is -1.

    Returns:
        int64 [m, count].
    """
    try:
        import faiss
    except ImportError:
        return _nearest_by_torch(bank, queries, count)
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank.contiguous().numpy())
    return torch.from_numpy(index.search(queries.contiguous().numpy(), count)[1])


def _nearest_by_torch(bank: torch.Tensor, queries: torch.Tensor, count: int) -> torch.Tensor:
    found = min(count, len(bank))
    blocks = [torch.cdist(block, bank).topk(found, largest=False).indices for block in queries.split(_BLOCK)]
    return torch.nn.functional.pad(torch.cat(blocks), (0, count - found), value=-1)


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
        found = nearest(self.bank, self.space.encode(features), self.count)
        weight = 1 / torch.bincount(self.labels, minlength=self.num_classes).double()
        voters = self.labels[found]
        votes = torch.zeros(len(features), self.num_classes, dtype=torch.float64)
        votes.scatter_add_(1, voters, weight[voters].masked_fill(found < 0, 0))  # -1 is nobody
        return (votes / votes.sum(1, keepdim=True)).log()
