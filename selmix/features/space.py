"""The space in which heads are tuned: centred features of unit mean square, with a constant 1 for the bias."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from selmix.features.rows import Rows, read_dtype, row_blocks
from selmix.heads import LinearHead
from selmix.ranks import ALONE, Ranks


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
    def fit(cls, features: Rows, *, ranks: Ranks = ALONE) -> "FeatureSpace":
        """Centre and scale by the features [n, d] of all ranks, read once, in blocks; statistics in float64."""
        count, squares = 0, 0.0
        centre = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        for _, rows in row_blocks(features):
            own = rows.to(torch.float64, copy=True)
            own_centre = own.mean(0)
            apart = own_centre - centre
            # squares around the common centre: those around the two centres, and those of the centres themselves
            own = own.sub_(own_centre).flatten()
            squares += float(own @ own) + float(apart @ apart) * count * len(rows) / (count + len(rows))
            count += len(rows)
            centre += apart * (len(rows) / count)
        if ranks.count > 1:
            everyone = float(ranks.total(torch.tensor(count, dtype=torch.float64)))
            common = ranks.total(centre * count) / everyone
            apart = centre - common
            squares = float(ranks.total(torch.tensor(squares + float(apart @ apart) * count, dtype=torch.float64)))
            centre, count = common, int(everyone)
        return cls(centre.to(read_dtype(features)), (squares / count) ** 0.5 or 1.0)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [..., d] to [..., d + 1]: centred, scaled, with a last column of ones."""
        encoded = features.new_ones(*features.shape[:-1], features.shape[-1] + 1)
        torch.sub(features, self.centre, out=encoded[..., :-1]).mul_(1 / self.scale)
        return encoded

    def encode_head(self, head: LinearHead) -> torch.Tensor:
        """Return the weight [k, d + 1] that gives the head's logits on encoded features."""
        bias = head.bias + head.weight @ self.centre
        return torch.cat([head.weight * self.scale, bias.unsqueeze(1)], dim=1)

    def encode_heads(self, heads: Sequence[LinearHead]) -> torch.Tensor:
        """Return the weights [h, k, d + 1] of several heads."""
        return torch.stack([self.encode_head(head) for head in heads])

    def decode_head(self, weight: torch.Tensor) -> LinearHead:
        """Return the head on plain features that gives the logits of `weight` [k, d + 1] on encoded ones."""
        plain = weight[:, :-1] / self.scale
        return LinearHead(plain, weight[:, -1] - plain @ self.centre)

    def predict(self, weight: torch.Tensor, features: Rows, *, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Return the predictions of a head on plain features, read in blocks.

        Args:
            weight: [k, d + 1] on encoded features.
            features: [n, d].
            positions: int64 [m], the rows to predict; all n, if not given.

        Returns:
            int64 [m].
        """
        blocks = row_blocks(features, positions)
        return torch.cat([(self.encode(rows) @ weight.T).argmax(1) for _, rows in blocks])
