"""The vote of the nearest labeled samples, under any class prior, with any fold left out of it.

Similarity is the cosine after the labeled samples have been centred (the mean of the class means is taken off), done
here: features come as they are. A neighbour at similarity s has weight exp(s / temperature); a class c with n_c samples
in the bank that may vote has the sum of its weights times prior_c / n_c, which estimates prior_c p(x | c), and so the
votes, normalised, estimate p(c | x) in a pool of that prior.

One search serves all heads of a cross-fit: more neighbours are found than vote, and a head leaves out those of its
fold.

Source: Wu et al., CVPR 2018 (the weights and their temperature, 0.07).
"""

from dataclasses import dataclass

import torch

from selmix.errors import check_settings
from selmix.features.rows import Rows, dense, row_blocks
from selmix.neighbours import NeighbourIndex


@dataclass(frozen=True)
class VoteSettings:
    """How neighbours vote.

    Attributes:
        count: neighbours that vote; fewer, if there are no more.
        temperature: of the weights.
        margin: between the shares of the best two classes, under which a query abstains.
    """

    count: int = 20
    temperature: float = 0.07
    margin: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot mean anything."""
        check_settings(
            self,
            {
                "count": (">= 1", self.count >= 1),
                "temperature": ("> 0", self.temperature > 0),
                "margin": ("in [0, 1)", 0 <= self.margin < 1),
            },
        )


class UnitSpace:
    """Centred features of unit length; a feature at the centre itself is the zero vector, like nobody."""

    def __init__(self, features: Rows, labels: torch.Tensor, num_classes: int) -> None:
        """Take the mean of the class means [k, d] of finite rows [n, d] for the centre, in float64.

        All labels have a part in it, those of a fold that is left out, too: a common shift, not a vote.
        """
        sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
        counts = torch.zeros(num_classes, dtype=torch.float64)
        for block, rows in row_blocks(features):
            finite = rows.isfinite().all(1)
            own = labels[block][finite]
            sums.index_add_(0, own, rows[finite].double())
            counts += torch.bincount(own, minlength=num_classes)
        self.centre = (sums / counts.clamp_min(1)[:, None]).sum(0) / (counts > 0).sum().clamp_min(1)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [m, d] of length 1."""
        return torch.nn.functional.normalize(features - self.centre.to(features.dtype), dim=1).float()


class VotingBank:
    """The labeled samples, ready to be searched."""

    def __init__(
        self,
        features: Rows,
        labels: torch.Tensor,
        num_classes: int,
        *,
        folds: torch.Tensor | None = None,
        lists: bool = False,
    ) -> None:
        """Prepare the search.

        Args:
            features: [n, d]; n may be 0.
            labels: int64 [n].
            num_classes: k.
            folds: int64 [n], -1 = of none; none has one, if not given.
            lists: search in inverted lists, as in `NeighbourIndex`.
        """
        plain = dense(features)
        self.space = UnitSpace(plain, labels, num_classes)
        self.labels = labels
        self.folds = torch.full_like(labels, -1) if folds is None else folds
        self.num_folds = int(self.folds.max()) + 1 if len(labels) else 0
        everyone = torch.bincount(labels, minlength=num_classes)
        without = [
            everyone - torch.bincount(labels[self.folds == fold], minlength=num_classes)
            for fold in range(self.num_folds)
        ]
        self.counts = torch.stack([*without, everyone])
        self._index = NeighbourIndex(self.space.encode(plain), lists=lists)

    def search(self, queries: Rows, settings: VoteSettings, *, own: torch.Tensor | None = None) -> "NeighbourVotes":
        """Find the neighbours of queries, in blocks.

        Args:
            queries: [m, d].
            settings: how they will vote.
            own: int64 [m], the position of each query in the bank, which does not vote for itself; -1 if it has none.
        """
        asked = min(_enough(settings.count, self.num_folds), max(len(self.labels), 1))
        positions = torch.full((len(queries), asked), -1, dtype=torch.int32)
        similarities = torch.full((len(queries), asked), float("-inf"))
        for block, rows in row_blocks(queries):
            found = self._index.search(self.space.encode(rows), asked, own=None if own is None else own[block])
            positions[block], similarities[block] = found.positions.int(), found.values
        own = torch.full((len(queries),), -1) if own is None else own
        return NeighbourVotes(self, settings, positions, similarities, own)


@dataclass(frozen=True)
class NeighbourVotes:
    """The neighbours of m queries, and their vote.

    Attributes:
        bank: the labeled samples.
        settings: how they vote.
        positions: int32 [m, s], in the bank, the nearest first; -1 where there is none.
        similarities: float32 [m, s], cosines; -inf where there is none.
        own: int64 [m], the position of each query in the bank; -1 if it has none.
    """

    bank: VotingBank
    settings: VoteSettings
    positions: torch.Tensor
    similarities: torch.Tensor
    own: torch.Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def probabilities(
        self, prior: torch.Tensor, *, excluded: int | torch.Tensor = -1, rows: slice = slice(None)
    ) -> torch.Tensor:
        """Return the shares of the classes in the votes of some queries, float32 [b, k]; zeros where they abstain.

        They abstain where nobody votes, and where the best class does not lead the second by the margin.

        Args:
            prior: [k], of the pool.
            excluded: the fold that does not vote, for all queries or, int64 [b], for each (its own, where labeled
                samples are judged out of fold); -1, or a number that no fold has, leaves nobody out.
            rows: of the queries, b; blocks bound the memory.
        """
        bank, similarities, own = self.bank, self.similarities[rows], self.own[rows]
        num_classes = bank.counts.shape[1]
        if not len(bank.labels):
            return torch.zeros(len(similarities), num_classes)
        excluded = torch.as_tensor(excluded).expand(len(similarities))
        found = self.positions[rows].long().clamp(min=0)  # nobody is at similarity -inf: without weight
        voters = (bank.folds[found] != excluded[:, None]) | (excluded[:, None] < 0)
        voters &= voters.cumsum(1) <= self.settings.count
        similarities = similarities.masked_fill(~voters, float("-inf")).double()
        best = similarities.amax(1, keepdim=True).nan_to_num(neginf=0)
        # what the whole class would vote: a query of the bank is not part of it
        labels = bank.labels[found]
        left_out = torch.where(excluded < 0, bank.num_folds, excluded).clamp(max=bank.num_folds)
        size = bank.counts[left_out[:, None], labels]
        myself, fold = bank.labels[own.clamp(min=0)], bank.folds[own.clamp(min=0)]
        counted = (own >= 0) & ((fold != excluded) | (excluded < 0))
        size = size - (counted[:, None] & (labels == myself[:, None])).long()
        weights = ((similarities - best) / self.settings.temperature).exp()
        weights = weights * prior.double()[labels] / size.clamp_min(1)
        votes = torch.zeros(len(labels), num_classes, dtype=torch.float64).scatter_add_(1, labels, weights)
        shares = votes / votes.sum(1, keepdim=True).clamp_min(1e-300)
        top = shares.topk(min(2, num_classes), dim=1).values
        lead = top[:, 0] - (top[:, 1] if num_classes > 1 else 0)
        return torch.where((lead >= self.settings.margin)[:, None], shares, 0).float()


def _enough(count: int, num_folds: int) -> int:
    """Return how many neighbours to find so that, with a fold left out, `count` remain but for one in a thousand.

    Of a binomial number with mean m, three standard deviations are less than 3 sqrt(m / num_folds).
    """
    if num_folds < 2:
        return count
    kept = 1 - 1 / num_folds
    return round(count / kept + 3 * (count / num_folds) ** 0.5 / kept + 1)
